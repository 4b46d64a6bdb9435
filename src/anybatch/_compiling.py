"""What backends that compile ONNX models do alike: options, sizes of the model, cache, output.

Such a backend makes a `CompileJob`, works out of it what its compiler is told, and calls `CompileJob.compile` with a function
that runs the compiler::

    job = anybatch.CompileJob.plan(model, batch_sizes, options.common, files=FILES, default=(1, 2, 4, 8))
    return job.compile(build, backend=self.name, depends_on={"compiler": version, "level": options.level}, output=output)
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anybatch._artefacts import cache_folder, keep_artefact, model_digest
from anybatch._backend import Compiled, Model, Session
from anybatch._batching import AnyBatch, MultipleOf, check_batch_sizes
from anybatch._errors import InputError, ModelError
from anybatch._freeing import free_batch
from anybatch._onnx_spec import BatchAxes, DeclaredTensor, declared_tensors, find_model_spec, model_precision, read_model
from anybatch._tensors import ModelSpec, TensorSpec

if TYPE_CHECKING:
    import onnx

COMMON_OPTIONS: Final = ("input_shape", "batch_axis", "rows_per_row", "cache_dir")
_log: Final = logging.getLogger(__name__)
_Sizes: TypeAlias = "tuple[int | None, ...]"


def read_mapping(
    options: Mapping[str, object], name: str, *, elsewhere: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return a backend's option that maps names to values, such as settings for the vendor; empty where it is not given.

    Args:
        options: as a backend gets them.
        name: of the option.
        elsewhere: names that are not for there, and what to do instead, such as ``{"batch": "use batch_sizes"}``.

    Raises:
        InputError: it is no such mapping, or has a name in `elsewhere`.
    """
    value = options.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"expected {name} to map names to values, got {value!r}")
    for key in value:
        if key in elsewhere:
            raise InputError(f"{name}: {key!r} is not for there: {elsewhere[key]}")
    return dict(value)


def read_path(options: Mapping[str, object], name: str) -> Path | None:
    """Return a backend's option that is a path, absolute and with ``~`` replaced; None where it is not given.

    Raises:
        InputError: it is no path.
    """
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        raise InputError(f"expected {name} to be a path, got {value!r}")
    return Path(value).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """The options that all backends offer that compile ONNX models; `COMMON_OPTIONS` are their names.

    Attributes:
        input_shape: by input name, the sizes of an input whose free dimensions are not only its rows, None where the rows are:
            ``{"ids": (None, 128)}``. A dimension with a name is needed once, not in each input.
        batch_axis: by tensor name, as in `read_model_spec`; after construction also what `input_shape` says.
        rows_per_row: by tensor name, as in `read_model_spec`.
        cache_dir: where compiled models are kept; None is a folder named after the backend in `cache_folder`.

    Raises:
        InputError: `input_shape` and `batch_axis` differ on where the rows of an input are.
    """

    input_shape: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    batch_axis: Mapping[str, int | None] = field(default_factory=dict)
    rows_per_row: Mapping[str, int] = field(default_factory=dict)
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        axes = dict(self.batch_axis)
        for name, sizes in self.input_shape.items():
            axis = sizes.index(None) if None in sizes else None
            if axes.setdefault(name, axis) != axis:
                has = "no rows" if axis is None else f"its rows on axis {axis}"
                raise InputError(f"input_shape of {name!r} has {has}, batch_axis says {axes[name]}")
        object.__setattr__(self, "batch_axis", axes)

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> CommonOptions:
        """Read them from a backend's options; others are left to the backend. In `input_shape`, -1 is None as well.

        Raises:
            InputError: a value does not fit.
        """
        axes = BatchAxes.from_options(options)
        shapes = {name: _read_sizes(name, sizes) for name, sizes in read_mapping(options, "input_shape").items()}
        return cls(shapes, axes.axis, axes.rows_per_row, read_path(options, "cache_dir"))


def _read_sizes(name: str, given: object) -> _Sizes:
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        sizes = [None if size == -1 else size for size in given]
        sound = all(size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0) for size in sizes)
        if sound and sizes.count(None) <= 1:
            return tuple(sizes)
    raise InputError(
        f"input_shape of {name!r}: expected sizes such as [None, 3, 224, 224], None where the rows are and only there, "
        f"got {given!r}"
    )


@dataclass(frozen=True, slots=True)
class CompiledFiles:
    """The files that a compiler makes.

    Attributes:
        suffix: such as ``".bin"``, in small letters.
        magic: the first bytes of each, where all have the same and the vendor says so.
    """

    suffix: str
    magic: bytes = b""

    def include(self, model: Model) -> bool:
        """Return whether a model is one of them, by its content where that tells, or by its name.

        Raises:
            ModelError: the file cannot be read.
        """
        if isinstance(model, bytes):
            return bool(self.magic) and model.startswith(self.magic)
        if not isinstance(model, Path):
            return False
        if model.suffix.lower() == self.suffix:
            return True
        if not self.magic:
            return False
        try:
            with model.open("rb") as file:
                return file.read(len(self.magic)) == self.magic
        except OSError as error:
            raise ModelError(f"{str(model)!r} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class CompileJob:
    """An ONNX model, and what it is to be compiled for; made by `CompileJob.plan`.

    Attributes:
        model: as the backend was handed it.
        proto: read from it and not to be changed; external data stays in its files.
        spec: of the model; every dimension of its inputs has a size, but for the rows.
        batch_sizes: ascending.
        frees: whether another batch size is baked into the model, which `source` frees.
        options: as they were given.
        files: what the compiler makes.
    """

    model: Model
    proto: onnx.ModelProto
    spec: ModelSpec
    batch_sizes: tuple[int, ...]
    frees: bool
    options: CommonOptions
    files: CompiledFiles

    @classmethod
    def plan(
        cls,
        model: Model,
        batch_sizes: Sequence[int] | None,
        options: CommonOptions,
        *,
        files: CompiledFiles,
        default: Sequence[int],
    ) -> CompileJob:
        """Read a model and find out what it is to be compiled for; nothing is written.

        Args:
            model: as `Compiler.compile` gets it.
            batch_sizes: None takes the one that is baked into the model, or else `default`.
            options: as the caller gave them.
            files: what the compiler makes.
            default: the backend's batch sizes for a model whose batch is free.

        Raises:
            InputError: a batch size or option does not fit the model, or a free dimension is left without a size.
            ModelError: the model cannot be read, is compiled already, or it cannot be told where its rows are.
        """
        if files.include(model):
            what = repr(str(model)) if isinstance(model, Path) else "the model"
            raise ModelError(f"{what} is compiled already: open it as it is, or compile the .onnx file it was made of")
        proto = read_model(model)
        inputs, outputs = declared_tensors(proto)
        names = [tensor.name for tensor in inputs]
        if unknown := [name for name in options.input_shape if name not in names]:
            raise InputError(f"input_shape names {unknown}, which are no inputs of the model; these are {names}")
        spec, baked = find_model_spec(inputs, outputs, batch_axis=options.batch_axis, rows_per_row=options.rows_per_row)
        spec = _with_sizes(spec, inputs, outputs, options.input_shape)
        if batch_sizes is None:
            batch_sizes = default if baked is None else (baked,)
        sizes = check_batch_sizes(batch_sizes)
        return cls(model, proto, spec, sizes, baked is not None and sizes != (baked,), options, files)

    def source(self) -> onnx.ModelProto:
        """Return the model that the compiler gets, with a free batch axis where `frees`: a copy, which may be changed.

        Raises:
            ModelError: the batch size that is baked in cannot be changed; the message says why.
        """
        if not self.frees:
            copy = type(self.proto)()
            copy.CopyFrom(self.proto)
            return copy
        try:
            return free_batch(self.model, batch_axis=self.options.batch_axis, rows_per_row=self.options.rows_per_row)
        except ModelError as error:
            raise ModelError(f"the model cannot be compiled for batch sizes {list(self.batch_sizes)}: {error}") from error

    def compile(
        self,
        build: Callable[[Path], None],
        *,
        backend: str,
        depends_on: Mapping[str, object],
        advice: Sequence[str] = (),
        output: Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Compiled:
        """Return the artefact, built now where the cache has none; see `keep_artefact`.

        Args:
            build: runs the compiler, and puts what it makes at the path it is handed, which lies in an empty folder.
            backend: its name, after which its folder in the cache is named.
            depends_on: what the artefact depends on beside this job, above all the compiler's version and options: with another
                value it is another one. Values are JSON's, or told apart by their `repr`.
            advice: sentences for the caller; they are logged at INFO, since `open` does not return them.
            output: where a copy goes, complete or not at all, in the place of what is there.
            progress: is told a line when there is something to wait for.

        Raises:
            InputError: `output` cannot be written, or has another suffix.
            ModelError: a file of external data cannot be read.
            Exception: whatever `build` raises; nothing is left of the attempt.
        """
        if output is not None:
            output = _check_output(output, self.files.suffix)
        for sentence in advice:
            _log.info("%s", sentence)
        folder = self.options.cache_dir or cache_folder() / backend
        kept = keep_artefact(folder, self._key(depends_on), self.files.suffix, build, say=progress)
        precision = model_precision(self.proto)
        compiled = Compiled(kept.path, self.spec, self.batch_sizes, kept.cached, kept.temporary, tuple(advice), precision)
        return compiled if output is None else _deliver(compiled, output)

    def _key(self, depends_on: Mapping[str, object]) -> str:
        job = {
            "model": model_digest(self.model, self.proto),
            "tensors": [(t.name, t.shape, t.batch_axis, t.rows_per_row) for t in (*self.spec.inputs, *self.spec.outputs)],
            "batch_sizes": self.batch_sizes,
        }
        said = json.dumps([job, depends_on], sort_keys=True, default=repr)
        return hashlib.sha256(said.encode()).hexdigest()[:32]


def _with_sizes(
    spec: ModelSpec, inputs: Sequence[DeclaredTensor], outputs: Sequence[DeclaredTensor], given: Mapping[str, _Sizes]
) -> ModelSpec:
    """Return a spec whose inputs have sizes for all free dimensions but the rows; a dimension's name has one size everywhere.

    An output keeps a name that no input gives a size. What is computed of names, such as ``"2*seq"``, is one more name.

    Raises:
        InputError: a rank or size in `given` does not fit, or a free dimension of an input is left without one.
    """
    known: dict[str, int] = {}
    for tensor, declared in zip(spec.inputs, inputs, strict=True):
        if tensor.name in given:
            _check_sizes(tensor, declared, given[tensor.name], known)

    def sized(tensor: TensorSpec, declared: DeclaredTensor) -> TensorSpec:
        sizes = [
            known.get(str(name), size) if isinstance(size, str) else size
            for size, name in zip(given.get(tensor.name, tensor.shape), declared.dims, strict=True)
        ]
        return replace(tensor, shape=tuple(sizes))

    filled = tuple(map(sized, spec.inputs, inputs))
    for tensor in filled:
        free = [axis for axis, size in enumerate(tensor.shape) if axis != tensor.batch_axis and not isinstance(size, int)]
        if free:
            example = [128 if axis in free else size for axis, size in enumerate(tensor.shape)]
            raise InputError(
                f"input {tensor.name!r} {tensor} has free dimensions beside its rows, and a compiled model has one size for "
                f"each: say which, such as input_shape={{{tensor.name!r}: {example}}}"
            )
    return ModelSpec(filled, tuple(map(sized, spec.outputs, outputs)))


def _check_sizes(tensor: TensorSpec, declared: DeclaredTensor, given: _Sizes, known: dict[str, int]) -> None:
    """Check the sizes that are given for an input, and note those of named dimensions in `known`."""
    if len(given) != len(tensor.shape):
        raise InputError(
            f"input_shape of {tensor.name!r}: expected {len(tensor.shape)} dimensions, {tensor}, "
            f"got {len(given)}: {list(given)}"
        )
    for axis, (size, own, name) in enumerate(zip(given, tensor.shape, declared.dims, strict=True)):
        if isinstance(own, int) and size != own:
            raise InputError(f"input_shape of {tensor.name!r}: axis {axis} is {own} in the model, {tensor}, got {size}")
        if isinstance(own, str) and size is not None and known.setdefault(str(name), size) != size:
            raise InputError(
                f"input_shape of {tensor.name!r}: the model calls this dimension {name!r}, which is {known[str(name)]} "
                f"elsewhere, got {size}"
            )


def _check_output(output: Path, suffix: str) -> Path:
    if output.suffix != suffix:
        raise InputError(f"output {str(output)!r}: expected a file that ends in {suffix}")
    if not output.parent.is_dir():
        raise InputError(f"output {str(output)!r}: there is no folder {str(output.parent)!r}")
    if output.is_dir():
        raise InputError(f"output {str(output)!r} is a folder")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"output {str(output)!r}: the folder cannot be written")
    return output.absolute()


def _deliver(compiled: Compiled, output: Path) -> Compiled:
    """Copy an artefact to its place, complete or not at all."""
    part = output.with_name(f".{output.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        shutil.copyfile(compiled.path, part)
        part.replace(output)
    except OSError as error:
        raise InputError(f"output {str(output)!r} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
        if compiled.temporary:
            compiled.path.unlink(missing_ok=True)
    return replace(compiled, path=output, temporary=False)


def check_compiled_for(session: Session, batch_sizes: Sequence[int] | None, *, backend: str) -> None:
    """Check that a model that came compiled, now opened, has the batch sizes that the caller of `Backend.open` wants.

    Args:
        session: of the model; closed where it has not.
        batch_sizes: as `Backend.open` gets them; None takes any.
        backend: its name.

    Raises:
        ModelError: it has others.
    """
    batching = session.batching
    if batch_sizes is None or isinstance(batching, AnyBatch):
        return
    sizes = (batching.size,) if isinstance(batching, MultipleOf) else batching.sizes
    if tuple(batch_sizes) != sizes:
        session.close()
        raise ModelError(
            f"{backend}: expected a model compiled for the batch sizes {list(batch_sizes)}, this one has {list(sizes)}; "
            "leave batch_sizes out, or open the .onnx it was made of, which compiles it anew"
        )
