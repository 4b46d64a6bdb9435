"""Quantisation is not simulated: an IPU's 8-bit floats have no counterpart in ONNX Runtime."""

from __future__ import annotations

from typing import Any, NoReturn

from poprt_sim._unsimulated import NotSimulated

__all__ = ["FP8Quantizer", "quantize"]


def quantize(*args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG001
    """Refuse.

    Raises:
        NotSimulated: always.
    """
    raise NotSimulated("quantizer.quantize is not simulated: precisions fp32 and fp16 are")


class FP8Quantizer:
    """Refuses to be made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        raise NotSimulated("quantizer.FP8Quantizer is not simulated: precisions fp32 and fp16 are")
