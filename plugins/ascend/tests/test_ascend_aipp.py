"""AIPP, the vendor's image preprocessing in front of a model, with batch gears: dynamic by the option ``aipp``, and static.

Expected pixels are computed here with NumPy, from the vendor's formula ``(pixel - mean - min) * var_reci``. Minima and factors
are numbers that half precision has, since that is what dynamic AIPP keeps of them.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import acl_sim
import anybatch
from acl_sim import atc, testing
from anybatch import InputError, ModelError
from anybatch_ascend import AscendBackend
from anybatch_ascend.status import AclDeviceError, AclError
from anybatch_ascend_sim import backend as ascend_sim
from ascend_models import open_model

GEARS = (1, 4)
REQUESTS = (1, 3, 7)
HEIGHT, WIDTH = 6, 8
RGB = {"input_format": "RGB888_U8", "src_image_size_w": WIDTH, "src_image_size_h": HEIGHT}
STATIC = "aipp_mode: static input_format: RGB888_U8 src_image_size_w: 8 src_image_size_h: 6"
RNG = np.random.default_rng(23)


@pytest.fixture(autouse=True)
def clean():
    testing.reset()
    yield
    testing.assert_clean()


def negative(channels=3, inputs=("x",)):
    """Per image input one output of the same shape, with the other sign; and a table that no AIPP touches."""
    values, results, nodes = [], [], []
    for name in inputs:
        shape = ["n", channels, HEIGHT, WIDTH]
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        results.append(helper.make_tensor_value_info(f"{name}_neg", TensorProto.FLOAT, shape))
        nodes.append(helper.make_node("Neg", [name], [f"{name}_neg"]))
    graph = helper.make_graph(nodes, "negative", values, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def om(tmp_path):
    """A function that compiles `negative` and returns the .om."""

    def convert(conf, *, channels=3, gears=GEARS, inputs=("x",)):
        source = tmp_path / "model.onnx"
        onnx.save(negative(channels, inputs), source)
        arguments = [f"--model={source}", "--framework=5", f"--output={tmp_path / 'model'}", "--soc_version=Ascend310P3"]
        rows = -1 if len(gears) > 1 else gears[0]
        shapes = ";".join(f"{name}:{rows},{channels},{HEIGHT},{WIDTH}" for name in inputs)
        arguments += [f"--input_shape={shapes}", "--precision_mode=must_keep_origin_dtype"]
        if len(gears) > 1:
            arguments.append(f"--dynamic_batch_size={','.join(map(str, gears))}")
        if conf:
            (tmp_path / "aipp.cfg").write_text(conf)
            arguments.append(f"--insert_op_conf={tmp_path / 'aipp.cfg'}")
        assert atc.main(arguments) == 0
        return tmp_path / "model.om"

    return convert


def dynamic(size, rank=0):
    return f"aipp_op {{ aipp_mode: dynamic related_input_rank: {rank} max_src_image_size: {size} }}"


def opened(model, **options):
    return open_model(model, backend=AscendBackend(acl=lambda: acl_sim), **options)


def images(rows, shape):
    return RNG.integers(0, 256, (rows, *shape), np.uint8)


def preprocessed(pixels, fields, order):
    """What the model is to see of images [n, h, w, bytes]; `order` is the byte of each of its channels."""
    channels = len(order)
    values = pixels[..., list(order)].astype(np.float32)
    if fields.get("crop"):
        x, y = fields.get("load_start_pos_w", 0), fields.get("load_start_pos_h", 0)
        values = values[:, y : y + fields["crop_size_h"], x : x + fields["crop_size_w"]]
    mean, low, factor = (
        np.array([fields.get(f"{name}_chn_{channel}", otherwise) for channel in range(channels)], np.float32)
        for name, otherwise in (("mean", 0), ("min", 0), ("var_reci", 1))
    )
    values = (values - mean - low) * factor
    if fields.get("padding"):
        top, bottom, left, right = (fields.get(f"{side}_padding_size", 0) for side in ("top", "bottom", "left", "right"))
        values = np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0)))
    return values.transpose(0, 3, 1, 2)


NORMS = {
    "mean_chn_0": 104,
    "mean_chn_1": 117,
    "mean_chn_2": 123,
    "min_chn_1": 0.5,
    "var_reci_chn_0": 0.25,
    "var_reci_chn_2": -2,
}
LARGER = {"src_image_size_w": 12, "src_image_size_h": 10}
CASES = {
    "as it is": (RGB, (0, 1, 2)),
    "norms": ({**RGB, **NORMS, "csc_switch": False}, (0, 1, 2)),
    "crop and padding": (
        {
            **RGB, **LARGER, **NORMS, "crop": True, "load_start_pos_w": 5, "load_start_pos_h": 4, "crop_size_w": 7,
            "crop_size_h": 3, "padding": 1, "top_padding_size": 2, "bottom_padding_size": 1, "left_padding_size": 1,
        },
        (0, 1, 2),
    ),
    "crop that is off": ({**RGB, "crop": False, "crop_size_w": 2, "padding": 0, "top_padding_size": 9}, (0, 1, 2)),
    "red and blue swapped": ({**RGB, **NORMS, "rbuv_swap_switch": True}, (2, 1, 0)),
    "four bytes": ({**RGB, **NORMS, "input_format": "XRGB8888_U8"}, (0, 1, 2)),
    "four bytes, the fourth first": (
        {**RGB, **NORMS, "input_format": "XRGB8888_U8", "ax_swap_switch": True, "rbuv_swap_switch": True},
        (3, 2, 1),
    ),
    "grey": ({**RGB, "input_format": "YUV400_U8", "mean_chn_0": np.int64(7), "var_reci_chn_0": np.float32(0.5)}, (0,)),
}  # fmt: skip
BYTES = {"RGB888_U8": 3, "XRGB8888_U8": 4, "YUV400_U8": 1}


# --- dynamic: what comes out ---


@pytest.mark.parametrize("callback_every", [0, 2])
@pytest.mark.parametrize(("fields", "order"), CASES.values(), ids=CASES)
def test_dynamic_aipp_on_every_gear(om, fields, order, callback_every):
    shape = (fields["src_image_size_h"], fields["src_image_size_w"], BYTES[fields["input_format"]])
    model = om(dynamic(4 * 10 * 12 * 4), channels=len(order))
    with opened(model, aipp=fields, callback_every=callback_every, slots=3) as runner:
        (tensor,) = runner.spec.inputs
        assert (tensor.dtype, tensor.shape, tensor.batch_axis) == (np.uint8, (None, *shape), 0)
        batches = [images(rows, shape) for rows in REQUESTS]
        for pixels in batches:
            result = runner.run({"x": pixels})["x_neg"]
            np.testing.assert_array_equal(result, -preprocessed(pixels, fields, order))
        for pixels, result in zip(batches, runner.map([{"x": pixels} for pixels in batches]), strict=True):
            np.testing.assert_array_equal(result["x_neg"], -preprocessed(pixels, fields, order))
    (launches,) = testing.ledger().launches.values()
    assert set(launches) == {"1", "4"}, "both gears were to run"


def test_the_parameters_are_set_once_for_the_largest_gear(om):
    with opened(om(dynamic(4 * 6 * 8 * 3)), aipp=RGB, slots=3) as runner:

        def count(name):
            return testing.ledger().calls[f"acl.mdl.{name}"]

        def calls():
            return {name: times for name, times in testing.ledger().calls.items() if "aipp" in name}

        at_open = dict(calls())
        assert (count("create_aipp"), count("destroy_aipp"), count("set_input_aipp")) == (1, 1, 3), "one handle, three slots"
        assert count("set_aipp_dtc_pixel_mean") == count("set_aipp_crop_params") == max(GEARS)
        for rows in REQUESTS:
            runner.run({"x": images(rows, (6, 8, 3))})
        assert calls() == at_open, "launches cost no AIPP call"


def test_dynamic_aipp_on_a_model_of_one_size(om):
    with opened(om(dynamic(2 * 6 * 8 * 3), gears=(2,)), aipp={**RGB, **NORMS}) as runner:
        assert runner.batching.sizes == (2,)
        for rows in REQUESTS:
            pixels = images(rows, (6, 8, 3))
            result = runner.run({"x": pixels})["x_neg"]
            np.testing.assert_array_equal(result, -preprocessed(pixels, NORMS, (0, 1, 2)))


@pytest.mark.parametrize("ranks", [(0, 1), (1,)], ids=["both", "the second"])
def test_two_image_inputs(om, ranks):
    model = om("\n".join(dynamic(4 * 6 * 8 * 3, rank) for rank in ranks), inputs=("a", "b"))
    fields = {**RGB, **NORMS}
    with opened(model, aipp=fields) as runner:
        for rows in REQUESTS:
            pixels = {"a": images(rows, (6, 8, 3)), "b": images(rows, (6, 8, 3))}
            seen = {name: preprocessed(value, fields, (0, 1, 2)) for name, value in pixels.items()}
            if 0 not in ranks:
                pixels["a"] = seen["a"] = RNG.standard_normal((rows, 3, 6, 8)).astype(np.float32)
            results = runner.run(pixels)
            np.testing.assert_array_equal(results["a_neg"], -seen["a"])
            np.testing.assert_array_equal(results["b_neg"], -seen["b"])


# --- static ---


@pytest.mark.parametrize(
    ("text", "order", "fields"),
    [
        (STATIC, (0, 1, 2), {}),
        (
            STATIC.replace("w: 8", "w: 9").replace("RGB888", "XRGB8888")
            + " crop: true load_start_pos_w: 1 crop_size_w: 8 crop_size_h: 6 mean_chn_0: 104 var_reci_chn_0: 0.25",
            (0, 1, 2),
            {
                "crop": True,
                "load_start_pos_w": 1,
                "crop_size_w": 8,
                "crop_size_h": 6,
                "mean_chn_0": 104,
                "var_reci_chn_0": 0.25,
            },
        ),
    ],
    ids=["as it is", "crop and norms of four bytes"],
)
def test_static_aipp_on_every_gear(om, text, order, fields, monkeypatch):
    in_pixels = acl_sim.mdl.get_input_dims

    def three_channels(desc, index):  # as the vendor's counts them, whatever a pixel has
        dims, code = in_pixels(desc, index)
        return ({**dims, "dims": [*dims["dims"][:3], 3]} if dims["dimCount"] == 4 else dims), code

    monkeypatch.setattr(acl_sim.mdl, "get_input_dims", three_channels)
    shape = (6, 9, 4) if fields else (6, 8, 3)
    with opened(om(f"aipp_op {{ {text} }}")) as runner:
        (tensor,) = runner.spec.inputs
        assert (tensor.dtype, tensor.shape) == (np.uint8, (None, *shape))
        for rows in REQUESTS:
            pixels = images(rows, shape)
            result = runner.run({"x": pixels})["x_neg"]
            np.testing.assert_array_equal(result, -preprocessed(pixels, fields, order))


# --- from .onnx: compiled with gears and AIPP, then opened ---


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_compiled_and_opened_in_one_call(tmp_path, mode):
    conf = tmp_path / "aipp.cfg"
    conf.write_text(dynamic(4 * 6 * 8 * 3) if mode == "dynamic" else f"aipp_op {{ {STATIC} mean_chn_0: 104 }}")
    fields = {"mean_chn_0": 104}
    runner = anybatch.open(
        negative().SerializeToString(),
        backend=ascend_sim(),
        batch_sizes=GEARS,
        insert_op_conf=conf,
        precision_mode="must_keep_origin_dtype",
        **({"aipp": {**RGB, **fields}} if mode == "dynamic" else {}),
    )
    with runner:
        assert runner.batching.sizes == GEARS
        assert runner.spec.inputs[0].dtype == np.uint8
        for rows in REQUESTS:
            pixels = images(rows, (6, 8, 3))
            result = runner.run({"x": pixels})["x_neg"]
            np.testing.assert_array_equal(result, -preprocessed(pixels, fields, (0, 1, 2)))


# --- what is refused ---


BAD_OPTIONS = [
    ([], "expected aipp to map names of AIPP fields to values, got []"),
    ({1: 2}, "expected aipp to map names of AIPP fields to values"),
    ({}, "missing: ['input_format', 'src_image_size_w', 'src_image_size_h']"),
    ({**RGB, "input_format": "YUV420SP_U8"}, "'YUV420SP_U8'; this plugin supports no other, YUV with colours neither: convert"),
    ({**RGB, "input_format": 3}, "expected input_format to be one of ['RGB888_U8', 'XRGB8888_U8', 'YUV400_U8'], got 3"),
    ({**RGB, "src_image_size_w": 1}, "expected src_image_size_w to be a whole number 2..4096, got 1"),
    ({**RGB, "src_image_size_h": 4097}, "expected src_image_size_h to be a whole number 1..4096, got 4097"),
    ({**RGB, "src_image_size_h": 6.0}, "expected src_image_size_h to be a whole number 1..4096, got 6.0"),
    ({**RGB, "src_image_size_h": True}, "expected src_image_size_h to be a whole number 1..4096, got True"),
    ({**RGB, "crop": "yes"}, "expected crop to be True or False, got 'yes'"),
    ({**RGB, "crop": 2}, "expected crop to be True or False, got 2"),
    ({**RGB, "crop": True, "crop_size_w": 8}, "crop needs crop_size_w and crop_size_h"),
    ({**RGB, "left_padding_size": 33}, "expected left_padding_size to be a whole number 0..32, got 33"),
    ({**RGB, "mean_chn_3": 256}, "expected mean_chn_3 to be a whole number 0..255, got 256"),
    ({**RGB, "min_chn_0": float("nan")}, "expected min_chn_0 to be a number 0..255, got nan"),
    ({**RGB, "var_reci_chn_0": 1e5}, "expected var_reci_chn_0 to be a number -65504..65504, got 100000.0"),
    ({**RGB, "csc_switch": True}, "csc_switch: this plugin does not set colour conversion"),
    ({**RGB, "matrix_r0c1": 5}, "'matrix_r0c1' cannot be set: it is of colour conversion (csc_switch)"),
    ({**RGB, "resize": 1}, "resize: this plugin does not set resizing (which no chip does in dynamic AIPP)"),
    ({**RGB, "padding_value": 1}, "'padding_value' cannot be set: dynamic AIPP has none, it pads with zeros"),
    ({**RGB, "aipp_mode": "dynamic"}, "'aipp_mode' cannot be set: it is for the converter (insert_op_conf)"),
    ({**RGB, "mean": 3}, "unknown field 'mean'; these are known: input_format, crop, padding,"),
]


@pytest.mark.parametrize(("option", "message"), BAD_OPTIONS, ids=[message[:40] for _, message in BAD_OPTIONS])
def test_an_option_that_is_wrong_in_itself_needs_no_device(tmp_path, option, message):
    (tmp_path / "model.om").write_bytes(b"never read")
    with pytest.raises(InputError, match=re.escape(message)):
        opened(tmp_path / "model.om", aipp=option)
    assert "acl.init" not in testing.ledger().calls


MISFITS = [
    (
        3, None,
        "input 'x' has dynamic AIPP, so somebody has to say what goes in (up to 600 bytes for 4 images) to become 3 x 6 x 8: "
        "open it with aipp={'input_format': 'RGB888_U8', 'src_image_size_w': 8, 'src_image_size_h': 6}",
    ),
    (1, None, "aipp={'input_format': 'YUV400_U8',"),
    (1, RGB, "aipp: RGB888_U8 makes 3 channels, input 'x' takes 1"),
    (1, {**RGB, "input_format": "XRGB8888_U8"}, "aipp: XRGB8888_U8 makes 3 or 4 channels, input 'x' takes 1"),
    (
        3, {**RGB, "src_image_size_w": 10},
        "these parameters make 10 x 6 (width x height), input 'x' takes 8 x 6: change src_image_size_w",
    ),
    (3, {**RGB, "padding": True, "top_padding_size": 1}, "these parameters make 8 x 7 (width x height), input 'x' takes 8 x 6"),
    (
        3, {**RGB, "crop": True, "load_start_pos_h": 1, "crop_size_w": 8, "crop_size_h": 6},
        "the crop of 8 x 6 (width x height) at 0, 1 leaves the image, 8 x 6",
    ),
    (
        3, {**RGB, "input_format": "XRGB8888_U8"},
        "4 images, the largest batch size, of 8 x 6 pixels take 768 bytes, input 'x' was compiled for 600 (max_src_image_size)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("channels", "option", "message"), MISFITS, ids=range(len(MISFITS)))
def test_an_option_that_does_not_fit_the_model(om, channels, option, message):
    model = om(dynamic(600), channels=channels)
    with pytest.raises(InputError, match=re.escape(message)):
        opened(model, **({} if option is None else {"aipp": option}))


@pytest.mark.parametrize("conf", ["", f"aipp_op {{ {STATIC} }}"], ids=["no AIPP", "static AIPP"])
def test_the_option_is_for_dynamic_aipp_only(om, conf):
    model = om(conf)
    with pytest.raises(InputError, match="option aipp: the model has no dynamic AIPP; static AIPP, if it has one, was fixed"):
        opened(model, aipp=RGB)


def test_images_of_another_size_are_refused_when_they_come(om):
    with (
        opened(om(dynamic(4 * 6 * 8 * 3)), aipp=RGB) as runner,
        pytest.raises(InputError, match=r"'x': expected uint8 \[rows, 6, 8, 3\]"),
    ):
        runner.run({"x": images(2, (6, 9, 3))})


# --- what the runtime says ---


def test_every_aipp_call_fails_once(om):
    model = om(dynamic(4 * 6 * 8 * 3))
    with opened(model, aipp=RGB, slots=2):
        calls = {name: count for name, count in testing.ledger().calls.items() if "aipp" in name}
    testing.assert_clean()
    assert len(calls) == 14, calls
    for name, count in calls.items():
        for nth in range(1, count + 1):
            testing.reset(faults=(testing.Fault(name, nth, 500002),))
            if name == "acl.mdl.destroy_aipp":  # a second try follows
                opened(model, aipp=RGB, slots=2).close()
            else:
                with pytest.raises(AclDeviceError) as caught:
                    opened(model, aipp=RGB, slots=2)
                assert caught.value.function == name
            testing.assert_clean()
    testing.reset(faults=tuple(testing.Fault("acl.mdl.destroy_aipp", nth, 500002) for nth in (1, 2)))
    with pytest.raises(AclError, match="destroy_aipp"):
        opened(model, aipp=RGB, slots=2)
    leaks = testing.ledger().leaks
    assert [leak.kind for leak in leaks] == ["aipp"], "all but what the runtime kept is given back"
    testing.reset()


@pytest.mark.parametrize("function", ["set_aipp_src_image_size", "set_aipp_pixel_var_reci", "set_input_aipp"])
def test_what_the_runtime_does_not_take_is_the_callers_to_change(om, function):
    model = om(dynamic(4 * 6 * 8 * 3))
    testing.reset(faults=(testing.Fault(f"acl.mdl.{function}", 1, 100000),))
    with pytest.raises(InputError, match=rf"the runtime refuses the option aipp: .*acl\.mdl\.{function}"):
        opened(model, aipp=RGB)


def test_a_model_whose_images_are_described_as_nhwc(om, monkeypatch):
    model = om(dynamic(4 * 6 * 8 * 3))
    described = acl_sim.mdl.get_first_aipp_info

    def last(number, index):
        info, code = described(number, index)
        for entry in info["outDims"]:
            n, c, h, w = entry["srcDims"]["dims"]
            entry["srcDims"]["dims"] = [n, h, w, c]
        return {**info, "srcFormat": 1}, code

    monkeypatch.setattr(acl_sim.mdl, "get_first_aipp_info", last)
    pixels = images(3, (6, 8, 3))
    with opened(model, aipp=RGB) as runner:
        np.testing.assert_array_equal(runner.run({"x": pixels})["x_neg"], -preprocessed(pixels, {}, (0, 1, 2)))


def test_a_description_that_is_of_no_image(om, monkeypatch):
    model = om(dynamic(4 * 6 * 8 * 3))
    described = acl_sim.mdl.get_first_aipp_info

    def flat(number, index):
        info, code = described(number, index)
        info["outDims"][1]["srcDims"]["dims"] = [4, 144]
        return info, code

    monkeypatch.setattr(acl_sim.mdl, "get_first_aipp_info", flat)
    with pytest.raises(
        ModelError, match=re.escape("'x' has dynamic AIPP, expected images of 4 dimensions, got [[1, 3, 6, 8], [4")
    ):
        opened(model, aipp=RGB)
