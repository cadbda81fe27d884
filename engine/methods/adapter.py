"""CLIP-Adapter's residual adapter before the linear layer (section 4 of the protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.methods.method import Method
from engine.training.grid import Grid

if TYPE_CHECKING:
    from torch import Generator

    from engine.model import Adapter


def embedding(dimension: int, generator: Generator) -> Adapter:
    """Return an adapter of features of so many numbers. Raises UserError for fewer than it divides them by."""
    from engine.model import Adapter  # torch takes seconds to import

    return Adapter(dimension, generator)


ADAPTER = Method(
    name="adapter",
    title="adapter",
    head="adapter",
    grid=Grid(lr=(1e-4, 1e-5, 1e-6, 1e-7), weight_decay=(0.0, 0.001, 0.00001), batch_size=(8,)),
    embedding=embedding,
)
