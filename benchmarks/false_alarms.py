"""How often a trial blames an independent model: many models, weights and rows, on every backend that runs here.

``python benchmarks/false_alarms.py [--seeds N]``. No row of these models influences another, so every output that is called
coupled is a false alarm. Prints how many trials raised one, the 95 % confidence bound of their rate (one-sided, Clopper and
Pearson's), and the closest call: the largest difference between two answers for one row, as a share of what was tolerated.
Exits with 1 at a false alarm.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

import anybatch
from anybatch import Array
from anybatch._trial import Trial, try_rows
from anybatch.testing import MODELS
from anybatch_ascend_sim import backend as ascend_sim
from poprt_sim.anybatch_backend import backend as ipu_sim

GEARS: Final = (1, 2, 4, 8)
CONFIDENCE: Final = 0.95
SECONDS: Final = 20.0  # for one trial; they need far less

FLOAT, HALF, INT64, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def build(
    name: str,
    inputs: Mapping[str, tuple[int, list[Any]]],
    nodes: list[onnx.NodeProto],
    outputs: Mapping[str, tuple[int, list[Any]]],
    weights: Mapping[str, Array],
) -> onnx.ModelProto:
    def values(tensors: Mapping[str, tuple[int, list[Any]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(key, *tensor) for key, tensor in tensors.items()]

    initializers = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, name, values(inputs), values(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scaled(rng: np.random.Generator, *shape: int) -> Array:
    """Return weights that keep the size of what passes."""
    return (rng.standard_normal(shape) / math.sqrt(shape[0])).astype(np.float32)


def mlp(rng: np.random.Generator, *widths: int, dtype: int = FLOAT, head: str = "Softmax") -> onnx.ModelProto:
    nodes, weights, current = [], {}, "x"
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        kind = helper.tensor_dtype_to_np_dtype(dtype)
        weights |= {f"w{i}": scaled(rng, fan_in, fan_out).astype(kind), f"b{i}": scaled(rng, 4, fan_out)[0].astype(kind)}
        nodes += [node("MatMul", [current, f"w{i}"], [f"m{i}"]), node("Add", [f"m{i}", f"b{i}"], [f"h{i}"])]
        nodes.append(node("Relu", [f"h{i}"], [f"r{i}"]))
        current = f"r{i}"
    nodes[-1] = node(head, [nodes[-1].input[0]], ["y"], **({"axis": -1} if head == "Softmax" else {}))
    return build("mlp", {"x": (dtype, ["rows", widths[0]])}, nodes, {"y": (dtype, ["rows", widths[-1]])}, weights)


def classifier(rng: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], ["scores"]),
        node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
        node("TopK", ["scores", "three"], ["top", "which"], axis=1),
        node("Greater", ["scores", "zero"], ["above"]),
    ]
    outputs = {
        "class": (INT64, ["rows"]),
        "top": (FLOAT, ["rows", 3]),
        "which": (INT64, ["rows", 3]),
        "above": (BOOL, ["rows", 100]),
    }
    weights = {"w": scaled(rng, 64, 100), "three": np.array([3]), "zero": np.zeros((), np.float32)}
    return build("classifier", {"x": (FLOAT, ["rows", 64])}, nodes, outputs, weights)


def convolution(rng: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "k0"], ["c0"], pads=[1, 1, 1, 1], strides=[1, 1]),
        node("Relu", ["c0"], ["r0"]),
        node("MaxPool", ["r0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p0", "k1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("GlobalAveragePool", ["r1"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "w"], ["y"]),
    ]
    kernels = {"k0": rng.standard_normal((16, 3, 3, 3)) / 5, "k1": rng.standard_normal((32, 16, 3, 3)) / 12}
    weights = {name: kernel.astype(np.float32) for name, kernel in kernels.items()} | {"w": scaled(rng, 32, 10)}
    return build("convolution", {"x": (FLOAT, ["rows", 3, 16, 16])}, nodes, {"y": (FLOAT, ["rows", 10])}, weights)


def layer_norm(rng: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("LayerNormalization", ["h", "scale", "bias"], ["n"], axis=-1),
        node("MatMul", ["n", "v"], ["y"]),
    ]
    weights = {
        "w": scaled(rng, 32, 64),
        "v": scaled(rng, 64, 16),
        "scale": scaled(rng, 1, 64)[0],
        "bias": scaled(rng, 1, 64)[0],
    }
    return build("layer_norm", {"x": (FLOAT, ["rows", 32])}, nodes, {"y": (FLOAT, ["rows", 16])}, weights)


def attention(rng: np.random.Generator) -> onnx.ModelProto:
    nodes = []
    for part in "qkv":
        nodes += [
            node("MatMul", ["x", f"w{part}"], [f"{part}0"]),
            node("Reshape", [f"{part}0", "heads"], [f"{part}1"]),
            node("Transpose", [f"{part}1"], [part], perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "joined"], ["y"]),
    ]
    weights = {f"w{part}": scaled(rng, 32, 32) for part in "qkv"}
    weights |= {"heads": np.array([0, 8, 4, 8]), "joined": np.array([0, 8, 32])}
    return build("attention", {"x": (FLOAT, ["rows", 8, 32])}, nodes, {"y": (FLOAT, ["rows", 8, 32])}, weights)


def lstm(rng: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r"], ["", "last"], hidden_size=16),
        node("Squeeze", ["last", "first"], ["y"]),
    ]
    weights = {"w": scaled(rng, 12, 64).T[None].copy(), "r": scaled(rng, 16, 64).T[None].copy(), "first": np.array([0])}
    return build("lstm", {"x": (FLOAT, ["rows", 6, 12])}, nodes, {"y": (FLOAT, ["rows", 16])}, weights)


def tokens(rng: np.random.Generator) -> onnx.ModelProto:
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        node("MatMul", ["m", "w"], ["scores"]),
        node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
    ]
    outputs = {"scores": (FLOAT, ["rows", 20]), "class": (INT64, ["rows"])}
    weights = {"table": scaled(rng, 100, 48), "w": scaled(rng, 48, 20)}
    return build("tokens", {"ids": (INT64, ["rows", 12])}, nodes, outputs, weights)


def deep(rng: np.random.Generator) -> onnx.ModelProto:
    return mlp(rng, *[64] * 31, head="Tanh")


Make = Callable[[np.random.Generator], onnx.ModelProto]
MADE: Final[Mapping[str, Make]] = {
    "mlp": lambda rng: mlp(rng, 64, 256, 256, 10),
    "mlp, long sums": lambda rng: mlp(rng, 4096, 16, head="Tanh"),
    "mlp, 30 layers": deep,
    "mlp, float16": lambda rng: mlp(rng, 64, 128, 10, dtype=HALF),
    "mlp, float16, 10 layers": lambda rng: mlp(rng, *[64] * 11, dtype=HALF, head="Tanh"),
    "argmax, top-k, threshold": classifier,
    "convolution": convolution,
    "layer norm": layer_norm,
    "attention": attention,
    "lstm": lstm,
    "token ids": tokens,
}


@dataclass(slots=True)
class Count:
    """What came of the trials on one backend."""

    trials: int = 0
    coupled: int = 0
    unknown: int = 0
    compared: int = 0
    closest: tuple[float, str] = (0.0, "")
    explained: int = 0

    def add(self, trial: Trial, name: str) -> None:
        """Count one more."""
        self.trials += 1
        self.coupled += trial.verdict == "coupled"
        self.unknown += trial.verdict == "unknown"
        for output in trial.outputs:
            self.compared += output.compared
            self.closest = max(self.closest, (output.closest, name))
            self.explained += output.explained


def bound(alarms: int, trials: int) -> float:
    """Return the largest rate at which so few alarms still happen in one of twenty cases."""
    low, high = alarms / trials, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        chance = math.fsum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(alarms + 1))
        low, high = (rate, high) if chance > 1 - CONFIDENCE else (low, rate)
    return high


def models(seeds: range) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any], int]]:
    for seed in seeds:
        for name, make in MADE.items():
            yield name, make(np.random.default_rng([seed, 7])), {}, seed


def kit(seeds: range) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any], int]]:
    for model in MODELS:
        if all(each == "same" for each in model.combine.values()):  # a sum over rows is meant to change with them
            for seed in seeds:
                yield model.name, model.proto(), {"batch_axis": model.batch_axis, "rows_per_row": model.rows_per_row}, seed


def threads(count: int) -> dict[str, Any]:
    return {"session_options": {"intra_op_num_threads": count}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="weights and rows of each model")
    seeds = range(parser.parse_args().seeds)
    few = range(max(1, len(seeds) // 4))  # simulators compile first
    setups: list[tuple[str, Any, dict[str, Any], Any]] = [
        ("onnxruntime, any size, 1 thread", "onnxruntime", threads(1), [*models(seeds), *kit(few)]),
        ("onnxruntime, any size, 2 threads", "onnxruntime", threads(2), models(seeds)),
        ("onnxruntime, gears", "onnxruntime", {"batch_sizes": GEARS, **threads(2)}, [*models(seeds), *kit(few)]),
        ("ascend-sim, gears", ascend_sim(), {"batch_sizes": GEARS, "soc_version": "Ascend310P3"}, models(few)),
        ("ipu-sim, multiples of 4", ipu_sim(), {"batch_sizes": [4], "pad_by": "runtime"}, models(few)),
    ]
    table = Table(
        "backend", "trials", "answers compared", "false alarms", "rate at most", "unknown", "explained", "closest call"
    )
    total, failed = Count(), []
    for label, backend, options, cases in setups:
        count = Count()
        for name, proto, more, seed in cases:
            with anybatch.open(proto, backend=backend, **options, **more) as runner:
                trial = try_rows(runner._execute, runner.spec, runner.batching, seconds=SECONDS, seed=seed)
            if trial.verdict != "no influence seen":
                failed.append(f"{label}, {name}, seed {seed}: {trial}")
            for each in (count, total):
                each.add(trial, name)
        table.add_row(label, *figures(count))
    table.add_row("all", *figures(total), style="bold")
    Console(width=150).print(table)
    for line in failed:
        print(line)
    return 1 if total.coupled else 0


def figures(count: Count) -> list[str]:
    return [
        str(count.trials),
        str(count.compared),
        str(count.coupled),
        f"{bound(count.coupled, count.trials):.2%}",
        str(count.unknown),
        str(count.explained),
        f"{count.closest[0]:.2f} {count.closest[1]}",
    ]


if __name__ == "__main__":
    sys.exit(main())
