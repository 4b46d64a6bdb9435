"""Two sets of gears on one simulated card, and which takes less time for the requests there are.

Run with ``python examples/05_compare/gears.py``. Times are modelled by the simulator, the same in every run: no hardware is
measured. On a card, change BACKEND to ``"ascend"``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anybatch

BACKEND = "ascend-sim"
DIGITS = Path(__file__).parents[1] / "01_digits" / "digits.onnx"
GEAR_SETS = ([1, 8], [1, 2, 4, 8])
REQUESTS = [1, 2, 3, 4, 5, 7, 8, 9, 13, 20]


def main() -> int:
    entries = [anybatch.Entry(BACKEND, name=f"gears {', '.join(map(str, sizes))}", batch_sizes=sizes) for sizes in GEAR_SETS]
    found = anybatch.compare(DIGITS, entries, batch_sizes=REQUESTS, seconds=3)
    for reason in found.reasons:
        print(reason)
    one, other = found.speeds
    print(f"{one.clock}; times in us")
    print(f"{'rows':>4}  {one.entry:>26}  {other.entry:>26}  time of the second")
    for left, right in zip(one.sizes, other.sizes, strict=True):
        shown = [f"{size.p50.value * 1e6:8.1f} as {size.plan!s:>15}" for size in (left, right)]
        print(f"{left.rows:>4}  {shown[0]:>26}  {shown[1]:>26}  {right.p50.value / left.p50.value:>18.0%}")
    for entry in found.entries:
        memory = "" if entry.memory_bytes is None else f", {entry.memory_bytes / 1024:.0f} KiB on the card"
        print(f"{entry.name}: {entry.verdict}{memory}")
    return int(found.verdict == "fail")


if __name__ == "__main__":
    sys.exit(main())
