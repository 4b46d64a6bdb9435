"""What PopRT raises -> our errors: whose move it is, of which kind, and what to do.

PopRT has no codes: it raises RuntimeError with a text. The kinds are told by that text, as far as texts are published or
follow from the layers below, and else by the call that failed. Decision: what no rule knows is a DeviceError with the
runtime's own text, except while a model is compiled or loaded, which mostly says something about the model, or, where it is a
TypeError or a ValueError, about the options.
Source: Graphcore, PopRT user guide 1.5.0, "Error handling"; the out-of-memory text is the one its tools parse.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

import anybatch

Kind: TypeAlias = Literal[
    "no device",
    "wrong hardware",
    "out of memory",
    "timeout",
    "application error",
    "reset",
    "bad request",
    "bad model",
    "other",
]
Move: TypeAlias = Literal["caller", "model", "installation", "device"]


class Rule(NamedTuple):
    """How a kind of error is known, and what it means.

    Attributes:
        kind: as `PoprtError.kind` has it.
        pattern: what its text contains.
        move: whose move it is; None where that depends on the call.
        advice: what to do.
    """

    kind: Kind
    pattern: re.Pattern[str]
    move: Move | None
    advice: str


def _rule(kind: Kind, pattern: str, move: Move | None, advice: str) -> Rule:
    return Rule(kind, re.compile(pattern, re.IGNORECASE), move, advice)


# The first that fits counts.
RULES: Final[tuple[Rule, ...]] = (
    _rule(
        "out of memory",
        r"out of memory",
        None,
        "use a smaller batch size, a lower available_memory_proportion, precision='fp16', or more IPUs "
        "(compiler_options={'num_ipus': ...})",
    ),
    _rule(
        "wrong hardware",
        r"(package|poplar) hash|(hardware|ipu|target|arch\w*)[ _]?version|(compiled|built) for (an? )?['\"]?ipu\d",
        "model",
        "compile it with the PopRT that runs it, for this machine's hardware: ipu_version='ipu21' for C600 cards, 'ipu2' for "
        "M2000 and Bow machines",
    ),
    _rule(
        "no device",
        r"no (\w+ )*(device|ipu)s?\b|(device|ipu)s? (is|are|was|were)? ?(not (available|found)|busy|in use|unavailable)"
        r"|(could not|cannot|can't|unable to|fail(ed|ure) to) (attach|acquire|get|find|open|load on) (\w+ )*(device|ipu)",
        "installation",
        "an IPU holds one model at a time: close the runner or end the process that has it; `gc-monitor` shows who that is",
    ),
    _rule(
        "application error",
        r"application[ _](runtime[ _])?error",
        "device",
        "the program failed on the IPU, mostly for an operation or a value the model does not allow; open it anew, or set "
        "runtime_options={'auto_reset': True}",
    ),
    _rule(
        "reset",
        r"\breset|recoverable|IPU_RESET|LINK_RESET|FULL_RESET",
        "device",
        "the IPU needs a reset: set runtime_options={'auto_reset': True}, or `gc-reset` it; then send the request again",
    ),
    _rule(
        "timeout",
        r"time[ds]?[ -]?out|deadlock",
        "device",
        "rows were waited for that never came, or the IPU hangs: look at `gc-monitor`, and at timeout_ns",
    ),
    _rule(
        "bad model",
        r"popef|\bonnx\b|unsupported|not supported|not implemented|no such file|cannot (be )?(open|read)|shape inference",
        None,
        "",
    ),
)

_TILE: Final = re.compile(r"out of memory on tile (\d+): (\d+) bytes", re.IGNORECASE)
# While these run, what fails mostly lies in the model.
_ABOUT_THE_MODEL: Final = re.compile(r"\.(converter|compiler)\.|\.runtime\.(Model)?Runner$")


class PoprtError(anybatch.AnybatchError):
    """Mixed into the errors of this plugin that come from a PopRT call.

    Attributes:
        function: the call, such as ``"poprt.runtime.Runner.execute"``.
        kind: one of the kinds above.
        detail: the runtime's own text.
        tile: of an out-of-memory error, the tile it names; else None.
        size_bytes: of an out-of-memory error, the bytes it names; else None.
    """

    function: str = ""
    kind: Kind = "other"
    detail: str = ""
    tile: int | None = None
    size_bytes: int | None = None


class PoprtInputError(PoprtError, anybatch.InputError):
    """The caller's move: an option or an array does not fit."""


class PoprtModelError(PoprtError, anybatch.ModelError):
    """The file's: it is damaged, for other hardware, or cannot be compiled."""


class PoprtUnavailableError(PoprtError, anybatch.BackendUnavailableError):
    """The installation's: PopRT is missing or too old, or there is no free IPU."""


class PoprtDeviceError(PoprtError, anybatch.DeviceError):
    """The runtime failed."""


def error_for(backend: str, function: str, cause: Exception) -> PoprtError:
    """Return the error for what a call raised, ready to be raised from it.

    Args:
        backend: name of our backend.
        function: dotted name of the call, with ``poprt.``.
        cause: what it raised.
    """
    # A KeyError shows what it holds with quotes around it, which for a text are one pair too many.
    text = cause.args[0] if isinstance(cause, KeyError) and cause.args else cause
    detail = str(text).strip() or type(cause).__name__
    rule = next((rule for rule in RULES if rule.pattern.search(detail)), None)
    refused = isinstance(cause, (TypeError, ValueError))
    kind: Kind = rule.kind if rule else "bad request" if refused else "other"
    move: Move | None = rule.move if rule else None
    if move is None:
        move = "device" if not _ABOUT_THE_MODEL.search(function) else "caller" if refused and not rule else "model"
    place = _TILE.search(detail)
    message = detail
    if rule and rule.advice:
        message += f"; {rule.advice}"
    error: PoprtError
    if move == "device":
        error = PoprtDeviceError(message, backend=backend, operation=function, status=None if kind == "other" else kind)
    else:
        chosen = {"caller": PoprtInputError, "model": PoprtModelError, "installation": PoprtUnavailableError}[move]
        what = "" if kind == "other" else f" ({kind})"
        error = chosen(f"{backend}: {function} failed{what}: {message}")
    error.function, error.kind, error.detail = function, kind, detail
    error.tile, error.size_bytes = (int(place[1]), int(place[2])) if place else (None, None)
    return error
