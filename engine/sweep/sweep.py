"""Train what is missing of a sweep, test what validation selects, leave a record of each run."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from engine import memory
from engine.datasets.checks import pluralize
from engine.errors import UserError
from engine.model import Embedding, LinearClassifier, LinearHead, wise_ft
from engine.model.zeroshot import ZeroShot
from engine.results import saved_classifiers
from engine.results.runs import TRAINED, VAL, WISEFT, ZEROSHOT, Record, Records, describe_input, same_run, select
from engine.training.evaluate import accuracies, val_accuracy
from engine.training.grid import Hparams
from engine.training.task import Fitted, Run, Task, TestSet

AGAIN = 2
"""How often a sweep trains a run again that has a record: once for what the record lacks, and once more where it has
become the selected one since."""
CHANGING = {"train", "val", "test", "split", "text"}
"""The inputs of a run that change with the images and class names of a custom dataset."""
MEMORY_SHARE = 0.8
"""The part of free memory that runs may take where the user does not say."""


@dataclass(frozen=True)
class Options:
    """How to run a sweep. Nothing here changes a result; `test_all` tests every run, not only the selected one.

    `max_memory` is in bytes; None is most of what is free. `save_heads` keeps the selected run's classifier.
    """

    result_dir: str | Path
    executor: str
    test_all: bool
    device: str
    max_memory: int | None = None
    save_heads: bool = False


class Tasks(Protocol):
    """The tasks of cells on one bank of features: a dataset's, or those of ImageNet-ESC."""

    is_custom: bool
    unstackable: str | None

    def sizes(self, cell: Any) -> list[int]:
        """Return how many training samples of each modality a cell's task has."""
        ...

    def task(self, cell: Any) -> Task:
        """Return the task of a cell."""
        ...

    def tests(self, cell: Any) -> list[TestSet]:
        """Return the test sets of a cell's runs."""
        ...

    def inputs(self, cell: Any) -> dict[str, str]:
        """Return the digests of all that a cell's runs are trained on."""
        ...

    def zeroshot_accuracies(self, cell: Any) -> dict[str, float]:
        """Return the zero-shot classifier's accuracies on the test sets; only for tasks with texts."""
        ...


class Trained(NamedTuple):
    """A run that is trained and waits for its test: its classifiers and their validation accuracies, by name."""

    fitted: Fitted
    classifiers: dict[str, LinearClassifier]
    val: dict[str, float]

    def copied(self) -> Trained:
        """Return the run with copies of its tensors."""
        classifier = self.fitted.classifier.copied()
        others = {name: classifier.with_weight(own.weight) for name, own in self.classifiers.items()}
        return self._replace(
            fitted=replace(self.fitted, classifier=classifier), classifiers=others | {TRAINED: classifier}
        )


class CellSweep:
    """A cell with its task, its valid hyper-parameters, and those runs of it that are complete."""

    def __init__(self, cell: Any, data: Tasks, records: Records, options: Options):
        """Raises UserError when no batch size is valid, and for records of the same cell on other inputs.

        So it does where a classifier is to be kept and prompts do not tell what its classes are called.
        """
        self.cell, self.data, self.store, self.options = cell, data, records, options
        sizes = data.sizes(cell)
        self.grid = [point for point in cell.grid if batch_size_fits(sizes, point)]
        if not self.grid:
            held = " and ".join(map(str, sizes))
            raise UserError(
                f"{cell}: {held} training samples are too few for any batch size of grid '{cell.hyperparams}'"
                + _more_prompts(cell, sizes)
            )
        self.inputs, self.tests = data.inputs(cell), data.tests(cell)
        self.classnames = data.classnames if options.save_heads else []
        self.records = records.read(cell)
        self.waiting: dict[Hparams, Trained] = {}
        self.again: Counter[Hparams] = Counter()
        self.kept: set[Hparams] = set()
        self.outdated = self._drop_outdated() if data.is_custom else 0
        for record in self.records.values():
            if record.inputs != self.inputs or record.grid != self.grid:
                raise UserError(
                    f"{records.place(cell)} holds runs on other features, another split or another grid"
                    f" ({_differences(record.inputs, self.inputs)}); remove it, or give another {records.option}"
                )

    def _drop_outdated(self) -> int:
        """Remove records of runs whose images, split or class names changed in a custom dataset; return how many.

        Where the test set alone changed, a run stays and loses its test.
        """
        dropped = 0
        for point, record in list(self.records.items()):
            changed = {name for name, _ in record.inputs.items() ^ self.inputs.items()}
            if not changed <= CHANGING or (not changed and record.grid == self.grid):
                continue  # other weights or settings are no change of the dataset
            dropped += 1
            if changed == {"test"} and record.grid == self.grid:
                self.records[point] = replace(record.untested(), inputs=self.inputs)
                self.store.write(self.records[point])
            else:
                self.store.remove(self.cell, point)
                saved_classifiers.classifier_path(self.cell, point, self.options.result_dir).unlink(missing_ok=True)
                del self.records[point]
        return dropped

    @cached_property
    def task(self) -> Task:
        """What the runs solve; features are read for it, which a complete cell can do without."""
        return self.data.task(self.cell)

    @cached_property
    def refusal(self) -> str | None:
        """Why the method cannot be fitted to the task, with the remedy; None if it can."""
        if self.cell.method.check is None:
            return None
        try:
            self.cell.method.check(self.task)
        except UserError as error:
            return f"{self.cell}: {self.cell.method.title} {error}"
        return None

    @property
    def steps(self) -> int:
        """How many steps of progress its missing runs are."""
        fit, max_iter = self.cell.method.fit, self.cell.max_iter
        return sum(fit.steps(self.task, point, max_iter) for point in self.to_train())

    def to_train(self) -> list[Hparams]:
        """Return runs without a record; once all have one, those that lack a test or a classifier that is wanted.

        A selected run is without a test when a sweep was killed before it knew which run that would be, and without
        that of a shifted set, or its classifier, when nobody asked for it. It is trained again, which gives the same
        run. Where it does not, as for a record of another machine, its record is replaced, and validation selects
        anew: each run is trained again `AGAIN` times at most. Raises UserError where that is not enough.
        """
        absent = [point for point in self.grid if point not in self.records]
        if absent:
            return [] if self.refusal else absent
        wanted = self.grid if self.options.test_all else [self._selected()]
        lacking = [point for point in wanted if not self._is_complete(self.records[point])]
        for point in lacking:
            if self.again[point] >= AGAIN:
                raise UserError(
                    f"{self.store.path(self.cell, point)} and its classifier do not stay as they were written: the run"
                    f" was trained again {AGAIN} times, and they still lack something. Does another process or machine"
                    f" write there? Let one do it at a time, or give another {self.store.option}"
                )
        return lacking

    def _is_complete(self, record: Record) -> bool:
        """Whether a run that is to be tested is, on all test sets as they are now, and kept if it is to be."""
        tested = record.tested and self.shifted_digests.items() <= record.shifted.items()
        return tested and (not self._keeps(record.hyperparameters) or self._is_kept(record))

    @property
    def shifted_digests(self) -> dict[str, str]:
        """Digests of the further test sets, by the names of their subsets."""
        return {name: test.digest for test in self.tests if test.digest for name in test.subsets}

    def _is_kept(self, record: Record) -> bool:
        """Whether the classifier of a run is there; it is read until it is found once."""
        if record.hyperparameters not in self.kept and saved_classifiers.is_saved(record, self.options.result_dir):
            self.kept.add(record.hyperparameters)
        return record.hyperparameters in self.kept

    def _keeps(self, point: Hparams) -> bool:
        """Whether the classifier of a run is to be kept, as far as is known yet."""
        return self.options.save_heads and point == self._selected()

    def add(self, fitted: dict[Hparams, Fitted]) -> dict[Hparams, Trained]:
        """Take newly trained runs; return those that are to be tested now, which `finish` then takes.

        Runs that validation cannot select any more are recorded at once. The best so far waits for the others, with a
        copy of its weights: those of the rest of its stack can go.
        """
        self.waiting |= {point: self._with_wise_ft(one) for point, one in fitted.items()}
        if self.options.test_all:
            return dict(self.waiting)
        best = self._selected()
        # whatever a run that is trained again comes to on this machine: without a test it would be asked for for ever
        again = self.waiting.keys() & self.records.keys()
        self.again.update(again & fitted.keys())
        for point in self.waiting.keys() - {best} - again:
            self._record(point, self.waiting.pop(point), {})
        if self._known().keys() >= set(self.grid):
            return dict(self.waiting)
        if best in fitted:
            self.waiting[best] = self.waiting[best].copied()
        return {}

    def _with_wise_ft(self, fitted: Fitted) -> Trained:
        """Return a run with its WiSE-FT, where its weights are comparable with zero-shot ones."""
        classifiers, val = {TRAINED: fitted.classifier}, {TRAINED: fitted.val_accuracy}
        if self.cell.method.wise_ft and self.task.zeroshot is not None:
            classifiers[WISEFT] = fitted.classifier.with_weight(wise_ft(fitted.classifier.weight, self.task.zeroshot))
            val[WISEFT] = val_accuracy(self.task, classifiers[WISEFT])
        return Trained(fitted, classifiers, val)

    @property
    def zeroshot(self) -> ZeroShot:
        """How the zero-shot classifier does on the validation images."""
        images = len(self.task.val)
        return ZeroShot(round(self._zeroshot_val * images), images, len(self.task.initial))

    def finish(self, point: Hparams, tests: dict[str, dict[str, float]]) -> None:
        """Record a run that was tested: `tests` are accuracies by classifier and set."""
        self._record(point, self.waiting[point], tests)  # while it is known, to tell whether it is the selected one
        del self.waiting[point]

    def summary(self) -> str:
        """Return a line about a complete cell: the selected run and its accuracies; one more for each shifted set.

        The last line is where its classifier lies, if that is kept.
        """
        best = self.records[self._selected()]
        diverged = sum(record.diverged for record in self.records.values())
        found = {**best.hyperparameters, **best.tuned, "step": best.step}
        lines = [
            f"{self.cell}: val {best.val:6.1%}  {_accuracies(best)}   ({Hparams(found)})"
            + (f"; {diverged} of {len(self.grid)} runs diverged" if diverged else "")
        ]
        width = max(map(len, self.shifted_digests), default=0)
        lines += [f"  {name:{width}}  {_accuracies(best, name)}" for name in self.shifted_digests]
        if self.options.save_heads:
            lines.append(
                f"  {saved_classifiers.classifier_path(self.cell, best.hyperparameters, self.options.result_dir)}"
            )
        return "\n".join(lines)

    def _record(self, point: Hparams, trained: Trained, tests: dict[str, dict[str, float]]) -> None:
        """Write the record of a run, unless another process has: that one stays and counts, but for missing tests.

        A run that is trained again replaces its record, whatever that says. It is the same run, bit for bit on one
        machine, and keeps what it was tested on before; on another it may differ, and the record then says what was
        tested.
        """
        fitted = trained.fitted
        accuracies = {name: {VAL: val} | tests.get(name, {}) for name, val in trained.val.items()}
        if self.task.zeroshot is not None:
            tested = self.data.zeroshot_accuracies(self.cell) if tests else {}
            accuracies[ZEROSHOT] = {VAL: self._zeroshot_val} | tested
        record = Record(
            cell=self.cell,
            hyperparameters=point,
            inputs=self.inputs,
            grid=self.grid,
            step=fitted.step,
            accuracies=accuracies,
            seconds=fitted.seconds,
            versions={"python": platform.python_version(), "torch": torch.__version__},
            diverged=fitted.diverged,
            shifted=self.shifted_digests if tests else {},
            tuned=dict(fitted.tuned),
        )
        there = self.store.find(self.cell, point)
        if there is None or point in self.records or (tests and not self._is_complete(there)):
            self.kept.discard(point)
            if there is not None and same_run(there, record):
                record = there.with_tests_of(record)
            if tests and self._keeps(point):
                tensors = saved_classifiers.tensors_to_save(fitted.classifier.state_dict(), self.task.zeroshot)
                saved_classifiers.save(
                    saved_classifiers.SavedClassifier(self.data.extraction, self.classnames, record, tensors),
                    self.options.result_dir,
                )
            self.store.write(record)
            there = record
        self.records[point] = there

    @cached_property
    def _zeroshot_val(self) -> float:
        classifier = LinearClassifier(
            Embedding(self.task.trainable_layers[:1]).eval(), LinearHead(self.task.zeroshot, 1.0)
        )
        return val_accuracy(self.task, classifier)

    def _known(self) -> dict[Hparams, float]:
        """Validation accuracies of all runs that are trained."""
        recorded = {point: record.val for point, record in self.records.items()}
        return recorded | {point: trained.fitted.val_accuracy for point, trained in self.waiting.items()}

    def _selected(self) -> Hparams:
        """What validation selects among the runs that are trained."""
        known = self._known()
        return select([point for point in self.grid if point in known], known)


def batch_size_fits(sizes: list[int], hparams: Hparams) -> bool:
    """Return whether modalities of these `sizes` all hold more samples than their share of a batch (section 5)."""
    share = int(hparams.get("batch_size", len(sizes))) // len(sizes)
    return all(0 < share < size for size in sizes) or "batch_size" not in hparams


def reasons_not_to_stack(loaded: list[Tasks], options: Options) -> list[str]:
    """Return why runs on some of `loaded` train one after another although they were to train at once."""
    return list({data.unstackable: None for data in loaded if data.unstackable and options.executor == "stacked"})


def outstanding(grids: list[CellSweep], options: Options) -> str:
    """Return a line about what `grids` of one dataset still lack."""
    cell, shifted = grids[0].cell, grids[0].shifted_digests
    runs, missing = sum(len(grid.grid) for grid in grids), sum(len(grid.to_train()) for grid in grids)
    size = f"{pluralize(len(grids), 'cell')}, {pluralize(runs, 'run')}"
    title = f"{cell.encoder} {cell.dataset}: {size}, {missing:,} to train on {options.device}"
    if shifted:
        title += f"; shifted test sets: {', '.join(shifted)}"
    if outdated := sum(grid.outdated for grid in grids):
        title += f"\nnote: {pluralize(outdated, 'run')} used images, splits or class names that have changed"
    return title


def chance_warning(grids: list[CellSweep]) -> str | None:
    """Return a warning where runs that are yet to be trained use text that knows nothing of the images, else None.

    It is about the zero-shot classifier of the cell with most validation images. Uni-modal runs that start at random
    use no text.
    """
    using_text = [grid for grid in grids if grid.cell.init == "zeroshot" or grid.cell.modality == "cross_modal"]
    pending = [grid for grid in using_text if grid.to_train()]
    if not pending:
        return None
    most = max(pending, key=lambda grid: len(grid.task.val))
    return most.zeroshot.warning(f"{most.cell.encoder} {most.cell.dataset} {most.cell.text_augmentation}")


def run(grids: list[CellSweep], options: Options, progress: Callable[[int], object]) -> Iterator[CellSweep]:
    """Train what `grids` lack, which are of one method and number of steps, and yield each as it becomes complete.

    `progress` is called with run-steps done. What the stacked executor cannot train the sequential one does.
    """
    pending = [grid for grid in grids if grid.to_train()]
    while pending:
        runs = {Run(grid.task, point): (grid, point) for grid in pending for point in grid.to_train()}
        cell = pending[0].cell
        how = {
            "executor": "sequential" if pending[0].data.unstackable else options.executor,
            "budget": options.max_memory or int(MEMORY_SHARE * memory.free(options.device)),
            "max_iter": cell.max_iter,
        }
        # closed at once when something goes wrong here or in the caller, else its threads would train on
        with closing(cell.method.fit(list(runs), progress=progress, **how)) as results:
            for fitted in results:
                yield from _take(fitted, runs)
                fitted.clear()  # their weights, before the next ones are made
        pending = [grid for grid in pending if grid.to_train()]


def _take(fitted: dict[Run, Fitted], runs: dict[Run, tuple[CellSweep, Hparams]]) -> list[CellSweep]:
    """Hand newly trained runs to their grids, test those that are ready for it; return the grids that are complete."""
    own: dict[CellSweep, dict[Hparams, Fitted]] = {}
    for run, result in fitted.items():
        grid, point = runs[run]
        own.setdefault(grid, {})[point] = result
    _test({grid: grid.add(of_grid) for grid, of_grid in own.items()})
    for store in {grid.store: None for grid in own}:
        store.flush()
    return [grid for grid in own if not grid.to_train()]


def _test(ready: dict[CellSweep, dict[Hparams, Trained]]) -> None:
    """Test the runs that are ready for it, in one pass over each test set, and record them."""
    runs = [(grid, point, trained) for grid, of_grid in ready.items() for point, trained in of_grid.items()]
    found: list[dict[str, dict[str, float]]] = [{name: {} for name in trained.classifiers} for _, _, trained in runs]
    of_tests: dict[TestSet, list[int]] = {}
    for number, (grid, _, _) in enumerate(runs):
        for test in grid.tests:
            of_tests.setdefault(test, []).append(number)
    for test, numbers in of_tests.items():
        named = [(number, name) for number in numbers for name in runs[number][2].classifiers]
        classifiers = [runs[number][2].classifiers[name] for number, name in named]
        counted = accuracies(classifiers, test.batches(), list(test.subsets.values()))
        for (number, name), of_subsets in zip(named, counted, strict=True):
            found[number][name].update(zip(test.subsets, of_subsets, strict=True))
    for (grid, point, _), tests in zip(runs, found, strict=True):
        grid.finish(point, tests)


def _accuracies(record: Record, of_set: str = "test") -> str:
    """Return the test accuracies of a run's classifiers as text."""
    titles = {TRAINED: "test", WISEFT: "WiSE-FT", ZEROSHOT: "zero-shot"}
    found = {title: record.accuracy(name, of_set) for name, title in titles.items()}
    return "  ".join(f"{title} {accuracy:6.1%}" for title, accuracy in found.items() if accuracy is not None)


def _more_prompts(cell: Any, sizes: list[int]) -> str:
    """Return how many prompts a cross-modal cell needs for the smallest batch; nothing if it has them."""
    least = int(min(cell.grid.axes["batch_size"])) // 2 + 1
    if len(sizes) < 2 or sizes[1] >= least:
        return ""
    return (
        f": {least} prompts or more are needed. Give features.py and train.py a file of more templates,"
        " --templates FILE, or --text-augmentation template_mining"
    )


def _differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    names = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    pairs = [f"{name}: {describe_input(found, name)} there, {describe_input(wanted, name)} here" for name in names]
    return ", ".join(pairs) or "the grid"
