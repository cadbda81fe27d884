"""Explanation of a selection: all runs of a cell side by side."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from engine import datasets
from engine.datasets.few_shot import parse_shots, shots_sort_key
from engine.errors import UserError
from engine.results.runs import NEW, TEST, TRAINED, VAL, WISEFT, ZEROSHOT, Cell, Record, read_cell, selected
from engine.training.grid import SPOKEN, Hparams, shown


def explain(cell: Cell, result_dir: str | Path) -> str:
    """Return a table of a cell's runs with steps and accuracies, and the reason of the selection, as text.

    Raises UserError if the cell has no runs; the message lists cells of the same method and methods of the same cell
    that have runs.
    """
    records = read_cell(cell, result_dir)
    if not records:
        raise UserError(_no_runs(cell, result_dir))
    grid = next(iter(records.values())).grid
    chosen = selected(records)
    rows = [_row(hparams, records.get(hparams), chosen) for hparams in grid]
    lines = [f"{cell}, {cell.folder(result_dir)}: accuracies in %, blank where untested"]
    lines += [pd.DataFrame(rows).to_string(index=False), _reason(records, chosen, len(grid))]
    if chosen is not None and chosen.accuracy(ZEROSHOT) is not None:
        val, test = (_percent(chosen.accuracy(ZEROSHOT, of)) for of in (VAL, TEST))
        lines.append(f"zero-shot: val {val}, test {test}")
    if chosen is not None and NEW in chosen.shifted:
        lines.append(f"new classes: {chosen.describe(NEW)}")
    if chosen is not None and chosen.tuned:
        tuned = ", ".join(f"{name} {value:g}" for name, value in chosen.tuned.items())
        lines.append(f"tuned on validation inside the run: {tuned}")
    return "\n".join(lines)


def _no_runs(cell: Cell, result_dir: str | Path) -> str:
    folder = cell.folder(result_dir)
    lines = [f"no runs of {cell} in {folder}"]
    if cells := [f"{datasets.cli_name(c.dataset)},{c.shots},{c.seed}" for c in find_cells(cell, result_dir)]:
        lines.append(f"cells of this method that have runs: {'  '.join(cells)}")
    of_cell = folder.parents[2]
    if others := sorted({str(path.parents[1].relative_to(of_cell)) for path in of_cell.glob("*/*/*/*/record.json")}):
        lines.append(f"methods of this cell that have runs: {'  '.join(others)}")
    return "\n".join(lines)


def _row(hparams: Hparams, record: Record | None, chosen: Record | None) -> dict[str, object]:
    """Return the row of a run; its mark is selected, diverged or not trained."""
    marks = []
    if record is None:
        marks.append("not trained")
    elif record == chosen:
        marks.append("<- selected")
    if record is not None and record.diverged:
        marks.append("diverged")
    titles = {"": TRAINED, "WiSE-FT ": WISEFT}
    found = {
        f"{title}{of}": _percent(record and record.accuracy(name, of))
        for title, name in titles.items()
        for of in (VAL, TEST)
    }
    values = {SPOKEN.get(name, name): shown(value) for name, value in hparams.items()}
    return values | {"step": "" if record is None else record.step} | found | {"": ", ".join(marks)}


def _reason(records: dict, chosen: Record | None, runs: int) -> str:
    if chosen is None:
        return f"No run is selected yet: {runs - len(records)} of {runs} runs are not trained."
    best = chosen.val
    tied = sum(record.val == best for record in records.values())
    if tied == 1:
        reason = f"Selected: the only run with the highest val, {_percent(best)}."
    else:
        reason = (
            f"Selected: of the {tied} runs with the highest val, {_percent(best)}, the first in the order of the grid"
            " (as above)."
        )
    return reason + ("" if chosen.tested else " Its test is missing; run train.py to test it.")


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.2f}"


def find_cells(like: Cell, result_dir: str | Path) -> list[Cell]:
    """Return the cells of the same method as `like` that have runs, sorted by dataset, shots and seed."""
    found = []
    for folder in Path(result_dir).glob("*-shot_*-seed_*"):
        match = re.match(r"(.+)-shot_(\d+|all)-seed_(\d+)", folder.name)
        cell = replace(like, dataset=match[1], shots=parse_shots(match[2]), seed=int(match[3])) if match else None
        if cell and cell.folder(result_dir).parents[2] == folder and _has_runs(cell, result_dir):
            found.append(cell)
    return sorted(found, key=lambda cell: (cell.dataset, shots_sort_key(cell.shots), cell.seed))


def _has_runs(cell: Cell, result_dir: str | Path) -> bool:
    return any(cell.folder(result_dir).glob("*/record.json"))
