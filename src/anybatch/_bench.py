"""How long requests of several sizes take, as a caller sees it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from anybatch._batching import Batching, Gears, MultipleOf
from anybatch._errors import InputError
from anybatch._planner import Plan
from anybatch._runner import Runner
from anybatch._tensors import Array


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
    """Measure requests of several sizes, in rounds: each round calls every size once, in an order of its own.

    A loop over one size would keep its weights, and its branches, in the caches, and report times that no caller with mixed
    requests sees: up to 2.4 times too low where measured. Equal rounds keep the sizes comparable when the machine drifts.

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
    order = list(requests)
    shuffle = random.Random(0).shuffle  # so that no size always runs in the wake of the same other one
    for _ in range(warmup):
        shuffle(order)
        for rows in order:
            runner.run(requests[rows])
    measured: dict[int, list[float]] = {rows: [] for rows in requests}
    begun, budget = wall(), seconds * len(order)
    rounds, share = 0, 0.0
    while share < 1:
        shuffle(order)
        for rows in order:
            started = clock()
            runner.run(requests[rows])
            measured[rows].append(clock() - started)
        rounds += 1
        share = (wall() - begun) / budget if iterations is None else rounds / iterations
        progress(min(share, 1.0))
    if not all(sum(times) > 0 for times in measured.values()):
        raise InputError("calls take no time on this clock, so there is nothing to measure: give a simulator a cost model")
    return [Latency(plans[rows], tuple(times)) for rows, times in measured.items()]


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
