"""The command line: arguments -> one library call -> text and exit code. One module per command.

Exit codes:
    0  good.
    1  the answer is no: no backend is usable, a check failed, a runtime or plugin failed (BackendUnavailableError,
       DeviceError, ContractError, ClosedError). The same command may succeed on another machine.
    2  wrong usage or bad input: what was typed, or a file, must change (InputError, ModelError, BackendNotFoundError).

Results go to stdout, everything else to stderr. What costs time to import (rich, onnx) is imported where it is used, so
that ``--help`` and shell completion answer at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from anybatch._cli.advise import advise
from anybatch._cli.backends import backends
from anybatch._cli.bench import bench
from anybatch._cli.calibrate import calibrate
from anybatch._cli.check import check
from anybatch._cli.compare import compare
from anybatch._cli.compile import FlagsOfBackends, compile
from anybatch._cli.inspect import inspect
from anybatch._cli.loadgen import loadgen
from anybatch._cli.plan import plan
from anybatch._cli.run import run
from anybatch._errors import AnybatchError, BackendNotFoundError, InputError, ModelError
from anybatch._version import __version__

_PROGRAM: Final = "anybatch"
_BAD_INPUT: Final = (InputError, ModelError, BackendNotFoundError)


class _Commands(TyperGroup):
    """Turns errors into a line on stderr and an exit code, for every command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # `anybatch run model.onnx --debug` is what one types after an error, so --debug may stand anywhere.
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AnybatchError as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            print(f"{_PROGRAM}: {type(error).__name__}: {error}", file=sys.stderr)
            for note in getattr(error, "__notes__", ()):  # such as all that a vendor's tool had to say
                print(note, file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, _BAD_INPUT) else 1) from error


# Plain help instead of rich's boxes: it is there 0.1 s sooner and can be searched and quoted. Tracebacks are Python's
# own: rich's would print local variables, which may be a user's data.
app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"{_PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Any number of rows through models compiled for a few batch sizes.

    Every command takes --json. Exit code: 0 good, 1 the answer is no or a device failed, 2 wrong usage or bad input.
    """
    # `version` has done its work in its callback; `debug` is read where errors are caught, in _Commands.


# In the order of the help.
_EXAMPLES: Final[dict[Callable[..., None], str]] = {
    backends: "anybatch backends --run",
    inspect: "anybatch inspect model.onnx --batch-sizes 1,4,8",
    check: "anybatch check model.onnx",
    plan: "anybatch plan --gears 1,2,4,8 --costs 1,1.6,2.9,5.5 --rows 13",
    advise: "anybatch advise trace.csv --max-gears 4 --overhead 2 --per-row 1",
    compile: "anybatch compile model.onnx --backend NAME --batch-sizes 1,2,4,8",
    run: "anybatch run model.onnx --input rows.npz --output results.npz",
    calibrate: "anybatch calibrate model.onnx --batch-sizes 1,4,8 --seconds 20",
    compare: "anybatch compare model.onnx --on onnxruntime --on NAME:batch_sizes=1,4,8 --output page.html",
    bench: "anybatch bench model.onnx --batch-sizes 1,4,8 --rows 1,7,64",
    loadgen: "anybatch loadgen model.onnx --scenario Server --qps 100 --latency-ms 20",
}
for _command, _example in _EXAMPLES.items():
    _class = FlagsOfBackends if _command is compile else TyperCommand
    app.command(cls=_class, epilog=f"Example: {_example}")(_command)


def main() -> None:
    """Run the command line on ``sys.argv`` and exit."""
    app(prog_name=_PROGRAM)
