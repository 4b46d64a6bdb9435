"""``anybatch plan``: how requests would be split, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from anybatch._batching import Batching, Gears, MultipleOf, check_batch_sizes
from anybatch._calibration import Calibration
from anybatch._cli._arguments import (
    BackendName,
    Device,
    Independent,
    Json,
    Options,
    PolicyName,
    Safety,
    check_charts,
    open_runner,
    parse_floats,
    parse_ints,
)
from anybatch._cli._output import bar, counted, new_table, plan_as_json, print_chart, print_json, print_table, print_text
from anybatch._costs import AffineCosts, Costs, CurveCosts, TableCosts
from anybatch._errors import InputError
from anybatch._planner import Explanation, Planner, explain_rows
from anybatch.plots import cost_chart, policy_chart


def plan(
    rows: Annotated[
        list[str] | None, typer.Option("--rows", metavar="N[,N]...", help="Rows of a request; may be repeated.")
    ] = None,
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="Plan for this model's batch sizes.", show_default=False)
    ] = None,
    gears: Annotated[
        str | None,
        typer.Option("--gears", "--batch-sizes", metavar="1,4,8", help="Batch sizes: to plan for, or to compile MODEL for."),
    ] = None,
    costs: Annotated[str | None, typer.Option("--costs", metavar="1,2.9,5.5", help="What a launch of each gear costs.")] = None,
    overhead: Annotated[
        float | None, typer.Option("--overhead", help="What each launch costs on top of its rows; with --per-row.")
    ] = None,
    per_row: Annotated[
        float | None, typer.Option("--per-row", help="What each row of a launch costs; with --overhead.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE", help="Costs as measured by calibrate; default: what it kept for MODEL."),
    ] = None,
    plot: Annotated[
        list[str] | None,
        typer.Option(
            "--plot", metavar="FILE", help="Chart each policy's cost over rows: .png, .svg, or - for here; may be repeated."
        ),
    ] = None,
    plot_costs: Annotated[
        list[str] | None, typer.Option("--plot-costs", metavar="FILE", help="Chart what launches cost; as --plot.")
    ] = None,
    up_to: Annotated[
        int | None, typer.Option("--up-to", metavar="N", help="Largest rows of --plot; default: twice the largest gear.")
    ] = None,
    policy: PolicyName = "least_cost",
    backend: BackendName = None,
    device: Device = 0,
    option: Options = None,
    safety: Safety = "auto",
    independent: Independent = None,
    as_json: Json = False,
) -> None:
    """Show how requests are split, and at what cost.

    The launches that cover each request, its padding, and what each other policy would cost.
    Without a MODEL nothing is opened: --gears says which batch sizes there are, or a calibration does.
    Charts replace files of their name; files need pip install 'anybatch[plot]'.
    """
    plots, cost_plots = plot or [], plot_costs or []
    if not (rows or plots or cost_plots):
        raise typer.BadParameter("expected --rows, --plot or --plot-costs: nothing is asked for")
    _check_plots(plots, cost_plots, up_to, as_json=as_json)
    counts = [count for text in rows or () for count in parse_ints("--rows", text)]
    table = given_costs(gears, costs, overhead, per_row)
    if table is not None and calibration is not None:
        raise InputError("expected --calibration, or costs by other options, got both")
    if model is not None:
        with open_runner(
            model,
            backend,
            device,
            gears,
            option,
            costs=calibration or table,
            policy=policy,
            safety=safety,
            independent=independent or (),
        ) as runner:
            planner = runner.planner
            explanations = [runner.explain(count) for count in counts]
    else:
        if gears is None and calibration is None:
            raise InputError("expected a MODEL, --gears such as --gears 1,2,4,8, or --calibration")
        if backend is not None or device or option or independent:
            raise InputError("--backend, --device, --option and --independent are for opening a MODEL, but there is none")
        batching: Batching | None = None if gears is None else Gears(tuple(parse_ints("--gears", gears)))
        if calibration is not None:
            measured = Calibration.load(calibration)
            if batching is None:
                batching = measured.batching
            table = _say_what_is_estimated(measured.costs(), batching)
        # Any string is a policy until the planner says which there are.
        planner = Planner(batching, table, policy)  # type: ignore[arg-type]
        explanations = [explain_rows(planner, count) for count in counts]
    charts = [(policy_chart(planner, up_to), plots)] if plots else []
    charts += [(cost_chart(planner.costs, _launch_sizes(planner)), cost_plots)] if cost_plots else []
    files = [(chart, target) for chart, targets in charts for target in targets if target != "-"]
    for chart, file in files:  # before anything is printed: one may not be writable
        chart.save(file)
    if as_json:
        documents = [_as_json(explanation) for explanation in explanations]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    shown: list[Callable[[], None]] = [partial(_print, explanation) for explanation in explanations]
    shown += [partial(print_chart, chart) for chart, targets in charts for target in targets if target == "-"]
    for index, show in enumerate(shown):
        if index:
            print_text()
        show()
    for _, file in files:
        print_text(f"written   {file}")


def _check_plots(plots: list[str], cost_plots: list[str], up_to: int | None, *, as_json: bool) -> None:
    """Check, before a model is opened, which may take minutes, that charts can be drawn where they are wanted."""
    check_charts([*plots, *cost_plots], as_json=as_json)
    if up_to is not None and not plots:
        raise InputError("--up-to is for --plot, which is missing")


def _launch_sizes(planner: Planner) -> tuple[int, ...]:
    """Return the sizes of launches to show: the gears, or what the costs know, or some."""
    if isinstance(planner.batching, Gears):
        return planner.batching.sizes
    unit = planner.batching.size if isinstance(planner.batching, MultipleOf) else 1
    return planner.costs.sizes or tuple(unit * 2**power for power in range(7))


def given_costs(gears: str | None, costs: str | None, overhead: float | None, per_row: float | None) -> Costs | None:
    """Return the costs that options say, None where they say none.

    Raises:
        InputError: they do not go together, or do not read as what they should be.
    """
    if overhead is not None or per_row is not None:
        if overhead is None or per_row is None:
            raise InputError("--overhead and --per-row belong together: give both")
        if costs is not None:
            raise InputError("expected --costs, or --overhead and --per-row, got all of them")
        return AffineCosts(overhead, per_row, source="overhead and per row as given", unit="")
    if costs is None:
        return None
    if gears is None:
        raise InputError("--costs has one cost for each of --gears, which is missing")
    sizes, values = parse_ints("--gears", gears), parse_floats("--costs", costs)
    check_batch_sizes(sizes)  # a dict would keep only the last of two equal ones
    if len(sizes) != len(values):
        raise InputError(f"expected one cost for each gear, got {len(values)} costs for {len(sizes)} gears")
    return TableCosts(dict(zip(sizes, values, strict=True)))


def _say_what_is_estimated(costs: CurveCosts, batching: Batching) -> CurveCosts:
    estimated = [size for size in batching.sizes if size not in costs.points] if isinstance(batching, Gears) else []
    return replace(costs, source=f"{costs.source}; estimated for {estimated}") if estimated else costs


def _as_json(explanation: Explanation) -> dict[str, Any]:
    return plan_as_json(explanation.plan) | {
        "padding_cost": explanation.padding_cost,
        "policies": dict(explanation.alternatives),
        "batching": explanation.batching,
        "cost_source": explanation.cost_source,
        "cost_unit": explanation.cost_unit,
        "error": explanation.error,
        "safety": explanation.safety or None,
        "unsure": None if explanation.unsure is None else plan_as_json(explanation.unsure),
        "runs": explanation.runs,
        "actual": explanation.actual,
    }


def _print(explanation: Explanation) -> None:
    plan, unit = explanation.plan, f" {explanation.cost_unit}" * bool(explanation.cost_unit)
    print_text(f"{counted(plan.rows, 'row')} on {explanation.batching}: {plan}", "bold")
    print_text(
        f"padding   {plan.padded_rows} of {plan.rows + plan.padded_rows} rows, {explanation.padding_cost:.6g}{unit} of the cost"
    )
    print_text(f"cost      {explanation.predicted}{unit}; costs: {explanation.cost_source}")
    if explanation.safety:
        print_text(f"rows      {explanation.safety}")
    if explanation.unsure is not None:
        saving = 1 - explanation.unsure.cost / plan.cost
        print_text(f"unsure    {explanation.unsure} looks {saving:.1%} cheaper, which the estimates are too unsure to tell")
    print_text()
    table = new_table("policy", "cost", "more", "", numbers=("cost", "more"))
    if not explanation.alternatives:
        print_text("no policy chose this: the model rules out padding, or more than one launch")
        return
    highest = max(explanation.alternatives.values())
    for name, cost in explanation.alternatives.items():
        more = f"{cost / plan.cost - 1:+.0%}" if plan.cost and cost != plan.cost else ""
        share = cost / highest if highest else 0.0
        table.add_row(name, f"{cost:.6g}", more, bar(share), style="bold" if name == plan.policy else None)
    print_table(table)
