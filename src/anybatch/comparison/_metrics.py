"""How two arrays differ, in figures, added up over requests that need not fit into memory together.

Floats are compared as float64, integers exactly, bools as 0 and 1. Decision: a complex element is two, its real and its
imaginary part, and the index of one ends with 0 or 1.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from anybatch._tensors import Array, TensorSpec
from anybatch.comparison._results import BINS, Metrics, Tolerance, Worst
from anybatch.comparison._tolerances import float_info

Floats = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

_BLOCK: Final = 1 << 15  # elements at once: what they need beside them stays in the processor's caches
_LARGEST: Final = float(np.finfo(np.float64).max)
_SMALLEST: Final = 5e-324
_SCORES: Final = 3  # classes from which an output of [rows, classes] looks like scores
_TOP: Final = 5
_SCORES_FOR_TOP: Final = 10
_LIMITED: Final[Any] = {"all": "ignore"}  # what overflows or is no number is looked at by its value


def as_rows(tensor: TensorSpec, array: Array) -> Array:
    """Return an output as [rows, elements of a row], a view where its layout allows; one row where it has none.

    Complex elements come as two of half their size.
    """
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    if tensor.batch_axis is None:
        return array.reshape(1, -1)
    array = np.moveaxis(array, tensor.batch_axis, 0)
    rows = len(array) // tensor.rows_per_row
    return array.reshape(rows, tensor.rows_per_row * math.prod(array.shape[1:]))


def as_numbers(array: Array) -> Floats:
    """Return any elements as float64; integers beyond 2^53 are rounded."""
    with np.errstate(**_LIMITED):  # a signalling NaN
        return np.asarray(array).astype(np.float64)


def tolerated(expected: Floats, tolerance: Tolerance, scale: float) -> Floats:
    """Return how far each element may be off."""
    with np.errstate(**_LIMITED):
        return np.asarray(tolerance.atol + tolerance.rtol * np.maximum(np.abs(expected), scale))


def looks_like_scores(tensor: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Whether an output has a float for each of several classes: two axes, one of them rows, and 3 classes or more."""
    one_per_row = tensor.batch_axis is not None and tensor.rows_per_row == 1 and len(shape) == 2
    if not one_per_row or tensor.dtype.kind == "c" or float_info(tensor.dtype) is None:
        return False
    return shape[1 - (tensor.batch_axis or 0)] >= _SCORES


class Scale:
    """The root mean square of all finite elements that were added."""

    def __init__(self) -> None:
        self._count = 0
        self._squares = _Products(1)

    def add(self, array: Array) -> None:
        """Add an output's elements."""
        values = as_numbers(as_rows(_WITHOUT_ROWS, array)).ravel()
        values = values[np.isfinite(values)]
        self._count += values.size
        self._squares.add([(values, values)], values)

    @property
    def value(self) -> float:
        """What it is so far; 0 without elements."""
        return self._squares.root(0, self._count)


class Differences:
    """The differences of an output between two sides, request by request.

    Args:
        tensor: the output, as the reference describes it.
        tolerance, scale: how far elements may be off.
        coarse: the coarser of both sides' dtypes, in whose values the ULP distance counts; None where they have one.
    """

    def __init__(self, tensor: TensorSpec, tolerance: Tolerance, scale: float, *, coarse: np.dtype[Any] | None = None) -> None:
        self.tensor: Final = tensor
        self.tolerance: Final = tolerance
        self.scale: Final = scale
        self._ulp_dtype = _component(tensor.dtype if coarse is None else coarse)
        self._rows = 0
        self._elements = self._finite = self._nonzero = 0
        self._differing = self._outside = 0
        self._nan = self._inf = self._zeros = 0
        self._max_abs = self._sum_abs = self._max_rel = self._sum_rel = 0.0
        self._max_ulp = 0
        self._products = _Products(4)  # expected * expected, got * got, expected * got, difference * difference
        self._histogram = np.zeros(len(BINS) + 1, np.int64)
        self._score_rows = self._same_top = self._same_tops = 0
        self._classes = 0
        self._farthest = (0.0, 0.0)
        self.worst: Worst | None = None

    def add(self, expected: Array, got: Array) -> _Mask:
        """Add one request's answers, of one shape, and return which of its rows have an element outside the tolerance.

        Nothing of them is kept.
        """
        if looks_like_scores(self.tensor, expected.shape):
            self._classes = expected.shape[1 - (self.tensor.batch_axis or 0)]
        inner = list(expected.shape) + [2] * (expected.dtype.kind == "c")
        one, other = as_rows(self.tensor, expected), as_rows(self.tensor, got)
        outside = np.zeros(len(one), np.bool_)
        step = max(1, _BLOCK // max(1, one.shape[1]))
        with np.errstate(**_LIMITED):
            for start in range(0, len(one), step) if one.size else ():
                stop = start + step
                outside[start:stop] = self._add(one[start:stop], other[start:stop], self._rows + start, inner)
        self._rows += len(one)
        return outside

    def result(self) -> Metrics:
        """Return the figures so far."""
        products, power, error = self._products, self._products.sums[0], self._products.sums[3]
        both = math.sqrt(power) * math.sqrt(products.sums[1])
        scored = self._score_rows > 0
        return Metrics(
            elements=self._elements,
            differing=self._differing,
            outside=self._outside,
            nan_mismatches=self._nan,
            inf_mismatches=self._inf,
            max_abs=self._max_abs,
            mean_abs=min(self._sum_abs, _LARGEST) / max(1, self._finite),
            max_rel=self._max_rel if self._nonzero else None,
            mean_rel=min(self._sum_rel, _LARGEST) / self._nonzero if self._nonzero else None,
            zeros_missed=self._zeros,
            max_ulp=self._max_ulp,
            cosine=max(-1.0, min(1.0, products.sums[2] / both)) if both else None,
            snr_db=10 * (math.log10(power) - math.log10(error)) if power and error else None,
            top1=self._same_top / self._score_rows if scored else None,
            top5=self._same_tops / self._score_rows if scored and self._classes >= _SCORES_FOR_TOP else None,
            histogram=tuple(map(int, self._histogram)),
        )

    def _add(self, one: Array, other: Array, first_row: int, shape: list[int]) -> _Mask:
        rows, width = one.shape
        self._elements += one.size
        a = as_numbers(one)
        b = a if _same_bits(one, other) else as_numbers(other)
        differs, apart = (np.zeros(a.shape, np.bool_), a) if b is a else _apart(one, other, a, b)
        finite = np.isfinite(a) & np.isfinite(b)
        all_finite = bool(finite.all())
        self._finite += finite.size if all_finite else int(np.count_nonzero(finite))
        self._nonzero += int(np.count_nonzero(finite & (a != 0)))
        where = np.flatnonzero(differs)
        self._histogram[0] += one.size - where.size
        x, y = (a.ravel(), b.ravel()) if all_finite else (a[finite], b[finite])
        self._products.add([(x, x), (y, y), (x, y), (x, y)], x, y)
        allowed = tolerated(a, self.tolerance, self.scale) if where.size or self._classes else a
        if self._classes:
            self._score_rows += rows
            self._count_agreements(a, b, allowed, any_differs=bool(where.size))
        if not where.size:
            return np.zeros(rows, np.bool_)
        shares, off = self._add_differing(*(each.ravel()[where] for each in (one, other, a, b, apart, allowed)))
        self._remember_worst(one, other, where, shares, off, allowed, first_row, shape)
        found = np.zeros(rows, np.bool_)
        found[where[shares > 1] // width] = True
        return found

    def _add_differing(
        self, one: Array, other: Array, a: Floats, b: Floats, apart: Floats, allowed: Floats
    ) -> tuple[Floats, Floats]:
        """Add elements that differ; return each one's share of what is tolerated, and its distance; inf where not finite."""
        self._differing += a.size
        nan = np.isnan(a) != np.isnan(b)
        inf = (np.isinf(a) | np.isinf(b)) & (a != b)
        self._nan += int(np.count_nonzero(nan))
        self._inf += int(np.count_nonzero(inf))
        self._zeros += int(np.count_nonzero(a == 0))
        finite = ~(nan | inf)
        off = np.minimum(apart[finite], _LARGEST)
        if off.size:
            self._max_abs = max(self._max_abs, float(off.max()))
            self._sum_abs += float(off.sum())
            size = np.abs(a[finite])
            relative = np.minimum(off[size > 0] / size[size > 0], _LARGEST)
            self._max_rel = max(self._max_rel, float(relative.max(initial=0.0)))
            self._sum_rel += float(relative.sum())
            self._max_ulp = max(self._max_ulp, _max_ulp(one[finite], other[finite], self._ulp_dtype))
        shares = np.full(a.shape, np.inf)
        shares[finite] = np.maximum(off / allowed[finite], _SMALLEST)
        self._outside += int(np.count_nonzero(shares > 1))
        within = [0, *(int(np.count_nonzero(shares <= bound)) for bound in BINS), shares.size]
        self._histogram += np.diff(within)
        distances = np.full(a.shape, np.inf)
        distances[finite] = off
        return shares, distances

    def _remember_worst(
        self, one: Array, other: Array, where: Any, shares: Floats, off: Floats, allowed: Floats, row: int, shape: list[int]
    ) -> None:
        top = float(shares.max())
        worst = int(np.argmax(np.where(shares == top, off, -1.0)))
        if (top, float(off[worst])) <= self._farthest:
            return
        self._farthest = (top, float(off[worst]))
        at_row, column = divmod(int(where[worst]), one.shape[1])
        self.worst = Worst(
            row=None if self.tensor.batch_axis is None else row + at_row,
            index=self._index(row + at_row, column, shape),
            expected=_as_number(one[at_row, column]),
            got=_as_number(other[at_row, column]),
            tolerated=float(allowed[at_row, column]),
        )

    def _index(self, row: int, column: int, shape: list[int]) -> tuple[int, ...]:
        """Return where an element is in the output of all rows so far; `shape` is of one request."""
        axis, factor = self.tensor.batch_axis, self.tensor.rows_per_row
        if axis is None:
            return tuple(int(i) for i in np.unravel_index(column, shape)) if shape else ()
        rest = shape[:axis] + shape[axis + 1 :]
        entry, *inner = (int(i) for i in np.unravel_index(column, (factor, *rest)))
        return (*inner[:axis], row * factor + entry, *inner[axis:])

    def _count_agreements(self, a: Floats, b: Floats, allowed: Floats, *, any_differs: bool) -> None:
        """Count rows that put the same classes first. What ties within the tolerances may be in either order."""
        if not any_differs:
            self._same_top += len(a)
            self._same_tops += len(a)
            return
        comparable = (np.isnan(a) == np.isnan(b)).all(axis=1)
        a, b = np.where(np.isnan(a), -np.inf, a), np.where(np.isnan(b), -np.inf, b)
        allowed = np.where(np.isfinite(a), allowed, 0.0)
        for top in (1, _TOP):
            if top > 1 and self._classes < _SCORES_FOR_TOP:
                return
            last = np.argpartition(a, -top, axis=1)[:, -top : -top + 1 or None]
            chosen = np.argpartition(b, -top, axis=1)[:, -top:]
            least, taken = np.take_along_axis(a, last, 1), np.take_along_axis(a, chosen, 1)
            slack = np.take_along_axis(allowed, last, 1) + np.take_along_axis(allowed, chosen, 1)
            same = int(np.count_nonzero(((taken >= least) | (least - taken <= slack)).all(axis=1) & comparable))
            if top == 1:
                self._same_top += same
            else:
                self._same_tops += same


class _Products:
    """Sums of products of finite numbers, in a unit that grows with them, so that no square overflows or vanishes.

    Attributes:
        sums: in units of ``4 ** exponent``; the last of four is of the squared differences of its factors.
    """

    def __init__(self, count: int) -> None:
        self.sums = [0.0] * count
        self._exponent: int | None = None

    def add(self, pairs: list[tuple[Floats, Floats]], *values: Floats) -> None:
        """Add the products of each pair; `values` are all arrays among them."""
        largest = max((float(np.abs(each).max(initial=0.0)) for each in values), default=0.0)
        if not largest:
            return
        exponent = math.frexp(largest)[1]
        if self._exponent is None:
            self._exponent = exponent
        elif exponent > self._exponent:
            self.sums = [math.ldexp(each, 2 * (self._exponent - exponent)) for each in self.sums]
            self._exponent = exponent
        down = -self._exponent
        scaled = {id(each): np.ldexp(each, down) for each in values}
        for i, (one, other) in enumerate(pairs):
            x, y = scaled[id(one)], scaled[id(other)]
            if i == 3:
                x = y = x - y
            # Not numpy.dot: on a busy machine BLAS waits for its threads, a hundred times longer than this takes.
            self.sums[i] += float(np.einsum("i,i->", x, y))

    def root(self, index: int, count: int) -> float:
        """Return the root of the mean over so many."""
        if not count or self._exponent is None:
            return 0.0
        with np.errstate(**_LIMITED):
            return min(float(np.ldexp(math.sqrt(self.sums[index] / count), self._exponent)), _LARGEST)


_WITHOUT_ROWS: Final = TensorSpec("", np.dtype(np.float64), (), batch_axis=None)


def _component(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.zeros(0, dtype).real.dtype if dtype.kind == "c" else dtype


def _same_bits(one: Array, other: Array) -> bool:
    if one.dtype != other.dtype or not (one.flags.c_contiguous and other.flags.c_contiguous):
        return False
    return bool(np.array_equal(one.view(np.uint8), other.view(np.uint8)))


def _apart(one: Array, other: Array, a: Floats, b: Floats) -> tuple[_Mask, Floats]:
    """Return which elements differ, and how far apart they are, which is not rounded until then."""
    if float_info(one.dtype) is not None:
        return (a != b) & ~(np.isnan(a) & np.isnan(b)), np.abs(a - b)
    x, y = _as_integers(one), _as_integers(other)
    return x != y, _integers_apart(x, y).astype(np.float64)


def _as_integers(array: Array) -> Array:
    """Return integers or bools as int64 or uint64."""
    return array.astype(np.uint64 if array.dtype == np.uint64 else np.int64)


def _integers_apart(x: Array, y: Array) -> npt.NDArray[np.uint64]:
    """Return distances, exact: subtracted without signs, they come out right whatever overflows."""
    high, low = np.maximum(x, y), np.minimum(x, y)
    return np.asarray(high.astype(np.uint64) - low.astype(np.uint64))


def _max_ulp(one: Array, other: Array, dtype: np.dtype[Any]) -> int:
    """Return the largest number of values of `dtype` from one finite element to the other."""
    if dtype.kind == "b":
        return 0
    if float_info(dtype) is None:
        return int(_integers_apart(_as_integers(one), _as_integers(other)).max())
    one, other = one.astype(dtype), other.astype(dtype)
    if dtype.itemsize == 1:  # their bits are laid out in many ways
        values = as_numbers(np.arange(256, dtype=np.uint8).view(dtype))
        values = np.unique(values[np.isfinite(values)])
        ranks = (np.searchsorted(values, as_numbers(each)) for each in (one, other))
        return int(np.abs(next(ranks) - next(ranks)).max())
    bits = np.dtype(f"u{dtype.itemsize}")
    sign = np.uint64(8 * dtype.itemsize - 1)
    x, y = (np.ascontiguousarray(each).view(bits).astype(np.uint64) for each in (one, other))
    size_x, size_y = (each & ((np.uint64(1) << sign) - np.uint64(1)) for each in (x, y))
    across_zero = (x >> sign) != (y >> sign)
    apart = np.where(across_zero, size_x + size_y, np.maximum(size_x, size_y) - np.minimum(size_x, size_y))
    return int(apart.max())


def _as_number(value: Any) -> float:
    """Return an element as Python's own number: integers stay exact."""
    return int(value) if float_info(value.dtype) is None else float(value)
