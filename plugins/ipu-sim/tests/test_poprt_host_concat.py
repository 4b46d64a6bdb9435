"""`HostConcatRunner`: a model whose small inputs were merged, fed with the small ones."""

import json

import numpy as np
import pytest

from poprt_models import F32, build, node
from poprt_sim import runtime, testing
from poprt_sim._names import sHostConcatRunnerConfig
from poprt_sim._popef import PopefError
from poprt_sim.compiler import Compiler, CompilerOptions, Executable
from poprt_sim.converter import MFConverter
from poprt_sim.passes import Pass
from poprt_sim.testing import Violation
from poprt_tools import adder

NAMES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def fresh_machine():
    yield testing.reset(device_time="none")
    testing.reset()


def plain_model():
    """y = a beside 10 b beside 100 c beside other + w: columns, so that a row in the wrong place shows."""
    nodes = [
        node("Mul", ["b", "ten"], ["b10"]),
        node("Mul", ["c", "hundred"], ["c100"]),
        node("Add", ["other", "w"], ["shifted"]),
        node("Concat", ["a", "b10", "c100", "shifted"], ["y"], axis=1),
    ]
    inputs = [*((name, F32, [4, 1]) for name in NAMES), ("other", F32, [4, 2])]
    weights = [("ten", np.full(1, 10, np.float32)), ("hundred", np.full(1, 100, np.float32)), ("w", np.ones(2, np.float32))]
    return build(nodes, inputs, [("y", F32, [4, 5])], weights)


def executable(entries=((F32, (4, 1)),), blob=None, **options):
    """The model with its inputs merged, its description in the PopEF; `blob` replaces that, "" leaves it out."""
    merged = Pass.get_pass("apply_host_concat_split", entries).run(plain_model())
    (said,) = (entry.value for entry in merged.metadata_props)
    given = CompilerOptions.from_dict(options)
    given.opaque_blobs = {sHostConcatRunnerConfig: said if blob is None else blob} if blob != "" else {}
    return Compiler.compile(merged, ["y"], given)


def batches(count=1, first=0.0):
    """Arrays of so many compiled batches, and the result by another way."""
    inputs = {
        name: (first + 100 * number + np.arange(4 * count, dtype=np.float32)).reshape(4 * count, 1)
        for number, name in enumerate(NAMES)
    }
    inputs["other"] = np.arange(8 * count, dtype=np.float32).reshape(4 * count, 2)
    expected = np.hstack([inputs["a"], inputs["b"] * 10, inputs["c"] * 100, inputs["other"] + 1])
    return inputs, {"y": np.full((4 * count, 5), -7, np.float32)}, expected


def config(**fields):
    made = runtime.HostConcatRunnerConfig()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def concat(tensor_name="merged_input_0", input_tensor_names=("a", "b", "c"), shape=(3, 4), data_size_bytes=48):
    made = runtime.HostConcatConfig()
    made.tensor_name, made.input_tensor_names = tensor_name, input_tensor_names
    made.shape, made.data_size_bytes = shape, data_size_bytes
    return made


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("given", [None, {"merged_input_0": concat()}], ids=["from the PopEF", "from the configuration"])
def test_small_inputs_in_results_out(count, given):
    target = runtime.HostConcatRunner(executable(), config(host_concat_config=given) if given else None)
    inputs, outputs, expected = batches(count)
    kept = {name: array.copy() for name, array in inputs.items()}
    target.execute(dict(reversed(inputs.items())), outputs)
    np.testing.assert_array_equal(outputs["y"], expected)
    for name, array in kept.items():
        np.testing.assert_array_equal(inputs[name], array)
    del target
    testing.assert_clean()
    assert testing.ledger().runs == count


def test_the_names_in_a_description_say_which_row_is_whose():
    target = runtime.HostConcatRunner(
        executable(), config(host_concat_config={"m": concat(input_tensor_names=["c", "b", "a"])})
    )
    inputs, outputs, expected = batches()
    target.execute({**inputs, "a": inputs["c"], "c": inputs["a"]}, outputs)
    np.testing.assert_array_equal(outputs["y"], expected)


def test_several_merged_inputs_of_several_requests_in_flight():
    target = runtime.HostConcatRunner(executable([(F32, (4, 1), 2)]))
    assert [each.name for each in target.get_execute_inputs()] == ["c", "other", "a", "b"]
    sent = [batches(first=1000.0 * number) for number in range(3)]
    futures = [target.execute_async(inputs, outputs) for inputs, outputs, _ in sent[:2]]
    futures.append(target.executeAsync(sent[2][0], sent[2][1]))
    for future, (_, outputs, expected) in zip(futures, sent, strict=True):
        future.wait()
        np.testing.assert_array_equal(outputs["y"], expected)


def test_a_small_input_may_have_the_name_of_a_merged_one():
    model = build([node("Sub", ["p", "q"], ["y"])], [("p", F32, [2, 3]), ("q", F32, [2, 3])], [("y", F32, [2, 3])])
    described = [
        {"tensor_name": "p", "input_tensor_names": ["a", "b"], "shape": [2, 3], "data_size_bytes": 24},
        {"tensor_name": "q", "input_tensor_names": ["p", "q"], "shape": [2, 3], "data_size_bytes": 24},
    ]
    options = CompilerOptions()
    options.opaque_blobs = {sHostConcatRunnerConfig: json.dumps(described)}
    target = runtime.HostConcatRunner(Compiler.compile(model, ["y"], options))
    rows = np.array([[1, 2, 3], [40, 50, 60], [500, 600, 700], [8000, 9000, 10000]], np.float32)
    outputs = {"y": np.zeros((2, 3), np.float32)}
    target.execute(dict(zip("abpq", rows, strict=True)), outputs)
    np.testing.assert_array_equal(outputs["y"], rows[:2] - rows[2:])


def test_it_describes_the_small_inputs():
    target = runtime.HostConcatRunner(executable(constant_weights=False))
    assert [(each.name, each.shape, each.size_in_bytes) for each in target.get_execute_inputs()] == [
        ("other", [4, 2], 32), ("a", [4], 16), ("b", [4], 16), ("c", [4], 16)
    ]  # fmt: skip
    assert {each.name for each in target.get_model_inputs()} == {"other", *NAMES, "ten", "hundred", "w"}
    assert [each.name for each in target.get_execute_outputs()] == ["y"]
    _, outputs, _ = batches()
    made = {each.name: np.ones(each.shape, each.numpy_data_type()) for each in target.get_execute_inputs()}
    target.execute(made, outputs)
    np.testing.assert_array_equal(outputs["y"], np.broadcast_to(np.array([1, 10, 100, 2, 2], np.float32), (4, 5)))


def test_a_pass_that_found_nothing_to_merge():
    target = runtime.HostConcatRunner(executable([(F32, (4, 9))]))
    inputs, outputs, expected = batches()
    target.execute(inputs, outputs)
    np.testing.assert_array_equal(outputs["y"], expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": None}, r"expected the inputs 'other', 'a', 'b', 'c', got 'a', 'c', 'other'"),
        (
            {"merged_input_0": np.zeros((3, 4), np.float32)},
            r"expected the inputs 'other', 'a', 'b', 'c', got .*'merged_input_0'",
        ),
        ({"b": np.zeros((4, 1))}, r"input 'b': expected float32 \[4\], .*got float64 \[4, 1\]; PopRT casts nothing"),
        ({"b": np.zeros((3, 1), np.float32)}, r"input 'b': expected float32 \[4\], or N whole batches .*got float32 \[3, 1\]"),
        ({"b": np.zeros((8, 1), np.float32)}, r"input 'b': expected 4 rows like 'other', got 8"),
        ({"b": np.zeros((4, 2), np.float32)[:, :1]}, r"input 'b': expected a C-contiguous array"),
    ],
)
def test_inputs_that_do_not_fit(change, said):
    target = runtime.HostConcatRunner(executable())
    inputs, outputs, _ = batches()
    for name, array in change.items():
        inputs[name] = array
    with pytest.raises(RuntimeError, match=said):
        target.execute({name: array for name, array in inputs.items() if array is not None}, outputs)
    assert (outputs["y"] == -7).all()
    assert testing.ledger().requests == 0


def test_a_small_input_is_in_use_until_its_request_is_done():
    target = runtime.HostConcatRunner(executable())
    memory = np.zeros(20, np.float32)
    inputs, outputs, _ = batches()
    first = target.execute_async({**inputs, "b": memory[:4].reshape(4, 1)}, outputs)
    others, _, _ = batches()
    with pytest.raises(Violation, match="this request writes an input of the one made at"):
        target.execute_async(others, {"y": memory.reshape(4, 5)})
    first.wait()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tensor_name", "other_one", r"tensor_name: expected an input of the compiled model \('other', 'merged_input_0'\)"),
        ("tensor_name", ["a"], r"tensor_name: expected an input of the compiled model .*got \['a'\]"),
        ("input_tensor_names", [], r"'merged_input_0': input_tensor_names: expected a list of names, got \[\]"),
        ("input_tensor_names", "abc", r"'merged_input_0': input_tensor_names: expected a list of names, got 'abc'"),
        (
            "input_tensor_names",
            ["a", 2, "c"],
            r"'merged_input_0': input_tensor_names: expected a list of names, got \['a', 2, 'c'\]",
        ),
        ("input_tensor_names", ["a", "b"], r"'merged_input_0': expected one name for each of \[3\] rows, got 2"),
        ("shape", [4, 3], r"'merged_input_0': shape: expected the compiled \[3, 4\], got \[4, 3\]"),
        ("shape", 12, r"'merged_input_0': shape: expected the compiled \[3, 4\], got 12"),
        ("data_size_bytes", 16, r"'merged_input_0': data_size_bytes: expected 48, got 16"),
    ],
)
def test_descriptions_that_do_not_fit(field, value, said):
    wrong = concat(**{field: value})
    with pytest.raises(RuntimeError, match=r"host_concat_config\['m'\]: " + said):
        runtime.HostConcatRunner(executable(), config(host_concat_config={"m": wrong}))
    entry = {name: getattr(wrong, name) for name in ("tensor_name", "input_tensor_names", "shape", "data_size_bytes")}
    with pytest.raises(PopefError, match=r"the blob 'HostConcatRunnerConfig' of 'test': " + said):
        runtime.HostConcatRunner(executable(blob=json.dumps([entry])))
    assert testing.ledger().leaks == []


@pytest.mark.parametrize("blob", ["{}", "[1]", "[[", "[" * 100_000, "null", '[{"tensor_name": "merged_input_0"}]'])
def test_blobs_that_are_no_description(blob):
    with pytest.raises(PopefError, match="the blob 'HostConcatRunnerConfig' of 'test': "):
        runtime.HostConcatRunner(executable(blob=blob))


def test_inputs_that_are_there_twice():
    with pytest.raises(PopefError, match="an input is described as merged twice"):
        runtime.HostConcatRunner(executable(), config(host_concat_config={"m": concat(), "n": concat()}))
    for names in (["a", "b", "a"], ["a", "b", "other"]):
        with pytest.raises(PopefError, match="two tensors have one name"):
            runtime.HostConcatRunner(executable(), config(host_concat_config={"m": concat(input_tensor_names=names)}))


def test_models_that_say_nothing_or_are_fused():
    with pytest.raises(
        RuntimeError, match=r"does not say which inputs are merged: set CompilerOptions.opaque_blobs to .*or give"
    ):
        runtime.HostConcatRunner(executable(blob=""))
    fused = Compiler.compile(MFConverter().convert([plain_model(), plain_model()]), None)
    with pytest.raises(RuntimeError, match="'model_fusion' holds fused models, which HostConcatRunner does not run"):
        runtime.HostConcatRunner(fused)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"timeout_ns": "5ms"}, r"HostConcatRunnerConfig.timeout_ns: expected an int of nanoseconds .*got '5ms'"),
        ({"ring_buffer_size_multiplier": 0}, r"HostConcatRunnerConfig.ring_buffer_size_multiplier: expected a whole number"),
        ({"check_package_hash": 1}, r"HostConcatRunnerConfig.check_package_hash: expected bool, got 1"),
        ({"host_concat_config": {"m": {}}}, r"host_concat_config: expected names and HostConcatConfigs, got \{'m': \{\}\}"),
        ({"host_concat_config": [concat()]}, r"host_concat_config: expected names and HostConcatConfigs, got \["),
    ],
)
def test_configurations_of_other_types(fields, said):
    with pytest.raises(TypeError, match=said):
        runtime.HostConcatRunner(executable(), config(**fields))


def test_other_arguments():
    with pytest.raises(TypeError, match="config: expected a HostConcatRunnerConfig, got RuntimeConfig"):
        runtime.HostConcatRunner(executable(), runtime.RuntimeConfig())
    with pytest.raises(TypeError, match="popef: expected a path as str, or an Executable, got bytes"):
        runtime.HostConcatRunner(b"")
    with pytest.raises(AttributeError, match="batching_dim"):
        config(batching_dim=0)
    with pytest.raises(AttributeError, match="tensor_names"):
        runtime.HostConcatConfig().tensor_names = []


def test_its_timeout_pushes_overlapped_io():
    """A lone request needs two later batches, or two timeouts; a timeout of 0 never comes."""
    for timeout_ns, flushes in ((5_000_000, 2), (0, None)):
        testing.reset(device_time="none")
        made = executable(num_io_tiles=32, batches_per_step=100)
        target = runtime.HostConcatRunner(made, config(timeout_ns=timeout_ns))
        inputs, outputs, expected = batches()
        if flushes is None:
            with pytest.raises(Violation, match=r"deadlock.*with a timeout of 0 nothing takes its place"):
                target.execute(inputs, outputs)
            continue
        target.execute(inputs, outputs)
        np.testing.assert_array_equal(outputs["y"], expected)
        assert (testing.ledger().flushes, testing.ledger().waited_us) == (flushes, 10_000)


def test_its_ring_buffer():
    """`execute_async` returns when the last batch has found room: the second request waits for a run of the first."""
    ends = []
    for multiplier in (1, 30):
        testing.reset(device_time="affine:1000,0")
        target = runtime.HostConcatRunner(executable(), config(ring_buffer_size_multiplier=multiplier))
        begin = testing.now_us()
        futures = [target.execute_async(inputs, outputs) for inputs, outputs, _ in (batches(2), batches(2))]
        ends.append(testing.now_us() - begin)
        for future in futures:
            future.wait()
    assert ends[0] >= 1000 > ends[1]


def test_it_has_its_device_alone(tmp_path):
    testing.reset(devices=1, device_time="none")
    made = executable()
    target = runtime.HostConcatRunner(made)
    with pytest.raises(RuntimeError, match="IPU 0 belongs to the runner of 'test'"):
        runtime.Runner(adder())
    del target
    path = tmp_path / "m.popef"
    merged = Pass.get_pass("apply_host_concat_split", [(F32, (4, 1))]).run(plain_model())
    options = CompilerOptions()
    options.opaque_blobs = {each.key: each.value for each in merged.metadata_props}
    Compiler.compile_and_export(merged, ["y"], str(path), options)
    for source in (str(path), Executable(str(path))):
        inputs, outputs, expected = batches()
        runtime.HostConcatRunner(source).execute(inputs, outputs)
        np.testing.assert_array_equal(outputs["y"], expected)
