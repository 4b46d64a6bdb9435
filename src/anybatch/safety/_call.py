"""One node with what is known of its inputs: what the rules are handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx

from anybatch.safety._domain import Rows, Shape, Value, numbers, sizes
from anybatch.safety._sizes import Size


class CoupledError(Exception):
    """Rows influence one another here, or their position or number does; the text completes "node 'x' (Op) ..."."""


class StoppedError(Exception):
    """Neither is shown; the text completes "node 'x' (Op) ..."."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node, its attributes, and one `Value` per input; None for one that is left out.

    Attributes:
        opset: the version of the operator set that the node belongs to.
        scope: where the node stands, unlike any other place: names of new sizes begin with it.
        analyse_body: analyses a graph attribute, given the values of its inputs, and returns those of its outputs.
    """

    node: onnx.NodeProto
    opset: int
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    scope: str
    analyse_body: Callable[[str, Sequence[Value]], list[Value]] = field(repr=False)

    def __getitem__(self, index: int) -> Value:
        value = self.get(index)
        if value is None:
            raise StoppedError(f"lacks its input {index}")
        return value

    def get(self, index: int) -> Value | None:
        """Return an input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute as a Python value."""
        return self.attributes.get(name, default)

    def name(self, index: int) -> str:
        """Return how messages name an input."""
        return repr(self.node.input[index])

    def shape(self, index: int) -> Shape:
        """Return an input's shape.

        Raises:
            StoppedError: not even the rank is known.
        """
        shape = self[index].shape
        if shape is None:
            raise StoppedError(f"reads {self.name(index)}, whose rank cannot be told")
        return shape

    def numbers(self, index: int) -> list[Any] | None:
        """Return the plain numbers of a small constant input, flat; None where it is left out or not constant."""
        value = self.get(index)
        return None if value is None else numbers(value.entries)

    def sizes(self, index: int) -> list[Size] | None:
        """Return the integers of a small input, flat; None where it is left out or they are not known."""
        value = self.get(index)
        return None if value is None else sizes(value.entries)

    def axis(self, rank: int, axis: int) -> int:
        """Return an axis counted from the front.

        Raises:
            StoppedError: there is none such.
        """
        if not -rank <= axis < rank:
            raise StoppedError(f"names axis {axis} of a tensor with {rank} axes")
        return axis % rank

    def axes(self, index: int, rank: int, name: str = "axes") -> list[int] | None:
        """Return axes that are given as an attribute or, in later operator sets, as an input; None where they are left out.

        Raises:
            StoppedError: they are not constant.
        """
        axes = self.attr(name)
        if axes is None and self.get(index) is not None:
            axes = self.numbers(index)
            if axes is None:
                raise StoppedError(f"has axes ({self.name(index)}) that are no constant")
        return None if axes is None else [self.axis(rank, int(axis)) for axis in np.atleast_1d(axes)]

    def number(self, index: int, default: int, what: str) -> int:
        """Return an input that is one constant integer.

        Raises:
            StoppedError: it is not constant.
        """
        if self.get(index) is None:
            return default
        values = self.numbers(index)
        if values is None or len(values) != 1:
            raise StoppedError(f"has {what} ({self.name(index)}) that is no constant")
        return int(values[0])

    def fresh(self, key: object) -> Size:
        """Return a size of which nothing is known but that no row and no number of rows changes it."""
        return Size.atom(f"{self.scope}.{key}")

    def fresh_shape(self, rank: int, output: int = 0) -> list[Size]:
        """Return a shape of such sizes."""
        return [self.fresh(f"{output}.{axis}") for axis in range(rank)]

    @property
    def outputs(self) -> int:
        return len(self.node.output)


Rule: TypeAlias = Callable[[Call], "Value | list[Value]"]


def forbid(rows: Rows | None, axes: Sequence[int], does: str) -> None:
    """Check that none of some axes holds the rows.

    Raises:
        CoupledError: one does.
    """
    if rows is not None and rows.axis in axes:
        raise CoupledError(f"{does} axis {rows.axis}, which holds the rows")


def meet(one: Rows | None, other: Rows | None) -> Rows | None:
    """Return the rows of a result whose operands hold theirs at the same place; None where neither has any.

    Raises:
        CoupledError: the rows of one meet other rows of the other.
        StoppedError: that cannot be told.
    """
    if one is None or other is None:
        return one or other
    if one.axis != other.axis:
        raise CoupledError(
            f"combines rows along axis {one.axis} with rows along axis {other.axis}: every row meets every other"
        )
    if one.uniform or other.uniform:
        if one.per_row != other.per_row:
            clash(one.per_row, other.per_row)
        return other if one.uniform else one
    if (one.outer, one.inner) != (other.outer, other.inner):
        clash(one.per_row, other.per_row)
    return one


def clash(one: Size, other: Size) -> NoReturn:
    """Report that rows of differing layout meet."""
    if one == other:
        raise CoupledError("combines tensors that hold their rows in different orders")
    raise StoppedError(f"combines {one} entries per row with {other}")
