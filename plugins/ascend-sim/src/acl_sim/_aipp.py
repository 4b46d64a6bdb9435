"""AIPP, the image preprocessing in front of a model: its configuration file, and what it does to pixels.

Simulated: crop, channel swaps (``rbuv_swap_switch``, ``ax_swap_switch``), mean, min, reciprocal variance and padding of
unsigned 8 bit images in RGB888, XRGB8888 and YUV400 (grey). Everything else is refused by name: colour conversion
(``csc_switch``) and the YUV formats, resizing, rotation, single-line mode.

Per pixel and channel: ``(pixel - mean - min) * var_reci``; swaps and crop come before it and padding after it, so that
``padding_value`` is what the model sees. That is the order of the vendor's manual (page of aclmdlSetInputAIPP).

A pixel of XRGB8888 has its fourth byte beside the colours (RGBX); with ``ax_swap_switch`` it is the first one (XRGB). A model
of three channels sees the colours only. So say the examples of the vendor's manual, in spite of the format's name.

With dynamic AIPP the parameters of each image come from the program (`_dynamic_aipp`): they, too, become an `AippConfig` per
image, so that the arithmetic is in one place, `AippConfig.apply`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Name in a configuration file: (number in the acl interface, bytes per pixel, channels that the model may see).
FORMATS: Final[Mapping[str, tuple[int, int, tuple[int, ...]]]] = {
    "RGB888_U8": (3, 3, (3,)),
    "XRGB8888_U8": (2, 4, (3, 4)),
    "YUV400_U8": (4, 1, (1,)),
}

_REFUSED_SWITCHES: Final = (
    "csc_switch",
    "resize",
    "single_line_mode",
    "support_rotation",
    "raw_rgbir_to_f16_n",
    "cpadding",
)
# Meaningful only with a switch that is refused: most files carry them, and they change nothing.
_IDLE: Final = re.compile(r"matrix_r\dc\d|(in|out)put_bias_\d|resize_output_[wh]|cpadding_value")
_MAX_TEXT: Final = 1 << 20


class AippError(Exception):
    """A configuration that is wrong, or that the simulator does not carry out."""


@dataclass(frozen=True, slots=True)
class AippConfig:
    """The AIPP of one input; attributes as the fields of the vendor's configuration file, defaults too.

    Attributes:
        aipp_mode: "static" or "dynamic".
        related_input_rank: which input of the model.
        max_src_image_size: of a dynamic configuration, the bytes of the data input, all images of the largest batch together.
        mean: per channel of the model's input, as are min and var_reci.
    """

    aipp_mode: str = "static"
    related_input_rank: int = 0
    input_format: str = "RGB888_U8"
    src_image_size_w: int = 0
    src_image_size_h: int = 0
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
    padding_value: float = 0.0
    rbuv_swap_switch: bool = False
    ax_swap_switch: bool = False
    max_src_image_size: int = 0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    min: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    var_reci: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.aipp_mode not in ("static", "dynamic"):
            raise AippError(f"aipp_mode must be static or dynamic, got {self.aipp_mode!r}")
        if self.input_format not in FORMATS:
            raise AippError(f"input_format {self.input_format!r} is not simulated; these are: {', '.join(FORMATS)}")
        for name in ("related_input_rank", "load_start_pos_w", "load_start_pos_h", "crop_size_w", "crop_size_h"):
            _in_range(name, getattr(self, name), 0, 4096)
        for name in ("left_padding_size", "right_padding_size", "top_padding_size", "bottom_padding_size"):
            _in_range(name, getattr(self, name), 0, 32)
        _in_range("max_src_image_size", self.max_src_image_size, 0, (1 << 31) - 1)
        if self.dynamic and not self.max_src_image_size:
            raise AippError("dynamic AIPP needs max_src_image_size")
        if self.src_image_size_w or self.src_image_size_h:
            _in_range("src_image_size_w", self.src_image_size_w, 2, 4096)
            _in_range("src_image_size_h", self.src_image_size_h, 1, 4096)
        if self.crop and not self.dynamic and not (self.crop_size_w and self.crop_size_h):
            # The vendor takes missing crop sizes from the model's input; the simulator wants them said.
            raise AippError("crop needs crop_size_w and crop_size_h")
        for name in ("mean", "min", "var_reci"):
            values = getattr(self, name)
            if len(values) != 4 or not all(math.isfinite(value) for value in values):
                raise AippError(f"{name} needs four finite numbers")
        if not math.isfinite(self.padding_value):
            raise AippError("padding_value must be finite")

    @property
    def dynamic(self) -> bool:
        """Whether the program gives the parameters, per execution, and not this configuration."""
        return self.aipp_mode == "dynamic"

    @property
    def format_number(self) -> int:
        """Number of the source format in the acl interface."""
        return FORMATS[self.input_format][0]

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one source pixel."""
        return FORMATS[self.input_format][1]

    def source_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the image that a client hands over, for a model input of height and width.

        Raises:
            AippError: the configuration does not lead to that input.
        """
        source_h = self.src_image_size_h or height
        source_w = self.src_image_size_w or width
        if self.crop:
            h, w = self.crop_size_h, self.crop_size_w
            if self.load_start_pos_h + h > source_h or self.load_start_pos_w + w > source_w:
                raise AippError(
                    f"the crop {w}x{h} at {self.load_start_pos_w},{self.load_start_pos_h} leaves {source_w}x{source_h}"
                )
        else:
            h, w = source_h, source_w
        if self.padding:
            h += self.top_padding_size + self.bottom_padding_size
            w += self.left_padding_size + self.right_padding_size
        if (h, w) != (height, width):
            raise AippError(f"AIPP makes {w}x{h} (width x height), the model's input is {width}x{height}")
        return source_h, source_w

    def check_input(self, shape: Sequence[int]) -> None:
        """Check that this can stand in front of a model input of shape [n, c, h, w]; n may be -1.

        Raises:
            AippError: the input is not such a tensor, or a static configuration does not lead to it.
        """
        if not self.dynamic:
            self.source_shape(shape)
            return
        _check_image(shape)
        known = {channels for _, _, seen in FORMATS.values() for channels in seen}
        if shape[1] not in known:
            raise AippError(f"no simulated format of dynamic AIPP fits an input of {shape[1]} channels")

    def source_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape [n, h, w, bytes per pixel] a client hands over for a model input of shape [n, c, h, w].

        Raises:
            AippError: the input is not such a tensor, or the configuration does not lead to it.
        """
        _check_image(shape)
        if shape[1] not in FORMATS[self.input_format][2]:
            raise AippError(f"{self.input_format} does not fit an input of {shape[1]} channels")
        return (shape[0], *self.source_size(shape[2], shape[3]), self.bytes_per_pixel)

    def apply(self, images: Array, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Return the model's input for uint8 images of `source_shape`.

        Args:
            images: [n, h, w, bytes per pixel].
            shape: [n, c, h, w] of the model's input.
            dtype: of the model's input; float32 or float16.
        """
        pixels = images
        if self.crop:
            top, left = self.load_start_pos_h, self.load_start_pos_w
            pixels = pixels[:, top : top + self.crop_size_h, left : left + self.crop_size_w]
        channels = shape[1]
        order = list(range(self.bytes_per_pixel))  # the colours first
        if self.ax_swap_switch and len(order) == 4:
            order = [1, 2, 3, 0]
        if self.rbuv_swap_switch and len(order) >= 3:
            order[0], order[2] = order[2], order[0]
        pixels = pixels[..., order[:channels]]
        values = pixels.astype(np.float32)
        mean, low, scale = (np.asarray(v[:channels], np.float32) for v in (self.mean, self.min, self.var_reci))
        values = (values - mean - low) * scale
        if self.padding:
            edges = (
                (0, 0),
                (self.top_padding_size, self.bottom_padding_size),
                (self.left_padding_size, self.right_padding_size),
                (0, 0),
            )
            values = np.pad(values, edges, constant_values=np.float32(self.padding_value))
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)).astype(dtype)

    def to_fields(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_fields(cls, value: object) -> AippConfig:
        """Return what `to_fields` wrote.

        Raises:
            AippError: it is something else.
        """
        if not isinstance(value, dict) or set(value) != {field.name for field in fields(cls)}:
            raise AippError("not the fields of an AIPP configuration")
        checked: dict[str, Any] = {}
        for field in fields(cls):
            entry = value[field.name]
            kind = type(field.default)
            if kind is tuple:
                if not isinstance(entry, (list, tuple)) or not all(_is_number(number) for number in entry):
                    raise AippError(f"{field.name}: expected numbers")
                entry = tuple(float(number) for number in entry)
            elif kind is float:
                if not _is_number(entry):
                    raise AippError(f"{field.name}: expected a number")
                entry = float(entry)
            elif type(entry) is not kind:
                raise AippError(f"{field.name}: expected {kind.__name__}")
            checked[field.name] = entry
        return cls(**checked)


def _check_image(shape: Sequence[int]) -> None:
    if len(shape) != 4 or -1 in shape[1:]:
        raise AippError("AIPP needs an input [n, c, h, w] with fixed c, h and w")


def parse_config(text: str) -> list[AippConfig]:
    """Read an AIPP configuration file (protobuf text form): one entry per ``aipp_op``.

    Raises:
        AippError: it is not one, names an unknown field, or wants something that is not simulated.
    """
    if len(text) > _MAX_TEXT:
        raise AippError("the file is too long")
    tokens = _tokens(text)
    configs: list[AippConfig] = []
    for token in tokens:
        if token != "aipp_op":
            raise AippError(f"expected aipp_op, got {token!r}")
        brace = next(tokens, "")
        if brace == ":":
            brace = next(tokens, "")
        if brace != "{":
            raise AippError("expected { after aipp_op")
        configs.append(_operation(tokens))
    if not configs:
        raise AippError("the file holds no aipp_op")
    ranks = [config.related_input_rank for config in configs]
    if len(set(ranks)) != len(ranks):
        raise AippError("two aipp_op for one related_input_rank")
    return configs


_TOKEN: Final = re.compile(r"\s+|#[^\n]*|(?P<token>[{}:]|\"[^\"\n]*\"|[A-Za-z_]\w*|[-+]?[\w.+-]+)|[,;]")


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise AippError(f"unexpected character {text[position]!r}")
        position = match.end()
        if match["token"]:
            yield match["token"]


def _operation(tokens: Iterator[str]) -> AippConfig:
    values: dict[str, Any] = {}
    channels: dict[str, list[float]] = {"mean": [0.0] * 4, "min": [0.0] * 4, "var_reci": [1.0] * 4}
    seen: set[str] = set()
    known = {field.name: type(field.default) for field in fields(AippConfig)}
    for name in tokens:
        if name == "}":
            return AippConfig(
                **values,
                mean=tuple(channels["mean"]),
                min=tuple(channels["min"]),
                var_reci=tuple(channels["var_reci"]),
            )
        if next(tokens, "") != ":":
            raise AippError(f"expected : after {name!r}")
        value = next(tokens, "").strip('"')
        if name in seen:
            raise AippError(f"{name} is there twice")
        seen.add(name)
        channel = re.fullmatch(r"(mean|min|var_reci)_chn_([0-3])", name)
        if channel:
            channels[channel[1]][int(channel[2])] = _number(name, value)
        elif name in _REFUSED_SWITCHES:
            if _switch(name, value):
                raise AippError(f"{name} is not simulated")
        elif name in known and known[name] is not tuple:
            values[name] = _value(name, value, known[name])
        elif not _IDLE.fullmatch(name):
            raise AippError(f"unknown field {name!r}, or one that is not simulated")
    raise AippError("a } is missing")


def _value(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        return _switch(name, text)
    if kind is int:
        number = _number(name, text)
        if number != int(number):
            raise AippError(f"{name}: expected a whole number, got {text!r}")
        return int(number)
    if kind is float:
        return _number(name, text)
    return text


def _switch(name: str, text: str) -> bool:
    answers = {"true": True, "1": True, "t": True, "True": True, "false": False, "0": False, "f": False, "False": False}
    if text not in answers:
        raise AippError(f"{name}: expected true or false, got {text!r}")
    return answers[text]


def _number(name: str, text: str) -> float:
    try:
        number = float(text.rstrip("fF")) if text[:1] not in "nNiI" else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise AippError(f"{name}: expected a number, got {text!r}")
    return number


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e38


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise AippError(f"{name} must be {low}..{high}, got {value}")
