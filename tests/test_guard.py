"""What may be split and padded, what is refused, and what the caller is told."""

import itertools
import warnings
from functools import partial

import numpy as np
import onnx
import onnx.parser
import pytest

import anybatch
from anybatch import AnyBatch, CoupledRowsError, CurveCosts, DeviceError, Gears, InputError, MultipleOf, SafetyWarning
from anybatch._guard import Guard, RowSafety
from anybatch._trial import Trial, try_rows
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE, COUPLED, SEVERAL

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)


def model(nodes, weights=""):
    header = '<ir_version: 8, opset_import: ["": 17]> m (float[rows, 4] x) => (float[rows, 4] y)'
    return onnx.parser.parse_model(f"{header} {weights} {{ {nodes} }}")


INDEPENDENT = model("y = Neg(x)")
MUTANTS = {
    "softmax over axis 0": (model("y = Softmax <axis = 0> (x)"), "Softmax"),
    "mean over the batch subtracted": (
        model("m = ReduceMean <axes = [0], keepdims = 1> (x) y = Sub(x, m)"),
        "ReduceMean",
    ),
    "rows and features swapped": (
        model("n = Shape(x) f = Reshape(x, t) s = Transpose(f) y = Reshape(s, n)", weights="<int64[2] t = {4, -1}>"),
        "Reshape",
    ),
    "batch norm in training mode": (
        model(
            "y, a, b = BatchNormalization <training_mode = 1> (x, s, z, z, s)",
            weights="<float[4] s = {1, 1, 1, 1}, float[4] z = {0, 0, 0, 0}>",
        ),
        "BatchNormalization",
    ),
}


def run(runner, rows):
    return runner.run({"x": ROWS[:rows]})["y"]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_models_that_others_answer_wrongly_are_refused_with_the_nodes_name(mutant):
    proto, operator = MUTANTS[mutant]
    proto.graph.node[[node.op_type for node in proto.graph.node].index(operator)].name = "guilty"
    with anybatch.open(proto, batch_sizes=[1, 4]) as runner:
        with pytest.raises(CoupledRowsError, match=f"^3 rows would be run as .*{operator}") as caught:
            run(runner, 3)
        assert caught.value.node == "guilty"
        with anybatch.open(proto) as plain:
            np.testing.assert_array_equal(run(runner, 4), run(plain, 4), "one launch of just these rows is right")
        assert runner.stats().requests == 1


def test_independent_rows_run_freely_and_reports_say_why():
    with anybatch.open(INDEPENDENT, batch_sizes=[1, 4]) as runner:
        assert run(runner, 3).shape == (3, 4)
        (row,) = runner.safety
        assert (row.name, row.verdict, row.basis, row.node) == ("y", "independent", "proof", None)
        assert "rows: y: independent, by proof" in str(runner.explain(3))


def test_coupled_rows_run_on_sessions_that_take_any_number():
    coupled, _ = MUTANTS["softmax over axis 0"]
    with anybatch.open(coupled) as runner:
        assert run(runner, 3).sum(axis=0) == pytest.approx(1.0)
        assert "not checked: so far each request is one launch of just its rows" in runner.explain(3).safety


def test_coupled_rows_are_not_split_where_that_would_be_cheaper():
    coupled, _ = MUTANTS["softmax over axis 0"]
    with anybatch.open(coupled, costs=CurveCosts({1: 1.0, 2: 3.0, 8: 12.0})) as runner:
        assert str(runner.plan(6)) == "6"
        assert run(runner, 6).sum(axis=0) == pytest.approx(1.0)
        assert runner.explain(6).alternatives == {}
    with anybatch.open(INDEPENDENT, costs=CurveCosts({1: 1.0, 2: 3.0, 8: 12.0})) as runner:
        assert str(runner.plan(6)) == "6 x 1"


@pytest.mark.parametrize("option", [{"safety": "off"}, {"independent": ["y"]}, {"independent": ["y"], "safety": "strict"}])
def test_the_caller_can_take_the_blame_and_reports_say_so(option):
    coupled, _ = MUTANTS["softmax over axis 0"]
    with anybatch.open(coupled, batch_sizes=[4], **option) as runner:
        assert run(runner, 3).shape == (3, 4)
        said = "not checked, safety is 'off'" if option == {"safety": "off"} else "y: independent, by the caller's word"
        assert runner.explain(3).safety == said


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"safety": "maybe"}, r"expected safety to be one of \['strict', 'auto', 'off'\], got 'maybe'"),
        ({"independent": "y"}, "expected independent to be a collection of outputs, of \\['y'\\], got 'y'"),
        ({"independent": ["z"]}, "expected independent to be a collection of outputs, of \\['y'\\], got \\['z'\\]"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_stays_open(option, message):
    with pytest.raises(InputError, match=message):
        anybatch.open(INDEPENDENT, batch_sizes=[4], **option)


# What a proof leaves open is tried.


@pytest.fixture
def undecided(monkeypatch):
    """Let the proof end without a verdict, whatever the model."""

    def prove(_model, spec):
        return {each.name: RowSafety(each.name, "unknown", "proof", "n", "the proof ended") for each in spec.outputs}

    monkeypatch.setattr("anybatch._registry._prove", prove)


def open_fake(reference, batching, **options):
    return anybatch.open(reference.onnx_bytes, backend=FakeBackend(batching), **options)


@pytest.mark.usefixtures("undecided")
def test_what_is_not_proven_is_tried_and_warned_about_once():
    with pytest.warns(SafetyWarning, match="^the model: not proven that rows do not influence one another in output") as caught:
        runner = anybatch.open(AFFINE.onnx_bytes, backend=FakeBackend(Gears((1, 4))))
    with runner:
        assert len(caught) == 1
        assert caught[0].filename == __file__
        (row, *_) = runner.safety
        assert (row.verdict, row.basis) == ("unknown", "trial")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert runner.plan(3).rows == 3


@pytest.mark.usefixtures("undecided")
def test_what_the_trial_finds_coupled_is_refused():
    with open_fake(COUPLED, Gears((1, 4))) as runner:
        (row,) = runner.safety
        assert (row.verdict, row.basis) == ("coupled", "trial")
        with pytest.raises(CoupledRowsError, match="rows of output 'y' influence one another"):
            runner.plan(3)
        assert str(runner.plan(4)) == "4"


@pytest.mark.usefixtures("undecided")
def test_strict_refuses_what_is_not_proven_and_tries_nothing():
    backend = FakeBackend(Gears((1, 4)))
    with anybatch.open(AFFINE.onnx_bytes, backend=backend, safety="strict") as runner:
        assert not backend.launches
        with pytest.raises(CoupledRowsError, match="not proven to be independent, and safety is 'strict': the proof ended"):
            runner.plan(3)
        assert str(runner.plan(4)) == "4"


# So is a model without a graph, which is compiled already.


@pytest.fixture
def compiled(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"compiled")
    return path


def backend_of(reference, batching=None, **options):
    """Return a backend to which every model is that one."""
    backend = FakeBackend(Gears((1, 4)) if batching is None else batching, **options)
    backend._find = lambda _model: reference
    return backend


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_compiled_model_is_tried_and_the_warning_says_what_would_prove_it(compiled, as_bytes):
    backend = backend_of(AFFINE)
    with pytest.warns(SafetyWarning) as caught:
        runner = anybatch.open(compiled.read_bytes() if as_bytes else compiled, backend=backend)
    with runner:
        said = str(caught[0].message)
        assert said.startswith("the model: " if as_bytes else "model.bin: ")
        assert "in output 'y' (it is compiled already, so there is no graph to prove it on; " in said
        assert "were alike), yet requests are split and padded." in said
        for way_out in ("open the ONNX model where the backend compiles it", "independent=[...]", "safety='off'"):
            assert way_out in said
        assert len(caught) == 1
        assert backend.launches
        assert {(row.verdict, row.basis) for row in runner.safety} == {("unknown", "trial")}
        assert "by a trial" in runner.explain(3).safety
        assert runner.plan(3).padded_rows == 1


def test_what_is_told_of_several_outputs_alike_is_told_once(compiled):
    with pytest.warns(SafetyWarning) as caught:
        anybatch.open(compiled, backend=backend_of(SEVERAL), independent=[SEVERAL.spec.outputs[0].name]).close()
    said = str(caught[0].message)
    assert f"in output {', '.join(repr(each.name) for each in SEVERAL.spec.outputs[1:])} (it is compiled" in said
    assert said.count("it is compiled already") == 1
    assert repr(SEVERAL.spec.outputs[0].name) not in said


def test_what_a_graph_leaves_open_is_not_said_to_be_compiled():
    proto = model("y = Neg(x)")
    proto.graph.input[0].name = "other"  # so the session's rows are not in this graph
    proto.graph.node[0].input[0] = "other"
    with pytest.warns(SafetyWarning, match="the graph does not tell: ") as caught:
        anybatch.open(proto, backend=backend_of(AFFINE)).close()
    assert "compile" not in str(caught[0].message)


def test_a_compiled_model_that_the_trial_finds_coupled_is_refused(compiled):
    with anybatch.open(compiled, backend=backend_of(COUPLED)) as runner:
        assert {(row.verdict, row.basis) for row in runner.safety} == {("coupled", "trial")}
        with pytest.raises(CoupledRowsError, match="^3 rows would be run as .* rows of output 'y' influence one another"):
            run(runner, 3)
        assert run(runner, 4).shape == (4, 4)


@pytest.mark.parametrize("reference", [AFFINE, COUPLED])
@pytest.mark.parametrize("option", [{"safety": "off"}, {"independent": ["y"]}])
def test_the_callers_word_on_a_compiled_model_is_taken_without_a_launch(compiled, reference, option):
    backend = backend_of(reference)
    with anybatch.open(compiled, backend=backend, **option) as runner:
        assert runner.plan(3).padded_rows == 1
    assert not backend.launches


def test_strict_refuses_a_compiled_model_and_tries_nothing(compiled):
    backend = backend_of(AFFINE)
    with anybatch.open(compiled, backend=backend, safety="strict") as runner:
        with pytest.raises(CoupledRowsError, match="safety is 'strict': it is compiled already, so there is no graph"):
            runner.plan(3)
    assert not backend.launches


@pytest.mark.parametrize("batching", [AnyBatch(), Gears((1,))], ids=str)
def test_where_no_launch_has_rows_but_those_sent_along_a_compiled_model_is_not_tried(compiled, batching):
    backend = backend_of(AFFINE, batching)
    with anybatch.open(compiled, backend=backend) as runner:
        assert not backend.launches
        assert runner.run(AFFINE.random_inputs(np.random.default_rng(0), 3))["y"].shape[0] == 3


def test_single_rows_are_not_tried_when_somebody_asks_later_either(compiled):
    backend = backend_of(AFFINE, Gears((1,)))
    with anybatch.open(compiled, backend=backend) as runner:
        assert [row.basis for row in runner.safety] == ["nothing"]
    assert not backend.launches


def test_costs_that_speak_for_splitting_have_a_compiled_model_tried(compiled):
    backend = backend_of(AFFINE, AnyBatch())
    with pytest.warns(SafetyWarning, match="it is compiled already"):
        anybatch.open(compiled, backend=backend, costs=CurveCosts({1: 1.0, 2: 3.0, 8: 12.0})).close()
    assert backend.launches


@pytest.mark.parametrize(("seconds_each", "launches"), [(0.5, 3), (1000.0, 1)])
def test_a_trial_at_open_begins_no_launch_after_two_seconds_but_makes_one(compiled, monkeypatch, seconds_each, launches):
    backend = backend_of(AFFINE)
    now = itertools.count(0.0, seconds_each)  # it is looked at once at the start, and once before each launch
    monkeypatch.setattr("anybatch._registry.try_rows", partial(try_rows, clock=lambda: next(now)))
    with pytest.warns(SafetyWarning, match="the time was up before anything could be compared"):
        anybatch.open(compiled, backend=backend).close()
    assert len(backend.launches) == launches


def test_a_device_that_fails_in_a_trial_is_told_and_the_runner_is_there(compiled):
    backend = backend_of(AFFINE, faults={("execute", 1): DeviceError("it smokes", backend="fake", operation="execute")})
    with pytest.warns(SafetyWarning, match=r"row 0, .*\) raised DeviceError: fake: execute failed: it smokes\), yet"):
        runner = anybatch.open(compiled, backend=backend)
    with runner:
        assert len(backend.launches) == 1, "a trial ends where rows like any other cannot be run"
        inputs = AFFINE.random_inputs(np.random.default_rng(0), 3)
        np.testing.assert_allclose(runner.run(inputs)["y"], AFFINE.reference(inputs)["y"], rtol=1e-6)


def test_padding_that_the_device_refuses_in_a_trial_is_told(compiled):
    class Picky:
        name = "affine"
        spec = AFFINE.spec

        def reference(self, inputs):
            if np.isnan(inputs["x"]).any():
                raise DeviceError("NaN", backend="fake", operation="execute")
            return AFFINE.reference(inputs)

    with pytest.warns(SafetyWarning, match=r"were alike; left out: NaN, at which the session raised DeviceError: .*\), yet"):
        anybatch.open(compiled, backend=backend_of(Picky())).close()


def test_an_interrupted_trial_leaves_nothing_open(compiled):
    backend = backend_of(AFFINE, faults={("execute", 5): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        anybatch.open(compiled, backend=backend)
    assert backend.alive == 0


def test_multiples_of_coupled_rows_are_one_batch_or_none():
    with open_fake(COUPLED, MultipleOf(4)) as runner:
        assert str(runner.plan(4)) == "4"
        for rows in (3, 8):
            with pytest.raises(CoupledRowsError, match="send exactly one launch of multiples of 4"):
                runner.plan(rows)


def test_single_rows_have_no_neighbours():
    with open_fake(COUPLED, Gears((1,)), safety="strict") as runner:
        assert str(runner.plan(3)) == "3 x 1"


def test_a_guard_looks_once():
    looked = []

    def prove():
        looked.append(1)
        return {"y": RowSafety("y", "coupled", "proof", "n", "because")}

    with anybatch.open(INDEPENDENT) as runner:
        guard = Guard("auto", runner.spec, prove=prove)
    assert not looked
    assert guard.restricts
    assert guard.outputs[0].reason == "because"
    assert guard.restricts
    assert looked == [1]


def test_a_guard_that_knows_nothing_is_unknown():
    with anybatch.open(INDEPENDENT) as runner:
        guard = Guard("auto", runner.spec)
    assert [each.verdict for each in guard.outputs] == ["unknown"]
    assert not guard.restricts
    assert Guard("strict", runner.spec).restricts


def test_a_trial_that_failed_is_told():
    with anybatch.open(INDEPENDENT) as runner:
        failed = Trial((), 0, {}, {}, 0.0, complete=False, error=OSError("no"))
        open_ended = {"y": RowSafety("y", "unknown", "proof", "n", "the proof ended")}
        guard = Guard("auto", runner.spec, prove=lambda: open_ended, attempt=lambda: failed)
    assert guard.outputs[0].reason.endswith("it was not tried")
    assert "not proven" in guard.take_doubt()
    assert guard.take_doubt() == ""


def test_any_number_in_one_launch_is_what_a_refusal_advises_where_that_can_be_had():
    with anybatch.open(INDEPENDENT) as runner:
        guard = Guard("auto", runner.spec, prove=lambda: {"y": RowSafety("y", "coupled", "proof", "n", "because")})
        error = guard.refusal(runner.plan(3), AnyBatch())
    assert "send one row or more in one launch" in str(error)


def test_a_detector_whose_rows_depend_on_content_is_refused_with_the_nodes_name():
    text = '<ir_version: 8, opset_import: ["": 17]> m (float[rows, 4] x) => (int64[2, found] places) { places = NonZero(x) }'
    detector = onnx.parser.parse_model(text)
    detector.graph.node[0].name = "guilty"
    with anybatch.open(detector, batch_sizes=[4]) as runner:
        with pytest.raises(InputError, match=r"output 'places' has no batch axis.*node 'guilty' \(NonZero\)"):
            run(runner, 3)
        assert runner.run({"x": ROWS[:4]})["places"].shape == (2, 15)
    with anybatch.open(detector, batch_sizes=[4], safety="off") as runner:
        with pytest.raises(InputError, match="output 'places' has no batch axis") as caught:
            run(runner, 3)
        assert "guilty" not in str(caught.value)
