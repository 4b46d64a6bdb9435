"""Classify the held-out digits in requests of ragged sizes, and show that no row suffers from it.

Run with ``make demo``, or ``python examples/01_digits/demo.py``. Exit status 1 when an answer is wrong.
"""

from __future__ import annotations

import sys
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import anybatch

HERE = Path(__file__).parent
REQUESTS = (1, 3, 7, 64, 200, 13, 100, 5, 128, 79)  # rows per request; 600 in all, the whole held-out set

HALF = 2**-10  # the step of half precision, in which Ascend computes unless told otherwise


class Contender(NamedTuple):
    """What the same requests run on. Another backend is another line.

    Attributes:
        title: what it is; a simulated one says so, and its times are not shown: they are no card's.
        backend: its name; a simulator's ends with -sim.
        options: what `anybatch.open` takes beside it.
        tolerance: how far an answer may be from the CPU's to one row alone, in parts of the largest.
        source: where the backend comes from, if not with the core.
    """

    title: str
    backend: str
    options: dict[str, Any]
    tolerance: float = 1e-6
    source: str = ""

    @property
    def simulated(self) -> bool:
        """Whether no hardware of that kind runs it."""
        return self.backend.endswith("-sim")


GEARS = {"batch_sizes": [1, 4, 16, 64]}
# PopRT converts models to opset 11 unless told otherwise, and ONNX has no way there from this one's.
BATCH = {"batch_sizes": [16], "converter_options": {"convert_version": 17}}
IPU_SIM = "pip install ./plugins/ipu ./plugins/ipu-sim"
CONTENDERS = (
    Contender("onnxruntime, any batch size", "onnxruntime", {}),
    Contender("onnxruntime, gears 1, 4, 16, 64", "onnxruntime", GEARS),
    Contender("onnxruntime, one gear of 32", "onnxruntime", {"batch_sizes": [32]}),
    Contender(
        "ascend-sim, a simulated card, gears 1, 4, 16, 64",
        "ascend-sim",
        GEARS,
        tolerance=HALF,
        source="pip install ./plugins/ascend ./plugins/ascend-sim",
    ),
    Contender(
        "ipu-sim, a simulated IPU, batches of 16, padded by PopRT",
        "ipu-sim",
        {**BATCH, "pad_by": "runtime"},
        source=IPU_SIM,
    ),
    Contender(
        "ipu-sim, a simulated IPU, batches of 16, padded by anybatch",
        "ipu-sim",
        {**BATCH, "pad_by": "host"},
        source=IPU_SIM,
    ),
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
    for contender in CONTENDERS:
        title, backend, options, tolerance, source = contender
        if backend not in anybatch.available_backends():
            console.print(f"left out: {title}\n  the backend {backend} is not installed: {source}\n", highlight=False)
            continue
        with anybatch.open(HERE / "digits.onnx", backend=backend, **options) as runner:
            scores = np.concatenate([outputs["scores"] for outputs in runner.map(requests)])
            correct = int(np.sum(scores.argmax(axis=1) == labels))
            off = np.abs(scores - alone).max(axis=1) / np.abs(alone).max()
            same = off <= tolerance
            failed |= len(scores) != len(labels) or not same.all() or correct < 0.97 * len(labels)

            table = Table()
            for column in ("rows", "run as", "padding", "of predicted cost"):
                table.add_column(column, justify="left" if column == "run as" else "right")
            for rows in REQUESTS:
                why = runner.explain(rows)
                share = f"{why.padding_cost / why.plan.cost:.1%}" if why.plan.padded_rows else ""
                table.add_row(str(rows), str(why.plan), str(why.plan.padded_rows or ""), share)
            console.print(title, style="bold", highlight=False)
            console.print(table)
            stats = runner.stats()
            launches = ", ".join(f"{count} x {gear}" for gear, count in sorted(stats.launches.items()))
            half = f"  of the CPU, within half precision: off by at most {off.max():.1e} of the largest\n" * (tolerance >= HALF)
            time = "; no time to show: a simulator ran them" if contender.simulated else f" in {stats.seconds * 1e3:.1f} ms"
            padding = f"{stats.padded_rows} rows of padding ({stats.padded_rows / (stats.rows + stats.padded_rows):.1%})"
            if isinstance(runner.batching, anybatch.MultipleOf):
                padding = f"at most {padding}: rows of other requests fill batches too"
            console.print(
                f"  {correct} of {len(labels)} digits right ({correct / len(labels):.1%}); "
                f"{int(same.sum())} of {len(same)} rows equal to the one-row answer\n{half}"
                f"  {stats.requests} requests, {stats.rows} rows{time}\n"
                f"  {padding}\n"
                f"  launches: {launches}\n",
                highlight=False,
            )
    console.print("a row differs, or too few digits are right" if failed else "every row came back, right and in order")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
