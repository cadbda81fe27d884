"""What a run trains on, as a value: samples and the first model. Nothing here knows where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.model import Classifier
from engine.training.grid import Hyperparameters

Inputs = tuple[Tensor, ...]
"""Samples as an encoder's trainable part takes them, [n, ...] each: images, or texts with their end-of-text positions.
Where no part is trained it is one tensor, the L2-normalised features [n, D]."""


@dataclass(frozen=True)
class Samples:
    """Labelled samples: `rows` [n] int64 of a `bank` that samples of other problems share, and `labels` [n] int64."""

    bank: Inputs
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, indices: Tensor) -> tuple[Inputs, Tensor]:
        """Inputs and labels of some of the samples (copies)."""
        rows = self.rows[indices]
        return tuple(tensor[rows] for tensor in self.bank), self.labels[indices]

    def batches(self, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        """All samples in order, at most `size` at a time."""
        for indices in torch.arange(len(self), device=self.rows.device).split(size):
            yield self.pick(indices)


@dataclass(frozen=True, eq=False)
class Problem:
    """A few-shot classification problem.

    Each of `sources` gives the same share of every batch: uni-modal training has one (images), cross-modal training
    two (images, texts). `model` is what training starts from, in eval mode; training works on copies of it. All random
    streams follow from `name` (and the batch size), so that problems of one name draw the same batches.
    """

    name: str
    sources: tuple[Samples, ...]
    val: Samples
    model: Classifier

    def share(self, batch_size: int) -> int:
        """How much of a batch each source gives."""
        return batch_size // len(self.sources)

    @property
    def device(self) -> torch.device:
        """Where the problem is, and its runs are trained."""
        return self.model.head.weight.device


def admits(sizes: Sequence[int], batch_size: int) -> bool:
    """Whether sources of these `sizes` all hold more samples than their share of a batch (protocol, section 5)."""
    return all(0 < batch_size // len(sizes) < size for size in sizes)


class Job(NamedTuple):
    """One run to train."""

    problem: Problem
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class Outcome:
    """The first best step of a run by validation: its accuracy, 0 to 1, and the state of the model, on its device.

    A run `diverged` when its weights were no longer finite after a step that was validated, or after the last; what is
    kept is the best from before, or without any the state it started in, at an accuracy of 0. `seconds` is the run's
    share of the time that it took to train all those beside it.
    """

    step: int
    val_accuracy: float
    state: dict[str, Tensor]
    diverged: bool
    seconds: float

    @property
    def weight(self) -> Tensor:
        """The weight of the linear layer, [C, D]."""
        return self.state["head.weight"]
