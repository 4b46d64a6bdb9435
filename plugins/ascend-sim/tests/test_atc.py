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


def test_an_operator_set_outside_the_documented_ones_is_warned_of(base, tmp_path):
    onnx.save(dense(opset=21, ir=10), tmp_path / "m.onnx")
    status, out, _ = run_atc(*base, "--input_shape=x:1,6")
    assert status == 0
    assert "11 to 18 are documented" in out


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
