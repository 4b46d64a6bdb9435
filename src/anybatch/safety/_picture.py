"""Draws boxes under one another, joined by arrows, as SVG. Knows nothing of models.

Nobody can ask here how wide a viewer's font is: text is set in a monospaced one, reckoned a little wider than those are, and
wrapped to a width in characters. A white background of its own keeps a picture readable in dark viewers, and "only light" does
where a browser darkens pages by itself: Chromium's forced dark mode turns text white and leaves fills as they are.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from xml.sax.saxutils import escape

Look: TypeAlias = Literal["plain", "good", "doubtful", "bad"]

_CHARACTERS: Final = 44  # of a line in a box
_FONT: Final = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
_FONT_SIZE: Final = 13
_ADVANCE: Final = 0.62 * _FONT_SIZE  # the fonts above have 0.55 to 0.602
_LINE: Final = 18
_INSIDE: Final = 12  # from a box's border to its text
_BETWEEN: Final = 30  # boxes, one above the other
_ASIDE: Final = 40  # flows, side by side
_MARGIN: Final = 20
_WIDTH: Final = round(_CHARACTERS * _ADVANCE) + 2 * _INSIDE

# Fill, border, its width, its dashes. Borders tell without colour.
_LOOKS: Final[dict[Look, tuple[str, str, float, str]]] = {
    "plain": ("#ffffff", "#555555", 1, ""),
    "good": ("#e6f4e8", "#2e7d32", 1, ""),
    "doubtful": ("#eeeeee", "#555555", 2, "6 3"),
    "bad": ("#fdded9", "#c62828", 3, ""),
}
# What XML cannot hold, and what would break a line.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Box:
    """A box with a heading and some lines of text, each wrapped where it is too long."""

    heading: str
    lines: Sequence[str]
    look: Look = "plain"


def draw(title: str, flows: Sequence[Sequence[Box]], note: str = "") -> str:
    """Return an SVG document: each flow's boxes from top to bottom, the flows side by side. The same input, the same text."""
    columns = max(len(flows), 1)
    width = 2 * _MARGIN + columns * _WIDTH + (columns - 1) * _ASIDE
    wide = int((width - 2 * _MARGIN) / _ADVANCE)
    parts = _text(_wrapped(title, wide), _MARGIN, _MARGIN, "#111111", bold=True)
    top = bottom = _MARGIN + len(_wrapped(title, wide)) * _LINE + _LINE
    for index, flow in enumerate(flows):
        left, y = _MARGIN + index * (_WIDTH + _ASIDE), top
        for place, box in enumerate(flow):
            if place:
                parts += _arrow(left + _WIDTH / 2, y, y + _BETWEEN)
                y += _BETWEEN
            drawn, y = _box(box, left, y)
            parts += drawn
        bottom = max(bottom, y)
    if note:
        lines = _wrapped(note, wide)
        parts += _text(lines, _MARGIN, bottom + _LINE, "#444444")
        bottom += (len(lines) + 1) * _LINE
    height = bottom + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="{_FONT}" font-size="{_FONT_SIZE}" role="img" '
            'style="color-scheme: only light">',
            f"<title>{_escaped(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(box: Box, left: int, top: int) -> tuple[list[str], int]:
    """Return a box, and where it ends."""
    fill, border, thick, dashes = _LOOKS[box.look]
    heading = _wrapped(box.heading, _CHARACTERS)
    lines = [part for line in box.lines for part in _wrapped(line, _CHARACTERS)]
    height = (len(heading) + len(lines)) * _LINE + 2 * _INSIDE
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    drawn = [
        f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{height}" rx="4" fill="{fill}" stroke="{border}" '
        f'stroke-width="{thick}"{dashed}/>',
        *_text(heading, left + _INSIDE, top + _INSIDE, "#111111", bold=True),
        *_text(lines, left + _INSIDE, top + _INSIDE + len(heading) * _LINE, "#333333"),
    ]
    return drawn, top + height


def _arrow(x: float, top: int, bottom: int) -> list[str]:
    return [
        f'<path d="M{x:g} {top} V{bottom - 8}" stroke="#555555" fill="none"/>',
        f'<path d="M{x - 5:g} {bottom - 9} L{x + 5:g} {bottom - 9} L{x:g} {bottom - 1} Z" fill="#555555"/>',
    ]


def _text(lines: Iterable[str], left: int, top: int, colour: str, *, bold: bool = False) -> list[str]:
    """Return lines of text, the first with its upper edge at `top`."""
    weight = ' font-weight="bold"' if bold else ""
    return [
        f'<text x="{left}" y="{top + index * _LINE + _FONT_SIZE}" fill="{colour}"{weight}>{_escaped(line)}</text>'
        for index, line in enumerate(lines)
    ]


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most that many columns; one with wide characters is taken to consist of them."""
    text = _UNPRINTABLE.sub("?", text)
    is_wide = any(unicodedata.east_asian_width(character) in "WF" for character in text)
    return textwrap.wrap(text, width // 2 if is_wide else width, break_on_hyphens=False)


def _escaped(text: str) -> str:
    return escape(_UNPRINTABLE.sub("?", text))
