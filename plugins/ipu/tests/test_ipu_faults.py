"""Every poprt call fails once, one by one: no leak, no hang, no wrong row, and always a typed error."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import anybatch
from anybatch.testing.models import AFFINE as MODEL
from anybatch_ipu.errors import PoprtError
from poprt_sim import testing
from poprt_sim.anybatch_backend import backend as ipu_sim

REQUESTS = [7, 1, 12, 4]
WAYS = {
    "runtime": {},
    "runtime, in two calls": {"execute_async": True},
    "host": {"pad_by": "host"},
    "overlapped": {"compiler_options": {"num_io_tiles": 32}},
    "pinned": {"device": 1},
}


def scenario(cache, **options):
    """Compile, open, run, map and close; return the errors that came.

    Rows that come are right; after an error the next run is.
    """
    rng = np.random.default_rng(5)
    errors = []
    try:
        runner = anybatch.open(MODEL.onnx_bytes, backend=ipu_sim(), batch_sizes=[4], cache_dir=cache, **options)
    except anybatch.AnybatchError as error:
        return [error]
    try:
        inputs = MODEL.random_inputs(rng, 11)
        run_again_after_an_error(runner, inputs, errors)
        batches = [MODEL.random_inputs(rng, rows) for rows in REQUESTS]
        arrived = 0
        try:
            for batch, outputs in zip(batches, runner.map(batches), strict=True):
                check(batch, outputs)
                arrived += 1
        except anybatch.AnybatchError as error:
            errors.append(error)
        assert errors or arrived == len(batches)
        run_again_after_an_error(runner, inputs, errors)
        assert len(errors) <= 1, f"one call failed, and {len(errors)} requests with it: {errors}"
    finally:
        runner.close()
    return errors


def run_again_after_an_error(runner, inputs, errors):
    try:
        check(inputs, runner.run(inputs))
    except anybatch.AnybatchError as error:
        errors.append(error)
        check(inputs, runner.run(inputs))  # whatever failed, the runner works on


def check(inputs, outputs):
    for name, expected in MODEL.reference(inputs).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_every_call_fails_once(way, tmp_path):
    options = WAYS[way]
    testing.reset()
    assert scenario(tmp_path / "whole", **options) == []
    testing.assert_clean()
    calls = {name: count for name, count in testing.ledger().calls.items() if name != "device.run"}
    tried = 0
    for function, count in sorted(calls.items()):
        for nth in range(1, count + 1):
            testing.reset(faults=(testing.Fault(function, nth, "broken on purpose"),))
            errors = scenario(tmp_path / f"{function}-{nth}", **options)
            gc.collect()  # the simulator looks at threads' frames, its own among them
            ledger = testing.ledger()
            what = f"call {nth} of {function}"
            # The error is still held here: it must not keep the device.
            assert not ledger.leaks, f"{what}: {ledger.to_text()}"
            assert not ledger.violations, f"{what}: {ledger.to_text()}"
            assert len(errors) == 1, f"{what} failed, and nobody was told"
            (error,) = errors
            told = error if isinstance(error, PoprtError) else error.__cause__
            assert isinstance(told, PoprtError), f"{what}: {error!r}"
            assert told.function.split(".")[-1] == function.split(".")[-1], f"{what}: {error!r}"
            assert "broken on purpose" in str(error), f"{what}: {error!r}"
            tried += 1
    assert tried > 10
