"""Transform an image file into the encoder's input (section 3 of the protocol).

    pixels = normalise(render(open_rgb(path), view, preprocessing, seed), preprocessing)

The result is bit-equal to open_clip's own transform for the encoder, on PIL images. `open_fast` makes decoding and
resizing twice as fast, with differences of one grey level in places. `engine.features.views` lists the views.
"""

from __future__ import annotations

import math
import random
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from engine.images import MAX_PIXELS, open_image, to_rgb
from engine.preprocessing import DEPTH, Preprocessing

RgbImage = Image.Image | Tensor
"""An RGB image: PIL's, or uint8 [3, H, W]."""

CROP_AREA, CROP_RATIO = (0.9, 1.0), (3 / 4, 4 / 3)
"""Ranges of area (relative to the image) and aspect ratio (width / height) of random crops, for encoders that do not
crop. open_clip trains them with these (`AugmentationCfg` and torchvision's `RandomResizedCrop`)."""
RESIZED_AREA = (0.08, 1.0)
"""The range of area of `randomresizedcrop`, with the same aspect ratios: torchvision's values, and CoOp's."""
CROP_TRIES = 10
"""Draws of a random crop before falling back to the largest centre crop, as in torchvision and timm."""


def open_rgb(path: Path, upright: bool = False, depth: int = DEPTH, background: str = "") -> Image.Image:
    """Decode the first picture of an image file to RGB, as `engine.images.to_rgb` describes.

    Raises OSError, or another error of PIL, for a corrupt file; OSError for an image that is too large; ValueError for
    unsupported pixel values.
    """
    with open_image(path) as image:
        return to_rgb(image, upright, depth, background)


def open_fast(path: Path, upright: bool = False, depth: int = DEPTH, background: str = "") -> Tensor:
    """Decode an image file with torchvision: RGB, uint8 [3, H, W].

    Falls back to PIL where torchvision lacks support: other formats, more than 8 bits, EXIF orientation of some
    formats, transparency on a background. Raises the errors of `open_rgb`.
    """
    from torchvision.io import ImageReadMode, decode_image  # deprecated by torchvision

    with open_image(path) as header:  # checks the size: torchvision has no limit
        is_turned = not upright or header.format in ("JPEG", "MPO", "PNG")
        is_shown = not (background and header.has_transparency_data)
    image = None
    if is_turned and is_shown:
        with suppress(RuntimeError):  # an unknown format, or a corrupt or missing file: PIL decides
            image = decode_image(str(path), ImageReadMode.RGB, apply_exif_orientation=upright)
    if image is None or image.dtype != torch.uint8 or image.dim() > 3:
        del image  # frees a 16-bit image, which may be large
        return F.pil_to_tensor(open_rgb(path, upright, depth, background))
    return image


def decode_file(path: Path, decode: str, upright: bool, depth: int, background: str) -> RgbImage:
    """Decode an image file with `open_rgb` (`decode` is pil) or `open_fast` (fast). Raises the errors of `open_rgb`."""
    return (open_rgb if decode == "pil" else open_fast)(path, upright, depth, background)


def render(image: RgbImage, view: str, preprocessing: Preprocessing, seed: str) -> Tensor:
    """Return one view of an RGB image: uint8 [3, size, size]. PIL images are resized by PIL.

    `none` is the encoder's own preprocessing, `flip` its mirror image. A `randomcrop` view draws its crop and its flip
    (p = 0.5) from `seed`, which names dataset, image and view: the result is reproducible everywhere. With
    `resize_mode` shortest, the position of the crop is drawn. With the others, the crop is one of open_clip's training
    crops (`CROP_AREA`, `CROP_RATIO`), resized to size x size. A `randomresizedcrop` view is torchvision's
    RandomResizedCrop of `RESIZED_AREA`, for every encoder.
    Raises ValueError for a strip so narrow that resizing would make it enormous.
    """
    size, height, width = preprocessing.size, *F.get_size(image)
    target = _target_size(preprocessing, height, width)
    # sides are resized one after the other: the intermediate image may still have the original long side
    if max(math.prod(target), size * max(height, width)) > MAX_PIXELS:
        raise ValueError(f"{max(height, width)} x {min(height, width)} pixels are too narrow a strip; cut it")
    interpolation = InterpolationMode(preprocessing.interpolation)
    if view in ("none", "flip"):
        image = _crop_or_pad(F.resize(image, target, interpolation), size, preprocessing.fill_color)
        flipped = view == "flip"
    else:
        draw, is_resized = random.Random(seed), view.startswith("randomresizedcrop")
        if preprocessing.resize_mode == "shortest" and not is_resized:
            image, (height, width) = F.resize(image, target, interpolation), target
            image = F.crop(image, draw.randint(0, height - size), draw.randint(0, width - size), size, size)
        else:
            box = _random_box(draw, height, width, RESIZED_AREA if is_resized else CROP_AREA)
            image = F.resized_crop(image, *box, [size, size], interpolation)
        flipped = draw.random() < 0.5
    image = F.horizontal_flip(image) if flipped else image
    return image if isinstance(image, Tensor) else F.pil_to_tensor(image)


def _target_size(preprocessing: Preprocessing, height: int, width: int) -> list[int]:
    """Return the height and width to resize an image to, before it is cropped or padded to size x size."""
    size, short, long = preprocessing.size, min(height, width), max(height, width)
    match preprocessing.resize_mode:
        case "squash":
            return [size, size]
        case "longest":
            return [max(1, round(side / (long / size))) for side in (height, width)]
        case "shortest":
            long = int(size * long / short)
            return [long, size] if width <= height else [size, long]
    raise ValueError(f"there is no resize mode '{preprocessing.resize_mode}'")


def _crop_or_pad(image: RgbImage, size: int, fill_color: int) -> RgbImage:
    """Return an image cropped or padded to size x size around its centre."""
    height, width = F.get_size(image)
    across, down = max(0, size - width), max(0, size - height)
    if across or down:
        image = F.pad(image, [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2], fill=fill_color)
    return F.center_crop(image, [size, size])


def _random_box(draw: random.Random, height: int, width: int, areas: tuple[float, float]) -> tuple[int, int, int, int]:
    """Draw a random crop of an image with a share of its area in the range `areas`: top, left, height and width."""
    for _ in range(CROP_TRIES):
        area = height * width * draw.uniform(*areas)
        ratio = math.exp(draw.uniform(*map(math.log, CROP_RATIO)))
        high, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < high <= height and 0 < wide <= width:
            return draw.randint(0, height - high), draw.randint(0, width - wide), high, wide
    narrowest, widest = CROP_RATIO
    high, wide = min(height, round(width / narrowest)), min(width, round(height * widest))
    return (height - high) // 2, (width - wide) // 2, high, wide


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise rendered images, uint8 [..., 3, H, W], to the encoder's input, float32."""
    return F.normalize(pixels.float().div_(255), preprocessing.mean, preprocessing.std, inplace=True)
