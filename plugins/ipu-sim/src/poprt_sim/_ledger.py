"""What happened: calls, runs, padding, waits, violations, device time, and at the end what is still alive."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def caller_site() -> str:
    """`file:line` of the innermost frame outside the simulator: whoever is to be told.

    Where `python -m poprt_sim` itself comes first, the program has ended and its objects die.
    """
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""  # None in a module that the interpreter has emptied
        if getattr(frame.f_globals.get("__spec__"), "name", "") == "poprt_sim.__main__":  # it may be called __main__
            return "the end of the program"
        if name != "poprt_sim" and not name.startswith("poprt_sim."):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "?"


@dataclass(frozen=True, slots=True)
class Leak:
    """Something alive: its kind ("runner", "device"), what it is, and where it was made."""

    kind: str
    what: str
    site: str


@dataclass(frozen=True, slots=True)
class ViolationRecord:
    """One violation, kept whether or not it was raised."""

    rule: str
    text: str
    site: str


#: What one model's runs add up to; `Ledger` has the same for all models together.
COUNTS = ("runs", "real_rows", "padded_rows", "dummy_runs", "merged_runs")


@dataclass
class Ledger:
    """The account of one machine.

    Attributes:
        calls: of each public function, and of "device.run".
        requests: that were accepted by an execute function.
        runs: launches of a compiled batch that held at least one row of a request.
        real_rows, padded_rows: the rows of requests in those runs, and the rows of zeros beside them.
        merged_runs: runs with rows of more than one request.
        dummy_runs: launches of zeros only, which push requests through overlapped I/O.
        waits: how often the device stood waiting for rows while some request waited for its result.
        waited_us: how long it did, in all.
        flushes: how many of those waits a timeout ended.
        resets: of the device, by `auto_reset`.
        busy_us: of each engine: load, compute, store.
        profile: the model that every time here comes from.
        models: the counts of runs and rows by the model's name.
    """

    calls: Counter[str] = field(default_factory=Counter)
    violations: list[ViolationRecord] = field(default_factory=list)
    requests: int = 0
    runs: int = 0
    real_rows: int = 0
    padded_rows: int = 0
    merged_runs: int = 0
    dummy_runs: int = 0
    waits: int = 0
    waited_us: float = 0.0
    flushes: int = 0
    resets: int = 0
    busy_us: dict[str, float] = field(default_factory=dict)
    device_time_us: float = 0.0
    profile: str = "none"
    models: dict[str, Counter[str]] = field(default_factory=dict)
    find_leaks: Callable[[], list[Leak]] = list

    @property
    def leaks(self) -> list[Leak]:
        """Everything still alive now, oldest first."""
        return self.find_leaks()

    def count_run(self, model: str, *, real: int, padded: int, requests: int) -> None:
        """Count one launch of `model` with so many real and padded rows, of so many requests."""
        counts = self.models.setdefault(model, Counter(dict.fromkeys(COUNTS, 0)))
        if requests == 0:
            self.dummy_runs += 1
            counts["dummy_runs"] += 1
            return
        self.runs += 1
        self.real_rows += real
        self.padded_rows += padded
        self.merged_runs += requests > 1
        counts.update({"runs": 1, "real_rows": real, "padded_rows": padded, "merged_runs": int(requests > 1)})

    def spend(self, engine: str, microseconds: float, end: float) -> None:
        """An engine worked for so long, until `end`."""
        self.busy_us[engine] = self.busy_us.get(engine, 0.0) + microseconds
        self.device_time_us = max(self.device_time_us, end)

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain data."""
        return {
            "leaks": [{"kind": leak.kind, "what": leak.what, "site": leak.site} for leak in self.leaks],
            "violations": [{"rule": v.rule, "text": v.text, "site": v.site} for v in self.violations],
            "calls": dict(sorted(self.calls.items())),
            "requests": self.requests,
            "runs": self.runs,
            "real_rows": self.real_rows,
            "padded_rows": self.padded_rows,
            "merged_runs": self.merged_runs,
            "dummy_runs": self.dummy_runs,
            "waits": self.waits,
            "waited_us": self.waited_us,
            "flushes": self.flushes,
            "resets": self.resets,
            "device_time_us": self.device_time_us,
            "busy_us": dict(sorted(self.busy_us.items())),
            "profile": self.profile,
            "models": {name: dict(counts) for name, counts in sorted(self.models.items())},
        }

    def to_json(self) -> str:
        """`to_dict` as JSON, indented."""
        return json.dumps(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """The ledger for people: violations and leaks first."""
        leaks = self.leaks
        lines = [f"poprt_sim ledger: {len(self.violations)} violations, {len(leaks)} leaks"]
        for violation, times in Counter(self.violations).items():
            again = f", {times} times" if times > 1 else ""
            lines.append(f"  violation [{violation.rule}] {violation.text} (at {violation.site}){again}")
        lines += [f"  leak {leak.kind} {leak.what}, made at {leak.site}" for leak in leaks]
        rows = self.real_rows + self.padded_rows
        padding = f" ({self.padded_rows / rows:.1%} of all)" if rows else ""
        lines.append(
            f"  {self.requests} requests in {self.runs} runs: {self.real_rows} real rows, {self.padded_rows} padded{padding}; "
            f"{self.merged_runs} runs merged requests, {self.dummy_runs} runs were dummies"
        )
        lines.append(
            f"  the device waited {self.waits} times, {self.waited_us:.1f} us in all; {self.flushes} of the waits timed out"
        )
        if self.resets:
            lines.append(f"  resets: {self.resets}")
        busy = ", ".join(f"{engine} {us:.1f}" for engine, us in sorted(self.busy_us.items())) or "nothing"
        lines.append(f"  device time {self.device_time_us:.1f} us (modelled by {self.profile}); busy us: {busy}")
        for name, counts in sorted(self.models.items()):
            lines.append(f"  model {name!r}: " + ", ".join(f"{what} {n}" for what, n in counts.items()))
        lines.append(f"  calls: {sum(self.calls.values())} of {len(self.calls)} functions")
        return "\n".join(lines)
