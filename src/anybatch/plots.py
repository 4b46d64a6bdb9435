"""Charts of what launches cost and of what plans come to; as PNG and SVG, and as text for a terminal.

A chart is data first: `cost_chart`, `policy_chart` and `advice_chart` compute one, `Chart.save` and `Chart.figure` draw it with
matplotlib (``pip install 'anybatch[plot]'``), and `Chart.text` draws it with characters and needs nothing.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from anybatch._batching import AnyBatch, Batching, Gears, check_batch_sizes
from anybatch._costs import Costs, CurveCosts, UncertainCosts
from anybatch._errors import InputError, MissingPackageError
from anybatch._planner import POLICIES, Planner, Policy
from anybatch._ticks import STEPS, linear_ticks, log_ticks
from anybatch._whole_files import check_place, whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Chart", "Panel", "Series", "advice_chart", "check_file", "cost_chart", "policy_chart"]

Kind: TypeAlias = Literal["points", "linked", "line", "steps"]

_SUFFIXES: Final = (".png", ".svg")
# Bars and bands reach this many standard errors: 95 % where errors are normal.
_SPREAD: Final = 2.0
# Plans are made for every number of rows, each by every policy.
_MOST_ROWS: Final = 10_000
# A line of estimates needs no more points than a figure has dots.
_MOST_POINTS: Final = 1_000

# By Okabe and Ito: to be told apart with any kind of colour vision. Dashes and marks tell without colour.
_COLOURS: Final = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
_DASHES: Final[tuple[Any, ...]] = (
    "-",
    (0, (6, 1.5)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    (0, (3, 1)),
    (0, (1, 2)),
    (0, (6, 1, 1, 1)),
)
_POINTS: Final = "osD^vXP"
_MARKS: Final = "*ox+#@%"
# Whatever the user's matplotlibrc says, and with dollars that are dollars: a cost's source may be a path.
_STYLE: Final[Any] = ["default", {"text.parse_math": False}]
# The y axis, its ticks, the x axis, its ticks, and where they meet.
_FRAME: Final = ("│", "┤", "─", "┬", "└")
_ASCII_FRAME: Final = ("|", "+", "-", "+", "+")
_SGR: Final = ("1", "33", "36", "32", "34", "31", "35")


@dataclass(frozen=True, slots=True)
class Series:
    """One curve, or a set of points.

    Attributes:
        label: its name in the legend.
        x, y: of equal length, at least one; x ascending, all finite.
        errors: half the length of the bar or band at each point; empty where none is known.
        kind: ``"points"``; ``"linked"``, points with lines from one to the next; ``"line"``, such lines alone; ``"steps"``,
            where a value holds until half-way to the next x.
        look: which of seven colours, dashes and marks it has; 0 is drawn boldest.

    Raises:
        InputError: lengths differ, there is no point, x is in no ascending order, a number is not finite, an error is
            negative, or there is no such kind or look.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    errors: tuple[float, ...] = ()
    kind: Kind = "line"
    look: int = 0

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.y) or len(self.errors) not in (0, len(self.x)):
            raise InputError(
                f"{self.label!r}: expected as many x as y, at least one, and as many errors or none, "
                f"got {len(self.x)}, {len(self.y)} and {len(self.errors)}"
            )
        if not all(math.isfinite(value) for value in (*self.x, *self.y, *self.errors)):
            raise InputError(f"{self.label!r}: expected finite numbers, got {self.x}, {self.y} and {self.errors}")
        if any(right <= left for left, right in pairwise(self.x)):
            raise InputError(f"{self.label!r}: expected x in ascending order, got {self.x}")
        if min(self.errors, default=0.0) < 0:
            raise InputError(f"{self.label!r}: expected errors >= 0, got {self.errors}")
        if self.kind not in get_args(Kind) or self.look not in range(len(_COLOURS)):
            raise InputError(
                f"{self.label!r}: expected a kind of {list(get_args(Kind))} and a look below {len(_COLOURS)}, "
                f"got {self.kind!r} and {self.look!r}"
            )


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        y_label: what the y axis shows, with its unit.
        series: at least one; the first is drawn on top.
        log: whether the y axis is logarithmic; all y must be positive then. Otherwise it begins at 0.

    Raises:
        InputError: there is no series, or a y does not fit a logarithmic axis.
    """

    y_label: str
    series: tuple[Series, ...]
    log: bool = False

    def __post_init__(self) -> None:
        if not self.series:
            raise InputError("expected at least one series, got none")
        if self.log and min(min(series.y) for series in self.series) <= 0:
            raise InputError(f"{self.y_label!r}: expected positive values on a logarithmic axis")


@dataclass(frozen=True, slots=True)
class Chart:
    """Panels above one another that share their x axis, which counts something.

    Attributes:
        title: what the chart shows.
        note: what one must know to read it, such as where the figures come from.
        x_label: what the x axis counts.
        panels: at least one.
    """

    title: str
    note: str
    x_label: str
    panels: tuple[Panel, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the chart as PNG or SVG, as the suffix says; completely, or not at all. An existing file is replaced.

        Equal charts make equal files with the same version of matplotlib. SVG keeps its text as text.

        Raises:
            InputError, MissingPackageError: see `check_file`; or the file cannot be written.
        """
        path = check_file(path)
        import matplotlib.style

        data = io.BytesIO()
        kind = path.suffix[1:].lower()
        settings: Any = {"svg.hashsalt": "anybatch", "svg.fonttype": "none"}  # without a salt, ids are random
        with matplotlib.style.context(_STYLE), matplotlib.rc_context(settings):
            self.figure().savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else {})
        with whole_file(path) as part:
            part.write_bytes(data.getvalue())

    def figure(self) -> Figure:
        """Return a new matplotlib figure, to change before it is saved; pyplot knows nothing of it.

        matplotlib's settings are at their defaults meanwhile, and then as before: no other thread should draw with it.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        _check_matplotlib()
        import matplotlib.style
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        title, note = textwrap.wrap(self.title, 70), textwrap.wrap(self.note, 105)
        with matplotlib.style.context(_STYLE):
            figure = Figure(figsize=(8, 1.6 + 3.2 * len(self.panels)), dpi=150, layout="constrained")
            all_axes = figure.subplots(len(self.panels), 1, sharex=True, squeeze=False)[:, 0]
            for axes, panel in zip(all_axes, self.panels, strict=True):
                _draw_panel(axes, panel)
            all_axes[0].set_title("\n".join(title), loc="left", fontweight="bold", pad=12 + 12 * len(note))
            place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 10), "textcoords": "offset points"}
            all_axes[0].annotate("\n".join(note), **place, fontsize="small", color="#444444")
            all_axes[-1].set_xlabel(self.x_label)
            all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=STEPS))
            drawn = {label: line for axes in all_axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
            labels = list(self._looks)
            columns = 3 if max(map(len, labels)) < 30 else 1
            lines = [drawn[label] for label in labels]
            figure.legend(lines, labels, loc="outside lower center", ncols=columns, frameon=False)
        return figure

    def text(self, *, width: int = 80, height: int = 16, ascii_only: bool = False, colour: bool = False) -> str:
        """Return the chart as lines of text, each at most `width` characters long, without blanks at their ends.

        A point is the mark of its series; where several fall on one character, the mark of the first. Error bars of points
        are drawn where they are longer than a character, bands not at all.

        Args:
            width: characters per line, at least 40.
            height: lines per panel between its top and its x axis, at least 4.
            ascii_only: draw axes with ASCII; marks always are.
            colour: add the colour codes of ANSI terminals, which do not count as characters.

        Raises:
            InputError: it is too small.
        """
        if width < 40 or height < 4:
            raise InputError(f"expected a width of at least 40 and a height of at least 4, got {width} and {height}")
        lines = textwrap.wrap(self.title, width) + textwrap.wrap(self.note, width)
        ends = _ends([series.x for panel in self.panels for series in panel.series])
        for panel in self.panels:
            lines += ["", *_TextPanel(panel, ends, width, height, _ASCII_FRAME if ascii_only else _FRAME, colour).lines()]
        lines += [f"{self.x_label:>{width}}", ""]
        for label, look in self._looks.items():
            wrapped = textwrap.wrap(label, width - 2)
            lines += [f"{_painted(_MARKS[look], look, colour)} {wrapped[0]}", *(f"  {line}" for line in wrapped[1:])]
        return "\n".join(line.rstrip() for line in lines)

    @property
    def _looks(self) -> dict[str, int]:
        """The looks of all series by label, in the legend's order."""
        return {series.label: series.look for panel in self.panels for series in panel.series}


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return the path, after checking that a chart can be drawn and written there.

    Raises:
        InputError: the suffix is neither .png nor .svg, there is no such folder, or the path is that of a folder.
        MissingPackageError: matplotlib is not installed.
    """
    path = check_place(path, _SUFFIXES)
    _check_matplotlib()
    return path


def cost_chart(costs: Costs, sizes: Sequence[int] | None = None) -> Chart:
    """Chart what one launch costs, as a whole and per row.

    Points are `sizes`, with bars of two standard errors where costs know them. Where costs tell about other sizes too, a line
    of estimates joins them.

    Args:
        sizes: the sizes to show, such as a session's gears; None shows all that the costs were told about.

    Raises:
        InputError: a size is no batch size, nothing is known about it, or `sizes` is None and the costs name none.
    """
    told = costs.sizes
    if sizes is None:
        if told is None:
            raise InputError("these costs tell about all sizes, and name none: say which sizes to show")
        sizes = told
    shown = check_batch_sizes(sizes)
    cost = {size: costs.of(size) for size in shown}
    errors = {size: _SPREAD * costs.error_of(size) for size in shown} if isinstance(costs, UncertainCosts) else {}
    if not any(errors.values()):
        errors = {}
    suffix = f", with {_SPREAD:g} standard errors" if errors else ""
    known = [size for size in shown if told is not None and size in told]
    groups = {"known": known, "estimated": [size for size in shown if size not in known]}
    if told is None or isinstance(costs, CurveCosts):
        step = max(1, (shown[-1] - shown[0]) // _MOST_POINTS)
        between = sorted({*range(shown[0], shown[-1], step), *shown})
    else:
        between = []

    def per(divide: Callable[[int], float]) -> tuple[Series, ...]:
        series = [
            Series(
                name + suffix,
                tuple(group),
                tuple(cost[size] / divide(size) for size in group),
                tuple(errors[size] / divide(size) for size in group) if errors else (),
                kind="points",
                look=look,
            )
            for look, (name, group) in enumerate(groups.items())
            if group
        ]
        if len(between) > 1:
            line = tuple(costs.of(size) / divide(size) for size in between)
            series.append(Series("estimated between", tuple(between), line, look=2))
        return tuple(series)

    unit = f" [{costs.unit}]" if costs.unit else ""
    panels = Panel(f"cost of a launch{unit}", per(lambda _size: 1.0)), Panel(f"cost per row{unit}", per(float), log=True)
    return Chart("What a launch costs", f"costs: {costs.source}", "rows of the launch", panels)


def policy_chart(planner: Planner, up_to: int | None = None) -> Chart:
    """Chart what requests of 1, 2, ... rows cost by each policy, in total and per row.

    The planner's own policy comes first and is drawn on top; a band of two standard errors is around it where costs know
    them. Policies whose costs are equal throughout share a curve. Outputs without rows, which may rule out plans, are the
    runner's business, see `Runner.plan`.

    Args:
        up_to: the largest number of rows; None takes twice the largest size that the batching or the costs name, or 64.

    Raises:
        InputError: `up_to` is not an int of 1 to 10,000.
    """
    if up_to is None:
        up_to = min(_default_rows(planner), _MOST_ROWS)
    if isinstance(up_to, bool) or not isinstance(up_to, int) or not 1 <= up_to <= _MOST_ROWS:
        raise InputError(f"expected the largest number of rows as an int of 1 to {_MOST_ROWS:,}, got {up_to!r}")
    rows = tuple(range(1, up_to + 1))
    plans = [planner.plan(n) for n in rows]
    errors = tuple(_SPREAD * planner.error_of(plan) for plan in plans)
    curves: dict[tuple[float, ...], list[Policy]] = {tuple(plan.cost for plan in plans): [planner.policy]}
    for policy in POLICIES:
        if policy != planner.policy:
            # Sums of equal launches in another order may differ in their last digits.
            curve = tuple(planner.plan(n, policy=policy).cost for n in rows)
            same = next((known for known in curves if all(map(_alike, known, curve))), curve)
            curves.setdefault(same, []).append(policy)

    def per(divide: Callable[[int], float]) -> tuple[Series, ...]:
        return tuple(
            Series(
                "all policies" if len(policies) == len(POLICIES) else ", ".join(policies),
                rows,
                tuple(cost / divide(n) for cost, n in zip(curve, rows, strict=True)),
                tuple(error / divide(n) for error, n in zip(errors, rows, strict=True)) if not place and any(errors) else (),
                kind="steps",
                look=POLICIES.index(policies[0]),
            )
            for place, (curve, policies) in enumerate(curves.items())
        )

    unit = f" [{planner.costs.unit}]" if planner.costs.unit else ""
    panels = Panel(f"cost{unit}", per(lambda _rows: 1.0)), Panel(f"cost per row{unit}", per(float), log=True)
    title = f"What a request costs on {_in_words(planner.batching)}"
    band = f"; band: {_SPREAD:g} standard errors" if any(errors) else ""
    note = f"in force: {planner.policy}; costs: {planner.costs.source}{band}"
    return Chart(title, note, "rows of the request", panels)


def advice_chart(
    gears: Sequence[int],
    costs: Sequence[float],
    *,
    others: Mapping[str, tuple[int, float]] | None = None,
    unit: str = "",
    note: str = "",
) -> Chart:
    """Chart the expected cost of a request against how many gears are compiled.

    Args:
        gears: numbers of gears, ascending.
        costs: the least expected cost with that many gears, for each of `gears`.
        others: sets of gears to compare with, by name: how many gears, and what they cost.
        unit: of the costs.
        note: where the figures come from.

    Raises:
        InputError: see `Series`.
    """
    series = [Series("best set of that many gears", tuple(gears), tuple(costs), kind="linked")]
    for place, (name, (count, cost)) in enumerate((others or {}).items()):
        series.append(Series(name, (count,), (cost,), kind="points", look=1 + place % (len(_COLOURS) - 1)))
    label = "expected cost of a request" + (f" [{unit}]" if unit else "")
    return Chart("What more gears gain", note, "number of gears", (Panel(label, tuple(series)),))


def _check_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401  # the attempt is the check
    except ImportError as error:
        raise MissingPackageError(f"a chart in a file needs matplotlib ({error}): pip install 'anybatch[plot]'") from error


def _default_rows(planner: Planner) -> int:
    batching = planner.batching
    if isinstance(batching, AnyBatch):
        return 2 * max(planner.costs.sizes or (32,))
    return 2 * (batching.sizes[-1] if isinstance(batching, Gears) else batching.size)


def _in_words(batching: Batching) -> str:
    words = str(batching)
    if isinstance(batching, Gears) and len(words) > 60:
        words = f"{len(batching.sizes)} gears from {batching.sizes[0]} to {batching.sizes[-1]}"
    return words


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

    for place, series in enumerate(panel.series):
        colour = _COLOURS[series.look]
        above = 10 - place * 0.1  # the first one on top
        width = 1.4 if place else 2.2
        if series.kind == "points":
            axes.errorbar(
                series.x,
                series.y,
                yerr=series.errors or None,
                fmt=_POINTS[series.look],
                color=colour,
                markersize=6,
                capsize=3,
                zorder=above,
                label=series.label,
            )
            continue
        steps: Any = "steps-mid" if series.kind == "steps" else "default"
        axes.plot(
            series.x,
            series.y,
            color=colour,
            linestyle=_DASHES[series.look],
            linewidth=width,
            drawstyle=steps,
            marker=_POINTS[series.look] if series.kind == "linked" else "",
            zorder=above,
            label=series.label,
        )
        if series.errors:
            low, high = zip(*((y - error, y + error) for y, error in zip(series.y, series.errors, strict=True)), strict=True)
            axes.fill_between(
                series.x, low, high, step="mid" if series.kind == "steps" else None, color=colour, alpha=0.2, linewidth=0
            )
    axes.set_ylabel(panel.y_label)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(log_ticks(*_ends([series.y for series in panel.series]))))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(steps=STEPS))
        axes.set_ylim(bottom=0)


# ------------------------------------------------------------------------------------------------------------ with characters
# Not with a library: those that draw with characters tell series apart by colour, which a pipe has not, and six curves that
# mostly lie on one another need a mark each, and a rule for who is on top.


class _TextPanel:
    """One panel on a grid of characters; line 0 is the bottom."""

    def __init__(
        self, panel: Panel, x_ends: tuple[float, float], width: int, height: int, frame: tuple[str, ...], colour: bool
    ) -> None:
        self._panel, self._x_ends, self._height, self._frame, self._colour = panel, x_ends, height, frame, colour
        self._scale: Callable[[float], float] = math.log if panel.log else float
        low, high = _ends([series.y for series in panel.series])
        high = max([high, *(high for series in panel.series for _, _, high in _bars(series))])
        self._ticks = log_ticks(low, high) if panel.log else linear_ticks(0.0, high, max(2, height // 4))
        self._y_ends = (self._scale(low) if panel.log else 0.0, self._scale(high))
        self._margin = max(len(f"{tick:g}") for tick in self._ticks) + 1
        self._columns = width - self._margin - 1

    def lines(self) -> list[str]:
        grid = [[" "] * self._columns for _ in range(self._height)]
        for series in reversed(self._panel.series):
            self._put(series, grid)
        vertical, tick_mark, *_ = self._frame
        numbers = {self._line(tick): f"{tick:g}" for tick in reversed(self._ticks)}
        lines = [
            f"{numbers.get(line, ''):>{self._margin}}{tick_mark if line in numbers else vertical}{''.join(grid[line])}"
            for line in reversed(range(self._height))
        ]
        return [self._panel.y_label, *lines, *self._x_axis()]

    def _x_axis(self) -> list[str]:
        *_, horizontal, tick_mark, corner = self._frame
        axis, numbers = [horizontal] * self._columns, [" "] * (self._margin + 1 + self._columns)
        free_from = 0
        for tick in linear_ticks(*self._x_ends, self._columns // 12):
            column, text = self._column(tick), f"{tick:g}"
            begin = min(self._margin + 1 + column - len(text) // 2, len(numbers) - len(text))
            if tick == int(tick) and begin >= free_from:  # the axis counts
                axis[column] = tick_mark
                numbers[begin : begin + len(text)] = text
                free_from = begin + len(text) + 1
        return [" " * self._margin + corner + "".join(axis), "".join(numbers)]

    def _put(self, series: Series, grid: list[list[str]]) -> None:
        mark = _painted(_MARKS[series.look], series.look, self._colour)
        bar = _painted(self._frame[0], series.look, self._colour)
        if series.kind != "points":
            low, high = self._x_ends
            for column in range(self._column(series.x[0]), self._column(series.x[-1]) + 1):
                x = low + (high - low) * column / (self._columns - 1)
                grid[self._line(_value_at(series, x))][column] = mark
        for x, bottom, top in _bars(series):
            for line in range(self._line(bottom), self._line(top) + 1):
                grid[line][self._column(x)] = bar
        for x, y in zip(series.x, series.y, strict=True):
            grid[self._line(y)][self._column(x)] = mark

    def _column(self, x: float) -> int:
        low, high = self._x_ends
        return round((x - low) / (high - low) * (self._columns - 1)) if high > low else 0

    def _line(self, y: float) -> int:
        low, high = self._y_ends
        if self._panel.log and y <= 0:  # the lower end of an error bar
            return 0
        share = (self._scale(y) - low) / (high - low) if high > low else 0.0
        return min(max(round(share * (self._height - 1)), 0), self._height - 1)


def _bars(series: Series) -> list[tuple[float, float, float]]:
    """Return x, lower and upper end of each error bar; bands are none."""
    if series.kind != "points" or not series.errors:
        return []
    return [(x, y - error, y + error) for x, y, error in zip(series.x, series.y, series.errors, strict=True)]


def _ends(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    return min(map(min, values)), max(map(max, values))


def _value_at(series: Series, x: float) -> float:
    """Return a curve's value at an x between its ends."""
    right = min(max(bisect_left(series.x, x), 1), len(series.x) - 1)
    if len(series.x) == 1:
        return series.y[0]
    (x0, x1), (y0, y1) = series.x[right - 1 : right + 1], series.y[right - 1 : right + 1]
    share = min(max((x - x0) / (x1 - x0), 0.0), 1.0) if x1 > x0 else 1.0
    if series.kind == "steps":
        return y1 if share >= 0.5 else y0
    return y0 + (y1 - y0) * share


def _painted(character: str, look: int, colour: bool) -> str:
    return f"\x1b[{_SGR[look]}m{character}\x1b[0m" if colour else character
