"""contracts/pyacl.md 1.2, 1.5, 3.2: memory, and every misuse of it that hardware would not report."""

import ctypes

import numpy as np
import pytest

import acl_sim as acl
from acl_sim import testing
from acl_sim.testing import Violation

H2D, D2H = 1, 2


@pytest.fixture(autouse=True)
def device(fresh_machine):
    acl.rt.set_device(0)


def restart(**config):
    here = testing.reset(**config)
    acl.rt.set_device(0)
    return here


def malloc(size):
    ptr, ret = acl.rt.malloc(size, 0)
    assert ret == 0
    return ptr


def rules():
    return [v.rule for v in testing.ledger().violations]


def test_bytes_travel_there_and_back():
    data = bytes(range(100))
    ptr = malloc(100)
    assert acl.rt.memcpy(ptr, 100, acl.util.bytes_to_ptr(data), 100, H2D) == 0
    back = bytes(100)
    assert acl.rt.memcpy(acl.util.bytes_to_ptr(back), 100, ptr, 100, D2H) == 0
    assert back == data  # clients write into bytes objects
    assert acl.rt.free(ptr) == 0
    testing.assert_clean()


def test_device_addresses_are_aligned_and_unreachable_for_the_host():
    ptr = malloc(10)
    assert ptr % 64 == 0
    with pytest.raises(Violation, match="device pointer"):
        acl.util.ptr_to_bytes(ptr, 10)
    with pytest.warns(Warning, match="deprecated"), pytest.raises(Violation, match="device pointer"):
        acl.util.ptr_to_numpy(ptr, (10,), 2)
    libc = ctypes.CDLL(None)
    assert libc.mincore(ctypes.c_void_p(ptr & ~4095), 1, ctypes.create_string_buffer(1)) != 0


def test_fresh_memory_is_poisoned_in_strict_mode_only():
    for strict, expected in ((True, b"\xff" * 8), (False, bytes(8))):
        restart(strict=strict)
        ptr = malloc(8)
        host = acl.rt.malloc_host(8)[0]
        acl.rt.memcpy(host, 8, ptr, 8, D2H)
        assert acl.util.ptr_to_bytes(host, 8) == expected
        assert acl.util.ptr_to_bytes(acl.rt.malloc_host(8)[0], 8) == expected


def test_real_size_is_rounded_up_by_32_plus_32():
    total = acl.rt.get_mem_info(0)[1]
    malloc(33)
    assert acl.rt.get_mem_info(0) == (total - 96, total, 0)


def test_memory_ends():
    restart(memory_bytes=1000)
    assert acl.rt.malloc(990, 0) == (0, 207001)  # 1024 bytes really
    first = malloc(900)
    assert acl.rt.malloc(100, 0) == (0, 207001)
    assert "EH0001" in acl.get_recent_err_msg()
    assert acl.rt.free(first) == 0
    assert acl.rt.malloc(100, 0)[1] == 0


def test_memory_is_per_device():
    testing.reset(devices=2, memory_bytes=1000)
    for device in (0, 1):
        acl.rt.set_device(device)
        assert acl.rt.malloc(900, 0)[1] == 0


@pytest.mark.parametrize(("attribute", "soc", "present"), [
    (0, "Ascend310P3", True), (1, "Ascend310P3", False), (2, "Ascend310P3", True), (5, "Ascend310P3", False),
    (3, "Ascend310P3", True), (4, "Ascend310P3", False), (6, "Ascend310P3", False), (-1, "Ascend310P3", False),
    (0, "Ascend910B1", False), (1, "Ascend910B1", True), (9, "Ascend910B1", False), (4, "Ascend910B1", True),
    (5, "Ascend910B1", True), (2, "Ascend910B1", False), (3, "Ascend910B1", False),
])  # fmt: skip
def test_mem_info_by_product(attribute, soc, present):
    restart(soc_name=soc)
    free, total, ret = acl.rt.get_mem_info(attribute)
    assert ret == 0
    assert (free > 0, total > 0) == (present, present)


def test_double_free_is_named_with_all_three_places():
    ptr = malloc(8)
    acl.rt.free(ptr)
    with pytest.raises(
        Violation, match=r"(?s)double free.*allocated at .*test_memory.*freed at .*test_memory.*\(at .*test_memory"
    ) as caught:
        acl.rt.free(ptr)
    assert caught.value.rule == "double free"
    assert f"[{caught.value.rule}] {caught.value.text}" == str(caught.value)


@pytest.mark.parametrize("address", [12345, 0x12C0_0000_0400])
def test_freeing_a_strange_pointer(address):
    with pytest.raises(Violation, match="bad free"):
        acl.rt.free(address)


def test_freeing_the_middle_of_a_block():
    with pytest.raises(Violation, match="not the start"):
        acl.rt.free(malloc(100) + 4)


def test_freeing_with_the_wrong_function():
    host = acl.rt.malloc_host(8)[0]
    with pytest.raises(Violation, match="bad free"):
        acl.rt.free(host)
    assert acl.rt.free_host(malloc(8)) == 107000  # this one the runtime notices


def test_tolerant_mode_goes_on():
    restart(strict=False)
    ptr = malloc(8)
    assert acl.rt.free(ptr) == 0
    assert acl.rt.free(ptr) == 107000
    assert acl.rt.memcpy(ptr, 8, acl.util.bytes_to_ptr(b"12345678"), 8, H2D) == 507899
    assert rules() == ["double free", "use after free"]


def test_use_after_free():
    ptr = malloc(8)
    acl.rt.free(ptr)
    with pytest.raises(Violation, match="use after free"):
        acl.rt.memcpy(ptr, 8, acl.util.bytes_to_ptr(b"12345678"), 8, H2D)


def test_use_of_freed_pinned_memory():
    host = acl.rt.malloc_host(8)[0]
    acl.rt.free_host(host)
    with pytest.raises(Violation, match="use after free"):
        acl.util.ptr_to_bytes(host, 8)


def test_out_of_bounds_on_the_device():
    with pytest.raises(Violation, match="8 past its end"):
        acl.rt.memcpy(malloc(8), 16, acl.util.bytes_to_ptr(bytes(16)), 16, H2D)


def test_the_slack_behind_a_block_is_not_the_clients():
    ptr = malloc(33)  # 96 bytes really
    with pytest.raises(Violation, match="out of bounds"):
        acl.rt.memset(ptr, 64, 0, 64)


def test_reading_past_a_host_object():
    ptr = malloc(64)
    with pytest.raises(Violation, match="of a bytes of 10 bytes: 54 past its end"):
        acl.rt.memcpy(ptr, 64, acl.util.bytes_to_ptr(b"0123456789"), 64, H2D)


def test_tolerant_mode_survives_reading_past_a_host_object():
    restart(strict=False)
    size = 1 << 24
    ptr = malloc(size)
    assert acl.rt.memcpy(ptr, size, acl.util.bytes_to_ptr(bytes(4096)), size, H2D) == 0
    assert "out of bounds" in rules()


def test_wild_pointers_do_not_crash():
    ptr = malloc(8)
    for wild in (8, 0x12C0_1000_0000, 2**63):
        with pytest.raises(Violation, match="wild pointer"):
            acl.rt.memcpy(ptr, 8, wild, 8, H2D)


def test_plain_host_memory_works():
    array = np.arange(4, dtype=np.float32)
    ptr = malloc(16)
    assert acl.rt.memcpy(ptr, 16, array.ctypes.data, 16, H2D) == 0
    out = np.zeros(4, np.float32)
    assert acl.rt.memcpy(out.ctypes.data, 16, ptr, 16, D2H) == 0
    np.testing.assert_array_equal(out, array)


def test_temporaries_survive_for_a_while():
    ptr = malloc(1000)
    address = acl.util.bytes_to_ptr(np.full(1000, 7, np.uint8).tobytes())
    assert acl.rt.memcpy(ptr, 1000, address, 1000, H2D) == 0
    out = acl.rt.malloc_host(1000)[0]
    acl.rt.memcpy(out, 1000, ptr, 1000, D2H)
    assert acl.util.ptr_to_bytes(out, 1000) == b"\x07" * 1000


def test_memcpy_moves_overlapping_bytes():
    ptr = malloc(8)
    acl.rt.memcpy(ptr, 8, acl.util.bytes_to_ptr(b"abcdefgh"), 8, H2D)
    assert acl.rt.memcpy(ptr + 2, 6, ptr, 6, 3) == 0
    out = acl.rt.malloc_host(8)[0]
    acl.rt.memcpy(out, 8, ptr, 8, D2H)
    assert acl.util.ptr_to_bytes(out, 8) == b"ababcdef"


def test_in_device_mode_every_copy_is_on_the_device():
    restart(run_mode="device")
    ptr, host = malloc(64), acl.rt.malloc_host(64)[0]
    assert acl.rt.memcpy(ptr, 64, host, 64, H2D) == 0
    assert acl.rt.memcpy(host, 64, ptr, 64, D2H) == 0
    assert [engine for engine, us in testing.ledger().busy_us.items() if us] == ["compute"]


def test_device_mode_shares_memory():
    restart(run_mode="device")
    assert acl.rt.get_run_mode() == (0, 0)
    ptr = malloc(8)
    assert ptr % 64 == 0
    with pytest.warns(Warning, match="deprecated"):
        view = acl.util.ptr_to_numpy(ptr, (2,), 11)
    view[:] = [1.5, 2.5]
    assert acl.util.ptr_to_bytes(ptr, 8) == np.array([1.5, 2.5], np.float32).tobytes()
    acl.rt.free(ptr)
    with pytest.raises(Violation, match="use after free"):
        acl.util.ptr_to_bytes(ptr, 8)


def test_view_for_the_device_refuses_host_memory():
    here = testing.machine()
    host = acl.rt.malloc_host(8)[0]
    with here.lock, pytest.raises(Violation, match="host pointer"):
        here.memory.view(host, 8, "input 0", side="device")
    with here.lock, pytest.raises(Violation, match="host pointer"):
        here.memory.view(acl.util.bytes_to_ptr(b"12345678"), 8, "input 0", side="device")


def test_ptr_to_numpy():
    host = acl.rt.malloc_host(24)[0]
    with pytest.warns(Warning, match="deprecated"):
        view = acl.util.ptr_to_numpy(host, (2, 3), 5)
    assert view.dtype == np.int32
    view[:] = 3
    assert acl.util.ptr_to_bytes(host, 4) == b"\x03\0\0\0"
    for shape, error in (((), ValueError), ([2], ValueError), ((2.0,), TypeError), ((np.int64(2),), TypeError)):
        with pytest.warns(Warning, match="deprecated"), pytest.raises(error):
            acl.util.ptr_to_numpy(host, shape, 5)


def test_numpy_to_ptr_warns_every_time():
    array = np.arange(6).reshape(2, 3)
    for _ in range(2):
        with pytest.warns(Warning, match="deprecated"):
            assert acl.util.numpy_to_ptr(array) == array.ctypes.data
    with pytest.warns(Warning, match="deprecated"), pytest.warns(Warning, match="not contiguous"):
        assert acl.util.numpy_to_ptr(array.T) == array.ctypes.data
    with pytest.warns(Warning, match="deprecated"):
        ptr, contiguous = acl.util.numpy_contiguous_to_ptr(array.T)
    assert contiguous.flags.c_contiguous
    assert ptr == contiguous.ctypes.data
    with pytest.warns(Warning, match="deprecated"), pytest.raises(ValueError, match="numpy array"):
        acl.util.numpy_to_ptr([1])


def test_bytes_to_ptr_takes_bytes_only():
    with pytest.raises(ValueError, match="bytearray"):
        acl.util.bytes_to_ptr(bytearray(4))
    data = b"a\0b"
    assert acl.util.ptr_to_bytes(acl.util.bytes_to_ptr(data), 3) == data


def test_freed_host_blocks_leave_the_quarantine():
    host = acl.rt.malloc_host(1 << 20)[0]
    acl.rt.free_host(host)
    for _ in range(65):
        acl.rt.free_host(acl.rt.malloc_host(1 << 20)[0])
    memory = testing.machine().memory
    assert sum(block.capacity for block in memory._blocks.values()) <= 64 << 20
    assert sorted(memory._blocks) == memory._starts
    assert memory.leaks() == []


def test_leaks_name_their_place():
    malloc(5)
    acl.rt.malloc_host(6)
    leaks = testing.ledger().leaks
    assert [(leak.kind, leak.size) for leak in leaks] == [("device memory", 5), ("pinned host memory", 6)]
    assert all("test_memory.py" in leak.site for leak in leaks)


def test_a_violation_passes_except_exception():
    ptr = malloc(8)
    acl.rt.free(ptr)

    def client():
        try:
            acl.rt.free(ptr)
        except Exception:
            pytest.fail("a client's handler swallowed it")

    with pytest.raises(Violation, match="double free"):
        client()


def test_host_views_of_what_queued_work_writes():
    ptr, host = malloc(8), acl.rt.malloc_host(8)[0]
    assert acl.rt.memcpy_async(host, 8, ptr, 8, D2H, 0) == 0
    with pytest.raises(Violation, match="ptr_to_bytes"):
        acl.util.ptr_to_bytes(host, 8)
    with pytest.warns(Warning, match="deprecated"), pytest.raises(Violation, match="ptr_to_numpy"):
        acl.util.ptr_to_numpy(host, (8,), 2)
    assert acl.rt.synchronize_stream(0) == 0
    assert acl.util.ptr_to_bytes(host, 8) == b"\xff" * 8


@pytest.mark.parametrize("make", ["pinned", "device"])
def test_an_async_copy_to_pageable_memory_is_named(make):
    ptr, array = malloc(8), np.zeros(8, np.uint8)
    arguments = (array.ctypes.data, 8, ptr, 8, D2H, 0) if make == "device" else (ptr, 8, array.ctypes.data, 8, H2D, 0)
    with pytest.raises(Violation, match="pageable memory"):
        acl.rt.memcpy_async(*arguments)


@pytest.mark.parametrize(("shape", "kind", "text"), [((2,), 99, "unknown numpy type 99"), ((-2,), 5, "negative shape")])
def test_views_that_numpy_does_not_know(shape, kind, text):
    host = acl.rt.malloc_host(24)[0]
    with pytest.warns(Warning, match="deprecated"), pytest.raises(ValueError, match=text):
        acl.util.ptr_to_numpy(host, shape, kind)


def test_a_view_that_tolerant_mode_cannot_give_whole_is_none():
    restart(strict=False)
    host = acl.rt.malloc_host(8)[0]
    with pytest.warns(Warning, match="deprecated"):
        assert acl.util.ptr_to_numpy(host, (100,), 12) is None
    assert rules() == ["out of bounds"]
    assert acl.rt.get_last_error(0) == 107000


def test_a_view_of_nothing():
    with pytest.warns(Warning, match="deprecated"):
        assert acl.util.ptr_to_numpy(acl.rt.malloc_host(8)[0], (0, 3), 5).shape == (0, 3)


@pytest.mark.parametrize("call", [
    lambda: acl.util.numpy_to_ptr(np.arange(6).reshape(2, 3).T),
    lambda: acl.util.numpy_contiguous_to_ptr(np.arange(6)),
    lambda: acl.util.ptr_to_numpy(acl.rt.malloc_host(8)[0], (1,), 2),
])  # fmt: skip
def test_warnings_name_the_client(call):
    with pytest.warns(Warning, match="deprecated|not contiguous") as caught:
        call()
    assert {(warning.filename, warning.lineno) for warning in caught} == {(__file__, call.__code__.co_firstlineno)}


@pytest.mark.parametrize(("kind", "dtype"), [
    (0, np.bool_), (1, np.int8), (2, np.uint8), (3, np.int16), (4, np.uint16), (5, np.int32), (6, np.uint32), (7, np.int64),
    (8, np.uint64), (9, np.longlong), (10, np.ulonglong), (11, np.float32), (12, np.float64), (23, np.float16),
])  # fmt: skip
def test_numpy_type_numbers(kind, dtype):
    host = acl.rt.malloc_host(24)[0]
    with pytest.warns(Warning, match="deprecated"):
        view = acl.util.ptr_to_numpy(host, (2, True), kind)
    assert (view.dtype, view.shape, view.flags.writeable, view.flags.owndata) == (np.dtype(dtype), (2, 1), True, False)
