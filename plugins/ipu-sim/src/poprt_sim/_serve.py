"""Serve the simulator as `poprt`: after `install`, `import poprt` and every sub-module of it find it.

A sub-module is looked up when it is imported and is the same module under both names, so that a class is one class.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

NAME = "poprt"
PACKAGE = "poprt_sim"


class _Alias(Loader):
    """Loads `poprt.x` by giving it the module `poprt_sim.x`."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_real(spec.name))
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run under its real name; give it back the description that the import system replaced."""
        module.__spec__ = self._spec

    def get_code(self, name: str) -> CodeType | None:
        """Return the code of `poprt.x`, for `python -m`."""
        spec = importlib.util.find_spec(_real(name))
        found: CodeType | None = getattr(spec.loader, "get_code")(spec.name) if spec is not None else None  # noqa: B009
        return found


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != NAME and not fullname.startswith(f"{NAME}."):
            return None
        real = importlib.util.find_spec(_real(fullname))
        if real is None:
            raise ModuleNotFoundError(f"the simulator of PopRT has no module {fullname!r}: it is not simulated", name=fullname)
        spec = ModuleSpec(fullname, _Alias(), origin=real.origin, is_package=real.submodule_search_locations is not None)
        spec.has_location = real.has_location
        return spec


_finder = _Finder()


def _real(name: str) -> str:
    return PACKAGE + name.removeprefix(NAME)


def install() -> None:
    """Put the simulator under the vendor's name; only for this process. Twice is fine."""
    if _finder not in sys.meta_path:
        for name in [name for name in sys.modules if name == NAME or name.startswith(f"{NAME}.")]:
            del sys.modules[name]
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Take `poprt` away again, if it is ours."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
        for name in [name for name in sys.modules if name == NAME or name.startswith(f"{NAME}.")]:
            del sys.modules[name]


@contextmanager
def served() -> Iterator[None]:
    """Serve the simulator meanwhile."""
    before = _finder in sys.meta_path
    install()
    try:
        yield
    finally:
        if not before:
            uninstall()
