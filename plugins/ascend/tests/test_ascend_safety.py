"""An ``.om`` has no graph to prove anything on: what anybatch.open finds out about its rows on the card, and what follows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import anybatch
from acl_sim import testing
from anybatch import CoupledRowsError, SafetyWarning
from anybatch_ascend_sim import backend as ascend_sim

GEARS = (2, 4, 8)
INDEPENDENT = "y = Softmax <axis = 1> (x)"
COUPLED = "y = Softmax <axis = 0> (x)"
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def machine():
    testing.reset()
    yield
    testing.assert_clean()


def model_of(nodes):
    header = '<ir_version: 8, opset_import: ["": 17]> m (float[rows, 5] x) => (float[rows, 5] y)'
    return onnx.parser.parse_model(f"{header} {{ {nodes} }}")


def om_of(nodes, folder, **options):
    return anybatch.compile(model_of(nodes), backend=ascend_sim(), batch_sizes=GEARS, output=folder / "m.om", **options).path


def rows(count):
    return {"x": RNG.standard_normal((count, 5)).astype(np.float32)}


def softmax(inputs, axis):
    shares = np.exp(inputs["x"])
    return shares / shares.sum(axis, keepdims=True)


PRECISIONS = pytest.mark.parametrize("precision", ["must_keep_origin_dtype", "force_fp16"])


@PRECISIONS
def test_coupled_rows_are_found_and_not_padded(tmp_path, precision):
    with anybatch.open(om_of(COUPLED, tmp_path, precision_mode=precision), backend=ascend_sim()) as runner:
        assert [(row.verdict, row.basis) for row in runner.safety] == [("coupled", "trial")]
        for count in (3, 12):  # one needs padding, one two launches
            with pytest.raises(CoupledRowsError, match=f"^{count} rows would be run as .*rows of output 'y' influence"):
                runner.run(rows(count))
        inputs = rows(4)
        np.testing.assert_allclose(runner.run(inputs)["y"], softmax(inputs, 0), atol=2e-3)


@PRECISIONS
def test_independent_rows_run_and_a_warning_says_that_nothing_is_proven(tmp_path, precision):
    om = om_of(INDEPENDENT, tmp_path, precision_mode=precision)
    for model in (om, om.read_bytes()):
        with pytest.warns(SafetyWarning, match=r"output 'y' \(it is compiled already, so there is no graph.*were alike\)"):
            runner = anybatch.open(model, backend=ascend_sim())
        with runner:
            assert [(row.verdict, row.basis) for row in runner.safety] == [("unknown", "trial")]
            inputs = rows(11)
            np.testing.assert_allclose(runner.run(inputs)["y"], softmax(inputs, 1), atol=2e-3)


@pytest.mark.parametrize("nodes", [INDEPENDENT, COUPLED])
@pytest.mark.parametrize("option", [{"independent": ["y"]}, {"safety": "off"}], ids=str)
def test_the_callers_word_is_taken_and_nothing_launched(tmp_path, nodes, option):
    with anybatch.open(om_of(nodes, tmp_path), backend=ascend_sim(), **option) as runner:
        assert not testing.ledger().launches
        assert runner.run(rows(3))["y"].shape == (3, 5)
        assert sum(sum(each.values()) for each in testing.ledger().launches.values()) == 1


def test_the_onnx_model_is_proven_and_not_tried():
    with anybatch.open(model_of(INDEPENDENT), backend=ascend_sim(), batch_sizes=GEARS) as runner:
        assert not testing.ledger().launches
        assert [(row.verdict, row.basis) for row in runner.safety] == [("independent", "proof")]


# In a trial of this model, the first launch, one among plain rows, and one of the last round.
LAUNCHES = pytest.mark.parametrize("launch", [1, 40, 400])


@LAUNCHES
def test_a_launch_that_fails_in_the_trial_is_told_and_the_session_goes_on(tmp_path, launch):
    om = om_of(INDEPENDENT, tmp_path)
    testing.machine().faults.append(testing.Fault("acl.mdl.execute_async", launch, 507899))
    with pytest.warns(SafetyWarning, match=r"raised AclDeviceError: .*execute_async failed \(status 507899\)"):
        runner = anybatch.open(om, backend=ascend_sim())
    with runner:
        inputs = rows(3)
        np.testing.assert_allclose(runner.run(inputs)["y"], softmax(inputs, 1), atol=2e-3)


@LAUNCHES
def test_a_session_that_breaks_in_the_trial_is_told_and_can_be_closed(tmp_path, launch):
    om = om_of(INDEPENDENT, tmp_path)
    testing.machine().faults += [testing.Fault("acl.rt.synchronize_stream", nth, 507011) for nth in range(launch, launch + 3)]
    with pytest.warns(SafetyWarning, match=r"raised AclDeviceError: .*synchronize_stream failed \(status 507011\)"):
        runner = anybatch.open(om, backend=ascend_sim())
    with runner, pytest.raises(anybatch.DeviceError, match="the session is broken since an earlier launch failed"):
        runner.run(rows(3))
