"""`acl.rt`: devices, contexts, streams, memory, events, reports. contracts/pyacl.md 1.2, 3.1, 3.2 and 4.

Where the contract leaves a choice, a comment beginning with "Decision:" says what was chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acl_sim._clock import Ranges, Stream, Task
from acl_sim._errors import (
    INVALID_PARAM,
    RT_CONTEXT_NULL,
    RT_CONTEXT_RELEASE_ERROR,
    RT_EVENT_SYNC_TIMEOUT,
    RT_EVENT_TIMESTAMP_INVALID,
    RT_FEATURE_NOT_SUPPORT,
    RT_INTERNAL_ERROR,
    RT_INVALID_DEVICEID,
    RT_INVALID_HANDLE,
    RT_PARAM_INVALID,
    RT_REPORT_TIMEOUT,
    RT_STREAM_NO_CB_REG,
    RT_STREAM_SUBSCRIBE,
    RT_STREAM_SYNC_TIMEOUT,
    RT_THREAD_SUBSCRIBE,
    Refused,
    null,
)
from acl_sim._machine import PAIR, Context, Device, api, machine, shape
from acl_sim._memory import PLAIN
from acl_sim._reports import MOST_GROUPS, Group, Report

__all__ = [
    "create_context",
    "create_event",
    "create_event_ex_with_flag",
    "create_event_with_flag",
    "create_stream",
    "create_stream_with_config",
    "destroy_context",
    "destroy_event",
    "destroy_stream",
    "event_elapsed_time",
    "free",
    "free_host",
    "get_context",
    "get_device",
    "get_device_count",
    "get_last_error",
    "get_mem_info",
    "get_run_mode",
    "launch_callback",
    "malloc",
    "malloc_host",
    "memcpy",
    "memcpy_async",
    "memset",
    "memset_async",
    "peek_at_last_error",
    "process_report",
    "query_event",
    "query_event_status",
    "query_event_wait_status",
    "record_event",
    "reset_device",
    "reset_event",
    "set_context",
    "set_device",
    "stream_wait_event",
    "subscribe_report",
    "synchronize_device",
    "synchronize_event",
    "synchronize_event_with_timeout",
    "synchronize_stream",
    "synchronize_stream_with_timeout",
    "unsubscribe_report",
]

_KINDS = range(8)
_FOREVER = -1


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"acl.rt.{name}: acl_sim does not simulate it")


# Devices


def _device(number: int) -> Device:
    devices = machine().devices
    if not 0 <= number < len(devices):
        raise Refused(RT_INVALID_DEVICEID, f"device {number}: this machine has {len(devices)}")
    if number in machine().lost:
        # Decision: a card that fell off the bus is one the runtime does not find.
        raise Refused(RT_INVALID_DEVICEID, f"device {number} is lost")
    return devices[number]


@api("acl.rt.set_device", "i")
def set_device(number: int) -> int:
    """Make the device's implicit context current on this thread; counted."""
    here = machine()
    device = _device(number)
    here.check_not_finalized()
    if device.context is None:
        device.context = here.new_context(number, implicit=True)
    device.set_count += 1
    here.clock.thread().context = device.context
    return 0


@api("acl.rt.reset_device", "i")
def reset_device(number: int) -> int:
    """Take back one set_device; the last one releases the implicit context."""
    device = _device(number)
    if device.set_count == 0 or device.context is None:
        raise Refused(RT_CONTEXT_RELEASE_ERROR, f"device {number} is not set")
    device.set_count -= 1
    if device.set_count == 0:
        _end_context(device.context)
        device.context = None
    return 0


@api("acl.rt.get_device", "", failed=PAIR)
def get_device() -> tuple[int, int]:
    """`(device, ret)` of this thread's context."""
    return machine().current_context(late=True).device, 0


@api("acl.rt.get_device_count", "", failed=PAIR)
def get_device_count() -> tuple[int, int]:
    """`(count, ret)`; needs no context."""
    return len(machine().devices), 0


@api("acl.rt.get_run_mode", "", failed=PAIR)
def get_run_mode() -> tuple[int, int]:
    """`(mode, ret)`: 0 on a board (device), 1 with a card (host)."""
    return int(machine().config.run_mode == "host"), 0


# Contexts


def _end_context(context: Context) -> None:
    """Streams die with their context: the runtime tears them down."""
    here = machine()
    for stream in [s for s in here.clock.streams if s.context is context and s is not context.default]:
        here.end_stream(stream)
    here.end_context(context)


@api("acl.rt.create_context", "i", failed=PAIR)
def create_context(number: int) -> tuple[int, int]:
    """`(context, ret)`; the new one is current on this thread."""
    here = machine()
    here.check_not_finalized()
    context = here.new_context(_device(number).number, implicit=False)
    here.clock.thread().context = context
    return context.handle, 0


@api("acl.rt.destroy_context", "k")
def destroy_context(handle: int) -> int:
    """End an explicit context; whichever thread has it is left without one."""
    here = machine()
    if handle == 0:
        raise null("the context")
    if here.handles.was("context", handle):
        raise Refused(RT_CONTEXT_NULL, f"context {handle:#x} is destroyed")
    context: Context = here.handles.get("context", handle, RT_CONTEXT_NULL)
    if context.implicit:
        raise Refused(RT_CONTEXT_NULL, "the implicit context belongs to set_device and reset_device")
    _end_context(context)
    return 0


@api("acl.rt.set_context", "k")
def set_context(handle: int) -> int:
    """Make a context current on this thread. Unlike elsewhere, an unknown handle has a code: 107000."""
    here = machine()
    if handle == 0:
        raise null("the context")
    context = here.handles.find("context", handle)
    if context is None:
        raise Refused(RT_PARAM_INVALID, f"context {handle:#x} is destroyed or unknown")
    here.clock.thread().context = context
    return 0


@api("acl.rt.get_context", "", failed=PAIR)
def get_context() -> tuple[int, int]:
    """`(context, ret)` of this thread."""
    return machine().current_context(late=True).handle, 0


# Streams


@api("acl.rt.create_stream", "", failed=PAIR)
def create_stream() -> tuple[int, int]:
    """`(stream, ret)` in the current context."""
    here = machine()
    return here.new_stream(here.current_context()).handle, 0


@api("acl.rt.create_stream_with_config", "ii", failed=PAIR)
def create_stream_with_config(_priority: int, _flag: int) -> tuple[int, int]:
    """`(stream, ret)`. Decision: priority and flag are accepted and change nothing."""
    here = machine()
    return here.new_stream(here.current_context()).handle, 0


@api("acl.rt.destroy_stream", "k")
def destroy_stream(handle: int) -> int:
    """End a stream, after the work on it."""
    here = machine()
    if handle == 0:
        raise null("the stream")
    stream = here.stream(handle, same_context=True, late=True)
    here.end_stream(stream)
    if stream.queue:
        here.violate("stream destroyed", f"{stream.queue[0].label} (queued at {stream.queue[0].site}) waits for a callback")
    if stream.subscription is not None:
        _leave_group(stream)
    return 0


def _wait(streams: list[Stream], deadline: float, expired: int) -> None:
    """Wait for all work on the streams, and answer with the first error of an earlier task."""
    clock = machine().clock
    if not clock.wait([s.last for s in streams if s.last is not None], deadline):
        raise Refused(expired, "not done in time")
    for stream in streams:
        error, stream.error = stream.error, 0
        if error:
            raise Refused(error, f"a task on stream {stream.handle:#x} has failed")


@api("acl.rt.synchronize_stream", "k", gil=False)
def synchronize_stream(handle: int) -> int:
    """Wait for a stream, also one of another context; 0 is the default stream."""
    # Decision: a wait that nothing can end is a violation; tolerant mode answers 507046 instead of hanging a test run.
    _wait([machine().stream(handle, late=True)], math.inf, RT_STREAM_SYNC_TIMEOUT)
    return 0


def _deadline(timeout_ms: int) -> float:
    return math.inf if timeout_ms == _FOREVER else machine().clock.thread().cursor + timeout_ms * 1e3


@api("acl.rt.synchronize_stream_with_timeout", "ki", gil=False)
def synchronize_stream_with_timeout(handle: int, timeout_ms: int) -> int:
    """Wait for a stream for so many milliseconds of device time; 507046 when they are over."""
    if timeout_ms == 0 or timeout_ms < _FOREVER:
        raise Refused(RT_PARAM_INVALID, f"timeout {timeout_ms}: expected more than 0, or -1")
    _wait([machine().stream(handle)], _deadline(timeout_ms), RT_STREAM_SYNC_TIMEOUT)
    return 0


@api("acl.rt.synchronize_device", "", gil=False)
def synchronize_device() -> int:
    """Wait for every stream of the current context's device."""
    here = machine()
    device = here.current_context(late=True).device
    _wait([s for s in here.clock.streams if s.context.device == device], math.inf, RT_STREAM_SYNC_TIMEOUT)
    return 0


# Memory


@api("acl.rt.malloc", "ki", failed=PAIR)
def malloc(size: int, _policy: int) -> tuple[int, int]:
    """`(address, ret)` of device memory, its content undefined. An unknown policy counts as the default."""
    here = machine()
    if size == 0:
        raise Refused(INVALID_PARAM, "malloc of 0 bytes")
    return here.memory.allocate_device(size, here.current_context().device), 0


@api("acl.rt.free", "k")
def free(address: int) -> int:
    """Free device memory; needs no context, waits for nothing.

    Decision: a double free, and an address that malloc never gave, answer 107000 in tolerant mode.
    """
    machine().memory.free_device(address)
    return 0


@api("acl.rt.malloc_host", "k", failed=PAIR)
def malloc_host(size: int) -> tuple[int, int]:
    """`(address, ret)` of page-locked host memory; needs a context."""
    here = machine()
    if size == 0:
        raise Refused(INVALID_PARAM, "malloc_host of 0 bytes")
    here.current_context()
    return here.memory.allocate_pinned(size), 0


@api("acl.rt.free_host", "k")
def free_host(address: int) -> int:
    """Free page-locked host memory; needs no context."""
    machine().memory.free_pinned(address)
    return 0


def _engine(dst: int, src: int) -> str:
    memory = machine().memory
    if machine().config.run_mode == "device":
        return "compute"  # one memory: every copy is on the device
    to_device, from_device = memory.is_device(dst), memory.is_device(src)
    if to_device:
        return "compute" if from_device else "copy_in"
    return "copy_out" if from_device else "none"


def _check_copy(dst: int, dest_max: int, src: int, count: int, kind: int) -> None:
    if dst == 0 or src == 0:
        raise null("dst" if dst == 0 else "src")
    if kind not in _KINDS:
        raise Refused(INVALID_PARAM, f"unknown memcpy kind {kind}")
    if count > dest_max:
        raise Refused(RT_PARAM_INVALID, f"{count} bytes do not fit into {dest_max}")


def _copy(dst: int, src: int, count: int, name: str) -> Callable[[], int]:
    """The copying itself, its addresses looked up when it runs."""
    memory = machine().memory

    def copy() -> int:
        source = memory.view(src, count, f"source of {name}")
        target = memory.view(dst, count, f"destination of {name}")
        size = min(len(source), len(target))
        target[:size] = source[:size]
        return 0

    return copy


@api("acl.rt.memcpy", "kkkki")
def memcpy(dst: int, dest_max: int, src: int, count: int, kind: int) -> int:
    """Copy now. The direction follows from the pointers; no stream is waited for."""
    if count == 0:
        return 0
    _check_copy(dst, dest_max, src, count, kind)
    if dst == src:
        return 0
    here = machine()
    here.current_context()
    here.check_not_in_flight(src, count, "source of memcpy")
    here.check_not_in_flight(dst, count, "destination of memcpy", writing=True)
    engine = _engine(dst, src)
    return here.run_blocking(engine, here.profile.copy_us(engine, count), _copy(dst, src, count, "memcpy"))


def _submit(
    stream: Stream, engine: str, cost: float, action: Callable[[], int], label: str, reads: Ranges, writes: Ranges
) -> Task:
    return machine().submit(stream, engine, cost, action, label, reads=reads, writes=writes)


@api("acl.rt.memcpy_async", "kkkkik")
def memcpy_async(dst: int, dest_max: int, src: int, count: int, kind: int, handle: int) -> int:
    """Queue a copy on a stream."""
    here = machine()
    if count == 0:
        return 0
    _check_copy(dst, dest_max, src, count, kind)
    stream = here.stream(handle)
    engine = _engine(dst, src)
    if engine == "none":
        raise Refused(RT_FEATURE_NOT_SUPPORT, "memcpy_async from host to host")
    _check_span(src, count, "source of memcpy_async")
    _check_span(dst, count, "destination of memcpy_async")
    task = _submit(
        stream, engine, here.profile.copy_us(engine, count), _copy(dst, src, count, "memcpy_async"), "memcpy_async",
        ((src, count),), ((dst, count),),
    )  # fmt: skip
    host = src if engine == "copy_in" else dst if engine == "copy_out" else 0
    if host and here.memory.find(host) is None:
        # The newer manual says such a copy is over when the call returns, the older one that it is unpredictable.
        # Decision: named in strict mode, the newer behaviour in tolerant mode.
        here.violate("pageable memory", f"memcpy_async with {PLAIN} {host:#x} that malloc_host did not give")
        here.clock.wait([task])
    return 0


def _check_span(address: int, count: int, what: str) -> None:
    """Report a bad address where it is given, not where the stream gets to it."""
    machine().memory.view(address, count, what)


def _check_memset(address: int, most: int, count: int) -> None:
    if address == 0:
        raise null("the pointer")
    if count > most:
        raise Refused(RT_PARAM_INVALID, f"{count} bytes do not fit into {most}")


def _fill(address: int, value: int, count: int, name: str) -> Callable[[], int]:
    memory = machine().memory

    def fill() -> int:
        target = memory.view(address, count, f"destination of {name}")
        target[:] = bytes([value & 0xFF]) * len(target)
        return 0

    return fill


@api("acl.rt.memset", "kkik")
def memset(address: int, most: int, value: int, count: int) -> int:
    """Fill now."""
    if count == 0:
        return 0
    _check_memset(address, most, count)
    here = machine()
    here.current_context()
    here.check_not_in_flight(address, count, "destination of memset", writing=True)
    return here.run_blocking("compute", here.profile.copy_us("compute", count), _fill(address, value, count, "memset"))


@api("acl.rt.memset_async", "kkikk")
def memset_async(address: int, most: int, value: int, count: int, handle: int) -> int:
    """Queue a fill on a stream."""
    if count == 0:
        return 0
    _check_memset(address, most, count)
    here = machine()
    stream = here.stream(handle)
    _check_span(address, count, "destination of memset_async")
    cost = here.profile.copy_us("compute", count)
    _submit(stream, "compute", cost, _fill(address, value, count, "memset_async"), "memset_async", (), ((address, count),))
    return 0


@api("acl.rt.get_mem_info", "i", failed=shape(0, 0))
def get_mem_info(attribute: int) -> tuple[int, int, int]:
    """`(free, total, ret)`; both 0 for memory that this chip does not have."""
    here = machine()
    device = here.current_context().device
    ddr = not here.config.soc_name.startswith("Ascend910")
    if attribute not in ((0, 2, 3) if ddr else (1, 4, 5)):
        return 0, 0, 0
    return here.config.memory_bytes - here.memory.used[device], here.config.memory_bytes, 0


@api("acl.rt.peek_at_last_error", "i")
def peek_at_last_error(level: int) -> int:
    """The last error code of this thread. Decision: every code counts, and a level other than 0 is 107000."""
    if level != 0:
        raise Refused(RT_PARAM_INVALID, f"level {level}: only 0, the thread, is known")
    return machine().clock.thread().last_error


@api("acl.rt.get_last_error", "i")
def get_last_error(level: int) -> int:
    """As `peek_at_last_error`, and forget it."""
    if level != 0:
        raise Refused(RT_PARAM_INVALID, f"level {level}: only 0, the thread, is known")
    thread = machine().clock.thread()
    code, thread.last_error = thread.last_error, 0
    return code


# Events


@dataclass(eq=False, slots=True)
class _Event:
    """The last record and the last wait queued with it; None before the first, and after reset_event."""

    flag: int
    record: Task | None = None
    wait: Task | None = None


def _new_event(flag: int) -> tuple[int, int]:
    here = machine()
    here.current_context()
    return here.handles.new("event", _Event(flag)), 0


def _event(handle: int) -> _Event:
    if handle == 0:
        raise null("the event")
    event: _Event = machine().handles.get("event", handle, RT_INVALID_HANDLE)
    return event


@api("acl.rt.create_event", "", failed=PAIR)
def create_event() -> tuple[int, int]:
    """`(event, ret)`."""
    return _new_event(0)


@api("acl.rt.create_event_with_flag", "I", failed=PAIR)
def create_event_with_flag(flag: int) -> tuple[int, int]:
    """`(event, ret)`. Decision: the flag is kept, not judged; every event keeps time."""
    return _new_event(flag)


@api("acl.rt.create_event_ex_with_flag", "I", failed=PAIR)
def create_event_ex_with_flag(flag: int) -> tuple[int, int]:
    """`(event, ret)`; as `create_event_with_flag`."""
    return _new_event(flag)


@api("acl.rt.destroy_event", "k")
def destroy_event(handle: int) -> int:
    """End an event."""
    _event(handle)
    machine().handles.drop("event", handle)
    return 0


@api("acl.rt.record_event", "kk")
def record_event(handle: int, stream: int) -> int:
    """Event first: the event is complete when the stream gets here."""
    event = _event(handle)
    event.record = machine().submit(machine().stream(stream, same_context=True), "none", 0.0, None, "record_event")
    return 0


@api("acl.rt.reset_event", "kk")
def reset_event(handle: int, stream: int) -> int:
    """Forget the record. Decision: at once, not in stream order; the usual place is after a wait on the same stream."""
    event = _event(handle)
    machine().stream(stream, same_context=True)
    event.record = event.wait = None
    return 0


@api("acl.rt.stream_wait_event", "kk", gil=False)
def stream_wait_event(stream: int, handle: int) -> int:
    """Stream first: later work on the stream waits for the event's last record.

    Decision: an event never recorded holds nothing up.
    """
    target = machine().stream(stream)
    event = _event(handle)
    event.wait = machine().submit(target, "none", 0.0, None, "stream_wait_event", after=event.record)
    return 0


def _complete(task: Task | None) -> bool:
    """True if virtual time, as this thread sees it, has passed the task."""
    if task is None:
        return False
    clock = machine().clock
    thread = clock.thread()
    clock.advance(thread.cursor)
    if task.done and (task.end or 0.0) <= thread.cursor:
        clock.mark_synced(task)
        return True
    return False


@api("acl.rt.query_event", "k", failed=PAIR)
def query_event(handle: int) -> tuple[int, int]:
    """`(status, ret)`: 0 complete, 1 not ready."""
    return int(not _complete(_event(handle).record)), 0


@api("acl.rt.query_event_status", "k", failed=PAIR)
def query_event_status(handle: int) -> tuple[int, int]:
    """`(status, ret)`: 1 complete, 0 not ready. The other two say it the other way round."""
    return int(_complete(_event(handle).record)), 0


@api("acl.rt.query_event_wait_status", "k", failed=PAIR)
def query_event_wait_status(handle: int) -> tuple[int, int]:
    """`(status, ret)` of the stream_wait_event: 0 complete, 1 not ready. Decision: complete if nothing waits."""
    event = _event(handle)
    return int(event.wait is not None and not _complete(event.wait)), 0


def _wait_event(handle: int, deadline: float) -> int:
    machine().current_context()
    event = _event(handle)
    # Decision: nothing to wait for before the first record.
    if event.record is not None and not machine().clock.wait([event.record], deadline):
        raise Refused(RT_EVENT_SYNC_TIMEOUT, "not done in time")
    return 0


@api("acl.rt.synchronize_event", "k", gil=False)
def synchronize_event(handle: int) -> int:
    """Wait for the last record."""
    return _wait_event(handle, math.inf)


@api("acl.rt.synchronize_event_with_timeout", "ki", gil=False)
def synchronize_event_with_timeout(handle: int, timeout_ms: int) -> int:
    """Wait for the last record for so many milliseconds of device time; 507047 when they are over."""
    if timeout_ms == 0 or timeout_ms < _FOREVER:
        raise Refused(RT_PARAM_INVALID, f"timeout {timeout_ms}: expected more than 0, or -1")
    return _wait_event(handle, _deadline(timeout_ms))


@api("acl.rt.event_elapsed_time", "kk", failed=shape(0.0))
def event_elapsed_time(start: int, end: int) -> tuple[float, int]:
    """`(milliseconds of device time, ret)`; 107006 unless both are complete."""
    first, last = _event(start).record, _event(end).record
    if not _complete(first) or not _complete(last):
        raise Refused(RT_EVENT_TIMESTAMP_INVALID, "an event is not recorded, or not complete")
    assert first is not None
    assert last is not None
    return ((last.end or 0.0) - (first.end or 0.0)) / 1e3, 0


# Reports


@api("acl.rt.subscribe_report", "Kk")
def subscribe_report(ident: int, handle: int) -> int:
    """The thread with this id will run the stream's callbacks."""
    here = machine()
    stream = here.stream(handle)
    if stream.subscription is not None:
        raise Refused(RT_STREAM_SUBSCRIBE, f"the stream is subscribed to thread {stream.subscription.ident}")
    group = here.reports.get(ident)
    if group is not None and group.device != stream.context.device:
        raise Refused(RT_THREAD_SUBSCRIBE, f"thread {ident} works for device {group.device}")
    if group is None:
        if len(here.reports) >= MOST_GROUPS:
            raise Refused(RT_INTERNAL_ERROR, f"{MOST_GROUPS} threads are subscribed, no more fit")
        group = here.reports[ident] = Group(ident, stream.context.device)
    group.streams += 1
    stream.subscription = group
    return 0


def _leave_group(stream: Stream) -> None:
    group: Group = stream.subscription
    stream.subscription = None
    group.streams -= 1
    if group.streams == 0:
        machine().reports.pop(group.ident, None)


@api("acl.rt.unsubscribe_report", "Kk")
def unsubscribe_report(ident: int, handle: int) -> int:
    """Take back a subscription. Callbacks not yet run are lost: strict mode names that."""
    here = machine()
    stream = here.stream(handle, late=True)
    if stream.subscription is None:
        raise Refused(RT_STREAM_SUBSCRIBE, "the stream is not subscribed")
    if stream.subscription.ident != ident:
        raise Refused(RT_THREAD_SUBSCRIBE, f"the stream is subscribed to thread {stream.subscription.ident}")
    waiting = [r for r in stream.subscription.pending if r.task.stream is stream]
    if waiting or any(task.report is not None for task in stream.queue):
        here.violate("callbacks lost", f"unsubscribe_report of stream {stream.handle:#x} with callbacks that have not run")
    _leave_group(stream)
    return 0


@api("acl.rt.launch_callback", "OOik")
def launch_callback(function: Any, user_data: Any, block_type: int, handle: int) -> int:
    """Queue `function(user_data)` for the subscribed thread; block_type 1 holds the stream until it has returned."""
    if not callable(function):
        raise TypeError("acl.rt.launch_callback: parameter must be callable")
    if block_type not in (0, 1):
        raise Refused(INVALID_PARAM, f"block type {block_type}: expected 0 or 1")
    here = machine()
    stream = here.stream(handle, same_context=True)
    if stream.subscription is None:
        raise Refused(RT_STREAM_NO_CB_REG, "no thread is subscribed to the stream")
    report = Report(stream.subscription, function, user_data, bool(block_type))
    report.task = here.submit(stream, "none", 0.0, None, "launch_callback", report=report)
    return 0


@api("acl.rt.process_report", "i", gil=False, locked=False)
def process_report(timeout_ms: int) -> int:
    """Run all callbacks that wait for this thread, after waiting for the first one.

    Raises:
        SystemError: a callback raised; the rest ran, its stream goes on. The exception is the cause.
    """
    here = machine()
    if timeout_ms == 0 or timeout_ms < _FOREVER:
        raise Refused(INVALID_PARAM, f"timeout {timeout_ms}: expected more than 0, or -1")
    with here.lock:
        thread = here.clock.thread()
        group = here.reports.get(thread.ident)
        if group is None:
            # Clients spin on this between start_thread and subscribe_report: no virtual time passes, or how often
            # they get round in real time would show in the results.
            thread.cursor -= here.profile.host_call_us
            thread.state = "idle"
            raise Refused(RT_THREAD_SUBSCRIBE, "this thread is not subscribed")
        timeout_us = math.inf if timeout_ms == _FOREVER else timeout_ms * 1e3
        if not here.clock.wait_report(thread, lambda: group.pending[0].at if group.pending else None, timeout_us):
            raise Refused(RT_REPORT_TIMEOUT, f"nothing to do in {timeout_ms} ms")
        reports = list(group.pending)
        group.pending.clear()
        group.running += 1
    failure: Exception | None = None
    fatal: BaseException | None = None
    for report in reports:
        with here.lock:
            thread.cursor = max(thread.cursor, report.at)
            here.clock.keep_pace(thread, holds_gil=False)
            here.clock.mark_synced(report.task)
        try:
            report.function(report.user_data)
        except Exception as error:
            failure = failure or error
        except BaseException as error:  # a Violation, or Ctrl-C: not the client's to handle
            fatal = fatal or error
        with here.lock:
            here.clock.catch_up(thread)
            here.clock.may_be_woken(thread.cursor)
            here.clock.finish_callback(report.task, thread.cursor)
    with here.lock:
        group.running -= 1
    if fatal is not None:
        raise fatal
    if failure is not None:
        raise SystemError("<built-in function process_report> returned a result with an exception set") from failure
    return 0
