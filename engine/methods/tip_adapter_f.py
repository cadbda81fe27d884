"""Tip-Adapter-F: the keys of Tip-Adapter's cache are trained, then alpha and beta are searched.

AdamW decays the keys, which are not normalised again. The last state counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.methods.frozen import check_frozen
from engine.methods.method import Method
from engine.methods.tip_adapter import build_cache, constants, phi, search
from engine.model import LinearClassifier
from engine.training.descent import GradientDescent, Optimizer
from engine.training.grid import Grid
from engine.training.schedule import cosine
from engine.training.task import Inputs, Task

EPOCHS = {"eurosat": 100}
OTHERS = 20
"""Epochs by dataset, and of all other datasets (the authors' constants)."""
BETA = 1.0
"""The beta of training."""


class CacheTraining(nn.Module):
    """Logits of a cache while its keys are trained, which are the only parameters."""

    def __init__(self, task: Task):
        super().__init__()
        self.cache, self.scale = build_cache(task, BETA), task.scale
        self.register_buffer("text", task.zeroshot)
        self.register_buffer("trained_alpha", torch.tensor(constants(task).trained_alpha, device=task.device))

    def forward(self, *modalities: Inputs) -> Tensor:
        features = torch.cat([inputs[0] for inputs in modalities])
        return self.scale * (features @ self.text.T) + self.trained_alpha * self.cache.evidence(features)


def epochs(task: Task) -> int:
    """Return how many epochs training takes."""
    return EPOCHS.get(task.dataset, OTHERS)


def finish(task: Task, module: CacheTraining) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the classifier of the trained keys, and the alpha and beta that validation chose."""
    return search(task, module.cache)


METHOD = Method(
    title="Tip-Adapter-F",
    grid=Grid(),
    fit=GradientDescent(
        build=lambda task: CacheTraining(task).eval(),
        optimizer=Optimizer("adamw", lr=1e-3, weight_decay=0.01, eps=1e-4),
        schedule=cosine,
        epochs=epochs,
        batch_size=256,
        keep="last",
        finish=finish,
    ),
    phi=phi,
    wise_ft=False,
    inits=("zeroshot",),
    check=check_frozen,
)
