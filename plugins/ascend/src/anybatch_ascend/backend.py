"""AscendBackend: what anybatch sees of this plugin."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import anybatch
from anybatch_ascend._acl import Acl
from anybatch_ascend._model import LOADS
from anybatch_ascend._session import AscendSession, SessionOptions, open_session

OM_MAGIC: Final = (0x444F4D49).to_bytes(4, "little")


class AscendBackend:
    """Opens ``.om`` models on Ascend NPUs, and ``.onnx`` models after compiling them with ``atc``.

    Args:
        name: what callers pass as ``backend=``.
        acl: None: the pyACL of the CANN installed on this machine, imported when a model is opened. Else what stands in for
            it, such as a simulator: a module with the same functions, imported by this call.
        suffixes: the files that mean this backend.
    """

    def __init__(
        self,
        name: str = "ascend",
        *,
        acl: Callable[[], ModuleType] | None = None,
        suffixes: frozenset[str] = frozenset({".om"}),
    ) -> None:
        self.name = name
        self.suffixes = suffixes
        self._import_acl = acl

    def check_usable(self) -> str:
        """Return the version of CANN, found without importing it."""
        if find_spec("acl") is None:
            raise anybatch.BackendUnavailableError("x")
        return "pyACL"

    def open(
        self, model: anybatch.Model, *, device: int, batch_sizes: Sequence[int] | None, options: Mapping[str, object]
    ) -> AscendSession:
        """Open."""
        acl = Acl(self._import_acl() if self._import_acl else importlib.import_module("acl"), self.name)
        assert isinstance(model, (Path, bytes))
        return open_session(acl, model, device=device, options=SessionOptions(**options))  # type: ignore[arg-type]
