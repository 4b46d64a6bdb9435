"""Run an unmodified pyACL program on the simulator: `python -m acl_sim [OPTIONS] PROGRAM ARGS...`.

The exit status is the program's, or 3 if `--check` was given and something leaked or was violated.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import runpy
import sys
import threading
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

from acl_sim import _serve
from acl_sim._ledger import Ledger
from acl_sim._machine import Config, replace_machine

CHECK_FAILED = 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m acl_sim", description="Run a pyACL program without a card.")
    parser.add_argument("--tolerant", action="store_true", help="write undefined behaviour down and go on")
    parser.add_argument("--device-time", metavar="MODEL", help='"none", "310p", affine:US,US_PER_ROW, or a JSON file')
    parser.add_argument("--devices", type=int, metavar="N", help="number of cards")
    parser.add_argument("--run-mode", choices=("host", "device"), help="a card in a host, or a board")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write the ledger there as JSON")
    parser.add_argument("--check", action="store_true", help=f"exit with {CHECK_FAILED} after leaks or violations")
    parser.add_argument("-m", dest="module", action="store_true", help="PROGRAM is a module's name")
    parser.add_argument("program", metavar="PROGRAM")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="ARGS")
    return parser


def _status(error: BaseException | None) -> int:
    """The exit status that Python itself would have given."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return int(error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    tail = error.__traceback__
    while tail is not None and _is_machinery(tail.tb_frame.f_code):
        tail = tail.tb_next
    traceback.print_exception(type(error), error, tail)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _is_machinery(code: CodeType) -> bool:
    return code.co_filename == __file__ or "runpy" in code.co_filename


def _execute(program: str, module: bool) -> int:
    """Run the program to its end and let go of everything it held, so that its `__del__` methods have run."""
    try:
        namespace: Any
        if module:
            namespace = runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            namespace = runpy.run_path(program, run_name="__main__")
        del namespace
        status = _status(None)
    except BaseException as error:
        status = _status(error)
    gc.collect()
    return status


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring; returns the exit status."""
    options = _parser().parse_args(argv)
    changes: dict[str, Any] = {"strict": False} if options.tolerant else {}
    for name in ("device_time", "devices", "run_mode"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    machine = replace_machine(Config.from_environment(), **changes)
    _serve.install()
    sys.argv = [options.program, *options.args]
    if options.module:
        sys.path.insert(0, str(Path.cwd()))
    else:
        sys.path.insert(0, str(Path(options.program).resolve().parent))
    status = _execute(options.program, options.module)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    # Programs free things at exit, too: only what is left after that has leaked.
    atexit._run_exitfuncs()
    gc.collect()
    with machine.lock:
        return _close(machine.ledger, options.report, options.check, status)


def _close(ledger: Ledger, report: Path | None, check: bool, status: int) -> int:
    sys.stdout.flush()
    print(ledger.to_text(), file=sys.stderr)
    if report is not None:
        report.write_text(ledger.to_json() + "\n")
    return CHECK_FAILED if check and (ledger.leaks or ledger.violations) else status


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of start_thread may still spin, as bare pthreads do: leave without waiting for them.
    os._exit(code)
