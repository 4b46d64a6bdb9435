"""The kit, on backends that are broken on purpose: each must be caught, by the check that is named beside it.

A mutant is a healthy fake, wrapped and broken in one place. For each check that must catch it stands a piece of the message
that check fails with, so a mutant that fails for another reason than its own is noticed as well.
"""

import os
import re
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest

from anybatch import (
    AnyBatch,
    AnybatchError,
    Array,
    Backend,
    Batching,
    ClosedError,
    Compiled,
    ContractError,
    Gears,
    InputError,
    Model,
    ModelError,
    ModelSpec,
    MultipleOf,
    Session,
    check_launch,
    check_options,
    model_digest,
    read_model,
)
from anybatch.testing import BackendConformance, FakeBackend
from anybatch.testing.models import AFFINE

FULL = Gears((1, 4, 8))  # the core pads
PADS = Gears((1, 4, 8), pads=True)
MULTIPLE = MultipleOf(4)
ANY = AnyBatch()

CHECKS = {name for name in dir(BackendConformance) if name.startswith("test_")}


class Wrapped:
    """A healthy session, to be broken in one place."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def spec(self) -> ModelSpec:
        return self.session.spec

    @property
    def batching(self) -> Batching:
        return self.session.batching

    @property
    def concurrency(self) -> int | None:
        return self.session.concurrency

    def execute(self, inputs: Mapping[str, Array], gear: int, out: Mapping[str, Array] | None = None) -> Mapping[str, Array]:
        return self.session.execute(inputs, gear, out)

    def close(self) -> None:
        self.session.close()


class BatchByBatch(Wrapped):
    """Healthy: runs each batch of a multiple by itself, as PopRT does, where all outputs have rows."""

    def execute(self, inputs, gear, out=None):
        size, rows = self.batching.size, check_launch(self.spec, self.batching, inputs, gear)
        if any(tensor.batch_axis is None for tensor in self.spec.outputs):
            return self.session.execute(inputs, gear)
        batches = [
            self.execute_batch(
                {
                    t.name: inputs[t.name]
                    if t.batch_axis is None
                    else np.ascontiguousarray(t.rows_of(inputs[t.name], start, min(start + size, rows)))
                    for t in self.spec.inputs
                },
                first=start == 0,
            )
            for start in range(0, rows, size)
        ]
        return {t.name: np.concatenate([batch[t.name] for batch in batches], t.batch_axis) for t in self.spec.outputs}

    def execute_batch(self, inputs, *, first):
        """Run up to one batch; `first` of its launch."""
        return self.session.execute(inputs, self.batching.size)


class WrappingBackend(FakeBackend):
    def __init__(self, kind: Callable[[Session], Session], batching: Batching) -> None:
        super().__init__(batching)
        self.kind = kind

    def open(self, model: Model, **arguments: Any) -> Any:
        return self.kind(super().open(model, **arguments))


@dataclass(frozen=True)
class Mutant:
    kind: type[Wrapped] | type[FakeBackend]
    batching: Batching
    caught_by: Mapping[str, str]

    def backend(self) -> Backend:
        if issubclass(self.kind, FakeBackend):
            return self.kind(self.batching)
        return WrappingBackend(self.kind, self.batching)


MUTANTS: list[Mutant] = []
LEFT_BEHIND: list[Callable[[], object]] = []  # takes back what leaking mutants leave

Kind = TypeVar("Kind", type[Wrapped], type[FakeBackend])


def mutant(batching: Batching = FULL, **caught_by: str) -> Callable[[Kind], Kind]:
    """Register a mutant, with a piece of the message of each check that must catch it."""

    def register(kind: Kind) -> Kind:
        MUTANTS.append(Mutant(kind, batching, caught_by))
        return kind

    return register


def rows_in(spec: ModelSpec, inputs: Mapping[str, Array]) -> int:
    tensor = next(tensor for tensor in spec.inputs if tensor.batch_axis is not None)
    return inputs[tensor.name].shape[tensor.batch_axis] // tensor.rows_per_row


def blank(spec: ModelSpec, gear: int, value: float = 0.0) -> dict[str, Array]:
    """Buffers for a full launch."""
    return {t.name: np.full([size or 0 for size in t.shape_for(gear)], value, t.dtype) for t in spec.inputs}


def fill(spec: ModelSpec, buffers: Mapping[str, Array], inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Copy a launch's rows to the front of the buffers, as a session does that pads by itself."""
    for tensor in spec.inputs:
        array = inputs[tensor.name]
        buffers[tensor.name][tuple(slice(size) for size in array.shape)] = array
    return buffers


def trim(spec: ModelSpec, results: Mapping[str, Array], rows: int) -> dict[str, Array]:
    return {t.name: results[t.name] if t.batch_axis is None else t.rows_of(results[t.name], 0, rows) for t in spec.outputs}


# ---------------------------------------------------------------------------------------------------- padding, trimming


@mutant(PADS, test_no_stale_rows="after launches full of 1000", test_nan_and_inf_do_not_stick="after launches full of nan")
class StaleTail(Wrapped):
    """Old rows stay behind the new ones."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.buffers: dict[int, Mapping[str, Array]] = {}

    def execute(self, inputs, gear, out=None):
        buffers = self.buffers.setdefault(gear, blank(self.spec, gear))
        results = self.session.execute(fill(self.spec, buffers, inputs), gear)
        return trim(self.spec, results, rows_in(self.spec, inputs))


@mutant(PADS, test_no_stale_rows="row 0 of 1", test_summed_output="output 'total', which has no rows")
class UninitialisedTail(Wrapped):
    """The buffer is allocated and not cleared."""

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(fill(self.spec, blank(self.spec, gear, 12345.0), inputs), gear)
        return trim(self.spec, results, rows_in(self.spec, inputs))


@mutant(PADS, test_no_stale_rows="row 0 of 1")
class PadsWithOnes(Wrapped):
    def execute(self, inputs, gear, out=None):
        results = self.session.execute(fill(self.spec, blank(self.spec, gear, 1.0), inputs), gear)
        return trim(self.spec, results, rows_in(self.spec, inputs))


@mutant(PADS, test_no_stale_rows="row 0 of 1")
class PadsWithTheLastRow(Wrapped):
    """The core may pad like this, when its caller says so; a session that pads may not."""

    def execute(self, inputs, gear, out=None):
        buffers = fill(self.spec, blank(self.spec, gear), inputs)
        rows = rows_in(self.spec, inputs)
        for tensor in self.spec.inputs:
            if tensor.batch_axis is not None:
                tensor.rows_of(buffers[tensor.name], rows, gear)[...] = tensor.rows_of(buffers[tensor.name], rows - 1, rows)
        return trim(self.spec, self.session.execute(buffers, gear), rows)


@mutant(PADS, test_nan_and_inf_do_not_stick="after launches full of nan")
class ClearsByMultiplying(Wrapped):
    """Zero times NaN is NaN."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.buffers: dict[int, Mapping[str, Array]] = {}

    def execute(self, inputs, gear, out=None):
        buffers = self.buffers.setdefault(gear, blank(self.spec, gear))
        with np.errstate(invalid="ignore"):
            for array in buffers.values():
                array *= 0
        results = self.session.execute(fill(self.spec, buffers, inputs), gear)
        return trim(self.spec, results, rows_in(self.spec, inputs))


@mutant(MULTIPLE, test_no_stale_rows="after launches full of 1000", test_nan_and_inf_do_not_stick="after launches full of nan")
class StaleTailOfAMultiple(StaleTail):
    """The same, where any number of rows is padded to a multiple and run in one execution."""


@mutant(
    MULTIPLE,
    test_no_stale_rows="launch of 1 at gear 4 after launches full of 1000",
    test_nan_and_inf_do_not_stick="launch of 1 at gear 4 after launches full of nan",
)
class StaleTailOfABatch(BatchByBatch):
    """One buffer for all batches, and no execution clears what the one before left."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.buffers = blank(session.spec, session.batching.size)

    def execute_batch(self, inputs, *, first):
        results = self.session.execute(fill(self.spec, self.buffers, inputs), self.batching.size)
        return trim(self.spec, results, rows_in(self.spec, inputs))


@mutant(MULTIPLE, test_no_stale_rows=r"launch of 7 at gear 8 after .* row 4 of 7", test_nan_and_inf_do_not_stick="row 4 of 7")
class StaleTailOfTheLastBatch(StaleTailOfABatch):
    """The buffer is cleared when a launch begins, and not between its batches: the last one sees rows of its own request."""

    def execute_batch(self, inputs, *, first):
        if first:
            self.buffers = blank(self.spec, self.batching.size)
        return super().execute_batch(inputs, first=first)


@mutant(PADS, test_no_stale_rows="model 'coupled_wide'.* after launches full of 1000")
class LargeTailStale(StaleTail):
    """The path for large tensors forgets to clear."""

    def execute(self, inputs, gear, out=None):
        if all(array.nbytes < 1 << 16 for array in inputs.values()):
            return self.session.execute(inputs, gear)
        return super().execute(inputs, gear)


@mutant(PADS, test_short_launches=r"expected float32 \[\d, 5\], got float32 \[[48], 5\]")
class UnslicedOutput(Wrapped):
    def execute(self, inputs, gear, out=None):
        return self.session.execute(fill(self.spec, blank(self.spec, gear), inputs), gear)


@mutant(
    PADS,
    test_short_launches=r"got float32 \[[48], 5\]",
    test_no_stale_rows=r"expected float32 \[1, 4\], got float32 \[[48], 4\]",
)
class Mmdeploy(StaleTail):
    """As mmdeploy's Ascend wrapper: n rows are copied, the tail keeps old bytes, outputs have the gear's size."""

    def execute(self, inputs, gear, out=None):
        return self.session.execute(fill(self.spec, self.buffers.setdefault(gear, blank(self.spec, gear)), inputs), gear)


@mutant(MULTIPLE, test_short_launches=r"expected float32 \[1, 5\], got float32 \[4, 5\]", test_ragged_stream="got float32")
class PyTriton(UnslicedOutput):
    """As PyTriton's documented padding: rows are added before, and not taken away behind."""


@mutant(PADS, test_axis_1=r"expected float32 \[4, 1\], got float32 \[1, 1\]", test_axis_moves=r"expected float32 \[3, 1\], got")
class TrimsAxis0(Wrapped):
    """Rows are taken to lie on axis 0 of every output."""

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(fill(self.spec, blank(self.spec, gear), inputs), gear)
        return {name: array[: rows_in(self.spec, inputs)] for name, array in results.items()}


@mutant(PADS, test_rows_per_row=r"expected float32 \[\d+, 4\], got float32 \[\d, 4\]")
class OneEntryPerRow(TrimsAxis0):
    """Entries along the batch axis are taken for rows."""


@mutant(MULTIPLE, test_requests_of_any_size="row 4 of", test_summed_output="row 4 of")
class LostLastChunk(Wrapped):
    """Only the first of several chunks is executed."""

    def execute(self, inputs, gear, out=None):
        rows = rows_in(self.spec, inputs)
        if rows <= 4:
            return self.session.execute(inputs, gear)
        results = self.session.execute(inputs, gear)
        for tensor in self.spec.outputs:
            if tensor.batch_axis is not None:
                tensor.rows_of(results[tensor.name], 4, rows)[...] = 0
        return results


# ------------------------------------------------------------------------------------------------------- rows mixed up


class Rearranged(Wrapped):
    """Puts rows of every output elsewhere."""

    def rearrange(self, rows: Array) -> Array:
        return rows

    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        for tensor in self.spec.outputs:
            if tensor.batch_axis is not None:
                rows = self.rearrange(np.moveaxis(results[tensor.name], tensor.batch_axis, 0))
                results[tensor.name] = np.moveaxis(rows, 0, tensor.batch_axis)
        return results


@mutant(test_full_launches="row 0 of 4.*which is row 1")
class SwappedRows(Rearranged):
    def rearrange(self, rows):
        return np.concatenate([rows[1::-1], rows[2:]])


@mutant(test_full_launches="row 0 of 4.*which is row 3", test_concurrent_requests="in thread .*, row 0 of")
class ReversedRows(Rearranged):
    def rearrange(self, rows):
        return rows[::-1].copy()


@mutant(ANY, test_full_launches="row 0 of 4.*which is row 3")
class ShiftedRows(Rearranged):
    def rearrange(self, rows):
        return np.roll(rows, 1, axis=0)


@mutant(test_full_launches="row 3 of 4.*which is row 2", test_requests_of_any_size="which is row")
class LastRowTwice(Rearranged):
    """The last row is lost; the one before comes in its place."""

    def rearrange(self, rows):
        return np.concatenate([rows[:-1], rows[-2:-1]]) if len(rows) > 1 else rows


@mutant(test_full_launches=r"expected float32 \[4, 5\], got float32 \[3, 5\]", test_map_keeps_order="expected float32")
class LastRowMissing(Rearranged):
    def rearrange(self, rows):
        return rows[:-1] if len(rows) > 1 else rows


@mutant(test_convolution="output 'y', row 0 of 1")
class ChannelsLast(Wrapped):
    """The device's memory layout is handed out under the model's shape."""

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        return {n: np.moveaxis(a, 1, -1).reshape(a.shape) if a.ndim == 4 else a for n, a in results.items()}


@mutant(test_wide_rows="output 'y', row 1 of 4")
class LargeInputsCutShort(Wrapped):
    """The path for large tensors copies no more than 64 KiB."""

    def execute(self, inputs, gear, out=None):
        cut = {name: array.copy() for name, array in inputs.items()}
        for array in cut.values():
            array.reshape(-1).view(np.uint8)[1 << 16 :] = 0
        return self.session.execute(cut, gear)


@mutant(
    test_map_keeps_order="map, result",
    test_submitted_requests="submit of",
    test_ragged_stream="in a stream of",
    test_requests_of_any_size="output 'y', row",
)
class PreviousResult(Wrapped):
    """A pipeline off by one: each launch gets the results of the one before it."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.previous: dict[int, Mapping[str, Array]] = {}

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        previous, self.previous[gear] = self.previous.get(gear, results), {n: a.copy() for n, a in results.items()}
        return previous


# ------------------------------------------------------------------------------------------- dtypes, names, kinds of tensor


class Converted(Wrapped):
    """Converts every output."""

    def convert(self, array: Array) -> Array:
        return array

    def execute(self, inputs, gear, out=None):
        return {name: self.convert(array) for name, array in self.session.execute(inputs, gear).items()}


@mutant(test_float64="row 0 of 1: expected", test_int64="row 0 of 1: expected", test_int32="row 0 of 1: expected")
class ThroughFloat32(Converted):
    """Everything is computed in float32 and comes back in the right dtype."""

    def convert(self, array):
        with np.errstate(invalid="ignore"):
            return array.astype(np.float32).astype(array.dtype)


@mutant(test_float32="row 0 of 1: expected", test_full_launches="row 0 of 1: expected")
class ThroughFloat16(Converted):
    def convert(self, array):
        return array.astype(np.float16).astype(array.dtype)


@mutant(test_float16="expected float16 .*, got float32", test_bfloat16="expected bfloat16 .*, got float32")
class Widened(Converted):
    """NumPy knows no bfloat16, so float32 it is."""

    def convert(self, array):
        return array.astype(np.float32) if array.dtype.itemsize == 2 else array


@mutant(test_int64="expected int64 .*, got int32", test_float64="expected float64 .*, got float32")
class Narrowed(Converted):
    def convert(self, array):
        return array.astype({"int64": np.int32, "float64": np.float32}.get(str(array.dtype), array.dtype))


@mutant(test_uint8="expected uint8 .*, got int8", test_bool="expected bool .*, got int8")
class BytesAreSigned(Converted):
    def convert(self, array):
        return array.view(np.int8) if array.dtype.itemsize == 1 else array


@mutant(test_int8="row 0 of 1: expected")
class BytesSaturate(Converted):
    def convert(self, array):
        return np.maximum(array, 0) if array.dtype == np.int8 else array


@mutant(test_several_inputs_and_outputs="model 'several', .*: output 'difference', row 0 of 1")
class OutputsSwapped(Wrapped):
    """Outputs of one shape under one another's names."""

    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        if "mixed" in results and "difference" in results:
            results["mixed"], results["difference"] = results["difference"], results["mixed"]
        return results


@mutant(test_several_inputs_and_outputs="output 'difference', row 0")
class InputsByPosition(Wrapped):
    """Inputs go to the device in alphabetical order, backwards."""

    def execute(self, inputs, gear, out=None):
        names = [tensor.name for tensor in self.spec.inputs]
        return self.session.execute(dict(zip(names, (inputs[name] for name in sorted(names, reverse=True)), strict=True)), gear)


@mutant(test_several_inputs_and_outputs=r"expected outputs \['difference', 'mixed', 'total'\], got \['difference', 'mixed'\]")
class OutputMissing(Wrapped):
    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        results.pop("total", None)
        return results


@mutant(test_full_launches=r"expected outputs \['y'\], got \['status', 'y'\]")
class OutputAdded(Wrapped):
    def execute(self, inputs, gear, out=None):
        return {**self.session.execute(inputs, gear), "status": np.zeros(1)}


@mutant(test_unbatched_input="output 'y', row 0", test_scalar_input="output 'y', row 0")
class TableCached(Wrapped):
    """Inputs without rows are sent to the device once."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.tables: dict[str, Array] = {}

    def execute(self, inputs, gear, out=None):
        for tensor in self.spec.inputs:
            if tensor.batch_axis is None:
                self.tables.setdefault(tensor.name, inputs[tensor.name].copy())
        return self.session.execute({**inputs, **self.tables}, gear)


@mutant(test_same_output="output 'doubled', which has no rows")
class UnbatchedOutputStale(Wrapped):
    """Outputs without rows are fetched once."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.constants: dict[str, Array] = {}

    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        for tensor in self.spec.outputs:
            if tensor.batch_axis is None:
                results[tensor.name] = self.constants.setdefault(tensor.name, results[tensor.name]).copy()
        return results


@mutant(test_summed_output="output 'total', which has no rows")
class TotalGoesOn(Wrapped):
    """An accumulator on the device is not reset."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.totals: dict[str, Array] = {}

    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        for tensor in self.spec.outputs:
            if tensor.batch_axis is None:
                self.totals[tensor.name] = results[tensor.name] + self.totals.get(tensor.name, 0)
                results[tensor.name] = self.totals[tensor.name].copy()
        return results


@mutant(test_same_output="'doubled': expected TensorSpec")
class DecidesHowToCombine(Wrapped):
    """How values combine is the caller's to say."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        outputs = (replace(t, combine="max") if t.batch_axis is None else t for t in session.spec.outputs)
        self.declared = replace(session.spec, outputs=tuple(outputs))

    @property
    def spec(self):
        return self.declared


# --------------------------------------------------------------------------------------------------------- spec, batching


@mutant(test_spec_and_batching_never_change="expected one spec for the session's whole life")
class SpecMadeEachTime(Wrapped):
    @property
    def spec(self):
        return ModelSpec(self.session.spec.inputs, self.session.spec.outputs)


@mutant(
    test_spec_and_batching_never_change="expected gears 1, 4, 8 after",
    test_stats_count_real_and_padded_rows="expected launches on gears 8, got",
)
class BatchingShrinks(Wrapped):
    """Gears disappear once something was executed."""

    executed = False

    @property
    def batching(self):
        return Gears((8,)) if self.executed else self.session.batching

    def execute(self, inputs, gear, out=None):
        self.executed = True
        return self.session.execute(inputs, gear, out)


@mutant(test_spec_matches_the_model="affine, 'y': expected TensorSpec", test_no_rows="expected float32 .*, got float64")
class SpecOfAnotherDtype(Wrapped):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        outputs = (replace(t, dtype=np.dtype(np.float64)) for t in session.spec.outputs)
        self.declared = replace(session.spec, outputs=tuple(outputs))

    @property
    def spec(self):
        return self.declared


@mutant(test_spec_matches_the_model=r"several: expected inputs \['left', 'right'\], got \['right', 'left'\]")
class SpecInAnotherOrder(Wrapped):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.declared = replace(session.spec, inputs=session.spec.inputs[::-1])

    @property
    def spec(self):
        return self.declared


@mutant(test_it_is_a_backend="expected concurrency to be None or an int of at least 1, got 0")
class NoConcurrency(Wrapped):
    concurrency = 0  # the fault


@mutant(test_batch_sizes_are_the_ones_asked_for=r"opened for \[8\]: expected those, got gears 1, 4, 8")
class BatchSizesIgnored(FakeBackend):
    def _batching_for(self, batch_sizes):
        return self.batching


# ------------------------------------------------------------------------------------------------------- gears and refusals


@mutant(test_unknown_gear_is_refused="gear 2 on gears 1, 4, 8: expected InputError, but nothing was raised")
class LargestGearInstead(Wrapped):
    """As a device whose gear was not set: the largest runs."""

    def execute(self, inputs, gear, out=None):
        if gear in self.batching.sizes or not 1 <= gear <= 8:
            return self.session.execute(inputs, gear)
        results = self.session.execute(fill(self.spec, blank(self.spec, 8), inputs), 8)
        return trim(self.spec, results, gear)


@mutant(test_short_launches="gears 1, 4, 8: expected InputError, but nothing was raised")
class PadsUnasked(Wrapped):
    """Takes short launches although it says it does not."""

    def execute(self, inputs, gear, out=None):
        rows = rows_in(self.spec, inputs)
        if rows < gear:
            inputs = fill(self.spec, blank(self.spec, gear), inputs)
        return trim(self.spec, self.session.execute(inputs, gear), rows)


@mutant(test_too_many_rows_are_refused="2 rows at gear 1: expected InputError, but nothing was raised")
class DropsRowsBeyondTheGear(Wrapped):
    def execute(self, inputs, gear, out=None):
        return self.session.execute({t.name: t.rows_of(inputs[t.name], 0, gear) for t in self.spec.inputs}, gear)


@mutant(test_unknown_gear_is_refused="expected InputError, got KeyError")
class LooksGearsUp(Wrapped):
    """Whatever error comes first is what the caller gets."""

    def execute(self, inputs, gear, out=None):
        slot = dict.fromkeys(self.batching.sizes, self.session)[gear]
        return slot.execute(inputs, gear)


@mutant(
    test_execute_after_close="expected ClosedError, but nothing was raised",
    test_unknown_gear_is_refused="expected InputError, but nothing was raised",
    test_runner_after_close="the session's execute after the Runner's close.*: expected ClosedError, but nothing was raised",
)
class SwallowsErrors(Wrapped):
    """Zeros instead of an error."""

    def execute(self, inputs, gear, out=None):
        try:
            return self.session.execute(inputs, gear)
        except AnybatchError:
            return {t.name: np.zeros([size or 0 for size in t.shape_for(max(gear, 0))], t.dtype) for t in self.spec.outputs}


@mutant(test_refusal_leaves_the_session_usable="after a refused launch")
class StaysBrokenAfterRefusal(Wrapped):
    """A refused launch leaves the device's queue one entry behind."""

    refused = False

    def execute(self, inputs, gear, out=None):
        try:
            results = self.session.execute(inputs, gear)
        except InputError:
            self.refused = True
            raise
        return {name: array * 0 for name, array in results.items()} if self.refused else results


# ------------------------------------------------------------------------------------------------------------------ memory


@mutant(test_results_share_no_memory="output 'difference' shares with input 'left'", test_inputs_are_only_read="was written to")
class ResultsInInputs(Wrapped):
    """Works in place: the caller's input is the output."""

    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        if "difference" in results:
            inputs["left"][...] = results["difference"]
            results["difference"] = inputs["left"]
        return results


@mutant(test_inputs_are_only_read="input 'left' to be left alone, but it was written to")
class NormalisesInputs(Wrapped):
    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        for array in inputs.values():
            array /= 255
        return results


@mutant(test_inputs_are_only_read=r"expected the mapping of inputs to be left alone, got \[\]")
class EmptiesTheMapping(Wrapped):
    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        inputs.clear()
        return results


@mutant(test_inputs_are_not_kept="expected no input to be kept after the call")
class KeepsInputs(Wrapped):
    """A binding holds on to the arrays of the last launch."""

    def execute(self, inputs, gear, out=None):
        self.bound = [array[:] if array.ndim else array for array in inputs.values()]
        return self.session.execute(inputs, gear)


@mutant(test_results_belong_to_the_caller="looked at after later launches", test_concurrent_launches="in thread")
class OutputBufferReused(Wrapped):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.buffers: dict[int, dict[str, Array]] = {}

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        buffers = self.buffers.setdefault(gear, {name: np.empty_like(array) for name, array in results.items()})
        for name, array in results.items():
            buffers[name][...] = array
        return buffers


@mutant(test_results_belong_to_the_caller="looked at after close")
class ResultsFreedByClose(Wrapped):
    """Results are views on the device's memory, which goes when the session goes."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.mapped: list[Array] = []

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        self.mapped += results.values()
        return results

    def close(self) -> None:
        for array in self.mapped:
            array[...] = 0
        self.session.close()


@mutant(test_inputs_are_read_each_time="in arrays that were used before: output 'y', row 0")
class UploadsOncePerArray(Wrapped):
    """What lies at an address it saw before is not copied again."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.uploaded: dict[tuple[int, int], Array] = {}

    def execute(self, inputs, gear, out=None):
        device = {n: self.uploaded.setdefault((a.ctypes.data, a.nbytes), a.copy()) for n, a in inputs.items()}
        return self.session.execute(device, gear)


@mutant(test_results_belong_to_the_caller="expected an array its owner may write to")
class ReadOnlyResults(Converted):
    def convert(self, array):
        array.flags.writeable = False
        return array


@mutant(test_results_share_no_memory="output 'y' shares with input 'x'")
class ReshapesWithoutCopying(Wrapped):
    """A reshape costs nothing and returns a view on the input."""

    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        if "weight" in results:
            results["y"] = inputs["x"].reshape(results["y"].shape)
        return results


@mutant(test_results_belong_to_the_caller="looked at after later launches: output 'weight'")
class HandsOutItsWeight(Wrapped):
    """An output that is a weight, reshaped: the model's own memory."""

    weight = None

    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        if "weight" in results:
            if self.weight is None:
                self.weight = results["weight"]
            results["weight"] = self.weight.reshape(results["weight"].shape)
        return results


@mutant(test_results_share_no_memory="output 'difference' shares with output 'mixed'")
class OutputsShareMemory(Wrapped):
    def execute(self, inputs, gear, out=None):
        results = dict(self.session.execute(inputs, gear))
        if "mixed" in results:
            results["mixed"][...] = results["difference"]
            results["difference"] = results["mixed"][:]
        return results


class Offered(Wrapped):
    """Does something wrong with offered memory."""

    def deliver(self, result: Array, offered: Array) -> Array:
        return offered

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        return {n: self.deliver(array, out[n]) if out and n in out else array for n, array in results.items()}


@mutant(test_out_is_an_offer="output 'difference', row 0 of 1: .*-777")
class OutClaimed(Offered):
    """Returned, but never written."""


@mutant(test_out_is_an_offer="row 2 of 4: .*-777")
class OutHalfWritten(Offered):
    def deliver(self, result, offered):
        half = (len(result) + 1) // 2
        offered[:half] = result[:half]
        return offered


@mutant(test_out_is_an_offer="expected it to be returned or left alone, it was written")
class OutUsedAsScratch(Offered):
    def deliver(self, result, offered):
        offered[...] = 0
        return result


@mutant(PADS, test_out_is_an_offer="expected its rows alone to be written, got some beside it")
class OutOverrun(Offered):
    """Copies as many rows as the gear has, whatever room there is: beyond the end, or the last row once more."""

    def deliver(self, result, offered):
        offered[...] = result
        offered.base[-1] = 0
        return offered


@mutant(test_out_is_an_offer=r"expected all of it to be filled and returned, got a part")
class OutReturnedInPart(Offered):
    """The result lies in the offered memory, but one row too early."""

    def deliver(self, result, offered):
        moved = (offered if offered.base is None else offered.base)[: len(result)]
        moved[...] = result
        return moved


# ----------------------------------------------------------------------------------------------------------------- threads


@mutant(test_concurrent_launches="in thread", test_concurrent_requests="in thread")
class SharedScratch(Wrapped):
    """One staging buffer for any number of threads."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.scratch: dict[int, Mapping[str, Array]] = {}

    def execute(self, inputs, gear, out=None):
        scratch = self.scratch.setdefault(gear, blank(self.spec, gear))
        fill(self.spec, scratch, inputs)
        time.sleep(0)  # gives up the interpreter's lock, as a copy to a device does
        return self.session.execute(scratch, gear)


@mutant(PADS, test_concurrent_launches="in thread")
class GearIsGlobal(Wrapped):
    """Setting the gear and launching are two steps, and another thread comes between; rows beyond the gear are not computed."""

    def execute(self, inputs, gear, out=None):
        self.gear = gear
        time.sleep(0)
        results = self.session.execute(inputs, gear)
        for tensor in self.spec.outputs:
            tensor.rows_of(results[tensor.name], self.gear, gear)[...] = 0
        return results


@mutant(PADS, test_concurrent_launches="model 'coupled', .* in thread")
class SecondBufferNotCleared(Wrapped):
    """Sets of buffers beyond the first, which only threads reach, are not cleared."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.first = threading.Lock()
        self.others: dict[int, dict[int, Mapping[str, Array]]] = {}

    def execute(self, inputs, gear, out=None):
        if self.first.acquire(blocking=False):
            try:
                time.sleep(0)
                return self.session.execute(inputs, gear)
            finally:
                self.first.release()
        buffers = self.others.setdefault(threading.get_ident(), {}).setdefault(gear, blank(self.spec, gear))
        results = self.session.execute(fill(self.spec, buffers, inputs), gear)
        return trim(self.spec, results, rows_in(self.spec, inputs))


@mutant(test_works_from_any_thread="from another thread: output 'y', row 0", test_concurrent_launches="in thread .*, row 0 of")
class BoundToItsThread(Wrapped):
    """The device's context is current in the thread that opened the session, and in no other."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.context = threading.local()
        self.context.current = True

    def execute(self, inputs, gear, out=None):
        results = self.session.execute(inputs, gear)
        return results if hasattr(self.context, "current") else {name: array * 0 for name, array in results.items()}


# ---------------------------------------------------------------------------------------------------------- several sessions


@mutant(test_two_sessions_do_not_mix="beside another session: output 'y', row 0")
class LastOpenedWins(FakeBackend):
    """The current model is a global of the runtime."""

    def open(self, model: Model, **arguments: Any) -> Any:
        self.current = super().open(model, **arguments)
        backend = self

        class Global(Wrapped):
            def execute(self, inputs, gear, out=None):
                return backend.current.execute(inputs, gear)

        return Global(self.current)


@mutant(test_two_sessions_do_not_mix="after another session was closed: expected no error, got ClosedError")
class CloseFinalisesAll(FakeBackend):
    def open(self, model: Model, **arguments: Any) -> Any:
        self.sessions = [*getattr(self, "sessions", []), super().open(model, **arguments)]
        backend = self

        class Global(Wrapped):
            def close(self):
                for session in backend.sessions:
                    session.close()

        return Global(self.sessions[-1])


@mutant(test_opens_file_bytes_and_proto="opened from file: output 'y', row 0", test_two_sessions_do_not_mix="output 'y', row 0")
class CompiledOnce(FakeBackend):
    """The cache of compiled models looks at the shapes and not at the weights."""

    def _find(self, model: Model) -> Any:
        found = super()._find(model)
        self.cache = getattr(self, "cache", {})
        return self.cache.setdefault(str(found.spec), found)


@mutant(test_opens_file_bytes_and_proto="expected the caller's ModelProto to be left alone")
class EditsTheProto(FakeBackend):
    """Fixes the batch size in the model it was handed."""

    def open(self, model: Model, **arguments: Any) -> Any:
        if isinstance(model, onnx.ModelProto):
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
        return super().open(model, **arguments)


@mutant(test_opens_file_bytes_and_proto="expected the model file to be left alone")
class EditsTheFile(FakeBackend):
    def open(self, model: Model, **arguments: Any) -> Any:
        session = super().open(model, **arguments)
        if isinstance(model, Path):
            model.write_bytes(b"")
        return session


# ----------------------------------------------------------------------------------------------------------- opening errors


class Careless(FakeBackend):
    """Opens AFFINE where a healthy backend raises."""

    forgives: type[Exception] = AnybatchError

    def open(self, model: Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]) -> Any:
        try:
            return super().open(model, device=device, batch_sizes=batch_sizes, options=options)
        except self.forgives:
            return super().open(AFFINE.onnx_bytes, device=0, batch_sizes=batch_sizes, options={})


@mutant(test_corrupt_model_is_a_model_error="opening an empty model from bytes: expected ModelError, but nothing was raised")
class CorruptAccepted(Careless):
    forgives = ModelError


@mutant(
    test_unknown_option_is_an_input_error="expected InputError, but nothing was raised",
    test_impossible_device_is_refused="expected InputError or BackendUnavailableError, but nothing was raised",
)
class OptionsAndDevicesIgnored(Careless):
    forgives = InputError


@mutant(test_corrupt_model_is_a_model_error="expected ModelError, got ValueError")
class ParserErrorsPassedOn(FakeBackend):
    def _find(self, model: Model) -> Any:
        try:
            return super()._find(model)
        except ModelError as error:
            raise ValueError(error) from error


@mutant(test_unknown_option_is_an_input_error="expected a message with 'no_such_option', got 'bad options'")
class OptionNotNamed(FakeBackend):
    def open(self, model: Model, *, options: Mapping[str, object], **arguments: Any) -> Any:
        if options:
            raise InputError("bad options")
        return super().open(model, options=options, **arguments)


@mutant(test_failed_open_leaks_nothing="failing to open 5 times: expected .* file descriptors as before")
class LeaksWhenOpenFails(FakeBackend):
    """The device is opened before the model is read."""

    def open(self, model: Model, **arguments: Any) -> Any:
        device = os.open(os.devnull, os.O_RDONLY)
        LEFT_BEHIND.append(lambda: os.close(device))
        return super().open(model, **arguments)


# --------------------------------------------------------------------------------------------------------- compiling ahead


class CompilingBackend(FakeBackend):
    """Healthy: its artefacts are a line of batch sizes, and the model."""

    mark = b"compiled for "

    def __init__(self, batching: Batching) -> None:
        super().__init__(batching)
        self.cache = Path(tempfile.mkdtemp())
        LEFT_BEHIND.append(lambda: shutil.rmtree(self.cache))

    def open(self, model: Model, *, batch_sizes: Sequence[int] | None, **arguments: Any) -> Any:
        if isinstance(model, Path) and model.read_bytes().startswith(self.mark):
            line, _, model = model.read_bytes().partition(b"\n")
            batch_sizes = [int(size) for size in line.removeprefix(self.mark).split()]
        return super().open(model, batch_sizes=batch_sizes, **arguments)

    def compile(self, model, *, batch_sizes, output, options, progress):
        check_options(options, (), backend=self.name)
        spec = self._find(model).spec
        path = output or self.cache / f"{self.key(model)}.fake"
        found = output is None and path.is_file()
        if not found:
            path.write_bytes(self.artefact(model, batch_sizes))
        return Compiled(path, spec, batch_sizes, found)

    def key(self, model: Model) -> str:
        return model_digest(model)

    def artefact(self, model: Model, batch_sizes: Sequence[int]) -> bytes:
        return self.mark + " ".join(map(str, batch_sizes)).encode() + b"\n" + read_model(model).SerializeToString()


@mutant(test_compiled_model_opens_as_it_is="expected the artefact to run .1, 4, 8., as the compiler says, got gears 8")
class CompiledForTheLargest(CompilingBackend):
    """Says one thing and compiles another."""

    def artefact(self, model, batch_sizes):
        return super().artefact(model, batch_sizes[-1:])


@mutant(test_compiled_model_opens_as_it_is="expected the artefact at .*, got")
class OutputIgnored(CompilingBackend):
    def compile(self, model, *, output, **arguments):
        return super().compile(model, output=None, **arguments)


@mutant(test_compiled_model_opens_as_it_is="expected nothing but 'a model.fake' in its folder, got .*'kernel.log'")
class CompilerLitters(CompilingBackend):
    """The compiler's own files stay beside what it made."""

    def compile(self, model, *, output, **arguments):
        (output or self.cache / "any").with_name("kernel.log").touch()
        return super().compile(model, output=output, **arguments)


@mutant(test_compiled_model_is_kept="compiled ahead: output 'y', row 0")
class KeptByShape(CompilingBackend):
    """Models of one shape are taken for one model."""

    def key(self, model):
        return str(len(self._find(model).spec.inputs))


@mutant(test_compiled_model_is_kept="compiled for the second time: expected what was made before to be found")
class NeverFound(CompilingBackend):
    def compile(self, model, **arguments):
        return replace(super().compile(model, **arguments), cached=False)


@mutant(test_failed_compile_leaves_no_file="compiling an empty model: expected ModelError, but nothing was raised")
class CompilesAnything(CompilingBackend):
    def compile(self, model, **arguments):
        try:
            return super().compile(model, **arguments)
        except ModelError:
            return super().compile(AFFINE.onnx_bytes, **arguments)


@mutant(test_failed_compile_leaves_no_file="compiling with an unknown option: expected no file to be left, got .'model.fake'.")
class ChecksOptionsLast(CompilingBackend):
    """The file is there before the error is."""

    def compile(self, model, *, options, **arguments):
        compiled = super().compile(model, options={}, **arguments)
        check_options(options, (), backend=self.name)
        return compiled


# ----------------------------------------------------------------------------------------------------------------- closing


@mutant(test_close_twice="close.* for the second time: expected no error, got ClosedError")
class ClosesOnce(Wrapped):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise ClosedError("already closed")
        self.closed = True
        self.session.close()


@mutant(
    test_execute_after_close="expected ClosedError, but nothing was raised",
    test_works_from_any_thread="executing after close.* from another thread: expected ClosedError, but nothing was raised",
    test_runner_after_close="the session's execute after the Runner's close.*: expected ClosedError, but nothing was raised",
)
class NeverCloses(Wrapped):
    def close(self) -> None:
        pass


@mutant(test_execute_after_close="expected ClosedError, got AttributeError: 'NoneType'")
class CrashesAfterClose(Wrapped):
    def execute(self, inputs, gear, out=None):
        return self.session.execute(inputs, gear)

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = None


@mutant(test_closed_session_is_freed="expected a closed KeptForEver to be freed, but something keeps it")
class KeptForEver(Wrapped):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        LEFT_BEHIND.append(self.close)  # a bound method holds its object


@mutant(test_launches_leak_nothing="executing each batch size 5 times: expected .* file descriptors as before")
class LeaksPerLaunch(Wrapped):
    """An event per launch is made and never destroyed."""

    def execute(self, inputs, gear, out=None):
        event = os.open(os.devnull, os.O_RDONLY)
        LEFT_BEHIND.append(lambda: os.close(event))
        return self.session.execute(inputs, gear)


@mutant(test_cycles_leak_nothing="executing and closing 5 times: expected .* threads as before")
class LeaksThreads(Wrapped):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        LEFT_BEHIND.append(lambda: (stop.set(), thread.join()))


@mutant(test_cycles_leak_nothing="executing and closing 5 times: expected .* file descriptors as before")
class LeaksFileDescriptors(Wrapped):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        handle = os.open(os.devnull, os.O_RDONLY)
        LEFT_BEHIND.append(lambda: os.close(handle))


@mutant(test_cycles_leak_nothing="expected no ResourceWarning, got .*unclosed file")
class LeavesClosingToTheCollector(Wrapped):
    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.log = Path(os.devnull).open("rb")  # noqa: SIM115  # the fault


# ---------------------------------------------------------------------------------------------------------- the backend itself


@mutant(test_it_is_a_backend="expected the members of anybatch.Backend, got")
class NotABackend(FakeBackend):
    """It has no `suffixes` at all."""

    def __new__(cls, batching):  # what is made is no FakeBackend, so nobody initialises it
        return type("Partial", (), {"name": "fake", "open": FakeBackend.open, "check_usable": FakeBackend.check_usable})()


@mutant(test_name_is_stable="expected a name without spaces, got ''")
class Nameless(FakeBackend):
    name = ""


@mutant(test_name_is_stable="expected the name 'fake-1' each time, got 'fake-")
class Renamed(FakeBackend):
    times = 0

    @property
    def name(self):
        self.times += 1
        return f"fake-{self.times}"


@mutant(test_suffixes_begin_with_a_dot="expected suffixes such as '.onnx', got 'onnx'")
class SuffixWithoutDot(FakeBackend):
    suffixes = frozenset({"onnx"})


@mutant(test_suffixes_begin_with_a_dot="expected a collection of suffixes, got '.onnx'")
class SuffixAlone(FakeBackend):
    suffixes = ".onnx"


@mutant(test_what_it_says_for_reports="expected a precision such as 'float16', or '', got 'fp16'")
class PrecisionInTheVendorsWords(Wrapped):
    precision = "fp16"


@mutant(test_what_it_says_for_reports="expected a precision such as 'float16', or '', got None")
class NoPrecisionIsNone(Wrapped):
    precision = None


@mutant(test_what_it_says_for_reports="expected memory_bytes to be None or an int of 0 or more, got 1.5")
class PartOfAByte(Wrapped):
    memory_bytes = 1.5


@mutant(test_what_it_says_for_reports="expected memory_bytes to be None or an int of 0 or more, got -1")
class MemoryUnknownIsMinusOne(Wrapped):
    memory_bytes = -1


@mutant(test_check_usable_is_one_line="expected a line that names the runtime, got ''")
class UsableWithoutAWord(FakeBackend):
    def check_usable(self) -> str:
        return ""


@mutant(test_check_usable_is_one_line="expected a single line, got 'runtime")
class UsableInTwoLines(FakeBackend):
    def check_usable(self) -> str:
        return "runtime 1.0\ndriver 2.0"


# ---------------------------------------------------------------------------------------------------------------- the proof


def run_check(check: str, backend: Backend, batching: Batching) -> None:
    class Kit(BackendConformance):
        batch_sizes = (
            batching.sizes if isinstance(batching, Gears) else (batching.size,) if isinstance(batching, MultipleOf) else None
        )

    getattr(Kit(), check)(backend)


@pytest.fixture(autouse=True)
def _tidy_up() -> Iterator[None]:
    yield
    while LEFT_BEHIND:
        LEFT_BEHIND.pop()()


@pytest.mark.parametrize(
    ("mutant", "check"),
    [pytest.param(mutant, check, id=f"{mutant.kind.__name__}-{check}") for mutant in MUTANTS for check in mutant.caught_by],
)
def test_mutant_is_caught(mutant: Mutant, check: str) -> None:
    twin = CompilingBackend if issubclass(mutant.kind, CompilingBackend) else FakeBackend
    run_check(check, twin(mutant.batching), mutant.batching)  # the healthy twin passes

    with pytest.raises((AssertionError, ContractError)) as caught:
        run_check(check, mutant.backend(), mutant.batching)

    assert re.search(mutant.caught_by[check], str(caught.value)), str(caught.value)
    raised_in = Path(traceback.extract_tb(caught.tb)[-1].filename).name
    assert raised_in == ("conformance.py" if caught.type is AssertionError else "_runner.py")


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_a_session_that_runs_batch_by_batch_passes(check: str) -> None:
    run_check(check, WrappingBackend(BatchByBatch, MULTIPLE), MULTIPLE)


def test_there_are_many_mutants() -> None:
    names = [mutant.kind.__name__ for mutant in MUTANTS]

    assert len(set(names)) == len(names) >= 60
    assert all(mutant.caught_by for mutant in MUTANTS)
    assert all(message for mutant in MUTANTS for message in mutant.caught_by.values())


def test_every_check_catches_a_mutant() -> None:
    caught = {check for mutant in MUTANTS for check in mutant.caught_by}

    assert len(CHECKS) > 50
    assert caught == CHECKS
