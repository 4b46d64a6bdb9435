"""Drift: one gear of a simulated card slows threefold, and recovers. ``python benchmarks/drift.py``.

Requests of 1 to 40 rows, one after another, on the Ascend simulator's device clock, which is deterministic: the figures are
modelled, the same in every run, and say nothing of hardware. Regret is time over that of a runner that was told the true costs
at every change. Beside ours: the same calibration, never corrected, and rounding up.

Goals: regret under 5 % over the whole run; after each change the plans are best again (within 1 %, for every request size)
within 250 launches; one launch that takes 100 times as long changes no plan.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
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
SLOW: Final = 3.0
# In each phase, by how much gear 8 is slower than it was calibrated.
PHASES: Final = {"as calibrated": 1.0, "gear 8 slow": SLOW, "recovered": 1.0}
# (us per launch, us per row): where splitting pays early, in the middle, and late.
CURVES: Final = {f"{launch:.0f} us + 10 us per row": (launch, 10.0) for launch in (2.0, 20.0, 60.0)}


def stream(seed: int = 1) -> list[int]:
    return [int(rows) for rows in np.random.default_rng(seed).integers(1, LARGEST + 1, REQUESTS)]


class Card:
    """A simulated card, and what its gears truly cost."""

    def __init__(self, folder: Path, launch_us: float, row_us: float) -> None:
        path = folder / "costs.json"
        path.write_text(json.dumps({"name": "drift", "affine": {"*": [launch_us, row_us]}}))
        testing.reset(device_time=str(path))
        self._costs = {gear: launch_us + row_us * gear for gear in GEARS}

    def set_speed(self, factor: float) -> dict[int, float]:
        """Make gear 8 that much slower than at first, and return all true costs in us."""
        testing.slow_down("@8", factor)
        return self._costs | {8: self._costs[8] * factor}

    @staticmethod
    def now() -> float:
        """Return device time in us."""
        return testing.ledger().device_time_us


def open_runner(model: Path, **options: Any) -> anybatch.Runner:
    return anybatch.open(model, backend=ascend_sim(), batch_sizes=GEARS, soc_version="Ascend310P3", slots=1, **options)


def are_best(runner: anybatch.Runner, costs: Mapping[int, float]) -> bool:
    """Whether each request is planned as well as with the true costs, within 1 %."""
    best = Planner(Gears(GEARS), TableCosts(costs))
    return all(
        sum(costs[launch.gear] for launch in runner.plan(rows).launches) <= 1.01 * best.plan(rows).cost
        for rows in range(1, LARGEST + 1)
    )


def run_all(model: Path, folder: Path, curve: tuple[float, float]) -> Iterator[tuple[str, list[float], list[str]]]:
    """Yield each contender's device time per phase in us, and after how many launches its plans were best again."""
    inputs = {"x0": np.zeros((LARGEST, 16), np.float32)}
    options: dict[str, dict[str, Any]] = {
        "told the true costs": {},
        "ours": {},
        "ours, exploring nothing": {"explore": 0.0},
        "never corrected": {"adapt": False},
        "round_up": {"policy": "round_up"},
    }
    for title, option in options.items():
        card = Card(folder, *curve)
        times, recoveries = [], []
        with open_runner(model, **option) as runner:
            calibration = runner.calibrate(seconds=30, save=False)
        runner = open_runner(model, costs=calibration, **option)
        for factor in PHASES.values():
            costs = card.set_speed(factor)
            if title == "told the true costs":
                runner.close()
                runner = open_runner(model, costs=costs)
            began, launches, best_after = card.now(), sum(runner.stats().launches.values()), -1
            for rows in stream():
                runner.run({"x0": inputs["x0"][:rows]})
                if not are_best(runner, costs):
                    best_after = -1
                elif best_after < 0:
                    best_after = sum(runner.stats().launches.values()) - launches
            times.append(card.now() - began)
            recoveries.append("never" if best_after < 0 else str(best_after))
        runner.close()
        yield title, times, recoveries


def outlier(model: Path, folder: Path) -> int:
    """Return for how many request sizes the plan changes when one launch takes 100 times as long."""
    card = Card(folder, 20.0, 10.0)
    with open_runner(model) as runner:
        runner.calibrate(seconds=30, save=False)
        before = [runner.plan(rows).launches for rows in range(LARGEST + 1)]
        changed = set()
        for number, rows in enumerate([8, 16, 4, 2, 1] * 100):
            card.set_speed(100.0 if number == 250 else 1.0)
            runner.run({"x0": np.zeros((rows, 16), np.float32)})
            changed |= {rows for rows in range(LARGEST + 1) if runner.plan(rows).launches != before[rows]}
    return len(changed)


def main() -> None:
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "rows.onnx"
        onnx.save(elementwise(1), model)
        for title, curve in CURVES.items():
            table = Table(title=f"{title}, {REQUESTS:,} requests of 1 to {LARGEST} rows a phase; modelled device time")
            for column in ("contender", *(f"{phase}: regret" for phase in PHASES), "regret", "best again after launches"):
                table.add_column(column, justify="left" if column == "contender" else "right")
            reference: list[float] = []
            for contender, times, recoveries in run_all(model, folder, curve):
                reference = reference or times
                regrets = [f"{time / best - 1:.2%}" for time, best in zip(times, reference, strict=True)]
                table.add_row(contender, *regrets, f"{sum(times) / sum(reference) - 1:.2%}", ", ".join(recoveries[1:]))
            console.print(table)
        console.print(f"one launch of gear 8 that takes 100 times as long: {outlier(model, folder)} plans of {LARGEST} change")


if __name__ == "__main__":
    main()
