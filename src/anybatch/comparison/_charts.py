"""The charts of a comparison's page: distributions of errors, curves over rows, and plans to scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

from anybatch._planner import Plan
from anybatch.comparison._results import BINS
from anybatch.comparison._svg import Drawing, Scale, Steps

# So many curves can be told apart; the style sheet has a colour and dashes for each, and there is a mark for each below.
LOOKS: Final = 7

_WIDTH: Final = 360.0
# Marks that are closer to one another cannot be told apart.
_APART: Final = 9.0
# More launches than these are drawn as one bar per run of equal ones.
_MOST_LAUNCHES: Final = 24


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a curve, with its interval; `beyond` is a second value at the same x, None where there is none."""

    x: float
    y: float
    low: float
    high: float
    beyond: float | None
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Points in ascending order of x, and which of the looks they have; points that are not finite are left out."""

    label: str
    look: int
    points: tuple[Point, ...]


def curve_chart(curves: Sequence[Curve], x_label: str, unit: str, label: str) -> str:
    """Chart curves, each with its marks, the band of its intervals, and a thin line through `beyond`.

    Returns:
        SVG; empty where no point can be drawn: all are infinite or NaN, or at 0 rows, which has no rate and no logarithm.
    """
    shown = [(curve, [point for point in curve.points if _can_be_drawn(point)]) for curve in curves]
    points = [point for _, each in shown for point in each]
    if not points:
        return ""
    height, left, top, bottom = 236.0, 50.0, 22.0, 196.0
    drawing = Drawing(_WIDTH, height, label)
    x = _x_axis([point.x for point in points], left + 4, _WIDTH - 10)
    values = [value for point in points for value in (point.low, point.high, point.y, point.beyond) if value is not None]
    y = Scale(values, bottom, top)
    for tick in y.ticks(22):
        drawing.add("line", "grid", x1=left, x2=_WIDTH - 6, y1=y(tick), y2=y(tick))
        drawing.add("text", "tick", x=left - 6, y=y(tick) + 4, text_anchor="end", text=_tick(tick))
    drawing.add("line", "axis", x1=left, x2=_WIDTH - 6, y1=bottom, y2=bottom)
    for tick in x.ticks(26):
        if tick == int(tick):
            drawing.add("line", "axis", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 4)
            drawing.add("text", "tick", x=x(tick), y=bottom + 16, text_anchor="middle", text=f"{tick:,.0f}")
    drawing.add("text", "tick", x=4, y=11, text=unit + (" (log scale)" if y.log else ""))
    x_label += ", not to scale" if isinstance(x, Steps) else " (log scale)" if x.log else ""
    drawing.add("text", "tick", x=(left + _WIDTH) / 2, y=height - 6, text_anchor="middle", text=x_label)
    for curve, each in shown:
        upper = [(x(point.x), y(point.high)) for point in each]
        lower = [(x(point.x), y(point.low)) for point in reversed(each)]
        drawing.add("polygon", f"band c{curve.look}", points=_points([*upper, *lower]))
        beyond = [(x(point.x), y(point.beyond)) for point in each if point.beyond is not None]
        drawing.add("polyline", f"beyond c{curve.look}", points=_points(beyond))
    for curve, each in shown:
        drawing.add("polyline", f"curve c{curve.look}", points=_points([(x(point.x), y(point.y)) for point in each]))
        for point in each:
            _add_mark(drawing, curve.look, x(point.x), y(point.y))
    for _, each in shown:  # on top, and larger than a mark, so that a finger finds them
        for point in each:
            drawing.add("circle", "touch", cx=x(point.x), cy=y(point.y), r=7, title=point.title)
    return drawing.text()


def _tick(number: float) -> str:
    """Return a number as an axis has it, with about five characters."""
    for least, scale, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return f"{number / scale:,g}{letter}"
    return f"{number:,g}"


def _x_axis(values: Sequence[float], begin: float, end: float) -> Scale | Steps:
    """Return an axis to scale; or one of equal steps where that tells points apart, such as those of 15, 16 and 17 rows."""
    scale = Scale(values, begin, end, from_zero=False)
    ordered = sorted(set(values))
    close = any(scale(right) - scale(left) < _APART for left, right in pairwise(ordered))
    return Steps(values, begin, end) if close and (end - begin) / len(ordered) >= _APART else scale


def swatch(look: int, label: str) -> str:
    """Return a short piece of a curve, for a legend."""
    drawing = Drawing(34, 12, label)
    drawing.add("polyline", f"curve c{look}", points="0,6 34,6")
    _add_mark(drawing, look, 17, 6)
    return drawing.text()


def distribution_chart(histogram: Sequence[int], label: str) -> str:
    """Chart how far elements are off, as shares of what is tolerated; a bar of a few elements has a visible height."""
    height, bottom, top = 148.0, 122.0, 26.0
    drawing = Drawing(_WIDTH, height, label)
    total = max(sum(histogram), 1)
    step = (_WIDTH - 8) / len(histogram)
    tolerated = BINS.index(1.0) + 1
    for place, (count, name) in enumerate(zip(histogram, _bin_names(), strict=True)):
        left = 4 + place * step
        if count:
            tall = max((bottom - top) * count / total, 2.5)
            style = "bar outside" if place >= tolerated else "bar"
            title = f"{name}: {count:,} of {sum(histogram):,} elements"
            drawing.add("rect", style, x=left + 3, y=bottom - tall, width=step - 6, height=tall, title=title)
            drawing.add(
                "text", "tick", x=left + step / 2, y=bottom - tall - 5, text_anchor="middle", text=_share(count / total)
            )
        drawing.add("text", "tick", x=left + step / 2, y=height - 9, text_anchor="middle", text=name)
    drawing.add("line", "axis", x1=4, x2=_WIDTH - 4, y1=bottom, y2=bottom)
    edge = 4 + tolerated * step
    drawing.add("line", "limit", x1=edge, x2=edge, y1=4, y2=bottom)
    drawing.add("text", "tick strong", x=edge + 5, y=12, text="beyond tolerance")
    return drawing.text()


def plan_chart(plans: Sequence[Plan], label: str) -> str:
    """Chart the launches of requests to one scale, a line per request; padded rows are hatched."""
    line, bar_height = 24.0, 16.0
    drawing = Drawing(_WIDTH, line * len(plans) + 4, label)
    left, right = 46.0, _WIDTH - 92
    longest = max((sum(launch.gear for launch in plan.launches) for plan in plans), default=0)
    scale = (right - left) / max(longest, 1)
    for place, plan in enumerate(plans):
        top = 4 + place * line
        baseline = top + bar_height / 2 + 4
        drawing.add("text", "tick strong", x=left - 8, y=baseline, text_anchor="end", text=f"{plan.rows:,}")
        at = left
        for text, rows, gear in _bars(plan):
            wide = gear * scale
            title = f"{plan.rows:,} rows: a launch of {gear:,} with {gear - rows:,} padded" if gear > rows else ""
            drawing.add("rect", "launch", x=at, y=top, width=max(wide - 1, 0.6), height=bar_height, title=title)
            if gear > rows:
                padding = (gear - rows) * scale
                drawing.add("rect", "padding", x=at + wide - padding, y=top, width=max(padding - 1, 0.6), height=bar_height)
            if wide >= 7 * len(text) + 3 and rows * scale >= 7 * len(text) + 3:
                drawing.add("text", "inside", x=at + rows * scale / 2, y=baseline, text_anchor="middle", text=text)
            at += wide
        words = f"+{plan.padded_rows:,} padded" if plan.padded_rows else "no padding" if plan.launches else "no launch"
        drawing.add("text", "tick", x=(at if plan.launches else left) + 5, y=baseline, text=words)
    return drawing.text()


def _bars(plan: Plan) -> list[tuple[str, int, int]]:
    """Return text, real rows and all rows of each bar: a launch, or a run of equal ones where there are many."""
    if len(plan.launches) <= _MOST_LAUNCHES:
        return [(f"{launch.gear:,}", launch.rows, launch.gear) for launch in plan.launches]
    runs = [(launch, len(list(run))) for launch, run in groupby(plan.launches)]
    return [
        (f"{count:,} × {launch.gear:,}" if count > 1 else f"{launch.gear:,}", launch.rows * count, launch.gear * count)
        for launch, count in runs
    ]


def _bin_names() -> list[str]:
    names = ["equal" if not bound else f"≤{_share(bound) if bound <= 1 else f'{bound:g}×'}" for bound in BINS]
    return [*names, "more"]


def _share(share: float) -> str:
    if 0 < share < 0.001:
        return "<0.1%"
    percent = share * 100
    if percent < 1 or 99 <= percent < 100:  # neither none nor all
        return f"{min(percent, 99.9):.1f}%"
    return f"{percent:.0f}%"


def _can_be_drawn(point: Point) -> bool:
    values = (point.x, point.y, point.low, point.high, 1.0 if point.beyond is None else point.beyond)
    return all(math.isfinite(value) and value > 0 for value in values)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _add_mark(drawing: Drawing, look: int, x: float, y: float) -> None:
    style = f"mark c{look}"
    shapes: dict[int, list[tuple[float, float]]] = {
        1: [(-3, -3), (3, -3), (3, 3), (-3, 3)],
        2: [(0, -4.2), (4.2, 0), (0, 4.2), (-4.2, 0)],
        3: [(0, -4), (3.8, 3), (-3.8, 3)],
        4: [(0, 4), (3.8, -3), (-3.8, -3)],
        5: [(-4, -1.8), (4, -1.8), (4, 1.8), (-4, 1.8)],
    }
    if look in shapes:
        drawing.add("polygon", style, points=_points([(x + dx, y + dy) for dx, dy in shapes[look]]))
    else:
        drawing.add("circle", style if not look else f"ring c{look}", cx=x, cy=y, r=3.2)
