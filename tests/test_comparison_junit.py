"""Comparisons as JUnit XML: what CI servers read."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from anybatch.comparison import as_junit
from comparison_samples import SAMPLES, failing, nothing_compared, passing

# What Jenkins' and pytest's schemas let these have.
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"classname", "name", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "properties": set(),
    "property": {"name", "value"},
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {"failure", "error"},
    "properties": {"property"},
}


def suites(comparison):
    return {suite.get("name"): suite for suite in ElementTree.fromstring(as_junit(comparison).encode())}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_reads_back_and_counts_right(name):
    comparison = SAMPLES[name]()
    root = ElementTree.fromstring(as_junit(comparison).encode("utf-8"))
    for element in root.iter():
        assert set(element.attrib) <= ATTRIBUTES[element.tag], element.attrib
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for element in (root, *root):
        assert int(element.get("tests")) == len(list(element.iter("testcase"))) > 0
        assert int(element.get("failures")) == len(list(element.iter("failure")))
        assert int(element.get("errors")) == len(list(element.iter("error")))
        assert float(element.get("time")) >= 0
    problems = int(root.get("failures")) + int(root.get("errors"))
    assert bool(problems) == (comparison.verdict == "fail")
    assert len(root) >= len(comparison.entries)


def test_each_output_of_each_case_is_a_test():
    found = suites(passing())
    names = [case.get("name") for case in found["cpu-gears"].iter("testcase")]
    assert names[0] == "open"
    assert {"0 rows: probabilities", "17 rows: embedding", "ragged stream: probabilities"} <= set(names)
    assert len(names) == 1 + 11 * 2
    assert [case.get("name") for case in found["onnxruntime"].iter("testcase")] == ["open"]


def test_faults_are_failures_and_exceptions_are_errors():
    found = suites(failing())
    failure = next(found["cpu-gears"].iter("failure"))
    assert failure.get("message").startswith(
        "row 5 of cpu-gears equals row 4 of onnxruntime: rows are swapped; worst element: row"
    )
    assert "tolerance: rtol 1e-05" in failure.text
    opened = next(found["ascend"].iter("error"))
    assert (opened.get("type"), opened.get("message")[:23]) == ("BackendUnavailableError", "no module named 'acl': ")
    lost = next(found["ipu-sim"].iter("error"))
    assert lost.get("type") == "DeviceError"
    assert "\x1b" not in lost.get("message")


@pytest.mark.parametrize("created", ["2025-11-22T18:04:18Z", "2025-11-22T18:04:18+00:00"])
def test_times_of_day_have_no_zone(created):
    found = suites(replace(passing(), created=created))
    assert {suite.get("timestamp") for suite in found.values()} == {"2025-11-22T18:04:18"}


def test_a_comparison_of_nothing_is_red():
    found = suites(nothing_compared())
    assert next(found["comparison"].iter("failure")).get("message").startswith("nothing was compared")


def test_simulated_entries_say_so():
    found = suites(passing())
    said = {
        name: {each.get("name"): each.get("value") for each in suite.iter("property")}["times"] for name, suite in found.items()
    }
    assert said["onnxruntime"] == "measured"
    assert said["ascend-sim"] == said["ipu-sim"] == "modelled: no hardware was measured"


def test_opening_takes_the_time_of_compiling_too():
    (case, *_) = suites(passing())["ascend-sim"].iter("testcase")
    assert float(case.get("time")) == pytest.approx(1.84 + 0.0123)
    first = replace(passing().entries[0], open_s=None)
    (case, *_) = suites(replace(passing(), entries=(first,)))["onnxruntime"].iter("testcase")
    assert case.get("time") is None
