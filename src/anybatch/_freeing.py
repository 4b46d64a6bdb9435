"""Frees the batch size that is baked into a model, for backends that compile it for others: `_rebatch` with its proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anybatch._backend import Model
from anybatch._onnx_spec import BatchAxes, read_model
from anybatch._registry import registry

if TYPE_CHECKING:
    import onnx


def free_batch(
    model: Model, *, batch_axis: Mapping[str, int | None] | None = None, rows_per_row: Mapping[str, int] | None = None
) -> onnx.ModelProto:
    """Return a copy of an ONNX model with a fixed batch whose batch axis is free, where that is shown to change no answer.

    Where the freed graph does not prove that rows are independent, the embedded CPU backend runs both on generated
    rows, and every row must come out the same. External data stays in its
    files: the copy's locations are relative to the model's folder, as the original's.

    Args:
        model: a file, the bytes of one, or an onnx.ModelProto; it is not modified.
        batch_axis: as in `read_model_spec`.
        rows_per_row: as in `read_model_spec`.

    Raises:
        InputError: an override names no tensor, or an axis that is not there.
        ModelError: the batch axis is free already; or the batch size cannot be changed, and the message says why.
    """
    from anybatch import _rebatch  # imports onnx

    options = {"batch_axis": batch_axis, "rows_per_row": rows_per_row}
    freed = _rebatch.free_batch(read_model(model), BatchAxes.from_options(options))
    # Opened for any number of rows, it is freed once more and tried on rows; refused with the reason where they differ.
    registry().get("onnxruntime").open(model, device=0, batch_sizes=None, options=options).close()
    return freed
