"""Sequences and optionals of tensors, whose number is known."""

from __future__ import annotations

from typing import Final

import numpy as np

from anybatch.safety._call import Call, CoupledError, Rule, StoppedError
from anybatch.safety._domain import Value, from_array
from anybatch.safety._rules_place import joined
from anybatch.safety._sizes import Size


def _items(call: Call, index: int = 0) -> tuple[Value, ...]:
    items = call[index].items
    if items is None:
        raise StoppedError(f"reads a sequence ({call.name(index)}) whose length cannot be told")
    return items


def _position(call: Call, index: int, length: int) -> int:
    position = call.number(index, length, "a position")
    return position + length if position < 0 else position


def construct(call: Call) -> Value:
    """A sequence of the inputs."""
    return Value(items=tuple(value for value in call.inputs if value is not None))


def at(call: Call) -> Value:
    """One tensor of a sequence."""
    items = _items(call)
    position = _position(call, 1, len(items))
    if not 0 <= position < len(items):
        raise StoppedError(f"reads tensor {position} of {len(items)}")
    return items[position]


def insert(call: Call) -> Value:
    """A sequence with one tensor more."""
    items = _items(call)
    position = _position(call, 2, len(items))
    return Value(items=(*items[:position], call[1], *items[position:]))


def erase(call: Call) -> Value:
    """A sequence with one tensor less."""
    items = _items(call)
    position = _position(call, 1, len(items) - 1) if call.get(1) is None else _position(call, 1, len(items))
    return Value(items=(*items[:position], *items[position + 1 :]))


def length(call: Call) -> Value:
    """How many tensors a sequence has."""
    return from_array(np.array(len(_items(call)), np.int64))


def concat(call: Call) -> Value:
    """The tensors of a sequence, one after another along an axis, or along a new one."""
    items = _items(call)
    for item in items:
        if item.blame is not None:
            return item
    if any(item.counts for item in items):
        if any(item.rows for item in items):
            raise CoupledError("joins rows with their number or positions")
        return Value(counts=True)
    shapes = [item.shape for item in items if item.shape is not None]
    if len(shapes) < len(items) or not items:
        raise StoppedError("joins tensors whose rank cannot be told")
    rank = len(shapes[0]) + bool(call.attr("new_axis", 0))
    axis = call.axis(rank, call.attr("axis", 0))
    if call.attr("new_axis", 0):
        items = tuple(
            Value(
                (*shape[:axis], Size(1), *shape[axis:]), item.rows and item.rows.at(item.rows.axis + (axis <= item.rows.axis))
            )
            for item, shape in zip(items, shapes, strict=True)
        )
        shapes = [item.shape or () for item in items]
    return joined(items, shapes, axis)


def split(call: Call) -> Value:
    """A sequence of pieces along an axis."""
    shape, rows = call.shape(0), call[0].rows
    axis = call.axis(len(shape), call.attr("axis", 0))
    size = shape[axis].constant
    if rows is not None and rows.axis == axis:
        raise CoupledError(f"cuts axis {axis}, which holds the rows, by position")
    given = call.numbers(1) if call.get(1) is not None else [1]
    if size is None or given is None:
        raise StoppedError("makes as many pieces as cannot be told")
    if call.get(1) is None or call.shape(1) == ():
        step = int(given[0])
        given = [min(step, size - start) for start in range(0, size, step)]
    keep = call.get(1) is not None or bool(call.attr("keepdims", 1))
    moved = rows and (rows if keep else rows.at(rows.axis - (axis < rows.axis)))
    return Value(
        items=tuple(Value((*shape[:axis], *([Size(int(each))] if keep else []), *shape[axis + 1 :]), moved) for each in given)
    )


def sequence_map(call: Call) -> list[Value]:
    """A body for each tensor of a sequence."""
    count = len(_items(call))
    rounds = [
        call.analyse_body(
            "body", [value if value.items is None else value.items[place] for value in call.inputs if value is not None]
        )
        for place in range(count)
    ]
    return [Value(items=tuple(made[output] for made in rounds)) for output in range(call.outputs)]


def optional(call: Call) -> Value:
    """A tensor that may be missing."""
    return Value(items=tuple(value for value in call.inputs if value is not None))


def get_element(call: Call) -> Value:
    """The tensor of an optional."""
    items = call[0].items
    if items is None:
        return call[0]
    if len(items) != 1:
        raise StoppedError("reads an optional that is empty, or a sequence")
    return items[0]


def has_element(call: Call) -> Value:
    """Whether an optional holds a tensor."""
    value = call.get(0)
    return from_array(np.array(value is not None and value.items != ()))


RULES: Final[dict[str, Rule]] = {
    "ConcatFromSequence": concat,
    "Optional": optional,
    "OptionalGetElement": get_element,
    "OptionalHasElement": has_element,
    "SequenceAt": at,
    "SequenceConstruct": construct,
    "SequenceEmpty": construct,
    "SequenceErase": erase,
    "SequenceInsert": insert,
    "SequenceLength": length,
    "SequenceMap": sequence_map,
    "SplitToSequence": split,
}
