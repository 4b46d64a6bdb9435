"""IPUs, and who has them: each belongs to one handle or runner at a time."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poprt_sim._ledger import Leak, caller_site

if TYPE_CHECKING:
    from poprt_sim._machine import Machine


@dataclass(eq=False, slots=True)
class Claim:
    """IPUs that were attached, by a `Device` handle or by a runner itself."""

    ids: tuple[int, ...]
    kind: str
    what: str
    site: str


@dataclass(eq=False, slots=True)
class Ipu:
    """One IPU: who has attached it, and which runner's executable is on it."""

    number: int
    claim: Claim | None = None
    loaded: Claim | None = None
    free_from: float = 0.0  # the virtual time at which it was last given back


@dataclass(eq=False)
class Devices:
    """All IPUs of a machine. Every method is called with the machine's lock held."""

    machine: Machine
    ipus: list[Ipu] = field(init=False)

    def __post_init__(self) -> None:
        """All are free."""
        self.ipus = [Ipu(number) for number in range(self.machine.config.devices)]

    def leaks(self) -> list[Leak]:
        """Every claim that was not given back."""
        claims: dict[Claim, None] = {}
        for ipu in self.ipus:
            for claim in (ipu.claim, ipu.loaded):
                if claim is not None:
                    claims[claim] = None
        return [Leak(claim.kind, f"{claim.what} on IPU {', '.join(map(str, claim.ids))}", claim.site) for claim in claims]

    def _usable(self) -> list[Ipu]:
        now = self.machine.clock.thread().cursor
        lost = self.machine.config.lost_devices
        return [ipu for ipu in self.ipus if ipu.claim is None and ipu.free_from <= now and ipu.number not in lost]

    def _taken(self) -> str:
        """What stands in the way, for messages."""
        words = []
        now = self.machine.clock.thread().cursor
        for ipu in self.ipus:
            if ipu.number in self.machine.config.lost_devices:
                words.append(f"IPU {ipu.number} does not answer")
            elif ipu.claim is not None:
                words.append(f"IPU {ipu.number} belongs to {ipu.claim.what}, made at {ipu.claim.site}")
            elif ipu.free_from > now:
                words.append(f"IPU {ipu.number} is given back only {ipu.free_from - now:.0f} us from now")
        return "; ".join(words) or "no IPU is in use"

    def attach_specific(self, number: int, what: str) -> Claim:
        """Attach one IPU by its number.

        Raises:
            RuntimeError: there is none of that number, or it is in use.
        """
        if not 0 <= number < len(self.ipus):
            raise RuntimeError(f"cannot attach device {number}: expected 0 to {len(self.ipus) - 1}")
        if self.ipus[number] not in self._usable():
            raise RuntimeError(f"cannot attach device {number}: {self._taken()}")
        return self._attach([self.ipus[number]], "device", what)

    def attach(self, count: int, kind: str, what: str, wait_s: tuple[float, float] | None = None) -> Claim:
        """Attach so many IPUs.

        Args:
            count: IPUs, neighbours. Decision: the first that are free.
            kind: of the leak if they are not given back.
            what: who wants them, for messages.
            wait_s: how long to wait for them, and how long between two attempts, in virtual time. Decision: attempts are 1 ms
                apart or more, and the last one comes when the time is up, however long the interval.
        Raises:
            RuntimeError: there are not so many, or they are in use.
        """
        if not 1 <= count <= len(self.ipus):
            raise RuntimeError(f"{what} needs {count} IPUs: expected 1 to {len(self.ipus)}, which is what this machine has")
        clock = self.machine.clock
        begin = clock.thread().cursor
        if len(self._usable()) < count:
            self.machine.wait(lambda: None, what, begin)  # who gives one back before that time has done it then
        timeout_us, sleep_us = (seconds * 1e6 for seconds in wait_s) if wait_s is not None else (0.0, math.inf)
        attempt = begin
        while True:
            self.machine.collect()
            usable = self._usable()
            for first in range(len(self.ipus) - count + 1):
                run = self.ipus[first : first + count]
                if all(ipu in usable for ipu in run):
                    return self._attach(run, kind, what)
            if clock.thread().cursor >= begin + timeout_us:
                raise RuntimeError(
                    f"{what} cannot attach {count} IPU{'s' * (count > 1)}, after {timeout_us / 1e6:g} s: {self._taken()}; "
                    "a runner gives its IPUs back when it is deleted"
                )
            attempt = min(attempt + max(sleep_us, 1000.0), begin + timeout_us)
            self.machine.wait(lambda: None, what, attempt)

    def _attach(self, ipus: list[Ipu], kind: str, what: str) -> Claim:
        claim = Claim(tuple(ipu.number for ipu in ipus), kind, what, caller_site())
        for ipu in ipus:
            ipu.claim = claim
        return claim

    def load_on(self, claim: Claim, what: str) -> Claim:
        """A runner loads its executable on IPUs that a handle has attached.

        Raises:
            RuntimeError: another runner's is there.
        """
        for number in claim.ids:
            other = self.ipus[number].loaded
            if other is not None:
                raise RuntimeError(
                    f"{what} cannot load on IPU {number}: {other.what}, made at {other.site}, is there; stop or delete it first"
                )
        loaded = Claim(claim.ids, "runner", what, caller_site())
        for number in claim.ids:
            self.ipus[number].loaded = loaded
        return loaded

    def give_back(self, claim: Claim, moment: float) -> None:
        """The IPUs are free again from a virtual time on; once more is nothing."""
        for number in claim.ids:
            ipu = self.ipus[number]
            if ipu.claim is claim:
                ipu.claim = None
                ipu.free_from = moment
            if ipu.loaded is claim:
                ipu.loaded = None


class Device:
    """IPUs that `DeviceManager` has attached. They are free again when the last reference to this is gone."""

    def __init__(self, machine: Machine, claim: Claim) -> None:
        self._machine = machine
        self._claim = claim

        # Not __del__: the claim must not die with the object before the machine has taken it back.
        def gone() -> None:
            moment = machine.clock.cursor_here()
            machine.finalized.append(lambda: machine.devices.give_back(claim, moment))

        weakref.finalize(self, gone).atexit = False

    def ipu_version(self) -> str:
        """The hardware version, "ipu21" or "ipu2"."""
        return self._machine.config.ipu_version

    def __repr__(self) -> str:
        return f"<Device of IPU {', '.join(map(str, self._claim.ids))}>"
