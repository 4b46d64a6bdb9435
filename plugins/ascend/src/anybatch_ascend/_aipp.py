"""Dynamic AIPP, the image preprocessing whose parameters a program sets: read from the option ``aipp``, and handed over.

A model with dynamic AIPP takes images, uint8 [rows, h, w, channels], and has one more input per input that it preprocesses,
into whose buffer the runtime writes the parameters. They hold until the next set, for every gear, but have to be made for as
many images as the largest gear has. So each slot is told once, at open, and no launch pays for it.

Source: Huawei, ATC tool guide (AIPP configuration) and AscendCL reference (aclmdlSetInputAIPP, aclmdlSetAIPP...).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

import anybatch
from anybatch_ascend._acl import Acl, Releases
from anybatch_ascend._model import LoadedModel, Port
from anybatch_ascend.status import AclDeviceError

_INVALID_PARAM: Final = 100000
_FORMAT_NHWC: Final = 1

#: Vendor's name -> (its number in the interface, bytes per pixel, channels that the model may see).
_FORMATS: Final[Mapping[str, tuple[int, int, tuple[int, ...]]]] = {
    "RGB888_U8": (3, 3, (3,)),
    "XRGB8888_U8": (2, 4, (3, 4)),
    "YUV400_U8": (4, 1, (1,)),
}
_SWITCHES: Final = ("crop", "padding", "rbuv_swap_switch", "ax_swap_switch")
#: Name of a whole number -> its range, as the interface takes it.
_INTS: Final[Mapping[str, tuple[int, int]]] = {
    "src_image_size_w": (2, 4096),
    "src_image_size_h": (1, 4096),
    "load_start_pos_w": (0, 4095),
    "load_start_pos_h": (0, 4095),
    "crop_size_w": (1, 4096),
    "crop_size_h": (1, 4096),
    **{f"{side}_padding_size": (0, 32) for side in ("left", "right", "top", "bottom")},
    **{f"mean_chn_{channel}": (0, 255) for channel in range(4)},
}
_FLOATS: Final[Mapping[str, tuple[float, float]]] = {
    **{f"min_chn_{channel}": (0.0, 255.0) for channel in range(4)},
    **{f"var_reci_chn_{channel}": (-65504.0, 65504.0) for channel in range(4)},
}
_REQUIRED: Final = ("input_format", "src_image_size_w", "src_image_size_h")
_FIELDS: Final = ("input_format", *_SWITCHES, *_INTS, *_FLOATS)

#: Switches of a configuration file that may be there as long as they are off.
_UNSUPPORTED_SWITCHES: Final[Mapping[str, str]] = {
    "csc_switch": "colour conversion",
    "resize": "resizing (which no chip does in dynamic AIPP)",
    "single_line_mode": "single-line mode",
    "support_rotation": "rotation",
    "cpadding": "channel padding",
}
#: Fields that mean something to a switch above, or to the converter alone.
_FOREIGN: Final[Mapping[str, str]] = {
    r"matrix_r\dc\d|(in|out)put_bias_\d": "it is of colour conversion (csc_switch), which this plugin does not set",
    r"resize_output_[wh]": "it is of resizing, which no chip does in dynamic AIPP",
    r"cpadding_value|raw_rgbir_to_f16_n": "this plugin does not set it",
    r"padding_value": "dynamic AIPP has none, it pads with zeros",
    r"aipp_mode|related_input_\w+|max_src_image_size|input_edge_idx": "it is for the converter (insert_op_conf)",
}


@dataclass(frozen=True, slots=True)
class AippParameters:
    """What is done to every image; the attributes are the fields of the vendor's configuration file, its defaults too.

    Attributes:
        mean: per channel of the model's input, as are min and var_reci.
    """

    input_format: str
    src_image_size_w: int
    src_image_size_h: int
    crop: bool = False
    load_start_pos_w: int = 0
    load_start_pos_h: int = 0
    crop_size_w: int = 0
    crop_size_h: int = 0
    padding: bool = False
    left_padding_size: int = 0
    right_padding_size: int = 0
    top_padding_size: int = 0
    bottom_padding_size: int = 0
    rbuv_swap_switch: bool = False
    ax_swap_switch: bool = False
    mean: tuple[int, ...] = (0, 0, 0, 0)
    min: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    var_reci: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)

    @classmethod
    def from_option(cls, option: object) -> AippParameters:
        """Read the option ``aipp``.

        Raises:
            InputError: it lacks a field that is needed, or one is unknown, out of range or not supported.
        """
        if not isinstance(option, Mapping) or not all(isinstance(name, str) for name in option):
            raise anybatch.InputError(f"expected aipp to map names of AIPP fields to values, got {option!r}")
        given: dict[str, Any] = {name: _read(name, value) for name, value in option.items()}
        if missing := [name for name in _REQUIRED if name not in given]:
            raise anybatch.InputError(f"aipp: expected {', '.join(_REQUIRED)}, and more as needed; missing: {missing}")
        if given.get("crop") and not ("crop_size_w" in given and "crop_size_h" in given):
            raise anybatch.InputError("aipp: crop needs crop_size_w and crop_size_h")
        channels: dict[str, Any] = {}
        for name, otherwise in (("mean", 0), ("min", 0.0), ("var_reci", 1.0)):
            channels[name] = tuple(given.pop(f"{name}_chn_{channel}", otherwise) for channel in range(4))
        return cls(**{name: value for name, value in given.items() if name not in _UNSUPPORTED_SWITCHES}, **channels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and bytes per pixel of an image."""
        return self.src_image_size_h, self.src_image_size_w, _FORMATS[self.input_format][1]

    def check(self, name: str, channels: int, height: int, width: int) -> None:
        """Check that images become what a model's input takes.

        Raises:
            InputError: they do not; the message names the input.
        """
        seen = _FORMATS[self.input_format][2]
        if channels not in seen:
            raise anybatch.InputError(
                f"aipp: {self.input_format} makes {' or '.join(map(str, seen))} channels, input {name!r} takes {channels}"
            )
        h, w = self.src_image_size_h, self.src_image_size_w
        if self.crop:
            x, y = self.load_start_pos_w, self.load_start_pos_h
            if x + self.crop_size_w > w or y + self.crop_size_h > h:
                raise anybatch.InputError(
                    f"aipp: the crop of {self.crop_size_w} x {self.crop_size_h} (width x height) at {x}, {y} leaves the image, "
                    f"{w} x {h}"
                )
            h, w = self.crop_size_h, self.crop_size_w
        if self.padding:
            h += self.top_padding_size + self.bottom_padding_size
            w += self.left_padding_size + self.right_padding_size
        if (w, h) != (width, height):
            raise anybatch.InputError(
                f"aipp: these parameters make {w} x {h} (width x height), input {name!r} takes {width} x {height}: "
                "change src_image_size_w and src_image_size_h, or crop or pad"
            )


def _read(name: str, value: object) -> bool | int | float | str:
    """Return the value of one field, checked.

    Raises:
        InputError: see `AippParameters.from_option`.
    """
    if name == "input_format":
        return _read_format(value)
    if name in _SWITCHES:
        return _read_switch(name, value)
    if name in _UNSUPPORTED_SWITCHES:
        if _read_switch(name, value):
            raise anybatch.InputError(f"aipp: {name}: this plugin does not set {_UNSUPPORTED_SWITCHES[name]}")
        return False
    if name in _INTS:
        low, high = _INTS[name]
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not low <= value <= high:
            raise anybatch.InputError(f"aipp: expected {name} to be a whole number {low}..{high}, got {value!r}")
        return int(value)
    if name in _FLOATS:
        lowest, highest = _FLOATS[name]
        if (
            not isinstance(value, (int, float, np.integer, np.floating))
            or isinstance(value, bool)
            or not lowest <= value <= highest
        ):
            raise anybatch.InputError(f"aipp: expected {name} to be a number {lowest:.0f}..{highest:.0f}, got {value!r}")
        return float(value)
    why = next((why for pattern, why in _FOREIGN.items() if re.fullmatch(pattern, name)), "")
    if why:
        raise anybatch.InputError(f"aipp: {name!r} cannot be set: {why}")
    raise anybatch.InputError(f"aipp: unknown field {name!r}; these are known: {', '.join(_FIELDS)}")


def _read_format(value: object) -> str:
    if isinstance(value, str) and value in _FORMATS:
        return value
    raise anybatch.InputError(
        f"aipp: expected input_format to be one of {list(_FORMATS)}, got {value!r}; this plugin supports no other, YUV with "
        "colours neither: convert the images first"
    )


def _read_switch(name: str, value: object) -> bool:
    if value is True or value is False or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise anybatch.InputError(f"aipp: expected {name} to be True or False, got {value!r}")


@dataclass(frozen=True, slots=True)
class DynamicAipp:
    """What `set_on` hands over.

    Attributes:
        parameter_inputs: indexes of the inputs that take the parameters, each with the images of its largest gear.
    """

    parameters: AippParameters
    parameter_inputs: Mapping[int, int]

    def set_on(self, acl: Acl, model_id: int, datasets: Sequence[int]) -> None:
        """Write the parameters into datasets, whose buffers for them are there.

        Raises:
            InputError: the runtime does not take them.
            AclError: it failed. Either way no handle of AIPP stays.
        """
        for index, images in self.parameter_inputs.items():
            releases = Releases(acl)
            try:
                handle = acl.make("mdl.create_aipp", images)
                releases.add("mdl.destroy_aipp", handle)
                _fill(acl, handle, self.parameters, images)
                for dataset in datasets:
                    _call(acl, "mdl.set_input_aipp", model_id, dataset, index, handle)
            finally:
                failed = releases.run()
                if failed is not None:
                    raise failed


def find_dynamic_aipp(
    acl: Acl, model: LoadedModel, parameters: AippParameters | None
) -> tuple[LoadedModel, DynamicAipp | None]:
    """Return the model with the images in the place of the inputs that dynamic AIPP preprocesses, and what sets it.

    Args:
        acl: initialized, with a context.
        model: on the device.
        parameters: the option; None: not given.

    Raises:
        InputError: the option does not fit the model, is missing, or is there for a model without dynamic AIPP.
        ModelError: the runtime describes the model's images in another way than expected.
    """
    if not model.aipp_inputs:
        if parameters is not None:
            raise anybatch.InputError(
                "option aipp: the model has no dynamic AIPP; static AIPP, if it has one, was fixed by insert_op_conf: "
                "leave the option out"
            )
        return model, None
    ports: list[Port] = []
    parameter_inputs: dict[int, int] = {}
    for port in model.inputs:
        if port.index not in model.aipp_inputs:
            ports.append(port)
            continue
        batches, channels, height, width = _model_input(acl, model, port)
        largest = max(batches)
        if parameters is None:
            raise anybatch.InputError(
                f"input {port.name!r} has dynamic AIPP, so somebody has to say what goes in (up to {port.size_bytes} bytes for "
                f"{largest} images) to become {channels} x {height} x {width}: open it with "
                f"aipp={{'input_format': {_a_format(channels)!r}, 'src_image_size_w': {width}, 'src_image_size_h': {height}}}, "
                "and fields such as crop, mean_chn_0, var_reci_chn_0 as in an AIPP configuration file"
            )
        parameters.check(port.name, channels, height, width)
        h, w, depth = parameters.image_shape
        if h * w * depth * largest > port.size_bytes:
            raise anybatch.InputError(
                f"aipp: {largest} images, the largest batch size, of {w} x {h} pixels take {h * w * depth * largest} bytes, "
                f"input {port.name!r} was compiled for {port.size_bytes} (max_src_image_size): send smaller images, or compile "
                "it with a larger max_src_image_size"
            )
        parameter_inputs[model.aipp_inputs[port.index]] = largest
        rows = largest if len(batches) == 1 else -1
        ports.append(replace(port, dtype=np.dtype(np.uint8), dims=(rows, h, w, depth)))
    assert parameters is not None, "there is an input with dynamic AIPP, and it was missed there"
    return replace(model, inputs=tuple(ports)), DynamicAipp(parameters, parameter_inputs)


def _model_input(acl: Acl, model: LoadedModel, port: Port) -> tuple[set[int], int, int, int]:
    """Return the batch sizes of an input, and channels, height and width, as they are behind AIPP."""
    info = acl.call("mdl.get_first_aipp_info", model.model_id, port.index)
    shapes = [list(entry["srcDims"]["dims"]) for entry in info["outDims"]]
    if not shapes or any(len(shape) != 4 or min(shape) < 1 for shape in shapes):
        raise anybatch.ModelError(f"input {port.name!r} has dynamic AIPP, expected images of 4 dimensions, got {shapes}")
    _, *image = shapes[0]
    if info["srcFormat"] == _FORMAT_NHWC:
        height, width, channels = image
    else:
        channels, height, width = image
    return {shape[0] for shape in shapes}, channels, height, width


def _a_format(channels: int) -> str:
    return next((name for name, (_, _, seen) in _FORMATS.items() if channels in seen), "RGB888_U8")


def _fill(acl: Acl, handle: int, parameters: AippParameters, images: int) -> None:
    """Set everything on a handle, the same for each image."""
    _call(acl, "mdl.set_aipp_input_format", handle, _FORMATS[parameters.input_format][0])
    _call(acl, "mdl.set_aipp_src_image_size", handle, parameters.src_image_size_w, parameters.src_image_size_h)
    _call(acl, "mdl.set_aipp_rbuv_swap_switch", handle, int(parameters.rbuv_swap_switch))
    _call(acl, "mdl.set_aipp_ax_swap_switch", handle, int(parameters.ax_swap_switch))
    crop = (parameters.load_start_pos_w, parameters.load_start_pos_h, parameters.crop_size_w, parameters.crop_size_h)
    padding = (
        *(parameters.top_padding_size, parameters.bottom_padding_size),
        *(parameters.left_padding_size, parameters.right_padding_size),
    )
    for image in range(images):
        _call(acl, "mdl.set_aipp_crop_params", handle, int(parameters.crop), *crop, image)
        _call(acl, "mdl.set_aipp_padding_params", handle, int(parameters.padding), *padding, image)
        _call(acl, "mdl.set_aipp_dtc_pixel_mean", handle, *parameters.mean, image)
        _call(acl, "mdl.set_aipp_dtc_pixel_min", handle, *parameters.min, image)
        _call(acl, "mdl.set_aipp_pixel_var_reci", handle, *parameters.var_reci, image)


def _call(acl: Acl, name: str, *args: Any) -> None:
    """Hand over parameters, which are the caller's: the chip may take fewer of them than this module.

    Raises:
        InputError: the runtime does not take them.
        AclError: it failed.
    """
    try:
        acl.call(name, *args)
    except AclDeviceError as error:
        if error.code != _INVALID_PARAM:
            raise
        raise anybatch.InputError(f"the runtime refuses the option aipp: {error}") from error
