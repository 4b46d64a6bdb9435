"""Operators on images and signals: [N, C, places...], each image on its own."""

from __future__ import annotations

from typing import Final

from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, forbid, meet
from anybatch.safety._domain import Rows, Value
from anybatch.safety._sizes import ONE, Size, floor_quotient, product


def _image_rows(call: Call, index: int = 0) -> Rows | None:
    """Return the rows of an input whose axis 0 counts images.

    Raises:
        CoupledError: they are on another axis.
    """
    rows = call[index].rows
    if rows is not None and rows.axis != 0:
        raise CoupledError(f"joins entries along axis {rows.axis}, which holds the rows")
    return rows


def _windows(call: Call, size: Size, kernel: Size | None, place: int) -> Size:
    """Return how many windows fit an axis; a size of its own where that cannot be told."""
    stride = call.attr("strides", [])[place : place + 1] or [1]
    dilation = call.attr("dilations", [])[place : place + 1] or [1]
    auto, pads = call.attr("auto_pad", "NOTSET"), call.attr("pads", [])
    if kernel is None or call.attr("ceil_mode", 0):
        return call.fresh(f"window.{place}")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return floor_quotient(size + (stride[0] - 1), stride[0])
    both = pads[place] + pads[place + len(pads) // 2] if pads and auto == "NOTSET" else 0
    return floor_quotient(size + both - (kernel - 1) * dilation[0] - 1, stride[0]) + 1


def _counted(call: Call, sizes: list[Size]) -> tuple[Size, ...]:
    return tuple(size if size.at_least(0) else call.fresh(f"places.{axis}") for axis, size in enumerate(sizes))


def convolution(weights: int) -> Rule:
    """Make the rule of a convolution whose weights are a given input."""

    def rule(call: Call) -> Value:
        rows = _image_rows(call)
        shape, kernel = call.shape(0), call.shape(weights)
        if len(kernel) != len(shape):
            raise StoppedError(f"has weights with {len(kernel)} axes for images with {len(shape)}")
        places = [_windows(call, size, kernel[2 + place], place) for place, size in enumerate(shape[2:])]
        return Value((shape[0], kernel[0], *_counted(call, places)), rows)

    return rule


def transposed_convolution(call: Call) -> Value:
    """Spreads each entry over a window."""
    rows = _image_rows(call)
    shape = call.shape(0)
    if call.attr("output_shape") or call.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        places = [call.fresh(f"place.{place}") for place in range(len(shape) - 2)]
    else:
        places = [_spread(call, size, place) for place, size in enumerate(shape[2:])]
    return Value((shape[0], call.shape(1)[1] * call.attr("group", 1), *_counted(call, places)), rows)


def _spread(call: Call, size: Size, place: int) -> Size:
    def of(name: str, default: int) -> int:
        return int((call.attr(name, [])[place : place + 1] or [default])[0])

    pads = call.attr("pads", [])
    cut = pads[place] + pads[place + len(pads) // 2] if pads else 0
    window = (call.shape(1)[2 + place] - 1) * of("dilations", 1) + 1
    return (size - 1) * of("strides", 1) + of("output_padding", 0) + window - cut


def deformed_convolution(call: Call) -> Value:
    """A convolution that looks where offsets say, for each image its own."""
    rows = _image_rows(call)
    for index in (2, 4):
        if call.get(index) is not None:
            if (call[index].rows is None) != (rows is None):
                raise StoppedError(f"pairs images with {call.name(index)}, and only one of both has rows")
            rows = meet(rows, _image_rows(call, index))
    offsets, weights = call.shape(2), call.shape(1)
    return Value((call.shape(0)[0], weights[0], *offsets[2:]), rows)


def pooling(call: Call) -> list[Value]:
    """One number per window; MaxPool's second output counts places over all images."""
    rows = _image_rows(call)
    shape = call.shape(0)
    kernel = call.attr("kernel_shape", [])
    if len(kernel) != len(shape) - 2:
        raise StoppedError(f"has windows with {len(kernel)} axes for images with {len(shape)}")
    places = [_windows(call, size, Size(kernel[place]), place) for place, size in enumerate(shape[2:])]
    pooled = Value((*shape[:2], *_counted(call, places)), rows)
    if call.outputs > 1 and call.node.output[1] and rows is not None:
        return [pooled, Value(pooled.shape, counts=True)]
    return [pooled, Value(pooled.shape)]


def global_pooling(call: Call) -> Value:
    """One number per image and channel."""
    shape, rows = call.shape(0), call[0].rows
    forbid(rows, range(2, len(shape)), "joins the entries along")
    return Value((*shape[:2], *[ONE] * (len(shape) - 2)), rows)


def unpooling(call: Call) -> Value:
    """Puts entries back to places that are counted over all images."""
    if call[0].rows is not None or call[1].rows is not None:
        raise CoupledError("puts entries to places that are counted over the images of all rows")
    return Value(tuple(call.fresh_shape(len(call.shape(0)))))


def resize(call: Call) -> Value:
    """Scales axes; one that is scaled by 1 keeps its entries."""
    shape, rows = list(call.shape(0)), call[0].rows
    first = 1 if call.opset < 11 else 2
    scales = call.attr("scales") or call.numbers(first)
    sizes = call.sizes(first + 1)
    axes = call.axes(9, len(shape))
    axes = list(range(len(shape))) if axes is None else axes
    if call.attr("coordinate_transformation_mode") == "tf_crop_and_resize" and rows is not None and rows.axis in axes:
        raise StoppedError(f"crops axis {rows.axis}, which holds the rows")
    for place, axis in enumerate(axes):
        if rows is not None and rows.axis == axis:
            _check_kept(call, shape[axis], rows, scales[place] if scales else None, sizes[place] if sizes else None)
        elif sizes and call.attr("keep_aspect_ratio_policy", "stretch") == "stretch" and sizes[place].at_least(0):
            shape[axis] = sizes[place]
            if sizes[place].depends_on_rows:
                raise CoupledError(f"scales axis {axis} to the number of rows")
        elif scales and float(scales[place]).is_integer():
            shape[axis] = shape[axis] * int(scales[place])
        else:
            shape[axis] = call.fresh(f"resized.{axis}")
    return Value(tuple(shape), rows)


def _check_kept(call: Call, have: Size, rows: Rows, scale: float | None, size: Size | None) -> None:
    if scale is None and size is None:
        raise StoppedError(f"scales axis {rows.axis}, which holds the rows, by what cannot be told")
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise StoppedError(f"scales all axes by one ratio, also axis {rows.axis}, which holds the rows")
    if call.attr("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise StoppedError(f"shifts axis {rows.axis}, which holds the rows, by half an entry")
    if (scale is not None and scale != 1) or (size is not None and size != have):
        raise CoupledError(
            f"scales axis {rows.axis}, which holds the rows, {'to ' + str(size) if size else 'by ' + str(scale)}"
        )


def grid_sample(call: Call) -> Value:
    """Looks up places of each image in a grid of its own."""
    rows = meet(_image_rows(call), _image_rows(call, 1))
    if (call[0].rows is None) != (call[1].rows is None):
        raise CoupledError("pairs images and grids by position, and only one of both has rows")
    shape, grid = call.shape(0), call.shape(1)
    return Value((*shape[:2], *grid[1:-1]), rows)


def affine_grid(call: Call) -> Value:
    """A grid for each matrix."""
    rows, sizes = _image_rows(call), call.sizes(1)
    places = sizes[2:] if sizes else None
    if places is None:
        places = call.fresh_shape(2 if call.shape(1)[0] == Size(4) else 3)
    if any(size.depends_on_rows for size in places):
        raise CoupledError("makes a grid as large as the number of rows")
    return Value((call.shape(0)[0], *places, Size(len(places))), rows)


def columns_to_image(call: Call) -> Value:
    """Adds windows up to images."""
    rows, shape = _image_rows(call), call.shape(0)
    image = call.sizes(1)
    block = call.sizes(2)
    if image is None or any(size.depends_on_rows for size in image):
        raise StoppedError("makes images of a size that cannot be told")
    channels = shape[1].exactly_divided(product(block)) if block else None
    return Value((shape[0], channels or call.fresh("channels"), *image), rows)


def regions(call: Call) -> Value:
    """Crops of images; which image is an input."""
    if call[0].rows is not None:
        raise CoupledError("cuts regions out of images of all rows: which image, another input says")
    rows = meet(*(call[index].rows for index in (1, 2))) if call.get(2) is not None else call[1].rows
    if rows is not None and (rows.axis != 0 or (call.get(2) is not None and None in (call[1].rows, call[2].rows))):
        raise CoupledError("pairs regions and images by position")
    high, wide = call.attr("output_height", 1), call.attr("output_width", 1)
    if call.attr("pooled_shape"):
        high, wide = call.attr("pooled_shape")
    return Value((call.shape(1)[0], call.shape(0)[1], Size(high), Size(wide)), rows)


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(["AveragePool", "LpPool", "MaxPool"], pooling),
    **dict.fromkeys(["GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"], global_pooling),
    **dict.fromkeys(["Resize", "Upsample"], resize),
    **dict.fromkeys(["MaxRoiPool", "RoiAlign"], regions),
    **dict.fromkeys(["Conv", "ConvInteger"], convolution(1)),
    "AffineGrid": affine_grid,
    "Col2Im": columns_to_image,
    "ConvTranspose": transposed_convolution,
    "DeformConv": deformed_convolution,
    "GridSample": grid_sample,
    "MaxUnpool": unpooling,
    "QLinearConv": convolution(3),
}
