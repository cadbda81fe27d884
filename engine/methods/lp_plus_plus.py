"""LP++: a linear probe whose class weights are blended with the text features, one blending factor a class.

300 steps on all samples at once, with step sizes from the data. Logits have no scale: it is 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.methods.frozen import check_frozen, validation_rows
from engine.methods.method import Method
from engine.model import Embedding, LinearClassifier, LinearHead, class_means
from engine.training.evaluate import val_accuracy
from engine.training.grid import Grid, Hparams
from engine.training.side_by_side import fit_each
from engine.training.task import Fitted, Run, Task

STEPS = 300
MOMENTUM = 0.9
BLEND_EVERY = 10
"""After how many steps the blending factors are updated, by the sum of their gradients at all steps so far."""
SPAN = 2
"""Up to how many samples a dimension weights are sums of features: one product a step in place of two."""
INITIAL_BLEND = 250.0
"""The first blending factor over the mean similarity of a class's samples and its text."""


class Data(NamedTuple):
    """A task as the loop takes it. Class weights W [C, D] are parameters P [K, C].

    `rows` [N, K] @ P are the logits of the training samples, `val` [n, K] @ P the validation samples'.
    Where there are few samples, W = P' @ features, K = N and the gradient of P is the logits' own, as W starts as a sum
    of features and every gradient is one. Else P = W' and K = D.
    `similar` [N, C] and `val_similar` [n, C] are similarities with the texts, `largest` is the largest eigenvalue of
    features' @ features.
    """

    rows: Tensor
    labels: Tensor
    similar: Tensor
    val: Tensor
    val_labels: Tensor
    val_similar: Tensor
    start: Tensor
    largest: float
    features: Tensor | None

    @classmethod
    def of(cls, task: Task) -> Data:
        """Return the data of a task."""
        features, labels = task.rows()
        val, val_labels = validation_rows(task)
        number, dimension = features.shape
        wide = features.T if number < dimension else features
        largest = float(torch.linalg.eigvalsh(wide.T.double() @ wide.double())[-1])
        data = cls(
            rows=features,
            labels=labels,
            similar=features @ task.zeroshot.T,
            val=val,
            val_labels=val_labels,
            val_similar=val @ task.zeroshot.T,
            start=torch.zeros_like(task.zeroshot).index_add_(0, labels, features).T,
            largest=largest,
            features=None,
        )
        if number > SPAN * dimension:
            return data
        members = F.one_hot(labels, len(task.zeroshot)).to(features.dtype)
        return data._replace(rows=features @ features.T, val=val @ features.T, start=members, features=features)

    def gradient(self, residual: Tensor) -> Tensor:
        """Return the gradient [K, C] of P from the logits' [N, C]."""
        return self.rows.T @ residual if self.features is None else residual

    def weight(self, parameters: Tensor) -> Tensor:
        """Return W [C, D]."""
        return parameters.T if self.features is None else parameters.T @ self.features


class StepSizes(NamedTuple):
    """The step sizes of the weights and of the blending factors, and the first blending factor."""

    weight: float
    blend: float
    initial: float

    @classmethod
    def of(cls, data: Data) -> StepSizes:
        """Return the values that follow from the data."""
        number, classes = data.similar.shape
        similarities = class_means(data.similar, data.labels, classes).diagonal()
        return cls(
            weight=4 * number / data.largest,
            blend=number / (4 * float(data.similar.square().sum(0).max())),
            initial=INITIAL_BLEND * float(similarities.mean()),
        )


class State(NamedTuple):
    """Parameters [K, C] of the weights (see `Data`), bias [C] and blending factors [C]."""

    parameters: Tensor
    bias: Tensor
    blend: Tensor

    @classmethod
    def first(cls, data: Data, sizes: StepSizes) -> State:
        """Return the state that training starts from: class sums as weights, no bias."""
        blend = torch.full_like(data.similar[0], sizes.initial)
        return cls(data.start.clone(), torch.zeros_like(blend), blend)

    def logits(self, rows: Tensor, similar: Tensor) -> Tensor:
        """Return the logits [n, C] of `rows` [n, K] of the data, whose similarities with the texts are `similar`."""
        return torch.addmm(self.bias, rows, self.parameters).addcmul_(similar, self.blend)

    def clone(self) -> State:
        """Return a copy."""
        return State(*(tensor.clone() for tensor in self))


def descend(data: Data, sizes: StepSizes, state: State) -> Iterator[int]:
    """Take all steps, which change `state` in place, and yield the number of correct predictions on validation."""
    moments = [torch.zeros_like(tensor) for tensor in (state.parameters, state.bias)]
    summed = torch.zeros_like(state.blend)
    labels = data.labels.unsqueeze(1)
    minus_one = torch.full_like(data.similar[:, :1], -1.0)
    for step in range(STEPS):
        residual = state.logits(data.rows, data.similar).softmax(1).scatter_add_(1, labels, minus_one)
        residual /= len(residual)
        gradients = data.gradient(residual), residual.sum(0)
        for tensor, moment, gradient in zip(state, moments, gradients, strict=False):
            tensor.sub_(moment.mul_(MOMENTUM).add_(gradient), alpha=sizes.weight)
        summed += residual.mul_(data.similar).sum(0)
        if step % BLEND_EVERY == BLEND_EVERY - 1:
            state.blend.sub_(summed, alpha=sizes.blend)
        yield int((state.logits(data.val, data.val_similar).argmax(1) == data.val_labels).sum())


@torch.no_grad()
def solve(run: Run) -> Fitted:
    """Return the last step that is best on validation."""
    began, task = time.perf_counter(), run.task
    data = Data.of(task)
    sizes = StepSizes.of(data)
    state = State.first(data, sizes)
    kept, best, kept_step = state.clone(), 0, 0
    for step, correct in enumerate(descend(data, sizes, state)):
        if correct >= best:
            kept, best, kept_step = state.clone(), correct, step
    weight = data.weight(kept.parameters) + kept.blend.unsqueeze(1) * task.zeroshot
    head = LinearHead(weight / task.scale, task.scale, kept.bias / task.scale)
    classifier = LinearClassifier(Embedding([None]), head).eval()
    return Fitted(classifier, val_accuracy(task, classifier), kept_step, seconds=time.perf_counter() - began)


class FullBatchSteps:
    """The `Fit` of LP++: steps on all samples of one run after another, or of runs side by side."""

    takes_max_iter = False

    def steps(self, task: Task, hparams: Hparams, max_iter: int) -> int:
        """Return the number of steps of a run."""
        return STEPS

    def __call__(
        self, runs: Sequence[Run], *, progress: Callable[[int], object], executor: str = "stacked", **_: object
    ) -> Iterator[dict[Run, Fitted]]:
        """Fit `runs`; see `Fit`."""
        return fit_each(runs, solve, progress=progress, steps=STEPS, in_turn=executor == "sequential")


METHOD = Method(
    title="LP++",
    grid=Grid(),
    fit=FullBatchSteps(),
    log_logit_scale=0.0,
    wise_ft=False,
    inits=("zeroshot",),
    check=check_frozen,
)
