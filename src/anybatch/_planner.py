"""Rows and batch sizes in, launches out. Pure: no tensors, no device, no clock.

The least-cost plan
    A session offers sizes h with costs w(h) > 0. A plan for n rows is a multiset of sizes whose sum is at least n (or, with
    ``exact=True``, equal to n); its cost is the sum of its launches' costs. Let f(n) be the least cost.

    1. *Recurrence.* f(0) = 0 and f(n) = min over h of w(h) + f(max(n - h, 0)): take a launch of an optimal plan away, and what
       is left must be an optimal plan for the rows it still has to cover, else it could be replaced by a cheaper one.
       (Exact plans: f(n - h), infinite below zero.) No monotony of w is used.
    2. *All n from a short table.* Let G be the largest size and b the size of least cost per row. If f(i + b) = f(i) + w(b) for
       G consecutive values of i, then for every i after them too: the recurrence computes f(i + b) from the G values before
       it, each of which is w(b) more than its counterpart b rows earlier, so their minimum is as well. So a table that ends
       in such a window answers every larger n: launches of size b until the rest lies in the table.
    3. *The window exists.* Among any b launches of sizes other than b, some nonempty subset has a sum divisible by b (two of
       the b + 1 prefix sums agree modulo b). Replacing that subset by launches of size b costs no more, since b is
       cheapest per row. So some optimal plan has at most b - 1 launches of other sizes, which sum to at most (b - 1) * G;
       from there on every optimal plan can be taken to contain a launch of size b, which is the equation in 2. The
       table doubles until it sees the window; in practice the first table, of 5 * G entries, already does.

    *Ties.* Each launch carries a surcharge of 1e-9 of the cheapest launch's cost, and up to half of that again in proportion
    to its size, so equal costs go to fewer launches, then to less padding. Costs that differ by rounding only (0.1 + 0.2
    against 0.3) count as equal. The surcharge is at most 1.5e-9 of any plan's cost: that is how exact "least" is.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from anybatch._batching import AnyBatch, Batching, Gears, MultipleOf, check_batch_sizes
from anybatch._errors import InputError

Policy: TypeAlias = Literal["least_cost", "round_up", "largest_first", "one_gear", "nearest"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)

_TIE: Final = 1e-9
# Sums of the same costs in another order differ by a few parts in 1e16 per addition; a window is equal within this.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Launch:
    """One execution: its compiled batch size, and how many of its rows are the request's; the others are padding."""

    gear: int
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The launches that cover a request, in the order of its rows; only the last one can have padding.

    Attributes:
        rows: rows of the request.
        launches: see `Launch`; their rows sum up to `rows`.
        cost: predicted cost of all launches, in the unit of the costs it was made with.
        policy: the rule that chose it.
    """

    rows: int
    launches: tuple[Launch, ...]
    cost: float
    policy: Policy

    @property
    def padded_rows(self) -> int:
        """Rows that are executed beyond the request's."""
        return self.launches[-1].gear - self.launches[-1].rows if self.launches else 0

    def __str__(self) -> str:
        if not self.launches:
            return "nothing to launch"
        counts: dict[Launch, int] = {}
        for launch in self.launches:
            counts[launch] = counts.get(launch, 0) + 1
        return " + ".join(
            ("" if count == 1 else f"{count} x ")
            + (
                f"{launch.gear}"
                if launch.gear == launch.rows
                else f"{launch.gear} ({launch.rows} row{'s' * (launch.rows > 1)})"
            )
            for launch, count in counts.items()
        )


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
        for size, cost in self.table.items():
            if not isinstance(cost, (int, float, np.number)) or not 0 < cost < math.inf:
                raise InputError(f"expected a positive, finite cost for batch size {size}, got {cost!r}")
        object.__setattr__(self, "table", {int(size): float(cost) for size, cost in self.table.items()})

    def of(self, size: int) -> float:
        if size not in self.table:
            raise InputError(f"no cost for batch size {size}, only for {list(self.sizes)}: give one for each batch size")
        return self.table[size]


class Planner:
    """Plans requests for one session's batching and costs, by one policy.

    Policies beside ``least_cost`` are what others do, kept for comparison:
    ``round_up`` takes the smallest gear that holds the rest, or the largest while none does (TensorRT users, mmdeploy);
    ``largest_first`` the largest gear that the rest fills, or the smallest for what is left;
    ``one_gear`` always the largest (one compiled size, PopRT's way);
    ``nearest`` the gear closest to the rest, the larger on a tie (MindX SDK's default).

    Thread-safe.

    Args:
        batching: what a launch may be.
        costs: None uses `AffineCosts()`. For `Gears`, a table needs a cost for every gear. For `AnyBatch`, a table makes its
            sizes the largest launches worth making: requests are split over them as over gears, and the last launch
            runs at its own number of rows, unpadded.
        policy: how `plan` chooses.

    Raises:
        InputError: the policy is unknown, or `costs` lacks a gear.
    """

    def __init__(self, batching: Batching, costs: Costs | None = None, policy: Policy = "least_cost") -> None:
        _check_policy(policy)
        self.batching = batching
        self.costs: Costs = AffineCosts() if costs is None else costs
        if not isinstance(self.costs, Costs):
            raise InputError(f"expected costs as AffineCosts, TableCosts or a mapping of sizes to costs, got {costs!r}")
        self.policy: Policy = policy
        self._weights: dict[int, float] = {}
        if isinstance(batching, Gears):
            self._weights = {size: self.costs.of(size) for size in batching.sizes}
        elif isinstance(batching, AnyBatch) and self.costs.sizes is not None:
            self._weights = {size: self.costs.of(size) for size in self.costs.sizes}
        self._covers: dict[bool, _Cover] = {}
        self._growing = threading.Lock()

    def plan(self, rows: int, *, exact: bool = False, policy: Policy | None = None) -> Plan:
        """Return the launches for a request of that many rows.

        The first plan costs the time of a table (about 0.2 ms for 6 gears); later ones a walk over their launches.

        Args:
            rows: rows of the request, 0 or more, of any size.
            exact: no padding at all; the least-cost policy only.
            policy: another policy than this planner's own.

        Raises:
            InputError: `rows` is negative or not an int, the policy is unknown, or no exact plan exists.
        """
        rows = check_rows(rows)
        chosen = self.policy if policy is None else _check_policy(policy)
        if exact:
            chosen = "least_cost"
        if rows == 0:
            return Plan(0, (), 0.0, chosen)
        if not self._weights:
            return self._plan_one_launch(rows, chosen, exact=exact)
        counts = self._least_cost(rows, exact=exact) if chosen == "least_cost" else _SIMPLE[chosen](rows, tuple(self._weights))
        return self._lay_out(rows, counts, chosen)

    def plan_whole(self, rows: int) -> Plan | None:
        """Return the plan of one launch of exactly that many rows, without padding; None where no launch has that size.

        Its cost is that of the cheapest cover where costs do not tell about the size itself.
        """
        if not self.batching.takes(rows):
            return None
        known = self.costs.sizes is None or rows in self.costs.sizes
        cost = self.costs.of(rows) if known else self.plan(rows, policy="least_cost").cost
        return Plan(rows, (Launch(rows, rows),), cost, self.policy)

    def _plan_one_launch(self, rows: int, policy: Policy, *, exact: bool) -> Plan:
        gear = rows
        if isinstance(self.batching, MultipleOf):
            gear = -(-rows // self.batching.size) * self.batching.size
        if exact and gear != rows:
            raise InputError(f"{rows} rows cannot be run without padding: this session runs {self.batching}")
        return Plan(rows, (Launch(gear, rows),), self._cost_of_multiple(gear), policy)

    def _cost_of_multiple(self, gear: int) -> float:
        if isinstance(self.batching, MultipleOf) and self.costs.sizes is not None and gear not in self.costs.sizes:
            return self.costs.of(self.batching.size) * (gear // self.batching.size)
        return self.costs.of(gear)

    def _least_cost(self, rows: int, *, exact: bool) -> dict[int, int]:
        with self._growing:
            if exact not in self._covers:
                self._covers[exact] = _Cover(self._weights, pad=not exact)
            counts = self._covers[exact].counts(rows)
        if counts is None:
            raise InputError(f"{rows} rows cannot be run without padding: this session runs {self.batching}")
        return counts

    def _lay_out(self, rows: int, counts: Mapping[int, int], policy: Policy) -> Plan:
        launches: tuple[Launch, ...] = ()
        for size in sorted(counts, reverse=True):
            launches += (Launch(size, size),) * counts[size]  # one object many times: 10^7 rows stay a few megabytes
        padding = sum(size * count for size, count in counts.items()) - rows
        if padding:
            # Never more than the last launch: a plan that could do without its smallest launch would not have it.
            last = launches[-1].gear - padding
            launches = (
                *launches[:-1],
                Launch(last if isinstance(self.batching, AnyBatch) else launches[-1].gear, last),
            )
        cost = math.fsum(self._weights[size] * count for size, count in counts.items())
        return Plan(rows, launches, cost, policy)


def _check_policy(policy: Policy) -> Policy:
    if policy not in POLICIES:
        raise InputError(f"expected policy to be one of {list(POLICIES)}, got {policy!r}")
    return policy


def check_rows(rows: int) -> int:
    """Return `rows` as an int.

    Raises:
        InputError: it is not an int, or negative.
    """
    try:
        number = operator.index(rows)
    except TypeError:
        raise InputError(f"expected rows to be an int, got {rows!r}") from None
    if number < 0:
        raise InputError(f"expected rows >= 0, got {number}")
    return number


class _Cover:
    """The table of f(n) of this module's docstring, and plans read from it.

    Sizes are divided by their greatest common divisor first: the table of 64, 128, 256 is as short as that of 1, 2, 4.
    """

    def __init__(self, costs: Mapping[int, float], *, pad: bool) -> None:
        self._pad = pad
        self._unit = math.gcd(*costs)
        largest, cheapest = max(costs), min(costs.values())
        self._weights = {
            size // self._unit: cost / cheapest + _TIE * (1 + size / (2 * largest))
            for size, cost in sorted(costs.items(), reverse=True)
        }
        self._best = min(self._weights, key=lambda size: (self._weights[size] / size, -size))
        self._least = [0.0]
        self._periodic = False

    def counts(self, rows: int) -> dict[int, int] | None:
        """Return how many launches of each size make the least-cost plan; None where no exact plan exists."""
        left, odd = divmod(rows, self._unit)
        if odd and not self._pad:
            return None
        left += bool(odd)
        while left >= len(self._least) and not self._periodic:
            # First a length that mostly shows the window; then no more than is asked for, but neither entry by entry.
            length = len(self._least)
            if length == 1:
                self._grow(max(256, min(left, 5 * max(self._weights)) + 1))
            else:
                self._grow(min(2 * length, max(left + 1, length + length // 4)))
        least = self._least
        bulk = max(0, -(-(left - len(least) + 1) // self._best))
        left -= bulk * self._best
        if least[left] == math.inf:
            return None
        counts = {self._best * self._unit: bulk} if bulk else {}
        while left > 0:
            fitting = self._weights if self._pad else [size for size in self._weights if size <= left]
            size = min(fitting, key=lambda size: self._weights[size] + least[max(left - size, 0)])
            counts[size * self._unit] = counts.get(size * self._unit, 0) + 1
            left -= size
        return counts

    def _grow(self, length: int) -> None:
        """Fill the table for 0..length - 1.

        A size may be used any number of times: used or not, then twice as often or not, then four times, and so on
        reaches every count, as whole-array steps. Only additions: differences of unlike costs would lose digits.
        """
        least = np.full(length, math.inf)
        least[0] = 0.0
        if self._pad:  # one launch covers any number of rows up to its size
            for size, weight in self._weights.items():
                np.minimum(least[1 : size + 1], weight, out=least[1 : size + 1])
        for size, weight in self._weights.items():
            stride = size
            while stride < length:
                np.minimum(least[stride:], least[:-stride] + weight, out=least[stride:])
                stride, weight = 2 * stride, 2 * weight
        self._periodic = self._ends_in_window(least)
        self._least = least.tolist()

    def _ends_in_window(self, least: npt.NDArray[np.float64]) -> bool:
        largest = max(self._weights)
        if len(least) < self._best + largest:
            return False
        later = least[-largest:]
        earlier = least[-largest - self._best : -self._best]
        reachable = np.isfinite(earlier)  # exact plans may not exist for some n; they must be the same n then
        if not np.array_equal(reachable, np.isfinite(later)):
            return False
        step = later[reachable] - earlier[reachable] - self._weights[self._best]
        return bool(np.all(np.abs(step) <= _ROUNDING * later[reachable]))


def _round_up(rows: int, sizes: tuple[int, ...]) -> dict[int, int]:
    full, rest = divmod(rows, sizes[-1])
    counts = {sizes[-1]: full} if full else {}
    if rest:
        size = next(size for size in sizes if size >= rest)
        counts[size] = counts.get(size, 0) + 1
    return counts


def _largest_first(rows: int, sizes: tuple[int, ...]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for size in reversed(sizes):
        full, rows = divmod(rows, size)
        if full:
            counts[size] = full
    if rows:
        counts[sizes[0]] = counts.get(sizes[0], 0) + 1
    return counts


def _one_gear(rows: int, sizes: tuple[int, ...]) -> dict[int, int]:
    return {sizes[-1]: -(-rows // sizes[-1])}


def _nearest(rows: int, sizes: tuple[int, ...]) -> dict[int, int]:
    counts: dict[int, int] = {}
    full = max(0, (rows - sizes[-1]) // sizes[-1])  # while more than two of the largest are left, it is the nearest
    if full:
        counts[sizes[-1]] = full
        rows -= full * sizes[-1]
    while rows > 0:
        size = min(sizes, key=lambda size: (abs(size - rows), -size))
        counts[size] = counts.get(size, 0) + 1
        rows -= size
    return counts


_SIMPLE: Final[Mapping[Policy, Callable[[int, tuple[int, ...]], dict[int, int]]]] = {
    "round_up": _round_up,
    "largest_first": _largest_first,
    "one_gear": _one_gear,
    "nearest": _nearest,
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a request is run as it is.

    Attributes:
        plan: the plan in force.
        padding_cost: the padded rows' share of their launch's cost, in the costs' unit.
        alternatives: what each policy's plan costs, the one in force included; empty where outputs without rows force
            another plan, which no policy chose.
        batching: what the session offers, in words.
        cost_source: where the costs come from.
        cost_unit: their unit.
    """

    plan: Plan
    padding_cost: float
    alternatives: Mapping[Policy, float]
    batching: str
    cost_source: str
    cost_unit: str

    def __str__(self) -> str:
        plan = self.plan
        unit = f" {self.cost_unit}" if self.cost_unit else ""
        launched = plan.rows + plan.padded_rows
        lines = [
            f"{plan.rows} rows on {self.batching}: {plan}",
            f"  predicted cost {plan.cost:.6g}{unit}; costs: {self.cost_source}",
            f"  padding {plan.padded_rows} of {launched} rows, {self.padding_cost:.6g}{unit} of the cost",
        ]
        if self.alternatives:
            costs = (
                f"{name} {cost:.6g}" + (f" (+{cost / plan.cost - 1:.0%})" if cost > plan.cost > 0 else "")
                for name, cost in self.alternatives.items()
            )
            lines.append("  policies: " + ", ".join(costs))
        else:
            lines.append("  no policy's choice: an output without rows rules out padding, or more than one launch")
        return "\n".join(lines)


def explain_rows(planner: Planner, plan: Plan | int) -> Explanation:
    """Explain what `planner` does with a request, beside what the other policies would cost.

    Args:
        plan: the plan in force, or just the rows of a request, which are then planned.

    Raises:
        InputError: see `Planner.plan`.
    """
    if not isinstance(plan, Plan):
        plan = planner.plan(plan)
    padding_cost = 0.0
    if plan.padded_rows:
        gear = plan.launches[-1].gear
        padding_cost = planner.plan(gear, policy="round_up").cost * plan.padded_rows / gear
    chosen = planner.plan(plan.rows, policy=plan.policy).launches == plan.launches
    return Explanation(
        plan=plan,
        padding_cost=padding_cost,
        alternatives={name: planner.plan(plan.rows, policy=name).cost for name in POLICIES} if chosen else {},
        batching=str(planner.batching),
        cost_source=planner.costs.source,
        cost_unit=planner.costs.unit,
    )
