"""`anybatch.compare` from end to end: verdicts, what becomes of entries that fail, and what it refuses."""

import json
from types import SimpleNamespace

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import anybatch
from anybatch import (
    AnyBatch,
    DeviceError,
    Entry,
    Gears,
    InputError,
    ModelError,
    ModelSpec,
    MultipleOf,
    TensorSpec,
    compare,
    comparison,
)
from anybatch._version import __version__
from anybatch.comparison._compare import _judge
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE, AFFINE_TWIN, COUPLED, SEVERAL, ReferenceModel
from test_comparison_accuracy import FaultyBackend
from test_examples import EXAMPLES

DIGITS = EXAMPLES / "01_digits" / "digits.onnx"
QUICK = {"seconds": 0, "bisect_seconds": 0}


@pytest.fixture
def made():
    """Make entries of backends in memory; at the end, none of their sessions may be open."""
    backends = []

    def make(*given: FakeBackend) -> list[Entry]:
        backends.extend(given)
        return [Entry(backend, name=name) for name, backend in zip("ABCDE", given, strict=False)]

    yield make
    assert backends
    assert [backend.alive for backend in backends] == [0] * len(backends)


def run(entries, *, model: ReferenceModel = AFFINE, **arguments):
    return compare(model.proto(), entries, **{**QUICK, **arguments})


def device_error():
    return DeviceError("it broke", backend="fake", operation="launch", status=7)


# ------------------------------------------------------------------------------------------------------------------ verdicts


def test_backends_that_agree_pass(made):
    entries = made(FakeBackend(AnyBatch()), FakeBackend(Gears((2, 5), pads=True)), FakeBackend(MultipleOf(3)))
    found = run(entries, seconds=0.02)
    assert (found.verdict, found.reasons, found.reference) == ("pass", (), "A")
    assert [entry.verdict for entry in found.entries] == ["pass"] * 3
    assert [entry.batch_sizes for entry in found.entries] == [(), (2, 5), (3,)]
    assert {each.entry for each in found.accuracy} == {"B", "C"}
    assert {each.verdict for each in found.accuracy} == {"pass"}
    assert [speed.entry for speed in found.speeds] == ["A", "B", "C"]
    sizes = [size.rows for size in found.speeds[0].sizes]
    assert sizes == [1, 2, 3, 4, 5, 6, 11]
    assert all([size.rows for size in speed.sizes] == sizes for speed in found.speeds)
    assert [[plan.rows for plan in entry.plans if plan.rows in sizes] for entry in found.entries] == [sizes] * 3
    assert found.divergences == ()
    assert found.data_rows == 12
    assert found.environment["anybatch"] == __version__
    assert found.created
    assert found.model_digest == anybatch.model_digest(AFFINE.proto())


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (lambda y, before: y[::-1] if len(y) > 1 else y, "reverse"),
        (lambda y, before: y if before is None or len(before) < len(y) else np.append(y[:-1], before[len(y) - 1 : len(y)], 0),
         "request before"),
        (lambda y, before: np.where(y > 0.5, np.inf, y).astype(y.dtype), "an overflow"),
        (lambda y, before: y + np.float32([0.01, *[0] * (y.shape[1] - 1)]), "[:, 0] of B is off by 0.01 in each of the 5 rows"),
    ],
    ids=["reversed rows", "a stale tail", "overflow", "one channel off by 0.01"],
)  # fmt: skip
def test_faults_of_a_backend_are_named(made, fault, sentence):
    found = run(made(FakeBackend(AnyBatch()), FaultyBackend(fault, batching=Gears((1, 4, 8)))))
    assert found.verdict == "fail"
    assert [entry.verdict for entry in found.entries] == ["pass", "fail"]
    faults = " | ".join(fault for each in found.accuracy for fault in each.faults)
    assert sentence in faults, faults
    assert found.reasons[0].startswith("B: output ")


def test_another_model_is_recognised(made):
    one, other = made(FakeBackend(AnyBatch()), FakeBackend(AnyBatch()))
    other = Entry(other.backend, name="B", model=AFFINE_TWIN.proto())
    found = run([one, other])
    assert found.verdict == "fail"
    assert any("same model" in fault for each in found.accuracy for fault in each.faults)


def test_a_backend_can_be_compared_with_itself():
    entries = [
        Entry("onnxruntime", name="two gears", batch_sizes=[1, 8]),
        Entry("onnxruntime", name="four", batch_sizes=[1, 2, 4, 8]),
    ]
    found = compare(DIGITS, entries, batch_sizes=[0, 3, 5], **QUICK)
    assert (found.verdict, found.reasons) == ("pass", ())
    assert [case.name for case in dict.fromkeys(each.case for each in found.accuracy)] == [
        "0 rows", "3 rows", "5 rows", "ragged stream",
    ]  # fmt: skip
    assert [[str(plan) for plan in entry.plans] for entry in found.entries][1] != [str(plan) for plan in found.entries[0].plans]


def test_rows_that_influence_one_another_are_refused_and_said(made):
    gears = Gears((4,))
    found = run(made(FakeBackend(AnyBatch()), FakeBackend(gears)), model=COUPLED, batch_sizes=[3, 4])
    assert found.verdict == "fail"
    assert [(each.case.name, each.verdict) for each in found.accuracy][:2] == [("3 rows", "fail"), ("4 rows", "pass")]
    assert "influence one another" in found.reasons[0]
    assert "--batch-sizes" in found.reasons[0]
    assert {each.verdict for each in found.entries[1].safety} == {"coupled"}


# ---------------------------------------------------------------------------------------------------------------- references


def test_the_reference_is_the_one_that_is_named(made):
    found = run(made(FakeBackend(AnyBatch()), FakeBackend(Gears((4,)))), reference="B")
    assert (found.reference, {each.entry for each in found.accuracy}) == ("B", {"A"})


def test_a_reference_may_come_from_outside(made):
    (entry,) = made(FakeBackend(Gears((4,))))
    (other,) = made(FakeBackend(AnyBatch()))
    other = Entry(other.backend, name="truth")
    found = run([entry], reference=other)
    assert [each.name for each in found.entries] == ["truth", "A"]
    assert found.verdict == "pass"
    found = compare(DIGITS, [Entry("onnxruntime", name="gears", batch_sizes=[4])], reference="onnxruntime", **QUICK)
    assert [each.name for each in found.entries] == ["onnxruntime", "gears"]


# ------------------------------------------------------------------------------------------------------------------ failures


def test_one_that_cannot_be_opened_stops_no_other(made):
    entries = made(FakeBackend(), FakeBackend(faults={("open", 1): device_error()}), FakeBackend(Gears((3,))))
    found = run(entries, seconds=0.01)
    assert [entry.verdict for entry in found.entries] == ["pass", "fail", "pass"]
    assert found.reasons == ("B: opening failed: DeviceError: fake: launch failed (status 7): it broke",)
    assert {each.entry for each in found.accuracy} == {"C"}
    assert [speed.entry for speed in found.speeds] == ["A", "C"]
    assert found.entries[1].open_s is None


def test_a_backend_that_is_not_installed_is_told(made):
    found = run([*made(FakeBackend(), FakeBackend()), Entry("no-such-backend")])
    assert found.verdict == "fail"
    assert "no-such-backend: opening failed: BackendNotFoundError" in found.reasons[0]
    assert {each.verdict for each in found.accuracy} == {"pass"}


def test_one_that_fails_in_the_middle_stops_no_other(made):
    broken = FakeBackend(Gears((4,)), faults={("execute", 3): device_error()})
    found = run(made(FakeBackend(), broken, FakeBackend(Gears((3,)))))
    failed = [each for each in found.accuracy if each.verdict == "fail"]
    assert {each.entry for each in failed} == {"B"}
    assert len(failed) == 1
    assert "it broke" in found.reasons[0]
    assert [failure.stage for failure in found.entries[1].failures] == ["accuracy"]
    assert [entry.verdict for entry in found.entries] == ["pass", "fail", "pass"]


def test_without_the_reference_nothing_is_compared_and_the_others_are_timed(made):
    found = run(made(FakeBackend(faults={("open", 1): device_error()}), FakeBackend(), FakeBackend()), seconds=0.01)
    assert found.verdict == "fail"
    assert found.accuracy == ()
    assert [speed.entry for speed in found.speeds] == ["B", "C"]
    assert "B: nothing was compared, so nothing is known" in found.reasons


def test_a_close_that_fails_is_told(made):
    found = run(made(FakeBackend(), FakeBackend(faults={("close", 1): device_error()})))
    assert found.reasons == ("B: closing failed: DeviceError: fake: launch failed (status 7): it broke",)


def test_an_interrupt_closes_everything(made):
    def interrupt(what, share):
        if what == "comparing answers":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made(FakeBackend(), FakeBackend()), progress=interrupt)


# ---------------------------------------------------------------------------------------------------------------- divergence


def test_the_first_node_that_is_off_is_named(tmp_path):
    model = onnx.load(DIGITS)
    node = next(node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))
    weights = next(each for each in model.graph.initializer if each.name == node.input[1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.05), weights.name))
    entries = [Entry("onnxruntime"), Entry("onnxruntime", name="changed", model=model)]
    told = []
    found = compare(DIGITS, entries, batch_sizes=[4], seconds=0, progress=lambda what, share: told.append((what, share)))
    assert found.verdict == "fail"
    (divergence,) = found.divergences
    assert (divergence.entry, divergence.operator) == ("changed", node.op_type)
    assert divergence.node in (node.name, *node.output)
    assert divergence.metrics.outside > 0
    assert any(what.startswith("looking for the first node") for what, _ in told)
    assert all(0 <= share <= 1 for _, share in told)


def test_integers_that_go_in_do_not_say_how_coarsely_floats_are_computed():
    spec = ModelSpec((TensorSpec("ids", np.int64, (None, 3)),), (TensorSpec("y", np.float32, (None, 3)),))
    silent = SimpleNamespace(precision="", runner=SimpleNamespace(spec=spec))
    right = np.ones((2, 3), np.float32)
    metrics, tolerance = _judge([silent, silent], right, right * np.float32(1.001))
    assert tolerance.reason.startswith("float32: ")
    assert metrics.outside == 6


# ----------------------------------------------------------------------------------------------------------------------- data


def test_all_rows_that_are_given_are_compared(made):
    rng = np.random.default_rng(0)
    inputs = AFFINE.random_inputs(rng, 100)
    found = run(made(FakeBackend(), FakeBackend(Gears((3,)))), inputs=inputs, data="rows of mine")
    assert (found.data, found.data_rows) == ("rows of mine", 100)
    assert found.accuracy[-1].case.rows == 100
    asked = []

    def read(spec):
        asked.append(spec)
        return inputs

    assert run(made(FakeBackend(), FakeBackend()), inputs=read).data == "the caller's"
    assert asked == [AFFINE.spec]


def test_tolerances_are_the_callers(made):
    entries = made(FakeBackend(), FaultyBackend(lambda y, before: y + np.float32(0.01), batching=AnyBatch()))
    output = AFFINE.spec.outputs[0].name
    assert run(entries).verdict == "fail"
    assert run(entries, tolerances={output: comparison.Tolerance(0.0, 0.1, "for the test")}).verdict == "pass"


def test_results_fit_their_schema_and_files(made, tmp_path):
    entries = made(FakeBackend(), FakeBackend(Gears((3,))), FakeBackend(faults={("open", 1): device_error()}))
    found = run(entries, model=SEVERAL, seconds=0.01)
    document = comparison.as_document(found)
    jsonschema.validate(document, comparison.schema())
    assert document["verdict"] == "fail"
    for suffix in (".html", ".json", ".xml"):
        comparison.save(found, tmp_path / f"found{suffix}")
    assert json.loads((tmp_path / "found.json").read_text()) == json.loads(json.dumps(document))


# ------------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": "onnxruntime"}, "expected a list of what to compare"),
        ({"on": []}, "at least one entry"),
        ({"on": ["onnxruntime"]}, "at least one entry besides the reference 'onnxruntime'"),
        ({"on": ["onnxruntime", "onnxruntime"]}, "'onnxruntime' twice"),
        ({"on": ["ascend-sim"], "reference": Entry("onnxruntime", name="ascend-sim")}, "'ascend-sim' twice"),
        ({"batch_sizes": []}, "at least one of batch_sizes"),
        ({"batch_sizes": [0]}, "at least one row"),
        ({"batch_sizes": [-1]}, "-1"),
        ({"seconds": -1}, "seconds to be 0 or more, got -1"),
        ({"seconds": float("nan")}, "seconds to be 0 or more, got nan"),
        ({"bisect_seconds": float("inf")}, "bisect_seconds to be 0 or more, got inf"),
        ({"inputs": {"images": np.zeros((0, 1, 8, 8), np.float32)}}, "at least one row"),
        ({"inputs": {"pictures": np.zeros((2, 1, 8, 8), np.float32)}}, "missing ['images']"),
        (
            {"inputs": {"images": np.zeros((2, 1, 8, 8), np.float32)}, "free": {"n": 1}},
            "expected free for rows that are made up",
        ),
        ({"free": {"n": 1}}, "free dimensions"),
        ({"tolerances": {"nothing": 1.0}}, "tolerances name ['nothing']"),
        ({"tolerances": {"scores": -1.0}}, "'scores'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InputError) as caught:
        compare(DIGITS, **{"on": ["onnxruntime", Entry("onnxruntime", name="B")], **QUICK, **arguments})
    assert message in str(caught.value)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        compare(tmp_path / "none.onnx", ["onnxruntime", "ascend-sim"])


def test_nothing_stays_open_where_arguments_do_not_fit(made):
    with pytest.raises(InputError):
        run(made(FakeBackend(), FakeBackend()), tolerances={"nothing": 1.0})
