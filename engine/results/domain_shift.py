"""Runs on shifted test sets (section 6 of the protocol), presented to tables as runs with these test sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from engine.results.runs import ALL_CLASSES, TEST, VAL, Cell, Record
from engine.results.tables import method_label, method_name, selected_runs


def shifted_runs(
    cells: list[Cell], result_dir: str | Path, shifted: list[str]
) -> tuple[dict[Cell, Record], list[Cell]]:
    """Return the selected run of each cell, and the cells with an incomplete grid or a missing shifted set.

    Selection uses validation images of the training dataset alone.
    """
    runs, _ = selected_runs(cells, result_dir)
    done = {cell: run for cell, run in runs.items() if run.shifted.keys() >= set(shifted)}
    return done, [cell for cell in cells if cell not in done]


def by_test_set(
    runs: dict[Cell, Record], accuracies: Mapping[Cell, Mapping[str, float]], shifted: list[str], class_subset: bool
) -> tuple[dict[Cell, Record], dict[Cell, dict[str, float]]]:
    """Return the runs, followed by the same runs with each of `shifted` as their test set, and their accuracies.

    `accuracies` are by cell and set. For sets with a subset of the classes, predictions are among the subset if
    `class_subset`, else among all classes.
    """
    views, found = dict(runs), {cell: {TEST: accuracies[cell][TEST]} for cell in runs}
    for name in shifted:
        for cell, run in runs.items():
            view = as_tested_on(run, name, class_subset)
            views[view.cell] = view
            found[view.cell] = {TEST: accuracies[cell][_accuracy_name(run, name, class_subset)]}
    return views, found


def _accuracy_name(run: Record, name: str, class_subset: bool) -> str:
    """Return the name of an accuracy on the shifted set `name`: among its classes, or among all."""
    among_all = name + ALL_CLASSES
    return name if class_subset or among_all not in run.shifted else among_all


def as_tested_on(run: Record, name: str, class_subset: bool) -> Record:
    """Return a run with the shifted set `name` as its test set. Raises KeyError if the run was not tested on it."""
    found = _accuracy_name(run, name, class_subset)
    return replace(
        run,
        cell=replace(run.cell, dataset=name),
        inputs=run.inputs | {"test": run.shifted[found]},
        accuracies={name: {VAL: of[VAL], TEST: of[found]} for name, of in run.accuracies.items()},
        shifted={},
    )


def shift_name(cell: Cell, mode: str, wise_ft: float, class_subset: bool) -> str:
    """Return the name of a method's domain-shift table: the training dataset and the name of its accuracy table."""
    name = method_name(cell, mode, wise_ft).removeprefix("all_")
    return f"domain_shift_{cell.dataset}_{name}" + ("" if class_subset else "_all_classes")


def shift_label(cell: Cell, mode: str, wise_ft: float, class_subset: bool) -> str:
    """Return the label of a method for tables and plots."""
    return method_label(cell, mode, wise_ft) + ("" if class_subset else ", all classes")
