"""Whether a model whose fixed batch was freed still answers as it did, row by row: what the proof says to that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anybatch._errors import ModelError
from anybatch._onnx_spec import BatchAxes
from anybatch.safety._analysis import analyse

if TYPE_CHECKING:
    import onnx


def is_proven(freed: onnx.ModelProto, axes: BatchAxes) -> bool:
    """Return whether a freed model is proven to answer each row as the model it was made of; False leaves that open.

    At the old batch size the two are the same by construction: `free_batch` replaces constants only by what means the same
    there. If moreover no row depends on another, on its place or on their number, each row's answer is that of the old size.

    Raises:
        ModelError: rows influence one another, so that with another batch size the answers would be others.
    """
    found = analyse(freed, batch_axis=axes.axis, rows_per_row=axes.rows_per_row)
    for output in found.outputs:
        if output.verdict == "coupled":
            raise ModelError(f"rows influence one another: in output {output.name!r}, {output.reason}")
    return found.verdict == "independent"
