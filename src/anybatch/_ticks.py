"""Round numbers for the axes of charts."""

from __future__ import annotations

import math
from typing import Final

# Axes have their numbers at these steps, times a power of ten.
STEPS: Final = (1, 2, 5, 10)


def linear_ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers between two others, about that many: multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in STEPS if factor * power >= rough * (1 - 1e-9))
    return [float(f"{index * step:.12g}") for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones: 1, 2, 5 times powers of ten; more, where those are fewer than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [float(f"{tick:.12g}") for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) >= 3:
            return inside
    return linear_ticks(low, high, 4)
