"""``anybatch run``: a file of rows through a model, into a file of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from anybatch._cli._arguments import BackendName, BatchSizes, Device, Independent, Json, ModelFile, Options, Safety, open_runner
from anybatch._cli._files import check_input, check_output, check_output_fits, read_inputs, write_outputs
from anybatch._cli._output import (
    counted,
    is_simulated,
    new_table,
    print_declared,
    print_json,
    print_table,
    print_text,
    progress,
)
from anybatch._planner import Plan
from anybatch._runner import Runner, Stats
from anybatch._tensors import Array, check_request

_SLICES: Final = 100


def run(
    model: ModelFile,
    input_file: Annotated[
        Path, typer.Option("--input", metavar="FILE", help=".npz with the inputs by name, or .npy for a model with one input.")
    ],
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help=".npz for the outputs by name, or .npy for one; default: a summary only."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file if it exists.")] = False,
    ignore_extra: Annotated[bool, typer.Option("--ignore-extra", help="Leave out arrays that are no inputs.")] = False,
    backend: BackendName = None,
    device: Device = 0,
    batch_sizes: BatchSizes = None,
    padding: Annotated[
        str,
        typer.Option("--padding", help="What padding rows hold: zero or repeat.", autocompletion=lambda: ["zero", "repeat"]),
    ] = "zero",
    option: Options = None,
    safety: Safety = "auto",
    independent: Independent = None,
    as_json: Json = False,
) -> None:
    """Run all rows of a file and write or summarise the results.

    A model that takes any number of rows gets them all at once; --batch-sizes 256 splits a file that is too long for that.
    """
    check_input(input_file)
    if output_file is not None:
        check_output(output_file, force=force)
    with open_runner(
        model, backend, device, batch_sizes, option, padding=padding, safety=safety, independent=independent or ()
    ) as runner:
        if output_file is not None:
            check_output_fits(output_file, runner.spec)
        rows, inputs = check_request(runner.spec, read_inputs(input_file, runner.spec, ignore_extra=ignore_extra))
        with progress(counted(rows, "row")) as show:
            outputs = _run_in_slices(runner, rows, inputs, show)
        stats = runner.stats()
    if output_file is not None:
        write_outputs(output_file, outputs)
    if as_json:
        print_json(
            {
                "model": str(model),
                "backend": runner.backend,
                "simulated": is_simulated(runner.backend),
                "input": str(input_file),
                "output": None if output_file is None else str(output_file),
                "independent": independent or [],
                "rows": stats.rows,
                "padded_rows": stats.padded_rows,
                "launches": [{"gear": gear, "count": count} for gear, count in sorted(stats.launches.items())],
                "seconds": stats.seconds,
                "outputs": [{"name": name} | _summary(array) for name, array in outputs.items()],
            }
        )
    else:
        _print(runner, stats, outputs, output_file, independent or [])


def _run_in_slices(runner: Runner, rows: int, inputs: Mapping[str, Array], show: Callable[[float], None]) -> dict[str, Array]:
    """Run a request piece by piece, so that progress shows and Ctrl-C is heard; the result is that of `Runner.run`.

    Cuts are made only between launches of the whole request's plan. So what must run in one launch does, and the cost
    stays the least: if some launches of a least-cost plan could be replaced by cheaper ones for the same rows, the plan
    would not have been the least.
    """
    spec = runner.spec
    pieces = list(_pieces(runner.plan(rows)))
    if len(pieces) < 2 or any(tensor.batch_axis is None for tensor in spec.outputs):
        return runner.run(inputs)
    outputs: dict[str, Array] = {}
    for start, stop in pieces:
        part = {t.name: inputs[t.name] if t.batch_axis is None else t.rows_of(inputs[t.name], start, stop) for t in spec.inputs}
        places = {t.name: t.rows_of(outputs[t.name], start, stop) for t in spec.outputs if t.name in outputs}
        results = runner.run(part, out=places)
        for tensor in spec.outputs:
            if tensor.name not in outputs:  # the first results tell the free dimensions
                shape = list(results[tensor.name].shape)
                shape[tensor.batch_axis or 0] = rows * tensor.rows_per_row
                outputs[tensor.name] = np.empty(shape, tensor.dtype)
                tensor.rows_of(outputs[tensor.name], start, stop)[...] = results[tensor.name]
        show(stop / rows)
    return outputs


def _pieces(plan: Plan) -> Iterator[tuple[int, int]]:
    """Yield the rows, start and stop, of about `_SLICES` pieces of a plan, each of whole launches."""
    start = stop = 0
    for launch in plan.launches:
        stop += launch.rows
        if stop == plan.rows or (stop - start) * _SLICES >= plan.rows:
            yield start, stop
            start = stop


def _summary(array: Array) -> dict[str, Any]:
    """Return an array's dtype, shape and, where it has values one can compare, their range; NaN and infinities apart."""
    summary: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype.kind == "c":
        return summary
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    names = ("min", "mean", "max")
    values = (finite.min(), finite.mean(), finite.max()) if finite.size else (None,) * 3
    summary |= {name: None if value is None else float(value) for name, value in zip(names, values, strict=True)}
    return summary | {"not_finite": int(numbers.size - finite.size)}


def _print(
    runner: Runner, stats: Stats, outputs: Mapping[str, Array], output_file: Path | None, independent: Sequence[str]
) -> None:
    launches = ", ".join(f"{count} x {gear}" for gear, count in sorted(stats.launches.items(), reverse=True))
    simulated = ", simulated" * is_simulated(runner.backend)
    print_text(f"{counted(stats.rows, 'row')} on {runner.backend}{simulated} in {stats.seconds:.3g} s", "bold")
    print_text(f"launches  {launches or 'none'} ({runner.batching})")
    print_text(f"padding   {stats.padded_rows} of {stats.rows + stats.padded_rows} rows")
    print_declared(independent)
    print_text(f"written   {output_file or 'nothing; --output FILE writes the results'}")
    print_text()
    numbers = ("min", "mean", "max", "not finite")
    table = new_table("output", "dtype", "shape", *numbers, numbers=numbers)
    for name, array in outputs.items():
        summary = _summary(array)
        figures = ["-" if summary.get(key) is None else f"{summary[key]:.4g}" for key in ("min", "mean", "max", "not_finite")]
        table.add_row(name, summary["dtype"], str(summary["shape"]), *figures)
    print_table(table)
