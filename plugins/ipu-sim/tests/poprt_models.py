"""Models for the tests of the compile half."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

F32, F16, I64, I32, F64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.DOUBLE
KERNEL = np.random.default_rng(3).standard_normal((6, 5)).astype(np.float32)


def build(nodes, inputs, outputs, weights=(), opset=11, name="test", **more):
    """`inputs` and `outputs` are (name, type, shape); `weights` (name, array)."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs, outputs, name=f"{op_type}_{outputs[0]}", **attributes)


def add2(batch=4):
    """The vendor's page on dynamic batch size: O = X + Y, [batch, 2]."""
    shape = [batch, 2]
    return build([node("Add", ["X", "Y"], ["O"])], [("X", F32, shape), ("Y", F32, shape)], [("O", F32, shape)])


def dense(batch=4):
    """y = relu(x @ KERNEL) + 1, with an inner tensor h and a weight of whole numbers that is a shape."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Add", ["r", "one"], ["s"]),
        node("Reshape", ["s", "shape"], ["y"]),
    ]
    weights = [("w", KERNEL), ("one", np.ones(1, np.float32)), ("shape", np.array([-1, 5], np.int64))]
    return build(nodes, [("x", F32, [batch, 6])], [("y", F32, [batch, 5])], weights)


def dense_reference(x, kernel=KERNEL):
    return np.maximum(x.astype(np.float64) @ kernel.astype(np.float64), 0) + 1
