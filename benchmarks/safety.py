"""The static proof of independence against the truth, found by running. ``python benchmarks/safety.py [GRAPHS]``.

Over the corpus, over GRAPHS random graphs (20,000) and over every model of the onnx package's backend node tests with a
leading axis that the analysis accepts. Limits: nothing unsound, that is, called independent where running shows that
rows influence one another; a graph of 1,000 nodes in under 2 s. Whatever breaks one is printed, and the exit status is 1.
"""

from __future__ import annotations

import random
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from anybatch import AnybatchError
from anybatch.safety import analyse

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from safety_corpus import CASES, long_model
from safety_random import random_model
from truth_by_running import Array, Input, inputs_of, mistakes, truth

MEMORY_BYTES = 16 << 30  # a model handed odd numbers may ask for all there is


@dataclass
class Count:
    """What came of many models."""

    title: str
    pairs: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    unsound: list[str] = field(default_factory=list)
    refused: int = 0
    analysing_s: float = 0
    running_s: float = 0

    def add(
        self,
        name: str,
        model: onnx.ModelProto,
        inputs: list[Input] | None = None,
        *,
        trials: int = 1,
        batch_axis: Mapping[str, int | None] | None = None,
    ) -> None:
        """Judge one model, and run it."""
        started = perf_counter()
        try:
            safety = analyse(model, batch_axis=batch_axis)
        except AnybatchError:
            self.refused += 1
            return
        analysed = perf_counter()
        found = truth(model, inputs, trials=trials)
        self.analysing_s += analysed - started
        self.running_s += perf_counter() - analysed
        self.unsound += [f"{name}: {mistake}" for mistake in mistakes(safety, found)]
        for output in safety.outputs:
            self.pairs[output.verdict, found[output.name].verdict] += 1

    def show(self) -> None:
        """Print it."""
        total = sum(self.pairs.values())
        print(f"\n{self.title}: {total:,} outputs judged; {self.refused:,} models without an axis for rows")
        print(f"  {'':14}{'in truth':>12} independent     coupled  runs nowhere")
        for verdict in ("independent", "coupled", "unknown"):
            counts = [self.pairs[verdict, true] for true in ("independent", "coupled", None)]
            print(f"  {verdict:14}{'':12}{counts[0]:12,}{counts[1]:12,}{counts[2]:14,}")
        known = max(1, total - sum(self.pairs[verdict, None] for verdict in ("independent", "coupled", "unknown")))
        false_coupled = self.pairs["coupled", "independent"]
        unknown = self.pairs["unknown", "independent"] + self.pairs["unknown", "coupled"]
        print(f"  unsound {len(self.unsound)}, unknown {unknown / known:.1%}, coupled in vain {false_coupled / known:.1%}")
        print(f"  analysis {self.analysing_s / max(1, total) * 1e3:.1f} ms an output, running {self.running_s:.0f} s in all")
        for line in self.unsound:
            print(f"  UNSOUND {line}")


def corpus() -> Count:
    count = Count("corpus")
    for case in CASES:
        count.add(case.name, case.model, inputs_of(case.model, ranges=case.ranges), trials=3)
    return count


def random_graphs(graphs: int) -> Count:
    count = Count(f"{graphs:,} random graphs")
    for seed in range(graphs):
        count.add(f"seed {seed}", random_model(random.Random(seed)))
    return count


def node_tests() -> Count:
    count = Count("backend tests of onnx")
    for name, model, given in _tests():
        for axes in _assignments(given):
            for constants in (False, True):
                if constants and len(axes) == len(given):
                    continue
                freed = _freed(model, given, axes, constants=constants)
                inputs = [_input(name, array, axes.get(name)) for name, array in given.items() if name in axes or not constants]
                told: dict[str, int | None] = {each.name: each.axis for each in inputs}
                count.add(f"{name} {axes}{' with constants' * constants}", freed, inputs, batch_axis=told)
    return count


def _tests() -> Iterator[tuple[str, onnx.ModelProto, dict[str, Array]]]:
    """Yield the models whose inputs are tensors of numbers, with those of their first test."""
    from onnx.backend.test import loader

    for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
        for test in loader.load_model_tests(kind=kind):
            model, folder = test.model, Path(test.model_dir or "")
            if model is None:
                model = onnx.load(folder / "model.onnx")
                paths = sorted(folder.glob("test_data_set_0/input_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
                tensors = [TensorProto.FromString(path.read_bytes()) for path in paths]
                arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
            else:
                arrays = list(test.data_sets[0][0])
            weights = {tensor.name for tensor in model.graph.initializer}
            values = [value for value in model.graph.input if value.name not in weights]
            numbers = all(isinstance(array, np.ndarray) and array.dtype.kind not in "OSU" for array in arrays)
            tensors_only = all(value.type.WhichOneof("value") == "tensor_type" for value in values)
            if arrays and numbers and tensors_only and len(arrays) == len(values):
                yield test.name, model, {value.name: array for value, array in zip(values, arrays, strict=True)}


def _assignments(given: Mapping[str, Array]) -> Iterator[dict[str, int]]:
    """Yield which inputs may have rows, and where: each alone, and all that agree with the first, on the first two axes."""
    seen: list[dict[str, int]] = []
    for axis in (0, 1):
        tensors = {name: array.shape[axis] for name, array in given.items() if array.ndim > axis and array.shape[axis] > 0}
        if not tensors:
            continue
        first = next(iter(tensors.values()))
        for names in ([name for name, size in tensors.items() if size == first], *([name] for name in tensors)):
            axes = dict.fromkeys(names, axis)
            places = all(given[name].dtype.kind in "iu" and given[name].ndim == 1 for name in names)  # axes, sizes, counts
            if axes not in seen and not places:
                seen.append(axes)
                yield axes


def _freed(model: onnx.ModelProto, given: Mapping[str, Array], axes: Mapping[str, int], *, constants: bool) -> onnx.ModelProto:
    freed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in [*freed.graph.input]:
        if value.name in axes:
            value.type.tensor_type.shape.dim[axes[value.name]].dim_param = "n"
        elif constants and value.name in given:
            freed.graph.input.remove(value)
            freed.graph.initializer.append(numpy_helper.from_array(given[value.name], value.name))
    for value in (*freed.graph.output, *freed.graph.value_info):
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    return freed


def _input(name: str, array: Array, axis: int | None) -> Input:
    """Return an input whose rows resemble those of a test: what is drawn is what the model can take."""

    def values(rng: np.random.Generator, _: tuple[int, ...], kind: str) -> Array:
        if axis is None:
            return array
        row = np.take(array, [rng.integers(array.shape[axis])], axis)
        if array.dtype.kind != "f":
            return np.asarray(rng.choice(array.ravel(), row.shape) if rng.random() < 0.5 else row)
        if kind == "nan":
            return np.full(row.shape, np.nan, row.dtype)
        noisy = row * (1 + 0.3 * rng.standard_normal(row.shape))
        if kind == "constant":
            noisy = np.full(row.shape, noisy.ravel()[:1] if noisy.size else 0)
        factor = {"large": 100.0, "negative": -1.0}.get(kind, 1.0)
        return (noisy * factor).astype(array.dtype)

    shape = list(array.shape)
    if axis is not None:
        shape[axis] = 1
    return Input(name, tuple(shape), axis, 1, values)


def long_graph() -> bool:
    model = long_model(1000)
    times = []
    for _ in range(5):
        started = perf_counter()
        assert analyse(model).verdict == "independent"
        times.append(perf_counter() - started)
    print(f"\n{len(model.graph.node):,} nodes: {min(times):.2f} s, at worst {max(times):.2f} s of {len(times)} (limit 2 s)")
    return min(times) < 2


def main() -> int:
    warnings.simplefilter("ignore")  # of NumPy, about what random models compute
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    started = perf_counter()
    graphs = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    fast = long_graph()
    unsound = 0
    for count in (corpus(), node_tests(), random_graphs(graphs)):
        count.show()
        unsound += len(count.unsound)
    print(f"\nunsound {unsound}; {perf_counter() - started:.0f} s")
    return 0 if fast and not unsound else 1


if __name__ == "__main__":
    sys.exit(main())
