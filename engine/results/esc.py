"""Runs of ImageNet-ESC (section 9 of the protocol), and the numbers of Tables 15 and 16 from them.

    imagenet_esc_results/<task>_<classes>-shot_<s>.jsonl
    imagenet_esc_results/demo/...                                 the demo's
    imagenet_esc_results/iter_<n>/..., demo/iter_<n>/...          trials of other than 12 800 steps

One file holds all runs of a task, class set and number of shots (25 splits and draws, four probes, their grids), a line
of JSON each: 1 200 records would otherwise be 1 200 files. A run that the other modality has no part in is trained once
and stands there for each of the draws, which would give the same numbers. Shots are 0 for zero-shot classifiers, but
for those from the task's own modality, which are of the shots of their file.
"""

from __future__ import annotations

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
from engine.results.runs import NOT_A_RECORD, TEST, TRAINED, VAL, Record, require_accuracies, select
from engine.training.grid import Grid, Hparams
from engine.training.schedule import MAX_ITER

TASKS = ("image", "audio")
DEMO_CLASSES = (10, 12)
CLASSES = {"imagenet_esc": (19, 27), "demo_esc": DEMO_CLASSES}
"""The sizes of the class sets, by the benchmark's name."""
SHOTS = (1, 2, 4)
SPLITS = DRAWS = (1, 2, 3, 4, 5)
"""ESC-50's folds, and draws of the modality that helps: 25 runs of each probe."""

UNI_MODAL, AUDIO_VISUAL = "linear_prob", "audiovisual_linear_prob"
PLUS_TEXT, ALL_MODAL = "plustext_linear_prob", "allmodal_linear_prob"
PROBES = (UNI_MODAL, AUDIO_VISUAL, PLUS_TEXT, ALL_MODAL)
ZERO_SHOT = ("zero_shot_image", "zero_shot_audio", "zero_shot_text")
"""The methods, by their names in the paper's tables."""
AUDIO = Grid(lr=(0.1, 0.01, 0.001, 0.0001), weight_decay=(0.0, 0.01, 0.0001), batch_size=(8,))
"""The grid of the probes (section 9 of the protocol)."""


@dataclass(frozen=True)
class EscCell:
    """A grid of runs of one probe. `draw` is None where the other modality is not used: one grid for all draws."""

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
        """The draws that its runs stand for."""
        return DRAWS if self.draw is None else (self.draw,)

    @property
    def method(self) -> Method:
        """The method that fits its classifiers."""
        return METHODS["linear"]

    def __str__(self) -> str:
        return f"{self.task} {self.classes} classes {self.shots}-shot split {self.split} draw {self.draw or 'any'}"


@dataclass(frozen=True)
class EscRun:
    """A complete run: all that says which one it is, then what came of it.

    `inputs` are digests of the features it was trained and tested on, and how these were made. Zero-shot classifiers
    have neither `hyperparameters` nor `val`. Accuracies are 0 to 1; `test` is None unless the run was tested. The
    classifier is that of the first best `step`; a run that `diverged` has the best from before it did. `seconds` is its
    share of its stack's time.
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
        """Raises ValueError for a run that is none of the benchmark's."""
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
        """Which run it is among those of its file."""
        return self.method, self.split, self.draw, tuple((self.hyperparameters or {}).values())


ALIKE = ("encoder", "features", "test", "text", "prompts", "audio encoder", "sounds", "audio")
"""Inputs that do not depend on splits: all runs of a benchmark that have them have the same."""


class Score(NamedTuple):
    """Test accuracies, 0 to 1, of a method by (split, draw), and the runs that validation selected for them."""

    accuracies: dict[tuple[int, int], float]
    runs: tuple[EscRun, ...]


def esc_dir(folder: str | Path, benchmark: str = "imagenet_esc", max_iter: int = MAX_ITER) -> Path:
    """The folder of a benchmark's runs of so many steps, below `--esc_result_dir`."""
    parts = ["demo"] * (benchmark == "demo_esc") + [f"iter_{max_iter}"] * (max_iter != MAX_ITER)
    return Path(folder).joinpath(*parts)


def runs_path(task: str, classes: int, shots: int, folder: str | Path) -> Path:
    """Where the runs of a task, class set and number of shots lie."""
    return Path(folder) / f"{task}_{classes}-shot_{shots}.jsonl"


def read_runs(task: str, classes: int, shots: int, folder: str | Path) -> dict[tuple, EscRun]:
    """The complete runs of a file by their keys. Raises UserError for a line that is no run of it, or repeats one."""
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
                raise ValueError("the run is in an earlier line too")
        except NOT_A_RECORD as error:
            raise UserError(
                f"{path}, line {number}, is not a run of this file ({error}); remove the line and run imagenet_esc.py"
            ) from error
        found[run.key] = run
    return found


def add_runs(runs: Iterable[EscRun], folder: str | Path) -> None:
    """Add complete runs to their files, in place of earlier ones of the same keys.

    Each file is replaced atomically: a kill loses these runs at most. One process at a time may add to a file.
    """
    by_file: dict[tuple[str, int, int], list[EscRun]] = {}
    for run in runs:
        by_file.setdefault((run.task, run.classes, run.shots), []).append(run)
    for place, own in by_file.items():
        merged = read_runs(*place, folder) | {run.key: run for run in own}
        lines = [json.dumps(vars(run), separators=(",", ":")) + "\n" for _, run in sorted(merged.items())]
        write_text(runs_path(*place, folder), "".join(lines))


class EscRecords:
    """The records of a benchmark's cells, in the files below `folder`, which are read once.

    A run stands there for each of its draws.
    """

    option = "--esc_result_dir"

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._files: dict[tuple[str, int, int], dict[tuple, EscRun]] = {}
        self._unwritten: list[EscRun] = []

    def read(self, cell: EscCell) -> dict[Hparams, Record]:
        """Return the runs of a cell that are there for all of its draws. Raises UserError for another max_iter."""
        records = ((point, self.find(cell, point)) for point in AUDIO)
        return {point: record for point, record in records if record is not None}

    def find(self, cell: EscCell, hparams: Hparams) -> Record | None:
        """Return the record of a run, which is tested if it is in all of its draws; None without one."""
        points = tuple(hparams.values())
        found = [self._runs(cell).get((cell.probe, cell.split, draw, points)) for draw in cell.draws]
        runs = [run for run in found if run is not None]
        if len(runs) < len(found):
            return None
        if other := [run for run in runs if run.max_iter != cell.max_iter]:
            raise UserError(
                f"{self.place(cell)} holds runs of {other[0].max_iter} steps, not of {cell.max_iter}; remove it, or"
                f" give another {self.option}"
            )
        run = runs[0]
        tests = {} if None in [own.test for own in runs] else {TEST: run.test}
        accuracies, how = {TRAINED: {VAL: run.val} | tests}, (run.seconds or 0.0, run.versions, run.diverged)
        return Record(cell, hparams, run.inputs, list(AUDIO), run.step or 0, accuracies, *how)

    def write(self, record: Record) -> None:
        """Take a record for the next `flush`."""
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
        """Add the records to their files."""
        add_runs(self._unwritten, self.folder)
        self._unwritten.clear()

    def remove(self, cell: EscCell, hparams: Hparams) -> None:
        """Raise NotImplementedError: the benchmark's features do not change."""
        raise NotImplementedError

    def place(self, cell: EscCell) -> Path:
        """Return the file with the runs of a cell."""
        return runs_path(cell.task, cell.classes, cell.shots, self.folder)

    def path(self, cell: EscCell, hparams: Hparams) -> Path:
        """Return the file with a run."""
        return self.place(cell)

    def zero_shot(self, task: str, classes: int, shots: int) -> dict[tuple, EscRun]:
        """Return the zero-shot classifiers of a file by their keys."""
        runs = self._read(task, classes, shots)
        return {key: run for key, run in runs.items() if run.method in ZERO_SHOT}

    def _runs(self, cell: EscCell) -> dict[tuple, EscRun]:
        return self._read(cell.task, cell.classes, cell.shots)

    def _read(self, *place: Any) -> dict[tuple, EscRun]:
        if place not in self._files:
            self._files[place] = read_runs(*place, self.folder)
        return self._files[place]


def check_inputs(runs: Iterable[EscRun], folder: str | Path) -> None:
    """Raise UserError, naming two files, when runs of a benchmark were trained or tested on different features."""
    first: dict[str, EscRun] = {}
    for run in runs:
        own = [name for name in ALIKE if name in run.inputs]
        differ = [name for name in own if first.setdefault(name, run).inputs[name] != run.inputs[name]]
        if differ:
            one, two = (runs_path(r.task, r.classes, r.shots, folder) for r in (first[differ[0]], run))
            raise UserError(
                f"{one} and {two} hold runs on different inputs ({', '.join(differ)}), which are no one benchmark;"
                " remove those that are not wanted and run imagenet_esc.py"
            )


def score(runs: dict[tuple, EscRun], method: str) -> Score:
    """A method's test accuracies where its grid is complete and the run that validation selects is tested."""
    points = [tuple(point.values()) for point in AUDIO] if method in PROBES else [()]
    accuracies, chosen = {}, []
    for pair in ((split, draw) for split in SPLITS for draw in DRAWS):
        own = {point: runs.get((method, *pair, point)) for point in points}
        if None in own.values():
            continue
        run = own[select(points, {point: own[point].val for point in points}) if len(points) > 1 else ()]
        if run.test is not None:
            accuracies[pair] = run.test
            chosen.append(run)
    return Score(accuracies, tuple(chosen))


def mean_and_deviation(found: Score) -> tuple[float, float] | None:
    """Mean and standard deviation (of the population), 0 to 1, over all 25 runs; None unless all are there."""
    values = list(found.accuracies.values())
    if len(values) < len(SPLITS) * len(DRAWS):
        return None
    return statistics.fmean(values), statistics.pstdev(values)


def wins(runs: dict[tuple, EscRun]) -> tuple[int, int]:
    """In how many runs the audio-visual probe beats the uni-modal one, and of how many both are there."""
    one, other = (score(runs, method).accuracies for method in (AUDIO_VISUAL, UNI_MODAL))
    both = one.keys() & other.keys()
    return sum(one[pair] > other[pair] for pair in both), len(both)
