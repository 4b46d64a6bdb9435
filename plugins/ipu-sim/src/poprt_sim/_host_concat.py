"""Inputs that reach the device as one: what `HostConcatRunner` does with them.

The pass `apply_host_concat_split` replaces small inputs by one that holds them all, [how many, elements of one], and describes
that in the model's metadata; a program hands the text to the compiler, which keeps it in the PopEF. A caller goes on sending
the small ones.

Decisions, where PopRT is silent:

* A small input's compiled shape is what one row of the merged one has: nothing in a PopEF says the original one. A request's
  arrays are judged by their bytes, so those of the original shape fit.
* The small inputs stand where the merged one stood.
* The arrays are read when the device takes the request, and belong to it until then, as those of every other runner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from poprt_sim._compute import Array, Run
from poprt_sim._names import sHostConcatRunnerConfig
from poprt_sim._popef import Popef, PopefError, TensorInfo


@dataclass(frozen=True, slots=True)
class Merge:
    """One merged input, and the names of those in it, in their order: each is a row."""

    tensor: TensorInfo
    names: tuple[str, ...]

    @classmethod
    def of(cls, popef: Popef, tensor_name: Any, input_tensor_names: Any, shape: Any, data_size_bytes: Any) -> Merge:
        """Check a description against the compiled model.

        Raises:
            ValueError: they do not fit.
        """
        tensor = {info.name: info for info in popef.inputs}.get(tensor_name) if isinstance(tensor_name, str) else None
        if tensor is None:
            known = ", ".join(repr(info.name) for info in popef.inputs)
            raise ValueError(f"tensor_name: expected an input of the compiled model ({known}), got {tensor_name!r}")
        names = _listed(input_tensor_names, str)
        if not names:
            raise ValueError(f"{tensor_name!r}: input_tensor_names: expected a list of names, got {input_tensor_names!r}")
        if _listed(shape, int) != list(tensor.shape):
            raise ValueError(f"{tensor_name!r}: shape: expected the compiled {list(tensor.shape)}, got {shape!r}")
        if data_size_bytes != tensor.size_bytes:
            raise ValueError(f"{tensor_name!r}: data_size_bytes: expected {tensor.size_bytes}, got {data_size_bytes!r}")
        if tensor.shape[:1] != (len(names),):
            raise ValueError(f"{tensor_name!r}: expected one name for each of {list(tensor.shape[:1])} rows, got {len(names)}")
        return cls(tensor, tuple(names))

    @property
    def parts(self) -> list[TensorInfo]:
        """The inputs that a caller sends."""
        return [TensorInfo(name, self.tensor.dtype, self.tensor.shape[1:]) for name in self.names]


def described(popef: Popef) -> list[Merge]:
    """Return what the compiler wrote down.

    Raises:
        RuntimeError: it wrote down nothing.
        PopefError: what it wrote down does not fit the model.
    """
    text = dict(popef.opaque_blobs).get(sHostConcatRunnerConfig)
    if text is None:
        raise RuntimeError(
            f"the PopEF of {popef.name!r} does not say which inputs are merged: set CompilerOptions.opaque_blobs to "
            f"{{{sHostConcatRunnerConfig!r}: ...}} from the metadata that apply_host_concat_split wrote, or give "
            "HostConcatRunnerConfig.host_concat_config"
        )
    try:
        entries = json.loads(text)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("expected a list of objects")
        keys = ("tensor_name", "input_tensor_names", "shape", "data_size_bytes")
        return [Merge.of(popef, *(entry.get(key) for key in keys)) for entry in entries]
    except (ValueError, RecursionError) as error:
        raise PopefError(f"the blob {sHostConcatRunnerConfig!r} of {popef.name!r}: {error}") from error


def unmerged(popef: Popef, merges: Sequence[Merge]) -> Popef:
    """Return the model as a caller sees it: with the small inputs.

    Raises:
        PopefError: two inputs would have one name.
    """
    parts = {merge.tensor.name: merge.parts for merge in merges}
    if len(parts) != len(merges):
        raise PopefError("an input is described as merged twice")
    inputs = [part for info in popef.inputs for part in parts.get(info.name, [info])]
    return replace(popef, inputs=tuple(inputs))


def merging(run: Run, merges: Sequence[Merge]) -> Run:
    """Return `run`, fed with the inputs of `unmerged` instead of the compiled ones."""
    small = {name for merge in merges for name in merge.names}

    def run_merged(inputs: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {name: array for name, array in inputs.items() if name not in small}
        feeds |= {merge.tensor.name: np.stack([inputs[name] for name in merge.names]) for merge in merges}
        return run(feeds)

    return run_merged


def _listed(value: Any, kind: type) -> list[Any] | None:
    fits = isinstance(value, Sequence) and not isinstance(value, str) and all(type(each) is kind for each in value)
    return list(value) if fits else None
