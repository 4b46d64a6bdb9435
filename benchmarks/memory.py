"""Peak memory of one request of 1,000 images of 3x224x224 on a gear of 32. ``python benchmarks/memory.py`` (Linux, 3 GB).

Goal: no more than inputs + outputs + one padded tail, which is a gear of inputs and a gear of outputs. Beside it, what
people write by hand: pad the whole request to a multiple of the gear, run the pieces, concatenate. Each way runs in a
process of its own; the peak is the kernel's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import anybatch
from _models import channel_means
from overhead import raw_session

ROWS, GEAR, SHAPE = 1000, 32, (3, 224, 224)
MIB = 2**20


def relu_images() -> onnx.ModelProto:
    """Return a model whose outputs are as large as its inputs."""
    x = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["rows", *SHAPE])
    y = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", *SHAPE])
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["out"])], "relu_images", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


MODELS = {"channel means (small outputs)": channel_means, "relu (outputs as large as inputs)": relu_images}


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel does not report {field}")


def measure(model_name: str, way: str) -> None:
    model = MODELS[model_name]()
    images = np.ones((ROWS, *SHAPE), np.float32)
    if way == "anybatch":
        runner = anybatch.open(model, batch_sizes=[GEAR], session_options={"intra_op_num_threads": 1})
        run = runner
    else:
        session = raw_session(model)

        def run(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            padded = np.concatenate([rows, np.zeros((-len(rows) % GEAR, *SHAPE), np.float32)])
            pieces = [session.run(None, {"images": padded[i : i + GEAR]})[0] for i in range(0, len(padded), GEAR)]
            return np.concatenate(pieces)[: len(rows)]

    run(images[:GEAR])  # the runtime's own arena is there in either way
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    outputs = run(images)
    growth = resident("VmHWM") - before
    tail = GEAR * images[0].nbytes
    assert len(outputs) == ROWS
    print(
        f"  {way:30} inputs {images.nbytes / MIB:6.1f}  outputs {outputs.nbytes / MIB:6.1f}  one gear of rows {tail / MIB:5.1f}"
        f"  grew by {growth / MIB:7.1f} MiB: {(growth - outputs.nbytes) / tail:5.2f} gears beyond inputs and outputs"
    )
    if way == "anybatch":
        runner.close()


def main() -> None:
    for name in MODELS:
        print(f"\n{ROWS} rows of {SHAPE} on gear {GEAR}: {name}", flush=True)
        for way in ("anybatch", "pad, run, concatenate by hand"):
            subprocess.run([sys.executable, __file__, name, way], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(*sys.argv[1:])
    else:
        main()
