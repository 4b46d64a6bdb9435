"""Feed damaged and hostile model files to the reader: `make fuzz`, or `python fuzz_om.py [--mutations 10000] [--seed 0]`.

Each mutant must be refused with 145002 or 145006, or load; what loads is executed, where the vendor's 507011 is also right. How
mutants are made and attempted is in `plugins/fuzzing.py`; the exit status is 1 if something else happened.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np

from acl_sim import _om
from acl_sim._aipp import AippConfig
from acl_sim._compute import NUMPY_TYPES, ComputeError, Program
from acl_sim._models import inputs_of, outputs_of
from acl_sim._om import GearKind, Model, OmError, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fuzzing


def example() -> Model:
    """A small model with everything in its header that a header can hold."""
    return Model(
        name="example",
        inputs=(Tensor("img", 0, 0, (-1, 3, 4, 4), "img"), Tensor("x", 0, 2, (-1, 2), "x")),
        outputs=(Tensor("Add_3:0:y", 0, 2, (-1, 2), "y"),),
        gear_kind=GearKind.BATCH,
        gears=((1,), (4,)),
        output_shapes=(((1, 2),), ((4, 2),)),
        shape_order=(0, 1),
        ranges=(),
        precision_mode="force_fp16",
        soc_version="Ascend310P3",
        aipp=(AippConfig(), None),
        weight_bytes=24,
        work_bytes=64,
        flops=(10, 40),
        graph=fuzzing.example_graph("n").SerializeToString(),
    )


def attempt(data: bytes, *, run: bool = False) -> str:
    """Read, and load, one mutant; returns what became of it.

    Raises:
        Exception: whatever is none of the answers that the vendor has: a bug.
    """
    try:
        content = _om.parse(data)
        models = content.models if isinstance(content, _om.Bundle) else (content,)
        programs = [Program(model) for model in models]
        for model in models:
            inputs_of(model)
            outputs_of(model)
    except OmError as error:
        return str(error.code)
    if not run:
        return "loaded"
    for model, program in zip(models, programs, strict=True):
        shapes = model.input_shapes(0)
        if any(
            tensor.size_bytes([abs(dim) for dim in shape]) > fuzzing.RUN_BYTES
            for tensor, shape in zip(model.inputs, shapes, strict=True)
        ):
            continue
        arrays = [
            np.ones([max(dim, 0) for dim in shape], NUMPY_TYPES[tensor.acl_type])
            for tensor, shape in zip(model.inputs, shapes, strict=True)
        ]
        try:
            program.run(arrays)
        except ComputeError:
            return "507011"
    return "ran"


def read_and_run(seed: int) -> str:
    """Make the mutant of a seed and attempt it.

    Raises:
        MemoryError: reading it took too much.
        Exception: see `attempt`.
    """
    data = fuzzing.mutate(_EXAMPLE, _om._HEAD, random.Random(seed))
    answer = fuzzing.read_frugally(attempt, data)
    return attempt(data, run=True) if answer == "loaded" else answer


_EXAMPLE = _om.dump(example())


if __name__ == "__main__":
    if attempt(_EXAMPLE, run=True) != "ran":
        raise SystemExit("the example itself does not run")
    sys.exit(fuzzing.main(read_and_run, __doc__))
