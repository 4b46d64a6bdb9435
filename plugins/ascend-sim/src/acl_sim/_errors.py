"""What can go wrong, and who is told.

Refused     the vendor answers with a code: `api` turns it into that function's return value, the client sees an int
Violation   the vendor leaves it undefined (class U of contracts/pyacl.md): memory would be corrupted, or the process
            would crash or hang. Strict mode raises it, tolerant mode writes it down and imitates the usual outcome
"""

from __future__ import annotations

from typing import Literal, TypeAlias

# What the vendor's error manager heads a report with: contracts/pyacl.md 1.6.
BAD_PARAMETER = "EH0001"
NULL_POINTER = "EH0002"
SHORT_BUFFER = "E13025"


#: What strict mode stops at; docs/acl-simulator.md says what each means.
Rule: TypeAlias = Literal[
    "AIPP input written",
    "bad AIPP parameters",
    "bad free",
    "callbacks lost",
    "device pointer",
    "dims without dimCount",
    "double free",
    "failed gear set",
    "gear and tensor desc",
    "gear in a data input",
    "gear input written",
    "host pointer",
    "no AIPP set",
    "no gear",
    "no gear set",
    "one model on two streams",
    "other context",
    "out of bounds",
    "pageable memory",
    "process_report never returns",
    "queued work uses this",
    "read before synchronising",
    "short buffer",
    "stale handle",
    "stop_thread",
    "stream destroyed",
    "synchronise never returns",
    "unknown handle",
    "unload while in use",
    "use after finalize",
    "use after free",
    "wild pointer",
    "wrong handle",
]


class Refused(Exception):  # noqa: N818 - it is not an error of ours: it carries the vendor's answer
    """The call is answered with `code`; `text` becomes the thread's recent error message, headed by `report`."""

    def __init__(self, code: int, text: str, report: str = BAD_PARAMETER) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text
        self.report = report


def null(what: str) -> Refused:
    """What to raise for a null pointer; `what` names it: "the stream"."""
    return Refused(INVALID_PARAM, f"{what} is null", NULL_POINTER)


class Violation(BaseException):
    """The program did something that hardware would not survive; `rule` names it, `text` says what and where.

    Derived from BaseException on purpose: pyACL programs wrap calls in `except Exception`, and what would have been a
    crash must not pass there for a handled error. A bare `except:` still hides it, but the ledger keeps it, and
    `python -m acl_sim --check` then exits with 3.
    """

    def __init__(self, rule: Rule, text: str) -> None:
        super().__init__(f"[{rule}] {text}")
        self.rule = rule
        self.text = text


class NotSimulated(NotImplementedError):  # noqa: N818  # named for what it says, like Violation
    """The real `acl` has this function, the simulator does not: the one clear answer, instead of an AttributeError later.

    A NotImplementedError, since that is what clients and test runners expect of something left out on purpose.
    """


NONE = 0
INVALID_PARAM = 100000
UNINITIALIZE = 100001
REPEAT_INITIALIZE = 100002
INVALID_FILE = 100003
REPEAT_FINALIZE = 100037
RT_PARAM_INVALID = 107000
RT_INVALID_DEVICEID = 107001
RT_CONTEXT_NULL = 107002
RT_STREAM_CONTEXT = 107003
RT_EVENT_TIMESTAMP_INVALID = 107006
RT_STREAM_SUBSCRIBE = 107011
RT_THREAD_SUBSCRIBE = 107012
RT_STREAM_NO_CB_REG = 107015
RT_INVALID_HANDLE = 107017
RT_FEATURE_NOT_SUPPORT = 207000
RT_MEMORY_ALLOCATION = 207001
RT_INTERNAL_ERROR = 507000
RT_CONTEXT_RELEASE_ERROR = 507007
RT_REPORT_TIMEOUT = 507012
RT_STREAM_SYNC_TIMEOUT = 507046
RT_EVENT_SYNC_TIMEOUT = 507047
RT_DRV_INTERNAL_ERROR = 507899
