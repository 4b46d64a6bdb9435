"""The page of a comparison, as a parser sees it; `make page` looks at it in a browser."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from anybatch.comparison import MODELLED, as_page
from anybatch.comparison._charts import LOOKS, Curve, Point, _tick, curve_chart, distribution_chart, plan_chart
from anybatch.comparison._page import _interval, _rate
from comparison_samples import HOSTILE, SAMPLES, failing, hostile, many, nothing_compared, passing, plan_of

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with the words in them; fails where a tag is not closed in its turn."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), [name for name, _ in self.open]))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        if not any(tag == "style" for tag, _ in self.open):
            self.words.append((data, list(self.open)))

    def text(self, tag=None, name=None):
        return " ".join(
            data.strip()
            for data, inside in self.words
            if data.strip() and (tag is None or any(t == tag and (name is None or a.get("id") == name) for t, a in inside))
        )


@pytest.fixture(scope="module")
def pages():
    return {name: as_page(make()) for name, make in SAMPLES.items()}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_is_one_well_formed_page(pages, name):
    page = Page(pages[name])
    ids = [attributes["id"] for _, attributes, _ in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"] for tag, attributes, _ in page.tags if tag == "a"]
    assert links
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    levels = [int(tag[1]) for tag, _, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("scope" in attributes for tag, attributes, _ in page.tags if tag == "th")
    drawings = [attributes for tag, attributes, _ in page.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert all(each.get("role") == "img" and each.get("aria-label") for each in drawings)


@pytest.mark.parametrize("name", SAMPLES)
def test_it_needs_nothing_else(pages, name):
    page = Page(pages[name])
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & {tag for tag, _, _ in page.tags}
    for tag, attributes, _ in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "style"], (tag, attributes)
        for key in ("src", "href", "action", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
    style = re.search("<style>(.*?)</style>", pages[name], re.DOTALL).group(1)
    assert "url(" not in style.replace("url(#", "")
    assert "@import" not in style
    policy = next(attributes["content"] for tag, attributes, _ in page.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy


def test_the_verdict_comes_first():
    page = Page(as_page(passing()))
    assert (page.text("h1"), page.text("p", "sentence")) == (
        "✓ Pass",
        "All 3 entries answer like the reference, within the tolerances.",
    )
    page = Page(as_page(failing()))
    assert page.text("h1") == "✗ Fail"
    assert page.text("p", "sentence") == "2 of 4 entries differ from the reference; 2 could not finish."
    for reason in failing().reasons:
        assert reason in page.text("ul")
    assert Page(as_page(nothing_compared())).text("p", "sentence") == "Nothing was compared."


def test_all_that_was_found_is_there():
    comparison = failing()
    text = Page(as_page(comparison)).text()
    for entry in comparison.entries:
        assert entry.name in text
    for each in comparison.accuracy:
        assert each.case.name in text
        assert all(fault in text for fault in each.faults)
        assert each.tolerance is None or each.tolerance.reason in text
    assert "/encoder/layers.3/attention/Softmax" in text
    assert "row 11, index [11, 3]: expected 70123.5, got ∞, tolerated ±140" in text
    assert "/norm/ReduceMean" in text
    assert "no module named 'acl'" in text
    for value in comparison.environment.values():
        assert value in text


def test_modelled_figures_are_marked_and_apart():
    text = as_page(passing())
    page = Page(text)
    rows = [(tag, attributes) for tag, attributes, _ in page.tags if "data-provenance" in attributes]
    assert {attributes["data-provenance"] for _, attributes in rows} == {"measured", "modelled"}
    drawings = [attributes["aria-label"] for tag, attributes, _ in page.tags if tag == "svg" and "aria-label" in attributes]
    speeds = [label for label in drawings if label.startswith(("Latency", "Throughput"))]
    assert len(speeds) == 4
    for label in speeds:
        assert (MODELLED in label) == ("-sim" in label), label
        assert not ("onnxruntime" in label and "-sim" in label)
    titles = [data for data, inside in page.words if inside and inside[-1][0] == "title" and "p50" in data]
    assert titles
    assert all(data.endswith(MODELLED if "-sim" in data else "measured") for data in titles)
    assert page.text().count(MODELLED) > 10
    # Each figure of a modelled speed stands in something that is marked so, and says so in words.
    modelled = replace(passing().speeds[2], entry="cpu-gears", sizes=passing().speeds[2].sizes[3:4])
    text = as_page(replace(passing(), speeds=(passing().speeds[0], modelled)))
    size = modelled.sizes[0]
    places = [inside for data, inside in Page(text).words if _interval(size.p50) in data or _rate(size.rows_per_s) in data]
    assert len(places) >= 4  # two in the table, two that a mark shows
    assert all(any(a.get("data-provenance") == "modelled" for _, a in inside) for inside in places)
    modelled_part = text.partition('<div data-provenance="modelled">')[2].partition("</section>")[0]
    visible = re.sub("<svg.*?</svg>", "", modelled_part, flags=re.DOTALL)
    parts = [part for tag in ("table", "figure", "summary") for part in re.findall(f"<{tag}>.*?</{tag}>", visible, re.DOTALL)]
    assert len(parts) == 2 + 2 + 1
    assert all(MODELLED in part for part in parts)
    measured = replace(
        passing(),
        entries=passing().entries[:2],
        speeds=passing().speeds[:2],
        accuracy=tuple(each for each in passing().accuracy if each.entry == "cpu-gears"),
    )
    assert MODELLED not in Page(as_page(measured)).text("section", "speed")


def test_names_are_escaped():
    text = as_page(hostile())
    assert "<script" not in text
    assert "<img" not in text
    assert HOSTILE in Page(text).text().replace("  ", " ")
    text.encode("utf-8")


def test_many_entries_share_no_colour_in_one_chart():
    page = Page(as_page(many()))
    charts = [a["aria-label"] for tag, a, _ in page.tags if tag == "svg" and a.get("aria-label", "").startswith("Latency")]
    names = [re.findall(r"gears-\d+", label) for label in charts]
    assert len({name for each in names for name in each}) == sum(map(len, names)) == 30
    assert max(map(len, names)) == LOOKS


@pytest.mark.parametrize("name", SAMPLES)
def test_equal_comparisons_make_equal_pages(pages, name):
    assert as_page(SAMPLES[name]()) == pages[name]


def test_a_chart_of_nothing_is_empty():
    assert curve_chart([], "rows", "ms", "label") == ""


def test_bars_of_errors_grow_with_their_counts():
    drawing = distribution_chart((10, 0, 0, 5, 0, 0, 0, 1), "label")
    heights = [float(height) for height in re.findall(r'<rect[^>]*height="([\d.]+)"', drawing)]
    assert len(heights) == 3
    assert heights[0] > heights[1] > heights[2] > 0


def test_bars_beyond_the_tolerance_look_otherwise():
    drawing = distribution_chart((1, 1, 1, 1, 1, 1, 1, 1), "label")
    assert re.findall('<rect class="([^"]*)"', drawing) == ["bar"] * 5 + ["bar outside"] * 3


def test_plans_are_drawn_to_scale_and_padding_is_hatched():
    padded, exact = plan_of(7, (8,)), plan_of(16, (8,))
    drawing = plan_chart([padded, exact], "label")
    bars = re.findall(r'<rect class="([^"]*)"[^>]*width="([\d.]+)"', drawing)
    real, padding, *whole = bars
    assert float(real[1]) + 1 == pytest.approx(8 * (float(padding[1]) + 1), abs=1)  # a pixel lies between bars
    assert real[0] != padding[0]
    assert {style for style, _ in whole} == {real[0]}
    assert f'class="{padding[0]}"' not in plan_chart([exact], "label")


def test_axis_labels_are_short():
    numbers = (0.5, 1000, 9_999, 10_000, 100_000, 1e6, 2e7, 3e10)
    assert [_tick(number) for number in numbers] == ["0.5", "1,000", "9,999", "10k", "100k", "1M", "20M", "30G"]


def curve_of(*sizes):
    return [Curve("one", 0, tuple(Point(size, 2.0, 1.9, 2.1, 3.0, f"{size} rows") for size in sizes))]


def test_sizes_that_lie_close_together_get_equal_steps():
    drawing = curve_chart(curve_of(1, 15, 16, 17, 63, 64, 65, 1000), "rows", "ms", "label")
    assert ">rows, not to scale<" in drawing
    places = [float(place) for place in re.findall(r'<circle class="touch" cx="([\d.]+)"', drawing)]
    assert len(places) == 8
    assert [right - left for left, right in pairwise(places)] == pytest.approx([places[1] - places[0]] * 7, abs=0.2)
    for size in ("1", "15", "16", "17", "63", "64", "65", "1,000"):
        assert f">{size}</text>" in drawing


def test_sizes_that_lie_apart_are_drawn_to_scale():
    drawing = curve_chart(curve_of(1, 2, 4, 8, 16), "rows", "ms", "label")
    assert ">rows (log scale)<" in drawing
    places = [float(place) for place in re.findall(r'<circle class="touch" cx="([\d.]+)"', drawing)]
    assert [right - left for left, right in pairwise(places)] == pytest.approx([places[1] - places[0]] * 4, abs=0.2)
    assert ">rows<" in curve_chart(curve_of(1, 2, 4, 8), "rows", "ms", "label")


def test_more_sizes_than_steps_have_room_for_stay_to_scale():
    assert ">rows (log scale)<" in curve_chart(curve_of(*range(1, 201)), "rows", "ms", "label")
