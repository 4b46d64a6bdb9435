"""How often a comparison blames a right backend, and how often it misses a faulty one.

``python benchmarks/compare_false_alarms.py [--seeds N] [--first N]``. A model is compared with itself: at other sizes, with
other threads and optimisations, on the simulators, in coarser precisions. A comparison is one model with its own weights and
rows, at all sizes of `default_cases`. Prints how many failed in an output of floats, the 95 % confidence bound of their rate
(one-sided, Clopper and Pearson's: three in the number of comparisons where none failed), and the closest call: the largest
difference as a share of what was tolerated. Where only class numbers and the like differ, for a value near a threshold, that
is counted apart.

Then faults are planted into right answers, and it prints how many were found under the tolerances of each precision.
Exits with 1 where a bound is above the stated rate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

import anybatch
from anybatch import Array, ModelSpec
from anybatch.comparison._accuracy import check_accuracy, compare_arrays, default_cases, made_up_rows
from anybatch.comparison._entries import Contestant, Entry
from anybatch.comparison._tolerances import STATED_RATE, STATED_RATE_COARSE, default_tolerance
from anybatch.testing import MODELS
from anybatch_ascend_sim import backend as ascend_sim
from false_alarms import FLOAT, MADE, bound, build, node, scaled
from poprt_sim.anybatch_backend import backend as ipu_sim

GEARS: Final = (1, 2, 4, 8)
DIGITS: Final = Path(__file__).parents[1] / "examples" / "01_digits"
Named = tuple[str, Any, dict[str, Any], "Mapping[str, Array] | None", int]


@dataclass(slots=True)
class Count:
    """What came of the comparisons of one kind."""

    comparisons: int = 0
    elements: int = 0
    alarms: list[str] = field(default_factory=list)
    flips: int = 0
    closest: tuple[float, str] = (0.0, "")


def rows_for(spec: ModelSpec, rows: int, seed: int) -> dict[str, Array]:
    """Return random rows: normal, between 0 and 1, or of many magnitudes; integers 0 or 1, of 8 bits up to 127."""
    rng = np.random.default_rng([seed, 99])
    arrays = {}
    for tensor in spec.inputs:
        shape = [8 if size is None else int(size) for size in tensor.shape_for(rows)]
        if tensor.dtype.kind in "biu":
            top = 128 if tensor.dtype.itemsize == 1 and tensor.dtype.kind != "b" else 2
            arrays[tensor.name] = rng.integers(0, top, shape).astype(tensor.dtype)
            continue
        values = rng.uniform(0, 1, shape) if seed % 3 == 1 else rng.standard_normal(shape)
        if seed % 3 == 2:
            values = values * 10 ** rng.uniform(-2, 1, shape)
        arrays[tensor.name] = np.asarray(values).astype(tensor.dtype)
    return arrays


def compare(named: Named, one: dict[str, Any], other: dict[str, Any], count: Count) -> None:
    """Compare a model with itself."""
    name, model, axes, data, seed = named
    contestants = []
    for title, given in (("A", one), ("B", other)):
        entry = {**given, "options": {**given.get("options", {}), **axes, "safety": "off"}}
        contestants.append(Contestant(Entry(name=title, **entry), model))
    try:
        for contestant in contestants:
            contestant.open()
            assert contestant.runner is not None, f"{name}: {contestant.failures}"
        spec = contestants[0].runner.spec  # type: ignore[union-attr]
        known = None if data is None else len(next(iter(data.values())))
        cases = default_cases([each.runner.batching for each in contestants if each.runner is not None], known, spec=spec)
        inputs = rows_for(spec, made_up_rows(cases), seed) if data is None else data
        found = check_accuracy(contestants, contestants[0], cases, inputs)
    finally:
        for contestant in contestants:
            contestant.close()
    count.comparisons += 1
    exact = {tensor.name for tensor in spec.outputs if tensor.dtype.kind in "biu"}
    failed = [each for each in found if each.verdict == "fail"]
    if any(each.output not in exact for each in failed):
        first = next(each for each in failed if each.output not in exact)
        count.alarms.append(f"{name}, seed {seed}, {first.case.name}: {' / '.join(first.faults)}")
    elif failed:
        count.flips += 1
    for each in found:
        if each.metrics is not None:
            count.elements += each.metrics.elements
        if each.worst is not None and each.output not in exact:
            count.closest = max(count.closest, (abs(each.worst.expected - each.worst.got) / each.worst.tolerated, name))


def made(seeds: range) -> Iterator[Named]:
    for seed in seeds:
        for name, make in MADE.items():
            yield name, make(np.random.default_rng([seed, 7])), {}, None, seed


def kit(seeds: range) -> Iterator[Named]:
    for model in MODELS:
        for seed in seeds:
            if not model.combine:  # an output without rows is no matter of sizes
                yield (
                    model.name,
                    model.proto(),
                    {"batch_axis": model.batch_axis, "rows_per_row": model.rows_per_row},
                    None,
                    seed,
                )


def digits() -> Iterator[Named]:
    with np.load(DIGITS / "test_set.npz") as test_set:
        yield "digits, 600 rows", DIGITS / "digits.onnx", {}, {"images": test_set["images"]}, 0


def light(names: tuple[str, ...]) -> Iterator[Named]:
    """Yield the onnx package's models, whose constant weights are replaced by random ones."""
    for name in names:
        path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
        model, rng = onnx.load(path), np.random.default_rng(0)
        model.ir_version = 9
        shapes = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        kept = []
        for each in model.graph.node:
            if each.op_type != "ConstantOfShape":
                kept.append(each)
                continue
            shape = shapes[each.input[0]]
            spread = np.sqrt(max(1, np.prod(shape[1:])))
            values = 1 + rng.standard_normal(shape) / 10 if len(shape) == 1 else rng.standard_normal(shape) * 1.4 / spread
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), each.output[0]))
        del model.graph.node[:]
        model.graph.node.extend(kept)
        yield name, model, {}, None, 0


def quantised(seed: int, *, floats: bool = False) -> onnx.ModelProto:
    """Return a perceptron whose products are of 8-bit integers, or the same in float32."""
    rng = np.random.default_rng([seed, 5])
    nodes, weights, x = [], {}, "x"
    for i, (fan_in, fan_out) in enumerate(((64, 128), (128, 128), (128, 128), (128, 10))):
        w = scaled(rng, fan_in, fan_out)
        if floats:
            weights[f"w{i}"] = w
            nodes.append(node("MatMul", [x, f"w{i}"], [f"m{i}"]))
        else:
            step = np.float32(np.abs(w).max() / 127)
            weights |= {f"w{i}": np.round(w / step).astype(np.int8), f"s{i}": step.reshape(())}
            nodes += [
                node("DynamicQuantizeLinear", [x], [f"q{i}", f"xs{i}", f"z{i}"]),
                node("MatMulInteger", [f"q{i}", f"w{i}", f"z{i}"], [f"i{i}"]),
                node("Cast", [f"i{i}"], [f"f{i}"], to=FLOAT),
                node("Mul", [f"xs{i}", f"s{i}"], [f"xw{i}"]),
                node("Mul", [f"f{i}", f"xw{i}"], [f"m{i}"]),
            ]
        nodes.append(node("Relu", [f"m{i}"], [f"r{i}"]))
        x = f"r{i}"
    nodes[-1] = node("Identity", [nodes[-1].input[0]], ["y"])
    return build("quantised", {"x": (FLOAT, ["rows", 64])}, nodes, {"y": (FLOAT, ["rows", 10])}, weights)


# ---------------------------------------------------------------------------------------------------------------- planted


def swapped(y: Array, _other: Array, _scale: float, rng: np.random.Generator) -> Array:
    i, j = rng.choice(len(y), 2, replace=False)
    y[[i, j]] = y[[j, i]]
    return y


def stale_tail(y: Array, other: Array, _scale: float, _rng: np.random.Generator) -> Array:
    y[-2:] = other[-2:]
    return y


def channel(share: float) -> Callable[..., Array]:
    def plant(y: Array, _other: Array, scale: float, rng: np.random.Generator) -> Array:
        y[..., rng.integers(y.shape[-1])] += share * scale
        return y

    return plant


def zero_row(y: Array, _other: Array, _scale: float, rng: np.random.Generator) -> Array:
    y[rng.integers(len(y))] = 0
    return y


def one_infinite(y: Array, _other: Array, _scale: float, rng: np.random.Generator) -> Array:
    y.flat[rng.integers(y.size)] = np.inf
    return y


def another_model(_y: Array, other: Array, _scale: float, _rng: np.random.Generator) -> Array:
    return other


PLANTED: Final[Mapping[str, Callable[..., Array]]] = {
    "two rows swapped": swapped,
    "stale tail of 2 rows": stale_tail,
    "one row zeros": zero_row,
    "one element infinite": one_infinite,
    "all of another request": another_model,
    "a channel off by 1e-1 of the scale": channel(1e-1),
    "a channel off by 3e-2 of the scale": channel(3e-2),
    "a channel off by 1e-2 of the scale": channel(1e-2),
    "a channel off by 1e-3 of the scale": channel(1e-3),
}
PRECISIONS: Final = ("float32", "float16", "bfloat16", "int8")


def plant(seeds: range) -> Table:
    """Return how many planted faults are found. Rows that are alike within the tolerance may be swapped unseen."""
    table = Table("planted into right answers", *(f"found, {precision}" for precision in PRECISIONS))
    answers = []
    for name, model, _, _, seed in made(seeds):
        with anybatch.open(model, backend="onnxruntime", safety="off") as runner:
            for number, tensor in enumerate(runner.spec.outputs):
                if tensor.dtype == np.float32:
                    both = [list(runner.run(rows_for(runner.spec, 17, more)).values())[number] for more in (seed, seed + 3)]
                    answers.append((name, *both))
    for title, fault in PLANTED.items():
        found = dict.fromkeys(PRECISIONS, 0)
        for _, expected, other in answers:
            scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
            got = fault(expected.copy(), other.copy(), scale, np.random.default_rng(1))
            for precision in PRECISIONS:
                (said,) = compare_arrays({"y": expected}, {"y": got}, precisions=[precision])
                found[precision] += said.verdict == "fail"
        table.add_row(title, *(f"{found[each]} of {len(answers)}" for each in PRECISIONS))
    return table


# ------------------------------------------------------------------------------------------------------------------- main


def onnxruntime(threads: int = 1, level: str = "all", **entry: Any) -> dict[str, Any]:
    options = {"session_options": {"intra_op_num_threads": threads, "graph_optimization_level": LEVELS[level]}}
    return {"backend": "onnxruntime", "options": options, **entry}


def on_ascend(mode: str, precision: str) -> dict[str, Any]:
    options = {"soc_version": "Ascend310P3", "precision_mode": mode}
    return {"backend": ascend_sim(), "batch_sizes": GEARS, "computes_in": precision, "options": options}


def on_ipu(precision: str, said: str) -> dict[str, Any]:
    options = {"precision": precision, "pad_by": "runtime", "converter_options": {"convert_version": 17}}
    return {"backend": ipu_sim(), "batch_sizes": [4], "computes_in": said, "options": options}


def _levels() -> dict[str, Any]:
    from onnxruntime import GraphOptimizationLevel as Level

    return {"all": Level.ORT_ENABLE_ALL, "none": Level.ORT_DISABLE_ALL}


LEVELS: Final = _levels()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="weights and rows of each model")
    parser.add_argument("--first", type=int, default=0, help="the first of these; others give other weights and rows")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    few = seeds[: max(1, len(seeds) // 4)]  # simulators compile first
    floats = [each for each in made(few) if "float16" not in each[0]]
    as_int8 = [("quantised perceptron", quantised(seed), {}, None, seed) for seed in seeds]
    image_models = light(("squeezenet", "shufflenet", "inception_v1"))
    plain, half, bf16 = onnxruntime(), "float16", "bfloat16"
    kinds: list[tuple[str, dict[str, Any], dict[str, Any], Any]] = [
        ("gears, 2 threads", plain, onnxruntime(2, batch_sizes=GEARS), [*made(seeds), *kit(few), *digits(), *image_models]),
        ("not optimised", plain, onnxruntime(level="none"), [*made(seeds), *digits()]),
        ("ascend-sim, float32", plain, on_ascend("must_keep_origin_dtype", "float32"), [*floats, *digits()]),
        ("ascend-sim, float16", plain, on_ascend("force_fp16", half), [*made(few), *digits()]),
        ("ascend-sim, mixed float16", plain, on_ascend("allow_mix_precision", half), [*floats, *digits()]),
        ("ascend-sim, mixed bfloat16", plain, on_ascend("allow_mix_precision_bf16", bf16), [*floats, *digits()]),
        ("ipu-sim, float32", plain, on_ipu("fp32", "float32"), [*floats, *digits()]),
        ("ipu-sim, float16", plain, on_ipu("fp16", half), [*floats, *digits()]),
        (
            "int8 with itself, gears",
            {**plain, "computes_in": "int8"},
            onnxruntime(2, batch_sizes=(1,), computes_in="int8"),
            as_int8,
        ),
        ("float32 with int8", plain, {}, seeds),
    ]
    table = Table("onnxruntime against", "comparisons", "elements", "alarms", "rate at most", "class flips", "closest call")
    totals = {"all in float32": Count(), "all that are coarser": Count()}
    for title, one, other, cases in kinds:
        count = Count()
        for each in cases:
            if isinstance(each, int):
                model = {**onnxruntime(), "model": quantised(each), "computes_in": "int8"}
                compare(("quantised perceptron", quantised(each, floats=True), {}, None, each), one, model, count)
            else:
                compare(each, one, other, count)
        table.add_row(title, *figures(count))
        coarse = not other or other.get("computes_in", "float32") != "float32"
        total = totals["all that are coarser" if coarse else "all in float32"]
        total.comparisons += count.comparisons
        total.elements += count.elements
        total.flips += count.flips
        total.alarms += [f"{title}: {alarm}" for alarm in count.alarms]
        total.closest = max(total.closest, count.closest)
    for title, total in totals.items():
        table.add_row(title, *figures(total), style="bold")
    console = Console(width=150)
    console.print(table)
    for total in totals.values():
        for alarm in total.alarms:
            print(alarm)
    console.print(plant(few))
    for precision in PRECISIONS:
        tolerance = default_tolerance([np.dtype(np.float32)], [precision])
        print(f"{precision}: rtol {tolerance.rtol:.2g}, atol {tolerance.atol:.2g}: {tolerance.reason}")
    rates = [bound(len(total.alarms), total.comparisons) for total in totals.values()]
    return int(rates[0] > STATED_RATE or rates[1] > STATED_RATE_COARSE)


def figures(count: Count) -> list[str]:
    rate = f"{bound(len(count.alarms), count.comparisons):.2%}"
    closest = f"{count.closest[0]:.3f} {count.closest[1]}"
    return [str(count.comparisons), f"{count.elements:,}", str(len(count.alarms)), rate, str(count.flips), closest]


if __name__ == "__main__":
    sys.exit(main())
