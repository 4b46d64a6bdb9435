"""What a model computes: the ONNX graph in a model file, run by ONNX Runtime as the precision mode says.

One session per model, made at the first execution and kept, on one thread, without graph optimisation: each operator computes
alone, in the graph's order, so a result is the same in every run and at every gear.

How a precision mode changes numbers (the contract only says that ``force_fp16`` does; the method is our decision):

* An operator is computed in the type the graph has, and the tensors around it are rounded: a Cast to the smaller type and one
  back. That is what a matrix unit does which takes half precision and accumulates in single; it needs no half-precision kernel
  of ONNX Runtime, and it does not depend on which of them a release has.
* ``force_fp16`` rounds the float32 inputs, weights and results of every operator. Beyond 65504 that is an infinity.
* ``cube_fp16in_fp32out`` rounds only what matrix operators (`CUBE_OPERATORS`) take. ``allow_mix_precision``,
  ``allow_mix_precision_fp16`` and ``allow_fp32_to_fp16`` round what they take and what they give; the ``bf16`` modes do it
  to bfloat16.
* ``force_fp32`` and ``must_keep_origin_dtype`` change nothing.
* What does not depend on the data of an input (arithmetic on shapes above all) is computed as it stands, as a compiler
  that folds constants does; it is rounded where an operator on data takes it. Scales of a Resize are never rounded.
* Operators on bfloat16, which ONNX Runtime has few of, are computed in single precision and their results rounded back, in
  every mode; what only moves values about is left alone.
* The same goes for the operators in bodies of If, Loop and Scan, and for those in a model's own functions.

Types of inputs and outputs always stay those of the ONNX model. float64, bfloat16 and the rest are never rounded.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from acl_sim._om import Model, OmDataError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

#: ONNX element type -> ACL data type. Strings at a model's border are not simulated.
ACL_TYPES: Final[Mapping[int, int]] = {
    TensorProto.FLOAT: 0,
    TensorProto.FLOAT16: 1,
    TensorProto.INT8: 2,
    TensorProto.INT32: 3,
    TensorProto.UINT8: 4,
    TensorProto.INT16: 6,
    TensorProto.UINT16: 7,
    TensorProto.UINT32: 8,
    TensorProto.INT64: 9,
    TensorProto.UINT64: 10,
    TensorProto.DOUBLE: 11,
    TensorProto.BOOL: 12,
    TensorProto.BFLOAT16: 27,
}

#: ACL data type -> NumPy type.
NUMPY_TYPES: Final[Mapping[int, np.dtype[Any]]] = {
    acl: helper.tensor_dtype_to_np_dtype(element) for element, acl in ACL_TYPES.items()
}

CUBE_OPERATORS: Final = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN"})

#: Names of the nodes that only give an input or output another type begin so: no precision mode rounds in them.
BORDER_CAST: Final = "acl_sim_border_cast_"

_MAX_UNFOLDED: Final = 50_000  # nodes; the largest published networks have a few ten thousand
_MAX_NESTING: Final = 10

_FP16: Final = TensorProto.FLOAT16
_BF16: Final = TensorProto.BFLOAT16
_BFLOAT16: Final = helper.tensor_dtype_to_np_dtype(_BF16)  # of ml_dtypes, which onnx brings
_MODES: Final[Mapping[str, tuple[int, bool, bool] | None]] = {
    # to which type, only matrix operators, results too
    "force_fp16": (_FP16, False, True),
    "force_fp32": None,
    "cube_fp16in_fp32out": (_FP16, True, False),
    "allow_mix_precision": (_FP16, True, True),
    "allow_mix_precision_fp16": (_FP16, True, True),
    "allow_mix_precision_bf16": (_BF16, True, True),
    "allow_fp32_to_fp16": (_FP16, True, True),
    "allow_fp32_to_bf16": (_BF16, True, True),
    "must_keep_origin_dtype": None,
}

#: Inputs whose values say a shape: rounding them would change the size of a result.
_SHAPE_INPUTS: Final[Mapping[str, frozenset[int]]] = {"Resize": frozenset({1, 2, 3}), "Upsample": frozenset({1})}


#: Operators that take bfloat16 as it is: they copy values, or change the type themselves. With bodies, those are looked into.
_MOVES: Final = frozenset(
    {"Cast", "CastLike", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Transpose"}
    | {"Unsqueeze", "If", "Loop", "Scan"}
)


class ComputeError(Exception):
    """ONNX Runtime could not run the graph."""


class Program:
    """The graph of one model, ready to run.

    Args:
        model: what the file says.

    Raises:
        OmDataError: the graph is damaged, has its weights elsewhere, or does not have the inputs and outputs the file claims.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._session: ort.InferenceSession | None = None
        self._by_pointer = False
        graph = load_graph(model.graph)
        inputs = graph_inputs(graph)
        expected = [(tensor.source, tensor.acl_type) for tensor in model.inputs]
        if [(value.name, ACL_TYPES.get(value.type.tensor_type.elem_type)) for value in inputs] != expected:
            raise OmDataError("the graph's inputs are not those that the file names")
        expected = [(tensor.source, tensor.acl_type) for tensor in model.outputs]
        found = [(value.name, ACL_TYPES.get(value.type.tensor_type.elem_type)) for value in graph.graph.output]
        if found != expected:
            raise OmDataError("the graph's outputs are not those that the file names")
        self._graph: onnx.ModelProto | None = graph

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run once.

        Args:
            inputs: in the model's order, of the graph's types (so after AIPP).

        Returns:
            The outputs in the model's order, C-contiguous, of the graph's types.

        Raises:
            ComputeError: ONNX Runtime refuses the graph or fails on these inputs.
        """
        try:
            session = self._session or self._open()
            feeds = {tensor.source: array for tensor, array in zip(self._model.inputs, inputs, strict=True)}
            names = [tensor.source for tensor in self._model.outputs]
            outputs = _run_by_pointer(session, names, feeds) if self._by_pointer else session.run(names, feeds)
        except Exception as error:  # ONNX Runtime raises its own classes, which share no base below Exception
            raise ComputeError(str(error)) from error
        return [np.ascontiguousarray(output).reshape(np.shape(output)) for output in outputs]

    def prepare(self) -> None:
        """Make the session now.

        Raises:
            ComputeError: ONNX Runtime refuses the graph.
        """
        try:
            self._session = self._session or self._open()
        except Exception as error:  # see run
            raise ComputeError(str(error)) from error

    def _open(self) -> ort.InferenceSession:
        assert self._graph is not None, "the graph is dropped only once a session is there"
        graph = with_free_shapes(self._graph, [tensor.dims for tensor in self._model.inputs])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        content = with_brain_arithmetic(with_precision(graph, self._model.precision_mode)).SerializeToString()
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._by_pointer = _has_brain_border(self._session)
        self._graph = None
        return self._session


def _has_brain_border(session: ort.InferenceSession) -> bool:
    return any(value.type == "tensor(bfloat16)" for value in (*session.get_inputs(), *session.get_outputs()))


def _run_by_pointer(session: ort.InferenceSession, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    """Run a session with bfloat16 at its border, which ONNX Runtime's own NumPy conversion does not have."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, _to_runtime(array))
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return [_from_runtime(value) for value in binding.get_outputs()]


def _to_runtime(array: Array) -> Any:
    """Return ONNX Runtime's view of an array, which has to live as long as that."""
    if array.dtype == _BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BF16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _from_runtime(value: Any) -> Array:
    """Return a copy of what ONNX Runtime made."""
    if value.data_type() != "tensor(bfloat16)":
        return np.array(value.numpy())
    size = math.prod(value.shape()) * _BFLOAT16.itemsize
    memory = (ctypes.c_char * size).from_address(value.data_ptr()) if size else b""
    result: Array = np.frombuffer(memory, _BFLOAT16).reshape(value.shape()).copy()
    return result


def load_graph(content: bytes) -> onnx.ModelProto:
    """Parse an ONNX model that holds all its weights itself.

    Raises:
        OmDataError: it is not one.
    """
    try:
        graph = onnx.load_model_from_string(content)
        check_bounds(graph)
        # Weights elsewhere would let a file from somewhere read any other file of this machine.
        external = any(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data for tensor in tensors(graph.graph))
        if external:
            raise OmDataError("the graph has weights in other files")
        onnx.checker.check_model(graph)
    except OmDataError:
        raise
    except Exception as error:  # protobuf's and the checker's errors share no base below Exception
        raise OmDataError(f"the graph cannot be read: {error}") from error
    return graph


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every constant of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("g"):
                yield from tensors(attribute.g)
            for inner in attribute.graphs:
                yield from tensors(inner)


def select_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make these tensors the model's outputs, in this order, and drop what none of them needs; the inputs stay.

    Raises:
        ComputeError: the type of one of them cannot be inferred.
    """
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    outputs = []
    for name in names:
        if name not in known or not known[name].type.tensor_type.elem_type:
            raise ComputeError(f"the type of tensor {name!r} is not known")
        outputs.append(helper.make_tensor_value_info(name, known[name].type.tensor_type.elem_type, None))
    needed = set(names)
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_names_read(node))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(nodes)]
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    dropped = {tensor.name for tensor in graph.initializer} - needed
    inputs = [value for value in graph.input if value.name not in dropped]
    for field, items in ((graph.node, kept), (graph.initializer, weights), (graph.input, inputs), (graph.output, outputs)):
        del field[:]
        field.extend(items)


def _names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the tensors that a node reads, those of the graphs inside it too, which see the ones around."""
    yield from node.input
    for inner in _bodies(node):
        yield from (value.name for value in inner.output)
        for each in inner.node:
            yield from _names_read(each)


def retype_input(model: onnx.ModelProto, index: int, element: int) -> str:
    """Give an input another type, with a Cast behind it; returns the input's new name."""
    value = graph_inputs(model)[index]
    original, name = value.name, f"{value.name}__{TensorProto.DataType.Name(element).lower()}"
    cast = helper.make_node("Cast", [name], [original], BORDER_CAST + original, to=value.type.tensor_type.elem_type)
    value.name = name
    value.type.tensor_type.elem_type = element
    model.graph.node.insert(0, cast)
    return name


def retype_output(model: onnx.ModelProto, index: int, element: int) -> str:
    """Give an output another type, with a Cast before it; returns the output's new name."""
    value = model.graph.output[index]
    original, name = value.name, f"{value.name}__{TensorProto.DataType.Name(element).lower()}"
    model.graph.node.append(helper.make_node("Cast", [original], [name], BORDER_CAST + original, to=element))
    value.name = name
    value.type.tensor_type.elem_type = element
    return name


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller feeds: old files list their weights among them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def with_free_shapes(model: onnx.ModelProto, dims: Sequence[Sequence[int]]) -> onnx.ModelProto:
    """Return a copy whose inputs have these shapes, -1 for a free axis, and which claims no shape elsewhere."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for number, (value, shape) in enumerate(zip(graph_inputs(result), dims, strict=True)):
        value.type.tensor_type.ClearField("shape")
        value.type.tensor_type.shape.SetInParent()  # a scalar has a shape too, without axes
        for axis, dim in enumerate(shape):
            entry = value.type.tensor_type.shape.dim.add()
            if dim == -1:
                entry.dim_param = f"free_{number}_{axis}"
            else:
                entry.dim_value = dim
    del result.graph.value_info[:]
    for value in result.graph.output:
        value.type.tensor_type.ClearField("shape")
    return result


@dataclass(frozen=True, slots=True)
class Inferred:
    """What is known of a graph at concrete input shapes.

    Attributes:
        outputs: per output its shape, or None where inference does not reach.
        largest_bytes: of the largest tensor inside.
        flops: two per multiply-add of a matrix operator, one per element of any other result; what inference does not reach
            counts nothing.
    """

    outputs: list[Shape | None]
    largest_bytes: int
    flops: int


def infer(model: onnx.ModelProto, shapes: Sequence[Shape]) -> Inferred:
    """Infer what comes out at concrete input shapes.

    Raises:
        ComputeError: the graph cannot have inputs of these shapes.
    """
    # Weights without influence on shapes are replaced by inputs, so that 100 gears of a large model do not copy them 100 times.
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    kept = [tensor for tensor in skeleton.graph.initializer if len(tensor.dims) <= 1 and sum(tensor.dims) <= 1024]
    kept_names = {tensor.name for tensor in kept}
    listed = {value.name for value in skeleton.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in kept_names and tensor.name not in listed:
            skeleton.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    values = {value.name: value for value in skeleton.graph.input}
    for value, shape in zip(graph_inputs(model), shapes, strict=True):
        dims = values[value.name].type.tensor_type.shape
        dims.SetInParent()
        del dims.dim[:]
        for size in shape:
            dims.dim.add().dim_value = size
    del skeleton.graph.initializer[:]
    skeleton.graph.initializer.extend(kept)
    del skeleton.graph.value_info[:]
    for value in skeleton.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = infer_shapes(skeleton)
    known: dict[str, Shape | None] = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor_type = value.type.tensor_type
        whole = tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor_type.shape.dim)
        known[value.name] = tuple(dim.dim_value for dim in tensor_type.shape.dim) if whole else None
    for tensor in model.graph.initializer:
        known[tensor.name] = tuple(tensor.dims)
    largest = max((4 * math.prod(shape) for shape in known.values() if shape is not None), default=0)
    flops = sum(_flops(node, known) for node in model.graph.node)
    return Inferred([known[value.name] for value in model.graph.output], largest, flops)


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shapes that follow from those of its inputs, and from shapes computed in it.

    Raises:
        ComputeError: they contradict each other.
    """
    try:
        try:
            return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            # Following computed shapes fails, too, where two branches of an If use one name, which is legal. Without it
            # less is found, and what contradicts itself does so again.
            return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # InferenceError, or protobuf's
        raise ComputeError(str(error)) from error


def _flops(node: onnx.NodeProto, known: Mapping[str, Shape | None]) -> int:
    result = known.get(node.output[0])
    if result is None:
        return 0
    operands = [known.get(name) for name in node.input]
    first = operands[0] if operands else None
    weight = operands[1] if len(operands) > 1 else None
    if node.op_type in ("MatMul", "Gemm") and first:
        across = next((attribute.i for attribute in node.attribute if attribute.name == "transA"), 0)
        return 2 * math.prod(result) * (first[0] if across else first[-1])
    if node.op_type == "Conv" and weight:
        return 2 * math.prod(result) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose" and weight and first:
        return 2 * math.prod(first) * math.prod(weight[1:])
    return math.prod(result)


def run_on_zeros(model: onnx.ModelProto, shapes: Sequence[Shape]) -> list[Shape]:
    """Return what shapes come out when everything that goes in is zero: for graphs that inference does not reach through.

    Raises:
        ComputeError: ONNX Runtime refuses the graph or fails on it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        content = with_brain_arithmetic(with_free_shapes(model, shapes)).SerializeToString()
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feeds = {
            value.name: np.zeros(shape, helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
            for value, shape in zip(graph_inputs(model), shapes, strict=True)
        }
        names = [value.name for value in model.graph.output]
        outputs = _run_by_pointer(session, names, feeds) if _has_brain_border(session) else session.run(names, feeds)
        return [tuple(np.shape(output)) for output in outputs]
    except Exception as error:  # ONNX Runtime's classes share no base below Exception
        raise ComputeError(str(error)) from error


def with_precision(model: onnx.ModelProto, mode: str) -> onnx.ModelProto:
    """Return the model with the roundings of a precision mode in it; the model itself where there are none."""
    rule = _MODES[mode]
    if rule is None:
        return model
    result = inline_functions(model)
    types = onnx.shape_inference.infer_shapes(result).graph
    _Rounding(result.graph, types, rule, {value.name for value in graph_inputs(result)}, set(_names(result.graph))).apply()
    result.ir_version = max(result.ir_version, 4)  # from 4 on, weights need not be listed as inputs
    return result


def with_brain_arithmetic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its operators on bfloat16 in single precision, between Casts; the model itself without such."""
    if _BF16 not in _elements(model):
        return model
    result = inline_functions(model)
    types = onnx.shape_inference.infer_shapes(result).graph
    _widen(result.graph, types, frozenset(), set(_names(result.graph)))
    return result


def _elements(model: onnx.ModelProto) -> Iterator[int]:
    """Yield the element types of inputs, outputs, weights and constants, and those that operators make."""
    yield from (value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output))
    yield from (tensor.data_type for tensor in tensors(model.graph))
    functions = [node for function in model.functions for node in function.node]
    for node in _nodes((*model.graph.node, *functions)):
        for attribute in node.attribute:
            yield attribute.i if attribute.name in ("to", "dtype") else attribute.t.data_type


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for inner in _bodies(node):
            yield from _nodes(inner.node)


def _widen(graph: onnx.GraphProto, types: onnx.GraphProto, around: frozenset[str], taken: set[str]) -> None:
    """Put Casts around the operators on bfloat16 of a graph, in place.

    Args:
        graph: the model's, or a body inside it.
        types: the same graph after inference.
        around: tensors of bfloat16 outside of it.
        taken: names that a new tensor must not have; completed here.
    """
    known = {value.name: value.type.tensor_type.elem_type for value in (*types.input, *types.value_info, *types.output)}
    known.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    brain = (around - known.keys()) | {name for name, element in known.items() if element == _BF16}
    wide: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for original, typed in zip(graph.node, types.node, strict=True):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        nodes.append(node)
        for body, inner in zip(_bodies(node), _bodies(typed), strict=True):
            _widen(body, inner, frozenset(brain), taken)
        if node.op_type in _MOVES or brain.isdisjoint(node.input):
            continue
        for index, name in enumerate(node.input):
            if name in brain:
                if name not in wide:
                    wide[name] = _fresh(f"{name}__single", taken)
                    nodes.insert(-1, helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT))
                node.input[index] = wide[name]
        for index, name in enumerate(node.output):
            if name in brain:
                node.output[index] = _fresh(f"{name}__single", taken)
                nodes.append(helper.make_node("Cast", [node.output[index]], [name], to=_BF16))
    del graph.node[:]
    graph.node.extend(nodes)


def _fresh(wanted: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, and take it."""
    name = wanted
    number = 0
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def check_bounds(model: onnx.ModelProto) -> None:
    """Check that a model's own functions unfold to a graph of bearable size, and that bodies are not nested too deeply.

    Eighteen functions of which each calls the next one twice take two kilobytes and unfold to a quarter of a million nodes.
    ONNX Runtime up to 1.23 takes twice as long for each level of bodies: a quarter of a minute for eighteen.

    Raises:
        OmDataError: a function calls itself, there are more than `_MAX_UNFOLDED` nodes, or more than `_MAX_NESTING` levels.
    """
    own = {(function.domain, function.name): function.node for function in model.functions}
    known: dict[tuple[str, str], tuple[int, int]] = {}  # function -> nodes, levels of bodies
    waiting: list[tuple[str, str]] = list(own)
    begun: set[tuple[str, str]] = set()
    while waiting:
        key = waiting[-1]
        missing = [call for call, _ in _calls(own[key]) if call in own and call not in known]
        if not missing:
            known[key] = _unfolded(own[key], known)
            waiting.pop()
        elif key in begun:
            raise OmDataError(f"the function {key[1]!r} calls itself")
        else:
            begun.add(key)
            waiting += missing
    nodes, levels = _unfolded(model.graph.node, known)
    if own and nodes > _MAX_UNFOLDED:
        raise OmDataError(f"the functions unfold to {nodes} nodes, the limit is {_MAX_UNFOLDED}")
    if levels > _MAX_NESTING:
        raise OmDataError(f"bodies of operators are nested {levels} levels deep, the limit is {_MAX_NESTING}")


def _unfolded(nodes: Iterable[onnx.NodeProto], known: Mapping[tuple[str, str], tuple[int, int]]) -> tuple[int, int]:
    count = deepest = 0
    for call, level in _calls(nodes):
        inside, levels = known.get(call, (1, 0))
        count = min(count + inside, 1 << 62)  # a number of a million digits is a bomb, too
        deepest = max(deepest, level + levels)
    return count, deepest


def _calls(nodes: Iterable[onnx.NodeProto], level: int = 0) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield (domain, operator) of every node, those in bodies too, and how many bodies it is in."""
    for node in nodes:
        yield (node.domain, node.op_type), level
        for inner in _bodies(node):
            yield from _calls(inner.node, level + 1)


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with the nodes of its own functions in the places of their calls; `check_bounds` first."""
    if model.functions:
        return onnx.inliner.inline_local_functions(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name of a tensor in a graph and in the graphs inside it."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from (*node.input, *node.output)
        for inner in _bodies(node):
            yield from _names(inner)


class _Rounding:
    """Puts the roundings of one precision mode into a graph, in place; see the module's docstring.

    Args:
        graph: the model's, or a body inside it.
        types: the same graph after inference.
        rule: to which type, only matrix operators, results too.
        on_data: tensors, of this graph and of those around it, that depend on the data of an input; completed here.
        taken: names that a new tensor must not have; completed here.
        around: of a body, the graph that it is in.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        types: onnx.GraphProto,
        rule: tuple[int, bool, bool],
        on_data: set[str],
        taken: set[str],
        around: _Rounding | None = None,
    ) -> None:
        self._graph = graph
        self._types = types
        self._rule = self._element, self._only_cube, self._results = rule
        self._on_data = on_data
        self._taken = taken
        self._around = around
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        known = {value.name: value for value in (*graph.input, *types.value_info, *types.output)}
        self._floats = {name for name, value in known.items() if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._floats |= {name for name, tensor in self._weights.items() if tensor.data_type == TensorProto.FLOAT}
        self._rounded: dict[str, str] = {}
        self._done: set[str] = set()  # tensors that hold rounded values already
        if around is not None:
            self._floats |= around._floats - known.keys() - self._weights.keys()
        self._nodes: list[onnx.NodeProto] = []
        self._new_weights: list[TensorProto] = []

    def apply(self) -> None:
        """Do it."""
        for node, typed in zip(self._graph.node, self._types.node, strict=True):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self._add(copy, typed)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(self._new_weights)
        del self._graph.value_info[:]

    def _add(self, node: onnx.NodeProto, typed: onnx.NodeProto) -> None:
        if node.op_type in ("Shape", "Size") or self._on_data.isdisjoint(_names_read(node)):
            self._nodes.append(node)
            return
        self._on_data.update(name for name in node.output if name)
        for body, types in zip(_bodies(node), _bodies(typed), strict=True):
            # What a loop carries depends on data from the second turn on at the latest.
            inside = self._on_data | {value.name for value in body.input}
            _Rounding(body, types, self._rule, inside, self._taken, self).apply()
        if node.name.startswith(BORDER_CAST) or (self._only_cube and node.op_type not in CUBE_OPERATORS):
            self._nodes.append(node)
            return
        shape_inputs = _SHAPE_INPUTS.get(node.op_type, frozenset())
        for index, name in enumerate(node.input):
            if name in self._floats and name not in self._done and index not in shape_inputs:
                node.input[index] = self._round(name)
        casts: list[onnx.NodeProto] = []
        if self._results:
            for index, name in enumerate(node.output):
                if name in self._floats:
                    node.output[index] = _fresh(f"{name}__raw", self._taken)
                    casts += self._casts(node.output[index], name)
                    self._done.add(name)
        self._nodes += [node, *casts]

    def _round(self, name: str) -> str:
        if name not in self._rounded:
            owner: _Rounding | None = self
            while owner is not None and name not in owner._weights:
                owner = owner._around
            if owner is None:
                self._rounded[name] = _fresh(f"{name}__rounded", self._taken)
                self._nodes += self._casts(name, self._rounded[name])
            elif owner is self:
                self._rounded[name] = self._rounded_weight(self._weights[name])
            else:
                self._rounded[name] = owner._round(name)
        return self._rounded[name]

    def _rounded_weight(self, weight: TensorProto) -> str:
        target = _fresh(f"{weight.name}__rounded", self._taken)
        dtype = helper.tensor_dtype_to_np_dtype(self._element)
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(weight).astype(dtype).astype(np.float32)
        self._new_weights.append(numpy_helper.from_array(values, target))
        return target

    def _casts(self, source: str, target: str) -> list[onnx.NodeProto]:
        small = _fresh(f"{target}__small", self._taken)
        return [
            helper.make_node("Cast", [source], [small], to=self._element),
            helper.make_node("Cast", [small], [target], to=TensorProto.FLOAT),
        ]
