"""Small models over all families of operators, each with what is true of it, written by hand and shown by running it.

A model's rows are on the dimensions called n (or k*n, where a row has k entries). Each case says for every output whether it
is independent; `truth_by_running` finds the same by running, and the analysis must never call independent what is coupled.
"""

# ruff: noqa: E501 (a model's text reads best as a line)
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

APART: Final = "independent"
MIXED: Final = "coupled"


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        family: what it is about.
        name: unique in the corpus.
        verdicts: by output.
        ranges: of integer inputs, the smallest value and the one after the largest; (0, 4) where it is not said.
        node: where several nodes could be blamed, the output of the one that couples.
    """

    family: str
    name: str
    verdicts: Mapping[str, str]
    model: onnx.ModelProto = field(repr=False)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    node: str | None = None

    @property
    def opset(self) -> int:
        return next(int(each.version) for each in self.model.opset_import if not each.domain)


_UNARY: Final = (
    "Abs",
    "Ceil",
    "Cos",
    "Elu",
    "Erf",
    "Exp",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Sign",
    "Softplus",
    "Softsign",
    "Tanh",
)
_REDUCTIONS: Final = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

CASES: Final[list[Case]] = []
_NAMES: Final[set[str]] = set()


def build(
    inputs: str, outputs: str, body: str, weights: str = "", *, opset: int = 17, functions: str = "", imports: str = ""
) -> onnx.ModelProto:
    """Return a model from its text in ONNX's own syntax; weights are separated by semicolons, random where no value is given."""
    given = [weight.strip() for weight in weights.split(";") if "=" in weight]
    drawn = [weight.strip() for weight in weights.split(";") if weight.strip() and "=" not in weight]
    text = (
        f'<ir_version: {6 if opset < 13 else 8}, opset_import: ["": {opset}{imports}]>\n'
        f"g ({_plain(inputs)}) => ({_plain(outputs)}) <{', '.join(given)}> {{ {body} }}\n{functions}"
    )
    model = onnx.parser.parse_model(text)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if match := re.fullmatch(r"n_times_(\d+)", dim.dim_param):
                dim.dim_param = f"{match[1]}*n"
    rng = np.random.default_rng(len(body))
    for weight in drawn:
        match = re.fullmatch(r"(\w+)\[([\d, ]*)\] (\w+)", weight)
        assert match, weight
        shape = [int(size) for size in match[2].split(",") if size.strip()]
        dtype = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(match[1].upper()))
        values = rng.standard_normal(shape) if np.dtype(dtype).kind == "f" else rng.integers(1, 5, shape)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values).astype(dtype), match[3]))
    for index, node in enumerate(model.graph.node):  # as exporters do, so that reports can name them
        node.name = node.name or f"{node.op_type.lower()}_{index}"
    return model


def _plain(values: str) -> str:
    return re.sub(r"(\d+)\*n", r"n_times_\1", values)


def case(
    family: str,
    name: str,
    verdict: str | Mapping[str, str],
    inputs: str,
    outputs: str,
    body: str,
    weights: str = "",
    *,
    opset: int = 17,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    node: str | None = None,
    functions: str = "",
    imports: str = "",
) -> None:
    model = build(inputs, outputs, body, weights, opset=opset, functions=functions, imports=imports)
    add(family, name, verdict, model, ranges=ranges, node=node)


def add(
    family: str,
    name: str,
    verdict: str | Mapping[str, str],
    model: onnx.ModelProto,
    *,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    node: str | None = None,
) -> None:
    full = f"{family}: {name}"
    assert full not in _NAMES, full
    _NAMES.add(full)
    names = [output.name for output in model.graph.output]
    verdicts = dict.fromkeys(names, verdict) if isinstance(verdict, str) else dict(verdict)
    assert set(verdicts) == set(names), full
    CASES.append(Case(family, full, verdicts, model, ranges or {}, node))


# A table: one entry, one case.
# fmt: off
def _entries() -> None:
    x, y = "float[n,4] x", "float[n,4] y"
    for operator in _UNARY:
        case("elementwise", operator, APART, x, y, f"y = {operator}(x)")
    case("elementwise", "Gelu of opset 20", APART, x, y, "y = Gelu(x)", opset=20)
    case("elementwise", "Mish of opset 18", APART, x, y, "y = Mish(x)", opset=18)
    case("elementwise", "Swish of the newest opset", APART, x, y, "y = Swish(x)", opset=24)
    case("elementwise", "Cast to integers and back", APART, x, y, "i = Cast<to = 7>(x)  y = Cast<to = 1>(i)")
    case("elementwise", "CastLike", APART, x, "int64[n,4] y", "y = CastLike(x, like)", "int64[1] like = {0}")
    case("elementwise", "Clip with inputs", APART, x, y, "y = Clip(x, low, high)", "float low = {-1.0}; float high = {1.0}")
    case("elementwise", "Clip by the mean of all rows", MIXED, x, y, "m = ReduceMean<keepdims = 0>(x)  y = Clip(x, m)")
    case("elementwise", "IsNaN and Where", APART, x, y, "b = IsNaN(x)  y = Where(b, zero, x)", "float zero = {0.0}")
    case("elementwise", "Mod and floor division", APART, "int64[n,4] x", "int64[n,4] y",
         "a = Div(x, three)  b = Mod(x, three)  y = Add(a, b)", "int64 three = {3}", ranges={"x": (-9, 9)})
    case("elementwise", "logic", APART, "bool[n,4] x, bool[n,4] z", "bool[n,4] y", "a = And(x, z)  b = Xor(a, z)  c = Not(b)  y = Or(c, x)")
    case("elementwise", "bits", APART, "uint8[n,4] x", "uint8[n,4] y", "y = BitShift<direction = \"LEFT\">(x, one)", "uint8[1] one = {1}")
    case("elementwise", "two inputs with rows", APART, "float[n,4] x, float[n,4] z", y, "a = Mul(x, z)  y = Sub(a, x)")
    case("elementwise", "variadic", APART, "float[n,4] x, float[n,4] z", y, "y = Sum(x, z, x)")
    case("elementwise", "variadic maximum with one row of all", MIXED, x, y, "m = ReduceMax<axes = [0], keepdims = 1>(x)  y = Max(x, m)")
    case("elementwise", "rows on axis 1", APART, "float[3,n] x", "float[3,n] y", "y = Add(x, w)", "float[3,1] w")
    case("elementwise", "PRelu", APART, "float[n,4,2] x", "float[n,4,2] y", "y = PRelu(x, w)", "float[4,1] w")

    case("broadcast", "bias", APART, x, y, "y = Add(x, w)", "float[4] w")
    case("broadcast", "row bias of rank 2", APART, x, y, "y = Add(x, w)", "float[1,4] w")
    case("broadcast", "a column of size one", APART, x, y, "y = Add(x, w)", "float[1,1] w")
    case("broadcast", "a constant with a value per row", MIXED, "float[n] x", "float[n] y", "y = Add(x, w)", "float[5] w", node="y")
    case("broadcast", "a constant with a value per row, rank 2", MIXED, x, y, "y = Add(x, w)", "float[5,1] w", node="y")
    case("broadcast", "rows broadcast by a constant", APART, x, "float[3,n,4] y", "y = Add(x, w)", "float[3,1,4] w")
    case("broadcast", "(n,1,d) with (1,n,d)", MIXED, x, "float[n,n,4] y",
         "a = Unsqueeze(x, one)  b = Unsqueeze(x, zero)  y = Sub(a, b)", "int64[1] one = {1}; int64[1] zero = {0}", node="y")
    case("broadcast", "pairwise distances summed over the others", MIXED, x, "float[n,1,4] y",
         "a = Unsqueeze(x, one)  b = Unsqueeze(x, zero)  d = Sub(a, b)  y = ReduceSum(d, one)",
         "int64[1] one = {1}; int64[1] zero = {0}")
    case("broadcast", "an un-batched input", APART, "float[n,4] x, float[1,4] c", y, "y = Mul(x, c)")
    case("broadcast", "an un-batched input of full size", MIXED, "float[n,4] x, float[5,4] c", y, "y = Mul(x, c)")
    case("broadcast", "rows of a vector as columns", MIXED, "float[n,4] x, float[n] v", "float[n,4,n] y",
         "u = Unsqueeze(x, two)  y = Add(u, v)", "int64[1] two = {2}")
    case("broadcast", "rows of a vector, aligned", APART, "float[n,4] x, float[n] v", y,
         "u = Unsqueeze(v, one)  y = Add(x, u)", "int64[1] one = {1}")
    case("broadcast", "Expand to a fixed inner size", APART, "float[n,1] x", y, "y = Expand(x, s)", "int64[2] s = {1, 4}")
    case("broadcast", "Expand by a constant number of rows", MIXED, "float[n,1] x", y, "y = Expand(x, s)", "int64[2] s = {5, 4}")
    case("broadcast", "Expand of a weight to the number of rows", APART, x, y,
         "s = Shape(x)  e = Expand(w, s)  y = Add(x, e)", "float[1,4] w")
    case("broadcast", "Where with a mask per row", APART, "float[n,4] x, bool[n,1] m", y, "y = Where(m, x, w)", "float[4] w")
    case("broadcast", "Where with a mask per position", MIXED, x, y, "y = Where(m, x, w)", "bool[5,1] m = {1,0,1,0,1}; float[4] w")
    case("broadcast", "Where with one mask of all rows", MIXED, x, y,
         "m = ReduceMean<axes = [0], keepdims = 1>(x)  b = Greater(x, m)  y = Where(b, x, w)", "float[4] w", node="m")

    for operator in _REDUCTIONS:
        case("reduction", f"Reduce{operator} within the row", APART, x, "float[n] y", f"y = Reduce{operator}<axes = [1], keepdims = 0>(x)")
        case("reduction", f"Reduce{operator} over the rows", MIXED, x, "float[1,4] y", f"y = Reduce{operator}<axes = [0], keepdims = 1>(x)", node="y")
    case("reduction", "ReduceSum, axes as input", APART, x, "float[n,1] y", "y = ReduceSum(x, a)", "int64[1] a = {-1}")
    case("reduction", "ReduceSum, axes as input, over the rows", MIXED, x, "float[1,4] y", "y = ReduceSum(x, a)", "int64[1] a = {-2}")
    case("reduction", "ReduceMean of opset 18", APART, x, "float[n,1] y", "y = ReduceMean(x, a)", "int64[1] a = {1}", opset=18)
    case("reduction", "ReduceMean of opset 18 over the rows", MIXED, x, "float[1,4] y", "y = ReduceMean(x, a)", "int64[1] a = {0}", opset=18)
    case("reduction", "ReduceMean over everything", MIXED, x, "float[1,1] y", "y = ReduceMean(x)")
    case("reduction", "empty axes that do nothing", APART, x, y, "y = ReduceSum<noop_with_empty_axes = 1>(x)")
    case("reduction", "empty axes that reduce all", MIXED, x, "float y", "y = ReduceSum<keepdims = 0>(x, a)", "int64[0] a = {}")
    case("reduction", "rows on axis 1", APART, "float[3,n,2] x", "float[n] y", "y = ReduceMax<axes = [0, 2], keepdims = 0>(x)")
    case("reduction", "axes computed from the rank", APART, x, "float[n,1] y",
         "s = Shape(x)  r = Size(s)  o = Sub(r, one)  a = Reshape(o, vec)  y = ReduceSum(x, a)",
         "int64 one = {1}; int64[1] vec = {1}")
    case("reduction", "minus the mean of the batch", MIXED, x, y,
         "m = ReduceMean<axes = [0], keepdims = 1>(x)  y = Sub(x, m)", node="m")
    case("reduction", "plus the mean of the row", APART, x, y, "m = ReduceMean<axes = [1], keepdims = 1>(x)  y = Add(x, m)")
    case("reduction", "divided by the number of rows", MIXED, x, y,
         "s = Shape(x)  n = Gather(s, zero)  f = Cast<to = 1>(n)  y = Div(x, f)", "int64 zero = {0}")
    case("reduction", "divided by the row's length", APART, x, y,
         "s = Shape(x)  n = Gather(s, one)  f = Cast<to = 1>(n)  y = Div(x, f)", "int64 one = {1}")

    for opset in (11, 13, 17, 24):
        case("softmax", f"last axis, opset {opset}", APART, x, y, "y = Softmax<axis = -1>(x)", opset=opset)
        case("softmax", f"axis 0, opset {opset}", MIXED, x, y, "y = Softmax<axis = 0>(x)", opset=opset, node="y")
        case("softmax", f"default axis, opset {opset}", APART, x, y, "y = Softmax(x)", opset=opset)
    x3, y3 = "float[n,4,2] x", "float[n,4,2] y"
    case("softmax", "opset 11 flattens from axis 1", APART, x3, y3, "y = Softmax<axis = 1>(x)", opset=11)
    case("softmax", "opset 11, rows on axis 1, flattened away", MIXED, "float[4,n,2] x", "float[4,n,2] y", "y = Softmax<axis = 1>(x)", opset=11)
    case("softmax", "opset 11, rows on axis 1, kept", APART, "float[4,n,2] x", "float[4,n,2] y", "y = Softmax<axis = 2>(x)", opset=11)
    case("softmax", "opset 13, rows on axis 1", MIXED, "float[4,n,2] x", "float[4,n,2] y", "y = Softmax<axis = 1>(x)", opset=13)
    case("softmax", "opset 13, rows on axis 2", APART, "float[4,2,n] x", "float[4,2,n] y", "y = Softmax<axis = 1>(x)", opset=13)
    case("softmax", "LogSoftmax", APART, x3, y3, "y = LogSoftmax<axis = 1>(x)")
    case("softmax", "LogSoftmax over the rows", MIXED, x3, y3, "y = LogSoftmax<axis = 0>(x)")
    case("softmax", "Hardmax", APART, x3, y3, "y = Hardmax<axis = 2>(x)")
    case("softmax", "Hardmax over the rows", MIXED, x3, y3, "y = Hardmax<axis = 0>(x)")

    case("product", "MatMul with a weight", APART, x, "float[n,3] y", "y = MatMul(x, w)", "float[4,3] w")
    case("product", "MatMul of a weight with rows as columns", APART, "float[4,n] x", "float[3,n] y", "y = MatMul(w, x)", "float[3,4] w")
    case("product", "MatMul that sums over the rows", MIXED, "float[n,4] x, float[n,3] z", "float[4,3] y",
         "t = Transpose<perm = [1, 0]>(x)  y = MatMul(t, z)", node="y")
    case("product", "Gram matrix", MIXED, x, "float[n,n] y", "t = Transpose<perm = [1, 0]>(x)  y = MatMul(x, t)", node="y")
    case("product", "a weight that mixes the rows", MIXED, x, "float[5,4] y", "y = MatMul(w, x)", "float[5,5] w")
    case("product", "batched MatMul", APART, "float[n,2,4] x, float[n,4,3] z", "float[n,2,3] y", "y = MatMul(x, z)")
    case("product", "MatMul of rank 3 with a weight", APART, "float[n,2,4] x", "float[n,2,3] y", "y = MatMul(x, w)", "float[4,3] w")
    case("product", "MatMul whose weights are per batch entry", MIXED, "float[n,2,4] x", "float[n,2,3] y", "y = MatMul(x, w)", "float[5,4,3] w")
    case("product", "MatMul with a vector", APART, x, "float[n] y", "y = MatMul(x, w)", "float[4] w")
    case("product", "rows broadcast over matrices", APART, x, "float[3,n,2] y", "y = MatMul(x, w)", "float[3,4,2] w")
    case("product", "rows as the batch of one operand and the columns of the other", MIXED, "float[n,2,4] x, float[4,n] z", "float[n,2,n] y", "y = MatMul(x, z)")
    case("product", "dot product of vectors of rows", MIXED, "float[n] x, float[n] z", "float y", "y = MatMul(x, z)")
    case("product", "Gemm", APART, x, "float[n,3] y", "y = Gemm(x, w, b)", "float[4,3] w; float[3] b")
    case("product", "Gemm with both transposed", APART, "float[4,n] x", "float[n,3] y", "y = Gemm<transA = 1, transB = 1>(x, w)", "float[3,4] w")
    case("product", "Gemm that sums over the rows", MIXED, x, "float[4,3] y", "y = Gemm<transA = 1>(x, w)", "float[5,3] w")
    case("product", "Gemm whose bias is per row", MIXED, x, "float[n,3] y", "y = Gemm(x, w, b)", "float[4,3] w; float[5,3] b")
    case("product", "Gemm with rows as columns of B", APART, "float[4,n] x", "float[3,n] y", "y = Gemm(w, x, b)", "float[3,4] w; float[3,1] b")
    for text, kind, ins, out in (
        ("nd,de->ne", APART, "float[n,4] x", "float[n,3] y"),
        ("bd,de->be", APART, "float[n,4] x", "float[n,3] y"),
        ("...d,de->...e", APART, "float[n,4] x", "float[n,3] y"),
        ("nd,de->en", APART, "float[n,4] x", "float[3,n] y"),
        ("nd,de->e", MIXED, "float[n,4] x", "float[3] y"),
    ):
        case("einsum", text, kind, ins, out, f'y = Einsum<equation = "{text}">(x, w)', "float[4,3] w")
    case("einsum", "attention scores", APART, "float[n,3,2,4] q, float[n,3,2,4] k", "float[n,3,2,2] y", 'y = Einsum<equation = "bhid,bhjd->bhij">(q, k)')
    case("einsum", "attention across the batch", MIXED, "float[n,4] q, float[n,4] k", "float[n,n] y", 'y = Einsum<equation = "id,jd->ij">(q, k)')
    case("einsum", "row-wise dot product", APART, "float[n,4] q, float[n,4] k", "float[n] y", 'y = Einsum<equation = "id,id->i">(q, k)')
    case("einsum", "implicit, rows kept", APART, x, "float[n,3] y", 'y = Einsum<equation = "bd,de">(x, w)', "float[4,3] w")
    case("einsum", "implicit, rows moved last", APART, "float[n,4] x", "float[3,n] y", 'y = Einsum<equation = "zd,de">(x, w)', "float[4,3] w")
    case("einsum", "a weight along the rows", MIXED, x, y, 'y = Einsum<equation = "nd,n->nd">(x, w)', "float[5] w")
    case("einsum", "ellipsis keeps the rows", APART, "float[n,2,4] x", "float[n,4,2] y", 'y = Einsum<equation = "...ij->...ji">(x)')
    case("einsum", "sum over the rows by omission", MIXED, "float[n,2,4] x", "float[2,4] y", 'y = Einsum<equation = "bij->ij">(x)')

    image, same = "float[n,3,6,6] x", "float[n,3,6,6] y"
    case("convolution", "Conv", APART, image, "float[n,2,4,4] y", "y = Conv(x, w, b)", "float[2,3,3,3] w; float[2] b")
    case("convolution", "Conv over rows as space", MIXED, "float[1,3,n] x", "float[1,2,n] y", "y = Conv<pads = [1, 1]>(x, w)", "float[2,3,3] w")
    case("convolution", "Conv with rows as channels", MIXED, "float[1,n,6] x", "float[1,2,6] y", "y = Conv(x, w)", "float[2,5,1] w")
    case("convolution", "grouped Conv", APART, "float[n,4,6] x", "float[n,4,4] y", "y = Conv<group = 4>(x, w)", "float[4,1,3] w")
    case("convolution", "ConvTranspose", APART, "float[n,3,4,4] x", "float[n,2,6,6] y", "y = ConvTranspose(x, w)", "float[3,2,3,3] w")
    case("convolution", "filters made from rows", APART, "float[n,3,3] x", "float[1,n,4] y", "y = Conv(i, x)", "float[1,3,6] i")
    case("convolution", "DeformConv", APART, "float[n,1,3,3] x, float[n,8,2,2] o", "float[n,1,2,2] y", "y = DeformConv<kernel_shape = [2, 2], pads = [0, 0, 0, 0]>(x, w, o)", "float[1,1,2,2] w", opset=19)
    for pool in ("MaxPool", "AveragePool"):
        case("pooling", pool, APART, image, "float[n,3,3,3] y", f"y = {pool}<kernel_shape = [2, 2], strides = [2, 2]>(x)")
        case("pooling", f"{pool} with rows as space", MIXED, "float[1,3,n] x", "float[1,3,n] y", f"y = {pool}<kernel_shape = [3], pads = [1, 1]>(x)")
    case("pooling", "MaxPool with indices", {"y": APART, "i": MIXED}, image, "float[n,3,3,3] y, int64[n,3,3,3] i",
         "y, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)")
    case("pooling", "LpPool", APART, image, "float[n,3,5,5] y", "y = LpPool<kernel_shape = [2, 2]>(x)")
    case("pooling", "GlobalAveragePool", APART, image, "float[n,3,1,1] y", "y = GlobalAveragePool(x)")
    case("pooling", "GlobalMaxPool with rows as space", MIXED, "float[2,3,n] x", "float[2,3,1] y", "y = GlobalMaxPool(x)")
    case("pooling", "GlobalAveragePool with rows as channels", APART, "float[2,n,3] x", "float[2,n,1] y", "y = GlobalAveragePool(x)")

    stats = "float[3] s; float[3] b; float[3] m; float[3] v = {1.0, 2.0, 3.0}"
    case("normalisation", "BatchNormalization", APART, image, same, "y = BatchNormalization(x, s, b, m, v)", stats)
    case("normalisation", "BatchNormalization in training mode", MIXED, image, f"{same}, float[3] rm, float[3] rv",
         "y, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v)", stats)
    case("normalisation", "BatchNormalization of opset 11", APART, image, same, "y = BatchNormalization(x, s, b, m, v)", stats, opset=11)
    case("normalisation", "BatchNormalization with rows as channels", MIXED, "float[1,n,6] x", "float[1,n,6] y",
         "y = BatchNormalization(x, s, b, m, v)", "float[5] s; float[5] b; float[5] m; float[5] v = {1.0, 2.0, 3.0, 4.0, 5.0}")
    case("normalisation", "InstanceNormalization", APART, image, same, "y = InstanceNormalization(x, s, b)", stats)
    case("normalisation", "InstanceNormalization with rows as space", MIXED, "float[1,3,n] x", "float[1,3,n] y", "y = InstanceNormalization(x, s, b)", stats)
    case("normalisation", "GroupNormalization of opset 21", APART, "float[n,4,6] x", "float[n,4,6] y",
         "y = GroupNormalization<num_groups = 2>(x, s, b)", "float[4] s; float[4] b", opset=21)
    case("normalisation", "LayerNormalization", APART, "float[n,2,4] x", "float[n,2,4] y", "y = LayerNormalization(x, s, b)", "float[4] s; float[4] b")
    case("normalisation", "LayerNormalization from axis 0", MIXED, "float[n,4] x", "float[n,4] y", "y = LayerNormalization<axis = 0>(x, s)", "float[1] s")
    case("normalisation", "LayerNormalization with its statistics", APART, "float[n,2,4] x", "float[n,2,4] y, float[n,2,1] m, float[n,2,1] d",
         "y, m, d = LayerNormalization(x, s, b)", "float[4] s; float[4] b")
    case("normalisation", "LayerNormalization with rows on axis 1, from axis 1", MIXED, "float[2,n,4] x", "float[2,n,4] y", "y = LayerNormalization<axis = 1>(x, s)", "float[1] s")
    case("normalisation", "RMSNormalization", APART, "float[n,2,4] x", "float[n,2,4] y", "y = RMSNormalization(x, s)", "float[4] s", opset=23)
    case("normalisation", "LpNormalization within the row", APART, x, y, "y = LpNormalization<axis = 1, p = 2>(x)")
    case("normalisation", "LpNormalization over the rows", MIXED, x, y, "y = LpNormalization<axis = 0, p = 2>(x)")
    case("normalisation", "MeanVarianceNormalization over rows too", MIXED, image, same, "y = MeanVarianceNormalization(x)")
    case("normalisation", "MeanVarianceNormalization within the row", APART, image, same, "y = MeanVarianceNormalization<axes = [1, 2, 3]>(x)")
    case("normalisation", "LRN", APART, image, same, "y = LRN<size = 3>(x)")
    case("normalisation", "LRN with rows as channels", MIXED, "float[1,n,6,6] x", "float[1,n,6,6] y", "y = LRN<size = 3>(x)")

    case("space", "Resize", APART, image, "float[n,3,12,12] y", 'y = Resize<mode = "linear">(x, , s)', "float[4] s = {1.0, 1.0, 2.0, 2.0}")
    case("space", "Resize to sizes with the rows taken from the shape", APART, image, "float[n,3,4,4] y",
         'sh = Shape(x)  h = Slice(sh, zero, two)  c = Concat<axis = 0>(h, hw)  y = Resize<mode = "nearest">(x, , , c)',
         "int64[1] zero = {0}; int64[1] two = {2}; int64[2] hw = {4, 4}")
    case("space", "Resize of the rows", MIXED, image, "float[m,3,6,6] y", 'y = Resize<mode = "linear">(x, , s)', "float[4] s = {2.0, 1.0, 1.0, 1.0}")
    case("space", "Upsample of the space", APART, image, "float[n,3,12,12] y", "y = Upsample(x, s)", "float[4] s = {1.0, 1.0, 2.0, 2.0}", opset=9)
    case("space", "DepthToSpace", APART, "float[n,4,2,2] x", "float[n,1,4,4] y", "y = DepthToSpace<blocksize = 2>(x)")
    case("space", "SpaceToDepth", APART, image, "float[n,12,3,3] y", "y = SpaceToDepth<blocksize = 2>(x)")
    case("space", "GridSample", APART, "float[n,2,4,4] x, float[n,3,3,2] g", "float[n,2,3,3] y", "y = GridSample(x, g)")
    case("space", "GridSample with one grid for all", MIXED, "float[n,2,4,4] x", "float[n,2,3,3] y", "y = GridSample(x, g)", "float[5,3,3,2] g")
    case("space", "AffineGrid", APART, "float[n,2,3] t", "float[n,4,4,2] y",
         "s = Shape(t)  z = Gather(s, zero)  c = Concat<axis = 0>(z, rest)  y = AffineGrid(t, c)", "int64[1] zero = {0}; int64[3] rest = {1, 4, 4}", opset=20)
    case("space", "RoiAlign over the rows' images", MIXED, "float[n,2,6,6] x", "float[3,2,1,1] y", "y = RoiAlign<sampling_ratio = 2>(x, r, b)", "float[3,4] r = {0.0,0.0,3.0,3.0,1.0,1.0,4.0,4.0,0.0,0.0,5.0,5.0}; int64[3] b = {0, 0, 0}")
    case("space", "RoiAlign with rows as regions of one image", APART, "float[n,4] r, int64[n] b", "float[n,2,1,1] y", "y = RoiAlign<sampling_ratio = 2>(x, r, b)", "float[1,2,6,6] x", ranges={"b": (0, 1)})
    case("space", "Col2Im", APART, "float[n,4,4] x", "float[n,1,3,3] y", "y = Col2Im(x, s, b)", "int64[2] s = {3, 3}; int64[2] b = {2, 2}", opset=18)
    case("space", "CenterCropPad of the space", APART, "float[n,6] x", "float[n,4] y", "y = CenterCropPad<axes = [1]>(x, s)", "int64[1] s = {4}", opset=18)

    case("reshape", "Flatten", APART, "float[n,3,2] x", "float[n,6] y", "y = Flatten(x)")
    case("reshape", "Flatten at axis 2 merges rows with heads", APART, "float[n,3,2] x", "float[3*n,2] y", "y = Flatten<axis = 2>(x)")
    case("reshape", "Flatten at axis 0", APART, x, "float[1,4*n] y", "y = Flatten<axis = 0>(x)")
    case("reshape", "rows inferred", APART, "float[n,6] x", "float[n,3,2] y", "y = Reshape(x, s)", "int64[3] s = {-1, 3, 2}")
    case("reshape", "rows copied by 0", APART, "float[n,6] x", "float[n,3,2] y", "y = Reshape(x, s)", "int64[3] s = {0, 3, 2}")
    case("reshape", "rows copied by 0, rest inferred", APART, "float[n,6,2] x", "float[n,12] y", "y = Reshape(x, s)", "int64[2] s = {0, -1}")
    case("reshape", "swaps rows and heads", MIXED, "float[n,3,2] x", "float[3,n,2] y", "y = Reshape(x, s)", "int64[3] s = {3, -1, 2}", node="y")
    case("reshape", "swaps rows and heads, and sums over heads", MIXED, "float[n,3,2] x", "float[n,2] y",
         "r = Reshape(x, s)  y = ReduceSum(r, a)", "int64[3] s = {3, -1, 2}; int64[1] a = {0}", node="r")
    case("reshape", "merges rows and heads and splits them", APART, "float[n,3,2] x", "float[n,3,2] y",
         "m = Reshape(x, s)  r = Relu(m)  y = Reshape(r, t)", "int64[2] s = {-1, 2}; int64[3] t = {-1, 3, 2}")
    case("reshape", "merges rows and heads, splits them otherwise", MIXED, "float[n,3,2] x", "float[3,n,2] y",
         "m = Reshape(x, s)  y = Reshape(m, t)", "int64[2] s = {-1, 2}; int64[3] t = {3, -1, 2}", node="y")
    case("reshape", "heads first, merged, matched, split, and back", APART, "float[n,3,2] x", "float[n,3,2] y",
         "t = Transpose<perm = [1, 0, 2]>(x)  m = Reshape(t, s)  r = MatMul(m, w)  u = Reshape(r, b)  y = Transpose<perm = [1, 0, 2]>(u)",
         "int64[2] s = {-1, 2}; int64[3] b = {3, -1, 2}; float[2,2] w")
    case("reshape", "heads first, merged, taken for rows first", MIXED, "float[n,3,2] x", "float[n,3,2] y",
         "t = Transpose<perm = [1, 0, 2]>(x)  m = Reshape(t, s)  y = Reshape(m, b)", "int64[2] s = {-1, 2}; int64[3] b = {-1, 3, 2}", node="y")
    case("reshape", "heads first, merged, as the output", MIXED, "float[n,3,2] x", "float[3*n,2] y",
         "t = Transpose<perm = [1, 0, 2]>(x)  y = Reshape(t, s)", "int64[2] s = {-1, 2}")
    case("reshape", "rows of several entries in, split", APART, "float[3*n,2] x", "float[n,3,2] y", "y = Reshape(x, s)", "int64[3] s = {-1, 3, 2}")
    case("reshape", "a fixed number of rows", MIXED, "float[n,6] x", "float[5,3,2] y", "y = Reshape(x, s)", "int64[3] s = {5, 3, 2}")
    case("reshape", "everything into one axis", APART, x, "float[4*n] y", "y = Reshape(x, s)", "int64[1] s = {-1}")
    case("reshape", "everything into the columns of one row, and added to a weight of full size", MIXED, x, "float[1,m] y",
         "f = Reshape(x, s)  y = Add(f, w)", "int64[2] s = {1, -1}; float[1,20] w")
    case("reshape", "pairs of rows", MIXED, x, "float[m,8] y", "y = Reshape(x, s)", "int64[2] s = {-1, 8}")
    case("reshape", "the last axis to the front without transposing", MIXED, x, "float[4,n] y", "y = Reshape(x, s)", "int64[2] s = {4, -1}")
    case("reshape", "allowzero with a true zero elsewhere", APART, "float[n,6] x", "float[n,2,3] y", "y = Reshape<allowzero = 1>(x, s)", "int64[3] s = {-1, 2, 3}")
    case("reshape", "Transpose moves the rows", APART, x, "float[4,n] y", "y = Transpose(x)")
    case("reshape", "Transpose, used as if it had not", MIXED, x, y, "t = Transpose(x)  r = Reshape(t, s)  y = Relu(r)", "int64[2] s = {-1, 4}", node="r")
    case("reshape", "Squeeze and Unsqueeze", APART, "float[n,1,4] x", "float[1,n,4] y",
         "a = Squeeze(x, one)  y = Unsqueeze(a, zero)", "int64[1] one = {1}; int64[1] zero = {0}")
    case("reshape", "Squeeze of the rows", MIXED, x, "float[4] y", "y = Squeeze(x, zero)", "int64[1] zero = {0}")
    case("reshape", "Squeeze of opset 11", APART, "float[n,1,4] x", y, "y = Squeeze<axes = [1]>(x)", opset=11)
    case("reshape", "Squeeze of everything of size 1", MIXED, "float[n,1,4] x", y, "y = Squeeze(x)")
    case("reshape", "Unsqueeze of opset 11", APART, x, "float[n,1,4] y", "y = Unsqueeze<axes = [1]>(x)", opset=11)

    shape = "int64 zero = {0}; int64 one = {1}; int64[1] front = {0}"
    gather = "s = Shape(x)  n = Gather(s, zero)  u = Unsqueeze(n, front)"
    case("shape arithmetic", "Shape, Gather, Unsqueeze, Concat, Reshape", APART, "float[n,6] x", "float[n,3,2] y",
         f"{gather}  c = Concat<axis = 0>(u, rest)  y = Reshape(x, c)", f"{shape}; int64[2] rest = {{3, 2}}")
    case("shape arithmetic", "the same, put in the wrong place", MIXED, "float[n,6] x", "float[3,n,2] y",
         f"{gather}  c = Concat<axis = 0>(h, u, d)  y = Reshape(x, c)", f"{shape}; int64[1] h = {{3}}; int64[1] d = {{2}}")
    case("shape arithmetic", "rows times heads", APART, "float[n,3,2] x", "float[3*n,2] y",
         f"{gather}  h = Mul(u, three)  c = Concat<axis = 0>(h, d)  y = Reshape(x, c)", f"{shape}; int64[1] three = {{3}}; int64[1] d = {{2}}")
    case("shape arithmetic", "rows times heads, divided by heads", APART, "float[n,3,2] x", "float[n,3,2] y",
         f"{gather}  h = Mul(u, three)  c = Concat<axis = 0>(h, d)  m = Reshape(x, c)  v = Shape(m)  a = Gather(v, front)  b = Div(a, three)  "
         "e = Concat<axis = 0>(b, three, d)  y = Reshape(m, e)",
         f"{shape}; int64[1] three = {{3}}; int64[1] d = {{2}}")
    case("shape arithmetic", "Slice of a Shape", APART, "float[n,6] x", "float[n,3,2] y",
         "s = Shape(x)  u = Slice(s, front, end)  c = Concat<axis = 0>(u, rest)  y = Reshape(x, c)",
         "int64[1] front = {0}; int64[1] end = {1}; int64[2] rest = {3, 2}")
    case("shape arithmetic", "Shape with start and end", APART, "float[n,6] x", "float[n,3,2] y",
         "u = Shape<start = 0, end = 1>(x)  c = Concat<axis = 0>(u, rest)  y = Reshape(x, c)", "int64[2] rest = {3, 2}")
    case("shape arithmetic", "Size divided by the row's size", APART, "float[n,6] x", "float[n,3,2] y",
         "k = Size(x)  q = Div(k, six)  u = Unsqueeze(q, front)  c = Concat<axis = 0>(u, rest)  y = Reshape(x, c)",
         "int64 six = {6}; int64[1] front = {0}; int64[2] rest = {3, 2}")
    case("shape arithmetic", "through float and back", APART, "float[n,6] x", "float[n,3,2] y",
         f"{gather}  f = Cast<to = 1>(u)  g = Floor(f)  i = Cast<to = 7>(g)  c = Concat<axis = 0>(i, rest)  y = Reshape(x, c)",
         f"{shape}; int64[2] rest = {{3, 2}}")
    case("shape arithmetic", "ReduceProd of a Shape's tail", APART, "float[n,3,2] x", "float[n,6] y",
         "t = Shape<start = 1>(x)  p = ReduceProd<keepdims = 1>(t)  u = Shape<start = 0, end = 1>(x)  c = Concat<axis = 0>(u, p)  y = Reshape(x, c)", opset=17)
    case("shape arithmetic", "ConstantOfShape of the rows", APART, x, y,
         "s = Shape(x)  z = ConstantOfShape<value = float[1] {1.5}>(s)  y = Add(x, z)")
    case("shape arithmetic", "Expand by a Where on the shape, as torch exports it", APART, "float[n,1] x", y,
         "s = Shape(x)  n = Gather(s, front)  t = Concat<axis = 0>(n, four)  q = Shape(t)  o = ConstantOfShape<value = int64[1] {1}>(q)  "
         "m = Mul(o, minus)  e = Equal(t, m)  w = Where(e, o, t)  y = Expand(x, w)",
         "int64[1] front = {0}; int64[1] four = {4}; int64 minus = {-1}")
    case("shape arithmetic", "the number of rows as an output", MIXED, x, "int64[2] y", "y = Shape(x)")
    case("shape arithmetic", "the row's size as an output", APART, x, "int64[1] y", "y = Shape<start = 1>(x)")
    case("shape arithmetic", "n added to every value", MIXED, x, y, f"{gather}  f = Cast<to = 1>(u)  y = Add(x, f)", shape)
    case("shape arithmetic", "n minus n added to every value", APART, x, y, f"{gather}  z = Sub(u, u)  f = Cast<to = 1>(z)  y = Add(x, f)", shape)
    case("shape arithmetic", "the parity of n decides", MIXED, x, y,
         f"{gather}  m = Mod(n, two)  b = Cast<to = 9>(m)  y = Where(b, x, w)", f"{shape}; int64 two = {{2}}; float[4] w")
    case("shape arithmetic", "number of rows of another input", APART, "float[n,6] x, float[n,1] z", "float[n,3,2] y",
         "u = Shape<start = 0, end = 1>(z)  c = Concat<axis = 0>(u, rest)  y = Reshape(x, c)", "int64[2] rest = {3, 2}")

    case("position", "Range over the rows, added", MIXED, "float[n] x", "float[n] y",
         "n = Size(x)  r = Range(zero, n, one)  f = Cast<to = 1>(r)  y = Add(x, f)", "int64 zero = {0}; int64 one = {1}")
    case("position", "Range within the row, added", APART, x, y,
         "s = Shape(x)  k = Gather(s, one)  r = Range(zero, k, one)  f = Cast<to = 1>(r)  y = Add(x, f)", "int64 zero = {0}; int64 one = {1}")
    case("position", "position embedding by length", APART, "float[n,3,4] x", "float[n,3,4] y",
         "l = Shape<start = 1, end = 2>(x)  p = Slice(table, front, l)  y = Add(x, p)", "int64[1] front = {0}; float[8,4] table")
    case("position", "position embedding by row", MIXED, x, y,
         "l = Shape<start = 0, end = 1>(x)  p = Slice(table, front, l)  y = Add(x, p)", "int64[1] front = {0}; float[8,4] table")
    case("position", "Gather by a Range over the rows, backwards", MIXED, "float[n] x", "float[n] y",
         "n = Size(x)  l = Sub(n, one)  r = Range(l, minus, minus)  y = Gather(x, r)", "int64 one = {1}; int64 minus = {-1}")

    # x[arange(n), chosen], as exporters stack the indices
    own = "s = Shape(x)  k = Gather(s, i0)  r = Range(i0, k, i1)  ru = Unsqueeze(r, last)  "
    best = "best = ArgMax<axis = 1, keepdims = 0>(ids)  bu = Unsqueeze(best, last)  "
    picked = "p = Concat<axis = 1>(ru, bu)  y = GatherND(x, p)"
    pool = "float[n,4,3] x, int64[n,4] ids"
    index = "int64 i0 = {0}; int64 i1 = {1}; int64 i2 = {2}; int64 minus = {-1}; int64[1] last = {1}"
    ids = {"ids": (0, 50)}
    case("own number", "pooling at the largest token", APART, pool, "float[n,3] y", f"{own}{best}{picked}", index, ranges=ids)
    case("own number", "pooling at several places of a row", APART, "float[n,4,3] x, int64[n,2] at", "float[n,2,3] y",
         f"{own}k1 = Unsqueeze(k, front)  both = Concat<axis = 0>(k1, two)  re = Expand(ru, both)  rw = Unsqueeze(re, two)  aw = Unsqueeze(at, two)  "
         "p = Concat<axis = -1>(rw, aw)  q = Cast<to = 7>(p)  y = GatherND(x, q)", f"{index}; int64[1] front = {{0}}; int64[1] two = {{2}}")
    case("own number", "entries put into the row they belong to", APART, "float[n,4] x, int64[n,1] at, float[n] u", "float[n,4] y",
         f"{own}p = Concat<axis = 1>(ru, at)  y = ScatterND(x, p, u)", index)
    for name, verdict, order in (("in the same order", APART, "0, 1"), ("in another order", MIXED, "1, 0")):
        case("own number", f"several entries put into each row, {name}", verdict, "float[n,4] x, int64[n,2] at, float[n,2] u", "float[n,4] y",
             f"{own}k1 = Unsqueeze(k, front)  both = Concat<axis = 0>(k1, two)  re = Expand(ru, both)  rl = Reshape(re, line)  al = Reshape(at, line)  "
             f'p = Concat<axis = 1>(rl, al)  ut = Transpose<perm = [{order}]>(u)  ul = Reshape(ut, flat)  y = ScatterND<reduction = "add">(x, p, ul)',
             f"{index}; int64[1] front = {{0}}; int64[1] two = {{2}}; int64[2] line = {{-1, 1}}; int64[1] flat = {{-1}}")
    case("own number", "the stacked indices themselves", MIXED, pool, "int64[n,2] y", f"{own}{best}y = Concat<axis = 1>(ru, bu)", index, ranges=ids)
    case("own number", "the row's number as an index of another axis", MIXED, "float[n,9,9] x, int64[n] at", "float[n,9] y",
         f"{own}au = Unsqueeze(at, last)  p = Concat<axis = 1>(au, ru)  y = GatherND<batch_dims = 0>(x, p)", index, ranges={"at": (0, 1)})
    case("own number", "the row's number beside the row", MIXED, "float[n,9,9] x, int64[n,1] at", "float[n] y",
         f"{own}p = Concat<axis = 1>(ru, ru, at)  y = GatherND(x, p)", index)
    for name, numbers in (
        ("backwards", "l = Sub(k, i1)  q = Range(l, minus, minus)"),
        ("from -1", "f = Sub(k, i1)  q = Range(minus, f, i1)"),
        ("from 1, wrapped to the first", "f = Add(k, i1)  o = Range(i1, f, i1)  q = Mod(o, k)"),
        ("twice as far apart", "f = Mul(k, i2)  o = Range(i0, f, i2)  q = Mod(o, k)"),
        ("less 1", "o = Range(i0, k, i1)  q = Sub(o, i1)"),
        ("negated", "o = Range(i0, k, i1)  q = Neg(o)"),
        ("of one case or another", "o = Range(i0, k, i1)  c = Greater(i2, i1)  "
         "q = If(c) <then_branch = t () => (int64[m] a) { a = Sub(o, i1) }, else_branch = e () => (int64[m] b) { b = Identity(o) }>"),
        ("of a loop that moves them", "o = Range(i0, k, i1)  go = Greater(i2, i1)  "
         "q = Loop(i1, go, o) <body = b (int64 i, bool c, int64[m] v) => (bool d, int64[m] w) { d = Identity(c)  w = Sub(v, i1) }>"),
    ):
        case("own number", f"numbers {name}", MIXED, pool, "float[n,3] y",
             f"s = Shape(x)  k = Gather(s, i0)  {numbers}  ru = Unsqueeze(q, last)  {best}{picked}", index, ranges=ids)
    for name, stop in (("to n - 1", "f = Sub(k, i1)"), ("over another axis", "f = Gather(s, i1)")):
        case("own number", f"numbers {name}", MIXED, pool, "float[m,3] y",
             f"s = Shape(x)  k = Gather(s, i0)  {stop}  r = Range(i0, f, i1)  ru = Unsqueeze(r, last)  zero = Sub(ru, ru)  p = Concat<axis = 1>(ru, zero)  y = GatherND(x, p)", index, ranges=ids)
    case("own number", "tuples that a loop makes after its first round", MIXED, f"{pool}, int64[n,2] first", "float[r,n,3] y",
         f"{own}{best}go = Greater(i2, i1)  "
         "q, y = Loop(i2, go, first) <body = b (int64 i, bool c, int64[m,2] v) => (bool d, int64[m,2] w, float[m,3] g) "
         "{ d = Identity(c)  w = Concat<axis = 1>(ru, bu)  g = GatherND(x, v) }>", index, ranges=ids | {"first": (0, 1)})
    case("own number", "tuples of every round of a loop", APART, pool, "float[r,n,3] y",
         f"{own}{best}go = Greater(i2, i1)  "
         "q = Loop(i2, go) <body = b (int64 i, bool c) => (bool d, int64[m,2] w) { d = Identity(c)  w = Concat<axis = 1>(ru, bu) }>  y = GatherND(x, q)", index, ranges=ids)
    case("own number", "tuples that a loop moves", MIXED, pool, "float[r,n,3] y",
         f"{own}{best}p = Concat<axis = 1>(ru, bu)  go = Greater(i2, i1)  "
         "q, y = Loop(i2, go, p) <body = b (int64 i, bool c, int64[m,2] v) => (bool d, int64[m,2] w, float[m,3] g) "
         "{ d = Identity(c)  w = Sub(v, step)  g = GatherND(x, v) }>", f"{index}; int64[2] step = {{1, 0}}", ranges=ids)

    case("position", "CumSum of ones makes positions", MIXED, "float[n,1] x", "float[n,1] y",
         "s = Shape(x)  o = ConstantOfShape<value = float[1] {1.0}>(s)  p = CumSum(o, zero)  y = Add(x, p)", "int64 zero = {0}")
    case("position", "EyeLike of rows", MIXED, "float[n,4] x", "float[n,4] y", "y = EyeLike(x)")
    case("position", "EyeLike within the row", APART, "float[n,4] x", "float[n,4] y", "e = EyeLike(w)  y = MatMul(x, e)", "float[4,4] w")
    case("position", "Trilu within the row", APART, "float[n,3,3] x", "float[n,3,3] y", "y = Trilu<upper = 0>(x)")
    case("position", "Trilu with rows as lines", MIXED, x, y, "y = Trilu<upper = 0>(x)")
    case("position", "a causal mask within the row", APART, "float[n,3,3] x", "float[n,3,3] y",
         "s = Shape<start = 1>(x)  o = ConstantOfShape<value = float[1] {1.0}>(s)  t = Trilu<upper = 0>(o)  y = Mul(x, t)")

    case("order", "CumSum within the row", APART, x, y, "y = CumSum(x, a)", "int64 a = {1}")
    case("order", "CumSum over the rows", MIXED, x, y, "y = CumSum(x, a)", "int64 a = {0}")
    case("order", "CumSum over the rows by a negative axis", MIXED, x, y, "y = CumSum(x, a)", "int64 a = {-2}")
    case("order", "TopK within the row", APART, x, "float[n,2] y, int64[n,2] i", "y, i = TopK(x, k)", "int64[1] k = {2}")
    case("order", "TopK over the rows", MIXED, x, "float[1,4] y, int64[1,4] i", "y, i = TopK<axis = 0>(x, k)", "int64[1] k = {1}")
    case("order", "sorting all rows", MIXED, x, "float[n,4] y", "k = Shape<start = 0, end = 1>(x)  y, i = TopK<axis = 0>(x, k)")
    case("order", "sorting within the row", APART, x, "float[n,4] y", "k = Shape<start = 1>(x)  y, i = TopK<axis = 1>(x, k)")
    case("order", "ArgMax within the row", APART, x, "int64[n,1] y", "y = ArgMax<axis = 1>(x)")
    case("order", "ArgMax over the rows", MIXED, x, "int64[1,4] y", "y = ArgMax<axis = 0>(x)")
    case("order", "ArgMin, default axis", MIXED, x, "int64[1,4] y", "y = ArgMin(x)")
    case("order", "ArgMin within the row", APART, "float[4,n] x", "int64[n] y", "y = ArgMin<axis = 0, keepdims = 0>(x)")
    case("order", "ReverseSequence with the batch on axis 0", APART, "float[n,4] x, int64[n] l", y,
         "y = ReverseSequence<batch_axis = 0, time_axis = 1>(x, l)", ranges={"l": (1, 5)})
    case("order", "NonZero of rows", MIXED, x, "int64[2,m] y", "y = NonZero(x)")
    case("order", "NonZero of a weight", APART, x, "float[n,3] y",
         "i = NonZero(w)  j = Squeeze(i, front)  y = Gather<axis = 1>(x, j)", "float[4] w = {1.0, 0.0, 1.0, 2.0}; int64[1] front = {0}")
    case("order", "Unique of rows", MIXED, "int64[n] x", "int64[m] y", "y = Unique(x)", ranges={"x": (0, 3)})
    case("order", "Compress of rows by their content", MIXED, x, "float[m,4] y",
         "f = Slice(x, zero, one, one)  q = Squeeze(f, one)  b = Greater(q, w)  y = Compress<axis = 0>(x, b)", "int64[1] zero = {0}; int64[1] one = {1}; float w = {0.0}")
    case("order", "Compress of rows by position", MIXED, x, "float[2,4] y", "y = Compress<axis = 0>(x, b)", "bool[5] b = {1, 0, 1, 0, 0}")
    case("order", "Compress within the row", APART, x, "float[n,2] y", "y = Compress<axis = 1>(x, b)", "bool[4] b = {1, 0, 1, 0}")
    case("order", "NonMaxSuppression", MIXED, "float[n,5,4] x, float[n,2,5] s", "int64[m,3] y", "y = NonMaxSuppression(x, s, k)", "int64 k = {2}")

    case("gather", "an embedding", APART, "int64[n,3] x", "float[n,3,2] y", "y = Gather(w, x)", "float[4,2] w")
    case("gather", "columns by constant", APART, x, "float[n,2] y", "y = Gather<axis = 1>(x, i)", "int64[2] i = {3, 0}")
    case("gather", "the first row", MIXED, x, "float[4] y", "y = Gather(x, i)", "int64 i = {0}")
    case("gather", "the first row added to all", MIXED, x, y, "f = Gather(x, i)  y = Add(x, f)", "int64 i = {0}", node="f")
    case("gather", "rows by constant", MIXED, x, "float[3,4] y", "y = Gather(x, i)", "int64[3] i = {0, 0, 0}")
    case("gather", "rows by content", MIXED, "float[n,4] x, int64[n] i", y, "y = Gather(x, i)", ranges={"i": (0, 1)})
    case("gather", "columns by content of rows", MIXED, "float[n,4] x, int64[n] i", "float[n,n] y", "y = Gather<axis = 1>(x, i)")
    case("gather", "the class token", APART, "float[n,3,4] x", y, "y = Gather<axis = 1>(x, i)", "int64 i = {0}")
    case("gather", "GatherElements along the row", APART, "float[n,4] x, int64[n,2] i", "float[n,2] y", "y = GatherElements<axis = 1>(x, i)")
    case("gather", "GatherElements along the rows", MIXED, "float[n,4] x, int64[n,4] i", y, "y = GatherElements<axis = 0>(x, i)", ranges={"i": (0, 1)})
    case("gather", "GatherElements from a weight", MIXED, "int64[n,2] i", "float[n,2] y", "y = GatherElements<axis = 1>(w, i)", "float[8,4] w")
    case("gather", "GatherND with the batch left alone", APART, "float[n,4] x, int64[n,1] i", "float[n] y", "y = GatherND<batch_dims = 1>(x, i)")
    case("gather", "GatherND that picks rows", MIXED, "float[n,4] x", "float[2] y", "y = GatherND(x, i)", "int64[2,2] i = {0, 0, 0, 1}")
    case("gather", "GatherND from a weight", APART, "int64[n,1] i", "float[n,4] y", "y = GatherND(w, i)", "float[4,4] w")
    case("gather", "ScatterElements within the row", APART, "float[n,4] x, int64[n,2] i, float[n,2] u", y, "y = ScatterElements<axis = 1, reduction = \"add\">(x, i, u)", opset=18)
    case("gather", "ScatterElements across the rows", MIXED, "float[n,4] x, int64[n,4] i", y, "y = ScatterElements<axis = 0, reduction = \"add\">(x, i, x)", opset=18, ranges={"i": (0, 1)})
    case("gather", "ScatterND onto the first row", MIXED, x, y, "y = ScatterND(x, i, u)", "int64[1,1] i = {0}; float[1,4] u")
    case("gather", "ScatterND by rows into a table", MIXED, "int64[n,1] i, float[n,4] u", "float[4,4] y", "y = ScatterND<reduction = \"add\">(w, i, u)", "float[4,4] w", opset=16)
    case("gather", "ScatterND of rows onto themselves", MIXED, "float[n,4] x, int64[n,1] i", y, "y = ScatterND(x, i, x)", ranges={"i": (0, 1)})
    case("gather", "OneHot", APART, "int64[n] x", y, "y = OneHot(x, d, v)", "int64[1] d = {4}; float[2] v = {0.0, 1.0}")
    case("gather", "OneHot to the front", APART, "int64[n] x", "float[4,n] y", "y = OneHot<axis = 0>(x, d, v)", "int64[1] d = {4}; float[2] v = {0.0, 1.0}")
    case("gather", "OneHot whose depth is the number of rows", MIXED, "int64[n] x", "float[n,m] y", "d = Shape(x)  y = OneHot(x, d, v)", "float[2] v = {0.0, 1.0}")

    one = "int64[1] zero = {0}; int64[1] one = {1}; int64[1] two = {2}; int64[1] minus = {-1}; int64[1] far = {9223372036854775807}; int64[1] least = {-9223372036854775807}"
    case("slice", "columns", APART, x, "float[n,1] y", "y = Slice(x, zero, one, one)", one)
    case("slice", "all rows", APART, x, y, "y = Slice(x, zero, far, zero)", one)
    case("slice", "the first row", MIXED, x, "float[1,4] y", "y = Slice(x, zero, one, zero)", one)
    case("slice", "all but the first row", MIXED, x, "float[m,4] y", "y = Slice(x, one, far, zero)", one)
    case("slice", "all but the last row", MIXED, x, "float[m,4] y", "y = Slice(x, zero, minus, zero)", one)
    case("slice", "rows backwards", MIXED, x, y, "y = Slice(x, minus, least, zero, minus)", one)
    case("slice", "columns backwards", APART, x, y, "y = Slice(x, minus, least, one, minus)", one)
    case("slice", "every other row", MIXED, x, "float[m,4] y", "y = Slice(x, zero, far, zero, two)", one)
    case("slice", "up to the number of rows", APART, x, y, "n = Shape<start = 0, end = 1>(x)  y = Slice(x, zero, n, zero)", one)
    case("slice", "the difference of neighbouring rows", MIXED, x, "float[m,4] y",
         "a = Slice(x, one, far, zero)  b = Slice(x, zero, minus, zero)  y = Sub(a, b)", one)
    case("slice", "Slice of opset 9", APART, x, "float[n,2] y", "y = Slice<axes = [1], starts = [1], ends = [3]>(x)", opset=9)
    case("slice", "Split of columns", APART, x, "float[n,2] y, float[n,2] z", "y, z = Split<axis = 1>(x)")
    case("slice", "Split of columns, sizes as input", APART, x, "float[n,1] y, float[n,3] z", "y, z = Split<axis = 1>(x, s)", "int64[2] s = {1, 3}")
    case("slice", "Split of the rows", MIXED, x, "float[1,4] y, float[4,4] z", "y, z = Split<axis = 0>(x, s)", "int64[2] s = {1, 4}")
    case("slice", "Split of opset 11", APART, x, "float[n,1] y, float[n,3] z", "y, z = Split<axis = 1, split = [1, 3]>(x)", opset=11)
    case("slice", "Split by number of opset 18", APART, x, "float[n,2] y, float[n,2] z", "y, z = Split<axis = 1, num_outputs = 2>(x)", opset=18)
    case("slice", "Split and joined again", APART, x, y, "a, b = Split<axis = 1>(x)  n = Neg(a)  y = Concat<axis = 1>(b, n)")
    case("slice", "Concat of columns", APART, "float[n,4] x, float[n,1] z", "float[n,5] y", "y = Concat<axis = -1>(x, z)")
    case("slice", "Concat of the rows with a weight", MIXED, x, "float[m,4] y", "y = Concat<axis = 0>(x, w)", "float[1,4] w")
    case("slice", "Concat of the rows with the rows", MIXED, x, "float[2*n,4] y", "y = Concat<axis = 0>(x, x)")
    case("slice", "Concat of rows and rows, taken apart again", APART, x, "float[2,n,4] y",
         "c = Concat<axis = 0>(x, x)  y = Reshape(c, s)", "int64[3] s = {2, -1, 4}")
    case("slice", "Concat with a weight of a fixed number of rows", MIXED, x, "float[n,5] y", "y = Concat<axis = 1>(x, w)", "float[5,1] w")
    case("slice", "a class token for every row", APART, "float[n,3,4] x", "float[n,4,4] y",
         "s = Shape<start = 0, end = 1>(x)  t = Concat<axis = 0>(s, o)  e = Expand(w, t)  y = Concat<axis = 1>(e, x)",
         "int64[2] o = {1, 4}; float[1,1,4] w")
    case("slice", "Pad of columns", APART, x, "float[n,7] y", "y = Pad(x, p)", "int64[4] p = {0, 1, 0, 2}")
    case("slice", "Pad of rows", MIXED, x, "float[m,4] y", "y = Pad(x, p)", "int64[4] p = {1, 0, 0, 0}")
    case("slice", "Pad of chosen axes", APART, x, "float[n,6] y", "y = Pad(x, p, , a)", "int64[2] p = {1, 1}; int64[1] a = {1}", opset=18)
    case("slice", "Pad that reflects the columns", APART, x, "float[n,6] y", 'y = Pad<mode = "reflect">(x, p)', "int64[4] p = {0, 1, 0, 1}")
    case("slice", "Tile of columns", APART, x, "float[n,8] y", "y = Tile(x, r)", "int64[2] r = {1, 2}")
    case("slice", "Tile of rows", MIXED, x, "float[2*n,4] y", "y = Tile(x, r)", "int64[2] r = {2, 1}")
    case("slice", "Tile of a weight by the number of rows", APART, x, y,
         "s = Shape<start = 0, end = 1>(x)  r = Concat<axis = 0>(s, one)  t = Tile(w, r)  y = Add(x, t)", "int64[1] one = {1}; float[1,4] w")

    case("recurrent", "LSTM with the batch on axis 1", APART, "float[3,n,2] x", "float[3,1,n,4] y, float[1,n,4] h, float[1,n,4] c",
         "y, h, c = LSTM<hidden_size = 4>(x, w, r, b)", "float[1,16,2] w; float[1,16,4] r; float[1,32] b")
    case("recurrent", "LSTM whose time is the rows", MIXED, "float[n,3,2] x", "float[n,1,3,4] y",
         "y = LSTM<hidden_size = 4>(x, w, r)", "float[1,16,2] w; float[1,16,4] r", node="y")
    case("recurrent", "LSTM whose last state is over the rows", MIXED, "float[n,3,2] x", "float[1,3,4] h",
         "y, h = LSTM<hidden_size = 4>(x, w, r)", "float[1,16,2] w; float[1,16,4] r")
    case("recurrent", "LSTM after a Transpose", APART, "float[n,3,2] x", "float[n,4] y",
         "t = Transpose<perm = [1, 0, 2]>(x)  a, h = LSTM<hidden_size = 4>(t, w, r)  y = Squeeze(h, front)",
         "float[1,16,2] w; float[1,16,4] r; int64[1] front = {0}")
    case("recurrent", "LSTM with lengths per row", APART, "float[3,n,2] x, int32[n] l", "float[3,1,n,4] y",
         "y = LSTM<hidden_size = 4>(x, w, r, , l)", "float[1,16,2] w; float[1,16,4] r", ranges={"l": (1, 4)})
    case("recurrent", "LSTM with an initial state per row", APART, "float[3,n,2] x, float[1,n,4] h", "float[3,1,n,4] y",
         "y = LSTM<hidden_size = 4>(x, w, r, , , h, h)", "float[1,16,2] w; float[1,16,4] r")
    case("recurrent", "LSTM with initial states by position", MIXED, "float[3,n,2] x", "float[3,1,n,4] y",
         "y = LSTM<hidden_size = 4>(x, w, r, , , h, h)", "float[1,16,2] w; float[1,16,4] r; float[1,5,4] h")
    case("recurrent", "a bidirectional GRU", APART, "float[3,n,2] x", "float[3,2,n,4] y",
         'y = GRU<hidden_size = 4, direction = "bidirectional">(x, w, r)', "float[2,12,2] w; float[2,12,4] r")
    case("recurrent", "GRU whose time is the rows", MIXED, "float[n,1,2] x", "float[n,1,1,4] y", "y = GRU<hidden_size = 4>(x, w, r)", "float[1,12,2] w; float[1,12,4] r")
    case("recurrent", "RNN with layout 1", APART, "float[n,3,2] x", "float[n,3,1,4] y, float[n,1,4] h", "y, h = RNN<hidden_size = 4, layout = 1>(x, w, r)", "float[1,4,2] w; float[1,4,4] r")
    case("recurrent", "RNN with layout 1 whose time is the rows", MIXED, "float[3,n,2] x", "float[3,n,1,4] y", "y = RNN<hidden_size = 4, layout = 1>(x, w, r)", "float[1,4,2] w; float[1,4,4] r")
    case("recurrent", "RNN with layout 0", APART, "float[3,n,2] x", "float[1,n,4] h", "y, h = RNN<hidden_size = 4>(x, w, r)", "float[1,4,2] w; float[1,4,4] r")

    quant = "float sc = {0.1}; uint8 zp = {128}"
    case("quantised", "QuantizeLinear and back", APART, x, y, "q = QuantizeLinear(x, sc, zp)  y = DequantizeLinear(q, sc, zp)", quant)
    case("quantised", "a scale per column", APART, x, y, "q = QuantizeLinear<axis = 1>(x, sc, zp)  y = DequantizeLinear<axis = 1>(q, sc, zp)",
         "float[4] sc = {0.1, 0.2, 0.3, 0.4}; uint8[4] zp")
    case("quantised", "a scale per row", MIXED, x, y, "q = QuantizeLinear<axis = 0>(x, sc, zp)  y = DequantizeLinear<axis = 0>(q, sc, zp)",
         "float[5] sc = {0.1, 0.2, 0.3, 0.4, 0.5}; uint8[5] zp")
    case("quantised", "DynamicQuantizeLinear", MIXED, x, "uint8[n,4] y, float s, uint8 z", "y, s, z = DynamicQuantizeLinear(x)", node="y")
    case("quantised", "DynamicQuantizeLinear of a weight", APART, x, "float[n,4] y",
         "q, s, z = DynamicQuantizeLinear(w)  d = DequantizeLinear(q, s, z)  y = Add(x, d)", "float[4] w")
    case("quantised", "MatMulInteger", APART, "uint8[n,4] x", "int32[n,3] y", "y = MatMulInteger(x, w, z)", "uint8[4,3] w; uint8 z = {2}", ranges={"x": (0, 256)})
    case("quantised", "QLinearMatMul", APART, "uint8[n,4] x", "uint8[n,3] y", "y = QLinearMatMul(x, sc, zp, w, sc, zp, sc, zp)", f"uint8[4,3] w; {quant}", ranges={"x": (0, 256)})
    case("quantised", "QLinearMatMul across the rows", MIXED, "uint8[n,4] x", "uint8[n,n] y",
         "t = Transpose(x)  y = QLinearMatMul(x, sc, zp, t, sc, zp, sc, zp)", quant, ranges={"x": (0, 256)})
    case("quantised", "QLinearConv", APART, "uint8[n,3,4] x", "uint8[n,2,2] y", "y = QLinearConv(x, sc, zp, w, sc, zp, sc, zp)", f"uint8[2,3,3] w; {quant}", ranges={"x": (0, 256)})
    case("quantised", "ConvInteger", APART, "uint8[n,3,4] x", "int32[n,2,2] y", "y = ConvInteger(x, w, zp)", f"uint8[2,3,3] w; {quant}", ranges={"x": (0, 256)})

    case("random", "RandomUniformLike", MIXED, x, y, "y = RandomUniformLike<seed = 1.0>(x)")
    case("random", "RandomNormal added", MIXED, x, y, "r = RandomNormal<shape = [1, 4]>()  y = Add(x, r)", node="r")
    case("random", "Bernoulli", MIXED, x, y, "a = Sigmoid(x)  y = Bernoulli(a)")
    case("random", "Multinomial", MIXED, x, "int32[n,9] y", "y = Multinomial<sample_size = 9>(x)")
    case("random", "Dropout", APART, x, y, "y = Dropout(x)")
    case("random", "Dropout with a mask", APART, x, f"{y}, bool[n,4] m", "y, m = Dropout(x)")
    case("random", "Dropout, training false", APART, x, y, "y = Dropout(x, r, t)", "float r = {0.5}; bool t = {0}")
    case("random", "Dropout in training", MIXED, x, y, "y = Dropout(x, r, t)", "float r = {0.5}; bool t = {1}")
    case("random", "a random tensor whose shape is all that counts", APART, x, "float[n,2,2] y",
         "r = RandomNormal<shape = [3, 2, 2]>()  s = Shape<start = 1>(r)  u = Shape<start = 0, end = 1>(x)  c = Concat<axis = 0>(u, s)  y = Reshape(x, c)")

    sub = "y = If (b) <then_branch = t () => (float[n,4] p) { p = Relu(x) }, else_branch = e () => (float[n,4] q) { q = Neg(x) }>"
    case("control", "If on a constant", APART, x, y, sub, "bool b = {1}")
    case("control", "If on an un-batched input", APART, "float[n,4] x, bool b", y, sub)
    case("control", "If on a value of all rows", MIXED, x, y, f"m = ReduceMax<keepdims = 0>(x)  b = Greater(m, w)  {sub}", "float w = {5.0}", node="m")
    case("control", "If on the number of rows", MIXED, x, y, f"s = Size(x)  b = Greater(s, w)  {sub}", "int64 w = {8}")
    case("control", "If with a branch that mixes rows", MIXED, "float[n,4] x, bool b", y,
         "y = If (b) <then_branch = t () => (float[n,4] p) { p = Relu(x) }, else_branch = e () => (float[n,4] q) { q = Softmax<axis = 0>(x) }>")
    loop = "y = Loop (trips, , x) <body = l (int64 i, bool go, float[n,4] v) => (bool on, float[n,4] w) { on = Identity(go)  %s }>"
    case("control", "Loop a constant number of times", APART, x, y, loop % "w = Tanh(v)", "int64 trips = {3}")
    case("control", "Loop that mixes rows", MIXED, x, y, loop % "w = Softmax<axis = 0>(v)", "int64 trips = {3}")
    case("control", "Loop as often as there are rows", MIXED, x, y, "k = Size(x)  " + (loop % "w = Tanh(v)").replace("trips", "k"))
    case("control", "Loop that adds the iteration", APART, x, y, loop % "f = Cast<to = 1>(i)  w = Add(v, f)", "int64 trips = {3}")
    case("control", "Loop whose state swaps places", APART, "float[n,2,4] x", "float[n,2,4] y",
         "y = Loop (trips, , x) <body = l (int64 i, bool go, float[n,2,4] v) => (bool on, float[n,2,4] w) { on = Identity(go)  w = Slice(v, a, b, c, a) }>",
         "int64 trips = {3}; int64[1] a = {-1}; int64[1] b = {-9223372036854775807}; int64[1] c = {1}")
    case("control", "Loop that collects rows of each step", APART, x, "float[3,n,4] z",
         "y, z = Loop (trips, , x) <body = l (int64 i, bool go, float[n,4] v) => (bool on, float[n,4] w, float[n,4] u) { on = Identity(go)  w = Tanh(v)  u = Neg(w) }>",
         "int64 trips = {3}")
    case("control", "Loop that ends by content", MIXED, x, y,
         "y = Loop (trips, go0, x) <body = l (int64 i, bool go, float[n,4] v) => (bool on, float[n,4] w) { w = Mul(v, half)  m = ReduceMax<keepdims = 0>(w)  on = Greater(m, limit) }>",
         "int64 trips = {9}; bool go0 = {1}; float half = {0.5}; float limit = {0.3}")
    case("control", "Loop over the rows, one after the other", MIXED, x, "float[n,4] z",
         "k = Shape<start = 0, end = 1>(x)  kk = Squeeze(k)  y, z = Loop (kk, , w) <body = l (int64 i, bool go, float[4] v) => (bool on, float[4] s, float[4] u) { on = Identity(go)  r = Gather(x, i)  s = Add(v, r)  u = Identity(s) }>",
         "float[4] w")
    scan = "s, y = Scan <num_scan_inputs = 1%s, body = b (float[%s] a, float[%s] v) => (float[%s] c, float[%s] o) { c = Add(a, v)  o = Identity(c) }> (%s, x)"
    case("control", "Scan over time, rows on axis 1", APART, "float[3,n,4] x, float[n,4] i", "float[n,4] s, float[3,n,4] y", scan % ("", "n,4", "n,4", "n,4", "n,4", "i"))
    case("control", "Scan over the rows", MIXED, "float[n,4] x", "float[4] s, float[n,4] y", scan % ("", "4", "4", "4", "4", "w"), "float[4] w")
    case("control", "Scan over axis 1", APART, "float[n,3,4] x, float[n,4] i", "float[n,4] s, float[n,3,4] y",
         scan % (", scan_input_axes = [1], scan_output_axes = [1]", "n,4", "n,4", "n,4", "n,4", "i"))

    local = ', "local": 1'
    case("functions", "a local function that keeps rows apart", APART, x, y, "y = local.f(x, w)", "float[4,4] w", imports=local,
         functions='<domain: "local", opset_import: ["": 17]> f (a, b) => (c) { m = MatMul(a, b)  c = Relu(m) }')
    case("functions", "a local function that mixes them", MIXED, x, y, "y = local.f(x)", imports=local,
         functions='<domain: "local", opset_import: ["": 17]> f (a) => (c) { m = ReduceMean<axes = [0]>(a)  c = Sub(a, m) }')
    case("functions", "an axis handed to a local function", APART, x, y, "y = local.f<k = 1>(x)", imports=local,
         functions='<domain: "local", opset_import: ["": 17]> f <k> (a) => (c) { c = Softmax<axis : int = @k>(a) }')
    case("functions", "the axis of the rows handed to a local function", MIXED, x, y, "y = local.f<k = 0>(x)", imports=local,
         functions='<domain: "local", opset_import: ["": 17]> f <k> (a) => (c) { c = Softmax<axis : int = @k>(a) }')
    case("functions", "functions that call functions", APART, x, y, "y = local.f(x)", imports=local,
         functions='<domain: "local", opset_import: ["": 17, "local": 1]> f (a) => (c) { b = local.g(a)  c = local.g(b) }\n'
                   '<domain: "local", opset_import: ["": 17]> g (a) => (c) { c = Tanh(a) }')

    case("slice", "Split of pairs of rows", MIXED, "float[2*n,4] x", "float[n,4] y, float[n,4] z", "y, z = Split<axis = 0>(x)")
    case("slice", "Concat with the rows' positions", MIXED, "float[n,1] x", "float[n,2] y",
         "k = Shape<start = 0, end = 1>(x)  z = Squeeze(k)  r = Range(from, z, step)  f = Cast<to = 1>(r)  u = Unsqueeze(f, one)  y = Concat<axis = 1>(x, u)",
         "int64 from = {0}; int64 step = {1}; int64[1] one = {1}")
    case("slice", "Concat of layouts that differ", MIXED, "float[n,2] x, float[2*n,2] z", "float[3*n,2] y", "y = Concat<axis = 0>(x, z)")
    case("slice", "Pad of columns by the number of rows", MIXED, "float[n,4] x", "float[n,m] y",
         "k = Shape<start = 0, end = 1>(x)  p = Concat<axis = 0>(three, k)  y = Pad(x, p)", "int64[3] three = {0, 0, 0}")
    case("slice", "Slice of columns up to the number of rows", MIXED, "float[n,9] x", "float[n,m] y",
         "k = Shape<start = 0, end = 1>(x)  y = Slice(x, zero, k, one)", "int64[1] zero = {0}; int64[1] one = {1}")
    case("slice", "every other entry of rows of two", APART, "float[n,2] x", "float[n] y",
         "f = Reshape(x, all)  r = Reshape(f, pairs)  g = Gather<axis = 1>(r, i)  y = Identity(g)", "int64[1] all = {-1}; int64[2] pairs = {-1, 2}; int64 i = {1}")
    case("slice", "Gather of columns by positions of rows", MIXED, "float[n,9] x", "float[n,m] y",
         "k = Shape<start = 0, end = 1>(x)  z = Squeeze(k)  r = Range(from, z, step)  y = Gather<axis = 1>(x, r)", "int64 from = {0}; int64 step = {1}")
    case("space", "CenterCropPad of the rows", MIXED, "float[n,6] x", "float[4,6] y", "y = CenterCropPad<axes = [0]>(x, s)", "int64[1] s = {4}", opset=18)
    case("space", "CenterCropPad of columns to the number of rows", MIXED, "float[n,6] x", "float[n,m] y",
         "k = Shape<start = 0, end = 1>(x)  y = CenterCropPad<axes = [1]>(x, k)", opset=18)
    case("space", "Resize of the space to the number of rows", MIXED, "float[n,3,6,6] x", "float[n,3,m,6] y",
         'a = Shape<start = 0, end = 2>(x)  k = Shape<start = 0, end = 1>(x)  c = Concat<axis = 0>(a, k, six)  y = Resize<mode = "nearest">(x, , , c)', "int64[1] six = {6}")
    case("space", "DepthToSpace with rows as channels", MIXED, "float[1,4*n,2,2] x", "float[1,n,4,4] y", "y = DepthToSpace<blocksize = 2>(x)")
    case("space", "SpaceToDepth with rows as channels", MIXED, "float[1,n,2,2] x", "float[1,4*n,1,1] y", "y = SpaceToDepth<blocksize = 2>(x)")
    case("space", "MaxUnpool of places counted over all images", MIXED, "float[n,1,2,2] x", "float[n,1,4,4] y",
         "p, i = MaxPool<kernel_shape = [1, 1]>(x)  y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i)")
    case("space", "AffineGrid as large as the number of rows", MIXED, "float[n,2,3] t", "float[n,m,4,2] y",
         "k = Shape<start = 0, end = 1>(t)  c = Concat<axis = 0>(k, one, k, four)  y = AffineGrid(t, c)", "int64[1] one = {1}; int64[1] four = {4}", opset=20)
    case("space", "DFT within the row", APART, "float[n,4,1] x", "float[n,4,2] y", "y = DFT<axis = 1>(x)")
    case("space", "DFT over the rows", MIXED, "float[n,4,1] x", "float[n,4,2] y", "y = DFT<axis = 0>(x)")
    case("space", "STFT", APART, "float[n,8,1] x", "float[n,3,3,2] y", "y = STFT(x, s, , l)", "int64 s = {2}; int64 l = {4}")
    case("order", "the first as many columns as there are rows", MIXED, "float[n,9] x", "float[n,m] y, int64[n,m] i",
         "k = Shape<start = 0, end = 1>(x)  y, i = TopK<axis = 1>(x, k)")
    case("order", "Compress of the entries of all rows", MIXED, "float[n,4] x", "float[2] y", "y = Compress(x, b)", "bool[4] b = {1, 0, 1, 0}")
    case("order", "SoftmaxCrossEntropyLoss over all rows", MIXED, "float[n,4] x, int64[n] l", "float y", "y = SoftmaxCrossEntropyLoss(x, l)")
    case("order", "SoftmaxCrossEntropyLoss of each row", APART, "float[n,4] x, int64[n] l", "float[n] y", 'y = SoftmaxCrossEntropyLoss<reduction = "none">(x, l)')
    case("order", "SoftmaxCrossEntropyLoss with rows as classes", MIXED, "float[2,n] x", "float[2] y", 'y = SoftmaxCrossEntropyLoss<reduction = "none">(x, l)', "int64[2] l = {0, 0}")
    case("order", "NegativeLogLikelihoodLoss of each row", APART, "float[n,4] x, int64[n] l", "float[n] y", 'y = NegativeLogLikelihoodLoss<reduction = "none">(x, l)')
    case("order", "TfIdfVectorizer", APART, "int64[n,3] x", "float[n,2] y",
         'y = TfIdfVectorizer<mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, ngram_counts = [0], ngram_indexes = [0, 1], pool_int64s = [1, 2]>(x)')
    case("order", "TfIdfVectorizer over the rows", MIXED, "int64[n] x", "float[2] y",
         'y = TfIdfVectorizer<mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, ngram_counts = [0], ngram_indexes = [0, 1], pool_int64s = [1, 2]>(x)')
    case("gather", "GatherND whose tuples are the rows", MIXED, "int64[n] i", "float y", "y = GatherND(w, i)", "float[2,2] w", ranges={"i": (0, 2)})
    case("gather", "GatherND that picks from every row what the rows name", MIXED, "float[4,n] x, int64[n,1] i", "float[n,n] y", "y = GatherND(x, i)")
    case("gather", "GatherND within the row, by constant", APART, "float[4,n] x", "float[2,n] y", "y = GatherND(x, i)", "int64[2,1] i = {3, 0}")
    case("gather", "TensorScatter within the row", APART, "float[n,3,4] x, float[n,1,4] u", "float[n,3,4] y", "y = TensorScatter<axis = 1>(x, u)", opset=24)
    case("gather", "TensorScatter over the rows", MIXED, "float[1,n,4] x, float[1,1,4] u", "float[1,n,4] y", "y = TensorScatter<axis = 1>(x, u)", opset=24)
    case("einsum", "three operands", APART, "float[n,4] x, float[n,3] z", "float[n] y", 'y = Einsum<equation = "ni,ij,nj->n">(x, w, z)', "float[4,3] w")
    case("product", "rows of one in the columns, matched in the other", MIXED, "float[n,4] x, float[4,n] z", "float[n,n] y", "y = MatMul(x, z)")
    case("recurrent", "an LSTM whose weights are rows", MIXED, "float[n,16,4] r", "float[3,1,2,4] y", "y = LSTM<hidden_size = 4>(x, w, r)", "float[3,2,2] x; float[1,16,2] w")
    case("attention", "Attention within the row", APART, "float[n,2,3,4] q, float[n,2,3,4] k, float[n,2,3,4] v", "float[n,2,3,4] y", "y = Attention(q, k, v)", opset=23)
    case("attention", "Attention with rows as the sequence", MIXED, "float[1,2,n,4] q, float[1,2,n,4] k, float[1,2,n,4] v", "float[1,2,n,4] y", "y = Attention(q, k, v)", opset=23)
    case("attention", "Attention of packed heads", APART, "float[n,3,8] q, float[n,5,8] k, float[n,5,8] v", "float[n,3,8] y",
         "y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)", opset=23)
    case("attention", "Attention with a mask by position", MIXED, "float[n,2,3,4] q, float[n,2,3,4] k, float[n,2,3,4] v", "float[n,2,3,4] y",
         "y = Attention(q, k, v, m)", "float[5,1,3,3] m", opset=23)
    case("attention", "RotaryEmbedding by given places", APART, "float[n,2,3,4] x, int64[n,3] p", "float[n,2,3,4] y", "y = RotaryEmbedding(x, c, s, p)", "float[9,2] c; float[9,2] s", opset=23, ranges={"p": (0, 9)})
    case("attention", "RotaryEmbedding with rows as the sequence", MIXED, "float[1,2,n,4] x", "float[1,2,n,4] y",
         "k = Shape<start = 2, end = 3>(x)  z = Squeeze(k)  r = Range(from, z, step)  p = Unsqueeze(r, front)  y = RotaryEmbedding(x, c, s, p)",
         "float[9,2] c; float[9,2] s; int64 from = {0}; int64 step = {1}; int64[1] front = {0}", opset=23)
    ml = ', "ai.onnx.ml": 3'
    case("classical", "Scaler", APART, "float[n,2] x", "float[n,2] y", "y = ai.onnx.ml.Scaler<offset = [1.0, 2.0], scale = [2.0, 3.0]>(x)", imports=ml)
    case("classical", "Normalizer", APART, "float[n,2] x", "float[n,2] y", 'y = ai.onnx.ml.Normalizer<norm = "L2">(x)', imports=ml)
    case("classical", "ArrayFeatureExtractor of columns", APART, "float[n,4] x", "float[n,2] y", "y = ai.onnx.ml.ArrayFeatureExtractor(x, i)", "int64[2] i = {3, 1}", imports=ml)
    case("classical", "ArrayFeatureExtractor of rows", MIXED, "float[4,n] x", "float[4,1] y", "y = ai.onnx.ml.ArrayFeatureExtractor(x, i)", "int64[1] i = {0}", imports=ml)
    case("classical", "LinearRegressor", APART, "float[n,2] x", "float[n,1] y", "y = ai.onnx.ml.LinearRegressor<coefficients = [1.0, 2.0], intercepts = [0.5], targets = 1>(x)", imports=ml)
    case("collection", "a sequence of rows, joined again", APART, "float[n,2] x, float[n,3] z", "float[n,2] y", "s = SequenceConstruct(x, x)  y = SequenceAt(s, i)", "int64 i = {1}")
    case("collection", "a sequence joined along the columns", APART, "float[n,2] x", "float[n,4] y", "s = SequenceConstruct(x, x)  y = ConcatFromSequence<axis = 1>(s)")
    case("collection", "a sequence joined along the rows", MIXED, "float[n,2] x", "float[2*n,2] y", "s = SequenceConstruct(x, x)  y = ConcatFromSequence<axis = 0>(s)")
    case("collection", "the first of a sequence of rows", MIXED, "float[n,2] x", "float[1,2] y", "s = SplitToSequence<axis = 0>(x)  y = SequenceAt(s, i)", "int64 i = {0}")
    case("collection", "the length of a sequence of rows", MIXED, "float[n,2] x", "int64 y", "s = SplitToSequence<axis = 0>(x)  y = SequenceLength(s)")
    case("collection", "the first column of a sequence of columns", APART, "float[n,2] x", "float[n,1] y", "s = SplitToSequence<axis = 1>(x)  y = SequenceAt(s, i)", "int64 i = {0}")

    case("outputs", "one of each", {"y": APART, "m": MIXED, "k": APART}, x, "float[n,4] y, float[4] m, float[4] k",
         "y = Relu(x)  m = ReduceMax<axes = [0], keepdims = 0>(x)  k = Neg(w)", "float[4] w")
    case("outputs", "a mixture computed and not used", APART, x, y, "m = ReduceMean<axes = [0]>(x)  y = Relu(x)")
    case("outputs", "a mixture times zero", MIXED, x, y, "m = ReduceMean<axes = [0]>(x)  z = Mul(m, w)  y = Add(x, z)", "float w = {0.0}")
    case("outputs", "an un-batched input handed on", APART, "float[n,4] x, float[4] c", "float[n,4] y, float[4] d", "y = Add(x, c)  d = Neg(c)")
    case("outputs", "the input itself", APART, x, "float[n,4] y", "y = Identity(x)")
    case("outputs", "an output whose shape is not declared", APART, x, "float[] y", "y = Neg(x)")
    case("outputs", "an output whose shape is not declared, mixed", MIXED, x, "float[] y", "y = ReduceMean<axes = [0]>(x)")
    case("outputs", "n inputs for one sum over all", MIXED, "float[n,4] x, float[n,4] z", "float y", "a = Mul(x, z)  y = ReduceSum<keepdims = 0>(a)")

# fmt: on


def _attention(x: str, y: str, tag: str, *, softmax: str = "axis = -1", swapped: bool = False) -> str:
    """Multi-head attention of (n, s, 8) with two heads, with its shape arithmetic as torch exports it."""
    heads = "heads, len_{0}, rows_{0}, width" if swapped else "rows_{0}, len_{0}, heads, width"

    def projected(name: str) -> str:
        return (
            f"{name}m_{tag} = MatMul({x}, w{name})  {name}b_{tag} = Add({name}m_{tag}, b{name})  "
            f"{name}c_{tag} = Concat<axis = 0>({heads.format(tag)})  {name}r_{tag} = Reshape({name}b_{tag}, {name}c_{tag})  "
        )

    return (
        f"shape_{tag} = Shape({x})  r0_{tag} = Gather(shape_{tag}, i0)  rows_{tag} = Unsqueeze(r0_{tag}, front)  "
        f"l0_{tag} = Gather(shape_{tag}, i1)  len_{tag} = Unsqueeze(l0_{tag}, front)  "
        f"{projected('q')} {projected('k')} {projected('v')}"
        f"q_{tag} = Transpose<perm = [0, 2, 1, 3]>(qr_{tag})  k_{tag} = Transpose<perm = [0, 2, 3, 1]>(kr_{tag})  "
        f"v_{tag} = Transpose<perm = [0, 2, 1, 3]>(vr_{tag})  s_{tag} = MatMul(q_{tag}, k_{tag})  "
        f"qs_{tag} = Shape(q_{tag})  d0_{tag} = Gather(qs_{tag}, i3)  d1_{tag} = Cast<to = 1>(d0_{tag})  d_{tag} = Sqrt(d1_{tag})  "
        f"t_{tag} = Div(s_{tag}, d_{tag})  u_{tag} = Add(t_{tag}, bias)  p_{tag} = Softmax<{softmax}>(u_{tag})  "
        f"o_{tag} = MatMul(p_{tag}, v_{tag})  ot_{tag} = Transpose<perm = [0, 2, 1, 3]>(o_{tag})  "
        f"oc_{tag} = Concat<axis = 0>(rows_{tag}, len_{tag}, hidden)  or_{tag} = Reshape(ot_{tag}, oc_{tag})  "
        f"om_{tag} = MatMul(or_{tag}, wo)  res_{tag} = Add({x}, om_{tag})  n_{tag} = LayerNormalization(res_{tag}, gamma, beta)  "
        f"f1_{tag} = MatMul(n_{tag}, wf)  fe_{tag} = Div(f1_{tag}, root)  ff_{tag} = Erf(fe_{tag})  fp_{tag} = Add(ff_{tag}, unit)  "
        f"fg_{tag} = Mul(f1_{tag}, fp_{tag})  f2_{tag} = MatMul(fg_{tag}, wg)  fr_{tag} = Add(n_{tag}, f2_{tag})  "
        f"{y} = LayerNormalization(fr_{tag}, gamma, beta)"
    )


_ATTENTION: Final = (
    "float[8,8] wq; float[8] bq; float[8,8] wk; float[8] bk; float[8,8] wv; float[8] bv; float[8,8] wo; float[8,16] wf; float[16,8] wg; "
    "float[8] gamma; float[8] beta; int64 i0 = {0}; int64 i1 = {1}; int64 i3 = {3}; int64[1] front = {0}; int64[1] heads = {2}; "
    "int64[1] width = {4}; int64[1] hidden = {8}; float root = {1.4142135}; float unit = {1.0}"
)
_EMBEDDED: Final = (
    "word = Gather(table, ids)  ids_shape = Shape(ids)  ids_len = Gather(ids_shape, i1)  ids_end = Unsqueeze(ids_len, front)  "
    "places = Slice(positions, front, ids_end, second)  place = Gather(place_table, places)  sum = Add(word, place)  "
    "x0 = LayerNormalization(sum, gamma, beta)  wide = Unsqueeze(mask, middle)  float_mask = Cast<to = 1>(wide)  "
    "inverse = Sub(unit, float_mask)  bias = Mul(inverse, lowest)"
)
_POOLED: Final = (
    "first = Gather<axis = 1>(hidden_states, i0)  pooled = Gemm(first, wp, bp)  tanh = Tanh(pooled)  logits = MatMul(tanh, wl)"
)
_EMBEDDINGS: Final = (
    "float[10,8] table; float[16,8] place_table; int64[1,16] positions = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; "
    "int64[1] second = {1}; int64[2] middle = {1, 2}; float lowest = {-10000.0}; float[8,8] wp; float[8] bp; float[8,2] wl"
)


def _bert(name: str, verdict: str | Mapping[str, str], second: str, *, node: str | None = None) -> None:
    case(
        "model",
        name,
        verdict,
        "int64[n,s] ids, int64[n,s] mask",
        "float[n,2] logits, float[n,s,8] hidden_states",
        f"{_EMBEDDED}  {_attention('x0', 'x1', 'one')}  {second}  {_POOLED}",
        f"{_ATTENTION}; {_EMBEDDINGS}",
        ranges={"ids": (0, 10), "mask": (0, 2)},
        node=node,
    )


_LOCATIONS: Final = (
    "a = Conv<pads = [1, 1, 1, 1]>(image, wa)  b = Relu(a)  c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(b, wb)  d = Relu(c)  "
    + "  ".join(
        f"loc_{i} = Conv({x}, wl{i})  tl_{i} = Transpose<perm = [0, 2, 3, 1]>(loc_{i})  rl_{i} = Reshape(tl_{i}, boxes_shape)  "
        f"conf_{i} = Conv({x}, wc{i})  tc_{i} = Transpose<perm = [0, 2, 3, 1]>(conf_{i})  rc_{i} = Reshape(tc_{i}, classes_shape)"
        for i, x in enumerate("bd")
    )
    + "  locs = Concat<axis = 1>(rl_0, rl_1)  confs = Concat<axis = 1>(rc_0, rc_1)  probs = Softmax<axis = 2>(confs)  "
    "centre_d, size_d = Split<axis = 2>(locs)  centre_a, size_a = Split<axis = 2>(anchors)  moved = Mul(centre_d, size_a)  "
    "centre = Add(moved, centre_a)  grown = Tanh(size_d)  grown_e = Exp(grown)  size = Mul(grown_e, size_a)  half = Mul(size, point5)  "
    "low = Sub(centre, half)  high = Add(centre, half)  boxes = Concat<axis = 2>(low, high)"
)  # fmt: skip
_DETECTOR: Final = (
    "float[4,3,3,3] wa; float[4,4,3,3] wb; float[8,4,1,1] wl0; float[8,4,1,1] wl1; float[6,4,1,1] wc0; float[6,4,1,1] wc1; "
    "int64[3] boxes_shape = {0, -1, 4}; int64[3] classes_shape = {0, -1, 3}; float[1,40,4] anchors; float point5 = {0.5}; "
    "int64[1] best = {5}; int64[1] last = {2}; int64[1] front = {0}; int64[3] columns = {1, 1, 4}; int64 most = {3}; float[1] overlap = {0.5}; float[1] least = {0.5}"
)  # fmt: skip

# An encoder as older exporters write one: position ids and masks are expanded by shapes that travel as values, and heads are
# merged into the batch for a product of three axes.
_EXPANDING: Final = """
    shape = Shape(ids)
    zero = Constant<value_ints = [0]>()
    one = Constant<value_ints = [1]>()
    s0 = Constant<value_int = 0>()
    s1 = Constant<value_int = 1>()
    n = Gather<axis = 0>(shape, s0)
    s = Gather<axis = 0>(shape, s1)
    n1 = Unsqueeze(n, zero)
    s1d = Unsqueeze(s, zero)
    ns = Concat<axis = 0>(n1, s1d)
    places = Range(s0, s, s1)
    row = Unsqueeze(places, zero)
    minus = Constant<value_ints = [-1]>()
    rank = Shape(ns)
    ones = ConstantOfShape<value = int64[1] {1}>(rank)
    negative = Mul(ones, minus)
    keeps = Equal(ns, negative)
    target = Where(keeps, ones, ns)
    position_ids = Expand(row, target)
    words = Gather<axis = 0>(word_table, ids)
    positions = Gather<axis = 0>(place_table, position_ids)
    summed = Add(words, positions)
    h = LayerNormalization<axis = -1>(summed, gain, bias)
    heads = Constant<value_ints = [2]>()
    width = Constant<value_ints = [4]>()
    split = Concat<axis = 0>(n1, s1d, heads, width)
    q0 = MatMul(h, wq)
    k0 = MatMul(h, wk)
    v0 = MatMul(h, wv)
    q1 = Reshape(q0, split)
    k1 = Reshape(k0, split)
    v1 = Reshape(v0, split)
    q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k = Transpose<perm = [0, 2, 3, 1]>(k1)
    v = Transpose<perm = [0, 2, 1, 3]>(v1)
    hs = Mul(n1, heads)
    merged = Concat<axis = 0>(hs, minus, width)
    qm = Reshape(q, merged)
    kt = Transpose<perm = [0, 1, 3, 2]>(k)
    km0 = Reshape(kt, merged)
    km = Transpose<perm = [0, 2, 1]>(km0)
    scores0 = MatMul(qm, km)
    back = Concat<axis = 0>(n1, heads, s1d, s1d)
    scores1 = Reshape(scores0, back)
    axes = Constant<value_ints = [1, 2]>()
    m0 = Unsqueeze(mask, axes)
    m1 = Cast<to = 1>(m0)
    full = Concat<axis = 0>(n1, one, s1d, s1d)
    m2 = Expand(m1, full)
    unit = Constant<value_float = 1.0>()
    m3 = Sub(unit, m2)
    m4 = Cast<to = 9>(m3)
    low = Constant<value_float = -10000.0>()
    m5 = Where(m4, low, m3)
    scores = Add(scores1, m5)
    p = Softmax<axis = -1>(scores)
    c0 = MatMul(p, v)
    c1 = Transpose<perm = [0, 2, 1, 3]>(c0)
    flat = Constant<value_ints = [0, 0, 8]>()
    c2 = Reshape(c1, flat)
    c = Add(c2, h)
    first = Gather<axis = 1>(c, s0)
    y = Tanh(first)
"""
_EXPANDED: Final = (
    "float[5,8] word_table; float[9,8] place_table; float[8] gain; float[8] bias; float[8,8] wq; float[8,8] wk; float[8,8] wv"
)
_CLASSIFYING: Final = """
    patches = Conv<kernel_shape = [2, 2], strides = [2, 2]>(x, kernel)
    shape = Shape(patches)
    start = Constant<value_ints = [0]>()
    stop = Constant<value_ints = [2]>()
    head = Slice(shape, start, stop)
    minus = Constant<value_ints = [-1]>()
    target = Concat<axis = 0>(head, minus)
    flat = Reshape(patches, target)
    tokens = Transpose<perm = [0, 2, 1]>(flat)
    whole = Shape(x)
    s0 = Constant<value_int = 0>()
    n = Gather<axis = 0>(whole, s0)
    n1 = Unsqueeze(n, start)
    class_target = Concat<axis = 0>(n1, minus_one, width)
    class_rows = Expand(token, class_target)
    joined = Concat<axis = 1>(class_rows, tokens)
    h = Add(joined, places)
    swapped = Transpose<perm = [0, 2, 1]>(h)
    scores = MatMul(h, swapped)
    p = Softmax(scores)
    mixed = MatMul(p, h)
    y0 = Slice(mixed, start, one, one)
    y = Squeeze(y0, one)
"""
_CHOOSING: Final = """
    minus = Constant<value_ints = [0, 6, -1]>()
    a0 = Reshape(p3, minus)
    b0 = Reshape(p4, minus)
    all0 = Concat<axis = 2>(a0, b0)
    all = Transpose<perm = [0, 2, 1]>(all0)
    boxes, scores0 = Split<axis = 2>(all, sizes)
    scores1 = Sigmoid(scores0)
    best = ReduceMax<keepdims = 0>(scores1, two)
    shape = Shape(best)
    s1 = Constant<value_int = 1>()
    anchors = Gather<axis = 0>(shape, s1)
    zero = Constant<value_ints = [0]>()
    anchors1 = Unsqueeze(anchors, zero)
    k = Min(anchors1, many)
    scores, places = TopK<axis = 1>(best, k)
    p = Unsqueeze(places, two)
    tiled = Tile(p, repeats)
    picked = GatherElements<axis = 1>(boxes, tiled)
"""


# fmt: off
def _models() -> None:
    _bert("BERT-like encoder", APART, _attention("x1", "hidden_states", "two"))
    _bert("BERT-like encoder, softmax over axis 0", MIXED, _attention("x1", "hidden_states", "two", softmax="axis = 0"), node="p_two")
    _bert("BERT-like encoder, a Reshape that swaps batch and heads", MIXED, _attention("x1", "hidden_states", "two", swapped=True), node="qr_two")
    _bert("BERT-like encoder, less the mean of the batch", MIXED,
          "mean = ReduceMean<axes = [0], keepdims = 1>(x1)  hidden_states = Sub(x1, mean)", node="mean")

    case("model", "ViT-like block", APART, "float[n,3,8,8] image", "float[n,5] logits",
         "patches = Conv<strides = [4, 4]>(image, wp, bp)  ps = Shape(patches)  pn = Gather(ps, i0)  pnu = Unsqueeze(pn, front)  "
         "pc = Concat<axis = 0>(pnu, hidden, minus)  flat = Reshape(patches, pc)  tokens = Transpose<perm = [0, 2, 1]>(flat)  "
         "want = Concat<axis = 0>(pnu, minus, minus)  rank = Shape(want)  ones = ConstantOfShape<value = int64[1] {1}>(rank)  "
         "negative = Mul(ones, minus_one)  same = Equal(want, negative)  size = Where(same, ones, want)  class = Expand(token, size)  "
         "joined = Concat<axis = 1>(class, tokens)  x0 = Add(joined, position)  "
         "n0 = LayerNormalization(x0, gamma, beta)  qkv = MatMul(n0, wqkv)  qs = Shape(qkv)  qn = Gather(qs, i0)  qnu = Unsqueeze(qn, front)  "
         "ql = Gather(qs, i1)  qlu = Unsqueeze(ql, front)  qc = Concat<axis = 0>(qnu, qlu, three, heads, width)  qr = Reshape(qkv, qc)  "
         "qt = Transpose<perm = [2, 0, 3, 1, 4]>(qr)  q = Gather<axis = 0>(qt, i0)  k = Gather<axis = 0>(qt, i1)  v = Gather<axis = 0>(qt, i2)  "
         "kt = Transpose<perm = [0, 1, 3, 2]>(k)  s = MatMul(q, kt)  p = Softmax<axis = -1>(s)  o = MatMul(p, v)  "
         "ot = Transpose<perm = [0, 2, 1, 3]>(o)  oc = Concat<axis = 0>(qnu, qlu, hidden)  orr = Reshape(ot, oc)  x1 = Add(x0, orr)  "
         "n1 = LayerNormalization(x1, gamma, beta)  h = MatMul(n1, wf)  g = Gelu(h)  h2 = MatMul(g, wg)  x2 = Add(x1, h2)  "
         "cls = Gather<axis = 1>(x2, i0)  logits = Gemm(cls, wl)",
         "float[8,3,4,4] wp; float[8] bp; float[1,1,8] token; float[1,5,8] position; float[8] gamma; float[8] beta; float[8,24] wqkv; "
         "float[8,16] wf; float[16,8] wg; float[8,5] wl; int64 i0 = {0}; int64 i1 = {1}; int64 i2 = {2}; int64[1] front = {0}; "
         "int64[1] minus = {-1}; int64 minus_one = {-1}; int64[1] hidden = {8}; int64[1] three = {3}; int64[1] heads = {2}; int64[1] width = {4}",
         opset=20)

    case("model", "LSTM and GRU", APART, "int64[n,s] ids", "float[n,3] logits",
         "e = Gather(table, ids)  t = Transpose<perm = [1, 0, 2]>(e)  ts = Shape(t)  b = Gather(ts, i1)  bu = Unsqueeze(b, front)  "
         "hs = Concat<axis = 0>(two, bu, four)  h0 = ConstantOfShape(hs)  "
         'y, h, c = LSTM<hidden_size = 4, direction = "bidirectional">(t, w, r, bias, , h0, h0)  yt = Transpose<perm = [0, 2, 1, 3]>(y)  '
         "yr = Reshape(yt, joined)  g, gh = GRU<hidden_size = 4, linear_before_reset = 1>(yr, wg, rg)  last = Squeeze(gh, front)  logits = Gemm(last, wl)",
         "float[10,6] table; float[2,16,6] w; float[2,16,4] r; float[2,32] bias; float[1,12,8] wg; float[1,12,4] rg; float[4,3] wl; "
         "int64 i1 = {1}; int64[1] front = {0}; int64[1] two = {2}; int64[1] four = {4}; int64[3] joined = {0, 0, -1}",
         ranges={"ids": (0, 10)})

    case("model", "detection head", APART, "float[n,3,4,4] image", "float[n,5,4] found, float[n,5] scores",
         f"{_LOCATIONS}  best_class = ReduceMax<axes = [2], keepdims = 0>(probs)  scores, index = TopK<axis = 1>(best_class, best)  "
         "wide = Unsqueeze(index, last)  by_box = Tile(wide, columns)  found = GatherElements<axis = 1>(boxes, by_box)", _DETECTOR)
    case("model", "detection head with NonMaxSuppression, whose output rows depend on content", MIXED, "float[n,3,4,4] image", "float[m,4] found",
         f"{_LOCATIONS}  turned = Transpose<perm = [0, 2, 1]>(probs)  kept = NonMaxSuppression(boxes, turned, most, overlap, least)  "
         "bi, ci, xi = Split<axis = 1>(kept)  pair = Concat<axis = 1>(bi, xi)  found = GatherND(boxes, pair)", _DETECTOR, node="kept")
    case("model", "detection head with a threshold, whose output rows depend on content", MIXED, "float[n,3,4,4] image", "float[m,4] found",
         f"{_LOCATIONS}  best_class = ReduceMax<axes = [2], keepdims = 0>(probs)  good = Greater(best_class, least)  places = NonZero(good)  "
         "pairs = Transpose(places)  found = GatherND(boxes, pairs)", _DETECTOR, node="places")
    case("model", "training-mode batch norm after a convolution", MIXED, "float[n,3,6,6] x", "float[n,2,4,4] y",
         "a = Conv(x, w)  b, rm, rv = BatchNormalization<training_mode = 1>(a, s, s, m, v)  y = Relu(b)",
         "float[2,3,3,3] w; float[2] s; float[2] m; float[2] v = {1.0, 2.0}", node="b")
    case("model", "encoder whose heads are merged into the batch", APART, "int64[n,s] ids, int64[n,s] mask", "float[n,8] y", _EXPANDING, _EXPANDED,
         ranges={"ids": (0, 5), "mask": (0, 2)}, opset=20)
    case("model", "vision transformer with a class token for each image", APART, "float[n,1,4,4] x", "float[n,4] y", _CLASSIFYING,
         "float[4,1,2,2] kernel; int64[1] minus_one = {1}; int64[1] width = {4}; int64[1] one = {1}; float[1,1,4] token; float[1,5,4] places", opset=20)
    case("model", "detection head with as many as there are at most", APART, "float[n,6,2,2] p3, float[n,6,1,1] p4", "float[n,k,4] picked, float[n,k] scores", _CHOOSING,
         "int64[2] sizes = {4, 2}; int64[1] two = {2}; int64[1] many = {3}; int64[3] repeats = {1, 1, 4}", opset=20)
    for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        case("recurrent", f"{kind} with initial states of zeros, as many as the rows", APART, "float[n,5,3] x", "float[n,5,3] y, float[n,3] z",
             "turned = Transpose<perm = [1, 0, 2]>(x)  shape = Shape(turned)  rows = Gather(shape, i1)  rows1 = Unsqueeze(rows, zero)  "
             f"target = Concat<axis = 0>(one, rows1, three)  h = ConstantOfShape(target)  every, last = {kind}<hidden_size = 3>(turned, w, r, , , h{', h' * (kind == 'LSTM')})  "
             "a = Squeeze(every, one)  y = Transpose<perm = [1, 0, 2]>(a)  z = Squeeze(last, zero)",
             f"float[1,{3 * gates},3] w; float[1,{3 * gates},3] r; int64 i1 = {{1}}; int64[1] zero = {{0}}; int64[1] one = {{1}}; int64[1] three = {{3}}")
    for name, verdict, quantise in (
        ("its own scale", APART, "q = QuantizeLinear(x, scale, point)"),
        ("a scale taken from all rows", MIXED, "q, scale, point = DynamicQuantizeLinear(x)"),
    ):
        case("model", f"quantised layer with {name}", verdict, "float[n,3] x", "float[n,2] y",
             f"{quantise}  product = MatMulInteger(q, w, point)  floats = Cast<to = 1>(product)  y = Mul(floats, scale)",
             "uint8[3,2] w" + "; float scale = {0.1}; uint8 point = {128}" * (verdict == APART), node=None if verdict == APART else "q")
    add("model", "1,000 nodes", APART, long_model(1000))
    add("model", "1,000 nodes, the last but one over the rows", MIXED, long_model(1000, mixed=True), node="mix")

# fmt: on


def long_model(nodes: int, *, mixed: bool = False) -> onnx.ModelProto:
    """Return layers of ten nodes each: a product, heads split off and joined again by shape arithmetic, a sum, an activation.

    Args:
        nodes: a multiple of ten.
        mixed: whether the last layer subtracts the batch's mean.
    """
    body, x = [], "x"
    for layer in range(nodes // 10):
        y = "y" if layer == nodes // 10 - 1 else f"x{layer}"
        last = f"mix = ReduceMean<axes = [0]>(f_{layer})" if mixed and y == "y" else f"g_{layer} = Tanh(f_{layer})"
        body.append(
            f"a_{layer} = MatMul({x}, w)  s_{layer} = Shape(a_{layer})  n_{layer} = Gather(s_{layer}, front)  c_{layer} = Concat<axis = 0>(n_{layer}, split)  "
            f"b_{layer} = Reshape(a_{layer}, c_{layer})  d_{layer} = Transpose<perm = [0, 2, 1]>(b_{layer})  e_{layer} = Relu(d_{layer})  "
            f"f_{layer} = Reshape(e_{layer}, joined)  {last}  {y} = Add({'mix' if 'mix' in last else f'g_{layer}'}, {x})"
        )
        x = y
    weights = "float[6,6] w; int64[1] front = {0}; int64[2] split = {2, 3}; int64[2] joined = {0, 6}"
    return build("float[n,6] x", "float[n,6] y", "  ".join(body), weights)


_entries()
_models()
