"""What data buffer and tensor desc handles stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

# aclDataType -> bytes per element; contracts/pyacl.md 1.7. int4 and uint1 count as one, string and undefined as none.
DATA_TYPE_SIZES = {
    -1: 0, 0: 4, 1: 2, 2: 1, 3: 4, 4: 1, 6: 2, 7: 2, 8: 4, 9: 8, 10: 8, 11: 8, 12: 1, 13: 0, 16: 8, 17: 16,
    27: 2, 29: 1, 30: 1, 33: 4,
}  # fmt: skip
UNKNOWN_TYPE_SIZE = 8


@dataclass(eq=False, slots=True)
class DataBuffer:
    """An address and a size; owns nothing."""

    address: int
    size: int


@dataclass(eq=False, slots=True)
class TensorDesc:
    """Element type, dims (-1: not decided), format, name."""

    data_type: int
    dims: list[int]
    format: int
    name: str = ""

    @property
    def element_count(self) -> int:
        """Product of the dims; 0 while one is not decided."""
        return 0 if any(dim < 0 for dim in self.dims) else math.prod(self.dims)

    @property
    def size(self) -> int:
        """Bytes of all elements."""
        return self.element_count * DATA_TYPE_SIZES.get(self.data_type, UNKNOWN_TYPE_SIZE)
