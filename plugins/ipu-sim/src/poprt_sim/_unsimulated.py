"""What is left out, said in one sentence."""

from __future__ import annotations


class NotSimulated(NotImplementedError):  # noqa: N818 - a refusal, named for what it says
    """PopRT can do this and the simulator cannot."""
