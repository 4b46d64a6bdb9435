"""Compiles ONNX models for Ascend with the vendor's ``atc``: checks, command line, cache.

Options, all optional but the first, which defaults to the card's own where there is one:
    soc_version: the chip, as ``npu-smi info`` or ``acl.get_soc_name()`` names it, such as ``"Ascend310P3"``.
    precision_mode: one of `PRECISION_MODES`; the vendor's default computes in half precision.
    input_shape: by input name, the sizes of an input whose free dimensions are not only its rows: ``{"ids": [None, 128]}``,
        None (or -1) where the rows are. A dimension with a name is needed once, not in each input.
    insert_op_conf: an AIPP configuration file.
    atc_options: further options of ``atc`` by name, such as ``{"op_select_implmode": "high_precision"}``.
    batch_axis, rows_per_row: by tensor name, where the model does not tell; see `anybatch.read_model_spec`.
    cache_dir: where compiled models are kept; default: ``ascend`` in `anybatch.cache_folder`.
    compile_timeout_s: how long ``atc`` may take; default: any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anybatch
from anybatch_ascend import _atc, _rules
from anybatch_ascend._atc import AtcError, AtcInputError, AtcModelError
from anybatch_ascend._rules import advice

if TYPE_CHECKING:  # backends are listed without onnx, which takes time to import
    import onnx

__all__ = [
    "COMPILE_OPTIONS",
    "DEFAULT_BATCH_SIZES",
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
    "input_shape",
    "insert_op_conf",
    "atc_options",
    "batch_axis",
    "rows_per_row",
    "cache_dir",
    "compile_timeout_s",
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
# The first four bytes of a compiled model.
_OM_MAGIC: Final = (0x444F4D49).to_bytes(4, "little")
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

_log: Final = logging.getLogger(__name__)
Dims = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What a model is compiled with; the module says what each option means.

    Attributes:
        input_shape: None stands for the rows.
        atc_options: names with underscores, values as ``atc`` reads them.
    """

    soc_version: str
    precision_mode: str | None = None
    input_shape: Mapping[str, Dims] = field(default_factory=dict)
    insert_op_conf: Path | None = None
    atc_options: Mapping[str, str] = field(default_factory=dict)
    batch_axis: Mapping[str, int | None] = field(default_factory=dict)
    rows_per_row: Mapping[str, int] = field(default_factory=dict)
    cache_dir: Path | None = None
    compile_timeout_s: float | None = None

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
        conf = _read_path(options, "insert_op_conf")
        if conf is not None and not conf.is_file():
            raise anybatch.InputError(f"insert_op_conf: there is no file {str(conf)!r}")
        axes: dict[str, Any] = {name: _read_mapping(options, name) for name in ("batch_axis", "rows_per_row")}
        return cls(
            soc_version=chip,
            precision_mode=None if precision is None else str(precision),
            input_shape={name: _read_dims(name, dims) for name, dims in _read_mapping(options, "input_shape").items()},
            insert_op_conf=conf,
            atc_options=atc_options,
            cache_dir=_read_path(options, "cache_dir"),
            compile_timeout_s=_read_timeout(options.get("compile_timeout_s")),
            **axes,
        )


def _read_mapping(options: Mapping[str, object], name: str) -> dict[str, Any]:
    value = options.get(name) or {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise anybatch.InputError(f"expected {name} to map names to values, got {value!r}")
    return dict(value)


def _read_path(options: Mapping[str, object], name: str) -> Path | None:
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise anybatch.InputError(f"expected {name} to be a path, got {value!r}")
    return Path(value).expanduser().absolute()


def _read_dims(name: str, dims: object) -> Dims:
    if isinstance(dims, Sequence) and not isinstance(dims, (str, bytes)):
        sizes = [None if size == -1 else size for size in dims]
        sound = all(size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0) for size in sizes)
        if sound and sizes.count(None) <= 1:
            return tuple(sizes)
    raise anybatch.InputError(
        f"input_shape of {name!r}: expected sizes such as [None, 3, 224, 224], None where the rows are and only there, "
        f"got {dims!r}"
    )


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
    cache_folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> anybatch.Compiled:
    """Compile a model, or find it compiled.

    A model whose rows are the first axis of every input gets ``--dynamic_batch_size``; one whose rows lie elsewhere, or with
    several entries per row, ``--dynamic_dims``; a single batch size is compiled in without gears. A batch size that is baked
    into the model is freed where that is shown to change no answer. The vendor's advice is logged at INFO as well as
    returned; a cache that cannot be written is warned about.

    Args:
        model: as `anybatch.Compiler.compile` gets it.
        batch_sizes: None takes the one that is baked into the model, or else `DEFAULT_BATCH_SIZES`.
        options: see `CompileOptions`.
        atc: program and leading arguments; None is the ``atc`` on the PATH.
        backend: name of the backend, under which the cache keeps what this ``atc`` makes.
        output: where a copy goes, in the place of what is there; its name ends in ``.om``.
        cache_folder: where compiled models are kept unless `options` says; None is `anybatch.cache_folder`.
        progress: called with each line that ``atc`` prints.

    Raises:
        InputError: something does not fit what the vendor or the model allows; `AtcInputError` where ``atc`` says so.
        ModelError: the model cannot be read, is compiled already, or cannot be compiled like this; `AtcModelError` where
            ``atc`` says so.
        BackendUnavailableError: there is no ``atc``, or it does not run here.
    """
    if output is not None:
        output = _check_output(output)
    _check_source(model)
    proto = anybatch.read_model(model)
    job = _Job.plan(proto, batch_sizes, options)
    command = _atc.find_atc(atc)
    said = [*_rules.advice(job.spec, job.batch_sizes, opset=_opset(proto)), *job.said]
    for sentence in said:
        _log.info("%s", sentence)

    def build(path: Path) -> None:
        _build(model, proto, job, options, command, path, progress)

    folder = options.cache_dir or (cache_folder or anybatch.cache_folder()) / backend
    key = _key(anybatch.model_digest(model, proto), job, options, command)
    kept = anybatch.keep_artefact(folder, key, ".om", build, say=progress)
    compiled = anybatch.Compiled(kept.path, job.spec, job.batch_sizes, kept.cached, kept.temporary, tuple(said))
    return compiled if output is None else _deliver(compiled, output)


def _check_output(output: Path) -> Path:
    if output.suffix != ".om":
        raise anybatch.InputError(f"output {str(output)!r}: expected a file that ends in .om")
    if not output.parent.is_dir():
        raise anybatch.InputError(f"output {str(output)!r}: there is no folder {str(output.parent)!r}")
    if output.is_dir():
        raise anybatch.InputError(f"output {str(output)!r} is a folder")
    if not os.access(output.parent, os.W_OK):
        raise anybatch.InputError(f"output {str(output)!r}: the folder cannot be written")
    return output.absolute()


def _deliver(compiled: anybatch.Compiled, output: Path) -> anybatch.Compiled:
    """Copy an artefact to its place, complete or not at all."""
    part = output.with_name(f".{output.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        shutil.copyfile(compiled.path, part)
        part.replace(output)
    except OSError as error:
        raise anybatch.InputError(f"output {str(output)!r} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
        if compiled.temporary:
            compiled.path.unlink(missing_ok=True)
    return replace(compiled, path=output, temporary=False)


def _check_source(model: anybatch.Model) -> None:
    """Check that a model is not compiled already.

    Raises:
        ModelError: it is, or cannot be read.
    """
    import onnx

    if isinstance(model, onnx.ModelProto):
        return
    try:
        if isinstance(model, bytes):
            head = model[:4]
        else:
            with model.open("rb") as file:
                head = file.read(4)
    except OSError as error:
        raise anybatch.ModelError(f"{str(model)!r} cannot be read: {error.strerror or error}") from error
    if head == _OM_MAGIC or (isinstance(model, Path) and model.suffix.lower() == ".om"):
        what = repr(str(model)) if isinstance(model, Path) else "the model"
        raise anybatch.ModelError(f"{what} is compiled already: open it as it is, or compile the .onnx file it was made of")


def _opset(model: onnx.ModelProto) -> int | None:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be compiled.

    Attributes:
        spec: with the sizes of `input_shape`.
        frees: whether the model has another batch size baked in, which is freed first.
        flags: of ``atc``: those that say shapes and gears.
        said: what the caller has to keep in mind, in sentences.
    """

    spec: anybatch.ModelSpec
    batch_sizes: tuple[int, ...]
    frees: bool
    flags: tuple[str, ...]
    said: tuple[str, ...]

    @classmethod
    def plan(cls, model: onnx.ModelProto, batch_sizes: Sequence[int] | None, options: CompileOptions) -> _Job:
        """Decide, and check the vendor's rules.

        Raises:
            InputError, ModelError: see `compile_model`.
        """
        _check_inputs(model, options.input_shape)
        axes = _batch_axes(options)
        spec = anybatch.read_model_spec(model, batch_axis=axes, rows_per_row=options.rows_per_row)
        spec = _with_sizes(spec, model, options.input_shape)
        baked = _baked_batch(spec, model)
        chosen = batch_sizes if batch_sizes is not None else DEFAULT_BATCH_SIZES if baked is None else (baked,)
        gears = anybatch.check_batch_sizes(chosen)
        _rules.check_gears(gears)
        _rules.check_names(spec)
        flags = []
        dims = any(t.batch_axis not in (0, None) or t.rows_per_row > 1 for t in spec.inputs)
        if len(gears) >= _rules.MIN_GEARS:
            _rules.check_fixed_shapes(model)
            if dims:
                free = [tensor.rows_per_row for tensor in spec.inputs if tensor.batch_axis is not None]
                per_gear = (",".join(str(gear * factor) for factor in free) for gear in gears)
                if options.atc_options.get("input_format", "ND") != "ND":
                    raise anybatch.InputError(
                        "atc_options: input_format must be ND with n-d gears, which this model needs because its rows are not "
                        "simply the first axis of every input"
                    )
                flags += [f"--dynamic_dims={';'.join(per_gear)}"]
                flags += ["--input_format=ND"] * ("input_format" not in options.atc_options)
            else:
                _rules.check_no_scalars(spec)
                flags += [f"--dynamic_batch_size={','.join(map(str, gears))}"]
        rows = -1 if len(gears) >= _rules.MIN_GEARS else gears[0]
        flags.insert(0, f"--input_shape={';'.join(_shape_flag(tensor, rows) for tensor in spec.inputs)}")
        said: list[str] = []
        if options.insert_op_conf is not None:
            said = _rules.check_aipp(options.insert_op_conf, spec, gears, dims=dims)
        return cls(spec, gears, baked is not None and gears != (baked,), tuple(flags), tuple(said))


def _check_inputs(model: onnx.ModelProto, given: Mapping[str, Dims]) -> None:
    """Check that the names in `given` are inputs.

    Raises:
        InputError: one is not.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in weights]
    if unknown := [name for name in given if name not in names]:
        raise anybatch.InputError(f"input_shape names {unknown}, which are no inputs of the model; these are {names}")


def _batch_axes(options: CompileOptions) -> dict[str, int | None]:
    """Return the batch axes that are said: by `batch_axis`, and by None in `input_shape`.

    Raises:
        InputError: the two differ.
    """
    axes = dict(options.batch_axis)
    for name, dims in options.input_shape.items():
        axis = dims.index(None) if None in dims else None
        if axes.setdefault(name, axis) != axis:
            raise anybatch.InputError(
                f"input_shape of {name!r} has its rows on axis {axis}, batch_axis says {options.batch_axis[name]}"
            )
    return axes


def _declared(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    """Return the dimensions of tensors as the model declares them: a size, or a name, "" where it has none."""
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def _baked_batch(spec: anybatch.ModelSpec, model: onnx.ModelProto) -> int | None:
    """Return the batch size that is baked into a model, None where it is free."""
    declared = _declared(model.graph.input)
    for tensor in spec.inputs:
        if tensor.batch_axis is not None:
            size = declared[tensor.name][tensor.batch_axis]
            if isinstance(size, int):
                return size // tensor.rows_per_row
    return None


def _with_sizes(spec: anybatch.ModelSpec, model: onnx.ModelProto, given: Mapping[str, Dims]) -> anybatch.ModelSpec:
    """Return the spec with the sizes of free dimensions filled in.

    Raises:
        InputError: a rank or size in `given` does not fit the model, or a free dimension of an input is left without one.
    """
    declared = _declared((*model.graph.input, *model.graph.output))
    symbols: dict[str, int] = {}
    for tensor in spec.inputs:
        if tensor.name in given:
            _check_dims(tensor, given[tensor.name])
            for symbol, size in zip(declared[tensor.name], given[tensor.name], strict=True):
                if isinstance(symbol, str) and symbol and size is not None and symbols.setdefault(symbol, size) != size:
                    raise anybatch.InputError(
                        f"input_shape of {tensor.name!r}: the model calls this dimension {symbol!r}, "
                        f"which is {symbols[symbol]} elsewhere, got {size}"
                    )

    def filled(tensor: anybatch.TensorSpec) -> anybatch.TensorSpec:
        sizes = list(given.get(tensor.name, tensor.shape))
        for axis, symbol in enumerate(declared[tensor.name]):
            if axis != tensor.batch_axis and not isinstance(sizes[axis], int):
                sizes[axis] = symbols.get(str(symbol), sizes[axis])
        return replace(tensor, shape=tuple(sizes))

    inputs = tuple(filled(tensor) for tensor in spec.inputs)
    for tensor in inputs:
        free = [axis for axis, size in enumerate(tensor.shape) if axis != tensor.batch_axis and not isinstance(size, int)]
        if free:
            sample = [
                None if axis == tensor.batch_axis else 128 if axis in free else size for axis, size in enumerate(tensor.shape)
            ]
            raise anybatch.InputError(
                f"input {tensor.name!r} [{', '.join(_dim_name(tensor, axis) for axis in range(len(tensor.shape)))}] has free "
                f"dimensions beside its rows, and a compiled model has one size for each: say which, such as "
                f"input_shape={{{tensor.name!r}: {sample}}}"
            )
    return replace(spec, inputs=inputs, outputs=tuple(filled(tensor) for tensor in spec.outputs))


def _dim_name(tensor: anybatch.TensorSpec, axis: int) -> str:
    return "rows" if axis == tensor.batch_axis else str(tensor.shape[axis] or "?")


def _check_dims(tensor: anybatch.TensorSpec, dims: Dims) -> None:
    if len(dims) != len(tensor.shape):
        raise anybatch.InputError(
            f"input_shape of {tensor.name!r}: expected {len(tensor.shape)} dimensions, {tensor}, got {len(dims)}: {list(dims)}"
        )
    for axis, (size, own) in enumerate(zip(dims, tensor.shape, strict=True)):
        if isinstance(own, int) and axis != tensor.batch_axis and size != own:
            raise anybatch.InputError(
                f"input_shape of {tensor.name!r}: axis {axis} is {own} in the model, {tensor}, got {size}"
            )


def _shape_flag(tensor: anybatch.TensorSpec, rows: int) -> str:
    sizes = tensor.shape_for(1)
    if tensor.batch_axis is not None:
        axis = tensor.batch_axis
        sizes = (*sizes[:axis], rows if rows < 0 else rows * tensor.rows_per_row, *sizes[axis + 1 :])
    return f"{tensor.name}:{','.join(map(str, sizes))}"


def _key(digest: str, job: _Job, options: CompileOptions, command: Sequence[str]) -> str:
    """Return the name under which the cache knows this: it depends on all that the result depends on."""
    files = {}
    for name, value in (*options.atc_options.items(), ("insert_op_conf", str(options.insert_op_conf or ""))):
        if value and Path(value).is_file():
            files[name] = hashlib.sha256(Path(value).read_bytes()).hexdigest()
    said = {
        "format": _FORMAT,
        "model": digest,
        "flags": job.flags,
        "soc_version": options.soc_version,
        "precision_mode": options.precision_mode,
        "atc_options": dict(sorted(options.atc_options.items())),
        "files": files,
        "atc": _atc.identity(command),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _build(
    model: anybatch.Model,
    proto: onnx.ModelProto,
    job: _Job,
    options: CompileOptions,
    command: Sequence[str],
    path: Path,
    progress: Callable[[str], None] | None,
) -> None:
    """Run ``atc`` and put what it makes at `path`."""
    with tempfile.TemporaryDirectory(prefix="atc-", dir=path.parent) as work:
        folder = Path(work)
        source = _source(model, proto, job, options, folder)
        made = folder / "made"
        made.mkdir()
        flags = [
            f"--model={source}",
            "--framework=5",
            f"--output={made / 'model'}",
            f"--soc_version={options.soc_version}",
            *job.flags,
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


def _source(model: anybatch.Model, proto: onnx.ModelProto, job: _Job, options: CompileOptions, folder: Path) -> Path:
    """Return the file that ``atc`` reads: the model's own, or one in `folder`."""
    path = folder / "model.onnx"
    if job.frees:
        try:
            proto = anybatch.free_batch(model, batch_axis=_batch_axes(options), rows_per_row=options.rows_per_row)
        except anybatch.ModelError as error:
            raise anybatch.ModelError(
                f"the model cannot be compiled for batch sizes {list(job.batch_sizes)}: {error}"
            ) from error
        if isinstance(model, Path):  # external data lies beside the model, and links to it are refused by ONNX's own reader
            for location in anybatch.external_files(proto):
                (folder / location).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(model.parent / location, folder / location)
    elif isinstance(model, Path):
        return model.absolute()
    path.write_bytes(model if isinstance(model, bytes) and not job.frees else proto.SerializeToString())
    return path
