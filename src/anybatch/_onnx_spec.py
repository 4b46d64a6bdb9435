"""Reads from an ONNX model which axis of each tensor carries rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anybatch._backend import Model
from anybatch._errors import InputError, ModelError
from anybatch._tensors import Dim, ModelSpec, TensorSpec

if TYPE_CHECKING:
    import onnx

_BATCH: Final = "rows"
_LIKELY: Final = re.compile(r"n|b|bs|rows?|(.*_)?batch(_?size|_?dim)?(_.*)?", re.IGNORECASE)
_FACTOR: Final = re.compile(r"(\d+)\s*\*\s*(.+)|(.+?)\s*\*\s*(\d+)")
# Operators that round to integers, ONNX's own and ONNX Runtime's: all but those that only read what is stored as integers.
_QUANTISED: Final = re.compile(r"QuantizeLinear|DynamicQuantize|QLinear|QAttention|QGemm|MatMulInteger|ConvInteger")


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """An input or output as the model declares it: a dimension is an int, a symbol, or None where it is unknown."""

    name: str
    dtype: np.dtype[Any]
    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class BatchAxes:
    """What the caller says about tensors whose rows the model does not tell.

    Attributes:
        axis: by tensor name, the axis that carries rows; None for a tensor without rows.
        rows_per_row: by tensor name, how many entries along that axis one row has.
    """

    axis: Mapping[str, int | None]
    rows_per_row: Mapping[str, int]

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> BatchAxes:
        """Read the options ``batch_axis`` and ``rows_per_row``, which every backend for ONNX models offers alike.

        Raises:
            InputError: one is no mapping of tensor names to ints (or, for the axis, None).
        """
        read: dict[str, dict[str, Any]] = {}
        for option, allowed, meaning in (
            ("batch_axis", (int, type(None)), "axes, or None for a tensor without rows"),
            ("rows_per_row", (int,), "counts"),
        ):
            value = options.get(option) or {}
            if not isinstance(value, Mapping) or not all(
                isinstance(item, allowed) and not isinstance(item, bool) for item in value.values()
            ):
                raise InputError(f"expected {option} to map tensor names to {meaning}, got {value!r}")
            read[option] = dict(value)
        return cls(read["batch_axis"], read["rows_per_row"])

    def check_names(self, tensors: Iterable[DeclaredTensor]) -> None:
        """Check that every tensor spoken of exists, and has the axis.

        Raises:
            InputError: one does not.
        """
        ranks = {tensor.name: len(tensor.dims) for tensor in tensors}
        for option, names in (("batch_axis", self.axis), ("rows_per_row", self.rows_per_row)):
            for name in names:
                if name not in ranks:
                    raise InputError(f"{option} names {name!r}, which is no input or output; those are {sorted(ranks)}")
        for name, axis in self.axis.items():
            if axis is not None and not 0 <= axis < ranks[name]:
                raise InputError(f"batch_axis of {name!r}: expected an axis in 0..{ranks[name] - 1}, got {axis}")


def declared_tensors(model: onnx.ModelProto) -> tuple[list[DeclaredTensor], list[DeclaredTensor]]:
    """Return a model's inputs and outputs; initializers that are listed as inputs (IR 3) are not inputs.

    Raises:
        ModelError: one is not a tensor of a type that NumPy (with ml_dtypes) has.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_declared(value) for value in model.graph.input if value.name not in weights]
    return inputs, [_declared(value) for value in model.graph.output]


def _declared(value: onnx.ValueInfoProto) -> DeclaredTensor:
    import onnx  # takes 0.1 s, and `import anybatch` alone needs none of it

    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(f"{value.name!r}: expected a tensor, got {value.type.WhichOneof('value') or 'no type'}")
    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    except KeyError:
        raise ModelError(f"{value.name!r}: element type {tensor.elem_type} is unknown to this version of onnx") from None
    if dtype.hasobject or tensor.elem_type == onnx.TensorProto.STRING:
        raise ModelError(f"{value.name!r}: string tensors are not supported")
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return DeclaredTensor(value.name, np.dtype(dtype), dims)


def fixed_batch(inputs: Sequence[DeclaredTensor], axes: BatchAxes) -> int | None:
    """Return the batch size that is baked into a model, or None if its batch axis is free.

    Raises:
        ModelError: the inputs have different sizes there, or no axes at all, so that nobody can tell.
    """
    if _batch_symbol(inputs, axes) is not None:
        return None
    sizes: dict[str, int] = {}
    for tensor in inputs:
        axis = axes.axis.get(tensor.name, 0)
        size = tensor.dims[axis] if tensor.dims and axis is not None else None
        if isinstance(size, int):
            sizes[tensor.name] = size // axes.rows_per_row.get(tensor.name, 1)
    if not sizes:
        raise ModelError(f"no input has a batch axis, so there are no rows to batch; inputs are {_listed(inputs)}")
    if len(set(sizes.values())) > 1:
        raise ModelError(
            f"the batch size is fixed, but which is it? The inputs differ on axis 0: {_listed(inputs)}; "
            f"say which carry rows, such as batch_axis={_suggestion(sizes)}"
        )
    return next(iter(sizes.values()))


def find_spec(
    inputs: Sequence[DeclaredTensor], outputs: Sequence[DeclaredTensor], axes: BatchAxes, *, batch: int | None = None
) -> tuple[ModelSpec, list[str]]:
    """Find out which axis of each tensor carries rows.

    The batch symbol is the one free dimension of the inputs that is named like a batch (batch, batch_size, N, rows, ...) or
    else the one that leads them. A tensor carries rows on the axis that has this symbol, also as ``"3*symbol"``; a
    tensor that does not have it carries none.

    Args:
        batch: the size of the batch axis where it is baked in, see `fixed_batch`.

    Returns:
        The spec, and the names of the outputs whose batch axis is only guessed, because their free dimensions have names of
        their own.

    Raises:
        InputError: `axes` does not fit the model.
        ModelError: there is no batch axis, or more than one candidate; the message shows what to say.
    """
    axes.check_names((*inputs, *outputs))
    if batch is not None:
        inputs = [_with_symbol(tensor, axes, batch) for tensor in inputs]
        outputs = [_with_symbol(tensor, axes, batch) for tensor in outputs]
    symbol = _batch_symbol(inputs, axes)
    if symbol is None:
        raise ModelError(f"no input has a free axis that could carry rows; inputs are {_listed(inputs)}")
    known = {symbol_of(dim) for tensor in inputs for dim in tensor.dims if not isinstance(dim, int)} - {""}
    guessed = {}
    for tensor in outputs:
        free = [
            axis for axis, dim in enumerate(tensor.dims) if not isinstance(dim, int) and symbol_of(dim) not in known - {symbol}
        ]
        if free and tensor.name not in axes.axis and all(symbol_of(tensor.dims[axis]) != symbol for axis in free):
            guessed[tensor.name] = free[0]
    axes = BatchAxes({**guessed, **axes.axis}, axes.rows_per_row)
    spec = ModelSpec(
        tuple(_spec(tensor, symbol, axes) for tensor in inputs), tuple(_spec(tensor, symbol, axes) for tensor in outputs)
    )
    return spec, list(guessed)


def _with_symbol(tensor: DeclaredTensor, axes: BatchAxes, batch: int) -> DeclaredTensor:
    axis = axes.axis.get(tensor.name, 0)
    size = batch * axes.rows_per_row.get(tensor.name, 1)
    if axis is None or axis >= len(tensor.dims) or tensor.dims[axis] != size:
        return tensor
    return DeclaredTensor(tensor.name, tensor.dtype, (*tensor.dims[:axis], _BATCH, *tensor.dims[axis + 1 :]))


def _batch_symbol(inputs: Sequence[DeclaredTensor], axes: BatchAxes) -> str | None:
    """Return the symbol of the batch axis, "" where it has no name; None where no input has a free axis for it.

    Raises:
        ModelError: there are several candidates.
    """
    told = {
        symbol_of(tensor.dims[axis])
        for tensor in inputs
        if (axis := axes.axis.get(tensor.name)) is not None and not isinstance(tensor.dims[axis], int)
    }
    silent = [tensor for tensor in inputs if tensor.name not in axes.axis]
    likely = {symbol_of(dim) for t in silent for dim in t.dims if not isinstance(dim, int) and names_batch(symbol_of(dim))}
    leading = {symbol_of(tensor.dims[0]) for tensor in silent if tensor.dims and not isinstance(tensor.dims[0], int)}
    candidates = told or likely or leading
    if len(candidates) > 1:
        first, *others = (tensor.name for tensor in inputs if tensor.dims)
        raise ModelError(
            f"several free dimensions could carry rows: {_listed(inputs)}; "
            f"say which do, such as batch_axis={_suggestion([first, *others])}"
        )
    return candidates.pop() if candidates else None


def _spec(tensor: DeclaredTensor, symbol: str, axes: BatchAxes) -> TensorSpec:
    if tensor.name in axes.axis:
        axis = axes.axis[tensor.name]
    else:
        matches = [i for i, dim in enumerate(tensor.dims) if not isinstance(dim, int) and symbol_of(dim) == symbol]
        axis = matches[0] if matches and (symbol or matches[0] == 0) else None
    shape = tuple(dim if isinstance(dim, int) else symbol_of(dim) or None for dim in tensor.dims)
    if axis is None:
        return TensorSpec(tensor.name, tensor.dtype, shape, None)
    dim = tensor.dims[axis]
    if isinstance(dim, int):
        raise ModelError(f"{tensor.name!r}: axis {axis} has the fixed size {dim}, so it cannot carry any number of rows")
    return TensorSpec(tensor.name, tensor.dtype, shape, axis, axes.rows_per_row.get(tensor.name, _factor(dim)))


def symbol_of(dim: Dim) -> str:
    """Return the symbol of a free dimension without its factor; "" for one without a usable name, such as ``"?"``."""
    if not isinstance(dim, str):
        return ""
    match = _FACTOR.fullmatch(dim.strip())
    name = (match.group(2) or match.group(3)) if match else dim.strip()
    return name if re.search(r"[^\W\d]", name) else ""


def names_batch(symbol: str) -> bool:
    """Whether a symbol is named like a batch: batch, batch_size, N, rows, ..."""
    return _LIKELY.fullmatch(symbol) is not None


def _factor(dim: Dim) -> int:
    match = _FACTOR.fullmatch(dim.strip()) if isinstance(dim, str) else None
    return int(match.group(1) or match.group(4)) if match else 1


def _listed(tensors: Iterable[DeclaredTensor]) -> str:
    return ", ".join(f"{t.name!r} [{', '.join('?' if d is None else str(d) for d in t.dims)}]" for t in tensors)


def _suggestion(names: Iterable[str]) -> str:
    first, *others = names
    return str({first: 0, **dict.fromkeys(others)})


def read_model(model: Model) -> onnx.ModelProto:
    """Return a model as a proto, whatever form a backend was handed; external data stays in its files.

    Raises:
        ModelError: the bytes or the file are no ONNX model.
    """
    import onnx

    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no public type, and files fail in their own ways
        raise ModelError(
            f"{'the bytes are' if isinstance(model, bytes) else f'{str(model)!r} is'} no ONNX model: {error}"
        ) from error


def model_precision(model: onnx.ModelProto) -> str:
    """Return what a model says it computes floats in: the coarsest of the floats in it, ``"int8"`` where it is quantised.

    Floats are looked for in inputs, outputs, weights, constants, casts and what is said of tensors in between. Quantised is a
    model that rounds to integers while it runs; one whose weights alone are stored as integers computes in floats.

    Returns:
        ``"int8"``, ``"bfloat16"``, ``"float16"``, ``"float32"`` or ``"float64"``; empty where there is no float.
    """
    import onnx

    types: set[int] = set()
    quantised = False

    def visit(nodes: Iterable[onnx.NodeProto]) -> None:
        nonlocal quantised
        for node in nodes:
            quantised |= bool(_QUANTISED.match(node.op_type))
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to":
                    types.add(attribute.i)
                types.update(tensor.data_type for tensor in (attribute.t, *attribute.tensors))
                for graph in (attribute.g, *attribute.graphs):
                    visit_graph(graph)

    def visit_graph(graph: onnx.GraphProto) -> None:
        types.update(tensor.data_type for tensor in graph.initializer)
        types.update(tensor.values.data_type for tensor in graph.sparse_initializer)
        types.update(value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info))
        visit(graph.node)

    visit_graph(model.graph)
    for function in model.functions:
        visit(function.node)
    if quantised:
        return "int8"
    kinds = onnx.TensorProto
    for name, of_kind in (
        ("bfloat16", {kinds.BFLOAT16}),
        ("float16", {kinds.FLOAT16}),
        ("float32", {kinds.FLOAT, kinds.COMPLEX64}),
        ("float64", {kinds.DOUBLE, kinds.COMPLEX128}),
    ):
        if types & of_kind:
            return name
    return ""


def read_model_spec(
    model: onnx.ModelProto,
    *,
    batch_axis: Mapping[str, int | None] | None = None,
    rows_per_row: Mapping[str, int] | None = None,
) -> ModelSpec:
    """Return the spec of an ONNX model: names, dtypes, shapes, and which axis of each tensor carries rows.

    For authors of backends that take ONNX models. The batch axis is the free dimension that leads the inputs; a model with
    fixed dimensions carries its rows on axis 0 wherever that has the inputs' common size.

    Args:
        batch_axis: overrides, by tensor name; None for a tensor without rows.
        rows_per_row: overrides, by tensor name: entries along the batch axis per row.

    Raises:
        InputError: an override names no tensor, or an axis that is not there.
        ModelError: there is no batch axis, or more than one candidate, or a tensor is of no supported type.
    """
    spec, _ = find_model_spec(*declared_tensors(model), batch_axis=batch_axis, rows_per_row=rows_per_row)
    return spec


def find_model_spec(
    inputs: Sequence[DeclaredTensor],
    outputs: Sequence[DeclaredTensor],
    *,
    batch_axis: Mapping[str, int | None] | None = None,
    rows_per_row: Mapping[str, int] | None = None,
) -> tuple[ModelSpec, int | None]:
    """Return the spec of a model that is described by its tensors, and the batch size that is baked into it, if one is.

    For authors of backends whose compiled models are no ONNX models. Rules, overrides and errors are those of
    `read_model_spec`; a dimension that carries rows is a symbol such as ``"rows"`` or ``"3*rows"``.
    """
    axes = BatchAxes.from_options({"batch_axis": batch_axis, "rows_per_row": rows_per_row})
    axes.check_names((*inputs, *outputs))
    batch = fixed_batch(inputs, axes)
    spec, _ = find_spec(inputs, outputs, axes, batch=batch)
    return spec, batch
