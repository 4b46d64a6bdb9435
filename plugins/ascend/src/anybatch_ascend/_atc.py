"""The vendor's converter ``atc``: finding it, running it, and what its errors mean.

Its output is read as it comes, its exit status and error codes become our errors, and it never outlives the call: it runs in
a process group of its own, which ends with it, whatever it had started.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import anybatch

_INSTALLED: Final = "/usr/local/Ascend/ascend-toolkit/latest/bin/atc"
_HINT: Final = (
    f"it comes with Huawei's CANN toolkit, usually as {_INSTALLED}; "
    "`source /usr/local/Ascend/ascend-toolkit/set_env.sh` sets its environment (or ~/Ascend, where one user installed it)"
)
_VERSION_FILES: Final = ("version.info", "version.cfg", "ascend_toolkit_install.info")
_ENDING_S: Final = 5.0
_CODE: Final = re.compile(r"\b(E[0-9A-Z]\d{4})\b\)?:?\s*")
_STAMP: Final = re.compile(r"^\[PID: \d+\]\s+\S+\s+")
_MARKS: Final = ("Possible Cause:", "Solution:", "TraceBack (most recent call last):")
_FAILED: Final = "ATC run failed"
_INTERNAL: Final = "E19999"
# What a shell or the dynamic linker says where the environment of the toolkit is not set.
_NO_ENVIRONMENT: Final = re.compile(
    r"error while loading shared libraries|No module named '(?:te|tbe|tvm|opc_tool|auto_tune)\b"
)

_CALLER: Final = "caller"
_MODEL: Final = "model"
# Whose move it is, by the beginning of the code, the longest that fits. The command line is made of what the caller asked
# for, after checks of ours; the rest is the model, or what this compiler can do with it.
_MOVES: Final = {
    "E10": _CALLER,  # arguments: options, shapes, gears
    "E10501": _MODEL,  # an operator is not registered
    "E13": _MODEL,  # files: the model cannot be read, the result not be written
    "E16": _MODEL,  # the parser of ONNX
    "E19999": _MODEL,  # anything internal
    "E2": _MODEL,  # an operator does not compile
}


class AtcError(anybatch.AnybatchError):
    """``atc`` failed. Always one of its two kinds, `AtcInputError` or `AtcModelError`.

    Attributes:
        code: the vendor's error code, such as ``"E10016"``; None where it gave none.
        message: the vendor's message.
        possible_cause: the vendor's, "" where it gave none.
        solution: the vendor's, "" where it gave none.
        text: all that ``atc`` printed; also a note of the exception, so that tracebacks and the command line show it.
    """

    def __init__(self, problem: Problem, text: str) -> None:
        parts = [f"atc failed: {problem.code + ': ' if problem.code else ''}{problem.message}"]
        parts += [f"possible cause: {problem.possible_cause}"] * bool(problem.possible_cause)
        parts += [f"solution: {problem.solution}"] * bool(problem.solution)
        super().__init__("; ".join(part.rstrip(".") for part in parts))
        self.code = problem.code
        self.message = problem.message
        self.possible_cause = problem.possible_cause
        self.solution = problem.solution
        self.text = text
        self.__notes__ = [text] if text else []  # add_note() came with Python 3.11


class AtcInputError(AtcError, anybatch.InputError):
    """``atc`` refuses an option, a shape or a batch size."""


class AtcModelError(AtcError, anybatch.ModelError):
    """``atc`` cannot read or compile the model."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What an error block of ``atc`` says; `code` is None where there is none."""

    code: str | None
    message: str
    possible_cause: str = ""
    solution: str = ""


def find_atc(command: Sequence[str] | None) -> list[str]:
    """Return the command that runs ``atc``, its program as an absolute path.

    Args:
        command: program and leading arguments; None is the ``atc`` on the PATH.

    Raises:
        BackendUnavailableError: there is no such program; the message says where it comes from.
    """
    program, *arguments = command or ["atc"]
    found = shutil.which(program)
    if found is not None:
        return [str(Path(found).absolute()), *arguments]
    if command:
        raise anybatch.BackendUnavailableError(f"atc: there is no program {program!r} to run; {_HINT}")
    homes = [os.environ.get(name) for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")]
    for place in (*(Path(home, "bin", "atc") for home in homes if home), Path(_INSTALLED)):
        if place.is_file():
            raise anybatch.BackendUnavailableError(
                f"atc is installed as {place}, but not on the PATH, so its environment is not set: source the set_env.sh "
                f"of that toolkit first, such as {place.parents[2]}/set_env.sh"
            )
    raise anybatch.BackendUnavailableError(f"atc, the converter for Ascend, is not on the PATH: {_HINT}")


def identity(command: Sequence[str]) -> str:
    """Return a text that changes when another ``atc`` is installed: what its files and version files are.

    ``atc`` prints no version. So: the path, size and time of each file in the command, of the package of ``python -m package``,
    and the content of the version files of the toolkit around it.
    """
    lines = [repr(list(command))]
    for word in command:
        path = Path(word)
        if path.is_absolute() and path.is_file():
            lines.append(_stamp(path))
            near = (folder / name for folder in path.resolve().parents[:4] for name in _VERSION_FILES)
            lines += [f"{file} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in near if file.is_file()]
    if command[0] == sys.executable and "-m" in command[1:-1]:
        spec = importlib.util.find_spec(command[command.index("-m") + 1].partition(".")[0])
        for folder in (spec.submodule_search_locations if spec else None) or ():
            lines += [_stamp(file) for file in sorted(Path(folder).glob("*.py"))]
    return "\n".join(lines)


def _stamp(path: Path) -> str:
    state = path.stat()
    return f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"


def run_atc(
    command: Sequence[str],
    flags: Sequence[str],
    *,
    folder: Path,
    timeout_s: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Run ``atc`` to its end.

    Args:
        command: see `find_atc`.
        flags: its arguments; paths in them absolute.
        folder: its working directory, where it leaves files of its own.
        timeout_s: how long it may take; None for any time.
        progress: called with each line that it prints.

    Raises:
        AtcError: it failed, was killed, or took too long.
        BackendUnavailableError: it could not be started.
        Exception: whatever interrupted this call. In every case its processes have ended.
    """
    try:
        process = subprocess.Popen(  # a list, and no shell
            [*command, *flags],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # so that what it starts ends with it, and Ctrl-C reaches us alone
        )
    except OSError as error:
        raise anybatch.BackendUnavailableError(f"atc: {command[0]!r} cannot be started: {error.strerror or error}") from error
    lines: list[str] = []
    try:
        for line in _lines(process, timeout_s):
            lines.append(line)
            if progress is not None and line.strip():
                progress(line)
        status = process.wait(timeout_s)  # it may close its output and go on
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        problem = Problem(None, f"it took longer than the {timeout_s:g} s of compile_timeout_s and was ended")
        raise AtcModelError(problem, "\n".join(lines)) from error
    finally:
        _end(process)
    if status != 0:
        raise error_of("\n".join(lines), status)


def _lines(process: subprocess.Popen[str], timeout_s: float | None) -> Iterator[str]:
    """Yield lines until the end of the output, or until shortly after that of the process, whose children may hold it open.

    Raises:
        TimeoutError: the time is over.
    """
    deadline = None if timeout_s is None else monotonic() + timeout_s
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process, arrived), daemon=True).start()
    ended = False
    while True:
        left = 0.5 if deadline is None else min(deadline - monotonic(), 0.5)
        if left <= 0:
            raise TimeoutError
        try:
            line = arrived.get(timeout=left)
        except queue.Empty:
            if ended:
                return
            ended = process.poll() is not None
            continue
        if line is None:
            return
        yield line


def _pump(process: subprocess.Popen[str], arrived: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None  # it is a pipe
    with process.stdout:
        for line in process.stdout:
            arrived.put(line.rstrip("\n"))
    arrived.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and all it started; at once where it has ended already."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_S)
    _signal(process, signal.SIGKILL)  # what it left behind too
    process.wait()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # nobody is left in the group
        return


def error_of(text: str, status: int) -> Exception:
    """Return the error for what ``atc`` printed and its exit status (negative: the signal that killed it)."""
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        hint = "; the machine may have run out of memory" if -status == signal.SIGKILL else ""
        return AtcModelError(Problem(None, f"it was killed by {name}{hint}"), text)
    if status in (126, 127) or _NO_ENVIRONMENT.search(text):
        lines = [line for line in text.splitlines() if _NO_ENVIRONMENT.search(line)] or text.splitlines()[-1:]
        reason = lines[0].strip() if lines else f"exit status {status}"
        return anybatch.BackendUnavailableError(f"atc does not run here: {reason}; the environment of CANN is not set: {_HINT}")
    problem = parse(text)
    refused = next((line for line in text.splitlines() if line.startswith("ERROR: ")), None)
    if refused is not None and problem.code in (None, _INTERNAL):
        return AtcInputError(Problem(problem.code, f"{refused.removeprefix('ERROR: ')}; see atc_options"), text)
    if problem.code is None:
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
        return AtcModelError(Problem(None, f"exit status {status} without an error code: {last}"), text)
    fitting = [prefix for prefix in _MOVES if problem.code.startswith(prefix)]
    kind = AtcInputError if fitting and _MOVES[max(fitting, key=len)] == _CALLER else AtcModelError
    return kind(problem, text)


def parse(text: str) -> Problem:
    """Return what the first error block in the output says, in whichever of the vendor's forms it is.

    ``[PID: 1] <time> <Title>(E10016): <message>``, or ``E20001: [PID: 1] <time> <message>``; then perhaps
    ``Possible Cause:``, ``Solution:`` and ``TraceBack``, each perhaps over several lines. An internal error's message is in its
    trace.
    """
    lines = text.splitlines()
    failed = next((at for at, line in enumerate(lines) if _FAILED in line), 0)  # a file name above may look like a code
    found = ((at, _CODE.search(lines[at])) for at in (*range(failed, len(lines)), *range(failed)))
    start, match = next(((at, code) for at, code in found if code), (0, None))
    if match is None:
        return Problem(None, "")
    parts: dict[str, list[str]] = {mark: [] for mark in ("", *_MARKS)}
    current = ""
    for line in (lines[start][match.end() :], *lines[start + 1 :]):
        line = _STAMP.sub("", line.strip())
        mark = next((mark for mark in _MARKS if line.startswith(mark)), None)
        if mark is not None:
            current, line = mark, line.removeprefix(mark).strip()
        if line:
            parts[current].append(line)
    message, cause, solution, trace = (
        " ".join(parts[mark]) if mark != _MARKS[2] else parts[mark][:1] for mark in ("", *_MARKS)
    )
    if match[1] == _INTERNAL and trace:
        message = f"{message} {trace[0]}"
    return Problem(match[1], str(message), str(cause), str(solution))
