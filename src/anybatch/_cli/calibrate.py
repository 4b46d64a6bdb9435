"""``anybatch calibrate``: what launches take, measured and kept; later plans are made with that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from anybatch._batching import AnyBatch, Batching, MultipleOf
from anybatch._calibration import Calibration, sizes_to_measure
from anybatch._cli._arguments import (
    BackendName,
    BatchSizes,
    Device,
    Independent,
    InputFile,
    Json,
    ModelFile,
    Options,
    Safety,
    Shape,
    open_runner,
    rows_to_measure,
)
from anybatch._cli._files import check_input
from anybatch._cli._output import (
    bar,
    counted,
    is_simulated,
    new_table,
    plan_as_json,
    print_json,
    print_table,
    print_text,
    progress,
    three_digits,
    time_unit,
)
from anybatch._cli.inspect import batching_as_json
from anybatch._costs import AffineCosts, CurveCosts
from anybatch._errors import InputError
from anybatch._planner import Plan, Planner


def calibrate(
    model: ModelFile,
    backend: BackendName = None,
    device: Device = 0,
    batch_sizes: BatchSizes = None,
    option: Options = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long to measure at most.")] = 10.0,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Stop once medians are this sure, as a share of them, 95 % confidence.")
    ] = 0.02,
    max_rows: Annotated[
        int, typer.Option("--max-rows", help="Largest launch to measure where any number of rows can be launched.")
    ] = 64,
    input_file: InputFile = None,
    shape: Shape = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where to save it; default: beside MODEL, where it is found again."),
    ] = None,
    safety: Safety = "auto",
    independent: Independent = None,
    as_json: Json = False,
) -> None:
    """Measure what launches of each size take, and plan with that from now on.

    What was measured is kept beside the model, and used by whatever opens it the same way on this machine: the library
    and the other commands. Sizes take turns, and nothing else should run meanwhile.
    A simulator's times are those of its device clock, where it has one: modelled, not measured on hardware.
    """
    if input_file is not None:
        check_input(input_file)
    if output is not None:
        _check_output(output)
    # With costs of its own: what was kept before is replaced, so whether that fits is no matter.
    with open_runner(
        model, backend, device, batch_sizes, option, costs=AffineCosts(), safety=safety, independent=independent or ()
    ) as runner:
        largest = max(sizes_to_measure(runner.batching, max_rows))
        inputs = rows_to_measure(runner.spec, largest, input_file, shape)
        with progress("measuring") as show:
            calibration = runner.calibrate(
                seconds=seconds,
                tolerance=tolerance,
                max_rows=max_rows,
                inputs=inputs,
                save=True if output is None else output,
                progress=show,
            )
        batching = runner.batching
        # Where an output has no rows, it says how requests are launched, and costs do not.
        free = not isinstance(batching, MultipleOf) and all(t.batch_axis is not None for t in runner.spec.outputs)
    changes = find_changes(batching, calibration.costs()) if free else []
    if as_json:
        print_json(_as_json(model, batching, calibration, changes))
        return
    setting = calibration.setting
    print_text(f"{model} on {setting.backend} ({setting.runtime}), {batching}", "bold")
    if not setting.machine:
        print_text(f"SIMULATED: times on the {setting.clock}; no hardware was measured", "yellow")
    elif is_simulated(setting.backend):
        print_text("SIMULATED: how long the simulator takes on this machine, which says nothing of hardware", "yellow")
    _print(calibration)
    print_text()
    if free:
        _print_changes(changes)
    else:
        print_text("plans stay as they were: this model and its batch sizes leave nothing to choose")
    where = "it is found there from now on" if output is None else f"used where it is named: --calibration {output}"
    print_text(f"saved in {calibration.path}; {where}")


@dataclass(frozen=True, slots=True)
class Change:
    """What planning with measured costs changes for requests of 1 row to twice the largest size.

    Attributes:
        instead_of: what requests would be planned by otherwise.
        requests: how many were looked at.
        rows: those of them that are planned otherwise now.
        saved: share of the time of all those looked at that this saves, by the measured costs; below 0 where the other plans
            look cheaper, but by less than can be told.
        most: the largest share saved of one request; 0 where none saves any.
        example: that request's plans, before and now; None where none saves any.
    """

    instead_of: str
    requests: int
    rows: tuple[int, ...]
    saved: float
    most: float
    example: tuple[Plan, Plan] | None


def find_changes(batching: Batching, costs: CurveCosts) -> list[Change]:
    """Return what plans with these costs change, beside those of the prior and those that round up."""
    planner, prior = Planner(batching, costs), Planner(batching)
    plans = [planner.plan(rows) for rows in range(1, 2 * max(costs.sizes) + 1)]
    if isinstance(batching, AnyBatch):
        return [_change("one launch", costs, [prior.plan(plan.rows) for plan in plans], plans)]
    return [
        _change("the prior", costs, [prior.plan(plan.rows) for plan in plans], plans),
        _change("rounding up", costs, [planner.plan(plan.rows, policy="round_up") for plan in plans], plans),
    ]


def _change(instead_of: str, costs: CurveCosts, before: Sequence[Plan], after: Sequence[Plan]) -> Change:
    def cost(plan: Plan) -> float:
        return math.fsum(costs.of(launch.gear) for launch in plan.launches)

    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.launches != new.launches]
    saved = sum(cost(old) - cost(new) for old, new in pairs) / sum(map(cost, before))
    shares = [round(1 - cost(new) / cost(old), 9) for old, new in pairs]  # of equal ones, the first
    most = max([0.0, *shares])
    return Change(
        instead_of,
        len(after),
        tuple(new.rows for _, new in pairs),
        saved,
        most,
        pairs[shares.index(most)] if most else None,
    )


def _check_output(path: Path) -> None:
    """Check, before a model is opened, that a calibration can be saved there without loss of anything else.

    Raises:
        InputError: there is no such folder, or what is there is no calibration.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {str(path.parent)!r}")
    if path.exists():
        try:
            Calibration.load(path)
        except InputError as error:
            raise InputError(f"{path}: only a calibration is replaced, delete it first: {error}") from error


def _as_json(model: Path, batching: Batching, calibration: Calibration, changes: list[Change]) -> dict[str, Any]:
    setting = calibration.setting
    return {
        "model": str(model),
        "backend": setting.backend,
        "simulated": is_simulated(setting.backend),
        "runtime": setting.runtime,
        "clock": setting.clock,
        "machine": setting.machine or None,
        "batching": batching_as_json(batching),
        "tight": calibration.is_tight,
        "tolerance": calibration.tolerance,
        "seconds": calibration.seconds,
        "measurements": [
            asdict(each) | {"per_row_s": each.median_s / each.size, "tight": each.is_tight(calibration.tolerance)}
            for each in calibration.measurements
        ],
        "changes": [
            asdict(each) | {"example": each.example and [plan_as_json(plan) for plan in each.example]} for each in changes
        ],
        "path": str(calibration.path),
    }


def _print(calibration: Calibration) -> None:
    found, within = calibration.measurements, f"within {100 * calibration.tolerance:.3g} %"
    unit, scale = time_unit(min(each.median_s for each in found))
    print_text(f"times in {unit} on the {calibration.setting.clock}; measured for {calibration.seconds:.3g} s")
    if calibration.is_tight:
        print_text(f"sure enough: all medians are known {within}, with 95 % confidence")
    else:
        loose = ", ".join(str(each.size) for each in found if not each.is_tight(calibration.tolerance))
        print_text(f"time is over: not known {within} are the medians of {loose}; --seconds gives more time")
    print_text()
    numbers = ("rows", "median", "95 % interval", "launches", "per row", "of best")
    table = new_table(*numbers, "", numbers=numbers)
    best = min(each.median_s / each.size for each in found)
    for each in found:
        share = best * each.size / each.median_s
        table.add_row(
            str(each.size),
            three_digits(each.median_s * scale),
            f"{three_digits(each.low_s * scale)} - {three_digits(each.high_s * scale)}",
            str(each.launches),
            three_digits(each.median_s / each.size * scale),
            f"{share:.0%}",
            bar(share),
        )
    print_table(table)


def _print_changes(changes: list[Change]) -> None:
    if not any(change.rows for change in changes):
        names = " and by ".join(change.instead_of for change in changes)
        print_text(f"requests of 1 to {counted(changes[0].requests, 'row')} are planned as by {names}")
        return
    which = f"planned otherwise, of 1 to {counted(changes[0].requests, 'row')}"
    table = new_table("instead of", which, "saves in all", "at most", numbers=("saves in all",))
    for change in changes:
        example = ""
        if change.example is not None:
            before, now = change.example
            example = f"{change.most:.1%}: {counted(now.rows, 'row')} as {now}, not {before}"
        listed = f": {_ranges(change.rows)}" if change.rows else ""
        table.add_row(change.instead_of, f"{len(change.rows)}{listed}", f"{change.saved:.1%}", example)
    print_table(table)
    if any(change.saved < 0 for change in changes):
        print_text("below 0: the other plans look cheaper, by less than these figures can tell")


def _ranges(numbers: Sequence[int], most: int = 8) -> str:
    """Return ascending numbers as ranges, such as ``"1, 5-7"``; of many, the first ones."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    listed = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ", ".join(listed[:most]) + ", ..." * (len(listed) > most)
