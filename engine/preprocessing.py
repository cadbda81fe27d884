"""How an encoder wants its images: a value that the store, saved classifiers and `engine.transforms` share.

It imports nothing, as training on final features needs neither PIL nor open_clip.
"""

from __future__ import annotations

from dataclasses import dataclass

DEPTH = 16
"""How many bits an image of more than 8 has where nothing says it."""


@dataclass(frozen=True)
class Preprocessing:
    """The way from an RGB image to an encoder's input, as open_clip names it.

    `resize_mode` is `shortest` (the short side becomes `size`, the centre is cropped), `squash` (both sides become
    `size`) or `longest` (the long side becomes `size`, `fill_color` fills the rest). `interpolation` is bicubic or
    bilinear. Pixels, 0 to 1, are normalised by `mean` and `std`. The defaults are those of OpenAI's encoders.
    """

    size: int
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @property
    def description(self) -> str:
        """Return all but the size, which follows from the encoder, in words: the store states and compares them."""
        fill = f", fill {self.fill_color}" if self.resize_mode == "longest" else ""
        mean, std = (" ".join(map(str, values)) for values in (self.mean, self.std))
        return f"{self.resize_mode} {self.interpolation}{fill}, mean {mean}, std {std}"


OPENAI_PREPROCESSING = Preprocessing(size=224).description
"""The preparation of OpenAI's encoders, and so of features whose files do not state any."""
