"""The values that a fit takes and returns: a task, a run on it, and the fitted classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from engine.model import LinearClassifier
from engine.training.grid import Hparams

Inputs = tuple[Tensor, ...]
"""Samples as an encoder's trainable layers take them, [n, ...] each: images, or texts with their end-of-text positions.
Where no layer is trained it is one tensor, the L2-normalised features [n, D]."""


@dataclass(frozen=True)
class Samples:
    """Labelled samples: `rows` [n] int64 of a `bank` that samples of other tasks share, and `labels` [n] int64.

    `norms` are the lengths that the bank's features had before they were normalised, [rows of the bank] float32; None
    where the bank does not hold final features.
    """

    bank: Inputs
    rows: Tensor
    labels: Tensor
    norms: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, indices: Tensor) -> tuple[Inputs, Tensor]:
        """Return inputs and labels of some of the samples (copies)."""
        rows = self.rows[indices]
        return tuple(tensor[rows] for tensor in self.bank), self.labels[indices]

    def batches(self, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield all samples in order, at most `size` at a time."""
        for indices in torch.arange(len(self), device=self.rows.device).split(size):
            yield self.pick(indices)


@dataclass(frozen=True, eq=False)
class TestSet:
    """Samples that classifiers are measured on: `batches()` iterates over all of them, with labels among all classes.

    `subsets` are the classes [k] int64 that predictions are among, None for all, by the name of the accuracy in a
    run's record. `digest` is of the samples and their classes; '' where the run's inputs have it. With `new_classes`
    the labels are among classes that no training saw.
    """

    __test__ = False  # pytest collects classes of such names

    batches: Callable[[], Iterable[tuple[Inputs, Tensor]]]
    subsets: Mapping[str, Tensor | None]
    digest: str = ""
    new_classes: bool = False


class PromptEncoder(Protocol):
    """The text tower of a frozen encoder, for the names of `classes` classes after context vectors of a `width`."""

    classes: int
    width: int

    def __call__(self, context: Tensor, at_once: int | None = None) -> Tensor:
        """Return raw text features [classes, D] of context vectors [n, width], some classes at a time."""
        ...

    def encode(self, context: Tensor, classes: slice) -> Tensor:
        """Return the features of some classes."""
        ...

    def tensors(self) -> list[Tensor]:
        """Return all tensors that it holds."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """A few-shot classification task. All random streams of its runs follow from `name`.

    `samples` are the training samples by modality; each modality is the same share of a batch. `val` and the test sets
    are of the first modality. Its samples come view after view: `views` of the same images.
    `trainable_layers` has the trainable layers of each modality's encoder, or None. `initial` [C, D] is the weight
    that training starts from, `scale` the scale of the logits. `text` [C, D] are the raw text features averaged over
    templates and `zeroshot` [C, D] their L2-normalised rows, both of the encoder before training; None for a task
    without texts. `dataset` and `classnames` (by label) are for methods that use them. `prompts` returns the text tower
    for a number of context vectors; it is None for methods that do not train through it.
    """

    name: str
    samples: Mapping[str, Samples]
    val: Samples
    initial: Tensor
    scale: float
    trainable_layers: Sequence[nn.Module | None] = (None, None)
    text: Tensor | None = None
    zeroshot: Tensor | None = None
    views: int = 1
    dataset: str = ""
    classnames: Sequence[str] = field(default=())
    prompts: Callable[[int], PromptEncoder] | None = None

    @property
    def own(self) -> Samples:
        """The training samples of the first modality."""
        return next(iter(self.samples.values()))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return the features [n, D] and labels [n] of all training samples, modality after modality.

        For tasks without trainable layers, whose features are final and L2-normalised.
        """
        of_all = self.samples.values()
        features = torch.cat([samples.bank[0][samples.rows] for samples in of_all])
        return features, torch.cat([samples.labels for samples in of_all])

    @property
    def shots(self) -> float:
        """The average number of training images per class; views of one image count once."""
        return len(self.own) / self.views / len(self.initial)

    @property
    def device(self) -> torch.device:
        """The device of the samples and of the training."""
        return self.initial.device


class Run(NamedTuple):
    """One run: a task and hyper-parameters."""

    task: Task
    hparams: Hparams


@dataclass(frozen=True, eq=False)
class Fitted:
    """The classifier that a run ends in, with its validation accuracy from 0 to 1.

    `step` is the 0-based training step that the classifier is of (0 without steps), `tuned` the values that the method
    chose on validation inside the run. A run `diverged` when its weights were no longer finite after a step that was
    validated, or after the last; its classifier is the best from before. `seconds` is the run's share of the time that
    it took to fit all those beside it.
    """

    classifier: LinearClassifier
    val_accuracy: float
    step: int = 0
    tuned: Mapping[str, float] = field(default_factory=dict)
    diverged: bool = False
    seconds: float = 0.0
