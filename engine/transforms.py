"""From an image file to the encoder's input (section 3 of the protocol).

    pixels = normalise(render(open_rgb(path), view, size, seed), mean, std)

is bit-equal to PIL and torchvision's transforms. `open_fast` decodes and resizes twice as fast, a grey level off here
and there. `engine.features.views` names the views that an image is rendered in.
"""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from engine.images import MAX_PIXELS, opened, to_rgb

Decoded = Image.Image | Tensor
"""An RGB image: PIL's, or uint8 [3, H, W]."""


def open_rgb(path: Path, upright: bool = False) -> Image.Image:
    """Decode an image file to RGB. Raises OSError (and PIL's own errors, most of which are) for a corrupt file.

    Of one with several pictures the first is taken, and of 16-bit greys the upper 8 bits. With `upright` it is turned
    as its EXIF data say. Raises OSError and ValueError for images that cannot be decoded so: too large, or with other
    numbers for pixels.
    """
    with opened(path) as image:
        return to_rgb(image, upright)


def open_fast(path: Path, upright: bool = False) -> Tensor:
    """Decode an image file with torchvision, or what that cannot read (or turn) with PIL: RGB, uint8 [3, H, W].

    Raises what `open_rgb` raises.
    """
    from torchvision.io import ImageReadMode, decode_image  # which torchvision means to give up some day

    with opened(path) as header:  # torchvision decodes an image of any size
        is_turned = not upright or header.format in ("JPEG", "MPO", "PNG")
    image = None
    if is_turned:
        with suppress(RuntimeError):  # a format that torchvision does not know, a corrupt file, or none
            image = decode_image(str(path), ImageReadMode.RGB, apply_exif_orientation=upright)
    if image is None or image.dtype != torch.uint8 or image.dim() > 3:
        del image  # 16 bits, which may be large
        return F.pil_to_tensor(open_rgb(path, upright))
    return image


def decoded(path: Path, decode: str, upright: bool) -> Decoded:
    """An image file as `--decode` says, pil or fast. Raises what `open_rgb` raises."""
    return (open_rgb if decode == "pil" else open_fast)(path, upright)


def render(image: Decoded, view: str, size: int, seed: str) -> Tensor:
    """One view of an RGB image: uint8 [3, size, size].

    The short side is resized to `size` (bicubic, of a PIL image by PIL). `none` and `flip` crop the centre; a
    `randomcrop` view draws its place and its flip (p = 0.5) from `seed`, which names dataset, image and view, so that
    it is the same whenever and wherever it is made. Raises ValueError for a strip that resizing would make enormous.
    """
    short, long = sorted(F.get_size(image))
    if size * size * long > MAX_PIXELS * short:
        raise ValueError(f"{long} x {short} pixels are too narrow a strip; cut it")
    image = F.resize(image, size, InterpolationMode.BICUBIC)
    if view in ("none", "flip"):
        image = F.center_crop(image, [size, size])
        flipped = view == "flip"
    else:
        draw = random.Random(seed)
        height, width = F.get_size(image)
        image = F.crop(image, draw.randint(0, height - size), draw.randint(0, width - size), size, size)
        flipped = draw.random() < 0.5
    image = F.horizontal_flip(image) if flipped else image
    return image if isinstance(image, Tensor) else F.pil_to_tensor(image)


def normalise(pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """The encoder's input, float32, of rendered images, uint8 [..., 3, H, W]."""
    return F.normalize(pixels.float().div_(255), mean, std, inplace=True)
