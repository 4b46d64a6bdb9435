"""Runner: any number of rows, on a session that takes only some."""

from __future__ import annotations

import copy
import functools
import math
import operator
import os
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Any, Final, TypeAlias, cast

import numpy as np

from anybatch._backend import Clock, Session
from anybatch._batching import AnyBatch, Batching, MultipleOf
from anybatch._calibration import AT_LEAST, Calibration, Setting, Shelf, describe_setting, measure, now, sizes_to_measure
from anybatch._costs import Costs
from anybatch._drift import LiveCosts, how_many_to_time, timed
from anybatch._errors import ClosedError, ContractError, InputError, ModelError
from anybatch._guard import Guard, RowSafety, is_exact
from anybatch._pipeline import map_ordered, run_side_by_side
from anybatch._planner import Explanation, Launch, Plan, Planner, Policy, check_rows, explain_rows
from anybatch._samples import free_names, random_inputs, take_rows
from anybatch._staging import Padding, Staging
from anybatch._tensors import Array, Combine, ModelSpec, TensorSpec, check_request, symbols_of
from anybatch._trial import Trial, try_rows

# Plans are kept for this many request sizes, and for this many launches in all; what is beyond is planned on each call.
_MAX_PLANS: Final = 4096
_MAX_LAUNCHES: Final = 1 << 20
_NDARRAY: Final = np.ndarray
_Expected: TypeAlias = tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]  # name, shape and dtype of each output
_NO_SYMBOLS: Final[Mapping[str, int]] = {}
_CONTIGUOUS_ALIGNED: Final = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_SPLITS: Final = 15  # requests of two launches that are made to time what splitting takes
_RECENT: Final = 33  # runs of a plan whose times are kept, for their median
_IN_A_SECOND: Final[Mapping[str, float]] = {"s": 1.0, "ms": 1e3, "us": 1e6}  # units of costs that are times


@dataclass(frozen=True, slots=True)
class Stats:
    """What a runner has done since it was opened; requests that raised are not in it.

    Attributes:
        requests: completed `run` calls, those of `submit` and `map` included.
        rows: real rows in them.
        padded_rows: rows executed beyond those.
        launches: how often each batch size was executed.
        seconds: time inside `run`, summed over threads; wall time, or that of a simulator's device clock.
        sizes: how many requests had each number of rows.
    """

    requests: int
    rows: int
    padded_rows: int
    launches: Mapping[int, int]
    seconds: float
    sizes: Mapping[int, int]


@dataclass(slots=True)
class _Totals:
    """Counters of plans, added up."""

    requests: int = 0
    rows: int = 0
    padded_rows: int = 0
    launches: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    sizes: Counter[int] = field(default_factory=Counter)

    def add(self, prepared: _Prepared) -> None:
        runs, plan = prepared.runs, prepared.plan
        if not runs:
            return
        self.requests += runs
        self.rows += runs * plan.rows
        self.padded_rows += runs * plan.padded_rows
        for gear, count in Counter(launch.gear for launch in plan.launches).items():
            self.launches[gear] += runs * count
        self.seconds += prepared.seconds
        self.sizes[plan.rows] += runs


class _Prepared:
    """A plan made ready, and how often it ran; the runner's counters are sums over these.

    Attributes:
        plan: the plan.
        whole: the gear of the one launch that takes the caller's arrays as they are; 0 where they are sliced or padded.
        padded: the gear of the one launch that needs padding and nothing else; 0 where that is not so.
        expected: what comes back for all rows, and for as many as each launch hands over; None where dimensions are free.
        kept: whether the runner keeps this for the next request of as many rows.
        explores: whether its first launch is there to learn what such a one costs.
        runs: completed requests, as long as it is kept.
        seconds: time they took.
        recent: time each of the last of them took.
    """

    __slots__ = ("expected", "explores", "kept", "padded", "plan", "recent", "runs", "seconds", "whole")

    def __init__(self, plan: Plan, *, whole: int, padded: int, expected: dict[int, _Expected | None], kept: bool) -> None:
        self.plan = plan
        self.whole = whole
        self.padded = padded
        self.expected = expected
        self.kept = kept
        self.explores = False
        self.runs = 0
        self.seconds = 0.0
        self.recent: deque[float] = deque(maxlen=_RECENT)


class Runner:
    """Runs requests of any number of rows on one session, which it owns.

    Thread-safe: any method from any thread, for any session; at most the session's concurrency executes at once.

    States: open, then closed for good. `close` waits for the calls in progress.

    Args:
        session: the opened model; `close` closes it.
        backend: the backend's name, for reports.
        costs: what a launch of each size costs; None uses `AffineCosts()`. A `Calibration` is corrected by launches as they
            come, see `adapt`.
        policy: how requests are split, see `Planner`.
        padding: what rows beyond a request hold: ``"zero"``, ``"repeat"`` (the last row again), or a mapping of input names
            to constants.
        combine: how values of outputs without a batch axis become one over several launches, by output name; see
            `TensorSpec`.
        adapt: whether launches correct costs that were measured by `calibrate`: where a size became slower or faster, requests
            are planned anew. Only launches count that had the session for themselves.
        explore: share of the launches' time, 0 to 1, that may go into learning: launches of sizes that plans avoid, to see
            whether they became faster, and requests whose launches run one after another, where they would overlap, so
            that each can be timed. A request that explores is predicted to take at most one launch longer; 0 never does.
        clock: what launches are timed with; None is the wall clock.
        shelf: where calibrations of this model are kept.
        guard: says whether requests may be split and padded; None lets all.

    Raises:
        InputError: an argument does not fit.
        ContractError: the session's concurrency is below 1.
        After either the session is still open, and still the caller's.
    """

    _closed = True  # until __init__ is through, so that __del__ can tell

    def __init__(
        self,
        session: Session,
        *,
        backend: str = "session",
        costs: Costs | Calibration | None = None,
        policy: Policy = "least_cost",
        padding: Padding = "zero",
        combine: Mapping[str, Combine] | None = None,
        adapt: bool = True,
        explore: float = 0.01,
        clock: Clock | None = None,
        shelf: Shelf | None = None,
        guard: Guard | None = None,
    ) -> None:
        if not 0 <= explore <= 1:
            raise InputError(f"expected explore to be a share of the time, 0 to 1, got {explore!r}")
        self.backend: Final = backend
        self._session = session
        self._spec = spec = _with_combine(session.spec, combine or {})
        self._batching: Batching = session.batching
        self._planner = Planner(self._batching, costs.costs() if isinstance(costs, Calibration) else costs, policy)
        self._staging = Staging(spec, padding)
        self._session_pads = self._batching.pads and self._staging.all_zeros
        self._outputs = {tensor.name: tensor for tensor in spec.outputs}
        self._unbatched = [tensor for tensor in spec.outputs if tensor.batch_axis is None]
        self._row_inputs = [tensor for tensor in spec.inputs if tensor.batch_axis is not None]
        self._common_inputs = [tensor.name for tensor in spec.inputs if tensor.batch_axis is None]
        self._has_symbols = any(isinstance(size, str) for tensor in spec.inputs for size in tensor.shape)
        # Per input: name, dtype, and the rows of each shape that was checked before.
        self._quick: Final = tuple((t.name, t.dtype, cast("dict[tuple[int, ...], int]", {})) for t in spec.inputs)
        if session.concurrency is not None and session.concurrency < 1:
            raise ContractError(f"{backend}: expected a concurrency of at least 1, or None, got {session.concurrency}")
        self._gate = _gate(session.concurrency)
        self._execute = _limited(session.execute, self._gate)
        self._device_clock = clock
        self._clock: Callable[[], float] = perf_counter if clock is None else clock
        self._shelf = shelf
        self._guard = guard
        self._adapt = adapt
        self._explore = explore
        self._live: LiveCosts | None = None
        self._adapting = threading.Lock()  # held while costs change; taken before the other one
        self._workers = session.concurrency or min(4, os.cpu_count() or 1)
        self._executor: ThreadPoolExecutor | None = None
        self._worker_idents: set[int] = set()
        self._prepared: dict[int, _Prepared] = {}
        self._kept_launches = 0

        self._lock = threading.Lock()
        # One entry per call in progress; adding and removing one is atomic. close() sets _closed first and then waits until
        # there is none; a call adds its entry first and then looks at _closed. So one always sees the other.
        self._in_progress: deque[None] = deque()
        self._idle = threading.Condition()
        self._dropped = _Totals()  # counts of plans that are not kept
        self.calibration: Calibration | None = None
        if isinstance(costs, Calibration):
            self._use(costs)
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
    def costs(self) -> Costs:
        """What requests are planned with now."""
        return self._planner.costs

    @property
    def concurrency(self) -> int | None:
        """How many launches the session executes at once; None for any number."""
        return self._session.concurrency

    @property
    def clock(self) -> Clock | None:
        """What launches are timed with; None is the wall clock."""
        return self._device_clock

    @property
    def precision(self) -> str:
        """What the session computes floats in, such as ``"float16"``; empty where it does not say."""
        return str(getattr(self._session, "precision", ""))

    @property
    def memory_bytes(self) -> int | None:
        """What the model takes on the device, in bytes; None where the session does not say."""
        size: int | None = getattr(self._session, "memory_bytes", None)
        return size

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
            ModelError: an output declared to be the same in every launch is not, or the free dimensions of one come out
                differently in each.
            DeviceError: the runtime failed. Other launches may have run, some or all of `out` may be written.
            ContractError: the session returned what its spec rules out; as after DeviceError.
            CoupledRowsError: the request needs padding or splitting, and rows influence one another; nothing was executed.
            ClosedError: close() was called before.
            After any of these but ClosedError the runner is as usable as the session is.
        """
        started = self._clock()
        rows = self._quick_rows(inputs)
        quick = rows >= 0 and out is None
        if rows < 0:
            rows, inputs = self._check_request(inputs)
        prepared = self._prepared.get(rows) or self._prepare(rows)
        live = self._live
        if live is not None and live.attention:
            prepared = self._attend(live, prepared)
        self._in_progress.append(None)
        try:
            if self._closed:
                raise ClosedError(f"{self!r}: run() after close()")
            if quick and prepared.whole:
                outputs = self._execute(inputs, prepared.whole, None)
                if not _as_expected(outputs, prepared.expected[rows]):
                    self._check_results(outputs, rows, _NO_SYMBOLS)
                if type(outputs) is not dict:
                    outputs = dict(outputs)
            elif quick and prepared.padded:
                outputs = self._run_padded(inputs, rows, prepared)
            else:
                outputs = self._run_launches(inputs, prepared, out, self._execute)
            with self._lock:
                prepared.runs += 1
                seconds = self._clock() - started
                prepared.seconds += seconds
                prepared.recent.append(seconds)
                if live is not None:
                    # Not the seconds: on a busy session they are mostly spent waiting for other requests.
                    live.earned += prepared.plan.cost
                if not prepared.kept:
                    self._drop(prepared)
        finally:
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
            return self._pool().submit(self.run, inputs, out=out)

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
        rows = check_rows(rows)
        return (self._prepared.get(rows) or self._prepare(rows)).plan

    @property
    def planner(self) -> Planner:
        """The planner in force. Outputs without rows may rule its plans out, see `plan`; corrected costs bring a new one."""
        return self._planner

    def explain(self, rows: int) -> Explanation:
        """Explain how a request of that many rows is run, and what other policies would cost.

        Raises:
            InputError: see `plan`.
        """
        explanation = explain_rows(self._planner, self.plan(rows))
        if self._guard is not None:
            explanation = replace(explanation, safety=str(self._guard))
        with self._lock:
            prepared = self._prepared.get(rows)
            scale = _IN_A_SECOND.get(explanation.cost_unit)
            if prepared is None or not prepared.runs or scale is None:
                return explanation
            return replace(explanation, runs=prepared.runs, actual=median(prepared.recent) * scale)

    def calibrate(
        self,
        *,
        seconds: float = 10.0,
        tolerance: float = 0.02,
        max_rows: int = 64,
        inputs: Mapping[str, Array] | None = None,
        save: bool | str | os.PathLike[str] = True,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> Calibration:
        """Measure what a launch of each size takes, plan with that from now on, and keep it for the next `anybatch.open`.

        Gears are measured as they are; where any number of rows can be launched, sizes up to `max_rows`, and more of them where
        a row becomes dearer from one size to the next: there, requests are split. Requests that run meanwhile are measured
        with it, so there should be none.

        Args:
            seconds: wall time to spend at most, except that each size is launched once to warm up, and three times more.
            tolerance: stop earlier once half of each median's 95 % confidence interval is at most this share of it; on a wall
                clock not before a tenth of the time is spent, so that a moment in which the machine is busy does not count.
            max_rows: largest size to measure where sizes are free, and largest multiple.
            inputs: rows to measure with, one or more, which are repeated; None makes up random ones.
            save: True keeps the calibration beside the model's file, or among what anybatch keeps where there is none or its
                folder cannot be written; a path saves it there; False nowhere. A runner made without `anybatch.open` has no
                model file: True saves nothing.
            progress: called with the share of the time that is spent, and 1 at the end.

        Raises:
            InputError: an argument does not fit, the model leaves dimensions free that no `inputs` tell, launches take no time
                on the clock, or the file cannot be written; in the last case the runner plans with what was measured.
            ModelError: the model's file is gone, or was changed since it was opened.
            DeviceError: the runtime failed.
            ClosedError: close() was called before.
            After any but a file that cannot be written, the costs are as before.
        """
        sizes = sizes_to_measure(self._batching, max_rows)
        self._in_progress.append(None)
        try:
            if self._closed:
                raise ClosedError(f"{self!r}: calibrate() after close()")
            setting = self._shelf.setting if self._shelf is not None else self._own_setting()
            feeds = self._feeds(max(*sizes, 2 * min(sizes)), inputs)
            launch = _limited(self._session.execute, self._gate)
            begun = perf_counter()
            found = measure(
                lambda size: launch(feeds(size), size, None),
                sizes,
                clock=self._clock,
                seconds=seconds,
                tolerance=tolerance,
                refine=isinstance(self._batching, AnyBatch),
                at_least=AT_LEAST if self._device_clock is None else 0.0,
                progress=progress,
            )
            splitting = self._time_splitting(min(sizes), feeds, launch, seconds / 20)
        finally:
            self._leave()
        calibration = Calibration(found, setting, now(), perf_counter() - begun, tolerance, splitting)
        self._use(calibration)
        if save is True:
            calibration = calibration if self._shelf is None else self._shelf.keep(calibration)
        elif save is not False:
            calibration = calibration.save(save)
        self.calibration = calibration
        return calibration

    def try_rows(
        self,
        *,
        seconds: float = 5.0,
        inputs: Mapping[str, Array] | None = None,
        free: Mapping[str, int] | None = None,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> Trial:
        """Try on the open session whether anything but a row itself changes what is answered for it; see `Trial`.

        Requests that run meanwhile would change what launches leave behind in the session, so there should be none.

        Args:
            seconds: no launch begins later than that; the first one always does.
            inputs: a request of one row or more to try with; None makes up random ones.
            free: sizes of free dimensions where rows are made up, by name; those not named are 8.
            progress: called with the share that is done, at the end with 1.

        Raises:
            InputError: an argument does not fit; nothing was launched.
            ClosedError: close() was called before.
            An error of the session is told in the result, not raised.
        """
        self._in_progress.append(None)
        try:
            if self._closed:
                raise ClosedError(f"{self!r}: try_rows() after close()")
            return try_rows(
                _limited(self._session.execute, self._gate),
                self._spec,
                self._batching,
                seconds=seconds,
                inputs=inputs,
                free=free,
                progress=progress,
            )
        finally:
            self._leave()

    @property
    def safety(self) -> tuple[RowSafety, ...]:
        """What is known about the rows of each output; asked for the first time, it may take seconds to find out.

        Empty where the runner was made without a guard, or no output has rows.
        """
        return () if self._guard is None else self._guard.outputs

    def kept_calibration(self) -> Calibration | None:
        """Return the calibration that is kept for this model, as `anybatch.open` looks for it; None where there is none.

        Raises:
            InputError: one is kept, but cannot be read or does not fit; the message says why.
            ModelError: the model's file is gone, or was changed since it was opened.
        """
        return None if self._shelf is None else self._shelf.find()

    def stats(self) -> Stats:
        """Return what the runner has done so far; one consistent picture, also after close()."""
        with self._lock:
            totals = copy.deepcopy(self._dropped)
            for prepared in self._prepared.values():
                totals.add(prepared)
        return Stats(
            totals.requests,
            totals.rows,
            totals.padded_rows,
            dict(totals.launches),
            totals.seconds,
            dict(sorted(totals.sizes.items())),
        )

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
        with self._idle:
            self._idle.wait_for(lambda: not self._in_progress)
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
            warnings.warn(
                f"{self!r} was left open: use it in a with statement or call close()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Runner on {self.backend}, {self._batching}, {state}>"

    def _pool(self) -> ThreadPoolExecutor:
        """Return the threads of `submit`, as many as the session executes at once; the lock is held."""
        if self._executor is None:
            idents = self._worker_idents  # not self: threads keep what they start with, and would keep the runner
            self._executor = ThreadPoolExecutor(
                self._workers, f"anybatch-{self.backend}", lambda: idents.add(threading.get_ident())
            )
        return self._executor

    def _quick_rows(self, inputs: Mapping[str, Array]) -> int:
        """Return the rows of a request of a kind that was checked before, or -1 where `check_request` must look.

        That is a dict of exactly the inputs, as plain arrays, C-contiguous and aligned, of the right dtypes and of shapes seen.
        """
        if type(inputs) is not dict or len(inputs) != len(self._quick):
            return -1
        rows = -1
        for name, dtype, shapes in self._quick:
            array = inputs.get(name)
            if type(array) is not _NDARRAY:
                return -1
            count = shapes.get(array.shape)
            if count != rows:
                if count is None:
                    return -1
                if count >= 0:  # -1: a tensor without rows goes with any number
                    if rows >= 0:
                        return -1
                    rows = count
            if array.dtype != dtype or array.flags.num & 0x101 != _CONTIGUOUS_ALIGNED:
                return -1
        return rows

    def _check_request(self, inputs: Mapping[str, Array]) -> tuple[int, dict[str, Array]]:
        """Check a request completely, and remember its shapes for `_quick_rows`."""
        rows, arrays = check_request(self._spec, inputs)
        if not self._has_symbols:  # a symbol's size is a matter between inputs, which shapes seen alone do not tell
            for tensor, (name, _, shapes) in zip(self._spec.inputs, self._quick, strict=True):
                if len(shapes) >= _MAX_PLANS:
                    shapes.clear()
                shapes[arrays[name].shape] = -1 if tensor.batch_axis is None else rows
        return rows, arrays

    def _prepare(self, rows: int) -> _Prepared:
        planner = self._planner
        prepared = self._make_ready(self._guarded(planner, self._plan_for_outputs(planner.plan(rows))))
        plan = prepared.plan
        with self._lock:
            launches = self._kept_launches + len(plan.launches)
            if planner is not self._planner or len(self._prepared) >= _MAX_PLANS or launches > _MAX_LAUNCHES:
                return prepared
            kept = self._prepared.setdefault(plan.rows, prepared)
            if kept is prepared:
                prepared.kept = True
                self._kept_launches = launches
            return kept

    def _guarded(self, planner: Planner, plan: Plan) -> Plan:
        """Return `plan`, or one exact launch where rows may influence one another.

        Raises:
            CoupledRowsError: no launch is exact for so many rows.
        """
        if self._guard is None or is_exact(plan, self._batching) or not self._guard.restricts:
            return plan
        whole = planner.plan_whole(plan.rows)
        if whole is None or not is_exact(whole, self._batching):
            raise self._guard.refusal(plan, self._batching)
        return whole

    def _make_ready(self, plan: Plan) -> _Prepared:
        """Return a plan made ready, not kept."""
        fed = {self._fed(launch) for launch in plan.launches}
        gear = plan.launches[0].gear if len(plan.launches) == 1 else 0
        whole = gear if fed == {plan.rows} else 0
        padded = gear if not whole and not self._unbatched else 0
        expected = {count: self._expected(count) for count in {plan.rows, *fed}}
        return _Prepared(plan, whole=whole, padded=padded, expected=expected, kept=False)

    def _fed(self, launch: Launch) -> int:
        """Return how many rows a launch hands to the session: the real ones where that pads, else all of the gear."""
        return launch.rows if self._session_pads else launch.gear

    def _drop(self, prepared: _Prepared) -> None:
        """Move a plan's counts to those of plans that are not kept; the lock is held."""
        self._dropped.add(prepared)
        prepared.runs, prepared.seconds = 0, 0.0

    def _leave(self) -> None:
        """Count a call out, for `close` to see."""
        self._in_progress.pop()
        if self._closed:
            with self._idle:
                self._idle.notify_all()

    def _use(self, calibration: Calibration) -> None:
        """Plan with measured costs from now on, and let launches correct them."""
        costs = calibration.costs()
        with self._adapting:
            self.calibration = calibration
            self._plan_anew(costs)
            if self._adapt and not isinstance(self._batching, MultipleOf):  # multiples leave nothing to choose
                # Other plans than the least-cost one are not made where a policy, an output or coupled rows say which.
                free = self._planner.policy == "least_cost" and not self._unbatched
                explore = self._explore if free and not (self._guard is not None and self._guard.restricts) else 0.0
                live = LiveCosts(costs, explore, _IN_A_SECOND[costs.unit])
                # A simulator's clock says nothing about how long its launches take here.
                one_in = how_many_to_time(costs, live.scale) if self._device_clock is None else 1
                self._execute = _limited(timed(self._session.execute, live, self._clock, one_in), self._gate)
                self._live = live

    def _plan_anew(self, costs: Costs) -> None:
        planner = Planner(self._batching, costs, self._planner.policy)
        with self._lock:
            self._planner = planner
            for prepared in self._prepared.values():
                prepared.kept = False
                self._drop(prepared)
            self._prepared.clear()
            self._kept_launches = 0

    def _attend(self, live: LiveCosts, prepared: _Prepared) -> _Prepared:
        """Do what launches gave reason to, before the next request: plan anew, or explore a size."""
        rows = prepared.plan.rows
        if not self._adapting.acquire(blocking=False):
            return prepared  # another request is at it
        try:
            if live is not self._live:
                return prepared  # calibrated since
            costs = live.take_changes()
            if costs is not None:
                self._plan_anew(costs)
                prepared = self._prepare(rows)
            size = live.wanted() if rows else 0
            if size:
                begun = self._clock()
                plan = self._planner.plan_with(size, rows)
                more = math.inf if plan is None else plan.cost - prepared.plan.cost
                if live.may_explore(size, more) and plan is not None:
                    prepared = self._make_ready(plan)
                    prepared.explores = True
                live.pay((self._clock() - begun) * live.scale)
            return prepared
        finally:
            self._adapting.release()

    def _feeds(self, rows: int, inputs: Mapping[str, Array] | None) -> Callable[[int], Mapping[str, Array]]:
        """Return what hands out the first so many rows of the same `rows` rows."""
        if inputs is None:
            free = [name for tensor in self._spec.inputs for name in free_names(tensor).values()]
            if free:
                raise InputError(
                    f"the model leaves dimensions free, {free}: hand over rows to measure with, calibrate(inputs=...)"
                )
            inputs = random_inputs(self._spec, rows)
        else:
            _, inputs = check_request(self._spec, inputs)
        most = take_rows(self._spec, inputs, rows)

        def feed(size: int) -> dict[str, Array]:
            return {
                tensor.name: most[tensor.name]
                if tensor.batch_axis is None
                else _as_contiguous(tensor.rows_of(most[tensor.name], 0, size))
                for tensor in self._spec.inputs
            }

        return functools.cache(feed)

    def _time_splitting(
        self, size: int, feeds: Callable[[int], Mapping[str, Array]], launch: Callable[..., Mapping[str, Array]], limit_s: float
    ) -> float:
        """Return what each of several launches takes besides its execution, in seconds; 0 where it can take place meanwhile.

        In a loop without executions it would take a tenth of that: what they read evicts the interpreter from the caches.
        """
        aside = self._device_clock is not None or (self._session.concurrency or 1) > 1
        if aside or self._unbatched or isinstance(self._batching, MultipleOf):  # the latter two are never split
            return 0.0
        executing = 0.0

        def timed_launch(inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None) -> Mapping[str, Array]:
            nonlocal executing
            begun = perf_counter()
            results = launch(inputs, gear, out)
            executing += perf_counter() - begun
            return results

        inputs = feeds(2 * size)
        prepared = self._make_ready(Plan(2 * size, (Launch(size, size),) * 2, 0.0, "least_cost"))
        times: list[float] = []
        started = perf_counter()
        while not times or (len(times) < _SPLITS and perf_counter() - started < limit_s):
            executing, begun = 0.0, perf_counter()
            self._run_launches(inputs, prepared, None, timed_launch)
            times.append((perf_counter() - begun - executing) / 2)
        return median(times)

    def _own_setting(self) -> Setting:
        setting = describe_setting(
            backend=self.backend, device=0, batching=self._batching, options={}, clock=self._device_clock
        )
        return replace(setting, runtime=self.backend)

    def _plan_for_outputs(self, plan: Plan) -> Plan:
        """Return a plan that outputs without rows allow: `plan`, or one without padding, or one whole launch."""
        if not self._unbatched or (len(plan.launches) == 1 and not plan.padded_rows):
            return plan
        silent = [tensor.name for tensor in self._unbatched if tensor.combine is None]
        if plan.rows == 0 or silent:
            whole = self._planner.plan_whole(plan.rows) if plan.rows else None
            if whole is None:
                names = silent or [tensor.name for tensor in self._unbatched]
                what = f"{plan.rows} rows are run as {plan}" if plan.rows else "0 rows are not run at all"
                why = self._guard.why(names[0]) if self._guard is not None else ""
                raise InputError(
                    f"output {names[0]!r} has no batch axis, so it has one value per launch, but {what} on {self._batching}"
                    f"{f' ({why})' if why else ''}; "
                    "send a number of rows that is one full launch, or say how values combine: "
                    f"open(..., combine={{{names[0]!r}: 'same' | 'sum' | 'mean' | 'max' | 'min'}})"
                )
            return whole
        if plan.padded_rows and any(tensor.combine != "same" for tensor in self._unbatched):
            return self._planner.plan(plan.rows, exact=True)  # padding would be in the sum
        return plan

    def _expected(self, rows: int) -> _Expected | None:
        """Return name, shape and dtype of each output for that many rows; None where a dimension is free."""
        shapes = {tensor.name: tensor.shape_for(rows) for tensor in self._spec.outputs}
        if any(None in shape for shape in shapes.values()):
            return None
        return tuple((name, tuple(size or 0 for size in shape), self._outputs[name].dtype) for name, shape in shapes.items())

    def _check_results(self, results: Mapping[str, Array], rows: int, symbols: Mapping[str, int]) -> None:
        """Check what a session returned for `rows` rows; `_as_expected` is the quick way.

        Raises:
            ContractError: an output is missing, unknown, or of another dtype or shape than the spec says.
        """
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
                    f"{self.backend}: output {name!r}: expected {tensor} with {rows} rows, "
                    f"got {array.dtype} {list(array.shape)}"
                )

    def _run_padded(self, inputs: Mapping[str, Array], rows: int, prepared: _Prepared) -> dict[str, Array]:
        """Run a short request as one padded launch: `_run_launches` without what only several launches need."""
        gear = prepared.padded
        buffer = self._staging.take(inputs, rows, gear)
        try:
            feed = buffer.arrays
            if self._common_inputs:
                feed = feed | {name: inputs[name] for name in self._common_inputs}
            results = self._execute(feed, gear, None)
        finally:
            self._staging.give_back(buffer)
        if not _as_expected(results, prepared.expected[gear]):
            self._check_results(results, gear, _NO_SYMBOLS)
        # Copies, so that the caller's arrays hold no padding and keep no memory of it alive.
        return {tensor.name: tensor.rows_of(results[tensor.name], 0, rows).copy() for tensor in self._spec.outputs}

    def _run_launches(
        self,
        inputs: Mapping[str, Array],
        prepared: _Prepared,
        out: Mapping[str, Array] | None,
        run_one: Callable[..., Mapping[str, Array]],
    ) -> dict[str, Array]:
        rows = prepared.plan.rows
        symbols = symbols_of(self._spec, inputs) if self._has_symbols else _NO_SYMBOLS
        given = {} if out is None else self._check_out(out, inputs, rows, symbols)
        join = _Join(self._spec, rows, prepared.expected[rows], symbols, given)
        common = {name: _as_contiguous(inputs[name]) for name in self._common_inputs}

        def execute(start: int, launch: Launch) -> None:
            stop, fed = start + launch.rows, self._fed(launch)
            feed = dict(common)
            for tensor in self._row_inputs:
                view = inputs[tensor.name]
                if launch.rows != rows:
                    view = tensor.rows_of(view, start, stop)
                feed[tensor.name] = _as_contiguous(view)
            offered = None
            if fed == launch.rows:
                offered = join.offer(start, stop)
                results = run_one(feed, launch.gear, offered)
            else:
                buffer = self._staging.take(feed, launch.rows, launch.gear)
                feed.update(buffer.arrays)
                try:
                    results = run_one(feed, launch.gear, None)
                finally:
                    self._staging.give_back(buffer)
            if not _as_expected(results, prepared.expected[fed]):
                self._check_results(results, fed, symbols)
            join.add(results, start, stop, offered)

        launches = prepared.plan.launches
        starts = accumulate((launch.rows for launch in launches), initial=0)  # and behind the last, which zip leaves out
        steps = [functools.partial(execute, start, launch) for start, launch in zip(starts, launches, strict=False)]
        # Only where the session says how many launches it takes: a CPU that takes any number is busy with one.
        side_by_side = min(self._session.concurrency or 1, len(steps))
        if side_by_side > 1 and self._live is not None:
            if prepared.explores:
                steps.pop(0)()  # the launch to learn from, before the others overlap it
                side_by_side = min(side_by_side, len(steps))
            elif self._live.may_time_apart(prepared.plan.cost, prepared.recent):
                side_by_side = 1
        if side_by_side == 1:
            for step in steps:
                step()
        else:
            with self._lock:
                pool = self._pool()
            run_side_by_side(steps, pool, side_by_side)
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
    """Results of several launches, or of a padded one, put together in arrays that are allocated once.

    `offer` and `add` may be called from any thread.

    Args:
        spec: the model.
        rows: rows of the request.
        expected: name, shape and dtype of all outputs; None where a dimension is free.
        symbols: sizes of named free dimensions.
        given: arrays of the caller to write into.
    """

    def __init__(
        self, spec: ModelSpec, rows: int, expected: _Expected | None, symbols: Mapping[str, int], given: Mapping[str, Array]
    ) -> None:
        self._outputs = spec.outputs
        self._rows = rows
        self._given = given
        self._arrays = dict(given)
        self._values: dict[str, list[tuple[int, int, Array]]] = {}  # (first row, rows, value)
        self._lock = threading.Lock()
        shapes = {name: shape for name, shape, _ in expected} if expected else {}
        for tensor in spec.outputs:
            if tensor.batch_axis is None or tensor.name in given:
                continue
            shape = shapes.get(tensor.name) or tensor.shape_for(rows, symbols)
            if rows == 0:
                shape = tuple(size or 0 for size in shape)
            if None not in shape:
                self._arrays[tensor.name] = np.empty([size or 0 for size in shape], tensor.dtype)

    def offer(self, start: int, stop: int) -> dict[str, Array] | None:
        """Return the places where rows start..stop of each output go, as far as they are contiguous."""
        offered = {}
        for tensor in self._outputs:
            if tensor.batch_axis is not None and tensor.name in self._arrays:
                place = tensor.rows_of(self._arrays[tensor.name], start, stop)
                if place.flags.carray:
                    offered[tensor.name] = place
        return offered or None

    def add(self, results: Mapping[str, Array], start: int, stop: int, offered: Mapping[str, Array] | None) -> None:
        """Take a launch's results for rows start..stop; what is beyond those rows is padding and is dropped.

        Args:
            results: as the session returned them.
            start, stop: the launch's rows in the request.
            offered: what `offer` returned for them, where it was offered.
        """
        for tensor in self._outputs:
            result = results[tensor.name]
            if tensor.batch_axis is None:
                with self._lock:
                    self._values.setdefault(tensor.name, []).append((start, stop - start, result))
                continue
            if offered is not None and result is offered.get(tensor.name):
                continue
            with self._lock:
                whole = self._arrays.get(tensor.name)
                if whole is None:
                    shape = list(result.shape)
                    shape[tensor.batch_axis] = self._rows * tensor.rows_per_row
                    whole = self._arrays[tensor.name] = np.empty(shape, tensor.dtype)
            place, part = tensor.rows_of(whole, start, stop), tensor.rows_of(result, 0, stop - start)
            if place.shape != part.shape:
                raise ModelError(
                    f"output {tensor.name!r} ({tensor}) has other dimensions in each launch, {list(place.shape)} and then "
                    f"{list(part.shape)}, so they cannot be joined: send a number of rows that is one launch"
                )
            place[...] = part

    def results(self) -> dict[str, Array]:
        """Return one array per output, in the model's order."""
        for tensor in self._outputs:
            if tensor.batch_axis is None:
                # In the order of rows, not of arrival: sums of floats would differ from run to run.
                in_order = sorted(self._values[tensor.name], key=operator.itemgetter(0))
                value = _combine(tensor, [(rows, result) for _, rows, result in in_order])
                if tensor.name in self._given:
                    self._arrays[tensor.name][...] = value
                else:
                    self._arrays[tensor.name] = value
        return {tensor.name: self._arrays[tensor.name] for tensor in self._outputs}


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


def _as_contiguous(array: Array) -> Array:
    return array if array.flags.num & 0x101 == _CONTIGUOUS_ALIGNED else array.copy(order="C")


def _as_expected(results: Mapping[str, Array], expected: _Expected | None) -> bool:
    """Return whether results are plainly right; False where `_check_results` must look."""
    if expected is None or len(results) != len(expected):
        return False
    for name, shape, dtype in expected:
        array = results.get(name)
        if type(array) is not _NDARRAY or array.shape != shape or array.dtype != dtype:
            return False
    return True


_Gate: TypeAlias = "threading.Lock | threading.BoundedSemaphore | None"


def _gate(concurrency: int | None) -> _Gate:
    """Return what lets that many threads in at once; None for any number."""
    if concurrency is None:
        return None
    return threading.Lock() if concurrency == 1 else threading.BoundedSemaphore(concurrency)


def _limited(execute: Callable[..., Mapping[str, Array]], gate: _Gate) -> Callable[..., Mapping[str, Array]]:
    """Return `execute`, entered through a gate."""
    if gate is None:
        return execute

    def execute_limited(inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None) -> Mapping[str, Array]:
        with gate:
            return execute(inputs, gear, out)

    return execute_limited
