"""The planner against brute force, its policies, its ties, and every message."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch import (
    POLICIES,
    AffineCosts,
    AnyBatch,
    CurveCosts,
    Gears,
    InputError,
    Launch,
    MultipleOf,
    Planner,
    TableCosts,
    UncertainCosts,
    explain_rows,
)

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True)
# Plain figures, and figures many orders of magnitude apart: exactness must not depend on their being alike.
figures = st.one_of(st.floats(0.01, 100), st.floats(-9, 9).map(lambda exponent: 10**exponent), st.integers(1, 9).map(float))


def tables() -> st.SearchStrategy[dict[int, float]]:
    return sizes.flatmap(lambda found: st.fixed_dictionaries(dict.fromkeys(found, figures)))


def least_costs(rows: int, costs: Mapping[int, float], *, exact: bool) -> list[float]:
    """Return the least cost of 0..rows by trying every launch as the last one."""
    least = [0.0]
    for n in range(1, rows + 1):
        ways = [cost + least[max(n - size, 0)] for size, cost in costs.items() if size <= n or not exact]
        least.append(min(ways, default=math.inf))
    return least


def planner(costs: Mapping[int, float], **options: object) -> Planner:
    return Planner(Gears(tuple(costs)), TableCosts(costs), **options)  # type: ignore[arg-type]


@given(tables(), st.lists(st.integers(1, 400), min_size=1, max_size=8))
@settings(deadline=None)
def test_least_cost_equals_brute_force(costs, requests):
    plans = planner(costs)
    for exact in (False, True):
        least = least_costs(max(requests), costs, exact=exact)
        for rows in requests:
            if least[rows] == math.inf:
                with pytest.raises(InputError, match="cannot be run without padding"):
                    plans.plan(rows, exact=exact)
                continue
            plan = plans.plan(rows, exact=exact)
            assert plan.cost == pytest.approx(least[rows], rel=2e-9)
            assert plan.cost == pytest.approx(sum(costs[launch.gear] for launch in plan.launches), rel=1e-12)
            assert sum(launch.rows for launch in plan.launches) == rows
            assert plan.padded_rows == sum(launch.gear - launch.rows for launch in plan.launches)
            assert not (exact and plan.padded_rows)


@given(tables(), st.integers(0, 3000), st.sampled_from(POLICIES))
@settings(deadline=None)
def test_every_policy_covers_each_row_once_with_compiled_sizes(costs, rows, policy):
    plan = planner(costs).plan(rows, policy=policy)
    assert plan.policy == policy
    assert sum(launch.rows for launch in plan.launches) == rows
    assert all(1 <= launch.rows <= launch.gear and launch.gear in costs for launch in plan.launches)
    assert all(launch.rows == launch.gear for launch in plan.launches[:-1]), "only the last launch may be padded"
    assert plan.cost >= planner(costs).plan(rows).cost * (1 - 2e-9), "no policy is cheaper than the least cost"


@given(tables(), st.integers(10**5, 10**7))
@settings(deadline=None, max_examples=25)
def test_huge_requests_equal_the_bulk_argument(costs, rows):
    """For n beyond every table, the least cost grows by the cost of one best-rate launch each such launch."""
    plans = planner(costs)
    best = min(costs, key=lambda size: costs[size] / size)
    more, fewer = plans.plan(rows + best), plans.plan(rows)
    assert more.cost - fewer.cost == pytest.approx(costs[best], rel=1e-3)
    assert more.cost >= (rows + best) * costs[best] / best * (1 - 1e-9), "nothing beats the best rate"
    table = plans._covers[False]
    assert len(table._least) < 10**5, "no table of the request's size"


def test_ten_million_rows_on_gears_without_a_one():
    plan = Planner(Gears((48, 7, 31))).plan(10_000_000)
    assert sum(launch.rows for launch in plan.launches) == 10_000_000
    assert plan.padded_rows < 7


def test_non_monotone_costs_use_the_larger_cheaper_gear():
    plan = planner({4: 10.0, 8: 1.0}).plan(3)
    assert plan.launches == (Launch(8, 3),)


def test_ties_go_to_fewer_launches_then_to_less_padding():
    proportional = planner({size: 0.1 * size for size in (1, 2, 4, 8)})  # 0.1 * 3 is not 0.1 + 0.2: rounding must not decide
    assert [launch.gear for launch in proportional.plan(8).launches] == [8]
    assert [launch.gear for launch in proportional.plan(7).launches] == [4, 2, 1]
    flat = planner({4: 1.0, 6: 1.0, 9: 1.0})
    assert [launch.gear for launch in flat.plan(5).launches] == [6]


@pytest.mark.parametrize(
    ("policy", "launches"),
    [
        ("least_cost", [8, 4, 1]),
        ("round_up", [8, 8]),
        ("largest_first", [8, 4, 1]),
        ("one_gear", [8, 8]),
        ("nearest", [8, 4, 1]),
    ],
)
def test_the_policies_on_thirteen_rows(policy, launches):
    plan = planner({1: 1, 2: 1.6, 4: 2.9, 8: 5.5}, policy=policy).plan(13)
    assert [launch.gear for launch in plan.launches] == launches


def test_nearest_takes_the_larger_on_a_tie_and_may_go_below():
    assert [launch.gear for launch in planner({4: 1.0, 8: 1.0}, policy="nearest").plan(6).launches] == [8]
    assert [launch.gear for launch in planner({4: 1.0, 8: 1.0}, policy="nearest").plan(5).launches] == [4, 4]


def test_largest_first_pads_only_the_smallest_gear():
    assert Planner(Gears((4, 8)), policy="largest_first").plan(13).launches == (Launch(8, 8), Launch(4, 4), Launch(4, 1))


def test_zero_rows_need_no_launch():
    for batching in (Gears((4,)), MultipleOf(4), AnyBatch()):
        plan = Planner(batching).plan(0)
        assert (plan.launches, plan.cost, plan.padded_rows, str(plan)) == ((), 0.0, 0, "nothing to launch")


def test_multiples_are_one_launch_of_the_real_rows():
    plan = Planner(MultipleOf(4), TableCosts({4: 2.0})).plan(7)
    assert plan.launches == (Launch(8, 7),)
    assert plan.cost == 4.0
    with pytest.raises(InputError, match="7 rows cannot be run without padding: this session runs multiples of 4"):
        Planner(MultipleOf(4)).plan(7, exact=True)


def test_any_batch_is_one_launch_until_costs_say_otherwise():
    assert Planner(AnyBatch()).plan(7).launches == (Launch(7, 7),)
    splitting = Planner(AnyBatch(), TableCosts({2: 1.0, 8: 9.0}))
    assert splitting.plan(5).launches == (Launch(2, 2), Launch(2, 2), Launch(1, 1))
    assert splitting.plan(5).padded_rows == 0


def test_the_prior_is_affine():
    costs = AffineCosts()
    assert [costs.of(size) for size in (1, 8)] == [3.0, 10.0]
    assert "prior" in costs.source


def test_explain_shows_each_policy_and_the_cost_of_padding():
    why = explain_rows(planner({1: 1, 2: 1.6, 4: 2.9, 8: 5.5}), 7)
    assert why.plan.launches == (Launch(8, 7),)
    assert why.padding_cost == pytest.approx(5.5 / 8)
    assert set(why.alternatives) == set(POLICIES)
    assert why.alternatives["largest_first"] == pytest.approx(2.9 + 1.6 + 1)
    text = str(why)
    for part in ("7 rows on gears 1, 2, 4, 8: 8 (7 rows)", "given by the caller", "1 of 8 rows", "largest_first 5.5"):
        assert part in text


def test_a_plan_reads_as_a_sum():
    assert str(Planner(Gears((1, 4))).plan(14)) == "3 x 4 + 4 (2 rows)"
    assert str(Planner(Gears((1, 4))).plan(6, policy="largest_first")) == "4 + 2 x 1"
    assert str(Planner(Gears((4,))).plan(5)) == "4 + 4 (1 row)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Planner(Gears((4,))).plan(-1), "expected rows >= 0, got -1"),
        (lambda: Planner(Gears((4,))).plan(1.5), "expected rows to be an int, got 1.5"),
        (lambda: Planner(Gears((4,)), policy="best"), "expected policy to be one of .*'best'"),
        (lambda: Planner(Gears((4,))).plan(1, policy="best"), "expected policy to be one of .*'best'"),
        (lambda: Planner(Gears((4, 8)), TableCosts({4: 1.0})), "no cost for batch size 8, only for \\[4\\]"),
        (lambda: TableCosts({4: 0.0}), "expected a positive, finite cost for batch size 4, got 0.0"),
        (lambda: TableCosts({4: -1}), "positive, finite cost for batch size 4, got -1"),
        (lambda: TableCosts({4: math.nan}), "positive, finite cost for batch size 4, got nan"),
        (lambda: TableCosts({4: math.inf}), "positive, finite cost for batch size 4, got inf"),
        (lambda: TableCosts({4: "1"}), "positive, finite cost for batch size 4, got '1'"),
        (lambda: TableCosts({0: 1.0}), "at least 1, got 0"),
        (lambda: TableCosts({}), "at least one batch size, got none"),
        (lambda: AffineCosts(-1.0), "overhead >= 0"),
        (lambda: AffineCosts(1.0, 0.0), "per_row > 0"),
        (lambda: AffineCosts(math.inf), "finite overhead"),
        (lambda: Gears((0,)), "ints of at least 1, got 0"),
        (lambda: Gears((-4,)), "ints of at least 1, got -4"),
        (lambda: Gears((4, 4)), "each batch size once, got 4 twice"),
        (lambda: Gears((1.5,)), "ints of at least 1, got 1.5"),
        (lambda: Gears((True,)), "ints of at least 1, got True"),
        (lambda: Gears(()), "at least one batch size, got none"),
        (lambda: Gears("148"), "a list of batch sizes such as \\[1, 4, 8\\], got '148'"),
        (lambda: Gears(4), "a list of batch sizes such as \\[1, 4, 8\\], got 4"),
        (lambda: MultipleOf(0), "ints of at least 1, got 0"),
        (lambda: Planner(Gears((4,))).plan(3, exact=True), "3 rows cannot be run without padding"),
    ],
)
def test_each_message(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_gears_are_sorted_and_readable():
    assert Gears((8, 1, 4)).sizes == (1, 4, 8)
    assert [str(b) for b in (Gears((8, 1)), MultipleOf(4), AnyBatch())] == ["gears 1, 8", "multiples of 4", "any batch size"]


def test_exact_plans_of_neighbouring_gears_up_to_the_last_gap():
    """Sums of 39 and 40 leave gaps up to 39 * 40 - 39 - 40 = 1481, far beyond the first table."""
    costs = {39: 1.0, 40: 1.5}
    plans, least = planner(costs), least_costs(2000, costs, exact=True)
    for rows in (*range(2000, 0, -7), 1481, 1482):
        if least[rows] == math.inf:
            with pytest.raises(InputError, match="without padding"):
                plans.plan(rows, exact=True)
        else:
            assert plans.plan(rows, exact=True).cost == pytest.approx(least[rows], rel=2e-9)
    assert least[1481] == math.inf > least[1482]
    assert planner(costs).plan(10**7, exact=True).padded_rows == 0


def curve(points: Mapping[int, float], errors: Mapping[int, float] | None = None) -> CurveCosts:
    return CurveCosts(points, errors or {})


def test_a_curve_is_what_is_known_with_straight_lines_between_and_beyond():
    costs = curve({2: 4.0, 4: 6.0, 8: 14.0})
    assert [costs.of(size) for size in (2, 3, 4, 6, 8)] == [4, 5, 6, 10, 14]
    assert costs.of(10) == 14 + 2 * (14 - 6) / (8 - 4), "the line from the largest size up to half of it goes on"
    assert costs.of(1) == 3, "the line to the next size goes on"
    assert curve({4: 8.0, 8: 40.0}).of(1) == 2, "but never below the share of the smallest"
    assert curve({4: 8.0}).of(2) == 4
    assert curve({4: 8.0}).of(8) == 16
    assert curve({4: 8.0, 8: 7.0}).of(80) == 7, "more rows never cost less beyond the largest"


def test_errors_of_a_curve_lie_between_those_known_and_grow_beyond():
    costs = curve({2: 4.0, 4: 6.0, 8: 14.0}, {2: 0.1, 8: 0.4})
    assert [costs.error_of(size) for size in (1, 2, 4, 8)] == [0.1, 0.1, 0, 0.4]
    # A cost of 3 rows of 4 instead of 5, as the line from 4 to 8 has it, would be four standard errors off; of 6, 8, not 10.
    assert [costs.error_of(size) for size in (3, 6)] == [
        pytest.approx(math.hypot(0.05, 1 / 4)),
        pytest.approx(math.hypot(0.2, 2 / 4)),
    ]
    assert costs.error_of(16) == pytest.approx(
        3 * 0.4
    )  # cost 14 + 2 * (14 - 6): three times that of 8 rows, less what is exact
    assert isinstance(costs, UncertainCosts)
    assert not isinstance(TableCosts({1: 1.0}), UncertainCosts)


@pytest.mark.parametrize(
    ("points", "errors", "message"),
    [
        ({}, {}, "expected at least one batch size"),
        ({1: 0.0}, {}, "expected a positive, finite cost for batch size 1, got 0.0"),
        ({1: math.nan}, {}, "expected a positive, finite cost for batch size 1, got nan"),
        ({1: -1.0}, {}, "expected a positive, finite cost for batch size 1, got -1.0"),
        ({1: True}, {}, "expected a positive, finite cost for batch size 1, got True"),
        ({1: 1.0}, {2: 0.1}, r"an error is given for batch size 2, but no cost; there are costs for \[1\]"),
        ({1: 1.0}, {1: -0.1}, "expected a standard error >= 0 and finite for batch size 1, got -0.1"),
        ({1: 1.0}, {1: math.nan}, "expected a standard error >= 0 and finite for batch size 1, got nan"),
    ],
)
def test_bad_curves_are_refused(points, errors, message):
    with pytest.raises(InputError, match=message):
        curve(points, errors)


def test_a_curve_tells_nothing_of_no_rows():
    with pytest.raises(InputError, match="expected a batch size >= 1, got 0"):
        curve({1: 1.0}).of(0)


@given(tables(), st.lists(st.integers(1, 150), min_size=1, max_size=4))
@settings(deadline=None)
def test_any_number_of_rows_is_split_where_that_costs_least(points, requests):
    """Launches of the curve's sizes and at most one of another size up to the largest, or one launch of all rows."""
    costs = curve(points)
    plans = Planner(AnyBatch(), costs)
    known = least_costs(max(requests), points, exact=True)
    for rows in requests:
        ways = [costs.of(own) + known[rows - own] for own in range(1, min(rows, max(points)) + 1)]
        plan = plans.cheapest(rows)
        assert plan.cost == pytest.approx(min(known[rows], costs.of(rows), *ways), rel=3e-9)
        assert plan.cost == pytest.approx(sum(costs.of(launch.gear) for launch in plan.launches), rel=1e-12)
        assert plan.padded_rows == 0
        assert sum(launch.rows for launch in plan.launches) == rows
        assert sum(launch.gear not in points for launch in plan.launches) <= 1


def test_two_rows_that_cost_more_than_twice_one_are_run_one_by_one():
    """The figures of a report about ONNX Runtime: 203 for one row, 600 for two."""
    plans = Planner(AnyBatch(), curve({1: 203.0, 2: 600.0, 4: 1200.0}))
    assert str(plans.plan(3)) == "3 x 1"
    assert plans.plan(3).cost == 609


def test_rows_beyond_the_largest_known_size_are_one_launch_where_that_costs_least():
    plans = Planner(AnyBatch(), curve({1: 11.0, 8: 18.0, 32: 42.0}))
    assert plans.plan(100).launches == plans.cheapest(100).launches == (Launch(100, 100),)
    assert plans.plan(100).cost == 110
    assert Planner(AnyBatch(), curve({4: 4.0})).plan(10**6).launches == (Launch(10**6, 10**6),), "of equal costs, too"


def test_a_huge_request_is_split_at_the_size_that_costs_least_per_row():
    plans = Planner(AnyBatch(), curve({1: 2.0, 4: 4.0, 8: 16.0}))
    plan = plans.plan(1_000_001)
    assert plan.launches.count(Launch(4, 4)) == 250_000
    assert plan.cost == 1_000_002


def test_what_looks_cheaper_by_less_than_is_sure_is_not_done():
    points = {4: 10.0, 8: 20.6}
    sure = Planner(Gears((4, 8)), curve(points, {4: 0.05, 8: 0.05}))
    unsure = Planner(Gears((4, 8)), curve(points, {4: 0.2, 8: 0.2}))
    assert str(sure.plan(8)) == "2 x 4", "a gain of 0.6 is above three standard errors, of 0.11 each"
    assert str(unsure.plan(8)) == "8", "but not where one is 0.45"
    assert str(unsure.cheapest(8)) == "2 x 4"
    assert unsure.error_of(unsure.cheapest(8)) == pytest.approx(0.4)
    assert "2 x 4 looks 2.9% cheaper, which the estimates are too unsure to tell" in str(explain_rows(unsure, 8))
    assert explain_rows(sure, 8).unsure is None
    assert explain_rows(sure, 8).error == pytest.approx(0.1)
    assert "predicted cost 20 ± 0.2;" in str(explain_rows(sure, 8))


def test_launches_that_two_plans_share_do_not_make_their_difference_unsure():
    plans = Planner(Gears((4, 8, 64)), curve({4: 10.0, 8: 20.6, 64: 100.0}, {4: 0.05, 8: 0.05, 64: 50.0}))
    assert str(plans.plan(72)) == "64 + 2 x 4"


def test_where_the_least_cost_is_unsure_a_surer_gain_is_taken():
    # Rounding up to 16 costs 40; 8 + 1 costs 26 for sure; 3 x 3 looks like 21, but could be anything.
    plans = Planner(Gears((1, 3, 8, 16)), curve({1: 6.0, 3: 7.0, 8: 20.0, 16: 40.0}, {3: 5.0}))
    assert str(plans.cheapest(9)) == "3 x 3"
    assert str(plans.plan(9)) == "8 + 1"


def test_one_launch_is_kept_for_any_number_where_the_gain_of_splitting_is_unsure():
    points = {1: 1.0, 2: 2.1, 4: 4.0, 8: 9.0}
    assert str(Planner(AnyBatch(), curve(points, dict.fromkeys(points, 0.2))).plan(8)) == "8"
    assert str(Planner(AnyBatch(), curve(points)).plan(8)) == "2 x 4"


@given(tables(), st.integers(0, 500))
@settings(deadline=None)
def test_unsure_costs_never_plan_dearer_than_rounding_up(points, rows):
    costs = curve(points, {size: cost / 10 for size, cost in points.items()})
    plans = Planner(Gears(tuple(points)), costs)
    assert plans.plan(rows).cost <= plans.plan(rows, policy="round_up").cost * (1 + 1e-9)


def test_exact_plans_are_the_least_cost_however_unsure():
    plans = Planner(Gears((2, 4)), curve({2: 1.0, 4: 2.1}, {2: 9.0, 4: 9.0}))
    assert str(plans.plan(4, exact=True)) == "2 x 2"


def test_cost_per_request_is_tensorflows_rule_until_no_row_is_left():
    costs = {1: 1.0, 4: 3.0, 8: 4.0}
    plans = planner(costs, policy="cost_per_request")
    assert str(plans.plan(5)) == "4 + 1", "3/4 a row is less than 4/5"
    assert str(plans.plan(6)) == "8 (6 rows)", "4/6 a row is less than 3/4"
    assert str(plans.plan(19)) == "2 x 8 + 3 x 1", "1/1 a row is as much as 3/3, and then it goes down"
    assert str(plans.plan(4)) == "4"
    assert str(planner({2: 3.0, 4: 4.0}, policy="cost_per_request").plan(1)) == "2 (1 row)", "nothing lies below"


@pytest.mark.parametrize("policy", POLICIES)
def test_where_any_size_can_be_had_policies_make_launches_of_their_own_size(policy):
    plan = Planner(AnyBatch(), curve({1: 1.0, 4: 3.0, 8: 4.0}), policy).plan(13)
    assert str(plan) == ("8 + 5" if policy in ("largest_first", "one_gear") else "13")
    assert plan.padded_rows == 0


def test_multiples_lie_on_the_curve():
    assert Planner(MultipleOf(4), curve({4: 10.0, 16: 30.0})).plan(9).cost == pytest.approx(10 + 20 * 8 / 12)


def test_an_explanation_says_what_runs_took():
    told = replace(explain_rows(planner({4: 10.0}), 4), runs=3, actual=12.0)
    assert "actual 12, median of 3 runs (+20%)" in str(told)
