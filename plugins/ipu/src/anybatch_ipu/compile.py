"""Compiles ONNX models for IPUs with PopRT, in this process: converter, compiler, cache.

Options, all optional but the first, which defaults to the machine's own where there is an IPU:
    ipu_version: the hardware to compile for: ``"ipu21"`` for C600 cards, ``"ipu2"`` for M2000 and Bow machines.
    precision: ``"fp32"`` (default), ``"fp16"`` (inputs and outputs become float16 as well), ``"fp8"`` or ``"fp8_weight"``.
    input_shape: by input name, the sizes of an input whose free dimensions are not only its rows: ``{"ids": [None, 128]}``,
        None (or -1) where the rows are. A dimension with a name is needed once, not in each input.
    converter_options: further arguments of ``poprt.converter.Converter``, such as ``{"used_passes": ["gelu_pattern"]}``.
    compiler_options: fields of ``poprt.compiler.CompilerOptions``, such as ``{"num_io_tiles": 128, "batches_per_step": 16}``.
    batch_axis, rows_per_row: by tensor name, where the model does not tell; see `anybatch.read_model_spec`.
    cache_dir: where compiled models are kept; default: a folder named after the backend in `anybatch.cache_folder`.

An IPU program has one batch size. Without ``batch_sizes`` it is the one baked into the model, or else `DEFAULT_BATCH_SIZE`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anybatch
from anybatch_ipu._api import Poprt

if TYPE_CHECKING:  # backends are listed without onnx, which takes time to import
    import onnx

__all__ = ["COMPILE_OPTIONS", "DEFAULT_BATCH_SIZE", "PRECISIONS", "CompileOptions", "compile_model"]

COMPILE_OPTIONS: Final = (
    "ipu_version",
    "precision",
    "input_shape",
    "converter_options",
    "compiler_options",
    "batch_axis",
    "rows_per_row",
    "cache_dir",
)
DEFAULT_BATCH_SIZE: Final = 16
PRECISIONS: Final = ("fp32", "fp16", "fp8", "fp8_weight")
# Raise this when the same options begin to mean another program.
_FORMAT: Final = 1
# What the two mappings of options cannot say, and what says it instead.
_NOT_FOR_THE_CONVERTER: Final[Mapping[str, str]] = {
    "input_shape": "use the option input_shape",
    "precision": "use the option precision",
    "batch_size": "use batch_sizes",
    "batch_axis": "use the option batch_axis",
    "logger": "messages go to the logger 'poprt'",
}
_NOT_FOR_THE_COMPILER: Final[Mapping[str, str]] = {
    "ipu_version": "use the option ipu_version",
    "enable_model_fusion": "a runner runs one model",
    "constant_weights": "weights are part of the compiled model",
}

Dims = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What a model is compiled with; the module says what each option means.

    Attributes:
        input_shape: None stands for the rows.
    """

    ipu_version: str
    precision: str = "fp32"
    input_shape: Mapping[str, Dims] = field(default_factory=dict)
    converter_options: Mapping[str, Any] = field(default_factory=dict)
    compiler_options: Mapping[str, Any] = field(default_factory=dict)
    batch_axis: Mapping[str, int | None] = field(default_factory=dict)
    rows_per_row: Mapping[str, int] = field(default_factory=dict)
    cache_dir: Path | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, object], *, ipu_version: str | None = None) -> CompileOptions:
        """Read a backend's options; those that are not in `COMPILE_OPTIONS` are left to others.

        Args:
            options: as a backend gets them.
            ipu_version: the machine's own, where there is one and the options do not say.

        Raises:
            InputError: a value does not fit, or no hardware is named.
        """
        version = options.get("ipu_version") or ipu_version
        if not isinstance(version, str) or not version:
            got = "" if version is None else f", got {version!r}"
            raise anybatch.InputError(
                f"expected ipu_version to name the hardware to compile for{got}: 'ipu21' for C600 cards, 'ipu2' for M2000 and "
                "Bow machines; DeviceManager().ipu_hardware_version() on the machine with the IPU tells it"
            )
        precision = options.get("precision", "fp32")
        if precision not in PRECISIONS:
            raise anybatch.InputError(f"expected precision to be one of {list(PRECISIONS)}, got {precision!r}")
        cache = options.get("cache_dir")
        if cache is not None and (not isinstance(cache, (str, Path)) or not str(cache)):
            raise anybatch.InputError(f"expected cache_dir to be a path, got {cache!r}")
        shapes = read_mapping(options, "input_shape")
        axes: dict[str, Any] = {name: read_mapping(options, name) for name in ("batch_axis", "rows_per_row")}
        return cls(
            ipu_version=version,
            precision=str(precision),
            input_shape={name: _read_dims(name, dims) for name, dims in shapes.items()},
            converter_options=_read_passed_on(options, "converter_options", _NOT_FOR_THE_CONVERTER),
            compiler_options=_read_passed_on(options, "compiler_options", _NOT_FOR_THE_COMPILER),
            cache_dir=None if cache is None else Path(cache).expanduser().absolute(),
            **axes,
        )


def read_mapping(options: Mapping[str, object], name: str) -> dict[str, Any]:
    """Return an option that maps names to values, empty where it is not given.

    Raises:
        InputError: it is no such mapping.
    """
    value = options.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise anybatch.InputError(f"expected {name} to map names to values, got {value!r}")
    return dict(value)


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


def _read_passed_on(options: Mapping[str, object], option: str, ours: Mapping[str, str]) -> dict[str, Any]:
    value = read_mapping(options, option)
    for name in value:
        if name in ours:
            raise anybatch.InputError(f"{option}: {name!r} is not for there: {ours[name]}")
    return value


def compile_model(
    model: anybatch.Model,
    *,
    poprt: Poprt,
    batch_sizes: Sequence[int] | None,
    options: CompileOptions,
    output: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> anybatch.Compiled:
    """Compile a model, or find it compiled.

    Free dimensions are fixed by PopRT's converter. A batch size that is baked into the model is freed first where that is
    shown to change no answer.

    Args:
        model: as `anybatch.Compiler.compile` gets it.
        poprt: the package that compiles.
        batch_sizes: one; None: see the module.
        options: see `CompileOptions`.
        output: where a copy goes, in the place of what is there; its name ends in ``.popef``.
        progress: called with a line before each step.

    Raises:
        InputError: something does not fit.
        ModelError: the model cannot be read, is compiled already, or cannot be compiled like this.
        BackendUnavailableError: this PopRT lacks something.
    """
    if output is not None:
        output = _check_output(output)
    if isinstance(model, Path) and model.suffix.lower() == ".popef":
        raise anybatch.ModelError(
            f"{str(model)!r} is compiled already: open it as it is, or compile the .onnx file it was made of"
        )
    proto = anybatch.read_model(model)
    job = _Job.plan(proto, batch_sizes, options)

    def build(path: Path) -> None:
        _build(model, proto, job, options, poprt, path, progress or (lambda _: None))

    folder = options.cache_dir or anybatch.cache_folder() / poprt.backend
    kept = anybatch.keep_artefact(
        folder, _key(anybatch.model_digest(model, proto), job, options, poprt), ".popef", build, say=progress
    )
    compiled = anybatch.Compiled(kept.path, job.spec, (job.batch,), kept.cached, kept.temporary, _advice(job.spec, options))
    return compiled if output is None else _deliver(compiled, output)


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be compiled.

    Attributes:
        spec: with the sizes of `input_shape`.
        batch: rows of one launch.
        frees: whether the model has another batch size baked in, which is freed first.
        shapes: what the converter is told, by input name: those that have free dimensions.
        axes: batch axes that are said.
    """

    spec: anybatch.ModelSpec
    batch: int
    frees: bool
    shapes: Mapping[str, list[int]]
    axes: Mapping[str, int | None]

    @classmethod
    def plan(cls, model: onnx.ModelProto, batch_sizes: Sequence[int] | None, options: CompileOptions) -> _Job:
        axes = _batch_axes(options)
        weights = {tensor.name for tensor in model.graph.initializer}
        free = {
            value.name: [axis for axis, dim in enumerate(value.type.tensor_type.shape.dim) if not dim.HasField("dim_value")]
            for value in model.graph.input
            if value.name not in weights
        }
        if unknown := [name for name in options.input_shape if name not in free]:
            raise anybatch.InputError(f"input_shape names {unknown}, which are no inputs of the model; these are {list(free)}")
        spec = anybatch.read_model_spec(model, batch_axis=axes, rows_per_row=options.rows_per_row)
        spec = _with_sizes(spec, options.input_shape)
        rows = next(tensor for tensor in spec.inputs if tensor.batch_axis is not None)
        baked = None
        if rows.batch_axis not in free[rows.name]:
            baked = _declared_size(model, rows) // rows.rows_per_row
        batch = _one_batch_size(batch_sizes, baked)
        frees = baked is not None and baked != batch
        shapes = {
            tensor.name: [size or 0 for size in tensor.shape_for(batch)]
            for tensor in spec.inputs
            if free[tensor.name] or (frees and tensor.batch_axis is not None)
        }
        return cls(spec, batch, frees, shapes, axes)


def _one_batch_size(given: Sequence[int] | None, baked: int | None) -> int:
    """Return the one batch size to compile for.

    Raises:
        InputError: several are given.
    """
    if given is None:
        return baked or DEFAULT_BATCH_SIZE
    sizes = anybatch.check_batch_sizes(given)
    if len(sizes) > 1:
        raise anybatch.InputError(
            f"expected one batch size, since an IPU holds one program, of one batch size, got {list(sizes)}; any number of "
            f"rows runs on any of them: take a large one for throughput, batch_sizes=[{sizes[-1]}], a small one to pad little"
        )
    return sizes[0]


def _declared_size(model: onnx.ModelProto, tensor: anybatch.TensorSpec) -> int:
    value = next(value for value in model.graph.input if value.name == tensor.name)
    return int(value.type.tensor_type.shape.dim[tensor.batch_axis or 0].dim_value)


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


def _with_sizes(spec: anybatch.ModelSpec, given: Mapping[str, Dims]) -> anybatch.ModelSpec:
    """Return a spec whose inputs have sizes for all free dimensions but the rows; a name has one size everywhere.

    Raises:
        InputError: a size is missing, or does not fit.
    """
    named: dict[str, int] = {}
    for tensor in spec.inputs:
        dims = given.get(tensor.name)
        if dims is None:
            continue
        if len(dims) != len(tensor.shape):
            raise anybatch.InputError(
                f"input_shape of {tensor.name!r}: expected {len(tensor.shape)} dimensions, {tensor}, got {len(dims)}: "
                f"{list(dims)}"
            )
        for axis, (size, declared) in enumerate(zip(dims, tensor.shape, strict=True)):
            if size is None:
                continue
            known = named.setdefault(declared, size) if isinstance(declared, str) else declared
            if known not in (None, size):
                what = f"the model calls this dimension {declared!r}, which is" if isinstance(declared, str) else "it is"
                raise anybatch.InputError(
                    f"input_shape of {tensor.name!r}: axis {axis}: {what} {known}, got {size}; the input is {tensor}"
                )
    sized = []
    for tensor in spec.inputs:
        dims = given.get(tensor.name, (None,) * len(tensor.shape))
        shape = [
            declared if isinstance(declared, int) else named.get(declared or "", size) if declared else size
            for size, declared in zip(dims, tensor.shape, strict=True)
        ]
        if missing := [axis for axis, size in enumerate(shape) if size is None and axis != tensor.batch_axis]:
            example = [None if axis == tensor.batch_axis else 128 if size is None else size for axis, size in enumerate(shape)]
            raise anybatch.InputError(
                f"input {tensor.name!r} {tensor} has free dimensions beside its rows (axes {missing}), and a compiled model "
                f"has one size for each: say which, such as input_shape={{{tensor.name!r}: {example}}}"
            )
        sized.append(replace(tensor, shape=tuple(shape)))
    outputs = [
        replace(tensor, shape=tuple(named.get(size, size) if isinstance(size, str) else size for size in tensor.shape))
        for tensor in spec.outputs
    ]
    return anybatch.ModelSpec(tuple(sized), tuple(outputs))


def _advice(spec: anybatch.ModelSpec, options: CompileOptions) -> tuple[str, ...]:
    said = []
    if wide := [tensor.name for tensor in spec.inputs if tensor.dtype.str[1:] == "i8"]:
        said.append(f"PopRT's converter makes int64 inputs int32, since IPUs have no int64: send int32 for {wide}")
    halved = [tensor.name for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype.str[1:] == "f4"]
    if options.precision == "fp16" and halved:
        said.append(f"with precision 'fp16' inputs and outputs are float16 as well: {halved}")
    return tuple(said)


def _key(digest: str, job: _Job, options: CompileOptions, poprt: Poprt) -> str:
    """Return the name under which the cache knows this: it depends on all that the result depends on."""
    said = {
        "format": _FORMAT,
        "model": digest,
        "batch": job.batch,
        "shapes": dict(sorted(job.shapes.items())),
        "ipu_version": options.ipu_version,
        "precision": options.precision,
        "converter": dict(sorted(options.converter_options.items())),
        "compiler": dict(sorted(options.compiler_options.items())),
        "poprt": [getattr(poprt.package, "__name__", ""), poprt.version],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def _build(
    model: anybatch.Model,
    proto: onnx.ModelProto,
    job: _Job,
    options: CompileOptions,
    poprt: Poprt,
    path: Path,
    say: Callable[[str], None],
) -> None:
    """Convert, compile, and put what comes at `path`."""
    source = _source(model, proto, job, options)
    converting: dict[str, object] = {"precision": options.precision, **options.converter_options}
    if job.shapes:
        converting["input_shape"] = dict(job.shapes)
    say(f"converting with PopRT {poprt.version}, batch size {job.batch}, {options.precision}")
    converted = poprt.convert(source, converting)
    say(f"compiling for {options.ipu_version}")
    outputs = [value.name for value in converted.graph.output]
    poprt.compile(_bytes(converted), outputs, path, {"ipu_version": options.ipu_version, **options.compiler_options})
    if not path.is_file() or not path.stat().st_size:
        raise anybatch.ModelError(f"PopRT {poprt.version} says it compiled the model, but left no file, or an empty one")


def _source(model: anybatch.Model, proto: onnx.ModelProto, job: _Job, options: CompileOptions) -> onnx.ModelProto:
    """Return the model that the converter gets: a copy, since it may write into it, with the weights inside."""
    import onnx

    if job.frees:
        try:
            source = anybatch.free_batch(model, batch_axis=job.axes, rows_per_row=options.rows_per_row)
        except anybatch.ModelError as error:
            raise anybatch.ModelError(f"the model cannot be compiled for batch size {job.batch}: {error}") from error
    else:
        source = onnx.ModelProto()
        source.CopyFrom(proto)
    if isinstance(model, Path) and anybatch.external_files(source):
        try:
            onnx.load_external_data_for_model(source, str(model.parent))
        except Exception as error:  # checks of ONNX's own reader, and the file system's
            raise anybatch.ModelError(f"the weights beside {str(model)!r} cannot be read: {error}") from error
    return source


def _bytes(model: onnx.ModelProto) -> bytes:
    try:
        content: bytes = model.SerializeToString()
    except ValueError as error:  # protobuf's limit of 2 GiB
        raise anybatch.ModelError(f"the converted model cannot be handed to PopRT's compiler: {error}") from error
    return content


def _check_output(output: Path) -> Path:
    if output.suffix != ".popef":
        raise anybatch.InputError(f"output {str(output)!r}: expected a file that ends in .popef")
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
