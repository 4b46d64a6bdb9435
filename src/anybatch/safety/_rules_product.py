"""Matrix products by the role of each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from anybatch.safety._broadcast import broadcast, check_single, join_sizes
from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, meet
from anybatch.safety._domain import Rows, Value
from anybatch.safety._sizes import Size


def contract(operands: Sequence[Value], labels: Sequence[str], result: str) -> Value:
    """Return a sum of products, as Einsum writes them: one letter for each axis of each operand.

    Raises:
        CoupledError: rows are summed over, or meet other rows, or an operand without rows has an entry for each position.
        StoppedError: that cannot be told.
    """
    sizes: dict[str, Size] = {}
    for operand, letters in zip(operands, labels, strict=True):
        if operand.shape is None:
            raise StoppedError("multiplies with a tensor whose rank cannot be told")
        if len(letters) != len(operand.shape):
            raise StoppedError(f"names {len(letters)} axes of a tensor with {len(operand.shape)}")
        for letter, size in zip(letters, operand.shape, strict=True):
            sizes[letter] = join_sizes(sizes[letter], size) if letter in sizes else size
    rows, held = _rows_letter(operands, labels)
    if rows is None:
        return Value(tuple(sizes[letter] for letter in result))
    if held not in result:
        raise CoupledError("sums over the axis that holds the rows")
    for operand, letters in zip(operands, labels, strict=True):
        if letters.count(held) > 1:
            raise CoupledError("takes the diagonal along the axis that holds the rows")
        if operand.rows is None and held in letters:
            check_single((operand.shape or ())[letters.index(held)], rows.axis)
        if operand.rows is not None:
            sizes[held] = (operand.shape or ())[operand.rows.axis]
    return Value(tuple(sizes[letter] for letter in result), rows.at(result.index(held)))


def _rows_letter(operands: Sequence[Value], labels: Sequence[str]) -> tuple[Rows | None, str]:
    rows, held = None, ""
    for operand, letters in zip(operands, labels, strict=True):
        if operand.rows is None:
            continue
        letter = letters[operand.rows.axis]
        if held and held != letter:
            raise CoupledError("multiplies every row with every other")
        rows, held = meet(rows, operand.rows.at(0)), letter
    return rows, held


def matmul_labels(left: int, right: int) -> tuple[str, str, str]:
    """Return the letters of MatMul's operands, by their ranks, and of its result."""
    many = max(left, right) - 2
    batch = "".join(chr(ord("a") + index) for index in range(max(many, 0)))
    left_letters = "k" if left == 1 else batch[len(batch) - (left - 2) :] + "IK" if left > 1 else ""
    right_letters = "k" if right == 1 else batch[len(batch) - (right - 2) :] + "KJ" if right > 1 else ""
    left_letters, right_letters = left_letters.replace("k", "K"), right_letters.replace("k", "K")
    return left_letters, right_letters, batch + ("I" if left > 1 else "") + ("J" if right > 1 else "")


def multiplied(left: Value, right: Value) -> Value:
    """Return what MatMul does with two tensors.

    Raises:
        CoupledError, StoppedError: see `contract`.
    """
    if left.shape is None or right.shape is None:
        if left.rows is None and right.rows is None:
            return Value()
        raise StoppedError("multiplies with a tensor whose rank cannot be told")
    one, other, result = matmul_labels(len(left.shape), len(right.shape))
    return contract([left, right], [one, other], result)


def matmul(call: Call) -> Value:
    """NumPy's matrix product."""
    return multiplied(call[0], call[1])


def gemm(call: Call) -> Value:
    """A matrix product of two operands that may be transposed, and a sum."""
    one = "KI" if call.attr("transA", 0) else "IK"
    other = "JK" if call.attr("transB", 0) else "KJ"
    result = contract([call[0], call[1]], [one, other], "IJ")
    return result if call.get(2) is None else broadcast([result, call[2]])


def einsum(call: Call) -> Value:
    """A sum of products, by its equation."""
    left, arrow, right = call.attr("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    ranks = [len(call.shape(index)) for index in range(len(call.inputs))]
    if len(terms) != len(ranks):
        raise StoppedError(f"has {len(ranks)} operands and the equation {call.attr('equation')!r}")
    hidden = max(
        [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term], default=0
    )
    wild = "".join(chr(0x100 + index) for index in range(max(hidden, 0)))
    labels = []
    for term, rank in zip(terms, ranks, strict=True):
        own = rank - len(term.replace("...", ""))
        labels.append(term.replace("...", wild[len(wild) - own :] if own else ""))
    if arrow:
        result = right.replace("...", wild)
    else:
        letters = "".join(labels)
        result = wild + "".join(sorted({letter for letter in letters if letters.count(letter) == 1 and letter not in wild}))
    return contract([value for value in call.inputs if value is not None], labels, result)


RULES: Final[dict[str, Rule]] = {"Einsum": einsum, "Gemm": gemm, "MatMul": matmul}
