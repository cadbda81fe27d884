"""Open image files with PIL: limit their size, and reduce deeper images to 8 bits."""

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
"""Most pixels of an image (179 million): PIL's own limit, at which decoding takes 0.7 to 1.8 GiB."""
MEMORY_HUNGRY = ("WEBP", "JPEG2000")
"""Formats whose decoders take 20 bytes a pixel (others: 4 to 11). They may have half as many pixels: 1.7 GiB."""

SPECIAL_FILES = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
"""Brands of ISO/IEC 23008-12 files with HEVC-coded pictures, which follow the first 8 bytes of the file."""
DEPTHS = (8, 10, 12, 14, DEPTH)
"""Bits per channel that cameras and scanners use; files have room for 16 or 32."""
OTHER_BYTES = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": f"RGB;16{'BL'[sys.byteorder == 'big']}"}
"""PIL's raw modes for 16-bit colours (it keeps the upper 8 bits), each with the mode of the other byte order."""
STRIP = 1024
"""Rows that are processed at a time."""


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file and read its header. Raises OSError if it is not an image, or is too large to decode."""
    require_file(path)
    _register_plugins()
    try:
        with warnings.catch_warnings():  # PIL warns at half of its limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except UnidentifiedImageError as error:
        if advice := _format_advice(path):
            raise OSError(advice) from error
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"it has more than {MAX_PIXELS:,} pixels, too many to decode; make it smaller") from error
    with image:
        if image.format in MEMORY_HUNGRY and image.width * image.height > (limit := MAX_PIXELS // 2):
            raise OSError(
                f"it has more than {limit:,} pixels, too many to decode of {image.format}; make it smaller, or save it"
                " as JPEG or PNG"
            )
        yield image


def require_file(path: Path) -> None:
    """Raise OSError unless `path`, links followed, is a regular file: opening a pipe may block forever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(f"it is {SPECIAL_FILES.get(stat.S_IFMT(mode), 'a device')}, not a regular file")


@cache
def _register_plugins() -> None:
    """Register the HEIC reader of pillow-heif with PIL, if that package is installed."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _format_advice(path: Path) -> str | None:
    """Return how to make a file readable that PIL does not know; None for unknown formats."""
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
    """Return the smallest of DEPTHS that holds the values of an image of more than 8 bits; None for 8-bit images.

    8-bit images are not decoded. Raises OSError if the file is not an image or too large, ValueError for values of
    more than 16 bits.
    """
    with open_image(path) as image:
        lower = _lower_bytes(image)
        if not _is_deep_grey(image) and lower is None:
            return None
        largest = _largest(image, lower)
        return next(depth for depth in DEPTHS if largest < 1 << depth)


def _is_deep_grey(image: Image.Image) -> bool:
    """Return whether the image is grey with integer pixels of more than 8 bits."""
    return image.mode.startswith("I")


def to_rgb(image: Image.Image, upright: bool = False, depth: int = DEPTH, background: str = "") -> Image.Image:
    """Return the first picture of an image file in RGB, 8 bits a channel.

    Deeper images keep the upper 8 of `depth` bits; PIL would turn greys above 255 white, and darken colours of fewer
    than 16 bits. Transparent pixels are drawn on `background`, a colour name; "" ignores transparency. `upright`
    applies the EXIF orientation, because cameras held upright store their pictures sideways.
    Raises ValueError for pixel types without a known white, and for values of more than `depth` bits.
    """
    rgb = _reduce_to_8_bits(image, depth)
    if background and rgb.has_transparency_data:
        rgb = _flatten(rgb, background)
    elif rgb.mode != "RGB":  # PIL would copy a large image for nothing
        rgb = rgb.convert("RGB")
    rgb.load()
    if upright:
        with suppress(Exception):  # damaged EXIF data can raise anything; use the picture without them
            if rgb.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # avoids PIL's copy
                rgb = ImageOps.exif_transpose(rgb)
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """Yield horizontal strips of an image with their boxes; a copy of the whole would double the memory."""
    for top in range(0, image.height, STRIP):
        box = (0, top, image.width, min(top + STRIP, image.height))
        yield box, image.crop(box)


def _flatten(image: Image.Image, background: str) -> Image.Image:
    """Return a transparent image in RGB, drawn on a background."""
    shown = Image.new("RGB", image.size, background)
    for box, strip in _strips(image):
        strip = strip.convert("RGBA")
        shown.paste(strip, box, strip)
    shown.info = dict(image.info)
    return shown


def _reduce_to_8_bits(image: Image.Image, depth: int) -> Image.Image:
    """Return the image with 8 bits a channel, in any mode, keeping its EXIF data and transparency."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known white; save it with 8 bits")
    lower = _lower_bytes(image) if depth < DEPTH else None
    if not _is_deep_grey(image) and lower is None:
        return image
    if (largest := _largest(image, lower)) >> depth:
        raise ValueError(
            f"its values go up to {largest}, and the other images of its dataset have {depth} bits; save it with"
            f" {depth} bits"
        )
    transparent = (
        image.info.get("transparency") if lower is None else None
    )  # of grey images: the value of transparent pixels
    shown = Image.new("RGB" if lower else "L" if transparent is None else "LA", image.size)
    for box, values in _values(image, lower):
        strip = Image.fromarray((values >> (depth - 8)).astype(np.uint8))
        if transparent is not None:
            strip.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        shown.paste(strip, box)
    shown.info = dict(image.info)
    return shown


def _lower_bytes(image: Image.Image) -> Image.Image | None:
    """Return the lower 8 bits of 16-bit colours, if the image is not yet decoded; None for other images.

    PIL decodes only the upper 8 bits. Told the other byte order, it decodes the lower 8.
    """
    tiles = [_swap_byte_order(tile) for tile in getattr(image, "tile", ())]
    if image.mode != "RGB" or not tiles or None in tiles or not image.filename:
        return None
    with open_image(Path(image.filename)) as lower:
        lower.tile = tiles
        lower.load()
        return lower


def _swap_byte_order(tile: Any) -> Any:
    """Return a PIL tile of 16-bit colours with the other byte order; None for other pixels."""
    name, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    return tile._replace(args=(OTHER_BYTES[name], *rest)) if name in OTHER_BYTES else None


def _values(image: Image.Image, lower: Image.Image | None) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
    """Yield the values of an image of more than 8 bits in strips, with their boxes."""
    for box, strip in _strips(image):
        values = np.asarray(strip)
        yield box, values if lower is None else values.astype(np.uint16) << 8 | np.asarray(lower.crop(box))


def _largest(image: Image.Image, lower: Image.Image | None) -> int:
    """Return the largest value of an image of more than 8 bits. Raises ValueError for values of more than 16 bits."""
    extrema = [(int(values.min()), int(values.max())) for _, values in _values(image, lower)]
    if min(extrema)[0] < 0 or (largest := max(high for _, high in extrema)) >> DEPTH:
        raise ValueError("its pixels are integers of more than 16 bits; save it with 8 bits")
    return largest
