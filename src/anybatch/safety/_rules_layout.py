"""Operators that change the shape and keep the entries, and those that make a tensor from a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from anybatch.safety._broadcast import broadcast
from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, forbid
from anybatch.safety._domain import Entries, Rows, Shape, Value, from_array, from_entries, from_tensor
from anybatch.safety._sizes import ONE, ZERO, N, Size, product


def reshape(call: Call) -> Value:
    """The same entries in the same order, under another shape."""
    target = call.sizes(1) if call.get(1) is not None else [Size(size) for size in call.attr("shape", [])]
    if target is None:
        rank = call.shape(1)[0].constant if call.get(1) and call.shape(1) else None
        if call[0].rows is None and rank is not None:
            return Value(tuple(call.fresh_shape(rank)))
        raise StoppedError(f"has a shape ({call.name(1)}) that cannot be told")
    shape = call.shape(0)
    return reshaped(call[0], shape, _solved(shape, target, bool(call.attr("allowzero", 0))))


def _solved(shape: Shape, target: Sequence[Size], zero_is_zero: bool) -> Shape:
    """Return a target of Reshape with its 0 and -1 replaced."""
    solved = list(target)
    if not zero_is_zero:
        for index, size in enumerate(solved):
            if size == ZERO:
                if index >= len(shape):
                    raise StoppedError(f"copies axis {index} of a tensor with {len(shape)} axes")
                solved[index] = shape[index]
    open_ = [index for index, size in enumerate(solved) if not size.at_least(0)]
    if not open_:
        return tuple(solved)
    if len(open_) > 1:
        raise StoppedError("has a shape with several sizes that cannot be told")
    rest = product(size for index, size in enumerate(solved) if index != open_[0])
    whole = product(shape)
    found = ZERO if rest == ZERO else whole.exactly_divided(rest)
    if found is None:
        if whole.depends_on_rows and not rest.depends_on_rows:
            raise CoupledError(f"lays {whole} entries, n of them rows, out as lines of {rest}: rows are cut and joined")
        raise StoppedError(f"lays {whole} entries out in blocks of {rest}, and how many that makes cannot be told")
    solved[open_[0]] = found
    return tuple(solved)


def reshaped(value: Value, shape: Shape, target: Shape) -> Value:
    """Return a tensor under another shape.

    Raises:
        CoupledError: the rows end up across axes.
        StoppedError: that cannot be told, or the shape fits one number of rows only.
    """
    rows = value.rows
    if rows is None:
        return Value(target)
    if product(shape) != product(target):
        raise StoppedError(
            f"has a shape of {product(target)} entries for {product(shape)} (n rows): it fits some numbers of rows only"
        )
    holders = [axis for axis, size in enumerate(target) if size.depends_on_rows]
    if len(holders) != 1 or target[holders[0]].per_row is None:
        raise CoupledError(f"spreads the rows of axis {rows.axis} over several axes")
    for split in _splits(rows):
        found = _placed(split, shape, target, holders[0])
        if found is not None:
            return Value(target, found)
    raise CoupledError(f"moves entries of other rows into the place of a row: axis {rows.axis} is not kept together")


def _splits(rows: Rows) -> list[Rows]:
    if not rows.uniform:
        return [rows]
    return [rows, Rows(rows.axis, ONE, rows.per_row, True), Rows(rows.axis, rows.per_row, ONE, True)]


def _placed(rows: Rows, shape: Shape, target: Shape, axis: int) -> Rows | None:
    """Return where the rows are under the new shape: what stands before and after them stays as much."""
    outer = (product(shape[: rows.axis]) * rows.outer).exactly_divided(product(target[:axis]))
    inner = (product(shape[rows.axis + 1 :]) * rows.inner).exactly_divided(product(target[axis + 1 :]))
    if outer is None or inner is None:
        return None
    # A repeated entry stays one only where the axis takes nothing in from its neighbours and gives them nothing.
    alone = product(shape[: rows.axis]) == product(target[:axis]) and shape[rows.axis] == target[axis]
    return Rows(axis, outer, inner, rows.uniform and alone)


def flatten(call: Call) -> Value:
    """Two axes: all before one, and all from it on."""
    shape = call.shape(0)
    axis = call.attr("axis", 1)
    axis = axis if axis == len(shape) else call.axis(len(shape), axis)
    return reshaped(call[0], shape, (product(shape[:axis]), product(shape[axis:])))


def transpose(call: Call) -> Value:
    """Axes in another order."""
    shape, rows = call.shape(0), call[0].rows
    order = call.attr("perm") or list(reversed(range(len(shape))))
    if sorted(order) != list(range(len(shape))):
        raise StoppedError(f"orders {len(shape)} axes as {order}")
    return Value(tuple(shape[axis] for axis in order), rows and rows.at(order.index(rows.axis)))


def squeeze(call: Call) -> Value:
    """Removes axes of one entry; all such axes where none are named."""
    shape, rows = call.shape(0), call[0].rows
    axes = call.axes(1, len(shape))
    if axes is None:
        if rows is not None and (rows.per_row.least or 0) < 2:
            raise CoupledError(f"removes every axis of one entry, so for one row also axis {rows.axis}, which holds it")
        if any(size.constant is None for axis, size in enumerate(shape) if rows is None or axis != rows.axis):
            raise StoppedError("removes every axis of one entry, and which these are cannot be told")
        axes = [axis for axis, size in enumerate(shape) if size == ONE]
    if rows is not None and rows.axis in axes:
        raise CoupledError(f"removes axis {rows.axis}, which holds the rows: that goes for one row only")
    left = [axis for axis in range(len(shape)) if axis not in axes]
    return Value(tuple(shape[axis] for axis in left), rows and rows.at(left.index(rows.axis)))


def unsqueeze(call: Call) -> Value:
    """Adds axes of one entry."""
    shape, rows = call.shape(0), call[0].rows
    given = call.attr("axes") or call.numbers(1)
    if given is None:
        raise StoppedError("adds axes at places that are no constant")
    rank = len(shape) + len(given)
    new = {call.axis(rank, int(axis)) for axis in given}
    old = [axis for axis in range(rank) if axis not in new]
    if len(old) != len(shape):
        raise StoppedError(f"adds axes at {list(given)}, some twice")
    sizes = dict(zip(old, shape, strict=True))
    return Value(tuple(sizes.get(axis, ONE) for axis in range(rank)), rows and rows.at(old[rows.axis]))


def expand(call: Call) -> Value:
    """Repeats along axes of one entry, up to a shape."""
    target = call.sizes(1)
    if target is None:
        length = call.shape(1)[0].constant if call.shape(1) else None
        if call[0].rows is not None or length is None:
            raise StoppedError(f"has a shape ({call.name(1)}) that cannot be told")
        return Value(tuple(call.fresh_shape(max(length, len(call.shape(0))))))
    return broadcast([call[0], full(call, target)])


def full(call: Call, target: Sequence[Size]) -> Value:
    """Return a tensor of one repeated entry, as if it had rows where its shape holds their number."""
    shape = tuple(size if size.at_least(0) else call.fresh(f"full.{axis}") for axis, size in enumerate(target))
    if any(not size.known for size in target):
        raise StoppedError("makes a shape that depends on the number of rows in a way that cannot be told")
    holders = [axis for axis, size in enumerate(shape) if size.depends_on_rows]
    if not holders:
        return Value(shape)
    if len(holders) > 1:
        return Value(shape, counts=True)
    per_row = shape[holders[0]].per_row
    if per_row is None:
        raise StoppedError(f"makes an axis of {shape[holders[0]]} entries for n rows")
    return Value(shape, Rows(holders[0], ONE, per_row, uniform=True))


def constant_of_shape(call: Call) -> Value:
    """One number repeated."""
    target = call.sizes(0)
    if target is not None:
        return full(call, target)
    length = call.shape(0)[0].constant
    if length is None:
        raise StoppedError(f"has a shape ({call.name(0)}) that cannot be told")
    return Value(tuple(call.fresh_shape(length)))


def constant(call: Call) -> Value:
    """A constant, in one of its spellings."""
    if (tensor := call.attr("value")) is not None:
        return from_tensor(tensor)
    for name, dtype in (
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_float", np.float32),
        ("value_floats", np.float32),
    ):
        if (value := call.attr(name)) is not None:
            return from_array(np.array(value, dtype))
    if (sparse := call.attr("sparse_value")) is not None:
        return Value(tuple(map(Size, sparse.dims)))
    texts = call.attr("value_strings")
    return Value(()) if texts is None else Value((Size(len(texts)),))


def shape_of(call: Call) -> Value:
    """The sizes of a tensor, whatever it holds."""
    shape = call.shape(0)
    start, end = call.attr("start", 0), call.attr("end")
    return from_entries(_vector(shape[slice(start, end)]))


def size_of(call: Call) -> Value:
    """The number of a tensor's entries, whatever they are."""
    entries = np.empty((), object)
    entries[()] = product(call.shape(0))
    return from_entries(entries)


def _vector(sizes: Sequence[Size]) -> Entries:
    entries = np.empty(len(sizes), object)
    entries[:] = list(sizes)
    return entries


def eye_like(call: Call) -> Value:
    """A unit matrix as large as a tensor."""
    shape = call.shape(0)
    return Value(shape, counts=any(size.depends_on_rows for size in shape))


def count_up(call: Call) -> Value:
    """Numbers from a start to a limit."""
    counts = any(call[index].counts for index in range(3))
    start, limit, step = (call.sizes(index) for index in range(3))
    if start and limit and step and step[0] == ONE and (limit[0] - start[0]).at_least(0):
        own = Rows(0) if start[0] == ZERO and limit[0] == N else None
        return Value((limit[0] - start[0],), counts=counts, own=own)
    return Value(counts=True) if counts else Value((call.fresh("length"),))


def blocks(call: Call) -> Value:
    """Moves between channels and places of each image."""
    shape, rows, block = call.shape(0), call[0].rows, Size(call.attr("blocksize", 1))
    forbid(rows, range(1, len(shape)), "rearranges")
    if len(shape) != 4:
        raise StoppedError(f"expects images with 4 axes, and has {len(shape)}")
    to_space = call.node.op_type == "DepthToSpace"
    count, channels, height, width = shape
    if to_space:
        channels = channels.exactly_divided(block * block) or call.fresh("channels")
        return Value((count, channels, height * block, width * block), rows)
    high, wide = (size.exactly_divided(block) or call.fresh(name) for name, size in (("high", height), ("wide", width)))
    return Value((count, channels * block * block, high, wide), rows)


RULES: Final[dict[str, Rule]] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": blocks,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "Range": count_up,
    "Reshape": reshape,
    "Shape": shape_of,
    "Size": size_of,
    "SpaceToDepth": blocks,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
