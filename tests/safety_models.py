"""Small models for the tests of `anybatch.safety`, in ONNX's own textual form."""

from __future__ import annotations

import onnx
import onnx.parser

BATCHED = "float[batch, 4, 6] x"


def parsed(body, *, inputs=BATCHED, outputs="float y", weights="", opset=20, functions="", domain=""):
    """Return a model from the text of its nodes; the shapes of its outputs are left open.

    Args:
        weights: initializers, such as "float[2] w = {1, 2}".
        functions: local functions, which belong to the domain "local".
    """
    imports = f'"" : {opset}, "local" : 1' + (f', "{domain}" : 1' if domain else "")
    between = f"<{weights}>" if weights else ""
    text = f"<ir_version: 8, opset_import: [{imports}]> main ({inputs}) => ({outputs}) {between} {{ {body} }} {functions}"
    model = onnx.parser.parse_model(text)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


# A transformer's encoder, as PyTorch exports one: position ids and masks are expanded by shapes that travel as values.
ENCODER = """
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
ENCODER_INPUTS = "int64[batch, seq] ids, int64[batch, seq] mask"


def square(name, rows, columns, seed=1):
    """Return the text of a matrix with unlike entries."""
    numbers = ", ".join(str(((place * 7 + seed * 3) % 11 - 5) / 7) for place in range(rows * columns))
    return f"float[{rows}, {columns}] {name} = {{{numbers}}}"


def vector(name, length, seed=1):
    """Return the text of a vector with unlike entries."""
    numbers = ", ".join(str(((place * 5 + seed * 3) % 9 - 3) / 5) for place in range(length))
    return f"float[{length}] {name} = {{{numbers}}}"


def encoder():
    weights = [square("word_table", 5, 8), square("place_table", 9, 8, 2), vector("gain", 8), vector("bias", 8, 2)]
    weights += [square(name, 8, 8, seed) for seed, name in enumerate(("wq", "wk", "wv"))]
    return parsed(ENCODER, inputs=ENCODER_INPUTS, weights=", ".join(weights))


def vision():
    """Return a vision transformer's beginning: patches, a class token for each image, one block of attention."""
    body = """
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
    kernel = "float[4, 1, 2, 2] kernel = {" + ", ".join(str(place % 5 / 5) for place in range(16)) + "}"
    weights = [kernel, "int64[1] minus_one = {1}, int64[1] width = {4}, int64[1] one = {1}"]
    weights += ["float[1, 1, 4] token = {1, 2, 3, 4}", "float[1, 5, 4] places = {" + ", ".join(map(str, range(20))) + "}"]
    return parsed(body, inputs="float[batch, 1, 4, 4] x", weights=", ".join(weights))


def recurrent(kind="LSTM"):
    """Return a recurrent layer with the batch on axis 1 and initial states of zeros, as many as the rows."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    matrix = ", ".join(str((place * 7 % 11 - 5) / 9) for place in range(gates * 9))
    state = "h, h" if kind == "LSTM" else "h"
    body = f"""
        turned = Transpose<perm = [1, 0, 2]>(x)
        shape = Shape(turned)
        s1 = Constant<value_int = 1>()
        n = Gather<axis = 0>(shape, s1)
        zero = Constant<value_ints = [0]>()
        n1 = Unsqueeze(n, zero)
        one = Constant<value_ints = [1]>()
        three = Constant<value_ints = [3]>()
        target = Concat<axis = 0>(one, n1, three)
        h = ConstantOfShape(target)
        every, last = {kind}<hidden_size = 3>(turned, w, r, , , {state})
        a = Squeeze(every, one)
        y = Transpose<perm = [1, 0, 2]>(a)
        z = Squeeze(last, zero)
    """
    weights = f"float[1, {gates * 3}, 3] w = {{{matrix}}}, float[1, {gates * 3}, 3] r = {{{matrix}}}"
    return parsed(body, inputs="float[batch, 5, 3] x", outputs="float y, float z", weights=weights)


def detector():
    """Return a detection head: two scales, anchors side by side, the best of them for each image."""
    body = """
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
    weights = "int64[2] sizes = {4, 2}, int64[1] two = {2}, int64[1] many = {3}, int64[3] repeats = {1, 1, 4}"
    inputs = "float[batch, 6, 2, 2] p3, float[batch, 6, 1, 1] p4"
    return parsed(body, inputs=inputs, outputs="float picked, float scores", weights=weights)


def quantised(*, dynamic=False):
    """Return a quantised layer, with a scale of its own or one that is taken from the input."""
    quantise = (
        "q, scale, zero = DynamicQuantizeLinear(x)"
        if dynamic
        else "scale = Constant<value_float = 0.1>() zero = Constant<value = uint8 {128}>() q = QuantizeLinear(x, scale, zero)"
    )
    body = f"""
        {quantise}
        product = MatMulInteger(q, w, zero)
        floats = Cast<to = 1>(product)
        y = Mul(floats, scale)
    """
    return parsed(body, inputs="float[batch, 3] x", weights="uint8[3, 2] w = {1, 2, 3, 4, 5, 6}")


def deep(nodes):
    """Return a chain of many nodes with a reshape here and there."""
    steps = ["h0 = Identity(x)"]
    for place in range(nodes // 4):
        steps += [f"a{place} = Relu(h{place})", f"b{place} = Reshape(a{place}, merged)", f"c{place} = Add(b{place}, one)"]
        steps += [f"h{place + 1} = Reshape(c{place}, split)"]
    steps.append(f"y = Softmax(h{nodes // 4})")
    weights = "int64[2] merged = {-1, 6}, int64[3] split = {-1, 4, 6}, float one = {1}"
    return parsed("\n".join(steps), weights=weights)
