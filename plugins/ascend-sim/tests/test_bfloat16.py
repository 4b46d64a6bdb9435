"""bfloat16 at a model's border: ACL data type 27 (contracts/pyacl.md 1.7), two bytes, every bit as it was given."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import acl_sim as acl
from acl_sim import _om
from acl_sim._compute import Program, run_on_zeros, with_brain_arithmetic
from test_mdl import Client
from tiny_models import BIAS, F32, I64, WEIGHT, build, convert, run_atc

BF16 = TensorProto.BFLOAT16
BRAIN = ml_dtypes.bfloat16
EVERY_BIT_PATTERN = np.arange(1 << 16, dtype=np.uint16).reshape(16, -1)


@pytest.fixture(autouse=True)
def device(fresh_machine):
    assert acl.init() == 0
    assert acl.rt.set_device(0) == 0


def reversed_columns(columns):
    """y = the columns of x from last to first, and the number of the row beside it."""
    order = np.arange(columns)[::-1].copy()
    nodes = [helper.make_node("Gather", ["x", "order"], ["y"], axis=1), helper.make_node("Identity", ["i"], ["j"])]
    inputs = [("x", BF16, ["n", columns]), ("i", I64, ["n"])]
    return build(nodes, inputs, [("y", BF16, ["n", columns]), ("j", I64, ["n"])], [("order", order)])


@pytest.mark.parametrize("mode", _om.PRECISION_MODES)
def test_every_value_passes_through_every_gear_and_precision_mode(tmp_path, mode):
    columns = EVERY_BIT_PATTERN.shape[1]
    flags = [f"--input_shape=x:-1,{columns};i:-1", "--dynamic_batch_size=3,16"]
    client = Client(convert(tmp_path, reversed_columns(columns), *flags, precision=mode))
    for rows in (16, 3):
        bits = EVERY_BIT_PATTERN[:rows]
        assert client.set_batch(rows) == 0
        client.put(bits.view(BRAIN), np.arange(rows) + 2**40)
        assert client.execute() == 0
        np.testing.assert_array_equal(client.get(0, np.uint16), bits[:, ::-1])
        np.testing.assert_array_equal(client.get(1, np.int64), np.arange(rows) + 2**40)
    client.close()


def test_the_description_says_type_and_sizes(tmp_path):
    flags = ["--input_shape=x:-1,5;i:-1", "--dynamic_batch_size=2,8"]
    client = Client(convert(tmp_path, reversed_columns(5), *flags))
    assert acl.data_type_size(27) == 2
    assert acl.mdl.get_input_data_type(client.desc, 0) == acl.mdl.get_output_data_type(client.desc, 0) == 27
    assert (client.input_sizes[0], client.output_sizes[0]) == (8 * 5 * 2, 8 * 5 * 2)
    assert acl.mdl.get_input_dims(client.desc, 0)[0]["dims"] == [-1, 5]
    client.close()


def compute(tmp_path, model, inputs, precision, *flags):
    return Program(_om.read(convert(tmp_path, model, *flags, precision=precision))).run(inputs)


def to_single_and_back():
    """y = x @ w in single precision, between two Casts of the model's own."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=F32),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=BF16),
    ]
    return build(nodes, [("x", BF16, [5, 6])], [("y", BF16, [5, 4])], [("w", WEIGHT)])


X = np.random.default_rng(3).standard_normal((5, 6)).astype(BRAIN)


def test_what_the_model_computes_in_single_precision_is_rounded_as_the_mode_says(tmp_path):
    single = X.astype(np.float32)

    def half(values):
        return values.astype(np.float16).astype(np.float32)

    (kept,) = compute(tmp_path, to_single_and_back(), [X], "must_keep_origin_dtype")
    np.testing.assert_array_equal(kept, (single @ WEIGHT).astype(BRAIN))
    (rounded,) = compute(tmp_path, to_single_and_back(), [X], "force_fp16")
    np.testing.assert_array_equal(rounded, half(half(single) @ half(WEIGHT)).astype(BRAIN))
    (brain,) = compute(tmp_path, to_single_and_back(), [X], "allow_fp32_to_bf16")
    np.testing.assert_array_equal(brain, (single @ WEIGHT.astype(BRAIN).astype(np.float32)).astype(BRAIN))
    assert kept.dtype == rounded.dtype == brain.dtype == BRAIN
    assert len({result.tobytes() for result in (kept, rounded, brain)}) == 3


def brain(values):
    return values.astype(BRAIN).astype(np.float32)


@pytest.mark.parametrize("mode", ["force_fp16", "must_keep_origin_dtype", "allow_fp32_to_bf16"])
def test_operators_on_it_are_computed_in_single_precision_and_rounded(tmp_path, mode):
    """A product, a bias, an activation, and a comparison whose result is another type."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
        helper.make_node("Greater", ["s", "a"], ["g"]),
    ]
    weights = [("w", WEIGHT.astype(BRAIN)), ("b", BIAS.astype(BRAIN))]
    outputs = [("y", BF16, [5, 4]), ("g", TensorProto.BOOL, [5, 4])]
    model = build(nodes, [("x", BF16, [5, 6])], outputs, weights)
    y, g = compute(tmp_path, model, [X], mode)
    product = brain(X.astype(np.float32) @ brain(WEIGHT))
    total = brain(product + brain(BIAS))
    np.testing.assert_array_equal(y.astype(np.float32), np.maximum(total, 0))
    np.testing.assert_array_equal(g, total > product)


def test_operators_in_bodies_that_see_a_tensor_from_around(tmp_path):
    """Two branches over one name each, a tensor from around and a weight of the branch's own."""

    def branch(name, operator):
        third = helper.make_tensor(f"{name}_c", BF16, [1], np.array([1 / 3], BRAIN).view(np.uint16).tobytes(), raw=True)
        return helper.make_graph(
            [helper.make_node(operator, ["x", f"{name}_c"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", BF16, None)],
            [third],
        )

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("t", "Mul"), else_branch=branch("e", "Sub"))]
    inputs = [("c", TensorProto.BOOL, []), ("x", BF16, [5, 6])]
    model = build(nodes, inputs, [("y", BF16, [5, 6])])
    third = brain(np.float32(1 / 3))
    for condition, expected in ((True, X.astype(np.float32) * third), (False, X.astype(np.float32) - third)):
        (y,) = compute(tmp_path, model, [np.array(condition), X], "force_fp16")
        np.testing.assert_array_equal(y.astype(np.float32), brain(expected))


def test_names_that_are_taken(tmp_path):
    nodes = [helper.make_node("Neg", ["x"], ["x__single"]), helper.make_node("Add", ["x", "x__single"], ["y"])]
    model = build(nodes, [("x", BF16, [5, 6])], [("y", BF16, [5, 6]), ("x__single", BF16, [5, 6])])
    y, negative = compute(tmp_path, model, [X], "force_fp16")
    assert not y.any()
    np.testing.assert_array_equal(negative, -X)


def test_operators_of_the_models_own_functions():
    nodes = [
        helper.make_node("Cast", ["u"], ["b"], to=BF16),
        helper.make_node("Mul", ["b", "b"], ["q"]),
        helper.make_node("Cast", ["q"], ["v"], to=F32),
    ]
    square = helper.make_function("own", "Square", ["u"], ["v"], nodes, [helper.make_opsetid("", 17)])
    model = build([helper.make_node("Square", ["x"], ["y"], domain="own")], [("x", F32, [5, 6])], [("y", F32, [5, 6])])
    model.functions.append(square)
    model.opset_import.append(helper.make_opsetid("own", 1))
    x = X.astype(np.float32) / 3
    # atc takes no operators of other domains, but a file may hold them.
    session = ort.InferenceSession(with_brain_arithmetic(model).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], brain(brain(x) * brain(x)))


@pytest.mark.parametrize("shape", [[], [0, 3], [1]])
def test_scalars_and_empty_tensors(tmp_path, shape):
    model = build([helper.make_node("Identity", ["x"], ["y"])], [("x", BF16, shape)], [("y", BF16, shape)])
    x = np.full(shape, 1.5, BRAIN)
    (y,) = compute(tmp_path, model, [x], "force_fp16")
    assert (y.dtype, y.shape) == (BRAIN, tuple(shape))
    np.testing.assert_array_equal(y, x)


def test_shapes_that_only_a_run_tells():
    model = build([helper.make_node("Exp", ["x"], ["y"])], [("x", BF16, ["n", 3])], [("y", BF16, ["n", 3])])
    assert run_on_zeros(model, [(4, 3)]) == [(4, 3)]


def test_it_is_no_input_for_aipp(tmp_path):
    shape = [1, 3, 4, 4]
    model = build([helper.make_node("Identity", ["x"], ["y"])], [("x", BF16, shape)], [("y", BF16, shape)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "aipp.cfg").write_text("aipp_op { aipp_mode: static input_format: RGB888_U8 }")
    code, out, _ = run_atc(
        f"--model={tmp_path / 'm.onnx'}", "--framework=5", f"--output={tmp_path / 'm'}", "--soc_version=Ascend310P3",
        f"--insert_op_conf={tmp_path / 'aipp.cfg'}",
    )  # fmt: skip
    assert code != 0
    assert "E10001" in out
    assert "'x' must be a floating-point NCHW input" in out
