"""Dynamic batching: requests of any number of rows in, runs of exactly one compiled batch out.

A `Feed` is what one loaded runner has between its callers and the device: a queue of requests, in order of arrival, from
which the device takes one compiled batch at a time.

    queued -> (taken row by row into batches) -> loaded -> computed -> stored -> done
    queued, loaded or computed -> failed, when the device fails

A batch is full when enough rows have come; then it runs at once, and no timeout plays any part. Else the device waits, from
the moment on at which it could run and some row is there, for `timeout_ns`; whoever comes in that time is taken along; then
zeros fill the gap. A request may straddle runs, and a run may hold parts of several requests.

With overlapped I/O the device works in cycles of three stages at a time: it loads a batch while it computes the one before and
stores the one before that. So a result is stored only while two later batches load, or dummies after timeouts, except that the
last two batches of a step (of `batches_per_step`) need no later ones: the pipeline empties at its end.

Decisions, where PopRT is silent:

* A request that arrives at the very moment at which a timeout ends is taken along.
* Results go back after their own run, not after a whole step of `batches_per_step`; an idle device stays where it is in its
  step. Dummy runs happen only while some request needs them to get its result; `flush_on_waiting_outputs` changes nothing.
* The stages of one cycle begin together, and the next cycle begins when all of them have ended.
* The ring buffer holds `ring_buffer_size_multiplier` compiled batches: `execute_async` returns when its last row is in.
* `is_batch_size_timeout_enabled`: a batch that has rows waits `batch_size_timeout_ns` instead of `timeout_ns`.
* Where an input or output does not have the batch on its axis, a request is a whole number of runs, each of exactly the
  compiled shapes, batching or not; anything else is refused.
"""

from __future__ import annotations

import bisect
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from poprt_sim._compute import Array, Run
from poprt_sim._popef import INDEX_INPUT, Popef, TensorInfo

if TYPE_CHECKING:
    from poprt_sim._machine import Machine


@dataclass(frozen=True, slots=True)
class Options:
    """What of a runner's configuration concerns its feed. Times are virtual microseconds, infinity for "never".

    Attributes:
        axis: that carries the batch; None: requests are whole runs.
        timeout_us: for which the device waits for rows when it has none for a batch.
        partial_timeout_us: the same when it has some.
        ring_batches: compiled batches that the ring buffer holds.
    """

    axis: int | None = None
    timeout_us: float = math.inf
    partial_timeout_us: float = math.inf
    ring_batches: int = 2
    validate: bool = True
    thread_safe: bool = True
    auto_reset: bool = False


class Model:
    """One model of a PopEF as the feed sees it: how its tensors are cut into units.

    A unit is a row where the model can be batched on the axis, else one whole compiled batch.

    Attributes:
        units: in one run.
        rows: in one run, for the ledger; in a unit there are `rows // units`. Decision: where nothing says which axis carries
            the batch, the length of the first input's first.
    """

    def __init__(self, popef: Popef, axis: int | None) -> None:
        self.popef = popef
        self.inputs = {info.name: info for info in popef.inputs if info.name != INDEX_INPUT}
        self.outputs = {info.name: info for info in popef.outputs}
        infos = [*self.inputs.values(), *self.outputs.values()]
        first = next(iter(infos)).shape
        self.rows = max(1, first[axis or 0]) if len(first) > (axis or 0) else 1
        self.unfit = ""  # which tensor keeps the model from being batched
        if axis is not None:
            for info in infos:
                if len(info.shape) <= axis or info.shape[axis] != self.rows:
                    self.unfit = f"{info.name!r} has shape {list(info.shape)}, without {self.rows} on axis {axis}"
                    axis = None
                    break
        self.axis = axis
        self.units = self.rows if axis is not None else 1
        self.load_bytes = sum(_size(info) for info in self.inputs.values())
        self.store_bytes = sum(_size(info) for info in self.outputs.values())

    def unit_bytes(self, info: TensorInfo) -> int:
        """Bytes of one unit of a tensor."""
        return _size(info) // self.units

    def by_unit(self, info: TensorInfo, array: Array, units: int) -> Array:
        """A view on a contiguous array whose first axis counts units."""
        flat: Array = array.reshape(-1)
        if flat.dtype != info.dtype:  # unchecked: the bytes are what they are
            flat = flat.view(np.uint8)[: array.nbytes // info.dtype.itemsize * info.dtype.itemsize].view(info.dtype)
        flat = flat[: math.prod(info.shape) // self.units * units]
        if self.axis is None:
            return flat.reshape(units, *info.shape)
        if self.axis == 0:
            return flat.reshape(units, *info.shape[1:])
        shape = (*info.shape[: self.axis], units, *info.shape[self.axis + 1 :])
        return np.moveaxis(flat.reshape(shape), self.axis, 0)

    def describe(self, info: TensorInfo) -> str:
        """What a caller may send, for messages."""
        shape: list[object] = list(info.shape)
        if self.axis is not None:
            shape[self.axis] = "n"
            return f"{info.dtype} [{', '.join(map(str, shape))}] with n >= 1 ({self.unit_bytes(info)} bytes a row)"
        why = f"; no other number of rows, because {self.unfit}" if self.unfit else ""
        return f"{info.dtype} {shape}, or N whole batches of it ({self.unit_bytes(info)} bytes each{why})"


def _size(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize


@dataclass(eq=False, slots=True)
class Request:
    """One call of execute.

    Attributes:
        inputs, outputs: views on the caller's arrays, [units, ...]; results are written into the latter.
        arrays: the caller's own, for messages and to keep them alive.
        taken, stored: units that are in a batch, and units whose results are back.
        entered: when its last row found room in the ring buffer.
        done: when it succeeded or failed.
        error: why it failed.
        marks: checksums of its inputs when it was made, by name; those that its own results overwrite have none.
    """

    model: int
    units: int
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    arrays: tuple[dict[str, Array], dict[str, Array]]
    site: str
    issued: float = 0.0
    order: tuple[float, int, int, int] = (0.0, 0, 0, 0)
    taken: int = 0
    stored: int = 0
    entered: float | None = None
    done: float | None = None
    error: str | None = None
    marks: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """What one run holds: of each request, which of its units, and where in the batch. No pieces: a dummy."""

    model: int
    pieces: list[tuple[Request, int, int, int]] = field(default_factory=list)  # request, first, count, place in the batch
    outputs: dict[str, Array] = field(default_factory=dict)


class Feed:
    """The queue and the pipeline of one loaded runner. Every method is called with the machine's lock held."""

    def __init__(self, machine: Machine, popef: Popef, run: Run, options: Options, start: float) -> None:
        self.machine = machine
        self.popef = popef
        self.run = run
        self.options = options
        self.models = [Model(each, options.axis) for each in popef.graphs or (popef,)]
        self.queue: list[Request] = []
        self.in_flight: dict[Request, None] = {}
        self.overlapped = popef.num_io_tiles > 0
        self.free = start  # when the device can begin its next load, or its next cycle
        self.step = 0  # the place in the step of the next batch; with overlap, of the next cycle
        self.loaded: Batch | None = None
        self.computed: Batch | None = None
        self.broken: str | None = None  # the device failed and nobody resets it
        self.must_reset = False
        self.inside: set[int] = set()  # threads in execute
        machine.clock.sources.append(self)

    def close(self, error: str) -> None:
        """The device is no longer ours; what is in flight fails."""
        if self in self.machine.clock.sources:
            self.machine.clock.sources.remove(self)
        self._fail(error, self.machine.clock.now)

    # Requests

    def request(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], site: str) -> Request:
        """Check a call's arrays.

        Raises:
            RuntimeError: a name, type or size that does not fit, a view with gaps, or an output that cannot be written.
            Violation: sizes that do not fit, where validation is switched off.
        """
        number = self._model_of(inputs)
        model = self.models[number]
        given = {name: array for name, array in inputs.items() if name != INDEX_INPUT or name in model.inputs}
        units = 0
        whose = ""
        views: list[dict[str, Array]] = []
        arrays: list[dict[str, Array]] = []
        for what, infos, side in (("input", model.inputs, given), ("output", model.outputs, dict(outputs))):
            self._check_names(what, infos, side)
            views.append({})
            arrays.append({})
            for name, info in infos.items():
                array = self._check_array(model, what, info, side[name])
                count, rest = divmod(array.nbytes, model.unit_bytes(info)) if model.unit_bytes(info) else (1, 0)
                if rest or count < 1:
                    self._misfit(f"{what} {name!r}: expected {model.describe(info)}, got {_of(array)}, {array.nbytes} bytes")
                if units and count != units:
                    self._misfit(
                        f"{what} {name!r}: expected {units * model.rows // model.units} rows like {whose!r}, "
                        f"got {count * model.rows // model.units}"
                    )
                    units = min(units, count)
                if not units:
                    units, whose = count, name
                arrays[-1][name] = array
        if units < 1:
            raise RuntimeError("the arrays are shorter than one compiled batch")
        for side_views, infos, side in zip(views, (model.inputs, model.outputs), arrays, strict=True):
            for name, array in side.items():
                side_views[name] = model.by_unit(infos[name], array, units)
        return Request(number, units, views[0], views[1], (arrays[0], arrays[1]), site)

    def _model_of(self, inputs: Mapping[str, Any]) -> int:
        if not self.popef.graphs:
            return 0
        if self.options.validate:
            raise RuntimeError(
                "this PopEF holds fused models and each call feeds one: set validate_io_params to False, or every input of "
                f"every model is expected: {', '.join(info.name for info in self.popef.inputs)}"
            )
        try:
            number = self.popef.graph_of([name for name in inputs if name != INDEX_INPUT])
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        index = inputs.get(INDEX_INPUT)
        if index is not None and np.asarray(index).reshape(-1).tolist()[:1] != [number]:
            raise RuntimeError(f"{INDEX_INPUT!r}: expected {number}, as the inputs are of graph{number}, got {index}")
        return number

    def _check_names(self, what: str, infos: Mapping[str, TensorInfo], given: Mapping[str, Any]) -> None:
        missing = [name for name in infos if name not in given]
        unknown = [name for name in given if name not in infos]
        # Decision: names are checked even where validation is off: nothing is known of what a missing stream would do.
        if missing or unknown:
            got = ", ".join(map(repr, given)) or "none"
            raise RuntimeError(f"expected the {what}s {', '.join(map(repr, infos))}, got {got}")

    def _check_array(self, model: Model, what: str, info: TensorInfo, array: Any) -> Array:
        name = info.name
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{what} {name!r}: expected a numpy.ndarray, got {type(array).__name__}")
        if array.dtype != info.dtype:
            text = f"{what} {name!r}: expected {model.describe(info)}, got {_of(array)}; PopRT casts nothing"
            if self.options.validate or array.dtype.hasobject:
                raise RuntimeError(text)
            self.machine.violate(
                "unchecked dtype", f"{text}: with validate_io_params False it takes the bytes for {info.dtype}"
            )
        if not array.flags.c_contiguous:
            raise RuntimeError(f"{what} {name!r}: expected a C-contiguous array, got strides {array.strides} for {_of(array)}")
        if what == "output" and not array.flags.writeable:
            raise RuntimeError(f"{what} {name!r}: expected an array that can be written, got a read-only one")
        return array

    def _misfit(self, text: str) -> None:
        if self.options.validate:
            raise RuntimeError(text)
        self.machine.violate("unchecked size", f"{text}; with validate_io_params False PopRT reads or writes beyond the array")

    def submit(self, request: Request) -> None:
        """Put a request into the queue, at the calling thread's time.

        Raises:
            RuntimeError: the device has failed and nobody has reset it.
            Violation: its arrays are in use by another request.
        """
        clock = self.machine.clock
        thread = clock.thread()
        if self.broken is not None:
            raise RuntimeError(f"{self.broken}; the IPU was not reset: make a new runner, or set auto_reset")
        if self.must_reset:
            self.must_reset = False
            self.machine.ledger.resets += 1
            self.free = max(self.free, thread.cursor) + self.machine.profile.reset_us
        self._check_in_use(request)
        request.marks = _marks(request)
        thread.submissions += 1
        request.issued = max(thread.cursor, clock.now)
        request.order = (request.issued, clock.events, thread.number, thread.submissions)
        bisect.insort(self.queue, request, key=lambda each: each.order)
        self.in_flight[request] = None
        self.machine.ledger.requests += 1
        self._let_in(request.issued)

    def _check_in_use(self, request: Request) -> None:
        """Arrays must not change while a request is in flight, nor be written by two.

        Two requests of the same inputs write the same values: published programs send one pair of dictionaries many times.
        """
        ours = [_range(array) for array in request.arrays[1].values()]
        reads = [_range(array) for array in request.arrays[0].values()]
        for feed in self.machine.clock.sources:
            if not isinstance(feed, Feed):
                continue
            for other in feed.in_flight:
                theirs = [_range(array) for array in other.arrays[1].values()]
                other_reads = [_range(array) for array in other.arrays[0].values()]
                if _overlap(ours, theirs) and not (feed is self and reads == other_reads and ours == theirs):
                    what = "writes an output of"
                elif _overlap(reads, theirs):
                    what = "reads an output of"
                elif _overlap(ours, other_reads):
                    what = "writes an input of"
                else:
                    continue
                self.machine.violate("arrays in use", f"this request {what} the one made at {other.site}, which is in flight")
                return

    def check_unchanged(self, request: Request) -> None:
        """When its caller first has its results: its inputs are what they were, for the device may have read them late.

        Raises:
            Violation: they are not.
        """
        before, request.marks = request.marks, {}
        for name, mark in before.items():
            if _mark(request.arrays[0][name]) != mark:
                text = f"input {name!r} of the request made at {request.site} changed before its results were there"
                self.machine.violate("arrays in use", text)

    def withdraw(self, request: Request) -> None:
        """Take back what of a request the device has not taken yet: its caller has given up."""
        if request in self.queue:
            self.queue.remove(request)
        self.in_flight.pop(request, None)

    def _let_in(self, moment: float) -> None:
        """Note who has found room in the ring buffer."""
        rows = 0
        for request in self.queue:
            model = self.models[request.model]
            rows += request.units - request.taken
            if rows > self.options.ring_batches * model.units:
                return
            if request.entered is None:
                request.entered = max(request.issued, moment)

    # The device

    def why_stuck(self) -> str:
        """What the device waits for and cannot get."""
        if not self.in_flight:
            return ""
        name = self.popef.name
        if self.queue:
            model = self.models[self.queue[0].model]
            rows = sum(r.units - r.taken for r in self.queue if r.model == self.queue[0].model) * model.rows // model.units
            if rows < model.rows:
                return (
                    f"{name!r} has {rows} rows for a compiled batch of {model.rows} and waits for {model.rows - rows} more; no "
                    f"thread is left to send them, and with a timeout of 0 nothing fills the gap: set timeout_ns"
                )
        return (
            f"{name!r} has overlapped I/O and waits for a batch to load while it finishes those before: no thread is left to "
            "send one, and with a timeout of 0 nothing takes its place; keep 3 requests in flight and send a multiple of "
            f"batches_per_step ({self.popef.batches_per_step}) in all, or set timeout_ns"
        )

    def next_time(self) -> float:
        """When the next run or cycle begins."""
        return self._next()[0]

    def _next(self) -> tuple[float, str]:
        """When, and how: "full", "partial" (flushed), "dummy" (flushed), "drain", or "idle"."""
        if self.overlapped and self.step >= self.popef.batches_per_step:
            return self.free, "drain"
        pushing = bool((self.loaded and self.loaded.pieces) or (self.computed and self.computed.pieces))
        if not self.queue:
            return (self.free + self.options.timeout_us, "dummy") if pushing else (math.inf, "idle")
        head = self.queue[0]
        units = 0
        filled = math.inf
        for request in self.queue:
            if request.model == head.model:
                units += request.units - request.taken
                if units >= self.models[head.model].units:
                    filled = max(self.free, request.issued)
                    break
        arrived = max(self.free, head.issued)
        flushed = arrived + self.options.partial_timeout_us
        how = "partial"
        if pushing and self.free + self.options.timeout_us < flushed:
            # The device has been waiting since its last cycle, not only since the first of these rows came.
            flushed = self.free + self.options.timeout_us
            how = "partial" if head.issued <= flushed else "dummy"
        return (filled, "full") if filled <= flushed else (flushed, how)

    def fire(self) -> None:
        """Begin the next run or cycle."""
        moment, how = self._next()
        ledger = self.machine.ledger
        if how in ("partial", "dummy"):
            ledger.flushes += 1
        if how != "drain":
            since = self.free
            if not ((self.loaded and self.loaded.pieces) or (self.computed and self.computed.pieces)):
                since = max(since, self.queue[0].issued)
            if moment > since or how in ("partial", "dummy"):
                ledger.waits += 1
                ledger.waited_us += moment - since
        batch = None
        if how in ("full", "partial"):
            batch = self._take(moment)
        elif how == "dummy":
            batch = Batch(self.queue[0].model if self.queue else 0)
        try:
            if batch is not None:
                self._compute(batch)
        except RuntimeError as error:
            self._device_failed(str(error), moment)
            return
        if self.overlapped:
            self._cycle(moment, batch)
        else:
            assert batch is not None
            self._run(moment, batch)

    def _take(self, moment: float) -> Batch:
        """The rows that are there by now, at most a compiled batch of them."""
        head = self.queue[0]
        wanted = self.models[head.model].units
        batch = Batch(head.model)
        place = 0
        for request in self.queue:
            if place == wanted or request.issued > moment:
                break
            if request.model != head.model:
                continue
            count = min(wanted - place, request.units - request.taken)
            batch.pieces.append((request, request.taken, count, place))
            request.taken += count
            place += count
        self.queue = [request for request in self.queue if request.taken < request.units]
        self._let_in(moment)
        return batch

    def _compute(self, batch: Batch) -> None:
        """Run the model on what the batch holds; raises RuntimeError for what a device would answer."""
        model = self.models[batch.model]
        real = sum(count for _, _, count, _ in batch.pieces)
        self.machine.ledger.count_run(
            model.popef.name,
            real=real * model.rows // model.units,
            padded=(model.units - real) * model.rows // model.units,
            requests=len({id(piece[0]) for piece in batch.pieces}),
        )
        error = self.machine.count("device.run")
        if error is not None:
            raise RuntimeError(error)
        if not batch.pieces:
            return
        feeds = {}
        for name, info in model.inputs.items():
            request, first, count, _ = batch.pieces[0]
            if count == model.units and not model.axis:  # one caller's rows, as they lie in memory
                feeds[name] = request.inputs[name][first : first + count].reshape(info.shape)
                continue
            array = np.zeros(info.shape, info.dtype)
            rows = model.by_unit(info, array, model.units)
            for request, first, count, place in batch.pieces:
                rows[place : place + count] = request.inputs[name][first : first + count]
            feeds[name] = array
        try:
            batch.outputs = self.run(feeds)
        except RuntimeError as failure:
            raise RuntimeError(f"application_runtime_error: {failure}") from failure

    def _costs(self, model: Model) -> tuple[float, float, float]:
        profile, popef = self.machine.profile, model.popef
        compute = profile.compute_us(popef.name, rows=model.rows, flops=popef.flops, bytes_moved=popef.bytes_moved)
        return profile.load_us(model.load_bytes), compute, profile.store_us(model.store_bytes)

    def _run(self, moment: float, batch: Batch) -> None:
        """Load, compute, store, one after another."""
        load, compute, store = self._costs(self.models[batch.model])
        if self.step == 0:
            moment += self.machine.profile.step_us
        self.step = (self.step + 1) % self.popef.batches_per_step
        ledger = self.machine.ledger
        end = moment
        for engine, cost in (("load", load), ("compute", compute), ("store", store)):
            end += cost
            ledger.spend(engine, cost, end)
        self.free = end
        self._store(batch, end)

    def _cycle(self, moment: float, batch: Batch | None) -> None:
        """One batch is loaded, while the one before is computed and the one before that is stored."""
        if self.step == 0:
            moment += self.machine.profile.step_us
        end = moment
        for engine, each in enumerate((batch, self.loaded, self.computed)):
            if each is not None:
                cost = self._costs(self.models[each.model])[engine]
                self.machine.ledger.spend(("load", "compute", "store")[engine], cost, moment + cost)
                end = max(end, moment + cost)
                if engine == 2:
                    self._store(each, moment + cost)
        self.loaded, self.computed = batch, self.loaded
        self.free = end
        self.step += 1
        if self.step >= self.popef.batches_per_step + 2:
            self.step = 0

    def _store(self, batch: Batch, moment: float) -> None:
        """The results of a batch are with their callers."""
        model = self.models[batch.model]
        for request, first, count, place in batch.pieces:
            for name, info in model.outputs.items():
                rows = model.by_unit(info, batch.outputs[name], model.units)
                request.outputs[name][first : first + count] = rows[place : place + count]
            request.stored += count
            if request.stored == request.units and request.done is None:
                request.done = moment
                self.in_flight.pop(request, None)

    # Failures

    def _device_failed(self, error: str, moment: float) -> None:
        """Every request that is in flight by now gets the error (contract 2, "Errors")."""
        kind = error.partition(":")[0]
        may_reset = kind == "application_runtime_error" or error.startswith("recoverable_runtime_error:IPU_RESET")
        self.free = moment
        self.step = 0
        if self.options.auto_reset and may_reset:
            self.must_reset = True
        else:
            self.broken = error
        self._fail(error, moment, late_too=self.broken is not None)
        if self.must_reset and self.queue:  # those that came later are served after the reset
            self.must_reset = False
            self.machine.ledger.resets += 1
            self.free = moment + self.machine.profile.reset_us

    def _fail(self, error: str, moment: float, *, late_too: bool = True) -> None:
        self.loaded = self.computed = None
        for request in list(self.in_flight):
            if late_too or request.issued <= moment:
                request.done = max(moment, request.issued)
                request.entered = request.entered if request.entered is not None else request.done
                request.error = error
                del self.in_flight[request]
        self.queue = [request for request in self.queue if request.done is None]


def _of(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _mark(array: Array) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def _marks(request: Request) -> dict[str, int]:
    written = [_range(array) for array in request.arrays[1].values()]
    return {name: _mark(array) for name, array in request.arrays[0].items() if not _overlap([_range(array)], written)}


def _range(array: Array) -> tuple[int, int]:
    start = int(array.__array_interface__["data"][0])
    return start, start + array.nbytes


def _overlap(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> bool:
    return any(a < d and c < b for a, b in some for c, d in others)
