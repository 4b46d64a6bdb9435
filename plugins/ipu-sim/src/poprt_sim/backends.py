"""PopRT's backends: a model compiled, loaded and run in one object."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from poprt_sim import _graph, runtime
from poprt_sim._machine import api
from poprt_sim.compiler import Compiler, CompilerOptions
from poprt_sim.utils import get_logger, onnx_tensor_dtype_to_np_dtype

__all__ = ["Backend", "ORTBackend"]

Array = npt.NDArray[Any]


class Backend:
    """A model on the IPU.

    Args:
        path_or_bytes: an ONNX model: its file, its bytes, a stream of them, or itself.
        export_popef: where to write the PopEF; nowhere without it.
        compiler_options: as for `Compiler.compile`.
        runtime_options: as for `runtime.Runner`.
        align_output_dtype: give results the types that the ONNX model says, not those that were compiled.
        logger: where warnings go.

    Raises:
        As `Compiler.compile` and `runtime.Runner`.
    """

    @api("backends.Backend")
    def __init__(
        self,
        path_or_bytes: Any,
        *,
        export_popef: str | None = None,
        compiler_options: CompilerOptions | None = None,
        runtime_options: Any = None,
        align_output_dtype: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        self._model = load(path_or_bytes)
        self._align = align_output_dtype
        self._logger = logger or get_logger()
        self._export = export_popef
        self._compiler_options = compiler_options
        self._runtime_options = runtime_options
        self._runner: Any = None
        self._load()

    def _load(self) -> None:
        if self._runner is not None:
            return
        names = [value.name for value in self._model.graph.output]
        executable = Compiler.compile(self._model, names, self._compiler_options)
        if self._export is not None:
            from poprt_sim._popef import write_popef

            Path(self._export).write_bytes(write_popef(executable.popef))
        self._runner = runtime.Runner(executable, self._runtime_options)

    def get_io_info(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the inputs and the outputs: name -> (shape, NumPy type)."""
        self._load()
        inputs, outputs = self._runner.get_execute_inputs(), self._runner.get_execute_outputs()
        return (
            {desc.name: (list(desc.shape), desc.numpy_data_type()) for desc in inputs},
            {desc.name: (list(desc.shape), desc.numpy_data_type()) for desc in outputs},
        )

    @api("backends.Backend.run")
    def run(
        self, output_names: Sequence[str] | None, inputs: Mapping[str, Array], align_output_dtype: bool = False
    ) -> list[Array]:
        """Run once.

        Args:
            output_names: what to return, in this order; None for all.
            inputs: of the compiled types and shapes.
            align_output_dtype: as the constructor's; one of both is enough.

        Raises:
            RuntimeError: the inputs do not fit.
            ValueError: there is no such output.
        """
        self._load()
        descs = {desc.name: desc for desc in self._runner.get_execute_outputs()}
        names = list(descs) if output_names is None else list(output_names)
        for name in names:
            if name not in descs:
                raise ValueError(f"output_names: the model has no output {name!r}; its outputs are {', '.join(descs)}")
        results = {name: np.zeros(desc.shape, desc.numpy_data_type()) for name, desc in descs.items()}
        self._runner.execute(dict(inputs), results)
        if self._align or align_output_dtype:
            types = {value.name: value.type.tensor_type.elem_type for value in self._model.graph.output}
            results = {name: array.astype(onnx_tensor_dtype_to_np_dtype(types[name])) for name, array in results.items()}
        return [results[name] for name in names]


class ORTBackend(Backend):
    """A `Backend` with the interface of `onnxruntime.InferenceSession`, whose own options it takes and does not use.

    Args:
        lazy_load: compile and load at the first use.
    """

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: Any = None,  # noqa: ARG002
        providers: Any = None,  # noqa: ARG002
        provider_options: Any = None,  # noqa: ARG002
        lazy_load: bool = False,
        **kwargs: Any,
    ) -> None:
        self._lazy = lazy_load
        super().__init__(path_or_bytes, **kwargs)
        self._lazy = False

    def _load(self) -> None:
        if not self._lazy:
            super()._load()

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Array],
        run_options: Any = None,  # noqa: ARG002
    ) -> list[Array]:
        """Run once; see `Backend.run`."""
        return super().run(output_names, input_feed)


def load(path_or_bytes: Any) -> onnx.ModelProto:
    """Return a model, from its file, its bytes, a stream of them, or itself.

    Raises:
        RuntimeError: it cannot be read.
        TypeError: it is nothing of these.
    """
    if isinstance(path_or_bytes, onnx.ModelProto):
        return path_or_bytes
    if hasattr(path_or_bytes, "read"):
        path_or_bytes = path_or_bytes.read()
    if isinstance(path_or_bytes, bytes):
        return _graph.parse(path_or_bytes)
    if not isinstance(path_or_bytes, (str, os.PathLike)):
        raise TypeError(f"expected a path, bytes, a stream or an onnx.ModelProto, got {type(path_or_bytes).__name__}")
    try:
        return onnx.load(path_or_bytes)
    except Exception as error:  # OSError, or protobuf's
        raise RuntimeError(f"the model {os.fspath(path_or_bytes)!r} cannot be read: {error}") from error
