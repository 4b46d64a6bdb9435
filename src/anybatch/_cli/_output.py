"""How commands print: JSON, tables, bars and progress."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anybatch._planner import Plan
from anybatch.plots import Chart

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_json(document: object) -> None:
    """Print one JSON document; NaN and infinities must have been replaced by null."""
    print(json.dumps(document, indent=2, allow_nan=False))


def print_text(text: str = "", style: str | None = None) -> None:
    """Print text as it is, wrapped by the terminal and nothing else."""
    _console().print(text, style=style, soft_wrap=True)


def print_declared(independent: Sequence[str]) -> None:
    """Print which outputs the caller declared to have independent rows; nothing where there are none."""
    if independent:
        print_text(f"declared  independent rows of {', '.join(independent)}, by the caller's word")


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, such as ``"1 row"`` or ``"2 rows"``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def new_table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return a table with these columns; those also in `numbers` are never wrapped, the others fold at any width."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        if column in numbers:
            table.add_column(column, justify="right", no_wrap=True)
        else:  # a column without a name is for bars
            table.add_column(column, overflow="fold", min_width=len(column), no_wrap=not column)
    return table


def print_table(table: Table) -> None:
    """Print a table, wider than the terminal rather than cut off."""
    from rich.measure import Measurement

    console = _console()
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).minimum
    console.width = max(console.width, needed)
    with console.capture() as text:
        console.print(table)
    for line in text.get().splitlines():
        print(line.rstrip())  # rich fills lines with blanks up to the table's width


def print_chart(chart: Chart) -> None:
    """Print a chart with characters, as wide as the terminal, and no wider than a chart is easy to read."""
    console = _console()
    # A pipe has no width, and what a chart is piped to is most often a page or a message.
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else 80
    colour = console.is_terminal and console.color_system is not None and not console.no_color
    print(chart.text(width=min(max(width, 40), 120), ascii_only=console.options.ascii_only, colour=colour))


def bar(share: float, width: int = 20) -> str:
    """Return a bar that fills `share` (0 to 1) of `width` characters, at least one where the share is not 0."""
    length = max(round(share * width), int(share > 0))
    return ("#" if _console().options.ascii_only else "━") * length


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on stderr where that is a terminal; yields a function that takes the share done, 0 to 1.

    Until that is called, the bar only shows that something is going on.
    """
    if not sys.stderr.isatty():
        yield lambda _share: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=None)
        yield lambda share: display.update(task, total=1.0, completed=share)


@contextmanager
def steps() -> Iterator[Callable[[str, float], None]]:
    """Show on stderr, where that is a terminal, a bar for each of several steps; yields a function of a step and its share."""
    if not sys.stderr.isatty():
        yield lambda _step, _share: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=1.0)
        yield lambda step, share: display.update(task, description=step, completed=share)


@contextmanager
def activity(what: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr, where that is a terminal, that something is going on; yields a function that takes its latest line."""
    if not sys.stderr.isatty():
        yield lambda _line: None
        return
    from rich.console import Console
    from rich.text import Text

    # As Text, since what a tool prints is no markup; one line, whatever it prints.
    with Console(stderr=True).status(Text(what)) as display:
        yield lambda line: display.update(Text(f"{what}: {' '.join(line.split())}", overflow="ellipsis", no_wrap=True))


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit in which a time has at least one digit before the point, and how many of it are in a second."""
    return next(((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e3)) if seconds * scale >= 1), ("us", 1e6))


def three_digits(number: float) -> str:
    """Return a number of 0 or more with about three digits."""
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan's rows, launches, padding and cost."""
    return {
        "rows": plan.rows,
        "launches": [{"gear": launch.gear, "rows": launch.rows} for launch in plan.launches],
        "padded_rows": plan.padded_rows,
        "cost": plan.cost,
        "policy": plan.policy,
    }


def is_simulated(backend: str) -> bool:
    """Whether a backend is a simulator, whose figures say nothing about hardware."""
    return backend.endswith("-sim")


def _console() -> Console:
    from rich.console import Console

    # Names and shapes are no markup: "[rows, 3]" would vanish.
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a pipe has no width; lines that stay whole are easier to search
    return console
