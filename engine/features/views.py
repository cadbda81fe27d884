"""Names of views. A *view* is one deterministic rendering of an image, and keys a bank of features.

`none` is the centre crop, `flip` its mirror image, `randomcrop_0`, `randomcrop_1`, ... are draws; `engine.transforms`
renders them.
"""

from __future__ import annotations


def training_views(augmentation: str, views: int) -> list[str]:
    """The views that training images have: the centre crop, then those that `--image-augmentation` adds."""
    added = {"none": [], "flip": ["flip"], "randomcrop": [f"randomcrop_{k}" for k in range(views)]}
    return ["none", *added[augmentation]]
