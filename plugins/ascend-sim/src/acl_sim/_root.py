"""The functions of `acl` itself: process, messages, data buffers, tensor descs, float16. contracts/pyacl.md 1.1."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from acl_sim._buffers import DATA_TYPE_SIZES, UNKNOWN_TYPE_SIZE, DataBuffer, TensorDesc
from acl_sim._errors import INVALID_FILE, INVALID_PARAM, REPEAT_FINALIZE, REPEAT_INITIALIZE, Refused, null
from acl_sim._machine import HANDLE, PAIR, api, constant, machine, shape


@api("acl.init", "|s")
def init(config_path: str = "") -> int:
    """Start acl; a second init answers 100002 and counts. The path names a JSON file; "" is no configuration."""
    process = machine().process
    content = b""
    if config_path:
        try:
            content = Path(config_path).read_bytes()
            json.loads(content)
        except (OSError, ValueError) as error:
            raise Refused(INVALID_FILE, f"configuration {config_path!r}: {error}") from None
    if process.config is not None and content != process.config:
        raise Refused(INVALID_PARAM, "the configuration differs from the first one of this process")
    process.config = content
    process.ever = True
    process.references += 1
    if process.references > 1:
        raise Refused(REPEAT_INITIALIZE, "acl.init was called before")
    return 0


@api("acl.finalize", "")
def finalize() -> int:
    """End acl, however often it was begun. A second time 100037; before any init 0."""
    process = machine().process
    if not process.ever:
        return 0
    if process.references == 0:
        raise Refused(REPEAT_FINALIZE, "acl.finalize was called before")
    process.references = 0
    return 0


@api("acl.finalize_reference", "", failed=PAIR)
def finalize_reference() -> tuple[int, int]:
    """Take back one init: `(references left, ret)`; 100037 when there is none."""
    process = machine().process
    if process.references == 0:
        raise Refused(REPEAT_FINALIZE, "no acl.init to take back")
    process.references -= 1
    return process.references, 0


@api("acl.get_soc_name", "", failed=constant(None))
def get_soc_name() -> str | None:
    """The chip's name, as configured."""
    return machine().config.soc_name


@api("acl.get_version", "", failed=shape(0, 0, 0))
def get_version() -> tuple[int, int, int, int]:
    """`(major, minor, patch, ret)` of the acl interface."""
    return 1, 0, 0, 0


@api("acl.get_recent_err_msg", "", failed=constant(None))
def get_recent_err_msg() -> str | None:
    """The thread's last message, which is then forgotten; None without one."""
    thread = machine().clock.thread()
    message, thread.message = thread.message, None
    return message


@api("acl.app_log", "is", failed=constant(None))
def app_log(level: int, text: str) -> None:
    """Log a line: on stderr if ASCEND_SLOG_PRINT_TO_STDOUT is 1, else nowhere."""
    if os.environ.get("ASCEND_SLOG_PRINT_TO_STDOUT") == "1":
        name = {0: "DEBUG", 1: "INFO", 2: "WARNING", 3: "ERROR"}.get(level, str(level))
        print(f"[{name}] APP: {text}", file=sys.stderr)


@api("acl.data_type_size", "i", failed=constant(0))
def data_type_size(data_type: int) -> int:
    """Bytes per element."""
    return DATA_TYPE_SIZES.get(data_type, UNKNOWN_TYPE_SIZE)


@api("acl.create_data_buffer", "kk", failed=HANDLE)
def create_data_buffer(address: int, size: int) -> int:
    """A data buffer's handle; nothing is checked."""
    return machine().handles.new("data buffer", DataBuffer(address, size))


@api("acl.destroy_data_buffer", "k")
def destroy_data_buffer(handle: int) -> int:
    """Drop the descriptor, never the memory behind it."""
    if handle == 0:
        raise null("the data buffer")
    machine().handles.drop("data buffer", handle)
    return 0


@api("acl.update_data_buffer", "kkk")
def update_data_buffer(handle: int, address: int, size: int) -> int:
    """Point the buffer elsewhere, in every dataset that holds it."""
    if handle == 0:
        raise null("the data buffer")
    buffer: DataBuffer = machine().handles.get("data buffer", handle)
    buffer.address, buffer.size = address, size
    return 0


def _buffer(handle: int) -> DataBuffer:
    if handle == 0:
        return DataBuffer(0, 0)
    buffer: DataBuffer = machine().handles.get("data buffer", handle)
    return buffer


@api("acl.get_data_buffer_addr", "k", failed=HANDLE)
def get_data_buffer_addr(handle: int) -> int:
    """The address; 0 for a null buffer."""
    return _buffer(handle).address


@api("acl.get_data_buffer_size", "k", failed=HANDLE)
def get_data_buffer_size(handle: int) -> int:
    """The lower 32 bits of the size; 0 for a null buffer."""
    return _buffer(handle).size & 0xFFFF_FFFF


@api("acl.get_data_buffer_size_v2", "k", failed=HANDLE)
def get_data_buffer_size_v2(handle: int) -> int:
    """The size; 0 for a null buffer."""
    return _buffer(handle).size


@api("acl.create_tensor_desc", "iOi", failed=HANDLE)
def create_tensor_desc(data_type: int, dims: Any, tensor_format: int) -> int:
    """A tensor desc's handle; `dims` must be a list of ints."""
    if not isinstance(dims, list):
        raise TypeError("acl.create_tensor_desc: argument 2 is not list")
    if not all(isinstance(dim, int) for dim in dims):
        raise TypeError("acl.create_tensor_desc: argument 2 is not a list of int")
    return machine().handles.new("tensor desc", TensorDesc(data_type, [int(dim) for dim in dims], tensor_format))


@api("acl.destroy_tensor_desc", "k", failed=constant(None))
def destroy_tensor_desc(handle: int) -> None:
    """Drop the desc; a null one is nothing to do."""
    if handle:
        machine().handles.drop("tensor desc", handle)


def _desc(handle: int) -> TensorDesc:
    if handle == 0:
        raise null("the tensor desc")
    desc: TensorDesc = machine().handles.get("tensor desc", handle)
    return desc


@api("acl.get_tensor_desc_size", "k", failed=HANDLE)
def get_tensor_desc_size(handle: int) -> int:
    """Bytes of the tensor."""
    return _desc(handle).size


@api("acl.get_tensor_desc_type", "k", failed=constant(-1))
def get_tensor_desc_type(handle: int) -> int:
    """AclDataType."""
    return _desc(handle).data_type


@api("acl.get_tensor_desc_format", "k", failed=constant(-1))
def get_tensor_desc_format(handle: int) -> int:
    """AclFormat."""
    return _desc(handle).format


@api("acl.get_tensor_desc_num_dims", "k", failed=HANDLE)
def get_tensor_desc_num_dims(handle: int) -> int:
    """Number of dims."""
    return len(_desc(handle).dims)


@api("acl.get_tensor_desc_element_count", "k", failed=HANDLE)
def get_tensor_desc_element_count(handle: int) -> int:
    """Number of elements."""
    return _desc(handle).element_count


def _dim(handle: int, index: int) -> int:
    dims = _desc(handle).dims
    if index >= len(dims):
        raise Refused(INVALID_PARAM, f"dim {index} of a tensor desc with {len(dims)} dims")
    return dims[index]


@api("acl.get_tensor_desc_dim", "kk", failed=constant(-1))
def get_tensor_desc_dim(handle: int, index: int) -> int:
    """One dim; decision: -1 out of range."""
    return _dim(handle, index)


@api("acl.get_tensor_desc_dim_v2", "kk", failed=PAIR)
def get_tensor_desc_dim_v2(handle: int, index: int) -> tuple[int, int]:
    """`(dim, ret)`."""
    return _dim(handle, index), 0


@api("acl.set_tensor_desc_name", "ks", failed=constant(None))
def set_tensor_desc_name(handle: int, name: str) -> None:
    """Name the desc."""
    if handle:
        _desc(handle).name = name


@api("acl.float16_to_float", "H", failed=constant(0.0))
def float16_to_float(bits: int) -> float:
    """The value of a half given by its bits."""
    return float(np.uint16(bits).view(np.float16))


@api("acl.float_to_float16", "f", failed=HANDLE)
def float_to_float16(value: float) -> int:
    """The bits of the half nearest to `value`; too large becomes infinity."""
    with np.errstate(over="ignore"):
        return int(np.float16(value).view(np.uint16))
