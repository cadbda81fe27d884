"""Runs as values, and their records on disk.

    experiments/<dataset>-shot_<s>-seed_<k>/<features>/<modality>-<head>_<init>/<logit>-<grid>/<hyperparameters>/record.json

A *cell* (dataset, shots, seed, method) is one grid search; a run is one element of its grid of hyper-parameters. The
record is written last and atomically: it exists if and only if the run is complete.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine import schema
from engine.datasets import halves
from engine.datasets.few_shot import MAX_VAL_SHOT, Shots
from engine.errors import UserError
from engine.files import list_matching, parse_json, read_bytes, write_json
from engine.methods import METHODS, REGISTRY, Method
from engine.results.old_records import convert_record
from engine.training.grid import Grid, Hparams
from engine.training.schedule import MAX_ITER, MAX_LOGIT


@dataclass(frozen=True)
class Cell:
    """One grid search: the settings that all runs of a grid share.

    `encoder` is the folder name of the encoder, `hyperparams` the name of the grid, and `log_logit_scale` the natural
    logarithm of the scale of the logits. `classes` are the classes of training and of the test (`datasets.halves`).
    """

    dataset: str
    shots: Shots
    seed: int
    encoder: str
    image_layer: int | str
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
    classes: str = halves.ALL

    def __post_init__(self):
        if self.classes not in halves.HALVES:
            raise ValueError(f"classes is {self.classes}, not {', '.join(halves.HALVES)}")
        if not abs(self.log_logit_scale) <= MAX_LOGIT:
            raise ValueError(f"log_logit_scale is {self.log_logit_scale}, beyond {MAX_LOGIT} on either side of 0")

    @classmethod
    def of_method(cls, name: str, *, modality: str, init: str = "", max_iter: int = MAX_ITER, **others: Any) -> Cell:
        """Return the cell of a method with its defaults; `others` are the other fields, or replace defaults.

        Without an `init` that the method takes, uni-modal classifiers start at random if they can, as zero-shot weights
        already use text. Methods with a length of their own ignore `max_iter`.
        """
        method = METHODS[name]
        init = init or ("random" if modality == "uni_modal" else "zeroshot")
        fields = {
            "image_layer": method.image_layer,
            "text_layer": 0,
            "modality": modality,
            "head": REGISTRY[name],
            "init": init if init in method.inits else method.inits[0],
            "log_logit_scale": method.log_logit_scale,
            "hyperparams": name,
            "max_iter": max_iter if method.fit.takes_max_iter else MAX_ITER,
        }
        return cls(**fields | others)

    @property
    def method(self) -> Method:
        """The method that fits the classifiers."""
        return METHODS[self.head]

    @property
    def grid(self) -> Grid:
        """The hyper-parameters to search."""
        return METHODS[self.hyperparams].grid

    @property
    def tests_new(self) -> bool:
        """Whether runs, trained on the base classes, are also tested on the new ones."""
        return self.classes == halves.BASE and self.method.new_classes is not None

    @property
    def untested_new(self) -> str | None:
        """The reason why runs on the base classes are not tested on the new ones, or None."""
        if self.classes != halves.BASE or self.tests_new:
            return None
        title = METHODS[self.hyperparams].title
        return f"{title} cannot classify new classes, as it trains weights of the classes that it sees"

    def folder(self, result_dir: str | Path) -> Path:
        """Return the folder of the cell's runs under `result_dir`."""
        shots = f"{self.dataset}-shot_{self.shots}-seed_{self.seed}"
        if self.max_val_shot != MAX_VAL_SHOT:
            shots += f"-val_{self.max_val_shot}"
        if self.classes != halves.ALL:
            shots += f"-classes_{self.classes}"
        features = (
            f"{self.encoder}-image_{self.image_layer}-text_{self.text_layer}"
            f"-{self.text_augmentation}-{self.image_augmentation}_{self.image_views}"
        )
        logit = f"logit_{self.log_logit_scale}-{self.hyperparams}" + (
            f"-iter_{self.max_iter}" if self.max_iter != MAX_ITER else ""
        )
        return Path(result_dir) / shots / features / f"{self.modality}-{self.head}_{self.init}" / logit

    def __str__(self) -> str:
        classes = "" if self.classes == halves.ALL else f" {self.classes} classes"
        return f"{self.dataset} {self.shots}-shot seed {self.seed}{classes}"


def require_accuracies(accuracies: Iterable[float]) -> None:
    """Raise ValueError unless all accuracies are from 0 to 1."""
    for accuracy in accuracies:
        if not 0 <= accuracy <= 1:
            raise ValueError(f"an accuracy is {accuracy}, which is not from 0 to 1")


TRAINED, WISEFT, ZEROSHOT = "trained", "wiseft", "zeroshot"
"""The classifiers in a record: the fitted classifier, its WiSE-FT, and the zero-shot classifier."""
RATIOS = {TRAINED: 0.0, WISEFT: 0.5}
"""The share of the zero-shot weights in the weights of these classifiers."""
VAL, TEST, NEW = "val", "test", halves.NEW
"""The sets of the training dataset, `new` with the new classes; all other sets in a record are shifted test sets."""
EXTRACTION_KEYS = ("features", "prompts")
"""Keys of a run's inputs for non-default settings of feature extraction; absent for default settings."""
DEFAULT_EXTRACTION = "usual"
"""The value of an absent extraction key, in text and in records of ImageNet-ESC."""
ALL_CLASSES = "/all_classes"
"""Suffix of a shifted set's name: predictions among all classes, although the set has a subset of them."""


def spell_modality(modality: str) -> str:
    """Return the name of a modality for people: `cross-modal`."""
    return modality.replace("_", "-")


def describe_input(inputs: dict[str, str], name: str) -> str:
    """Return one input of a run as text: the first digits of a digest, or the settings of feature extraction."""
    return inputs.get(name, DEFAULT_EXTRACTION) if name in EXTRACTION_KEYS else inputs.get(name, "none")[:12]


def differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    """Return the inputs that differ between a record (`found`) and the present cell as text."""
    names = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    pairs = [f"{name}: {describe_input(found, name)} there, {describe_input(wanted, name)} here" for name in names]
    return ", ".join(pairs) or "the grid"


@dataclass(frozen=True)
class Record:
    """A complete run.

    `inputs` are digests of the training inputs: encoder weights, lists of images, prompts, split. `grid` lists the
    valid hyper-parameters of the cell in order. `step` is the 0-based training step of the classifier. `tuned` are
    values that the method selected on validation inside the run. If a run `diverged`, its step is the best one before.
    `accuracies`, from 0 to 1, are by classifier (`trained`, `wiseft`, `zeroshot`) and set: `val`, `test` once tested,
    `new` (new classes, predictions among these), and shifted sets, such as `imagenet_a` (predictions among its 200
    classes) and `imagenet_a/all_classes`. `shifted` are the digests of all sets but the first two. `seconds` is the
    run's share of the training time of its stack.
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
        """Raise ValueError for impossible values."""
        if self.step < 0:
            raise ValueError(f"step is {self.step}, not 0 or more")
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
        """The validation accuracy, by which runs are selected."""
        return self.accuracies[TRAINED][VAL]

    @property
    def tested(self) -> bool:
        """Whether the run has an accuracy on the dataset's test set."""
        return TEST in self.accuracies[TRAINED]

    def accuracy(self, classifier: str, of_set: str = TEST) -> float | None:
        """Return the accuracy of a classifier on a set, or None if it is not recorded."""
        return self.accuracies.get(classifier, {}).get(of_set)

    def describe(self, of_set: str = TEST) -> str:
        """Return the accuracies of the classifiers on a set as text."""
        titles = {TRAINED: "test", WISEFT: "WiSE-FT", ZEROSHOT: "zero-shot"}
        found = {title: self.accuracy(name, of_set) for name, title in titles.items()}
        return "  ".join(f"{title} {accuracy:6.1%}" for title, accuracy in found.items() if accuracy is not None)

    def with_tests_of(self, other: Record) -> Record:
        """Return `other`, a record of the same run, with the test accuracies of both records."""
        found = {name: of | other.accuracies[name] for name, of in self.accuracies.items()}
        return replace(other, accuracies=found, shifted=self.shifted | other.shifted)

    def untested(self) -> Record:
        """Return the run without its test accuracies."""
        val = {name: {VAL: found[VAL]} for name, found in self.accuracies.items()}
        return replace(self, accuracies=val, shifted={})


def runs_digest(records: Iterable[Any], shifted: bool = False) -> str:
    """Return a digest of the runs behind a number: 12 hex digits of a SHA-256, or '' for no runs.

    `records` are `Record`s or other dataclasses that describe runs completely. Timings, versions and the order of the
    records are ignored, so a retrained run has the same digest. Accuracies on shifted test sets are ignored unless
    `shifted`.
    """
    contents = []
    for record in records:
        content = as_json(record)
        for name in ("seconds", "versions"):
            content.pop(name, None)
        if not shifted and "accuracies" in content:
            accuracies = record.accuracies.items()
            unshifted = {name: {of: found[of] for of in (VAL, TEST, NEW) if of in found} for name, found in accuracies}
            content |= {"accuracies": unshifted, "shifted": {}}
        contents.append(json.dumps(content, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(set(contents))).encode()).hexdigest()[:12] if contents else ""


def same_run(one: Record, other: Record) -> bool:
    """Return whether two records describe the same run; shifted test sets are ignored."""
    return runs_digest([one]) == runs_digest([other])


def as_json(record: Any) -> dict[str, Any]:
    """Return the JSON of a record, as before there were halves of classes if it is of all classes."""
    content = asdict(record)
    if content.get("cell", {}).get("classes") == halves.ALL:
        del content["cell"]["classes"]
    return content


RECORD = "record.json"
"""The file name of a record, in the folder of the run."""


def record_path(cell: Cell, hyperparameters: Hparams, result_dir: str | Path) -> Path:
    """Return the path of the record of a run."""
    return cell.folder(result_dir) / hyperparameters.folder / RECORD


def write_record(record: Record, result_dir: str | Path) -> None:
    """Write a record, atomically."""
    write_json(record_path(record.cell, record.hyperparameters, result_dir), as_json(record))


def read_record(path: Path) -> Record:
    """Return the record in a file. Raises UserError for invalid content, CannotOpen if the file cannot be opened."""
    try:
        return record_of(parse_json(read_bytes(path)))
    except NOT_A_RECORD as error:
        raise UserError(f"{path} is not a run's record ({error}); remove it and train again") from error


NOT_A_RECORD = (ValueError, RecursionError)
"""Errors of `parse_json` and `record_of` for invalid content."""


def record_of(content: Any) -> Record:
    """Return the record for the JSON of its `asdict`. Raises ValueError for anything else."""
    return schema.build(Record, convert_record(content), "record")


def read_cell(cell: Cell, result_dir: str | Path) -> dict[Hparams, Record]:
    """Return the complete runs of a cell by their hyper-parameters.

    Raises UserError for an unreadable or misplaced record, and for a grid that differs from the method's grid or from
    the grid of another record of the cell: validation would select among different runs.
    """
    records: dict[Hparams, Record] = {}
    first: tuple[Path, Record] | None = None
    for path in (run / RECORD for run in list_matching(cell.folder(result_dir), "*")):
        if not path.exists():
            continue
        record = read_record(path)
        if record.cell != cell:
            raise UserError(f"{path} is a record of {record.cell}, but is in the folder of {cell}; remove it")
        if record.hyperparameters.folder != path.parent.name:
            raise UserError(f"{path} is the record of {record.hyperparameters.folder}, another run; remove it")
        require_grid(record, path)
        first = first or (path, record)
        if record.grid != first[1].grid:
            raise UserError(f"{first[0]} and {path} have different grids; remove the wrong one and train again")
        records[record.hyperparameters] = record
    return records


def require_grid(record: Record, path: Path) -> None:
    """Raise UserError unless the grid of a record is the grid of its method, whole or up to some batch size.

    A cell with few samples omits the batch sizes that are too large for them.
    """
    largest = max(hparams.get("batch_size", 0) for hparams in record.grid)
    grid = record.cell.grid if record.cell.hyperparams in METHODS else ()
    if record.grid != [hparams for hparams in grid if hparams.get("batch_size", 0) <= largest]:
        raise UserError(
            f"{path}: its grid is not the grid '{record.cell.hyperparams}' of its method; remove it and train again"
        )


class Records(ABC):
    """The records of a sweep on disk. `option` is the argument that sets another folder."""

    option: str

    @abstractmethod
    def read(self, cell: Any) -> dict[Hparams, Record]:
        """Return the complete runs of a cell."""

    @abstractmethod
    def find(self, cell: Any, hparams: Hparams) -> Record | None:
        """Return the present record of a run, which another process may have written, or None."""

    @abstractmethod
    def write(self, record: Record) -> None:
        """Write a record, at the next `flush` at the latest."""

    def flush(self) -> None:  # noqa: B027
        """Write all records that are not written yet."""

    @abstractmethod
    def remove(self, cell: Any, hparams: Hparams) -> None:
        """Remove the record of a run."""

    @abstractmethod
    def location(self, cell: Any) -> Path:
        """Return the file or folder with the records of a cell."""

    @abstractmethod
    def path(self, cell: Any, hparams: Hparams) -> Path:
        """Return the file with the record of a run."""


@dataclass(frozen=True)
class RecordFiles(Records):
    """Records of runs on datasets: one file in the folder of each run, below `result_dir`."""

    result_dir: str | Path
    option = "--result_dir"

    def read(self, cell: Cell) -> dict[Hparams, Record]:
        return read_cell(cell, self.result_dir)

    def find(self, cell: Cell, hparams: Hparams) -> Record | None:
        path = self.path(cell, hparams)
        return read_record(path) if path.exists() else None

    def write(self, record: Record) -> None:
        write_record(record, self.result_dir)

    def remove(self, cell: Cell, hparams: Hparams) -> None:
        self.path(cell, hparams).unlink(missing_ok=True)

    def location(self, cell: Cell) -> Path:
        return cell.folder(self.result_dir)

    def path(self, cell: Cell, hparams: Hparams) -> Path:
        return record_path(cell, hparams, self.result_dir)


def select(grid: Iterable[Hparams], val_accuracy: Mapping[Hparams, float]) -> Hparams:
    """Return the hyper-parameters with the highest validation accuracy; ties go to the first in the grid."""
    return max(grid, key=lambda hparams: val_accuracy[hparams])


def selected(records: Mapping[Hparams, Record]) -> Record | None:
    """Return the run of a cell that validation selects, or None while the grid is incomplete."""
    if not records:
        return None
    grid = next(iter(records.values())).grid
    if set(grid) - records.keys():
        return None
    return records[select(grid, {hparams: record.val for hparams, record in records.items()})]
