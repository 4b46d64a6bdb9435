"""A pyACL client as the published ones are written: it copies in, executes and copies out in turn, all of it blocking.

Two rules for a number of rows that is no gear: mmdeploy's, the smallest gear that holds the rest; and what acllite allows,
gears filled exactly, largest first (it refuses anything else).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

Rule = Literal["smallest gear that holds them", "exact gears, largest first"]
RULES: tuple[Rule, ...] = ("smallest gear that holds them", "exact gears, largest first")


class SerialClient:
    """One model with batch gears, one input and one output of rows.

    Args:
        acl: pyACL, or the simulator.
        model: an ``.om`` file.
        row_bytes: of one row of the input, and of the output.
    """

    def __init__(self, acl: Any, model: Path, row_bytes: tuple[int, int]) -> None:
        self._acl = acl
        self._row_in, self._row_out = row_bytes
        acl.init()
        acl.rt.set_device(0)
        self._model = acl.mdl.load_from_file(str(model))[0]
        self._desc = acl.mdl.create_desc()
        acl.mdl.get_desc(self._desc, self._model)
        self.gears = sorted(acl.mdl.get_dynamic_batch(self._desc)[0]["batch"])
        self._gear_input = acl.mdl.get_input_index_by_name(self._desc, "ascend_mbatch_shape_data")[0]
        self._inputs, self._input, self._input_size = self._dataset("input")
        self._outputs, self._output, self._output_size = self._dataset("output")

    def _dataset(self, side: str) -> tuple[int, int, int]:
        mdl = self._acl.mdl
        dataset, first, first_size = mdl.create_dataset(), 0, 0
        for index in range(getattr(mdl, f"get_num_{side}s")(self._desc)):
            size = getattr(mdl, f"get_{side}_size_by_index")(self._desc, index)
            address = self._acl.rt.malloc(size, 0)[0]
            mdl.add_dataset_buffer(dataset, self._acl.create_data_buffer(address, size))
            if index == 0:
                first, first_size = address, size
        return dataset, first, first_size

    def launches(self, rows: int, rule: Rule) -> Iterator[tuple[int, int]]:
        """Yield (rows, gear) for a request."""
        while rows:
            if rule == "smallest gear that holds them":
                gear = next((gear for gear in self.gears if gear >= rows), self.gears[-1])
            else:
                gear = max(gear for gear in self.gears if gear <= rows)
            yield min(rows, gear), gear
            rows -= min(rows, gear)

    def run(self, images: np.ndarray[Any, Any], results: np.ndarray[Any, Any], rule: Rule) -> None:
        """Run the rows of an array, and put the results into another."""
        acl = self._acl
        source, target = images.ctypes.data, results.ctypes.data
        for rows, gear in self.launches(len(images), rule):
            codes = (
                acl.rt.memcpy(self._input, self._input_size, source, rows * self._row_in, 1),
                acl.mdl.set_dynamic_batch_size(self._model, self._inputs, self._gear_input, gear),
                acl.mdl.execute(self._model, self._inputs, self._outputs),
                acl.rt.memcpy(target, rows * self._row_out, self._output, rows * self._row_out, 2),
            )
            if any(codes):
                raise RuntimeError(f"status codes {codes}")
            source += rows * self._row_in
            target += rows * self._row_out
