"""Compiles ONNX models for Ascend with the vendor's ``atc``: checks, command line, cache.

Options, all optional but the first, which defaults to the card's own where there is one:
    soc_version: the chip, as ``npu-smi info`` or ``acl.get_soc_name()`` names it, such as ``"Ascend310P3"``.
    precision_mode: one of `PRECISION_MODES`; the vendor's default computes in half precision.
    insert_op_conf: an AIPP configuration file.
    atc_options: further options of ``atc`` by name, such as ``{"op_select_implmode": "high_precision"}``.
    compile_timeout_s: how long ``atc`` may take; default: any time.
    input_shape, batch_axis, rows_per_row, cache_dir: as every backend has them that compiles; see `anybatch.CommonOptions`.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anybatch
from anybatch_ascend import _atc, _rules
from anybatch_ascend._atc import AtcError, AtcInputError, AtcModelError
from anybatch_ascend._rules import advice

if TYPE_CHECKING:  # backends are listed without onnx, which takes time to import
    import onnx

__all__ = [
    "COMPILE_OPTIONS",
    "DEFAULT_BATCH_SIZES",
    "OM",
    "PRECISION_MODES",
    "AtcError",
    "AtcInputError",
    "AtcModelError",
    "CompileOptions",
    "advice",
    "compile_model",
]

COMPILE_OPTIONS: Final = (
    "soc_version",
    "precision_mode",
    "insert_op_conf",
    "atc_options",
    "compile_timeout_s",
    *anybatch.COMMON_OPTIONS,
)
DEFAULT_BATCH_SIZES: Final = (1, 2, 4, 8, 16)
PRECISION_MODES: Final = (
    "force_fp16",
    "force_fp32",
    "cube_fp16in_fp32out",
    "allow_mix_precision",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "allow_fp32_to_fp16",
    "allow_fp32_to_bf16",
    "must_keep_origin_dtype",
)
# What atc makes, and its magic number.
OM: Final = anybatch.CompiledFiles(".om", (0x444F4D49).to_bytes(4, "little"))
# What floats are computed in by each mode, the vendor's default first and the modes of ``precision_mode_v2`` last. None: in
# what the model says. What is mixed counts as its coarser half.
_PRECISIONS: Final[Mapping[str | None, str | None]] = {
    None: "float16",
    "force_fp16": "float16",
    "force_fp32": "float32",
    "cube_fp16in_fp32out": "float16",
    "allow_mix_precision": "float16",
    "allow_mix_precision_fp16": "float16",
    "allow_mix_precision_bf16": "bfloat16",
    "allow_fp32_to_fp16": "float16",
    "allow_fp32_to_bf16": "bfloat16",
    "must_keep_origin_dtype": None,
    "fp16": "float16",
    "origin": None,
    "mixed_float16": "float16",
    "mixed_bfloat16": "bfloat16",
}
# Raise this when the same options begin to mean another command line.
_FORMAT: Final = 1
# What atc_options cannot say, and what says it instead.
_OURS: Final[Mapping[str, str]] = {
    "model": "the model is the one you hand over",
    "framework": "the model is ONNX",
    "output": "use the argument output, or the cache",
    "mode": "models are made, mode 0",
    "help": "run atc itself",
    "soc_version": "use the option soc_version",
    "precision_mode": "use the option precision_mode",
    "insert_op_conf": "use the option insert_op_conf",
    "input_shape": "use the option input_shape",
    "input_shape_range": "a model has either gears or shape ranges",
    "dynamic_batch_size": "use batch_sizes",
    "dynamic_dims": "use batch_sizes",
    "dynamic_image_size": "a model has either batch gears or image gears",
    "external_weight": "the weights would lie in files beside the model",
}


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What a model is compiled with; the module says what each option means.

    Attributes:
        atc_options: names with underscores, values as ``atc`` reads them.
        common: those that other backends offer alike.
    """

    soc_version: str
    precision_mode: str | None = None
    insert_op_conf: Path | None = None
    atc_options: Mapping[str, str] = field(default_factory=dict)
    compile_timeout_s: float | None = None
    common: anybatch.CommonOptions = field(default_factory=anybatch.CommonOptions)

    @classmethod
    def from_options(cls, options: Mapping[str, object], *, soc_version: str | None = None) -> CompileOptions:
        """Read a backend's options; those that are not in `COMPILE_OPTIONS` are left to others.

        Args:
            options: as a backend gets them.
            soc_version: the card's own, where there is one and the options do not say.

        Raises:
            InputError: a value does not fit, or no chip is named.
        """
        chip = options.get("soc_version") or soc_version
        if not isinstance(chip, str) or not chip:
            got = "" if chip is None else f", got {chip!r}"
            raise anybatch.InputError(
                f"expected soc_version to name the chip to compile for, such as soc_version='Ascend310P3'{got}; "
                "`npu-smi info` or acl.get_soc_name() on the machine with the card tells it"
            )
        precision = options.get("precision_mode")
        if precision is not None and precision not in PRECISION_MODES:
            raise anybatch.InputError(
                f"expected precision_mode to be one of {list(PRECISION_MODES)}, got {precision!r}; "
                "for precision_mode_v2 use atc_options"
            )
        atc_options = _read_atc_options(options.get("atc_options"))
        if precision is not None and "precision_mode_v2" in atc_options:
            raise anybatch.InputError("expected precision_mode or precision_mode_v2 in atc_options, got both")
        conf = anybatch.read_path(options, "insert_op_conf")
        if conf is not None and not conf.is_file():
            raise anybatch.InputError(f"insert_op_conf: there is no file {str(conf)!r}")
        return cls(
            soc_version=chip,
            precision_mode=None if precision is None else str(precision),
            insert_op_conf=conf,
            atc_options=atc_options,
            compile_timeout_s=_read_timeout(options.get("compile_timeout_s")),
            common=anybatch.CommonOptions.from_options(options),
        )

    def precision_of(self, model: str) -> str:
        """Return what a model is computed in once it is compiled, as `anybatch.Session` has it; empty where that is not known.

        Args:
            model: what it was computed in before; quantised operators stay what they are.
        """
        mode = self.precision_mode or self.atc_options.get("precision_mode_v2")
        computed = _PRECISIONS.get(mode, "")
        return model if computed is None or model == "int8" else computed


def _read_timeout(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise anybatch.InputError(f"expected compile_timeout_s to be seconds above 0, got {value!r}")


def _read_atc_options(value: object) -> dict[str, str]:
    if value is not None and not isinstance(value, Mapping):
        raise anybatch.InputError(f"expected atc_options to map names to values, such as {{'log': 'error'}}, got {value!r}")
    read: dict[str, str] = {}
    for given, setting in (value or {}).items():
        name = str(given).lstrip("-").replace("-", "_")
        # atc completes beginnings of names, so "dynamic_batch" would be one of ours too.
        ours = next((ours for ours in _OURS if ours.startswith(name)), None)
        if ours is not None:
            raise anybatch.InputError(f"atc_options: {given!r} is not for there: {_OURS[ours]}")
        if isinstance(setting, bool):
            setting = str(setting).lower()
        if not isinstance(setting, (str, int, float)) or setting == "":
            raise anybatch.InputError(f"atc_options: expected a text or a number for {given!r}, got {setting!r}")
        if name in read:
            raise anybatch.InputError(f"atc_options: {name!r} comes twice")
        read[name] = str(setting)
    return read


def compile_model(
    model: anybatch.Model,
    *,
    batch_sizes: Sequence[int] | None,
    options: CompileOptions,
    atc: Sequence[str] | None = None,
    backend: str = "ascend",
    output: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> anybatch.Compiled:
    """Compile a model, or find it compiled.

    A model whose rows are the first axis of every input gets ``--dynamic_batch_size``; one whose rows lie elsewhere, or with
    several entries per row, ``--dynamic_dims``; a single batch size is compiled in without gears. A batch size that is baked
    into the model is freed where that is shown to change no answer. A cache that cannot be written is warned about.

    Args:
        model: as `anybatch.Compiler.compile` gets it.
        batch_sizes: None takes the one that is baked into the model, or else `DEFAULT_BATCH_SIZES`.
        options: see `CompileOptions`.
        atc: program and leading arguments; None is the ``atc`` on the PATH.
        backend: name of the backend, under which the cache keeps what this ``atc`` makes.
        output: where a copy goes, in the place of what is there; its name ends in ``.om``.
        progress: called with each line that ``atc`` prints.

    Raises:
        InputError: something does not fit what the vendor or the model allows; `AtcInputError` where ``atc`` says so.
        ModelError: the model cannot be read, is compiled already, or cannot be compiled like this; `AtcModelError` where
            ``atc`` says so.
        BackendUnavailableError: there is no ``atc``, or it does not run here.
    """
    job = anybatch.CompileJob.plan(model, batch_sizes, options.common, files=OM, default=DEFAULT_BATCH_SIZES)
    flags, said = _flags(job, options)
    command = _atc.find_atc(atc)
    return job.compile(
        lambda path: _build(job, flags, options, command, path, progress),
        backend=backend,
        depends_on=_depends_on(flags, options, command),
        advice=(*_rules.advice(job.spec, job.batch_sizes, opset=_opset(job.proto)), *said),
        output=output,
        progress=progress,
    )


def _opset(model: onnx.ModelProto) -> int | None:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


def _flags(job: anybatch.CompileJob, options: CompileOptions) -> tuple[list[str], list[str]]:
    """Return the flags of ``atc`` that say shapes and gears, and what the caller has to keep in mind, in sentences.

    Raises:
        InputError, ModelError: the vendor's rules rule it out.
    """
    spec, gears = job.spec, job.batch_sizes
    _rules.check_gears(gears)
    _rules.check_names(spec)
    dims = any(t.batch_axis not in (0, None) or t.rows_per_row > 1 for t in spec.inputs)
    several = len(gears) >= _rules.MIN_GEARS
    rows = -1 if several else gears[0]
    flags = [f"--input_shape={';'.join(_shape_flag(tensor, rows) for tensor in spec.inputs)}"]
    if several:
        _rules.check_fixed_shapes(job.proto)
    if several and dims:
        free = [tensor.rows_per_row for tensor in spec.inputs if tensor.batch_axis is not None]
        per_gear = (",".join(str(gear * factor) for factor in free) for gear in gears)
        if options.atc_options.get("input_format", "ND") != "ND":
            raise anybatch.InputError(
                "atc_options: input_format must be ND with n-d gears, which this model needs because its rows are not "
                "simply the first axis of every input"
            )
        flags += [f"--dynamic_dims={';'.join(per_gear)}"]
        flags += ["--input_format=ND"] * ("input_format" not in options.atc_options)
    elif several:
        _rules.check_no_scalars(spec)
        flags += [f"--dynamic_batch_size={','.join(map(str, gears))}"]
    if options.insert_op_conf is None:
        return flags, []
    return flags, _rules.check_aipp(options.insert_op_conf, spec, gears, dims=dims)


def _shape_flag(tensor: anybatch.TensorSpec, rows: int) -> str:
    sizes = tensor.shape_for(1)
    if tensor.batch_axis is not None:
        axis = tensor.batch_axis
        sizes = (*sizes[:axis], rows if rows < 0 else rows * tensor.rows_per_row, *sizes[axis + 1 :])
    return f"{tensor.name}:{','.join(map(str, sizes))}"


def _depends_on(flags: Sequence[str], options: CompileOptions, command: Sequence[str]) -> dict[str, object]:
    """Return all that a compiled model depends on, beside the job."""
    files = {}
    for name, value in (*options.atc_options.items(), ("insert_op_conf", str(options.insert_op_conf or ""))):
        if value and Path(value).is_file():
            files[name] = hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return {
        "format": _FORMAT,
        "flags": flags,
        "soc_version": options.soc_version,
        "precision_mode": options.precision_mode,
        "atc_options": options.atc_options,
        "files": files,
        "atc": _atc.identity(command),
    }


def _build(
    job: anybatch.CompileJob,
    shapes: Sequence[str],
    options: CompileOptions,
    command: Sequence[str],
    path: Path,
    progress: Callable[[str], None] | None,
) -> None:
    """Run ``atc`` and put what it makes at `path`."""
    with tempfile.TemporaryDirectory(prefix="atc-", dir=path.parent) as work:
        folder = Path(work)
        source = _source(job, folder)
        made = folder / "made"
        made.mkdir()
        flags = [
            f"--model={source}",
            "--framework=5",
            f"--output={made / 'model'}",
            f"--soc_version={options.soc_version}",
            *shapes,
        ]
        if options.precision_mode is not None:
            flags.append(f"--precision_mode={options.precision_mode}")
        if options.insert_op_conf is not None:
            flags.append(f"--insert_op_conf={options.insert_op_conf}")
        # atc runs elsewhere, since it leaves files in its working directory; files named here are still the caller's.
        for name, value in options.atc_options.items():
            named = ("/" in value or "." in value) and Path(value).exists()
            flags.append(f"--{name}={Path(value).absolute() if named else value}")
        _atc.run_atc(command, flags, folder=folder, timeout_s=options.compile_timeout_s, progress=progress)
        results = sorted(made.glob("*.om"))  # host_env_os and host_env_cpu add to its name
        if len(results) != 1 or not results[0].stat().st_size:
            raise anybatch.ModelError(
                f"atc says it succeeded, but left {'an empty file' if len(results) == 1 else f'{len(results)} files'} "
                "where one .om was expected"
            )
        results[0].replace(path)


def _source(job: anybatch.CompileJob, folder: Path) -> Path:
    """Return the file that ``atc`` reads: the model's own, or one in `folder`."""
    if isinstance(job.model, Path) and not job.frees:
        return job.model.absolute()
    proto = job.source()
    if isinstance(job.model, Path):  # external data lies beside the model, and links to it are refused by ONNX's own reader
        for location in anybatch.external_files(proto):
            (folder / location).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(job.model.parent / location, folder / location)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path
