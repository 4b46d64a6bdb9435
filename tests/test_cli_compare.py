"""``anybatch compare``: what is typed, what is printed and written, and its exit status."""

import json
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from anybatch import Entry, InputError, comparison
from anybatch._cli import app
from anybatch._cli.compare import parse_entry

DIGITS = Path(__file__).parents[1] / "examples" / "01_digits" / "digits.onnx"
TEST_SET = DIGITS.with_name("test_set.npz")
TWO = ("--on", "onnxruntime", "--on", "gears=onnxruntime:batch_sizes=1,4,8")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch):
    """Call the command, and return its exit code, output and errors."""
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            app(["compare", *map(str, arguments)], prog_name="anybatch")
        return Result(exit_.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def changed(tmp_path):
    """The digits model with 1 % more in the weights of its last product."""
    model = onnx.load(DIGITS)
    node = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")][-1]
    weights = next(each for each in model.graph.initializer if each.name == node.input[1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    onnx.save(model, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("ascend", Entry("ascend")),
        ("half=ascend", Entry("ascend", name="half")),
        ("ipu:batch_sizes=8:device=1", Entry("ipu", batch_sizes=[8], device=1)),
        ("a=b=ascend", Entry("ascend", name="a=b")),
        ("npu:computes_in=float16:precision=fast", Entry("npu", computes_in="float16", options={"precision": "fast"})),
        ('ipu:to={"version": 17}:pad_by=host', Entry("ipu", options={"to": {"version": 17}, "pad_by": "host"})),
        ("ascend:model=C:/models/net.om", Entry("ascend", model="C:/models/net.om")),
        ("ort:x=1:y=a:b", Entry("ort", options={"x": 1, "y": "a:b"})),
    ],
)  # fmt: skip
def test_entries_are_typed_in_one_word(text, entry):
    assert parse_entry(text) == entry


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected [NAME=]BACKEND"),
        ("=ascend", "expected [NAME=]BACKEND"),
        ("half=", "expected [NAME=]BACKEND"),
        ("ascend:batch_sizes=1;4", "batch_sizes: expected whole numbers"),
        ("ascend:device=one", "device: expected a whole number"),
        ("ascend:x=1:x=2", "each name once"),
    ],
)
def test_entries_that_do_not_read_are_refused(text, message):
    with pytest.raises(InputError) as caught:
        parse_entry(text)
    assert message in str(caught.value)


def test_what_agrees_passes(cli, tmp_path):
    page = tmp_path / "page.html"
    found = cli(DIGITS, *TWO, "--input", TEST_SET, "--batch-sizes", "1,5", "--seconds", "0.1", "--output", page)
    assert (found.code, found.err) == (0, "")
    lines = found.out.splitlines()
    assert lines[0] == f"PASS  {DIGITS}: 1 of 1 agree with onnxruntime"
    assert f"rows are {TEST_SET}" in found.out
    assert "Measured on the wall clock" in found.out
    assert "SIMULATED" not in found.out
    assert "8 (5 rows)" in found.out or "4 + 1" in found.out
    assert lines[-1] == f"written  {page}"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_is_off_fails_and_is_named(cli, changed, tmp_path):
    report = tmp_path / "report.xml"
    found = cli(
        DIGITS,
        "--on",
        "onnxruntime",
        "--on",
        f"new=onnxruntime:model={changed}",
        "--rows",
        "4",
        "--seconds",
        "0",
        "--output",
        report,
    )
    assert found.code == 1
    assert found.out.startswith(f"FAIL  {DIGITS}: 0 of 1 agree with onnxruntime\n  new: output 'scores' is off")
    assert "fail: 2 of 2 cases" in found.out
    assert "new: the inputs of 'dense' (Gemm) agree, its output 'scores' does not" in found.out
    assert int(ElementTree.parse(report).getroot().get("failures")) > 0


def test_simulators_are_marked_and_apart(cli):
    found = cli(DIGITS, "--on", "onnxruntime", "--on", "ascend-sim:batch_sizes=1,4", "--batch-sizes", "1,3", "--seconds", "0.2")
    assert found.code == 0, found.out
    measured, modelled = found.out.split("SIMULATED: modelled on the device clock of each simulator; no hardware was measured")
    assert "Measured on the wall clock" in measured
    assert "\nascend-sim" in modelled
    assert "\nonnxruntime" not in modelled


def test_json_is_the_document(cli):
    found = cli(DIGITS, *TWO, "--batch-sizes", "0,3", "--seconds", "0", "--json")
    document = json.loads(found.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.validate(document, comparison.schema())
    assert (found.code, document["verdict"]) == (0, "pass")
    assert [entry["name"] for entry in document["backends"]] == ["onnxruntime", "gears"]
    assert {each["case"]["name"] for each in document["accuracy"]} == {"0 rows", "3 rows", "ragged stream"}


def test_a_reference_may_be_named_or_described(cli):
    named = cli(DIGITS, *TWO, "--reference", "gears", "--batch-sizes", "3", "--seconds", "0", "--json")
    assert json.loads(named.out)["reference"] == "gears"
    described = cli(
        DIGITS,
        "--on",
        "gears=onnxruntime:batch_sizes=4",
        "--reference",
        "truth=onnxruntime",
        "--batch-sizes",
        "3",
        "--seconds",
        "0",
        "--json",
    )
    assert json.loads(described.out)["reference"] == "truth"


def test_a_backend_that_is_missing_fails_and_the_others_finish(cli):
    found = cli(DIGITS, *TWO, "--on", "no-such", "--batch-sizes", "3", "--seconds", "0")
    assert found.code == 1
    assert "1 of 2 agree" in found.out
    assert "no-such: opening failed: BackendNotFoundError" in found.out


def test_tolerances_are_the_callers(cli, changed):
    entries = ("--on", "onnxruntime", "--on", f"new=onnxruntime:model={changed}")
    arguments = (DIGITS, *entries, "--batch-sizes", "4", "--seconds", "0", "--bisect-seconds", "0")
    assert cli(*arguments).code == 1
    found = cli(*arguments, "--tolerance", "scores=0.1,0.1")
    assert found.code == 0
    assert "0.1 of max(|expected|" in found.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '--on'"),
        (("--on", "onnxruntime"), "at least one entry besides"),
        (("--on", "onnxruntime", "--on", "onnxruntime"), "twice"),
        ((*TWO, "--input", "none.npz"), "there is no such file"),
        ((*TWO, "--input", TEST_SET, "--shape", "n=1"), "--shape is for random inputs"),
        ((*TWO, "--output", "page.pdf"), ".html"),
        ((*TWO, "--output", "no/such/folder/page.html"), "folder"),
        ((*TWO, "--tolerance", "scores=1,2,3"), "expected RTOL or RTOL,ATOL"),
        ((*TWO, "--tolerance", "scores=much"), "expected numbers"),
        ((*TWO, "--tolerance", "digits=1"), "['digits']"),
        ((*TWO, "--batch-sizes", "one"), "whole numbers"),
        ((*TWO, "--seconds", "-1"), "seconds"),
    ],
)
def test_what_does_not_fit_is_refused(cli, arguments, message):
    found = cli(DIGITS, *arguments)
    assert found.code == 2
    assert message in found.err
    assert found.out == ""
