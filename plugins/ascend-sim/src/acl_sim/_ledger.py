"""What happened: calls, violations, launches, device time, and at the end what is still alive."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from acl_sim._errors import Rule


def caller_site() -> str:
    """`file:line` of the innermost frame outside the simulator: whoever is to be told."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""  # None in a module that the interpreter has emptied
        if name != "acl_sim" and not name.startswith("acl_sim."):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "?"


@dataclass(frozen=True, slots=True)
class Leak:
    """Something alive: its kind ("stream", "device memory", ...), handle or address, size in bytes if it has one, site."""

    kind: str
    handle: int
    site: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ViolationRecord:
    """One violation, kept whether or not it was raised."""

    rule: Rule
    text: str
    site: str


@dataclass
class Ledger:
    """The account of one machine. `profile` names the model that `device_time_us` and `busy_us` come from."""

    calls: Counter[str] = field(default_factory=Counter)
    violations: list[ViolationRecord] = field(default_factory=list)
    launches: dict[str, Counter[str]] = field(default_factory=dict)
    busy_us: dict[str, float] = field(default_factory=dict)
    device_time_us: float = 0.0
    profile: str = "none"
    find_leaks: Callable[[], list[Leak]] = list
    late_s: Callable[[], float | None] = lambda: None

    @property
    def leaks(self) -> list[Leak]:
        """Everything still alive now, oldest first within its kind."""
        return self.find_leaks()

    def launch(self, model: object, gear: object) -> None:
        """Count one execution of `model` (a name) at `gear` (its values as text, or "static")."""
        self.launches.setdefault(str(model), Counter())[str(gear)] += 1

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain data: leaks, violations, calls, device_time_us, busy_us, profile, launches."""
        return {
            "leaks": [{"kind": leak.kind, "handle": leak.handle, "size": leak.size, "site": leak.site} for leak in self.leaks],
            "violations": [{"rule": v.rule, "text": v.text, "site": v.site} for v in self.violations],
            "calls": dict(sorted(self.calls.items())),
            "device_time_us": self.device_time_us,
            "busy_us": dict(sorted(self.busy_us.items())),
            "profile": self.profile,
            "launches": {model: dict(sorted(gears.items())) for model, gears in sorted(self.launches.items())},
        }

    def to_json(self) -> str:
        """`to_dict` as JSON, indented."""
        return json.dumps(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """The ledger for people: violations and leaks first."""
        leaks = self.leaks
        lines = [f"acl_sim ledger: {len(self.violations)} violations, {len(leaks)} leaks"]
        lines += [f"  violation [{v.rule}] {v.text} (at {v.site})" for v in self.violations]
        for leak in leaks:
            size = "" if leak.size is None else f", {leak.size} bytes"
            lines.append(f"  leak {leak.kind} {leak.handle:#x}{size}, created at {leak.site}")
        busy = ", ".join(f"{engine} {us:.1f}" for engine, us in sorted(self.busy_us.items())) or "nothing"
        lines.append(f"  device time {self.device_time_us:.1f} us (modelled by {self.profile}); busy us: {busy}")
        late_s = self.late_s()
        if late_s is not None:
            lines.append(f"  real time: the simulator was slower than the model by {late_s * 1e3:.1f} ms in all")
        for model, gears in sorted(self.launches.items()):
            lines.append(f"  launches of {model}: " + ", ".join(f"{gear} x{n}" for gear, n in sorted(gears.items())))
        lines.append(f"  calls: {sum(self.calls.values())} of {len(self.calls)} functions")
        return "\n".join(lines)
