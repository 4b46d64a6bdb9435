"""How many requests there were of each number of rows: from a mapping, a list, a runner's counters, or a file."""

from __future__ import annotations

import csv
import json
import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Final

import numpy as np

from anybatch._errors import InputError

_MAX_ROWS: Final = 10**9
_MAX_COUNT: Final = 1e18
_HEADERS: Final = (["rows"], ["rows", "count"])
_WANTED: Final = "a mapping of rows to counts, a list of rows, a runner's stats, or a file of one of these"


def read_requests(requests: object) -> dict[int, float]:
    """Return how many requests there were by number of rows, ascending.

    Args:
        requests: one of

            - a mapping of rows to counts; counts may be shares, and what counts 0 is left out;
            - an iterable of rows, one for each request, such as a NumPy array;
            - what has such a mapping as its attribute ``sizes``, like `Stats`; requests of no rows are left out, since nothing
              is launched for them;
            - the path of a file. ``.json`` holds a list or an object like the above. Anything else is CSV: a column of
              rows, or two, rows and counts, with or without the header ``rows`` or ``rows,count``.

    Raises:
        InputError: it is none of these, holds no request, cannot be read, or a number of rows is not an int from 1 to 10^9, or
            a count is negative or not finite. The message says where.
    """
    if isinstance(requests, (str, os.PathLike)):
        counts = _read_file(Path(requests))
    elif isinstance(sizes := getattr(requests, "sizes", None), Mapping):
        counts = _of_mapping(_without_empty(sizes), "the stats")
    elif isinstance(requests, Mapping):
        counts = _of_mapping(requests, "the requests")
    elif isinstance(requests, Iterable) and not isinstance(requests, (bytes, bytearray)):
        counts = _of_list(requests, "the requests")
    else:
        raise InputError(f"expected requests as {_WANTED}, got {requests!r}")
    return {rows: counts[rows] for rows in sorted(counts)}


def _read_file(path: Path) -> dict[int, float]:
    try:
        if path.suffix.lower() == ".json":
            return _of_json(json.loads(path.read_bytes()), path)
        return _read_csv(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text in UTF-8, but {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, but {error}") from error


def _of_json(document: Any, path: Path) -> dict[int, float]:
    if isinstance(document, list):
        return _of_list(document, str(path))
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a list of rows or an object of counts by rows, got {_short(document)}")
    recorded = isinstance(document.get("sizes"), dict)
    counts: dict[object, object] = {}
    for name, count in (document["sizes"] if recorded else document).items():
        if not name.strip().isdecimal():  # JSON has no keys but texts
            raise InputError(
                f'{path}: expected a number of rows for each count, such as {{"4": 120}}, got {_short(name)}; '
                'the stats of a runner have them under "sizes"'
            )
        counts[int(name)] = count
    return _of_mapping(_without_empty(counts) if recorded else counts, str(path))


def _read_csv(path: Path) -> dict[int, float]:
    with path.open(encoding="utf-8-sig", newline=None) as file:
        # Traces repeat themselves: count equal lines first, and read each kind once.
        lines = Counter(file)
    counts: dict[int, float] = {}
    columns = 0
    for line, times in lines.items():
        try:
            fields = [field.strip() for field in next(csv.reader([line]), [])]
        except csv.Error as error:
            raise InputError(f"{_where(path, line)}: expected CSV, but {error}") from error
        if not any(fields):
            continue
        if not columns:
            columns = len(fields)
            if not fields[0].lstrip("+-").replace(".", "", 1).isdigit():
                if [field.lower() for field in fields] not in _HEADERS or times > 1:
                    raise InputError(
                        f"{_where(path, line)}: expected rows, or rows and count, perhaps below the header 'rows' or "
                        f"'rows,count', got {_short(line.strip())}"
                    )
                continue
        if len(fields) != columns or columns > 2:
            raise InputError(
                f"{_where(path, line)}: expected {'rows' if columns == 1 else 'rows,count'}, got {_short(line.strip())}"
            )
        try:
            rows, count = int(fields[0]), float(fields[1]) if columns == 2 else 1.0
        except ValueError:
            raise InputError(f"{_where(path, line)}: expected numbers, got {_short(line.strip())}") from None
        _add(counts, rows, count * times, lambda line=line: _where(path, line))
    return _check_any(counts, str(path))


def _where(path: Path, line: str) -> str:
    """Return the place of the first line that reads so."""
    with path.open(encoding="utf-8-sig", newline=None) as file:
        number = next((number for number, other in enumerate(file, 1) if other == line), 0)
    return f"{path}, line {number}"


def _of_mapping(counts: Mapping[Any, Any], where: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for rows, count in counts.items():
        _add(found, rows, count, lambda: where)
    return _check_any(found, where)


def _of_list(sizes: Iterable[Any], where: str) -> dict[int, float]:
    if isinstance(sizes, np.ndarray):
        if sizes.ndim != 1:
            raise InputError(f"{where}: expected one number of rows for each request, got an array of shape {sizes.shape}")
        sizes = sizes.tolist()
    found: dict[int, float] = {}
    try:
        counts = Counter(sizes)
    except TypeError as error:  # unhashable: nested lists and the like
        raise InputError(f"{where}: expected a list of rows, one for each request; {error}") from None
    for rows, count in counts.items():
        _add(found, rows, count, lambda: where)
    return _check_any(found, where)


def _without_empty(sizes: Mapping[Any, Any]) -> dict[Any, Any]:
    return {rows: count for rows, count in sizes.items() if rows != 0}


def _add(counts: dict[int, float], rows: Any, count: Any, where: Any) -> None:
    try:
        number = operator.index(rows)
    except TypeError:
        number = -1
    if isinstance(rows, bool) or not 1 <= number <= _MAX_ROWS:
        raise InputError(f"{where()}: expected requests of 1 to {_MAX_ROWS:,} rows, got {_short(rows)}")
    if isinstance(count, bool) or not isinstance(count, Real) or not 0 <= float(count) <= _MAX_COUNT:
        raise InputError(
            f"{where()}: expected a count from 0 to {_MAX_COUNT:g} of requests of {number} rows, got {_short(count)}"
        )
    if count:
        counts[number] = counts.get(number, 0.0) + float(count)


def _check_any(counts: dict[int, float], where: str) -> dict[int, float]:
    if not counts:
        raise InputError(f"{where}: expected at least one request, got none")
    return counts


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
