"""Requests of 1, 4 and 7 rows on an IPU program compiled for 4: the sample of PopRT's page on dynamic batches, on anybatch.

``python examples/04_ipu/dynamic_batch.py`` simulates the IPU; ``--backend ipu`` takes the one that a machine has.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import onnx

import anybatch

ADD = """<ir_version: 8, opset_import: ["": 11]>
sum (float[4, 2] X, float[4, 2] Y) => (float[4, 2] O) { O = Add(X, Y) }"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="ipu-sim", help="ipu-sim (default) or ipu")
    parser.add_argument("--pad-by", choices=["runtime", "host"], default="runtime", help="who pads; default: PopRT")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(ADD)
    with anybatch.open(model, backend=arguments.backend, pad_by=arguments.pad_by) as runner:
        print(f"compiled for 4 rows; launches are {runner.batching}")
        for rows in (1, 4, 7):
            inputs = {name: rng.random((rows, 2), np.float32) for name in ("X", "Y")}
            outputs = runner.run(inputs)
            if not np.array_equal(outputs["O"], inputs["X"] + inputs["Y"]):
                print(f"{rows} rows: wrong", file=sys.stderr)
                return 1
            print(f"{rows} rows: right, run as {runner.plan(rows)}")
        stats = runner.stats()
        print(f"{stats.rows} rows and {stats.padded_rows} of padding in {sum(stats.launches.values())} launches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
