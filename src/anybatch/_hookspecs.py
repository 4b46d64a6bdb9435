"""The one hook, and the marker that plugins put on their implementation of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pluggy

from anybatch._backend import Backend

PROJECT: Final = "anybatch"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def anybatch_backends() -> Sequence[Backend]:  # type: ignore[empty-body]  # a specification: pluggy never calls it
    """Return the backends this plugin offers. Called once per process; must not import a vendor SDK."""
