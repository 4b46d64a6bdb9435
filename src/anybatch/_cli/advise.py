"""``anybatch advise``: which batch sizes to compile for the requests there are."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anybatch import _registry
from anybatch._advisor import Advice, GearChoice
from anybatch._advisor import advise as advise_gears
from anybatch._backend import gear_limits
from anybatch._batching import Gears
from anybatch._calibration import Calibration
from anybatch._cli._arguments import BackendName, Device, Json, Options, check_charts, open_runner, parse_ints, parse_pairs
from anybatch._cli._output import bar, new_table, print_chart, print_json, print_table, print_text, progress
from anybatch._cli.plan import given_costs
from anybatch._costs import Costs
from anybatch._errors import InputError
from anybatch._trace import read_requests
from anybatch.plots import Chart, advice_chart


def advise(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="Requests: CSV of rows, or rows,count; or JSON, such as a runner's stats.")
    ],
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="Take costs and present batch sizes from this model.", show_default=False),
    ] = None,
    gears: Annotated[
        str | None, typer.Option("--gears", metavar="1,4,8", help="Sizes that --costs are of, or to compile MODEL for.")
    ] = None,
    costs: Annotated[str | None, typer.Option("--costs", metavar="1,2.9,5.5", help="What a launch of each gear costs.")] = None,
    overhead: Annotated[
        float | None, typer.Option("--overhead", help="What each launch costs on top of its rows; with --per-row.")
    ] = None,
    per_row: Annotated[
        float | None, typer.Option("--per-row", help="What each row of a launch costs; with --overhead.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="FILE", help="Measured costs, as `calibrate` saves them.")
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option("--candidates", metavar="1,2,3,4", help="Sizes to choose from; default: up to 100 likely ones."),
    ] = None,
    current: Annotated[
        str | None, typer.Option("--current", metavar="1,4,8", help="Batch sizes compiled now, to compare with.")
    ] = None,
    min_gears: Annotated[int | None, typer.Option("--min-gears", help="At least so many gears.")] = None,
    max_gears: Annotated[int | None, typer.Option("--max-gears", help="At most so many gears; default: 16.")] = None,
    max_compile_s: Annotated[
        float | None, typer.Option("--max-compile-s", help="Seconds to compile all gears; with --compile-s.")
    ] = None,
    compile_s: Annotated[
        str | None,
        typer.Option(
            "--compile-s", metavar="S | SIZE=S,...", help="Seconds for one gear; or for some sizes, with lines between."
        ),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="8G", help="Bytes, or K, M, G; with --bytes-per-row.")
    ] = None,
    bytes_per_row: Annotated[
        str | None, typer.Option("--bytes-per-row", metavar="2M", help="Memory for each row of the largest gear.")
    ] = None,
    bytes_fixed: Annotated[str, typer.Option("--bytes-fixed", metavar="100M", help="Memory on top of that.")] = "0",
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Take the fewest gears within this share of the least cost, such as 0.01.")
    ] = 0.0,
    backend: BackendName = None,
    device: Device = 0,
    option: Options = None,
    plot: Annotated[
        list[str] | None,
        typer.Option("--plot", metavar="FILE", help="Chart cost over gears: .png, .svg, or - for here; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Advise which batch sizes to compile.

    Those with which requests like these cost least, split and padded as the planner would, within budgets of gears, compile
    time and memory, and a backend's limits. With a MODEL, its costs (measured ones, where it was calibrated) and its batch
    sizes count; else --calibration, --gears and --costs, or --overhead and --per-row.
    Charts replace files of their name; files need pip install 'anybatch[plot]'.
    """
    plots = plot or []
    check_charts(plots, as_json=as_json)
    requests = read_requests(trace)
    known: Costs | None = given_costs(gears, costs, overhead, per_row)
    if calibration is not None:
        if known is not None:
            raise InputError("expected --calibration, or costs by other options, got both")
        known = Calibration.load(calibration).costs()
    now = None if current is None else parse_ints("--current", current)
    if model is not None:
        with open_runner(model, backend, device, gears, option, costs=known) as runner:
            backend = runner.backend
            known = runner.costs
            if now is None and isinstance(runner.batching, Gears):
                now = list(runner.batching.sizes)
    elif device or option:
        raise InputError("--device and --option are for opening a MODEL, but there is none")
    elif gears is not None and costs is None:
        raise InputError("--gears is for --costs or a MODEL; --current says what is compiled now, --candidates what could be")
    with progress("looking for gears") as show:
        advice = advise_gears(
            requests,
            known,
            candidates=None if candidates is None else parse_ints("--candidates", candidates),
            max_gears=max_gears,
            min_gears=min_gears,
            gear_limits=(1, None) if backend is None else gear_limits(_registry.registry().get(backend)),
            max_compile_s=max_compile_s,
            compile_s=None if compile_s is None else _parse_seconds(compile_s),
            max_memory_bytes=None if max_memory is None else _parse_bytes("--max-memory", max_memory),
            bytes_per_row=None if bytes_per_row is None else _parse_bytes("--bytes-per-row", bytes_per_row),
            bytes_fixed=_parse_bytes("--bytes-fixed", bytes_fixed),
            current=now,
            tolerance=tolerance,
            progress=show,
        )
    chart = _chart(advice)
    files = [target for target in plots if target != "-"]
    for file in files:  # before anything is printed: one may not be writable
        chart.save(file)
    if as_json:
        print_json(_as_json(advice))
        return
    _print(advice)
    for _ in range(len(plots) - len(files)):
        print_text()
        print_chart(chart)
    for file in files:
        print_text(f"written   {file}")


def _chart(advice: Advice) -> Chart:
    return advice_chart(
        [len(choice.gears) for choice in advice.curve],
        [choice.cost for choice in advice.curve],
        others={choice.name: (len(choice.gears), choice.cost) for choice in advice.alternatives},
        unit=advice.cost_unit,
        note=f"costs: {advice.cost_source}",
    )


def _parse_seconds(text: str) -> float | dict[int, float]:
    try:
        if "=" not in text:
            return float(text)
        return {int(size): float(seconds) for size, seconds in parse_pairs("--compile-s", text.split(",")).items()}
    except InputError:
        raise
    except ValueError:
        raise InputError(f"--compile-s: expected seconds such as 20, or by size such as 1=10,64=35, got {text!r}") from None


def _parse_bytes(option: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"{option}: expected bytes such as 4096, 512K, 1.5G (of 1024 each), got {text!r}")
    return float(match[1]) * 1024.0 ** " KMGT".index(match[2].upper() or " ")


def _as_json(advice: Advice) -> dict[str, Any]:
    return asdict(advice) | {
        "gap": advice.gap,
        "estimated_share": advice.estimated_share,
        "compiler_line": advice.compiler_line,
        "batch_sizes_line": advice.batch_sizes_line,
    }


def _print(advice: Advice) -> None:
    unit = f" {advice.cost_unit}" * bool(advice.cost_unit)
    print_text(
        f"{advice.requests:,.6g} requests, {advice.rows / advice.requests:.4g} rows on average: "
        f"compile {', '.join(map(str, advice.gears))}",
        "bold",
    )
    print_text(f"cost      {advice.cost:.6g}{unit} per request, {advice.cost_per_row:.4g}{unit} per row; {advice.proof}")
    print_text(f"costs     {advice.cost_source}")
    if advice.compile_s is not None:
        print_text(f"compile   {advice.compile_s:,.4g} s")
    if advice.memory_bytes is not None:
        print_text(f"memory    {advice.memory_bytes:,.0f} bytes")
    for sentence in advice.notes:
        print_text(sentence, "yellow")
    print_text()
    table = new_table("gear", "cost", "known", "launches", "of cost", "", numbers=("gear", "cost", "launches", "of cost"))
    for use in advice.uses:
        table.add_row(
            str(use.size), f"{use.cost:.6g}", use.provenance, f"{use.launches:.3g}", f"{use.share:.0%}", bar(use.share)
        )
    print_table(table)
    print_text()
    _print_choices("instead", advice.alternatives, advice)
    print_text()
    _print_choices("at most", advice.curve, advice)
    print_text()
    if advice.compiler_line is not None:
        print_text(advice.compiler_line, "bold")
    print_text(advice.batch_sizes_line, "bold")


def _print_choices(title: str, choices: tuple[GearChoice, ...], advice: Advice) -> None:
    """Print what sets of gears cost; bars begin at the cost of all candidates, below which no set can get."""
    floor = min(choice.cost for choice in (*advice.alternatives, *advice.curve))
    highest = max(choice.cost for choice in (*advice.alternatives, *advice.curve))
    table = new_table(title, "cost", "more", "", "gears", numbers=("cost", "more"))
    for choice in choices:
        more = choice.cost / advice.cost - 1
        listed = ", ".join(map(str, choice.gears[:12])) + f", ... ({len(choice.gears)})" * (len(choice.gears) > 12)
        beyond = f"  beyond {', '.join(choice.violates)}" * bool(choice.violates)
        table.add_row(
            choice.name,
            f"{choice.cost:.6g}",
            f"{more:+.1%}" if abs(more) >= 0.0005 else "",
            bar((choice.cost - floor) / (highest - floor) if highest > floor else 0.0),
            listed + beyond,
            style="bold" if choice.gears == advice.gears else None,
        )
    print_table(table)
