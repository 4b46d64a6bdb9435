"""Operators that work entry by entry."""

from __future__ import annotations

from typing import Final

from anybatch.safety._broadcast import broadcast
from anybatch.safety._call import Call, CoupledError, Rule, StoppedError
from anybatch.safety._domain import Value

_UNARY: Final = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitCast BitwiseNot Cast CastLike Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal RegexFullMatch Relu Round Selu "
    "Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
)

_BROADCAST: Final = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean "
    "Min Mod Mul Or PRelu Pow StringConcat Sub Sum SwiGLU Where Xor"
)
BROADCAST: Final = tuple(_BROADCAST.split())


def same(call: Call) -> Value:
    """Every entry on its own."""
    if call[0].items is not None:  # Identity of a sequence
        return call[0]
    return Value(call[0].shape, call[0].rows)


def combined(call: Call) -> Value:
    """Entries of several tensors that stand at the same place."""
    return broadcast([value for value in call.inputs if value is not None])


def dropout(call: Call) -> list[Value]:
    """Passes its input on, unless it trains."""
    if call.get(2) is not None:
        training = call.numbers(2)
        if training is None:
            raise StoppedError(f"may draw at random: its training_mode {call.name(2)} is no constant")
        if any(training):
            raise CoupledError("is in training mode: what it drops is drawn anew for every position")
    return [same(call)] * 2


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_UNARY.split(), same),
    **dict.fromkeys(BROADCAST, combined),
    "Dropout": dropout,
}
