"""Control flow: bodies are analysed with what they are handed, loops until nothing changes any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, meet
from anybatch.safety._domain import Rows, Shape, Value
from anybatch.safety._sizes import Size

ROUNDS: Final = 10  # of a loop; each makes at least one state or size more general


def if_(call: Call) -> list[Value]:
    """One of two bodies."""
    _check_decision(call[0], "chooses its branch by")
    chosen = call.numbers(0)
    if chosen:
        return call.analyse_body("then_branch" if chosen[0] else "else_branch", ())
    branches = [call.analyse_body(name, ()) for name in ("then_branch", "else_branch")]
    return [joined(call, f"if.{place}", one, other) for place, (one, other) in enumerate(zip(*branches, strict=True))]


def _check_decision(value: Value, does: str) -> None:
    if value.rows is not None:
        raise CoupledError(f"{does} the content of rows: one row decides for all")
    if value.counts:
        raise CoupledError(f"{does} the number of rows")


def joined(call: Call, key: str, one: Value, other: Value) -> Value:
    """Return what holds of a tensor that is one or the other, by the un-batched inputs alone.

    Raises:
        StoppedError: nothing that could be said.
    """
    for value in sorted((one, other), key=lambda each: not (each.blame is not None and each.blame.coupled)):
        if value.blame is not None:
            return replace(value, tuples=None)
    if one.items is not None or other.items is not None:
        if one.items is None or other.items is None or len(one.items) != len(other.items):
            raise StoppedError("makes a sequence of one length or another")
        pairs = enumerate(zip(one.items, other.items, strict=True))
        return Value(items=tuple(joined(call, f"{key}.{place}", a, b) for place, (a, b) in pairs))
    if one.counts or other.counts:
        if one.rows is not None or other.rows is not None:
            raise StoppedError("passes on rows in one case and their number in another")
        return one if same_entries(one, other) else Value(counts=True)
    if (one.rows is None) != (other.rows is None):
        raise StoppedError("passes on rows in one case and none in another")
    try:
        rows = meet(one.rows, other.rows)
    except CoupledError as error:
        raise StoppedError("passes on rows at one place or another") from error
    entries = one.entries if same_entries(one, other) else None
    return Value(_joined_shape(call, key, one.shape, other.shape, rows), rows, entries=entries)


def _joined_shape(call: Call, key: str, one: Shape | None, other: Shape | None, rows: Rows | None) -> Shape | None:
    if one is None or other is None or len(one) != len(other):
        if rows is not None:
            raise StoppedError("passes on tensors of one rank or another")
        return None
    return tuple(a if a == b else call.fresh(f"{key}.{axis}") for axis, (a, b) in enumerate(zip(one, other, strict=True)))


def same_entries(one: Value, other: Value) -> bool:
    """Whether two tensors are known to hold the same."""
    if one.entries is None or other.entries is None or one.entries.shape != other.entries.shape:
        return False
    return all(a == b for a, b in zip(one.entries.flat, other.entries.flat, strict=True))


def _unchanged(one: Value, other: Value) -> bool:
    if replace(one, entries=None, items=None) != replace(other, entries=None, items=None):
        return False
    if one.items is not None or other.items is not None:
        items = zip(one.items or (), other.items or (), strict=False)
        return len(one.items or ()) == len(other.items or ()) and all(_unchanged(a, b) for a, b in items)
    return (one.entries is None and other.entries is None) or same_entries(one, other)


def _settled(call: Call, name: str, before: Sequence[Value], states: list[Value]) -> tuple[list[Value], list[Value]]:
    """Return states that a body turns into such states, and what the body returns then."""
    skipped = 1 if before else 0  # a loop's condition
    for _ in range(ROUNDS):
        made = call.analyse_body(name, [*before, *states])
        if skipped:
            if made[0].blame is not None:
                return [made[0]] * len(states), [made[0]] * len(made)
            _check_decision(made[0], "ends by")
        after = [
            joined(call, f"state.{place}", old, new)
            for place, (old, new) in enumerate(zip(states, made[skipped:], strict=False))
        ]
        if all(_unchanged(old, new) for old, new in zip(states, after, strict=True)):
            return states, made[skipped + len(states) :]
        states = after
    raise StoppedError("carries a state that is another after each round")


def loop(call: Call) -> list[Value]:
    """A body, over and over, with a state that it hands to itself."""
    for value, what in ((call.get(0), "runs as often as"), (call.get(1), "starts by")):
        if value is not None:
            _check_decision(value, what + " told by" if value is call.get(0) else what)
    states = [value for value in call.inputs[2:] if value is not None]
    states, made = _settled(call, "body", [Value(()), Value(())], states)
    return [*states, *[_stack(call, 0, value, call.fresh("rounds")) for value in made]]


def _stack(call: Call, axis: int, value: Value, count: Size) -> Value:
    """Return what the rounds of a body make, one after another along a new axis."""
    if value.blame is not None or value.counts:
        return Value(counts=True) if value.counts else value
    if value.shape is None:
        return Value()
    axis = call.axis(len(value.shape) + 1, axis)
    rows = value.rows and value.rows.at(value.rows.axis + (axis <= value.rows.axis))
    return Value((*value.shape[:axis], count, *value.shape[axis:]), rows)


def scan(call: Call) -> list[Value]:
    """A body for each entry along an axis, with a state that it hands on."""
    if call.opset < 9:
        raise StoppedError("is of operator set 8, where it has a batch of its own")
    count = call.attr("num_scan_inputs", 0)
    states, inputs = list(call.inputs[: len(call.inputs) - count]), call.inputs[len(call.inputs) - count :]
    axes = call.attr("scan_input_axes", [0] * count)
    slices = [_slice(call, value, axis, bool(states)) for value, axis in zip(inputs, axes, strict=True)]
    first = inputs[0].shape if inputs and inputs[0] is not None else None
    length = first[call.axis(len(first), axes[0])] if first is not None else call.fresh("rounds")
    # The states come before the slices, so that the body is handed both by name of place.
    settled = [value or Value() for value in states]
    for _ in range(ROUNDS):
        made = call.analyse_body("body", [*settled, *slices])
        after = [joined(call, f"state.{place}", old, made[place]) for place, old in enumerate(settled)]
        if all(_unchanged(old, new) for old, new in zip(settled, after, strict=True)):
            outputs = made[len(settled) :]
            places = call.attr("scan_output_axes", [0] * len(outputs))
            stacked = [_stack(call, axis, value, length) for value, axis in zip(outputs, places, strict=True)]
            return [*settled, *stacked]
        settled = after
    raise StoppedError("carries a state that is another after each round")


def _slice(call: Call, value: Value | None, axis: int, carries: bool) -> Value:
    if value is None or value.shape is None:
        raise StoppedError("runs along a tensor whose rank cannot be told")
    axis = call.axis(len(value.shape), axis)
    if value.rows is not None and value.rows.axis == axis:
        if carries:
            raise CoupledError(f"carries its state along axis {axis}, which holds the rows, from one to the next")
        raise StoppedError(f"runs its body for each entry of axis {axis}, which holds the rows")
    rows = value.rows and value.rows.at(value.rows.axis - (axis < value.rows.axis))
    return Value((*value.shape[:axis], *value.shape[axis + 1 :]), rows)


RULES: Final[dict[str, Rule]] = {"If": if_, "Loop": loop, "Scan": scan}
