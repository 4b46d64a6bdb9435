"""Walks a graph once, in order, and asks the rule of each node's operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import onnx

from anybatch.safety._call import Call, CoupledError, Rule, StoppedError
from anybatch.safety._domain import Blame, Shape, Value, from_entries, from_tensor
from anybatch.safety._entries import evaluate
from anybatch.safety._operators import BODIES, FOLLOWED, MAKES_ROWS, ML_RULES, NOT_ANALYSED, PLACES, RULES, SEQUENCES, UNREAD
from anybatch.safety._own_number import by_own_number, tuples_of
from anybatch.safety._sizes import N, Size

OLDEST_OPSET: Final = 7  # before it, broadcasting was an attribute

Key = tuple[str, str, str]


class Scope:
    """The tensors that a graph's nodes can name: its own, and those of the graphs around it."""

    def __init__(self, path: str, outer: Scope | None = None) -> None:
        self.path = path
        self.outer = outer
        self.values: dict[str, Value | None] = {}  # None: an input that a function's caller left out

    def find(self, name: str) -> Value | None:
        """Return a tensor's value, an unknown one for a name that stands nowhere."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return Value(blame=Blame(False, "", f"tensor {name!r} is used, and no node before makes it", name))


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for all nodes of a graph or a function.

    Attributes:
        opsets: versions by domain.
        functions: those of the model.
        arguments: the attributes that a function was called with.
        active: the functions that are being analysed, so that one that calls itself ends.
    """

    opsets: Mapping[str, int]
    functions: Mapping[Key, onnx.FunctionProto]
    arguments: Mapping[str, Any]
    active: frozenset[Key] = frozenset()


def analyse_graph(model: onnx.ModelProto, inputs: Mapping[str, Value]) -> dict[str, Value]:
    """Return what is known of every tensor of a model's main graph, given its inputs."""
    functions = {(_domain(each.domain), each.name, each.overload): each for each in model.functions}
    scope = Scope("")
    scope.values.update(inputs)
    _walk_graph(model.graph, scope, Context(_opsets(model.opset_import), functions, {}))
    for output in model.graph.output:
        scope.values[output.name] = scope.find(output.name)
    return {name: value for name, value in scope.values.items() if value is not None}


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(each.domain): each.version for each in imports}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _walk_graph(graph: onnx.GraphProto, scope: Scope, context: Context) -> None:
    for tensor in graph.initializer:
        scope.values[tensor.name] = from_tensor(tensor)
    for sparse in graph.sparse_initializer:
        scope.values[sparse.values.name] = Value(tuple(map(Size, sparse.dims)))
    _walk(graph.node, scope, context)


def _walk(nodes: Iterable[onnx.NodeProto], scope: Scope, context: Context) -> None:
    for index, node in enumerate(nodes):
        values = _run(node, Scope(f"{scope.path}/{index}", scope), context)
        scope.values.update((name, value) for name, value in zip(node.output, values, strict=True) if name)


def label(node: onnx.NodeProto) -> str:
    """Return how reports name a node: by its name or, where it has none, by what it makes."""
    return node.name or next((name for name in node.output if name), "?")


def described(node: onnx.NodeProto) -> str:
    """Return how a sentence about a node begins."""
    operator = f"{node.domain}.{node.op_type}" if _domain(node.domain) else node.op_type
    return f"node {label(node)!r} ({operator})"


def _run(node: onnx.NodeProto, scope: Scope, context: Context) -> list[Value]:
    key = (_domain(node.domain), node.op_type, node.overload)
    try:
        if key in context.functions:
            return _run_function(node, context.functions[key], scope, context, key)
        call = _call(node, scope, context)
    except StoppedError as error:
        return [Value(blame=_blame(node, error))] * len(node.output)
    try:
        made = _checked(call, _apply(call))
        # What a body or a sequence hands on may be one tensor or another.
        return [replace(each, tuples=None) for each in made] if node.op_type in BODIES | (SEQUENCES - {"Identity"}) else made
    except (CoupledError, StoppedError) as error:
        made = _blamed(call, _blame(node, error))
        tuples = tuples_of(call)
        return made if tuples is None else [replace(made[0], tuples=tuples)]


def _blame(node: onnx.NodeProto, error: CoupledError | StoppedError) -> Blame:
    coupled = isinstance(error, CoupledError)
    return Blame(coupled, label(node), f"{described(node)} {error}", next(iter(node.output), ""))


def _blamed(call: Call, blame: Blame) -> list[Value]:
    """Return outputs of which only the shape may be known: what reads no more than that is on safe ground again."""
    shapes = _shapes(call) if call.node.op_type not in BODIES else []
    missing: list[Shape | None] = [None] * call.outputs
    return [Value(shape, blame=blame) for shape in [*shapes, *missing][: call.outputs]]


def _shapes(call: Call) -> list[Shape | None]:
    """Return the shapes of a node's outputs where they follow from those of its inputs and from nothing in them."""
    places = PLACES.get(call.node.op_type, ())
    inputs = [
        value if value is None or index in places else Value(value.shape, entries=value.entries)
        for index, value in enumerate(call.inputs)
    ]
    if any(value is not None and (value.blame or value.items or value.shape is None) for value in inputs):
        return []
    try:
        made = _made(_rule(call), replace(call, inputs=tuple(inputs)))
    except (CoupledError, StoppedError):
        return []
    known = {name for value in inputs if value is not None for size in _sizes_in(value) for name in size.atoms}
    return [value.shape if all(size.known and size.atoms <= known for size in value.shape or ()) else None for value in made]


def _sizes_in(value: Value) -> list[Size]:
    entries = [] if value.entries is None else [entry for entry in value.entries.flat if isinstance(entry, Size)]
    return [*(value.shape or ()), *entries]


def _call(node: onnx.NodeProto, scope: Scope, context: Context) -> Call:
    def analyse_body(name: str, inputs: Sequence[Value]) -> list[Value]:
        graph = attributes[name]
        inner = Scope(f"{scope.path}:{name}", scope)
        if len(inputs) != len(graph.input):
            raise StoppedError(f"hands {len(inputs)} tensors to a body with {len(graph.input)} inputs")
        inner.values.update(zip((each.name for each in graph.input), inputs, strict=True))
        _walk_graph(graph, inner, context)
        return [inner.find(output.name) or Value() for output in graph.output]

    attributes = _attributes(node, context)
    inputs = tuple(scope.find(name) if name else None for name in node.input)
    return Call(node, context.opsets.get(_domain(node.domain), 1), inputs, attributes, scope.path, analyse_body)


def _attributes(node: onnx.NodeProto, context: Context) -> dict[str, Any]:
    values = {}
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            values[attribute.name] = _attribute(attribute)
        elif attribute.ref_attr_name in context.arguments:
            values[attribute.name] = context.arguments[attribute.ref_attr_name]
    return values


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return list(value) if attribute.type in (attribute.INTS, attribute.FLOATS, attribute.STRINGS) else value


def _run_function(node: onnx.NodeProto, function: onnx.FunctionProto, scope: Scope, context: Context, key: Key) -> list[Value]:
    if key in context.active:
        raise StoppedError("calls itself")
    defaults = {attribute.name: _attribute(attribute) for attribute in function.attribute_proto}
    inner = Context(
        _opsets(function.opset_import), context.functions, defaults | _attributes(node, context), context.active | {key}
    )
    body = Scope(f"{scope.path}:{function.name}")
    given = [scope.find(name) if name else None for name in node.input]
    body.values.update(dict.fromkeys(function.input), **dict(zip(function.input, given, strict=False)))
    _walk(function.node, body, inner)
    return [body.find(name) or Value() for name, _ in zip(function.output, node.output, strict=False)]


def _apply(call: Call) -> list[Value]:
    rule, op = _rule(call), call.node.op_type
    data, places = _roles(call)
    if (numbered := by_own_number(call)) is not None:
        return [numbered]
    blames = [value.blame for value in data + places if value.blame is not None]
    if blames:
        return _blamed(call, next((blame for blame in blames if blame.coupled), blames[0]))
    if op not in SEQUENCES and any(value.items is not None for value in data + places):
        raise StoppedError("takes a sequence where a tensor is expected")
    if op not in BODIES:
        _check_roles(call, data)
        hidden = [value for value in places if op not in MAKES_ROWS or value.entries is None]
        if not any(value.rows for value in data) and any(value.counts for value in data + hidden):
            return _with_entries(call, [Value(counts=True)] * call.outputs)
    try:
        made = _made(rule, call)
    except StoppedError:
        if op in BODIES or not all(value is None or value.common for value in call.inputs):
            raise
        made = [Value()] * call.outputs  # whatever it is, no row and no number of rows changes it
    if op not in BODIES and any(value.rows for value in data) and any(value.common and value.items is None for value in made):
        raise StoppedError("reads rows and makes what holds none")  # no rule should claim that
    return _with_entries(call, made)


def _made(rule: Rule, call: Call) -> list[Value]:
    try:
        made = rule(call)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Rules trust a node to be as its operator is defined; models come from anywhere.
        raise StoppedError(f"does not fit the definition of its operator: {error}") from error
    return (made if isinstance(made, list) else [made])[: call.outputs]


def _rule(call: Call) -> Rule:
    domain, op = _domain(call.node.domain), call.node.op_type
    if (domain, op) in NOT_ANALYSED:
        raise StoppedError(NOT_ANALYSED[domain, op])
    rules = {"": RULES, "ai.onnx.ml": ML_RULES}.get(domain, {})
    if op not in rules:
        where = f"the domain {domain!r}" if domain else "ONNX"
        raise StoppedError(f"is no operator of {where} that the analysis knows")
    if not domain and call.opset < OLDEST_OPSET:
        raise StoppedError(f"is of operator set {call.opset}; those from {OLDEST_OPSET} on are analysed")
    return rules[op]


def _roles(call: Call) -> tuple[list[Value], list[Value]]:
    """Return the inputs whose content enters the outputs entry by entry, and those that say where or how much."""
    op = call.node.op_type
    read = [(index, value) for index, value in enumerate(call.inputs) if value is not None and index not in UNREAD.get(op, ())]
    places = PLACES.get(op, ())
    return [value for index, value in read if index not in places], [value for index, value in read if index in places]


def _check_roles(call: Call, data: Sequence[Value]) -> None:
    rows = any(value.rows is not None for value in data)
    for index, value in enumerate(call.inputs):
        if value is None or index in UNREAD.get(call.node.op_type, ()):
            continue
        if index in PLACES.get(call.node.op_type, ()):
            if value.rows is not None and not value.rows.uniform:
                raise CoupledError(f"reads sizes or places ({call.name(index)}) from rows: one row's content moves the others")
            if value.rows is not None or (rows and value.counts and value.entries is None):
                raise StoppedError(f"reads sizes or places ({call.name(index)}) that depend on the number of rows")
        elif value.rows is not None and index not in FOLLOWED.get(call.node.op_type, (0,)):
            raise CoupledError(f"applies what rows say ({call.name(index)}) to all rows")
        elif rows and value.counts:
            raise CoupledError(f"mixes rows with {call.name(index)}, which depends on the number of rows or on their positions")


def _with_entries(call: Call, made: list[Value]) -> list[Value]:
    """Add the entries of small integers, where they can be followed."""
    if made[0].rows is not None or made[0].blame is not None or any(v is not None and v.rows for v in call.inputs):
        return made
    entries = evaluate(call) if made[0].entries is None else None
    if entries is None:
        return made
    followed = [from_entries(each) for each in entries]
    return [*followed, *made[len(followed) :]]


def _checked(call: Call, made: list[Value]) -> list[Value]:
    """Return one value per output, none of which claims what its shape rules out."""
    missing = Blame(False, label(call.node), f"{described(call.node)} makes an output that is not analysed", "")
    made = [*made, *[Value(blame=missing)] * call.outputs][: call.outputs]
    return [_sound(value) for value in made]


def _sound(value: Value) -> Value:
    if value.blame is not None or value.items is not None:
        return value
    if value.rows is None:
        depends = value.shape is not None and any(size.depends_on_rows for size in value.shape)
        return replace(value, counts=True) if depends else value
    shape, rows = value.shape or (), value.rows
    others = [size for axis, size in enumerate(shape) if axis != rows.axis]
    if (
        len(others) + 1 == len(shape)
        and shape[rows.axis] == rows.per_row * N
        and not any(size.depends_on_rows for size in (*others, rows.outer, rows.inner))
    ):
        return value
    raise StoppedError(f"makes a tensor of shape ({', '.join(map(str, shape))}), whose rows cannot be told apart")
