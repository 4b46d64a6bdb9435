"""What things cost in device time: modelled, never measured.

A profile is a JSON file with any of the fields of `Profile`: one of ours (`profiles/*.json` in this package), by name, or
one of the user's, by path. What a file leaves out costs nothing. Compute time comes from the first of these that knows the
model: `table` (exact figures per model and gear), `affine` (a constant plus so much per row), else the roofline of the
model's operations and bytes.

`provenance` says of a field whether its figure is "published", and by which "source", or an "assumption", and "why"; users'
files may leave it out, ours say it of every figure.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs: microseconds, GB/s, TFLOPS. A rate of 0 means "takes no time"."""

    name: str = "none"
    description: str = ""
    host_call_us: float = 0.0  # what any acl call costs its thread
    copy_in_gb_s: float = 0.0
    copy_out_gb_s: float = 0.0
    on_device_gb_s: float = 0.0
    copy_overhead_us: float = 0.0
    launch_us: float = 0.0
    peak_tflops: float = 0.0
    memory_gb_s: float = 0.0
    efficiency: float = 1.0
    affine: dict[str, tuple[float, float]] = field(default_factory=dict)  # model -> (us, us per row); "*" is any model
    table: dict[str, dict[str, float]] = field(default_factory=dict)  # model -> gear -> us
    slow: dict[str, float] = field(default_factory=dict)  # "model@gear", "@gear" or "model" -> factor: a fault
    provenance: dict[str, dict[str, str]] = field(default_factory=dict)  # field -> kind, and source or why

    def __post_init__(self) -> None:
        """Refuse figures that are none, and sources of figures that do not exist."""
        for figure in FIGURES:
            value = getattr(self, figure)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"{figure}: expected a number of 0 or more, got {value!r}")
        if self.efficiency == 0:
            raise ValueError("efficiency: expected more than 0")
        if not isinstance(self.provenance, dict):
            raise ValueError(f"provenance: expected an object with an entry per figure, got {self.provenance!r}")
        for figure, origin in self.provenance.items():
            kind = origin.get("kind") if isinstance(origin, dict) else None
            needed = {"published": "source", "assumption": "why"}.get(str(kind))
            if figure not in FIGURES or needed is None or not origin.get(needed):
                raise ValueError(
                    f'provenance of {figure!r}: expected a figure of the profile, with a "kind" of "published" and a "source", '
                    f'or of "assumption" and a "why"; got {origin!r}'
                )

    def copy_us(self, engine: str, size: int) -> float:
        """A copy of `size` bytes on "copy_in", "copy_out" or (on the device itself) "compute"."""
        rate = {"copy_in": self.copy_in_gb_s, "copy_out": self.copy_out_gb_s}.get(engine, self.on_device_gb_s)
        return self.copy_overhead_us + (size / (rate * 1e3) if rate else 0.0)

    def compute_us(self, model: str, gear: str, *, rows: int = 1, flops: float = 0.0, bytes_moved: float = 0.0) -> float:
        """One execution of `model` (its name) at `gear` (its text), `slow` aside."""
        if gear in self.table.get(model, {}):
            cost = self.table[model][gear]
        elif model in self.affine or "*" in self.affine:
            constant, per_row = self.affine.get(model) or self.affine["*"]
            cost = constant + per_row * rows
        else:
            compute = flops / (self.peak_tflops * 1e6 * self.efficiency) if self.peak_tflops else 0.0
            memory = bytes_moved / (self.memory_gb_s * 1e3 * self.efficiency) if self.memory_gb_s else 0.0
            cost = self.launch_us + max(compute, memory)
        return cost

    def slowness(self, model: str, gear: str) -> float:
        """The factor that `slow` makes executions take longer by; it may change while a program runs."""
        return math.prod(self.slow.get(key, 1.0) for key in (f"{model}@{gear}", f"@{gear}", model)) if self.slow else 1.0


FIGURES = tuple(entry.name for entry in fields(Profile) if entry.type == "float")


def presets() -> list[str]:
    """The names that `load_profile` knows."""
    files = resources.files("acl_sim").joinpath("profiles").iterdir()
    return sorted(["none", *(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))])


def load_profile(text: str) -> Profile:
    """A preset by name, `affine:US,US_PER_ROW` on top of "310p", or a JSON file by path.

    Raises:
        ValueError: no such preset or file, a field that a profile does not have, a figure that is none, or not JSON.
    """
    if text == "none":
        return Profile()
    if text.startswith("affine:"):
        constant, per_row = (float(part) for part in text.removeprefix("affine:").split(","))
        return _read(_preset("310p"), {"name": text, "affine": {"*": (constant, per_row)}})
    if text in presets():
        return _read(_preset(text), {})
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"device-time model {text!r}: expected one of {presets()}, affine:US,US_PER_ROW or a JSON file")
    return _read(path.read_text(encoding="utf-8"), {}, name=path.name)


def _preset(name: str) -> str:
    return resources.files("acl_sim").joinpath("profiles").joinpath(f"{name}.json").read_text(encoding="utf-8")


def _read(text: str, changes: dict[str, Any], name: str = "") -> Profile:
    given = json.loads(text)
    if not isinstance(given, dict):
        raise ValueError(f"a profile is a JSON object, not {type(given).__name__}")
    values = {"name": name, **given, **changes}
    names = [entry.name for entry in fields(Profile)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown fields {unknown}: a profile has {names}")
    if "affine" in values:
        values["affine"] = {model: (float(pair[0]), float(pair[1])) for model, pair in values["affine"].items()}
    return Profile(**values)
