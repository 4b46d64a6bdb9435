"""anybatch on Graphcore IPUs, through PopRT. Importing it imports no SDK."""

from __future__ import annotations

from collections.abc import Sequence

import anybatch
from anybatch_ipu.backend import IpuBackend

__all__ = ["IpuBackend"]


@anybatch.hookimpl
def anybatch_backends() -> Sequence[anybatch.Backend]:
    """Return what this plugin offers."""
    return [IpuBackend()]
