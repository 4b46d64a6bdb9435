"""Single to half precision: tensors become float16, borders included.

Every float32 tensor of the main graph becomes float16. An operator that ONNX does not define for half precision at one of its
inputs or outputs gets that one in single precision, with a Cast beside it. One that the caller excludes, one with a body (If,
Loop, Scan: Decision), and one that makes random numbers or windows gets all of them so. Constants become float16 within
+-65500, and what is not zero does not become smaller than 1e-7, both as PopRT's benchmarks describe; a constant that is needed
in single precision stays as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import numpy as np
import onnx
import onnx.defs
from onnx import TensorProto, helper, numpy_helper

from poprt_sim import _graph
from poprt_sim.utils import get_logger

LARGEST: Final = 65500.0
SMALLEST: Final = 1e-7
_SINGLE: Final = TensorProto.FLOAT
_HALF: Final = TensorProto.FLOAT16

#: Operators that make numbers: ONNX Runtime has no half-precision kernels for them.
_GENERATORS: Final = frozenset(
    (
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "EyeLike", "Bernoulli"),
        *("HannWindow", "HammingWindow", "BlackmanWindow", "Multinomial"),
    )
)


def to_half(model: onnx.ModelProto, skip_op_types: Collection[str] = ()) -> onnx.ModelProto:
    """Return the model in half precision.

    Args:
        model: any; functions of its own are inlined.
        skip_op_types: operators that compute in single precision.

    Raises:
        GraphError: types or shapes of the model contradict each other.
    """
    result = _graph.inline(model)
    _Half(result, skip_op_types).apply()
    return result


class _Half:
    def __init__(self, model: onnx.ModelProto, skip_op_types: Collection[str]) -> None:
        self._graph = model.graph
        self._skip = frozenset(skip_op_types)
        self._versions = {entry.domain if entry.domain != "ai.onnx" else "": entry.version for entry in model.opset_import}
        known = _graph.infer(model)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._singles = {name for name, value in known.items() if value.element == _SINGLE}
        self._taken = set(known) | {name for node in _graph.nodes(model.graph) for name in (*node.input, *node.output)}
        self._nodes: list[onnx.NodeProto] = []
        self._kept_weights: list[TensorProto] = []
        self._as_single: dict[str, str] = {}  # tensor -> its name in single precision

    def apply(self) -> None:
        for node in self._graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self._add(copy)
        for tensor in self._graph.initializer:
            if tensor.name in self._singles:
                tensor.CopyFrom(half_tensor(tensor))
        for value in (*self._graph.input, *self._graph.output):
            if value.name in self._singles:
                value.type.tensor_type.elem_type = _HALF
        _graph.replace(self._graph.node, self._nodes)
        self._graph.initializer.extend(self._kept_weights)
        used = {name for node in _graph.nodes(self._graph) for name in node.input} | {v.name for v in self._graph.output}
        listed = {value.name for value in self._graph.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used or tensor.name in listed]
        _graph.replace(self._graph.initializer, kept)
        del self._graph.value_info[:]

    def _add(self, node: onnx.NodeProto) -> None:
        whole = node.op_type in self._skip | _GENERATORS or any(True for _ in _graph.bodies(node))
        single_inputs, single_outputs = self._singles_of(node)
        if whole:
            single_inputs, single_outputs = set(range(len(node.input))), set(range(len(node.output)))
        elif self._retype(node):
            single_outputs = set()
        for index, name in enumerate(node.input):
            if name in self._singles and index in single_inputs:
                node.input[index] = self._single(name)
        for body in _graph.bodies(node):
            own = {name for inner in _graph.nodes(body) for name in inner.output} | {value.name for value in body.input}
            seen = {name for inner in body.node for name in _graph.names_read(inner)} | {value.name for value in body.output}
            _graph.rename(body, {name: self._single(name) for name in sorted((seen - own) & self._singles)})
            for value in body.output:
                value.name = value.name if value.name in own else self._as_single.get(value.name, value.name)
        casts = []
        for index, name in enumerate(node.output):
            if name in self._singles and index in single_outputs:
                node.output[index] = self._fresh(f"{name}__single")
                casts.append(helper.make_node("Cast", [node.output[index]], [name], to=_HALF))
        self._nodes += [node, *casts]

    def _singles_of(self, node: onnx.NodeProto) -> tuple[set[int], set[int]]:
        """Return the indexes of the inputs and of the outputs for which ONNX does not define half precision."""
        domain = node.domain if node.domain != "ai.onnx" else ""
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return set(), set()  # a custom operator: nothing is known of it
        return _without_half(schema.inputs, len(node.input)), _without_half(schema.outputs, len(node.output))

    def _retype(self, node: onnx.NodeProto) -> bool:
        """Make a node that says the type of its result itself say half; whether it was one."""
        if not any(name in self._singles for name in node.output):
            return False
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Cast":
            attributes["to"].i = _HALF
            return True
        if node.op_type in ("Constant", "ConstantOfShape") and "value" in attributes:
            attributes["value"].t.CopyFrom(half_tensor(attributes["value"].t))
            return True
        if node.op_type == "ConstantOfShape":
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16))))
            return True
        if node.op_type == "Constant":
            values = next((each for each in node.attribute if each.name in ("value_float", "value_floats")), None)
            if values is not None:
                array = np.array(values.f if values.name == "value_float" else list(values.floats), np.float32)
                _graph.replace(node.attribute, [helper.make_attribute("value", half_tensor(numpy_helper.from_array(array)))])
                return True
        return False

    def _single(self, name: str) -> str:
        if name not in self._as_single:
            other = self._as_single[name] = self._fresh(f"{name}__single")
            if name in self._weights:
                kept = TensorProto()
                kept.CopyFrom(self._weights[name])
                kept.name = other
                self._kept_weights.append(kept)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [other], to=_SINGLE))
        return self._as_single[name]

    def _fresh(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def half_tensor(tensor: TensorProto) -> TensorProto:
    """Return a float32 constant in half precision, clipped as the module's docstring says."""
    if tensor.data_type != _SINGLE:
        return tensor
    values = np.asarray(numpy_helper.to_array(tensor), np.float32)
    if (np.abs(values) > LARGEST).any():
        get_logger().warning("constant %r has values beyond half precision: clipped to +-%g", tensor.name, LARGEST)
        values = np.clip(values, -LARGEST, LARGEST)
    small = (values != 0) & (np.abs(values) < SMALLEST)
    values = np.where(small, np.copysign(np.float32(SMALLEST), values), values)
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _without_half(formals: Iterable[onnx.defs.OpSchema.FormalParameter], count: int) -> set[int]:
    known = list(formals)
    if not known:
        return set()
    indexes = set()
    for index in range(count):
        types = known[min(index, len(known) - 1)].types
        if "tensor(float16)" not in types:
            indexes.add(index)
    return indexes
