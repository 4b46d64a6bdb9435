"""Tiny ONNX models with random weights from a fixed seed, and their conversion."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from acl_sim import atc

F32, F16, I32, I64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64
_RNG = np.random.default_rng(7)
WEIGHT = _RNG.standard_normal((6, 4)).astype(np.float32)
BIAS = _RNG.standard_normal(4).astype(np.float32)
KERNEL = _RNG.standard_normal((2, 3, 3, 3)).astype(np.float32)


def build(nodes, inputs, outputs, weights=(), *, opset=17, ir=8):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def dense(rows="n", *, opset=17, ir=8):
    """y = x @ W + b"""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"), helper.make_node("Add", ["h", "b"], ["y"], name="add")]
    return build(nodes, [("x", F32, [rows, 6])], [("y", F32, [rows, 4])], [("w", WEIGHT), ("b", BIAS)], opset=opset, ir=ir)


def dense_reference(x):
    return x @ WEIGHT + BIAS


def add2():
    """The shape of the vendor's first sample: two float inputs [2, 3], one output."""
    nodes = [helper.make_node("Add", ["a", "b"], ["c"], name="add")]
    return build(nodes, [("a", F32, [2, 3]), ("b", F32, [2, 3])], [("c", F32, [2, 3])])


def conv():
    """A convolution over images of any size, and a mean that has one shape at every gear."""
    nodes = [
        helper.make_node("Conv", ["img", "k"], ["y"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["y"], ["m"], name="pool"),
    ]
    weights = [("k", KERNEL)]
    return build(nodes, [("img", F32, [1, 3, "h", "w"])], [("y", F32, [1, 2, "h", "w"]), ("m", F32, [1, 2, 1, 1])], weights)


def pair():
    """Two inputs with free axes in different places: y = x * 2, z = sum of m over its last axis."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"], name="twice"),
        helper.make_node("ReduceSum", ["m", "axes"], ["z"], name="total", keepdims=0),
    ]
    inputs = [("x", F32, ["n", 3]), ("m", I32, ["n", "k"])]
    outputs = [("y", F32, ["n", 3]), ("z", I32, ["n"])]
    return build(nodes, inputs, outputs, [("axes", np.array([1], np.int64))])


def convert(tmp: Path, model: onnx.ModelProto, *flags: str, name: str = "model", precision: str = "force_fp32") -> Path:
    """Convert a model that converts; returns the .om."""
    source = tmp / f"{name}.onnx"
    onnx.save(model, source)
    code, out, err = run_atc(
        f"--model={source}", "--framework=5", f"--output={tmp / name}", "--soc_version=Ascend310P3",
        f"--precision_mode={precision}", *flags,
    )  # fmt: skip
    assert code == 0, out + err
    return tmp / f"{name}.om"


def run_atc(*flags: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return atc.run(flags, out, err), out.getvalue(), err.getvalue()
