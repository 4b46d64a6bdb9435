"""The analysis against the truth, over the corpus and random graphs."""

import random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import truth_by_running
from anybatch.safety import analyse
from safety_corpus import CASES
from safety_random import random_model
from truth_by_running import inputs_of, mistakes, truth

# What the analysis cannot tell, though running can: each is ours to do.
UNKNOWN = {
    "gather: GatherND whose tuples are the rows": "only one number of rows goes with a table's rank",
    "random: a random tensor whose shape is all that counts": "no shape is kept of what is drawn at random",
    "recurrent: LSTM with initial states by position": "only one number of rows goes with a fixed state",
    "reshape: a fixed number of rows": "only some numbers of rows go with a fixed shape",
    "shape arithmetic: through float and back": "sizes are followed as integers only",
}

# Where nothing is coupled, and the analysis says otherwise.
FALSE_COUPLED = {
    "convolution: filters made from rows": "rows as filters come out as channels",
    "own number: tuples of every round of a loop": "what a body hands on is no longer known as rows' own numbers",
}

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_the_corpus_is_large_and_varied():
    families = {case.family for case in CASES}
    assert len(CASES) >= 400
    assert len(families) >= 22
    both = {"independent", "coupled"}
    assert {
        family for family in families if {v for c in CASES if c.family == family for v in c.verdicts.values()} != both
    } == set()
    assert {11, 13, 17, 24} <= {case.opset for case in CASES}


@by_name
def test_running_shows_what_is_written(case):
    found = truth(case.model, inputs_of(case.model, ranges=case.ranges))
    assert {name: each.verdict for name, each in found.items()} == case.verdicts, found


@by_name
def test_verdicts_are_true(case):
    safety = analyse(case.model)
    said = {output.name: output.verdict for output in safety.outputs}
    if case.name in UNKNOWN:
        assert "unknown" in said.values(), "this is known now: take it off the list"
    elif case.name in FALSE_COUPLED:
        assert said != case.verdicts, "this is right now: take it off the list"
        assert "coupled" in said.values()
    else:
        assert said == case.verdicts, str(safety)
    found = truth(case.model, inputs_of(case.model, ranges=case.ranges), trials=1)
    assert not mistakes(safety, found)
    bare = onnx.ModelProto.FromString(case.model.SerializeToString())
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    without = analyse(bare)  # what is declared of outputs must not be all that keeps a verdict right
    assert {output.name: output.verdict for output in without.outputs} == said
    assert not mistakes(without, found)


def test_few_are_unknown():
    assert len(UNKNOWN) <= 0.05 * len(CASES)
    assert not any(name.startswith("model: ") for name in UNKNOWN)


@pytest.mark.parametrize("case", [case for case in CASES if case.node], ids=lambda case: case.name)
def test_the_node_that_couples_is_named(case):
    blamed = next(node for node in case.model.graph.node if case.node in node.output)
    safety = analyse(case.model)
    assert blamed.name in {output.node for output in safety.outputs}, str(safety)
    assert any(repr(blamed.name) in output.reason for output in safety.outputs), str(safety)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_random_graphs(rng: random.Random):
    model = random_model(rng)
    found = mistakes(analyse(model), truth(model, trials=1))
    assert not found, f"{found}\n{onnx.printer.to_text(model)}"


def test_random_graphs_are_of_both_kinds():
    verdicts = []
    for seed in range(60):
        verdicts += [each.verdict for each in truth(random_model(random.Random(seed)), trials=1).values()]
    assert verdicts.count("independent") > 20
    assert verdicts.count("coupled") > 5
    assert verdicts.count(None) < 5


def test_a_wrong_verdict_and_a_wrong_axis_are_found():
    mixed, apart = (
        next(case for case in CASES if case.name == name)
        for name in ("softmax: axis 0, opset 17", "reshape: Transpose moves the rows")
    )
    assert mistakes(analyse(apart.model), truth(mixed.model)) != []
    assert mistakes(analyse(apart.model), truth(apart.model)) == []
    same = next(case for case in CASES if case.name == "elementwise: Neg")
    assert mistakes(analyse(apart.model), truth(same.model)) != []


def test_what_the_reference_evaluator_shows_counts_too(monkeypatch):
    mixed = next(case for case in CASES if case.name == "softmax: axis 0, opset 17").model
    seen = {}

    def remembering(model, requests):  # a runtime that hides what rows do to one another
        evaluator = truth_by_running._reference(model, ())

        def run(feeds):
            (made,) = evaluator.run(feeds)
            rows = next(iter(feeds.values()))
            return [np.stack([seen.setdefault(row.tobytes(), answer) for row, answer in zip(rows, made, strict=True)])]

        return truth_by_running._Evaluator("a runtime that remembers", run, requests)

    monkeypatch.setattr(truth_by_running, "_onnxruntime", remembering)
    (found,) = truth(mixed).values()
    assert seen
    assert (found.verdict, found.check.endswith("in the reference evaluator")) == ("coupled", True)


def test_a_model_that_nothing_runs_has_no_truth():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "mine": 1]> g (float[n] x) => (float[n] y) { y = mine.Foo(x) }'
    )
    (found,) = truth(model).values()
    assert (found.verdict, found.check.startswith("does not run: ")) == (None, True)
    with pytest.raises(AssertionError):
        truth_by_running.assert_truth(model)
