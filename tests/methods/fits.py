"""Training a method's golden problem as train.py does, and looking inside."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from engine.training.grid import Hparams
from engine.training.task import Run

TEST_ROWS = [0, 50, 100, 150, 200, 250, 300, 399]
"""The test images whose logits the goldens have."""


def fit(descent, task, executor, **hparams):
    """The fitted run of a `Fit`."""
    return fit_all(descent, [Run(task, Hparams(hparams))], executor)[0]


def fit_all(descent, runs, executor):
    """The fitted runs, in order."""
    found = {}
    for fitted in descent(runs, max_iter=0, progress=lambda steps: None, executor=executor):
        found |= fitted
    return [found[run] for run in runs]


def module_after(descent, task, executor, steps, **hparams):
    """The module that is trained, after so many of its steps: whole epochs."""
    if not steps:
        return descent.build(task)
    kept, whole = [], descent.length(task, Hparams(hparams), 0)
    assert steps % whole.per_epoch == 0

    def finish(task, module):
        kept.append(module)
        return descent.finish(task, module)

    cut = replace(
        descent,
        epochs=lambda task: steps // whole.per_epoch,
        schedule=lambda step, lr, length: descent.schedule(step, lr, whole),
        finish=finish,
    )
    fit(cut, task, executor, **hparams)
    return kept[-1]


def losses(descent, task, executor, steps, **hparams):
    """Cross-entropy and penalty of all training samples before each of these 1-based steps."""
    images = task.own
    inputs, labels = images.pick(images.rows.new_tensor(range(len(images))))
    found = []
    for step in steps:
        module = module_after(descent, task, executor, step - 1, **hparams)
        named = dict(module.named_parameters()) | dict(module.named_buffers())
        penalty = 0.0 if descent.penalty is None else descent.penalty(named).item()
        found.append((F.cross_entropy(module(inputs), labels).item(), penalty))
    return found


def expect_alike(descent, runs, chosen):
    """Both executors, and each run alone, end in equal weights, validation accuracies and `chosen` attributes."""
    found = {executor: fit_all(descent, runs, executor) for executor in ("sequential", "stacked")}
    for one, other, run in zip(*found.values(), runs, strict=True):
        for again in (other, fit(descent, run.task, "stacked")):
            assert torch.equal(one.classifier.weight, again.classifier.weight)
            assert one.val_accuracy == again.val_accuracy
            assert getattr(one, chosen) == getattr(again, chosen)
