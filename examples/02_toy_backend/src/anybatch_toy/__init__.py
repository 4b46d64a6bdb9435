"""A backend for anybatch: ONNX's reference evaluator, treated as if it compiled models for a few batch sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

import anybatch

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator


class ToyBackend:
    """Opens ONNX models, on the one device there is."""

    name = "toy"
    suffixes: Collection[str] = ()  # no file means this backend: callers ask for it by name

    def check_usable(self) -> str:
        """Return the version of onnx, which is all it needs."""
        return f"onnx {version('onnx')}, reference evaluator"

    def open(
        self, model: anybatch.Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, Any]
    ) -> ToySession:
        """Open a model for gears 1 and 4, or those asked for; the options are those of `anybatch.read_model_spec`."""
        import onnx.reference  # the SDK is imported here, so that listing backends works on machines without it

        anybatch.check_options(options, ("batch_axis", "rows_per_row"), backend=self.name)
        if device != 0:
            raise anybatch.InputError(f"toy: expected device 0, the only one, got {device}")
        proto = anybatch.read_model(model)
        try:
            evaluator = onnx.reference.ReferenceEvaluator(proto)
        except Exception as error:  # what protobuf and onnx raise has no common base class
            raise anybatch.ModelError(f"toy: cannot load the model: {error}") from error
        return ToySession(evaluator, anybatch.read_model_spec(proto, **options), anybatch.Gears(tuple(batch_sizes or (1, 4))))


class ToySession:
    """One model, opened for some gears."""

    concurrency = 1  # onnx does not say that an evaluator takes several threads at once

    def __init__(self, evaluator: ReferenceEvaluator, spec: anybatch.ModelSpec, batching: anybatch.Gears) -> None:
        self.spec = spec
        self.batching = batching
        self._evaluator: ReferenceEvaluator | None = evaluator

    def execute(
        self,
        inputs: Mapping[str, anybatch.Array],
        gear: int,
        out: Mapping[str, anybatch.Array] | None = None,  # noqa: ARG002  # an offer, and this evaluator cannot take it
    ) -> dict[str, anybatch.Array]:
        """Execute one gear."""
        if self._evaluator is None:
            raise anybatch.ClosedError("toy: execute() after close()")
        anybatch.check_launch(self.spec, self.batching, inputs, gear)
        try:
            results = self._evaluator.run(None, dict(inputs))
        except Exception as error:  # operators raise whatever they like
            raise anybatch.DeviceError(str(error), backend="toy", operation="run", status=type(error).__name__) from error
        # Copied: Reshape and others return a view on their input or on a weight, and a result belongs to the caller alone.
        return {tensor.name: np.array(result) for tensor, result in zip(self.spec.outputs, results, strict=True)}

    def close(self) -> None:
        """Free the model; twice is fine."""
        self._evaluator = None


@anybatch.hookimpl
def anybatch_backends() -> list[anybatch.Backend]:
    """Return what this plugin offers."""
    return [ToyBackend()]
