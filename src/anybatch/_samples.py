"""Inputs made up from a model's spec, for trials and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anybatch._errors import InputError
from anybatch._tensors import Array, ModelSpec, TensorSpec


def random_inputs(spec: ModelSpec, rows: int, free: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Return inputs of that many rows, the same at every call: floats from a normal distribution, integers 0 or 1.

    Integers are often indices or class numbers; 0 and 1 are valid wherever anything is.

    Args:
        free: sizes of the free dimensions: of a named one by its name, of one without by its input and axis, as in ``"x.1"``.

    Raises:
        InputError: the size of a free dimension is missing or negative, or `free` has one that the model has not.
    """
    free = free or {}
    wanted = {name for tensor in spec.inputs for name in free_names(tensor).values()}
    missing, unknown = sorted(wanted - set(free)), sorted(set(free) - wanted)
    if missing:
        raise InputError(
            f"the model leaves dimensions free: give each a size, {' '.join(f'--shape {name}=SIZE' for name in missing)}"
        )
    if unknown or any(size < 0 for size in free.values()):
        raise InputError(f"expected sizes >= 0 for the free dimensions {sorted(wanted)}, got {dict(free)}")
    generator = np.random.default_rng(0)
    arrays = {}
    for tensor in spec.inputs:
        shape = list(tensor.shape_for(rows))
        for axis, name in free_names(tensor).items():
            shape[axis] = free[name]
        arrays[tensor.name] = _random_array(generator, tensor.dtype, [size or 0 for size in shape])
    return arrays


def free_names(tensor: TensorSpec) -> dict[int, str]:
    """Return the free dimensions of an input by axis: their name, or input and axis where they have none."""
    return {
        axis: size if isinstance(size, str) else f"{tensor.name}.{axis}"
        for axis, size in enumerate(tensor.shape)
        if axis != tensor.batch_axis and not isinstance(size, int)
    }


def _random_array(generator: np.random.Generator, dtype: np.dtype[Any], shape: list[int]) -> Array:
    if dtype.kind in "biu":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "c":
        return (generator.standard_normal(shape) + 1j * generator.standard_normal(shape)).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)  # bfloat16 and its like are of kind "V"


def take_rows(spec: ModelSpec, inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """Return a request of that many rows from the beginning of another, which is repeated where it is shorter.

    Arrays are contiguous, so that what is measured later is not the copy that others would need.

    Raises:
        InputError: there are no rows to repeat.
    """
    taken = {}
    for tensor in spec.inputs:
        array = inputs[tensor.name]
        if tensor.batch_axis is not None:
            length = array.shape[tensor.batch_axis]
            if length == 0:
                raise InputError(f"{tensor.name!r}: expected at least one row to measure with, got {list(array.shape)}")
            times = [1] * array.ndim
            times[tensor.batch_axis] = -(-rows * tensor.rows_per_row // length)
            array = tensor.rows_of(array if rows * tensor.rows_per_row <= length else np.tile(array, times), 0, rows)
        taken[tensor.name] = np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis
    return taken
