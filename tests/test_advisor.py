"""The advisor against exhaustive search, its budgets and ties, what it says, and every message."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybatch import AffineCosts, CurveCosts, Gears, InputError, Planner, TableCosts, _advisor, advise
from anybatch._trace import read_requests

sizes = st.lists(st.integers(1, 24), min_size=1, max_size=6, unique=True).map(sorted)
figures = st.one_of(st.floats(0.01, 100), st.integers(1, 9).map(float))
histograms = st.dictionaries(st.integers(1, 60), st.integers(1, 9), min_size=1, max_size=8)


def tables():
    return sizes.flatmap(lambda found: st.fixed_dictionaries(dict.fromkeys(found, figures)))


def expected(requests, costs, gears):
    """Return the expected cost of a request as the planner's own plans have it."""
    planner = Planner(Gears(gears), TableCosts({size: costs[size] for size in gears}))
    total = math.fsum(requests.values())
    return math.fsum(planner.plan(rows).cost * count for rows, count in requests.items()) / total


def best_sets(requests, costs, allowed=lambda _gears: True):
    """Return the least cost of each number of gears, by trying all sets."""
    best = {}
    for count in range(1, len(costs) + 1):
        for gears in itertools.combinations(sorted(costs), count):
            if allowed(gears):
                best[count] = min(best.get(count, math.inf), expected(requests, costs, gears))
    return best


@pytest.fixture
def no_exhaustion(monkeypatch):
    monkeypatch.setattr(_advisor, "_WORK_EXHAUSTIVE", 0)


# ------------------------------------------------------------------------------------------------------------- the optimum


@given(tables(), histograms, st.integers(1, 6))
@settings(deadline=None)
def test_equals_exhaustive_search(costs, requests, most):
    advice = advise(requests, costs, candidates=costs, max_gears=most)
    best = best_sets(requests, costs, lambda gears: len(gears) <= most)
    assert advice.cost == pytest.approx(min(best.values()), rel=1e-8)
    assert advice.cost == pytest.approx(expected(requests, costs, advice.gears), rel=1e-12)
    assert advice.optimal and advice.gap == 0
    for choice in advice.curve:
        assert choice.cost == pytest.approx(best[len(choice.gears)], rel=1e-8)
    # Ties: no smaller set is as cheap, and none of the same number has a smaller largest gear.
    for count in range(1, len(advice.gears) + 1):
        for gears in itertools.combinations(sorted(costs), count):
            if count < len(advice.gears) or max(gears) < max(advice.gears):
                assert expected(requests, costs, gears) > advice.cost * (1 + 1e-10)


@given(tables(), histograms, st.data())
@settings(deadline=None)
def test_equals_exhaustive_search_within_budgets(costs, requests, data):
    seconds = data.draw(st.fixed_dictionaries(dict.fromkeys(costs, st.floats(1, 10))))
    budget = data.draw(st.floats(1, 40))
    rows = data.draw(st.integers(1, 30))

    def allowed(gears):
        return max(gears) <= rows and math.fsum(seconds[size] for size in gears) <= budget

    best = best_sets(requests, costs, allowed)
    options = {"max_compile_s": budget, "compile_s": seconds, "max_memory_bytes": 100 + 8 * rows, "bytes_per_row": 8}
    if not best:
        with pytest.raises(InputError, match="^(memory|compile time) binds: "):
            advise(requests, costs, candidates=costs, bytes_fixed=100, **options)
        return
    advice = advise(requests, costs, candidates=costs, bytes_fixed=100, **options)
    assert allowed(advice.gears)
    assert advice.cost == pytest.approx(min(best.values()), rel=1e-8)
    assert advice.compile_s == pytest.approx(math.fsum(seconds[size] for size in advice.gears))
    assert advice.memory_bytes == 100 + 8 * max(advice.gears)


@given(tables(), histograms, st.integers(1, 4), st.none() | st.floats(1, 4))
@settings(deadline=None)
def test_search_is_near_the_optimum_and_the_bound_below_it(costs, requests, most, time):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_advisor, "_WORK_EXHAUSTIVE", 0)
        advice = advise(requests, costs, candidates=costs, max_gears=most, max_compile_s=time, compile_s=1.0)
    best = best_sets(requests, costs, lambda gears: len(gears) <= min(most, time or most))
    least = min(best.values())
    assert least * (1 - 1e-9) <= advice.cost <= least * 1.01
    assert advice.lower_bound <= least * (1 + 1e-9)
    assert 0 <= advice.gap < 1


@pytest.mark.parametrize("overhead", [0.5, 2, 16])
@pytest.mark.parametrize("seed", range(3))
def test_search_finds_what_exhaustive_search_finds(overhead, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    candidates = sorted(int(size) for size in rng.choice(np.arange(1, 129), 16, replace=False))
    requests = np.clip(rng.lognormal(3, 1, 400), 1, 400).astype(int)
    costs = {size: float((overhead + size) * rng.uniform(0.9, 1.1)) for size in candidates}
    best = advise(requests, costs, candidates=candidates, max_gears=4)
    monkeypatch.setattr(_advisor, "_WORK_EXHAUSTIVE", 0)
    found = advise(requests, costs, candidates=candidates, max_gears=4)
    assert best.optimal
    assert found.cost == pytest.approx(best.cost, rel=1e-9)  # 1 % is what is promised
    assert found.lower_bound <= best.cost * (1 + 1e-9)
    assert found.gap < 0.15


@given(tables(), st.dictionaries(st.integers(1, 5000), st.integers(1, 9), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_lower_bound_is_one(costs, requests, data):
    """Whatever it aims at, and however unlike the times to compile are."""
    seconds = data.draw(st.none() | st.fixed_dictionaries(dict.fromkeys(costs, st.floats(1, 10))))
    most, time = data.draw(st.integers(1, 6)), data.draw(st.floats(10, 40))
    budgets = _advisor._Budgets.of(
        tuple(sorted(costs)),
        min_gears=None,
        max_gears=most,
        gear_limits=(1, None),
        max_compile_s=time if seconds else None,
        compile_s=seconds,
        max_memory_bytes=None,
        bytes_per_row=None,
        bytes_fixed=0,
    )
    total = sum(requests.values())
    tables = _advisor._Tables({rows: count / total for rows, count in requests.items()}, costs)
    best = best_sets(requests, costs, lambda gears: len(gears) <= most and budgets.in_time(gears))
    for aim in (max(costs, key=costs.__getitem__), min(costs, key=costs.__getitem__)):
        bound = _advisor._lower_bound(tables, budgets, (aim,), lambda _share: None)
        assert 0 < bound <= min(best.values()) * (1 + 1e-9)


@given(tables(), histograms, st.data())
@settings(deadline=None)
def test_search_stays_in_time(costs, requests, data):
    seconds = data.draw(st.fixed_dictionaries(dict.fromkeys(costs, st.floats(1, 10))))
    time = data.draw(st.floats(10, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_advisor, "_WORK_EXHAUSTIVE", 0)
        advice = advise(requests, costs, candidates=costs, max_compile_s=time, compile_s=seconds)
    for choice in advice.curve:
        assert math.fsum(seconds[size] for size in choice.gears) <= time * (1 + 1e-8)
    best = best_sets(requests, costs, lambda gears: math.fsum(seconds[size] for size in gears) <= time)
    assert set(range(1, len(advice.gears) + 1)) == {len(choice.gears) for choice in advice.curve} <= set(best)
    assert min(best.values()) * (1 - 1e-9) <= advice.cost


def test_bound_of_grouped_requests_stays_below(no_exhaustion, monkeypatch):
    requests = dict.fromkeys(range(1, 200), 1)
    monkeypatch.setattr(_advisor, "_GROUPS", 7)
    grouped = advise(requests, AffineCosts(4, 1), candidates=[8, 32, 50, 64, 99], max_gears=2)
    best = best_sets(requests, {size: 4.0 + size for size in (8, 32, 50, 64, 99)}, lambda gears: len(gears) <= 2)
    assert 0 < grouped.lower_bound < min(best.values())
    monkeypatch.setattr(_advisor, "_GROUPS", 1000)
    finer = advise(requests, AffineCosts(4, 1), candidates=[8, 32, 50, 64, 99], max_gears=2)
    assert grouped.lower_bound < finer.lower_bound <= min(best.values()) * (1 + 1e-9)


@given(tables(), st.lists(st.integers(1, 5000), min_size=1, max_size=5))
@settings(deadline=None)
def test_tables_are_the_planners(costs, rows):
    """Also in any order of gears, with a common divisor, and for requests far beyond the table."""
    shares = {number: 1 / len(set(rows)) for number in rows}
    for scale in (1, 6):
        scaled = {size * scale: cost for size, cost in costs.items()}
        tables = _advisor._Tables(shares, scaled)
        assert tables.exact
        for order in (list(scaled), list(scaled)[::-1]):
            table = tables.add_all(tables.empty(), order)
            assert tables.cost(table) == pytest.approx(expected(shares, scaled, tuple(scaled)), rel=1e-9)
        for size, rest in tables.without_each(tables.empty(), tuple(scaled)):
            others = tuple(other for other in scaled if other != size)
            if others:
                assert tables.cost(rest) == pytest.approx(expected(shares, scaled, others), rel=1e-9)


def test_splitting_is_counted_on():
    # Rounding up, 96 would need a gear of its own; two launches of 48 cost as much, and serve 48 as well.
    advice = advise({48: 1, 96: 1}, AffineCosts(0.001, 1), candidates=[48, 96], max_gears=1)
    assert advice.gears == (48,)
    assert advice.uses[0].launches == pytest.approx(1.5)


def test_requests_far_beyond_any_table(no_exhaustion):
    costs = {size: 8.0 + size for size in range(1, 101)}
    advice = advise({1: 5, 10**9: 1, 123_456_789: 2}, AffineCosts(8, 1), candidates=costs, max_gears=5)
    assert 100 in advice.gears  # the cheapest per row: all but the end of a large request is launches of it
    near = {10**9: 10**9 % 100 + 10_000, 123_456_789: 123_456_789 % 100 + 10_000}
    ends = {rows: expected({end: 1}, costs, advice.gears) + (rows - end) // 100 * costs[100] for rows, end in near.items()}
    assert advice.cost == pytest.approx((5 * expected({1: 1}, costs, advice.gears) + ends[10**9] + 2 * ends[123_456_789]) / 8)
    assert advice.cost * 0.999 < advice.lower_bound <= advice.cost


def test_exact_where_the_table_is_too_short_to_tell():
    # 20 launches of 2,048; what is cheaper per row takes 21, and the table ends before it could show that.
    costs = {1999: 1999.0, 2048: 2048.5}
    advice = advise({40_960: 1}, costs, candidates=costs)
    least = expected({40_960: 1}, costs, (1999, 2048))
    tables = _advisor._Tables({40_960: 1.0}, costs)
    table = tables.add_all(tables.empty(), costs)
    assert not tables.exact and not tables.is_periodic(table)
    assert tables.cost(table) > least * 1.001
    assert advice.cost == pytest.approx(least, rel=1e-12)
    assert advice.lower_bound <= least * (1 + 1e-9) and not advice.optimal  # all sets were tried, but by such tables


@given(tables(), histograms)
@settings(deadline=None)
def test_starts_are_the_best_sets_without_splitting(costs, requests):
    def rounded_up(gears):
        whole = {rows: (rows - 1) // max(gears) for rows in requests}
        rest = {rows: min(gear for gear in gears if gear >= rows - whole[rows] * max(gears)) for rows in requests}
        return math.fsum(count * (whole[rows] * costs[max(gears)] + costs[rest[rows]]) for rows, count in requests.items())

    found = list(_advisor._best_for_rounding_up(requests, costs, len(costs)))
    assert [len(gears) for gears in found] == list(range(1, len(costs) + 1))
    for gears in found:
        best = min(rounded_up(others) for others in itertools.combinations(sorted(costs), len(gears)))
        assert rounded_up(gears) == pytest.approx(best)


def test_same_answer_every_time(no_exhaustion):
    requests = np.random.default_rng(5).integers(1, 300, 500)
    assert advise(requests, max_gears=5) == advise(requests, max_gears=5)


def test_search_stops_at_its_bound(no_exhaustion, monkeypatch):
    requests = range(1, 200)
    full = advise(requests, max_gears=6)
    monkeypatch.setattr(_advisor, "_WORK_SEARCH", 0)
    cut = advise(requests, max_gears=6)
    assert cut.cost >= full.cost and len(cut.curve) == 6
    assert cut.lower_bound <= full.cost


# ----------------------------------------------------------------------------------------------------------------- budgets


def test_ties_go_to_fewer_gears_then_to_the_smaller_largest():
    # 7 rows fit 8 and 16, which cost the same.
    assert advise({7: 1}, {8: 5.0, 16: 5.0}, candidates=[8, 16]).gears == (8,)
    assert advise({7: 1}, {8: 5.0, 16: 5.0}, candidates=[8, 16], min_gears=2).gears == (8, 16)


@pytest.mark.parametrize("work", [0, math.inf])
def test_ties_of_as_many_gears_go_to_the_smaller_largest(work, monkeypatch):
    monkeypatch.setattr(_advisor, "_WORK_EXHAUSTIVE", work)
    costs = {2: 4.0, 7: 5.0, 9: 7.0, 10: 7.0}  # 2 and 10 cost as much, and come first
    assert advise([1, 9, 12], costs, candidates=costs, max_gears=2).gears == (7, 9)


def test_least_number_of_gears():
    assert len(advise({4: 1}, candidates=[1, 2, 4], min_gears=2).gears) == 2
    assert len(advise({4: 1}, candidates=[1, 2, 4], gear_limits=(3, 100)).gears) == 3


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ({"max_gears": 2}, "max_gears"),
        ({"gear_limits": (1, 2)}, "backend_gears"),
        ({"max_compile_s": 25, "compile_s": 10}, "max_compile_s"),
        ({"max_memory_bytes": 32, "bytes_per_row": 8}, "max_memory_bytes"),
    ],
)
def test_says_which_budget_binds(options, budget):
    requests, candidates = {1: 1, 4: 1, 16: 1}, [1, 4, 16]
    advice = advise(requests, AffineCosts(10, 1), candidates=candidates, **options)
    assert list(advice.binding) == [budget]
    assert advice.binding[budget] > 0.01
    assert _advisor._BUDGETS[budget] in str(advice)
    every = next(choice for choice in advice.alternatives if choice.name == "every candidate")
    assert every.violates == (budget,)
    assert advise(requests, AffineCosts(10, 1), candidates=candidates).binding == {}


def test_the_default_limit_is_a_budget_that_is_named():
    advice = advise(range(1, 101), AffineCosts(50, 1), candidates=range(1, 101))
    assert len(advice.gears) == 16
    assert list(advice.binding) == ["default_gears"]
    assert len(advise(range(1, 41), AffineCosts(50, 1), max_compile_s=100, compile_s=5).gears) == 20


def test_compile_time_by_size():
    options = {"candidates": [1, 2, 64], "max_compile_s": 20}
    costs = AffineCosts(100, 1)
    assert 64 not in advise({64: 1}, costs, compile_s=AffineCosts(1, 1), **options).gears
    assert advise({64: 1}, costs, compile_s=AffineCosts(1, 0.1), **options).gears == (64,)
    # Half way between the two sizes that were told.
    assert advise({64: 1}, costs, candidates=[64], compile_s={28: 10, 100: 20}, max_compile_s=20).compile_s == 15


@pytest.mark.parametrize("work", [0, math.inf])
def test_no_gear_is_swapped_for_one_that_takes_too_long(work, monkeypatch):
    monkeypatch.setattr(_advisor, "_WORK_EXHAUSTIVE", work)
    seconds = {1: 5, 8: 5, 64: 8}
    advice = advise({1: 5, 64: 1}, AffineCosts(10, 1), candidates=seconds, compile_s=seconds, max_compile_s=12, min_gears=2)
    assert advice.gears == (1, 8)
    assert advice.binding == {"max_compile_s": pytest.approx(1 - (5 * 11 + 74) / (5 * 11 + 8 * 18))}


def test_as_many_gears_as_the_quickest_allow():
    seconds = {1: 2, 2: 1, 4: 1}
    assert advise({4: 1}, candidates=seconds, compile_s=seconds, max_compile_s=2, min_gears=2).gears == (2, 4)


def test_a_budget_binds_only_where_it_alone_is_in_the_way():
    both = advise({1: 1, 8: 1}, candidates=[1, 8], max_gears=1, compile_s=10, max_compile_s=10)
    assert len(both.gears) == 1 and both.binding == {}


def test_a_budget_is_not_missed_by_rounding():
    assert len(advise({1: 1, 2: 1, 4: 1}, AffineCosts(50), candidates=[1, 2, 4], compile_s=0.1, max_compile_s=0.3).gears) == 3


def test_tolerance_takes_fewer_gears():
    requests = range(1, 65)
    whole = advise(requests, candidates=[1, 2, 4, 8, 16, 32, 64])
    fewer = advise(requests, candidates=[1, 2, 4, 8, 16, 32, 64], tolerance=0.05)
    assert len(fewer.gears) < len(whole.gears)
    assert whole.cost < fewer.cost <= whole.cost * 1.05
    assert not fewer.optimal and fewer.gap == pytest.approx(1 - whole.cost / fewer.cost)


# --------------------------------------------------------------------------------------------------------- what it tells


def test_alternatives_and_curve():
    requests = {3: 2, 10: 1, 33: 1}
    advice = advise(requests, AffineCosts(4, 1), current=[1, 8], max_gears=3)
    named = {choice.name: choice for choice in advice.alternatives}
    assert list(named) == ["compiled now", "powers of two", "one gear", "every candidate"]
    assert named["compiled now"].gears == (1, 8)
    assert named["compiled now"].cost == pytest.approx(expected(requests, {1: 5.0, 8: 12.0}, (1, 8)))
    assert named["powers of two"].gears == (1, 2, 4, 8, 16, 32)
    assert named["powers of two"].violates == ("max_gears",)
    assert named["one gear"].gears == advice.curve[0].gears
    assert named["every candidate"].gears == advice.candidates
    assert [len(choice.gears) for choice in advice.curve] == [1, 2, 3]
    costs = [choice.cost for choice in advice.curve]
    assert costs == sorted(costs, reverse=True) and costs[-1] == advice.cost
    assert advice.cost_per_row == pytest.approx(advice.cost / ((3 * 2 + 10 + 33) / 4))
    assert (advice.requests, advice.rows) == (4, 49)


def test_the_curve_ends_where_more_gears_save_nothing():
    advice = advise({4: 3, 8: 1}, candidates=[1, 2, 4, 8])
    assert advice.gears == (4, 8)
    assert [choice.name for choice in advice.curve] == ["1 gear", "2 gears"]


def test_tells_whose_costs_are_estimates():
    table = TableCosts({4: 5.0, 16: 20.0}, source="a stopwatch", unit="ms")
    advice = advise({2: 1, 8: 1, 16: 1, 32: 1}, table, candidates=[2, 8, 16, 32], min_gears=4)
    assert {use.size: use.provenance for use in advice.uses} == {
        2: "extrapolated",
        8: "interpolated",
        16: "given",
        32: "extrapolated",
    }
    assert {use.size: use.cost for use in advice.uses}[8] == pytest.approx(10.0)
    assert math.fsum(use.share for use in advice.uses) == pytest.approx(1)
    assert advice.estimated_share == pytest.approx(1 - 20 / (advice.cost * 4))
    text = str(advice)
    assert "estimated, since nobody measured [2, 8, 32]" in text
    assert "costs: a stopwatch" in text and " ms per request" in text
    modelled = advise({2: 1}, AffineCosts())
    assert {use.provenance for use in modelled.uses} == {"modelled"} and modelled.estimated_share == 0
    assert "affine prior, nothing measured" in str(modelled)


def test_lines_to_use():
    advice = advise({1: 5, 16: 5}, candidates=[1, 4, 16])
    assert advice.compiler_line == "--dynamic_batch_size=1,16"
    assert advice.batch_sizes_line == "batch_sizes=[1, 16]"
    assert advice.compiler_line in str(advice) and "the least possible" in str(advice)
    assert advise({16: 5}, candidates=[16]).compiler_line is None  # one size is no gear but a fixed shape


def test_says_how_far_it_may_be_from_the_best(no_exhaustion):
    advice = advise(range(1, 101), AffineCosts(16, 1), max_gears=4)
    assert 0 < advice.gap < 0.05
    assert f"no set of gears costs over {advice.gap:.2%} less" in str(advice)


def test_proposes_what_is_known_and_what_is_requested():
    candidates = advise({3: 1, 50: 1, 90: 4}, CurveCosts({5: 6.0, 200: 210.0})).candidates
    assert {1, 3, 5, 50, 64, 90, 200} <= set(candidates)
    assert len(candidates) <= 100
    assert max(advise(range(1, 10_001, 7)).candidates) == 2048
    many = advise(range(1, 3001), CurveCosts({size: float(size) for size in range(1, 3001)}), max_gears=1).candidates
    assert len(many) <= 100


def test_proposals_lie_within_the_memory():
    advice = advise(range(1, 2001), max_memory_bytes=1000, bytes_per_row=10, bytes_fixed=200, max_gears=4)
    assert max(advice.gears) == 80
    assert len([size for size in advice.candidates if size <= 80]) > 70
    assert advice.binding["max_memory_bytes"] > 0


def test_progress_goes_up_to_the_whole(no_exhaustion):
    seen = []
    advise(range(1, 60), max_gears=3, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) > 5


# ------------------------------------------------------------------------------------------------------------------ requests


@pytest.mark.parametrize(
    "requests",
    [
        {4: 2, 1: 1},
        [4, 1, 4],
        np.array([4, 1, 4]),
        iter((4, 4, 1)),
        SimpleNamespace(sizes={0: 9, 4: 2, 1: 1}),
        {4: 2, 1: 1, 7: 0},
    ],
    ids=["mapping", "list", "array", "iterator", "stats", "zero count"],
)
def test_requests_of_every_kind(requests):
    assert read_requests(requests) == {1: 1, 4: 2}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "4\n1\n4\n"),
        ("t.csv", "rows\n4\n1\n\n4"),
        ("t.csv", "\ufeffRows, Count\r\n4, 2\r\n1,1\r\n"),
        ("t.txt", "4,1\n1,1\n4,1\n"),
        ("t.csv", '"rows","count"\n"4","2"\n1,1.0\n'),
        ("t.json", "[4, 1, 4]"),
        ("t.json", '{"1": 1, "4": 2}'),
        ("t.JSON", '{"requests": 4, "rows": 9, "sizes": {"0": 1, "1": 1, "4": 2}}'),
    ],
)
def test_files_of_every_kind(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_requests(path) == {1: 1, 4: 2} == read_requests(str(path))
    assert list(read_requests(path)) == [1, 4]


def test_a_long_trace_is_read(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("rows\n" + "\n".join(str(1 + index % 1000) for index in range(200_000)))
    assert read_requests(path) == dict.fromkeys(range(1, 1001), 200)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "t.csv: expected at least one request, got none"),
        ("t.csv", "rows\n", "t.csv: expected at least one request, got none"),
        ("t.csv", "rows\n4\n0\n", "t.csv, line 3: expected requests of 1 to 1,000,000,000 rows, got 0"),
        ("t.csv", "4\n-3\n", "t.csv, line 2: expected requests of 1 to 1,000,000,000 rows, got -3"),
        ("t.csv", "4\n10000000000\n", "t.csv, line 2: expected requests of 1 to 1,000,000,000 rows, got 10000000000"),
        ("t.csv", "rows,count\n4,-1\n", "t.csv, line 2: expected a count from 0 to 1e+18 of requests of 4 rows, got -1.0"),
        ("t.csv", "4,nan\n", "t.csv, line 1: expected a count from 0 to 1e+18 of requests of 4 rows, got nan"),
        ("t.csv", "4,1\n5\n", "t.csv, line 2: expected rows,count, got '5'"),
        ("t.csv", "4\n5,1\n", "t.csv, line 2: expected rows, got '5,1'"),
        ("t.csv", "1,2,3\n", "t.csv, line 1: expected rows,count, got '1,2,3'"),
        ("t.csv", "4\nmany\n", "t.csv, line 2: expected numbers, got 'many'"),
        ("t.csv", "4.5\n", "t.csv, line 1: expected numbers, got '4.5'"),
        (
            "t.csv",
            "size,n\n4,1\n",
            "t.csv, line 1: expected rows, or rows and count, perhaps below the header 'rows' or 'rows,count', got 'size,n'",
        ),
        ("t.csv", "4\n" + "9" * 5000, "t.csv, line 2: expected numbers, got '" + "9" * 56 + "..."),
        ("t.csv", "x" * 200_000, "t.csv, line 1: expected CSV, but field larger than field limit (131072)"),
        ("t.json", "[]", "t.json: expected at least one request, got none"),
        ("t.json", "[4, 0]", "t.json: expected requests of 1 to 1,000,000,000 rows, got 0"),
        ("t.json", '{"0": 3, "4": 1}', "t.json: expected requests of 1 to 1,000,000,000 rows, got 0"),
        ("t.json", "[4, 2.5]", "t.json: expected requests of 1 to 1,000,000,000 rows, got 2.5"),
        ("t.json", "[true]", "t.json: expected requests of 1 to 1,000,000,000 rows, got True"),
        ("t.json", "[[4, 1]]", "t.json: expected a list of rows, one for each request; unhashable type: 'list'"),
        ("t.json", '{"4": "x"}', "t.json: expected a count from 0 to 1e+18 of requests of 4 rows, got 'x'"),
        ("t.json", "7", "t.json: expected a list of rows or an object of counts by rows, got 7"),
        (
            "t.json",
            '{"requests": 4}',
            "t.json: expected a number of rows for each count, such as {\"4\": 120}, got 'requests'; "
            'the stats of a runner have them under "sizes"',
        ),
        (
            "t.json",
            "{4",
            "t.json: expected JSON, but Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        advise(path)
    assert str(caught.value) == f"{tmp_path}/{message}" or str(caught.value).startswith(f"{tmp_path}/{message}")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="missing.csv: cannot be read: No such file"):
        advise(tmp_path / "missing.csv")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        advise(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe4\0")
    with pytest.raises(InputError, match="binary.csv: expected text in UTF-8, but 'utf-8' codec"):
        advise(tmp_path / "binary.csv")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="deep.json: expected JSON, but"):
        advise(tmp_path / "deep.json")


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (
            None,
            "^expected requests as a mapping of rows to counts, a list of rows, a runner's stats, or a file of one of these, ",
        ),
        (b"4,1", "^expected requests as a mapping"),
        ([], "^the requests: expected at least one request, got none"),
        ({4: 0}, "^the requests: expected at least one request, got none"),
        (SimpleNamespace(sizes={0: 3}), "^the stats: expected at least one request, got none"),
        ([0], "^the requests: expected requests of 1 to 1,000,000,000 rows, got 0"),
        ({-1: 2}, "^the requests: expected requests of 1 to 1,000,000,000 rows, got -1"),
        ({4: math.inf}, "^the requests: expected a count from 0 to 1e\\+18 of requests of 4 rows, got inf"),
        ({4: -2}, "got -2"),
        ({4: True}, "got True"),
        (np.ones((2, 2), int), "^the requests: expected one number of rows for each request, got an array of shape \\(2, 2\\)"),
        (np.array([1.5]), "got 1.5"),
    ],
)
def test_bad_requests(requests, message):
    with pytest.raises(InputError, match=message):
        advise(requests)


# ----------------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"costs": "cheap"}, "^expected costs such as AffineCosts or CurveCosts, or a mapping of sizes to costs, got 'cheap'"),
        ({"costs": {4: -1.0}}, "^expected a positive, finite cost for batch size 4"),
        ({"costs": {4: math.nan}}, "^expected a positive, finite cost for batch size 4"),
        ({"candidates": []}, "^expected at least one batch size, got none"),
        ({"candidates": [0]}, "^expected batch sizes to be ints of at least 1, got 0"),
        ({"candidates": [2_000_000]}, "^expected candidates up to 1,000,000 rows, got 2,000,000"),
        ({"current": [4, 4]}, "^expected each batch size once"),
        ({"max_gears": 0}, "^expected max_gears to be an int of at least 1, got 0"),
        ({"max_gears": 2.0}, "^expected max_gears to be an int of at least 1, got 2.0"),
        ({"min_gears": True}, "^expected min_gears to be an int of at least 1, got True"),
        ({"gear_limits": (0, None)}, "^expected the lower of gear_limits to be an int of at least 1, got 0"),
        ({"tolerance": 1}, "^expected a tolerance from 0 to below 1, got 1"),
        ({"tolerance": math.nan}, "^expected tolerance to be a finite number, got nan"),
        ({"max_memory_bytes": 100}, "^max_memory_bytes needs bytes_per_row"),
        ({"bytes_per_row": -1}, "^expected bytes_per_row to be 0 or more, got -1"),
        ({"max_compile_s": 100}, "^max_compile_s needs compile_s"),
        ({"max_compile_s": math.inf, "compile_s": 1}, "^expected max_compile_s to be a finite number, got inf"),
        ({"compile_s": -1}, "^expected compile_s to be 0 or more, got -1"),
        ({"compile_s": "long"}, "^expected compile_s to be a finite number, got 'long'"),
        ({"compile_s": {4: 0}}, "^expected a positive, finite cost for batch size 4"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        advise({4: 1}, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gears": 2, "min_gears": 3}, "^the number of gears binds: at most 2, but min_gears is 3$"),
        (
            {"max_gears": 1, "gear_limits": (2, 100)},
            "^the number of gears binds: at most 1, but the backend's least number .* is 2$",
        ),
        ({"gear_limits": (1, 1), "min_gears": 2}, "^the backend's limit of gears binds: at most 1, but min_gears is 2$"),
        ({"min_gears": 4}, r"^expected at least 4 candidates for as many gears, got 3: \[4, 8, 16\]$"),
        (
            {"max_memory_bytes": 1000, "bytes_per_row": 250, "bytes_fixed": 100},
            r"^memory binds: the smallest candidate needs 1,100 bytes \(100 and 250 for each of 4 rows\), max_memory_bytes is",
        ),
        (
            {"max_memory_bytes": 1000, "bytes_per_row": 250, "min_gears": 2},
            "^memory binds: the 2 smallest candidates need 2,000 bytes",
        ),
        ({"max_compile_s": 9, "compile_s": 10}, "^compile time binds: the quickest gear takes 10 s, max_compile_s is 9$"),
        (
            {"max_compile_s": 9, "compile_s": {4: 5, 8: 8, 16: 16}, "min_gears": 2},
            "^compile time binds: the 2 quickest gears take 13 s, max_compile_s is 9$",
        ),
        (
            {"max_compile_s": 8, "compile_s": {4: 10, 16: 5}, "max_memory_bytes": 8, "bytes_per_row": 1},
            "^compile time binds: the quickest gear of the 2 that memory allows takes 8.33333 s, max_compile_s is 8$",
        ),
    ],
)
def test_budgets_that_nothing_meets(options, message):
    with pytest.raises(InputError, match=message):
        advise({4: 1}, candidates=[4, 8, 16], **options)


def test_advice_of_a_real_file_is_the_same_as_of_its_numbers(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({str(rows): rows % 5 + 1 for rows in range(1, 40)}))
    assert advise(path, max_gears=3) == advise({rows: rows % 5 + 1 for rows in range(1, 40)}, max_gears=3)
