"""Quantised operators: scales and zero points are one number, one per entry of an axis, or one per block."""

from __future__ import annotations

from typing import Final

from anybatch.safety._broadcast import broadcast
from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, forbid
from anybatch.safety._domain import Value
from anybatch.safety._rules_product import multiplied
from anybatch.safety._sizes import ONE, Size


def quantize(call: Call) -> Value:
    """Entry by entry, with the scale and the zero point of its place."""
    value = call[0]
    for index in (1, 2):
        scale = call.get(index)
        if scale is None:
            continue
        if call.attr("block_size", 0):
            value = _with_blocks(call, value, scale, index)
        else:
            value = broadcast([value, _along(call, scale, index, call.attr("axis", 1))])
    return Value(call[0].shape, value.rows)


def _along(call: Call, scale: Value, index: int, axis: int) -> Value:
    """Return a scale laid along an axis; a single one is a number."""
    shape = call.shape(index)
    if len(shape) == 0 or (len(shape) == 1 and shape[0] == ONE and scale.rows is None):
        return Value(())
    if len(shape) != 1:
        raise StoppedError(f"has {call.name(index)} with {len(shape)} axes, expected one at most")
    rank = len(call.shape(0))
    axis = call.axis(rank, axis)
    laid = tuple(shape[0] if each == axis else ONE for each in range(rank))
    return Value(laid, scale.rows and scale.rows.at(axis))


def _with_blocks(call: Call, value: Value, scale: Value, index: int) -> Value:
    shape = call.shape(0)
    axis = call.axis(len(shape), call.attr("axis", 1))
    forbid(value.rows, [axis], "shares a scale between neighbours along")
    forbid(scale.rows, [axis], "shares a scale between neighbours along")
    sizes = list(call.shape(index))
    if len(sizes) != len(shape):
        raise StoppedError(f"has {call.name(index)} with {len(sizes)} axes for a tensor with {len(shape)}")
    sizes[axis] = shape[axis]
    if tuple(sizes) != tuple(shape):  # in blocks nothing is broadcast
        raise StoppedError(f"needs {call.name(index)} to have the tensor's own size along each axis but {axis}")
    return broadcast([value, Value(tuple(sizes), scale.rows)])


def dynamic_quantize(call: Call) -> list[Value]:
    """Takes one scale for a whole tensor from its least and largest entry."""
    if call[0].rows is not None:
        raise CoupledError("takes one scale from the least and the largest entry of all rows")
    return [Value(call[0].shape), Value(()), Value(())]


def matmul_integer(call: Call) -> Value:
    """A product of integers less their zero points."""
    left = _shifted(call, 0, 2, -2)
    return multiplied(left, _shifted(call, 1, 3, -1))


def qlinear_matmul(call: Call) -> Value:
    """A product of quantised tensors."""
    left = right = None
    for index in (1, 2):
        left = _shifted(call, 0, index, -2, left)
        right = _shifted(call, 3, index + 3, -1, right)
    result = multiplied(left or call[0], right or call[3])
    for index in (6, 7):
        result = broadcast([result, _scale(call, index, result, -2)])
    return result


def _shifted(call: Call, index: int, zero: int, axis: int, value: Value | None = None) -> Value:
    value = value or call[index]
    return value if call.get(zero) is None else broadcast([value, _scale(call, zero, value, axis)])


def _scale(call: Call, index: int, of: Value, axis: int) -> Value:
    """Return a scale or zero point, one per entry of an axis, ready to be broadcast."""
    shape, scale = call.shape(index), call[index]
    if len(shape) != 1 or shape[0] == ONE:
        return Value((), None) if not shape or (len(shape) == 1 and scale.rows is None) else scale
    rank = of.rank or 0
    axis = max(rank + axis, 0)
    laid: tuple[Size, ...] = tuple(shape[0] if each == axis else ONE for each in range(rank))
    return Value(laid, scale.rows and scale.rows.at(axis))


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(["DequantizeLinear", "QuantizeLinear"], quantize),
    "DynamicQuantizeLinear": dynamic_quantize,
    "MatMulInteger": matmul_integer,
    "QLinearMatMul": qlinear_matmul,
}
