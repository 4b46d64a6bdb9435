"""The report thread: one per session, a callback for every k launches, and nobody waits for one that does not come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest

import acl_sim
from acl_sim import testing
from anybatch_ascend import AscendBackend, _reports
from anybatch_ascend._acl import Acl
from anybatch_ascend._reports import Reports
from anybatch_ascend.status import AclDeviceError
from ascend_models import AFFINE, RNG, compiled, open_model
from ascend_spy import Spy

GEARS = (1, 4, 8)
PATIENCE_S = 30


@pytest.fixture(autouse=True)
def machine():
    testing.reset()
    yield
    testing.assert_clean()
    assert not report_threads()


@pytest.fixture
def spy():
    return Spy()


@pytest.fixture
def backend(spy):
    return AscendBackend(acl=lambda: spy)


def report_threads():
    return [thread for thread in threading.enumerate() if thread.name == "anybatch-ascend-reports"]


def check(inputs, outputs):
    np.testing.assert_allclose(outputs["y"], AFFINE.reference(inputs)["y"], rtol=1e-5, atol=1e-5)


class Launch:
    """A stream with an event."""

    def __init__(self):
        self.stream, _ = acl_sim.rt.create_stream()
        self.landed_event, _ = acl_sim.rt.create_event_ex_with_flag(1)
        self.landed = SimpleQueue()


@pytest.fixture
def launches():
    assert acl_sim.init() == 0
    context, _ = acl_sim.rt.create_context(0)
    made = [Launch() for _ in range(4)]
    yield made
    for launch in made:
        assert acl_sim.rt.synchronize_stream(launch.stream) == 0
        assert acl_sim.rt.destroy_event(launch.landed_event) == 0
        assert acl_sim.rt.destroy_stream(launch.stream) == 0
    assert acl_sim.rt.destroy_context(context) == 0
    assert acl_sim.finalize() == 0


@pytest.fixture
def reports(spy, launches, request):
    made = Reports(Acl(spy, "ascend"), acl_sim.rt.get_context()[0], [launch.stream for launch in launches], request.param)
    spy.calls.clear()
    yield made
    assert made.close() is None


@pytest.mark.parametrize("reports", [3], indirect=True)
def test_one_callback_behind_the_last_of_k(spy, launches, reports):
    a, b, c, d = launches
    for launch in launches:
        reports.begin(launch)
    assert reports.queued(a)
    assert reports.queued(b)
    assert not spy.named("rt.launch_callback", "rt.record_event")
    assert reports.queued(c)
    order = [(call.name, *call.args[-2:]) for call in spy.named("rt.record_event", "rt.stream_wait_event")]
    assert order == [
        ("rt.record_event", a.landed_event, a.stream),
        ("rt.stream_wait_event", c.stream, a.landed_event),
        ("rt.record_event", b.landed_event, b.stream),
        ("rt.stream_wait_event", c.stream, b.landed_event),
    ]
    assert [call.args[2:] for call in spy.named("rt.launch_callback")] == [(0, c.stream)]
    for launch in (a, b, c):
        launch.landed.get(timeout=PATIENCE_S)
        reports.end(launch)
    assert not reports.queued(d)  # alone by now
    assert len(spy.named("rt.launch_callback")) == 1
    reports.end(d)


@pytest.mark.parametrize("reports", [1, 3], indirect=True)
def test_none_for_a_launch_alone(spy, launches, reports):
    for launch in launches:
        reports.begin(launch)
        assert not reports.queued(launch)
        reports.end(launch)
    assert not spy.named("rt.launch_callback")


@pytest.mark.parametrize("reports", [3], indirect=True)
def test_no_launch_waits_for_company_that_is_not_queueing(spy, launches, reports):
    a, b, *_ = launches
    reports.begin(a)
    reports.begin(b)
    assert reports.queued(a)
    assert reports.queued(b)  # only two, and nobody else begins
    assert len(spy.named("rt.launch_callback")) == 1
    for launch in (a, b):
        launch.landed.get(timeout=PATIENCE_S)
        reports.end(launch)


@pytest.mark.parametrize("reports", [3], indirect=True)
def test_no_launch_waits_for_company_that_failed(spy, launches, reports):
    a, b, *_ = launches
    reports.begin(a)
    reports.begin(b)
    assert reports.queued(a)
    assert not spy.named("rt.launch_callback")
    reports.end(b)  # it never got so far
    reports.end(b)
    assert len(spy.named("rt.launch_callback")) == 1
    a.landed.get(timeout=PATIENCE_S)
    reports.end(a)


@pytest.mark.parametrize("reports", [3], indirect=True)
def test_company_that_failed_and_a_callback_that_fails(spy, launches, reports, caplog):
    a, b, *_ = launches
    reports.begin(a)
    reports.begin(b)
    assert reports.queued(a)
    spy.instead["rt.launch_callback"] = lambda real, *args: 507000
    reports.end(b)  # does not raise: it is not b's
    a.landed.get(timeout=PATIENCE_S)  # told to see for itself
    assert "acl.rt.launch_callback failed (status 507000)" in caplog.text
    reports.end(a)


@pytest.mark.parametrize("reports", [2], indirect=True)
def test_a_callback_that_fails_is_told_to_all_it_was_for(spy, launches, reports):
    a, b, *_ = launches
    reports.begin(a)
    reports.begin(b)
    assert reports.queued(a)
    spy.instead["rt.launch_callback"] = lambda real, *args: 500004
    with pytest.raises(AclDeviceError, match=r"acl.rt.launch_callback failed \(status 500004\)"):
        reports.queued(b)
    for launch in (a, b):
        launch.landed.get(timeout=PATIENCE_S)
        reports.end(launch)


@pytest.mark.parametrize("reports", [1], indirect=True)
def test_who_waits_is_told_when_no_report_can_be_relied_on(spy, launches, reports, caplog):
    covered, seen = threading.Event(), threading.Event()

    def fail(real, *args):
        if seen.is_set():
            return real(*args)
        covered.wait(PATIENCE_S)
        return 507000

    spy.instead["rt.process_report"] = fail
    a, b, *_ = launches
    while not report_threads() or not spy.named("rt.process_report"):
        covered.wait(0.01)
    covered.wait(0.1)  # the call before, for which there is nothing to run, is over
    reports.begin(a)
    reports.begin(b)
    assert reports.queued(a)
    covered.set()
    a.landed.get(timeout=PATIENCE_S / 3)
    assert "3 times in a row" in caplog.text
    seen.set()
    reports.end(a)
    reports.end(b)


@pytest.mark.parametrize("reports", [2], indirect=True)
def test_a_launch_that_is_over_is_covered_no_more(spy, launches, reports):
    a, b, c, _ = launches
    for launch in (a, b):
        reports.begin(launch)
    assert reports.queued(a)
    reports.end(a)  # interrupted while it waited
    reports.begin(c)
    assert reports.queued(b)
    assert reports.queued(c)
    assert [call.args[0] for call in spy.named("rt.record_event")] == [b.landed_event]
    for launch in (b, c):
        launch.landed.get(timeout=PATIENCE_S)
        reports.end(launch)


@pytest.mark.parametrize("reports", [1], indirect=True)
def test_what_was_told_late_is_not_taken_for_the_next_launch(launches, reports):
    a = launches[0]
    a.landed.put(None)
    a.landed.put(None)
    reports.begin(a)
    assert a.landed.empty()
    reports.end(a)


def test_the_thread_has_the_sessions_context(spy, launches):
    context = acl_sim.rt.get_context()[0]
    reports = Reports(Acl(spy, "ascend"), context, [launch.stream for launch in launches], 1)
    for launch in launches[:2]:
        reports.begin(launch)
    assert reports.queued(launches[0])
    launches[0].landed.get(timeout=PATIENCE_S)
    assert [call.args for call in spy.named("rt.set_context")] == [(context,)]
    assert spy.named("rt.set_context")[0].thread == report_threads()[0].ident
    for launch in launches[:2]:
        reports.end(launch)
    assert reports.close() is None


def test_a_stream_that_cannot_be_subscribed(spy, launches):
    testing.machine().faults.append(testing.Fault("acl.rt.subscribe_report", 3, 507000))
    with pytest.raises(AclDeviceError, match=r"acl\.rt\.subscribe_report"):
        Reports(Acl(spy, "ascend"), acl_sim.rt.get_context()[0], [launch.stream for launch in launches], 1)
    assert len(spy.named("rt.unsubscribe_report")) == 2
    assert not spy.named("rt.process_report")


# --- in a session ---


def queue_together(runner, spy, count):
    """Run `count` launches that have all begun before the first of them is queued."""
    together = threading.Barrier(count)
    first = threading.local()

    def copy(real, *args):
        if args[4] == 1 and not hasattr(first, "here"):
            first.here = True
            together.wait(PATIENCE_S)
        return real(*args)

    spy.instead["rt.memcpy_async"] = copy
    batches = [AFFINE.random_inputs(RNG, 4) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        for inputs, outputs in zip(batches, pool.map(runner.run, batches, timeout=PATIENCE_S), strict=True):
            check(inputs, outputs)
    del spy.instead["rt.memcpy_async"]


def test_a_launch_that_fails_holds_nobody_up_while_it_is_drained(backend, spy, caplog):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=2, callback_every=2) as runner:
        together, waits, well_done = threading.Barrier(2), threading.Event(), threading.Event()
        failing = threading.local()
        reports = runner._session._reports
        wait = reports.wait

        def told_wait(flight):
            waits.set()
            wait(flight)

        def copy(real, *args):
            if args[4] == 1:
                together.wait(PATIENCE_S)
                if hasattr(failing, "here"):
                    assert waits.wait(PATIENCE_S)
                    return 207001
            return real(*args)

        def synchronize(real, stream):
            if hasattr(failing, "here"):
                assert well_done.wait(PATIENCE_S)
            return real(stream)

        def fail():
            failing.here = True
            with pytest.raises(AclDeviceError, match="RT_MEMORY_ALLOCATION"):
                runner.run(inputs)

        inputs = AFFINE.random_inputs(RNG, 4)
        reports.wait = told_wait
        spy.instead |= {"rt.memcpy_async": copy, "rt.synchronize_stream": synchronize}
        with ThreadPoolExecutor(1) as pool:
            failed = pool.submit(fail)
            check(inputs, runner.run(inputs))
            well_done.set()
            failed.result(PATIENCE_S)
        spy.instead.clear()
        assert "no report in" not in caplog.text


@pytest.mark.parametrize(("every", "callbacks"), [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_callbacks_of_launches_that_are_queued_together(backend, spy, every, callbacks):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=4, callback_every=every) as runner:
        queue_together(runner, spy, 4)
        assert len(spy.named("rt.launch_callback")) == callbacks


def test_one_launch_at_a_time_needs_no_callback(backend, spy):
    options = {"slots": 4, "callback_every": 1, "policy": "round_up"}
    with open_model(compiled(AFFINE, GEARS), backend=backend, **options) as runner:
        for rows in range(1, max(GEARS) + 1):  # more would be several launches, which run side by side
            inputs = AFFINE.random_inputs(RNG, rows)
            check(inputs, runner.run(inputs))
        assert not spy.named("rt.launch_callback")


def test_one_thread_per_session_and_none_for_one_slot_or_without_callbacks(backend):
    om = compiled(AFFINE, GEARS)
    with open_model(om, backend=backend, slots=2) as first:
        with open_model(om, backend=backend, slots=2):
            assert len(report_threads()) == 2
        assert len(report_threads()) == 1
        with open_model(om, backend=backend, slots=1), open_model(om, backend=backend, slots=4, callback_every=0):
            assert len(report_threads()) == 1
        first.run(AFFINE.random_inputs(RNG, 2))
    assert not report_threads()


def test_unsubscribed_before_its_streams_are_destroyed(backend, spy):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=3) as runner:
        queue_together(runner, spy, 2)
    order = [call.name for call in spy.named("rt.unsubscribe_report", "rt.destroy_stream")]
    assert order == ["rt.unsubscribe_report"] * 3 + ["rt.destroy_stream"] * 3
    assert {call.args[0] for call in spy.named("rt.subscribe_report", "rt.unsubscribe_report")} == {
        spy.named("rt.process_report")[0].thread
    }


@pytest.mark.parametrize("failures", [2, 3, 10])
def test_process_report_fails(backend, spy, caplog, failures):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=4, callback_every=2) as runner:
        queue_together(runner, spy, 4)
        seen = []

        def fail(real, *args):
            if len(seen) < failures:
                seen.append(args)
                return 507000
            return real(*args)

        spy.instead["rt.process_report"] = fail
        for _ in range(3):
            queue_together(runner, spy, 4)
        patience = threading.Event()
        while len(seen) < failures:
            patience.wait(0.01)
        before = len(spy.named("rt.launch_callback"))
        queue_together(runner, spy, 4)
        given_up = "acl.rt.process_report failed with status 507000, 3 times in a row" in caplog.text
        assert given_up == (failures >= 3)
        assert "no report in" not in caplog.text  # those that waited were told at once
        assert (len(spy.named("rt.launch_callback")) > before) == (failures < 3)


def test_failures_with_a_report_between_them_do_not_add_up(backend, spy, caplog):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=4, callback_every=2) as runner:
        script = [507000, 507000, 0, 507000, 507000, 507012, 507000]
        spy.instead["rt.process_report"] = lambda real, *args: script.pop(0) if script else real(*args)
        patience = threading.Event()
        while script:
            patience.wait(0.01)
        queue_together(runner, spy, 4)
        assert spy.named("rt.launch_callback")
        assert not caplog.text


def test_callbacks_never_come(backend, spy, monkeypatch, caplog):
    monkeypatch.setattr(_reports, "_SILENCE_S", 0.1)
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=4, callback_every=1) as runner:
        spy.instead["rt.launch_callback"] = lambda real, *args: 0
        queue_together(runner, spy, 4)
        assert caplog.text.count("no report in 0.1 s: launches wait for their own streams from now on") == 1
        before = len(spy.named("rt.launch_callback"))
        queue_together(runner, spy, 4)
        assert len(spy.named("rt.launch_callback")) == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_report_thread_dies(backend, spy, caplog):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=4, callback_every=1) as runner:

        def die(real, *args):
            raise SystemError("what pyACL raises for a callback that did")

        spy.instead["rt.process_report"] = die
        patience = threading.Event()
        while report_threads():
            patience.wait(0.01)
        queue_together(runner, spy, 4)
        assert "SystemError" in caplog.text
        assert not spy.named("rt.launch_callback")


def test_a_callback_on_its_way_is_waited_for_at_close(backend, spy):
    runner = open_model(compiled(AFFINE, GEARS), backend=backend, slots=2, callback_every=1)
    reports = runner._session._reports
    reports.wait = lambda flight: None  # as after an interrupt: the stream is synchronized, the callback has not run
    hold = threading.Event()

    def slowly(real, *args):
        hold.wait(PATIENCE_S)
        return real(*args)

    spy.instead["rt.process_report"] = slowly
    queue_together(runner, spy, 2)
    threading.Timer(0.2, hold.set).start()
    runner.close()  # the simulator tells if a callback is lost
    assert spy.named("rt.launch_callback")
