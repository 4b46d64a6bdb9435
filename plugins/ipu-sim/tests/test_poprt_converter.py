"""Converting models: shapes, types, half precision, passes."""

import json
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import poprt_sim
from poprt_models import F16, F32, F64, I32, I64, KERNEL, add2, build, dense, dense_reference, node
from poprt_sim import passes, testing
from poprt_sim._compute import Program
from poprt_sim._names import sHostConcatRunnerConfig
from poprt_sim._unsimulated import NotSimulated
from poprt_sim.compiler import Compiler
from poprt_sim.converter import Converter, Sharder
from poprt_sim.optimizer import Optimizer
from poprt_sim.passes import Pass, PassManager, onnx_helper, shape_inference
from poprt_sim.passes import _builtin as builtin
from poprt_sim.profile import Profiler, get_model_flops
from poprt_sim.utils import LazyImport, get_input_info_from_model_proto, get_logger, onnx_tensor_dtype_to_np_dtype


@pytest.fixture(autouse=True)
def fresh_machine():
    testing.reset()
    yield
    testing.reset()


@pytest.fixture
def registry():
    """What a test registers is gone after it."""
    before = dict(Pass._registered)
    yield
    Pass._registered.clear()
    Pass._registered.update(before)


@pytest.fixture
def said():
    """The lines that the logger poprt was given."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    get_logger().addHandler(handler)
    yield lines
    get_logger().removeHandler(handler)


def run(model, **feeds):
    names = [value.name for value in model.graph.output]
    return Program(Compiler.compile(model, names).popef).run(feeds)


def types(values):
    return {value.name: value.type.tensor_type.elem_type for value in values}


def shapes(values):
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


# The constructor


def test_it_is_one_class_under_both_names():
    assert poprt_sim.Converter is Converter
    assert poprt_sim.Pass is passes.Pass


def test_positional_arguments_until_1_2():
    for version in (None, "1.0.2", "1.1.0"):
        testing.reset(version=version)
        assert types(Converter({"x": [4, 6]}, 11, "fp16").convert(dense()).graph.output) == {"y": F16}
    for version in ("1.2.0", "1.5.0"):
        testing.reset(version=version)
        with pytest.raises(TypeError, match="keyword arguments only, got 1"):
            Converter({"x": [4, 6]})
    testing.reset(version="1.1.0")
    with pytest.raises(TypeError, match="no argument 'custom_pass_config'"):
        Converter(custom_pass_config="")


def test_arguments_that_do_not_exist():
    with pytest.raises(TypeError, match="no argument 'shape'; it has input_shape"):
        Converter(shape={})
    with pytest.raises(TypeError, match="'input_shape' is given twice"):
        Converter({}, input_shape={})
    with pytest.raises(TypeError, match="at most"):
        Converter(*range(60))
    with pytest.raises(ValueError, match="precision: expected one of fp32, fp16, fp8, fp8_weight, got 'fp64'"):
        Converter(precision="fp64")
    for version in (5, 1000, "11", True):
        with pytest.raises(ValueError, match="convert_version: expected an opset version from 6 to"):
            Converter(convert_version=version)


@pytest.mark.parametrize(
    "given",
    [
        {"precision": "fp8"},
        {"precision": "fp8_weight"},
        {"eightbitsio": True},
        {"pack_args": {"max_valid_num": 5}},
        {"quantize": True},
        {"enable_avoid_overflow_patterns": True},
    ],
)
def test_what_is_not_simulated_says_so(given):
    with pytest.raises(NotSimulated, match="not simulated"):
        Converter(**given)


def test_the_second_argument_of_1_0(said):
    logger = logging.getLogger("mine")
    Converter().convert(dense(), logger)
    testing.reset(version="1.5.0")
    with pytest.raises(TypeError, match="takes one argument"):
        Converter().convert(dense(), logger)
    with pytest.raises(TypeError, match=r"expected an onnx\.ModelProto, got bytes"):
        Converter().convert(dense().SerializeToString())


# What it does


def test_nothing_happens_to_the_callers_model():
    model = dense()
    before = model.SerializeToString(deterministic=True)
    Converter(precision="fp16", checkpoints="h").convert(model)
    assert model.SerializeToString(deterministic=True) == before


def test_results_stay():
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(Converter().convert(dense()), x=x)["y"], run(dense(), x=x)["y"])


def free(batch="n"):
    model = dense()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = batch
    return model


@pytest.mark.parametrize("given", [{"input_shape": {"x": [3, 6]}}, {"batch_size": 3, "batch_axis": 0}])
def test_shapes_are_fixed(given):
    converted = Converter(**given).convert(free())
    assert shapes(converted.graph.input) == {"x": [3, 6]}
    assert shapes(converted.graph.output) == {"y": [3, 5]}
    assert run(converted, x=np.ones((3, 6), np.float32))["y"].shape == (3, 5)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"input_shape": {"z": [3, 6]}}, "no input 'z'; its inputs are x"),
        ({"input_shape": {"x": [3, 7]}}, "axis 1 is 6 and cannot become 7; only variable axes"),
        ({"input_shape": {"x": [3]}}, "expected 2 axes"),
        ({"input_shape": {"x": [-1, 6]}}, "axes of 1 or more, got -1"),
        ({"input_shape": {"x": [2.0, 6]}}, r"axes of 1 or more, got 2\.0"),
        ({"batch_size": 3}, "expected both or none"),
        ({"batch_size": 3, "batch_axis": 5}, "has 2 axes and no axis 5"),
        ({"batch_size": 0, "batch_axis": 0}, "batch_size: expected 1 or more"),
        ({"batch_size": 3, "batch_axis": 1}, "axis 1 is 6 and cannot become 3"),
    ],
)
def test_shapes_that_do_not_fit(given, what):
    with pytest.raises(ValueError, match=what):
        Converter(**given).convert(free())


def test_int64_becomes_int32():
    nodes = [node("Gather", ["table", "i"], ["g"], axis=0), node("Shape", ["g"], ["s"])]
    model = build(nodes, [("i", I64, [3])], [("g", F32, [3]), ("s", I64, [1])], [("table", np.arange(9, dtype=np.float32))])
    converted = Converter().convert(model)
    assert types(converted.graph.input) == {"i": I32}
    assert types(converted.graph.output) == {"g": F32, "s": I32}
    result = run(converted, i=np.array([8, 0, 3], np.int32))
    assert (result["g"] == [8, 0, 3]).all()
    assert (result["s"] == [3]).all()
    kept = Converter(skip_passes="int64_to_int32").convert(model)
    assert types(kept.graph.input) == {"i": I64}


def test_float64_becomes_float32():
    model = build([node("Neg", ["x"], ["y"])], [("x", F64, [2])], [("y", F64, [2])])
    converted = Converter().convert(model)
    assert (types(converted.graph.input), types(converted.graph.output)) == ({"x": F32}, {"y": F32})
    assert (run(converted, x=np.array([1, -2], np.float32))["y"] == [-1, 2]).all()


def test_the_opset_is_converted_or_stays(said):
    model = build([node("Relu", ["x"], ["y"])], [("x", F32, [2])], [("y", F32, [2])], opset=10)
    assert Converter().convert(model).opset_import[0].version == 11
    assert Converter(convert_version=13).convert(model).opset_import[0].version == 13
    assert said == []
    newer = build([node("LayerNormalization", ["x", "s"], ["y"])], [("x", F32, [2, 3])], [("y", F32, [2, 3])],
                  [("s", np.ones(3, np.float32))], opset=17)  # fmt: skip
    converted = Converter().convert(newer)
    assert converted.opset_import[0].version == 17
    assert said == ["opset 17 stays: ONNX cannot convert this model to convert_version 11"]
    assert run(converted, x=np.ones((2, 3), np.float32))["y"].shape == (2, 3)


def test_checkpoints_and_outputs():
    converted = Converter(checkpoints="h, r").convert(dense())
    assert shapes(converted.graph.output) == {"y": [4, 5], "h": [4, 5], "r": [4, 5]}
    assert shapes(Converter(remove_outputs=["h"], skip_passes="x").convert(converted).graph.output).keys() == {"y", "r"}
    with pytest.raises(ValueError, match="no node makes a tensor 'z'"):
        Converter(checkpoints="z").convert(dense())
    with pytest.raises(ValueError, match="has no output 'z'"):
        Converter(remove_outputs=["z"]).convert(dense())
    with pytest.raises(ValueError, match="at least one output"):
        Converter(remove_outputs=["y"]).convert(dense())


def test_an_invalid_model():
    model = dense()
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(RuntimeError, match="not a valid ONNX model"):
        Converter().convert(model)


def test_check_runs_both(said):
    get_logger().setLevel(logging.INFO)
    try:
        Converter(check=True, precision="fp16").convert(dense())
    finally:
        get_logger().setLevel(logging.WARNING)
    assert any("check: output 'y' differs by" in line for line in said)


# Half precision


def test_half_precision_reaches_the_borders():
    converted = Converter(precision="fp16").convert(dense())
    assert (types(converted.graph.input), types(converted.graph.output)) == ({"x": F16}, {"y": F16})
    assert {tensor.name: tensor.data_type for tensor in converted.graph.initializer} == {"w": F16, "one": F16, "shape": I64}
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float16)
    result = run(converted, x=x)["y"]
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, dense_reference(x), rtol=5e-3)
    assert not np.array_equal(result.astype(np.float32), run(dense(), x=x.astype(np.float32))["y"]), "nothing was rounded"


def test_constants_are_clipped_with_a_warning(said):
    values = np.array([1e9, -1e9, np.inf, 65501, 1e-9, -1e-9, 0, 2], np.float32)
    model = build([node("Add", ["x", "big"], ["y"])], [("x", F32, [8])], [("y", F32, [8])], [("big", values)])
    converted = Converter(precision="fp16").convert(model)
    assert said == ["constant 'big' has values beyond half precision: clipped to +-65500"]
    result = run(converted, x=np.zeros(8, np.float16))["y"]
    np.testing.assert_array_equal(result, np.array([65500, -65500, 65500, 65500, 1e-7, -1e-7, 0, 2], np.float16))


def test_operators_that_stay_in_single_precision():
    """300 squared overflows a half, and does not where the operators between are excluded."""
    nodes = [node("Mul", ["x", "x"], ["h"]), node("Sqrt", ["h"], ["y"])]
    model = build(nodes, [("x", F32, [1])], [("y", F32, [1])])
    x = np.array([300], np.float16)
    assert run(Converter(precision="fp16").convert(model), x=x)["y"] == np.inf
    moved = build([nodes[0], node("Transpose", ["h"], ["t"]), node("Identity", ["t"], ["u"]), node("Sqrt", ["u"], ["y"])],
                  [("x", F32, [1])], [("y", F32, [1])])  # fmt: skip
    assert run(Converter(precision="fp16").convert(moved), x=x)["y"] == np.inf, "moving a half is no way around rounding it"
    skipped = Converter(precision="fp16", fp16_skip_op_types="Sqrt").convert(model)
    assert run(skipped, x=x)["y"] == np.inf, "the tensor between is a half"
    together = build([node("ReduceL2", ["x"], ["y"], axes=[0], keepdims=1)], [("x", F32, [1])], [("y", F32, [1])])
    kept = Converter(precision="fp16", fp16_skip_op_types="ReduceL2,Sqrt").convert(together)
    assert types(kept.graph.input) == {"x": F16}
    assert [each.op_type for each in kept.graph.node] == ["Cast", "ReduceL2", "Cast"]
    assert run(kept, x=x)["y"] == 300


def test_inputs_that_onnx_defines_in_single_precision_only():
    """Scales of a Resize, and NonMaxSuppression, stay; a constant for them is not rounded."""
    nodes = [node("Resize", ["x", "roi", "scales"], ["y"], mode="nearest")]
    weights = [("roi", np.zeros(0, np.float32)), ("scales", np.array([1, 1, 1.0009766, 1.0009766], np.float32))]
    model = build(nodes, [("x", F32, [1, 1, 1024, 1])], [("y", F32, [1, 1, 1025, 1])], weights)
    converted = Converter(precision="fp16").convert(model)
    assert run(converted, x=np.ones((1, 1, 1024, 1), np.float16))["y"].shape == (1, 1, 1025, 1)
    kept = {tensor.name: tensor for tensor in converted.graph.initializer}
    assert kept["scales__single"].data_type == F32
    assert "scales" not in kept
    nodes = [node("NonMaxSuppression", ["boxes", "scores"], ["i"]), node("Neg", ["boxes"], ["b"])]
    model = build(nodes, [("boxes", F32, [1, 2, 4]), ("scores", F32, [1, 1, 2])],
                  [("i", I64, ["n", 3]), ("b", F32, [1, 2, 4])])  # fmt: skip
    converted = Converter(precision="fp16", skip_passes="int64_to_int32").convert(model)
    assert types(converted.graph.input) == {"boxes": F16, "scores": F16}
    assert (
        run(converted, boxes=np.zeros((1, 2, 4), np.float16), scores=np.zeros((1, 1, 2), np.float16))["b"].dtype == np.float16
    )


def typed_sources():
    constant = numpy_helper.from_array(np.array([1e9], np.float32))
    return [
        (node("Constant", [], ["k"], value=constant), 65500),
        (node("Constant", [], ["k"], value_floats=[2.0]), 2),
        (node("ConstantOfShape", ["n"], ["k"], value=constant), 65500),
        (node("ConstantOfShape", ["n"], ["k"]), 0),
        (node("Cast", ["i"], ["k"], to=F32), 7),
        (node("EyeLike", ["square"], ["k"], dtype=F32), 1),
        (node("DequantizeLinear", ["q", "half_scale"], ["k"]), 2.5),
    ]


@pytest.mark.parametrize(("source", "value"), typed_sources())
def test_what_says_its_own_type(source, value):
    weights = [
        ("n", np.array([1], np.int64)),
        ("i", np.array([7], np.int32)),
        ("square", np.zeros((1, 1), np.int32)),
        ("q", np.array([5], np.int8)),
        ("half_scale", np.array(0.5, np.float32)),
    ]
    used = [each for each in weights if each[0] in source.input]
    model = build([source, node("Add", ["x", "k"], ["y"])], [("x", F32, [1])], [("y", F32, [1])], used, opset=12)
    converted = Converter(precision="fp16", convert_version=12).convert(model)
    result = run(converted, x=np.zeros(1, np.float16))["y"]
    assert result.dtype == np.float16
    assert result.reshape(()) == np.float16(value)


def test_random_sources_become_half():
    model = build(
        [node("RandomUniform", [], ["k"], shape=[3]), node("Add", ["x", "k"], ["y"])], [("x", F32, [3])], [("y", F32, [3])]
    )
    assert run(Converter(precision="fp16").convert(model), x=np.zeros(3, np.float16))["y"].dtype == np.float16


def test_bodies_compute_in_single_precision():
    """A branch sees tensors around it; they are halves there and singles inside."""
    inner = [helper.make_node("Mul", ["x", "big"], ["a"]), helper.make_node("Div", ["a", "big"], ["t"])]
    then = helper.make_graph(inner, "then", [], [helper.make_tensor_value_info("t", F32, [1])])
    otherwise = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "else", [], [helper.make_tensor_value_info("e", F32, [1])]
    )
    nodes = [node("Relu", ["x"], ["pass"]), node("If", ["c"], ["r"], then_branch=then, else_branch=otherwise),
             node("Add", ["r", "pass"], ["y"])]  # fmt: skip
    model = build(
        nodes, [("x", F32, [1]), ("c", TensorProto.BOOL, [])], [("y", F32, [1])], [("big", np.array([1e5], np.float32))]
    )
    converted = Converter(precision="fp16").convert(model)
    assert types(converted.graph.input) == {"x": F16, "c": TensorProto.BOOL}
    for condition in (True, False):
        assert run(converted, x=np.array([3], np.float16), c=np.array(condition))["y"] == 6


def test_half_precision_of_a_custom_operator():
    mapped = helper.make_node("PrintTileMapping", ["h"], ["y"], domain="ai.graphcore")
    model = build([node("Relu", ["x"], ["h"]), mapped], [("x", F32, [2])], [("y", F32, [2])])
    model.graph.value_info.append(helper.make_tensor_value_info("y", F32, [2]))
    converted = Converter(precision="fp16").convert(model)
    assert run(converted, x=np.array([-1, 2], np.float16))["y"].dtype == np.float16


# Passes

DOCUMENTED = 105


def test_every_documented_pass_is_registered():
    names = set(passes.get_registered_passes())
    assert len([name for name in names if name in (*builtin.SPEED, *builtin.REFUSED)]) == len(
        {*builtin.SPEED, *builtin.REFUSED}
    )
    assert len(names) == DOCUMENTED
    for asked in ("int64_to_int32", "gelu_pattern", "apply_host_concat_split", "fused_attention", "matmul_rotary_embedding"):
        assert asked in names


@pytest.mark.parametrize("name", builtin.SPEED)
def test_passes_for_speed_leave_the_model(name):
    model = dense()
    before = model.SerializeToString(deterministic=True)
    arguments = {"serialize_matmul": ({},), "auto_insert_remap": (["after_matmul"],)}.get(name, ())
    assert Pass.get_pass(name, *arguments)(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", builtin.REFUSED)
def test_refused_passes_say_so(name):
    with pytest.raises(NotSimulated, match=f"the pass {name} is not simulated"):
        Pass.get_pass(name).run(dense())


def test_registering(registry):
    @passes.register("mine")
    class Mine(Pass):
        def run(self, onnx_model):
            onnx_model.graph.doc_string += "mine"
            return onnx_model

    assert passes.get_registered_passes()["mine"] is Mine
    assert isinstance(poprt_sim.get_pass("mine"), Mine)
    assert Converter(used_passes=["mine"]).convert(dense()).graph.doc_string == "mine"
    assert Converter(used_passes=["mine"], skip_passes="mine").convert(dense()).graph.doc_string == ""
    assert Optimizer(["mine", Mine()]).run(dense()).graph.doc_string == "minemine"
    with pytest.raises(ValueError, match="already registered as 'mine'"):
        passes.register("mine")(Mine)
    passes.override_register("mine")(Pass)
    with pytest.raises(NotImplementedError, match="a pass overrides it"):
        Pass.get_pass("mine")(dense())
    assert "mine" in Pass.get_typed_registered_passes(Pass)
    with pytest.raises(KeyError, match="no pass is registered as 'nothing'"):
        Pass.get_pass("nothing")
    with pytest.raises(KeyError, match="no pass is registered as 'nothing'"):
        Converter(used_passes=["nothing"]).convert(dense())


def test_the_vendors_way_to_traverse(registry):
    """As the sample replace_add_with_sub does, branches included."""

    class Swap(Pass):
        def transform(self, graph, is_main_graph):
            seen.append(is_main_graph)
            for each in graph.node:
                each.op_type = {"Add": "Sub"}.get(each.op_type, each.op_type)
            return graph

        def run(self, onnx_model):
            onnx_model.graph.CopyFrom(self.traverse_graph(onnx_model.graph, self.transform))
            return onnx_model

    seen = []
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["t"])], "b", [], [helper.make_tensor_value_info("t", F32, [1])]
    )
    model = build([node("If", ["c"], ["r"], then_branch=branch, else_branch=branch), node("Add", ["r", "x"], ["y"])],
                  [("x", F32, [1]), ("c", TensorProto.BOOL, [])], [("y", F32, [1])])  # fmt: skip
    assert run(Swap().run(model), x=np.array([5], np.float32), c=np.array(True))["y"] == -5
    assert seen == [False, False, True]


def test_managed_passes(registry):
    log = []
    for name, properties in (("a", []), ("b", [("before", ["a"])]), ("c", [("depend", ["a"])]), ("d", [("against", ["a"])])):

        class Logged(Pass):
            def __init__(self, name=name):
                super().__init__()
                self.name = name

            def run(self, onnx_model):
                log.append(self.name)
                return onnx_model

        for constraint, others in properties:
            Logged = Pass.constraint_passes(constraint, others)(Logged)  # noqa: N806
        passes.register(name)(Logged)
    manager = PassManager(["c", "a", "b"])
    assert manager.get_all_pass_names() == ["c", "a", "b"]
    manager.run(dense())
    assert log == ["b", "a", "c"]
    assert [each.name for each in manager.get_passes()] == log
    with pytest.raises(RuntimeError, match="'d' and 'a' cannot work together"):
        PassManager(["a", "d"]).run(dense())
    passes.override_register("a")(Pass.constraint_passes("depend", ["c"])(passes.get_registered_passes()["a"]))
    with pytest.raises(RuntimeError, match="in a circle"):
        PassManager(["a", "c"]).run(dense())
    with pytest.raises(ValueError, match="expected against, depend or before"):
        Pass.constraint_passes("after", [])


def test_custom_passes_from_a_file(tmp_path, registry):
    file = tmp_path / "own.py"
    file.write_text(
        "from poprt.passes import Pass, register\n@register('own')\nclass Own(Pass):\n"
        "    def run(self, onnx_model):\n        onnx_model.graph.doc_string = 'own'\n        return onnx_model\n"
    )
    converted = Converter(custom_pass_config=str(file), used_passes=["own"]).convert(dense())
    assert converted.graph.doc_string == "own"
    with pytest.raises(FileNotFoundError, match="no such file"):
        Converter(custom_pass_config=str(tmp_path / "nothing.py"))
    import sys

    assert "poprt" not in sys.modules, "the vendor's name stayed behind"


def test_structural_passes():
    model = dense()
    model.graph.input.append(helper.make_tensor_value_info("w", F32, [6, 5]))
    assert set(shapes(Pass.get_pass("remove_initializer_from_input")(model).graph.input)) == {"x"}
    shuffled = dense()
    nodes = list(reversed([onnx.NodeProto.FromString(each.SerializeToString()) for each in shuffled.graph.node]))
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    order = [each.op_type for each in Pass.get_pass("sort_graph")(shuffled).graph.node]
    assert order == ["MatMul", "Relu", "Add", "Reshape"]
    for each, name in zip(shuffled.graph.node, ["a", "", "a", ""], strict=True):
        each.name = name
    names = [each.name for each in Pass.get_pass("unique_name_for_nodes")(shuffled).graph.node]
    assert names == ["a", "Add_1", "a_1", "MatMul_1"]
    constant = build([node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(1, np.float32))),
                      node("Add", ["x", "k"], ["y"])], [("x", F32, [1])], [("y", F32, [1])])  # fmt: skip
    moved = Pass.get_pass("extract_constant_to_initializer")(constant)
    assert [tensor.name for tensor in moved.graph.initializer] == ["k"]
    assert run(moved, x=np.ones(1, np.float32))["y"] == 2
    del moved.graph.node[:]
    moved.graph.node.append(node("Relu", ["x"], ["y"]))
    assert not Pass.get_pass("eliminate_unused_initializer")(moved).graph.initializer
    fixed = Pass.get_pass("const_batch_size", 9)(free())
    assert shapes(fixed.graph.input) == {"x": [9, 6]}
    with pytest.raises(ValueError, match="1 or more, got 0"):
        Pass.get_pass("const_batch_size", 0)
    with pytest.raises(RuntimeError, match="variable axis"):
        Pass.get_pass("final_check")(free())
    assert Pass.get_pass("final_check")(dense())


def test_remove_input_cast():
    nodes = [node("Cast", ["i"], ["whole"], to=I32), node("Gather", ["t", "whole"], ["y"], axis=0)]
    model = build(nodes, [("i", F16, [2])], [("y", F32, [2])], [("t", np.arange(5, dtype=np.float32))])
    converted = Pass.get_pass("remove_input_cast")(model)
    assert types(converted.graph.input) == {"i": I32}
    assert (run(converted, i=np.array([4, 1], np.int32))["y"] == [4, 1]).all()
    model.graph.node.append(node("Neg", ["i"], ["z"]))
    assert types(Pass.get_pass("remove_input_cast")(model).graph.input) == {"i": F16}, "something else reads it"


def merging_model():
    names = [f"x{index}" for index in range(5)]
    nodes = [node("Concat", [*names, "other"], ["y"], axis=1)]
    inputs = [*((name, F32, [4, 1]) for name in names), ("other", F32, [4, 2])]
    return build(nodes, inputs, [("y", F32, [4, 7])])


@pytest.mark.parametrize("opset", [11, 13])
def test_merging_inputs(opset):
    model = merging_model()
    model.opset_import[0].version = opset
    merged = Pass.get_pass("apply_host_concat_split", [(F32, (4, 1), 2), (F32, (4, 2))]).run(model)
    assert len(model.graph.input) == 6, "the caller's model was changed"
    assert shapes(merged.graph.input) == {"x4": [4, 1], "other": [4, 2], "merged_input_0": [2, 4], "merged_input_1": [2, 4]}
    (entry,) = merged.metadata_props
    assert entry.key == sHostConcatRunnerConfig
    assert json.loads(entry.value)[1] == {
        "tensor_name": "merged_input_1", "input_tensor_names": ["x2", "x3"], "shape": [2, 4], "data_size_bytes": 32
    }  # fmt: skip
    columns = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    result = run(
        merged, merged_input_0=columns[:2], merged_input_1=columns[2:4], x4=columns[4:5].T.copy(), other=columns[5:].T.copy()
    )
    np.testing.assert_array_equal(result["y"], columns.T)


def test_merging_through_the_converter():
    converted = Converter(apply_hcsr=[(F32, (4, 1), 0)]).convert(merging_model())
    assert shapes(converted.graph.input) == {"other": [4, 2], "merged_input_0": [5, 4]}
    same = Converter(apply_hcsr={"fp32": [(F32, (4, 1), 0)]}).convert(merging_model())
    assert shapes(same.graph.input) == shapes(converted.graph.input)


def numbers(model, attribute):
    return {each.name: a.i for each in model.graph.node for a in each.attribute if a.name == attribute}


def test_sharding():
    """What a named node depends on goes with it; what is left comes last."""
    sharded = Sharder({"Relu_r": 0, "Add_s": 1}, {"MatMul_h": 0}).run(dense())
    assert numbers(sharded, "__ipu_number") == {"MatMul_h": 0, "Relu_r": 0, "Add_s": 1, "Reshape_y": 2}
    assert numbers(sharded, "__pipeline_stage") == {"MatMul_h": 0, "Relu_r": 1, "Add_s": 1, "Reshape_y": 1}
    assert numbers(Sharder({"Relu_r": 3, "Add_s": 0}).run(dense()), "__ipu_number")["MatMul_h"] == 3, "topological order counts"
    with pytest.raises(ValueError, match="no node 'nothing'"):
        Sharder({"nothing": 0}).run(dense())
    nameless = dense()
    nameless.graph.node[0].name = ""
    with pytest.raises(ValueError, match="a name of its own"):
        Sharder({"Relu_r": 0}).run(nameless)


def test_overviews(capsys):
    Pass.get_pass("model_overview").run(dense())
    assert capsys.readouterr().out == "test: 4 nodes\nAdd: 1\nMatMul: 1\nRelu: 1\nReshape: 1\n"
    Pass.get_pass("model_io_info_stat").run(add2())
    assert capsys.readouterr().out == "2 inputs: float32 [4, 2], 64 bytes\n1 output: float32 [4, 2], 32 bytes\n"


def test_a_check_that_fails():
    broken = build(
        [node("Gather", ["t", "i"], ["y"], axis=0)], [("i", I32, [1])], [("y", F32, [1])], [("t", np.zeros(0, np.float32))]
    )
    with pytest.raises(RuntimeError, match="check: the model does not run"):
        Pass.get_pass("check_with_fake_data").run(broken)
    other = dense(5)
    with pytest.raises(RuntimeError, match="check: "):
        Pass.get_pass("check_with_fake_data", other).run(dense())


# Helpers


def test_onnx_helper():
    model = dense()
    model.graph.value_info.append(helper.make_tensor_value_info("h", F32, [4, 5]))
    assert onnx_helper.get_dtype(model.graph, "w") == F32
    assert onnx_helper.get_dtype(model.graph, "h") == F32
    assert onnx_helper.get_dtype(model.graph, "nothing") is None
    assert onnx_helper.get_shape(model.graph, "w") == [6, 5]
    assert onnx_helper.get_shape(free().graph, "x") == [0, 6]
    assert onnx_helper.get_shape(model.graph, "nothing") is None
    np.testing.assert_array_equal(onnx_helper.get_constant(model.graph, "w"), KERNEL)
    assert onnx_helper.get_constant(model.graph, "h") is None
    assert not onnx_helper.clean_info(model).graph.value_info
    made = build([node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(2, np.float32))),
                  node("Relu", ["k"], ["y"])], [], [("y", F32, [2])])  # fmt: skip
    assert (onnx_helper.get_constant(made.graph, "k") == 1).all()
    made.graph.node[0].CopyFrom(node("Relu", ["y"], ["k"]))
    with pytest.raises(ValueError, match="a circle around node"):
        onnx_helper.topological_sort(made.graph)


def test_shape_functions():
    class Same(shape_inference.ShapeFunc):
        def __call__(self, model, each):
            shape = passes.get_shape(model.graph, each.input[0])
            dtype = passes.get_dtype(model.graph, each.input[0])
            if not shape or not dtype:
                return model, False
            return self.update_value_info(model, helper.make_tensor_value_info(each.output[0], dtype, shape)), True

    passes.register_shape_func(["Own"])(Same)
    try:
        own = [helper.make_node("Own", ["x"], ["a"], domain="own"), helper.make_node("Own", ["a"], ["b"], domain="own")]
        model = build([*own, node("Relu", ["b"], ["y"])], [("x", F32, [2, 3])], [("y", F32, ["p", "q"])])
        model.opset_import.append(helper.make_opsetid("own", 1))
        inferred = Pass.get_pass("shape_inference")(model)
        assert passes.get_shape(inferred.graph, "b") == [2, 3]
        with pytest.raises(NotImplementedError, match="a shape function overrides it"):
            shape_inference.ShapeFunc()(model, own[0])
    finally:
        shape_inference._functions.clear()


def test_utils():
    infos, dtypes = get_input_info_from_model_proto(free())
    assert (infos, dtypes) == ({"x": [0, 6]}, {"x": np.dtype(np.float32)})
    assert onnx_tensor_dtype_to_np_dtype(F16) == np.float16
    for wrong in (0, 999, -1):
        with pytest.raises(ValueError, match="no element type"):
            onnx_tensor_dtype_to_np_dtype(wrong)
    lazy = LazyImport("colorsys")
    assert lazy.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
    with pytest.raises(ModuleNotFoundError):
        LazyImport("no_such_module").something  # noqa: B018


def test_the_logger(capsys):
    logger = get_logger()
    assert (logger.name, logger.level) == ("poprt", logging.WARNING)
    assert get_logger() is logger
    logger.warning("text")
    assert capsys.readouterr().err.endswith("] text\n")
    formatted = logger.handlers[0].format(logger.makeRecord("poprt", 30, "/a/cli.py", 7, "text", (), None))
    assert formatted.endswith("WARNING poprt cli.py:7] text")


def test_operations_are_counted():
    assert get_model_flops(dense(), False) == 2 * 4 * 5 * 6 + 3 * 20
    conv = build([node("Conv", ["x", "k"], ["y"])], [("x", F32, [1, 2, 8, 8])], [("y", F32, [1, 3, 6, 6])],
                 [("k", np.zeros((3, 2, 3, 3), np.float32))])  # fmt: skip
    assert get_model_flops(conv) == 2 * (3 * 6 * 6) * (2 * 3 * 3)
    with pytest.raises(NotSimulated, match="not simulated"):
        Profiler().get_profiler("MatMul")
