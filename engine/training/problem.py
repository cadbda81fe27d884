"""The input of the executors: a task with the module that training starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.model import LinearClassifier
from engine.model.residual import ResidualClassifier, penalty
from engine.training.descent import GradientDescent
from engine.training.grid import Hparams
from engine.training.schedule import Steps
from engine.training.task import Samples, Task


@dataclass(frozen=True, eq=False)
class Problem:
    """A task, how it is trained, and the `model` that training starts from, in eval mode; training works on copies."""

    task: Task
    descent: GradientDescent
    model: nn.Module
    max_iter: int

    @property
    def modalities(self) -> list[Samples]:
        """The training samples of each modality."""
        return list(self.task.samples.values())

    @property
    def val(self) -> Samples:
        """The validation samples."""
        return self.task.val

    @property
    def device(self) -> torch.device:
        """The device of the training."""
        return self.task.device

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.task.initial)

    def shares(self, hparams: Hparams) -> tuple[int, ...]:
        """Return how many samples of each modality a batch has."""
        return self.descent.shares(self.task, hparams)

    def length(self, hparams: Hparams) -> Steps:
        """Return the number of steps of a run."""
        return self.descent.length(self.task, hparams, self.max_iter)

    @property
    def is_linear(self) -> bool:
        """Whether training changes only a weight on unchanged features, without a penalty."""
        model = self.model
        linear = isinstance(model, LinearClassifier) and model.embedding.is_identity and model.head.bias is None
        return linear and self.descent.penalty is None

    @property
    def is_residual(self) -> bool:
        """Whether training changes only the residual of normalised weights on unchanged features."""
        model = self.model
        residual = isinstance(model, ResidualClassifier) and model.embedding.is_identity
        return residual and self.descent.penalty in (None, penalty)

    def is_full_batch(self, hparams: Hparams) -> bool:
        """Return whether each batch of a run has all samples."""
        return not self.descent.views_in_turn and self.shares(hparams) == tuple(map(len, self.modalities))

    def finish(self, model: nn.Module) -> tuple[LinearClassifier, dict[str, float]]:
        """Return the linear classifier of a trained module, and values tuned on validation."""
        return self.descent.finish(self.task, model)


class Job(NamedTuple):
    """One run to train."""

    problem: Problem
    hparams: Hparams


def hparam_buffers(model: nn.Module, hparams: Hparams) -> dict[str, Tensor]:
    """Return the values of a run for the buffers of `model` that have names of hyper-parameters."""
    buffers = dict(model.named_buffers())
    return {name: torch.full_like(buffers[name], value) for name, value in hparams.items() if name in buffers}
