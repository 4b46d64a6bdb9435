"""Real-time mode: wall time follows device time. Lower bounds are exact; upper ones only tell apart what differs tenfold."""

import re
import threading
import time

import pytest

import acl_sim as acl
from acl_sim import testing
from acl_sim._machine import Config, machine

MS = 1000.0  # microseconds


def start(factor=1.0, **config):
    testing.reset(real_time=factor, device_time="none", **config)
    acl.rt.set_device(0)


def queue(us, stream=None):
    """So much work on a stream; returns the stream."""
    here = machine()
    handle = acl.rt.create_stream()[0] if stream is None else stream
    with here.lock:
        here.submit(here.stream(handle), "compute", us, None, "work")
    return handle


def memcpy_that_takes(tmp_path, ms, **config):
    """A call that holds the GIL for so many milliseconds: one byte at so many bytes a second."""
    profile = tmp_path / "slow.json"
    profile.write_text(f'{{"copy_overhead_us": {ms * MS}}}')
    testing.reset(device_time=str(profile), **config)
    acl.rt.set_device(0)
    dev, host = acl.rt.malloc(8, 0)[0], acl.rt.malloc_host(8)[0]
    return lambda: acl.rt.memcpy(dev, 8, host, 8, 1)


def took_ms(call):
    begin = time.monotonic()
    assert call() in (0, None), call
    return (time.monotonic() - begin) * 1e3


def cursor():
    here = machine()
    with here.lock:
        return here.clock.thread().cursor


def test_it_is_off_by_default():
    testing.reset(device_time="none")
    acl.rt.set_device(0)
    stream = queue(60e6)
    assert took_ms(lambda: acl.rt.synchronize_stream(stream)) < 30e3
    assert cursor() == 60e6
    assert "real time" not in testing.ledger().to_text()


def test_synchronising_takes_as_long_as_the_work():
    start()
    assert took_ms(lambda: acl.rt.synchronize_stream(queue(80 * MS))) >= 80
    assert cursor() >= 80 * MS


def test_the_factor_stretches_real_time_and_not_device_time():
    start(factor=10)
    assert took_ms(lambda: acl.rt.synchronize_stream(queue(10 * MS))) >= 100
    assert cursor() < 100 * MS


def test_a_blocking_copy_takes_its_time(tmp_path):
    call = memcpy_that_takes(tmp_path, 50, real_time=1)
    assert took_ms(call) >= 50
    assert took_ms(call) >= 50, "each time"


def test_what_the_program_does_meanwhile_is_not_waited_for_again():
    start()
    stream = queue(100 * MS)
    time.sleep(0.09)
    before = time.monotonic()
    acl.rt.synchronize_stream(stream)
    left = time.monotonic() - before
    assert cursor() < 190 * MS, "the device worked while the host slept"
    assert left < 0.09


def test_time_the_program_takes_counts_before_it_submits():
    start()
    acl.rt.get_device()
    time.sleep(0.05)
    assert took_ms(lambda: acl.rt.synchronize_stream(queue(20 * MS))) >= 20
    assert cursor() >= 70 * MS


def test_a_timeout_is_waited_for():
    start()
    stream = queue(60e6)
    begin = time.monotonic()
    assert acl.rt.synchronize_stream_with_timeout(stream, 60) == 507046
    assert time.monotonic() - begin >= 0.06


def test_polling_an_event_makes_real_time_pass():
    start()
    begin = time.monotonic()
    stream, event = queue(40 * MS), acl.rt.create_event()[0]
    acl.rt.record_event(event, stream)
    while acl.rt.query_event_status(event)[0] == 0:
        assert time.monotonic() - begin < 30
    assert time.monotonic() - begin >= 0.04


def count_while(call):
    """How often another thread, pure Python, gets on while the call runs; and how long the call took."""
    ticks, stop, ready = [0], threading.Event(), threading.Event()

    def spin():
        while not stop.is_set():
            ticks[0] += 1
            ready.set()

    thread = threading.Thread(target=spin)
    thread.start()
    ready.wait(30)
    before = ticks[0]
    ms = took_ms(call)
    count = ticks[0] - before
    stop.set()
    thread.join(30)
    return count, ms


def test_pure_python_of_other_threads_runs_only_where_the_gil_is_released(tmp_path):
    call = memcpy_that_takes(tmp_path, 200, real_time=1)
    held, held_ms = count_while(call)
    released, released_ms = count_while(lambda: acl.rt.synchronize_stream(queue(200 * MS)))
    assert min(held_ms, released_ms) >= 200
    # Held: a switch interval (5 ms) here and there; released: all the time.
    assert held < released / 3, (held, released)


def test_acl_calls_of_other_threads_wait_for_a_call_that_holds_the_gil(tmp_path):
    call = memcpy_that_takes(tmp_path, 60, real_time=1)
    barrier = threading.Barrier(2)

    def body():
        acl.rt.set_device(0)
        barrier.wait(30)
        call()

    threads = [threading.Thread(target=body) for _ in range(2)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert time.monotonic() - begin >= 0.12


def test_two_threads_that_synchronise_sleep_at_the_same_time():
    """Virtually 8 x 100 ms of work on engines of two devices: 400 ms together, 800 ms if one sleep kept the other out."""
    start(devices=2)
    barrier = threading.Barrier(2)
    ends = []

    def body(device):
        acl.rt.set_device(device)
        stream = acl.rt.create_stream()[0]
        barrier.wait(30)
        for _ in range(4):
            queue(100 * MS, stream)
            acl.rt.synchronize_stream(stream)
        ends.append(cursor())

    threads = [threading.Thread(target=body, args=(device,)) for device in range(2)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert time.monotonic() - begin >= 0.4
    assert max(ends) < 700 * MS


def test_work_of_a_thread_that_comes_later_goes_first_if_its_turn_comes_first():
    """One thread waits for work that starts at 200 ms; another comes at 50 ms with work for the same engine: it fits before."""
    start()
    here = machine()
    gate, work = acl.rt.create_stream()[0], acl.rt.create_stream()[0]
    with here.lock:
        first = here.submit(here.stream(gate), "copy_in", 200 * MS, None, "gate")
        here.submit(here.stream(work), "none", 0.0, None, "wait", after=first)
    queue(10 * MS, work)
    times = []

    def late():
        acl.rt.set_device(0)
        time.sleep(0.05)
        stream = queue(20 * MS)
        acl.rt.synchronize_stream(stream)
        times.append(cursor())

    thread = threading.Thread(target=late)
    thread.start()
    while len(here.clock.threads) < 2:
        time.sleep(0.001)
    acl.rt.synchronize_stream(work)
    thread.join(30)
    assert times[0] < 200 * MS
    assert cursor() >= 210 * MS


def test_a_callback_runs_when_its_time_has_come_and_takes_what_it_takes():
    start()
    stream = acl.rt.create_stream()[0]
    moments = []

    def pump():
        acl.rt.set_device(0)
        subscribed.wait(30)
        while not moments:
            acl.rt.process_report(1000)

    def callback(_):
        time.sleep(0.05)
        moments.append(time.monotonic())

    subscribed = threading.Event()
    ident, _ = acl.util.start_thread(lambda _: pump(), [])
    assert acl.rt.subscribe_report(ident, stream) == 0
    begin = time.monotonic()
    queue(60 * MS, stream)
    acl.rt.launch_callback(callback, None, 1, stream)
    subscribed.set()
    assert acl.rt.synchronize_stream(stream) == 0
    assert moments[0] - begin >= 0.11
    assert cursor() >= 110 * MS, "the blocking callback's own time is on the clock, too"
    assert acl.rt.unsubscribe_report(ident, stream) == 0
    assert acl.util.stop_thread(ident) == 0


def test_waiting_for_a_report_takes_its_timeout_and_ends_early_with_one():
    start()
    stream = acl.rt.create_stream()[0]
    acl.rt.subscribe_report(threading.get_ident(), stream)
    begin = time.monotonic()
    assert acl.rt.process_report(50) == 507012
    assert time.monotonic() - begin >= 0.05
    done = []
    start(factor=50)
    stream = acl.rt.create_stream()[0]
    acl.rt.subscribe_report(threading.get_ident(), stream)

    def producer():
        acl.rt.set_device(0)
        time.sleep(0.2)
        acl.rt.launch_callback(done.append, 1, 0, stream)

    thread = threading.Thread(target=producer)
    thread.start()
    while len(machine().clock.threads) < 2:
        time.sleep(0.001)
    begin = time.monotonic()
    assert acl.rt.process_report(100) == 0, "100 ms of device time are 5 s here"
    assert 0.1 < time.monotonic() - begin < 4
    assert done == [1]
    thread.join(30)


def test_joining_a_thread_counts_as_time_that_passed():
    start()
    ident, _ = acl.util.start_thread(lambda _: time.sleep(0.06), [])
    assert acl.util.stop_thread(ident) == 0
    assert cursor() >= 50 * MS


def test_a_simulator_that_is_slower_than_the_model_stops_the_clock():
    start()
    here = machine()
    stream = acl.rt.create_stream()[0]
    with here.lock:
        here.submit(here.stream(stream), "compute", 10 * MS, lambda: time.sleep(0.06), "slow work")
    assert took_ms(lambda: acl.rt.synchronize_stream(stream)) >= 60
    assert 10 * MS <= cursor() < 60 * MS
    late = re.search(r"slower than the model by ([0-9.]+) ms", testing.ledger().to_text())
    assert late is not None
    assert float(late[1]) >= 45


def test_the_variable_and_what_is_refused():
    assert Config.from_environment({"ACL_SIM_REAL_TIME": "2.5"}).real_time == 2.5
    assert Config.from_environment({}).real_time == 0
    for value in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="real_time: expected a factor of 0 or more"):
            Config(real_time=value)
