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

    4. *Sessions that take any number* (`AnyBatch` with `CurveCosts`). Besides launches of the known sizes, at most one launch
       has a size of its own, up to the largest known one: f(n) starts as that launch's cost, and 1 goes on from there. Past
       the largest known size only known sizes are added, so 2 and 3 hold for a window that lies beyond it. Requests beyond
       that size are compared with one launch of all their rows, too.

    *Ties.* Each launch carries a surcharge of 1e-9 of the cheapest launch's cost, and up to half of that again in proportion
    to its size, so equal costs go to fewer launches, then to less padding. Costs that differ by rounding only (0.1 + 0.2
    against 0.3) count as equal. The surcharge is at most 1.5e-9 of any plan's cost: that is how exact "least" is.

Uncertain costs
    Among many plans the one that looks cheapest is likely one whose estimates err on the low side. So where costs come with
    errors (`UncertainCosts`), the simple plan stands: the fewest launches, as rounding up makes them, or one launch where the
    session takes any number. Another one is taken only where its gain exceeds `_SURE` standard errors of that gain, to which
    only those launches contribute that the two plans do not share; of several, the one with the largest gain beyond that.
    Besides the least-cost plan, the other policies' plans are looked at, some of which may be surer.

    Where costs tell what splitting takes (`CurveCosts.splitting`), a plan of one launch is spared that. The table charges
    it to every launch; the comparison with the simple plan, and what plans are said to cost, do not.
"""

from __future__ import annotations

import math
import operator
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from anybatch._batching import AnyBatch, Batching, Gears, MultipleOf
from anybatch._costs import AffineCosts, Costs, CurveCosts, UncertainCosts
from anybatch._errors import InputError

Policy: TypeAlias = Literal["least_cost", "round_up", "largest_first", "one_gear", "nearest", "cost_per_request"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)

_TIE: Final = 1e-9
# Sums of the same costs in another order differ by a few parts in 1e16 per addition; a window is equal within this.
_ROUNDING: Final = 1e-12
# Standard errors by which a plan must be cheaper than the simple one. With 3, one plan in 50,000 was over 3 % dearer at some
# noises (`benchmarks/noise.py`).
_SURE: Final = 4.0
# Costs of plans that differ by less than this share are told as equal.
_UNLIKE: Final = 1e-6


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


class Planner:
    """Plans requests for one session's batching and costs, by one policy.

    Policies beside ``least_cost`` are what others do, kept for comparison:
    ``round_up`` takes the smallest gear that holds the rest, or the largest while none does (TensorRT users, mmdeploy);
    ``largest_first`` the largest gear that the rest fills, or the smallest for what is left;
    ``one_gear`` always the largest (one compiled size, PopRT's way);
    ``nearest`` the gear closest to the rest, the larger on a tie (MindX SDK's default);
    ``cost_per_request`` the smallest gear that holds the rest, or the largest below it where that costs no more per real row
    (TensorFlow's ``MINIMIZE_TPU_COST_PER_REQUEST``, which leaves the rest in its queue; here it goes on until none is left).

    Thread-safe.

    Args:
        batching: what a launch may be.
        costs: None uses `AffineCosts()`. For `Gears`, a table needs a cost for every gear. For `AnyBatch`, a table makes its
            sizes the largest launches worth making: requests are split over them as over gears, and the last launch
            runs at its own number of rows, unpadded. A curve (`CurveCosts`) tells for every size what one launch costs:
            requests are split where that is cheaper, at its sizes. Costs with errors leave the simple plan, of fewest
            launches, only where the gain is sure (`UncertainCosts`; this module's docstring).
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
        self._any_size = isinstance(batching, AnyBatch) and isinstance(self.costs, CurveCosts)
        self._splitting = self.costs.splitting if isinstance(self.costs, CurveCosts) else 0.0
        self._errors: dict[int, float] = {}
        if isinstance(self.costs, UncertainCosts):
            self._errors = {size: self.costs.error_of(size) for size in self._weights}
        self._covers: dict[bool, Cover] = {}
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
        if chosen != "least_cost":
            counts = self._by_rule(rows, chosen)
        else:
            counts = self._least_cost(rows, exact=exact)
            if not exact and (self._splitting or any(self._errors.values())):
                counts = self._surest(rows, counts)
        return self._lay_out(rows, counts, chosen)

    def cheapest(self, rows: int) -> Plan:
        """Return the least-cost plan as the costs say, however unsure they are: what `plan` would make of exact ones.

        Raises:
            InputError: see `plan`.
        """
        rows = check_rows(rows)
        if rows == 0 or not self._weights:
            return self.plan(rows, policy="least_cost")
        return self._lay_out(rows, self._least_cost(rows, exact=False), "least_cost")

    def plan_with(self, size: int, rows: int) -> Plan | None:
        """Return the least-cost plan that has a launch of `size`, first; it costs at most that launch more than the best plan.

        None where there is no such plan: on a session that does not pad, the request may have fewer rows than `size`, and the
        rows that the launch leaves may cost more than all of them.

        Raises:
            InputError: `size` is none of the sizes that costs are known of, or see `plan`.
        """
        rows = check_rows(rows)
        if size not in self._weights:
            raise InputError(f"expected one of the sizes {list(self._weights)}, got {size}")
        if rows < size and isinstance(self.batching, AnyBatch):
            return None
        taken = min(size, rows)
        rest = self.cheapest(rows - taken)
        if rest.cost > self.cheapest(rows).cost * (1 + _ROUNDING):
            return None
        launches = (Launch(size, taken), *rest.launches)
        return Plan(rows, launches, self._sum(Counter(launch.gear for launch in launches)), "least_cost")

    def error_of(self, plan: Plan) -> float:
        """Return the standard error of a plan's cost; 0 where the costs do not say how sure they are."""
        if not isinstance(self.costs, UncertainCosts):
            return 0.0
        counts = Counter(launch.gear for launch in plan.launches)
        return math.hypot(*(count * self._error(size) for size, count in counts.items()))

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
        interpolates = self.costs.sizes is None or isinstance(self.costs, CurveCosts)
        if isinstance(self.batching, MultipleOf) and not interpolates and gear not in (self.costs.sizes or ()):
            return self.costs.of(self.batching.size) * (gear // self.batching.size)
        return self.costs.of(gear)

    def _by_rule(self, rows: int, policy: Policy) -> dict[int, int]:
        """Return how many launches of each size a simple policy makes; where any size can be had, the rest is one."""
        if self._any_size:
            full, rest = divmod(rows, max(self._weights)) if policy in ("largest_first", "one_gear") else (0, rows)
            return Counter({max(self._weights): full}) + Counter({rest: int(rest > 0)})
        return _SIMPLE[policy](rows, self._weights)

    def _surest(self, rows: int, cheapest: dict[int, int]) -> dict[int, int]:
        """Return the launches whose gain over the simple plan is largest beyond doubt; see this module's docstring."""
        simple = self._by_rule(rows, "round_up")
        best, most = simple, 0.0
        seen = [simple]
        for counts in (cheapest, *(self._by_rule(rows, policy) for policy in _SIMPLE)):
            if counts in seen:  # most rules mostly agree
                continue
            seen.append(counts)
            differ = {size: simple.get(size, 0) - counts.get(size, 0) for size in {*simple, *counts}}
            gain = self._sum(simple) - self._sum(counts)
            sure = gain - _SURE * math.hypot(*(count * self._error(size) for size, count in differ.items()))
            if sure > most * (1 + _ROUNDING):
                best, most = counts, sure
        return best

    def _sum(self, counts: Mapping[int, int]) -> float:
        launches = sum(counts.values())
        splitting = self._splitting * launches if launches > 1 else 0.0
        return math.fsum((splitting, *(count * self._cost(size) for size, count in counts.items())))

    def _cost(self, size: int) -> float:
        known = self._weights.get(size)
        return self.costs.of(size) if known is None else known

    def _error(self, size: int) -> float:
        if size in self._errors:
            return self._errors[size]
        return self.costs.error_of(size) if isinstance(self.costs, UncertainCosts) else 0.0

    def _least_cost(self, rows: int, *, exact: bool) -> dict[int, int]:
        with self._growing:
            if exact not in self._covers:
                own = (
                    [self._cost(size) + self._splitting for size in range(1, max(self._weights) + 1)] if self._any_size else []
                )
                costs = {size: cost + self._splitting for size, cost in self._weights.items()}
                self._covers[exact] = Cover(costs, pad=not exact and not own, own=own)
            counts = self._covers[exact].counts(rows)
        if counts is None:
            raise InputError(f"{rows} rows cannot be run without padding: this session runs {self.batching}")
        if self._any_size and rows > max(self._weights):
            split = math.fsum(self._cost(size) * count for size, count in counts.items())
            if self._cost(rows) <= split * (1 + _ROUNDING):
                return {rows: 1}
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
        return Plan(rows, launches, self._sum(counts), policy)


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


class Cover:
    """The table of f(n) of this module's docstring, and plans read from it.

    Sizes are divided by their greatest common divisor first: the table of 64, 128, 256 is as short as that of 1, 2, 4.

    Args:
        costs: by size.
        pad: whether launches may cover fewer rows than their size.
        own: what one launch of 1, 2, ... rows costs, up to the largest size, where such may be made besides; else empty.
    """

    def __init__(self, costs: Mapping[int, float], *, pad: bool, own: Sequence[float] = ()) -> None:
        self._pad = pad
        self._unit = 1 if own else math.gcd(*costs)
        largest, cheapest = max(costs), min(costs.values())
        self._weights = {
            size // self._unit: cost / cheapest + _TIE * (1 + size / (2 * largest))
            for size, cost in sorted(costs.items(), reverse=True)
        }
        self._own = np.array([cost / cheapest + _TIE * (1 + (1 + row) / (2 * largest)) for row, cost in enumerate(own)])
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
            if 0 < left <= len(self._own) and self._own[left - 1] <= least[left]:
                counts[left] = counts.get(left, 0) + 1
                break
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
        covered = min(len(self._own), length - 1)  # so does one launch of just its own size
        np.minimum(least[1 : covered + 1], self._own[:covered], out=least[1 : covered + 1])
        for size, weight in self._weights.items():
            stride = size
            while stride < length:
                np.minimum(least[stride:], least[:-stride] + weight, out=least[stride:])
                stride, weight = 2 * stride, 2 * weight
        self._periodic = self._ends_in_window(least)
        self._least = least.tolist()

    def _ends_in_window(self, least: npt.NDArray[np.float64]) -> bool:
        largest = max(self._weights)
        if len(least) < self._best + largest + len(self._own) + 1:
            return False
        later = least[-largest:]
        earlier = least[-largest - self._best : -self._best]
        reachable = np.isfinite(earlier)  # exact plans may not exist for some n; they must be the same n then
        if not np.array_equal(reachable, np.isfinite(later)):
            return False
        step = later[reachable] - earlier[reachable] - self._weights[self._best]
        return bool(np.all(np.abs(step) <= _ROUNDING * later[reachable]))


def _round_up(rows: int, costs: Mapping[int, float]) -> dict[int, int]:
    sizes = tuple(costs)
    full, rest = divmod(rows, sizes[-1])
    counts = {sizes[-1]: full} if full else {}
    if rest:
        size = next(size for size in sizes if size >= rest)
        counts[size] = counts.get(size, 0) + 1
    return counts


def _largest_first(rows: int, costs: Mapping[int, float]) -> dict[int, int]:
    sizes = tuple(costs)
    counts: dict[int, int] = {}
    for size in reversed(sizes):
        full, rows = divmod(rows, size)
        if full:
            counts[size] = full
    if rows:
        counts[sizes[0]] = counts.get(sizes[0], 0) + 1
    return counts


def _one_gear(rows: int, costs: Mapping[int, float]) -> dict[int, int]:
    largest = max(costs)
    return {largest: -(-rows // largest)}


def _nearest(rows: int, costs: Mapping[int, float]) -> dict[int, int]:
    sizes = tuple(costs)
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


def _cost_per_request(rows: int, costs: Mapping[int, float]) -> dict[int, int]:
    sizes = tuple(costs)
    full, rows = divmod(rows, sizes[-1])
    counts = {sizes[-1]: full} if full else {}
    while rows > 0:
        up = next(size for size in sizes if size >= rows)
        below = [size for size in sizes if size < rows]
        size = below[-1] if up != rows and below and costs[below[-1]] / below[-1] <= costs[up] / rows else up
        counts[size] = counts.get(size, 0) + 1
        rows -= size
    return counts


_SIMPLE: Final[Mapping[Policy, Callable[[int, Mapping[int, float]], dict[int, int]]]] = {
    "round_up": _round_up,
    "largest_first": _largest_first,
    "one_gear": _one_gear,
    "nearest": _nearest,
    "cost_per_request": _cost_per_request,
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a request is run as it is.

    Attributes:
        plan: the plan in force.
        padding_cost: the padded rows' share of their launch's cost, in the costs' unit.
        alternatives: what each policy's plan costs, the one in force included; empty where outputs without rows, or rows that
            influence one another, force another plan, which no policy chose.
        batching: what the session offers, in words.
        cost_source: where the costs come from.
        cost_unit: their unit.
        error: standard error of the plan's predicted cost; 0 where the costs do not say how sure they are.
        unsure: the plan that looks cheaper by less than can be told from chance, and was not taken for that; else None.
        runs: completed requests of that many rows, with this plan.
        actual: what the latest of them took, the median, in the costs' unit; None where nothing ran or that unit is no time.
        safety: what is known of whether rows influence one another, in words; empty where nobody asked.
    """

    plan: Plan
    padding_cost: float
    alternatives: Mapping[Policy, float]
    batching: str
    cost_source: str
    cost_unit: str
    error: float = 0.0
    unsure: Plan | None = None
    runs: int = 0
    actual: float | None = None
    safety: str = ""

    @property
    def predicted(self) -> str:
        """The predicted cost in words, with twice its standard error where there is one."""
        return f"{self.plan.cost:.6g}" + (f" ± {2 * self.error:.2g}" if self.error else "")

    def __str__(self) -> str:
        plan = self.plan
        unit = f" {self.cost_unit}" if self.cost_unit else ""
        launched = plan.rows + plan.padded_rows
        lines = [
            f"{plan.rows} rows on {self.batching}: {plan}",
            f"  predicted cost {self.predicted}{unit}; costs: {self.cost_source}",
            f"  padding {plan.padded_rows} of {launched} rows, {self.padding_cost:.6g}{unit} of the cost",
        ]
        if self.actual is not None:
            lines.append(f"  actual {self.actual:.6g}{unit}, median of {self.runs} runs ({self.actual / plan.cost - 1:+.0%})")
        if self.unsure is not None:
            saving = 1 - self.unsure.cost / plan.cost
            lines.append(f"  {self.unsure} looks {saving:.1%} cheaper, which the estimates are too unsure to tell")
        if self.alternatives:
            costs = (
                f"{name} {cost:.6g}" + (f" (+{cost / plan.cost - 1:.0%})" if cost > plan.cost > 0 else "")
                for name, cost in self.alternatives.items()
            )
            lines.append("  policies: " + ", ".join(costs))
        else:
            lines.append("  no policy's choice: the model rules out padding, or more than one launch")
        if self.safety:
            lines.append(f"  rows: {self.safety}")
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
    cheapest = planner.cheapest(plan.rows) if chosen and plan.policy == "least_cost" else plan
    return Explanation(
        plan=plan,
        padding_cost=padding_cost,
        alternatives={name: planner.plan(plan.rows, policy=name).cost for name in POLICIES} if chosen else {},
        batching=str(planner.batching),
        cost_source=planner.costs.source,
        cost_unit=planner.costs.unit,
        error=planner.error_of(plan),
        unsure=cheapest if cheapest.cost < plan.cost * (1 - _UNLIKE) else None,
    )
