"""Which batch sizes to compile: the gears that make past requests cheapest, within budgets. Pure, like the planner.

The problem
    Of m candidate sizes choose a set S within the budgets such that the expected cost of a request, the sum over n of
    p(n) * f_S(n), is least. f_S(n) is what the exact planner pays for n rows (`_planner`), splitting included. More gears
    never cost more, since no plan has to use them; so there is a curve of the least cost against the number of gears.

The search
    *Adding a gear* to a set whose table of f is known takes whole-array steps: the new gear once or not, then twice more
    or not, then four times, and so on (`_Tables.add`). So trying all candidates as the next gear costs m such steps, not m
    tables.

    *Exhaustive* where all sets can be tried within a bound on the work: a walk that adds one gear per set.

    *Else* for each number of gears there are starts: the sets that are best, by cost and by padding, if nothing was split,
    which are found exactly (`_best_for_rounding_up`); the best smaller set and one more gear; on the way back, the best
    larger set without one. Each is improved by swaps, any gear against any candidate, until no swap helps; the answer is the
    best set met on the way. The tables of a set without each of its gears come from halving it again and again, k log k
    additions. The work is bounded, in table entries rather than seconds, so that the same input has the same answer
    everywhere.

The lower bound
    tells how far the answer can be from the best set, without trying all. Let a request choose its plan, where each plan
    pays for its largest and its smallest gear a price of the request's own, and let all that is paid for a gear be its worth;
    take the worth of the k most valuable gears off the sum. For any prices that is at most the cost of the best k gears: they
    are open in the true problem, so what plans pay for them is taken off again. (This is Lagrange's relaxation of "a plan
    uses only gears that are open". Gears between a plan's largest and smallest are free, which only lowers the bound.)
    Subgradient steps look for good prices. Requests of many different sizes are grouped, each as cheap as its smallest.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from numbers import Integral, Real
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from anybatch._batching import check_batch_sizes
from anybatch._costs import AffineCosts, Costs, CurveCosts, TableCosts
from anybatch._errors import InputError
from anybatch._planner import Cover
from anybatch._trace import read_requests

Provenance: TypeAlias = Literal["given", "interpolated", "extrapolated", "modelled"]
Budget: TypeAlias = Literal["max_gears", "default_gears", "backend_gears", "max_compile_s", "max_memory_bytes"]

# Without a budget that limits their number, more gears than this are not looked for.
_DEFAULT_GEARS: Final = 16
_MAX_CANDIDATES: Final = 100
# Launches beyond this many rows are proposed only where the caller names them.
_LARGEST_PROPOSED: Final = 2048
_LARGEST_TABLE: Final = 10**6
# Costs that differ by less than this share are equal: then fewer gears win, then the smaller largest gear.
_TIE: Final = 1e-9
# In table entries; one takes about a nanosecond, and a step over a short table as long as one over this many.
_STEP: Final = 3000
_WORK_EXHAUSTIVE: Final = 3e9
_WORK_SEARCH: Final = 6e9
# The search's share of the progress; what is left is the lower bound's.
_SEARCHED: Final = 0.7
_GROUPS: Final = 160
_ROUNDS: Final = 400

_Sizes: TypeAlias = tuple[int, ...]
_Array: TypeAlias = npt.NDArray[np.float64]
_Ints: TypeAlias = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class GearUse:
    """One of the advised gears.

    Attributes:
        size: rows of its launches.
        cost: what a launch costs.
        provenance: how that is known: ``given`` for exactly this size; ``interpolated`` between two sizes, or ``extrapolated``
            beyond them, where nobody measured this one; ``modelled`` by costs that have a formula for all sizes.
        launches: launches of it per request, on average.
        share: of the expected cost, 0 to 1.
    """

    size: int
    cost: float
    provenance: Provenance
    launches: float
    share: float


@dataclass(frozen=True, slots=True)
class GearChoice:
    """A set of gears, and what requests would cost with it under the exact planner.

    Attributes:
        name: what it is, such as ``"powers of two"``.
        gears: ascending.
        cost: expected cost of a request.
        violates: the budgets that it exceeds; empty where it could be had.
    """

    name: str
    gears: tuple[int, ...]
    cost: float
    violates: tuple[Budget, ...] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """Which gears to compile, and why.

    Attributes:
        gears: the advised batch sizes, ascending.
        cost: expected cost of a request with them, under the exact planner.
        cost_per_row: the same per row.
        uses: each gear's cost, where that is from, and how much it is used.
        alternatives: what is compiled now (where given), powers of two, one gear, every candidate.
        curve: the best set found for each number of gears within the budgets.
        lower_bound: no set within the budgets costs less, of however many gears they allow; proven, not estimated.
        optimal: whether it is proven that no set is cheaper (by more than 1e-9 of the cost).
        binding: the budgets that keep a cheaper set out, and the share of the cost that is known to be saved beyond each:
            by one more gear, or by one gear in another's place. A budget that is not in here costs nothing that was found.
        candidates: the sizes to choose from, those beyond the memory budget included.
        requests: how many there were.
        rows: rows of all of them.
        compile_s: seconds to compile the gears; None where unknown.
        memory_bytes: memory for the largest; None where unknown.
        cost_source: where the costs come from.
        cost_unit: their unit.
    """

    gears: tuple[int, ...]
    cost: float
    cost_per_row: float
    uses: tuple[GearUse, ...]
    alternatives: tuple[GearChoice, ...]
    curve: tuple[GearChoice, ...]
    lower_bound: float
    optimal: bool
    binding: Mapping[Budget, float]
    candidates: tuple[int, ...]
    requests: float
    rows: float
    compile_s: float | None
    memory_bytes: float | None
    cost_source: str
    cost_unit: str

    @property
    def gap(self) -> float:
        """How much cheaper than this advice any other set can be at most, as a share of its cost; 0 where it is optimal."""
        return 0.0 if self.optimal else 1 - self.lower_bound / self.cost

    @property
    def estimated_share(self) -> float:
        """The share of the expected cost that rests on sizes whose cost nobody gave: 0 to 1."""
        return math.fsum(use.share for use in self.uses if use.provenance in ("interpolated", "extrapolated"))

    @property
    def batch_sizes_line(self) -> str:
        """The argument for `anybatch.open` and `anybatch.compile`."""
        return f"batch_sizes={list(self.gears)}"

    @property
    def compiler_line(self) -> str | None:
        """The option of compilers with gears, ``--dynamic_batch_size=1,4,16``; None for one gear, which is a fixed shape."""
        return f"--dynamic_batch_size={','.join(map(str, self.gears))}" if len(self.gears) > 1 else None

    def __str__(self) -> str:
        unit = f" {self.cost_unit}" * bool(self.cost_unit)
        lines = [
            f"{self.requests:,.6g} requests, {self.rows / self.requests:.4g} rows on average: compile {list(self.gears)}",
            f"  expected cost {self.cost:.6g}{unit} per request, {self.cost_per_row:.4g} per row; {self.proof}",
            f"  costs: {self.cost_source}",
        ]
        lines += [f"  {sentence}" for sentence in self.notes]
        others = (f"{each.name} {each.cost:.6g} ({each.cost / self.cost - 1:+.1%})" for each in self.alternatives)
        lines += [
            f"  instead: {', '.join(others)}",
            "  " + "   ".join(filter(None, (self.compiler_line, self.batch_sizes_line))),
        ]
        return "\n".join(lines)

    @property
    def proof(self) -> str:
        """How good the answer is, in words."""
        return "the least possible" if self.optimal else f"no set of gears costs over {max(self.gap, 1e-4):.2%} less"

    @property
    def notes(self) -> tuple[str, ...]:
        """What to keep in mind, in sentences: estimated costs, and budgets that bind."""
        said = []
        estimated = [use.size for use in self.uses if use.provenance in ("interpolated", "extrapolated")]
        if estimated:
            said.append(
                f"{self.estimated_share:.0%} of that cost is estimated, since nobody measured {estimated}: "
                "compile them, measure, ask again"
            )
        for budget, saving in self.binding.items():
            said.append(f"{_BUDGETS[budget]} binds: beyond it, one more or another gear saves {saving:.2%}")
        return tuple(said)


_BUDGETS: Final[Mapping[Budget, str]] = {
    "max_gears": "the number of gears",
    "default_gears": f"the default limit of {_DEFAULT_GEARS} gears",
    "backend_gears": "the backend's limit of gears",
    "max_compile_s": "compile time",
    "max_memory_bytes": "memory",
}


def advise(
    requests: object,
    costs: Costs | Mapping[int, float] | None = None,
    *,
    candidates: Iterable[int] | None = None,
    max_gears: int | None = None,
    min_gears: int | None = None,
    gear_limits: tuple[int, int | None] = (1, None),
    max_compile_s: float | None = None,
    compile_s: float | AffineCosts | Mapping[int, float] | None = None,
    max_memory_bytes: float | None = None,
    bytes_per_row: float | None = None,
    bytes_fixed: float = 0,
    current: Iterable[int] | None = None,
    tolerance: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> Advice:
    """Advise which batch sizes to compile for requests like these.

    The answer is the set of gears with the least expected cost under the exact planner, splitting included, found as this
    module's docstring says; `Advice.optimal` and `Advice.gap` tell how sure that is. Sets of equal cost: the fewest gears,
    then the smallest largest one. With uncertain costs it is the estimates that count, not their errors: whoever
    compiles new gears measures them next.

    Args:
        requests: how many requests there were by number of rows: a mapping, a list of rows, a runner's stats, or a file, see
            `read_requests`. With batches that are joined before they run, give the joined ones.
        costs: what a launch of each size costs. A table, or a mapping, becomes a `CurveCosts`: sizes between are estimated, and
            said to be. None uses `AffineCosts()`, a guess.
        candidates: sizes to choose from, up to 10^6 rows. None: up to 100, of those the costs know, those requested, powers of
            two and sizes spread between, up to 2048 rows (and whatever the costs know); their least common reach is 1.
        max_gears: at most so many. None: 16, or any number where compile time is limited.
        min_gears: at least so many.
        gear_limits: the least and the most that a backend can compile into one model, None for any number.
        max_compile_s: seconds to compile all gears, at most.
        compile_s: seconds to compile one gear: one figure for all, `AffineCosts` of its size, or figures for some sizes and
            lines between them.
        max_memory_bytes: memory, at most; that of a model is set by its largest gear.
        bytes_per_row: memory for each row of the largest gear.
        bytes_fixed: memory on top of that.
        current: the batch sizes compiled now, to compare with.
        tolerance: take the fewest gears whose cost is within this share of the best that the budgets allow.
        progress: called with the share of the work done, 0 to 1.

    Raises:
        InputError: an argument does not fit, or no set of candidates meets the budgets; the message says which budget binds.
    """
    counts = read_requests(requests)
    known = _check_costs(costs)
    if candidates is None:
        offered = _propose(counts, known, _rows_in_memory(max_memory_bytes, bytes_per_row, bytes_fixed))
    else:
        offered = check_batch_sizes(candidates)
    if offered[-1] > _LARGEST_TABLE:
        raise InputError(f"expected candidates up to {_LARGEST_TABLE:,} rows, got {offered[-1]:,}")
    if not 0 <= _number("tolerance", tolerance) < 1:
        raise InputError(f"expected a tolerance from 0 to below 1, got {tolerance!r}")
    budgets = _Budgets.of(
        offered,
        min_gears=min_gears,
        max_gears=max_gears,
        gear_limits=gear_limits,
        max_compile_s=max_compile_s,
        compile_s=compile_s,
        max_memory_bytes=max_memory_bytes,
        bytes_per_row=bytes_per_row,
        bytes_fixed=bytes_fixed,
    )
    total = math.fsum(counts.values())
    shares = {rows: count / total for rows, count in counts.items()}
    sizes = check_batch_sizes(current) if current is not None else None
    show = progress or (lambda _share: None)
    tables = _Tables(shares, {size: known.of(size) for size in offered})
    search = _Search(tables, budgets, show)
    search.run()
    best = search.choose(tolerance)

    exact = _ExactCost(shares, known)
    launches = exact.launches(best)
    cost = exact.of(best)
    curve = tuple(GearChoice(f"{len(gears)} gear{'s' * (len(gears) > 1)}", gears, exact.of(gears)) for gears in search.curve())
    if search.exhaustive and tables.exact:
        bound = min(choice.cost for choice in curve)
    else:
        bound = min(
            cost, _lower_bound(tables, budgets, search.choose(0.0), lambda done: show(_SEARCHED + (1 - _SEARCHED) * done))
        )
    show(1.0)
    named: list[tuple[str, _Sizes]] = [("compiled now", sizes)] if sizes is not None else []
    named += [
        ("powers of two", tuple(2**power for power in range(offered[-1].bit_length()))),
        ("one gear", search.best[1][1]),
        ("every candidate", offered),
    ]
    return Advice(
        gears=best,
        cost=cost,
        cost_per_row=cost / math.fsum(rows * share for rows, share in shares.items()),
        uses=tuple(
            GearUse(size, known.of(size), _provenance(size, known), launches[size], launches[size] * known.of(size) / cost)
            for size in best
        ),
        alternatives=tuple(GearChoice(name, gears, exact.of(gears), budgets.violated(gears)) for name, gears in named),
        curve=curve,
        lower_bound=bound,
        optimal=bound >= cost * (1 - _TIE),
        binding=search.binding(best),
        candidates=offered,
        requests=total,
        rows=math.fsum(rows * count for rows, count in counts.items()),
        compile_s=math.fsum(map(budgets.seconds, best)) if budgets.seconds is not None else None,
        memory_bytes=budgets.memory(best) if bytes_per_row is not None else None,
        cost_source=known.source,
        cost_unit=known.unit,
    )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"expected {name} to be a finite number, got {value!r}")
    return float(value)


def _not_negative(name: str, value: object) -> float:
    number = _number(name, value)
    if number < 0:
        raise InputError(f"expected {name} to be 0 or more, got {value!r}")
    return number


def _seconds(compile_s: float | AffineCosts | Mapping[int, float]) -> Callable[[int], float]:
    if isinstance(compile_s, AffineCosts):
        return compile_s.of
    if isinstance(compile_s, Mapping):
        return CurveCosts(compile_s).of
    each = _not_negative("compile_s", compile_s)
    return lambda _size: each


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"expected {name} to be an int of at least 1, got {value!r}")
    return int(value)


def _check_costs(costs: Costs | Mapping[int, float] | None) -> Costs:
    """Return costs that know about every size."""
    if costs is None:
        return AffineCosts()
    if isinstance(costs, TableCosts):
        return CurveCosts(costs.table, source=costs.source, unit=costs.unit)
    if isinstance(costs, Mapping):
        return CurveCosts(costs)
    if not isinstance(costs, Costs):
        raise InputError(f"expected costs such as AffineCosts or CurveCosts, or a mapping of sizes to costs, got {costs!r}")
    return costs


def _provenance(size: int, costs: Costs) -> Provenance:
    if costs.sizes is None:
        return "modelled"
    if size in costs.sizes:
        return "given"
    return "interpolated" if costs.sizes[0] < size < costs.sizes[-1] else "extrapolated"


def _rows_in_memory(max_memory_bytes: float | None, bytes_per_row: float | None, bytes_fixed: float) -> int:
    """Return the largest gear that the memory budget allows, at least 1; a table's largest where there is none."""
    if max_memory_bytes is None or not bytes_per_row:
        return _LARGEST_TABLE
    rows = (_number("max_memory_bytes", max_memory_bytes) - _number("bytes_fixed", bytes_fixed)) / _number(
        "bytes_per_row", bytes_per_row
    )
    return max(1, int(min(rows, _LARGEST_TABLE)))


def _propose(counts: Mapping[int, float], costs: Costs, most_rows: int) -> _Sizes:
    """Return sizes worth looking at for these requests: what each kind of good set is made of.

    Beyond `most_rows` only powers of two, which tell what the memory budget costs.
    """
    beyond = min(max(counts), _LARGEST_PROPOSED)
    reach = min(beyond, most_rows)
    known = [size for size in costs.sizes or () if size <= _LARGEST_TABLE]
    chosen = {*known[:: -(-len(known) // _MAX_CANDIDATES)]} if known else set()

    def take(sizes: Sequence[int]) -> None:
        room = _MAX_CANDIDATES - len(chosen)
        new = sorted(set(sizes) - chosen)
        if len(new) > room:  # evenly, both ends included
            new = [new[round(index * (len(new) - 1) / max(room - 1, 1))] for index in range(room)]
        chosen.update(new)

    take([1, reach, *(2**power for power in range(beyond.bit_length()))])
    requested = [rows for rows in counts if rows <= reach]
    if len(set(requested) - chosen) + len(chosen) <= _MAX_CANDIDATES:
        take(requested)
    else:  # as many between each two as requests lie there, by the rows in them
        reached = list(accumulate(rows * counts[rows] for rows in requested))
        steps = (_MAX_CANDIDATES - len(chosen)) // 2
        take([requested[bisect_right(reached, reached[-1] * step / (steps + 1))] for step in range(1, steps + 1)])
    take([max(1, round(reach * step / _MAX_CANDIDATES)) for step in range(1, _MAX_CANDIDATES + 1)])
    return tuple(sorted(chosen))


@dataclass(frozen=True, slots=True)
class _Budgets:
    """What a set of gears may be.

    Attributes:
        allowed: the candidates that may be used at all, ascending.
        least, most: how many gears there may be.
        most_by: the budget that says so.
        max_compile_s: limit of the sum of `seconds`.
        seconds: to compile one gear, by its size; None where unknown.
        max_memory: limit of `memory`.
        fixed, per_row: bytes that a model takes, and on top of that for each row of its largest gear.
    """

    allowed: _Sizes
    least: int
    most: int
    most_by: Budget
    max_compile_s: float
    seconds: Callable[[int], float] | None
    max_memory: float
    fixed: float
    per_row: float

    @classmethod
    def of(
        cls,
        offered: _Sizes,
        *,
        min_gears: int | None,
        max_gears: int | None,
        gear_limits: tuple[int, int | None],
        max_compile_s: float | None,
        compile_s: float | AffineCosts | Mapping[int, float] | None,
        max_memory_bytes: float | None,
        bytes_per_row: float | None,
        bytes_fixed: float,
    ) -> _Budgets:
        """Check the arguments of `advise`, and that some set meets them.

        Raises:
            InputError: see `advise`.
        """
        lowest = _count("the lower of gear_limits", gear_limits[0])
        least = max(lowest, 1 if min_gears is None else _count("min_gears", min_gears))
        limits: dict[Budget, int] = {}
        if max_gears is not None:
            limits["max_gears"] = _count("max_gears", max_gears)
        elif max_compile_s is None:
            limits["default_gears"] = max(_DEFAULT_GEARS, least)
        if gear_limits[1] is not None:
            limits["backend_gears"] = _count("the upper of gear_limits", gear_limits[1])
        if least > len(offered):
            raise InputError(f"expected at least {least} candidates for as many gears, got {len(offered)}: {list(offered)}")
        limits.setdefault("max_gears", len(offered))
        most_by = min(limits, key=limits.__getitem__)
        most = limits[most_by]
        if least > most:
            asked = "min_gears" if min_gears == least else "the backend's least number of gears"
            raise InputError(f"{_BUDGETS[most_by]} binds: at most {most}, but {asked} is {least}")
        if max_memory_bytes is not None and bytes_per_row is None:
            raise InputError("max_memory_bytes needs bytes_per_row: what each row of the largest gear takes")
        if max_compile_s is not None and compile_s is None:
            raise InputError("max_compile_s needs compile_s: the seconds that one gear takes")
        budgets = cls(
            allowed=offered,
            least=least,
            most=most,
            most_by=most_by,
            max_compile_s=math.inf if max_compile_s is None else _number("max_compile_s", max_compile_s),
            seconds=None if compile_s is None else _seconds(compile_s),
            max_memory=math.inf if max_memory_bytes is None else _number("max_memory_bytes", max_memory_bytes),
            fixed=_not_negative("bytes_fixed", bytes_fixed),
            per_row=_not_negative("bytes_per_row", bytes_per_row or 0.0),
        )
        allowed = tuple(size for size in offered if budgets.memory((size,)) <= budgets.max_memory)
        if len(allowed) < least:
            needed = budgets.memory(offered[:least])
            raise InputError(
                f"memory binds: the {f'{least} smallest candidates need' if least > 1 else 'smallest candidate needs'} "
                f"{needed:,.0f} bytes ({budgets.fixed:,.0f} and {budgets.per_row:,.0f} for each of {offered[least - 1]} rows), "
                f"max_memory_bytes is {budgets.max_memory:,.0f}"
            )
        if budgets.seconds is not None:
            quickest = sorted(allowed, key=budgets.seconds)[:least]
            if not budgets.in_time(quickest):
                within = f" of the {len(allowed)} that memory allows" * (len(allowed) < len(offered))
                raise InputError(
                    f"compile time binds: the {f'{least} quickest gears' if least > 1 else 'quickest gear'}{within} "
                    f"take{'s' * (least == 1)} {math.fsum(map(budgets.seconds, quickest)):,.6g} s, "
                    f"max_compile_s is {budgets.max_compile_s:,.6g}"
                )
        return replace(budgets, allowed=tuple(size for size in allowed if budgets.in_time((size,))))

    def memory(self, gears: Collection[int]) -> float:
        """Return the bytes that a model of these gears takes."""
        return self.fixed + self.per_row * max(gears)

    def in_time(self, gears: Iterable[int]) -> bool:
        """Return whether these can be compiled in time."""
        return self.seconds is None or math.fsum(map(self.seconds, gears)) <= self.max_compile_s * (1 + _TIE)

    def violated(self, gears: Collection[int]) -> tuple[Budget, ...]:
        """Return the budgets that a set exceeds."""
        found: list[Budget] = []
        if len(gears) > self.most:
            found.append(self.most_by)
        if not self.in_time(gears):
            found.append("max_compile_s")
        if self.memory(gears) > self.max_memory:
            found.append("max_memory_bytes")
        return tuple(found)


class _Table(NamedTuple):
    """f_S(n) for n from 0 up, in units of rows, and the gear of least cost per row among S; 0 where S is empty."""

    least: _Array
    best: int


class _Tables:
    """Tables of the least cost, made gear by gear, and what requests cost by them.

    Sizes and rows are divided by the candidates' greatest common divisor. Requests beyond the table are taken to be launches
    of the best gear until the rest lies in the table: a plan that can be had, and the least one where `exact`.

    Args:
        shares: of requests, by rows.
        costs: by candidate.

    Attributes:
        requests, costs: as given.
        exact: whether that holds for every set: the table is as long as the largest request, or ends beyond b * G (`_planner`).
        unit: the greatest common divisor, in rows.
        length: of the tables.
        work: entries written so far.
    """

    def __init__(self, shares: Mapping[int, float], costs: Mapping[int, float]) -> None:
        self.requests = shares
        self.costs = costs
        self.unit = math.gcd(*costs)
        self.rows = np.array([-(-rows // self.unit) for rows in shares])
        self.shares = np.array(list(shares.values()))
        largest = max(costs) // self.unit
        end = min(int(self.rows.max()), max(5 * largest, min(largest**2, 20_000)))
        self.exact = end == self.rows.max() or end >= largest**2
        self.length = end + 1
        self.work = 0
        self._weights: dict[int, tuple[_Array, float]] = {}

    def empty(self) -> _Table:
        """Return the table without any gear."""
        least = np.full(self.length, math.inf)
        least[0] = 0.0
        return _Table(least, 0)

    def add(self, table: _Table, size: int) -> _Table:
        """Return the table with one more gear.

        No plan needs lcm(size, best) / size launches of it while there is another gear that is cheaper per row: launches of
        that one take their place.
        """
        best, cost = table.best, self.costs[size]
        if not best or cost / size < self.costs[best] / best:
            best = size
        enough = self.length if best == size else math.lcm(size, best) // self.unit
        least = table.least.copy()
        stride = size // self.unit
        np.minimum(least[1 : stride + 1], cost, out=least[1 : stride + 1])
        self.work += _STEP + self.length
        while stride < min(self.length, enough):
            np.minimum(least[stride:], least[:-stride] + cost, out=least[stride:])
            self.work += _STEP + self.length - stride
            stride, cost = 2 * stride, 2 * cost
        return _Table(least, best)

    def add_all(self, table: _Table, sizes: Iterable[int]) -> _Table:
        for size in sizes:
            table = self.add(table, size)
        return table

    def without_each(self, table: _Table, sizes: _Sizes) -> Iterator[tuple[int, _Table]]:
        """Yield each size, and the table to which all others are added."""
        if len(sizes) == 1:
            yield sizes[0], table
            return
        half = len(sizes) // 2
        yield from self.without_each(self.add_all(table, sizes[half:]), sizes[:half])
        yield from self.without_each(self.add_all(table, sizes[:half]), sizes[half:])

    def cost(self, table: _Table) -> float:
        """Return the expected cost of a request."""
        weights, launches = self._folded(table.best)
        return float(weights @ table.least) + launches * self.costs[table.best]

    def is_periodic(self, table: _Table) -> bool:
        """Whether it is proven that larger requests begin with launches of the best gear: the window of `_planner` shows it."""
        window, step = max(self.costs) // self.unit, table.best // self.unit
        if self.length > self.rows.max():
            return True
        if self.length < window + step + 1:
            return False
        rise = table.least[-window:] - table.least[-window - step : -step]
        return bool(np.allclose(rise, self.costs[table.best], rtol=1e-9, atol=0.0))

    def _folded(self, best: int) -> tuple[_Array, float]:
        """Return how often each entry of a table is asked for, and how many launches of the best gear are added."""
        if best not in self._weights:
            step = best // self.unit
            bulk = np.maximum(0, -(-(self.rows - self.length + 1) // step))
            weights = np.asarray(np.bincount(self.rows - bulk * step, self.shares, self.length), np.float64)
            self._weights[best] = weights, float(bulk @ self.shares)
        return self._weights[best]


class _Found(NamedTuple):
    cost: float
    gears: _Sizes

    def beats(self, other: _Found | None) -> bool:
        """Whether this is cheaper, or as cheap with a smaller largest gear."""
        if other is None or self.cost < other.cost * (1 - _TIE):
            return True
        return self.cost <= other.cost * (1 + _TIE) and max(self.gears) < max(other.gears)


class _Search:
    """Looks for the best set for each number of gears; see this module's docstring.

    Attributes:
        best: by number of gears.
        exhaustive: whether all sets were tried.
    """

    def __init__(self, tables: _Tables, budgets: _Budgets, progress: Callable[[float], None]) -> None:
        self._tables = tables
        self._budgets = budgets
        self._progress = progress
        # As many as can be compiled in time, the quickest ones.
        seconds = budgets.seconds
        quickest = budgets.allowed if seconds is None else sorted(budgets.allowed, key=seconds)
        most = min(budgets.most, len(budgets.allowed))
        self._most = next(count for count in range(most, 0, -1) if budgets.in_time(quickest[:count]))
        self._quickest = tuple(quickest)
        self._starts: dict[int, list[_Sizes]] = {}
        self._descended: set[_Sizes] = set()
        self.best: dict[int, _Found] = {}
        self.exhaustive = False

    def run(self) -> None:
        count = sum(math.comb(len(self._budgets.allowed), size) for size in range(1, self._most + 1))
        steps = 1 + math.log2(self._tables.length)  # at most, of one addition
        self.exhaustive = count * steps * (_STEP + self._tables.length) <= _WORK_EXHAUSTIVE
        if self.exhaustive:
            self._try_all(self._tables.empty(), (), 0)
        else:
            self._grow()
            self._improve()

    def choose(self, tolerance: float) -> _Sizes:
        """Return the fewest gears that cost, within a share, no more than the best."""
        within = {count: found for count, found in self.best.items() if count >= self._budgets.least}
        limit = min(found.cost for found in within.values()) * (1 + max(tolerance, _TIE))
        return next(within[count].gears for count in sorted(within) if within[count].cost <= limit)

    def curve(self) -> list[_Sizes]:
        """Return the best set for each number of gears, up to where more of them save nothing."""
        least = min(found.cost for found in self.best.values())
        curve = []
        for count in sorted(self.best):
            curve.append(self.best[count].gears)
            if self.best[count].cost <= least * (1 + _TIE) and count >= self._budgets.least:
                break
        return curve

    def binding(self, gears: _Sizes) -> dict[Budget, float]:
        """Return what one more gear, or another one, would save where a budget was not there; nothing where it saves none."""
        tables, budgets = self._tables, self._budgets
        table = tables.add_all(tables.empty(), gears)
        cost = tables.cost(table)
        saved: dict[Budget, float] = {}

        def look(table: _Table, rest: _Sizes) -> None:
            for size in tables.costs:
                violated = budgets.violated((*rest, size))
                if size not in gears and len(violated) == 1:
                    saving = 1 - tables.cost(tables.add(table, size)) / cost
                    if saving > max(saved.get(violated[0], 0.0), _TIE):
                        saved[violated[0]] = saving

        look(table, gears)
        if not math.isinf(budgets.max_memory) or not math.isinf(budgets.max_compile_s):
            for gear, others in tables.without_each(tables.empty(), gears):
                look(others, tuple(size for size in gears if size != gear))
        return saved

    def _try_all(self, table: _Table, gears: _Sizes, start: int) -> None:
        allowed = self._budgets.allowed
        for index in range(start, len(allowed)):
            larger = (*gears, allowed[index])
            if not self._budgets.in_time(larger):
                continue
            added = self._tables.add(table, allowed[index])
            self._offer(self._tables.cost(added), larger)
            if len(larger) < self._most:
                self._try_all(added, larger, index + 1)
            if not gears:
                self._progress(_SEARCHED * (index + 1) / len(allowed))

    def _offer(self, cost: float, gears: Iterable[int]) -> _Found:
        """Keep a set where it is better than what there is of as many gears; return it in any case."""
        found = _Found(cost, tuple(sorted(gears)))
        if found.beats(self.best.get(len(found.gears))):
            self.best[len(found.gears)] = found
        return found

    def _grow(self) -> None:
        """Find first sets of each number of gears: those quickest to compile, and the best ones without splitting."""
        tables, allowed = self._tables, self._budgets.allowed
        for count in range(1, self._most + 1):
            self._look_at(self._quickest[:count])
        for costs in (tables.costs, {size: float(size) for size in allowed}):
            for gears in _best_for_rounding_up(tables.requests, {size: costs[size] for size in allowed}, self._most):
                if self._budgets.in_time(gears):
                    self._look_at(gears)
                    self._starts.setdefault(len(gears), []).append(gears)
        grown: _Sizes = ()
        for _count in range(self._most):
            grown = self._with_one_more(grown)
        self._progress(_SEARCHED * 0.1)

    def _improve(self) -> None:
        """Improve the sets upwards and downwards in their number of gears, until nothing helps or the work is done."""
        self._descend(self.best[self._most].gears)  # mostly the answer, so before the work runs out
        for turn in range(4):
            before = dict(self.best)
            for step, count in enumerate(range(1, self._most + 1) if turn % 2 == 0 else range(self._most, 0, -1)):
                starts = self._starts.pop(count, [])
                if turn % 2 == 0:
                    starts.append(self._with_one_more(self.best[count - 1].gears if count > 1 else ()))
                elif count < self._most:
                    starts.append(self._with_one_less(self.best[count + 1].gears))
                for gears in (self.best[count].gears, *starts):
                    self._descend(gears)
                self._progress(_SEARCHED * (0.1 + 0.9 * (turn + (step + 1) / self._most) / 4))
            if self.best == before:
                return

    def _descend(self, gears: _Sizes) -> None:
        """Exchange one gear for another while that helps; every set on the way counts."""
        tables, budgets = self._tables, self._budgets
        while gears not in self._descended and tables.work < _WORK_SEARCH:
            self._descended.add(gears)
            here = self._look_at(gears)
            for gear, table in tables.without_each(tables.empty(), gears):
                others = tuple(size for size in gears if size != gear)
                for size in budgets.allowed:
                    if size not in gears and budgets.in_time((*others, size)):
                        found = self._offer(tables.cost(tables.add(table, size)), (*others, size))
                        here = found if found.beats(here) else here
                if here.gears != gears or tables.work > _WORK_SEARCH:
                    break
            gears = here.gears

    def _with_one_more(self, gears: _Sizes) -> _Sizes:
        """Return the best set with one gear added; the quickest one of as many where none can be compiled in time."""
        tables, budgets = self._tables, self._budgets
        table = tables.add_all(tables.empty(), gears)
        best: _Found | None = None
        for size in budgets.allowed:
            if size not in gears and budgets.in_time((*gears, size)):
                found = self._offer(tables.cost(tables.add(table, size)), (*gears, size))
                best = found if found.beats(best) else best
        return best.gears if best else self._quickest[: len(gears) + 1]

    def _with_one_less(self, gears: _Sizes) -> _Sizes:
        """Return the best set with one gear taken out."""
        best: _Found | None = None
        for gear, table in self._tables.without_each(self._tables.empty(), gears):
            found = self._offer(self._tables.cost(table), tuple(size for size in gears if size != gear))
            best = found if found.beats(best) else best
        assert best is not None
        return best.gears

    def _look_at(self, gears: _Sizes) -> _Found:
        return self._offer(self._tables.cost(self._tables.add_all(self._tables.empty(), gears)), gears)


def _best_for_rounding_up(requests: Mapping[int, float], costs: Mapping[int, float], most: int) -> Iterator[_Sizes]:
    """Yield, for each number of gears, the set with which requests cost least where nothing is split but by the largest gear.

    For each largest gear: requests are folded to what is left after full launches of it, and gears chosen from below by dynamic
    programming over the candidates, each serving what lies above the one before.
    """
    sizes = np.array(sorted(costs))
    cost = np.array([costs[size] for size in sizes.tolist()])
    rows, shares = np.array(list(requests)), np.array(list(requests.values()))
    best: list[tuple[float, _Sizes]] = [(math.inf, ())] * (most + 1)
    for last, largest in enumerate(sizes.tolist()):
        full = (rows - 1) // largest
        place = np.searchsorted(sizes, rows - full * largest)  # of the smallest candidate that holds the rest
        up_to = np.concatenate([[0.0], np.cumsum(np.bincount(place, shares, last + 1))])
        # between[i, j]: cost of what lies above candidate i - 1, up to candidate j, in launches of candidate j.
        between = (up_to[None, 1:] - up_to[:-1, None]) * cost[None, : last + 1]
        between[np.tril_indices(last + 1, -1)] = math.inf
        least, before = between[0], []
        bulk = float(full @ shares) * cost[last]
        for count in range(1, min(most, last + 1) + 1):
            if count > 1:
                ways = np.concatenate([[math.inf], least[:-1]])[:, None] + between
                before.append(np.argmin(ways, axis=0))
                least = ways[before[-1], np.arange(last + 1)]
            if least[last] + bulk < best[count][0]:
                chosen = [last]
                for step in reversed(before):
                    chosen.append(int(step[chosen[-1]]) - 1)
                best[count] = float(least[last]) + bulk, tuple(sizes[chosen[::-1]].tolist())
    yield from (gears for _, gears in best if gears)


class _ExactCost:
    """What requests cost with any gears: by the planner's own tables, of any length."""

    def __init__(self, shares: Mapping[int, float], costs: Costs) -> None:
        self._shares = shares
        self._costs = costs
        self._launches: dict[_Sizes, dict[int, float]] = {}

    def launches(self, gears: _Sizes) -> Mapping[int, float]:
        """Return how many launches of each gear a request has, on average."""
        if gears not in self._launches:
            cover = Cover({size: self._costs.of(size) for size in gears}, pad=True)
            launches = dict.fromkeys(gears, 0.0)
            for rows, share in self._shares.items():
                for size, count in (cover.counts(rows) or {}).items():
                    launches[size] += count * share
            self._launches[gears] = launches
        return self._launches[gears]

    def of(self, gears: _Sizes) -> float:
        """Return the expected cost of a request."""
        tables = _Tables(self._shares, {size: self._costs.of(size) for size in gears})
        table = tables.add_all(tables.empty(), gears)
        if tables.is_periodic(table):
            return tables.cost(table)
        return math.fsum(count * self._costs.of(size) for size, count in self.launches(gears).items())


def _group(rows: _Ints, shares: _Array) -> tuple[_Ints, _Array]:
    """Return at most `_GROUPS` numbers of rows and their shares: each stands for those from it to the next one.

    Many where requests are many, after the rule that loss is least where groups lie as dense as the root of the share.
    """
    rows, places = np.unique(rows, return_inverse=True)
    shares = np.asarray(np.bincount(places, shares), np.float64)
    if len(rows) > _GROUPS:
        dense = np.cumsum(np.sqrt(shares * np.diff(rows, prepend=rows[0] - 1)))
        groups = np.minimum((dense / dense[-1] * _GROUPS).astype(int), _GROUPS - 1)
        _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
        return rows[first], np.asarray(np.bincount(groups, shares), np.float64)
    return rows, shares


def _lower_bound(tables: _Tables, budgets: _Budgets, gears: _Sizes, progress: Callable[[float], None]) -> float:
    """Return what a request costs at least with any set within the budgets; see this module's docstring.

    Args:
        gears: the best set known, whose cost is what the steps aim at.
    """
    rows, shares = _group(tables.rows, tables.shares)
    plans = _kinds_of_plans(tables, budgets.allowed, rows)
    costs = plans.costs * shares[plans.group]
    goal = tables.cost(tables.add_all(tables.empty(), gears))
    width = len(budgets.allowed) + 1  # the last price, of no gear, stays 0
    prices: _Array = np.zeros((len(rows), width))
    pays = [plans.group * width + index for index in (plans.largest, plans.smallest)]
    starts = np.flatnonzero(np.diff(plans.group, prepend=-1))
    lengths = np.diff(starts, append=len(costs))
    bound, reach, stale = 0.0, 1.0, 0
    for step in range(_ROUNDS):
        flat = prices.ravel()
        paid = costs + flat[pays[0]] + flat[pays[1]]
        cheapest = np.minimum.reduceat(paid, starts)
        opened = _most_worth(prices.sum(axis=0)[:-1], budgets)
        value = float(cheapest.sum() - prices.sum(axis=0)[:-1] @ opened)
        stale = 0 if value > bound else stale + 1
        bound = max(bound, value)
        if bound >= goal * (1 - _TIE):
            break
        if stale == 20:
            reach, stale = reach / 2, 0
        chosen = np.flatnonzero(paid == np.repeat(cheapest, lengths))
        _, first = np.unique(plans.group[chosen], return_index=True)
        chosen = chosen[first]
        slope = np.tile(np.append(-opened, 0.0), (len(rows), 1))
        for index in (plans.largest[chosen], plans.smallest[chosen]):
            slope[plans.group[chosen], index] += 1
        slope[:, -1] = 0.0
        slope[(prices == 0) & (slope < 0)] = 0.0
        length = float((slope**2).sum())
        if not length:
            break
        prices = np.maximum(0.0, prices + reach * (goal - value) / length * slope)
        progress(step / _ROUNDS)
    return bound


class _Plans(NamedTuple):
    """What plans cost at least, one entry for each group of requests and pair of a largest and a smallest gear.

    Pairs that are dearer than one of their gears alone are left out. `smallest` is the number of gears where there is but one.
    """

    group: _Ints
    largest: _Ints
    smallest: _Ints
    costs: _Array


def _kinds_of_plans(tables: _Tables, sizes: _Sizes, rows: _Ints) -> _Plans:
    units = [size // tables.unit for size in sizes]
    alone = np.array([-(-rows // unit) * tables.costs[size] for size, unit in zip(sizes, units, strict=True)])
    found: list[tuple[_Ints, int, int, _Array]] = []
    everything = np.arange(len(rows))
    for larger, large in enumerate(sizes):
        found.append((everything, larger, len(sizes), alone[larger]))
        table = tables.add(tables.empty(), large)
        for smaller in range(larger - 1, -1, -1):
            small = sizes[smaller]
            table = tables.add(table, small)
            rest = np.maximum(rows - units[larger] - units[smaller], 0)
            per_unit = tables.costs[table.best] / table.best * tables.unit
            covered = np.where(rest < tables.length, table.least[np.minimum(rest, tables.length - 1)], rest * per_unit)
            cost = tables.costs[large] + tables.costs[small] + covered
            (useful,) = np.nonzero(cost < np.minimum(alone[larger], alone[smaller]))
            if len(useful):
                found.append((useful, larger, smaller, cost[useful]))
    group = np.concatenate([groups for groups, *_ in found])
    order = np.argsort(group, kind="stable")
    lengths = [len(groups) for groups, *_ in found]
    return _Plans(
        group[order],
        np.repeat([larger for _, larger, _, _ in found], lengths)[order],
        np.repeat([smaller for _, _, smaller, _ in found], lengths)[order],
        np.concatenate([cost for *_, cost in found])[order],
    )


def _most_worth(worth: _Array, budgets: _Budgets) -> _Array:
    """Return how far each gear is open, 0 to 1, where that is worth most within the number of gears or the compile time.

    Each of the two alone gives a bound, the time with at most one gear in part; the smaller one counts.
    """
    opened = np.zeros(len(worth))
    opened[np.argsort(-worth, kind="stable")[: budgets.most]] = 1.0
    if budgets.seconds is None or math.isinf(budgets.max_compile_s):
        return opened
    seconds = np.array([budgets.seconds(size) for size in budgets.allowed])
    order = np.argsort(-worth / np.maximum(seconds, 1e-300), kind="stable")
    spent = np.cumsum(seconds[order])
    left = budgets.max_compile_s * (1 + _TIE) - (spent - seconds[order])
    in_time = np.zeros(len(worth))
    in_time[order] = np.clip(left / np.maximum(seconds[order], 1e-300), 0.0, 1.0)
    return in_time if worth @ in_time < worth @ opened else opened
