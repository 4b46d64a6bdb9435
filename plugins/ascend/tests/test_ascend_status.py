"""The vendor's whole table of codes, each with the error it becomes."""

from __future__ import annotations

import pytest

import acl_sim
import anybatch
import ascend_models
from acl_sim import testing
from anybatch_ascend import AscendBackend
from anybatch_ascend.status import STATUS, AclDeviceError, AclError, AclInputError, AclModelError, error_for

# contracts/pyacl.md 1.6, in its order; the names without ACL_ERROR_.
INPUT, MODEL, INSTALLATION, DEVICE = (
    anybatch.InputError,
    anybatch.ModelError,
    anybatch.BackendUnavailableError,
    anybatch.DeviceError,
)
TABLE = {
    100000: ("INVALID_PARAM", DEVICE),
    100001: ("UNINITIALIZE", DEVICE),
    100002: ("REPEAT_INITIALIZE", DEVICE),
    100003: ("INVALID_FILE", INPUT),
    100037: ("REPEAT_FINALIZE", DEVICE),
    200000: ("BAD_ALLOC", DEVICE),
    200001: ("API_NOT_SUPPORT", MODEL),
    300000: ("STORAGE_OVER_LIMIT", MODEL),
    500000: ("INTERNAL_ERROR", DEVICE),
    500001: ("FAILURE", DEVICE),
    500002: ("GE_FAILURE", DEVICE),
    500003: ("RT_FAILURE", DEVICE),
    500004: ("DRV_FAILURE", INSTALLATION),
    145000: ("GE_PARAM_INVALID", DEVICE),
    145001: ("GE_EXEC_NOT_INIT", DEVICE),
    145002: ("GE_EXEC_MODEL_PATH_INVALID", MODEL),
    145003: ("GE_EXEC_MODEL_ID_INVALID", DEVICE),
    145006: ("GE_EXEC_MODEL_DATA_SIZE_INVALID", MODEL),
    145007: ("GE_EXEC_MODEL_ADDR_INVALID", DEVICE),
    145009: ("GE_EXEC_LOAD_MODEL_REPEATED", DEVICE),
    145011: ("GE_DYNAMIC_INPUT_ADDR_INVALID", DEVICE),
    145012: ("GE_DYNAMIC_INPUT_LENGTH_INVALID", DEVICE),
    145013: ("GE_DYNAMIC_BATCH_SIZE_INVALID", DEVICE),
    145014: ("GE_AIPP_BATCH_EMPTY", DEVICE),
    145015: ("GE_AIPP_NOT_EXIST", MODEL),
    145016: ("GE_AIPP_MODE_INVALID", MODEL),
    145021: ("GE_SHAPE_INVALID", DEVICE),
    107000: ("RT_PARAM_INVALID", DEVICE),
    107001: ("RT_INVALID_DEVICEID", INPUT),
    107002: ("RT_CONTEXT_NULL", DEVICE),
    107003: ("RT_STREAM_CONTEXT", DEVICE),
    107004: ("RT_MODEL_CONTEXT", DEVICE),
    107006: ("RT_EVENT_TIMESTAMP_INVALID", DEVICE),
    107011: ("RT_STREAM_SUBSCRIBE", DEVICE),
    107012: ("RT_THREAD_SUBSCRIBE", DEVICE),
    107015: ("RT_STREAM_NO_CB_REG", DEVICE),
    107017: ("RT_INVALID_HANDLE", DEVICE),
    107019: ("RT_WAIT_TIMEOUT", DEVICE),
    207000: ("RT_FEATURE_NOT_SUPPORT", INSTALLATION),
    207001: ("RT_MEMORY_ALLOCATION", DEVICE),
    207002: ("RT_MEMORY_FREE", DEVICE),
    207018: ("RT_DEVICE_OOM", DEVICE),
    507000: ("RT_INTERNAL_ERROR", DEVICE),
    507007: ("RT_CONTEXT_RELEASE_ERROR", DEVICE),
    507011: ("RT_MODEL_EXECUTE", DEVICE),
    507012: ("RT_REPORT_TIMEOUT", DEVICE),
    507033: ("RT_DEV_SETUP_ERROR", INSTALLATION),
    507046: ("RT_STREAM_SYNC_TIMEOUT", DEVICE),
    507047: ("RT_EVENT_SYNC_TIMEOUT", DEVICE),
    507899: ("RT_DRV_INTERNAL_ERROR", DEVICE),
    545001: ("GE_LOAD_MODEL", MODEL),
    545009: ("GE_UNLOAD_MODEL", DEVICE),
}
# What to do is told for these: one word of it each.
ADVICE = {
    100001: "acl.finalize",
    100003: "acl_config",
    145001: "acl.finalize",
    145002: "cannot be read",
    145006: "compile it again",
    145015: "insert_op_conf",
    145016: "static or dynamic",
    107001: "npu-smi",
    107002: "reset the device",
    200000: "host is out of memory",
    200001: "compile it with batch sizes",
    207000: "lacks the function",
    207001: "fewer slots",
    207018: "smaller batch sizes",
    300000: "more gears",
    500004: "driver failed",
    507011: "~/ascend/log",
    507033: "could not be set up",
    507899: "may need a reset",
    545001: "compile it again",
}


@pytest.fixture(autouse=True)
def machine():
    testing.reset()
    yield
    testing.assert_clean()


def open_failing(function, code, **options):
    testing.reset(faults=(testing.Fault(function, 1, code),))
    om = ascend_models.compiled(ascend_models.AFFINE, (1, 4, 8))
    with pytest.raises(AclError) as raised:
        ascend_models.open_model(om, backend=AscendBackend(acl=lambda: acl_sim), slots=1, **options)
    return raised.value


def test_the_table_is_the_vendors():
    assert {code: status.name for code, status in STATUS.items()} == {code: name for code, (name, _) in TABLE.items()}


@pytest.mark.parametrize("code", TABLE)
def test_each_code_becomes_the_error_of_who_has_to_act(code):
    name, kind = TABLE[code]
    error = error_for("ascend", "acl.rt.malloc", code, "EH0001: what the runtime said")
    assert isinstance(error, kind)
    assert [other for other in (INPUT, MODEL, INSTALLATION, DEVICE) if isinstance(error, other)] == [kind]
    said = (error.function, error.code, error.code_name, error.detail)
    assert said == ("acl.rt.malloc", code, name, "EH0001: what the runtime said")
    message = f"ascend: acl.rt.malloc failed (status {code}): {name}: EH0001: what the runtime said"
    if code in ADVICE:
        assert str(error).startswith(f"{message}; ")
        assert ADVICE[code] in str(error)
    else:
        assert str(error) == message


@pytest.mark.parametrize("code", TABLE)
def test_each_code_reaches_the_caller_with_the_runtimes_message(code):
    error = open_failing("acl.rt.create_stream", code)
    assert isinstance(error, TABLE[code][1])
    assert (error.function, error.code, error.code_name) == ("acl.rt.create_stream", code, TABLE[code][0])
    assert "fault injected into acl.rt.create_stream" in error.detail
    assert error.detail in str(error)


def test_a_code_of_no_table():
    error = open_failing("acl.rt.create_stream", 599999)
    assert isinstance(error, AclDeviceError)
    assert (error.backend, error.operation, error.status) == ("ascend", "acl.rt.create_stream", 599999)
    assert error.code_name == "unknown"
    assert "failed (status 599999): unknown: " in str(error)
    assert "not in the tables of CANN" in str(error)


def test_without_a_message_of_the_runtime():
    error = error_for("ascend", "acl.rt.free", 507899)
    assert str(error) == (
        "ascend: acl.rt.free failed (status 507899): RT_DRV_INTERNAL_ERROR: see `npu-smi info`; the card may need a reset"
    )
    assert error.detail == ""
    assert str(error_for("ascend", "acl.rt.free", 507000)) == "ascend: acl.rt.free failed (status 507000): RT_INTERNAL_ERROR"


def test_another_configuration_than_the_first_is_the_callers_move(tmp_path):
    config = tmp_path / "acl.json"
    config.write_text("{}")
    assert acl_sim.init() == 0
    om = ascend_models.compiled(ascend_models.AFFINE, (1, 4, 8))
    with pytest.raises(AclInputError, match=r"acl.init failed \(status 100000\).*another configuration than `acl_config`"):
        ascend_models.open_model(om, backend=AscendBackend(acl=lambda: acl_sim), acl_config=config)


@pytest.mark.parametrize("code", [code for code, (_, kind) in TABLE.items() if kind is not DEVICE])
@pytest.mark.parametrize("function", ["acl.mdl.execute_async", "acl.rt.memcpy_async", "acl.mdl.set_dynamic_batch_size"])
def test_while_it_executes_every_code_is_the_devices(function, code):
    # A session that is open has been given a right model, device and installation; execute() may raise DeviceError alone.
    om = ascend_models.compiled(ascend_models.AFFINE, (1, 4, 8))
    inputs = {"x": ascend_models.AFFINE.random_inputs(ascend_models.RNG, 3)["x"]}
    with ascend_models.open_model(om, backend=AscendBackend(acl=lambda: acl_sim), slots=1) as runner:
        nth = testing.ledger().calls[function] + 1
        testing.machine().faults.append(testing.Fault(function, nth, code))
        with pytest.raises(AclDeviceError, match=f"{function} .*{TABLE[code][0]}"):
            runner.run(inputs)
        assert runner.run(inputs)["y"].shape == (3, 5)


def test_giving_back_fails_as_the_device(monkeypatch):
    om = ascend_models.compiled(ascend_models.AFFINE, (1, 4, 8))
    runner = ascend_models.open_model(om, backend=AscendBackend(acl=lambda: acl_sim), slots=1)
    testing.machine().faults += [testing.Fault("acl.mdl.unload", nth, 500004) for nth in (1, 2)]
    with pytest.raises(AclDeviceError, match=r"acl.mdl.unload failed \(status 500004\)"):
        runner.close()
    assert len(testing.ledger().leaks) == 1  # the model, which the runtime would not take back; all else is
    testing.reset()


def test_a_failed_load_says_that_the_model_is_at_fault(tmp_path):
    broken = tmp_path / "broken.om"
    broken.write_bytes(b"IMOD" + bytes(200))
    with pytest.raises(
        AclModelError, match=r"acl.mdl.load_from_file failed \(status 145006\).*compile it again with the `atc`"
    ):
        ascend_models.open_model(broken, backend=AscendBackend(acl=lambda: acl_sim))
