"""One run after another, in plain PyTorch: this file defines what training means (section 5 of the protocol)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional as F

from engine.training.batches import generator, streams
from engine.training.evaluate import EMBEDDED, FEATURES, Heads, accuracies
from engine.training.problem import Job, Outcome
from engine.training.schedule import BETAS, EPS, EVAL_FREQ, learning_rate


def train(
    jobs: Sequence[Job], *, max_iter: int, progress: Callable[[int], object], budget: int | None = None
) -> Iterator[dict[Job, Outcome]]:
    """Train `jobs` for `max_iter` steps each and yield what came of each one.

    `progress` hears the number of steps done since it was last told. `budget` is there for the stacked executor.
    """
    for job in jobs:
        device = job.problem.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(generator(f"{job.problem.name}/{job.hyperparameters}/dropout").initial_seed())
            outcome = train_run(job, max_iter, progress)
        yield {job: outcome}


def train_run(job: Job, max_iter: int, progress: Callable[[int], object]) -> Outcome:
    """Train one classifier and keep its first best step on the validation set."""
    problem, (lr, weight_decay, batch_size) = job
    began, steps_told = time.perf_counter(), 0
    model = copy.deepcopy(problem.model).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), betas=BETAS, eps=EPS, weight_decay=weight_decay)
    batches = [stream.take(max_iter).to(problem.device) for stream in streams(problem, batch_size)]
    rows = FEATURES if problem.val.bank[0].dim() == 2 else EMBEDDED
    best_step, best_accuracy, best_state = 0, 0.0, _state(model)
    for step in range(max_iter):
        model.train()
        optimizer.param_groups[0]["lr"] = learning_rate(step, lr, max_iter)
        picked = [source.pick(indices[step]) for source, indices in zip(problem.sources, batches, strict=True)]
        inputs, labels = zip(*picked, strict=True)
        loss = F.cross_entropy(model(*inputs), torch.cat(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVAL_FREQ == 0:
            progress(step + 1 - steps_told)
            steps_told = step + 1
            if not model.head.weight.isfinite().all():
                break
            model.eval()
            heads = Heads(lambda images: model.embedding(images), [model.head.weight])
            ((accuracy,),) = accuracies([heads], problem.val.batches(rows))
            if step == 0 or accuracy > best_accuracy:
                best_step, best_accuracy, best_state = step, accuracy, _state(model)
    progress(max_iter - steps_told)
    diverged = not model.head.weight.isfinite().all()
    return Outcome(best_step, best_accuracy, best_state, diverged, time.perf_counter() - began)


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all that training changes: parameters, and BatchNorm's statistics."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
