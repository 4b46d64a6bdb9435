"""The command poprt: conversion, PopEF files, fusion, passes, and what it refuses."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from poprt_models import F16, F32, I64, add2, build, dense, dense_reference, node
from poprt_sim import _yaml, cli, testing
from poprt_sim._compute import Program
from poprt_sim._popef import read_popef
from poprt_sim._yaml import YamlError
from poprt_sim.passes import Pass, shape_inference


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh machine, a folder of its own, and a registry that forgets."""
    testing.reset()
    monkeypatch.chdir(tmp_path)
    before = dict(Pass._registered)
    yield tmp_path
    Pass._registered.clear()
    Pass._registered.update(before)
    testing.reset()


def free():
    model = dense()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def poprt(capsys, *words, status=0):
    """Run the command; returns its output and its errors."""
    found = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert found == status, captured.err
    return captured.out, captured.err


def refused(capsys, *words):
    out, err = poprt(capsys, *words, status=1)
    assert out == ""
    assert err.startswith("poprt: error: ")
    assert err.count("\n") == 1, "more than one sentence"
    return err


def test_conversion(capsys, here):
    onnx.save(free(), "m.onnx")
    poprt(capsys, "-i", "m.onnx", "--input_shape", "x=3,6", "--precision", "fp16", "--output_model", "out.onnx")
    converted = onnx.load("out.onnx")
    assert converted.graph.input[0].type.tensor_type.elem_type == F16
    assert [dim.dim_value for dim in converted.graph.output[0].type.tensor_type.shape.dim] == [3, 5]
    assert sorted(path.name for path in here.iterdir()) == ["m.onnx", "out.onnx"]
    poprt(capsys, "--input_model", "m.onnx", "--batch_size", 2, "--batch_axis", 0)
    assert (here / "m.onnx.optimized.onnx").exists()


def test_names_of_inputs_may_hold_anything(capsys):
    model = build([node("Relu", ["a=b:0"], ["y"])], [("a=b:0", F32, ["n", 2])], [("y", F32, ["n", 2])])
    onnx.save(model, "m.onnx")
    poprt(capsys, "-i", "m.onnx", "--input_shape", "a=b:0=3,2", "--output_model", "out.onnx")
    assert onnx.load("out.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


def test_a_popef(capsys, here):
    onnx.save(dense(), "m.onnx")
    (here / "out").mkdir()
    poprt(
        capsys, "-i", "m.onnx", "--export_popef", "--output_dir", "out", "--ipu_version", "ipu21", "--num_io_tiles", 32,
        "--batches_per_step", 5, "--compiler_options", "num_ipus=2", "constant_weights=False", "opaque_blobs={\"a\": \"b\"}",
        "partials_type=float", "outline_threshold=2.5", "--available_memory_proportion", "0.3",
    )  # fmt: skip
    made = read_popef("out/executable.popef")
    assert (made.num_io_tiles, made.batches_per_step, made.num_ipus, made.ipu_version) == (32, 5, 2, "ipu21")
    assert (made.opaque_blobs, len(made.anchors)) == ((("a", "b"),), 2)
    poprt(capsys, "-i", "m.onnx", "--export_popef", "--batch_per_step", 9)
    assert (read_popef("executable.popef").batches_per_step, read_popef("executable.popef").ipu_version) == (9, "ipu2")


def test_run_prints_three_lines(capsys):
    onnx.save(dense(), "m.onnx")
    _, err = poprt(capsys, "-i", "m.onnx", "--run", "--ipu_version", "ipu21")
    assert re.findall(r"\] (Bs: 4|Latency: \d+\.\d\dms|Tput: \d+)$", err, re.MULTILINE) == [
        "Bs: 4", *re.findall(r"Latency: .*ms", err), *re.findall(r"Tput: .*", err)
    ]  # fmt: skip
    assert len(err.splitlines()) == 3
    assert float(re.search(r"Latency: (.*)ms", err).group(1)) > 0
    assert poprt(capsys, "-i", "m.onnx", "--run", "--ipu_version", "ipu21")[1].splitlines()[1].split("Latency")[1] in err


def test_a_model_for_another_ipu_does_not_run(capsys):
    """The command compiles for ipu2 unless told otherwise; the simulated machine has C600 cards."""
    onnx.save(dense(), "m.onnx")
    assert "ipu2" in refused(capsys, "-i", "m.onnx", "--run")
    testing.reset(ipu_version="ipu2")
    poprt(capsys, "-i", "m.onnx", "--run")


def test_show(capsys, here):
    model = build([node("Shape", ["x"], ["y"])], [("x", F32, ["n", 6])], [("y", I64, [2])])
    onnx.save(model, "m.onnx")
    _, err = poprt(capsys, "-i", "m.onnx", "--show")
    assert [line.split("] ")[1] for line in err.splitlines()] == [
        "Input x: dtype - float32, shape - [0, 6]",
        "Output y: dtype - int64, shape - [2]",
    ]
    assert [path.name for path in here.iterdir()] == ["m.onnx"]


def test_show_does_not_swallow_what_else_was_asked_for(capsys, here):
    onnx.save(build([node("Relu", ["x"], ["y"])], [("x", F32, [4, 6])], [("y", F32, [4, 6])]), "m.onnx")
    _, err = poprt(capsys, "-i", "m.onnx", "--show", "--export_popef", "--run", "--ipu_version", "ipu21")
    assert [line.split("] ")[1].split()[0] for line in err.splitlines()] == ["Input", "Output", "Bs:", "Latency:", "Tput:"]
    assert (here / "executable.popef").is_file()


def test_passes(capsys, here):
    out, _ = poprt(capsys, "--list_all_passes")
    assert "gelu_pattern" in out.splitlines()
    assert "swap" not in out.splitlines()
    Path("swap.py").write_text(
        "from poprt.passes import Pass, register\n@register('swap')\nclass Swap(Pass):\n"
        "    def run(self, onnx_model):\n        onnx_model.graph.node[0].op_type = 'Sub'\n        return onnx_model\n"
    )
    out, _ = poprt(capsys, "--list_all_passes", "--custom_pass_config", "swap.py")
    assert "swap" in out.splitlines()
    assert "poprt" not in sys.modules
    onnx.save(add2(), "m.onnx")
    poprt(capsys, "-i", "m.onnx", "--passes", "swap,gelu_pattern", "--output_model", "out.onnx")
    assert onnx.load("out.onnx").graph.node[0].op_type == "Sub"
    poprt(capsys, "-i", "m.onnx", "--passes", "swap", "--skip_passes", "swap", "--output_model", "out.onnx")
    assert onnx.load("out.onnx").graph.node[0].op_type == "Add"
    assert "no pass is registered as 'nothing'" in refused(capsys, "-i", "m.onnx", "--passes", "nothing")
    Path("broken.py").write_text("def :")
    assert "invalid syntax" in refused(capsys, "--list_all_passes", "--custom_pass_config", "broken.py")


def test_custom_shape_inference(capsys):
    Path("shapes.py").write_text(
        "from poprt.passes import ShapeFunc, register_shape_func\n"
        "@register_shape_func(['Own'])\nclass Own(ShapeFunc):\n    pass\n"
    )
    try:
        poprt(capsys, "--list_all_passes", "--custom_shape_inference", "shapes.py")
        assert "Own" in shape_inference._functions
    finally:
        shape_inference._functions.clear()
    assert "no such file: 'none.py'" in refused(capsys, "--list_all_passes", "--custom_shape_inference", "shapes.py,none.py")
    shape_inference._functions.clear()


def test_merged_inputs(capsys):
    names = [f"x{index}" for index in range(3)]
    onnx.save(build([node("Sum", names, ["y"])], [(name, F32, [4, 2]) for name in names], [("y", F32, [4, 2])]), "m.onnx")
    poprt(capsys, "-i", "m.onnx", "--apply_hcsr", "fp32,[4,2],2", "fp16,[4,2]", "--export_popef", "--output_model", "out.onnx")
    assert [value.name for value in onnx.load("out.onnx").graph.input] == ["x2", "merged_input_0"]
    assert "merged_input_0" in dict(read_popef("executable.popef").opaque_blobs)["HostConcatRunnerConfig"]
    for wrong in ("fp32", "fp33,[4,2],2", "fp32,[4,x],2", "fp32,[4,2],x"):
        assert "expected TYPE,[SIZE,SIZE],NUMBER" in refused(capsys, "-i", "m.onnx", "--apply_hcsr", wrong)


def test_sharding(capsys):
    onnx.save(dense(), "m.onnx")
    Path("shard.yaml").write_text("-\n  node: Relu_r\n  device: 0\n  stage: 0\n-\n  node: Add_s\n  device: 1\n  stage: 1\n")
    for more in ([], ["--only_manual_sharding"]):
        poprt(capsys, "-i", "m.onnx", "--manual_sharding_config", "shard.yaml", "--output_model", "out.onnx", *more)
        for attribute in ("__ipu_number", "__pipeline_stage"):
            numbers = [a.i for each in onnx.load("out.onnx").graph.node for a in each.attribute if a.name == attribute]
            assert numbers == [0, 0, 1, 2]
    assert "--manual_sharding_config" in refused(capsys, "-i", "m.onnx", "--only_manual_sharding")
    Path("shard.yaml").write_text("node: 5")
    assert "expected a list of entries" in refused(capsys, "-i", "m.onnx", "--manual_sharding_config", "shard.yaml")


# Configuration files

FUSION = """
output_dir: './'
output_model: 'fused.onnx'   # where it goes
export_popef: True
max_tensor_size: -1
ipu_version: 'ipu21'
model_fusion:
  - input_model: 'a.onnx'
    input_shape: ['X=4,2', 'Y=4,2']
    precision: 'fp32'

  - input_model: 'b.onnx'
    input_shape: ['x=3,6']
    precision: 'fp16'
"""


def test_model_fusion(capsys):
    onnx.save(add2(), "a.onnx")
    onnx.save(free(), "b.onnx")
    Path("config.yaml").write_text(FUSION)
    poprt(capsys, "--config_yaml", "config.yaml")
    made = read_popef("executable.popef")
    assert made.ipu_version == "ipu21"
    assert {info.name: (str(info.dtype), info.shape) for info in made.inputs} == {
        "graph0/X": ("float32", (4, 2)),
        "graph0/Y": ("float32", (4, 2)),
        "graph1/x": ("float16", (3, 6)),
        "index": ("uint32", (1,)),
    }
    x = np.ones((3, 6), np.float16)
    np.testing.assert_allclose(Program(made).run({"graph1/x": x})["graph1/y"], dense_reference(x), rtol=1e-2)
    assert onnx.load("fused.onnx").graph.name == "model_fusion"


def test_options_from_a_file(capsys):
    onnx.save(free(), "m.onnx")
    Path("c.yaml").write_text(
        "input_model: m.onnx\ninput_shape:\n- x=3,6\nprecision: fp16\nshow: no\noutput_model: o.onnx\ncheckpoints: null\n"
    )
    poprt(capsys, "--config_yaml", "c.yaml", "--precision", "fp32")
    assert onnx.load("o.onnx").graph.input[0].type.tensor_type.elem_type == F16


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nothing: 1", "an option 'nothing', which poprt does not"),
        ("help: True", "an option 'help'"),
        ("precision: fp64", "precision: .*invalid choice"),
        ("batch_size: x", "batch_size: .*invalid int"),
        ("show: 5", "show: expected True or False, got 5"),
        ("input_model: [a, b]", "input_model: expected one value"),
        ("- a", "expected options, one KEY: VALUE a line"),
        ("model_fusion: 5", "expected a list of models"),
        ("model_fusion: []", "expected a list of models"),
        ("model_fusion:\n  - precision: fp16", "model 0 has no input_model"),
        ("model_fusion:\n  - precision: fp8\n    input_model: m.onnx", "fp8 is not simulated"),
        ("a: &b c", "line 1: YAML's & is not read here"),
        ("", "expected options"),
    ],
)
def test_files_that_are_wrong(capsys, text, what):
    onnx.save(add2(), "m.onnx")
    Path("c.yaml").write_text(text)
    assert re.search(what, refused(capsys, "--config_yaml", "c.yaml"))


def test_fused_models_do_not_run_from_the_command(capsys):
    onnx.save(add2(), "a.onnx")
    Path("c.yaml").write_text("run: True\nmodel_fusion:\n  - input_model: a.onnx\n")
    assert "--run of fused models is not simulated" in refused(capsys, "--config_yaml", "c.yaml")


# What goes wrong


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--show"], "--input_model: expected the path of an ONNX model"),
        (["-i", "nothing.onnx"], "expected an ONNX file, or a folder with one"),
        (["-i", "two"], "expected one ONNX file, found a.onnx, b.onnx"),
        (["-i", "bad.onnx"], "'bad.onnx' is not an ONNX model"),
        (["-i", "m.onnx", "--input_shape", "x"], "--input_shape: expected NAME=VALUE, got 'x'"),
        (["-i", "m.onnx", "--input_shape", "x=a,b"], "--input_shape x: expected sizes separated by commas"),
        (["-i", "m.onnx", "--input_shape", "z=1,2"], "no input 'z'"),
        (["-i", "m.onnx", "--batch_size", "2"], "expected both or none"),
        (["-i", "m.onnx", "--output_dir", "nowhere"], "--output_dir: no such folder: 'nowhere'"),
        (["-i", "m.onnx", "--framework", "tensorflow"], "TensorFlow models ('m.onnx') are not simulated"),
        (["-i", "m.onnx", "--framework", "paddle"], "framework: expected 'onnx', got 'paddle'"),
        (["-i", "m.onnx", "--export_popef", "--compiler_options", "num_ipus"], "--compiler_options: expected NAME=VALUE"),
        (["-i", "m.onnx", "--export_popef", "--compiler_options", "nothing=1"], "there is no option 'nothing'"),
        (["-i", "m.onnx", "--export_popef", "--compiler_options", "num_ipus=x"], "num_ipus: expected int, got 'x'"),
        (["-i", "m.onnx", "--export_popef", "--compiler_options", "serialize_ir=2"], "serialize_ir: expected bool, got '2'"),
        (["-i", "m.onnx", "--export_popef", "--compiler_options", "opaque_blobs=x"], "opaque_blobs: expected dict, got 'x'"),
        (["-i", "m.onnx", "--export_popef", "--compiler_options", "opaque_blobs=[]"], "opaque_blobs: expected dict, got list"),
        (["-i", "m.onnx", "--checkpoints", "zz"], "no node makes a tensor 'zz'"),
        (["--list_all_passes", "--custom_pass_config", "nothing.py"], "custom_pass_config: no such file"),
        (["--config_yaml", "nothing.yaml"], "nothing.yaml"),
    ],
)
def test_one_sentence(capsys, here, words, what):
    onnx.save(add2(), "m.onnx")
    (here / "bad.onnx").write_bytes(b"\xff\xff")
    (here / "two").mkdir()
    for name in "ab":
        onnx.save(add2(), f"two/{name}.onnx")
    assert what in refused(capsys, *words)


REFUSED = [
    ["tf2onnx", "--saved_model"],
    ["--precision", "fp8"],
    ["--precision", "fp8_weight"],
    *([f"--{name}"] for name in cli._REFUSED_SWITCHES),
    *([f"--{name}", "x"] for name in (*cli._REFUSED_VALUES, *cli._REFUSED_LISTS)),
]


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[0])
def test_what_is_left_out(capsys, words):
    assert "not simulated" in refused(capsys, *words)


def test_out_of_memory_is_a_sentence(capsys):
    testing.reset(tiles=10, tile_memory_bytes=10, ipu_version="ipu2")
    onnx.save(dense(), "m.onnx")
    assert "Out of memory on tile 0: " in refused(capsys, "-i", "m.onnx", "--export_popef")


def test_wrong_usage_has_status_2(capsys):
    for words in (["--nothing"], ["--precision", "fp64"], ["--batch_size", "x"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        assert "usage: poprt" in capsys.readouterr().err


def test_options_without_effect(capsys):
    onnx.save(add2(), "m.onnx")
    words = [*(f"--{name}" for name in cli._SWITCHES_FOR_SPEED)]
    for name in (*cli._VALUES_FOR_SPEED, *cli._LISTS_FOR_SPEED):
        words += [f"--{name}", "x"]
    for name in cli._WHOLE_FOR_SPEED:
        words += [f"--{name}", "5"]
    words += ["--calibration_loss_type", "kld"]
    _, err = poprt(capsys, "-i", "m.onnx", "--output_model", "tuned.onnx", *words)
    assert "--perf_tuner does nothing" in err
    poprt(capsys, "-i", "m.onnx", "--output_model", "plain.onnx")
    assert Path("tuned.onnx").read_bytes() == Path("plain.onnx").read_bytes()


DOCUMENTED = """
apply_hcsr available_memory_proportion batch_size batch_axis batches_per_step calibration_with_data calibration_loss_type check
checkpoints compiler_options config_yaml convert_version custom_library_so_paths custom_pass_config custom_shape_inference
data_preprocess disable_compilation_progress_bar disable_fast_norm eightbitsio merge_if_with_same_cond enable_compress_pattern
enable_erf_gelu enable_insert_remap export_popef fold_periodic_initializer fp16_skip_op_types enable_avoid_overflow_patterns
fp8_skip_op_names fp8_params framework infer_shape_ahead input_model input_shape ipu_version list_all_passes logging_level
manual_sharding_config max_tensor_size num_io_tiles num_of_layers_keep_fp16 only_manual_sharding optimize_internal_exchange_code
output_dir output_model pack_args passes perf_tuner popart_options precision precision_compare print_completion remap_mode
remove_outputs run serialize_matmul serialize_matmul_add merge_matmul merge_matmul_add merge_moe show show_io_stat skip_passes
version
""".split()  # noqa: SIM905


def test_every_option_of_1_5_is_known():
    known = {action.dest for action in cli._parser()._actions}
    assert set(DOCUMENTED) - known == set()
    assert known - set(DOCUMENTED) == {"help", "quantize"}  # the latter is of 1.0.2


def test_version_and_help(capsys):
    assert poprt(capsys, "-v")[0] == "poprt 1.5.0 (simulated)\n"
    assert "This is a simulator." in poprt(capsys)[0]


def test_as_a_process(here):
    onnx.save(add2(), "m.onnx")
    source = str(Path(cli.__file__).parents[1])
    run = [sys.executable, "-m", "poprt_sim.cli", "-i", "m.onnx", "--export_popef"]
    done = subprocess.run(run, env={"PYTHONPATH": source}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert read_popef("executable.popef").name == "test"
    done = subprocess.run(
        [*run[:3], "-i", "x"], env={"PYTHONPATH": source}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# The part of YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("---\na: 1", {"a": 1}),
        ("a: 1\nb: -2.5\nc: x y\nd:\ne: ~", {"a": 1, "b": -2.5, "c": "x y", "d": None, "e": None}),
        ("a: True\nb: no\nc: 'no'\nd: \"5\"", {"a": True, "b": False, "c": "no", "d": "5"}),
        ("a: [1, 'b, c', [d], {e: f}]  # end", {"a": [1, "b, c", ["d"], {"e": "f"}]}),
        ("a: []\nb: {}", {"a": [], "b": {}}),
        ("a:\n  b:\n    c: 1\n  d: 2\ne: 3", {"a": {"b": {"c": 1}, "d": 2}, "e": 3}),
        ("a:\n- 1\n- b: 2\n  c: 3\n-\n  d: 4\n- - 5\n  - 6", {"a": [1, {"b": 2, "c": 3}, {"d": 4}, [5, 6]]}),
        ("- a\n- b#c\n- 'it # is'\n# comment\n", ["a", "b#c", "it # is"]),
        ("'a b': 1\n\"c\": 2", {"a b": 1, "c": 2}),
        ("a: x:y\nb: http://z", {"a": "x:y", "b": "http://z"}),
        ("just a text", "just a text"),
        ("a: 1e5\nb: 1.e5\nc: 0123x", {"a": "1e5", "b": 1e5, "c": "0123x"}),
        ("don't: 1", {"don't": 1}),
    ],
)
def test_yaml(text, value):
    assert _yaml.parse(text) == value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: 1\n\tb: 2", "line 2: indentation is of spaces"),
        ("a: 1\n  b: 2", "line 2: expected no more indentation"),
        ("a: 1\na: 2", "line 2: expected each key once"),
        ("a: 1\nb", "line 2: expected KEY: VALUE"),
        ("- a\nb: 1", "line 2: expected another item"),
        ("a: [1, 2", "line 1: expected , or ]"),
        ("a: {b}", "line 1: expected KEY: VALUE"),
        ("a: 'b", "line 1: expected the quote ' to end"),
        ("a: 'b' c", "line 1: expected nothing behind the value"),
        ("a: [1] 2", "line 1: expected nothing behind the value"),
        ("a: 'it''s'", "line 1: expected a quoted text without escapes"),
        ('a: "b\\n"', "line 1: expected a quoted text without escapes"),
        ("a: |\n  text", "line 1: YAML's | is not read here"),
        ("a: *b", r"line 1: YAML's \* is not read here"),
        ("a: !!python/object:os.system x", "line 1: YAML's ! is not read here"),
        ("a: " + "[" * 100, "line 1: expected at most 50 levels"),
        ("\n".join(" " * level + "a:" for level in range(100)), "expected at most 50 levels"),
    ],
)
def test_yaml_that_is_refused(text, what):
    with pytest.raises(YamlError, match=what.replace("|", r"\|").replace("]", r"\]") if "\\" not in what else what):
        _yaml.parse(text)
