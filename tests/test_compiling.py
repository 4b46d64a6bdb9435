"""What backends that compile ONNX models do alike: options, sizes of the model, cache, output."""

import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from anybatch import (
    COMMON_OPTIONS,
    AnyBatch,
    CommonOptions,
    CompiledFiles,
    CompileJob,
    Gears,
    InputError,
    ModelError,
    MultipleOf,
    check_compiled_for,
    read_mapping,
    read_path,
)

FILES = CompiledFiles(".bin", b"BIN!")
SCALE = "g (float[rows, 3] x) => (float[?, 3] y) <float two = {2}> { y = Mul(x, two) }"
SEQUENCES = "g (float[batch, seq] x, float[batch, seq, 5] z) => (float[batch, seq] y) { y = Neg(x) }"
FIXED = "g (float[4, 3] x) => (float[4, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }"


def parse(graph):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}')


def plan(model, batch_sizes=None, *, default=(1, 2), files=FILES, **options):
    source = parse(model) if isinstance(model, str) else model
    return CompileJob.plan(source, batch_sizes, CommonOptions.from_options(options), files=files, default=default)


# --- options ---


def test_a_mapping_is_read():
    assert read_mapping({"settings": {"a": 1}}, "settings", elsewhere={"b": "use c"}) == {"a": 1}
    assert read_mapping({"settings": None}, "settings") == read_mapping({}, "settings") == {}
    for value in ([1, 2], "a", 0, {1: 2}):
        with pytest.raises(InputError, match="expected settings to map names to values, got"):
            read_mapping({"settings": value}, "settings")
    with pytest.raises(InputError, match="settings: 'batch' is not for there: use batch_sizes"):
        read_mapping({"settings": {"a": 1, "batch": 2}}, "settings", elsewhere={"batch": "use batch_sizes"})


def test_a_path_is_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert read_path({"file": "sub/f"}, "file") == tmp_path / "sub" / "f"
    assert read_path({"file": Path("~/f")}, "file") == Path("/home/somebody/f")
    assert read_path({}, "file") is None
    for value in ("", 3, b"f"):
        with pytest.raises(InputError, match=r"expected file to be a path, got"):
            read_path({"file": value}, "file")


def test_common_options_are_read():
    read = CommonOptions.from_options(
        {
            "input_shape": {"ids": [-1, 128], "t": [4]},
            "batch_axis": {"y": 1},
            "rows_per_row": {"ids": 2},
            "cache_dir": "/c",
            "z": 1,
        }
    )
    assert read == CommonOptions({"ids": (None, 128), "t": (4,)}, {"y": 1}, {"ids": 2}, Path("/c"))
    assert read.batch_axis == {"y": 1, "ids": 0, "t": None}, "input_shape says where the rows are as well"
    assert CommonOptions.from_options({}) == CommonOptions()
    assert set(CommonOptions.__dataclass_fields__) == set(COMMON_OPTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_shape": [1, 2]}, "expected input_shape to map names to values, got [1, 2]"),
        ({"input_shape": {"x": 3}}, "input_shape of 'x': expected sizes such as [None, 3, 224, 224]"),
        ({"input_shape": {"x": "3,4"}}, "input_shape of 'x': expected sizes"),
        ({"input_shape": {"x": [None, None]}}, "None where the rows are and only there, got [None, None]"),
        ({"input_shape": {"x": [None, 0]}}, "input_shape of 'x': expected sizes"),
        ({"input_shape": {"x": [None, True]}}, "input_shape of 'x': expected sizes"),
        ({"input_shape": {"x": [3, None]}, "batch_axis": {"x": 0}},
         "input_shape of 'x' has its rows on axis 1, batch_axis says 0"),
        ({"input_shape": {"x": [3]}, "batch_axis": {"x": 0}}, "input_shape of 'x' has no rows, batch_axis says 0"),
        ({"batch_axis": {"x": "0"}}, "expected batch_axis to map tensor names to axes"),
        ({"rows_per_row": {"x": None}}, "expected rows_per_row to map tensor names to counts"),
        ({"cache_dir": ""}, "expected cache_dir to be a path, got ''"),
    ],
)  # fmt: skip
def test_common_options_that_do_not_fit(given, message):
    with pytest.raises(InputError) as caught:
        CommonOptions.from_options(given)
    assert message in str(caught.value)


# --- what is compiled already ---


def test_compiled_files_are_told_by_name_or_content(tmp_path):
    named, marked, other = tmp_path / "a.BIN", tmp_path / "b.onnx", tmp_path / "c.onnx"
    named.write_bytes(b"")
    marked.write_bytes(b"BIN! and more")
    other.write_bytes(b"BIN")
    found = {model: FILES.include(model) for model in (named, marked, other, b"BIN!", b"BIN", b"")}
    assert found == {named: True, marked: True, other: False, b"BIN!": True, b"BIN": False, b"": False}
    unmarked = CompiledFiles(".bin")
    assert [unmarked.include(model) for model in (named, marked, b"BIN!", b"")] == [True, False, False, False]
    assert not FILES.include(parse(SCALE))
    with pytest.raises(ModelError, match="nothing.onnx' cannot be read: No such file"):
        FILES.include(tmp_path / "nothing.onnx")


def test_a_compiled_model_is_refused(tmp_path):
    (tmp_path / "m.bin").touch()
    with pytest.raises(ModelError, match=r"m.bin' is compiled already: open it as it is, or compile the .onnx file it was"):
        plan(tmp_path / "m.bin")
    with pytest.raises(ModelError, match="the model is compiled already"):
        plan(b"BIN!")
    with pytest.raises(ModelError, match="no ONNX model"):
        plan(b"\xff")


# --- the plan ---


def test_batch_sizes():
    assert plan(SCALE).batch_sizes == (1, 2)
    assert plan(SCALE, [8, 4]).batch_sizes == (4, 8)
    assert plan(FIXED).batch_sizes == (4,)
    assert plan(FIXED, [1, 4]).batch_sizes == (1, 4)
    assert [plan(*given).frees for given in ((SCALE,), (SCALE, [4]), (FIXED,), (FIXED, [4]))] == [False] * 4
    assert [plan(FIXED, sizes).frees for sizes in ([1], [1, 4])] == [True] * 2
    assert plan(FIXED, rows_per_row={"x": 2, "y": 2}).batch_sizes == (2,)
    with pytest.raises(InputError, match="at least 1, got 0"):
        plan(SCALE, [0])


def test_free_dimensions_get_their_sizes():
    model = """g (int64[batch, seq] ids, int64[batch, seq] mask, float[batch, width] w)
        => (float[batch, width] y, int64[batch, seq] z, int64["2*seq", batch] u)
        { y = Neg(w) z = Add(ids, mask) s = Concat<axis = 1>(ids, mask) u = Transpose(s) }"""
    spec = plan(model, input_shape={"ids": [None, 128], "w": [None, 7]}).spec
    assert [tensor.shape for tensor in spec.inputs] == [(None, 128), (None, 128), (None, 7)]
    # The model does not say 256, and nobody guesses.
    assert [tensor.shape for tensor in spec.outputs] == [(None, 7), (None, 128), ("seq", None)]


def test_a_computed_name_is_a_name_of_its_own():
    model = 'g (float[batch, seq] x, float[batch, "2*seq"] z) => (float[batch, "2*seq"] y) { y = Neg(z) }'
    spec = plan(model, input_shape={"x": [None, 8], "z": [None, 16]}).spec
    assert [tensor.shape for tensor in (*spec.inputs, *spec.outputs)] == [(None, 8), (None, 16), (None, 16)]
    with pytest.raises(InputError, match="input 'z' float32 .* has free dimensions beside its rows"):
        plan(model, input_shape={"x": [None, 8]})


def test_dimensions_without_a_name_have_nothing_in_common():
    model = parse(SEQUENCES.replace("seq", "q"))
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = "?"
    spec = plan(model, input_shape={"x": [None, 8], "z": [None, 9, 5]}).spec
    assert [tensor.shape for tensor in spec.inputs] == [(None, 8), (None, 9, 5)]


def test_input_shape_says_where_the_rows_are():
    spec = plan("g (float[a, b] x, float[c] z) => (float[a, b] y) { y = Neg(x) }", input_shape={"x": [6, None], "z": [3]}).spec
    assert [str(tensor) for tensor in spec.inputs] == ["float32 [6, rows]", "float32 [3]"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "input 'x' float32 [rows, seq] has free dimensions beside its rows, and a compiled model has one size for each: "
             "say which, such as input_shape={'x': [None, 128]}"),
        ({"q": [None, 4]}, "input_shape names ['q'], which are no inputs of the model; these are ['x', 'z']"),
        ({"x": [None]}, "input_shape of 'x': expected 2 dimensions, float32 [rows, seq], got 1: [None]"),
        ({"x": [None, 8], "z": [None, 8, 4]}, "input_shape of 'z': axis 2 is 5 in the model, float32 [rows, seq, 5], got 4"),
        ({"x": [None, 8], "z": [None, 9, 5]},
         "input_shape of 'z': the model calls this dimension 'seq', which is 8 elsewhere, got 9"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(given, message):
    with pytest.raises(InputError) as caught:
        plan(SEQUENCES, input_shape=given)
    assert message in str(caught.value)


# --- what the compiler gets ---


def test_the_source_is_a_copy():
    model = parse(SCALE)
    job = plan(model)
    source = job.source()
    assert source == model
    source.graph.ClearField("node")
    assert job.source() == model == parse(SCALE)


def test_the_source_is_freed():
    job = plan(FIXED, [1, 8])
    assert job.source().graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"
    assert plan(FIXED, [4]).source() == parse(FIXED)


def test_a_batch_that_cannot_be_changed_is_refused():
    job = plan("g (float[4, 3] x) => (float[4, 3] y) { y = Softmax<axis = 0>(x) }", [1, 8])
    with pytest.raises(
        ModelError, match=r"^the model cannot be compiled for batch sizes \[1, 8\]: .*rows influence one another"
    ):
        job.source()


# --- compiling ---


@pytest.fixture
def compile_(tmp_path, monkeypatch):
    """Compile a model into a cache of the test's own, as FILES whose content says how many were built before."""
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path / "cache"))
    built = []

    def build(path):
        path.write_bytes(FILES.magic + bytes([len(built)]))
        built.append(path)

    def call(model=SCALE, batch_sizes=(4,), *, depends_on=(), advice=(), output=None, build=build, **options):
        job = plan(model, batch_sizes, **options)
        return job.compile(build, backend="toy", depends_on=dict(depends_on), advice=advice, output=output)

    call.built = built
    return call


def test_compiled_once_and_kept(compile_, tmp_path):
    first = compile_()
    again = compile_()
    assert (first.cached, again.cached, len(compile_.built)) == (False, True, 1)
    assert again == replace(first, cached=True)
    assert first.path.parent == tmp_path / "cache" / "toy"
    assert first.path.read_bytes() == b"BIN!\0"
    assert (first.batch_sizes, first.advice, first.temporary) == ((4,), (), False)
    assert [str(tensor) for tensor in first.spec.inputs] == ["float32 [rows, 3]"]


@pytest.mark.parametrize(
    "given",
    [
        {"model": SCALE.replace("{2}", "{3}")},
        {"batch_sizes": (5,)},
        {"rows_per_row": {"x": 2, "y": 2}},
        {"batch_axis": {"y": None}},
        {"depends_on": {"level": 3}},
        {"depends_on": {"level": {4, 5}}},  # no JSON
        {"cache_dir": "elsewhere"},
    ],
    ids=str,
)
def test_whatever_matters_is_compiled_anew(compile_, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    compile_()
    assert not compile_(**given).cached
    assert compile_(**given).cached
    assert compile_().cached


def test_external_data_matters(compile_, tmp_path):
    model = parse(FIXED)
    weights = model.graph.initializer[0]
    weights.raw_data = np.arange(6, dtype=np.float32).tobytes()
    del weights.float_data[:]
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    compile_(path)
    assert compile_(path).cached
    (tmp_path / "w.bin").write_bytes(np.zeros(6, np.float32).tobytes())
    assert not compile_(path).cached


def test_advice_is_returned_and_logged(compile_, caplog):
    caplog.set_level(logging.INFO, logger="anybatch")
    for cached in (False, True):
        compiled = compile_(advice=["100% this", "that"])
        assert (compiled.cached, compiled.advice) == (cached, ("100% this", "that"))
    assert [record.getMessage() for record in caplog.records] == ["100% this", "that"] * 2


def test_a_failed_compilation_leaves_nothing(compile_, tmp_path):
    def fail(path):
        path.write_bytes(b"half")
        raise ModelError("on purpose")

    with pytest.raises(ModelError, match="on purpose"):
        compile_(build=fail, output=tmp_path / "mine.bin")
    assert [path.suffix for path in (tmp_path / "cache" / "toy").iterdir()] == [".lock"]
    assert not list(tmp_path.glob("*.bin*"))


def test_output_is_a_copy_in_its_place(compile_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "mine.bin"
    output.write_text("old")
    compiled = compile_(output=Path("mine.bin"))
    assert (compiled.path, compiled.cached) == (output, False)
    assert output.read_bytes() == b"BIN!\0"
    assert compile_(output=tmp_path / "again.bin").cached
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.bin", "cache", "mine.bin"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", "expected a file that ends in .bin"),
        ("nowhere/model.bin", "there is no folder"),
        ("folder.bin", "is a folder"),
    ],
)
def test_output_that_cannot_be(compile_, tmp_path, name, message):
    (tmp_path / "folder.bin").mkdir()
    with pytest.raises(InputError, match=message):
        compile_(output=tmp_path / name)
    assert compile_.built == []


def test_output_that_cannot_be_written(compile_, tmp_path, monkeypatch):
    def full(_, part):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(InputError, match=r"mine.bin' cannot be written: No space left on device"):
        compile_(output=tmp_path / "mine.bin")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"mine.bin': the folder cannot be written"):
        compile_(output=tmp_path / "mine.bin")
    assert not list(tmp_path.glob("*.bin*"))


def test_a_cache_that_cannot_be_written(compile_, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "file").write_text("in the way")
    cache = str(tmp_path / "file" / "x")
    with pytest.warns(RuntimeWarning, match="compiled into a temporary file"):
        compiled = compile_(cache_dir=cache)
    assert compiled.temporary
    assert compiled.path.read_bytes() == b"BIN!\0"
    compiled.path.unlink()
    with pytest.warns(RuntimeWarning, match="compiled into a temporary file"):
        compiled = compile_(cache_dir=cache, output=tmp_path / "mine.bin")
    assert (compiled.path, compiled.temporary) == (tmp_path / "mine.bin", False)
    assert list((tmp_path / "temporary").iterdir()) == []


# --- a compiled model, opened ---


class Opened:
    closed = False

    def __init__(self, batching):
        self.batching = batching

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("batching", "wanted"),
    [(Gears((1, 4)), [1, 4]), (Gears((1, 4)), None), (MultipleOf(4), [4]), (MultipleOf(4), None), (AnyBatch(), [7])],
    ids=str,
)
def test_a_compiled_model_that_has_the_batch_sizes(batching, wanted):
    session = Opened(batching)
    check_compiled_for(session, wanted, backend="toy")
    assert not session.closed


@pytest.mark.parametrize(("batching", "listed"), [(Gears((1, 4)), "[1, 4]"), (MultipleOf(4), "[4]")], ids=str)
def test_a_compiled_model_that_has_others_is_closed(batching, listed):
    session = Opened(batching)
    with pytest.raises(ModelError) as caught:
        check_compiled_for(session, [1], backend="toy")
    assert str(caught.value) == (
        f"toy: expected a model compiled for the batch sizes [1], this one has {listed}; "
        "leave batch_sizes out, or open the .onnx it was made of, which compiles it anew"
    )
    assert session.closed
