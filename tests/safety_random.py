"""Random ONNX graphs of many operators, with merged axes, shape arithmetic and reshapes, whose rows may or may not be apart.

Sizes are kept as ``a * n + b`` with n the number of rows, so that nearly every graph runs for every n.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim: TypeAlias = tuple[int, int]  # (a, b)
N: Final[Dim] = (1, 0)
ONE: Final[Dim] = (0, 1)
LARGEST: Final = 4000  # entries of a tensor at 8 rows
FAR: Final = 2**63 - 1


@dataclass(frozen=True)
class Tensor:
    name: str
    dims: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.dims)

    def fixed(self) -> list[int]:
        """The axes whose size is a constant."""
        return [axis for axis, (a, _) in enumerate(self.dims) if a == 0]


class _NotHereError(Exception):
    """The operator does not fit what there is; another is drawn."""


def random_model(rng: random.Random, *, nodes: int = 8) -> onnx.ModelProto:
    """Return a model with one or two outputs; its inputs' rows are on dimensions called n or k*n.

    Args:
        rng: all that is drawn; Hypothesis has one that shrinks.
        nodes: about how many steps, each of one to eight nodes.
    """
    return _Graph(rng).grow(rng.randint(1, nodes))


class _Graph:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.numbers = np.random.default_rng(rng.randrange(2**16))
        self.opset = rng.choice([11, 13, 17, 17, 21])
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[Tensor] = []
        self.tensors: list[Tensor] = []
        self.count = 0

    def grow(self, steps: int) -> onnx.ModelProto:
        self._start()
        made = 0
        for _ in range(steps * 6):
            operator = self.rng.choice(_WEIGHTED)
            before = len(self.nodes), len(self.weights)
            try:
                found = operator(self, self._pick())
                size = prod(a * 8 + b for a, b in found.dims)
                if found.rank > 5 or size > LARGEST or any(a * n + b < 1 for a, b in found.dims for n in (1, 8)):
                    raise _NotHereError
            except _NotHereError:
                del self.nodes[before[0] :], self.weights[before[1] :]
                continue
            self.tensors.append(found)
            made += 1
            if made == steps:
                break
        last = self.tensors[-1]
        outputs = [last] if last not in self.inputs else [self.add("Identity", [last], last.dims)]
        other = self.rng.choice(self.tensors)
        if other not in self.inputs and other not in outputs and self.rng.random() < 0.3:
            outputs.append(other)
        return self._model(outputs)

    def _start(self) -> None:
        rng = self.rng
        per_row = rng.choice([1, 1, 1, 1, 2, 3])
        dims: list[Dim] = [(0, rng.choice([1, 2, 3, 4, 6])) for _ in range(rng.choice([0, 1, 1, 2, 2, 3]))]
        dims.insert(0 if rng.random() < 0.8 else rng.randint(0, len(dims)), (per_row, 0))
        self.inputs.append(Tensor("x", tuple(dims)))
        if rng.random() < 0.3:
            self.inputs.append(Tensor("z", tuple(dims)))
        if rng.random() < 0.2:
            self.inputs.append(Tensor("c", tuple(dim if dim[0] == 0 else ONE for dim in dims)))
        self.tensors = list(self.inputs)

    def _model(self, outputs: Sequence[Tensor]) -> onnx.ModelProto:
        declared = self.rng.random() < 0.7
        infos = [
            helper.make_tensor_value_info(each.name, TensorProto.FLOAT, _names(each, i) if declared else None)
            for i, each in enumerate(outputs)
        ]
        ins = [helper.make_tensor_value_info(each.name, TensorProto.FLOAT, _names(each, 9)) for each in self.inputs]
        graph = helper.make_graph(self.nodes, "random", ins, infos, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def _pick(self) -> Tensor:
        return self.tensors[-1] if self.rng.random() < 0.75 else self.rng.choice(self.tensors)

    def axis(self, tensor: Tensor, *, mostly_fixed: float = 0.93) -> int:
        """Choose an axis, rarely one whose size depends on n."""
        if not tensor.rank:
            raise _NotHereError
        fixed = tensor.fixed()
        if fixed and self.rng.random() < mostly_fixed:
            return self.rng.choice(fixed)
        if self.rng.random() < 0.4:
            return self.rng.randrange(tensor.rank)
        raise _NotHereError

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def add(self, operator: str, inputs: Sequence[Tensor | str], dims: Sequence[Dim], **attributes: Any) -> Tensor:
        name = self.name()
        names = [each if isinstance(each, str) else each.name for each in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], name=f"{operator}_{name}", **attributes))
        return Tensor(name, tuple(dims))

    def weight(self, *shape: int) -> Tensor:
        array = self.numbers.standard_normal(shape).astype(np.float32)
        return self.constant(array)

    def constant(self, array: Any) -> Tensor:
        array = np.asarray(array)
        name = self.name()
        if self.rng.random() < 0.5:
            self.weights.append(numpy_helper.from_array(array, name))
        else:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        return Tensor(name, tuple((0, size) for size in array.shape))

    def integers(self, *values: int) -> Tensor:
        return self.constant(np.array(values, np.int64))

    def floats(self, tensor: Tensor) -> Tensor:
        return self.add("Cast", [tensor], tensor.dims, to=TensorProto.FLOAT)

    def indices(self, tensor: Tensor, size: int) -> Tensor:
        """Make indices below a size from what a tensor holds."""
        small = self.add("Tanh", [self.add("Abs", [tensor], tensor.dims)], tensor.dims)
        scaled = self.add("Mul", [small, self.constant(np.float32(0.99 * size))], tensor.dims)
        number = self.add("IsNaN", [scaled], tensor.dims)  # NaN would be no index
        safe = self.add("Where", [number, self.constant(np.float32(0)), scaled], tensor.dims)
        return self.add("Cast", [safe], tensor.dims, to=TensorProto.INT64)


def _names(tensor: Tensor, index: int) -> list[int | str]:
    names: list[int | str] = []
    for axis, (a, b) in enumerate(tensor.dims):
        names.append(b if a == 0 else f"o{index}_{axis}" if b else "n" if a == 1 else f"{a}*n")
    return names


def _broadcast(one: Sequence[Dim], other: Sequence[Dim]) -> tuple[Dim, ...]:
    rank = max(len(one), len(other))
    left, right = [[ONE] * (rank - len(each)) + list(each) for each in (one, other)]
    dims = []
    for a, b in zip(left, right, strict=True):
        if a != b and ONE not in (a, b):
            raise _NotHereError
        dims.append(b if a == ONE else a)
    return tuple(dims)


def _times(dims: Sequence[Dim]) -> Dim:
    a, b = 0, 1
    for c, d in dims:
        if a and c:
            raise _NotHereError
        a, b = a * d + b * c, b * d
    return a, b


def _unary(g: _Graph, x: Tensor) -> Tensor:
    return g.add(g.rng.choice(["Relu", "Tanh", "Neg", "Sigmoid", "Abs", "Sin", "Softplus", "Identity"]), [x], x.dims)


def _binary(g: _Graph, x: Tensor) -> Tensor:
    others = [other for other in g.tensors if _fits(x, other)]
    if not others:
        raise _NotHereError
    other = g.rng.choice(others)
    pair = [x, other] if g.rng.random() < 0.5 else [other, x]
    return g.add(g.rng.choice(["Add", "Mul", "Sub", "Max"]), pair, _broadcast(x.dims, other.dims))


def _fits(x: Tensor, other: Tensor) -> bool:
    try:
        _broadcast(x.dims, other.dims)
    except _NotHereError:
        return False
    return True


def _where(g: _Graph, x: Tensor) -> Tensor:
    other = g.rng.choice([each for each in g.tensors if _fits(x, each)])
    dims = _broadcast(x.dims, other.dims)
    mask = g.add("Greater", [x, other], dims)
    return g.add("Where", [mask, x, other], dims)


def _bias(g: _Graph, x: Tensor) -> Tensor:
    shape = [b if a == 0 and g.rng.random() < 0.7 else 1 for a, b in x.dims]
    if x.rank and g.rng.random() < 0.03:
        shape[g.rng.randrange(x.rank)] = g.rng.choice([1, 5])  # five rows would be fine, other numbers not
    dims = tuple(dim if dim[0] else (0, max(dim[1], size)) for dim, size in zip(x.dims, shape, strict=True))
    return g.add(g.rng.choice(["Add", "Mul"]), [x, g.weight(*shape)], dims)


def _reduce(g: _Graph, x: Tensor) -> Tensor:
    axes = sorted({g.axis(x) for _ in range(g.rng.choice([1, 1, 2]))})
    keep = g.rng.random() < 0.5
    dims = [ONE if axis in axes else dim for axis, dim in enumerate(x.dims) if keep or axis not in axes]
    named = [axis - x.rank if g.rng.random() < 0.3 else axis for axis in axes]
    operator = g.rng.choice(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2", "ReduceMin"])
    if g.opset >= (13 if operator == "ReduceSum" else 18):
        return g.add(operator, [x, g.integers(*named)], dims, keepdims=int(keep))
    return g.add(operator, [x], dims, keepdims=int(keep), axes=named)


def _centred(g: _Graph, x: Tensor) -> Tensor:
    """A value of the whole axis, with every value along it."""
    axis = g.axis(x)
    kept = [ONE if i == axis else dim for i, dim in enumerate(x.dims)]
    mean = g.add("ReduceMean", [x, g.integers(axis)], kept) if g.opset >= 18 else g.add("ReduceMean", [x], kept, axes=[axis])
    return g.add("Sub", [x, mean], x.dims)


def _softmax(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    return g.add(g.rng.choice(["Softmax", "LogSoftmax"]), [x], x.dims, axis=axis - x.rank if g.rng.random() < 0.3 else axis)


def _cumsum(g: _Graph, x: Tensor) -> Tensor:
    return g.add("CumSum", [x, g.constant(np.int64(g.axis(x)))], x.dims, reverse=g.rng.randint(0, 1))


def _sorted(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    a, b = x.dims[axis]
    k = g.rng.randint(1, b) if a == 0 else 1
    name, indices = g.name(), g.name()
    g.nodes.append(helper.make_node("TopK", [x.name, g.integers(k).name], [name, indices], name=f"TopK_{name}", axis=axis))
    dims = tuple((0, k) if i == axis else dim for i, dim in enumerate(x.dims))
    return Tensor(name, dims) if g.rng.random() < 0.7 else g.floats(Tensor(indices, dims))


def _arg(g: _Graph, x: Tensor) -> Tensor:
    axis, keep = g.axis(x), g.rng.random() < 0.5
    dims = [ONE if i == axis else dim for i, dim in enumerate(x.dims) if keep or i != axis]
    return g.floats(g.add(g.rng.choice(["ArgMax", "ArgMin"]), [x], dims, axis=axis, keepdims=int(keep)))


def _matmul(g: _Graph, x: Tensor) -> Tensor:
    if not x.rank or x.dims[-1][0]:
        raise _NotHereError
    k = g.rng.choice([1, 2, 3, 4])
    return g.add("MatMul", [x, g.weight(x.dims[-1][1], k)], [*x.dims[:-1], (0, k)])


def _left_matmul(g: _Graph, x: Tensor) -> Tensor:
    if x.rank < 2 or x.dims[-2][0]:
        raise _NotHereError
    k = g.rng.choice([1, 2, 3])
    return g.add("MatMul", [g.weight(k, x.dims[-2][1]), x], [*x.dims[:-2], (0, k), x.dims[-1]])


def _attention(g: _Graph, x: Tensor) -> Tensor:
    """Every entry of the last but one axis with every other: scores, softmax, sum."""
    if x.rank < 2 or (x.dims[-2][0] and g.rng.random() < 0.8):
        raise _NotHereError
    perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    turned = g.add("Transpose", [x], [x.dims[axis] for axis in perm], perm=perm)
    square = [*x.dims[:-1], x.dims[-2]]
    scores = g.add("MatMul", [x, turned], square)
    weights = g.add("Softmax", [scores], square, axis=x.rank - 1)
    return g.add("MatMul", [weights, x], x.dims)


def _gemm(g: _Graph, x: Tensor) -> Tensor:
    if x.rank != 2:
        raise _NotHereError
    turned = g.rng.randint(0, 1)
    (rows, inner) = x.dims[::-1] if turned else x.dims
    if inner[0]:
        raise _NotHereError
    k = g.rng.choice([1, 2, 3])
    return g.add("Gemm", [x, g.weight(inner[1], k), g.weight(k)], [rows, (0, k)], transA=turned)


def _einsum(g: _Graph, x: Tensor) -> Tensor:
    letters = "abcde"[: x.rank]
    if not x.rank or g.opset < 12:
        raise _NotHereError
    other = g.rng.choice([None, x, *[each for each in g.tensors if each.dims == x.dims]])
    sizes = dict(zip(letters, x.dims, strict=True))
    if other is None:
        kept = [letter for letter in letters if sizes[letter][0] or g.rng.random() < 0.6]
        g.rng.shuffle(kept)
        return g.add("Einsum", [x], [sizes[each] for each in kept], equation=f"{letters}->{''.join(kept)}")
    second = list(letters)
    axis = g.axis(x, mostly_fixed=0.9)
    second[axis] = "z"
    sizes["z"] = x.dims[axis]
    pool = [each for each in [*letters, "z"] if sizes[each][0] or g.rng.random() < 0.6]
    g.rng.shuffle(pool)
    return g.add("Einsum", [x, other], [sizes[each] for each in pool], equation=f"{letters},{''.join(second)}->{''.join(pool)}")


def _transpose(g: _Graph, x: Tensor) -> Tensor:
    if x.rank < 2:
        raise _NotHereError
    perm = list(range(x.rank))
    g.rng.shuffle(perm)
    return g.add("Transpose", [x], [x.dims[axis] for axis in perm], perm=perm)


def _merge(g: _Graph, x: Tensor) -> Tensor:
    if x.rank < 2:
        raise _NotHereError
    first = g.rng.randrange(x.rank - 1)
    last = g.rng.randint(first + 2, x.rank)
    return _reshape(g, x, [*x.dims[:first], _times(x.dims[first:last]), *x.dims[last:]])


def _split_axis(g: _Graph, x: Tensor) -> Tensor:
    choices = [
        (axis, factor)
        for axis, (a, b) in enumerate(x.dims)
        for factor in (2, 3, 4, 6)
        if a % factor == 0 and b % factor == 0 and (a or b > factor)
    ]
    if not choices:
        raise _NotHereError
    axis, factor = g.rng.choice(choices)
    rest = (x.dims[axis][0] // factor, x.dims[axis][1] // factor)
    parts = [(0, factor), rest] if g.rng.random() < 0.5 else [rest, (0, factor)]
    return _reshape(g, x, [*x.dims[:axis], *parts, *x.dims[axis + 1 :]])


def _jumbled(g: _Graph, x: Tensor) -> Tensor:
    """A Reshape where a Transpose was meant."""
    if x.rank < 2 or g.rng.random() < 0.6:
        raise _NotHereError
    dims = list(x.dims)
    g.rng.shuffle(dims)
    return _reshape(g, x, dims)


def _reshape(g: _Graph, x: Tensor, dims: Sequence[Dim]) -> Tensor:
    growing = [axis for axis, (a, _) in enumerate(dims) if a]
    way = g.rng.random()
    if way < 0.5 and len(growing) <= 1:
        places = [-1 if axis in growing else dims[axis][1] for axis in range(len(dims))]
        if g.rng.random() < 0.3 and growing and growing[0] < x.rank and x.dims[growing[0]] == dims[growing[0]]:
            places[growing[0]] = 0
        elif not growing and dims and g.rng.random() < 0.5:
            places[g.rng.randrange(len(dims))] = -1
        return g.add("Reshape", [x, g.integers(*places)], dims)
    if not dims:
        return g.add("Reshape", [x, g.constant(np.zeros(0, np.int64))], dims)
    return g.add("Reshape", [x, _shape_of(g, dims)], dims)


def _number(g: _Graph, dim: Dim) -> Tensor:
    """Make a size, of shape [1], as exporters do."""
    a, b = dim
    if a == 0:
        return g.integers(b)
    sources = [(each, axis) for each in g.tensors for axis, size in enumerate(each.dims) if size[0]]
    source, axis = g.rng.choice(sources)
    c, d = source.dims[axis]
    shape = g.add("Shape", [source], [(0, source.rank)])
    if g.rng.random() < 0.5:
        one = g.add("Slice", [shape, g.integers(axis), g.integers(axis + 1)], [ONE])
    else:
        one = g.add("Gather", [shape, g.integers(axis)], [ONE])
    if d:
        one = g.add("Sub", [one, g.integers(d)], [ONE])
    if c != 1:
        one = g.add("Div", [one, g.integers(c)], [ONE])
    if a != 1:
        one = g.add("Mul", [one, g.integers(a)], [ONE])
    return g.add("Add", [one, g.integers(b)], [ONE]) if b else one


def _shape_of(g: _Graph, dims: Sequence[Dim]) -> Tensor:
    parts = [_number(g, dim) for dim in dims]
    return g.add("Concat", parts, [(0, len(parts))], axis=0)


def _squeeze(g: _Graph, x: Tensor) -> Tensor:
    axes = [axis for axis, dim in enumerate(x.dims) if dim == ONE]
    if not axes:
        raise _NotHereError
    axis = g.rng.choice(axes)
    dims = [*x.dims[:axis], *x.dims[axis + 1 :]]
    return g.add("Squeeze", [x, g.integers(axis)], dims) if g.opset >= 13 else g.add("Squeeze", [x], dims, axes=[axis])


def _unsqueeze(g: _Graph, x: Tensor) -> Tensor:
    axis = g.rng.randint(0, x.rank)
    dims = [*x.dims[:axis], ONE, *x.dims[axis:]]
    return g.add("Unsqueeze", [x, g.integers(axis)], dims) if g.opset >= 13 else g.add("Unsqueeze", [x], dims, axes=[axis])


def _slice(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    a, b = x.dims[axis]
    if a:
        start, end, step, size = g.rng.choice(
            [
                (0, FAR, 1, (a, b)),
                (0, FAR, 1, (a, b)),
                (-1, -FAR, -1, (a, b)),
                (0, 1, 1, ONE),
                (1, FAR, 1, (a, b - 1)),
                (0, -1, 1, (a, b - 1)),
            ]
        )
    else:
        start = g.rng.randrange(b)
        end = g.rng.randint(start + 1, b)
        step, size = 1, (0, end - start)
    places = [g.integers(start), g.integers(end), g.integers(axis), g.integers(step)]
    return g.add("Slice", [x, *places], [size if i == axis else dim for i, dim in enumerate(x.dims)])


def _strided(g: _Graph, x: Tensor) -> Tensor:
    """Every k-th entry of an axis that may hold k entries per row."""
    choices = [(axis, k) for axis, (a, b) in enumerate(x.dims) for k in (2, 3) if a % k == 0 and b % k == 0]
    if not choices:
        raise _NotHereError
    axis, k = g.rng.choice(choices)
    a, b = x.dims[axis]
    places = [g.integers(g.rng.randrange(k)), g.integers(FAR), g.integers(axis), g.integers(k)]
    return g.add("Slice", [x, *places], [(a // k, b // k) if i == axis else dim for i, dim in enumerate(x.dims)])


def _gather(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    size = x.dims[axis][1] if x.dims[axis][0] == 0 else 1
    picks = [g.rng.randrange(size) for _ in range(g.rng.choice([0, 1, 2, 3]))]
    index = g.integers(*picks) if picks else g.constant(np.int64(g.rng.randrange(size)))
    return g.add("Gather", [x, index], [*x.dims[:axis], *index.dims, *x.dims[axis + 1 :]], axis=axis)


def _embedding(g: _Graph, x: Tensor) -> Tensor:
    table = g.weight(3, 2)
    return g.add("Gather", [table, g.indices(x, 3)], [*x.dims, (0, 2)])


def _gather_elements(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    size = x.dims[axis][1] if x.dims[axis][0] == 0 else 1
    return g.add("GatherElements", [x, g.indices(x, size)], x.dims, axis=axis)


def _scatter_elements(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    size = x.dims[axis][1] if x.dims[axis][0] == 0 else 1
    if g.opset < 16:
        raise _NotHereError
    return g.add("ScatterElements", [x, g.indices(x, size), x], x.dims, axis=axis, reduction="add")


def _concat(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    fitting = [
        each
        for each in g.tensors
        if each.rank == x.rank
        and all(i == axis or one == other for i, (one, other) in enumerate(zip(x.dims, each.dims, strict=True)))
    ]
    others = [g.rng.choice(fitting) for _ in range(g.rng.choice([1, 1, 2]))]
    total = tuple(np.sum([each.dims[axis] for each in (x, *others)], axis=0).tolist())
    return g.add("Concat", [x, *others], [total if i == axis else dim for i, dim in enumerate(x.dims)], axis=axis)


def _token(g: _Graph, x: Tensor) -> Tensor:
    """A weight expanded to the rows and joined to them."""
    fixed = x.fixed()
    if len(fixed) == x.rank or not fixed:
        raise _NotHereError
    axis = g.rng.choice(fixed)
    dims = [ONE if i == axis else dim for i, dim in enumerate(x.dims)]
    weight = g.weight(*(b if a == 0 else 1 for a, b in dims))
    token = g.add(g.rng.choice(["Expand", "Expand"]), [weight, _shape_of(g, dims)], dims)
    joined = [(0, dim[1] + 1) if i == axis else dim for i, dim in enumerate(x.dims)]
    return g.add("Concat", [token, x] if g.rng.random() < 0.5 else [x, token], joined, axis=axis)


def _filled(g: _Graph, x: Tensor) -> Tensor:
    filled = g.add("ConstantOfShape", [g.add("Shape", [x], [(0, x.rank)])], x.dims)
    return g.add("Add", [x, filled], x.dims)


def _chunk(g: _Graph, x: Tensor) -> Tensor:
    axes = [axis for axis in x.fixed() if x.dims[axis][1] % 2 == 0]
    if not axes:
        raise _NotHereError
    axis = g.rng.choice(axes)
    half = x.dims[axis][1] // 2
    dims = tuple((0, half) if i == axis else dim for i, dim in enumerate(x.dims))
    names = [g.name(), g.name()]
    sizes: dict[str, Any] = {"num_outputs": 2} if g.opset >= 18 else {}
    g.nodes.append(helper.make_node("Split", [x.name], names, name=f"Split_{names[0]}", axis=axis, **sizes))
    return g.add("Mul", [Tensor(names[0], dims), Tensor(names[1], dims)], dims)


def _pad(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    pads = [0] * (2 * x.rank)
    pads[axis], pads[axis + x.rank] = g.rng.choice([(0, 1), (1, 0), (1, 1)])
    a, b = x.dims[axis]
    size = (a, b + pads[axis] + pads[axis + x.rank])
    return g.add("Pad", [x, g.integers(*pads)], [size if i == axis else dim for i, dim in enumerate(x.dims)])


def _tile(g: _Graph, x: Tensor) -> Tensor:
    axis = g.axis(x)
    repeats = [2 if i == axis else 1 for i in range(x.rank)]
    dims = [(a * k, b * k) for (a, b), k in zip(x.dims, repeats, strict=True)]
    return g.add("Tile", [x, g.integers(*repeats)], dims)


def _expand(g: _Graph, x: Tensor) -> Tensor:
    axes = [axis for axis, dim in enumerate(x.dims) if dim == ONE]
    dims = list(x.dims)
    if axes and g.rng.random() < 0.7:
        axis = g.rng.choice(axes)
        dims[axis] = N if g.rng.random() < 0.15 else (0, g.rng.choice([2, 3]))
    else:
        dims.insert(0, (0, g.rng.choice([2, 3])))
    return g.add("Expand", [x, _shape_of(g, dims)], dims)


def _counted(g: _Graph, x: Tensor) -> Tensor:
    """A number that depends on n, or does not, mixed in."""
    if g.rng.random() < 0.5:
        number = g.add("Sub", [_number(g, (1, 0)), _number(g, (1, 0))], [ONE])
    else:
        number = _number(g, (0, 3)) if g.rng.random() < 0.7 else _number(g, (1, 0))
    return g.add("Add", [x, g.floats(number)], _broadcast(x.dims, [ONE]))


def _position(g: _Graph, x: Tensor) -> Tensor:
    """Positions along the last axis, mixed in."""
    if not x.rank or (x.dims[-1][0] and g.rng.random() < 0.8):
        raise _NotHereError
    size = g.add("Squeeze", [_number(g, x.dims[-1])], [])
    places = g.add("Range", [g.constant(np.int64(0)), size, g.constant(np.int64(1))], [x.dims[-1]])
    return g.add("Add", [x, g.floats(places)], x.dims)


def _conv(g: _Graph, x: Tensor) -> Tensor:
    if x.rank != 3 or x.dims[1][0]:
        raise _NotHereError
    if x.dims[2][0] and g.rng.random() < 0.8:
        raise _NotHereError
    k = g.rng.choice([1, 2])
    return g.add("Conv", [x, g.weight(k, x.dims[1][1], 3)], [x.dims[0], (0, k), x.dims[2]], pads=[1, 1])


def _pool(g: _Graph, x: Tensor) -> Tensor:
    if x.rank != 3 or (x.dims[2][0] and g.rng.random() < 0.8):
        raise _NotHereError
    return g.add(g.rng.choice(["MaxPool", "AveragePool"]), [x], x.dims, kernel_shape=[3], pads=[1, 1])


def _global_pool(g: _Graph, x: Tensor) -> Tensor:
    if x.rank < 3 or (any(a for a, _ in x.dims[2:]) and g.rng.random() < 0.8):
        raise _NotHereError
    return g.add("GlobalAveragePool", [x], [*x.dims[:2], *[ONE] * (x.rank - 2)])


def _layer_norm(g: _Graph, x: Tensor) -> Tensor:
    if not x.rank or x.dims[-1][0] or g.opset < 17:
        raise _NotHereError
    return g.add("LayerNormalization", [x, g.weight(x.dims[-1][1])], x.dims)


def _instance_norm(g: _Graph, x: Tensor) -> Tensor:
    if x.rank < 3 or x.dims[1][0] or (any(a for a, _ in x.dims[2:]) and g.rng.random() < 0.8):
        raise _NotHereError
    return g.add("InstanceNormalization", [x, g.weight(x.dims[1][1]), g.weight(x.dims[1][1])], x.dims)


def _gru(g: _Graph, x: Tensor) -> Tensor:
    if x.rank != 3 or x.dims[2][0] or (x.dims[0][0] and g.rng.random() < 0.7):
        raise _NotHereError
    width = x.dims[2][1]
    return g.add("GRU", [x, g.weight(1, 6, width), g.weight(1, 6, 2)], [x.dims[0], ONE, x.dims[1], (0, 2)], hidden_size=2)


def _flatten(g: _Graph, x: Tensor) -> Tensor:
    axis = g.rng.randint(0, x.rank)
    return g.add("Flatten", [x], [_times(x.dims[:axis]), _times(x.dims[axis:])], axis=axis)


def _quantised(g: _Graph, x: Tensor) -> Tensor:
    if g.rng.random() < 0.3:
        names = [g.name() for _ in range(3)]
        g.nodes.append(helper.make_node("DynamicQuantizeLinear", [x.name], names, name=f"Dynamic_{names[0]}"))
        return g.add("DequantizeLinear", names, x.dims)
    places = [g.constant(np.float32(0.05)), g.constant(np.uint8(128))]
    return g.add("DequantizeLinear", [g.add("QuantizeLinear", [x, *places], x.dims), *places], x.dims)


def _one_hot(g: _Graph, x: Tensor) -> Tensor:
    axis = g.rng.randint(0, x.rank)
    values = g.constant(np.array([0, 1], np.float32))
    return g.add("OneHot", [g.indices(x, 2), g.integers(2), values], [*x.dims[:axis], (0, 2), *x.dims[axis:]], axis=axis)


def _branch(g: _Graph, x: Tensor) -> Tensor:
    """An If on a constant; its branches see the tensors around them."""
    axis = g.axis(x)

    def body(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], g.name(), [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)])

    one = helper.make_node("Neg", [x.name], [g.name()], name=f"Neg_{g.count}")
    other = helper.make_node("Softmax", [x.name], [g.name()], name=f"Softmax_{g.count}", axis=axis)
    return g.add("If", [g.constant(np.array(g.rng.random() < 0.5))], x.dims, then_branch=body(one), else_branch=body(other))


def _scan(g: _Graph, x: Tensor) -> Tensor:
    """A running sum along an axis, by Scan."""
    axis = g.axis(x)
    rest = [*x.dims[:axis], *x.dims[axis + 1 :]]
    if not any(a for a, _ in rest) and x.dims[axis][0] == 0:
        raise _NotHereError
    state = g.add(
        "Slice", [x, g.integers(0), g.integers(1), g.integers(axis)], [ONE if i == axis else d for i, d in enumerate(x.dims)]
    )
    state = g.add("Squeeze", [state, g.integers(axis)], rest) if g.opset >= 13 else g.add("Squeeze", [state], rest, axes=[axis])
    names = [g.name() for _ in range(4)]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    nodes = [
        helper.make_node("Add", names[:2], [names[2]], name=f"Add_{names[2]}"),
        helper.make_node("Tanh", [names[2]], [names[3]]),
    ]
    body = helper.make_graph(nodes, g.name(), info[:2], info[2:])
    last, every = g.name(), g.name()
    g.nodes.append(
        helper.make_node(
            "Scan", [state.name, x.name], [last, every], name=f"Scan_{last}", body=body, num_scan_inputs=1,
            scan_input_axes=[axis], scan_output_axes=[axis],
        )
    )  # fmt: skip
    return Tensor(every, x.dims) if g.rng.random() < 0.5 else Tensor(last, tuple(rest))


_OPERATORS: Final[dict[Callable[[_Graph, Tensor], Tensor], int]] = {
    _unary: 3, _binary: 4, _where: 1, _bias: 3, _reduce: 3, _centred: 1, _softmax: 2, _cumsum: 1, _sorted: 1, _arg: 1,
    _matmul: 3, _left_matmul: 2, _attention: 2, _gemm: 2, _einsum: 3, _transpose: 5, _merge: 6, _split_axis: 6, _jumbled: 2,
    _squeeze: 2, _unsqueeze: 2, _slice: 2, _strided: 2, _gather: 2, _embedding: 1, _gather_elements: 1, _scatter_elements: 1,
    _concat: 3, _token: 2, _filled: 1, _chunk: 1, _pad: 1, _tile: 1, _expand: 2, _counted: 2, _position: 1, _conv: 2, _pool: 1,
    _global_pool: 1, _layer_norm: 1, _instance_norm: 1, _gru: 1, _flatten: 1, _quantised: 1, _one_hot: 1, _branch: 1, _scan: 1,
}  # fmt: skip
_WEIGHTED: Final = [operator for operator, weight in _OPERATORS.items() for _ in range(weight)]
