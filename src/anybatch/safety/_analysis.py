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
from anybatch.safety._result import BatchAxis, Certainty, OutputSafety, Safety, Step, Verdict
from anybatch.safety._sizes import ONE, N, Size

if TYPE_CHECKING:
    import onnx


def analyse(
    model: Model, *, batch_axis: Mapping[str, int | None] | None = None, rows_per_row: Mapping[str, int] | None = None
) -> Safety:
    """Prove, without running it, whether the rows of an ONNX model depend on one another.

    The batch axes are those of `read_model_spec`. Where that finds several candidates, each is tried, and the first is taken
    under which all outputs are independent, else the first: the verdict is one on the axes that it names.

    A fixed batch size is freed first; where it cannot be, all outputs are unknown. Initializers that are listed as inputs
    count as constants, since a run cannot replace them. External data is never read.

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
        return _analysed(proto, axes, axes)
    except ModelError as error:
        ambiguous = error
    tried: list[Safety] = []
    for others in other_assignments(*tensors, axes):
        try:
            tried.append(_analysed(proto, others, axes))
        except ModelError:
            continue
        if tried[-1].verdict == "independent":
            return tried[-1]
    if not tried:
        raise ambiguous
    return tried[0]


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
        inputs, outputs = declared_tensors(model)
        spec, _ = find_spec(inputs, outputs, axes)
    shaped = {value.name for value in model.graph.input if value.type.tensor_type.HasField("shape")}
    pairs = list(zip(spec.inputs, inputs, strict=True))
    batch_symbols = {symbol_of(has.dims[each.batch_axis]) for each, has in pairs if each.batch_axis is not None} - {""}
    known = {each.name: input_value(each, batch_symbols) if each.name in shaped else Value() for each in spec.inputs}
    values = analyse_graph(model, known)
    assigned = _Assigned(model, told, spec.inputs, spec.outputs, guessed)
    paths = _Paths(model, values)
    return Safety(found, tuple(_judged(assigned, tensor, values[tensor.name], paths) for tensor in spec.outputs))


def _not_freed(tensor: TensorSpec, reason: str) -> OutputSafety:
    return OutputSafety(tensor.name, "unknown", None, reason, (), tensor.batch_axis, tensor.rows_per_row, "guessed")


def input_value(tensor: TensorSpec, batch: set[str]) -> Value:
    """Return what is known of an input by its spec and the symbols of the batch axes."""
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
    """Return the verdict on one output."""
    if value.blame is not None:
        verdict: Verdict = "coupled" if value.blame.coupled else "unknown"
        node, reason = value.blame.node or None, value.blame.reason
        axis, per_row = tensor.batch_axis, tensor.rows_per_row
    else:
        verdict, reason = _misplaced(assigned, tensor, value) or ("independent", _independence(tensor.name, value.rows))
        node = None if verdict == "independent" else paths.maker(tensor.name)
        axis = None if value.rows is None else value.rows.axis
        per_row = 1 if value.rows is None else value.rows.per_row.constant or 1
    certainty: Certainty = "proven" if verdict == "independent" else "guessed"
    if tensor.name in assigned.told.axis:
        certainty = "told"
    return OutputSafety(tensor.name, verdict, node, reason, paths.to(tensor.name), axis, per_row, certainty)


def _independence(name: str, rows: Rows | None) -> str:
    if rows is None:
        return f"{name!r} depends on no row"
    return f"row i of {name!r} depends on row i alone, in the same way for every i and every number of rows"


def _misplaced(assigned: _Assigned, tensor: TensorSpec, value: Value) -> tuple[Verdict, str] | None:
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
