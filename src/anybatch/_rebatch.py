"""Frees the batch size that is baked into an ONNX model, where that is shown to change no answer.

Two steps. The graph is rewritten only where the batch stands in plain sight: the leading dimension of inputs and
outputs, and leading constants of Reshape targets (so `free_batch`). Then it must be proven on the graph that rows are
independent of one another (`anybatch.safety`); where the proof ends without a verdict, both models run on the same rows, at the
old batch size and at others, and every row must come out the same (so `check_same_rows`). Whatever else has the batch
baked in (an initial state of a recurrent layer, an Expand, a Slice), or lets rows influence one another (a softmax over
the batch axis), fails there and is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx

from anybatch._errors import ModelError
from anybatch._onnx_spec import BatchAxes, declared_tensors, find_spec, fixed_batch
from anybatch._samples import free_names, random_inputs
from anybatch._tensors import Array, ModelSpec, TensorSpec

_SYMBOL: Final = "rows"
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def free_batch(model: onnx.ModelProto, axes: BatchAxes) -> onnx.ModelProto:
    """Return a copy of a model with a fixed batch whose batch axis is free; the weights are shared where they are external.

    Raises:
        ModelError: no batch axis can be told, or a Reshape bakes the batch in so that it cannot be replaced; it is named.
    """
    inputs, outputs = declared_tensors(model)
    axes.check_names((*inputs, *outputs))
    batch = fixed_batch(inputs, axes)
    if batch is None:
        raise ModelError("the batch axis of this model is free already")
    spec, _ = find_spec(inputs, outputs, axes, batch=batch)
    shapes = _shapes(model)
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    _free_reshapes(freed, batch, shapes, {tensor.name for tensor in inputs})
    del freed.graph.value_info[:]  # they name the old batch; runtimes infer them anew
    for tensor, value in _pairs(spec, freed.graph):
        if tensor.batch_axis is not None:
            factor = f"{tensor.rows_per_row}*" if tensor.rows_per_row > 1 else ""
            value.type.tensor_type.shape.dim[tensor.batch_axis].dim_param = factor + _SYMBOL
    try:
        onnx.shape_inference.infer_shapes(freed, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"the batch size {batch} is baked in: with another, shapes contradict each other: {error}") from error
    return freed


def _pairs(spec: ModelSpec, graph: onnx.GraphProto) -> list[tuple[TensorSpec, onnx.ValueInfoProto]]:
    values = {value.name: value for value in (*graph.input, *graph.output)}
    return [(tensor, values[tensor.name]) for tensor in (*spec.inputs, *spec.outputs)]


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes that inference finds, None where a dimension is unknown."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }


def _free_reshapes(model: onnx.ModelProto, batch: int, shapes: Mapping[str, tuple[int | None, ...]], inputs: set[str]) -> None:
    """Replace the old batch at the head of constant Reshape targets, in nodes that depend on the model's inputs."""
    graph = model.graph
    constants: dict[str, Array] = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and not tensor.external_data
    }
    reached = set(inputs)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        if not reached & set(node.input):
            continue
        reached |= set(node.output)
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = constants[node.input[1]].tolist()
        head = _free_head(node, target, shapes.get(node.input[0], ()), batch)
        if head is None:
            continue
        name = f"{node.input[1]}/{node.output[0]}/free_batch"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([head, *target[1:]], np.int64), name))
        node.input[1] = name


def _free_head(node: onnx.NodeProto, target: list[int], shape: tuple[int | None, ...], batch: int) -> int | None:
    """Return what replaces the first entry of a Reshape target; None where it does not hold the batch.

    At the old batch size the new target means the same: 0 copies the input's own leading dimension, which is the batch;
    -1 stands for the one dimension that the others leave open.
    """
    if not target or target[0] in (0, -1):
        return None
    zero_is_zero = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
    if target[0] == batch and shape and shape[0] == batch and not zero_is_zero:
        return 0
    if target[0] % batch == 0 and shape and shape[0] is not None and shape[0] % batch == 0 and -1 not in target:
        return -1
    if batch > 1 and target[0] % batch == 0:
        raise ModelError(
            f"the batch size {batch} is baked into Reshape {node.name or node.output[0]!r}, target {target}, "
            "and cannot be replaced there"
        )
    return None


def check_same_rows(spec: ModelSpec, batch: int, run_fixed: Run, run_freed: Run) -> None:
    """Check on generated rows that a freed model answers as the fixed one does, whatever the number of rows.

    The fixed model runs batch + 2 rows in launches of its own size; the freed model runs them in one launch, and one row
    alone. Every row must agree within the dtype's tolerance (another batch size may change the last bits).

    Args:
        batch: rows of one launch of the fixed model.
        run_fixed: executes the fixed model on exactly `batch` rows.
        run_freed: executes the freed model on any number of rows.

    Raises:
        ModelError: a run failed, or an output differs; the message names it and says what that means.
    """
    rows = batch + 2
    inputs = random_inputs(spec, rows, {name: 1 for tensor in spec.inputs for name in free_names(tensor).values()})
    launches = {}
    for start in range(0, rows, batch):
        start = min(start, rows - batch)
        feed = _slice(spec.inputs, inputs, start, start + batch)
        launches[start] = _call(run_fixed, feed, f"{batch} rows on the model as it is")
    for start, stop in ((0, rows), (1, 2)):
        what = f"{stop - start} rows"
        got = _call(run_freed, _slice(spec.inputs, inputs, start, stop), f"{what} with the batch axis freed")
        for tensor in spec.outputs:
            if tensor.batch_axis is None:
                for launch in launches.values():
                    _check_close(tensor, launch[tensor.name], got[tensor.name], what)
            else:
                _check_close(tensor, _rows(tensor, launches, start, stop), got[tensor.name], what)


def _rows(tensor: TensorSpec, launches: Mapping[int, Mapping[str, Array]], start: int, stop: int) -> Array:
    """Return rows start..stop of an output from launches that begin at other rows; each row from the last that has it."""
    rows = []
    for row in range(start, stop):
        begin = max(launch for launch in launches if launch <= row)
        rows.append(tensor.rows_of(launches[begin][tensor.name], row - begin, row - begin + 1))
    return np.concatenate(rows, axis=tensor.batch_axis or 0)


def _call(run: Run, inputs: Mapping[str, Array], what: str) -> Mapping[str, Array]:
    try:
        return run(inputs)
    except Exception as error:  # any failure of the runtime is the reason we are looking for
        raise ModelError(f"the batch size is baked in: running {what} fails: {error}") from error


def _check_close(tensor: TensorSpec, want: Array, got: Array, what: str) -> None:
    if want.shape != got.shape:
        raise ModelError(
            f"the batch size is baked in: with {what}, output {tensor.name!r} has shape {list(got.shape)}, "
            f"expected {list(want.shape)}"
        )
    if tensor.dtype.kind in "biu":
        same = np.array_equal(want, got)
    else:
        tolerance = {2: 2e-2, 4: 1e-4, 8: 1e-9}[min(tensor.dtype.itemsize, 8)]
        wide = np.asarray(want, np.float64)
        finite = wide[np.isfinite(wide)]
        scale = float(np.max(np.abs(finite))) if finite.size else 1.0
        same = np.allclose(wide, np.asarray(got, np.float64), rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    if not same:
        raise ModelError(
            f"rows influence one another, or the batch size is baked in: with {what}, output {tensor.name!r} differs from the "
            "answers at the model's own batch size"
        )


def _slice(tensors: tuple[TensorSpec, ...], arrays: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    return {
        tensor.name: np.ascontiguousarray(tensor.rows_of(arrays[tensor.name], start, stop))
        if tensor.batch_axis is not None
        else arrays[tensor.name]
        for tensor in tensors
    }
