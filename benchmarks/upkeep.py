"""What keeping costs true costs itself. ``python benchmarks/upkeep.py``.

One ONNX Runtime session with one thread, a Relu of 16 floats a row, so that microseconds show; three runners on it, their calls
in turn: told its costs, calibrated and never corrected, calibrated and corrected by each launch. Upkeep is the difference
between the last two, call by call, and the processor time of making plans anew and getting ready to explore, per launch. What
exploring launches take themselves is no upkeep: `explore` bounds it.

Goals: a request's plan found in under 0.5 us after the first of its size; upkeep under 1 us per launch.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Any

import numpy as np

import anybatch
from _models import elementwise
from anybatch import CurveCosts, Runner
from anybatch._drift import LiveCosts, timed

GEARS = (1, 2, 4, 8, 16, 32)
PLANNING_US, UPKEEP_US = 0.5, 1.0  # the goals
MIXED = 200  # requests of the mixed stream
FIXED, CORRECTED = "calibrated, never corrected", "calibrated, corrected"


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
    """Runners on one session: sessions differ by where their memory lies, by more than what is measured here.

    Attributes:
        runners: by name.
        plannings: how often plans were made anew.
        planning_s: processor time of making plans, and of getting ready to explore.
    """

    def __init__(self) -> None:
        self._opened = anybatch.open(
            elementwise(1), batch_sizes=GEARS, session_options={"intra_op_num_threads": 1}, costs=dict.fromkeys(GEARS, 1.0)
        )
        calibration = self._opened.calibrate(seconds=2, save=False)
        session, told = self._opened._session, calibration.costs().points
        self.runners = {
            "told its costs": Runner(session, costs=anybatch.TableCosts(told)),
            FIXED: Runner(session, costs=calibration, adapt=False),
            CORRECTED: Runner(session, costs=calibration),
        }
        self.plannings = 0
        self.planning_s = 0.0
        self._count(self.runners[CORRECTED])

    def _count(self, runner: Runner) -> None:
        plan_anew, prepare, attend = runner._plan_anew, runner._prepare, runner._attend
        inside = False

        def plan_anew_counted(*arguments: Any) -> None:
            self.plannings += 1
            plan_anew(*arguments)

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def call_counted(*arguments: Any) -> Any:
                nonlocal inside
                if inside:
                    return call(*arguments)
                inside, begun = True, thread_time()
                try:
                    return call(*arguments)
                finally:
                    inside = False
                    self.planning_s += thread_time() - begun

            return call_counted

        vars(runner).update(_plan_anew=plan_anew_counted, _prepare=counted(prepare), _attend=counted(attend))

    def close(self) -> None:
        """Close the runners, and so the session."""
        for runner in (*self.runners.values(), self._opened):
            runner.close()


def compare(contenders: Contenders, title: str, sizes: list[int], calls: int = 20_000) -> None:
    """Print what requests of those sizes take with each runner, per launch, call by call in turn."""
    requests = [{"x0": np.zeros((rows, 16), np.float32)} for rows in sizes]
    names = list(contenders.runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    planned = {rows: len(contenders.runners["told its costs"].plan(rows).launches) for rows in sizes}
    for runner in contenders.runners.values():
        for request in requests:
            runner.run(request)
    before, plannings = sum(contenders.runners[CORRECTED].stats().launches.values()), contenders.plannings
    contenders.planning_s = 0.0
    alike: list[bool] = []  # whether both ran it by the same plan, so that the difference is upkeep
    for turn in range(calls):
        request, launches = requests[turn % len(sizes)], planned[sizes[turn % len(sizes)]]
        fixed, corrected = (contenders.runners[name].plan(sizes[turn % len(sizes)]) for name in (FIXED, CORRECTED))
        alike.append(fixed.launches == corrected.launches)
        for name in (*names[turn % 3 :], *names[: turn % 3]):
            run = contenders.runners[name].run
            begun = perf_counter()
            run(request)
            times[name].append((perf_counter() - begun) * 1e6 / launches)
    made = sum(contenders.runners[CORRECTED].stats().launches.values()) - before
    print(f"\n{title}: {calls:,} requests with each; us per launch, median (10th to 90th percentile)")
    for name in names:
        low, median, high = np.percentile(times[name], (10, 50, 90))
        print(f"  {name:30} {median:8.3f} ({low:.3f} to {high:.3f})")
    differences = np.subtract(times[CORRECTED], times[FIXED])[alike]
    low, median, high = (float(value) for value in np.percentile(differences, (25, 50, 75)))
    now_and_then = contenders.planning_s * 1e6 / made
    print(f"  timing and noting: {median:+.3f} ({low:+.3f} to {high:+.3f}, quartiles of differences of neighbouring calls)")
    print(f"  planning, {contenders.plannings - plannings} times in {made:,} launches, and exploring: {now_and_then:+.3f}")
    print(f"  upkeep: {median + now_and_then:.3f}; {verdict(median + now_and_then, UPKEEP_US)}")


def planning(contenders: Contenders) -> None:
    runner = contenders.runners[CORRECTED]
    runner.run({"x0": np.zeros((13, 16), np.float32)})
    low, median, high = alone_us(lambda: runner.plan(13))
    print(
        f"\nfinding a plan made before, Runner.plan(13), its own call included: {median:.3f} us ({low:.3f} to {high:.3f}); "
        + verdict(median, PLANNING_US)
    )


def main() -> None:
    print("medians, with spread; calls of the contenders take turns")
    parts()
    contenders = Contenders()
    try:
        planning(contenders)
        compare(contenders, "one launch, gear 8", [8])
        compare(contenders, "31 rows", [31])
        sizes = [int(rows) for rows in np.random.default_rng(1).integers(1, 65, MIXED)]
        compare(contenders, "mixed, 1 to 64 rows", sizes, calls=100_000)
    finally:
        contenders.close()


if __name__ == "__main__":
    main()
