"""What a call through Runner costs beyond ONNX Runtime itself, beside Polygraphy's OnnxrtRunner.

Run with ``python benchmarks/overhead.py``; one thread inside ONNX Runtime, so that microseconds repeat.
Goals: at an exact gear no slower than ``InferenceSession.run(None, feed)`` (limit +1.5 us with one input, +3 us with
eight); 5 rows on gear 8 at most 4 us plus the copy of the rows; 13 rows on gears 1, 4, 8 at most 1.25 times the three
raw runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime

import anybatch
from _models import elementwise, mlp
from _timing import interleave, print_table

ONE_THREAD = {"intra_op_num_threads": 1}


def raw_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inner_session(runner: anybatch.Runner) -> onnxruntime.InferenceSession:
    """Return the InferenceSession a runner uses, to time it alone.

    Two sessions of one model differ by up to 15 % with tensors of half a megabyte, by where their memory happens to lie; so
    the raw call must be on the very same one.
    """
    return runner._session._runtime.session  # type: ignore[attr-defined]


def polygraphy_runner(session: onnxruntime.InferenceSession) -> Any:
    """Return Polygraphy's runner on that session, activated; None where it is not installed."""
    try:
        from polygraphy.backend.onnxrt import OnnxrtRunner
    except ImportError:
        return None
    runner = OnnxrtRunner(session)
    runner.activate()
    return runner


def exact_gear(title: str, model: onnx.ModelProto, rows: int = 8, batch_sizes: tuple[int, ...] | None = (1, 4, 8)) -> None:
    feed = {
        value.name: np.random.default_rng(0).random((rows, value.type.tensor_type.shape.dim[1].dim_value), np.float32)
        for value in model.graph.input
    }
    with anybatch.open(model, batch_sizes=batch_sizes, session_options=ONE_THREAD) as runner:
        session = inner_session(runner)
        peer = polygraphy_runner(session)
        calls: dict[str, Callable[[], object]] = {
            "InferenceSession.run(None, feed)": lambda: session.run(None, feed),
            f"anybatch, {runner.batching}": lambda: runner.run(feed),
        }
        if peer is not None:
            calls["polygraphy OnnxrtRunner.infer"] = lambda: peer.infer(feed)
            calls["polygraphy, check_inputs=False"] = lambda: peer.infer(feed, check_inputs=False)
        print_table(f"{title}: {rows} rows, exact gear", interleave(calls), "InferenceSession.run(None, feed)")
        if peer is not None:
            peer.deactivate()


def padded(model: onnx.ModelProto, rows: int = 5, gear: int = 8) -> None:
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = np.random.default_rng(0).random((rows, width), np.float32)
    full, buffer = np.zeros((gear, width), np.float32), np.zeros((gear, width), np.float32)

    def copy_rows() -> None:
        buffer[:rows] = x

    with anybatch.open(model, batch_sizes=[gear], session_options=ONE_THREAD) as runner:
        session = inner_session(runner)
        calls: dict[str, Callable[[], object]] = {
            f"raw run of {gear} rows": lambda: session.run(None, {"x": full}),
            f"anybatch, {rows} rows on gear {gear}": lambda: runner.run({"x": x}),
            "(the copy of the rows alone)": copy_rows,
        }
        print_table(f"padded: {width} floats a row", interleave(calls), f"raw run of {gear} rows")


def split(model: onnx.ModelProto) -> None:
    x = np.random.default_rng(0).random((13, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value), np.float32)

    def three_runs() -> None:
        for start, stop in ((0, 8), (8, 12), (12, 13)):
            inner_session(runner).run(None, {"x": x[start:stop]})

    with anybatch.open(model, batch_sizes=[1, 4, 8], session_options=ONE_THREAD) as runner:
        calls: dict[str, Callable[[], object]] = {
            "three raw runs, 8 + 4 + 1": three_runs,
            f"anybatch, 13 rows as {runner.plan(13)}": lambda: runner.run({"x": x}),
        }
        print_table("split: MLP 256-1024-1024-10, gears 1, 4, 8", interleave(calls), "three raw runs, 8 + 4 + 1")


def main() -> None:
    print("10th percentile over 41 interleaved loops; ratio and difference to the first line of each table")
    exact_gear("one Relu, 1 input of 16 floats", elementwise(1))
    exact_gear("one Relu, 1 input of 16 floats", elementwise(1), batch_sizes=None)
    exact_gear("eight Relus, 8 inputs of 16 floats", elementwise(8))
    exact_gear("one Relu, 1 input of 16384 floats", elementwise(1, 16384))
    exact_gear("MLP 256-1024-1024-10", mlp(256, 1024, 1024, 10))
    padded(mlp(32, 64, 8))
    padded(mlp(1024, 64, 8))
    split(mlp(256, 1024, 1024, 10))


if __name__ == "__main__":
    main()
