"""The passes that PopRT registers, by the names it lists.

Three kinds (Decision, since what most of them do inside is not published):

* Those below with a class of their own do what the name says.
* `SPEED` rearrange a model for an IPU, or work around PopART's limits, and give the same results: here they leave the model as
  it is.
* `REFUSED` change a model's interface or its numbers in ways that the simulator does not have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from poprt_sim import _graph, _memory
from poprt_sim._names import sHostConcatRunnerConfig
from poprt_sim._unsimulated import NotSimulated
from poprt_sim.passes import Pass, register
from poprt_sim.passes._half import to_half
from poprt_sim.passes.onnx_helper import topological_sort
from poprt_sim.passes.shape_inference import infer_shapes
from poprt_sim.utils import get_logger, onnx_tensor_dtype_to_np_dtype

SPEED: Final = (
    *("apply_ir_pass", "attention_padding", "auto_insert_remap", "batchnorm_workaround", "check_unsupported_attribute"),
    *("compress_pattern", "constant_folding", "cumsum_workaround", "eliminate_deadend", "eliminate_duplicate_initializer"),
    *("eliminate_duplicate_nodes", "eliminate_identity", "eliminate_nop_arithmetic", "eliminate_nop_cast"),
    *("eliminate_nop_expand", "eliminate_nop_flatten", "eliminate_nop_if", "eliminate_nop_pad", "eliminate_nop_reshape"),
    *("eliminate_nop_transpose", "erf_gelu_pattern", "expand_if", "fill_squeeze_axes", "float_ops_workaround"),
    *("fold_periodic_initializer", "fuse_bn_into_conv", "fuse_bn_into_gemm", "fuse_cast_into_onehot"),
    *("fuse_consecutive_arithmetic", "fuse_consecutive_cast", "fuse_consecutive_reshape", "fuse_consecutive_squeeze"),
    *("fuse_consecutive_transpose", "fuse_consecutive_unsqueeze", "fuse_mul_into_matmul", "fused_attention", "gelu_pattern"),
    *("indices_workaround", "insert_attention_mask", "layer_norm_pattern", "matmul_rotary_embedding"),
    *("merge_if_with_same_cond", "merge_matmul", "merge_matmul_add", "merge_moe", "merge_multi_slice", "merge_variant_if"),
    *("move_subgraph_initializer", "onehot_workaround", "overlap_io", "post_expand", "pre_scale"),
    *("remove_duplicated_initializer", "remove_empty_concat_inputs", "replace_bn_with_mul_add", "replace_castlike"),
    *("replace_clip_empty_inputs", "replace_consecutive_cast_with_notzero", "replace_div_with_mul"),
    *("replace_einsum_with_matmul", "replace_erf_with_erfv2", "replace_gemm_with_matmul", "replace_greater_or_equal"),
    *("replace_groupnorm_with_fast_norm", "replace_half_reducemean", "replace_hardswish", "replace_isinf"),
    *("replace_less_or_equal", "replace_nonzero", "replace_pow", "replace_round", "replace_softmax", "replace_where_mask"),
    *("replace_where_with_mul_add", "replace_where_with_wherev2", "serialize_matmul", "serialize_matmul_add"),
    *("topk_workaround", "trace_folding"),
)
REFUSED: Final = (
    *("eight_bits_io", "float_to_fp8", "float_to_int8", "float_to_mixed", "layer_precision_compare", "packed_transformer"),
)


class _Speed(Pass):
    """Leaves a model as it is."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        return onnx_model


class _Refused(Pass):
    """Says that it is not simulated."""

    name = ""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        raise NotSimulated(f"the pass {self.name} is not simulated; the model {onnx_model.graph.name!r} was left as it is")


for _name in SPEED:
    register(_name)(type(_name, (_Speed,), {}))
for _name in REFUSED:
    register(_name)(type(_name, (_Refused,), {"name": _name}))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


@register("shape_inference")
class ShapeInference(Pass):
    """Infer types and shapes."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        return infer_shapes(onnx_model)


@register("sort_graph")
class SortGraph(Pass):
    """Sort the nodes of the main graph topologically."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        _graph.replace(result.graph.node, topological_sort(result.graph))
        return result


@register("unique_name_for_nodes")
class UniqueNames(Pass):
    """Give every node of the main graph a name that no other has."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        taken: set[str] = set()
        for node in result.graph.node:
            name, number = node.name or node.op_type, 0
            while (node.name if number == 0 and node.name else f"{name}_{number}") in taken or (number == 0 and not node.name):
                number += 1
                if f"{name}_{number}" not in taken:
                    node.name = f"{name}_{number}"
                    break
            taken.add(node.name)
        return result


@register("remove_initializer_from_input")
class RemoveInitializerFromInput(Pass):
    """Take the weights out of the list of inputs, where old files have them."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        _graph.replace(result.graph.input, _graph.graph_inputs(result))
        result.ir_version = max(result.ir_version, 4)
        return result


@register("extract_constant_to_initializer")
class ExtractConstants(Pass):
    """Make initializers of the main graph's Constant nodes."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        kept = []
        outputs = {value.name for value in result.graph.output}
        for node in result.graph.node:
            value = next((each.t for each in node.attribute if each.name == "value"), None)
            if node.op_type != "Constant" or value is None or node.output[0] in outputs:
                kept.append(node)
                continue
            tensor = result.graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        _graph.replace(result.graph.node, kept)
        result.ir_version = max(result.ir_version, 4)
        return result


@register("eliminate_unused_initializer")
class EliminateUnused(Pass):
    """Take away constants that nothing reads."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        used = {name for node in result.graph.node for name in _graph.names_read(node)}
        used |= {value.name for value in (*result.graph.input, *result.graph.output)}
        _graph.replace(result.graph.initializer, [each for each in result.graph.initializer if each.name in used])
        return result


@register("const_input_shape")
class ConstInputShape(Pass):
    """Fix variable axes of inputs.

    Args:
        const_input_shape: name -> shape.
        batch_size, batch_axis: a size for one axis of all inputs; both or none.
    """

    def __init__(
        self,
        const_input_shape: Mapping[str, Sequence[int]] | None = None,
        batch_size: int | None = None,
        batch_axis: int | None = None,
    ) -> None:
        super().__init__()
        self._shapes = dict(const_input_shape or {})
        if (batch_size is None) != (batch_axis is None):
            raise ValueError("batch_size and batch_axis: expected both or none")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        self._batch_size, self._batch_axis = batch_size, batch_axis

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with these shapes.

        Raises:
            ValueError: no such input, another number of axes, or a fixed axis would change.
        """
        result = _copy(onnx_model)
        inputs = {value.name: value for value in _graph.graph_inputs(result)}
        for name, shape in self._shapes.items():
            if name not in inputs:
                raise ValueError(f"input_shape: the model has no input {name!r}; its inputs are {', '.join(inputs)}")
            self._fix(inputs[name], dict(enumerate(shape)), len(shape))
        if self._batch_size is not None and self._batch_axis is not None:
            for value in inputs.values():
                rank = len(value.type.tensor_type.shape.dim)
                if not -rank <= self._batch_axis < rank:
                    raise ValueError(f"batch_axis: input {value.name!r} has {rank} axes and no axis {self._batch_axis}")
                axis = self._batch_axis % rank
                self._fix(value, {axis: self._batch_size}, rank)
        if self._shapes or self._batch_size is not None:
            del result.graph.value_info[:]
            for value in result.graph.output:
                value.type.tensor_type.ClearField("shape")
        return result

    @staticmethod
    def _fix(value: onnx.ValueInfoProto, sizes: Mapping[int, int], rank: int) -> None:
        dims = value.type.tensor_type.shape.dim
        if not value.type.tensor_type.HasField("shape"):
            for _ in range(rank):
                dims.add()
        if len(dims) != rank:
            raise ValueError(f"input {value.name!r}: expected {len(dims)} axes, got the shape {list(sizes.values())}")
        for axis, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
                raise ValueError(f"input {value.name!r}: expected axes of 1 or more, got {size!r}")
            if dims[axis].HasField("dim_value") and dims[axis].dim_value > 0 and dims[axis].dim_value != size:
                raise ValueError(
                    f"input {value.name!r}: axis {axis} is {dims[axis].dim_value} and cannot become {size}; "
                    "only variable axes can be set"
                )
            dims[axis].dim_value = int(size)


@register("const_batch_size")
class ConstBatchSize(Pass):
    """Make the first axis of every input where it varies a number."""

    def __init__(self, const_batch_size: int = 1) -> None:
        super().__init__()
        if const_batch_size < 1:
            raise ValueError(f"const_batch_size: expected 1 or more, got {const_batch_size}")
        self._size = const_batch_size

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        for value in _graph.graph_inputs(result):
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].dim_value <= 0:
                dims[0].dim_value = self._size
        del result.graph.value_info[:]
        for value in result.graph.output:
            value.type.tensor_type.ClearField("shape")
        return result


def _retype_borders(model: onnx.ModelProto, old: int, new: int) -> onnx.ModelProto:
    """Return the model with inputs and outputs of one type in another, a Cast behind or before each."""
    result = _copy(model)
    graph = result.graph
    taken = {name for node in _graph.nodes(graph) for name in (*node.input, *node.output)}
    inputs = {value.name for value in _graph.graph_inputs(result) if value.type.tensor_type.elem_type == old}
    outputs = {value.name for value in graph.output if value.type.tensor_type.elem_type == old} - inputs
    names = {}
    for name in (*inputs, *outputs):
        names[name] = f"{name}__{TensorProto.DataType.Name(old).lower()}"
        while names[name] in taken:
            names[name] += "_"
    _graph.rename(graph, names)
    for value in (*graph.input, *graph.output):
        if value.name in inputs | outputs:
            value.type.tensor_type.elem_type = new
    before = [helper.make_node("Cast", [n], [names[n]], to=old) for n in (v.name for v in graph.input) if n in inputs]
    behind = [helper.make_node("Cast", [names[n]], [n], to=new) for n in (v.name for v in graph.output) if n in outputs]
    _graph.replace(graph.node, [*before, *graph.node, *behind])
    return result


@register("int64_to_int32")
class Int64ToInt32(Pass):
    """Make int64 inputs and outputs int32. Decision: inside, where ONNX asks for int64 (shapes, indexes), it stays."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        return _retype_borders(onnx_model, TensorProto.INT64, TensorProto.INT32)


@register("double_to_float")
class DoubleToFloat(Pass):
    """Make float64 inputs and outputs float32. Decision: inside, float64 stays: an IPU would compute in float32."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        return _retype_borders(onnx_model, TensorProto.DOUBLE, TensorProto.FLOAT)


@register("float_to_half")
class Float2Half(Pass):
    """Convert to half precision; see `poprt_sim.passes._half`.

    Args:
        skip_op_types: operators that stay in single precision.
        enable_avoid_overflow_patterns: Decision: refused, which patterns they are is not published.
    """

    def __init__(self, skip_op_types: Sequence[str] = (), enable_avoid_overflow_patterns: bool = False) -> None:
        super().__init__()
        if enable_avoid_overflow_patterns:
            raise NotSimulated("enable_avoid_overflow_patterns is not simulated; name operators in fp16_skip_op_types instead")
        self._skip = [skip_op_types] if isinstance(skip_op_types, str) else list(skip_op_types)

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        return to_half(onnx_model, self._skip)


@register("add_checkpoints")
class AddCheckpoints(Pass):
    """Return these tensors, too."""

    def __init__(self, checkpoints: Sequence[str]) -> None:
        super().__init__()
        self._names = [name.strip() for name in checkpoints.split(",")] if isinstance(checkpoints, str) else list(checkpoints)

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with them behind its outputs.

        Raises:
            ValueError: it has no such tensor.
        """
        result = _copy(onnx_model)
        known = _graph.infer(result)
        made = {name for node in result.graph.node for name in node.output}
        there = {value.name for value in result.graph.output}
        for name in self._names:
            if name not in made:
                raise ValueError(f"checkpoints: no node makes a tensor {name!r}")
            if name not in there:
                value = known.get(name, _graph.Value(None, None))
                result.graph.output.append(helper.make_tensor_value_info(name, value.element or 0, value.shape))
        return result


@register("remove_outputs")
class RemoveOutputs(Pass):
    """Take outputs away, and what only they need."""

    def __init__(self, outputs: Sequence[str] = ()) -> None:
        super().__init__()
        self._names = [name.strip() for name in outputs.split(",")] if isinstance(outputs, str) else list(outputs)

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model without them; inputs stay.

        Raises:
            ValueError: it has no such output, or would have none left.
        """
        result = _copy(onnx_model)
        there = [value.name for value in result.graph.output]
        for name in self._names:
            if name not in there:
                raise ValueError(f"remove_outputs: the model has no output {name!r}; its outputs are {', '.join(there)}")
        kept = [value for value in result.graph.output if value.name not in self._names]
        if not kept:
            raise ValueError("remove_outputs: at least one output has to stay")
        _graph.replace(result.graph.output, kept)
        needed = {value.name for value in result.graph.output}
        nodes = []
        for node in reversed(result.graph.node):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(_graph.names_read(node))
        _graph.replace(result.graph.node, reversed(nodes))
        _graph.replace(result.graph.initializer, [each for each in result.graph.initializer if each.name in needed])
        return result


@register("remove_input_cast")
class RemoveInputCast(Pass):
    """Where all that happens to a floating input is a Cast to one type of whole numbers, make that the input's type."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        graph = result.graph
        outputs = {value.name for value in graph.output}
        for value in _graph.graph_inputs(result):
            readers = [node for node in graph.node if value.name in _graph.names_read(node)]
            kinds = {next(a.i for a in node.attribute if a.name == "to") for node in readers if node.op_type == "Cast"}
            whole = kinds <= {TensorProto.INT32, TensorProto.INT64, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8}
            floating = value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
            casts = {node.output[0] for node in readers}
            if not floating or len(kinds) != 1 or not whole or casts & outputs:
                continue
            if any(node.op_type != "Cast" for node in readers):
                continue
            value.type.tensor_type.elem_type = kinds.pop()
            _graph.replace(graph.node, [node for node in graph.node if node not in readers])
            _graph.rename(graph, dict.fromkeys(casts, value.name))
        return result


@register("apply_host_concat_split")
class ApplyHostConcatSplit(Pass):
    """Replace inputs of one type and shape by one input that holds them all.

    The new input has the shape [how many, elements of one]; a Split and Reshapes give the old tensors. What was merged stands
    as JSON in the model's metadata, for `HostConcatRunner`: a list of tensor_name, input_tensor_names, shape, data_size_bytes.
    Decision: the number in an entry is the most that one new input holds; a single input that is left stays as it is.

    Args:
        merged_inputs: (ONNX element type, shape) or (ONNX element type, shape, number), or a sequence of such.
        remap: without effect.
    """

    def __init__(self, merged_inputs: Sequence[Any], remap: bool = False) -> None:  # noqa: ARG002 - only changes the layout
        super().__init__()
        self._entries = [(int(entry[0]), tuple(entry[1]), int(entry[2]) if len(entry) > 2 else 0) for entry in merged_inputs]

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        result = _copy(onnx_model)
        graph = result.graph
        opset = next(entry.version for entry in result.opset_import if entry.domain in ("", "ai.onnx"))
        said: list[dict[str, Any]] = []
        nodes: list[onnx.NodeProto] = []
        for element, shape, number in self._entries:
            fitting = [
                value.name
                for value in _graph.graph_inputs(result)
                if value.type.tensor_type.elem_type == element and _graph.shape_of(value) == shape
            ]
            size = number or max(1, len(fitting))
            for start in range(0, len(fitting), size):
                group = fitting[start : start + size]
                if len(group) < 2:
                    continue
                name = f"merged_input_{len(said)}"
                elements = int(np.prod(shape))
                nodes += self._nodes(graph, name, group, shape, opset)
                merged = helper.make_tensor_value_info(name, element, [len(group), elements])
                _graph.replace(graph.input, [*(value for value in graph.input if value.name not in group), merged])
                said.append(
                    {
                        "tensor_name": name,
                        "input_tensor_names": group,
                        "shape": [len(group), elements],
                        "data_size_bytes": len(group) * elements * onnx_tensor_dtype_to_np_dtype(element).itemsize,
                    }
                )
        _graph.replace(graph.node, [*nodes, *graph.node])
        kept = {entry.key: entry.value for entry in result.metadata_props}
        helper.set_model_props(result, {**kept, sHostConcatRunnerConfig: json.dumps(said)})
        result.ir_version = max(result.ir_version, 4)
        return result

    @staticmethod
    def _nodes(
        graph: onnx.GraphProto, name: str, group: Sequence[str], shape: tuple[int, ...], opset: int
    ) -> list[onnx.NodeProto]:
        parts = [f"{name}/{each}" for each in group]
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}/shape"))
        ones = [1] * len(group)
        if opset < 13:
            split = helper.make_node("Split", [name], parts, axis=0, split=ones)
        else:
            graph.initializer.append(numpy_helper.from_array(np.array(ones, np.int64), f"{name}/split"))
            split = helper.make_node("Split", [name, f"{name}/split"], parts, axis=0)
        shapes = [helper.make_node("Reshape", [part, f"{name}/shape"], [each]) for part, each in zip(parts, group, strict=True)]
        return [split, *shapes]


@register("manual_sharding")
class ManualSharding(Pass):
    """Say which IPU, and which stage of a pipeline, each node of the main graph runs on.

    The named nodes are taken in topological order: each gets its number, and so does all it depends on that has none yet. What
    is left gets the largest number plus one. Nodes need names of their own.

    Args:
        sharding_info: node -> IPU.
        pipelining_info: node -> stage; none without a pipeline.
    """

    def __init__(
        self, sharding_info: Mapping[str, int] | None = None, pipelining_info: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        self._infos = (
            (_memory.IPU_ATTRIBUTE, dict(sharding_info or {})),
            (_memory.STAGE_ATTRIBUTE, dict(pipelining_info or {})),
        )

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with an attribute at each node.

        Raises:
            ValueError: a node has no name, or one that another has, or a named node does not exist.
        """
        result = _copy(onnx_model)
        nodes = {node.name: node for node in result.graph.node}
        if "" in nodes or len(nodes) != len(result.graph.node):
            raise ValueError("manual sharding: each node needs a name of its own; the pass unique_name_for_nodes gives them")
        makers = {name: node for node in result.graph.node for name in node.output if name}
        for attribute, info in self._infos:
            if not info:
                continue
            numbers: dict[str, int] = {}
            missing = sorted(info.keys() - nodes.keys())
            if missing:
                raise ValueError(f"manual sharding: the model has no node {missing[0]!r}")
            for name, number in ((node.name, info[node.name]) for node in topological_sort(result.graph) if node.name in info):
                waiting = [nodes[name]]
                while waiting:
                    node = waiting.pop()
                    if node.name not in numbers:
                        numbers[node.name] = number
                        waiting += [makers[each] for each in _graph.names_read(node) if each in makers]
            rest = max(info.values()) + 1
            for node in result.graph.node:
                node.attribute.append(helper.make_attribute(attribute, numbers.get(node.name, rest)))
        return result


@register("check_with_fake_data")
class CheckWithFakeData(Pass):
    """Run a model and the one it was made from on the same made-up data.

    Args:
        origin_model: the other one; its shapes are those of the model that is checked.
    """

    def __init__(self, origin_model: onnx.ModelProto | None = None) -> None:
        super().__init__()
        self._origin = origin_model

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model, and log the largest difference of each output.

        Raises:
            RuntimeError: one of the two does not run, or their outputs have different shapes.
        """
        generator = np.random.default_rng(2023)
        feeds = {}
        for value in _graph.graph_inputs(onnx_model):
            dtype = onnx_tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[value.name] = generator.uniform(0, 1, _graph.shape_of(value) or ()).astype(dtype)
        results = _run(onnx_model, feeds)
        if self._origin is None:
            return onnx_model
        types = {v.name: onnx_tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in self._origin.graph.input}
        expected = _run(self._origin, {name: array.astype(types.get(name, array.dtype)) for name, array in feeds.items()})
        for name in expected.keys() & results.keys():
            if expected[name].shape != results[name].shape:
                raise RuntimeError(
                    f"check: output {name!r} has the shape {list(results[name].shape)}, "
                    f"before it was {list(expected[name].shape)}"
                )
            difference = np.abs(np.asarray(expected[name], np.float64) - np.asarray(results[name], np.float64))
            get_logger().info("check: output %r differs by %g at most", name, difference.max() if difference.size else 0)
        return onnx_model


def _run(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    runnable = _copy(model)
    _graph.clamp_ir(runnable)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(runnable.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # ONNX Runtime's classes share no base below Exception
        raise RuntimeError(f"check: the model does not run: {error}") from error


@register("final_check")
class FinalCheck(Pass):
    """Check that types and shapes fit together and that every input is fixed."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        _graph.infer(onnx_model)
        for value in _graph.graph_inputs(onnx_model):
            shape = _graph.shape_of(value)
            if shape is None or any(dim <= 0 for dim in shape):
                raise RuntimeError(f"input {value.name!r} has a variable axis: fix it with input_shape")
        return onnx_model


class _Overview(Pass):
    def __init__(self, use_print: bool = True) -> None:
        super().__init__()
        self._say = print if use_print else get_logger().info


@register("model_overview")
class ModelOverview(_Overview):
    """Print which operators a model has, how often."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        counts: dict[str, int] = {}
        for node in _graph.nodes(onnx_model.graph):
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        self._say(f"{onnx_model.graph.name}: {sum(counts.values())} nodes")
        for name, count in sorted(counts.items()):
            self._say(f"{name}: {count}")
        return onnx_model


@register("model_io_info_stat")
class ModelIOInfo(_Overview):
    """Print how many inputs and outputs of each type and shape a model has, and their bytes."""

    def run(self, onnx_model: onnx.ModelProto) -> onnx.ModelProto:
        for what, values in (("input", _graph.graph_inputs(onnx_model)), ("output", list(onnx_model.graph.output))):
            counts: dict[tuple[str, tuple[int, ...]], int] = {}
            for value in values:
                shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
                key = (str(onnx_tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)), shape)
                counts[key] = counts.get(key, 0) + 1
            for (dtype, shape), count in counts.items():
                size = count * int(np.prod(shape)) * np.dtype(dtype).itemsize
                self._say(f"{count} {what}{'s' if count > 1 else ''}: {dtype} {list(shape)}, {size} bytes")
        return onnx_model
