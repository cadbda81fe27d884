"""From an image file to the encoder's input (section 3 of the protocol), bit-equal to PIL and torchvision.

`engine.features.views` names the views that an image is rendered in.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F


def open_rgb(path: Path) -> Image.Image:
    """Decode an image file to RGB. Raises OSError (and PIL's own errors, most of which are) for a corrupt file."""
    with Image.open(path) as image:
        return image.convert("RGB")


def render(
    image: Image.Image,
    view: str,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    seed: str,
) -> Tensor:
    """One view of an RGB image: float32 [3, size, size], normalised.

    The short side is resized to `size` (bicubic, on the PIL image). `none` and `flip` crop the centre; a `randomcrop`
    view draws its place and its flip (p = 0.5) from `seed`, which names dataset, image and view, so that it is the same
    whenever and wherever it is made.
    """
    image = F.resize(image, size, InterpolationMode.BICUBIC)
    if view in ("none", "flip"):
        image = F.center_crop(image, [size, size])
        flipped = view == "flip"
    else:
        draw = random.Random(seed)
        width, height = image.size
        image = F.crop(image, draw.randint(0, height - size), draw.randint(0, width - size), size, size)
        flipped = draw.random() < 0.5
    pixels = F.to_tensor(F.hflip(image) if flipped else image)
    return F.normalize(pixels, mean, std)
