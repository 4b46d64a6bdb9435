"""The digits on this machine's CPU, a simulated NPU and a simulated IPU: one verdict, one page.

Run with ``make demo``, or ``python examples/05_compare/compare.py [PAGE.html]``. Exit status 1 where one of them is off.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import anybatch
from anybatch import comparison

HERE = Path(__file__).parent
DIGITS = HERE.parent / "01_digits"

# PopRT converts models to opset 11 unless told otherwise, and ONNX has no way there from this one's.
IPU_OPTIONS = {"converter_options": {"convert_version": 17}}
ENTRIES = (
    anybatch.Entry("onnxruntime", name="CPU"),
    anybatch.Entry("onnxruntime", name="CPU, gears", batch_sizes=[1, 4, 16, 64]),
    anybatch.Entry("ascend-sim", name="simulated NPU", batch_sizes=[1, 4, 16, 64]),
    anybatch.Entry("ipu-sim", name="simulated IPU", batch_sizes=[16], options=IPU_OPTIONS),
)


def main() -> int:
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "compare.html"
    with np.load(DIGITS / "test_set.npz") as test_set:
        images, labels = test_set["images"], test_set["labels"]
    found = anybatch.compare(
        DIGITS / "digits.onnx", ENTRIES, inputs={"images": images}, data="the 600 held-out digits", seconds=5
    )

    print(f"{found.verdict}: {len(labels)} digits on {len(found.entries)} backends")
    for reason in found.reasons:
        print(f"  {reason}")
    for entry in found.entries:
        mine = [each for each in found.accuracy if each.entry == entry.name and each.metrics is not None]
        if mine:
            off = max(each.metrics.max_abs for each in mine if each.metrics is not None)
            top1 = min(each.metrics.top1 for each in mine if each.metrics is not None and each.metrics.top1 is not None)
            print(f"  {entry.name}: {len(mine)} cases, off by at most {off:.1e}, the same digit in {top1:.1%} of the rows")
    for speed in found.speeds:
        size = speed.sizes[-1]
        unit = "measured here" if speed.provenance == "measured" else "modelled: no hardware was measured"
        print(f"  {speed.entry}: {size.rows} rows in {size.p50.value * 1e6:,.0f} us as {size.plan} ({unit})")
    comparison.save(found, page)
    print(f"the whole comparison, to look at and to send on: {page}")
    return int(found.verdict == "fail")


if __name__ == "__main__":
    sys.exit(main())
