"""A model in ONNX Runtime: opening it, and executing it.

One InferenceSession serves all gears. A session per gear would cost more, not less: on a CPU its kernels gain nothing from a
fixed batch, while every session keeps its own packed copy of the weights (six of them evicted one another from the cache
and took up to 1.7 times as long with one shared thread pool, up to 2.9 times with their own; `benchmarks/gears.py`).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

from anybatch._backend import Model, check_launch
from anybatch._batching import AnyBatch, Batching, Gears
from anybatch._errors import BackendUnavailableError, ClosedError, DeviceError, InputError, ModelError
from anybatch._onnx_spec import BatchAxes, DeclaredTensor, find_spec, fixed_batch, model_precision, read_model
from anybatch._rebatch import check_same_rows, free_batch
from anybatch._tensors import Array, ModelSpec, TensorSpec
from anybatch.safety._freed import is_proven

_NAME: Final = "onnxruntime"

# Below this size per tensor, copying through buffers that are bound once beats handing over arrays (0.7 of the time with one
# input, 0.3 to 0.5 with eight); above it, the copy costs more than it saves. `benchmarks/overhead.py` shows both sides.
_BOUND_BYTES: Final = 8 * 1024
# Buffers are kept for this many batch sizes of a session that takes any; gears are few anyway.
_BOUND_SIZES: Final = 64
# A binding costs 8 us to make; from this size on, results written in place save more than that.
_IN_PLACE_BYTES: Final = 256 * 1024


def open_session(
    model: Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]
) -> OnnxRuntimeSession:
    """Open a model; see `anybatch._backends.onnxruntime`."""
    axes = BatchAxes.from_options(options)
    providers = _providers(options.get("providers"), device)
    runtime = _Runtime(_create(model, options.get("session_options"), providers))
    axes.check_names((*runtime.inputs, *runtime.outputs))
    batch = fixed_batch(runtime.inputs, axes)
    spec, guessed = find_spec(runtime.inputs, runtime.outputs, axes, batch=batch)
    if batch is not None and (batch_sizes is None or tuple(batch_sizes) != (batch,)):
        runtime = _free(model, runtime, spec, batch, axes, options.get("session_options"), providers)
    elif guessed:
        spec = _probe(runtime, spec, guessed)
    batching: Batching = AnyBatch() if batch_sizes is None else Gears(tuple(batch_sizes))
    return OnnxRuntimeSession(runtime, spec, batching, _precision_of(model, providers))


def _precision_of(model: Model, providers: Sequence[tuple[str, Mapping[str, object]]]) -> Callable[[], str]:
    """Return what says what a model computes in: on the CPU what its graph says, elsewhere whatever a provider chooses."""
    if [name for name, _ in providers] != ["CPUExecutionProvider"]:
        return lambda: ""
    if isinstance(model, Path):
        return partial(_precision_of_file, model)  # reading it takes time that only reports are worth
    precision = model_precision(read_model(model))
    return lambda: precision


def _precision_of_file(path: Path) -> str:
    try:
        return model_precision(read_model(path))
    except ModelError:  # gone since, or not in ONNX's own format
        return ""


class OnnxRuntimeSession:
    """A model in ONNX Runtime; takes any number of threads at once."""

    concurrency = None

    def __init__(self, runtime: _Runtime, spec: ModelSpec, batching: Batching, find_precision: Callable[[], str]) -> None:
        self.spec = spec
        self.batching = batching
        self._find_precision = find_precision
        self._runtime: _Runtime | None = runtime
        self._rows = next(tensor for tensor in spec.inputs if tensor.batch_axis is not None)
        self._rows_name, self._rows_axis = self._rows.name, self._rows.batch_axis or 0
        # Buffers nobody uses now, by batch size. Threads pop and append; both are atomic.
        self._idle: dict[int, list[_Bound]] = {}
        # Batch sizes whose tensors are too large for buffers to pay, and the length of the first input with rows there.
        self._unbound: dict[int, int] = {}

    @cached_property
    def precision(self) -> str:
        """What floats are computed in; see `Session`. Empty on other providers than the CPU, which choose for themselves."""
        return self._find_precision()

    def execute(self, inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        """Execute once; see `Session.execute`. Small tensors are copied through buffers, large ones handed over."""
        idle = self._idle.get(gear)
        if idle is None and gear not in self._unbound:
            idle = self._admit(inputs, gear)
        runtime = self._runtime
        if runtime is None:
            raise ClosedError("onnxruntime: execute() after close()")
        bound = None
        try:
            if idle is None:
                if inputs[self._rows_name].shape[self._rows_axis] != self._unbound[gear]:
                    check_launch(self.spec, self.batching, inputs, gear)
                return runtime.run(inputs, out)
            try:
                bound = idle.pop()
            except IndexError:  # as many threads are in here as there are buffers
                bound = _Bound(runtime.session, self.spec, gear)
            # NumPy would spread one row over all of them without a word.
            if self._rows_axis or len(inputs[self._rows_name]) != bound.length:
                check_launch(self.spec, self.batching, inputs, gear)
            for name, place in bound.inputs:
                place[...] = inputs[name]
            bound.run(bound.binding)
            results = {}  # a loop: before Python 3.12 a comprehension costs a call
            for name, place in bound.outputs:
                results[name] = place.copy()
            return results
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise _device_error(error) from error
        finally:
            if idle is not None and bound is not None:
                idle.append(bound)

    def close(self) -> None:
        """Free the model; twice is fine."""
        self._runtime = None
        self._idle = {}
        self._unbound = {}

    def _admit(self, inputs: Mapping[str, Array], gear: int) -> list[_Bound] | None:
        """Return the idle buffers for a batch size that has none yet, or None where buffers do not pay.

        Raises:
            ClosedError: the session is closed.
            InputError: see `check_launch`.
        """
        if self._runtime is None:
            raise ClosedError("onnxruntime: execute() after close()")
        check_launch(self.spec, self.batching, inputs, gear)
        shapes = [(tensor.dtype.itemsize, tensor.shape_for(gear)) for tensor in (*self.spec.inputs, *self.spec.outputs)]
        if any(None in shape for _, shape in shapes) or any(
            itemsize * math.prod(size or 0 for size in shape) > _BOUND_BYTES for itemsize, shape in shapes
        ):
            self._unbound[gear] = gear * self._rows.rows_per_row
            return None
        if len(self._idle) >= _BOUND_SIZES and not isinstance(self.batching, Gears):
            self._idle = {}
        return self._idle.setdefault(gear, [])


class _Bound:
    """Buffers for one batch size, bound to ONNX Runtime once, used by one thread at a time."""

    __slots__ = ("binding", "inputs", "length", "outputs", "run")

    def __init__(self, session: Any, spec: ModelSpec, gear: int) -> None:
        self.run = session.run_with_iobinding
        self.binding = session.io_binding()
        self.inputs = [(tensor.name, _empty(tensor, gear)) for tensor in spec.inputs]
        self.outputs = [(tensor.name, _empty(tensor, gear)) for tensor in spec.outputs]
        self.length = next(
            len(array) for tensor, (_, array) in zip(spec.inputs, self.inputs, strict=True) if tensor.batch_axis is not None
        )
        for name, array in self.inputs:
            self.binding.bind_ortvalue_input(name, _ort_value(array))
        for name, array in self.outputs:
            self.binding.bind_ortvalue_output(name, _ort_value(array))


def _quietly(runtime: _Runtime) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return its `run` without a word on stderr: for trials whose failure is an answer."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return lambda inputs: runtime.run(inputs, options=options)


class _Runtime:
    """An InferenceSession, and what it says of itself in this library's terms."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.inputs = [_declared(tensor) for tensor in session.get_inputs()]
        self.outputs = [_declared(tensor) for tensor in session.get_outputs()]
        self._names = [tensor.name for tensor in self.outputs]
        self._run = session.run
        # What ONNX Runtime's own NumPy conversion refuses goes in and out by pointer.
        self._foreign = any(tensor.dtype.kind == "V" for tensor in (*self.inputs, *self.outputs))

    def run(self, inputs: Mapping[str, Array], out: Mapping[str, Array] | None = None, options: Any = None) -> dict[str, Array]:
        """Run once on the caller's arrays, with results in `out` where that pays; `options` are ONNX Runtime's RunOptions."""
        if out is not None:
            out = {name: array for name, array in out.items() if array.nbytes >= _IN_PLACE_BYTES}
        if not out and not self._foreign:
            return dict(zip(self._names, self._run(self._names, inputs, options), strict=True))
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, _ort_value(array))
        for tensor in self.outputs:
            if out and tensor.name in out:
                binding.bind_ortvalue_output(tensor.name, _ort_value(out[tensor.name]))
            else:
                binding.bind_output(tensor.name)
        self.session.run_with_iobinding(binding, options)
        results = {}
        for tensor, value in zip(self.outputs, binding.get_outputs(), strict=True):
            results[tensor.name] = out[tensor.name] if out and tensor.name in out else _to_numpy(value, tensor.dtype)
        return results


def _free(
    model: Model,
    fixed: _Runtime,
    spec: ModelSpec,
    batch: int,
    axes: BatchAxes,
    session_options: object,
    providers: Sequence[tuple[str, Mapping[str, object]]],
) -> _Runtime:
    """Return a runtime whose batch axis is free, or say why the model's fixed batch cannot be changed."""
    try:
        folder = model.parent if isinstance(model, Path) else None
        proto = free_batch(read_model(model), axes)
        proven = is_proven(proto, axes)
        freed = _Runtime(_create(proto, session_options, providers, folder=folder))
        if not proven:
            check_same_rows(spec, batch, _quietly(fixed), _quietly(freed))
    except ModelError as error:
        raise ModelError(
            f"the model has the fixed batch size {batch} and cannot run others: {error}. "
            f"It runs as it is with batch_sizes=[{batch}]"
        ) from error
    return freed


def _probe(runtime: _Runtime, spec: ModelSpec, guessed: Sequence[str]) -> ModelSpec:
    """Find the batch axes that the model leaves open by looking how shapes change from 2 rows to 3."""
    shapes = []
    for rows in (2, 3):
        inputs = {tensor.name: np.zeros([size or 1 for size in tensor.shape_for(rows)], tensor.dtype) for tensor in spec.inputs}
        try:
            shapes.append({name: array.shape for name, array in _quietly(runtime)(inputs).items()})
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelError(
                f"the model does not tell which axis of {list(guessed)} carries rows, and a trial with {rows} rows of zeros "
                f"failed ({error}); say so with batch_axis={{{guessed[0]!r}: 0}}"
            ) from error
    outputs = []
    for tensor in spec.outputs:
        if tensor.name in guessed:
            two, three = (shape[tensor.name] for shape in shapes)
            moved = [axis for axis, (low, high) in enumerate(zip(two, three, strict=True)) if low != high]
            rowwise = len(moved) == 1 and 3 * two[moved[0]] == 2 * three[moved[0]]
            tensor = replace(
                tensor,
                batch_axis=moved[0] if rowwise else None,
                rows_per_row=two[moved[0]] // 2 if rowwise else 1,
                shape=tuple(None if axis in moved or size is None else size for axis, size in enumerate(tensor.shape)),
            )
        outputs.append(tensor)
    return replace(spec, outputs=tuple(outputs))


def _create(
    model: Model | onnx.ModelProto,
    session_options: object,
    providers: Sequence[tuple[str, Mapping[str, object]]],
    *,
    folder: Path | None = None,
) -> Any:
    """Return an InferenceSession; `folder` is where external data of a model without a path lies."""
    settings = _session_options(session_options)
    if folder is not None:
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if isinstance(model, onnx.ModelProto):
        try:
            source: str | bytes = model.SerializeToString()
        except ValueError as error:  # protobuf's limit of 2 GiB
            raise ModelError(f"the model cannot be serialized ({error}); save it to a file with external data") from error
    else:
        source = str(model) if isinstance(model, Path) else model
    try:
        session = onnxruntime.InferenceSession(source, settings, providers=list(providers))
    except Exception as error:  # ONNX Runtime's errors share no base class
        what = f"{str(model)!r}" if isinstance(model, Path) else "the model"
        raise ModelError(f"ONNX Runtime cannot load {what}: {error}") from error
    session.disable_fallback()
    for name, _ in providers:
        if name not in session.get_providers():
            raise BackendUnavailableError(
                f"execution provider {name!r} could not be started, ONNX Runtime would use {session.get_providers()} instead: "
                "check its libraries and driver"
            )
    return session


def _providers(option: object, device: int) -> list[tuple[str, Mapping[str, object]]]:
    """Return (name, options) pairs; a device other than 0 becomes the first provider's ``device_id``.

    Raises:
        InputError: the option is of another form, or the CPU is asked for a device other than 0.
        BackendUnavailableError: a provider is not part of this build of ONNX Runtime.
    """
    listed = ["CPUExecutionProvider"] if option is None else [option] if isinstance(option, str) else option
    if not isinstance(listed, Sequence) or not listed:
        raise InputError(f"expected providers to be a list of names or (name, options) pairs, got {option!r}")
    pairs: list[tuple[str, Mapping[str, object]]] = []
    for item in listed:
        name, settings = (
            (item, {}) if isinstance(item, str) else item if isinstance(item, Sequence) and len(item) == 2 else (None, {})
        )
        if not isinstance(name, str) or not isinstance(settings, Mapping):
            raise InputError(f"expected providers to be a list of names or (name, options) pairs, got {option!r}")
        if name not in onnxruntime.get_available_providers():
            raise BackendUnavailableError(
                f"execution provider {name!r} is not in this build of ONNX Runtime, only "
                f"{onnxruntime.get_available_providers()}: install the build that has it"
            )
        pairs.append((name, dict(settings)))
    if device:
        if pairs[0][0] == "CPUExecutionProvider":
            raise InputError(f"expected device 0, got {device}: the CPU is one device")
        pairs[0] = (pairs[0][0], {"device_id": device, **pairs[0][1]})
    return pairs


def _session_options(option: object) -> Any:
    if isinstance(option, onnxruntime.SessionOptions):
        return option
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors: every one is raised as well, and warnings are about models, not about use
    if option is None:
        return settings
    if not isinstance(option, Mapping):
        raise InputError(f"expected session_options to be SessionOptions or a mapping, got {option!r}")
    for name, value in option.items():
        try:
            if "." in str(name):
                settings.add_session_config_entry(str(name), str(value))
            elif hasattr(settings, str(name)):
                setattr(settings, str(name), value)
            else:
                raise InputError(f"onnxruntime.SessionOptions has no attribute {name!r}; config entries have a dot")
        except (TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"session_options: {name!r} does not take {value!r}: {error}") from error
    return settings


def _declared(tensor: Any) -> DeclaredTensor:
    """Return what an InferenceSession says of an input or output.

    Raises:
        ModelError: it is not a tensor, or of a type without a NumPy counterpart.
    """
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        raise ModelError(f"{tensor.name!r}: expected a tensor of numbers or bools, got {tensor.type}; it is not supported")
    return DeclaredTensor(tensor.name, dtype, tuple(size or None if isinstance(size, str) else size for size in tensor.shape))


_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    f"tensor({name})": np.dtype(dtype)
    for name, dtype in {
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float": np.float32,
        "double": np.float64,
        "bool": np.bool_,
        **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    }.items()
}


def _empty(tensor: TensorSpec, rows: int) -> Array:
    return np.zeros([size or 0 for size in tensor.shape_for(rows)], tensor.dtype)


def _ort_value(array: Array) -> Any:
    """Return an OrtValue on the array's own memory."""
    if array.dtype == ml_dtypes.bfloat16:
        bits = array.view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _to_numpy(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return a copy of an OrtValue that ONNX Runtime made."""
    array: Array
    if dtype == ml_dtypes.bfloat16:
        count = math.prod(value.shape()) * dtype.itemsize
        memory = (ctypes.c_char * count).from_address(value.data_ptr()) if count else b""
        array = np.frombuffer(memory, dtype).reshape(value.shape()).copy()
    else:
        array = value.numpy()
    return array


def _device_error(error: Exception) -> DeviceError:
    return DeviceError(str(error), backend=_NAME, operation="run", status=type(error).__name__)
