"""How long requests of several sizes take, as a caller sees it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np

from anybatch._batching import Batching, Gears, MultipleOf
from anybatch._errors import InputError
from anybatch._planner import Plan
from anybatch._runner import Runner
from anybatch._tensors import Array

Key = TypeVar("Key")


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

    measured = time_in_rounds(
        {rows: partial(timed, rows) for rows in requests},
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
    calls: Mapping[Key, Callable[[], float | None]],
    *,
    seconds: float,
    iterations: int | None = None,
    at_least: int = 1,
    warmup: int,
    wall: Callable[[], float],
    progress: Callable[[float], None],
    settled: Callable[[Sequence[float]], bool] = lambda _times: False,
    seed: int = 0,
) -> dict[Key, list[float]]:
    """Time calls in rounds: each round makes every call once, in an order of its own.

    A loop over one of them would keep its weights, and its branches, in the caches, and report times that no caller with
    mixed requests sees: up to 2.4 times too low where measured. Equal rounds keep calls comparable when the machine drifts.

    Args:
        calls: each makes its call and returns how long that took, in seconds; None where it failed: it is not made again.
        seconds: wall time in all, warm-up not included; the last round is completed.
        iterations: how many rounds to make, instead of `seconds`.
        at_least: rounds that are made whatever time they take.
        warmup: rounds before that, not reported; the first calls compile, allocate and page in.
        wall: what tells how long was measured, in seconds.
        progress: called after each round with the share that is done, 0 to 1.
        settled: told the times of a call so far, says whether more of them would tell nothing new: it is not made again.
        seed: of the order.

    Returns:
        The times of each call in their order; none of one that failed the first time.
    """
    times: dict[Key, list[float]] = {key: [] for key in calls}
    order = list(calls)
    shuffle = random.Random(seed).shuffle  # so that no call is always made in the wake of the same other one

    def make_round() -> dict[Key, float]:
        shuffle(order)
        taken = {key: calls[key]() for key in order}
        order[:] = [key for key in order if taken[key] is not None]
        return {key: time for key, time in taken.items() if time is not None}

    for _ in range(warmup):
        make_round()
    begun, rounds, share = wall(), 0, 0.0
    while order and (share < 1 or rounds < at_least):
        for key, taken in make_round().items():
            times[key].append(taken)
            if settled(times[key]):
                order.remove(key)
        rounds += 1
        share = (wall() - begun) / seconds if iterations is None else rounds / iterations
        progress(min(share, 1.0) if order else 1.0)
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
