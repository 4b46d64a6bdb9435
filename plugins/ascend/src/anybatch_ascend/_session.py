"""A model on an Ascend device, executed through streams so that Python goes on while the device works.

A **slot** is a stream with one input and one output dataset, sized for the largest gear, and page-locked host memory for what
goes in and out. All of it is allocated when the session opens. Each launch takes a slot and queues on its stream:

    copies of the real rows in, zeros over what an earlier launch left behind them
    [under the session's lock]  the gear, a wait for the launch before it, the execution
    copies of the real rows out

and waits for its stream, or for the report thread (`_reports`), with Python's global lock released. So copies of one launch
overlap with the execution of another, while executions keep their order: a model has one work memory, and the runtime
remembers one gear per model, so setting the gear and queueing the execution are one step.

Source: Huawei, AscendCL application development (model execution, dynamic batch, asynchronous inference).
"""

from __future__ import annotations

import heapq
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

import anybatch
from anybatch_ascend._acl import DEVICE_TO_HOST, EVENT_SYNC, HOST_TO_DEVICE, HUGE_FIRST, LOG, Acl, Releases, end_at_exit
from anybatch_ascend._aipp import AippParameters, find_dynamic_aipp
from anybatch_ascend._model import Load, LoadedModel, Port, free_dims, gear_of_dims, host_bytes, load_model
from anybatch_ascend._reports import Reports
from anybatch_ascend.status import AclDeviceError, AclError


class SetGear(NamedTuple):
    """What sets a gear: the runtime's function by name, and a call of it with (input dataset, gear) that returns its status."""

    name: str
    call: Callable[[int, int], int]


_ALIGNMENT: Final = 64  # of addresses in asynchronous copies, as the vendor wants it
_SLOTS: Final = 6
_CALLBACK_EVERY: Final = 1
_EVENTS: Final = "rt.create_event_ex_with_flag"
_EXIT_WAIT_S: Final = 1.0

_contexts: set[int] = set()  # of the sessions that are open


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a model is run.

    Attributes:
        load: the vendor's way to load it, see `_model.LOADS`.
        slots: how many launches may be in flight.
        callback_every: launches per callback of the report thread; 0: no such thread, every launch waits for its own stream.
        acl_config: a file for ``acl.init``.
        aipp: what dynamic AIPP does to images; None: the model has none.
        precision: what the model was compiled to compute floats in; empty where nobody knows, as of an ``.om`` that came so.
        batch_axis, rows_per_row: by tensor name, where the model does not tell.
    """

    load: Load = "file"
    slots: int = _SLOTS
    callback_every: int = _CALLBACK_EVERY
    acl_config: str | None = None
    aipp: AippParameters | None = None
    precision: str = ""
    batch_axis: Mapping[str, int | None] | None = None
    rows_per_row: Mapping[str, int] | None = None


class _Tensor:
    """One input or output in one slot.

    Attributes:
        name: as in the model.
        batched: whether it has rows.
        leads: whether rows lie one behind the other, or are none: then real rows alone are copied, else whole gears.
        row_bytes: of one row of a request; of the whole tensor where it has no rows.
        device: address on the device.
        host: address of page-locked memory.
        size: bytes of both.
        dirty: of an input, how many leading bytes may be other than zero on the device.
    """

    __slots__ = ("_flat", "_spec", "_views", "batched", "device", "dirty", "host", "leads", "name", "row_bytes", "size")

    def __init__(self, spec: anybatch.TensorSpec, device: int, host: int, size: int) -> None:
        self._spec = spec
        self.name = spec.name
        self.batched = spec.batch_axis is not None
        self.leads = not spec.batch_axis
        self.row_bytes = _bytes(spec, 1)
        self.device, self.host, self.size = device, host, size
        self.dirty = 0
        self._flat = host_bytes(host, size)
        self._views: dict[int, anybatch.Array] = {}

    def bytes(self, rows: int) -> int:
        """Return the bytes of that many rows, or of the tensor where it has none."""
        return self.row_bytes * rows if self.batched else self.row_bytes

    def view(self, rows: int) -> anybatch.Array:
        """Return page-locked memory, shaped as in a launch of that many rows."""
        view = self._views.get(rows)
        if view is None:
            shape = [size or 0 for size in self._spec.shape_for(rows)]
            view = self._views[rows] = self._flat[: self.bytes(rows)].view(self._spec.dtype).reshape(shape)
        return view

    def rows_of(self, array: anybatch.Array, start: int, stop: int) -> anybatch.Array:
        """Return a view on some rows of an array of this tensor, which has rows."""
        return self._spec.rows_of(array, start, stop)


class _Slot:
    """Everything one launch needs; see the module.

    Attributes:
        number: its place among the slots.
        stream: its own.
        computed: an event behind its execution, for the next launch to wait for; 0 for an only slot, which needs none.
        landed_event: an event behind all its work, for the report thread's callback; 0 without such a thread.
        landed: where the report thread says that the results are there.
        input_set, output_set: datasets.
        addresses: device memory of the data inputs, then of the outputs.
        size_bytes: of all its device memory.
    """

    __slots__ = (
        *("addresses", "computed", "input_set", "inputs", "landed", "landed_event", "number", "output_set", "outputs"),
        *("size_bytes", "stream"),
    )

    def __init__(
        self, acl: Acl, releases: Releases, model: LoadedModel, number: int, *, alone: bool, with_reports: bool
    ) -> None:
        self.number = number
        self.stream = acl.call("rt.create_stream")
        releases.add("rt.destroy_stream", self.stream)
        self.computed = 0 if alone else _new_event(acl, releases)
        self.landed_event = _new_event(acl, releases) if with_reports else 0
        self.landed: SimpleQueue[None] = SimpleQueue()
        self.addresses: list[int] = []
        sizes = (*(size for size, _ in model.input_sizes), *(port.size_bytes for port in model.outputs))
        self.size_bytes = sum(max(size, 1) for size in sizes)
        self.input_set = acl.make("mdl.create_dataset")
        releases.add("mdl.destroy_dataset", self.input_set)
        for size, is_data in model.input_sizes:
            address = _add_buffer(acl, releases, self.input_set, size)
            if is_data:
                # Rows that no launch has written are padding, and padding is zero.
                acl.call("rt.memset", address, size, 0, size)
                self.addresses.append(address)
        self.output_set = acl.make("mdl.create_dataset")
        releases.add("mdl.destroy_dataset", self.output_set)
        self.addresses += [_add_buffer(acl, releases, self.output_set, port.size_bytes) for port in model.outputs]
        self.inputs: list[_Tensor] = []
        self.outputs: list[_Tensor] = []

    def attach(self, acl: Acl, releases: Releases, model: LoadedModel, spec: anybatch.ModelSpec) -> None:
        """Give it page-locked memory, in one block, now that it is known what rows are."""
        ports = (*model.inputs, *model.outputs)
        sizes = [-(-port.size_bytes // _ALIGNMENT) * _ALIGNMENT for port in ports]
        block = acl.call("rt.malloc_host", sum(sizes) + _ALIGNMENT)
        releases.add("rt.free_host", block)
        place = -(-block // _ALIGNMENT) * _ALIGNMENT
        tensors = []
        for tensor, port, address, size in zip((*spec.inputs, *spec.outputs), ports, self.addresses, sizes, strict=True):
            tensors.append(_Tensor(tensor, address, place, port.size_bytes))
            place += size
        self.inputs, self.outputs = tensors[: len(spec.inputs)], tensors[len(spec.inputs) :]


class _IdleSlots:
    """Slots that no launch has. The first of them is taken, so that which one a launch gets does not depend on the order in
    which those before it ended: what it has to zero there does.
    """

    def __init__(self, slots: list[_Slot]) -> None:
        self._slots = slots
        self._numbers = list(range(len(slots)))  # a heap
        self._lock = threading.Lock()
        self._there: SimpleQueue[None] = SimpleQueue()  # an item for each
        for _ in slots:
            self._there.put(None)

    def get(self, timeout: float | None = None) -> _Slot:
        """Take the first one, once there is one.

        Raises:
            Empty: there was none for that many seconds.
        """
        self._there.get(timeout=timeout)
        with self._lock:
            return self._slots[heapq.heappop(self._numbers)]

    def put(self, slot: _Slot) -> None:
        """Give one back."""
        with self._lock:
            heapq.heappush(self._numbers, slot.number)
        self._there.put(None)


def open_session(acl: Acl, model: Path | bytes, *, device: int, options: SessionOptions) -> AscendSession:
    """Open a compiled model on a device.

    Raises:
        InputError, ModelError, BackendUnavailableError, DeviceError: see `anybatch.Backend.open`. Nothing stays allocated.
    """
    acl.initialize(options.acl_config)
    count = acl.call("rt.get_device_count")
    if device >= count:
        raise anybatch.InputError(f"{acl.backend}: expected a device from 0 to {count - 1}, got {device}")
    releases = Releases(acl)
    reports = None
    with acl.own_context():
        context = acl.call("rt.create_context", device)
        releases.add("rt.destroy_context", context)
        _contexts.add(context)
        try:
            loaded = load_model(acl, releases, model, options.load)
            loaded, aipp = find_dynamic_aipp(acl, loaded, options.aipp)
            count = _slots(acl, options)
            with_reports = options.callback_every > 0 and count > 1
            slots = [
                _Slot(acl, releases, loaded, number, alone=count == 1, with_reports=with_reports) for number in range(count)
            ]
            if aipp is not None:
                aipp.set_on(acl, loaded.model_id, [slot.input_set for slot in slots])
            spec, sizes, set_gear = _read_spec(acl, loaded, slots[0].input_set, options)
            for slot in slots:
                slot.attach(acl, releases, loaded, spec)
            if with_reports:
                reports = Reports(acl, context, [slot.stream for slot in slots], options.callback_every)
            session = AscendSession(acl, releases, context, loaded.model_id, spec, sizes, set_gear, slots, reports)
            session.precision = options.precision
            if loaded.memory_bytes is not None:
                session.memory_bytes = loaded.memory_bytes + sum(slot.size_bytes for slot in slots)
            return session
        except BaseException as error:
            failed = reports.close() if reports is not None else None
            _contexts.discard(context)
            failed = releases.run() or failed
            if failed is not None:
                raise failed from error
            raise


class AscendSession:
    """One compiled model on one device; takes as many threads at once as it has slots. Made by `open_session`.

    Args:
        acl: initialized.
        releases: what to give back at the end.
        context: in which everything lives.
        model_id: of the runtime.
        spec: of the model.
        sizes: its gears.
        set_gear: sets one on an input dataset; None for a model of one size.
        slots: at least one.
        reports: None: every launch waits for its own stream.

    Attributes:
        precision, memory_bytes: see `anybatch.Session`; the memory is that of weights and work, and of all slots' buffers.
    """

    precision = ""
    memory_bytes: int | None = None

    def __init__(
        self,
        acl: Acl,
        releases: Releases,
        context: int,
        model_id: int,
        spec: anybatch.ModelSpec,
        sizes: tuple[int, ...],
        set_gear: SetGear | None,
        slots: list[_Slot],
        reports: Reports | None,
    ) -> None:
        self.spec = spec
        self.batching = anybatch.Gears(sizes, pads=True)
        self.concurrency = len(slots)
        self._acl = acl
        self._releases = releases
        self._context = context
        self._model_id = model_id
        self._set_gear = set_gear
        self._reports = reports
        self._slots = slots
        self._idle = _IdleSlots(slots)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._last_computed = 0  # the event behind the execution that was queued last
        self._open = True
        self._broken: AclError | None = None
        self._rows = next(tensor for tensor in spec.inputs if tensor.batch_axis is not None)
        # Looked up once: every launch calls them.
        self._get_context = acl.function("rt.get_context")
        self._set_context = acl.function("rt.set_context")
        self._memcpy_async = acl.function("rt.memcpy_async")
        self._memset_async = acl.function("rt.memset_async")
        self._wait_event = acl.function("rt.stream_wait_event")
        self._record_event = acl.function("rt.record_event")
        self._execute_async = acl.function("mdl.execute_async")
        self._synchronize = acl.function("rt.synchronize_stream")
        end_at_exit(self)

    def execute(
        self, inputs: Mapping[str, anybatch.Array], gear: int, out: Mapping[str, anybatch.Array] | None = None
    ) -> dict[str, anybatch.Array]:
        """Execute once; see `anybatch.Session.execute`. After an AclError the slot is drained and usable again, or the session
        is broken: then it raises DeviceError from now on, and can be closed.
        """
        if self._pid != os.getpid():
            raise anybatch.InputError(
                f"{self._acl.backend}: expected a call in the process that opened this session ({self._pid}), got one in its "
                f"child {os.getpid()}: CANN does not survive a fork; open the model in the child, started by 'spawn'"
            )
        slot = self._idle.get()
        try:
            if not self._open:
                raise anybatch.ClosedError(f"{self._acl.backend}: execute() after close()")
            if self._broken is not None:
                raise self._still_broken()
            rows = self._stage(slot, inputs, gear)
            before, code = self._get_context()
            if code:
                before = self._acl.current_context()  # says what is wrong, where it is more than that there is none
            if before != self._context:
                code = self._set_context(self._context)
                if code:
                    raise self._acl.failure("rt.set_context", code)
            try:
                self._launch(slot, rows, gear)
            finally:
                if before and before not in _contexts:  # a caller's; that of another session is nothing to the caller
                    self._acl.restore(before)
            return self._collect(slot, rows, gear, out)
        finally:
            self._idle.put(slot)

    def close(self) -> None:
        """Free everything; twice is fine.

        Raises:
            AclError: the runtime failed to give something back, on a second try either; all the rest is given back. Not
                raised for a session that is broken: who uses it knows.
        """
        if not self._open:
            return
        self._open = False
        if self._pid != os.getpid():
            return  # forked: all of it belongs to the parent
        acl = self._acl
        failed: AclError | None = None
        before = 0
        for _ in range(2):  # as everything that is given back: once more where it fails
            try:
                before = acl.current_context()
            except AclError as error:
                failed = error
            else:
                failed = None
                break
        failed = acl.give_back("rt.set_context", self._context) or failed
        if self._reports is not None:
            failed = self._reports.close() or failed
        if self._broken is not None and any([self._drain(slot) for slot in self._slots]):  # noqa: C419 - all
            # The device may still read and write these buffers, and nobody can tell when it is done: freed, they could be
            # somebody else's by then. With the context goes all that is queued.
            LOG.warning("%s: the memory of a broken session is left to the driver until the process ends", acl.backend)
            self._releases.leave_all_but_the_first()
        _contexts.discard(self._context)
        failed = self._releases.run() or failed
        if before and before != self._context:
            try:
                acl.restore(before)
            except AclError as error:
                failed = failed or error
        if failed is not None and self._broken is None:
            raise failed

    def close_at_exit(self) -> bool:
        """Close before acl is finalized; return False, with nothing freed, if a thread does not get done with its launch."""
        if not self._open:
            return True
        deadline = time.monotonic() + _EXIT_WAIT_S
        taken: list[_Slot] = []
        try:
            while len(taken) < len(self._slots):
                slot = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
                taken.append(slot)
            self.close()
        except Empty:
            return False
        except AclError as error:
            LOG.warning("%s", error)
        finally:
            for slot in taken:  # who comes too late is told that it is closed
                self._idle.put(slot)
        return True

    def _stage(self, slot: _Slot, inputs: Mapping[str, anybatch.Array], gear: int) -> int:
        """Copy a launch's rows to page-locked memory; return how many they are."""
        rows = inputs[self._rows.name].shape[self._rows.batch_axis or 0] // self._rows.rows_per_row
        if not 1 <= rows <= gear or gear not in self.batching.sizes:
            anybatch.check_launch(self.spec, self.batching, inputs, gear)
        for tensor in slot.inputs:
            array = inputs[tensor.name]
            if tensor.leads:
                view = tensor.view(rows)
            else:  # rows are not in one piece: the whole gear goes over, its padding as well
                whole = tensor.view(gear)
                view = tensor.rows_of(whole, 0, rows)
                tensor.rows_of(whole, rows, gear)[...] = 0
            if array.shape != view.shape:  # NumPy would spread one row over all of them without a word
                anybatch.check_launch(self.spec, self.batching, inputs, gear)
            view[...] = array
        return int(rows)

    def _launch(self, slot: _Slot, rows: int, gear: int) -> None:
        """Queue everything, and wait for it."""
        reports = self._reports
        try:
            if reports is not None:
                reports.begin(slot)
            self._queue(slot, rows, gear)
            if reports is not None and reports.queued(slot):
                reports.wait(slot)
            code = self._synchronize(slot.stream)
            if code:
                raise self._acl.failure("rt.synchronize_stream", code)
        except BaseException as error:
            if reports is not None:
                reports.end(slot)  # before it is drained: others may wait for its company
            self._recover(slot, error)
            raise
        finally:
            if reports is not None:
                reports.end(slot)

    def _queue(self, slot: _Slot, rows: int, gear: int) -> None:
        stream = slot.stream
        for tensor in slot.inputs:
            size = tensor.bytes(rows if tensor.leads else gear)
            dirty = tensor.dirty
            code = self._memcpy_async(tensor.device, tensor.size, tensor.host, size, HOST_TO_DEVICE, stream)
            if code:
                raise self._acl.failure("rt.memcpy_async", code)
            # Behind the real rows the gear may read what an earlier launch left; behind the gear nothing is read.
            stop = dirty
            if dirty > size:
                stop = min(dirty, tensor.bytes(gear))
                if stop > size:
                    code = self._memset_async(tensor.device + size, tensor.size - size, 0, stop - size, stream)
                    if code:
                        raise self._acl.failure("rt.memset_async", code)
            tensor.dirty = dirty if dirty > stop else size
        with self._lock:
            if self._set_gear is not None:
                code = self._set_gear.call(slot.input_set, gear)
                if code:
                    raise self._acl.failure(self._set_gear.name, code)
            if self._last_computed and self._last_computed != slot.computed:
                code = self._wait_event(stream, self._last_computed)
                if code:
                    raise self._acl.failure("rt.stream_wait_event", code)
            try:
                code = self._execute_async(self._model_id, slot.input_set, slot.output_set, stream)
                if code:
                    raise self._acl.failure("mdl.execute_async", code)
                if slot.computed:
                    code = self._record_event(slot.computed, stream)
                    if code:
                        raise self._acl.failure("rt.record_event", code)
                    self._last_computed = slot.computed
            except BaseException:  # the next launch could not wait for this one, so this one must be over first
                self._synchronize(stream)
                raise
        for tensor in slot.outputs:
            size = tensor.bytes(rows if tensor.leads else gear)
            code = self._memcpy_async(tensor.host, tensor.size, tensor.device, size, DEVICE_TO_HOST, stream)
            if code:
                raise self._acl.failure("rt.memcpy_async", code)

    def _collect(
        self, slot: _Slot, rows: int, gear: int, out: Mapping[str, anybatch.Array] | None
    ) -> dict[str, anybatch.Array]:
        """Copy the results out of page-locked memory."""
        results = {}
        for tensor in slot.outputs:
            view = tensor.view(rows) if tensor.leads else tensor.rows_of(tensor.view(gear), 0, rows)
            place = out.get(tensor.name) if out else None
            if place is None:
                results[tensor.name] = view.copy()
            else:
                place[...] = view
                results[tensor.name] = place
        return results

    def _recover(self, slot: _Slot, error: BaseException) -> None:
        """Drain the stream of a launch that failed, so that its slot can be used again; else the session is broken."""
        for tensor in slot.inputs:  # some of it may be queued, so nothing is known to be clean
            tensor.dirty = tensor.size
        code = self._drain(slot)
        if code:
            self._broken = self._acl.failure("rt.synchronize_stream", code)
            self._broken.__cause__ = error

    def _drain(self, slot: _Slot) -> int:
        """Wait for a slot's stream; return 0 if nothing is queued there any more, else why that is not known."""
        # The first answer may be the failure of an earlier task, told once more.
        code: int = self._synchronize(slot.stream) and self._synchronize(slot.stream)
        return code

    def _still_broken(self) -> AclDeviceError:
        assert self._broken is not None
        error = AclDeviceError(
            f"the session is broken since an earlier launch failed ({self._broken}): close it, and open it again",
            backend=self._acl.backend,
            operation=self._broken.function,
            status=self._broken.code,
        )
        error.function, error.code, error.code_name = self._broken.function, self._broken.code, self._broken.code_name
        error.detail = self._broken.detail
        return error


def _slots(acl: Acl, options: SessionOptions) -> int:
    """Return how many slots there can be: with several, events keep executions in order, and older CANN has only events that
    must be reset between two records, which could not be done in time for all.
    """
    if options.slots > 1 and not acl.has(_EVENTS):
        LOG.warning(
            "%s: this pyACL has no acl.%s, so one launch runs at a time; a newer CANN runs several", acl.backend, _EVENTS
        )
        return 1
    return options.slots


def _new_event(acl: Acl, releases: Releases) -> int:
    """Return an event that can be recorded again and again without a reset."""
    event: int = acl.call(_EVENTS, EVENT_SYNC)
    releases.add("rt.destroy_event", event)
    return event


def _add_buffer(acl: Acl, releases: Releases, dataset: int, size: int) -> int:
    """Put a buffer of device memory at the end of a dataset; return its address."""
    address: int = acl.call("rt.malloc", max(size, 1), HUGE_FIRST)
    releases.add("rt.free", address)
    buffer = acl.make("create_data_buffer", address, size)
    releases.add("destroy_data_buffer", buffer)
    acl.call("mdl.add_dataset_buffer", dataset, buffer)
    return address


def _read_spec(
    acl: Acl, model: LoadedModel, dataset: int, options: SessionOptions
) -> tuple[anybatch.ModelSpec, tuple[int, ...], SetGear | None]:
    """Return a model's spec, its gears, and what sets them on a dataset (None where there is nothing to set)."""
    factors = options.rows_per_row or {}
    sizes, set_gear = _gears(acl, model, options)
    spec, fixed = anybatch.find_model_spec(
        [_declared(port, free_dims(port.dims, factors.get(port.name, 1))) for port in model.inputs],
        _declared_outputs(acl, model, dataset, sizes, set_gear),
        batch_axis=options.batch_axis,
        rows_per_row=options.rows_per_row,
    )
    if set_gear is None:
        assert fixed is not None, "a model without gears has no free dimensions: load_model saw to that"
        sizes = (fixed,)
    for tensor, port in zip((*spec.inputs, *spec.outputs), (*model.inputs, *model.outputs), strict=True):
        needed = _bytes(tensor, max(sizes))
        if port.size_bytes < needed:
            raise anybatch.ModelError(
                f"{tensor.name!r}: expected {needed} bytes for {max(sizes)} rows of {tensor}, but the model says "
                f"{port.size_bytes}; if its rows are not on the first axis, say where with batch_axis={{{tensor.name!r}: ...}}"
            )
    return spec, sizes, set_gear


def _gears(acl: Acl, model: LoadedModel, options: SessionOptions) -> tuple[tuple[int, ...], SetGear | None]:
    model_id, index = model.model_id, model.gear_input
    if index is None:
        return (), None
    if model.batch_gears:
        name = "mdl.set_dynamic_batch_size"
        set_batch = acl.function(name)
        return model.batch_gears, SetGear(name, lambda dataset, gear: set_batch(model_id, dataset, index, gear))
    by_rows = gear_of_dims(model, options.rows_per_row or {}, options.batch_axis or {})
    name = "mdl.set_input_dynamic_dims"
    set_dims = acl.function(name)
    return tuple(by_rows), SetGear(name, lambda dataset, gear: set_dims(model_id, dataset, index, by_rows[gear]))


def _declared_outputs(
    acl: Acl, model: LoadedModel, dataset: int, sizes: tuple[int, ...], set_gear: SetGear | None
) -> list[anybatch.DeclaredTensor]:
    """Find the rows of the outputs: the runtime says their dims at each gear, so two gears tell which axis moves."""
    if set_gear is None:
        return [_declared(port, port.dims) for port in model.outputs]
    low, high = min(sizes), max(sizes)
    dims: dict[int, list[list[int]]] = {}
    for gear in (low, high):
        code = set_gear.call(dataset, gear)
        if code:
            raise acl.error(set_gear.name, code)
        dims[gear] = [acl.call("mdl.get_cur_output_dims", model.desc, port.index)["dims"] for port in model.outputs]
    declared = []
    for port, at_low, at_high in zip(model.outputs, dims[low], dims[high], strict=True):
        moved = [axis for axis, (a, b) in enumerate(zip(at_low, at_high, strict=True)) if a != b]
        if any(at_low[axis] * high != at_high[axis] * low or at_low[axis] % low for axis in moved) or len(moved) > 1:
            raise anybatch.ModelError(
                f"output {port.name!r} is {at_low} with {low} rows and {at_high} with {high}: expected one axis to grow with "
                "the rows, in proportion"
            )
        shape = [-1 if axis in moved else size for axis, size in enumerate(at_low)]
        declared.append(_declared(port, free_dims(shape, at_low[moved[0]] // low if moved else 1)))
    return declared


def _declared(port: Port, dims: tuple[int | str, ...]) -> anybatch.DeclaredTensor:
    return anybatch.DeclaredTensor(port.name, port.dtype, dims)


def _bytes(spec: anybatch.TensorSpec, rows: int) -> int:
    return spec.dtype.itemsize * math.prod(size or 0 for size in spec.shape_for(rows))
