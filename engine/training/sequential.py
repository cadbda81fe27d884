"""One run after another, in plain PyTorch: this file defines what training means (section 5 of the protocol)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from engine.model import LinearHead
from engine.optimizer import BETAS, EPS, EVAL_FREQ, learning_rate
from engine.training.batches import streams
from engine.training.evaluate import accuracies
from engine.training.problem import Job, Outcome


def train(jobs: Sequence[Job], *, max_iter: int, progress: Callable[[int], object]) -> list[Outcome]:
    """Train `jobs` for `max_iter` steps each; `progress` hears the number of steps done since it was last told."""
    return [train_run(job, max_iter, progress) for job in jobs]


def train_run(job: Job, max_iter: int, progress: Callable[[int], object]) -> Outcome:
    """Train one classifier and keep its first best step on the validation set."""
    problem, (lr, weight_decay, batch_size) = job
    head = LinearHead(problem.initial, problem.scale)
    optimizer = torch.optim.AdamW(head.parameters(), betas=BETAS, eps=EPS, weight_decay=weight_decay)
    batches = [stream.take(max_iter) for stream in streams(problem, batch_size)]
    val_features, best = problem.val.features, None
    for step in range(max_iter):
        optimizer.param_groups[0]["lr"] = learning_rate(step, lr, max_iter)
        picked = [(source, indices[step]) for source, indices in zip(problem.sources, batches, strict=True)]
        features = torch.cat([source.bank[source.rows[index]] for source, index in picked])
        labels = torch.cat([source.labels[index] for source, index in picked])
        loss = F.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVAL_FREQ == 0:
            weight = head.weight.detach()
            (accuracy,) = accuracies([weight], val_features, problem.val.labels)
            if best is None or accuracy > best.val_accuracy:
                best = Outcome(step, accuracy, weight.to("cpu", copy=True))
            progress(min(EVAL_FREQ, max_iter - step))
    return best
