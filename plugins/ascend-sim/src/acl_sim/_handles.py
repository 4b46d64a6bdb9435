"""Opaque handles: ints in an address range that nothing is mapped to, never issued twice."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acl_sim._errors import INVALID_PARAM, Refused, Rule
from acl_sim._ledger import Leak, caller_site

if TYPE_CHECKING:
    from acl_sim._machine import Machine

_FIRST = 0x2000_0000_0000
_STEP = 64
_REMEMBERED = 1 << 16  # destroyed handles that are still known by name


@dataclass(slots=True)
class _Entry:
    kind: str
    thing: Any
    site: str
    alive: bool = True
    ended: str = ""
    counts_as_leak: bool = True


class Handles:
    """All handles ever issued, with where each was made and where it ended."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._entries: dict[int, _Entry] = {}
        self._next = _FIRST
        self._ended: deque[int] = deque()

    def new(self, kind: str, thing: Any, *, counts_as_leak: bool = True) -> int:
        """Issue a handle for `thing`; `counts_as_leak=False` for what the runtime itself owns."""
        handle = self._next
        self._next += _STEP
        self._entries[handle] = _Entry(kind, thing, caller_site(), counts_as_leak=counts_as_leak)
        return handle

    def find(self, kind: str, handle: int) -> Any | None:
        """The live thing behind the handle, or None: for functions that answer a bad handle with a code."""
        entry = self._entries.get(handle)
        return entry.thing if entry is not None and entry.alive and entry.kind == kind else None

    def was(self, kind: str, handle: int) -> bool:
        """True if this handle once was a `kind` and has been destroyed."""
        entry = self._entries.get(handle)
        return entry is not None and not entry.alive and entry.kind == kind

    def get(self, kind: str, handle: int, code: int = INVALID_PARAM) -> Any:
        """The live thing behind the handle.

        Raises:
            Violation: strict mode, and the handle is stale, of another kind or never issued (hardware would follow it).
            Refused: the same in tolerant mode, with `code`.
        """
        entry = self._entries.get(handle)
        if entry is not None and entry.alive and entry.kind == kind:
            return entry.thing
        rule: Rule
        if entry is None:
            rule, text = "unknown handle", f"{handle:#x} was never issued as a {kind}"
        elif entry.kind != kind:
            rule, text = "wrong handle", f"{handle:#x} is a {entry.kind} (created at {entry.site}), not a {kind}"
        else:
            rule = "stale handle"
            text = f"{kind} {handle:#x} (created at {entry.site}) was destroyed at {entry.ended}"
        self._machine.violate(rule, text)
        raise Refused(code, text)

    def drop(self, kind: str, handle: int, code: int = INVALID_PARAM) -> Any:
        """End the handle and return its thing; a handle that is not alive is judged as `get` judges it."""
        thing = self.get(kind, handle, code)
        entry = self._entries[handle]
        entry.alive = False
        entry.ended = caller_site()
        entry.thing = None
        self._ended.append(handle)
        if len(self._ended) > _REMEMBERED:
            del self._entries[self._ended.popleft()]
        return thing

    def site(self, handle: int) -> str:
        """Where the handle was made."""
        entry = self._entries.get(handle)
        return entry.site if entry is not None else "?"

    def leaks(self) -> list[Leak]:
        """The live handles that a program should have destroyed."""
        return [
            Leak(entry.kind, handle, entry.site)
            for handle, entry in self._entries.items()
            if entry.alive and entry.counts_as_leak
        ]
