"""PopRT's sessions: the interface of version 1.0 that programs of 1.5 still use."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from poprt_sim import _graph
from poprt_sim.backends import Backend, load
from poprt_sim.compiler import CompilerOptions
from poprt_sim.utils import get_input_info_from_model_proto, onnx_tensor_dtype_to_np_dtype

__all__ = ["get_session"]

Array = npt.NDArray[Any]


class _PoprtSession:
    def __init__(self, model: onnx.ModelProto, options: CompilerOptions, export: str | None, align: bool) -> None:
        self._arguments = (model, options, export, align)
        self._backend: Backend | None = None

    def load(self) -> _PoprtSession:
        """Compile and load; returns the session itself."""
        if self._backend is None:
            model, options, export, align = self._arguments
            self._backend = Backend(model, compiler_options=options, export_popef=export, align_output_dtype=align)
        return self

    def _loaded(self) -> Backend:
        if self._backend is None:
            raise RuntimeError("the session is not loaded: call load() first")
        return self._backend

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Run once; see `Backend.run`."""
        return self._loaded().run(output_names, feeds)

    def get_io_info(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return inputs and outputs; see `Backend.get_io_info`."""
        return self._loaded().get_io_info()


class _OnnxRuntimeSession:
    """The same interface over ONNX Runtime itself, for comparisons."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._session: ort.InferenceSession | None = None

    def load(self) -> _OnnxRuntimeSession:
        """Make ONNX Runtime's session; returns this one."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        _graph.clamp_ir(model)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's classes share no base below Exception
            raise RuntimeError(f"ONNX Runtime refuses the model: {error}") from error
        return self

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Run once."""
        if self._session is None:
            raise RuntimeError("the session is not loaded: call load() first")
        return [np.asarray(output) for output in self._session.run(output_names, dict(feeds))]

    def get_io_info(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return inputs and outputs: name -> (shape, NumPy type)."""
        shapes, dtypes = get_input_info_from_model_proto(self._model)
        outputs = {
            value.name: (
                [dim.dim_value for dim in value.type.tensor_type.shape.dim],
                onnx_tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
            )
            for value in self._model.graph.output
        }
        return {name: (shapes[name], dtypes[name]) for name in shapes}, outputs


def get_session(
    path_or_bytes: Any,
    num_devices: int = 1,
    backend: str = "poprt",
    output_dir: str = "./",
    options: CompilerOptions | None = None,
    batches_per_step: int = 1,
    export_popef: bool = False,
    align_output_dtype: bool = False,
) -> _PoprtSession | _OnnxRuntimeSession:
    """Return a session that is still to be loaded.

    Args:
        path_or_bytes: an ONNX model: its file, its bytes, or itself.
        num_devices: IPUs; Decision: of options, the larger number counts, and so it is with `batches_per_step`.
        backend: "poprt", or "onnxruntime" to compare with.
        output_dir: where `export_popef` puts executable.popef.

    Raises:
        ValueError: no such backend.
    """
    model = load(path_or_bytes)
    if backend == "onnxruntime":
        return _OnnxRuntimeSession(model)
    if backend != "poprt":
        raise ValueError(f"backend: expected 'poprt' or 'onnxruntime', got {backend!r}")
    given = copy.deepcopy(options) if options is not None else CompilerOptions()
    given.num_ipus = max(given.num_ipus, num_devices)
    given.batches_per_step = max(given.batches_per_step, batches_per_step)
    export = str(Path(output_dir, "executable.popef")) if export_popef else None
    return _PoprtSession(model, given, export, align_output_dtype)
