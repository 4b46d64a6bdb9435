"""What a launch costs: guessed, given, or measured, with how sure that is. Pure: no tensors, no device, no clock."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import numpy as np

from anybatch._batching import check_batch_sizes
from anybatch._errors import InputError

# Standard errors that count as the farthest a cost between two known ones is off the line that joins them.
_FARTHEST: Final = 4.0


@runtime_checkable
class Costs(Protocol):
    """What a launch of a given size costs."""

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The sizes it was told about; None where it can tell for all."""
        ...

    @property
    def source(self) -> str:
        """Where the figures come from, as a phrase for reports."""
        ...

    @property
    def unit(self) -> str:
        """The unit of the figures, such as "ms"; empty where only their ratios mean something."""
        ...

    def of(self, size: int) -> float:
        """Return the cost of one launch of `size` rows; positive and finite.

        Raises:
            InputError: nothing is known about that size.
        """
        ...


@runtime_checkable
class UncertainCosts(Costs, Protocol):
    """Costs that know how sure they are; plans are then made with that in mind, see `Planner`."""

    def error_of(self, size: int) -> float:
        """Return the standard error of `of(size)`, in the same unit; 0 or more.

        Raises:
            InputError: nothing is known about that size.
        """
        ...


@dataclass(frozen=True, slots=True)
class AffineCosts:
    """A launch costs `overhead` plus `per_row` times its size.

    The default is the prior used until something is measured: a launch costs as much as two rows on top of its rows.
    Of the priors tried (overheads of 0 to 16 rows) it has the least worst-case regret on gears 1, 2, 4, ..., 32 while the
    true overhead is at most 8 rows: 2.9 %. Beyond that it loses up to 24 %, at 64 (`benchmarks/prior.py`).

    Raises:
        InputError: `overhead` is negative, `per_row` is not positive, or one is not finite.
    """

    overhead: float = 2.0
    per_row: float = 1.0
    source: str = "affine prior, nothing measured"
    unit: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.overhead < math.inf and 0 < self.per_row < math.inf):
            raise InputError(
                f"expected a finite overhead >= 0 and a finite per_row > 0, got {self.overhead!r} and {self.per_row!r}"
            )

    @property
    def sizes(self) -> None:
        return None

    def of(self, size: int) -> float:
        return self.overhead + self.per_row * size


@dataclass(frozen=True, slots=True)
class TableCosts:
    """The cost of each batch size, such as ``{1: 1.0, 4: 2.9, 8: 5.5}``; any positive figures, also non-monotone ones.

    Raises:
        InputError: the table is empty, a size is not an int of at least 1, or a cost is not positive and finite.
    """

    table: Mapping[int, float]
    source: str = "given by the caller"
    unit: str = ""
    sizes: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", check_batch_sizes(self.table))
        object.__setattr__(self, "table", _check_costs(self.table))

    def of(self, size: int) -> float:
        if size not in self.table:
            raise InputError(f"no cost for batch size {size}, only for {list(self.sizes)}: give one for each batch size")
        return self.table[size]


@dataclass(frozen=True, slots=True)
class CurveCosts:
    """Costs known at some sizes and estimated for all others.

    Between two known sizes lies a straight line; where those beside it lead elsewhere, what it tells is as much less sure.
    Beyond the largest the line goes on that leads to it from the largest size up to half of it (else the next smaller one, else
    from zero), never falling; below the smallest the line to the next size goes on, but not below what the smallest costs in
    proportion.

    Args:
        points: cost by size; positive and finite, also non-monotone.
        errors: standard error by size, in the same unit; what is missing counts as exact.
        splitting: what each launch adds where a request takes several: its rows are cut out, and results joined.

    Raises:
        InputError: there is no point, a size is not an int of at least 1, a cost is not positive and finite, an error is
            negative or not finite, or is that of a size without a cost; `splitting` is negative or not finite.
    """

    points: Mapping[int, float]
    errors: Mapping[int, float] = field(default_factory=dict)
    source: str = "given by the caller"
    unit: str = ""
    splitting: float = 0.0
    sizes: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", check_batch_sizes(self.points))
        if not 0 <= self.splitting < math.inf:
            raise InputError(f"expected splitting >= 0 and finite, got {self.splitting!r}")
        object.__setattr__(self, "points", _check_costs(self.points))
        for size, error in self.errors.items():
            if size not in self.points:
                raise InputError(
                    f"an error is given for batch size {size}, but no cost; there are costs for {list(self.sizes)}"
                )
            if not isinstance(error, (int, float, np.number)) or not 0 <= error < math.inf:
                raise InputError(f"expected a standard error >= 0 and finite for batch size {size}, got {error!r}")
        object.__setattr__(self, "errors", {size: float(self.errors.get(size, 0.0)) for size in self.sizes})

    def of(self, size: int) -> float:
        known = self.points.get(size)
        if known is not None:
            return known
        sizes, points = self.sizes, self.points
        if size < 1:
            raise InputError(f"expected a batch size >= 1, got {size}")
        if size > sizes[-1]:
            before = self._half_way
            slope = max(0.0, (points[sizes[-1]] - points.get(before, 0.0)) / (sizes[-1] - before))
            return points[sizes[-1]] + slope * (size - sizes[-1])
        if size < sizes[0]:
            in_proportion = points[sizes[0]] * size / sizes[0]
            if len(sizes) == 1:
                return in_proportion
            return max(in_proportion, self._on_line(size, sizes[0], sizes[1], points))
        right = bisect_left(sizes, size)
        return self._on_line(size, sizes[right - 1], sizes[right], points)

    def error_of(self, size: int) -> float:
        known = self.errors.get(size)
        if known is not None:
            return known
        sizes = self.sizes
        if size < sizes[0]:
            return self.errors[sizes[0]]
        if size > sizes[-1]:  # both points that the line goes through err, the farther the more it matters
            before = self._half_way
            lever = (size - sizes[-1]) / (sizes[-1] - before)
            return math.hypot((1 + lever) * self.errors[sizes[-1]], lever * self.errors.get(before, 0.0))
        if not any(self.errors.values()):  # told as exact, the lines too
            return 0.0
        right = bisect_left(sizes, size)
        error = self._on_line(size, sizes[right - 1], sizes[right], self.errors)
        return math.hypot(error, self._off_line(size, right) / _FARTHEST)

    def _off_line(self, size: int, right: int) -> float:
        """How far from the line to the next point a cost may lie: on one of the lines of the segments before and behind.

        A cost that jumps between two points lies there; one that bends by and by lies nearly on all three. It is taken to lie
        between those of the two points in any case.
        """
        sizes, points = self.sizes, self.points
        cost = self.of(size)
        low, high = sorted((points[sizes[right - 1]], points[sizes[right]]))
        others = [
            min(max(self._on_line(size, sizes[left], sizes[left + 1], points), low), high)
            for left in (right - 2, right)
            if 0 <= left < len(sizes) - 1
        ]
        return max((abs(other - cost) for other in others), default=0.0)

    @property
    def _half_way(self) -> int:
        """The largest size up to half of the largest; else the next smaller one; 0 where there is none."""
        half = bisect_right(self.sizes, self.sizes[-1] / 2)
        return self.sizes[half - 1] if half else (0, *self.sizes)[-2]

    @staticmethod
    def _on_line(size: int, left: int, right: int, values: Mapping[int, float]) -> float:
        return values[left] + (values[right] - values[left]) * (size - left) / (right - left)


def _check_costs(costs: Mapping[int, float]) -> dict[int, float]:
    for size, cost in costs.items():
        if isinstance(cost, bool) or not isinstance(cost, (int, float, np.number)) or not 0 < cost < math.inf:
            raise InputError(f"expected a positive, finite cost for batch size {size}, got {cost!r}")
    return {int(size): float(cost) for size, cost in costs.items()}
