"""Train the probes of ImageNet-ESC, test what validation selects, leave a record of each run.

5 splits x 5 draws x 3 shots x 4 probes x 12 configurations x 2 tasks x 2 class sets are 14 400 runs. Probes that the
other modality has no part in give the very same numbers for each draw, so they are trained once and recorded for all
five: 8 640 runs are trained. A grid is recorded as a whole, with the test of the run that validation selects.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from engine import memory
from engine.errors import UserError
from engine.esc.data import ADDED, OTHER, EscCell, EscData
from engine.methods import AUDIO
from engine.results import esc
from engine.results.esc import DRAWS, PROBES, SHOTS, SPLITS, TASKS, UNI_MODAL, EscRun
from engine.results.runs import select
from engine.sweep.sweep import MEMORY_SHARE
from engine.training.evaluate import Heads, accuracies
from engine.training.executors import EXECUTORS
from engine.training.grid import Hyperparameters
from engine.training.problem import Job, Outcome, Problem, admits

POINTS = list(AUDIO)


@dataclass
class _Grid:
    """The runs of a cell that are trained so far; `weight` is a copy of the best one's."""

    problem: Problem
    outcomes: dict[Hyperparameters, Outcome] = field(default_factory=dict)
    best: Hyperparameters | None = None
    weight: Tensor | None = None

    def add(self, point: Hyperparameters, outcome: Outcome) -> None:
        """Take a run, without its weights unless it is the best."""
        weight = outcome.weight
        self.outcomes[point] = Outcome(outcome.step, outcome.val_accuracy, {}, outcome.diverged, outcome.seconds)
        known = [own for own in POINTS if own in self.outcomes]
        best = select(known, {own: self.outcomes[own].val_accuracy for own in known})
        if best == point:
            self.best, self.weight = point, weight.clone()

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(POINTS)


class EscSweep:
    """All grids of a benchmark, and which of them are still to be trained."""

    def __init__(self, data: EscData, folder: str | Path, max_iter: int):
        """Raises UserError for records in `folder` of runs on other inputs, and for too few classes to fill a batch."""
        self.data, self.folder, self.max_iter = data, folder, max_iter
        self.versions = {"python": platform.python_version(), "torch": torch.__version__}
        self.cells = list(all_cells(data))
        self._files = {
            place: esc.read_runs(*place, folder)
            for place in itertools.product(TASKS, data.benchmark.class_sets, (0, *SHOTS))
        }
        self._check_inputs()
        self.pending = [cell for cell in self.cells if not self._is_complete(cell)]

    @property
    def title(self) -> str:
        """What there is and what is missing, as a line."""
        runs, recorded = len(POINTS), sum(len(cell.draws) for cell in self.cells)
        return (
            f"{self.data.benchmark.name}: {recorded * runs} runs, of which {len(self.cells) * runs} differ (the rest"
            f" repeat them for draws they do not depend on); {len(self.pending) * runs} to train on"
            f" {self.data.bank.device}"
        )

    @property
    def steps(self) -> int:
        """How many run-steps are missing."""
        return len(self.pending) * len(POINTS) * self.max_iter

    def run(
        self, progress: Callable[[int], object], executor: str = "stacked", max_memory: int | None = None
    ) -> Iterator[list[EscCell]]:
        """Train what is missing; yields the cells that have become complete. `progress` hears of run-steps done."""
        jobs, grids = {}, {}
        # stacks of uni-modal probes are the smallest: last, so that the cores end at about the same time
        for cell in sorted(self.pending, key=lambda cell: cell.method == UNI_MODAL):
            grids[cell] = _Grid(self.data.problem(cell))
            self._check_size(cell, grids[cell].problem)
            jobs |= {Job(grids[cell].problem, point): (cell, point) for point in POINTS}
        if not jobs:
            return
        budget = max_memory or int(MEMORY_SHARE * memory.free(self.data.bank.device))
        train = EXECUTORS[executor]
        with closing(train(list(jobs), max_iter=self.max_iter, progress=progress, budget=budget)) as trained:
            for outcomes in trained:
                for job, outcome in outcomes.items():
                    cell, point = jobs[job]
                    grids[cell].add(point, outcome)
                outcomes.clear()  # their weights, before the next ones are made
                complete = [cell for cell, grid in grids.items() if grid.complete]
                esc.add_runs([run for cell in complete for run in self._runs(cell, grids.pop(cell))], self.folder)
                yield complete

    def add_zero_shot(self) -> None:
        """Record the zero-shot classifiers that are not there yet."""
        made = []
        for task, classes, split in itertools.product(TASKS, self.data.benchmark.class_sets, SPLITS):
            kinds = [("text", 0), (OTHER[task], 0), *((task, shots) for shots in SHOTS)]
            asked = [(kind, shots, draw) for kind, shots in kinds for draw in DRAWS]
            absent = [
                (kind, shots, draw)
                for kind, shots, draw in asked
                if (f"zero_shot_{kind}", split, draw, ()) not in self._files[task, classes, shots]
            ]
            if absent:
                made += self._zero_shot_runs(task, classes, split, absent)
        if made:
            esc.add_runs(made, self.folder)

    def _zero_shot_runs(self, task: str, classes: int, split: int, asked: list[tuple[str, int, int]]) -> list[EscRun]:
        parts = [self.data.zero_shot(kind, task, split, draw, shots) for kind, shots, draw in asked]
        heads = Heads(lambda inputs: inputs[0], [self.data.class_means(part, classes) for part in parts])
        (tests,) = accuracies([heads], [self.data.test_batch(task, classes, split)])
        return [
            EscRun(
                *(task, classes, split, draw, shots, f"zero_shot_{kind}", None),
                inputs=self.data.inputs(task, classes, split, draw, shots, {kind}),
                val=None,
                test=test,
                max_iter=self.max_iter,
                versions=self.versions,
            )
            for (kind, shots, draw), test in zip(asked, tests, strict=True)
        ]

    def _runs(self, cell: EscCell, grid: _Grid) -> list[EscRun]:
        """The records of a grid that is complete, whose selected run is tested now."""
        heads = Heads(lambda inputs: inputs[0], [grid.weight])
        ((test,),) = accuracies([heads], [self.data.test_batch(cell.task, cell.classes, cell.split)])
        used = _kinds(cell.task, cell.method)
        return [
            EscRun(
                *(cell.task, cell.classes, cell.split, draw, cell.shots, cell.method, point),
                inputs=self.data.inputs(cell.task, cell.classes, cell.split, draw, cell.shots, used),
                val=outcome.val_accuracy,
                test=test if point == grid.best else None,
                max_iter=self.max_iter,
                step=outcome.step,
                diverged=outcome.diverged,
                seconds=round(outcome.seconds, 3),
                versions=self.versions,
            )
            for draw in cell.draws
            for point, outcome in grid.outcomes.items()
        ]

    def _is_complete(self, cell: EscCell) -> bool:
        """Whether all runs of a grid are there, and the one that validation selects is tested."""
        runs = self._files[cell.task, cell.classes, cell.shots]
        for draw in cell.draws:
            own = {point: runs.get((cell.method, cell.split, draw, point)) for point in POINTS}
            if None in own.values() or own[select(POINTS, {p: run.val for p, run in own.items()})].test is None:
                return False
        return True

    def _check_inputs(self) -> None:
        """Refuse records of runs on other features, splits or classes, or of another number of steps."""
        for place, runs in self._files.items():
            for run in runs.values():
                place_of_run = run.task, run.classes, run.split, run.draw, run.shots
                wanted = self.data.inputs(*place_of_run, _kinds(run.task, run.method))
                if (run.inputs, run.max_iter) != (wanted, self.max_iter):
                    names = [name for name in run.inputs | wanted if run.inputs.get(name) != wanted.get(name)]
                    raise UserError(
                        f"{esc.file_of(*place, self.folder)} holds runs on other inputs"
                        f" ({', '.join(names) or 'another number of steps'}); remove it, or give another"
                        " --esc_result_dir"
                    )

    def _check_size(self, cell: EscCell, problem: Problem) -> None:
        sizes = [len(source) for source in problem.sources]
        if not all(admits(sizes, point.batch_size) for point in POINTS):
            raise UserError(
                f"{self.data.benchmark.name}, {cell.task}, {cell.classes} classes: {' and '.join(map(str, sizes))}"
                " training samples are too few for a batch"
            )


def all_cells(data: EscData) -> Iterator[EscCell]:
    """The grids of a benchmark: those in which the other modality has no part, once for all draws."""
    for task, classes, shots in itertools.product(TASKS, data.benchmark.class_sets, SHOTS):
        for split, method in itertools.product(SPLITS, PROBES):
            for draw in DRAWS if "other" in ADDED[method] else (None,):
                yield EscCell(task, classes, split, draw, shots, method)


def _kinds(task: str, method: str) -> set[str]:
    """What helps a probe (the other modality, text), or what a zero-shot classifier is made from."""
    if method in PROBES:
        return {OTHER[task] if kind == "other" else kind for kind in ADDED[method]}
    return {method.removeprefix("zero_shot_")}
