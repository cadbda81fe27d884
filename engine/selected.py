"""The selected runs of a table: their accuracies with WiSE-FT of any ratio and by class, and their predictions.

Records have the accuracies at the ratios of `RATIOS`. All else is of saved classifiers, tested on stored features.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from engine import config, terminal
from engine.config import commands
from engine.datasets.few_shot import Shots
from engine.errors import UserError
from engine.files import write_atomically, write_text
from engine.results import saved_classifiers
from engine.results.predictions import csv_row, format_tested, guard, most_probable, tested_header
from engine.results.runs import RATIOS, TEST, TRAINED, Cell, Record

if TYPE_CHECKING:  # importing torch takes seconds
    import pandas as pd

    from engine.scores import StoredRun

KEYS = ("encoder", "wise_ft", "dataset", "shots", "seed")
"""The columns of a prediction that identify the classifier."""

COLUMNS = ("dataset", "shots", "seed", "class", "images", "correct", "accuracy")
"""The columns of a table of `--per-class`; the accuracy is a percentage, or blank without images."""
ClassRow = tuple[str, Shots, int, str, int, int, float | str]
"""Values of these columns."""
Accuracies = dict[Cell, dict[str, float]]
"""Accuracies from 0 to 1 by cell and test set."""


def accuracies(
    args: argparse.Namespace,
    runs: Mapping[Cell, Record],
    ratios: Sequence[float],
    shifted: Sequence[str] = (),
    script: str = "train.py",
) -> dict[float, Accuracies]:
    """Return the accuracies of runs on their test set and on `shifted` sets, for each ratio of WiSE-FT.

    Raises UserError for missing classifiers and features, with the commands that create them; `script` saves the
    classifiers.
    """
    recorded = {ratio: name for name, ratio in RATIOS.items()}
    others = [ratio for ratio in ratios if ratio not in recorded]
    measured = _measure(args, runs, others, shifted, script) if others else {}
    without = [
        cell for cell, run in runs.items() for ratio in ratios if recorded.get(ratio, TRAINED) not in run.accuracies
    ]
    if without:
        raise UserError(
            f"{without[0]} has no WiSE-FT: the features of {without[0].encoder} were imported without texts; use"
            " --wise_ft false"
        )
    return {
        ratio: measured[ratio]
        if ratio in measured
        else {cell: dict(run.accuracies[recorded[ratio]]) for cell, run in runs.items()}
        for ratio in dict.fromkeys(ratios)
    }


def _measure(
    args: argparse.Namespace,
    runs: Mapping[Cell, Record],
    ratios: Sequence[float],
    shifted: Sequence[str],
    script: str,
) -> dict[float, Accuracies]:
    """Test the classifiers of runs at all ratios; final features are read once for all runs on a dataset."""
    from engine.training.evaluate import accuracies  # imports torch, which tables of records do not need

    if any(cell.tests_new for cell in runs):
        raise UserError(
            "WiSE-FT of new classes is measured only at the ratios in records,"
            f" {' and '.join(map(str, RATIOS.values()))}: use these with --wise_ft, or --classes all"
        )
    require_saved(args, runs, script)
    found: dict[float, Accuracies] = {ratio: {cell: {} for cell in runs} for ratio in ratios}
    groups: dict[object, list[Cell]] = {}
    for cell in runs:
        groups.setdefault(cell.dataset if cell.image_layer == 0 else cell, []).append(cell)
    with terminal.bar(total=len(runs), unit="classifier") as bar:
        for cells in groups.values():
            opened = [open_selected(args, runs[cell], shifted) for cell in cells]
            classifiers = [classifier for run in opened for classifier in run.classifiers(ratios)]
            keys = [(ratio, cell) for cell in cells for ratio in ratios]
            for test in opened[0].data.tests(cells[0]):
                counted = accuracies(classifiers, test.batches(), list(test.subsets.values()))
                for (ratio, cell), of_subsets in zip(keys, counted, strict=True):
                    found[ratio][cell] |= zip(test.subsets, of_subsets, strict=True)
            bar.update(len(cells))
    return found


def require_saved(args: argparse.Namespace, runs: Mapping[Cell, Record], script: str = "train.py") -> None:
    """Raise UserError, with the commands that save them, if classifiers of runs are missing."""
    paths = {cell: saved_classifiers.classifier_path(cell, run.hyperparameters, args.result_dir)
             for cell, run in runs.items()}  # fmt: skip
    if missing := [cell for cell, path in paths.items() if not path.is_file()]:
        saving = argparse.Namespace(**vars(args) | {"save_heads": True})
        raise UserError(commands.missing_runs(saving, missing, f"a saved classifier under {args.result_dir}", script))


def open_selected(args: argparse.Namespace, run: Record, shifted: Sequence[str] = ()) -> StoredRun:
    """Return the saved classifier of a run on its stored features."""
    from engine.scores import open_run

    path = saved_classifiers.classifier_path(run.cell, run.hyperparameters, args.result_dir)
    opened = open_run(args, path, config.device(args), shifted)
    for test in opened.data.tests(run.cell):
        for name in test.subsets:
            if name != TEST and run.shifted.get(name) != test.digest:
                raise UserError(
                    f"{path}: its run was tested on another list of {name} than {args.feature_dir} has; run"
                    " domain_shift.py again"
                )
    return opened


def write_files(
    args: argparse.Namespace,
    runs: Mapping[Cell, Record],
    made: Mapping[float, pd.DataFrame],
    names: Mapping[float, str],
) -> list[Path]:
    """Write the files that eval.py is asked for besides its tables `made`, by ratio of WiSE-FT; return their paths.

    `names` are the names of the tables.
    """
    paths = []
    if args.plot:
        from engine.results.plots import accuracy_against_ratios  # imports matplotlib, which takes a second

        paths.append(Path(args.plot))
        accuracy_against_ratios(made, args.title, paths[0])
    return paths + (write_details(args, runs, names) if args.per_class or args.predictions else [])


def write_details(args: argparse.Namespace, runs: Mapping[Cell, Record], names: Mapping[float, str]) -> list[Path]:
    """Classify the test images of runs; write the files of `--per-class` and `--predictions`, and return their paths.

    `names` are the names of the tables by ratio of WiSE-FT. The features of each run are read once.
    """
    require_saved(args, runs)
    by_class: dict[float, list[ClassRow]] = {ratio: [] for ratio in names}
    paths = []

    def write_predictions(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            _classify(args, runs, by_class, file)

    if args.predictions:
        paths.append(Path(args.predictions))
        write_atomically(paths[0], write_predictions)
    else:
        _classify(args, runs, by_class)
    for ratio, name in names.items() if args.per_class else ():
        paths.append(Path(args.eval_dir) / f"per_class_{name.removeprefix('all_')}.csv")
        write_text(paths[-1], "".join(f"{csv_row(*row)}\n" for row in [COLUMNS, *by_class[ratio]]))
    return paths


def _classify(
    args: argparse.Namespace,
    runs: Mapping[Cell, Record],
    by_class: Mapping[float, list[ClassRow]],
    file: TextIO | None = None,
) -> None:
    """Append a row for each class of each run to `by_class`, by ratio; write a line for each test image to `file`."""
    output_format = args.predictions.rpartition(".")[2].lower() if file else ""
    top_k = args.top_k or 1
    if output_format == "csv":
        file.write(tested_header(KEYS, top_k) + "\n")
    with terminal.bar(total=len(runs), unit="classifier") as bar:
        for cell, run in runs.items():
            opened = open_selected(args, run)
            names, paths = opened.saved.classnames, iter(opened.images(TEST))
            counts: dict[float, Counter] = {ratio: Counter() for ratio in by_class}
            for labels, logits in opened.batches(TEST, opened.classifiers(list(by_class))):
                for count, of_one in zip(counts.values(), logits, strict=True):
                    count.update(zip(labels.tolist(), of_one.argmax(1).tolist(), strict=True))
                pairs = zip(by_class, logits, strict=True) if file else ()
                chances = ((of_one, (of_one / opened.saved.temperature(ratio)).softmax(1)) for ratio, of_one in pairs)
                best = [most_probable(*of_one, top_k, names) for of_one in chances]
                for label, *of_image in zip(labels.tolist(), *best, strict=True) if file else ():
                    image = next(paths)
                    for ratio, predictions in zip(by_class, of_image, strict=True):
                        about = dict(zip(KEYS, (cell.encoder, ratio, cell.dataset, cell.shots, cell.seed), strict=True))
                        file.write(format_tested(about, image, names[label], predictions, output_format) + "\n")
            for ratio, count in counts.items():
                by_class[ratio] += _class_rows(cell, names, count)
            bar.update()


def _class_rows(cell: Cell, classnames: Sequence[str], count: Counter[tuple[int, int]]) -> list[ClassRow]:
    """Return a row for each class of a run's test set; `count` has the images by label and predicted label."""
    images: Counter[int] = Counter()
    for (label, _), number in count.items():
        images[label] += number
    rows = []
    for label, name in enumerate(classnames):
        correct = count[label, label]
        accuracy = round(100 * correct / images[label], 4) if images[label] else ""
        rows.append((cell.dataset, cell.shots, cell.seed, guard(name), images[label], correct, accuracy))
    return rows
