"""The kit's own parts: models against two runtimes that know ONNX, and what the strategies promise."""

import subprocess
import sys
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import find, given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from anybatch import AnyBatch, Array, Batching, Gears, Launch, MultipleOf, TensorSpec
from anybatch.testing import (
    MODELS,
    PROBES,
    ReferenceModel,
    batch_sizes,
    batchings,
    cost_tables,
    gears_of,
    launches_that_hurt,
    request_sizes,
    sizes_that_hurt,
)
from anybatch.testing.models import BY_DTYPE

each_model = pytest.mark.parametrize("model", [*MODELS, *PROBES], ids=lambda model: model.name)


def assert_close(tensor: TensorSpec, got: Array, expected: Array) -> None:
    assert got.dtype == expected.dtype == tensor.dtype
    assert got.shape == expected.shape
    if tensor.dtype == np.float32:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, expected)


@each_model
def test_a_model_is_valid_and_old_enough_for_every_runtime(model: ReferenceModel) -> None:
    proto = model.proto()

    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, [(o.domain, o.version) for o in proto.opset_import]) == (9, [("", 17)])
    assert proto.graph.name == model.name


@each_model
def test_a_model_declares_what_its_spec_says(model: ReferenceModel) -> None:
    graph = model.proto().graph

    for tensors, infos in ((model.spec.inputs, graph.input), (model.spec.outputs, graph.output)):
        for tensor, info in zip(tensors, infos, strict=True):
            declared = info.type.tensor_type
            assert info.name == tensor.name
            assert onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type) == tensor.dtype
            for axis, (size, dim) in enumerate(zip(tensor.shape, declared.shape.dim, strict=True)):
                rows = "rows" if tensor.rows_per_row == 1 else "rows_times_3"
                assert (dim.dim_param or dim.dim_value) == (rows if axis == tensor.batch_axis else size)


@each_model
def test_no_weight_is_constant(model: ReferenceModel) -> None:
    for initializer in model.proto().graph.initializer:
        weights = onnx.numpy_helper.to_array(initializer)
        if weights.dtype == np.float32:
            assert np.unique(weights).size > 0.99 * weights.size


@each_model
@pytest.mark.parametrize("rows", [1, 5])
def test_the_reference_agrees_with_the_definition_of_onnx(model: ReferenceModel, rows: int) -> None:
    inputs = model.random_inputs(np.random.default_rng(rows), rows)

    results = ReferenceEvaluator(model.proto()).run(None, inputs)

    expected = model.reference(inputs)
    assert list(expected) == [tensor.name for tensor in model.spec.outputs]
    for tensor, got in zip(model.spec.outputs, results, strict=True):
        assert_close(tensor, np.asarray(got), expected[tensor.name])


@each_model
@pytest.mark.parametrize("rows", [1, 5])
def test_the_reference_agrees_with_onnxruntime(model: ReferenceModel, rows: int) -> None:
    inputs = model.random_inputs(np.random.default_rng(rows), rows)
    session = onnxruntime.InferenceSession(model.onnx_bytes, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort_value(array))
    for tensor in model.spec.outputs:
        binding.bind_output(tensor.name)

    session.run_with_iobinding(binding)

    expected = model.reference(inputs)
    for tensor, value in zip(model.spec.outputs, binding.get_outputs(), strict=True):
        if tensor.dtype == ml_dtypes.bfloat16:  # which no OrtValue hands over: ask for its type and shape alone
            assert (value.data_type(), value.shape()) == ("tensor(bfloat16)", list(expected[tensor.name].shape))
        else:
            assert_close(tensor, value.numpy(), expected[tensor.name])


def ort_value(array: Array) -> onnxruntime.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        bits = array.view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


@each_model
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_the_reference_keeps_to_the_spec_at_any_size(model: ReferenceModel, rows: int) -> None:
    inputs = model.random_inputs(np.random.default_rng(rows), rows)

    results = model.reference(inputs)

    for tensors, arrays in ((model.spec.inputs, inputs), (model.spec.outputs, results)):
        for tensor in tensors:
            assert (arrays[tensor.name].shape, arrays[tensor.name].dtype) == (tensor.shape_for(rows), tensor.dtype)
    for result in results.values():
        assert not any(np.shares_memory(result, array) for array in inputs.values())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_rows_do_not_depend_on_one_another(model: ReferenceModel) -> None:
    inputs = model.random_inputs(np.random.default_rng(0), 3)
    whole = model.reference(inputs)

    for row in range(3):
        alone = model.reference(rows_of(model.spec.inputs, inputs, row))
        for tensor in model.spec.outputs:
            if tensor.batch_axis is not None:
                assert_close(tensor, alone[tensor.name], tensor.rows_of(whole[tensor.name], row, row + 1))


def rows_of(tensors: tuple[TensorSpec, ...], arrays: Mapping[str, Array], row: int) -> dict[str, Array]:
    return {t.name: arrays[t.name] if t.batch_axis is None else t.rows_of(arrays[t.name], row, row + 1) for t in tensors}


@each_model
def test_rows_of_a_request_differ(model: ReferenceModel) -> None:
    inputs = model.random_inputs(np.random.default_rng(0), 17)
    results = model.reference(inputs)

    for tensor in model.spec.outputs:
        if tensor.batch_axis is not None:
            rows = {tensor.rows_of(results[tensor.name], row, row + 1).tobytes() for row in range(17)}
            assert len(rows) == 17
    again = model.random_inputs(np.random.default_rng(1), 17)
    assert not any(np.array_equal(inputs[name], again[name]) for name in inputs)


@pytest.mark.parametrize("model", PROBES, ids=lambda model: model.name)
def test_the_coupled_models_show_what_padding_holds(model: ReferenceModel) -> None:
    real = model.random_inputs(np.random.default_rng(0), 2)["x"]

    def first_rows(padding: float) -> Array:
        return model.reference({"x": np.concatenate([real, np.full_like(real, padding)])})["y"][:2]

    np.testing.assert_allclose(first_rows(0), model.reference({"x": real})["y"], rtol=1e-6)
    assert (np.abs(first_rows(0) - first_rows(1)) > 1).all()
    assert np.isnan(first_rows(np.nan)).all()


def test_integers_come_from_the_whole_range() -> None:
    for name in ("int8", "uint8"):
        values = BY_DTYPE[name].random_inputs(np.random.default_rng(0), 8)["x"]
        assert (values.min(), values.max()) == (np.iinfo(name).min, np.iinfo(name).max)
    assert np.abs(BY_DTYPE["int64"].random_inputs(np.random.default_rng(0), 8)["x"]).max() > 2**62


def test_names_are_unique_and_dtypes_complete() -> None:
    assert len({model.name for model in (*MODELS, *PROBES)}) == len(MODELS) + len(PROBES)
    assert set(BY_DTYPE) == {"float32", "float16", "bfloat16", "float64", "int32", "int64", "int8", "uint8", "bool"}


@pytest.mark.parametrize(
    ("batching", "sizes", "launches"),
    [
        (Gears((4, 1)), [0, 1, 2, 3, 4, 5, 9], [(1, 1), (4, 4)]),
        (Gears((1, 8), pads=True), [0, 1, 2, 7, 8, 9, 17], [(1, 1), (8, 1), (8, 4), (8, 7), (8, 8)]),
        (MultipleOf(2), [0, 1, 2, 3, 4, 5, 9], [(2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4)]),
        (AnyBatch(), [0, 1, 2, 3, 4, 5, 7, 8, 9, 17], [(1, 1), (4, 4), (8, 8)]),
    ],
    ids=str,
)
def test_the_sizes_that_hurt(batching: Batching, sizes: list[int], launches: list[tuple[int, int]]) -> None:
    assert sizes_that_hurt(batching) == sizes
    assert launches_that_hurt(batching) == [Launch(*launch) for launch in launches]


@given(st.data())
def test_strategies_keep_their_bounds(data: st.DataObject) -> None:
    sizes = data.draw(batch_sizes(max_size=9, max_count=3))
    assert 1 <= len(sizes) <= 3
    assert sorted(set(sizes)) == list(sizes)
    assert 1 <= sizes[0] <= sizes[-1] <= 9
    costs = data.draw(cost_tables(sizes))
    assert sorted(costs) == list(sizes)
    assert all(0.01 <= cost <= 100 for cost in costs.values())
    batching = data.draw(batchings(max_size=9))
    assert 0 <= data.draw(request_sizes(batching)) <= 3 * gears_of(batching)[-1]


@pytest.mark.parametrize("kind", [Gears, MultipleOf, AnyBatch])
def test_batchings_of_every_kind_are_generated(kind: type[Batching]) -> None:
    assert isinstance(find(batchings(), lambda batching: isinstance(batching, kind)), kind)


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
def test_the_extra_is_named_where_it_is_missing(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import anybatch.testing"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert "ImportError: anybatch.testing needs pytest and hypothesis" in result.stderr
    assert "pip install 'anybatch[testing]'" in result.stderr
