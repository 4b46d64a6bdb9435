"""A comparison as JUnit XML, which CI servers show: a suite per entry, a case per case and output, and one for opening."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from xml.etree import ElementTree as ET

from anybatch.comparison._document import well_formed
from anybatch.comparison._results import MODELLED, Accuracy, Comparison, EntryResult, Failure

# XML 1.0 has no way to write these, escaped or not. Lone surrogates are replaced before.
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class _TestCase:
    """One line of a CI server's list; `problem` is empty where it passed."""

    suite: str
    name: str
    problem: Literal["", "failure", "error"] = ""
    type: str = ""
    message: str = ""
    text: str = ""
    seconds: float | None = None


def as_junit(comparison: Comparison) -> str:
    """Return JUnit XML, with its declaration, as text that ends with a line break; encode it as UTF-8.

    Outputs outside their tolerances are failures, exceptions are errors. What fails without either, such as a comparison of
    nothing, is one failure in a suite of its own, so that a comparison that failed never looks green. Test cases have times
    where they are known: that of opening includes compiling.
    """
    suites = {entry.name: list(_cases_of(entry, comparison)) for entry in comparison.entries}
    if comparison.verdict == "fail" and not any(case.problem for cases in suites.values() for case in cases):
        message = comparison.reasons[0] if comparison.reasons else "the comparison failed"
        verdict = _TestCase("comparison", "verdict", "failure", "Comparison", message, "\n".join(comparison.reasons))
        suites.setdefault("comparison", []).append(verdict)
    every = [case for cases in suites.values() for case in cases]
    root = ET.Element("testsuites", {"name": "anybatch compare", **_counts(every), "time": f"{comparison.seconds:.6f}"})
    by_name = {entry.name: entry for entry in comparison.entries}
    for name, cases in suites.items():
        took = sum(case.seconds or 0.0 for case in cases)
        attributes = {"name": _legal(name), **_counts(cases), "skipped": "0", "time": f"{took:.6f}"}
        if comparison.created:
            attributes["timestamp"] = (
                _legal(comparison.created).removesuffix("Z").removesuffix("+00:00")
            )  # its schema knows no time zones
        suite = ET.SubElement(root, "testsuite", attributes)
        if name in by_name:
            _add_properties(suite, by_name[name], comparison)
        for case in cases:
            _add_case(suite, case)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _cases_of(entry: EntryResult, comparison: Comparison) -> Iterator[_TestCase]:
    failures = list(entry.failures)

    def error(name: str, failure: Failure, seconds: float | None = None) -> _TestCase:
        failures.remove(failure)
        text = f"{failure.error} ({failure.stage}): {failure.message}"
        return _TestCase(entry.name, name, "error", failure.error, failure.message, text, seconds)

    at_open = next((failure for failure in failures if failure.stage == "open"), None)
    took = None if entry.open_s is None else entry.open_s + (entry.compile_s or 0.0)
    yield error("open", at_open) if at_open is not None else _TestCase(entry.name, "open", seconds=took)
    for accuracy in comparison.accuracy:
        if accuracy.entry != entry.name:
            continue
        name = f"{accuracy.case.name}: {accuracy.output}" if accuracy.output else accuracy.case.name
        ended_it = [failure for failure in failures if failure.stage == "accuracy" and failure.case == accuracy.case.name]
        if ended_it and accuracy.metrics is None:
            yield error(name, ended_it[0])
        elif accuracy.verdict == "fail":
            lines = [*accuracy.faults, *_measured(accuracy)] or ["it failed, and nothing says why"]
            yield _TestCase(entry.name, name, "failure", "Accuracy", "; ".join(lines), "\n".join(lines))
        else:
            yield _TestCase(entry.name, name)
    for failure in tuple(failures):
        yield error(": ".join(filter(None, (failure.stage, failure.case))), failure)


def _measured(accuracy: Accuracy) -> Iterator[str]:
    """Yield the worst element and the tolerance, in words."""
    if accuracy.worst is not None:
        worst = accuracy.worst
        row = "" if worst.row is None else f"row {worst.row}, "
        yield (
            f"worst element: {row}index {list(worst.index)}: expected {worst.expected!r}, got {worst.got!r}, "
            f"tolerated {worst.tolerated:.3g}"
        )
    if accuracy.tolerance is not None:
        tolerance = accuracy.tolerance
        yield f"tolerance: rtol {tolerance.rtol:g}, atol {tolerance.atol:g} ({tolerance.reason})"


def _counts(cases: list[_TestCase]) -> dict[str, str]:
    problems = [case.problem for case in cases]
    return {
        "tests": str(len(cases)),
        "failures": str(problems.count("failure")),
        "errors": str(problems.count("error")),
    }


def _add_properties(suite: ET.Element, entry: EntryResult, comparison: Comparison) -> None:
    properties = ET.SubElement(suite, "properties")
    values = {
        "backend": entry.backend,
        "runtime": entry.runtime,
        "times": MODELLED if entry.simulated else "measured",
        "precision": entry.precision,
        "batching": entry.batching,
        "model": entry.model,
        "model_sha256": comparison.model_digest,
        "reference": comparison.reference,
    }
    for name, value in values.items():
        ET.SubElement(properties, "property", {"name": name, "value": _legal(value)})


def _add_case(suite: ET.Element, case: _TestCase) -> None:
    attributes = {"classname": _legal(case.suite), "name": _legal(case.name)}
    if case.seconds is not None:
        attributes["time"] = f"{case.seconds:.6f}"
    element = ET.SubElement(suite, "testcase", attributes)
    if case.problem:
        problem = ET.SubElement(element, case.problem, {"type": _legal(case.type), "message": _legal(case.message)})
        problem.text = _legal(case.text)


def _legal(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", well_formed(text))
