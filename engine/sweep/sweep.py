"""Train what is missing of a sweep, test what validation selects, leave a record of each run."""

from __future__ import annotations

import itertools
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from engine import memory
from engine.datasets.checks import pluralize
from engine.errors import UserError
from engine.methods import GRIDS
from engine.model import wise_ft
from engine.model.zeroshot import ZeroShot
from engine.results import heads
from engine.results.runs import (
    CLASSIFIERS,
    Accuracy,
    Cell,
    Record,
    Shifted,
    input_of,
    read_cell,
    read_record,
    record_path,
    select,
    write_record,
)
from engine.sweep.data import DatasetFeatures
from engine.training.evaluate import Heads, accuracies, accuracies_among, embedder
from engine.training.executors import EXECUTORS
from engine.training.grid import Hyperparameters
from engine.training.problem import Inputs, Job, Outcome, Problem, admits

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


class Trained(NamedTuple):
    """A run that is trained and waits for its test."""

    outcome: Outcome
    wiseft: torch.Tensor
    wiseft_val: float


class Pair(NamedTuple):
    """Accuracies of the trained classifier of a run and of WiSE-FT."""

    trained: float
    wiseft: float


class Tested(NamedTuple):
    """What a run gave on the test set, and on the shifted ones by the names of their choices."""

    own: Pair
    shifted: dict[str, Pair]


class CellSweep:
    """A cell with its problem, its valid hyper-parameters, and those runs of it that are complete."""

    def __init__(self, cell: Cell, data: DatasetFeatures, options: Options):
        """Raises UserError when no batch size is valid, and for records of the same cell on other inputs.

        So it does where a classifier is to be kept and prompts do not tell what its classes are called.
        """
        self.cell, self.data, self.options = cell, data, options
        sizes = data.sizes(cell)
        self.points = [point for point in GRIDS[cell.hyperparams] if admits(sizes, point.batch_size)]
        if not self.points:
            held = " and ".join(map(str, sizes))
            raise UserError(
                f"{cell}: {held} training samples are too few for any batch size of grid '{cell.hyperparams}'"
                + _more_prompts(cell, sizes, data.classes)
            )
        self.inputs = data.inputs(cell)
        self.classnames = data.classnames if options.save_heads else []
        self.records = read_cell(cell, options.result_dir)
        self.waiting: dict[Hyperparameters, Trained] = {}
        self.again: Counter[Hyperparameters] = Counter()
        self.kept: set[Hyperparameters] = set()
        self.outdated = self._drop_outdated() if data.is_custom else 0
        for record in self.records.values():
            if record.inputs != self.inputs or record.grid != self.points:
                raise UserError(
                    f"{cell.folder(options.result_dir)} holds runs on other features, another split or another grid"
                    f" ({_differences(record.inputs, self.inputs)}); remove it, or give another --result_dir"
                )

    def _drop_outdated(self) -> int:
        """Remove records of runs whose images, split or class names changed in a custom dataset; return how many.

        Where the test set alone changed, a run stays and loses its test.
        """
        dropped = 0
        for point, record in list(self.records.items()):
            changed = {name for name, _ in record.inputs.items() ^ self.inputs.items()}
            if not changed <= CHANGING or (not changed and record.grid == self.points):
                continue  # other weights or settings are no change of the dataset
            dropped += 1
            if changed == {"test"} and record.grid == self.points:
                untested = {name: replace(getattr(record, name), test=None) for name in CLASSIFIERS}
                self.records[point] = replace(record, inputs=self.inputs, shifted={}, **untested)
                write_record(self.records[point], self.options.result_dir)
            else:
                record_path(self.cell, point, self.options.result_dir).unlink(missing_ok=True)
                heads.head_path(self.cell, point, self.options.result_dir).unlink(missing_ok=True)
                del self.records[point]
        return dropped

    @cached_property
    def problem(self) -> Problem:
        """What the runs solve; features are read for it, which a complete cell can do without."""
        return self.data.problem(self.cell)

    def to_train(self) -> list[Hyperparameters]:
        """Runs that have no record; once all have one, those whose test accuracies or classifier is wanted but missing.

        A selected run is without a test when a sweep was killed before it knew which run that would be, and without
        that of a shifted set, or its classifier, when nobody asked for it. It is trained again, which gives the same
        run. Where it does not, as for a record of another machine, its record is replaced, and validation selects
        anew: each run is trained again `AGAIN` times at most. Raises UserError where that is not enough.
        """
        absent = [point for point in self.points if point not in self.records]
        if absent:
            return absent
        wanted = self.points if self.options.test_all else [self._selected()]
        lacking = [point for point in wanted if not self._is_complete(self.records[point])]
        for point in lacking:
            if self.again[point] >= AGAIN:
                path = record_path(self.cell, point, self.options.result_dir)
                raise UserError(
                    f"{path} and its classifier do not stay as they were written: the run was trained again"
                    f" {AGAIN} times, and they still lack something. Does another process or machine write there?"
                    " Let one do it at a time, or give another --result_dir"
                )
        return lacking

    def _is_complete(self, record: Record) -> bool:
        """Whether a run that is to be tested is, on all test sets as they are now, and kept if it is to be."""
        found = {name: shifted.inputs for name, shifted in record.shifted.items()}
        tested = record.tested and self.data.shifted_digests.items() <= found.items()
        return tested and (not self._keeps(record.hyperparameters) or self._is_kept(record))

    def _is_kept(self, record: Record) -> bool:
        """Whether the classifier of a run is there; it is read until it is found once."""
        if record.hyperparameters not in self.kept and heads.is_kept(record, self.options.result_dir):
            self.kept.add(record.hyperparameters)
        return record.hyperparameters in self.kept

    def _keeps(self, point: Hyperparameters) -> bool:
        """Whether the classifier of a run is to be kept, as far as is known yet."""
        return self.options.save_heads and point == self._selected()

    def add(self, outcomes: dict[Hyperparameters, Outcome]) -> dict[Hyperparameters, Trained]:
        """Take newly trained runs; gives those that are to be tested now, which `finish` then takes.

        Runs that validation cannot select any more are recorded at once. The best so far waits for the others, with a
        copy of its weights: those of the rest of its stack can go.
        """
        for point, outcome in outcomes.items():
            wiseft = wise_ft(outcome.weight, self.data.zeroshot(self.cell))
            embed = embedder(self.problem.model.embedding, outcome.state)
            ((wiseft_val,),) = accuracies([Heads(embed, [wiseft])], self._val_batches())
            self.waiting[point] = Trained(outcome, wiseft, wiseft_val)
        if self.options.test_all:
            return dict(self.waiting)
        best = self._selected()
        # whatever a run that is trained again comes to on this machine: without a test it would be asked for for ever
        again = self.waiting.keys() & self.records.keys()
        self.again.update(again & outcomes.keys())
        for point in self.waiting.keys() - {best} - again:
            self._record(point, self.waiting.pop(point), test=None)
        if self._known().keys() >= set(self.points):
            return dict(self.waiting)
        if best in outcomes:
            outcome = outcomes[best]
            copied = replace(outcome, state={name: tensor.clone() for name, tensor in outcome.state.items()})
            self.waiting[best] = self.waiting[best]._replace(outcome=copied)
        return {}

    @property
    def zeroshot(self) -> ZeroShot:
        """How the zero-shot classifier does on the validation images."""
        images = len(self.problem.val)
        return ZeroShot(round(self._zeroshot_val * images), images, self.data.classes)

    def finish(self, point: Hyperparameters, test: Tested) -> None:
        """Record a run that was tested."""
        self._record(point, self.waiting[point], test)  # while it is known, to tell whether it is the selected one
        del self.waiting[point]

    def summary(self) -> str:
        """A line about a complete cell: what validation selected, and how it did; a line more for each shifted set.

        The last line is where its classifier lies, if that is kept.
        """
        best = self.records[self._selected()]
        lr, weight_decay, batch_size = best.hyperparameters
        diverged = sum(record.diverged for record in self.records.values())
        lines = [
            f"{self.cell}: val {best.trained.val:6.1%}  test {best.trained.test:6.1%}"
            f"  WiSE-FT {best.wiseft.test:6.1%}  zero-shot {best.zeroshot.test:6.1%}"
            f"   (lr {lr:g}, weight decay {weight_decay:g}, batch {batch_size}, step {best.step})"
            + (f"; {diverged} of {len(self.points)} runs diverged" if diverged else "")
        ]
        width = max(map(len, self.data.shifted_digests), default=0)
        for name in self.data.shifted_digests:
            on = best.shifted[name]
            lines.append(
                f"  {name:{width}}  test {on.trained:6.1%}  WiSE-FT {on.wiseft:6.1%}  zero-shot {on.zeroshot:6.1%}"
            )
        if self.options.save_heads:
            lines.append(f"  {heads.head_path(self.cell, best.hyperparameters, self.options.result_dir)}")
        return "\n".join(lines)

    def _record(self, point: Hyperparameters, trained: Trained, test: Tested | None) -> None:
        """Write the record of a run, unless another process has: that one stays and counts, but for missing tests.

        A run that is trained again replaces its record, whatever that says. It is the same run, bit for bit on one
        machine, and keeps what it was tested on before; on another it may differ, and the record then says what was
        tested.
        """
        outcome, (trained_test, wiseft_test) = trained.outcome, test.own if test else (None, None)
        record = Record(
            cell=self.cell,
            hyperparameters=point,
            inputs=self.inputs,
            grid=self.points,
            step=outcome.step,
            trained=Accuracy(outcome.val_accuracy, trained_test),
            wiseft=Accuracy(trained.wiseft_val, wiseft_test),
            zeroshot=Accuracy(self._zeroshot_val, None if test is None else self.data.zeroshot_test(self.cell)),
            seconds=outcome.seconds,
            versions={"python": platform.python_version(), "torch": torch.__version__},
            diverged=outcome.diverged,
            shifted=self._shifted(test) if test else {},
        )
        path = record_path(self.cell, point, self.options.result_dir)
        there = read_record(path) if path.exists() else None
        if there is None or point in self.records or (test is not None and not self._is_complete(there)):
            self.kept.discard(point)
            if there is not None and there == replace(record, shifted=there.shifted):
                record = replace(record, shifted=there.shifted | record.shifted)
            if test is not None and self._keeps(point):
                tensors = heads.tensors_of(outcome.state, self.data.zeroshot(self.cell))
                heads.keep(heads.Kept(self.data.recipe, self.classnames, record, tensors), self.options.result_dir)
            write_record(record, self.options.result_dir)
            there = record
        self.records[point] = there

    def _shifted(self, test: Tested) -> dict[str, Shifted]:
        """What a run gave on shifted sets, as it is recorded."""
        digests, zeroshot = self.data.shifted_digests, self.data.zeroshot_shifted(self.cell)
        return {name: Shifted(digests[name], *pair, zeroshot[name]) for name, pair in test.shifted.items()}

    @cached_property
    def _zeroshot_val(self) -> float:
        return accuracies([self.data.untrained(self.cell)], self._val_batches())[0][0]

    def _val_batches(self) -> Iterator:
        return self.problem.val.batches(self.data.rows_at_a_time)

    def _known(self) -> dict[Hyperparameters, float]:
        """Validation accuracies of all runs that are trained."""
        recorded = {point: record.trained.val for point, record in self.records.items()}
        return recorded | {point: trained.outcome.val_accuracy for point, trained in self.waiting.items()}

    def _selected(self) -> Hyperparameters:
        """What validation selects among the runs that are trained."""
        known = self._known()
        return select([point for point in self.points if point in known], known)


def reasons_not_to_stack(loaded: list[DatasetFeatures], options: Options) -> list[str]:
    """Why runs on some of `loaded` train one after another although they were to train at once."""
    return list({data.unstackable: None for data in loaded if data.unstackable and options.executor == "stacked"})


def outstanding(grids: list[CellSweep], options: Options) -> tuple[str, int]:
    """What `grids` of one dataset still lack, as a line and as a number of steps."""
    cell = grids[0].cell
    runs, missing = sum(len(grid.points) for grid in grids), sum(len(grid.to_train()) for grid in grids)
    size = f"{pluralize(len(grids), 'cell')}, {pluralize(runs, 'run')}"
    title = f"{cell.encoder} {cell.dataset}: {size}, {missing:,} to train on {options.device}"
    if outdated := sum(grid.outdated for grid in grids):
        title += f"\nnote: {pluralize(outdated, 'run')} used images, splits or class names that have changed"
    return title, missing * cell.max_iter


def chance_warning(grids: list[CellSweep]) -> str | None:
    """A warning where runs that are yet to be trained use text that knows nothing of the images; None where it does.

    It is about the zero-shot classifier of the cell with most validation images. Uni-modal runs that start at random
    use no text.
    """
    using_text = [grid for grid in grids if grid.cell.init == "zeroshot" or grid.cell.modality == "cross_modal"]
    pending = [grid for grid in using_text if grid.to_train()]
    if not pending:
        return None
    most = max(pending, key=lambda grid: len(grid.problem.val))
    return most.zeroshot.warning(f"{most.cell.encoder} {most.cell.dataset} {most.cell.text_augmentation}")


def run(grids: list[CellSweep], options: Options, progress: Callable[[int], object]) -> Iterator[CellSweep]:
    """Train what `grids` of one dataset lack and yield each as it becomes complete.

    `progress` hears of run-steps done. What the stacked executor cannot train the sequential one does.
    """
    pending = [grid for grid in grids if grid.to_train()]
    while pending:
        jobs = {Job(grid.problem, point): (grid, point) for grid in pending for point in grid.to_train()}
        train = EXECUTORS["sequential" if pending[0].data.unstackable else options.executor]
        budget = options.max_memory or int(MEMORY_SHARE * memory.free(options.device))
        max_iter = pending[0].cell.max_iter
        # closed at once when something goes wrong here or in the caller, else its threads would train on
        with closing(train(list(jobs), max_iter=max_iter, progress=progress, budget=budget)) as trained:
            for outcomes in trained:
                yield from _take(outcomes, jobs)
                outcomes.clear()  # their weights, before the next ones are made
        pending = [grid for grid in pending if grid.to_train()]


def _take(outcomes: dict[Job, Outcome], jobs: dict[Job, tuple[CellSweep, Hyperparameters]]) -> list[CellSweep]:
    """Hand newly trained runs to their grids, test those that are ready for it; gives the grids that are complete."""
    own: dict[CellSweep, dict[Hyperparameters, Outcome]] = {}
    for job, outcome in outcomes.items():
        grid, point = jobs[job]
        own.setdefault(grid, {})[point] = outcome
    _test({grid: grid.add(of_grid) for grid, of_grid in own.items()})
    return [grid for grid in own if not grid.to_train()]


def _test(ready: dict[CellSweep, dict[Hyperparameters, Trained]]) -> None:
    """Test the runs that are ready for it, in one pass over each test set, and record them."""
    runs = [(grid, point, trained) for grid, of_grid in ready.items() for point, trained in of_grid.items()]
    if not runs:
        return
    weights = [(trained.outcome.weight, trained.wiseft) for _, _, trained in runs]
    if any(grid.problem.model.embedding.trainable for grid in ready):
        embeds = [embedder(grid.problem.model.embedding, trained.outcome.state) for grid, _, trained in runs]
        classifiers = [Heads(*run) for run in zip(embeds, weights, strict=True)]
    else:  # features are what they are: one large matrix product for all heads
        classifiers = [Heads(lambda images: images[0], [weight for pair in weights for weight in pair])]
    data = runs[0][0].data
    (own,) = _pairs([None], classifiers, data.test_batches())
    shifted = {}
    for test in data.shifted:
        counted = _pairs(list(test.choices.values()), classifiers, data.test_batches(test))
        shifted |= dict(zip(test.choices, counted, strict=True))
    for number, (grid, point, _) in enumerate(runs):
        grid.finish(point, Tested(own[number], {name: pairs[number] for name, pairs in shifted.items()}))


def _pairs(
    choices: list[torch.Tensor | None], classifiers: list[Heads], batches: Iterable[tuple[Inputs, torch.Tensor]]
) -> list[list[Pair]]:
    """For each of `choices` the accuracies of each run; `classifiers` have the heads of run after run, two of each."""
    of_choices = zip(*accuracies_among(choices, classifiers, batches), strict=True)
    flat = [list(itertools.chain.from_iterable(of_choice)) for of_choice in of_choices]
    return [list(map(Pair, counted[::2], counted[1::2])) for counted in flat]


def _more_prompts(cell: Cell, sizes: list[int], classes: int) -> str:
    """How many templates give a cross-modal cell prompts enough for the smallest batch; nothing if it has them."""
    least = GRIDS[cell.hyperparams].fewest_prompts
    if cell.modality != "cross_modal" or sizes[1] >= least:
        return ""
    return (
        f": of {classes} classes, prompts in {-(-least // classes)} templates or more are needed. Give features.py and"
        " train.py a file of them, --templates FILE, or --text-augmentation template_mining"
    )


def _differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    names = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    pairs = [f"{name}: {input_of(found, name)} there, {input_of(wanted, name)} here" for name in names]
    return ", ".join(pairs) or "the grid"
