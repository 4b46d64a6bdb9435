"""Dynamic AIPP: contracts/pyacl.md 1.4, 2.6, 3.5 and 3.6; ranges and checks as in the vendor's published source."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import acl_sim as acl
from acl_sim import _dynamic_aipp, _om, testing
from acl_sim._aipp import AippConfig, AippError
from acl_sim._dynamic_aipp import DynamicAipp
from acl_sim._om import GearKind, OmDataError
from acl_sim.testing import Violation
from test_mdl import Client, restart
from tiny_models import F16, F32, build, convert, run_atc

XRGB, RGB, GREY = 2, 3, 4
RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def device(fresh_machine):
    assert acl.init() == 0
    assert acl.rt.set_device(0) == 0


def neg(channels=3, height=6, width=8, rows="n", kind=F32):
    shape = [rows, channels, height, width]
    return build([helper.make_node("Neg", ["x"], ["y"])], [("x", kind, shape)], [("y", kind, shape)])


def dynamic(tmp, *, shape="2,3,6,8", channels=3, height=6, width=8, size=2000, gears=None, name="model", kind=F32, text=""):
    conf = tmp / f"{name}.cfg"
    conf.write_text(f"aipp_op {{ aipp_mode: dynamic max_src_image_size: {size} {text} }}")
    flags = [f"--input_shape=x:{shape}", f"--insert_op_conf={conf}"]
    if gears:
        flags.append(f"--dynamic_batch_size={gears}")
    return convert(tmp, neg(channels, height, width, kind=kind), *flags, name=name)


def parameters(batch, *, fmt=RGB, width=8, height=6):
    aipp = acl.mdl.create_aipp(batch)
    assert aipp
    assert acl.mdl.set_aipp_input_format(aipp, fmt) == 0
    assert acl.mdl.set_aipp_src_image_size(aipp, width, height) == 0
    return aipp


def message():
    return acl.get_recent_err_msg()


LAYOUTS = {  # which colour each byte of a pixel is, by format, rbuv swap, ax swap
    (RGB, 0, 0): "RGB",
    (RGB, 1, 0): "BGR",
    (XRGB, 0, 0): "RGBX",
    (XRGB, 1, 0): "BGRX",
    (XRGB, 0, 1): "XRGB",
    (XRGB, 1, 1): "XBGR",
    (GREY, 0, 0): "R",
}


def expected(images, layout, shape, steps):
    """Pixel by pixel, in Python's own numbers; `steps` per image: crop (x, y), padding (top, left, inner h, inner w), norms."""
    result = np.zeros(shape)
    for n, step in enumerate(steps):
        top, left, inner_h, inner_w = step.get("inner", (0, 0, *shape[2:]))
        x0, y0 = step.get("at", (0, 0))
        for c in range(shape[1]):
            byte = layout.index("RGBX"[c])
            for y in range(inner_h):
                for x in range(inner_w):
                    value = float(images[n][y0 + y][x0 + x][byte])
                    value -= step.get("mean", (0,) * 4)[c] + float(np.float16(step.get("min", (0,) * 4)[c]))
                    result[n, c, top + y, left + x] = value * float(np.float16(step.get("var", (1,) * 4)[c]))
    return result


# Numbers


@pytest.mark.parametrize(
    ("fmt", "rbuv", "ax", "channels"), [(*key, c) for key, v in LAYOUTS.items() for c in {len(v), min(3, len(v))}]
)
def test_formats_and_swaps(tmp_path, fmt, rbuv, ax, channels):
    client = Client(dynamic(tmp_path, shape=f"1,{channels},6,8", channels=channels))
    aipp = parameters(1, fmt=fmt)
    assert acl.mdl.set_aipp_rbuv_swap_switch(aipp, rbuv) == 0
    assert acl.mdl.set_aipp_ax_swap_switch(aipp, ax) == 0
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == 0
    layout = LAYOUTS[fmt, rbuv, ax]
    image = RNG.integers(0, 256, (1, 6, 8, len(layout)), np.uint8)
    client.put(image)
    assert client.execute() == 0
    np.testing.assert_array_equal(client.get(0), -expected(image, layout, (1, channels, 6, 8), [{}]))


def test_every_image_has_its_own_crop_padding_and_norms(tmp_path):
    """Two images of 12 x 10 lead to 8 x 6: one by a crop, one by a smaller crop and padding on all sides."""
    client = Client(dynamic(tmp_path))
    aipp = parameters(2, width=12, height=10)
    assert acl.mdl.set_aipp_crop_params(aipp, 1, 3, 4, 8, 6, 0) == 0
    assert acl.mdl.set_aipp_crop_params(aipp, 1, 7, 5, 5, 3, 1) == 0
    assert acl.mdl.set_aipp_padding_params(aipp, 1, 2, 1, 3, 0, 1) == 0  # top, bottom, left, right
    assert acl.mdl.set_aipp_dtc_pixel_mean(aipp, 10, 20, 30, 40, 0) == 0
    assert acl.mdl.set_aipp_dtc_pixel_mean(aipp, 104, 117, 123, 0, 1) == 0
    assert acl.mdl.set_aipp_dtc_pixel_min(aipp, 0.5, 1.3, 0, 0, 1) == 0
    assert acl.mdl.set_aipp_pixel_var_reci(aipp, 0.017, 0.0175, -2.0, 1.0, 1) == 0
    assert acl.mdl.set_aipp_by_input_index(client.model, client.inputs, 0, aipp) == 0
    images = RNG.integers(0, 256, (2, 10, 12, 3), np.uint8)
    client.put(images)
    assert client.execute() == 0
    steps = [
        {"at": (3, 4), "mean": (10, 20, 30)},
        {
            "at": (7, 5),
            "inner": (2, 3, 3, 5),
            "mean": (104, 117, 123),
            "min": (0.5, 1.3, 0),
            "var": (0.017, 0.0175, -2.0),
        },
    ]
    np.testing.assert_allclose(client.get(0), -expected(images, "RGB", (2, 3, 6, 8), steps), rtol=1e-6, atol=1e-5)


def test_one_set_serves_every_gear_and_every_execution(tmp_path):
    """The parameters are for the largest gear, 4; each gear takes those of its first images."""
    client = Client(dynamic(tmp_path, shape="-1,3,6,8", gears="1,4,2", size=4 * 6 * 8 * 3))
    aipp = parameters(4)
    means = [(n, 2 * n, 3 * n) for n in (1, 5, 20, 40)]
    for index, mean in enumerate(means):
        assert acl.mdl.set_aipp_dtc_pixel_mean(aipp, *mean, 0, index) == 0
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 2, aipp) == 0
    assert acl.mdl.destroy_aipp(aipp) == 0  # its bytes lie in the buffer
    images = RNG.integers(0, 256, (4, 6, 8, 3), np.uint8)
    client.put(images)
    for batch in (4, 1, 2, 4):
        assert client.set_batch(batch) == 0
        assert client.execute() == 0
        want = expected(images, "RGB", (batch, 3, 6, 8), [{"mean": mean} for mean in means[:batch]])
        np.testing.assert_array_equal(client.get(0), -want)
    assert testing.ledger().launches == {"model": {"4": 2, "1": 1, "2": 1}}


def test_new_parameters_and_switched_off_steps_count_from_the_next_execution(tmp_path):
    client = Client(dynamic(tmp_path, shape="1,3,6,8"))
    aipp = parameters(1, width=9, height=7)
    assert acl.mdl.set_aipp_crop_params(aipp, 1, 1, 1, 8, 6, 0) == 0
    image = RNG.integers(0, 256, (1, 7, 9, 3), np.uint8)
    client.put(image)
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == 0
    assert client.execute() == 0
    np.testing.assert_array_equal(client.get(0), -expected(image, "RGB", (1, 3, 6, 8), [{"at": (1, 1)}]))
    assert acl.mdl.set_aipp_src_image_size(aipp, 8, 6) == 0
    assert acl.mdl.set_aipp_crop_params(aipp, 0, -9, -9, -9, -9, 0) == 0, "switched off, the rest is not looked at"
    assert acl.mdl.set_aipp_padding_params(aipp, 1, 1, 1, 1, 1, 0) == 0
    assert acl.mdl.set_aipp_padding_params(aipp, 0, 99, 99, 99, 99, 0) == 0
    assert client.execute() == 0, "the old parameters still lie in the buffer"
    np.testing.assert_array_equal(client.get(0), -expected(image, "RGB", (1, 3, 6, 8), [{"at": (1, 1)}]))
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == 0
    small = image[:, :6, :8]
    client.put(small)
    assert client.execute() == 0
    np.testing.assert_array_equal(client.get(0), -expected(small, "RGB", (1, 3, 6, 8), [{}]))


def test_a_half_precision_input(tmp_path):
    client = Client(dynamic(tmp_path, shape="1,3,6,8", kind=F16))
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, parameters(1)) == 0
    image = RNG.integers(0, 256, (1, 6, 8, 3), np.uint8)
    client.put(image)
    assert client.execute() == 0
    np.testing.assert_array_equal(client.get(0, np.float16), -expected(image, "RGB", (1, 3, 6, 8), [{}]))


def two_images(tmp_path):
    """Inputs a (dynamic AIPP), b (plain), c (dynamic AIPP): y = a + b + c."""
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Add", ["s", "c"], ["y"])]
    shape = [1, 1, 2, 4]
    model = build(nodes, [(name, F32, shape) for name in "abc"], [("y", F32, shape)])
    conf = tmp_path / "two.cfg"
    conf.write_text(
        "aipp_op { aipp_mode: dynamic max_src_image_size: 100 related_input_rank: 2 }"
        "aipp_op { aipp_mode: dynamic max_src_image_size: 64 related_input_rank: 0 }"
    )
    return convert(tmp_path, model, f"--insert_op_conf={conf}", name="two")


def test_two_inputs_with_dynamic_aipp_and_a_plain_one(tmp_path):
    client = Client(two_images(tmp_path))
    names = [acl.mdl.get_input_name_by_index(client.desc, index) for index in range(acl.mdl.get_num_inputs(client.desc))]
    assert names == ["a", "b", "c", "ascend_dynamic_aipp_data", "ascend_dynamic_aipp_data_aipp_node1"]
    assert [acl.mdl.get_aipp_type(client.model, index) for index in range(5)] == [
        (2, 3, 0), (0, 0xFFFFFFFF, 0), (2, 4, 0), (3, 0xFFFFFFFF, 0), (3, 0xFFFFFFFF, 0),
    ]  # fmt: skip
    assert client.input_sizes == [64, 32, 100, 160, 160]
    for index, mean in ((0, 1), (2, 100)):
        aipp = parameters(1, fmt=GREY, width=4, height=2)
        assert acl.mdl.set_aipp_dtc_pixel_mean(aipp, mean, 0, 0, 0, 0) == 0
        assert acl.mdl.set_aipp_by_input_index(client.model, client.inputs, index, aipp) == 0
    client.put(np.full(8, 7, np.uint8), np.full(8, 0.25, np.float32), np.arange(8, dtype=np.uint8))
    assert client.execute() == 0
    np.testing.assert_array_equal(client.get(0).ravel(), 7 - 1 + 0.25 + np.arange(8) - 100)


# What the interface shows


def test_what_a_static_batch_shows(tmp_path):
    client = Client(dynamic(tmp_path, size=777))
    assert acl.mdl.get_num_inputs(client.desc) == 2
    assert acl.mdl.get_input_index_by_name(client.desc, "ascend_dynamic_aipp_data") == (1, 0)
    assert client.input_sizes == [777, 64 + 2 * 96]
    assert acl.mdl.get_aipp_data_size(2) == (64 + 2 * 96, 0)
    assert [acl.mdl.get_input_data_type(client.desc, index) for index in (0, 1)] == [4, 4]
    assert [acl.mdl.get_input_format(client.desc, index) for index in (0, 1)] == [1, 2]
    for query in (acl.mdl.get_input_dims, acl.mdl.get_input_dims_v2):
        assert query(client.desc, 0) == ({"name": "x", "dimCount": 4, "dims": [2, -1, -1, -1]}, 0)
        assert query(client.desc, 1)[0]["dims"] == [256]
    assert acl.mdl.get_aipp_type(client.model, 2) == (0, 0, 100000)
    assert acl.mdl.get_aipp_type(99, 0) == (0, 0, 145003)


def test_the_gear_input_comes_before_the_aipp_input(tmp_path):
    client = Client(dynamic(tmp_path, shape="-1,3,6,8", gears="1,8,2", size=5000))
    names = [acl.mdl.get_input_name_by_index(client.desc, index) for index in range(3)]
    assert names == ["x", "ascend_mbatch_shape_data", "ascend_dynamic_aipp_data"]
    assert client.input_sizes == [5000, 4, acl.mdl.get_aipp_data_size(8)[0]]
    assert acl.mdl.get_input_dims(client.desc, 0)[0]["dims"] == [-1, -1, -1, -1]
    assert [acl.mdl.get_aipp_type(client.model, index)[:2] for index in range(3)] == [
        (2, 2), (0, 0xFFFFFFFF), (3, 0xFFFFFFFF),
    ]  # fmt: skip


def test_first_aipp_info_of_dynamic_aipp(tmp_path):
    client = Client(dynamic(tmp_path, shape="-1,3,6,8", gears="1,4"))
    info, ret = acl.mdl.get_first_aipp_info(client.model, 0)
    assert ret == 0
    told = {name: info.pop(name) for name in ("srcFormat", "srcDatatype", "srcDimNum", "shapeCount", "outDims")}
    assert not any(info.values()), "of dynamic AIPP the rest is not valid"
    assert (told["srcFormat"], told["srcDatatype"], told["srcDimNum"], told["shapeCount"]) == (0, 0, 4, 2)
    assert [entry["srcDims"] for entry in told["outDims"]] == [
        {"name": "x", "dimCount": 4, "dims": [batch, 3, 6, 8]} for batch in (1, 4)
    ]
    assert [entry["srcSize"] for entry in told["outDims"]] == [batch * 3 * 6 * 8 * 4 for batch in (1, 4)]
    for index in (1, 2):
        assert acl.mdl.get_first_aipp_info(client.model, index) == (None, 145015)
        assert "has no AIPP" in message()
    assert acl.mdl.get_first_aipp_info(client.model, 3) == (None, 100000)
    assert acl.mdl.get_first_aipp_info(99, 0) == (None, 145003)


# What a set refuses, and what it says


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("set_aipp_input_format", (0,), "0 is no AIPP input format"),
        ("set_aipp_input_format", (15,), "15 is no AIPP input format"),
        ("set_aipp_src_image_size", (1, 6), r"the width must be 2\.\.4096, got 1"),
        ("set_aipp_src_image_size", (4097, 6), "got 4097"),
        ("set_aipp_src_image_size", (2, 0), r"the height must be 1\.\.4096, got 0"),
        ("set_aipp_src_image_size", (2, 4097), "the height"),
        ("set_aipp_rbuv_swap_switch", (2,), r"a switch must be 0\.\.1, got 2"),
        ("set_aipp_ax_swap_switch", (255,), "a switch"),
        ("set_aipp_csc_params", (2, *[0] * 15), "a switch"),
        ("set_aipp_csc_params", (1, 32677, *[0] * 14), "a matrix element must be -32677..32676, got 32677"),
        ("set_aipp_csc_params", (1, *[0] * 8, -32678, *[0] * 6), "a matrix element"),
        ("set_aipp_crop_params", (2, 0, 0, 4, 4, 0), "a switch"),
        ("set_aipp_crop_params", (1, -1, 0, 4, 4, 0), r"a crop position must be 0\.\.4095, got -1"),
        ("set_aipp_crop_params", (1, 0, 4096, 4, 4, 0), "a crop position"),
        ("set_aipp_crop_params", (1, 0, 0, 0, 4, 0), r"a crop size must be 1\.\.4096, got 0"),
        ("set_aipp_crop_params", (1, 0, 0, 4, 4097, 0), "a crop size"),
        ("set_aipp_padding_params", (3, 0, 0, 0, 0, 0), "a switch"),
        ("set_aipp_padding_params", (1, -1, 0, 0, 0, 0), r"padding must be 0\.\.32, got -1"),
        ("set_aipp_padding_params", (1, 0, 33, 0, 0, 0), "padding"),
        ("set_aipp_padding_params", (1, 0, 0, 33, 0, 0), "padding"),
        ("set_aipp_padding_params", (1, 0, 0, 0, 33, 0), "padding"),
        ("set_aipp_scf_params", (2, 16, 16, 16, 16, 0), "a switch"),
        ("set_aipp_scf_params", (1, 15, 16, 16, 16, 0), r"a resize size must be 16\.\.4096, got 15"),
        ("set_aipp_scf_params", (1, 16, 4097, 16, 16, 0), "a resize size"),
        ("set_aipp_scf_params", (1, 16, 16, 1921, 16, 0), r"the resized width must be 16\.\.1920, got 1921"),
        ("set_aipp_scf_params", (1, 16, 16, 16, 15, 0), "a resize size"),
        ("set_aipp_dtc_pixel_mean", (0, -1, 0, 0, 0), r"a mean must be 0\.\.255, got -1"),
        ("set_aipp_dtc_pixel_mean", (0, 0, 0, 256, 0), "got 256"),
        ("set_aipp_dtc_pixel_min", (0, -0.5, 0, 0, 0), r"a minimum must be 0\.\.255, got -0.5"),
        ("set_aipp_dtc_pixel_min", (255.5, 0, 0, 0, 0), "a minimum"),
        ("set_aipp_dtc_pixel_min", (float("nan"), 0, 0, 0, 0), "a minimum"),
        ("set_aipp_pixel_var_reci", (0, 65505, 0, 0, 0), r"a reciprocal variance must be -65504\.\.65504, got 65505"),
        ("set_aipp_pixel_var_reci", (0, 0, 0, float("-inf"), 0), "a reciprocal variance"),
    ],
)  # fmt: skip
def test_ranges(name, arguments, text):
    aipp = acl.mdl.create_aipp(1)
    call = getattr(acl.mdl, name)
    assert call(aipp, *arguments) == 100000
    assert re.search(text, message())
    assert call(0, *arguments) == 100000
    assert "the aipp is null" in message()


BY_IMAGE = {
    "set_aipp_crop_params": (0, 0, 0, 0, 0),
    "set_aipp_padding_params": (0, 0, 0, 0, 0),
    "set_aipp_scf_params": (0, 0, 0, 0, 0),
    "set_aipp_dtc_pixel_mean": (0, 0, 0, 0),
    "set_aipp_dtc_pixel_min": (0, 0, 0, 0),
    "set_aipp_pixel_var_reci": (0, 0, 0, 0),
}


@pytest.mark.parametrize("name", BY_IMAGE)
def test_the_batch_index_is_below_the_batch(name):
    aipp = acl.mdl.create_aipp(3)
    call = getattr(acl.mdl, name)
    assert call(aipp, *BY_IMAGE[name], 2) == 0
    for index in (3, -1):  # -1 is the largest index there is
        assert call(aipp, *BY_IMAGE[name], index) == 100000
        assert "create_aipp was for 3 images" in message()


def test_the_ends_of_the_ranges_are_inside():
    aipp = acl.mdl.create_aipp(1)
    for number in range(2, 15):
        assert acl.mdl.set_aipp_input_format(aipp, number) == 0
    for size in ((2, 1), (4096, 4096)):
        assert acl.mdl.set_aipp_src_image_size(aipp, *size) == 0
    assert acl.mdl.set_aipp_crop_params(aipp, 1, 4095, 0, 1, 4096, 0) == 0
    assert acl.mdl.set_aipp_padding_params(aipp, 1, 0, 32, 0, 32, 0) == 0
    assert acl.mdl.set_aipp_scf_params(aipp, 1, 16, 4096, 1920, 4096, 0) == 0
    assert acl.mdl.set_aipp_dtc_pixel_mean(aipp, 0, 255, 0, 255, 0) == 0
    assert acl.mdl.set_aipp_dtc_pixel_min(aipp, 0.0, 255, 0, 255.0, 0) == 0
    assert acl.mdl.set_aipp_pixel_var_reci(aipp, -65504, 65504, 0, 1, 0) == 0
    assert acl.mdl.set_aipp_csc_params(aipp, 0, *[-32768] * 9, *[300] * 6) == 0, "biases wrap, an idle matrix is not looked at"


def test_sizes_of_the_parameters():
    assert [acl.mdl.get_aipp_data_size(batch) for batch in (1, 2, 16)] == [(160, 0), (256, 0), (1600, 0)]
    assert acl.mdl.get_aipp_data_size(0) == (0, 100000)
    assert acl.mdl.get_aipp_data_size(1 << 63) == (0, 100000)
    assert "a batch of 9223372036854775808 images" in message()


def test_create_refuses_a_batch_of_none_and_one_beyond_memory():
    assert acl.mdl.create_aipp(0) == 0
    assert acl.mdl.create_aipp(-1) == 0
    assert "it must be 1..65536" in message()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda aipp: acl.mdl.set_aipp_input_format(aipp, 1), "YUV420SP_U8 is not simulated"),
        (lambda aipp: acl.mdl.set_aipp_csc_params(aipp, 1, *[0] * 15), r"colour conversion \(csc\) is not simulated"),
    ],
)
def test_what_is_not_simulated_says_so_at_the_set(call, text):
    with pytest.raises(NotImplementedError, match=text):
        call(acl.mdl.create_aipp(1))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("create_aipp", ()),
        ("create_aipp", (np.int64(1),)),
        ("get_aipp_data_size", ("1",)),
        ("set_aipp_src_image_size", (0, 8.0, 6)),
        ("set_aipp_rbuv_swap_switch", (0, 256)),
        ("set_aipp_crop_params", (0, 1, 0, 0, 8, 6)),
        ("set_aipp_dtc_pixel_mean", (0, 1 << 15, 0, 0, 0, 0)),
        ("set_aipp_csc_params", (0, 0, *[0] * 14)),
        ("set_input_aipp", (1, 0, 0)),
    ],
)
def test_arguments_that_do_not_parse(name, arguments):
    with pytest.raises(TypeError, match=rf"acl\.mdl\.{name} args parse failed!"):
        getattr(acl.mdl, name)(*arguments)


# Handles


def test_a_forgotten_handle_is_a_leak_that_names_its_place():
    acl.mdl.create_aipp(1)
    (leak,) = [leak for leak in testing.ledger().leaks if leak.kind == "aipp"]
    assert "test_dynamic_aipp.py" in leak.site
    assert acl.mdl.destroy_aipp(0) == 100000


def test_use_after_destroy_and_a_handle_of_another_kind():
    aipp = acl.mdl.create_aipp(1)
    assert acl.mdl.destroy_aipp(aipp) == 0
    with pytest.raises(Violation, match=r"stale handle.*was destroyed at .*test_dynamic_aipp\.py"):
        acl.mdl.set_aipp_rbuv_swap_switch(aipp, 1)
    with pytest.raises(Violation, match="stale handle"):
        acl.mdl.destroy_aipp(aipp)
    with pytest.raises(Violation, match=r"wrong handle.*is a dataset"):
        acl.mdl.set_aipp_src_image_size(acl.mdl.create_dataset(), 8, 6)
    restart(strict=False)
    assert acl.mdl.set_aipp_ax_swap_switch(12345, 1) == 100000


# Handing the parameters over


@pytest.fixture
def client(tmp_path):
    return Client(dynamic(tmp_path, size=2 * 12 * 10 * 3))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: None, "the input format is not set"),
        (lambda a: acl.mdl.set_aipp_input_format(a, 7), r"takes RGB888_U8, .*, not format 7 \(ARGB8888_U8\)"),
        (lambda a: acl.mdl.set_aipp_input_format(a, RGB), "the size of the source images is not set"),
        (lambda a: ready(a, 12, 11), "2 source images take 792 bytes, max_src_image_size is 720"),
        (lambda a: ready(a, 8, 7), r"image 0: AIPP makes 8x7 \(width x height\), the model's input is 8x6"),
        (lambda a: ready(a, 8, 6, XRGB) or acl.mdl.set_aipp_padding_params(a, 1, 1, 0, 0, 0, 0), "image 0: AIPP makes 8x7"),
        (lambda a: ready(a, 8, 6) or acl.mdl.set_aipp_padding_params(a, 1, 1, 0, 0, 0, 1), "image 1: AIPP makes 8x7"),
        (lambda a: ready(a, 10, 8) or crops(a, (3, 0, 8, 6), (0, 0, 8, 6)), "image 0: the crop 8x6 at 3,0 leaves 10x8"),
        (lambda a: ready(a, 10, 8) or crops(a, (2, 2, 8, 6), (0, 3, 8, 6)), "image 1: the crop 8x6 at 0,3 leaves 10x8"),
        (lambda a: ready(a, 8, 6, GREY), "image 0: YUV400_U8 does not fit an input of 3 channels"),
        (lambda a: ready(a, 8, 6) or acl.mdl.set_aipp_scf_params(a, 1, 16, 16, 16, 16, 1), "image 1: dynamic AIPP does not"),
    ],
)  # fmt: skip
def test_parameters_that_do_not_lead_to_the_input(client, change, text):
    aipp = acl.mdl.create_aipp(2)
    assert not change(aipp)
    for call, index in ((acl.mdl.set_input_aipp, 1), (acl.mdl.set_aipp_by_input_index, 0)):
        assert call(client.model, client.inputs, index, aipp) == 100000
        assert re.search(text, message())
    with pytest.raises(Violation, match="no AIPP set"):
        client.execute()  # nothing was written


def ready(aipp, width, height, fmt=RGB):
    return acl.mdl.set_aipp_input_format(aipp, fmt) or acl.mdl.set_aipp_src_image_size(aipp, width, height)


def crops(aipp, *boxes):
    return any(acl.mdl.set_aipp_crop_params(aipp, 1, *box, index) for index, box in enumerate(boxes))


def test_a_resize_switched_off_again_is_none(client):
    aipp = parameters(2)
    acl.mdl.set_aipp_scf_params(aipp, 1, 16, 16, 16, 16, 1)
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == 100000
    acl.mdl.set_aipp_scf_params(aipp, 0, 0, 0, 0, 0, 1)
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == 0


@pytest.mark.parametrize(("soc", "code"), [("Ascend310P3", 100000), ("Ascend910B4", 100000), ("Ascend310B1", 0)])
def test_a_padded_image_is_at_most_1080_across(tmp_path, soc, code):
    path = dynamic(tmp_path, shape="1,1,1,1081", channels=1, height=1, width=1081)
    restart(soc_name=soc)
    client = Client(path)
    whole, padded = parameters(1, fmt=GREY, width=1081, height=1), parameters(1, fmt=GREY, width=1080, height=1)
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, whole) == 0, "without padding there is no such limit"
    assert acl.mdl.set_aipp_padding_params(padded, 1, 0, 0, 1, 0, 0) == 0
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, padded) == code
    if code:
        assert "image 0: 1081 pixels across, a padded image has at most 1080" in message()


@pytest.mark.parametrize("batch", [1, 3])
def test_create_aipp_was_for_another_batch(client, batch):
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, parameters(batch)) == 100000
    assert f"create_aipp was for {batch} images, the largest batch of the model has 2" in message()


def test_with_gears_the_batch_is_the_largest(tmp_path):
    client = Client(dynamic(tmp_path, shape="-1,3,6,8", gears="1,4,2"))
    for batch, code in ((1, 100000), (2, 100000), (4, 0)):
        assert acl.mdl.set_input_aipp(client.model, client.inputs, 2, parameters(batch)) == code


def test_null_unknown_and_wrong_indexes(client, tmp_path):
    aipp = parameters(2)
    for call, index in ((acl.mdl.set_input_aipp, 1), (acl.mdl.set_aipp_by_input_index, 0)):
        assert call(client.model, 0, index, aipp) == 100000
        assert "the dataset is null" in message()
        assert call(client.model, client.inputs, index, 0) == 100000
        assert "the aipp is null" in message()
        assert call(99, client.inputs, index, aipp) == 145003
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 0, aipp) == 100000
    assert "input 0 of model 1 takes no AIPP parameters" in message()
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 2, aipp) == 100000
    assert "input 2: the model has 2" in message()
    assert acl.mdl.set_aipp_by_input_index(client.model, client.inputs, 1, aipp) == 500001
    assert "input 1 of model 1 has no dynamic AIPP" in message()
    assert acl.mdl.set_aipp_by_input_index(client.model, client.inputs, 2, aipp) == 100000
    assert "buffer 2: the dataset has 2" in message()
    (tmp_path / "static.cfg").write_text("aipp_op { aipp_mode: static input_format: RGB888_U8 }")
    for name, flags in (("plain", ()), ("static", (f"--insert_op_conf={tmp_path / 'static.cfg'}",))):
        without = Client(convert(tmp_path, neg(), "--input_shape=x:2,3,6,8", *flags, name=name))
        assert acl.mdl.set_input_aipp(without.model, without.inputs, 0, aipp) == 100000
        assert acl.mdl.set_aipp_by_input_index(without.model, without.inputs, 0, aipp) == 500001


def test_the_buffer_of_the_parameters(client):
    aipp = parameters(2)
    short = acl.mdl.create_dataset()
    acl.mdl.add_dataset_buffer(short, acl.mdl.get_dataset_buffer(client.inputs, 0))
    assert acl.mdl.set_input_aipp(client.model, short, 1, aipp) == 100000
    assert "buffer 1: the dataset has 1" in message()
    assert acl.mdl.set_aipp_by_input_index(client.model, short, 0, aipp) == 100000
    buffer = acl.mdl.get_dataset_buffer(client.inputs, 1)
    address = acl.get_data_buffer_addr(buffer)
    for size, where, code, text in ((255, address, 145012, "255 bytes, 256 are needed"), (256, 0, 100000, "null address")):
        assert acl.update_data_buffer(buffer, where, size) == 0
        assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == code
        assert text in message()


# Executing


def test_parameters_never_set(client, tmp_path):
    client.put(np.zeros((2, 6, 8, 3), np.uint8))
    with pytest.raises(Violation, match="no set_input_aipp wrote it"):
        client.execute()
    restart(strict=False)
    again = Client(tmp_path / "model.om")
    again.put(np.zeros((2, 6, 8, 3), np.uint8))
    assert again.execute() == 507011, "what lies there is no set of parameters"
    assert "these are no AIPP parameters" in message()
    assert [record.rule for record in testing.ledger().violations] == ["no AIPP set", "bad AIPP parameters"]


def test_parameters_written_by_hand(client, tmp_path):
    restart(strict=False)
    client = Client(tmp_path / "model.om")
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, parameters(2)) == 0
    images = RNG.integers(0, 256, (2, 6, 8, 3), np.uint8)
    other = DynamicAipp([AippConfig(mean=(9.0, 9.0, 9.0, 9.0))] * 2, RGB, 8, 6).to_bytes()
    client.put(images, np.frombuffer(other, np.uint8))
    assert client.execute() == 0, "what lies there is what counts"
    np.testing.assert_array_equal(client.get(0), -expected(images, "RGB", (2, 3, 6, 8), [{"mean": (9, 9, 9)}] * 2))
    assert [record.rule for record in testing.ledger().violations] == ["AIPP input written"]


def test_parameters_of_another_model(client, tmp_path):
    """Two models share a buffer; the one set last was of another size."""
    other = Client(dynamic(tmp_path, shape="2,3,4,4", height=4, width=4, name="other"))
    shared = acl.mdl.get_dataset_buffer(other.inputs, 1)
    acl.update_data_buffer(shared, client.address(client.inputs, 1), client.input_sizes[1])
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, parameters(2)) == 0
    with pytest.raises(Violation, match=r"bad AIPP parameters.*AIPP makes 8x6 .*, the model's input is 4x4"):
        other.execute()


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (1, "parameters of 1 images where the largest batch has 2"),
        (3, "AIPP parameters of 3 images take 352 bytes, there are 256"),
    ],
)
def test_parameters_of_another_batch(client, tmp_path, batch, text):
    other = Client(dynamic(tmp_path, shape=f"{batch},3,6,8", name="other"))
    shared = acl.mdl.get_dataset_buffer(client.inputs, 1)
    acl.update_data_buffer(shared, acl.rt.malloc(400, 0)[0], 400)
    acl.update_data_buffer(acl.mdl.get_dataset_buffer(other.inputs, 1), acl.get_data_buffer_addr(shared), 400)
    assert acl.mdl.set_input_aipp(other.model, other.inputs, 1, parameters(batch)) == 0
    with pytest.raises(Violation, match=rf"bad AIPP parameters.*{text}"):
        client.execute()


def test_sizes_are_not_checked_but_images_must_lie_in_the_buffer(tmp_path):
    """3.5: no size check; the buffer holds as many images as the largest gear, whatever gear runs."""
    client = Client(dynamic(tmp_path, shape="-1,3,6,8", gears="1,4", size=5000))
    buffer, address = acl.mdl.get_dataset_buffer(client.inputs, 0), client.address(client.inputs, 0)
    client.put(RNG.integers(0, 256, (4, 6, 8, 3), np.uint8))
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 2, parameters(4)) == 0
    assert client.set_batch(1) == 0
    assert acl.update_data_buffer(buffer, address, 4 * 6 * 8 * 3) == 0
    assert client.execute() == 0
    assert acl.update_data_buffer(buffer, address, 4 * 6 * 8 * 3 - 1) == 0
    with pytest.raises(Violation, match=r"short buffer.*575 bytes, gear 1 reads 576"):
        client.execute()


def test_a_static_batch_is_not_size_checked_either(client):
    buffer, address = acl.mdl.get_dataset_buffer(client.inputs, 0), client.address(client.inputs, 0)
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, parameters(2)) == 0
    client.put(np.zeros((2, 6, 8, 3), np.uint8))
    assert acl.update_data_buffer(buffer, address, 2 * 6 * 8 * 3) == 0
    assert client.input_sizes[0] - 2 * 6 * 8 * 3 > 64, "a static model would answer 500002"
    assert client.execute() == 0


def test_a_set_behind_the_back_of_a_queued_execution(client):
    aipp = parameters(2)
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == 0
    images = RNG.integers(0, 256, (2, 6, 8, 3), np.uint8)
    client.put(images)
    assert acl.mdl.execute_async(client.model, client.inputs, client.outputs, 0) == 0
    with pytest.raises(Violation, match="set of AIPP parameters"):
        acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp)
    assert acl.rt.synchronize_stream(0) == 0
    np.testing.assert_array_equal(client.get(0), -expected(images, "RGB", (2, 3, 6, 8), [{}, {}]))


def test_the_whole_flow_leaves_nothing_behind(client):
    aipp = parameters(2)
    assert acl.mdl.set_input_aipp(client.model, client.inputs, 1, aipp) == 0
    client.put(np.zeros((2, 6, 8, 3), np.uint8))
    assert client.execute() == 0
    assert acl.mdl.destroy_aipp(aipp) == 0
    client.close()
    acl.rt.reset_device(0)
    acl.finalize()
    testing.assert_clean()


# The bytes


def test_parameters_round_trip_and_refuse_what_is_none():
    images = [
        AippConfig(crop=True, crop_size_w=8, crop_size_h=6),
        AippConfig(padding=True, left_padding_size=3, mean=(1.0,) * 4),
    ]
    aipp = DynamicAipp(images, XRGB, 8, 6, rbuv_swap=True)
    data = aipp.to_bytes()
    assert len(data) == _dynamic_aipp.data_bytes(2)
    common = {"input_format": "XRGB8888_U8", "src_image_size_w": 8, "src_image_size_h": 6, "rbuv_swap_switch": True}
    assert _dynamic_aipp.parse(data) == [dataclasses.replace(image, **common) for image in images]
    for damaged, text in (
        (b"", "no AIPP parameters"),
        (b"\xff" * 256, "no AIPP parameters"),
        (data[:-1], "of 2 images take 256 bytes, there are 255"),
        (data[:12] + b"\x09" + data[13:], "'YUV422SP_U8' is not simulated"),
        (data[:12] + b"\xff" + data[13:], "'255' is not simulated"),
        (data[:16] + b"\xff" * 48 + data[64:], "src_image_size_w must be 2..4096"),
        (data[:64] + b"\xff" * 192, "load_start_pos_w must be 0..4096, got -1"),
    ):
        with pytest.raises(AippError, match=text):
            _dynamic_aipp.parse(damaged)


# The converter


@pytest.mark.parametrize(
    ("conf", "flags", "model", "code", "text"),
    [
        ("aipp_mode: dynamic", (), neg(), "E10001", "dynamic AIPP needs max_src_image_size"),
        ("aipp_mode: dynamic max_src_image_size: -1", (), neg(), "E10001", r"must be 0\.\.2147483647, got -1"),
        ("aipp_mode: dynamic max_src_image_size: 2147483648", (), neg(), "E10001", "max_src_image_size must be"),
        ("aipp_mode: dynamic max_src_image_size: 9 related_input_rank: 1", (), neg(), "E10001", "the model has 1 inputs"),
        ("aipp_mode: dynamic max_src_image_size: 9", (), neg(2), "E10001", "fits an input of 2 channels"),
        ("aipp_mode: dynamic max_src_image_size: 9", (), neg(kind=TensorProto.INT32), "E10001", "floating-point NCHW"),
        ("aipp_mode: dynamic max_src_image_size: 9", ("--input_format=ND",), neg(), "E10001", "floating-point NCHW"),
        (
            "aipp_mode: dynamic max_src_image_size: 9",
            ("--input_shape=x:1,3,-1,-1", "--dynamic_image_size=6,8;8,8"),
            neg(3, "h", "w", 1),
            "E19999",
            "AIPP together with image gears",
        ),
    ],
)  # fmt: skip
def test_the_converter_refuses(tmp_path, conf, flags, model, code, text):
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "a.cfg").write_text(f"aipp_op {{ {conf} }}")
    if not any(flag.startswith("--input_shape") for flag in flags):
        channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        flags = (*flags, f"--input_shape=x:2,{channels},6,8")
    status, out, _ = run_atc(
        f"--model={tmp_path / 'm.onnx'}", "--framework=5", f"--output={tmp_path / 'm'}", "--soc_version=Ascend310P3",
        f"--insert_op_conf={tmp_path / 'a.cfg'}", *flags,
    )  # fmt: skip
    assert status == 255
    assert code in out
    assert re.search(text, out)


def test_the_file_keeps_it(tmp_path):
    model = _om.read(dynamic(tmp_path, shape="-1,3,6,8", gears="2,8,4", size=4321))
    assert isinstance(model, _om.Model)
    assert model.aipp == (AippConfig(aipp_mode="dynamic", max_src_image_size=4321),)
    assert model.dynamic_aipp == (0,)
    assert model.largest_batch(0) == 8
    assert _om.parse(_om.dump(model)) == model


def test_hostile_files(tmp_path):
    model = _om.read(dynamic(tmp_path))
    assert isinstance(model, _om.Model)
    with pytest.raises(OmDataError, match="batch gears only"):
        dataclasses.replace(
            model, gear_kind=GearKind.RANGE, ranges=(((1, 2), (3, 3), (6, 6), (8, 8)),),
            inputs=(dataclasses.replace(model.inputs[0], dims=(-1, 3, 6, 8)),),
        )  # fmt: skip
    with pytest.raises(OmDataError, match="fits an input of 5 channels"):
        dataclasses.replace(model, inputs=(dataclasses.replace(model.inputs[0], dims=(2, 5, 6, 8)),))
    with pytest.raises(OmDataError, match="unfit for AIPP"):
        dataclasses.replace(model, inputs=(dataclasses.replace(model.inputs[0], acl_type=3),))
    fields = model.aipp[0].to_fields()
    for change, text in (
        ({"max_src_image_size": 0}, "needs max_src_image_size"),
        ({"max_src_image_size": 1 << 31}, "max_src_image_size must be"),
        ({"max_src_image_size": True}, "expected int"),
        ({"ax_swap_switch": 1}, "expected bool"),
        ({"aipp_mode": "other"}, "static or dynamic"),
    ):
        with pytest.raises(AippError, match=text):
            AippConfig.from_fields({**fields, **change})
