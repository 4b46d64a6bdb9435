"""Models the benchmarks share: random weights, made here, float32 with a free first dimension called ``rows``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

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


def conv_net(
    image: int = 64, width: int = 24, repeats: tuple[int, ...] = (2, 3, 2), groups: int = 4, seed: int = 0
) -> onnx.ModelProto:
    """Return a small convolutional classifier of images, in the manner of ShuffleNet.

    Blocks of a grouped pointwise convolution, a channel shuffle, a depthwise one and another pointwise one, added to what came
    in; between stages half the image's size and twice its channels. Most layers move much and compute little.
    """
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, values: np.ndarray[Any, Any]) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def add(kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(x: str, before: int, after: int, kernel: int, *, stride: int = 1, group: int = 1) -> str:
        shape = (after, before // group, kernel, kernel)
        weights = random.standard_normal(shape) * np.sqrt(2 / (shape[1] * kernel * kernel))
        name = constant(f"w{len(constants)}", weights.astype(np.float32))
        pads = [kernel // 2] * 4
        return add("Conv", [x, name], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group)

    x = add("Relu", [conv("images", 3, width, 3, stride=2)])
    size = -(-image // 2)
    for stage, blocks in enumerate(repeats):
        if stage:
            x = add("Relu", [conv(x, width, 2 * width, 3, stride=2, group=width)])
            width, size = 2 * width, -(-size // 2)
        split = constant(f"split{stage}", np.array([0, groups, width // groups, size, size]))
        joined = constant(f"joined{stage}", np.array([0, width, size, size]))
        for _ in range(blocks):
            y = add("Relu", [conv(x, width, width, 1, group=groups)])
            y = add("Reshape", [add("Transpose", [add("Reshape", [y, split])], perm=[0, 2, 1, 3, 4]), joined])
            y = conv(conv(y, width, width, 3, group=width), width, width, 1, group=groups)
            x = add("Relu", [add("Add", [x, y])])
    pooled = add("Flatten", [add("GlobalAveragePool", [x])], axis=1)
    weights = constant("head", (random.standard_normal((width, 10)) / np.sqrt(width)).astype(np.float32))
    nodes.append(helper.make_node("MatMul", [pooled, weights], ["y"], name="head"))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["rows", 3, image, image])
    y_info = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 10])
    return helper.make_model(
        helper.make_graph(nodes, "conv_net", [images], [y_info], constants), opset_imports=OPSET, ir_version=9
    )


def transformer_block(tokens: int = 32, width: int = 256, heads: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Return one encoder block over ``x[rows, tokens, width]``: self-attention, then a feed-forward part, both normalised."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(values: np.ndarray[Any, Any]) -> str:
        constants.append(numpy_helper.from_array(values, f"c{len(constants)}"))
        return constants[-1].name

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"t{len(nodes)}"], name=f"{kind.lower()}{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    def dense(x: str, fan_in: int, fan_out: int) -> str:
        weights = (random.standard_normal((fan_in, fan_out)) / np.sqrt(fan_in)).astype(np.float32)
        bias = constant(np.zeros(fan_out, np.float32))
        return add("Add", add("MatMul", x, constant(weights)), bias)

    def normalise(x: str) -> str:
        ones, zeros = constant(np.ones(width, np.float32)), constant(np.zeros(width, np.float32))
        return add("LayerNormalization", x, ones, zeros, axis=-1)

    apart, together = constant(np.array([0, tokens, heads, width // heads])), constant(np.array([0, tokens, width]))
    normal = normalise("x")
    query, key, value = (add("Reshape", dense(normal, width, width), apart) for _ in range(3))
    scores = add("MatMul", add("Transpose", query, perm=[0, 2, 1, 3]), add("Transpose", key, perm=[0, 2, 3, 1]))
    scores = add("Mul", scores, constant(np.array((width / heads) ** -0.5, np.float32)))
    mixed = add("MatMul", add("Softmax", scores, axis=-1), add("Transpose", value, perm=[0, 2, 1, 3]))
    mixed = add("Reshape", add("Transpose", mixed, perm=[0, 2, 1, 3]), together)
    x = add("Add", "x", dense(mixed, width, width))
    wide = dense(normalise(x), width, 4 * width)
    halved = add("Mul", wide, constant(np.array(0.5, np.float32)))
    error = add("Erf", add("Mul", wide, constant(np.array(0.5**0.5, np.float32))))
    gelu = add("Mul", halved, add("Add", error, constant(np.array(1.0, np.float32))))
    nodes.append(helper.make_node("Add", [x, dense(gelu, 4 * width, width)], ["y"], name="out"))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", tokens, width]) for name in "xy"]
    graph = helper.make_graph(nodes, "transformer_block", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=OPSET, ir_version=9)
