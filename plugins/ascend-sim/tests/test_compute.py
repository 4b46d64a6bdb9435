from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from acl_sim import _om
from acl_sim._compute import ComputeError, Program, check_bounds, infer, load_graph, with_precision
from acl_sim._om import OmDataError
from tiny_models import BIAS, F16, F32, I32, I64, WEIGHT, build, convert, dense, run_atc

X = np.random.default_rng(11).standard_normal((5, 6)).astype(np.float32)


def through(array, dtype):
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(dtype).astype(np.float32)


def compute(tmp_path, model, inputs, precision, *flags):
    content = _om.read(convert(tmp_path, model, *flags, precision=precision))
    return Program(content).run(inputs)


def dense_at(tmp_path, precision):
    return compute(tmp_path, dense(), [X], precision, "--input_shape=x:5,6")[0]


def test_modes_that_change_nothing(tmp_path):
    for mode in ("force_fp32", "must_keep_origin_dtype"):
        np.testing.assert_allclose(dense_at(tmp_path, mode), X @ WEIGHT + BIAS, rtol=1e-6, atol=1e-6)


def test_force_fp16_rounds_inputs_weights_and_every_result(tmp_path):
    half = np.float16
    product = through(through(X, half) @ through(WEIGHT, half), half)
    np.testing.assert_array_equal(dense_at(tmp_path, "force_fp16"), through(product + through(BIAS, half), half))


def test_cube_modes_round_matrix_operators_only(tmp_path):
    half = np.float16
    product = through(X, half) @ through(WEIGHT, half)
    np.testing.assert_allclose(dense_at(tmp_path, "cube_fp16in_fp32out"), product + BIAS, rtol=1e-6, atol=1e-6)
    for mode in ("allow_mix_precision", "allow_mix_precision_fp16", "allow_fp32_to_fp16"):
        np.testing.assert_array_equal(dense_at(tmp_path, mode), through(product, half) + BIAS)


@pytest.mark.parametrize("mode", ["allow_mix_precision_bf16", "allow_fp32_to_bf16"])
def test_bfloat16_modes(tmp_path, mode):
    brain = ml_dtypes.bfloat16
    product = through(through(X, brain) @ through(WEIGHT, brain), brain)
    np.testing.assert_allclose(dense_at(tmp_path, mode), product + BIAS, rtol=1e-2, atol=1e-2)
    assert not np.array_equal(dense_at(tmp_path, mode), dense_at(tmp_path, "allow_mix_precision"))


def test_fp16_overflows_to_infinity(tmp_path):
    model = build([helper.make_node("Add", ["x", "x"], ["y"])], [("x", F32, [2])], [("y", F32, [2])])
    (y,) = compute(tmp_path, model, [np.array([40000, 1], np.float32)], "force_fp16")
    np.testing.assert_array_equal(y, [np.inf, 2])


def test_types_at_the_border_stay(tmp_path):
    nodes = [helper.make_node("Cast", ["h"], ["f"], to=F32), helper.make_node("Cast", ["i"], ["g"], to=F32)]
    nodes += [helper.make_node("Add", ["f", "g"], ["y"]), helper.make_node("Identity", ["i"], ["j"])]
    model = build(nodes, [("h", F16, [2]), ("i", I64, [2])], [("y", F32, [2]), ("j", I64, [2])])
    y, j = compute(tmp_path, model, [np.ones(2, np.float16), np.array([2**40, 3])], "force_fp16")
    assert (y.dtype, j.dtype) == (np.float32, np.int64)
    assert j.tolist() == [2**40, 3], "integers are never rounded"


def test_arithmetic_on_shapes_is_not_rounded(tmp_path):
    """4097 rows: 4097 is no half-precision number, and a shape computed in floats must not become 4096."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=F32),
        helper.make_node("Mul", ["f", "one"], ["g"]),
        helper.make_node("Cast", ["g"], ["t"], to=I64),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    model = build(nodes, [("x", F32, [4097])], [("y", F32, [4097])], [("one", np.ones(1, np.float32))])
    (y,) = compute(tmp_path, model, [np.ones(4097, np.float32)], "force_fp16")
    assert y.shape == (4097,)


def test_scales_of_a_resize_are_not_rounded(tmp_path):
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")]
    scales = np.array([1, 1, 4097 / 4096, 1], np.float32)
    model = build(nodes, [("x", F32, [1, 1, 4096, 1])], [("y", F32, [1, 1, 4097, 1])], [("scales", scales)])
    (y,) = compute(tmp_path, model, [np.ones((1, 1, 4096, 1), np.float32)], "force_fp16")
    assert y.shape == (1, 1, 4097, 1)


def test_a_weight_that_two_operators_share_and_a_constant_node(tmp_path):
    constant = helper.make_tensor("c", F32, [4], [0.1, 0.2, 0.3, 0.4])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=constant),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["s"]),
        helper.make_node("Add", ["s", "k"], ["y"]),
    ]
    model = build(nodes, [("x", F32, [5, 6])], [("y", F32, [5, 4])], [("w", WEIGHT)])
    half = np.float16
    product = through(through(X, half) @ through(WEIGHT, half), half)
    k = through(np.array([0.1, 0.2, 0.3, 0.4], np.float32), half)
    (y,) = compute(tmp_path, model, [X], "force_fp16")
    np.testing.assert_array_equal(y, through(through(product + product, half) + k, half))
    rounded = with_precision(model, "force_fp16")
    assert sum("w__rounded" in tensor.name for tensor in rounded.graph.initializer) == 1


THIRD = np.float32(1 / 3)  # no half-precision number, nor is any product with it below


def half(array):
    return through(array, np.float16)


def body(name, nodes, inputs, outputs, weights=()):
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(n, kind, None if kind == F32 else []) for n, kind in inputs],
        [helper.make_tensor_value_info(n, kind, None if kind == F32 else []) for n, kind in outputs],
        [helper.make_tensor(n, F32, [1], [value]) for n, value in weights],
    )


BOOL = onnx.TensorProto.BOOL
XS = np.array([1.1, 2.3, 3.7], np.float32)


def test_branches_are_rounded_inside(tmp_path):
    """Two operators in each branch, a weight of the branch's own and one from around; both branches use the same names."""

    def branch(name, factor):
        nodes = [helper.make_node("Mul", ["x", "f"], ["m"]), helper.make_node("Add", ["m", "third"], ["out"])]
        return body(name, nodes, [], [("out", F32)], [("f", factor)])

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("p", 2.0003), else_branch=branch("q", 0.1))]
    model = build(nodes, [("c", BOOL, []), ("x", F32, [3])], [("y", F32, [3])], [("third", np.array([THIRD]))])
    for yes, factor in ((True, 2.0003), (False, 0.1)):
        (y,) = compute(tmp_path, model, [np.array(yes), XS], "force_fp16")
        wanted = half(half(half(XS) * half(np.float32(factor))) + half(THIRD))
        np.testing.assert_array_equal(y, wanted)
        assert not np.array_equal(wanted, half(XS * np.float32(factor) + THIRD)), "rounding inside must show"
    (y,) = compute(tmp_path, model, [np.array(True), XS], "force_fp32")
    np.testing.assert_array_equal(y, XS * np.float32(2.0003) + THIRD)


def loop(nodes):
    """y = v after three turns of the nodes: v_in -> v_out, beginning with x."""
    turn = body(
        "turn",
        [*nodes, helper.make_node("Identity", ["go"], ["goes"])],
        [("i", I64), ("go", BOOL), ("v_in", F32)],
        [("goes", BOOL), ("v_out", F32)],
    )
    weights = [("turns", np.array(3)), ("third", np.array([THIRD])), ("square", np.eye(3, dtype=np.float32) * THIRD)]
    return build(
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=turn)], [("x", F32, [3])], [("y", F32, [3])], weights
    )


def test_a_loop_is_rounded_in_each_turn(tmp_path):
    model = loop([helper.make_node("Mul", ["v_in", "third"], ["m"]), helper.make_node("Add", ["m", "x"], ["v_out"])])
    (y,) = compute(tmp_path, model, [XS], "force_fp16")
    v = half(XS)
    for _ in range(3):
        v = half(half(v * half(THIRD)) + half(XS))
    np.testing.assert_array_equal(y, v)


@pytest.mark.parametrize(("mode", "results"), [("cube_fp16in_fp32out", False), ("allow_mix_precision", True)])
def test_matrix_operators_in_a_loop(tmp_path, mode, results):
    """The Loop itself is no matrix operator, the MatMul in it is; the Mul before it stays as it is."""
    model = loop([helper.make_node("Mul", ["v_in", "third"], ["m"]), helper.make_node("MatMul", ["m", "square"], ["v_out"])])
    (y,) = compute(tmp_path, model, [XS], mode)
    v = XS
    for _ in range(3):
        v = half(v * THIRD) * half(THIRD)
        v = half(v) if results else v
    np.testing.assert_array_equal(y, v)


def test_a_branch_in_a_loop(tmp_path):
    """Three levels: the innermost sees the carried value, its own Constant and a weight of the model."""
    inner = [
        helper.make_node("Constant", [], ["k"], value=helper.make_tensor("k", F32, [1], [0.7])),
        helper.make_node("Mul", ["v_in", "third"], ["m"]),
        helper.make_node("Add", ["m", "k"], ["out"]),
    ]
    same = body("same", [helper.make_node("Identity", ["v_in"], ["out"])], [], [("out", F32)])
    model = loop(
        [helper.make_node("If", ["go"], ["v_out"], then_branch=body("b", inner, [], [("out", F32)]), else_branch=same)]
    )
    (y,) = compute(tmp_path, model, [XS], "force_fp16")
    v = half(XS)
    for _ in range(3):
        v = half(half(v * half(THIRD)) + half(np.float32(0.7)))
    np.testing.assert_array_equal(y, v)


def test_a_scan_is_rounded_inside(tmp_path):
    nodes = [
        helper.make_node("Mul", ["a", "third"], ["m"]),
        helper.make_node("Add", ["s", "m"], ["s_out"]),
        helper.make_node("Identity", ["s_out"], ["each"]),
    ]
    step = body("step", nodes, [("s", F32), ("a", F32)], [("s_out", F32), ("each", F32)])
    scan = helper.make_node("Scan", ["s0", "x"], ["y", "all"], body=step, num_scan_inputs=1)
    weights = [("third", np.array([THIRD])), ("s0", np.zeros(1, np.float32))]
    model = build([scan], [("x", F32, [3, 1])], [("y", F32, [1]), ("all", F32, [3, 1])], weights)
    y, each = compute(tmp_path, model, [XS[:, None]], "force_fp16")
    s, wanted = np.zeros(1, np.float32), []
    for a in XS[:, None]:
        s = half(s + half(half(a) * half(THIRD)))
        wanted.append(s)
    np.testing.assert_array_equal(each, np.stack(wanted))
    np.testing.assert_array_equal(y, s)


def test_arithmetic_on_shapes_in_a_branch_is_not_rounded(tmp_path):
    def branch(name):
        nodes = [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Cast", ["s"], ["f"], to=F32),
            helper.make_node("Mul", ["f", "one"], ["g"]),
            helper.make_node("Cast", ["g"], ["t"], to=I64),
            helper.make_node("Reshape", ["x", "t"], ["out"]),
        ]
        return body(name, nodes, [], [("out", F32)])

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("p"), else_branch=branch("q"))]
    inputs = [("c", BOOL, []), ("x", F32, [4097])]
    model = build(nodes, inputs, [("y", F32, [4097])], [("one", np.ones(1, np.float32))])
    (y,) = compute(tmp_path, model, [np.array(True), np.ones(4097, np.float32)], "force_fp16")
    assert y.shape == (4097,)


def with_function():
    """y = 2 calls of f(v) = v * third + v, third a Constant in it."""
    nodes = [
        helper.make_node("Constant", [], ["third"], value=helper.make_tensor("third", F32, [1], [THIRD])),
        helper.make_node("Mul", ["v", "third"], ["m"]),
        helper.make_node("Add", ["m", "v"], ["r"]),
    ]
    function = helper.make_function("own", "f", ["v"], ["r"], nodes, [helper.make_opsetid("", 17)])
    calls = [helper.make_node("f", ["x"], ["h"], domain="own"), helper.make_node("f", ["h"], ["y"], domain="own")]
    model = build(calls, [("x", F32, [3])], [("y", F32, [3])])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def test_a_models_own_functions_are_rounded_inside(tmp_path):
    (y,) = compute(tmp_path, with_function(), [XS], "force_fp16")
    v = half(XS)
    for _ in range(2):
        v = half(half(v * half(THIRD)) + v)
    np.testing.assert_array_equal(y, v)
    content = _om.read(convert(tmp_path, with_function(), "--out_nodes=h"))
    assert [node.op_type for node in onnx.load_model_from_string(content.graph).graph.node] == ["Constant", "Mul", "Add"]
    assert content.flops == (3 + 3 + 1,), "the Constant counts as one"


def test_functions_in_a_file_that_the_converter_did_not_write():
    rounded = with_precision(with_function(), "force_fp16")
    assert not rounded.functions
    assert sum(node.op_type == "Cast" for node in rounded.graph.node) >= 8


def test_runs_are_repeatable_and_independent_of_the_gear(tmp_path):
    flags = ("--input_shape=x:-1,6", "--dynamic_batch_size=1,5")
    content = _om.read(convert(tmp_path, dense(), *flags, precision="force_fp16"))
    program = Program(content)
    whole = program.run([X])[0]
    np.testing.assert_array_equal(program.run([X])[0], whole)
    np.testing.assert_array_equal(np.concatenate([program.run([X[i : i + 1]])[0] for i in range(5)]), whole)


def test_a_failing_graph_is_a_compute_error(tmp_path):
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"])]
    content = _om.read(convert(tmp_path, build(nodes, [("x", F32, [3]), ("i", I32, [1])], [("y", F32, [1])])))
    with pytest.raises(ComputeError):
        Program(content).run([np.ones(3, np.float32), np.array([7], np.int32)])
    with pytest.raises(ComputeError):
        Program(dataclasses.replace(content)).run([np.ones(3, np.float32)])


def test_inference_counts_operations():
    inferred = infer(dense(), [(5, 6)])
    assert inferred.outputs == [(5, 4)]
    assert inferred.flops == 2 * 5 * 6 * 4 + 5 * 4
    assert inferred.largest_bytes == 4 * 5 * 6


def chain(count, again=()):
    """`count` functions, each calls the next one twice, the last one Neg; `again` are calls added to the last."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = build([helper.make_node("f0", ["x"], ["y"], domain="own")], [("x", F32, [3])], [("y", F32, [3])])
    for number in range(count):
        operator, domain = (f"f{number + 1}", "own") if number + 1 < count else ("Neg", "")
        nodes = [helper.make_node(operator, [a], [b], domain=domain) for a, b in (("v", "t"), ("t", "r"))]
        nodes += [helper.make_node(name, ["v"], [f"w{name}"], domain="own") for name in again if number + 1 == count]
        model.functions.append(helper.make_function("own", f"f{number}", ["v"], ["r"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def test_functions_that_unfold_without_bounds():
    check_bounds(chain(15))
    with pytest.raises(OmDataError, match="unfold to 65536 nodes, the limit is 50000"):
        check_bounds(chain(16))
    with pytest.raises(OmDataError, match="unfold to"):
        load_graph(chain(40).SerializeToString())
    for again in (["f0"], ["f1"], ["f2"]):
        with pytest.raises(OmDataError, match="calls itself"):
            load_graph(chain(3, again).SerializeToString())


def nested(depth, inside=("", "Neg")):
    """An If in an If, so many; in the innermost an operator."""
    domain, operator = inside
    inner = body("b", [helper.make_node(operator, ["x"], ["c"], domain=domain)], [], [("c", F32)])
    for _ in range(depth - 1):
        inner = body("b", [helper.make_node("If", ["yes"], ["c"], then_branch=inner, else_branch=inner)], [], [("c", F32)])
    return helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)


def test_bodies_nested_too_deeply(tmp_path):
    def model(depth, **inside):
        weights = [("yes", np.array(True))]
        return build([nested(depth, **inside)], [("x", F32, [3])], [("y", F32, [3])], weights)

    (y,) = compute(tmp_path, model(3), [XS], "force_fp16")
    np.testing.assert_array_equal(y, -half(XS))
    check_bounds(model(10))
    with pytest.raises(OmDataError, match="nested 11 levels deep, the limit is 10"):
        load_graph(model(11).SerializeToString())
    # Six levels, with a function inside that has five of its own.
    calling = model(6, inside=("own", "deep"))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    calling.functions.append(helper.make_function("own", "deep", ["x"], ["y"], [nested(5)], opsets))
    with pytest.raises(OmDataError, match="nested 11 levels deep"):
        check_bounds(calling)
    onnx.save(model(11), tmp_path / "deep.onnx")
    flags = [f"--model={tmp_path / 'deep.onnx'}", "--framework=5", f"--output={tmp_path / 'd'}", "--soc_version=Ascend310P3"]
    status, out, _ = run_atc(*flags)
    assert status == 255
    assert "E16005" in out
