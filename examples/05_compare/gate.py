"""A gate for CI: fails where a new model, or a new way to run one, answers worse than the one in use.

    python examples/05_compare/gate.py NEW.onnx [--junit REPORT.xml]

Compares it with the digits model that is in use, on the held-out digits. Exit status 0 where it may go in, 1 where it must not:
scores are off by more than `TOLERANCE`, other digits win in more than `TOP1`, or fewer labels are right than before.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import anybatch
from anybatch import comparison

DIGITS = Path(__file__).parents[1] / "01_digits"
TOLERANCE = comparison.Tolerance(rtol=0.02, atol=0.0, reason="rounding may move scores, not decide digits")
TOP1 = 0.995  # share of rows with the same winner
LOSS = 0.002  # of the labels that were right before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("new", type=Path, help="the model that wants to go in, .onnx")
    parser.add_argument("--junit", type=Path, help="where to write a report for CI")
    arguments = parser.parse_args()
    with np.load(DIGITS / "test_set.npz") as test_set:
        images, labels = test_set["images"], test_set["labels"]
    found = anybatch.compare(
        DIGITS / "digits.onnx",
        [anybatch.Entry("onnxruntime", name="in use"), anybatch.Entry("onnxruntime", name="new", model=arguments.new)],
        inputs={"images": images},
        tolerances={"scores": TOLERANCE},
        seconds=0,
        bisect_seconds=0,
    )
    if arguments.junit:
        comparison.save(found, arguments.junit)
    problems = list(found.reasons)
    shares = [each.metrics.top1 for each in found.accuracy if each.metrics is not None and each.metrics.top1 is not None]
    if not shares or min(shares) < TOP1:
        problems.append(f"another digit wins in {1 - min(shares, default=0):.1%} of the rows, where {1 - TOP1:.1%} may")
    right = {
        name: count_right(model, images, labels) for name, model in (("in use", DIGITS / "digits.onnx"), ("new", arguments.new))
    }
    if right["new"] < right["in use"] - LOSS * len(labels):
        problems.append(f"{right['new']} of {len(labels)} digits right, and {right['in use']} before")
    for problem in problems:
        print(f"refused: {problem}")
    if not problems:
        print(f"passed: {right['new']} of {len(labels)} digits right, and {right['in use']} before")
    return int(bool(problems))


def count_right(model: Path, images: anybatch.Array, labels: anybatch.Array) -> int:
    with anybatch.open(model) as runner:
        return int(np.sum(runner.run({"images": images})["scores"].argmax(axis=1) == labels))


if __name__ == "__main__":
    sys.exit(main())
