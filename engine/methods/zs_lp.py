"""ZS-LP, linear probing from zero-shot weights (the baseline of CLAP): normalised weights from raw text features."""

from __future__ import annotations

from engine.methods.method import Method
from engine.model import Embedding, LinearClassifier
from engine.model.residual import ResidualClassifier
from engine.training.descent import GradientDescent, Optimizer
from engine.training.grid import Grid
from engine.training.schedule import epoch_cosine
from engine.training.task import Task

SGD = Optimizer("sgd", lr=0.1)
EPOCHS = 300


def build(task: Task) -> ResidualClassifier:
    """Return the classifier that training starts from: its weights are the raw text features, normalised."""
    return ResidualClassifier(Embedding(task.trainable_layers[: len(task.samples)]), task.text, task.scale).eval()


def finish(task: Task, module: ResidualClassifier) -> tuple[LinearClassifier, dict[str, float]]:
    """Return the linear classifier of a trained module, and no tuned values."""
    return module.linear(), {}


METHOD = Method(
    title="ZS-LP",
    grid=Grid(),
    fit=GradientDescent(
        build=build,
        optimizer=SGD,
        schedule=epoch_cosine,
        epochs=lambda task: EPOCHS,
        batch_size=256,
        keep="last",
        finish=finish,
    ),
    inits=("zeroshot",),
)
