"""Tip-Adapter: zero-shot logits and the evidence of a cache of training images, without training.

Its two constants, alpha and beta, are searched on validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.methods.frozen import check_frozen, validation_rows
from engine.methods.method import Method
from engine.model import Embedding, LinearClassifier, LinearHead
from engine.model.cache import Cache, count_correct
from engine.training.descent import ClosedForm
from engine.training.grid import Grid, Hparams
from engine.training.task import Task

BETAS, ALPHAS = 200, 20
"""The numbers of values of beta and alpha in the search."""
LEAST = 0.1
"""The first value of both."""


class Constants(NamedTuple):
    """The search's scales of beta and alpha, and the alpha of Tip-Adapter-F while it trains."""

    beta: float
    alpha: float
    trained_alpha: float


CONSTANTS = {
    "imagenet": Constants(7, 3, 1.17),
    "oxford_pets": Constants(7, 3, 1.17),
    "food101": Constants(10, 10, 1.17),
    "sun397": Constants(12, 10, 1.17),
    "caltech101": Constants(12, 5, 3),
    "stanford_cars": Constants(20, 10, 3),
    "ucf101": Constants(7, 3, 3),
    "dtd": Constants(13, 13, 2),
    "eurosat": Constants(12, 10, 2),
    "fgvc_aircraft": Constants(30, 30, 5),
    "oxford_flowers": Constants(50, 50, 10),
}
"""The authors' constants by dataset."""
OTHERS = Constants(12, 10, 2)
"""The constants of all other datasets."""


def constants(task: Task) -> Constants:
    """Return the constants of a task's dataset."""
    return CONSTANTS.get(task.dataset, OTHERS)


def values(scale: float, number: int) -> list[float]:
    """Return so many values to search, from 0.1 to below `scale` in equal steps."""
    return [i * (scale - LEAST) / number + LEAST for i in range(number)]


def build_cache(task: Task, beta: float = 1.0) -> Cache:
    """Return the cache: a key for each training image, and for each text of cross-modal training.

    An image's key is the L2-normalised mean of its views' raw features.
    """
    images, *texts = task.samples.values()
    features = images.bank[0][images.rows].unflatten(0, (task.views, -1))
    if task.views > 1:
        features = features * images.norms[images.rows].view(task.views, -1, 1)
    keys = [F.normalize(features.mean(0), dim=1), *(own.bank[0][own.rows] for own in texts)]
    labels = [images.labels[: len(keys[0])], *(own.labels for own in texts)]
    return Cache(torch.cat(keys), torch.cat(labels), beta)


def with_constants(task: Task, cache: Cache, beta: float, alpha: float) -> LinearClassifier:
    """Return the classifier whose logits are the zero-shot ones + alpha * evidence at `beta`."""
    evidence = alpha / task.scale * torch.eye(len(task.zeroshot), device=task.device)
    head = LinearHead(torch.cat([task.zeroshot, evidence], dim=1), task.scale)
    embedding = Embedding([None], Cache(cache.keys.detach(), cache.labels, beta))
    return LinearClassifier(embedding, head).eval()


def search(task: Task, cache: Cache) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the classifier with the alpha and beta that are best on validation, and these two.

    Of equals the first counts: the lowest beta, then the lowest alpha.
    """
    features, labels = validation_rows(task)
    betas, alphas = values(constants(task).beta, BETAS), values(constants(task).alpha, ALPHAS)
    logits = task.scale * (features @ task.zeroshot.T)
    best = int(count_correct(cache, logits, features, labels, betas, alphas).argmax())  # the first of equals
    found = {"beta": betas[best // ALPHAS], "alpha": alphas[best % ALPHAS]}
    return with_constants(task, cache, **found), found


def solve(task: Task, hparams: Hparams) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the classifier, and the alpha and beta that validation chose."""
    return search(task, build_cache(task))


def phi(tensors: Mapping[str, Tensor]) -> Cache:
    """Return a cache for the saved `keys` [N, D], `labels` [N] and `beta`."""
    return Cache(torch.empty_like(tensors["keys"]), tensors["labels"], 0.0)


METHOD = Method(
    title="Tip-Adapter",
    grid=Grid(),
    fit=ClosedForm(solve),
    phi=phi,
    wise_ft=False,
    inits=("zeroshot",),
    check=check_frozen,
)
