"""Runs as values, and their records on disk.

    experiments/<dataset>-shot_<s>-seed_<k>/<features>/<modality>-<head>_<init>/<logit>-<grid>/<hyperparameters>/record.json

A *cell* (dataset, shots, seed, method) is one grid of hyper-parameters; a run is one point of it. A record is written
last and atomically: it exists if and only if its run is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine import schema
from engine.datasets.few_shot import MAX_VAL_SHOT, Shots
from engine.errors import UserError
from engine.files import list_matching, parse_json, read_bytes, write_json
from engine.methods import GRIDS
from engine.training.grid import Hyperparameters
from engine.training.schedule import MAX_ITER, MAX_LOGIT


@dataclass(frozen=True)
class Cell:
    """All that a grid of runs has in common. `encoder` is the encoder's folder name, `hyperparams` the grid's."""

    dataset: str
    shots: Shots
    seed: int
    encoder: str
    image_layer: int
    text_layer: int
    text_augmentation: str
    image_augmentation: str
    image_views: int
    modality: str
    head: str
    init: str
    logit: float
    hyperparams: str
    max_iter: int = MAX_ITER
    max_val_shot: int = MAX_VAL_SHOT

    def __post_init__(self):
        if not abs(self.logit) <= MAX_LOGIT:
            raise ValueError(f"logit is {self.logit}, beyond {MAX_LOGIT} on either side of 0")

    def folder(self, result_dir: str | Path) -> Path:
        """Where the runs of this cell lie under `result_dir`."""
        shots = f"{self.dataset}-shot_{self.shots}-seed_{self.seed}"
        if self.max_val_shot != MAX_VAL_SHOT:
            shots += f"-val_{self.max_val_shot}"
        features = (
            f"{self.encoder}-image_{self.image_layer}-text_{self.text_layer}"
            f"-{self.text_augmentation}-{self.image_augmentation}_{self.image_views}"
        )
        logit = f"logit_{self.logit}-{self.hyperparams}" + (
            f"-iter_{self.max_iter}" if self.max_iter != MAX_ITER else ""
        )
        return Path(result_dir) / shots / features / f"{self.modality}-{self.head}_{self.init}" / logit

    def __str__(self) -> str:
        return f"{self.dataset} {self.shots}-shot seed {self.seed}"


@dataclass(frozen=True)
class Accuracy:
    """Accuracies, 0 to 1, of one classifier; `test` is None until it is tested."""

    val: float
    test: float | None = None

    def __post_init__(self):
        require_accuracies(self.val, self.test)


def require_accuracies(*accuracies: float | None) -> None:
    """Raise ValueError for accuracies that are not from 0 to 1; None is one that is yet to be measured."""
    for accuracy in accuracies:
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"an accuracy is {accuracy}, which is not from 0 to 1")


CLASSIFIERS = ("trained", "wiseft", "zeroshot")
"""The classifiers of which a record has accuracies."""


WAYS = ("features", "prompts")
"""What a run's inputs have beside digests where features of images or prompts were not made as the protocol says."""

USUAL = "usual"
"""What stands for them where they were."""


def input_of(inputs: dict[str, str], name: str) -> str:
    """One of the inputs of a run for a person to read: the beginning of a digest, or how features were made."""
    return inputs.get(name, USUAL) if name in WAYS else inputs.get(name, "none")[:12]


ALL_CLASSES = "/all_classes"
"""What the name of a test set with a part of the classes ends in, where predictions are among all of them."""


@dataclass(frozen=True)
class Shifted:
    """Accuracies, 0 to 1, of a run's three classifiers on a further test set; `inputs` is the digest of its list."""

    inputs: str
    trained: float
    wiseft: float
    zeroshot: float

    def __post_init__(self):
        require_accuracies(self.trained, self.wiseft, self.zeroshot)


@dataclass(frozen=True)
class Record:
    """A complete run.

    `inputs` are the digests of what it was trained on: the encoder's weights, lists of images, prompts, split. `grid`
    are the valid points of its cell, in order. `trained` is the classifier of the first best `step`; `wiseft` the same
    after WiSE-FT, `zeroshot` the one it went back to. A run that `diverged` has the best step from before it did.
    `seconds` is the run's share of its stack's time. `shifted` are the further test sets that the run was tested on, by
    name: `imagenet_a` where predictions are among its 200 classes, `imagenet_a/all_classes` where among all.
    """

    cell: Cell
    hyperparameters: Hyperparameters
    inputs: dict[str, str]
    grid: list[Hyperparameters]
    step: int
    trained: Accuracy
    wiseft: Accuracy
    zeroshot: Accuracy
    seconds: float = field(compare=False)
    versions: dict[str, str] = field(compare=False)
    diverged: bool = False
    shifted: dict[str, Shifted] = field(default_factory=dict)

    def __post_init__(self):
        """Raises ValueError for a run that cannot be."""
        if self.step < 0:
            raise ValueError(f"step is {self.step}")
        if self.hyperparameters not in self.grid:
            raise ValueError("its hyperparameters are not in its grid")
        if self.tested and None in (self.wiseft.test, self.zeroshot.test):
            raise ValueError("of its three classifiers not all are tested")

    @property
    def tested(self) -> bool:
        return self.trained.test is not None


def runs_digest(records: Iterable[Any], shifted: bool = False) -> str:
    """What tells the runs behind a number apart: 12 hex digits of a SHA-256 over all that a record says of its run.

    `records` are `Record`s, or other dataclasses that say all about a run; the digest of none is ''.

    Timings and versions do not count, so that a run trained again, which is the same run, gives the same digest; nor
    does the order of the records. `shifted` is for numbers that come from shifted test sets, which do not count else.
    """
    kept = []
    for record in records:
        content = asdict(record)
        for name in ("seconds", "versions", *([] if shifted else ["shifted"])):
            content.pop(name, None)
        kept.append(json.dumps(content, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(set(kept))).encode()).hexdigest()[:12] if kept else ""


RECORD = "record.json"
"""What a record is called, in the folder of its run."""


def record_path(cell: Cell, hyperparameters: Hyperparameters, result_dir: str | Path) -> Path:
    """Where the record of a run lies."""
    lr, weight_decay, batch_size = hyperparameters
    return cell.folder(result_dir) / f"lr_{lr:g}-wd_{weight_decay:g}-bs_{batch_size}" / RECORD


def write_record(record: Record, result_dir: str | Path) -> None:
    """Write a record, atomically."""
    write_json(record_path(record.cell, record.hyperparameters, result_dir), asdict(record))


def read_record(path: Path) -> Record:
    """Read a record. Raises UserError for a file that is not one, CannotOpen for one that cannot be read now."""
    try:
        return record_of(parse_json(read_bytes(path)))
    except NOT_A_RECORD as error:
        raise UserError(f"{path} is not a run's record ({error}); remove it and train again") from error


NOT_A_RECORD = (ValueError, RecursionError)
"""What JSON and `record_of` raise for something else."""


def record_of(content: Any) -> Record:
    """The record whose `asdict` this is, as JSON keeps it. Raises ValueError for anything else."""
    return schema.build(Record, content, "record")


def read_cell(cell: Cell, result_dir: str | Path) -> dict[Hyperparameters, Record]:
    """The complete runs of a cell.

    Raises UserError for a record that cannot be read or belongs elsewhere, and for one whose grid is not its method's
    or not that of the records beside it: validation would select among other runs than all.
    """
    records: dict[Hyperparameters, Record] = {}
    first: tuple[Path, Record] | None = None
    for path in (run / RECORD for run in list_matching(cell.folder(result_dir), "*")):
        if not path.exists():
            continue
        record = read_record(path)
        if record.cell != cell:
            raise UserError(f"{path} says it is {record.cell}, and it lies in the folder of {cell}; remove it")
        place = record_path(cell, record.hyperparameters, result_dir).parent.name
        if place != path.parent.name:
            raise UserError(f"{path} is the record of {place}, and lies in another run's folder; remove it")
        require_grid(record, path)
        first = first or (path, record)
        if record.grid != first[1].grid:
            raise UserError(f"{first[0]} and {path} have different grids; remove the wrong one and train again")
        records[record.hyperparameters] = record
    return records


def require_grid(record: Record, path: Path) -> None:
    """Raise UserError unless the grid of a record is its method's: all of it, or up to some batch size.

    Larger batches than the samples of a cell admit leave a grid.
    """
    largest = max(point.batch_size for point in record.grid)
    points = GRIDS.get(record.cell.hyperparams, ())
    if record.grid != [point for point in points if point.batch_size <= largest]:
        raise UserError(
            f"{path}: its grid is not the grid '{record.cell.hyperparams}' of its method; remove it and train again"
        )


def select(grid: list[Hyperparameters], val_accuracy: dict[Hyperparameters, float]) -> Hyperparameters:
    """The point with the highest validation accuracy, the first in the grid's order (lr, weight decay, batch size)."""
    return max(grid, key=lambda point: val_accuracy[point])


def selected(records: dict[Hyperparameters, Record]) -> Record | None:
    """The run that validation selects among those of a cell; None while the grid is incomplete."""
    if not records:
        return None
    grid = next(iter(records.values())).grid
    if set(grid) - records.keys():
        return None
    return records[select(grid, {point: record.trained.val for point, record in records.items()})]
