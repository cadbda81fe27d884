"""Image files by their names alone: none is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable

from PIL import Image

from engine.errors import UserError


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
    """The images in and below a folder, sorted: files with an ending that PIL can open. Raises UserError for none."""
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (name for name in files if not name.startswith("."))
        images += [os.path.join(path, name) for name in shown if os.path.splitext(name)[1].lower() in endings]
    if not images:
        raise UserError(f"{folder} has no images: no file in or below it has an ending such as .jpg or .png")
    return sorted(images)
