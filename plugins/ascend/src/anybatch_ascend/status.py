"""Status codes of pyACL -> our errors: whose move it is, the vendor's name, and what to do.

Codes and names: the error pages of Huawei's AscendCL reference, and the headers ``acl/error_codes`` of CANN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

import anybatch

Move: TypeAlias = Literal["caller", "model", "installation", "device"]


class Status(NamedTuple):
    """One status code.

    Attributes:
        name: the vendor's, without ``ACL_ERROR_``.
        move: whose move it is.
        advice: what to do, where there is something; else "".
    """

    name: str
    move: Move
    advice: str = ""


_RESTART: Final = "see `npu-smi info`; the card may need a reset"
_MEMORY: Final = "use fewer or smaller batch sizes, fewer slots, or a card with more free memory (`npu-smi info`)"
_MODEL: Final = "compile it again with the `atc` of the CANN that runs it"

STATUS: Final[Mapping[int, Status]] = {
    100000: Status("INVALID_PARAM", "device"),
    100001: Status("UNINITIALIZE", "device", "something in this process called acl.finalize while a runner was open"),
    100002: Status("REPEAT_INITIALIZE", "device"),
    100003: Status("INVALID_FILE", "caller", "look at the file that `acl_config` names"),
    100037: Status("REPEAT_FINALIZE", "device"),
    145000: Status("GE_PARAM_INVALID", "device"),
    145001: Status("GE_EXEC_NOT_INIT", "device", "something in this process called acl.finalize while a runner was open"),
    145002: Status("GE_EXEC_MODEL_PATH_INVALID", "model", "the file is missing or cannot be read"),
    145003: Status("GE_EXEC_MODEL_ID_INVALID", "device"),
    145006: Status("GE_EXEC_MODEL_DATA_SIZE_INVALID", "model", f"it is damaged or no .om file; {_MODEL}"),
    145007: Status("GE_EXEC_MODEL_ADDR_INVALID", "device"),
    145009: Status("GE_EXEC_LOAD_MODEL_REPEATED", "device"),
    145011: Status("GE_DYNAMIC_INPUT_ADDR_INVALID", "device"),
    145012: Status("GE_DYNAMIC_INPUT_LENGTH_INVALID", "device"),
    145013: Status("GE_DYNAMIC_BATCH_SIZE_INVALID", "device"),
    145014: Status("GE_AIPP_BATCH_EMPTY", "device"),
    145015: Status("GE_AIPP_NOT_EXIST", "model", "the model has no such AIPP: compile it with `insert_op_conf`"),
    145016: Status("GE_AIPP_MODE_INVALID", "model", "the model's AIPP is of the other kind, static or dynamic"),
    145021: Status("GE_SHAPE_INVALID", "device"),
    107000: Status("RT_PARAM_INVALID", "device"),
    107001: Status("RT_INVALID_DEVICEID", "caller", "`npu-smi info` lists the devices"),
    107002: Status("RT_CONTEXT_NULL", "device", "something in this process reset the device while a runner was open"),
    107003: Status("RT_STREAM_CONTEXT", "device"),
    107004: Status("RT_MODEL_CONTEXT", "device"),
    107006: Status("RT_EVENT_TIMESTAMP_INVALID", "device"),
    107011: Status("RT_STREAM_SUBSCRIBE", "device"),
    107012: Status("RT_THREAD_SUBSCRIBE", "device"),
    107015: Status("RT_STREAM_NO_CB_REG", "device"),
    107017: Status("RT_INVALID_HANDLE", "device"),
    107019: Status("RT_WAIT_TIMEOUT", "device"),
    200000: Status("BAD_ALLOC", "device", "the host is out of memory"),
    200001: Status("API_NOT_SUPPORT", "model", "the model's shapes are not fixed by gears: compile it with batch sizes"),
    207000: Status("RT_FEATURE_NOT_SUPPORT", "installation", "this card, or its driver, lacks the function"),
    207001: Status("RT_MEMORY_ALLOCATION", "device", _MEMORY),
    207002: Status("RT_MEMORY_FREE", "device"),
    207018: Status("RT_DEVICE_OOM", "device", _MEMORY),
    300000: Status("STORAGE_OVER_LIMIT", "model", "it has more gears than the runtime reads"),
    500000: Status("INTERNAL_ERROR", "device"),
    500001: Status("FAILURE", "device"),
    500002: Status("GE_FAILURE", "device"),
    500003: Status("RT_FAILURE", "device"),
    500004: Status("DRV_FAILURE", "installation", f"the driver failed; {_RESTART}"),
    507000: Status("RT_INTERNAL_ERROR", "device"),
    507007: Status("RT_CONTEXT_RELEASE_ERROR", "device"),
    507011: Status("RT_MODEL_EXECUTE", "device", "the model failed on the device; the log in ~/ascend/log says more"),
    507012: Status("RT_REPORT_TIMEOUT", "device"),
    507033: Status("RT_DEV_SETUP_ERROR", "installation", f"the device could not be set up; {_RESTART}"),
    507046: Status("RT_STREAM_SYNC_TIMEOUT", "device"),
    507047: Status("RT_EVENT_SYNC_TIMEOUT", "device"),
    507899: Status("RT_DRV_INTERNAL_ERROR", "device", _RESTART),
    545001: Status("GE_LOAD_MODEL", "model", _MODEL),
    545009: Status("GE_UNLOAD_MODEL", "device"),
}

#: Codes that mean something of their own from one function.
BY_FUNCTION: Final[Mapping[tuple[str, int], Status]] = {
    ("acl.init", 100000): Status(
        "INVALID_PARAM", "caller", "acl was initialized before in this process, with another configuration than `acl_config`"
    ),
}


class AclError(anybatch.AnybatchError):
    """Mixed into the errors of this plugin that come from a pyACL call.

    Attributes:
        function: the call, such as ``"acl.rt.malloc"``.
        code: what it returned.
        code_name: the vendor's name of the code, or ``"unknown"``.
        detail: the text of ``acl.get_recent_err_msg()``; "" where there was none.
    """

    function: str
    code: int
    code_name: str
    detail: str


class AclInputError(AclError, anybatch.InputError):
    """The caller's move: a device, a configuration file or an option does not fit."""


class AclModelError(AclError, anybatch.ModelError):
    """The file's: it is damaged, of another version, or of a kind that cannot be run."""


class AclUnavailableError(AclError, anybatch.BackendUnavailableError):
    """The installation's: driver or device could not be set up."""


class AclDeviceError(AclError, anybatch.DeviceError):
    """The runtime failed."""


_ERRORS: Final[Mapping[Move, type[AclInputError | AclModelError | AclUnavailableError]]] = {
    "caller": AclInputError,
    "model": AclModelError,
    "installation": AclUnavailableError,
}
_UNKNOWN: Final = Status("unknown", "device", "the code is not in the tables of CANN that this plugin knows")


def error_for(backend: str, function: str, code: int, detail: str = "", *, move: Move | None = None) -> AclError:
    """Return the error for a code that a call returned, ready to be raised.

    Args:
        backend: name of our backend.
        function: dotted name of the call.
        code: not 0.
        detail: the runtime's own message.
        move: whose move it is, where that is known; None: by the code.
    """
    status = BY_FUNCTION.get((function, code)) or STATUS.get(code, _UNKNOWN)
    said = "; ".join(part for part in (detail.strip(), status.advice) if part)
    message = f"{status.name}{': ' if said else ''}{said}"
    error: AclError
    kind = move or status.move
    if kind == "device":
        error = AclDeviceError(message, backend=backend, operation=function, status=code)
    else:
        error = _ERRORS[kind](f"{backend}: {function} failed (status {code}): {message}")
    error.function, error.code, error.code_name, error.detail = function, code, status.name, detail
    return error
