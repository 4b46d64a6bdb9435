"""``anybatch backends``: what is installed, what is usable, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, Final

import numpy as np
import typer

from anybatch import _registry
from anybatch._backend import Backend
from anybatch._cli._arguments import Json
from anybatch._cli._output import new_table, print_json, print_table, print_text, progress
from anybatch._errors import BackendNotFoundError, BackendUnavailableError, InputError


@dataclass(frozen=True, slots=True)
class _Finding:
    """What is known of one backend."""

    name: str
    distribution: str
    suffixes: list[str]
    usable: bool
    detail: str  # its runtime; or why it is not usable, or what went wrong in the trial
    passed: bool | None = None  # None: not tried
    seconds: float | None = None

    @property
    def good(self) -> bool:
        return self.usable and self.passed is not False

    def as_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "name": self.name,
            "distribution": self.distribution,
            "suffixes": self.suffixes,
            "usable": self.usable,
            "detail": self.detail,
        }
        return fields | ({} if self.passed is None else {"run": {"passed": self.passed, "seconds": self.seconds}})


def backends(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Backends to look at; default: all.", show_default=False),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Run a tiny model on each that is usable and check the result.")] = False,
    as_json: Json = False,
) -> None:
    """List the installed backends: usable, or why not.

    Exit code 0: each named backend, or without names at least one, is usable and, with --run, passes.
    """
    registry = _registry.registry()
    wanted = list(dict.fromkeys(names or registry.names))
    findings = []
    with progress("backends") as show:
        for done, name in enumerate(wanted):
            show(done / len(wanted))
            findings.append(_look_at(registry, name, run=run))
    good = [finding.good for finding in findings]
    ok = all(good) and bool(good) if names else any(good)
    if as_json:
        failures = [
            {"plugin": failure.name, "distribution": failure.distribution, "error": _one_line(failure.error)}
            for failure in registry.failures
        ]
        print_json({"ok": ok, "backends": [finding.as_json() for finding in findings], "failures": failures})
    else:
        _print(findings, registry, run=run)
    if not ok:
        raise typer.Exit(1)


def _look_at(registry: _registry.Registry, name: str, *, run: bool) -> _Finding:
    distribution = registry.distribution(name) if name in registry.names else ""
    try:
        backend = registry.get(name)
    except (BackendNotFoundError, BackendUnavailableError) as error:
        return _Finding(name, distribution, [], False, _reason(error, name))
    suffixes = sorted(backend.suffixes)
    try:
        detail = backend.check_usable()
    except BackendUnavailableError as error:
        return _Finding(name, distribution, suffixes, False, _reason(error, name))
    except Exception as error:  # a bug in one plugin must not hide the others
        return _Finding(name, distribution, suffixes, False, f"check_usable failed: {_one_line(error)}")
    if not run:
        return _Finding(name, distribution, suffixes, True, detail)
    started = perf_counter()
    try:
        _try_tiny_model(backend)
    except Exception as error:  # as above, and whatever it is, it is the verdict
        return _Finding(name, distribution, suffixes, True, _one_line(error), passed=False, seconds=perf_counter() - started)
    return _Finding(name, distribution, suffixes, True, detail, passed=True, seconds=perf_counter() - started)


def _print(findings: list[_Finding], registry: _registry.Registry, *, run: bool) -> None:
    if findings:
        columns = ("backend", "usable", *(("run", "ms") if run else ()), "opens", "distribution", "detail")
        table = new_table(*columns, numbers=("ms",))
        for finding in findings:
            trial = []
            if run:
                trial = ["-" if finding.passed is None else "passed" if finding.passed else "FAILED"]
                trial += ["-" if finding.seconds is None else f"{finding.seconds * 1e3:.0f}"]
            row = [finding.name, "yes" if finding.usable else "no", *trial, " ".join(finding.suffixes)]
            table.add_row(*row, finding.distribution, finding.detail, style=None if finding.good else "red")
        print_table(table)
    else:
        print_text("no backend is installed")
    for failure in registry.failures:
        print_text(f"failed to load: plugin {failure.name!r} of {failure.distribution}: {_one_line(failure.error)}", "red")


def _reason(error: BaseException, name: str) -> str:
    """Return an error's message without the backend's name before it, which stands in the first column."""
    return str(error).removeprefix(f"{name}: ")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


# At an opset and IR version that the oldest compilers take. All numbers are whole and so small that even bfloat16 holds them
# and their sums exactly: one expectation for all hardware.
_TINY_MODEL: Final = """
<ir_version: 7, opset_import: ["": 13]>
affine (float[rows, 3] x, float[rows, 2] shift) => (float[rows, 2] y)
<float[3, 2] weights = {1, -2, 3, 0, -1, 2}>
{
    product = MatMul(x, weights)
    y = Add(product, shift)
}
"""
_WEIGHTS: Final = np.array([[1, -2], [3, 0], [-1, 2]], np.float32)
_ROWS: Final = np.arange(15, dtype=np.float32).reshape(5, 3) - 7
_SHIFT: Final = np.arange(10, dtype=np.float32).reshape(5, 2)


def _try_tiny_model(backend: Backend) -> None:
    """Run 5 rows through a tiny model compiled for 1 and 4, so that they are split.

    Raises:
        Exception: whatever the backend raises, or AssertionError where the result is wrong.
    """
    import onnx.parser

    model = onnx.parser.parse_model(_TINY_MODEL)
    try:
        runner = _registry.open_model(model, backend=backend, batch_sizes=[1, 4])
    except InputError:  # hardware that compiles one size only
        runner = _registry.open_model(model, backend=backend, batch_sizes=[4])
    with runner:
        result = runner.run({"x": _ROWS, "shift": _SHIFT})["y"]
    expected = _ROWS @ _WEIGHTS + _SHIFT
    if not np.allclose(result, expected, rtol=0, atol=1e-3):
        worst = float(np.max(np.abs(result - expected)))
        raise AssertionError(f"expected {expected.tolist()}, got {result.tolist()}, off by up to {worst:.3g}")
