"""What gears cost on ONNX Runtime, beside one session with a free batch axis. ``python benchmarks/gears.py``.

anybatch runs all gears on one InferenceSession. Beside it: its own runner without gears, and a session per gear compiled for
its fixed size, each with a thread pool of its own, as one gets by default, or all with one global pool and the same
weights handed to each. Gears are called round robin; every way runs in a process of its own (a global pool must exist
before any session), in turns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import onnxruntime

import anybatch
from _models import mlp

GEARS = (1, 2, 4, 8, 16, 32)
DIGITS = Path(__file__).parent.parent / "examples" / "01_digits" / "digits.onnx"
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "MLP 256-1024-1024-10": lambda: mlp(256, 1024, 1024, 10),
    "MLP 256-2048-2048-10": lambda: mlp(256, 2048, 2048, 10),
    "digits, convolutional": lambda: onnx.load(DIGITS),
}
ONE_SESSION = "one session, free batch"
OURS_FREE = "anybatch, any batch size"
OURS = "anybatch, six gears"
OWN_POOLS = "six sessions, own pools"
SHARED = "six sessions, one pool and weights"
WAYS = (ONE_SESSION, OURS_FREE, OURS, OWN_POOLS, SHARED)
TURNS = 3


def static_sessions(model: onnx.ModelProto, *, shared: bool) -> dict[int, onnxruntime.InferenceSession]:
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    weights = [
        (t.name, onnxruntime.OrtValue.ortvalue_from_numpy(onnx.numpy_helper.to_array(t))) for t in model.graph.initializer
    ]
    if shared:
        onnxruntime.set_global_thread_pool_sizes(0, 0)
    sessions = {}
    for gear in GEARS:
        options = onnxruntime.SessionOptions()
        options.add_free_dimension_override_by_name(symbol, gear)
        if shared:
            options.use_per_session_threads = False
            for name, value in weights:
                options.add_initializer(name, value)
        sessions[gear] = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return sessions


def measure(model_name: str, way: str, rounds: int = 300) -> None:
    """Print, as JSON, the 25th percentile of a call of each gear in microseconds, and the memory that opening took in MiB."""
    model = MODELS[model_name]()
    name = model.graph.input[0].name
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    feeds = {gear: {name: np.random.default_rng(gear).random((gear, *shape), np.float32)} for gear in GEARS}
    before = resident_mib()
    calls: dict[int, Callable[[], object]] = {}
    if way in (OURS_FREE, OURS):
        runner = anybatch.open(model, batch_sizes=GEARS if way == OURS else None)
        calls = {gear: (lambda gear=gear: runner.run(feeds[gear])) for gear in GEARS}  # type: ignore[misc]
    elif way == ONE_SESSION:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        calls = {gear: (lambda gear=gear: session.run(None, feeds[gear])) for gear in GEARS}  # type: ignore[misc]
    else:
        sessions = static_sessions(model, shared=way == SHARED)
        calls = {gear: (lambda gear=gear: sessions[gear].run(None, feeds[gear])) for gear in GEARS}  # type: ignore[misc]
    times: dict[int, list[float]] = {gear: [] for gear in GEARS}
    for _ in range(rounds):
        for gear, call in calls.items():
            started = perf_counter()
            call()
            times[gear].append((perf_counter() - started) * 1e6)
    memory = resident_mib() - before
    if way in (OURS_FREE, OURS):
        runner.close()
    print(json.dumps([[float(np.percentile(times[gear][rounds // 6 :], 25)) for gear in GEARS], memory]))


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    for model in MODELS:
        results: dict[str, list[tuple[list[float], float]]] = {way: [] for way in WAYS}
        for _ in range(TURNS):
            for way in WAYS:
                command = [sys.executable, __file__, model, way]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[way].append(tuple(json.loads(answer)))
        print(f"\n{model}: us per call, median of {TURNS} processes; whole round relative to the first line (min to max)")
        print(f"  {'':36}" + "".join(f"{f'n={gear}':>8}" for gear in GEARS) + "     round            memory")
        base = [sum(times) for times, _ in results[ONE_SESSION]]
        for way in WAYS:
            medians = np.median([times for times, _ in results[way]], axis=0)
            ratios = [sum(times) / reference for (times, _), reference in zip(results[way], base, strict=True)]
            figures = "".join(f"{value:8.0f}" for value in medians)
            memory = float(np.median([memory for _, memory in results[way]]))
            print(
                f"  {way:36}{figures}   {np.median(ratios):5.2f}x ({min(ratios):.2f} to {max(ratios):.2f})  {memory:5.0f} MiB"
            )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(*sys.argv[1:])
    else:
        main()
