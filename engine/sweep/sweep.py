"""Train what is missing of a sweep, test what validation selects, leave a record of each run."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from engine.errors import UserError
from engine.model import wise_ft
from engine.optimizer import GRIDS, Hyperparameters
from engine.results.runs import Accuracy, Cell, Record, read_cell, read_record, record_path, select, write_record
from engine.sweep.data import DatasetFeatures
from engine.training import EXECUTORS
from engine.training.evaluate import accuracies
from engine.training.problem import Job, Outcome, Problem, admits
from engine.training.stacked import run_bytes

CPU_STACK_BYTES = 32 << 20
"""Runs that train at once on a CPU: a stack much larger than the caches is no faster, and a kill loses all of it."""
CUDA_SHARE = 0.8
"""The part of a GPU's free memory that the runs of a stack may take."""


@dataclass(frozen=True)
class Options:
    """How to run a sweep. Nothing here changes a result; `test_all` tests every run, not only the selected one."""

    result_dir: str | Path
    executor: str
    test_all: bool
    device: str


class CellSweep:
    """A cell with its problem, its valid hyper-parameters, and those runs of it that are complete."""

    def __init__(self, cell: Cell, data: DatasetFeatures, options: Options):
        """Raises UserError when no batch size is valid, and for records of the same cell on other inputs."""
        self.cell, self.data, self.options = cell, data, options
        sizes = data.sizes(cell)
        self.points = [point for point in GRIDS[cell.hyperparams] if admits(sizes, point.batch_size)]
        if not self.points:
            held = " and ".join(map(str, sizes))
            raise UserError(
                f"{cell}: {held} training samples are too few for any batch size of grid '{cell.hyperparams}'"
            )
        self.inputs = data.inputs(cell)
        self.records = read_cell(cell, options.result_dir)
        for record in self.records.values():
            if record.inputs != self.inputs or record.grid != self.points:
                raise UserError(
                    f"{cell.folder(options.result_dir)} holds runs on other features, another split or another grid"
                    f" ({_differences(record.inputs, self.inputs)}); remove it, or give another --result_dir"
                )

    @cached_property
    def problem(self) -> Problem:
        """What the runs solve; features are read for it, which a complete cell can do without."""
        return self.data.problem(self.cell)

    def to_train(self) -> list[Hyperparameters]:
        """Runs that have no record; once all have one, those whose test accuracy is wanted but missing.

        A selected run is without a test when a sweep was killed before it knew which run that would be. It is trained
        again, which gives the same run.
        """
        absent = [point for point in self.points if point not in self.records]
        if absent:
            return absent
        wanted = self._to_test({point: record.trained.val for point, record in self.records.items()})
        return [point for point in wanted if not self.records[point].tested]

    def finish(self, outcomes: dict[Hyperparameters, Outcome], seconds: float) -> None:
        """Test what is to be tested among newly trained runs, and write their records."""
        val = {point: record.trained.val for point, record in self.records.items()}
        to_test = self._to_test(val | {point: outcome.val_accuracy for point, outcome in outcomes.items()})
        for point, outcome in outcomes.items():
            trained, wiseft, zeroshot = self._classifiers(outcome, point in to_test)
            record = Record(
                cell=self.cell,
                hyperparameters=point,
                inputs=self.inputs,
                grid=self.points,
                step=outcome.step,
                trained=trained,
                wiseft=wiseft,
                zeroshot=zeroshot,
                seconds=seconds,
                versions={"python": platform.python_version(), "torch": torch.__version__},
            )
            self.records[point] = self._keep(record)

    def _keep(self, record: Record) -> Record:
        """Write a new record; a tested one that lies there, from this or another process, stays and is given back.

        Raises UserError when a run that was trained again, for its test, did not give what its record says.
        """
        path = record_path(self.cell, record.hyperparameters, self.options.result_dir)
        if path.exists():
            there = read_record(path)
            if (there.step, there.trained.val) != (record.step, record.trained.val):
                raise UserError(
                    f"{path} cannot be completed: trained again, here and now, the run chose step {record.step} (val"
                    f" {record.trained.val:.4f}) instead of {there.step} (val {there.trained.val:.4f}). Another device"
                    f" or version of torch rounds differently; remove {path.parents[1]} to train the cell anew"
                )
            if there.tested:
                return there
        write_record(record, self.options.result_dir)
        return record

    def _to_test(self, val: dict[Hyperparameters, float]) -> list[Hyperparameters]:
        return self.points if self.options.test_all else [select(self.points, val)]

    def _classifiers(self, outcome: Outcome, test: bool) -> tuple[Accuracy, Accuracy, Accuracy]:
        """Accuracies of the trained classifier, of WiSE-FT and of the zero-shot classifier."""
        weight, zeroshot = outcome.weight.to(self.options.device), self.data.zeroshot
        classifiers = [weight, wise_ft(weight, zeroshot), zeroshot]
        _, *others = accuracies(classifiers, self.problem.val.features, self.problem.val.labels)
        val = [outcome.val_accuracy, *others]
        tests = accuracies(classifiers, *self.data.test_set) if test else [None] * 3
        return tuple(map(Accuracy, val, tests))


def run(grids: list[CellSweep], options: Options, progress: Callable[[int], object]) -> Iterator[CellSweep]:
    """Train what `grids` lack and yield each as it becomes complete; `progress` hears of run-steps done."""
    train = EXECUTORS[options.executor]
    for chunk in _chunks([grid for grid in grids if grid.to_train()], options):
        while jobs := [(grid, point) for grid in chunk for point in grid.to_train()]:
            began = time.perf_counter()
            max_iter = chunk[0].cell.max_iter
            outcomes = train([Job(grid.problem, point) for grid, point in jobs], max_iter=max_iter, progress=progress)
            seconds = (time.perf_counter() - began) / len(jobs)
            for grid in chunk:
                own = {point: outcome for (of, point), outcome in zip(jobs, outcomes, strict=True) if of is grid}
                grid.finish(own, seconds)
        yield from chunk


def _chunks(grids: list[CellSweep], options: Options) -> Iterator[list[CellSweep]]:
    """Cut a sweep in parts that train at once: as many grids as fit in memory, one for the sequential executor."""
    budget = CPU_STACK_BYTES
    if options.device.startswith("cuda"):
        budget = CUDA_SHARE * torch.cuda.mem_get_info(options.device)[0]
    chunk, size = [], 0
    for grid in grids:
        needed = run_bytes(grid.problem) * len(grid.points)
        # not one alone, if there are more: the stacked executor would have to double it
        if (len(chunk) > 1 and size + needed > budget) or (chunk and options.executor == "sequential"):
            yield chunk
            chunk, size = [], 0
        chunk.append(grid)
        size += needed
    if chunk:
        yield chunk


def _differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    pairs = [(name, found.get(name, ""), wanted[name]) for name in wanted if found.get(name) != wanted[name]]
    return ", ".join(f"{name}: {mine[:12]} there, {other[:12]} here" for name, mine, other in pairs) or "the grid"
