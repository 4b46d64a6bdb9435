"""``anybatch loadgen``: a scenario of MLPerf's load generator, and its verdict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from anybatch import _registry
from anybatch._cli._arguments import (
    BackendName,
    BatchSizes,
    Device,
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
from anybatch._cli._output import activity, counted, print_json, print_text, three_digits, time_unit
from anybatch._cli.inspect import batching_as_json
from anybatch.loadgen import SIMULATED, LoadResult, Scenario, run_scenario

_SAMPLES = 256  # random ones, where no file has any


def loadgen(
    model: ModelFile,
    backend: BackendName = None,
    device: Device = 0,
    batch_sizes: BatchSizes = None,
    scenario: Annotated[
        str,
        typer.Option(
            "--scenario",
            help=f"What queries are like: {', '.join(get_args(Scenario))}.",
            autocompletion=lambda: list(get_args(Scenario)),
        ),
    ] = "SingleStream",
    qps: Annotated[float | None, typer.Option("--qps", help="Server: queries that arrive per second.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option("--latency-ms", help="Server: what 99 % of the queries must be answered in.")
    ] = None,
    samples_per_query: Annotated[int, typer.Option("--samples-per-query", help="MultiStream: rows of a query.")] = 8,
    seconds: Annotated[float, typer.Option("--seconds", help="How long the test takes at least; MLPerf asks for 600.")] = 2.0,
    seed: Annotated[int, typer.Option("--seed", help="What samples and times of arrival follow from.")] = 0,
    logs: Annotated[
        Path, typer.Option("--logs", metavar="FOLDER", help="Where the load generator's logs go; older ones are replaced.")
    ] = Path("loadgen-logs"),
    input_file: InputFile = None,
    shape: Shape = None,
    option: Options = None,
    safety: Safety = "auto",
    as_json: Json = False,
) -> None:
    """Run a scenario of MLPerf's load generator.

    Needs pip install 'anybatch[loadgen]'. Its verdict is shown, and its logs are kept; exit code 1 where it says INVALID.
    No MLPerf submission: that has rules beyond what a program can check.
    """
    if input_file is not None:
        check_input(input_file)
    arguments: dict[str, Any] = {"scenario": scenario}  # what it is, is checked where it is used
    with open_runner(model, backend, device, batch_sizes, option, safety=safety) as runner:
        inputs = rows_to_measure(runner.spec, _SAMPLES, input_file, shape)
        with activity(f"{scenario} on {runner.backend}"):
            result = run_scenario(
                runner,
                inputs,
                **arguments,
                log_folder=logs,
                target_qps=qps,
                target_latency_s=None if latency_ms is None else latency_ms / 1e3,
                samples_per_query=samples_per_query,
                min_duration_s=seconds,
                seed=seed,
            )
    runtime = _registry.registry().get(runner.backend).check_usable()
    if as_json:
        document = {"model": str(model), "backend": runner.backend, "runtime": runtime}
        print_json(document | {"batching": batching_as_json(runner.batching)} | _as_json(result))
    else:
        print_text(f"{model} on {runner.backend} ({runtime}), {runner.batching}", "bold")
        if result.simulated:
            print_text(f"SIMULATED: {SIMULATED}", "yellow")
        _print(result)
    if not result.valid:
        raise typer.Exit(1)


def _as_json(result: LoadResult) -> dict[str, Any]:
    return {
        "simulated": result.simulated,
        "scenario": result.scenario,
        "verdict": result.verdict,
        "reasons": list(result.reasons),
        "recommendation": result.recommendation,
        "early_stopping": result.early_stopping,
        "errors": list(result.errors),
        "metric": result.metric,
        "value": result.value if math.isfinite(result.value) else None,
        "unit": result.unit,
        "latency_s": {f"p{percent:g}": seconds for percent, seconds in result.percentiles.items()},
        "queries": result.queries,
        "samples": result.samples,
        "logs": [str(path) for path in result.logs],
    }


def _print(result: LoadResult) -> None:
    print_text(f"{result.verdict}  {result.metric} {result.figure}", "green" if result.valid else "red")
    for line in (*result.reasons, result.recommendation, *result.errors):
        if line:
            print_text(f"  {line}")
    unit, scale = time_unit(min(result.percentiles.values()))
    latencies = ", ".join(f"p{percent:g} {three_digits(each * scale)}" for percent, each in result.percentiles.items())
    queries = "1 query" if result.queries == 1 else f"{result.queries} queries"
    print_text(f"{result.scenario}, {queries}, {counted(result.samples, 'sample')}; latency in {unit}: {latencies}")
    print_text(f"logs in {result.logs[0].parent}")
