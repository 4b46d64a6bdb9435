"""PopRT's compiler: ONNX in, PopEF out.

Nothing is optimised: the graph is checked, its shapes and types are inferred, its need for memory is reckoned, and it is
written down for ONNX Runtime. Options that only make an IPU faster are stored and change nothing.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from poprt_sim import _fusion, _graph, _memory
from poprt_sim._machine import IPU_VERSIONS, api, machine
from poprt_sim._popef import DTYPES, Popef, PopefError, TensorInfo, fuse, read_popef, write_popef
from poprt_sim._unsimulated import NotSimulated

__all__ = ["Compiler", "CompilerOptions", "Executable"]

Model: TypeAlias = "str | bytes | os.PathLike[str] | onnx.ModelProto"

# Name -> default (contract 1.3).
_DEFAULTS: Final[Mapping[str, Any]] = {
    "num_ipus": 1,
    "ipu_version": "",
    "batches_per_step": 1,
    "partials_type": "half",
    "available_memory_proportion": 0.6,
    "num_io_tiles": 0,
    "enable_model_fusion": False,
    "enable_prefetch_datastreams": True,
    "stream_buffering_depth": 1,
    "enable_pad_conv_channel": False,
    "serialize_ir": False,
    "serialized_ir_dest": "",
    "enable_gather_simplifier": True,
    "engine_options": {},
    "show_compilation_progress_bar": True,
    "custom_patterns": [],
    "custom_transform_applier_settings": {},
    "opaque_blobs": {},
    "use_128bit_conv_unit_load": False,
    "enable_multi_stage_reduce": True,
    "enable_fast_reduce": False,
    "enable_outlining": True,
    "group_host_sync": False,
    "rearrange_streams_on_host": False,
    "rearrange_anchors_on_host": True,
    "outline_threshold": 1.0,
    "enable_non_stable_softmax": False,
    "enable_pipelining": False,
    "enable_engine_caching": False,
    "cache_path": "",
    "constant_weights": True,
    "subgraph_copying_strategy": 0,
    "virtual_graph_mode": "off",
    "virtual_graph_split_ratios": [],
    "time_limit_scheduler": 1e9,
    "swap_limit_scheduler": 1e9,
    "transitive_closure_optimization_threshold": 100000,
    "create_host_transferable_tensor_with_offset": False,
    "enable_efficient_overlap_io_topo_cons": False,
}


class CompilerOptions:
    """How to compile: every field of PopRT 1.5 with its default.

    What the simulator does with them:

    * ``num_ipus``, ``num_io_tiles``, ``stream_buffering_depth``, ``virtual_graph_mode`` count in the model of memory.
    * ``batches_per_step``, ``num_io_tiles``, ``num_ipus``, ``ipu_version``, ``opaque_blobs`` are written down for the runtime.
    * ``constant_weights`` False makes the weights updatable; ``enable_engine_caching`` keeps compiled models in ``cache_path``.
    * ``custom_patterns``, ``custom_transform_applier_settings`` and ``serialize_ir`` are refused when compiling: they need
      PopART.
    * The others tune an IPU and change no result.

    Decision: as a class of the vendor's binding would, an unknown name raises AttributeError and a wrong type TypeError.
    """

    __slots__ = ("_values",)

    def __init__(self) -> None:
        object.__setattr__(self, "_values", copy.deepcopy(dict(_DEFAULTS)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CompilerOptions:
        """Return options with these fields set.

        Raises:
            AttributeError, TypeError: as assigning them does.
        """
        options = cls()
        for name, value in values.items():
            setattr(options, name, value)
        return options

    def __getattr__(self, name: str) -> Any:
        if name not in _DEFAULTS:
            raise AttributeError(f"CompilerOptions has no option {name!r}; it has {', '.join(_DEFAULTS)}")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _DEFAULTS:
            raise AttributeError(f"CompilerOptions has no option {name!r}; it has {', '.join(_DEFAULTS)}")
        kind = type(_DEFAULTS[name])
        if kind is bool or kind is str:
            fits = isinstance(value, kind)
        elif kind is int:
            fits = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        elif kind is float:
            fits = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        else:
            fits = isinstance(value, Mapping if kind is dict else Sequence) and not isinstance(value, str)
        if not fits:
            raise TypeError(f"CompilerOptions.{name}: expected {kind.__name__}, got {type(value).__name__} {value!r}")
        self._values[name] = kind(value)

    def __dir__(self) -> list[str]:
        return ["from_dict", *_DEFAULTS]

    def __deepcopy__(self, memo: dict[int, Any]) -> CompilerOptions:
        return CompilerOptions.from_dict(copy.deepcopy(self._values, memo))

    def __copy__(self) -> CompilerOptions:
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        changed = {name: value for name, value in self._values.items() if value != _DEFAULTS[name]}
        return f"CompilerOptions({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


class Executable:
    """A compiled model, from a file, a stream, or the compiler.

    Args:
        source: a PopEF's path, a list of one path, or a binary stream. Several files, which PopRT joins, are not simulated.

    Attributes:
        popef: what it is.

    Raises:
        PopefError: it is missing, damaged, or not one of the simulator.
    """

    def __init__(self, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | io.BufferedIOBase | Popef) -> None:
        if isinstance(source, Popef):
            self.popef = source
        elif isinstance(source, (str, os.PathLike)):
            self.popef = read_popef(source)
        elif isinstance(source, Sequence) and not isinstance(source, bytes):
            if len(source) != 1:
                raise NotSimulated(
                    f"an Executable of {len(source)} files is not simulated: give the one that the compiler wrote"
                )
            self.popef = read_popef(source[0])
        elif hasattr(source, "read"):
            data = source.read()
            if not isinstance(data, bytes):
                raise TypeError("Executable: expected a binary stream, got one of text")
            self.popef = read_popef(data)
        else:
            raise TypeError(f"Executable: expected a path, a list of paths or a binary stream, got {type(source).__name__}")

    def __repr__(self) -> str:
        return f"<Executable {self.popef.name!r}>"


class Compiler:
    """Compile ONNX models for the IPU. All methods are static; an instance holds nothing."""

    @staticmethod
    @api("compiler.Compiler.compile")
    def compile(model: Model, outputs: Sequence[str] | None, options: CompilerOptions | None = None) -> Executable:
        """Compile a model.

        Args:
            model: its serialized bytes, a file's name, or the model itself. Every input's shape must be fixed.
            outputs: names of the tensors to return; None for fused models. Decision: None means all of an ordinary one's.
            options: `CompilerOptions()` where left out.

        Raises:
            RuntimeError: the model cannot be compiled, or does not fit ("Out of memory on tile <n>: <m> bytes ...").
            NotSimulated: it needs what the simulator does not have.
            TypeError: an argument is of another type.
        """
        return Executable(_cached(model, outputs, _given(options)))

    @staticmethod
    @api("compiler.Compiler.compile_and_export")
    def compile_and_export(
        model: Model,
        outputs: Sequence[str] | None,
        filename: str | os.PathLike[str] | None,
        options: CompilerOptions | None = None,
    ) -> None:
        """Compile a model and write the PopEF.

        Raises:
            As `compile`; ValueError: there is no file name; RuntimeError: it cannot be written.
        """
        if filename is None:
            raise ValueError("compile_and_export: expected a file name, got None; use compile to get an Executable")
        content = write_popef(_cached(model, outputs, _given(options)))
        try:
            Path(filename).write_bytes(content)
        except OSError as error:
            raise RuntimeError(f"the PopEF cannot be written to {os.fspath(filename)!r}: {error}") from error

    @staticmethod
    @api("compiler.Compiler.compile_and_get_summary_report")
    def compile_and_get_summary_report(
        model: Model,
        outputs: Sequence[str] | None,
        options: CompilerOptions | None = None,
        reset_profile: bool = True,  # noqa: ARG004 - the vendor's argument; there is no profile to reset
    ) -> str:
        """Compile a model and return what it takes, as text. All figures are modelled.

        Raises:
            As `compile`.
        """
        given = _given(options)
        loaded = _load(model)
        parts = _fusion.split(loaded)
        reports = [_prepare(part, None if parts else outputs, given) for part in (parts or [loaded])]
        lines = ["Compiled by the PopRT simulator: every figure is modelled, none measured.", f"Target: {_version(given)}"]
        for part in reports:
            lines += [
                f"Graph {part.popef.name!r}: {len(part.popef.inputs)} inputs, {len(part.popef.outputs)} outputs",
                f"  Operations per run: {part.popef.flops:.0f}",
                f"  Bytes moved per run: {part.popef.bytes_moved:.0f}",
                f"  Weights: {part.footprint.weights} bytes",
                f"  Intermediate results: {part.footprint.activations} bytes at most",
                f"  Input and output buffers: {part.footprint.streams} bytes",
            ]
            lines += [
                f"  IPU {ipu}: {used} of {machine().config.tile_memory_bytes} bytes per tile, {machine().config.tiles} tiles"
                for ipu, used in enumerate(part.footprint.tile_bytes)
            ]
        return "\n".join(lines) + "\n"


class _Prepared:
    """A compiled model and what it takes."""

    def __init__(self, popef: Popef, footprint: _memory.Footprint) -> None:
        self.popef = popef
        self.footprint = footprint


def _given(options: CompilerOptions | None) -> CompilerOptions:
    if options is None:
        return CompilerOptions()
    if not isinstance(options, CompilerOptions):
        raise TypeError(f"options: expected CompilerOptions, got {type(options).__name__}; see CompilerOptions.from_dict")
    return options


def _load(model: Model) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        loaded = onnx.ModelProto()
        loaded.CopyFrom(model)
        _graph.check(loaded)
        return loaded
    if isinstance(model, bytes):
        return _graph.parse(model)
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model: expected bytes, a file's name or an onnx.ModelProto, got {type(model).__name__}")
    try:
        loaded = onnx.load(model)  # reads weights that lie beside it, which bytes alone cannot name
    except OSError as error:
        raise RuntimeError(f"the model {os.fspath(model)!r} cannot be read: {error}") from error
    except Exception as error:  # protobuf's errors share no base below Exception
        raise RuntimeError(f"{os.fspath(model)!r} is not an ONNX model: {error}") from error
    _graph.check(loaded)
    return loaded


def _cached(model: Model, outputs: Sequence[str] | None, options: CompilerOptions) -> Popef:
    """Compile, or take from the engine cache what was compiled before from the same model, outputs and options."""
    loaded = _load(model)
    if not options.enable_engine_caching:
        return _compile(loaded, outputs, options)
    said = {name: getattr(options, name) for name in _DEFAULTS if name != "cache_path"}
    key = hashlib.sha256(loaded.SerializeToString(deterministic=True))
    key.update(json.dumps([outputs and list(outputs), said, _version(options)], sort_keys=True, default=str).encode())
    path = Path(options.cache_path or ".", f"{key.hexdigest()}.popef")
    try:
        return read_popef(path)
    except PopefError:
        popef = _compile(loaded, outputs, options)  # not there, or damaged
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_popef(popef))
    except OSError as error:
        raise RuntimeError(f"cache_path {options.cache_path!r} cannot be written: {error}") from error
    return popef


def _compile(model: onnx.ModelProto, outputs: Sequence[str] | None, options: CompilerOptions) -> Popef:
    parts = _fusion.split(model)
    if parts:
        if outputs is not None:
            raise RuntimeError("outputs: fused models return all of theirs; expected None")
        prepared = [_prepare(part, None, options) for part in parts]
        for part in prepared:
            part.footprint.check()
        _check_sum([part.footprint for part in prepared])
        return fuse(model.graph.name, [part.popef for part in prepared])
    if options.enable_model_fusion:
        raise RuntimeError("enable_model_fusion: expected a model that MFConverter or --config_yaml fused, got an ordinary one")
    single = _prepare(model, outputs, options)
    single.footprint.check()
    return single.popef


def _check_sum(footprints: Sequence[_memory.Footprint]) -> None:
    """Refuse fused models whose weights do not fit together; results and buffers are there for one at a time."""
    ipus = len(footprints[0].tile_bytes)
    tiles = max(1, machine().config.tiles - footprints[0].first_tile) * ipus
    weights = sum(each.weights for each in footprints)
    most = max(each.activations + each.streams for each in footprints)
    per_tile = -(-(weights + most) // tiles)
    _memory.Footprint(weights, most, 0, (per_tile,) * ipus, footprints[0].first_tile).check()


def _version(options: CompilerOptions) -> str:
    return str(options.ipu_version) or machine().config.ipu_version


def _check_options(options: CompilerOptions) -> None:
    """Refuse values that no compiler takes, and what is not simulated."""
    ranges: list[tuple[str, Callable[[Any], bool], str]] = [
        ("num_ipus", lambda value: 1 <= value <= 4096, "1 or more"),
        ("batches_per_step", lambda value: 1 <= value < 1 << 31, "1 or more"),
        ("partials_type", lambda value: value in ("half", "float"), "'half' or 'float'"),
        ("available_memory_proportion", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        ("num_io_tiles", lambda value: 0 <= value < machine().config.tiles, f"0 to {machine().config.tiles - 1}"),
        ("stream_buffering_depth", lambda value: value >= 1, "1 or more"),
        ("ipu_version", lambda value: value in ("", *IPU_VERSIONS), f"'' or one of {', '.join(IPU_VERSIONS)}"),
        (
            "virtual_graph_mode",
            lambda value: value in ("off", "manual", "auto"),
            "'off', 'manual' or 'auto'",
        ),
    ]
    for name, fits, expected in ranges:
        value = getattr(options, name)
        if not fits(value):
            raise RuntimeError(f"CompilerOptions.{name}: expected {expected}, got {value!r}")
    for name in ("custom_patterns", "custom_transform_applier_settings", "serialize_ir"):
        if getattr(options, name):
            raise NotSimulated(f"CompilerOptions.{name} works on PopART's own graphs and is not simulated")


def _prepare(model: onnx.ModelProto, outputs: Sequence[str] | None, options: CompilerOptions) -> _Prepared:
    """Make the PopEF of one ordinary model."""
    _check_options(options)
    if isinstance(outputs, str):
        raise TypeError(f"outputs: expected a list of names, got the text {outputs!r}")
    prepared = _graph.inline(model)
    graph = prepared.graph
    _graph.replace(graph.input, _graph.graph_inputs(prepared))
    _check_inputs(graph)
    _resolve_operators(prepared)
    known = _graph.infer(prepared)
    if outputs is not None:
        _select_outputs(graph, list(outputs), known)
    if not graph.output:
        raise RuntimeError("outputs: expected at least one name, got none")
    _set_outputs(prepared, known)
    footprint = _memory.footprint(
        graph,
        known,
        num_ipus=options.num_ipus,
        num_io_tiles=options.num_io_tiles,
        buffering_depth=options.stream_buffering_depth,
        manual=options.virtual_graph_mode == "manual",
    )
    for node in _graph.nodes(graph):
        _graph.replace(node.attribute, [each for each in node.attribute if not each.name.startswith("__")])
    del graph.value_info[:]
    prepared.ClearField("metadata_props")
    _graph.clamp_ir(prepared)
    moved = footprint.weights + sum(known[name].size_bytes for node in graph.node for name in node.output if name in known)
    moved += sum(known[value.name].size_bytes for value in graph.input)
    popef = Popef(
        name=graph.name[:4096],
        onnx=prepared.SerializeToString(deterministic=True),
        inputs=tuple(_info(value) for value in graph.input),
        outputs=tuple(_info(value) for value in graph.output),
        batches_per_step=options.batches_per_step,
        num_io_tiles=options.num_io_tiles,
        num_ipus=options.num_ipus,
        ipu_version=_version(options),
        flops=float(sum(_graph.flops_of(node, known) for node in graph.node)),
        bytes_moved=float(moved),
        anchors=() if options.constant_weights else _anchors(graph),
        weight_bytes=footprint.weights,
        opaque_blobs=tuple((str(key), str(text)) for key, text in sorted(options.opaque_blobs.items())),
    )
    return _Prepared(popef, footprint)


def _check_inputs(graph: onnx.GraphProto) -> None:
    for value in graph.input:
        shape = _graph.shape_of(value)
        if not value.type.HasField("tensor_type") or shape is None or any(dim <= 0 for dim in shape):
            dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            raise RuntimeError(
                f"input {value.name!r}: expected a tensor with fixed axes above 0, got {dims}; the IPU runs static graphs "
                "only: fix them with Converter(input_shape=...) or --input_shape"
            )


def _resolve_operators(model: onnx.ModelProto) -> None:
    """Replace the operators of PopART that compute nothing, and refuse the others."""
    for node in _graph.nodes(model.graph):
        if node.domain in _graph.ONNX_DOMAINS:
            continue
        if (node.domain, node.op_type) != ("ai.graphcore", "PrintTileMapping"):
            raise NotSimulated(
                f"node {node.name or node.output[0]!r}: operator {node.op_type} of domain {node.domain} is PopART's or a "
                "custom one and is not simulated; of ai.graphcore only PrintTileMapping is"
            )
        node.domain, node.op_type = "", "Identity"
        del node.attribute[:]
    _graph.replace(model.opset_import, [each for each in model.opset_import if each.domain in _graph.ONNX_DOMAINS])
    if not model.opset_import:
        raise RuntimeError("the model does not say which version of ONNX's operators it uses")


def _select_outputs(graph: onnx.GraphProto, names: list[str], known: Mapping[str, _graph.Value]) -> None:
    """Make these tensors the outputs, and drop what none of them needs; the inputs stay."""
    if len(set(names)) != len(names):
        raise RuntimeError(f"outputs: a name is there twice: {', '.join(names)}")
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    for name in names:
        if name not in made:
            raise RuntimeError(f"outputs: the model has no tensor {name!r}; its outputs are {', '.join(_names(graph.output))}")
    types = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    outputs = []
    for name in names:
        element = known[name].element if name in known else types.get(name)
        outputs.append(onnx.helper.make_tensor_value_info(name, element or TensorProto.UNDEFINED, None))
    needed = set(names)
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_graph.names_read(node))
    _graph.replace(graph.node, reversed(kept))
    _graph.replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _graph.replace(graph.output, outputs)


def _set_outputs(model: onnx.ModelProto, known: dict[str, _graph.Value]) -> None:
    """Say type and shape of every output, from inference or, where that does not reach, from a run on zeros."""
    graph = model.graph
    names = [value.name for value in graph.output]
    weights = {tensor.name for tensor in graph.initializer}
    for name in names:
        if name in weights or any(value.name == name for value in graph.input):
            raise RuntimeError(f"output {name!r} is an input or a weight, which an IPU program cannot return")
    for value in graph.output:
        value.ClearField("type")
        value.type.tensor_type.elem_type = known[value.name].element or TensorProto.UNDEFINED
    if any(known[name].shape is None for name in names):
        for name, array in zip(names, _run_on_zeros(model), strict=True):
            known[name] = _graph.Value(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
    for value in graph.output:
        result = known[value.name]
        assert result.shape is not None
        value.type.tensor_type.elem_type = result.element or TensorProto.UNDEFINED
        _graph.set_shape(value, result.shape)


def _run_on_zeros(model: onnx.ModelProto) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    content = onnx.ModelProto()
    content.CopyFrom(model)
    _graph.clamp_ir(content)
    try:
        session = ort.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {
            value.name: np.zeros(_graph.shape_of(value) or (), _graph.dtype_of(value.type.tensor_type.elem_type))
            for value in model.graph.input
        }
        return [np.asarray(output) for output in session.run(None, feeds)]
    except Exception as error:  # ONNX Runtime's classes share no base below Exception
        raise RuntimeError(f"the shapes of the outputs cannot be inferred, and the model fails on zeros: {error}") from error


def _anchors(graph: onnx.GraphProto) -> tuple[TensorInfo, ...]:
    """Return the weights that may be updated: the floating ones, since the others say shapes, axes and indexes."""
    return tuple(
        TensorInfo(tensor.name, _graph.dtype_of(tensor.data_type), tuple(tensor.dims))
        for tensor in graph.initializer
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    )


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    try:
        dtype = _graph.dtype_of(value.type.tensor_type.elem_type)
    except _graph.GraphError as error:
        raise RuntimeError(f"{value.name!r}: {error}; a PopEF has {', '.join(DTYPES)}") from error
    return TensorInfo(value.name, dtype, _graph.shape_of(value) or ())


def _names(values: Any) -> list[str]:
    return [value.name for value in values]
