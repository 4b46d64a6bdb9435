"""What one launch of a session may be: three kinds of batching, and no fourth.

Each has `pads`, whether the session takes fewer rows than the launch and pads by itself, and `takes`, which sizes there are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from anybatch._errors import InputError


def check_batch_sizes(sizes: Iterable[object]) -> tuple[int, ...]:
    """Return batch sizes as a sorted tuple of ints.

    Raises:
        InputError: there are none, one is not an int, is below 1, or comes twice.
    """
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Iterable):
        raise InputError(f"expected a list of batch sizes such as [1, 4, 8], got {sizes!r}")
    checked: list[int] = []
    for size in sizes:
        try:
            number = operator.index(size)  # type: ignore[arg-type]  # the check is what this call is for
        except TypeError:
            number = 0
        if number < 1 or isinstance(size, bool):
            raise InputError(f"expected batch sizes to be ints of at least 1, got {size!r}")
        if number in checked:
            raise InputError(f"expected each batch size once, got {number} twice")
        checked.append(number)
    if not checked:
        raise InputError("expected at least one batch size, got none")
    return tuple(sorted(checked))


@dataclass(frozen=True, slots=True)
class Gears:
    """A launch is exactly one of these sizes.

    Attributes:
        sizes: the compiled batch sizes, in rows; any order, kept sorted.
        pads: True where the session takes fewer rows than the gear and clears the rest itself, with zeros, on the
            device; False where it wants every launch full, and the core pads in host memory.

    Raises:
        InputError: see `check_batch_sizes`.
    """

    sizes: tuple[int, ...]
    pads: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", check_batch_sizes(self.sizes))

    def takes(self, gear: int) -> bool:
        """Return whether a launch may be of that size."""
        return gear in self.sizes

    def __str__(self) -> str:
        return f"gears {', '.join(map(str, self.sizes))}"


@dataclass(frozen=True, slots=True)
class MultipleOf:
    """A launch takes any number of rows, and the runtime itself pads it with zeros to a multiple of `size`.

    Whether it then runs that in one execution or in one per `size` rows is the runtime's own business.

    Raises:
        InputError: see `check_batch_sizes`.
    """

    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", check_batch_sizes([self.size])[0])

    @property
    def pads(self) -> bool:
        """True: the runtime pads."""
        return True

    def takes(self, gear: int) -> bool:
        """Return whether a launch may be of that size, its padding included."""
        return gear > 0 and gear % self.size == 0

    def __str__(self) -> str:
        return f"multiples of {self.size}"


@dataclass(frozen=True, slots=True)
class AnyBatch:
    """A launch takes any number of rows, and nothing is padded."""

    @property
    def pads(self) -> bool:
        """False: there is nothing to pad."""
        return False

    def takes(self, gear: int) -> bool:
        """Return whether a launch may be of that size."""
        return gear > 0

    def __str__(self) -> str:
        return "any batch size"


Batching: TypeAlias = Gears | MultipleOf | AnyBatch
