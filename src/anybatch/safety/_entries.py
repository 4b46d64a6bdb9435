"""Follows the entries of small tensors without rows, so that sizes that travel as values come out as sizes again."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Final

import numpy as np
import onnx

from anybatch.safety._call import Call
from anybatch.safety._domain import KEPT_ENTRIES, Entries
from anybatch.safety._sizes import ONE, UNKNOWN, ZERO, Size, function_of, larger, product, quotient, smaller

WIDE: Final = {onnx.TensorProto.INT32, onnx.TensorProto.INT64}
FLOATS: Final[dict[int, type[np.floating[Any]]]] = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}


class _NotFollowed(Exception):  # noqa: N818  # no error: it ends an attempt
    """The entries cannot be told."""


def evaluate(call: Call) -> list[Entries] | None:
    """Return the entries of a node's outputs; None where they cannot be told."""
    rule = RULES.get(call.node.op_type)
    if rule is None:
        return None
    try:
        made = rule(call)
    except (_NotFollowed, IndexError, ValueError, TypeError, ZeroDivisionError, OverflowError):
        return None  # what the model says of these small tensors does not fit; their shapes may be known all the same
    return made if all(_fits(each) for each in made) else None


def _fits(entries: Entries) -> bool:
    numbers = (entry.constant for entry in entries.flat if isinstance(entry, Size))
    return entries.size <= KEPT_ENTRIES and all(-(2**63) <= (number or 0) < 2**63 for number in numbers)


def _entries(call: Call, index: int) -> Entries:
    value = call.get(index)
    if value is None or value.entries is None:
        raise _NotFollowed
    return value.entries


def _numbers(call: Call, index: int) -> list[int]:
    numbers = call.numbers(index)
    if numbers is None:
        raise _NotFollowed
    return [int(number) for number in numbers]


def _array(values: Any) -> Entries:
    return np.asarray(values, object)


def _each(function: Callable[..., Any]) -> Callable[[Call], list[Entries]]:
    def rule(call: Call) -> list[Entries]:
        arrays = np.broadcast_arrays(*(_entries(call, index) for index in range(len(call.inputs))))
        made = np.empty(arrays[0].shape, object)
        for index in np.ndindex(made.shape):
            made[index] = function(*(array[index] for array in arrays))
        return [made]

    return rule


def _alike(function: Callable[[Size, Size], Any], on_floats: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def either(one: Any, other: Any) -> Any:
        if isinstance(one, Size) and isinstance(other, Size):
            return function(one, other)
        if isinstance(one, Size) or isinstance(other, Size):
            raise _NotFollowed  # no operator takes an integer and a float
        return on_floats(one, other)

    return either


def _truth(known: bool | None, *sizes: Size) -> Size:
    if known is not None:
        return Size(int(known))
    return function_of("truth", *sizes) if not any(size.depends_on_rows for size in sizes) else UNKNOWN


def _equal(one: Size, other: Size) -> Size:
    apart = (one - other).least, (other - one).least
    known = True if one == other else False if any((gap or 0) > 0 for gap in apart) else None
    return _truth(known) if known is not None else function_of("equal", *sorted((one, other), key=str))


def _less(one: Size, other: Size) -> Size:
    if (other - one).at_least(1):
        return ONE
    return ZERO if one.at_least(other) else function_of("less", one, other)


def _not(one: Size) -> Size:
    return ONE - one if one in (ZERO, ONE) else function_of("not", one)


def _and(one: Size, other: Size) -> Size:
    if ZERO in (one, other):
        return ZERO
    return ONE if one == ONE == other else function_of("and", one, other)


def _or(one: Size, other: Size) -> Size:
    return _not(_and(_not(one), _not(other)))


def _divided(one: Size, other: Size) -> Size:
    if other == ZERO:
        raise _NotFollowed
    return quotient(one, other)


def _modulo(one: Size, other: Size) -> Size:
    if one.constant is not None and other.constant:
        return Size(one.constant % other.constant)
    return ZERO if other != ZERO and one.exactly_divided(other) is not None else function_of("mod", one, other)


def _remainder(call: Call) -> list[Entries]:
    if call.attr("fmod", 0):
        raise _NotFollowed
    return _each(_alike(_modulo, operator.mod))(call)


def _chosen(condition: Size, one: Any, other: Any) -> Any:
    if condition.constant is not None:
        return one if condition.constant else other
    if not (isinstance(one, Size) and isinstance(other, Size)):
        raise _NotFollowed
    return one if one == other else function_of("where", condition, one, other)


def _integers_only(value: Any) -> Size:
    if not isinstance(value, Size):
        raise _NotFollowed
    return value


def _absolute(value: Any) -> Any:
    if not isinstance(value, Size):
        return abs(value)
    return value if value.at_least(0) else larger(value, -value)


def _cast(call: Call) -> list[Entries]:
    to = call.attr("to")
    made = np.empty(_entries(call, 0).shape, object)
    for index, entry in np.ndenumerate(_entries(call, 0)):
        made[index] = _casted(entry, to)
    return [made]


def _casted(entry: Any, to: int) -> Any:
    if to == onnx.TensorProto.BOOL:
        return _not(_equal(_integers_only(entry), ZERO))
    if to in FLOATS:
        number = entry.constant if isinstance(entry, Size) else entry
        if number is None:
            raise _NotFollowed  # a float may not hold it exactly
        return FLOATS[to](number)
    if to not in WIDE:
        raise _NotFollowed  # it may not fit
    if isinstance(entry, Size):
        return entry
    if not np.isfinite(entry) or abs(entry) >= 2**31:
        raise _NotFollowed
    return Size(int(entry))


def _gather(call: Call) -> list[Entries]:
    data, axis = _entries(call, 0), call.attr("axis", 0)
    shape = call.shape(1)
    places = np.array(_numbers(call, 1), np.int64).reshape([size.constant or 0 for size in shape])
    return [_array(np.take(data, places, axis))]


def _slice(call: Call) -> list[Entries]:
    data = _entries(call, 0)
    starts = call.attr("starts") or _numbers(call, 1)
    ends = call.attr("ends") or _numbers(call, 2)
    axes = call.axes(3, data.ndim)
    axes = list(range(len(starts))) if axes is None else axes
    steps = _numbers(call, 4) if call.get(4) is not None else [1] * len(starts)
    ranges = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        backwards = step < 0 and end < -data.shape[axis]  # beyond the first entry, which Python would count from the end
        ranges[axis] = slice(start, None if backwards else end, step)
    return [data[tuple(ranges)]]


def _concat(call: Call) -> list[Entries]:
    arrays = [_made_up(call, index) for index in range(len(call.inputs))]
    return [np.concatenate(arrays, axis=call.attr("axis", 0))]


def _made_up(call: Call, index: int) -> Entries:
    """Return entries, or a size of its own for each integer of which only the number is known."""
    value = call[index]
    if value.entries is not None:
        return value.entries
    integers = any(other is not None and other.entries is not None and _integral(other.entries) for other in call.inputs)
    shape = [size.constant for size in value.shape or (Size(None),)]
    if not value.common or not integers or None in shape or int(np.prod([size or 0 for size in shape])) > 16:
        raise _NotFollowed
    made = np.empty([size or 0 for size in shape], object)
    for place in np.ndindex(made.shape):
        made[place] = function_of(f"{call.scope}.{index}.{place}")
    return made


def _integral(entries: Entries) -> bool:
    return entries.size > 0 and all(isinstance(entry, Size) for entry in entries.flat)


def _reshaped(call: Call) -> list[Entries]:
    data, target = _entries(call, 0), _numbers(call, 1)
    if not call.attr("allowzero", 0):
        target = [data.shape[place] if size == 0 else size for place, size in enumerate(target)]
    return [data.reshape(target)]


def _axes_of(call: Call) -> list[int] | None:
    axes = call.attr("axes")
    return axes if axes is not None or call.get(1) is None else _numbers(call, 1)


def _unsqueezed(call: Call) -> list[Entries]:
    return [np.expand_dims(_entries(call, 0), tuple(_axes_of(call) or ()))]


def _squeezed(call: Call) -> list[Entries]:
    axes = _axes_of(call)
    return [_array(np.squeeze(_entries(call, 0), None if axes is None else tuple(axes)))]


def _expanded(call: Call) -> list[Entries]:
    data, target = _entries(call, 0), tuple(_numbers(call, 1))
    shape = np.broadcast_shapes(data.shape, target)
    if np.prod(shape, dtype=object) > KEPT_ENTRIES:
        raise _NotFollowed
    return [np.broadcast_to(data, shape)]


def _filled(call: Call) -> list[Entries]:
    shape = _numbers(call, 0)
    if np.prod(shape, dtype=object) > KEPT_ENTRIES:
        raise _NotFollowed
    tensor = call.attr("value")
    number = np.float32(0) if tensor is None else onnx.numpy_helper.to_array(tensor).reshape(-1)[0]
    if isinstance(number, (np.integer, np.bool_)):
        number = Size(int(number))
    elif not isinstance(number, (np.float32, np.float64)):
        raise _NotFollowed
    made = np.empty(shape, object)
    made[...] = number
    return [made]


def _counted(call: Call) -> list[Entries]:
    bounds = [_entries(call, index).reshape(-1)[0] for index in range(3)]
    start, limit, step = (_integers_only(bound).constant for bound in bounds)
    if start is None or limit is None or not step or len(range(start, limit, step)) > KEPT_ENTRIES:
        raise _NotFollowed
    return [_array([Size(number) for number in range(start, limit, step)])]


def _split(call: Call) -> list[Entries]:
    data, axis = _entries(call, 0), call.attr("axis", 0)
    sizes = call.attr("split") or (_numbers(call, 1) if call.get(1) is not None else None)
    if sizes is None:
        step = -(-data.shape[axis] // call.outputs)
        sizes = [step] * call.outputs
    return list(np.split(data, np.cumsum(sizes)[:-1], axis=axis))[: call.outputs]


def _transposed(call: Call) -> list[Entries]:
    return [np.transpose(_entries(call, 0), call.attr("perm"))]


def _tiled(call: Call) -> list[Entries]:
    repeats = _numbers(call, 1)
    if np.prod(repeats, dtype=object) * _entries(call, 0).size > KEPT_ENTRIES:
        raise _NotFollowed
    return [np.tile(_entries(call, 0), repeats)]


def _reduced(function: Callable[[Sequence[Any]], Any]) -> Callable[[Call], list[Entries]]:
    def rule(call: Call) -> list[Entries]:
        data = _entries(call, 0)
        axes = call.axes(1, data.ndim)
        if data.ndim != 1 or axes not in (None, [0]) or not data.size or call.attr("noop_with_empty_axes", 0):
            raise _NotFollowed  # more has not been seen in arithmetic on shapes
        made = np.empty((1,) if call.attr("keepdims", 1) else (), object)
        made[...] = function([_integers_only(entry) for entry in data.flat])
        return [made]

    return rule


def _same(call: Call) -> list[Entries]:
    return [_entries(call, 0)]


RULES: Final[dict[str, Callable[[Call], list[Entries]]]] = {
    "Abs": _each(_absolute),
    "Add": _each(_alike(operator.add, operator.add)),
    "And": _each(_and),
    "Cast": _cast,
    "Ceil": _each(lambda one: np.ceil(one)),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _each(_alike(_divided, operator.truediv)),
    "Equal": _each(_alike(_equal, lambda one, other: Size(int(one == other)))),
    "Expand": _expanded,
    "Floor": _each(lambda one: np.floor(one)),
    "Gather": _gather,
    "Greater": _each(_alike(lambda one, other: _less(other, one), lambda one, other: Size(int(one > other)))),
    "GreaterOrEqual": _each(_alike(lambda one, other: _not(_less(one, other)), lambda one, other: Size(int(one >= other)))),
    "Identity": _same,
    "Less": _each(_alike(_less, lambda one, other: Size(int(one < other)))),
    "LessOrEqual": _each(_alike(lambda one, other: _not(_less(other, one)), lambda one, other: Size(int(one <= other)))),
    "Max": _each(lambda *values: reduce(_alike(larger, max), values)),
    "Min": _each(lambda *values: reduce(_alike(smaller, min), values)),
    "Mod": _remainder,
    "Mul": _each(_alike(operator.mul, operator.mul)),
    "Neg": _each(operator.neg),
    "Not": _each(_not),
    "Or": _each(_or),
    "Range": _counted,
    "ReduceMax": _reduced(lambda values: reduce(larger, values)),
    "ReduceMin": _reduced(lambda values: reduce(smaller, values)),
    "ReduceProd": _reduced(product),
    "ReduceSum": _reduced(lambda values: sum(values, ZERO)),
    "Reshape": _reshaped,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeezed,
    "Sub": _each(_alike(operator.sub, operator.sub)),
    "Tile": _tiled,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
    "Where": _each(_chosen),
}
