"""Charts: what they show, as data, as figures, as files and with characters."""

import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from anybatch import (
    POLICIES,
    AffineCosts,
    AnyBatch,
    CurveCosts,
    Gears,
    InputError,
    MissingPackageError,
    MultipleOf,
    Planner,
    TableCosts,
)
from anybatch.plots import Chart, Panel, Series, advice_chart, check_file, cost_chart, policy_chart

TABLE = {1: 1.97, 4: 3.62, 8: 4.83, 16: 7.88, 24: 11.83}
CURVE = CurveCosts({1: 2.0, 4: 3.5, 8: 5.0}, {1: 0.25, 8: 0.5}, source="measured in a test", unit="ms")


@pytest.fixture
def planner():
    return Planner(Gears(tuple(TABLE)), TableCosts(TABLE, unit="ms"))


@pytest.fixture
def policies(planner):
    return policy_chart(planner)


def by_label(panel):
    series = {each.label: each for each in panel.series}
    assert len(series) == len(panel.series)
    return series


def small_chart(*series, log=False):
    return Chart("A title", "a note", "rows", (Panel("cost [ms]", series or (Series("one", (1, 2, 3), (1, 2, 4)),), log),))


def texts_of(svg):
    return ["".join(element.itertext()).strip() for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


# ------------------------------------------------------------------------------------------------------------- policies


def test_each_policy_has_its_costs_over_all_rows_in_total_and_per_row(planner, policies):
    total, per_row = map(by_label, policies.panels)
    assert set(total) == set(per_row) == set(POLICIES)
    for policy in POLICIES:
        assert total[policy].x == per_row[policy].x == tuple(range(1, 49))
        costs = [planner.plan(n, policy=policy).cost for n in range(1, 49)]
        assert list(total[policy].y) == costs
        assert per_row[policy].y == pytest.approx([cost / n for n, cost in enumerate(costs, 1)])
        assert not total[policy].errors
        assert total[policy].kind == "steps"


def test_it_says_what_is_shown_in_which_unit_and_where_costs_come_from(policies):
    assert policies.title == "What a request costs on gears 1, 4, 8, 16, 24"
    assert policies.note == "in force: least_cost; costs: given by the caller"
    assert policies.x_label == "rows of the request"
    assert [(panel.y_label, panel.log) for panel in policies.panels] == [("cost [ms]", False), ("cost per row [ms]", True)]
    unitless = policy_chart(Planner(Gears((1, 4))))
    assert [panel.y_label for panel in unitless.panels] == ["cost", "cost per row"]


def test_the_policy_in_force_comes_first_and_keeps_its_look(planner):
    chart = policy_chart(Planner(planner.batching, planner.costs, "nearest"))
    for panel in chart.panels:
        assert [series.label for series in panel.series] == ["nearest", *(each for each in POLICIES if each != "nearest")]
        assert [series.look for series in panel.series] == [POLICIES.index(series.label) for series in panel.series]
    assert chart.note.startswith("in force: nearest;")


def test_equal_policies_share_a_curve():
    assert [series.label for series in policy_chart(Planner(MultipleOf(4))).panels[0].series] == ["all policies"]
    any_size = policy_chart(Planner(AnyBatch(), CurveCosts({1: 2.0, 4: 3.6, 8: 5.0, 16: 20.0}))).panels[1]
    assert [series.label for series in any_size.series] == [
        "least_cost",
        "round_up, nearest, cost_per_request",
        "largest_first, one_gear",
    ]


def test_costs_that_differ_by_rounding_share_a_curve(monkeypatch):
    plan = Planner.plan

    def rounded(self, rows, *, policy=None):
        planned = plan(self, rows, policy="round_up")
        return replace(planned, cost=planned.cost * (1 + 1e-15 * (policy == "nearest") + 1e-6 * (policy == "one_gear")))

    monkeypatch.setattr(Planner, "plan", rounded)
    labels = [series.label for series in policy_chart(Planner(Gears((1, 4)))).panels[0].series]
    assert labels == ["least_cost, round_up, largest_first, nearest, cost_per_request", "one_gear"]


def test_a_band_is_around_the_policy_in_force_where_costs_know_errors():
    planner = Planner(Gears((1, 4, 8)), CURVE)
    chart = policy_chart(planner, 20)
    for panel, divide in zip(chart.panels, (lambda n: 1, lambda n: n), strict=True):
        first, *others = panel.series
        expected = [2 * planner.error_of(planner.plan(n)) / divide(n) for n in range(1, 21)]
        assert first.errors == pytest.approx(expected)
        assert max(first.errors) > 0
        assert not any(series.errors for series in others)
    assert chart.note.endswith("; band: 2 standard errors")


@pytest.mark.parametrize(
    ("planner", "rows"),
    [
        (Planner(Gears((1, 3, 10))), 20),
        (Planner(MultipleOf(6)), 12),
        (Planner(AnyBatch()), 64),
        (Planner(AnyBatch(), CURVE), 16),
        (Planner(Gears((8000,))), 10_000),
    ],
)
def test_without_a_number_rows_go_to_twice_the_largest_size(planner, rows):
    assert policy_chart(planner).panels[0].series[0].x[-1] == rows


@pytest.mark.parametrize("up_to", [0, -3, 10_001, 2.5, True, "8"])
def test_a_number_of_rows_that_does_not_fit(planner, up_to):
    with pytest.raises(InputError, match=re.escape(f"as an int of 1 to 10,000, got {up_to!r}")):
        policy_chart(planner, up_to)


def test_one_row_can_be_charted(planner):
    chart = policy_chart(planner, 1)
    assert chart.panels[0].series[0].label.startswith("least_cost")
    assert "rows of the request" in chart.text()
    chart.figure()


def test_many_gears_are_summed_up_in_the_title():
    assert policy_chart(Planner(Gears(tuple(range(1, 41))))).title == "What a request costs on 40 gears from 1 to 40"


# ---------------------------------------------------------------------------------------------------------------- costs


def test_known_costs_are_points_with_bars_and_a_line_joins_what_is_estimated():
    chart = cost_chart(CURVE)
    assert (chart.title, chart.note, chart.x_label) == (
        "What a launch costs",
        "costs: measured in a test",
        "rows of the launch",
    )
    whole, per_row = map(by_label, chart.panels)
    known = whole["known, with 2 standard errors"]
    assert (known.kind, known.x, known.y, known.errors) == ("points", (1, 4, 8), (2.0, 3.5, 5.0), (0.5, 0.0, 1.0))
    line = whole["estimated between"]
    assert (line.kind, line.x) == ("line", tuple(range(1, 9)))
    assert line.y == tuple(CURVE.of(size) for size in range(1, 9))
    known = per_row["known, with 2 standard errors"]
    assert (known.y, known.errors) == ((2.0, 3.5 / 4, 5.0 / 8), (0.5, 0.0, 1.0 / 8))
    assert per_row["estimated between"].y == tuple(CURVE.of(size) / size for size in range(1, 9))


def test_sizes_that_nobody_measured_are_said_to_be_estimated():
    whole = by_label(cost_chart(CurveCosts({1: 2.0, 4: 3.5, 8: 5.0}), [1, 2, 8, 12]).panels[0])
    assert (whole["known"].x, whole["estimated"].x, whole["estimated between"].x[-1]) == ((1, 8), (2, 12), 12)
    assert whole["estimated"].y == (2.5, 6.5)
    assert whole["known"].look != whole["estimated"].look


def test_a_table_is_points_only():
    (known,) = cost_chart(TableCosts(TABLE)).panels[0].series
    assert (known.label, known.x, known.y, known.errors) == ("known", tuple(TABLE), tuple(TABLE.values()), ())


def test_a_prior_knows_nothing():
    whole = by_label(cost_chart(AffineCosts(2.0, 1.0), (1, 8)).panels[0])
    assert set(whole) == {"estimated", "estimated between"}
    assert whole["estimated"].y == (3.0, 10.0)
    with pytest.raises(InputError, match="say which sizes to show"):
        cost_chart(AffineCosts())


def test_a_line_over_many_sizes_stays_short_and_meets_its_points():
    series = by_label(cost_chart(CurveCosts({1: 1.0, 77_777: 3.0, 1_000_000: 900.0})).panels[0])
    assert len(series["estimated between"].x) < 1_100
    assert set(series["known"].x) <= set(series["estimated between"].x)


@pytest.mark.parametrize(("sizes", "message"), [([2], "no cost for batch size 2"), ([], "at least one"), ([0], "at least 1")])
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(InputError, match=message):
        cost_chart(TableCosts(TABLE), sizes)


# --------------------------------------------------------------------------------------------------------------- advice


def test_more_gears_beside_other_sets():
    chart = advice_chart([1, 2, 4], [9, 6, 5], others={"powers of two": (4, 7.5), "compiled now": (2, 8)}, unit="ms", note="n")
    assert (chart.note, chart.x_label, chart.panels[0].y_label) == ("n", "number of gears", "expected cost of a request [ms]")
    best, powers, now = chart.panels[0].series
    assert (best.kind, best.x, best.y) == ("linked", (1, 2, 4), (9, 6, 5))
    assert (powers.label, powers.kind, powers.x, powers.y) == ("powers of two", "points", (4,), (7.5,))
    assert (now.label, now.x, now.y) == ("compiled now", (2,), (8,))
    assert len({best.look, powers.look, now.look}) == 3


# ---------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": (), "y": ()}, "expected as many x as y, at least one, and as many errors or none, got 0, 0 and 0"),
        ({"x": (1, 2)}, "got 2, 1 and 0"),
        ({"errors": (1, 1)}, "got 1, 1 and 2"),
        ({"y": (float("nan"),)}, "expected finite numbers, got (1,), (nan,) and ()"),
        ({"x": (float("inf"),)}, "expected finite numbers"),
        ({"x": (2, 1), "y": (1, 1)}, "expected x in ascending order, got (2, 1)"),
        ({"x": (1, 1), "y": (1, 1)}, "expected x in ascending order, got (1, 1)"),
        ({"errors": (-1,)}, "expected errors >= 0, got (-1,)"),
        ({"kind": "bars"}, "got 'bars' and 0"),
        ({"look": 7}, "a look below 7, got 'line' and 7"),
    ],
)
def test_series_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        Series(**({"label": "mine", "x": (1,), "y": (1,)} | arguments))
    assert str(error.value).startswith("'mine': ")


def test_panels_that_do_not_fit():
    with pytest.raises(InputError, match="expected at least one series, got none"):
        Panel("cost", ())
    with pytest.raises(InputError, match="'cost': expected positive values on a logarithmic axis"):
        Panel("cost", (Series("one", (1, 2), (1, 0)),), log=True)


# -------------------------------------------------------------------------------------------------------------- figures


def test_a_figure_draws_every_value(policies):
    figure = policies.figure()
    assert len(figure.axes) == 2
    for axes, panel in zip(figure.axes, policies.panels, strict=True):
        assert axes.get_ylabel() == panel.y_label
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert len(lines) == len(panel.series) == 6
        for series in panel.series:
            line = lines[series.label]
            np.testing.assert_array_equal(line.get_xydata(), np.array([series.x, series.y]).T)
            assert line.get_drawstyle() == "steps-mid"
        first, *others = (lines[series.label] for series in panel.series)
        assert all(first.get_zorder() > line.get_zorder() and first.get_linewidth() > line.get_linewidth() for line in others)
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"]
    assert figure.axes[0].get_ylim()[0] == 0
    assert figure.axes[1].get_xlabel() == policies.x_label
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [series.label for series in policies.panels[0].series]
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        assert to_hex(handle.get_color()) == to_hex(lines[text.get_text()].get_color())


def test_curves_differ_in_more_than_colour(policies):
    lines = policies.figure().axes[0].get_lines()
    assert len({to_hex(line.get_color()) for line in lines}) == len({str(line._dash_pattern) for line in lines}) == len(lines)


def test_a_figure_has_bars_and_bands():
    bars = cost_chart(CURVE).figure().axes[0].containers
    (segments,) = bars[0].lines[2]
    assert [segment[:, 1].tolist() for segment in segments.get_segments()] == [[1.5, 2.5], [3.5, 3.5], [4.0, 6.0]]
    chart = policy_chart(Planner(Gears((1, 4, 8)), CURVE), 12)
    (band,) = chart.figure().axes[0].collections
    series = chart.panels[0].series[0]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(max(y + error for y, error in zip(series.y, series.errors, strict=True)))


def test_the_legend_has_the_order_of_the_series():
    (legend,) = cost_chart(CURVE, [1, 2, 8]).figure().legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["known, with 2 standard errors", "estimated, with 2 standard errors", "estimated between"]


# ---------------------------------------------------------------------------------------------------------------- files


def test_svg_has_its_text_and_all_series(policies, tmp_path):
    policies.save(tmp_path / "chart.svg")
    svg = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    texts = texts_of(svg)
    for wanted in (policies.title, policies.note, policies.x_label, "cost [ms]", "cost per row [ms]", *POLICIES):
        assert texts.count(wanted) == 1, wanted
    curves = [path for path in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path") if path.get("d", "").count("L") > 40]
    assert len(curves) == 2 * len(POLICIES)
    assert "date" not in svg.lower()


def test_long_notes_wrap_and_dollars_are_dollars(tmp_path):
    costs = TableCosts(TABLE, source=f"measured $here$ and {'there, ' * 40}")
    chart = cost_chart(costs)
    chart.save(tmp_path / "chart.svg")
    svg = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert "costs: measured $here$ and there," in svg
    figure = chart.figure()
    figure.draw_without_rendering()
    axes = figure.axes[0]
    (note,) = axes.texts
    assert note.get_text().count("\n") == 2
    boxes = [text.get_window_extent() for text in (note, axes._left_title)]
    assert boxes[0].x1 <= figure.bbox.x1 and boxes[1].y1 <= figure.bbox.y1
    assert axes.bbox.y1 < boxes[0].y0 < boxes[0].y1 <= boxes[1].y0
    assert axes.bbox.height > 0.3 * figure.bbox.height


def test_png_is_an_image_of_the_size_of_its_panels(policies, tmp_path):
    policies.save(tmp_path / "two.PNG")
    small_chart().save(str(tmp_path / "one.png"))
    for name, height in (("two.PNG", 8.0), ("one.png", 4.8)):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)] == [1200, round(150 * height)]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_equal_charts_make_equal_files_whatever_the_users_settings(policies, tmp_path, suffix):
    policies.save(tmp_path / f"one.{suffix}")
    settings = {"savefig.dpi": 50, "lines.linewidth": 9, "svg.fonttype": "path", "font.size": 30, "axes.grid": True}
    with mpl.rc_context(settings):
        policies.save(tmp_path / f"two.{suffix}")
        assert {name: mpl.rcParams[name] for name in settings} == settings
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_an_existing_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "chart.svg"
    path.write_text("old")
    small_chart().save(path)
    assert "A title" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["chart.pdf", "chart", "svg", "chart.svg.gz"])
def test_a_suffix_that_is_not_possible(tmp_path, name):
    with pytest.raises(InputError, match=re.escape(f"{name}: expected a file that ends in .png or .svg")):
        small_chart().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        check_file(tmp_path / "none" / "chart.svg")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(InputError, match="folder.svg: it is a folder"):
        check_file(tmp_path / "folder.svg")
    with pytest.raises(InputError, match=r"\.svg: cannot be written: File name too long"):
        small_chart().save(tmp_path / f"{'x' * 250}.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_without_matplotlib_files_say_what_to_install_and_text_still_works(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for call in (small_chart().figure, lambda: small_chart().save(tmp_path / "chart.png"), lambda: check_file("chart.png")):
        with pytest.raises(MissingPackageError, match=r"needs matplotlib \(.*\): pip install 'anybatch\[plot\]'"):
            call()
    assert "A title" in small_chart().text()
    assert not list(tmp_path.iterdir())


def test_drawing_needs_no_pyplot_and_no_display():
    program = (
        "import sys; from anybatch import *; from anybatch.plots import policy_chart\n"
        "policy_chart(Planner(Gears((1, 4)))).figure(); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


# ------------------------------------------------------------------------------------------------------- with characters


def test_a_chart_with_characters():
    chart = small_chart(
        Series("mine", (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),
        Series("theirs", (0, 4), (4, 0), kind="line", look=1),
        Series("measured", (2,), (3,), (0.9,), kind="points", look=2),
    )
    assert chart.text(width=44, height=5).splitlines() == [
        "A title",
        "a note",
        "",
        "cost [ms]",
        " 4┤oooooo              │              ******",
        "  │      ooooooooo     x     *********",
        " 2┤               ***********",
        "  │      *********           ooooooooo",
        " 0┤******                             oooooo",
        "  └┬───────────────────┬───────────────────┬",
        "   0                   2                   4",
        "                                        rows",
        "",
        "* mine",
        "o theirs",
        "x measured",
    ]


def test_steps_hold_until_half_way():
    (line,) = [
        line
        for line in small_chart(Series("s", (0, 4), (4, 0), kind="steps")).text(width=44, height=4).split("\n")
        if " 4┤" in line
    ]
    assert line == " 4┤" + "*" * 20


def test_a_logarithmic_axis_gives_each_decade_its_height():
    lines = small_chart(Series("s", (1, 2, 3), (1, 10, 100), kind="points"), log=True).text(height=9).splitlines()[4:13]
    assert [line.index("*") for line in lines if "*" in line] == [79, 42, 5]
    assert [index for index, line in enumerate(lines) if "*" in line] == [0, 4, 8]
    assert [lines[index].split("┤")[0].strip() for index in (0, 4, 8)] == ["100", "10", "1"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1, 100, [1, 2, 5, 10, 20, 50, 100]), (0.53, 2, [0.7, 1, 1.5, 2]), (1.01, 1.19, [1.05, 1.1, 1.15]), (0.3, 0.3, [0.3])],
)
def test_a_logarithmic_axis_has_numbers(low, high, ticks):
    chart = small_chart(Series("s", (1, 2), (low, high), kind="points"), log=True)
    text = chart.text(height=30).splitlines()[4:34]
    assert [float(line.split("┤")[0]) for line in reversed(text) if "┤" in line] == ticks
    axes = chart.figure().axes[0]
    assert [float(text.get_text()) for text in axes.get_yticklabels()] == ticks


def test_a_bar_longer_than_its_value_ends_at_the_bottom_of_a_logarithmic_axis():
    lines = small_chart(Series("s", (1, 2), (1, 10), (0, 20), kind="points"), log=True).text(height=8).splitlines()[4:12]
    assert [line[-1] for line in lines] == ["│", "│", "*", "│", "│", "│", "│", "│"]


def test_the_first_series_lies_on_top():
    on_top = Series("first", (1, 2), (5, 5)), Series("second", (1, 2), (5, 5), look=1)
    text = small_chart(*on_top).text()
    assert "**********" in text and "oo" not in text.replace("o second", "")


def test_ascii_terminals_get_ascii(policies):
    plain, ascii_only = policies.text(), policies.text(ascii_only=True)
    assert ascii_only.isascii() and not plain.isascii()
    assert ascii_only.translate(str.maketrans("|+-", "   ")) == plain.translate(str.maketrans("│┤─┬└+|-", "        "))


def test_colours_add_nothing_that_is_counted(policies):
    coloured = policies.text(colour=True)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == policies.text()
    assert len(set(re.findall(r"\x1b\[(\d+)m", coloured)) - {"0"}) == len(POLICIES)


@given(
    width=st.integers(40, 130),
    height=st.integers(4, 30),
    log=st.booleans(),
    values=st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=300),
    kind=st.sampled_from(["points", "linked", "line", "steps"]),
    label=st.text("ab, ", min_size=1, max_size=90).filter(str.strip),
)
def test_lines_fit_and_every_series_is_seen(width, height, log, values, kind, label):
    series = Series(label.strip(), tuple(range(1, len(values) + 1)), tuple(values), (1.0,) * len(values), kind=kind)
    text = small_chart(series, log=log).text(width=width, height=height)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert not any(line != line.rstrip() for line in lines)
    body = lines[4 : 4 + height]
    assert all("│" in line or "┤" in line for line in body)
    assert sum("┤" in line for line in body) >= 1
    assert any("*" in line for line in body)


@pytest.mark.parametrize(("width", "height"), [(39, 16), (80, 3)])
def test_too_small_to_draw_on(policies, width, height):
    with pytest.raises(
        InputError, match=f"expected a width of at least 40 and a height of at least 4, got {width} and {height}"
    ):
        policies.text(width=width, height=height)
