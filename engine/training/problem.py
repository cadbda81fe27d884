"""What a run trains on, as a value: features, labels, the first weights. Nothing here knows where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from engine.optimizer import Hyperparameters


@dataclass(frozen=True)
class Samples:
    """Labelled features: `rows` [n] int64 of a `bank` [N, D] that samples of other problems share, `labels` [n] int64.

    The features of the bank are L2-normalised.
    """

    bank: Tensor
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def features(self) -> Tensor:
        """The features themselves, [n, D] (a copy)."""
        return self.bank[self.rows]


@dataclass(frozen=True, eq=False)
class Problem:
    """A few-shot classification problem.

    Each of `sources` gives the same share of every batch: uni-modal training has one (images), cross-modal training
    two (images, texts). `initial` [C, D] are the first weights of the linear layer. `scale` multiplies the logits. All
    random streams follow from `name` (and the batch size), so that problems of one name draw the same batches.
    """

    name: str
    sources: tuple[Samples, ...]
    val: Samples
    initial: Tensor
    scale: float

    def share(self, batch_size: int) -> int:
        """How much of a batch each source gives."""
        return batch_size // len(self.sources)


def admits(sizes: Sequence[int], batch_size: int) -> bool:
    """Whether sources of these `sizes` all hold more samples than their share of a batch (protocol, section 5)."""
    return all(0 < batch_size // len(sizes) < size for size in sizes)


class Job(NamedTuple):
    """One run to train."""

    problem: Problem
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class Outcome:
    """The first best step of a run by validation: its weights [C, D], on the CPU, and their accuracy, 0 to 1."""

    step: int
    val_accuracy: float
    weight: Tensor
