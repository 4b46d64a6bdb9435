"""Run an unmodified PopRT program on the simulator: `python -m poprt_sim [OPTIONS] PROGRAM ARGS...`.

The program's `import poprt` finds the simulator, and so do the Python programs and the commands `poprt` that it starts. The
exit status is the program's, or 3 if `--check` was given and something leaked or was violated. Decision: 3 also where the
program itself failed with another status: it is the verdict that was asked for, and the program has said its own.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib.util
import os
import shlex
import sys
import tempfile
import threading
import traceback
import weakref
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, NoReturn

from poprt_sim import _serve
from poprt_sim._ledger import Ledger
from poprt_sim._machine import Config, replace_machine

CHECK_FAILED: Final = 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m poprt_sim", description="Run a PopRT program without an IPU.")
    parser.add_argument("--tolerant", action="store_true", help="write undefined behaviour down and go on")
    parser.add_argument(
        "--device-time",
        metavar="MODEL",
        help="what things cost: c600 (default; poprt_sim/profiles/c600.json says where its figures come from), none, "
        "affine:US,US_PER_ROW, or a JSON file like c600.json",
    )
    parser.add_argument("--devices", type=int, metavar="N", help="number of IPUs")
    parser.add_argument("--ipu-version", choices=("ipu21", "ipu2"), help="C600 cards, or IPU-M2000 and Bow")
    parser.add_argument("--poprt-version", metavar="V", help="present this version of PopRT only, for example 1.2.0")
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
    return code.co_filename == __file__ or "importlib" in code.co_filename


def _find(name: str) -> ModuleSpec | None:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        return importlib.util.find_spec(f"{name}.__main__")
    return spec


def _execute(program: str, module: bool) -> int:
    """Run the program as the module __main__, which stays in sys.modules until `_tear_down`; returns the exit status."""
    main = sys.modules["__main__"] = ModuleType("__main__")
    try:
        if module or not Path(program).is_file():
            spec = _find(program) if module else PathFinder.find_spec("__main__", [program])
            code: CodeType | None = getattr(spec.loader, "get_code")(spec.name) if spec is not None else None  # noqa: B009
            if spec is None or code is None:
                raise ImportError(f"cannot run {program!r}: no such {'module' if module else 'program'}")
            vars(main).update(__file__=spec.origin, __loader__=spec.loader, __package__=spec.parent)
            main.__spec__ = spec if module else None
            if module:
                sys.argv[0] = spec.origin or program
            else:  # a folder or an archive: its modules are beside its __main__
                sys.path[0] = program
        else:
            vars(main).update(__file__=program, __package__=None)
            code = compile(Path(program).read_bytes(), program, "exec")
        exec(code, vars(main))
        return _status(None)
    except BaseException as error:
        return _status(error)


def _tear_down() -> None:
    """Let go of the program's module as the interpreter does when it ends, so that its `__del__` methods have run.

    Out of sys.modules first, under all its names (multiprocessing adds one); objects then die with their globals still there.
    """
    main = weakref.ref(sys.modules["__main__"])
    for name in [name for name, module in sys.modules.items() if module is main()]:
        del sys.modules[name]
    gc.collect()
    held = main()
    if held is not None:  # somebody else has it: the interpreter then empties it, in this order
        names = [name for name in vars(held) if name != "__builtins__"]
        for name in sorted(names, key=lambda name: name[:1] != "_" or name[:2] == "__"):
            vars(held)[name] = None
        gc.collect()


def _serve_children(folder: Path, changes: dict[str, Any]) -> None:
    """Make the commands and Python programs that the program starts find the simulator, on a machine like this one."""
    source = str(Path(__file__).resolve().parents[1])
    command = folder / "poprt"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m poprt_sim.cli "$@"\n')
    command.chmod(0o755)
    package = folder / "modules" / "poprt"
    package.mkdir(parents=True)
    # Importing this package puts the simulator in its own place; the import system then returns what stands there.
    (package / "__init__.py").write_text(
        "import sys\n\nfrom poprt_sim import _serve\n\ndel sys.modules[__name__]\n_serve.install()\nimport poprt\n"
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(package.parent), source, *([before] if before else [])])
    for name, value in changes.items():
        os.environ[f"POPRT_SIM_{name.upper()}"] = "0" if value is False else str(value)


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring; returns the exit status."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    changes: dict[str, Any] = {"strict": False} if options.tolerant else {}
    for name, field in (
        ("device_time", "device_time"),
        ("devices", "devices"),
        ("ipu_version", "ipu_version"),
        ("poprt_version", "version"),
    ):
        if getattr(options, name) is not None:
            changes[field] = getattr(options, name)
    try:
        if options.report is not None:
            options.report.write_text("")  # rather now than after the program
        machine = replace_machine(Config.from_environment(), **changes)
    except (ValueError, OSError) as error:
        print(f"python -m poprt_sim: error: {error}", file=sys.stderr)
        return 2
    _serve.install()
    sys.argv = [options.program, *options.args]
    if options.module:
        sys.path.insert(0, str(Path.cwd()))
    else:
        sys.path.insert(0, str(Path(options.program).resolve().parent))
    ours = sys.modules["__main__"]
    with tempfile.TemporaryDirectory(prefix="poprt_sim_") as folder:
        _serve_children(Path(folder), changes)
        status = _execute(options.program, options.module)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        # Programs free things at exit, too: only what is left after that has leaked.
        atexit._run_exitfuncs()
        # That shut weakref.finalize down for good, which tells the machine what dies with the program's module.
        setattr(weakref.finalize, "_shutdown", False)  # noqa: B010
        _tear_down()
    sys.modules["__main__"] = ours
    with machine.lock:
        return _close(machine.ledger, options.report, options.check, status)


def _close(ledger: Ledger, report: Path | None, check: bool, status: int) -> int:
    sys.stdout.flush()
    print(ledger.to_text(), file=sys.stderr)
    if report is not None:
        report.write_text(ledger.to_json() + "\n")
    return CHECK_FAILED if check and (ledger.leaks or ledger.violations) else status


def entry() -> NoReturn:
    """Run as a process does: threads that the program left behind may still run, and are not waited for."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
