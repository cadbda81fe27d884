"""Prompting (CoOp): context vectors in the place of a prompt's first words, trained through the frozen text encoder.

The classes' weights are the text features of the context and their names. In cross-modal training they classify the
features of hand-crafted prompts too, as samples of their classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import memory
from engine.errors import UserError
from engine.methods.frozen import check_frozen
from engine.methods.method import Method
from engine.model import Embedding, LinearClassifier, LinearHead
from engine.training.batches import generator
from engine.training.descent import GradientDescent, Optimizer
from engine.training.grid import Grid
from engine.training.schedule import epoch_cosine
from engine.training.task import Inputs, PromptEncoder, Run, Task

CONTEXT = 16
"""The number of context vectors."""
DEVIATION = 0.02
"""The standard deviation of their normally distributed initial values."""
FEW = 2
"""The number of classes to measure the memory of the tower with."""


class Prompting(nn.Module):
    """Logits of features by the text features of context vectors, which are the only parameters.

    The text features of all classes are computed once a step, `at_once` classes at a time; None is all.
    """

    def __init__(self, task: Task, prompts: PromptEncoder, at_once: int | None = None):
        super().__init__()
        drawn = torch.randn(CONTEXT, prompts.width, generator=generator(f"{task.name}/context"))
        self.context = nn.Parameter((DEVIATION * drawn).to(task.device))
        self.prompts, self.at_once, self.scale = prompts, at_once, task.scale

    @property
    def shared(self) -> list[Tensor]:
        """The tensors that the runs of a task's dataset share."""
        return self.prompts.tensors()

    def weight(self) -> Tensor:
        """Return the L2-normalised text features [C, D]."""
        return F.normalize(self.prompts(self.context, self.at_once))

    def forward(self, *modalities: Inputs) -> Tensor:
        features = torch.cat([inputs[0] for inputs in modalities])
        return self.scale * (features @ self.weight().T)


class Context(nn.Module):
    """Features as they are, beside the context vectors [16, width] that a classifier's weights were made from."""

    def __init__(self, context: Tensor):
        super().__init__()
        self.register_buffer("context", context)

    def forward(self, features: Tensor) -> Tensor:
        return features


def build(task: Task, at_once: int | None = None) -> Prompting:
    """Return the module that training starts from."""
    return Prompting(task, task.prompts(CONTEXT), at_once).eval()


@torch.no_grad()
def finish(task: Task, module: Prompting) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the linear classifier of a trained module, and no tuned values."""
    context = Context(module.context.detach().clone())
    return LinearClassifier(Embedding([None], context), LinearHead(module.weight(), task.scale)).eval(), {}


@torch.no_grad()
def new_classes(task: Task, classifier: LinearClassifier) -> LinearClassifier:
    """Return the classifier of a task's class names after the context of `classifier`, which is of other classes."""
    return classifier.with_weight(F.normalize(task.prompts(CONTEXT)(classifier.embedding.phi.context)))


def epochs(task: Task) -> int:
    """Return how many epochs training takes: more for more shots, and few for ImageNet."""
    if task.shots <= 1 or task.dataset == "imagenet":
        return 50
    return 100 if task.shots <= 4 else 200


class InMemory(GradientDescent):
    """Gradient descent with the text tower in chunks of classes, where not all fit `budget`."""

    def within(self, budget: int | None, runs: Sequence[Run]) -> tuple[GradientDescent, int | None]:
        """Return the description, and the bytes for stacks: half of the budget if chunks need the other half."""
        if budget is None or not (at_once := classes_at_once(runs, budget)):
            return self, budget
        return replace(self, build=partial(self.build, at_once=at_once)), budget // 2


def classes_at_once(runs: Sequence[Run], budget: int) -> int | None:
    """Return how many classes go through the text tower at a time; None if `budget` (bytes) has room for all.

    The smallest stack has two runs, and the tensors of its steps may take half of the budget. The largest number of
    classes counts.
    """
    prompts = max((run.task.prompts(CONTEXT) for run in runs), key=lambda own: own.classes)
    of_class = bytes_of_class(prompts)
    if 4 * prompts.classes * of_class <= budget:
        return None
    at_a_time = budget // 2 // torch.get_num_threads()  # stacks side by side
    return min(prompts.classes, max(1, at_a_time // (2 * of_class)))


def bytes_of_class(prompts: PromptEncoder) -> int:
    """Return how many bytes the forward pass of the text tower keeps of a class for the backward pass."""
    known = {tensor.untyped_storage().data_ptr() for tensor in prompts.tensors()}
    classes = min(FEW, prompts.classes)
    with memory.count_saved(lambda tensor: tensor.untyped_storage().data_ptr() in known) as saved:
        context = torch.zeros(CONTEXT, prompts.width, device=prompts.tensors()[0].device, requires_grad=True)
        features = prompts.encode(context, slice(classes))
    del features
    return sum(saved.values()) // classes


def check(task: Task) -> None:
    """Raise UserError for a task that the method cannot be fitted to."""
    check_frozen(task)
    if task.prompts is None:
        raise UserError("needs the text encoder, which this task has none of; choose another method")
    task.prompts(CONTEXT)


def phi(tensors: Mapping[str, Tensor]) -> Context:
    """Return an empty module for the saved `context`."""
    return Context(torch.empty_like(tensors["context"]))


METHOD = Method(
    title="prompting",
    grid=Grid(),
    fit=InMemory(
        build=build,
        optimizer=Optimizer("sgd", lr=2e-3, weight_decay=5e-4),
        schedule=epoch_cosine,
        epochs=epochs,
        batch_size=32,
        views_in_turn=True,
        keep="last",
        finish=finish,
    ),
    phi=phi,
    inits=("zeroshot",),
    text_encoder=True,
    check=check,
    new_classes=new_classes,
)
