"""Counting correct predictions of many classifiers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from engine.model import Embedding, twin
from engine.training.problem import Inputs

LOGITS = 1 << 25
"""How many logits are held at a time (128 MiB)."""
FEATURES, EMBEDDED = 4096, 64
"""How many images go through a classifier at a time: as final features, or as inputs of a part of an encoder."""


class Heads(NamedTuple):
    """Linear layers, [C, D] each, on one embedding of the images: `embed(images)` is [n, D]."""

    embed: Callable[[Inputs], Tensor]
    weights: Sequence[Tensor]


def embedder(embedding: Embedding, state: dict[str, Tensor]) -> Callable[[Inputs], Tensor]:
    """The embedding of images with the parameters that the `state` of a whole classifier gives it."""
    prefix = "embedding."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    module = twin(embedding)
    return lambda images: functional_call(module, own, (images,))


def accuracies(classifiers: Sequence[Heads], batches: Iterable[tuple[Inputs, Tensor]]) -> list[list[float]]:
    """The accuracy, 0 to 1, of every head of each of `classifiers` on all `batches` of images and labels together.

    The images are gone through once for all classifiers. A prediction is the argmax of the float32 features @ weight.T.
    """
    return [among_all for (among_all,) in accuracies_among([None], classifiers, batches)]


@torch.inference_mode()
def accuracies_among(
    choices: Sequence[Tensor | None], classifiers: Sequence[Heads], batches: Iterable[tuple[Inputs, Tensor]]
) -> list[list[list[float]]]:
    """`accuracies` where predictions are among some classes: for each of `classifiers` one list for each of `choices`.

    A choice is the classes [k] int64 that the argmax is over, None all of them.
    """
    correct: list[Tensor | int] = [0] * len(classifiers)
    stacks = [torch.cat(list(weights)) for _, weights in classifiers]
    total = 0
    for inputs, labels in batches:
        total += len(labels)
        for number, ((embed, weights), stack) in enumerate(zip(classifiers, stacks, strict=True)):
            correct[number] = correct[number] + _correct(embed(inputs), labels, stack, len(weights), choices)
    return [[[count / total for count in counts] for counts in of_choices.tolist()] for of_choices in correct]


def _correct(features: Tensor, labels: Tensor, stack: Tensor, heads: int, choices: Sequence[Tensor | None]) -> Tensor:
    """How many of `features` [n, D] the heads in `stack` [heads * C, D] get right, int64 [choices, heads]."""
    correct = torch.zeros(len(choices), heads, dtype=torch.int64, device=features.device)
    rows = max(1, LOGITS // len(stack))
    for some, truth in zip(features.split(rows), labels.split(rows), strict=True):
        logits = F.linear(some, stack).view(len(some), heads, -1)
        for right, classes in zip(correct, choices, strict=True):
            predicted = logits.argmax(2) if classes is None else classes[logits[..., classes].argmax(2)]
            right += (predicted == truth.unsqueeze(1)).sum(0)
    return correct
