"""PopRT's helpers that its published programs use."""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from poprt_sim import _graph
from poprt_sim._unsimulated import NotSimulated

__all__ = [
    "LazyImport",
    "convert_float_to_uint8",
    "get_input_info_from_model_proto",
    "get_logger",
    "get_model_flops",
    "onnx_tensor_dtype_to_np_dtype",
]

_NAME = "poprt"


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # it is generic in the type checker only
    """Writes to what sys.stderr is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """Whatever somebody else puts here does not last."""


def get_logger(name: str = _NAME) -> logging.Logger:
    """Return the logger "poprt": at level WARNING, to stderr, one line each with time, level, name and place."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(filename)s:%(lineno)d] %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    return logger


def get_input_info_from_model_proto(model: onnx.ModelProto) -> tuple[dict[str, list[int]], dict[str, np.dtype[Any]]]:
    """Return shape and type of every input that a caller feeds; a variable axis is 0."""
    values = _graph.graph_inputs(model)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    return shapes, {value.name: onnx_tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in values}


def onnx_tensor_dtype_to_np_dtype(tensor_dtype: int) -> np.dtype[Any]:
    """Return the NumPy type of an ONNX element type.

    Raises:
        ValueError: it has none.
    """
    if tensor_dtype == TensorProto.UNDEFINED or tensor_dtype not in TensorProto.DataType.values():
        raise ValueError(f"{tensor_dtype!r} is no element type of ONNX")
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor_dtype))


def get_model_flops(model: onnx.ModelProto) -> int:
    """Return the operations of one run: two per multiply-add of a matrix operator, one per element of any other result.

    Decision: how PopRT counts is not published.

    Raises:
        RuntimeError: types or shapes of the model contradict each other.
    """
    inlined = _graph.inline(model)
    known = _graph.infer(inlined)
    return sum(_graph.flops_of(node, known) for node in inlined.graph.node)


def convert_float_to_uint8(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - whatever they are
    """Refuse: it makes the bytes of fp8 numbers.

    Raises:
        NotSimulated: always.
    """
    raise NotSimulated("utils.convert_float_to_uint8 is not simulated: there is no fp8 here")


class LazyImport:
    """A module that is imported when something of it is first used."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._module is None:
            self._module = importlib.import_module(self._name)
        return getattr(self._module, name)
