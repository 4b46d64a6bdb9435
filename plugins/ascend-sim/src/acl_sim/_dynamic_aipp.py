"""Dynamic AIPP: the parameters that a program sets for each execution, and the bytes in which they reach it.

A model with dynamic AIPP has one more input (`_om.AIPP_INPUT`) per input that it preprocesses. ``set_input_aipp`` writes the
parameters into that input's buffer, and what lies there when the model runs is what counts, as with gears.

Decision: the sizes are the vendor's (64 bytes, and 96 per image), the layout is ours and starts with a mark, so that bytes
which no set wrote are told apart. Minima and reciprocal variances have half precision, as in the vendor's structure::

    0    8    mark, b"acl-aipp"
    8    4    number of images
    12   1    number of the source format
    13   2    switches: rbuv swap, ax swap
    16   8    width and height of the source images
    64        per image 96 bytes: switches of crop and padding; crop x, y, w, h; padding top, bottom, left, right (int32);
              4 means (int16), 4 minima, 4 reciprocal variances (float16)

Decision: dynamic AIPP pads with zeros; the vendor's structure has no padding value.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from acl_sim._aipp import FORMATS, AippConfig, AippError

HEAD_BYTES: Final = 64
IMAGE_BYTES: Final = 96
_MARK: Final = b"acl-aipp"
_HEAD: Final = struct.Struct("<8sIB2?xii")
_IMAGE: Final = struct.Struct("<2?xx4i4i4h4e4e")
_MAX_PADDED_WIDTH: Final = 1080

#: Number in the acl interface -> name, of all that ``set_aipp_input_format`` takes.
FORMAT_NAMES: Final = {
    1: "YUV420SP_U8", 2: "XRGB8888_U8", 3: "RGB888_U8", 4: "YUV400_U8", 5: "NC1HWC0DI_FP16", 6: "NC1HWC0DI_S8",
    7: "ARGB8888_U8", 8: "YUYV_U8", 9: "YUV422SP_U8", 10: "AYUV444_U8", 11: "RAW10", 12: "RAW12", 13: "RAW16", 14: "RAW24",
}  # fmt: skip


def data_bytes(batch: int) -> int:
    """Return the bytes of the parameters for a batch of images."""
    return HEAD_BYTES + IMAGE_BYTES * batch


@dataclass(eq=False)
class DynamicAipp:
    """What an aipp handle stands for: what one program has set so far.

    Attributes:
        images: crop, padding and normalisation of each image of the batch.
        format_number: of the source images; 0 until set.
        width: of the source images, in pixels; 0 until set, as is height.
        resized: batch indexes whose resize is switched on.
    """

    images: list[AippConfig]
    format_number: int = 0
    width: int = 0
    height: int = 0
    rbuv_swap: bool = False
    ax_swap: bool = False
    resized: set[int] = field(default_factory=set)

    def check(self, shape: Sequence[int], max_bytes: int, soc_name: str) -> None:
        """Check that all of it leads to a model's input.

        Args:
            shape: [n, c, h, w] of the model's input, n of its largest batch.
            max_bytes: its max_src_image_size.
            soc_name: of the chip that runs it.

        Raises:
            AippError: it does not; the text says what does not fit.
        """
        batch = shape[0]
        name = FORMAT_NAMES.get(self.format_number)
        if name is None:
            raise AippError("the input format is not set: call set_aipp_input_format")
        if name not in FORMATS:
            raise AippError(f"dynamic AIPP takes {', '.join(FORMATS)}, not format {self.format_number} ({name})")
        if not self.width:
            raise AippError("the size of the source images is not set: call set_aipp_src_image_size")
        if len(self.images) != batch:
            raise AippError(f"create_aipp was for {len(self.images)} images, the largest batch of the model has {batch}")
        size = batch * self.width * self.height * FORMATS[name][1]
        if size > max_bytes:
            raise AippError(f"{batch} source images take {size} bytes, max_src_image_size is {max_bytes}")
        if self.resized:
            raise AippError(f"image {min(self.resized)}: dynamic AIPP does not resize, switch set_aipp_scf_params off")
        for index, config in enumerate(parse(self.to_bytes())):
            try:
                config.source_shape(shape)
            except AippError as error:
                raise AippError(f"image {index}: {error}") from error
            # The vendor's source: all chips but the 310B family.
            if config.padding and shape[3] > _MAX_PADDED_WIDTH and not soc_name.startswith("Ascend310B"):
                raise AippError(f"image {index}: {shape[3]} pixels across, a padded image has at most {_MAX_PADDED_WIDTH}")

    def to_bytes(self) -> bytes:
        """Return what goes into the parameter input."""
        head = _HEAD.pack(_MARK, len(self.images), self.format_number, self.rbuv_swap, self.ax_swap, self.width, self.height)
        return head.ljust(HEAD_BYTES, b"\0") + b"".join(map(_image_bytes, self.images))


def _image_bytes(config: AippConfig) -> bytes:
    packed = _IMAGE.pack(
        config.crop,
        config.padding,
        *(config.load_start_pos_w, config.load_start_pos_h, config.crop_size_w, config.crop_size_h),
        *(config.top_padding_size, config.bottom_padding_size, config.left_padding_size, config.right_padding_size),
        *map(int, config.mean),
        *config.min,
        *config.var_reci,
    )
    return packed.ljust(IMAGE_BYTES, b"\0")


def parse(data: bytes) -> list[AippConfig]:
    """Read what `DynamicAipp.to_bytes` wrote: what is done to each image, as if it were its static AIPP.

    Raises:
        AippError: it is something else.
    """
    if len(data) < HEAD_BYTES or data[: len(_MARK)] != _MARK:
        raise AippError("these are no AIPP parameters")
    _, batch, number, rbuv_swap, ax_swap, width, height = _HEAD.unpack_from(data)
    if len(data) < data_bytes(batch):
        raise AippError(f"AIPP parameters of {batch} images take {data_bytes(batch)} bytes, there are {len(data)}")
    common = AippConfig(
        input_format=FORMAT_NAMES.get(number, str(number)),
        src_image_size_w=width,
        src_image_size_h=height,
        rbuv_swap_switch=rbuv_swap,
        ax_swap_switch=ax_swap,
    )
    return [_image(common, _IMAGE.unpack_from(data, data_bytes(index))) for index in range(batch)]


def _image(common: AippConfig, fields: Sequence[float]) -> AippConfig:
    crop, padding = bool(fields[0]), bool(fields[1])
    x, y, w, h, top, bottom, left, right = (int(value) for value in fields[2:10])
    return replace(
        common,
        crop=crop,
        load_start_pos_w=x,
        load_start_pos_h=y,
        crop_size_w=w,
        crop_size_h=h,
        padding=padding,
        top_padding_size=top,
        bottom_padding_size=bottom,
        left_padding_size=left,
        right_padding_size=right,
        mean=tuple(float(value) for value in fields[10:14]),
        min=tuple(float(value) for value in fields[14:18]),
        var_reci=tuple(float(value) for value in fields[18:22]),
    )
