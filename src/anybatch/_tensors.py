"""What a model takes and gives: TensorSpec, ModelSpec, and the checks of a request against them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from anybatch._errors import InputError, ModelError

Array: TypeAlias = npt.NDArray[Any]
Dim: TypeAlias = int | str | None
Combine: TypeAlias = Literal["same", "sum", "mean", "max", "min"]

COMBINES: tuple[Combine, ...] = ("same", "sum", "mean", "max", "min")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: the tensor's name in the model.
        dtype: element type, in native byte order; anything ``numpy.dtype`` takes, ml_dtypes' bfloat16 included.
        shape: one entry per axis: an int for a fixed dimension, a str for a free one that has the same size
            wherever its name appears in a request, None for a free one of its own. The entry at `batch_axis` is None.
        batch_axis: the axis that carries rows; None for a tensor without rows (a table, a threshold).
        rows_per_row: how many entries along `batch_axis` one row of a request has; 1 for nearly all models,
            12 for a tensor of [rows * heads, ...] with 12 heads.
        combine: for outputs with `batch_axis` None, how the values of several launches become one:
            ``"same"`` (no launch changes it, and padding does not either), ``"sum"``, ``"mean"`` (weighted by rows),
            ``"max"``, ``"min"``. None refuses requests that need more than one full launch.

    Raises:
        InputError: an attribute is out of range; the message names it.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]
    batch_axis: int | None = 0
    rows_per_row: int = 1
    combine: Combine | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the documented way to normalise fields of a frozen dataclass
        set_(self, "dtype", np.dtype(self.dtype).newbyteorder("="))
        set_(self, "shape", tuple(self.shape))
        if self.dtype.hasobject:
            raise InputError(f"{self.name!r}: expected a dtype of fixed size, got {self.dtype}; strings are not supported")
        for size in self.shape:
            if isinstance(size, int) and size < 0:
                raise InputError(f"{self.name!r}: expected dimensions >= 0, got {size} in shape {self.shape}")
        if self.batch_axis is None:
            if self.rows_per_row != 1:
                raise InputError(f"{self.name!r}: rows_per_row is {self.rows_per_row}, but no axis carries rows")
        else:
            self._check_batch_axis(self.batch_axis)
            if self.combine is not None:
                raise InputError(f"{self.name!r}: combine is for outputs without rows, this one has axis {self.batch_axis}")
        if self.combine is not None and self.combine not in COMBINES:
            raise InputError(f"{self.name!r}: expected combine to be one of {COMBINES}, got {self.combine!r}")

    def _check_batch_axis(self, axis: int) -> None:
        if not 0 <= axis < len(self.shape):
            raise InputError(f"{self.name!r}: expected batch_axis in 0..{len(self.shape) - 1}, got {axis}")
        if isinstance(self.shape[axis], int):
            raise InputError(
                f"{self.name!r}: the batch axis {axis} must not have a fixed size, got {self.shape[axis]}; write None there"
            )
        object.__setattr__(self, "shape", (*self.shape[:axis], None, *self.shape[axis + 1 :]))
        if self.rows_per_row < 1:
            raise InputError(f"{self.name!r}: expected rows_per_row >= 1, got {self.rows_per_row}")

    def shape_for(self, rows: int, symbols: Mapping[str, int] | None = None) -> tuple[int | None, ...]:
        """Return this tensor's shape in a launch of that many rows; None where a free dimension is not in `symbols`."""
        known = symbols or {}
        shape = [known.get(size) if isinstance(size, str) else size for size in self.shape]
        if self.batch_axis is not None:
            shape[self.batch_axis] = rows * self.rows_per_row
        return tuple(shape)

    def rows_of(self, array: Array, start: int, stop: int) -> Array:
        """Return a view on a request's rows start..stop in an array of this tensor, which must have a batch axis."""
        axis, factor = self.batch_axis, self.rows_per_row
        if not axis:
            return array[start * factor : stop * factor]
        return array[(slice(None),) * axis + (slice(start * factor, stop * factor),)]

    def __str__(self) -> str:
        sizes = ["?" if size is None else str(size) for size in self.shape]
        if self.batch_axis is not None:
            sizes[self.batch_axis] = "rows" if self.rows_per_row == 1 else f"{self.rows_per_row}*rows"
        return f"{self.dtype} [{', '.join(sizes)}]"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All inputs and outputs of a model.

    Raises:
        InputError: two tensors of one side share a name, or one side is empty.
        ModelError: no input, or no output, says anything about rows, so there is nothing to batch.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        for side, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if not names:
                raise InputError(f"expected at least one {side}, got none")
            if len(set(names)) != len(names):
                raise InputError(f"expected {side} names to differ, got {names}")
        if all(tensor.batch_axis is None for tensor in self.inputs):
            listed = ", ".join(f"{tensor.name!r}: {tensor}" for tensor in self.inputs)
            raise ModelError(f"no input has a batch axis, so there are no rows to batch; inputs are {listed}")


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the dtype as a person writes it, with its byte order where that is not the machine's."""
    return str(dtype) if dtype.isnative else f"{dtype.newbyteorder('=')} in foreign byte order"


def check_request(spec: ModelSpec, inputs: object) -> tuple[int, dict[str, Array]]:
    """Check a request against the model, completely, and return its rows and its arrays.

    The arrays are the caller's own, or views on them, except where the byte order is foreign: those are converted.
    Nothing is cast: a float64 for a float32 is refused, since a silent cast hides a mistake or costs a copy.

    Args:
        inputs: a mapping of input names to arrays; checked here because it comes from the caller.

    Raises:
        InputError: a name is missing or unknown, an array is not one, a dtype, rank or dimension does not fit,
            or the inputs disagree on the number of rows or on a free dimension of the same name.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"expected a mapping of input names to arrays, got {type(inputs).__name__}; call runner(array) instead"
        )
    _check_names(spec, inputs)
    arrays = {tensor.name: _check_array(tensor, inputs[tensor.name]) for tensor in spec.inputs}
    _symbols_of(spec, arrays)
    counts = {
        tensor.name: arrays[tensor.name].shape[tensor.batch_axis] // tensor.rows_per_row
        for tensor in spec.inputs
        if tensor.batch_axis is not None
    }
    rows = next(iter(counts.values()))
    if any(count != rows for count in counts.values()):
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise InputError(f"expected the same number of rows in every input, got: {listed}")
    return rows, arrays


def symbols_of(spec: ModelSpec, arrays: Mapping[str, Array]) -> dict[str, int]:
    """Return the size of each named free dimension in a checked request."""
    return {name: size for name, (size, _) in _symbols_of(spec, arrays).items()}


def _check_names(spec: ModelSpec, inputs: Mapping[Any, object]) -> None:
    expected = [tensor.name for tensor in spec.inputs]
    missing = [name for name in expected if name not in inputs]
    unknown = [name for name in inputs if name not in expected]
    if missing or unknown:
        problems = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
        raise InputError(f"expected inputs {expected}, got {list(inputs)}: {' and '.join(problems)}")


def _check_array(tensor: TensorSpec, value: object) -> Array:
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{tensor.name!r}: expected a NumPy array of {tensor}, got {type(value).__name__}")
    array: Array = value.view(np.ndarray) if type(value) is not np.ndarray else value
    if not array.dtype.isnative and array.dtype.newbyteorder("=") == tensor.dtype:
        array = array.astype(tensor.dtype)
    got = f"{dtype_name(array.dtype)} {list(array.shape)}"
    if array.dtype != tensor.dtype:
        raise InputError(
            f"{tensor.name!r}: expected {tensor}, got {got}; nothing is cast silently: use .astype({str(tensor.dtype)!r})"
        )
    if array.ndim != len(tensor.shape):
        hint = ""
        if tensor.batch_axis is not None and array.ndim == len(tensor.shape) - 1:
            hint = f"; a single row still needs its batch axis: numpy.expand_dims(array, {tensor.batch_axis})"
        raise InputError(f"{tensor.name!r}: expected {len(tensor.shape)} axes, {tensor}, got {array.ndim}, {got}{hint}")
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, int) and array.shape[axis] != size:
            raise InputError(f"{tensor.name!r}: expected {tensor}, got {got}: axis {axis} must be {size}")
    if tensor.batch_axis is not None and array.shape[tensor.batch_axis] % tensor.rows_per_row:
        raise InputError(
            f"{tensor.name!r}: expected {tensor}, got {got}: "
            f"axis {tensor.batch_axis} must be a multiple of {tensor.rows_per_row}"
        )
    return array


def _symbols_of(spec: ModelSpec, arrays: Mapping[str, Array]) -> dict[str, tuple[int, str]]:
    """Return, per named free dimension, its size and the first input that has it."""
    symbols: dict[str, tuple[int, str]] = {}
    for tensor in spec.inputs:
        for axis, symbol in enumerate(tensor.shape):
            if not isinstance(symbol, str):
                continue
            size = arrays[tensor.name].shape[axis]
            known, where = symbols.setdefault(symbol, (size, tensor.name))
            if known != size:
                raise InputError(
                    f"{tensor.name!r}: expected {tensor}, got {list(arrays[tensor.name].shape)}: "
                    f"{symbol!r} is {known} in {where!r} and {size} here"
                )
    return symbols


def size_bytes(tensors: Iterable[TensorSpec], rows: int) -> int:
    """Return the bytes of these tensors in a launch of that many rows, free dimensions counted as 1."""
    return sum(
        tensor.dtype.itemsize * math.prod(1 if size is None else size for size in tensor.shape_for(rows)) for tensor in tensors
    )
