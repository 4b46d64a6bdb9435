"""Several models in one ONNX file, as `poprt.converter.MFConverter` writes it and the compiler reads it.

The graphs lie side by side, every name of the i-th behind ``graph<i>/``, with the input ``index`` beside theirs that says which
one runs (contract: the names and the input are the vendor's, how its ONNX file looks is not published). Metadata says how many
there are, so that the compiler tells such a file from a model that happens to have such names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx
import onnx.compose
from onnx import TensorProto, helper

from poprt_sim import _graph
from poprt_sim._popef import INDEX_INPUT

METADATA_KEY: Final = "poprt_sim.fused_models"


def fuse(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Return one model that holds all of them.

    Raises:
        GraphError: there are none, or they were converted to different opset versions.
    """
    if not models:
        raise _graph.GraphError("model fusion: expected at least one model, got none")
    parts = [onnx.compose.add_prefix(_graph.inline(model), _prefix(number)) for number, model in enumerate(models)]
    opsets: dict[str, int] = {}
    for number, part in enumerate(parts):
        for entry in part.opset_import:
            domain = entry.domain if entry.domain != "ai.onnx" else ""
            if opsets.setdefault(domain, entry.version) != entry.version:
                raise _graph.GraphError(
                    f"model fusion: model {number} has version {entry.version} of the operators {domain or 'ai.onnx'!r}, "
                    f"those before it have {opsets[domain]}; convert all to one convert_version"
                )
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "model_fusion",
        [
            *(value for part in parts for value in part.graph.input),
            helper.make_tensor_value_info(INDEX_INPUT, TensorProto.UINT32, [1]),
        ],
        [value for part in parts for value in part.graph.output],
        [tensor for part in parts for tensor in part.graph.initializer],
    )
    fused = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()])
    _graph.clamp_ir(fused)
    helper.set_model_props(fused, {METADATA_KEY: str(len(parts))})
    return fused


def split(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Return the models in a fused one, with the names they have there; none for an ordinary model.

    Raises:
        GraphError: the metadata promises another number of models than there are.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    if text is None:
        return []
    count = int(text) if text.isdecimal() and len(text) < 5 else 0
    parts = []
    for number in range(count):
        prefix = _prefix(number)
        part = onnx.ModelProto()
        part.CopyFrom(model)
        part.ClearField("metadata_props")
        part.graph.name = prefix.rstrip("/")
        for field in (part.graph.input, part.graph.output, part.graph.initializer):
            _graph.replace(field, [each for each in field if each.name.startswith(prefix)])
        _graph.replace(part.graph.node, [each for each in part.graph.node if any(n.startswith(prefix) for n in each.output)])
        parts.append(part)
    if not parts or not all(part.graph.output for part in parts):
        raise _graph.GraphError(f"model fusion: the file claims {text!r} models and does not have them")
    return parts


def _prefix(number: int) -> str:
    return f"graph{number}/"
