"""``anybatch compare``: the same rows to several backends; a verdict, figures, and a page to send on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from anybatch import comparison
from anybatch._cli._arguments import (
    InputFile,
    Json,
    ModelFile,
    Shape,
    backend_names,
    parse_floats,
    parse_int,
    parse_ints,
    parse_pairs,
    parse_value,
    warnings_as_lines,
)
from anybatch._cli._files import check_input, read_inputs
from anybatch._cli._output import counted, new_table, print_json, print_table, print_text, steps, three_digits, time_unit
from anybatch._errors import InputError
from anybatch.comparison import Accuracy, Comparison, Entry, EntryResult, Metrics, Speed

_MOST_LINES: Final = 20  # on cases that failed
_FIELDS: Final = frozenset(field.name for field in dataclasses.fields(Entry)) - {"backend", "name", "options"}


def compare(
    model: ModelFile,
    on: Annotated[
        list[str],
        typer.Option(
            "--on",
            metavar="[NAME=]BACKEND[:OPTION=VALUE...]",
            help="What to compare: a backend, perhaps with options and a name: small=onnxruntime:batch_sizes=1,4; repeat it.",
            autocompletion=backend_names,
        ),
    ],
    reference: Annotated[
        str | None, typer.Option("--reference", help="What the others are held against; default: the first.")
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            "--batch-sizes", "--rows", metavar="1,4,7", help="Rows of the requests to send; default: sizes that hurt."
        ),
    ] = None,
    input_file: InputFile = None,
    shape: Shape = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance",
            metavar="OUTPUT=RTOL[,ATOL]",
            help="How far an output may be off, relatively and absolutely; may be repeated.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long to time them, all together; 0: not at all.")] = 10.0,
    bisect_seconds: Annotated[
        float, typer.Option("--bisect-seconds", help="How long to look for the first node that is off; 0: not at all.")
    ] = 60.0,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write a page to look at and to send on (.html), JSON (.json) or JUnit XML (.xml); may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare backends: whether they agree, where they part, how fast they are.

    The same rows go to each of them, at the sizes that hurt: 0, 1, around each compiled batch size, above the largest, and as
    a stream of ragged requests. Exit status 1 where one fails or is off. Times of simulators are modelled, and never ranked
    with measured ones.
    """
    for path in output or ():
        comparison.check_save(path)
    if input_file is not None:
        check_input(input_file)
        if shape:
            raise InputError("--shape is for random inputs, but --input gives some")
    read = None if input_file is None else (lambda spec: read_inputs(input_file, spec, ignore_extra=True))
    with steps() as show, warnings_as_lines():
        found = comparison.compare(
            model,
            [parse_entry(text) for text in on],
            reference=None if reference is None else _reference(reference),
            inputs=read,
            data=None if input_file is None else str(input_file),
            free={name: parse_int("--shape", size) for name, size in parse_pairs("--shape", shape).items()} or None,
            batch_sizes=None if batch_sizes is None else parse_ints("--batch-sizes", batch_sizes),
            tolerances={name: _tolerance(text) for name, text in parse_pairs("--tolerance", tolerance).items()},
            seconds=seconds,
            bisect_seconds=bisect_seconds,
            progress=show,
        )
    for path in output or ():
        comparison.save(found, path)
    if as_json:
        print_json(comparison.as_document(found))
    else:
        _print(found)
        for path in output or ():
            print_text(f"written  {path}")
    if found.verdict == "fail":
        raise typer.Exit(1)


def parse_entry(text: str) -> Entry:
    """Return an entry such as ``small=onnxruntime:batch_sizes=1,4:threads=2``.

    Values of the backend's options read as JSON where they are that, else as text. A colon belongs to a value unless NAME=
    follows.

    Raises:
        InputError: it does not read so; or see `Entry`.
    """
    head, *pairs = re.split(r":(?=[A-Za-z_]\w*=)", text)
    name, equals, backend = head.rpartition("=")
    if not backend or (equals and not name):
        raise InputError(f"--on: expected [NAME=]BACKEND[:OPTION=VALUE...], got {text!r}")
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for option, value in parse_pairs("--on", pairs).items():
        if option == "batch_sizes":
            fields[option] = parse_ints(f"--on {backend}: batch_sizes", value)
        elif option == "device":
            fields[option] = parse_int(f"--on {backend}: device", value)
        elif option in _FIELDS:
            fields[option] = value
        else:
            options[option] = parse_value(value)
    return Entry(backend, name=name, options=options, **fields)


def _reference(text: str) -> str | Entry:
    """Return the name of an entry, or one that is described."""
    return parse_entry(text) if re.search("[=:]", text) else text


def _tolerance(text: str) -> tuple[float, float]:
    numbers = parse_floats("--tolerance", text)
    if len(numbers) > 2:
        raise InputError(f"--tolerance: expected RTOL or RTOL,ATOL, got {text!r}")
    rtol, atol = [*numbers, 0.0][:2]
    return rtol, atol


def _print(found: Comparison) -> None:
    passed = found.verdict == "pass"
    others = [entry for entry in found.entries if entry.name != found.reference]
    agree = sum(entry.verdict == "pass" for entry in others)
    print_text(
        f"{found.verdict.upper()}  {found.model}: {agree} of {len(others)} agree with {found.reference}",
        "bold green" if passed else "bold red",
    )
    for reason in found.reasons:
        print_text(f"  {reason}")
    print_text()
    _print_entries(found.entries)
    print_text()
    _print_accuracy(found)
    for divergence in found.divergences:
        print_text(f"{divergence.entry}: {divergence.reason}")
    for provenance, note in _PROVENANCES.items():
        speeds = [speed for speed in found.speeds if speed.provenance == provenance]
        if speeds:
            print_text()
            print_text(note, "bold" if provenance == "measured" else "bold yellow")
            _print_speeds(speeds)


_PROVENANCES: Final = {
    "measured": "Measured on the wall clock",
    "modelled": "SIMULATED: modelled on the device clock of each simulator; no hardware was measured",
}


def _print_entries(entries: Sequence[EntryResult]) -> None:
    table = new_table("entry", "runs on", "batch sizes", "computes in", "rows", "compile s", "open s", "MiB", "verdict")
    for entry in entries:
        safety = sorted({each.verdict for each in entry.safety})
        compiled = "" if entry.compile_s is None else "cached" if entry.compile_cached else f"{entry.compile_s:.3g}"
        table.add_row(
            entry.name,
            entry.runtime or entry.backend,
            entry.batching or "not opened",
            entry.precision,
            ", ".join(safety),
            compiled,
            "" if entry.open_s is None else f"{entry.open_s:.3g}",
            "" if entry.memory_bytes is None else three_digits(entry.memory_bytes / 2**20),
            entry.verdict,
        )
    print_table(table)


def _print_accuracy(found: Comparison) -> None:
    """Print a line per entry and output, of its worst case, and one per case that failed."""
    print_text(f"Accuracy against {found.reference}; rows are {found.data}", "bold")
    numbers = ("cases", "max abs", "mean abs", "max rel", "ULP", "cosine", "SNR dB", "top-1", "top-5", "of tolerated")
    table = new_table("entry", "output", *numbers, "verdict", numbers=numbers)
    tolerated = {}
    groups: dict[tuple[str, str], list[Accuracy]] = {}
    for each in found.accuracy:
        groups.setdefault((each.entry, each.output), []).append(each)
    for (entry, output), cases in groups.items():
        failed = sum(each.verdict == "fail" for each in cases)
        verdict = f"fail: {failed} of {counted(len(cases), 'case')}" if failed else "pass"
        compared = [each for each in cases if each.metrics is not None and each.metrics.elements]
        if not compared:
            table.add_row(entry, output, str(len(cases)), *[""] * 9, verdict)
            continue
        worst = max(compared, key=_share)
        tolerance = worst.tolerance
        assert worst.metrics is not None
        assert tolerance is not None
        told = f"{tolerance.rtol:.2g} of max(|expected|, {worst.scale:.3g})" + f" + {tolerance.atol:.2g}" * bool(tolerance.atol)
        tolerated[entry, output] = f"{told}: {tolerance.reason}"
        table.add_row(entry, output, str(len(cases)), *_figures(worst.metrics), f"{_share(worst):.2g}", verdict)
    print_table(table)
    for (entry, output), told in tolerated.items():
        print_text(f"  tolerated of {entry}, {output}: {told}")
    off = [each for each in found.accuracy if each.verdict == "fail"]
    for each in off[:_MOST_LINES]:
        print_text(f"  {each.entry}, {each.case.name}{', ' * bool(each.output)}{each.output}: {'; '.join(each.faults)}")
    if len(off) > _MOST_LINES:
        print_text(f"  and {len(off) - _MOST_LINES} more, which --json and --output show")


def _share(accuracy: Accuracy) -> float:
    """Return how far the worst element is off, as a share of what is tolerated."""
    worst = accuracy.worst
    if worst is None:
        return 0.0
    off = abs(worst.got - worst.expected)
    return off / worst.tolerated if worst.tolerated and off == off else float("inf")


def _figures(metrics: Metrics) -> list[str]:
    def number(value: float | None, form: str = ".2g") -> str:
        return "" if value is None else format(value, form)

    return [
        number(metrics.max_abs),
        number(metrics.mean_abs),
        number(metrics.max_rel),
        str(metrics.max_ulp),
        number(metrics.cosine, ".6f"),
        number(metrics.snr_db, ".1f"),
        number(metrics.top1, ".1%"),
        number(metrics.top5, ".1%"),
    ]


def _print_speeds(speeds: Sequence[Speed]) -> None:
    unit, scale = time_unit(min(size.p50.value for speed in speeds for size in speed.sizes if size.p50.value > 0))
    numbers = ("rows", "pad", "calls", "p50", "95 % interval", "p90", "p99", "rows/s", "padding")
    table = new_table("entry", "rows", "launches", *numbers[1:], numbers=numbers)
    for speed in speeds:
        for size in speed.sizes:
            table.add_row(
                speed.entry,
                str(size.rows),
                str(size.plan),
                str(size.plan.padded_rows),
                str(size.calls),
                three_digits(size.p50.value * scale),
                f"{three_digits(size.p50.low * scale)} - {three_digits(size.p50.high * scale)}",
                three_digits(size.p90.value * scale),
                three_digits(size.p99.value * scale),
                f"{size.rows_per_s.value:,.0f}",
                f"{size.padding_s / size.mean.value:.0%}" if size.mean.value else "",
            )
    print_text(f"latency in {unit}, one request at a time; padding is its share of the time")
    print_table(table)
    for speed in speeds:
        if speed.stream is not None:
            stream, rate = speed.stream, speed.stream.rows_per_s
            rows = sum(stream.requests)
            launches = ", ".join(f"{count} x {gear}" for gear, count in sorted(stream.launches.items()))
            print_text(
                f"{speed.entry}: {counted(len(stream.requests), 'request')} of ragged sizes in flight together: "
                f"{rate.value:,.0f} rows/s ({rate.low:,.0f} - {rate.high:,.0f}); launches {launches}; "
                f"padding {stream.padded_rows} of {rows + stream.padded_rows} rows"
            )
    for ranked in comparison.ranking(speeds, None):
        first = ranked.ranks[0]
        if first.faster_than:
            print_text(f"in the stream {first.entry} was shown to be faster than {', '.join(first.faster_than)}")
        elif len(ranked.ranks) > 1:
            print_text(f"in the stream {first.entry} was fastest, but was not shown to be faster than any other")
