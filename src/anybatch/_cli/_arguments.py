"""Arguments that several commands share, and how their text becomes values."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import typer

from anybatch import _registry
from anybatch._cli._files import read_inputs
from anybatch._cli._output import progress
from anybatch._errors import InputError
from anybatch._guard import MODES
from anybatch._planner import POLICIES
from anybatch._runner import Runner
from anybatch._samples import random_inputs
from anybatch._tensors import Array, ModelSpec, check_request
from anybatch.plots import check_file

Value = TypeVar("Value")


def backend_names() -> list[str]:
    """Return the names of the installed backends, for completion."""
    return _registry.registry().names


ModelFile: TypeAlias = Annotated[Path, typer.Argument(metavar="MODEL", help="The model's file.")]
BackendName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--backend", help="Backend to open it with; default: the one for the file's suffix.", autocompletion=backend_names
    ),
]
Device: TypeAlias = Annotated[int, typer.Option("--device", help="Index of the device.")]
BatchSizes: TypeAlias = Annotated[
    str | None, typer.Option("--batch-sizes", metavar="1,4,8", help="Compile for these; default: what the model offers.")
]
InputFile: TypeAlias = Annotated[
    Path | None, typer.Option("--input", metavar="FILE", help="Rows to use, .npz or .npy; default: random ones.")
]
Shape: TypeAlias = Annotated[
    list[str] | None, typer.Option("--shape", metavar="NAME=SIZE", help="Size of a free dimension; may be repeated.")
]
Options: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="An option of the backend, as JSON or text; may be repeated."),
]
PolicyName: TypeAlias = Annotated[
    str, typer.Option("--policy", help=f"How to split: {', '.join(POLICIES)}.", autocompletion=lambda: list(POLICIES))
]
Safety: TypeAlias = Annotated[
    str,
    typer.Option(
        "--safety",
        help=f"Where rows may influence one another: {', '.join(MODES)}; auto tries what it cannot prove, and warns.",
        autocompletion=lambda: list(MODES),
    ),
]
Independent: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--independent", metavar="OUTPUT", help="Its rows are independent, I say so; may be repeated."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

# These have an option of their own, or none: --option is for what is the backend's.
_OURS: Final = frozenset(inspect.signature(_registry.open_model).parameters) - {"options"}


def open_runner(
    model: Path, backend: str | None, device: int, batch_sizes: str | None, options: Sequence[str] | None, **arguments: Any
) -> Runner:
    """Open a model as the shared arguments say; `arguments` are further ones of `anybatch.open`.

    Warnings, such as that a calibration does not fit, become lines on stderr.

    Raises:
        InputError: an argument does not read as what it should be; and all that `anybatch.open` raises.
    """
    sizes = None if batch_sizes is None else parse_ints("--batch-sizes", batch_sizes)
    own = parse_options(options)
    with warnings_as_lines(), progress(f"opening {model.name}"):  # hardware may compile for minutes
        return _registry.open_model(model, backend=backend, device=device, batch_sizes=sizes, **arguments, **own)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print warnings that are meant for users as lines on stderr, when all is done."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            yield
        finally:
            for each in caught:
                print(f"anybatch: warning: {each.message}", file=sys.stderr)


def check_charts(targets: Sequence[str], *, as_json: bool) -> None:
    """Check, before work that may take minutes, that charts can be drawn where they are wanted: in files, or "-" for here.

    Raises:
        InputError: a file's kind or place does not fit, one comes twice, or "-" would be printed amid JSON.
        MissingPackageError: what draws files is not installed.
    """
    for target in targets:
        if target != "-":
            check_file(target)
        elif as_json:
            raise InputError("with --json there is nothing but JSON on stdout: give a chart a file, not -")
    files = [Path(target) for target in targets if target != "-"]
    if len(set(files)) < len(files):
        raise InputError(f"expected each chart's file once, got {', '.join(map(str, files))}")


def rows_to_measure(spec: ModelSpec, rows: int, file: Path | None, shape: Sequence[str] | None) -> Mapping[str, Array]:
    """Return inputs to measure with: those of a file, however many rows these are, or that many random ones.

    Args:
        shape: sizes of free dimensions, as ``NAME=SIZE``, for random ones.

    Raises:
        InputError: the file or a size does not fit the model.
    """
    if file is None:
        free = {name: parse_int("--shape", size) for name, size in parse_pairs("--shape", shape).items()}
        return random_inputs(spec, rows, free)
    if shape:
        raise InputError("--shape is for random inputs, but --input gives some")
    return check_request(spec, read_inputs(file, spec, ignore_extra=True))[1]


def parse_ints(option: str, text: str) -> list[int]:
    """Return the whole numbers of a list such as ``1,4,8``."""
    return _parse_list(option, text, int, "whole numbers such as 1,4,8")


def parse_int(option: str, text: str) -> int:
    """Return a whole number."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option}: expected a whole number, got {text!r}") from None


def parse_floats(option: str, text: str) -> list[float]:
    """Return the numbers of a list such as ``1,1.6,2.9``."""
    return _parse_list(option, text, float, "numbers such as 1,1.6,2.9")


def _parse_list(option: str, text: str, parse: Callable[[str], Value], wanted: str) -> list[Value]:
    try:
        return [parse(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: expected {wanted}, got {text!r}") from None


def parse_pairs(option: str, pairs: Sequence[str] | None) -> dict[str, str]:
    """Return ``NAME=VALUE`` texts as a dict.

    Raises:
        InputError: one has no name or no ``=``, or a name comes twice.
    """
    parsed: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise InputError(f"{option}: expected NAME=VALUE, got {pair!r}")
        if name in parsed:
            raise InputError(f"{option}: expected each name once, got {name!r} twice")
        parsed[name] = value
    return parsed


def parse_options(pairs: Sequence[str] | None, *, reserved: Collection[str] = _OURS) -> dict[str, Any]:
    """Return a backend's options: values that read as JSON are that, others are text.

    Args:
        reserved: arguments of the library call itself, by default of `anybatch.open`.

    Raises:
        InputError: see `parse_pairs`; or the name is a reserved one.
    """
    options: dict[str, Any] = {}
    for name, text in parse_pairs("--option", pairs).items():
        if name in reserved:
            raise InputError(f"--option {name}: this is no option of a backend; see --help for what there is instead")
        options[name] = parse_value(text)
    return options


def parse_value(text: str) -> Any:
    """Return the value of a backend's option: text that reads as JSON is that, other text is itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
