"""What the analysis knows of a tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from anybatch.safety._sizes import ONE, Size

Shape: TypeAlias = tuple[Size, ...]
Entries: TypeAlias = npt.NDArray[Any]  # of objects

KEPT_ENTRIES: Final = 1024  # of small tensors the entries are followed: shapes, axes, scales, paddings


@dataclass(frozen=True, slots=True)
class Rows:
    """Where a tensor holds the rows: ``shape[axis] == outer * n * inner``, and no other dimension depends on n.

    Seen as ``(..., outer, n, inner, ...)``, what stands at index i of the middle axis is the same function of row i and of
    the un-batched inputs, for every i and every n.

    Attributes:
        uniform: nothing there depends on the rows, so any other split of the axis is as true.
    """

    axis: int
    outer: Size = ONE
    inner: Size = ONE
    uniform: bool = False

    @property
    def per_row(self) -> Size:
        """How many entries along the axis belong to one row."""
        return self.outer * self.inner

    def at(self, axis: int) -> Rows:
        return replace(self, axis=axis)


@dataclass(frozen=True, slots=True)
class Tuples:
    """Tuples of indices, along the last axis, of which some are the number of the row that they belong to.

    Attributes:
        own: places in the tuple that hold that number; what stands at any other is the same function of row i for every i.
    """

    shape: Shape
    rows: Rows
    own: frozenset[int]


@dataclass(frozen=True, slots=True)
class Blame:
    """Where the proof ended: the node, and why in one sentence."""

    coupled: bool
    node: str
    reason: str
    tensor: str


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor.

    Without rows, count or blame it depends on the un-batched inputs only ("common"), its shape as well.

    Attributes:
        shape: None where nothing is known of it, not even the rank.
        rows: where the rows are.
        counts: it depends on the number of rows or on their positions, but on no row's content: what Shape returns, say.
        entries: of a small tensor without rows, its entries: a `Size` each (integers, booleans) or a NumPy float.
        items: of a sequence or an optional, the tensors in it.
        own: of a count, where the rows would be if it were one of their tensors: each entry there is i, the number of its row.
        tuples: of a tensor that is blamed for such numbers, what it still is as an index.
    """

    shape: Shape | None = None
    rows: Rows | None = None
    counts: bool = False
    entries: Entries | None = None
    blame: Blame | None = None
    items: tuple[Value, ...] | None = None
    own: Rows | None = None
    tuples: Tuples | None = None

    @property
    def common(self) -> bool:
        alone = self.rows is None and self.blame is None and not self.counts
        return alone and all(item.common for item in self.items or ())

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)


def from_entries(entries: Entries) -> Value:
    """Return the value of a small tensor by its entries: common, or a count where one depends on n."""
    counts = any(isinstance(entry, Size) and entry.depends_on_rows for entry in entries.flat)
    return Value(tuple(map(Size, entries.shape)), counts=counts, entries=entries)


def from_array(array: npt.NDArray[Any]) -> Value:
    """Return the value of a constant."""
    shape = tuple(map(Size, array.shape))
    return Value(shape, entries=as_entries(array) if array.size <= KEPT_ENTRIES else None)


def from_tensor(tensor: onnx.TensorProto) -> Value:
    """Return the value of a constant; only small ones are read, external ones never."""
    shape = tuple(map(Size, tensor.dims))
    if tensor.data_location == onnx.TensorProto.EXTERNAL or np.prod(tensor.dims, dtype=object) > KEPT_ENTRIES:
        return Value(shape)
    try:
        return from_array(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError):  # of a type that this version of onnx cannot read, or with too little data
        return Value(shape)


def as_entries(array: npt.NDArray[Any]) -> Entries | None:
    """Return a constant's entries; None for types whose arithmetic is not followed."""
    integers = array.dtype in (np.bool_, np.int32, np.int64)  # narrower ones wrap around
    if not integers and array.dtype not in (np.float32, np.float64):
        return None
    entries = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        entries[index] = Size(int(array[index])) if integers else array[index]
    return entries


def numbers(entries: Entries | None) -> list[Any] | None:
    """Return entries as plain numbers, flat; None where one is not known as such."""
    if entries is None:
        return None
    plain = [entry.constant if isinstance(entry, Size) else float(entry) for entry in entries.flat]
    return None if None in plain else plain


def sizes(entries: Entries | None) -> list[Size] | None:
    """Return integer entries, flat; None where they are not followed, or no integers."""
    if entries is None or not all(isinstance(entry, Size) for entry in entries.flat):
        return None
    return list(entries.flat)
