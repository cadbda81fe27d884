"""Classifier heads, zero-shot weights and WiSE-FT (section 4 of the protocol)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WISE_FT_RATIO = 0.5
"""How far WiSE-FT goes back to the zero-shot classifier (Table 1 of the paper uses the middle)."""


class LinearHead(nn.Module):
    """Logits = scale * features @ weight.T, for L2-normalised features [B, D] and `weight` [C, D]; no bias."""

    def __init__(self, weight: Tensor, scale: float):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(features, self.weight)


def random_weight(classes: int, dimension: int, generator: torch.Generator) -> Tensor:
    """torch's default initialisation of a Linear layer without bias, float32 [classes, dimension]."""
    return nn.init.kaiming_uniform_(torch.empty(classes, dimension), a=math.sqrt(5), generator=generator)


def zeroshot_weight(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """CLIP's zero-shot classifier [classes, D] from raw text features [n, D] with classes [n].

    A row is the L2-normalised mean of the *raw* features of a class over its templates.
    """
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return F.normalize(sums / labels.bincount(minlength=classes).unsqueeze(1), dim=1)


def wise_ft(weight: Tensor, zeroshot: Tensor, ratio: float = WISE_FT_RATIO) -> Tensor:
    """The weight-space ensemble (1 - ratio) * weight + ratio * zeroshot; neither is normalised."""
    return torch.lerp(weight, zeroshot, ratio)
