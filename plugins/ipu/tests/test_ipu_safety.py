"""A ``.popef`` has no graph to prove anything on: what anybatch.open finds out about its rows on the IPU, and what follows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import anybatch
from anybatch import CoupledRowsError, SafetyWarning
from poprt_sim import testing
from poprt_sim.anybatch_backend import backend as ipu_sim

BATCH = 4
INDEPENDENT = "y = Softmax <axis = 1> (x)"
COUPLED = "m = ReduceMean <axes = [0], keepdims = 1> (x) y = Sub(x, m)"
RNG = np.random.default_rng(3)
PAD_BY = pytest.mark.parametrize("pad_by", ["runtime", "host"])


@pytest.fixture(autouse=True)
def clean():
    testing.reset()
    yield
    testing.assert_clean()


def model_of(nodes):
    header = '<ir_version: 8, opset_import: ["": 11]> m (float[rows, 5] x) => (float[rows, 5] y)'
    return onnx.parser.parse_model(f"{header} {{ {nodes} }}")


def popef_of(nodes, folder):
    return anybatch.compile(model_of(nodes), backend=ipu_sim(), batch_sizes=[BATCH], output=folder / "m.popef").path


def rows(count):
    return {"x": RNG.standard_normal((count, 5)).astype(np.float32)}


def softmax(inputs):
    shares = np.exp(inputs["x"])
    return shares / shares.sum(axis=1, keepdims=True)


def runs():
    return testing.ledger().calls["runtime.Runner.execute"]


@PAD_BY
def test_coupled_rows_are_found_and_not_padded(tmp_path, pad_by):
    with anybatch.open(popef_of(COUPLED, tmp_path), backend=ipu_sim(), pad_by=pad_by) as runner:
        assert [(row.verdict, row.basis) for row in runner.safety] == [("coupled", "trial")]
        for count in (3, 8):  # one needs padding, one two launches
            with pytest.raises(CoupledRowsError, match=f"^{count} rows would be run as .*rows of output 'y' influence"):
                runner.run(rows(count))
        inputs = rows(BATCH)
        np.testing.assert_allclose(runner.run(inputs)["y"], inputs["x"] - inputs["x"].mean(axis=0), atol=1e-6)


@PAD_BY
def test_independent_rows_run_and_a_warning_says_that_nothing_is_proven(tmp_path, pad_by):
    popef = popef_of(INDEPENDENT, tmp_path)
    for model in (popef, popef.read_bytes()):
        with pytest.warns(SafetyWarning, match=r"output 'y' \(it is compiled already, so there is no graph.*were alike\)"):
            runner = anybatch.open(model, backend=ipu_sim(), pad_by=pad_by)
        with runner:
            assert [(row.verdict, row.basis) for row in runner.safety] == [("unknown", "trial")]
            inputs = rows(11)
            np.testing.assert_allclose(runner.run(inputs)["y"], softmax(inputs), rtol=1e-5)


@PAD_BY
@pytest.mark.parametrize("nodes", [INDEPENDENT, COUPLED])
@pytest.mark.parametrize("option", [{"independent": ["y"]}, {"safety": "off"}], ids=str)
def test_the_callers_word_is_taken_and_nothing_launched(tmp_path, nodes, option, pad_by):
    with anybatch.open(popef_of(nodes, tmp_path), backend=ipu_sim(), pad_by=pad_by, **option) as runner:
        assert runs() == 0
        assert runner.run(rows(3))["y"].shape == (3, 5)
        assert runs() == 1


def test_the_onnx_model_is_proven_and_not_tried():
    with anybatch.open(model_of(INDEPENDENT), backend=ipu_sim(), batch_sizes=[BATCH]) as runner:
        assert runs() == 0
        assert [(row.verdict, row.basis) for row in runner.safety] == [("independent", "proof")]


@PAD_BY
def test_a_launch_that_fails_in_the_trial_is_told_and_the_session_goes_on(tmp_path, pad_by):
    popef = popef_of(INDEPENDENT, tmp_path)
    testing.reset(faults=(testing.Fault("runtime.Runner.execute", 1, "broken on purpose"),))
    with pytest.warns(SafetyWarning, match=r"raised PoprtDeviceError: .*broken on purpose"):
        runner = anybatch.open(popef, backend=ipu_sim(), pad_by=pad_by)
    with runner:
        inputs = rows(3)
        np.testing.assert_allclose(runner.run(inputs)["y"], softmax(inputs), rtol=1e-5)
