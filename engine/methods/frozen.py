"""Shared parts of methods on frozen encoders: the check of a task, and its validation samples as rows."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import UserError
from engine.training.task import Task


def check_frozen(task: Task) -> None:
    """Raise UserError for a task without texts, or with trainable layers of an encoder."""
    if task.zeroshot is None:
        raise UserError("needs text features of the classes, which this task has none of; choose another method")
    if any(part is not None for part in task.trainable_layers[: len(task.samples)]):
        raise UserError("trains no layer of an encoder: give --image-layer-idx 0 --text-layer-idx 0")


def validation_rows(task: Task) -> tuple[Tensor, Tensor]:
    """Return the features [n, D] of the validation samples, and their labels [n]."""
    (features,), labels = task.val.pick(torch.arange(len(task.val), device=task.device))
    return features, labels
