"""Device memory, pinned host memory, and the rest of the host: who owns an address, and may it be touched.

In HOST run mode device addresses lie where no host mapping is, so that nothing but the simulator can follow them. In
DEVICE run mode (boards where host and device share memory) they are real host addresses. Freed blocks are remembered,
so that a use after free is named with the places of birth, death and misuse.
"""

from __future__ import annotations

import bisect
import ctypes
import errno
import mmap
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from acl_sim._errors import (
    INVALID_PARAM,
    RT_DRV_INTERNAL_ERROR,
    RT_MEMORY_ALLOCATION,
    RT_PARAM_INVALID,
    Refused,
    Rule,
    null,
)
from acl_sim._ledger import Leak, caller_site

if TYPE_CHECKING:
    from acl_sim._machine import Machine

POISON = 0xFF  # fresh bytes read as NaN or -1: arithmetic shows them, and no gear is ever -1
_DEVICE_BASE = 0x12C0_0000_0000
_DEVICE_STRIDE = 0x0040_0000_0000  # one window per device
_ALIGN = 64
_FILL_LIMIT = 64 << 20  # beyond this a fresh block keeps its zeros: filling gigabytes would cost the host real memory
_REMEMBERED = 4096  # freed device blocks kept by name
_QUARANTINE = (
    64 << 20
)  # bytes of freed blocks at real addresses whose bytes are kept, so that a late reader is named, not crashed
_KEPT_OBJECTS = 64  # host objects whose address was taken: clients pass `bytes_to_ptr(a.tobytes())`

DEVICE, PINNED, PLAIN = "device memory", "pinned host memory", "host memory"


@dataclass(slots=True, eq=False)
class Block:
    """One allocation. `size` is what was asked for, `capacity` what lies behind it."""

    kind: str
    address: int
    size: int
    capacity: int
    device: int
    data: Any  # numpy uint8 of `capacity` bytes; None once the bytes are gone
    site: str
    freed_at: str = ""

    def describe(self) -> str:
        """For messages: kind, address, size, where it was allocated."""
        return f"{self.kind} {self.address:#x} ({self.size} bytes, allocated at {self.site})"


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _aligned(capacity: int, fill: int | None) -> tuple[Any, int]:
    """`capacity` bytes at a 64-byte aligned real address."""
    raw = np.zeros(capacity + _ALIGN, np.uint8)
    start = int(raw.ctypes.data)
    offset = _round_up(start, _ALIGN) - start
    data = raw[offset : offset + capacity]
    if fill is not None:
        data[:_FILL_LIMIT] = fill
    return data, start + offset


class _HostMap:
    """Asks the kernel whether host bytes are mapped, so that a made-up address does not end the process."""

    def __init__(self) -> None:
        self._page = mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        self._mincore: Any = getattr(libc, "mincore", None)
        if self._mincore is not None:
            self._mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

    def mapped(self, address: int, size: int) -> int:
        """How many of `size` bytes from `address` on are mapped, counted from the front."""
        if self._mincore is None:
            return size
        if not 0 < address < 1 << 47 or size > 1 << 46:
            return 0
        first = address // self._page * self._page
        last = _round_up(address + size, self._page)
        low, high = 0, (last - first) // self._page  # pages; the answer lies in low..high
        if self._ask(first, high):
            return size
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self._ask(first, middle) else (low, middle)
        return max(0, min(size, first + low * self._page - address))

    def _ask(self, first: int, pages: int) -> bool:
        for start in range(0, pages, 1 << 20):
            count = min(1 << 20, pages - start)
            vector = ctypes.create_string_buffer(count)
            if self._mincore(first + start * self._page, count * self._page, vector) != 0:
                return ctypes.get_errno() not in (errno.ENOMEM, errno.EINVAL)
        return True


class Memory:
    """Every block of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._starts: list[int] = []  # sorted
        self._blocks: dict[int, Block] = {}
        self._freed: deque[Block] = deque()
        self._quarantine: deque[Block] = deque()
        self._quarantined = 0
        self._next = [_DEVICE_BASE + device * _DEVICE_STRIDE for device in range(machine.config.devices)]
        self.used = [0] * machine.config.devices
        self._objects: deque[tuple[int, int, object]] = deque(maxlen=_KEPT_OBJECTS)
        self._host = _HostMap()

    # Allocating and freeing

    def allocate_device(self, size: int, device: int) -> int:
        """A device block of `size` bytes.

        Raises:
            Refused: 100000 for size 0, 207001 when the device's memory does not hold it.
        """
        if size == 0:
            raise Refused(INVALID_PARAM, "malloc of 0 bytes")
        capacity = _round_up(size, 32) + 32
        limit = self._machine.config.memory_bytes
        if self.used[device] + capacity > limit:
            raise Refused(
                RT_MEMORY_ALLOCATION, f"device {device}: {size} bytes asked, {limit - self.used[device]} of {limit} free"
            )
        fill = POISON if self._machine.strict else None
        if self._machine.config.run_mode == "device":
            data, address = _aligned(capacity, fill)
        else:
            address = self._next[device]
            self._next[device] += _round_up(capacity, _ALIGN)
            data = np.zeros(capacity, np.uint8)
            if fill is not None:
                data[:_FILL_LIMIT] = fill
        self.used[device] += capacity
        self._add(Block(DEVICE, address, size, capacity, device, data, caller_site()))
        return address

    def allocate_pinned(self, size: int) -> int:
        """A pinned host block of `size` bytes, at its real address. Refused 100000 for size 0."""
        if size == 0:
            raise Refused(INVALID_PARAM, "malloc_host of 0 bytes")
        data, address = _aligned(size, POISON if self._machine.strict else None)
        self._add(Block(PINNED, address, size, size, -1, data, caller_site()))
        return address

    def free_device(self, address: int) -> None:
        """Free a device block. Null 100000; a double free or a pointer that was never given is a violation, then 107000."""
        self._free(address, DEVICE)

    def free_pinned(self, address: int) -> None:
        """Free a pinned host block. Null 100000, a device address 107000; other strangers as `free_device`."""
        block = self.find(address)
        if block is not None and block.kind == DEVICE and self._machine.config.run_mode == "host":
            raise Refused(RT_PARAM_INVALID, f"free_host of {block.describe()}")
        self._free(address, PINNED)

    def _free(self, address: int, kind: str) -> None:
        if address == 0:
            raise null("the pointer to free")
        block = self._blocks.get(address)
        if block is None or block.kind != kind or block.freed_at:
            inside = self.find(address)
            rule: Rule = "bad free"
            if block is not None and block.freed_at:
                rule, text = "double free", f"{block.describe()} was freed at {block.freed_at}"
            elif inside is not None:
                text = f"{address:#x} is not the start of {kind}: it lies in {inside.describe()}"
            else:
                text = f"{address:#x} was never allocated as {kind}"
            self._machine.violate(rule, text)
            raise Refused(RT_PARAM_INVALID, text)
        self._machine.clock.check_not_in_flight(address, block.capacity, "free", writing=True)
        block.freed_at = caller_site()
        if kind == DEVICE:
            self.used[block.device] -= block.capacity
        real = kind == PINNED or self._machine.config.run_mode == "device"
        if real:
            self._quarantine.append(block)
            self._quarantined += block.capacity
            while self._quarantined > _QUARANTINE:
                oldest = self._quarantine.popleft()
                self._quarantined -= oldest.capacity
                self._forget(oldest)
        else:
            block.data = None
            self._freed.append(block)
            if len(self._freed) > _REMEMBERED:
                self._forget(self._freed.popleft())

    def _add(self, block: Block) -> None:
        # Real addresses come back after a quarantine ends: what lies under the new block is history.
        at = bisect.bisect_left(self._starts, block.address)
        while at < len(self._starts) and self._starts[at] < block.address + block.capacity:
            self._blocks.pop(self._starts.pop(at))
        self._starts.insert(at, block.address)
        self._blocks[block.address] = block

    def _forget(self, block: Block) -> None:
        if self._blocks.get(block.address) is block:
            del self._blocks[block.address]
            del self._starts[bisect.bisect_left(self._starts, block.address)]

    # Looking

    def find(self, address: int) -> Block | None:
        """The block, alive or freed and remembered, that `address` lies in; None for plain host memory."""
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        block = self._blocks[self._starts[at]]
        return block if address < block.address + block.capacity else None

    def is_device(self, address: int) -> bool:
        """True if the address is in the device's range or in a device block."""
        if self._machine.config.run_mode == "host":
            return _DEVICE_BASE <= address < _DEVICE_BASE + _DEVICE_STRIDE * self._machine.config.devices
        block = self.find(address)
        return block is not None and block.kind == DEVICE

    def keep(self, thing: object, address: int, size: int) -> None:
        """Keep a host object alive whose address a client has taken, and remember its extent."""
        self._objects.append((address, size, thing))

    def view(self, address: int, size: int, what: str, *, side: str = "any") -> memoryview:
        """The bytes at `address`, writable, shared with whoever owns them.

        Args:
            address: device, pinned or plain host address.
            size: in bytes.
            what: names the use in messages: "source of memcpy", "input 0 of execute".
            side: "device" if a host address is wrong here, "host" if a device address is, "any" otherwise.
        Returns:
            `size` bytes; in tolerant mode fewer when the block ends before (the rest would be someone else's).
        Raises:
            Violation: strict mode: use after free, out of bounds, wrong side, an address that is nobody's.
            Refused: 507899 where even tolerant mode cannot go on.
        """
        block = self.find(address)
        if block is not None:
            return self._view_block(block, address, size, what, side)
        if self.is_device(address):
            self._crash("wild pointer", f"{what}: device address {address:#x} is in no allocation")
        if side == "device" and self._machine.config.run_mode == "host":
            self._machine.violate("host pointer", f"{what}: {address:#x} is host memory, device memory belongs here")
        return self._view_host(address, size, what)

    def _view_block(self, block: Block, address: int, size: int, what: str, side: str) -> memoryview:
        if block.freed_at:
            text = f"{what}: {block.describe()} was freed at {block.freed_at}"
            if block.data is None:
                self._crash("use after free", text)
            self._machine.violate("use after free", text)
        if self._machine.config.run_mode == "host":
            if side == "host" and block.kind == DEVICE:
                self._crash("device pointer", f"{what}: the host cannot reach {block.describe()}")
            if side == "device" and block.kind != DEVICE:
                self._machine.violate("host pointer", f"{what}: {block.describe()} where device memory belongs")
        offset = address - block.address
        if offset + size > block.size:
            self._machine.violate(
                "out of bounds",
                f"{what}: {size} bytes at offset {offset} of {block.describe()}: {offset + size - block.size} past its end",
            )
        return memoryview(block.data)[offset : offset + size]

    def _view_host(self, address: int, size: int, what: str) -> memoryview:
        for start, extent, thing in reversed(self._objects):
            if start <= address < start + extent:
                beyond = address + size - start - extent
                if beyond > 0:
                    self._machine.violate(
                        "out of bounds",
                        f"{what}: {size} bytes at offset {address - start} of a {type(thing).__name__} of {extent} bytes: "
                        f"{beyond} past its end",
                    )
                break
        mapped = self._host.mapped(address, size)
        if mapped < size:
            text = f"{what}: {address:#x}: only {mapped} of {size} bytes are mapped in this process"
            if mapped == 0:
                self._crash("wild pointer", text)
            self._machine.violate("out of bounds", text)
        return memoryview((ctypes.c_ubyte * mapped).from_address(address)).cast("B")

    def _crash(self, rule: Rule, text: str) -> None:
        """What would end the process on hardware: raised in strict mode, 507899 in tolerant mode."""
        self._machine.violate(rule, text)
        raise Refused(RT_DRV_INTERNAL_ERROR, text)

    def read(self, address: int, size: int, what: str, *, side: str = "any") -> bytes:
        """A copy of `size` bytes; in tolerant mode zeros stand for what cannot be reached."""
        return bytes(self.view(address, size, what, side=side)).ljust(size, b"\0")

    def write(self, address: int, data: bytes | memoryview, what: str, *, side: str = "any") -> None:
        """Copy `data` to `address`; in tolerant mode what cannot be reached is dropped."""
        target = self.view(address, len(data), what, side=side)
        target[:] = data[: len(target)]

    def leaks(self) -> list[Leak]:
        """The blocks never freed."""
        return [Leak(b.kind, b.address, b.site, b.size) for b in self._blocks.values() if not b.freed_at]
