"""What goes in and comes out: --out_nodes, --output_type, --input_fp16_nodes; and modes 1 and 6, which describe a model."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from acl_sim import _om
from acl_sim._compute import Program
from tiny_models import BIAS, F16, F32, I64, WEIGHT, build, convert, dense, dense_reference, run_atc

X = np.linspace(-2, 2, 30, dtype=np.float32).reshape(5, 6)
STATIC = "--input_shape=x:5,6"


def split_model():
    """x -> split into a, b (one node, two outputs); s = a + b; y = relu(s); an unnamed node and an If that sees `a`."""

    def branch(name):
        node = helper.make_node("Identity", ["a"], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, F32, None)])

    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], name="cut", axis=1, num_outputs=2),
        helper.make_node("Add", ["a", "b"], ["s"], name="sum"),
        helper.make_node("Add", ["s", "w"], ["t"]),
        helper.make_node("If", ["yes"], ["u"], name="if", then_branch=branch("p"), else_branch=branch("q")),
        helper.make_node("Relu", ["s"], ["y"], name="relu"),
    ]
    weights = [("w", np.arange(3, dtype=np.float32)), ("yes", np.array(True))]
    return build(nodes, [("x", F32, [5, 6])], [("y", F32, [5, 3])], weights, opset=18)


def run(path, *arrays):
    model = _om.read(path)
    assert isinstance(model, _om.Model)
    return model, Program(model).run(arrays)


def refused(tmp_path, code, *flags, model=None):
    onnx.save(model or dense(5), tmp_path / "r.onnx")
    target = [f"--model={tmp_path / 'r.onnx'}", "--framework=5", f"--output={tmp_path / 'r'}", "--soc_version=Ascend310P3"]
    status, out, _ = run_atc(*target, *flags)
    assert status == 255
    assert code in out, out
    assert not (tmp_path / "r.om").exists()
    return out


# --out_nodes


def test_out_nodes_are_the_outputs_in_that_order(tmp_path):
    path = convert(tmp_path, split_model(), "--out_nodes=sum:0;cut:1;Add_2:0")
    model, (s, b, t) = run(path, X)
    assert [tensor.name for tensor in model.outputs] == ["sum:0:s", "cut:1:b", "Add_2:0:t"]
    np.testing.assert_array_equal(b, X[:, 3:])
    np.testing.assert_array_equal(s, X[:, :3] + X[:, 3:])
    np.testing.assert_array_equal(t, s + np.arange(3, dtype=np.float32))
    assert model.output_shapes == (((5, 3), (5, 3), (5, 3)),)


def test_out_nodes_by_tensor(tmp_path):
    model, (t, a) = run(convert(tmp_path, split_model(), "--out_nodes=t;a"), X)
    assert [tensor.name for tensor in model.outputs] == ["Add_2:0:t", "cut:0:a"]
    np.testing.assert_array_equal(a, X[:, :3])
    assert t.shape == (5, 3)


def test_what_no_output_needs_is_dropped_and_what_a_branch_sees_is_kept(tmp_path):
    path = convert(tmp_path, split_model(), "--out_nodes=if:0")
    model, (u,) = run(path, X)
    np.testing.assert_array_equal(u, X[:, :3])
    graph = onnx.load_model_from_string(model.graph).graph
    assert [node.op_type for node in graph.node] == ["Split", "If"]
    assert [tensor.name for tensor in graph.initializer] == ["yes"]
    whole = _om.read(convert(tmp_path, dense(5), name="whole"))
    part = _om.read(convert(tmp_path, dense(5), "--out_nodes=mm:0", name="part"))
    assert (whole.weight_bytes - part.weight_bytes, whole.flops[0] - part.flops[0]) == (BIAS.nbytes, 20)


def test_out_nodes_with_gears(tmp_path):
    flags = ("--input_shape=x:-1,6", "--dynamic_batch_size=1,4", "--out_nodes=mm:0")
    model = _om.read(convert(tmp_path, dense(), *flags))
    assert model.output_shapes == (((1, 4),), ((4, 4),))
    assert model.outputs[0].dims == (-1, 4)


@pytest.mark.parametrize(("value", "code"), [
    ("nope:0", "E10016"), ("nope", "E10016"), ("w", "E10016"), ("mm:1", "E10003"), ("mm:x", "E10001"), ("mm:-1", "E10001"),
    ("mm:", "E10001"), (":0", "E10001"), ("mm:0;y", "E10001"), ("mm:0;mm:0", "E10001"), ("mm:99999999999", "E10013"),
])  # fmt: skip
def test_bad_out_nodes(tmp_path, value, code):
    assert "--out_nodes" in refused(tmp_path, code, STATIC, f"--out_nodes={value}")


def test_the_form_of_out_nodes_comes_before_the_model_is_read(tmp_path):
    broken = helper.make_model(helper.make_graph([], "g", [], []))
    refused(tmp_path, "E10001", "--out_nodes=mm:x", model=broken)


# --output_type


@pytest.mark.parametrize(("text", "number", "dtype"), [
    ("FP32", 0, np.float32), ("FP16", 1, np.float16), ("INT8", 2, np.int8), ("UINT8", 4, np.uint8), ("INT32", 3, np.int32),
    ("INT16", 6, np.int16), ("UINT16", 7, np.uint16), ("UINT32", 8, np.uint32), ("INT64", 9, np.int64),
    ("UINT64", 10, np.uint64), ("DOUBLE", 11, np.float64),
])  # fmt: skip
def test_output_type_of_the_whole_net(tmp_path, text, number, dtype):
    nodes = [helper.make_node("Abs", ["x"], ["y"], name="abs")]
    source = build(nodes, [("x", F32, [5, 6])], [("y", F32, [5, 6])])
    model, (y,) = run(convert(tmp_path, source, f"--output_type={text}"), X)
    assert (model.outputs[0].name, model.outputs[0].acl_type) == ("abs:0:y", number)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.abs(X).astype(dtype))


def test_output_type_of_one_output(tmp_path):
    flags = ("--out_nodes=sum:0;cut:1", "--output_type=cut:1:FP16")
    model, (s, b) = run(convert(tmp_path, split_model(), *flags), X)
    assert (s.dtype, b.dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(b, X[:, 3:].astype(np.float16))
    assert [tensor.acl_type for tensor in model.outputs] == [0, 1]


def test_a_wider_output_is_not_rounded_by_the_precision_mode(tmp_path):
    """2049 is no half-precision number: force_fp16 rounds what is computed, not the type that an output is given."""
    nodes = [helper.make_node("Identity", ["j"], ["i"], name="same")]
    source = build(nodes, [("j", I64, [1])], [("i", I64, [1])])
    _, (i,) = run(convert(tmp_path, source, "--output_type=FP32", precision="force_fp16"), np.array([2049]))
    assert (i.dtype, i.tolist()) == (np.float32, [2049.0])


@pytest.mark.parametrize(("flags", "code"), [
    (["--output_type=FP31"], "E10001"), (["--output_type=add:0:FP16"], "E10001"), (["--output_type=FP16;FP32"], "E10001"),
    (["--out_nodes=mm:0", "--output_type=add:0:FP16"], "E10001"), (["--out_nodes=mm:0", "--output_type=mm:0"], "E10001"),
    (["--out_nodes=mm:0", "--output_type=mm:zero:FP16"], "E10001"), (["--out_nodes=mm:0", "--output_type=mm:0:X"], "E10001"),
])  # fmt: skip
def test_bad_output_types(tmp_path, flags, code):
    assert "--output_type" in refused(tmp_path, code, STATIC, *flags)


# --input_fp16_nodes


def test_inputs_in_half_precision(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Cast", ["j"], ["i"], to=F32)]
    inputs = [("a", F32, [3]), ("b", F32, [3]), ("j", I64, [2])]
    source = build(nodes, inputs, [("y", F32, [3]), ("i", F32, [2])])
    path = convert(tmp_path, source, "--input_fp16_nodes=b;j")
    a, b, j = np.array([1, 2, 3], np.float32), np.array([0.1, 0.2, 0.3], np.float16), np.array([4, 5], np.float16)
    model, (y, i) = run(path, a, b, j)
    assert [(tensor.name, tensor.acl_type) for tensor in model.inputs] == [("a", 0), ("b", 1), ("j", 1)]
    np.testing.assert_array_equal(y, a + b.astype(np.float32))
    assert i.tolist() == [4, 5]


def test_half_precision_both_ways_with_gears(tmp_path):
    flags = ("--input_shape=x:-1,6", "--dynamic_batch_size=2,5", "--input_fp16_nodes=x", "--output_type=FP16")
    model, (y,) = run(convert(tmp_path, dense(), *flags), X.astype(np.float16))
    assert (model.inputs[0].dims, model.inputs[0].acl_type, model.outputs[0].acl_type) == ((-1, 6), 1, 1)
    np.testing.assert_array_equal(y, dense_reference(X.astype(np.float16).astype(np.float32)).astype(np.float16))
    already = build([helper.make_node("Abs", ["x"], ["y"])], [("x", F16, [2])], [("y", F16, [2])])
    model, (y,) = run(convert(tmp_path, already, "--input_fp16_nodes=x", name="h"), np.ones(2, np.float16))
    assert y.dtype == np.float16


def test_bad_fp16_inputs(tmp_path):
    assert "inputs are: x" in refused(tmp_path, "E10016", STATIC, "--input_fp16_nodes=z")
    refused(tmp_path, "E10017", STATIC, "--input_fp16_nodes=mm")
    (tmp_path / "aipp.cfg").write_text("aipp_op { aipp_mode: static related_input_rank: 0 input_format: RGB888_U8 }")
    source = build([helper.make_node("Abs", ["x"], ["y"])], [("x", F32, [1, 3, 4, 4])], [("y", F32, [1, 3, 4, 4])])
    flags = (f"--insert_op_conf={tmp_path / 'aipp.cfg'}", "--input_fp16_nodes=x")
    assert "--insert_op_conf" in refused(tmp_path, "E10001", *flags, model=source)


# --precision_mode_v2


@pytest.mark.parametrize(("mode", "wanted"), [
    ("fp16", "force_fp16"), ("origin", "must_keep_origin_dtype"), ("cube_fp16in_fp32out", "cube_fp16in_fp32out"),
    ("mixed_float16", "allow_mix_precision_fp16"), ("mixed_bfloat16", "allow_mix_precision_bf16"),
])  # fmt: skip
def test_precision_mode_v2(tmp_path, mode, wanted):
    model, (y,) = run(convert(tmp_path, dense(5), f"--precision_mode_v2={mode}", precision=""), X)
    assert model.precision_mode == wanted
    np.testing.assert_allclose(y, X @ WEIGHT + BIAS, rtol=0.05, atol=0.05)
    assert np.array_equal(y, dense_reference(X)) == (mode == "origin")


@pytest.mark.parametrize("mode", ["mixed_hif8", "cube_hif8", "force_fp16"])
def test_bad_precision_mode_v2(tmp_path, mode):
    refused(tmp_path, "E10001", STATIC, f"--precision_mode_v2={mode}")


# Modes 1 and 6


def test_mode_1_writes_json(tmp_path):
    path = convert(tmp_path, dense(), "--input_shape=x:-1,6", "--dynamic_batch_size=1,4")
    target = tmp_path / "m.json"
    status, out, _ = run_atc("--mode=1", f"--om={path}", f"--json={target}")
    assert status == 0, out
    described = json.loads(target.read_text())
    assert described["gears"] == [[1], [4]]
    assert described["inputs"][0]["name"] == "x"
    (tmp_path / "b.om").write_bytes(_om.dump(_om.Bundle((_om.read(path), _om.read(path)))))
    assert run_atc("--mode=1", f"--om={tmp_path / 'b.om'}", f"--json={target}")[0] == 0
    assert json.loads(target.read_text()) == [described, described]


def test_mode_6_shows_a_model(tmp_path):
    path = convert(tmp_path, dense(), "--input_shape=x:-1,6", "--dynamic_batch_size=1,4")
    status, out, err = run_atc("--mode=6", f"--om={path}")
    assert (status, err) == (0, "")
    assert "soc_version[Ascend310P3], framework_type[5]" in out
    assert "input    info: x, type 0, dims [-1, 6]" in out
    assert "gear     info: batch [4]" in out


def test_modes_1_and_6_refuse(tmp_path):
    path = convert(tmp_path, dense(5))
    for flags, code in [
        (["--mode=6"], "E10004"), (["--mode=1", f"--om={path}"], "E10004"), (["--mode=6", "--om=/nowhere"], "E13000"),
        (["--mode=6", f"--om={tmp_path / 'model.onnx'}"], "E16005"),
        (["--mode=1", f"--om={path}", f"--json={tmp_path}"], "E13001"),
    ]:  # fmt: skip
        status, out, _ = run_atc(*flags)
        assert status == 255
        assert code in out, out
