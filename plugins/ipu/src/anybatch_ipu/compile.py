"""Compiles ONNX models for IPUs with PopRT, in this process: converter, compiler, cache.

Options, all optional but the first, which defaults to the machine's own where there is an IPU:
    ipu_version: the hardware to compile for: ``"ipu21"`` for C600 cards, ``"ipu2"`` for M2000 and Bow machines.
    precision: ``"fp32"`` (default), ``"fp16"`` (inputs and outputs become float16 as well), ``"fp8"`` or ``"fp8_weight"``.
    converter_options: further arguments of ``poprt.converter.Converter``, such as ``{"used_passes": ["gelu_pattern"]}``.
    compiler_options: fields of ``poprt.compiler.CompilerOptions``, such as ``{"num_io_tiles": 128, "batches_per_step": 16}``.
    input_shape, batch_axis, rows_per_row, cache_dir: as every backend has them that compiles; see `anybatch.CommonOptions`.

An IPU program has one batch size. Without ``batch_sizes`` it is the one baked into the model, or else `DEFAULT_BATCH_SIZE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anybatch
from anybatch_ipu._api import Poprt

if TYPE_CHECKING:  # backends are listed without onnx, which takes time to import
    import onnx

__all__ = ["COMPILE_OPTIONS", "DEFAULT_BATCH_SIZE", "POPEF", "PRECISIONS", "CompileOptions", "compile_model"]

COMPILE_OPTIONS: Final = (
    "ipu_version",
    "precision",
    "converter_options",
    "compiler_options",
    *anybatch.COMMON_OPTIONS,
)
DEFAULT_BATCH_SIZE: Final = 16
# The mark of a PopEF is not published.
POPEF: Final = anybatch.CompiledFiles(".popef")
PRECISIONS: Final = ("fp32", "fp16", "fp8", "fp8_weight")
# What floats are computed in; "fp32" leaves them as they are. 8 bits are Graphcore's F143.
_PRECISIONS: Final[Mapping[str, str]] = {"fp16": "float16", "fp8": "float8_e4m3fnuz", "fp8_weight": "float8_e4m3fnuz"}
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


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What a model is compiled with; the module says what each option means.

    Attributes:
        common: those that other backends offer alike.
    """

    ipu_version: str
    precision: str = "fp32"
    converter_options: Mapping[str, Any] = field(default_factory=dict)
    compiler_options: Mapping[str, Any] = field(default_factory=dict)
    common: anybatch.CommonOptions = field(default_factory=anybatch.CommonOptions)

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
        return cls(
            ipu_version=version,
            precision=str(precision),
            converter_options=anybatch.read_mapping(options, "converter_options", elsewhere=_NOT_FOR_THE_CONVERTER),
            compiler_options=anybatch.read_mapping(options, "compiler_options", elsewhere=_NOT_FOR_THE_COMPILER),
            common=anybatch.CommonOptions.from_options(options),
        )

    def precision_of(self, model: str) -> str:
        """Return what a model is computed in once it is compiled, as `anybatch.Session` has it; empty where that is not known.

        Args:
            model: what it was computed in before; quantised operators stay what they are.
        """
        return model if self.precision == "fp32" or model == "int8" else _PRECISIONS[self.precision]


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
    job = anybatch.CompileJob.plan(model, batch_sizes, options.common, files=POPEF, default=(DEFAULT_BATCH_SIZE,))
    if len(job.batch_sizes) > 1:
        sizes = list(job.batch_sizes)
        raise anybatch.InputError(
            f"expected one batch size, since an IPU holds one program, of one batch size, got {sizes}; any number of "
            f"rows runs on any of them: take a large one for throughput, batch_sizes=[{sizes[-1]}], a small one to pad little"
        )
    return job.compile(
        lambda path: _build(job, options, poprt, path, progress or (lambda _: None)),
        backend=poprt.backend,
        depends_on={
            "format": _FORMAT,
            "ipu_version": options.ipu_version,
            "precision": options.precision,
            "converter": options.converter_options,
            "compiler": options.compiler_options,
            "poprt": [getattr(poprt.package, "__name__", ""), poprt.version],
        },
        advice=_advice(job.spec, options),
        output=output,
        progress=progress,
    )


def _advice(spec: anybatch.ModelSpec, options: CompileOptions) -> tuple[str, ...]:
    said = []
    if wide := [tensor.name for tensor in spec.inputs if tensor.dtype.str[1:] == "i8"]:
        said.append(f"PopRT's converter makes int64 inputs int32, since IPUs have no int64: send int32 for {wide}")
    halved = [tensor.name for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype.str[1:] == "f4"]
    if options.precision == "fp16" and halved:
        said.append(f"with precision 'fp16' inputs and outputs are float16 as well: {halved}")
    return tuple(said)


def _build(job: anybatch.CompileJob, options: CompileOptions, poprt: Poprt, path: Path, say: Callable[[str], None]) -> None:
    """Convert, compile, and put what comes at `path`."""
    source = _source(job)
    (batch,) = job.batch_sizes
    free = {
        value.name
        for value in source.graph.input
        if not all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
    converting: dict[str, object] = {"precision": options.precision, **options.converter_options}
    if shapes := {tensor.name: list(tensor.shape_for(batch)) for tensor in job.spec.inputs if tensor.name in free}:
        converting["input_shape"] = shapes
    say(f"converting with PopRT {poprt.version}, batch size {batch}, {options.precision}")
    converted = poprt.convert(source, converting)
    say(f"compiling for {options.ipu_version}")
    outputs = [value.name for value in converted.graph.output]
    poprt.compile(_bytes(converted), outputs, path, {"ipu_version": options.ipu_version, **options.compiler_options})
    if not path.is_file() or not path.stat().st_size:
        raise anybatch.ModelError(f"PopRT {poprt.version} says it compiled the model, but left no file, or an empty one")


def _source(job: anybatch.CompileJob) -> onnx.ModelProto:
    """Return the model that the converter gets, which may write into it, with the weights inside."""
    import onnx

    source = job.source()
    if isinstance(job.model, Path) and anybatch.external_files(source):
        try:
            onnx.load_external_data_for_model(source, str(job.model.parent))
        except Exception as error:  # checks of ONNX's own reader, and the file system's
            raise anybatch.ModelError(f"the weights beside {str(job.model)!r} cannot be read: {error}") from error
    return source


def _bytes(model: onnx.ModelProto) -> bytes:
    try:
        content: bytes = model.SerializeToString()
    except ValueError as error:  # protobuf's limit of 2 GiB
        raise anybatch.ModelError(f"the converted model cannot be handed to PopRT's compiler: {error}") from error
    return content
