"""Operators that pick, put, join and repeat entries by their place along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, forbid, meet
from anybatch.safety._domain import Rows, Shape, Value
from anybatch.safety._sizes import ONE, ZERO, N, Size, differ, floor_quotient, larger, smaller

LAST: Final = 2**31 - 1  # what exporters write for "up to the end"


def gather(call: Call) -> Value:
    """Picks entries along an axis by index."""
    shape, indices = call.shape(0), call.shape(1)
    axis = call.axis(len(shape), call.attr("axis", 0))
    forbid(call[0].rows, [axis], "picks by position along")
    result = (*shape[:axis], *indices, *shape[axis + 1 :])
    data = call[0].rows
    held = data and data.at(data.axis + (len(indices) - 1 if data.axis > axis else 0))
    picked = call[1].rows and call[1].rows.at(call[1].rows.axis + axis)
    if held is not None and picked is not None:
        raise CoupledError("picks from every row what every other row names")
    return Value(result, held or picked)


def gather_elements(call: Call) -> Value:
    """Picks entries along an axis by an index for each."""
    shape = call.shape(1)
    axis = call.axis(len(shape), call.attr("axis", 0))
    data, indices = call[0].rows, call[1].rows
    if indices is None and data is None:
        return Value(shape)
    forbid(data, [axis], "picks by index along")
    if data is None and indices is not None and indices.axis == axis:
        return Value(shape, indices)
    _both(call, (0, 1))
    return Value(shape, meet(data, indices))


def _both(call: Call, indices: Sequence[int]) -> None:
    for index in indices:
        if call[index].rows is None:
            raise CoupledError(f"pairs rows with {call.name(index)} by position, and that has no rows")


def gather_nd(call: Call) -> Value:
    """Picks entries or slices by tuples of indices."""
    shape, indices = call.shape(0), call.shape(1)
    shared, depth = call.attr("batch_dims", 0), indices[-1].constant
    if depth is None:
        raise StoppedError("indexes as many axes as cannot be told")
    result = (*indices[:-1], *shape[shared + depth :])
    data, picked = call[0].rows, call[1].rows
    if picked is not None and picked.axis == len(indices) - 1:
        raise CoupledError(f"takes its tuples of indices along axis {picked.axis}, which holds the rows")
    if data is not None and data.axis >= shared + depth:
        if picked is not None:
            raise CoupledError("picks from every row what every other row names")
        return Value(result, data.at(data.axis - shared - depth + len(indices) - 1))
    forbid(data, range(shared, shared + depth), "picks by position along")
    if data is not None or (picked is not None and picked.axis < shared):
        _both(call, (0, 1))
    return Value(result, meet(data, picked))


def scatter_elements(call: Call) -> Value:
    """Puts entries along an axis by an index for each."""
    shape = call.shape(0)
    axis = call.axis(len(shape), call.attr("axis", 0))
    rows: Rows | None = None
    for index in range(3):
        forbid(call[index].rows, [axis], "puts by index along")
        rows = meet(rows, call[index].rows)
    if rows is not None:
        _both(call, range(3))
    return Value(shape, rows)


def scatter_nd(call: Call) -> Value:
    """Puts entries or slices by tuples of indices."""
    shape, indices = call.shape(0), call.shape(1)
    depth = indices[-1].constant
    if depth is None:
        raise StoppedError("indexes as many axes as cannot be told")
    data, places, updates = (call[index].rows for index in range(3))
    if data is None and places is None and updates is None:
        return Value(shape)
    if places is not None:
        raise CoupledError("puts entries where rows say, and another row may say the same place")
    forbid(data, range(depth), "puts by position along")
    _both(call, (0, 2))
    moved = updates and updates.at(updates.axis - (len(indices) - 1) + depth)
    return Value(shape, meet(data, moved))


def tensor_scatter(call: Call) -> Value:
    """Writes one piece into each row's cache."""
    shape = call.shape(0)
    rows = meet(call[0].rows, call[1].rows)
    if rows is None:
        if call.get(2) is not None and call[2].rows is not None:
            raise StoppedError("writes into a tensor without rows where rows say")
        return Value(shape)
    _both(call, (0, 1))
    forbid(rows, [call.axis(len(shape), call.attr("axis", -2))], "writes by position along")
    if call.get(2) is not None:
        if rows.axis != 0:
            raise CoupledError(f"has a place for each entry of axis 0, and the rows are on axis {rows.axis}")
        if call[2].rows is None:
            raise CoupledError(f"pairs rows with {call.name(2)} by position, and that has no rows")
        meet(rows, call[2].rows)
    return Value(shape, rows)


def slice_(call: Call) -> Value:
    """A range of places along some axes."""
    shape, rows = list(call.shape(0)), call[0].rows
    starts = call.sizes(1) if call.get(1) is not None else _plain(call.attr("starts"))
    ends = call.sizes(2) if call.get(2) is not None else _plain(call.attr("ends"))
    axes = call.axes(3, len(shape))
    if axes is None:
        known = starts or ends or []
        length = call.shape(1)[0].constant if not known and call.get(1) is not None else len(known)
        axes = list(range(length)) if length is not None else list(range(len(shape)))
    steps = call.sizes(4) if call.get(4) is not None else [ONE] * len(axes)
    for place, axis in enumerate(axes):
        bounds = [values[place] if values is not None else None for values in (starts, ends, steps)]
        if rows is not None and rows.axis == axis:
            rows = _rows_between(shape[axis], rows, *bounds)
            shape[axis] = rows.per_row * N
        else:
            if any(bound is not None and bound.depends_on_rows for bound in bounds):
                raise CoupledError(f"takes as much of axis {axis} as the number of rows says")
            shape[axis] = _between(call, axis, shape[axis], *bounds)
    return Value(tuple(shape), rows)


def _plain(values: Sequence[int] | None) -> list[Size] | None:
    return None if values is None else [Size(value) for value in values]


def _rows_between(size: Size, rows: Rows, start: Size | None, end: Size | None, step: Size | None) -> Rows:
    """Return what a slice leaves of the rows: all of them, or of several blocks of all rows some whole blocks."""
    if rows.uniform:
        rows = replace(rows, outer=rows.per_row, inner=ONE)
    if start is None or end is None or step is None:
        raise StoppedError(f"takes places of axis {rows.axis}, which holds the rows, and which these are cannot be told")
    if step == ONE:
        start = size + start if not start.at_least(0) and (-start).at_least(1) else start
        end = size if (end.constant or 0) >= LAST or end.at_least(size) else end
        end = size + end if not end.at_least(0) and (-end).at_least(1) else end
        block = N * rows.inner
        first, last = start.exactly_divided(block), end.exactly_divided(block)
        if first is not None and last is not None and (last - first).at_least(0) and rows.outer.at_least(last):
            return replace(rows, outer=last - first)
    raise CoupledError(f"takes places from {start} to {end} of axis {rows.axis}, which holds the rows: it picks by position")


def _between(call: Call, axis: int, size: Size, start: Size | None, end: Size | None, step: Size | None) -> Size:
    """Return how many places a slice leaves."""
    if start is None or end is None or step is None:
        return call.fresh(f"slice.{axis}")
    stride = step.constant
    if stride is not None and stride > 0:
        low, high = _bounded(start, size), _bounded(end, size)
        if low is not None and high is not None:
            span = larger(high - low, ZERO)
            return span if stride == 1 else floor_quotient(span + (stride - 1), stride)
    if stride == -1 and start.constant == -1 and end.constant is not None and end.constant < -LAST:
        return size
    return call.fresh(f"slice.{axis}")


def _bounded(place: Size, size: Size) -> Size | None:
    """Return a bound of a slice counted from the front and cut to the axis; None where its sign is open."""
    if (place.constant or 0) >= LAST:
        return size
    if place.at_least(0):
        return smaller(place, size)
    return larger(size + place, ZERO) if (-place).at_least(1) else None


def split(call: Call) -> list[Value]:
    """Pieces along an axis."""
    shape, rows = call.shape(0), call[0].rows
    axis = call.axis(len(shape), call.attr("axis", 0))
    pieces = _pieces(call, shape[axis])
    if rows is None or rows.axis != axis:
        return [Value((*shape[:axis], size, *shape[axis + 1 :]), rows) for size in pieces]
    made, place = [], ZERO
    for size in pieces:
        part = _rows_between(shape[axis], rows, place, place + size, ONE)
        made.append(Value((*shape[:axis], part.per_row * N, *shape[axis + 1 :]), part))
        place = place + size
    return made


def _pieces(call: Call, size: Size) -> list[Size]:
    given = call.attr("split")
    if given is not None:
        return [Size(each) for each in given]
    if call.get(1) is not None:
        return call.sizes(1) or [call.fresh(f"piece.{index}") for index in range(call.outputs)]
    count = call.attr("num_outputs", call.outputs)
    each = size.exactly_divided(Size(count))
    if each is None and size.constant is not None:  # the last piece is smaller
        step = -(-size.constant // count)
        return [Size(max(min(step, size.constant - step * index), 0)) for index in range(count)]
    if each is None and size.depends_on_rows:
        raise CoupledError(f"cuts an axis of {size} entries, n of them rows, in {count} pieces")
    return [each or call.fresh(f"piece.{index}") for index in range(count)]


def concat(call: Call) -> Value:
    """Tensors one after another along an axis."""
    values = [value for value in call.inputs if value is not None]
    shapes = [call.shape(index) for index in range(len(values))]
    return joined(values, shapes, call.axis(len(shapes[0]), call.attr("axis", 0)))


def joined(values: Sequence[Value], shapes: Sequence[Shape], axis: int) -> Value:
    """Return tensors one after another along an axis.

    Raises:
        CoupledError: rows stand beside a tensor that has none, or rows of another place.
        StoppedError: that cannot be told.
    """
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        raise StoppedError("joins tensors of different ranks")
    total = sum((shape[axis] for shape in shapes), ZERO)
    result = list(shapes[0])
    rows: Rows | None = None
    if any(value.rows is not None and value.rows.axis == axis for value in values):
        rows = _stacked(values, axis)
    elif any(value.rows is not None for value in values):
        for value in values:
            rows = meet(rows, value.rows)
        if rows is not None:
            _all_rows(values, shapes, rows)
            result[rows.axis] = rows.per_row * N
    result[axis] = total
    return Value(tuple(result), rows)


def _stacked(values: Sequence[Value], axis: int) -> Rows:
    """Return the rows of blocks that each hold all rows, one block after another."""
    first, *others = [value.rows for value in values]
    if first is None or first.axis != axis or any(rows is None or rows.axis != axis for rows in others):
        raise CoupledError(f"puts other entries before or behind the rows along axis {axis}: their places shift")
    outer = first.outer
    for rows in others:
        if rows is None or rows.inner != first.inner:
            raise CoupledError(f"joins rows of different layouts along axis {axis}")
        outer = outer + rows.outer
    uniform = len(values) == 1 and first.uniform
    return Rows(axis, outer, first.inner, uniform)


def _all_rows(values: Sequence[Value], shapes: Sequence[Shape], rows: Rows) -> None:
    for value, shape in zip(values, shapes, strict=True):
        if value.rows is None:
            size = shape[rows.axis]
            raise (CoupledError if differ(size, ONE) else StoppedError)(
                f"joins the rows with a tensor of {size} entries along axis {rows.axis}, which holds the rows: "
                "that goes for one number of rows only"
            )


def pad(call: Call) -> Value:
    """Adds entries at the ends of axes."""
    shape, rows = list(call.shape(0)), call[0].rows
    pads = call.sizes(1) if call.get(1) is not None else _plain(call.attr("pads"))
    axes = call.axes(3, len(shape))
    axes = list(range(len(shape))) if axes is None else axes
    for place, axis in enumerate(axes):
        before, after = (pads[place], pads[place + len(axes)]) if pads is not None else (None, None)
        if rows is not None and rows.axis == axis:
            if before is None or after is None:
                raise StoppedError(f"pads axis {axis}, which holds the rows, by an amount that is no constant")
            if (before, after) != (ZERO, ZERO):
                raise CoupledError(f"pads axis {axis}, which holds the rows, by {before} and {after}: their places shift")
        elif before is None or after is None or not (shape[axis] + before + after).at_least(0):
            shape[axis] = call.fresh(f"padded.{axis}")
        else:
            shape[axis] = shape[axis] + before + after
            if shape[axis].depends_on_rows:
                raise CoupledError(f"pads axis {axis} by the number of rows")
    return Value(tuple(shape), rows)


def tile(call: Call) -> Value:
    """Repeats a tensor along its axes."""
    shape, rows, repeats = call.shape(0), call[0].rows, call.sizes(1)
    if repeats is None:
        if rows is not None:
            raise StoppedError("repeats as often as cannot be told")
        return Value(tuple(call.fresh_shape(len(shape))))
    times = [each if each.at_least(0) else call.fresh(f"times.{axis}") for axis, each in enumerate(repeats)]
    result = tuple(size * each for size, each in zip(shape, times, strict=True))
    if rows is not None:
        return Value(result, replace(rows, outer=rows.outer * times[rows.axis]))
    holders = [axis for axis, each in enumerate(repeats) if each.depends_on_rows]
    if len(holders) != 1 or repeats[holders[0]].per_row is None:
        return Value(result)
    axis = holders[0]
    if shape[axis] == ONE:
        return Value(result, Rows(axis, ONE, result[axis].per_row or ONE, uniform=True))
    if repeats[axis] == N:
        return Value(result, Rows(axis, ONE, shape[axis]))
    raise StoppedError(f"repeats {shape[axis]} entries {repeats[axis]} times along axis {axis}")


def center_crop_pad(call: Call) -> Value:
    """Cuts or pads axes to a size, around their middle."""
    shape, rows, sizes = list(call.shape(0)), call[0].rows, call.sizes(1)
    axes = call.axes(9, len(shape))
    for place, axis in enumerate(range(len(shape)) if axes is None else axes):
        size = sizes[place] if sizes is not None else call.fresh(f"crop.{axis}")
        if rows is not None and rows.axis == axis and size != shape[axis]:
            raise CoupledError(f"cuts or pads axis {axis}, which holds the rows, to {size} entries")
        if size.depends_on_rows and (rows is None or rows.axis != axis):
            raise CoupledError(f"cuts or pads axis {axis} to the number of rows")
        shape[axis] = size
    return Value(tuple(shape), rows)


RULES: Final[dict[str, Rule]] = {
    "CenterCropPad": center_crop_pad,
    "Concat": concat,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": pad,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Slice": slice_,
    "Split": split,
    "TensorScatter": tensor_scatter,
    "Tile": tile,
}
