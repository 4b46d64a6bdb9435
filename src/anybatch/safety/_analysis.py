"""From a model to a verdict per output: assigns the batch axes, runs the engine, reads what came out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anybatch import _rebatch
from anybatch._backend import Model
from anybatch._errors import ModelError
from anybatch._onnx_spec import BatchAxes, declared_tensors, find_spec, fixed_batch, read_model, symbol_of
from anybatch._tensors import TensorSpec
from anybatch.safety._axes import certainty_of, other_assignments
from anybatch.safety._domain import Blame, Rows, Value
from anybatch.safety._engine import analyse_graph, label
from anybatch.safety._result import BatchAxis, OutputSafety, Safety, Step
from anybatch.safety._sizes import ONE, N, Size

if TYPE_CHECKING:
    import onnx


def analyse(
    model: Model, *, batch_axis: Mapping[str, int | None] | None = None, rows_per_row: Mapping[str, int] | None = None
) -> Safety:
    """Prove, without running it, whether the rows of an ONNX model depend on one another.

    Where the model does not say which axis carries rows and there are several candidates, each is tried, and the first is
    taken under which all outputs are independent. A model whose batch size is fixed is analysed as it is once that size has
    been freed; where it cannot be, all outputs are unknown. Initializers that are listed as inputs count as constants, since
    a run cannot replace them. Only the model itself is read, never its external data.

    Args:
        model: a file, the bytes of one, or an onnx.ModelProto; it is not modified.
        batch_axis: which axis carries rows, by tensor name; None for a tensor without rows.
        rows_per_row: by tensor name, how many entries along that axis one row has.

    Raises:
        InputError: an override names no tensor, or an axis that is not there.
        ModelError: it is no ONNX model, no input has an axis that could carry rows, or an input or output is no tensor.
    """
    proto = read_model(model)
    axes = BatchAxes.from_options({"batch_axis": batch_axis, "rows_per_row": rows_per_row})
    tensors = declared_tensors(proto)
    axes.check_names((*tensors[0], *tensors[1]))
    try:
        first = _analysed(proto, axes, axes)
        if first.verdict == "independent":
            return first
    except ModelError as error:
        first, reason = None, error
    for others in other_assignments(*tensors, axes, first):
        try:
            found = _analysed(proto, others, axes)
        except ModelError:
            continue
        if found.verdict == "independent":
            return found
        first = first or found
    if first is None:
        raise reason
    return first


@dataclass(frozen=True, slots=True)
class _Assigned:
    """A model, and what each tensor's rows are taken to be."""

    model: onnx.ModelProto
    told: BatchAxes
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    guessed: Sequence[str]


def _analysed(model: onnx.ModelProto, axes: BatchAxes, told: BatchAxes) -> Safety:
    inputs, outputs = declared_tensors(model)
    batch = fixed_batch(inputs, axes)
    spec, guessed = find_spec(inputs, outputs, axes, batch=batch)
    found = tuple(
        BatchAxis(tensor.name, tensor.batch_axis, tensor.rows_per_row, certainty_of(tensor, declared, inputs, told))
        for tensor, declared in zip(spec.inputs, inputs, strict=True)
    )
    if batch is not None:
        try:
            model = _rebatch.free_batch(model, axes)
        except ModelError as error:
            reasons = [f"the batch size is fixed to {batch} and cannot be freed: {error}"] * len(outputs)
            return Safety(found, tuple(_not_freed(t, r) for t, r in zip(spec.outputs, reasons, strict=True)))
        spec, _ = find_spec(*declared_tensors(model), axes)
    values = analyse_graph(model, {tensor.name: input_value(tensor, spec.inputs) for tensor in spec.inputs})
    assigned = _Assigned(model, told, spec.inputs, spec.outputs, guessed)
    paths = _Paths(model, values)
    return Safety(found, tuple(_judged(assigned, tensor, values[tensor.name], paths) for tensor in spec.outputs))


def _not_freed(tensor: TensorSpec, reason: str) -> OutputSafety:
    return OutputSafety(tensor.name, "unknown", None, reason, (), tensor.batch_axis, tensor.rows_per_row, "guessed")


def input_value(tensor: TensorSpec, tensors: Sequence[TensorSpec]) -> Value:
    """Return what is known of an input by its spec."""
    batch = {symbol_of(each.shape[each.batch_axis]) for each in tensors if each.batch_axis is not None} - {""}
    shape = []
    for axis, dim in enumerate(tensor.shape):
        if axis == tensor.batch_axis:
            shape.append(N * tensor.rows_per_row)
        elif isinstance(dim, int):
            shape.append(Size(dim))
        elif tensor.batch_axis is not None and isinstance(dim, str) and _mentions(dim, batch):
            reason = f"axis {axis} of {tensor.name!r} has the size {dim!r}, but the rows are on axis {tensor.batch_axis}"
            return Value(blame=Blame(False, tensor.name, reason, tensor.name))
        else:
            known = isinstance(dim, str) and not _mentions(dim, batch)
            shape.append(Size.atom(f"[{dim}]" if known else f"[{tensor.name}.{axis}]"))
    rows = None if tensor.batch_axis is None else Rows(tensor.batch_axis, ONE, Size(tensor.rows_per_row))
    return Value(tuple(shape), rows)


def _mentions(dim: str, symbols: set[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(symbol)}(?!\w)", dim) for symbol in symbols)


def _judged(assigned: _Assigned, tensor: TensorSpec, value: Value, paths: _Paths) -> OutputSafety:
    chain = paths.to(tensor.name)
    if value.blame is not None:
        blame = value.blame
        verdict = "coupled" if blame.coupled else "unknown"
        axis, certainty = tensor.batch_axis, "guessed"
        return OutputSafety(tensor.name, verdict, blame.node or None, blame.reason, chain, axis, tensor.rows_per_row, certainty)  # type: ignore[arg-type]
    problem = _misplaced(assigned, tensor, value)
    rows = value.rows
    per_row = (rows.per_row.constant or 1) if rows is not None else 1
    axis = None if rows is None else rows.axis
    certainty = "told" if tensor.name in assigned.told.axis else "proven"
    node = paths.maker(tensor.name)
    if problem is not None:
        return OutputSafety(tensor.name, problem[0], node, problem[1], chain, axis, per_row, certainty)  # type: ignore[arg-type]
    reason = (
        f"{tensor.name!r} depends on no row"
        if rows is None
        else f"row i of {tensor.name!r} depends on row i alone, in the same way for every i and every number of rows"
    )
    return OutputSafety(tensor.name, "independent", None, reason, chain, axis, per_row, certainty)  # type: ignore[arg-type]


def _misplaced(assigned: _Assigned, tensor: TensorSpec, value: Value) -> tuple[str, str] | None:
    """Return a verdict and its reason where an output's rows are not where they are expected, though each is on its own."""
    name, rows = tensor.name, value.rows
    if value.items is not None:
        return "unknown", f"{name!r} is no tensor"
    if value.counts:
        return "coupled", f"{name!r} depends on the number of rows or on their positions"
    expected = name in assigned.told.axis or (tensor.batch_axis is not None and name not in assigned.guessed)
    if rows is None:
        if expected and tensor.batch_axis is not None:
            return "coupled", f"{name!r} should hold rows on axis {tensor.batch_axis}, and depends on none"
        return None
    if rows.outer != ONE and not rows.uniform:
        return "coupled", f"{name!r} holds {rows.outer} blocks of all rows along axis {rows.axis}: a row's entries lie apart"
    if rows.per_row.constant is None:
        return "unknown", f"{name!r} has {rows.per_row} entries per row along axis {rows.axis}, which is no constant"
    if expected and (tensor.batch_axis, tensor.rows_per_row) != (rows.axis, rows.per_row.constant):
        should = "no rows" if tensor.batch_axis is None else f"{tensor.rows_per_row} per row on axis {tensor.batch_axis}"
        return "coupled", f"{name!r} should hold {should}, and holds {rows.per_row} per row on axis {rows.axis}"
    return None


class _Paths:
    """The ways that rows take through a model's main graph."""

    def __init__(self, model: onnx.ModelProto, values: Mapping[str, Value]) -> None:
        self.values = values
        self.makers = {name: node for node in model.graph.node for name in node.output if name}

    def maker(self, tensor: str) -> str | None:
        node = self.makers.get(tensor)
        return None if node is None else label(node)

    def to(self, tensor: str) -> tuple[Step, ...]:
        """Return the way of the rows to a tensor, from an input on; only steps that move them, and the last."""
        steps: list[Step] = []
        name: str | None = tensor
        while name is not None:
            node = self.makers.get(name)
            steps.append(Step(label(node) if node else name, node.op_type if node else "Input", name, self._words(name)))
            name = None if node is None else self._before(node, self.values[name])
        steps.reverse()
        last = self.values[tensor].blame
        kept = [step for place, step in enumerate(steps) if self._matters(steps, place, last)]
        return tuple(kept)

    def _before(self, node: onnx.NodeProto, made: Value) -> str | None:
        known = [name for name in node.input if name in self.values]
        same = [name for name in known if made.blame is not None and self.values[name].blame == made.blame]
        rows = [name for name in known if self.values[name].rows is not None]
        counts = [name for name in known if self.values[name].counts]
        return next(iter([*same, *rows, *counts]), None)

    def _matters(self, steps: Sequence[Step], place: int, blame: Blame | None) -> bool:
        step = steps[place]
        if blame is not None and self.values[step.tensor].blame is not None:
            return place == 0 or self.values[steps[place - 1].tensor].blame is None
        return (
            place in (0, len(steps) - 1)
            or step.rows != steps[place - 1].rows
            or (place + 1 < len(steps) and self.values[steps[place + 1].tensor].blame is not None)
        )

    def _words(self, name: str) -> str:
        value = self.values[name]
        if value.rows is None:
            return "" if value.common else "?" if not value.counts else "numbers or positions of rows"
        per_row = "" if value.rows.per_row == ONE else f", {value.rows.per_row} entries per row"
        return f"axis {value.rows.axis} of ({', '.join(map(str, value.shape or ()))}){per_row}"
