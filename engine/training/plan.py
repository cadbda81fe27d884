"""Group the runs of a sweep into stacks that train side by side, by shapes, memory and caches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch.nn import functional as F

from engine import memory
from engine.errors import UserError
from engine.training.grid import Hparams
from engine.training.problem import Job, Problem
from engine.training.schedule import EVAL_FREQ, Steps

CPU_CACHE = 12 << 20
"""The most bytes of weights, gradients and moments of a stack on a CPU: a stack that exceeds the caches is slower than
two that fit (measured in bench/)."""
MANY = 16
"""If a stack has room for this many problems with all settings, settings are not divided: each stack draws its own
batches, which for small models takes as long as training."""
VALIDATION_BYTES = 1 << 20
"""The most bytes of validation inputs of a run at a time: 256 features of 1024 numbers."""

VALIDATED = 4
"""The most validation images of a class in the protocol; a block of validation inputs has room for these."""

T = TypeVar("T")


class _Family(NamedTuple):
    """All of `problems` with all of `settings`, which share shapes, batches and length."""

    problems: list[Problem]
    settings: list[Hparams]


@dataclass(frozen=True)
class Stack:
    """Runs that train side by side: all settings on all problems.

    With `copies` 2 each problem occurs twice, and the second result is not used: a batched product of a single matrix
    may use another kernel than one of several, which rounds differently. `bytes` is the memory for training it, without
    the problems themselves.
    """

    problems: tuple[Problem, ...]
    settings: tuple[Hparams, ...]
    copies: int
    bytes: int

    @property
    def shares(self) -> tuple[int, ...]:
        """The number of samples of each modality in a batch."""
        return self.problems[0].shares(self.settings[0])

    @property
    def length(self) -> Steps:
        """The number of steps of its runs."""
        return self.problems[0].length(self.settings[0])

    @property
    def runs(self) -> int:
        """The number of runs."""
        return len(self.problems) * len(self.settings)

    @property
    def jobs(self) -> list[Job]:
        """Its runs, setting after setting."""
        return [Job(problem, setting) for setting in self.settings for problem in self.problems]

    @property
    def places(self) -> list[int]:
        """The positions of the runs of `jobs` among all runs with their copies."""
        problems = range(len(self.problems))
        return [
            setting * len(self.problems) * self.copies + problem
            for setting in range(len(self.settings))
            for problem in problems
        ]


def plan(jobs: Sequence[Job], workers: int, budget: int | None = None) -> tuple[list[Stack], int]:
    """Return stacks of `jobs` that share shapes and batch size, and how many stacks train at a time.

    The latter is `workers`, or fewer if `budget` (bytes) has no room for a stack of two runs each. Stacks are as large
    as their share of the budget and, on a CPU, the caches allow; there are at least as many as workers if there are
    jobs for them. They come in the order of the problems. Raises UserError if there is no room for a single stack.
    """
    families = _families(jobs)
    if budget is not None:
        # a single run is trained twice, see `Stack`
        smallest = ((f.problems[0], 2 * run_bytes(f.problems[0], f.settings[0])) for f in families)
        problem, largest = max(smallest, key=lambda pair: pair[1])
        if largest > budget:
            raise UserError(
                f"two runs of {problem.task.name} side by side take {largest / 2**30:.2f} GiB, and there are"
                f" {budget / 2**30:.2f} GiB; give more (--max-memory), or train with --executor sequential"
            )
        workers = min(workers, budget // largest)
        budget //= workers
    stacks = [stack for family in families for stack in _cut(*family, -(-workers // len(families)), budget)]
    order = {problem: place for place, (problem, _) in enumerate(jobs)}
    return sorted(stacks, key=lambda stack: order[stack.problems[0]]), workers


def _families(jobs: Sequence[Job]) -> list[_Family]:
    """Return products of problems and settings that share shapes, batches and length."""
    settings: dict[tuple[Problem, tuple[int, ...]], list[Hparams]] = defaultdict(list)
    for problem, hparams in jobs:
        settings[problem, problem.shares(hparams)].append(hparams)
    families: dict[tuple, list[Problem]] = defaultdict(list)
    for (problem, shares), wanted in settings.items():
        shapes = tuple(tensor.shape for tensor in (*problem.model.parameters(), *problem.model.buffers()))
        shared = tuple(tensor.data_ptr() for tensor in shared_tensors(problem))
        how = (problem.descent, problem.length(wanted[0]), problem.task.scale, shared)
        families[shares, tuple(wanted), shapes, how].append(problem)
    return [_Family(problems, list(alike[1])) for alike, problems in families.items()]


def _cut(problems: list[Problem], settings: list[Hparams], at_least: int, budget: int | None) -> list[Stack]:
    """Divide a product of problems and settings into `at_least` that many stacks of at most `budget` bytes."""
    of_run = run_bytes(problems[0], settings[0])
    most = len(problems) * len(settings) if budget is None else budget // of_run
    if problems[0].device.type == "cpu":
        most = min(most, max(3, CPU_CACHE // (4 * _parameter_bytes(problems[0]))))
    whole = most // len(settings)  # problems in a stack of all settings, which draw and gather their batches once
    groups = _even(problems, whole if whole >= MANY else max(2, most))
    pieces = _even(settings, max(1, most // max(2, *map(len, groups))))
    while len(groups) * len(pieces) < at_least and len(pieces) < len(settings):
        pieces = _even(settings, max(map(len, pieces)) - 1)
    return [
        Stack(tuple(group), tuple(piece), copies, copies * len(group) * len(piece) * of_run)
        for group in groups
        for piece in pieces
        for copies in [2 if len(group) == 1 else 1]
    ]


def _even(items: list[T], most: int) -> list[list[T]]:
    """Divide a list into the fewest parts of at most `most` items, of about the same size."""
    parts = -(-len(items) // most)
    return [items[part * len(items) // parts : (part + 1) * len(items) // parts] for part in range(parts)]


def validation_rows(problem: Problem) -> int:
    """Return how many validation images go through the model at a time: the same number in every stack.

    It is at most four a class, as in the protocol's validation sets; smaller sets are padded to this number.
    """
    protocol = VALIDATED * problem.classes
    return min(256, max(8, protocol), max(8, VALIDATION_BYTES // _row_bytes(problem)))


def run_bytes(problem: Problem, hparams: Hparams) -> int:
    """Return the bytes that one run of a problem takes in a stack.

    These are five times its parameters (weights, gradients, two moments, the best weights so far; autograd copies the
    gradients once more), its buffers, its batches, the intermediate tensors of a step (samples and logits, or the
    tensors that autograd saves) and the same for a block of validation images. On a CPU a step and a block take turns;
    a captured step keeps its tensors.
    """
    shares, classes = problem.shares(hparams), problem.classes
    batch_size = sum(shares)
    order = 2 * 8 * EVAL_FREQ * batch_size
    rows = validation_rows(problem)
    validation = rows * (_row_bytes(problem) + 4 * classes)
    step, copies = batch_size * (_row_bytes(problem) + 4 * classes), 5
    if problem.is_residual:
        step += batch_size * 4 * classes
    elif not problem.is_linear:
        copies = 6
        step = _saved_bytes(problem, shares)
        # methods that keep the last state validate it alone, outside of the stack
        validation = validation + step * rows // batch_size if problem.descent.keep == "best" else 0
    together = max if problem.device.type == "cpu" else sum
    return copies * _parameter_bytes(problem) + _buffer_bytes(problem) + order + together([step, validation])


def shared_tensors(problem: Problem) -> Sequence[torch.Tensor]:
    """Return the tensors `shared` of a module, if any: not trained, and the same for all runs of a stack."""
    return getattr(problem.model, "shared", ())


def _row_bytes(problem: Problem) -> int:
    return sum(tensor[0].nbytes for tensor in problem.val.bank)


def _buffer_bytes(problem: Problem) -> int:
    return sum(buffer.nbytes for buffer in problem.model.buffers())


def _parameter_bytes(problem: Problem) -> int:
    return sum(parameter.nbytes for parameter in problem.model.parameters())


def _saved_bytes(problem: Problem, shares: Sequence[int]) -> int:
    """Return the bytes that a forward pass saves for the backward pass, without parameters; runs one to count them."""
    parameters = {tensor.data_ptr() for tensor in (*problem.model.parameters(), *shared_tensors(problem))}
    pairs = zip(problem.modalities, shares, strict=True)
    picked = [samples.pick(torch.arange(share, device=samples.rows.device)) for samples, share in pairs]
    inputs, labels = zip(*picked, strict=True)
    with memory.count_saved(lambda tensor: tensor.data_ptr() in parameters) as saved:
        leaves = {name: p.detach().requires_grad_() for name, p in problem.model.named_parameters()}
        logits = torch.func.functional_call(problem.model, leaves, inputs)
        loss = F.cross_entropy(logits, torch.cat(labels))
    del loss
    return sum(saved.values())
