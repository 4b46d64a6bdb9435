"""Plans from noisy measurements, weighed by the true costs: a small part of ``benchmarks/noise.py``, on a clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from anybatch import AnyBatch, Batching, Calibration, CurveCosts, Gears, Planner, Setting
from anybatch._calibration import measure, sizes_to_measure

GEARS = Gears((1, 2, 4, 8, 16, 32))
CURVES: dict[str, Callable[[int], float]] = {
    "overhead of 2 rows": lambda size: 2.0 + size,
    "overhead of 8 rows": lambda size: 8.0 + size,
    "flat to 8": lambda size: 1.0 + max(8, size),
    "dearer rows in large launches": lambda size: size * (1 + 0.6 * size / (size + 16)),
}
SIZES = {"gears": (GEARS, 32), "any size": (AnyBatch(), 64)}
WIDE_NOISE = (0.3, 1.0)


class Machine:
    """Takes a known time for each launch, times noise: a lognormal factor, slow phases, one outlier in a hundred."""

    def __init__(self, cost: Callable[[int], float], width: float, seed: int) -> None:
        self.cost = cost
        self.width = width
        self.random = random.Random(seed)
        self.slow = False
        self.now = 0.0

    def launch(self, size: int) -> None:
        if self.random.random() < 1 / 50:
            self.slow = not self.slow
        factor = self.random.lognormvariate(0, self.width) * (1.5 if self.slow else 1.0)
        if self.random.random() < 0.01:
            factor *= self.random.uniform(10, 100)
        self.now += self.cost(size) * factor

    def clock(self) -> float:
        return self.now


def calibrate(batching: Batching, largest: int, machine: Machine, rounds: int) -> CurveCosts:
    sizes = sizes_to_measure(batching, largest)
    found = measure(
        machine.launch,
        sizes,
        clock=machine.clock,
        seconds=rounds * sum(map(machine.cost, sizes)),
        tolerance=0.02,
        refine=isinstance(batching, AnyBatch),
        progress=lambda _share: None,
        wall=machine.clock,
    )
    setting = Setting("", "modelled", 0, str(batching), {}, "", "", "wall clock", machine="modelled")
    return Calibration(found, setting, "", 0.0, 0.02).costs()


def ratios(planner: Planner, cost: Callable[[int], float], largest: int) -> list[float]:
    """Return for each request what its plan truly costs over rounding up."""

    def weigh(rows: int, policy: str | None = None) -> float:
        return math.fsum(cost(launch.gear) for launch in planner.plan(rows, policy=policy).launches)

    return [weigh(rows) / weigh(rows, "round_up") for rows in range(1, 2 * largest + 1)]


@pytest.mark.parametrize("width", [0.02, 0.1, *WIDE_NOISE])
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("kind", SIZES)
def test_no_plan_costs_3_percent_more_than_rounding_up(kind, curve, width):
    batching, largest = SIZES[kind]
    cost = CURVES[curve]
    for rounds in (3, 15):
        for seed in range(6):
            costs = calibrate(batching, largest, Machine(cost, width, seed), rounds)
            worst = max(ratios(Planner(batching, costs), cost, largest))
            assert worst <= 1.03, f"seed {seed}, {rounds} rounds"


def test_plans_that_trust_the_medians_do_cost_more():
    """So the test above has something to find."""
    worst = 0.0
    for seed in range(6):
        costs = calibrate(GEARS, 32, Machine(CURVES["overhead of 8 rows"], 0.3, seed), 3)
        worst = max(worst, *ratios(Planner(GEARS, CurveCosts(costs.points)), CURVES["overhead of 8 rows"], 32))
    assert worst > 1.2


@pytest.mark.parametrize("kind", SIZES)
def test_a_long_calibration_gains_nearly_all_there_is_to_gain(kind):
    batching, largest = SIZES[kind]
    cost = CURVES["dearer rows in large launches"]
    sizes = sizes_to_measure(batching, largest)
    best = sum(ratios(Planner(batching, CurveCosts({size: cost(size) for size in sizes})), cost, largest))
    costs = calibrate(batching, largest, Machine(cost, 0.05, 1), 300)
    assert sum(ratios(Planner(batching, costs), cost, largest)) <= 1.05 * best


def test_three_times_that_lie_close_together_by_chance_make_no_estimate_sure():
    """Sizes measured alike share their noise: the one that was lucky counts as no surer than most of the others."""
    times = {1: [10.0, 14.0, 7.0], 2: [11.0, 15.0, 8.0], 4: [10.0, 10.01, 10.02]}
    taken = {size: iter([1.0] * 3 + values) for size, values in times.items()}
    now = 0.0

    def launch(size: int) -> None:
        nonlocal now
        now += next(taken[size])

    found = measure(
        launch,
        [1, 2, 4],
        clock=lambda: now,
        seconds=1e-9,
        tolerance=0.02,
        refine=False,
        progress=lambda _: None,
        wall=lambda: now,
    )
    setting = Setting("", "modelled", 0, "", {}, "", "", "wall clock", machine="modelled")
    costs = Calibration(found, setting, "", 0.0, 0.02).costs()
    shares = {size: costs.error_of(size) / costs.of(size) for size in costs.sizes}
    assert shares[4] == pytest.approx(min(shares[1], shares[2]), rel=0.2)
    assert shares[4] > 0.5
