"""The paper's tables from run records: each number of this project, the paper's number, and the missing runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from engine import datasets
from engine.paper import layout, printed
from engine.paper.layout import METHODS, TABLES, Coordinates, Scope
from engine.paper.printed import AVERAGE, PaperRow, PrintedNumber
from engine.results import esc
from engine.results.domain_shift import as_tested_on
from engine.results.runs import TEST, Cell, Record, read_cell, selected
from engine.results.tables import check_inputs


class ComparedValue(NamedTuple):
    """A number of a table, in percent: `ours` (None while incomplete), and the paper's as printed.

    `ours` needs `required` items (`unit`: datasets, seeds, runs), of which `complete` are complete. `runs` are the
    records used, `missing` the cells without results.
    """

    ours: float | None = None
    std: float | None = None
    paper: PrintedNumber = PrintedNumber()
    complete: int = 0
    required: int = 0
    unit: str = ""
    runs: tuple[Any, ...] = ()
    missing: tuple[Cell, ...] = ()

    @property
    def difference(self) -> float | None:
        """Our number minus the paper's; None without one of them."""
        return None if self.ours is None or not self.paper.mean else self.ours - float(self.paper.mean)


class TableRow(NamedTuple):
    """A row of a table: the paper's row, its coordinates (shots if columns are datasets), and a value per column."""

    paper: PaperRow
    coordinates: Coordinates
    values: list[ComparedValue]


@dataclass(frozen=True)
class Comparison:
    """A table with our numbers beside the paper's. `notes` are findings outside the cells."""

    number: int
    scope: Scope
    columns: list[Coordinates]
    rows: list[TableRow]
    notes: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Cell]:
        """The cells without results, each once, in the order of the rows."""
        return list(dict.fromkeys(cell for row in self.rows for value in row.values for cell in value.missing))

    @property
    def incomplete(self) -> bool:
        """Whether a number is missing that this project can compute."""
        return any(value.complete < value.required for row in self.rows for value in row.values)


class SelectedRuns:
    """The runs that validation selected; each cell is read from `result_dir` once."""

    def __init__(self, result_dir: str | Path):
        self.result_dir = result_dir
        self.read: dict[Cell, Record | None] = {}

    def __call__(self, cell: Cell) -> Record | None:
        """Return the selected run of a cell; None while its grid is incomplete or its test missing."""
        if cell not in self.read:
            run = selected(read_cell(cell, self.result_dir))
            self.read[cell] = run if run is not None and run.tested else None
        return self.read[cell]

    def check(self, test_sets: Iterable[str]) -> None:
        """Raise UserError if the runs differ in their weights or images, or in the images of one of `test_sets`."""
        runs = [run for run in self.read.values() if run is not None]
        shifted = [
            as_tested_on(run, name, class_subset=True) for run in runs for name in test_sets if name in run.shifted
        ]
        check_inputs({run.cell: run for run in (*runs, *shifted)})


def compare(number: int, scope: Scope, result_dir: str | Path, esc_dir: str | Path) -> Comparison:
    """Compare a table of the paper with the records in `result_dir`, or with ImageNet-ESC records in `esc_dir`.

    Rows without any number are dropped. Raises UserError for records that cannot be read or do not match each other.
    """
    runs, columns = SelectedRuns(result_dir), layout.columns(number, scope)
    if TABLES[number].kind == "esc":
        folder = esc.esc_dir(esc_dir, scope.datasets[0].rpartition("_")[0], scope.max_iter)
        read = cache(lambda at: esc.read_runs(*_task(at), at.shots, folder))
        ours, notes = _esc_values(read), esc_notes(columns, read)
    else:
        ours, notes = _run_values(scope, runs), []
    rows: list[TableRow] = []
    for row, at in layout.rows(number, scope):
        if row.metric == "accuracy_delta":
            values = [_difference(*pair) for pair in zip(rows[-1].values, rows[-2].values, strict=True)]
        else:
            values = [_value(row, _cell_at(at, column), ours) for column in columns]
        paper = [_printed(number, scope, row, _cell_at(at, column)) for column in columns]
        values = [value._replace(paper=found) for value, found in zip(values, paper, strict=True)]
        rows.append(TableRow(row, at, values))
    runs.check(dict.fromkeys(column.dataset for column in columns))
    if TABLES[number].kind == "esc":
        esc.check_inputs((run for row in rows for value in row.values for run in value.runs), folder)
    return Comparison(number, scope, columns, [row for row in rows if _has_numbers(row)], notes)


def _cell_at(row: Coordinates, column: Coordinates) -> Coordinates:
    return Coordinates(column.dataset, column.shots if row.shots is None else row.shots)


def _value(row: PaperRow, at: Coordinates, ours: Callable[[PaperRow, Coordinates], ComparedValue]) -> ComparedValue:
    """Return our value of a cell; empty if the cell cannot exist: only zero-shot classifiers have 0 shots."""
    return ComparedValue() if layout.is_zeroshot(row) != (at.shots == 0) else ours(row, at)


def _has_numbers(row: TableRow) -> bool:
    return any(value.required or value.paper.mean for value in row.values)


def _printed(number: int, scope: Scope, row: PaperRow, at: Coordinates) -> PrintedNumber:
    """Return the paper's number; none for an average over other datasets than the paper's."""
    if at.dataset == AVERAGE and set(scope.datasets) != set(datasets.TARGETS):
        return PrintedNumber()
    return printed.published(number).get((row, at.dataset, at.shots), PrintedNumber())


def _difference(upper: ComparedValue, lower: ComparedValue) -> ComparedValue:
    """Return the difference `upper - lower` of two values of ours; empty if one of them is only the paper's."""
    if not (upper.required and lower.required):
        return ComparedValue()
    ours = None if upper.ours is None or lower.ours is None else upper.ours - lower.ours
    return ComparedValue(ours, complete=ours is not None, required=1, unit="differences", runs=upper.runs + lower.runs)


# --- from the records of train.py and domain_shift.py ----------------------------------------------------------------


def _run_values(scope: Scope, runs: SelectedRuns) -> Callable[[PaperRow, Coordinates], ComparedValue]:
    def ours(row: PaperRow, at: Coordinates) -> ComparedValue:
        if METHODS[row.method].mode is None:
            return ComparedValue()
        if at.dataset == AVERAGE:
            return _average([ours(row, at._replace(dataset=dataset)) for dataset in scope.datasets])
        return _dataset_value(row, at, scope, runs)

    return ours


def _dataset_value(row: PaperRow, at: Coordinates, scope: Scope, runs: SelectedRuns) -> ComparedValue:
    """Return the mean over seeds on one test set, if all seeds are complete."""
    trained_on, classifier = datasets.parent(at.dataset) or at.dataset, METHODS[row.method].classifier
    if classifier == "zeroshot":  # independent of shots and seeds: one run is enough
        cells = [layout.cell(row, trained_on, shots, seed, scope) for shots in scope.shots for seed in scope.seeds]
        found = next((cell for cell in cells if _accuracy(runs(cell), at.dataset, classifier) is not None), cells[0])
        cells = [found]
    else:
        cells = [layout.cell(row, trained_on, at.shots, seed, scope) for seed in scope.seeds]
    accuracies = {cell: _accuracy(runs(cell), at.dataset, classifier) for cell in cells}
    percent = [100 * accuracy for accuracy in accuracies.values() if accuracy is not None]
    is_complete = len(percent) == len(cells)
    return ComparedValue(
        ours=statistics.fmean(percent) if is_complete else None,
        std=statistics.pstdev(percent) if is_complete and classifier != "zeroshot" else None,
        complete=len(percent),
        required=len(cells),
        unit="seeds",
        runs=tuple(run for cell, accuracy in accuracies.items() if accuracy is not None and (run := runs(cell))),
        missing=tuple(cell for cell, accuracy in accuracies.items() if accuracy is None),
    )


def _accuracy(run: Record | None, test_set: str, classifier: str) -> float | None:
    """Return the test accuracy (0 to 1) of a run's classifier; None if it was not tested on `test_set`."""
    return run and run.accuracy(classifier, TEST if test_set == run.cell.dataset else test_set)


def _average(values: list[ComparedValue]) -> ComparedValue:
    """Return the mean over datasets of means and of deviations, if all are complete (section 5 of the protocol)."""
    complete = [value for value in values if value.ours is not None]
    is_complete = len(complete) == len(values)
    deviations = [value.std for value in complete if value.std is not None]
    return ComparedValue(
        ours=statistics.fmean(value.ours for value in complete) if is_complete else None,
        std=statistics.fmean(deviations) if is_complete and deviations else None,
        complete=len(complete),
        required=len(values),
        unit="datasets",
        runs=tuple(run for value in complete for run in value.runs),
        missing=tuple(cell for value in values for cell in value.missing),
    )


# --- from the records of imagenet_esc.py -----------------------------------------------------------------------------


def _esc_values(read: Callable[[Coordinates], dict]) -> Callable[[PaperRow, Coordinates], ComparedValue]:
    """Return a function for our values; `read` returns the runs of a task, class set and shots."""

    def ours(row: PaperRow, at: Coordinates) -> ComparedValue:
        found = esc.score(read(at), row.method)
        mean, std = esc.mean_and_deviation(found) or (None, None)
        return ComparedValue(
            ours=None if mean is None else 100 * mean,
            std=None if mean is None else 100 * std,
            complete=len(found.accuracies),
            required=len(esc.SPLITS) * len(esc.DRAWS),
            unit="runs",
            runs=found.runs,
        )

    return ours


def esc_notes(columns: list[Coordinates], read: Callable[[Coordinates], dict]) -> list[str]:
    """Return, for each class set and shots, the number of runs in which the audio-visual probe beats the uni-modal."""
    notes = []
    for column in columns:
        (_, classes), shots = _task(column), column.shots
        won, total = esc.wins(read(column)) if shots else (0, 0)
        if total:
            wins = f"audio-visual beats uni-modal probing in {won} of {total} runs"
            notes.append(f"{classes} classes, {shots}-shot: {wins}")
    return notes


def _task(at: Coordinates) -> tuple[str, int]:
    """Return task and number of classes: `imagenet_esc_19_image` -> (`image`, 19)."""
    _, _, classes, task = at.dataset.split("_")
    return task, int(classes)
