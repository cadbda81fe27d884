"""Image files as PIL opens them: within bounds, and with what is more than 8 bits brought to 8."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
"""How many pixels an image may have (179 million): PIL's own limit, at which decoding takes 1.4 GiB, of 32 bits 2.2."""

NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
"""What files of ISO/IEC 23008-12 begin with, behind their first 8 bytes, where pictures are coded as HEVC."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file of which the header is read. Raises OSError for a file that is none, or is too large to decode."""
    require_file(path)
    _take_in_plugins()
    try:
        with warnings.catch_warnings():  # PIL warns of half as many pixels as it refuses
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except UnidentifiedImageError as error:
        if remedy := _remedy(path):
            raise OSError(remedy) from error
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"it has more than {MAX_PIXELS:,} pixels, too many to decode; make it smaller") from error
    with image:
        yield image


def require_file(path: Path) -> None:
    """Raise OSError unless `path`, links followed, is a regular file: who opens a pipe may wait for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"it is {NO_FILES.get(stat.S_IFMT(mode), 'a device')}, and no regular file")


@cache
def _take_in_plugins() -> None:
    """Let PIL read HEIC if the package pillow-heif is there."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _remedy(path: Path) -> str | None:
    """What lets PIL read a file that it does not know; None where nothing is known to."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] != b"ftyp":
        return None
    if head[8:] in (b"avif", b"avis"):
        return "it is AVIF, which this installation of Pillow cannot read: install Pillow 11.3 or newer, or convert it"
    if head[8:] in HEIC_BRANDS:
        return "it is HEIC, which Pillow does not read: `pip install pillow-heif`, or convert it to JPEG"
    return None


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
