"""Serve the simulator as `acl`: after `install`, `import acl` and `import acl.rt` find it."""

from __future__ import annotations

import importlib
import sys

SUBMODULES = ("rt", "mdl", "util", "media", "op", "blas", "prof", "himpi", "fv")


def install() -> None:
    """Put acl_sim and its sub-modules under the names of the real ones; only for this process."""
    package = importlib.import_module("acl_sim")
    sys.modules["acl"] = package
    for name in SUBMODULES:
        sys.modules[f"acl.{name}"] = getattr(package, name)


def uninstall() -> None:
    """Take `acl` away again, if it is ours."""
    if sys.modules.get("acl") is sys.modules.get("acl_sim"):
        for name in ("acl", *(f"acl.{name}" for name in SUBMODULES)):
            sys.modules.pop(name, None)
