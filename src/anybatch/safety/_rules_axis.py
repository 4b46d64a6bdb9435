"""Operators that work along some axes: reductions, softmax, normalisation, sorting, running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from anybatch.safety._broadcast import broadcast
from anybatch.safety._call import Call, CoupledError, Rule, forbid
from anybatch.safety._domain import Rows, Shape, Value
from anybatch.safety._sizes import ONE, Size, count_of

_REDUCTIONS: Final = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
REDUCTIONS: Final = tuple(_REDUCTIONS.split())


def without(shape: Shape, rows: Rows | None, axes: Sequence[int], keepdims: bool) -> Value:
    """Return a tensor whose axes, which hold no rows, are reduced to one entry or removed."""
    if keepdims:
        return Value(tuple(ONE if axis in axes else size for axis, size in enumerate(shape)), rows)
    left = [axis for axis in range(len(shape)) if axis not in axes]
    return Value(tuple(shape[axis] for axis in left), rows and rows.at(left.index(rows.axis)))


def reduction(call: Call) -> Value:
    """One number from many, along axes; along all where none are named."""
    shape = call.shape(0)
    axes = call.axes(1, len(shape))
    if not axes:
        if call.attr("noop_with_empty_axes", 0):
            return Value(shape, call[0].rows)
        axes = list(range(len(shape)))
    forbid(call[0].rows, axes, "reduces")
    return without(shape, call[0].rows, axes, bool(call.attr("keepdims", 1)))


def arg_reduction(call: Call) -> Value:
    """The index of one entry along an axis."""
    shape = call.shape(0)
    axis = call.axis(len(shape), call.attr("axis", 0))
    forbid(call[0].rows, [axis], "compares the entries along")
    return without(shape, call[0].rows, [axis], bool(call.attr("keepdims", 1)))


def softmax(call: Call) -> Value:
    """Normalises over one axis; before opset 13 over all axes from it on."""
    shape = call.shape(0)
    axis = call.axis(len(shape), call.attr("axis", -1 if call.opset >= 13 else 1)) if shape else 0
    forbid(call[0].rows, [axis] if call.opset >= 13 else range(axis, len(shape)), "normalises over")
    return Value(shape, call[0].rows)


def lp_normalization(call: Call) -> Value:
    """Divides by the norm along an axis."""
    return _along(call, call.attr("axis", -1), "normalises over")


def running(call: Call) -> Value:
    """Adds or multiplies up along an axis, which is an input."""
    return _along(call, call.number(1, 0, "an axis"), "accumulates along")


def _along(call: Call, axis: int, does: str) -> Value:
    shape = call.shape(0)
    forbid(call[0].rows, [call.axis(len(shape), axis)], does)
    return Value(shape, call[0].rows)


def mean_variance(call: Call) -> Value:
    """Normalises over axes; by default those of the batch and the image."""
    shape = call.shape(0)
    axes = call.attr("axes", [0, 2, 3])
    forbid(call[0].rows, [call.axis(len(shape), axis) for axis in axes], "normalises over")
    return Value(shape, call[0].rows)


def layer_normalization(call: Call) -> list[Value]:
    """Normalises over the last axes; scale and bias are broadcast."""
    shape, rows = call.shape(0), call[0].rows
    axis = call.axis(len(shape), call.attr("axis", -1))
    forbid(rows, range(axis, len(shape)), "normalises over")
    whole = broadcast([value for value in call.inputs if value is not None])
    return [whole, *[without(shape, rows, range(axis, len(shape)), keepdims=True)] * 2]


def per_channel(call: Call) -> Value:
    """Normalises each image on its own: over its places, or groups of its channels; parameters are one per channel."""
    if call[0].rows is not None and call[0].rows.axis != 0:
        raise CoupledError(f"normalises over axis {call[0].rows.axis}, which holds the rows")
    return Value(call[0].shape, call[0].rows)


def batch_normalization(call: Call) -> list[Value]:
    """At inference a function of each entry and its channel; in training it takes the mean over all rows."""
    rows = call[0].rows
    if call.attr("training_mode", 0) or (call.opset < 14 and sum(bool(name) for name in call.node.output) > 1):
        raise CoupledError("is in training mode: it takes mean and variance over all rows")
    forbid(rows, [1], "has parameters of their own for every entry along")
    return [Value(call[0].shape, rows)]


def lrn(call: Call) -> Value:
    """Divides by the squares of neighbouring channels."""
    forbid(call[0].rows, [1], "normalises over neighbours along")
    return Value(call[0].shape, call[0].rows)


def top_k(call: Call) -> list[Value]:
    """The largest entries along an axis."""
    shape = call.shape(0)
    axis = call.axis(len(shape), call.attr("axis", -1))
    forbid(call[0].rows, [axis], "sorts along")
    k = call.attr("k")
    sizes = [Size(k)] if k is not None else call.sizes(1)
    count = sizes[0] if sizes and sizes[0].at_least(0) and not sizes[0].depends_on_rows else None
    if count is None:
        if sizes and sizes[0].depends_on_rows:
            raise CoupledError("keeps as many entries as the number of rows says")
        count = call.fresh("k")
    return [Value((*shape[:axis], count, *shape[axis + 1 :]), call[0].rows)] * 2


def one_hot(call: Call) -> Value:
    """A new axis, one where the index stands."""
    shape, rows = call.shape(0), call[0].rows
    axis = call.axis(len(shape) + 1, call.attr("axis", -1))
    depth = (call.sizes(1) or [call.fresh("depth")])[0]
    if depth.depends_on_rows:
        raise CoupledError("makes as many entries as the number of rows says")
    moved = rows and rows.at(rows.axis + (axis <= rows.axis))
    return Value((*shape[:axis], depth, *shape[axis:]), moved)


def trilu(call: Call) -> Value:
    """A triangle of the last two axes."""
    return _last_two(call, "keeps a triangle of")


def _last_two(call: Call, does: str) -> Value:
    shape = call.shape(0)
    forbid(call[0].rows, [len(shape) - 2, len(shape) - 1], does)
    return Value(shape, call[0].rows)


def det(call: Call) -> Value:
    """The determinant of the last two axes."""
    return Value(_last_two(call, "takes the determinant over").shape[:-2], call[0].rows)  # type: ignore[index]  # just read


def dft(call: Call) -> Value:
    """A Fourier transform along one axis; the last holds the real and the imaginary part."""
    shape = call.shape(0)
    axis = call.attr("axis", 1) if call.opset < 20 else call.number(2, -2, "an axis")
    axis = call.axis(len(shape), axis)
    forbid(call[0].rows, [axis, len(shape) - 1], "transforms along")
    result = list(shape)
    # The length: an input, or half of it where only one side is wanted; and one part or two come out.
    result[axis] = call.fresh("length")
    result[-1] = call.fresh("parts") if call.attr("inverse", 0) else Size(2)
    return Value(tuple(result), call[0].rows)


def stft(call: Call) -> Value:
    """Fourier transforms of windows along axis 1."""
    shape = call.shape(0)
    forbid(call[0].rows, range(1, len(shape)), "transforms along")
    return Value((shape[0], call.fresh("frames"), call.fresh("bins"), Size(2)), call[0].rows)


def loss(call: Call) -> list[Value]:
    """Losses per entry, unless they are reduced to one number."""
    shape, rows = call.shape(0), call[0].rows
    if call.attr("reduction", "mean") != "none":
        if rows is None and call[1].rows is None:
            return [Value(()), Value(shape)]
        raise CoupledError("reduces the losses of all rows to one number")
    forbid(rows, [1], "picks a class along")
    picked = without(shape, rows, [1], keepdims=False)
    return [broadcast([picked, call[1]]), Value(shape, rows)]


def compress(call: Call) -> Value:
    """Keeps the entries along an axis for which a condition holds."""
    rows, axis = call[0].rows, call.attr("axis")
    if call[1].rows is not None:
        raise CoupledError("keeps entries by the content of rows: how many remain depends on all of them")
    if axis is None:
        if rows is not None:
            raise CoupledError("picks from all rows at once")
        return Value((call.fresh("kept"),))
    shape = call.shape(0)
    axis = call.axis(len(shape), axis)
    forbid(rows, [axis], "picks by position along")
    return Value((*shape[:axis], call.fresh("kept"), *shape[axis + 1 :]), rows)


def reverse_sequence(call: Call) -> Value:
    """Reverses the first entries of each sequence."""
    shape = call.shape(0)
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    forbid(call[0].rows, [time], "reverses the order along")
    lengths = Value(tuple(size if axis == batch else ONE for axis, size in enumerate(_spread(call, batch, len(shape)))))
    rows = call[1].rows and call[1].rows.at(batch)
    return broadcast([call[0], Value(lengths.shape, rows)])


def _spread(call: Call, axis: int, rank: int) -> list[Size]:
    """Return the shape of a vector input 1, laid along an axis."""
    return [call.shape(1)[0] if each == axis else ONE for each in range(rank)]


def non_zero(call: Call) -> Value:
    """The places of what is not zero."""
    if call[0].rows is not None:
        raise CoupledError("lists places in all rows at once: how many depends on their content")
    rank = call[0].rank
    return Value((call.fresh("rank") if rank is None else Size(rank), call.fresh("found")))


def unique(call: Call) -> list[Value]:
    """What is left without repetitions."""
    if call[0].rows is not None:
        raise CoupledError("removes what is repeated in other rows")
    vector = Value((call.fresh("found"),))
    axis, shape = call.attr("axis"), call[0].shape
    if axis is None or shape is None:
        return [vector if axis is None else Value(), vector, Value((call.fresh("inverse"),)), vector]
    axis = call.axis(len(shape), axis)
    return [Value((*shape[:axis], call.fresh("found"), *shape[axis + 1 :])), vector, Value((shape[axis],)), vector]


def mel_weights(call: Call) -> Value:
    """A matrix of weights from a few numbers."""
    return Value((call.fresh("bins"), call.fresh("bands")))


def window(call: Call) -> Value:
    """A window function of a given length."""
    length = (call.sizes(0) or [call.fresh("length")])[0]
    return Value((length if length.at_least(0) else count_of("length", length),))


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(["ArgMax", "ArgMin"], arg_reduction),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], softmax),
    **dict.fromkeys(["CumSum", "CumProd"], running),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], layer_normalization),
    **dict.fromkeys(["InstanceNormalization", "GroupNormalization"], per_channel),
    **dict.fromkeys(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"], loss),
    **dict.fromkeys(["HannWindow", "HammingWindow", "BlackmanWindow"], window),
    "BatchNormalization": batch_normalization,
    "Compress": compress,
    "DFT": dft,
    "Det": det,
    "LRN": lrn,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance,
    "MelWeightMatrix": mel_weights,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "STFT": stft,
    "TopK": top_k,
    "Trilu": trilu,
    "Unique": unique,
}
