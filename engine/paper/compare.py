"""The paper's tables made anew from run records: each number of ours, the paper's, and what ours lacks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from engine import datasets
from engine.paper import layout, printed
from engine.paper.layout import METHODS, TABLES, Place, Scope
from engine.paper.printed import AVERAGE, Line, Number
from engine.results import esc
from engine.results.domain_shift import as_tested_on
from engine.results.runs import TEST, Cell, Record, read_cell, selected
from engine.results.tables import check_inputs


class Entry(NamedTuple):
    """A number of a table, in percent: ours (None while something is missing), and the paper's as it is printed.

    Of the `asked` things that ours is made of (`unit`: datasets, seeds, runs) `there` are complete. `runs` are the
    records behind it, `missing` the cells that it lacks.
    """

    ours: float | None = None
    std: float | None = None
    paper: Number = Number()
    there: int = 0
    asked: int = 0
    unit: str = ""
    runs: tuple[Any, ...] = ()
    missing: tuple[Cell, ...] = ()

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.ours is None or not self.paper.mean else self.ours - float(self.paper.mean)


class Row(NamedTuple):
    """A row of a table: its line, its shots where columns are datasets, an entry for each column."""

    line: Line
    place: Place
    entries: list[Entry]


@dataclass(frozen=True)
class Comparison:
    """A table of the paper with ours beside it. `notes` are findings that are no cells of it."""

    number: int
    scope: Scope
    columns: list[Place]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Cell]:
        """The cells of runs that are not there, each once, in the order of the rows."""
        return list(dict.fromkeys(cell for row in self.rows for entry in row.entries for cell in entry.missing))

    @property
    def incomplete(self) -> bool:
        """Whether a number of ours is missing that this project can make."""
        return any(entry.there < entry.asked for row in self.rows for entry in row.entries)


class Runs:
    """The runs that validation selected, read from `result_dir` cell by cell, each once."""

    def __init__(self, result_dir: str | Path):
        self.result_dir = result_dir
        self.read: dict[Cell, Record | None] = {}

    def __call__(self, cell: Cell) -> Record | None:
        """The selected run of a cell; None while its grid is incomplete or its test missing."""
        if cell not in self.read:
            run = selected(read_cell(cell, self.result_dir))
            self.read[cell] = run if run is not None and run.tested else None
        return self.read[cell]

    def check(self, test_sets: Iterable[str]) -> None:
        """Raise UserError when what was read was not trained on the same weights and images, or tested on others.

        `test_sets` are those that the table is of, shifted ones among them.
        """
        runs = [run for run in self.read.values() if run is not None]
        shifted = [
            as_tested_on(run, name, class_subset=True) for run in runs for name in test_sets if name in run.shifted
        ]
        check_inputs({run.cell: run for run in (*runs, *shifted)})


def compare(number: int, scope: Scope, result_dir: str | Path, esc_dir: str | Path) -> Comparison:
    """Make a table of the paper from the records under `result_dir`, or those of ImageNet-ESC under `esc_dir`.

    Rows that neither the paper nor this project has numbers for leave it. Raises UserError for records that cannot be
    read or do not belong together.
    """
    runs, columns = Runs(result_dir), layout.columns(number, scope)
    if TABLES[number].kind == "esc":
        folder = esc.place(esc_dir, scope.datasets[0].rpartition("_")[0], scope.max_iter)
        files = cache(lambda place: esc.read_runs(*_task(place), place.shots, folder))
        ours, notes = _of_esc(files), esc_notes(columns, files)
    else:
        ours, notes = _of_runs(scope, runs), []
    rows: list[Row] = []
    for line, place in layout.rows(number, scope):
        if line.metric == "accuracy_delta":
            entries = [_subtracted(*pair) for pair in zip(rows[-1].entries, rows[-2].entries, strict=True)]
        else:
            entries = [_entry(line, _meet(place, column), ours) for column in columns]
        of_paper = [_printed(number, scope, line, _meet(place, column)) for column in columns]
        entries = [entry._replace(paper=found) for entry, found in zip(entries, of_paper, strict=True)]
        rows.append(Row(line, place, entries))
    runs.check(dict.fromkeys(column.dataset for column in columns))
    if TABLES[number].kind == "esc":
        esc.check_inputs((run for row in rows for entry in row.entries for run in entry.runs), folder)
    return Comparison(number, scope, columns, [row for row in rows if _has_numbers(row)], notes)


def _meet(row: Place, column: Place) -> Place:
    return Place(column.dataset, column.shots if row.shots is None else row.shots)


def _entry(line: Line, place: Place, ours: Callable[[Line, Place], Entry]) -> Entry:
    """Our entry of an accuracy; an empty one where nothing can be: zero-shot has no shots, and the others have some."""
    return Entry() if layout.is_zeroshot(line) != (place.shots == 0) else ours(line, place)


def _has_numbers(row: Row) -> bool:
    return any(entry.asked or entry.paper.mean for entry in row.entries)


def _printed(number: int, scope: Scope, line: Line, place: Place) -> Number:
    """The paper's number; none beside an average of ours that is over other datasets than the paper's."""
    if place.dataset == AVERAGE and set(scope.datasets) != set(datasets.TARGETS):
        return Number()
    return printed.published(number).get((line, place.dataset, place.shots), Number())


def _subtracted(above: Entry, below: Entry) -> Entry:
    """The entry of a line that says what the one above it (`above`) adds to the one before that (`below`)."""
    if not (above.asked and below.asked):
        return Entry()  # one of the two is the paper's alone
    ours = None if above.ours is None or below.ours is None else above.ours - below.ours
    return Entry(ours, None, Number(), ours is not None, 1, "differences", above.runs + below.runs)


# --- from the records of train.py and domain_shift.py ----------------------------------------------------------------


def _of_runs(scope: Scope, runs: Runs) -> Callable[[Line, Place], Entry]:
    def ours(line: Line, place: Place) -> Entry:
        if METHODS[line.method].source is None:
            return Entry()
        if place.dataset == AVERAGE:
            return _average([ours(line, place._replace(dataset=dataset)) for dataset in scope.datasets])
        return _of_dataset(line, place, scope, runs)

    return ours


def _of_dataset(line: Line, place: Place, scope: Scope, runs: Runs) -> Entry:
    """The mean over seeds on one test set, if all are there."""
    trained_on, classifier = datasets.parent(place.dataset) or place.dataset, METHODS[line.method].source.classifier
    if classifier == "zeroshot":  # which neither shots nor seeds change: one run will do
        cells = [layout.cell(line, trained_on, shots, seed, scope) for shots in scope.shots for seed in scope.seeds]
        found = next((cell for cell in cells if _accuracy(runs(cell), place.dataset, classifier) is not None), cells[0])
        cells = [found]
    else:
        cells = [layout.cell(line, trained_on, place.shots, seed, scope) for seed in scope.seeds]
    accuracies = {cell: _accuracy(runs(cell), place.dataset, classifier) for cell in cells}
    values = [100 * accuracy for accuracy in accuracies.values() if accuracy is not None]
    complete = len(values) == len(cells)
    return Entry(
        ours=statistics.fmean(values) if complete else None,
        std=statistics.pstdev(values) if complete and classifier != "zeroshot" else None,
        there=len(values),
        asked=len(cells),
        unit="seeds",
        runs=tuple(run for cell, accuracy in accuracies.items() if accuracy is not None and (run := runs(cell))),
        missing=tuple(cell for cell, accuracy in accuracies.items() if accuracy is None),
    )


def _accuracy(run: Record | None, test_set: str, classifier: str) -> float | None:
    """The test accuracy of a run's classifier, 0 to 1; None when it was not tested there."""
    return run and run.accuracy(classifier, TEST if test_set == run.cell.dataset else test_set)


def _average(entries: list[Entry]) -> Entry:
    """The mean over datasets of means and of deviations, if all are there (section 5 of the protocol)."""
    complete = [entry for entry in entries if entry.ours is not None]
    all_there = len(complete) == len(entries)
    deviations = [entry.std for entry in complete if entry.std is not None]
    return Entry(
        ours=statistics.fmean(entry.ours for entry in complete) if all_there else None,
        std=statistics.fmean(deviations) if all_there and deviations else None,
        there=len(complete),
        asked=len(entries),
        unit="datasets",
        runs=tuple(run for entry in complete for run in entry.runs),
        missing=tuple(cell for entry in entries for cell in entry.missing),
    )


# --- from those of imagenet_esc.py -----------------------------------------------------------------------------------


def _of_esc(files: Callable[[Place], dict]) -> Callable[[Line, Place], Entry]:
    """`files` are the runs by task, class set and shots."""

    def ours(line: Line, place: Place) -> Entry:
        found = esc.score(files(place), line.method)
        mean, std = esc.mean_and_deviation(found) or (None, None)
        ours = (None, None) if mean is None else (100 * mean, 100 * std)
        return Entry(*ours, Number(), len(found.accuracies), len(esc.SPLITS) * len(esc.DRAWS), "runs", found.runs)

    return ours


def esc_notes(columns: list[Place], files: Callable[[Place], dict]) -> list[str]:
    """In how many runs the audio-visual probe beats the uni-modal one, for each class set and number of shots."""
    notes = []
    for place in columns:
        (_, classes), shots = _task(place), place.shots
        won, of = esc.wins(files(place)) if shots else (0, 0)
        if of:
            notes.append(f"{classes} classes, {shots}-shot: audio-visual beats uni-modal probing in {won} of {of} runs")
    return notes


def _task(place: Place) -> tuple[str, int]:
    """`imagenet_esc_19_image` -> (`image`, 19)."""
    _, _, classes, task = place.dataset.split("_")
    return task, int(classes)
