"""MLPerf's load generator on a runner: scenarios, its logs, and its verdict.

The load generator (``pip install 'anybatch[loadgen]'``) decides when queries arrive, takes the times and judges them;
`run_scenario` is the system under test, over any `Runner`. What is measured is the runner on this machine, with Python between
the two; it is no MLPerf submission, which has rules beyond what a program can check.

Tests run in a thread of their own. The load generator calls back from there, and an error that left such a callback
would end the process, so none does: the first one is kept, what is outstanding is answered with nothing, the test ends, and the
error is raised in the caller's thread.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from anybatch._batching import AnyBatch, Gears
from anybatch._errors import DeviceError, InputError, MissingPackageError, ModelError
from anybatch._runner import Runner
from anybatch._tensors import Array, ModelSpec, check_request

__all__ = ["SIMULATED", "LoadResult", "Mode", "Scenario", "run_scenario"]

Scenario: TypeAlias = Literal["SingleStream", "MultiStream", "Server", "Offline"]
Mode: TypeAlias = Literal["PerformanceOnly", "AccuracyOnly"]
Results: TypeAlias = Callable[[Sequence[int], Mapping[str, Array]], None]

SIMULATED: Final = "times are those of the simulator's program on this machine, no hardware was measured"

_LOGS: Final = tuple(f"mlperf_log_{name}" for name in ("summary.txt", "detail.txt", "accuracy.json", "trace.json"))
_MARK: Final = ":::MLLOG "
# The share of queries that a scenario's metric, or its bound, is about: the load generator's own defaults.
_SHARES: Final[Mapping[Scenario, float]] = {"SingleStream": 0.9, "MultiStream": 0.99, "Server": 0.99}
# The key of a scenario's metric in the detailed log, its name, its unit, and how many of what is logged are in one of that.
_METRICS: Final[Mapping[Scenario, tuple[str, str, str, float]]] = {
    "SingleStream": ("result_90.00_percentile_latency_ns", "90th percentile latency", "s", 1e9),
    "MultiStream": ("result_99.00_percentile_per_query_latency_ns", "99th percentile latency of a query", "s", 1e9),
    "Server": ("result_completed_samples_per_sec", "completed samples per second", "1/s", 1.0),
    "Offline": ("result_samples_per_second", "samples per second", "1/s", 1.0),
}
_PERCENTILES: Final = (50.0, 90.0, 95.0, 97.0, 99.0, 99.9)
_CONDITIONS: Final[Mapping[str, str]] = {
    "result_perf_constraints_met": "the latency constraint was not met",
    "result_min_duration_met": "the minimum duration was not reached",
    "result_min_queries_met": "the minimum number of queries was not reached",
}
_CONFIDENCE: Final = 0.99  # of the load generator's early stopping
_MOST_PREPARED: Final = 10_000_000  # samples; the load generator keeps some 300 bytes of each
_MOST_WAITING: Final = 64  # queries of Server in AccuracyOnly, which wait for one another instead of a clock
_NO_WAIT_QPS: Final = 1e6  # at which those arrive
_ROWS_OFFLINE: Final = 64  # of a request, at least: what a call of the runner takes is small beside so many
_SPARE: Final = 2.0  # Offline is over with its one query, and invalid if too soon: so that is made larger than was measured
_ROUNDS: Final = 3  # of the warm-up, at least

_one_at_a_time: Final = threading.Lock()  # the load generator's state is the process's
# One thread for all tests: where a thread ends that has run one, the load generator's next test may end the process.
_thread: Final = ThreadPoolExecutor(1, "anybatch-loadgen")


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the load generator found; all figures are from its own detailed log.

    Attributes:
        scenario, mode: as asked for.
        valid: the load generator's verdict; None in AccuracyOnly, where it gives none.
        reasons: which of its conditions were not met; empty where `valid` is not False.
        recommendation: what it recommends to do about that, in its own words; often empty.
        early_stopping: what it says of the number of queries and how sure that makes its verdict, in its own words.
        errors: errors that it logged, such as that it ran out of queries; a valid run may have some.
        metric: name of the scenario's metric; empty in AccuracyOnly.
        value: the metric, in `unit`; NaN in AccuracyOnly.
        unit: ``"s"`` or ``"1/s"``.
        percentiles: by percent (50, 90, 95, 97, 99, 99.9), the latency of a query in seconds; empty in AccuracyOnly. In
            Offline, where there is one query, all are the time until its last sample was answered.
        queries: how many were issued.
        samples: how many they had; a sample is a row of the inputs.
        outputs: in AccuracyOnly without `results`, one array per output with rows, shape as `Runner.run` returns it for all
            the inputs; else empty.
        logs: the load generator's files: summary, detail, accuracy, trace.
        simulated: whether a simulator ran it, so that times are those of its program on this machine.
    """

    scenario: Scenario
    mode: Mode
    valid: bool | None
    reasons: tuple[str, ...]
    recommendation: str
    early_stopping: str
    errors: tuple[str, ...]
    metric: str
    value: float
    unit: str
    percentiles: Mapping[float, float]
    queries: int
    samples: int
    outputs: Mapping[str, Array]
    logs: tuple[Path, ...]
    simulated: bool

    @property
    def verdict(self) -> str:
        """The verdict in the load generator's words, ``"VALID"`` or ``"INVALID"``; ``"no verdict"`` in AccuracyOnly."""
        return "no verdict" if self.valid is None else "VALID" if self.valid else "INVALID"

    @property
    def figure(self) -> str:
        """The metric's value as a person writes it, with its unit; empty in AccuracyOnly."""
        if self.unit == "s":
            return f"{self.value * 1e3:.3g} ms" if self.value >= 1e-3 else f"{self.value * 1e6:.3g} us"
        return f"{self.value:,.0f}" if self.metric else ""

    def __str__(self) -> str:
        figure = f": {self.metric} {self.figure}" if self.metric else ""
        lines = [f"{self.scenario}, {self.mode}: {self.verdict}{figure}; {self.queries} queries, {self.samples} samples"]
        lines += [f"  {each}" for each in (*self.reasons, self.recommendation, *self.errors) if each]
        if self.simulated:
            lines.append(f"  SIMULATED: {SIMULATED}")
        return "\n".join(lines)


def run_scenario(
    runner: Runner,
    inputs: Mapping[str, Array],
    *,
    scenario: Scenario,
    log_folder: str | os.PathLike[str],
    mode: Mode = "PerformanceOnly",
    target_qps: float | None = None,
    target_latency_s: float | None = None,
    samples_per_query: int = 8,
    expected_qps: float | None = None,
    min_duration_s: float = 2.0,
    max_duration_s: float | None = None,
    min_query_count: int | None = None,
    performance_samples: int | None = None,
    request_rows: int | None = None,
    warmup_s: float = 0.3,
    seed: int = 0,
    trace: bool = False,
    results: Results | None = None,
) -> LoadResult:
    """Run one test of MLPerf's load generator on a runner, and return its verdict.

    SingleStream: one row per query, the next when it is answered. MultiStream: `samples_per_query` rows in one run, likewise.
    Server: one row per query, which come by a Poisson process, whether or not others are still being answered; each is a
    request of its own through `Runner.submit`, since a runner does not join requests of several callers. Offline: all rows in
    one query; they go through `Runner.map` in requests of `request_rows`.

    Decision: in AccuracyOnly, where nothing is timed, queries of Server do not wait for their time of arrival.

    Args:
        runner: the open runner; nobody else should use it meanwhile. It stays open.
        inputs: the samples: what `Runner.run` takes, with one row or more. They stay where they are, and must not change.
        log_folder: where the load generator's four files go; it is made, and files of that name in it are replaced.
        mode: ``"PerformanceOnly"`` measures; ``"AccuracyOnly"`` runs every sample and hands its outputs over.
        target_qps: Server: queries that arrive per second; only there, and needed in PerformanceOnly.
        target_latency_s: Server: what 99 % of the queries must be answered in, to be valid; as `target_qps`.
        samples_per_query: MultiStream: rows of a query.
        expected_qps: all but Server: about how many queries per second there will be; in Offline, samples. The load generator
            prepares so many ahead, and calls a run invalid that gets through all of them in less than the minimum duration.
            None measures it in the warm-up.
        min_duration_s: how long the test takes at least. MLPerf's own rules ask for 600.
        max_duration_s: when no further query is issued; None is ten times the minimum. Offline has one query, and is not
            bound by it; it takes 2.2 times the minimum, where it is as fast as the warm-up.
        min_query_count: how many queries are issued at least; in Offline, samples. None takes as many as the load
            generator's early stopping needs with one late query: 64 in SingleStream, 662 in MultiStream and Server; 1 in
            Offline.
        performance_samples: how many of the samples PerformanceOnly chooses from; None takes all.
        request_rows: Offline: rows of a request; None is the least multiple of the largest batch size that is 64 or more.
        warmup_s: how long to run requests like those of the scenario before the test, three rounds at least.
        seed: what the choice of samples and the times of arrival follow from.
        trace: whether to write the trace, of some 650 bytes per query; else its file is empty.
        results: AccuracyOnly: called with the indices of samples and their outputs as `Runner.run` returned them, by one
            thread at a time, so that nothing needs to be kept. Samples come at least once each, in any order.

    Raises:
        InputError: an argument does not fit, a file cannot be written, or another test is running in this process.
        MissingPackageError: the load generator is not installed.
        ModelError: an output's dimensions differ from one request to the next, so that it needs `results`.
        DeviceError: the load generator left no readable log; or as from the runner.
        Whatever the runner or `results` raises is raised as it is, once the test has ended: at the latest when the load
        generator has issued what it had prepared, or, in Server, when so many queries are waiting that it could not be valid
        any more. An interrupt ends it likewise; a second one does not wait for that.
    """
    loadgen = _import()
    rows, inputs = check_request(runner.spec, inputs)
    if rows < 1:
        raise InputError("expected inputs of one row or more to choose samples from, got none")
    settings = _Settings(
        scenario=scenario,
        mode=mode,
        target_qps=target_qps,
        target_latency_s=target_latency_s,
        samples_per_query=samples_per_query,
        expected_qps=expected_qps,
        min_duration_s=min_duration_s,
        max_duration_s=10 * min_duration_s if max_duration_s is None else max_duration_s,
        min_query_count=_fewest(scenario) if min_query_count is None else min_query_count,
        performance_samples=rows if performance_samples is None else performance_samples,
        request_rows=_request_rows(runner) if request_rows is None else request_rows,
        warmup_s=warmup_s,
        seed=seed,
    )
    if settings.performance_samples > rows:
        raise InputError(f"expected performance_samples of at most the {rows} rows there are, got {performance_samples}")
    if results is not None and mode != "AccuracyOnly":
        raise InputError("results are handed over in AccuracyOnly; PerformanceOnly would count the time that takes")
    folder = _make_folder(log_folder)
    system = _System(loadgen, runner, _Samples(runner.spec, inputs, rows), settings, results)

    if not _one_at_a_time.acquire(blocking=False):
        raise InputError("another test of the load generator is running in this process: its state is shared, so wait for that")
    try:
        future = _thread.submit(_test, loadgen, system, settings, folder, trace=trace)
    except BaseException:
        _one_at_a_time.release()
        raise
    try:
        future.result()
    except BaseException as error:
        system.fail(error)  # ends the test, where this is an interrupt
        wait([future])
        raise
    simulated = runner.clock is not None or runner.backend.endswith("-sim")
    return _read_result(folder, system, settings, simulated=simulated)


@dataclass(frozen=True)
class _Settings:
    """The arguments of `run_scenario`, checked.

    Raises:
        InputError: one does not fit.
    """

    scenario: Scenario
    mode: Mode
    target_qps: float | None
    target_latency_s: float | None
    samples_per_query: int
    expected_qps: float | None
    min_duration_s: float
    max_duration_s: float
    min_query_count: int
    performance_samples: int
    request_rows: int
    warmup_s: float
    seed: int

    def __post_init__(self) -> None:
        if self.scenario not in get_args(Scenario) or self.mode not in get_args(Mode):
            raise InputError(
                f"expected a scenario of {list(get_args(Scenario))} and a mode of {list(get_args(Mode))}, "
                f"got {self.scenario!r} and {self.mode!r}"
            )
        for name in ("samples_per_query", "min_query_count", "performance_samples", "request_rows"):
            if not getattr(self, name) >= 1:
                raise InputError(f"expected {name} >= 1, got {getattr(self, name)}")
        for name in ("target_qps", "target_latency_s", "expected_qps", "min_duration_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"expected {name} to be a number above 0, got {value}")
        if not self.min_duration_s <= self.max_duration_s < math.inf:
            raise InputError(f"expected max_duration_s >= min_duration_s, {self.min_duration_s}, got {self.max_duration_s}")
        if not 0 <= self.warmup_s < math.inf or not 0 <= self.seed < 1 << 64:
            raise InputError(f"expected warmup_s >= 0 and a seed of 64 bits, got {self.warmup_s} and {self.seed}")
        targets = (self.target_qps, self.target_latency_s)
        if self.scenario != "Server":
            if targets != (None, None):
                raise InputError(
                    f"target_qps and target_latency_s are for Server: in {self.scenario} the load generator finds out what "
                    "they are"
                )
        elif self.mode == "AccuracyOnly":
            return
        elif self.target_qps is None or self.target_latency_s is None or self.expected_qps is not None:
            raise InputError("expected target_qps and target_latency_s for Server, and no expected_qps")
        elif self.target_qps * self.max_duration_s < self.min_query_count:
            raise InputError(
                f"at {self.target_qps:g} queries per second, {self.min_query_count} of them take longer than "
                f"{self.max_duration_s:g} s: raise max_duration_s or target_qps, or lower min_query_count"
            )

    def check_prepared(self, qps: float) -> None:
        """Check that what the load generator prepares fits into memory.

        Args:
            qps: queries, in Offline samples, that are expected per second.
        """
        per_query = self.samples_per_query if self.scenario == "MultiStream" else 1
        ahead = 1.0 if self.scenario == "Server" else 1.1 if self.scenario == "Offline" else 2.0
        prepared = max(self.min_query_count, ahead * qps * self.min_duration_s) * per_query
        if self.mode == "PerformanceOnly" and prepared > _MOST_PREPARED:
            raise InputError(
                f"the load generator would prepare {prepared:,.0f} samples in memory for {self.min_duration_s:g} s, and "
                f"{_MOST_PREPARED:,} are the most here: choose a shorter min_duration_s"
            )

    @property
    def most_waiting(self) -> int:
        """How many queries of Server may wait before the test is ended, because it could not be valid any more.

        With ten times as many as arrive within the latency bound, nine of ten are late; where these are two in a hundred of all
        queries, more than the one in a hundred is late that may be. The least is for bursts, which Poisson processes have.
        """
        assert self.target_qps is not None
        assert self.target_latency_s is not None
        queries = max(self.target_qps * self.min_duration_s, self.min_query_count)
        late = 2 * (1 - _SHARES["Server"]) * queries
        return round(max(10 * self.target_qps * self.target_latency_s, late, 16))


def _test(loadgen: Any, system: _System, settings: _Settings, folder: Path, *, trace: bool) -> None:
    """Warm up, run the test, and let the next one begin.

    Raises:
        InputError: too many queries would be prepared.
        Whatever ended the test early.
    """
    try:
        qps = system.warm_up()
        qps = settings.target_qps or settings.expected_qps or qps
        settings.check_prepared(qps)
        if system.error is None:
            _start(loadgen, system, _native_settings(loadgen, settings, qps), settings, folder, trace=trace)
        if system.error is not None:
            raise system.error
    finally:
        _one_at_a_time.release()


def _start(loadgen: Any, system: _System, native: Any, settings: _Settings, folder: Path, *, trace: bool) -> None:
    output = loadgen.LogOutputSettings()
    output.outdir = os.fspath(folder)
    logs = loadgen.LogSettings()
    logs.log_output = output
    logs.enable_trace = trace

    def nothing(_indices: list[int]) -> None:
        """The samples are in memory already."""

    sut = loadgen.ConstructFastSUT(system.issue, system.flush)
    try:
        qsl = loadgen.ConstructQSL(system.samples.rows, settings.performance_samples, nothing, nothing)
        try:
            # No file of audit settings: one that happens to lie in the working directory would change the test.
            loadgen.StartTestWithLogSettings(sut, qsl, native, logs, "")
        finally:
            loadgen.DestroyQSL(qsl)
    finally:
        loadgen.DestroyFastSUT(sut)


def _native_settings(loadgen: Any, settings: _Settings, qps: float) -> Any:
    native = loadgen.TestSettings()
    native.scenario = getattr(loadgen.TestScenario, settings.scenario)
    native.mode = getattr(loadgen.TestMode, settings.mode)
    native.min_duration_ms = math.ceil(settings.min_duration_s * 1e3)
    native.max_duration_ms = math.ceil(settings.max_duration_s * 1e3)
    native.min_query_count = settings.min_query_count
    native.qsl_rng_seed = native.sample_index_rng_seed = native.schedule_rng_seed = settings.seed
    native.single_stream_expected_latency_ns = native.multi_stream_expected_latency_ns = 1e9 / qps
    native.multi_stream_samples_per_query = settings.samples_per_query
    native.offline_expected_qps = qps
    native.server_target_qps = _NO_WAIT_QPS
    if settings.scenario == "Server" and settings.mode == "PerformanceOnly":
        assert settings.target_latency_s is not None
        native.server_target_latency_ns = math.ceil(settings.target_latency_s * 1e9)
        native.server_target_qps = qps
        native.server_max_async_queries = settings.most_waiting
    for name, share in _SHARES.items():
        prefix = {"SingleStream": "single_stream", "MultiStream": "multi_stream", "Server": "server"}[name]
        setattr(native, f"{prefix}_target_latency_percentile", share)
    return native


class _Samples:
    """The caller's inputs, chosen from by row; pure."""

    def __init__(self, spec: ModelSpec, inputs: Mapping[str, Array], rows: int) -> None:
        self.rows: Final = rows
        self._common: Final = {t.name: inputs[t.name] for t in spec.inputs if t.batch_axis is None}
        self._batched: Final = [(t, inputs[t.name]) for t in spec.inputs if t.batch_axis is not None]

    def take(self, indices: Sequence[int]) -> dict[str, Array]:
        """Return a request of these rows: a view for one, else a copy."""
        if len(indices) == 1:
            return self._common | {t.name: t.rows_of(a, indices[0], indices[0] + 1) for t, a in self._batched}
        chosen = np.asarray(indices)
        request = dict(self._common)
        for tensor, array in self._batched:
            factor = tensor.rows_per_row
            places = chosen if factor == 1 else (chosen[:, None] * factor + np.arange(factor)).ravel()
            request[tensor.name] = np.take(array, places, axis=tensor.batch_axis)
        return request


class _System:
    """The system under test: what the load generator calls, from its own threads. Nothing is raised there.

    States: running; once `fail` was called, failing: queries are answered with nothing. In Server they are held back
    until the test issues no more, since that is what makes it stop; see `_Settings.most_waiting`.
    """

    def __init__(self, loadgen: Any, runner: Runner, samples: _Samples, settings: _Settings, results: Results | None) -> None:
        self.samples: Final = samples
        self.error: BaseException | None = None
        self.queries = 0
        self.issued = 0
        self.outputs: dict[str, Array] = {}
        self._loadgen: Final = loadgen
        self._runner: Final = runner
        self._settings: Final = settings
        self._results: Final = results
        self._keeps: Final = settings.mode == "AccuracyOnly"
        self._keeping: Final = threading.Lock()
        self._lock: Final = threading.Lock()
        self._pending: set[Future[dict[str, Array]]] = set()
        # In PerformanceOnly nothing but the clock may keep a query waiting.
        self._room: Final = threading.Semaphore(_MOST_WAITING) if self._keeps else None
        self._held: list[int] = []
        self._holds = settings.scenario == "Server" and not self._keeps
        self._answer: Final[Callable[[list[int], list[int]], None]] = {
            "SingleStream": self._run,
            "MultiStream": self._run,
            "Server": self._submit,
            "Offline": self._map,
        }[settings.scenario]

    def fail(self, error: BaseException) -> None:
        """End the test as soon as may be; the first error counts."""
        if self.error is None:
            self.error = error

    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Answer a query, now or later."""
        self.queries += 1
        self.issued += len(ids)
        if self.error is not None:
            self._give_up(ids)
        else:
            self._answer(ids, indices)

    def flush(self) -> None:
        """Take note that no further query comes."""
        with self._lock:
            self._holds = False
            held, self._held = self._held, []
            pending = list(self._pending)
        if self.error is not None:
            self._give_up(held)
            for future in pending:
                future.cancel()

    def warm_up(self) -> float:
        """Run requests like those of the scenario, and return how many queries, in Offline samples, to expect per second.

        For Offline more than there were, since that must not be over too soon; for others the most there were in a round.
        """
        settings, samples = self._settings, self.samples
        offline = settings.scenario == "Offline"
        size = {"MultiStream": settings.samples_per_query, "Offline": 4 * settings.request_rows}.get(settings.scenario, 1)
        begun, best, rounds = perf_counter(), math.inf, 0
        while self.error is None and (rounds < _ROUNDS or perf_counter() - begun < settings.warmup_s):
            indices = [row % samples.rows for row in range(rounds * size, (rounds + 1) * size)]
            started = perf_counter()
            if offline:
                for _ in self._runner.map(map(samples.take, self._parts(indices))):
                    pass
            else:
                self._runner.run(samples.take(indices))
            best = min(best, perf_counter() - started)
            rounds += 1
        return _SPARE * size * rounds / (perf_counter() - begun) if offline else 1 / best

    def _run(self, ids: list[int], indices: list[int]) -> None:
        try:
            outputs = self._runner.run(self.samples.take(indices))
        except BaseException as error:  # raised in the caller's thread
            self.fail(error)
            self._give_up(ids)
        else:
            self._complete(ids, indices, outputs)

    def _map(self, ids: list[int], indices: list[int]) -> None:
        done = 0
        try:
            answers = self._runner.map(map(self.samples.take, self._parts(indices)))
            for part, outputs in zip(self._parts(indices), answers, strict=True):
                self._complete(ids[done : done + len(part)], part, outputs)
                done += len(part)
                if self.error is not None:
                    break
        except BaseException as error:  # raised in the caller's thread
            self.fail(error)
        self._give_up(ids[done:])

    def _submit(self, ids: list[int], indices: list[int]) -> None:
        for id_, index in zip(ids, indices, strict=True):
            try:
                if self._room is not None:
                    self._room.acquire()
                future = self._runner.submit(self.samples.take([index]))
            except BaseException as error:  # raised in the caller's thread
                self.fail(error)
                self._give_up([id_])
                continue
            with self._lock:
                self._pending.add(future)

            def answered(future: Future[dict[str, Array]], id_: int = id_, index: int = index) -> None:
                with self._lock:
                    self._pending.discard(future)
                if self._room is not None:
                    self._room.release()
                try:
                    outputs = future.result()
                except BaseException as error:  # raised in the caller's thread
                    self.fail(error)
                    self._give_up([id_])
                else:
                    self._complete([id_], [index], outputs)

            future.add_done_callback(answered)

    def _parts(self, indices: list[int]) -> Iterator[list[int]]:
        rows = self._settings.request_rows
        return (indices[start : start + rows] for start in range(0, len(indices), rows))

    def _give_up(self, ids: list[int]) -> None:
        with self._lock:
            if self._holds:
                self._held += ids
                return
        self._respond([(id_, 0, 0) for id_ in ids])

    def _complete(self, ids: list[int], indices: list[int], outputs: Mapping[str, Array]) -> None:
        """Answer samples; in AccuracyOnly with all their outputs, one after another as bytes in C order."""
        if not self._keeps:
            self._respond([(id_, 0, 0) for id_ in ids])
            return
        data: list[Array] = []
        try:
            self._keep(indices, outputs)
            data = [self._bytes_of(outputs, row) for row in range(len(ids))]
        except BaseException as error:  # raised in the caller's thread
            self.fail(error)
            self._give_up(ids)
        else:
            self._respond([(id_, each.ctypes.data, each.nbytes) for id_, each in zip(ids, data, strict=True)])

    def _respond(self, responses: list[tuple[int, int, int]]) -> None:
        if responses:
            made = self._loadgen.QuerySampleResponse
            self._loadgen.QuerySamplesComplete([made(*response) for response in responses])

    def _keep(self, indices: list[int], outputs: Mapping[str, Array]) -> None:
        with self._keeping:
            if self._results is not None:
                self._results(tuple(indices), outputs)
                return
            for tensor in self._runner.spec.outputs:
                if tensor.batch_axis is None:
                    continue
                got = outputs[tensor.name]
                shape = list(got.shape)
                shape[tensor.batch_axis] = self.samples.rows * tensor.rows_per_row
                if tensor.name not in self.outputs:
                    self.outputs[tensor.name] = np.empty(shape, got.dtype)
                whole = self.outputs[tensor.name]
                if list(whole.shape) != shape:
                    raise ModelError(
                        f"output {tensor.name!r} ({tensor}) has other dimensions in each request, so it cannot be kept as one "
                        "array: give `results`, which is handed each"
                    )
                for row, index in enumerate(indices):
                    tensor.rows_of(whole, index, index + 1)[...] = tensor.rows_of(got, row, row + 1)

    def _bytes_of(self, outputs: Mapping[str, Array], row: int) -> Array:
        tensors = [tensor for tensor in self._runner.spec.outputs if tensor.batch_axis is not None]
        parts = [tensor.rows_of(outputs[tensor.name], row, row + 1).tobytes() for tensor in tensors]
        return np.frombuffer(b"".join(parts), np.uint8)


def _import() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingPackageError("MLPerf's load generator is not installed: pip install 'anybatch[loadgen]'") from error
    return mlperf_loadgen


def _make_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the folder, with empty logs in it: where it cannot write them, the load generator would end the process."""
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in _LOGS:
            (path / name).write_bytes(b"")
    except OSError as error:
        raise InputError(f"{path}: the load generator's logs cannot be written there: {error.strerror or error}") from error
    return path


def _fewest(scenario: Scenario) -> int:
    """Return the fewest queries with which a verdict can be sure, one late query included."""
    share = _SHARES.get(scenario)
    if share is None:
        return 1
    # How likely so many in time, with at most one late, would be if too many were late in the long run.
    in_time = 1
    while share**in_time * (1 + in_time * (1 - share)) > 1 - _CONFIDENCE:
        in_time += 1
    return in_time + 1


def _request_rows(runner: Runner) -> int:
    batching = runner.batching
    largest = 1 if isinstance(batching, AnyBatch) else max(batching.sizes) if isinstance(batching, Gears) else batching.size
    return -(-_ROWS_OFFLINE // largest) * largest


def _read_result(folder: Path, system: _System, settings: _Settings, *, simulated: bool) -> LoadResult:
    log = _Log(folder / _LOGS[1])
    valid: bool | None = None
    reasons: list[str] = []
    recommendation = early_stopping = metric = unit = ""
    value = math.nan
    percentiles = {}
    if settings.mode == "PerformanceOnly":
        verdict = log.get("result_validity", str)
        if verdict not in ("VALID", "INVALID"):
            raise log.unreadable(f"expected result_validity to be VALID or INVALID, got {verdict!r}")
        valid = verdict == "VALID"
        early_stopping = " ".join(log.get("early_stopping_result", str).replace(" * ", " ").split())
        if not valid:
            reasons = [text for key, text in _CONDITIONS.items() if log.values.get(key) is False]
            if not log.get("early_stopping_met", bool):
                reasons.append(f"too few queries, or too few in time, to be sure: {early_stopping}")
            recommendation = log.get("result_invalid_reason", str).strip()
        key, metric, unit, scale = _METRICS[settings.scenario]
        value = log.get(key, float) / scale
        per_query = "per_query_" * (settings.scenario == "MultiStream")
        percentiles = {
            percent: log.get(f"result_{percent:.2f}_percentile_{per_query}latency_ns", float) / 1e9 for percent in _PERCENTILES
        }
    return LoadResult(
        scenario=settings.scenario,
        mode=settings.mode,
        valid=valid,
        reasons=tuple(reasons),
        recommendation=recommendation,
        early_stopping=early_stopping,
        errors=log.errors,
        metric=metric,
        value=value,
        unit=unit,
        percentiles=percentiles,
        queries=system.queries,
        samples=system.issued,
        outputs=system.outputs,
        logs=tuple(folder / name for name in _LOGS),
        simulated=simulated,
    )


class _Log:
    """The load generator's detailed log: a line of JSON per entry, behind a mark.

    Raises:
        DeviceError: the file cannot be read, or is not that.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self.values: Final[dict[str, Any]] = {}
        errors = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise self.unreadable(str(error)) from error
        for number, line in enumerate(lines, 1):
            entry: Any = None
            with suppress(json.JSONDecodeError):
                entry = json.loads(line.removeprefix(_MARK))
            if not line.startswith(_MARK) or not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
                raise self.unreadable(f"line {number}: expected {_MARK!r} and JSON with a key, got {line[:80]!r}")
            self.values[entry["key"]] = entry.get("value")
            if (entry.get("metadata") or {}).get("is_error"):
                errors.append(str(entry.get("value")))
        if not self.values:
            raise self.unreadable("it is empty: the load generator wrote nothing")
        self.errors: Final = tuple(errors)

    def get(self, key: str, kind: type[Any]) -> Any:
        """Return a value of that type.

        Raises:
            DeviceError: there is none.
        """
        value = self.values.get(key)
        if not isinstance(value, (int, float) if kind is float else kind) or (kind is float and isinstance(value, bool)):
            raise self.unreadable(f"expected {key} of type {kind.__name__}, got {value!r}")
        return value

    def unreadable(self, problem: str) -> DeviceError:
        """Return the error that says so."""
        return DeviceError(f"{self._path}: {problem}", backend="mlperf_loadgen", operation="reading the log")
