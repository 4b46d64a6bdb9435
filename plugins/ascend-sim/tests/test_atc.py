from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import datetime
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from acl_sim import _om, atc
from acl_sim._om import GearKind
from tiny_models import F32, add2, build, conv, convert, dense, pair, run_atc


@pytest.fixture
def base(tmp_path):
    """Flags that convert the dense model; a test adds to them or overrides them, the last of a flag counts."""
    onnx.save(dense(), tmp_path / "m.onnx")
    return [f"--model={tmp_path / 'm.onnx'}", "--framework=5", f"--output={tmp_path / 'm'}", "--soc_version=Ascend310P3"]


def codes(out: str) -> list[str]:
    return re.findall(r"E\d{5}", out)


def refused(flags, code):
    status, out, err = run_atc(*flags)
    assert status == 255
    assert codes(out)[:1] == [code], out
    assert out.startswith("ATC start working now, please wait for a moment.\n")
    assert atc.FAILURE in out
    assert err == ""
    return out


def two_inputs(tmp_path):
    onnx.save(pair(), tmp_path / "p.onnx")
    return f"--model={tmp_path / 'p.onnx'}"


def image_model(tmp_path):
    onnx.save(conv(), tmp_path / "c.onnx")
    return f"--model={tmp_path / 'c.onnx'}"


# Success, output, exit status


def test_success_text_and_file(base, tmp_path):
    status, out, err = run_atc(*base, "--input_shape=x:-1,6", "--dynamic_batch_size=4,1,8,2")
    assert (status, err) == (0, "")
    assert out.splitlines() == [atc.START, "...", atc.SUCCESS]
    assert (tmp_path / "m.om").read_bytes()[:4] == (0x444F4D49).to_bytes(4, "little")
    model = _om.read(tmp_path / "m.om")
    assert model.gear_kind is GearKind.BATCH
    assert model.gears == ((4,), (1,), (8,), (2,)), "command-line order"
    assert model.precision_mode == "force_fp16"
    assert model.inputs[0].dims == (-1, 6)
    assert model.outputs[0].name == "add:0:y"
    assert model.output_shapes == (((4, 4),), ((1, 4),), ((8, 4),), ((2, 4),))
    assert b"pickle" not in (tmp_path / "m.om").read_bytes()


def test_every_spelling_of_a_flag(tmp_path):
    onnx.save(dense(), tmp_path / "m.onnx")
    status, out, _ = run_atc(
        "--model", str(tmp_path / "m.onnx"), "-framework", "5", "-output=" + str(tmp_path / "m"),
        "--soc-version=Ascend310P3", "--input-shape", "x:-1,6", "--dynamic_b=1,2",
    )  # fmt: skip
    assert status == 0, out


def test_a_value_may_hold_equals_and_of_two_the_last_counts():
    assert atc.parse_flags(["--input_shape=a=b:1", "--log=info", "--log", "null"]) == {"input_shape": "a=b:1", "log": "null"}


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--nonsense=1"], "ERROR: unknown command line flag 'nonsense'"),
        (["--dynamic=1"], "ERROR: unknown command line flag 'dynamic'"),  # an ambiguous prefix
        (["--model"], "ERROR: flag '--model' is missing its argument"),
        (["model.onnx"], "ERROR: Non-option parameter 'model.onnx'"),
    ],
)
def test_flag_errors_go_to_stderr(flags, text):
    status, out, err = run_atc(*flags)
    assert status == 255
    assert err == text + "\n"
    assert out.splitlines() == [atc.START, atc.FAILURE, "E19999: Internal Error!"], "no dots: parsing itself failed"


@pytest.mark.parametrize("flag", ["--help", "-h", "-help"])
def test_help(flag):
    status, out, err = run_atc(flag)
    assert status == 0
    assert "--dynamic_batch_size" in out
    assert err == ""


def test_form_of_an_error_block():
    out = StringIO()
    assert atc.run([], out, StringIO(), now=lambda: datetime(2026, 2, 3, 4, 5, 6, 789012)) == 255
    lines = out.getvalue().splitlines()
    assert lines[:3] == [atc.START, "...", atc.FAILURE]
    assert re.match(r"\[PID: \d+\] 2026-02-03-04:05:06\.789\.012 Invalid_Argument\(E10007\): ", lines[3])
    assert lines[4] == "        TraceBack (most recent call last):"


def test_solution_line(base):
    out = refused([*base, "--model="], "E10054")
    assert "\n        Solution: " in out
    assert "Possible Cause" not in out


def test_module_entry_point(base):
    command = [sys.executable, "-m", "acl_sim.atc", *base]
    environment = {**os.environ, "PYTHONPATH": str(Path(atc.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 255
    assert "E10001" in done.stdout, "x has no fixed shape"
    assert atc.main(["--help"]) == 0


# One row per E-code


def test_e10001_enumerated_values(base):
    for flag in ("--mode=2", "--precision_mode=fp32", "--input_format=NHWC", "--precision_mode_v2=cube_hif8"):
        refused([*base, flag], "E10001")


def test_enumerated_values_come_before_the_rest_and_without_dots():
    out = refused(["--precision_mode=x"], "E10001")
    assert "..." not in out


def test_e10002_shape_syntax(base):
    for shape in ("1,6", "x:1.5,6", "x:1,6a", ":1,6"):
        assert "Invalid_Argument_Tensor_Input_Shape" in refused([*base, f"--input_shape={shape}"], "E10002")


def test_e10003(base, tmp_path):
    batch = [*base, "--input_shape=x:-1,6"]
    refused([*batch, "--dynamic_batch_size=1, 2"], "E10003")
    refused([*batch, "--dynamic_batch_size=1;2"], "E10003")
    image = [*base, image_model(tmp_path), "--input_shape=img:1,3,-1,-1"]
    refused([*image, "--dynamic_image_size=a,b;1,2"], "E10003")
    assert codes(refused([*image, "--input_format=ND", "--dynamic_image_size=8,8;16,16"], "E10003")) == ["E10003", "E10019"]
    refused([*base, two_inputs(tmp_path), "--input_shape=x:-1,3;m:-1,-1", "--dynamic_dims=1,2;3,4"], "E10003")


def test_e10004(base):
    refused([*base, "--dynamic_batch_size=1,2"], "E10004")


def test_e10007(base):
    refused([], "E10007")
    refused([*base, "--framework=2"], "E10007")


def test_e10009_every_pair(base):
    flags = ["--dynamic_batch_size=1,2", "--dynamic_image_size=1,2;3,4", "--dynamic_dims=1;2", "--input_shape_range=x:[1~2,6]"]
    for first in range(4):
        for second in range(first + 1, 4):
            out = refused([*base, "--input_shape=x:-1,6", flags[first], flags[second]], "E10009")
            assert "Invalid_Argument_Tensor_Dynamic_Shape" in out


def test_e10010(base):
    refused([*base, "--log=loud"], "E10010")


def test_e10011(base):
    for shape in ("x:0,6", "x:-2,6"):
        refused([*base, f"--input_shape={shape}"], "E10011")


def test_e10012_scalar_with_batch_gears(base):
    refused([*base, "--input_shape=x:", "--dynamic_batch_size=1,2"], "E10012")


def test_e10013_and_e10014(base):
    refused([*base, "--input_shape=x:99999999999999999999,6"], "E10013")
    refused([*base, "--input_shape=x:n,6"], "E10014")
    refused([*base, "--input_shape=x:1,,6"], "E10014")


def test_e10016(base):
    assert "Invalid_Argument_Operator_Name" in refused([*base, "--input_shape=y:1,6"], "E10016")
    refused([*base, "--input_shape=x:1,6;y:3"], "E10016")


def test_e10018_is_recorded_and_the_headline(base, tmp_path):
    model = two_inputs(tmp_path)
    out = refused([*base, model, "--input_shape=x:2,3;m:-1,-1", "--dynamic_batch_size=1,2"], "E10018")
    assert codes(out) == ["E10018", "E10031"]
    # With another input that is fine the check passes and the build fails.
    assert codes(refused([*base, model, "--input_shape=x:-1,3;m:-1,-1", "--dynamic_batch_size=1,2"], "E10018"))[1] == "E19999"


def test_e10019_and_e10020(base, tmp_path):
    model = image_model(tmp_path)
    for shape in ("img:-1,3,8,8", "img:1,3,-1,8", "img:1,-1,-1,-1", "img:1,3,8,8"):
        refused([*base, model, f"--input_shape={shape}", "--dynamic_image_size=8,8;16,16"], "E10019")
    refused([*base, model, "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=8;16,16"], "E10020")
    refused([*base, model, "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=8,8,8;16,16"], "E10020")


def test_a_blank_in_image_gears_fails_later(base, tmp_path):
    refused([*base, image_model(tmp_path), "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=8, 8;16,16"], "E10014")


def test_e10022_output_is_a_directory(base, tmp_path):
    refused([*base, f"--output={tmp_path}"], "E10022")
    refused([*base, f"--output={tmp_path}/"], "E10022")
    refused([*base, f"--output={tmp_path}/no/"], "E10022")


def test_e10031_no_batch(base):
    refused([*base, "--input_shape=x:1,-1", "--dynamic_batch_size=1,2"], "E10031")
    refused([*base, "--input_shape=x:1,6", "--dynamic_batch_size=1,2"], "E10031")


@pytest.mark.parametrize(
    ("gears", "code"),
    [
        ("1", "E10035"),
        (",", "E10035"),
        ("1,", "E10035"),
        (",".join(map(str, range(1, 102))), "E10036"),
        ("0,1", "E10038"),
        ("1,2,1", "E10039"),
    ],
)
def test_gear_list(base, gears, code):
    out = refused([*base, "--input_shape=x:-1,6", f"--dynamic_batch_size={gears}"], code)
    assert "Invalid_Argument_Tensor_Dynamic_Shape" in out


def test_a_hundred_gears_and_empty_items(base, tmp_path):
    gears = ",".join(map(str, range(1, 101)))
    assert run_atc(*base, "--input_shape=x:-1,6", f"--dynamic_batch_size=,{gears},,")[0] == 0
    assert len(_om.read(tmp_path / "m.om").gears) == 100


def test_e10037_cannot_be_reached_from_the_command_line():
    with pytest.raises(atc.AtcError, match="E10037"):
        atc._check_gears([(1, 2), (3,)])


def test_gear_list_comes_after_the_model(base):
    refused([*base, "--input_shape=nope:-1,6", "--dynamic_batch_size=1"], "E10016")


def test_e10040(base):
    refused([*base, "--input_shape=x:1~8,6", "--dynamic_batch_size=1,2"], "E10040")
    # It is checked before the exclusion.
    refused([*base, "--input_shape=x:1~8,6", "--dynamic_batch_size=1,2", "--dynamic_dims=1;2"], "E10040")


def test_e10048(base):
    for shape in ("x:1~8,6", "x:[1~a,6]", "x:[8~1,6]", "x:[1~8,6", ""):
        if shape:
            refused([*base, f"--input_shape_range={shape}"], "E10048")
    refused([*base, "--input_shape=x:8~1,6"], "E10048")


def test_e10049_rank(base):
    refused([*base, "--input_shape=x:1,6,1"], "E10049")


@pytest.mark.parametrize("flag", ["model", "output", "soc_version"])
def test_e10054(base, flag):
    refused([*base, f"--{flag}="], "E10054")


def test_order_of_the_required_flags(tmp_path):
    refused(["--framework=5", "--input_format=NHWC"], "E10001")
    assert "soc_version" in refused(["--framework=5"], "E10054")
    assert "output" in refused(["--framework=5", "--soc_version=a"], "E10054")
    assert "model" in refused(["--framework=5", "--soc_version=a", f"--output={tmp_path / 'x'}"], "E10054")


def test_e10056(base):
    refused([*base, "--precision_mode=force_fp32", "--precision_mode_v2=fp16"], "E10056")


def test_e10058_and_e10001_of_dims(base, tmp_path):
    refused([*base, "--dynamic_dims="], "E10058")
    refused([*base, "--input_shape=x:1,6", "--dynamic_dims=1;2"], "E10001")
    refused([*base, "--input_shape=x:-1,6", "--dynamic_dims=1;-2"], "E10001")
    conf = tmp_path / "aipp.cfg"
    conf.write_text("aipp_op { aipp_mode: static }")
    refused([*base, "--input_shape=x:-1,6", "--dynamic_dims=1;2", f"--insert_op_conf={conf}"], "E10001")


def test_e13_paths(base, tmp_path):
    refused([*base, f"--model={tmp_path / 'nope.onnx'}"], "E13000")
    refused([*base, f"--output={tmp_path / 'no' / 'm'}"], "E13000")
    refused([*base, "--input_shape=x:1,6", f"--insert_op_conf={tmp_path / 'nope'}"], "E13000")


def test_e16_models(base, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00\xff not a model")
    refused([*base, f"--model={broken}"], "E16005")
    broken.write_bytes(b"")
    refused([*base, f"--model={broken}"], "E16004")
    for domain in ("com.example", ""):
        node = helper.make_node("Frobnicate", ["x"], ["y"], domain=domain)
        model = build([node], [("x", F32, [1])], [("y", F32, [1])])
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        onnx.save(model, broken)
        assert "Frobnicate" in refused([*base, f"--model={broken}"], "E16002")


def test_e20001_shapes_that_cannot_be(base, tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"]), helper.make_node("Gemm", ["r", "w"], ["y"])]
    weights = [("s", np.array([1, -1], np.int64)), ("w", np.ones((6, 4), np.float32))]
    onnx.save(build(nodes, [("x", F32, ["n", 6])], [("y", F32, [1, 4])], weights), tmp_path / "r.onnx")
    refused([*base, f"--model={tmp_path / 'r.onnx'}", "--input_shape=x:-1,6", "--dynamic_batch_size=1,2"], "E20001")


def test_e20001_sizes_that_the_data_decides(base, tmp_path):
    onnx.save(build([helper.make_node("NonZero", ["x"], ["y"])], [("x", F32, [4])], [("y", 7, [1, "k"])]), tmp_path / "z.onnx")
    refused([*base, f"--model={tmp_path / 'z.onnx'}"], "E20001")


def test_other_modes_and_frameworks_say_so(base):
    for mode in (3, 5, 7, 30):
        assert f"mode {mode} is not simulated" in refused([*base, f"--mode={mode}"], "E19999")
    assert "framework 3 is not simulated" in refused([*base, "--framework=3"], "E19999")


# What is accepted


def test_ignored_flags_leave_a_note(base):
    status, out, _ = run_atc(*base, "--input_shape=x:1,6", "--op_select_implmode=high_precision", "--json=j")
    assert status == 0
    assert "--json has no effect" in out
    assert "--op_select_implmode has no effect" in out


def test_host_names_are_part_of_the_file_name(base, tmp_path):
    assert run_atc(*base, "--input_shape=x:1,6", "--host_env_os=linux", "--host_env_cpu=aarch64")[0] == 0
    assert (tmp_path / "m_linux_aarch64.om").exists()


def test_static_model_needs_no_shapes(tmp_path):
    model = _om.read(convert(tmp_path, add2()))
    assert model.gear_kind is GearKind.NONE
    assert [tensor.dims for tensor in model.inputs] == [(2, 3), (2, 3)]
    assert model.output_shapes == (((2, 3),),)


def test_a_scalar_input(tmp_path):
    model = build([helper.make_node("Add", ["x", "s"], ["y"])], [("x", F32, [2]), ("s", F32, [])], [("y", F32, [2])])
    assert _om.read(convert(tmp_path, model, "--input_shape=x:2;s:")).inputs[1].dims == ()


def test_image_gears(tmp_path):
    path = convert(tmp_path, conv(), "--input_shape=img:1,3,-1,-1", "--dynamic_image_size=16,8;8,8;")
    model = _om.read(path)
    assert model.gears == ((16, 8), (8, 8))
    assert model.output_shapes[0] == ((1, 2, 16, 8), (1, 2, 1, 1))
    assert model.inputs[0].format == 0


def test_dims_gears_follow_the_order_of_input_shape(tmp_path):
    model = _om.read(convert(tmp_path, pair(), "--input_shape=m:-1,-1;x:-1,3", "--dynamic_dims=2,5,2;4,7,4"))
    assert model.shape_order == (1, 0)
    assert model.input_shapes(0) == ((2, 3), (2, 5))
    assert model.output_shapes == (((2, 3), (2,)), ((4, 3), (4,)))


@pytest.mark.parametrize("flag", ["--input_shape=x:1~8,6", "--input_shape_range=x:[1~8,6]", "--input_shape=1~8,6"])
def test_shape_range(tmp_path, flag):
    model = _om.read(convert(tmp_path, dense(), flag))
    assert model.gear_kind is GearKind.RANGE
    assert model.ranges == (((1, 8), (6, 6)),)
    assert model.outputs[0].dims == (-1, 4)
    assert model.output_shapes == (((8, 4),),)


def test_open_shape_range_and_its_precedence(base, tmp_path):
    status, out, _ = run_atc(*base, "--input_shape=x:3,6", "--input_shape_range=x:[-1,6]")
    assert status == 0
    assert "overrides --input_shape" in out
    assert _om.read(tmp_path / "m.om").ranges == (((0, -1), (6, 6)),)


@pytest.mark.parametrize("mode", _om.PRECISION_MODES)
def test_precision_modes(tmp_path, mode):
    assert _om.read(convert(tmp_path, dense(), "--input_shape=x:1,6", precision=mode)).precision_mode == mode


def test_precision_mode_v2(base, tmp_path):
    assert run_atc(*base, "--input_shape=x:1,6", "--precision_mode_v2=origin")[0] == 0
    assert _om.read(tmp_path / "m.om").precision_mode == "must_keep_origin_dtype"


def test_external_data(tmp_path):
    onnx.save(dense(), tmp_path / "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    status, out, _ = run_atc(
        f"--model={tmp_path / 'big.onnx'}", "--framework=5", f"--output={tmp_path / 'big'}", "--soc_version=a",
        "--input_shape=x:2,6",
    )  # fmt: skip
    assert status == 0, out
    (tmp_path / "big.bin").unlink()
    graph = onnx.load_model_from_string(_om.read(tmp_path / "big.om").graph)
    assert all(weight.data_location != TensorProto.EXTERNAL for weight in graph.graph.initializer)
    assert {numpy_helper.to_array(weight).shape for weight in graph.graph.initializer} == {(6, 4), (4,)}


@pytest.mark.parametrize(("opset", "ir"), [(13, 8), (15, 8), (17, 9)])
def test_operator_sets(tmp_path, opset, ir):
    convert(tmp_path, dense(opset=opset, ir=ir), "--input_shape=x:2,6")


@pytest.mark.parametrize(("opset", "warned"), [(10, True), (11, False), (18, False), (19, True), (21, True)])
def test_an_operator_set_outside_the_documented_ones_is_warned_of(base, tmp_path, opset, warned):
    onnx.save(dense(opset=opset, ir=10), tmp_path / "m.onnx")
    status, out, _ = run_atc(*base, "--input_shape=x:1,6")
    assert status == 0
    assert ("11 to 18 are documented" in out) is warned


def test_a_model_that_the_checker_refuses(base, tmp_path):
    path = tmp_path / "odd.onnx"
    onnx.save(build([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, [2])], [("y", F32, None)]), path)
    assert "is invalid" in refused([*base, f"--model={path}"], "E16005")


def test_aipp_errors(base, tmp_path):
    onnx.save(conv(), tmp_path / "c.onnx")
    conf = tmp_path / "aipp.cfg"
    flags = [*base, f"--model={tmp_path / 'c.onnx'}", "--input_shape=img:1,3,8,8", f"--insert_op_conf={conf}"]
    for text in ("nonsense", "aipp_op { aipp_mode: dynamic }", "aipp_op { src_image_size_w: 9 src_image_size_h: 8 }"):
        conf.write_text(text)
        refused(flags, "E10001")
    conf.write_text("aipp_op { aipp_mode: static input_format: RGB888_U8 mean_chn_0: 3 }")
    assert run_atc(*flags)[0] == 0
    assert _om.read(tmp_path / "m.om").aipp[0].mean == (3.0, 0.0, 0.0, 0.0)


# Rows of section 5 that the code of an error alone does not tell apart


class Spoiled:
    """A command line with every error that 5.1 puts in order, to be mended one by one from the front."""

    def __init__(self, tmp_path):
        onnx.save(dense(), tmp_path / "m.onnx")
        conf = tmp_path / "aipp.cfg"
        conf.write_text("aipp_op { aipp_mode: static }")
        self.flags = {
            "mode": "2", "framework": "9", "input_format": "NHWC", "soc_version": "", "output": "", "model": "",
            "precision_mode": "force_fp32", "precision_mode_v2": "fp16", "input_shape": "y:-1~2.5", "dynamic_batch_size": "a",
            "dynamic_dims": "1",
        }  # fmt: skip
        self.steps = [
            ("E10001", "--mode]", {"mode": "0"}),
            ("E10007", "--framework]", {"framework": "5"}),
            ("E10001", "--input_format]", {"input_format": "ND"}),
            ("E10054", "--soc_version]", {"soc_version": "Ascend310P3"}),
            ("E10054", "--output]", {"output": str(tmp_path)}),
            ("E10054", "--model]", {"model": str(tmp_path / "nope.onnx")}),
            ("E13000", "--model]", {"model": str(tmp_path / "m.onnx")}),
            ("E10022", "--output]", {"output": str(tmp_path / "m")}),
            ("E10056", "--precision_mode_v2]", {"precision_mode_v2": ""}),
            ("E10040", "--input_shape=", {"input_shape": ""}),
            ("E10009", "exclusive", {"dynamic_batch_size": ""}),
            ("E10004", "--input_shape]", {"input_shape": "y:2.5,6"}),
            ("E10002", "decimal point", {"input_shape": "y:1,6"}),
            ("E10001", "at least one -1", {"input_shape": "y:-1,6", "insert_op_conf": str(conf), "dynamic_dims": "1,2"}),
            ("E10003", "--dynamic_dims]", {"dynamic_dims": "1"}),
            ("E10001", "--insert_op_conf]", {"insert_op_conf": ""}),
            ("E10016", "y", {"input_shape": "x:-1,6"}),
            ("E10035", "below the minimum", {"dynamic_dims": "1;2"}),
        ]


def test_the_order_of_all_checks(tmp_path):
    spoiled = Spoiled(tmp_path)
    for code, text, mended in spoiled.steps:
        out = refused([f"--{name}={value}" for name, value in spoiled.flags.items() if value or name != "insert_op_conf"], code)
        assert text in out
        spoiled.flags.update(mended)
    assert run_atc(*(f"--{name}={value}" for name, value in spoiled.flags.items()))[0] == 0


def test_flag_parsing_looks_at_mode_precision_and_log_in_this_order():
    assert "--mode]" in refused(["--log=x", "--precision_mode=x", "--mode=x"], "E10001")
    assert "--precision_mode]" in refused(["--log=x", "--precision_mode=x"], "E10001")
    refused(["--log=x"], "E10010")


@pytest.mark.parametrize("log", ["debug", "info", "warning", "error", "null"])
def test_log_levels(base, log):
    assert run_atc(*base, "--input_shape=x:1,6", f"--log={log}")[0] == 0


@pytest.mark.parametrize("mode", ["3", "5", "7", "30"])
def test_known_modes_are_no_wrong_values(base, mode):
    assert f"mode {mode} is not simulated" in refused([*base, f"--mode={mode}"], "E19999")


@pytest.mark.parametrize("framework", ["0", "1", "3"])
def test_known_frameworks_are_no_wrong_values(base, framework):
    assert f"framework {framework} is not simulated" in refused([*base, f"--framework={framework}"], "E19999")


@pytest.mark.parametrize("input_format", ["NCHW", "ND", "NCDHW", ""])
def test_input_formats(base, input_format):
    assert run_atc(*base, "--input_shape=x:1,6", f"--input_format={input_format}")[0] == 0


@pytest.mark.parametrize(
    ("v2", "mode"),
    [
        ("fp16", "force_fp16"), ("origin", "must_keep_origin_dtype"), ("cube_fp16in_fp32out", "cube_fp16in_fp32out"),
        ("mixed_float16", "allow_mix_precision_fp16"), ("mixed_bfloat16", "allow_mix_precision_bf16"), ("", "force_fp16"),
    ],
)  # fmt: skip
def test_every_precision_mode_v2(base, tmp_path, v2, mode):
    assert run_atc(*base, "--input_shape=x:1,6", f"--precision_mode_v2={v2}")[0] == 0
    assert _om.read(tmp_path / "m.om").precision_mode == mode


@pytest.mark.parametrize("word", ["-", "--", "model.onnx"])
def test_stray_words(word):
    status, out, err = run_atc(word)
    assert (status, err) == (255, f"ERROR: Non-option parameter '{word}'\n")
    assert out.endswith("E19999: Internal Error!\n")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_first_line_always_comes_first(flag):
    assert run_atc(flag)[1].startswith(atc.START + "\n")


@pytest.mark.parametrize(
    ("os_name", "cpu", "suffix"), [("linux", "", "_linux_x86_64"), ("", "aarch64", "_linux_aarch64"), ("a", "b", "_a_b")]
)
def test_one_host_name_is_enough_for_the_suffix(base, tmp_path, os_name, cpu, suffix):
    assert run_atc(*base, "--input_shape=x:1,6", f"--host_env_os={os_name}", f"--host_env_cpu={cpu}")[0] == 0
    assert [path.name for path in tmp_path.glob("*.om")] == [f"m{suffix}.om"]


SHAPES = [
    # --input_shape of the model with one input x [n, 6], other flags, code, a word of the message
    ("x:1.5,6", (), "E10002", "decimal point"),
    ("x:1.,6", (), "E10002", "decimal point"),
    ("x:1,6a", (), "E10002", "ends in"),
    ("1,6", (), "E10002", "has no name"),
    (":1,6", (), "E10002", "name is empty"),
    ("x:1,6;x:1,6", (), "E10002", "there twice"),
    ("x:1~8,6;1~8,6", (), "E10002", "some shapes have a name"),
    ("x:a,6", (), "E10014", "not a number"),
    ("x:,6", (), "E10014", "not a number"),
    ("x:2147483648,6", (), "E10013", "out of range"),
    ("x:1,-2147483648", (), "E10013", "out of range"),
    ("x:000000000000000000001,6", (), "E10013", "out of range"),
    ("x:0,6", (), "E10011", "[0]"),
    ("x:-2,6", (), "E10011", "[-2]"),
    ("x:-1,0", (), "E10011", "[0]"),
    ("x:-1,-2", ("--dynamic_batch_size=1,2",), "E19999", "is no size"),
    ("x:8~1,6", (), "E10048", "8~1"),
    ("x:-2~8,6", (), "E10048", "-2~8"),
    ("x:1~-2,6", (), "E10048", "1~-2"),
    ("1~8,6;1~8,6", (), "E10016", "Position 1"),
    ("x:6", (), "E10049", "2 axes in the model and 1"),
    ("x:", (), "E10049", "2 axes in the model and 0"),
]


@pytest.mark.parametrize("row", range(len(SHAPES)))
def test_shapes(base, row):
    shape, more, code, text = SHAPES[row]
    assert text in refused([*base, f"--input_shape={shape}", *more], code)


RANGES = ["", ";", "x", "x:", "x:1,6", "x:[1~8,6", "x:[1~8,,6]", "x:[a,6]", "x:[8~1,6]", "x:[-2,6]", "x:[1~8,6];[1~8,6]"]
RANGES += ["x:[1~2147483648,6]", "x:[2147483648,6]", "x:[1~8.5,6]", "x:[-1~8,6]"]


@pytest.mark.parametrize("text", RANGES[1:])
def test_forms_of_a_shape_range_that_are_none(base, text):
    refused([*base, f"--input_shape_range={text}"], "E10048")


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("x:[1~8,6]", ((1, 8), (6, 6))), ("[1~8,6]", ((1, 8), (6, 6))), (" x: [ 2~4 , 6 ] ", ((2, 4), (6, 6))),
        ("x:[1~-1,6]", ((1, -1), (6, 6))), ("x:[-1,6]", ((0, -1), (6, 6))), ("x:[3~3,1~6]", ((3, 3), (1, 6))),
        ("x:[1~2147483647,6]", ((1, 2147483647), (6, 6))),
    ],
)  # fmt: skip
def test_forms_of_a_shape_range(base, tmp_path, text, ranges):
    status, out, _ = run_atc(*base, f"--input_shape_range={text}")
    assert status == 0, out
    assert _om.read(tmp_path / "m.om").ranges == (ranges,)


@pytest.mark.parametrize("flag", ["--input_shape_range=x:[2,6]", "--input_shape_range=x:[2~2,6]", "--input_shape=x:2~2,6"])
def test_a_range_that_leaves_no_axis_open_is_a_fixed_shape(tmp_path, flag):
    model = _om.read(convert(tmp_path, dense(), flag))
    assert model.gear_kind is GearKind.NONE
    assert (model.inputs[0].dims, model.outputs[0].dims) == ((2, 6), (2, 4))


@pytest.mark.parametrize(
    ("shape", "ranges"),
    [
        ("x:1~8,6", ((1, 8), (6, 6))),
        ("x:1~-1,6", ((1, -1), (6, 6))),
        ("x:-1,6", ((0, -1), (6, 6))),
        ("-1,6", ((0, -1), (6, 6))),
        ("x:0~8,6", ((0, 8), (6, 6))),
    ],
)
def test_input_shape_as_a_range(tmp_path, shape, ranges):
    model = _om.read(convert(tmp_path, dense(), f"--input_shape={shape}"))
    assert model.ranges == (ranges,)
    assert model.output_shapes == ((((8, 4),),) if ranges[0][1] == 8 else ())


GEARS = [
    # model, --input_shape, the gear flag, code
    ("dense", "x:-1,6", "dynamic_batch_size=1,2a", "E10003"),
    ("dense", "x:-1,6", "dynamic_batch_size=-1,2", "E10003"),
    ("dense", "x:-1,6", "dynamic_batch_size=1,2147483648", "E10013"),
    ("dense", "x:-1,6", "dynamic_batch_size=1,00000000002", "E10013"),
    ("dense", "x:-1,6", "dynamic_batch_size=2,2", "E10039"),
    ("dense", "x:-1,6", "dynamic_batch_size=0,2", "E10038"),
    ("dense", "x:-1,6", "dynamic_batch_size=2", "E10035"),
    ("conv", "img:1,3,-1,-1", "dynamic_image_size=8,8", "E10035"),
    ("conv", "img:1,3,-1,-1", "dynamic_image_size=8,8;8,8", "E10039"),
    ("conv", "img:1,3,-1,-1", "dynamic_image_size=8,0;8,8", "E10038"),
    ("conv", "img:1,3,-1,-1", "dynamic_image_size=8,-8;8,8", "E10003"),
    ("conv", "img:1,3,-1,-1", "dynamic_image_size=8,8;;16,16", "E10020"),
    ("conv", "img:1,3,-1,-1", "dynamic_image_size=8,;16,16", "E10014"),
    ("conv", "img:1,3,-1,-1", "dynamic_image_size=8,8;16,16;;", "E10020"),
    ("conv", "img:1,3,-1", "dynamic_image_size=8,8;16,16", "E10019"),
    ("conv", "img:1,3,5,-1,-1", "dynamic_image_size=8,8;16,16", "E10019"),
    ("conv", "img:-1,3,-1,-1", "dynamic_image_size=8,8;16,16", "E10019"),
    ("dense", "x:-1,6", "dynamic_dims=1", "E10035"),
    ("dense", "x:-1,6", "dynamic_dims=1;1", "E10039"),
    ("dense", "x:-1,6", "dynamic_dims=0;1", "E10038"),
    ("dense", "x:-1,6", "dynamic_dims=1;a", "E10001"),
    ("dense", "x:-1,6", "dynamic_dims=1;;2", "E10001"),
    ("dense", "x:-1,6", "dynamic_dims=1,2;2", "E10003"),
    ("dense", "x:-1,6", "dynamic_dims=1;2147483648", "E10013"),
    ("pair", "x:-1,3;m:-1,5", "dynamic_dims=1;2", "E10003"),
]


@pytest.mark.parametrize("row", range(len(GEARS)))
def test_gears(base, tmp_path, row):
    name, shape, flag, code = GEARS[row]
    onnx.save({"dense": dense, "conv": conv, "pair": pair}[name](), tmp_path / "g.onnx")
    refused([*base, f"--model={tmp_path / 'g.onnx'}", f"--input_shape={shape}", f"--{flag}"], code)


@pytest.mark.parametrize(("flag", "shape"), [("dynamic_batch_size=1,2", "x:-1,6"), ("dynamic_dims=1;2;", "x:-1,6")])
def test_two_gears_are_enough(base, tmp_path, flag, shape):
    assert run_atc(*base, f"--input_shape={shape}", f"--{flag}")[0] == 0
    assert _om.read(tmp_path / "m.om").gears == ((1,), (2,))


def test_an_input_without_minus_one_stays_static(tmp_path):
    path = convert(tmp_path, pair(), "--input_shape=x:-1,3;m:2,5", "--dynamic_batch_size=1,2")
    assert [tensor.dims for tensor in _om.read(path).inputs] == [(-1, 3), (2, 5)]


def test_minus_one_on_a_later_axis_only_fails_in_the_build(base, tmp_path):
    out = refused([*base, two_inputs(tmp_path), "--input_shape=x:-1,3;m:2,-1", "--dynamic_batch_size=1,2"], "E19999")
    assert "elsewhere than on its first axis" in out


def test_a_file_without_nodes_or_without_outputs_is_not_without_a_graph(base, tmp_path):
    path = tmp_path / "odd.onnx"
    through = build([], [("x", F32, [2])], [("x", F32, [2])])
    onnx.save(through, path)
    assert run_atc(*base, f"--model={path}", f"--output={tmp_path / 'odd'}")[0] == 0
    onnx.save(build([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, [2])], []), path)
    assert "no output" in refused([*base, f"--model={path}"], "E20001")


def test_inputs_of_types_that_are_not_simulated(base, tmp_path):
    path = tmp_path / "odd.onnx"
    text = TensorProto.STRING
    onnx.save(build([helper.make_node("Identity", ["x"], ["y"])], [("x", text, [2])], [("y", text, [2])]), path)
    assert "[x] is no tensor of a simulated type" in refused([*base, f"--model={path}"], "E19999")


def test_aipp_beside_image_gears_says_that_it_is_not_simulated(base, tmp_path):
    conf = tmp_path / "aipp.cfg"
    conf.write_text("aipp_op { aipp_mode: static input_format: RGB888_U8 }")
    image = [*base, image_model(tmp_path), "--input_shape=img:1,3,-1,-1", f"--insert_op_conf={conf}"]
    assert "AIPP together with" in refused([*image, "--dynamic_image_size=8,8;16,16"], "E19999")
    assert "AIPP together with" in refused(image, "E19999")


@pytest.mark.parametrize(("code", "title"), [
    *((f"E100{n}", "Invalid_Argument_Tensor_Input_Shape") for n in ("02", "11", "12", "19", "31", "40")),
    *((f"E100{n}", "Invalid_Argument_Tensor_Dynamic_Shape") for n in ("09", "18", "35", "36", "37", "38", "39")),
    ("E10016", "Invalid_Argument_Operator_Name"),
    *((f"E100{n}", "Invalid_Argument") for n in ("01", "03", "04", "07", "10", "13", "14", "20", "54", "58")),
])  # fmt: skip
def test_titles(code, title):
    out = StringIO()
    atc._fail(out, [atc.Problem(code, "text", "cause", "help"), atc.Problem("E10016", "more")], datetime.now)
    lines = out.getvalue().splitlines()
    assert lines[0] == atc.FAILURE
    assert lines[1].endswith(f" {title}({code}): text")
    assert lines[2:] == [
        "        Possible Cause: cause",
        "        Solution: help",
        "        TraceBack (most recent call last):",
        "        Invalid_Argument_Operator_Name(E10016): more",
    ]


def test_a_known_operator_of_a_foreign_domain_is_unknown(base, tmp_path):
    node = helper.make_node("Neg", ["x"], ["y"], domain="com.example")
    model = build([node], [("x", F32, [1])], [("y", F32, [1])])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, tmp_path / "foreign.onnx")
    assert "com.example::Neg" in refused([*base, f"--model={tmp_path / 'foreign.onnx'}"], "E16002")


def test_an_output_that_cannot_be_written(base, tmp_path):
    (tmp_path / "m.om").mkdir()
    assert "Cannot write" in refused([*base, "--input_shape=x:1,6"], "E13001")


def test_a_model_beyond_the_limit_of_its_format(base, monkeypatch):
    monkeypatch.setattr(atc, "_MAX_ONNX_BYTES", onnx.load_model(base[0].partition("=")[2]).ByteSize())
    assert run_atc(*base, "--input_shape=x:1,6")[0] == 0
    monkeypatch.setattr(atc, "_MAX_ONNX_BYTES", atc._MAX_ONNX_BYTES - 1)
    assert "beyond 2 GiB" in refused([*base, "--input_shape=x:1,6"], "E19999")


def test_ranks_that_nobody_knows(base, tmp_path):
    path = tmp_path / "rank.onnx"
    inputs = [("x", F32, ["n"]), ("s", 7, ["k"])]
    onnx.save(build([helper.make_node("Expand", ["x", "s"], ["y"])], inputs, [("y", F32, ["m"])]), path)
    shapes = [*base, f"--model={path}"]
    out = refused([*shapes, "--input_shape=x:-1;s:-1"], "E20001")
    assert "not known for the shape range" in out
    out = refused([*shapes, "--input_shape=x:1;s:-1", "--dynamic_dims=1;2"], "E20001")
    assert "differs between gears" in out


@pytest.mark.parametrize("shape", ["x:00000000000000000008,6", "x:+8,6", "x: 8 ,6"])
def test_numbers_in_odd_dress(tmp_path, shape):
    assert _om.read(convert(tmp_path, dense(), f"--input_shape={shape}")).inputs[0].dims == (8, 6)


def test_the_largest_size(tmp_path):
    model = _om.read(convert(tmp_path, dense(), "--input_shape=x:1~2147483647,6"))
    assert model.ranges[0][0] == (1, 2147483647)
    model = _om.read(convert(tmp_path, dense(), "--input_shape=x:-1,6", "--dynamic_dims=0000000001;2147483647"))
    assert model.gears == ((1,), (2147483647,))


@pytest.mark.parametrize(
    ("input_format", "rank", "number"), [("NCHW", 4, 0), ("NCDHW", 5, 30), ("ND", 4, 2), ("NCHW", 5, 2), ("NCDHW", 4, 2)]
)
def test_formats_of_tensors(tmp_path, input_format, rank, number):
    model = build([helper.make_node("Neg", ["x"], ["y"])], [("x", F32, [2] * rank)], [("y", F32, [2] * rank)])
    converted = _om.read(convert(tmp_path, model, f"--input_format={input_format}"))
    assert (converted.inputs[0].format, converted.outputs[0].format) == (number, number)


def test_a_tensor_that_no_card_holds(base):
    assert "beyond the limit" in refused([*base, "--input_shape=x:2147483647,2147483647"], "E19999")


def test_a_shape_range_that_the_graph_contradicts(base):
    assert "for its shape range" in refused([*base, "--input_shape=x:-1,7"], "E20001")
    assert "for input shapes [8, 7]" in refused([*base, "--input_shape=x:1~8,7"], "E20001")
