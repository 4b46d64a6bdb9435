"""AscendBackend: what anybatch sees of this plugin.

Options of ``anybatch.open``, beside those for compiling an ``.onnx`` model (`anybatch_ascend.compile`):
    load: how the runtime loads the model, by the vendor's names: ``"file"`` (default; ``"mem"`` for bytes), ``"mem"``,
        ``"file_with_mem"``, ``"mem_with_mem"``; the last two in work and weight memory that this plugin allocates.
    slots: how many launches may be in flight, each with buffers of its own for the largest batch size. Default 6.
    callback_every: launches per callback of the report thread, once several are in flight; 0: no report thread, every
        launch waits for its own stream. Default 1.
    acl_config: a JSON file for ``acl.init``.
    aipp: of a model with dynamic AIPP, what is done to each image: a mapping with the fields of the vendor's AIPP configuration
        file, of which ``input_format`` (RGB888_U8, XRGB8888_U8 or YUV400_U8, which is grey), ``src_image_size_w`` and
        ``src_image_size_h`` are needed. Such a model takes images, uint8 [rows, h, w, bytes per pixel].
    batch_axis, rows_per_row: by tensor name, where the model does not tell; see `anybatch.read_model_spec`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import anybatch
from anybatch_ascend._acl import Acl
from anybatch_ascend._aipp import AippParameters
from anybatch_ascend._model import LOADS
from anybatch_ascend._rules import MAX_GEARS
from anybatch_ascend._session import AscendSession, SessionOptions, open_session
from anybatch_ascend.compile import COMPILE_OPTIONS, OM, CompileOptions, compile_model

_SESSION_OPTIONS: Final = ("load", "slots", "callback_every", "acl_config", "aipp", "batch_axis", "rows_per_row")
_CANN: Final = "pyACL comes with Huawei's CANN toolkit: install that, then `source /usr/local/Ascend/ascend-toolkit/set_env.sh`"


class AscendBackend:
    """Opens ``.om`` models on Ascend NPUs, and ``.onnx`` models after compiling them with ``atc``.

    Args:
        name: what callers pass as ``backend=``.
        suffixes: the files that mean this backend.
        acl: imports pyACL, or what stands in for it: a module with the same functions. None: ``import acl``.
        atc: program and leading arguments of the converter. None: the ``atc`` on the PATH.
        runtime: says in one line what stands in for the card, for `check_usable`. None: looks for CANN and for cards.
        clock: what launches are timed with on what stands in for the card. None: the wall clock.
    """

    def __init__(
        self,
        name: str = "ascend",
        *,
        suffixes: frozenset[str] = frozenset({".om"}),
        acl: Callable[[], ModuleType] | None = None,
        atc: Sequence[str] | None = None,
        runtime: Callable[[], str] | None = None,
        clock: anybatch.Clock | None = None,
    ) -> None:
        self.name = name
        self.suffixes = suffixes
        self._acl = acl
        self._atc = atc
        self._runtime = runtime
        self.clock = clock

    @property
    def gear_limits(self) -> tuple[int, int]:
        """How many batch sizes one model may have: one is a fixed shape, gears are 2 to 100; see `anybatch.Backend`."""
        return 1, MAX_GEARS

    def check_usable(self) -> str:
        """Return what there is of CANN and cards, found without importing anything; see `anybatch.Backend`."""
        if self._runtime is not None:
            return self._runtime()
        if "acl" not in sys.modules and importlib.util.find_spec("acl") is None:
            raise anybatch.BackendUnavailableError(f"{self.name}: the Python package acl is missing; {_CANN}")
        cards = [path.name for path in Path("/dev").glob("davinci[0-9]*")]
        if not cards:
            raise anybatch.BackendUnavailableError(
                f"{self.name}: there is no /dev/davinci*, so no card or no driver; `npu-smi info` lists the cards"
            )
        home = os.environ.get("ASCEND_TOOLKIT_HOME") or os.environ.get("ASCEND_HOME_PATH")
        return f"pyACL{f' of {home}' if home else ''}, {len(cards)} Ascend device{'s' * (len(cards) > 1)}"

    def open(
        self, model: anybatch.Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]
    ) -> AscendSession:
        """Open a model; see `anybatch.Backend.open`, and this module for the options.

        Raises:
            ModelError: also for an ``.om`` that was compiled for other batch sizes than `batch_sizes`.
        """
        anybatch.check_options(options, {*_SESSION_OPTIONS, *COMPILE_OPTIONS}, backend=self.name)
        run = _session_options(options, model)
        acl = Acl(self._import_acl(), self.name)
        if OM.include(model):
            for name in options:
                if name not in _SESSION_OPTIONS:
                    raise anybatch.InputError(
                        f"{self.name}: option {name!r} is for compiling, and this .om is compiled already"
                    )
            return self._open_compiled(acl, cast("Path | bytes", model), device, batch_sizes, run)
        compiling = CompileOptions.from_options(options, soc_version=self._soc_version(acl))
        compiled = compile_model(model, batch_sizes=batch_sizes, options=compiling, atc=self._atc, backend=self.name)
        tensors = (*compiled.spec.inputs, *compiled.spec.outputs)
        run = replace(
            run,
            precision=compiling.precision_of(compiled.precision),
            batch_axis={tensor.name: tensor.batch_axis for tensor in tensors},
            rows_per_row={tensor.name: tensor.rows_per_row for tensor in tensors},
        )
        try:
            return self._open_compiled(acl, compiled.path, device, compiled.batch_sizes, run)
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
        """Compile a model with ``atc``; see `anybatch.Compiler.compile`, and `anybatch_ascend.compile` for the options.

        Needs no card: without one, say which it is for with the option ``soc_version``.
        """
        anybatch.check_options(options, COMPILE_OPTIONS, backend=self.name)
        chip = None
        if "soc_version" not in options:
            try:
                chip = self._soc_version(Acl(self._import_acl(), self.name))
            except anybatch.BackendUnavailableError:  # then the options must say, and CompileOptions tells how
                chip = None
        return compile_model(
            model,
            batch_sizes=batch_sizes,
            options=CompileOptions.from_options(options, soc_version=chip),
            atc=self._atc,
            backend=self.name,
            output=output,
            progress=progress,
        )

    def _open_compiled(
        self, acl: Acl, model: Path | bytes, device: int, batch_sizes: Sequence[int] | None, options: SessionOptions
    ) -> AscendSession:
        session = open_session(acl, model, device=device, options=options)
        anybatch.check_compiled_for(session, batch_sizes, backend=self.name)
        return session

    def _import_acl(self) -> ModuleType:
        try:
            return self._acl() if self._acl is not None else importlib.import_module("acl")
        except ImportError as error:
            raise anybatch.BackendUnavailableError(f"{self.name}: import acl failed ({error}); {_CANN}") from error

    def _soc_version(self, acl: Acl) -> str | None:
        """Return the chip of this machine, None if it has none."""
        name = acl.function("get_soc_name")()
        return str(name) if name else None


def _session_options(options: Mapping[str, object], model: anybatch.Model) -> SessionOptions:
    """Check the options that say how a model is run.

    Raises:
        InputError: one does not fit.
    """
    load = options.get("load", "mem" if isinstance(model, bytes) and OM.include(model) else "file")
    if load not in LOADS:
        raise anybatch.InputError(f"expected load to be one of {list(LOADS)}, got {load!r}")
    given = {name: options[name] for name in ("slots", "callback_every") if name in options}
    for name, value in given.items():
        least = 1 if name == "slots" else 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise anybatch.InputError(f"expected {name} to be an int of at least {least}, got {value!r}")
    config = options.get("acl_config")
    if config is not None:
        if not isinstance(config, (str, os.PathLike)):
            raise anybatch.InputError(f"expected acl_config to be a file, got {config!r}")
        config = os.fspath(config)
    return SessionOptions(
        load=load,
        acl_config=cast("str | None", config),
        aipp=None if options.get("aipp") is None else AippParameters.from_option(options["aipp"]),
        batch_axis=cast("Mapping[str, int | None] | None", options.get("batch_axis")),
        rows_per_row=cast("Mapping[str, int] | None", options.get("rows_per_row")),
        **cast("Mapping[str, Any]", given),
    )
