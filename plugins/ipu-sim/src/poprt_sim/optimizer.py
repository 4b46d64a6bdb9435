"""PopRT's optimiser: passes by name."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from poprt_sim.passes import Pass, PassManager

__all__ = ["Optimizer"]


class Optimizer:
    """Runs passes.

    Args:
        used_passes: names, or passes.

    Raises:
        KeyError: a name is not registered.
    """

    def __init__(self, used_passes: Sequence[str | Pass] = ()) -> None:
        self._manager = PassManager(used_passes)

    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model after all of them."""
        return self._manager.run(model)
