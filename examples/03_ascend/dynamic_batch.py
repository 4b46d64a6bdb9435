"""Dynamic batch: requests of any number of rows on a model compiled for 1, 2, 4 and 8.

The vendor's page has the program read the gears, find the gear input, set one before each execution, and fill up what
is missing. All of that is in ``runner.run``.
"""

from pathlib import Path

import numpy as np

import anybatch

BACKEND = "ascend-sim"  # on a card: "ascend"

DIGITS = Path(__file__).parents[1] / "01_digits"
GEARS = [1, 2, 4, 8]
REQUESTS = [1, 3, 7, 20]  # rows of each
HALF = 2e-3  # what a value may be off by, of the largest: Ascend computes in half precision unless told otherwise


def main() -> None:
    with np.load(DIGITS / "test_set.npz") as test_set:
        images, labels = test_set["images"], test_set["labels"]
    with anybatch.open(DIGITS / "digits.onnx", backend="onnxruntime") as runner:
        expected = runner(images)

    with anybatch.open(DIGITS / "digits.onnx", backend=BACKEND, batch_sizes=GEARS) as runner:
        print(f"on {runner.backend}{', a simulated card' * runner.backend.endswith('-sim')}: {runner.batching}\n")
        start = 0
        for rows in REQUESTS:
            here = slice(start, start + rows)
            scores = runner.run({"images": images[here]})["scores"]

            off = np.abs(scores - expected[here]).max() / np.abs(expected).max()
            if scores.shape != (rows, 10) or off > HALF:
                raise SystemExit(f"{rows} rows: expected the CPU's answers, got {scores.shape}, off by {off:.2g}")
            right = (scores.argmax(axis=1) == labels[here]).sum()
            print(f"{rows:2} rows ran as {runner.plan(rows)!s:14} {right:2} of {rows:2} digits right; as on the CPU")
            start += rows
        stats = runner.stats()
    launches = ", ".join(f"{count} x {gear}" for gear, count in sorted(stats.launches.items()))
    print(f"\n{stats.rows} rows in all; launches: {launches}; rows of padding: {stats.padded_rows}")


if __name__ == "__main__":
    main()
