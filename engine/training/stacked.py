"""Train all runs of a sweep at once, as a few batched problems. Results equal `sequential`'s to float tolerance.

Runs whose batches have one size see the same batches. So a stack is a product of *problems* (shots, seeds) and
*settings* (the other hyper-parameters): each parameter of the model exists once, with a leading axis of runs,
[settings * problems, ...]. A step is one gather of samples, one batched computation of all gradients (`gradients`) and
one fused optimizer step per setting. On a GPU the whole step is one CUDA graph (`graphs`).

A run's weights are bit-identical whichever other runs are in its stack: batched products treat each run alike once
there are two of them, and everything else is elementwise. So stacks may be cut to fit memory and caches (`plan`), and a
killed sweep that resumes with the remaining runs has the same results. (On CUDA this holds if cuBLAS picks the same
kernels.)
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from threading import Event, Lock

import torch
from torch import Tensor

from engine import memory
from engine.model import with_state
from engine.training.batches import streams
from engine.training.descent import Optimizer
from engine.training.evaluate import val_accuracy
from engine.training.gradients import FunctionalModel, LinearModel, plain_attention, stacked_model
from engine.training.graphs import capture_cuda_graph
from engine.training.grid import Hparams
from engine.training.plan import Stack, plan
from engine.training.problem import Job, Problem, hparam_buffers
from engine.training.schedule import EVAL_FREQ
from engine.training.side_by_side import one_thread_per_kernel
from engine.training.task import Fitted, Inputs, Samples


def train(
    jobs: Sequence[Job], *, progress: Callable[[int], object], budget: int | None = None
) -> Iterator[dict[Job, Fitted]]:
    """Train `jobs` and yield the results, stack by stack.

    `progress` is called with the number of steps, over all runs, since its last call. `budget` is how many bytes the
    stacks that train at a time may take on the problems' device; None is without a limit.
    Raises UserError when that is too little for the smallest stack.
    """
    with one_thread_per_kernel() as cores, plain_attention():
        if jobs[0].problem.device.type == "cpu":
            stacks, workers = plan(jobs, cores, budget)
            yield from _train_in_threads(stacks, workers, cores, progress)
        else:
            stacks, _ = plan(jobs, 1, budget)
            for stack in stacks:
                yield _StackTrainer(stack).train(progress, Event())


def _train_in_threads(
    stacks: list[Stack], workers: int, cores: int, progress: Callable[[int], object]
) -> Iterator[dict[Job, Fitted]]:
    """Train stacks side by side, each on one core. All end when one fails or the caller closes the iterator."""
    stop, lock = Event(), Lock()

    def add_progress(steps: int) -> None:
        with lock:
            progress(steps)

    pending: set[Future] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:  # Ctrl-C while threads start must end those that have started
            for stack in stacks:
                pending.add(pool.submit(lambda stack: _StackTrainer(stack).train(add_progress, stop), stack))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                if not pending:
                    torch.set_num_threads(cores)  # the caller may use them again
                while done:
                    yield done.pop().result()
        finally:
            stop.set()
            for future in pending:
                future.cancel()


class _Stopped(Exception):
    """Ends a stack because another one failed, or the user pressed Ctrl-C."""


class _StackTrainer:
    """Trains the runs of a stack: G problems x R settings, run number r * G + g."""

    def __init__(self, stack: Stack):
        problems = stack.problems if stack.copies == 1 else stack.problems * stack.copies
        self.stack, self.problems, self.descent = stack, problems, problems[0].descent
        self.device = problems[0].device
        self.model = stacked_model(stack, problems)
        self.optimizer = _Optimizer(self.descent.optimizer, self.model.parameters, stack.settings)
        self.batches = _Batches(problems, stack)
        kept = _Validation if self.descent.keep == "best" else _LastStep
        self.kept = kept(problems, len(stack.settings), self.model)

    @torch.no_grad()
    def train(self, progress: Callable[[int], object], stop: Event) -> dict[Job, Fitted]:
        """Train all runs; `progress` is called with run-steps done. Raises _Stopped soon after `stop` is set."""
        # Softmax at a scale of 100 leaves probabilities below 1e-38. CPUs multiply these ten times slower than zeros,
        # which they may as well be. The setting holds for the calling thread.
        torch.set_flush_denormal(True)
        began = time.perf_counter()
        self.batches.load(0)
        step = capture_cuda_graph(self._step, self._reset, self.device)
        pace = _Pace(self.device)
        total = self.stack.length.total
        for start in range(0, total, EVAL_FREQ):
            steps = min(EVAL_FREQ, total - start)
            self.batches.load(start)
            for offset in range(steps):
                if stop.is_set():
                    raise _Stopped
                step()
                if offset == 0:
                    self.kept.measure(start)
            pace.wait()
            progress(steps * self.stack.runs)
        results = self.kept.results(total)
        jobs = self.stack.jobs
        fitted = {job: self._fitted(job, *results[place]) for job, place in zip(jobs, self.stack.places, strict=True)}
        seconds = (time.perf_counter() - began) / self.stack.runs
        return {job: replace(one, seconds=seconds) for job, one in fitted.items()}

    def _fitted(self, job: Job, step: int, accuracy: float | None, diverged: bool, state: list[Tensor]) -> Fitted:
        """Return the classifier of a run from the state of its parameters; an `accuracy` of None is measured."""
        tensors = dict(zip(self.model.names, state, strict=True))
        module = with_state(job.problem.model, tensors | hparam_buffers(job.problem.model, job.hparams))
        classifier, tuned = job.problem.finish(module)
        if accuracy is None:
            accuracy = val_accuracy(job.problem.task, classifier)
        return Fitted(classifier, accuracy, step, tuned, diverged)

    def _step(self) -> None:
        """Update all runs once, from the next loaded batch."""
        sources, labels, rates = self.batches.next()
        self.optimizer.step(self.model.gradients(sources, labels), rates)

    def _reset(self) -> None:
        """Undo the warm-up steps."""
        self.model.reset(self.problems)
        self.optimizer.reset()


class _Pace:
    """Keeps the host from running ahead of a GPU by more than two blocks of steps, without ever letting it idle."""

    def __init__(self, device: torch.device):
        self.device = device
        self.events: list[torch.cuda.Event] = []

    def wait(self) -> None:
        """Mark this point of the device's work, and wait for the mark before the last."""
        if self.device.type != "cuda":
            return
        self.events.append(torch.cuda.Event())
        self.events[-1].record(torch.cuda.current_stream(self.device))
        if len(self.events) > 2:
            self.events.pop(0).synchronize()


class _Optimizer:
    """The optimizer of a description, with one learning rate and weight decay per setting, on parameters [R * G, ...].

    It calls the fused kernels of torch.optim without the 20 to 40 us of Python around them: the whole update of a small
    stack takes less.
    """

    def __init__(self, how: Optimizer, parameters: list[Tensor], settings: Sequence[Hparams]):
        self.how, self.settings = how, settings
        moments = 1 if how.kind == "sgd" else 2
        self.moments = [[memory.zeros_like(parameter) for parameter in parameters] for _ in range(moments)]
        self.taken = torch.zeros((), device=parameters[0].device)  # steps
        self.updates = [self._update(how.weight_decay_of(setting), len(parameters)) for setting in settings]
        self.slices = [
            [list(parts) for parts in zip(*(_per_setting(t.detach(), settings) for t in tensors), strict=True)]
            for tensors in (parameters, *self.moments)
        ]

    def step(self, gradients: list[Tensor], rates: Tensor) -> None:
        """Update the parameters by their `gradients`; `rates` [R] are the learning rates."""
        self.taken += 1
        of_settings = zip(*(_per_setting(gradient, self.settings) for gradient in gradients), strict=True)
        for update, rate, own, tensors in zip(
            self.updates, rates, of_settings, zip(*self.slices, strict=True), strict=True
        ):
            update(tensors[0], list(own), *tensors[1:], lr=rate)

    def _update(self, weight_decay: float, parameters: int) -> Callable:
        """Return the kernel for a setting, which takes weights, gradients, moments and the learning rate."""
        how = self.how
        if how.kind == "sgd":
            momentum = {"momentum": how.momentum, "dampening": 0.0, "nesterov": False, "is_first_step": False}
            return partial(torch._fused_sgd_, weight_decay=weight_decay, maximize=False, **momentum)
        kernel, (beta1, beta2) = torch._fused_adamw_ if how.kind == "adamw" else torch._fused_adam_, how.betas
        betas, steps = {"beta1": beta1, "beta2": beta2}, [self.taken] * parameters
        fixed = partial(kernel, eps=how.eps, weight_decay=weight_decay, amsgrad=False, maximize=False, **betas)
        return lambda weights, gradients, means, squares, lr: fixed(
            weights, gradients, means, squares, [], steps, lr=lr
        )

    def reset(self) -> None:
        """Forget all steps."""
        for tensor in (*itertools.chain(*self.moments), self.taken):
            tensor.zero_()


def _per_setting(tensor: Tensor, settings: Sequence) -> tuple[Tensor, ...]:
    """A tensor [R * G, ...] as R tensors [G, ...]."""
    return tensor.chunk(len(settings))


class _Batches:
    """The batches of G problems side by side, loaded in blocks of `EVAL_FREQ` steps and taken one after another.

    Rows, labels and learning rates of a block lie in tensors with fixed addresses. A counter, also a tensor, picks
    each step's, so that a step can be captured once and replayed.
    """

    def __init__(self, problems: Sequence[Problem], stack: Stack):
        self.streams = [streams(problem, stack.settings[0]) for problem in problems]
        self.modalities = list(zip(*(problem.modalities for problem in problems), strict=True))  # G samples of each
        self.banks = [_JoinedBank(samples) for samples in self.modalities]
        self.descent, self.length, self.loaded = problems[0].descent, stack.length, 0
        self.shares, device = stack.shares, problems[0].device
        self.is_full = problems[0].is_full_batch(stack.settings[0])  # one batch, of all samples, for all steps
        shape = (1 if self.is_full else EVAL_FREQ, len(problems), sum(self.shares))
        self.rows, self.labels = (torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(2))
        self.rates = torch.zeros(EVAL_FREQ, len(stack.settings), device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)  # within the block
        self.first = torch.zeros_like(self.step)
        self.settings = stack.settings

    def load(self, start: int) -> None:
        """Load the block of steps from `start` on. Blocks come in order; the present one may be loaded again."""
        self.step.zero_()
        if self.loaded == start:
            steps = min(EVAL_FREQ, self.length.total - start)
            block = range(start, start + steps)
            lrs = list(map(self.descent.optimizer.lr_of, self.settings))
            rates = [[self.descent.schedule(step, lr, self.length) for lr in lrs] for step in block]
            self.rates[:steps] = torch.tensor(rates)
            if not self.is_full or start == 0:
                self._draw(1 if self.is_full else steps)
            self.loaded += EVAL_FREQ

    def _draw(self, steps: int) -> None:
        """Load the batches of the next `steps`."""
        rows, labels = (tensor[:steps].split(self.shares, dim=2) for tensor in (self.rows, self.labels))
        for number, (samples, bank) in enumerate(zip(self.modalities, self.banks, strict=True)):
            for problem, (own, offset) in enumerate(zip(samples, bank.offsets, strict=True)):
                taken = self.streams[problem][number].take(steps).to(own.rows.device, non_blocking=True)
                rows[number][:, problem] = own.rows[taken] + offset
                labels[number][:, problem] = own.labels[taken]

    def next(self) -> tuple[list[tuple[_JoinedBank, Tensor]], Tensor, Tensor]:
        """Return the next batch: a bank and rows [G, share] of it per modality; labels [G, B]; learning rates [R]."""
        rates = self.rates.index_select(0, self.step).squeeze(0)
        batch = self.first if self.is_full else self.step
        rows, labels = (tensor.index_select(0, batch).squeeze(0) for tensor in (self.rows, self.labels))
        self.step += 1
        return list(zip(self.banks, rows.split(self.shares, dim=1), strict=True)), labels, rates


class _JoinedBank:
    """The banks of several samples joined into one, and the offset of each. A single bank is not copied."""

    def __init__(self, samples: Sequence[Samples]):
        banks = {id(one.bank[0]): one.bank for one in samples}
        starts, start = {}, 0
        for key, bank in banks.items():
            starts[key] = start
            start += len(bank[0])
        first, *others = banks.values()
        self.tensors = first if not others else tuple(map(torch.cat, zip(first, *others, strict=True)))
        self.offsets = [starts[id(one.bank[0])] for one in samples]

    def pick(self, rows: Tensor) -> Inputs:
        """Return the samples in `rows` [...], as tensors [..., sample]."""
        picked = (tensor.index_select(0, rows.reshape(-1)) for tensor in self.tensors)
        return tuple(tensor.view(*rows.shape, *tensor.shape[1:]) for tensor in picked)


class _Validation:
    """Accuracy of all runs on their problems' validation sets, and the weights of each run's first best step."""

    def __init__(self, problems: Sequence[Problem], settings: int, model: LinearModel | FunctionalModel):
        device, runs = problems[0].device, settings * len(problems)
        self.model, self.bank = model, _JoinedBank([problem.val for problem in problems])
        rows = model.validation_rows
        blocks = max(-(-len(problem.val) // rows) for problem in problems)
        # padding is the first row, with a label that no prediction has; all blocks have one shape, because kernels
        # may round differently for other shapes
        self.rows = torch.zeros(blocks * rows, len(problems), dtype=torch.int64, device=device)
        self.labels = torch.full_like(self.rows, -1)
        for problem, (val, offset) in enumerate(zip((p.val for p in problems), self.bank.offsets, strict=True)):
            self.rows[: len(val), problem] = val.rows + offset
            self.labels[: len(val), problem] = val.labels
        self.rows, self.labels = (t.view(blocks, rows, -1).transpose(1, 2) for t in (self.rows, self.labels))
        self.sizes = [len(problem.val) for problem in problems] * settings
        self.best = [memory.zeros_like(parameter).copy_(parameter.detach()) for parameter in model.parameters]
        self.correct = torch.full((runs,), -1, device=device)
        self.step = torch.zeros_like(self.correct)
        self.diverged = torch.zeros(runs, dtype=torch.bool, device=device)

    def measure(self, step: int) -> None:
        """Validate after `step`, and keep the weights of runs that are better than before."""
        self.measure_divergence()
        correct = torch.zeros_like(self.correct)
        for rows, labels in zip(self.rows, self.labels, strict=True):
            predicted = self.model.logits(self.bank.pick(rows)).argmax(3)  # [R, G, rows]
            correct += (predicted == labels).sum(2).view(-1)
        better = (correct > self.correct) & ~self.diverged
        torch.where(better, correct, self.correct, out=self.correct)
        self.step.masked_fill_(better, step)
        for parameter, best in zip(self.model.parameters, self.best, strict=True):
            torch.where(better.view(-1, *[1] * (best.dim() - 1)), parameter.detach(), best, out=best)

    def measure_divergence(self) -> None:
        """Mark runs with weights that are not finite; they stay marked."""
        self.diverged |= ~_are_finite(self.model)

    def results(self, total: int) -> list[_Result]:
        """Return the first best step of each run."""
        self.measure_divergence()
        correct, steps, diverged = (tensor.tolist() for tensor in (self.correct, self.step, self.diverged))
        accuracies = [max(count, 0) / size for count, size in zip(correct, self.sizes, strict=True)]
        states = map(list, zip(*self.best, strict=True))
        return list(zip(steps, accuracies, diverged, states, strict=True))


class _LastStep:
    """The weights of each run after its last step; those it started from where they are no longer finite."""

    def __init__(self, problems: Sequence[Problem], settings: int, model: LinearModel | FunctionalModel):
        self.model, self.problems = model, list(problems) * settings

    def measure(self, step: int) -> None:
        """Do nothing: only the last step counts."""

    def results(self, total: int) -> list[_Result]:
        """Return the last step of each run."""
        finite = _are_finite(self.model).tolist()
        last = [list(run) for run in zip(*(p.detach() for p in self.model.parameters), strict=True)]
        first = [list(problem.model.parameters()) for problem in self.problems]
        of_runs = zip(finite, last, first, strict=True)
        return [(total - 1, None, False, own) if right else (0, None, True, start) for right, own, start in of_runs]


_Result = tuple[int, float | None, bool, list[Tensor]]
"""The step that counts, the validation accuracy if it was measured, whether the run diverged, and its parameters."""


def _are_finite(model: LinearModel | FunctionalModel) -> Tensor:
    """Return whether all parameters of each run are finite numbers, bool [runs]."""
    return torch.stack([p.detach().flatten(1).sum(1) for p in model.parameters]).sum(0).isfinite()
