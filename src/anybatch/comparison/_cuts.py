"""Cuts an ONNX model at inner tensors: what leads to one output, in order, and models that answer inner tensors.

The nodes that lead to an output stand in the order of execution, in *blocks*. A block is one node; or several, where what
passes between them cannot be an output, such as a sequence. Behind each block there is a *place*: all that lies before it
reaches the output only through the tensors that are alive there.
"""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import onnx

# What NumPy, with ml_dtypes, has one element per item of, and every backend takes for an output.
_TYPES: Final = frozenset(
    getattr(onnx.TensorProto, name)
    for name in (
        *("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL"),
        *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    )
)


class Graph:
    """What leads to one output of a model.

    Args:
        model: is not modified.
        output: one of its outputs.
        shapes: of a request's arrays, by input: for ranks that cannot be told without sizes.

    Attributes:
        nodes: that the output depends on, in the order of execution, but for those that depend on no input: they come just
            before the first node that reads them, and a Constant is none.
        reads: by node, the tensors it reads that an input or another of these nodes makes, also those that its bodies read.
        made: the tensors that these nodes make.
        tensors: all that can be outputs, declared as such. An inner one of unknown type or rank is not among them.
    """

    def __init__(self, model: onnx.ModelProto, output: str, shapes: Mapping[str, Sequence[int]]) -> None:
        makers = _makers(model.graph)
        needed = _leading_to(model.graph, makers, [output])
        inputs = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
        self._model = model
        self.output: Final = output
        self.nodes = _in_order(model.graph, makers, needed, inputs)
        self.made = {name for node in self.nodes for name in node.output if name}
        self.reads = [tuple(dict.fromkeys(name for name in _reads(node) if name in self.made)) for node in self.nodes]
        self.tensors = {value.name: value for value in model.graph.output} | _declared(model, shapes)

    def answering_all(self) -> onnx.ModelProto:
        """Return a model that answers every tensor that these nodes make and that can be an output."""
        return cut_model(self._model, {name: value for name, value in self.tensors.items() if name in self.made})

    @staticmethod
    def copy_of(name: str) -> str:
        """Return what the copy of an input is called that `cut_model` makes."""
        return f"{name}/as_it_came"

    def blocks(self, hidden: Iterable[str]) -> Blocks:
        """Return the nodes in blocks between which no tensor of `hidden` passes."""
        return Blocks(self, frozenset(hidden))


class Blocks:
    """The nodes of a graph in blocks, in the order of execution.

    Attributes:
        members: of each block, its nodes by their index in `Graph.nodes`.
    """

    def __init__(self, graph: Graph, hidden: frozenset[str]) -> None:
        self._graph = graph
        self._makers = {name: index for index, node in enumerate(graph.nodes) for name in node.output if name}
        owner = self._owners(hidden)
        self.members = self._ordered(owner)
        place_of = {index: place for place, members in enumerate(self.members) for index in members}
        last: dict[str, int] = {graph.output: len(self.members)}
        for index, reads in enumerate(graph.reads):
            for name in reads:
                last[name] = max(last.get(name, 0), place_of[index])
        self._alive: list[list[str]] = [[] for _ in self.members]
        for name, index in self._makers.items():
            for place in range(place_of[index], last.get(name, 0)):
                self._alive[place].append(name)

    def __len__(self) -> int:
        return len(self.members)

    def alive(self, place: int) -> Sequence[str]:
        """Return the tensors that were made up to that block, and are read behind it; the last one's is the output."""
        return self._alive[place]

    def between(self, known: Iterable[str], tensors: Iterable[str]) -> list[onnx.NodeProto]:
        """Return the nodes that lead to `tensors` without going through `known`, in the order of execution."""
        stop, waiting, found = set(known), list(tensors), set()
        while waiting:
            name = waiting.pop()
            index = self._makers[name]
            if name not in stop and index not in found:
                found.add(index)
                waiting.extend(self._graph.reads[index])
        return [self._graph.nodes[index] for index in sorted(found)]

    def _owners(self, hidden: frozenset[str]) -> list[int]:
        """Return by node the first of its block."""
        owner = list(range(len(self._graph.nodes)))

        def merge(nodes: Iterable[int]) -> None:
            owners = {owner[node] for node in nodes}
            for node, own in enumerate(owner):
                if own in owners:
                    owner[node] = min(owners)

        for index, reads in enumerate(self._graph.reads):
            for name in reads:
                if name in hidden and owner[index] != owner[self._makers[name]]:
                    merge((index, self._makers[name]))
        while True:  # a node that reads from a block and is read by it belongs to it
            try:
                graphlib.TopologicalSorter(self._edges(owner)).prepare()
            except graphlib.CycleError as error:
                merge(error.args[1])
            else:
                return owner

    def _edges(self, owner: Sequence[int]) -> dict[int, set[int]]:
        edges: dict[int, set[int]] = {own: set() for own in owner}
        for index, reads in enumerate(self._graph.reads):
            edges[owner[index]] |= {owner[self._makers[name]] for name in reads} - {owner[index]}
        return edges

    def _ordered(self, owner: Sequence[int]) -> list[tuple[int, ...]]:
        members: dict[int, list[int]] = {}
        for index, own in enumerate(owner):
            members.setdefault(own, []).append(index)
        sorter = graphlib.TopologicalSorter(self._edges(owner))
        sorter.prepare()
        ready: list[tuple[int, int]] = []
        ordered = []
        while sorter.is_active():
            for own in sorter.get_ready():
                heapq.heappush(ready, (members[own][-1], own))
            _, own = heapq.heappop(ready)
            ordered.append(tuple(members[own]))
            sorter.done(own)
        return ordered


def cut_model(
    model: onnx.ModelProto, tensors: Mapping[str, onnx.ValueInfoProto], *, copies: Iterable[str] = ()
) -> onnx.ModelProto:
    """Return a model that answers some tensors of another, inner ones or outputs, and holds what these need.

    Args:
        model: is not modified; external data stays where it is.
        tensors: the outputs, by name.
        copies: inputs that are answered as they came in as well, see `Graph.copy_of`.
    """
    graph = model.graph
    copied = [value for value in graph.input if value.name in set(copies)]
    needed = _leading_to(graph, _makers(graph), tensors)
    nodes = [node for index, node in enumerate(graph.node) if index in needed]
    read = {name for node in nodes for name in _reads(node)} | {value.name for value in copied}
    cut = onnx.ModelProto()
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if model.HasField(field):
            setattr(cut, field, getattr(model, field))
    cut.opset_import.extend(model.opset_import)
    cut.functions.extend(model.functions)
    cut.metadata_props.extend(model.metadata_props)
    cut.graph.name = graph.name
    cut.graph.node.extend(nodes)
    cut.graph.input.extend(value for value in graph.input if value.name in read)
    cut.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    cut.graph.sparse_initializer.extend(tensor for tensor in graph.sparse_initializer if tensor.values.name in read)
    known = read | {name for node in nodes for name in node.output}
    cut.graph.value_info.extend(value for value in graph.value_info if value.name in known and value.name not in tensors)
    cut.graph.quantization_annotation.extend(each for each in graph.quantization_annotation if each.tensor_name in known)
    cut.graph.output.extend(tensors.values())
    for value in copied:
        name = Graph.copy_of(value.name)
        cut.graph.node.append(onnx.helper.make_node("Identity", [value.name], [name], name))
        cut.graph.output.append(value)
        cut.graph.output[-1].name = name
    return cut


def _makers(graph: onnx.GraphProto) -> dict[str, int]:
    return {name: index for index, node in enumerate(graph.node) for name in node.output if name}


def _leading_to(graph: onnx.GraphProto, makers: Mapping[str, int], tensors: Iterable[str]) -> set[int]:
    """Return the nodes that some tensors depend on, by their index."""
    waiting, found = list(tensors), set[int]()
    while waiting:
        index = makers.get(waiting.pop())
        if index is not None and index not in found:
            found.add(index)
            waiting.extend(_reads(graph.node[index]))
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node and its bodies read; no outer tensor has the name of one that a body makes itself."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from (value.name for value in body.output)
            for inner in body.node:
                yield from _reads(inner)


def _in_order(
    graph: onnx.GraphProto, makers: Mapping[str, int], needed: set[int], inputs: set[str]
) -> tuple[onnx.NodeProto, ...]:
    fed = set(inputs)
    common = set()
    for index in sorted(needed):
        if fed.isdisjoint(_reads(graph.node[index])):
            common.add(index)
        else:
            fed.update(graph.node[index].output)
    ordered: list[int] = []
    last = max(needed, default=-1)
    for index in sorted(needed):
        if index in common and index != last:
            continue
        before: set[int] = set()
        waiting = [index]
        while waiting:
            read = {makers[name] for name in _reads(graph.node[waiting.pop()]) if name in makers} & common - before
            before |= read
            waiting.extend(read)
        common -= {*before, index}
        ordered += [*sorted(before), index]
    nodes = (graph.node[index] for index in ordered)
    return tuple(node for node in nodes if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"))


def _declared(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, onnx.ValueInfoProto]:
    """Return the declarations of all tensors of which element type and rank are known, by the model or by inference."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    ranked = {value.name: len(value.type.tensor_type.shape.dim) for value in _inferred(sized) if _has_rank(value)}
    declared = {}
    for value in _inferred(model):
        rank = ranked.get(value.name)
        if value.type.tensor_type.elem_type not in _TYPES or (rank is None and not _has_rank(value)):
            continue
        if not _has_rank(value):
            free: list[None] = [None] * (rank or 0)
            value = onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, free)
        declared[value.name] = value
    return declared


def _inferred(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return what is known of a model's tensors; where a later declaration of a tensor differs, the later one counts."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # a model that inference cannot follow still runs; then only what it declares itself is known
        graph = model.graph
    return [*graph.value_info, *graph.input, *graph.output]


def is_static(value: onnx.ValueInfoProto) -> bool:
    """Return whether each dimension of a tensor has a size."""
    return all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)


def _has_rank(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"))
