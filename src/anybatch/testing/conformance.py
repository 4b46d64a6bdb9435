"""BackendConformance: what every backend must show, one method per requirement.

    class TestMine(BackendConformance):
        @pytest.fixture
        def backend(self) -> Backend:
            return MyBackend()

That is all. The names of the methods are the list of requirements; the first lines of their docstrings say them in full, and
they follow `anybatch.Session` and `anybatch.Backend` in order, and `anybatch.Compiler` where a backend is one. A check asks
what a session can do (its batching, its concurrency), never whose it is. Every check opens what it needs, so each can be run
alone, also without pytest: ``TestMine().test_short_launches(MyBackend())``.

A failure is an AssertionError that says what was expected and what came, a ContractError of the Runner, or whatever
the backend itself raised.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
import tempfile
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final, Literal

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anybatch import (
    AnyBatch,
    AnybatchError,
    Array,
    Backend,
    BackendUnavailableError,
    Batching,
    ClosedError,
    Compiled,
    Compiler,
    Gears,
    InputError,
    Launch,
    Model,
    ModelError,
    MultipleOf,
    Policy,
    Runner,
    Session,
    TableCosts,
    TensorSpec,
)
from anybatch.testing.models import (
    AFFINE,
    AFFINE_TWIN,
    AXIS_1,
    AXIS_MOVES,
    BY_DTYPE,
    CONVOLUTION,
    MODELS,
    PROBES,
    ROWS_TIMES_3,
    SAME,
    SCALAR,
    SEVERAL,
    SUMMED,
    TABLE,
    VIEWS,
    WIDE,
    ReferenceModel,
)
from anybatch.testing.strategies import (
    gears_of,
    launches_that_hurt,
    request_sizes,
    short_launches,
    sizes_that_hurt,
)

_THREADS: Final = 16
_CYCLES: Final = 5
# Far more than any check takes: it only turns a deadlock into a failure.
_DEADLOCK_S: Final = 120.0
_GUARD: Final = -777.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Something a backend does not do, and is expected not to: strict, so closing it is noticed.

    Attributes:
        error: what it must raise; AssertionError where the check simply fails.
        reason: why, for the report.
        whose: whose move it is.
    """

    error: type[Exception]
    reason: str
    whose: Literal["ours to do", "the vendor's to do", "never"]


def _with_gaps(cls: type[BackendConformance]) -> type[BackendConformance]:
    """Let every check expect the gap that is declared under its own name."""
    for name, check in list(vars(cls).items()):
        if name.startswith("test_"):
            setattr(cls, name, _expecting_gap(check))
    return cls


def _expecting_gap(check: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(check)
    def checked(self: BackendConformance, backend: Backend) -> None:
        with _expected(self.gaps.get(check.__name__), check.__name__):
            check(self, backend)

    return checked


@contextmanager
def _expected(gap: Gap | None, what: str) -> Iterator[None]:
    """Require what is inside to raise the gap's error, and end the test as xfailed then; without a gap, do nothing."""
    if gap is None:
        yield
        return
    try:
        yield
    except gap.error as error:
        pytest.xfail(f"{gap.whose}: {gap.reason} ({type(error).__name__}: {error})")
    raise AssertionError(f"the gap {what!r} is closed, no {gap.error.__name__} was raised: take it out of gaps")


@_with_gaps
class BackendConformance:
    """Inherit this in a class of tests and give it a fixture named ``backend``; see the module.

    What a backend must be told or cannot do is said by overriding these attributes, `open_options` and `resources`.

    Attributes:
        batch_sizes: what models are opened with, at least one above 1; None takes what the models offer.
        device: the index of the device to open them on.
        tolerances: (rtol, atol) by name of dtype; results of other dtypes must be exact.
        gaps: what the backend does not do, by name of a check or of a model:
            ``{"bfloat16": Gap(ModelError, "the chip has none", "never")}``. In every check that opens the model,
            or in that check, the error must be raised; the check then ends as an expected failure.
    """

    batch_sizes: ClassVar[Sequence[int] | None] = (1, 4, 8)
    device: ClassVar[int] = 0
    tolerances: ClassVar[Mapping[str, tuple[float, float]]] = {
        "float64": (1e-12, 1e-12),
        "float32": (1e-5, 1e-5),
        "float16": (2e-3, 1e-3),
        "bfloat16": (2e-2, 1e-2),
    }
    gaps: ClassVar[Mapping[str, Gap]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = {model.name for model in (*MODELS, *PROBES)} | {name for name in dir(cls) if name.startswith("test_")}
        for name in cls.gaps:
            if name not in known:
                raise TypeError(f"{cls.__name__}.gaps names {name!r}, which is neither a check nor a model")

    def open_options(self, model: ReferenceModel) -> Mapping[str, object]:  # noqa: ARG002  # for those who override it
        """Return the backend's options to open a model with, such as which axes carry rows where it cannot know."""
        return {}

    def compile_options(self, model: ReferenceModel) -> Mapping[str, object]:  # noqa: ARG002  # as above
        """Return those of `open_options` that a model is compiled with, where the backend is an `anybatch.Compiler`.

        What it compiled is then opened with the others.
        """
        return {}

    def resources(self) -> dict[str, int]:
        """Count what must not grow as sessions are opened, used and closed; extend it with what your runtime can count."""
        gc.collect()
        counts = {"Python threads": threading.active_count()}
        for name, folder in {"threads": Path("/proc/self/task"), "file descriptors": Path("/proc/self/fd")}.items():
            if folder.is_dir():
                counts[name] = len(os.listdir(folder))  # noqa: PTH208  # iterating would hold a descriptor of its own
        return counts

    # ---------------------------------------------------------------------------------------------- the backend itself

    def test_it_is_a_backend(self, backend: Backend) -> None:
        """The backend has every member of `anybatch.Backend`, its session every one of `anybatch.Session`."""
        _require(isinstance(backend, Backend), f"expected the members of anybatch.Backend, got {backend!r}")
        with self.session(backend, AFFINE) as session:
            _require(isinstance(session, Session), f"expected the members of anybatch.Session, got {session!r}")
            _check_concurrency(session)

    def test_what_it_says_for_reports(self, backend: Backend) -> None:
        """A session that says its precision names a dtype, or nothing; one that says its memory says whole bytes, or None."""
        with self.session(backend, AFFINE) as session:
            precision, size = getattr(session, "precision", ""), getattr(session, "memory_bytes", None)
            named = isinstance(precision, str) and (not precision or _is_dtype(precision))
            _require(named, f"expected a precision such as 'float16', or '', got {precision!r}")
            sound = size is None or (type(size) is int and size >= 0)
            _require(sound, f"expected memory_bytes to be None or an int of 0 or more, got {size!r}")

    def test_name_is_stable(self, backend: Backend) -> None:
        """The name is a word, and the same each time."""
        name = backend.name
        _require(isinstance(name, str) and name.split() == [name], f"expected a name without spaces, got {name!r}")
        _require(backend.name == name, f"expected the name {name!r} each time, got {backend.name!r}")

    def test_suffixes_begin_with_a_dot(self, backend: Backend) -> None:
        """File suffixes are in lower case, with their dot."""
        suffixes = backend.suffixes
        _require(not isinstance(suffixes, str), f"expected a collection of suffixes, got {suffixes!r}")
        for suffix in suffixes:
            sound = isinstance(suffix, str) and suffix.startswith(".") and len(suffix) > 1 and suffix == suffix.lower()
            _require(sound, f"expected suffixes such as '.onnx', got {suffix!r}")

    def test_check_usable_is_one_line(self, backend: Backend) -> None:
        """A usable backend names its runtime in one line."""
        line = backend.check_usable()
        _require(isinstance(line, str) and bool(line.strip()), f"expected a line that names the runtime, got {line!r}")
        _require(len(line.splitlines()) == 1, f"expected a single line, got {line!r}")

    # --------------------------------------------------------------------------------------------------------- opening

    def test_opens_file_bytes_and_proto(self, backend: Backend) -> None:
        """The same model is opened from a file, from bytes and from an onnx.ModelProto, and none of them is changed."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a model.onnx")  # with a space, which a compiler's command line may stumble over
            for model in (AFFINE, AFFINE_TWIN):
                path.write_bytes(model.onnx_bytes)
                proto = model.proto()
                sources: dict[str, Model] = {"file": path, "bytes": model.onnx_bytes, "proto": proto}
                for kind, source in sources.items():
                    with self.session(backend, model, source=source) as session:
                        launch = launches_that_hurt(session.batching)[0]
                        self._check_launch(session, model, launch, _rng(), f"opened from {kind}")
                _require(path.read_bytes() == model.onnx_bytes, "expected the model file to be left alone, but it was changed")
                _require(proto == model.proto(), "expected the caller's ModelProto to be left alone, but it was changed")

    def test_batch_sizes_are_the_ones_asked_for(self, backend: Backend) -> None:
        """A session runs the batch sizes it was asked for, no more and no fewer."""
        asked = [self.batch_sizes] if self.batch_sizes is None else [self.batch_sizes, [max(self.batch_sizes)]]
        for sizes in asked:
            with self.session(backend, AFFINE, batch_sizes=sizes) as session:
                batching = session.batching
                _require(isinstance(batching, (Gears, MultipleOf, AnyBatch)), f"expected a Batching, got {batching!r}")
                if sizes is not None:
                    multiple = (batching.size,) if isinstance(batching, MultipleOf) else ()
                    got = batching.sizes if isinstance(batching, Gears) else multiple
                    _require(got == tuple(sorted(sizes)), f"opened for {sorted(sizes)}: expected those, got {batching}")

    def test_corrupt_model_is_a_model_error(self, backend: Backend) -> None:
        """What is no model is refused with ModelError, from bytes and from a file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            for what, content in _CORRUPT.items():
                path.write_bytes(content)
                for source in (content, path):
                    with _refused(ModelError, f"opening {what} from {type(source).__name__}"):
                        self.open(backend, AFFINE, source=source).close()

    def test_unknown_option_is_an_input_error(self, backend: Backend) -> None:
        """An option the backend does not have is refused with InputError, which names it."""
        with _refused(InputError, "opening with the option 'no_such_option'", naming="no_such_option"):
            self.open(backend, AFFINE, no_such_option=1).close()

    def test_impossible_device_is_refused(self, backend: Backend) -> None:
        """A device that is not there is refused with InputError or BackendUnavailableError, never replaced by another."""
        with _refused((InputError, BackendUnavailableError), "opening on device 1000000"):
            self.open(backend, AFFINE, device=1_000_000).close()

    def test_failed_open_leaks_nothing(self, backend: Backend) -> None:
        """Opening that fails leaves nothing behind, no thread and no file descriptor."""

        def fail() -> None:
            for content in _CORRUPT.values():
                with suppress(AnybatchError):
                    self.open(backend, AFFINE, source=content).close()
            with suppress(AnybatchError):
                self.open(backend, AFFINE, no_such_option=1).close()

        self._check_nothing_grows(fail, "failing to open")

    # ------------------------------------------------------------------------------- compiling, where a backend does that

    def test_compiled_model_opens_as_it_is(self, backend: Backend) -> None:
        """What a `Compiler` makes is opened as it is: with the batch sizes and the spec it says, and the right answers."""
        if not isinstance(backend, Compiler):
            return
        for model in (AFFINE, SEVERAL):
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder, f"a model{self._artefact_suffix(backend)}")
                output.write_bytes(b"what was there before")
                compiled = self._compile(backend, model, output)
                _require(compiled.path == output, f"expected the artefact at {output}, got {compiled.path}")
                names = sorted(path.name for path in Path(folder).iterdir())
                _require(names == [output.name], f"expected nothing but {output.name!r} in its folder, got {names}")
                self._check_artefact(backend, model, compiled)

    def test_compiled_model_is_kept(self, backend: Backend) -> None:
        """Without a place to put it, a `Compiler` keeps the artefact; compiling the same again finds it, another model not."""
        if not isinstance(backend, Compiler):
            return
        for model in (AFFINE, AFFINE_TWIN, AFFINE):
            compiled = self._compile(backend, model, None)
            self._check_artefact(backend, model, compiled)
            if compiled.temporary:
                compiled.path.unlink()
        found = compiled.cached or compiled.temporary
        _require(found, "compiled for the second time: expected what was made before to be found, but it was made anew")

    def test_failed_compile_leaves_no_file(self, backend: Backend) -> None:
        """What a `Compiler` cannot compile is a ModelError, an option it does not have an InputError, and no file is left."""
        if not isinstance(backend, Compiler):
            return
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, f"model{self._artefact_suffix(backend)}")

            def nothing_left(what: str) -> None:
                names = sorted(path.name for path in Path(folder).iterdir())
                _require(not names, f"{what}: expected no file to be left, got {names}")

            for what, content in _CORRUPT.items():
                with _refused(ModelError, f"compiling {what}"):
                    self._compile(backend, AFFINE, output, source=content)
                nothing_left(f"compiling {what}")
            with _refused(InputError, "compiling with the option 'no_such_option'", naming="no_such_option"):
                self._compile(backend, AFFINE, output, no_such_option=1)
            nothing_left("compiling with an unknown option")

    # -------------------------------------------------------------------------------------------------- spec, batching

    def test_spec_matches_the_model(self, backend: Backend) -> None:
        """The spec has the model's inputs and outputs, in its order, with dtype, shape and batch axis of each."""
        for model in (AFFINE, SEVERAL):
            with self.session(backend, model) as session:
                _check_spec(session, model)

    def test_spec_and_batching_never_change(self, backend: Backend) -> None:
        """The spec is one object for the session's whole life; batching and concurrency never change."""
        with self.session(backend, AFFINE) as session:
            spec, batching, concurrency = session.spec, session.batching, session.concurrency
            for launch in launches_that_hurt(batching):
                session.execute(AFFINE.random_inputs(_rng(), launch.rows), launch.gear)
                _require(session.spec is spec, f"expected one spec for the session's whole life, got another after {launch}")
                _require(session.batching == batching, f"expected {batching} after {launch}, got {session.batching}")
                _require(session.concurrency == concurrency, f"expected concurrency {concurrency}, got {session.concurrency}")

    # ------------------------------------------------------------------------------------------------------ one launch

    def test_full_launches(self, backend: Backend) -> None:
        """Every gear runs, and gives the reference's rows."""
        rng = _rng()
        with self.session(backend, AFFINE) as session:
            for gear in gears_of(session.batching):
                self._check_launch(session, AFFINE, Launch(gear, gear), rng)

    def test_short_launches(self, backend: Backend) -> None:
        """A session that pads by itself returns as many rows as it got; any other refuses fewer rows than the gear."""
        rng = _rng()
        with self.session(backend, AFFINE) as session:
            short = [launch for gear in gears_of(session.batching) for launch in short_launches(gear)]
            _require(bool(short), "a batch size of 1 leaves nothing to look at: set batch_sizes to some above 1")
            for launch in short:
                if session.batching.pads:
                    self._check_launch(session, AFFINE, launch, rng)
                else:
                    with _refused(InputError, f"{_text(launch)}, on {session.batching}"):
                        session.execute(AFFINE.random_inputs(rng, launch.rows), launch.gear)

    def test_too_many_rows_are_refused(self, backend: Backend) -> None:
        """More rows than the gear are refused with InputError; none is dropped in silence."""
        with self.session(backend, AFFINE) as session:
            for gear in gears_of(session.batching):
                with _refused(InputError, f"{gear + 1} rows at gear {gear}"):
                    session.execute(AFFINE.random_inputs(_rng(), gear + 1), gear)

    def test_unknown_gear_is_refused(self, backend: Backend) -> None:
        """A gear the session does not have is refused with InputError; no other gear runs instead."""
        with self.session(backend, AFFINE) as session:
            largest = gears_of(session.batching)[-1]
            for gear in (-1, 0, *range(1, 2 * largest + 2)):
                if gear >= 1 and _runs(session.batching, gear):
                    continue
                with _refused(InputError, f"gear {gear} on {session.batching}"):
                    session.execute(AFFINE.random_inputs(_rng(), max(gear, 1)), gear)

    def test_refusal_leaves_the_session_usable(self, backend: Backend) -> None:
        """After a launch and a request that were refused, the next ones are right."""
        rng = _rng()
        with self.session(backend, AFFINE) as session, self.runner(session, AFFINE) as runner:
            for launch in launches_that_hurt(session.batching):
                with _refused(InputError, f"{launch.gear + 1} rows at gear {launch.gear}"):
                    session.execute(AFFINE.random_inputs(rng, launch.gear + 1), launch.gear)
                self._check_launch(session, AFFINE, launch, rng, "after a refused launch")
                with _refused(InputError, "float64 for float32"):
                    runner.run({"x": np.zeros((launch.rows, 6))})
                self._check_request(runner, AFFINE, launch.rows, rng, "after a refused request")

    def test_out_is_an_offer(self, backend: Backend) -> None:
        """Memory offered for a result is filled and returned, or left alone; never half, and nothing around it."""
        rng = _rng()
        for model in (SEVERAL, WIDE):
            names = [tensor.name for tensor in model.spec.outputs]
            with self.session(backend, model) as session:
                for launch, offered in itertools.product(launches_that_hurt(session.batching), [*names, None]):
                    self._check_offer(session, model, launch, names if offered is None else [offered], rng)

    def test_results_share_no_memory(self, backend: Backend) -> None:
        """Results share no memory with the inputs or with one another."""
        rng = _rng()
        for model in (SEVERAL, WIDE, VIEWS):
            with self.session(backend, model) as session:
                for launch in launches_that_hurt(session.batching):
                    inputs = model.random_inputs(rng, launch.rows)
                    results = session.execute(inputs, launch.gear)
                    arrays = {f"output {name!r}": array for name, array in results.items()}
                    _require(len(arrays) == len(model.spec.outputs), f"expected every output, got {sorted(arrays)}")
                    arrays |= {f"input {name!r}": array for name, array in inputs.items()}
                    for one, other in itertools.combinations(arrays, 2):
                        apart = not np.shares_memory(arrays[one], arrays[other])
                        _require(apart, f"{_text(launch)}: expected memory of its own for each, but {one} shares with {other}")

    def test_results_belong_to_the_caller(self, backend: Backend) -> None:
        """Neither later launches nor closing change a result, and what its owner writes into it reaches no later launch."""
        rng = _rng()
        for model in (SEVERAL, WIDE, VIEWS):
            last = []
            with self.session(backend, model) as session:
                for launch in launches_that_hurt(session.batching):
                    kept = []
                    for _ in range((session.concurrency or 1) + 1):
                        inputs = model.random_inputs(rng, launch.rows)
                        kept.append((inputs, session.execute(inputs, launch.gear)))
                    for inputs, results in kept:
                        self.check_results(model, inputs, results, f"{_text(launch)}, looked at after later launches")
                        for name, array in results.items():
                            _require(array.flags.writeable, f"output {name!r}: expected an array its owner may write to")
                            array[...] = _GUARD
                    self._check_launch(session, model, launch, rng, "after its owner wrote into earlier results")
                    inputs = model.random_inputs(rng, launch.rows)
                    last.append((inputs, session.execute(inputs, launch.gear)))
            for inputs, results in last:
                self.check_results(model, inputs, results, "looked at after close()")

    def test_inputs_are_only_read(self, backend: Backend) -> None:
        """Inputs are never written to, and may be read-only."""
        rng = _rng()
        for model in (SEVERAL, WIDE, TABLE):
            with self.session(backend, model) as session:
                for launch, writable in itertools.product(launches_that_hurt(session.batching), (True, False)):
                    arrays = model.random_inputs(rng, launch.rows)
                    copies = {name: array.copy() for name, array in arrays.items()}
                    for array in arrays.values():
                        array.flags.writeable = writable
                    inputs = dict(arrays)
                    results = session.execute(inputs, launch.gear)
                    same = inputs.keys() == arrays.keys() and all(inputs[name] is arrays[name] for name in arrays)
                    _require(same, f"{_text(launch)}: expected the mapping of inputs to be left alone, got {sorted(inputs)}")
                    for name, copy in copies.items():
                        same = np.array_equal(arrays[name], copy)
                        _require(same, f"{_text(launch)}: expected input {name!r} to be left alone, but it was written to")
                    self.check_results(model, copies, results, _text(launch))

    def test_inputs_are_read_each_time(self, backend: Backend) -> None:
        """Arrays that the caller writes anew between launches are read anew, those without rows too."""
        rng = _rng()
        for model in (WIDE, TABLE):
            with self.session(backend, model) as session:
                for launch in launches_that_hurt(session.batching):
                    inputs = model.random_inputs(rng, launch.rows)
                    for _ in range(3):
                        for name, array in model.random_inputs(rng, launch.rows).items():
                            inputs[name][...] = array
                        results = session.execute(inputs, launch.gear)
                        self.check_results(model, inputs, results, f"{_text(launch)}, in arrays that were used before")

    def test_inputs_are_not_kept(self, backend: Backend) -> None:
        """No reference to an input outlives its launch."""
        rng = _rng()
        for model in (WIDE, TABLE):
            with self.session(backend, model) as session:
                for launch in launches_that_hurt(session.batching):
                    inputs = model.random_inputs(rng, launch.rows)
                    alive = {name: weakref.ref(array) for name, array in inputs.items()}
                    results = session.execute(inputs, launch.gear)
                    del inputs
                    if any(reference() is not None for reference in alive.values()):
                        gc.collect()
                    kept = [name for name, reference in alive.items() if reference() is not None]
                    _require(not kept, f"{_text(launch)}: expected no input to be kept after the call, but {kept} are alive")
                    _require(len(results) > 0, "expected results")

    def test_no_stale_rows(self, backend: Backend) -> None:
        """Rows beyond a request are zeros to the model, whatever an earlier launch left there."""
        for model in PROBES:
            self._check_clean_after(backend, model, 1000.0)

    def test_nan_and_inf_do_not_stick(self, backend: Backend) -> None:
        """NaN and Inf in one request do not reach a later one; zeroing by multiplication would let them."""
        for model, dirt in itertools.product(PROBES, (np.nan, np.inf)):
            self._check_clean_after(backend, model, dirt)

    def test_launches_leak_nothing(self, backend: Backend) -> None:
        """Executing leaves no thread, no file descriptor and nothing else behind that `resources` counts."""
        rng = _rng()
        with self.session(backend, AFFINE) as session:

            def execute() -> None:
                for launch in launches_that_hurt(session.batching):
                    self._check_launch(session, AFFINE, launch, rng)

            self._check_nothing_grows(execute, "executing each batch size")

    # ------------------------------------------------------------------------------------------------- several threads

    def test_works_from_any_thread(self, backend: Backend) -> None:
        """A session opened in one thread executes in a second and closes in a third."""
        session = self.open(backend, AFFINE)
        launches = launches_that_hurt(session.batching)
        try:
            _in_threads(1, lambda _: self._check_launch(session, AFFINE, launches[-1], _rng(), "from another thread"))
        finally:
            _in_threads(1, lambda _: session.close())
        with _refused(ClosedError, "executing after close() from another thread"):
            session.execute(AFFINE.random_inputs(_rng(), launches[-1].rows), launches[-1].gear)

    def test_concurrent_launches(self, backend: Backend) -> None:
        """As many threads as the session's concurrency execute at once, and each gets its own rows and clean padding."""
        for model in (SEVERAL, *PROBES):
            with self.session(backend, model) as session:
                self._check_concurrent_launches(session, model)

    def test_concurrent_requests(self, backend: Backend) -> None:
        """Many threads send requests of all sizes to one Runner, and each gets its own rows."""
        with self.session(backend, AFFINE) as session, self.runner(session, AFFINE) as runner:
            sizes = sizes_that_hurt(session.batching)

            def work(index: int) -> None:
                rng = _rng(index)
                for rows in rng.permutation(sizes):
                    self._check_request(runner, AFFINE, int(rows), rng, f"in thread {index}")

            _in_threads(_THREADS, work)

    def test_two_sessions_do_not_mix(self, backend: Backend) -> None:
        """Two models open at once each run their own weights, and closing one leaves the other open."""
        rng = _rng()
        with self.session(backend, AFFINE) as session:
            launches = launches_that_hurt(session.batching)
            with self.session(backend, AFFINE_TWIN) as twin:
                for launch in launches:
                    self._check_launch(session, AFFINE, launch, rng, "beside another session")
                    self._check_launch(twin, AFFINE_TWIN, launch, rng, "beside another session")
            with _allowed("a launch after another session was closed"):
                self._check_launch(session, AFFINE, launches[-1], rng)

    # -------------------------------------------------------------------------------------------------------- requests

    def test_requests_of_any_size(self, backend: Backend) -> None:
        """Through a Runner, requests around each gear and above the largest give the reference's rows, in order."""
        rng = _rng()
        with self.session(backend, AFFINE) as session, self.runner(session, AFFINE) as runner:
            for rows in sizes_that_hurt(session.batching):
                self._check_request(runner, AFFINE, rows, rng)

    def test_no_rows(self, backend: Backend) -> None:
        """A request without rows gives empty outputs of the right dtype and shape, and executes nothing."""
        for model in (AFFINE, SEVERAL):
            with self.session(backend, model) as session:
                spy = _Spy(session)
                with self.runner(spy, model) as runner:
                    self._check_request(runner, model, 0, _rng())
                _require(not spy.launches, f"0 rows: expected no execution, got {spy.launches}")

    def test_ragged_stream(self, backend: Backend) -> None:
        """Whatever sizes requests come in, one after another, each gets exactly its own rows."""

        # Each example opens the model anew: backends have state, and only a history from the start fails twice alike.
        @settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(st.data())
        def check(data: st.DataObject) -> None:
            with self.session(backend, AFFINE) as session, self.runner(session, AFFINE) as runner:
                sizes = data.draw(st.lists(request_sizes(session.batching), min_size=1, max_size=6), label="rows")
                for place, rows in enumerate(sizes):
                    self._check_request(runner, AFFINE, rows, _rng(place), f"in a stream of {sizes}")

        check()

    def test_map_keeps_order(self, backend: Backend) -> None:
        """`Runner.map` yields the results of many requests in their order."""
        rng = _rng()
        with self.session(backend, AFFINE) as session, self.runner(session, AFFINE) as runner:
            requests = [AFFINE.random_inputs(rng, rows) for rows in sizes_that_hurt(session.batching) * 2]
            results = list(runner.map(requests))
            _require(len(results) == len(requests), f"map: expected {len(requests)} results, got {len(results)}")
            for place, (inputs, outputs) in enumerate(zip(requests, results, strict=True)):
                self.check_results(AFFINE, inputs, outputs, f"map, result {place}")

    def test_submitted_requests(self, backend: Backend) -> None:
        """`Runner.submit` gives each future the results of its own request."""
        rng = _rng()
        with self.session(backend, SEVERAL) as session, self.runner(session, SEVERAL) as runner:
            requests = [SEVERAL.random_inputs(rng, rows) for rows in sizes_that_hurt(session.batching)]
            futures = [runner.submit(inputs) for inputs in requests]
            for inputs, future in zip(requests, futures, strict=True):
                self.check_results(SEVERAL, inputs, future.result(_DEADLOCK_S), f"submit of {len(inputs['left'])} rows")

    def test_stats_count_real_and_padded_rows(self, backend: Backend) -> None:
        """The session sees the launches that were planned, of sizes it has, and the Runner's stats count just those."""
        rng = _rng()
        with self.session(backend, AFFINE) as session:
            spy = _Spy(session)
            with self.runner(spy, AFFINE) as runner:
                sizes = sizes_that_hurt(session.batching)
                plans = [runner.plan(rows) for rows in sizes]
                for rows in sizes:
                    self._check_request(runner, AFFINE, rows, rng)
                stats = runner.stats()
                batching = session.batching
        planned = [launch for plan in plans for launch in plan.launches]
        expected = planned if batching.pads else [Launch(launch.gear, launch.gear) for launch in planned]
        _require(spy.launches == expected, f"expected the launches {expected}, got {spy.launches}")
        _require(all(_runs(batching, launch.gear) for launch in planned), f"expected launches on {batching}, got {planned}")
        counted = (stats.requests, stats.rows, stats.padded_rows, dict(stats.launches))
        right = (len(sizes), sum(sizes), sum(p.padded_rows for p in plans), dict(Counter(launch.gear for launch in planned)))
        _require(counted == right, f"expected stats (requests, rows, padded rows, launches) {right}, got {counted}")

    # ----------------------------------------------------------------------------------------------- kinds of tensors

    def test_several_inputs_and_outputs(self, backend: Backend) -> None:
        """Inputs and outputs of one shape are told apart by name."""
        self._check_model(backend, SEVERAL)

    def test_unbatched_input(self, backend: Backend) -> None:
        """An input without rows reaches every launch of a request, whole, and each request brings its own."""
        self._check_model(backend, TABLE)

    def test_scalar_input(self, backend: Backend) -> None:
        """So does an input without any axis."""
        self._check_model(backend, SCALAR)

    def test_same_output(self, backend: Backend) -> None:
        """An output without rows needs a rule for several launches; by the rule "same", it is right at every size."""
        rng = _rng()
        with self.session(backend, SAME) as session:
            self._check_launches(session, SAME, rng)
            self._check_needs_a_rule(session, SAME, rng)
            with self.runner(session, SAME) as runner:
                for rows in sizes_that_hurt(session.batching):
                    if rows:
                        self._check_request(runner, SAME, rows, rng)

    def test_summed_output(self, backend: Backend) -> None:
        """An output that sums over rows is right wherever no launch is padded, and refused elsewhere."""
        rng = _rng()
        with self.session(backend, SUMMED) as session:
            self._check_launches(session, SUMMED, rng)
            self._check_needs_a_rule(session, SUMMED, rng)
            gears = gears_of(session.batching)
            with self.runner(session, SUMMED) as runner:
                for rows in (*gears, 2 * gears[-1], gears[-1] + gears[0]):
                    self._check_request(runner, SUMMED, rows, rng)
                for rows in {0, gears[0] - 1} if not isinstance(session.batching, AnyBatch) else {0}:
                    with _refused(InputError, f"{rows} rows, which no sum of full launches makes"):
                        runner.run(SUMMED.random_inputs(rng, rows))

    def test_axis_1(self, backend: Backend) -> None:
        """Rows may lie on axis 1."""
        self._check_model(backend, AXIS_1)

    def test_axis_moves(self, backend: Backend) -> None:
        """Rows may lie on another axis of the output than of the input."""
        self._check_model(backend, AXIS_MOVES)

    def test_rows_per_row(self, backend: Backend) -> None:
        """One row of a request may be several entries along the batch axis."""
        self._check_model(backend, ROWS_TIMES_3)

    def test_convolution(self, backend: Backend) -> None:
        """Tensors of four axes come and go in the order of their axes."""
        self._check_model(backend, CONVOLUTION)

    def test_wide_rows(self, backend: Backend) -> None:
        """Rows of 64 KiB come back whole."""
        self._check_model(backend, WIDE)

    def test_float32(self, backend: Backend) -> None:
        """float32 comes back as float32, with its values."""
        self._check_model(backend, BY_DTYPE["float32"])

    def test_float16(self, backend: Backend) -> None:
        """float16 comes back as float16, with its values."""
        self._check_model(backend, BY_DTYPE["float16"])

    def test_bfloat16(self, backend: Backend) -> None:
        """bfloat16 comes back as ml_dtypes' bfloat16, with its values."""
        self._check_model(backend, BY_DTYPE["bfloat16"])

    def test_float64(self, backend: Backend) -> None:
        """float64 comes back as float64, with all its digits."""
        self._check_model(backend, BY_DTYPE["float64"])

    def test_int32(self, backend: Backend) -> None:
        """int32 comes back as int32, over its whole range."""
        self._check_model(backend, BY_DTYPE["int32"])

    def test_int64(self, backend: Backend) -> None:
        """int64 comes back as int64, over its whole range."""
        self._check_model(backend, BY_DTYPE["int64"])

    def test_int8(self, backend: Backend) -> None:
        """int8 comes back as int8, over its whole range."""
        self._check_model(backend, BY_DTYPE["int8"])

    def test_uint8(self, backend: Backend) -> None:
        """uint8 comes back as uint8, over its whole range."""
        self._check_model(backend, BY_DTYPE["uint8"])

    def test_bool(self, backend: Backend) -> None:
        """Booleans come back as bool."""
        self._check_model(backend, BY_DTYPE["bool"])

    # --------------------------------------------------------------------------------------------------------- closing

    def test_close_twice(self, backend: Backend) -> None:
        """Closing a session again does nothing."""
        session = self.open(backend, AFFINE)
        session.close()
        with _allowed("close() for the second time"):
            session.close()

    def test_execute_after_close(self, backend: Backend) -> None:
        """A closed session refuses to execute with ClosedError, whether or not it ever executed."""
        for executed in (False, True):
            session = self.open(backend, AFFINE)
            launches = launches_that_hurt(session.batching)
            if executed:
                self._check_launch(session, AFFINE, launches[0], _rng())
            session.close()
            for launch in launches:
                with _refused(ClosedError, f"{_text(launch)} after close()"):
                    session.execute(AFFINE.random_inputs(_rng(), launch.rows), launch.gear)

    def test_runner_after_close(self, backend: Backend) -> None:
        """Closing a Runner closes its session, once and for all; both refuse to go on with ClosedError."""
        session = self.open(backend, AFFINE)
        launch = launches_that_hurt(session.batching)[0]
        runner = self.runner(session, AFFINE)
        runner.close()
        with _allowed("close() of the Runner for the second time"):
            runner.close()
        inputs = AFFINE.random_inputs(_rng(), launch.rows)
        calls: dict[str, Callable[[], object]] = {
            "run": lambda: runner.run(inputs),
            "submit": lambda: runner.submit(inputs),
            "map": lambda: list(runner.map([inputs])),
            "the session's execute": lambda: session.execute(inputs, launch.gear),
        }
        for name, call in calls.items():
            with _refused(ClosedError, f"{name} after the Runner's close()"):
                call()

    def test_closed_session_is_freed(self, backend: Backend) -> None:
        """Nothing keeps a closed session alive."""

        def cycle() -> tuple[type, int]:
            session = self.open(backend, AFFINE)
            self._check_launch(session, AFFINE, launches_that_hurt(session.batching)[0], _rng())
            _require(_is_alive(type(session), id(session)), "expected to find the open session in the garbage collector's list")
            session.close()
            return type(session), id(session)

        for _ in range(2):
            kind, identity = cycle()
            _require(not _is_alive(kind, identity), f"expected a closed {kind.__name__} to be freed, but something keeps it")

    def test_cycles_leak_nothing(self, backend: Backend) -> None:
        """Opening, executing and closing leave no thread, no file descriptor and no ResourceWarning behind."""

        def cycle() -> None:
            with self.session(backend, AFFINE) as session:
                for launch in launches_that_hurt(session.batching):
                    self._check_launch(session, AFFINE, launch, _rng())

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._check_nothing_grows(cycle, "opening, executing and closing")
            gc.collect()
        leaks = [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)]
        _require(not leaks, f"expected no ResourceWarning, got {leaks}")

    # ------------------------------------------------------------------------------------------------- how checks look

    def open(
        self,
        backend: Backend,
        model: ReferenceModel,
        *,
        source: Model | None = None,
        device: int | None = None,
        batch_sizes: Sequence[int] | None = None,
        **options: object,
    ) -> Session:
        """Open a model the way this class says, except for what is named."""
        sizes = self.batch_sizes if batch_sizes is None else batch_sizes
        return backend.open(
            model.onnx_bytes if source is None else source,
            device=self.device if device is None else device,
            batch_sizes=None if sizes is None else tuple(sorted(sizes)),
            options={**self.open_options(model), **options},
        )

    @contextmanager
    def session(
        self,
        backend: Backend,
        model: ReferenceModel,
        *,
        source: Model | None = None,
        batch_sizes: Sequence[int] | None = None,
    ) -> Iterator[Session]:
        """Open a model, and close it in the end; where it has a gap, its error must be raised until then."""
        with _expected(self.gaps.get(model.name), model.name):
            session = self.open(backend, model, source=source, batch_sizes=batch_sizes)
            try:
                yield session
            finally:
                session.close()

    def _compile(
        self, backend: Compiler, model: ReferenceModel, output: Path | None, *, source: Model | None = None, **options: object
    ) -> Compiled:
        return backend.compile(
            model.onnx_bytes if source is None else source,
            batch_sizes=None if self.batch_sizes is None else tuple(sorted(self.batch_sizes)),
            output=output,
            options={**self.compile_options(model), **options},
            progress=None,
        )

    def _artefact_suffix(self, backend: Compiler) -> str:
        """Return the suffix that a compiler gives the files it keeps, and so may want of others."""
        compiled = self._compile(backend, AFFINE, None)
        if compiled.temporary:
            compiled.path.unlink()
        return compiled.path.suffix

    def _check_artefact(self, backend: Backend, model: ReferenceModel, compiled: Compiled) -> None:
        """Open what was compiled, as it is, and check it against what the compiler said of it."""
        _require(compiled.path.is_file(), f"expected the artefact {str(compiled.path)!r} to be a file")
        sizes = self.batch_sizes
        _require(
            sizes is None or compiled.batch_sizes == tuple(sorted(sizes)),
            f"compiled for {sizes}: expected those, got {compiled.batch_sizes}",
        )
        at_compile = self.compile_options(model)
        options = {name: value for name, value in self.open_options(model).items() if name not in at_compile}
        session = backend.open(compiled.path, device=self.device, batch_sizes=None, options=options)
        try:
            batching, rng = session.batching, _rng()
            if isinstance(batching, Gears):
                same = batching.sizes == compiled.batch_sizes
                _require(same, f"expected the artefact to run {compiled.batch_sizes}, as the compiler says, got {batching}")
            _require(session.spec == compiled.spec, f"expected the compiler's spec {compiled.spec}, got {session.spec}")
            _check_spec(session, model)
            for launch in launches_that_hurt(batching):
                self._check_launch(session, model, launch, rng, "compiled ahead")
        finally:
            session.close()

    def runner(self, session: Session, model: ReferenceModel, *, policy: Policy = "least_cost") -> Runner:
        """Return a Runner on a session, which has several launches in its plans even where a session takes any batch."""
        _check_concurrency(session)  # a Runner would wait for ever on 0
        costs = TableCosts({1: 1.0, 4: 2.0, 8: 3.0}) if isinstance(session.batching, AnyBatch) else None
        return Runner(session, costs=costs, policy=policy, combine=model.combine)

    def check_results(
        self,
        model: ReferenceModel,
        inputs: Mapping[str, Array],
        results: Mapping[str, Array],
        what: str,
        batching: Batching | None = None,
    ) -> None:
        """Require every output and no other, each with the dtype, the shape and the values of the reference.

        Where `batching` is a ``MultipleOf``, rows of `PROBES` may be those of one execution, or of one per batch.
        """
        expected = model.reference(inputs)
        what = f"model {model.name!r}, {what}"
        _require(set(results) == set(expected), f"{what}: expected outputs {sorted(expected)}, got {sorted(results)}")
        for tensor in model.spec.outputs:
            array, want = results[tensor.name], expected[tensor.name]
            where = f"{what}: output {tensor.name!r}"
            _require(isinstance(array, np.ndarray), f"{where}: expected a NumPy array, got {type(array).__name__}")
            wanted, got = f"{want.dtype} {list(want.shape)}", f"{array.dtype} {list(array.shape)}"
            _require(wanted == got, f"{where}: expected {wanted}, got {got}")
            if isinstance(batching, MultipleOf) and model in PROBES:
                by_batch = _run_by_batch(model, inputs, batching.size)[tensor.name]
                want = self._closer_to(array, want, by_batch)
            difference = self._find_difference(tensor, want, array)
            _require(not difference, f"{where}, {difference}")

    def _find_difference(self, tensor: TensorSpec, expected: Array, got: Array) -> str:
        """Return what is wrong with the first wrong row, or an empty string."""
        if self._are_close(expected, got).all():
            return ""
        if tensor.batch_axis is None:
            return f"which has no rows: expected {_brief(expected)}, got {_brief(got)}"
        rows = expected.shape[tensor.batch_axis] // tensor.rows_per_row
        wanted_rows, got_rows = (np.moveaxis(a, tensor.batch_axis, 0).reshape(rows, -1) for a in (expected, got))
        row = int(np.argmin(self._are_close(wanted_rows, got_rows).all(axis=1)))
        text = f"row {row} of {rows}: expected {_brief(wanted_rows[row])}, got {_brief(got_rows[row])}"
        twins = [other for other in range(rows) if self._are_close(wanted_rows[other], got_rows[row]).all()]
        return f"{text}, which is row {twins[0]}" if twins else text

    def _closer_to(self, got: Array, *expected: Array) -> Array:
        """Return what most values agree with, the first of equals: what `got` is a failed attempt at, if it is wrong."""
        return max(expected, key=lambda each: np.count_nonzero(self._are_close(each, got)))

    def _are_close(self, expected: Array, got: Array) -> Array:
        if str(expected.dtype) not in self.tolerances:
            return np.asarray(expected == got)
        rtol, atol = self.tolerances[str(expected.dtype)]
        return np.isclose(got.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True)

    def _check_launch(
        self, session: Session, model: ReferenceModel, launch: Launch, rng: np.random.Generator, what: str = ""
    ) -> None:
        inputs = model.random_inputs(rng, launch.rows)
        results = session.execute(inputs, launch.gear)
        self.check_results(model, inputs, results, f"{_text(launch)} {what}".rstrip(), session.batching)

    def _check_request(
        self, runner: Runner, model: ReferenceModel, rows: int, rng: np.random.Generator, what: str = ""
    ) -> None:
        inputs = model.random_inputs(rng, rows)
        what = f"a request of {rows} {what}, run as {runner.plan(rows)}"
        self.check_results(model, inputs, runner.run(inputs), what, runner.batching)

    def _check_launches(self, session: Session, model: ReferenceModel, rng: np.random.Generator) -> None:
        _check_spec(session, model)
        for launch in launches_that_hurt(session.batching):
            self._check_launch(session, model, launch, rng)

    def _check_model(self, backend: Backend, model: ReferenceModel) -> None:
        """Check a model of which every output has rows: its spec, its launches, and requests of all sizes."""
        rng = _rng()
        with self.session(backend, model) as session:
            self._check_launches(session, model, rng)
            with self.runner(session, model) as runner:
                for rows in sizes_that_hurt(session.batching):
                    self._check_request(runner, model, rows, rng)

    def _check_needs_a_rule(self, session: Session, model: ReferenceModel, rng: np.random.Generator) -> None:
        """Check that without a rule for its outputs without rows, a model runs in one full launch or is refused."""
        with self.runner(_Spy(session, closes=False), replace(model, combine={})) as runner:
            for rows in sizes_that_hurt(session.batching):
                if rows and _runs(session.batching, rows):
                    self._check_request(runner, model, rows, rng, "without a rule")
                else:
                    with _refused(InputError, f"{rows} rows on {session.batching}, with an output that has no rule for them"):
                        runner.run(model.random_inputs(rng, rows))

    def _check_offer(
        self, session: Session, model: ReferenceModel, launch: Launch, names: Sequence[str], rng: np.random.Generator
    ) -> None:
        """Execute with memory offered for some outputs, one guard row before it and one behind it."""
        inputs = model.random_inputs(rng, launch.rows)
        whole = {
            tensor.name: np.full([size or 0 for size in tensor.shape_for(launch.rows + 2)], _GUARD, tensor.dtype)
            for tensor in model.spec.outputs
            if tensor.name in names
        }
        offer = {name: array[1:-1] for name, array in whole.items()}
        results = session.execute(inputs, launch.gear, out=dict(offer))
        self.check_results(model, inputs, results, f"{_text(launch)}, with out for {names}")
        for name, array in offer.items():
            if np.shares_memory(results[name], whole[name]):
                same = np.array_equal(results[name], array)
                _require(same, f"{_text(launch)}, out for {name!r}: expected all of it to be filled and returned, got a part")
            else:
                alone = bool((array == _GUARD).all())
                _require(alone, f"{_text(launch)}, out for {name!r}: expected it to be returned or left alone, it was written")
            guards = bool((whole[name][[0, -1]] == _GUARD).all())
            _require(guards, f"{_text(launch)}, out for {name!r}: expected its rows alone to be written, got some beside it")

    def _check_clean_after(self, backend: Backend, model: ReferenceModel, dirt: float) -> None:
        """Check that launches and requests after others full of `dirt` show none of it; the model sums up all it is given."""
        rng = _rng()

        def dirty(rows: int) -> dict[str, Array]:
            return {name: np.full_like(array, dirt) for name, array in model.random_inputs(_rng(), rows).items()}

        with self.session(backend, model) as session:
            largest = gears_of(session.batching)[-1]
            for launch in launches_that_hurt(session.batching):
                for gear in (largest, launch.gear):
                    for _ in range(session.concurrency or 1):  # in every set of buffers, should they take turns
                        session.execute(dirty(gear), gear)
                self._check_launch(session, model, launch, rng, f"after launches full of {dirt}")
            with self.runner(session, model, policy="one_gear") as runner:  # the most padding
                for rows in {largest - 1, (largest + 1) // 2, 1} - {0}:
                    runner.run(dirty(largest))
                    runner.run(dirty(max(largest - 1, 1)))
                    self._check_request(runner, model, rows, rng, f"after requests full of {dirt}")

    def _check_concurrent_launches(self, session: Session, model: ReferenceModel) -> None:
        launches = launches_that_hurt(session.batching) * 4

        def work(index: int) -> None:
            rng = _rng(index)
            for place in rng.permutation(len(launches)):
                self._check_launch(session, model, launches[place], rng, f"in thread {index}")

        _in_threads(min(session.concurrency or _THREADS, _THREADS), work)

    def _check_nothing_grows(self, act: Callable[[], None], what: str) -> None:
        act()  # what a runtime starts once and keeps for good is there from now on
        before = self.resources()
        for _ in range(_CYCLES):
            act()
        after = self.resources()
        for name, count in before.items():
            # Less than one each time is no leak: a thread that was joined can be seen for a moment longer.
            grown = after[name] - count
            _require(grown < _CYCLES, f"{what} {_CYCLES} times: expected {count} {name} as before, got {after[name]}")


class _Spy:
    """A session that notes its launches."""

    def __init__(self, session: Session, *, closes: bool = True) -> None:
        self.spec = session.spec
        self.batching = session.batching
        self.concurrency = session.concurrency
        self.launches: list[Launch] = []
        self._session = session
        self._closes = closes

    def execute(self, inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        rows = {inputs[t.name].shape[t.batch_axis] // t.rows_per_row for t in self.spec.inputs if t.batch_axis is not None}
        self.launches.append(Launch(gear, min(rows)))
        return self._session.execute(inputs, gear, out)

    def close(self) -> None:
        if self._closes:
            self._session.close()


_CORRUPT: Final[Mapping[str, bytes]] = {
    "an empty model": b"",
    "text": b"this is no model, whatever its suffix says\n" * 8,
    "half a model": AFFINE.onnx_bytes[: len(AFFINE.onnx_bytes) // 2],
}


def _require(condition: bool, message: str) -> None:
    __tracebackhide__ = True
    if not condition:  # not an assert statement: python -O would take the whole kit away
        raise AssertionError(message)


@contextmanager
def _refused(kind: type[Exception] | tuple[type[Exception], ...], what: str, *, naming: str = "") -> Iterator[None]:
    """Require what is inside to raise that error, with a message that contains `naming`."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(each.__name__ for each in kinds)
    try:
        yield
    except kinds as error:
        _require(bool(str(error)) and naming in str(error), f"{what}: expected a message with {naming!r}, got {str(error)!r}")
    except Exception as error:
        raise AssertionError(f"{what}: expected {expected}, got {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{what}: expected {expected}, but nothing was raised")


@contextmanager
def _allowed(what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: expected no error, got {type(error).__name__}: {error}") from error


def _check_concurrency(session: Session) -> None:
    limit = session.concurrency
    sound = limit is None or (type(limit) is int and limit >= 1)
    _require(sound, f"expected concurrency to be None or an int of at least 1, got {limit!r}")


def _is_dtype(name: str) -> bool:
    try:
        return str(np.dtype(getattr(ml_dtypes, name, name))) == name
    except TypeError:
        return False


def _check_spec(session: Session, model: ReferenceModel) -> None:
    for side in ("inputs", "outputs"):
        expected: Sequence[TensorSpec] = getattr(model.spec, side)
        got: Sequence[TensorSpec] = getattr(session.spec, side)
        names = [tensor.name for tensor in expected]
        _require(
            [tensor.name for tensor in got] == names, f"{model.name}: expected {side} {names}, got {[t.name for t in got]}"
        )
        for want, have in zip(expected, got, strict=True):
            _require(have == want, f"{model.name}, {want.name!r}: expected {want!r}, got {have!r}")


def _runs(batching: Batching, rows: int) -> bool:
    """Return whether that many rows, at least 1, are one full launch."""
    if isinstance(batching, Gears):
        return rows in batching.sizes
    return isinstance(batching, AnyBatch) or rows % batching.size == 0


def _run_by_batch(model: ReferenceModel, inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
    """Return what the reference says where it sees `size` rows at a time; every tensor must have its rows on axis 0."""
    rows = len(next(iter(inputs.values())))
    batches = [
        model.reference({name: array[start : start + size] for name, array in inputs.items()}) for start in range(0, rows, size)
    ]
    return {tensor.name: np.concatenate([batch[tensor.name] for batch in batches]) for tensor in model.spec.outputs}


def _text(launch: Launch) -> str:
    return f"launch of {launch.rows} at gear {launch.gear}"


def _brief(values: Array) -> str:
    return np.array2string(values.ravel(), threshold=6, edgeitems=2, precision=5, separator=", ")


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _is_alive(kind: type, identity: int) -> bool:
    """Return whether the object of that id is there still; unlike a weak reference, this asks nothing of its class."""
    gc.collect()
    return any(type(each) is kind and id(each) == identity for each in gc.get_objects())


def _in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run ``work(0)`` to ``work(count - 1)`` in threads of their own that start together; raise the first error."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            start.wait(_DEADLOCK_S)
            work(index)
        except BaseException as error:  # raised below, in the thread of the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places within an execution, not only between two of them
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_DEADLOCK_S)
            _require(not thread.is_alive(), f"expected {count} threads at once to end, but they wait for one another")
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
