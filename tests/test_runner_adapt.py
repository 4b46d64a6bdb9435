"""Runner while launches correct its costs: plans follow, results and counters stay right, learning keeps within its bound."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch import AnyBatch, Calibration, ClosedError, CurveCosts, Gears, MultipleOf, Planner, Runner, TableCosts
from anybatch import _runner as runner_module
from anybatch._calibration import Measurement, Setting
from anybatch._planner import POLICIES
from anybatch._version import __version__
from anybatch.testing.models import AFFINE, SAME, SUMMED

GEARS = (1, 2, 4, 8, 16)
LARGEST = 40
COSTS = {gear: 20.0 + 10.0 * gear for gear in GEARS}


class Device:
    """A session whose launches take what `costs` says, on a clock that nothing else moves."""

    name = "a clock of the tests"

    def __init__(self, costs, batching=None, *, concurrency=1, model=AFFINE):
        self.costs = dict(costs)
        self.spec, self.model = model.spec, model
        self.batching = Gears(tuple(costs)) if batching is None else batching
        self.concurrency = concurrency
        self.launches = []
        self.closed = 0
        self._ms = 0.0
        self._lock = threading.Lock()

    def __call__(self):
        return self._ms / 1e3

    def execute(self, inputs, gear, out=None):
        assert not self.closed
        with self._lock:
            self.launches.append(gear)
            self._ms += self.costs[gear]
        return dict(self.model.reference(dict(inputs)))

    def close(self):
        self.closed += 1


def calibration(costs, error=0.0):
    """What measuring `costs`, in ms, would have found."""
    found = tuple(
        Measurement(size, cost / 1e3, cost * (1 - 1.96 * error) / 1e3, cost * (1 + 1.96 * error) / 1e3, 100)
        for size, cost in sorted(costs.items())
    )
    setting = Setting("", "session", 0, "", {}, "session", __version__, Device.name, "")
    return Calibration(found, setting, "2025-01-01T00:00:00+00:00", 1.0, 0.02)


def adapting(device, costs=None, **options):
    return Runner(device, costs=calibration(costs or device.costs), clock=device, **options)


def request(rows, model=AFFINE):
    return model.random_inputs(np.random.default_rng(rows), rows)


REQUESTS = {rows: request(rows) for rows in range(LARGEST + 1)}


def stream(count, seed=0):
    draw = random.Random(seed)
    return [draw.randint(1, LARGEST) for _ in range(count)]


def plans(runner):
    return [runner.plan(rows).launches for rows in range(LARGEST + 1)]


def best_costs(costs):
    planner = Planner(Gears(tuple(costs)), TableCosts(costs))
    return [planner.plan(rows).cost for rows in range(LARGEST + 1)]


def true_costs(runner, costs):
    """What the runner's plans truly cost."""
    return [sum(costs[launch.gear] for launch in launches) for launches in plans(runner)]


def assert_right(got, rows):
    want = AFFINE.reference(REQUESTS[rows])
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def executed(device, runner, rows):
    """Run a request and return the launches it was run with."""
    before = len(device.launches)
    runner.run(REQUESTS[rows])
    return device.launches[before:]


def test_plans_follow_a_gear_that_slows_and_recovers():
    device = Device(COSTS)
    with adapting(device) as runner:
        for factor in (3.0, 1.0):
            device.costs[8] = COSTS[8] * factor
            best = pytest.approx(best_costs(device.costs))
            assert true_costs(runner, device.costs) != best, "else there is nothing to follow"
            begun = len(device.launches)
            for rows in stream(600):  # long enough to save up for exploring
                runner.run(REQUESTS[rows])
                if len(device.launches) - begun >= 250:
                    assert true_costs(runner, device.costs) == best


def test_plans_hardly_change_when_all_gears_slow_alike():
    device = Device(COSTS)
    with adapting(device) as runner:
        original = plans(runner)
        device.costs = {gear: 1.5 * cost for gear, cost in COSTS.items()}
        for rows in stream(500):
            runner.run(REQUESTS[rows])
        assert plans(runner) == original
        for rows in range(1, LARGEST + 1):
            expected = sum(device.costs[launch.gear] for launch in runner.plan(rows).launches)
            assert runner.plan(rows).cost == pytest.approx(expected, rel=0.05), "the predictions have followed"


@pytest.mark.parametrize("gear", GEARS)
@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_one_outlier_changes_no_plan_of_any_size(gear, factor):
    device = Device(COSTS)
    with adapting(device) as runner:
        original = plans(runner)
        for number, rows in enumerate(GEARS * 60):
            device.costs[gear] = COSTS[gear] * (factor if 150 <= number < 150 + len(GEARS) else 1.0)
            runner.run(REQUESTS[rows])
            assert plans(runner) == original
        assert runner.stats().launches == dict.fromkeys(GEARS, 60), "one launch of the gear was an outlier"


def test_nothing_is_corrected_without_adaptation():
    device = Device(COSTS)
    with adapting(device, adapt=False) as runner:
        original = plans(runner)
        device.costs[8] *= 3
        for rows in stream(500):
            runner.run(REQUESTS[rows])
        assert plans(runner) == original
        assert "corrected" not in runner.explain(8).cost_source
        assert runner.stats().requests == 500


def test_nothing_is_corrected_that_was_given_and_not_measured():
    device = Device(COSTS)
    with Runner(device, costs=TableCosts(COSTS), clock=device) as runner:
        original = plans(runner)
        device.costs[8] *= 3
        for rows in stream(500):
            runner.run(REQUESTS[rows])
        assert plans(runner) == original


def test_corrected_costs_say_so_and_predictions_match_what_happens():
    device = Device(COSTS)
    with adapting(device) as runner:
        device.costs[8] *= 3
        for _ in range(60):
            runner.run(REQUESTS[8])
        explanation = runner.explain(8)
        assert "; corrected by 3 launches since" in explanation.cost_source
        assert explanation.actual == pytest.approx(explanation.plan.cost)


def test_a_multiple_leaves_nothing_to_adapt():
    device = Device({4: 30.0, 8: 60.0}, MultipleOf(4))
    with adapting(device) as runner:
        device.costs = {4: 90.0, 8: 60.0}
        for _ in range(100):
            runner.run(REQUESTS[4])
        assert runner.plan(4).cost == 30.0


# Gear 8 is so dear that no plan has it, unless to see whether it is still so.
DEAR = {1: 20.0, 4: 40.0, 8: 1000.0}


def test_a_gear_that_no_plan_has_is_explored_in_time_and_found_to_have_become_cheap():
    device = Device(DEAR)
    with adapting(device, explore=0.01) as runner:
        device.costs[8] = 30.0
        spent, found = 0.0, 0
        while not found:
            launches = executed(device, runner, 4 if len(device.launches) % 2 else 8)
            if launches == [4]:
                spent += DEAR[4]
            elif launches == [4, 4]:
                spent += 2 * DEAR[4]
            found = 8 in launches
            assert spent < 1.1 * 1000.0 / 0.01, "there were savings enough for one launch of it"
        assert spent > 0.9 * 1000.0 / 0.01, "and not before"
        first = len(device.launches)
        for _ in range(2):
            assert executed(device, runner, 8) == [8], "followed up at once"
        assert len(device.launches) - first == 2
        assert [launch.gear for launch in runner.plan(8).launches] == [4, 4], "the plan in force until the next request"
        assert executed(device, runner, 8) == [8]
        assert [launch.gear for launch in runner.plan(8).launches] == [8]


NO_CHOICE = {
    "nothing may be spent": ({"explore": 0.0}, AFFINE),
    "nothing is corrected": ({"adapt": False}, AFFINE),
    **{policy: ({"policy": policy}, AFFINE) for policy in POLICIES if policy not in ("least_cost", "one_gear")},
    "outputs without rows that are the same": ({}, SAME),
    "outputs without rows that add up": ({}, SUMMED),
}


@pytest.mark.parametrize(("options", "model"), NO_CHOICE.values(), ids=NO_CHOICE)
def test_nothing_is_explored_where_plans_are_not_free(options, model):
    device = Device(DEAR, model=model)
    with adapting(device, **{"explore": 1.0} | options) as runner:
        for _ in range(500):
            runner.run(request(4, model))
    assert set(device.launches) == {4}


def test_but_elsewhere_each_gear_is_explored():
    device = Device(DEAR)
    with adapting(device, explore=1.0) as runner:
        for _ in range(500):
            runner.run(REQUESTS[4])
    assert set(device.launches) == {1, 4, 8}


def test_what_requests_wait_for_earns_nothing():
    """Seconds in `run` count the wait for other requests, which no share of launches' time is made of."""

    class Waiting(dict):
        def __iter__(self):
            device._ms += 1e6
            return super().__iter__()

    device = Device(DEAR)
    with adapting(device, explore=0.01) as runner:
        for _ in range(1000):
            runner.run(Waiting(REQUESTS[4]))
        assert runner.stats().seconds > 1000 * 1000, "they did wait"
        assert 8 not in device.launches


by_gears = st.dictionaries(st.integers(1, 32), st.floats(1.0, 1000.0), min_size=2, max_size=6)


@given(
    costs=by_gears,
    rows=st.lists(st.integers(0, LARGEST), min_size=1, max_size=400),
    explore=st.floats(0, 1),
    any_size=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_exploring_costs_a_stated_share_and_each_request_at_most_one_launch(costs, rows, explore, any_size):
    curve = CurveCosts(costs)
    all_costs = {size: curve.of(size) for size in range(1, LARGEST + 1)} | costs if any_size else costs
    device = Device(all_costs, AnyBatch() if any_size else Gears(tuple(sorted(costs))))
    explored = usual = 0.0
    with adapting(device, costs, explore=explore) as runner:
        for count in itertools.islice(itertools.cycle(rows), 300):
            best = runner.plan(count)
            launches = executed(device, runner, count)
            assert sum(launches) >= count
            cost = sum(all_costs[gear] for gear in launches)
            if launches != [launch.gear for launch in best.launches]:
                assert launches[0] in costs
                assert cost <= (best.cost + costs[launches[0]]) * (1 + 1e-9)
            explored += max(0.0, cost - best.cost)
            usual += cost
        assert explored <= (explore + 1e-9) * usual  # costs of a plan are added up in another order here
        assert runner.stats().launches == Counter(device.launches)


@given(costs=by_gears, rows=st.integers(0, 200), data=st.data(), any_size=st.booleans())
@settings(deadline=None)
def test_a_plan_with_a_size_has_it_and_costs_at_most_that_launch_more(costs, rows, data, any_size):
    planner = Planner(AnyBatch() if any_size else Gears(tuple(sorted(costs))), CurveCosts(costs))
    size = data.draw(st.sampled_from(sorted(costs)))
    plan = planner.plan_with(size, rows)
    if plan is None:
        dearer = planner.cheapest(rows - min(size, rows)).cost > planner.cheapest(rows).cost
        assert any_size
        assert rows < size or dearer
        return
    assert rows >= size or not any_size
    assert plan.launches[0].gear == size
    assert sum(launch.rows for launch in plan.launches) == plan.rows == rows
    assert all(launch.rows == launch.gear for launch in plan.launches[:-1]), "padding is in the last launch only"
    assert plan.cost <= (planner.plan(rows).cost + costs[size]) * (1 + 1e-9)
    assert plan.cost == pytest.approx(sum(planner.costs.of(launch.gear) for launch in plan.launches))


def wandering(device, seed):
    """Let the device's costs change by themselves, so that plans are made anew again and again."""
    draw = random.Random(seed)
    usual = dict(device.costs)

    def execute(inputs, gear, out=None, inner=device.execute):
        if draw.random() < 0.02:
            slow = draw.choice(sorted(usual))
            device.costs = usual | {slow: usual[slow] * draw.choice([0.2, 3.0])}
        return inner(inputs, gear, out)

    device.execute = execute
    return device


@pytest.mark.parametrize("concurrency", [1, 2, None])
def test_results_and_counters_stay_right_while_many_threads_plan_anew(concurrency, monkeypatch):
    planned = []
    plan_anew = Runner._plan_anew
    monkeypatch.setattr(Runner, "_plan_anew", lambda self, costs: (planned.append(costs), plan_anew(self, costs)))
    device = wandering(Device(COSTS, concurrency=concurrency), seed=1)
    wanted = [stream(400, seed) for seed in range(6)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(sizes):
        for rows in sizes:
            assert_right(runner.run(REQUESTS[rows]), rows)

    try:
        with adapting(device, explore=0.2) as runner, ThreadPoolExecutor(len(wanted)) as pool:
            for done in [pool.submit(work, sizes) for sizes in wanted]:
                done.result(120)
            stats = runner.stats()
    finally:
        sys.setswitchinterval(before)
    sizes = Counter(rows for each in wanted for rows in each)
    assert stats.requests == sizes.total()
    assert stats.rows == sum(rows * count for rows, count in sizes.items())
    assert stats.sizes == dict(sorted(sizes.items()))
    assert stats.launches == Counter(device.launches)
    assert stats.padded_rows == sum(device.launches) - stats.rows
    assert len(planned) > 3, "else there was nothing to withstand"
    assert runner.stats() == stats


def test_counters_leave_out_requests_that_failed_while_plans_changed():
    device = wandering(Device(COSTS), seed=2)
    executions = itertools.count(1)
    inner = device.execute

    def execute(inputs, gear, out=None):
        if next(executions) % 7 == 0:
            raise OSError("planted")
        return inner(inputs, gear, out)

    device.execute = execute
    done = Counter()
    with adapting(device, explore=0.2) as runner:
        for rows in stream(1000):
            try:
                assert_right(runner.run(REQUESTS[rows]), rows)
                done[rows] += 1
            except OSError:
                pass
        assert 0 < done.total() < 1000
        assert runner.stats().sizes == dict(sorted(done.items()))
        assert runner.stats().requests == done.total()


def test_close_while_plans_change_ends_every_request_and_closes_once():
    device = wandering(Device(COSTS, concurrency=None), seed=3)
    runner = adapting(device, explore=0.2)
    enough = threading.Event()

    def work(seed):
        done = 0
        try:
            for done, rows in enumerate(itertools.cycle(stream(200, seed))):
                assert_right(runner.run(REQUESTS[rows]), rows)
                if done == 200:
                    enough.set()
        except ClosedError:
            return done
        raise AssertionError("requests went on after close()")

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, seed) for seed in range(4)]
        assert enough.wait(120)
        runner.close()
        counts = [worker.result(120) for worker in workers]
    assert device.closed == 1
    assert runner.stats().requests == sum(counts)


class Held:
    """Holds whoever makes a new planner, from the second one on, until it is told to let go."""

    def __init__(self, monkeypatch):
        self.arrived, self.let_go = threading.Event(), threading.Event()
        self._armed = False

        def make(*arguments):
            if self._armed:
                self._armed = False
                self.arrived.set()
                assert self.let_go.wait(60)
            return Planner(*arguments)

        monkeypatch.setattr(runner_module, "Planner", make)

    def arm(self):
        self._armed = True


def with_changes(device, runner):
    """Make the next request plan anew."""
    device.costs[8] *= 3
    for _ in range(3):
        runner.run(REQUESTS[8])
    assert runner._live.attention


def test_other_requests_do_not_wait_for_the_one_that_plans_anew(monkeypatch):
    held = Held(monkeypatch)
    device = Device(COSTS)
    with adapting(device) as runner, ThreadPoolExecutor(2) as pool:
        with_changes(device, runner)
        held.arm()
        planning = pool.submit(runner.run, REQUESTS[8])
        assert held.arrived.wait(60)
        runner._live.attention = True  # there is more to do already
        try:
            for rows in (8, 13, 40):
                assert_right(pool.submit(runner.run, REQUESTS[rows]).result(20), rows)
        finally:
            held.let_go.set()
        assert_right(planning.result(60), 8)
        assert runner.plan(8).launches != Planner(Gears(GEARS), TableCosts(COSTS)).plan(8).launches


def test_close_does_not_wait_for_a_request_that_still_plans(monkeypatch):
    held = Held(monkeypatch)
    device = Device(COSTS)
    runner = adapting(device)
    with_changes(device, runner)
    held.arm()
    with ThreadPoolExecutor(1) as pool:
        planning = pool.submit(runner.run, REQUESTS[8])
        assert held.arrived.wait(60)
        runner.close()
        assert device.closed == 1
        held.let_go.set()
        with pytest.raises(ClosedError):
            planning.result(60)


def test_a_new_calibration_is_not_overwritten_by_what_launches_said_before_it(monkeypatch):
    held = Held(monkeypatch)
    device = Device(COSTS)
    with adapting(device) as runner, ThreadPoolExecutor(2) as pool:
        with_changes(device, runner)
        held.arm()
        planning = pool.submit(runner.run, REQUESTS[8])
        assert held.arrived.wait(60)
        device.costs = dict(COSTS)
        calibrating = pool.submit(runner.calibrate, seconds=0.01, save=False)
        held.let_go.set()
        planning.result(60)
        calibrating.result(60)
        assert true_costs(runner, COSTS) == pytest.approx(best_costs(COSTS))
        old = runner._live
        with_changes(device, runner)
        device.costs = dict(COSTS)
        runner.calibrate(seconds=0.01, save=False)
        runner._attend(old, runner._prepare(8))
        assert true_costs(runner, COSTS) == pytest.approx(best_costs(COSTS))


class SideBySide:
    """Stands in for `run_side_by_side`: notes how many launches would have overlapped, and makes them overlap in time."""

    def __init__(self, monkeypatch, device):
        self.calls = []
        self._device = device
        monkeypatch.setattr(runner_module, "run_side_by_side", self)

    def __call__(self, steps, pool, most):
        self.calls.append((len(steps), most, len(self._device.launches)))
        before = self._device._ms
        for step in steps:
            step()
        took = self._device._ms - before
        self._device._ms -= took * (1 - 1 / most)  # in the end they took that much less


def test_one_request_of_eight_runs_its_launches_one_after_another_to_time_them(monkeypatch):
    device = Device(COSTS, concurrency=2)
    side_by_side = SideBySide(monkeypatch, device)
    with adapting(device, explore=1.0) as runner:
        assert len(runner.plan(32).launches) == 2
        for _ in range(80):
            runner.run(REQUESTS[32])
        assert 70 <= len(side_by_side.calls) <= 72
    device = Device(COSTS, concurrency=2)
    side_by_side = SideBySide(monkeypatch, device)
    with adapting(device, explore=0.0) as runner:
        for _ in range(80):
            runner.run(REQUESTS[32])
        assert len(side_by_side.calls) == 80


def test_the_launch_that_explores_runs_before_the_others_overlap_it(monkeypatch):
    device = Device(DEAR, concurrency=2)
    side_by_side = SideBySide(monkeypatch, device)
    with adapting(device, explore=1.0) as runner:
        while 8 not in device.launches:
            before = len(device.launches)
            calls = len(side_by_side.calls)
            assert_right(runner.run(REQUESTS[20]), 20)
        assert device.launches[before:] == [8, 4, 4, 4]
        assert side_by_side.calls[calls:] == [(3, 2, before + 1)]


def test_plans_stay_kept_when_one_request_had_more_launches_than_are_kept(monkeypatch):
    monkeypatch.setattr(runner_module, "_MAX_LAUNCHES", 10)
    with adapting(Device(COSTS)) as runner:
        assert len(runner.plan(1600).launches) > 10
        assert runner.plan(8) is runner.plan(8)
        assert runner.plan(1600) is not runner.plan(1600)
