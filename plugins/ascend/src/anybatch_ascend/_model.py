"""A model on a device: loaded in one of the vendor's four ways, and what its description says."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import ml_dtypes
import numpy as np

import anybatch
from anybatch_ascend._acl import HOST_TO_DEVICE, HUGE_FIRST, Acl, Releases

GEAR_INPUT: Final = "ascend_mbatch_shape_data"
AIPP_INPUT: Final = "ascend_dynamic_aipp_data"

#: How a model is loaded: the ends of the vendor's function names, ``acl.mdl.load_from_...``.
Load: TypeAlias = Literal["file", "mem", "file_with_mem", "mem_with_mem"]
LOADS: Final[tuple[Load, ...]] = ("file", "mem", "file_with_mem", "mem_with_mem")

#: aclDataType -> dtype. Others (int4, uint1, complex32, strings) have no NumPy counterpart.
DTYPES: Final[Mapping[int, np.dtype[Any]]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    2: np.dtype(np.int8),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    6: np.dtype(np.int16),
    7: np.dtype(np.uint16),
    8: np.dtype(np.uint32),
    9: np.dtype(np.int64),
    10: np.dtype(np.uint64),
    11: np.dtype(np.float64),
    12: np.dtype(np.bool_),
    16: np.dtype(np.complex64),
    17: np.dtype(np.complex128),
    27: np.dtype(ml_dtypes.bfloat16),
}
_ACL_HOST: Final = 1
_DYNAMIC_AIPP: Final = 2
_IMAGE_RANK: Final = 4
_OUTPUT_NAME: Final = re.compile(r".*?:\d+:(.+)")


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a loaded model.

    Attributes:
        index: its place in a dataset.
        name: as in the ONNX model.
        dims: as the description says; -1 in axes that depend on the gear.
        size_bytes: at the largest gear.
    """

    index: int
    name: str
    dtype: np.dtype[Any]
    dims: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on the device.

    Attributes:
        model_id: of the runtime.
        desc: handle of its description.
        inputs: those that carry data, without the one that says the gear.
        outputs: with the dims of the largest gear.
        gear_input: index of the input that says the gear; None for a model of one fixed size.
        aipp_inputs: index of an input that dynamic AIPP preprocesses -> of the input that takes its parameters. The dims of
            the former say nothing until the size of its images is known.
        input_sizes: of every input of the runtime, in its order: bytes at the largest gear, and whether it carries data.
        batch_gears: the sizes of ``--dynamic_batch_size``; empty for other models.
        dims_gears: what ``--dynamic_dims`` was given, one dict per gear as the runtime says it; empty for other models.
        memory_bytes: of its weights and its work memory on the device; None where the runtime does not say.
    """

    model_id: int
    desc: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    gear_input: int | None
    aipp_inputs: Mapping[int, int]
    input_sizes: tuple[tuple[int, bool], ...]
    batch_gears: tuple[int, ...]
    dims_gears: tuple[Mapping[str, Any], ...]
    memory_bytes: int | None


def load_model(acl: Acl, releases: Releases, model: Path | bytes, load: Load) -> LoadedModel:
    """Load a model in the current context; what has to be given back is noted in `releases`.

    Args:
        acl: initialized, with a context.
        releases: is told of everything that stays.
        model: an ``.om`` file, or its bytes.
        load: the vendor's way; the ``_with_mem`` ways run it in memory that this plugin allocates, of the sizes that
            ``acl.mdl.query_size`` says.

    Raises:
        ModelError: it is none, is damaged, or is of a kind that takes no batch sizes.
        AclError: the runtime failed.
    """
    model_id, memory_bytes = _load(acl, releases, model, load)
    desc = acl.make("mdl.create_desc")
    releases.add("mdl.destroy_desc", desc)
    acl.call("mdl.get_desc", desc, model_id)
    return _describe(acl, model_id, desc, memory_bytes)


def _load(acl: Acl, releases: Releases, model: Path | bytes, load: Load) -> tuple[int, int | None]:
    """Return the model's id, and how much memory it takes on the device."""
    if load.startswith("file"):
        if not isinstance(model, Path):
            raise anybatch.InputError(f"load={load!r} needs a file, got {len(model)} bytes; use load='mem'")
        return _load_from(acl, releases, load, str(model))
    content = model.read_bytes() if isinstance(model, Path) else model
    while_loading = Releases(acl)
    try:
        return _load_from(acl, releases, load, *_where_acl_reads(acl, while_loading, content))
    finally:
        failed = while_loading.run()
        if failed is not None:
            raise failed


def _load_from(acl: Acl, releases: Releases, load: Load, *source: Any) -> tuple[int, int | None]:
    """Load a model by its path or by its address and size."""
    memory = _memory(acl, releases, *source) if load.endswith("_with_mem") else None
    model_id = int(acl.call(f"mdl.load_from_{load}", *source, *(memory or ())))
    releases.add("mdl.unload", model_id)
    if memory is not None:
        _, work_size, _, weight_size = memory
        return model_id, work_size + weight_size
    function = _query_size(source)
    if not acl.has(function):
        return model_id, None
    work_size, weight_size, code = acl.function(function)(*source)
    if code:  # what it takes is for reports only
        acl.forget()
        return model_id, None
    return model_id, work_size + weight_size


def _where_acl_reads(acl: Acl, releases: Releases, content: bytes) -> tuple[int, int]:
    """Return address and size of a model's bytes: on boards where the program runs on the device, in device memory."""
    address = acl.function("util.bytes_to_ptr")(content)
    if acl.call("rt.get_run_mode") == _ACL_HOST:
        return address, len(content)
    device = acl.call("rt.malloc", len(content), HUGE_FIRST)
    releases.add("rt.free", device)
    acl.call("rt.memcpy", device, len(content), address, len(content), HOST_TO_DEVICE)
    return device, len(content)


def _memory(acl: Acl, releases: Releases, *source: Any) -> tuple[int, int, int, int]:
    """Allocate work and weight memory for a model, by its path or by its address and size."""
    memory: list[int] = []
    for size in acl.call(_query_size(source), *source):
        address = acl.call("rt.malloc", size, HUGE_FIRST) if size else 0
        if size:
            releases.add("rt.free", address)
        memory += [address, size]
    work, work_size, weight, weight_size = memory
    return work, work_size, weight, weight_size


def _query_size(source: Sequence[Any]) -> str:
    return "mdl.query_size" if len(source) == 1 else "mdl.query_size_from_mem"


def _describe(acl: Acl, model_id: int, desc: int, memory_bytes: int | None) -> LoadedModel:
    gear_input, missing = acl.function("mdl.get_input_index_by_name")(desc, GEAR_INPUT)
    inputs = _ports(acl, desc, "input")
    outputs = _ports(acl, desc, "output")
    # With several inputs preprocessed, the names of the further ones begin so.
    data = tuple(port for port in inputs if port.name != GEAR_INPUT and not port.name.startswith(AIPP_INPUT))
    aipp = _aipp_inputs(acl, model_id, data) if any(port.name.startswith(AIPP_INPUT) for port in inputs) else {}
    input_sizes = tuple((port.size_bytes, port in data) for port in inputs)
    batch_gears: tuple[int, ...] = ()
    dims_gears: tuple[Mapping[str, Any], ...] = ()
    if missing:
        acl.forget()
        ranged = [port.name for port in (*data, *outputs) if -1 in port.dims and (port in outputs or port.index not in aipp)]
        if ranged:
            raise anybatch.ModelError(
                f"the model was compiled for a range of shapes ({ranged[0]!r} has free dimensions), not for batch sizes: "
                "compile it with --dynamic_batch_size, or open its .onnx with batch_sizes=[...]"
            )
    else:
        batch_gears = tuple(acl.call("mdl.get_dynamic_batch", desc)["batch"])
        if not batch_gears:
            dims_gears = _dims_gears(acl, desc)
    gear_input = None if missing else gear_input
    return LoadedModel(model_id, desc, data, outputs, gear_input, aipp, input_sizes, batch_gears, dims_gears, memory_bytes)


def _aipp_inputs(acl: Acl, model_id: int, data: Sequence[Port]) -> dict[int, int]:
    """Return the inputs that dynamic AIPP preprocesses, each with the input that takes its parameters."""
    found = {}
    for port in data:
        kind, parameters = acl.call("mdl.get_aipp_type", model_id, port.index)
        if kind == _DYNAMIC_AIPP:
            found[port.index] = parameters
    return found


def _dims_gears(acl: Acl, desc: int) -> tuple[Mapping[str, Any], ...]:
    pairs = acl.call("mdl.get_dynamic_hw", desc, -1)["hw"]
    if pairs:
        raise anybatch.ModelError(
            f"the model was compiled for image sizes (--dynamic_image_size, {len(pairs)} of them), which this plugin does not "
            "choose: compile it with --dynamic_batch_size, or for one size"
        )
    count = acl.call("mdl.get_input_dynamic_gear_count", desc, -1)
    return tuple(acl.call("mdl.get_input_dynamic_dims", desc, -1, count))


def _ports(acl: Acl, desc: int, side: Literal["input", "output"]) -> tuple[Port, ...]:
    count = acl.function(f"mdl.get_num_{side}s")(desc)
    if not count:
        raise anybatch.ModelError(f"the model's description has no {side}s")
    ports = []
    for index in range(count):
        dims = acl.call(f"mdl.get_{side}_dims", desc, index)
        code = acl.function(f"mdl.get_{side}_data_type")(desc, index)
        if code not in DTYPES:
            raise anybatch.ModelError(
                f"{side} {dims['name']!r} is of data type {code} (aclDataType), which NumPy does not have"
            )
        size = acl.function(f"mdl.get_{side}_size_by_index")(desc, index)
        if side == "input" and DTYPES[code] == np.uint8 and len(dims["dims"]) == _IMAGE_RANK:
            # Behind static AIPP the other query says pixels, and a YUV pixel is one and a half bytes; this one says bytes.
            dims = acl.call("mdl.get_input_dims_v2", desc, index)
        name = _whole_name(acl, desc, dims["name"])
        ports.append(Port(index, name if side == "input" else _onnx_name(name), DTYPES[code], tuple(dims["dims"]), size))
    return tuple(ports)


def _whole_name(acl: Acl, desc: int, name: str) -> str:
    """Return a tensor's name in full: names over 127 characters are kept elsewhere."""
    if not name.startswith("acl_modelId_"):
        return name
    return acl.function("mdl.get_tensor_real_name")(desc, name) or name


def _onnx_name(output: str) -> str:
    """Return an output's ONNX name, which may have colons: atc writes ``node:index:name``."""
    cut = _OUTPUT_NAME.fullmatch(output)
    return cut[1] if cut else output


def host_bytes(address: int, size: int) -> anybatch.Array:
    """Return a NumPy view, uint8 [size], on host memory that acl allocated."""
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)


def gear_of_dims(
    model: LoadedModel, rows_per_row: Mapping[str, int], batch_axis: Mapping[str, int | None]
) -> dict[int, Mapping[str, Any]]:
    """Return for each batch size what ``acl.mdl.set_input_dynamic_dims`` takes, of a model with ``--dynamic_dims``.

    Raises:
        ModelError: its gears differ in more than the batch; the message names the input.
    """
    gears: dict[int, Mapping[str, Any]] = {}
    for gear in model.dims_gears:
        values = list(gear["dims"])
        rows: set[float] = set()
        for port in model.inputs:
            shape, values = values[: len(port.dims)], values[len(port.dims) :]
            free = [axis for axis, size in enumerate(port.dims) if size == -1]
            fixed_fit = len(shape) == len(port.dims) and all(
                size in (-1, got) for size, got in zip(port.dims, shape, strict=True)
            )
            if not fixed_fit or len(free) > 1 or (free and batch_axis.get(port.name, free[0]) != free[0]):
                raise anybatch.ModelError(
                    f"input {port.name!r} {list(port.dims)}: expected gears (--dynamic_dims) that differ in its rows only, "
                    f"got {list(gear['dims'])}"
                )
            rows.update(shape[axis] / rows_per_row.get(port.name, 1) for axis in free)
        if len(rows) != 1 or not next(iter(rows)).is_integer():
            raise anybatch.ModelError(
                f"the gear {list(gear['dims'])} (--dynamic_dims) has no common number of rows ({sorted(rows)}); where one row "
                "of a request is several entries of an input, say so with rows_per_row={...}"
            )
        gears[int(next(iter(rows)))] = gear
    if len(gears) != len(model.dims_gears):
        raise anybatch.ModelError("two gears (--dynamic_dims) of the model have the same number of rows")
    return gears


def free_dims(dims: Sequence[int], factor: int) -> tuple[int | str, ...]:
    """Return dims with the symbol of the batch in place of -1."""
    return tuple((f"{factor}*rows" if factor > 1 else "rows") if size == -1 else size for size in dims)
