"""What planning costs: the first plan, later ones, and the look-up inside a call. ``python benchmarks/planning.py``.

Limits: a first plan for 6 gears and any n up to 10,000 under 1 ms; a cached look-up at most 0.5 us of a call; n up to
10,000,000 without a table of that size.
"""

from __future__ import annotations

import timeit
from time import perf_counter

import numpy as np

import anybatch
from _models import elementwise
from anybatch import Gears, Planner

GEARS = (
    (1, 2, 4, 8, 16, 32),
    (1, 4, 8, 16, 32, 64),
    (3, 5, 17, 100, 101, 128),
    (1, 2, 64, 512, 1024, 2048),
    (2, 3, 5, 1999, 2011, 2048),
)


def first_plans(rows: int, repeats: int = 21) -> None:
    print(f"\nfirst plan of a fresh planner, {rows:,} rows")
    for gears in (*GEARS, tuple(range(1, 101)), tuple(range(1949, 2049))):
        times = []
        for _ in range(repeats):
            started = perf_counter()
            plan = Planner(Gears(gears)).plan(rows)
            times.append((perf_counter() - started) * 1e3)
        name = str(list(gears)) if len(gears) <= 6 else f"{len(gears)} gears, {gears[0]} to {gears[-1]}"
        low, median, high = np.percentile(times, (0, 50, 90))
        launches = f"{len(plan.launches):,} launches"
        print(f"  {name:34} {median:7.3f} ms (min {low:.3f}, p90 {high:.3f})  {launches}")


def look_up() -> None:
    with anybatch.open(elementwise(1), batch_sizes=[1, 4, 8]) as runner:
        runner.run({"x0": np.zeros((8, 16), np.float32)})
        seconds = min(timeit.repeat(lambda: runner.plan(8), number=100_000, repeat=7)) / 100_000
        nothing = min(timeit.repeat(lambda: None, number=100_000, repeat=7)) / 100_000
    print(f"\ncached look-up, Runner.plan(8): {(seconds - nothing) * 1e6:.3f} us, its own call included")


def main() -> None:
    first_plans(10_000)
    first_plans(10_000_000, repeats=3)
    look_up()


if __name__ == "__main__":
    main()
