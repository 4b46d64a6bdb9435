"""The simulated host with its IPUs: one `Machine` per process, and `api`, through which every public function goes.

What other modules use:

    machine()                          the machine; made from POPRT_SIM_* variables on first use, replaced by testing.reset
    @api("compiler.Compiler.compile")  count the call, inject faults, charge the host for it
    machine().speaks("1.3.0")          whether what appeared in PopRT 1.3.0 exists here
    machine().violate(rule, text)      what PopRT leaves undefined
    machine().lock, .clock, .ledger, .profile, .config, .devices

Public functions run without the machine's lock; what touches its state takes it.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ParamSpec, TypeVar

from poprt_sim._clock import Clock, HostThread, Stuck
from poprt_sim._devices import Devices
from poprt_sim._ledger import Leak, Ledger, ViolationRecord, caller_site
from poprt_sim._profile import Profile, load_profile

P = ParamSpec("P")
R = TypeVar("R")

#: The releases of PopRT whose spellings are known: table 0.1 of contracts/poprt.md.
VERSIONS = ("1.0.2", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0")
NEWEST = VERSIONS[-1]
IPU_VERSIONS = ("ipu21", "ipu2")

#: What a device can answer: Poplar's exception classes, as PopRT's page on error handling names them.
DEVICE_ERRORS = ("application_runtime_error", "recoverable_runtime_error", "unknown_runtime_error")


class Violation(BaseException):
    """PopRT leaves undefined what the program did: memory would be corrupted, or the process would hang or crash.

    Not an Exception, so that a client's `except Exception` does not hide it.
    """

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"[{rule}] {text}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Fault:
    """The `nth` call (from 1; 0: every one) of `function` fails with the text `error`.

    `function` is a public one ("runtime.Runner.execute"): it raises RuntimeError(error) and does nothing. Or "device.run": the
    device fails in its nth run; `error` then begins with one of `DEVICE_ERRORS`, the recoverable one may name the recovery
    action: "recoverable_runtime_error:IPU_RESET".
    """

    function: str
    nth: int = 1
    error: str = "fault injected"

    def __post_init__(self) -> None:
        """Refuse what would never happen."""
        if self.nth < 0:
            raise ValueError(
                f"fault in {self.function}: expected the number of a call from 1, or 0 for every one, got {self.nth}"
            )
        if self.function == "device.run" and not self.error.startswith(DEVICE_ERRORS):
            raise ValueError(
                f"fault in device.run: expected an error that begins with one of {DEVICE_ERRORS}, got {self.error!r}"
            )


def parse_faults(text: str) -> tuple[Fault, ...]:
    """`runtime.Runner.execute:3:some text;device.run:*:unknown_runtime_error`; blank entries and lines after # are skipped."""
    faults = []
    for entry in text.replace("\n", ";").split(";"):
        entry = entry.strip()
        if not entry or entry.startswith("#"):
            continue
        parts = entry.split(":", 2)
        if len(parts) != 3 or not (parts[1] == "*" or parts[1].isdigit()):
            raise ValueError(f"fault {entry!r}: expected FUNCTION:NTH:ERROR, NTH may be *")
        faults.append(Fault(parts[0], 0 if parts[1] == "*" else int(parts[1]), parts[2]))
    return tuple(faults)


@dataclass(frozen=True, slots=True)
class Config:
    """What kind of machine this is. Variables: POPRT_SIM_ and the upper-case name, for example POPRT_SIM_DEVICES.

    Attributes:
        devices: IPUs. Decision: four, as in an IPU-M2000, or a server with four C600 cards.
        ipu_version: "ipu21" for C600 cards, "ipu2" for IPU-M2000 and Bow.
        version: of PopRT: only its spellings and defaults exist. None: those of 1.5.0, and every spelling of every version.
        strict: raise Violation for what PopRT leaves undefined; else write it down and imitate the usual outcome.
        device_time: the profile, see `load_profile`.
        faults: what fails, and when.
        lost_devices: IPUs that cannot be attached.
        tiles, tile_memory_bytes: of each IPU.
        guard_s: real time after which a wait that nothing can end raises Violation; infinite: it hangs, as it would.
    """

    devices: int = 4
    ipu_version: str = "ipu21"
    version: str | None = None
    strict: bool = True
    device_time: str = "c600"
    faults: tuple[Fault, ...] = ()
    lost_devices: tuple[int, ...] = ()
    tiles: int = 1472
    tile_memory_bytes: int = 624 << 10
    guard_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what no machine is like."""
        for name in ("devices", "tiles", "tile_memory_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.ipu_version not in IPU_VERSIONS:
            raise ValueError(f"ipu_version: expected one of {IPU_VERSIONS}, got {self.ipu_version!r}")
        if self.version is not None and self.version not in VERSIONS:
            raise ValueError(f"version: expected one of {VERSIONS}, got {self.version!r}")
        if math.isnan(self.guard_s) or self.guard_s < 0:
            raise ValueError(f"guard_s: expected seconds, or infinity, got {self.guard_s}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Config:
        """The defaults, changed by the variables. POPRT_SIM_FAULTS has entries, or @FILE with one per line;
        POPRT_SIM_LOST_DEVICES numbers with commas; POPRT_SIM_VERSION may be empty for "every spelling".

        Raises:
            ValueError: a variable does not fit; it names the variable.
        """
        changes: dict[str, Any] = {}
        for entry in fields(cls):
            variable = f"POPRT_SIM_{entry.name.upper()}"
            text = environment.get(variable)
            if text is None:
                continue
            try:
                changes[entry.name] = _READ.get(entry.name, str)(text)
                cls(**{entry.name: changes[entry.name]})
            except (ValueError, OSError) as error:
                raise ValueError(f"{variable}={text}: {error}") from error
        return cls(**changes)


def _read_whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"expected a whole number, got {text!r}") from None


def _read_seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected seconds, got {text!r}") from None


def _read_switch(text: str) -> bool:
    switches = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in switches:
        raise ValueError(f"expected one of {', '.join(switches)}, got {text!r}")
    return switches[text.lower()]


def _read_faults(text: str) -> tuple[Fault, ...]:
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:  # noqa: PTH123
            text = file.read()
    return parse_faults(text)


#: How the text of a variable is read, where its field is no text.
_READ: dict[str, Callable[[str], Any]] = {
    "devices": _read_whole,
    "tiles": _read_whole,
    "tile_memory_bytes": _read_whole,
    "guard_s": _read_seconds,
    "strict": _read_switch,
    "version": lambda text: text or None,
    "faults": _read_faults,
    "lost_devices": lambda text: tuple(_read_whole(part) for part in text.split(",") if part.strip()),
}


class Machine:
    """Everything simulated; see the module's docstring for its use."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.strict = config.strict
        self.profile: Profile = load_profile(config.device_time)
        self.lock = threading.RLock()
        self.ledger = Ledger(profile=self.profile.name, find_leaks=self._leaks)
        self.clock = Clock(self.lock, config.guard_s, self.collect)
        self.devices = Devices(self)
        self.faults = config.faults
        _check_faults(config.faults)
        # What finalizers have left to do. They may run in the midst of anything, on any thread, so they only append here.
        self.finalized: deque[Callable[[], None]] = deque()

    @property
    def version(self) -> str:
        """The version of PopRT that this machine presents itself as."""
        return self.config.version or NEWEST

    def speaks(self, since: str = VERSIONS[0], before: str | None = None) -> bool:
        """Whether a spelling exists that came with `since` and went with `before`. Without a configured version all do."""
        if self.config.version is None:
            return True
        at = VERSIONS.index(self.config.version)
        return VERSIONS.index(since) <= at and (before is None or at < VERSIONS.index(before))

    def collect(self) -> None:
        """Do what finalizers have left to do."""
        while self.finalized:
            self.finalized.popleft()()

    def _leaks(self) -> list[Leak]:
        with self.lock:
            self.collect()
            return self.devices.leaks()

    def violate(self, rule: str, text: str, *, always: bool = False, raises: bool = True) -> None:
        """Undefined in PopRT: strict mode raises Violation, tolerant mode writes it down and returns.

        Args:
            rule: what was broken, in a few words.
            text: what exactly.
            always: raise in tolerant mode, too: there is nothing to go on with.
            raises: False in finalizers, where raising reaches nobody.
        """
        record = ViolationRecord(rule, text, caller_site())
        new = record not in self.ledger.violations
        self.ledger.violations.append(record)
        if raises and (self.strict or always):
            raise Violation(rule, f"{text} (at {record.site})")
        if new:
            print(f"poprt_sim: violation [{rule}] {text} (at {record.site})", file=sys.stderr)

    def count(self, function: str) -> str | None:
        """Count a call; returns the text of the error that it is to fail with."""
        self.ledger.calls[function] += 1
        count = self.ledger.calls[function]
        for fault in self.faults:
            if fault.function == function and fault.nth in (0, count):
                return fault.error
        return None

    @contextmanager
    def calling(self, function: str) -> Iterator[HostThread]:
        """A call of a public function: counted, charged to its thread, and failed if a fault says so.

        Raises:
            RuntimeError: a fault.
        """
        with self.lock:
            self.collect()
            thread = self.clock.enter()
            if thread.depth == 1:
                thread.cursor += self.profile.host_call_us
            error = self.count(function)
        try:
            if error is not None:
                raise RuntimeError(f"{function}: {error}")
            yield thread
        finally:
            with self.lock:
                self.clock.leave(thread)

    def wait(self, until: Callable[[], float | None], what: str, deadline: float = math.inf) -> bool:
        """`Clock.wait`, with the lock held; a wait without end is a Violation of the rule "deadlock" that says `what` waits."""
        try:
            return self.clock.wait(until, deadline)
        except Stuck as stuck:
            self.violate("deadlock", f"{what} never returns: {stuck}", always=True)
            raise


def _check_faults(faults: tuple[Fault, ...]) -> None:
    """Refuse faults in functions that do not exist, which would never happen.

    Raises:
        ValueError: there is no such function.
    """
    unknown = [fault.function for fault in faults if fault.function not in {*FUNCTIONS, "device.run"}]
    if not unknown:
        return
    for module in API_MODULES:  # which name their functions when they are imported
        importlib.import_module(f"poprt_sim.{module}")
    for name in unknown:
        if name not in FUNCTIONS:
            close = difflib.get_close_matches(name, FUNCTIONS, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"fault in {name}: expected 'device.run' or one of {', '.join(sorted(FUNCTIONS))}{hint}")


_machine: Machine | None = None
_creation = threading.Lock()


def machine() -> Machine:
    """The process-wide machine; made from the environment on first use."""
    global _machine
    if _machine is None:
        with _creation:
            if _machine is None:
                _machine = Machine(Config.from_environment())
    return _machine


def replace_machine(config: Config | None = None, **changes: Any) -> Machine:
    """Start afresh: nothing of the old machine is alive for the new one."""
    global _machine
    _machine = Machine(replace(config or Config(), **changes))
    return _machine


#: The dotted names of all functions that `api` wraps, and the modules that have them.
FUNCTIONS: set[str] = set()
API_MODULES = ("_runners", "backends", "compiler", "converter")


def api(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function one of the public surface, under the name that the ledger and faults know it by."""
    FUNCTIONS.add(name)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with machine().calling(name):
                return function(*args, **kwargs)

        return call

    return decorate
