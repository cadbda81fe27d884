"""Counting correct predictions of many classifiers at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOGITS = 1 << 25
"""How many logits are held at a time (128 MiB)."""


@torch.inference_mode()
def accuracies(weights: list[Tensor], features: Tensor, labels: Tensor) -> list[float]:
    """The accuracy, 0 to 1, of each linear classifier [C, D] on L2-normalised `features` [n, D] with `labels` [n].

    The features are read once for all classifiers. The prediction is the argmax of features @ weight.T.
    """
    classes = weights[0].shape[0]
    stack = torch.cat(weights).to(features.device)
    correct = torch.zeros(len(weights), dtype=torch.int64, device=features.device)
    rows = max(1, LOGITS // len(stack))
    for some, truth in zip(features.split(rows), labels.split(rows), strict=True):
        predicted = F.linear(some, stack).view(len(some), len(weights), classes).argmax(2)
        correct += (predicted == truth.unsqueeze(1)).sum(0)
    return [count / len(labels) for count in correct.tolist()]
