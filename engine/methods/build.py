"""The one place where a classifier is built: to be trained, and from what was saved of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.methods import HEADS
from engine.model import Classifier, Embedding, LinearHead


def build(
    head: str, weight: Tensor, logit: float, parts: Sequence[nn.Module | None], generator: torch.Generator
) -> Classifier:
    """Return the classifier of a `--classifier_head` in eval mode, with the linear layer `weight` [C, D].

    `parts` are the trained parts of the image encoder and, for cross-modal training, the text encoder; None for none.
    `generator` initialises what the method puts before the linear layer. Raises UserError for a D that it cannot have.
    """
    embedding = Embedding(parts, HEADS[head].embedding(weight.shape[-1], generator))
    return Classifier(embedding, LinearHead(weight, scale=math.exp(logit))).eval()
