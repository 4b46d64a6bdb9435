"""The backend ``ipu-sim`` of anybatch: the IPU plugin, handed this simulator.

Nothing falls back to it: callers ask for it by name, and every report shows that name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType

try:
    import anybatch
    from anybatch_ipu import IpuBackend
except ImportError as error:
    raise ImportError("the backend ipu-sim needs the IPU plugin: pip install anybatch-ipu") from error


def _import_simulator() -> ModuleType:
    import poprt_sim  # takes half a second: it brings ONNX Runtime
    from poprt_sim._machine import machine

    try:
        machine()
    except ValueError as error:
        raise anybatch.BackendUnavailableError(
            f"ipu-sim: the variables POPRT_SIM_* ask for no such machine: {error}"
        ) from error
    return poprt_sim


def _say_what_it_is() -> str:
    return f"poprt_sim {version('anybatch-ipu-sim')}, a simulator: its times are modelled"


class DeviceClock:
    """The simulator's device clock, as `anybatch.Clock`: how far what was queued so far has come."""

    @property
    def name(self) -> str:
        """What it is, and the cost model that its times come from."""
        from poprt_sim import testing

        return f"device clock of poprt_sim, modelled by {testing.ledger().profile}"

    def __call__(self) -> float:
        """Return device time in seconds."""
        from poprt_sim import testing

        return testing.ledger().device_time_us * 1e-6


def backend(poprt: Callable[[], ModuleType] = _import_simulator) -> IpuBackend:
    """Return the backend; `poprt` stands in for the import of the simulator, for benchmarks that watch its calls."""
    return IpuBackend("ipu-sim", suffixes=frozenset(), poprt=poprt, runtime=_say_what_it_is, clock=DeviceClock())


@anybatch.hookimpl
def anybatch_backends() -> Sequence[anybatch.Backend]:
    """Return what this plugin offers."""
    return [backend()]
