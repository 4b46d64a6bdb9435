"""Helpers over ONNX graphs that published programs import from here."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from poprt_sim import _graph

__all__ = ["clean_info", "get_constant", "get_dtype", "get_shape", "topological_sort"]


def topological_sort(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return copies of the nodes, each behind those whose results it reads, otherwise in the graph's order.

    Raises:
        ValueError: the graph has a circle.
    """
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    made = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{made[name] for name in _graph.names_read(node) if name in made} for node in nodes]
    followers: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(waits):
        for other in before:
            followers[other].append(index)
    left = [len(before) for before in waits]
    ready = [index for index, count in enumerate(left) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for other in followers[index]:
            left[other] -= 1
            if left[other] == 0:
                heapq.heappush(ready, other)
    if len(order) < len(nodes):
        stuck = next(node for index, node in enumerate(nodes) if left[index])
        raise ValueError(f"the graph has a circle around node {stuck.name or stuck.output[0]!r}")
    return order


def _find(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto | None:
    return next((value for value in (*graph.input, *graph.value_info, *graph.output) if value.name == name), None)


def get_dtype(graph: onnx.GraphProto, name: str) -> int | None:
    """Return a tensor's ONNX element type as far as the graph says it, else None."""
    weight = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    if weight is not None:
        return int(weight.data_type)
    value = _find(graph, name)
    return (value.type.tensor_type.elem_type or None) if value is not None else None


def get_shape(graph: onnx.GraphProto, name: str) -> list[int] | None:
    """Return a tensor's shape as far as the graph says it, 0 for a variable axis, else None."""
    weight = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    if weight is not None:
        return list(weight.dims)
    value = _find(graph, name)
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def get_constant(graph: onnx.GraphProto, name: str) -> npt.NDArray[Any] | None:
    """Return a constant's value: an initializer or the result of a Constant node; None where it is neither."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor))
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    return np.asarray(numpy_helper.to_array(attribute.t))
    return None


def clean_info(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take away, in place, what the graph says of the types and shapes of results inside; returns the model."""
    del model.graph.value_info[:]
    return model
