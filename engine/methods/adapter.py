"""CLIP-Adapter's residual adapter before the linear layer (section 4 of the protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.methods.method import Method
from engine.training.descent import GradientDescent, linear_classifier
from engine.training.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor

    from engine.model import Adapter, LinearClassifier
    from engine.training.task import Task


def build(task: Task) -> LinearClassifier:
    """Return the classifier that training starts from. Raises UserError for features of fewer than 4 numbers."""
    from engine.model import Adapter
    from engine.training.batches import generator

    return linear_classifier(task, Adapter(task.initial.shape[1], generator(f"{task.name}/adapter")))


def phi(tensors: Mapping[str, Tensor]) -> Adapter:
    """Return an adapter for the saved weights `down` [D/4, D] and `up`."""
    from torch import Generator

    from engine.model import Adapter

    return Adapter(tensors["down"].shape[1], Generator())


METHOD = Method(
    title="adapter",
    grid=Grid(lr=(1e-4, 1e-5, 1e-6, 1e-7), weight_decay=(0.0, 0.001, 0.00001), batch_size=(8,)),
    fit=GradientDescent(build=build),
    phi=phi,
)
