"""Counting the correct predictions of many classifiers at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.model import LinearClassifier
from engine.training.task import Inputs, Task

LOGITS = 1 << 25
"""The maximum number of logits at a time (128 MiB)."""
FEATURES, EMBEDDED = 4096, 64
"""The numbers of images in a batch: as final features, and as inputs of trainable layers."""


class _Group:
    """Classifiers on one embedding, whose weights [C, D] are stacked for one matrix product."""

    def __init__(self, places: list[int], classifiers: list[LinearClassifier]):
        self.places, self.embedding = places, classifiers[0].embedding
        heads = [classifier.head for classifier in classifiers]
        self.weight = torch.cat([head.weight for head in heads])
        biases = [head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias for head in heads]
        self.bias = None if all(head.bias is None for head in heads) else torch.cat(biases)

    def correct(self, inputs: Inputs, labels: Tensor, subsets: Sequence[Tensor | None]) -> Tensor:
        """Return how many of the `inputs` each classifier gets right, int64 [subsets, classifiers].

        The scale of logits changes no prediction and is left out.
        """
        features = self.embedding(inputs)
        correct = torch.zeros(len(subsets), len(self.places), dtype=torch.int64, device=features.device)
        rows = max(1, LOGITS // len(self.weight))
        for some, truth in zip(features.split(rows), labels.split(rows), strict=True):
            logits = F.linear(some, self.weight, self.bias).view(len(some), len(self.places), -1)
            for right, classes in zip(correct, subsets, strict=True):
                predicted = logits.argmax(2) if classes is None else classes[logits[..., classes].argmax(2)]
                right += (predicted == truth.unsqueeze(1)).sum(0)
        return correct


@torch.inference_mode()
def accuracies(
    classifiers: Sequence[LinearClassifier],
    batches: Iterable[tuple[Inputs, Tensor]],
    subsets: Sequence[Tensor | None] = (None,),
) -> list[list[float]]:
    """Return the accuracy, 0 to 1, of each classifier on all `batches` of inputs and labels, for each of `subsets`.

    A subset is the classes [k] int64 that predictions are among, None all of them. The batches are gone through once.
    A prediction is the argmax of the float32 phi(x) @ W.T + b.
    """
    places: dict[int, list[int]] = {}
    for place, classifier in enumerate(classifiers):
        key = 0 if classifier.embedding.is_identity else id(classifier.embedding)
        places.setdefault(key, []).append(place)
    groups = [_Group(own, [classifiers[place] for place in own]) for own in places.values()]
    counts: list[Tensor | int] = [0] * len(groups)
    total = 0
    for inputs, labels in batches:
        total += len(labels)
        counts = [count + group.correct(inputs, labels, subsets) for count, group in zip(counts, groups, strict=True)]
    found: list[list[float]] = [[] for _ in classifiers]
    for count, group in zip(counts, groups, strict=True):
        for place, of_subsets in zip(group.places, count.T.tolist(), strict=True):
            found[place] = [number / total for number in of_subsets]
    return found


def val_batches(task: Task) -> Iterator[tuple[Inputs, Tensor]]:
    """Return the validation samples of a task in batches."""
    return task.val.batches(FEATURES if task.val.bank[0].dim() == 2 else EMBEDDED)


def val_accuracies(task: Task, classifiers: Sequence[LinearClassifier]) -> list[float]:
    """Return the accuracy of each classifier, 0 to 1, on the validation samples of a task."""
    return [accuracy for (accuracy,) in accuracies(classifiers, val_batches(task))]


def val_accuracy(task: Task, classifier: LinearClassifier) -> float:
    """Return the accuracy of a classifier, 0 to 1, on the validation samples of a task."""
    return val_accuracies(task, [classifier])[0]


@torch.inference_mode()
def val_logits(task: Task, classifier: LinearClassifier) -> Tensor:
    """Return the logits [n, C] of a classifier on the validation samples of a task, on the CPU."""
    return torch.cat([classifier(inputs) for inputs, _ in val_batches(task)]).cpu()
