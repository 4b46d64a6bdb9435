"""Streams, events, the device clock and the GIL: contracts/pyacl.md 1.0 (9), 1.2, 3.1; times are virtual."""

import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import acl_sim as acl
from acl_sim import testing
from acl_sim._clock import Gil
from acl_sim._machine import machine
from acl_sim.testing import Violation

H2D, D2H = 1, 2


@pytest.fixture(autouse=True)
def device(fresh_machine):
    restart()


def restart(**config):
    config.setdefault("device_time", "none")
    here = testing.reset(**config)
    acl.rt.set_device(0)
    return here


def stream():
    handle, ret = acl.rt.create_stream()
    assert ret == 0
    return handle


def event():
    return acl.rt.create_event()[0]


def work(handle, engine="compute", us=100.0, action=None, **ranges):
    here = machine()
    with here.lock:
        return here.submit(here.stream(handle), engine, us, action, f"{engine} work", **ranges)


def now():
    here = machine()
    with here.lock:
        return here.clock.thread().cursor


def run_in_thread(function):
    result = []

    def run():
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def test_a_stream_keeps_order_and_synchronise_waits():
    s, seen = stream(), []
    for name in "abc":
        work(s, action=lambda name=name: seen.append(name))
    assert seen == []
    assert acl.rt.synchronize_stream(s) == 0
    assert seen == ["a", "b", "c"]
    assert now() == 300
    assert testing.ledger().busy_us == {"compute": 300}
    assert testing.ledger().device_time_us == 300


def test_copies_and_compute_of_different_streams_overlap():
    for s in (stream(), stream()):
        for engine in ("copy_in", "compute", "copy_out"):
            work(s, engine)
    assert acl.rt.synchronize_device() == 0
    assert now() == 400  # a pipeline of three stages, two items


def test_one_engine_does_one_thing_at_a_time():
    for s in (stream(), stream()):
        work(s)
    acl.rt.synchronize_device()
    assert now() == 200


def test_engines_of_two_devices_are_two():
    restart(devices=2)
    work(0)
    acl.rt.set_device(1)
    work(0)
    acl.rt.synchronize_stream(0)
    assert now() == 100
    acl.rt.set_device(0)
    acl.rt.synchronize_stream(0)
    assert now() == 100


def test_the_cost_is_asked_when_the_work_begins():
    s, known = stream(), []
    work(s, action=lambda: known.append(50.0))
    work(s, us=lambda: known[0])
    acl.rt.synchronize_stream(s)
    assert now() == 150


def test_an_error_surfaces_at_the_next_synchronise_once():
    s = stream()
    work(s, action=lambda: 507011)
    work(s, action=lambda: 507899)
    assert acl.rt.synchronize_stream(s) == 507011
    assert "failed" in acl.get_recent_err_msg()
    assert acl.rt.synchronize_stream(s) == 0


def test_an_error_surfaces_at_the_devices_synchronise():
    work(stream(), action=lambda: 507011)
    assert acl.rt.synchronize_device() == 507011


def test_default_stream_is_zero_and_per_context():
    work(0)
    first, ret = acl.rt.get_context()
    assert ret == 0
    second = acl.rt.create_context(0)[0]
    assert acl.rt.synchronize_stream(0) == 0
    assert now() == 0
    acl.rt.set_context(first)
    assert acl.rt.synchronize_stream(0) == 0
    assert now() == 100
    assert acl.rt.destroy_context(second) == 0


def test_synchronise_of_another_contexts_stream_is_fine():
    s = stream()
    work(s)
    acl.rt.create_context(0)
    assert acl.rt.synchronize_stream(s) == 0
    assert now() == 100


def test_timeouts_are_device_time():
    s = stream()
    work(s, us=5000)
    assert acl.rt.synchronize_stream_with_timeout(s, 2) == 507046
    assert now() == 2000
    assert acl.rt.synchronize_stream_with_timeout(s, 2) == 507046
    assert acl.rt.synchronize_stream_with_timeout(s, 2) == 0
    assert now() == 5000
    e = event()
    work(s, us=5000)
    acl.rt.record_event(e, s)
    assert acl.rt.synchronize_event_with_timeout(e, 1) == 507047
    assert acl.rt.synchronize_event_with_timeout(e, -1) == 0


@pytest.mark.parametrize("timeout", [0, -2])
def test_timeouts_that_are_none(timeout):
    assert acl.rt.synchronize_stream_with_timeout(0, timeout) == 107000


def test_async_copies_happen_in_stream_order():
    s = stream()
    a, b = acl.rt.malloc_host(4)[0], acl.rt.malloc_host(4)[0]
    d = acl.rt.malloc(4, 0)[0]
    acl.rt.memcpy(a, 4, acl.util.bytes_to_ptr(b"abcd"), 4, 0)
    assert acl.rt.memcpy_async(d, 4, a, 4, H2D, s) == 0
    assert acl.rt.memcpy_async(b, 4, d, 4, D2H, s) == 0
    with pytest.raises(Violation, match="read before synchronising"):
        acl.util.ptr_to_bytes(b, 4)
    acl.rt.synchronize_stream(s)
    assert acl.util.ptr_to_bytes(b, 4) == b"abcd"


def test_unsynchronised_reads_give_old_data_in_tolerant_mode():
    restart(strict=False, device_time="310p")
    s = stream()
    a, d = acl.rt.malloc_host(4)[0], acl.rt.malloc(4, 0)[0]
    acl.rt.memset(d, 4, 7, 4)
    assert acl.rt.memcpy_async(a, 4, d, 4, D2H, s) == 0
    assert acl.util.ptr_to_bytes(a, 4) == bytes(4)
    acl.rt.synchronize_stream(s)
    assert acl.util.ptr_to_bytes(a, 4) == b"\x07" * 4
    assert [v.rule for v in testing.ledger().violations] == ["read before synchronising"]


@pytest.mark.parametrize("touch", ["free", "overwrite", "copy_in", "copy_out"])
def test_touching_what_queued_work_uses(touch):
    s, d = stream(), acl.rt.malloc(8, 0)[0]
    h = acl.rt.malloc_host(8)[0]
    acl.rt.memset_async(d, 8, 1, 8, s)
    rule = "read before synchronising" if touch == "copy_out" else "queued work uses this"
    calls = {
        "free": lambda: acl.rt.free(d),
        "overwrite": lambda: acl.rt.memset(d, 8, 0, 8),
        "copy_in": lambda: acl.rt.memcpy(d, 8, h, 8, H2D),
        "copy_out": lambda: acl.rt.memcpy(h, 8, d, 8, D2H),
    }
    with pytest.raises(Violation, match=rule):
        calls[touch]()
    acl.rt.synchronize_stream(s)
    assert acl.rt.free(d) == 0


def test_overwriting_the_source_of_a_queued_copy():
    s, d, h = stream(), acl.rt.malloc(8, 0)[0], acl.rt.malloc_host(8)[0]
    acl.rt.memcpy_async(d, 8, h, 8, H2D, s)
    with pytest.raises(Violation, match=r"memcpy_async \(queued at .*test_streams.* reads"):
        acl.rt.memset(h, 8, 0, 8)


def test_async_memcpy_wants_pinned_memory():
    d = acl.rt.malloc(8, 0)[0]
    with pytest.raises(Violation, match="pageable memory"):
        acl.rt.memcpy_async(d, 8, acl.util.bytes_to_ptr(b"12345678"), 8, H2D, 0)
    restart(strict=False)
    d = acl.rt.malloc(8, 0)[0]
    assert acl.rt.memcpy_async(d, 8, acl.util.bytes_to_ptr(b"12345678"), 8, H2D, 0) == 0


def test_async_bad_addresses_are_reported_where_they_are_given():
    with pytest.raises(Violation, match="out of bounds"):
        acl.rt.memcpy_async(acl.rt.malloc(8, 0)[0], 16, acl.rt.malloc_host(16)[0], 16, H2D, 0)


def test_host_to_host_async_is_refused():
    a, b = acl.rt.malloc_host(8)[0], acl.rt.malloc_host(8)[0]
    assert acl.rt.memcpy_async(a, 8, b, 8, 0, 0) == 207000


def test_the_three_event_queries_and_their_enums():
    s, e = stream(), event()
    work(s, us=10)
    acl.rt.record_event(e, s)
    assert acl.rt.query_event(e) == (1, 0)
    assert acl.rt.query_event_status(e) == (0, 0)
    acl.rt.stream_wait_event(0, e)
    assert acl.rt.query_event_wait_status(e) == (1, 0)
    acl.rt.synchronize_event(e)
    assert acl.rt.query_event(e) == (0, 0)
    assert acl.rt.query_event_status(e) == (1, 0)
    assert acl.rt.query_event_wait_status(e) == (0, 0)


def test_polling_an_event_makes_time_pass():
    restart(device_time="310p")
    s, e = stream(), event()
    work(s, us=20)
    acl.rt.record_event(e, s)
    polls = 0
    while acl.rt.query_event_status(e) != (1, 0):
        polls += 1
    assert 15 <= polls <= 25


def test_events_tie_streams():
    first, second, e, seen = stream(), stream(), event(), []
    work(first, "copy_in", 500, lambda: seen.append("first"))
    acl.rt.record_event(e, first)
    assert acl.rt.stream_wait_event(second, e) == 0
    work(second, "compute", 10, lambda: seen.append("second"))
    acl.rt.synchronize_stream(second)
    assert seen == ["first", "second"]
    assert now() == 510


def test_an_event_also_synchronises_what_it_waited_for():
    first, second, e = stream(), stream(), event()
    d = acl.rt.malloc(8, 0)[0]
    acl.rt.memset_async(d, 8, 1, 8, first)
    acl.rt.record_event(e, first)
    acl.rt.stream_wait_event(second, e)
    acl.rt.synchronize_stream(second)
    assert acl.rt.free(d) == 0


def test_waiting_for_an_unrecorded_event_waits_for_nothing():
    assert acl.rt.stream_wait_event(0, event()) == 0
    assert acl.rt.synchronize_stream(0) == 0
    assert acl.rt.synchronize_event(event()) == 0


def test_elapsed_time_is_of_the_device():
    s, a, b = stream(), event(), event()
    acl.rt.record_event(a, s)
    work(s, us=1500)
    acl.rt.record_event(b, s)
    assert acl.rt.event_elapsed_time(a, b) == (0.0, 107006)
    acl.rt.synchronize_stream(s)
    assert acl.rt.event_elapsed_time(a, b) == (1.5, 0)
    assert acl.rt.reset_event(a, s) == 0
    assert acl.rt.event_elapsed_time(a, b) == (0.0, 107006)


def test_streams_die_with_their_context():
    context = acl.rt.create_context(0)[0]
    s = stream()
    assert acl.rt.destroy_context(context) == 0
    acl.rt.set_device(0)
    assert acl.rt.synchronize_stream(s) == 107017
    testing.assert_clean()


def test_destroying_a_stream_finishes_its_work():
    s, seen = stream(), []
    work(s, action=lambda: seen.append(1))
    assert acl.rt.destroy_stream(s) == 0
    assert seen == [1]


def test_a_new_thread_has_no_context():
    def calls():
        return acl.rt.create_stream(), acl.rt.malloc(8, 0), acl.rt.malloc_host(8), acl.rt.get_context()

    assert run_in_thread(calls) == ((0, 107002),) * 4


def test_set_device_shares_the_implicit_context():
    mine = acl.rt.get_context()

    def other():
        acl.rt.set_device(0)
        return acl.rt.get_context()

    assert run_in_thread(other) == mine


def test_error_messages_are_per_thread():
    acl.rt.free(0)
    assert run_in_thread(acl.get_recent_err_msg) is None
    assert "EH0002" in acl.get_recent_err_msg()
    assert acl.get_recent_err_msg() is None


# The GIL


def blocking(us):
    """A call that holds the GIL and takes so much device time, like mdl.execute."""
    here = machine()
    size = int(us * 1e3)  # 1 GB/s: a thousand bytes per microsecond
    host, dev = acl.rt.malloc_host(size)[0], acl.rt.malloc(size, 0)[0]
    del here
    return lambda: acl.rt.memcpy(dev, size, host, size, H2D)


def profile(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text('{"copy_in_gb_s": 1.0, "copy_out_gb_s": 1.0}')
    return str(path)


def in_lockstep(*bodies):
    """Run each body in a thread of its own, all at once in virtual time; returns their final cursors."""
    barrier = threading.Barrier(len(bodies))
    ends = [0.0] * len(bodies)

    def run(index):
        acl.rt.set_device(0)
        barrier.wait(30)
        bodies[index]()
        ends[index] = now()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return ends


def test_a_call_that_holds_the_gil_delays_other_threads(tmp_path):
    restart(device_time=profile(tmp_path))
    first, second = blocking(100), blocking(100)
    ends = in_lockstep(first, second)
    assert sorted(ends) == [100, 200]


def test_a_call_that_releases_the_gil_delays_nobody():
    s, t = stream(), stream()
    work(s, "copy_in", 1000)
    work(t, "copy_out", 1000)
    ends = in_lockstep(lambda: acl.rt.synchronize_stream(s), lambda: acl.rt.synchronize_stream(t))
    assert ends == [1000, 1000]


def test_the_gil_delays_who_comes_back_from_a_wait(tmp_path):
    restart(device_time=profile(tmp_path))
    here = machine()
    hold = blocking(100)
    s = stream()
    work(s, "compute", 50)
    with here.lock:
        here.clock.threads[1] = other = type(here.clock.thread())(1, lambda: True, 0.0, state="idle")
    hold()
    with here.lock:
        assert here.clock.gil.free_from(50) == 100
        assert here.clock.gil.free_from(100) == 100
    assert other.cursor == 0.0


def test_a_blocking_call_queues_behind_work_that_came_first(tmp_path):
    restart(device_time=profile(tmp_path))
    call = blocking(100)
    work(stream(), "copy_in", 100)
    assert call() == 0
    assert now() == 200


def test_a_thread_that_slept_outside_acl_wakes_at_its_wakers_time():
    ready, go, times = threading.Event(), threading.Event(), []

    def sleeper():
        acl.rt.set_device(0)
        ready.set()
        go.wait(30)
        acl.rt.get_device()
        times.append(now())

    thread = threading.Thread(target=sleeper)
    thread.start()
    ready.wait(30)
    s = stream()
    work(s, us=400)
    work(s, us=600)  # begins after the sleeper's time: it is waited for, in vain
    acl.rt.synchronize_stream(s)
    go.set()
    thread.join(30)
    assert times == [1000]


intervals = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10)), max_size=30)


@settings(deadline=None)
@given(intervals)
def test_gil_is_held_by_one_at_a_time(wishes):
    gil, held = Gil(), []
    for start, length in wishes:
        end = gil.hold(start, start + length)
        assert end >= start + length
        held.append((end - length, end))
    held.sort()
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(held))
    for start, end in held:
        assert gil.free_from((start + end) / 2) >= end


# The same program gives the same times


def pipeline(threads, rounds):
    def body():
        s = stream()
        for _ in range(rounds):
            for engine, us in (("copy_in", 10), ("compute", 30), ("copy_out", 10)):
                work(s, engine, us)
            acl.rt.synchronize_stream(s)

    in_lockstep(*[body] * threads)
    return testing.ledger().device_time_us


def test_threads_overlap_on_the_device():
    assert pipeline(1, 4) == 200
    restart()
    assert pipeline(2, 4) <= 270  # compute bound: 8 * 30, and the ends


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["copy_in", "compute", "copy_out", "none"]), st.integers(0, 50)),
        max_size=25,
    )
)
def test_time_is_between_its_bounds(jobs):
    restart()
    streams, order = [stream() for _ in range(3)], []
    for index, (which, engine, us) in enumerate(jobs):
        work(streams[which], engine, us, lambda which=which, index=index: order.append((which, index)))
    assert acl.rt.synchronize_device() == 0
    assert len(order) == len(jobs)
    for which in range(3):
        mine = [index for w, index in order if w == which]
        assert mine == sorted(mine)
    per_stream = [sum(us for w, _, us in jobs if w == which) for which in range(3)]
    assert max(per_stream) <= now() <= sum(us for _, _, us in jobs)
