"""Models the benchmarks share: random weights, made here, float32 with a free first dimension called ``rows``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = [helper.make_opsetid("", 17)]


def elementwise(inputs: int, width: int = 16) -> onnx.ModelProto:
    """Return a model of one Relu per input: next to no work, so that what a call costs is overhead."""
    ins = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["rows", width]) for i in range(inputs)]
    outs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["rows", width]) for i in range(inputs)]
    nodes = [helper.make_node("Relu", [f"x{i}"], [f"y{i}"]) for i in range(inputs)]
    return helper.make_model(helper.make_graph(nodes, "elementwise", ins, outs), opset_imports=OPSET, ir_version=9)


def mlp(*widths: int, seed: int = 0) -> onnx.ModelProto:
    """Return a multi-layer perceptron such as ``mlp(256, 1024, 1024, 10)``."""
    random = np.random.default_rng(seed)
    nodes, weights, current = [], [], "x"
    layers = list(pairwise(widths))
    for i, (fan_in, fan_out) in enumerate(layers):
        scaled = random.standard_normal((fan_in, fan_out)) / np.sqrt(fan_in)
        weights.append(numpy_helper.from_array(scaled.astype(np.float32), f"w{i}"))
        weights.append(numpy_helper.from_array(random.standard_normal(fan_out).astype(np.float32), f"b{i}"))
        last = i == len(layers) - 1
        nodes.append(helper.make_node("Gemm", [current, f"w{i}", f"b{i}"], ["y" if last else f"h{i}"], name=f"dense{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"], name=f"relu{i}"))
            current = f"r{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", widths[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", widths[-1]])
    return helper.make_model(helper.make_graph(nodes, "mlp", [x], [y], weights), opset_imports=OPSET, ir_version=9)


def channel_means(channels: int = 3, size: int = 224) -> onnx.ModelProto:
    """Return a model of large rows and little memory of its own: the mean of each channel of an image."""
    x = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["rows", channels, size, size])
    y = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["rows", channels])
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"], axis=1),
    ]
    return helper.make_model(helper.make_graph(nodes, "channel_means", [x], [y]), opset_imports=OPSET, ir_version=9)
