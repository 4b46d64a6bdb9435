"""A comparison as one HTML page that needs nothing else: no scripts, no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from anybatch.comparison._charts import LOOKS, Curve, Point, curve_chart, distribution_chart, plan_chart, swatch
from anybatch.comparison._document import well_formed
from anybatch.comparison._results import (
    MODELLED,
    Accuracy,
    Case,
    Comparison,
    EntryResult,
    Interval,
    Provenance,
    SizeSpeed,
    Speed,
    Worst,
)

# More groups of metrics than these begin with their distributions folded away.
_MOST_OPEN: Final = 12


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One output: a line per case with a cell per entry, None where there is no answer."""

    output: str
    entries: tuple[str, ...]
    lines: tuple[tuple[Case, tuple[Accuracy | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """All cases of one output of one entry."""

    entry: str
    output: str
    simulated: bool
    items: tuple[Accuracy, ...]

    @property
    def failed(self) -> int:
        return sum(item.verdict == "fail" for item in self.items)

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fault for item in self.items for fault in item.faults))

    @property
    def tolerances(self) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(item.tolerance for item in self.items if item.tolerance is not None))

    @property
    def histogram(self) -> tuple[int, ...]:
        """Elements of all cases, by bin; empty where none was compared."""
        counts = [item.metrics.histogram for item in self.items if item.metrics is not None]
        return tuple(map(sum, zip(*counts, strict=True)))


@dataclass(frozen=True, slots=True)
class _Chart:
    """Some entries' curves; there may be more of them than one chart can tell apart."""

    latency: str
    throughput: str
    legend: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Timed:
    """Speeds of one provenance."""

    provenance: Provenance
    speeds: tuple[Speed, ...]
    charts: tuple[_Chart, ...]


def as_page(comparison: Comparison) -> str:
    """Return the page, encoded as UTF-8 when it is written. Equal comparisons make equal pages.

    Whatever a modelled figure stands in, be it a chart, a table's line or a figure's name, says so beside it.
    """
    import jinja2  # whoever asks for no page waits for no template engine

    here = resources.files(__package__)
    style = here.joinpath("page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        seconds=_seconds, figure=_figure, interval=_interval, size=_size, share=_share, element=_element, rate=_rate
    )
    template = environment.from_string(here.joinpath("page.html.j2").read_text(encoding="utf-8"))
    entries = {entry.name: entry for entry in comparison.entries}
    groups = list(_groups(comparison, entries))
    page = template.render(
        comparison=comparison,
        entries=entries,
        badge=MODELLED,
        sentence=_sentence(comparison),
        matrices=list(_matrices(comparison)),
        groups=groups,
        few=len(groups) <= _MOST_OPEN,
        timed=list(_timed(comparison)),
        plans=list(_plans(comparison)),
        elements=sum(item.metrics.elements for item in comparison.accuracy if item.metrics is not None),
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        distribution_chart=distribution_chart,
    )
    return well_formed(page)


def _sentence(comparison: Comparison) -> str:
    """Return the verdict in a sentence, with no name in it, for names may be long."""
    others = [entry for entry in comparison.entries if entry.name != comparison.reference]
    if comparison.verdict == "pass":
        if len(others) == 1:
            return "The entry answers like the reference, within the tolerances."
        return f"All {len(others)} entries answer like the reference, within the tolerances."
    broken = {entry.name for entry in comparison.entries if entry.failures}
    differ = {item.entry for item in comparison.accuracy if item.verdict == "fail"} - broken
    found = [
        f"{len(differ)} of {_counted(len(others), 'entry', 'entries')} differ{'s' * (len(differ) == 1)} from the reference"
    ]
    if broken:
        found.append(f"{len(broken)} could not finish")
    if any(item.metrics is not None for item in comparison.accuracy):
        return "; ".join(found if differ else found[1:]).capitalize() + "." if differ or broken else "The comparison failed."
    return "Nothing was compared."


def _matrices(comparison: Comparison) -> Iterator[_Matrix]:
    found = {(item.case, item.output, item.entry): item for item in comparison.accuracy}
    names = tuple(dict.fromkeys(item.entry for item in comparison.accuracy))
    cases = tuple(dict.fromkeys(item.case for item in comparison.accuracy))
    outputs = list(dict.fromkeys(item.output for item in comparison.accuracy if item.output)) or ["" for _ in cases[:1]]
    for output in outputs:
        lines = [
            (case, tuple(found.get((case, output, name), found.get((case, "", name))) for name in names)) for case in cases
        ]
        yield _Matrix(output, names, tuple(lines))


def _groups(comparison: Comparison, entries: dict[str, EntryResult]) -> Iterator[_Group]:
    keys = dict.fromkeys((item.entry, item.output) for item in comparison.accuracy)
    found: dict[tuple[str, str], list[Accuracy]] = {key: [] for key in keys}
    for item in comparison.accuracy:
        found[item.entry, item.output].append(item)
    for (entry, output), items in found.items():
        yield _Group(entry, output, entry in entries and entries[entry].simulated, tuple(items))


def _timed(comparison: Comparison) -> Iterator[_Timed]:
    """Yield measured speeds, then modelled ones: no chart and no table has both."""
    kinds: tuple[Provenance, ...] = ("measured", "modelled")
    for provenance in kinds:
        speeds = tuple(speed for speed in comparison.speeds if speed.provenance == provenance)
        if speeds:
            pages = [speeds[start : start + LOOKS] for start in range(0, len(speeds), LOOKS)]
            yield _Timed(provenance, speeds, tuple(_chart(page, provenance) for page in pages))


def _chart(speeds: Sequence[Speed], provenance: Provenance) -> _Chart:
    said = MODELLED if provenance == "modelled" else provenance
    slowest = max((size.p50.value for speed in speeds for size in speed.sizes if math.isfinite(size.p50.value)), default=1.0)
    unit, scale = _time_unit(slowest)

    def curves(point: Callable[[str, SizeSpeed], Point]) -> list[Curve]:
        return [
            Curve(speed.entry, look, tuple(point(speed.entry, size) for size in speed.sizes))
            for look, speed in enumerate(speeds)
        ]

    def latency(name: str, size: SizeSpeed) -> Point:
        p50 = size.p50
        title = f"{name}, {size.rows:,} rows: p50 {_interval(p50)}, p99 {_seconds(size.p99.value)}; {said}"
        return Point(size.rows, p50.value * scale, p50.low * scale, p50.high * scale, size.p99.value * scale, title)

    def throughput(name: str, size: SizeSpeed) -> Point:
        rate = size.rows_per_s
        return Point(size.rows, rate.value, rate.low, rate.high, None, f"{name}, {size.rows:,} rows: {_rate(rate)}; {said}")

    names = ", ".join(speed.entry for speed in speeds)
    return _Chart(
        latency=curve_chart(curves(latency), "rows of a request", unit, f"Latency over rows, {said}: {names}"),
        throughput=curve_chart(curves(throughput), "rows of a request", "rows/s", f"Throughput over rows, {said}: {names}"),
        legend=tuple((swatch(look, f"curve of {speed.entry}"), speed.entry) for look, speed in enumerate(speeds)),
    )


def _plans(comparison: Comparison) -> Iterator[tuple[tuple[EntryResult, ...], str]]:
    """Yield entries that launch alike, and the picture of their plans."""
    alike: dict[Any, list[EntryResult]] = {}
    for entry in comparison.entries:
        if entry.plans:
            alike.setdefault(tuple((plan.rows, plan.launches) for plan in entry.plans), []).append(entry)
    for entries in alike.values():
        yield (
            tuple(entries),
            plan_chart(entries[0].plans, f"Launches of {'; '.join(entry.name for entry in entries)}, to scale"),
        )


# --------------------------------------------------------------------------------------------------------------- in words


def _counted(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    return f"{value:.3g}"


def _time_unit(seconds: float) -> tuple[str, float]:
    return next(((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e3)) if seconds * scale >= 1), ("µs", 1e6))


def _three_digits(number: float) -> str:
    if not math.isfinite(number):
        return _figure(number)
    return f"{number:,.2f}" if abs(number) < 10 else f"{number:,.1f}" if abs(number) < 100 else f"{number:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None or value == 0 or not math.isfinite(value):
        return _figure(value) if value != 0 else "0"
    unit, scale = _time_unit(abs(value))
    return f"{_three_digits(value * scale)} {unit}"


def _interval(interval: Interval) -> str:
    """Return a time and its interval, all three in one unit."""
    unit, scale = _time_unit(interval.value)
    value, low, high = (_three_digits(each * scale) for each in (interval.value, interval.low, interval.high))
    return f"{value} {unit}" if low == value == high else f"{value} ({low} to {high}) {unit}"


def _rate(interval: Interval) -> str:
    value, low, high = map(_three_digits, (interval.value, interval.low, interval.high))
    return f"{value} rows/s" if low == value == high else f"{value} ({low} to {high}) rows/s"


def _size(value: int | None) -> str:
    if value is None:
        return "–"
    unit, scale = next(((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if value >= s), ("bytes", 1))
    return f"{_three_digits(value / scale)} {unit}" if scale > 1 else f"{value} bytes"


def _share(worst: Worst | None) -> str:
    """Return how far off the worst element is, as a share of what is tolerated."""
    if worst is None:
        return "equal"
    if math.isfinite(worst.got) and math.isfinite(worst.expected):
        share = abs(worst.got - worst.expected) / worst.tolerated if worst.tolerated else math.inf
        if share < 0.001:
            return "<0.1%"
        return f"{share * 100:.2g}%" if share < 1 else f"{_three_digits(share)}×" if share < 1e6 else ">10⁶×"
    return "not finite"


def _element(worst: Worst) -> str:
    row = "" if worst.row is None else f"row {worst.row:,}, "
    index = ", ".join(map(str, worst.index))
    return (
        f"{row}index [{index}]: expected {_precise(worst.expected)}, got {_precise(worst.got)}, "
        f"tolerated ±{_figure(worst.tolerated)}"
    )


def _precise(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else _figure(value)
