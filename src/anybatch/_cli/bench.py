"""``anybatch bench``: latency and throughput at several request sizes."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated, Any

import typer

from anybatch import _registry
from anybatch._bench import Latency, awkward_sizes, measure_latencies
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
    parse_ints,
    rows_to_measure,
)
from anybatch._cli._files import check_input
from anybatch._cli._output import (
    bar,
    counted,
    is_simulated,
    new_table,
    plan_as_json,
    print_declared,
    print_json,
    print_table,
    print_text,
    progress,
    three_digits,
    time_unit,
)
from anybatch._cli.inspect import batching_as_json
from anybatch._errors import InputError
from anybatch._planner import check_rows
from anybatch._samples import take_rows


def bench(
    model: ModelFile,
    backend: BackendName = None,
    device: Device = 0,
    batch_sizes: BatchSizes = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="1,7,64", help="Rows of the requests; default: sizes that hurt.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="How long to measure, per size on average; default: 1.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="How often to call each size, instead of --seconds.")
    ] = None,
    warmup: Annotated[int, typer.Option("--warmup", help="Calls of each size before measuring.")] = 3,
    input_file: InputFile = None,
    shape: Shape = None,
    option: Options = None,
    safety: Safety = "auto",
    independent: Independent = None,
    as_json: Json = False,
) -> None:
    """Measure latency and throughput.

    At several request sizes, by default those that hurt: around and above the batch sizes. Throughput is that of one
    caller, and counts real rows, no padding. Sizes take turns: a loop over one would report times that no caller sees.
    A simulator's times are those of its device clock, where it has one.
    """
    if seconds is not None and iterations is not None:
        raise InputError("expected --seconds or --iterations, got both")
    if input_file is not None:
        check_input(input_file)
    with open_runner(model, backend, device, batch_sizes, option, safety=safety, independent=independent or ()) as runner:
        sizes = awkward_sizes(runner.batching) if rows is None else parse_ints("--rows", rows)
        for size in sizes:
            check_rows(size)
        inputs = rows_to_measure(runner.spec, max(sizes), input_file, shape)
        requests = {size: take_rows(runner.spec, inputs, size) for size in sizes}
        with progress(counted(len(requests), "size")) as show:
            latencies = measure_latencies(
                runner,
                requests,
                seconds=1.0 if seconds is None else seconds,
                iterations=iterations,
                warmup=warmup,
                clock=runner.clock or perf_counter,
                progress=show,
            )
        clock = "wall clock" if runner.clock is None else runner.clock.name
    runtime = _registry.registry().get(runner.backend).check_usable()
    if as_json:
        print_json(
            {
                "model": str(model),
                "backend": runner.backend,
                "simulated": is_simulated(runner.backend),
                "runtime": runtime,
                "clock": clock,
                "batching": batching_as_json(runner.batching),
                "independent": independent or [],
                "sizes": [_as_json(latency) for latency in latencies],
            }
        )
    else:
        print_text(f"{model} on {runner.backend} ({runtime}), {runner.batching}", "bold")
        if runner.clock is not None:
            print_text(f"SIMULATED: times on the {clock}; no hardware was measured", "yellow")
        elif is_simulated(runner.backend):
            print_text("SIMULATED: how long the simulator takes on this machine, which says nothing of hardware", "yellow")
        print_declared(independent or [])
        _print(latencies)


def _as_json(latency: Latency) -> dict[str, Any]:
    plan = plan_as_json(latency.plan)
    return {key: plan[key] for key in ("rows", "launches", "padded_rows")} | {
        "iterations": len(latency.seconds),
        "seconds": sum(latency.seconds),
        "min_s": min(latency.seconds),
        "p50_s": latency.percentile(50),
        "p90_s": latency.percentile(90),
        "p99_s": latency.percentile(99),
        "mean_s": latency.mean,
        "rows_per_s": latency.rows_per_s,
    }


def _print(latencies: list[Latency]) -> None:
    unit, scale = time_unit(min(min(latency.seconds) for latency in latencies))
    print_text(f"times in {unit}, {counted(len(latencies[0].seconds), 'call')} of each size")
    print_text()
    numbers = ("rows", "pad", "min", "p50", "p90", "p99", "mean", "rows/s")
    table = new_table("rows", "launches", *numbers[1:], "", numbers=numbers)
    best = max(latency.rows_per_s for latency in latencies)
    for latency in latencies:
        times = [min(latency.seconds), *(latency.percentile(percent) for percent in (50, 90, 99)), latency.mean]
        table.add_row(
            str(latency.plan.rows),
            str(latency.plan),
            str(latency.plan.padded_rows),
            *(three_digits(time * scale) for time in times),
            f"{latency.rows_per_s:,.0f}",
            bar(latency.rows_per_s / best, width=12),
        )
    print_table(table)
