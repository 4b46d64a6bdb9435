"""Runner: any number of rows, on a session that takes only some."""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import Any, Final

import numpy as np

from anybatch._backend import Session
from anybatch._batching import AnyBatch, Batching, Gears, MultipleOf
from anybatch._errors import ClosedError, ContractError, InputError, ModelError
from anybatch._pipeline import map_ordered
from anybatch._planner import Costs, Explanation, Launch, Plan, Planner, Policy, explain_rows
from anybatch._staging import Padding, Staging
from anybatch._tensors import Array, Combine, ModelSpec, TensorSpec, check_request, symbols_of

# Plans for this many request sizes are kept; then the table starts anew, which costs a walk over launches per size.
_MAX_PREPARED: Final = 4096
_NDARRAY: Final = np.ndarray
_CONTIGUOUS_ALIGNED: Final = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED


@dataclass(frozen=True, slots=True)
class Stats:
    """What a runner has done since it was opened; requests that raised are not in it.

    Attributes:
        requests: completed `run` calls, those of `submit` and `map` included.
        rows: real rows in them.
        padded_rows: rows executed beyond those.
        launches: how often each batch size was executed.
        seconds: wall time inside `run`, summed over threads.
    """

    requests: int
    rows: int
    padded_rows: int
    launches: Mapping[int, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A plan, and what one call needs of it."""

    plan: Plan
    whole_gear: int  # the gear of the one launch that takes the caller's arrays as they are; 0 where there is none
    expected: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...] | None  # its outputs; None: dimensions are free
    counts: tuple[tuple[int, int], ...]


class Runner:
    """Runs requests of any number of rows on one session, which it owns.

    Thread-safe: any method from any thread, for any session; at most the session's concurrency executes at once.

    States: open, then closed for good. `close` waits for the calls in progress.

    Args:
        session: the opened model; `close` closes it.
        backend: the backend's name, for reports.
        costs: what a launch of each size costs; None uses `AffineCosts()`.
        policy: how requests are split, see `Planner`.
        padding: what rows beyond a request hold: ``"zero"``, ``"repeat"`` (the last row again), or a mapping of input names
            to constants.
        combine: how values of outputs without a batch axis become one over several launches, by output name; see
            `TensorSpec`.

    Raises:
        InputError: an argument does not fit; the session is left open, it is still the caller's.
    """

    _closed = True  # until __init__ is through, so that __del__ can tell

    def __init__(
        self,
        session: Session,
        *,
        backend: str = "session",
        costs: Costs | None = None,
        policy: Policy = "least_cost",
        padding: Padding = "zero",
        combine: Mapping[str, Combine] | None = None,
    ) -> None:
        self.backend: Final = backend
        self._session = session
        self._spec = spec = _with_combine(session.spec, combine or {})
        self._batching: Batching = session.batching
        self._planner = Planner(self._batching, costs, policy)
        self._staging = Staging(spec, padding)
        pads = isinstance(self._batching, MultipleOf) or (isinstance(self._batching, Gears) and self._batching.pads)
        self._session_pads = pads and self._staging.all_zeros
        self._outputs = {tensor.name: tensor for tensor in spec.outputs}
        self._unbatched = [tensor for tensor in spec.outputs if tensor.batch_axis is None]
        self._quick = _quick_checks(spec)
        self._quick_count = len(spec.inputs)
        self._execute = _limited(session.execute, session.concurrency)
        self._workers = session.concurrency or min(4, os.cpu_count() or 1)
        self._executor: ThreadPoolExecutor | None = None
        self._worker_idents: set[int] = set()
        self._prepared: dict[int, _Prepared] = {}

        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._in_progress = 0
        self._requests = 0
        self._rows = 0
        self._padded_rows = 0
        self._launches: Counter[int] = Counter()
        self._seconds = 0.0
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """The model's inputs and outputs."""
        return self._spec

    @property
    def batching(self) -> Batching:
        """What one launch of the session may be."""
        return self._batching

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def run(self, inputs: Mapping[str, Array], *, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run a request of any number of rows and return exactly those rows, in order.

        Inputs are read during the call only: never written to, never kept. Arrays that are contiguous and aligned are
        passed on as views; others are copied launch by launch.

        Args:
            inputs: one array per model input, shape and dtype as in `spec`, with the same n >= 0 rows in every batched one.
                Native or foreign byte order, any memory layout, read-only or not; nothing else is converted.
            out: arrays to write results into, for all outputs or some: dtype as in `spec`, shape for n rows, writable, any
                layout, no memory in common with the inputs or one another.

        Returns:
            One array per output, those of `out` among them. n = 0 gives empty arrays without an execution; a free
            dimension that no input tells is 0 then.

        Raises:
            InputError: a name, dtype, shape or `out` array does not fit, the request needs padding or splitting that an
                output without rows rules out, or no plan exists; nothing was executed.
            ModelError: an output declared to be the same in every launch is not.
            DeviceError: the runtime failed. Earlier launches have run, some or all of `out` may be written.
            ContractError: the session returned what its spec rules out; as after DeviceError.
            ClosedError: close() was called before.
            After any of these but ClosedError the runner is as usable as the session is.
        """
        started = perf_counter()
        rows = self._quick_rows(inputs)
        checked = None
        if rows < 0:
            rows, checked = check_request(self._spec, inputs)
        prepared = self._prepared.get(rows)
        if prepared is None:
            prepared = self._prepare(rows)
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r}: run() after close()")
            self._in_progress += 1
        try:
            if checked is None and out is None and prepared.whole_gear:
                outputs = self._execute(inputs, prepared.whole_gear, None)
                self._check_results(outputs, prepared.expected, rows, {})
                if type(outputs) is not dict:
                    outputs = dict(outputs)
            else:
                outputs = self._run_launches(inputs if checked is None else checked, prepared, out)
        except BaseException:
            with self._lock:
                self._leave()
            raise
        with self._lock:
            self._requests += 1
            self._rows += rows
            self._padded_rows += prepared.plan.padded_rows
            for gear, count in prepared.counts:
                self._launches[gear] += count
            self._seconds += perf_counter() - started
            self._leave()
        return outputs

    def __call__(self, *arrays: Array) -> Array | dict[str, Array]:
        """Run a request given as one array per input, in the model's order.

        Returns:
            The output's array where the model has one output, else a dict as from `run`.

        Raises:
            InputError: the number of arrays differs from the number of inputs; and see `run`.
        """
        names = [tensor.name for tensor in self._spec.inputs]
        if len(arrays) != len(names):
            raise InputError(f"expected {len(names)} arrays, for inputs {names}, got {len(arrays)}")
        outputs = self.run(dict(zip(names, arrays, strict=True)))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def submit(self, inputs: Mapping[str, Array], *, out: Mapping[str, Array] | None = None) -> Future[dict[str, Array]]:
        """Queue a request and return its future; `Future.cancel` works until it starts.

        The arrays must not be changed until the future is done. If the runner is closed before it starts, the future
        raises ClosedError.

        Raises:
            ClosedError: close() was called before. Everything else, see `run`, is raised by the future's ``result()``.
        """
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r}: submit() after close()")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    self._workers, f"anybatch-{self.backend}", lambda: self._worker_idents.add(threading.get_ident())
                )
            return self._executor.submit(self.run, inputs, out=out)

    def map(self, requests: Iterable[Mapping[str, Array]], *, in_flight: int | None = None) -> Iterator[dict[str, Array]]:
        """Run many requests and yield their outputs in order, keeping the session busy meanwhile.

        Args:
            requests: anything that yields what `run` takes; drawn one by one, at most `in_flight` ahead of the results.
            in_flight: requests submitted and not yet yielded; None takes twice the session's concurrency.

        Raises:
            InputError: `in_flight` is below 1.
            ClosedError: close() was called before.
            A request's own error is raised in its place, after the results before it; what follows is cancelled. The same
            holds for an error of `requests`, and for leaving the loop early, which cancels in silence.
        """
        in_flight = 2 * self._workers if in_flight is None else in_flight
        if in_flight < 1:
            raise InputError(f"expected in_flight >= 1, got {in_flight}")
        if self._closed:
            raise ClosedError(f"{self!r}: map() after close()")
        return map_ordered(self.submit, requests, in_flight=in_flight)

    def plan(self, rows: int) -> Plan:
        """Return the launches a request of that many rows is run with.

        Raises:
            InputError: `rows` is negative or not an int, or such a request is refused; see `run`.
        """
        prepared = self._prepared.get(rows) or self._prepare(rows)
        return prepared.plan

    def explain(self, rows: int) -> Explanation:
        """Explain how a request of that many rows is run, and what other policies would cost.

        Raises:
            InputError: see `plan`.
        """
        return explain_rows(self._planner, rows, self.plan(rows))

    def stats(self) -> Stats:
        """Return what the runner has done so far; one consistent picture, also after close()."""
        with self._lock:
            return Stats(self._requests, self._rows, self._padded_rows, dict(self._launches), self._seconds)

    def close(self) -> None:
        """Refuse new calls, wait for the calls in progress, and close the session.

        Futures of `submit` that had not started raise ClosedError.

        Twice is fine. If closing the session fails, the runner is closed nonetheless.

        Raises:
            DeviceError: the runtime failed while it freed something.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: self._in_progress == 0)
        if self._executor is not None:
            # What is still queued now ends in ClosedError at once. A future's callback that closes cannot wait for itself.
            self._executor.shutdown(wait=threading.get_ident() not in self._worker_idents)
        self._session.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"{self!r} was left open: use it in a with statement or call close()", ResourceWarning, source=self)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Runner on {self.backend}, {self._batching}, {state}>"

    def _leave(self) -> None:
        """Count a call out; the lock is held."""
        self._in_progress -= 1
        if self._closed and not self._in_progress:
            self._idle.notify_all()

    def _quick_rows(self, inputs: Mapping[str, Array]) -> int:
        """Return the rows of a plain request, or -1 where `check_request` must look closer.

        Plain: a dict of exactly the inputs, C-contiguous and aligned, of fixed dimensions with rows on axis 0.
        """
        if self._quick is None or type(inputs) is not dict or len(inputs) != self._quick_count:
            return -1
        rows = -1
        for name, dtype, shape, batched in self._quick:
            array = inputs.get(name)
            if type(array) is not _NDARRAY or array.dtype != dtype or array.flags.num & 0x101 != _CONTIGUOUS_ALIGNED:
                return -1
            got = array.shape
            if batched:
                if got[1:] != shape or not got:
                    return -1
                if got[0] != rows:
                    if rows >= 0:
                        return -1
                    rows = got[0]
            elif got != shape:
                return -1
        return rows

    def _prepare(self, rows: int) -> _Prepared:
        plan = self._plan_for_outputs(self._planner.plan(rows))
        gear = 0
        if len(plan.launches) == 1 and (self._session_pads or not plan.padded_rows):
            gear = plan.launches[0].gear
        counts = Counter(launch.gear for launch in plan.launches)
        prepared = _Prepared(plan, gear, self._expected(plan.rows) if gear else None, tuple(counts.items()))
        if len(self._prepared) >= _MAX_PREPARED:
            self._prepared = {}
        self._prepared[plan.rows] = prepared
        return prepared

    def _plan_for_outputs(self, plan: Plan) -> Plan:
        """Return a plan that outputs without rows allow: `plan`, or one without padding, or one whole launch."""
        if not self._unbatched or (len(plan.launches) == 1 and not plan.padded_rows):
            return plan
        silent = [tensor.name for tensor in self._unbatched if tensor.combine is None]
        if plan.rows == 0 or silent:
            whole = self._whole_launch(plan.rows) if plan.rows else None
            if whole is None:
                names = silent or [tensor.name for tensor in self._unbatched]
                what = f"{plan.rows} rows are run as {plan}" if plan.rows else "0 rows are not run at all"
                raise InputError(
                    f"output {names[0]!r} has no batch axis, so it has one value per launch, but {what} on {self._batching}; "
                    "send a number of rows that is one full launch, or say how values combine: "
                    f"open(..., combine={{{names[0]!r}: 'same' | 'sum' | 'mean' | 'max' | 'min'}})"
                )
            return Plan(plan.rows, (whole,), self._planner.costs.of(whole.gear), plan.policy)
        if plan.padded_rows and any(tensor.combine != "same" for tensor in self._unbatched):
            return self._planner.plan(plan.rows, exact=True)  # padding would be in the sum
        return plan

    def _whole_launch(self, rows: int) -> Launch | None:
        batching = self._batching
        fits = (
            isinstance(batching, AnyBatch)
            or (isinstance(batching, Gears) and rows in batching.sizes)
            or (isinstance(batching, MultipleOf) and rows % batching.size == 0)
        )
        return Launch(rows, rows) if fits else None

    def _expected(self, rows: int) -> tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...] | None:
        """Return name, shape and dtype of each output for that many rows; None where a dimension is free."""
        expected = []
        for tensor in self._spec.outputs:
            shape = tensor.shape_for(rows)
            if None in shape:
                return None
            expected.append((tensor.name, tuple(size for size in shape if size is not None), tensor.dtype))
        return tuple(expected)

    def _check_results(
        self,
        results: Mapping[str, Array],
        expected: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...] | None,
        rows: int,
        symbols: Mapping[str, int],
    ) -> None:
        """Check what a session returned for `rows` rows; `expected` is the quick way, where it is known."""
        if expected is not None and len(results) == len(expected):
            for name, shape, dtype in expected:
                array = results.get(name)
                if array is None or array.shape != shape or array.dtype != dtype:
                    break
            else:
                return
        if set(results) != set(self._outputs):
            raise ContractError(f"{self.backend}: expected outputs {sorted(self._outputs)}, got {sorted(results)}")
        for name, tensor in self._outputs.items():
            array = results[name]
            if not isinstance(array, np.ndarray):
                raise ContractError(f"{self.backend}: output {name!r}: expected a NumPy array, got {type(array).__name__}")
            want = tensor.shape_for(rows, symbols)
            fits = len(want) == array.ndim and all(w in (None, got) for w, got in zip(want, array.shape, strict=True))
            if not fits or array.dtype != tensor.dtype:
                raise ContractError(
                    f"{self.backend}: output {name!r}: expected {tensor} with {rows} rows, got {array.dtype} {list(array.shape)}"
                )

    def _run_launches(
        self, inputs: Mapping[str, Array], prepared: _Prepared, out: Mapping[str, Array] | None
    ) -> dict[str, Array]:
        plan = prepared.plan
        symbols = symbols_of(self._spec, inputs)
        given = self._check_out(out, inputs, plan.rows, symbols) if out is not None else {}
        join = _Join(self._spec, plan.rows, symbols, given)
        start = 0
        for launch in plan.launches:
            stop = start + launch.rows
            feed = {
                tensor.name: _as_contiguous(
                    inputs[tensor.name] if tensor.batch_axis is None else inputs[tensor.name][tensor.rows_index(start, stop)]
                )
                for tensor in self._spec.inputs
            }
            if launch.rows < launch.gear and not self._session_pads:
                key, buffer = self._staging.take(feed, launch.rows, launch.gear)
                try:
                    results = self._execute(feed | buffer.arrays, launch.gear, None)
                finally:
                    self._staging.give_back(key, buffer)
                self._check_results(results, None, launch.gear, symbols)
            else:
                results = self._execute(feed, launch.gear, join.offer(start, stop))
                self._check_results(results, None, launch.rows, symbols)
            join.add(results, start, stop)
            start = stop
        return join.results()

    def _check_out(
        self, out: Mapping[str, Array], inputs: Mapping[str, Array], rows: int, symbols: Mapping[str, int]
    ) -> dict[str, Array]:
        checked: dict[str, Array] = {}
        for name, array in out.items():
            if name not in self._outputs:
                raise InputError(f"out: unknown output {name!r}; the outputs are {list(self._outputs)}")
            tensor = self._outputs[name]
            if type(array) is not np.ndarray:
                raise InputError(f"out[{name!r}]: expected a NumPy array of {tensor}, got {type(array).__name__}")
            want = tensor.shape_for(rows, symbols)
            fits = len(want) == array.ndim and all(w in (None, got) for w, got in zip(want, array.shape, strict=True))
            if not fits or array.dtype != tensor.dtype:
                raise InputError(f"out[{name!r}]: expected {tensor} with {rows} rows, got {array.dtype} {list(array.shape)}")
            if not array.flags.writeable:
                raise InputError(f"out[{name!r}]: expected a writable array, got a read-only one")
            for other, taken in (*inputs.items(), *checked.items()):
                if np.may_share_memory(array, taken):
                    raise InputError(f"out[{name!r}] shares memory with {other!r}: give it memory of its own")
            checked[name] = array
        return checked


class _Join:
    """Results of several launches, put together in arrays that are allocated once."""

    def __init__(self, spec: ModelSpec, rows: int, symbols: Mapping[str, int], given: Mapping[str, Array]) -> None:
        self._spec = spec
        self._rows = rows
        self._symbols = symbols
        self._arrays = dict(given)
        self._values: dict[str, list[tuple[int, Array]]] = {}
        self._given = frozenset(given)
        for tensor in spec.outputs:
            shape = tensor.shape_for(rows, symbols)
            if rows == 0:
                shape = tuple(size or 0 for size in shape)
            if tensor.name not in given and tensor.batch_axis is not None and None not in shape:
                self._arrays[tensor.name] = np.empty([size or 0 for size in shape], tensor.dtype)

    def offer(self, start: int, stop: int) -> dict[str, Array] | None:
        """Return the places where rows start..stop of each output go, as far as they are contiguous."""
        places = {
            tensor.name: self._arrays[tensor.name][tensor.rows_index(start, stop)]
            for tensor in self._spec.outputs
            if tensor.batch_axis is not None and tensor.name in self._arrays
        }
        return {name: place for name, place in places.items() if place.flags.carray} or None

    def add(self, results: Mapping[str, Array], start: int, stop: int) -> None:
        """Take a launch's results for rows start..stop; what is beyond those rows is padding and is dropped."""
        for tensor in self._spec.outputs:
            result = results[tensor.name]
            if tensor.batch_axis is None:
                self._values.setdefault(tensor.name, []).append((stop - start, result))
                continue
            whole = self._arrays.get(tensor.name)
            if whole is None:
                shape = list(result.shape)
                shape[tensor.batch_axis] = self._rows * tensor.rows_per_row
                whole = self._arrays[tensor.name] = np.empty(shape, tensor.dtype)
            place = whole[tensor.rows_index(start, stop)]
            if place.size and not _same_memory(result, place):
                place[...] = result[tensor.rows_index(0, stop - start)]

    def results(self) -> dict[str, Array]:
        for tensor in self._spec.outputs:
            if tensor.batch_axis is None:
                value = _combine(tensor, self._values[tensor.name])
                if tensor.name in self._given:
                    self._arrays[tensor.name][...] = value
                else:
                    self._arrays[tensor.name] = value
        return {tensor.name: self._arrays[tensor.name] for tensor in self._spec.outputs}


def _combine(tensor: TensorSpec, values: list[tuple[int, Array]]) -> Array:
    arrays = [array for _, array in values]
    if len(arrays) == 1:
        return arrays[0]
    if tensor.combine == "same":
        for array in arrays[1:]:
            if array.shape != arrays[0].shape or array.tobytes() != arrays[0].tobytes():
                raise ModelError(f"output {tensor.name!r} was declared to be the same in every launch, but it is not")
        return arrays[0]
    stacked = np.stack(arrays)
    if tensor.combine == "mean":
        return np.asarray(np.average(stacked, axis=0, weights=[rows for rows, _ in values])).astype(tensor.dtype)
    reduce = {"sum": np.add, "max": np.maximum, "min": np.minimum}[tensor.combine or ""]
    return np.asarray(reduce.reduce(stacked, axis=0)).astype(tensor.dtype)


def _with_combine(spec: ModelSpec, combine: Mapping[str, Combine]) -> ModelSpec:
    names = [tensor.name for tensor in spec.outputs]
    for name in combine:
        if name not in names:
            raise InputError(f"combine names {name!r}, which is no output; the outputs are {names}")
    declared = (replace(t, combine=combine[t.name]) if t.name in combine else t for t in spec.outputs)
    return ModelSpec(spec.inputs, tuple(declared))


def _same_memory(one: Array, other: Array) -> bool:
    return one is other or (
        one.__array_interface__["data"][0] == other.__array_interface__["data"][0] and one.strides == other.strides
    )


def _as_contiguous(array: Array) -> Array:
    return array if array.flags.num & 0x101 == _CONTIGUOUS_ALIGNED else array.copy(order="C")


def _quick_checks(spec: ModelSpec) -> tuple[tuple[str, np.dtype[Any], tuple[int, ...], bool], ...] | None:
    """Return what `_quick_rows` compares: name, dtype, shape (without rows), batched; None where a spec is not plain."""
    checks = []
    for tensor in spec.inputs:
        batched = tensor.batch_axis is not None
        sizes = tensor.shape[1:] if batched else tensor.shape
        fixed = tuple(size for size in sizes if isinstance(size, int))
        if tensor.batch_axis not in (None, 0) or tensor.rows_per_row != 1 or len(fixed) != len(sizes):
            return None
        checks.append((tensor.name, tensor.dtype, fixed, batched))
    return tuple(checks)


def _limited(execute: Callable[..., Mapping[str, Array]], concurrency: int | None) -> Callable[..., Mapping[str, Array]]:
    """Return `execute`, entered by at most `concurrency` threads at once."""
    if concurrency is None:
        return execute
    gate = threading.Lock() if concurrency == 1 else threading.BoundedSemaphore(concurrency)

    def execute_limited(inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None) -> Mapping[str, Array]:
        with gate:
            return execute(inputs, gear, out)

    return execute_limited
