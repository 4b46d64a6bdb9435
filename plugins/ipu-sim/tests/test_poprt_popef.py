"""The simulator's PopEF file: what it keeps, and everything that it refuses."""

import dataclasses
import hashlib
import json
import struct

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from poprt_models import F32, KERNEL, add2, build, dense, dense_reference, node
from poprt_sim import _popef, testing
from poprt_sim._compute import ComputeError, Program
from poprt_sim._popef import INDEX_INPUT, PopefError, TensorInfo, read_popef, write_popef
from poprt_sim.compiler import Compiler, CompilerOptions
from poprt_sim.converter import MFConverter

HEAD = struct.Struct("<16sIIQQ")


@pytest.fixture(autouse=True)
def fresh_machine():
    testing.reset()
    yield
    testing.reset()


def popef(model=None, **options):
    model = model or dense()
    return Compiler.compile(model, [value.name for value in model.graph.output], CompilerOptions.from_dict(options)).popef


def fused():
    return Compiler.compile(MFConverter().convert([add2(), dense()]), None).popef


def seal(header, body, *, kind=0, version=1, mark=_popef.MARK):
    """A file with a checksum that fits, whatever is in it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    head = HEAD.pack(mark, version, kind, len(text), len(body))
    return head + hashlib.sha256(head + text + body).digest() + text + body


def taken_apart(data):
    """Header and body of a file."""
    size = HEAD.unpack_from(data)[3]
    return json.loads(data[_popef.HEAD_BYTES : _popef.HEAD_BYTES + size]), data[_popef.HEAD_BYTES + size :]


@pytest.mark.parametrize("make", [popef, fused, lambda: popef(constant_weights=False, opaque_blobs={"a": "b"})])
def test_what_is_written_is_read(make, tmp_path):
    made = make()
    assert read_popef(write_popef(made)) == made
    (tmp_path / "m.popef").write_bytes(write_popef(made))
    assert read_popef(tmp_path / "m.popef") == read_popef(str(tmp_path / "m.popef")) == made


def test_one_model_is_one_file():
    assert write_popef(popef()) == write_popef(popef())


def test_a_missing_file(tmp_path):
    with pytest.raises(PopefError, match=r"nothing.popef.*cannot be read"):
        read_popef(tmp_path / "nothing.popef")
    with pytest.raises(PopefError, match="cannot be read"):
        read_popef(tmp_path)
    with pytest.raises(PopefError, match="cannot be read"):
        read_popef("with\0zero")


def test_what_is_no_file_of_ours(tmp_path):
    (tmp_path / "real.popef").write_bytes(b"\x11\x22" * 200)
    with pytest.raises(PopefError, match=r"real.popef.*not a PopEF of the simulator: compile"):
        read_popef(tmp_path / "real.popef")
    for data in (
        b"",
        b"x",
        onnx.ModelProto().SerializeToString(),
        dense().SerializeToString(),
        b"poprt-sim popef!" + bytes(99),
    ):
        with pytest.raises(PopefError, match="not a PopEF of the simulator"):
            read_popef(data)


def test_every_truncation_is_refused():
    data = write_popef(popef(add2()))
    for size in range(len(data)):
        with pytest.raises(PopefError):
            read_popef(data[:size])
    with pytest.raises(PopefError, match="do not add up"):
        read_popef(data + b"\0")


def test_every_flipped_bit_is_refused():
    data = write_popef(popef(add2()))
    for position in range(len(data)):
        for bit in (0, 3, 7):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(PopefError):
                read_popef(bytes(damaged))


def test_head_fields_are_checked_before_anything_is_built():
    header, body = taken_apart(write_popef(popef()))
    with pytest.raises(PopefError, match="version 2"):
        read_popef(seal(header, body, version=2))
    with pytest.raises(PopefError, match="unknown kind of file 7"):
        read_popef(seal(header, body, kind=7))
    with pytest.raises(PopefError, match="fused models and the kind"):
        read_popef(seal(header, body, kind=1))
    huge = HEAD.pack(_popef.MARK, 1, 0, 1 << 60, 0) + bytes(32)
    with pytest.raises(PopefError, match="beyond the limit"):
        read_popef(huge)
    with pytest.raises(PopefError, match="do not add up"):
        read_popef(HEAD.pack(_popef.MARK, 1, 0, 10, 1 << 62) + bytes(42))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected the fields"),
        (b"{}", "expected the fields"),
        (b"null", "expected the fields"),
    ],
)
def test_headers_that_are_none(text, what):
    with pytest.raises(PopefError, match=what):
        read_popef(seal(text, b""))


X = {"name": "X", "dtype": "float32", "shape": [4, 2]}


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("name", 5, "expected a text"),
        ("name", "x" * 5000, "name is too long"),
        ("name", "\ud800", "expected a text"),
        ("inputs", {}, "expected a list"),
        ("inputs", [X, X], "two tensors have one name"),
        ("inputs", [{**X, "dtype": "float128"}], "no element type"),
        ("inputs", [{**X, "dtype": "object"}], "no element type"),
        ("inputs", [{**X, "name": ""}], "empty or too long"),
        ("inputs", [{**X, "shape": [-1]}], "out of range"),
        ("inputs", [{**X, "shape": [1 << 31]}], "out of range"),
        ("inputs", [{**X, "shape": [1 << 30, 1 << 30]}], "beyond the limit"),
        ("inputs", [{**X, "shape": [1] * 65}], "not too long a one"),
        ("inputs", [{**X, "shape": [2.0]}], "whole number"),
        ("inputs", [{**X, "shape": [True]}], "whole number"),
        ("inputs", [{"name": "X"}], "expected the fields"),
        ("outputs", [], "at least one output"),
        ("batches_per_step", 0, "batches_per_step"),
        ("batches_per_step", 1 << 40, "batches_per_step"),
        ("num_io_tiles", -1, "num_io_tiles"),
        ("num_ipus", 0, "num_ipus"),
        ("ipu_version", "ipu3", "ipu_version"),
        ("flops", -1.0, "out of range"),
        ("flops", 7, "expected a number"),
        ("bytes_moved", 1e300, "out of range"),
        ("weight_bytes", -1, "out of range"),
        ("graphs", [5], "disagree"),
        ("anchors", [X], "two tensors have one name"),
        ("opaque_blobs", [["a"]], "a name and a text"),
        ("opaque_blobs", [["a", "b", "c"]], "not too long a one"),
        ("opaque_blobs", [["a", 1]], "expected a text"),
    ],
)
def test_hostile_headers(field, value, what):
    header, body = taken_apart(write_popef(popef(add2())))
    with pytest.raises(PopefError, match=what):
        read_popef(seal({**header, field: value}, body))


@pytest.mark.parametrize(
    ("last", "over"),
    [((1,) * 64, (1,) * 65), ((0, (1 << 31) - 1), (0, 1 << 31)), ((1 << 30, 1 << 14), (1 << 30, (1 << 14) + 1))],
)
def test_the_largest_tensors(last, over):
    assert TensorInfo("X" * 4096, np.dtype(np.float32), last).shape == last
    with pytest.raises(PopefError, match=r"beyond the limit|out of range"):
        TensorInfo("X", np.dtype(np.float32), over)
    with pytest.raises(PopefError, match="empty or too long"):
        TensorInfo("X" * 4097, np.dtype(np.float32), last)


def test_a_field_too_many_or_too_few():
    header, body = taken_apart(write_popef(popef(add2())))
    with pytest.raises(PopefError, match="expected the fields"):
        read_popef(seal({**header, "more": 1}, body))
    del header["flops"]
    with pytest.raises(PopefError, match="expected the fields"):
        read_popef(seal(header, body))


def test_hostile_fused_files():
    data = write_popef(fused())
    header, body = taken_apart(data)
    assert read_popef(seal(header, body, kind=1)) == fused()
    with pytest.raises(PopefError, match="bad sizes"):
        read_popef(seal({**header, "graphs": [1, 2]}, body, kind=1))
    with pytest.raises(PopefError, match="do not add up"):
        read_popef(seal({**header, "graphs": [len(body) - 5, 5]}, body, kind=1))
    with pytest.raises(PopefError, match=f"the input '{INDEX_INPUT}'"):
        read_popef(seal({**header, "inputs": header["inputs"][:-1]}, body, kind=1))
    with pytest.raises(PopefError, match="not those of the models"):
        read_popef(seal({**header, "outputs": header["outputs"][:1]}, body, kind=1))
    nested = {**header, "graphs": [len(data)]}
    with pytest.raises(PopefError, match="unknown kind of file 1"):
        read_popef(seal(nested, data, kind=1))


# What is in the file


def run(file, **feeds):
    return Program(read_popef(write_popef(file))).run(feeds)


def test_it_computes():
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    result = run(popef(), x=x)
    np.testing.assert_allclose(result["y"], dense_reference(x), rtol=1e-5)
    assert result["y"].flags.c_contiguous
    assert result["y"].tobytes() == run(popef(), x=x)["y"].tobytes()


def test_inputs_have_to_fit():
    program = Program(popef(add2()))
    good = np.zeros((4, 2), np.float32)
    with pytest.raises(ComputeError, match="expected the inputs X, Y, got X"):
        program.run({"X": good})
    with pytest.raises(ComputeError, match="expected the inputs X, Y, got none"):
        program.run({})
    with pytest.raises(ComputeError, match=r"'Y': expected float32 \[4, 2\], got float64 \[4, 2\]"):
        program.run({"X": good, "Y": good.astype(np.float64)})
    with pytest.raises(ComputeError, match=r"'Y': expected float32 \[4, 2\], got float32 \[5, 2\]"):
        program.run({"X": good, "Y": np.zeros((5, 2), np.float32)})


def test_what_fails_inside_is_a_compute_error():
    nodes = [node("Gather", ["table", "i"], ["y"], axis=0)]
    model = build(nodes, [("i", TensorProto.INT32, [1])], [("y", F32, [1])], [("table", np.ones(3, np.float32))])
    program = Program(popef(model))
    assert program.run({"i": np.array([2], np.int32)})["y"] == 1
    with pytest.raises(ComputeError, match=r"indices|range|bounds"):
        program.run({"i": np.array([7], np.int32)})


def test_weights_are_updated_only_where_that_was_compiled():
    x = np.ones((4, 6), np.float32)
    program = Program(popef(constant_weights=False))
    np.testing.assert_allclose(program.run({"x": x})["y"], dense_reference(x), rtol=1e-5)
    program.update({"w": KERNEL * 2})
    np.testing.assert_allclose(program.run({"x": x})["y"], dense_reference(x, KERNEL * 2), rtol=1e-5)
    with pytest.raises(ComputeError, match="these may: w, one"):
        program.update({"shape": np.zeros(2, np.int64)})
    with pytest.raises(ComputeError, match=r"'w': expected float32 \[6, 5\], got float16 \[6, 5\]"):
        program.update({"one": np.zeros(1, np.float32), "w": KERNEL.astype(np.float16)})
    np.testing.assert_allclose(program.run({"x": x})["y"], dense_reference(x, KERNEL * 2), rtol=1e-5)  # none was taken
    with pytest.raises(ComputeError, match="compile with constant_weights False"):
        Program(popef()).update({"w": KERNEL})


def test_an_updated_weight_is_a_copy():
    program = Program(popef(constant_weights=False))
    mine = KERNEL.copy()
    program.update({"w": mine})
    mine[:] = 0
    x = np.ones((4, 6), np.float32)
    np.testing.assert_allclose(program.run({"x": x})["y"], dense_reference(x), rtol=1e-5)


def test_fused_models_run_one_at_a_time():
    program = Program(read_popef(write_popef(fused())))
    two, x = np.full((4, 2), 2, np.float32), np.ones((4, 6), np.float32)
    first = program.run({"graph0/X": two, "graph0/Y": two})
    assert first.keys() == {"graph0/O"}
    assert (first["graph0/O"] == 4).all()
    second = program.run({"graph1/x": x, "index": np.array([1], np.uint32)})
    np.testing.assert_allclose(second["graph1/y"], dense_reference(x), rtol=1e-5)
    with pytest.raises(ComputeError, match="expected tensors of one of the fused models: graph0/X, graph0/Y; graph1/x"):
        program.run({"graph0/X": two, "graph1/x": x})
    with pytest.raises(ComputeError, match="no name"):
        program.run({})
    with pytest.raises(ComputeError, match="one whole number from 0 to 1"):
        program.run({"graph1/x": x, "index": np.array([2], np.uint32)})
    with pytest.raises(ComputeError, match="expected the inputs graph0/X"):
        program.run({"graph1/x": x, "index": np.array([0], np.uint32)})


def test_weights_of_fused_models_are_updated():
    options = CompilerOptions.from_dict({"constant_weights": False})
    program = Program(Compiler.compile(MFConverter().convert([add2(), dense()]), None, options).popef)
    program.update({"graph1/w": KERNEL * 0})
    assert (program.run({"graph1/x": np.ones((4, 6), np.float32)})["graph1/y"] == 1).all()


# Graphs that do not do what the file says, or more


def with_graph(change, **fields):
    """A file whose header is that of a good one and whose graph is another."""
    good = popef(dense())
    model = onnx.load_model_from_string(good.onnx)
    change(model)
    return read_popef(write_popef(dataclasses.replace(good, onnx=model.SerializeToString(), **fields)))


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"


def custom(model):
    model.graph.node[1].domain = "evil"
    model.opset_import.append(helper.make_opsetid("evil", 1))


def bomb(model):
    functions = [
        helper.make_function(
            "evil", f"f{n}", ["a"], ["b"], [helper.make_node(f"f{n + 1}", ["a"], [o], domain="evil") for o in ("b", "c")], []
        )
        for n in range(30)
    ]
    functions.append(helper.make_function("evil", "f30", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], []))
    for function in functions:
        function.opset_import.append(helper.make_opsetid("evil", 1))
    model.functions.extend(functions)
    custom(model)
    model.graph.node[1].op_type = "f0"


def circle(model):
    call = helper.make_node("f", ["a"], ["b"], domain="evil")
    model.functions.append(helper.make_function("evil", "f", ["a"], ["b"], [call], [helper.make_opsetid("evil", 1)]))
    custom(model)


def nested(model):
    body = helper.make_graph([], "deepest", [], [helper.make_tensor_value_info("v", F32, [4, 5])])
    for level in range(12):
        made = helper.make_node("If", ["c"], [f"v{level}"], then_branch=body, else_branch=body)
        body = helper.make_graph([made], "level", [], [helper.make_tensor_value_info(f"v{level}", F32, [4, 5])])
    model.graph.node[0].attribute.append(helper.make_attribute("__body", body))


def wrong_output(model):
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 5


def free_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


def other_input(model):
    model.graph.input[0].name = "other"
    model.graph.node[0].input[0] = "other"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (external, "weights in other files"),
        (custom, "operators that the compiler never writes"),
        (bomb, r"unfold to \d+ nodes"),
        (circle, "calls itself"),
        (nested, "levels deep"),
        (wrong_output, "outputs are not those"),
        (free_input, "does not fix its shape"),
        (other_input, "inputs are not those"),
        (lambda model: model.graph.node.pop(), "cannot be used"),
        (lambda model: model.graph.ClearField("output"), "cannot be used|outputs are not those"),
    ],
)
def test_hostile_graphs(change, what):
    with pytest.raises(PopefError, match=what):
        Program(with_graph(change))


def test_a_body_that_is_no_graph():
    good = popef()
    for content in (b"", b"\xff" * 50, good.onnx[: len(good.onnx) // 2]):
        with pytest.raises(PopefError, match="cannot be used"):
            Program(dataclasses.replace(good, onnx=content))


def test_weights_that_the_graph_does_not_have():
    fake = (TensorInfo("nothing", np.dtype(np.float32), (1,)),)
    with pytest.raises(PopefError, match="no weight 'nothing'"):
        Program(dataclasses.replace(popef(), anchors=fake))
    wrong = (TensorInfo("w", np.dtype(np.float32), (5, 6)),)
    with pytest.raises(PopefError, match="no weight 'w'"):
        Program(dataclasses.replace(popef(), anchors=wrong))


def short_weight(model):
    tensor = next(each for each in model.graph.initializer if each.name == "w")
    tensor.raw_data = tensor.raw_data[:-4]


def test_a_weight_with_too_few_bytes():
    with pytest.raises(PopefError, match=r"refuses|cannot be read|cannot be used"):
        Program(with_graph(short_weight))
    with pytest.raises(PopefError, match=r"refuses|cannot be read|cannot be used"):
        Program(with_graph(short_weight, anchors=(TensorInfo("w", np.dtype(np.float32), (6, 5)),)))


def test_a_graph_that_gives_something_else():
    """Type and shape of what comes out are checked, not believed."""

    def change(model):
        weight = next(each for each in model.graph.initializer if each.name == "shape")
        weight.CopyFrom(numpy_helper.from_array(np.array([5, -1], np.int64), "shape"))

    with pytest.raises((ComputeError, PopefError), match=r"refuses|compiled as|cannot be used|shape"):
        Program(with_graph(change)).run({"x": np.ones((4, 6), np.float32)})
