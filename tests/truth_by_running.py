"""Decides by running a model whether its rows influence one another: what the static analysis is compared with.

An output is independent when one function makes block i of it from row i and the un-batched inputs, for every i and every
number of rows. `truth` looks for a request that shows otherwise: other rows are changed, rows change places, rows come among
fewer or more others, the same request comes twice. It cannot prove independence; it finds nothing, with values that let
little hide (NaN spreads through nearly everything).

ONNX Runtime and the reference evaluator of onnx are both asked. What either shows counts, unless the two do not even agree on
what the model computes: then ONNX Runtime is believed, where it runs the model as soon as the other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from anybatch.safety import Safety, analyse

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
SIZES = (1, 2, 3, 8)
ROWS = 5
SMALL = 10_000  # entries of a request that the reference evaluator is asked as well: its loops over windows run in Python


@dataclass(frozen=True)
class Input:
    """An input of the model.

    Attributes:
        shape: with 1 where the rows are.
        axis: which one holds the rows; None for an input without.
        per_row: entries along it that belong to one row, next to one another.
        values: draws an array of a shape; see `draw`.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    per_row: int
    values: Callable[[np.random.Generator, tuple[int, ...], str], Array]


@dataclass(frozen=True)
class Truth:
    """What running showed of one output.

    Attributes:
        verdict: "independent" or "coupled"; None where the model does not run at all.
        check: what decided, in a sentence.
        axis: of an independent output, where its rows are; None where it has none.
        per_row: entries along it per row.
    """

    verdict: str | None
    check: str
    axis: int | None = None
    per_row: int = 1


class _CannotRunError(Exception):
    pass


class _Evaluator:
    """What runs a model.

    Raises:
        _CannotRunError: it cannot, or none of some requests.
    """

    def __init__(self, name: str, run: Callable[[Feeds], list[Array]], requests: Sequence[Feeds] = ()) -> None:
        self.name = name
        self._run = run
        self.first = 0  # of the requests that it runs
        failed = []
        for self.first, feeds in enumerate(requests):
            try:
                self.run(feeds)
            except _CannotRunError as error:
                failed.append(error)
            else:
                return
        if failed:
            raise failed[0]

    def run(self, feeds: Feeds) -> list[Array]:
        try:
            with np.errstate(all="ignore"):
                made = self._run(feeds)
        except Exception as error:
            raise _CannotRunError(f"{type(error).__name__}: {error}"[:200]) from error
        if not all(isinstance(array, (np.ndarray, np.generic)) for array in made):
            raise _CannotRunError("an output is no tensor")
        return list(map(np.asarray, made))


def _onnxruntime(model: onnx.ModelProto, requests: Sequence[Feeds]) -> _Evaluator:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Optimisations could hide what a node does.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise _CannotRunError(str(error)) from error
    return _Evaluator("ONNX Runtime", lambda feeds: session.run(None, feeds), requests)


def _reference(model: onnx.ModelProto, requests: Sequence[Feeds]) -> _Evaluator:
    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as error:
        raise _CannotRunError(str(error)) from error
    return _Evaluator("the reference evaluator", lambda feeds: evaluator.run(None, feeds), requests)


class _Doubles:
    """The reference evaluator in double precision, where rounding is no excuse; made once it is needed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._evaluator: _Evaluator | None = None

    def run(self, feeds: Feeds) -> list[Array]:
        if self._evaluator is None:
            self._evaluator = _reference(as_doubles(self._model), ())
        doubles = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feeds.items()}
        return self._evaluator.run(doubles)


def as_doubles(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every float32 is a float64."""
    doubled = copy.deepcopy(model)
    _double(doubled.graph)
    for function in doubled.functions:
        _double_nodes(function.node)
    return doubled


def _double(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    _double_nodes(graph.node)


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _double_nodes(nodes: Any) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                _double_tensor(attribute.t)
            if attribute.HasField("g"):
                _double(attribute.g)


def draw(low: int = 0, high: int = 4, dtype: Any = np.float32) -> Callable[[np.random.Generator, tuple[int, ...], str], Array]:
    """Return what draws values: floats of a kind, integers from low up to but not including high, booleans."""
    kind_of = np.dtype(dtype).kind

    def values(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Array:
        if kind_of == "b":
            return rng.integers(0, 2, shape).astype(bool)
        if kind_of in "iu":
            return rng.integers(low, high, shape).astype(dtype)
        floats = rng.standard_normal(shape) * 3
        if kind == "sorted":
            floats = np.sort(floats.ravel()).reshape(shape)
        elif kind == "negative":
            floats = -np.abs(floats)
        elif kind == "large":
            floats *= 1e4
        elif kind == "nan":
            floats = np.full(shape, np.nan)
        elif kind == "constant":
            floats = np.full(shape, floats.ravel()[:1] if floats.size else 0)
        return floats.astype(dtype)

    return values


def inputs_of(
    model: onnx.ModelProto,
    *,
    batch_axis: Mapping[str, int | None] | None = None,
    rows_per_row: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
) -> list[Input]:
    """Return the inputs of a model whose rows are on the dimensions that are called n, or k*n."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        shape, axis, per_row = [], None, 1
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            if (batch_axis or {}).get(value.name, -1) == index or (
                value.name not in (batch_axis or {}) and re.fullmatch(r"(\d+\*)?n", dim.dim_param)
            ):
                axis = index
                per_row = (rows_per_row or {}).get(value.name) or int(
                    dim.dim_param.partition("*")[0] if "*" in dim.dim_param else 1
                )
                shape.append(1)
            else:
                shape.append(dim.dim_value or 3)
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        low, high = (ranges or {}).get(value.name, (0, 4))
        found.append(Input(value.name, tuple(shape), axis, per_row, draw(low, high, dtype)))
    return found


def truth(
    model: onnx.ModelProto, inputs: list[Input] | None = None, *, trials: int = 3, sizes: tuple[int, ...] = SIZES
) -> dict[str, Truth]:
    """Return what running shows of each output.

    Args:
        inputs: what to feed; by default `inputs_of(model)`.
        trials: how often everything is tried, with other values.
        sizes: the numbers of rows among which a row is run, besides 5.
    """
    names = [output.name for output in model.graph.output]
    inputs = inputs_of(model) if inputs is None else inputs
    pruned = _pruned(model, names)
    requests = [_feeds(inputs, _drawn(inputs, np.random.default_rng(0), n, "normal"), range(n)) for n in (ROWS, *sizes)]
    doubles, asked, failed = _Doubles(pruned), [], []
    for make in (_onnxruntime, _reference):
        if asked and sum(array.size for array in requests[0].values()) > SMALL:
            continue
        try:
            asked.append(_Trials(make(pruned, requests), doubles, names, inputs, sizes))
        except _CannotRunError as error:
            failed.append(str(error))
    if not asked:
        return {name: Truth(None, f"does not run: {'; '.join(failed)}") for name in names}
    asked.sort(key=lambda each: each.evaluator.first)  # one that runs a single number of rows has less to say
    found = asked[0].verdicts(trials)
    if len(asked) > 1 and any(each.verdict == "independent" for each in found.values()):
        others = asked[1].verdicts(trials)
        for index, name in enumerate(names):
            other = others[name]
            shown = found[name].verdict == "independent" and other.verdict == "coupled" and not other.check.startswith(_STOPS)
            if shown and _agree(asked, requests[0], index):
                found[name] = other
    if len(names) > 1 and any(each.check.startswith(_STOPS) for each in found.values()):
        # Perhaps on one output's account only.
        alone = (truth(_pruned(model, [name]), inputs, trials=trials, sizes=sizes) for name in names)
        return {name: each[name] for name, each in zip(names, alone, strict=True)}
    return found


def _agree(asked: Sequence[_Trials], request: Feeds, output: int) -> bool:
    try:
        one, other = (each.evaluator.run(request)[output] for each in asked)
    except _CannotRunError:
        return False
    return _alike(one, other)


_STOPS = "does not run with"


def _pruned(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return a copy with some outputs, and without the nodes that they do not need: where those fail says nothing of them."""
    copied = copy.deepcopy(model)
    needed = set(outputs)
    nodes = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= _read_by(node)
    del copied.graph.node[:], copied.graph.output[:]
    copied.graph.node.extend(reversed(nodes))
    copied.graph.output.extend(output for output in model.graph.output if output.name in outputs)
    return copied


def _read_by(node: onnx.NodeProto) -> set[str]:
    bodies = (attribute.g.node for attribute in node.attribute if attribute.HasField("g"))
    results = (output.name for attribute in node.attribute if attribute.HasField("g") for output in attribute.g.output)
    return {*node.input, *results}.union(*(_read_by(inner) for body in bodies for inner in body))


def _drawn(inputs: list[Input], rng: np.random.Generator, rows: int, kind: str) -> dict[str, list[Array]]:
    """Return each input's rows; of an input without any, one array."""
    drawn = {}
    for each in inputs:
        shape = list(each.shape)
        if each.axis is None:
            drawn[each.name] = [each.values(rng, tuple(shape), "normal")]
            continue
        shape[each.axis] = each.per_row
        drawn[each.name] = [each.values(rng, tuple(shape), kind) for _ in range(rows)]
    return drawn


def _feeds(inputs: list[Input], drawn: Mapping[str, list[Array]], order: Any) -> Feeds:
    return {
        each.name: drawn[each.name][0]
        if each.axis is None
        else np.concatenate([drawn[each.name][row] for row in order], axis=each.axis)
        for each in inputs
    }


class _Trials:
    """Requests to one evaluator, which are made until each output is decided."""

    def __init__(
        self, evaluator: _Evaluator, doubles: _Doubles, names: list[str], inputs: list[Input], sizes: tuple[int, ...]
    ) -> None:
        self.evaluator = evaluator
        self.doubles = doubles
        self.names = names
        self.inputs = inputs
        self.sizes = sizes
        self.places: list[tuple[int | None, int]] = []
        self.kept: tuple[Any, list[Array]] = (None, [])

    def verdicts(self, trials: int) -> dict[str, Truth]:
        decided = self._shapes()
        for check, one, other in self._pairs(trials):
            if len(decided) == len(self.names):
                break
            for index in self._differing(one, other, decided):
                decided[index] = Truth("coupled", f"{check}, in {self.evaluator.name}")
        for index, (axis, per_row) in enumerate(self.places):
            decided.setdefault(index, Truth("independent", "no request changed it", axis, per_row))
        return {name: decided[index] for index, name in enumerate(self.names)}

    def _shapes(self) -> dict[int, Truth]:
        """Find out where the outputs' rows are, by running some sizes."""
        shapes: dict[int, list[tuple[int, ...]]] = {}
        rows = _drawn(self.inputs, np.random.default_rng(1), max(*self.sizes, ROWS), "normal")
        for n in sorted({*self.sizes, ROWS}):
            try:
                made = self.evaluator.run(_feeds(self.inputs, rows, range(n)))
            except _CannotRunError as error:
                self.places = [(None, 1)] * len(self.names)
                failed = Truth("coupled", f"{_STOPS} {n} rows, in {self.evaluator.name}: {error}")
                return dict.fromkeys(range(len(self.names)), failed)
            shapes[n] = [array.shape for array in made]
        decided = {}
        for index, name in enumerate(self.names):
            found = {n: shape[index] for n, shape in shapes.items()}
            place = _place(found)
            self.places.append(place or (None, 1))
            if place is None:
                decided[index] = Truth("coupled", f"its shape is no multiple of the rows along one axis: {name} {found}")
        return decided

    def _pairs(self, trials: int) -> Iterator[tuple[str, tuple[Any, list[int]], tuple[Any, list[int]]]]:
        """Yield pairs of requests, each with its rows' contents and order, in which the same rows must come out the same."""
        everything = list(range(ROWS))
        kinds = ("normal", "sorted", "negative", "large", "constant")
        for trial in range(trials):
            rng = np.random.default_rng(100 + trial)
            rows = _drawn(self.inputs, rng, max(*self.sizes, ROWS), kinds[trial % len(kinds)])
            if trial == 0:
                request = (rows, everything)
                yield "the same request came out differently", request, request
            for n in self.sizes:
                yield f"{n} rows differ from the same among {ROWS}", (rows, everything), (rows, list(range(n)))
            yield "rows in another order differ", (rows, everything), (rows, [3, 0, 4, 1, 2])
            yield "the last row alone differs", (rows, everything), (rows, [ROWS - 1])
            fills = ("nan", "large", "normal", "constant", "negative")
            for row in range(ROWS):
                kind = fills[(row + trial) % len(fills)]
                others = _drawn(self.inputs, rng, ROWS, kind)
                changed = {
                    each.name: rows[each.name]
                    if each.axis is None
                    else [*rows[each.name][:row], others[each.name][row], *rows[each.name][row + 1 :]]
                    for each in self.inputs
                }
                yield (
                    f"other rows changed with row {row} of {ROWS} ({kind})",
                    (rows, everything),
                    ({**changed, "": row}, everything),
                )

    def _differing(self, one: Any, other: Any, decided: Mapping[int, Truth]) -> list[int]:
        """Return the outputs in which rows of both requests differ, beyond what rounding explains."""
        requests = [_feeds(self.inputs, drawn, order) for drawn, order in (one, other)]
        try:
            again = one is other  # the same request twice; else the first is mostly the one before
            if again or self.kept[0] is not one[0]:
                self.kept = (one[0], self.evaluator.run(requests[0]))
            made = [self.kept[1], self.evaluator.run(requests[1])]
        except _CannotRunError:  # on what was drawn: whether the numbers of rows run has been seen before
            return []
        wrong = [index for index in self._compare(made, one, other) if index not in decided]
        if not wrong:
            return []
        try:
            doubles = [self.doubles.run(request) for request in requests]
        except _CannotRunError:
            return wrong
        confirmed = self._compare(doubles, one, other)
        # In doubt the reference evaluator has the last word, but only where it agrees on what the model computes.
        return [index for index in wrong if index in confirmed or not _alike(made[0][index], doubles[0][index])]

    def _compare(self, made: Sequence[Sequence[Array]], one: Any, other: Any) -> list[int]:
        first, second = made
        skipped = other[0].get("")
        wrong = []
        for index, (axis, per_row) in enumerate(self.places):
            if axis is None:
                equal = first[index].shape == second[index].shape and _close(first[index], second[index])
            else:
                equal = first[index].shape[axis] == per_row * len(one[1]) and second[index].shape[axis] == per_row * len(
                    other[1]
                )
                for position, row in enumerate(other[1]):
                    if equal and row != skipped and row in one[1]:
                        left = _block(first[index], axis, per_row, one[1].index(row))
                        right = _block(second[index], axis, per_row, position)
                        equal = left.shape == right.shape and _close(left, right)
            if not equal:
                wrong.append(index)
        return wrong


def _block(array: Array, axis: int, per_row: int, row: int) -> Array:
    return np.take(array, range(row * per_row, (row + 1) * per_row), axis)


def _place(shapes: Mapping[int, tuple[int, ...]]) -> tuple[int | None, int] | None:
    """Return where the rows of an output are and how many entries one has there; None where that is not so."""
    if len({len(shape) for shape in shapes.values()}) != 1:
        return None
    changing = [axis for axis in range(len(shapes[ROWS])) if len({shape[axis] for shape in shapes.values()}) > 1]
    if not changing:
        return (None, 1)
    if len(changing) > 1:
        return None
    axis = changing[0]
    per_row = shapes[ROWS][axis] // ROWS
    return (axis, per_row) if per_row and all(shape[axis] == per_row * n for n, shape in shapes.items()) else None


def _alike(one: Array, other: Array) -> bool:
    """Say whether two evaluators computed the same, but for rounding and what it decides."""
    if one.shape != other.shape:
        return False
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    scale = max(float(np.abs(left[finite]).max(initial=0)), 1e-3)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    same[finite] |= np.abs(left[finite] - right[finite]) <= 1e-2 * scale
    return bool(same.mean() > 0.5) if same.size else True


def _close(one: Array, other: Array) -> bool:
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    if np.array_equal(one, other, equal_nan=True):
        return True
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)) or not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return False
    wide = np.longdouble if one.dtype == np.float64 else np.float64
    left, right = one[finite].astype(wide), other[finite].astype(wide)
    scale = max(float(np.abs(left).max()), float(np.abs(right).max()), 0.05)  # less may be what is left of cancelling
    return bool((np.abs(left - right) <= (1e-9 if one.dtype == np.float64 else 1e-4) * scale).all())


def mistakes(safety: Safety, found: Mapping[str, Truth]) -> list[str]:
    """Return where an analysis calls independent what is not, or says that an output's rows are elsewhere than they are.

    A number of rows that does not run fails loudly and for all outputs that a node makes: it is held against an analysis
    only where that calls all outputs independent.
    """
    wrong = []
    for output in safety.outputs:
        true = found[output.name]
        stopped = true.check.startswith(_STOPS) and safety.verdict != "independent"
        if output.verdict != "independent" or true.verdict is None or stopped:
            continue
        if true.verdict == "coupled":
            wrong.append(f"{output.name!r} is called independent, but {true.check}")
        elif (output.batch_axis, output.rows_per_row) != (true.axis, true.per_row):
            wrong.append(
                f"the rows of {output.name!r} are said to be on axis {output.batch_axis}, {output.rows_per_row} each, "
                f"but are on axis {true.axis}, {true.per_row} each"
            )
    return wrong


def assert_truth(model: onnx.ModelProto, **options: Any) -> Safety:
    """Check that an analysis calls nothing independent that running shows is not, and return what it says.

    Args:
        options: of `analyse`; the model is run with the rows where that finds them, and with small integers.
    """
    safety = analyse(model, **options)
    inputs = inputs_of(
        model,
        batch_axis={each.name: each.axis for each in safety.inputs},
        rows_per_row={each.name: each.rows_per_row for each in safety.inputs},
        ranges={each.name: (0, 3) for each in safety.inputs},
    )
    found = truth(model, inputs)
    assert found
    assert all(each.verdict is not None for each in found.values()), found
    assert not mistakes(safety, found)
    return safety
