"""Image files as PIL opens them: within bounds, and with what is more than 8 bits brought to 8."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from engine.preprocessing import DEPTH

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
"""How many pixels an image may have (179 million): PIL's own limit, at which decoding takes 0.7 to 1.8 GiB."""
HUNGRY = ("WEBP", "JPEG2000")
"""Formats whose decoders take 20 bytes for a pixel, where others take 4 to 11: half as many pixels take 1.7 GiB."""

NO_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
"""What files of ISO/IEC 23008-12 begin with, behind their first 8 bytes, where pictures are coded as HEVC."""
DEPTHS = (8, 10, 12, 14, DEPTH)
"""The numbers of bits that cameras and scanners use; files have room for 16 or 32."""
OTHER_BYTES = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": f"RGB;16{'BL'[sys.byteorder == 'big']}"}
"""By the name that PIL has for colours of 16 bits, of which it keeps the upper 8, that of the other order of bytes."""
STRIP = 1024
"""How many rows are looked at or changed at a time."""


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
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
        if image.format in HUNGRY and image.width * image.height > (limit := MAX_PIXELS // 2):
            raise OSError(
                f"it has more than {limit:,} pixels, too many to decode of {image.format}; make it smaller, or save it"
                " as JPEG or PNG"
            )
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


def inspect(path: Path) -> int | None:
    """Return the least of DEPTHS that holds the values of an image of more than 8 bits; None for all other images.

    Only one of more than 8 bits is decoded. Raises OSError for a file that is no image or too large, ValueError for
    values of more than 16 bits.
    """
    with open_image(path) as image:
        lower = _lower_bytes(image)
        if not _is_deep_grey(image) and lower is None:
            return None
        largest = _largest(image, lower)
        return next(depth for depth in DEPTHS if largest < 1 << depth)


def _is_deep_grey(image: Image.Image) -> bool:
    """Whether the pixels of an image are whole numbers of more than 8 bits."""
    return image.mode.startswith("I")


def to_rgb(image: Image.Image, upright: bool = False, depth: int = DEPTH, background: str = "") -> Image.Image:
    """Return the first picture of an image in RGB.

    Of more than 8 bits, the upper 8 of `depth` bits are taken; PIL would show greys above 255 as white, and colours of
    less than 16 bits dark.
    Transparent pixels are shown on `background`, the name of a colour, or in the colours beneath for "". With `upright`
    it is turned as its EXIF data say: cameras that are held upright write their pictures on the side. Raises ValueError
    for numbers of which white is not known, and for values of more than `depth` bits.
    """
    rgb = _in_8_bits(image, depth)
    if background and rgb.has_transparency_data:
        rgb = _on_background(rgb, background)
    elif rgb.mode != "RGB":  # or PIL copies it, and large images are large
        rgb = rgb.convert("RGB")
    rgb.load()
    if upright:
        with suppress(Exception):  # whatever damaged EXIF data lead to: the picture is as good without them
            if rgb.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # likewise
                rgb = ImageOps.exif_transpose(rgb)
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """Iterate over parts of an image, with the box of each: copies of all at once would be as large as the image."""
    for top in range(0, image.height, STRIP):
        box = (0, top, image.width, min(top + STRIP, image.height))
        yield box, image.crop(box)


def _on_background(image: Image.Image, background: str) -> Image.Image:
    """Return an image with transparency in RGB, on a background."""
    shown = Image.new("RGB", image.size, background)
    for box, strip in _strips(image):
        strip = strip.convert("RGBA")
        shown.paste(strip, box, strip)
    shown.info = dict(image.info)
    return shown


def _in_8_bits(image: Image.Image, depth: int) -> Image.Image:
    """Return an image of 8 bits a channel, in any mode, with the EXIF data and the transparency of `image`."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which white is not known; save it with 8 bits")
    lower = _lower_bytes(image) if depth < DEPTH else None
    if not _is_deep_grey(image) and lower is None:
        return image
    if (largest := _largest(image, lower)) >> depth:
        raise ValueError(
            f"its values go up to {largest}, and the other images of its dataset have {depth} bits; save it as"
            " these are"
        )
    transparent = image.info.get("transparency") if lower is None else None  # of greys the value of these pixels
    shown = Image.new("RGB" if lower else "L" if transparent is None else "LA", image.size)
    for box, values in _values(image, lower):
        part = Image.fromarray((values >> (depth - 8)).astype(np.uint8))
        if transparent is not None:
            part.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        shown.paste(part, box)
    shown.info = dict(image.info)
    return shown


def _lower_bytes(image: Image.Image) -> Image.Image | None:
    """Return the lower 8 bits of the colours of a file of 16, before it is decoded; None for other images.

    PIL decodes the upper 8, and the lower ones when it takes the bytes to be in the other order.
    """
    tiles = [_in_other_order(tile) for tile in getattr(image, "tile", ())]
    if image.mode != "RGB" or not tiles or None in tiles or not image.filename:
        return None
    with open_image(Path(image.filename)) as lower:
        lower.tile = tiles
        lower.load()
        return lower


def _in_other_order(tile: Any) -> Any:
    """One of PIL's orders to decode, with the bytes of colours of 16 bits in the other order; None for other pixels."""
    name, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    return tile._replace(args=(OTHER_BYTES[name], *rest)) if name in OTHER_BYTES else None


def _values(image: Image.Image, lower: Image.Image | None) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
    """Iterate over the values of an image of more than 8 bits in strips, with the box of each."""
    for box, strip in _strips(image):
        values = np.asarray(strip)
        yield box, values if lower is None else values.astype(np.uint16) << 8 | np.asarray(lower.crop(box))


def _largest(image: Image.Image, lower: Image.Image | None) -> int:
    """Return the largest value of an image of more than 8 bits. Raises ValueError for values of more than 16."""
    extrema = [(int(values.min()), int(values.max())) for _, values in _values(image, lower)]
    if min(extrema)[0] < 0 or (largest := max(high for _, high in extrema)) >> DEPTH:
        raise ValueError("its pixels are whole numbers of more than 16 bits; save it with 8 bits")
    return largest
