"""Padding in host memory: reused buffers, in which nothing of an earlier request can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from anybatch._errors import InputError
from anybatch._tensors import Array, ModelSpec, TensorSpec

Padding: TypeAlias = Literal["zero", "repeat"] | Mapping[str, float]

# Requests with free dimensions need buffers of their own per shape; beyond this many the oldest shapes are dropped.
_MAX_SHAPES = 16


class Buffer:
    """Arrays for one full launch, and how many of their leading rows may differ from the padding value."""

    __slots__ = ("arrays", "dirty", "key")

    def __init__(self, key: tuple[object, ...], arrays: dict[str, Array], dirty: int) -> None:
        self.key = key
        self.arrays = arrays
        self.dirty = dirty


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
        self._fixed = all(size is not None for tensor in self._tensors for size in tensor.shape_for(0))
        self._repeat = padding == "repeat"
        self._values = _padding_values(self._tensors, padding)
        self._free: dict[tuple[object, ...], list[Buffer]] = {}

    @property
    def all_zeros(self) -> bool:
        """Whether padding is plain zeros, which some sessions can do by themselves."""
        return not self._repeat and not any(np.any(value) for value in self._values.values())

    def take(self, views: Mapping[str, Array], rows: int, gear: int) -> Buffer:
        """Return a buffer of `gear` rows that starts with these `rows` rows; what follows them is padding."""
        key: tuple[object, ...] = (gear,)
        if not self._fixed:
            key = (gear, *(views[tensor.name].shape for tensor in self._tensors))
        free = self._free.get(key)
        buffer = free.pop() if free else self._new(key, views, gear)
        dirty, buffer.dirty = buffer.dirty, gear  # until everything is written, nothing is known to be clean
        for tensor in self._tensors:
            array = buffer.arrays[tensor.name]
            tensor.rows_of(array, 0, rows)[...] = views[tensor.name]
            if self._repeat:
                last = tensor.rows_of(array, rows - 1, rows)
                for row in range(rows, gear):
                    tensor.rows_of(array, row, row + 1)[...] = last
            elif dirty > rows:
                tensor.rows_of(array, rows, dirty)[...] = self._values[tensor.name]
        buffer.dirty = gear if self._repeat else rows
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        """Return a buffer for reuse."""
        if buffer.key not in self._free and len(self._free) >= _MAX_SHAPES:
            self._free.clear()
        self._free.setdefault(buffer.key, []).append(buffer)

    def _new(self, key: tuple[object, ...], views: Mapping[str, Array], gear: int) -> Buffer:
        arrays = {}
        for tensor in self._tensors:
            shape = list(views[tensor.name].shape)
            shape[tensor.batch_axis or 0] = gear * tensor.rows_per_row
            arrays[tensor.name] = np.empty(shape, tensor.dtype)
        return Buffer(key, arrays, gear)


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
