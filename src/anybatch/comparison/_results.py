"""What a comparison found, as values. Nothing here computes, opens or prints.

A comparison sends the same requests to several *entries*, each of which is a model opened on a backend, and holds the answers
of each against those of one of them, the *reference*. Its results are flat: one `Accuracy` per entry, case and output, one
`Speed` per entry, each naming what it is of, so that a script can filter them and a table is one loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from anybatch._guard import RowSafety
from anybatch._planner import Plan

# What stands beside every figure of a simulator, wherever it is shown.
MODELLED: Final = "modelled: no hardware was measured"

Verdict: TypeAlias = Literal["pass", "fail"]
Provenance: TypeAlias = Literal["measured", "modelled"]
Stage: TypeAlias = Literal["open", "accuracy", "speed", "divergence", "close"]

# Upper bounds of the bins of `Metrics.histogram`, as shares of what is tolerated; the first bin holds exact equality alone,
# and one more than there are bounds holds what is beyond the last, and what is not finite on one side only.
BINS: Final = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, slots=True)
class Case:
    """Requests that are compared together.

    Attributes:
        name: ``"7 rows"``, or what the requests are, such as ``"ragged stream"``.
        requests: the rows of each, at least one request; each is one call of `Runner.run`.
        first: index among the data of the first row; those that follow are consecutive, and begin again after the last.
    """

    name: str
    requests: tuple[int, ...]
    first: int = 0

    @property
    def rows(self) -> int:
        """Rows of all requests."""
        return sum(self.requests)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an element may be off: by ``atol + rtol * max(|expected|, scale)``.

    The scale is the output's, not the element's: an element near 0 is a sum of larger terms that nearly cancelled, and keeps
    their rounding errors.

    Attributes:
        rtol: relative, 0 or more.
        atol: absolute, 0 or more, in the output's unit.
        reason: why that much, in words.
    """

    rtol: float
    atol: float
    reason: str


@dataclass(frozen=True, slots=True)
class Worst:
    """The element that is farthest off, as a share of what is tolerated.

    Attributes:
        row: of the case, counted over all its requests, from 0; None for an output without rows.
        index: of the element in the output of all the case's rows.
        expected: the reference's value.
        got: the entry's.
        tolerated: the difference that would have been.
    """

    row: int | None
    index: tuple[int, ...]
    expected: float
    got: float
    tolerated: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """How two arrays differ. NaN and infinities are counted, and enter no figure below them.

    Attributes:
        elements: compared, at least one, except for cases of no rows.
        differing: not equal; two NaN are equal, and so are two infinities of one sign, and 0 and -0.
        outside: beyond the tolerance, mismatched NaN and infinities included.
        nan_mismatches: NaN on one side only.
        inf_mismatches: infinite on one side only, or with another sign.
        max_abs: largest absolute difference of two finite elements, in the output's unit; and so on.
        mean_abs: mean of these.
        max_rel: largest difference relative to the expected value, of elements where that is not 0; None where there is none.
        mean_rel: mean of these.
        zeros_missed: elements where 0 was expected and something else came.
        max_ulp: largest number of representable values of the output's dtype from one to the other; 0 for bools.
        cosine: cosine of the angle between both as one vector, -1 to 1; None where one is all zeros.
        snr_db: power of the expected values over that of the differences, in dB; None where either is 0.
        top1: share of rows whose largest element is at the same index; None where the output does not look like scores.
        top5: share of rows whose five largest elements are the same, in any order; None as above, or of fewer than 10.
        histogram: elements by their difference as a share of what is tolerated, one count per bin of `BINS` and one beyond.
    """

    elements: int
    differing: int
    outside: int
    nan_mismatches: int
    inf_mismatches: int
    max_abs: float
    mean_abs: float
    max_rel: float | None
    mean_rel: float | None
    zeros_missed: int
    max_ulp: int
    cosine: float | None
    snr_db: float | None
    top1: float | None
    top5: float | None
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One output of one case: an entry's answers held against the reference's.

    Attributes:
        entry: the entry's name.
        case: what was sent.
        output: the output's name; empty where no output was compared, since the case failed as a whole.
        verdict: ``"fail"`` where an element is outside its tolerance, or something was not comparable.
        metrics: None where nothing could be compared; `faults` says why.
        tolerance: None as above.
        scale: the scale of `tolerance`: the root mean square of the reference's finite values.
        worst: None where all elements are equal or none was compared.
        faults: what is wrong, in sentences, the plainest cause first; empty where nothing is.
    """

    entry: str
    case: Case
    output: str
    verdict: Verdict
    metrics: Metrics | None = None
    tolerance: Tolerance | None = None
    scale: float = 0.0
    worst: Worst | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % confidence interval, by bootstrap; all three equal where there is no spread, or one call only.

    It tells of calls like these, in this process; `comparison._speed` says what it leaves out.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SizeSpeed:
    """What requests of one size took, one at a time.

    Attributes:
        plan: the launches of each request.
        calls: how many were timed; modelled ones that agree count, others before them do not.
        p50, p90, p99: latency in seconds: a time that 50, 90, 99 % of the calls did not exceed. Of fewer than 6, 36 and 368
            calls nothing bounds it from above: the interval ends at the largest time, and the truth may be higher.
        mean: mean latency in seconds.
        rows_per_s: real rows per second of one caller; padding does not count.
        padding_s: of the mean latency, the part of padded rows, in seconds: their share of all rows that were executed. What
            a launch costs whatever its rows is shared alike, so padding costs that much at most.
    """

    plan: Plan
    calls: int
    p50: Interval
    p90: Interval
    p99: Interval
    mean: Interval
    rows_per_s: Interval
    padding_s: float

    @property
    def rows(self) -> int:
        """Rows of each request."""
        return self.plan.rows


@dataclass(frozen=True, slots=True)
class StreamSpeed:
    """What a stream of requests of ragged sizes took through `Runner.map`, which keeps the device busy.

    Attributes:
        requests: rows of each request, in order.
        passes: how often the whole stream was sent and timed.
        rows_per_s: real rows per second; of few passes the interval is no more than their range.
        launches: of the last pass, by batch size.
        padded_rows: of the last pass, as planned; a runtime that merges rows of several launches pads fewer.
    """

    requests: tuple[int, ...]
    passes: int
    rows_per_s: Interval
    launches: Mapping[int, int]
    padded_rows: int


@dataclass(frozen=True, slots=True)
class Speed:
    """What an entry's requests took. Figures of unlike provenance are never ranked against one another.

    Attributes:
        entry: the entry's name.
        provenance: ``"measured"`` on the wall clock, or ``"modelled"`` on the device clock of a simulator, which is no
            measurement of hardware.
        clock: what told the time; of a simulator without a clock, or with one that stands still, this says so, and there are
            no figures.
        sizes: one per size that could be timed, ascending.
        stream: None where there was none, or it could not be run to its end.
    """

    entry: str
    provenance: Provenance
    clock: str
    sizes: tuple[SizeSpeed, ...]
    stream: StreamSpeed | None


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first node of the graph, in the order of execution, whose output differs although its inputs do not.

    Attributes:
        entry: the entry's name.
        output: the model's output whose difference was looked into.
        node: the node's name, or its output's where it has none; None where no node was found, and `reason` says why.
        operator: such as ``"Softmax"``.
        tensor: the output of the node that differs.
        metrics: how it differs.
        tolerance: what was allowed.
        opened: how many cut models were opened, on both sides.
        reason: one sentence.
    """

    entry: str
    output: str
    node: str | None
    operator: str | None
    tensor: str | None
    metrics: Metrics | None
    tolerance: Tolerance | None
    opened: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that ended an entry's part.

    Attributes:
        stage: what was being done.
        error: the error's type, such as ``"DeviceError"``.
        message: its text.
        case: the case's name, where there is one.
    """

    stage: Stage
    error: str
    message: str
    case: str = ""


@dataclass(frozen=True, slots=True)
class EntryResult:
    """One entry: what it is, and what became of it.

    Attributes:
        name: the entry's name, which no other has.
        backend: the backend's.
        runtime: name and version of what runs the model; empty where it could not be asked.
        simulated: whether it is a simulator: its times are modelled, and no hardware was measured.
        device: index of the device.
        model: the model's file, or what it is.
        precision: what floats are computed in, such as ``"float16"``, as the session or the caller says; empty if neither does.
        batching: what one launch may be, in words; empty where it was not opened.
        batch_sizes: compiled batch sizes; empty where any number is possible, or it was not opened.
        options: what it was opened with, in words, by name.
        verdict: ``"fail"`` where anything failed.
        compile_s: wall time of compiling, in seconds; None where nothing is compiled ahead.
        compile_cached: whether what was compiled before was found.
        open_s: wall time of opening, in seconds, without compiling; None where it was not opened.
        memory_bytes: what the model takes on the device, where the session says.
        plans: the launches of a request of each compared size.
        safety: what is known about the rows of each output.
        failures: what ended its part; empty where nothing did.
    """

    name: str
    backend: str
    runtime: str
    simulated: bool
    device: int
    model: str
    precision: str
    batching: str
    batch_sizes: tuple[int, ...]
    options: Mapping[str, str]
    verdict: Verdict
    compile_s: float | None
    compile_cached: bool
    open_s: float | None
    memory_bytes: int | None
    plans: tuple[Plan, ...]
    safety: tuple[RowSafety, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was found.

    Attributes:
        verdict: ``"pass"`` where every entry answered every case within the tolerances, and something was compared.
        reasons: why it failed, in sentences, one per entry and cause; empty where it passed.
        model: the model that was compared: its file, or what it is.
        model_digest: SHA-256 of the model with its external data.
        data: where the rows came from, in words.
        data_rows: how many different rows there were.
        reference: name of the entry that the others were held against.
        entries: in the caller's order, the reference among them.
        accuracy: per entry but the reference, case and output.
        speeds: per entry that was timed.
        divergences: where outputs differed and it was looked into.
        environment: versions of what was involved and the machine, by name.
        created: when, as ISO 8601 in UTC.
        seconds: wall time of the whole.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    model: str
    model_digest: str
    data: str
    data_rows: int
    reference: str
    entries: tuple[EntryResult, ...]
    accuracy: tuple[Accuracy, ...]
    speeds: tuple[Speed, ...]
    divergences: tuple[Divergence, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    seconds: float = 0.0
