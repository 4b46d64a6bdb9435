"""What a compiled model computes: its ONNX graph, run by ONNX Runtime.

On one thread and without graph optimisation: each operator computes alone, in the graph's order, so a result is the same in
every run. A half-precision operator computes in single precision and rounds its results, whether or not a release of ONNX
Runtime has a kernel for it; that is also what `partials_type` "float" means. "half" is not told apart (Decision: how an IPU's
half partials round is not published). Operators inside bodies of If, Loop and Scan are left to ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from poprt_sim import _graph
from poprt_sim._popef import INDEX_INPUT, Popef, PopefError, TensorInfo

Array: TypeAlias = npt.NDArray[Any]
#: As `Program.run`.
Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]

#: Operators that move numbers or make them and round nothing, and those over sequences, whose elements have no type here.
_NOT_ROUNDED: Final = frozenset(
    (
        *("Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity"),
        *("Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "SequenceAt"),
        *("SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
        *("SequenceMap", "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement"),
        *("OptionalHasElement"),
    )
)


class ComputeError(RuntimeError):
    """The graph could not be run, or on other arrays than it was compiled for."""


class Program:
    """One compiled model, ready to run; any thread may call it.

    Args:
        popef: what the file says. Of fused models each call runs one.

    Raises:
        PopefError: the graph is damaged, has its weights elsewhere, is refused by ONNX Runtime, or does not have the inputs,
            outputs and weights that the file claims.
    """

    def __init__(self, popef: Popef) -> None:
        self._popef = popef
        self._graphs = [Program(graph) for graph in popef.graphs]
        self._weights: dict[str, Array] = {}
        if not popef.graphs:
            self._session = self._open(popef)

    def _open(self, popef: Popef) -> ort.InferenceSession:
        try:
            model = _graph.parse(popef.onnx)
            if model.functions or any(node.domain not in _graph.ONNX_DOMAINS for node in _graph.nodes(model.graph)):
                raise PopefError("the graph has operators that the compiler never writes")
            _check_border("inputs", popef.inputs, _graph.graph_inputs(model))
            _check_border("outputs", popef.outputs, model.graph.output)
            self._take_out_weights(model, popef.anchors)
            _round_halves(model)
        except _graph.GraphError as error:
            raise PopefError(f"the graph cannot be used: {error}") from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own classes, which share no base below Exception
            raise PopefError(f"ONNX Runtime refuses the graph: {error}") from error

    def _take_out_weights(self, model: onnx.ModelProto, anchors: tuple[TensorInfo, ...]) -> None:
        """Make the weights that may be updated inputs of the graph, fed in every run."""
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for info in anchors:
            tensor = tensors.get(info.name)
            if tensor is None or tuple(tensor.dims) != info.shape or _graph.dtype_of(tensor.data_type) != info.dtype:
                raise PopefError(f"the graph has no weight {info.name!r} as the file describes it")
            try:
                self._weights[info.name] = numpy_helper.to_array(tensor)
            except Exception as error:  # whatever damaged contents lead to
                raise PopefError(f"the weight {info.name!r} cannot be read: {error}") from error
        _graph.replace(model.graph.initializer, [each for each in model.graph.initializer if each.name not in self._weights])
        listed = {value.name for value in model.graph.input}
        model.graph.input.extend(
            helper.make_tensor_value_info(info.name, tensors[info.name].data_type, info.shape)
            for info in anchors
            if info.name not in listed
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: every input, of exactly the compiled types and shapes. Of fused models those of one, which with or without
                `INDEX_INPUT` says which one runs.

        Returns:
            Every output, C-contiguous; of fused models those of the one that ran.

        Raises:
            ComputeError: an input is missing, unknown or of another type or shape, or ONNX Runtime fails.
        """
        if self._graphs:
            return self._run_one_of(inputs)
        expected = {info.name: info for info in self._popef.inputs}
        if inputs.keys() != expected.keys():
            raise ComputeError(f"expected the inputs {', '.join(expected)}, got {', '.join(inputs) or 'none'}")
        for name, array in inputs.items():
            info = expected[name]
            if array.dtype != info.dtype or array.shape != info.shape:
                raise ComputeError(f"{name!r}: expected {info.dtype} {list(info.shape)}, got {array.dtype} {list(array.shape)}")
        try:
            outputs = self._session.run([info.name for info in self._popef.outputs], {**self._weights, **inputs})
        except Exception as error:  # see _open
            raise ComputeError(str(error)) from error
        results = {}
        for info, output in zip(self._popef.outputs, outputs, strict=True):
            array = np.asarray(output)
            if array.dtype != info.dtype or array.shape != info.shape:
                raise ComputeError(
                    f"{info.name!r}: compiled as {info.dtype} {list(info.shape)}, "
                    f"but the graph gave {array.dtype} {list(array.shape)}"
                )
            results[info.name] = np.require(array, requirements="C")
        return results

    def _run_one_of(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        own = {name: array for name, array in inputs.items() if name != INDEX_INPUT}
        if INDEX_INPUT in inputs:
            index = np.asarray(inputs[INDEX_INPUT]).reshape(-1)
            if index.size != 1 or index.dtype.kind not in "iu" or not 0 <= int(index[0]) < len(self._graphs):
                raise ComputeError(f"{INDEX_INPUT!r}: expected one whole number from 0 to {len(self._graphs) - 1}, got {index}")
            number = int(index[0])
        else:
            try:
                number = self._popef.graph_of(list(own))
            except ValueError as error:
                raise ComputeError(str(error)) from error
        return self._graphs[number].run(own)

    def update(self, anchors: Mapping[str, Array]) -> None:
        """Replace weights from the next run on; all of them, or on an error none.

        Raises:
            ComputeError: a name is none of the file's `anchors`, or an array has another type or shape.
        """
        known = {info.name: info for info in self._popef.anchors}
        for name, array in anchors.items():
            info = known.get(name)
            if info is None:
                may = ", ".join(known) or "none: compile with constant_weights False"
                raise ComputeError(f"{name!r} is no weight that may be updated; these may: {may}")
            if array.dtype != info.dtype or array.shape != info.shape:
                raise ComputeError(f"{name!r}: expected {info.dtype} {list(info.shape)}, got {array.dtype} {list(array.shape)}")
        for graph in self._graphs:
            own = {info.name for info in graph._popef.anchors}
            graph.update({name: array for name, array in anchors.items() if name in own})
        if not self._graphs:
            # A new mapping: a run in another thread goes on with the old one.
            self._weights = {**self._weights, **{name: np.array(array) for name, array in anchors.items()}}


def _check_border(what: str, claimed: tuple[TensorInfo, ...], values: Any) -> None:
    found = []
    for value in values:
        shape = _graph.shape_of(value)
        if shape is None:
            raise PopefError(f"{value.name!r}: the graph does not fix its shape")
        found.append((value.name, _graph.dtype_of(value.type.tensor_type.elem_type), shape))
    if found != [(info.name, info.dtype, info.shape) for info in claimed]:
        raise PopefError(f"the graph's {what} are not those that the file names")


def _round_halves(model: onnx.ModelProto) -> None:
    """Make half-precision operators compute in single precision and round, in place.

    ONNX Runtime would do so by itself where it has no kernel, but leaves the rounding out between two such operators.
    """
    graph = model.graph
    known = _graph.infer(model)
    halves = {name for name, value in known.items() if value.element == TensorProto.FLOAT16}
    if not halves:
        return
    taken = set(known) | {name for node in _graph.nodes(graph) for name in (*node.input, *node.output)}
    singles: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    for node in graph.node:
        casts = []
        if node.op_type not in _NOT_ROUNDED and halves.intersection(node.input) and not any(True for _ in _graph.bodies(node)):
            for index, name in enumerate(node.input):
                if name in halves:
                    if name not in singles:
                        singles[name] = fresh(f"{name}__single")
                        nodes.append(helper.make_node("Cast", [name], [singles[name]], to=TensorProto.FLOAT))
                    node.input[index] = singles[name]
            for index, name in enumerate(node.output):
                if name in halves:
                    node.output[index] = fresh(f"{name}__raw")
                    casts.append(helper.make_node("Cast", [node.output[index]], [name], to=TensorProto.FLOAT16))
        nodes += [node, *casts]
    _graph.replace(graph.node, nodes)
