"""Padding in host memory: reused buffers, in which nothing of an earlier request can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from anybatch._errors import InputError
from anybatch._tensors import Array, ModelSpec, TensorSpec

Padding: TypeAlias = Literal["zero", "repeat"] | Mapping[str, float]

# Requests with free dimensions need buffers of their own per shape; beyond this many the oldest shapes are dropped.
_MAX_SHAPES = 16


@dataclass(slots=True)
class Buffer:
    """Arrays for one full launch, and how many of their rows differ from the padding value."""

    arrays: dict[str, Array]
    dirty: int


class Staging:
    """Full-size copies of short launches, for sessions that do not pad by themselves.

    Thread-safe: a buffer belongs to one thread between `take` and `give_back`.

    Args:
        spec: the model's inputs.
        padding: ``"zero"``, ``"repeat"`` (the last real row again: for models that divide by their input), or a constant
            per input name, zero for those not named.

    Raises:
        InputError: `padding` is none of these, names no batched input, or a constant does not fit the input's dtype.
    """

    def __init__(self, spec: ModelSpec, padding: Padding) -> None:
        self._tensors = tuple(tensor for tensor in spec.inputs if tensor.batch_axis is not None)
        self._repeat = padding == "repeat"
        self._values = _padding_values(self._tensors, padding)
        self._free: dict[tuple[object, ...], list[Buffer]] = {}

    @property
    def all_zeros(self) -> bool:
        """Whether padding is plain zeros, which some sessions can do by themselves."""
        return not self._repeat and not any(np.any(value) for value in self._values.values())

    def take(self, views: Mapping[str, Array], rows: int, gear: int) -> tuple[tuple[object, ...], Buffer]:
        """Return a buffer of `gear` rows that starts with these `rows` rows, and the key to give it back with."""
        shapes = {tensor.name: _shape_of(tensor, views[tensor.name], gear) for tensor in self._tensors}
        key = (gear, *shapes.values())
        free = self._free.get(key)
        buffer = free.pop() if free else Buffer({n: np.zeros(s, self._values[n].dtype) for n, s in shapes.items()}, gear)
        dirty, buffer.dirty = buffer.dirty, gear  # until everything is written, nothing is known to be clean
        for tensor in self._tensors:
            array = buffer.arrays[tensor.name]
            array[tensor.rows_index(0, rows)] = views[tensor.name]
            if self._repeat:
                last = array[tensor.rows_index(rows - 1, rows)]
                for row in range(rows, gear):
                    array[tensor.rows_index(row, row + 1)] = last
            elif dirty > rows:
                array[tensor.rows_index(rows, dirty)] = self._values[tensor.name]
        buffer.dirty = gear if self._repeat else rows
        return key, buffer

    def give_back(self, key: tuple[object, ...], buffer: Buffer) -> None:
        """Return a buffer for reuse."""
        if key not in self._free and len(self._free) >= _MAX_SHAPES:
            self._free.clear()
        self._free.setdefault(key, []).append(buffer)


def _padding_values(tensors: tuple[TensorSpec, ...], padding: object) -> dict[str, Array]:
    values: dict[str, Array] = {tensor.name: np.zeros((), tensor.dtype) for tensor in tensors}
    if padding in ("zero", "repeat"):
        return values
    if not isinstance(padding, Mapping):
        raise InputError(f"expected padding to be 'zero', 'repeat' or a mapping of input names to numbers, got {padding!r}")
    for name, value in padding.items():
        if name not in values:
            raise InputError(f"padding names {name!r}, which is no input with rows; those are {sorted(values)}")
        dtype: np.dtype[Any] = values[name].dtype
        try:
            with np.errstate(over="ignore"):  # what overflows to infinity is refused below
                fill = np.array(value, dtype=dtype)
            exact = dtype.kind in "biu"
            fits = fill.ndim == 0 and bool(fill == value if exact else np.isfinite(fill) == np.isfinite(value))
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise InputError(f"{name!r}: expected a padding value that {dtype} can hold, got {value!r}")
        values[name] = fill
    return values


def _shape_of(tensor: TensorSpec, view: Array, rows: int) -> tuple[int, ...]:
    axis = tensor.batch_axis or 0
    return (*view.shape[:axis], rows * tensor.rows_per_row, *view.shape[axis + 1 :])
