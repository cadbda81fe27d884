"""The linear adapter of ProLIP's authors: a D x D matrix on the features of any encoder, kept close to the identity.

z = unit(A x), compared with the zero-shot weights. One A serves both modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.methods.method import Method
from engine.model import Embedding, LinearClassifier
from engine.model.fixed import FixedClassifier
from engine.training.descent import GradientDescent, Optimizer
from engine.training.grid import Grid
from engine.training.schedule import cosine
from engine.training.task import Task

STEPS = 300


class LinearAdapter(nn.Module):
    """x [B, D] -> unit(x + offset x): the `offset` [D, D] is A - I, which starts at 0."""

    def __init__(self, dimension: int):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(dimension, dimension))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x + F.linear(x, self.offset))


def build(task: Task) -> FixedClassifier:
    """Return the classifier that training starts from, which is the zero-shot one."""
    embedding = Embedding(task.trainable_layers[: len(task.samples)], LinearAdapter(task.zeroshot.shape[1]))
    return FixedClassifier(embedding, task.zeroshot, task.scale, 1 / task.shots).to(task.device).eval()


def penalty(named: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the squares of A - I, times 1 / shots."""
    return named["strength"] * named["embedding.phi.offset"].square().sum()


def finish(task: Task, module: FixedClassifier) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the linear classifier of a trained module, and no tuned values."""
    return module.linear(module.embedding), {}


def new_classes(task: Task, classifier: LinearClassifier) -> LinearClassifier:
    """Return the trained embedding with the zero-shot weights of a task, of other classes than `classifier`'s."""
    return classifier.with_weight(task.zeroshot)


def phi(tensors: Mapping[str, Tensor]) -> LinearAdapter:
    """Return an adapter for a saved `offset`."""
    return LinearAdapter(len(tensors["offset"]))


METHOD = Method(
    title="linear adapter",
    grid=Grid(),
    fit=GradientDescent(
        build=build,
        optimizer=Optimizer("adam", lr=1e-4, eps=1e-4),
        schedule=cosine,
        epochs=lambda task: STEPS,
        views_in_turn=True,
        penalty=penalty,
        keep="last",
        finish=finish,
    ),
    phi=phi,
    wise_ft=False,
    inits=("zeroshot",),
    new_classes=new_classes,
)
