"""``anybatch check``: whether padding and splitting change a model's answers; proven on its graph, tried on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from anybatch import _registry
from anybatch._backend import Model
from anybatch._batching import Batching
from anybatch._cli._arguments import (
    BatchSizes,
    Device,
    Independent,
    InputFile,
    Json,
    ModelFile,
    Options,
    Shape,
    backend_names,
    open_runner,
    parse_int,
    parse_pairs,
    rows_to_measure,
)
from anybatch._cli._files import check_input
from anybatch._cli._output import is_simulated, new_table, print_json, print_table, print_text, progress
from anybatch._cli.inspect import batching_as_json
from anybatch._costs import AffineCosts
from anybatch._errors import BackendNotFoundError, InputError, ModelError
from anybatch._onnx_spec import read_model
from anybatch._tensors import ModelSpec, TensorSpec
from anybatch._trial import OutputTrial, Trial

if TYPE_CHECKING:
    from anybatch.safety import OutputSafety, Safety, Step, Verdict

_SECONDS: Final = 5.0
_PICTURES: Final = (".dot", ".svg")
_WORST_FIRST: Final = ("coupled", "unknown", "independent")
_MEANING: Final = {
    "independent": "requests can be split and padded",
    "coupled": "rows influence one another, so splitting or padding changes answers",
    "unknown": "not proven that requests can be split and padded",
}


def check(
    model: ModelFile,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend", help="Also open it with this backend, and try there whether it is so.", autocompletion=backend_names
        ),
    ] = None,
    device: Device = 0,
    batch_sizes: BatchSizes = None,
    option: Options = None,
    batch_axis: Annotated[
        list[str] | None,
        typer.Option(
            "--batch-axis", metavar="NAME=AXIS", help="Which axis of a tensor carries rows, or none; may be repeated."
        ),
    ] = None,
    rows_per_row: Annotated[
        list[str] | None,
        typer.Option("--rows-per-row", metavar="NAME=K", help="Entries along it that one row has; may be repeated."),
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help=f"How long to try at most; default: {_SECONDS:g}.")] = None,
    input_file: InputFile = None,
    shape: Shape = None,
    independent: Independent = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 also where nothing is proven.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="Draw the way of the rows to where they couple: .svg or .dot."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the way of the rows to every output.")] = False,
    as_json: Json = False,
) -> None:
    """Check whether rows of a model influence one another, so that splitting and padding change its answers.

    It is proven on the model's ONNX graph: nothing is run, no backend needed. With --backend the model is opened as well, and
    rows are launched in many ways, which finds what a graph does not tell, such as a defect of the backend.
    Exit status 1 where rows of any output are coupled, or the trial failed; --independent settles what is unknown, no more.
    """
    if backend is None:
        _check_nothing_to_open(
            {"--device": device or None, "--batch-sizes": batch_sizes, "--option": option}
            | {"--seconds": seconds, "--input": input_file, "--shape": shape}
        )
    if picture is not None:
        _check_picture(picture)
    if input_file is not None:
        check_input(input_file)
    axes = {name: _parse_axis(text) for name, text in parse_pairs("--batch-axis", batch_axis).items()}
    factors = {name: _parse_factor(text) for name, text in parse_pairs("--rows-per-row", rows_per_row).items()}
    told: dict[str, Any] = ({"batch_axis": axes} if axes else {}) | ({"rows_per_row": factors} if factors else {})
    for pair in option or ():
        if (name := pair.partition("=")[0]) in told:
            raise InputError(f"expected --option {name} or --{name.replace('_', '-')}, got both")

    graph, no_proof = _read(model, backend)
    if graph is None and picture is not None:
        raise InputError(f"--picture draws the rows' way through a graph, but there is none: {no_proof}")
    proof = None if graph is None else _analysed(graph, told, must=backend is None)
    tried: _Tried | None = None
    if backend is not None:
        with open_runner(model, backend, device, batch_sizes, option, costs=AffineCosts(), safety="off", **told) as runner:
            if graph is not None:
                proof, no_proof = _as_opened(graph, proof, runner.spec)
            if proof is None and picture is not None:
                raise InputError(f"--picture draws what is proven on the graph, but nothing is: {no_proof}")
            inputs = None if input_file is None else rows_to_measure(runner.spec, 1, input_file, shape)
            free = {name: parse_int("--shape", size) for name, size in parse_pairs("--shape", shape).items()}
            with progress("trying") as show:
                trial = runner.try_rows(
                    seconds=_SECONDS if seconds is None else seconds, inputs=inputs, free=free, progress=show
                )
            runtime = _registry.registry().get(runner.backend).check_usable()
            tried = _Tried(runner.backend, runtime, runner.batching, runner.spec, trial)
    if picture is not None and proof is not None:
        _write(picture, proof.to_dot() if picture.suffix.lower() == ".dot" else proof.to_svg())

    findings = _findings(proof, tried, independent or ())
    verdict = min((each.verdict for each in findings), key=_WORST_FIRST.index)
    if as_json:
        print_json(
            {
                "model": str(model),
                "verdict": verdict,
                "inputs": [] if proof is None else [asdict(each) for each in proof.inputs],
                "outputs": [each.to_json() for each in findings],
                "trial": None if tried is None else tried.to_json(),
            }
        )
    else:
        print_text(f"{model}: {verdict}: {_MEANING[verdict]}", "bold")
        if proof is None:
            print_text(f"proof     none: {no_proof}")
        if tried is not None:
            _print_trial(tried)
        _print_findings(findings, proof, tried, verbose=verbose)
        if picture is not None:
            print_text(f"written   {picture}")
    if verdict == "coupled" or (strict and verdict == "unknown") or (tried is not None and tried.trial.error is not None):
        raise typer.Exit(1)


# ---------------------------------------------------------------------------------------------------------- arguments


def _check_nothing_to_open(given: Mapping[str, object]) -> None:
    options = [name for name, value in given.items() if value is not None and value != []]
    if options:
        raise InputError(f"{', '.join(options)}: for opening the model, which only --backend NAME does")


def _check_picture(path: Path) -> None:
    if path.suffix.lower() not in _PICTURES:
        raise InputError(f"--picture {path}: expected a file that ends in {' or '.join(_PICTURES)}")
    if not path.parent.is_dir():
        raise InputError(f"--picture {path}: there is no folder {str(path.parent)!r}")
    if path.is_dir():
        raise InputError(f"--picture {path}: it is a folder")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--picture {path}: cannot be written: {error.strerror or error}") from error


def _parse_axis(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--batch-axis: expected the index of an axis, or none, got {text!r}") from None


def _parse_factor(text: str) -> int:
    factor = parse_int("--rows-per-row", text)
    if factor < 1:
        raise InputError(f"--rows-per-row: expected 1 or more, got {factor}")
    return factor


# ----------------------------------------------------------------------------------------------------------- the proof


def _read(model: Path, backend: str | None) -> tuple[Model | None, str]:
    """Return the graph, or why there is none, which only a device can then make up for.

    Raises:
        InputError: it is a compiled file, and no backend is named that could try it.
        ModelError: there is no such file, or it is no ONNX model, and no backend is named that may know what it is.
    """
    if not model.is_file():
        raise ModelError(f"expected a model file, but {str(model)!r} {'is a folder' if model.is_dir() else 'does not exist'}")
    suffix = model.suffix.lower()
    if suffix and suffix != ".onnx":
        with suppress(BackendNotFoundError):
            opener = _registry.registry().for_suffix(suffix)
            why = f"{model.name} is a compiled file, which has no graph to analyse"
            if backend is None:
                raise InputError(f"{why}: --backend {opener.name} tries it on a device")
            return None, why
    try:
        return read_model(model), ""
    except ModelError as error:
        if backend is None:
            raise
        return None, str(error)


def _analysed(graph: Model, told: Mapping[str, Any], *, must: bool) -> Safety | None:
    """Return what is proven; None where the graph alone does not say which axes carry rows, and `must` is False."""
    from anybatch import safety  # imports onnx

    try:
        return safety.analyse(graph, **told)
    except ModelError:
        if must:
            raise
        return None


def _as_opened(graph: Model, proof: Safety | None, spec: ModelSpec) -> tuple[Safety | None, str]:
    """Return what is proven where rows lie as the session has them: `proof` itself, where it says the same.

    None, and why, where the graph has no such tensors or axes.
    """
    tensors = {tensor.name: (tensor.batch_axis, tensor.rows_per_row) for tensor in (*spec.inputs, *spec.outputs)}
    if proof is not None:
        found = {each.name: (each.axis, each.rows_per_row) for each in proof.inputs}
        found |= {each.name: (each.batch_axis, each.rows_per_row) for each in proof.outputs}
        if found == tensors:
            return proof, ""
    from anybatch import safety

    axes = {name: axis for name, (axis, _) in tensors.items()}
    factors = {name: factor for name, (_, factor) in tensors.items() if factor > 1}
    try:
        return safety.analyse(graph, batch_axis=axes, rows_per_row=factors), ""
    except (InputError, ModelError) as error:
        return None, f"the session's rows are not in the graph: {error}"


# ------------------------------------------------------------------------------------------------------------ findings


@dataclass(frozen=True, slots=True)
class _Tried:
    """A trial, and the session that it was made on."""

    backend: str
    runtime: str
    batching: Batching
    spec: ModelSpec
    trial: Trial

    def to_json(self) -> dict[str, Any]:
        error = self.trial.error
        return {
            "backend": self.backend,
            "simulated": is_simulated(self.backend),
            "runtime": self.runtime,
            "batching": batching_as_json(self.batching),
            **self.trial.to_json(),
            "error": None if error is None else f"{type(error).__name__}: {error}",
        }


@dataclass(frozen=True, slots=True)
class _Finding:
    """What is known about an output, by proof and trial together.

    Attributes:
        basis: what says so, the caller where neither proof nor trial does; None where nothing does.
        axis: what carries its rows; None where nothing does, or that is not known.
        certainty: how the axis is known, in the analysis' words; "told" of a session whose model has no graph.
    """

    name: str
    verdict: Verdict
    basis: Literal["proof", "trial", "caller"] | None
    node: str | None
    reason: str
    axis: int | None
    rows_per_row: int
    certainty: str
    proof: OutputSafety | None
    trial: OutputTrial | None

    @property
    def contradicts(self) -> bool:
        """Whether the device does what the graph rules out."""
        proven = self.proof is not None and self.proof.verdict == "independent"
        return proven and self.trial is not None and self.trial.verdict == "coupled"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "verdict": self.verdict,
            "basis": self.basis,
            "node": self.node,
            "reason": self.reason,
            "batch_axis": self.axis,
            "rows_per_row": self.rows_per_row,
            "certainty": self.certainty,
            "proof": None if self.proof is None else self.proof.verdict,
            "trial": None if self.trial is None else self.trial.verdict,
            "contradiction": self.contradicts,
            "chain": [] if self.proof is None else [asdict(step) for step in self.proof.chain],
        }


def _findings(proof: Safety | None, tried: _Tried | None, independent: Sequence[str]) -> list[_Finding]:
    """Return what is known about each output; there is a proof or a trial, or both.

    Decision: unlike at `anybatch.open`, the caller's word stands only where neither tells. A check that a declaration silences
    would not see that it has become false.

    Raises:
        InputError: one of those declared independent is no output.
    """
    found = _seen(proof, tried)
    if unknown := sorted(set(independent) - {each.name for each in found}):
        raise InputError(f"--independent: expected outputs, of {[each.name for each in found]}, got {unknown}")
    return [
        replace(each, verdict="independent", basis="caller", node=None, reason="the caller declares it")
        if each.verdict == "unknown" and each.name in independent
        else each
        for each in found
    ]


def _seen(proof: Safety | None, tried: _Tried | None) -> list[_Finding]:
    seen = {} if tried is None else {each.name: each for each in tried.trial.outputs}
    if proof is not None:  # the session's outputs, too, else there would be no proof
        return [_by_proof(each, seen.get(each.name)) for each in proof.outputs]
    outputs = {} if tried is None else {each.name: each for each in tried.spec.outputs}
    return [_by_trial(outputs[name], each) for name, each in seen.items()]


def _by_proof(proof: OutputSafety, trial: OutputTrial | None) -> _Finding:
    verdict, node, reason = proof.verdict, proof.node, proof.reason
    basis: Literal["proof", "trial"] | None = None if verdict == "unknown" else "proof"
    if trial is not None and trial.verdict == "coupled" and verdict != "coupled":
        verdict, basis, reason = "coupled", "trial", trial.reason
    axis, factor, certainty = proof.batch_axis, proof.rows_per_row, proof.certainty
    return _Finding(proof.name, verdict, basis, node, reason, axis, factor, certainty, proof, trial)


def _by_trial(spec: TensorSpec, trial: OutputTrial) -> _Finding:
    coupled = trial.verdict == "coupled"
    verdict: Verdict = "coupled" if coupled else "unknown"  # no trial proves that they are independent
    basis: Literal["trial"] | None = "trial" if coupled else None
    return _Finding(spec.name, verdict, basis, None, trial.reason, spec.batch_axis, spec.rows_per_row, "told", None, trial)


# ------------------------------------------------------------------------------------------------------------- reports


def _print_trial(tried: _Tried) -> None:
    trial, simulated = tried.trial, ", simulated" * is_simulated(tried.backend)
    launches = f"{trial.launches} launch{'es' * (trial.launches != 1)}"
    print_text(
        f"trial     {launches} in {trial.seconds:.2g} s on {tried.backend}{simulated} ({tried.runtime}), {tried.batching}"
    )
    if trial.error is not None:
        print_text(f"          ended early by {type(trial.error).__name__}: {trial.error}", "bold red")
    elif not trial.complete:
        print_text("          the time was up before everything was tried; --seconds gives it more")
    for what, error in trial.refused.items():
        print_text(f"          left out: {what}, at which the session raised {error}")


def _print_findings(findings: Sequence[_Finding], proof: Safety | None, tried: _Tried | None, *, verbose: bool) -> None:
    for each in findings:
        if each.contradicts and tried is not None:
            print_text(
                f"CONTRADICTION: the graph proves the rows of {each.name!r} independent, but on {tried.backend} they influence "
                "one another. What runs there does not compute what the graph says: a defect of the backend, its compiler or "
                "its device, such as padding that keeps what an earlier launch left. Do not trust its answers.",
                "bold red",
            )
    print_text()
    columns = ["", "name", "rows", "known", "verdict", *(["trial"] * (tried is not None)), "node", "reason"]
    table = new_table(*columns)
    for tensor in () if proof is None else proof.inputs:
        table.add_row("input", tensor.name, _place(tensor.axis, tensor.rows_per_row), tensor.certainty)
    for each in findings:
        seen = [] if tried is None else ["not tried" if each.trial is None else each.trial.verdict]
        place, why = _place(each.axis, each.rows_per_row), (each.node or "", _reason(each))
        style = "red" if each.verdict == "coupled" else None
        table.add_row("output", each.name, place, each.certainty, each.verdict, *seen, *why, style=style)
    print_table(table)
    ways: dict[tuple[Step, ...], list[OutputSafety]] = {}
    for each in findings:
        if each.proof is not None and each.proof.chain and (verbose or each.verdict != "independent"):
            ways.setdefault(each.proof.chain, []).append(each.proof)
    for outputs in ways.values():
        _print_way(outputs)


def _reason(finding: _Finding) -> str:
    proof = finding.proof
    return proof.short_reason if proof is not None and proof.reason == finding.reason else finding.reason


def _place(axis: int | None, rows_per_row: int) -> str:
    return "none" if axis is None else f"axis {axis}" + f", {rows_per_row} each" * (rows_per_row > 1)


def _print_way(outputs: Sequence[OutputSafety]) -> None:
    """Print the way of the rows that these outputs share."""
    output, names = outputs[0], ", ".join(each.name for each in outputs)
    print_text()
    table = new_table(f"way of the rows to {names}", "operator", "rows")
    for step in output.chain:
        ends = step is output.chain[-1] and step.node == output.node and output.verdict != "independent"
        table.add_row(step.node, step.operator, f"{output.verdict} here" if ends else step.rows)
    print_table(table)
