"""A classifier of normalised weights that are learnt as a residual on given ones: ZS-LP, CLAP, TaskRes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model import Embedding, LinearClassifier, LinearHead


class ResidualClassifier(nn.Module):
    """Logits = scale * z @ w.T, where row c of w is (base_c + alpha * residual_c) / its length.

    `residual` [C, D] starts at 0 and is trained, with the embedding of z if that has parameters. `base` [C, D],
    `alpha` and the `multipliers` [C] of `penalty` are buffers. Training `residual` with a plain optimizer is training
    base + residual from `base`, but for an L2 penalty, which is on the residual.
    """

    def __init__(self, embedding: Embedding, base: Tensor, scale: float, multipliers: Tensor | None = None):
        super().__init__()
        self.embedding, self.scale = embedding, scale
        self.residual = nn.Parameter(torch.zeros_like(base))
        self.register_buffer("base", base)
        self.register_buffer("alpha", base.new_ones(()))
        self.register_buffer("multipliers", multipliers)

    @property
    def weight(self) -> Tensor:
        """The L2-normalised weight [C, D]."""
        return F.normalize(self.base + self.alpha * self.residual, dim=1)

    def forward(self, *modalities: tuple[Tensor, ...]) -> Tensor:
        """Logits [B, C] of the samples of all modalities together."""
        return self.scale * F.linear(self.embedding(*modalities), self.weight)

    def linear(self) -> LinearClassifier:
        """Return the linear classifier that this is, around the same embedding."""
        return LinearClassifier(self.embedding, LinearHead(self.weight.detach(), self.scale)).eval()


def penalty(named: Mapping[str, Tensor]) -> Tensor:
    """Return the mean over classes of multiplier * |residual|^2, of tensors of a `ResidualClassifier` by name."""
    return (named["multipliers"] * named["residual"].square().sum(1)).mean()
