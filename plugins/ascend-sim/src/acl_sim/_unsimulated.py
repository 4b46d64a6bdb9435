"""Sub-modules of `acl` that exist, and whose functions (but for two) all say the same: not simulated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from acl_sim._errors import NotSimulated
from acl_sim._machine import PAIR, api, machine

NAMES = ("media", "op", "blas", "prof", "himpi", "fv")


class Unsimulated(ModuleType):
    """Any name that could be a function's is one; calling it raises NotSimulated."""

    def __init__(self, name: str, doc: str, simulated: dict[str, Callable[..., Any]]) -> None:
        super().__init__(name, doc)
        self._simulated = simulated
        self.__dict__.update(simulated)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not name.islower():
            raise AttributeError(f"{self.__name__} has no {name}: it exports functions only")

        def refuse(*_: Any) -> Any:
            raise NotSimulated(f"acl.{self.__name__.rpartition('.')[2]}.{name} is not simulated by acl_sim")

        refuse.__name__ = refuse.__qualname__ = name
        return refuse

    def __dir__(self) -> list[str]:
        return sorted(self._simulated)


@api("acl.media.dvpp_malloc", "k", failed=PAIR)
def _dvpp_malloc(size: int) -> tuple[int, int]:
    """`(address, ret)`. Decision: plain device memory, so that programs which only copy to it run."""
    here = machine()
    return here.memory.allocate_device(size, here.current_context().device), 0


@api("acl.media.dvpp_free", "k")
def _dvpp_free(address: int) -> int:
    """Free what dvpp_malloc gave."""
    machine().memory.free_device(address)
    return 0


def module(name: str) -> Unsimulated:
    """The sub-module, importable as acl_sim.<name>."""
    simulated = {"dvpp_malloc": _dvpp_malloc, "dvpp_free": _dvpp_free} if name == "media" else {}
    made = Unsimulated(f"acl_sim.{name}", f"acl.{name}: present, hardly anything of it simulated.", simulated)
    sys.modules[made.__name__] = made
    return made
