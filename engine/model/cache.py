"""A cache of labelled features before the linear layer, as Tip-Adapter has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

AFFINITIES = 1 << 24
"""The maximum number of affinities, or logits, at a time (64 MiB)."""


class Cache(nn.Module):
    """x -> [x, evidence] for unit features x [B, D]: [B, D + C].

    The evidence [B, C] is the sum of exp(beta * k.x - beta) over the keys k of each class. `keys` [N, D] are
    parameters, `labels` [N] int64 their classes, each of which has a key. `beta` is the sharpness of a key.
    """

    def __init__(self, keys: Tensor, labels: Tensor, beta: float):
        super().__init__()
        self.keys = nn.Parameter(keys)
        self.register_buffer("labels", labels)
        self.register_buffer("beta", torch.tensor(beta, dtype=keys.dtype, device=keys.device))
        self.classes = int(labels.max()) + 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.evidence(x)], dim=1)

    def evidence(self, x: Tensor) -> Tensor:
        """Return the evidence [B, C] for features [B, D]."""
        # an exported model takes any number of features, and is told of none: all keys are taken at a time there
        at_a_time = len(self.keys) if torch.compiler.is_exporting() else max(1, AFFINITIES // len(x))
        found = x.new_zeros(self.classes, x.shape[0])  # len(x) would be exported as a constant
        for keys, labels in zip(self.keys.split(at_a_time), self.labels.split(at_a_time), strict=True):
            found = found.index_add(0, labels, (self.beta * (keys @ x.T) - self.beta).exp())
        return found.T


@torch.no_grad()
def count_correct(
    cache: Cache, logits: Tensor, features: Tensor, labels: Tensor, betas: Sequence[float], alphas: Sequence[float]
) -> Tensor:
    """Return how many predictions are correct for each beta and alpha, int64 [betas, alphas].

    A prediction is the argmax of `logits` [n, C] + alpha * evidence, of unit `features` [n, D] with `labels` [n]. The
    affinities are computed once, and gone through once for each beta.
    """
    correct = torch.zeros(len(betas), len(alphas), dtype=torch.int64, device=features.device)
    factors = torch.tensor(alphas, dtype=features.dtype, device=features.device).view(-1, 1, 1)
    rows = max(1, AFFINITIES // max(len(cache.keys), len(alphas) * cache.classes))
    for some, given, truth in zip(features.split(rows), logits.split(rows), labels.split(rows), strict=True):
        affinities = cache.keys @ some.T
        kernel = torch.empty_like(affinities)
        for of_beta, beta in zip(correct, betas, strict=True):
            torch.mul(affinities, beta, out=kernel).sub_(beta).exp_()
            evidence = kernel.new_zeros(cache.classes, len(some)).index_add_(0, cache.labels, kernel)
            found = torch.addcmul(given, factors, evidence.T.contiguous())  # [alphas, rows, C]
            of_beta += (found.max(2).indices == truth).sum(1)  # max is faster than argmax; both take the first of ties
    return correct
