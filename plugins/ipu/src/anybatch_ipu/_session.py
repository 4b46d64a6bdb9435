"""A model on an IPU: launches of any number of rows that PopRT pads and merges, or whole batches that the core pads.

Who pads is decided when the session opens, and its `batching` says which it is:

- **runtime**: ``MultipleOf(B)``, with ``batching_dim`` set. A launch hands its rows over in one call, and PopRT fills whole
  batches at once. Rows that are left wait up to ``timeout_ns`` for rows of other launches in progress, which is why several
  may be, and then run beside zeros.
- **host**: ``Gears((B,))``, with batching off. Every launch is one whole batch, so nothing ever waits for strangers.

PopRT has no batch axis per tensor: with batching on it takes all of them as batched, on one axis. A model for which that is
not true (a table beside the rows, rows on different axes) is run by the second way.
Decision: so is one whose rows are on another axis than 0, unless ``pad_by="runtime"`` asks for the first: no published
program batches another axis.

Source: Graphcore, PopRT user guide 1.5.0, "Dynamic batch size" and the C++ API of its runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

import anybatch
from anybatch_ipu._api import Poprt, PoprtRunner, Port

PadBy: TypeAlias = Literal["runtime", "host"]

DEFAULT_TIMEOUT_NS: Final = 300_000
# Overlapped I/O wants 3: one batch on its way in, one in compute, one on its way out. PopRT serves its callers in the order in
# which they came, which those who wait before our door cannot count on: so many more are let in.
_IN_FLIGHT_HOST: Final = 16
_IN_FLIGHT_RUNTIME: Final = (8, 64)  # at least, at most
_MODEL_PER_GRAPH: Final = "graph0/"  # what fused models call their tensors

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a model is run; `anybatch_ipu.backend` says what each option means.

    Attributes:
        precision: what the model was compiled to compute floats in; empty where nobody knows, as of a ``.popef`` that came so.
    """

    pad_by: PadBy | None = None
    timeout_ns: int = DEFAULT_TIMEOUT_NS
    in_flight: int | None = None
    execute_async: bool = False
    runtime_options: Mapping[str, object] = field(default_factory=dict)
    precision: str = ""
    batch_axis: Mapping[str, int | None] = field(default_factory=dict)
    rows_per_row: Mapping[str, int] = field(default_factory=dict)


class IpuSession:
    """One model on one IPU. See `anybatch.Session` for the contract.

    Args:
        backend: name of our backend, for errors.
        runner: PopRT's; the session closes it.
        spec: of the model.
        batching: ``MultipleOf`` where `runner` batches, else ``Gears`` of one size.
        options: how to run it.
    """

    def __init__(
        self,
        backend: str,
        runner: PoprtRunner,
        spec: anybatch.ModelSpec,
        batching: anybatch.MultipleOf | anybatch.Gears,
        options: SessionOptions,
    ) -> None:
        self.spec = spec
        self.batching = batching
        self.concurrency = options.in_flight or _in_flight(batching)
        self.precision = options.precision
        self._backend = backend
        self._runner = runner
        self._call = runner.execute_async if options.execute_async else runner.execute
        self._open = True

    def execute(
        self, inputs: Mapping[str, anybatch.Array], gear: int, out: Mapping[str, anybatch.Array] | None = None
    ) -> dict[str, anybatch.Array]:
        """Execute once, in one call of PopRT; see `anybatch.Session.execute`.

        Raises:
            PoprtError: PopRT failed, see `anybatch_ipu.errors`; the session can be used on, as far as PopRT can.
        """
        if not self._open:
            raise anybatch.ClosedError(f"{self._backend}: execute() after close()")
        rows = anybatch.check_launch(self.spec, self.batching, inputs, gear)
        outputs = {}
        for tensor in self.spec.outputs:
            place = out.get(tensor.name) if out else None
            outputs[tensor.name] = np.empty(_shape(tensor, rows), tensor.dtype) if place is None else place
        self._call(dict(inputs), outputs)
        return outputs

    def close(self) -> None:
        """Free the device; twice is fine."""
        self._open = False
        self._runner.close()


def open_session(
    poprt: Poprt,
    popef: Path,
    *,
    device: int,
    options: SessionOptions,
    spec: anybatch.ModelSpec | None = None,
) -> IpuSession:
    """Load a compiled model onto an IPU.

    Args:
        poprt: the package.
        popef: the compiled model.
        device: 0: the next free IPU that fits; k above 0: the one that ``get_specific_device(k)`` returns.
        options: how to run it.
        spec: of the model it was compiled from, where that is known; else the shapes in the file tell, and `options`.

    Raises:
        InputError: the device is none, or an option does not fit.
        ModelError: the file cannot be run, or not as `options` ask.
        BackendUnavailableError: there is no IPU, or none free.
        DeviceError: PopRT failed.
        In every case nothing stays attached.
    """
    _check_device(poprt, device)
    axes = {name: axis for name, axis in options.batch_axis.items() if axis is not None}
    # Where nobody knows yet which axis it is, loading with the likely one mostly saves loading a second time.
    axis = _axis_to_batch(spec, options.pad_by)[0] if spec is not None else next(iter(axes.values()), 0)
    axis = None if options.pad_by == "host" else axis
    runner = _load(poprt, popef, device, axis, options)
    try:
        found, batch = _read_spec(runner, options, spec)
        wanted, reason = (None, "") if options.pad_by == "host" else _axis_to_batch(found, options.pad_by)
        if reason and options.pad_by == "runtime":
            raise anybatch.ModelError(f"{poprt.backend}: PopRT cannot pad for this model: {reason}; use pad_by='host'")
        if reason:
            _log.info("%s: the core pads, not PopRT: %s", poprt.backend, reason)
        if wanted != axis:
            runner.close()  # one model at a time holds an IPU
            runner = _load(poprt, popef, device, wanted, options)
        batching = anybatch.Gears((batch,)) if wanted is None else anybatch.MultipleOf(batch)
        return IpuSession(poprt.backend, runner, found, batching, options)
    except BaseException:
        runner.close()
        raise


def _load(poprt: Poprt, popef: Path, device: int, axis: int | None, options: SessionOptions) -> PoprtRunner:
    config = poprt.runtime_config(options.timeout_ns, axis, options.runtime_options)
    if not device:
        return poprt.open(popef, config)
    try:
        poprt.pin(config, device)
        return poprt.open(popef, config)
    except BaseException:
        poprt.unpin(config)
        raise


def _check_device(poprt: Poprt, device: int) -> None:
    count = poprt.device_count()
    if not count:
        raise anybatch.BackendUnavailableError(
            f"{poprt.backend}: PopRT sees no IPU: `gc-info -l` lists them; in a container, start it with `gc-docker`"
        )
    if device >= count:
        raise anybatch.InputError(f"{poprt.backend}: expected device to be below {count}, the number of IPUs, got {device}")


def _axis_to_batch(spec: anybatch.ModelSpec, pad_by: PadBy | None) -> tuple[int | None, str]:
    """Return the axis that PopRT can batch, or None and why there is none."""
    first = next(tensor for tensor in spec.inputs if tensor.batch_axis is not None)
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.batch_axis is None:
            return None, f"{tensor.name!r} has no rows, and PopRT takes every tensor as batched"
        if tensor.batch_axis != first.batch_axis:
            return None, (
                f"rows are on axis {first.batch_axis} of {first.name!r} and on axis {tensor.batch_axis} of {tensor.name!r}, "
                "and PopRT batches one axis of all"
            )
        if tensor.rows_per_row != first.rows_per_row:
            return None, (
                f"a row is {first.rows_per_row} entries of {first.name!r} and {tensor.rows_per_row} of {tensor.name!r}, "
                "and PopRT knows one batch size for all"
            )
    if first.batch_axis and pad_by is None:
        return None, f"rows are on axis {first.batch_axis}, and PopRT is only known to batch axis 0"
    return first.batch_axis, ""


def _read_spec(
    runner: PoprtRunner, options: SessionOptions, source: anybatch.ModelSpec | None
) -> tuple[anybatch.ModelSpec, int]:
    """Return a compiled model's spec and batch size; its tensors in the order of the model it was made of, where known."""
    names = [port.name for port in runner.inputs]
    if any(name.startswith(_MODEL_PER_GRAPH) for name in names):
        raise anybatch.ModelError(
            f"this PopEF holds several fused models, with inputs {names}: compile the one to run into a file of its own"
        )
    inputs, outputs = list(runner.inputs), list(runner.outputs)
    batch_axis, rows_per_row = dict(options.batch_axis), dict(options.rows_per_row)
    if source is not None:
        inputs, outputs = _in_order(inputs, source.inputs), _in_order(outputs, source.outputs)
        tensors = (*source.inputs, *source.outputs)
        batch_axis = {tensor.name: tensor.batch_axis for tensor in tensors}
        rows_per_row = {tensor.name: tensor.rows_per_row for tensor in tensors}
    spec, batch = anybatch.find_model_spec(
        [_declared(port) for port in inputs],
        [_declared(port) for port in outputs],
        batch_axis=batch_axis,
        rows_per_row=rows_per_row,
    )
    assert batch is not None, "a compiled model has no free dimensions"
    return spec, batch


def _in_order(ports: Sequence[Port], tensors: Sequence[anybatch.TensorSpec]) -> list[Port]:
    """Return ports in the order of the model's own tensors.

    Raises:
        ModelError: they are not the same.
    """
    by_name = {port.name: port for port in ports}
    wanted = [tensor.name for tensor in tensors]
    if sorted(by_name) != sorted(wanted):
        raise anybatch.ModelError(
            f"the model has {wanted}, but PopRT compiled it into one with {sorted(by_name)}: a pass of the converter changed "
            "them; open the .popef itself"
        )
    return [by_name[name] for name in wanted]


def _declared(port: Port) -> anybatch.DeclaredTensor:
    return anybatch.DeclaredTensor(port.name, port.dtype, port.shape)


def _shape(tensor: anybatch.TensorSpec, rows: int) -> list[int]:
    return [size or 0 for size in tensor.shape_for(rows)]


def _in_flight(batching: anybatch.MultipleOf | anybatch.Gears) -> int:
    """Return how many launches may be in progress: to merge, enough single rows for two batches; else enough to overlap."""
    if isinstance(batching, anybatch.Gears):
        return _IN_FLIGHT_HOST
    least, most = _IN_FLIGHT_RUNTIME
    return max(least, min(2 * batching.size, most))
