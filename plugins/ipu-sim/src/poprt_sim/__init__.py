"""A strict stand-in for Graphcore's `poprt` package (PopRT): `import poprt_sim as poprt`, or `python -m poprt_sim PROGRAM`.

Sub-modules are imported when something of them is first used. Tests want `poprt_sim.testing`.
"""

from __future__ import annotations

import importlib
from typing import Any

#: The version of PopRT that the simulated machine presents.
__version__: str

_SUBMODULES = (
    *("backend", "backends", "cli", "compiler", "converter", "frontend", "optimizer", "passes", "profile", "quantizer"),
    *("runtime", "utils"),
)
_NAMES = {
    "Backend": "backends",
    "Converter": "converter",
    "Pass": "passes",
    "PassManager": "passes",
    "get_pass": "passes",
    "get_registered_passes": "passes",
}

__all__ = [
    "Backend",
    "Converter",
    "Pass",
    "PassManager",
    "backend",
    "backends",
    "cli",
    "compiler",
    "converter",
    "frontend",
    "get_pass",
    "get_registered_passes",
    "optimizer",
    "passes",
    "profile",
    "quantizer",
    "runtime",
    "utils",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("poprt_sim._machine").machine().version
    if name in _NAMES:
        return getattr(importlib.import_module(f"poprt_sim.{_NAMES[name]}"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"poprt_sim.{name}")
    raise AttributeError(f"poprt.{name}: poprt_sim does not have it; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
