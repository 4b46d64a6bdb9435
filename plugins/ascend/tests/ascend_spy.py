"""A pyACL that is watched: the simulator, with some functions replaced and every call written down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import acl_sim


class Call(tuple[str, tuple[Any, ...], int]):
    """One call: name without ``acl.``, arguments, thread."""

    __slots__ = ()
    name = property(lambda self: self[0])
    args = property(lambda self: self[1])
    thread = property(lambda self: self[2])


class Spy(ModuleType):
    """Stands in for the module ``acl``.

    Attributes:
        calls: those that were made, in order.
        instead: by dotted name: called with the real function and its arguments, in its place.
        missing: dotted names that this pyACL does not have.
    """

    def __init__(self, module: Any = acl_sim, prefix: str = "", root: Spy | None = None) -> None:
        super().__init__("acl")
        self._module = module
        self._prefix = prefix
        self._root = root or self
        if root is None:
            self.calls: list[Call] = []
            self.instead: dict[str, Callable[..., Any]] = {}
            self.missing: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        dotted = self._prefix + name
        root = self._root
        if dotted in root.missing:
            raise AttributeError(dotted)
        found = getattr(self._module, name)
        if isinstance(found, ModuleType):
            return Spy(found, f"{dotted}.", root)

        def call(*args: Any) -> Any:
            root.calls.append(Call((dotted, args, threading.get_ident())))
            instead = root.instead.get(dotted)
            return instead(found, *args) if instead else found(*args)

        return call

    def named(self, *names: str) -> list[Call]:
        """Return the calls of some functions, in order."""
        return [call for call in self.calls if call.name in names]
