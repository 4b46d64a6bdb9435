"""For tests of programs that run on the simulator."""

from __future__ import annotations

import gc
from typing import Any

from poprt_sim._ledger import Ledger
from poprt_sim._machine import Config, Fault, Machine, Violation, machine, replace_machine

__all__ = [
    "Config",
    "Fault",
    "Ledger",
    "Machine",
    "Violation",
    "assert_clean",
    "ledger",
    "machine",
    "now_us",
    "reset",
    "spend_us",
]


def reset(**config: Any) -> Machine:
    """A fresh machine; keyword arguments are the fields of `Config`. Runners of the old one refuse to run."""
    return replace_machine(**config)


def ledger() -> Ledger:
    """The current machine's ledger."""
    return machine().ledger


def now_us() -> float:
    """The calling thread's virtual time, in microseconds."""
    here = machine()
    with here.lock:
        thread = here.clock.enter()
        try:
            return thread.cursor
        finally:
            here.clock.leave(thread)


def spend_us(microseconds: float) -> float:
    """Let virtual time pass for the calling thread, as if it had computed for so long; returns its time after that."""
    if not microseconds >= 0:
        raise ValueError(f"expected microseconds, 0 or more, got {microseconds}")
    here = machine()
    with here.lock:
        thread = here.clock.enter()
        thread.cursor += microseconds
        here.clock.leave(thread)
        return thread.cursor


def assert_clean() -> None:
    """Fail with the ledger's text if anything leaked or was violated."""
    gc.collect()
    account = ledger()
    assert not account.leaks, account.to_text()
    assert not account.violations, account.to_text()
