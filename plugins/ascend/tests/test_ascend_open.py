"""Opening models: from where, on which device, beside whom, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import acl_sim
import anybatch
from acl_sim import atc, testing
from anybatch.testing.models import AXIS_1, BY_DTYPE, ROWS_TIMES_3, SAME, SEVERAL
from anybatch_ascend import AscendBackend
from anybatch_ascend import backend as backend_module
from anybatch_ascend._model import LOADS
from anybatch_ascend_sim import backend as ascend_sim
from ascend_models import AFFINE, RNG, compiled, open_model
from ascend_spy import Spy

GEARS = (1, 4, 8)


@pytest.fixture(autouse=True)
def machine():
    testing.reset(devices=2)
    yield
    testing.assert_clean()


@pytest.fixture
def spy():
    return Spy()


@pytest.fixture
def backend(spy):
    return AscendBackend(acl=lambda: spy)


def convert(folder, proto, *flags, name="model"):
    source = folder / f"{name}.onnx"
    onnx.save(proto, source)
    target = folder / name
    assert atc.main([f"--model={source}", "--framework=5", f"--output={target}", "--soc_version=Ascend310P3", *flags]) == 0
    return target.with_suffix(".om")


def elementwise(inputs, output=("y", TensorProto.FLOAT, ["n", 3]), op="Identity", node="node"):
    graph = helper.make_graph(
        [helper.make_node(op, [name for name, _, _ in inputs], [output[0]], name=node)],
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*output)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(runner, model=AFFINE, rows=11):
    inputs = model.random_inputs(RNG, rows)
    outputs = runner.run(inputs)
    expected = model.reference(inputs)
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)


# --- from where ---


@pytest.mark.parametrize("load", LOADS)
def test_each_way_to_load(backend, spy, load):
    om = compiled(AFFINE, GEARS)
    with open_model(om, backend=backend, load=load, slots=2) as runner:
        check(runner)
        assert [call.name for call in spy.calls if call.name.startswith("mdl.load_")] == [f"mdl.load_from_{load}"]


@pytest.mark.parametrize("load", ["mem", "mem_with_mem", None])
def test_bytes(backend, spy, load):
    content = compiled(AFFINE, GEARS).read_bytes()
    with open_model(content, backend=backend, slots=2, **({"load": load} if load else {})) as runner:
        check(runner)
    assert len(spy.named(f"mdl.load_from_{load or 'mem'}")) == 1


@pytest.mark.parametrize("load", ["file", "file_with_mem"])
def test_bytes_cannot_be_loaded_as_a_file(backend, load):
    content = compiled(AFFINE, GEARS).read_bytes()
    with pytest.raises(anybatch.InputError, match=f"load='{load}' needs a file, got {len(content)} bytes; use load='mem'"):
        open_model(content, backend=backend, load=load)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("slots", [1, 3])
def test_the_memory_it_says_is_what_it_takes(backend, load, slots):
    """Where the memory is ours, all of it is in the ledger; else the model's own part is the runtime's."""
    om = compiled(AFFINE, GEARS)
    model = sum(acl_sim.mdl.query_size(str(om))[:2])
    with open_model(om, backend=backend, load=load, slots=slots) as runner:
        taken = sum(leak.size for leak in testing.ledger().leaks if leak.kind == "device memory")
        assert runner.memory_bytes == taken + (0 if load.endswith("_with_mem") else model)
        assert taken > slots * 8 * 3 * 4  # rows of the largest gear, at least the inputs
        assert runner.precision == ""  # nobody knows of an .om how it was compiled


@pytest.mark.parametrize("without", ["missing", "failing"])
def test_memory_that_the_runtime_does_not_tell(backend, spy, without):
    if without == "missing":
        spy.missing.add("mdl.query_size")
    else:
        spy.instead["mdl.query_size"] = lambda _real, _path: (0, 0, 500002)
    with open_model(compiled(AFFINE, GEARS), backend=backend) as runner:
        assert runner.memory_bytes is None
        check(runner)


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "float16"),
        ({"precision_mode": "must_keep_origin_dtype"}, "float32"),
        ({"precision_mode": "force_fp32"}, "float32"),
        ({"precision_mode": "allow_fp32_to_bf16"}, "bfloat16"),
        ({"atc_options": {"precision_mode_v2": "origin"}}, "float32"),
        ({"atc_options": {"precision_mode_v2": "mixed_bfloat16"}}, "bfloat16"),
    ],
)
def test_the_precision_is_the_one_it_was_compiled_with(options, precision):
    with anybatch.open(
        AFFINE.onnx_bytes, backend=ascend_sim(), batch_sizes=[4], soc_version="Ascend310P3", **options
    ) as runner:
        assert runner.precision == precision


@pytest.mark.parametrize("load", ["file_with_mem", "mem_with_mem"])
def test_own_memory_is_of_the_sizes_asked_for_and_freed_after_the_model(backend, spy, load):
    om = compiled(AFFINE, GEARS)
    work_size, weight_size, _ = acl_sim.mdl.query_size(str(om))
    assert work_size
    assert weight_size
    with open_model(om, backend=backend, load=load, slots=1):
        given = spy.named(f"mdl.load_from_{load}")[0].args[-4:]
        assert (given[1], given[3]) == (work_size, weight_size)
        assert [call.args for call in spy.named("rt.malloc")][:2] == [(work_size, 0), (weight_size, 0)]
        spy.calls.clear()
    order = [(call.name, call.args[0]) for call in spy.named("mdl.unload", "rt.free")]
    unloaded = [name for name, _ in order].index("mdl.unload")
    assert {("rt.free", given[0]), ("rt.free", given[2])} <= set(order[unloaded:])


def test_memory_for_the_file_on_a_board_is_the_devices(spy):
    testing.reset(run_mode="device")
    backend = AscendBackend(acl=lambda: spy)
    om = compiled(AFFINE, GEARS)
    with open_model(om, backend=backend, load="mem", slots=1) as runner:
        source, size = spy.named("mdl.load_from_mem")[0].args
        assert size == om.stat().st_size
        names = [call.name for call in spy.calls]
        assert names.index("rt.memcpy") < names.index("mdl.load_from_mem")
        loaded = names.index("mdl.load_from_mem")
        assert spy.calls[loaded + 1][:2] == ("mdl.query_size_from_mem", (source, size))
        assert spy.calls[loaded + 2][:2] == ("rt.free", (source,))
        check(runner)


def test_on_a_card_the_bytes_are_read_where_they_are(backend, spy):
    with open_model(compiled(AFFINE, GEARS), backend=backend, load="mem", slots=1):
        assert not spy.named("rt.memcpy")


@pytest.mark.parametrize("load", LOADS)
def test_run_mode_device(load):
    testing.reset(run_mode="device")
    with open_model(compiled(AFFINE, GEARS), backend=ascend_sim(), load=load) as runner:
        check(runner)


def test_a_file_is_known_by_its_first_bytes_too(tmp_path, backend):
    path = tmp_path / "model.bin"
    path.write_bytes(compiled(AFFINE, GEARS).read_bytes())
    with open_model(path, backend=backend, slots=1) as runner:
        check(runner)


def test_om_means_this_backend():
    assert AscendBackend().suffixes == {".om"}
    assert ascend_sim().suffixes == set()


@pytest.mark.parametrize("temporary", [False, True])
@pytest.mark.parametrize("model", [AXIS_1, ROWS_TIMES_3], ids=lambda model: model.name)
def test_an_onnx_model_is_opened_as_its_compiled_form_with_what_the_onnx_says(tmp_path, monkeypatch, backend, model, temporary):
    om = tmp_path / "temporary.om"
    om.write_bytes(compiled(model, (4,)).read_bytes() if model is AXIS_1 else three_rows(tmp_path).read_bytes())
    sizes = (4,) if model is AXIS_1 else (1, 4)
    made = anybatch.Compiled(path=om, spec=model.spec, batch_sizes=sizes, cached=False, temporary=temporary)
    monkeypatch.setattr(backend_module, "compile_model", lambda *args, **options: made)
    with open_model(model.onnx_bytes, backend=backend, slots=2) as runner:
        assert om.exists() == (not temporary)
        assert runner.batching.sizes == sizes
        assert [t.shape for t in runner.spec.inputs] == [t.shape for t in model.spec.inputs]
        assert [t.batch_axis for t in runner.spec.inputs] == [t.batch_axis for t in model.spec.inputs]
        check(runner, model, 7)


def three_rows(folder):
    return dims_model(folder, ROWS_TIMES_3, "heads:-1,4", "3;12")


# --- batch sizes ---


def test_batch_sizes_that_the_file_has(backend):
    with open_model(compiled(AFFINE, GEARS), backend=backend, batch_sizes=[8, 1, 4]) as runner:
        assert runner.batching.sizes == GEARS


def test_batch_sizes_that_the_file_has_not(backend):
    with pytest.raises(anybatch.ModelError, match=r"batch sizes \[1, 2\], this one has \[1, 4, 8\]; leave batch_sizes out"):
        open_model(compiled(AFFINE, GEARS), backend=backend, batch_sizes=[1, 2])


def test_gears_come_in_any_order(tmp_path, backend):
    flags = ("--input_shape=x:-1,6", "--dynamic_batch_size=8,1,4", "--precision_mode=must_keep_origin_dtype")
    om = convert(tmp_path, AFFINE.proto(), *flags)
    with open_model(om, backend=backend, slots=2) as runner:
        assert runner.batching.sizes == GEARS
        check(runner)


def test_a_static_model_is_one_gear(backend, spy):
    with open_model(compiled(AFFINE, (4,)), backend=backend, slots=2) as runner:
        assert runner.batching.sizes == (4,)
        check(runner)
    assert not spy.named("mdl.set_dynamic_batch_size", "mdl.set_input_dynamic_dims")


def dims_model(folder, model, shapes, gears):
    flags = [f"--input_shape={shapes}", f"--dynamic_dims={gears}", "--precision_mode=must_keep_origin_dtype"]
    return convert(folder, model.proto(), *flags, "--input_format=ND", name=model.name)


@pytest.mark.parametrize(
    ("model", "shapes", "gears", "sizes", "told"),
    [
        (AFFINE, "x:-1,6", "1;4;8", (1, 4, 8), {}),
        (AXIS_1, "x:5,-1", "2;6", (2, 6), {"batch_axis": {"x": 1, "y": 1}}),
        (AXIS_1, "x:5,-1", "2;6", (2, 6), {}),
        (ROWS_TIMES_3, "heads:-1,4", "3;12", (1, 4), {"rows_per_row": {"heads": 3, "weighted": 3}}),
        (SEVERAL, "left:-1,4;right:-1,4", "2,2;5,5", (2, 5), {}),
    ],
)
def test_dims_gears_that_are_batch_sizes(tmp_path, backend, spy, model, shapes, gears, sizes, told):
    om = dims_model(tmp_path, model, shapes, gears)
    with open_model(om, backend=backend, slots=3, **told) as runner:
        assert runner.batching.sizes == sizes
        assert {t.name: t.batch_axis for t in runner.spec.inputs} == {t.name: t.batch_axis for t in model.spec.inputs}
        for rows in (1, 3, 7, 17):
            check(runner, model, rows)
    assert spy.named("mdl.set_input_dynamic_dims")
    assert not spy.named("mdl.set_dynamic_batch_size")


@pytest.mark.parametrize(
    ("model", "shapes", "gears", "told", "message"),
    [
        (AFFINE, "x:-1,6", "1;4", {"rows_per_row": {"x": 3}}, r"gear \[1, 6\] .* no common number of rows"),
        (
            SEVERAL,
            "left:-1,4;right:-1,4",
            "2,2;5,5",
            {"rows_per_row": {"left": 2}},
            r"no common number of rows \(\[1.0, 2.0\]\)",
        ),
        (AXIS_1, "x:5,-1", "2;6", {"batch_axis": {"x": 0}}, r"input 'x' \[5, -1\]: expected gears .* differ in its rows only"),
    ],
)
def test_dims_gears_that_are_none(tmp_path, backend, model, shapes, gears, told, message):
    om = dims_model(tmp_path, model, shapes, gears)
    with pytest.raises(anybatch.ModelError, match=message):
        open_model(om, backend=backend, **told)


def test_dims_gears_of_the_same_rows(tmp_path, backend, spy):
    om = dims_model(tmp_path, AFFINE, "x:-1,6", "1;4")

    def twice(real, *args):
        gears, code = real(*args)
        return [gears[0], gears[0]], code

    spy.instead["mdl.get_input_dynamic_dims"] = twice
    with pytest.raises(anybatch.ModelError, match=r"two gears \(--dynamic_dims\) of the model have the same number of rows"):
        open_model(om, backend=backend)


def test_dims_gears_over_two_axes(tmp_path, backend):
    proto = elementwise([("x", TensorProto.FLOAT, ["n", "m"])], ("y", TensorProto.FLOAT, ["n", "m"]))
    om = convert(tmp_path, proto, "--input_shape=x:-1,-1", "--dynamic_dims=1,2;4,2", "--input_format=ND")
    with pytest.raises(
        anybatch.ModelError, match=r"input 'x' \[-1, -1\]: expected gears \(--dynamic_dims\) that differ in its rows"
    ):
        open_model(om, backend=backend)


IMAGE = ("x", TensorProto.FLOAT, [1, 3, "h", "w"])


def test_image_gears_are_refused_by_name(tmp_path, backend):
    proto = elementwise([IMAGE], ("y", *IMAGE[1:]))
    om = convert(tmp_path, proto, "--input_shape=x:1,3,-1,-1", "--dynamic_image_size=8,8;16,16", "--input_format=NCHW")
    with pytest.raises(
        anybatch.ModelError, match=r"compiled for image sizes \(--dynamic_image_size, 2 of them\).*--dynamic_batch"
    ):
        open_model(om, backend=backend)


def test_shape_ranges_are_refused_by_name(tmp_path, backend):
    proto = elementwise([("x", TensorProto.FLOAT, ["n", 3])])
    om = convert(tmp_path, proto, "--input_shape=x:1~8,3")
    with pytest.raises(
        anybatch.ModelError, match=r"compiled for a range of shapes \('x' has free dimensions\).*--dynamic_batch_size"
    ):
        open_model(om, backend=backend)


# --- names and dtypes ---


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("plain", "plain_out"),
        ("serving_default_x:0", "Identity:0"),
        ("a:0:b", "c:1:d"),
        ("x" * 200, "y" * 200),
        ("long:3:" + "x" * 200, "out:0:" + "y" * 200),
    ],
)
@pytest.mark.parametrize("gears", [(), ("--dynamic_batch_size=1,4",)])
def test_names_are_those_of_the_onnx_model(tmp_path, backend, name, output, gears):
    proto = elementwise([(name, TensorProto.FLOAT, ["n", 3])], (output, TensorProto.FLOAT, ["n", 3]))
    if ":" in name and gears == ():
        proto.graph.node[0].name = "scope/node"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    # atc's --input_shape parts names at colons from the right
    om = convert(tmp_path, proto, f"--input_shape={name}:{-1 if gears else 4},3", *gears)
    with open_model(om, backend=backend, slots=1) as runner:
        assert [t.name for t in runner.spec.inputs] == [name]
        assert [t.name for t in runner.spec.outputs] == [output]
        x = RNG.standard_normal((3, 3)).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(runner.run({name: x})[output], x)


@pytest.mark.parametrize("dtype", [name for name in BY_DTYPE if name != "bfloat16"])
def test_dtypes(backend, dtype):
    model = BY_DTYPE[dtype]
    with open_model(compiled(model, (2, 3)), backend=backend, slots=2) as runner:
        assert runner.spec.inputs[0].dtype == runner.spec.outputs[0].dtype == np.dtype(dtype)
        inputs = model.random_inputs(RNG, 4)
        assert runner.run(inputs)["y"].tobytes() == model.reference(inputs)["y"].tobytes()


def test_a_dtype_that_numpy_lacks(backend, spy):
    spy.instead["mdl.get_output_data_type"] = lambda real, *args: 29
    with pytest.raises(anybatch.ModelError, match=r"output '.*y' is of data type 29 \(aclDataType\), which NumPy does not"):
        open_model(compiled(AFFINE, GEARS), backend=backend)


def test_a_description_without_outputs(backend, spy):
    spy.instead["mdl.get_num_outputs"] = lambda real, *args: 0
    with pytest.raises(anybatch.ModelError, match="the model's description has no outputs"):
        open_model(compiled(AFFINE, GEARS), backend=backend)


def test_what_cannot_be_given_back_after_a_failed_open_is_told_with_its_cause(backend, spy):
    spy.instead["mdl.get_num_outputs"] = lambda real, *args: 0
    testing.machine().faults += [testing.Fault("acl.mdl.unload", nth, 545009) for nth in (1, 2)]
    with pytest.raises(anybatch.DeviceError, match=r"acl\.mdl\.unload failed \(status 545009\)") as raised:
        open_model(compiled(AFFINE, GEARS), backend=backend)
    assert "has no outputs" in str(raised.value.__cause__)
    assert [leak.kind for leak in testing.ledger().leaks] == ["model"]
    testing.reset()


def test_an_output_that_grows_out_of_proportion(backend, spy):
    def dims(real, desc, index):
        answer, code = real(desc, index)
        return {**answer, "dims": [answer["dims"][0] + 1, *answer["dims"][1:]]}, code

    spy.instead["mdl.get_cur_output_dims"] = dims
    with pytest.raises(anybatch.ModelError, match=r"is \[2, 5\] with 1 rows and \[9, 5\] with 8: expected one axis to grow"):
        open_model(compiled(AFFINE, GEARS), backend=backend)


def test_a_buffer_too_small_for_the_rows(backend, spy):
    spy.instead["mdl.get_output_size_by_index"] = lambda real, *args: real(*args) - 4
    with pytest.raises(anybatch.ModelError, match=r"'y': expected 160 bytes for 8 rows of .*the model says 156"):
        open_model(compiled(AFFINE, GEARS), backend=backend)


def test_an_output_without_rows(backend):
    with open_model(compiled(SAME, (2, 4)), backend=backend, combine={"doubled": "same"}, slots=2) as runner:
        assert {t.name: t.batch_axis for t in runner.spec.outputs} == {"y": 0, "doubled": None}
        check(runner, SAME, 7)


# --- several runners, devices, other libraries ---


def test_several_runners_share_one_process(spy, backend):
    om = compiled(AFFINE, GEARS)
    with (
        open_model(om, backend=backend, slots=2) as first,
        open_model(om, backend=backend, slots=2) as second,
        open_model(compiled(SEVERAL, (2, 4)), backend=backend, device=1, slots=2) as third,
    ):
        threads = [threading.Thread(target=check, args=args) for args in [(first,), (second,), (third, SEVERAL)]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        second.close()
        check(first)
        check(third, SEVERAL)
    assert not spy.named("finalize")  # at exit, once


@pytest.mark.parametrize("device", [0, 1])
def test_devices(spy, backend, device):
    with open_model(compiled(AFFINE, GEARS), backend=backend, device=device, slots=1) as runner:
        check(runner)
        assert [call.args for call in spy.named("rt.create_context")] == [(device,)]


def test_a_device_that_is_not_there(backend):
    with pytest.raises(anybatch.InputError, match="ascend: expected a device from 0 to 1, got 2"):
        open_model(compiled(AFFINE, GEARS), backend=backend, device=2)


def test_a_device_that_is_lost(backend):
    testing.reset(devices=2, lost_devices=(1,))
    with pytest.raises(
        anybatch.InputError, match=r"acl.rt.create_context failed \(status 107001\): RT_INVALID_DEVICEID.*npu-smi"
    ):
        open_model(compiled(AFFINE, GEARS), backend=backend, device=1)


def test_initialized_by_another_library(backend):
    assert acl_sim.init() == 0
    with open_model(compiled(AFFINE, GEARS), backend=backend) as runner:
        check(runner)
    assert acl_sim.finalize() == 0  # it is still theirs to end


def test_init_fails(backend):
    testing.reset(faults=(testing.Fault("acl.init", 1, 500004),))
    with pytest.raises(anybatch.BackendUnavailableError, match=r"acl.init failed \(status 500004\): DRV_FAILURE"):
        open_model(compiled(AFFINE, GEARS), backend=backend)


def test_acl_config_is_passed_on(tmp_path, backend, spy):
    config = tmp_path / "acl.json"
    config.write_text(json.dumps({"profiler": {}}))
    with open_model(compiled(AFFINE, GEARS), backend=backend, acl_config=config):
        assert spy.named("init")[0].args == (str(config),)


def test_an_acl_config_that_is_no_file(tmp_path, backend):
    with pytest.raises(anybatch.InputError, match=r"acl.init failed \(status 100003\): INVALID_FILE.*acl_config"):
        open_model(compiled(AFFINE, GEARS), backend=backend, acl_config=tmp_path / "none.json")


@pytest.mark.parametrize("code", [100001, 145001])
def test_another_library_finalizes_while_a_runner_is_open(backend, code):
    # What a card answers then; the simulator would stop the program.
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=1) as runner:
        nth = testing.ledger().calls["acl.mdl.execute_async"] + 1
        testing.machine().faults.append(testing.Fault("acl.mdl.execute_async", nth, code))
        with pytest.raises(
            anybatch.DeviceError, match=r"something in this process called acl\.finalize while a runner was open"
        ):
            check(runner)


@pytest.mark.parametrize("callback_every", [0, 1])
def test_a_thread_keeps_the_context_of_another_library(backend, callback_every):
    assert acl_sim.rt.set_device(1) == 0
    theirs = acl_sim.rt.get_context()
    assert theirs[1] == 0
    runner = open_model(compiled(AFFINE, GEARS), backend=backend, callback_every=callback_every)
    assert acl_sim.rt.get_context() == theirs
    check(runner)
    assert acl_sim.rt.get_context() == theirs
    requests = [AFFINE.random_inputs(RNG, rows) for rows in (3, 9, 2)]
    assert len(list(runner.map(requests))) == 3
    assert acl_sim.rt.get_context() == theirs
    nth = testing.ledger().calls["acl.mdl.execute_async"] + 1
    testing.machine().faults.append(testing.Fault("acl.mdl.execute_async", nth, 507011))
    with pytest.raises(anybatch.DeviceError):
        check(runner)
    assert acl_sim.rt.get_context() == theirs
    runner.close()
    assert acl_sim.rt.get_context() == theirs
    with pytest.raises(anybatch.ModelError):
        open_model(compiled(AFFINE, GEARS), backend=backend, batch_sizes=[3])
    assert acl_sim.rt.get_context() == theirs
    assert acl_sim.rt.reset_device(1) == 0


def test_a_context_that_its_owner_destroyed_meanwhile_is_not_missed(backend):
    context, _ = acl_sim.rt.create_context(1)
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=1) as runner:
        real = acl_sim.rt.synchronize_stream

        def destroy(stream):
            acl_sim.rt.destroy_context(context)
            return real(stream)

        runner._session._synchronize = destroy
        check(runner, rows=3)


# --- what is missing ---


def test_pyacl_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "acl", None)
    with pytest.raises(anybatch.BackendUnavailableError) as raised:
        open_model(compiled(AFFINE, GEARS), backend=AscendBackend())
    assert str(raised.value).startswith("ascend: import acl failed (")
    assert "install that, then `source /usr/local/Ascend/ascend-toolkit/set_env.sh`" in str(raised.value)
    assert isinstance(raised.value.__cause__, ImportError)


def test_import_acl(monkeypatch, backend):
    monkeypatch.setitem(sys.modules, "acl", acl_sim)
    with open_model(compiled(AFFINE, GEARS), backend=AscendBackend()) as runner:
        assert runner.backend == "ascend"
        check(runner)


def test_a_function_that_this_cann_lacks(backend, spy):
    spy.missing.add("rt.malloc_host")
    with pytest.raises(
        anybatch.BackendUnavailableError, match=r"ascend: this pyACL has no acl\.rt\.malloc_host: install a newer CANN"
    ):
        open_model(compiled(AFFINE, GEARS), backend=backend)


def test_a_function_that_only_executing_needs(backend, spy):
    before = threading.active_count()
    spy.missing.add("rt.memset_async")
    with pytest.raises(anybatch.BackendUnavailableError, match=r"no acl\.rt\.memset_async"):
        open_model(compiled(AFFINE, GEARS), backend=backend)
    assert threading.active_count() == before  # the report thread is gone


def test_no_messages_of_the_runtime(backend, spy):
    spy.missing.add("get_recent_err_msg")
    with pytest.raises(
        anybatch.ModelError, match=r"load_from_mem failed \(status 145006\): GE_EXEC_MODEL_DATA_SIZE_INVALID: it is"
    ):
        open_model(b"IMOD" + bytes(200), backend=backend, load="mem")


def test_messages_of_what_was_no_failure_are_not_shown(backend, spy):
    assert acl_sim.init() == 0  # so that ours is refused, and leaves a message
    spy.instead["mdl.create_desc"] = lambda real: 0
    with pytest.raises(anybatch.DeviceError, match=r"it returned no handle$"):
        open_model(compiled(AFFINE, (4,)), backend=backend)
    del spy.instead["mdl.create_desc"]
    spy.instead["mdl.get_input_data_type"] = lambda real, *args: 0
    spy.instead["create_data_buffer"] = lambda real, *args: 0
    with pytest.raises(anybatch.DeviceError, match=r"it returned no handle$"):  # nor that a static model has no gear input
        open_model(compiled(AFFINE, (4,)), backend=backend)


def test_no_handle(backend, spy):
    spy.instead["mdl.create_dataset"] = lambda real: 0
    with pytest.raises(anybatch.DeviceError, match=r"acl\.mdl\.create_dataset failed: it returned no handle$") as raised:
        open_model(compiled(AFFINE, GEARS), backend=backend)
    assert (raised.value.code, raised.value.code_name, raised.value.function) == (0, "no handle", "acl.mdl.create_dataset")


def test_older_events_mean_one_launch_at_a_time(backend, spy, caplog):
    spy.missing.add("rt.create_event_ex_with_flag")
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=4) as runner:
        assert runner.concurrency == 1
        assert "has no acl.rt.create_event_ex_with_flag, so one launch runs at a time" in caplog.text
        check(runner)
        requests = [AFFINE.random_inputs(RNG, rows) for rows in (3, 9, 2, 30)]
        for request, outputs in zip(requests, runner.map(requests), strict=True):
            np.testing.assert_allclose(outputs["y"], AFFINE.reference(request)["y"], rtol=1e-5, atol=1e-5)
    assert not spy.named("rt.record_event", "rt.stream_wait_event", "rt.subscribe_report")


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load": "disk"}, r"expected load to be one of \['file', 'mem', 'file_with_mem', 'mem_with_mem'\], got 'disk'"),
        ({"slots": 0}, "expected slots to be an int of at least 1, got 0"),
        ({"slots": 2.0}, r"expected slots to be an int of at least 1, got 2\.0"),
        ({"slots": True}, "expected slots to be an int of at least 1, got True"),
        ({"callback_every": -1}, "expected callback_every to be an int of at least 0, got -1"),
        ({"callback_every": "2"}, "expected callback_every to be an int of at least 0, got '2'"),
        ({"acl_config": 3}, "expected acl_config to be a file, got 3"),
        ({"soc_version": "Ascend310P3"}, "ascend: option 'soc_version' is for compiling, and this .om is compiled already"),
        ({"slot": 2}, "no option 'slot'.*did you mean 'slots'"),
        ({"batch_axis": {"z": 0}}, "batch_axis names 'z', which is no input or output"),
        ({"rows_per_row": {"z": 2}}, "rows_per_row names 'z', which is no input or output"),
    ],
)
def test_options_that_do_not_fit(backend, options, message):
    with pytest.raises(anybatch.InputError, match=message):
        open_model(compiled(AFFINE, GEARS), backend=backend, **options)


def test_options_are_checked_before_acl_is_imported():
    def never():
        raise AssertionError

    with pytest.raises(anybatch.InputError, match="expected slots"):
        open_model(compiled(AFFINE, GEARS), backend=AscendBackend(acl=never), slots=0)


@pytest.mark.parametrize("slots", [1, 3])
def test_slots_are_the_concurrency(backend, spy, slots):
    with open_model(compiled(AFFINE, GEARS), backend=backend, slots=slots) as runner:
        assert runner.concurrency == slots
        assert len(spy.named("rt.create_stream")) == slots


def test_defaults(backend, spy):
    with open_model(compiled(AFFINE, GEARS), backend=backend) as runner:
        assert runner.concurrency == 6
        assert len(spy.named("rt.subscribe_report")) == 6
        assert spy.named("init")[0].args == ()


# --- usable? ---


def usable(monkeypatch, *, package=True, cards=(), home=None):
    monkeypatch.delitem(sys.modules, "acl", raising=False)
    monkeypatch.setattr(backend_module.importlib.util, "find_spec", lambda name: object() if package else None)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter([Path("/dev") / card for card in cards]))
    for variable in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"):
        monkeypatch.delenv(variable, raising=False)
    if home:
        monkeypatch.setenv(*home)
    return AscendBackend().check_usable()


def test_usable_without_the_package(monkeypatch):
    with pytest.raises(anybatch.BackendUnavailableError, match=r"ascend: the Python package acl is missing; .*set_env\.sh"):
        usable(monkeypatch, package=False, cards=["davinci0"])


def test_usable_without_a_card(monkeypatch):
    with pytest.raises(
        anybatch.BackendUnavailableError, match=r"there is no /dev/davinci\*, so no card or no driver; `npu-smi info`"
    ):
        usable(monkeypatch)


def test_usable(monkeypatch):
    home = ("ASCEND_HOME_PATH", "/usr/local/Ascend/latest")
    assert usable(monkeypatch, cards=["davinci0"]) == "pyACL, 1 Ascend device"
    assert (
        usable(monkeypatch, cards=["davinci0", "davinci1"], home=home) == "pyACL of /usr/local/Ascend/latest, 2 Ascend devices"
    )
    both = ("ASCEND_TOOLKIT_HOME", "/opt/cann")
    assert usable(monkeypatch, cards=["davinci7"], home=both) == "pyACL of /opt/cann, 1 Ascend device"


def test_cards_are_numbered_files(monkeypatch, tmp_path):
    for name in ("davinci0", "davinci12", "davinci_manager"):
        (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "acl", acl_sim)
    monkeypatch.setattr(backend_module, "Path", lambda path: tmp_path if path == "/dev" else Path(path))
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert AscendBackend().check_usable() == "pyACL, 2 Ascend devices"


def test_the_simulator_says_what_it_is():
    assert "a simulator" in ascend_sim().check_usable()
    assert ascend_sim().name == "ascend-sim"


# --- the process ---


PROGRAM = """
import sys, os, warnings
warnings.simplefilter("ignore")
import numpy as np
import anybatch
from anybatch_ascend import AscendBackend
runner = anybatch.open(sys.argv[1], backend=AscendBackend(), safety="off")
x = np.ones((3, 6), np.float32)
runner.run({"x": x})
"""


def run_program(text, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + text)
    command = [sys.executable, "-m", "acl_sim", "--check", "--report", str(tmp_path / "ledger.json"), str(program)]
    done = subprocess.run([*command, str(compiled(AFFINE, GEARS))], capture_output=True, text=True, timeout=120, check=False)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert ledger["calls"]["acl.finalize"] == 1
    assert ledger["leaks"] == ledger["violations"] == []
    return done


def test_a_runner_left_open_at_exit_is_closed_before_acl_is_finalized(tmp_path):
    text = """
import acl
def told(name, real):
    return lambda *args: (print(name, flush=True), real(*args))[1]
acl.finalize = told("finalize", acl.finalize)
acl.mdl.unload = told("unload", acl.mdl.unload)
acl.rt.destroy_context = told("destroy_context", acl.rt.destroy_context)
"""
    done = run_program(text, tmp_path)
    assert "Error" not in done.stderr
    assert done.stdout.split()[-3:] == ["unload", "destroy_context", "finalize"]


def test_a_forked_child_that_ends_finalizes_nothing(tmp_path):
    text = """
import acl
acl.finalize = lambda: print("finalize", flush=True)
acl.mdl.unload = lambda model: print("unload", flush=True) or 0
child = os.fork()
if child == 0:
    print("child", flush=True)
    import atexit
    atexit._run_exitfuncs()
    os._exit(0)  # ONNX Runtime, in the simulator, does not survive a fork either
os.waitpid(child, 0)
print("parent", flush=True)
"""
    program = tmp_path / "program.py"
    program.write_text("import sys, acl_sim\nsys.modules['acl'] = acl_sim\n" + PROGRAM + text)
    command = [sys.executable, str(program), str(compiled(AFFINE, GEARS))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["child", "parent", "unload", "finalize"]


def test_a_launch_that_goes_on_at_exit_is_left_to_the_driver(tmp_path):
    text = """
import threading, time, acl
real = acl.rt.synchronize_stream
started = threading.Event()
def forever(stream):
    started.set()
    time.sleep(1000)
acl.rt.synchronize_stream = forever
second = anybatch.open(sys.argv[1], backend=AscendBackend(), safety="off")
threading.Thread(target=second.run, args=[{"x": x}], daemon=True).start()
started.wait()
acl.rt.synchronize_stream = real
import anybatch_ascend._session as session
session._EXIT_WAIT_S = 0.2
acl.finalize = lambda: print("finalize", flush=True)
sys.stdout.flush()
import atexit
atexit.register(lambda: print("the end begins", flush=True))
"""
    program = tmp_path / "program.py"
    program.write_text("import sys, acl_sim\nsys.modules['acl'] = acl_sim\n" + PROGRAM + text + "\nrunner.close()\n")
    command = [sys.executable, str(program), str(compiled(AFFINE, GEARS))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "the end begins"  # and no finalize under a launch


def test_a_forked_child_is_refused_and_leaves_the_parents_things_alone(tmp_path):
    text = """
child = os.fork()
if child == 0:
    try:
        runner.run({"x": x})
    except anybatch.InputError as error:
        print(error, flush=True)
    runner.close()
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
print(runner.run({"x": x})["y"].shape)
"""
    out = run_program(text, tmp_path).stdout
    assert "expected a call in the process that opened this session" in out
    assert "CANN does not survive a fork" in out
    assert "(3, 5)" in out
