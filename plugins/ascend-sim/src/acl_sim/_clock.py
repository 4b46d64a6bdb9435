"""Virtual time: host threads, the GIL, engines, streams and events. A real clock only bounds patience, it measures nothing.

Each host thread has a cursor: its own virtual time in microseconds. Work put on a stream waits there; it is placed on
its engine and run only when someone has to know (a synchronisation, a query, a pumped report), always in order of
virtual start time, so a program gives the same times on every run. Real-time mode is another matter: see `_pace.py`.

A thread is, for the clock, in one of three states:

    running   it executes Python; what it will submit next comes at its cursor or later, so nobody runs ahead of it
    waiting   it blocks inside acl; it submits nothing until it is let go
    idle      others waited for it, and it was seen asleep outside acl (in a queue, say) at two glances, or made no acl call
              for `GRACE_S` of real time; when it comes back its cursor jumps to that of the thread that called last:
              probably its waker

running -> waiting -> running around blocking calls; running -> idle by another's patience; idle -> running by a call, or by a
callback, which may have woken it: then it goes on from the callback's moment.

Report threads poll in real time, so how often they do must not show: a poll that ended in vain is no call that may have woken
somebody, it took no virtual time where work was still to come, and the next one goes on where it ended.
"""

from __future__ import annotations

import bisect
import heapq
import math
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from acl_sim._errors import Rule
from acl_sim._ledger import caller_site
from acl_sim._pace import SPIN_S, Pace, sleep_with_gil
from acl_sim._reports import ENDED

if TYPE_CHECKING:
    from acl_sim._machine import Context, Machine

GRACE_S = 0.1  # real time: how long a waiting thread lets a running one catch up before it counts as idle
GLANCE_S = 0.0005  # real time: between two glances at threads that may be asleep
WAKING_S = 0.0001  # real time: how long a thread that was woken gets to start running
STALL_S = 30.0  # real time: how long a stalled stream waits for somebody to pump its callback
ENGINES = ("copy_in", "compute", "copy_out")

Action = Callable[[], "int | None"]
Ranges = tuple[tuple[int, int], ...]


@dataclass(eq=False, slots=True)
class HostThread:
    """One host thread as the clock and the runtime see it."""

    ident: int
    alive: Callable[[], bool]
    cursor: float
    state: str = "running"
    pumping: bool = False  # in process_report, or there last, and in vain
    vain: float | None = None  # where its last call, a poll in vain, ended
    asleep_at: tuple[int, int] | None = None  # while idle: its frame and instruction there, where it was seen asleep
    wakes: Callable[[], float | None] | None = None  # while waiting: the moment it is let go, once that is known
    beats: int = 0  # signs of life: calls and submissions
    context: Context | None = None
    message: str | None = None
    last_error: int = 0


@dataclass(eq=False, slots=True)
class Task:
    """One piece of work on a stream. `end` is None until it is placed; `done` once its action has run."""

    stream: Stream
    engine: str
    cost: float | Callable[[], float]
    action: Action | None
    label: str
    issued: float
    sequence: int
    site: str
    reads: Ranges = ()
    writes: Ranges = ()
    after: Task | None = None
    report: Any = None
    start: float = 0.0
    end: float | None = None
    done: bool = False
    synced: bool = False


@dataclass(eq=False, slots=True)
class Stream:
    """A queue of work, run strictly in order. `ready` is when its last placed task ended, None while a callback blocks it."""

    context: Context
    site: str
    queue: deque[Task] = field(default_factory=deque)
    unsynced: deque[Task] = field(default_factory=deque)
    last: Task | None = None
    ready: float | None = 0.0
    error: int = 0
    handle: int = 0
    subscription: Any = None


class Gil:
    """Who held the interpreter when, as merged intervals; consulted only once a second thread exists."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []

    def free_from(self, moment: float) -> float:
        """The first moment, not before `moment`, at which nobody holds the GIL."""
        at = bisect.bisect_right(self._starts, moment) - 1
        return self._ends[at] if at >= 0 and moment < self._ends[at] else moment

    def hold(self, start: float, end: float) -> float:
        """Hold the GIL for `end - start`, at the first gap that is long enough from `start` on; returns the end."""
        length = end - start
        if length <= 0:
            return self.free_from(start)
        at = max(0, bisect.bisect_right(self._starts, start) - 1)
        while at < len(self._starts):
            if self._ends[at] > start:
                if self._starts[at] >= start + length:
                    break
                start = self._ends[at]
            at += 1
        end = start + length
        at = bisect.bisect_left(self._starts, start)
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        if at + 1 < len(self._starts) and self._starts[at + 1] <= end:
            self._ends[at] = self._ends.pop(at + 1)
            self._starts.pop(at + 1)
        if at > 0 and self._ends[at - 1] >= start:
            self._ends[at - 1] = self._ends.pop(at)
            self._starts.pop(at)
        if len(self._starts) > 4096:
            del self._starts[:2048], self._ends[:2048]
        return end


class Clock:
    """Threads, engines and streams of one machine. Every method is called with the machine's lock held."""

    def __init__(self, machine: Machine, lock: threading.Condition) -> None:
        self._machine = machine
        self._lock = lock
        self.threads: dict[int, HostThread] = {}
        self._own = threading.local()  # its `thread` is the calling one's entry in `threads`
        self.gil = Gil()
        self._last_cursor = 0.0
        self._free: dict[tuple[int, str], float] = {}
        self.streams: list[Stream] = []
        self._effects: list[tuple[float, int, Task]] = []
        self._sequence = 0
        self._waiters = 0
        self._next_start = 0.0  # of the task that the last "behind" of `advance` was about
        self.pace = Pace(machine.config.real_time) if machine.config.real_time else None

    # Threads

    def thread(self) -> HostThread:
        """The calling thread."""
        known: HostThread | None = getattr(self._own, "thread", None)
        if known is None:
            # Bound to the Thread object, not to the ident: idents come back.
            reference = weakref.ref(threading.current_thread())
            known = HostThread(threading.get_ident(), lambda: _is_alive(reference), self._last_cursor)
            self._own.thread = known
            self.threads = {i: t for i, t in self.threads.items() if t.alive()} | {known.ident: known}
        return known

    def enter(self) -> HostThread:
        """The calling thread begins a call: it waits for the GIL."""
        thread = self.thread()
        thread.beats += 1
        thread.pumping = False
        if thread.state == "idle":
            thread.cursor = max(thread.cursor, self._last_cursor)
        thread.state = "running"
        self.catch_up(thread)
        if len(self.threads) > 1:
            thread.cursor = self.gil.free_from(thread.cursor)
        return thread

    def now(self) -> float:
        """When the calling thread's next call would begin."""
        thread = self.enter()
        thread.vain = None
        return thread.cursor

    def catch_up(self, thread: HostThread) -> None:
        """In real-time mode: code of the client's has run, and took the time that it took."""
        if self.pace is not None:
            thread.cursor = max(thread.cursor, self.pace.now())

    def keep_pace(self, thread: HostThread, *, holds_gil: bool) -> None:
        """In real-time mode: do not return before the real time that belongs to the thread's cursor.

        With the GIL the sleep holds it, and the machine's lock: nobody else makes progress. Decision: Python drops the GIL
        between two slices of it, so that signals are handled; others then run for one switch interval at most.
        Without, both are let go, and other threads work on.
        """
        pace = self.pace
        if pace is None:
            return
        pace.forgive(thread.cursor)
        while (left := pace.seconds_until(thread.cursor)) > 0:
            if left <= SPIN_S:
                continue
            if holds_gil:
                sleep_with_gil(left - SPIN_S)
            else:
                self._lock.wait(left - SPIN_S)

    def leave(self, thread: HostThread, started: float, *, holds_gil: bool) -> None:
        """The call ends; one that held the GIL pushes whoever runs in the same stretch of virtual time."""
        if thread.pumping or thread.state == "idle":
            return  # a poll that found nothing
        thread.vain = None
        if len(self.threads) > 1:
            if holds_gil and thread.cursor > started:
                thread.cursor = self.gil.hold(started, thread.cursor)
            elif not holds_gil:
                thread.cursor = self.gil.free_from(thread.cursor)
        self.keep_pace(thread, holds_gil=holds_gil)
        self._last_cursor = thread.cursor
        self._note_time(thread.cursor)
        if self._waiters:
            self._lock.notify_all()

    def _others(self, thread: HostThread) -> list[HostThread]:
        return [t for t in self.threads.values() if t is not thread and t.alive()]

    def _note_time(self, moment: float) -> None:
        if moment > self._machine.ledger.device_time_us:
            self._machine.ledger.device_time_us = moment

    # Work

    def submit(
        self,
        stream: Stream,
        engine: str,
        cost: float | Callable[[], float],
        action: Action | None,
        label: str,
        *,
        reads: Ranges = (),
        writes: Ranges = (),
        after: Task | None = None,
        report: Any = None,
    ) -> Task:
        """Put work on a stream; see `Machine.submit`."""
        self._sequence += 1
        thread = self.thread()
        thread.beats += 1
        task = Task(
            stream, engine, cost, action, label, thread.cursor, self._sequence, caller_site(),
            reads, writes, after, report,
        )  # fmt: skip
        stream.queue.append(task)
        stream.unsynced.append(task)
        stream.last = task
        if self._waiters:
            self._lock.notify_all()
        return task

    def run_blocking(self, device: int, engine: str, cost: float, action: Action | None) -> int:
        """Run work now, outside every stream, and wait for it; returns the action's code."""
        thread = self.thread()
        self.advance(thread.cursor)
        start = self._place(device, engine, thread.cursor, cost)
        code = action() if action is not None else 0
        thread.cursor = max(thread.cursor, start + cost)
        return code or 0

    def _place(self, device: int, engine: str, ready: float, cost: float) -> float:
        if engine == "none":
            return ready
        key = (device, engine)
        start = max(ready, self._free.get(key, 0.0))
        self._free[key] = start + cost
        busy = self._machine.ledger.busy_us
        busy[engine] = busy.get(engine, 0.0) + cost
        return start

    def advance(
        self,
        limit: float = math.inf,
        targets: Iterable[Task] = (),
        *,
        waiter: HostThread | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> str:
        """Place and run what is queued, in order of start time, up to `limit` or until all `targets` are done.

        Returns:
            "done" (all targets), "stopped" (`stop()`), "late" (the next task starts after `limit`), "behind" (a running
            thread might still submit something earlier; only with a `waiter`), "stalled" (a callback has to run
            first), "empty".
        """
        targets = tuple(targets)
        while True:
            if stop is not None and stop():
                return "stopped"
            if targets and all(task.end is not None for task in targets):
                last = max(task.end or 0.0 for task in targets)
                self._run_effects(min(limit, last))
                return "done" if last <= limit else "late"
            best: Task | None = None
            best_start = math.inf
            blocked = False
            for stream in self.streams:
                if not stream.queue:
                    continue
                head = stream.queue[0]
                if stream.ready is None or (head.after is not None and head.after.end is None):
                    blocked = True
                    continue
                start = max(head.issued, stream.ready, head.after.end or 0.0 if head.after is not None else 0.0)
                if head.engine != "none":
                    start = max(start, self._free.get((stream.context.device, head.engine), 0.0))
                if start < best_start or (start == best_start and best is not None and head.sequence < best.sequence):
                    best, best_start = head, start
            if best is None:
                if limit < math.inf or not targets:
                    self._run_effects(limit)
                return "stalled" if blocked else "empty"
            if waiter is not None and self._may_come_earlier(waiter, best_start):
                self._run_effects(min(limit, best_start))
                self._next_start = best_start
                return "behind"
            if best_start > limit:
                self._run_effects(limit)
                return "late"
            self._run_effects(best_start)
            self._schedule(best, best_start)
            if self._waiters > 1:
                self._wake(waiter)

    def _may_come_earlier(self, waiter: HostThread, start: float) -> bool:
        """Whether another thread might still submit something for an earlier time than `start`."""
        if self.pace is not None and self.pace.now() >= start:
            return False
        return any(t.state == "running" and t.cursor < start for t in self._others(waiter))

    def _schedule(self, task: Task, start: float) -> None:
        stream = task.stream
        stream.queue.popleft()
        cost = task.cost() if callable(task.cost) else task.cost
        self._place(stream.context.device, task.engine, start, cost)
        task.start = start
        if task.report is not None and task.report.reached(start):
            stream.ready = None  # a blocking callback: `finish_callback` goes on
            self._lock.notify_all()
            return
        task.end = stream.ready = start + cost
        self._note_time(task.end)
        heapq.heappush(self._effects, (task.end, task.sequence, task))

    def _wake(self, waiter: HostThread | None) -> None:
        """Waiting threads whose moment is known run again from there on: nobody may get ahead of them any more."""
        for thread in self.threads.values():
            if thread is not waiter and thread.state == "waiting" and thread.wakes is not None:
                moment = thread.wakes()
                if moment is not None:
                    thread.cursor = max(thread.cursor, moment)
                    thread.state = "running"
                    thread.beats += 1
                    self._lock.notify_all()

    def finish_callback(self, task: Task, moment: float) -> None:
        """A blocking callback has returned at `moment`: its stream goes on."""
        if task.end is None:
            task.end = task.stream.ready = max(task.start, moment)
            heapq.heappush(self._effects, (task.end, task.sequence, task))
            self._lock.notify_all()

    def _run_effects(self, until: float) -> None:
        while self._effects and self._effects[0][0] <= until:
            task = heapq.heappop(self._effects)[2]
            task.done = True
            if task.action is not None:
                code = task.action()
                if code:
                    task.stream.error = task.stream.error or code

    # Waiting

    def wait(self, targets: Iterable[Task], deadline: float = math.inf) -> bool:
        """Block the calling thread until the targets are done: its cursor goes to the last end, or to `deadline`.

        Returns:
            True; False when the deadline passed first (then also for a stream that nothing will ever move).
        Raises:
            Violation: strict mode, and nobody will ever run a callback that this waits for.
        """
        targets = [task for task in targets if task is not None]
        thread = self.thread()
        if all(task.done for task in targets):
            if any((task.end or 0.0) > deadline for task in targets):
                thread.cursor = max(thread.cursor, deadline)
                return False
            self._synced(thread, targets)
            return True
        thread.state = "waiting"
        thread.wakes = lambda: _last_end(targets, deadline)
        self._waiters += 1
        self._lock.notify_all()
        patience = STALL_S
        try:
            self.look_for_the_woken(thread)
            while True:
                verdict = self.advance(deadline, targets, waiter=thread)
                if verdict == "done":
                    self._synced(thread, targets)
                    return True
                if verdict == "late":
                    thread.cursor = max(thread.cursor, deadline)
                    return False
                if verdict == "behind":
                    self.let_others_go_on(thread)
                    continue
                reason = self._never(thread) if patience > 0 else f"nobody pumped its callback for {STALL_S:g} s"
                if reason:
                    if deadline == math.inf:
                        self._machine.violate("synchronise never returns", reason)
                    thread.cursor = max(thread.cursor, min(deadline, thread.cursor + 1e6))
                    return False
                self._lock.wait(0.05)
                if not any(s.ready is None and s.subscription is not None and s.subscription.running for s in self.streams):
                    patience -= 0.05
        finally:
            self._waiters -= 1
            thread.state = "running"
            thread.wakes = None

    def _synced(self, thread: HostThread, targets: Iterable[Task]) -> None:
        for task in targets:
            thread.cursor = max(thread.cursor, task.end or 0.0)
            self.mark_synced(task)

    def mark_synced(self, task: Task) -> None:
        """The host knows that `task`, and all that had to come before it, is done."""
        if task.synced:
            return
        unsynced = task.stream.unsynced
        while unsynced:
            first = unsynced[0]
            if first.sequence > task.sequence or not first.done:
                break
            unsynced.popleft()
            first.synced = True
            if first.after is not None:
                self.mark_synced(first.after)

    def _never(self, thread: HostThread) -> str:
        """Why the stalled streams will not move again, or "" if somebody may still pump."""
        for stream in self.streams:
            group = stream.subscription
            if stream.ready is None and group is not None:
                if group.ident == thread.ident:
                    return "the thread that must pump this stream's callbacks is the one that waits for the stream"
                if group.ident in ENDED or group.ident not in sys._current_frames():
                    return "the thread that was to pump this stream's callbacks has ended"
        return ""

    def let_others_go_on(self, thread: HostThread) -> None:
        """Give running threads real time to submit what comes earlier; whoever makes no call in it counts as idle.

        In real-time mode they have until the next task's start comes, and nobody needs to be idle.
        """
        if self.pace is not None:
            self._lock.wait(max(0.0, self.pace.seconds_until(self._next_start)))
            return
        behind = {t: t.beats for t in self._others(thread) if t.state == "running"}
        patience_ends = time.monotonic() + GRACE_S
        places: dict[int, tuple[int, int]] | None = None
        while behind:
            self._lock.wait(GLANCE_S)
            if any(t.state != "running" or t.beats != beats for t, beats in behind.items()):
                return
            # One that runs may hold the GIL, so that who waits for it looks asleep: nobody is, until all are.
            before, places = places, resting_places(thread.ident)
            asleep = (
                before is not None and places is not None and all(places.get(t.ident) == before.get(t.ident) for t in behind)
            )
            if asleep or time.monotonic() > patience_ends:
                for other in behind:
                    other.state = "idle"
                    other.asleep_at = places.get(other.ident) if asleep and places is not None else None
                return

    def look_for_the_woken(self, thread: HostThread) -> None:
        """Give idle threads that something outside acl has woken, this thread perhaps, real time to be seen running again.

        They may be about to submit what comes earlier than whatever this thread is going to wait for.
        """
        asleep = [t for t in self._others(thread) if t.state == "idle" and not t.pumping and t.asleep_at is not None]
        if not asleep or self.pace is not None:
            return
        self._lock.wait(WAKING_S)
        frames = sys._current_frames()
        for other in asleep:
            frame = frames.get(other.ident)
            if other.state == "idle" and frame is not None and (id(frame), frame.f_lasti) != other.asleep_at:
                other.state = "running"
                other.cursor = max(other.cursor, self._last_cursor)

    def may_be_woken(self, moment: float) -> None:
        """The client's code has run in a callback, at `moment`: it may have woken threads that were idle."""
        for thread in self.threads.values():
            if thread.state == "idle" and not thread.pumping:
                thread.state = "running"
                thread.cursor = max(thread.cursor, moment)

    def wait_report(self, thread: HostThread, arrival: Callable[[], float | None], timeout_us: float) -> bool:
        """Block until `arrival()` is a time, driving the streams meanwhile.

        Returns:
            False when `timeout_us` of virtual time passed, or of real time while other threads might yet bring earlier work:
            then the cursor is where it was before the call.
        """

        def arrived() -> bool:
            return arrival() is not None

        host_call_us = self._machine.profile.host_call_us
        if thread.vain is not None:  # what `enter` made of the time since then is nothing to a poll that goes on
            thread.cursor = thread.vain + host_call_us
            thread.vain = None
        if arrived():
            return True
        before = thread.cursor - host_call_us
        deadline = thread.cursor + timeout_us
        real_left = timeout_us / 1e6
        thread.state = "waiting"
        thread.pumping = True
        thread.wakes = arrival
        self._waiters += 1
        try:
            while True:
                verdict = self.advance(deadline, waiter=thread, stop=arrived)
                if verdict == "stopped":
                    return True
                if verdict == "behind":
                    self.let_others_go_on(thread)
                    continue
                producers = [t for t in self._others(thread) if not t.pumping]
                if self.pace is not None and producers:
                    left = self.pace.seconds_until(deadline)
                    if left <= 0:
                        thread.cursor = max(thread.cursor, deadline)
                        return False
                    self._lock.wait(min(left, 0.05))
                    continue
                if verdict == "late" or not producers or real_left <= 0:
                    if verdict != "late" and producers:
                        deadline = before  # somebody may yet come with earlier work
                    elif deadline == math.inf:
                        self._machine.violate("process_report never returns", "no other thread can launch a callback")
                        deadline = thread.cursor
                    thread.cursor = deadline
                    if producers:
                        thread.vain = deadline
                    return False
                slice_s = min(real_left, 0.05)
                self._lock.wait(slice_s)
                real_left -= slice_s
        finally:
            self._waiters -= 1
            thread.state = "running"
            thread.pumping = thread.vain is not None
            thread.wakes = None

    # Hazards

    def check_not_in_flight(self, address: int, size: int, what: str, *, writing: bool) -> None:
        """Violation if work that nobody has synchronised yet writes these bytes (or reads them, if `writing`)."""
        for stream in self.streams:
            for task in stream.unsynced:
                if _overlaps(task.writes, address, size):
                    verb = "writes"
                elif writing and _overlaps(task.reads, address, size):
                    verb = "reads"
                else:
                    continue
                rule: Rule = "read before synchronising" if not writing else "queued work uses this"
                self._machine.violate(
                    rule, f"{what}: {task.label} (queued at {task.site}) {verb} {address:#x} and was not synchronised"
                )
                return


def resting_places(onlooker: int) -> dict[int, tuple[int, int]] | None:
    """Where every Python thread but one sleeps, by ident: its frame and instruction; None if one runs, or nothing tells.

    Who sleeps at one place at two glances waits for something outside acl. A thread that has only lost the GIL gets it back
    while the onlooker sleeps, unless another runs.
    """
    frames = sys._current_frames()
    places = {}
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread.ident == onlooker or thread.ident is None or frame is None:
            continue
        try:
            with open(f"/proc/self/task/{thread.native_id}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            return None
        if state != "S":
            return None
        places[thread.ident] = (id(frame), frame.f_lasti)
    return places


def _last_end(tasks: Iterable[Task], deadline: float) -> float | None:
    """When the last of them ends, at most `deadline`; None while that is open."""
    latest = 0.0
    for task in tasks:
        if task.end is None:
            return None
        latest = max(latest, task.end)
    return min(latest, deadline)


def _overlaps(ranges: Ranges, address: int, size: int) -> bool:
    return any(start < address + size and address < start + length for start, length in ranges)


def _is_alive(reference: weakref.ReferenceType[threading.Thread]) -> bool:
    thread = reference()
    return thread is not None and thread.is_alive()
