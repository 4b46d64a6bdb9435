"""The vendor's callback path: one thread that learns, for many launches at once, that their results have landed.

Every `every` launches a callback is put behind the last of them; when the device gets there, the report thread runs it and
wakes the threads whose launches it covers. A callback is also put when nobody is about to queue another launch, so that no
launch waits for company that never comes. And no launch relies on being told: who hears nothing for `_SILENCE_S` waits for its
own stream, which also says what is wrong where a device is lost.

Source: Huawei, asynchronous model inference (``acl.rt.subscribe_report``, ``launch_callback``, ``process_report``). The
vendor's samples start the thread with ``acl.util.start_thread``, which also takes Ctrl-C away from Python; a thread of
Python's own is subscribed just as well.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from anybatch_ascend._acl import LOG, NO_BLOCK, REPORT_TIMEOUT, Acl
from anybatch_ascend.status import AclError

_POLL_MS: Final = 50
_MAX_FAILURES: Final = 3
_SILENCE_S: Final = 2.0


class Flight(Protocol):
    """What a launch in flight has: its stream, an event behind all its work there, and where it is told that it landed."""

    @property
    def stream(self) -> int:
        """The launch's own stream, subscribed."""
        ...

    @property
    def landed_event(self) -> int:
        """An event of its own."""
        ...

    @property
    def landed(self) -> SimpleQueue[None]:
        """Gets an item when it landed, or when nobody will say so any more."""
        ...


class Reports:
    """The report thread of one session.

    Args:
        acl: initialized.
        context: the current one.
        streams: those whose callbacks it runs, of that context.
        every: how many launches one callback covers, at least 1.

    Raises:
        AclError: a stream cannot be subscribed; nothing stays subscribed, the thread has ended.
    """

    def __init__(self, acl: Acl, context: int, streams: Sequence[int], every: int) -> None:
        self._acl = acl
        self._context = context
        self._every = every
        self._lock = threading.Lock()
        self._told = threading.Condition(self._lock)
        self._queueing: set[Flight] = set()
        self._in_flight: set[Flight] = set()
        self._uncovered: list[Flight] = []
        self._covered: set[Flight] = set()
        self._broken = False
        self._closing = False
        self._stopping = threading.Event()
        self._subscribed: list[int] = []
        self._ready = threading.Event()
        self._go = threading.Event()
        self._set_context = acl.function("rt.set_context")
        self._process = acl.function("rt.process_report")
        self._record = acl.function("rt.record_event")
        self._wait = acl.function("rt.stream_wait_event")
        self._launch = acl.function("rt.launch_callback")
        self._thread = threading.Thread(target=self._run, name="anybatch-ascend-reports", daemon=True)
        self._thread.start()
        self._ready.wait()
        try:
            for stream in streams:
                acl.call("rt.subscribe_report", self._thread.ident, stream)
                self._subscribed.append(stream)
        except BaseException:
            self.close()
            raise
        self._go.set()

    def begin(self, flight: Flight) -> None:
        """A launch is about to be queued: `queued` follows, and in any case `end`."""
        while not flight.landed.empty():  # told late, after an interrupted launch had given up its wait
            flight.landed.get()
        with self._lock:
            self._queueing.add(flight)
            self._in_flight.add(flight)

    def queued(self, flight: Flight) -> bool:
        """A launch is queued, its copies included. True: `wait` for it; False: synchronize its stream.

        Raises:
            AclError: no callback could be put behind it. Then nobody will say that it landed.
        """
        with self._lock:
            self._queueing.discard(flight)
            if self._broken or (len(self._in_flight) == 1 and not self._uncovered):
                return False  # alone: nothing to save, and one thread less to wake
            self._uncovered.append(flight)
            self._cover_if_due()
            return True

    def wait(self, flight: Flight) -> None:
        """Wait until a launch has landed, or nobody will say so any more: its stream is still to be synchronized."""
        try:
            flight.landed.get(timeout=_SILENCE_S)
        except Empty:
            self._give_up(f"no report in {_SILENCE_S} s")

    def end(self, flight: Flight) -> None:
        """The launch is over, well or not; twice is fine. Those that waited for its company wait no longer."""
        with self._lock:
            self._in_flight.discard(flight)
            self._queueing.discard(flight)
            if not self._uncovered:
                return
            self._uncovered = [other for other in self._uncovered if other is not flight]
            try:
                self._cover_if_due()
            except AclError as error:  # not this launch's: those it was to cover are told
                LOG.warning("%s", error)

    def close(self) -> AclError | None:
        """Unsubscribe and end the thread; return what went wrong, if something did. No launch is in flight."""
        with self._told:  # callbacks of launches that were interrupted may still be on their way
            self._told.wait_for(lambda: not self._covered, _SILENCE_S)
        failed = None
        self._closing = True
        while self._subscribed:
            failed = self._acl.give_back("rt.unsubscribe_report", self._thread.ident, self._subscribed.pop()) or failed
        self._stopping.set()
        self._go.set()
        self._thread.join()
        return failed

    def _cover_if_due(self) -> None:
        """Put a callback behind the uncovered launches if they are enough, or if no more is coming; the lock is held."""
        if not self._uncovered or (len(self._uncovered) < self._every and self._queueing):
            return
        flights, self._uncovered = self._uncovered, []
        last = flights[-1]
        try:
            for other in flights[:-1]:
                self._check("rt.record_event", self._record(other.landed_event, other.stream))
                self._check("rt.stream_wait_event", self._wait(last.stream, other.landed_event))
            self._check("rt.launch_callback", self._launch(self._landed, flights, NO_BLOCK, last.stream))
        except BaseException:
            # They are told at once, and each then waits for its own stream: slower, and right.
            for flight in flights:
                flight.landed.put(None)
            raise
        self._covered.update(flights)

    def _check(self, name: str, code: int) -> None:
        if code:
            raise self._acl.failure(name, code)

    def _landed(self, flights: list[Flight]) -> None:
        """The callback, in the report thread."""
        with self._lock:
            self._covered.difference_update(flights)
            self._told.notify_all()
        for flight in flights:
            flight.landed.put(None)

    def _run(self) -> None:
        try:
            try:
                code = self._set_context(self._context)  # as the vendor's samples do
            finally:
                self._ready.set()  # from now on nobody's call has to make way for one of this thread
            if code:
                LOG.warning("%s: acl.rt.set_context failed with status %s in the report thread", self._acl.backend, code)
            self._go.wait()
            self._process_reports()
        except BaseException as error:
            self._give_up(repr(error))
            raise

    def _process_reports(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            code = self._process(_POLL_MS)
            if code in (0, REPORT_TIMEOUT):
                failures = 0
                continue
            if self._closing:  # once no stream is subscribed to a thread, waiting for reports is an error
                return
            failures += 1
            if failures == _MAX_FAILURES:
                self._give_up(f"acl.rt.process_report failed with status {code}, {failures} times in a row")
            if failures >= _MAX_FAILURES:  # go on, slowly: what was launched before is better run than lost
                self._stopping.wait(_POLL_MS / 1000)

    def _give_up(self, why: str) -> None:
        """No report can be relied on: whoever waits for one waits for its own stream instead, from now on."""
        with self._lock:
            if not self._broken:
                LOG.warning("%s: %s: launches wait for their own streams from now on", self._acl.backend, why)
            self._broken = True
            waiting = [*self._covered, *self._uncovered]
            self._uncovered = []
        for flight in waiting:
            flight.landed.put(None)
