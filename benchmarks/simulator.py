"""What a call through the simulator of pyACL costs the host, beside the ONNX Runtime call inside it.

Run with ``python benchmarks/simulator.py``. Real time of the host, not the modelled time of the device. Goal: a static
execute of a tiny model stays under 100 us.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx

import acl_sim as acl
from _models import elementwise
from _timing import Timing, interleave
from acl_sim import atc, testing
from acl_sim._models import models

GOAL_US = 100.0
TO_DEVICE, FROM_DEVICE = 1, 2


class Client:
    """A model on the simulator with its datasets, pinned staging and a stream, as a careful pyACL program keeps them."""

    def __init__(self, path: Path) -> None:
        self.model, code = acl.mdl.load_from_file(str(path))
        check(code)
        desc = acl.mdl.create_desc()
        check(acl.mdl.get_desc(desc, self.model))
        self.sizes = acl.mdl.get_input_size_by_index(desc, 0), acl.mdl.get_output_size_by_index(desc, 0)
        check(acl.mdl.destroy_desc(desc))
        self.device = [acl.rt.malloc(size, 0)[0] for size in self.sizes]
        self.host = [acl.rt.malloc_host(size)[0] for size in self.sizes]
        self.datasets = []
        for address, size in zip(self.device, self.sizes, strict=True):
            dataset = acl.mdl.create_dataset()
            acl.mdl.add_dataset_buffer(dataset, acl.create_data_buffer(address, size))
            self.datasets.append(dataset)
        self.stream, _ = acl.rt.create_stream()
        check(acl.rt.memset(self.device[0], self.sizes[0], 0, self.sizes[0]))
        check(acl.rt.memset(self.host[0], self.sizes[0], 0, self.sizes[0]))

    def execute(self) -> None:
        """Execute and wait."""
        check(acl.mdl.execute(self.model, *self.datasets))

    def copy_execute_copy(self) -> None:
        """Execute and wait, with the copies that a request needs."""
        check(acl.rt.memcpy(self.device[0], self.sizes[0], self.host[0], self.sizes[0], TO_DEVICE))
        check(acl.mdl.execute(self.model, *self.datasets))
        check(acl.rt.memcpy(self.host[1], self.sizes[1], self.device[1], self.sizes[1], FROM_DEVICE))

    def execute_async(self) -> None:
        """Queue an execution, and wait for its stream."""
        check(acl.mdl.execute_async(self.model, *self.datasets, self.stream))
        check(acl.rt.synchronize_stream(self.stream))


def check(code: int) -> None:
    if code:
        raise RuntimeError(f"acl answered {code}: {acl.get_recent_err_msg()}")


def convert(model: onnx.ModelProto, rows: int, folder: Path) -> Path:
    value = model.graph.input[0]
    onnx.save(model, folder / "model.onnx")
    said = io.StringIO()
    shape = f"{value.name}:{rows},{value.type.tensor_type.shape.dim[1].dim_value}"
    # In single precision the graph that runs is the model's own, without the Casts of a precision mode.
    flags = ("--framework=5", "--soc_version=Ascend310P3", "--precision_mode=force_fp32", f"--input_shape={shape}")
    if atc.run([f"--model={folder / 'model.onnx'}", f"--output={folder / 'model'}", *flags], said, said) != 0:
        raise RuntimeError(said.getvalue())
    return folder / "model.om"


def print_spread(title: str, timings: Mapping[str, Timing]) -> None:
    """Print each call's median, the range of the middle four fifths, and its distance to the first line."""
    print(f"\n{title}")
    base = next(iter(timings.values())).median_us
    for name, timing in timings.items():
        spread = f"({timing.p10_us:8.2f} to {timing.p90_us:8.2f})"
        print(f"  {name:44} {timing.median_us:9.2f} us {spread}  {timing.median_us - base:+8.2f} us")


def compare(title: str, model: onnx.ModelProto, rows: int = 1) -> float:
    """Print what the ways to execute cost; returns the median of acl.mdl.execute."""
    testing.reset()
    check(acl.init())
    check(acl.rt.set_device(0))
    with tempfile.TemporaryDirectory() as folder:
        path = convert(model, rows, Path(folder))
        # Two, because a model is executed with execute or with execute_async, never with both.
        blocking, streaming = Client(path), Client(path)
    blocking.execute()
    session = models().get(blocking.model).program._session
    assert session is not None, "the first execution makes it"
    value = session.get_inputs()[0]
    feed = {value.name: np.zeros(value.shape, np.float32)}
    calls: dict[str, Callable[[], object]] = {
        "InferenceSession.run, on the same session": lambda: session.run(None, feed),
        "acl.mdl.execute": blocking.execute,
        "execute_async + synchronize_stream": streaming.execute_async,
        "memcpy in + execute + memcpy out": blocking.copy_execute_copy,
    }
    timings = interleave(calls)
    print_spread(title, timings)
    return timings["acl.mdl.execute"].median_us


def main() -> None:
    print("median over 41 interleaved loops (10th to 90th percentile); difference to the first line")
    tiny = compare("one Relu, 1 input of 16 floats", elementwise(1))
    print(f"  goal: acl.mdl.execute under {GOAL_US:g} us: {'met' if tiny < GOAL_US else 'MISSED'} with {tiny:.1f} us")


if __name__ == "__main__":
    main()
