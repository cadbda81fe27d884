"""Views of images, and the images that training and testing need.

A *view* is one deterministic rendering of an image, and keys a bank of features: `none` is the encoder's own
preprocessing (the centre crop, or the whole image), `flip` its mirror image, and `randomcrop_0`, `randomcrop_1`, ...
and `randomresizedcrop_0`, ... are random draws. `engine.transforms` renders them.
"""

from __future__ import annotations

from engine.datasets import ImageDataset
from engine.datasets.few_shot import FewShotSplit

Rows = list[tuple[str, str, list[int]]]
"""Split (train, val, test), view and positions of images."""


def training_views(augmentation: str, views: int) -> list[str]:
    """Return the views of training images: `none`, then the views that `--image-augmentation` adds."""
    fixed = {"none": [], "flip": ["flip"]}
    drawn = [f"{augmentation}_{k}" for k in range(views)]
    return ["none", *fixed.get(augmentation, drawn)]


def wanted_rows(benchmark: ImageDataset, splits: list[FewShotSplit], views: list[str]) -> Rows:
    """Return the images needed to train on `splits` and to test; without splits, the test images alone."""
    train = [position for split in splits for position in split.train]
    val = [position for split in splits for position in split.val]
    test = ("test", "none", list(range(len(benchmark.test))))
    return [*(("train", view, train) for view in views), ("val", "none", val), test] if splits else [test]
