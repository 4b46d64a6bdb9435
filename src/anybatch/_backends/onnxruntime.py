"""The embedded backend: ONNX Runtime, on the CPU by default. What runs a model is in `_onnxruntime_session`.

Options:
    providers: execution providers in order of preference, as ONNX Runtime takes them: names, or (name, options) pairs.
        Each must be there and stay in use; ONNX Runtime's own quiet fallback is an error here. Default: the CPU's.
    session_options: an ``onnxruntime.SessionOptions``, or a mapping of its attributes; keys with a dot are config entries.
    batch_axis, rows_per_row: by tensor name, where the model does not tell; see `anybatch.read_model_spec`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from anybatch._backend import Backend, Model, Session, check_options
from anybatch._errors import BackendUnavailableError
from anybatch._hookspecs import hookimpl


class OnnxRuntimeBackend:
    """Opens ``.onnx`` files: batch-dynamic models as they are; a fixed batch is freed where that is safe."""

    name = "onnxruntime"
    suffixes = frozenset({".onnx"})

    def check_usable(self) -> str:
        """Return the installed build of ONNX Runtime and its version."""
        if find_spec("onnxruntime") is None:
            raise BackendUnavailableError("the package onnxruntime is missing: pip install onnxruntime")
        for build in ("onnxruntime", "onnxruntime-gpu"):
            try:
                return f"{build} {version(build)}"
            except PackageNotFoundError:
                continue
        return "onnxruntime, a build without a version"

    def open(self, model: Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]) -> Session:
        """Open a model; see `Backend.open` and this module for the options.

        Without `batch_sizes`, a model runs any number of rows per launch. A model whose batch is baked in is freed first,
        and opening it is refused with the reason where that would change answers; with ``batch_sizes=[its own]`` it
        runs as it is.
        """
        check_options(options, ("providers", "session_options", "batch_axis", "rows_per_row"), backend=self.name)
        from anybatch._backends._onnxruntime_session import open_session  # imports ONNX Runtime

        return open_session(model, device=device, batch_sizes=batch_sizes, options=options)


@hookimpl
def anybatch_backends() -> Sequence[Backend]:
    """Return this backend."""
    return [OnnxRuntimeBackend()]
