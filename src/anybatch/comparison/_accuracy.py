"""Whether entries answer alike: the same requests to each, held against the reference's answers one request at a time.

No more than one request is in memory, with its answers and those to the one before it, so data and results may be larger than
memory: inputs may be memory-mapped, and answers are dropped once they are counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from typing import Any, Final

import numpy as np

from anybatch._batching import AnyBatch, Batching, Gears
from anybatch._bench import awkward_sizes
from anybatch._errors import AnybatchError, ClosedError, CoupledRowsError, InputError
from anybatch._planner import check_rows
from anybatch._runner import Runner
from anybatch._samples import random_inputs
from anybatch._tensors import Array, ModelSpec, TensorSpec, check_request
from anybatch.comparison._entries import Contestant
from anybatch.comparison._faults import FaultFinder
from anybatch.comparison._metrics import Differences, Scale
from anybatch.comparison._results import Accuracy, Case, Tolerance
from anybatch.comparison._tolerances import Tolerances, default_tolerance, float_info, read_tolerances

_SCALE_ROWS: Final = 1000  # of the reference, whose root mean square is the scale of tolerances
_SAME_ERRORS: Final = 3  # cases in a row with one error, after which the others are not tried
_STREAM_REQUESTS: Final = 2000  # a stream of all data has about that many at most
_STREAM_OF_MADE_UP: Final = 12


# ------------------------------------------------------------------------------------------------------------------ cases


def default_cases(
    batchings: Iterable[Batching], data_rows: int | None = None, *, spec: ModelSpec | None = None
) -> tuple[Case, ...]:
    """Return what to compare: no rows, one, around the batch sizes of all entries, above the largest, and a ragged stream.

    Around the smallest, the middle and the largest batch size, where there are more than three.

    Args:
        batchings: of the entries.
        data_rows: how many rows of data there are; the stream covers them all. None where rows are made up, see `made_up_rows`.
        spec: the model; one with an output without rows is not asked for no rows, since that has no value then.

    Raises:
        InputError: there are no rows of data.
    """
    gears: set[int] = set()
    for batching in batchings:
        if not isinstance(batching, AnyBatch):
            gears |= set(batching.sizes if isinstance(batching, Gears) else (batching.size,))
    sizes = awkward_sizes(Gears(tuple(gears)) if gears else AnyBatch())
    empty = [] if spec is not None and any(tensor.batch_axis is None for tensor in spec.outputs) else [0]
    return cases_of([*empty, *sizes], data_rows, ragged=True)


def cases_of(sizes: Sequence[int], data_rows: int | None = None, *, ragged: bool = False) -> tuple[Case, ...]:
    """Return a case of one request for each size, and a stream of requests of such sizes that covers all rows of data.

    A request begins at another row than the one before it, so that answers which were left over from that show.

    Args:
        sizes: in rows, 0 or more.
        data_rows: how many rows of data there are; None where rows are made up, see `made_up_rows`.
        ragged: whether the stream may have requests of any size up to the largest, or of these only.

    Raises:
        InputError: a size is no number of rows, none is above 0, or there are no rows of data.
    """
    sizes = list(dict.fromkeys(check_rows(size) for size in sizes))
    if not any(sizes):
        raise InputError(f"expected a request of at least one row to compare, got sizes {sizes}")
    if data_rows is not None and data_rows < 1:
        raise InputError(f"expected at least one row of data to compare with, got {data_rows}")
    total = max(sizes) + 1 if data_rows is None else data_rows
    cases = []
    first = 0
    for size in sizes:
        cases.append(Case(counted_rows(size), (size,), first))
        first = (first + size + (size > 0 and size % total == 0)) % total
    return (*cases, Case("ragged stream", _stream(sizes, data_rows, ragged=ragged), first))


def made_up_rows(cases: Iterable[Case]) -> int:
    """Return how many rows to make up, so that those of a request differ, and so do those of one request and the next."""
    return 1 + max((size for case in cases for size in case.requests), default=0)


def make_up_inputs(spec: ModelSpec, rows: int, free: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Return inputs of that many rows, as `random_inputs` does, no two of them equal where that is possible.

    Equal rows would hide that answers went to the wrong ones. Where only integers of 0 and 1 tell rows apart, their first
    elements count the rows in binary.

    Raises:
        InputError: see `random_inputs`.
    """
    inputs = random_inputs(spec, rows, free)
    batched = [tensor for tensor in spec.inputs if tensor.batch_axis is not None]
    keys = [b"".join(tensor.rows_of(inputs[tensor.name], row, row + 1).tobytes() for tensor in batched) for row in range(rows)]
    if len(set(keys)) == rows:
        return inputs
    bit = 0
    for tensor in batched:
        if tensor.dtype.kind not in "biu":
            continue
        entries = np.moveaxis(inputs[tensor.name], tensor.batch_axis or 0, 0)  # a view
        for place in np.ndindex(tensor.rows_per_row, *entries.shape[1:]):
            if rows <= 1 << bit:
                break
            index: tuple[slice | int, ...] = (slice(place[0], None, tensor.rows_per_row), *place[1:])
            entries[index] = (np.arange(rows) >> bit) & 1
            bit += 1
    return inputs


def _stream(sizes: Sequence[int], data_rows: int | None, *, ragged: bool) -> tuple[int, ...]:
    """Return sizes of requests, the same at every call."""
    draw = random.Random(0)
    largest = max(sizes)
    if ragged and data_rows is not None:
        largest = max(largest, -(-2 * data_rows // _STREAM_REQUESTS))
    choices = [size for size in sizes if size]
    requests: list[int] = []
    left = math.inf if data_rows is None else data_rows
    while left > 0 and (data_rows is not None or len(requests) < _STREAM_OF_MADE_UP):
        size = draw.randint(1, largest) if ragged else draw.choice(choices)
        requests.append(int(min(size, left)) if ragged else size)
        left -= size
    return tuple(requests)


def counted_rows(rows: int) -> str:
    """Return a number of rows as text."""
    return "1 row" if rows == 1 else f"{rows} rows"


# --------------------------------------------------------------------------------------------------------- arrays, no more


def compare_arrays(
    expected: Mapping[str, Array],
    got: Mapping[str, Array],
    *,
    tolerances: Tolerances | None = None,
    precisions: Iterable[str] = (),
    outputs: Sequence[TensorSpec] | None = None,
    names: tuple[str, str] = ("expected", "got"),
) -> list[Accuracy]:
    """Compare two sets of outputs that a script has at hand.

    Args:
        expected, got: arrays by output; of the same outputs, shapes, and dtypes, except that one may have coarser floats.
        tolerances: by output, a `Tolerance`, ``(rtol, atol)`` or ``rtol``; for others see `default_tolerance`.
        precisions: what the two sides compute in, such as ``"float16"``.
        outputs: the model's, such as `Runner.spec` has them, which tell the axes of rows; None takes the first axis of each
            array, and an array without axes has no rows.
        names: of both sides, for the sentences.

    Returns:
        One per output, in the order of `expected`.

    Raises:
        InputError: there is nothing to compare, or the sides have other outputs, shapes, rows or kinds of dtypes; the message
            names the output. Or a tolerance is not one.
    """
    reference, entry = names
    if not expected or all(np.size(array) == 0 for array in expected.values()):
        raise InputError(f"nothing to compare: {reference} has {'no outputs' if not expected else 'no elements in any output'}")
    if set(expected) != set(got):
        raise InputError(
            f"expected the same outputs on both sides: {reference} has {sorted(expected)}, {entry} has {sorted(got)}"
        )
    for side, arrays in ((reference, expected), (entry, got)):
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise InputError(f"output {name!r} of {side}: expected a NumPy array, got {type(array).__name__}")
    known = {tensor.name: tensor for tensor in outputs or ()}
    own = read_tolerances(tolerances, list(expected))
    precisions = list(precisions)
    counts = {}
    tensors = {}
    for name, array in expected.items():
        tensors[name] = replace(known[name], dtype=array.dtype) if name in known else _tensor_of(name, array)
        said = _why_not_alike(tensors[name], array.dtype, got[name].dtype, reference, entry) or _why_other_shape(
            tensors[name], array, got[name], reference, entry
        )
        if said:
            raise InputError(said)
        axis = tensors[name].batch_axis
        if axis is not None:
            if array.ndim <= axis or array.shape[axis] % tensors[name].rows_per_row:
                raise InputError(f"output {name!r}: expected {tensors[name]}, got {array.dtype} {list(array.shape)}")
            counts[name] = array.shape[axis] // tensors[name].rows_per_row
    if len(set(counts.values())) > 1:
        raise InputError(f"expected the same number of rows in every output, got {counts}")
    rows = next(iter(counts.values()), 0)
    results = []
    for name, tensor in tensors.items():
        scale = Scale()
        scale.add(expected[name] if tensor.batch_axis is None else tensor.rows_of(expected[name], 0, _SCALE_ROWS))
        tolerance = own.get(name) or default_tolerance([tensor.dtype, got[name].dtype], precisions)
        one = _Output(tensor, got[name].dtype, tolerance, scale.value, entry, reference)
        one.add(expected[name], got[name])
        results.append(one.result(Case(counted_rows(rows), (rows,))))
    return results


def _tensor_of(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, array.dtype, (None,) * array.ndim, batch_axis=0 if array.ndim else None)


# ------------------------------------------------------------------------------------------------------------ contestants


def check_accuracy(
    contestants: Sequence[Contestant],
    reference: Contestant,
    cases: Sequence[Case],
    inputs: Mapping[str, Array],
    *,
    tolerances: Tolerances | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> list[Accuracy]:
    """Send the same requests to all, and hold the answers of each against the reference's.

    Decision: where a runtime narrows a model's inputs, from float32 to float16 or from int64 to int32, its entry gets the same
    rows in its own dtype: floats rounded, integers only where all of them fit. One with other names, shapes or kinds of dtypes
    is refused. Outputs that a runtime narrowed are compared by value.

    Args:
        contestants: opened; those that failed to open are left out. `reference` may be among them.
        reference: what the others are held against.
        cases: requests; see `default_cases`.
        inputs: rows of data in the reference's dtypes, one or more; arrays may be memory-mapped.
        tolerances: by output, a `Tolerance`, ``(rtol, atol)`` or ``rtol``; for others see `default_tolerance`.
        progress: called with the share that is done, 0 to 1.

    Returns:
        For each case and each entry but the reference, one per output; or one without an output where the case failed as a
        whole: the entry raised an error, which is among its `failures` too, or the reference did. After three such cases in a
        row with one error the entry's others fail without being sent. `plans` of each has the plans of its requests.

    Raises:
        InputError: there is nothing to compare: no case with rows, no data, no second entry that is open; or the inputs do not
            fit the reference, an entry has other inputs, a tolerance is not one. Nothing was executed.
    """
    others = [each for each in contestants if each is not reference and each.runner is not None]
    if reference.runner is None:
        raise InputError(f"the reference {reference.name!r} is not open, so there is nothing to compare with")
    if not others:
        raise InputError(f"nothing to compare: no entry is open but the reference {reference.name!r}")
    if not any(case.rows for case in cases):
        raise InputError(f"nothing to compare: expected a case with at least one row, got {[case.name for case in cases]}")
    spec = reference.runner.spec
    rows, checked = check_request(spec, inputs)
    if not rows:
        raise InputError(f"nothing to compare: the data has no rows: {_shapes(inputs)}")
    for other in others:
        _check_inputs(reference, other)
    own = read_tolerances(tolerances, [tensor.name for tensor in spec.outputs])
    data = _Data(spec, checked, rows)
    parts = [_Part(other) for other in others]
    leader = _Part(reference)
    sent = [0, 2 * sum(max(1, case.rows) for case in cases)]

    def done(rows: int) -> None:
        sent[0] += max(1, rows)
        progress(min(1.0, sent[0] / sent[1]))

    scales = _scales(leader, cases, data, done)
    sent[0] = sent[1] // 2
    found: list[Accuracy] = []
    for case in cases:
        found += _compare_case(case, leader, parts, data, _Rules(own, scales), done)
    progress(1.0)
    return found


def rows_of(spec: ModelSpec, inputs: Mapping[str, Array], case: Case) -> dict[str, Array]:
    """Return the rows that a case sends, of all its requests, one after the other."""
    rows, arrays = check_request(spec, inputs)
    return _Data(spec, arrays, rows).request(case.first, case.rows)


class _Data:
    """Rows, of which requests take consecutive ones, and the first again after the last."""

    def __init__(self, spec: ModelSpec, arrays: Mapping[str, Array], rows: int) -> None:
        self._spec = spec
        self._arrays = arrays
        self._rows = rows

    def request(self, first: int, rows: int) -> dict[str, Array]:
        """Return a request of so many rows; arrays are contiguous."""
        first %= self._rows
        pieces = [(first, min(first + rows, self._rows))]
        left = rows - (pieces[0][1] - first)
        while left > 0:
            pieces.append((0, min(left, self._rows)))
            left -= pieces[-1][1]
        taken = {}
        for tensor in self._spec.inputs:
            array = self._arrays[tensor.name]
            if tensor.batch_axis is not None:
                parts = [tensor.rows_of(array, start, stop) for start, stop in pieces]
                array = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=tensor.batch_axis)
            taken[tensor.name] = np.asarray(array, order="C")  # not ascontiguousarray, which gives a scalar an axis
        return taken

    def padding(self) -> dict[str, Array]:
        """Return a request of one row of zeros."""
        taken = self.request(0, 1)
        return {t.name: taken[t.name] if t.batch_axis is None else np.zeros_like(taken[t.name]) for t in self._spec.inputs}


@dataclass
class _Part:
    """A contestant's part in it.

    Attributes:
        why_not: why it gets no more requests; empty as long as it does.
        answered: what the reference answered to the last request that all got, in whatever case.
    """

    contestant: Contestant
    why_not: str = ""
    answered: Mapping[str, Array] = field(default_factory=dict)
    _errors: list[tuple[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.contestant.name

    @property
    def runner(self) -> Runner:
        assert self.contestant.runner is not None
        return self.contestant.runner

    def run(self, request: Mapping[str, Array], rows: int, case: Case) -> dict[str, Array] | str:
        """Return the answers to a request, or one sentence on why there are none."""
        if self.why_not:
            return self.why_not
        contestant, runner = self.contestant, self.runner
        already = list(contestant.failures)
        wanted = {tensor.name: tensor.dtype for tensor in runner.spec.inputs}
        said = f"{self.name} failed at a request of {counted_rows(rows)}"
        with contestant.watched("accuracy", case.name):
            try:
                # So that plans are those that ran: costs that change meanwhile may change them for the next request.
                plan = runner.plan(rows)
                answers = runner.run({name: as_dtype(name, request[name], dtype) for name, dtype in wanted.items()})
            except CoupledRowsError as error:
                said = self._refusal(rows, error)
                raise
            except Exception as error:
                said = f"{said}: {type(error).__name__}: {error}"
                raise
            contestant.plans[plan.rows] = plan
            return answers
        if contestant.failures[-1] in already:  # the same request, sent for the scale before
            del contestant.failures[-1]
        return said

    def note(self, error: str | None, case: Case) -> None:
        """Note how a case ended."""
        if error is None:
            self._errors.clear()
            return
        failure = next((each for each in reversed(self.contestant.failures) if each.case == case.name), None)
        if failure is None or self.why_not:
            return
        self._errors.append((failure.error, failure.message))
        last = self._errors[-_SAME_ERRORS:]
        if failure.error == ClosedError.__name__:
            self.why_not = f"not sent to {self.name}, which was closed at {case.name}"
        elif len(last) == _SAME_ERRORS and len(set(last)) == 1:
            self.why_not = f"not sent to {self.name}, which failed in {_SAME_ERRORS} cases in a row: {': '.join(last[0])}"

    def _refusal(self, rows: int, error: CoupledRowsError) -> str:
        batching = self.runner.batching
        at = "" if error.node is None else f" at node {error.node!r}"
        sizes = "" if isinstance(batching, AnyBatch) else f", which are {batching}"
        return (
            f"{self.name} refuses a request of {counted_rows(rows)}, since rows of the model influence one another{at}: "
            f"compare at sizes that it launches exactly{sizes}, with batch_sizes=[...] (--batch-sizes); {error}"
        )


@dataclass(frozen=True)
class _Rules:
    """What tolerances depend on.

    Attributes:
        own: the caller's, by output.
        scales: of the reference, by output.
    """

    own: Mapping[str, Tolerance]
    scales: Mapping[str, float]

    def tolerance(self, tensor: TensorSpec, got: np.dtype[Any], sides: Sequence[Contestant]) -> Tolerance:
        if tensor.name in self.own:
            return self.own[tensor.name]
        dtypes = [tensor.dtype, got]
        for side in sides:
            if not side.precision and side.runner is not None:
                dtypes += [each.dtype for each in side.runner.spec.inputs if float_info(each.dtype) is not None]
        return default_tolerance(dtypes, [side.precision for side in sides])


def _scales(leader: _Part, cases: Sequence[Case], data: _Data, done: Callable[[int], None]) -> dict[str, float]:
    """Return the scale of each of the reference's outputs, from the largest requests, of `_SCALE_ROWS` rows or a few more."""
    scales = {tensor.name: Scale() for tensor in leader.runner.spec.outputs}
    rows = 0
    for case in sorted(cases, key=lambda case: max(case.requests), reverse=True):
        first = case.first
        for size in case.requests:
            if rows >= _SCALE_ROWS:
                break
            answers = leader.run(data.request(first, size), size, case) if size else ""
            if isinstance(answers, dict):
                rows += size
                for name, scale in scales.items():
                    scale.add(answers[name])
            first += size
            done(size)
    return {name: scale.value for name, scale in scales.items()}


def _compare_case(
    case: Case, leader: _Part, parts: Sequence[_Part], data: _Data, rules: _Rules, done: Callable[[int], None]
) -> list[Accuracy]:
    """Return what comes of one case, for each entry."""
    spec = leader.runner.spec

    @cache
    def padding() -> Mapping[str, Array]:
        try:
            return leader.runner.run(data.padding())
        except AnybatchError:  # rows that influence one another, or a value that the model does not take: only a hint is lost
            return {}

    outputs: dict[str, dict[str, _Output | str]] = {}
    for part in parts:
        outputs[part.name] = {}
        theirs = {tensor.name: tensor for tensor in part.runner.spec.outputs}
        for tensor in spec.outputs:
            name = tensor.name
            said = _why_not_comparable(tensor, theirs.get(name), leader.name, part.name, list(theirs))
            if said:
                outputs[part.name][name] = said
                continue
            tolerance = rules.tolerance(tensor, theirs[name].dtype, (leader.contestant, part.contestant))
            outputs[part.name][name] = _Output(
                tensor, theirs[name].dtype, tolerance, rules.scales[name], part.name, leader.name,
                lambda name=name: padding().get(name),  # type: ignore[misc]  # bound now
            )  # fmt: skip
        for name in theirs.keys() - {tensor.name for tensor in spec.outputs}:
            outputs[part.name][name] = (
                f"{leader.name} has no output {name!r}, which {part.name} has: its outputs are {[t.name for t in spec.outputs]}"
            )
    ended: dict[str, str] = {}  # by entry, why it ended before the case did
    starts = accumulate(case.requests, initial=case.first)
    for number, (first, rows) in enumerate(zip(starts, case.requests, strict=False)):
        request = data.request(first, rows)
        expected = leader.run(request, rows, case)
        if isinstance(expected, str):
            ended = {part.name: f"there is nothing to compare with: {expected}" for part in parts}
            leader.note(expected, case)
            break
        where = "" if len(case.requests) == 1 else f"request {number + 1} of {len(case.requests)} ({counted_rows(rows)})"
        for part in parts:
            if part.name in ended:
                continue
            got = part.run(request, rows, case)
            if isinstance(got, str):
                ended[part.name] = got
                part.note(got, case)
                continue
            for name, output in outputs[part.name].items():
                if isinstance(output, _Output):
                    output.add(expected[name], got[name], where, leader.answered.get(name))
        leader.answered = expected if rows else leader.answered
        done(rows)
    else:
        leader.note(None, case)
    found = []
    for part in parts:
        if part.name in ended:
            found.append(Accuracy(part.name, case, "", "fail", faults=(ended[part.name],)))
            continue
        part.note(None, case)
        for name, output in outputs[part.name].items():
            if isinstance(output, str):
                found.append(Accuracy(part.name, case, name, "fail", faults=(output,)))
            else:
                found.append(output.result(case))
    return found


class _Output:
    """One output of one case, held against the reference's."""

    def __init__(
        self,
        tensor: TensorSpec,
        got: np.dtype[Any],
        tolerance: Tolerance,
        scale: float,
        entry: str,
        reference: str,
        padding: Callable[[], Array | None] = lambda: None,
    ) -> None:
        self._tensor = tensor
        self._names = reference, entry
        coarse = max((tensor.dtype, got), key=lambda dtype: _eps(dtype))
        self._differences = Differences(tensor, tolerance, scale, coarse=coarse)
        self._finder = FaultFinder(tensor, tolerance, scale, entry=entry, reference=reference, padding=padding)
        self._other_shape = ""

    def add(self, expected: Array, got: Array, request: str = "", before: Array | None = None) -> None:
        """Add a request's answers."""
        said = _why_other_shape(self._tensor, expected, got, *self._names)
        if said:
            self._other_shape = self._other_shape or (f"{request}: {said}" if request else said)
            return
        outside = self._differences.add(expected, got)
        self._finder.add(expected, got, outside, request=request, before=before)

    def result(self, case: Case) -> Accuracy:
        """Return what came of it."""
        differences = self._differences
        metrics = differences.result()
        faults = self._finder.sentences(metrics, differences.worst)
        if case.rows and not metrics.elements and not self._other_shape:
            faults = (f"nothing was compared: output {self._tensor.name!r} has no elements",)
        if self._other_shape:
            faults = (self._other_shape, *faults)
        return Accuracy(
            entry=self._names[1],
            case=case,
            output=self._tensor.name,
            verdict="fail" if faults else "pass",
            metrics=metrics if metrics.elements or not faults else None,
            tolerance=differences.tolerance,
            scale=differences.scale,
            worst=differences.worst,
            faults=faults,
        )


# ------------------------------------------------------------------------------------------------------ what is comparable


def _check_inputs(reference: Contestant, other: Contestant) -> None:
    """Check that an entry takes the reference's rows.

    Raises:
        InputError: it does not; the message names both entries.
    """
    assert reference.runner is not None
    assert other.runner is not None
    one = {tensor.name: tensor for tensor in reference.runner.spec.inputs}
    two = {tensor.name: tensor for tensor in other.runner.spec.inputs}
    alike = one.keys() == two.keys() and all(_same_input(one[name], two[name]) for name in one)
    if not alike:
        raise InputError(
            f"expected the same inputs in every entry: {reference.name!r} takes {_listed(one.values())}, {other.name!r} takes "
            f"{_listed(two.values())}; compare models that take the same rows"
        )


def _same_input(one: TensorSpec, two: TensorSpec) -> bool:
    if (one.batch_axis, one.rows_per_row, len(one.shape)) != (two.batch_axis, two.rows_per_row, len(two.shape)):
        return False
    sizes = zip(one.shape, two.shape, strict=True)
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes):
        return False
    return one.dtype == two.dtype or same_kind(one.dtype, two.dtype)


def as_dtype(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return an input in the dtype that an entry takes: floats are rounded.

    Raises:
        InputError: integers do not fit.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # what is beyond float16 becomes infinite, and the answers show it
        cast = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        low, high = array.min(), array.max()
        raise InputError(f"{name!r}: expected integers that fit {dtype}, which this entry takes, got {low} to {high}")
    return cast


def _why_not_comparable(
    expected: TensorSpec, got: TensorSpec | None, reference: str, entry: str, outputs: Sequence[str]
) -> str:
    """Return one sentence on why an output cannot be compared; empty where it can."""
    name = expected.name
    if got is None:
        return f"{entry} has no output {name!r}, which {reference} has: its outputs are {list(outputs)}"
    if (expected.batch_axis, expected.rows_per_row) != (got.batch_axis, got.rows_per_row):
        return f"output {name!r} has its rows elsewhere: {reference} gives {expected}, {entry} gives {got}"
    return _why_not_alike(expected, expected.dtype, got.dtype, reference, entry)


def _why_not_alike(tensor: TensorSpec, expected: np.dtype[Any], got: np.dtype[Any], reference: str, entry: str) -> str:
    if expected == got or same_kind(expected, got):
        return ""
    return f"output {tensor.name!r} has another dtype: {reference} gives {expected}, {entry} gives {got}"


def _why_other_shape(tensor: TensorSpec, expected: Array, got: Array, reference: str, entry: str) -> str:
    if expected.shape == got.shape:
        return ""
    axis, factor = tensor.batch_axis, tensor.rows_per_row
    if axis is not None and expected.ndim == got.ndim and expected.shape[axis] != got.shape[axis]:
        rows = [counted_rows(array.shape[axis] // factor) for array in (expected, got)]
        return f"output {tensor.name!r}: {reference} gives {rows[0]}, {entry} gives {rows[1]}"
    return (
        f"output {tensor.name!r} has another shape: {reference} gives {list(expected.shape)}, {entry} gives {list(got.shape)}"
    )


def same_kind(one: np.dtype[Any], two: np.dtype[Any]) -> bool:
    """Return whether both are floats of any width, or both complex, or both integers with or both without signs."""
    kinds = ["f" if dtype.kind == "V" and float_info(dtype) is not None else dtype.kind for dtype in (one, two)]
    return kinds[0] == kinds[1] and kinds[0] in "fciu"


def _eps(dtype: np.dtype[Any]) -> float:
    info = float_info(dtype)
    return 0.0 if info is None else float(info.eps)


def _listed(tensors: Iterable[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name!r}: {tensor}" for tensor in tensors)


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name!r} {list(array.shape)}" for name, array in arrays.items())
