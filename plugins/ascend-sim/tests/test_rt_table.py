"""A row for each rule of contracts/pyacl.md 1.1, 1.2 and 3.1: the call, and what it answers, to the code and shape.

Rows of section 4.1 are in test_reports.py, the memcpy order and memory misuse also in test_memory.py.
"""

import json

import numpy as np
import pytest

import acl_sim as acl
from acl_sim import testing
from acl_sim._machine import ENTRIES, Config, parse_faults
from acl_sim.testing import Fault, Violation

rt = acl.rt
STALE = 0x2000_0000_0000 + 64 * 10_000


class World:
    """What rows refer to by name: made when asked for."""

    def __init__(self):
        self.dev = rt.malloc(64, 0)[0]
        self.host = rt.malloc_host(64)[0]
        self.stream = rt.create_stream()[0]
        self.event = rt.create_event()[0]
        self.context = rt.get_context()[0]

    def foreign_stream(self):
        rt.create_context(0)
        foreign = rt.create_stream()[0]
        rt.set_context(self.context)
        return foreign

    def dead_stream(self):
        dead = rt.create_stream()[0]
        rt.destroy_stream(dead)
        return dead

    def dead_context(self):
        dead = rt.create_context(0)[0]
        rt.destroy_context(dead)
        rt.set_context(self.context)
        return dead


@pytest.fixture
def world(fresh_machine):
    testing.reset(devices=2)
    assert rt.set_device(0) == 0
    return World()


# Without any context on this thread.
BARE = [
    (lambda: rt.get_device(), (0, 107002)),
    (lambda: rt.get_device_count(), (1, 0)),
    (lambda: rt.get_run_mode(), (1, 0)),
    (lambda: rt.get_context(), (0, 107002)),
    (lambda: rt.create_stream(), (0, 107002)),
    (lambda: rt.create_stream_with_config(0, 0), (0, 107002)),
    (lambda: rt.synchronize_stream(0), 107002),
    (lambda: rt.synchronize_stream_with_timeout(0, 5), 107002),
    (lambda: rt.synchronize_device(), 107002),
    (lambda: rt.malloc(8, 0), (0, 107002)),
    (lambda: rt.malloc(0, 0), (0, 100000)),
    (lambda: rt.malloc_host(8), (0, 107002)),
    (lambda: rt.malloc_host(0), (0, 100000)),
    (lambda: rt.free(0), 100000),
    (lambda: rt.free_host(0), 100000),
    (lambda: rt.memcpy(8, 8, 16, 8, 1), 107002),
    (lambda: rt.memcpy(0, 0, 0, 0, 99), 0),
    (lambda: rt.memcpy(0, 8, 16, 8, 1), 100000),
    (lambda: rt.memcpy(8, 8, 16, 8, 99), 100000),
    (lambda: rt.memcpy(8, 4, 16, 8, 1), 107000),
    (lambda: rt.memcpy(8, 8, 8, 8, 1), 0),
    (lambda: rt.memcpy_async(8, 8, 16, 8, 1, 0), 107002),
    (lambda: rt.memset(8, 8, 0, 8), 107002),
    (lambda: rt.memset(0, 0, 0, 0), 0),
    (lambda: rt.memset(0, 8, 0, 8), 100000),
    (lambda: rt.memset_async(8, 8, 0, 8, 0), 107002),
    (lambda: rt.get_mem_info(0), (0, 0, 107002)),
    (lambda: rt.create_event(), (0, 107002)),
    (lambda: rt.launch_callback(print, None, 0, 0), 107002),
    (lambda: rt.subscribe_report(1, 0), 107002),
    (lambda: rt.process_report(1), 107012),
    (lambda: rt.set_device(1), 107001),
    (lambda: rt.set_device(-1), 107001),
    (lambda: rt.create_context(7), (0, 107001)),
    (lambda: rt.reset_device(3), 107001),
    (lambda: rt.reset_device(0), 507007),
    (lambda: rt.destroy_context(0), 100000),
    (lambda: rt.set_context(0), 100000),
    (lambda: rt.set_context(STALE), 107000),
    (lambda: rt.destroy_stream(0), 100000),
    (lambda: rt.peek_at_last_error(1), 107000),
    (lambda: rt.get_last_error(1), 107000),
    (lambda: rt.set_device(np.int32(0)), 0),
    (lambda: rt.create_context(0)[1], 0),
    (lambda: rt.create_event_with_flag(0), (0, 107002)),
    (lambda: rt.create_event_ex_with_flag(0), (0, 107002)),
    (lambda: rt.synchronize_event(0), 107002),
    (lambda: rt.synchronize_event_with_timeout(0, 5), 107002),
    (lambda: rt.record_event(0, 0), 100000),
    (lambda: rt.unsubscribe_report(1, 0), 107002),
    (lambda: rt.destroy_stream(STALE), 107002),
    (lambda: rt.memset_async(8, 8, 0, 0, 0), 0),
    (lambda: rt.memcpy_async(8, 8, 16, 0, 99, 0), 0),
    (lambda: rt.create_context(-1), (0, 107001)),
    (lambda: rt.reset_device(-1), 107001),
    (lambda: rt.free(0), 100000),
]

# With device 0 set and one of everything.
SET_UP = [
    (lambda w: rt.get_device(), (0, 0)),
    (lambda w: rt.destroy_context(w.context), 107002),
    (lambda w: rt.destroy_context(w.dead_context()), 107002),
    (lambda w: rt.set_context(w.dead_context()), 107000),
    (lambda w: rt.destroy_stream(w.foreign_stream()), 107003),
    (lambda w: rt.destroy_stream(w.dead_stream()), 107017),
    (lambda w: rt.destroy_stream(w.stream), 0),
    (lambda w: rt.synchronize_stream(w.dead_stream()), 107017),
    (lambda w: rt.synchronize_stream(w.foreign_stream()), 0),
    (lambda w: rt.synchronize_stream_with_timeout(w.stream, 0), 107000),
    (lambda w: rt.synchronize_stream_with_timeout(w.stream, -2), 107000),
    (lambda w: rt.synchronize_stream_with_timeout(w.stream, -1), 0),
    (lambda w: rt.malloc(2**50, 0), (0, 207001)),
    (lambda w: rt.malloc(-1, 0), (0, 207001)),
    (lambda w: rt.malloc(8, 77)[1], 0),
    (lambda w: rt.free(w.dev), 0),
    (lambda w: rt.free_host(w.host), 0),
    (lambda w: rt.free_host(w.dev), 107000),
    (lambda w: rt.memcpy(w.dev, 64, w.host, 0, 99), 0),
    (lambda w: rt.memcpy(0, 64, w.host, 8, 99), 100000),
    (lambda w: rt.memcpy(w.dev, 64, 0, 8, 1), 100000),
    (lambda w: rt.memcpy(w.dev, 1, w.host, 8, 8), 100000),
    (lambda w: rt.memcpy(w.dev, 1, w.host, 8, -1), 100000),
    (lambda w: rt.memcpy(w.dev, 7, w.host, 8, 1), 107000),
    (lambda w: rt.memcpy(w.dev, 7, w.dev, 8, 1), 107000),
    (lambda w: rt.memcpy(w.dev, 64, w.dev, 64, 3), 0),
    (lambda w: rt.memcpy(w.dev, 64, w.host, 64, 2), 0),  # the kind does not choose the direction
    (lambda w: rt.memcpy(w.host, 64, w.dev, 32, 7), 0),
    (lambda w: rt.memcpy_async(w.dev, 64, w.host, 0, 99, w.stream), 0),
    (lambda w: rt.memcpy_async(w.dev, 64, 0, 8, 1, w.stream), 100000),
    (lambda w: rt.memcpy_async(w.dev, 64, w.host, 8, 9, w.stream), 100000),
    (lambda w: rt.memcpy_async(w.dev, 7, w.host, 8, 1, w.stream), 107000),
    (lambda w: rt.memcpy_async(w.dev, 64, w.host, 8, 1, w.dead_stream()), 107017),
    (lambda w: rt.memcpy_async(w.host, 64, w.host + 8, 8, 0, w.stream), 207000),
    (lambda w: rt.memset(w.dev, 7, 0, 8), 107000),
    (lambda w: rt.memset(w.dev, 64, 300, 64), 0),
    (lambda w: rt.memset_async(0, 64, 0, 64, w.stream), 100000),
    (lambda w: rt.memset_async(w.dev, 7, 0, 8, w.stream), 107000),
    (lambda w: rt.create_event_with_flag(8)[1], 0),
    (lambda w: rt.create_event_ex_with_flag(np.uint32(8))[1], 0),
    (lambda w: rt.destroy_event(w.event), 0),
    (lambda w: rt.destroy_event(0), 100000),
    (lambda w: rt.record_event(w.event, w.stream), 0),
    (lambda w: rt.record_event(0, w.stream), 100000),
    (lambda w: rt.record_event(w.event, w.foreign_stream()), 107003),
    (lambda w: rt.record_event(w.event, w.dead_stream()), 107017),
    (lambda w: rt.stream_wait_event(w.stream, w.event), 0),
    (lambda w: rt.stream_wait_event(w.dead_stream(), w.event), 107017),
    (lambda w: rt.query_event(w.event), (1, 0)),
    (lambda w: rt.query_event_status(w.event), (0, 0)),
    (lambda w: rt.query_event_wait_status(w.event), (0, 0)),
    (lambda w: rt.query_event(0), (0, 100000)),
    (lambda w: rt.event_elapsed_time(w.event, w.event), (0.0, 107006)),
    (lambda w: rt.synchronize_event(0), 100000),
    (lambda w: rt.synchronize_event_with_timeout(w.event, 0), 107000),
    (lambda w: rt.reset_event(w.event, w.stream), 0),
    (lambda w: rt.set_device(2), 107001),
    (lambda w: rt.set_device(1), 0),
    (lambda w: rt.reset_device(0), 0),
    (lambda w: rt.get_context() == (w.context, 0), True),
    (lambda w: rt.set_context(w.context), 0),
    (lambda w: rt.set_context(w.stream), 107000),
    (lambda w: rt.create_context(1)[1], 0),
    (lambda w: rt.destroy_context(rt.create_context(1)[0]), 0),
    (lambda w: rt.create_stream()[1], 0),
    (lambda w: rt.create_stream_with_config(7, 3)[1], 0),
    (lambda w: rt.synchronize_stream(w.stream), 0),
    (lambda w: rt.synchronize_stream(0), 0),
    (lambda w: rt.synchronize_stream_with_timeout(0, 1), 0),
    (lambda w: rt.synchronize_stream_with_timeout(w.dead_stream(), 1), 107017),
    (lambda w: rt.synchronize_stream_with_timeout(w.foreign_stream(), 1), 0),
    (lambda w: rt.synchronize_device(), 0),
    (lambda w: rt.malloc_host(8)[1], 0),
    (lambda w: rt.malloc_host(0), (0, 100000)),
    (lambda w: rt.memcpy(w.dev, 64, w.host, 64, 0), 0),
    (lambda w: rt.memcpy(w.dev, 64, w.host, 1, 4), 0),
    (lambda w: rt.memcpy(w.host + 8, 8, w.host, 8, 0), 0),
    (lambda w: rt.memcpy_async(w.dev, 64, w.host, 64, 1, w.stream), 0),
    (lambda w: rt.memcpy_async(w.host, 64, w.dev, 64, 2, 0), 0),
    (lambda w: rt.memcpy_async(w.dev + 32, 32, w.dev, 32, 3, w.stream), 0),  # between device blocks: no host memory to judge
    (lambda w: rt.memcpy_async(0, 64, w.host, 8, 1, w.stream), 100000),
    (lambda w: rt.memset(w.dev, 64, 1, 0), 0),
    (lambda w: rt.memset(w.host, 64, 1, 64), 0),
    (lambda w: rt.memset_async(w.dev, 64, 0, 64, w.stream), 0),
    (lambda w: rt.memset_async(w.dev, 64, 0, 64, w.dead_stream()), 107017),
    (lambda w: rt.create_event()[1], 0),
    (lambda w: rt.record_event(w.event, 0), 0),
    (lambda w: rt.stream_wait_event(w.stream, 0), 100000),
    (lambda w: rt.stream_wait_event(0, w.event), 0),
    (lambda w: rt.reset_event(0, w.stream), 100000),
    (lambda w: rt.reset_event(w.event, w.foreign_stream()), 107003),
    (lambda w: rt.reset_event(w.event, w.dead_stream()), 107017),
    (lambda w: rt.synchronize_event(w.event), 0),
    (lambda w: rt.synchronize_event_with_timeout(w.event, 1), 0),
    (lambda w: rt.synchronize_event_with_timeout(w.event, -1), 0),
    (lambda w: rt.synchronize_event_with_timeout(w.event, -2), 107000),
    (lambda w: rt.synchronize_event_with_timeout(0, 1), 100000),
    (lambda w: rt.query_event_status(0), (0, 100000)),
    (lambda w: rt.query_event_wait_status(0), (0, 100000)),
    (lambda w: rt.event_elapsed_time(0, w.event), (0.0, 100000)),
    (lambda w: rt.event_elapsed_time(w.event, 0), (0.0, 100000)),
    (lambda w: (rt.record_event(w.event, 0), rt.event_elapsed_time(w.event, rt.create_event()[0]))[1], (0.0, 107006)),
    (lambda w: (rt.record_event(w.event, 0), rt.event_elapsed_time(rt.create_event()[0], w.event))[1], (0.0, 107006)),
    (lambda w: rt.get_mem_info(9), (0, 0, 0)),
    (lambda w: rt.subscribe_report(1, w.stream), 0),
    (lambda w: rt.subscribe_report(1, w.dead_stream()), 107017),
    (lambda w: rt.unsubscribe_report(1, w.stream), 107011),
    (lambda w: rt.launch_callback(print, None, 0, w.dead_stream()), 107017),
    (lambda w: rt.launch_callback(print, None, -1, w.stream), 100000),
    (lambda w: rt.process_report(0), 100000),
    (lambda w: rt.process_report(-2), 100000),
    (lambda w: rt.peek_at_last_error(0), 0),
    (lambda w: rt.get_last_error(0), 0),
    (lambda w: acl.media.dvpp_malloc(0), (0, 100000)),
    (lambda w: acl.media.dvpp_free(acl.media.dvpp_malloc(8)[0]), 0),
    (lambda w: acl.media.dvpp_free(0), 100000),
]

MISUSE = [
    (lambda w: rt.destroy_context(STALE), "unknown handle"),
    (lambda w: rt.destroy_context(w.stream), "wrong handle"),
    (lambda w: rt.synchronize_stream(STALE), "unknown handle"),
    (lambda w: rt.record_event(STALE, w.stream), "unknown handle"),
    (lambda w: (rt.destroy_event(w.event), rt.record_event(w.event, w.stream)), "stale handle"),
    (lambda w: rt.record_event(w.stream, w.event), "wrong handle"),  # the two arguments the wrong way round
    (lambda w: (acl.init(), acl.finalize(), rt.malloc(8, 0)), "use after finalize"),
    (lambda w: (acl.init(), acl.finalize(), rt.set_device(0)), "use after finalize"),
    (lambda w: (acl.init(), acl.finalize(), rt.create_context(0)), "use after finalize"),
    (lambda w: acl.get_data_buffer_addr(STALE), "unknown handle"),
    (lambda w: acl.get_tensor_desc_size(STALE), "unknown handle"),
    (lambda w: acl.destroy_tensor_desc(w.stream), "wrong handle"),
    (lambda w: rt.memcpy_async(w.dev, 64, w.host + 60, 8, 1, w.stream), "out of bounds"),
    (lambda w: rt.memcpy_async(w.dev + 60, 64, w.host, 8, 1, w.stream), "out of bounds"),
    (lambda w: rt.memset_async(w.dev + 60, 64, 0, 8, w.stream), "out of bounds"),
    (lambda w: [acl.destroy_data_buffer(buf) for buf in [acl.create_data_buffer(1, 1)] * 2], "stale handle"),
]


@pytest.mark.parametrize("row", range(len(BARE)))
def test_without_a_context(row):
    call, expected = BARE[row]
    assert call() == expected


@pytest.mark.parametrize("row", range(len(SET_UP)))
def test_with_a_device(row, world):
    call, expected = SET_UP[row]
    assert call(world) == expected
    assert testing.ledger().violations == []


@pytest.mark.parametrize("row", range(len(MISUSE)))
def test_misuse_is_named(row, world):
    call, rule = MISUSE[row]
    with pytest.raises(Violation, match=rule):
        call(world)
    assert [v.rule for v in testing.ledger().violations] == [rule]


@pytest.mark.parametrize("row", range(len(MISUSE)))
def test_misuse_in_tolerant_mode_is_an_error(row, world):
    here = testing.machine()
    here.strict = False
    call, rule = MISUSE[row]
    call(world)
    assert [v.rule for v in testing.ledger().violations] == [rule]


def test_set_and_reset_are_counted():
    assert [rt.set_device(0), rt.set_device(0)] == [0, 0]
    assert rt.reset_device(0) == 0
    assert rt.get_context()[1] == 0
    assert rt.reset_device(0) == 0
    assert rt.get_context() == (0, 107002)
    assert rt.reset_device(0) == 507007
    assert rt.set_device(0) == 0
    assert rt.reset_device(0) == 0
    testing.assert_clean()


def test_set_device_returns_to_the_implicit_context(world):
    explicit = rt.create_context(0)[0]
    assert rt.get_context() == (explicit, 0)
    assert rt.set_device(0) == 0
    assert rt.get_context() == (world.context, 0)
    assert rt.set_device(1) == 0
    assert rt.get_device() == (1, 0)


def test_destroying_the_current_context_leaves_none(world):
    context = rt.create_context(1)[0]
    assert rt.get_device() == (1, 0)
    assert rt.destroy_context(context) == 0
    assert rt.get_context() == (0, 107002)


def test_destroy_context_after_finalize():
    acl.init()
    context = rt.create_context(0)[0]
    assert acl.finalize() == 0
    assert rt.destroy_context(context) == 0


def test_giving_back_after_finalize(world):
    acl.init()
    assert rt.subscribe_report(1, world.stream) == 0
    acl.finalize()
    assert [rt.synchronize_device(), rt.unsubscribe_report(1, world.stream), rt.get_context()[1], rt.get_device()[1]] == [0] * 4
    assert [rt.destroy_event(world.event), rt.synchronize_stream(world.stream), rt.destroy_stream(world.stream)] == [0] * 3
    assert [rt.free(world.dev), rt.free_host(world.host), rt.reset_device(0)] == [0] * 3
    testing.assert_clean()


def test_init_after_finalize_begins_again(world):
    acl.init()
    acl.finalize()
    acl.init()
    assert rt.malloc(8, 0)[1] == 0


def test_old_handles_are_forgotten_in_the_end():
    first = acl.create_data_buffer(1, 1)
    acl.destroy_data_buffer(first)
    for _ in range(1 << 16):
        acl.destroy_data_buffer(acl.create_data_buffer(1, 1))
    with pytest.raises(Violation, match="unknown handle"):
        acl.destroy_data_buffer(first)


def test_last_error(world):
    assert rt.get_last_error(0) == 0
    rt.set_device(9)
    assert rt.peek_at_last_error(0) == 107001
    assert rt.get_last_error(0) == 107001
    assert rt.get_last_error(0) == 0


def test_init_and_finalize(tmp_path):
    assert acl.finalize() == 0
    assert acl.init() == 0
    assert acl.init("") == 100002
    assert acl.finalize() == 0
    assert acl.finalize() == 100037
    assert acl.init() == 0
    assert acl.init() == 100002
    assert acl.finalize_reference() == (1, 0)
    assert acl.finalize_reference() == (0, 0)
    assert acl.finalize_reference() == (0, 100037)
    assert acl.finalize() == 100037
    config = tmp_path / "acl.json"
    assert acl.init(str(config)) == 100003
    config.write_text("{")
    assert acl.init(str(config)) == 100003
    config.write_text("{}")
    assert acl.init(str(config)) == 100000


def test_init_with_one_configuration(tmp_path):
    config = tmp_path / "acl.json"
    config.write_text('{"dump": {}}')
    assert acl.init(str(config)) == 0
    assert acl.init(str(config)) == 100002
    config.write_text("{}")
    assert acl.init(str(config)) == 100000


def test_messages_are_read_once():
    assert acl.get_recent_err_msg() is None
    rt.set_device(5)
    assert "107001" in acl.get_recent_err_msg()
    assert acl.get_recent_err_msg() is None


def test_names_and_versions(capsys, monkeypatch):
    assert acl.get_soc_name() == "Ascend310P3"
    assert len(acl.get_version()) == 4
    assert acl.get_version()[3] == 0
    assert acl.app_log(1, "hello") is None
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("ASCEND_SLOG_PRINT_TO_STDOUT", "1")
    acl.app_log(3, "hello")
    assert "[ERROR] APP: hello" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "size"), [
    (-1, 0), (0, 4), (1, 2), (2, 1), (3, 4), (4, 1), (6, 2), (7, 2), (8, 4), (9, 8), (10, 8), (11, 8), (12, 1), (13, 0),
    (16, 8), (17, 16), (27, 2), (29, 1), (30, 1), (33, 4), (999, 8),
])  # fmt: skip
def test_data_type_size(dtype, size):
    assert acl.data_type_size(dtype) == size


def test_data_buffers():
    buf = acl.create_data_buffer(0, 0)
    assert buf > 0
    big = (5 << 32) + 7
    assert acl.update_data_buffer(buf, 1234, big) == 0
    assert acl.get_data_buffer_addr(buf) == 1234
    assert acl.get_data_buffer_size(buf) == 7
    assert acl.get_data_buffer_size_v2(buf) == big
    assert acl.destroy_data_buffer(buf) == 0
    assert acl.destroy_data_buffer(0) == 100000
    assert acl.update_data_buffer(0, 1, 1) == 100000
    assert [acl.get_data_buffer_addr(0), acl.get_data_buffer_size(0), acl.get_data_buffer_size_v2(0)] == [0, 0, 0]


def test_tensor_descs():
    desc = acl.create_tensor_desc(1, [2, 3], 2)
    assert acl.get_tensor_desc_size(desc) == 12
    assert acl.get_tensor_desc_type(desc) == 1
    assert acl.get_tensor_desc_format(desc) == 2
    assert acl.get_tensor_desc_num_dims(desc) == 2
    assert acl.get_tensor_desc_element_count(desc) == 6
    assert acl.get_tensor_desc_dim(desc, 1) == 3
    assert acl.get_tensor_desc_dim_v2(desc, 0) == (2, 0)
    assert acl.get_tensor_desc_dim_v2(desc, 2) == (0, 100000)
    assert acl.set_tensor_desc_name(desc, "x") is None
    assert acl.destroy_tensor_desc(desc) is None
    assert acl.destroy_tensor_desc(0) is None
    with pytest.raises(TypeError, match="argument 2 is not list"):
        acl.create_tensor_desc(0, (1, 2), 2)
    with pytest.raises(TypeError):
        acl.create_tensor_desc(0, [1.5], 2)
    unknown = acl.create_tensor_desc(0, [-1, 3], 2)
    assert (acl.get_tensor_desc_size(unknown), acl.get_tensor_desc_element_count(unknown)) == (0, 0)
    acl.destroy_tensor_desc(unknown)
    testing.assert_clean()


@pytest.mark.parametrize(("bits", "value"), [(0x3C00, 1.0), (0xC000, -2.0), (0x7C00, float("inf")), (0x0001, 2**-24)])
def test_halves(bits, value):
    assert acl.float16_to_float(bits) == value
    assert acl.float_to_float16(value) == bits
    assert acl.float_to_float16(1e9) == 0x7C00


# Faults: every function fails in its own shape.


@pytest.mark.parametrize("name", sorted(name for name in ENTRIES if not name.startswith("acl.mdl.")))
def test_a_fault_comes_in_the_functions_own_shape(name):
    entry = ENTRIES[name]
    testing.reset(faults=(Fault(name, 1, 500000),))
    values = {"O": print, "s": "x", "f": 1.0}
    module, _, function = name.removeprefix("acl.").rpartition(".")
    call = getattr(getattr(acl, module) if module else acl, function)
    result = call(*[values.get(letter, 1) for letter in entry.letters.replace("|", "")])
    assert result == entry.failed(500000)
    if isinstance(result, tuple):
        assert name == "acl.util.numpy_contiguous_to_ptr" or result[-1] == 500000


def test_the_kth_call_fails():
    testing.reset(faults=(Fault("acl.rt.malloc_host", 2, 207000),))
    rt.set_device(0)
    assert [rt.malloc_host(8)[1] for _ in range(3)] == [0, 207000, 0]
    assert "fault injected" in acl.get_recent_err_msg()


def test_a_lost_device():
    here = testing.reset(devices=2)
    rt.set_device(0)
    here.lost.add(0)
    assert rt.malloc(8, 0) == (0, 507899)
    assert rt.synchronize_stream(0) == 507899
    assert rt.set_device(0) == 107001
    assert rt.set_device(1) == 0
    assert rt.malloc(8, 0)[1] == 0


def test_configuration_from_the_environment(tmp_path):
    faults = tmp_path / "faults"
    faults.write_text("# the second\nrt.malloc:2:207001\nacl.mdl.execute:*:507011\n")
    config = Config.from_environment({
        "ACL_SIM_DEVICES": "3", "ACL_SIM_RUN_MODE": "device", "ACL_SIM_SOC_NAME": "Ascend910B1", "ACL_SIM_STRICT": "0",
        "ACL_SIM_MEMORY_BYTES": "4096", "ACL_SIM_DEVICE_TIME": "none", "ACL_SIM_FAULTS": f"@{faults}",
        "ACL_SIM_LOST_DEVICES": "1,2",
    })  # fmt: skip
    assert config == Config(
        devices=3, run_mode="device", soc_name="Ascend910B1", memory_bytes=4096, strict=False, device_time="none",
        faults=(Fault("acl.rt.malloc", 2, 207001), Fault("acl.mdl.execute", 0, 507011)), lost_devices=(1, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    "bad", [{"devices": 0}, {"run_mode": "both"}, {"device_time": "fast"}, {"device_time": "/nonexistent"}]
)
def test_impossible_configurations(bad):
    with pytest.raises(ValueError, match="expected"):
        testing.reset(**bad)
    with pytest.raises(ValueError, match="expected FUNCTION:NTH:CODE"):
        parse_faults("malloc")


def test_profiles(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({
        "table": {"m": {"4": 40.0}}, "affine": {"a": [10, 2]}, "peak_tflops": 1.0, "memory_gb_s": 1.0, "launch_us": 5.0,
        "slow": {"m@4": 3.0, "@8": 2.0},
    }))  # fmt: skip
    profile = testing.reset(device_time=str(path)).profile
    assert profile.compute_us("m", "4") == 40.0
    assert profile.slowness("m", "4") == 3.0
    assert profile.slowness("m", "8") == 2.0
    assert profile.slowness("a", "1") == 1.0
    assert profile.compute_us("a", "1", rows=3) == 16.0
    assert profile.compute_us("other", "1", flops=3e6, bytes_moved=1e3) == 8.0
    assert profile.compute_us("other", "1", flops=1e6, bytes_moved=4e3) == 9.0
    assert profile.compute_us("other", "8", flops=3e6) == 8.0
    affine = testing.reset(device_time="affine:100,5").profile
    assert affine.compute_us("x", "8", rows=8) == 140.0
    path.write_text('{"speed": 1}')
    with pytest.raises(ValueError, match="unknown fields"):
        testing.reset(device_time=str(path))


def test_the_ledgers_keys():
    rt.set_device(0)
    testing.ledger().launch("net", "4")
    account = json.loads(testing.ledger().to_json())
    assert list(account) == ["leaks", "violations", "calls", "device_time_us", "busy_us", "profile", "launches"]
    assert account["calls"] == {"acl.rt.set_device": 1}
    assert account["launches"] == {"net": {"4": 1}}
    assert "net: 4 x1" in testing.ledger().to_text()
