"""The command `poprt`: convert, compile and run ONNX models; `python -m poprt.cli` and, for tests, `main`.

Every option of PopRT 1.5 is known: it works, or makes an IPU faster and changes nothing here, or is refused with one sentence.
What goes wrong is said in one sentence, too, with exit status 1; wrong usage has status 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import onnx

import poprt_sim
from poprt_sim import _graph, _serve, _yaml
from poprt_sim._argparse import PopHelpFormatter
from poprt_sim._machine import machine
from poprt_sim._unsimulated import NotSimulated
from poprt_sim.compiler import _DEFAULTS, Compiler, CompilerOptions
from poprt_sim.converter import Converter, MFConverter, Sharder, load_custom_passes
from poprt_sim.frontend import get_frontend
from poprt_sim.passes import Pass, get_registered_passes
from poprt_sim.utils import get_logger, onnx_tensor_dtype_to_np_dtype

POPEF_NAME: Final = "executable.popef"
_RUNS: Final = 10

# Options without effect: they rearrange a model for an IPU, or only matter for fp8.
_SWITCHES_FOR_SPEED: Final = (
    *("disable_compilation_progress_bar", "disable_fast_norm", "merge_if_with_same_cond", "enable_compress_pattern"),
    *("enable_erf_gelu", "enable_insert_remap", "fold_periodic_initializer", "infer_shape_ahead"),
    *("optimize_internal_exchange_code", "perf_tuner"),
)
_VALUES_FOR_SPEED: Final = ("remap_mode", "merge_matmul", "merge_matmul_add", "merge_moe", "fp8_params", "fp8_skip_op_names")
_LISTS_FOR_SPEED: Final = ("serialize_matmul", "serialize_matmul_add")
_WHOLE_FOR_SPEED: Final = ("max_tensor_size", "num_of_layers_keep_fp16")

_REFUSED_SWITCHES: Final = {
    "calibration_with_data": "calibration of fp8 models",
    "eightbitsio": "8-bit inputs and outputs",
    "enable_avoid_overflow_patterns": "keeping patterns in single precision (use --fp16_skip_op_types)",
    "precision_compare": "comparing fp8 models layer by layer",
    "quantize": "quantisation",
}
_REFUSED_VALUES: Final = {
    "data_preprocess": "calibration data (pickle files)",
    "print_completion": "shell completion",
}
_REFUSED_LISTS: Final = {
    "custom_library_so_paths": "libraries with operators, patterns or transforms for PopART",
    "pack_args": "packed transformers",
    "popart_options": "session options of PopART",
}


class CliError(Exception):
    """What is said in one sentence, with exit status 1."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="poprt",
        description="Convert, compile and run ONNX models for IPUs. This is a simulator.",
        formatter_class=PopHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-i", "--input_model", help="the ONNX model, or a folder with one")
    add("--output_model", help="name of the converted model, in the output directory")
    add("--output_dir", default="./", help="where the converted model and the PopEF go")
    add("--framework", default="onnx", help="of the input model")
    add("--show", action="store_true", help="print inputs and outputs of the input model, and stop")
    add("--show_io_stat", action="store_true", help="print how many inputs and outputs of each kind there are")
    add("--input_shape", nargs="+", metavar="NAME=SIZE,SIZE", help="shapes for inputs with variable axes")
    add("--batch_size", type=int, help="size of one axis of all inputs")
    add("--batch_axis", type=int, help="that axis")
    add("--convert_version", type=int, default=11, help="opset version")
    add("--precision", choices=("fp32", "fp16", "fp8", "fp8_weight"), default="fp32")
    add("--fp16_skip_op_types", help="operators that stay in single precision, separated by commas")
    add("--checkpoints", help="inner tensors to return as well, separated by commas")
    add("--remove_outputs", help="outputs to take away, separated by commas")
    add("--passes", help="passes to run, separated by commas")
    add("--skip_passes", help="passes not to run, separated by commas")
    add("--list_all_passes", action="store_true", help="print the names of all passes, and stop")
    add("--custom_pass_config", help="a Python file that registers passes")
    add("--custom_shape_inference", help="Python files that register shape functions, separated by commas")
    add("--apply_hcsr", nargs="+", metavar="TYPE,[SIZE,SIZE],NUMBER", help="inputs to merge")
    add("--check", action="store_true", help="run the model before and after conversion on made-up data")
    add("--manual_sharding_config", help="a YAML file with node, device and stage")
    add("--only_manual_sharding", action="store_true", help="do nothing else")
    add("--config_yaml", help="a YAML file with these options; its model_fusion fuses several models")
    add("--export_popef", action="store_true", help=f"compile, and write {POPEF_NAME}")
    add("--run", action="store_true", help="compile, and run on random data")
    add("--ipu_version", choices=("ipu2", "ipu21"), default="ipu2")
    add("--num_io_tiles", type=int, default=0)
    add("--batches_per_step", "--batch_per_step", type=int, default=1)
    add("--available_memory_proportion", type=float)
    add("--compiler_options", nargs="+", metavar="KEY=VAL", help="options of the compiler")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    add("--logging_level", choices=levels, default="WARNING")
    add("-v", "--version", action="store_true", help="print the version, and stop")
    quiet = parser.add_argument_group("taken, without effect here: they tune an IPU")
    for name in _SWITCHES_FOR_SPEED:
        quiet.add_argument(f"--{name}", action="store_true")
    for name in _VALUES_FOR_SPEED:
        quiet.add_argument(f"--{name}")
    for name in _LISTS_FOR_SPEED:
        quiet.add_argument(f"--{name}", nargs="+")
    for name in _WHOLE_FOR_SPEED:
        quiet.add_argument(f"--{name}", type=int)
    quiet.add_argument("--calibration_loss_type", choices=("mse", "mae", "snr", "kld", "cos_dist", "gptq"))
    refused = parser.add_argument_group("not simulated")
    for name in _REFUSED_SWITCHES:
        refused.add_argument(f"--{name}", action="store_true")
    for name in _REFUSED_VALUES:
        refused.add_argument(f"--{name}")
    for name in _REFUSED_LISTS:
        refused.add_argument(f"--{name}", nargs="+")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["tf2onnx"]:
            raise NotSimulated("poprt tf2onnx is not simulated: use the tool tf2onnx itself")
        parser = _parser()
        options = parser.parse_args(words)
        if not words:
            parser.print_help()
            return 0
        if options.config_yaml is not None:
            return _from_yaml(parser, options)
        return _work(options)
    except (CliError, NotImplementedError, OSError, ValueError, RuntimeError, KeyError, TypeError, SyntaxError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"poprt: error: {text}", file=sys.stderr)
        return 1


def _check_refused(options: argparse.Namespace) -> None:
    for name, what in {**_REFUSED_SWITCHES, **_REFUSED_VALUES, **_REFUSED_LISTS}.items():
        if getattr(options, name):
            raise NotSimulated(f"--{name}: {what} is not simulated")
    if options.precision.startswith("fp8"):
        raise NotSimulated(f"--precision {options.precision} is not simulated: fp32 and fp16 are")


def _work(options: argparse.Namespace) -> int:
    """Do what the options say, without a configuration file."""
    _prepare(options)
    if options.version:
        print(f"poprt {poprt_sim.__version__} (simulated)")
        return 0
    if options.list_all_passes:
        print("\n".join(sorted(get_registered_passes())))
        return 0
    if options.input_model is None:
        raise CliError("--input_model: expected the path of an ONNX model, got none")
    model = get_frontend(options.input_model, options.framework).load_model()
    if options.show:
        _show(model)
        # Decision: it is all that is done, unless the command asks for a result as well.
        if not (options.export_popef or options.run or options.output_model):
            return 0
    if options.only_manual_sharding:
        if options.manual_sharding_config is None:
            raise CliError("--only_manual_sharding: expected --manual_sharding_config as well")
        _save(_sharded(model, options), _output_path(options))
        return 0
    converted = _convert(model, options)
    if options.manual_sharding_config is not None:
        converted = _sharded(converted, options)
    if options.show_io_stat:
        Pass.get_pass("model_io_info_stat").run(converted)
    _save(converted, _output_path(options))
    _compile_and_run(converted, options, [value.name for value in converted.graph.output])
    return 0


def _prepare(options: argparse.Namespace) -> None:
    get_logger().setLevel(options.logging_level)
    _check_refused(options)
    if options.custom_pass_config is not None:
        load_custom_passes(options.custom_pass_config)
    for path in _split(options.custom_shape_inference):
        if not Path(path).is_file():
            raise CliError(f"--custom_shape_inference: no such file: {path!r}")
        with _serve.served():
            exec(compile(Path(path).read_bytes(), path, "exec"), {"__name__": "custom_shape_inference", "__file__": path})
    if options.perf_tuner:
        get_logger().warning("--perf_tuner does nothing")


def _convert(model: onnx.ModelProto, options: argparse.Namespace) -> onnx.ModelProto:
    return Converter(
        input_shape=_shapes(options.input_shape),
        convert_version=options.convert_version,
        precision=options.precision,
        checkpoints=options.checkpoints,
        fp16_skip_op_types=options.fp16_skip_op_types,
        skip_passes=options.skip_passes,
        used_passes=_split(options.passes),
        check=options.check,
        batch_size=options.batch_size,
        batch_axis=options.batch_axis,
        remove_outputs=_split(options.remove_outputs),
        apply_hcsr=[_merged(entry) for entry in options.apply_hcsr or []],
    ).convert(model)


def _compile_and_run(model: onnx.ModelProto, options: argparse.Namespace, outputs: list[str] | None) -> None:
    if not (options.export_popef or options.run):
        return
    popef = Path(options.output_dir, POPEF_NAME)
    compiler_options = _compiler_options(options)
    for entry in model.metadata_props:
        if entry.key == "HostConcatRunnerConfig":
            compiler_options.opaque_blobs = {entry.key: entry.value}
    executable = Compiler.compile(model, outputs, compiler_options)
    if options.export_popef:
        from poprt_sim._popef import write_popef

        popef.write_bytes(write_popef(executable.popef))
    if options.run:
        _run(executable)


def _run(executable: Any) -> None:
    """Run on random data and say first dimension, latency and throughput: in simulated time, not the machine's."""
    from poprt_sim import runtime, testing

    if executable.popef.graphs:
        raise NotSimulated("--run of fused models is not simulated: use runtime.Runner, with the inputs of one of them")
    runner = runtime.Runner(executable)
    generator = np.random.default_rng(2022)
    feeds = {
        desc.name: generator.uniform(0, 1, desc.shape).astype(desc.numpy_data_type()) for desc in runner.get_execute_inputs()
    }
    results = {desc.name: np.zeros(desc.shape, desc.numpy_data_type()) for desc in runner.get_execute_outputs()}
    before = testing.now_us()
    for _ in range(_RUNS):
        runner.execute(feeds, results)
    latency_ms = (testing.now_us() - before) / _RUNS / 1000
    shape = next(iter(feeds.values())).shape if feeds else ()
    batch = shape[0] if shape else 1
    _say("Bs: %d", batch)
    _say("Latency: %.2fms", latency_ms)
    _say("Tput: %d", batch / latency_ms * 1000 if latency_ms > 0 else 0)


def _show(model: onnx.ModelProto) -> None:
    for what, values in (("Input", _graph.graph_inputs(model)), ("Output", list(model.graph.output))):
        for value in values:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            dtype = onnx_tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            _say("%s %s: dtype - %s, shape - %s", what, value.name, dtype, shape)


def _say(text: str, *values: Any) -> None:
    """Log a line that the user asked for, whatever the level."""
    logger = get_logger()
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, values, None, "main")
    logger.handle(record)


def _output_path(options: argparse.Namespace) -> Path:
    if options.output_model is not None:
        return Path(options.output_dir, options.output_model)
    return Path(options.output_dir, f"{Path(options.input_model).name}.optimized.onnx")


def _save(model: onnx.ModelProto, path: Path) -> None:
    if not path.parent.is_dir():
        raise CliError(f"--output_dir: no such folder: {str(path.parent)!r}")
    path.write_bytes(model.SerializeToString())


def _sharded(model: onnx.ModelProto, options: argparse.Namespace) -> onnx.ModelProto:
    entries = _yaml.parse(Path(options.manual_sharding_config).read_text(encoding="utf-8"))
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and {"node", "device"} <= set(entry) for entry in entries
    ):
        raise CliError(f"{options.manual_sharding_config!r}: expected a list of entries with node, device and stage")
    stages = {entry["node"]: entry["stage"] for entry in entries if "stage" in entry}
    return Sharder({entry["node"]: entry["device"] for entry in entries}, stages or None).run(model)


def _compiler_options(options: argparse.Namespace) -> CompilerOptions:
    result = CompilerOptions()
    result.ipu_version = options.ipu_version
    result.num_io_tiles = options.num_io_tiles
    result.batches_per_step = options.batches_per_step
    result.show_compilation_progress_bar = not options.disable_compilation_progress_bar
    if options.available_memory_proportion is not None:
        result.available_memory_proportion = options.available_memory_proportion
    for key, text in _pairs("--compiler_options", options.compiler_options):
        if key not in _DEFAULTS:
            raise CliError(f"--compiler_options: there is no option {key!r}; there are {', '.join(_DEFAULTS)}")
        setattr(result, key, _value(key, text))
    return result


def _value(key: str, text: str) -> Any:
    """Return the value of a compiler's option, of the type that the option has."""
    default = _DEFAULTS[key]
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, str):
            return text
        if isinstance(default, (int, float)):
            return type(default)(text)
        return json.loads(text)
    except (KeyError, ValueError):
        raise CliError(f"--compiler_options {key}: expected {type(default).__name__}, got {text!r}") from None


def _pairs(option: str, words: Sequence[str] | None) -> list[tuple[str, str]]:
    pairs = []
    for word in words or ():
        key, equals, text = word.rpartition("=") if option == "--input_shape" else word.partition("=")
        if not equals or not key:
            raise CliError(f"{option}: expected NAME=VALUE, got {word!r}")
        pairs.append((key.strip(), text.strip()))
    return pairs


def _shapes(words: Sequence[str] | None) -> dict[str, list[int]] | None:
    shapes: dict[str, list[int]] = {}
    for name, text in _pairs("--input_shape", words):
        sizes = [part.strip() for part in text.strip("[]").split(",")]
        if not all(size.isdecimal() for size in sizes):
            raise CliError(f"--input_shape {name}: expected sizes separated by commas, got {text!r}")
        shapes[name] = [int(size) for size in sizes]
    return shapes or None


_TYPES: Final[Mapping[str, int]] = {
    "fp32": onnx.TensorProto.FLOAT,
    "fp16": onnx.TensorProto.FLOAT16,
    "int32": onnx.TensorProto.INT32,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
}


def _merged(word: str) -> tuple[int, ...] | tuple[int, tuple[int, ...], int]:
    """Read `fp32,[512,1],50`."""
    head, _, rest = word.partition(",[")
    sizes, _, number = rest.partition("]")
    parts = [part.strip() for part in sizes.split(",")]
    count = number.strip().removeprefix(",") or "0"
    if head.strip() not in _TYPES or not all(part.isdecimal() for part in parts) or not count.isdecimal():
        raise CliError(f"--apply_hcsr: expected TYPE,[SIZE,SIZE],NUMBER with a type of {', '.join(_TYPES)}, got {word!r}")
    return _TYPES[head.strip()], tuple(int(part) for part in parts), int(count)


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


# Configuration files


def _from_yaml(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    """Do what a configuration file says; what the command line says as well, the file overrides."""
    try:
        content = _yaml.parse(Path(given.config_yaml).read_text(encoding="utf-8"))
    except _yaml.YamlError as error:
        raise CliError(f"{given.config_yaml}: {error}") from error
    if not isinstance(content, dict):
        raise CliError(f"{given.config_yaml}: expected options, one KEY: VALUE a line")
    entries = content.pop("model_fusion", None)
    shared = _with_values(parser, given, content)
    if entries is None:
        return _work(shared)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise CliError(f"{given.config_yaml}: model_fusion: expected a list of models with their options")
    _prepare(shared)
    models = []
    for number, entry in enumerate(entries):
        options = _with_values(parser, shared, entry)
        if options.input_model is None:
            raise CliError(f"{given.config_yaml}: model_fusion: model {number} has no input_model")
        _check_refused(options)
        models.append(_convert(get_frontend(options.input_model, options.framework).load_model(), options))
    fused = MFConverter().convert(models)
    _save(fused, Path(shared.output_dir, shared.output_model or "model_fusion.onnx"))
    _compile_and_run(fused, shared, None)
    return 0


def _with_values(parser: argparse.ArgumentParser, base: argparse.Namespace, values: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options with those of a file in place, checked as if they stood on the command line."""
    actions = {action.dest: action for action in parser._actions}
    result = argparse.Namespace(**vars(base))
    for key, value in values.items():
        action = actions.get(key)
        if action is None or key in ("help", "config_yaml"):
            raise CliError(f"the configuration has an option {key!r}, which poprt does not")
        if value is None:
            continue
        switch = isinstance(action, argparse._StoreTrueAction)
        if switch and not isinstance(value, bool):
            raise CliError(f"{key}: expected True or False, got {value!r}")
        if switch:
            setattr(result, key, value)
            continue
        words = [str(each) for each in value] if isinstance(value, list) else [str(value)]
        if action.nargs != "+" and len(words) != 1:
            raise CliError(f"{key}: expected one value, got {value!r}")
        try:
            read = [parser._get_value(action, word) for word in words]
            for each in read:
                parser._check_value(action, each)
        except argparse.ArgumentError as error:
            raise CliError(f"{key}: {error.message}") from error
        setattr(result, key, read if action.nargs == "+" else read[0])
    return result


def entry() -> NoReturn:
    """Run the command as a process does."""
    status = main()
    if status == 0:  # else there may be no machine
        machine().collect()
    sys.exit(status)


if __name__ == "__main__":
    entry()
