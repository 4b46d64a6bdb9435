"""A comparison as JSON. Its fields are those of `_results.py`; `compare.schema.json` beside this file describes them all."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from anybatch._planner import Plan
from anybatch.comparison._results import Case, Comparison, SizeSpeed, Speed

# Raised by whatever a program that reads documents would trip over; a new field is not.
SCHEMA: Final = 1

# What is computed from fields and worth having beside them.
COMPUTED: Final[Mapping[type, tuple[str, ...]]] = {Case: ("rows",), Plan: ("padded_rows",), SizeSpeed: ("rows",)}


def as_document(comparison: Comparison) -> dict[str, Any]:
    """Return all of a comparison as dicts, lists, strings, numbers, bools and None, as `schema` describes it.

    Decision: a float that JSON has no number for is the string ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``: those are results
    here, Python's ``float()`` and JavaScript's ``Number()`` read them back, and null goes on to mean that there is no figure.
    Lone surrogates, such as of file names that are no text, become U+FFFD.
    """
    plain = {field.name: _plain(getattr(comparison, field.name)) for field in dataclasses.fields(comparison)}
    return {
        "schema": SCHEMA,
        "verdict": plain["verdict"],
        "reasons": plain["reasons"],
        "created": plain["created"],
        "seconds": plain["seconds"],
        "model": {"name": plain["model"], "sha256": plain["model_digest"]},
        "data": {"source": plain["data"], "rows": plain["data_rows"]},
        "reference": plain["reference"],
        "environment": plain["environment"],
        "backends": plain["entries"],
        "accuracy": plain["accuracy"],
        "speed": [_speed(speed) for speed in comparison.speeds],
        "divergences": plain["divergences"],
    }


def as_json(comparison: Comparison) -> str:
    """Return the document as text that ends with a line break; see `as_document`."""
    return json.dumps(as_document(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of documents (draft 2020-12).

    Besides what validates, each figure has its ``unit`` and its ``provenance``: ``"measured"``, ``"counted"``, ``"computed"``,
    ``"stated"`` (by the caller, the model or the backend), or ``"as stated beside it"`` where one document may hold both
    measured and modelled ones.
    """
    text = resources.files(__package__).joinpath("compare.schema.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def well_formed(text: str) -> str:
    """Return text that can be written as UTF-8, with U+FFFD for each lone surrogate."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _speed(speed: Speed) -> dict[str, Any]:
    """Return a speed with its provenance beside each of its figures, so that none can be taken out without it."""
    plain: dict[str, Any] = _plain(speed)
    for figures in [*plain["sizes"], plain["stream"]]:
        if figures is not None:
            figures["provenance"] = plain["provenance"]
    return plain


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, numbers.Integral):  # NumPy's are too
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isnan(number):
            return "NaN"
        return number if math.isfinite(number) else "Infinity" if number > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {_key(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    names = [field.name for field in dataclasses.fields(value)]
    return {name: _plain(getattr(value, name)) for name in (*names, *COMPUTED.get(type(value), ()))}


def _key(key: Any) -> str:
    return well_formed(key) if isinstance(key, str) else str(key)
