"""For tests of programs that run on the simulator."""

from __future__ import annotations

from typing import Any

from acl_sim._errors import Violation
from acl_sim._ledger import Ledger
from acl_sim._machine import Config, Fault, Machine, machine, replace_machine

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
    "slow_down",
]


def reset(**config: Any) -> Machine:
    """A fresh machine; keyword arguments are the fields of `Config`. Handles of the old one are strangers to it."""
    return replace_machine(**config)


def ledger() -> Ledger:
    """The current machine's ledger."""
    return machine().ledger


def now_us() -> float:
    """Return the calling thread's virtual time in microseconds: when its next call would begin, which never goes back.

    A thread that slept outside acl while others called it stands where the one that called last stood, polls in vain aside.
    Asking is a sign of life, and takes no time; in real-time mode that of the client's code counts.
    """
    here = machine()
    with here.lock:
        return here.clock.now()


def slow_down(where: str, factor: float) -> None:
    """Make executions take `factor` times as long from now on; 1 ends it.

    Args:
        where: a model's name, ``"@8"`` for a gear of any model, or ``"name@8"``.
        factor: above 0.

    Raises:
        ValueError: the factor is not above 0, or not finite.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"expected a factor above 0, got {factor!r}")
    machine().profile.slow[where] = factor


def assert_clean() -> None:
    """Fail with the ledger's text if anything leaked or was violated."""
    account = ledger()
    assert not account.leaks, account.to_text()
    assert not account.violations, account.to_text()
