"""Drawings for a page, as SVG inside HTML: colours, fonts and hatching are the page's style sheet's, by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from xml.etree import ElementTree as ET

from anybatch._ticks import linear_ticks, log_ticks


class Drawing:
    """An SVG element that is as wide as it may be. Text comes in as it is, and is escaped.

    Args:
        width, height: of its coordinates; the page scales them, so that a width of 360 makes text readable on a phone.
        label: what it shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.root = ET.Element("svg", {"viewBox": f"0 0 {_short(width)} {_short(height)}", "role": "img", "aria-label": label})

    def add(self, tag: str, style: str = "", *, text: str = "", title: str = "", **attributes: float | str) -> None:
        """Add a shape.

        Args:
            style: its classes.
            text: its content.
            title: shown where the mouse rests on it.
            attributes: as SVG names them, with ``_`` for ``-``; the underscore of ``in_`` and the like is dropped.
        """
        values = {"class": style} if style else {}
        for name, value in attributes.items():
            values[name.rstrip("_").replace("_", "-")] = value if isinstance(value, str) else _short(value)
        element = ET.SubElement(self.root, tag, values)
        element.text = text or None
        if title:
            ET.SubElement(element, "title").text = title

    def text(self) -> str:
        """Return the drawing as markup."""
        return ET.tostring(self.root, encoding="unicode", short_empty_elements=False)


class Scale:
    """Numbers to places on an axis.

    An axis is logarithmic where the largest value is more than 12 times the smallest one, else it has 0 at its beginning, or
    begins before its smallest value where `from_zero` is False.

    Args:
        values: at least one; positive ones make a logarithmic axis possible.
        begin, end: the places of the axis's ends.
    """

    def __init__(self, values: Sequence[float], begin: float, end: float, *, from_zero: bool = True) -> None:
        low, high = min(values), max(values)
        self.log = low > 0 and high > 12 * low
        if self.log:
            low, high = low / 1.15, high * 1.15
        elif from_zero:
            low, high = 0.0, high * 1.08 or 1.0
        else:
            low, high = low - (high - low or 1.0) * 0.06, high + (high - low or 1.0) * 0.06
        self._low, self._high, self._begin, self._end = low, high, begin, end

    def __call__(self, value: float) -> float:
        """Return the place of a value; beyond the axis's ends, that of the end."""
        if self.log:
            share = math.log(max(value, self._low) / self._low) / math.log(self._high / self._low)
        else:
            share = (value - self._low) / (self._high - self._low)
        return self._begin + min(max(share, 0.0), 1.0) * (self._end - self._begin)

    def ticks(self, apart: float) -> list[float]:
        """Return round numbers on the axis, at places that are at least so far from one another."""
        length = abs(self._end - self._begin)
        ticks = log_ticks(self._low, self._high) if self.log else linear_ticks(self._low, self._high, int(length / apart))
        powers = [tick for tick in ticks if math.log10(tick) == round(math.log10(tick))] if self.log else []
        if len(powers) >= 3:
            ticks = powers
        return _kept(ticks, self, apart)


class Steps:
    """Numbers to places on an axis that has them side by side, at equal distances, whatever lies between them.

    Args:
        values: at least one.
        begin, end: the places of the axis's ends.
    """

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        ordered = sorted(set(values))
        width = (end - begin) / len(ordered)
        self._places = {value: begin + width * (place + 0.5) for place, value in enumerate(ordered)}

    def __call__(self, value: float) -> float:
        """Return the place of one of the values."""
        return self._places[value]

    def ticks(self, apart: float) -> list[float]:
        """Return as many of the values as have places that are at least so far from one another."""
        return _kept(self._places, self, apart)


def _kept(ticks: Iterable[float], place: Callable[[float], float], apart: float) -> list[float]:
    kept: list[float] = []
    for tick in ticks:
        if not kept or abs(place(tick) - place(kept[-1])) >= apart:
            kept.append(tick)
    return kept


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
