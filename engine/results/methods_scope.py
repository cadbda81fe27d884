"""The rows of the table of all methods, and the cells of runs behind them. The rows follow from the registry.

Importing this takes neither pandas nor torch: command lines are read with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from engine.errors import UserError
from engine.results.runs import Cell
from engine.training.schedule import MAX_ITER

UNI, CROSS = MODALITIES = ("uni_modal", "cross_modal")
NAME = "methods"
"""The name of the table of all methods for `tables.py --table`."""


@dataclass(frozen=True)
class MethodsScope:
    """The runs that the table is made of: `encoders` are names with their folders."""

    datasets: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    encoders: dict[str, str]
    max_iter: int = MAX_ITER


def require_plot(scope: MethodsScope) -> None:
    """Raise UserError for several encoders, whose methods one plot cannot tell apart."""
    if len(scope.encoders) > 1:
        raise UserError("a plot of all methods is of one encoder; choose with --clip-encoder")


class MethodRow(NamedTuple):
    """A row: the name of an encoder, of a method and of a modality."""

    encoder: str
    method: str
    modality: str


def method_cell(row: MethodRow, dataset: str, shots: int, seed: int, scope: MethodsScope) -> Cell:
    """Return the cell of runs behind a row, with the inputs of methods.sh."""
    return Cell.of_method(
        row.method,
        modality=row.modality,
        max_iter=scope.max_iter,
        dataset=dataset,
        shots=shots,
        seed=seed,
        encoder=scope.encoders[row.encoder],
        text_augmentation="hand_crafted",
        image_augmentation="flip",
        image_views=1,
    )
