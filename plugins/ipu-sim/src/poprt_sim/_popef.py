"""The simulator's ``.popef`` file: what the compiler writes and a runner reads.

It carries a mark of its own that no vendor tool mistakes for a PopEF, and nothing in it is executable::

    offset  size
    0       16    mark, b"poprt-sim popef."
    16      4     version, little endian like every number here
    20      4     kind: 0 a model, 1 fused models
    24      8     bytes of the header
    32      8     bytes of the body
    40      32    SHA-256 of everything before and after this field
    72            header, UTF-8 JSON
    ...           body: the ONNX graph with its weights; of fused models their files, one behind another

The reader believes nothing: each length, type and limit is checked before anything is built from it. What the graph itself
claims is checked by `poprt_sim._compute.Program`, which raises the same error.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

MARK: Final = b"poprt-sim popef."
VERSION: Final = 1
_HEAD: Final = struct.Struct("<16sIIQQ")
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
HEAD_BYTES: Final = _HEAD.size + _DIGEST_BYTES

#: The input that says which of several fused models runs; the runtime fills it in where a caller leaves it out.
INDEX_INPUT: Final = "index"

#: IPU generations that PopRT knows: the C600 card, and IPU-M2000 or Bow-2000.
IPU_VERSIONS: Final = ("ipu21", "ipu2")

#: The element types of a PopEF that NumPy has, too (contract 1.3); its two 8-bit floats are not simulated.
DTYPES: Final = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (
        np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64,
        np.float16, np.float32, np.float64,
    )
}  # fmt: skip

# Limits against claims that no real model makes.
_MAX_HEADER_BYTES: Final = 8 << 20
_MAX_TENSORS: Final = 1 << 16
_MAX_GRAPHS: Final = 1024
_MAX_RANK: Final = 64
_MAX_DIM: Final = (1 << 31) - 1
_MAX_TENSOR_BYTES: Final = 1 << 46
_MAX_NAME: Final = 4096
_MAX_BLOB: Final = 1 << 20

_T = TypeVar("_T")


class PopefError(RuntimeError):
    """A model file that cannot be used: missing, damaged, hostile, or not one of the simulator."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a compiled model.

    Attributes:
        name: as a caller spells it.
        dtype: one of `DTYPES`.
        shape: the compiled one, every axis fixed.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _require(0 < len(self.name) <= _MAX_NAME, "a tensor's name is empty or too long")
        _require(DTYPES.get(self.dtype.name) == self.dtype, f"{self.name!r}: no element type of a PopEF: {self.dtype}")
        _require(len(self.shape) <= _MAX_RANK, f"{self.name!r}: {len(self.shape)} axes are beyond the limit of {_MAX_RANK}")
        _require(all(0 <= dim <= _MAX_DIM for dim in self.shape), f"{self.name!r}: an axis is out of range")
        _require(self.size_bytes <= _MAX_TENSOR_BYTES, f"{self.name!r}: {self.size_bytes} bytes are beyond the limit")

    @property
    def size_bytes(self) -> int:
        """Bytes of one tensor of this shape."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Popef:
    """A compiled model, or several fused into one.

    Attributes:
        name: of the ONNX graph.
        onnx: the graph, weights inside, shapes fixed; empty where models are fused.
        inputs: what one execution takes. Of fused models those of all of them, and `INDEX_INPUT` at the end.
        outputs: what one execution gives. Of fused models those of all of them.
        batches_per_step: batches that the device takes before it returns to the host.
        num_io_tiles: tiles for overlapped I/O; 0 without.
        num_ipus: devices that the model was compiled for.
        ipu_version: one of `IPU_VERSIONS`.
        flops: operations of one run at the compiled shapes (modelled); of fused models the largest.
        bytes_moved: weights, inputs, outputs and intermediate results of one run; of fused models the largest.
        anchors: the weights that may be updated, in the graph's order.
        graphs: the fused models; else empty. Their tensors have the same names as here, so ``graph0/X``.
        weight_bytes: of all constants.
        opaque_blobs: name and text of what a program had the compiler store (`CompilerOptions.opaque_blobs`).
    """

    name: str
    onnx: bytes = field(repr=False)
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batches_per_step: int
    num_io_tiles: int
    num_ipus: int
    ipu_version: str
    flops: float
    bytes_moved: float
    anchors: tuple[TensorInfo, ...]
    graphs: tuple[Popef, ...] = ()
    weight_bytes: int = 0
    opaque_blobs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _require(len(self.name) <= _MAX_NAME, "the model's name is too long")
        for what, infos in (("inputs", self.inputs), ("outputs", self.outputs), ("weights", self.anchors)):
            _require(len(infos) <= _MAX_TENSORS, f"{len(infos)} {what} are beyond the limit of {_MAX_TENSORS}")
        _require(bool(self.outputs), "a model has at least one output")
        for infos in (self.inputs + self.anchors, self.outputs):
            _require(len({info.name for info in infos}) == len(infos), "two tensors have one name")
        _require(1 <= self.batches_per_step <= _MAX_DIM, f"batches_per_step is {self.batches_per_step}, 1 or more is expected")
        _require(0 <= self.num_io_tiles <= 1472, f"num_io_tiles is {self.num_io_tiles}, 0 to 1472 is expected")
        _require(1 <= self.num_ipus <= 4096, f"num_ipus is {self.num_ipus}, 1 to 4096 is expected")
        _require(self.ipu_version in IPU_VERSIONS, f"ipu_version is {self.ipu_version!r}, one of {IPU_VERSIONS} is expected")
        _require(0 <= self.flops < 1e30 and 0 <= self.bytes_moved < 1e30, "work of one run: out of range")
        _require(0 <= self.weight_bytes <= _MAX_TENSOR_BYTES, "bytes of weights: out of range")
        _require(len(self.opaque_blobs) <= _MAX_TENSORS, "too many opaque blobs")
        for key, text in self.opaque_blobs:
            _require(len(key) <= _MAX_NAME and len(text) <= _MAX_BLOB, "an opaque blob is too large")
        if not self.graphs:
            return
        _require(len(self.graphs) <= _MAX_GRAPHS and not self.onnx, "too many fused models, or a graph of its own beside them")
        _require(not any(graph.graphs for graph in self.graphs), "fused models inside fused models")
        own = self.inputs[:-1] if self.inputs and self.inputs[-1] == INDEX_INFO else None
        _require(own is not None, f"fused models have the input {INDEX_INPUT!r}, uint32 [1], behind all others")
        for mine, theirs in (
            (own, [info for graph in self.graphs for info in graph.inputs]),
            (self.outputs, [info for graph in self.graphs for info in graph.outputs]),
            (self.anchors, [info for graph in self.graphs for info in graph.anchors]),
        ):
            _require(list(mine or ()) == theirs, "the tensors of fused models are not those of the models")

    def graph_of(self, names: Sequence[str]) -> int:
        """Return which of the fused models these tensors belong to; `INDEX_INPUT` belongs to all.

        Raises:
            ValueError: none of them has all these names, or there is no name to tell by.
        """
        asked = {name for name in names if name != INDEX_INPUT}
        for number, graph in enumerate(self.graphs):
            if asked and asked <= {info.name for info in (*graph.inputs, *graph.outputs)}:
                return number
        known = "; ".join(", ".join(info.name for info in graph.inputs) for graph in self.graphs)
        raise ValueError(f"{', '.join(sorted(asked)) or 'no name'}: expected tensors of one of the fused models: {known}")


def fuse(name: str, graphs: Sequence[Popef]) -> Popef:
    """Return one file of several models with distinct names of tensors; options of the first count.

    Raises:
        PopefError: they do not fit together.
    """
    _require(bool(graphs), "nothing to fuse")
    first = graphs[0]
    return Popef(
        name=name,
        onnx=b"",
        inputs=(*(info for graph in graphs for info in graph.inputs), INDEX_INFO),
        outputs=tuple(info for graph in graphs for info in graph.outputs),
        batches_per_step=first.batches_per_step,
        num_io_tiles=first.num_io_tiles,
        num_ipus=first.num_ipus,
        ipu_version=first.ipu_version,
        flops=max(graph.flops for graph in graphs),
        bytes_moved=max(graph.bytes_moved for graph in graphs),
        anchors=tuple(info for graph in graphs for info in graph.anchors),
        graphs=tuple(graphs),
        weight_bytes=sum(graph.weight_bytes for graph in graphs),
        opaque_blobs=first.opaque_blobs,
    )


def write_popef(popef: Popef) -> bytes:
    """Return the bytes of a model file."""
    files = [write_popef(graph) for graph in popef.graphs]
    header = {
        "name": popef.name,
        "inputs": [_info_fields(info) for info in popef.inputs],
        "outputs": [_info_fields(info) for info in popef.outputs],
        "batches_per_step": popef.batches_per_step,
        "num_io_tiles": popef.num_io_tiles,
        "num_ipus": popef.num_ipus,
        "ipu_version": popef.ipu_version,
        "flops": float(popef.flops),
        "bytes_moved": float(popef.bytes_moved),
        "anchors": [_info_fields(info) for info in popef.anchors],
        "graphs": [len(file) for file in files],
        "weight_bytes": popef.weight_bytes,
        "opaque_blobs": popef.opaque_blobs,
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    body = b"".join(files) if files else popef.onnx
    head = _HEAD.pack(MARK, VERSION, 1 if files else 0, len(text), len(body))
    return b"".join([head, hashlib.sha256(b"".join([head, text, body])).digest(), text, body])


def read_popef(source: str | os.PathLike[str] | bytes) -> Popef:
    """Read a model file.

    Args:
        source: its path, or its bytes.

    Raises:
        PopefError: it is missing, cannot be read, is damaged, or is not one of the simulator.
    """
    if isinstance(source, bytes):
        return _parse(source, nested=False)
    try:
        data = Path(source).read_bytes()
    except (OSError, ValueError) as error:
        raise PopefError(f"{os.fspath(source)!r} cannot be read: {error}") from error
    try:
        return _parse(data, nested=False)
    except PopefError as error:
        raise PopefError(f"{os.fspath(source)!r}: {error}") from error


def _parse(data: bytes, *, nested: bool) -> Popef:
    _require(
        data[: len(MARK)] == MARK[: len(data)] and bool(data), "not a PopEF of the simulator: compile the ONNX model with it"
    )
    _require(len(data) >= HEAD_BYTES, f"a PopEF has at least {HEAD_BYTES} bytes, this one {len(data)}")
    _, version, kind, header_bytes, body_bytes = _HEAD.unpack_from(data)
    _require(version == VERSION, f"version {version} of the simulator's file; this simulator reads {VERSION}")
    _require(header_bytes <= _MAX_HEADER_BYTES, f"a header of {header_bytes} bytes is beyond the limit")
    _require(HEAD_BYTES + header_bytes + body_bytes == len(data), "the lengths in the head do not add up to the file's")
    digest = hashlib.sha256(data[: _HEAD.size])
    digest.update(memoryview(data)[HEAD_BYTES:])
    _require(digest.digest() == data[_HEAD.size : HEAD_BYTES], "the checksum does not fit: the file is damaged")
    try:
        header = json.loads(data[HEAD_BYTES : HEAD_BYTES + header_bytes].decode())
    except (ValueError, RecursionError) as error:
        raise PopefError(f"the header is not JSON: {error}") from error
    _require(kind == 0 or (kind == 1 and not nested), f"unknown kind of file {kind}")
    return _popef(header, data[HEAD_BYTES + header_bytes :], fused=kind == 1)


_FIELDS: Final = (
    *("name", "inputs", "outputs", "batches_per_step", "num_io_tiles", "num_ipus", "ipu_version", "flops", "bytes_moved"),
    *("anchors", "graphs", "weight_bytes", "opaque_blobs"),
)


def _popef(header: Any, body: bytes, *, fused: bool) -> Popef:
    fields = _fields(header, *_FIELDS)
    sizes = _list(fields["graphs"], _int, _MAX_GRAPHS)
    _require(bool(sizes) == fused, "fused models and the kind of the file disagree")
    graphs: list[Popef] = []
    if fused:
        _require(all(size > 0 for size in sizes) and sum(sizes) == len(body), "fused models: bad sizes")
        start = 0
        for size in sizes:
            graphs.append(_parse(body[start : start + size], nested=True))
            start += size
    return Popef(
        name=_str(fields["name"]),
        onnx=b"" if fused else body,
        inputs=_list(fields["inputs"], _info),
        outputs=_list(fields["outputs"], _info),
        batches_per_step=_int(fields["batches_per_step"]),
        num_io_tiles=_int(fields["num_io_tiles"]),
        num_ipus=_int(fields["num_ipus"]),
        ipu_version=_str(fields["ipu_version"]),
        flops=_float(fields["flops"]),
        bytes_moved=_float(fields["bytes_moved"]),
        anchors=_list(fields["anchors"], _info),
        graphs=tuple(graphs),
        weight_bytes=_int(fields["weight_bytes"]),
        opaque_blobs=_list(fields["opaque_blobs"], _blob),
    )


def _info_fields(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "dtype": info.dtype.name, "shape": info.shape}


def _info(value: Any) -> TensorInfo:
    fields = _fields(value, "name", "dtype", "shape")
    dtype = DTYPES.get(_str(fields["dtype"]))
    if dtype is None:
        raise PopefError(f"no element type of a PopEF: {fields['dtype']!r}")
    return TensorInfo(_str(fields["name"]), dtype, _list(fields["shape"], _int, _MAX_RANK))


def _blob(value: Any) -> tuple[str, str]:
    texts = _list(value, _str, 2)
    _require(len(texts) == 2, "an opaque blob is a name and a text")
    return texts[0], texts[1]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PopefError(message)


def _fields(value: Any, *names: str) -> dict[str, Any]:
    _require(isinstance(value, dict) and set(value) == set(names), f"expected the fields {', '.join(names)}")
    return dict(value)


def _str(value: Any) -> str:
    # A lone surrogate would fail only later, where a name is encoded.
    _require(isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value), "expected a text")
    return str(value)


def _int(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63, "expected a whole number")
    return int(value)


def _float(value: Any) -> float:
    _require(isinstance(value, float) and math.isfinite(value), "expected a number")
    return float(value)


def _list(value: Any, item: Callable[[Any], _T], limit: int = _MAX_TENSORS) -> tuple[_T, ...]:
    _require(isinstance(value, list) and len(value) <= limit, "expected a list, and not too long a one")
    return tuple(item(entry) for entry in value)


INDEX_INFO: Final = TensorInfo(INDEX_INPUT, np.dtype(np.uint32), (1,))
