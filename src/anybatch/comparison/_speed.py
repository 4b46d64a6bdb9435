"""How long entries take: latency of requests of several sizes, and throughput of a ragged stream, with how sure that is.

What is measured on the wall clock and what a simulator models are timed apart, and never ranked together:

- **measured** entries take turns in rounds, see `time_in_rounds`, so that a machine that drifts is as slow for one as for the
  others.
- **modelled** entries, those with a clock of their own, come first, one after another. Their clock does not feel what else
  this machine does, so turns would win them nothing. But sessions of one simulator share its clock, and would move it for each
  other; and what a simulator computes between two measured calls would cost those their caches. Most clocks give the same
  time again and again. Once they did for `_SAME` calls, this is the model's answer, and the rest of the time is left to
  others; what came before (the clock of a thread that catches up with that of another) is dropped.
- A simulator without a clock, or with one that stands still, has no figures: its times would be those of the program that
  simulates.

Intervals are percentile bootstraps over calls: a sample of as many calls, drawn with replacement from those that were timed,
is summarised a thousand times, and 95 % of what comes out lies in the interval. Calls of one process are no independent
draws, for what slows one down often slows its neighbours. So up to `_BLOCKS` blocks of neighbouring calls are drawn, instead of
single ones. What differs from process to process (where memory lies, what the processor's clock does) is in no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from anybatch._bench import time_in_rounds
from anybatch._errors import CoupledRowsError, InputError
from anybatch._planner import Plan
from anybatch._runner import Runner
from anybatch._samples import take_rows
from anybatch._tensors import Array, ModelSpec
from anybatch.comparison._accuracy import as_dtype, same_kind
from anybatch.comparison._entries import Contestant
from anybatch.comparison._results import Interval, Provenance, SizeSpeed, Speed, StreamSpeed

__all__ = ["Rank", "Ranking", "measure_speeds", "ranking"]

# A modelled time is the model's answer once so many calls in a row agree to this share of it. They need not be equal: launches
# of one request that run side by side may change places, which moves it by less than a thousandth.
_SAME: Final = 10
_SAME_SHARE: Final = 1e-3
# More calls of one size would take memory, and narrow no interval that anybody reads.
_MOST_CALLS: Final = 10_000
_PASSES: Final = 3
# Of the time: what the stream gets, and what modelled entries may take where there are measured ones.
_STREAM_SHARE: Final = 0.25
_MODELLED_SHARE: Final = 0.5
# Of its own time, what each gets though those before took longer than theirs.
_SURE_SHARE: Final = 0.5

_REPLICATES: Final = 1000
_BLOCKS: Final = 100
_MARKS: Final = 2048
_TAIL: Final = 2.5  # percent of what is drawn that lies on either side of an interval
# Fewer calls do not bound a median: six lie on one side of it once in 32 times, five once in 16.
_LEAST_CALLS: Final = 6

_STREAM: Final = 0  # stands for the stream where sizes are keys
_Floats: TypeAlias = npt.NDArray[np.float64]


def measure_speeds(
    contestants: Sequence[Contestant],
    sizes: Sequence[int],
    inputs: Mapping[str, Array],
    *,
    stream: Sequence[int] = (),
    seconds: float = 10.0,
    warmup: int = 3,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _share: None,
    wall: Callable[[], float] = perf_counter,
    clock: Callable[[], float] = perf_counter,
) -> list[Speed]:
    """Time requests of several sizes, and a stream of requests, on each contestant that is open.

    An error goes to the contestant's failures: a request that is refused ends its size, anything else ends the contestant's
    part. The others go on, and what was measured before is kept.

    Args:
        contestants: those that are not open are passed over. The plans of `sizes` are added to theirs.
        sizes: rows of the requests, each 1 or more.
        inputs: rows by input name, at least one, repeated where a request needs more. A contestant whose inputs are floats or
            integers of another width gets them converted, which is not timed.
        stream: rows of each request of the stream, 0 or more; empty: no stream.
        seconds: wall time for all of them together, after the warm-up. Whatever it is, each size is called once, the stream
            is sent three times, and a round that was begun is completed; and where that takes one longer than its share,
            those after it still get half of theirs.
        warmup: calls of each size before any is timed; the stream is sent once.
        seed: of the order of calls, and of the bootstrap.
        progress: called with the share that is done, 0 to 1.
        wall: what tells how long was measured, in seconds.
        clock: what tells the time of calls where the contestant has no clock of its own, in seconds.

    Returns:
        One per open contestant, in their order.

    Raises:
        InputError: a number is out of range, or there is nothing to time.
    """
    sizes = sorted(set(sizes))
    if not sizes or sizes[0] < 1 or min(stream, default=0) < 0 or (stream and not sum(stream)):
        raise InputError(f"expected sizes of 1 row or more, and a stream that has rows, got {sizes} and {list(stream)}")
    if not 0 < seconds < math.inf or warmup < 0:
        raise InputError(f"expected seconds > 0 and warmup >= 0, got {seconds} and {warmup}")
    parts = [_Part(contestant, contestant.runner, clock) for contestant in contestants if contestant.runner is not None]
    for part in parts:
        part.prepare(sizes, stream, inputs)
        part.warm_up(warmup)
    modelled = [part for part in parts if part.provenance == "modelled"]
    measured = [part for part in parts if part.provenance == "measured"]
    of_modelled = (_MODELLED_SHARE if measured else 1.0) / max(len(modelled), 1)
    begun, end = wall(), 0.0
    for group, share in (*(([part], of_modelled) for part in modelled), (measured, 1.0)):
        begin, end = end, 1.0 if group is measured else end + share
        for of_stream in (False, True):
            nominal = (end - begin) * (_STREAM_SHARE if of_stream else 1 - _STREAM_SHARE if stream else 1.0)
            until = end if of_stream else begin + nominal
            spent = (wall() - begun) / seconds
            left = max(until - spent, nominal * _SURE_SHARE)
            same = 0 if group is measured else _PASSES if of_stream else _SAME
            times = time_in_rounds(
                [{key: call for key, call in part.calls.items() if (key == _STREAM) is of_stream} for part in group],
                seconds=left * seconds,
                at_least=_PASSES if of_stream else 1,
                warmup=0,
                wall=wall,
                progress=lambda done, spent=spent, left=left: progress(min(spent + done * left, 1.0)),  # type: ignore[misc]
                settled=partial(_settled, same=same),
                seed=seed,
            )
            for part, of_part in zip(group, times, strict=True):
                for key, taken in of_part.items():
                    part.times[key] = taken[-same:] if same and _agree(taken[-same:], same) else taken
    progress(1.0)
    return [part.result([seed, number]) for number, part in enumerate(parts)]


def _settled(times: Sequence[float], same: int) -> bool:
    """Return whether more calls would tell nothing new; `same` is how many must agree on a clock that models them, else 0."""
    return len(times) >= _MOST_CALLS or (same > 0 and _agree(times[-same:], same))


def _agree(times: Sequence[float], count: int) -> bool:
    return len(times) == count and max(times) - min(times) <= _SAME_SHARE * max(times)


class _Part:
    """A contestant's part: what is timed, and what came of it.

    Args:
        contestant: open.
        runner: its runner.
        clock: what its calls are timed with, where it has no clock of its own.

    Attributes:
        provenance: of its times; None where it is a simulator without a clock, and there is nothing to time.
        calls: what times one call, by size, or one pass of the stream; each returns None where it failed.
        times: of each size and of the stream, in seconds.
    """

    def __init__(self, contestant: Contestant, runner: Runner, clock: Callable[[], float]) -> None:
        self.provenance: Provenance | None = "modelled" if runner.clock else None if contestant.simulated else "measured"
        self.calls: dict[int, Callable[[], float | None]] = {}
        self.times: dict[int, list[float]] = {}
        self._contestant = contestant
        self._runner = runner
        self._clock = runner.clock or clock
        self._plans: dict[int, Plan] = {}
        self._stream: tuple[int, ...] = ()
        self._requests: dict[int, dict[str, Array]] = {}
        self._launches: dict[int, int] = {}  # of the stream's last pass
        self._padded_rows = 0
        self._failed = False

    def prepare(self, sizes: Sequence[int], stream: Sequence[int], inputs: Mapping[str, Array]) -> None:
        """Plan and make the requests; what does not fit goes to the contestant's failures."""
        if self.provenance is None:
            return
        spec = self._runner.spec
        with self._contestant.watched("speed"):
            most = take_rows(spec, _convert(spec, inputs), max((*sizes, *stream)))  # smaller requests are views on it
            self._requests = {rows: take_rows(spec, most, rows) for rows in {*sizes, *stream}}
        if not self._requests:
            return
        for rows in sizes:
            with self._contestant.watched("speed", _case(rows)):
                self._plans[rows] = self._contestant.plans[rows] = self._runner.plan(rows)
                self.calls[rows] = partial(self._time, _case(rows), partial(self._runner.run, self._requests[rows]))
        if stream:
            self._stream = tuple(stream)
            self.calls[_STREAM] = self._time_stream

    def warm_up(self, times: int) -> None:
        """Make each call so many times, and send the stream once; those that fail are not among `calls` any more."""
        for key, call in list(self.calls.items()):
            for _ in range(min(times, 1) if key == _STREAM else times):
                if call() is None:
                    del self.calls[key]
                    break

    def result(self, seed: Sequence[int]) -> Speed:
        """Return its figures; sizes during which the clock stood still have none."""
        sizes = [
            _size_speed(self._plans[rows], times, [*seed, rows])
            for rows, times in sorted(self.times.items())
            if rows != _STREAM and sum(times) > 0
        ]
        stream = None
        passes = self.times.get(_STREAM, [])
        if sum(passes) > 0:
            per_s = _per_second(sum(self._stream), _mean(passes, [*seed, _STREAM]))
            stream = StreamSpeed(self._stream, len(passes), per_s, dict(self._launches), self._padded_rows)
        own = self._runner.clock
        clock = "wall clock" if own is None else own.name
        if self.provenance is None:
            clock = "none: a simulator without a device clock, whose own time on this machine says nothing of hardware"
        elif not sizes and any(self.times.values()):
            clock += ", which stood still"
        return Speed(self._contestant.name, self.provenance or "modelled", clock, tuple(sizes), stream)

    def _time(self, case: str, call: Callable[[], object]) -> float | None:
        if self._failed:
            return None
        with self._contestant.watched("speed", case):
            try:
                started = self._clock()
                call()
                return self._clock() - started
            except (InputError, CoupledRowsError):  # that request is refused, others need not be
                raise
            except Exception:
                self._failed = True
                raise
        return None

    def _time_stream(self) -> float | None:
        before = self._runner.stats()
        seconds = self._time("ragged stream", self._send_stream)
        if seconds is not None:
            after = self._runner.stats()
            launches = {gear: count - before.launches.get(gear, 0) for gear, count in sorted(after.launches.items())}
            self._launches = {gear: count for gear, count in launches.items() if count}
            self._padded_rows = after.padded_rows - before.padded_rows
        return seconds

    def _send_stream(self) -> None:
        for _ in self._runner.map(self._requests[rows] for rows in self._stream):
            pass


def _case(rows: int) -> str:
    return f"{rows} row{'s' * (rows != 1)}"


def _convert(spec: ModelSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs that a spec names, in its dtypes; what cannot be converted is as it was, and `run` refuses it.

    Raises:
        InputError: one is missing, or integers do not fit.
    """
    if missing := [tensor.name for tensor in spec.inputs if tensor.name not in inputs]:
        raise InputError(f"expected rows for the inputs {[tensor.name for tensor in spec.inputs]}, got none for {missing}")
    arrays = {tensor.name: np.asarray(inputs[tensor.name]) for tensor in spec.inputs}
    for tensor in spec.inputs:
        if same_kind(arrays[tensor.name].dtype, tensor.dtype):
            arrays[tensor.name] = as_dtype(tensor.name, arrays[tensor.name], tensor.dtype)
    return arrays


# ---------------------------------------------------------------------------------------------------- figures and intervals


def _size_speed(plan: Plan, times: Sequence[float], seed: Sequence[int]) -> SizeSpeed:
    (p50, p90, p99), mean = _summarise(times, (50.0, 90.0, 99.0), seed)
    executed = plan.rows + plan.padded_rows
    return SizeSpeed(
        plan=plan,
        calls=len(times),
        p50=p50,
        p90=p90,
        p99=p99,
        mean=mean,
        rows_per_s=_per_second(plan.rows, mean),
        padding_s=mean.value * plan.padded_rows / executed,
    )


def _per_second(rows: int, mean: Interval) -> Interval:
    return Interval(*(rows / seconds if seconds else math.inf for seconds in (mean.value, mean.high, mean.low)))


def _mean(times: Sequence[float], seed: Sequence[int]) -> Interval:
    return _summarise(times, (), seed)[1]


def _summarise(times: Sequence[float], percents: Sequence[float], seed: Sequence[int]) -> tuple[list[Interval], Interval]:
    """Return percentiles and the mean, each with its bootstrap interval.

    A percentile is a time that was measured, as `Latency.percentile` has it. Blocks of neighbouring calls are drawn: single
    calls up to `_BLOCKS` of them, which takes these for independent, then blocks of a hundredth of all. Where so few calls were
    made that all of them may lie below a percentile (fewer than 6 for p50, 36 for p90, 368 for p99) or above it, nothing
    bounds it on that side: the interval ends at the largest time, or the smallest, and the truth may lie beyond.

    Of independent times from a lognormal distribution, 94 to 97 % of the intervals of p50 and p90 hold the truth from 60 calls
    on, and 88 to 95 % of those of p99 from 400 on; of the mean's 80 % with 10 calls, 92 % with 60. Where a time's logarithm
    is correlated by 0.5 with that of the call before, it is 8 of 10 with 100 calls, and 94 % with 1000; by 0.9, 9 of 10 with
    3000. What drifts more slowly is not covered.

    Args:
        times: in the order of the calls, at least one.
        seed: equal times with an equal seed have equal intervals.
    """
    values = np.asarray(times, np.float64)
    count, blocks = len(values), min(len(values), _BLOCKS)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ranks = [max(1, math.ceil(percent * count / 100)) for percent in percents]
    if ordered[0] == ordered[-1]:
        same = Interval(*(3 * [float(ordered[0])]))
        return [same] * len(ranks), same
    draws = np.random.default_rng(seed).multinomial(blocks, [1 / blocks] * blocks, size=_REPLICATES).astype(np.float64)
    block = np.arange(count) * blocks // count
    lengths = draws @ np.bincount(block)
    means = draws @ np.bincount(block, weights=values) / lengths
    low, high = np.percentile(means, (_TAIL, 100 - _TAIL))
    mean = Interval(float(values.mean()), float(low), float(high))
    # How many of a replicate's calls took no longer than a mark, for all replicates and marks in one product of matrices.
    # Marks are times that were measured: all, or so many; in the latter case intervals end at the far side of a mark.
    marks = min(count, _MARKS)
    mark = np.empty(count, np.intp)
    mark[order] = np.arange(count) * marks // count
    per_block = np.bincount(block * marks + mark, minlength=blocks * marks).reshape(blocks, marks)
    until = draws @ per_block.cumsum(axis=1).astype(np.float64)
    edges = np.searchsorted(mark[order], np.arange(marks + 1))
    intervals = []
    for percent, rank in zip(percents, ranks, strict=True):
        found = (until < np.ceil(percent * lengths / 100 - 1e-9)[:, np.newaxis]).sum(axis=1)
        first, last = np.percentile(found, (_TAIL, 100 - _TAIL), method="inverted_cdf")
        low, high = ordered[edges[first]], ordered[edges[last + 1] - 1]
        share = percent / 100
        if share**count > _TAIL / 100:
            high = ordered[-1]
        if (1 - share) ** count > _TAIL / 100:
            low = ordered[0]
        intervals.append(Interval(float(ordered[rank - 1]), float(low), float(high)))
    return intervals, mean


# -------------------------------------------------------------------------------------------------------------- who is faster


@dataclass(frozen=True, slots=True)
class Rank:
    """One entry in a ranking.

    Attributes:
        entry: the entry's name.
        figure: its latency p50 in seconds, or its rows per second in a stream.
        place: 1 and how many entries were shown to be faster. Those of one place, and of neighbouring ones, may be alike.
        faster_than: names of those that were shown to be slower; of any other pair no difference was shown.
    """

    entry: str
    figure: Interval
    place: int
    faster_than: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Entries whose times have one provenance, fastest first.

    Attributes:
        provenance: of all of them.
        rows: of each request; None for the stream.
        ranks: one per entry that has the figure, at least one.
    """

    provenance: Provenance
    rows: int | None
    ranks: tuple[Rank, ...]


def ranking(speeds: Sequence[Speed], rows: int | None) -> tuple[Ranking, ...]:
    """Rank entries by how fast they are, what was measured and what was modelled apart.

    One is called faster than another only where their 95 % intervals do not overlap, and at least six calls or passes of each
    were timed. Of two entries that are alike that is said by chance once in more than a hundred times, as far as intervals
    hold what they promise; it is said of every pair, so of many pairs, some will be wrong.

    Args:
        speeds: of one comparison.
        rows: which size to compare, by the latency that half of the calls did not exceed; None: the stream, by its rows per
            second.

    Returns:
        One per provenance that has figures, what was measured first.
    """
    provenances: tuple[Provenance, ...] = ("measured", "modelled")
    rankings = []
    for provenance in provenances:
        figures = [_figure(speed, rows) for speed in speeds if speed.provenance == provenance]
        found = sorted((figure for figure in figures if figure is not None), key=lambda figure: figure.slowness.value)
        if found:
            rankings.append(Ranking(provenance, rows, tuple(_rank(figure, found) for figure in found)))
    return tuple(rankings)


@dataclass(frozen=True, slots=True)
class _Figure:
    entry: str
    shown: Interval
    slowness: Interval  # the same, so that less is faster
    sure: bool  # whether there were calls enough to compare it with others

    def is_faster_than(self, other: _Figure) -> bool:
        return self.sure and other.sure and self.slowness.high < other.slowness.low


def _figure(speed: Speed, rows: int | None) -> _Figure | None:
    modelled = speed.provenance == "modelled"
    if rows is None:
        stream = speed.stream
        if stream is None:
            return None
        per_s = stream.rows_per_s
        slowness = Interval(-per_s.value, -per_s.high, -per_s.low)
        return _Figure(speed.entry, per_s, slowness, modelled or stream.passes >= _LEAST_CALLS)
    for size in speed.sizes:
        if size.rows == rows:
            return _Figure(speed.entry, size.p50, size.p50, modelled or size.calls >= _LEAST_CALLS)
    return None


def _rank(figure: _Figure, all_: Sequence[_Figure]) -> Rank:
    place = 1 + sum(other.is_faster_than(figure) for other in all_)
    slower = tuple(other.entry for other in all_ if figure.is_faster_than(other))
    return Rank(figure.entry, figure.shown, place, slower)
