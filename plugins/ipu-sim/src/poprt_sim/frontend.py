"""How PopRT reads models: ONNX files, and what it converts from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx

from poprt_sim._unsimulated import NotSimulated

__all__ = ["OnnxFrontend", "TensorflowFrontend", "get_frontend"]


class OnnxFrontend:
    """Reads ONNX models.

    Args:
        path: a file, or a folder with one ``.onnx`` file in it.
    """

    def __init__(self, path: str | os.PathLike[str], **kwargs: Any) -> None:  # noqa: ARG002 - for other frontends
        self._path = Path(path)

    def get_onnx_name(self, dir_or_name: str | os.PathLike[str]) -> str:
        """Return the path of the model.

        Raises:
            FileNotFoundError: there is no such file, or no model in the folder.
            RuntimeError: the folder has several.
        """
        path = Path(dir_or_name)
        if path.is_file():
            return str(path)
        found = sorted(path.glob("*.onnx")) if path.is_dir() else []
        if not found:
            raise FileNotFoundError(f"{str(path)!r}: expected an ONNX file, or a folder with one")
        if len(found) > 1:
            raise RuntimeError(f"{str(path)!r}: expected one ONNX file, found {', '.join(each.name for each in found)}")
        return str(found[0])

    def load_model(self) -> onnx.ModelProto:
        """Return the model, weights that lie beside it included.

        Raises:
            FileNotFoundError, RuntimeError: as `get_onnx_name`; RuntimeError, too, for what is no ONNX file.
        """
        name = self.get_onnx_name(self._path)
        try:
            return onnx.load(name)
        except Exception as error:  # protobuf's errors share no base below Exception
            raise RuntimeError(f"{name!r} is not an ONNX model: {error}") from error


class TensorflowFrontend:
    """Refuses to be made."""

    def __init__(self, path: str | os.PathLike[str], **kwargs: Any) -> None:  # noqa: ARG002
        raise NotSimulated(f"TensorFlow models ({os.fspath(path)!r}) are not simulated: convert to ONNX with tf2onnx")


def get_frontend(path: str | os.PathLike[str], framework: str = "onnx", **kwargs: Any) -> OnnxFrontend:
    """Return a reader for a framework's models.

    Raises:
        NotSimulated: TensorFlow.
        ValueError: PopRT does not read this framework.
    """
    if framework == "onnx":
        return OnnxFrontend(path, **kwargs)
    if framework in ("tf", "tensorflow"):
        TensorflowFrontend(path, **kwargs)
    raise ValueError(f"framework: expected 'onnx', got {framework!r}")
