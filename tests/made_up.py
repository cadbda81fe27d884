"""Methods that nobody published, each for something else that the contract of methods allows.

Their modules have buffers of their task and of the run's hyper-parameters.
"""

import sys
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from engine.errors import UserError
from engine.methods import HEADS, METHODS, REGISTRY, Method
from engine.model import Embedding, LinearClassifier, LinearHead, class_means
from engine.training.descent import ClosedForm, GradientDescent, Optimizer, linear_classifier
from engine.training.evaluate import val_accuracies
from engine.training.grid import Grid
from engine.training.schedule import cosine, epoch_cosine


class Residual(nn.Module):
    """A weight that is a task's own plus `a` times what is trained; `lam` weighs a penalty."""

    def __init__(self, task):
        super().__init__()
        self.scale = task.scale
        self.residual = nn.Parameter(torch.zeros_like(task.zeroshot))
        self.register_buffer("base", task.zeroshot.clone())
        self.register_buffer("a", torch.ones(()))
        self.register_buffer("lam", torch.zeros(()))

    @property
    def weight(self):
        return self.base + self.a * self.residual

    def forward(self, *modalities):
        return self.scale * F.linear(torch.cat([x for (x,) in modalities]), self.weight)


class Shift(nn.Module):
    """Features moved by a buffer, which is another one in each task, and stretched."""

    def __init__(self, shift):
        super().__init__()
        self.register_buffer("shift", shift)
        self.gain = nn.Parameter(torch.ones(len(shift)))

    def forward(self, x):
        return self.gain * x + self.shift


def residual(task):
    return Residual(task).eval()


def shifted(task):
    return linear_classifier(task, Shift(task.zeroshot.mean(0)))


def as_weight(task, module):
    """The classifier of a `Residual`, and no tuned values."""
    return LinearClassifier(Embedding([None]), LinearHead(module.weight.detach(), task.scale)).eval(), {}


def blended(task, module):
    """The same, blended with the zero-shot weight as is best on validation; the first of the best."""
    classifier, _ = as_weight(task, module)
    blends = [0.0, 0.5, 1.0]
    candidates = [classifier.with_weight(torch.lerp(module.weight.detach(), task.zeroshot, blend)) for blend in blends]
    found = val_accuracies(task, candidates)
    best = found.index(max(found))
    return candidates[best], {"blend": blends[best]}


def to_zero_shot(tensors):
    """How far a weight is from the one it was made from, as its run weighs that."""
    return tensors["lam"] * tensors["residual"].square().sum()


def class_means_of(task, hparams):
    """The mean image of each class, brought nearer to all other means, with half its squared length as the bias."""
    rows, labels = task.own.rows, task.own.labels
    means = class_means(task.own.bank[0][rows], labels, len(task.initial))
    means = torch.lerp(means, means.mean(0), hparams["ridge"])
    head = LinearHead(means, task.scale, -means.square().sum(1) / 2)
    return LinearClassifier(Embedding([None]), head).eval(), {"spread": float(means.std())}


def two_shots(task):
    if task.shots < 2:
        raise UserError("needs 2 shots or more; name them with --train-shot")


MADE_UP = {
    "adam_in_epochs": Method(
        title="residual by Adam",
        grid=Grid(lr=(1e-2, 1e-3), a=(0.5, 2.0)),
        fit=GradientDescent(
            build=residual,
            optimizer=Optimizer("adam", weight_decay=5e-4, eps=1e-4),
            schedule=epoch_cosine,
            epochs=lambda task: 12 if task.shots < 2 else 6,
            batch_size=16,
            keep="last",
            finish=as_weight,
        ),
        inits=("zeroshot",),
    ),
    "sgd_with_penalty": Method(
        title="residual by SGD",
        grid=Grid(lam=(0.0, 10.0, 200.0)),
        fit=GradientDescent(
            build=residual,
            optimizer=Optimizer("sgd", lr=1e-3),
            schedule=cosine,
            epochs=lambda task: 40,
            views_in_turn=True,
            penalty=to_zero_shot,
            keep="last",
            finish=blended,
        ),
        inits=("zeroshot",),
    ),
    "best_shift": Method(
        title="shifted features",
        grid=Grid(lr=(1e-2, 1e-3), weight_decay=(0.0, 0.01), batch_size=(8,)),
        fit=GradientDescent(build=shifted),
        phi=lambda tensors: Shift(torch.empty_like(tensors["shift"])),
        log_logit_scale=2.0,
    ),
}

CLOSED = {
    "means": Method(
        title="class means",
        grid=Grid(ridge=(0.0, 0.5)),
        fit=ClosedForm(class_means_of),
        log_logit_scale=0.0,
        wise_ft=False,
        check=two_shots,
    ),
}


def install():
    """Make them known in this process, whose command lines take their names from then on."""
    import engine

    for name, method in (MADE_UP | CLOSED).items():
        sys.modules[f"engine.methods.{name}"] = SimpleNamespace(METHOD=method)
        REGISTRY[name] = name
        HEADS.append(name)
        assert METHODS[name] is method
    for name in [name for name in sys.modules if name.startswith("engine.config")]:
        del sys.modules[name]  # with the choices of arguments
    vars(engine).pop("config", None)
