"""Sessions and backends (a model compiled, loaded and run in one object), frontends, and what is refused beside them."""

import io

import numpy as np
import onnx
import pytest

from poprt_models import F16, dense, dense_reference
from poprt_sim import testing
from poprt_sim._argparse import PopHelpFormatter, argparse
from poprt_sim._popef import read_popef
from poprt_sim._unsimulated import NotSimulated
from poprt_sim.backend import get_session
from poprt_sim.backends import Backend, ORTBackend
from poprt_sim.compiler import CompilerOptions
from poprt_sim.converter import Converter
from poprt_sim.frontend import OnnxFrontend, get_frontend
from poprt_sim.quantizer import FP8Quantizer, quantize

X = np.random.default_rng(5).standard_normal((4, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def fresh_machine():
    testing.reset()
    yield
    testing.assert_clean()
    testing.reset()


@pytest.mark.parametrize("backend", ["poprt", "onnxruntime"])
def test_sessions(backend):
    session = get_session(dense().SerializeToString(), 1, backend)
    with pytest.raises(RuntimeError, match=r"call load\(\) first"):
        session.run(["y"], {"x": X})
    assert session.load() is session
    inputs, outputs = session.get_io_info()
    assert (inputs, outputs) == ({"x": ([4, 6], np.float32)}, {"y": ([4, 5], np.float32)})
    (result,) = session.run(["y"], {"x": X})
    np.testing.assert_allclose(result, dense_reference(X), rtol=1e-5)
    np.testing.assert_array_equal(session.load().run(None, {"x": X})[0], result)


def test_options_of_a_session(tmp_path):
    options = CompilerOptions.from_dict({"num_io_tiles": 5})
    session = get_session(dense(), options=options, batches_per_step=7, export_popef=True, output_dir=str(tmp_path))
    assert not list(tmp_path.iterdir()), "nothing happens before load"
    session.load()
    made = read_popef(tmp_path / "executable.popef")
    assert (made.batches_per_step, made.num_io_tiles) == (7, 5)
    assert options.batches_per_step == 1, "the caller's options were changed"
    with pytest.raises(ValueError, match="expected 'poprt' or 'onnxruntime', got 'tf'"):
        get_session(dense(), backend="tf")
    model = dense()
    model.opset_import[0].version = 10_000
    newer = get_session(model, backend="onnxruntime")
    with pytest.raises(RuntimeError, match="ONNX Runtime refuses the model"):
        newer.load()


def test_a_backend(tmp_path):
    onnx.save(dense(), tmp_path / "m.onnx")
    for source in (str(tmp_path / "m.onnx"), dense().SerializeToString(), io.BytesIO(dense().SerializeToString()), dense()):
        made = Backend(source, export_popef=str(tmp_path / "m.popef"))
        np.testing.assert_allclose(made.run(["y"], {"x": X})[0], dense_reference(X), rtol=1e-5)
        assert read_popef(tmp_path / "m.popef").name == "test"
        assert made.get_io_info()[1] == {"y": ([4, 5], np.float32)}
        with pytest.raises(ValueError, match="no output 'z'; its outputs are y"):
            made.run(["z"], {"x": X})
        del made
    with pytest.raises(TypeError, match="expected a path, bytes, a stream"):
        Backend(5)
    with pytest.raises(RuntimeError, match="'nothing' cannot be read"):
        Backend("nothing")


def test_the_types_of_results():
    half = Converter(precision="fp16").convert(dense())
    made = Backend(half)
    x = X.astype(np.float16)
    assert made.run(["y"], {"x": x})[0].dtype == np.float16
    assert made.run(["y"], {"x": x}, align_output_dtype=True)[0].dtype == np.float16
    wrong = onnx.ModelProto()
    wrong.CopyFrom(dense())
    wrong.graph.output[0].type.tensor_type.elem_type = F16
    del made
    made = Backend(wrong, align_output_dtype=True)
    assert made.run(["y"], {"x": X})[0].dtype == np.float16
    del made
    assert Backend(wrong).run(["y"], {"x": X})[0].dtype == np.float32


def test_the_interface_of_onnx_runtime():
    made = ORTBackend(dense().SerializeToString(), None, ["CPUExecutionProvider"], lazy_load=True)
    assert testing.ledger().calls["compiler.Compiler.compile"] == 0
    np.testing.assert_allclose(made.run(None, {"x": X}, None)[0], dense_reference(X), rtol=1e-5)
    assert testing.ledger().calls["compiler.Compiler.compile"] == 1
    del made
    ORTBackend(dense())
    assert testing.ledger().calls["compiler.Compiler.compile"] == 2


def test_a_lazy_backend_loads_at_its_first_use():
    """Whether asked for results or for its description, and once."""
    made = ORTBackend(dense(), lazy_load=True)
    assert testing.ledger().calls["runtime.Runner"] == 0
    made.get_io_info()
    made.run(["y"], {"x": X})
    assert testing.ledger().calls["runtime.Runner"] == 1


def test_frontends(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(dense(), path)
    assert get_frontend(path).load_model() == OnnxFrontend(tmp_path).load_model() == dense()
    assert OnnxFrontend(tmp_path).get_onnx_name(tmp_path) == str(path)
    with pytest.raises(NotSimulated, match="TensorFlow models"):
        get_frontend(path, "tensorflow")
    with pytest.raises(ValueError, match="expected 'onnx', got 'paddle'"):
        get_frontend(path, "paddle")


def test_quantisation_is_refused():
    for refused in (quantize, FP8Quantizer):
        with pytest.raises(NotSimulated, match="not simulated"):
            refused(dense(), "m.onnx", "out")


def test_the_tools_private_argparse():
    parser = argparse.ArgumentParser(formatter_class=PopHelpFormatter)
    parser.add_argument("--num_ipus", type=int)
    assert "--num_ipus" in parser.format_help()
