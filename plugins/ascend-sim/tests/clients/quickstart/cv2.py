"""The three OpenCV calls of the quick-start sample, made of Pillow and NumPy: images are BGR, uint8 [height, width, 3]."""

import numpy as np
from PIL import Image

COLOR_BGR2RGB = 4


def imread(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))[:, :, ::-1].copy()


def resize(image, size):
    if image.shape[1::-1] != tuple(size):
        raise ValueError(f"this stand-in does not interpolate: expected an image of {size}, got {image.shape[1::-1]}")
    return image.copy()


def cvtColor(image, code):  # noqa: N802  OpenCV's name
    if code != COLOR_BGR2RGB:
        raise ValueError(f"code: expected COLOR_BGR2RGB, got {code}")
    return image[:, :, ::-1].copy()
