"""The vendor's rules for gears, checked before ``atc`` starts, and its advice.

What the manual demands is an error here, with the model's own names in it; what it recommends is a sentence of `advice`.
Manual: https://www.hiascend.com/document, ATC tool guide, ``--dynamic_batch_size`` and ``--dynamic_dims``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anybatch

if TYPE_CHECKING:
    import onnx

MIN_GEARS: Final = 2
MAX_GEARS: Final = 100
_LARGEST_ADVISED: Final = 2048
_OPSETS: Final = (11, 18)
# The manual says "too many or too large" without a number; these are ours.
_MANY_GEARS: Final = 50
_LARGE_GEAR: Final = 1024

# Operators whose result's shape is decided by the values of these inputs. None stands for all of them.
_SHAPED_BY: Final[Mapping[str, tuple[int, ...] | None]] = {
    "NonZero": None,
    "Unique": None,
    "NonMaxSuppression": None,
    "StringSplit": None,
    "Compress": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
# Their results depend on an input's shape alone, which each gear fixes.
_SHAPE_ONLY: Final = frozenset({"Shape", "Size"})


def check_gears(gears: Sequence[int]) -> None:
    """Check how many gears there are; one alone is no gear but a fixed shape, and fine.

    Raises:
        InputError: there are more than the vendor allows.
    """
    if len(gears) > MAX_GEARS:
        raise anybatch.InputError(
            f"expected at most {MAX_GEARS} batch sizes, which is the vendor's limit for one model, got {len(gears)}; "
            "rows in between are padded or split, so a few well-chosen ones do"
        )


def check_names(spec: anybatch.ModelSpec) -> None:
    """Check that the inputs' names can be written in ``--input_shape``.

    Raises:
        ModelError: one cannot.
    """
    for tensor in spec.inputs:
        if not tensor.name or re.search(r"[;\s]", tensor.name):
            raise anybatch.ModelError(
                f"input {tensor.name!r}: atc takes shapes as 'name:1,3;name2:4', so a name must not be empty or hold ';' or "
                "blanks; rename it"
            )


def check_no_scalars(spec: anybatch.ModelSpec) -> None:
    """Check that no input is a scalar, which ``--dynamic_batch_size`` does not take.

    Raises:
        ModelError: one is.
    """
    for tensor in spec.inputs:
        if not tensor.shape:
            raise anybatch.ModelError(
                f"input {tensor.name!r} is a scalar, and the vendor's batch gears need at least one dimension in every input: "
                "give it the shape [1], make it a constant, or compile a single batch size"
            )


def check_fixed_shapes(model: onnx.ModelProto) -> None:
    """Check that each shape within the network follows from the shapes of its inputs, as gears need it.

    Found are operators whose result has a size that data decides, at any depth: those that select (NonZero, Compress,
    NonMaxSuppression, ...), those that take a shape as a tensor (Reshape, Slice, Range, ...) where that tensor depends on the
    data of an input and not just on its shape, an If on data whose branches differ in shape, and a Loop that stacks results
    over a number of turns that data decides.

    Raises:
        ModelError: there is one; the message names the node.
    """
    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    shapes = _shapes_of_outputs(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name for value in model.graph.input} - weights
    _check_graph(model.graph.node, inputs, shapes)


def _check_graph(
    nodes: Iterable[onnx.NodeProto], data: set[str], shapes: Mapping[str, tuple[object, ...]], *, refuse: bool = True
) -> set[str]:
    """Follow what is known at run time only through nodes in order, from the names `data`; return all such names.

    Args:
        refuse: whether to check the nodes on the way.
    """
    data = set(data)
    for node in nodes:
        own = node.domain in ("", "ai.onnx")
        on_data = [index for index, name in enumerate(node.input) if name in data]
        if refuse and own and node.op_type in _SHAPED_BY:
            deciding = _SHAPED_BY[node.op_type]
            if any(deciding is None or index in deciding for index in on_data):
                _refuse(node, "the size of its result depends on the data")
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        inner = [_check_body(node, body, data, shapes, refuse=refuse) for body in bodies]
        if refuse and own and node.op_type == "If" and on_data:
            _check_branches(node, bodies, shapes)
        from_bodies = any(value.name in names for body, names in zip(bodies, inner, strict=True) for value in body.output)
        if node.op_type not in _SHAPE_ONLY and (on_data or from_bodies):
            data |= set(node.output)
    return data - {""}


def _check_body(
    node: onnx.NodeProto, body: onnx.GraphProto, data: set[str], shapes: Mapping[str, tuple[object, ...]], *, refuse: bool
) -> set[str]:
    """Follow data through the body of an If, Loop or Scan; what a turn hands to the next counts at the next one's beginning."""
    loop = node.op_type == "Loop"
    inside = data - {value.name for value in body.input}
    # A Loop's body has the number of the turn where the node has the number of turns.
    handed = [(own.name, outer) for own, outer in zip(body.input, node.input, strict=False)][int(loop) :]
    inside |= {own for own, outer in handed if outer in data}
    states = body.input[1:] if loop else body.input[: len(body.output)]
    while True:
        after = _check_graph(body.node, inside, shapes, refuse=False)
        more = {own.name for own, result in zip(states, body.output, strict=False) if result.name in after} - inside
        if not more or node.op_type == "If":
            break
        inside |= more
    if refuse:
        _check_graph(body.node, inside, shapes)
        stacks = loop and len(node.output) > len(node.input) - 2
        if stacks and (node.input[0] in data or body.output[0].name in after):
            _refuse(node, "the number of its turns, and with it the size of its result, depends on the data")
    return after


def _check_branches(node: onnx.NodeProto, bodies: Sequence[onnx.GraphProto], shapes: Mapping[str, tuple[object, ...]]) -> None:
    for first, second in zip(bodies[0].output, bodies[1].output, strict=False):
        one, other = (shapes.get(value.name) or _dims(value) for value in (first, second))
        if one is not None and other is not None and one != other:
            _refuse(node, f"its branches give {list(one)} and {list(other)}, and the data decides which")


def _shapes_of_outputs(model: onnx.ModelProto) -> dict[str, tuple[object, ...]]:
    """Return the shapes that inference finds, for a model that has an If: nothing else asks for them.

    Inference copies all weights twice, which for 50 MB takes half a second, at each look into the cache.
    """
    if not _has_if(model.graph):
        return {}
    import onnx.shape_inference

    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # what is wrong with the model, the converter tells better; protobuf's errors share no public type
        return {}
    found: dict[str, tuple[object, ...]] = {}

    def collect(graph: onnx.GraphProto) -> None:
        for value in (*graph.value_info, *graph.output):
            dims = _dims(value)
            if dims is not None:
                found[value.name] = dims
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    collect(attribute.g)

    collect(inferred.graph)
    return found


def _has_if(graph: onnx.GraphProto) -> bool:
    bodies = (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    return any(node.op_type == "If" for node in graph.node) or any(_has_if(body) for body in bodies)


def _dims(value: onnx.ValueInfoProto) -> tuple[object, ...] | None:
    """Return the dimensions of a value where all are known by size or name."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim)
    return None if "" in dims else dims


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or next(iter(node.output), ""))


def _refuse(node: onnx.NodeProto, reason: str) -> None:
    raise anybatch.ModelError(
        f"{node.op_type} {_name(node)!r}: {reason}, and the vendor supports gears only "
        "where all shapes within the network are fixed; compile a single batch size, or keep this part of the model outside"
    )


def check_aipp(path: Path, spec: anybatch.ModelSpec, gears: Sequence[int], *, dims: bool) -> list[str]:
    """Check an AIPP configuration as far as gears need it, and return what the caller has to keep in mind, in sentences.

    Args:
        path: the configuration file.
        spec: of the model.
        gears: the batch sizes.
        dims: whether the gears are n-d ones, ``--dynamic_dims``.

    Raises:
        InputError: it cannot be read, does not go with these gears, lacks what dynamic AIPP needs, or names an input that is
            not there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise anybatch.InputError(f"insert_op_conf: {str(path)!r} cannot be read: {error}") from error
    text = re.sub(r"#.*", "", text)
    modes = re.findall(r"\baipp_mode\s*:\s*[\"']?(\w+)", text)
    if not modes:
        raise anybatch.InputError(f"insert_op_conf: {str(path)!r} has no aipp_mode: is it an AIPP configuration?")
    if unknown := set(modes) - {"static", "dynamic"}:
        raise anybatch.InputError(f"insert_op_conf: expected aipp_mode static or dynamic, got {sorted(unknown)}")
    if dims and len(gears) > 1:
        raise anybatch.InputError(
            "insert_op_conf: the vendor has no AIPP with n-d gears, which this model needs because its rows are not simply the "
            "first axis of every input: compile a single batch size, or prepare images outside of the model"
        )
    for rank in map(int, re.findall(r"\brelated_input_rank\s*:\s*(\d+)", text)):
        if rank >= len(spec.inputs):
            raise anybatch.InputError(f"insert_op_conf: related_input_rank {rank}, but the model has {len(spec.inputs)} inputs")
    if "dynamic" not in modes:
        return []
    size = re.search(r"\bmax_src_image_size\s*:\s*(\d+)", text)
    if size is None:
        raise anybatch.InputError("insert_op_conf: dynamic AIPP needs max_src_image_size, in bytes, for the largest batch size")
    largest = max(gears)
    return [
        f"dynamic AIPP: its parameters must be made for {largest} images, the largest batch size, whatever batch size runs; "
        f"max_src_image_size {size[1]} bytes leaves {int(size[1]) // largest} bytes for each of them"
    ]


def advice(spec: anybatch.ModelSpec, batch_sizes: Sequence[int], *, opset: int | None = None) -> list[str]:
    """Return what the vendor would choose otherwise, in sentences; nothing of it keeps a model from being compiled.

    Vision is taken to be an input [rows, channels or height, ...] of four axes, language a two-dimensional input of integers.
    "Many" gears are more than 50, "large" ones above 1024: the manual gives no number.

    Args:
        spec: of the model.
        batch_sizes: the gears, ascending.
        opset: version of the model's operator set, None where it has none.
    """
    said = []
    if len(batch_sizes) > 1:
        batched = [tensor for tensor in spec.inputs if tensor.batch_axis == 0]
        if any(len(tensor.shape) == 4 for tensor in batched):
            if not {8, 16} & set(batch_sizes):
                said.append("for vision models the vendor recommends batch sizes 8 and 16: measure them")
        elif any(len(tensor.shape) == 2 and tensor.dtype.kind in "iu" for tensor in batched):
            odd = [size for size in batch_sizes if size % 16]
            if odd:
                said.append(f"for language models the vendor recommends multiples of 16, and {odd} are none: measure both")
        if len(batch_sizes) > _MANY_GEARS or max(batch_sizes) > _LARGE_GEAR:
            said.append(
                "many or large batch sizes need much memory: where the model runs, `swapoff -a` keeps the machine from "
                "becoming very slow; if compiling fails, try fewer or smaller ones"
            )
    if max(batch_sizes) > _LARGEST_ADVISED:
        said.append(f"the vendor recommends batch sizes up to {_LARGEST_ADVISED}, got {max(batch_sizes)}")
    if opset is not None and not _OPSETS[0] <= opset <= _OPSETS[1]:
        said.append(f"the model's operator set is {opset}; the vendor documents {_OPSETS[0]} to {_OPSETS[1]}")
    return said
