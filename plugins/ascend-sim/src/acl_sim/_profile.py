"""What things cost in device time: modelled, never measured.

A profile is plain numbers, from a preset ("none", "310p") or a JSON file with any of the fields of `Profile`. Compute
time comes from the first of these that knows the model: `table` (exact figures per model and gear), `affine` (a constant
plus so much per row), else the roofline of the model's operations and bytes.

Provenance of "310p": Huawei's published figures for the Atlas 300I Pro (Ascend 310P3): 70 TFLOPS FP16, LPDDR4X at
204.8 GB/s, PCIe 4.0 x16. `efficiency`, `copy_*_gb_s` below the bus's rate, and all overheads are our assumptions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Profile:
    """Costs: microseconds, GB/s, TFLOPS. A rate of 0 means "takes no time"."""

    name: str = "none"
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

    def copy_us(self, engine: str, size: int) -> float:
        """A copy of `size` bytes on "copy_in", "copy_out" or (on the device itself) "compute"."""
        rate = {"copy_in": self.copy_in_gb_s, "copy_out": self.copy_out_gb_s}.get(engine, self.on_device_gb_s)
        return self.copy_overhead_us + (size / (rate * 1e3) if rate else 0.0)

    def compute_us(self, model: str, gear: str, *, rows: int = 1, flops: float = 0.0, bytes_moved: float = 0.0) -> float:
        """One execution of `model` (its name) at `gear` (its text)."""
        if gear in self.table.get(model, {}):
            cost = self.table[model][gear]
        elif model in self.affine or "*" in self.affine:
            constant, per_row = self.affine.get(model) or self.affine["*"]
            cost = constant + per_row * rows
        else:
            compute = flops / (self.peak_tflops * 1e6 * self.efficiency) if self.peak_tflops else 0.0
            memory = bytes_moved / (self.memory_gb_s * 1e3 * self.efficiency) if self.memory_gb_s else 0.0
            cost = self.launch_us + max(compute, memory)
        for key in (f"{model}@{gear}", f"@{gear}", model):
            cost *= self.slow.get(key, 1.0)
        return cost


PRESETS = {
    "none": Profile(),
    "310p": Profile(
        name="310p",
        host_call_us=1.0,
        copy_in_gb_s=20.0,
        copy_out_gb_s=20.0,
        on_device_gb_s=150.0,
        copy_overhead_us=8.0,
        launch_us=20.0,
        peak_tflops=70.0,
        memory_gb_s=204.8,
        efficiency=0.5,
    ),
}


def load_profile(text: str) -> Profile:
    """A preset by name, `affine:US,US_PER_ROW` on top of "310p", or a JSON file by path.

    Raises:
        ValueError: no such preset or file, a field that a profile does not have, or not JSON.
    """
    if text in PRESETS:
        return PRESETS[text]
    if text.startswith("affine:"):
        constant, per_row = (float(part) for part in text.removeprefix("affine:").split(","))
        return _with(PRESETS["310p"], {"name": text, "affine": {"*": (constant, per_row)}})
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"device-time model {text!r}: expected one of {sorted(PRESETS)}, affine:US,US_PER_ROW or a JSON file")
    return _with(PRESETS["none"], {"name": path.name, **json.loads(path.read_text())})


def _with(base: Profile, changes: dict[str, Any]) -> Profile:
    names = [f.name for f in fields(Profile)]
    unknown = sorted(set(changes) - set(names))
    if unknown:
        raise ValueError(f"unknown fields {unknown}: a profile has {names}")
    values = {name: getattr(base, name) for name in names} | changes
    values["affine"] = {model: (float(pair[0]), float(pair[1])) for model, pair in values["affine"].items()}
    return Profile(**values)
