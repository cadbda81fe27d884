"""The contract of a method: what a file of `engine.methods` has to say, and what everything else derives from it.

Nothing here or in the files of methods imports torch before a classifier is built: command lines are read first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.training.grid import Grid

if TYPE_CHECKING:
    from torch import Generator, nn

SCALE_100 = 4.60517
"""The logarithm of CLIP's scale of logits, 100, as the authors' scripts have it."""


def no_embedding(dimension: int, generator: Generator) -> nn.Module | None:
    """Return None: features go into the linear layer as they are."""
    return None


@dataclass(frozen=True)
class Method:
    """A way of fitting a classifier.

    `name` is what `--method`, `--mode` and `--hyperparams` take, `title` its name in tables. `head` is what
    `--classifier_head` takes; methods of one head build the same classifier. `image_layer` (trained layers of the image
    encoder) and `logit` (logarithm of the logits' scale) are the defaults of the arguments of these names.
    `embedding(dimension, generator)` returns the layers between a feature of so many numbers and the linear layer,
    initialised by `generator`, or None for none; it raises UserError for a dimension that it cannot have.
    """

    name: str
    title: str
    head: str
    grid: Grid
    image_layer: int = 0
    logit: float = SCALE_100
    embedding: Callable[[int, Generator], nn.Module | None] = no_embedding
