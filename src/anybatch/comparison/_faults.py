"""What is wrong with answers that are outside their tolerance, in sentences: rows mixed up, left over or never written, an
overflow, one channel, another model.

Only what differs is looked at, and of that a bounded part, so that a faulty entry is not slower by much than a right one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from anybatch._tensors import Array, TensorSpec
from anybatch.comparison._metrics import Floats, as_numbers, as_rows, tolerated
from anybatch.comparison._results import Metrics, Tolerance, Worst
from anybatch.comparison._tolerances import float_info

_ROWS: Final = 64  # faulty rows per case whose origin is looked for
_AMONG: Final = 4096  # rows that it is looked for among
_COLUMNS: Final = 64  # elements of a row that are compared first
_TELLING: Final = 4  # elements in a row from which one row alone can be recognised by its values
_COLUMN_ELEMENTS: Final = 1 << 20  # of a row whose elements are followed one by one
_FLOAT16_MAX: Final = 65504.0
_STEADY: Final = 0.1  # how much a constant offset may vary, as a share of it
_UNALIKE_DB: Final = 3.0
_UNALIKE_SHARE: Final = 0.5


class FaultFinder:
    """Looks at the requests of one output of one case.

    Args:
        tensor: the output.
        tolerance, scale: how far elements may be off.
        entry, reference: names, for the sentences.
        padding: returns the reference's answer for a row of padding, [1, elements]; None where it has none.
    """

    def __init__(
        self,
        tensor: TensorSpec,
        tolerance: Tolerance,
        scale: float,
        *,
        entry: str,
        reference: str,
        padding: Callable[[], Array | None] = lambda: None,
    ) -> None:
        self._tensor = tensor
        self._tolerance = tolerance
        self._scale = scale
        self._entry = entry
        self._reference = reference
        self._padding = padding
        self._looked = 0
        self._found: dict[str, str] = {}  # by kind of fault, the first sentence
        self._times: Counter[str] = Counter()
        self._overflows = self._saturated = self._infinities = self._nans = 0
        self._rows = 0
        self._columns: _Columns | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, expected: Array, got: Array, outside: Array, *, request: str = "", before: Array | None = None) -> None:
        """Look at a request.

        Args:
            expected, got: its answers, of one shape.
            outside: which rows have an element outside the tolerance, as `Differences.add` returns it.
            request: which one it is, to begin sentences with; empty where the case has one only.
            before: the reference's answers to the request before.
        """
        self._shape = expected.shape
        self._rows += len(outside)
        bad = np.flatnonzero(outside)
        if not bad.size:
            return
        with np.errstate(all="ignore"):
            one, other = as_rows(self._tensor, expected), as_rows(self._tensor, got)
            self._look_at_values(as_numbers(one[bad]), as_numbers(other[bad]))
            if one.shape[1] <= _COLUMN_ELEMENTS:
                if self._columns is None or self._columns.width != one.shape[1]:
                    self._columns = _Columns(one.shape[1])
                self._columns.add(as_numbers(one[bad]), as_numbers(other[bad]), self._tolerance, self._scale)
            if self._tensor.batch_axis is not None and self._looked < _ROWS and one.shape[1]:
                bad = bad[: _ROWS - self._looked]
                self._looked += len(bad)
                self._look_for_rows(one, other, [int(row) for row in bad], request, before)

    def sentences(self, metrics: Metrics, worst: Worst | None) -> tuple[str, ...]:
        """Return what was found, the plainest cause first; empty where nothing is outside the tolerance."""
        if not metrics.outside:
            return ()
        found = [
            sentence + (f"; and likewise in {self._times[kind] - 1} more requests" if self._times[kind] > 1 else "")
            for kind, sentence in self._found.items()
        ]
        found += self._about_values()
        if not self._found:
            found += self._about_the_whole(metrics) or self._about_columns(metrics)
        return (*found, self._about_the_worst(metrics, worst))

    # ------------------------------------------------------------------------------------------------------------- rows

    def _look_for_rows(self, one: Array, other: Array, bad: list[int], request: str, before: Array | None) -> None:
        got = as_numbers(other[bad])
        unwritten = [row for row, values in zip(bad, got, strict=True) if not values.any()]
        blank = [row for row, values in zip(bad, got, strict=True) if np.isnan(values).all()]
        if unwritten and one.shape[1] > 1:
            self._note("zeros", request, f"{rows_text(unwritten)} of {self._entry} {_are(unwritten)} all zeros: never written?")
        if blank and one.shape[1] > 1:
            self._note("NaN", request, f"{rows_text(blank)} of {self._entry} {_are(blank)} all NaN")
        left = [row for row in bad if row not in unwritten and row not in blank]
        if left:
            self._look_for_origins(one, other, left, request, before)

    def _look_for_origins(self, one: Array, other: Array, bad: list[int], request: str, before: Array | None) -> None:
        among = as_numbers(one[:_AMONG])
        here = self._origins(as_numbers(other[bad]), among, bad)
        if here:
            said = describe_moved_rows(here, bad, len(one), self._entry, self._reference)
            self._note("moved", request, said)
        left = [row for row in bad if row not in here]
        if left and before is not None:
            earlier = as_rows(self._tensor, before)
            if earlier.shape[1] == one.shape[1]:
                stale = self._origins(as_numbers(other[left]), as_numbers(earlier[:_AMONG]), left, itself=True)
                if stale:
                    rows, whence = sorted(stale), [stale[row] for row in sorted(stale)]
                    where = "" if rows == whence else f" (its {rows_text(whence)})"
                    self._note(
                        "stale", request, f"{rows_text(rows)} of {self._entry} {_are(rows)} of the request before{where}"
                    )
                    left = [row for row in left if row not in stale]
        padding = self._padding() if left else None
        if padding is not None:
            row = as_rows(self._tensor, padding)
            if row.shape == (1, one.shape[1]):
                shown = sorted(self._origins(as_numbers(other[left]), as_numbers(row), left, itself=True))
                if shown:
                    self._note(
                        "padding", request, f"{rows_text(shown)} of {self._entry} {_are(shown)} what {self._reference} answers "
                        "to a row of padding"
                    )  # fmt: skip

    def _origins(self, got: Floats, among: Floats, rows: Sequence[int], *, itself: bool = False) -> dict[int, int]:
        """Return, for rows that equal one of `among` within the tolerance, its index: the nearest of several alike.

        Args:
            itself: whether a row may equal that of its own index, which is another one there.
        """
        if not len(among):
            return {}
        width = among.shape[1]
        columns = np.unique(np.linspace(0, width - 1, min(width, _COLUMNS)).astype(np.intp))
        sample, allowed = among[:, columns], tolerated(among[:, columns], self._tolerance, self._scale)
        found = {}
        for row, values in zip(rows, got, strict=True):
            near = np.flatnonzero(_alike(values[columns], sample, allowed).all(axis=1))
            if len(columns) < width and near.size:
                near = near[np.argsort(np.abs(near - row), kind="stable")[:8]]
                near = near[_alike(values, among[near], tolerated(among[near], self._tolerance, self._scale)).all(axis=1)]
            near = near[(near != row) | itself]
            alike = near.size > 0 and (near.size == 1 or (width >= _TELLING and bool(np.ptp(among[near], axis=0).max() == 0)))
            if alike:
                found[row] = int(near[np.argmin(np.abs(near - row))])
        # With few elements in a row, another one is like it by chance; several of them are not.
        return found if width >= _TELLING or len(found) > 1 else {}

    def _note(self, kind: str, request: str, sentence: str) -> None:
        self._found.setdefault(kind, f"{request}: {sentence}" if request else sentence)
        self._times[kind] += 1

    # ----------------------------------------------------------------------------------------------------------- values

    def _look_at_values(self, expected: Floats, got: Floats) -> None:
        finite = np.isfinite(expected)
        infinite = np.isinf(got) & finite
        beyond = np.abs(expected) > _FLOAT16_MAX
        overflows = infinite & beyond
        self._overflows += int(np.count_nonzero(overflows))
        self._saturated += int(np.count_nonzero(finite & beyond & (np.abs(got) == _FLOAT16_MAX)))
        self._infinities += int(np.count_nonzero(infinite & ~beyond))
        self._nans += int(np.count_nonzero(np.isnan(got) & ~np.isnan(expected)))

    def _about_values(self) -> list[str]:
        said = []
        if self._overflows:
            said.append(
                f"overflow of float16: {_elements(self._overflows)} of {self._entry} {_is(self._overflows)} infinite where "
                f"{self._reference} is finite and beyond 65504, the largest float16"
            )
        if self._saturated:
            said.append(
                f"overflow of float16: {_elements(self._saturated)} of {self._entry} {_is(self._saturated)} 65504, the largest "
                f"float16, where {self._reference} has more"
            )
        if self._infinities:
            said.append(
                f"{_elements(self._infinities)} of {self._entry} {_is(self._infinities)} infinite where {self._reference} is "
                "finite: an overflow within the model?"
            )
        if self._nans:
            said.append(f"{_elements(self._nans)} of {self._entry} {_is(self._nans)} NaN where {self._reference} has a number")
        return said

    def _about_the_whole(self, metrics: Metrics) -> list[str]:
        if metrics.outside < _UNALIKE_SHARE * metrics.elements or metrics.elements < _TELLING:
            return []
        if float_info(self._tensor.dtype) is None or metrics.snr_db is None or metrics.snr_db > _UNALIKE_DB:
            return []
        alike = metrics.cosine or 0.0
        if alike > 0.999:
            return [f"{self._entry} has the values of {self._reference} times a factor: is its output scaled alike?"]
        return [
            f"{self._entry} is nothing like {self._reference} (cosine {alike:.2f}, {metrics.outside / metrics.elements:.0%} of "
            "the elements outside): is it the same model, with the same preprocessing?"
        ]

    def _about_columns(self, metrics: Metrics) -> list[str]:
        columns, rows = self._columns, self._rows
        if columns is None or self._tensor.batch_axis is None or rows < 2:
            return []
        steady = columns.steady() if columns.rows == rows else np.zeros(0, np.intp)
        if 0 < steady.size < columns.width or (steady.size and columns.width == 1):
            low, high = float(columns.mean[steady].min()), float(columns.mean[steady].max())
            by = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
            what = _places(self._places(steady))
            return [f"{what} of {self._entry} {_is(steady.size)} off by {by} in each of the {rows} rows"]
        faulty = np.flatnonzero(columns.outside)
        if 0 < faulty.size < columns.width and columns.outside.sum() == metrics.outside:
            places = self._places(faulty)
            if len(places) <= 3:
                return [f"only {_places(places)} of {self._entry} {_is(faulty.size)} outside the tolerance"]
        return []

    def _places(self, columns: Array) -> list[str]:
        """Return elements of a row as text, such as ``[:, 3]``; as one where they are all that has one index on an axis."""
        axis, factor = self._tensor.batch_axis or 0, self._tensor.rows_per_row
        rest = self._shape[:axis] + self._shape[axis + 1 :]
        at = np.stack(np.unravel_index(columns, (factor, *rest)), axis=1)[:, 1:]
        each = math.prod(rest) * factor
        for number, size in enumerate(rest):
            values = np.unique(at[:, number])
            if size > 1 and len(values) < size and len(columns) == len(values) * each // size:
                texts = [":"] * len(rest)
                named = []
                for value in values:
                    texts[number] = str(value)
                    named.append(f"[{', '.join((*texts[:axis], ':', *texts[axis:]))}]")
                return named
        return [f"[{', '.join((*map(str, place[:axis]), ':', *map(str, place[axis:])))}]" for place in np.unique(at, axis=0)]

    def _about_the_worst(self, metrics: Metrics, worst: Worst | None) -> str:
        share = f"{metrics.outside:,} of {metrics.elements:,} elements"
        exact = not (self._tolerance.rtol or self._tolerance.atol)
        what = f"{share} {'is' if metrics.outside == 1 else 'are'} " + ("not equal" if exact else "outside the tolerance")
        if worst is None:
            return what
        where = f"{list(worst.index)}" + ("" if worst.row is None else f" in row {worst.row}")
        more = "" if exact else f", tolerated {worst.tolerated:.3g}"
        return f"{what}; the worst at {where}: expected {_number(worst.expected)}, got {_number(worst.got)}{more}"


class _Columns:
    """The differences of each element of a row, over rows that are all outside the tolerance."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = 0
        self.outside = np.zeros(width, np.int64)
        self._low = np.full(width, np.inf)
        self._high = np.full(width, -np.inf)
        self._sum = np.zeros(width)

    def add(self, expected: Floats, got: Floats, tolerance: Tolerance, scale: float) -> None:
        """Add rows."""
        off = got - expected
        off[~np.isfinite(off)] = np.inf
        self.rows += len(off)
        self.outside += (np.abs(off) > tolerated(expected, tolerance, scale)).sum(axis=0)
        self._low = np.minimum(self._low, off.min(axis=0))
        self._high = np.maximum(self._high, off.max(axis=0))
        self._sum += off.sum(axis=0)

    @property
    def mean(self) -> Floats:
        """Mean difference of each element."""
        return np.asarray(self._sum / max(1, self.rows))

    def steady(self) -> Array:
        """Return the elements that are off by the same in each row."""
        with np.errstate(all="ignore"):
            same = (self._high - self._low) <= _STEADY * np.abs(self.mean)
        return np.flatnonzero(same & (self.outside == self.rows))


def describe_moved_rows(origins: Mapping[int, int], bad: Sequence[int], rows: int, entry: str, reference: str) -> str:
    """Return one sentence on rows that are where others belong.

    Args:
        origins: by row of the entry, the reference's row that it equals.
        bad: all rows that were looked at.
        rows: of the request.
    """
    moved = sorted(origins)
    shift = {origins[row] - row for row in moved}
    whole = len(moved) == len(bad)
    pairs = [(row, origins[row]) for row in moved if row < origins[row] and origins.get(origins[row]) == row]
    if whole and len(moved) > 2 and all(origins[row] == rows - 1 - row for row in moved):
        return f"the {rows} rows of {entry} are those of {reference} in reverse"
    if pairs and 2 * len(pairs) == len(moved):
        named = ", ".join(f"{one} and {other}" for one, other in pairs[:3])
        more = f", and {len(pairs) - 3} more pairs" if len(pairs) > 3 else ""
        equal = (
            "" if len(pairs) > 1 else f": row {pairs[0][0]} of {entry} equals row {pairs[0][1]} of {reference}, and vice versa"
        )
        return f"rows {named}{more} of {entry} are swapped{equal}"
    if len(moved) > 1 and len(shift) == 1:
        whence = [origins[row] for row in moved]
        return f"{rows_text(moved)} of {entry} are {rows_text(whence)} of {reference}: shifted by {abs(shift.pop())}"
    if len(moved) > 1 and len(set(origins.values())) == 1:
        return f"{rows_text(moved)} of {entry} all equal row {origins[moved[0]]} of {reference}"
    named = ", ".join(f"row {row} of {entry} equals row {origins[row]} of {reference}" for row in moved[:3])
    return named + (f", and {len(moved) - 3} more rows equal others" if len(moved) > 3 else "")


def rows_text(rows: Sequence[int]) -> str:
    """Return rows as text: ``row 5``, ``rows 5 to 7``, ``rows 1, 4 and 9``."""
    rows = sorted(rows)
    if len(rows) == 1:
        return f"row {rows[0]}"
    if rows[-1] - rows[0] == len(rows) - 1 and len(set(rows)) == len(rows):
        return f"rows {rows[0]} {'and' if len(rows) == 2 else 'to'} {rows[-1]}"
    if len(rows) > 5:
        return f"rows {', '.join(map(str, rows[:4]))} and {len(rows) - 4} more"
    return f"rows {', '.join(map(str, rows[:-1]))} and {rows[-1]}"


def _alike(values: Floats, among: Floats, allowed: Floats) -> Array:
    same = (values == among) | (np.isnan(values) & np.isnan(among))
    return np.asarray(same | (np.abs(values - among) <= allowed))


def _are(rows: Sequence[int]) -> str:
    return "is" if len(rows) == 1 else "are"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _elements(count: int) -> str:
    return "1 element" if count == 1 else f"{count:,} elements"


def _places(places: Iterable[str]) -> str:
    named = list(places)
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"element{'s' if len(named) > 1 else ''} {', '.join(named[:3])}{more}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.7g}"
