"""LiveCosts: what launches change about estimates, what they never change, and what learning may cost."""

from __future__ import annotations

import math
import random
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybatch import CurveCosts
from anybatch._drift import LiveCosts, how_many_to_time, timed

COSTS = {1: 1.0, 2: 1.5, 4: 2.5, 8: 4.5, 16: 8.5}
IN_MS = 1e3
# What the module states: launches after which a size is explored once there are savings, and three launches believe a change.
UNSEEN, REVIEW = 64, 32


def live_costs(costs=COSTS, errors=None, explore=0.0):
    return LiveCosts(CurveCosts(costs, errors or {}, source="measured", unit="ms"), explore, IN_MS)


def note(live, size, *costs):
    for cost in costs:
        live.note(size, cost)


def level(live, size):
    """The estimate now, whether or not plans are due."""
    return live._levels[size].level


def savings(live):
    return live._savings()


def test_plans_are_made_anew_a_few_times_at_once_and_seldom_in_the_long_run():
    live = live_costs()
    made = []
    for number in range(1, 100_001):
        live.earned += 1.0  # a millisecond
        live.note(8, 4.5 * (1.0 if number // 100 % 2 else 3.0))
        if live.take_changes():
            made.append(number)
    assert len([number for number in made if number <= 1000]) == 8
    assert 100 <= len(made) <= 108, "one per second, but for the reserve"


def test_changes_of_several_sizes_are_planned_for_together():
    live = live_costs()
    note(live, 8, *[9.0] * 3)
    assert live.take_changes().of(8) == 9.0
    note(live, 4, *[5.0] * 3)
    note(live, 16, *[17.0] * 3)
    assert live.take_changes() is None
    note(live, 2, *[1.5] * 2 * REVIEW)
    costs = live.take_changes()
    assert (costs.of(4), costs.of(16)) == (5.0, 17.0)


def test_what_it_costs_to_get_ready_for_exploring_is_paid_from_the_savings():
    live = live_costs(explore=1.0)
    live.earned += 10.0
    live.pay(12.0)
    assert savings(live) == -2.0
    assert not live.may_explore(8, 0.0)
    live.earned += 2.0
    assert live.may_explore(8, 0.0)


@pytest.mark.parametrize("factor", [0.01, 0.5, 1.7, 3.0, 1e6])
def test_three_launches_in_a_row_are_believed_and_two_are_not(factor):
    live = live_costs()
    note(live, 8, *[4.5 * factor] * 2)
    assert not live.attention
    assert live.take_changes() is None
    note(live, 8, 4.5 * factor)
    assert live.attention
    costs = live.take_changes()
    assert costs.points == COSTS | {8: 4.5 * factor}
    assert not live.attention
    assert live.take_changes() is None


def test_of_three_the_median_is_believed_so_an_outlier_among_them_does_not_count():
    live = live_costs()
    note(live, 8, 13.0, 4500.0, 13.5)
    assert live.take_changes().of(8) == 13.5


def test_changed_costs_say_where_they_come_from_and_keep_their_unit():
    live = live_costs()
    note(live, 8, 9.0, 9.0, 9.0)
    costs = live.take_changes()
    assert costs.source == "measured; corrected by 3 launches since"
    assert costs.unit == "ms"


@pytest.mark.parametrize("size", COSTS)
@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_one_outlier_changes_nothing(size, factor):
    live = live_costs()
    for number in range(300):
        cost = COSTS[size]
        live.note(size, cost * factor if number == 150 else cost)
        assert live.take_changes() is None
        assert level(live, size) == cost


def test_outliers_in_one_launch_of_three_change_nothing():
    live = live_costs()
    for _ in range(1000):
        note(live, 8, 4.5, 4.5, 450.0)
    assert live.take_changes() is None
    assert level(live, 8) == 4.5


def test_deviants_on_alternating_sides_are_never_believed():
    live = live_costs()
    for _ in range(1000):
        note(live, 8, 450.0, 0.045)
    assert live.take_changes() is None
    assert level(live, 8) == 4.5


def test_a_launch_as_usual_between_deviants_starts_their_count_again():
    live = live_costs()
    for _ in range(5):
        note(live, 8, 9.0, 9.0, 4.5)
    assert live.take_changes() is None


def test_slow_drift_within_the_band_is_followed():
    live = live_costs()
    cost, planned, plans = 4.5, 4.5, 0
    while cost < 13.5:
        cost *= 1.005
        live.note(8, cost)
        live.earned += 1000.0
        changed = live.take_changes()
        if changed is not None:
            planned, plans = changed.of(8), plans + 1
        assert abs(planned / cost - 1) < 0.25
    for _ in range(200):
        live.note(8, cost)
    changed = live.take_changes()
    planned = planned if changed is None else changed.of(8)
    assert planned == pytest.approx(cost, rel=0.06)
    assert 3 <= plans <= 23, "made anew, but not at every look"


@pytest.mark.parametrize("noise", ["lognormal, 20 %", "every other launch takes half as long again"])
def test_noise_is_not_taken_for_change(noise):
    draw = random.Random(3)
    live = live_costs()
    plans = 0
    for _ in range(20_000):
        factor = draw.lognormvariate(0, 0.2) if "lognormal" in noise else draw.choice([1.0, 1.5])
        live.note(8, 4.5 * factor)
        live.earned += 1e6  # whatever is asked for is allowed
        changed = live.take_changes()
        plans += changed is not None
    assert plans <= 40, "of 625 looks"
    middle = 4.5 if "lognormal" in noise else 4.5 * 1.25
    assert level(live, 8) == pytest.approx(middle, rel=0.15)
    assert live._levels[8].error > 0.02 * 4.5, "plans know that it is noisy"


def test_a_threefold_change_is_believed_at_once_amid_noise():
    draw = random.Random(4)
    live = live_costs()
    for _ in range(2000):
        live.note(8, 4.5 * draw.lognormvariate(0, 0.2))
    for _ in range(12):
        live.note(8, 13.5 * draw.lognormvariate(0, 0.1))
    assert live.take_changes().of(8) == pytest.approx(13.5, rel=0.2)


def test_what_was_measured_with_large_errors_becomes_surer():
    live = live_costs(errors={8: 0.45})
    note(live, 8, *[4.5] * 200)
    costs = live.take_changes()
    assert costs.of(8) == 4.5
    assert costs.error_of(8) < 0.1
    note(live, 8, *[4.5] * 1000)
    costs = live.take_changes() or costs
    assert costs.error_of(8) <= 0.03 * 4.5
    assert live._levels[8].error == pytest.approx(0.045), "one per cent: what may differ from one process to the next"


def test_what_was_measured_exactly_stays_exact():
    live = live_costs()
    note(live, 8, 9.0, 9.0, 9.0)
    costs = live.take_changes()
    assert all(costs.error_of(size) == 0 for size in COSTS)


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_a_clock_that_stands_still_or_worse_says_nothing(cost):
    live = live_costs()
    note(live, 8, cost, cost, cost)
    assert live.launches == 0
    assert live.take_changes() is None


def test_launches_of_unknown_sizes_say_nothing():
    live = live_costs()
    note(live, 3, 9.0, 9.0, 9.0)
    assert live.launches == 0
    assert live.take_changes() is None


def test_each_unseen_size_is_asked_for_in_turn():
    live = live_costs(explore=1.0)
    live.earned += 1000.0
    asked = {}
    for number in range(1, UNSEEN + REVIEW * len(COSTS) + 1):
        live.note(1, 1.0)
        assert live.attention == bool(live._wanted)
        size = live.wanted()
        if size:
            asked.setdefault(size, number)
            assert live.may_explore(size, 0.0)
            live.note(size, COSTS[size])
    assert asked.keys() == COSTS.keys() - {1}
    assert min(asked.values()) == UNSEEN
    assert max(asked.values()) <= UNSEEN + REVIEW * (len(COSTS) - 2)


def test_a_size_is_wanted_once_and_only_with_enough_savings():
    live = live_costs({1: 1.0, 8: 4.5}, explore=0.01)
    note(live, 1, *[1.0] * 500)
    assert live.wanted() == 0
    live.earned += 449.0
    note(live, 1, *[1.0] * REVIEW)
    assert live.wanted() == 0
    live.earned += 1.1
    note(live, 1, *[1.0] * REVIEW)
    assert live.wanted() == 8
    assert live.wanted() == 0
    assert not live.attention


def test_nothing_is_wanted_where_nothing_may_be_spent():
    live = live_costs(explore=0.0)
    for _ in range(1000):
        live.note(1, 1.0)
        live.earned += 1e6
        assert live.wanted() == 0
    assert not live.may_explore(8, 1e-9)
    assert not any(live.may_time_apart(10.0, [0.001]) for _ in range(100))


def test_no_more_is_saved_up_than_four_launches_of_the_dearest_size():
    live = live_costs(explore=1.0)
    live.earned += 1e9
    assert savings(live) == 4 * 8.5
    assert not live.may_explore(16, 4 * 8.5 + 0.01)
    assert live.may_explore(16, 4 * 8.5)
    assert not live.may_explore(16, 0.01)


def test_a_refused_size_lets_another_have_its_turn():
    live = live_costs({1: 1.0, 8: 4.5, 16: 8.5}, explore=1.0)
    live.earned += 1e9
    note(live, 1, *[1.0] * UNSEEN)
    first = live.wanted()
    assert not live.may_explore(first, math.inf)
    note(live, 1, *[1.0] * REVIEW)
    assert {first, live.wanted()} == {8, 16}


def explored(costs=COSTS, size=8):
    """Live costs that have just been allowed to explore a size."""
    live = live_costs(costs, explore=1.0)
    live.earned += 1e9
    assert live.may_explore(size, 0.0)
    return live


def test_an_explored_launch_that_differs_is_followed_up_until_it_is_believed():
    live = explored()
    for _ in range(2):
        live.note(8, 2.0)
        assert live.attention
        assert live.wanted() == 8
        assert live.may_explore(8, 0.0)
    live.note(8, 2.0)
    assert live.wanted() == 0
    assert live.take_changes().of(8) == 2.0
    note(live, 8, 9.0, 9.0)
    assert live.wanted() == 0, "believed, so no longer followed up"


def test_an_explored_launch_as_usual_is_not_followed_up():
    live = explored()
    note(live, 8, 4.5)
    assert live.wanted() == 0
    note(live, 8, 9.0, 9.0)
    assert live.wanted() == 0


def test_a_follow_up_is_paid_for_as_the_launch_before_it_says():
    live = explored()
    live.note(8, 20.0)
    before = savings(live)
    assert live.may_explore(8, 1.0)
    assert before - savings(live) == pytest.approx(1.0 + 20.0 - 4.5)
    live.note(8, 500.0)
    assert not live.may_explore(8, 1.0), "more than was ever saved up"
    live = explored()
    live.note(8, 0.5)
    before = savings(live)
    assert live.may_explore(8, 3.0)
    assert savings(live) == before, "it is expected to save time, and earns nothing for that"


def test_launches_are_timed_apart_in_one_request_of_eight_and_paid_for():
    live = live_costs(explore=1.0)
    live.earned += 30.0
    allowed = [live.may_time_apart(9.0, [0.010, 0.007, 0.008]) for _ in range(80)]
    assert [number for number, may in enumerate(allowed, 1) if may] == [8 * turn for turn in range(1, 11)]
    assert savings(live) == pytest.approx(30.0 - 10 * 2.0)


def test_launches_are_not_timed_apart_beyond_the_savings_or_before_it_is_known_what_overlap_saves():
    live = live_costs(explore=1.0)
    live.earned += 1.0
    assert not any(live.may_time_apart(9.0, [0.0079]) for _ in range(80))
    assert not any(live.may_time_apart(9.0, []) for _ in range(80))
    assert savings(live) == 1.0


def test_timing_apart_is_free_where_overlap_saves_nothing():
    live = live_costs()
    assert sum(live.may_time_apart(9.0, [0.011]) for _ in range(80)) == 10
    assert savings(live) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["earn", "explore", "apart", "note"]),
            st.sampled_from(list(COSTS)),
            st.floats(0, 50),
        ),
        max_size=200,
    ),
    st.floats(0, 1),
)
def test_no_more_is_spent_than_the_stated_share(steps, explore):
    live = live_costs(explore=explore)
    earned = spent = 0.0
    for kind, size, amount in steps:
        before = savings(live)
        if kind == "earn":
            live.earned += amount
            earned += amount
        elif kind == "explore":
            deviants = live._levels[size].deviants
            more = amount + (deviants[-1] - level(live, size) if deviants else 0.0)
            if live.may_explore(size, amount):
                spent += max(more, 0.0)
        elif kind == "apart":
            if live.may_time_apart(amount, [0.001]):
                spent += max(amount - 1.0, 0.0)
        else:
            live.note(size, amount)
        assert savings(live) >= 0
        assert kind == "earn" or savings(live) <= before or kind == "note"
        assert spent <= explore * earned * (1 + 1e-9) + 1e-9


def test_threads_neither_lose_launches_nor_spend_what_others_have_spent():
    live = live_costs(explore=0.5)
    begin = threading.Barrier(5)
    earning = threading.Lock()
    spent = [0] * 4
    before = sys.getswitchinterval()

    def run(index):
        begin.wait(60)
        for _ in range(3000):
            with earning:
                live.earned += 1.0
            live.take_changes()
            live.wanted()
            spent[index] += live.may_explore(8, 1.0)

    def launch():
        begin.wait(60)
        for number in range(9000):
            live.note(1, 3.0 if number // 3 % 2 else 1.0)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)] + [threading.Thread(target=launch)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert not any(thread.is_alive() for thread in threads)
    assert live.launches == 9000
    assert sum(spent) + savings(live) == 6000, "every half was earned, and spent once; none was above the most that is saved"
    live.take_changes()
    live.wanted()
    assert not live.attention


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_launch_is_noted_with_what_it_took():
    live, clock = live_costs(), Clock()

    def execute(inputs, gear, out):
        clock.now += 0.009
        return {"inputs": inputs, "gear": gear, "out": out}

    launch = timed(execute, live, clock)
    for _ in range(3):
        assert launch({"x": 1}, 8, None) == {"inputs": {"x": 1}, "gear": 8, "out": None}
    assert live.take_changes().of(8) == pytest.approx(9.0)


def test_a_launch_that_fails_is_not_noted_and_those_after_it_are():
    live, clock = live_costs(), Clock()
    failing = True

    def execute(inputs, gear, out):
        clock.now += 0.009
        if failing:
            raise OSError("no")
        return {}

    launch = timed(execute, live, clock)
    with pytest.raises(OSError, match="no"):
        launch({}, 8, None)
    assert live.launches == 0
    failing = False
    launch({}, 8, None)
    assert live.launches == 1


class Overlapping:
    """Launches that end when they are told to."""

    def __init__(self, live, clock):
        self.begun = {name: threading.Event() for name in ("first", "second", "third")}
        self.end = {name: threading.Event() for name in self.begun}
        self.fail = set()
        self.launch = timed(self.execute, live, clock)
        self.threads = {}

    def execute(self, inputs, gear, out):
        self.begun[inputs].set()
        assert self.end[inputs].wait(60)
        if inputs in self.fail:
            raise OSError(inputs)
        return {}

    def _run(self, name):
        try:
            self.launch(name, 8, None)
        except OSError:
            assert name in self.fail

    def start(self, name):
        self.threads[name] = threading.Thread(target=self._run, args=(name,))
        self.threads[name].start()
        assert self.begun[name].wait(60)

    def stop(self, name):
        self.end[name].set()
        self.threads[name].join(60)
        assert not self.threads[name].is_alive()


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_launches_that_overlap_are_not_noted(order):
    live, clock = live_costs(), Clock()
    launches = Overlapping(live, clock)
    launches.start("first")
    launches.start("second")
    clock.now += 1.0
    for name in order:
        launches.stop(name)
    assert live.launches == 0
    launches.start("third")
    clock.now += 0.0045
    launches.stop("third")
    assert live.launches == 1, "it had the session for itself"


def test_a_launch_is_not_noted_when_another_came_and_went_or_failed_during_it():
    live, clock = live_costs(), Clock()
    launches = Overlapping(live, clock)
    launches.start("first")
    launches.start("second")
    launches.stop("second")
    launches.fail.add("third")
    launches.start("third")
    launches.stop("third")
    clock.now += 1.0
    launches.stop("first")
    assert live.launches == 0


def test_a_launch_that_begins_while_others_are_about_to_is_noted_by_none_of_them():
    """Both are past the check whether the session is free before either executes."""
    live = live_costs()
    both = threading.Barrier(2)
    readings = iter(range(100))

    def clock():
        both.wait(60)
        return float(next(readings))

    launch = timed(lambda inputs, gear, out: {}, live, clock)
    threads = [threading.Thread(target=launch, args=({}, 8, None)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert live.launches == 0


def test_of_short_launches_one_in_a_few_is_timed_and_each_of_a_size_that_is_watched():
    live, clock, slow = live_costs(), Clock(), 1.0

    def execute(inputs, gear, out):
        clock.now += COSTS[gear] * slow / IN_MS
        return {}

    launch = timed(execute, live, clock, one_in=4)
    for _ in range(40):
        launch({}, 8, None)
    assert (live.launches, live.watched) == (10, 0)
    slow = 3.0
    launch({}, 8, None)  # the 41st: its turn
    assert (live.launches, live.watched) == (11, 8)
    noted = live.launches
    launch({}, 8, None)
    launch({}, 8, None)
    assert live.launches == noted + 2, "each is timed until the change is believed"
    assert level(live, 8) == pytest.approx(3 * COSTS[8])
    assert live.watched == 0


def test_which_share_of_launches_is_timed_is_told_by_the_shortest():
    assert how_many_to_time(CurveCosts({1: 0.051, 8: 9.0}, unit="ms"), IN_MS) == 1
    assert how_many_to_time(CurveCosts({1: 0.049, 8: 9.0}, unit="ms"), IN_MS) > 1
