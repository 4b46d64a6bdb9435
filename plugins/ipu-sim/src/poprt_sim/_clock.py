"""Virtual time: host threads and the devices that serve them. A real clock only bounds patience, it measures nothing.

Each host thread has a cursor: its own virtual time in microseconds. A device (a `Source`) says when it would do its next
thing: take a batch, time out, store a result. Things happen in the order of virtual time, and only when somebody waits: the
waiting threads take turns at driving the devices on. So a program gives the same times, and the same merging of requests, in
every run.

A thread is, for the clock, in one of three states:

    running   it executes Python; what it will submit next comes at its cursor or later, so time does not pass its cursor
    waiting   it blocks inside poprt, with the GIL free; it submits nothing until it is let go
    idle      it was seen asleep outside poprt (in a queue, a join) at two glances, with everybody else who does not wait:
              nobody is left who could wake it. Or it has made no call for `GRACE_S` of real time (it spins)

running -> waiting -> running around blocking calls; running -> idle by a glance; idle -> running by a call, or when a glance
finds it elsewhere than before. Every Python thread counts from the moment it is seen, whether or not it has called poprt yet:
a caller that has only just been started is not overtaken.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol, TypeAlias

GRACE_S = 1.0  # real time: how long a thread may compute between two calls before the others go on without it
GLANCE_S = 0.0005  # real time: between two glances at threads that may be asleep

Place: TypeAlias = tuple[int, int]


class Source(Protocol):
    """Something on a device that makes things happen."""

    def next_time(self) -> float:
        """When it would do its next thing if nothing else came; infinity for nothing."""

    def fire(self) -> None:
        """Do that thing. It never raises: failures belong to the requests that they hit."""

    def why_stuck(self) -> str:
        """What it waits for and cannot get; "" if nothing waits for it."""


class Stuck(Exception):  # noqa: N818 - named for what it says
    """Nothing will ever let the calling thread go on; the text says why."""


@dataclass(eq=False, slots=True)
class HostThread:
    """One host thread as the clock sees it. `number` is its place in the order in which threads were started."""

    number: int
    reference: weakref.ReferenceType[threading.Thread]
    cursor: float
    signal: threading.Condition
    state: str = "running"
    depth: int = 0  # of calls into poprt
    place: Place | None = None  # where it slept at the last glance
    busy: bool = False  # idle by impatience: it was never seen asleep
    until: Callable[[], float | None] | None = None  # while waiting: the moment it is let go, once that is known
    deadline: float = math.inf
    submissions: int = 0

    def alive(self) -> bool:
        """Whether the thread may still run; one that is just being started is."""
        thread = self.reference()
        return thread is not None and (thread.is_alive() or thread.ident is None)


@dataclass(eq=False)
class Clock:
    """Threads and sources of one machine. Every method is called with the machine's lock held.

    Attributes:
        now: of the last thing that happened on any device.
        events: how many things have happened. Of what comes at one virtual time, what comes after fewer of them is earlier.
        guard_s: real time after which a wait that nothing can end raises Stuck, while threads are left that might yet come.
        collect: called before each step: what finalizers have left to do.
    """

    lock: threading.RLock
    guard_s: float
    collect: Callable[[], None]
    now: float = 0.0
    events: int = 0
    sources: list[Source] = field(default_factory=list)
    _threads: weakref.WeakKeyDictionary[threading.Thread, HostThread] = field(default_factory=weakref.WeakKeyDictionary)
    _count: int = 0
    _latest: float = 0.0  # cursor of the thread that called last
    _driver: HostThread | None = None
    _beats: int = 0  # signs of life: calls
    _unsettled: bool = True  # somebody has run since all were seen at rest
    _stuck_at: int = -1  # the beats at which a wait was found to be without end
    _patience: tuple[int, float] = (-1, 0.0)  # beats, and the real time from which on they count

    # Threads

    def thread(self) -> HostThread:
        """The calling thread."""
        thread = threading.current_thread()
        known = self._threads.get(thread)
        if known is None:
            self._discover()
            known = self._threads.get(thread)
        return known if known is not None else self._add(thread)

    def _add(self, thread: threading.Thread) -> HostThread:
        self._count += 1
        known = HostThread(self._count, weakref.ref(thread), self._floor(), threading.Condition(self.lock))
        self._threads[thread] = known
        return known

    def _discover(self) -> None:
        """Take in threads that were started since; `enumerate` has them in that order."""
        floor = None
        for thread in threading.enumerate():
            if thread not in self._threads:
                floor = self._floor() if floor is None else floor
                self._add(thread).cursor = floor
                self._unsettled = True

    def _floor(self) -> float:
        """The earliest virtual time that a thread can be at which has just been started or woken: its waker's, or before."""
        return max(self.now, min([t.cursor for t in self._alive() if t.state == "running"], default=self._latest))

    def _alive(self) -> list[HostThread]:
        return [known for known in list(self._threads.values()) if known.alive()]

    def cursor_here(self) -> float:
        """The calling thread's cursor; the only method that finalizers call, and without the lock."""
        known = self._threads.get(threading.current_thread())
        return known.cursor if known is not None else self.now

    def enter(self) -> HostThread:
        """The calling thread begins a call."""
        thread = self.thread()
        if thread.depth == 0:
            if thread.state == "idle":
                thread.cursor = max(thread.cursor, self._floor())
            thread.state = "running"
            thread.busy = False
            thread.place = None
        thread.depth += 1
        self._beats += 1
        self._unsettled = True
        return thread

    def leave(self, thread: HostThread) -> None:
        """The call ends."""
        thread.depth -= 1
        if thread.depth == 0:
            self._latest = thread.cursor

    # Waiting

    def wait(self, until: Callable[[], float | None], deadline: float = math.inf) -> bool:
        """Block the calling thread until `until()` is a moment: its cursor goes there, or to `deadline`.

        Returns:
            True; False when the deadline came first.
        Raises:
            Stuck: nothing that is scheduled and no other thread can end the wait.
        """
        thread = self.thread()
        thread.until, thread.deadline = until, deadline
        thread.state = "waiting"
        try:
            self._release()
            while thread.state == "waiting":
                if self._driver is None:
                    self._driver = thread
                    try:
                        self._drive(thread)
                    finally:
                        self._driver = None
                else:
                    thread.signal.wait()
            moment = until()
            return moment is not None and moment <= deadline
        finally:
            thread.until, thread.deadline = None, math.inf
            thread.state = "running"
            if self._driver is None:
                self._hand_over()

    def _hand_over(self) -> None:
        for thread in self._alive():
            if thread.state == "waiting":
                thread.signal.notify()
                return

    def _release(self) -> None:
        """Waiting threads whose moment is known run again from there on: nobody may get ahead of them any more."""
        for thread in self._alive():
            if thread.state == "waiting" and thread.until is not None:
                moment = thread.until()
                if moment is not None:
                    self._let_go(thread, min(moment, thread.deadline))

    def _let_go(self, thread: HostThread, moment: float) -> None:
        thread.cursor = max(thread.cursor, moment)
        thread.state = "running"
        thread.place = None
        self._unsettled = True
        thread.signal.notify()

    def _drive(self, driver: HostThread) -> None:
        """Make things happen, in order, until the driver itself is let go."""
        stuck_since: tuple[int, float] | None = None
        while True:
            self.collect()
            self._release()
            if driver.state != "waiting":
                return
            self._discover()
            source = min(self.sources, key=lambda each: each.next_time(), default=None)
            moment = source.next_time() if source is not None else math.inf
            late = min((t for t in self._alive() if t.state == "waiting"), key=lambda t: (t.deadline, t.number))
            due = min(moment, late.deadline)
            if due < math.inf:
                if not self._may_pass(driver, due):
                    continue
                self.now = max(self.now, due)
                self.events += 1
                if source is not None and moment <= late.deadline:
                    source.fire()
                else:
                    self._let_go(late, late.deadline)
                continue
            others = [t for t in self._alive() if t.state != "waiting"]
            if others and self._stuck_at != self._beats:
                if not self._may_pass(driver, math.inf):
                    continue
                if stuck_since is None or stuck_since[0] != self._beats:
                    stuck_since = (self._beats, time.monotonic())
                left = self.guard_s - (time.monotonic() - stuck_since[1])
                if left > 0:
                    driver.signal.wait(min(left, 0.02))
                    self._unsettled = True
                    continue
            self._stuck_at = self._beats
            reasons = [reason for each in self.sources if (reason := each.why_stuck())]
            raise Stuck("; ".join(reasons) or "nothing that is scheduled ends this wait")

    def _may_pass(self, driver: HostThread, due: float) -> bool:
        """Whether time may go to `due`: nobody is left who could still come at that time or before.

        Otherwise the others have had some real time to come when this returns, and what is due must be asked again.
        """
        others = [t for t in self._alive() if t.state != "waiting"]
        # At one and the same time callers come first: who arrives just as a timeout ends is still taken along.
        if not self._unsettled and not any(t.state == "running" and t.cursor <= due for t in others):
            return True
        if not any(t.cursor <= due for t in others):
            return True  # whoever any of them wakes comes later, too
        self._glance(driver, [t for t in others if not t.busy])
        return False

    def _glance(self, driver: HostThread, others: list[HostThread]) -> None:
        beats = self._beats
        if self._patience[0] != beats:
            self._patience = (beats, time.monotonic() + GRACE_S)
        driver.signal.wait(GLANCE_S)
        if self._beats != beats or driver.state != "waiting":
            return
        frames = sys._current_frames()
        restless = []
        for thread in others:
            if not thread.alive():
                continue
            place = resting_place(thread.reference(), frames) if thread.depth == 0 else None
            if place is None or place != thread.place:
                restless.append(thread)
                if thread.state == "idle":
                    thread.state = "running"  # somebody has woken it
                    thread.cursor = max(thread.cursor, self._floor())
            thread.place = place
        del frames  # our own frame is among them: a cycle
        if restless and time.monotonic() < self._patience[1]:
            return
        for thread in others:
            if thread.depth == 0:  # one inside poprt computes there: the others wait for it, however long
                thread.busy = thread in restless
                thread.state = "idle"
        self._unsettled = any(thread.depth for thread in restless)


def resting_place(thread: threading.Thread | None, frames: dict[int, FrameType]) -> Place | None:
    """Where a thread sleeps: its frame and instruction; None if it runs, is being started, or is inside poprt.

    Who sleeps at one place at two glances waits for something outside. A thread that has only lost the GIL gets it back while
    the onlooker sleeps, unless another runs; so nobody counts as asleep until all do.
    """
    if thread is None or thread.ident is None or thread.native_id is None:
        return None
    frame = frames.get(thread.ident)
    if frame is None or (frame.f_globals.get("__name__") or "").partition(".")[0] == "poprt_sim":
        return None
    # After a fork, Python up to 3.12 still has the native id that the thread had in the parent.
    native_id = os.getpid() if thread is threading.main_thread() else thread.native_id
    try:
        with open(f"/proc/self/task/{native_id}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return (id(frame), frame.f_lasti) if state == "S" else None
