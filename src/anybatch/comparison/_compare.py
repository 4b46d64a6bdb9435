"""`compare`: the same rows to several backends, one after another, whatever becomes of each."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final, TypeAlias

from anybatch._backend import Backend, Model
from anybatch._calibration import digest_of, machine, now
from anybatch._errors import InputError
from anybatch._planner import check_rows
from anybatch._registry import find_model
from anybatch._samples import take_rows
from anybatch._tensors import Array, ModelSpec, check_request
from anybatch._version import __version__
from anybatch.comparison._accuracy import (
    cases_of,
    check_accuracy,
    compare_arrays,
    default_cases,
    made_up_rows,
    make_up_inputs,
    rows_of,
)
from anybatch.comparison._divergence import find_divergence
from anybatch.comparison._entries import Contestant, Entry, check_names, describe_model
from anybatch.comparison._results import Accuracy, Case, Comparison, Divergence, Metrics, Speed, Tolerance, Verdict
from anybatch.comparison._speed import measure_speeds
from anybatch.comparison._tolerances import Tolerances, float_info

Inputs: TypeAlias = Mapping[str, Array] | Callable[[ModelSpec], Mapping[str, Array]]
# What is going on, and the share of it that is done, 0 to 1.
Progress: TypeAlias = Callable[[str, float], None]

_MOST_REQUESTS: Final = 200  # of the stream that is timed
_PACKAGES: Final = ("numpy", "onnx", "onnxruntime")


def compare(
    model: str | os.PathLike[str] | bytes | Any,
    on: Sequence[str | Entry | Backend],
    *,
    reference: str | Entry | Backend | None = None,
    inputs: Inputs | None = None,
    data: str | None = None,
    free: Mapping[str, int] | None = None,
    batch_sizes: Sequence[int] | None = None,
    tolerances: Tolerances | None = None,
    seconds: float = 10.0,
    bisect_seconds: float = 60.0,
    progress: Progress = lambda _what, _share: None,
) -> Comparison:
    """Send the same rows to several backends: whether the answers agree, where they part, how long they take.

    An entry that fails, when it is opened or later, takes no other with it: the others finish, and the result says so.

    Args:
        model: a file, the bytes of an ONNX model, or an ``onnx.ModelProto``.
        on: what to compare, at least one besides the reference: names of backends, backends, or an `Entry` where it has
            options, batch sizes or a name of its own.
        reference: what the others are held against: the name of one of `on`, or another entry; None is the first of `on`.
        inputs: a request with the rows to send, all of which are compared, as for `Runner.run`; or a function that returns
            one for the model's spec, such as one that reads a file. None makes up random ones, the same at every call.
        data: what the rows are, for reports, such as a file's name.
        free: sizes of free dimensions where rows are made up, by name.
        batch_sizes: rows of the requests to compare and to time, 0 or more; None takes the sizes that hurt: 0, 1, around each
            compiled batch size and above the largest, and a stream of ragged sizes.
        tolerances: how far outputs may be off, by name; None, and for outputs that are not named, by the outputs' dtypes and
            by what their entries compute in, see `default_tolerance`.
        seconds: wall time to spend on timing, all entries together; 0 times nothing.
        bisect_seconds: wall time, per entry that is off, to look for the first node that is; 0 does not look.
        progress: called with what is going on and the share of it that is done, 0 to 1.

    Returns:
        What was found. Its verdict is ``"fail"`` where an entry failed, was off or was refused a request, and where nothing
        was compared.

    Raises:
        InputError: an argument does not fit: an entry that is named twice, nothing to compare with, sizes below 0, rows that
            are no request to the model, none of them, or tolerances of no output.
        ModelError: there is no such file, or it cannot be read.
        In every case nothing stays open. What goes wrong with an entry is told in the result, not raised; a backend that is
        not installed, too.
    """
    started, created = perf_counter(), now()
    source = find_model(model)
    model_digest = digest_of(source)
    entries, chosen = _entries(on, reference)
    sizes = None if batch_sizes is None else sorted({check_rows(rows) for rows in batch_sizes})
    if sizes == []:
        raise InputError("expected at least one of batch_sizes, or None for those that hurt, got none")
    for name, value in (("seconds", seconds), ("bisect_seconds", bisect_seconds)):
        if not 0 <= value < float("inf"):
            raise InputError(f"expected {name} to be 0 or more, got {value!r}")
    contestants = [Contestant(entry, source) for entry in entries]
    leader = next(each for each in contestants if each.name == chosen)
    accuracy: list[Accuracy] = []
    speeds: list[Speed] = []
    divergences: list[Divergence] = []
    told, data_rows = "none were sent", 0
    try:
        for index, each in enumerate(contestants):
            progress(f"opening {each.name}", index / len(contestants))
            each.open()
        opened = [each for each in contestants if each.runner is not None]
        if opened:
            # Where the reference could not be opened, the others are still timed.
            first = leader if leader.runner is not None else opened[0]
            told, data_rows, rows, cases = _data(first, opened, inputs, data, free, sizes)
            if leader.runner is not None and len(opened) > 1:
                show = partial(progress, "comparing answers")
                accuracy = check_accuracy(opened, leader, cases, rows, tolerances=tolerances, progress=show)
            if seconds:
                speeds = measure_speeds(
                    opened,
                    sorted({case.rows for case in cases if len(case.requests) == 1} - {0}),
                    take_rows(_spec(first), rows, max(max(case.requests) for case in cases)),
                    stream=cases[-1].requests[:_MOST_REQUESTS],
                    seconds=seconds,
                    progress=partial(progress, "timing"),
                )
            if bisect_seconds:
                divergences = _divergences(accuracy, contestants, leader, source, rows, bisect_seconds, progress)
    finally:
        for each in contestants:
            with each.watched("close"):
                each.close()
    reasons = tuple(_reasons(contestants, chosen, accuracy))
    return Comparison(
        verdict="fail" if reasons else "pass",
        reasons=reasons,
        model=describe_model(model),
        model_digest=model_digest,
        data=told,
        data_rows=data_rows,
        reference=chosen,
        entries=tuple(each.result(_verdict(each, accuracy)) for each in contestants),
        accuracy=tuple(accuracy),
        speeds=tuple(speeds),
        divergences=tuple(divergences),
        environment=_environment(),
        created=created,
        seconds=perf_counter() - started,
    )


def _entries(on: Sequence[str | Entry | Backend], reference: str | Entry | Backend | None) -> tuple[list[Entry], str]:
    """Return all entries, the reference among them, and its name."""
    if isinstance(on, (str, Entry)) or not isinstance(on, Sequence):
        raise InputError(f"expected a list of what to compare, such as two names of backends, got {on!r}")
    entries = [each if isinstance(each, Entry) else Entry(each) for each in on]
    check_names(entries)
    names = [entry.name for entry in entries]
    chosen = names[0] if reference is None else reference
    if not (isinstance(chosen, str) and chosen in names):
        extra = chosen if isinstance(chosen, Entry) else Entry(chosen)
        entries.insert(0, extra)
        check_names(entries)
        chosen = extra.name
    if len(entries) < 2:
        raise InputError(
            f"expected at least one entry besides the reference {chosen!r}, got none: a comparison with itself says nothing. "
            "Give the same backend two names to see how far it agrees with itself"
        )
    return entries, chosen


def _data(
    first: Contestant,
    opened: Sequence[Contestant],
    inputs: Inputs | None,
    data: str | None,
    free: Mapping[str, int] | None,
    sizes: Sequence[int] | None,
) -> tuple[str, int, Mapping[str, Array], tuple[Case, ...]]:
    """Return what the rows are, how many there are, the rows, and what is sent of them."""
    batchings = [each.runner.batching for each in opened if each.runner is not None]
    spec = _spec(first)
    if inputs is None:
        cases = default_cases(batchings, spec=spec) if sizes is None else cases_of(sizes)
        count = made_up_rows(cases)
        return "made up, the same at every call", count, make_up_inputs(spec, count, free), cases
    if free:
        raise InputError(f"expected free for rows that are made up, but inputs are given, got {dict(free)}")
    count, rows = check_request(spec, inputs(spec) if callable(inputs) else inputs)
    cases = default_cases(batchings, count, spec=spec) if sizes is None else cases_of(sizes, count)
    return data or "the caller's", count, rows, cases


def _spec(contestant: Contestant) -> ModelSpec:
    assert contestant.runner is not None
    return contestant.runner.spec


def _divergences(
    accuracy: Iterable[Accuracy],
    contestants: Sequence[Contestant],
    reference: Contestant,
    model: Model,
    rows: Mapping[str, Array],
    seconds: float,
    progress: Progress,
) -> list[Divergence]:
    """Look for the first node that is off, for each entry that is, in the smallest case where it is."""
    found = []
    for contestant in contestants:
        off = [each for each in accuracy if each.entry == contestant.name and each.metrics is not None and each.metrics.outside]
        if not off:
            continue
        first = min(off, key=lambda each: each.case.rows)
        what = f"looking for the first node that is off on {contestant.name}"
        with contestant.watched("divergence", first.case.name):
            found.append(
                find_divergence(
                    model,
                    reference.entry,
                    contestant.entry,
                    rows_of(_spec(reference), rows, first.case),
                    output=first.output,
                    case=first.case,
                    judge=partial(_judge, [reference, contestant]),
                    seconds=seconds,
                    progress=partial(_tell, progress, what),
                )
            )
    return found


def _tell(progress: Progress, what: str, line: str) -> None:
    progress(f"{what}: {line}", 0.0)


def _judge(sides: Sequence[Contestant], expected: Array, got: Array) -> tuple[Metrics, Tolerance]:
    """Hold an inner tensor against the reference's, as outputs are."""
    inputs = [tensor.dtype for side in sides if not side.precision for tensor in _spec(side).inputs]
    floats = [str(dtype) for dtype in inputs if float_info(dtype) is not None]
    (judged,) = compare_arrays({"": expected}, {"": got}, precisions=[*(side.precision for side in sides), *floats])
    assert judged.metrics is not None
    assert judged.tolerance is not None
    return judged.metrics, judged.tolerance


def _verdict(contestant: Contestant, accuracy: Iterable[Accuracy]) -> Verdict:
    off = any(each.entry == contestant.name and each.verdict == "fail" for each in accuracy)
    return "fail" if contestant.failures or off else "pass"


def _reasons(contestants: Sequence[Contestant], reference: str, accuracy: Sequence[Accuracy]) -> Iterable[str]:
    """Yield what is wrong, entry by entry."""
    for contestant in contestants:
        name = contestant.name
        for failure in contestant.failures:
            if failure.stage != "accuracy" or name == reference:  # else it is told with its case below
                case = f" at {failure.case}" if failure.case else ""
                yield f"{name}: {_STAGES[failure.stage]} failed{case}: {failure.error}: {failure.message}"
        mine = [each for each in accuracy if each.entry == name]
        sent = len({each.case for each in mine})
        for output in dict.fromkeys(each.output for each in mine):
            failed = [each for each in mine if each.output == output and each.verdict == "fail"]
            if failed:
                plainest = max(failed, key=lambda each: len(each.faults))  # a fault in a request of one row says least
                what = f"output {output!r} is off" if output else "there was no answer"
                where = f"in {len(failed)} of {sent} cases, such as {plainest.case.name}"
                yield f"{name}: {what} {where}: {plainest.faults[0]}"
        compared = any(each.metrics is not None and each.metrics.elements for each in mine)
        if name != reference and contestant.runner is not None and not compared:
            yield f"{name}: nothing was compared, so nothing is known"


_STAGES: Final = {
    "open": "opening",
    "speed": "timing",
    "divergence": "looking for the first node that is off",
    "close": "closing",
}


def _environment() -> dict[str, str]:
    """Return what figures depend on besides the entries: versions and the machine."""
    return {
        "anybatch": __version__,
        "Python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "system": platform.system() + " " + platform.release(),
        "machine": machine(),
    }
