"""Exact sizes: integer polynomials in the number of rows and in sizes that the model leaves open.

An atom is a name. `ROWS` is the number of rows n, at least 1; every other atom stands for an integer that does not depend on
the rows nor on n. Atoms are at least 0, except those that begin with `SIGNED`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

ROWS: Final = "n"
SIGNED: Final = "±"

Monomial = tuple[str, ...]


class Size:
    """A polynomial with integer coefficients; or `UNKNOWN`, an integer that may depend on n in a way nobody can tell.

    Equal sizes are equal for every number of rows. Sizes that are not equal may still agree: ask `differ`.
    """

    __slots__ = ("terms",)

    terms: dict[Monomial, int] | None

    def __init__(self, value: int | dict[Monomial, int] | None) -> None:
        if isinstance(value, int):
            value = {(): value}
        self.terms = None if value is None else {mono: int(coef) for mono, coef in value.items() if coef}

    @classmethod
    def atom(cls, name: str) -> Size:
        return cls({(name,): 1})

    @property
    def known(self) -> bool:
        return self.terms is not None

    @property
    def constant(self) -> int | None:
        """The number, where it is one."""
        if self.terms is None or any(mono for mono in self.terms):
            return None
        return self.terms.get((), 0)

    @property
    def depends_on_rows(self) -> bool:
        return self.terms is None or any(ROWS in mono for mono in self.terms)

    @property
    def atoms(self) -> set[str]:
        return {name for mono in self.terms or () for name in mono}

    @property
    def per_row(self) -> Size | None:
        """What n is multiplied with, where this is a product with n; else None."""
        if not self.terms or any(mono.count(ROWS) != 1 for mono in self.terms):
            return None
        return Size({tuple(name for name in mono if name != ROWS): coef for mono, coef in self.terms.items()})

    def __eq__(self, other: object) -> bool:
        other = as_size(other)
        return self.terms is not None and other is not None and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(None if self.terms is None else frozenset(self.terms.items()))

    def __str__(self) -> str:
        if self.terms is None:
            return "?"
        parts = [
            "*".join([*([str(coef)] if coef != 1 or not mono else []), *mono]) for mono, coef in sorted(self.terms.items())
        ]
        return " + ".join(parts) or "0"

    __repr__ = __str__

    def __add__(self, other: Size | int) -> Size:
        return self._sum(other, 1)

    def __sub__(self, other: Size | int) -> Size:
        return self._sum(other, -1)

    def __rsub__(self, other: int) -> Size:
        return Size(other)._sum(self, -1)

    __radd__ = __add__

    def _sum(self, other: Size | int, sign: int) -> Size:
        right = as_size(other)
        if right is None or self.terms is None or right.terms is None:
            return UNKNOWN
        terms = dict(self.terms)
        for mono, coef in right.terms.items():
            terms[mono] = terms.get(mono, 0) + sign * coef
        return Size(terms)

    def __neg__(self) -> Size:
        return 0 - self

    def __mul__(self, other: Size | int) -> Size:
        right = as_size(other)
        if right is None or self.terms is None or right.terms is None:
            return UNKNOWN
        terms: dict[Monomial, int] = {}
        for mono, coef in self.terms.items():
            for mono2, coef2 in right.terms.items():
                product = tuple(sorted(mono + mono2))
                terms[product] = terms.get(product, 0) + coef * coef2
        return Size(terms)

    __rmul__ = __mul__

    def exactly_divided(self, other: Size) -> Size | None:
        """Return the quotient where other divides this without remainder, whatever the atoms are; else None."""
        if not self.terms or not other.terms:
            return ZERO if self.terms == {} and other.terms else None
        lead = max(other.terms, key=_order)
        rest, quotient = self, Size(0)
        while rest.terms:
            head = max(rest.terms, key=_order)
            mono = _without(head, lead)
            coef, remainder = divmod(rest.terms[head], other.terms[lead])
            if mono is None or remainder:
                return None
            step = Size({mono: coef})
            quotient, rest = quotient + step, rest - step * other
        return quotient

    @property
    def least(self) -> int | None:
        """A number that this never falls below, or None where none is found."""
        if self.terms is None:
            return None
        bound = 0
        for mono, coef in self.terms.items():
            if mono and (coef < 0 or any(name.startswith(SIGNED) for name in mono)):
                return None
            if all(name == ROWS for name in mono):
                bound += coef
        return bound

    def at_least(self, other: Size | int) -> bool:
        """Whether this is proven to be other or more."""
        least = (self - other).least
        return least is not None and least >= 0


UNKNOWN: Final = Size(None)
ZERO: Final = Size(0)
ONE: Final = Size(1)
N: Final = Size.atom(ROWS)


def _order(mono: Monomial) -> tuple[int, Monomial]:
    return len(mono), mono


def _without(mono: Monomial, divisor: Monomial) -> Monomial | None:
    rest = list(mono)
    for name in divisor:
        if name not in rest:
            return None
        rest.remove(name)
    return tuple(rest)


def as_size(value: object) -> Size | None:
    """Return a Size for an integer or a Size, None for anything else."""
    if isinstance(value, Size):
        return value
    return Size(value) if isinstance(value, int) else None


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of sizes; 1 for none."""
    result = ONE
    for size in sizes:
        result = result * size
    return result


def differ(one: Size, other: Size) -> bool:
    """Whether two sizes are proven to differ for every number of rows."""
    return any((gap.least or 0) > 0 for gap in (one - other, other - one))


def function_of(name: str, *sizes: Size) -> Size:
    """Return an unnamed function of sizes: always the same atom for the same arguments; unknown where one depends on n."""
    if any(size.depends_on_rows for size in sizes):
        return UNKNOWN
    return Size.atom(SIGNED + _term(name, sizes))


def count_of(name: str, *sizes: Size) -> Size:
    """As `function_of`, of a function that is never negative."""
    if any(size.depends_on_rows for size in sizes):
        return UNKNOWN
    return Size.atom(_term(name, sizes))


def _term(name: str, sizes: tuple[Size, ...]) -> str:
    text = f"{name}({', '.join(map(str, sizes))})"
    return text if len(text) < 120 else f"{name}#{hashlib.sha256(text.encode()).hexdigest()[:32]}"  # or chains double it


def quotient(one: Size, other: Size) -> Size:
    """Return one / other, rounded towards zero as ONNX divides integers."""
    exact = one.exactly_divided(other)
    if exact is not None:
        return exact
    a, b = one.constant, other.constant
    if a is not None and b is not None:
        return function_of("div", one, other) if b == 0 else Size(abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1))
    return (count_of if one.at_least(0) and other.at_least(0) else function_of)("div", one, other)


def floor_quotient(one: Size, other: int) -> Size:
    """Return floor(one / other) for a positive divisor."""
    if one.constant is not None:
        return Size(one.constant // other)
    return one.exactly_divided(Size(other)) or function_of("floordiv", one, Size(other))


def larger(one: Size, other: Size) -> Size:
    """Return the larger of two sizes."""
    if one.at_least(other):
        return one
    if other.at_least(one):
        return other
    a, b = sorted((one, other), key=str)
    return (count_of if a.at_least(0) or b.at_least(0) else function_of)("max", a, b)


def smaller(one: Size, other: Size) -> Size:
    """Return the smaller of two sizes."""
    if one.at_least(other):
        return other
    if other.at_least(one):
        return one
    a, b = sorted((one, other), key=str)
    return (count_of if a.at_least(0) and b.at_least(0) else function_of)("min", a, b)
