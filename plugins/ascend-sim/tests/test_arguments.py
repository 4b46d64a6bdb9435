"""contracts/pyacl.md 1.0: what each argument letter accepts, how it overflows, and what the TypeError says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import acl_sim as acl
from acl_sim import testing
from acl_sim._arguments import parse_one, parser
from acl_sim._machine import ENTRIES
from acl_sim.testing import Fault

NAME = "acl.rt.example"


class Indexed:
    def __index__(self):
        return 7


def parse(letters, *args):
    return parser(NAME, letters)(args)


@pytest.mark.parametrize("letter", ["k", "K"])
def test_k_takes_real_ints_only(letter):
    assert parse(letter, True) == (1,)
    for bad in (np.int64(1), 1.0, None, "1", b"1", Indexed()):
        with pytest.raises(TypeError, match=r"^acl\.rt\.example args parse failed$"):
            parse(letter, bad)


@given(st.integers(-(2**80), 2**80))
def test_wrapping_letters_wrap(value):
    assert parse("kKI", value, value, value) == (value % 2**64, value % 2**64, value % 2**32)


def test_minus_one_is_size_max():
    assert parse("k", -1) == (2**64 - 1,)


@pytest.mark.parametrize("letter", ["I", "i"])
def test_index_letters_take_numpy_ints(letter):
    assert parse(letter, np.uint32(5)) == (5,)
    assert parse(letter, Indexed()) == (7,)
    for bad in (1.0, None, "1", np.float32(1)):
        with pytest.raises(TypeError):
            parse(letter, bad)


@given(st.integers(-(2**40), 2**40))
def test_i_must_fit(value):
    if -(2**31) <= value < 2**31:
        assert parse("i", value) == (value,)
    else:
        with pytest.raises(TypeError, match="args parse failed"):
            parse("i", value)


def test_s_is_str_without_nul():
    assert parse("s", "päth") == ("päth",)
    for bad in (None, b"x", "a\0b", "\ud800", 3):
        with pytest.raises(TypeError):
            parse("s", bad)


def test_small_letters():
    assert parse("HBbh", 65537, 257, 255, -1) == (1, 1, 255, -1)
    for letter, bad in (("b", 256), ("b", -1), ("h", 2**15)):
        with pytest.raises(TypeError):
            parse(letter, bad)
    assert parse("f", 0.1) == (float(np.float32(0.1)),)
    assert parse("ff", 1e300, -1e300) == (float("inf"), float("-inf"))
    assert parse("d", Indexed()) == (7.0,)
    for letter in "fd":
        for bad in ("1", b"1", None, 10**400, -(10**400)):
            with pytest.raises(TypeError, match=r"^acl\.rt\.example args parse failed$"):
                parse(letter, bad)
    for letter, bad in (("b", 256), ("b", -1), ("h", -(2**15) - 1), ("h", 2**15)):
        with pytest.raises(TypeError):
            parse(letter, bad)
    assert parse("bbhh", 0, 255, -(2**15), 2**15 - 1) == (0, 255, -(2**15), 2**15 - 1)


def test_count_is_checked():
    for args in ((), (1,), (1, 2, 3)):
        with pytest.raises(TypeError, match="args parse failed"):
            parse("kk", *args)
    assert parse("|s") == ()
    with pytest.raises(TypeError):
        parse("|s", "a", "b")


def test_mdl_says_it_with_an_exclamation_mark():
    with pytest.raises(TypeError, match=r"^acl\.mdl\.execute args parse failed!$"):
        parser("acl.mdl.execute", "Ikk")((1,))
    with pytest.raises(TypeError, match=r"^acl\.mdl\.x args parse failed!$"):
        parse_one("acl.mdl.x", "s", None)


def test_the_cause_is_not_shown():
    with pytest.raises(TypeError) as caught:
        parse("i", 2**40)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_functions_are_positional_only():
    with pytest.raises(TypeError):
        acl.rt.malloc(size=1, policy=0)
    with pytest.raises(TypeError, match=r"^acl\.rt\.malloc args parse failed$"):
        acl.rt.malloc(np.int64(64), 0)


def test_functions_without_arguments_ignore_surplus():
    assert acl.rt.get_device_count(1, "x", None) == (1, 0)


def test_init_takes_none_or_a_str():
    with pytest.raises(TypeError, match=r"acl\.init args parse failed"):
        acl.init(None)
    assert acl.init("") == 0


# Name -> letters, for every function of contracts/pyacl.md 1.1, 1.2 and 1.5.
SURFACE = {
    "init": "|s", "finalize": "", "finalize_reference": "", "get_soc_name": "", "get_version": "",
    "get_recent_err_msg": "", "app_log": "is", "data_type_size": "i",
    "create_data_buffer": "kk", "destroy_data_buffer": "k", "update_data_buffer": "kkk", "get_data_buffer_addr": "k",
    "get_data_buffer_size": "k", "get_data_buffer_size_v2": "k",
    "create_tensor_desc": "iOi", "destroy_tensor_desc": "k", "get_tensor_desc_size": "k", "get_tensor_desc_type": "k",
    "get_tensor_desc_format": "k", "get_tensor_desc_num_dims": "k", "get_tensor_desc_element_count": "k",
    "get_tensor_desc_dim": "kk", "get_tensor_desc_dim_v2": "kk", "set_tensor_desc_name": "ks",
    "float16_to_float": "H", "float_to_float16": "f",
    "rt.set_device": "i", "rt.reset_device": "i", "rt.get_device": "", "rt.get_device_count": "", "rt.get_run_mode": "",
    "rt.create_context": "i", "rt.destroy_context": "k", "rt.set_context": "k", "rt.get_context": "",
    "rt.create_stream": "", "rt.create_stream_with_config": "ii", "rt.destroy_stream": "k", "rt.synchronize_stream": "k",
    "rt.synchronize_stream_with_timeout": "ki", "rt.synchronize_device": "", "rt.malloc": "ki", "rt.free": "k",
    "rt.malloc_host": "k", "rt.free_host": "k", "rt.memcpy": "kkkki", "rt.memcpy_async": "kkkkik", "rt.memset": "kkik",
    "rt.memset_async": "kkikk", "rt.peek_at_last_error": "i", "rt.get_last_error": "i", "rt.get_mem_info": "i",
    "rt.create_event": "", "rt.create_event_with_flag": "I", "rt.create_event_ex_with_flag": "I", "rt.destroy_event": "k",
    "rt.record_event": "kk", "rt.reset_event": "kk", "rt.synchronize_event": "k", "rt.synchronize_event_with_timeout": "ki",
    "rt.stream_wait_event": "kk", "rt.query_event": "k", "rt.query_event_status": "k", "rt.query_event_wait_status": "k",
    "rt.event_elapsed_time": "kk", "rt.subscribe_report": "Kk", "rt.unsubscribe_report": "Kk", "rt.process_report": "i",
    "rt.launch_callback": "OOik",
    "media.dvpp_malloc": "k", "media.dvpp_free": "k",
    "util.bytes_to_ptr": "O", "util.ptr_to_bytes": "kk", "util.numpy_to_ptr": "O", "util.numpy_contiguous_to_ptr": "O",
    "util.ptr_to_numpy": "kOi", "util.start_thread": "OO", "util.stop_thread": "K",
}  # fmt: skip
RELEASES_GIL = {
    "rt.synchronize_stream", "rt.synchronize_stream_with_timeout", "rt.synchronize_device", "rt.synchronize_event",
    "rt.synchronize_event_with_timeout", "rt.process_report", "rt.stream_wait_event", "util.start_thread",
    "util.stop_thread",
}  # fmt: skip
GOOD = {
    "k": (0, True, -1, 1 << 70), "K": (0, True, -1), "I": (0, -1, np.uint32(1), np.int64(1), Indexed()),
    "i": (0, True, -(1 << 31), (1 << 31) - 1, np.int64(1), Indexed()), "s": ("", "p\u00e4th"), "O": (print,),
    "H": (0, np.uint16(1)), "B": (0,), "b": (0, 255), "h": (-(1 << 15), np.int8(1)), "f": (0, 1.5, np.float64(1)), "d": (1.5,),
}  # fmt: skip
BAD = {
    "k": (None, np.int64(1), np.uint64(1), 1.0, "1", b"1", Indexed()), "K": (None, np.int64(1), 1.0, "1"),
    "I": (None, 1.0, "1", np.float32(1)), "i": (None, 1 << 31, -(1 << 31) - 1, 1.0, "1"), "s": (None, b"x", "a\0b", 1), "O": (),
    "H": (None, 1.0), "B": (None,), "b": (None, 256, -1), "h": (None, 1 << 15), "f": (None, "1"), "d": (None, "1"),
}  # fmt: skip


def test_the_surface_is_whole():
    mine = {name.removeprefix("acl."): e.letters for name, e in ENTRIES.items() if not name.startswith("acl.mdl.")}
    assert mine == SURFACE
    assert {n.removeprefix("acl.") for n, e in ENTRIES.items() if not e.holds_gil} == RELEASES_GIL


def public(name):
    module, _, function = name.removeprefix("acl.").rpartition(".")
    owner = getattr(acl, module) if module else acl
    assert function in dir(owner)
    return getattr(owner, function)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_how_a_function_reads_its_arguments(name):
    """1.0.2 and 1.0.4 to 1.0.6, for every function there is: a fault answers instead of it, as soon as its arguments fit."""
    entry = ENTRIES[name]
    testing.reset(faults=(Fault(name, 0, 500000),))
    call = public(name)
    assert call.__name__ == name.rpartition(".")[2]
    required, _, optional = entry.letters.partition("|")
    letters = required + optional
    fitting = [GOOD[letter][0] for letter in letters]
    answer = entry.failed(500000)

    def refuses(*args):
        with pytest.raises(TypeError) as caught:
            call(*args)
        assert str(caught.value) == f"{name} args parse failed" + ("!" if name.startswith("acl.mdl.") else "")

    assert call(*fitting) == answer
    for place, letter in enumerate(letters):
        for value in GOOD[letter]:
            assert call(*fitting[:place], value, *fitting[place + 1 :]) == answer, (place, value)
        for value in BAD[letter]:
            refuses(*fitting[:place], value, *fitting[place + 1 :])
    if letters:
        refuses(*fitting, 1)
    else:
        assert call(None, "x", 1.5) == answer, "a function without arguments does not look at them"
    if required:
        refuses()
        refuses(*fitting[: len(required) - 1])
    with pytest.raises(TypeError, match="keyword"):
        call(*fitting[:-1], size=1)
    calls = testing.ledger().calls[name]
    assert calls == 1 + sum(len(GOOD[letter]) for letter in letters) + (not letters), "a failed parse is no call"


def test_no_constants_and_no_strangers():
    for module in (acl, acl.rt, acl.util):
        for name in dir(module):
            thing = getattr(module, name)
            assert callable(thing) or type(thing).__name__ in ("module", "Unsimulated"), name
        assert not hasattr(module, "ACL_SUCCESS")
    assert len(dir(acl.util)) == 7
    assert not hasattr(acl.util, "vals_to_ptr")


def test_unsimulated_functions_say_so():
    with pytest.raises(NotImplementedError, match=r"acl\.media\.vpc_resize is not simulated"):
        acl.media.vpc_resize(10)
    for name in ("media", "op", "blas", "prof", "himpi", "fv"):
        assert not hasattr(getattr(acl, name), "ACL_ANYTHING")
    with pytest.raises(AttributeError, match="does not simulate it"):
        acl.rt.get_stream_flag_of_old()
