"""Hyper-parameters of runs, and grids of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Hyperparameters(NamedTuple):
    """One point of a grid."""

    lr: float
    weight_decay: float
    batch_size: int


@dataclass(frozen=True)
class Grid:
    """A hyper-parameter grid: the product of its lists, in the order in which ties are broken."""

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    batch_size: tuple[int, ...]

    def __iter__(self) -> Iterator[Hyperparameters]:
        return itertools.starmap(Hyperparameters, itertools.product(self.lr, self.weight_decay, self.batch_size))

    @property
    def fewest_prompts(self) -> int:
        """The least number of prompts for a cross-modal run: more than half of the smallest batch."""
        return min(self.batch_size) // 2 + 1
