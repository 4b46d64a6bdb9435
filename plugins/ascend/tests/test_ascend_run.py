"""Executing: what is called and what is not, what is copied, in which order, and what is left after each kind of trouble."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import acl_sim
import anybatch
from acl_sim import atc, testing
from anybatch.testing.models import AXIS_MOVES, COUPLED, SEVERAL
from anybatch_ascend import AscendBackend, _reports
from anybatch_ascend_sim import backend as ascend_sim
from ascend_models import AFFINE, RNG, compiled, open_model
from ascend_spy import Spy

GEARS = (1, 4, 8)
MODES = [0, 1, 3]  # callback_every
PATIENCE_S = 30  # of what must not hang


@pytest.fixture(autouse=True)
def machine():
    testing.reset()
    yield
    testing.assert_clean()


@pytest.fixture
def spy():
    return Spy()


@pytest.fixture
def backend(spy):
    return AscendBackend(acl=lambda: spy)


def requests(count, model=AFFINE, most=19):
    return [model.random_inputs(RNG, int(rows)) for rows in RNG.integers(1, most, count)]


def check(inputs, outputs, model=AFFINE):
    expected = model.reference(inputs)
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)


def within_patience(function):
    """Call a function in a thread of its own, and fail rather than hang."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(PATIENCE_S)


def next_call_fails(function, code, *, skip=0):
    nth = testing.ledger().calls[function] + 1 + skip
    testing.machine().faults.append(testing.Fault(function, nth, code))


# --- right rows ---


@pytest.mark.parametrize("callback_every", MODES)
@pytest.mark.parametrize("model", [AFFINE, SEVERAL, AXIS_MOVES], ids=lambda model: model.name)
def test_many_threads_with_mixed_gears(backend, model, callback_every):
    with open_model(compiled(model, GEARS), backend=backend, callback_every=callback_every, slots=4) as runner:
        batches = requests(40, model)
        with ThreadPoolExecutor(8) as pool:
            for inputs, outputs in zip(batches, pool.map(runner.run, batches), strict=True):
                check(inputs, outputs, model)
        assert set(runner.stats().launches) == set(GEARS)


@pytest.mark.parametrize("callback_every", MODES)
def test_map_with_mixed_gears(backend, callback_every):
    with open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=callback_every, slots=3) as runner:
        batches = requests(40)
        for inputs, outputs in zip(batches, runner.map(batches), strict=True):
            check(inputs, outputs)


def summed_over_columns(folder):
    """Rows on axis 1, each of which shows the sum of all in its launch."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=1), helper.make_node("Add", ["x", "s"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, "n"])],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    flags = [f"--model={folder / 'm.onnx'}", "--framework=5", f"--output={folder / 'm'}", "--soc_version=Ascend310P3"]
    flags += ["--input_shape=x:4,-1", "--dynamic_dims=2;4;8", "--input_format=ND", "--precision_mode=must_keep_origin_dtype"]
    assert atc.main(flags) == 0
    return folder / "m.om"


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("slots", [1, 2])
def test_padding_is_zero_on_the_device(tmp_path, backend, axis, slots):
    om = summed_over_columns(tmp_path) if axis else compiled(COUPLED, (2, 4, 8))
    session = backend.open(om, device=0, batch_sizes=None, options={"slots": slots})
    assert session.batching.pads
    # After fuller launches of the same gear, of a larger one, of a smaller one in between, and after one that failed.
    launches = [(8, 8), (3, 8), (5, 8), (2, 2), (1, 4), (3, 4), (1, 8), (7, 8), (1, 2), (2, 8), (6, 8), (4, 8), (1, 8)]
    for turn, (rows, gear) in enumerate([*launches, *launches[::-1]]):
        if turn == 15:
            next_call_fails("acl.mdl.execute_async", 507011)
        x = RNG.standard_normal((4, rows) if axis else (rows, 4)).astype(np.float32) + 10
        expected = x + x.sum(axis=axis, keepdims=True)
        try:
            np.testing.assert_allclose(session.execute({"x": x}, gear)["y"], expected, rtol=1e-5)
        except anybatch.DeviceError:
            assert turn == 15
    session.close()


def test_only_what_an_earlier_launch_left_is_cleared(backend, spy):
    session = backend.open(compiled(COUPLED, (2, 8)), device=0, batch_sizes=None, options={"slots": 1})
    row = 4 * 4
    cleared = []
    for rows, gear in [(3, 8), (8, 8), (5, 8), (1, 2), (6, 8), (2, 8), (2, 8)]:
        spy.calls.clear()
        session.execute({"x": np.ones((rows, 4), np.float32)}, gear)
        cleared.append([(call.args[1] // row, call.args[3] // row) for call in spy.named("rt.memset_async")])
    # (bytes to the end of the buffer, bytes cleared) in rows: the 1 row at gear 2 clears one of the 5, the others stay
    assert cleared == [[], [], [(3, 3)], [(7, 1)], [], [(6, 4)], []]
    session.close()


# --- what is called ---


@pytest.mark.parametrize("callback_every", MODES)
def test_nothing_is_allocated_after_open(backend, callback_every):
    with open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=callback_every, slots=3) as runner:
        before = Counter(testing.ledger().calls)
        batches = requests(50)
        for inputs in batches[:10]:
            check(inputs, runner.run(inputs))
        for inputs, outputs in zip(batches, runner.map(batches), strict=True):
            check(inputs, outputs)
        new = Counter(testing.ledger().calls) - before
    queueing = {"acl.rt.memcpy_async", "acl.rt.memset_async", "acl.mdl.execute_async", "acl.mdl.set_dynamic_batch_size"}
    events = {"acl.rt.record_event", "acl.rt.stream_wait_event", "acl.rt.launch_callback"}
    waiting = {"acl.rt.synchronize_stream", "acl.rt.process_report"}
    threads = {"acl.rt.get_context", "acl.rt.set_context", "acl.get_recent_err_msg"}  # those that are new to us
    assert set(new) <= queueing | events | waiting | threads
    assert new["acl.mdl.execute_async"] == new["acl.rt.synchronize_stream"] == sum(runner.stats().launches.values())
    assert new["acl.get_recent_err_msg"] <= 4  # once per thread that had no context


def times(runner, rows, count=6):
    """Modelled latencies in us."""
    found, inputs = [], AFFINE.random_inputs(RNG, rows)
    for _ in range(count):
        begun = runner.clock()
        check(inputs, runner.run(inputs))
        found.append(round((runner.clock() - begun) * 1e6, 3))
    return found


def wait_for_polls(count):
    """Until report threads polled that many times more: in real time, and in vain."""
    calls = testing.ledger().calls
    wanted, deadline = calls["acl.rt.process_report"] + count, time.monotonic() + PATIENCE_S
    while calls["acl.rt.process_report"] < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_sessions_that_are_open_and_not_used_cost_no_time(monkeypatch):
    monkeypatch.setattr(_reports, "_POLL_MS", 1)
    model = compiled(AFFINE, GEARS)
    with open_model(model, backend=ascend_sim()) as alone:
        expected = {rows: times(alone, rows) for rows in GEARS}  # nothing to zero
    assert all(len(set(same)) == 1 for same in expected.values())
    for others in (1, 2):
        testing.reset()
        with ExitStack() as stack:
            for _ in range(others):
                idle = stack.enter_context(open_model(model, backend=ascend_sim()))
            used = stack.enter_context(open_model(model, backend=ascend_sim()))
            testing.ledger().device_time_us += 1e6  # as if another thread had come that far
            times(idle, 1, 1)  # the thread has its context now
            switch = times(used, 1, 1)[0] - expected[1][0]
            assert switch == 1, "setting the context, once"
            for rows, alone_us in expected.items():
                found = []
                for _ in alone_us:
                    wait_for_polls(4)
                    found += times(used, rows, 1)
                assert found == alone_us


def test_several_sessions_leave_a_thread_the_context_of_another_library(backend):
    assert acl_sim.rt.set_device(0) == 0
    theirs = acl_sim.rt.get_context()
    model = compiled(AFFINE, GEARS)
    with open_model(model, backend=backend) as one, open_model(model, backend=backend) as other:
        for runner in (one, other, one):
            times_called = testing.ledger().calls["acl.rt.set_context"]
            inputs = AFFINE.random_inputs(RNG, 1)
            check(inputs, runner.run(inputs))
            assert acl_sim.rt.get_context() == theirs
            assert testing.ledger().calls["acl.rt.set_context"] == times_called + 2
    assert acl_sim.rt.reset_device(0) == 0


def test_sessions_do_not_put_back_the_context_of_one_another(backend):
    model = compiled(AFFINE, GEARS)
    inputs = AFFINE.random_inputs(RNG, 1)
    with (
        open_model(model, backend=backend, callback_every=0) as one,
        open_model(model, backend=backend, callback_every=0) as other,
    ):
        one.run(inputs)
        before = testing.ledger().calls["acl.rt.set_context"]
        for _ in range(3):
            other.run(inputs)
        assert testing.ledger().calls["acl.rt.set_context"] == before + 1
        one.run(inputs)
        assert testing.ledger().calls["acl.rt.set_context"] == before + 2
        other.close()
        check(inputs, one.run(inputs))


def test_only_real_rows_are_copied(backend, spy):
    with open_model(compiled(SEVERAL, GEARS), backend=backend, slots=1) as runner:
        for rows in (3, 8, 1, 11):
            spy.calls.clear()
            inputs = SEVERAL.random_inputs(RNG, rows)
            check(inputs, runner.run(inputs), SEVERAL)
            copies = [(call.args[4], call.args[3]) for call in spy.named("rt.memcpy_async")]
            to_device = sum(size for kind, size in copies if kind == 1)
            to_host = sum(size for kind, size in copies if kind == 2)
            assert to_device == rows * 2 * 4 * 4
            assert to_host == rows * (4 + 4 + 1) * 4
            assert len(copies) == 5 * len(runner.plan(rows).launches)


def test_gear_and_execution_are_one_step_and_executions_are_in_order(backend, spy):
    streams = {}  # of an event that was recorded
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=4) as runner:
        spy.calls.clear()
        batches = requests(60)
        for inputs, outputs in zip(batches, runner.map(batches), strict=True):
            check(inputs, outputs)
        session = runner._session
        computed = {slot.computed: slot.stream for slot in session._slots}
    steps = spy.named("mdl.set_dynamic_batch_size", "mdl.execute_async")
    assert len(steps) > 100
    for gear, execution in zip(steps[::2], steps[1::2], strict=True):
        assert (gear.name, execution.name) == ("mdl.set_dynamic_batch_size", "mdl.execute_async")
        assert gear.thread == execution.thread
        assert gear.args[:2] == execution.args[:2]  # model and input dataset
    last = None
    waits = {}
    for call in spy.named("rt.stream_wait_event", "rt.record_event", "mdl.execute_async"):
        if call.name == "rt.stream_wait_event":
            waits[call.args[0]] = call.args[1]
        elif call.name == "rt.record_event" and call.args[0] in computed:
            assert computed[call.args[0]] == call.args[1]
            streams[call.args[0]] = call.args[1]
            last = call.args[0]
        elif call.name == "mdl.execute_async" and last is not None and computed[last] != call.args[3]:
            assert waits.pop(call.args[3]) == last
    assert len(streams) > 1


def test_inputs_and_outputs_are_aligned(backend, spy):
    with open_model(compiled(SEVERAL, GEARS), backend=backend, slots=2) as runner:
        spy.calls.clear()
        runner.run(SEVERAL.random_inputs(RNG, 3))
        addresses = [address for call in spy.named("rt.memcpy_async") for address in (call.args[0], call.args[2])]
    assert addresses
    assert all(address % 64 == 0 for address in addresses)


def test_a_launch_of_other_rows_than_the_gear_is_refused(backend):
    session = backend.open(compiled(SEVERAL, GEARS), device=0, batch_sizes=None, options={})
    inputs = SEVERAL.random_inputs(RNG, 5)
    for gear in (4, 3):
        with pytest.raises(anybatch.InputError):
            session.execute(inputs, gear)
    with pytest.raises(anybatch.InputError, match="'left' has 5, 'right' has 1"):
        session.execute({**inputs, "right": inputs["right"][:1]}, 8)
    check(inputs, session.execute(inputs, 8), SEVERAL)
    session.close()


# --- trouble ---


@pytest.mark.parametrize("callback_every", MODES)
@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("acl.mdl.execute_async", 507011),
        ("acl.rt.synchronize_stream", 507011),
        ("acl.rt.memcpy_async", 207001),
        ("acl.mdl.set_dynamic_batch_size", 145013),
        ("acl.rt.record_event", 507000),
        ("acl.rt.stream_wait_event", 507000),
    ],
)
def test_an_error_is_that_requests_alone(backend, callback_every, function, code):
    with open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=callback_every, slots=4) as runner:
        next_call_fails(function, code, skip=7)
        batches = requests(24, most=9)
        futures = [runner.submit(inputs) for inputs in batches]
        failed = [future.exception(PATIENCE_S) for future in futures if future.exception(PATIENCE_S) is not None]
        hit = testing.ledger().calls[function] >= testing.machine().faults[0].nth
        if function != "acl.rt.stream_wait_event":  # whether there was one to wait for is the threads' luck
            assert hit
        # record_event is the executions' and the callback's: where one callback covers several, all are told to help themselves
        assert len(failed) == hit
        assert all(isinstance(error, anybatch.DeviceError) and error.status == code for error in failed)
        for inputs, future in zip(batches, futures, strict=True):
            if future.exception() is None:
                check(inputs, future.result())
        for inputs in batches:
            check(inputs, runner.run(inputs))


def test_map_yields_what_came_before_the_error(backend):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=1) as runner:
        batches = [AFFINE.random_inputs(RNG, 4) for _ in range(8)]
        next_call_fails("acl.mdl.execute_async", 507011, skip=3)
        results = runner.map(batches)
        for inputs in batches[:3]:
            check(inputs, next(results))
        with pytest.raises(anybatch.DeviceError, match="RT_MODEL_EXECUTE"):
            next(results)
        check(batches[0], runner.run(batches[0]))


def test_a_failure_that_is_told_twice_breaks_nothing(backend):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=1) as runner:
        inputs = AFFINE.random_inputs(RNG, 4)
        for skip in (0, 1):
            next_call_fails("acl.rt.synchronize_stream", 507011, skip=skip)
        with pytest.raises(anybatch.DeviceError, match=r"synchronize_stream failed \(status 507011\): RT_MODEL_EXECUTE"):
            runner.run(inputs)
        check(inputs, runner.run(inputs))


def test_a_broken_session_whose_streams_end_after_all_frees_everything(backend):
    runner = open_model(compiled(AFFINE, GEARS), backend=backend, slots=2)
    inputs = AFFINE.random_inputs(RNG, 4)
    for skip in range(3):
        next_call_fails("acl.rt.synchronize_stream", 507011, skip=skip)
    with pytest.raises(anybatch.DeviceError, match="RT_MODEL_EXECUTE"):
        runner.run(inputs)
    for _ in range(2):
        with pytest.raises(
            anybatch.DeviceError, match=r"broken since an earlier launch failed .*RT_MODEL_EXECUTE.*open it again"
        ):
            runner.run(inputs)
    runner.close()
    testing.assert_clean()


@pytest.mark.parametrize("callback_every", MODES)
@pytest.mark.parametrize("where", ["mdl.execute_async", "rt.memcpy_async", "rt.synchronize_stream", "rt.launch_callback"])
def test_a_device_is_lost_in_the_middle(backend, spy, monkeypatch, caplog, callback_every, where):
    monkeypatch.setattr(_reports, "_SILENCE_S", 0.2)
    if where == "rt.launch_callback" and not callback_every:
        where = "rt.record_event"
    seen = Counter()

    def lose(real, *args):
        seen[where] += 1
        if seen[where] >= 6:
            testing.machine().lost.add(0)
        return real(*args)

    runner = open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=callback_every, slots=4)
    spy.instead[where] = lose
    batches = requests(40, most=9)
    futures = [runner.submit(inputs) for inputs in batches]
    errors = [future.exception(PATIENCE_S) for future in futures]
    for inputs, future, error in zip(batches, futures, errors, strict=True):
        if error is None:
            check(inputs, future.result())
    assert any(errors)
    assert all(isinstance(error, anybatch.DeviceError) for error in errors if error is not None)
    with pytest.raises(
        anybatch.DeviceError, match=r"the session is broken since an earlier launch failed .*507899.*: close it"
    ) as raised:
        runner.run(batches[0])
    assert raised.value.status == 507899
    assert raised.value.code_name == "RT_DRV_INTERNAL_ERROR"
    within_patience(runner.close)  # without an error: who has used it knows
    assert not [thread for thread in threading.enumerate() if thread.name == "anybatch-ascend-reports"]
    assert not testing.ledger().violations
    assert not [leak for leak in testing.ledger().leaks if leak.kind in ("context", "stream")]
    if any(leak.kind == "pinned host memory" for leak in testing.ledger().leaks):
        assert "left to the driver" in caplog.text
    testing.reset()  # what a lost device keeps is no leak of ours


@pytest.mark.parametrize("callback_every", MODES)
def test_close_with_a_full_pipeline(backend, callback_every):
    runner = open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=callback_every, slots=3)
    batches = requests(60)
    futures = [runner.submit(inputs) for inputs in batches]
    within_patience(runner.close)
    done = 0
    for inputs, future in zip(batches, futures, strict=True):
        error = future.exception(PATIENCE_S)
        if error is None:
            check(inputs, future.result())
            done += 1
        else:
            assert isinstance(error, anybatch.ClosedError)
    assert done < len(batches)


def test_use_after_close(backend):
    session = backend.open(compiled(AFFINE, GEARS), device=0, batch_sizes=None, options={})
    session.close()
    session.close()
    before = Counter(testing.ledger().calls)
    with pytest.raises(anybatch.ClosedError, match=r"ascend: execute\(\) after close\(\)"):
        session.execute(AFFINE.random_inputs(RNG, 1), 1)
    assert testing.ledger().calls == before


# --- Ctrl-C ---

LAUNCH = ["rt.memcpy_async", "rt.memset_async", "mdl.set_dynamic_batch_size", "rt.stream_wait_event", "mdl.execute_async"]
LAUNCH += ["rt.record_event", "rt.launch_callback", "rt.synchronize_stream"]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("function", LAUNCH)
@pytest.mark.parametrize("callback_every", [0, 3])
def test_an_interrupt_leaves_right_rows_behind(backend, spy, callback_every, function, late):
    """Ctrl-C comes to one of several threads around each call that a launch makes."""
    me = threading.get_ident()
    interrupted = []

    def interrupt(real, *args):
        if threading.get_ident() == me and not interrupted:
            interrupted.append(real(*args) if late else None)
            raise KeyboardInterrupt
        return real(*args)

    with open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=callback_every, slots=3) as runner:
        for inputs in requests(6):
            check(inputs, runner.run(inputs))
        batches = requests(16)
        with ThreadPoolExecutor(2) as pool:
            others = [pool.submit(runner.run, inputs) for inputs in batches]
            spy.instead[function] = interrupt
            # Launches of one request are shared among threads: it may take some requests until this one makes the call.
            for inputs in itertools.islice(itertools.cycle(requests(8)), 200):
                try:
                    check(inputs, runner.run(inputs))
                except KeyboardInterrupt:
                    assert interrupted
                if interrupted:
                    break
            spy.instead.clear()
            # Whether there is something to wait for, to clear or to call back for is the threads' luck.
            assert interrupted or function in ("rt.stream_wait_event", "rt.memset_async", "rt.launch_callback")
            for inputs, other in zip(batches, others, strict=True):
                check(inputs, other.result(PATIENCE_S))
        for inputs in batches:
            check(inputs, runner.run(inputs))


def test_rows_of_an_interrupted_launch_are_cleared(backend, spy):
    session = backend.open(compiled(COUPLED, (2, 4, 8)), device=0, batch_sizes=None, options={"slots": 1})
    x = RNG.standard_normal((8, 4)).astype(np.float32) + 10

    def interrupt(real, *args):
        spy.instead.clear()
        assert real(*args) == 0
        raise KeyboardInterrupt

    spy.instead["rt.memcpy_async"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.execute({"x": x}, 8)
    np.testing.assert_allclose(session.execute({"x": x[:1]}, 8)["y"], 2 * x[:1], rtol=1e-5)
    session.close()


def test_an_interrupt_while_waiting_for_a_report(backend, spy):
    with open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=2, slots=3) as runner:
        waits = []
        reports = runner._session._reports
        real = reports.wait

        def wait(flight):
            waits.append(flight)
            if len(waits) in (2, 5):
                raise KeyboardInterrupt
            real(flight)

        reports.wait = wait
        batches = requests(60, most=9)

        def run(inputs):
            try:
                return runner.run(inputs)
            except KeyboardInterrupt:
                return None

        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(run, batches, timeout=PATIENCE_S))
        assert results.count(None) == sum(nth <= len(waits) for nth in (2, 5))
        for inputs, outputs in zip(batches, results, strict=True):
            if outputs is not None:
                check(inputs, outputs)


@pytest.fixture
def ctrl_c():
    """Python's handler, also where the test run was started in the background, which ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_the_device_works(backend, spy):
    testing.reset(device_time="affine:600000,0", real_time=1.0)  # 0.6 s per launch
    with open_model(compiled(AFFINE, (4,)), backend=backend, slots=2) as runner:
        inputs = AFFINE.random_inputs(RNG, 4)
        returned = []
        never = threading.Event()

        def synchronize(real, stream):
            spy.instead.clear()
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            return real(stream)

        def run():
            returned.append(runner.run(inputs))
            never.wait(PATIENCE_S)  # a signal that comes late must not end the whole test run

        spy.instead["rt.synchronize_stream"] = synchronize
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run()
        assert not returned
        assert time.monotonic() - started > 0.5  # not before the device lets go of its memory
        check(inputs, runner.run(inputs))
