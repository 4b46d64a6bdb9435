"""The embedded backend beyond the conformance kit: what it accepts, its options, re-batching, and every message."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import anybatch
from anybatch import AnyBatch, BackendUnavailableError, ClosedError, DeviceError, Gears, InputError, ModelError
from anybatch._backends import _onnxruntime_session as module
from anybatch.testing.models import AFFINE, BY_DTYPE, SEVERAL, WIDE

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
OPSET = [helper.make_opsetid("", 17)]
RANDOM = np.random.default_rng(7)


def build(nodes, inputs, outputs, weights=None, *, types=None):
    """Return a model; inputs and outputs are dims by name, float32 where `types` does not say otherwise."""
    types = types or {}
    values = [
        [helper.make_tensor_value_info(name, types.get(name, FLOAT), dims) for name, dims in side.items()]
        for side in (inputs, outputs)
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_model(helper.make_graph(nodes, "g", *values, initializers), opset_imports=OPSET, ir_version=9)


def save(model, folder: Path, *, external: bool = False) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, size_threshold=0, location="weights.bin")
    return path


def linear(batch):
    """Return y = x @ w of [batch, 6] to [batch, 3], and w."""
    w = RANDOM.standard_normal((6, 3)).astype(np.float32)
    return build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [batch, 6]}, {"y": [batch, 3]}, {"w": w}), w


def cast(to, *, types, weights=None):
    return build([helper.make_node("Cast", ["x"], ["y"], to=to)], {"x": ["N"]}, {"y": ["N"]}, weights, types=types)


FLOAT16, DOUBLE, BFLOAT16, INT8 = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.INT8
SCALES = {"scale": np.float32(0.1), "zero": np.int8(0)}


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (lambda: linear("N")[0], "float32"),
        (lambda: cast(DOUBLE, types={"x": DOUBLE, "y": DOUBLE}), "float64"),
        (lambda: cast(DOUBLE, types={"y": DOUBLE}), "float32"),
        (lambda: cast(INT64, types={"x": INT64, "y": INT64}), ""),
        (lambda: cast(BFLOAT16, types={"x": FLOAT16, "y": BFLOAT16}), "bfloat16"),
        (  # float32 outside, float16 inside
            lambda: build(
                [helper.make_node("Cast", ["x"], ["h"], to=FLOAT16), helper.make_node("Cast", ["h"], ["y"], to=FLOAT)],
                {"x": ["N"]},
                {"y": ["N"]},
            ),
            "float16",
        ),
        (
            lambda: build(
                [
                    helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
                    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
                ],
                {"x": ["N"]},
                {"y": ["N"]},
                SCALES,
            ),
            "int8",
        ),
        (  # weights alone are stored as integers
            lambda: build(
                [
                    helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["v"]),
                    helper.make_node("Mul", ["x", "v"], ["y"]),
                ],
                {"x": ["N"]},
                {"y": ["N"]},
                {**SCALES, "w": np.ones(1, np.int8)},
            ),
            "float32",
        ),
    ],
)
def test_what_a_model_computes_in(model, precision, tmp_path):
    for source in (model(), model().SerializeToString(), save(model(), tmp_path)):
        with anybatch.open(source, backend="onnxruntime") as runner:
            assert runner.precision == precision
            assert runner.memory_bytes is None


def test_what_a_branch_computes_in():
    half = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["h"], to=FLOAT16),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Cast", ["r"], ["z"], to=FLOAT),
        ],
        "half",
        [],
        [helper.make_tensor_value_info("z", FLOAT, ["N"])],
    )
    same = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "same", [], [helper.make_tensor_value_info("z", FLOAT, ["N"])]
    )
    branch = helper.make_node("If", ["which"], ["y"], then_branch=half, else_branch=same)
    model = build([branch], {"x": ["N"]}, {"y": ["N"]}, {"which": np.array(True)})
    with anybatch.open(model, backend="onnxruntime") as runner:
        assert runner.precision == "float16"


def test_what_a_model_that_is_gone_computes_in(tmp_path):
    path = save(linear("N")[0], tmp_path)
    with anybatch.open(path, backend="onnxruntime") as runner:
        path.unlink()
        assert runner.precision == ""


def test_what_a_provider_computes_in_is_its_own_choice():
    assert module._precision_of(linear("N")[0], [("AnotherExecutionProvider", {}), ("CPUExecutionProvider", {})])() == ""


def check_linear(runner, w):
    for rows in (0, 1, 5, 12):
        x = RANDOM.standard_normal((rows, 6)).astype(np.float32)
        np.testing.assert_allclose(runner(x), x @ w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "bytearray", "proto", "external data", "proto with external data"])
@pytest.mark.parametrize("batch", ["N", 4])
def test_models_come_as_paths_bytes_protos_and_with_external_data(kind, batch, tmp_path, monkeypatch):
    model, w = linear(batch)
    source = {
        "path": lambda: save(model, tmp_path),
        "str": lambda: str(save(model, tmp_path)),
        "bytes": model.SerializeToString,
        "bytearray": lambda: bytearray(model.SerializeToString()),
        "proto": lambda: model,
        "external data": lambda: save(model, tmp_path, external=True),
        "proto with external data": lambda: onnx.load(save(model, tmp_path, external=True), load_external_data=False),
    }[kind]()
    if kind == "proto with external data":
        monkeypatch.chdir(tmp_path)  # a proto has no folder of its own: ONNX Runtime looks in the working directory
    with anybatch.open(source, batch_sizes=[1, 8]) as runner:
        assert runner.batching == Gears((1, 8))
        check_linear(runner, w)


def test_the_batching_follows_batch_sizes():
    model, _ = linear("N")
    with anybatch.open(model) as any_batch, anybatch.open(model, batch_sizes=[8, 1]) as gears:
        assert (any_batch.batching, gears.batching) == (AnyBatch(), Gears((1, 8)))


# ---- a batch that is baked in ----


def reshaped(target, shape, dims):
    """Return a model that reshapes x to a constant target and back to rows, around a product that mixes columns."""
    w = RANDOM.standard_normal((target[-1], 2)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["flat"], name="to_target"),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    return build(nodes, {"x": shape}, {"y": dims}, {"target": np.array(target, np.int64), "w": w})


@pytest.mark.parametrize(
    ("target", "shape", "dims"),
    [
        ([4, 6], [4, 2, 3], [4, 2]),
        ([4, -1], [4, 2, 3], [4, 2]),
        ([-1, 6], [4, 2, 3], [4, 2]),
        ([0, 6], [4, 2, 3], [4, 2]),
        ([1, 6], [1, 2, 3], [1, 2]),
        ([8, 3], [4, 2, 3], [8, 2]),
    ],
)
def test_constant_reshapes_are_freed(target, shape, dims):
    if target[-1] == -1:
        model = reshaped([4, 6], shape, dims)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(target, np.int64), "target"))
    else:
        model = reshaped(target, shape, dims)
    per_row = dims[0] // shape[0]
    options = {"rows_per_row": {"y": per_row}} if per_row > 1 else {}
    with (
        anybatch.open(model, **options) as freed,
        anybatch.open(model, batch_sizes=[shape[0]], **options) as fixed,
    ):
        assert (freed.batching, fixed.batching) == (AnyBatch(), Gears((shape[0],)))
        for rows in (1, 3, 4, 9):
            x = RANDOM.standard_normal((rows, *shape[1:])).astype(np.float32)
            np.testing.assert_allclose(freed(x), fixed(x), rtol=1e-5, atol=1e-6)
            assert freed(x).shape == (rows * per_row, 2)


def test_a_reshape_by_a_constant_node_is_freed():
    target = helper.make_node("Constant", [], ["target"], value=numpy_helper.from_array(np.array([4, 6], np.int64)))
    model = build([target, helper.make_node("Reshape", ["x", "target"], ["y"])], {"x": [4, 2, 3]}, {"y": [4, 6]})
    with anybatch.open(model) as runner:
        x = RANDOM.standard_normal((7, 2, 3)).astype(np.float32)
        np.testing.assert_array_equal(runner(x), x.reshape(7, 6))


def softmax_over_rows(batch):
    return build([helper.make_node("Softmax", ["x"], ["y"], axis=0)], {"x": [batch, 3]}, {"y": [batch, 3]})


def mean_subtracted(batch):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return build(nodes, {"x": [batch, 3]}, {"y": [batch, 3]})


def added_constant(batch):
    constant = RANDOM.standard_normal((batch, 3)).astype(np.float32)
    return build([helper.make_node("Add", ["x", "c"], ["y"])], {"x": [batch, 3]}, {"y": [batch, 3]}, {"c": constant})


def expanded(batch):
    nodes = [helper.make_node("Expand", ["c", "shape"], ["wide"]), helper.make_node("Concat", ["x", "wide"], ["y"], axis=1)]
    weights = {"c": np.ones((1, 2), np.float32), "shape": np.array([batch, 2], np.int64)}
    return build(nodes, {"x": [batch, 3]}, {"y": [batch, 5]}, weights)


def transposed(batch):
    """Return a model whose Reshape target holds the batch behind the head, where it is not replaced."""
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[1, 0]),
    ]
    return build(nodes, {"x": [batch, 3]}, {"y": [batch, 3]}, {"target": np.array([3, batch], np.int64)})


@pytest.mark.parametrize("make", [softmax_over_rows, mean_subtracted, added_constant, expanded, transposed])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_baked_batch_that_changes_answers_is_refused_with_the_reason(make, batch):
    if make is added_constant and batch == 1:
        with anybatch.open(make(1)) as runner:  # one row of constants belongs to every row
            assert runner.batching == AnyBatch()
        return
    model = make(batch)
    for options in ({}, {"batch_sizes": [2, 8]}):
        with pytest.raises(ModelError) as caught:
            anybatch.open(model, **options)
        message = str(caught.value)
        assert f"the model has the fixed batch size {batch} and cannot run others: " in message
        assert message.endswith(f"It runs as it is with batch_sizes=[{batch}]")
        assert "baked" in message or "influence one another" in message
    with anybatch.open(model, batch_sizes=[batch]) as runner:
        assert runner.batching == Gears((batch,))


def test_a_reshape_that_cannot_be_freed_is_named():
    allowzero = reshaped([8, 3], [4, 2, 3], [8, 2])
    allowzero.graph.node[0].attribute.append(helper.make_attribute("allowzero", 1))
    allowzero.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([8, -1], np.int64), "target"))
    with pytest.raises(ModelError, match=r"the batch size 4 is baked into Reshape 'to_target', target \[8, -1\]"):
        anybatch.open(allowzero)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1"])
def test_light_models_with_random_weights_are_freed(name):
    """The onnx package's light models have a batch of 1 and constant weights, which would hide a mix-up: so random ones."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = randomised(onnx.load(path))
    (x,) = (i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer})
    shape = [dim.dim_value for dim in x.type.tensor_type.shape.dim]
    with anybatch.open(model, batch_sizes=[1, 4]) as runner, anybatch.open(model, batch_sizes=[1]) as alone:
        images = RANDOM.standard_normal((5, *shape[1:])).astype(np.float32)
        together = runner(images)
        assert np.ptp(together, axis=0).max() > 0, "rows must differ, or the comparison sees nothing"
        np.testing.assert_allclose(together, alone(images), rtol=1e-4, atol=1e-5)


def randomised(model):
    random = np.random.default_rng(0)
    model.ir_version = 9  # before 4, every initializer would have to be an input, too
    constant = {node.output[0]: node for node in model.graph.node if node.op_type == "ConstantOfShape"}
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, node in constant.items():
        shape = shapes[node.input[0]]
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        values = 1 + 0.1 * random.standard_normal(shape) if len(shape) == 1 else random.standard_normal(shape) * scale
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    kept = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


# ---- outputs whose rows the model does not tell ----


def test_unknown_output_axes_are_found_by_a_trial():
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], perm=[1, 0]),
        helper.make_node("Concat", ["x", "x"], ["twice"], axis=0),
        helper.make_node("NonZero", ["x"], ["found"]),
    ]
    outputs = {"moved": ["A", "B"], "twice": ["C", 3], "found": ["D", "E"]}
    model = build(nodes, {"x": ["N", 3]}, outputs, types={"found": INT64})
    with anybatch.open(model) as runner:
        axes = {tensor.name: (tensor.batch_axis, tensor.rows_per_row) for tensor in runner.spec.outputs}
    assert axes == {"moved": (1, 1), "twice": (0, 2), "found": (None, 1)}


def test_a_trial_that_fails_says_what_to_declare():
    """Zeros are no valid permutation here: index 1 of a table of one row is out of range."""
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["row"], axis=0),
        helper.make_node("Tile", ["row", "times"], ["y"]),
    ]
    weights = {"table": np.ones((1, 2), np.float32), "times": np.array([1, 1], np.int64), "one": np.array(1, np.int64)}
    nodes.insert(0, helper.make_node("Add", ["zero_based", "one"], ["i"]))
    model = build(nodes, {"zero_based": ["N"]}, {"y": ["M", 2]}, weights, types={"zero_based": INT64})
    quiet = {"session_options": {"log_severity_level": 4}}
    with pytest.raises(ModelError, match=r"does not tell which axis of \['y'\] carries rows, .* batch_axis=\{'y': 0\}"):
        anybatch.open(model, **quiet)
    anybatch.open(model, batch_axis={"y": 0}, **quiet).close()


# ---- options ----


def test_session_options_as_mapping_object_and_config_entries():
    model, w = linear("N")
    prepared = onnxruntime.SessionOptions()
    prepared.intra_op_num_threads = 1
    for options in ({"intra_op_num_threads": 1, "session.intra_op.allow_spinning": "0"}, prepared):
        with anybatch.open(model, session_options=options) as runner:
            check_linear(runner, w)


def test_providers_by_name_and_with_options():
    model, w = linear("N")
    for providers in ("CPUExecutionProvider", ["CPUExecutionProvider"], [("CPUExecutionProvider", {})]):
        with anybatch.open(model, providers=providers) as runner:
            check_linear(runner, w)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"provider": []}, InputError, "backend 'onnxruntime' has no option 'provider', only .*; did you mean 'providers'\\?"),
        ({"providers": []}, InputError, "expected providers to be a list of names or \\(name, options\\) pairs, got \\[\\]"),
        ({"providers": 5}, InputError, "expected providers to be a list"),
        ({"providers": [5]}, InputError, "expected providers to be a list"),
        ({"providers": ["NPUExecutionProvider"]}, BackendUnavailableError, "'NPUExecutionProvider' is not in this build"),
        ({"device": 1}, InputError, "expected device 0, got 1: the CPU is one device"),
        ({"session_options": 5}, InputError, "expected session_options to be SessionOptions or a mapping, got 5"),
        ({"session_options": {"threads": 1}}, InputError, "SessionOptions has no attribute 'threads'"),
        ({"session_options": {"intra_op_num_threads": "one"}}, InputError, "'intra_op_num_threads' does not take 'one'"),
        ({"batch_axis": {"x": "0"}}, InputError, "expected batch_axis to map tensor names to axes"),
        ({"rows_per_row": 3}, InputError, "expected rows_per_row to map tensor names to counts, got 3"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        anybatch.open(linear("N")[0], **options)


def test_a_provider_that_does_not_start_is_no_silent_fallback(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["GhostExecutionProvider", "CPUExecutionProvider"])

    class FellBack:
        def __init__(self, *args, **kwargs):
            pass

        disable_fallback = get_inputs = get_outputs = lambda self: []
        get_providers = lambda self: ["CPUExecutionProvider"]  # noqa: E731

    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    with pytest.raises(BackendUnavailableError, match="'GhostExecutionProvider' could not be started, .* would use"):
        anybatch.open(linear("N")[0], providers=["GhostExecutionProvider", "CPUExecutionProvider"])


# ---- models that cannot be run ----


def test_corrupt_and_unsupported_models(tmp_path):
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x00not a model")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load .*garbage.onnx"):
        anybatch.open(garbage)
    for content in (b"", b"\x08"):
        with pytest.raises(ModelError, match="ONNX Runtime cannot load the model"):
            anybatch.open(content)
    strings = build([helper.make_node("Identity", ["x"], ["y"])], {"x": ["N"]}, {"y": ["N"]})
    for value in (*strings.graph.input, *strings.graph.output):
        value.type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="'x': expected a tensor of numbers or bools, got tensor\\(string\\)"):
        anybatch.open(strings)
    with pytest.raises(ModelError, match="no input has a batch axis"):
        anybatch.open(build([helper.make_node("Identity", ["x"], ["y"])], {"x": []}, {"y": []}))


def test_a_failing_execution_is_a_device_error_and_the_runner_goes_on():
    """Gather with an index out of range fails inside ONNX Runtime, in the bound and in the plain way alike."""
    nodes = [helper.make_node("Gather", ["table", "i"], ["y"], axis=0)]
    for width in (2, 5000):
        table = RANDOM.standard_normal((3, width)).astype(np.float32)
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("i", INT64, ["N"])],
            [helper.make_tensor_value_info("y", FLOAT, ["N", width])],
            [numpy_helper.from_array(table, "table")],
        )
        model = helper.make_model(graph, opset_imports=OPSET, ir_version=9)
        with anybatch.open(model, session_options={"log_severity_level": 4}) as runner:
            good = np.array([2, 0])
            np.testing.assert_array_equal(runner(good), table[good])
            with pytest.raises(DeviceError, match="onnxruntime: run failed") as caught:
                runner(np.array([7, 0]))
            assert caught.value.operation == "run"
            np.testing.assert_array_equal(runner(good), table[good])


# ---- buffers ----


def test_small_tensors_are_bound_and_large_ones_are_not():
    session = anybatch.registry().get("onnxruntime").open(AFFINE.onnx_bytes, device=0, batch_sizes=None, options={})
    wide = anybatch.registry().get("onnxruntime").open(WIDE.onnx_bytes, device=0, batch_sizes=None, options={})
    for opened, model in ((session, AFFINE), (wide, WIDE)):
        for rows in (4, 7):
            inputs = model.random_inputs(RANDOM, rows)
            for name, array in opened.execute(inputs, rows).items():
                np.testing.assert_allclose(array, model.reference(inputs)[name], rtol=1e-4, atol=1e-4)
    assert set(session._idle) == {4, 7} and not wide._idle
    assert set(wide._unbound) == {4, 7}


def test_buffers_are_kept_for_a_bounded_number_of_sizes():
    session = anybatch.registry().get("onnxruntime").open(AFFINE.onnx_bytes, device=0, batch_sizes=None, options={})
    for rows in range(1, 2 * module._BOUND_SIZES):
        session.execute(AFFINE.random_inputs(RANDOM, rows), rows)
    assert len(session._idle) <= module._BOUND_SIZES


def test_one_buffer_per_thread_at_once():
    session = anybatch.registry().get("onnxruntime").open(SEVERAL.onnx_bytes, device=0, batch_sizes=[4], options={})
    failures = []

    def hammer(seed):
        random = np.random.default_rng(seed)
        for _ in range(50):
            inputs = SEVERAL.random_inputs(random, 4)
            got, want = session.execute(inputs, 4), SEVERAL.reference(inputs)
            failures.extend(name for name in want if not np.allclose(got[name], want[name], rtol=1e-4, atol=1e-4))

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert 1 <= len(session._idle[4]) <= 8


def test_large_results_are_written_in_place():
    session = (
        anybatch.registry().get("onnxruntime").open(linear_wide().SerializeToString(), device=0, batch_sizes=None, options={})
    )
    x = RANDOM.standard_normal((64, 6)).astype(np.float32)
    place = np.zeros((64, 2000), np.float32)
    assert session.execute({"x": x}, 64, {"y": place})["y"] is place
    np.testing.assert_allclose(place, session.execute({"x": x}, 64)["y"])
    assert place.any()


def linear_wide():
    w = RANDOM.standard_normal((6, 2000)).astype(np.float32)
    return build([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 2000]}, {"w": w})


def test_bfloat16_beyond_the_buffers():
    model = BY_DTYPE["bfloat16"]
    with anybatch.open(model.onnx_bytes) as runner:
        for rows in (3, 5000):
            inputs = model.random_inputs(RANDOM, rows)
            for name, want in model.reference(inputs).items():
                got = runner.run(inputs)[name]
                assert got.dtype == want.dtype
                np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("sizes", [None, (4,)])
def test_a_session_refuses_what_is_not_its_gear(sizes):
    session = anybatch.registry().get("onnxruntime").open(AFFINE.onnx_bytes, device=0, batch_sizes=sizes, options={})
    inputs = AFFINE.random_inputs(RANDOM, 4)
    session.execute(inputs, 4)
    with pytest.raises(
        InputError, match="a gear of this session, which runs gears 4, got 5|expected 5 rows in every input, got: 'x' has 4"
    ):
        session.execute(inputs, 5)
    with pytest.raises(InputError, match="expected a gear of this session, which runs .*, got 0"):
        session.execute(AFFINE.random_inputs(RANDOM, 0), 0)
    with pytest.raises(InputError, match="expected 4 rows in every input, got: 'x' has 1"):
        session.execute(AFFINE.random_inputs(RANDOM, 1), 4)  # NumPy would spread one row over four
    session.close()
    for size in (4, 5):
        with pytest.raises(ClosedError, match="onnxruntime: execute\\(\\) after close\\(\\)"):
            session.execute(AFFINE.random_inputs(RANDOM, size), size)


def test_close_frees_the_model():
    session = anybatch.registry().get("onnxruntime").open(AFFINE.onnx_bytes, device=0, batch_sizes=None, options={})
    session.execute(AFFINE.random_inputs(RANDOM, 4), 4)
    inner = weakref.ref(session._runtime.session)
    session.close()
    gc.collect()
    assert inner() is None
