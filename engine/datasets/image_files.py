"""Image files by their names alone: none is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable

from engine.errors import UserError

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm"}
ENDINGS |= {".pgm", ".pbm", ".pnm", ".tga", ".ico"}


def is_image(name: str) -> bool:
    """Whether the name of a file ends as images' do, in small or capital letters."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def find_images(places: Iterable[str]) -> list[str]:
    """The files that `places` mean: themselves, and in place of a folder the images in and below it, sorted.

    Hidden files and folders are passed over, and links to folders are not followed. Raises UserError for a folder
    without an image.
    """
    found = []
    for place in places:
        found += images_below(place) if os.path.isdir(place) else [place]
    return found


def images_below(folder: str) -> list[str]:
    """The images in and below a folder, sorted. Raises UserError for none."""
    images = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (name for name in files if not name.startswith("."))
        images += [os.path.join(path, name) for name in shown if is_image(name)]
    if not images:
        raise UserError(f"{folder} has no images: no file in or below it has an ending such as .jpg or .png")
    return sorted(images)
