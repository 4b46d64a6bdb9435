"""The names that the Ascend files import from mmdeploy.utils."""

import enum
import logging


class Backend(enum.Enum):
    """The one backend that is there."""

    ASCEND = "ascend"


def get_root_logger():
    return logging.getLogger("mmdeploy")
