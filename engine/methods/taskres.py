"""TaskRes: a residual on raw text features, w = t + alpha * R, whose logits are cosines."""

from __future__ import annotations

from dataclasses import replace

from engine.methods import zs_lp
from engine.training.descent import Optimizer
from engine.training.grid import Grid
from engine.training.task import Task


def epochs(task: Task) -> int:
    """Return how many epochs training takes: more from 8 shots on."""
    return 100 if task.shots <= 4 else 200


METHOD = replace(
    zs_lp.METHOD,
    title="TaskRes",
    grid=Grid(lr=(2e-3, 2e-4), alpha=(0.5, 1.0)),
    fit=replace(zs_lp.METHOD.fit, optimizer=Optimizer("adam", weight_decay=5e-4), epochs=epochs),
)
