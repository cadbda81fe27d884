"""Train the missing runs of a sweep, test the selected ones and write a record of each run."""

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
from engine.calibration import Calibration
from engine.datasets.checks import pluralize
from engine.errors import UserError
from engine.model import Embedding, LinearClassifier, LinearHead, wise_ft
from engine.model.zeroshot import ZeroShot
from engine.results import saved_classifiers
from engine.results.runs import NEW, TRAINED, VAL, WISEFT, ZEROSHOT, Record, Records, differences, same_run, select
from engine.sweep import saving
from engine.training.evaluate import accuracies, val_accuracy
from engine.training.grid import Hparams
from engine.training.task import Fitted, Run, Task, TestSet

MAX_RETRAININGS = 2
"""How often a sweep retrains a run that has a record: once to complete the record, and once more if validation then
selects another run."""
CHANGING = {"train", "val", "test", "split", "text"}
"""The inputs of a run that change with the images and class names of a custom dataset."""
MEMORY_SHARE = 0.8
"""The share of free memory for runs, unless the user sets a limit."""


@dataclass(frozen=True)
class Options:
    """How to run a sweep; no option changes a result.

    `test_all` tests every run, not only the selected one. `max_memory` is in bytes; None is most of the free memory.
    `save_heads` saves the classifier of the selected run.
    """

    result_dir: str | Path
    executor: str
    test_all: bool
    device: str
    max_memory: int | None = None
    save_heads: bool = False


class Tasks(Protocol):
    """The tasks of cells that share a bank of features.

    `unstackable` is the reason why their runs cannot train in stacks, or None.
    """

    is_custom: bool
    unstackable: str | None

    def sizes(self, cell: Any) -> list[int]:
        """Return the number of training samples of each modality of a cell's task."""

    def task(self, cell: Any) -> Task:
        """Return the task of a cell."""

    def tests(self, cell: Any) -> list[TestSet]:
        """Return the test sets of a cell's runs."""

    def inputs(self, cell: Any) -> dict[str, str]:
        """Return the digests of the inputs of a cell's runs."""

    def zeroshot_accuracies(self, cell: Any) -> dict[str, float]:
        """Return the zero-shot accuracies on the test sets by subset; only for tasks with texts."""


class Trained(NamedTuple):
    """A trained run that is not recorded yet: its classifiers and their validation accuracies, by name."""

    fitted: Fitted
    classifiers: dict[str, LinearClassifier]
    val: dict[str, float]

    def copy(self) -> Trained:
        """Return the run with copies of its tensors."""
        classifier = self.fitted.classifier.copied()
        copies = {name: classifier.with_weight(other.weight) for name, other in self.classifiers.items()}
        return Trained(replace(self.fitted, classifier=classifier), copies | {TRAINED: classifier}, self.val)


class CellSweep:
    """The sweep of one cell: its task, its valid grid and its complete runs."""

    def __init__(self, cell: Any, data: Tasks, records: Records, options: Options):
        """Read the records of a cell.

        Raises UserError if no batch size is valid or if records of the cell have other inputs, and, when classifiers
        are saved, MissingFeatures if the class names are unknown.
        """
        self.cell, self.data, self.store, self.options = cell, data, records, options
        sizes = data.sizes(cell)
        self.grid = [hparams for hparams in cell.grid if batch_size_fits(sizes, hparams)]
        if not self.grid:
            raise UserError(
                f"{cell}: {' and '.join(map(str, sizes))} training samples are too few for every batch size of grid"
                f" '{cell.hyperparams}'{_missing_prompts(cell, sizes)}"
            )
        self.inputs, self.tests = data.inputs(cell), data.tests(cell)
        self.classnames = data.classnames(cell.classes) if options.save_heads else []
        self.records = records.read(cell)
        self.waiting: dict[Hparams, Trained] = {}
        self.retrained: Counter[Hparams] = Counter()
        self.saved: set[Hparams] = set()
        self.calibrations: dict[str, Calibration] = {}
        self.outdated = self._drop_outdated() if data.is_custom else 0
        for record in self.records.values():
            if record.inputs != self.inputs or record.grid != self.grid:
                raise UserError(
                    f"{records.location(cell)} has runs on other features, another split or another grid"
                    f" ({differences(record.inputs, self.inputs)}); remove it or choose another {records.option}"
                )

    def _drop_outdated(self) -> int:
        """Remove records of runs whose images, split or class names changed in a custom dataset; return their number.

        If only the test set changed, the run is kept without its test accuracies.
        """
        dropped = 0
        for hparams, record in list(self.records.items()):
            changed = {name for name, _ in record.inputs.items() ^ self.inputs.items()}
            if not changed <= CHANGING or (not changed and record.grid == self.grid):
                continue  # other weights or settings are not changes of the dataset
            dropped += 1
            if changed == {"test"} and record.grid == self.grid:
                self.records[hparams] = replace(record.untested(), inputs=self.inputs)
                self.store.write(self.records[hparams])
            else:
                self.store.remove(self.cell, hparams)
                saved = saved_classifiers.classifier_path(self.cell, hparams, self.options.result_dir)
                saved.unlink(missing_ok=True)
                del self.records[hparams]
        return dropped

    @cached_property
    def task(self) -> Task:
        """The task of the runs. Access reads features, so complete cells do not access it."""
        return self.data.task(self.cell)

    @cached_property
    def new_task(self) -> Task | None:
        """The task of the new classes, or None if runs are not tested on them."""
        is_tested = any(test.new_classes for test in self.tests)
        return self.data.task(replace(self.cell, classes=NEW)) if is_tested else None

    @cached_property
    def refusal(self) -> str | None:
        """The reason why the method cannot be fitted to the task, with instructions, or None."""
        if self.cell.method.check is None:
            return None
        try:
            for task in filter(None, (self.task, self.new_task)):
                self.cell.method.check(task)
        except UserError as error:
            return f"{self.cell}: {self.cell.method.title} {error}"
        return None

    @property
    def steps(self) -> int:
        """The number of progress steps of the missing runs."""
        fit, max_iter = self.cell.method.fit, self.cell.max_iter
        return sum(fit.steps(self.task, hparams, max_iter) for hparams in self.to_train())

    def to_train(self) -> list[Hparams]:
        """Return runs without a record; once all have one, runs without a requested test or saved classifier.

        The selected run lacks its test if the sweep was killed before the selection, and lacks shifted tests or the
        classifier if these were not requested. Retraining reproduces the run. If it does not, as for records of another
        machine, the new record replaces the old one and validation selects again. Raises UserError after
        `MAX_RETRAININGS` of the same run.
        """
        absent = [hparams for hparams in self.grid if hparams not in self.records]
        if absent:
            return [] if self.refusal else absent
        wanted = self.grid if self.options.test_all else [self._selected()]
        incomplete = [hparams for hparams in wanted if not self._is_complete(self.records[hparams])]
        for hparams in incomplete:
            if self.retrained[hparams] >= MAX_RETRAININGS:
                raise UserError(
                    f"{self.store.path(self.cell, hparams)} or its classifier changes after it is written: the run was"
                    f" retrained {MAX_RETRAININGS} times and is still incomplete. Check whether another process or"
                    f" machine writes there; run one at a time or choose another {self.store.option}"
                )
        return incomplete

    def _is_complete(self, record: Record) -> bool:
        """Return whether a run is tested on all present test sets and, if requested, saved."""
        tested = record.tested and self.shifted_digests.items() <= record.shifted.items()
        return tested and (not self._saves(record.hyperparameters) or self._is_saved(record))

    @property
    def shifted_digests(self) -> dict[str, str]:
        """Digests of all test sets but the dataset's own, by the names of their subsets."""
        return {name: test.digest for test in self.tests if test.digest for name in test.subsets}

    def _is_saved(self, record: Record) -> bool:
        """Return whether the classifier of a run is saved; the file is read until it is found once."""
        if record.hyperparameters not in self.saved and saved_classifiers.is_saved(record, self.options.result_dir):
            self.saved.add(record.hyperparameters)
        return record.hyperparameters in self.saved

    def _saves(self, hparams: Hparams) -> bool:
        """Return whether to save the classifier of a run, as far as the selection is known."""
        return self.options.save_heads and hparams == self._selected()

    def add(self, fitted: dict[Hparams, Fitted]) -> dict[Hparams, Trained]:
        """Add newly trained runs; return the runs to test now, for `finish`.

        Runs that validation can no longer select are recorded at once. The best run so far waits with a copy of its
        weights, so that the weights of its stack can be freed.
        """
        self.waiting |= {hparams: self._with_wise_ft(one) for hparams, one in fitted.items()}
        if self.options.test_all:
            return dict(self.waiting)
        best = self._selected()
        # Always test a retrained run, even if it scores differently on this machine: otherwise it would be requested
        # again on every start.
        retrained = self.waiting.keys() & self.records.keys()
        self.retrained.update(retrained & fitted.keys())
        for hparams in self.waiting.keys() - {best} - retrained:
            self._record(hparams, self.waiting.pop(hparams), {})
        if self._val_accuracies().keys() >= set(self.grid):
            return dict(self.waiting)
        if best in fitted:
            self.waiting[best] = self.waiting[best].copy()
        return {}

    def _with_wise_ft(self, fitted: Fitted) -> Trained:
        """Return a trained run with its WiSE-FT, if the method's weights can be averaged with the zero-shot weights."""
        classifiers, val = self._classifiers(self.task, fitted.classifier), {TRAINED: fitted.val_accuracy}
        if WISEFT in classifiers:
            val[WISEFT] = val_accuracy(self.task, classifiers[WISEFT])
        return Trained(fitted, classifiers, val)

    def _classifiers(self, task: Task, trained: LinearClassifier) -> dict[str, LinearClassifier]:
        """Return a trained classifier of a task's classes and its WiSE-FT, by name."""
        if not self.cell.method.wise_ft or task.zeroshot is None:
            return {TRAINED: trained}
        return {TRAINED: trained, WISEFT: trained.with_weight(wise_ft(trained.weight, task.zeroshot))}

    def classifiers(self, trained: Trained, test: TestSet) -> dict[str, LinearClassifier]:
        """Return the classifiers of a trained run for the classes of a test set, by name."""
        if not test.new_classes:
            return trained.classifiers
        return self._classifiers(self.new_task, self.cell.method.new_classes(self.new_task, trained.fitted.classifier))

    @property
    def zeroshot(self) -> ZeroShot:
        """The result of the zero-shot classifier on the validation images."""
        images = len(self.task.val)
        return ZeroShot(round(self._zeroshot_val * images), images, len(self.task.initial))

    def finish(self, hparams: Hparams, tests: dict[str, dict[str, float]]) -> None:
        """Record a tested run; `tests` are accuracies by classifier and set."""
        self._record(hparams, self.waiting[hparams], tests)  # before removal: the selection includes waiting runs
        del self.waiting[hparams]

    def summary(self) -> str:
        """Return the selected run of a complete cell and its accuracies as text.

        Further lines are the accuracies on shifted sets, the calibration and the path of the saved classifier.
        """
        best = self.records[self._selected()]
        diverged = sum(record.diverged for record in self.records.values())
        found = {**best.hyperparameters, **best.tuned, "step": best.step}
        lines = [
            f"{self.cell}: val {best.val:6.1%}  {best.describe()}   ({Hparams(found)})"
            + (f"; {diverged} of {len(self.grid)} runs diverged" if diverged else "")
        ]
        width = max(map(len, self.shifted_digests), default=0)
        lines += [f"  {name:{width}}  {best.describe(name)}" for name in self.shifted_digests]
        if self.options.save_heads:
            lines += [f"  {saving.describe_calibration(self.calibrations)}"] if self.calibrations else []
            lines.append(
                f"  {saved_classifiers.classifier_path(self.cell, best.hyperparameters, self.options.result_dir)}"
            )
        return "\n".join(lines)

    def _record(self, hparams: Hparams, trained: Trained, tests: dict[str, dict[str, float]]) -> None:
        """Write the record of a run, unless another process already wrote a record with all requested tests.

        A retrained run replaces its record. On the same machine it is bit-identical and keeps its other test
        accuracies; on another machine it may differ, and the new record describes the run that was tested.
        """
        fitted = trained.fitted
        accuracies = {name: {VAL: val} | tests.get(name, {}) for name, val in trained.val.items()}
        if self.task.zeroshot is not None:
            tested = self.data.zeroshot_accuracies(self.cell) if tests else {}
            accuracies[ZEROSHOT] = {VAL: self._zeroshot_val} | tested
        record = Record(
            cell=self.cell,
            hyperparameters=hparams,
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
        present = self.store.find(self.cell, hparams)
        if present is None or hparams in self.records or (tests and not self._is_complete(present)):
            self.saved.discard(hparams)
            if present is not None and same_run(present, record):
                record = present.with_tests_of(record)
            if tests and self._saves(hparams):
                made_of = record, self.data.extraction, self.classnames
                saved = saving.to_save(self.task, trained.classifiers, *made_of)
                saved_classifiers.save(saved, self.options.result_dir)
                self.calibrations = saved.calibrations
            self.store.write(record)
            present = record
        self.records[hparams] = present

    @cached_property
    def _zeroshot_val(self) -> float:
        classifier = LinearClassifier(
            Embedding(self.task.trainable_layers[:1]).eval(), LinearHead(self.task.zeroshot, 1.0)
        )
        return val_accuracy(self.task, classifier)

    def _val_accuracies(self) -> dict[Hparams, float]:
        """Return the validation accuracies of all trained runs."""
        recorded = {hparams: record.val for hparams, record in self.records.items()}
        return recorded | {hparams: trained.fitted.val_accuracy for hparams, trained in self.waiting.items()}

    def _selected(self) -> Hparams:
        """Return the hyper-parameters that validation selects among the trained runs."""
        accuracies = self._val_accuracies()
        return select([hparams for hparams in self.grid if hparams in accuracies], accuracies)


def batch_size_fits(sizes: list[int], hparams: Hparams) -> bool:
    """Return whether every modality has more samples than its share of a batch (section 5)."""
    share = int(hparams.get("batch_size", len(sizes))) // len(sizes)
    return all(0 < share < size for size in sizes) or "batch_size" not in hparams


def outstanding(sweeps: list[CellSweep], options: Options) -> str:
    """Return text about the missing runs of one dataset."""
    cell, shifted = sweeps[0].cell, sweeps[0].shifted_digests
    runs, missing = sum(len(one.grid) for one in sweeps), sum(len(one.to_train()) for one in sweeps)
    size = f"{pluralize(len(sweeps), 'cell')}, {pluralize(runs, 'run')}"
    title = f"{cell.encoder} {cell.dataset}: {size}, {missing:,} to train on {options.device}"
    if shifted:
        title += f"; further test sets: {', '.join(shifted)}"
    if outdated := sum(cell_sweep.outdated for cell_sweep in sweeps):
        title += f"\nnote: {pluralize(outdated, 'run')} used images, splits or class names that have changed"
    return title


def chance_warning(sweeps: list[CellSweep]) -> str | None:
    """Return a warning if runs to train use text whose zero-shot accuracy may be chance, else None.

    Uses the zero-shot classifier of the cell with most validation images. Uni-modal runs with random initialisation do
    not use text.
    """
    using_text = [one for one in sweeps if one.cell.init == "zeroshot" or one.cell.modality == "cross_modal"]
    pending = [cell_sweep for cell_sweep in using_text if cell_sweep.to_train()]
    if not pending:
        return None
    most = max(pending, key=lambda cell_sweep: len(cell_sweep.task.val))
    return most.zeroshot.warning(f"{most.cell.encoder} {most.cell.dataset} {most.cell.text_augmentation}")


def run(sweeps: list[CellSweep], options: Options, progress: Callable[[int], object]) -> Iterator[CellSweep]:
    """Train the missing runs, which share a method and number of steps; yield each cell when it is complete.

    `progress` is called with the number of completed run-steps. Tasks that are not stackable train sequentially.
    """
    pending = [cell_sweep for cell_sweep in sweeps if cell_sweep.to_train()]
    while pending:
        runs = {Run(one.task, hparams): (one, hparams) for one in pending for hparams in one.to_train()}
        cell = pending[0].cell
        how = {
            "executor": "sequential" if pending[0].data.unstackable else options.executor,
            "budget": options.max_memory or int(MEMORY_SHARE * memory.free(options.device)),
            "max_iter": cell.max_iter,
        }
        # close at once after an error here or in the caller: otherwise the threads of the fit continue
        with closing(cell.method.fit(list(runs), progress=progress, **how)) as results:
            for fitted in results:
                yield from _add(fitted, runs)
                fitted.clear()  # free these weights before the next ones are created
        pending = [cell_sweep for cell_sweep in pending if cell_sweep.to_train()]


def _add(fitted: dict[Run, Fitted], runs: dict[Run, tuple[CellSweep, Hparams]]) -> list[CellSweep]:
    """Add newly trained runs to their cells and test runs that are ready; return the complete cells."""
    by_cell: dict[CellSweep, dict[Hparams, Fitted]] = {}
    for run, result in fitted.items():
        cell_sweep, hparams = runs[run]
        by_cell.setdefault(cell_sweep, {})[hparams] = result
    _test({cell_sweep: cell_sweep.add(of_cell) for cell_sweep, of_cell in by_cell.items()})
    for store in {cell_sweep.store: None for cell_sweep in by_cell}:
        store.flush()
    return [cell_sweep for cell_sweep in by_cell if not cell_sweep.to_train()]


def _test(ready: dict[CellSweep, dict[Hparams, Trained]]) -> None:
    """Test runs in one pass over each test set, then record them."""
    runs = [(one, hparams, trained) for one, of_cell in ready.items() for hparams, trained in of_cell.items()]
    results: list[dict[str, dict[str, float]]] = [{name: {} for name in trained.classifiers} for *_, trained in runs]
    by_test: dict[TestSet, list[int]] = {}
    for number, (cell_sweep, *_) in enumerate(runs):
        for test in cell_sweep.tests:
            by_test.setdefault(test, []).append(number)
    for test, numbers in by_test.items():
        found = {number: runs[number][0].classifiers(runs[number][2], test) for number in numbers}
        named = [(number, name) for number in numbers for name in found[number]]
        classifiers = [found[number][name] for number, name in named]
        measured = accuracies(classifiers, test.batches(), list(test.subsets.values()))
        for (number, name), of_subsets in zip(named, measured, strict=True):
            results[number][name].update(zip(test.subsets, of_subsets, strict=True))
    for (cell_sweep, hparams, _), tests in zip(runs, results, strict=True):
        cell_sweep.finish(hparams, tests)


def _missing_prompts(cell: Any, sizes: list[int]) -> str:
    """Return how many prompts a cross-modal cell needs for the smallest batch, or '' if it has enough."""
    least = int(min(cell.grid.axes["batch_size"])) // 2 + 1
    if len(sizes) < 2 or sizes[1] >= least:
        return ""
    return (
        f": {least} prompts or more are needed. Use more templates in features.py and train.py, with"
        " --templates FILE or, for all classes, --text-augmentation template_mining"
    )
