"""Operators that run along a sequence of each row: recurrent layers, attention, state-space layers."""

from __future__ import annotations

from typing import Final

from anybatch.safety._broadcast import broadcast
from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, meet
from anybatch.safety._domain import Rows, Value
from anybatch.safety._sizes import ONE, Size


def recurrent(call: Call) -> list[Value]:
    """LSTM, GRU and RNN: axis 0 is time and axis 1 the batch, or the other way round."""
    batch_first = bool(call.attr("layout", 0))
    batch = 0 if batch_first else 1
    rows = call[0].rows
    if rows is not None and rows.axis == 1 - batch:
        raise CoupledError(f"carries its state along axis {rows.axis}, which holds the rows, from one to the next")
    if rows is not None and rows.axis == 2:
        raise CoupledError("sums over axis 2, which holds the rows")
    for index in (1, 2, 3, 7):
        if call.get(index) is not None and call[index].rows is not None:
            raise CoupledError(f"applies what rows say ({call.name(index)}) to every row")
    for index, axis in ((4, 0), (5, batch), (6, batch)):
        rows = _beside(call, index, axis, rows, batch)
    shape = call.shape(0)
    directions, hidden = call.shape(1)[0], call.shape(2)[-1]
    states = (shape[batch], directions, hidden) if batch_first else (directions, shape[batch], hidden)
    every = (shape[0], shape[1], directions, hidden) if batch_first else (shape[0], directions, shape[1], hidden)
    last = Value(states, rows and rows.at(batch))
    return [Value(every, rows and rows.at(0 if batch_first else 2)), last, last]


def _beside(call: Call, index: int, axis: int, rows: Rows | None, batch: int) -> Rows | None:
    """Return the rows of the input together with those of a tensor with one entry per row."""
    value = call.get(index)
    if value is None:
        return rows
    if rows is None or value.rows is None:
        if rows is None and value.rows is None:
            return None
        raise StoppedError(f"pairs rows with {call.name(index)}, and only one of both has rows: one number of rows goes only")
    if value.rows.axis != axis:
        raise CoupledError(f"pairs rows with {call.name(index)}, which holds its rows along axis {value.rows.axis}")
    return meet(rows, value.rows.at(batch))


def _together(call: Call, *indices: int) -> Rows | None:
    """Return the rows that some inputs hold on axis 0, all of them or none.

    Raises:
        CoupledError: one holds them elsewhere.
        StoppedError: one has none.
    """
    rows: Rows | None = None
    given = [index for index in indices if call.get(index) is not None]
    for index in given:
        own = call[index].rows
        if own is not None and own.axis != 0:
            raise CoupledError(f"joins entries along axis {own.axis}, which holds the rows of {call.name(index)}")
        rows = meet(rows, own)
    for index in given:
        if rows is not None and call[index].rows is None:
            raise StoppedError(f"pairs rows with {call.name(index)}, which has none: that goes for one number of rows only")
    return rows


def attention(call: Call) -> list[Value]:
    """Attention of each row's queries to its own keys and values; a mask is broadcast."""
    rows = _together(call, 0, 1, 2, 4, 5, 6)
    query, key, value = (call.shape(index) for index in range(3))
    heads = [Size(call.attr(name, 1)) for name in ("q_num_heads", "kv_num_heads")] if len(query) == 3 else [query[1], key[1]]
    past = call.shape(4)[2] if call.get(4) is not None else Size(0)
    length = (key[1] if len(query) == 3 else key[2]) + past
    places = query[1] if len(query) == 3 else query[2]
    width = (value[2].exactly_divided(heads[1]) if len(query) == 3 else value[3]) or call.fresh("width")
    depth = (key[2].exactly_divided(heads[1]) if len(query) == 3 else key[3]) or call.fresh("depth")
    scores = Value((query[0], heads[0], places, length), rows)
    if call.get(3) is not None:
        mask = call.shape(3)
        # Its last axis may be shorter than the keys; what is missing is masked.
        last = length if call[3].rows is None or call[3].rows.axis != len(mask) - 1 else mask[-1]
        scores = broadcast([scores, Value((*mask[:-1], last), call[3].rows)])
        if scores.shape is None or len(scores.shape) != 4 or scores.rows != rows:
            raise StoppedError("has a mask that holds rows where the queries hold none")
    result = (query[0], places, heads[0] * width) if len(query) == 3 else (query[0], heads[0], places, width)
    kept = [Value((query[0], heads[1], length, each), rows) for each in (depth, width)]
    return [Value(result, rows), *kept, Value(scores.shape, rows)]


def rotary(call: Call) -> Value:
    """Turns pairs of entries by an angle for each position in the sequence."""
    rows = call[0].rows
    if rows is not None and rows.axis != 0:
        raise CoupledError(f"turns entries by their place along axis {rows.axis}, which holds the rows")
    positions = call.get(3)
    if positions is not None:
        if positions.rows is None and rows is not None:
            raise StoppedError(f"pairs rows with {call.name(3)}, which has none: that goes for one number of rows only")
        rows = _together(call, 0, 3)
        if call[1].rows is not None or call[2].rows is not None:
            raise CoupledError("looks angles up in a table that rows say")
    else:
        rows = _together(call, 0, 1, 2)
    return Value(call[0].shape, rows)


def linear_attention(call: Call) -> list[Value]:
    """A recurrence along axis 1, for each row its own."""
    rows = _together(call, *range(6))
    query, key, value = (call.shape(index) for index in range(3))
    own, shared = Size(call.attr("q_num_heads", 1)), Size(call.attr("kv_num_heads", 1))
    width = value[2].exactly_divided(shared) or call.fresh("width")
    depth = key[2].exactly_divided(shared) or call.fresh("depth")
    return [Value((*query[:2], own * width), rows), Value((query[0], shared, depth, width), rows)]


def causal_convolution(call: Call) -> list[Value]:
    """A convolution along axis 2 of each row, with what came before."""
    rows = _together(call, 0, 3)
    shape = call.shape(0)
    return [Value(shape, rows), Value((*shape[:2], call.shape(1)[2] - ONE), rows)]


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(["GRU", "LSTM", "RNN"], recurrent),
    "Attention": attention,
    "CausalConvWithState": causal_convolution,
    "LinearAttention": linear_attention,
    "RotaryEmbedding": rotary,
}
