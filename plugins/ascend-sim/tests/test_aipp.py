from __future__ import annotations

import numpy as np
import pytest

from acl_sim._aipp import AippConfig, AippError, parse_config

RNG = np.random.default_rng(21)
FULL = """
# a comment
aipp_op {
    aipp_mode: static
    related_input_rank: 0
    input_format: RGB888_U8
    src_image_size_w: 12   src_image_size_h: 10
    crop: true
    load_start_pos_w: 2
    load_start_pos_h: 1
    crop_size_w: 8
    crop_size_h: 6
    padding: true
    left_padding_size: 1
    right_padding_size: 2
    top_padding_size: 3
    bottom_padding_size: 4
    padding_value: 0.5
    rbuv_swap_switch: true
    csc_switch: false
    matrix_r0c0: 256
    mean_chn_0: 104  mean_chn_1: 117  mean_chn_2: 123
    min_chn_0: -0.5
    var_reci_chn_0: 0.0170
    var_reci_chn_1: 0.0175
    var_reci_chn_2: 0.0174
}
"""


def test_everything_at_once():
    (config,) = parse_config(FULL)
    shape = (2, 3, 6 + 7, 8 + 3)
    assert config.source_shape(shape) == (2, 10, 12, 3)
    images = RNG.integers(0, 256, (2, 10, 12, 3), np.uint8)
    got = config.apply(images, shape, np.dtype(np.float32))
    expected = np.full(shape, 0.5, np.float32)
    for n in range(2):
        for c, (mean, low, scale) in enumerate([(104, -0.5, 0.0170), (117, 0, 0.0175), (123, 0, 0.0174)]):
            pixels = images[n, 1:7, 2:10, 2 - c].astype(np.float64)  # red and blue swapped
            expected[n, c, 3:9, 1:9] = (pixels - mean - low) * scale
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert got.flags.c_contiguous


def test_without_anything_pixels_are_only_reordered():
    (config,) = parse_config("aipp_op: { aipp_mode: static input_format: RGB888_U8 }")
    images = RNG.integers(0, 256, (1, 4, 5, 3), np.uint8)
    got = config.apply(images, (1, 3, 4, 5), np.dtype(np.float16))
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("rbuv", "ax", "layout"), [(False, False, "RGBX"), (True, False, "BGRX"), (False, True, "XRGB"), (True, True, "XBGR")]
)
def test_the_four_layouts_of_xrgb(rbuv, ax, layout):
    images = RNG.integers(0, 256, (1, 4, 5, 4), np.uint8)
    config = AippConfig(input_format="XRGB8888_U8", rbuv_swap_switch=rbuv, ax_swap_switch=ax)
    assert config.source_shape((1, 3, 4, 5)) == (1, 4, 5, 4)
    planes = {colour: images[0, :, :, at] for at, colour in enumerate(layout)}
    for channels in (3, 4):
        got = config.apply(images, (1, channels, 4, 5), np.dtype("f4"))
        assert got.shape == (1, channels, 4, 5)
        for plane, colour in zip(got[0], "RGBX", strict=False):
            np.testing.assert_array_equal(plane, planes[colour])


def test_grey_has_one_byte_and_nothing_to_swap():
    images = RNG.integers(0, 256, (1, 4, 5, 1), np.uint8)
    grey = AippConfig(input_format="YUV400_U8", mean=(3.0, 0.0, 0.0, 0.0), rbuv_swap_switch=True, ax_swap_switch=True)
    np.testing.assert_array_equal(grey.apply(images, (1, 1, 4, 5), np.dtype("f4"))[0, 0], images[0, :, :, 0] - 3.0)


def op(text):
    return f"aipp_op {{ aipp_mode: static {text} }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no aipp_op"),
        ("other { }", "expected aipp_op"),
        ("aipp_op 5", "expected {"),
        ("aipp_op {", "} is missing"),
        (op("crop true"), "expected :"),
        (op("crop: maybe"), "true or false"),
        (op("frobnicate: 1"), "unknown field 'frobnicate'"),
        (op("crop: true crop: true"), "crop is there twice"),
        (op("crop: true"), "crop needs crop_size_w"),
        (op("input_format: YUV420SP_U8"), "'YUV420SP_U8' is not simulated"),
        (op("csc_switch: true"), "csc_switch is not simulated"),
        (op("resize: true"), "resize is not simulated"),
        ("aipp_op { aipp_mode: dynamic }", "dynamic AIPP needs max_src_image_size"),
        (op("mean_chn_0: nan"), "mean_chn_0: expected a number"),
        (op("related_input_rank: 0.5"), "expected a whole number"),
        (op("left_padding_size: 33"), "left_padding_size must be 0..32"),
        (op("src_image_size_w: 1 src_image_size_h: 8"), "src_image_size_w must be 2..4096"),
        (op("") + op(""), "two aipp_op"),
        ("aipp_op { aipp_mode: sometimes }", "static or dynamic"),
        ("aipp_op { \x01 }", "unexpected character"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(AippError, match=message):
        parse_config(text)


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (AippConfig(), (1, 3, 4), "needs an input"),
        (AippConfig(), (1, 1, 4, 4), "does not fit"),
        (AippConfig(src_image_size_w=8, src_image_size_h=8), (1, 3, 4, 4), "AIPP makes 8x8"),
        (AippConfig(crop=True, crop_size_w=4, crop_size_h=4, load_start_pos_w=1), (1, 3, 4, 4), "leaves 4x4"),
    ],
)
def test_configurations_that_do_not_lead_to_the_input(config, shape, message):
    with pytest.raises(AippError, match=message):
        config.source_shape(shape)


def test_fields_round_trip():
    (config,) = parse_config(FULL)
    assert AippConfig.from_fields(config.to_fields()) == config
    for wrong in (
        None,
        {},
        {**config.to_fields(), "crop": 1},
        {**config.to_fields(), "mean": [1]},
        {**config.to_fields(), "min": "a"},
    ):
        with pytest.raises(AippError):
            AippConfig.from_fields(wrong)
