"""All runs of a sweep at once, as a few batched problems: the same results as `sequential`, to float tolerance.

Runs that differ in learning rate and weight decay alone see the same batches. So a stack is a product of *problems*
(shots, seeds) and *settings* (learning rate, weight decay): each parameter of the model exists once, with a leading
axis of runs, [settings * problems, ...]. A step is one gather of samples, one batched computation of all gradients
(`gradients`) and one fused AdamW step per setting. On a GPU the whole step is one CUDA graph (`graphs`).

A run's weights do not depend, to the last bit, on which other runs are in its stack: batched products treat each run
alike once there are two of them, everything else is elementwise. So stacks are cut as memory and caches ask for
(`plan`), and a sweep that was killed and goes on with what is left gives what it would have given. (On CUDA this holds
as far as cuBLAS picks the same kernels.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event, Lock

import torch
from torch import Tensor

from engine import memory
from engine.training.batches import streams
from engine.training.gradients import FunctionalModel, LinearModel, plain_attention
from engine.training.graphs import captured
from engine.training.plan import Stack, is_linear, plan
from engine.training.problem import Inputs, Job, Outcome, Problem, Samples
from engine.training.schedule import BETAS, EPS, EVAL_FREQ, learning_rate


def train(
    jobs: Sequence[Job], *, max_iter: int, progress: Callable[[int], object], budget: int | None = None
) -> Iterator[dict[Job, Outcome]]:
    """Train `jobs` for `max_iter` steps each and yield what came of them, stack by stack.

    `progress` hears the number of steps, over all runs, since it was last told. `budget` is how many bytes the stacks
    that train at a time may take on the problems' device; None is without a limit.
    Raises UserError when that is too little for the smallest stack.
    """
    with _one_thread_per_kernel() as cores, plain_attention():
        if jobs[0].problem.device.type == "cpu":
            stacks, workers = plan(jobs, cores, budget)
            yield from _train_in_threads(stacks, workers, cores, max_iter, progress)
        else:
            stacks, _ = plan(jobs, 1, budget)
            for stack in stacks:
                yield _StackTrainer(stack, max_iter).train(progress, Event())


def _train_in_threads(
    stacks: list[Stack], workers: int, cores: int, max_iter: int, progress: Callable[[int], object]
) -> Iterator[dict[Job, Outcome]]:
    """Train stacks side by side, each on one core; what is not done ends when one fails or the caller stops asking."""
    stop, lock = Event(), Lock()

    def tell(steps: int) -> None:
        with lock:
            progress(steps)

    pending: set[Future] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:  # around the start of the threads too: one that is interrupted there, the pool does not know, and not end
            for stack in stacks:
                pending.add(pool.submit(lambda stack: _StackTrainer(stack, max_iter).train(tell, stop), stack))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                if not pending:
                    torch.set_num_threads(cores)  # they are the caller's again
                while done:
                    yield done.pop().result()
        finally:
            stop.set()
            for future in pending:
                future.cancel()


class _Stopped(Exception):
    """Ends a stack because another one failed, or the user pressed Ctrl-C."""


@contextmanager
def _one_thread_per_kernel() -> Iterator[int]:
    """Let torch run each CPU kernel on one thread, and tell how many it used to take.

    The kernels of a step are too short to share: on a busy machine two threads that wait for each other at the end of
    each one were seen to take a hundred times as long. Whole stacks are what the cores share out.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield cores
    finally:
        torch.set_num_threads(cores)


class _StackTrainer:
    """Trains the runs of a stack: G problems x R settings, run number r * G + g."""

    def __init__(self, stack: Stack, max_iter: int):
        problems = stack.problems if stack.copies == 1 else stack.problems * stack.copies
        self.stack, self.max_iter, self.problems = stack, max_iter, problems
        self.device = problems[0].device
        self.model = (LinearModel if is_linear(problems[0]) else FunctionalModel)(stack, problems)
        self.optimizer = _AdamW(self.model.parameters, stack.settings)
        self.batches = _Batches(problems, stack, max_iter)
        self.validation = _Validation(problems, len(stack.settings), self.model)

    @torch.no_grad()
    def train(self, progress: Callable[[int], object], stop: Event) -> dict[Job, Outcome]:
        """Train all runs; `progress` hears of run-steps done. Raises _Stopped soon after `stop` is set."""
        # Softmax at a scale of 100 leaves probabilities below 1e-38, which CPUs multiply ten times slower than others,
        # or than the zeros that they may as well be. This holds for the thread it is called on.
        torch.set_flush_denormal(True)
        began = time.perf_counter()
        self.batches.load(0)
        step = captured(self._step, self._reset, self.device)
        pace = _Pace(self.device)
        for start in range(0, self.max_iter, EVAL_FREQ):
            steps = min(EVAL_FREQ, self.max_iter - start)
            self.batches.load(start)
            for offset in range(steps):
                if stop.is_set():
                    raise _Stopped
                step()
                if offset == 0:
                    self.validation.measure(start)
            pace.wait()
            progress(steps * self.stack.runs)
        self.validation.measure_divergence()
        outcomes = self.validation.outcomes(lambda: (time.perf_counter() - began) / self.stack.runs)
        return dict(zip(self.stack.jobs, self.stack.in_order_of_jobs(outcomes), strict=True))

    def _step(self) -> None:
        """One update of all runs, from the next batch that is loaded."""
        sources, labels, rates = self.batches.next()
        self.optimizer.step(self.model.gradients(sources, labels), rates)

    def _reset(self) -> None:
        """Undo what steps did that were taken to warm up."""
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


class _AdamW:
    """AdamW with one learning rate and weight decay per setting, on parameters [R * G, ...].

    The kernel of torch.optim.AdamW(fused=True), called without the 20 to 40 us of Python around it, which are more than
    a small stack's whole update takes.
    """

    def __init__(self, parameters: list[Tensor], settings: Sequence[tuple[float, float]]):
        self.settings = settings
        self.means, self.squares = ([memory.zeros_like(parameter) for parameter in parameters] for _ in range(2))
        self.taken = torch.zeros((), device=parameters[0].device)  # steps
        self.slices = [
            [list(parts) for parts in zip(*(_per_setting(t.detach(), settings) for t in tensors), strict=True)]
            for tensors in (parameters, self.means, self.squares)
        ]

    def step(self, gradients: list[Tensor], rates: Tensor) -> None:
        """Update the parameters by their `gradients`; `rates` [R] are the learning rates."""
        self.taken += 1
        of_settings = zip(*(_per_setting(gradient, self.settings) for gradient in gradients), strict=True)
        for number, (own, weights, means, squares) in enumerate(zip(of_settings, *self.slices, strict=True)):
            torch._fused_adamw_(
                weights,
                list(own),
                means,
                squares,
                [],
                [self.taken] * len(weights),
                lr=rates[number],
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=self.settings[number][1],
                eps=EPS,
                amsgrad=False,
                maximize=False,
            )

    def reset(self) -> None:
        """Forget all steps."""
        for tensor in (*self.means, *self.squares, self.taken):
            tensor.zero_()


def _per_setting(tensor: Tensor, settings: Sequence) -> tuple[Tensor, ...]:
    """A tensor [R * G, ...] as R tensors [G, ...]."""
    return tensor.chunk(len(settings))


class _Batches:
    """The batches of G problems side by side, loaded in blocks of `EVAL_FREQ` steps and taken one after another.

    What changes from step to step lies in tensors of fixed places and is picked by a counter that is a tensor too, so
    that a step can be captured once and replayed.
    """

    def __init__(self, problems: Sequence[Problem], stack: Stack, max_iter: int):
        self.streams = [streams(problem, stack.batch_size) for problem in problems]
        self.sources = list(zip(*(problem.sources for problem in problems), strict=True))  # a tuple of G per source
        self.banks = [_JoinedBank(samples) for samples in self.sources]
        self.share, self.loaded = problems[0].share(stack.batch_size), 0
        device = problems[0].device
        shape = (len(self.sources), EVAL_FREQ, len(problems), self.share)
        self.rows = torch.zeros(shape, dtype=torch.int64, device=device)
        self.labels = torch.zeros(
            EVAL_FREQ, len(problems), len(self.sources) * self.share, dtype=torch.int64, device=device
        )
        self.rates = torch.zeros(EVAL_FREQ, len(stack.settings), device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)  # within the block
        self.settings, self.max_iter = stack.settings, max_iter

    def load(self, start: int) -> None:
        """Make ready for the block of steps from `start` on; blocks come in order, and one may be asked for again."""
        self.step.zero_()
        if self.loaded == start:
            steps = min(EVAL_FREQ, self.max_iter - start)
            block = range(start, start + steps)
            rates = [[learning_rate(step, lr, self.max_iter) for lr, _ in self.settings] for step in block]
            self.rates[:steps] = torch.tensor(rates)
            for number, (samples, bank) in enumerate(zip(self.sources, self.banks, strict=True)):
                of_source = self.labels[:steps, :, number * self.share : (number + 1) * self.share]
                for problem, (own, offset) in enumerate(zip(samples, bank.offsets, strict=True)):
                    taken = self.streams[problem][number].take(steps).to(own.rows.device, non_blocking=True)
                    self.rows[number, :steps, problem] = own.rows[taken] + offset
                    of_source[:, problem] = own.labels[taken]
            self.loaded += EVAL_FREQ

    def next(self) -> tuple[list[tuple[_JoinedBank, Tensor]], Tensor, Tensor]:
        """The next batch: a bank and rows [G, B / sources] of it per source; labels [G, B]; learning rates [R]."""
        rows = self.rows.index_select(1, self.step).squeeze(1)
        labels, rates = (tensor.index_select(0, self.step).squeeze(0) for tensor in (self.labels, self.rates))
        self.step += 1
        return list(zip(self.banks, rows, strict=True)), labels, rates


class _JoinedBank:
    """The banks of several samples as one, and where each begins in it. A single one is not copied."""

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
        """What lies in `rows` [...], as tensors [..., sample]."""
        picked = (tensor.index_select(0, rows.reshape(-1)) for tensor in self.tensors)
        return tuple(tensor.view(*rows.shape, *tensor.shape[1:]) for tensor in picked)


class _Validation:
    """Accuracy of all runs on their problems' validation sets, and the weights of each run's first best step."""

    def __init__(self, problems: Sequence[Problem], settings: int, model: LinearModel | FunctionalModel):
        device, runs = problems[0].device, settings * len(problems)
        self.model, self.bank = model, _JoinedBank([problem.val for problem in problems])
        rows = model.validation_rows
        blocks = max(-(-len(problem.val) // rows) for problem in problems)
        # a row that pads is the first one, with a label that no prediction has; all blocks have one shape, as
        # kernels may round otherwise for other shapes
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
        """Validate after `step` and keep what is better than ever before."""
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
        """Note which runs have weights that are not finite; these never become so again."""
        self.diverged |= ~self.model.head.detach().flatten(1).sum(1).isfinite()

    def outcomes(self, seconds: Callable[[], float]) -> list[Outcome]:
        """What came of each run; `seconds` is asked when the device is done."""
        correct, steps, diverged = (tensor.tolist() for tensor in (self.correct, self.step, self.diverged))
        accuracies = [max(count, 0) / size for count, size in zip(correct, self.sizes, strict=True)]
        states = [dict(zip(self.model.names, run, strict=True)) for run in zip(*self.best, strict=True)]
        return [Outcome(*run, seconds()) for run in zip(steps, accuracies, states, diverged, strict=True)]
