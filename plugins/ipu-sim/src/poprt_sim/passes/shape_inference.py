"""Shape inference, with functions of the user's for operators that ONNX does not know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import onnx
import onnx.shape_inference

__all__ = ["ShapeFunc", "infer_shapes", "register_shape_func"]

_T = TypeVar("_T", bound=type)
_functions: dict[str, Any] = {}


class ShapeFunc:
    """Says type and shape of a custom operator's results. Subclasses override `__call__`."""

    def __call__(self, model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[onnx.ModelProto, bool]:
        """Return the model with what is known of the node's results, and whether that was all.

        Raises:
            NotImplementedError: a subclass has not overridden it.
        """
        raise NotImplementedError(f"{type(self).__name__}.__call__: a shape function overrides it; got node {node.op_type}")

    def update_value_info(self, model: onnx.ModelProto, tensor: onnx.ValueInfoProto) -> onnx.ModelProto:
        """Write down, in place, what is known of a tensor; returns the model."""
        for value in (*model.graph.output, *model.graph.value_info):
            if value.name == tensor.name:
                value.CopyFrom(tensor)
                return model
        model.graph.value_info.append(tensor)
        return model


def register_shape_func(op_types: Sequence[str] | str) -> Callable[[_T], _T]:
    """Return a decorator that registers a `ShapeFunc` for operators, in the place of another if need be."""

    def decorate(made: _T) -> _T:
        for op_type in [op_types] if isinstance(op_types, str) else op_types:
            _functions[op_type] = made()
        return made

    return decorate


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the types and shapes of its results, as far as they can be inferred.

    Raises:
        RuntimeError: they contradict each other.
    """
    for _ in range(len(model.graph.node) + 1):
        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception as error:  # InferenceError, or protobuf's
            raise RuntimeError(f"shape inference: {error}") from error
        before = model.SerializeToString(deterministic=True)
        for node in list(model.graph.node):
            if node.op_type in _functions:
                model, _ = _functions[node.op_type](model, node)
        if model.SerializeToString(deterministic=True) == before:
            break
    return model
