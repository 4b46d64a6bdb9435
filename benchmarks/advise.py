"""Which gears to compile: how long advice takes, how good it is, what others would compile. ``python benchmarks/advise.py``.

Limits: 100 candidates and 10,000 distinct request sizes in under 30 s; within 1 % of exhaustive search; never worse than gears
chosen by padding alone or than powers of two. Costs are deterministic, so only times have a spread.

The rivals are what others do, priced by our exact planner (their own splitting could only cost more): "padding" is the exact
dynamic programme that minimises padded rows, each request in one launch; "powers" the k largest powers of two up to the
largest request; "linear" k evenly spaced sizes, as generators of buckets make them.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, process_time

import numpy as np

from anybatch import Advice, AffineCosts, Costs, CurveCosts, Gears, Planner, TableCosts, _advisor, advise

# Mean latency in ms by batch size, ByteMLPerf general_perf reports, snapshot a30b4f9: Gaudi ResNet-50.
RESNET = CurveCosts({4: 1.74, 8: 2.10, 16: 2.84, 32: 4.08, 64: 7.73}, source="ByteMLPerf, Gaudi ResNet-50", unit="ms")
COSTS: Mapping[str, Costs] = {"overhead 2 rows": AffineCosts(2, 1), "overhead 16 rows": AffineCosts(16, 1), "ResNet-50": RESNET}


def traces(rng: np.random.Generator) -> dict[str, Mapping[int, int]]:
    """Requests as services have them: by rows, how many."""
    count = 20_000
    draws = {
        "uniform 1..64": rng.integers(1, 65, count),
        "log-normal": np.clip(rng.lognormal(2.5, 0.9, count), 1, 256),
        "geometric": np.minimum(rng.geometric(0.05, count), 256),
        "detector (Poisson 7)": np.maximum(1, rng.poisson(7, count)),
        "single and bulk": np.where(rng.random(count) < 0.8, rng.integers(1, 4, count), rng.integers(90, 130, count)),
        "four kinds": rng.choice([1, 7, 20, 75], count, p=[0.5, 0.2, 0.2, 0.1]),
        "Zipf": np.minimum(rng.zipf(1.6, count), 200),
    }
    return {name: dict(Counter(drawn.astype(int).tolist())) for name, drawn in draws.items()}


def expected(requests: Mapping[int, float], costs: Costs, gears: Sequence[int]) -> float:
    planner = Planner(Gears(tuple(gears)), TableCosts({gear: costs.of(gear) for gear in gears}))
    total = sum(requests.values())
    return math.fsum(planner.plan(rows).cost * count for rows, count in requests.items()) / total


def least_padding(requests: Mapping[int, int], count: int) -> tuple[int, ...]:
    """Choose `count` gears with the fewest padded rows where each request is one launch; exact, by dynamic programming."""
    sizes = sorted(requests)
    below = np.concatenate([[0], np.cumsum([requests[size] for size in sizes])])
    best = [0.0] + [math.inf] * len(sizes)
    chosen: list[tuple[int, ...]] = [()] * (len(sizes) + 1)
    for _ in range(min(count, len(sizes))):
        added, added_chosen = [0.0], [()]
        for end in range(1, len(sizes) + 1):
            ways = [best[start] + sizes[end - 1] * float(below[end] - below[start]) for start in range(end)]
            start = int(np.argmin(ways))
            added.append(ways[start])
            added_chosen.append((*chosen[start], sizes[end - 1]))
        best, chosen = added, added_chosen  # type: ignore[assignment]
    return tuple(chosen[-1])


def powers(largest: int, count: int) -> tuple[int, ...]:
    top = (largest - 1).bit_length()
    return tuple(2**power for power in range(max(0, top - count + 1), top + 1))


def linear(largest: int, count: int) -> tuple[int, ...]:
    return tuple(sorted({math.ceil(largest * step / count) for step in range(1, count + 1)}))


def timed(call: Callable[[], Advice]) -> tuple[float, float, Advice]:
    started, worked = perf_counter(), process_time()
    advice = call()
    return perf_counter() - started, process_time() - worked, advice


def time_large(repeats: int) -> None:
    print("100 candidates, 10,000 distinct request sizes: seconds, best and worst of", repeats)
    rng = np.random.default_rng(1)
    spread = dict(zip(range(1, 10_001), rng.integers(1, 100, 10_000).tolist(), strict=True))
    falling = {rows: 1e6 / rows for rows in range(1, 10_001)}
    wide = dict.fromkeys(sorted(rng.choice(np.arange(1, 1_000_001), 10_000, replace=False).tolist()), 1)
    cases: list[tuple[str, Mapping[int, float], dict[str, object]]] = [
        ("uniform to 10,000", spread, {"max_gears": 8}),
        ("uniform to 10,000", spread, {"max_gears": 16}),
        ("uniform to 10,000", spread, {"max_gears": 100}),
        ("falling to 10,000", falling, {"max_gears": 8}),
        ("uniform to 10^6", wide, {"max_gears": 8}),
        ("candidates 100, 200, ..., 10,000", spread, {"max_gears": 8, "candidates": range(100, 10_001, 100)}),
        ("candidates to 9,973, mostly prime", spread, {"max_gears": 8, "candidates": _spread_out(rng)}),
    ]
    for name, requests, options in cases:
        results = [timed(lambda r=requests, o=options: advise(r, AffineCosts(16, 1), **o)) for _ in range(repeats)]  # type: ignore[arg-type,misc]
        times, worked, advice = sorted(each[0] for each in results), sorted(each[1] for each in results), results[0][2]
        print(
            f"  {name:34} at most {options['max_gears']:3}: {times[0]:6.2f} to {times[-1]:6.2f} s "
            f"({worked[0]:.2f} to {worked[-1]:.2f} s of processor), {len(advice.candidates)} "
            f"candidates, {len(advice.gears)} gears, cost {advice.cost:.6g}, gap at most {advice.gap:.2%}",
            flush=True,
        )


def _spread_out(rng: np.random.Generator) -> list[int]:
    return sorted({9973, *rng.choice(np.arange(1, 9973), 99, replace=False).tolist()})


def gap_to_exhaustive(cases: int) -> None:
    print("\nsearch against exhaustive: cost above the best, how often it is the best, and what the bound leaves open")
    print(
        f"  {'candidates':>10} {'gears':>5} {'sets':>9}   {'mean':>8} {'worst':>8} {'best':>7}   {'open, mean':>10} {'most':>6}"
    )
    every = cases
    for candidates, gears in ((12, 3), (20, 4), (24, 4), (40, 3), (100, 2), (60, 3), (28, 5)):
        cases = every if math.comb(candidates, gears) < 20_000 else max(1, every // 3)
        above, open_ = [], []
        for seed in range(cases):
            rng = np.random.default_rng(seed)
            sizes = sorted(rng.choice(np.arange(1, 201), candidates, replace=False).tolist())
            overhead = float(rng.choice([1, 4, 16, 64]))
            costs = {size: (overhead + size) * float(rng.uniform(0.85, 1.15)) for size in sizes}
            requests = list(traces(rng).values())[seed % 7]
            limits = _advisor._WORK_EXHAUSTIVE
            try:
                _advisor._WORK_EXHAUSTIVE = math.inf  # type: ignore[misc]
                best = advise(requests, costs, candidates=sizes, max_gears=gears)
                _advisor._WORK_EXHAUSTIVE = 0  # type: ignore[misc]
                found = advise(requests, costs, candidates=sizes, max_gears=gears)
            finally:
                _advisor._WORK_EXHAUSTIVE = limits  # type: ignore[misc]
            assert best.optimal
            assert found.lower_bound <= best.cost * (1 + 1e-9)
            above.append(found.cost / best.cost - 1)
            open_.append(found.gap)
        sets = sum(math.comb(candidates, count) for count in range(1, gears + 1))
        optimal = sum(each < 1e-9 for each in above)
        print(
            f"  {candidates:10} {gears:5} {sets:9,}   {np.mean(above):8.4%} {max(above):8.4%} {optimal:3}/{cases:<3}   "
            f"{np.mean(open_):10.2%} {max(open_):6.2%}",
            flush=True,
        )


def against_others(counts: Sequence[int]) -> None:
    print("\nexpected cost with k gears, ours, and how much more others' gears cost under the same exact planner")
    head = f"  {'trace':22}{'costs':18}{'k':>3} {'ours':>9} {'gap <=':>7}  {'padding':>8} {'powers':>8} {'linear':>8}   gears"
    print(head)
    more: dict[str, list[float]] = {"padding": [], "powers": [], "linear": []}
    for (name, requests), (how, costs) in itertools.product(traces(np.random.default_rng(0)).items(), COSTS.items()):
        for count in counts:
            largest = max(requests)
            rivals = {
                "padding": least_padding(requests, count),
                "powers": powers(largest, count),
                "linear": linear(largest, count),
            }
            # The sizes of the rivals are candidates, too: else being better might only mean having others.
            offered = set(advise(requests, costs, max_gears=1).candidates)
            candidates = offered | {size for rival in rivals.values() for size in rival}
            advice = advise(requests, costs, candidates=sorted(candidates), max_gears=count)
            extra = {rival: expected(requests, costs, gears) / advice.cost - 1 for rival, gears in rivals.items()}
            for rival, share in extra.items():
                assert share > -1e-9, (name, how, count, rival, share)
                more[rival].append(share)
            print(
                f"  {name:22}{how:18}{count:3} {advice.cost:9.4f} {advice.gap:7.2%}  "
                + " ".join(f"{share:+8.1%}" for share in extra.values())
                + f"   {', '.join(map(str, advice.gears))}",
                flush=True,
            )
    print("  " + "; ".join(f"{rival}: mean {np.mean(all_):+.1%}, worst {max(all_):+.1%}" for rival, all_ in more.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", type=int, default=21)
    arguments = parser.parse_args()
    time_large(arguments.repeats)
    gap_to_exhaustive(arguments.cases)
    against_others((3, 5, 8))


if __name__ == "__main__":
    main()
