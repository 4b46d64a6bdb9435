"""The plugin on the simulator: every version of PopRT, merging and waiting, devices, and what devices fail with."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import anybatch
from anybatch import BackendUnavailableError, DeviceError, ModelError
from anybatch.testing.models import AFFINE as MODEL
from anybatch.testing.models import WIDE
from anybatch_ipu.errors import PoprtError
from poprt_sim import testing
from poprt_sim.anybatch_backend import backend as ipu_sim

VERSIONS = ("1.0.2", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0")
TIMEOUT_US = 300.0


@pytest.fixture(autouse=True)
def clean():
    testing.reset()
    yield
    testing.assert_clean()


def open_sim(model=MODEL.onnx_bytes, *, batch_sizes=(4,), **options):
    return anybatch.open(model, backend=ipu_sim(), batch_sizes=batch_sizes, **options)


def run(runner, rows):
    inputs = MODEL.random_inputs(np.random.default_rng(rows), rows)
    outputs = runner.run(inputs)
    np.testing.assert_allclose(outputs["y"], MODEL.reference(inputs)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"execute_async": True}, {"pad_by": "host"}], ids=["execute", "async", "host"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_runs(version, options, tmp_path):
    testing.reset(version=version)
    with open_sim(cache_dir=tmp_path, **options) as runner:
        for rows in (1, 4, 7):
            run(runner, rows)
    called = set(testing.ledger().calls)
    descriptors = "get_model_inputs" if version == "1.0.2" else "get_execute_inputs"
    assert f"runtime.Runner.{descriptors}" in called


def test_messages_name_the_version_that_is_there(tmp_path):
    testing.reset(version="1.2.0")
    with pytest.raises(anybatch.InputError, match=r"PopRT 1\.2\.0 takes the next free IPU .* \(1\.3 and later can\)"):
        open_sim(cache_dir=tmp_path, device=2)


def test_variables_that_ask_for_no_such_machine(monkeypatch):
    monkeypatch.setattr("poprt_sim._machine._machine", None)
    monkeypatch.setenv("POPRT_SIM_DEVICES", "two")
    with pytest.raises(BackendUnavailableError, match="POPRT_SIM_DEVICES=two: expected a whole number, got 'two'"):
        open_sim()
    monkeypatch.delenv("POPRT_SIM_DEVICES")
    monkeypatch.setenv("POPRT_SIM_DEVICE_TIME", "affine:20")
    with pytest.raises(BackendUnavailableError, match="device-time model 'affine:20': expected"):
        open_sim()


def test_a_pass_that_does_not_exist(tmp_path):
    """PopRT's KeyError holds a sentence; it is told without the quotes of a key."""
    with pytest.raises(ModelError, match=r"Converter\.convert failed: no pass is registered as 'gelu'"):
        open_sim(cache_dir=tmp_path, converter_options={"used_passes": ["gelu"]})


def test_the_trace_of_the_vendors_page():
    """1, 4 and 7 rows on a program for 4: four runs, four rows of padding, two timeouts."""
    with open_sim() as runner:
        waits = []
        for rows in (1, 4, 7):
            before = testing.ledger().waited_us
            run(runner, rows)
            waits.append(testing.ledger().waited_us - before)
        account = testing.ledger()
        assert waits == [TIMEOUT_US, 0, TIMEOUT_US]
        assert (account.runs, account.real_rows, account.padded_rows, account.flushes) == (4, 12, 4, 2)
        assert account.calls["runtime.Runner.execute"] == 3, "one call for each request"
        assert runner.stats().padded_rows == account.padded_rows


def test_where_the_core_pads_nothing_waits():
    with open_sim(pad_by="host") as runner:
        for rows in (1, 4, 7):
            run(runner, rows)
    account = testing.ledger()
    assert (account.runs, account.padded_rows, account.flushes, account.waited_us) == (4, 0, 0, 0)


def test_callers_share_a_batch():
    with open_sim(batch_sizes=[8]) as runner:
        threads = [threading.Thread(target=run, args=(runner, rows)) for rows in (1, 2, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert runner.stats().padded_rows == 7 + 6 + 3, "what each alone would need"
    account = testing.ledger()
    assert (account.runs, account.real_rows, account.padded_rows, account.flushes) == (1, 8, 0, 0)


def test_submitted_requests_share_batches_too():
    with open_sim(batch_sizes=[8]) as runner:
        inputs = [MODEL.random_inputs(np.random.default_rng(rows), 1) for rows in range(16)]
        futures = [runner.submit(each) for each in inputs]
        for each, future in zip(inputs, futures, strict=True):
            np.testing.assert_allclose(future.result()["y"], MODEL.reference(each)["y"], rtol=1e-5, atol=1e-5)
    assert (testing.ledger().runs, testing.ledger().padded_rows) == (2, 0)


def test_overlapped_io_is_fed():
    """A request of many batches keeps all three stages busy, where the core pads as where PopRT does."""
    spent = {}
    for name, options in {
        "host": {"pad_by": "host"},
        "one at a time": {"pad_by": "host", "in_flight": 1},
        "runtime": {},
    }.items():
        testing.reset(device_time="affine:100,0")
        with open_sim(compiler_options={"num_io_tiles": 32, "batches_per_step": 4}, **options) as runner:
            before = testing.now_us()
            run(runner, 48)
            spent[name] = testing.now_us() - before
        testing.assert_clean()
    assert spent["host"] < spent["one at a time"] / 1.5
    assert spent["runtime"] < spent["one at a time"] / 1.5


def test_a_popef_of_ones_own(tmp_path):
    path = tmp_path / "m.popef"
    anybatch.compile(MODEL.onnx_bytes, backend=ipu_sim(), batch_sizes=[4], output=path)
    for source in (path, path.read_bytes()):
        with anybatch.open(source, backend=ipu_sim(), independent=["y"]) as runner:
            assert runner.batching == anybatch.MultipleOf(4)
            run(runner, 7)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError) as caught:
        anybatch.open(path, backend=ipu_sim())
    assert caught.value.kind == "bad model"


def test_half_precision_says_so():
    with open_sim(precision="fp16") as runner:
        assert {str(tensor.dtype) for tensor in (*runner.spec.inputs, *runner.spec.outputs)} == {"float16"}
        x = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float16)
        expected = MODEL.reference({"x": x.astype(np.float32)})["y"]
        np.testing.assert_allclose(runner.run({"x": x})["y"], expected, rtol=2e-2, atol=5e-2)


# --- devices ---


def test_an_ipu_holds_one_model():
    testing.reset(devices=1)
    with open_sim() as runner:
        with pytest.raises(
            BackendUnavailableError, match="an IPU holds one model at a time: close the runner or end"
        ) as caught:
            open_sim()
        assert caught.value.kind == "no device"
        run(runner, 3)
    with open_sim() as runner:
        run(runner, 3)


def test_a_pinned_ipu():
    with open_sim(device=2) as runner:
        assert [leak.what.rpartition(" ")[2] for leak in testing.ledger().leaks] == ["2", "2"]
        with pytest.raises(BackendUnavailableError) as caught:
            open_sim(device=2)
        assert caught.value.kind == "no device"
        run(runner, 3)


def test_an_ipu_that_is_lost():
    testing.reset(lost_devices=(1,))
    with pytest.raises(BackendUnavailableError) as caught:
        open_sim(device=1)
    assert caught.value.kind == "no device"


def test_other_hardware(tmp_path):
    path = tmp_path / "m.popef"
    anybatch.compile(MODEL.onnx_bytes, backend=ipu_sim(), batch_sizes=[4], output=path, ipu_version="ipu2")
    with pytest.raises(ModelError, match="compile it with the PopRT that runs it, for this machine's hardware") as caught:
        anybatch.open(path, backend=ipu_sim())
    assert caught.value.kind == "wrong hardware"


def test_out_of_memory(tmp_path):
    testing.reset(tile_memory_bytes=1000)
    with pytest.raises(ModelError, match="use a smaller batch size, a lower available_memory_proportion") as caught:
        open_sim(WIDE.onnx_bytes, batch_sizes=[64], cache_dir=tmp_path)
    error = caught.value
    assert (error.kind, error.tile) == ("out of memory", 0)
    assert error.size_bytes > 1000
    assert f"on tile 0: {error.size_bytes} bytes" in str(error)
    assert list(tmp_path.glob("*.popef")) == []


# --- what devices fail with ---


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("application_runtime_error", "application error"),
        ("recoverable_runtime_error:IPU_RESET", "reset"),
        ("unknown_runtime_error", "other"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"execute_async": True}, {"pad_by": "host"}], ids=["execute", "async", "host"])
def test_a_device_that_fails(text, kind, options):
    testing.reset(faults=(testing.Fault("device.run", 2, text),))
    with open_sim(**options) as runner:
        run(runner, 4)
        with pytest.raises(DeviceError) as caught:
            run(runner, 4)
        assert isinstance(caught.value, PoprtError)
        assert caught.value.kind == kind
        with pytest.raises(DeviceError):  # nobody reset it
            run(runner, 4)
    with open_sim(**options) as runner:
        run(runner, 4)


@pytest.mark.parametrize("text", ["application_runtime_error", "recoverable_runtime_error:IPU_RESET"])
def test_a_device_that_is_reset(text):
    testing.reset(faults=(testing.Fault("device.run", 2, text),))
    with open_sim(runtime_options={"auto_reset": True}) as runner:
        run(runner, 4)
        with pytest.raises(DeviceError):
            run(runner, 4)
        run(runner, 7)
    assert testing.ledger().resets == 1


def test_callers_who_share_a_failing_batch_all_hear_of_it():
    testing.reset(faults=(testing.Fault("device.run", 1, "unknown_runtime_error"),))
    errors = []

    def call(runner, rows):
        try:
            run(runner, rows)
        except DeviceError as error:
            errors.append(error)

    with open_sim(batch_sizes=[8]) as runner:
        threads = [threading.Thread(target=call, args=(runner, rows)) for rows in (3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(errors) == 2
