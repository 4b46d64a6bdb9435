"""The simulated host with its cards: one `Machine` per process, and `api`, through which every public function goes.

What other modules use:

    machine()                         the machine; made from ACL_SIM_* variables on first use, replaced by testing.reset
    @api("acl.rt.malloc", "ki", failed=PAIR)   parse, count, inject faults, account for the GIL and time, translate Refused
    machine().current_context()       this thread's Context, or Refused(107002)
    machine().stream(handle)          handle -> Stream (0 is the context's default stream), or Refused
    machine().submit(...)             queue work on a stream      machine().run_blocking(...)  do it now, and wait
    machine().violate(rule, text)     class U of the contract     raise Refused(code, text)    class E
    machine().handles, .memory, .clock, .ledger, .profile, .config

Every public function runs with the machine's lock held, unless it says `locked=False`.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ParamSpec, TypeVar, cast

from acl_sim._arguments import parser
from acl_sim._clock import Action, Clock, HostThread, Ranges, Stream, Task
from acl_sim._errors import (
    BAD_PARAMETER,
    RT_CONTEXT_NULL,
    RT_DRV_INTERNAL_ERROR,
    RT_INVALID_HANDLE,
    RT_STREAM_CONTEXT,
    Refused,
    Rule,
    Violation,
)
from acl_sim._handles import Handles
from acl_sim._ledger import Leak, Ledger, ViolationRecord, caller_site
from acl_sim._memory import Memory
from acl_sim._profile import Profile, load_profile
from acl_sim._reports import Group

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Fault:
    """The `nth` call (from 1) of `function` ("acl.rt.malloc") fails with `code`; nth 0: every call does."""

    function: str
    nth: int
    code: int


def parse_faults(text: str) -> tuple[Fault, ...]:
    """`acl.rt.malloc:3:207001;acl.mdl.execute:*:507011`; blank entries and lines that start with # are skipped."""
    faults = []
    for entry in text.replace("\n", ";").split(";"):
        entry = entry.strip()
        if not entry or entry.startswith("#"):
            continue
        parts = entry.split(":")
        if len(parts) != 3:
            raise ValueError(f"fault {entry!r}: expected FUNCTION:NTH:CODE, NTH may be *")
        name = parts[0] if parts[0].startswith("acl.") else f"acl.{parts[0]}"
        faults.append(Fault(name, 0 if parts[1] == "*" else int(parts[1]), int(parts[2])))
    return tuple(faults)


@dataclass(frozen=True, slots=True)
class Config:
    """What kind of machine this is. Variables: ACL_SIM_ and the upper-case name, for example ACL_SIM_RUN_MODE."""

    devices: int = 1
    run_mode: str = "host"  # "host": a card in a server; "device": a board where host and device share memory
    soc_name: str = "Ascend310P3"
    memory_bytes: int = 24 << 30  # per device
    strict: bool = True
    device_time: str = "310p"
    faults: tuple[Fault, ...] = ()
    lost_devices: tuple[int, ...] = ()
    real_time: float = 0.0  # real seconds per second of device time; 0: never sleep

    def __post_init__(self) -> None:
        """Refuse what no machine is like."""
        if self.devices < 1:
            raise ValueError(f"devices: expected 1 or more, got {self.devices}")
        if self.run_mode not in ("host", "device"):
            raise ValueError(f"run_mode: expected 'host' or 'device', got {self.run_mode!r}")
        if not 0 <= self.real_time < math.inf:
            raise ValueError(f"real_time: expected a factor of 0 or more, got {self.real_time}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Config:
        """The defaults, changed by ACL_SIM_DEVICES, _RUN_MODE, _SOC_NAME, _MEMORY_BYTES, _STRICT, _DEVICE_TIME, _FAULTS
        (entries, or @FILE with one per line), _LOST_DEVICES (numbers with commas) and _REAL_TIME (a factor).
        """
        changes: dict[str, Any] = {}
        for entry in fields(cls):
            text = environment.get(f"ACL_SIM_{entry.name.upper()}")
            if text is None:
                continue
            if entry.name in ("devices", "memory_bytes"):
                changes[entry.name] = int(text)
            elif entry.name == "real_time":
                changes[entry.name] = float(text)
            elif entry.name == "strict":
                changes[entry.name] = text.lower() not in ("0", "false", "no", "off")
            elif entry.name == "faults":
                if text.startswith("@"):
                    with open(text[1:], encoding="utf-8") as file:  # noqa: PTH123
                        text = file.read()
                changes[entry.name] = parse_faults(text)
            elif entry.name == "lost_devices":
                changes[entry.name] = tuple(int(part) for part in text.split(",") if part.strip())
            else:
                changes[entry.name] = text
        return cls(**changes)


@dataclass(eq=False, slots=True)
class Context:
    """A context of a device. The runtime owns the implicit (primary) one; `default` is its default stream."""

    device: int
    implicit: bool
    handle: int = 0
    alive: bool = True
    default: Stream | None = None


@dataclass(eq=False, slots=True)
class Device:
    """One card: how often it was set, and its implicit context while that is more than 0 times."""

    number: int
    set_count: int = 0
    context: Context | None = None


@dataclass(slots=True)
class Process:
    """State of acl.init: how often it was called, whether it is over, what configuration it had."""

    references: int = 0
    ever: bool = False
    finalized: bool = False
    config: bytes | None = None


class Machine:
    """Everything simulated; see the module's docstring for its use."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.strict = config.strict
        self.profile: Profile = load_profile(config.device_time)
        self.lock = threading.Condition(threading.RLock())
        self.ledger = Ledger(
            profile=self.profile.name,
            find_leaks=self._leaks,
            late_s=lambda: self.clock.pace.late_s if self.clock.pace else None,
        )
        self.clock = Clock(self, self.lock)
        self.handles = Handles(self)
        self.memory = Memory(self)
        self.devices = [Device(number) for number in range(config.devices)]
        self.lost = set(config.lost_devices)
        self.faults = list(config.faults)
        self.process = Process()
        self.reports: dict[int, Group] = {}  # by thread id
        self.more_leaks: list[Callable[[], list[Leak]]] = []

    def _leaks(self) -> list[Leak]:
        found = self.handles.leaks() + self.memory.leaks()
        for more in self.more_leaks:
            found += more()
        return found

    # Answers

    def fail(self, code: int, text: str, report: str = BAD_PARAMETER) -> int:
        """Set this thread's recent error message and last error; returns `code`.

        Decision: the message is `EH0001: <text> (error code <code>)`, the form that CANN 8.1 prints less its process id and
        date, so that two runs say the same; every code has one, those that are neither null pointers nor short buffers too.
        """
        thread = self.clock.thread()
        thread.message = f"{report}: {text} (error code {code})"
        thread.last_error = code
        return code

    def violate(self, rule: Rule, text: str) -> None:
        """Undefined on hardware: strict mode raises Violation, tolerant mode writes it down and returns."""
        self.ledger.violations.append(ViolationRecord(rule, text, caller_site()))
        if self.strict:
            raise Violation(rule, f"{text} (at {caller_site()})")
        print(f"acl_sim: violation [{rule}] {text} (at {caller_site()})", file=sys.stderr)

    # Contexts and streams

    @property
    def initialized(self) -> bool:
        """True between acl.init and acl.finalize."""
        return self.process.references > 0

    def check_not_finalized(self) -> None:
        """Violation between acl.finalize and the next acl.init.

        Decision: never calling acl.init at all is not one, as long as no model is loaded; giving things back late is not.
        """
        if self.process.ever and not self.initialized:
            self.violate("use after finalize", "acl.finalize was called before")

    def current_context(self, *, late: bool = False) -> Context:
        """The calling thread's context; Refused 107002 without one, 507899 if its device is lost.

        `late=True` for functions that give something back: they may come after acl.finalize.
        """
        if not late:
            self.check_not_finalized()
        context = self.clock.thread().context
        if context is None or not context.alive:
            raise Refused(RT_CONTEXT_NULL, "this thread has no context: call set_device, create_context or set_context")
        if context.device in self.lost:
            raise Refused(RT_DRV_INTERNAL_ERROR, f"device {context.device} is lost")
        return context

    def new_context(self, device: int, *, implicit: bool) -> Context:
        """A context with its default stream."""
        context = Context(device, implicit)
        context.handle = self.handles.new("context", context, counts_as_leak=not implicit)
        context.default = self.new_stream(context, counts_as_leak=False)
        return context

    def end_context(self, context: Context) -> None:
        """The context and its default stream are gone."""
        context.alive = False
        self.handles.drop("context", context.handle)
        if context.default is not None:
            self.end_stream(context.default)

    def new_stream(self, context: Context, *, counts_as_leak: bool = True) -> Stream:
        """A stream of the context, known to the clock."""
        stream = Stream(context, caller_site())
        stream.handle = self.handles.new("stream", stream, counts_as_leak=counts_as_leak)
        self.clock.streams.append(stream)
        return stream

    def end_stream(self, stream: Stream) -> None:
        """The stream is gone; work still on it runs first."""
        if stream.last is not None:
            self.clock.advance(targets=[stream.last])
        self.handles.drop("stream", stream.handle)
        self.clock.streams.remove(stream)

    def stream(self, handle: int, *, same_context: bool = False, late: bool = False) -> Stream:
        """The stream behind a handle; 0 is the default stream of the current context.

        Args:
            handle: as the client gave it.
            same_context: refuse a stream of another context.
            late: allowed after acl.finalize.
        Raises:
            Refused: 107002 without context, 107017 destroyed handle, 107003 another context's stream.
            Violation: a handle that never was a stream (Refused 107017 in tolerant mode).
        """
        context = self.current_context(late=late)
        if handle == 0:
            assert context.default is not None
            return context.default
        if self.handles.was("stream", handle):
            raise Refused(RT_INVALID_HANDLE, f"stream {handle:#x} (created at {self.handles.site(handle)}) is destroyed")
        stream: Stream = self.handles.get("stream", handle, RT_INVALID_HANDLE)
        if same_context and stream.context is not context:
            raise Refused(RT_STREAM_CONTEXT, f"stream {handle:#x} (created at {stream.site}) belongs to another context")
        return stream

    # Work

    def submit(
        self,
        stream: Stream,
        engine: str,
        microseconds: float | Callable[[], float],
        action: Action | None,
        label: str,
        *,
        reads: Ranges = (),
        writes: Ranges = (),
        after: Task | None = None,
        report: Any = None,
    ) -> Task:
        """Queue work on a stream.

        Args:
            stream: from `machine.stream(handle)`.
            engine: "copy_in", "compute", "copy_out", or "none" for what needs no engine.
            microseconds: device time; a callable is asked when the work is placed, when all before it on the stream is done.
            action: does the work when virtual time reaches its end; returns 0 or None, or a code that the stream's next
                synchronisation answers. A Violation in it surfaces in the call that made time pass.
            label: names the work in messages: "memcpy_async", "execute_async of model 1".
            reads, writes: (address, size) ranges, so that touching them before synchronising is noticed.
            after: this task must have ended, too (stream_wait_event).
            report: a callback to deliver instead (rt.py).
        """
        return self.clock.submit(
            stream, engine, microseconds, action, label, reads=reads, writes=writes, after=after, report=report
        )

    def run_blocking(self, engine: str, microseconds: float, action: Action | None) -> int:
        """Do work now on the current context's device and wait for it; returns the action's code (0 for None)."""
        return self.clock.run_blocking(self.current_context().device, engine, microseconds, action)

    def check_not_in_flight(self, address: int, size: int, what: str, *, writing: bool = False) -> None:
        """Violation if queued, unsynchronised work writes these bytes (or reads them, if we are `writing`)."""
        self.clock.check_not_in_flight(address, size, what, writing=writing)


_machine: Machine | None = None
_creation = threading.Lock()


def machine() -> Machine:
    """The process-wide machine; made from the environment on first use."""
    global _machine
    if _machine is None:
        with _creation:
            if _machine is None:
                _machine = Machine(Config.from_environment())
    return _machine


def replace_machine(config: Config | None = None, **changes: Any) -> Machine:
    """Start afresh: nothing of the old machine is alive for the new one."""
    global _machine
    _machine = Machine(replace(config or Config(), **changes))
    return _machine


# What a function returns when it fails with `code`.
Failure = Callable[[int], Any]


def shape(*values: Any) -> Failure:
    """The failure `(*values, code)`, with fresh copies of containers: `shape({})` is `({}, code)`."""
    return lambda code: (*copy.deepcopy(values), code)


def constant(value: Any) -> Failure:
    """The failure of functions that return no code: the same value whatever happened."""
    return lambda _: copy.deepcopy(value)


RET: Failure = lambda code: code  # noqa: E731
PAIR: Failure = shape(0)
HANDLE: Failure = constant(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One function of the public surface; `ENTRIES` lists them by dotted name."""

    name: str
    letters: str
    failed: Failure
    holds_gil: bool


ENTRIES: dict[str, Entry] = {}


def api(
    name: str, letters: str, *, failed: Failure = RET, gil: bool = True, locked: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function of the public surface.

    Args:
        name: dotted, as the vendor's: "acl.rt.malloc".
        letters: one per argument (see `_arguments`); "" ignores surplus arguments.
        failed: code -> what the function returns on failure: RET, PAIR `(0, code)`, HANDLE `0`, `shape({})`, `constant(x)`.
        gil: False if the real function releases the GIL.
        locked: False if the function takes the machine's lock itself, because it calls the client's code.
    Returns:
        A decorator. The decorated function gets parsed values (unsigned ints for k, K, I) and may raise Refused.
    """
    ENTRIES[name] = Entry(name, letters, failed, gil)
    parse = parser(name, letters)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        def call(*args: Any) -> Any:
            values = parse(args)
            here = machine()
            with here.lock:
                calls = here.ledger.calls
                calls[name] += 1
                clock = here.clock
                thread = clock.enter()
                started = thread.cursor
                thread.cursor += here.profile.host_call_us
                if here.faults:
                    code = _fault(here, name)
                    if code is not None:
                        clock.leave(thread, started, holds_gil=gil)
                        return failed(here.fail(code, f"fault injected into {name}"))
                if locked:
                    try:
                        return function(*values)  # type: ignore[call-arg]
                    except Refused as refused:
                        return failed(here.fail(refused.code, f"{name}: {refused.text}", refused.report))
                    finally:
                        clock.leave(thread, started, holds_gil=gil)
            try:
                return function(*values)  # type: ignore[call-arg]
            except Refused as refused:
                with here.lock:
                    return failed(here.fail(refused.code, f"{name}: {refused.text}", refused.report))
            finally:
                with here.lock:
                    clock.leave(thread, started, holds_gil=gil)

        functools.update_wrapper(call, function)
        del call.__wrapped__  # type: ignore[attr-defined]  # inspect must see positional-only *args, as of a C function
        call.__name__ = name.rpartition(".")[2]
        return cast("Callable[P, R]", call)

    return decorate


def _fault(here: Machine, name: str) -> int | None:
    count = here.ledger.calls[name]
    for fault in here.faults:
        if fault.function == name and fault.nth in (0, count):
            return fault.code
    return None


__all__ = [
    "ENTRIES",
    "HANDLE",
    "PAIR",
    "RET",
    "Config",
    "Context",
    "Fault",
    "HostThread",
    "Machine",
    "Refused",
    "Stream",
    "Task",
    "Violation",
    "api",
    "constant",
    "machine",
    "parse_faults",
    "replace_machine",
    "shape",
]
