"""The spellings of every PopRT version, options, and errors; on small fakes that have one spelling each."""

import datetime
import gc
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import pytest

import anybatch
from anybatch import BackendUnavailableError, DeviceError, InputError, ModelError
from anybatch_ipu import IpuBackend
from anybatch_ipu.backend import _SESSION_OPTIONS
from anybatch_ipu.compile import COMPILE_OPTIONS, DEFAULT_BATCH_SIZE, CompileOptions
from anybatch_ipu.errors import RULES, PoprtError, error_for
from ipu_fakes import DOUBLE, VERSIONS, FakePoprt, parse


def open_on(fake, model=DOUBLE, *, device=0, batch_sizes=(4,), **options):
    backend = IpuBackend(poprt=lambda: fake)
    proto = parse(model) if isinstance(model, str) else model
    return anybatch.open(proto, backend=backend, device=device, batch_sizes=batch_sizes, **options)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path / "cache"))
    return FakePoprt()


def popef_of(fake, path, model=DOUBLE, batch=4, **options):
    backend = IpuBackend(poprt=lambda: fake)
    anybatch.compile(parse(model), backend=backend, batch_sizes=[batch], output=path, **options)
    return path


# --- every version ---


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_runs(version, asynchronous, tmp_path, monkeypatch):
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path))
    fake = FakePoprt(version)
    x = np.arange(21, dtype=np.float32).reshape(7, 3)
    with open_on(fake, timeout_ns=1_500, execute_async=asynchronous) as runner:
        assert str(runner.spec.inputs[0]) == "float32 [rows, 3]"
        assert [tensor.name for tensor in runner.spec.inputs] == ["x"], "weights that are loaded from the file are no inputs"
        np.testing.assert_array_equal(runner.run({"x": x})["y"], 2 * x)
    assert fake.calls.count("execute") == 1, "one call per request"
    assert fake.calls.count("wait") == asynchronous
    (config,) = fake.configs
    assert config.batching_dim == 0
    # A timedelta has no less than microseconds, and waiting less than was asked for would be another promise.
    expected = 1_500 if version >= "1.2" else datetime.timedelta(microseconds=2)
    assert config.timeout_ns == expected
    del config
    fake.configs.clear()
    assert fake.alive == 0


@pytest.mark.parametrize(("ns", "us"), [(1, 1), (1_000, 1), (1_001, 2), (300_000, 300), (10_000_000, 10_000)])
def test_a_timeout_is_rounded_up_to_what_a_timedelta_can_say(ns, us, tmp_path, monkeypatch):
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path))
    fake = FakePoprt("1.1.0")
    with open_on(fake, timeout_ns=ns):
        assert fake.configs[0].timeout_ns == datetime.timedelta(microseconds=us)


def test_a_package_without_a_part_is_refused(fake):
    del fake.runtime.Runner
    with pytest.raises(BackendUnavailableError, match=r"PopRT 1.5.0 has no poprt.runtime.Runner: install one of the versions"):
        open_on(fake)
    del fake.runtime
    with pytest.raises(BackendUnavailableError, match=r"has no poprt.runtime.DeviceManager"):
        open_on(fake, ipu_version="ipu2")


def test_modules_of_a_package_are_imported(tmp_path, monkeypatch, fake):
    package = tmp_path / "poprt_for_this_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "runtime.py").write_text("class DeviceManager:\n    def get_num_devices(self):\n        return 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    backend = IpuBackend(poprt=lambda: importlib.import_module("poprt_for_this_test"))
    path = popef_of(fake, tmp_path / "m.popef")
    with pytest.raises(BackendUnavailableError, match="PopRT sees no IPU: `gc-info -l` lists them"):
        anybatch.open(path, backend=backend)
    with pytest.raises(BackendUnavailableError, match=r"PopRT unknown has no poprt.converter.Converter"):
        anybatch.open(parse(DOUBLE), backend=backend, ipu_version="ipu2")


# --- who pads ---


def test_one_program_has_one_batch_size():
    assert anybatch.gear_limits(IpuBackend()) == (1, 1)


def test_poprt_pads_by_default(fake):
    with open_on(fake) as runner:
        assert runner.batching == anybatch.MultipleOf(4)
        assert runner.concurrency == 8
        assert [str(launch.gear) for launch in runner.plan(7).launches] == ["8"]
        runner.run({"x": np.ones((7, 3), np.float32)})
        assert runner.stats().padded_rows == 1
    assert fake.configs[0].timeout_ns == 300_000


def test_the_core_pads_where_it_is_asked_to(fake):
    with open_on(fake, pad_by="host") as runner:
        assert runner.batching == anybatch.Gears((4,))
        assert runner.concurrency == 16
        x = np.ones((7, 3), np.float32)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], 2 * x)
    assert fake.configs[0].batching_dim == 0xFFFFFFFF
    assert fake.calls.count("execute") == 2


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "g (float[rows, 3] x, float[3, 4] t) => (float[rows, 4] y) { y = MatMul(x, t) }",
            "'t' has no rows, and PopRT takes every tensor as batched",
        ),
        (
            "g (float[rows, 3] x) => (float[3, rows] y) { y = Transpose(x) }",
            "rows are on axis 0 of 'x' and on axis 1 of 'y', and PopRT batches one axis of all",
        ),
        (
            'g (float["3*rows", 2] x, float[rows, 2] z) => (float[rows, 2] y) { y = Neg(z) }',
            "a row is 3 entries of 'x' and 1 of 'z', and PopRT knows one batch size for all",
        ),
        (
            "g (float[3, rows] x) => (float[3, rows] y) { y = Neg(x) }",
            "rows are on axis 1, and PopRT is only known to batch axis 0",
        ),
    ],
)
def test_the_core_pads_where_poprt_cannot(fake, caplog, model, reason):
    with caplog.at_level("INFO", "anybatch_ipu"):
        session = open_session_of(fake, model)
    assert session.batching == anybatch.Gears((4,))
    assert reason in caplog.text
    session.close()
    if "axis 1, and" in reason:  # possible, if asked for: it is the vendor's own word that the axis can be any
        session = open_session_of(fake, model, pad_by="runtime")
        assert session.batching == anybatch.MultipleOf(4)
        assert fake.configs[-1].batching_dim == 1
        session.close()
    else:
        with pytest.raises(ModelError) as caught:
            open_session_of(fake, model, pad_by="runtime")
        assert f"PopRT cannot pad for this model: {reason}; use pad_by='host'" in str(caught.value)
    fake.configs.clear()
    assert fake.alive == 0


def open_session_of(fake, model, **options):
    """Open a model whose shapes the fake converter, which knows only rows that come first, need not fix."""
    backend = IpuBackend(poprt=lambda: fake)
    proto = parse(model.replace("3*rows", "12").replace('"12"', "12").replace("rows", "4"))
    told = {}
    if "3*rows" in model:
        told = {"rows_per_row": {"x": 3}}
    elif "Transpose" in model:
        told = {"batch_axis": {"y": 1}}
    elif "[3, rows] x" in model:
        told = {"batch_axis": {"x": 1, "y": 1}}
    elif " t)" in model:
        told = {"batch_axis": {"t": None}}
    return backend.open(proto, device=0, batch_sizes=None, options={**told, **options})


def test_a_popef_is_loaded_again_where_the_likely_way_to_pad_was_wrong(fake, tmp_path):
    model = "g (float[4, 3] x, float[3, 4] t) => (float[4, 4] y) { y = MatMul(x, t) }"
    path = popef_of(fake, tmp_path / "m.popef", model, batch_axis={"t": None})
    backend = IpuBackend(poprt=lambda: fake)
    with anybatch.open(path, backend=backend, batch_axis={"t": None}, safety="off") as runner:
        assert runner.batching == anybatch.Gears((4,))
    assert [config.batching_dim for config in fake.configs] == [0, 0xFFFFFFFF]
    assert fake.most_alive == 1, "an IPU holds one model: the first is gone before the second comes"
    fake.configs.clear()
    assert fake.alive == 0


def test_in_flight(fake):
    with open_on(fake, batch_sizes=[1]) as runner:
        assert runner.concurrency == 8
    with open_on(fake, pad_by="host") as runner:
        assert runner.concurrency == 16
    with open_on(fake, in_flight=1) as runner:
        assert runner.concurrency == 1
    with open_on(fake, batch_sizes=[16]) as runner:
        assert runner.concurrency == 32
    with open_on(fake, batch_sizes=[100]) as runner:
        assert runner.concurrency == 64
    with open_on(fake, in_flight=3, pad_by="host") as runner:
        assert runner.concurrency == 3


# --- options ---


def test_every_option_has_a_line_of_documentation():
    for module, names in (("anybatch_ipu.backend", _SESSION_OPTIONS), ("anybatch_ipu.compile", COMPILE_OPTIONS)):
        documentation = sys.modules[module].__doc__
        assert all(name in documentation for name in names), module
    assert set(COMPILE_OPTIONS) == set(CompileOptions.__dataclass_fields__) - {"common"} | set(anybatch.COMMON_OPTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pad_by": "core"}, "expected pad_by to be 'runtime' or 'host', got 'core'"),
        ({"timeout_ns": 0}, "expected timeout_ns above 0: to PopRT 0 means to wait for ever"),
        ({"timeout_ns": -1}, "expected timeout_ns to be an int of nanoseconds above 0 and below 2**63, got -1"),
        ({"timeout_ns": 2**63}, "above 0 and below 2**63, got 9223372036854775808"),
        ({"timeout_ns": 0.3}, "expected timeout_ns to be an int of nanoseconds above 0 and below 2**63, got 0.3"),
        ({"timeout_ns": True}, "expected timeout_ns to be an int of nanoseconds above 0 and below 2**63, got True"),
        ({"in_flight": 0}, "expected in_flight to be an int of at least 1, got 0"),
        ({"in_flight": True}, "expected in_flight to be an int of at least 1, got True"),
        ({"in_flight": "4"}, "expected in_flight to be an int of at least 1, got '4'"),
        ({"execute_async": 1}, "expected execute_async to be True or False, got 1"),
        ({"runtime_options": {"timeout_ns": 5}}, "runtime_options: 'timeout_ns' is not for there: use the option timeout_ns"),
        ({"runtime_options": {"batching_dim": 0}}, "use the options pad_by and batch_axis"),
        ({"runtime_options": {"replica_id_to_device": {}}}, "'replica_id_to_device' is not for there: use device"),
        ({"runtime_options": [1]}, "expected runtime_options to map names to values, got [1]"),
        (
            {"runtime_options": {"ring_bufer": 1}},
            "ipu: runtime_options names 'ring_bufer', which RuntimeConfig of PopRT 1.5.0 has not; it has ['batching_dim', ",
        ),
        ({"precision": "int4"}, "expected precision to be one of ['fp32', 'fp16', 'fp8', 'fp8_weight'], got 'int4'"),
        ({"ipu_version": 21}, "expected ipu_version to name the hardware to compile for, got 21: 'ipu21' for C600 cards"),
        ({"converter_options": {"batch_size": 4}}, "converter_options: 'batch_size' is not for there: use batch_sizes"),
        (
            {"converter_options": {"used_pases": []}},
            "the converter of PopRT 1.5.0 has no option 'used_pases', only ['batch_size', ",
        ),
        ({"compiler_options": {"ipu_version": "ipu2"}}, "compiler_options: 'ipu_version' is not for there: use the option"),
        (
            {"compiler_options": {"num_iotiles": 4}},
            "ipu: compiler_options names 'num_iotiles', which CompilerOptions of PopRT 1.5.0 has not; it has ['batches_",
        ),
        ({"batch_axis": {"x": "0"}}, "expected batch_axis to map tensor names to axes"),
        ({"batch_sizes": [1, 4]}, "an IPU holds one program, of one batch size, got [1, 4]; any number of rows runs on any"),
        ({"device": 2}, "expected device to be below 2, the number of IPUs, got 2"),
    ],
)
def test_options_that_do_not_fit(fake, given, message):
    with pytest.raises(InputError) as caught:
        open_on(fake, **given)
    assert message in str(caught.value)
    del caught
    fake.configs.clear()
    assert fake.alive == 0


def test_options_are_passed_on(fake):
    with open_on(
        fake,
        precision="fp16",
        converter_options={"used_passes": ["gelu_pattern"]},
        compiler_options={"num_io_tiles": 32, "batches_per_step": 16},
        runtime_options={"validate_io_params": False},
    ):
        pass
    assert fake.converters == [{"input_shape": {"x": [4, 3]}, "precision": "fp16", "used_passes": ["gelu_pattern"]}]
    assert fake.options == [
        {"ipu_version": "ipu21", "batches_per_step": 16, "num_io_tiles": 32, "show_compilation_progress_bar": False}
    ]
    assert fake.configs[0].validate_io_params is False


@pytest.mark.parametrize(
    ("precision", "computed"),
    [("fp32", "float32"), ("fp16", "float16"), ("fp8", "float8_e4m3fnuz"), ("fp8_weight", "float8_e4m3fnuz")],
)
def test_the_precision_it_says_is_the_one_it_was_compiled_with(fake, precision, computed):
    with open_on(fake, precision=precision) as runner:
        assert runner.precision == computed
        assert runner.memory_bytes is None


def test_what_options_leave_is_the_models_own():
    kept = CompileOptions("ipu21")
    assert [kept.precision_of(own) for own in ("float16", "int8", "")] == ["float16", "int8", ""]
    assert CompileOptions("ipu21", precision="fp16").precision_of("int8") == "int8"


def test_a_converter_that_takes_any_option_is_given_any(fake):
    class Converter(fake.converter.Converter):
        def __init__(self, **options):
            given.update(options)
            super().__init__(input_shape=options["input_shape"], disable_progress_bar=True)

    given = {}
    fake.converter.Converter = Converter
    with open_on(fake, converter_options={"of_a_later_version": 1}):
        assert given["of_a_later_version"] == 1
    assert "disable_progress_bar" not in given, "nothing says that it is known"


def test_a_value_that_poprt_refuses(fake):
    class Options(fake.compiler.CompilerOptions):
        __slots__ = ()

        def __setattr__(self, name, value):
            if not isinstance(value, (int, str)):
                raise TypeError("incompatible function arguments")
            super().__setattr__(name, value)

    fake.compiler.CompilerOptions = Options
    with pytest.raises(InputError, match=r"compiler_options\['num_io_tiles'\] cannot be None: incompatible"):
        open_on(fake, compiler_options={"num_io_tiles": None})


# --- devices ---


def test_a_device_is_pinned_where_poprt_can(fake):
    with open_on(fake, device=1):
        assert fake.configs[0].replica_id_to_device[0].index == 1
    fake.configs.clear()
    gc.collect()
    assert (fake.alive, fake.held) == (0, 0)
    fake.calls.clear()
    with open_on(fake):
        assert "get_specific_device" not in fake.calls, "device 0 is PopRT's own choice"


def test_a_device_is_refused_where_poprt_cannot_be_told(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"PopRT 1.2.0 takes the next free IPU and cannot be told another .1.3 and later can."):
        open_on(FakePoprt("1.2.0"), device=1)


def test_a_pinned_device_is_free_again_after_a_failed_open(fake):
    fake.failing["Runner"] = RuntimeError("something")
    with pytest.raises(ModelError) as caught:
        open_on(fake, device=1)
    assert caught.value is not None, "the error is alive, and its frames with it"
    assert (fake.alive, fake.held) == (0, 0)


def test_no_device_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(tmp_path))
    fake = FakePoprt(devices=0)
    with pytest.raises(InputError, match=r"since PopRT does not tell .no device found.: 'ipu21' for C600") as caught:
        open_on(fake)
    assert isinstance(caught.value.__cause__, PoprtError)
    with pytest.raises(BackendUnavailableError, match="PopRT sees no IPU"):
        open_on(fake, ipu_version="ipu2")
    assert anybatch.compile(
        parse(DOUBLE), backend=IpuBackend(poprt=lambda: fake), batch_sizes=[4], ipu_version="ipu2"
    ).cached, "compiling needs no IPU"


# --- compiling ---


def test_compiled_once_and_kept(fake, tmp_path):
    backend = IpuBackend(poprt=lambda: fake)
    said = []
    first = anybatch.compile(parse(DOUBLE), backend=backend, batch_sizes=[4], progress=said.append)
    assert (first.cached, first.batch_sizes, first.path.suffix) == (False, (4,), ".popef")
    assert said == ["converting with PopRT 1.5.0, batch size 4, fp32", "compiling for ipu21"]
    assert anybatch.compile(parse(DOUBLE), backend=backend, batch_sizes=[4]).cached
    for other in (
        {"batch_sizes": [5]},
        {"precision": "fp16"},
        {"ipu_version": "ipu2"},
        {"compiler_options": {"num_io_tiles": 1}},
    ):
        assert not anybatch.compile(parse(DOUBLE), backend=backend, **{"batch_sizes": [4], **other}).cached, other
    fake.__version__ = "1.5.1"
    assert not anybatch.compile(parse(DOUBLE), backend=backend, batch_sizes=[4]).cached


def test_the_default_batch_size(fake):
    backend = IpuBackend(poprt=lambda: fake)
    assert anybatch.compile(parse(DOUBLE), backend=backend).batch_sizes == (DEFAULT_BATCH_SIZE,)
    assert anybatch.compile(parse(DOUBLE.replace("rows", "6")), backend=backend).batch_sizes == (6,)
    assert "input_shape" not in fake.converters[-1] or fake.converters[-1]["input_shape"] is None


def test_a_baked_batch_is_freed(fake):
    compiled = anybatch.compile(parse(DOUBLE.replace("rows", "6")), backend=IpuBackend(poprt=lambda: fake), batch_sizes=[4])
    assert compiled.batch_sizes == (4,)
    assert fake.converters[-1]["input_shape"] == {"x": [4, 3]}


def test_free_dimensions_get_their_sizes(fake):
    model = "g (float[batch, seq] x, float[batch, seq, 5] z) => (float[batch, seq] y) { y = Neg(x) }"
    backend = IpuBackend(poprt=lambda: fake)
    compiled = anybatch.compile(parse(model), backend=backend, batch_sizes=[4], input_shape={"x": [None, 8]})
    assert fake.converters[-1]["input_shape"] == {"x": [4, 8], "z": [4, 8, 5]}
    assert [str(tensor) for tensor in (*compiled.spec.inputs, *compiled.spec.outputs)] == [
        "float32 [rows, 8]", "float32 [rows, 8, 5]", "float32 [rows, 8]"
    ]  # fmt: skip


def test_advice(fake):
    backend = IpuBackend(poprt=lambda: fake)
    model = "g (int64[rows] n, float[rows] x) => (float[rows] y) { y = Neg(x) }"
    (about_int,) = anybatch.compile(parse(model), backend=backend).advice
    assert "makes int64 inputs int32, since IPUs have no int64: send int32 for ['n']" in about_int
    _, about_half = anybatch.compile(parse(model), backend=backend, precision="fp16").advice
    assert "inputs and outputs are float16 as well: ['x', 'y']" in about_half


def test_weights_beside_the_model(fake, tmp_path):
    proto = parse("g (float[rows, 3] x) => (float[rows, 3] y) <float[3] w = {1, 2, 3}> { y = Mul(x, w) }")
    w = proto.graph.initializer[0]
    w.raw_data = np.array([1, 2, 3], np.float32).tobytes()
    del w.float_data[:]
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    compiled = anybatch.compile(path, backend=IpuBackend(poprt=lambda: fake), batch_sizes=[4])
    assert compiled.path.is_file()
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"w.bin"):
        anybatch.compile(path, backend=IpuBackend(poprt=lambda: fake), batch_sizes=[4])


def test_what_could_not_be_kept_is_deleted_once_it_is_open(fake, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="compiled into a temporary file"):
        runner = open_on(fake, cache_dir=str(tmp_path / "file" / "x"))
    with runner:
        assert list((tmp_path / "temporary").iterdir()) == []
        np.testing.assert_array_equal(runner.run({"x": np.ones((4, 3), np.float32)})["y"], np.full((4, 3), 2))
    fake.failing["Runner"] = RuntimeError("broken on purpose")
    with (
        pytest.warns(RuntimeWarning, match="compiled into a temporary file"),
        pytest.raises(ModelError, match="broken on purpose"),
    ):
        open_on(fake, cache_dir=str(tmp_path / "file" / "x"))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_compiler_that_leaves_nothing(fake):
    fake.failing["no file"] = None
    with pytest.raises(ModelError, match=r"PopRT 1.5.0 says it compiled the model, but left no file"):
        open_on(fake)


# --- compiled models ---


def test_a_popef_is_opened_as_it_is(fake, tmp_path):
    path = popef_of(fake, tmp_path / "m.popef")
    backend = IpuBackend(poprt=lambda: fake)
    x = np.ones((5, 3), np.float32)
    for model in (path, path.read_bytes()):
        with anybatch.open(model, backend=backend, safety="off") as runner:
            assert runner.batching == anybatch.MultipleOf(4)
            np.testing.assert_array_equal(runner.run({"x": x})["y"], 2 * x)
        with pytest.raises(ModelError, match=r"compiled for the batch sizes \[8\], this one has \[4\]; leave batch_sizes out"):
            anybatch.open(model, backend=backend, batch_sizes=[8])
    with pytest.raises(InputError, match=r"option 'precision' is for compiling, and this .popef is compiled already"):
        anybatch.open(path, backend=backend, precision="fp16")
    with pytest.raises(ModelError, match=r"no ONNX model.*; if they are a compiled one, leave out 'precision'"):
        anybatch.open(path.read_bytes(), backend=backend, precision="fp16")
    with pytest.raises(ModelError, match="is compiled already: open it as it is"):
        anybatch.compile(path, backend=backend)
    fake.configs.clear()
    assert fake.alive == 0


def test_bytes_that_are_nothing(fake):
    for content in (b"", b"this is no model"):
        with pytest.raises(ModelError, match=r"the bytes are no ONNX model.*; and taken for a compiled one: .*wrong magic"):
            anybatch.open(content, backend=IpuBackend(poprt=lambda: fake))


def test_fused_models_are_refused(fake, tmp_path):
    path = popef_of(fake, tmp_path / "m.popef")
    path.write_text(path.read_text().replace('"x"', '"graph0/x"'))
    with pytest.raises(ModelError, match=r"holds several fused models, with inputs \['graph0/x'\]: compile the one to run"):
        anybatch.open(path, backend=IpuBackend(poprt=lambda: fake))
    fake.configs.clear()
    assert fake.alive == 0


def test_tensors_that_the_converter_renamed(fake, monkeypatch):
    def convert(self, model):
        converted = self._convert(model)
        converted.graph.input[0].name = converted.graph.node[0].input[0] = "z"
        return converted

    monkeypatch.setattr(fake.converter.Converter, "convert", convert)
    with pytest.raises(ModelError, match=r"the model has \['x'\], but PopRT compiled it into one with \['z'\]"):
        open_on(fake)


# --- what is missing ---


def test_without_poprt(monkeypatch):
    monkeypatch.setitem(sys.modules, "poprt", None)
    backend = IpuBackend()
    wheel = r"poprt-<version>-cp38-cp38-linux_x86_64.whl, so the published ones are for CPython 3.8 .*; this is Python 3"
    with pytest.raises(BackendUnavailableError, match=f"ipu: import poprt failed .*{wheel}"):
        anybatch.open(parse(DOUBLE), backend=backend)
    monkeypatch.delitem(sys.modules, "poprt")
    with pytest.raises(BackendUnavailableError, match=f"ipu: the Python package poprt is missing; .*{wheel}"):
        backend.check_usable()


def test_listing_imports_neither_onnx_nor_an_sdk():
    program = "import anybatch_ipu, poprt_sim.anybatch_backend, sys; print([n for n in sys.argv[1:] if n in sys.modules])"
    names = ["onnx", "onnxruntime", "poprt", "anybatch_ipu"]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True)
    assert done.stdout == "['anybatch_ipu']\n"


def test_the_installed_poprt_is_used(fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "poprt", fake)
    with anybatch.open(parse(DOUBLE), backend=IpuBackend(), batch_sizes=[4]):
        assert fake.alive == 1


def test_usable_is_looked_at_without_importing(monkeypatch, tmp_path):
    (tmp_path / "poprt").mkdir()
    (tmp_path / "poprt" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("IPUOF_VIPU_API_PARTITION_ID", "IPUOF_CONFIG_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BackendUnavailableError, match=r"there is no /dev/ipu\*, and neither IPUOF_VIPU_API_PARTITION_ID"):
        IpuBackend().check_usable()
    monkeypatch.setenv("IPUOF_VIPU_API_PARTITION_ID", "p0")
    assert IpuBackend().check_usable() == "PopRT, IPU partition p0"
    assert IpuBackend(runtime=lambda: "a stand-in").check_usable() == "a stand-in"
    devices = tmp_path / "dev"
    devices.mkdir()
    monkeypatch.setattr("anybatch_ipu.backend.Path", {"/dev": devices}.__getitem__)
    for name in ("ipu", "ipux", "ipu0"):
        (devices / name).touch()
    assert IpuBackend().check_usable() == "PopRT, 1 IPU device"
    (devices / "ipu12").touch()
    assert IpuBackend().check_usable() == "PopRT, 2 IPU devices"


# --- errors ---


@pytest.mark.parametrize(
    ("function", "text", "expected", "kind", "advice"),
    [
        ("compiler.Compiler.compile_and_export", "Out of memory on tile 12: 345678 bytes used but tiles only have 638976 bytes",
         ModelError, "out of memory", "use a smaller batch size"),
        ("runtime.Runner", "out of memory", ModelError, "out of memory", "use a smaller batch size"),
        ("runtime.Runner.execute", "out of memory", DeviceError, "out of memory", "use a smaller batch size"),
        ("runtime.Runner", "Package hash mismatch: compiled with another Poplar", ModelError, "wrong hardware", "ipu_version="),
        ("runtime.Runner", "the executable was compiled for ipu2, the device is ipu21", ModelError, "wrong hardware", "'ipu2'"),
        ("runtime.Runner", "Failed to acquire device", BackendUnavailableError, "no device", "`gc-monitor` shows"),
        ("runtime.Runner", "No available devices with 1 IPUs", BackendUnavailableError, "no device", "close the runner"),
        ("runtime.DeviceManager.get_specific_device", "Could not attach to device 3", BackendUnavailableError, "no device", ""),
        ("runtime.Runner.execute", "Timeout waiting for inputs", DeviceError, "timeout", "timeout_ns"),
        ("runtime.Runner.execute", "application runtime error: tile exception", DeviceError, "application error", "auto_reset"),
        ("runtime.Runner.execute", "Recoverable error, action IPU_RESET", DeviceError, "reset", "'auto_reset': True"),
        ("runtime.Runner.execute", "the IPU has to be reset", DeviceError, "reset", "`gc-reset` it"),
        ("runtime.Runner", "Cannot read popef file", ModelError, "bad model", ""),
        ("converter.Converter.convert", "anything", ModelError, "other", ""),
        ("runtime.Runner.execute", "anything", DeviceError, "other", ""),
        ("runtime.Runner.execute", "", DeviceError, "other", "RuntimeError"),
    ],
)  # fmt: skip
def test_errors_by_text_and_by_call(function, text, expected, kind, advice):
    error = error_for("ipu", f"poprt.{function}", RuntimeError(text))
    assert isinstance(error, expected)
    assert isinstance(error, PoprtError)
    assert (error.kind, error.function, error.detail) == (kind, f"poprt.{function}", text or "RuntimeError")
    assert text in str(error)
    assert advice in str(error)
    advised = next((rule.advice for rule in RULES if rule.kind == kind), "")
    assert (f"{error.detail}; " in str(error)) == bool(advised)
    assert function in str(error)
    if isinstance(error, DeviceError):
        assert error.operation == f"poprt.{function}"
    if "tile 12" in text:
        assert (error.tile, error.size_bytes) == (12, 345678)
    else:
        assert (error.tile, error.size_bytes) == (None, None)


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_values_that_poprt_refuses_while_compiling_are_the_callers(kind):
    error = error_for("ipu", "poprt.converter.Converter", kind("Converter has no argument 'x'"))
    assert isinstance(error, InputError)
    assert error.kind == "bad request"
    assert isinstance(error_for("ipu", "poprt.runtime.Runner.execute", kind("no")), DeviceError)


def test_every_kind_of_error_was_tried():
    tried = {mark.args[1][i][3] for mark in test_errors_by_text_and_by_call.pytestmark for i in range(len(mark.args[1]))}
    assert {rule.kind for rule in RULES} <= tried


def test_a_request_that_poprt_refuses(fake):
    with open_on(fake) as runner:
        fake.failing["execute"] = TypeError("incompatible function arguments")
        with pytest.raises(DeviceError) as caught:
            runner.run({"x": np.ones((4, 3), np.float32)})
        assert caught.value.kind == "bad request"
        assert isinstance(caught.value.__cause__, TypeError)
        fake.failing.clear()
        runner.run({"x": np.ones((4, 3), np.float32)})


CALLS = {
    "DeviceManager": "runtime.DeviceManager",
    "get_num_devices": "runtime.DeviceManager.get_num_devices",
    "get_specific_device": "runtime.DeviceManager.get_specific_device",
    "Converter": "converter.Converter",
    "convert": "converter.Converter.convert",
    "compile_and_export": "compiler.Compiler.compile_and_export",
    "RuntimeConfig": "runtime.RuntimeConfig",
    "Runner": "runtime.Runner",
    "inputs": "runtime.Runner.get_execute_inputs",
    "outputs": "runtime.Runner.get_execute_outputs",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_failed_open_names_the_call_and_leaves_nothing(fake, name):
    fake.failing[name] = RuntimeError("broken on purpose")
    with pytest.raises(anybatch.AnybatchError, match="broken on purpose") as caught:
        open_on(fake, device=1, ipu_version="ipu21")
    assert isinstance(caught.value, PoprtError)
    assert caught.value.function == f"poprt.{CALLS[name]}"
    fake.configs.clear()
    assert (fake.alive, fake.held) == (0, 0), "although the error, and so its frames, are still there"


@pytest.mark.parametrize(
    ("name", "function"),
    [("DeviceManager", "DeviceManager"), ("ipu_hardware_version", "DeviceManager.ipu_hardware_version")],
)
def test_hardware_that_does_not_say_what_it_is_names_the_call(fake, name, function):
    fake.failing[name] = RuntimeError("broken on purpose")
    with pytest.raises(InputError, match=r"ipu_version to name the hardware .* does not tell \(broken on purpose\)") as caught:
        open_on(fake)
    assert caught.value.__cause__.function == f"poprt.runtime.{function}"


@pytest.mark.parametrize(
    ("name", "asynchronous", "function"),
    [("execute", False, "execute"), ("execute_async", True, "execute_async"), ("wait", True, "execute_async.wait")],
)
def test_an_error_names_the_call_and_does_not_keep_the_device(fake, name, asynchronous, function):
    runner = open_on(fake, execute_async=asynchronous)
    fake.failing[name] = RuntimeError("broken on purpose")
    with pytest.raises(DeviceError, match="broken on purpose") as caught:
        runner.run({"x": np.ones((4, 3), np.float32)})
    runner.close()
    fake.configs.clear()
    assert caught.value.operation == caught.value.function == f"poprt.runtime.Runner.{function}"
    assert fake.alive == 0
