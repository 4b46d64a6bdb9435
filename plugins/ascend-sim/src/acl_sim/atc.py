"""The converter ``atc``: an ONNX model in, the simulator's ``.om`` out.

Everything a caller can see follows contract section 5: flags and their spellings, the order of the checks, the E-codes, what
goes to stdout and what to stderr, and the exit status. Numbers in comments name its subsections. Where it is silent, a comment
starts with "Decision:".
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn, TextIO

import onnx
from onnx import TensorProto, numpy_helper

from acl_sim import _om
from acl_sim._aipp import AippConfig, AippError, parse_config
from acl_sim._compute import (
    ACL_TYPES,
    ComputeError,
    Inferred,
    Program,
    Shape,
    check_bounds,
    graph_inputs,
    infer,
    infer_shapes,
    inline_functions,
    retype_input,
    retype_output,
    run_on_zeros,
    select_outputs,
    tensors,
    with_free_shapes,
)
from acl_sim._om import GearKind

START: Final = "ATC start working now, please wait for a moment."
SUCCESS: Final = "ATC run success, welcome to the next use."
FAILURE: Final = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
EXIT_FAILURE: Final = 255

MIN_GEARS: Final = 2
MAX_GEARS: Final = 100
_MAX_DIM: Final = (1 << 31) - 1
_MAX_ONNX_BYTES: Final = (1 << 31) - 1  # protobuf's own limit

_FLAGS: Final[Mapping[str, str]] = {
    "model": "path of the ONNX model",
    "framework": "5: ONNX, the one that is simulated",
    "output": "path of the model to write, without .om",
    "soc_version": "for example Ascend310P3",
    "input_shape": 'shapes of the inputs: "name:d,d,d;name2:d,d"; -1 where a gear decides',
    "input_format": "NCHW (default), ND or NCDHW",
    "dynamic_batch_size": 'batch gears: "1,2,4,8"',
    "dynamic_image_size": 'image gears: "h,w;h,w"',
    "dynamic_dims": 'n-d gears, one value per -1 of --input_shape: "a,b;a,b"',
    "input_shape_range": 'deprecated: "name:[1~8,3,-1]"',
    "precision_mode": ", ".join(_om.PRECISION_MODES) + "; default force_fp16",
    "precision_mode_v2": "fp16, origin, cube_fp16in_fp32out, mixed_float16, mixed_bfloat16",
    "insert_op_conf": "AIPP configuration file",
    "out_nodes": 'outputs of the model to write, in order: "node:0;node2:1", or names of tensors',
    "output_type": 'type of all outputs: FP32, FP16, UINT8, INT8, ...; or, with --out_nodes, of some: "node:0:FP16"',
    "input_fp16_nodes": 'inputs that take FP16: "name;name2"',
    "log": "debug, info, warning, error, null (default)",
    "mode": "0: make a model (default); 1: write what --om holds to --json; 6: show what --om holds",
    "om": "with mode 1 or 6: path of the .om",
    "json": "with mode 1: path of the JSON file to write",
    "host_env_os": "operating system of the host that will load the model",
    "host_env_cpu": "processor of that host",
}
# 5.1, last row: accepted, and a note says that they do nothing here.
_IGNORED: Final = frozenset(
    [
        "weight",
        "check_report",
        "singleop",
        "aicore_num",
        "core_type",
        "auto_tune_mode",
        "buffer_optimize",
        "compress_weight_conf",
        "debug_dir",
        "disable_reuse_memory",
        "dump_mode",
        "enable_compress_weight",
        "enable_scope_fusion_passes",
        "enable_single_stream",
        "enable_small_channel",
        "fusion_switch_file",
        "is_input_adjust_hw_layout",
        "is_output_adjust_hw_layout",
        "keep_dtype",
        "customize_dtypes",
        "mdl_bank_path",
        "op_bank_path",
        "op_compiler_cache_dir",
        "op_compiler_cache_mode",
        "op_debug_level",
        "op_debug_config",
        "op_name_map",
        "op_precision_mode",
        "op_select_implmode",
        "optypelist_for_implmode",
        "modify_mixlist",
        "display_model_info",
        "save_original_model",
        "sparsity",
        "status_check",
        "tiling_schedule_optimize",
        "atomic_clean_policy",
        "deterministic",
        "external_weight",
        "virtual_type",
        "exclude_engines",
        "ac_parallel_enable",
        "quant_dumpable",
        "cluster_config",
        "compression_optimize_conf",
        "distributed_cluster_build",
        "enable_graph_parallel",
        "graph_parallel_option_path",
        "model_relation_config",
        "shape_generalized_build_mode",
    ]
)
_MODES: Final = ("0", "1", "3", "5", "6", "7", "30")
_PRECISION_V2: Final[Mapping[str, str]] = {
    "fp16": "force_fp16",
    "origin": "must_keep_origin_dtype",
    "cube_fp16in_fp32out": "cube_fp16in_fp32out",
    "mixed_float16": "allow_mix_precision_fp16",
    "mixed_bfloat16": "allow_mix_precision_bf16",
}
_OUTPUT_TYPES: Final[Mapping[str, int]] = {
    "FP32": TensorProto.FLOAT,
    "FP16": TensorProto.FLOAT16,
    "UINT8": TensorProto.UINT8,
    "INT8": TensorProto.INT8,
    "UINT16": TensorProto.UINT16,
    "INT16": TensorProto.INT16,
    "UINT32": TensorProto.UINT32,
    "INT32": TensorProto.INT32,
    "UINT64": TensorProto.UINT64,
    "INT64": TensorProto.INT64,
    "DOUBLE": TensorProto.DOUBLE,
}
# Their results have a size that the data decides: no gear, and no output size, can be given for them (5.4, last point).
_DATA_SHAPED: Final = frozenset({"NonZero", "Unique", "NonMaxSuppression", "Compress", "StringSplit"})

# 5.7: titles. Decision: those of E13, E16 and E2 families are ours, the contract names none.
_TITLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("E10002", "E10011", "E10012", "E10019", "E10031", "E10040"), "Invalid_Argument_Tensor_Input_Shape"),
    **dict.fromkeys(
        ("E10009", "E10018", "E10035", "E10036", "E10037", "E10038", "E10039"), "Invalid_Argument_Tensor_Dynamic_Shape"
    ),
    "E10016": "Invalid_Argument_Operator_Name",
    "E10017": "Invalid_Argument_Operator_Name",
    "E13000": "File_Operation_Error",
    "E13001": "File_Operation_Error",
    "E16002": "Invalid_Model",
    "E16004": "Invalid_Model",
    "E16005": "Invalid_Model",
    "E20001": "Compile_Error",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One recorded error."""

    code: str
    text: str
    cause: str = "N/A"
    solution: str = "N/A"


class AtcError(Exception):
    """The conversion fails; carries what was recorded, the headline first."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(f"{problem.code}: {problem.text}" for problem in problems))
        self.problems = problems


class FlagError(Exception):
    """The command line cannot be read: its text goes to stderr."""


@dataclass
class _Report:
    """What one run has to say beside its result."""

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recorded: list[Problem] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the converter on a command line, ``sys.argv`` by default, and return its exit status: 0 or 255."""
    return run(sys.argv[1:] if argv is None else argv, sys.stdout, sys.stderr)


def run(argv: Sequence[str], out: TextIO, err: TextIO, now: Callable[[], datetime] = datetime.now) -> int:
    """Run the converter, writing where told; `now` dates the error block. Returns the exit status: 0 or 255."""
    print(START, file=out)
    try:
        flags = parse_flags(argv)
    except FlagError as error:
        print(f"ERROR: {error}", file=err)
        return _fail(out, [], now)
    if "help" in flags:
        print(_help(), file=out)
        return 0
    report = _Report()
    try:
        _check_enumerated(flags)
    except AtcError as error:
        return _fail(out, error.problems, now)
    try:
        _convert(flags, report)
    except AtcError as error:
        print("...", file=out)
        return _fail(out, [*report.recorded, *error.problems], now)
    for line in report.lines:
        print(line, file=out)
    print("...", file=out)
    print(SUCCESS, file=out)
    for note in report.notes:
        print(f"[acl_sim] {note}", file=out)
    return 0


def parse_flags(argv: Sequence[str]) -> dict[str, str]:
    """Read a command line: ``--flag=value``, ``--flag value``, ``-flag value``, ``-`` for ``_``, unambiguous prefixes (5.1).

    Of a flag given twice the last counts.

    Raises:
        FlagError: an unknown flag, a missing value, or a word that belongs to none.
    """
    flags: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("-") or word in ("-", "--"):
            raise FlagError(f"Non-option parameter '{word}'")
        given, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        name = _flag_name(given.replace("-", "_"))
        if name is None:
            raise FlagError(f"unknown command line flag '{given}'")
        if name == "help":
            flags[name] = ""
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                raise FlagError(f"flag '--{name}' is missing its argument")
            value = following
        flags[name] = value
    return flags


def _flag_name(given: str) -> str | None:
    names = {*_FLAGS, *_IGNORED, "help"}
    if given in names:
        return given
    if given == "h":
        return "help"
    candidates = [name for name in names if given and name.startswith(given)]
    return candidates[0] if len(candidates) == 1 else None


def _help() -> str:
    lines = [
        "usage: atc --model=model.onnx --framework=5 --output=name --soc_version=Ascend310P3 [options]",
        "The simulator's converter: its models run on acl_sim only.",
        "",
        *(f"  --{name:<20}{text}" for name, text in _FLAGS.items()),
        "",
        "Accepted without effect: " + ", ".join(f"--{name}" for name in sorted(_IGNORED)),
    ]
    return "\n".join(lines)


def _fail(out: TextIO, problems: Sequence[Problem], now: Callable[[], datetime]) -> int:
    print(FAILURE, file=out)
    if not problems:
        print("E19999: Internal Error!", file=out)  # 5.6, 6
        return EXIT_FAILURE
    first, *further = problems
    stamp = now()
    micros = stamp.microsecond
    date = f"{stamp:%Y-%m-%d-%H:%M:%S}.{micros // 1000:03}.{micros % 1000:03}"
    if first.code == "E19999":
        print("E19999: Internal Error!", file=out)
        further = list(problems)
    else:
        print(f"[PID: {os.getpid()}] {date} {_title(first)}({first.code}): {first.text}", file=out)
        if first.cause != "N/A":
            print(f"        Possible Cause: {first.cause}", file=out)
        if first.solution != "N/A":
            print(f"        Solution: {first.solution}", file=out)
    print("        TraceBack (most recent call last):", file=out)
    for problem in further:
        print(f"        {_title(problem)}({problem.code}): {problem.text}", file=out)
    return EXIT_FAILURE


def _title(problem: Problem) -> str:
    return _TITLES.get(problem.code, "Internal_Error" if problem.code == "E19999" else "Invalid_Argument")


def _refuse(code: str, text: str, cause: str = "N/A", solution: str = "N/A") -> NoReturn:
    raise AtcError(Problem(code, text, cause, solution))


def _check_enumerated(flags: Mapping[str, str]) -> None:
    """Check what flag parsing itself checks: mode, precision mode, log level."""
    mode = flags.get("mode", "0")
    if mode not in _MODES:
        _refuse("E10001", f"Value [{mode}] for parameter [--mode] is invalid. Reason: it must be one of {', '.join(_MODES)}.")
    precision = flags.get("precision_mode", "")
    if precision and precision not in _om.PRECISION_MODES:
        allowed = ", ".join(_om.PRECISION_MODES)
        _refuse(
            "E10001", f"Value [{precision}] for parameter [--precision_mode] is invalid. Reason: it must be one of {allowed}."
        )
    log = flags.get("log", "null")
    if log not in ("debug", "info", "warning", "error", "null"):
        _refuse("E10010", f"Log level [{log}] of [--log] is invalid: it must be debug, info, warning, error or null.")


def _convert(flags: Mapping[str, str], report: _Report) -> None:
    """Do the work of a mode; the checks of mode 0 in the order of 5.1."""
    mode = flags.get("mode", "0")
    if mode in ("1", "6"):
        return _describe(flags, report)
    if mode != "0":
        _refuse("E19999", f"acl_sim: mode {mode} is not simulated; mode 0 makes a model, modes 1 and 6 describe one.")
    framework = flags.get("framework", "")
    if framework not in ("0", "1", "3", "5"):
        _refuse(
            "E10007",
            "Parameter [--framework] is required: its value must be one of 0 (Caffe), 1 (MindSpore), "
            f"3 (TensorFlow), 5 (ONNX); got [{framework}].",
        )
    if framework != "5":
        _refuse("E19999", f"acl_sim: framework {framework} is not simulated; 5 (ONNX) is.")
    input_format = flags.get("input_format", "") or "NCHW"
    if input_format not in ("NCHW", "ND", "NCDHW"):
        _refuse(
            "E10001", f"Value [{input_format}] for parameter [--input_format] is invalid. Reason: ONNX takes NCHW, ND, NCDHW."
        )
    for name in ("soc_version", "output", "model"):
        if not flags.get(name, ""):
            _refuse(
                "E10054", f"Required parameter [--{name}] is empty.", solution="Quote a value that holds special characters."
            )
    model_path = Path(flags["model"])
    _check_model_path(model_path)
    target = _target(flags)
    precision = _precision(flags)
    shape_text = flags.get("input_shape", "")
    range_text = flags.get("input_shape_range", "")
    gear_flags = [name for name in ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims") if flags.get(name, "")]
    if gear_flags and "~" in shape_text:
        _refuse("E10040", f"[--input_shape={shape_text}] must have -1 and no ~ where [--{gear_flags[0]}] is given.")
    if len(gear_flags) + bool(range_text) > 1:
        _refuse(
            "E10009",
            "Parameters [--dynamic_batch_size], [--dynamic_image_size], [--input_shape_range] and [--dynamic_dims] "
            "are mutually exclusive.",
        )
    if flags.get("dynamic_dims") == "":
        _refuse("E10058", "Parameter [--dynamic_dims] is not set or empty.")
    if gear_flags and not shape_text:
        _refuse("E10004", f"Parameter [--input_shape] is empty; [--{gear_flags[0]}] needs it.")
    request = _requested_shapes(shape_text, range_text, bool(gear_flags), report)
    kind, gears = _requested_gears(flags, gear_flags, request, input_format, report)
    aipp_text = _aipp_text(flags)
    for name in sorted((_IGNORED | {"om", "json"}) & set(flags)):
        report.notes.append(f"--{name} has no effect in the simulator")
    out_nodes = _requested_outputs(flags.get("out_nodes", ""))
    graph = _load(model_path, report)
    job = _Job(target.stem, graph, request, kind, gears, input_format, precision, flags["soc_version"], aipp_text)
    fp16_inputs = _fp16_inputs(flags.get("input_fp16_nodes", ""), graph)
    model = _compile(job, _outputs(graph, out_nodes, flags.get("output_type", "")), fp16_inputs)
    try:
        _om.write(target, model)
    except OSError as error:
        _refuse("E13001", f"Cannot write file [{target}]: {error.strerror or error}.")


def _describe(flags: Mapping[str, str], report: _Report) -> None:
    """Modes 1 and 6: what a file of ours holds.

    Decision: mode 1 writes the simulator's own header, not the vendor's; a file that is none of ours is E16005.
    """
    names = ("om", "json") if flags["mode"] == "1" else ("om",)
    for name in names:
        if not flags.get(name, ""):
            _refuse("E10004", f"Parameter [--{name}] is empty; [--mode={flags['mode']}] needs it.")
    try:
        content = _om.read(Path(flags["om"]))
    except _om.OmPathError as error:
        _refuse("E13000", f"Path [{flags['om']}] of parameter [--om] is invalid: {error}.")
    except _om.OmDataError as error:
        _refuse("E16005", f"The model file [{flags['om']}] cannot be parsed: {error}.")
    models = content.models if isinstance(content, _om.Bundle) else (content,)
    if flags["mode"] == "1":
        described = [_om.describe(model) for model in models]
        text = json.dumps(described if isinstance(content, _om.Bundle) else described[0], indent=2)
        try:
            Path(flags["json"]).write_text(text + "\n", encoding="utf-8")
        except (OSError, ValueError) as error:
            _refuse("E13001", f"Cannot write file [{flags['json']}]: {error}.")
        return
    for model in models:
        report.lines += [
            "============ Display Model Info start ============",
            f"system   info: atc_version[acl_sim], soc_version[{model.soc_version}], framework_type[5].",
            f"resource info: memory_size[{model.work_bytes} B], weight_size[{model.weight_bytes} B].",
            f"om       info: name[{model.name}], precision_mode[{model.precision_mode}], graph_size[{len(model.graph)} B].",
            *(f"input    info: {tensor.name}, type {tensor.acl_type}, dims {list(tensor.dims)}" for tensor in model.inputs),
            *(f"output   info: {tensor.name}, type {tensor.acl_type}, dims {list(tensor.dims)}" for tensor in model.outputs),
            *(f"gear     info: {model.gear_kind.value} {list(gear)}" for gear in model.gears),
            "============ Display Model Info end   ============",
        ]


def _check_model_path(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _refuse("E13000", f"Path [{path}] of parameter [--model] is invalid: {reason}.")


def _target(flags: Mapping[str, str]) -> Path:
    output = flags["output"]
    if output.endswith("/") or Path(output).is_dir():
        _refuse("E10022", f"Path [{output}] of parameter [--output] is a directory: it needs a file name.")
    suffix = ""
    if flags.get("host_env_os") or flags.get("host_env_cpu"):
        suffix = f"_{flags.get('host_env_os') or 'linux'}_{flags.get('host_env_cpu') or 'x86_64'}"
    target = Path(f"{output}{suffix}.om")
    if not target.parent.is_dir():
        _refuse("E13000", f"Path [{output}] of parameter [--output] is invalid: its directory does not exist.")
    return target


def _precision(flags: Mapping[str, str]) -> str:
    mode, mode_v2 = flags.get("precision_mode", ""), flags.get("precision_mode_v2", "")
    if mode and mode_v2:
        _refuse("E10056", "Parameters [--precision_mode] and [--precision_mode_v2] cannot both be given.")
    if mode_v2:
        if mode_v2 not in _PRECISION_V2:
            allowed = ", ".join(_PRECISION_V2)
            _refuse(
                "E10001", f"Value [{mode_v2}] for parameter [--precision_mode_v2] is invalid. Reason: simulated are {allowed}."
            )
        return _PRECISION_V2[mode_v2]
    return mode or "force_fp16"


@dataclass(frozen=True)
class _Axis:
    low: int
    high: int  # -1: no bound

    @property
    def dim(self) -> int:
        return self.low if self.low == self.high else -1


@dataclass(frozen=True)
class _Request:
    """What ``--input_shape`` or ``--input_shape_range`` says; the name None stands for the next position."""

    shapes: tuple[tuple[str | None, tuple[_Axis, ...]], ...] = ()
    is_range: bool = False


def _requested_shapes(shape_text: str, range_text: str, has_gears: bool, report: _Report) -> _Request:
    if range_text:
        if shape_text:
            report.notes.append("warning: --input_shape_range overrides --input_shape")
        return _Request(_shape_ranges(range_text), is_range=True)
    if not shape_text:
        return _Request()
    is_range = not has_gears and ("-1" in shape_text or "~" in shape_text)
    groups = [group for group in shape_text.split(";") if group.strip()]
    shapes: list[tuple[str | None, tuple[_Axis, ...]]] = []
    for group in groups:
        name, colon, dims = group.rpartition(":")
        if not colon and not is_range:
            _bad_shape(group, "it has no name", "input_name1:n1,c1,h1,w1")
        if colon and not name:
            _bad_shape(group, "its name is empty", "input_name1:n1,c1,h1,w1")
        axes = tuple(_axis(text, group, has_gears, is_range) for text in dims.split(",")) if dims.strip() else ()
        shapes.append((name if colon else None, axes))
    named = [name is not None for name, _ in shapes]
    if any(named) and not all(named):
        _bad_shape(shape_text, "some shapes have a name and some have none", "input_name1:n1,c1,h1,w1")
    names = [name for name, _ in shapes if name is not None]
    for name in names:
        if names.count(name) > 1:
            _bad_shape(shape_text, f"{name} is there twice", "input_name1:n1,c1,h1,w1")  # Decision: silent in the contract
    return _Request(tuple(shapes), is_range)


def _bad_shape(shape: str, reason: str, sample: str) -> NoReturn:
    _refuse("E10002", f"Shape [{shape}] of parameter [--input_shape] is invalid: {reason}. A right one looks like [{sample}].")


def _axis(text: str, group: str, has_gears: bool, is_range: bool) -> _Axis:
    if is_range and "~" in text:
        low_text, _, high_text = text.partition("~")
        low, high = _dim(low_text, group), _dim(high_text, group)
        if low < 0 or (high != -1 and low > high):
            _refuse("E10048", f"Range [{text}] in [{group}] is invalid: it looks like [1~8] or [1~-1].")
        return _Axis(low, high)
    dim = _dim(text, group)
    if is_range and dim == -1:
        return _Axis(0, -1)
    if dim <= 0 and not has_gears:
        _refuse("E10011", f"[--input_shape] of [{group}] must have positive values; got [{dim}].")
    if dim < -1:
        # 5.3: passes the check of a gear model; no compiler can go on with it.
        _refuse("E19999", f"acl_sim: [{dim}] in [{group}] is no size.")
    return _Axis(dim, dim)


def _dim(text: str, group: str) -> int:
    text = text.strip()
    if "." in text:
        _bad_shape(group, f"{text} has a decimal point", "input_name1:n1,c1,h1,w1")
    number = re.match(r"[-+]?[0-9]+", text)
    if number is None:
        _refuse("E10014", f"Value [{text}] in [--input_shape={group}] is not a number.")
    if number.end() != len(text):
        _bad_shape(group, f"{text} ends in something else than a digit", "input_name1:n1,c1,h1,w1")
    # Decision: the limit is that of 32 bits, beyond which no tensor of the simulator reaches.
    if len(text) > 20 or abs(int(text)) > _MAX_DIM:
        _refuse("E10013", f"Value [{text}] in [--input_shape={group}] is out of range.")
    return int(text)


def _shape_ranges(text: str) -> tuple[tuple[str | None, tuple[_Axis, ...]], ...]:
    form = "[--input_shape_range] looks like [name:[1~8,3,-1];name2:[2~4]]"
    shapes: list[tuple[str | None, tuple[_Axis, ...]]] = []
    for group in filter(None, text.split(";")):
        match = re.fullmatch(r"\s*(?:(?P<name>.+):)?\s*\[(?P<dims>[^\[\]]*)\]\s*", group)
        if match is None:
            _refuse("E10048", f"[{group}] is invalid: {form}.")
        axes: list[_Axis] = []
        for item in match["dims"].split(",") if match["dims"].strip() else ():
            bounds = re.fullmatch(r"\s*(?:(\d{1,10})~(\d{1,10}|-1)|(\d{1,10}|-1))\s*", item)
            if bounds is None:
                _refuse("E10048", f"[{item}] in [{group}] is invalid: {form}.")
            if bounds[3] is not None:
                axes.append(_Axis(0, -1) if bounds[3] == "-1" else _Axis(int(bounds[3]), int(bounds[3])))
            else:
                axes.append(_Axis(int(bounds[1]), int(bounds[2])))
            if max(axes[-1].low, axes[-1].high) > _MAX_DIM or -1 < axes[-1].high < axes[-1].low:
                _refuse("E10048", f"[{item}] in [{group}] is invalid: {form}.")
        shapes.append((match["name"], tuple(axes)))
    named = [name is not None for name, _ in shapes]
    if not shapes or (any(named) and not all(named)):
        _refuse("E10048", f"[{text}] is invalid: {form}.")
    return tuple(shapes)


def _requested_gears(
    flags: Mapping[str, str], gear_flags: Sequence[str], request: _Request, input_format: str, report: _Report
) -> tuple[GearKind, list[tuple[int, ...]]]:
    if not gear_flags:
        return (GearKind.RANGE if request.is_range else GearKind.NONE), []
    text = flags[gear_flags[0]]
    shapes = {str(name): [axis.dim for axis in axes] for name, axes in request.shapes}
    if gear_flags[0] == "dynamic_batch_size":
        return GearKind.BATCH, _batch_gears(text, shapes, report)
    if gear_flags[0] == "dynamic_image_size":
        return GearKind.IMAGE, _image_gears(text, shapes, input_format)
    gears = _dims_gears(text, shapes)
    if flags.get("insert_op_conf"):
        _refuse(
            "E10001",
            f"Value [{flags['insert_op_conf']}] for parameter [--insert_op_conf] is invalid. "
            "Reason: AIPP does not go with [--dynamic_dims].",
        )
    return GearKind.DIMS, gears


def _batch_gears(text: str, shapes: Mapping[str, list[int]], report: _Report) -> list[tuple[int, ...]]:
    counted = 0
    for name, dims in shapes.items():
        if not dims:
            _refuse("E10012", f"Input [{name}] in [--input_shape] has fewer than one dimension.")
        if dims[0] == -1 and dims.count(-1) > 1:
            report.recorded.append(Problem("E10018", f"Input [{name}]: only N may be -1 with [--dynamic_batch_size]."))
        elif dims[0] == -1:
            counted += 1
    if not counted:
        _refuse("E10031", "No input in [--input_shape] has -1 as its batch, the first axis, with [--dynamic_batch_size].")
    if not re.fullmatch(r"[0-9,]+", text):
        _refuse("E10003", f"Value [{text}] for parameter [--dynamic_batch_size] is invalid. Reason: only digits and commas.")
    return [(_gear_value(item),) for item in text.split(",") if item]


def _image_gears(text: str, shapes: Mapping[str, list[int]], input_format: str) -> list[tuple[int, ...]]:
    varying = [(name, dims) for name, dims in shapes.items() if -1 in dims]
    if input_format != "NCHW":
        raise AtcError(
            Problem(
                "E10003",
                f"Value [{input_format}] for parameter [--input_format] is invalid. Reason: [--dynamic_image_size] needs NCHW.",
            ),
            Problem("E10019", "Only H and W may be -1 with [--dynamic_image_size]."),
        )
    if not varying:
        _refuse("E10019", "H and W of an input in [--input_shape] must be -1 with [--dynamic_image_size].")
    for name, dims in varying:
        if dims[2:] != [-1, -1] or -1 in dims[:2]:  # and so has four axes
            _refuse("E10019", f"Input [{name}]: only H and W may be -1 with [--dynamic_image_size].")
    if not re.fullmatch(r"[0-9,; ]+", text):
        _refuse(
            "E10003", f"Value [{text}] for parameter [--dynamic_image_size] is invalid. Reason: only digits, comma, semicolon."
        )
    gears: list[tuple[int, ...]] = []
    for group in text.removesuffix(";").split(";"):
        values = group.split(",")
        if len(values) != 2:
            _refuse("E10020", f"Value [{group}] for parameter [--dynamic_image_size] is invalid: one size is height,width.")
        for value in values:
            if not value.isdigit():
                # Decision: a blank passes the check above and fails later, the contract does not say as what.
                _refuse("E10014", f"Value [{value}] in [--dynamic_image_size] is not a number.")
        gears.append(tuple(_gear_value(value) for value in values))
    return gears


def _dims_gears(text: str, shapes: Mapping[str, list[int]]) -> list[tuple[int, ...]]:
    free = sum(dims.count(-1) for dims in shapes.values())
    if not free:
        _refuse("E10001", "Value for parameter [--input_shape] is invalid. Reason: [--dynamic_dims] needs at least one -1.")
    gears: list[tuple[int, ...]] = []
    for group in text.removesuffix(";").split(";"):
        values = group.split(",")
        if not all(re.fullmatch("[0-9]+", value) for value in values):
            _refuse(
                "E10001", f"Value [{group}] for parameter [--dynamic_dims] is invalid. Reason: only digits, comma, semicolon."
            )
        if len(values) != free:
            _refuse(
                "E10003",
                f"Value [{group}] for parameter [--dynamic_dims] is invalid. Reason: "
                f"--input_shape has {free} times -1, the gear {len(values)} values.",
            )
        gears.append(tuple(_gear_value(value) for value in values))
    return gears


def _gear_value(text: str) -> int:
    if len(text) > 10 or int(text) > _MAX_DIM:
        _refuse("E10013", f"Gear value [{text}] is out of range.")
    return int(text)


def _check_gears(gears: Sequence[tuple[int, ...]]) -> None:
    """The gear list, after the model was read (5.1): how many, of one length, none twice."""
    if len(gears) < MIN_GEARS:
        _refuse("E10035", f"The number of gears is {len(gears)}, below the minimum of {MIN_GEARS}.")
    if len(gears) > MAX_GEARS:
        # The message exists, current source never raises it: documented limit, enforced here (5.4).
        _refuse(
            "E10036",
            f"The number of gears is {len(gears)}, above the documented maximum of {MAX_GEARS} "
            "(acl_sim enforces it; the vendor's current source does not).",
        )
    lengths = {len(gear) for gear in gears}
    if len(lengths) > 1:
        _refuse("E10037", f"Gears differ in length: {sorted(lengths)}.")
    for gear in gears:
        if any(value < 1 for value in gear):
            _refuse(
                "E10038",
                f"Gear {list(gear)}: every value must be > 0 (acl_sim enforces it; the vendor's current source lets 0 pass).",
            )
    for gear in gears:
        if list(gears).count(gear) > 1:
            _refuse("E10039", f"Gear {list(gear)} is there twice.")


def _aipp_text(flags: Mapping[str, str]) -> str | None:
    path = flags.get("insert_op_conf", "")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        _refuse("E13000", f"Path [{path}] of parameter [--insert_op_conf] is invalid: {error}.")


def _requested_outputs(text: str) -> list[tuple[str, int | None]]:
    """Read ``--out_nodes``: (node, index), or (name of a tensor, None), in order."""
    form = "it looks like [node_name1:0;node_name1:1;node_name2:0], or is names of tensors without an index"
    wanted: list[tuple[str, int | None]] = []
    for item in filter(None, text.split(";")):
        # Decision: the last colon counts: names in ONNX graphs may have some.
        name, _, index = item.rpartition(":")
        if name and not re.fullmatch("[0-9]+", index):
            _refuse("E10001", f"Value [{item}] for parameter [--out_nodes] is invalid. Reason: the index is no number; {form}.")
        if len(index) > 10 and name:
            _refuse("E10013", f"Value [{item}] of parameter [--out_nodes] is out of range.")
        if item.startswith(":"):
            _refuse("E10001", f"Value [{item}] for parameter [--out_nodes] is invalid. Reason: no node is named; {form}.")
        wanted.append((name, int(index)) if name else (item, None))
    if len({index is None for _, index in wanted}) > 1:
        _refuse("E10001", f"Value [{text}] for parameter [--out_nodes] is invalid. Reason: all or none have an index; {form}.")
    if len(set(wanted)) < len(wanted):
        # Decision: silent in the contract.
        _refuse("E10001", f"Value [{text}] for parameter [--out_nodes] is invalid. Reason: an output is there twice.")
    return wanted


@dataclass(frozen=True)
class _Output:
    """One output of the model to write: who makes it, which tensor of the graph it is, its type if that is to change."""

    node: str
    index: int
    tensor: str
    element: int | None = None


def _outputs(graph: onnx.ModelProto, wanted: Sequence[tuple[str, int | None]], type_text: str) -> list[_Output]:
    """Settle which tensors come out, and in which types; the graph ends there from now on."""
    made: dict[tuple[str, int], str] = {}
    for number, node in enumerate(graph.graph.node):
        name = node.name or f"{node.op_type}_{number}"
        for index, tensor in enumerate(node.output):
            made.setdefault((name, index), tensor)
    makers = {tensor: place for place, tensor in made.items() if tensor}
    if wanted:
        names = [_wanted_tensor(made, name, index) for name, index in wanted]
        if len(set(names)) < len(names):
            _refuse("E10001", "Value for parameter [--out_nodes] is invalid. Reason: an output is there twice.")
        try:
            select_outputs(graph, names)
        except ComputeError as error:
            _refuse("E20001", f"Compiling the model for [--out_nodes] failed: {error}")
    outputs: list[_Output] = []
    for value in graph.graph.output:
        node_name, position = makers.get(value.name, (value.name, 0))
        outputs.append(_Output(node_name, position, value.name))
    return _with_types(outputs, type_text, bool(wanted))


def _wanted_tensor(made: Mapping[tuple[str, int], str], name: str, index: int | None) -> str:
    if index is None:
        if name not in made.values():
            _refuse("E10016", f"Name [{name}] in [--out_nodes] is no tensor that the model computes.")
        return name
    indexes = [position for node, position in made if node == name]
    if not indexes:
        _refuse("E10016", f"Name [{name}] in [--out_nodes] is no node of the model.")
    if index not in indexes or not made[name, index]:
        _refuse(
            "E10003",
            f"Value [{name}:{index}] for parameter [--out_nodes] is invalid. Reason: the node has {len(indexes)} outputs.",
        )
    return made[name, index]


def _with_types(outputs: Sequence[_Output], text: str, selected: bool) -> list[_Output]:
    """Apply ``--output_type``: one type for all, or types of single outputs that ``--out_nodes`` names."""
    if not text:
        return list(outputs)
    if ":" not in text:
        return [replace(output, element=_output_type(text)) for output in outputs]
    elements: dict[tuple[str, int], int] = {}
    for item in filter(None, text.split(";")):
        match = re.fullmatch(r"(.+):\s*([0-9]{1,10})\s*:([^:]*)", item)
        if match is None:
            _refuse(
                "E10001",
                f"Value [{item}] for parameter [--output_type] is invalid. Reason: it looks like [FP32], "
                "or [node_name1:0:FP16;node_name2:0:FP32].",
            )
        place = match[1].strip(), int(match[2])
        if not selected or place not in [(output.node, output.index) for output in outputs]:
            _refuse(
                "E10001",
                f"Value [{item}] for parameter [--output_type] is invalid. "
                f"Reason: [--out_nodes] must name [{place[0]}:{place[1]}].",
            )
        elements[place] = _output_type(match[3].strip())
    return [replace(output, element=elements.get((output.node, output.index))) for output in outputs]


def _output_type(text: str) -> int:
    if text not in _OUTPUT_TYPES:
        allowed = ", ".join(_OUTPUT_TYPES)
        _refuse("E10001", f"Value [{text}] for parameter [--output_type] is invalid. Reason: simulated are {allowed}.")
    return _OUTPUT_TYPES[text]


def _fp16_inputs(text: str, graph: onnx.ModelProto) -> list[str]:
    """Check ``--input_fp16_nodes`` against the graph. Decision: an input of any type can be fed in half precision."""
    names = [value.name for value in graph_inputs(graph)]
    nodes = {node.name for node in graph.graph.node}
    wanted = list(filter(None, text.split(";")))
    for name in wanted:
        if name in nodes and name not in names:
            _refuse("E10017", f"Name [{name}] in [--input_fp16_nodes] is no input of the model.")
        if name not in names:
            _refuse("E10016", f"Name [{name}] in [--input_fp16_nodes] is not in the model; its inputs are: {', '.join(names)}.")
    return wanted


def _load(path: Path, report: _Report) -> onnx.ModelProto:
    try:
        graph = onnx.load_model(str(path))  # external data too, from the model's own directory
    except Exception as error:  # protobuf's, onnx's and the file system's errors share no base below Exception
        _refuse("E16005", f"The model file [{path}] cannot be parsed: {error}.")
    if not graph.graph.node and not graph.graph.output:
        _refuse("E16004", f"The model file [{path}] has no graph.")
    try:
        # Decision: a model's own functions are inlined; whether the vendor's parser knows them is not documented.
        check_bounds(graph)
        graph = inline_functions(graph)
    except Exception as error:  # as above
        _refuse("E16005", f"The model file [{path}] cannot be unfolded: {error}.")
    opset = next((entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not 11 <= opset <= 18:
        report.notes.append(f"warning: operator set {opset}; 11 to 18 are documented")
    _check_operators(graph.graph, opset)
    for tensor in tensors(graph.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            _refuse("E16005", f"The weights of [{tensor.name}] could not be read.")
        if tensor.external_data:  # what was read is inside now; touching an unset field would set it
            del tensor.external_data[:]
    if graph.ByteSize() > _MAX_ONNX_BYTES:
        _refuse("E19999", "acl_sim: a model beyond 2 GiB is not simulated.")
    try:
        onnx.checker.check_model(graph)
    except Exception as error:  # ValidationError, or what its C++ side raises
        _refuse("E16005", f"The model file [{path}] is invalid: {error}.")
    return graph


def _check_operators(graph: onnx.GraphProto, opset: int) -> None:
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, max(opset, 1), ""):
            name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            _refuse("E16002", f"Operator type [{name}] of node [{node.name}] is unknown to the ONNX parser.")
        if node.op_type in _DATA_SHAPED:
            _refuse("E20001", f"acl_sim: operator [{node.op_type}] has a result whose size its data decides; not simulated.")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_operators(attribute.g, opset)
            for inner in attribute.graphs:
                _check_operators(inner, opset)


@dataclass(frozen=True)
class _Job:
    name: str
    graph: onnx.ModelProto
    request: _Request
    kind: GearKind
    gears: list[tuple[int, ...]]
    input_format: str
    precision: str
    soc_version: str
    aipp_text: str | None


def _compile(job: _Job, results: Sequence[_Output], fp16_inputs: Sequence[str]) -> _om.Model:
    values = graph_inputs(job.graph)
    axes, order = _final_shapes(job, values)
    if job.gears or job.kind not in (GearKind.NONE, GearKind.RANGE):
        _check_gears(job.gears)
    dims = [tuple(axis.dim for axis in shape) for shape in axes]
    if job.kind is GearKind.RANGE and not any(-1 in shape for shape in dims):
        job = replace(job, kind=GearKind.NONE)  # Decision: a range that leaves no axis open is a fixed shape
    if job.kind is GearKind.BATCH and any(-1 in shape[1:] for shape in dims):
        # 5.4: passes the checks where another input is fine; the build fails. What E10018 recorded comes first.
        _refuse("E19999", "acl_sim: an input has -1 elsewhere than on its first axis with [--dynamic_batch_size].")
    inputs = [_tensor(value, value.name, shape, job.input_format) for value, shape in zip(values, dims, strict=True)]
    aipp = _aipp(job, inputs)
    ranges = tuple(tuple((axis.low, axis.high) for axis in shape) for shape in axes) if job.kind is GearKind.RANGE else ()
    bounded = all(high != -1 for shape in ranges for _, high in shape)
    graph = with_free_shapes(job.graph, dims)
    probes: list[tuple[Shape, ...]] = []
    if job.kind is GearKind.RANGE:
        if bounded:
            probes = [tuple(tuple(axis.high for axis in shape) for shape in axes)]
    elif not job.gears:
        probes = [tuple(dims)]
    else:
        probes = [_at_gear(job, dims, order, gear) for gear in job.gears]
    found = [_shapes_at(graph, shapes) for shapes in probes]
    per_gear = tuple(shapes for shapes, _ in found)
    outputs: list[_om.Tensor] = []
    for index, (value, result) in enumerate(zip(graph.graph.output, results, strict=True)):
        shape = _declared_output(graph, index, [shapes[index] for shapes in per_gear], job.kind)
        outputs.append(_tensor(value, f"{result.node}:{result.index}:{result.tensor}", shape, job.input_format))
    for value, output in zip(graph.graph.output, outputs, strict=True):
        value.type.tensor_type.shape.SetInParent()
        for axis, dim in enumerate(output.dims):
            entry = value.type.tensor_type.shape.dim.add()
            if dim == -1:
                entry.dim_param = f"{value.name}_{axis}"
            else:
                entry.dim_value = dim
    for index, tensor in enumerate(inputs):
        if tensor.name in fp16_inputs:
            if aipp[index] is not None:
                _refuse(
                    "E10001",  # Decision: the manual excludes it, the contract has no code for it.
                    f"Value [{tensor.name}] for parameter [--input_fp16_nodes] is invalid. "
                    "Reason: [--insert_op_conf] says what this input takes.",
                )
            source = retype_input(graph, index, TensorProto.FLOAT16)
            inputs[index] = replace(tensor, acl_type=_om.FLOAT16, source=source)
    for index, result in enumerate(results):
        if result.element is not None and ACL_TYPES[result.element] != outputs[index].acl_type:
            source = retype_output(graph, index, result.element)
            outputs[index] = replace(outputs[index], acl_type=ACL_TYPES[result.element], source=source)
    try:
        model = _om.Model(
            name=job.name,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            gear_kind=job.kind,
            gears=tuple(job.gears),
            output_shapes=per_gear,
            shape_order=tuple(order),
            ranges=ranges,
            precision_mode=job.precision,
            soc_version=job.soc_version,
            aipp=tuple(aipp),
            weight_bytes=sum(numpy_helper.to_array(weight).nbytes for weight in graph.graph.initializer),
            work_bytes=2 * max((inferred.largest_bytes for _, inferred in found), default=0),
            flops=tuple(inferred.flops for _, inferred in found),
            graph=graph.SerializeToString(),
        )
        Program(model).prepare()
    except (_om.OmDataError, ComputeError) as error:
        _refuse("E20001", f"Compiling the model failed: {error}")
    return model


def _tensor(value: onnx.ValueInfoProto, name: str, dims: Shape, input_format: str) -> _om.Tensor:
    element = value.type.tensor_type.elem_type
    if element not in ACL_TYPES:
        _refuse("E19999", f"acl_sim: [{value.name}] is no tensor of a simulated type.")
    # Decision: the format asked for where the rank fits it, ND elsewhere.
    formats = {("NCHW", 4): _om.FORMAT_NCHW, ("NCDHW", 5): 30}
    number = formats.get((input_format, len(dims)), _om.FORMAT_ND)
    try:
        return _om.Tensor(name, ACL_TYPES[element], number, tuple(dims), value.name)
    except _om.OmDataError as error:
        _refuse("E19999", f"acl_sim: {error}")


def _final_shapes(job: _Job, values: Sequence[onnx.ValueInfoProto]) -> tuple[list[tuple[_Axis, ...]], list[int]]:
    """Return each input's axes, and the inputs in the order of the command line.

    Decision: inputs that it leaves out come last, in the model's order.
    """
    names = [value.name for value in values]
    given: dict[int, tuple[_Axis, ...]] = {}
    for position, (name, axes) in enumerate(job.request.shapes):
        if name is None:
            if position >= len(names):
                _refuse("E10016", f"Position {position} in [--input_shape] is no input of the model.")
            given[position] = axes
        elif name not in names:
            _refuse("E10016", f"Name [{name}] in [--input_shape] is no input of the model; these are: {', '.join(names)}.")
        else:
            given[names.index(name)] = axes
    order = [*given, *(index for index in range(len(names)) if index not in given)]
    result: list[tuple[_Axis, ...]] = []
    for index, value in enumerate(values):
        tensor_type = value.type.tensor_type
        own = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor_type.shape.dim]
        if index in given:
            if tensor_type.HasField("shape") and len(own) != len(given[index]):
                _refuse(
                    "E10049",
                    f"Input [{value.name}] has {len(own)} axes in the model and {len(given[index])} in [--input_shape].",
                )
            result.append(given[index])
        elif any(dim < 0 for dim in own) or not tensor_type.HasField("shape"):
            # Decision: the contract says that it must be listed, not as what it fails.
            _refuse(
                "E10001",
                f"Value for parameter [--input_shape] is invalid. Reason: the shape of input [{value.name}] "
                "is not fixed in the model and not given.",
            )
        else:
            result.append(tuple(_Axis(dim, dim) for dim in own))
    return result, order


def _at_gear(job: _Job, dims: Sequence[Shape], order: Sequence[int], gear: Shape) -> tuple[Shape, ...]:
    values = iter(gear)
    result = list(dims)
    for index in order:
        if job.kind is GearKind.DIMS:
            result[index] = tuple(next(values) if dim == -1 else dim for dim in dims[index])
        else:
            result[index] = tuple(
                (gear[0] if job.kind is GearKind.BATCH else gear[axis - 2]) if dim == -1 else dim
                for axis, dim in enumerate(dims[index])
            )
    return tuple(result)


def _shapes_at(graph: onnx.ModelProto, shapes: Sequence[Shape]) -> tuple[tuple[Shape, ...], Inferred]:
    try:
        inferred = infer(graph, shapes)
        if None in inferred.outputs:
            return tuple(run_on_zeros(graph, shapes)), inferred
    except ComputeError as error:
        described = ", ".join(str(list(shape)) for shape in shapes)
        _refuse("E20001", f"Compiling the model for input shapes {described} failed: {error}")
    return tuple(shape for shape in inferred.outputs if shape is not None), inferred


def _declared_output(graph: onnx.ModelProto, index: int, shapes: Sequence[Shape], kind: GearKind) -> Shape:
    """What the file declares: -1 where an axis differs between gears, or where inference leaves a shape range open."""
    if kind is not GearKind.RANGE:
        if len({len(shape) for shape in shapes}) > 1:
            _refuse("E20001", "acl_sim: the rank of an output differs between gears; not simulated.")
        return tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True))
    try:
        inferred = infer_shapes(graph)
    except ComputeError as error:
        _refuse("E20001", f"Compiling the model for its shape range failed: {error}")
    tensor_type = inferred.graph.output[index].type.tensor_type
    if not tensor_type.HasField("shape"):
        _refuse("E20001", "acl_sim: the rank of an output is not known for the shape range; not simulated.")
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor_type.shape.dim)


def _aipp(job: _Job, inputs: Sequence[_om.Tensor]) -> list[AippConfig | None]:
    result: list[AippConfig | None] = [None] * len(inputs)
    if job.aipp_text is None:
        return result
    if job.kind not in (GearKind.NONE, GearKind.BATCH):
        _refuse("E19999", "acl_sim: AIPP together with image gears or a shape range is not simulated.")
    try:
        for config in parse_config(job.aipp_text):
            if config.related_input_rank >= len(inputs):
                raise AippError(f"related_input_rank {config.related_input_rank}: the model has {len(inputs)} inputs")
            tensor = inputs[config.related_input_rank]
            if job.input_format != "NCHW" or tensor.acl_type not in (_om.FLOAT, _om.FLOAT16):
                raise AippError(f"{tensor.name!r} must be a floating-point NCHW input")
            config.check_input(tensor.dims)
            result[config.related_input_rank] = config
    except AippError as error:
        _refuse("E10001", f"The file of parameter [--insert_op_conf] is invalid. Reason: {error}.")
    return result


if __name__ == "__main__":
    sys.exit(main())
