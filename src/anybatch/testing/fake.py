"""FakeBackend: the kit's models in memory, in any kind of batching, with faults on demand.

For tests of what stands above a backend, and the example to read before writing one: it keeps the whole contract.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

import numpy as np

from anybatch import (
    Array,
    Batching,
    ClosedError,
    Gears,
    InputError,
    Launch,
    Model,
    ModelError,
    ModelSpec,
    MultipleOf,
    TensorSpec,
    check_launch,
    check_options,
    read_model,
)
from anybatch.testing.models import MODELS, PROBES, ReferenceModel

Operation: TypeAlias = Literal["open", "execute", "close"]


class FakeBackend:
    """Opens reference models; their NumPy references compute.

    Args:
        batching: what its sessions take; a caller who asks for batch sizes gets those, in the same kind of batching.
        concurrency: what its sessions say; they can take any number of threads.
        faults: errors to raise, by operation and how many calls of it there were, the failing one included:
            ``{("execute", 3): DeviceError(...)}`` fails the third execution, whatever session it is on. May be
            changed at any time. A session whose close fails is closed nonetheless.
        models: the models it knows, by the name of their graph.

    Attributes:
        calls: how often each operation was called.
        launches: every execution that began: its gear, and the rows it was handed.
        alive: sessions open now.
        busiest: the most executions that were ever in progress at once.
    """

    name = "fake"
    suffixes: frozenset[str] = frozenset()

    def __init__(
        self,
        batching: Batching | None = None,
        *,
        concurrency: int | None = None,
        faults: Mapping[tuple[Operation, int], Exception] | None = None,
        models: Iterable[ReferenceModel] = (*MODELS, *PROBES),
    ) -> None:
        self.batching: Final[Batching] = Gears((1, 4, 8)) if batching is None else batching
        self.concurrency: Final = concurrency
        self.faults: Final = dict(faults or {})
        self.calls: Final[Counter[Operation]] = Counter()
        self.launches: Final[list[Launch]] = []
        self.alive = 0
        self.busiest = 0
        self._busy = 0
        self._models = {model.name: model for model in models}
        self._lock = threading.Lock()

    def check_usable(self) -> str:
        """Return a line that says this is no hardware."""
        return "NumPy, in memory"

    def open(
        self, model: Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]
    ) -> FakeSession:
        """Open a reference model, as a file, bytes or proto. There is one device, and there are no options."""
        self._count("open")
        check_options(options, (), backend=self.name)
        if device != 0:
            raise InputError(f"{self.name}: expected device 0, the only one, got {device}")
        session = FakeSession(self, self._find(model), self._batching_for(batch_sizes))
        with self._lock:
            self.alive += 1
        return session

    def _find(self, model: Model) -> ReferenceModel:
        proto = read_model(model)
        if proto.graph.name not in self._models:
            raise ModelError(f"{self.name}: expected one of the models {sorted(self._models)}, got {proto.graph.name!r}")
        return self._models[proto.graph.name]

    def _batching_for(self, batch_sizes: Sequence[int] | None) -> Batching:
        if batch_sizes is None:
            return self.batching
        if isinstance(self.batching, Gears):
            return replace(self.batching, sizes=tuple(batch_sizes))
        if isinstance(self.batching, MultipleOf) and len(batch_sizes) == 1:
            return MultipleOf(batch_sizes[0])
        raise InputError(f"{self.name}: it runs {self.batching}, so it cannot be compiled for {list(batch_sizes)}")

    def _count(self, operation: Operation) -> None:
        with self._lock:
            self.calls[operation] += 1
            fault = self.faults.get((operation, self.calls[operation]))
        if fault is not None:
            raise fault

    def _begin(self, launch: Launch) -> None:
        with self._lock:
            self.launches.append(launch)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)

    def _end(self) -> None:
        with self._lock:
            self._busy -= 1

    def _forget(self) -> None:
        with self._lock:
            self.alive -= 1


class FakeSession:
    """A reference model, open. Pads by itself, with zeros, where its batching says so."""

    def __init__(self, backend: FakeBackend, model: ReferenceModel, batching: Batching) -> None:
        self.spec: Final[ModelSpec] = model.spec
        self.batching: Final = batching
        self.concurrency: Final = backend.concurrency
        self._backend = backend
        self._model = model
        self._closed = False

    def execute(self, inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Execute once; see `anybatch.Session.execute`."""
        if self._closed:
            raise ClosedError(f"{self._backend.name}: execute() after close()")
        rows = check_launch(self.spec, self.batching, inputs, gear)
        self._backend._begin(Launch(gear, rows))
        try:
            self._backend._count("execute")
            results = self._model.reference({t.name: _pad(t, inputs[t.name], gear) for t in self.spec.inputs})
        finally:
            self._backend._end()
        return {t.name: _deliver(t, results[t.name], rows, out or {}) for t in self.spec.outputs}

    def close(self) -> None:
        """Free everything; twice is fine."""
        if not self._closed:
            self._closed = True
            self._backend._forget()
            self._backend._count("close")


def _pad(tensor: TensorSpec, array: Array, gear: int) -> Array:
    """Return an input at the size of the gear: itself where it has that, else a copy with zeros behind it."""
    shape = [size or 0 for size in tensor.shape_for(gear)]
    if list(array.shape) == shape:
        return array
    padded = np.zeros(shape, tensor.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def _deliver(tensor: TensorSpec, result: Array, rows: int, out: Mapping[str, Array]) -> Array:
    """Return an output without the padding, in the caller's memory where that was offered."""
    if tensor.batch_axis is not None:
        result = tensor.rows_of(result, 0, rows)
    if tensor.name not in out:
        return result
    out[tensor.name][...] = result
    return out[tensor.name]
