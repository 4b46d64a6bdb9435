"""Models of the conformance kit, compiled by the simulator's converter, and how tests open them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np

import anybatch
from acl_sim import atc
from anybatch.testing.models import AFFINE, ReferenceModel

__all__ = ["AFFINE", "RNG", "compiled", "open_model"]

RNG = np.random.default_rng(7)
_FOLDER = Path(tempfile.mkdtemp(prefix="anybatch-ascend-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)

# An .om has no graph, so each opening would try it: launches that these tests count, and a warning.
open_model = functools.partial(anybatch.open, safety="off")


@functools.cache
def compiled(model: ReferenceModel, gears: tuple[int, ...], precision: str = "must_keep_origin_dtype") -> Path:
    """Return the ``.om`` of a model; of one gear it is a static model."""
    path = _FOLDER / f"{model.name}-{'-'.join(map(str, gears))}-{precision}"
    source = path.with_suffix(".onnx")
    source.write_bytes(model.onnx_bytes)
    rows = gears[0] if len(gears) == 1 else -1
    shapes = ";".join(
        f"{t.name}:{','.join(str(rows if size is None else size) for size in t.shape)}" for t in model.spec.inputs
    )
    arguments = [f"--model={source}", "--framework=5", f"--output={path}", "--soc_version=Ascend310P3"]
    arguments += [f"--input_shape={shapes}", f"--precision_mode={precision}"]
    if len(gears) > 1:
        arguments.append(f"--dynamic_batch_size={','.join(map(str, gears))}")
    assert atc.main(arguments) == 0
    return path.with_suffix(".om")
