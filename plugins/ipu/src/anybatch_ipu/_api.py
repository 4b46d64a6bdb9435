"""PopRT, typed where it enters: every spelling that its versions have for one thing, met here and nowhere else.

============================  ==============================  ==============================
thing                         older                           newer
============================  ==============================  ==============================
class that runs a model       ``ModelRunner``                 ``Runner`` (from 1.1 on)
its inputs and outputs        ``get_model_inputs``            ``get_execute_inputs`` (from 1.1 on)
a call that does not wait     ``executeAsync``                ``execute_async`` (from 1.3 on)
``RuntimeConfig.timeout_ns``  ``timedelta``                   int, in ns (from 1.2 on)
``Converter.convert``         (model, logger)                 (model) (from 1.1 on)
============================  ==============================  ==============================

Which of them this PopRT has is asked of PopRT itself, never told by a version number: wheels do not always say one.
Source: Graphcore, PopRT user guides 1.0.2 to 1.5.0, and the programs published with them.
"""

from __future__ import annotations

import datetime
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import anybatch
from anybatch_ipu.errors import PoprtUnavailableError, error_for

if TYPE_CHECKING:  # backends are listed without onnx, which takes time to import
    import onnx

_RUNNERS: Final = ("Runner", "ModelRunner")
_INPUTS: Final = ("get_execute_inputs", "get_model_inputs")
_OUTPUTS: Final = ("get_execute_outputs", "get_model_outputs")
_ASYNC: Final = ("execute_async", "executeAsync")
_US: Final = 1000  # ns


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a compiled model, its shape at the compiled batch size."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Poprt:
    """The `poprt` package, or a stand-in for it.

    Args:
        package: what ``import poprt`` gave.
        backend: name of our backend, for errors.
    """

    def __init__(self, package: Any, backend: str) -> None:
        self.package = package
        self.backend = backend

    @property
    def version(self) -> str:
        """What PopRT says of its version, "unknown" where it says nothing."""
        return str(getattr(self.package, "__version__", "unknown"))

    def part(self, name: str) -> Any:
        """Return a part of the package by its dotted name, such as ``"runtime.RuntimeConfig"``.

        Raises:
            PoprtUnavailableError: this PopRT has none.
        """
        found = self.package
        for step in name.split("."):
            if not hasattr(found, step) and isinstance(found, ModuleType):
                try:
                    importlib.import_module(f"{found.__name__}.{step}")
                except ImportError as error:
                    raise self._missing(name) from error
            found = getattr(found, step, None)
            if found is None:
                raise self._missing(name)
        return found

    def call(self, name: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Call something of PopRT.

        Args:
            name: of the function, for errors, such as ``"runtime.Runner"``.

        Raises:
            PoprtError: it failed; see `anybatch_ipu.errors`.
        """
        try:
            return function(*args, **keywords)
        except anybatch.AnybatchError:
            raise
        except Exception as error:  # PopRT raises RuntimeError, and what its layers below raise
            if name.startswith("runtime."):
                # The end of PopRT's runner is what frees the device, so an error that somebody keeps must not keep the runner:
                # a traceback leads to the frames that had it, and one of them is this.
                error.__traceback__ = None
            del function, args, keywords
            raise error_for(self.backend, f"poprt.{name}", error) from error

    def _missing(self, name: str) -> PoprtUnavailableError:
        return PoprtUnavailableError(
            f"{self.backend}: PopRT {self.version} has no poprt.{name}: install one of the versions 1.0.2 to 1.5.0"
        )

    # ------------------------------------------------------------------------------------------------------- devices

    def device_count(self) -> int:
        """Return how many IPUs there are.

        Raises:
            PoprtError: the driver does not say.
        """
        manager = self.call("runtime.DeviceManager", self.part("runtime.DeviceManager"))
        return int(self.call("runtime.DeviceManager.get_num_devices", manager.get_num_devices))

    def ipu_version(self) -> str:
        """Return the hardware of this machine, such as ``"ipu21"``.

        Raises:
            PoprtError: there is none, or it does not say.
        """
        manager = self.call("runtime.DeviceManager", self.part("runtime.DeviceManager"))
        return str(self.call("runtime.DeviceManager.ipu_hardware_version", manager.ipu_hardware_version))

    # ----------------------------------------------------------------------------------------------------- compiling

    def convert(self, model: onnx.ModelProto, options: Mapping[str, object]) -> onnx.ModelProto:
        """Convert a model for the IPU.

        Raises:
            InputError: this PopRT's converter has no option of that name.
            PoprtError: it failed.
        """
        kind = self.part("converter.Converter")
        known = _keywords(kind)
        for name in options:
            if known is not None and name not in known:
                raise anybatch.InputError(
                    f"{self.backend}: the converter of PopRT {self.version} has no option {name!r}, only {sorted(known)}"
                )
        if known is not None and "disable_progress_bar" in known:
            options = {"disable_progress_bar": True, **options}
        converter = self.call("converter.Converter", kind, **options)
        args: tuple[Any, ...] = (model,)
        if _needs_logger(converter.convert):
            args = (model, self.part("utils.get_logger")())
        converted: onnx.ModelProto = self.call("converter.Converter.convert", converter.convert, *args)
        return converted

    def compile(self, model: bytes, outputs: list[str], path: Path, options: Mapping[str, object]) -> None:
        """Compile a converted model into a file.

        Args:
            options: what to assign to ``CompilerOptions``.

        Raises:
            InputError: this PopRT has no such option, or not such a value.
            PoprtError: it failed.
        """
        compiler = self.part("compiler.Compiler")
        settings = self.call("compiler.CompilerOptions", self.part("compiler.CompilerOptions"))
        if hasattr(settings, "show_compilation_progress_bar"):
            settings.show_compilation_progress_bar = False
        self._assign(settings, options, "compiler_options", "CompilerOptions")
        name = "compiler.Compiler.compile_and_export"
        self.call(name, compiler.compile_and_export, model, outputs, str(path), options=settings)

    # ------------------------------------------------------------------------------------------------------- running

    def runtime_config(self, timeout_ns: int, batching_dim: int | None, options: Mapping[str, object]) -> Any:
        """Return a ``RuntimeConfig``.

        Args:
            timeout_ns: rounded up to whole microseconds where PopRT takes a ``timedelta``.
            batching_dim: the axis that carries the batch, None to take whole batches only.
            options: further fields to assign.

        Raises:
            InputError: this PopRT has no such field, or not such a value.
            PoprtError: it failed.
        """
        config = self.call("runtime.RuntimeConfig", self.part("runtime.RuntimeConfig"))
        if isinstance(config.timeout_ns, datetime.timedelta):
            config.timeout_ns = datetime.timedelta(microseconds=math.ceil(timeout_ns / _US))
        else:
            config.timeout_ns = timeout_ns
        if batching_dim is not None:
            config.batching_dim = batching_dim
        self._assign(config, options, "runtime_options", "RuntimeConfig")
        return config

    def pin(self, config: Any, device: int) -> None:
        """Make a runner use that IPU.

        Raises:
            InputError: this PopRT cannot.
            PoprtError: the IPU cannot be attached to.
        """
        runtime = self.part("runtime")
        if not hasattr(config, "replica_id_to_device") or not hasattr(runtime, "ReplicaIdToDevice"):
            raise anybatch.InputError(
                f"{self.backend}: PopRT {self.version} takes the next free IPU and cannot be told another (1.3 and later can): "
                "leave device at 0, and say which IPUs this process sees with IPUOF_VIPU_API_PARTITION_ID or by its container"
            )
        manager = self.call("runtime.DeviceManager", self.part("runtime.DeviceManager"))
        name = "runtime.DeviceManager.get_specific_device"
        pinned = runtime.ReplicaIdToDevice()
        pinned[0] = self.call(name, manager.get_specific_device, device)
        config.replica_id_to_device = pinned

    def unpin(self, config: Any) -> None:
        """Let go of the IPU that `pin` attached to, if it did."""
        if hasattr(config, "replica_id_to_device"):
            config.replica_id_to_device = self.part("runtime").ReplicaIdToDevice()

    def open(self, popef: Path, config: Any) -> PoprtRunner:
        """Load a compiled model onto a device.

        Raises:
            PoprtError: it failed; nothing stays attached.
        """
        runtime = self.part("runtime")
        name = next((name for name in _RUNNERS if hasattr(runtime, name)), None)
        if name is None:
            raise self._missing("runtime.Runner")
        return PoprtRunner(self, name, self.call(f"runtime.{name}", getattr(runtime, name), str(popef), config))

    def _assign(self, target: object, values: Mapping[str, object], option: str, kind: str) -> None:
        for name, value in values.items():
            if name.startswith("_") or not hasattr(target, name):
                known = sorted(each for each in dir(target) if not each.startswith("_") and not callable(getattr(target, each)))
                raise anybatch.InputError(
                    f"{self.backend}: {option} names {name!r}, which {kind} of PopRT {self.version} has not; it has {known}"
                )
            try:
                setattr(target, name, value)
            except Exception as error:  # pybind's TypeError, or whatever a check raises: the value does not fit
                raise anybatch.InputError(f"{self.backend}: {option}[{name!r}] cannot be {value!r}: {error}") from error


class PoprtRunner:
    """A model on a device. Frees the device when the last reference to PopRT's own runner goes: it has no other close.

    Attributes:
        inputs, outputs: in PopRT's order.
    """

    def __init__(self, poprt: Poprt, kind: str, runner: Any) -> None:
        self._poprt = poprt
        self._name = f"runtime.{kind}"
        self._runner: Any = runner
        del runner  # as in `Poprt.call`
        try:
            self.inputs = self._ports(_INPUTS)
            self.outputs = self._ports(_OUTPUTS)
        except BaseException:
            self.close()
            raise

    def execute(self, inputs: Mapping[str, anybatch.Array], outputs: Mapping[str, anybatch.Array]) -> None:
        """Execute, writing into `outputs`; waits with Python's global lock released.

        Raises:
            PoprtError: it failed; `outputs` may be written in part.
        """
        self._poprt.call(f"{self._name}.execute", self._runner.execute, inputs, outputs)

    def execute_async(self, inputs: Mapping[str, anybatch.Array], outputs: Mapping[str, anybatch.Array]) -> None:
        """Do the same in two calls of PopRT: one that queues, and one that waits.

        Raises:
            PoprtError: see `execute`.
        """
        name = next((name for name in _ASYNC if hasattr(self._runner, name)), _ASYNC[0])
        started = self._poprt.call(f"{self._name}.{name}", getattr(self._runner, name), inputs, outputs)
        try:
            self._poprt.call(f"{self._name}.{name}.wait", started.wait)
        finally:
            del started

    def close(self) -> None:
        """Let go of PopRT's runner; twice is fine."""
        self._runner = None

    def _ports(self, names: tuple[str, str]) -> tuple[Port, ...]:
        name = next((name for name in names if hasattr(self._runner, name)), names[0])
        described = self._poprt.call(f"{self._name}.{name}", getattr(self._runner, name))
        # The older functions list weights that are loaded from the file as well.
        return tuple(
            Port(str(each.name), np.dtype(each.numpy_data_type()), tuple(int(size) for size in each.shape))
            for each in described
            if not getattr(each, "popef_contains_tensor_data", False)
        )


def _keywords(function: Callable[..., Any]) -> set[str] | None:
    """Return the names a function takes; None where it does not say, or takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - {"self"}


def _needs_logger(convert: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(convert).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) > 1
