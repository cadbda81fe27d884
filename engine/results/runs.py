"""Runs as values, and their records on disk.

    experiments/<dataset>-shot_<s>-seed_<k>/<features>/<modality>-<head>_<init>/<logit>-<grid>/<hyperparameters>/record.json

A *cell* (dataset, shots, seed, method) is one grid of hyper-parameters; a run is one point of it. A record is written
last and atomically: it exists if and only if its run is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from engine import schema
from engine.datasets.few_shot import MAX_VAL_SHOT, Shots
from engine.errors import UserError
from engine.files import list_matching, parse_json, read_bytes, write_json
from engine.methods import METHODS, Method
from engine.results.old_records import convert_record
from engine.training.grid import Grid, Hparams
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
    log_logit_scale: float
    hyperparams: str
    max_iter: int = MAX_ITER
    max_val_shot: int = MAX_VAL_SHOT

    def __post_init__(self):
        if not abs(self.log_logit_scale) <= MAX_LOGIT:
            raise ValueError(f"log_logit_scale is {self.log_logit_scale}, beyond {MAX_LOGIT} on either side of 0")

    @property
    def method(self) -> Method:
        """The method that fits its classifiers."""
        return METHODS[self.head]

    @property
    def grid(self) -> Grid:
        """The hyper-parameters of its runs."""
        return METHODS[self.hyperparams].grid

    def folder(self, result_dir: str | Path) -> Path:
        """Return where the runs of this cell lie under `result_dir`."""
        shots = f"{self.dataset}-shot_{self.shots}-seed_{self.seed}"
        if self.max_val_shot != MAX_VAL_SHOT:
            shots += f"-val_{self.max_val_shot}"
        features = (
            f"{self.encoder}-image_{self.image_layer}-text_{self.text_layer}"
            f"-{self.text_augmentation}-{self.image_augmentation}_{self.image_views}"
        )
        logit = f"logit_{self.log_logit_scale}-{self.hyperparams}" + (
            f"-iter_{self.max_iter}" if self.max_iter != MAX_ITER else ""
        )
        return Path(result_dir) / shots / features / f"{self.modality}-{self.head}_{self.init}" / logit

    def __str__(self) -> str:
        return f"{self.dataset} {self.shots}-shot seed {self.seed}"


def require_accuracies(accuracies: Iterable[float]) -> None:
    """Raise ValueError for accuracies that are not from 0 to 1."""
    for accuracy in accuracies:
        if not 0 <= accuracy <= 1:
            raise ValueError(f"an accuracy is {accuracy}, which is not from 0 to 1")


TRAINED, WISEFT, ZEROSHOT = "trained", "wiseft", "zeroshot"
"""The classifiers of which a record may have accuracies: the fitted one, its WiSE-FT, and the zero-shot classifier."""
VAL, TEST = "val", "test"
"""The sets that are a dataset's own; others are its shifted test sets."""


EXTRACTION_KEYS = ("features", "prompts")
"""What a run's inputs have beside digests where features of images or prompts were not made as the protocol says."""

DEFAULT_EXTRACTION = "usual"
"""What stands for them where they were."""


def describe_input(inputs: dict[str, str], name: str) -> str:
    """One of the inputs of a run for a person to read: the beginning of a digest, or how features were made."""
    return inputs.get(name, DEFAULT_EXTRACTION) if name in EXTRACTION_KEYS else inputs.get(name, "none")[:12]


ALL_CLASSES = "/all_classes"
"""What the name of a test set with a part of the classes ends in, where predictions are among all of them."""


@dataclass(frozen=True)
class Record:
    """A complete run.

    `inputs` are the digests of what it was trained on: the encoder's weights, lists of images, prompts, split. `grid`
    are the valid points of its cell, in order. `step` is the 0-based step that the classifier is of, and `tuned` what
    the method chose on validation inside the run. A run that `diverged` has the best step from before it did.
    `accuracies` are 0 to 1, by classifier (`trained`, `wiseft`, `zeroshot`) and set: `val`, `test` once it is tested,
    and further test sets: `imagenet_a` where predictions are among its 200 classes, `imagenet_a/all_classes` where
    among all. `shifted` are the digests of these further sets. `seconds` is the run's share of its stack's time.
    """

    cell: Cell
    hyperparameters: Hparams
    inputs: dict[str, str]
    grid: list[Hparams]
    step: int
    accuracies: dict[str, dict[str, float]]
    seconds: float = field(compare=False)
    versions: dict[str, str] = field(compare=False)
    diverged: bool = False
    shifted: dict[str, str] = field(default_factory=dict)
    tuned: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        """Raises ValueError for a run that cannot be."""
        if self.step < 0:
            raise ValueError(f"step is {self.step}")
        if self.hyperparameters not in self.grid:
            raise ValueError("its hyperparameters are not in its grid")
        if VAL not in self.accuracies.get(TRAINED, {}):
            raise ValueError("it has no validation accuracy")
        for name, found in self.accuracies.items():
            require_accuracies(found.values())
            if found.keys() != self.accuracies[TRAINED].keys():
                raise ValueError(f"the classifiers {TRAINED} and {name} were not tested on the same sets")

    @property
    def val(self) -> float:
        """The validation accuracy that runs are selected by."""
        return self.accuracies[TRAINED][VAL]

    @property
    def tested(self) -> bool:
        """Whether it was tested on its own test set."""
        return TEST in self.accuracies[TRAINED]

    def accuracy(self, classifier: str, of_set: str = TEST) -> float | None:
        """Return the accuracy of a classifier on a set; None where there is none."""
        return self.accuracies.get(classifier, {}).get(of_set)

    def with_tests_of(self, other: Record) -> Record:
        """Return the run with the test accuracies of `other`, which is the same run, added to its own."""
        found = {name: of | other.accuracies[name] for name, of in self.accuracies.items()}
        return replace(other, accuracies=found, shifted=self.shifted | other.shifted)

    def untested(self) -> Record:
        """Return the run without its test accuracies."""
        val = {name: {VAL: found[VAL]} for name, found in self.accuracies.items()}
        return replace(self, accuracies=val, shifted={})


def runs_digest(records: Iterable[Any], shifted: bool = False) -> str:
    """What tells the runs behind a number apart: 12 hex digits of a SHA-256 over all that a record says of its run.

    `records` are `Record`s, or other dataclasses that say all about a run; the digest of none is ''.

    Timings and versions do not count, so that a run trained again, which is the same run, gives the same digest; nor
    does the order of the records. `shifted` is for numbers that come from shifted test sets, which do not count else.
    """
    kept = []
    for record in records:
        content = asdict(record)
        for name in ("seconds", "versions"):
            content.pop(name, None)
        if not shifted and "accuracies" in content:
            accuracies = record.accuracies.items()
            own = {name: {of: found[of] for of in (VAL, TEST) if of in found} for name, found in accuracies}
            content |= {"accuracies": own, "shifted": {}}
        kept.append(json.dumps(content, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(set(kept))).encode()).hexdigest()[:12] if kept else ""


def same_run(one: Record, other: Record) -> bool:
    """Return whether two records are of one run, whatever shifted sets it was tested on."""
    return runs_digest([one]) == runs_digest([other])


RECORD = "record.json"
"""What a record is called, in the folder of its run."""


def record_path(cell: Cell, hyperparameters: Hparams, result_dir: str | Path) -> Path:
    """Return where the record of a run lies."""
    return cell.folder(result_dir) / hyperparameters.folder / RECORD


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
    return schema.build(Record, convert_record(content), "record")


def read_cell(cell: Cell, result_dir: str | Path) -> dict[Hparams, Record]:
    """The complete runs of a cell.

    Raises UserError for a record that cannot be read or belongs elsewhere, and for one whose grid is not its method's
    or not that of the records beside it: validation would select among other runs than all.
    """
    records: dict[Hparams, Record] = {}
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
    largest = max(point.get("batch_size", 0) for point in record.grid)
    points = record.cell.grid if record.cell.hyperparams in METHODS else ()
    if record.grid != [point for point in points if point.get("batch_size", 0) <= largest]:
        raise UserError(
            f"{path}: its grid is not the grid '{record.cell.hyperparams}' of its method; remove it and train again"
        )


class Records(Protocol):
    """Where the records of a sweep lie."""

    option: str
    """The argument that names another place."""

    def read(self, cell: Any) -> dict[Hparams, Record]:
        """Return the complete runs of a cell."""
        ...

    def find(self, cell: Any, hparams: Hparams) -> Record | None:
        """Return the record of a run as it is now, which another process may have written; None without one."""
        ...

    def write(self, record: Record) -> None:
        """Write a record, by the next `flush` at the latest."""
        ...

    def flush(self) -> None:
        """Write what is not written yet."""
        ...

    def remove(self, cell: Any, hparams: Hparams) -> None:
        """Remove the record of a run."""
        ...

    def place(self, cell: Any) -> Path:
        """Return where the records of a cell lie."""
        ...

    def path(self, cell: Any, hparams: Hparams) -> Path:
        """Return where the record of a run lies."""
        ...


@dataclass(frozen=True)
class RecordFiles:
    """Records of runs on datasets: a file in the folder of each run, below `result_dir`."""

    result_dir: str | Path
    option = "--result_dir"

    def read(self, cell: Cell) -> dict[Hparams, Record]:
        """Return the complete runs of a cell; see `read_cell`."""
        return read_cell(cell, self.result_dir)

    def find(self, cell: Cell, hparams: Hparams) -> Record | None:
        """Return the record of a run as it is now; None without one."""
        path = self.path(cell, hparams)
        return read_record(path) if path.exists() else None

    def write(self, record: Record) -> None:
        """Write a record at once, atomically."""
        write_record(record, self.result_dir)

    def flush(self) -> None:
        """Do nothing: all is written."""

    def remove(self, cell: Cell, hparams: Hparams) -> None:
        """Remove the record of a run."""
        self.path(cell, hparams).unlink(missing_ok=True)

    def place(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return cell.folder(self.result_dir)

    def path(self, cell: Cell, hparams: Hparams) -> Path:
        """Return where the record of a run lies."""
        return record_path(cell, hparams, self.result_dir)


def select(grid: Iterable[Hparams], val_accuracy: Mapping[Hparams, float]) -> Hparams:
    """Return the point with the highest validation accuracy, the first in the order of the grid."""
    return max(grid, key=lambda point: val_accuracy[point])


def selected(records: Mapping[Hparams, Record]) -> Record | None:
    """Return the run that validation selects among those of a cell; None while the grid is incomplete."""
    if not records:
        return None
    grid = next(iter(records.values())).grid
    if set(grid) - records.keys():
        return None
    return records[select(grid, {point: record.val for point, record in records.items()})]
