"""`free_batch`, as backends that compile use it."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import anybatch
from anybatch import InputError, ModelError, free_batch


def parse(graph):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}')


FIXED = "g (float[4, 3] x) => (float[4, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }"
SOFTMAX = "g (float[4, 3] x) => (float[4, 3] y) { y = Softmax<axis = 0>(x) }"
SIDEWAYS = "g (float[3, 4] x) => (float[3, 4] y) { y = Neg(x) }"


def test_a_freed_model_takes_any_number_of_rows(tmp_path):
    model = parse(FIXED)
    before = model.SerializeToString()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    for source in (model, before, path):
        freed = free_batch(source)
        session = onnxruntime.InferenceSession(freed.SerializeToString(), providers=["CPUExecutionProvider"])
        x = np.arange(21, dtype=np.float32).reshape(7, 3)
        weights = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weights)
    assert model.SerializeToString() == before


def test_what_is_said_about_axes_counts():
    freed = free_batch(parse(SIDEWAYS), batch_axis={"x": 1, "y": 1})
    dims = freed.graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_value, dims[1].dim_param) == (3, "rows")


def test_a_model_whose_rows_influence_one_another_is_refused():
    with pytest.raises(ModelError, match="rows influence one another"):
        free_batch(parse(SOFTMAX))


def test_a_free_model_is_refused():
    with pytest.raises(ModelError, match="free already"):
        free_batch(parse(FIXED.replace("4, 3", "n, 3").replace("4, 2", "n, 2")))


def test_overrides_that_do_not_fit():
    with pytest.raises(InputError, match="batch_axis names 'z'"):
        free_batch(parse(FIXED), batch_axis={"z": 0})


def test_external_data_stays_where_it_is(tmp_path):
    model = parse(FIXED)
    path = tmp_path / "model.onnx"
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights), "w"))
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    freed = free_batch(path)
    assert anybatch.external_files(freed) == ["w.bin"]
