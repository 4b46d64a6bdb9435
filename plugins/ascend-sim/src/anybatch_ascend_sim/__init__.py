"""The backend ``ascend-sim`` of anybatch: the Ascend plugin, handed this simulator and its converter.

Nothing falls back to it: callers ask for it by name, and every report shows that name. It lies beside `acl_sim` and not in it,
since importing anything of that brings ONNX Runtime, and backends are listed without.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING

try:
    import anybatch
    from anybatch_ascend import AscendBackend
except ImportError as error:
    raise ImportError("the backend ascend-sim needs the Ascend plugin: pip install anybatch-ascend") from error

if TYPE_CHECKING:
    from collections.abc import Callable


def _import_simulator() -> ModuleType:
    import acl_sim  # takes half a second: it brings ONNX Runtime

    return acl_sim


def _say_what_it_is() -> str:
    return f"acl_sim {version('anybatch-ascend-sim')}, a simulator: its times are modelled"


class DeviceClock:
    """The simulator's device clock, as `anybatch.Clock`: the virtual time of the thread that asks."""

    @property
    def name(self) -> str:
        """What it is, and the cost model that its times come from."""
        from acl_sim import testing

        return f"device clock of acl_sim, modelled by {testing.ledger().profile}"

    def __call__(self) -> float:
        """Return device time in seconds."""
        from acl_sim import testing

        return testing.now_us() * 1e-6


def backend(acl: Callable[[], ModuleType] = _import_simulator) -> AscendBackend:
    """Return the backend; `acl` stands in for the import of the simulator, for benchmarks that watch its calls."""
    return AscendBackend(
        "ascend-sim",
        suffixes=frozenset(),
        acl=acl,
        atc=[sys.executable, "-m", "acl_sim.atc"],
        runtime=_say_what_it_is,
        clock=DeviceClock(),
    )


@anybatch.hookimpl
def anybatch_backends() -> Sequence[anybatch.Backend]:
    """Return what this plugin offers."""
    return [backend()]
