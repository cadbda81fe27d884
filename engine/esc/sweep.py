"""The grids of ImageNet-ESC, for `engine.sweep`, and its zero-shot classifiers.

5 splits x 5 draws x 3 shots x 4 probes x 12 configurations x 2 tasks x 2 class sets are 14 400 runs. Probes without the
other modality have the same result for each draw: they are trained once and recorded for all five draws. So 8 640 runs
are trained.
"""

from __future__ import annotations

import argparse
import itertools
import platform
from collections.abc import Sequence

import torch

from engine import terminal
from engine.esc.benchmark import EscBenchmark
from engine.esc.data import ADDED, OTHER, EscData, kinds_of
from engine.results.esc import (
    AUDIO,
    DRAWS,
    PROBES,
    SHOTS,
    SPLITS,
    TASKS,
    UNI_MODAL,
    EscCell,
    EscRecords,
    EscRun,
    add_runs,
    esc_dir,
)
from engine.shards import Shard
from engine.sweep.arguments import follow
from engine.sweep.sweep import CellSweep, Options

SEARCHES = len(SPLITS) * sum(len(DRAWS) if "other" in ADDED[probe] else 1 for probe in PROBES)
"""The grid searches of a file, each of which takes longer than all its zero-shot classifiers."""


File = tuple[str, int, int]
"""A file of records: task, number of classes and shots (0: zero-shot classifiers alone)."""


def files_of(benchmark: EscBenchmark, shard: Shard | None) -> list[File]:
    """Return the files of a benchmark that a process fills; None is all. A file has one writer, as it is rewritten."""
    files = list(itertools.product(TASKS, benchmark.class_sets, (0, *SHOTS)))
    return shard.part(files, [classes * (SEARCHES if shots else 1) for _, classes, shots in files]) if shard else files


def train(args: argparse.Namespace, data: EscData) -> None:
    """Train and test the missing runs of `--shard`, or all."""
    records = EscRecords(esc_dir(args.esc_result_dir, data.benchmark.name, args.max_iter))
    options = Options(records.folder, args.executor, False, str(data.bank.device), args.max_memory)
    files = files_of(data.benchmark, args.shard)
    if args.shard:
        terminal.say(f"shard {args.shard}: {len(files)} of {len(files_of(data.benchmark, None))} files of runs")
    if not files:
        return
    sweeps = sweeps_of(data, records, args.max_iter, options, files)
    terminal.say("\n".join([title(data, sweeps), *(f"note: {note}" for note in data.notes)]))
    add_zero_shot(data, records, args.max_iter, files)
    follow(sweeps, options, lambda cell_sweep: "")


def all_cells(data: EscData, max_iter: int) -> list[EscCell]:
    """Return the cells of a benchmark; probes without the other modality have one cell for all draws.

    Uni-modal probes have the smallest stacks. They are last, so that all cores finish at about the same time.
    """
    cells = [
        EscCell(task, classes, split, draw, shots, probe, max_iter)
        for task, classes, shots in itertools.product(TASKS, data.benchmark.class_sets, SHOTS)
        for split, probe in itertools.product(SPLITS, PROBES)
        for draw in (DRAWS if "other" in ADDED[probe] else (None,))
    ]
    return sorted(cells, key=lambda cell: cell.probe == UNI_MODAL)


def sweeps_of(
    data: EscData, records: EscRecords, max_iter: int, options: Options, files: Sequence[File]
) -> list[CellSweep]:
    """Return the sweeps of the cells in `files`.

    Raises UserError for records on other inputs or with other numbers of steps.
    """
    cells = (cell for cell in all_cells(data, max_iter) if (cell.task, cell.classes, cell.shots) in files)
    return [CellSweep(cell, data, records, options) for cell in cells]


def title(data: EscData, sweeps: list[CellSweep]) -> str:
    """Return the numbers of runs and missing runs as text."""
    runs, recorded = len(list(AUDIO)), sum(len(one.cell.draws) for one in sweeps)
    missing = sum(len(one.to_train()) for one in sweeps)
    return (
        f"{data.benchmark.name}: {recorded * runs} runs, of which {len(sweeps) * runs} differ (the rest repeat"
        f" them for draws they do not depend on); {missing} to train on {data.bank.device}"
    )


def add_zero_shot(data: EscData, records: EscRecords, max_iter: int, files: Sequence[File]) -> None:
    """Record the zero-shot classifiers that are not recorded yet in `files`."""
    added = []
    for task, classes, split in itertools.product(TASKS, data.benchmark.class_sets, SPLITS):
        kinds = [("text", 0), (OTHER[task], 0), *((task, shots) for shots in SHOTS)]
        absent = [
            (kind, shots, draw)
            for (kind, shots), draw in itertools.product(kinds, DRAWS)
            if (task, classes, shots) in files
            and (f"zero_shot_{kind}", split, draw, ()) not in records.zero_shot(task, classes, shots)
        ]
        if absent:
            added += _zero_shot_runs(data, task, classes, split, absent, max_iter)
    add_runs(added, records.folder)


def _zero_shot_runs(
    data: EscData, task: str, classes: int, split: int, wanted: list[tuple[str, int, int]], max_iter: int
) -> list[EscRun]:
    """Return the runs of zero-shot classifiers of a split; `wanted` are their kinds, shots and draws."""
    subsets = [data.zero_shot(kind, task, split, draw, shots) for kind, shots, draw in wanted]
    tests = data.zero_shot_tests(task, classes, split, subsets)
    return [
        EscRun(
            *(task, classes, split, draw, shots, method := f"zero_shot_{kind}", None),
            inputs=data.inputs_of(task, classes, split, draw, shots, kinds_of(task, method)),
            val=None,
            test=test,
            max_iter=max_iter,
            versions={"python": platform.python_version(), "torch": torch.__version__},
        )
        for (kind, shots, draw), test in zip(wanted, tests, strict=True)
    ]
