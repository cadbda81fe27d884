"""Runs of ImageNet-ESC (section 9 of the protocol), and the accuracies for Tables 15 and 16.

    imagenet_esc_results/<task>_<classes>-shot_<s>.jsonl
    imagenet_esc_results/demo/...                                 the demo
    imagenet_esc_results/iter_<n>/..., demo/iter_<n>/...          trials with another number of steps than 12 800

One file contains all runs of a task, class set and number of shots (25 splits and draws, four probes, their grids), one
JSON line each; single files would be 1 200. A run without the other modality is trained once and recorded for each
draw, as all draws would have the same result. Zero-shot classifiers are recorded under 0 shots, except classifiers from
the task's own modality, which are recorded under their number of shots.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engine import schema
from engine.errors import UserError
from engine.files import parse_json, write_text
from engine.methods import METHODS, Method
from engine.results.old_records import name_hparams
from engine.results.runs import NOT_A_RECORD, TEST, TRAINED, VAL, Record, Records, require_accuracies, select
from engine.training.grid import Grid, Hparams
from engine.training.schedule import MAX_ITER

TASKS = ("image", "audio")
DEMO_CLASSES = (10, 12)
CLASSES = {"imagenet_esc": (19, 27), "demo_esc": DEMO_CLASSES}
"""The sizes of the class sets by benchmark name."""
SHOTS = (1, 2, 4)
SPLITS = DRAWS = (1, 2, 3, 4, 5)
"""The folds of ESC-50, and draws of the added modality: 25 runs of each probe."""

UNI_MODAL, AUDIO_VISUAL = "linear_prob", "audiovisual_linear_prob"
PLUS_TEXT, ALL_MODAL = "plustext_linear_prob", "allmodal_linear_prob"
PROBES = (UNI_MODAL, AUDIO_VISUAL, PLUS_TEXT, ALL_MODAL)
ZERO_SHOT = ("zero_shot_image", "zero_shot_audio", "zero_shot_text")
"""The methods, as the paper's tables name them."""
AUDIO = Grid(lr=(0.1, 0.01, 0.001, 0.0001), weight_decay=(0.0, 0.01, 0.0001), batch_size=(8,))
"""The grid of the probes (section 9 of the protocol)."""


@dataclass(frozen=True)
class EscCell:
    """One grid search of one probe. `draw` is None for probes without the other modality: one search for all draws."""

    task: str
    classes: int
    split: int
    draw: int | None
    shots: int
    probe: str
    max_iter: int = MAX_ITER
    grid = AUDIO
    hyperparams = "audio"

    @property
    def draws(self) -> tuple[int, ...]:
        """The draws for which the runs are recorded."""
        return DRAWS if self.draw is None else (self.draw,)

    @property
    def method(self) -> Method:
        """The method that fits the classifiers."""
        return METHODS["linear"]

    def __str__(self) -> str:
        return f"{self.task} {self.classes} classes {self.shots}-shot split {self.split} draw {self.draw or 'any'}"


@dataclass(frozen=True)
class EscRun:
    """A complete run: its identity and its results.

    `inputs` are digests of the training and test features, and their extraction settings. Zero-shot classifiers have
    neither `hyperparameters` nor `val`. Accuracies are from 0 to 1; `test` is None unless the run was tested. `step` is
    the first step with the best validation accuracy; if a run `diverged`, it is the best step before. `seconds` is the
    run's share of the training time of its stack.
    """

    task: str
    classes: int
    split: int
    draw: int
    shots: int
    method: str
    hyperparameters: Hparams | None
    inputs: dict[str, str]
    val: float | None
    test: float | None
    max_iter: int = MAX_ITER
    step: int | None = None
    diverged: bool = False
    seconds: float | None = field(default=None, compare=False)
    versions: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self):
        """Raise ValueError for a run that is not part of a benchmark."""
        classes = sum(CLASSES.values(), ())
        allowed = {"task": TASKS, "classes": classes, "split": SPLITS, "draw": DRAWS, "method": PROBES + ZERO_SHOT}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {values}")
        require_accuracies(accuracy for accuracy in (self.val, self.test) if accuracy is not None)
        if self.method in PROBES and None in (self.hyperparameters, self.val):
            raise ValueError(f"a run of {self.method} has neither hyperparameters nor val")

    @property
    def key(self) -> tuple:
        """The identity of the run in its file."""
        return self.method, self.split, self.draw, tuple((self.hyperparameters or {}).values())


SHARED_INPUTS = ("encoder", "features", "test", "text", "prompts", "audio encoder", "sounds", "audio")
"""Inputs that do not depend on splits: all runs of a benchmark with such an input must agree on it."""


class Score(NamedTuple):
    """Test accuracies, 0 to 1, of a method by (split, draw), and the selected runs."""

    accuracies: dict[tuple[int, int], float]
    runs: tuple[EscRun, ...]


def esc_dir(folder: str | Path, benchmark: str = "imagenet_esc", max_iter: int = MAX_ITER) -> Path:
    """Return the folder of a benchmark's runs with `max_iter` steps, below `folder` (`--esc_result_dir`)."""
    parts = ["demo"] * (benchmark == "demo_esc") + [f"iter_{max_iter}"] * (max_iter != MAX_ITER)
    return Path(folder).joinpath(*parts)


def runs_path(task: str, classes: int, shots: int, folder: str | Path) -> Path:
    """Return the file of the runs of a task, class set and number of shots."""
    return Path(folder) / f"{task}_{classes}-shot_{shots}.jsonl"


def read_runs(task: str, classes: int, shots: int, folder: str | Path) -> dict[tuple, EscRun]:
    """Return the complete runs of a file by key. Raises UserError for an invalid, misplaced or repeated line."""
    path = runs_path(task, classes, shots, folder)
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            content = parse_json(line)
            if isinstance(content, dict):
                content["hyperparameters"] = name_hparams(content.get("hyperparameters"))
            run = schema.build(EscRun, content, "run")
            if (run.task, run.classes, run.shots) != (task, classes, shots):
                raise ValueError(f"it is of {run.task}, {run.classes} classes, {run.shots} shots")
            if run.key in found:
                raise ValueError("an earlier line has the same run")
        except NOT_A_RECORD as error:
            raise UserError(
                f"{path}, line {number}, is not a run of this file ({error}); remove the line and run imagenet_esc.py"
            ) from error
        found[run.key] = run
    return found


def add_runs(runs: Iterable[EscRun], folder: str | Path) -> None:
    """Add complete runs to their files, replacing runs with the same keys.

    Each file is replaced atomically: if the process is killed, at most these runs are lost. Only one process at a time
    may add to a file.
    """
    by_file: dict[tuple[str, int, int], list[EscRun]] = {}
    for run in runs:
        by_file.setdefault((run.task, run.classes, run.shots), []).append(run)
    for of_file, added in by_file.items():
        merged = read_runs(*of_file, folder) | {run.key: run for run in added}
        lines = [json.dumps(vars(run), separators=(",", ":")) + "\n" for _, run in sorted(merged.items())]
        write_text(runs_path(*of_file, folder), "".join(lines))


class EscRecords(Records):
    """The records of a benchmark's cells, in files below `folder`, which are read once."""

    option = "--esc_result_dir"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._files: dict[tuple[str, int, int], dict[tuple, EscRun]] = {}
        self._unwritten: list[EscRun] = []

    def read(self, cell: EscCell) -> dict[Hparams, Record]:
        """Return the runs recorded for all draws of a cell. Raises UserError for another max_iter."""
        records = ((hparams, self.find(cell, hparams)) for hparams in AUDIO)
        return {hparams: record for hparams, record in records if record is not None}

    def find(self, cell: EscCell, hparams: Hparams) -> Record | None:
        """Return the record of a run, tested if it is tested for all draws; None unless it is recorded for all."""
        of_file = self._read(cell.task, cell.classes, cell.shots)
        found = [of_file.get((cell.probe, cell.split, draw, tuple(hparams.values()))) for draw in cell.draws]
        runs = [run for run in found if run is not None]
        if len(runs) < len(found):
            return None
        if other := [run for run in runs if run.max_iter != cell.max_iter]:
            raise UserError(
                f"{self.location(cell)} has runs of {other[0].max_iter} steps, not {cell.max_iter}; remove it or choose"
                f" another {self.option}"
            )
        first = runs[0]
        tests = {} if None in [run.test for run in runs] else {TEST: first.test}
        accuracies, how = {TRAINED: {VAL: first.val} | tests}, (first.seconds or 0.0, first.versions, first.diverged)
        return Record(cell, hparams, first.inputs, list(AUDIO), first.step or 0, accuracies, *how)

    def write(self, record: Record) -> None:
        cell = record.cell
        self._unwritten += [
            EscRun(
                *(cell.task, cell.classes, cell.split, draw, cell.shots, cell.probe, record.hyperparameters),
                inputs=record.inputs,
                val=record.val,
                test=record.accuracy(TRAINED),
                max_iter=cell.max_iter,
                step=record.step,
                diverged=record.diverged,
                seconds=round(record.seconds, 3),
                versions=record.versions,
            )
            for draw in cell.draws
        ]

    def flush(self) -> None:
        add_runs(self._unwritten, self.folder)
        self._unwritten.clear()

    def remove(self, cell: EscCell, hparams: Hparams) -> None:
        raise NotImplementedError("datasets of ImageNet-ESC do not change")

    def location(self, cell: EscCell) -> Path:
        return runs_path(cell.task, cell.classes, cell.shots, self.folder)

    def path(self, cell: EscCell, hparams: Hparams) -> Path:
        return self.location(cell)

    def zero_shot(self, task: str, classes: int, shots: int) -> dict[tuple, EscRun]:
        """Return the zero-shot classifiers of a file by key."""
        runs = self._read(task, classes, shots)
        return {key: run for key, run in runs.items() if run.method in ZERO_SHOT}

    def _read(self, *of_file: Any) -> dict[tuple, EscRun]:
        if of_file not in self._files:
            self._files[of_file] = read_runs(*of_file, self.folder)
        return self._files[of_file]


def check_inputs(runs: Iterable[EscRun], folder: str | Path) -> None:
    """Raise UserError, naming two files, if runs of a benchmark were trained or tested on different features."""
    first: dict[str, EscRun] = {}
    for run in runs:
        shared = [name for name in SHARED_INPUTS if name in run.inputs]
        differ = [name for name in shared if first.setdefault(name, run).inputs[name] != run.inputs[name]]
        if differ:
            one, two = (runs_path(r.task, r.classes, r.shots, folder) for r in (first[differ[0]], run))
            raise UserError(
                f"{one} and {two} have runs on different inputs ({', '.join(differ)}); remove the runs that are not"
                " wanted and run imagenet_esc.py"
            )


def score(runs: dict[tuple, EscRun], method: str) -> Score:
    """Return a method's test accuracies for complete grids with a tested selected run."""
    grid = [tuple(hparams.values()) for hparams in AUDIO] if method in PROBES else [()]
    accuracies, chosen = {}, []
    for pair in itertools.product(SPLITS, DRAWS):
        found = {values: runs.get((method, *pair, values)) for values in grid}
        if None in found.values():
            continue
        run = found[select(grid, {values: found[values].val for values in grid}) if len(grid) > 1 else ()]
        if run.test is not None:
            accuracies[pair] = run.test
            chosen.append(run)
    return Score(accuracies, tuple(chosen))


def mean_and_deviation(found: Score) -> tuple[float, float] | None:
    """Return mean and population standard deviation, 0 to 1, over all 25 runs, or None if runs are missing."""
    values = list(found.accuracies.values())
    if len(values) < len(SPLITS) * len(DRAWS):
        return None
    return statistics.fmean(values), statistics.pstdev(values)


def wins(runs: dict[tuple, EscRun]) -> tuple[int, int]:
    """Return the number of runs in which the audio-visual probe beats the uni-modal one, and of runs with both."""
    one, other = (score(runs, method).accuracies for method in (AUDIO_VISUAL, UNI_MODAL))
    both = one.keys() & other.keys()
    return sum(one[pair] > other[pair] for pair in both), len(both)
