"""All runs of a sweep at once, as one batched problem: the same results as `sequential`, to float tolerance.

Runs that differ in learning rate and weight decay alone see the same batches. So a stack is a product of *problems*
(shots, seeds) and *settings* (learning rate, weight decay): each setting has one parameter [problems, C, D], and a step
is, over all of them, one gather of features, a batched matrix product for the logits, the softmax, a batched product
for the gradient (its closed form: no autograd) and one fused AdamW step with a parameter group per setting.

A run's weights do not depend, to the last bit, on which other problems are in its stack: batched products treat each
problem alike once there are two of them, everything else is elementwise. So a sweep that was killed and goes on with
what is left gives what it would have given. (On CUDA this holds as far as cuBLAS picks the same kernels.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event, Lock

import torch
from torch import Tensor

from engine.optimizer import BETAS, EPS, EVAL_FREQ, learning_rate
from engine.training.batches import streams
from engine.training.problem import Job, Outcome, Problem, Samples

Setting = tuple[float, float]
"""Learning rate and weight decay."""


def train(jobs: Sequence[Job], *, max_iter: int, progress: Callable[[int], object]) -> list[Outcome]:
    """Train `jobs` for `max_iter` steps each; `progress` hears the number of steps, over all runs, since last told."""
    on_cpu = jobs[0].problem.initial.device.type == "cpu"
    with _one_thread_per_kernel() as cores, ThreadPoolExecutor(cores if on_cpu else 1) as pool:
        stop, lock = Event(), Lock()

        def tell(steps: int) -> None:
            if stop.is_set():
                raise _Stopped
            with lock:
                progress(steps)

        stacks = [_Stack(*stack, max_iter) for stack in _stacks(jobs, cores if on_cpu else 1)]
        trained = [pool.submit(stack.train, tell) for stack in stacks]
        try:
            for stack in wait(trained, return_when=FIRST_EXCEPTION).done:
                stack.result()  # raises what went wrong, at once and not after the other stacks' last step
            outcomes = {job: outcome for future in trained for job, outcome in future.result().items()}
        except BaseException:
            stop.set()
            raise
    return [outcomes[Job(job.problem, tuple(job.hyperparameters))] for job in jobs]


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


def run_bytes(problem: Problem) -> int:
    """Memory that one run of a problem takes in a stack: weight, gradient, two moments, the best weight so far."""
    return 5 * problem.initial.numel() * problem.initial.element_size()


def _stacks(jobs: Sequence[Job], cores: int) -> list[tuple[list[Problem], list[Setting], int]]:
    """Cut jobs into products of problems and settings that share shapes and batch size, at least one for each core."""
    settings: dict[tuple[Problem, int], list[Setting]] = defaultdict(list)
    for problem, (lr, weight_decay, batch_size) in jobs:
        settings[problem, batch_size].append((lr, weight_decay))
    stacks: dict[tuple, list[Problem]] = defaultdict(list)
    for (problem, batch_size), wanted in settings.items():
        alike = (batch_size, tuple(wanted), problem.initial.shape, problem.scale, len(problem.sources))
        stacks[alike].append(problem)
    return [
        (problems[part::parts], list(wanted), batch_size)
        for (batch_size, wanted, *_), problems in stacks.items()
        for parts in [max(1, min(cores // len(stacks), len(problems) // 2))]  # two problems make a stack: see _Stack
        for part in range(parts)
    ]


class _Stack:
    """Runs of G problems x R settings with batches of B samples, C classes, features of D dimensions."""

    def __init__(self, problems: list[Problem], settings: list[Setting], batch_size: int, max_iter: int):
        self.runs = [[Job(p, (lr, decay, batch_size)) for p in problems] for lr, decay in settings]  # R x G
        if len(problems) == 1:  # a batched product of one matrix may take another kernel, which rounds differently
            problems = problems * 2
        self.settings, self.max_iter = settings, max_iter
        self.batch_size = problems[0].share(batch_size) * len(problems[0].sources)
        self.scale = problems[0].scale
        self.weights = [torch.stack([problem.initial for problem in problems]) for _ in settings]  # R x [G, C, D]
        for weight in self.weights:
            weight.grad = torch.zeros_like(weight)
        groups = [
            {"params": [weight], "weight_decay": decay}
            for weight, (_, decay) in zip(self.weights, settings, strict=True)
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPS, fused=True)
        size = (len(settings), len(problems), self.batch_size, problems[0].initial.shape[0])
        self.logits = self.weights[0].new_empty(size)  # [R, G, B, C]
        self.minus_one = self.weights[0].new_full((1, 1, 1, 1), -1.0).expand(*size[:3], 1)
        self.batches = _Batches(problems, batch_size)
        self.val = _Validation(problems, self.weights)

    @torch.no_grad()
    def train(self, progress: Callable[[int], object]) -> dict[Job, Outcome]:
        """Train all runs; `progress` hears of run-steps done."""
        # Softmax at a scale of 100 leaves probabilities below 1e-38, which CPUs multiply ten times slower than others,
        # or than the zeros that they may as well be. This holds for the thread it is called on.
        torch.set_flush_denormal(True)
        for start in range(0, self.max_iter, EVAL_FREQ):
            steps = min(EVAL_FREQ, self.max_iter - start)
            rows, labels = self.batches.take(steps)
            for offset in range(steps):
                self._step(start + offset, self.batches.features(rows[offset]), labels[offset])
                if offset == 0:
                    self.val.measure(start)
            progress(steps * sum(map(len, self.runs)))
        rows = zip(self.runs, self.val.outcomes(), strict=True)
        return {job: outcome for jobs, outcomes in rows for job, outcome in zip(jobs, outcomes, strict=False)}

    def _step(self, step: int, features: Tensor, labels: Tensor) -> None:
        """One update of all runs from `features` [G, B, D] and `labels` [G, B]."""
        for weight, logits in zip(self.weights, self.logits, strict=True):
            torch.bmm(features, weight.transpose(1, 2), out=logits)
        # d loss / d logits = (softmax(scale * logits) - one_hot(label)) * scale / B, in the place of the logits
        torch.softmax(self.logits.mul_(self.scale), dim=3, out=self.logits)
        self.logits.scatter_add_(3, labels.expand(self.logits.shape[:3]).unsqueeze(3), self.minus_one)
        self.logits.mul_(self.scale / self.batch_size)
        for weight, gradient in zip(self.weights, self.logits, strict=True):
            torch.bmm(gradient.transpose(1, 2), features, out=weight.grad)
        for group, (lr, _) in zip(self.optimizer.param_groups, self.settings, strict=True):
            group["lr"] = learning_rate(step, lr, self.max_iter)
        self.optimizer.step()


class _Batches:
    """The batches of G problems side by side."""

    def __init__(self, problems: list[Problem], batch_size: int):
        self.streams = [list(zip(p.sources, streams(p, batch_size), strict=True)) for p in problems]
        self.bank, self.offsets = _join_banks([source for problem in problems for source in problem.sources])

    def take(self, steps: int) -> tuple[Tensor, Tensor]:
        """Rows of the bank and labels of the next `steps` batches, both int64 [steps, G, B] on the bank's device."""
        rows, labels = [], []
        for sources in self.streams:
            taken = [(source, stream.take(steps).to(self.bank.device)) for source, stream in sources]
            rows.append(
                torch.cat([source.rows[index] + self.offsets[id(source.bank)] for source, index in taken], dim=1)
            )
            labels.append(torch.cat([source.labels[index] for source, index in taken], dim=1))
        return torch.stack(rows, dim=1), torch.stack(labels, dim=1)

    def features(self, rows: Tensor) -> Tensor:
        """Features [G, B, D] of `rows` [G, B]."""
        return self.bank.index_select(0, rows.view(-1)).view(*rows.shape, -1)


class _Validation:
    """Accuracy of all runs on their problems' validation sets, and the weights of each run's first best step."""

    def __init__(self, problems: list[Problem], weights: list[Tensor]):
        most = max(len(problem.val) for problem in problems)
        self.sizes = torch.tensor([len(problem.val) for problem in problems])
        self.features = torch.stack([_pad(problem.val.features, most, 0) for problem in problems])  # [G, most, D]
        self.labels = torch.stack([_pad(problem.val.labels, most, -1) for problem in problems])  # [G, most]
        self.weights = weights
        self.best = [weight.clone() for weight in weights]
        self.correct = torch.full((len(weights), len(problems)), -1, device=self.labels.device)  # [R, G]
        self.step = torch.zeros_like(self.correct)

    def measure(self, step: int) -> None:
        """Validate after `step` and keep what is better than ever before."""
        for setting, (weight, best) in enumerate(zip(self.weights, self.best, strict=True)):
            predicted = torch.bmm(self.features, weight.transpose(1, 2)).argmax(2)
            correct = (predicted == self.labels).sum(1)
            better = correct > self.correct[setting]
            torch.where(better, correct, self.correct[setting], out=self.correct[setting])
            self.step[setting].masked_fill_(better, step)
            torch.where(better.view(-1, 1, 1), weight, best, out=best)

    def outcomes(self) -> list[list[Outcome]]:
        """Outcomes by setting, then by problem."""
        accuracies = (self.correct.cpu().double() / self.sizes).tolist()
        return [
            [Outcome(*run) for run in zip(steps, accuracy, best.cpu().unbind(), strict=True)]
            for steps, accuracy, best in zip(self.step.tolist(), accuracies, self.best, strict=True)
        ]


def _join_banks(samples: list[Samples]) -> tuple[Tensor, dict[int, int]]:
    """The banks of all samples as one, and where each begins in it (by the bank's id). A single one is not copied."""
    banks = {id(sample.bank): sample.bank for sample in samples}
    offsets, start = {}, 0
    for key, bank in banks.items():
        offsets[key] = start
        start += len(bank)
    return (next(iter(banks.values())) if len(banks) == 1 else torch.cat(list(banks.values()))), offsets


def _pad(tensor: Tensor, length: int, value: int) -> Tensor:
    """`tensor` [n, ...] filled up with `value` to [length, ...]."""
    return torch.cat([tensor, tensor.new_full((length - len(tensor), *tensor.shape[1:]), value)])
