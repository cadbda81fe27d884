"""Gaussian discriminant analysis on frozen features, added to the zero-shot logits.

Classes are Gaussians of one covariance, in closed form and in float64: its logits are differences of large terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.errors import UserError
from engine.methods.frozen import check_frozen, validation_rows
from engine.methods.method import Method
from engine.model import Embedding, LinearClassifier, LinearHead, class_means
from engine.training.descent import ClosedForm
from engine.training.grid import Grid, Hparams
from engine.training.task import Task

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""The weights of the Gaussians' logits beside the zero-shot ones; the first best on validation counts."""


class Gaussians:
    """Class means [C, D] of features [N, D] and the Cholesky factor of their shrunk scatter, both float64.

    The precision is P = D * (Z'Z + tr(Z'Z) / (N - 1) * I)^-1, where Z are the features minus their class's mean.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int):
        features = features.double()
        self.means = class_means(features, labels, classes)
        features -= self.means[labels]
        scatter = features.T @ features
        scatter.diagonal().add_(scatter.trace() / (len(features) - 1))
        self.factor = torch.linalg.cholesky(scatter)

    def precision(self, right: Tensor) -> Tensor:
        """Return P @ `right` for `right` [D, k]."""
        return len(right) * torch.cholesky_solve(right, self.factor)

    def linear(self) -> tuple[Tensor, Tensor]:
        """Return weight [C, D] and bias [C] of the logits, for classes that are equally probable."""
        weight = self.precision(self.means.T).T
        return weight, -math.log(len(weight)) - (weight * self.means).sum(1) / 2


def solve(task: Task, hparams: Hparams) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the classifier, and the alpha that validation chose."""
    weight, bias = Gaussians(*task.rows(), len(task.zeroshot)).linear()
    features, labels = validation_rows(task)
    zeroshot, features = task.zeroshot.double(), features.double()
    given, found = task.scale * (features @ zeroshot.T), features @ weight.T + bias
    correct = torch.stack([((given + alpha * found).argmax(1) == labels).sum() for alpha in ALPHAS])
    alpha = ALPHAS[int(correct.argmax())]  # the first of equals
    share = alpha / task.scale
    head = LinearHead((zeroshot + share * weight).float(), task.scale, (share * bias).float())
    return LinearClassifier(Embedding([None]), head).eval(), {"alpha": alpha}


def check(task: Task) -> None:
    """Raise UserError for a task that the method cannot be fitted to."""
    check_frozen(task)
    features, labels = task.rows()
    order = labels.argsort(stable=True)
    features, labels = features[order], labels[order]
    if not ((features[1:] != features[:-1]).any(1) & (labels[1:] == labels[:-1])).any():
        raise UserError(
            "needs two different rows of a class, for the covariance within classes: add a flipped view"
            " (--image-augmentation flip), more shots, or texts (--modality cross_modal)"
        )


METHOD = Method(
    title="GDA",
    grid=Grid(),
    fit=ClosedForm(solve),
    wise_ft=False,
    inits=("zeroshot",),
    check=check,
)
