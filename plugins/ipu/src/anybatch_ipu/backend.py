"""IpuBackend: what anybatch sees of this plugin.

Options of ``anybatch.open``, beside those for compiling an ``.onnx`` model (`anybatch_ipu.compile`):
    pad_by: who pads what does not fill a batch, see `anybatch_ipu._session`: ``"runtime"``, PopRT, which lets rows of several
        callers share a batch and waits for them up to ``timeout_ns``; or ``"host"``, the core, which never waits. Default:
        PopRT wherever it can for the model, else the core.
    timeout_ns: how long PopRT may wait for rows that fill a batch, above 0. Default 300,000, which is 0.3 ms.
    in_flight: how many launches may be in progress at once; at least 3 feed overlapped I/O. Default: by who pads, from 8 to 64.
    execute_async: queue and wait in two calls, for a PopRT whose ``execute`` would let one caller in at a time. Default False.
    runtime_options: further fields of ``poprt.runtime.RuntimeConfig``, such as ``{"auto_reset": True}``.
    batch_axis, rows_per_row: by tensor name, where the model does not tell; see `anybatch.read_model_spec`.

``pad_by``, not ``padding``: that is `anybatch.open`'s own, for what padded rows hold. With another value than zero there the
core fills every batch, and PopRT has nothing to pad or merge.

``device=0`` is the next free IPU that fits the model, as PopRT itself chooses; k above 0 is the IPU of that id, which PopRT 1.3
and later can be told.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anybatch
from anybatch_ipu._api import Poprt
from anybatch_ipu._session import DEFAULT_TIMEOUT_NS, IpuSession, SessionOptions, open_session
from anybatch_ipu.compile import COMPILE_OPTIONS, POPEF, CompileOptions, compile_model
from anybatch_ipu.errors import PoprtError, PoprtModelError

_SESSION_OPTIONS: Final = (
    "pad_by",
    "timeout_ns",
    "in_flight",
    "execute_async",
    "runtime_options",
    "batch_axis",
    "rows_per_row",
)
_LONGEST_NS: Final = 2**63 - 1  # PopRT counts in signed 64 bits
_OURS: Final[Mapping[str, str]] = {
    "timeout_ns": "use the option timeout_ns",
    "batching_dim": "use the options pad_by and batch_axis",
    "replica_id_to_device": "use device",
}
_WHEEL: Final = (
    "PopRT is a wheel of Graphcore's, on no package index but in the releases of github.com/graphcore/PopRT: "
    "poprt-<version>-cp38-cp38-linux_x86_64.whl, so the published ones are for CPython 3.8 on Ubuntu 20.04"
)


class IpuBackend:
    """Opens ``.popef`` models on Graphcore IPUs, and ``.onnx`` models after compiling them with PopRT.

    Args:
        name: what callers pass as ``backend=``.
        suffixes: the files that mean this backend.
        poprt: imports PopRT, or what stands in for it: a package with the same modules. None: ``import poprt``.
        runtime: says in one line what stands in for the IPU, for `check_usable`. None: looks for PopRT and for devices.
        clock: what launches are timed with on what stands in for the IPU. None: the wall clock.
    """

    def __init__(
        self,
        name: str = "ipu",
        *,
        suffixes: frozenset[str] = frozenset({".popef"}),
        poprt: Callable[[], Any] | None = None,
        runtime: Callable[[], str] | None = None,
        clock: anybatch.Clock | None = None,
    ) -> None:
        self.name = name
        self.suffixes = suffixes
        self._poprt = poprt
        self._runtime = runtime
        self.clock = clock

    @property
    def gear_limits(self) -> tuple[int, int]:
        """How many batch sizes one model has: an IPU holds one program, of one size; see `anybatch.Backend`."""
        return 1, 1

    def check_usable(self) -> str:
        """Return what there is of PopRT and IPUs, found without importing anything; see `anybatch.Backend`."""
        if self._runtime is not None:
            return self._runtime()
        if "poprt" not in sys.modules and importlib.util.find_spec("poprt") is None:
            raise anybatch.BackendUnavailableError(f"{self.name}: the Python package poprt is missing; {_missing_wheel()}")
        cards = sorted(path.name for path in Path("/dev").glob("ipu[0-9]*"))
        partition = os.environ.get("IPUOF_VIPU_API_PARTITION_ID") or os.environ.get("IPUOF_CONFIG_PATH")
        if not cards and not partition:
            raise anybatch.BackendUnavailableError(
                f"{self.name}: there is no /dev/ipu*, and neither IPUOF_VIPU_API_PARTITION_ID nor IPUOF_CONFIG_PATH names a "
                "partition, so there is no IPU or no driver; `gc-info -l` lists IPUs"
            )
        where = f"{len(cards)} IPU device{'s' * (len(cards) != 1)}" if cards else f"IPU partition {partition}"
        return f"PopRT, {where}"

    def open(
        self, model: anybatch.Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]
    ) -> IpuSession:
        """Open a model; see `anybatch.Backend.open`, and this module for the options.

        Raises:
            ModelError: also for a ``.popef`` that was compiled for another batch size than `batch_sizes`.
        """
        anybatch.check_options(options, {*_SESSION_OPTIONS, *COMPILE_OPTIONS}, backend=self.name)
        run = _session_options(options)
        poprt = Poprt(self._import_poprt(), self.name)
        compiling = next((name for name in options if name not in _SESSION_OPTIONS), None)
        if isinstance(model, Path) and POPEF.include(model):
            if compiling is not None:
                raise anybatch.InputError(
                    f"{self.name}: option {compiling!r} is for compiling, and this .popef is compiled already"
                )
            return self._open_compiled(poprt, model, device, batch_sizes, run)
        if isinstance(model, bytes) and (reason := _why_no_onnx(model)):
            if compiling is not None:
                raise anybatch.ModelError(
                    f"{reason}; if they are a compiled one, leave out {compiling!r}, which is for compiling"
                )
            return self._open_bytes(poprt, model, reason, device, batch_sizes, run)
        how = _compile_options(poprt, options)
        compiled = compile_model(model, poprt=poprt, batch_sizes=batch_sizes, options=how)
        run = replace(run, precision=how.precision_of(compiled.precision))
        try:
            return open_session(poprt, compiled.path, device=device, options=run, spec=compiled.spec)
        finally:
            if compiled.temporary:
                compiled.path.unlink()

    def compile(
        self,
        model: anybatch.Model,
        *,
        batch_sizes: Sequence[int] | None,
        output: Path | None,
        options: Mapping[str, object],
        progress: Callable[[str], None] | None,
    ) -> anybatch.Compiled:
        """Compile a model with PopRT; see `anybatch.Compiler.compile`, and `anybatch_ipu.compile` for the options.

        Needs no IPU: without one, say what hardware it is for with the option ``ipu_version``.
        """
        anybatch.check_options(options, COMPILE_OPTIONS, backend=self.name)
        poprt = Poprt(self._import_poprt(), self.name)
        return compile_model(
            model,
            poprt=poprt,
            batch_sizes=batch_sizes,
            options=_compile_options(poprt, options),
            output=output,
            progress=progress,
        )

    def _open_bytes(
        self, poprt: Poprt, model: bytes, reason: str, device: int, batch_sizes: Sequence[int] | None, options: SessionOptions
    ) -> IpuSession:
        """Open what is no ONNX model, for the reason given; the mark of a PopEF is not published, so PopRT has to tell."""
        with tempfile.TemporaryDirectory(prefix="anybatch-") as folder:
            path = Path(folder) / "model.popef"
            path.write_bytes(model)
            try:
                return self._open_compiled(poprt, path, device, batch_sizes, options)
            except PoprtModelError as error:
                error.args = (f"{reason}; and taken for a compiled one: {error}",)
                raise

    def _open_compiled(
        self, poprt: Poprt, popef: Path, device: int, batch_sizes: Sequence[int] | None, options: SessionOptions
    ) -> IpuSession:
        session = open_session(poprt, popef, device=device, options=options)
        anybatch.check_compiled_for(session, batch_sizes, backend=self.name)
        return session

    def _import_poprt(self) -> Any:
        try:
            return self._poprt() if self._poprt is not None else importlib.import_module("poprt")
        except ImportError as error:
            raise anybatch.BackendUnavailableError(f"{self.name}: import poprt failed ({error}); {_missing_wheel()}") from error


def _why_no_onnx(model: bytes) -> str:
    """Return why these bytes are no ONNX model, "" if they are one."""
    try:
        proto = anybatch.read_model(model)
    except anybatch.ModelError as error:
        return str(error)
    return "" if proto.graph.output else "the bytes are no ONNX model: it would have outputs"


def _missing_wheel() -> str:
    return f"{_WHEEL}; this is Python {platform.python_version()}"


def _compile_options(poprt: Poprt, options: Mapping[str, object]) -> CompileOptions:
    """Read the options for compiling; the hardware is this machine's where they do not say.

    Raises:
        InputError: one does not fit, or they do not say the hardware, and neither does PopRT: then the cause is its error.
    """
    if options.get("ipu_version"):
        return CompileOptions.from_options(options)
    try:
        version = poprt.ipu_version()
    except PoprtError as error:
        raise anybatch.InputError(
            f"expected ipu_version to name the hardware to compile for, since PopRT does not tell ({error.detail or error}): "
            "'ipu21' for C600 cards, 'ipu2' for M2000 and Bow machines"
        ) from error
    return CompileOptions.from_options(options, ipu_version=version)


def _session_options(options: Mapping[str, object]) -> SessionOptions:
    """Check the options that say how a model is run.

    Raises:
        InputError: one does not fit.
    """
    run = SessionOptions()
    pad_by = options.get("pad_by")
    if pad_by == "runtime" or pad_by == "host":  # "in" would not narrow
        run = replace(run, pad_by=pad_by)
    elif pad_by is not None:
        raise anybatch.InputError(f"expected pad_by to be 'runtime' or 'host', got {pad_by!r}")
    timeout = options.get("timeout_ns", DEFAULT_TIMEOUT_NS)
    if not isinstance(timeout, int) or isinstance(timeout, bool) or not 0 <= timeout <= _LONGEST_NS:
        raise anybatch.InputError(f"expected timeout_ns to be an int of nanoseconds above 0 and below 2**63, got {timeout!r}")
    if timeout == 0:
        raise anybatch.InputError(
            "expected timeout_ns above 0: to PopRT 0 means to wait for ever, so rows that fill no batch would never come back; "
            "for no waiting at all use pad_by='host'"
        )
    in_flight = options.get("in_flight")
    if in_flight is not None and (not isinstance(in_flight, int) or isinstance(in_flight, bool) or in_flight < 1):
        raise anybatch.InputError(f"expected in_flight to be an int of at least 1, got {in_flight!r}")
    asynchronous = options.get("execute_async", False)
    if not isinstance(asynchronous, bool):
        raise anybatch.InputError(f"expected execute_async to be True or False, got {asynchronous!r}")
    return replace(
        run,
        timeout_ns=timeout,
        in_flight=in_flight,
        execute_async=asynchronous,
        runtime_options=anybatch.read_mapping(options, "runtime_options", elsewhere=_OURS),
        batch_axis=anybatch.read_mapping(options, "batch_axis"),
        rows_per_row=anybatch.read_mapping(options, "rows_per_row"),
    )
