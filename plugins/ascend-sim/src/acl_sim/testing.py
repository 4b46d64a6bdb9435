"""For tests of programs that run on the simulator."""

from __future__ import annotations

from typing import Any

from acl_sim._errors import Violation
from acl_sim._ledger import Ledger
from acl_sim._machine import Config, Fault, Machine, machine, replace_machine

__all__ = ["Config", "Fault", "Ledger", "Machine", "Violation", "assert_clean", "ledger", "machine", "reset"]


def reset(**config: Any) -> Machine:
    """A fresh machine; keyword arguments are the fields of `Config`. Handles of the old one are strangers to it."""
    return replace_machine(**config)


def ledger() -> Ledger:
    """The current machine's ledger."""
    return machine().ledger


def assert_clean() -> None:
    """Fail with the ledger's text if anything leaked or was violated."""
    account = ledger()
    assert not account.leaks, account.to_text()
    assert not account.violations, account.to_text()
