"""`acl.util`: addresses of Python objects, and threads. contracts/pyacl.md 1.5 and 4.4; exactly seven functions."""

from __future__ import annotations

import ctypes
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from acl_sim._errors import RT_PARAM_INVALID, Refused
from acl_sim._machine import HANDLE, PAIR, api, constant, machine
from acl_sim._reports import ENDED

__all__ = [
    "bytes_to_ptr",
    "numpy_contiguous_to_ptr",
    "numpy_to_ptr",
    "ptr_to_bytes",
    "ptr_to_numpy",
    "start_thread",
    "stop_thread",
]

_NUMPY_TYPES: dict[int, type] = {
    0: np.bool_,
    1: np.int8,
    2: np.uint8,
    3: np.int16,
    4: np.uint16,
    5: np.int32,
    6: np.uint32,
    7: np.int64,
    8: np.uint64,
    9: np.longlong,
    10: np.ulonglong,
    11: np.float32,
    12: np.float64,
    23: np.float16,
}


def __dir__() -> list[str]:
    return list(__all__)


@api("acl.util.bytes_to_ptr", "O", failed=HANDLE)
def bytes_to_ptr(data: Any) -> int:
    """The real address of the object's bytes. The last few objects are kept alive: clients pass temporaries."""
    if not isinstance(data, bytes):
        raise ValueError(f"acl.util.bytes_to_ptr: expected bytes, got {type(data).__name__}")
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    machine().memory.keep(data, address, len(data))
    return address


@api("acl.util.ptr_to_bytes", "kk", failed=constant(b""))
def ptr_to_bytes(address: int, size: int) -> bytes:
    """A copy of host-readable bytes."""
    here = machine()
    here.check_not_in_flight(address, size, "ptr_to_bytes")
    return here.memory.read(address, size, "ptr_to_bytes", side="host")


def _deprecated(name: str, instead: str) -> None:
    warnings.warn(f"acl.util.{name} is deprecated: use {instead}", Warning, stacklevel=4)


def _array(name: str, array: Any) -> Any:
    if not isinstance(array, np.ndarray):
        raise ValueError(f"acl.util.{name}: expected a numpy array, got {type(array).__name__}")
    return array


def _keep(array: Any) -> int:
    """Note the whole memory that the array is a view of; returns the address of the array's first element."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    low, high = np.lib.array_utils.byte_bounds(whole)
    machine().memory.keep(array, int(low), int(high) - int(low))
    return int(array.ctypes.data)


@api("acl.util.numpy_to_ptr", "O", failed=HANDLE)
def numpy_to_ptr(array: Any) -> int:
    """The address of an array's first element. Deprecated: warns on every call."""
    _deprecated("numpy_to_ptr", "bytes_to_ptr")
    array = _array("numpy_to_ptr", array)
    if not array.flags.c_contiguous:
        warnings.warn("acl.util.numpy_to_ptr: the array is not contiguous", Warning, stacklevel=3)
    return _keep(array)


@api("acl.util.numpy_contiguous_to_ptr", "O", failed=constant((0, None)))
def numpy_contiguous_to_ptr(array: Any) -> tuple[int, Any]:
    """`(address, the contiguous array it belongs to)`. Deprecated: warns."""
    _deprecated("numpy_contiguous_to_ptr", "bytes_to_ptr")
    contiguous = np.ascontiguousarray(_array("numpy_contiguous_to_ptr", array))
    return _keep(contiguous), contiguous


@api("acl.util.ptr_to_numpy", "kOi", failed=constant(None))
def ptr_to_numpy(address: int, shape: Any, npy_type: int) -> Any:
    """A writable view of host-reachable memory. Deprecated: warns.

    Decision: an unknown type number, and a negative dim, are a ValueError as an empty shape is; dims may be bools, as for the
    letter k; a view that tolerant mode cannot give whole is None.
    """
    _deprecated("ptr_to_numpy", "ptr_to_bytes")
    if not isinstance(shape, tuple) or not shape:
        raise ValueError("acl.util.ptr_to_numpy: shape is empty")
    if not all(isinstance(dim, int) for dim in shape):
        raise TypeError("acl.util.ptr_to_numpy: shape must be a tuple of int")
    if npy_type not in _NUMPY_TYPES:
        raise ValueError(f"acl.util.ptr_to_numpy: unknown numpy type {npy_type}")
    dtype = np.dtype(_NUMPY_TYPES[npy_type])
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size < 0:
        raise ValueError(f"acl.util.ptr_to_numpy: negative shape {shape}")
    here = machine()
    here.check_not_in_flight(address, size, "ptr_to_numpy")
    data = here.memory.view(address, size, "ptr_to_numpy", side="host")
    if len(data) < size:
        raise Refused(RT_PARAM_INVALID, f"ptr_to_numpy: {size} bytes asked, {len(data)} there")
    return np.frombuffer(data, dtype).reshape([int(dim) for dim in shape])  # numpy takes no bools for dims


class _Thread(threading.Thread):
    """A thread of start_thread: a daemon, since a bare pthread does not keep its process alive either.

    It stays, parked, until it is joined: as with a pthread, nobody else gets its id before that.
    """

    def __init__(self, function: Callable[..., Any], args: Any) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._args_object = args
        self.failure: BaseException | None = None
        self.cursor = 0.0
        self.finished = threading.Event()
        self.joined = threading.Event()

    def run(self) -> None:
        try:
            if self._args_object is None:
                self._function()
            else:
                self._function(self._args_object)
        except BaseException as error:
            self.failure = error
            traceback.print_exc()
        ident = threading.get_ident()
        here = machine()
        with here.lock:
            known = here.clock.threads.pop(ident, None)
            self.cursor = known.cursor if known is not None else 0.0
            ENDED.add(ident)
            here.lock.notify_all()
        self.finished.set()
        self.joined.wait()


_threads: dict[int, _Thread] = {}


@api("acl.util.start_thread", "OO", failed=PAIR, gil=False, locked=False)
def start_thread(function: Any, args: Any) -> tuple[int, int]:
    """Run `function(args)`, or `function()` for None, in a new thread: `(pthread id, ret)`.

    As on the original, SIGINT goes back to its default action. Decision: from the main thread only, Python lets no other.
    """
    if not callable(function):
        raise TypeError("acl.util.start_thread: parameter must be callable")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    thread = _Thread(function, args)
    thread.start()
    assert thread.ident is not None
    _threads[thread.ident] = thread
    return thread.ident, 0


@api("acl.util.stop_thread", "K", gil=False, locked=False)
def stop_thread(ident: int) -> int:
    """Join a thread of `start_thread`; it is not stopped by this.

    Decision: an id that start_thread did not give, or that was joined before, is a violation, 107000 in tolerant mode.

    Raises:
        RuntimeError: its function had raised.
    """
    here = machine()
    thread = _threads.pop(ident, None)
    if thread is None:
        with here.lock:
            here.violate("stop_thread", f"{ident} is no thread of start_thread, or was joined before")
            raise Refused(RT_PARAM_INVALID, f"stop_thread: unknown thread {ident}")
    with here.lock:
        own = here.clock.thread()
        own.state = "waiting"
    thread.finished.wait()
    ENDED.discard(ident)
    thread.joined.set()
    thread.join()
    with here.lock:
        own.state = "running"
        own.cursor = max(own.cursor, thread.cursor)
        here.clock.catch_up(own)
    if thread.failure is not None:
        raise RuntimeError(f"exception={type(thread.failure).__name__},msg=thread call failed;") from thread.failure
    return 0
