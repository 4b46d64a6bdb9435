"""Gears of a simulated card slow down and recover; how soon plans follow. ``python benchmarks/drift.py``.

Requests of 1 to 40 rows, one after another, on the Ascend simulator's device clock: the figures are modelled, the same in every
run but for overlapping launches, and say nothing of hardware. Regret is time over that of a runner that was told the true costs
at every change. Beside ours: the same calibration, never corrected, and rounding up.

Goals: regret under 5 % over the whole run. After each change the plans are best again, within 1 % for every request size, after
400 launches: exploring a gear waits until 1 % of what launches cost pays for one of it. Where times scatter by 10 %, within
10 %: plans leave the simple one only for gains that are sure. One launch that takes 100 times as long changes no plan.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import anybatch
from _models import elementwise
from acl_sim import testing
from anybatch import Gears, Planner, TableCosts
from anybatch_ascend_sim import backend as ascend_sim

GEARS: Final = (1, 2, 4, 8, 16)
REQUESTS: Final = 2000  # in each phase
LARGEST: Final = 40
REGRET: Final = 0.05  # the goals
RECOVERY: Final = 400  # launches
OURS: Final = "ours"
CONTENDERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "told the true costs": {},
    OURS: {},
    "ours, exploring nothing": {"explore": 0.0},
    "never corrected": {"adapt": False},
    "round_up": {"policy": "round_up"},
}


@dataclass(frozen=True)
class Scenario:
    """What happens to a card.

    Attributes:
        title: of the table.
        launch_us, row_us: what launches cost.
        slow: by how much which gears are slower in the second of three phases.
        slots: launches in flight; None for the backend's default.
        noise: standard deviation of the logarithm of what all launches of a request are slower by.
        within: share by which plans may be dearer and still count as best.
    """

    title: str
    launch_us: float
    row_us: float
    slow: Mapping[int, float]
    slots: int | None = 1
    noise: float = 0.0
    within: float = 0.01


EIGHT_SLOW: Final = {8: 3.0}
SCENARIOS: Final = (  # where splitting pays early, in the middle, and late; then what makes it harder
    Scenario("gear 8 slow threefold, 2 us + 10 us per row", 2, 10, EIGHT_SLOW),
    Scenario("gear 8 slow threefold, 20 us + 10 us per row", 20, 10, EIGHT_SLOW),
    Scenario("gear 8 slow threefold, 60 us + 10 us per row", 60, 10, EIGHT_SLOW),
    Scenario("the same, 20 us + 10 us per row, launches of a request overlap", 20, 10, EIGHT_SLOW, slots=None),
    Scenario("the same, 20 us + 10 us per row, times scatter by 10 %", 20, 10, EIGHT_SLOW, noise=0.1, within=0.1),
    Scenario("all gears half as slow again, 20 us + 10 us per row", 20, 10, dict.fromkeys(GEARS, 1.5)),
)


def stream(seed: int = 1) -> list[int]:
    return [int(rows) for rows in np.random.default_rng(seed).integers(1, LARGEST + 1, REQUESTS)]


class Card:
    """A simulated card, and what its gears truly cost."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        path = folder / "costs.json"
        path.write_text(json.dumps({"name": "drift", "affine": {"*": [scenario.launch_us, scenario.row_us]}}))
        testing.reset(device_time=str(path))
        self._costs = {gear: scenario.launch_us + scenario.row_us * gear for gear in GEARS}

    def set_speed(self, factors: Mapping[int, float], noise: float = 1.0) -> dict[int, float]:
        """Make gears that much slower than at first, and return all costs in us without the noise."""
        for gear in GEARS:
            testing.slow_down(f"@{gear}", factors.get(gear, 1.0) * noise)
        return {gear: cost * factors.get(gear, 1.0) for gear, cost in self._costs.items()}

    @staticmethod
    def now() -> float:
        """Return device time in us."""
        return testing.ledger().device_time_us


def open_runner(model: Path, slots: int | None = 1, **options: Any) -> anybatch.Runner:
    if slots is not None:
        options["slots"] = slots
    return anybatch.open(model, backend=ascend_sim(), batch_sizes=GEARS, soc_version="Ascend310P3", **options)


class Best:
    """The least that each request can cost."""

    def __init__(self, costs: Mapping[int, float]) -> None:
        planner = Planner(Gears(GEARS), TableCosts(costs))
        self._costs = costs
        self._least = [planner.plan(rows).cost for rows in range(LARGEST + 1)]

    def is_planned(self, runner: anybatch.Runner, within: float) -> bool:
        """Whether each request is planned as well as with the true costs, or dearer by no more than that share."""
        return all(
            sum(self._costs[launch.gear] for launch in runner.plan(rows).launches) <= (1 + within) * self._least[rows]
            for rows in range(1, LARGEST + 1)
        )


def launches_of(runner: anybatch.Runner) -> int:
    return sum(runner.stats().launches.values())


def run_all(model: Path, folder: Path, scenario: Scenario) -> Iterator[tuple[str, list[float], list[int | None]]]:
    """Yield each contender's device time per phase in us, and after how many launches its plans were best for good."""
    inputs = np.zeros((LARGEST, 16), np.float32)
    for title, option in CONTENDERS.items():
        card = Card(folder, scenario)
        noise = np.random.default_rng(2)
        with open_runner(model, scenario.slots) as runner:
            calibration = runner.calibrate(seconds=30, save=False)
        runner = open_runner(model, scenario.slots, costs=calibration, **option)
        times: list[float] = []
        recoveries: list[int | None] = []
        for factors in ({}, scenario.slow, {}):
            costs = card.set_speed(factors)
            if title == "told the true costs":
                runner.close()
                runner = open_runner(model, scenario.slots, costs=costs)
            best = Best(costs)
            began, before = card.now(), launches_of(runner)
            best_after: int | None = None
            for rows in stream():
                if scenario.noise:
                    card.set_speed(factors, float(noise.lognormal(0, scenario.noise)))
                runner.run({"x0": inputs[:rows]})
                if not best.is_planned(runner, scenario.within):
                    best_after = None
                elif best_after is None:
                    best_after = launches_of(runner) - before
            times.append(card.now() - began)
            recoveries.append(best_after)
        runner.close()
        yield title, times, recoveries


def show(console: Console, scenario: Scenario, rows: list[tuple[str, list[float], list[int | None]]]) -> None:
    table = Table(title=f"{scenario.title}; {REQUESTS:,} requests of 1 to {LARGEST} rows a phase, modelled device time")
    phases = ("as calibrated", "slow", "recovered")
    for column in ("contender", *(f"{phase}: regret" for phase in phases), "regret", "best again after launches"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    reference = rows[0][1]
    for contender, times, recoveries in rows:
        regrets = [f"{time / best - 1:.2%}" for time, best in zip(times, reference, strict=True)]
        again = ", ".join("never" if after is None else str(after) for after in recoveries[1:])
        table.add_row(contender, *regrets, f"{sum(times) / sum(reference) - 1:.2%}", again)
    console.print(table)
    (ours,) = (row for row in rows if row[0] == OURS)
    regret = sum(ours[1]) / sum(reference) - 1
    recovered = all(after is not None and after <= RECOVERY for after in ours[2][1:])
    console.print(f"regret {regret:.2%}, goal under {REGRET:.0%}: {'met' if regret < REGRET else 'MISSED'}")
    console.print(f"best again within {RECOVERY} launches: {'met' if recovered else 'MISSED'}\n")


def outlier(model: Path, folder: Path) -> int:
    """Return for how many request sizes the plan changes when one launch takes 100 times as long."""
    card = Card(folder, SCENARIOS[1])
    with open_runner(model) as runner:
        runner.calibrate(seconds=30, save=False)
        before = [runner.plan(rows).launches for rows in range(LARGEST + 1)]
        changed = set()
        for number, rows in enumerate([8, 16, 4, 2, 1] * 100):
            card.set_speed({8: 100.0 if number == 250 else 1.0})
            runner.run({"x0": np.zeros((rows, 16), np.float32)})
            changed |= {rows for rows in range(LARGEST + 1) if runner.plan(rows).launches != before[rows]}
    return len(changed)


def main() -> None:
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "rows.onnx"
        onnx.save(elementwise(1), model)
        for scenario in SCENARIOS:
            show(console, scenario, list(run_all(model, folder, scenario)))
        changed = outlier(model, folder)
    console.print(
        f"one launch of gear 8 that takes 100 times as long: {changed} plans of {LARGEST} change, goal none: "
        + ("met" if not changed else "MISSED")
    )


if __name__ == "__main__":
    main()
