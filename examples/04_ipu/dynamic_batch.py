"""Dynamic batch: requests of 1, 4 and 7 rows on an IPU program that was compiled for 4.

The vendor's page lets PopRT pad, and has the program allocate the outputs of each request. All of that is in ``runner.run``.
"""

import numpy as np
import onnx

import anybatch

BACKEND = "ipu-sim"  # on an IPU: "ipu"

REQUESTS = [1, 4, 7]  # rows of each
SUM = """<ir_version: 8, opset_import: ["": 11]>
sum (float[4, 2] X, float[4, 2] Y) => (float[4, 2] O) { O = Add(X, Y) }"""


def main() -> None:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(SUM)
    for pad_by in ("runtime", "host"):  # PopRT, then the core
        with anybatch.open(model, backend=BACKEND, pad_by=pad_by) as runner:
            simulated = ", a simulated IPU" * runner.backend.endswith("-sim")
            print(f"on {runner.backend}{simulated}; padded by {pad_by}: {runner.batching}")
            for rows in REQUESTS:
                inputs = {name: rng.random((rows, 2), np.float32) for name in ("X", "Y")}
                outputs = runner.run(inputs)
                if not np.array_equal(outputs["O"], inputs["X"] + inputs["Y"]):
                    raise SystemExit(f"{rows} rows: expected X + Y, got {outputs['O']}")
                print(f"  rows: {rows}, run as {runner.plan(rows)!s:12} all right")
            print(f"  rows of padding: {runner.stats().padded_rows}")


if __name__ == "__main__":
    main()
