"""A few hundred of the mutants that `make fuzz` makes ten thousand of; that its survey sees failures, test_om.py shows."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from poprt_sim import _popef, testing
from poprt_sim._unsimulated import NotSimulated

sys.path.insert(0, str(Path(__file__).parent.parent))
import fuzz_popef
from fuzz_popef import fuzzing


@pytest.fixture(autouse=True)
def fresh_machine():
    yield
    testing.reset()


@pytest.mark.parametrize("example", [fuzz_popef._UPDATABLE, fuzz_popef._MERGED, fuzz_popef._FUSED])
def test_the_examples_run(example):
    assert fuzz_popef.attempt(example) == "loaded"
    assert fuzz_popef.attempt(example, run=True) == "ran"
    header, body = fuzzing.take_apart(example, _popef._HEAD)
    assert fuzzing.seal(example, _popef._HEAD, header, body) == example
    greedy = fuzzing.seal(example, _popef._HEAD, {**header, "num_ipus": 4000}, body)
    assert fuzz_popef.attempt(greedy) == "not loaded"


def test_mutants_are_refused_or_run():
    answers, failures = fuzzing.survey(fuzz_popef.read_and_run, range(400))
    assert failures == []
    assert {"refused", "ran"} <= set(answers) <= {"refused", "not loaded", "not run", "ran"}
    assert answers.total() == 400


@pytest.mark.parametrize("error", [NotSimulated("x"), RecursionError("x"), KeyError("x"), struct.error("x")])
def test_other_errors_than_the_documented_are_failures(monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(fuzz_popef, "Executable", fail)
    with pytest.raises(type(error)):
        fuzz_popef.attempt(b"")


def test_a_violation_is_a_failure(monkeypatch):
    def violate(*_):
        raise testing.Violation("a rule", "x")

    monkeypatch.setattr(fuzz_popef.runtime.Runner, "execute", violate)
    with pytest.raises(AssertionError, match=r"the request is fine, and was called undefined: \[a rule\] x"):
        fuzz_popef.attempt(fuzz_popef._UPDATABLE, run=True)
