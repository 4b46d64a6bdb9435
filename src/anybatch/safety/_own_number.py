"""Indices that are the number of the row they stand in: ``x[arange(n), chosen]`` picks from each row for that row alone.

``Range(0, n)`` depends on the rows' positions, so wherever it enters it couples. But where it is an index into the axis of the
rows, row i reads or writes row i. So a count remembers that it is such a number (`Value.own`) through operators that only move
or repeat entries, and tuples of such numbers beside what rows say (`Value.tuples`) until they index. Those tuples stay blamed:
for every other operator they are as coupled as without.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import onnx

from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, meet
from anybatch.safety._domain import Rows, Tuples, Value
from anybatch.safety._rules_entry import same
from anybatch.safety._rules_layout import expand, reshape, squeeze, transpose, unsqueeze
from anybatch.safety._rules_place import concat
from anybatch.safety._sizes import ONE

# They move entries or repeat them, and make none.
_MOVES: Final[dict[str, Rule]] = {
    "Cast": same,
    "Expand": expand,
    "Identity": same,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
_WIDE: Final = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def by_own_number(call: Call) -> Value | None:
    """Return what a node makes of rows' own numbers; None where it uses none, or the ordinary rules have to tell."""
    op, first = call.node.op_type, call.get(0)
    if first is None or (op == "Cast" and call.attr("to") not in _WIDE):
        return None
    try:
        if op in _MOVES and first.own is not None:
            moved = _MOVES[op](replace(call, inputs=(_as_rows(first), *call.inputs[1:])))
            return Value(moved.shape, counts=True, own=moved.rows) if isinstance(moved, Value) else None
        if op in ("Cast", "Identity") and first.tuples is not None:
            return first
        indices = call.get(1)
        if op in ("GatherND", "ScatterND") and indices is not None and indices.tuples is not None and _single(first.rows):
            return _picked(call, indices.tuples) if op == "GatherND" else _put(call, indices.tuples)
    except (CoupledError, StoppedError):
        pass
    return None


def tuples_of(call: Call) -> Tuples | None:
    """Return what a node that joins rows with their own numbers makes: tuples of indices, along the last axis."""
    values = [value for value in call.inputs if value is not None]
    if call.node.op_type != "Concat" or not any(value.own for value in values):
        return None
    if any(value.blame or value.items is not None or (value.counts and value.own is None) for value in values):
        return None
    shapes = [call.shape(index) for index in range(len(values))]
    last = len(shapes[0]) - 1
    if call.axis(last + 1, call.attr("axis", 0)) != last or any(shape[-1] != ONE for shape in shapes):
        return None
    try:
        joined = concat(replace(call, inputs=tuple(map(_as_rows, values))))
    except (CoupledError, StoppedError):
        return None
    if joined.rows is None or joined.shape is None or joined.rows.axis == last:
        return None
    return Tuples(joined.shape, joined.rows, frozenset(place for place, value in enumerate(values) if value.own))


def _as_rows(value: Value) -> Value:
    """Return a value as if its numbers were what rows hold: where rules keep rows apart, each number stays in its row."""
    return value if value.own is None else Value(value.shape, value.own)


def _single(rows: Rows | None) -> bool:
    """Whether place i of the rows' axis is row i."""
    return rows is not None and rows.per_row == ONE


def _picked(call: Call, tuples: Tuples) -> Value | None:
    shape, data, depth = call.shape(0), call[0], tuples.shape[-1].constant
    if data.blame or data.rows is None or depth is None or call.attr("batch_dims", 0) or tuples.own != {data.rows.axis}:
        return None
    return Value((*tuples.shape[:-1], *shape[depth:]), tuples.rows)


def _put(call: Call, tuples: Tuples) -> Value | None:
    data, updates = call[0], call[2]
    if data.blame or data.rows is None or updates.blame or updates.rows is None or tuples.own != {data.rows.axis}:
        return None
    meet(tuples.rows, updates.rows)  # else another row's entries are put into this one
    return Value(call.shape(0), replace(data.rows, uniform=False))
