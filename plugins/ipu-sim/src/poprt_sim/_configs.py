"""What a program configures: `RuntimeConfig` with the fields and defaults of each version of PopRT, and its siblings."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from poprt_sim._devices import Device
from poprt_sim._machine import machine

OFF = 0xFFFFFFFF  # batching_dim: no dynamic batch size
FOREVER = 0x7FFFFFFFFFFFFFFF


class RunnerType(enum.IntEnum):
    """Which runner a configuration is for."""

    ModelRunner = 0
    PackRunner = 1
    ModelFusionRunner = 2


class PackAlgorithm(enum.IntEnum):
    """How `PackRunner` fills rows in single-row mode."""

    next_fit = 0
    first_fit = 1


class DeviceWaitConfig:
    """How long a runner waits for a device, and how long it sleeps between two attempts.

    Decision: the Python names are the snake_case of the C++ ones; no program that sets them was found.

    Raises:
        TypeError: a field is given anything but whole seconds, 0 or more.
        AttributeError: there is no such field.
    """

    __slots__ = ("sleep_time_sec", "timeout_sec")

    def __init__(self, timeout_sec: int = 1, sleep_time_sec: int = 6) -> None:
        self.timeout_sec = timeout_sec
        self.sleep_time_sec = sleep_time_sec

    def __setattr__(self, name: str, value: int) -> None:
        _check_whole(0, FOREVER)(f"DeviceWaitConfig.{name}", value)
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeviceWaitConfig):
            return NotImplemented
        return (self.timeout_sec, self.sleep_time_sec) == (other.timeout_sec, other.sleep_time_sec)

    __hash__ = None  # type: ignore[assignment]  # it may change

    def __repr__(self) -> str:
        return f"poprt.runtime.DeviceWaitConfig{{timeoutSec={self.timeout_sec}, sleepTimeSec={self.sleep_time_sec}}}"


class ReplicaIdToDevice(dict[int, Device]):
    """Which device each replica runs on; empty: the runner chooses."""

    def __setitem__(self, replica: int, device: Device) -> None:
        if not isinstance(device, Device):
            raise TypeError(f"replica {replica}: expected a Device from DeviceManager, got {type(device).__name__}")
        super().__setitem__(replica, device)


Check: TypeAlias = Callable[[str, Any], None]


def _check_duration(name: str, value: Any) -> None:
    """Nanoseconds, or a timedelta, by version: table 0.1. Which version takes what beside its own is not known."""
    here = machine()
    takes_delta, takes_int = here.speaks(before="1.2.0"), here.speaks("1.2.0")
    if isinstance(value, datetime.timedelta) and takes_delta:
        if value < datetime.timedelta(0):
            raise TypeError(f"{name}: expected a duration of 0 or more, got {value}")
    elif isinstance(value, int) and not isinstance(value, bool) and takes_int:
        if not 0 <= value <= FOREVER:
            raise TypeError(f"{name}: expected nanoseconds from 0 to {FOREVER}, got {value}")
    else:
        wanted = " or ".join(["an int of nanoseconds"] * takes_int + ["a datetime.timedelta"] * takes_delta)
        raise TypeError(f"{name}: expected {wanted} in PopRT {here.version}, got {value!r}")


def _check_is(kind: type) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{name}: expected {kind.__name__}, got {value!r}")

    return check


def _check_whole(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise TypeError(f"{name}: expected a whole number from {low} to {high}, got {value!r}")

    return check


def _check_nothing(_: str, value: Any) -> None:
    del value


def _default_timeout() -> int | datetime.timedelta:
    """5 ms as a timedelta up to 1.1.0, then 10 ms; see table 0.1."""
    return 10_000_000 if machine().speaks("1.2.0") else datetime.timedelta(microseconds=5000)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its Python name, its name in C++ (and in reprs), what it starts as, and the version that brought it."""

    name: str
    camel: str
    default: Callable[[], Any]
    check: Check
    since: str
    shown: bool = True


#: In the order of the C++ structure, which is that of the repr of 1.3.0.
FIELDS = (
    Field("runner_type", "runnerType", lambda: RunnerType.ModelRunner, _check_is(RunnerType), "1.3.0"),
    Field("device_wait_config", "deviceWaitConfig", DeviceWaitConfig, _check_is(DeviceWaitConfig), "1.0.2"),
    Field("timeout_ns", "timeoutNS", _default_timeout, _check_duration, "1.0.2"),
    Field("thread_safe", "threadSafe", lambda: True, _check_is(bool), "1.0.2"),
    Field("validate_io_params", "validateIOParams", lambda: True, _check_is(bool), "1.0.2"),
    Field("batching_dim", "batchingDim", lambda: OFF, _check_whole(0, OFF), "1.0.2"),
    Field("check_package_hash", "checkPackageHash", lambda: True, _check_is(bool), "1.1.0"),
    Field("ring_buffer_size_multiplier", "ringBufferSizeMultiplier", lambda: 2, _check_whole(1, FOREVER), "1.2.0"),
    Field("auto_reset", "autoReset", lambda: False, _check_is(bool), "1.2.0"),
    Field("flush_on_waiting_outputs", "flushOnWaitingOutputs", lambda: False, _check_is(bool), "1.3.0"),
    Field("batch_size_timeout_ns", "batchSizeTimeoutNS", lambda: FOREVER, _check_duration, "1.3.0"),
    Field("data_parallel_timeout_ns", "dataParallelTimeoutNS", lambda: FOREVER, _check_duration, "1.3.0"),
    Field("is_batch_size_timeout_enabled", "isBatchSizeTimeoutEnabled", lambda: False, _check_is(bool), "1.3.0"),
    Field("request_tracepoints_buffer_size", "requestTracepointsBufferSize", lambda: 1000, _check_whole(0, FOREVER), "1.3.0"),
    Field("replica_id_to_device", "replicaIdToDevice", ReplicaIdToDevice, _check_is(dict), "1.3.0", shown=False),
    Field("flush_by_name", "flushByName", lambda: None, _check_nothing, "1.3.0", shown=False),
)


class RuntimeConfig:
    """How a runner behaves: contract 1.2 says what each field means. Fields are assigned after construction.

    A runner copies its configuration when it is made: later changes do nothing to it (Decision, as by-value in C++).

    Raises:
        TypeError: a field is given what it does not take, which includes what its version of PopRT does not take.
        AttributeError: a field that this version of PopRT does not have; in tolerant mode it is kept and means nothing.
    """

    runner_type: RunnerType
    device_wait_config: DeviceWaitConfig
    timeout_ns: int | datetime.timedelta
    thread_safe: bool
    validate_io_params: bool
    batching_dim: int
    check_package_hash: bool
    ring_buffer_size_multiplier: int
    auto_reset: bool
    flush_on_waiting_outputs: bool
    batch_size_timeout_ns: int | datetime.timedelta
    data_parallel_timeout_ns: int | datetime.timedelta
    is_batch_size_timeout_enabled: bool
    request_tracepoints_buffer_size: int
    replica_id_to_device: ReplicaIdToDevice
    flush_by_name: Any

    def __init__(self) -> None:
        self.__dict__.update({each.name: each.default() for each in fields()})

    def __setattr__(self, name: str, value: Any) -> None:
        for each in fields():
            if each.name == name:
                each.check(f"RuntimeConfig.{name}", value)
                break
        else:
            if machine().strict:
                raise _no_field(name)
        self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        """Reached for what is not there."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise _no_field(name)

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, RuntimeConfig) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it may change

    def __repr__(self) -> str:
        """As the reference pages of each version print it: JSON since 1.4.0, in braces in 1.3.0, nothing before."""
        here = machine()
        shown = [each for each in fields() if each.shown]
        if not here.speaks("1.3.0"):
            return object.__repr__(self).replace(f"{type(self).__module__}.", "poprt.runtime.")
        if not here.speaks("1.4.0"):
            words = [f"{each.camel}={self.__dict__[each.name]!r}" for each in shown if each.name != "runner_type"]
            return "poprt.runtime.RuntimeConfig{" + ", ".join(words) + ", }"
        values: dict[str, Any] = {}
        for each in shown:
            value = self.__dict__[each.name]
            if isinstance(value, DeviceWaitConfig):
                values[f"{each.camel}.sleepTimeSec"] = value.sleep_time_sec
                values[f"{each.camel}.timeoutSec"] = value.timeout_sec
            else:
                values[each.camel] = nanoseconds(value) if isinstance(value, datetime.timedelta) else value
        return json.dumps(dict(sorted(values.items())), separators=(", ", ":"))


def fields() -> tuple[Field, ...]:
    """The fields of the machine's version of PopRT."""
    here = machine()
    return tuple(each for each in FIELDS if here.speaks(each.since))


def _no_field(name: str) -> AttributeError:
    here = machine()
    names = ", ".join(each.name for each in fields())
    since = next((f", which came with {each.since}" for each in FIELDS if each.name == name), "")
    return AttributeError(f"RuntimeConfig of PopRT {here.version} has no field {name!r}{since}; it has {names}")


def nanoseconds(value: int | datetime.timedelta) -> int:
    """A duration as an int."""
    if isinstance(value, datetime.timedelta):
        return (value.days * 86_400_000_000 + value.seconds * 1_000_000 + value.microseconds) * 1000
    return value


class PackRunnerConfig:
    """How a pack runner packs samples. It can be made and filled; running it is not simulated.

    Unknown attributes are kept: a published program misspells one. Decision: names that no program uses are the snake_case of
    the C++ ones.
    """

    def __init__(
        self,
        timeout_microseconds: int = 0,
        max_valid_num: int = 0,
        dynamic_input_name: str = "",
        unpack_info_input_name: str = "",
    ) -> None:
        self.runner_type = RunnerType.PackRunner
        self.device_wait_config = DeviceWaitConfig()
        self.timeout_microseconds = timeout_microseconds
        self.compile_batch_size = -1
        self.max_valid_num = max_valid_num
        self.dynamic_input_name = dynamic_input_name
        self.unpack_info_input_name = unpack_info_input_name
        self.mask_name = ""
        self.dynamic_group: list[str] = []
        self.algorithm = PackAlgorithm.next_fit
        self.disable_data_across_rows = False
        self.enable_padding_remove = False
        self.delimiter_num = 0
        self.enable_prefetch_datastreams = True

    def enable_input_single_row_mode(self, mask_name: str, unpack_info_name: str = "", delimiter_num: int = 0) -> None:
        """Samples do not cross rows."""
        self.disable_data_across_rows = True
        self.mask_name = mask_name
        self.unpack_info_input_name = unpack_info_name or self.unpack_info_input_name
        self.delimiter_num = delimiter_num

    def enable_padding_remove_mode(self, mask_name: str, dynamic_group: list[str]) -> None:
        """The caller's padding is stripped, by the mask, from the inputs of the group."""
        self.enable_padding_remove = True
        self.mask_name = mask_name
        self.dynamic_group = list(dynamic_group)


class LightRunnerConfig:
    """How a light runner loads."""

    def __init__(self) -> None:
        self.check_package_hash = True
        self.replica_to_device = ReplicaIdToDevice()


class HostConcatConfig:
    """Which inputs are sent as one: a merged input of the compiled model, and the names of those in it, in their order.

    Attributes:
        shape, data_size_bytes: of the merged input.
    """

    __slots__ = ("data_size_bytes", "input_tensor_names", "shape", "tensor_name")

    def __init__(self) -> None:
        self.tensor_name = ""
        self.input_tensor_names: list[str] = []
        self.shape: list[int] = []
        self.data_size_bytes = 0


class HostConcatRunnerConfig:
    """How a host-concat runner behaves; it knows no other field than these (Decision: no other was seen).

    Attributes:
        check_package_hash, ring_buffer_size_multiplier, timeout_ns: as in `RuntimeConfig`.
        host_concat_config: what is sent as one; empty: what the PopEF says.
    """

    __slots__ = ("check_package_hash", "host_concat_config", "ring_buffer_size_multiplier", "timeout_ns")

    def __init__(self) -> None:
        self.check_package_hash = True
        self.ring_buffer_size_multiplier = 2
        self.timeout_ns: int | datetime.timedelta = 10_000_000
        self.host_concat_config: dict[str, HostConcatConfig] = {}

    def check(self) -> None:
        """Check what a runner is given.

        Raises:
            TypeError: a field holds what it does not take.
        """
        for each in FIELDS:
            if each.name in self.__slots__:
                each.check(f"HostConcatRunnerConfig.{each.name}", getattr(self, each.name))
        entries = self.host_concat_config
        if not isinstance(entries, dict) or not all(isinstance(entry, HostConcatConfig) for entry in entries.values()):
            raise TypeError(f"HostConcatRunnerConfig.host_concat_config: expected names and HostConcatConfigs, got {entries!r}")


AnyConfig: TypeAlias = RuntimeConfig | PackRunnerConfig
