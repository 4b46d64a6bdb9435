"""Classify the held-out digits in requests of ragged sizes, and show that no row suffers from it.

Run with ``make demo``, or ``python examples/01_digits/demo.py``. Exit status 1 when an answer is wrong.
"""

from __future__ import annotations

import sys
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import anybatch

HERE = Path(__file__).parent
REQUESTS = (1, 3, 7, 64, 200, 13, 100, 5, 128, 79)  # rows per request; 600 in all, the whole held-out set

# What the same requests run on: a title, and what anybatch.open takes. Another backend is another line.
CONTENDERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("onnxruntime, any batch size", {"backend": "onnxruntime"}),
    ("onnxruntime, gears 1, 4, 16, 64", {"backend": "onnxruntime", "batch_sizes": [1, 4, 16, 64]}),
    ("onnxruntime, one gear of 32", {"backend": "onnxruntime", "batch_sizes": [32]}),
)


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 100)
    with np.load(HERE / "test_set.npz") as test_set:
        images, labels = test_set["images"], test_set["labels"]
    bounds = list(accumulate(REQUESTS, initial=0))
    assert bounds[-1] == len(images), "the requests must cover the held-out set"
    requests = [{"images": images[start:stop]} for start, stop in pairwise(bounds)]

    with anybatch.open(HERE / "digits.onnx", backend="onnxruntime") as runner:
        alone = np.concatenate([runner(images[row : row + 1]) for row in range(len(images))])

    failed = False
    for title, options in CONTENDERS:
        with anybatch.open(HERE / "digits.onnx", **options) as runner:
            scores = np.concatenate([outputs["scores"] for outputs in runner.map(requests)])
            correct = int(np.sum(scores.argmax(axis=1) == labels))
            same = np.isclose(scores, alone, rtol=1e-5, atol=1e-5).all(axis=1)
            failed |= len(scores) != len(labels) or not same.all() or correct < 0.97 * len(labels)

            table = Table(title=title, title_justify="left", title_style="bold")
            for column in ("rows", "run as", "padding", "of its cost"):
                table.add_column(column, justify="left" if column == "run as" else "right")
            for rows in REQUESTS:
                why = runner.explain(rows)
                share = f"{why.padding_cost / why.plan.cost:.1%}" if why.plan.padded_rows else ""
                table.add_row(str(rows), str(why.plan), str(why.plan.padded_rows or ""), share)
            console.print(table)
            stats = runner.stats()
            launches = ", ".join(f"{count} x {gear}" for gear, count in sorted(stats.launches.items()))
            console.print(
                f"  {correct} of {len(labels)} digits right ({correct / len(labels):.1%}); "
                f"{int(same.sum())} of {len(same)} rows equal to the one-row answer\n"
                f"  {stats.requests} requests, {stats.rows} rows in {stats.seconds * 1e3:.1f} ms; "
                f"{stats.padded_rows} rows of padding ({stats.padded_rows / (stats.rows + stats.padded_rows):.1%})\n"
                f"  launches: {launches}\n",
                highlight=False,
            )
    console.print("a row differs, or too few digits are right" if failed else "every row came back, right and in order")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
