"""Image files as PIL opens them: within bounds, and with what is more than 8 bits brought to 8."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
"""How many pixels an image may have (179 million): PIL's own limit, at which decoding takes 1.4 GiB, of 32 bits 2.2."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file of which the header is read. Raises OSError for a file that is none, or is too large to decode."""
    try:
        with warnings.catch_warnings():  # PIL warns of half as many pixels as it refuses
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise OSError(f"it has more than {MAX_PIXELS:,} pixels, too many to decode; make it smaller") from error
    with image:
        yield image


def to_rgb(image: Image.Image, upright: bool = False) -> Image.Image:
    """The first picture of an image in RGB, as PIL converts it; of 16 bits of grey, the upper 8 are taken.

    PIL would show all greys above 255 as white. Raises ValueError for numbers of which white is not known. With
    `upright` it is turned as its EXIF data say: cameras that are held upright write what they see on its side.
    """
    rgb = _in_8_bits(image)
    if upright:
        with suppress(Exception):  # whatever damaged EXIF data lead to: the picture is as good without them
            rgb = ImageOps.exif_transpose(rgb)
    return rgb


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which white is not known; save it with 8 bits")
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    grey = np.asarray(image)
    if grey.dtype.itemsize > 2 and not 0 <= int(grey.min()) <= int(grey.max()) < 1 << 16:
        raise ValueError("its pixels are whole numbers of more than 16 bits; save it with 8 bits")
    return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
