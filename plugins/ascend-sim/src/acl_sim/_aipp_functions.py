"""The AIPP functions of `acl.mdl`: what a model has, and the parameters of dynamic AIPP. contracts/pyacl.md 1.4 and 2.6.

Their ranges, and what `set_input_aipp` checks, are those of the vendor's published source. Two codes of the contract are out
of reach: 145014 (parameters without an image: `create_aipp(0)` gives no handle) and 145016 (a mode that is neither static
nor dynamic: such a file is not loaded). "Decision:" marks what is left open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from acl_sim import _dynamic_aipp
from acl_sim._aipp import FORMATS, AippConfig, AippError
from acl_sim._buffers import DataBuffer
from acl_sim._dynamic_aipp import DynamicAipp
from acl_sim._errors import INVALID_PARAM, NotSimulated, Refused, null
from acl_sim._machine import HANDLE, PAIR, api, machine, shape
from acl_sim._models import (
    GE_DYNAMIC_INPUT_LENGTH_INVALID,
    Loaded,
    aipp_input,
    dataset_of,
    dims_dict,
    drop,
    models,
    slot_of,
)

_AIPP_NOT_EXIST = 145015
_FAILURE = 500001
_NO_NODE = 0xFFFFFFFF
_MAX_BATCH = 1 << 16  # Decision: beyond it create_aipp fails, as the vendor's does where memory ends
_MAX_SIZE = (1 << 64) - 1


# What a model has


@api("acl.mdl.get_aipp_type", "Ik", failed=shape(0, 0))
def get_aipp_type(number: int, index: int) -> tuple[int, int, int]:
    """`(type, attached_index, ret)`: 0 none, 1 static, 2 dynamic, 3 the parameter input of a dynamic one.

    The attached index is that of the parameter input for type 2, else 0xFFFFFFFF.
    """
    loaded = models().get(number)
    slot_of(loaded.inputs, index, "input")
    config = _config(loaded, index)
    if config is None:
        return (3 if _preprocessed(loaded, index) is not None else 0), _NO_NODE, 0
    return (2, aipp_input(loaded.model, index), 0) if config.dynamic else (1, _NO_NODE, 0)


def _config(loaded: Loaded, index: int) -> AippConfig | None:
    return loaded.model.aipp[index] if index < len(loaded.model.inputs) else None


def _preprocessed(loaded: Loaded, index: int) -> int | None:
    """The data input whose parameters input `index` takes; None if it takes none."""
    model = loaded.model
    return next((data for data in model.dynamic_aipp if aipp_input(model, data) == index), None)


@api("acl.mdl.get_first_aipp_info", "Ik", failed=shape(None))
def get_first_aipp_info(number: int, index: int) -> tuple[dict[str, Any] | None, int]:
    """`(dict, ret)` (keys: contract 2.6); 145015 for an input without AIPP, the parameter input of a dynamic one included.

    Of dynamic AIPP only srcFormat, srcDatatype, srcDimNum, shapeCount and outDims mean something, the others are 0.
    `srcDims` and `srcSize` are those of the input before AIPP was put in front of it. Decision: so are `aippOutdims`, where
    the vendor has the chip's internal format.
    """
    loaded = models().get(number)
    slot_of(loaded.inputs, index, "input")
    config = _config(loaded, index)
    if config is None:
        raise Refused(_AIPP_NOT_EXIST, f"input {index} of model {number} has no AIPP")
    model = loaded.model
    tensor = model.inputs[index]
    gears = [model.input_shapes(gear)[index] for gear in range(max(1, len(model.gears)))]
    info: dict[str, Any] = {"cscSwitch": 0}
    info |= dict.fromkeys(
        ("matrixR0C0", "matrixR0C1", "matrixR1C0", "matrixR1C1", "matrixR1C2", "matrixR2C2"), 0
    )  # three entries are missing in the vendor's, too
    info |= dict.fromkeys((f"{what}Bias{channel}" for what in ("output", "input") for channel in range(3)), 0)
    static = AippConfig(var_reci=(0.0, 0.0, 0.0, 0.0)) if config.dynamic else config
    source_h, source_w = (0, 0) if config.dynamic else config.source_size(tensor.dims[2], tensor.dims[3])
    info |= {
        "rbuvSwapSwitch": int(static.rbuv_swap_switch),
        "axSwapSwitch": int(static.ax_swap_switch),
        "singleLineMode": 0,
        "srcImageSizeW": source_w,
        "srcImageSizeH": source_h,
        "srcFormat": tensor.format,
        "srcDatatype": tensor.acl_type,
        "srcDimNum": len(tensor.dims),
        "shapeCount": len(gears),
        "inputFormat": 0 if config.dynamic else config.format_number,
        "aippExtend": 0,
        "cropSwitch": int(static.crop),
        "loadStartPosW": static.load_start_pos_w,
        "loadStartPosH": static.load_start_pos_h,
        "cropSizeW": static.crop_size_w,
        "cropSizeH": static.crop_size_h,
        "resizeSwitch": 0,
        "resizeOutputW": 0,
        "resizeOutputH": 0,
        "paddingSwitch": int(static.padding),
        "leftPaddingSize": static.left_padding_size,
        "rightPaddingSize": static.right_padding_size,
        "topPaddingSize": static.top_padding_size,
        "bottomPaddingSize": static.bottom_padding_size,
    }
    for channel in range(4):
        info[f"meanChn{channel}"] = int(static.mean[channel])
    for channel in range(4):
        info[f"minChn{channel}"] = static.min[channel]
    for channel in range(4):
        info[f"varReciChn{channel}"] = static.var_reci[channel]
    info["outDims"] = [
        {
            "srcDims": dims_dict(tensor.name, sizes),
            "srcSize": tensor.size_bytes(sizes),
            "aippOutdims": dims_dict(tensor.name, sizes),
            "aippOutSize": tensor.size_bytes(sizes),
        }
        for sizes in gears
    ]
    return info, 0


# The parameters


@api("acl.mdl.create_aipp", "K", failed=HANDLE)
def create_aipp(batch: int) -> int:
    """A handle for the parameters of a batch of images: the model's batch size, its largest gear. 0 for a batch of 0."""
    if not 1 <= batch <= _MAX_BATCH:
        raise Refused(INVALID_PARAM, f"a batch of {batch} images: it must be 1..{_MAX_BATCH}")
    return machine().handles.new("aipp", DynamicAipp([AippConfig()] * batch))


@api("acl.mdl.destroy_aipp", "k")
def destroy_aipp(handle: int) -> int:
    """End a handle; null 100000."""
    return drop("aipp", handle)


@api("acl.mdl.get_aipp_data_size", "K", failed=PAIR)
def get_aipp_data_size(batch: int) -> tuple[int, int]:
    """`(size, ret)`: bytes of the parameter input for a batch of images; 100000 for 0, and beyond 64 bits."""
    size = _dynamic_aipp.data_bytes(batch)
    if batch == 0 or size > _MAX_SIZE:
        raise Refused(INVALID_PARAM, f"a batch of {batch} images")
    return size, 0


def _aipp(handle: int) -> DynamicAipp:
    if handle == 0:
        raise null("the aipp")
    aipp: DynamicAipp = machine().handles.get("aipp", handle)
    return aipp


def _image(handle: int, index: int) -> tuple[DynamicAipp, AippConfig]:
    aipp = _aipp(handle)
    if index >= len(aipp.images):
        raise Refused(INVALID_PARAM, f"batch index {index}: create_aipp was for {len(aipp.images)} images")
    return aipp, aipp.images[index]


def _check(name: str, values: Sequence[float], low: float, high: float) -> None:
    for value in values:
        if not low <= value <= high:
            raise Refused(INVALID_PARAM, f"{name} must be {low}..{high}, got {value}")


def _switch(value: int) -> bool:
    _check("a switch", (value,), 0, 1)
    return value == 1


@api("acl.mdl.set_aipp_input_format", "kI")
def set_aipp_input_format(handle: int, number: int) -> int:
    """Format of the source images (numbers: contract 1.7); 100000 for an unknown one.

    Those that no chip's dynamic AIPP takes are refused by `set_input_aipp`; YUV420SP is not simulated.
    """
    aipp = _aipp(handle)
    name = _dynamic_aipp.FORMAT_NAMES.get(number)
    if name is None:
        raise Refused(INVALID_PARAM, f"{number} is no AIPP input format")
    if name == "YUV420SP_U8":
        raise NotSimulated(
            f"acl.mdl.set_aipp_input_format: {name} is not simulated by acl_sim; simulated are {', '.join(FORMATS)}"
        )
    aipp.format_number = number
    return 0


@api("acl.mdl.set_aipp_src_image_size", "kii")
def set_aipp_src_image_size(handle: int, width: int, height: int) -> int:
    """Size of the source images, width before height: 2..4096, 1..4096."""
    aipp = _aipp(handle)
    _check("the width", (width,), 2, 4096)
    _check("the height", (height,), 1, 4096)
    aipp.width, aipp.height = width, height
    return 0


@api("acl.mdl.set_aipp_rbuv_swap_switch", "kb")
def set_aipp_rbuv_swap_switch(handle: int, switch: int) -> int:
    """Swap red and blue: 0 or 1."""
    aipp = _aipp(handle)
    aipp.rbuv_swap = _switch(switch)
    return 0


@api("acl.mdl.set_aipp_ax_swap_switch", "kb")
def set_aipp_ax_swap_switch(handle: int, switch: int) -> int:
    """The fourth byte of a pixel comes first: 0 or 1."""
    aipp = _aipp(handle)
    aipp.ax_swap = _switch(switch)
    return 0


@api("acl.mdl.set_aipp_csc_params", "kbhhhhhhhhhBBBBBB")
def set_aipp_csc_params(handle: int, switch: int, *values: int) -> int:
    """Colour conversion: a switch, nine matrix elements, three output and three input biases. On is not simulated."""
    _aipp(handle)
    if _switch(switch):
        _check("a matrix element", values[:9], -32677, 32676)
        raise NotSimulated("acl.mdl.set_aipp_csc_params: colour conversion (csc) is not simulated by acl_sim")
    return 0


@api("acl.mdl.set_aipp_crop_params", "kbiiiiK")
def set_aipp_crop_params(handle: int, switch: int, x: int, y: int, width: int, height: int, index: int) -> int:
    """Crop one image: position 0..4095, size 1..4096. Switched off, nothing else is looked at.

    Decision: a refused call of this and of the functions below changes nothing.
    """
    aipp, image = _image(handle, index)
    if not _switch(switch):
        aipp.images[index] = replace(image, crop=False)
        return 0
    _check("a crop position", (x, y), 0, 4095)
    _check("a crop size", (width, height), 1, 4096)
    aipp.images[index] = replace(
        image, crop=True, load_start_pos_w=x, load_start_pos_h=y, crop_size_w=width, crop_size_h=height
    )
    return 0


@api("acl.mdl.set_aipp_padding_params", "kbiiiiK")
def set_aipp_padding_params(handle: int, switch: int, top: int, bottom: int, left: int, right: int, index: int) -> int:
    """Pad one image: 0..32 each. Switched off, nothing else is looked at."""
    aipp, image = _image(handle, index)
    if not _switch(switch):
        aipp.images[index] = replace(image, padding=False)
        return 0
    _check("padding", (top, bottom, left, right), 0, 32)
    aipp.images[index] = replace(
        image,
        padding=True,
        top_padding_size=top,
        bottom_padding_size=bottom,
        left_padding_size=left,
        right_padding_size=right,
    )
    return 0


@api("acl.mdl.set_aipp_scf_params", "kbiiiiK")
def set_aipp_scf_params(
    handle: int, switch: int, in_width: int, in_height: int, out_width: int, out_height: int, index: int
) -> int:
    """Resize one image: sizes 16..4096, the resulting width up to 1920. No chip does it: `set_input_aipp` refuses it then."""
    aipp, _ = _image(handle, index)
    if not _switch(switch):
        aipp.resized.discard(index)
        return 0
    _check("a resize size", (in_width, in_height, out_height), 16, 4096)
    _check("the resized width", (out_width,), 16, 1920)
    aipp.resized.add(index)
    return 0


@api("acl.mdl.set_aipp_dtc_pixel_mean", "khhhhK")
def set_aipp_dtc_pixel_mean(handle: int, c0: int, c1: int, c2: int, c3: int, index: int) -> int:
    """Means per channel of one image: 0..255."""
    aipp, image = _image(handle, index)
    values = c0, c1, c2, c3
    _check("a mean", values, 0, 255)
    aipp.images[index] = replace(image, mean=tuple(map(float, values)))
    return 0


@api("acl.mdl.set_aipp_dtc_pixel_min", "kffffK")
def set_aipp_dtc_pixel_min(handle: int, c0: float, c1: float, c2: float, c3: float, index: int) -> int:
    """Minima per channel of one image: 0..255, kept in half precision."""
    aipp, image = _image(handle, index)
    values = c0, c1, c2, c3
    _check("a minimum", values, 0, 255)
    aipp.images[index] = replace(image, min=values)
    return 0


@api("acl.mdl.set_aipp_pixel_var_reci", "kffffK")
def set_aipp_pixel_var_reci(handle: int, c0: float, c1: float, c2: float, c3: float, index: int) -> int:
    """Reciprocal variances per channel of one image: -65504..65504, kept in half precision; 1 until set."""
    aipp, image = _image(handle, index)
    values = c0, c1, c2, c3
    _check("a reciprocal variance", values, -65504, 65504)
    aipp.images[index] = replace(image, var_reci=values)
    return 0


# Handing them over


@api("acl.mdl.set_input_aipp", "Ikkk")
def set_input_aipp(number: int, handle: int, index: int, aipp: int) -> int:
    """Write the parameters into the buffer of the parameter input `index`.

    100000 for null, for an index that is no parameter input, for parameters that do not lead to the model's input and for
    a buffer that is not there; 145003 for the model, 145012 for a buffer that is too short. They hold until the next set.
    """
    dataset, parameters = dataset_of(handle), _aipp(aipp)
    return _hand_over(models().get(number), dataset.buffers, index, parameters)


@api("acl.mdl.set_aipp_by_input_index", "Ikkk")
def set_aipp_by_input_index(number: int, handle: int, index: int, aipp: int) -> int:
    """As set_input_aipp, by the index of the data input: 500001 if it has no dynamic AIPP."""
    parameters, dataset = _aipp(aipp), dataset_of(handle)
    if index >= len(dataset.buffers):
        raise Refused(INVALID_PARAM, f"buffer {index}: the dataset has {len(dataset.buffers)}")
    loaded = models().get(number)
    slot_of(loaded.inputs, index, "input")
    config = _config(loaded, index)
    if config is None or not config.dynamic:
        raise Refused(_FAILURE, f"input {index} of model {number} has no dynamic AIPP")
    return _hand_over(loaded, dataset.buffers, aipp_input(loaded.model, index), parameters)


def _hand_over(loaded: Loaded, buffers: Sequence[int], index: int, parameters: DynamicAipp) -> int:
    slot_of(loaded.inputs, index, "input")
    data = _preprocessed(loaded, index)
    if data is None:
        raise Refused(INVALID_PARAM, f"input {index} of model {loaded.number} takes no AIPP parameters")
    model = loaded.model
    config = model.aipp[data]
    assert config is not None
    wanted = (model.largest_batch(data), *model.inputs[data].dims[1:])
    try:
        parameters.check(wanted, config.max_src_image_size, machine().config.soc_name)
    except AippError as error:
        raise Refused(INVALID_PARAM, str(error)) from error
    if index >= len(buffers):
        raise Refused(INVALID_PARAM, f"buffer {index}: the dataset has {len(buffers)}")
    buffer: DataBuffer = machine().handles.get("data buffer", buffers[index])
    if buffer.address == 0:
        raise Refused(INVALID_PARAM, f"buffer {index} has a null address")
    content = parameters.to_bytes()
    if buffer.size < len(content):
        raise Refused(GE_DYNAMIC_INPUT_LENGTH_INVALID, f"the AIPP input has {buffer.size} bytes, {len(content)} are needed")
    machine().check_not_in_flight(buffer.address, len(content), "set of AIPP parameters", writing=True)
    machine().memory.write(buffer.address, content, "AIPP input", side="device")
    models().aipp_bytes[buffer.address] = content
    return 0
