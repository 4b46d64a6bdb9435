"""What takes part in a comparison: a model on a backend, opened, and what became of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from anybatch._backend import Backend, Compiler
from anybatch._batching import AnyBatch, Gears, check_batch_sizes
from anybatch._errors import AnybatchError, InputError
from anybatch._guard import RowSafety
from anybatch._planner import Plan
from anybatch._registry import compile_model, open_model, registry
from anybatch._runner import Runner
from anybatch.comparison._results import EntryResult, Failure, Stage, Verdict

# What `anybatch.open` takes beside a backend's own options, and compiling does not.
_OF_OPEN: Final = frozenset(("costs", "policy", "padding", "combine", "adapt", "explore", "safety", "independent"))


@dataclass(frozen=True, slots=True)
class Entry:
    """A model on a backend, to be compared.

    Attributes:
        backend: a backend's name, or a backend itself.
        name: what reports call it; empty takes the backend's name. Names of one comparison must differ.
        model: another form of the compared model, such as an ``.om`` compiled ahead, or one with float16 weights; None takes
            the compared model itself.
        device: index of the device, from 0.
        batch_sizes: the batch sizes to compile for; None takes what the model offers.
        computes_in: what it computes floats in, as NumPy names it, such as ``"float16"``; empty takes the session's word, and
            where it has none, the outputs' dtypes. Tolerances depend on it.
        options: the backend's own options, and `costs`, `policy`, `padding`, `combine`, `adapt`, `explore`, `safety` and
            `independent` as for `anybatch.open`.

    Raises:
        InputError: an argument does not fit.
    """

    backend: str | Backend
    name: str = ""
    model: str | os.PathLike[str] | bytes | Any = None
    device: int = 0
    batch_sizes: Sequence[int] | None = None
    computes_in: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the documented way to normalise fields of a frozen dataclass
        set_(self, "name", self.name or self.backend_name)
        if self.batch_sizes is not None:
            set_(self, "batch_sizes", check_batch_sizes(self.batch_sizes))

    @property
    def backend_name(self) -> str:
        """The backend's name."""
        return self.backend if isinstance(self.backend, str) else self.backend.name


def check_names(entries: Collection[Entry]) -> None:
    """Check that entries can be told apart.

    Raises:
        InputError: there is none, or two have one name; the message says how to name them.
    """
    names = [entry.name for entry in entries]
    if not names:
        raise InputError("expected at least one entry to compare, got none")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"expected a name of its own for each entry, got {twice[0]!r} twice: give one another name")


class Contestant:
    """An entry while it is compared: opened, perhaps failed.

    One that fails takes no other with it: `watched` keeps its error, and the comparison goes on.

    Args:
        entry: what to open.
        model: the compared model, for entries that bring none.
        wall: what tells how long opening takes, in seconds.

    Attributes:
        runner: None until `open`, and where that failed.
        failures: what went wrong so far.
        plans: by rows, the plans that were used; whoever sends requests adds them.
    """

    def __init__(self, entry: Entry, model: Any, *, wall: Callable[[], float] = time.perf_counter) -> None:
        self.entry: Final = entry
        self.model: Final = model if entry.model is None else entry.model
        self.runner: Runner | None = None
        self.failures: list[Failure] = []
        self.plans: dict[int, Plan] = {}
        self._wall = wall
        self._compile_s: float | None = None
        self._compile_cached = False
        self._open_s: float | None = None
        self._safety: tuple[RowSafety, ...] = ()

    @property
    def name(self) -> str:
        """The entry's name."""
        return self.entry.name

    @property
    def simulated(self) -> bool:
        """Whether a simulator runs it."""
        clocked = self.runner is not None and self.runner.clock is not None
        return clocked or self.entry.backend_name.endswith("-sim")

    @property
    def precision(self) -> str:
        """What floats are computed in, as the caller or the session says; empty where neither does."""
        return self.entry.computes_in or ("" if self.runner is None else self.runner.precision)

    @contextmanager
    def watched(self, stage: Stage, case: str = "") -> Iterator[None]:
        """Note what is raised inside, instead of passing it on; an interrupt does pass."""
        try:
            yield
        except Exception as error:  # whatever a plugin raises is shown with the entry's name, and fails the comparison
            self.failures.append(Failure(stage, type(error).__name__, str(error), case))

    def open(self) -> None:
        """Compile and open the model; where that fails, `failures` says how, and `runner` stays None."""
        entry = self.entry
        with self.watched("open"):
            backend = registry().get(entry.backend) if isinstance(entry.backend, str) else entry.backend
            self._compile(backend)
            started = self._wall()
            self.runner = open_model(
                self.model, backend=backend, device=entry.device, batch_sizes=entry.batch_sizes, **entry.options
            )
            self._open_s = self._wall() - started
            self._safety = self.runner.safety

    def close(self) -> None:
        """Close what is open."""
        if self.runner is not None:
            self.runner.close()

    def result(self, verdict: Verdict) -> EntryResult:
        """Return what became of it. The runner may be closed, for it keeps what it knew."""
        entry, runner = self.entry, self.runner
        batching = None if runner is None else runner.batching
        sizes: tuple[int, ...] = ()
        if batching is not None and not isinstance(batching, AnyBatch):
            sizes = batching.sizes if isinstance(batching, Gears) else (batching.size,)
        return EntryResult(
            name=entry.name,
            backend=entry.backend_name,
            runtime=self._runtime(),
            simulated=self.simulated,
            device=entry.device,
            model=describe_model(self.model),
            precision=self.precision,
            batching="" if batching is None else str(batching),
            batch_sizes=sizes,
            options={name: repr(value) for name, value in sorted(entry.options.items())},
            verdict=verdict,
            compile_s=self._compile_s,
            compile_cached=self._compile_cached,
            open_s=self._open_s,
            memory_bytes=None if runner is None else runner.memory_bytes,
            plans=tuple(plan for _, plan in sorted(self.plans.items())),
            safety=self._safety,
            failures=tuple(self.failures),
        )

    def _compile(self, backend: Backend) -> None:
        """Compile into the backend's cache, where `open` finds it, to tell the time of the one from that of the other."""
        if not isinstance(backend, Compiler) or not _is_onnx(self.model):
            return
        options = {name: value for name, value in self.entry.options.items() if name not in _OF_OPEN}
        started = self._wall()
        try:
            compiled = compile_model(self.model, backend=backend, batch_sizes=self.entry.batch_sizes, **options)
        except InputError:
            return  # an option that is for opening only; what is really wrong, `open` says
        self._compile_s = self._wall() - started
        self._compile_cached = compiled.cached
        if compiled.temporary:
            compiled.path.unlink()

    def _runtime(self) -> str:
        backend = self.entry.backend
        try:
            return (registry().get(backend) if isinstance(backend, str) else backend).check_usable()
        except AnybatchError:
            return ""


def describe_model(model: Any) -> str:
    """Return a model's file, or what it is, in words."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    return f"a model of {len(model):,} bytes in memory" if isinstance(model, bytes) else "a model in memory"


def _is_onnx(model: Any) -> bool:
    return not isinstance(model, (str, os.PathLike)) or os.fspath(model).lower().endswith(".onnx")
