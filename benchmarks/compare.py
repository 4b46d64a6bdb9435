"""Whether a comparison's figures are those of a plain loop, and how often it sees a difference where there is none.

Run with ``python benchmarks/compare.py``: the digits example on ONNX Runtime. Repetitions time the same requests in several
ways, in an order of their own; printed is the ratio of each median to the plain loop's, over the repetitions.

1. a plain loop on the InferenceSession, and Polygraphy's OnnxrtRunner on the same one, where it is installed;
2. a comparison of that entry alone, and of that entry beside two others, one equal to it and one with gears.

Goal: p50 as in the plain loop, plus what a call through Runner costs anyway (`overhead.py`), also beside others. Then the two
equal entries are held against one another: where `ranking` calls one the faster, that is a false alarm.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

import numpy as np

from anybatch.comparison._entries import Contestant, Entry
from anybatch.comparison._results import Speed
from anybatch.comparison._speed import measure_speeds, ranking
from overhead import inner_session, polygraphy_runner

DIGITS = Path(__file__).parents[1] / "examples" / "01_digits"
SIZES = (1, 7, 8, 9, 17, 64)
LOOP = "plain loop on InferenceSession"
ENTRIES = (
    Entry("onnxruntime", "first"),
    Entry("onnxruntime", "equal"),
    Entry("onnxruntime", "gears 1, 8", batch_sizes=[1, 8]),
)


def times_of(call: Callable[[Any], object], feeds: Mapping[int, Any], seconds: float) -> dict[int, float]:
    """Return the median time of a call per size; sizes take turns, as in a comparison."""
    times: dict[int, list[float]] = {rows: [] for rows in feeds}
    order, begun = random.Random(0), perf_counter()
    while perf_counter() - begun < seconds:
        for rows in order.sample(list(feeds), len(feeds)):
            started = perf_counter()
            call(feeds[rows])
            times[rows].append(perf_counter() - started)
    return {rows: sorted(taken)[len(taken) // 2] for rows, taken in times.items()}


def p50_of(speed: Speed) -> dict[int, float]:
    return {size.rows: size.p50.value for size in speed.sizes}


def print_ratios(medians: Mapping[str, Sequence[Mapping[int, float]]]) -> None:
    for rows in SIZES:
        print(f"\n{rows} row{'s' * (rows > 1)}")
        for name, repetitions in medians.items():
            time = quantiles((taken[rows] for taken in repetitions), n=4)[1]
            ratios = quantiles((one[rows] / loop[rows] for one, loop in zip(repetitions, medians[LOOP], strict=True)), n=4)
            print(f"  {name:32} {time * 1e6:9.1f} us  {ratios[1]:5.2f} ({ratios[0]:.2f} to {ratios[2]:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=0.25, help="per repetition and entry")
    given = parser.parse_args()
    images = np.load(DIGITS / "test_set.npz")["images"]
    feeds = {rows: {"images": np.ascontiguousarray(images[:rows])} for rows in SIZES}
    contestants = [Contestant(entry, DIGITS / "digits.onnx") for entry in ENTRIES]
    alarms: list[bool] = []

    def compare(count: int) -> dict[int, float]:
        speeds = measure_speeds(contestants[:count], SIZES, {"images": images}, seconds=count * given.seconds)
        if count > 1:
            rankings = [ranking(speeds[:2], rows)[0] for rows in SIZES]
            alarms.extend(any(rank.faster_than for rank in of_size.ranks) for of_size in rankings)
        return p50_of(speeds[0])

    peer = None
    try:
        for contestant in contestants:
            contestant.open()
        assert contestants[0].runner is not None
        session = inner_session(contestants[0].runner)
        peer = polygraphy_runner(session)
        ways: dict[str, Callable[[], dict[int, float]]] = {
            LOOP: lambda: times_of(lambda feed: session.run(None, feed), feeds, given.seconds)
        }
        if peer is not None:
            ways["polygraphy OnnxrtRunner.infer"] = partial(times_of, peer.infer, feeds, given.seconds)
        ways["compared, alone"] = partial(compare, 1)
        ways["compared, beside two others"] = partial(compare, len(contestants))
        medians: dict[str, list[dict[int, float]]] = {name: [] for name in ways}
        for _ in range(given.repetitions):
            for name in random.sample(list(ways), len(ways)):
                medians[name].append(ways[name]())
    finally:
        if peer is not None:
            peer.deactivate()
        for contestant in contestants:
            contestant.close()
    print(f"{given.repetitions} repetitions; median time of a call, and its ratio to the loop's: median (quartiles)")
    print_ratios(medians)
    print(f"\ntwo equal entries: one called the faster in {sum(alarms)} of {len(alarms)} rankings of one size")


if __name__ == "__main__":
    main()
