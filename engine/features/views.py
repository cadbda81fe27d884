"""Which images are asked for, in which views.

A *view* is one deterministic rendering of an image, and keys a bank of features: `none` is the image as the encoder
wants it (its centre crop, or all of it), `flip` its mirror image, `randomcrop_0`, `randomcrop_1`, ... are draws.
`engine.transforms` renders them.
"""

from __future__ import annotations

from engine.datasets import ImageDataset
from engine.datasets.few_shot import FewShotSplit

Rows = list[tuple[str, str, list[int]]]
"""Part, view and positions of images."""


def training_views(augmentation: str, views: int) -> list[str]:
    """The views that training images have: `none`, then those that `--image-augmentation` adds."""
    added = {"none": [], "flip": ["flip"], "randomcrop": [f"randomcrop_{k}" for k in range(views)]}
    return ["none", *added[augmentation]]


def wanted_rows(benchmark: ImageDataset, splits: list[FewShotSplit], views: list[str]) -> Rows:
    """The images that training on `splits` and testing need; those of the test alone when there are no splits."""
    train = [position for split in splits for position in split.train]
    val = [position for split in splits for position in split.val]
    test = ("test", "none", list(range(len(benchmark.test))))
    return [*(("train", view, train) for view in views), ("val", "none", val), test] if splits else [test]
