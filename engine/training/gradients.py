"""Models of many runs at once: parameters with a leading axis of runs, their gradients, their logits.

`LinearModel` is a linear head on frozen features, whose gradient has a closed form. `FunctionalModel` takes any model:
torch.func maps it over the axis of runs, which turns its matrix products into batched ones, and autograd does the rest.
Both hold S = R * G runs of R settings and G problems, run number r * G + g.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine import memory
from engine.training.plan import Stack, validation_rows
from engine.training.problem import Inputs, Problem


class _StackedModel:
    """What both have in common: the stacked parameters."""

    def __init__(self, stack: Stack, problems: Sequence[Problem]):
        self.settings, self.problems, self.batch_size = len(stack.settings), len(problems), stack.batch_size
        self.scale = problems[0].model.head.scale
        self.names = [name for name, _ in problems[0].model.named_parameters()]
        runs = self.settings * self.problems
        self.parameters = [memory.zeros_like(p.expand(runs, *p.shape)) for p in problems[0].model.parameters()]
        self.head = dict(zip(self.names, self.parameters, strict=True))["head.weight"]
        self.validation_rows = validation_rows(problems[0])
        self.reset(problems)

    @torch.no_grad()
    def reset(self, problems: Sequence[Problem]) -> None:
        """Set all parameters to what training starts from."""
        for stacked, *initial in zip(self.parameters, *(p.model.parameters() for p in problems), strict=True):
            for run, parameter in enumerate(stacked):
                parameter.copy_(initial[run % len(initial)])


class LinearModel(_StackedModel):
    """A linear head on L2-normalised features."""

    def __init__(self, stack: Stack, problems: Sequence[Problem]):
        super().__init__(stack, problems)
        classes = self.head.shape[1]
        self._weights, self._gradient = self.head.chunk(self.settings), memory.zeros_like(self.head)
        self._gradients = self._gradient.chunk(self.settings)
        self._logits = self.head.new_empty(self.settings, self.problems, self.batch_size, classes)
        self._seen = self.head.new_empty(self.settings, self.problems, self.validation_rows, classes)
        self._minus_one = self.head.new_full((1, 1, 1, 1), -1.0).expand(*self._logits.shape[:3], 1)

    def gradients(self, sources: Sequence, labels: Tensor) -> list[Tensor]:
        """The gradient of every run's loss, from rows of banks of features [N, D] and `labels` [G, B]."""
        features = torch.cat([bank.pick(rows)[0] for bank, rows in sources], dim=1)  # [G, B, D]
        for weight, logits in zip(self._weights, self._logits, strict=True):
            torch.bmm(features, weight.transpose(1, 2), out=logits)
        # d loss / d logits = (softmax(scale * logits) - one_hot(label)) * scale / B, in the place of the logits
        torch.softmax(self._logits.mul_(self.scale), dim=3, out=self._logits)
        self._logits.scatter_add_(3, labels.expand(self._logits.shape[:3]).unsqueeze(3), self._minus_one)
        self._logits.mul_(self.scale / self.batch_size)
        for residual, gradient in zip(self._logits, self._gradients, strict=True):
            torch.bmm(residual.transpose(1, 2), features, out=gradient)
        return [self._gradient]

    def logits(self, images: Inputs) -> Tensor:
        """Logits [R, G, n, C], but for their scale, of each problem's features [G, n, D]; valid until the next call."""
        for weight, logits in zip(self._weights, self._seen, strict=True):
            torch.bmm(images[0], weight.transpose(1, 2), out=logits)
        return self._seen


class FunctionalModel(_StackedModel):
    """Any classifier whose samples do not depend on each other: an adapter, trainable parts of the encoders."""

    def __init__(self, stack: Stack, problems: Sequence[Problem]):
        super().__init__(stack, problems)
        # modules of its own, since functional_call changes them while it runs, around parameters that are not copied
        model = problems[0].model
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._model = copy.deepcopy(model, shared).train()
        for parameter in self.parameters:
            parameter.requires_grad_()

    def gradients(self, sources: Sequence, labels: Tensor) -> list[Tensor]:
        """The gradient of every run's loss, from rows of banks of inputs and `labels` [G, B]."""
        inputs = [bank.pick(self._of_runs(rows)) for bank, rows in sources]
        with torch.enable_grad(), _plain_attention():
            losses = vmap(self._loss)(self._named(), inputs, self._of_runs(labels))
            gradients = torch.autograd.grad(losses.sum(), self.parameters)
        # some are transposed in memory, which the optimizer's kernel would not see
        return [gradient.contiguous() for gradient in gradients]

    def logits(self, images: Inputs) -> Tensor:
        """Logits [R, G, n, C] of each problem's images: inputs [G, n, ...]."""
        with torch.no_grad(), _plain_attention():
            of_runs = tuple(map(self._of_runs, images))
            logits = vmap(lambda parameters, inputs: self._call(parameters, inputs))(self._named(), of_runs)
        return logits.view(self.settings, self.problems, *logits.shape[1:])

    def _loss(self, parameters: dict[str, Tensor], sources: list[Inputs], labels: Tensor) -> Tensor:
        return F.cross_entropy(self._call(parameters, *sources), labels)

    def _call(self, parameters: dict[str, Tensor], *sources: Inputs) -> Tensor:
        return functional_call(self._model, parameters, sources)

    def _named(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.parameters, strict=True))

    def _of_runs(self, tensor: Tensor) -> Tensor:
        """[G, ...] repeated for all settings: [S, ...]."""
        return tensor.repeat(self.settings, *[1] * (tensor.dim() - 1))


def _plain_attention() -> AbstractContextManager:
    """Attention as matrix products and a softmax, which vmap batches on every device; sequences are short here."""
    return sdpa_kernel(SDPBackend.MATH)
