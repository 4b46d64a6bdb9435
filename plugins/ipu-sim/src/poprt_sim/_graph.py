"""What is known of an ONNX graph without running it: its borders, constants, types, shapes, work and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper

from poprt_sim._popef import DTYPES

Shape = tuple[int, ...]

#: The newest IR version that the oldest supported ONNX Runtime reads; `onnx.helper.make_model` stamps its own newest.
MAX_IR_VERSION: Final = 10

#: The domains of ONNX's own operators.
ONNX_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training"})

_MAX_UNFOLDED: Final = 50_000  # nodes; the largest published networks have a few ten thousand
_MAX_NESTING: Final = 10  # ONNX Runtime up to 1.23 takes twice as long for each level of bodies


class GraphError(RuntimeError):
    """A graph that cannot be used, and why."""


def parse(content: bytes) -> onnx.ModelProto:
    """Parse an ONNX model that holds all its weights itself, is well-formed, and does not unfold without bounds.

    Raises:
        GraphError: it is not one.
    """
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's errors share no base below Exception
        raise GraphError(f"not an ONNX model: {error}") from error
    check(model)
    return model


def check(model: onnx.ModelProto) -> None:
    """Check what `parse` promises of a model that is already there.

    Raises:
        GraphError: it does not hold.
    """
    _check_bounds(model)
    # Weights elsewhere would let a file from somewhere read any other file of this machine.
    if any(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data for tensor in constants(model.graph)):
        raise GraphError("the graph has weights in other files: load it with onnx.load, which reads them")
    try:
        onnx.checker.check_model(_checkable(model))
    except Exception as error:  # ValidationError, or protobuf's
        raise GraphError(f"not a valid ONNX model: {error}") from error


def _checkable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what the checker rejects and no compiler minds.

    PopRT's own programs use operators of ai.graphcore without declaring the domain, and outputs may leave their shape open.
    """
    declared = {entry.domain for entry in model.opset_import}
    missing = {node.domain for node in nodes(model.graph)} - declared - {"", "ai.onnx"}
    open_outputs = any(not value.type.tensor_type.HasField("shape") for value in model.graph.output)
    if not missing and not open_outputs:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(missing))
    for value in result.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return result


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside a node: branches and loop bodies."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from nodes(body)


def constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every constant tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)
        for body in bodies(node):
            yield from constants(body)


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller feeds: old files list their weights among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the tensors that a node reads, those of the graphs inside it too, which see the ones around."""
    yield from (name for name in node.input if name)
    for inner in bodies(node):
        yield from (value.name for value in inner.output)
        for each in inner.node:
            yield from names_read(each)


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """Return a tensor's shape, or None where an axis is not a number."""
    tensor_type = value.type.tensor_type
    if not tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor_type.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor_type.shape.dim)


def dtype_of(element: int) -> np.dtype[Any]:
    """Return the NumPy type of an ONNX element type.

    Raises:
        GraphError: an IPU program's tensors cannot have it, or it is not simulated.
    """
    if element in TensorProto.DataType.values():
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element)) if element != TensorProto.UNDEFINED else None
        if dtype is not None and DTYPES.get(dtype.name) == dtype:
            return dtype
        raise GraphError(f"tensors of type {TensorProto.DataType.Name(element)} are not simulated")
    raise GraphError(f"unknown element type {element}")


def set_shape(value: onnx.ValueInfoProto, shape: Iterable[int]) -> None:
    """Give a tensor a shape of numbers."""
    dims = value.type.tensor_type.shape
    dims.SetInParent()  # a scalar has a shape too, without axes
    del dims.dim[:]
    for size in shape:
        dims.dim.add().dim_value = size


def clamp_ir(model: onnx.ModelProto) -> None:
    """Make the IR version one that ONNX Runtime reads, in place: at least 4, where weights need not be inputs."""
    model.ir_version = min(max(model.ir_version, 4), MAX_IR_VERSION)


def replace(field: Any, items: Iterable[Any]) -> None:
    """Give a repeated field of a protobuf message these items, some of which may be in it."""
    kept = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(kept)


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with the nodes of its own functions in the places of their calls; `check` first."""
    if model.functions:
        return onnx.inliner.inline_local_functions(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors wherever they are read or written, in place, bodies too; not the graph's own inputs and outputs."""
    for node in nodes(graph):
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
        for body in bodies(node):
            for value in (*body.input, *body.output):
                value.name = names.get(value.name, value.name)


@dataclass(frozen=True, slots=True)
class Value:
    """What inference knows of a tensor: its ONNX element type and shape, each None where it does not reach."""

    element: int | None
    shape: Shape | None

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor; what is not known counts nothing."""
        if self.shape is None or self.element is None or self.element in (TensorProto.UNDEFINED, TensorProto.STRING):
            return 0
        return math.prod(self.shape) * np.dtype(helper.tensor_dtype_to_np_dtype(self.element)).itemsize


def infer(model: onnx.ModelProto) -> dict[str, Value]:
    """Return type and shape of every tensor of the main graph, from its inputs' and its constants'.

    Shapes that the graph itself claims of results are not believed: PopRT's own samples claim wrong ones.

    Raises:
        GraphError: types or shapes contradict each other.
    """
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    clamp_ir(skeleton)
    declared = {value.name: value.type.tensor_type.elem_type for value in skeleton.graph.output}
    foreign = [node for node in nodes(skeleton.graph) if node.domain not in ONNX_DOMAINS]
    domains = {node.domain for node in foreign} - {entry.domain for entry in skeleton.opset_import}
    skeleton.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(domains))
    made = {name for node in foreign for name in node.output}  # of these nothing but the claim is known
    replace(skeleton.graph.value_info, [value for value in skeleton.graph.value_info if value.name in made])
    for value in skeleton.graph.output:
        if value.name not in made:
            value.ClearField("type")
    strict = not foreign
    try:
        try:
            inferred = onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=strict, data_prop=True)
        except onnx.shape_inference.InferenceError:
            # Following computed shapes fails, too, where two branches of an If use one name, which is legal. Without it less
            # is found, and what contradicts itself does so again.
            inferred = onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=strict)
    except Exception as error:  # InferenceError, or protobuf's
        raise GraphError(str(error)) from error
    known = {tensor.name: Value(tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        element = value.type.tensor_type.elem_type or declared.get(value.name) or None
        known.setdefault(value.name, Value(element, shape_of(value)))
    return known


def flops_of(node: onnx.NodeProto, known: Mapping[str, Value]) -> int:
    """Return the operations of one node: two per multiply-add of a matrix operator, one per element of any other result.

    What inference does not reach, bodies of loops above all, counts nothing.
    """

    def shape(index: int) -> Shape | None:
        value = known.get(node.input[index]) if len(node.input) > index else None
        return value.shape if value is not None else None

    output = known.get(node.output[0]) if node.output else None
    result = output.shape if output is not None else None
    if result is None:
        return 0
    first, weight = shape(0), shape(1)
    if node.op_type in ("MatMul", "Gemm") and first:
        across = next((attribute.i for attribute in node.attribute if attribute.name == "transA"), 0)
        return 2 * math.prod(result) * (first[0] if across else first[-1])
    if node.op_type == "Conv" and weight:
        return 2 * math.prod(result) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose" and weight and first:
        return 2 * math.prod(first) * math.prod(weight[1:])
    return math.prod(result)


def peak_bytes(graph: onnx.GraphProto, known: Mapping[str, Value]) -> int:
    """Return the most that inputs and results of the main graph take together at one time, run in the graph's order."""
    weights = {tensor.name for tensor in graph.initializer}
    last: dict[str, int] = {value.name: len(graph.node) for value in graph.output}
    for index, node in enumerate(graph.node):
        for name in names_read(node):
            last[name] = max(last.get(name, 0), index)
    alive = {value.name: known[value.name].size_bytes for value in graph.input if value.name not in weights}
    total = peak = sum(alive.values())
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and name in known and name not in alive:
                alive[name] = known[name].size_bytes
                total += alive[name]
        peak = max(peak, total)
        for name in {*node.input, *node.output}:
            if name in alive and last.get(name, -1) <= index:
                total -= alive.pop(name)
    return peak


def _check_bounds(model: onnx.ModelProto) -> None:
    """Check that a model's own functions unfold to a graph of bearable size, and that bodies are not nested too deeply.

    Eighteen functions of which each calls the next one twice take two kilobytes and unfold to a quarter of a million nodes.

    Raises:
        GraphError: a function calls itself, or a limit is passed.
    """
    own = {(function.domain, function.name): function.node for function in model.functions}
    known: dict[tuple[str, str], tuple[int, int]] = {}  # function -> nodes, levels of bodies
    waiting = list(own)
    begun: set[tuple[str, str]] = set()
    while waiting:
        key = waiting[-1]
        missing = [call for call, _ in _calls(own[key]) if call in own and call not in known]
        if not missing:
            known[key] = _unfolded(own[key], known)
            waiting.pop()
        elif key in begun:
            raise GraphError(f"the function {key[1]!r} calls itself")
        else:
            begun.add(key)
            waiting += missing
    count, levels = _unfolded(model.graph.node, known)
    if own and count > _MAX_UNFOLDED:
        raise GraphError(f"the functions unfold to {count} nodes, the limit is {_MAX_UNFOLDED}")
    if levels > _MAX_NESTING:
        raise GraphError(f"bodies of operators are nested {levels} levels deep, the limit is {_MAX_NESTING}")


def _unfolded(those: Iterable[onnx.NodeProto], known: Mapping[tuple[str, str], tuple[int, int]]) -> tuple[int, int]:
    count = deepest = 0
    for call, level in _calls(those):
        inside, levels = known.get(call, (1, 0))
        count = min(count + inside, 1 << 62)  # a number of a million digits is a bomb, too
        deepest = max(deepest, level + levels)
    return count, deepest


def _calls(those: Iterable[onnx.NodeProto], level: int = 0) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield (domain, operator) of every node, those in bodies too, and how many bodies it is in."""
    for node in those:
        yield (node.domain, node.op_type), level
        for inner in bodies(node):
            yield from _calls(inner.node, level + 1)
