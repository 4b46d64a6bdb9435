"""The truth about rows, by running a model: on other rows, at other positions, with other numbers of rows.

One run cannot prove independence, but a difference disproves it. So this decides which verdicts "independent" are false.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from anybatch.safety import analyse

ROWS = 4


def make_session(model):
    """Return a function that runs a model in ONNX Runtime, without optimisations that could hide what a node does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def find_dependence(run, inputs, safety):
    """Return why an output's rows are not independent, by output name, from the batch axes that an analysis names.

    Args:
        run: a function from inputs to outputs, by name.
        inputs: arrays for `ROWS` rows, by name.
        safety: what the analysis says; only its batch axes are used.
    """
    axes = {each.name: (each.axis, each.rows_per_row) for each in safety.inputs}
    outputs = {each.name: (each.batch_axis, each.rows_per_row) for each in safety.outputs}
    whole = run(inputs)
    found = {}
    orders = [[0], [2], [1, 2], [3, 2, 1, 0], [1, 1, 3, 0, 2, 2, 1], [0, 1, 2, 3, 3]]
    for order in orders:
        feed = {name: take(array, *axes[name], order) for name, array in inputs.items()}
        try:
            got = run(feed)
        except Exception as error:
            return {name: f"{len(order)} rows do not run: {error}" for name in outputs}
        for name, array in got.items():
            want = whole[name] if outputs[name][0] is None else take(whole[name], *outputs[name], order)
            if not alike(want, array):
                found.setdefault(name, f"rows {order}: expected {want!r}, got {array!r}")
    return found


def take(array, axis, per_row, order):
    if axis is None:
        return array
    places = [row * per_row + entry for row in order for entry in range(per_row)]
    return np.take(array, places, axis)


def alike(want, got):
    want, got = np.asarray(want), np.asarray(got)
    if want.shape != got.shape:
        return False
    if want.dtype.kind not in "fc":
        return np.array_equal(want, got)
    return np.allclose(want, got, rtol=1e-3, atol=1e-4, equal_nan=True)


def random_rows(spec_inputs, seed=0):
    """Return arrays for inputs declared in a graph; free dimensions that carry no rows have 3 entries."""
    random = np.random.default_rng(seed)
    arrays = {}
    for value, axis, per_row in spec_inputs:
        dims = [dim.dim_value if dim.HasField("dim_value") else 3 for dim in value.type.tensor_type.shape.dim]
        if axis is not None:
            dims[axis] = ROWS * per_row
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind in "iu":
            arrays[value.name] = np.asarray(random.integers(0, 3, dims), dtype)
        elif dtype.kind == "b":
            arrays[value.name] = np.asarray(random.random(dims) < 0.5)
        else:
            arrays[value.name] = np.asarray(random.standard_normal(dims), dtype)
    return arrays


def assert_truth(model, *, seed=0, inputs=None, **options):
    """Check that no output is called independent that is not, and return what the analysis says.

    The model is run on generated inputs, unless some are given.
    """
    safety = analyse(model, **options)
    values = {value.name: value for value in model.graph.input}
    declared = [(values[each.name], each.axis, each.rows_per_row) for each in safety.inputs]
    arrays = random_rows(declared, seed) if inputs is None else inputs
    wrong = find_dependence(make_session(model), arrays, safety)
    claimed = {each.name for each in safety.outputs if each.verdict == "independent"}
    assert not claimed & set(wrong), {name: wrong[name] for name in claimed & set(wrong)}
    return safety


__all__ = ["ROWS", "assert_truth", "find_dependence", "make_session", "random_rows"]
