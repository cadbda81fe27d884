"""Cut the runs of a sweep in stacks: what may train side by side, what memory it takes, what caches hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from engine.errors import UserError
from engine.optimizer import EVAL_FREQ, Hyperparameters
from engine.training.problem import Job, Outcome, Problem

CPU_CACHE = 12 << 20
"""Bytes of weights, gradients and moments that a stack on a CPU is cut to: a stack that no longer fits the caches is
slower than two that do (measured in bench/)."""
MANY = 16
"""Where so many problems fit in a stack with all their settings, settings are not cut: drawing the batches of small
models takes as long as training on them, and every stack draws its own."""
VALIDATION_BYTES = 1 << 20
"""How much of its validation inputs a run looks at, at a time: 256 features of 1024."""

VALIDATED = 4
"""Validation images of a class in the protocol, which a block of validation inputs has room for at least."""

Setting = tuple[float, float]
"""Learning rate and weight decay."""
T = TypeVar("T")


@dataclass(frozen=True)
class Stack:
    """Runs that train side by side: all settings on all problems.

    With `copies` 2 every problem is there twice, and the second one's results are not used: a batched product of a
    single matrix may take another kernel than one of several, which rounds differently. `bytes` is what training it
    takes, beside the problems themselves.
    """

    problems: tuple[Problem, ...]
    settings: tuple[Setting, ...]
    batch_size: int
    copies: int
    bytes: int

    @property
    def runs(self) -> int:
        """How many runs it trains."""
        return len(self.problems) * len(self.settings)

    @property
    def jobs(self) -> list[Job]:
        """Its runs, setting after setting."""
        return [
            Job(problem, Hyperparameters(lr, weight_decay, self.batch_size))
            for lr, weight_decay in self.settings
            for problem in self.problems
        ]

    def in_order_of_jobs(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes of `jobs`, out of those of all runs with their copies."""
        problems = len(self.problems)
        return [
            outcomes[setting * problems * self.copies + problem]
            for setting in range(len(self.settings))
            for problem in range(problems)
        ]


def is_linear(problem: Problem) -> bool:
    """Whether the linear layer is all that is trained."""
    return not problem.model.embedding.trainable


def plan(jobs: Sequence[Job], workers: int, budget: int | None = None) -> tuple[list[Stack], int]:
    """Cut `jobs` in stacks of runs that share shapes and batch size; gives them, and how many train at a time.

    That is `workers`, or as many as find room for a stack of two runs. Stacks are as large as their share of `budget`
    (bytes) and, on a CPU, the caches admit; there are at least as many as workers if there are jobs for them. The order
    is that of the problems. Raises UserError when there is no room for a single stack.
    """
    families = _families(jobs)
    if budget is not None:
        # a single run is trained twice, see `Stack`
        problem, largest = max(((f[0][0], 2 * run_bytes(f[0][0], f[2])) for f in families), key=lambda pair: pair[1])
        if largest > budget:
            raise UserError(
                f"two runs of {problem.name} side by side take {largest / 2**30:.2f} GiB, and there are"
                f" {budget / 2**30:.2f} GiB; give more (--max-memory), or train with --executor sequential"
            )
        workers = min(workers, budget // largest)
        budget //= workers
    stacks = [stack for family in families for stack in _cut(*family, -(-workers // len(families)), budget)]
    order = {problem: place for place, (problem, _) in enumerate(jobs)}
    return sorted(stacks, key=lambda stack: order[stack.problems[0]]), workers


def _families(jobs: Sequence[Job]) -> list[tuple[list[Problem], list[Setting], int]]:
    """Products of problems and settings that share shapes and batch size."""
    settings: dict[tuple[Problem, int], list[Setting]] = defaultdict(list)
    for problem, (lr, weight_decay, batch_size) in jobs:
        settings[problem, batch_size].append((lr, weight_decay))
    families: dict[tuple, list[Problem]] = defaultdict(list)
    for (problem, batch_size), wanted in settings.items():
        shapes = tuple(parameter.shape for parameter in problem.model.parameters())
        alike = (batch_size, tuple(wanted), shapes, problem.model.head.scale, len(problem.sources))
        families[alike].append(problem)
    return [(problems, list(alike[1]), alike[0]) for alike, problems in families.items()]


def _cut(
    problems: list[Problem], settings: list[Setting], batch_size: int, at_least: int, budget: int | None
) -> list[Stack]:
    """Cut a product of problems and settings in `at_least` that many stacks of at most `budget` bytes."""
    of_run = run_bytes(problems[0], batch_size)
    most = len(problems) * len(settings) if budget is None else budget // of_run
    if problems[0].device.type == "cpu":
        most = min(most, max(3, CPU_CACHE // (4 * _parameter_bytes(problems[0]))))
    whole = most // len(settings)  # problems in a stack of all settings, which draw and gather their batches once
    groups = _even(problems, whole if whole >= MANY else max(2, most))
    pieces = _even(settings, max(1, most // max(2, *map(len, groups))))
    while len(groups) * len(pieces) < at_least and len(pieces) < len(settings):
        pieces = _even(settings, max(map(len, pieces)) - 1)
    return [
        Stack(tuple(group), tuple(piece), batch_size, copies, copies * len(group) * len(piece) * of_run)
        for group in groups
        for piece in pieces
        for copies in [2 if len(group) == 1 else 1]
    ]


def _even(items: list[T], most: int) -> list[list[T]]:
    """Cut a list in as few parts of at most `most` items as it takes, of about the same size."""
    parts = -(-len(items) // most)
    return [items[part * len(items) // parts : (part + 1) * len(items) // parts] for part in range(parts)]


def validation_rows(problem: Problem) -> int:
    """How many validation images of a problem go through the model at a time; the same whatever the stack.

    No more than the protocol's validation sets have (four a class): smaller ones are padded to this number.
    """
    protocol = VALIDATED * problem.model.head.weight.shape[0]
    return min(256, max(8, protocol), max(8, VALIDATION_BYTES // _row_bytes(problem)))


def run_bytes(problem: Problem, batch_size: int) -> int:
    """Memory that one run of a problem takes in a stack.

    That is five times its parameters (weights, gradients, two moments, the best weights so far; autograd makes the
    gradients once more than it returns), its batches, what a step leaves behind (samples and logits, or what autograd
    saves) and what a block of validation images does. On a CPU these two take turns; a captured step keeps its own.
    """
    share, classes = problem.share(batch_size), problem.model.head.weight.shape[0]
    order = 2 * 8 * EVAL_FREQ * share * len(problem.sources)
    rows = validation_rows(problem)
    validation = rows * (_row_bytes(problem) + 4 * classes)
    step, copies = batch_size * (_row_bytes(problem) + 4 * classes), 5
    if not is_linear(problem):
        copies = 6
        step = _saved_bytes(problem, share)
        validation += step * rows // (share * len(problem.sources))
    together = max if problem.device.type == "cpu" else sum
    return copies * _parameter_bytes(problem) + order + together([step, validation])


def _row_bytes(problem: Problem) -> int:
    return sum(tensor[0].nbytes for tensor in problem.val.bank)


def _parameter_bytes(problem: Problem) -> int:
    return sum(parameter.nbytes for parameter in problem.model.parameters())


def _saved_bytes(problem: Problem, share: int) -> int:
    """What the forward pass of one batch saves for the backward pass, its parameters apart, counted by taking one."""
    parameters = {parameter.data_ptr() for parameter in problem.model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    picked = [source.pick(torch.arange(share, device=source.rows.device)) for source in problem.sources]
    inputs, labels = zip(*picked, strict=True)
    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        leaves = {name: p.detach().requires_grad_() for name, p in problem.model.named_parameters()}
        logits = torch.func.functional_call(problem.model, leaves, inputs)
        loss = F.cross_entropy(logits, torch.cat(labels))
    del loss
    return sum(saved.values())
