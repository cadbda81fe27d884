"""Models of many runs at once: parameters with a leading axis of runs, their gradients, their logits.

`LinearModel` is a linear head on frozen features and `ResidualModel` one with normalised weights: their gradients have
closed forms. `FunctionalModel` takes any model: torch.func maps it over the axis of runs, which turns its matrix
products into batched ones, and autograd does the rest.
All hold S = R * G runs of R settings and G problems, run number r * G + g.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine import memory
from engine.model import copy_sharing_parameters
from engine.training.plan import Stack, validation_rows
from engine.training.problem import Problem, hparam_buffers
from engine.training.task import Inputs

NEAR_ZERO = 1e-12
"""The smallest divisor of a weight, as in torch's normalize."""
VECTOR = 16
"""The number of float32 values in the widest vector registers."""
LEAST = -80.0
"""exp() of it is negligible beside exp(0), and still a normal number; denormal numbers take six times as long."""


class _StackedModel:
    """The stacked parameters of a model."""

    def __init__(self, stack: Stack, problems: Sequence[Problem]):
        self.settings, self.problems, self.batch_size = len(stack.settings), len(problems), sum(stack.shares)
        self.names = [name for name, _ in problems[0].model.named_parameters()]
        runs = self.settings * self.problems
        self.parameters = [memory.zeros_like(p.expand(runs, *p.shape)) for p in problems[0].model.parameters()]
        self.validation_rows = validation_rows(problems[0])
        self._is_full_batch = problems[0].is_full_batch(stack.settings[0])
        self._all: Tensor | list[Inputs] | None = None
        self.reset(problems)

    @torch.no_grad()
    def reset(self, problems: Sequence[Problem]) -> None:
        """Set all parameters to their initial values."""
        for stacked, *initial in zip(self.parameters, *(p.model.parameters() for p in problems), strict=True):
            for run, parameter in enumerate(stacked):
                parameter.copy_(initial[run % len(initial)])

    def _inputs(self, sources: Sequence) -> Tensor | list[Inputs]:
        """Return the inputs of a batch, from rows of banks by modality. A batch of all samples is gathered once."""
        if self._all is not None:
            return self._all
        inputs = self._gathered(sources)
        if self._is_full_batch:
            self._all = inputs
        return inputs


class LinearModel(_StackedModel):
    """A linear head on L2-normalised features.

    On a CPU a product is computed setting by setting, so that the features of a batch need not be copied for each; on a
    GPU for all runs at once, as launches cost more than copies.
    """

    def __init__(self, stack: Stack, problems: Sequence[Problem]):
        super().__init__(stack, problems)
        self.scale, (self.head,) = problems[0].task.scale, self.parameters
        # views of what stays in its place, made once: making them anew takes as long as a small product
        products = self.settings if self.head.device.type == "cpu" else 1
        self._repeats = self.settings // products
        self._gradient = memory.zeros_like(self.head)
        self._logits, self._seen = (
            self.head.new_empty(self.settings * self.problems, rows, self.head.shape[1])
            for rows in (self.batch_size, self.validation_rows)
        )
        self._weights = self._multiplied().transpose(1, 2).chunk(products)
        self._logits_of, self._seen_of = (logits.chunk(products) for logits in (self._logits, self._seen))
        self._residuals = self._logits.transpose(1, 2).chunk(products)
        self._gradients = self._gradient.chunk(products)
        self._minus_one = self.head.new_full((1, 1, 1), -1.0).expand(len(self.head), self.batch_size, 1)

    def gradients(self, sources: Sequence, labels: Tensor) -> list[Tensor]:
        """Return the gradient of each run's loss, from rows of banks of features [N, D] and `labels` [G, B]."""
        features = self._inputs(sources)
        self._multiply(features, self._logits_of)
        # d loss / d logits = (softmax(scale * logits) - one_hot(label)) * scale / B, in the place of the logits
        _softmax(self._logits.mul_(self.scale))
        self._logits.scatter_add_(2, labels.repeat(self.settings, 1).unsqueeze(2), self._minus_one)
        self._logits.mul_(self.scale / self.batch_size)
        for residual, gradient in zip(self._residuals, self._gradients, strict=True):
            torch.bmm(residual, features, out=gradient)
        return [self._gradient]

    def logits(self, images: Inputs) -> Tensor:
        """Return logits [R, G, n, C] without their scale, for features [G, n, D]; valid until the next call."""
        self._multiply(self._repeated(images[0]), self._seen_of)
        return self._seen.view(self.settings, self.problems, *self._seen.shape[1:])

    def _multiplied(self) -> Tensor:
        """Return the tensor [S, C, D] that multiplies features; its address stays."""
        return self.head.detach()

    def _gathered(self, sources: Sequence) -> Tensor:
        """Return the features of a batch for the runs of a product."""
        first, *others = (bank.pick(rows)[0] for bank, rows in sources)
        return self._repeated(torch.cat([first, *others], dim=1) if others else first)

    def _multiply(self, features: Tensor, logits: Sequence[Tensor]) -> None:
        for weight, of_product in zip(self._weights, logits, strict=True):
            torch.bmm(features, weight, out=of_product)

    def _repeated(self, features: Tensor) -> Tensor:
        """Return features [G, n, D] for the runs of a product."""
        return features if self._repeats == 1 else features.repeat(self._repeats, 1, 1)


class ResidualModel(LinearModel):
    """Residuals of normalised weights, `engine.model.residual`, on L2-normalised features.

    With w = base + alpha * residual and its lengths n, dividing logits by n spares dividing w; and the gradient's part
    along w, which the normalisation takes away, follows from the logits.
    """

    def __init__(self, stack: Stack, problems: Sequence[Problem]):
        super().__init__(stack, problems)
        models = [problem.model for problem in problems]
        shared = all(model.base is models[0].base for model in models)
        # [R, G or 1, C, D], to be added to [R, G, C, D]
        self._base = models[0].base[None, None] if shared else torch.stack([m.base for m in models]).unsqueeze(0)
        alphas = [float(setting.get("alpha", models[0].alpha)) for setting in stack.settings]
        self._alpha = self.head.new_tensor(alphas).view(-1, 1, 1)
        self._pull = None  # of the penalty: its gradient over the residual
        if problems[0].descent.penalty is not None:
            pulls = 2 * torch.stack([model.multipliers for model in models]) / self.head.shape[1]
            self._pull = pulls.repeat(self.settings, 1).unsqueeze(2)
        self._before = torch.empty_like(self._logits)

    def gradients(self, sources: Sequence, labels: Tensor) -> list[Tensor]:
        """Return the gradient of each run's loss, from rows of banks of features [N, D] and `labels` [G, B]."""
        features, lengths = self._inputs(sources), self._compose()
        self._multiply(features, self._logits_of)
        self._logits.mul_((self.scale / lengths).unsqueeze(1))
        self._before.copy_(self._logits)
        _softmax(self._logits)
        self._logits.scatter_add_(2, labels.repeat(self.settings, 1).unsqueeze(2), self._minus_one)
        # d loss / d w = (F^T (p - y) * scale - w (p - y) . logits / n) / (n B), times alpha for the residual
        alpha = self._alpha.expand(-1, self.problems, -1).reshape(-1, 1)
        share = alpha / (lengths * self.batch_size)
        along = (self._before.mul_(self._logits).sum(1) * share / lengths).unsqueeze(2)
        self._logits.mul_((share * self.scale).unsqueeze(1))
        torch.mul(self._composed, along.neg_(), out=self._gradient)
        if self._pull is not None:
            self._gradient.addcmul_(self.head.detach(), self._pull)
        for residual, gradient in zip(self._residuals, self._gradients, strict=True):
            torch.baddbmm(gradient, residual, features, out=gradient)
        return [self._gradient]

    def logits(self, images: Inputs) -> Tensor:
        """Return logits [R, G, n, C] without their scale, for features [G, n, D]; valid until the next call."""
        lengths = self._compose()
        logits = super().logits(images)
        return logits.div_(lengths.view(*logits.shape[:2], 1, -1))

    def _multiplied(self) -> Tensor:
        self._composed = memory.zeros_like(self.head)
        return self._composed

    def _compose(self) -> Tensor:
        """Set the weights before normalisation, and return their lengths [S, C]."""
        of_settings = (self.settings, self.problems, *self.head.shape[1:])
        residual, composed = (tensor.view(of_settings) for tensor in (self.head.detach(), self._composed))
        torch.addcmul(self._base, residual, self._alpha.unsqueeze(1), out=composed)
        return torch.linalg.vector_norm(self._composed, dim=2).clamp_(min=NEAR_ZERO)


class FunctionalModel(_StackedModel):
    """Any module whose samples do not depend on each other: an adapter, trainable layers of the encoders."""

    def __init__(self, stack: Stack, problems: Sequence[Problem]):
        super().__init__(stack, problems)
        self._model, self._penalty = copy_sharing_parameters(problems[0].model).train(), problems[0].descent.penalty
        self._shared = dict(self._model.named_buffers())
        self._buffers = {
            name: self._of_runs(torch.stack([problem.model.get_buffer(name) for problem in problems]))
            for name in own_buffers(problems)
        } | self._hparams(stack, problems)
        for parameter in self.parameters:
            parameter.requires_grad_()

    def gradients(self, sources: Sequence, labels: Tensor) -> list[Tensor]:
        """Return the gradient of each run's loss, from rows of banks of inputs and `labels` [G, B]."""
        inputs = self._inputs(sources)
        with torch.enable_grad():
            losses = vmap(self._loss)(self._named(), inputs, self._of_runs(labels))
            gradients = torch.autograd.grad(losses.sum(), self.parameters, materialize_grads=True)
        # some are transposed in memory, which the optimizer's kernel would not see
        return [gradient.contiguous() for gradient in gradients]

    def logits(self, images: Inputs) -> Tensor:
        """Return logits [R, G, n, C] for the inputs [G, n, ...] of each problem."""
        with torch.no_grad():
            of_runs = tuple(map(self._of_runs, images))
            logits = vmap(lambda parameters, inputs: self._call(parameters, inputs))(self._named(), of_runs)
        return logits.view(self.settings, self.problems, *logits.shape[1:])

    def _gathered(self, sources: Sequence) -> list[Inputs]:
        return [bank.pick(self._of_runs(rows)) for bank, rows in sources]

    def _loss(self, parameters: dict[str, Tensor], sources: list[Inputs], labels: Tensor) -> Tensor:
        loss = F.cross_entropy(self._call(parameters, *sources), labels)
        return loss if self._penalty is None else loss + self._penalty(self._shared | parameters)

    def _call(self, parameters: dict[str, Tensor], *sources: Inputs) -> Tensor:
        return functional_call(self._model, parameters, sources)

    def _hparams(self, stack: Stack, problems: Sequence[Problem]) -> dict[str, Tensor]:
        """Return the buffers [S] that have names of hyper-parameters."""
        of_settings = [hparam_buffers(problems[0].model, setting) for setting in stack.settings]
        return {
            name: torch.stack([buffers[name] for buffers in of_settings]).repeat_interleave(len(problems))
            for name in of_settings[0]
        }

    def _named(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.parameters, strict=True)) | self._buffers

    def _of_runs(self, tensor: Tensor) -> Tensor:
        """Return a tensor [G, ...] repeated for all settings: [S, ...]."""
        return tensor.repeat(self.settings, *[1] * (tensor.dim() - 1))


def stacked_model(stack: Stack, problems: Sequence[Problem]) -> LinearModel | FunctionalModel:
    """Return the model that trains `problems` fastest."""
    kind = LinearModel if problems[0].is_linear else ResidualModel if problems[0].is_residual else FunctionalModel
    return kind(stack, problems)


def own_buffers(problems: Sequence[Problem]) -> list[str]:
    """Return the names of the buffers that the models of `problems` do not share, such as weights made from texts."""
    first, *others = (dict(problem.model.named_buffers()) for problem in problems)
    return [name for name, buffer in first.items() if any(other[name] is not buffer for other in others)]


def _softmax(logits: Tensor) -> None:
    """Replace logits by their softmax over the last dimension.

    On a CPU torch's own is made for rows that fill vector registers. For 10 classes it takes several times as long as
    this, 1.5 us a run-step, which is a third of the whole step.
    """
    if logits.device.type != "cpu" or logits.shape[-1] >= VECTOR:
        torch.softmax(logits, dim=-1, out=logits)
        return
    logits.sub_(logits.amax(-1, keepdim=True)).clamp_(min=LEAST).exp_()
    logits.div_(logits.sum(-1, keepdim=True))


def plain_attention() -> AbstractContextManager:
    """Compute attention as matrix products and a softmax, which vmap batches on every device; sequences are short.

    This is a switch of the whole process: it is thrown once around the training of all stacks.
    """
    return sdpa_kernel(SDPBackend.MATH)
