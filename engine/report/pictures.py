"""Pictures of a report, as data URIs: thumbnails of photographs, and large confusion matrices."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from engine.datasets.image_dataset import BACKGROUND
from engine.images import open_image, to_rgb
from engine.preprocessing import DEPTH

SIDE, QUALITY = 112, 70
"""The longer side of a thumbnail in pixels, and its JPEG quality: 3 to 4 kB each."""
RIGHT, WRONG = (60, 130, 210), (220, 60, 60)
"""The colours of right predictions and of errors in a confusion matrix, on white and on black."""
FAINTEST = 0.35
"""The opacity of a cell with few images; 1 is for all images of a class."""
BLOCKS = 250
"""The maximum number of cells in a row of a confusion matrix: of more classes, neighbours share a cell."""


def thumbnail(path: Path, upright: bool, depth: int | None) -> str | None:
    """Return a small picture of an image file; None if it is absent or cannot be read.

    `upright` and `depth` are the dataset's, by which features.py shows images.
    """
    try:
        with open_image(path) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # large JPEGs are decoded smaller, many times faster
            small = to_rgb(image, upright, depth or DEPTH, BACKGROUND if upright else "")
        small.thumbnail((SIDE, SIDE))
    except Exception:  # a damaged file can raise anything
        return None
    return _data_uri(small, "JPEG", quality=QUALITY)


def together(classes: int) -> int:
    """Return how many neighbouring classes share a cell of a confusion matrix."""
    return math.ceil(classes / BLOCKS)


def matrix(confusion: np.ndarray) -> str:
    """Return a picture of a confusion matrix, a pixel per cell: rows are labels, columns predicted classes.

    The opacity shows the share of the images of a row, as its square root, so that single errors can be seen.
    """
    right, counts = (_pooled(found) for found in (np.diag(confusion.diagonal()), confusion))
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    share_right = (right / np.maximum(1, counts))[..., None]
    colours = share_right * np.array(RIGHT) + (1 - share_right) * np.array(WRONG)
    alpha = 255 * (FAINTEST + (1 - FAINTEST) * np.sqrt(shares))
    pixels = np.concatenate([colours, alpha[..., None]], axis=2)
    pixels[counts == 0] = 0  # transparent, and compresses well
    return _data_uri(Image.fromarray(pixels.round().astype(np.uint8), "RGBA"), "PNG", optimize=True)


def _pooled(confusion: np.ndarray) -> np.ndarray:
    """Return the sums of cells that share a cell of the picture."""
    starts = np.arange(0, len(confusion), together(len(confusion)))
    return np.add.reduceat(np.add.reduceat(confusion, starts, axis=0), starts, axis=1)


def by_similarity(confusion: np.ndarray) -> list[int]:
    """Return the classes in an order in which those that are taken for each other stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    distance = 1 - np.clip((shares + shares.T) / 2, 0, 1)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average")).tolist()


def _data_uri(image: Image.Image, kind: str, **settings: object) -> str:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
