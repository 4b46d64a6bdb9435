"""NumPy's broadcasting, with rows."""

from __future__ import annotations

from collections.abc import Sequence

from anybatch.safety._call import CoupledError, StoppedError, meet
from anybatch.safety._domain import Rows, Shape, Value
from anybatch.safety._sizes import ONE, Size, count_of, differ


def broadcast(values: Sequence[Value]) -> Value:
    """Return the result of an operator that works entry by entry.

    Raises:
        CoupledError: rows meet other rows, or a tensor without rows has an entry for each position.
        StoppedError: that cannot be told.
    """
    shapes = [value.shape for value in values]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        if any(value.rows for value in values):
            raise StoppedError("combines rows with a tensor whose rank cannot be told")
        return Value()
    rank = max(len(shape) for shape in known)
    rows: Rows | None = None
    for value, shape in zip(values, known, strict=True):
        rows = meet(rows, value.rows and value.rows.at(value.rows.axis + rank - len(shape)))
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in known]
    if rows is not None:
        for value, shape in zip(values, padded, strict=True):
            if value.rows is None:
                check_single(shape[rows.axis], rows.axis)
    return Value(_joined(padded, rows, values), rows)


def check_single(size: Size, axis: int) -> None:
    """Check that a tensor without rows has one entry along the axis of the rows, shared by all of them.

    Raises:
        CoupledError: it has several, one for each position.
        StoppedError: that cannot be told.
    """
    if size == ONE:
        return
    if differ(size, ONE):
        raise CoupledError(
            f"combines rows with a tensor that has {size} entries of its own along axis {axis}, which holds the rows: "
            "the answer depends on a row's position"
        )
    raise StoppedError(f"combines rows with a tensor that may have several entries along axis {axis}, which holds the rows")


def _joined(shapes: Sequence[Shape], rows: Rows | None, values: Sequence[Value]) -> Shape:
    joined = list(shapes[0])
    for shape in shapes[1:]:
        joined = [join_sizes(one, other) for one, other in zip(joined, shape, strict=True)]
    if rows is not None:
        joined[rows.axis] = next(
            shape[rows.axis] for value, shape in zip(values, shapes, strict=True) if value.rows is not None
        )
    return tuple(joined)


def join_sizes(one: Size, other: Size) -> Size:
    """Return the size that two sizes broadcast to."""
    if one == other or other == ONE:
        return one
    if one == ONE or (other.constant or 0) > 1:
        return other
    if (one.constant or 0) > 1:
        return one
    return count_of("broadcast", *sorted((one, other), key=str))
