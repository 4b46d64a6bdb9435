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
    """Arrays for one full launch.

    Attributes:
        arrays: by input name.
        fronts: views on their leading rows, by number of rows; made once, since slicing costs as much as a small copy.
        dirty: how many leading rows may differ from the padding value.
        home: the list of idle buffers it goes back to.
    """

    __slots__ = ("arrays", "dirty", "fronts", "home")

    def __init__(self, arrays: dict[str, Array], dirty: int, home: list[Buffer]) -> None:
        self.arrays = arrays
        self.fronts: dict[int, list[tuple[str, Array]]] = {}
        self.dirty = dirty
        self.home = home


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
        self._idle: dict[object, list[Buffer]] = {}  # threads pop and append, which are atomic

    @property
    def all_zeros(self) -> bool:
        """Whether padding is plain zeros, which some sessions can do by themselves."""
        return not self._repeat and not any(np.any(value) for value in self._values.values())

    def take(self, views: Mapping[str, Array], rows: int, gear: int) -> Buffer:
        """Return a buffer of `gear` rows that starts with these `rows` rows; what follows them is padding."""
        key = gear if self._fixed else (gear, *(views[tensor.name].shape for tensor in self._tensors))
        home = self._idle.get(key)
        if home is None:
            home = self._new_home(key)
        try:
            buffer = home.pop()
        except IndexError:  # as many threads are padding as there are buffers
            buffer = self._new(views, gear, home)
        front = buffer.fronts.get(rows)
        if front is None:
            front = [(tensor.name, tensor.rows_of(buffer.arrays[tensor.name], 0, rows)) for tensor in self._tensors]
            buffer.fronts[rows] = front
        dirty, buffer.dirty = buffer.dirty, gear  # until everything is written, nothing is known to be clean
        for name, place in front:
            place[...] = views[name]
        if self._repeat:
            self._repeat_last(buffer, rows, gear)
            return buffer
        if dirty > rows:
            for tensor in self._tensors:
                tensor.rows_of(buffer.arrays[tensor.name], rows, dirty)[...] = self._values[tensor.name]
        buffer.dirty = rows
        return buffer

    def give_back(self, buffer: Buffer) -> None:
        """Return a buffer for reuse."""
        buffer.home.append(buffer)

    def _repeat_last(self, buffer: Buffer, rows: int, gear: int) -> None:
        for tensor in self._tensors:
            array = buffer.arrays[tensor.name]
            last = tensor.rows_of(array, rows - 1, rows)
            for row in range(rows, gear):
                tensor.rows_of(array, row, row + 1)[...] = last

    def _new_home(self, key: object) -> list[Buffer]:
        if len(self._idle) >= _MAX_SHAPES and not self._fixed:
            self._idle.clear()
        return self._idle.setdefault(key, [])

    def _new(self, views: Mapping[str, Array], gear: int, home: list[Buffer]) -> Buffer:
        arrays = {}
        for tensor in self._tensors:
            shape = list(views[tensor.name].shape)
            shape[tensor.batch_axis or 0] = gear * tensor.rows_per_row
            arrays[tensor.name] = np.empty(shape, tensor.dtype)
        return Buffer(arrays, gear, home)


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
