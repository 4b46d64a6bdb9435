"""PopRT's profiling: of it, the count of a model's operations."""

from __future__ import annotations

from typing import NoReturn

import onnx

from poprt_sim import utils
from poprt_sim._unsimulated import NotSimulated

__all__ = ["Profiler", "get_model_flops"]


def get_model_flops(model: onnx.ModelProto, verbose: bool = False) -> int:  # noqa: ARG001 - its meaning is not published
    """Return the operations of one run; see `poprt_sim.utils.get_model_flops`."""
    return utils.get_model_flops(model)


class Profiler:
    """Profiles of single operators are not simulated."""

    def get_profiler(self, op_type: str) -> NoReturn:
        """Refuse.

        Raises:
            NotSimulated: always.
        """
        raise NotSimulated(f"Profiler.get_profiler({op_type!r}) is not simulated; get_model_flops counts a whole model")
