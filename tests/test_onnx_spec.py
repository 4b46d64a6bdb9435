"""Which axis carries rows: what is read from ONNX models, what is refused, and what overrides do."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from anybatch import InputError, ModelError, read_model, read_model_spec

FLOAT = TensorProto.FLOAT


def model(inputs, outputs, *, dtype=FLOAT, weights=()):
    """Return a model that is all signature; a node that makes the outputs is not needed to read it."""
    values = [[helper.make_tensor_value_info(name, dtype, dims) for name, dims in side.items()] for side in (inputs, outputs)]
    return helper.make_model(helper.make_graph([], "g", *values, [numpy_helper.from_array(w, n) for n, w in weights]))


def axes(spec):
    return {t.name: (t.batch_axis, t.rows_per_row) for t in (*spec.inputs, *spec.outputs)}


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ({"x": ["N", 3]}, {"y": ["N"]}, {"x": (0, 1), "y": (0, 1)}),
        ({"x": ["s0", 3]}, {"y": ["s0"]}, {"x": (0, 1), "y": (0, 1)}),
        ({"x": [None, 3]}, {"y": [None]}, {"x": (0, 1), "y": (0, 1)}),
        ({"x": ["?", 3]}, {"y": ["?"]}, {"x": (0, 1), "y": (0, 1)}),
        ({"x": [3, "batch"]}, {"y": ["batch", 2]}, {"x": (1, 1), "y": (0, 1)}),
        ({"x": ["seq", "batch_size", 8]}, {"y": ["batch_size", 8]}, {"x": (1, 1), "y": (0, 1)}),
        ({"x": ["N", 3], "t": [5, 5], "s": []}, {"y": ["N"]}, {"x": (0, 1), "t": (None, 1), "s": (None, 1), "y": (0, 1)}),
        ({"x": ["batch", 3], "boxes": ["num", 4]}, {"y": ["batch"]}, {"x": (0, 1), "boxes": (None, 1), "y": (0, 1)}),
        ({"x": ["N", 3]}, {"y": ["12*N", 2], "z": ["N * 4"]}, {"x": (0, 1), "y": (0, 12), "z": (0, 4)}),
        ({"x": ["N", 3]}, {"y": [7], "z": ["N"]}, {"x": (0, 1), "y": (None, 1), "z": (0, 1)}),
        ({"x": ["N", 3]}, {"y": ["unk__7", 2]}, {"x": (0, 1), "y": (0, 1)}),
        ({"x": [8, 3]}, {"y": [8], "z": [5]}, {"x": (0, 1), "y": (0, 1), "z": (None, 1)}),
        ({"x": [1, "seq"]}, {"y": [1, "seq", 2]}, {"x": (0, 1), "y": (0, 1)}),
        ({"x": ["N", 3]}, {"y": []}, {"x": (0, 1), "y": (None, 1)}),
    ],
)
def test_axes_are_found(inputs, outputs, expected):
    assert axes(read_model_spec(model(inputs, outputs))) == expected


def test_free_dimensions_keep_their_names():
    spec = read_model_spec(model({"x": ["N", "tokens", None]}, {"y": ["N", "tokens"]}))
    assert [str(t) for t in (*spec.inputs, *spec.outputs)] == ["float32 [rows, tokens, ?]", "float32 [rows, tokens]"]


def test_initializers_listed_as_inputs_are_not_inputs():
    spec = read_model_spec(model({"x": ["N", 3], "w": [3, 3]}, {"y": ["N"]}, weights=[("w", np.ones((3, 3), np.float32))]))
    assert [tensor.name for tensor in spec.inputs] == ["x"]


def test_overrides():
    several = model({"a": ["A", 3], "b": ["B", 3]}, {"y": ["A", 3]})
    spec = read_model_spec(several, batch_axis={"a": 0, "b": None})
    assert axes(spec) == {"a": (0, 1), "b": (None, 1), "y": (0, 1)}
    heads = model({"x": ["N", 3]}, {"y": ["unk", 3]})
    assert axes(read_model_spec(heads, batch_axis={"y": 0}, rows_per_row={"y": 12}))["y"] == (0, 12)
    fixed = model({"x": [8, 3], "t": [5, 5]}, {"y": [8]})
    assert axes(read_model_spec(fixed, batch_axis={"t": None})) == {"x": (0, 1), "t": (None, 1), "y": (0, 1)}


def test_dtypes():
    for proto, dtype in ((TensorProto.BFLOAT16, ml_dtypes.bfloat16), (TensorProto.BOOL, np.bool_), (TensorProto.INT8, np.int8)):
        spec = read_model_spec(model({"x": ["N"]}, {"y": ["N"]}, dtype=proto))
        assert spec.inputs[0].dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: model({"x": ["P", 3], "z": ["Q", 3]}, {"y": ["P"]}),
            "several free dimensions .*batch_axis={'x': 0, 'z': None}",
        ),
        (
            lambda: model({"x": ["batch", "n"]}, {"y": ["batch"]}),
            "several free dimensions could carry rows: 'x' \\[batch, n\\]",
        ),
        (lambda: model({"x": [8, 3], "t": [5, 5]}, {"y": [8]}), "the batch size is fixed, but which is it\\? .*'t': None"),
        (
            lambda: model({"x": []}, {"y": []}),
            "no input has a batch axis, so there are no rows to batch; inputs are 'x' \\[\\]",
        ),
        (lambda: model({}, {"y": [1]}), "no input has a batch axis"),
        (lambda: model({"x": ["N"]}, {"y": ["N"]}, dtype=TensorProto.STRING), "'x': string tensors are not supported"),
        (lambda: model({"x": ["N"]}, {"y": ["N"]}, dtype=99), "'x': element type 99 is unknown"),
    ],
)
def test_each_refusal(make, message):
    with pytest.raises(ModelError, match=message):
        read_model_spec(make())


def test_a_sequence_is_no_tensor():
    graph = model({"x": ["N"]}, {"y": ["N"]})
    graph.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", FLOAT, ["N"]))
    with pytest.raises(ModelError, match="'x': expected a tensor, got sequence_type"):
        read_model_spec(graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_axis": {"nothing": 0}}, "batch_axis names 'nothing', which is no input or output"),
        ({"rows_per_row": {"nothing": 2}}, "rows_per_row names 'nothing'"),
        ({"batch_axis": "x"}, "expected batch_axis to map tensor names to axes, .* got 'x'"),
        ({"batch_axis": {"x": True}}, "expected batch_axis to map tensor names to axes"),
        ({"rows_per_row": {"x": "a"}}, "expected rows_per_row to map tensor names to counts"),
        ({"batch_axis": {"x": 2}}, "batch_axis of 'x': expected an axis in 0..1, got 2"),
    ],
)
def test_bad_overrides(options, message):
    with pytest.raises(InputError, match=message):
        read_model_spec(model({"x": ["N", 3]}, {"y": ["N"]}), **options)


def test_read_model_takes_every_form_and_says_what_is_none(tmp_path):
    good = model({"x": ["N"]}, {"y": ["N"]})
    path = tmp_path / "good.onnx"
    path.write_bytes(good.SerializeToString())
    assert read_model(good) is good
    assert read_model(path) == read_model(good.SerializeToString()) == good
    path.write_bytes(b"\x00nonsense")
    with pytest.raises(ModelError, match="good.onnx' is no ONNX model: "):
        read_model(path)
    with pytest.raises(ModelError, match="the bytes are no ONNX model: "):
        read_model(b"\x00nonsense")
