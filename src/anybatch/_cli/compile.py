"""``anybatch compile``: a model into the file that a device runs."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from anybatch import _registry
from anybatch._backend import Compiled
from anybatch._cli._arguments import BatchSizes, Json, ModelFile, Options, backend_names, parse_ints, parse_options
from anybatch._cli._output import activity, is_simulated, print_json, print_text
from anybatch._errors import InputError

# From this likeness on, a flag that is none of ours is taken for a slip, and not for an option of the backend.
_SLIP: Final = 0.85
# These have an option of their own, or none: --option is for what is the backend's.
_OURS: Final = frozenset(inspect.signature(_registry.compile_model).parameters) - {"options"}


class FlagsOfBackends(TyperCommand):
    """A command that takes the backend's options as flags too: ``--some-option X`` is ``--option some_option=X``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite flags that are not the command's own, then parse."""
        takes_value = {name: not getattr(param, "is_flag", False) for param in self.params for name in param.opts}
        takes_value |= dict.fromkeys(self.get_help_option_names(ctx), False)
        try:
            rewritten = list(_rewrite(args, takes_value))
        except InputError as error:
            ctx.fail(str(error))
        return super().parse_args(ctx, rewritten)


def _rewrite(args: Iterable[str], takes_value: dict[str, bool]) -> Iterator[str]:
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            yield word
            yield from words
        elif name in takes_value or not name.startswith("--"):
            yield word
            if not equals and takes_value.get(name):
                yield from islice(words, 1)
        else:
            close = difflib.get_close_matches(name, takes_value, n=1, cutoff=_SLIP)
            option = name.removeprefix("--").replace("-", "_")
            if close:
                raise InputError(
                    f"no such option {name}; did you mean {close[0]}? An option of the backend: --option {option}=..."
                )
            if not equals:
                following = next(words, None)
                if following is None or following.startswith("--"):
                    raise InputError(f"{name} is passed to the backend and needs a value, such as {name}=true")
                value = following
            yield from ("--option", f"{option}={value}")


def compile(
    model: ModelFile,
    backend: Annotated[str, typer.Option("--backend", help="Backend to compile for.", autocompletion=backend_names)],
    batch_sizes: BatchSizes = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where the result goes, replacing what is there; default: the cache."),
    ] = None,
    option: Options = None,
    as_json: Json = False,
) -> None:
    """Compile a model ahead, for a backend that does so; prints where it is.

    No device is needed. Options of the backend may be given as flags: --some-option X means --option some_option=X. Unless
    --output is given, the result lies in the cache, where opening the model with the same options finds it.
    """
    sizes = None if batch_sizes is None else parse_ints("--batch-sizes", batch_sizes)
    options = parse_options(option, reserved=_OURS)
    with activity(f"compiling {model.name}") as show:
        compiled = _registry.compile_model(model, backend=backend, batch_sizes=sizes, output=output, progress=show, **options)
    for sentence in _notes(compiled, backend):
        print(f"note: {sentence}", file=sys.stderr)
    if as_json:
        print_json(
            {
                "model": str(model),
                "backend": backend,
                "simulated": is_simulated(backend),
                "path": str(compiled.path),
                "batch_sizes": list(compiled.batch_sizes),
                "cached": compiled.cached,
                "temporary": compiled.temporary,
                "advice": list(compiled.advice),
            }
        )
    else:
        print_text(str(compiled.path))


def _notes(compiled: Compiled, backend: str) -> Iterator[str]:
    if is_simulated(backend):
        yield f"compiled by a simulator: {backend} opens the file, hardware does not"
    yield from compiled.advice
    if compiled.temporary:
        yield f"the cache cannot be written: {compiled.path} is a temporary file; --output FILE chooses its place"
