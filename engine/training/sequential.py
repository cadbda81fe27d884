"""One run after another, in plain PyTorch: this file defines what training means (section 5 of the protocol)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from engine.model import with_state
from engine.training.batches import generator, streams
from engine.training.descent import Optimizer
from engine.training.evaluate import val_accuracy
from engine.training.grid import Hparams
from engine.training.problem import Job, hparam_buffers
from engine.training.schedule import EVAL_FREQ
from engine.training.task import Fitted


def train(
    jobs: Sequence[Job], *, progress: Callable[[int], object], budget: int | None = None
) -> Iterator[dict[Job, Fitted]]:
    """Train `jobs` and yield the result of each.

    `progress` is called with the number of steps since its last call. `budget` is there for the stacked executor.
    """
    for job in jobs:
        device = job.problem.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(generator(f"{job.problem.task.name}/{job.hparams}/dropout").initial_seed())
            fitted = train_run(job, progress)
        yield {job: fitted}


def train_run(job: Job, progress: Callable[[int], object]) -> Fitted:
    """Train one classifier and keep its first best step on the validation set, or its last one."""
    problem, hparams = job
    descent, length, lr = problem.descent, problem.length(hparams), problem.descent.optimizer.lr_of(hparams)
    began, steps_told = time.perf_counter(), 0
    model = copy.deepcopy(with_state(problem.model, hparam_buffers(problem.model, hparams))).requires_grad_(True)
    optimizer = optimizer_of(descent.optimizer, model, hparams)
    batches = [stream.take(length.total).to(problem.device) for stream in streams(problem, hparams)]
    best_step, best_accuracy, best_state = 0, 0.0, _state(model)
    for step in range(length.total):
        model.train()
        optimizer.param_groups[0]["lr"] = descent.schedule(step, lr, length)
        picked = [samples.pick(rows[step]) for samples, rows in zip(problem.modalities, batches, strict=True)]
        inputs, labels = zip(*picked, strict=True)
        loss = F.cross_entropy(model(*inputs), torch.cat(labels))
        if descent.penalty is not None:
            loss = loss + descent.penalty(dict(model.named_parameters()) | dict(model.named_buffers()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if descent.keep == "best" and step % EVAL_FREQ == 0:
            progress(step + 1 - steps_told)
            steps_told = step + 1
            if not _is_finite(model):
                break
            model.eval()
            accuracy = val_accuracy(problem.task, problem.finish(model)[0])
            if step == 0 or accuracy > best_accuracy:
                best_step, best_accuracy, best_state = step, accuracy, _state(model)
    progress(length.total - steps_told)
    diverged = not _is_finite(model)
    if descent.keep == "last" and not diverged:
        best_step, best_state = length.total - 1, model.state_dict()
    classifier, tuned = problem.finish(with_state(problem.model, best_state))
    if descent.keep == "last":
        best_accuracy = val_accuracy(problem.task, classifier)
    return Fitted(classifier, best_accuracy, best_step, tuned, diverged, time.perf_counter() - began)


def optimizer_of(optimizer: Optimizer, model: nn.Module, hparams: Hparams) -> torch.optim.Optimizer:
    """Return torch's optimizer of a run's parameters."""
    parameters, decay = list(model.parameters()), optimizer.weight_decay_of(hparams)
    if optimizer.kind == "sgd":
        return torch.optim.SGD(parameters, lr=0.0, momentum=optimizer.momentum, weight_decay=decay)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optimizer.kind]
    return kind(parameters, betas=optimizer.betas, eps=optimizer.eps, weight_decay=decay)


def _is_finite(model: nn.Module) -> bool:
    """Return whether all parameters are finite numbers."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all that training changes: parameters, and BatchNorm's statistics."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
