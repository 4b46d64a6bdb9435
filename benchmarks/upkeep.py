"""What keeping costs true costs itself. ``python benchmarks/upkeep.py``.

One ONNX Runtime session with one thread, a Relu of 16 floats a row, so that microseconds show; three runners on it, their calls
interleaved: told its costs, calibrated and never corrected, calibrated and corrected by each launch. The difference is upkeep:
timing each launch, noting it, and, over mixed requests, the plans made anew and the launches that explore.

Goals: a request's plan found in under 0.5 us after the first of its size; upkeep under 1 us per launch.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from time import perf_counter

import numpy as np

import anybatch
from _models import elementwise
from _timing import Timing, interleave
from anybatch import CurveCosts, Runner
from anybatch._drift import LiveCosts, timed

GEARS = (1, 2, 4, 8, 16, 32)
PLANNING_US, UPKEEP_US = 0.5, 1.0  # the goals
MIXED = 200  # requests of the mixed stream


def verdict(got_us: float, goal_us: float) -> str:
    return f"goal under {goal_us} us: {'met' if got_us < goal_us else 'MISSED'}"


def alone_us(call: Callable[[], object], calls: int = 20_000, repeats: int = 15) -> tuple[float, float, float]:
    """Return 10th percentile, median and 90th percentile of what a call takes, less the loop."""
    empty = min(timeit.repeat(lambda: None, number=calls, repeat=5)) / calls
    times = [seconds / calls - empty for seconds in timeit.repeat(call, number=calls, repeat=repeats)]
    low, median, high = (float(value) * 1e6 for value in np.percentile(times, (10, 50, 90)))
    return low, median, high


def parts() -> None:
    """Each step of the upkeep by itself."""
    costs = {size: 5.0 + size for size in GEARS}
    many = {size: 5.0 + size for size in range(1, 65)}
    draw = np.random.default_rng(0)
    noise = [float(factor) for factor in draw.lognormal(0, 0.1, 1024)]

    def noting(costs: dict[int, float]) -> Callable[[], object]:
        live = LiveCosts(CurveCosts(costs), 0.01, 1e6)
        sizes, turn = list(costs), 0

        def note() -> None:
            nonlocal turn
            turn += 1
            size = sizes[turn % len(sizes)]
            live.note(size, costs[size] * noise[turn % 1024])

        return note

    live = LiveCosts(CurveCosts(costs), 0.01, 1e6)
    nothing: dict[str, np.ndarray] = {}
    steady = LiveCosts(CurveCosts(costs), 0.01, 1e6)

    def nothing_at_all(_inputs: object, _gear: int, _out: object) -> dict[str, np.ndarray]:
        return nothing

    launch = timed(nothing_at_all, steady, perf_counter)
    calls: dict[str, Callable[[], object]] = {
        "note, a size's usual cost": lambda: live.note(8, 13.0),
        f"note, {len(costs)} sizes, 10 % noise, and the loop that draws it": noting(costs),
        f"note, {len(many)} sizes, 10 % noise, and the loop that draws it": noting(many),
        "a launch of nothing": lambda: nothing_at_all(nothing, 8, None),
        "a launch of nothing, timed and noted": lambda: launch(nothing, 8, None),
    }
    print("\nsteps by themselves, us: median (10th to 90th percentile)")
    for name, call in calls.items():
        low, median, high = alone_us(call)
        print(f"  {name:62} {median:6.3f} ({low:.3f} to {high:.3f})")


class Contenders:
    """Runners on one session: sessions differ by where their memory lies, by more than what is measured here."""

    def __init__(self) -> None:
        self._opened = anybatch.open(
            elementwise(1), batch_sizes=GEARS, session_options={"intra_op_num_threads": 1}, costs=dict.fromkeys(GEARS, 1.0)
        )
        calibration = self._opened.calibrate(seconds=2, save=False)
        session, told = self._opened._session, calibration.costs().points
        self.runners = {
            "told its costs": Runner(session, costs=anybatch.TableCosts(told)),
            "calibrated, never corrected": Runner(session, costs=calibration, adapt=False),
            "calibrated, corrected": Runner(session, costs=calibration),
        }
        self.plannings = 0
        corrected = self.runners["calibrated, corrected"]
        plan_anew = corrected._plan_anew

        def counting(costs: anybatch.Costs) -> None:
            self.plannings += 1
            plan_anew(costs)

        corrected._plan_anew = counting  # type: ignore[method-assign]

    def close(self) -> None:
        """Close the runners, and so the session."""
        for runner in (*self.runners.values(), self._opened):
            runner.close()


def compare(contenders: Contenders, title: str, sizes: list[int]) -> None:
    """Print what requests of those sizes take with each runner, per launch."""
    requests = [{"x0": np.zeros((rows, 16), np.float32)} for rows in sizes]

    def run_all(runner: Runner) -> None:
        for request in requests:
            runner.run(request)

    before = {name: sum(runner.stats().launches.values()) for name, runner in contenders.runners.items()}
    plannings = contenders.plannings
    timings = interleave(
        {name: lambda runner=runner: run_all(runner) for name, runner in contenders.runners.items()},  # type: ignore[misc]
        rounds=101,
    )
    first = contenders.runners["told its costs"]
    launches = sum(len(first.plan(rows).launches) for rows in sizes)
    reference = timings["calibrated, never corrected"]
    print(f"\n{title}: {len(sizes)} requests, {launches} launches as told; us per launch")
    for name, timing in timings.items():
        ours = Timing(*(value / launches for value in (timing.p10_us, timing.median_us, timing.p90_us)))
        print(f"  {name:30} median {ours.median_us:7.3f} ({ours.p10_us:.3f} to {ours.p90_us:.3f})")
    upkeep = (timings["calibrated, corrected"].median_us - reference.median_us) / launches
    least = (timings["calibrated, corrected"].p10_us - reference.p10_us) / launches
    made = sum(contenders.runners["calibrated, corrected"].stats().launches.values()) - before["calibrated, corrected"]
    print(
        f"  upkeep per launch: {upkeep:+.3f} us of medians, {least:+.3f} us of 10th percentiles; {verdict(upkeep, UPKEEP_US)}"
    )
    print(f"  plans made anew: {contenders.plannings - plannings} times in {made:,} launches")


def planning(contenders: Contenders) -> None:
    runner = contenders.runners["calibrated, corrected"]
    runner.run({"x0": np.zeros((13, 16), np.float32)})
    low, median, high = alone_us(lambda: runner.plan(13))
    print(
        f"\nfinding a plan made before, Runner.plan(13), its own call included: {median:.3f} us ({low:.3f} to {high:.3f}); "
        + verdict(median, PLANNING_US)
    )


def main() -> None:
    print("medians, with 10th to 90th percentile over interleaved loops")
    parts()
    contenders = Contenders()
    try:
        planning(contenders)
        compare(contenders, "one launch, gear 8", [8])
        compare(contenders, "31 rows", [31])
        sizes = [int(rows) for rows in np.random.default_rng(1).integers(1, 65, MIXED)]
        compare(contenders, "mixed, 1 to 64 rows", sizes)
    finally:
        contenders.close()


if __name__ == "__main__":
    main()
