"""How long requests of several sizes take, as a caller sees it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

import numpy as np

from anybatch._batching import Batching, Gears, MultipleOf
from anybatch._errors import InputError
from anybatch._planner import Plan
from anybatch._runner import Runner
from anybatch._tensors import Array

Key = TypeVar("Key")

# What threads of ONNX Runtime spin for is a little less.
_LEAD_IN_S: Final = 1e-3
_LEAD_IN_CALLS: Final = 100


@dataclass(frozen=True, slots=True)
class Latency:
    """What requests of one size took.

    Attributes:
        plan: the launches of each request.
        seconds: time of each call of `Runner.run`, in the order of the calls; at least one.
    """

    plan: Plan
    seconds: tuple[float, ...]

    @property
    def rows_per_s(self) -> float:
        """Real rows per second; padding does not count."""
        return self.plan.rows * len(self.seconds) / sum(self.seconds)

    @property
    def mean(self) -> float:
        """Mean time of a call, in seconds."""
        return sum(self.seconds) / len(self.seconds)

    def percentile(self, percent: float) -> float:
        """Return a time that `percent` % of the calls did not exceed: one that was measured, not interpolated."""
        return float(np.percentile(self.seconds, percent, method="inverted_cdf"))


def measure_latencies(
    runner: Runner,
    requests: Mapping[int, Mapping[str, Array]],
    *,
    seconds: float = 1.0,
    iterations: int | None = None,
    warmup: int = 3,
    clock: Callable[[], float] = perf_counter,
    wall: Callable[[], float] = perf_counter,
    progress: Callable[[float], None] = lambda _share: None,
) -> list[Latency]:
    """Measure requests of several sizes, in rounds: see `time_in_rounds`.

    Args:
        requests: for each number of rows, the inputs; at least one.
        seconds: wall time to measure, per size on average; the last round is completed, and at least one is made.
        iterations: how many rounds to make, instead of `seconds`.
        warmup: rounds before that, not reported; the first launches of a size compile, allocate and page in.
        clock: what tells the time of calls, in seconds.
        wall: what tells how long was measured, in seconds.
        progress: called after each round with the share that is done, 0 to 1.

    Returns:
        One per size, in the order of `requests`.

    Raises:
        InputError: there is no request, one has no rows, a number is out of range, a request does not fit the model, or
            calls take no time on the clock.
        DeviceError, ContractError, ClosedError: see `Runner.run`.
    """
    if not requests or min(requests) < 1:
        raise InputError(f"expected requests of 1 row or more to measure, got sizes {list(requests)}")
    if not seconds > 0 or (iterations is not None and iterations < 1) or warmup < 0:
        raise InputError(f"expected seconds > 0, iterations >= 1, warmup >= 0, got {seconds}, {iterations}, {warmup}")
    plans = {rows: runner.plan(rows) for rows in requests}

    def timed(rows: int) -> float:
        started = clock()
        runner.run(requests[rows])
        return clock() - started

    (measured,) = time_in_rounds(
        [{rows: partial(timed, rows) for rows in requests}],
        seconds=seconds * len(requests),
        iterations=iterations,
        warmup=warmup,
        wall=wall,
        progress=progress,
    )
    if not all(sum(times) > 0 for times in measured.values()):
        raise InputError("calls take no time on this clock, so there is nothing to measure: give a simulator a cost model")
    return [Latency(plans[rows], tuple(times)) for rows, times in measured.items()]


def time_in_rounds(
    contenders: Sequence[Mapping[Key, Callable[[], float | None]]],
    *,
    seconds: float,
    iterations: int | None = None,
    at_least: int = 1,
    warmup: int,
    wall: Callable[[], float],
    progress: Callable[[float], None],
    settled: Callable[[Sequence[float]], bool] = lambda _times: False,
    seed: int = 0,
) -> list[dict[Key, list[float]]]:
    """Time calls in rounds: in each round every contender has its turn, and makes each of its calls once, all in a new order.

    A loop over one of them would keep its weights, and its branches, in the caches, and report times that no caller with
    mixed requests sees: up to 2.4 times too low where measured. Equal rounds keep calls comparable when the machine drifts.

    Where there are several contenders, each begins its turn with calls that are not reported, for a millisecond: threads of the
    one before keep a processor busy that long, waiting for more work, and its weights are in the caches. Without, calls
    of 20 to 400 us took up to a third longer than in a comparison with nobody (`benchmarks/compare.py`).

    Args:
        contenders: for each, its calls; each makes the call and returns how long that took, in seconds, or None where it
            failed: then it is not made again.
        seconds: wall time in all, warm-up not included; the last round is completed.
        iterations: how many rounds to make, instead of `seconds`.
        at_least: rounds that are made whatever time they take.
        warmup: rounds before that, not reported; the first calls compile, allocate and page in.
        wall: what tells how long was measured, in seconds.
        progress: called after each round with the share that is done, 0 to 1.
        settled: told the times of a call so far, says whether more of them would tell nothing new: it is not made again.
        seed: of the order.

    Returns:
        For each contender, the times of each call in their order; none of one that failed before it was timed.
    """
    times: list[dict[Key, list[float]]] = [{key: [] for key in calls} for calls in contenders]
    waiting = [list(calls) for calls in contenders]
    turns = list(range(len(contenders)))
    shuffle = random.Random(seed).shuffle  # so that no call is always made in the wake of the same other one

    def make(number: int, key: Key, *, keep: bool) -> None:
        taken = contenders[number][key]()
        if taken is not None and keep:
            times[number][key].append(taken)
        if taken is None or (keep and settled(times[number][key])):
            waiting[number].remove(key)

    def lead_in(number: int) -> None:
        begun = wall()
        for call in range(_LEAD_IN_CALLS):
            if not waiting[number] or wall() - begun >= _LEAD_IN_S:
                return
            make(number, waiting[number][call % len(waiting[number])], keep=False)

    def make_round(*, keep: bool) -> None:
        shuffle(turns)
        for number in turns:
            shuffle(waiting[number])
            if len(contenders) > 1:
                lead_in(number)
            for key in list(waiting[number]):
                make(number, key, keep=keep)

    for _ in range(warmup):
        make_round(keep=False)
    begun, rounds, share = wall(), 0, 0.0
    while any(waiting) and (share < 1 or rounds < at_least):
        make_round(keep=True)
        rounds += 1
        share = (wall() - begun) / seconds if iterations is None else rounds / iterations
        progress(min(share, 1.0) if any(waiting) else 1.0)
    return times


def awkward_sizes(batching: Batching) -> list[int]:
    """Return request sizes where batching hurts most: one row, around batch sizes, and above the largest.

    Around the smallest, the middle and the largest, where there are more than three.
    """
    if isinstance(batching, Gears):
        gears = batching.sizes
        sizes = {gears[0], gears[len(gears) // 2], gears[-1]} if len(gears) > 3 else set(gears)
    elif isinstance(batching, MultipleOf):
        sizes = {batching.size}
    else:
        return [1, 2, 4, 8, 16, 32, 64]
    around = {size + step for size in sizes for step in (-1, 0, 1)}
    return sorted({1, 2 * max(sizes) + 1} | around - {0})
