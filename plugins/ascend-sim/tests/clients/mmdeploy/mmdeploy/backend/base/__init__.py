"""The repository's BaseWrapper, and a registry in place of mmengine's."""

import os
from pathlib import Path

__path__.append(str(Path(os.environ["ACL_SIM_CLIENTS"], "mmdeploy/mmdeploy/backend/base")))

from mmdeploy.backend.base.base_wrapper import BaseWrapper as BaseWrapper  # noqa: E402  found through the line above


class _Registry:
    def register_module(self, name):
        return lambda wrapper: wrapper


BACKEND_WRAPPER = _Registry()
