"""Where half precision parts from single precision on the simulated card, by cut models that are compiled each time."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import anybatch
from anybatch.comparison._divergence import find_divergence
from anybatch.comparison._entries import Entry
from anybatch.comparison._results import Case, Metrics, Tolerance

pytest.importorskip("anybatch_ascend_sim")

FLOAT = TensorProto.FLOAT
SIMULATED = {"soc_version": "Ascend310P3"}
node = helper.make_node


def judge(expected, got):
    """Tolerate what half precision costs."""
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    scale = math.sqrt(np.mean(expected**2))
    with np.errstate(invalid="ignore"):
        outside = int((~(np.abs(expected - got) <= 2e-2 * np.maximum(np.abs(expected), scale))).sum())
    infinite = int((np.isinf(expected) != np.isinf(got)).sum())
    metrics = Metrics(expected.size, outside, outside, 0, infinite, 0.0, 0.0, None, None, 0, 0, None, None, None, None, ())
    return metrics, Tolerance(2e-2, 0.0, "test")


def model(*, gain):
    """Return log(sum(exp(gain * tanh(x @ w)))) @ v, and more: in half precision Exp overflows beyond 11.09."""
    random = np.random.default_rng(3)
    nodes = [
        node("MatMul", ["x", "w"], ["h"], "first"),
        node("Tanh", ["h"], ["t"], "squash"),
        node("Mul", ["t", "gain"], ["g"], "gain"),
        node("Reshape", ["g", "heads"], ["r"], "to_heads"),
        node("Exp", ["r"], ["e"], "exp"),
        node("ReduceSum", ["e", "axes"], ["s"], "sum", keepdims=1),
        node("Div", ["e", "s"], ["p"], "share"),
        node("Reshape", ["p", "flat"], ["f"], "join"),
        node("MatMul", ["f", "v"], ["y"], "last"),
    ]
    weights = {
        "w": random.standard_normal((6, 8)).astype(np.float32),
        "v": random.standard_normal((8, 3)).astype(np.float32),
        "gain": np.float32(gain),
        "heads": np.array([-1, 2, 4]),
        "flat": np.array([-1, 8]),
        "axes": np.array([2]),
    }
    values = [[helper.make_tensor_value_info(name, FLOAT, ["rows", size])] for name, size in (("x", 6), ("y", 3))]
    graph = helper.make_graph(nodes, "g", *values, [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keep the user's own cache out of this."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ANYBATCH_CACHE_DIR", str(folder))
    return folder


X = np.random.default_rng(4).standard_normal((7, 6)).astype(np.float32)


def search(proto, reference, **options):
    return find_divergence(
        proto,
        reference,
        Entry("ascend-sim", "half", batch_sizes=(1, 4), options=SIMULATED | options),
        {"x": X},
        output="y",
        case=Case("ragged", (2, 5)),
        judge=judge,
    )


@pytest.mark.parametrize(
    "reference",
    [
        Entry("onnxruntime", "right"),
        Entry("ascend-sim", "right", batch_sizes=(1, 4), options=SIMULATED | {"precision_mode": "force_fp32"}),
    ],
    ids=["onnxruntime", "the same card in single precision"],
)
def test_an_overflow_in_half_precision_is_named(reference):
    found = search(model(gain=15), reference)
    assert (found.node, found.operator, found.tensor) == ("exp", "Exp", "e")
    assert found.metrics.inf_mismatches > 0
    assert found.reason == "the inputs of 'exp' (Exp) agree, its output 'e' does not"
    assert found.opened == 2


def test_without_an_overflow_nothing_differs():
    found = search(model(gain=2), Entry("onnxruntime", "right"))
    assert found.reason == "opened again and sent the same requests, 'y' does not differ"


def test_a_model_with_a_fixed_batch_and_external_data(tmp_path):
    proto = model(gain=15)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, size_threshold=64, location="w.bin")
    found = search(path, Entry("onnxruntime", "right"))
    assert (found.node, found.operator) == ("exp", "Exp")


def test_the_cache_holds_no_cut_models(cache):
    proto = model(gain=15)
    anybatch.compile(proto, backend="ascend-sim", batch_sizes=[1, 4], **SIMULATED)
    before = sorted(cache.rglob("*.om"))
    assert len(before) == 1
    assert search(proto, Entry("onnxruntime", "right")).node == "exp"
    assert sorted(cache.rglob("*.om")) == before


def test_a_compiled_model_has_no_graph(tmp_path):
    path = tmp_path / "model.om"
    anybatch.compile(model(gain=15), backend="ascend-sim", batch_sizes=[1, 4], output=path, **SIMULATED)
    found = find_divergence(
        model(gain=15),
        Entry("onnxruntime", "right"),
        Entry("ascend-sim", "compiled", model=path),
        {"x": X},
        output="y",
        case=Case("7 rows", (7,)),
        judge=judge,
    )
    assert (found.node, found.opened) == (None, 0)
    assert found.reason.startswith("the model of 'compiled' has no graph that could be cut")
    assert Path(path).exists()
