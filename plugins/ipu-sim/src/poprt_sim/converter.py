"""PopRT's converter: any ONNX model to one that an IPU takes.

What it does here, in this order: weights out of the inputs, input shapes fixed, the opset version converted, functions inlined,
int64 and float64 inputs and outputs narrowed, half precision if asked for, checkpoints and outputs, the passes that the
caller names. What only makes an IPU faster changes nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import onnx
import onnx.version_converter

from poprt_sim import _fusion, _graph
from poprt_sim._machine import api, machine
from poprt_sim._unsimulated import NotSimulated
from poprt_sim.passes import Pass, PassManager
from poprt_sim.utils import get_logger

__all__ = ["Converter", "MFConverter", "Sharder"]

#: Argument -> default, in the order in which PopRT before 1.2 took them by position (contract 0.1 and 1.4).
_DEFAULTS: Final[Mapping[str, Any]] = {
    "input_shape": None,
    "convert_version": 11,
    "precision": "fp32",
    "checkpoints": None,
    "eightbitsio": False,
    "fp16_skip_op_types": None,
    "skip_passes": None,
    "custom_pass_config": None,
    "used_passes": [],
    "check": False,
    "disable_fast_norm": False,
    "pack_args": None,
    "fp8_skip_op_names": None,
    "fp8_params": "F143,F143,0,0",
    "quantize": False,
    "enable_insert_remap": False,
    "enable_erf_gelu": False,
    "serialize_matmul": None,
    "serialize_matmul_add": None,
    "merge_matmul": None,
    "merge_matmul_add": None,
    "merge_moe": None,
    "remap_mode": ["after_matmul"],
    "max_tensor_size": -1,
    "infer_shape_ahead": False,
    "enable_avoid_overflow_patterns": False,
    "disable_progress_bar": False,
    "batch_size": None,
    "batch_axis": None,
    "remove_outputs": [],
    "fold_periodic_initializer": False,
    "enable_compress_pattern": False,
    "merge_if_with_same_cond": False,
    "apply_hcsr": None,
    "logger": None,
}
#: In 1.1.0 there was no custom_pass_config any more.
_LATER_POSITIONS: Final = tuple(name for name in _DEFAULTS if name != "custom_pass_config")

_PRECISIONS: Final = ("fp32", "fp16", "fp8", "fp8_weight")
_REFUSED: Final = {
    "eightbitsio": "8-bit inputs and outputs",
    "pack_args": "packed transformers",
    "quantize": "quantisation",
    "enable_avoid_overflow_patterns": "keeping patterns in single precision (name operators in fp16_skip_op_types instead)",
}


class Converter:
    """Convert models; the arguments are those of PopRT 1.5, which takes them by keyword only.

    Without a configured version the positional form of PopRT before 1.2 is taken, too, in the order of 1.0.2.

    Args:
        input_shape: name -> shape; only variable axes can change.
        convert_version: opset version. Where ONNX has no conversion to it the version stays, with a warning (Decision).
        precision: "fp32" leaves a model's types; "fp16" makes its float32 tensors float16, inputs and outputs included.
        checkpoints: names of inner tensors to return as well, separated by commas.
        fp16_skip_op_types: operators that stay in single precision, separated by commas.
        skip_passes: passes that do not run, separated by commas.
        custom_pass_config: a Python file that registers passes.
        used_passes: passes to run at the end.
        check: run the model before and after on made-up data.
        batch_size, batch_axis: a size for one axis of all inputs.
        remove_outputs: outputs to take away.
        apply_hcsr: inputs to merge: (type, shape, number) for each kind.
        logger: where warnings go.

    Raises:
        TypeError: an argument does not exist in this version of PopRT.
        ValueError: a value that no version takes.
        NotSimulated: fp8, quantisation, 8-bit inputs, packing, patterns against overflow.
    """

    @api("converter.Converter")
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args and not machine().speaks(before="1.2.0"):
            raise TypeError(f"Converter takes keyword arguments only, got {len(args)} by position")
        positions = tuple(_DEFAULTS) if machine().speaks(before="1.1.0") else _LATER_POSITIONS
        if len(args) > len(positions):
            raise TypeError(f"Converter takes at most {len(positions)} arguments, got {len(args)}")
        given = dict(zip(positions, args, strict=False))
        for name, value in kwargs.items():
            if name not in positions:
                raise TypeError(f"Converter has no argument {name!r}; it has {', '.join(positions)}")
            if name in given:
                raise TypeError(f"Converter: {name!r} is given twice")
            given[name] = value
        values = {**_DEFAULTS, **given}
        if values["precision"] not in _PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {values['precision']!r}")
        if values["precision"].startswith("fp8"):
            raise NotSimulated(f"precision {values['precision']} is not simulated: fp32 and fp16 are")
        for name, what in _REFUSED.items():
            if values[name]:
                raise NotSimulated(f"{name}: {what} is not simulated")
        version = values["convert_version"]
        if isinstance(version, bool) or not isinstance(version, int) or not 6 <= version <= onnx.defs.onnx_opset_version():
            raise ValueError(
                f"convert_version: expected an opset version from 6 to {onnx.defs.onnx_opset_version()}, got {version!r}"
            )
        if values["custom_pass_config"]:
            load_custom_passes(values["custom_pass_config"])
        self._values = values
        self._skipped = frozenset(_split(values["skip_passes"]))
        self._logger: logging.Logger = values["logger"] or get_logger()

    @api("converter.Converter.convert")
    def convert(self, model: onnx.ModelProto, logger: logging.Logger | None = None) -> onnx.ModelProto:
        """Return a converted model; the given one stays as it is.

        Args:
            model: any, its weights inside.
            logger: PopRT 1.0's second argument.

        Raises:
            TypeError: no ModelProto, or a logger where this version of PopRT takes none.
            ValueError: an argument of the constructor does not fit this model.
            RuntimeError: the model is not valid, or types and shapes contradict each other.
        """
        if not isinstance(model, onnx.ModelProto):
            raise TypeError(f"convert: expected an onnx.ModelProto, got {type(model).__name__}")
        if logger is not None and not machine().speaks(before="1.1.0"):
            raise TypeError("convert takes one argument, a model; it got a logger, too")
        log = logger or self._logger
        values = self._values
        _graph.check(model)
        result = self._run("remove_initializer_from_input", model)
        shapes = {"const_input_shape": values["input_shape"]}
        shapes |= {name: values[name] for name in ("batch_size", "batch_axis")}
        result = self._run("const_input_shape", result, **shapes)
        result = _graph.inline(self._with_opset(result, log))
        if "" not in {node.domain for node in result.graph.node} and not result.opset_import:
            raise RuntimeError("the model does not say which version of ONNX's operators it uses")
        _graph.clamp_ir(result)
        result = self._run("int64_to_int32", result)
        result = self._run("double_to_float", result)
        if values["precision"] == "fp16":
            result = self._run("float_to_half", result, _split(values["fp16_skip_op_types"]))
        if values["checkpoints"]:
            result = self._run("add_checkpoints", result, values["checkpoints"])
        if values["remove_outputs"]:
            result = self._run("remove_outputs", result, values["remove_outputs"])
        if values["apply_hcsr"]:
            result = self._run("apply_host_concat_split", result, _merged(values["apply_hcsr"]))
        for each in values["used_passes"]:
            if each not in self._skipped:
                result = PassManager([each]).run(result)
        if not any(node.domain not in _graph.ONNX_DOMAINS for node in _graph.nodes(result.graph)):
            _with_types(result)
        if values["check"]:
            fixed = self._run("const_input_shape", model, **shapes)
            Pass.get_pass("check_with_fake_data", fixed).run(result)
        return result

    def _run(self, name: str, model: onnx.ModelProto, *args: Any, **kwargs: Any) -> onnx.ModelProto:
        return model if name in self._skipped else Pass.get_pass(name, *args, **kwargs).run(model)

    def _with_opset(self, model: onnx.ModelProto, log: logging.Logger) -> onnx.ModelProto:
        wanted = self._values["convert_version"]
        current = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), wanted)
        if current == wanted:
            return model
        try:
            converted: onnx.ModelProto = onnx.version_converter.convert_version(model, wanted)
            _graph.check(converted)
            _graph.infer(_graph.inline(converted))
        except Exception as error:  # the converter raises what it likes where it has no way
            # What it says is an assertion of its C++, of use to nobody who converts a model.
            log.warning("opset %d stays: ONNX cannot convert this model to convert_version %d", current, wanted)
            log.debug("ONNX's version converter: %s", error)
            return model
        return converted


class MFConverter:
    """Fuse models into one; see `poprt_sim._fusion`."""

    @api("converter.MFConverter.convert")
    def convert(self, models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
        """Return one model that holds all of them, to be compiled with outputs None.

        Raises:
            RuntimeError: there are none, or they have different opset versions.
        """
        for model in models:
            _graph.check(model)
        return _fusion.fuse(models)


class Sharder:
    """Say which IPU each node runs on; see `poprt_sim.passes._builtin.ManualSharding`."""

    def __init__(self, sharding_info: Mapping[str, int], pipelining_info: Mapping[str, int] | None = None) -> None:
        self._pass = Pass.get_pass("manual_sharding", sharding_info, pipelining_info)

    @api("converter.Sharder.run")
    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with its nodes' IPUs written down.

        Raises:
            ValueError: a node has no name of its own, or a named one does not exist.
        """
        return self._pass.run(model)


def load_custom_passes(path: str) -> list[str]:
    """Run a Python file that registers passes; returns the names that are new.

    Raises:
        FileNotFoundError: there is no such file. Whatever the file itself raises is passed on.
    """
    import runpy
    import sys
    from pathlib import Path

    if not Path(path).is_file():
        raise FileNotFoundError(f"custom_pass_config: no such file: {path!r}")
    before = set(Pass.get_registered_passes())
    from poprt_sim import _serve

    with _serve.served():
        sys.path.insert(0, str(Path(path).resolve().parent))
        try:
            runpy.run_path(path)
        finally:
            sys.path.pop(0)
    return sorted(set(Pass.get_registered_passes()) - before)


def _split(value: str | Sequence[str] | None) -> list[str]:
    if not value:
        return []
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else list(value)


def _merged(value: Any) -> list[Any]:
    """Return what `apply_host_concat_split` takes, from its list or from a dict of lists."""
    return [entry for entries in value.values() for entry in entries] if isinstance(value, Mapping) else list(value)


def _with_types(model: onnx.ModelProto) -> None:
    """Write down the types and shapes of the outputs as they follow from the inputs, where they do."""
    known = _graph.infer(model)
    for value in model.graph.output:
        found = known[value.name]
        if found.element is not None:
            value.type.tensor_type.elem_type = found.element
        value.type.tensor_type.ClearField("shape")
        if found.shape is not None:
            _graph.set_shape(value, found.shape)


# Programs look at the arguments; all of them have the defaults that PY15 prints.
Converter.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in _DEFAULTS.items()]
)
