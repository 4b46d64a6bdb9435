"""anybatch on Huawei Ascend NPUs, through pyACL. Importing it imports no SDK."""

from __future__ import annotations

from collections.abc import Sequence

import anybatch
from anybatch_ascend.backend import AscendBackend

__all__ = ["AscendBackend"]


@anybatch.hookimpl
def anybatch_backends() -> Sequence[anybatch.Backend]:
    """Return what this plugin offers."""
    return [AscendBackend()]
