"""Compiling for Ascend: options, the vendor's rules, the command line, the cache."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

import acl_sim
import anybatch
from acl_sim import testing
from acl_sim._om import PRECISION_MODES as PRECISION_MODES_OF_THE_SIMULATOR
from anybatch import COMMON_OPTIONS, CommonOptions, InputError, ModelError
from anybatch_ascend import AscendBackend, _rules
from anybatch_ascend.compile import COMPILE_OPTIONS, PRECISION_MODES, AtcModelError, CompileOptions, advice, compile_model
from ascend_compile_tools import SCALE, SIM, FakeAtc, options, parse


@pytest.fixture
def fake(tmp_path):
    return FakeAtc(tmp_path)


@pytest.fixture
def compile_(tmp_path, fake, monkeypatch):
    """Compile a model, given in ONNX's text form, with the fake converter, into a cache of the test's own."""

    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path / "cache"))

    def call(model, batch_sizes=None, atc=None, opset=17, progress=None, **given):
        source = parse(model, opset=opset) if isinstance(model, str) else model
        return compile_model(
            source,
            batch_sizes=batch_sizes,
            options=options(**given),
            atc=atc or fake.command,
            progress=progress,
        )

    return call


# --- options ---


def test_options_are_read():
    read = CompileOptions.from_options(
        {
            "soc_version": "Ascend910B",
            "precision_mode": "force_fp32",
            "input_shape": {"ids": [-1, 128]},
            "atc_options": {"--op-select-implmode": "high_precision", "log": "error", "quant_dumpable": True, "aicore_num": 2},
            "batch_axis": {"ids": 0},
            "rows_per_row": {"ids": 2},
            "cache_dir": "/somewhere",
            "compile_timeout_s": 5,
            "device_option_of_somebody_else": object(),
        }
    )
    assert read == CompileOptions(
        soc_version="Ascend910B",
        precision_mode="force_fp32",
        atc_options={"op_select_implmode": "high_precision", "log": "error", "quant_dumpable": "true", "aicore_num": "2"},
        compile_timeout_s=5.0,
        common=CommonOptions({"ids": (None, 128)}, {"ids": 0}, {"ids": 2}, Path("/somewhere")),
    )


def test_every_option_has_a_name_and_a_line_of_documentation():
    assert set(COMPILE_OPTIONS) == set(CompileOptions.__dataclass_fields__) - {"common"} | set(COMMON_OPTIONS)
    documentation = sys.modules["anybatch_ascend.compile"].__doc__
    assert all(name in documentation for name in COMPILE_OPTIONS)


def test_the_chip_is_the_option_else_the_cards_own():
    assert CompileOptions.from_options({}, soc_version="Ascend310P3").soc_version == "Ascend310P3"
    assert CompileOptions.from_options({"soc_version": "A"}, soc_version="B").soc_version == "A"
    with pytest.raises(InputError, match=r"soc_version='Ascend310P3'; `npu-smi info` or acl.get_soc_name"):
        CompileOptions.from_options({})
    with pytest.raises(InputError, match="got 310"):
        CompileOptions.from_options({"soc_version": 310})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision_mode": "fp8"}, "expected precision_mode to be one of ['force_fp16', "),
        (
            {"precision_mode": "force_fp16", "atc_options": {"precision_mode_v2": "fp16"}},
            "expected precision_mode or precision_mode_v2 in atc_options, got both",
        ),
        ({"input_shape": [1, 2]}, "expected input_shape to map names to values, got [1, 2]"),
        ({"insert_op_conf": "/nothing/aipp.cfg"}, "insert_op_conf: there is no file '/nothing/aipp.cfg'"),
        ({"insert_op_conf": 3}, "expected insert_op_conf to be a path, got 3"),
        ({"compile_timeout_s": 0}, "expected compile_timeout_s to be seconds above 0, got 0"),
        ({"compile_timeout_s": "5"}, "expected compile_timeout_s to be seconds above 0, got '5'"),
        ({"compile_timeout_s": float("nan")}, "expected compile_timeout_s to be seconds above 0, got nan"),
        ({"atc_options": ["log"]}, "expected atc_options to map names to values"),
        ({"atc_options": {"log": None}}, "atc_options: expected a text or a number for 'log', got None"),
        ({"atc_options": {"log": ""}}, "atc_options: expected a text or a number for 'log', got ''"),
        ({"atc_options": {"op-x": 1, "op_x": 2}}, "atc_options: 'op_x' comes twice"),
        ({"atc_options": {"--model": "x"}}, "atc_options: '--model' is not for there: the model is the one you hand over"),
        ({"atc_options": {"output": "x"}}, "atc_options: 'output' is not for there: use the argument output"),
        ({"atc_options": {"framework": 5}}, "the model is ONNX"),
        ({"atc_options": {"dynamic-batch-size": "1,2"}}, "use batch_sizes"),
        ({"atc_options": {"dynamic_batch": "1,2"}}, "use batch_sizes"),
        ({"atc_options": {"dynamic_dims": "1;2"}}, "use batch_sizes"),
        ({"atc_options": {"dynamic_image_size": "1,2"}}, "a model has either batch gears or image gears"),
        ({"atc_options": {"input_shape_range": "x"}}, "a model has either gears or shape ranges"),
        ({"atc_options": {"external_weight": 1}}, "the weights would lie in files beside the model"),
        ({"batch_axis": {"x": "0"}}, "expected batch_axis to map tensor names to axes"),
    ],
)
def test_options_that_do_not_fit(compile_, given, message):
    with pytest.raises(InputError) as caught:
        compile_(SCALE, **given)
    assert message in str(caught.value)


def test_precision_modes_are_those_of_the_converter():
    assert set(PRECISION_MODES) == set(PRECISION_MODES_OF_THE_SIMULATOR)


def test_every_precision_mode_says_what_it_computes_in():
    said = {mode: options(precision_mode=mode).precision_of("float64") for mode in PRECISION_MODES}
    assert set(said.values()) == {"float16", "bfloat16", "float32", "float64"}
    assert said["must_keep_origin_dtype"] == "float64"
    assert all(options(precision_mode=mode).precision_of("int8") == "int8" for mode in PRECISION_MODES)


def test_a_precision_mode_that_is_new_is_not_guessed():
    assert options(atc_options={"precision_mode_v2": "mixed_hif8"}).precision_of("float32") == ""


# --- the command line ---


def test_rows_first_give_batch_gears(compile_, fake):
    model = "g (float[rows, 3] x, float[4, 4] t, int64[rows] n) => (float[rows, 3] y) { y = Neg(x) }"
    compiled = compile_(model, [8, 1, 4], precision_mode="force_fp32", atc_options={"log": "error"})
    assert fake.flags == {
        "soc_version": "Ascend310P3",
        "input_shape": "x:-1,3;t:4,4;n:-1",
        "dynamic_batch_size": "1,4,8",
        "precision_mode": "force_fp32",
        "log": "error",
    }
    (call,) = fake.calls
    assert call["flags"]["framework"] == "5"
    assert not call["flags"]["output"].endswith(".om")
    assert compiled.batch_sizes == (1, 4, 8)
    assert not Path(call["cwd"]).exists(), "the converter leaves files where it works; they go with the folder"


def test_rows_elsewhere_give_dims_gears(compile_, fake):
    model = "g (float[3, rows] x, float[4] t, float[rows, 2] z) => (float[3, rows] y) { y = Neg(x) }"
    compile_(model, [2, 5])
    assert fake.flags == {
        "soc_version": "Ascend310P3",
        "input_shape": "x:3,-1;t:4;z:-1,2",
        "dynamic_dims": "2,2;5,5",
        "input_format": "ND",
    }


def test_several_entries_per_row_give_dims_gears(compile_, fake):
    model = 'g (float["3*rows", 2] x, float[rows, 2] z) => (float["3*rows", 2] y) { y = Neg(x) }'
    compile_(model, [2, 5])
    assert (fake.flags["input_shape"], fake.flags["dynamic_dims"]) == ("x:-1,2;z:-1,2", "6,2;15,5")


def test_entries_per_row_may_be_said(compile_, fake):
    compile_(SCALE, [1, 2], rows_per_row={"x": 4, "y": 4})
    assert fake.flags["dynamic_dims"] == "4;8"


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (SCALE, "x:4,3"),
        ("g (float[3, rows] x) => (float[3, rows] y) { y = Neg(x) }", "x:3,4"),
        ('g (float["3*rows", 2] x) => (float["3*rows", 2] y) { y = Neg(x) }', "x:12,2"),
        ("g (float[rows] x, float s) => (float[rows] y) { y = Mul(x, s) }", "x:4;s:"),
    ],
)
def test_one_batch_size_is_compiled_in(compile_, fake, model, shape):
    assert compile_(model, [4]).batch_sizes == (4,)
    assert fake.flags == {"soc_version": "Ascend310P3", "input_shape": shape}


def test_free_dimensions_get_their_sizes(compile_, fake):
    model = """g (int64[batch, seq] ids, int64[batch, seq] mask, float[batch, width] w)
        => (float[batch, width] y, int64[batch, seq] z) { y = Neg(w) z = Add(ids, mask) }"""
    compiled = compile_(model, [16, 32], input_shape={"ids": [None, 128], "w": [None, 7]})
    assert fake.flags["input_shape"] == "ids:-1,128;mask:-1,128;w:-1,7"
    assert [tensor.shape for tensor in compiled.spec.inputs] == [(None, 128), (None, 128), (None, 7)]


def test_input_shape_says_where_the_rows_are(compile_, fake):
    model = "g (float[a, b] x, float[c] z) => (float[a, b] y) { y = Neg(x) }"
    compile_(model, [2, 4], input_shape={"x": [6, None], "z": [3]})
    assert (fake.flags["input_shape"], fake.flags["dynamic_dims"]) == ("x:6,-1;z:3", "2;4")


@pytest.mark.parametrize(("model", "sizes"), [(SCALE, (1, 2, 4, 8, 16)), (SCALE.replace("rows", "6"), (6,))])
def test_batch_sizes_by_default(compile_, model, sizes):
    assert compile_(model).batch_sizes == sizes


def test_files_that_options_name_are_found_from_the_callers_folder(compile_, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fusion.cfg").write_text("{}")
    (tmp_path / "error").write_text("a file that is called like a value")
    compile_(SCALE, [1, 2], atc_options={"fusion_switch_file": "fusion.cfg", "log": "error"})
    assert fake.flags["fusion_switch_file"] == str(tmp_path / "fusion.cfg")
    assert fake.flags["log"] == "error"


def test_a_result_that_the_host_options_rename_is_found(compile_, tmp_path):
    compiled = compile_(SCALE, [1, 2], atc=SIM, atc_options={"host_env_os": "linux", "host_env_cpu": "aarch64"})
    assert compiled.path.read_bytes()[:4] == b"IMOD"


# --- a batch size that is baked in ---


FIXED = "g (float[4, 3] x) => (float[4, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }"


def test_a_fixed_batch_is_freed(compile_, fake):
    compile_(FIXED, [1, 8])
    assert fake.flags["input_shape"] == "x:-1,3"
    freed = onnx.load_model_from_string(bytes.fromhex(fake.calls[0]["model"]))
    assert freed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"


def test_a_fixed_batch_stays_where_it_is_the_one_asked_for(compile_, fake):
    compile_(FIXED, [4])
    assert fake.flags["input_shape"] == "x:4,3"
    assert bytes.fromhex(fake.calls[0]["model"]) == parse(FIXED).SerializeToString()


def with_external_data(folder, graph, location="w.bin"):
    model = parse(graph)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    path = folder / "model.onnx"
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_external_data_of_a_freed_model_goes_with_it(compile_, tmp_path):
    (tmp_path / "model").mkdir()
    path = with_external_data(tmp_path / "model", FIXED)
    compiled = compile_(path, [1, 8], atc=SIM, precision_mode="force_fp32")
    assert gears_of(compiled.path)[0] == [1, 8]


def test_external_data_stays_where_it_is(compile_, fake, tmp_path):
    (tmp_path / "model").mkdir()
    path = with_external_data(tmp_path / "model", FIXED.replace("[4,", "[rows,"), location="sub/w.bin")
    compile_(path, [1, 8])
    assert fake.calls[0]["flags"]["model"] == str(path)
    compile_(path, [1, 8], atc=SIM)


@pytest.mark.parametrize("form", ["path", "relative", "bytes", "proto"])
def test_every_form_of_a_model(compile_, fake, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.onnx"
    onnx.save(parse(SCALE), path)
    forms = {"path": path, "relative": Path("model.onnx"), "bytes": path.read_bytes(), "proto": parse(SCALE)}
    compile_(forms[form], [1, 2])
    assert onnx.load_model_from_string(bytes.fromhex(fake.calls[0]["model"])) == parse(SCALE)


# --- the vendor's rules, before the converter starts ---


def test_a_hundred_gears_and_no_more(compile_, fake):
    compile_(SCALE, range(1, 101))
    with pytest.raises(
        InputError, match="expected at most 100 batch sizes, which is the vendor's limit for one model, got 101"
    ):
        compile_(SCALE, range(1, 102))
    assert len(fake.calls) == 1
    assert anybatch.gear_limits(AscendBackend()) == (1, 100)


def refused(compile_, fake, model, message, error=ModelError, opset=17, sizes=(1, 2), **given):
    with pytest.raises(error) as caught:
        compile_(model, list(sizes), opset=opset, **given)
    assert message in str(caught.value)
    assert fake.calls == []


def test_a_scalar_does_not_go_with_batch_gears(compile_, fake):
    model = "g (float[rows] x, float s) => (float[rows] y) { y = Mul(x, s) }"
    refused(compile_, fake, model, "input 's' is a scalar, and the vendor's batch gears need at least one dimension")


@pytest.mark.parametrize("name", ["a;b", "a b"])
def test_names_that_the_converter_would_misread(compile_, fake, name):
    model = parse(SCALE)
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    refused(compile_, fake, model, f"input {name!r}: atc takes shapes as 'name:1,3;name2:4'")


def test_a_name_with_a_colon_goes_through(compile_):
    model = parse(SCALE)
    model.graph.input[0].name = model.graph.node[0].input[0] = "x:0"
    assert gears_of(compile_(model, [1, 2], atc=SIM).path)[0] == [1, 2]


def test_no_rows_at_all(compile_, fake):
    refused(compile_, fake, "g (float s) => (float y) { y = Neg(s) }", "no input has a batch axis")


NO = "the vendor supports gears only where all shapes within the network are fixed"
SHAPED_BY_DATA = {
    "NonZero": "g (float[rows, 3] x) => (int64[2, k] y) { y = NonZero(x) }",
    "Unique": "g (float[rows, 3] x) => (float[k] y) { y = Unique(x) }",
    "Compress": "g (float[rows] x, bool[rows] c) => (float[k] y) { y = Compress(x, c) }",
    "NonMaxSuppression": "g (float[n, 5, 4] b, float[n, 1, 5] s) => (int64[k, 3] y) { y = NonMaxSuppression(b, s) }",
    "Reshape": "g (float[rows, 4] x, int64[2] t) => (float[a, b] y) { y = Reshape(x, t) }",
    "Range": """g (int64[rows] x) => (int64[k] y) <int64 zero = {0}, int64 one = {1}>
        { m = ReduceMax<keepdims = 0>(x) y = Range(zero, m, one) }""",
    "TopK": "g (float[rows, 9] x, int64[1] k) => (float[rows, m] y) { y, i = TopK(x, k) }",
}


@pytest.mark.parametrize("operator", SHAPED_BY_DATA)
def test_operators_shaped_by_data(compile_, fake, operator):
    axes = {"k": None, "t": None} if operator in ("Reshape", "TopK") else {}
    given = {
        "batch_axis": {name: axis for name, axis in axes.items() if f"] {name}" in SHAPED_BY_DATA[operator].split("=>")[0]}
    }
    refused(compile_, fake, SHAPED_BY_DATA[operator], f"{operator} '", **given)
    with pytest.raises(ModelError, match=NO):
        compile_(SHAPED_BY_DATA[operator], [1, 2], **given)
    compile_(SHAPED_BY_DATA[operator], [2], **given)  # one batch size has no gears, and the rule is theirs


def test_the_node_is_named(compile_, fake):
    model = parse(SHAPED_BY_DATA["NonZero"])
    refused(compile_, fake, model, "NonZero 'y': the size of its result depends on the data")
    model.graph.node[0].name = "find_boxes"
    refused(compile_, fake, model, "NonZero 'find_boxes': ")


IF = """g (float[rows, 3] x) => (float[rows, k] y) <float zero = {{0}}, int64 axis = {{0}}>
{{
    m = ReduceMax<keepdims = 0>(x)
    c = Greater(m, zero)
    y = If (c) <
        then_branch = a () => (float[rows, 3] p) {{ p = Neg(x) }},
        else_branch = b () => (float[rows, {width}] q) {{ {other} }}
    >
}}"""


def test_an_if_on_data_whose_branches_differ(compile_, fake):
    refused(
        compile_, fake, IF.format(width=6, other="q = Concat<axis = 1>(x, x)"), "If 'y': its branches give ['rows', 3] and "
    )
    compile_(IF.format(width=3, other="q = Abs(x)"), [1, 2])


def test_what_is_in_a_branch_counts(compile_, fake):
    other = "n = NonZero(x) f = Cast<to = 1>(n) s = ReduceSum(f) q = Add(x, s)"
    refused(compile_, fake, IF.format(width=3, other=other), "NonZero 'n'")


def test_what_comes_out_of_a_branch_is_data(compile_, fake):
    model = """g (float[rows, 3] x) => (int64[2, k] y) <bool yes = {1}>
    {
        b = If (yes) <then_branch = t () => (float[rows, 3] p) { p = Neg(x) },
                      else_branch = e () => (float[rows, 3] q) { q = Abs(x) }>
        y = NonZero(b)
    }"""
    refused(compile_, fake, model, "NonZero 'y'")


LOOP = """g (float[rows, 3] x, int64[1] turns) => ({result})
<int64 one = {{1}}, int64 four = {{4}}, bool yes = {{1}}, float zero = {{0}}>
{{
    z = Squeeze(turns)
    {outputs} = Loop ({count}, yes, x) <
        body = b (int64 i, bool go, float[rows, 3] v) => (bool go_on, float[rows, 3] w{stacks})
        {{ w = Add(v, v) {more} }}
    >
}}"""


@pytest.mark.parametrize(
    ("count", "go_on", "stacks", "ok"),
    [
        ("four", "go_on = Identity(go)", True, True),
        ("z", "go_on = Identity(go)", True, False),
        ("z", "go_on = Identity(go)", False, True),
        ("four", "m = ReduceMax<keepdims = 0>(w) go_on = Greater(m, zero)", True, False),
        ("four", "m = ReduceMax<keepdims = 0>(w) go_on = Greater(m, zero)", False, True),
    ],
)
def test_a_loop_that_stacks_as_many_as_data_says(compile_, fake, count, go_on, stacks, ok):
    model = LOOP.format(
        result="float[rows, 3] y" + ", float[k, rows, 3] all" * stacks,
        outputs="y, all" if stacks else "y",
        count=count,
        stacks=", float[rows, 3] each" * stacks,
        more=go_on + " each = Identity(w)" * stacks,
    )
    given = {"batch_axis": {"turns": None}}
    if ok:
        compile_(model, [1, 2], **given)
        assert len(fake.calls) == 1
    else:
        refused(compile_, fake, model, "Loop 'y': the number of its turns", **given)


def test_what_a_loop_hands_on_counts(compile_, fake):
    """The first turn's value is a constant, that of the second comes from the input."""
    model = """g (float[rows, 3] x) => (float[rows, 3] y) <float one = {1}, int64 four = {4}, bool yes = {1}>
    {
        c, y = Loop (four, yes, one, x) <
            body = b (int64 i, bool go, float s, float[rows, 3] v) => (bool go_on, float t, float[rows, 3] w)
            { go_on = Identity(go) k = NonZero(s) u = Identity(v) t = ReduceMax<keepdims = 0>(u) w = Identity(u) }
        >
    }"""
    refused(compile_, fake, model, "NonZero 'k'")
    compile_(model.replace("t = ReduceMax<keepdims = 0>(u)", "t = Identity(s)"), [1, 2])


def test_a_function_of_the_model_is_looked_into(compile_, fake):
    model = parse("g (float[rows, 3] x) => (float[rows, 3] y) { y = Neg(x) }")
    body = [onnx.helper.make_node("NonZero", ["a"], ["n"]), onnx.helper.make_node("Identity", ["a"], ["b"])]
    opsets = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("own", "find", ["a"], ["b"], body, opsets))
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    model.graph.node[0].CopyFrom(onnx.helper.make_node("find", ["x"], ["y"], domain="own"))
    refused(compile_, fake, model, "NonZero '")


@pytest.mark.parametrize(
    "model",
    [
        # A shape, and what is computed from one, is fixed by the gear.
        """g (float[rows, 4] x) => (float[rows, 2, 2] y) <int64[2] rest = {2, 2}, int64 zero = {0}, int64[1] axis = {0}>
        { s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, axis) t = Concat<axis = 0>(u, rest) y = Reshape(x, t) }""",
        """g (float[rows, 4] x) => (int64[2, k] y) { s = Shape(x) o = ConstantOfShape(s) y = NonZero(o) }""",
        "g (float[rows, 3] x, bool[rows] c) => (bool[rows] y) <bool[2] some = {1, 0}> { z = Compress(x, some) y = Not(c) }",
    ],
)
def test_shapes_that_a_gear_fixes_are_fine(compile_, fake, model):
    compile_(model, [1, 2])
    assert len(fake.calls) == 1


def test_the_table_names_operators_that_exist():
    names = {schema.name: len(schema.inputs) for schema in onnx.defs.get_all_schemas_with_history()}
    for operator, deciding in _rules._SHAPED_BY.items():
        assert all(index < names[operator] for index in deciding or (0,)), operator


# --- AIPP ---


IMAGES = "g (float[rows, 3, 8, 8] img) => (float[rows, 3, 8, 8] y) { y = Neg(img) }"
STATIC_AIPP = (
    "aipp_op { aipp_mode: static related_input_rank: 0 input_format: RGB888_U8 src_image_size_w: 8 src_image_size_h: 8 }"
)
DYNAMIC_AIPP = "aipp_op { aipp_mode: dynamic # aipp_mode: nonsense\n max_src_image_size: 1600 }"


@pytest.fixture
def conf(tmp_path):
    def write(text):
        path = tmp_path / "aipp.cfg"
        path.write_text(text)
        return path

    return write


def test_static_aipp_goes_with_batch_gears(compile_, fake, conf):
    path = conf(STATIC_AIPP)
    assert compile_(IMAGES, [8, 16], insert_op_conf=str(path)).advice == ()
    assert fake.flags["insert_op_conf"] == str(path)
    assert gears_of(compile_(IMAGES, [8, 16], insert_op_conf=str(path), atc=SIM).path)[0] == [8, 16]


def test_dynamic_aipp_is_for_the_largest_gear(compile_, conf):
    (said,) = compile_(IMAGES, [8, 16], insert_op_conf=str(conf(DYNAMIC_AIPP))).advice
    assert "made for 16 images, the largest batch size, whatever batch size runs" in said
    assert "1600 bytes leaves 100 bytes for each" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "has no aipp_mode: is it an AIPP configuration?"),
        ("aipp_op { aipp_mode: semi }", "expected aipp_mode static or dynamic, got ['semi']"),
        ("aipp_op { aipp_mode: static related_input_rank: 2 }", "related_input_rank 2, but the model has 1 inputs"),
        ("aipp_op { aipp_mode: dynamic }", "dynamic AIPP needs max_src_image_size, in bytes, for the largest batch size"),
    ],
)
def test_aipp_that_does_not_fit(compile_, fake, conf, text, message):
    refused(compile_, fake, IMAGES, message, InputError, insert_op_conf=str(conf(text)))


def test_aipp_that_cannot_be_read(compile_, fake, tmp_path):
    (tmp_path / "aipp.cfg").write_bytes(b"\xff\xfe\xff")
    refused(compile_, fake, IMAGES, "cannot be read", InputError, insert_op_conf=str(tmp_path / "aipp.cfg"))


def test_aipp_does_not_go_with_dims_gears(compile_, fake, conf):
    given = {"insert_op_conf": str(conf(STATIC_AIPP)), "batch_axis": {"img": 1, "y": 1}}
    model = "g (float[3, rows, 8, 8] img) => (float[3, rows, 8, 8] y) { y = Neg(img) }"
    refused(compile_, fake, model, "the vendor has no AIPP with n-d gears", InputError, **given)


def test_dims_gears_need_their_format(compile_, fake):
    model = "g (float[3, rows] x) => (float[3, rows] y) { y = Neg(x) }"
    given = {"atc_options": {"input_format": "NCHW"}}
    refused(compile_, fake, model, "input_format must be ND with n-d gears", InputError, **given)
    compile_(model, [1, 2], atc_options={"input_format": "ND"})
    assert fake.flags["input_format"] == "ND"


# --- advice ---


def spec_of(graph):
    return anybatch.read_model_spec(parse(graph))


TOKENS = "g (int64[rows, 64] ids) => (int64[rows, 64] y) { y = Neg(ids) }"


@pytest.mark.parametrize(
    ("graph", "sizes", "opset", "said"),
    [
        (IMAGES, (1, 4), 17, ["for vision models the vendor recommends batch sizes 8 and 16"]),
        (IMAGES, (1, 8), 17, []),
        (IMAGES, (4,), 17, []),
        (TOKENS, (8, 16, 24), 17, ["for language models the vendor recommends multiples of 16, and [8, 24] are none"]),
        (TOKENS, (16, 48), 17, []),
        (SCALE, (1, 2), 17, []),
        (SCALE, (1, 1024), 17, []),
        (SCALE, (1, 1025), 17, ["`swapoff -a`"]),
        (SCALE, tuple(range(1, 52)), 17, ["`swapoff -a`"]),
        (SCALE, (2048,), None, []),
        (SCALE, (2049,), None, ["the vendor recommends batch sizes up to 2048, got 2049"]),
        (SCALE, (1, 2), 10, ["the model's operator set is 10; the vendor documents 11 to 18"]),
        (SCALE, (1, 2), 19, ["the model's operator set is 19; the vendor documents 11 to 18"]),
        (SCALE, (1, 2), 11, []),
        (SCALE, (1, 2), 18, []),
    ],
)
def test_advice(graph, sizes, opset, said):
    given = advice(spec_of(graph), sizes, opset=opset)
    assert len(given) == len(said)
    assert all(part in sentence for part, sentence in zip(said, given, strict=True))


def test_advice_is_returned(compile_):
    assert len(compile_(IMAGES, [1, 4], opset=19).advice) == 2


# --- what is compiled already ---


@pytest.mark.parametrize("form", ["name", "content", "bytes"])
def test_a_compiled_model_is_refused(compile_, fake, tmp_path, form):
    path = tmp_path / ("model.om" if form == "name" else "model.onnx")
    path.write_bytes(b"" if form == "name" else b"IMOD and more")
    with pytest.raises(ModelError, match=r"is compiled already: open it as it is, or compile the .onnx file it was made of"):
        compile_(path.read_bytes() if form == "bytes" else path, [1, 2])


# --- the cache ---


def test_compiled_once(compile_, fake, tmp_path):
    first = compile_(SCALE, [1, 2])
    again = compile_(SCALE, [2, 1])
    assert (first.cached, again.cached) == (False, True)
    assert again == replace(first, cached=True)
    assert len(fake.calls) == 1
    assert first.path.parent == tmp_path / "cache" / "ascend"
    assert [path for path in first.path.parent.iterdir() if path.suffix != ".lock"] == [first.path]


@pytest.mark.parametrize(
    "given",
    [
        {"batch_sizes": [1, 3]},
        {"soc_version": "Ascend910B"},
        {"precision_mode": "force_fp32"},
        {"atc_options": {"log": "error"}},
        {"rows_per_row": {"x": 2, "y": 2}},
        {"model": SCALE.replace("{2}", "{3}")},
    ],
    ids=lambda given: next(iter(given)),
)
def test_whatever_matters_is_compiled_anew(compile_, fake, given):
    compile_(SCALE, [1, 2])
    assert not compile_(**({"model": SCALE, "batch_sizes": [1, 2]} | given)).cached
    assert len(fake.calls) == 2


def test_options_that_do_not_matter(compile_, fake):
    compile_(SCALE, [1, 2])
    assert compile_(SCALE, [1, 2], compile_timeout_s=100).cached


@pytest.mark.parametrize("option", ["insert_op_conf", "atc_options"])
def test_the_content_of_files_matters(compile_, conf, option):
    path = conf(STATIC_AIPP)
    given = {"insert_op_conf": str(path)} if option == "insert_op_conf" else {"atc_options": {"op_name_map": str(path)}}
    compile_(IMAGES, [1, 8], **given)
    assert compile_(IMAGES, [1, 8], **given).cached
    conf(STATIC_AIPP + " ")
    assert not compile_(IMAGES, [1, 8], **given).cached


def test_another_converter_matters(compile_, fake, tmp_path):
    compile_(SCALE, [1, 2])
    script = Path(fake.command[-1])
    script.write_text(script.read_text() + "\n# of another release\n")
    assert not compile_(SCALE, [1, 2]).cached
    assert compile_(SCALE, [1, 2]).cached
    (tmp_path / "version.info").write_text("Version=8.1\n")
    assert not compile_(SCALE, [1, 2]).cached
    assert compile_(SCALE, [1, 2]).cached


def test_the_backend_and_its_options_say_where(fake, tmp_path, monkeypatch):
    def compiled(**given):
        cache_dir = given.pop("cache_dir", None)
        read = options(**({"cache_dir": cache_dir} if cache_dir else {}))
        return compile_model(parse(SCALE), batch_sizes=[1], options=read, atc=fake.command, **given).path.parent

    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path / "env"))
    assert compiled() == tmp_path / "env" / "ascend"
    assert compiled(backend="ascend-sim") == tmp_path / "env" / "ascend-sim"
    assert compiled(cache_dir=str(tmp_path / "own")) == tmp_path / "own"


# --- what the converter leaves ---


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "atc says it succeeded, but left 0 files where one .om was expected"),
        ("Path(flags['output'] + '.om').touch()", "left an empty file where one .om was expected"),
        ("[Path(flags['output'] + n + '.om').write_text('x') for n in 'ab']", "left 2 files where one .om was expected"),
    ],
)
def test_a_converter_that_leaves_something_else(compile_, tmp_path, body, message):
    with pytest.raises(ModelError, match=message):
        compile_(SCALE, [1, 2], atc=FakeAtc(tmp_path, body).command)


# --- on the simulator ---


def gears_of(path):
    """Load a compiled model in the simulator; return its batch gears and its dims gears."""
    testing.reset()
    assert acl_sim.init() == 0
    assert acl_sim.rt.set_device(0) == 0
    model, ret = acl_sim.mdl.load_from_file(str(path))
    assert ret == 0, acl_sim.get_recent_err_msg()
    desc = acl_sim.mdl.create_desc()
    assert acl_sim.mdl.get_desc(desc, model) == 0
    batch, ret = acl_sim.mdl.get_dynamic_batch(desc)
    assert ret == 0
    count, ret = acl_sim.mdl.get_input_dynamic_gear_count(desc, -1)
    assert ret == 0
    dims = []
    if count:
        listed, ret = acl_sim.mdl.get_input_dynamic_dims(desc, -1, count)
        assert ret == 0
        dims = [gear["dims"] for gear in listed]
    testing.reset()
    return batch["batch"], dims


def test_batch_gears_in_the_simulator(compile_):
    assert gears_of(compile_(SCALE, [1, 4, 8], atc=SIM).path) == ([1, 4, 8], [])


def test_dims_gears_in_the_simulator(compile_):
    model = """g (float[3, rows] x, float[2] t, float[rows, 4] z) => (float[rows, 3] y, float[rows, 4] u)
    { y = Transpose(x) u = Neg(z) }"""
    assert gears_of(compile_(model, [2, 5], atc=SIM).path) == ([], [[3, 2, 2, 2, 4], [3, 5, 2, 5, 4]])


def test_entries_per_row_in_the_simulator(compile_):
    model = 'g (float["3*rows", 2] x) => (float["3*rows", 2] y) { y = Neg(x) }'
    assert gears_of(compile_(model, [1, 2], atc=SIM).path) == ([], [[3, 2], [6, 2]])


def test_one_batch_size_in_the_simulator(compile_):
    assert gears_of(compile_(SCALE, [4], atc=SIM).path) == ([], [])


def test_free_dimensions_in_the_simulator(compile_):
    model = "g (float[batch, seq] x) => (float[batch, seq] y) { y = Neg(x) }"
    assert gears_of(compile_(model, [1, 2], atc=SIM, input_shape={"x": [None, 6]}).path) == ([1, 2], [])


def test_progress_is_what_the_converter_prints(compile_):
    said = []
    compile_(SCALE, [1, 2], atc=SIM, progress=said.append)
    assert said[0] == "ATC start working now, please wait for a moment."
    assert said[-1] == "ATC run success, welcome to the next use."


def test_the_converters_own_refusal(compile_):
    with pytest.raises(AtcModelError) as caught:
        compile_("g (float[rows, 3] x) => (float[rows, 3] y) { y = own.Magic(x) }", [1, 2], atc=SIM)
    assert caught.value.code == "E16002"
    assert "Magic" in str(caught.value)
    assert "ATC run failed" in caught.value.text


# --- the command line of anybatch ---


PLUGIN = """
import sys
import anybatch
from anybatch_ascend import compile as ascend

class Toy:
    name, suffixes = "toy-sim", frozenset()
    def check_usable(self):
        return "toy"
    def open(self, model, *, device, batch_sizes, options):
        raise NotImplementedError
    def compile(self, model, *, batch_sizes, output, options, progress):
        anybatch.check_options(options, ascend.COMPILE_OPTIONS, backend=self.name)
        return ascend.compile_model(
            model, batch_sizes=batch_sizes, options=ascend.CompileOptions.from_options(options), output=output,
            progress=progress, backend=self.name, atc=[sys.executable, "-m", "acl_sim.atc"],
        )

@anybatch.hookimpl
def anybatch_backends():
    return [Toy()]
"""


@pytest.fixture
def cli(tmp_path):
    """Call ``anybatch compile model.onnx`` in a process of its own, with a backend on the simulator's converter."""
    (tmp_path / "toy-1.0.dist-info").mkdir()
    (tmp_path / "toy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (tmp_path / "toy-1.0.dist-info" / "entry_points.txt").write_text("[anybatch]\ntoy = toy_plugin\n")
    (tmp_path / "toy_plugin.py").write_text(PLUGIN)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    env = {**os.environ, "PYTHONPATH": paths, "ANYBATCH_CACHE_DIR": str(tmp_path / "cache")}

    def call(graph, *flags):
        onnx.save(parse(graph), tmp_path / "model.onnx")
        command = [sys.executable, "-m", "anybatch", "compile", "model.onnx", "--backend", "toy-sim", *flags]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)

    return call


def test_the_command_line_compiles(cli, tmp_path):
    flags = ["--batch-sizes", "1,2,4,8", "--soc-version", "Ascend310P3", "--precision-mode", "force_fp32"]
    done = cli(SCALE, *flags, "--option", 'atc_options={"log": "error"}')
    simulated = "note: compiled by a simulator: toy-sim opens the file, hardware does not\n"
    assert (done.returncode, done.stderr) == (0, simulated)
    path = Path(done.stdout.removesuffix("\n"))
    assert path.parent == tmp_path / "cache" / "toy-sim"
    assert gears_of(path) == ([1, 2, 4, 8], [])
    done = cli(IMAGES, *flags[2:], "--batch-sizes", "1,2", "--output", "mine.om")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'mine.om'}\n")
    assert done.stderr.startswith(f"{simulated}note: for vision models the vendor recommends batch sizes 8 and 16")
    assert gears_of(tmp_path / "mine.om") == ([1, 2], [])


def test_the_command_line_says_what_the_vendor_said(cli):
    done = cli("g (float[rows, 3] x) => (float[rows, 3] y) { y = own.Magic(x) }", "--soc-version", "Ascend310P3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("anybatch: AtcModelError: atc failed: E16002: ")
    assert "ATC run failed, Please check the detail log" in done.stderr
    done = cli(SCALE, "--precision-mode", "force_fp32")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected soc_version to name the chip" in done.stderr
