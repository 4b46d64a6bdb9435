"""Compiling: what goes in, what comes out, what is refused, and whether it fits."""

import copy
import io
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from poprt_models import F16, F32, I64, KERNEL, add2, build, dense, dense_reference, node
from poprt_sim import _popef, testing
from poprt_sim._compute import Program
from poprt_sim._popef import PopefError, read_popef
from poprt_sim._unsimulated import NotSimulated
from poprt_sim.compiler import Compiler, CompilerOptions, Executable
from poprt_sim.converter import MFConverter, Sharder


@pytest.fixture(autouse=True)
def fresh_machine():
    testing.reset()
    yield
    testing.reset()


def options(**values):
    return CompilerOptions.from_dict(values)


# What goes in


def test_a_model_is_bytes_a_file_or_itself(tmp_path):
    model = dense()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    expected = Compiler.compile(model, ["y"]).popef
    for source in (model.SerializeToString(), str(path), path):
        assert Compiler.compile(source, ["y"]).popef == expected
    assert Compiler.compile(model=model, outputs=["y"], options=CompilerOptions()).popef == expected


def test_the_newest_ir_version_compiles():
    """`helper.make_model` stamps its own newest, which ONNX Runtime may refuse."""
    model = add2()
    assert model.ir_version > 10
    assert onnx.load_model_from_string(Compiler.compile(model, ["O"]).popef.onnx).ir_version == 10
    assert model.ir_version > 10, "the caller's model was changed"


def test_weights_beside_the_file_are_read(tmp_path):
    onnx.save(dense(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="weights")
    assert (tmp_path / "weights").stat().st_size > 0
    x = np.ones((4, 6), np.float32)
    np.testing.assert_allclose(
        Program(Compiler.compile(str(tmp_path / "m.onnx"), ["y"]).popef).run({"x": x})["y"], dense_reference(x), rtol=1e-5
    )
    with pytest.raises(RuntimeError, match="weights in other files"):
        Compiler.compile((tmp_path / "m.onnx").read_bytes(), ["y"])


@pytest.mark.parametrize(
    ("model", "error", "what"),
    [
        (5, TypeError, "expected bytes, a file's name or an onnx.ModelProto, got int"),
        (b"\xff\xff", RuntimeError, "not an ONNX model"),
        (b"", RuntimeError, "not a valid ONNX model"),
        ("nothing.onnx", RuntimeError, "'nothing.onnx' cannot be read"),
    ],
)
def test_what_is_no_model(model, error, what):
    with pytest.raises(error, match=what):
        Compiler.compile(model, ["y"])


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(RuntimeError, match=r"m\.onnx' is not an ONNX model"):
        Compiler.compile(tmp_path / "m.onnx", ["y"])


@pytest.mark.parametrize("shape", [["n", 2], [0, 2]])
def test_variable_axes_are_refused(shape):
    model = build([node("Relu", ["x"], ["y"])], [("x", F32, shape)], [("y", F32, ["m", 2])])
    with pytest.raises(RuntimeError, match=r"input 'x': expected a tensor with fixed axes.*--input_shape"):
        Compiler.compile(model, ["y"])


def test_weights_among_the_inputs_are_no_inputs():
    model = dense()
    model.graph.input.append(helper.make_tensor_value_info("w", F32, [6, 5]))
    assert [info.name for info in Compiler.compile(model, ["y"]).popef.inputs] == ["x"]


def test_types_that_a_popef_does_not_have():
    model = build([node("Identity", ["x"], ["y"])], [("x", TensorProto.STRING, [1])], [("y", TensorProto.STRING, [1])])
    with pytest.raises(RuntimeError, match="'x': tensors of type STRING are not simulated; a PopEF has bool"):
        Compiler.compile(model, ["y"])


# What comes out


def test_the_popef_describes_the_model():
    popef = Compiler.compile(dense(), ["y"], options(batches_per_step=7, num_io_tiles=32, num_ipus=2)).popef
    assert [(info.name, info.dtype, info.shape) for info in popef.inputs] == [("x", np.float32, (4, 6))]
    assert [(info.name, info.dtype, info.shape) for info in popef.outputs] == [("y", np.float32, (4, 5))]
    assert (popef.batches_per_step, popef.num_io_tiles, popef.num_ipus, popef.ipu_version) == (7, 32, 2, "ipu21")
    assert popef.flops == 2 * 4 * 5 * 6 + 3 * 20
    assert popef.weight_bytes == 30 * 4 + 4 + 16
    assert popef.bytes_moved == popef.weight_bytes + 4 * 20 * 4 + 24 * 4
    assert popef.anchors == ()


def test_the_device_says_which_ipu():
    testing.reset(ipu_version="ipu2")
    assert Compiler.compile(add2(), ["O"]).popef.ipu_version == "ipu2"
    assert Compiler.compile(add2(), ["O"], options(ipu_version="ipu21")).popef.ipu_version == "ipu21"


def test_a_wrong_declared_output_is_corrected():
    """The vendor's own samples declare [256, 256] where ReduceMean keeps its axes, and float16 where float32 comes out."""
    nodes = [node("ReduceMean", ["x"], ["y"], axes=[0])]
    model = build(nodes, [("x", F32, [4, 3])], [("y", F16, [3])])
    (info,) = Compiler.compile(model, ["y"]).popef.outputs
    assert (info.dtype, info.shape) == (np.float32, (1, 3))


def test_outputs_are_chosen_and_ordered():
    popef = Compiler.compile(dense(), ["r", "h"]).popef
    assert [info.name for info in popef.outputs] == ["r", "h"]
    assert popef.weight_bytes == 120, "weights that nothing needs any more were kept"
    x = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    result = Program(popef).run({"x": x})
    np.testing.assert_allclose(result["h"], x @ KERNEL, rtol=1e-5)
    assert [info.name for info in Compiler.compile(dense(), None).popef.outputs] == ["y"]


@pytest.mark.parametrize(
    ("outputs", "error", "what"),
    [
        (["z"], RuntimeError, "no tensor 'z'; its outputs are y"),
        ([], RuntimeError, "at least one name"),
        (["y", "y"], RuntimeError, "there twice"),
        ("y", TypeError, "expected a list of names"),
        (["x"], RuntimeError, "'x' is an input or a weight"),
    ],
)
def test_outputs_that_are_none(outputs, error, what):
    with pytest.raises(error, match=what):
        Compiler.compile(dense(), outputs)


def test_shapes_that_inference_does_not_reach():
    nodes = [node("NonZero", ["x"], ["i"]), node("Shape", ["i"], ["s"])]
    model = build(nodes, [("x", F32, [4])], [("i", I64, ["a", "b"])])
    (info,) = Compiler.compile(model, ["i"]).popef.outputs
    assert info.shape == (1, 0), "of zeros, none is not zero"
    nodes.append(node("Gather", ["i", "seventh"], ["z"], axis=1))
    weights = [("seventh", np.array([7], np.int64))]
    model = build(nodes, [("x", F32, [4])], [("i", I64, ["a", "b"]), ("z", I64, [1, 1])], weights)
    with pytest.raises(RuntimeError, match="cannot be inferred, and the model fails on zeros"):
        Compiler.compile(model, ["i", "z"])


def test_contradictions_are_errors():
    model = build([node("MatMul", ["x", "w"], ["y"])], [("x", F32, [4, 7])], [("y", F32, [4, 5])], [("w", KERNEL)])
    with pytest.raises(RuntimeError, match=r"(?i)incompatible|mismatch"):
        Compiler.compile(model, ["y"])


def test_functions_are_inlined():
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 11)]
    )
    model = build([helper.make_node("Twice", ["x"], ["y"], domain="own")], [("x", F32, [2])], [("y", F32, [2])])
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("own", 1))
    popef = Compiler.compile(model, ["y"]).popef
    assert (Program(popef).run({"x": np.array([1, 2], np.float32)})["y"] == [2, 4]).all()


def test_operators_of_popart():
    mapped = helper.make_node("PrintTileMapping", ["h"], ["y"], domain="ai.graphcore")
    model = build([node("Relu", ["x"], ["h"]), mapped], [("x", F32, [2])], [("y", F32, [2])])
    popef = Compiler.compile(model, ["y"]).popef
    assert (Program(popef).run({"x": np.array([-1, 2], np.float32)})["y"] == [0, 2]).all()
    model.graph.node[1].op_type = "LeakyRelu"
    with pytest.raises(NotSimulated, match=r"operator LeakyRelu of domain ai\.graphcore"):
        Compiler.compile(model, ["y"])


def test_updatable_weights_are_the_floating_ones():
    popef = Compiler.compile(dense(), ["y"], options(constant_weights=False)).popef
    assert [info.name for info in popef.anchors] == ["w", "one"], "shapes must not be offered"


# Files


def test_compile_and_export(tmp_path):
    path = tmp_path / "m.popef"
    assert Compiler.compile_and_export(dense(), ["y"], str(path)) is None
    assert read_popef(path) == Compiler.compile(dense(), ["y"]).popef
    with pytest.raises(ValueError, match="expected a file name, got None"):
        Compiler.compile_and_export(dense(), ["y"], None)
    with pytest.raises(RuntimeError, match=r"cannot be written to .*nowhere"):
        Compiler.compile_and_export(dense(), ["y"], tmp_path / "nowhere" / "m.popef")


def test_executables(tmp_path):
    path = tmp_path / "m.popef"
    Compiler.compile_and_export(dense(), ["y"], path)
    expected = read_popef(path)
    with path.open("rb") as stream:
        assert Executable(stream).popef == expected
    for source in (str(path), path, [str(path)], io.BytesIO(path.read_bytes())):
        assert Executable(source).popef == expected
    assert repr(Executable(path)) == "<Executable 'test'>"
    with pytest.raises(NotSimulated, match="2 files"):
        Executable([path, path])
    with pytest.raises(NotSimulated, match="0 files"):
        Executable([])
    with pytest.raises(TypeError, match="binary stream"):
        Executable(io.StringIO("text"))
    with pytest.raises(TypeError, match="got int"):
        Executable(5)
    with pytest.raises(PopefError, match="not a PopEF"):
        Executable(io.BytesIO(b"something else"))


def test_the_engine_cache(tmp_path):
    cached = options(enable_engine_caching=True, cache_path=str(tmp_path / "cache"))
    first = Compiler.compile(dense(), ["y"], cached).popef
    (entry,) = (tmp_path / "cache").iterdir()
    marked = _popef.write_popef(Compiler.compile(add2(), ["O"]).popef)
    entry.write_bytes(marked)
    assert Compiler.compile(dense(), ["y"], cached).popef.inputs[0].name == "X", "the cache was not used"
    entry.write_bytes(marked[:50])
    assert Compiler.compile(dense(), ["y"], cached).popef == first, "a damaged entry has to be compiled again"
    Compiler.compile(dense(), ["y"], options(enable_engine_caching=True, cache_path=str(tmp_path / "cache"), num_io_tiles=5))
    Compiler.compile(dense(5), ["y"], cached)
    Compiler.compile(dense(), ["h"], cached)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"cache_path .*file' cannot be written"):
        Compiler.compile(dense(), ["y"], options(enable_engine_caching=True, cache_path=str(tmp_path / "file")))


# Options: contract 1.3


def test_the_defaults():
    made = CompilerOptions()
    assert (made.num_ipus, made.ipu_version, made.batches_per_step, made.partials_type) == (1, "", 1, "half")
    assert (made.available_memory_proportion, made.num_io_tiles, made.stream_buffering_depth) == (0.6, 0, 1)
    assert (made.enable_prefetch_datastreams, made.enable_outlining, made.outline_threshold) == (True, True, 1.0)
    assert (made.constant_weights, made.enable_engine_caching, made.cache_path) == (True, False, "")
    assert (made.rearrange_anchors_on_host, made.group_host_sync, made.virtual_graph_mode) == (True, False, "off")
    assert (made.time_limit_scheduler, made.transitive_closure_optimization_threshold) == (1e9, 100000)
    assert (made.custom_patterns, made.opaque_blobs, made.engine_options) == ([], {}, {})
    assert len([name for name in dir(made) if name != "from_dict"]) == 39
    made.engine_options["a"] = "b"
    assert CompilerOptions().engine_options == {}, "two objects share a value"


def test_options_are_checked():
    made = CompilerOptions()
    with pytest.raises(AttributeError, match="no option 'batch_size'; it has num_ipus"):
        made.batch_size = 4
    with pytest.raises(AttributeError, match="no option 'batch_size'"):
        made.batch_size  # noqa: B018
    with pytest.raises(AttributeError, match="no option 'nothing'"):
        CompilerOptions.from_dict({"nothing": 1})
    for name, value in (
        ("num_ipus", 1.5), ("num_ipus", True), ("num_ipus", "1"), ("constant_weights", 1), ("partials_type", 3),
        ("available_memory_proportion", "0.6"), ("engine_options", []), ("custom_patterns", "a"), ("custom_patterns", {}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=rf"CompilerOptions\.{name}: expected"):
            setattr(made, name, value)
    made.available_memory_proportion = 1
    made.num_ipus = np.int64(3)
    assert (made.available_memory_proportion, made.num_ipus) == (1.0, 3)
    assert repr(made) == "CompilerOptions(num_ipus=3, available_memory_proportion=1.0)"
    assert copy.deepcopy(made).num_ipus == copy.copy(made).num_ipus == 3
    with pytest.raises(TypeError, match="options: expected CompilerOptions, got dict"):
        Compiler.compile(add2(), ["O"], {"num_ipus": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_ipus", 0),
        ("batches_per_step", 0),
        ("partials_type", "double"),
        ("available_memory_proportion", 1.1),
        ("num_io_tiles", 1472),
        ("num_io_tiles", -1),
        ("stream_buffering_depth", 0),
        ("ipu_version", "ipu1"),
        ("virtual_graph_mode", "on"),
    ],
)
def test_values_that_no_compiler_takes(name, value):
    with pytest.raises(RuntimeError, match=rf"CompilerOptions\.{name}: expected .*, got {value!r}"):
        Compiler.compile(add2(), ["O"], options(**{name: value}))


@pytest.mark.parametrize(
    "given", [{"custom_patterns": ["p"]}, {"custom_transform_applier_settings": {"a": []}}, {"serialize_ir": True}]
)
def test_options_that_need_popart(given):
    with pytest.raises(NotSimulated, match="PopART's own graphs"):
        Compiler.compile(add2(), ["O"], options(**given))


def test_opaque_blobs_reach_the_file():
    made = Compiler.compile(add2(), ["O"], options(opaque_blobs={"b": "2", "a": "1"})).popef
    assert made.opaque_blobs == (("a", "1"), ("b", "2"))


# Memory


def wide(megabytes, name="w"):
    side = megabytes << 18
    weight = np.zeros((side, 1), np.float32)
    return build([node("MatMul", ["x", name], ["y"])], [("x", F32, [1, side])], [("y", F32, [1, 1])], [(name, weight)])


def test_out_of_memory():
    """The text that the vendor's auto-sharding tool takes apart."""
    testing.reset(tiles=100, tile_memory_bytes=100_000)
    with pytest.raises(RuntimeError) as caught:
        Compiler.compile(wide(8), ["y"])
    tile, needed = re.findall(r"Out of memory on tile (.+?) bytes", str(caught.value))[0].split(": ")
    assert (int(tile), int(needed)) == (0, -(-(3 * (8 << 20) + 4 + 4) // 100))  # weights, x inside, and x's and y's buffers
    assert "tiles only have 100000 bytes" in str(caught.value)


def test_what_helps_against_it(tmp_path):
    testing.reset(tiles=100, tile_memory_bytes=100_000)
    for given in ({}, {"num_ipus": 2}):
        with pytest.raises(RuntimeError, match="Out of memory on tile 0"):
            Compiler.compile_and_export(wide(8), ["y"], tmp_path / "m.popef", options(**given))
    assert not (tmp_path / "m.popef").exists()
    assert Compiler.compile(wide(8), ["y"], options(num_ipus=3)).popef.num_ipus == 3
    assert Compiler.compile(wide(3), ["y"]).popef
    with pytest.raises(RuntimeError, match="Out of memory on tile 20"):
        Compiler.compile(wide(3), ["y"], options(num_io_tiles=20))
    with pytest.raises(RuntimeError, match="Out of memory"):
        Compiler.compile(wide(3), ["y"], options(stream_buffering_depth=2))


def test_sharding_puts_weights_on_ipus():
    """By hand, all weights lie on the IPU that their nodes are on."""
    testing.reset(tiles=100, tile_memory_bytes=90_000)
    names = [f"w{index}" for index in range(3)]
    nodes = [node("Add", ["x", names[0]], ["a"]), node("Add", ["a", names[1]], ["b"]), node("Add", ["b", names[2]], ["y"])]
    weights = [(name, np.zeros(1 << 19, np.float32)) for name in names]
    model = build(nodes, [("x", F32, [1 << 19])], [("y", F32, [1 << 19])], weights)
    manual = options(num_ipus=3, virtual_graph_mode="manual")
    with pytest.raises(RuntimeError, match=r"Out of memory on tile 0:"):
        Compiler.compile(model, ["y"], manual)
    one_each = Sharder({"Add_a": 0, "Add_b": 1}).run(model)
    assert Compiler.compile(one_each, ["y"], manual).popef.num_ipus == 3
    last = Sharder({"Add_a": 1}).run(model)
    with pytest.raises(RuntimeError, match=r"Out of memory on tile 200:"):
        Compiler.compile(last, ["y"], manual)
    with pytest.raises(RuntimeError, match="is on IPU 2, but num_ipus is 2"):
        Compiler.compile(last, ["y"], options(num_ipus=2, virtual_graph_mode="manual"))


def test_fused_models_share_the_memory():
    testing.reset(tiles=100, tile_memory_bytes=100_000)
    first, second = wide(3), wide(3)
    assert Compiler.compile(first, ["y"])
    with pytest.raises(RuntimeError, match="Out of memory on tile 0"):
        Compiler.compile(MFConverter().convert([first, second]), None)


# Fusion, reports, faults


def test_fused_models():
    model = MFConverter().convert([add2(), dense()])
    for source in (model, model.SerializeToString()):
        popef = Compiler.compile(source, None, options(enable_model_fusion=True)).popef
        assert [info.name for info in popef.inputs] == ["graph0/X", "graph0/Y", "graph1/x", "index"]
        assert [info.name for info in popef.outputs] == ["graph0/O", "graph1/y"]
        assert [graph.name for graph in popef.graphs] == ["graph0", "graph1"]
    with pytest.raises(RuntimeError, match="fused models return all of theirs"):
        Compiler.compile(model, ["graph0/O"])
    with pytest.raises(RuntimeError, match="enable_model_fusion: expected a model that"):
        Compiler.compile(add2(), None, options(enable_model_fusion=True))


def test_fused_metadata_is_not_believed():
    for claim in ("3", "0", "-1", "x", "9" * 30):
        model = MFConverter().convert([add2(), dense()])
        model.metadata_props[0].value = claim
        with pytest.raises(RuntimeError, match=f"claims '{claim}' models"):
            Compiler.compile(model, None)


def test_models_that_cannot_be_fused():
    with pytest.raises(RuntimeError, match="at least one model"):
        MFConverter().convert([])
    other = build([node("Relu", ["x"], ["y"])], [("x", F32, [1])], [("y", F32, [1])], opset=13)
    with pytest.raises(RuntimeError, match=r"model 1 has version 13 .* have 11; convert all"):
        MFConverter().convert([add2(), other])


def test_the_summary_report():
    text = Compiler.compile_and_get_summary_report(dense(), ["y"], options(num_ipus=2), reset_profile=False)
    assert "every figure is modelled" in text
    assert "Operations per run: 300" in text
    assert "Weights: 140 bytes" in text
    assert "IPU 1: 1 of 638976 bytes per tile, 1472 tiles" in text
    fused = Compiler.compile_and_get_summary_report(MFConverter().convert([add2(), dense()]), None)
    assert "Graph 'graph0'" in fused
    assert "Graph 'graph1'" in fused


def test_faults_and_the_ledger():
    testing.reset(faults=(testing.Fault("compiler.Compiler.compile", 2, "Poplar said no"),))
    Compiler.compile(add2(), ["O"])
    with pytest.raises(RuntimeError, match="Poplar said no"):
        Compiler.compile(add2(), ["O"])
    Compiler.compile(add2(), ["O"])
    assert testing.ledger().calls["compiler.Compiler.compile"] == 3


def test_an_output_may_leave_its_shape_open():
    model = build([node("Relu", ["x"], ["y"])], [("x", F32, [3])], [("y", F32, None)])
    assert Compiler.compile(model, ["y"]).popef.outputs[0].shape == (3,)
