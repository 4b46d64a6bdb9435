"""The virtual clock's view of threads."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from poprt_sim import runtime, testing
from poprt_sim._clock import resting_place
from poprt_sim.testing import Violation
from poprt_tools import WAIT_S, adder, rows

TIMEOUT_US = 300.0


@pytest.fixture(autouse=True)
def fresh_machine():
    yield testing.reset(device_time="none")
    testing.reset()


def runner(timeout_us=TIMEOUT_US):
    config = runtime.RuntimeConfig()
    config.timeout_ns = int(timeout_us * 1000)
    config.batching_dim = 0
    return runtime.Runner(adder(), config)


def send(target, count):
    inputs, outputs, expected = rows(count)
    target.execute(inputs, outputs)
    np.testing.assert_array_equal(outputs["O"], expected)


def test_a_thread_that_slept_while_time_went_on_comes_back_at_that_time():
    target = runner()
    known, alarm = threading.Event(), threading.Event()
    seen = []

    def sleeper():
        seen.append(testing.now_us())
        known.set()
        alarm.wait(WAIT_S)
        seen.append(testing.now_us())

    thread = threading.Thread(target=sleeper)
    thread.start()
    known.wait(WAIT_S)
    send(target, 1)
    alarm.set()
    thread.join(WAIT_S)
    assert seen == [0, TIMEOUT_US]


def test_a_deadlock_of_the_only_thread_is_told_without_looking_at_a_real_clock(monkeypatch):
    target = runner(timeout_us=0)

    def never():
        raise AssertionError("nobody else can come, so there is nothing to be patient for")

    monkeypatch.setattr("poprt_sim._clock.time", SimpleNamespace(monotonic=never))
    with pytest.raises(Violation, match=r"\[deadlock\]"):
        send(target, 1)


@pytest.mark.parametrize(
    ("module", "rests"), [("a_program", True), ("poprt_simulations", True), ("poprt_sim", False), ("poprt_sim._machine", False)]
)
def test_who_sleeps_inside_the_simulator_is_about_to_call_and_not_at_rest(module, rests):
    here = {"__name__": module, "alarm": threading.Lock()}
    exec("def sleep():\n    alarm.acquire()", here)
    here["alarm"].acquire()
    thread = threading.Thread(target=here["sleep"])
    thread.start()
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat")
        assert reached(lambda: frame_of(thread).f_code.co_name == "sleep" and stat.read_text().split()[2] == "S")
        assert (resting_place(thread, sys._current_frames()) is not None) == rests
    finally:
        here["alarm"].release()
        thread.join(WAIT_S)


def frame_of(thread):
    return sys._current_frames()[thread.ident]


def reached(condition):
    """Whether it comes true within so many looks, letting other threads run between them."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.001) for _ in range(WAIT_S * 1000))


def test_a_sleeping_main_thread_is_seen_after_a_fork():
    """Where it is not, each wait in a worker process of `multiprocessing` costs the clock's whole patience."""
    program = textwrap.dedent(f"""
        import os, sys, threading
        from poprt_sim._clock import resting_place

        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        def look():
            pause = threading.Event()
            for _ in range({WAIT_S} * 1000):
                if resting_place(main, sys._current_frames()) is not None:
                    os._exit(0)
                pause.wait(0.001)
            os._exit(7)

        main = threading.main_thread()
        threading.Thread(target=look).start()
        threading.Event().wait()
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=2 * WAIT_S)
