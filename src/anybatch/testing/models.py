"""Tiny ONNX models, each with its NumPy reference and with requests for it.

Every weight is random, from a fixed seed, and so is every row of a request: with constants, swapped rows would look right.
Each model shows one thing that backends get wrong; the comment above it says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anybatch import Array, Combine, ModelSpec, TensorSpec

Compute = Callable[..., dict[str, Array]]


@dataclass(frozen=True, eq=False)
class ReferenceModel:
    """A model of ONNX operator set 17, and what it computes.

    Its dimensions are fixed except the one that carries rows, which is named ``"rows"`` (``"rows_times_3"`` where one row of
    a request is three there).

    Attributes:
        name: the name of the model and of its graph.
        spec: what a session on it must say, whatever opens it.
        onnx_bytes: its file.
        compute: the same in NumPy; takes the inputs by name and returns new arrays.
        combine: how its outputs without rows become one over several launches.
    """

    name: str
    spec: ModelSpec
    onnx_bytes: bytes = field(repr=False)
    compute: Compute = field(repr=False)
    combine: Mapping[str, Combine] = field(default_factory=dict)

    def proto(self) -> onnx.ModelProto:
        """Return the model as a new ``onnx.ModelProto``."""
        return onnx.load_model_from_string(self.onnx_bytes)

    def reference(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the right outputs for any number of rows, 0 included: new arrays, dtypes and shapes as in the spec."""
        with np.errstate(all="ignore"):  # NaN and Inf are inputs like any other
            return self.compute(**inputs)

    def random_inputs(self, rng: np.random.Generator, rows: int) -> dict[str, Array]:
        """Return a request of that many rows: new arrays of random values, integers from their dtype's whole range."""
        return {tensor.name: _random(rng, tensor, rows) for tensor in self.spec.inputs}

    @property
    def batch_axis(self) -> dict[str, int | None]:
        """Which axis carries rows, by tensor name: for backends that must be told."""
        return {tensor.name: tensor.batch_axis for tensor in (*self.spec.inputs, *self.spec.outputs)}

    @property
    def rows_per_row(self) -> dict[str, int]:
        """How many entries along that axis one row has, by tensor name: for backends that must be told."""
        return {tensor.name: tensor.rows_per_row for tensor in (*self.spec.inputs, *self.spec.outputs)}


def _random(rng: np.random.Generator, tensor: TensorSpec, rows: int) -> Array:
    shape = [size or 0 for size in tensor.shape_for(rows)]
    if tensor.dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape)).astype(tensor.dtype)
    if tensor.dtype.kind in "iu":
        limits = np.iinfo(tensor.dtype)
        return np.asarray(rng.integers(limits.min, limits.max, shape, tensor.dtype, endpoint=True))
    return np.asarray(rng.standard_normal(shape)).astype(tensor.dtype)


_ELEMENT_TYPES: Final[Mapping[np.dtype[Any], int]] = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(ml_dtypes.bfloat16): TensorProto.BFLOAT16,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.bool_): TensorProto.BOOL,
}


def _build(
    name: str,
    inputs: Sequence[TensorSpec],
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[TensorSpec],
    compute: Compute,
    *,
    weights: Mapping[str, Array] | None = None,
    combine: Mapping[str, Combine] | None = None,
) -> ReferenceModel:
    graph = helper.make_graph(
        nodes,
        name,
        [_value_info(tensor) for tensor in inputs],
        [_value_info(tensor) for tensor in outputs],
        [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="anybatch.testing"
    )
    return ReferenceModel(name, ModelSpec(tuple(inputs), tuple(outputs)), proto.SerializeToString(), compute, combine or {})


def _value_info(tensor: TensorSpec) -> onnx.ValueInfoProto:
    shape: list[int | str | None] = list(tensor.shape)
    if tensor.batch_axis is not None:
        shape[tensor.batch_axis] = "rows" if tensor.rows_per_row == 1 else f"rows_times_{tensor.rows_per_row}"
    return helper.make_tensor_value_info(tensor.name, _ELEMENT_TYPES[tensor.dtype], shape)


def _weights(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


_FLOAT32: Final = np.dtype(np.float32)
_node: Final = helper.make_node
_sliding_window_view: Final[Any] = np.lib.stride_tricks.sliding_window_view  # whose types in NumPy 2.2 lack several axes


def _affine(name: str, seed: int) -> ReferenceModel:
    w, b = _weights(seed, 6, 8), _weights(seed + 1, 8)
    v, c = _weights(seed + 2, 8, 5), _weights(seed + 3, 5)
    return _build(
        name,
        [TensorSpec("x", _FLOAT32, (None, 6))],
        [_node("Gemm", ["x", "w", "b"], ["h"]), _node("Relu", ["h"], ["r"]), _node("Gemm", ["r", "v", "c"], ["y"])],
        [TensorSpec("y", _FLOAT32, (None, 5))],
        lambda x: {"y": np.maximum(x @ w + b, 0) @ v + c},
        weights={"w": w, "b": b, "v": v, "c": c},
    )


# The plain case; and the same tensors with other weights, for two models open at once.
AFFINE: Final = _affine("affine", seed=10)
AFFINE_TWIN: Final = _affine("affine_twin", seed=20)


# Inputs and outputs of one shape, so that only values tell when they are swapped; and an output of one axis.
def _several() -> ReferenceModel:
    w = _weights(30, 4)
    return _build(
        "several",
        [TensorSpec("left", _FLOAT32, (None, 4)), TensorSpec("right", _FLOAT32, (None, 4))],
        [
            _node("Sub", ["left", "right"], ["difference"]),
            _node("Mul", ["left", "w"], ["weighted"]),
            _node("Add", ["weighted", "right"], ["mixed"]),
            _node("ReduceSum", ["left", "columns"], ["total"], keepdims=0),
        ],
        [
            TensorSpec("difference", _FLOAT32, (None, 4)),
            TensorSpec("mixed", _FLOAT32, (None, 4)),
            TensorSpec("total", _FLOAT32, (None,)),
        ],
        lambda left, right: {"difference": left - right, "mixed": left * w + right, "total": left.sum(axis=1)},
        weights={"w": w, "columns": np.array([1], np.int64)},
    )


SEVERAL: Final = _several()

# An input without rows, which every launch must get whole.
TABLE: Final = _build(
    "table",
    [TensorSpec("x", _FLOAT32, (None, 3)), TensorSpec("table", _FLOAT32, (3, 4), batch_axis=None)],
    [_node("MatMul", ["x", "table"], ["y"])],
    [TensorSpec("y", _FLOAT32, (None, 4))],
    lambda x, table: {"y": x @ table},
)

# The same without any axis.
SCALAR: Final = _build(
    "scalar",
    [TensorSpec("x", _FLOAT32, (None, 4)), TensorSpec("threshold", _FLOAT32, (), batch_axis=None)],
    [_node("Sub", ["x", "threshold"], ["y"])],
    [TensorSpec("y", _FLOAT32, (None, 4))],
    lambda x, threshold: {"y": x - threshold},
)

# An output without rows that is the same in every launch, but not in every request.
SAME: Final = _build(
    "same",
    [TensorSpec("x", _FLOAT32, (None, 3)), TensorSpec("table", _FLOAT32, (3,), batch_axis=None)],
    [_node("Mul", ["x", "table"], ["y"]), _node("Add", ["table", "table"], ["doubled"])],
    [TensorSpec("y", _FLOAT32, (None, 3)), TensorSpec("doubled", _FLOAT32, (3,), batch_axis=None)],
    lambda x, table: {"y": x * table, "doubled": table + table},
    combine={"doubled": "same"},
)


# An output without rows that adds up over launches.
def _summed() -> ReferenceModel:
    w = _weights(40, 3)
    return _build(
        "summed",
        [TensorSpec("x", _FLOAT32, (None, 3))],
        [_node("Mul", ["x", "w"], ["y"]), _node("ReduceSum", ["y", "rows"], ["total"], keepdims=0)],
        [TensorSpec("y", _FLOAT32, (None, 3)), TensorSpec("total", _FLOAT32, (3,), batch_axis=None)],
        lambda x: {"y": x * w, "total": (x * w).sum(axis=0)},
        weights={"w": w, "rows": np.array([0], np.int64)},
        combine={"total": "sum"},
    )


SUMMED: Final = _summed()


# Outputs that a runtime may well return as views: on the input, and on a weight.
def _views() -> ReferenceModel:
    w = _weights(45, 2, 3)
    return _build(
        "views",
        [TensorSpec("x", _FLOAT32, (None, 2, 3))],
        [_node("Reshape", ["x", "flat"], ["y"]), _node("Reshape", ["w", "turned"], ["weight"])],
        [TensorSpec("y", _FLOAT32, (None, 6)), TensorSpec("weight", _FLOAT32, (3, 2), batch_axis=None)],
        lambda x: {"y": x.reshape(len(x), 6).copy(), "weight": w.reshape(3, 2).copy()},
        weights={"w": w, "flat": np.array([0, 6], np.int64), "turned": np.array([3, 2], np.int64)},
        combine={"weight": "same"},
    )


VIEWS: Final = _views()


# Rows on axis 1.
def _axis_1() -> ReferenceModel:
    w = _weights(50, 4, 5)
    return _build(
        "axis_1",
        [TensorSpec("x", _FLOAT32, (5, None), batch_axis=1)],
        [_node("MatMul", ["w", "x"], ["y"])],
        [TensorSpec("y", _FLOAT32, (4, None), batch_axis=1)],
        lambda x: {"y": w @ x},
        weights={"w": w},
    )


AXIS_1: Final = _axis_1()


# Rows on axis 0 of the input and on axis 1 of the output.
def _axis_moves() -> ReferenceModel:
    w = _weights(60, 3)
    return _build(
        "axis_moves",
        [TensorSpec("x", _FLOAT32, (None, 3))],
        [_node("Mul", ["x", "w"], ["weighted"]), _node("Transpose", ["weighted"], ["y"], perm=[1, 0])],
        [TensorSpec("y", _FLOAT32, (3, None), batch_axis=1)],
        lambda x: {"y": (x * w).T},
        weights={"w": w},
    )


AXIS_MOVES: Final = _axis_moves()


# Three entries along the batch axis for one row of a request, as [rows * heads, ...] has them.
def _rows_times_3() -> ReferenceModel:
    w, v = _weights(70, 4), _weights(71, 12, 5)
    return _build(
        "rows_times_3",
        [TensorSpec("heads", _FLOAT32, (None, 4), rows_per_row=3)],
        [
            _node("Mul", ["heads", "w"], ["weighted"]),
            _node("Reshape", ["heads", "joined_shape"], ["joined"]),
            _node("MatMul", ["joined", "v"], ["mixed"]),
        ],
        [TensorSpec("weighted", _FLOAT32, (None, 4), rows_per_row=3), TensorSpec("mixed", _FLOAT32, (None, 5))],
        lambda heads: {"weighted": heads * w, "mixed": heads.reshape(len(heads) // 3, 12) @ v},
        weights={"w": w, "v": v, "joined_shape": np.array([-1, 12], np.int64)},
    )


ROWS_TIMES_3: Final = _rows_times_3()


# Not models to batch: every row shows the sum of all rows of its launch, so it shows what the padding held.
def _coupled(name: str, columns: int) -> ReferenceModel:
    return _build(
        name,
        [TensorSpec("x", _FLOAT32, (None, columns))],
        [_node("ReduceSum", ["x", "rows"], ["sum"], keepdims=1), _node("Add", ["x", "sum"], ["y"])],
        [TensorSpec("y", _FLOAT32, (None, columns))],
        lambda x: {"y": x + x.sum(axis=0, keepdims=True)},
        weights={"rows": np.array([0], np.int64)},
    )


COUPLED: Final = _coupled("coupled", 4)
COUPLED_WIDE: Final = _coupled("coupled_wide", 16384)
PROBES: Final[tuple[ReferenceModel, ...]] = (COUPLED, COUPLED_WIDE)


# 64 KiB in one row: backends take another path for large tensors.
def _wide() -> ReferenceModel:
    w = _weights(80, 16384)
    return _build(
        "wide",
        [TensorSpec("x", _FLOAT32, (None, 16384))],
        [_node("Mul", ["x", "w"], ["y"])],
        [TensorSpec("y", _FLOAT32, (None, 16384))],
        lambda x: {"y": x * w},
        weights={"w": w},
    )


WIDE: Final = _wide()


# Four axes, and a memory layout that accelerators rearrange.
def _convolution() -> ReferenceModel:
    w, b = _weights(90, 3, 2, 3, 3), _weights(91, 3)

    def compute(x: Array) -> dict[str, Array]:
        windows = _sliding_window_view(x, (3, 3), axis=(2, 3))
        return {"y": np.maximum(np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None], 0)}

    return _build(
        "convolution",
        [TensorSpec("x", _FLOAT32, (None, 2, 6, 6))],
        [_node("Conv", ["x", "w", "b"], ["conv"], kernel_shape=[3, 3]), _node("Relu", ["conv"], ["y"])],
        [TensorSpec("y", _FLOAT32, (None, 3, 4, 4))],
        compute,
        weights={"w": w, "b": b},
    )


CONVOLUTION: Final = _convolution()


# Only moves values, so that a detour through another dtype shows in the bits. From 4 KiB in one row to 256 KiB in eight.
def _columns(dtype: np.dtype[Any]) -> ReferenceModel:
    order = np.random.default_rng(100).permutation(4096)
    return _build(
        str(dtype),
        [TensorSpec("x", dtype, (None, 4096))],
        [_node("Gather", ["x", "order"], ["y"], axis=1)],
        [TensorSpec("y", dtype, (None, 4096))],
        lambda x: {"y": x[:, order]},
        weights={"order": order.astype(np.int64)},
    )


BY_DTYPE: Final[Mapping[str, ReferenceModel]] = {str(dtype): _columns(dtype) for dtype in _ELEMENT_TYPES}

# All that may be batched: the rows of each do not depend on one another.
MODELS: Final[tuple[ReferenceModel, ...]] = (
    AFFINE,
    AFFINE_TWIN,
    SEVERAL,
    TABLE,
    SCALAR,
    SAME,
    SUMMED,
    VIEWS,
    AXIS_1,
    AXIS_MOVES,
    ROWS_TIMES_3,
    WIDE,
    CONVOLUTION,
    *BY_DTYPE.values(),
)
