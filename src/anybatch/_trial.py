"""A trial of an open session: whether anything but a row itself changes what comes back for it.

Rows are made up, or the caller's own. The same rows are launched in many ways, and every answer for a row is compared with the
answer that it got at first: beside other rows, beside padding of all kinds, after a launch that left other values behind, in
another order, at another place, in launches of other sizes. Where rows do not influence one another, all answers are one.

They are one up to the last bits. Two answers from launches of one size, at the same place, come from the same additions in the
same order, so nearly nothing may differ (`_TIGHT`). At another place or size a kernel may add in another order (`_LOOSE`). How
much that is, the session tells itself:

- how fine it computes: of an output that answers in float32, half a mantissa may have been lost within. Inputs are
  changed by a share that grows from step to step. Where arithmetic is finer than that share, the answer changes in proportion;
  where it is coarser, not at all or in jumps. The smallest share in proportion is the resolution.
- how much last bits matter: inputs are changed by a few units of that resolution. What an answer changes then, it may also
  change at another size. So a class number on a threshold flips, and is not blamed on other rows.
- whether a launch, repeated, answers alike.

What differs by more is launched again, twice, and is looked at with more changed inputs, before it counts. Then the launch is
made as small as it can be. No trial proves that rows are independent: it says what was tried.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from anybatch._batching import AnyBatch, Batching, Gears
from anybatch._errors import ClosedError, InputError
from anybatch._samples import free_names, random_inputs
from anybatch._tensors import Array, ModelSpec, TensorSpec, check_request

Experiment: TypeAlias = Literal[
    "history", "companions", "noise", "zeros", "repeats", "large", "NaN", "Inf", "short", "position", "order", "size", "split"
]
TrialVerdict: TypeAlias = Literal["coupled", "no influence seen", "unknown"]
Execute: TypeAlias = Callable[[Mapping[str, Array], int, "Mapping[str, Array] | None"], Mapping[str, Array]]
_Floats: TypeAlias = npt.NDArray[np.float64]

_WORST_FIRST: Final[tuple[TrialVerdict, ...]] = ("coupled", "unknown", "no influence seen")

# What each experiment changes, in words; in the order in which they are made, so that the plainest cause is found first.
EXPERIMENTS: Final[Mapping[Experiment, str]] = {
    "history": "a launch before it that left other values behind",
    "companions": "other rows beside it",
    "noise": "random values beside it",
    "zeros": "zeros beside it",
    "repeats": "a row repeated beside it",
    "large": "large values beside it",
    "NaN": "NaN beside it",
    "Inf": "infinities beside it",
    "short": "fewer rows than the launch, padded by the session",
    "position": "the same row at every place",
    "order": "the rows in another order",
    "size": "a launch of another size",
    "split": "the rows split into other launches",
}
_BESIDE: Final[tuple[Experiment, ...]] = ("companions", "noise", "zeros", "repeats", "large", "NaN", "Inf", "short")
_FLOAT_FILLS: Final[tuple[Experiment, ...]] = ("large", "NaN", "Inf")

_POOL: Final = 8  # different rows in a round
_ROUNDS: Final = 3  # one for each of _DISTRIBUTIONS
_MOST_GEARS: Final = 5
_FREE_SIZES: Final = (8, 1, 2, 3, 17)  # of launches where any is possible: the first tells, 17 is beyond blocks of 16
_FREE_DIM: Final = 8
_SALT: Final = 0x7219  # callers' rows often come from seed 0 as well, and were our noise

# In units of the resolution, relative to the largest value of that element in any row. The benchmark false_alarms.py prints
# how near independent models come to them.
_TIGHT: Final = 4.0
_LOOSE: Final = 64.0
_LOOSE_COARSE: Final = 16.0  # where sums are kept finer than results are, as for float16: one rounding per operator
_COARSE: Final = 2.0**-16
_FLOOR: Final = 1 / 4  # of the whole output's root mean square: an element that is always near 0 came from larger terms
_SWAY: Final = 8.0  # of what changing inputs by _CHANGE units changes
_CHANGE: Final = 4.0
_CHANGES: Final = 6
_MORE_CHANGE: Final = 16.0  # once more where something differs, before it counts
_MORE_CHANGES: Final = 16
_SPREAD: Final = 4.0  # of what repeating a launch changes
_INTEGERS: Final = 2.0  # of what either changes in an integer
_REPEATS: Final = 3
_LADDER: Final = 16.0  # from share to share, when the resolution is looked for
_PROPORTIONAL: Final = 2.0  # the square root of jumps would be 4
_COARSEST: Final = 2.0**-8
_SUSPECTS: Final = 3  # rows of a launch that are looked at again, the worst ones
_TOO_SENSITIVE: Final = 0.25  # of the scale: a tolerance that would hide nearly everything
_UNREPEATABLE: Final = 0.25  # share of the elements


@dataclass(frozen=True, slots=True)
class TrialLaunch:
    """One launch of a trial, and the row in it that is looked at.

    Attributes:
        gear: its size.
        rows: what each of its rows is, such as ``"row 0"``, ``"zeros"`` or ``"NaN"``; fewer than `gear` where the session pads.
        position: index of the row that is looked at.
        before: the rows of the launch before it; empty where that does not matter.
    """

    gear: int
    rows: tuple[str, ...]
    position: int
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        after = f", after a launch of {_listed(self.before)}" if self.before else ""
        return f"place {self.position} of a launch of {self.gear} ({_listed(self.rows)}{after})"


@dataclass(frozen=True, slots=True, eq=False)
class TrialExample:
    """Two launches that answer differently for the same row: the smallest that were found.

    Attributes:
        experiment: what found it.
        row: its index, among those of `inputs` where the caller gave some; None for an output without rows.
        one, other: the launches.
        expected, got: what they answer, shape as in a launch of one row; of an output without rows, all of it.
        element: where in it they differ most; empty where their shapes differ.
        difference, tolerance: there, and how much last bits may make.
        one_inputs, other_inputs: what the launches were given.
        before_inputs: the same of the launch before `other`; None where that does not matter.
    """

    experiment: Experiment
    row: int | None
    one: TrialLaunch
    other: TrialLaunch
    expected: Array
    got: Array
    element: tuple[int, ...]
    difference: float
    tolerance: float
    one_inputs: Mapping[str, Array] = field(repr=False)
    other_inputs: Mapping[str, Array] = field(repr=False)
    before_inputs: Mapping[str, Array] | None = field(repr=False)

    @property
    def cause(self) -> str:
        """What the two launches differ in, in words."""
        one, other = self.one, self.other
        if one.before != other.before:
            return f"what the launch before it held: {_listed(other.before)} instead of {_listed(one.before) or 'other rows'}"
        if one.gear != other.gear:
            return f"the size of the launch: {other.gear} instead of {one.gear}"
        if one.position != other.position:
            return f"its place: {other.position} instead of {one.position}"
        if len(one.rows) != len(other.rows):
            return f"how many rows there are: {len(other.rows)} instead of {len(one.rows)}"
        places = [place for place, (a, b) in enumerate(zip(one.rows, other.rows, strict=True)) if a != b]
        held = f"{_listed([other.rows[place] for place in places])} instead of {_listed([one.rows[place] for place in places])}"
        return f"what lies beside it, at place {', '.join(map(str, places))}: {held}"

    def __str__(self) -> str:
        if self.expected.shape != self.got.shape:
            what = f"expected shape {list(self.expected.shape)}, got {list(self.got.shape)}"
        else:
            what = (
                f"at {list(self.element)} expected {self.expected[self.element]}, got {self.got[self.element]} "
                f"(tolerance {self.tolerance:.2g})"
            )
        who = "it" if self.row is None else f"row {self.row}"
        return f"{who} answers to {self.cause}; {what}; {self.one} against {self.other}"


@dataclass(frozen=True, slots=True, eq=False)
class OutputTrial:
    """What a trial saw of one output.

    Attributes:
        name: the output's.
        verdict: ``"coupled"``: something but the row itself changed its answer, see `example`. ``"no influence seen"``: nothing
            did, which is no proof. ``"unknown"``: nothing can be told, see `reason`.
        reason: in one sentence.
        example: of a coupled one; else None.
        compared: rows whose answers were compared.
        closest: the largest difference that did not count, as a share of its tolerance.
        explained: rows that differed by more at first, as they do when their own last bits change.
    """

    name: str
    verdict: TrialVerdict
    reason: str
    example: TrialExample | None
    compared: int
    closest: float
    explained: int


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What a trial of a session saw.

    Attributes:
        outputs: in the model's order.
        launches: how many were made.
        experiments: how many of them by experiment; the others measured tolerances, confirmed and made smaller.
        refused: what the session raised an error at, and the error; it was left out.
        seconds: how long it took.
        complete: whether everything was tried that there is, rather than the time being up.
        error: what ended it early; None where nothing did.
    """

    outputs: tuple[OutputTrial, ...]
    launches: int
    experiments: Mapping[Experiment, int]
    refused: Mapping[str, str]
    seconds: float
    complete: bool
    error: Exception | None

    @property
    def verdict(self) -> TrialVerdict:
        """The worst of its outputs'."""
        verdicts = [output.verdict for output in self.outputs]
        return min(verdicts, key=_WORST_FIRST.index)

    def to_json(self) -> dict[str, Any]:
        """Return it as values that ``json`` writes, without arrays."""
        return {
            "verdict": self.verdict,
            "launches": self.launches,
            "experiments": dict(self.experiments),
            "refused": dict(self.refused),
            "seconds": self.seconds,
            "complete": self.complete,
            "outputs": [
                {
                    "name": output.name,
                    "verdict": output.verdict,
                    "reason": output.reason,
                    "experiment": None if output.example is None else output.example.experiment,
                    "compared": output.compared,
                }
                for output in self.outputs
            ],
        }

    def __str__(self) -> str:
        tried = ", ".join(f"{name} {count}" for name, count in self.experiments.items()) or "nothing"
        lines = [f"{self.verdict}: {self.launches} launches in {self.seconds:.2g} s ({tried})"]
        lines += [f"  {output.name}: {output.verdict}: {output.reason}" for output in self.outputs]
        lines += [f"  left out: {what}, at which the session raised {error}" for what, error in self.refused.items()]
        return "\n".join(lines)


def try_rows(
    execute: Execute,
    spec: ModelSpec,
    batching: Batching,
    *,
    seconds: float = 5.0,
    inputs: Mapping[str, Array] | None = None,
    free: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _share: None,
    clock: Callable[[], float] = perf_counter,
) -> Trial:
    """Try whether anything but a row itself changes what a session answers for it.

    Nothing is opened, closed or kept. The session must not be launched from elsewhere meanwhile: what launches leave behind in
    it is a part of the trial.

    Args:
        execute, spec, batching: of an open `Session`. An output of the spec that says how its values combine, other than
            ``"same"``, is not tried.
        seconds: no launch begins later than that. The first one always does.
        inputs: a request with one row or more to try with; None makes rows up, from three distributions: floats normal, between
            0 and 1, and of many magnitudes with zeros; integers of 8 and 16 bits from their whole range, wider ones 0 or 1,
            since those are mostly indices, and a trial must not read beyond a table. Padding is made up in any case.
        free: sizes of free dimensions where rows are made up, see `random_inputs`; those not named are 8.
        seed: of all that is random. The same seed, session and time to spend makes the same launches.
        progress: called with the share that is done, at the end with 1.
        clock: what `seconds` are measured with.

    Returns:
        The verdicts. An error that the session raises is told in them, not raised.

    Raises:
        InputError: an argument does not fit; nothing was launched.
        ClosedError: the session is closed.
    """
    if not 0 < seconds < math.inf:
        raise InputError(f"expected seconds > 0, finite, got {seconds}")
    given = None
    if inputs is not None:
        rows, given = check_request(spec, inputs)
        if rows == 0:
            raise InputError("expected inputs of at least one row to try with, got none")
    sizes = _free_sizes(spec, free or {}) if given is None else {}
    desk = _Desk(execute, spec, clock, seconds, progress)
    gears = _gears_to_try(batching)
    rounds = 0
    try:
        for number in range(_ROUNDS):
            rng = np.random.default_rng([_SALT, seed, number])
            bank = _make_bank(spec, min(gears[0], _POOL), number, given, sizes, rng)
            try:
                _Round(desk, bank, gears, rng, pads=batching.pads).go()
            except _RefusedError as error:
                if number == 0 or not error.first:
                    raise
                desk.refused[_DISTRIBUTIONS[number]] = f"{type(error.cause).__name__}: {error.cause}"
            rounds += 1
            if not desk.undecided:
                break
    except _TimeUpError:
        pass
    except _RefusedError as error:
        desk.error = error.cause
        desk.failed_in = error.what
    progress(1.0)
    return desk.result(complete=desk.error is None and (rounds == _ROUNDS or not desk.undecided))


# ------------------------------------------------------------------------------------------------------------------- rows

_DISTRIBUTIONS: Final = ("normal values", "values between 0 and 1", "values of many magnitudes and zeros")


def _listed(rows: Sequence[str]) -> str:
    """Return names of rows as text, those that follow one another in one word."""
    parts: list[list[Any]] = []
    for row in rows:
        if parts and parts[-1][0] == row:
            parts[-1][1] += 1
        else:
            parts.append([row, 1])
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in parts)


def _finfo(dtype: np.dtype[Any]) -> Any:
    """Return what is known of a float or complex dtype; None for integers and the like."""
    if dtype.kind in "biuSUmM":
        return None
    return np.finfo(dtype) if dtype.kind == "c" else ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def _eps(dtype: np.dtype[Any]) -> float:
    info = _finfo(dtype)
    return 0.0 if info is None else float(info.eps)


def _free_sizes(spec: ModelSpec, free: Mapping[str, int]) -> dict[str, int]:
    sizes = {name: _FREE_DIM for tensor in spec.inputs for name in free_names(tensor).values()}
    if unknown := sorted(set(free) - set(sizes)):
        raise InputError(f"free names {unknown}, but the model's free dimensions are {sorted(sizes)}")
    random_inputs(spec, 0, {**sizes, **free})  # refuses what it cannot use
    return {**sizes, **free}


def _gears_to_try(batching: Batching) -> tuple[int, ...]:
    """Return sizes of launches; the first is the one that others are compared with."""
    if isinstance(batching, AnyBatch):
        return _FREE_SIZES
    if not isinstance(batching, Gears):
        first = max(2, -(-_POOL // batching.size)) * batching.size
        return tuple(dict.fromkeys((first, batching.size, 3 * batching.size)))
    sizes = list(batching.sizes)
    if len(sizes) > _MOST_GEARS:
        sizes = [sizes[i * (len(sizes) - 1) // (_MOST_GEARS - 1)] for i in range(_MOST_GEARS)]
    first = next((size for size in sizes if size >= _POOL), sizes[-1])
    return first, *(size for size in sizes if size != first)


class _Bank:
    """Rows to make launches of: first the pool, whose answers are compared, then what only lies beside them.

    Args:
        spec: the model's inputs.
        arrays: these rows, by input.
        labels: what the first rows are called: their index among the caller's. The second half are companions of the first.
        fills: what the rows behind them are.

    Attributes:
        names: of each row, for reports.
        pool: how many are in the pool.
        others: indices of the companions.
        fills: indices of what else lies beside, by experiment.
    """

    def __init__(
        self, spec: ModelSpec, arrays: Mapping[str, Array], labels: Sequence[int], fills: Sequence[Experiment]
    ) -> None:
        self.spec = spec
        self.arrays = dict(arrays)
        self.labels = list(labels)
        self.pool = len(labels) // 2
        self.others = range(self.pool, len(labels))
        self.names = [f"row {label}" for label in labels] + list(fills)
        self.fills = {fill: len(labels) + index for index, fill in enumerate(fills)}

    def feed(self, slots: Sequence[int]) -> dict[str, Array]:
        """Return the inputs of a launch of these rows."""
        return {
            tensor.name: self.arrays[tensor.name]
            if tensor.batch_axis is None
            else _take(tensor, self.arrays[tensor.name], slots)
            for tensor in self.spec.inputs
        }

    def changed(self, share: float, rng: np.random.Generator) -> _Bank:
        """Return the bank with every float of the pool multiplied by up to that share more or less."""
        bank = copy.copy(self)
        bank.arrays = arrays = dict(self.arrays)
        for tensor in self.spec.inputs:
            if tensor.batch_axis is None or _finfo(tensor.dtype) is None:
                continue
            array = arrays[tensor.name]
            factors = 1 + share * rng.uniform(-1, 1, array.shape)
            with np.errstate(all="ignore"):
                arrays[tensor.name] = (array.astype(_wide(tensor.dtype)) * factors).astype(tensor.dtype)
        return bank


def _wide(dtype: np.dtype[Any]) -> Any:
    return np.complex128 if dtype.kind == "c" else np.float64


def _take(tensor: TensorSpec, array: Array, slots: Sequence[int]) -> Array:
    factor = tensor.rows_per_row
    entries = (np.asarray(slots, np.intp)[:, None] * factor + np.arange(factor)).ravel()
    return np.ascontiguousarray(np.take(array, entries, axis=tensor.batch_axis))


def _make_bank(
    spec: ModelSpec,
    pool: int,
    number: int,
    given: Mapping[str, Array] | None,
    free: Mapping[str, int],
    rng: np.random.Generator,
) -> _Bank:
    batched = [tensor for tensor in spec.inputs if tensor.batch_axis is not None]
    has_floats = any(_finfo(tensor.dtype) is not None for tensor in batched)
    fills: list[Experiment] = ["noise", "zeros", *(_FLOAT_FILLS if has_floats else ())]
    labels = list(range(2 * pool))
    if given is not None:
        tensor = batched[0]
        rows = given[tensor.name].shape[tensor.batch_axis or 0] // tensor.rows_per_row
        order = rng.permutation(rows) if number else np.arange(rows)
        labels = [int(order[i % rows]) for i in labels]
    arrays = {}
    for tensor in spec.inputs:
        if given is not None:
            source = given[tensor.name]
        else:
            shape = list(tensor.shape_for(len(labels)))
            for axis, name in free_names(tensor).items():
                shape[axis] = free[name]
            source = _values(tensor.dtype, [size or 0 for size in shape], number, rng)
        if tensor.batch_axis is None:
            arrays[tensor.name] = source.copy(order="C")
            continue
        parts = [_take(tensor, source, labels)]
        one = list(parts[0].shape)
        one[tensor.batch_axis] = tensor.rows_per_row
        parts += [_fill(tensor.dtype, one, fill, source if given is not None else None, rng) for fill in fills]
        arrays[tensor.name] = np.concatenate(parts, axis=tensor.batch_axis)
    return _Bank(spec, arrays, labels, fills)


def _values(dtype: np.dtype[Any], shape: list[int], number: int, rng: np.random.Generator) -> Array:
    """Return random values of a dtype; `number` says which distribution."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = (limits.min, limits.max) if dtype.itemsize <= 2 else (0, 1)
        return rng.integers(low, high, shape, endpoint=True).astype(dtype)
    if _finfo(dtype) is None:
        return rng.integers(0, 2, shape).astype(dtype)
    values = rng.uniform(0, 1, shape) if number == 1 else rng.standard_normal(shape)
    if number == 2:
        values = values * 10 ** rng.uniform(-2, 1, shape) * rng.integers(0, 2, shape)
    if dtype.kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values).astype(dtype)


def _fill(dtype: np.dtype[Any], shape: list[int], fill: Experiment, given: Array | None, rng: np.random.Generator) -> Array:
    """Return one row of what lies beside others."""
    info = _finfo(dtype)
    if fill == "zeros":
        return np.zeros(shape, dtype)
    if info is None or fill == "noise":
        if given is not None and info is None:  # any integer of the caller's is valid, others may not be
            return rng.choice(given.ravel(), shape).astype(dtype) if given.size else np.zeros(shape, dtype)
        return _values(dtype, shape, 0, rng)
    if fill == "large":
        # The square of it overflows, but for float16, whose root is no large number.
        top = 2.0 ** max(int(info.maxexp) // 2, min(12, int(info.maxexp) - 3))
        return np.asarray(top * rng.uniform(0.5, 1, shape) * rng.choice([-1, 1], shape)).astype(dtype)
    value = np.nan if fill == "NaN" else np.inf
    return np.asarray(value * rng.choice([-1, 1], shape)).astype(dtype)


# --------------------------------------------------------------------------------------------------------------- launches


class _TimeUpError(Exception):
    """The time is spent; what was seen so far is the result."""


class _RefusedError(Exception):
    """A launch raised, or returned what the spec rules out.

    Attributes:
        what: the launch in words.
        cause: the error.
        first: whether it was the first of a round, which decides whether the rows fit the model at all.
    """

    def __init__(self, what: str, cause: Exception, *, first: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.first = first


class _Layout(NamedTuple):
    """A launch: its size, what lies in it by index in the bank, and what lay in the launch before it."""

    gear: int
    slots: tuple[int, ...]
    before: tuple[int, ...] = ()


class _Place(NamedTuple):
    """A row in a launch."""

    layout: _Layout
    position: int


@dataclass(slots=True)
class _Seen:
    """What is known of one output so far; `doubt` is why it is unknown unless it turns out to be coupled."""

    tensor: TensorSpec
    verdict: TrialVerdict = "no influence seen"
    reason: str = ""
    doubt: str = ""
    example: TrialExample | None = None
    compared: int = 0
    closest: float = 0.0
    explained: int = 0


class _Desk:
    """Makes launches, counts them, watches the time, and collects what is seen.

    Attributes:
        seen: by output; those without rows that say how they combine are not among the undecided.
        launches, experiments, refused, error, failed_in: see `Trial`.
    """

    def __init__(
        self, execute: Execute, spec: ModelSpec, clock: Callable[[], float], seconds: float, progress: Callable[[float], None]
    ) -> None:
        self._execute = execute
        self.spec = spec
        self._clock = clock
        self._started = clock()
        self._seconds = seconds
        self._progress = progress
        self.seen = {tensor.name: _Seen(tensor) for tensor in spec.outputs}
        for seen in self.seen.values():
            if seen.tensor.combine not in (None, "same"):
                seen.verdict = "unknown"
                seen.reason = f"not tried: its values over launches are declared to combine by {seen.tensor.combine!r}"
        self.launches = 0
        self.experiments: Counter[Experiment] = Counter()
        self.refused: dict[str, str] = {}
        self.error: Exception | None = None
        self.failed_in = ""
        self._shapes: dict[tuple[int, int], dict[str, tuple[int, ...]]] = {}

    @property
    def undecided(self) -> list[_Seen]:
        """Outputs of which nothing is decided yet."""
        return [seen for seen in self.seen.values() if seen.verdict == "no influence seen"]

    def launch(self, bank: _Bank, layout: _Layout) -> dict[str, Array]:
        """Make a launch, and the one before it, and return what came back.

        After another launch, it is offered arrays to write to that are full of values which depend on what that one held.

        Raises:
            _TimeUpError, _RefusedError.
            ClosedError: the session is closed.
        """
        out = None
        if layout.before:
            self._launch(bank, layout.gear, layout.before, None)
            shapes = self._shapes.get((layout.gear, len(layout.slots)))
            if shapes:
                left = 0 if layout.before[0] == bank.fills["zeros"] else layout.before[0]
                out = {tensor.name: np.full(shapes[tensor.name], left, tensor.dtype) for tensor in self.spec.outputs}
        results = self._launch(bank, layout.gear, layout.slots, out)
        self._shapes[layout.gear, len(layout.slots)] = {name: array.shape for name, array in results.items()}
        return results

    def _launch(self, bank: _Bank, gear: int, slots: tuple[int, ...], out: Mapping[str, Array] | None) -> dict[str, Array]:
        spent = (self._clock() - self._started) / self._seconds
        if spent >= 1 and self.launches:
            raise _TimeUpError
        self._progress(min(spent, 1.0))
        self.launches += 1
        what = f"a launch of {gear} ({_listed([bank.names[slot] for slot in slots])})"
        try:
            results = self._execute(bank.feed(slots), gear, out)
        except ClosedError:
            raise
        except Exception as error:
            raise _RefusedError(what, error) from error
        return {tensor.name: self._checked(tensor, results, len(slots), what) for tensor in self.spec.outputs}

    def _checked(self, tensor: TensorSpec, results: Mapping[str, Array], rows: int, what: str) -> Array:
        array = results.get(tensor.name)
        if isinstance(array, np.ndarray) and array.dtype == tensor.dtype and array.ndim == len(tensor.shape):
            axis = tensor.batch_axis
            if axis is None or array.shape[axis] == rows * tensor.rows_per_row:
                return array
        got = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise _RefusedError(what, InputError(f"output {tensor.name!r}: expected {tensor} with {rows} rows, got {got}"))

    def result(self, *, complete: bool) -> Trial:
        """Return what was seen."""
        outputs = tuple(self._of(seen) for seen in self.seen.values())
        experiments = {name: self.experiments[name] for name in EXPERIMENTS if self.experiments[name]}
        seconds = self._clock() - self._started
        return Trial(outputs, self.launches, experiments, self.refused, seconds, complete, self.error)

    def _of(self, seen: _Seen) -> OutputTrial:
        verdict, reason = seen.verdict, seen.reason
        if verdict == "no influence seen":
            if self.error is not None:
                verdict, reason = "unknown", f"{self.failed_in} raised {type(self.error).__name__}: {self.error}"
            elif seen.doubt:
                verdict, reason = "unknown", seen.doubt
            elif not seen.compared:
                verdict, reason = "unknown", "the time was up before anything could be compared"
            else:
                tried = sum(self.experiments.values())
                reason = f"{seen.compared} answers in {tried} launches of {len(self.experiments)} experiments were alike"
                if seen.explained:
                    reason += f", but for {seen.explained} that their own last bits change as much"
        return OutputTrial(seen.tensor.name, verdict, reason, seen.example, seen.compared, seen.closest, seen.explained)


# ------------------------------------------------------------------------------------------------------------ one round


def _distance(one: Array, other: Array) -> _Floats:
    """Return how far apart values are, element by element: 0 only where they are equal, inf where one is no number."""
    if one.dtype.kind in "biu":
        with np.errstate(all="ignore"):
            apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
        return np.where(one == other, 0.0, np.maximum(apart, 1.0))
    if _finfo(one.dtype) is None:
        return np.where(one == other, 0.0, np.inf)
    a, b = one.astype(_wide(one.dtype)), other.astype(_wide(other.dtype))
    with np.errstate(all="ignore"):
        apart = np.abs(a - b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf))


class _Scale:
    """What last bits may change in one output.

    Attributes:
        unit: the resolution, relative; 0 for integers.
        size: what it is relative to: of each element of a row, or of the whole output where that has no rows.
        spread, sway: by row of the pool, what repeating a launch changed, and what changing inputs by last bits did.
    """

    def __init__(self, tensor: TensorSpec, rows: list[Array]) -> None:
        self.unit = _eps(tensor.dtype)
        self.spread: list[_Floats] = [np.zeros(row.shape) for row in rows]
        self.sway: list[_Floats] = [np.zeros(row.shape) for row in rows]
        self.size: _Floats = np.zeros(rows[0].shape)
        if self.unit and all(row.shape == rows[0].shape for row in rows):
            values = np.abs(np.stack([row.astype(_wide(tensor.dtype)) for row in rows]))
            finite = np.where(np.isfinite(values), values, 0.0)
            with np.errstate(over="ignore"):
                mean = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
            self.size = np.maximum(finite.max(axis=0), _FLOOR * mean if math.isfinite(mean) else 0.0)

    def rounding(self) -> _Floats:
        """Return what another order of additions may change."""
        return (_LOOSE if self.unit < _COARSE else _LOOSE_COARSE) * self.unit * self.size

    def tolerance(self, row: int, *, tight: bool) -> _Floats:
        """Return what may differ in the answer for a row of the pool."""
        spread, sway = self.spread[row], self.sway[row]
        if not self.unit:
            return _INTEGERS * (spread if tight else np.maximum(spread, sway))
        if tight:
            return _TIGHT * self.unit * self.size + _SPREAD * spread
        return self.rounding() + _SPREAD * spread + _SWAY * sway


class _Round:
    """All experiments with one set of rows."""

    def __init__(self, desk: _Desk, bank: _Bank, gears: tuple[int, ...], rng: np.random.Generator, *, pads: bool) -> None:
        self._desk = desk
        self._bank = bank
        self._gears = gears
        self._first = gears[0]
        self._pads = pads
        self._rng = rng
        self._bases: dict[int, dict[str, Array]] = {}
        self._scales: dict[str, _Scale] = {}
        self._can_change = any(
            tensor.batch_axis is not None and _finfo(tensor.dtype) is not None for tensor in desk.spec.inputs
        )

    def go(self) -> None:
        """Make all experiments; what is seen goes to the desk."""
        try:
            self._desk.launch(self._bank, self._base_layout(self._first))  # warms up, and leaves behind what is usual
            base = self._base(self._first)
        except _RefusedError as error:
            raise _RefusedError(error.what, error.cause, first=True) from error
        for seen in self._desk.seen.values():
            self._scales[seen.tensor.name] = _Scale(seen.tensor, self._pool_rows(seen.tensor, base))
        self._measure_spread()
        self._measure_sway()
        for experiment, layout in self._experiments():
            if not self._desk.undecided:
                return
            if experiment in self._desk.refused:
                continue
            self._make(experiment, layout)

    # ------------------------------------------------------------------------------------------------- tolerances

    def _base_layout(self, gear: int) -> _Layout:
        return _Layout(gear, tuple(i % self._bank.pool for i in range(gear)))

    def _base(self, gear: int) -> dict[str, Array]:
        if gear not in self._bases:
            self._bases[gear] = self._desk.launch(self._bank, self._base_layout(gear))
        return self._bases[gear]

    def _pool_rows(self, tensor: TensorSpec, results: Mapping[str, Array]) -> list[Array]:
        return [_row(tensor, results, row) for row in range(1 if tensor.batch_axis is None else self._bank.pool)]

    def _widen(self, changed: Mapping[str, Array], which: Literal["spread", "sway"]) -> None:
        """Note what a launch of the first size changed that holds the pool as it was, or as it was nearly."""
        for name, scale in self._scales.items():
            tensor = self._desk.seen[name].tensor
            if tensor.batch_axis is None and which == "sway":
                continue  # it must not depend on rows at all
            pairs = zip(self._pool_rows(tensor, self._base(self._first)), self._pool_rows(tensor, changed), strict=True)
            noted = getattr(scale, which)
            for row, (one, other) in enumerate(pairs):
                apart = _distance(one, other) if one.shape == other.shape else np.full(one.shape, np.inf)
                noted[row] = np.maximum(noted[row], apart)

    def _measure_spread(self) -> None:
        layout = self._base_layout(self._first)
        for _ in range(_REPEATS - 1):
            self._widen(self._desk.launch(self._bank, layout), "spread")
        for seen in self._desk.undecided:
            scale = self._scales[seen.tensor.name]
            beyond = np.concatenate([(spread > scale.rounding()).ravel() for spread in scale.spread])
            if beyond.size and beyond.mean() > _UNREPEATABLE:
                seen.verdict = "unknown"
                seen.reason = "the same launch, repeated, answers differently, so nothing can be told"

    def _measure_sway(self) -> None:
        if not self._can_change:
            for name, scale in self._scales.items():
                scale.unit = max(scale.unit, self._written_finely(self._desk.seen[name].tensor))
            return
        finest = max(_eps(tensor.dtype) for tensor in self._desk.spec.inputs if tensor.batch_axis is not None)
        self._find_resolution(finest)
        unit = max([finest, *(scale.unit for scale in self._scales.values())])
        layout = self._base_layout(self._first)
        for _ in range(_CHANGES):
            self._widen(self._desk.launch(self._bank.changed(_CHANGE * unit, self._rng), layout), "sway")
        for seen in self._desk.undecided:
            scale = self._scales[seen.tensor.name]
            if not scale.unit or seen.tensor.batch_axis is None or not scale.size.any():
                continue
            with np.errstate(all="ignore"):
                share = np.nanmedian([scale.tolerance(row, tight=False) / scale.size for row in range(self._bank.pool)])
            if share > _TOO_SENSITIVE:
                seen.doubt = "so sensitive that last bits of its inputs change most of it, so nothing can be told"

    def _written_finely(self, tensor: TensorSpec) -> float:
        """Return the resolution of a shorter dtype that holds all of an output; 0 where none does."""
        if tensor.dtype.kind != "f":
            return 0.0
        values = self._base(self._first)[tensor.name]
        for dtype in (ml_dtypes.bfloat16, np.float16, np.float32):
            if (
                np.dtype(dtype).itemsize < tensor.dtype.itemsize
                and not _distance(values.astype(dtype).astype(tensor.dtype), values).any()
            ):
                return _eps(np.dtype(dtype))
        return 0.0

    def _find_resolution(self, finest: float) -> None:
        """Find how finely each output is computed; see this module's docstring."""
        for scale in self._scales.values():
            if scale.unit:
                scale.unit = max(scale.unit, finest)
        units = [scale.unit for scale in self._scales.values() if scale.unit]
        share = 8 * min(units, default=_COARSEST)
        shares, slopes = [], []
        while share <= 2 * _COARSEST:
            results = self._desk.launch(self._bank.changed(share, self._rng), self._base_layout(self._first))
            shares.append(share)
            slopes.append({name: self._slopes(name, results, share) for name in self._scales})
            share *= _LADDER
        for name, scale in self._scales.items():
            if not scale.unit or self._desk.seen[name].tensor.batch_axis is None or len(shares) < 2:
                continue
            moves = slopes[-1][name] > 0
            if not moves.any():
                continue
            typical = [float(np.median(each[name][moves])) for each in slopes]
            steps = zip(shares, itertools.pairwise(typical), strict=False)
            found = next((s for s, (a, b) in steps if a > 0 and 1 / _PROPORTIONAL < a / b < _PROPORTIONAL), shares[-1])
            if found > shares[0]:
                scale.unit = max(scale.unit, found)

    def _slopes(self, name: str, results: Mapping[str, Array], share: float) -> _Floats:
        one, other = self._base(self._first)[name], results[name]
        if one.shape != other.shape:
            return np.zeros(one.size)
        apart = _distance(one, other).ravel() / share
        return np.where(np.isfinite(apart), apart, 0.0)

    # ------------------------------------------------------------------------------------------------ experiments

    def _experiments(self) -> Iterator[tuple[Experiment, _Layout]]:
        """Yield what is launched, the most telling first: all with the first size, then with others."""
        for gear in self._gears:
            yield from (("history", layout) for layout in self._after(gear))
            if gear != self._first:
                yield "size", self._base_layout(gear)
            for experiment in _BESIDE:
                for layout in self._beside(experiment, gear):
                    yield experiment, layout
            if gear > 1:
                for row in (0, self._bank.pool - 1):
                    yield "position", _Layout(gear, (row,) * gear)
                straight = self._base_layout(gear).slots
                yield "order", _Layout(gear, straight[::-1])
                yield "order", _Layout(gear, (*straight[1:], straight[0]))
                yield "order", _Layout(gear, tuple(int(slot) for slot in self._rng.permutation(straight)))
        for gear in self._gears:
            for start in range(gear, self._bank.pool, gear):
                yield "split", _Layout(gear, tuple((start + i) % self._bank.pool for i in range(gear)))

    def _beside(self, experiment: Experiment, gear: int) -> Iterator[_Layout]:
        straight = self._base_layout(gear).slots
        if experiment == "short":
            if self._pads:
                for rows in sorted({1, gear // 2, gear - 1} - {0, gear}):
                    yield _Layout(gear, straight[:rows])
            return
        if gear < 2:
            return
        if experiment == "companions":
            fill = [self._bank.others[i % len(self._bank.others)] for i in range(gear)]
        elif experiment == "repeats":
            fill = []
        elif experiment in self._bank.fills:
            fill = [self._bank.fills[experiment]] * gear
        else:
            return
        for keep in (range(0, gear, 2), range(1, gear, 2), range((gear + 1) // 2)):
            beside = fill or [straight[keep[-1]]] * gear
            yield _Layout(gear, tuple(straight[i] if i in keep else beside[i] for i in range(gear)))

    def _after(self, gear: int) -> Iterator[_Layout]:
        straight = self._base_layout(gear).slots
        targets = [straight[:rows] for rows in sorted({1, gear - 1} - {0, gear})] if self._pads else []
        for fill in ("large", "NaN", "noise"):
            if fill in self._bank.fills and fill not in self._desk.refused:
                for target in (*targets, straight):
                    yield _Layout(gear, target, (self._bank.fills[fill],) * gear)

    def _make(self, experiment: Experiment, layout: _Layout) -> None:
        """Launch, and compare every row of the pool with what it was answered elsewhere."""
        try:
            clean = self._bases
            if experiment == "history":
                clean = {layout.gear: self._desk.launch(self._bank, self._clean(layout))}
            elif layout.gear not in self._bases:
                self._base(layout.gear)
            if layout == self._base_layout(layout.gear):
                results = self._base(layout.gear)
            else:
                results = self._desk.launch(self._bank, layout)
        except _RefusedError as error:
            refused = {self._bank.names[slot] for slot in (*layout.slots, *layout.before)} & set(_FLOAT_FILLS)
            if not refused:
                raise
            self._desk.refused.update({fill: f"{type(error.cause).__name__}: {error.cause}" for fill in sorted(refused)})
            return
        self._desk.experiments[experiment] += 1
        for seen in self._desk.undecided:
            suspects: list[tuple[float, _Place, _Place]] = []
            for position, row in enumerate(layout.slots):
                if row >= self._bank.pool:
                    continue
                one, other = self._elsewhere(experiment, row, layout, position), _Place(layout, position)
                if experiment in _BESIDE and not _is_tight(one, other):
                    continue  # a row repeated is beside others here; whether its place matters is not the question
                answers = clean if experiment == "history" else self._bases
                answer = _row(seen.tensor, answers[one.layout.gear], one.position)
                ratio = self._ratio(seen, row, answer, _row(seen.tensor, results, position), tight=_is_tight(one, other))
                seen.compared += 1
                if ratio > 1:
                    suspects.append((ratio, one, other))
                else:
                    seen.closest = max(seen.closest, ratio)
                if seen.tensor.batch_axis is None:
                    break
            for _, one, other in sorted(suspects, key=lambda each: -each[0])[:_SUSPECTS]:
                self._decide(seen, experiment, one, other)
                if seen.verdict != "no influence seen":
                    break

    def _clean(self, layout: _Layout) -> _Layout:
        """Return a launch after one of zeros instead."""
        return layout._replace(before=(self._bank.fills["zeros"],) * layout.gear)

    def _elsewhere(self, experiment: Experiment, row: int, layout: _Layout, position: int) -> _Place:
        """Return what a row's answer is compared with: that at the same place where there is one, else the first."""
        if experiment == "history":
            return _Place(self._clean(layout), position)
        base = self._base_layout(layout.gear)
        if experiment != "size" and base.slots[position] == row:
            return _Place(base, position)
        return _Place(self._base_layout(self._first), row)

    def _ratio(self, seen: _Seen, row: int, one: Array, other: Array, *, tight: bool) -> float:
        """Return the largest difference as a share of its tolerance."""
        if one.shape != other.shape:
            return math.inf
        tolerance = self._scales[seen.tensor.name].tolerance(self._index(seen, row), tight=tight)
        if tolerance.shape != one.shape:
            return math.inf if _distance(one, other).any() else 0.0
        return float(_share(_distance(one, other), tolerance).max(initial=0.0))

    @staticmethod
    def _index(seen: _Seen, row: int) -> int:
        """Return the index of a row in an output's tolerances."""
        return 0 if seen.tensor.batch_axis is None else row

    # --------------------------------------------------------------------------------------------- what a difference is

    def _answers(self, seen: _Seen, one: _Place, other: _Place) -> tuple[Array, Array]:
        """Launch both and return what one row is answered in each."""
        results = self._desk.launch(self._bank, one.layout)
        again = results if one.layout == other.layout else self._desk.launch(self._bank, other.layout)
        return _row(seen.tensor, results, one.position), _row(seen.tensor, again, other.position)

    def _differing(self, seen: _Seen, one: _Place, other: _Place) -> tuple[Array, Array] | None:
        """Launch both and return what one row is answered in each, where that differs."""
        answers = self._answers(seen, one, other)
        ratio = self._ratio(seen, one.layout.slots[one.position], *answers, tight=_is_tight(one, other))
        return answers if ratio > 1 else None

    def _decide(self, seen: _Seen, experiment: Experiment, one: _Place, other: _Place) -> None:
        """Decide whether a difference counts."""
        try:
            answers = self._counting(seen, one, other)
        except _TimeUpError:
            seen.verdict = "unknown"
            seen.reason = (
                f"the time was up before a difference could be confirmed, in the experiment {experiment!r}: give it more"
            )
            raise
        if answers is not None:
            self._blame(seen, experiment, one, other, answers)

    def _counting(self, seen: _Seen, one: _Place, other: _Place) -> tuple[Array, Array] | None:
        """Return the answers where they differ again, and not as last bits make them; notes what was learnt of those."""
        row, tight = one.layout.slots[one.position], _is_tight(one, other)
        scale, index = self._scales[seen.tensor.name], self._index(seen, row)
        pairs = [self._answers(seen, one, other) for _ in range(2)]
        for first, second in zip(*pairs, strict=True):
            if first.shape == second.shape == scale.spread[index].shape:
                scale.spread[index] = np.maximum(scale.spread[index], _distance(first, second))
        if any(self._ratio(seen, row, *pair, tight=tight) <= 1 for pair in pairs):
            seen.explained += 1
            return None
        if tight or seen.tensor.batch_axis is None:
            return pairs[-1]
        if self._can_change and self._explains(seen, one, pairs):
            seen.explained += 1
            return None
        # Of integers nobody knows how finely that was computed which they came from, so one row proves nothing.
        doubtful = not (scale.unit and self._can_change)
        return None if doubtful and not self._is_common(seen, one, other) else pairs[-1]

    def _explains(self, seen: _Seen, one: _Place, pairs: list[tuple[Array, Array]]) -> bool:
        """Return whether last bits of a row change its answer as much as its answers differ; notes what they change."""
        row = one.layout.slots[one.position]
        scale = self._scales[seen.tensor.name]
        unit = max(each.unit for each in self._scales.values())
        for turn in range(_MORE_CHANGES):
            share = _COARSEST if turn % 2 and not scale.unit else _MORE_CHANGE * unit
            changed = self._desk.launch(self._bank.changed(share, self._rng), one.layout)
            answer = _row(seen.tensor, changed, one.position)
            if not answer.shape == pairs[0][0].shape == scale.sway[row].shape:
                return False
            scale.sway[row] = np.maximum(scale.sway[row], _distance(pairs[0][0], answer))
            if self._ratio(seen, row, *pairs[-1], tight=False) <= 1:
                return True
        return False

    def _is_common(self, seen: _Seen, one: _Place, other: _Place) -> bool:
        """Return whether most rows differ there, too; else the output is unknown: they may have been on thresholds."""
        differ = 0
        for row in range(self._bank.pool):
            places = [
                _Place(place.layout._replace(slots=_with(place.layout.slots, place.position, row)), place.position)
                for place in (one, other)
            ]
            differ += self._differing(seen, *places) is not None
            if 2 * differ > self._bank.pool:
                return True
        seen.doubt = (
            f"{self._bank.names[one.layout.slots[one.position]]} is answered differently at place {other.position} of a launch "
            f"of {other.layout.gear}, most rows are not: last bits on a threshold could be the reason"
        )
        return False

    # ------------------------------------------------------------------------------------------------ the smallest example

    def _blame(self, seen: _Seen, experiment: Experiment, one: _Place, other: _Place, answers: tuple[Array, Array]) -> None:
        """Call an output coupled, by the smallest example that can be found in time."""
        seen.verdict = "coupled"
        try:
            for pair in self._smaller(experiment, one, other):
                if smaller := self._differing(seen, *pair):
                    one, other, answers = *pair, smaller
                    break
            one, other, answers = self._without_needless(seen, one, other, answers)
        except (_TimeUpError, _RefusedError) as ended:  # what was found is an example all the same
            if isinstance(ended, _TimeUpError):
                raise
        finally:
            seen.example = self._example(seen, experiment, one, other, answers)
            seen.reason = f"{EXPERIMENTS[experiment]}: {seen.example}"

    def _smaller(self, experiment: Experiment, one: _Place, other: _Place) -> Iterator[tuple[_Place, _Place]]:
        """Yield pairs of launches that may show the same, the smallest first."""
        row, zeros, noise = one.layout.slots[one.position], self._bank.fills["zeros"], self._bank.fills["noise"]
        gears = sorted(gear for gear in self._gears if gear <= max(one.layout.gear, other.layout.gear))
        if experiment == "history":
            for gear in gears:
                slots = (row,) if self._pads else (row, *(zeros,) * (gear - 1))
                left = other.layout.before[0]
                yield tuple(_Place(_Layout(gear, slots, (fill,) * gear), 0) for fill in (zeros, left))  # type: ignore[misc]
        elif not _is_tight(one, other):
            for size in gears:
                for position in sorted({1, size - 1} - {0, size}):
                    yield _Place(_Layout(size, (row,) * size), 0), _Place(_Layout(size, (row,) * size), position)
                for smaller in gears[: gears.index(size)]:
                    yield _Place(_Layout(smaller, (row,) * smaller), 0), _Place(_Layout(size, (row,) * size), 0)
        elif len(one.layout.slots) != len(other.layout.slots):
            for gear in gears:
                for beside in dict.fromkeys(slot for slot in one.layout.slots if slot != row):
                    if gear > 1:
                        yield _Place(_Layout(gear, (row, *(beside,) * (gear - 1))), 0), _Place(_Layout(gear, (row,)), 0)
        else:
            pairs = zip(one.layout.slots, other.layout.slots, strict=True)
            culprits = dict.fromkeys(new for old, new in pairs if old != new)
            for gear in gears[gears[0] == 1 :]:
                for culprit in culprits:
                    usual = noise if culprit == zeros else zeros
                    for position, beside in ((0, 1), (gear - 1, gear - 2)):
                        slots = _with((usual,) * gear, position, row)
                        for spoilt in (_with(slots, beside, culprit), _with((culprit,) * gear, position, row)):
                            yield _Place(_Layout(gear, slots), position), _Place(_Layout(gear, spoilt), position)

    def _without_needless(
        self, seen: _Seen, one: _Place, other: _Place, answers: tuple[Array, Array]
    ) -> tuple[_Place, _Place, tuple[Array, Array]]:
        """Give back what lay beside a row, one by one, as long as the difference stays."""
        if _is_tight(one, other) and len(one.layout.slots) == len(other.layout.slots):
            for place, slot in enumerate(one.layout.slots):
                slots = _with(other.layout.slots, place, slot)
                if slots != other.layout.slots:
                    fewer = _Place(other.layout._replace(slots=slots), other.position)
                    if differing := self._differing(seen, one, fewer):
                        other, answers = fewer, differing
        return one, other, answers

    def _example(
        self, seen: _Seen, experiment: Experiment, one: _Place, other: _Place, answers: tuple[Array, Array]
    ) -> TrialExample:
        row = one.layout.slots[one.position]
        expected, got = answers
        element: tuple[int, ...] = ()
        difference, tolerance = math.inf, 0.0
        allowed = self._scales[seen.tensor.name].tolerance(self._index(seen, row), tight=_is_tight(one, other))
        if expected.shape == got.shape == allowed.shape:
            apart = _distance(expected, got)
            element = tuple(int(i) for i in np.unravel_index(int(np.argmax(_share(apart, allowed))), apart.shape))
            difference, tolerance = float(apart[element]), float(allowed[element])
        return TrialExample(
            experiment=experiment,
            row=None if seen.tensor.batch_axis is None else self._bank.labels[row],
            one=self._told(one),
            other=self._told(other),
            expected=expected,
            got=got,
            element=element,
            difference=difference,
            tolerance=tolerance,
            one_inputs=self._bank.feed(one.layout.slots),
            other_inputs=self._bank.feed(other.layout.slots),
            before_inputs=self._bank.feed(other.layout.before) if other.layout.before else None,
        )

    def _told(self, place: _Place) -> TrialLaunch:
        names = self._bank.names
        layout = place.layout
        rows, before = (tuple(names[slot] for slot in slots) for slots in (layout.slots, layout.before))
        return TrialLaunch(layout.gear, rows, place.position, before)


def _row(tensor: TensorSpec, results: Mapping[str, Array], position: int) -> Array:
    """Return the answer for one row: of an output without rows, all of it. A copy, which no later launch writes to."""
    array = results[tensor.name]
    row: Array = (array if tensor.batch_axis is None else tensor.rows_of(array, position, position + 1)).copy()
    return row


def _is_tight(one: _Place, other: _Place) -> bool:
    """Whether a row lies in launches of one size, at one place: then the same is added in the same order."""
    return one.layout.gear == other.layout.gear and one.position == other.position


def _share(apart: _Floats, tolerance: _Floats) -> _Floats:
    """Return differences as shares of their tolerance: 0 where there are none, inf where none is tolerated."""
    with np.errstate(all="ignore"):
        return np.where(apart == 0, 0.0, np.where(np.isinf(tolerance), 0.0, apart / tolerance))


def _with(slots: tuple[int, ...], position: int, slot: int) -> tuple[int, ...]:
    return (*slots[:position], slot, *slots[position + 1 :])
