"""`poprt.runtime`: run a compiled model on a device.

What of it exists depends on the version of PopRT that the machine presents (POPRT_SIM_VERSION, or `testing.reset`); without
one, everything of every version does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poprt_sim import _configs, _runners
from poprt_sim._devices import Device
from poprt_sim._machine import machine

if TYPE_CHECKING:
    from poprt_sim._configs import (
        AnyConfig,
        DeviceWaitConfig,
        HostConcatConfig,
        HostConcatRunnerConfig,
        LightRunnerConfig,
        PackAlgorithm,
        PackRunnerConfig,
        ReplicaIdToDevice,
        RunnerType,
        RuntimeConfig,
    )
    from poprt_sim._runners import (
        DataDesc,
        DeviceManager,
        HostConcatRunner,
        InputMemoryView,
        LightRunner,
        ModelRunner,
        OutputMemoryView,
        PackRunner,
        Runner,
    )

#: Name: the version that brought it, the version it was gone in, and what it is. Contract, table 0.1.
_NAMES: dict[str, tuple[str, str | None, Any]] = {
    "AnyConfig": ("1.2.0", None, _configs.AnyConfig),
    "DataDesc": ("1.0.2", None, _runners.DataDesc),
    "Device": ("1.0.2", None, Device),
    "DeviceManager": ("1.0.2", None, _runners.DeviceManager),
    "DeviceWaitConfig": ("1.0.2", None, _configs.DeviceWaitConfig),
    "HostConcatConfig": ("1.3.0", None, _configs.HostConcatConfig),
    "HostConcatRunner": ("1.3.0", None, _runners.HostConcatRunner),
    "HostConcatRunnerConfig": ("1.3.0", None, _configs.HostConcatRunnerConfig),
    "InputMemoryView": ("1.0.2", None, _runners.InputMemoryView),
    "LightRunner": ("1.3.0", None, _runners.LightRunner),
    "LightRunnerConfig": ("1.3.0", None, _configs.LightRunnerConfig),
    "ModelRunner": ("1.0.2", None, _runners.ModelRunner),
    "OutputMemoryView": ("1.0.2", None, _runners.OutputMemoryView),
    "PackAlgorithm": ("1.0.2", None, _configs.PackAlgorithm),
    "PackRunner": ("1.0.2", "1.3.0", _runners.PackRunner),
    "PackRunnerConfig": ("1.0.2", None, _configs.PackRunnerConfig),
    "ReplicaIdToDevice": ("1.3.0", None, _configs.ReplicaIdToDevice),
    "Runner": ("1.1.0", None, _runners.Runner),
    "RunnerType": ("1.3.0", None, _configs.RunnerType),
    "RuntimeConfig": ("1.0.2", None, _configs.RuntimeConfig),
}


def _existing() -> list[str]:
    here = machine()
    return [name for name, (since, before, _) in _NAMES.items() if here.speaks(since, before)]


def __getattr__(name: str) -> Any:
    since, before, thing = _NAMES.get(name, ("", None, None))
    if thing is None:
        raise AttributeError(f"module 'poprt.runtime' has no attribute {name!r}; it has {', '.join(_existing())}")
    here = machine()
    if not here.speaks(since, before):
        gone = f", gone in {before}" if before else ""
        raise AttributeError(
            f"module 'poprt.runtime' has no attribute {name!r} in PopRT {here.version}: it came with {since}{gone}"
        )
    return thing


def __dir__() -> list[str]:
    return sorted(_existing())


__all__ = [
    "AnyConfig",
    "DataDesc",
    "Device",
    "DeviceManager",
    "DeviceWaitConfig",
    "HostConcatConfig",
    "HostConcatRunner",
    "HostConcatRunnerConfig",
    "InputMemoryView",
    "LightRunner",
    "LightRunnerConfig",
    "ModelRunner",
    "OutputMemoryView",
    "PackAlgorithm",
    "PackRunner",
    "PackRunnerConfig",
    "ReplicaIdToDevice",
    "Runner",
    "RunnerType",
    "RuntimeConfig",
]
