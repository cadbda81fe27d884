"""Image preprocessing of an encoder: a value shared by the store, saved classifiers and `engine.transforms`.

Imports nothing heavy: training on final features needs neither PIL nor open_clip.
"""

from __future__ import annotations

from dataclasses import dataclass

DEPTH = 16
"""Assumed bits per channel of images with more than 8, where no depth is stated."""


@dataclass(frozen=True)
class Preprocessing:
    """The transform from an RGB image to an encoder's input, in open_clip's terms.

    `resize_mode` is `shortest` (the short side becomes `size`, the centre is cropped), `squash` (both sides become
    `size`) or `longest` (the long side becomes `size`, `fill_color` fills the rest). `interpolation` is bicubic or
    bilinear. Pixels in [0, 1] are normalised by `mean` and `std`. The defaults are for OpenAI's encoders.
    """

    size: int
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @property
    def description(self) -> str:
        """Return all fields but the size as text, which feature files record. The encoder determines the size."""
        fill = f", fill {self.fill_color}" if self.resize_mode == "longest" else ""
        mean, std = (" ".join(map(str, values)) for values in (self.mean, self.std))
        return f"{self.resize_mode} {self.interpolation}{fill}, mean {mean}, std {std}"


OPENAI_PREPROCESSING = Preprocessing(size=224).description
"""The preprocessing of OpenAI's encoders, and of feature files that do not record any."""
