"""Estimated costs of cells, to divide a sweep among processes (`--shard`).

They follow from the arguments and the few-shot splits alone, so that all processes divide it in the same way.
"""

from __future__ import annotations

from pathlib import Path

import torch

from engine.datasets.few_shot import ALL, class_counts, limit_shots, load_split, read_lists, split_path
from engine.results.runs import Cell
from engine.training.descent import GradientDescent
from engine.training.task import Samples, Task

STEP, RUN = 32, 1000
"""The fixed costs in samples: of a step (the optimizer), and of a run (a closed form's matrices, tests)."""
ENCODER_LAYERS = 100_000
"""Classes that trainable layers of an encoder cost as much as: an attention pool takes half a billion products."""
GUESSED_SHOTS = 16
"""The assumed training images per class for `all` shots of a dataset without published counts."""


def cost(cell: Cell, indices_dir: str | Path) -> int:
    """Return the cost of a cell's runs: the total of steps x samples of a batch x classes, and fixed costs.

    Raises MissingSplits if the size of its few-shot split is unknown.
    """
    task, fit = outline(cell, indices_dir), cell.method.fit
    width = len(task.initial) + ENCODER_LAYERS * (cell.image_layer != 0 or cell.text_layer != 0)
    everything = sum(map(len, task.samples.values()))
    total = 0
    for hparams in cell.grid:
        batch = sum(fit.shares(task, hparams)) if isinstance(fit, GradientDescent) else everything
        total += (fit.steps(task, hparams, cell.max_iter) * (batch + STEP) + RUN) * width
    return total


def outline(cell: Cell, indices_dir: str | Path) -> Task:
    """Return a task with the sizes of a cell's task, and without features.

    Raises MissingSplits if the size of its few-shot split is unknown.
    """
    classes, images = _sizes(cell, indices_dir)
    views = 1 + cell.image_views
    sizes = {"image": images * views} | ({"text": classes} if cell.modality == "cross_modal" else {})
    rows = {name: torch.empty(size, 0) for name, size in sizes.items()}
    samples = {name: Samples((), of_modality, of_modality) for name, of_modality in rows.items()}
    initial = torch.empty(classes, 0)
    return Task(str(cell), samples, samples["image"], initial, 1.0, views=views, dataset=cell.dataset)


def _sizes(cell: Cell, indices_dir: str | Path) -> tuple[int, int]:
    """Return the numbers of classes and of training images of a cell's few-shot split."""
    if counts := class_counts(indices_dir).get(cell.dataset):
        return len(counts["train"]), sum(limit_shots(cell.shots, count) for count in counts["train"])
    split = cell.dataset, cell.shots, cell.seed, cell.max_val_shot
    path = split_path(indices_dir, *split)
    content = read_lists(path) if path.exists() else None
    images = len(content["train"] if content else load_split(indices_dir, *split).train)
    return -(-images // (GUESSED_SHOTS if cell.shots == ALL else cell.shots)), images
