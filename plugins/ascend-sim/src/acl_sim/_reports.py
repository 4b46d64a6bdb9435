"""Callbacks on streams: a stream is subscribed to a thread, that thread's group collects reports until it pumps them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_GROUPS = 1024

# Threads of start_thread whose function has returned, and that nobody has joined yet.
ENDED: set[int] = set()


@dataclass(eq=False, slots=True)
class Group:
    """What one thread (by its pthread id) is subscribed to, and what waits for it. All streams are of one device."""

    ident: int
    device: int
    streams: int = 0
    running: int = 0
    pending: deque[Report] = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class Report:
    """One launched callback; `at` is the virtual time when its stream got to it."""

    group: Group
    function: Callable[[Any], Any]
    user_data: Any
    blocking: bool
    at: float = 0.0
    task: Any = None

    def reached(self, moment: float) -> bool:
        """The stream got here: hand it to the group. True if the stream must now wait."""
        self.at = moment
        self.group.pending.append(self)
        return self.blocking
