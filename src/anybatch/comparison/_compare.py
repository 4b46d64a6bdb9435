"""`compare`: the same rows to several backends, one after another, whatever becomes of each."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final, TypeAlias

from anybatch._backend import Backend
from anybatch._calibration import digest_of, machine, now
from anybatch._errors import InputError
from anybatch._planner import check_rows
from anybatch._registry import find_model
from anybatch._tensors import Array, ModelSpec, check_request
from anybatch._version import __version__
from anybatch.comparison._accuracy import check_accuracy, default_cases, generated_inputs
from anybatch.comparison._divergence import find_divergence
from anybatch.comparison._entries import Contestant, Entry, check_names, describe_model
from anybatch.comparison._results import Accuracy, Case, Comparison, Divergence, Speed, Verdict
from anybatch.comparison._speed import measure_speeds
from anybatch.comparison._tolerances import Tolerances

Inputs: TypeAlias = Mapping[str, Array] | Callable[[ModelSpec], Mapping[str, Array]]
# What is going on, and the share of it that is done, 0 to 1.
Progress: TypeAlias = Callable[[str, float], None]

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
    """Send the same rows to several backends: do the answers agree, where do they part, how long do they take?

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
        ModelError: there is no such file.
        In every case nothing stays open. What goes wrong with an entry is told in the result, not raised; a backend that is
        not installed, too.
    """
    started, created = perf_counter(), now()
    source = find_model(model)
    entries, chosen = _entries(on, reference)
    sizes = None if batch_sizes is None else sorted({check_rows(rows) for rows in batch_sizes})
    if sizes == []:
        raise InputError("expected at least one of batch_sizes, or None for those that hurt, got none")
    for name, value in (("seconds", seconds), ("bisect_seconds", bisect_seconds)):
        if not 0 <= value < float("inf"):
            raise InputError(f"expected {name} to be 0 or more, got {value!r}")
    contestants = [Contestant(entry, source) for entry in entries]
    by_name = {each.name: each for each in contestants}
    accuracy: list[Accuracy] = []
    speeds: list[Speed] = []
    divergences: list[Divergence] = []
    told, data_rows = "not sent", 0
    try:
        for index, each in enumerate(contestants):
            progress(f"opening {each.name}", index / len(contestants))
            each.open()
        opened = [each for each in contestants if each.runner is not None]
        if opened:
            asked = by_name[chosen] if by_name[chosen] in opened else opened[0]
            assert asked.runner is not None
            spec = asked.runner.spec
            given = inputs(spec) if callable(inputs) else inputs
            if given is not None:
                data_rows, given = check_request(spec, given)
                if not data_rows:
                    raise InputError("expected at least one row to compare with, got an empty data set")
            cases = _cases(sizes, opened, data_rows if given is not None else None)
            if given is None:
                data_rows = max(case.rows for case in cases)
                given = generated_inputs(spec, max(data_rows, 1), free)
            told = "made up, the same at every call" if inputs is None else data or "the caller's"
            accuracy = check_accuracy(
                contestants, chosen, cases, given, tolerances=tolerances, progress=partial(progress, "comparing answers")
            )
            if seconds:
                speeds = measure_speeds(
                    opened,
                    [rows for rows in sorted({rows for case in cases for rows in case.requests}) if rows],
                    given,
                    stream=max(cases, key=lambda case: len(case.requests)).requests,
                    seconds=seconds,
                    progress=partial(progress, "timing"),
                )
            if bisect_seconds:
                divergences = _divergences(accuracy, by_name, chosen, source, given, bisect_seconds, progress)
    finally:
        for each in contestants:
            with each.watched("close"):
                each.close()
    reasons = tuple(_reasons(contestants, chosen, accuracy))
    return Comparison(
        verdict="fail" if reasons else "pass",
        reasons=reasons,
        model=describe_model(model),
        model_digest=digest_of(source),
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
        raise InputError(f"expected a list of what to compare, such as ['onnxruntime', 'ascend'], got {on!r}")
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


def _divergences(
    accuracy: Iterable[Accuracy],
    contestants: Mapping[str, Contestant],
    reference: str,
    model: Any,
    inputs: Mapping[str, Array],
    seconds: float,
    progress: Progress,
) -> list[Divergence]:
    """Look for the first node that is off, for each entry that is, at the first case and output where it is."""
    found: dict[str, Divergence] = {}
    for each in accuracy:
        if each.verdict == "pass" or each.metrics is None or each.entry in found:
            continue
        with contestants[each.entry].watched("divergence", each.case.name):
            found[each.entry] = find_divergence(
                model,
                contestants[reference].entry,
                contestants[each.entry].entry,
                inputs,
                output=each.output,
                case=each.case,
                seconds=seconds,
                progress=partial(progress, f"looking for the first node that is off on {each.entry}"),
            )
    return list(found.values())


def _verdict(contestant: Contestant, accuracy: Iterable[Accuracy]) -> Verdict:
    off = any(each.entry == contestant.name and each.verdict == "fail" for each in accuracy)
    return "fail" if contestant.failures or off else "pass"


def _reasons(contestants: Sequence[Contestant], reference: str, accuracy: Sequence[Accuracy]) -> Iterable[str]:
    """Yield what is wrong, entry by entry."""
    for contestant in contestants:
        told = set()
        for failure in contestant.failures:
            if failure.stage != "accuracy":  # those are told with their case below
                yield f"{contestant.name}: {_STAGES[failure.stage]} failed: {failure.error}: {failure.message}"
        mine = [each for each in accuracy if each.entry == contestant.name]
        for output in dict.fromkeys(each.output for each in mine):
            cases = [each for each in mine if each.output == output]
            failed = [each for each in cases if each.verdict == "fail"]
            if failed:
                fault = failed[0].faults[0] if failed[0].faults else "beyond its tolerance"
                what = f"output {output!r}" if output else "answers"
                told.add(fault)
                yield f"{contestant.name}: {what} failed in {len(failed)} of {len(cases)} cases, first at {failed[0].case.name}: {fault}"
        if (
            contestant.name != reference
            and contestant.runner is not None
            and not any(each.metrics is not None and each.metrics.elements for each in mine)
        ):
            yield f"{contestant.name}: nothing was compared, so nothing is known"


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
