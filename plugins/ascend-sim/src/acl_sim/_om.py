"""The simulator's ``.om`` file: what ``atc-sim`` writes and ``acl.mdl.load_*`` reads.

A real ``.om`` starts with the four bytes of 0x444F4D49 (contract 5.8). Ours does too, so that a client which looks at them is
content, and goes on with a mark that no vendor tool mistakes for a model of its own. Nothing in it is executable::

    offset  size
    0       4     magic, 0x444F4D49 little endian
    4       16    mark, b"acl-sim not real"
    20      4     version, little endian like every number here
    24      4     kind: 0 a model, 1 a bundle of whole model files
    28      8     bytes of the header
    36      8     bytes of the body
    44      32    SHA-256 of everything before and after this field
    76            header, UTF-8 JSON
    ...           body: the ONNX graph with its weights; in a bundle the model files, one behind another

The reader believes nothing: each length, type and limit is checked before anything is built from it.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from acl_sim._aipp import AippConfig, AippError

MAGIC: Final = (0x444F4D49).to_bytes(4, "little")
MARK: Final = b"acl-sim not real"
VERSION: Final = 1
_HEAD: Final = struct.Struct("<4s16sIIQQ")
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
HEAD_BYTES: Final = _HEAD.size + _DIGEST_BYTES

# Limits against claims that no real model makes. The vendor's own: 128 axes (contract 1.7).
_MAX_HEADER_BYTES: Final = 8 << 20  # a hundred gears of a thousand tensors take two; read, it is a dozen times as much
_MAX_TENSORS: Final = 4096
_MAX_GEARS: Final = 4096
_MAX_RANK: Final = 128
_MAX_DIM: Final = (1 << 31) - 1
_MAX_TENSOR_BYTES: Final = 1 << 46
_MAX_NAME: Final = 4096

#: Bytes per element of each ACL data type that a model's input or output may have here (numbers: contract 1.7).
ELEMENT_BYTES: Final = {0: 4, 1: 2, 2: 1, 3: 4, 4: 1, 6: 2, 7: 2, 8: 4, 9: 8, 10: 8, 11: 8, 12: 1, 27: 2}

FLOAT: Final = 0
FLOAT16: Final = 1
INT32: Final = 3
UINT8: Final = 4
FORMAT_NCHW: Final = 0
FORMAT_NHWC: Final = 1
FORMAT_ND: Final = 2
FORMATS: Final = frozenset({0, 1, 2, 27, 30, 35, 47})

GEAR_INPUT: Final = "ascend_mbatch_shape_data"
AIPP_INPUT: Final = "ascend_dynamic_aipp_data"

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

_T = TypeVar("_T")


class OmError(Exception):
    """A model file that cannot be used.

    Attributes:
        code: what ``acl.mdl.load_*`` answers.
    """

    code: int = 500002


class OmPathError(OmError):
    """The file is missing or unreadable: 145002."""

    code = 145002


class OmDataError(OmError):
    """The content is not a model file of ours, or is damaged: 145006."""

    code = 145006


class GearKind(enum.Enum):
    """How the shapes of a model vary."""

    NONE = "none"
    BATCH = "batch"
    IMAGE = "image"
    DIMS = "dims"
    RANGE = "range"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output as the model declares it.

    Attributes:
        name: an ONNX input's name; of an output ``<node>:<output index>:<onnx output name>`` (contract 2.7).
        acl_type: number of the data type.
        format: number of the format.
        dims: -1 where the axis varies.
        source: the name in the ONNX graph.
    """

    name: str
    acl_type: int
    format: int
    dims: tuple[int, ...]
    source: str

    def __post_init__(self) -> None:
        _require(0 < len(self.name) <= _MAX_NAME and 0 < len(self.source) <= _MAX_NAME, "a tensor's name is empty or too long")
        _require(self.acl_type in ELEMENT_BYTES, f"{self.name!r}: unknown data type {self.acl_type}")
        _require(self.format in FORMATS, f"{self.name!r}: unknown format {self.format}")
        _check_shape(self.dims, self.acl_type, lowest=-1)

    def size_bytes(self, dims: Sequence[int]) -> int:
        """Return the bytes of this tensor at a concrete shape."""
        return math.prod(dims) * ELEMENT_BYTES[self.acl_type]


@dataclass(frozen=True, slots=True)
class Model:
    """A compiled model.

    Attributes:
        name: what it was compiled as.
        inputs: the data inputs in the graph's order; neither the gear input nor the inputs of dynamic AIPP are among them.
        outputs: in the graph's order.
        gear_kind: how its shapes vary.
        gears: values per gear, in command-line order; empty without gears.
        output_shapes: per gear, per output, the concrete shape. One entry for a static model; for a shape range one at the
            upper bounds, or none where there is no bound.
        shape_order: indexes of the inputs in the order of ``--input_shape``: the order of the values of dims gears.
        ranges: of a shape range, per input and axis, (lowest, highest), highest -1 without a bound; else empty.
        precision_mode: one of `PRECISION_MODES`.
        soc_version: as given to the converter.
        aipp: per input, its AIPP configuration or None.
        weight_bytes: what the weights take.
        work_bytes: what one execution takes beside inputs and outputs (modelled).
        flops: operations of one execution, per entry of `output_shapes` (modelled): matrix operators and elements of results.
        graph: the ONNX model, weights inside.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    gear_kind: GearKind
    gears: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[tuple[int, ...], ...], ...]
    shape_order: tuple[int, ...]
    ranges: tuple[tuple[tuple[int, int], ...], ...]
    precision_mode: str
    soc_version: str
    aipp: tuple[AippConfig | None, ...]
    weight_bytes: int
    work_bytes: int
    flops: tuple[int, ...]
    graph: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require(len(self.name) <= _MAX_NAME and len(self.soc_version) <= _MAX_NAME, "a name is too long")
        _require(len(self.inputs) <= _MAX_TENSORS and 0 < len(self.outputs) <= _MAX_TENSORS, "too many tensors, or no output")
        _require(len({tensor.name for tensor in self.inputs}) == len(self.inputs), "two inputs have one name")
        _require(self.precision_mode in PRECISION_MODES, f"unknown precision mode {self.precision_mode!r}")
        _require(sorted(self.shape_order) == list(range(len(self.inputs))), "shape order does not list each input once")
        _require(len(self.aipp) == len(self.inputs), "one AIPP entry per input is needed")
        _require(
            0 <= self.weight_bytes <= _MAX_TENSOR_BYTES and 0 <= self.work_bytes <= _MAX_TENSOR_BYTES, "sizes out of range"
        )
        for tensor, config in zip(self.inputs, self.aipp, strict=True):
            if config is not None:
                _require(tensor.acl_type in (FLOAT, FLOAT16), f"{tensor.name!r}: unfit for AIPP")
                _require(
                    not config.dynamic or self.gear_kind in (GearKind.NONE, GearKind.BATCH),
                    f"{tensor.name!r}: dynamic AIPP goes with batch gears only",
                )
                try:
                    config.check_input(tensor.dims)
                except AippError as error:
                    raise OmDataError(f"{tensor.name!r}: {error}") from error
        has_gears = self.gear_kind in (GearKind.BATCH, GearKind.IMAGE, GearKind.DIMS)
        _require(bool(self.gears) == has_gears and len(self.gears) <= _MAX_GEARS, "gears and their kind disagree")
        free_axes = sum(dim == -1 for tensor in self.inputs for dim in tensor.dims)
        values = {GearKind.BATCH: 1, GearKind.IMAGE: 2, GearKind.DIMS: free_axes}.get(self.gear_kind, 0)
        _require(all(len(gear) == values for gear in self.gears), "a gear has the wrong number of values")
        _require(len(set(self.gears)) == len(self.gears), "a gear is there twice")
        _require(all(0 <= value <= _MAX_DIM for gear in self.gears for value in gear), "a gear's value is out of range")
        _require((free_axes > 0) == (self.gear_kind is not GearKind.NONE), "free axes and the kind of gears disagree")
        if self.gear_kind is GearKind.IMAGE:
            fits = all(
                t.dims[2:] == (-1, -1) and -1 not in t.dims[:2] for t in self.inputs if -1 in t.dims and len(t.dims) == 4
            )
            _require(
                fits and all(len(t.dims) == 4 for t in self.inputs if -1 in t.dims), "image gears vary H and W of NCHW only"
            )
        is_range = self.gear_kind is GearKind.RANGE
        _require(len(self.ranges) == (len(self.inputs) if is_range else 0), "ranges and the kind of gears disagree")
        for tensor, ranges in zip(self.inputs, self.ranges, strict=False):
            _require(len(ranges) == len(tensor.dims), f"{tensor.name!r}: one range per axis is needed")
            for dim, (low, high) in zip(tensor.dims, ranges, strict=True):
                _require(0 <= low <= _MAX_DIM and (high == -1 or low <= high <= _MAX_DIM), f"{tensor.name!r}: bad range")
                _require(dim == -1 or low == high == dim, f"{tensor.name!r}: a fixed axis has a range")
        expected = (0, 1) if is_range else (max(1, len(self.gears)),)
        _require(len(self.output_shapes) in expected, "one set of output shapes per gear")
        _require(len(self.flops) == len(self.output_shapes), "one count of operations per gear")
        _require(all(0 <= count < 1 << 63 for count in self.flops), "operations out of range")
        for shapes in self.output_shapes:
            _require(len(shapes) == len(self.outputs), "one shape per output is needed")
            for tensor, shape in zip(self.outputs, shapes, strict=True):
                _check_shape(shape, tensor.acl_type, lowest=0)
        for index in range(len(self.output_shapes)):
            for tensor, shape in zip(self.inputs, self.input_shapes(index), strict=True):
                _check_shape(shape, tensor.acl_type, lowest=0)

    @property
    def values_per_gear(self) -> int:
        """How many numbers name one gear; 0 without gears."""
        return len(self.gears[0]) if self.gears else 0

    def input_shapes(self, gear_index: int) -> tuple[tuple[int, ...], ...]:
        """Return the graph's input shapes at one gear (0 for a static model, and for the upper bounds of a shape range).

        In the order of `inputs`; an axis without an upper bound stays -1.
        """
        if self.gear_kind is GearKind.RANGE:
            return tuple(tuple(high for _, high in ranges) for ranges in self.ranges)
        if not self.gears:
            return tuple(tensor.dims for tensor in self.inputs)
        gear = self.gears[gear_index]
        shapes: dict[int, tuple[int, ...]] = {}
        position = 0
        for index in self.shape_order:
            shape = list(self.inputs[index].dims)
            for axis in [axis for axis, dim in enumerate(shape) if dim == -1]:
                if self.gear_kind is GearKind.BATCH:
                    shape[axis] = gear[0]
                elif self.gear_kind is GearKind.IMAGE:
                    shape[axis] = gear[axis - 2]
                else:
                    shape[axis] = gear[position]
                    position += 1
            shapes[index] = tuple(shape)
        return tuple(shapes[index] for index in range(len(self.inputs)))

    @property
    def dynamic_aipp(self) -> tuple[int, ...]:
        """Indexes of the inputs with dynamic AIPP, in the order of their parameter inputs."""
        return tuple(index for index, config in enumerate(self.aipp) if config is not None and config.dynamic)

    def largest_batch(self, index: int) -> int:
        """Return the first axis of an input, at the largest gear where it varies: the images that dynamic AIPP works on."""
        batch = self.inputs[index].dims[0]
        return max(gear[0] for gear in self.gears) if batch == -1 else batch

    @property
    def largest_gear(self) -> int:
        """Index of the gear with the most input elements; the first of several."""
        sizes = [sum(math.prod(shape) for shape in self.input_shapes(index)) for index in range(max(1, len(self.gears)))]
        return sizes.index(max(sizes))


@dataclass(frozen=True, slots=True)
class Bundle:
    """Several models in one file."""

    models: tuple[Model, ...]

    def __post_init__(self) -> None:
        _require(0 < len(self.models) <= _MAX_TENSORS, "a bundle holds at least one model")


def dump(content: Model | Bundle) -> bytes:
    """Return the bytes of a model file, or of a bundle."""
    if isinstance(content, Bundle):
        files = [dump(model) for model in content.models]
        return _seal(1, {"sizes": [len(file) for file in files]}, b"".join(files))
    return _seal(0, describe(content), content.graph)


def describe(model: Model) -> dict[str, Any]:
    """Return what a model's header says, as plain data: all of it but the graph."""
    return {
        "name": model.name,
        "inputs": [_tensor_fields(tensor) for tensor in model.inputs],
        "outputs": [_tensor_fields(tensor) for tensor in model.outputs],
        "gear_kind": model.gear_kind.value,
        "gears": model.gears,
        "output_shapes": model.output_shapes,
        "shape_order": model.shape_order,
        "ranges": model.ranges,
        "precision_mode": model.precision_mode,
        "soc_version": model.soc_version,
        "aipp": [None if config is None else config.to_fields() for config in model.aipp],
        "weight_bytes": model.weight_bytes,
        "work_bytes": model.work_bytes,
        "flops": model.flops,
    }


def write(path: Path, content: Model | Bundle) -> None:
    """Write a model file.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(dump(content))


def read(path: Path) -> Model | Bundle:
    """Read a model file.

    Raises:
        OmPathError: it is missing or cannot be read.
        OmDataError: it is not one of ours, or damaged.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise OmPathError(f"{str(path)!r} cannot be read: {error}") from error
    return parse(data)


def parse(data: bytes) -> Model | Bundle:
    """Read a model from the bytes of its file.

    Raises:
        OmDataError: they are not one of ours, or damaged.
    """
    return _parse(data, nested=False)


def _seal(kind: int, header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    head = _HEAD.pack(MAGIC, MARK, VERSION, kind, len(text), len(body))
    return b"".join([head, hashlib.sha256(b"".join([head, text, body])).digest(), text, body])


def _parse(data: bytes, *, nested: bool) -> Model | Bundle:
    if len(data) < HEAD_BYTES:
        raise OmDataError(f"a model file has at least {HEAD_BYTES} bytes, this one {len(data)}")
    magic, mark, version, kind, header_bytes, body_bytes = _HEAD.unpack_from(data)
    _require(magic == MAGIC, "the first four bytes are not those of a .om file")
    _require(mark == MARK, "a .om file, but not one of the simulator: convert the ONNX model with atc-sim")
    _require(version == VERSION, f"version {version} of the simulator's file; this simulator reads {VERSION}")
    _require(header_bytes <= _MAX_HEADER_BYTES, f"a header of {header_bytes} bytes is beyond the limit")
    _require(HEAD_BYTES + header_bytes + body_bytes == len(data), "the lengths in the head do not add up to the file's")
    digest = hashlib.sha256(data[: _HEAD.size])
    digest.update(memoryview(data)[HEAD_BYTES:])
    _require(digest.digest() == data[_HEAD.size : HEAD_BYTES], "the checksum does not fit: the file is damaged")
    body = data[HEAD_BYTES + header_bytes :]
    try:
        header = json.loads(data[HEAD_BYTES : HEAD_BYTES + header_bytes].decode())
    except (ValueError, RecursionError) as error:
        raise OmDataError(f"the header is not JSON: {error}") from error
    if kind == 1 and not nested:
        return _bundle(header, body)
    _require(kind == 0, f"unknown kind of file {kind}")
    return _model(header, body)


def _bundle(header: Any, body: bytes) -> Bundle:
    sizes = _list(_fields(header, "sizes")["sizes"], _int)
    _require(len(sizes) <= _MAX_TENSORS and all(size > 0 for size in sizes) and sum(sizes) == len(body), "bundle: bad sizes")
    models: list[Model] = []
    start = 0
    for size in sizes:
        model = _parse(body[start : start + size], nested=True)
        assert isinstance(model, Model)  # nested files are never bundles
        models.append(model)
        start += size
    return Bundle(tuple(models))


_MODEL_FIELDS: Final = (
    *("name", "inputs", "outputs", "gear_kind", "gears", "output_shapes", "shape_order", "ranges"),
    *("precision_mode", "soc_version", "aipp", "weight_bytes", "work_bytes", "flops"),
)


def _model(header: Any, graph: bytes) -> Model:
    fields = _fields(header, *_MODEL_FIELDS)
    kind = _str(fields["gear_kind"])
    _require(kind in {member.value for member in GearKind}, f"unknown kind of gears {kind!r}")
    try:
        aipp = _list(fields["aipp"], lambda value: None if value is None else AippConfig.from_fields(value))
    except AippError as error:
        raise OmDataError(f"AIPP: {error}") from error
    return Model(
        name=_str(fields["name"]),
        inputs=_list(fields["inputs"], _tensor),
        outputs=_list(fields["outputs"], _tensor),
        gear_kind=GearKind(kind),
        gears=_list(fields["gears"], _ints),
        output_shapes=_list(fields["output_shapes"], lambda shapes: _list(shapes, _ints)),
        shape_order=_ints(fields["shape_order"]),
        ranges=_list(fields["ranges"], lambda ranges: _list(ranges, _pair)),
        precision_mode=_str(fields["precision_mode"]),
        soc_version=_str(fields["soc_version"]),
        aipp=aipp,
        weight_bytes=_int(fields["weight_bytes"]),
        work_bytes=_int(fields["work_bytes"]),
        flops=_ints(fields["flops"]),
        graph=graph,
    )


def _tensor_fields(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "acl_type": tensor.acl_type,
        "format": tensor.format,
        "dims": tensor.dims,
        "source": tensor.source,
    }


def _tensor(value: Any) -> Tensor:
    fields = _fields(value, "name", "acl_type", "format", "dims", "source")
    return Tensor(
        _str(fields["name"]), _int(fields["acl_type"]), _int(fields["format"]), _ints(fields["dims"]), _str(fields["source"])
    )


def _check_shape(dims: Sequence[int], acl_type: int, *, lowest: int) -> None:
    _require(len(dims) <= _MAX_RANK, f"a shape of {len(dims)} axes is beyond the limit of {_MAX_RANK}")
    _require(all(lowest <= dim <= _MAX_DIM for dim in dims), "an axis is out of range")
    size = math.prod(max(1, dim) for dim in dims) * ELEMENT_BYTES[acl_type]
    _require(size <= _MAX_TENSOR_BYTES, f"a tensor of {size} bytes is beyond the limit")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise OmDataError(message)


def _fields(value: Any, *names: str) -> dict[str, Any]:
    _require(isinstance(value, dict) and set(value) == set(names), f"expected the fields {', '.join(names)}")
    return dict(value)


def _str(value: Any) -> str:
    _require(isinstance(value, str), "expected a text")
    # A lone surrogate would fail only later, where a name is encoded.
    _require(value.isprintable() or not value or all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in value), "expected a text")
    return str(value)


def _int(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63, "expected a whole number")
    return int(value)


def _list(value: Any, item: Callable[[Any], _T]) -> tuple[_T, ...]:
    _require(isinstance(value, list), "expected a list")
    return tuple(item(entry) for entry in value)


def _ints(value: Any) -> tuple[int, ...]:
    return _list(value, _int)


def _pair(value: Any) -> tuple[int, int]:
    numbers = _ints(value)
    _require(len(numbers) == 2, "expected two numbers")
    return numbers[0], numbers[1]
