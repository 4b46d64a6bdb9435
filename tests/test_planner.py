"""The planner against brute force, its policies, its ties, and every message."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch import (
    POLICIES,
    AffineCosts,
    AnyBatch,
    Gears,
    InputError,
    Launch,
    MultipleOf,
    Planner,
    TableCosts,
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
