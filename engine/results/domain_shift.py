"""Runs on shifted test sets (section 6 of the protocol): a run as if such a set were its own, for any table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.results.runs import ALL_CLASSES, TEST, VAL, Cell, Record
from engine.results.tables import method_label, method_name, selected_runs


def shifted_runs(
    cells: list[Cell], result_dir: str | Path, shifted: list[str]
) -> tuple[dict[Cell, Record], list[Cell]]:
    """The run that validation selects in each cell, on the set that was trained on alone, and the cells that lack one.

    A cell lacks one too when that run was not tested on all of `shifted`.
    """
    runs, _ = selected_runs(cells, result_dir)
    done = {cell: run for cell, run in runs.items() if run.shifted.keys() >= set(shifted)}
    return done, [cell for cell in cells if cell not in done]


def by_test_set(runs: dict[Cell, Record], shifted: list[str], class_subset: bool) -> dict[Cell, Record]:
    """The runs, and after them the same as if each of `shifted` in turn were what they are tested on.

    On sets with a part of the classes predictions are among these with `class_subset`, else among all.
    """
    views = dict(runs)
    for name in shifted:
        for run in runs.values():
            view = as_tested_on(run, name, class_subset)
            views[view.cell] = view
    return views


def as_tested_on(run: Record, name: str, class_subset: bool) -> Record:
    """A run whose test set is the shifted set `name`. Raises KeyError when it was not tested on that."""
    among_all = name + ALL_CLASSES
    found = name if class_subset or among_all not in run.shifted else among_all
    return replace(
        run,
        cell=replace(run.cell, dataset=name),
        inputs=run.inputs | {"test": run.shifted[found]},
        accuracies={own: {VAL: of[VAL], TEST: of[found]} for own, of in run.accuracies.items()},
        shifted={},
    )


def shift_name(cell: Cell, mode: str, wise_ft: bool, class_subset: bool) -> str:
    """The name of a method's table of domain shift: that of its table of accuracies, and the dataset trained on."""
    name = method_name(cell, mode, wise_ft).removeprefix("all_")
    return f"domain_shift_{cell.dataset}_{name}" + ("" if class_subset else "_all_classes")


def shift_label(cell: Cell, mode: str, wise_ft: bool, class_subset: bool) -> str:
    """The method in words."""
    return method_label(cell, mode, wise_ft) + ("" if class_subset else ", all classes")
