"""MLPerf's load generator on the digits: its four scenarios, its verdicts, and the accuracy that goes with them.

Exit status 1 where a verdict is INVALID or too few digits are right.
"""

import sys
from pathlib import Path

import numpy as np

import anybatch
from anybatch.loadgen import run_scenario

DIGITS = Path(__file__).parents[1] / "01_digits"
LOGS = Path("loadgen-logs")

# What only one scenario asks for. A query is one row, unless it says otherwise.
SCENARIOS = {
    "SingleStream": {},
    "MultiStream": {"samples_per_query": 8},
    "Server": {"target_qps": 200, "target_latency_s": 0.25},
    "Offline": {},
}


def main() -> int:
    backend = sys.argv[1] if len(sys.argv) > 1 else "onnxruntime"
    with np.load(DIGITS / "test_set.npz") as test_set:
        inputs, labels = {"images": test_set["images"]}, test_set["labels"]

    with anybatch.open(DIGITS / "digits.onnx", backend=backend, batch_sizes=[1, 8, 64]) as runner:
        print(f"on {runner.backend}, {runner.batching}; a second each, which is no MLPerf submission")
        good = True
        for scenario, options in SCENARIOS.items():
            result = run_scenario(runner, inputs, scenario=scenario, min_duration_s=1.0, log_folder=LOGS / scenario, **options)
            value, unit = (result.value * 1e3, "ms") if result.unit == "s" else (result.value, "")
            bound = f", 99 % of them in {result.percentiles[99] * 1e3:.3f} ms" * (scenario == "Server")
            print(f"  {scenario:12}  {result.verdict:7}  {result.metric} {value:.3f} {unit}".rstrip() + bound)
            for reason in (*result.reasons, *result.errors):
                print(f"      {reason}")
            good &= result.valid
        if result.simulated:
            print("SIMULATED: these times are the simulator's program's, no hardware was measured")

        result = run_scenario(runner, inputs, scenario="Offline", mode="AccuracyOnly", log_folder=LOGS / "accuracy")
        right = int(np.sum(result.outputs["scores"].argmax(axis=1) == labels))
        print(f"  accuracy: {right} of {result.samples} digits right ({right / result.samples:.1%})")
    return 0 if good and right >= 0.97 * len(labels) else 1


if __name__ == "__main__":
    sys.exit(main())
