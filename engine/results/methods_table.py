"""All methods, uni- and cross-modal, in one table from run records: accuracies, ranks, and what text samples add.

Accuracies are
percentages; deviations are over seeds, of the population, and averaged over datasets (section 5 of the protocol).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from engine.methods import REGISTRY
from engine.results.methods_scope import MODALITIES, MethodRow, MethodsScope, method_cell
from engine.results.runs import TRAINED, ZEROSHOT, Record
from engine.results.tables import check_inputs, selected_runs

AVERAGE = "average"
"""The name of the average over datasets, where a dataset's could stand."""


@dataclass(frozen=True, eq=False)
class Published:
    """Published averages of a method over the eleven datasets.

    `method` is a name of the registry, or another one for a method that it lacks, and `title` the authors' name.
    `means` are percentages as printed, by shots. `note` states how the authors chose hyper-parameters.
    """

    method: str
    title: str
    encoder: str
    modality: str
    means: dict[int, str]
    note: str


class Number(NamedTuple):
    """A mean with its standard deviation over seeds, None while one of the `asked` parts behind it is missing."""

    mean: float | None = None
    std: float | None = None
    there: int = 0
    asked: int = 0


class MethodsTable:
    """The test accuracies of the runs that validation selected, by row, dataset, shots and seed."""

    def __init__(self, scope: MethodsScope, result_dir: str | Path):
        """Raises UserError for records that cannot be read or do not belong in one table."""
        self.scope = scope
        self.rows = [MethodRow(encoder, name, m) for encoder in scope.encoders for name in REGISTRY for m in MODALITIES]
        at = {
            method_cell(row, dataset, shots, seed, scope): (row, dataset, shots, seed)
            for row in self.rows
            for dataset in scope.datasets
            for shots in scope.shots
            for seed in scope.seeds
        }
        runs, self.missing = selected_runs(list(at), result_dir)
        check_inputs(runs)
        self.runs: dict[tuple[MethodRow, str, int, int], Record] = {at[cell]: run for cell, run in runs.items()}
        self._known: dict[tuple[MethodRow, str, int], Number] = {}

    # --- accuracies ---------------------------------------------------------------------------------------------------

    def accuracy(self, row: MethodRow, dataset: str, shots: int) -> Number:
        """Return a row's accuracy on a dataset, or on the average over all."""
        if (row, dataset, shots) not in self._known:
            if dataset == AVERAGE:
                found = average(self.accuracy(row, name, shots) for name in self.scope.datasets)
            else:
                found = over_seeds(self._accuracies(row, dataset, shots), len(self.scope.seeds))
            self._known[row, dataset, shots] = found
        return self._known[row, dataset, shots]

    def _accuracies(self, row: MethodRow, dataset: str, shots: int) -> dict[int, float]:
        """Return a row's accuracies by seed."""
        found = ((seed, self.runs.get((row, dataset, shots, seed))) for seed in self.scope.seeds)
        return {seed: 100 * run.accuracy(TRAINED) for seed, run in found if run is not None}

    def zeroshot(self, encoder: str, dataset: str) -> Number:
        """Return the accuracy of the zero-shot classifier, which neither shots nor seeds change."""
        if dataset == AVERAGE:
            return average(self.zeroshot(encoder, name) for name in self.scope.datasets)
        found = self._zeroshots.get((encoder, dataset))
        return Number(asked=1) if found is None else Number(found, None, 1, 1)

    @cached_property
    def _zeroshots(self) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for (row, dataset, _, _), run in self.runs.items():
            if (accuracy := run.accuracy(ZEROSHOT)) is not None:
                found.setdefault((row.encoder, dataset), 100 * accuracy)
        return found

    # --- comparisons --------------------------------------------------------------------------------------------------

    def difference(self, row: MethodRow, dataset: str, shots: int) -> Number:
        """Return how much the cross-modal classifiers of a row's method are above its uni-modal ones.

        Runs are paired by seed: both saw the same images.
        """
        if dataset == AVERAGE:
            return average(self.difference(row, name, shots) for name in self.scope.datasets)
        uni, cross = (self._accuracies(row._replace(modality=modality), dataset, shots) for modality in MODALITIES)
        return over_seeds({seed: cross[seed] - uni[seed] for seed in uni if seed in cross}, len(self.scope.seeds))

    def rank(self, row: MethodRow, dataset: str, shots: int) -> Number:
        """Return the rank of a row, 1 for the best, among all rows of its encoder that are complete there.

        On the average it is the mean of the ranks on the datasets. Rows with equal accuracies share the mean of
        their ranks.
        """
        if dataset == AVERAGE:
            return average(self.rank(row, name, shots) for name in self.scope.datasets)
        own = self.accuracy(row, dataset, shots).mean
        if own is None:
            return Number(asked=1)
        rivals = (self.accuracy(other, dataset, shots).mean for other in self.rows if other.encoder == row.encoder)
        signs = [(mean > own) - (mean < own) for mean in rivals if mean is not None]
        return Number(1 + signs.count(1) + (signs.count(0) - 1) / 2, None, 1, 1)

    def behind(self, row: MethodRow, dataset: str) -> list[Record]:
        """Return the runs behind a row, on one dataset or all of them."""
        of_row = ((at, run) for at, run in self.runs.items() if at[0] == row)
        return [run for at, run in of_row if dataset in (at[1], AVERAGE)]


def over_seeds(values: dict[int, float], asked: int) -> Number:
    """Return mean and deviation of values by seed, if all that were asked for are there."""
    if len(values) < asked:
        return Number(there=len(values), asked=asked)
    return Number(statistics.fmean(values.values()), statistics.pstdev(values.values()), asked, asked)


def average(numbers: Iterable[Number]) -> Number:
    """Return the mean of means and the mean of deviations, if all numbers are complete."""
    numbers = list(numbers)
    complete = [number for number in numbers if number.mean is not None]
    if len(complete) < len(numbers):
        return Number(there=len(complete), asked=len(numbers))
    deviations = [number.std for number in complete if number.std is not None]
    mean = statistics.fmean(number.mean for number in complete)
    return Number(mean, statistics.fmean(deviations) if deviations else None, len(numbers), len(numbers))
