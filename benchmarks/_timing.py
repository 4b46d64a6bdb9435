"""Interleaved timing: every contender in every round, so that drift of a shared machine hits all alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds per call over the rounds: 10th percentile (what the call costs), median, 90th percentile."""

    p10_us: float
    median_us: float
    p90_us: float


def interleave(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 41, seconds_per_loop: float = 0.005
) -> dict[str, Timing]:
    """Time each call in short loops, round robin; the first round warms up and is not counted."""
    loops = {}
    for name, call in calls.items():
        call()
        started = perf_counter()
        call()
        loops[name] = max(1, int(seconds_per_loop / max(perf_counter() - started, 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    gc.disable()
    try:
        for round_ in range(rounds + 1):
            for name, call in calls.items():
                started = perf_counter()
                for _ in range(loops[name]):
                    call()
                if round_:
                    samples[name].append((perf_counter() - started) / loops[name] * 1e6)
    finally:
        gc.enable()
    return {name: Timing(*(float(np.percentile(s, q)) for q in (10, 50, 90))) for name, s in samples.items()}


def print_table(title: str, timings: Mapping[str, Timing], reference: str) -> None:
    """Print each call's time, its ratio to the reference and the difference."""
    print(f"\n{title}")
    base = timings[reference].p10_us
    for name, timing in timings.items():
        print(
            f"  {name:44} {timing.p10_us:9.2f} us (median {timing.median_us:9.2f})"
            f"  {timing.p10_us / base:6.2f}x  {timing.p10_us - base:+8.2f} us"
        )
