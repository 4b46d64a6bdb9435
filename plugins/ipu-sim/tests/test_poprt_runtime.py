"""The runtime beside dynamic batching: versions, configurations, descriptors, devices, light runners, faults, the ledger."""

import datetime
import gc
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

import poprt_sim
from poprt_sim import _machine, runtime, testing
from poprt_sim._popef import PopefError, write_popef
from poprt_sim._profile import Profile, load_profile, presets
from poprt_sim._unsimulated import NotSimulated
from poprt_sim.testing import Config, Fault, Violation
from poprt_tools import WAIT_S, Callers, adder, doubler, rows, scaler

VERSIONS = _machine.VERSIONS


@pytest.fixture(autouse=True)
def fresh_machine():
    yield testing.reset(device_time="none")
    testing.reset()


def send(target, count=4):
    inputs, outputs, expected = rows(count)
    target.execute(inputs, outputs)
    np.testing.assert_array_equal(outputs["O"], expected)


# Versions: table 0.1


@pytest.mark.parametrize(
    ("name", "since", "before"),
    [
        ("ModelRunner", "1.0.2", None),
        ("Runner", "1.1.0", None),
        ("PackRunner", "1.0.2", "1.3.0"),
        ("LightRunner", "1.3.0", None),
        ("HostConcatRunner", "1.3.0", None),
        ("AnyConfig", "1.2.0", None),
        ("RuntimeConfig", "1.0.2", None),
    ],
)
def test_classes_by_version(name, since, before):
    for at, version in enumerate(VERSIONS):
        testing.reset(version=version)
        exists = at >= VERSIONS.index(since) and (before is None or at < VERSIONS.index(before))
        assert hasattr(runtime, name) == exists, version
        assert (name in dir(runtime)) == exists
    testing.reset()
    assert hasattr(runtime, name), "without a version every spelling exists"


def test_a_class_of_another_version_is_not_imported():
    testing.reset(version="1.0.2")
    with pytest.raises(ImportError):
        from poprt_sim.runtime import Runner  # noqa: F401
    with pytest.raises(AttributeError, match=r"no attribute 'Runner' in PopRT 1.0.2: it came with 1.1.0"):
        runtime.Runner  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Runer'; it has"):
        runtime.Runer  # noqa: B018


@pytest.mark.parametrize(
    ("name", "since"),
    [
        ("executeAsync", "1.0.2"),
        ("execute_async", "1.3.0"),
        ("get_model_inputs", "1.0.2"),
        ("get_execute_inputs", "1.1.0"),
        ("get_execute_outputs", "1.1.0"),
    ],
)
def test_methods_by_version(name, since):
    for at, version in enumerate(VERSIONS):
        testing.reset(version=version, device_time="none")
        target = runtime.ModelRunner(adder())
        assert hasattr(target, name) == (at >= VERSIONS.index(since)), version
        if not hasattr(target, name):
            with pytest.raises(AttributeError, match=f"no attribute '{name}' in PopRT {version}: it came with {since}"):
                getattr(target, name)
        send(target)
        del target


@pytest.mark.parametrize("version", VERSIONS)
def test_timeouts_by_version(version):
    testing.reset(version=version)
    config = runtime.RuntimeConfig()
    delta = datetime.timedelta(microseconds=300)
    if version < "1.2.0":
        assert config.timeout_ns == datetime.timedelta(milliseconds=5)
        config.timeout_ns = delta
        with pytest.raises(TypeError, match=rf"timeout_ns: expected a datetime.timedelta in PopRT {version}, got 300000"):
            config.timeout_ns = 300_000
    else:
        assert config.timeout_ns == 10_000_000
        config.timeout_ns = 300_000
        with pytest.raises(TypeError, match=rf"timeout_ns: expected an int of nanoseconds in PopRT {version}, got datetime"):
            config.timeout_ns = delta


def test_without_a_version_both_kinds_of_timeout_mean_the_same():
    for timeout in (300_000, datetime.timedelta(microseconds=300)):
        testing.reset(device_time="none")
        config = runtime.RuntimeConfig()
        config.timeout_ns = timeout
        config.batching_dim = 0
        target = runtime.Runner(adder(), config)
        send(target, 1)
        assert testing.now_us() == 300


def test_fields_and_defaults_by_version():
    old = {"device_wait_config", "timeout_ns", "thread_safe", "validate_io_params", "batching_dim"}
    expected = {
        "1.0.2": old,
        "1.1.0": old | {"check_package_hash"},
        "1.2.0": old | {"check_package_hash", "ring_buffer_size_multiplier", "auto_reset"},
    }
    newest = expected["1.2.0"] | {
        "runner_type",
        "flush_on_waiting_outputs",
        "batch_size_timeout_ns",
        "data_parallel_timeout_ns",
        "is_batch_size_timeout_enabled",
        "request_tracepoints_buffer_size",
        "replica_id_to_device",
        "flush_by_name",
    }
    for version in VERSIONS:
        testing.reset(version=version)
        config = runtime.RuntimeConfig()
        assert set(vars(config)) == expected.get(version, newest)
        if version >= "1.3.0":
            assert config.runner_type == runtime.RunnerType.ModelRunner
            assert (config.batch_size_timeout_ns, config.request_tracepoints_buffer_size) == (2**63 - 1, 1000)
            assert not config.replica_id_to_device
        assert config.batching_dim == 0xFFFFFFFF
        assert config.thread_safe
        assert config.validate_io_params
        if version >= "1.2.0":
            assert (config.ring_buffer_size_multiplier, config.auto_reset) == (2, False)
        else:
            gone = f"RuntimeConfig of PopRT {version} has no field 'auto_reset', which came with 1.2.0; it has"
            with pytest.raises(AttributeError, match=gone):
                config.auto_reset  # noqa: B018 - reading it is the test
            with pytest.raises(AttributeError, match=gone):
                config.auto_reset = True


def test_reprs_by_version():
    testing.reset(version="1.5.0")
    assert repr(runtime.RuntimeConfig()) == (
        '{"autoReset":false, "batchSizeTimeoutNS":9223372036854775807, "batchingDim":4294967295, "checkPackageHash":true, '
        '"dataParallelTimeoutNS":9223372036854775807, "deviceWaitConfig.sleepTimeSec":6, "deviceWaitConfig.timeoutSec":1, '
        '"flushOnWaitingOutputs":false, "isBatchSizeTimeoutEnabled":false, "requestTracepointsBufferSize":1000, '
        '"ringBufferSizeMultiplier":2, "runnerType":0, "threadSafe":true, "timeoutNS":10000000, "validateIOParams":true}'
    )
    testing.reset(version="1.3.0")
    assert repr(runtime.RuntimeConfig()) == (
        "poprt.runtime.RuntimeConfig{deviceWaitConfig=poprt.runtime.DeviceWaitConfig{timeoutSec=1, sleepTimeSec=6}, "
        "timeoutNS=10000000, threadSafe=True, validateIOParams=True, batchingDim=4294967295, checkPackageHash=True, "
        "ringBufferSizeMultiplier=2, autoReset=False, flushOnWaitingOutputs=False, batchSizeTimeoutNS=9223372036854775807, "
        "dataParallelTimeoutNS=9223372036854775807, isBatchSizeTimeoutEnabled=False, requestTracepointsBufferSize=1000, }"
    )
    testing.reset(version="1.2.0")
    assert "RuntimeConfig object" in repr(runtime.RuntimeConfig())


# Configurations


def test_a_misspelt_field_is_refused_and_in_tolerant_mode_kept():
    config = runtime.RuntimeConfig()
    with pytest.raises(AttributeError, match="has no field 'timeout'; it has runner_type, device_wait_config, timeout_ns"):
        config.timeout = 1
    testing.reset(strict=False)
    config.timeout = 1
    assert config.timeout == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batching_dim", -1, "RuntimeConfig.batching_dim: expected a whole number from 0 to 4294967295, got -1"),
        ("batching_dim", 1.0, "got 1.0"),
        ("timeout_ns", -1, "RuntimeConfig.timeout_ns: expected nanoseconds from 0 to 9223372036854775807, got -1"),
        ("timeout_ns", 2**63, "expected nanoseconds from 0 to 9223372036854775807, got 9223372036854775808"),
        ("batching_dim", 2**32, "expected a whole number from 0 to 4294967295, got 4294967296"),
        ("timeout_ns", datetime.timedelta(seconds=-1), "expected a duration of 0 or more"),
        ("timeout_ns", 0.5, "expected an int of nanoseconds or a datetime.timedelta in PopRT 1.5.0, got 0.5"),
        ("timeout_ns", True, "got True"),
        ("thread_safe", 1, "RuntimeConfig.thread_safe: expected bool, got 1"),
        ("ring_buffer_size_multiplier", 0, "expected a whole number from 1"),
        ("device_wait_config", 3, "expected DeviceWaitConfig, got 3"),
    ],
)
def test_values_that_a_field_does_not_take(name, value, message):
    config = runtime.RuntimeConfig()
    before = getattr(config, name)
    with pytest.raises(TypeError, match=message.replace(".", r"\.")):
        setattr(config, name, value)
    assert getattr(config, name) == before


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("timeout_ns", [0, 2**63 - 1, datetime.timedelta(0)]),
        ("batch_size_timeout_ns", [0, 2**63 - 1]),
        ("batching_dim", [0, 0xFFFFFFFF]),
        ("ring_buffer_size_multiplier", [1, 2**63 - 1]),
        ("request_tracepoints_buffer_size", [0, 2**63 - 1]),
    ],
)
def test_the_least_and_the_most_that_a_field_takes(name, values):
    config = runtime.RuntimeConfig()
    for value in values:
        setattr(config, name, value)
        assert getattr(config, name) == value


def test_configurations_compare_by_value_and_are_copied_by_runners():
    config = runtime.RuntimeConfig()
    assert config == runtime.RuntimeConfig()
    config.batching_dim = 0
    assert config != runtime.RuntimeConfig()
    target = runtime.Runner(adder(), config)
    config.batching_dim = 0xFFFFFFFF
    send(target, 1)


def test_fields_and_defaults_of_pack_configurations():
    assert {**vars(runtime.PackRunnerConfig()), "device_wait_config": None} == {
        "runner_type": runtime.RunnerType.PackRunner,
        "device_wait_config": None,
        "timeout_microseconds": 0,
        "compile_batch_size": -1,
        "max_valid_num": 0,
        "dynamic_input_name": "",
        "unpack_info_input_name": "",
        "mask_name": "",
        "dynamic_group": [],
        "algorithm": runtime.PackAlgorithm.next_fit,
        "disable_data_across_rows": False,
        "enable_padding_remove": False,
        "delimiter_num": 0,
        "enable_prefetch_datastreams": True,
    }
    assert runtime.PackRunnerConfig().device_wait_config == runtime.DeviceWaitConfig(1, 6)
    by_position = runtime.PackRunnerConfig(15000, 40, "input_ids", "unpack_info")
    assert (by_position.timeout_microseconds, by_position.max_valid_num) == (15000, 40)
    assert (by_position.dynamic_input_name, by_position.unpack_info_input_name) == ("input_ids", "unpack_info")
    assert [each.name for each in runtime.PackAlgorithm] == ["next_fit", "first_fit"]


def test_pack_configurations_exist_and_running_them_is_refused():
    config = runtime.PackRunnerConfig(timeout_microseconds=15000, max_valid_num=40, dynamic_input_name="input_ids")
    assert type(config) == runtime.PackRunnerConfig  # noqa: E721 - as a published program asks
    config.algorithom = runtime.PackAlgorithm.next_fit
    config.algorithm = runtime.PackAlgorithm.first_fit
    config.enable_input_single_row_mode("attention_mask", "unpack_info", 1)
    assert (config.mask_name, config.unpack_info_input_name, config.delimiter_num) == ("attention_mask", "unpack_info", 1)
    assert (config.disable_data_across_rows, config.enable_padding_remove) == (True, False)
    config.enable_padding_remove_mode("mask", ["input_ids", "mask"])
    assert (config.mask_name, config.dynamic_group) == ("mask", ["input_ids", "mask"])
    assert config.enable_padding_remove
    with pytest.raises(NotSimulated, match=r"running a pack .* is not simulated"):
        runtime.Runner(adder(), config)
    with pytest.raises(NotSimulated, match=r"PackRunner.* is not simulated"):
        runtime.PackRunner(adder(), config)


# What a runner takes and says of itself


def test_a_runner_takes_a_path_or_an_executable(tmp_path):
    path = tmp_path / "model.popef"
    path.write_bytes(write_popef(adder().popef))
    send(runtime.Runner(str(path)))
    with pytest.raises(TypeError, match="popef: expected a path as str, or an Executable, got PosixPath"):
        runtime.Runner(path)
    with pytest.raises(PopefError):
        runtime.Runner(str(tmp_path / "missing.popef"))
    with pytest.raises(TypeError, match="config: expected a RuntimeConfig or PackRunnerConfig, got dict"):
        runtime.Runner(adder(), {})
    gc.collect()
    testing.assert_clean()


def test_descriptors():
    target = runtime.Runner(doubler((4, 2), dtype=np.float16))
    (desc,) = target.get_execute_inputs()
    assert isinstance(desc, runtime.DataDesc)
    assert (desc.name, desc.shape, desc.size_in_bytes, desc.popef_contains_tensor_data) == ("X", [4, 2], 16, False)
    assert desc.numpy_data_type() == "float16"
    assert not runtime.DataDesc("X", 16, [4, 2], np.float16).popef_contains_tensor_data
    assert np.zeros(desc.shape, desc.numpy_data_type()).astype(desc.numpy_data_type()).dtype == np.float16
    desc.shape[0] = 1
    assert target.get_execute_inputs()[0].shape == [4, 2]
    assert [each.name for each in target.get_execute_outputs()] == ["O"]
    assert [each.name for each in target.get_model_inputs()] == ["X"]
    assert [each.name for each in target.get_model_outputs()] == ["O"]


def test_memory_views_are_dictionaries():
    inputs, outputs, expected = rows(4)
    view = runtime.OutputMemoryView(outputs)
    runtime.Runner(adder()).execute(runtime.InputMemoryView(inputs), view)
    np.testing.assert_array_equal(view["O"], expected)


def test_both_spellings_of_async():
    target = runtime.Runner(adder())
    for name in ("execute_async", "executeAsync"):
        inputs, outputs, expected = rows(4)
        getattr(target, name)(inputs, outputs).wait()
        np.testing.assert_array_equal(outputs["O"], expected)


# Devices


def test_the_device_manager():
    testing.reset(devices=3, ipu_version="ipu2", lost_devices=(0,))
    manager = runtime.DeviceManager()
    assert manager.ipu_hardware_version() == "ipu2"
    assert manager.get_num_devices() == 3
    with pytest.raises(RuntimeError, match=r"cannot attach device 0: IPU 0 does not answer$"):
        manager.get_specific_device(0)
    with pytest.raises(RuntimeError, match="cannot attach device 3: expected 0 to 2"):
        manager.get_specific_device(3)
    first = manager.get_specific_device(1)
    assert first.ipu_version() == "ipu2"
    with pytest.raises(
        RuntimeError, match=r"cannot attach device 1: .*IPU 1 belongs to get_specific_device\(1\), made at .*test_poprt"
    ):
        manager.get_specific_device(1)
    with pytest.raises(RuntimeError, match=r"get_device\(2\) cannot attach 2 IPUs, after 0 s"):
        manager.get_device(2)
    with pytest.raises(RuntimeError, match=r"get_device\(4\) needs 4 IPUs: expected 1 to 3"):
        manager.get_device(4)
    leak = testing.ledger().leaks
    assert [(each.kind, each.what) for each in leak] == [("device", "get_specific_device(1) on IPU 1")]
    del first
    gc.collect()
    manager.get_device(2)
    testing.assert_clean()


def test_a_device_belongs_to_one_runner_until_it_is_deleted():
    testing.reset(devices=1, device_time="none")
    first = runtime.Runner(adder())
    begin = testing.now_us()
    with pytest.raises(
        RuntimeError,
        match=r"'tiny' cannot attach 1 IPU, after 1 s: IPU 0 belongs to the runner of 'tiny', made at .*test_poprt",
    ):
        runtime.Runner(adder())
    assert testing.now_us() - begin == 1e6
    assert [leak.kind for leak in testing.ledger().leaks] == ["runner"]
    with pytest.raises(AssertionError, match="leak runner the runner of 'tiny' on IPU 0"):
        testing.assert_clean()
    del first
    second = runtime.Runner(adder())
    send(second)
    del second
    testing.assert_clean()


@pytest.mark.parametrize(
    ("wait", "released", "ends"),
    [
        ((10, 2), 3e6, 4e6),  # attempts at 0, 2, 4, ... s
        ((3, 2), 2.5e6, 3e6),  # and at the end of the time
        ((1, 6), 0.5e6, 1e6),
        ((1, 0), 2500, 3000),  # never less than 1 ms apart
    ],
)
def test_a_runner_waits_for_a_device_as_it_is_told(wait, released, ends):
    testing.reset(devices=1, device_time="none")
    config = runtime.RuntimeConfig()
    config.device_wait_config = runtime.DeviceWaitConfig(*wait)
    holder = [runtime.Runner(adder())]

    def release():
        holder.clear()
        gc.collect()

    def get():
        send(runtime.Runner(adder(), config))

    callers = Callers([(0, get), (released, release)]).run().raise_errors()
    assert callers.ends[0] == ends


@pytest.mark.parametrize("value", [-1, 0.5, "1", True, None])
def test_a_wait_for_a_device_is_in_whole_seconds(value):
    config = runtime.DeviceWaitConfig()
    for name in ("timeout_sec", "sleep_time_sec"):
        with pytest.raises(TypeError, match=rf"DeviceWaitConfig.{name}: expected a whole number from 0 to .*, got {value!r}"):
            setattr(config, name, value)
    assert config == runtime.DeviceWaitConfig(1, 6)
    with pytest.raises(AttributeError, match="timeout_s"):
        config.timeout_s = 1


def test_a_model_for_several_ipus():
    testing.reset(devices=3, device_time="none")
    first = runtime.Runner(adder(num_ipus=2))
    with pytest.raises(RuntimeError, match="cannot attach 2 IPUs"):
        runtime.Runner(adder(num_ipus=2))
    second = runtime.Runner(adder())
    send(first)
    send(second)


def test_the_wrong_hardware_version_takes_no_device():
    with pytest.raises(
        RuntimeError, match="compiled for ipu2, but the IPUs here are ipu21, not ipu2: compile with ipu_version"
    ):
        runtime.Runner(adder(ipu_version="ipu2"))
    testing.assert_clean()


def test_a_pinned_device():
    config = runtime.RuntimeConfig()
    config.replica_id_to_device[0] = runtime.DeviceManager().get_specific_device(2)
    target = runtime.Runner(adder(), config)
    send(target)
    assert {(leak.kind, leak.what) for leak in testing.ledger().leaks} == {
        ("device", "get_specific_device(2) on IPU 2"),
        ("runner", "the runner of 'tiny' on IPU 2"),
    }
    with pytest.raises(
        RuntimeError, match=r"cannot load on IPU 2: the runner of 'tiny', made at .* is there; stop or delete it first"
    ):
        runtime.Runner(adder(), config)
    with pytest.raises(RuntimeError, match="needs 2 IPUs, the device for replica 0 has 1"):
        runtime.Runner(adder(num_ipus=2), config)
    with pytest.raises(TypeError, match="replica 0: expected a Device from DeviceManager, got int"):
        runtime.ReplicaIdToDevice()[0] = 1
    config.replica_id_to_device[1] = config.replica_id_to_device[0]
    with pytest.raises(RuntimeError, match=r"expected a device for replica 0, got \[0, 1\]"):
        runtime.Runner(adder(), config)
    assert not runtime.ReplicaIdToDevice()


# The end of a runner


def test_deleting_a_runner_with_requests_in_flight_is_undefined(capsys):
    target = runtime.Runner(adder())
    inputs, outputs, _ = rows(4)
    future = target.execute_async(inputs, outputs)
    del target
    gc.collect()
    with pytest.raises(RuntimeError, match="the runner was deleted while this request was in flight"):
        future.wait()
    (violation,) = testing.ledger().violations
    assert violation.rule == "requests in flight"
    assert "deleted with 1 requests in flight" in capsys.readouterr().err


def test_a_runner_of_a_replaced_machine_refuses():
    target = runtime.Runner(adder())
    testing.reset()
    with pytest.raises(RuntimeError, match=r"belongs to a simulated machine that was replaced by testing.reset"):
        send(target)


# Light runners


def light(executable, **fields):
    config = runtime.LightRunnerConfig()
    for name, value in fields.items():
        setattr(config, name, value)
    return runtime.LightRunner(executable, config)


def multiply(target):
    out = np.zeros((4, 2), np.float32)
    target.execute({"X": np.ones((4, 2), np.float32)}, {"O": out})
    return out[0].tolist()


def test_weights_are_described_and_updated():
    target = light(scaler(factor=3.0))
    weight = [each for each in target.get_model_inputs() if each.popef_contains_tensor_data]
    assert [(each.name, each.shape) for each in weight] == [("Weight", [2])]
    assert [each.name for each in target.get_execute_inputs()] == ["X"]
    assert multiply(target) == [3, 3]
    new = np.array([5, 7], np.float32)
    target.set_input_anchor("Weight", new)
    new[:] = 0
    assert multiply(target) == [3, 3], "nothing changes before update_weights"
    target.update_weights()
    assert multiply(target) == [5, 7]
    target.stop()
    target.reload()
    assert multiply(target) == [3, 3]


def test_requests_in_flight_keep_the_weights_they_were_sent_with():
    target = light(scaler(factor=3.0))
    out = np.zeros((4, 2), np.float32)
    future = target.execute_async({"X": np.ones((4, 2), np.float32)}, {"O": out})
    target.set_input_anchor("Weight", np.array([5, 7], np.float32))
    target.update_weights()
    future.wait()
    assert out[0].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("W", np.zeros(2, np.float32), "'W' is no weight that may be updated; these may: 'Weight'"),
        ("Weight", np.zeros(3, np.float32), r"weight 'Weight': expected float32 \[2\], got float32 \[3\]"),
        ("Weight", np.zeros(2), r"expected float32 \[2\], got float64 \[2\]"),
        ("Weight", [1.0, 2.0], r"expected float32 \[2\], got list"),
    ],
)
def test_weights_that_do_not_fit(name, value, message):
    with pytest.raises(RuntimeError, match=message):
        light(scaler()).set_input_anchor(name, value)


def test_constant_weights_cannot_be_updated():
    with pytest.raises(RuntimeError, match="compile with constant_weights = False"):
        light(adder()).set_input_anchor("Weight", np.zeros(2, np.float32))


def test_stop_frees_the_device_for_another_runner_and_reload_takes_it_back():
    """EX lightrunner_example: two runners take turns on one pinned device."""
    devices = runtime.ReplicaIdToDevice()
    devices[0] = runtime.DeviceManager().get_specific_device(0)
    first = light(scaler(), replica_to_device=devices)
    assert multiply(first) == [3, 3]
    with pytest.raises(RuntimeError, match="on its device: call stop"):
        first.reload()
    first.stop()
    first.stop()
    with pytest.raises(Violation, match=r"\[use after stop\] the runner was stopped"):
        multiply(first)
    second = light(scaler(), replica_to_device=devices)
    assert multiply(second) == [3, 3]
    with pytest.raises(RuntimeError, match="cannot load on IPU 0"):
        first.reload()
    second.stop()
    first.reload()
    assert multiply(first) == [3, 3]
    testing.reset(strict=False)
    third = light(scaler())
    third.stop()
    with pytest.raises(RuntimeError, match="the runner was stopped"):
        multiply(third)


def test_stopping_with_requests_in_flight_is_undefined():
    target = light(adder())
    future = target.execute_async(*rows(4)[:2])
    with pytest.raises(Violation, match=r"\[requests in flight\].*stopped with 1 requests"):
        target.stop()
    with pytest.raises(RuntimeError, match="stopped while this request was in flight"):
        future.wait()


def test_light_runners_have_no_dynamic_batch():
    target = light(adder())
    send(target, 8)
    with pytest.raises(RuntimeError, match="or N whole batches of it"):
        send(target, 3)
    with pytest.raises(TypeError, match="config: expected a LightRunnerConfig, got RuntimeConfig"):
        runtime.LightRunner(adder(), runtime.RuntimeConfig())


# Faults


def runtime_functions():
    return sorted(name for name in _machine.FUNCTIONS if name.startswith("runtime."))


def exercise():
    """Call every function of the runtime once."""
    manager = runtime.DeviceManager()
    manager.ipu_hardware_version()
    manager.get_num_devices()
    manager.get_device(1)
    device = manager.get_specific_device(0)
    del device
    gc.collect()
    target = runtime.Runner(adder())
    for name in ("get_execute_inputs", "get_execute_outputs", "get_model_inputs", "get_model_outputs"):
        getattr(target, name)()
    send(target)
    for name in ("execute_async", "executeAsync"):
        getattr(target, name)(*rows(4)[:2]).wait()
    weights = light(scaler())
    weights.set_input_anchor("Weight", np.zeros(2, np.float32))
    weights.update_weights()
    weights.stop()
    weights.reload()
    runtime.HostConcatRunner(adder(opaque_blobs=(("HostConcatRunnerConfig", "[]"),)))


def test_every_function_is_exercised():
    exercise()
    assert {name for name in testing.ledger().calls if name.startswith("runtime.")} == set(runtime_functions())
    gc.collect()
    testing.assert_clean()


@pytest.mark.parametrize("name", runtime_functions())
def test_each_function_fails_on_demand_and_nothing_leaks(name):
    testing.reset(device_time="none", faults=(Fault(name, 1, "no luck"),))
    with pytest.raises(RuntimeError, match=f"^{name}: no luck$".replace(".", r"\.")) as caught:
        exercise()
    caught.value.__traceback__ = None
    del caught
    gc.collect()
    assert not testing.ledger().leaks


def test_only_the_nth_call_fails():
    testing.reset(device_time="none", faults=(Fault("runtime.Runner.execute", 2),))
    target = runtime.Runner(adder())
    send(target)
    with pytest.raises(RuntimeError, match=r"runtime.Runner.execute: fault injected"):
        send(target)
    send(target)
    assert testing.ledger().runs == 2


def test_faults_as_text(tmp_path):
    text = "# for a test\nruntime.Runner.execute:2:some: text;device.run:*:unknown_runtime_error;\n"
    expected = (Fault("runtime.Runner.execute", 2, "some: text"), Fault("device.run", 0, "unknown_runtime_error"))
    assert _machine.parse_faults(text) == expected
    path = tmp_path / "faults"
    path.write_text(text)
    assert Config.from_environment({"POPRT_SIM_FAULTS": f"@{path}"}).faults == expected
    with pytest.raises(ValueError, match="expected FUNCTION:NTH:ERROR, NTH may be"):
        _machine.parse_faults("runtime.Runner.execute:x:y")
    with pytest.raises(ValueError, match="expected an error that begins with one of"):
        Fault("device.run", 1, "boom")
    with pytest.raises(ValueError, match="expected the number of a call from 1"):
        Fault("x", -1)


# The machine


def test_configuration_from_variables():
    variables = {
        "POPRT_SIM_DEVICES": "2",
        "POPRT_SIM_IPU_VERSION": "ipu2",
        "POPRT_SIM_VERSION": "1.2.0",
        "POPRT_SIM_STRICT": "0",
        "POPRT_SIM_DEVICE_TIME": "none",
        "POPRT_SIM_LOST_DEVICES": "0,1",
        "POPRT_SIM_GUARD_S": "inf",
        "POPRT_SIM_TILES": "8",
        "POPRT_SIM_TILE_MEMORY_BYTES": "1024",
    }
    config = Config.from_environment(variables)
    assert config == Config(
        devices=2, ipu_version="ipu2", version="1.2.0", strict=False, device_time="none", lost_devices=(0, 1),
        guard_s=float("inf"), tiles=8, tile_memory_bytes=1024,
    )  # fmt: skip
    assert Config.from_environment({}) == Config()
    assert Config.from_environment({"POPRT_SIM_VERSION": ""}).version is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "devices: expected 1 or more, got 0"),
        ({"ipu_version": "ipu3"}, "ipu_version: expected one of"),
        ({"version": "2.0"}, "version: expected one of .*, got '2.0'"),
        ({"guard_s": float("nan")}, "guard_s: expected seconds"),
        ({"guard_s": -1.0}, "guard_s: expected seconds"),
        ({"tiles": 0}, "tiles: expected 1 or more"),
    ],
)
def test_machines_that_do_not_exist(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("DEVICES", "two", "POPRT_SIM_DEVICES=two: expected a whole number, got 'two'"),
        ("DEVICES", "0", "POPRT_SIM_DEVICES=0: devices: expected 1 or more, got 0"),
        ("LOST_DEVICES", "1,x", "POPRT_SIM_LOST_DEVICES=1,x: expected a whole number, got 'x'"),
        ("GUARD_S", "soon", "POPRT_SIM_GUARD_S=soon: expected seconds, got 'soon'"),
        ("STRICT", "maybe", "POPRT_SIM_STRICT=maybe: expected one of 1, true, yes, on, 0, false, no, off, got 'maybe'"),
        ("VERSION", "9", "POPRT_SIM_VERSION=9: version: expected one of ('1.0.2', "),
        ("FAULTS", "boom", "POPRT_SIM_FAULTS=boom: fault 'boom': expected FUNCTION:NTH:ERROR"),
        ("FAULTS", "@/nowhere/faults", "POPRT_SIM_FAULTS=@/nowhere/faults: [Errno 2] No such file"),
    ],
)
def test_a_variable_that_does_not_fit_is_named(name, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Config.from_environment({f"POPRT_SIM_{name}": text})


def test_a_fault_in_a_function_that_does_not_exist_is_refused():
    wanted = r"fault in runtime.Runner.exceute: expected 'device.run' or one of .*; did you mean 'runtime.Runner.execute'\?"
    with pytest.raises(ValueError, match=wanted):
        testing.reset(faults=(Fault("runtime.Runner.exceute"),))
    testing.reset(faults=(Fault("converter.Converter"), Fault("device.run", 1, "unknown_runtime_error")))


def test_every_module_whose_functions_faults_may_name_is_looked_at():
    sources = Path(_machine.__file__).parent.glob("*.py")
    having = {path.stem for path in sources if "\n@api(" in path.read_text() or "\n    @api(" in path.read_text()}
    assert having - {"_machine"} == set(_machine.API_MODULES)  # that one shows how to use it


def test_the_package_says_the_version_that_the_machine_presents():
    testing.reset()
    assert poprt_sim.__version__ == "1.5.0"
    testing.reset(version="1.2.0")
    assert poprt_sim.__version__ == "1.2.0"


def test_a_violation_that_repeats_is_told_once_and_counted(capsys):
    here = testing.reset(strict=False)
    for _ in range(3):
        here.violate("some rule", "some text")
    here.violate("some rule", "other text")
    assert capsys.readouterr().err.count("some text") == 1
    text = testing.ledger().to_text()
    assert "4 violations" in text
    (line,) = [line for line in text.splitlines() if "some text" in line]
    assert line.endswith(", 3 times")
    assert "other text" in text
    assert ", 1 times" not in text


def test_tolerant_mode_writes_violations_down(capsys):
    here = testing.reset(strict=False)
    here.violate("some rule", "some text")
    assert testing.ledger().violations[0].rule == "some rule"
    assert "poprt_sim: violation [some rule] some text (at " in capsys.readouterr().err
    with pytest.raises(AssertionError, match="some rule"):
        testing.assert_clean()


def test_a_violation_passes_except_exception():
    assert not issubclass(Violation, Exception)


# Profiles


def test_every_figure_of_the_preset_says_where_it_is_from():
    assert presets() == ["c600", "none"]
    profile = load_profile("c600")
    figures = {name for name in Profile.__dataclass_fields__ if isinstance(getattr(profile, name), float)}
    assert set(profile.provenance) == figures


def test_profiles(tmp_path):
    assert load_profile("none") == Profile()
    assert load_profile("affine:5,2").compute_us("any", rows=4, flops=1e12, bytes_moved=0) == 13
    roof = Profile(peak_tflops=1, memory_gb_s=1, run_us=3, slow={"m": 2.0})
    assert roof.compute_us("x", rows=1, flops=2e6, bytes_moved=1000) == 5
    assert roof.compute_us("m", rows=1, flops=0, bytes_moved=1000) == 8
    path = tmp_path / "mine.json"
    path.write_text('{"load_gb_s": 1}')
    assert load_profile(str(path)).load_us(1000) == 1
    path.write_text('{"speed": 1}')
    with pytest.raises(ValueError, match=r"unknown fields \['speed'\]"):
        load_profile(str(path))
    path.write_text("[]")
    with pytest.raises(ValueError, match="a profile is a JSON object, not list"):
        load_profile(str(path))
    with pytest.raises(ValueError, match=r"expected one of .*'c600', 'none'.*, affine:US,US_PER_ROW or a JSON file"):
        load_profile("c60")
    with pytest.raises(ValueError, match="expected affine:US,US_PER_ROW, two numbers"):
        load_profile("affine:5")
    with pytest.raises(ValueError, match="load_gb_s: expected a number of 0 or more, got -1"):
        Profile(load_gb_s=-1)
    with pytest.raises(ValueError, match="efficiency: expected more than 0"):
        Profile(efficiency=0.0)
    with pytest.raises(ValueError, match="provenance of 'load_gb_s'"):
        Profile(provenance={"load_gb_s": {"kind": "published"}})
    with pytest.raises(ValueError, match="provenance: expected an object"):
        Profile(provenance=[])


# The ledger


def test_the_ledger_as_data_and_as_text():
    config = runtime.RuntimeConfig()
    config.batching_dim = 0
    target = runtime.Runner(adder(), config)
    send(target, 7)
    account = json.loads(testing.ledger().to_json())
    assert account["models"] == {"tiny": {"runs": 2, "real_rows": 7, "padded_rows": 1, "dummy_runs": 0, "merged_runs": 0}}
    assert (account["requests"], account["runs"], account["flushes"], account["waits"]) == (1, 2, 1, 1)
    assert account["waited_us"] == 10_000
    assert account["calls"]["runtime.Runner.execute"] == 1
    assert account["leaks"][0]["kind"] == "runner"
    text = testing.ledger().to_text()
    assert "0 violations, 1 leaks" in text
    assert "1 requests in 2 runs: 7 real rows, 1 padded (12.5% of all)" in text
    assert "waited 1 times, 10000.0 us in all; 1 of the waits timed out" in text


def test_the_default_profile_charges_all_engines():
    testing.reset()
    target = runtime.Runner(adder())
    assert testing.now_us() >= 2e6, "attaching takes seconds"
    send(target)
    busy = testing.ledger().busy_us
    assert set(busy) == {"load", "compute", "store"}
    assert all(us > 0 for us in busy.values())
    assert testing.ledger().profile == "c600"


# Time


def test_time_passes_only_where_it_is_spent():
    assert testing.now_us() == 0
    assert testing.spend_us(12.5) == 12.5
    assert testing.now_us() == 12.5
    with pytest.raises(ValueError, match="expected microseconds, 0 or more, got -1"):
        testing.spend_us(-1)


def test_a_new_thread_begins_at_its_starters_time():
    testing.spend_us(100)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(testing.now_us()))
    thread.start()
    thread.join(WAIT_S)
    assert seen == [100]
