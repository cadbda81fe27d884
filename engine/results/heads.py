"""The classifier of the run that validation selects, kept beside the run's record with all that it takes to use it.

    experiments/.../<hyper-parameters>/classifier.safetensors

Tensors have their names in `engine.model.Classifier`: `head.weight` [C, D]; of an adapter `embedding.adapter.down` and
`.up`; of fine-tuning the trained part of the image encoder, `embedding.encoders.0.part.*`. `zeroshot` [C, D] is what
WiSE-FT goes back to. The rest is JSON among the metadata, the run's record with it: what tells of whom the file is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.datasets.checks import first
from engine.errors import UserError
from engine.files import parse_json, write_tensors
from engine.model import WISE_FT_RATIO
from engine.optimizer import Hyperparameters
from engine.results.runs import (
    NOT_A_RECORD,
    RECORD,
    Cell,
    Record,
    read_record,
    record_of,
    record_path,
    runs_digest,
)

FILE = "classifier.safetensors"
FORMAT = 1
"""Raised when files change so that an earlier version of this project would misread them."""
ABOUT = "classifier"
"""Where the metadata have the JSON."""
LISTED = 20
"""How many classifiers an error lists."""


@dataclass(frozen=True)
class Recipe:
    """How the features that a classifier takes are made of an image.

    `encoder` is the name that `--clip-encoder` takes; the digest of its weights is the run's input of that name.
    The short side of an image is resized to `size`, its centre cropped to size x size, and its pixels, 0 to 1, made
    zero-`mean` with `std`. `precision` and `decode` are those of features.py; `upright` if it is turned first, as its
    EXIF data say.
    """

    encoder: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    precision: str = "fp32"
    decode: str = "pil"
    upright: bool = False


@dataclass(frozen=True, eq=False)
class Kept:
    """A trained classifier: `tensors` by name, its class names by label, and the run that it is of."""

    recipe: Recipe
    classnames: list[str]
    run: Record
    tensors: dict[str, Tensor]
    wiseft_ratio: float = WISE_FT_RATIO


class MissingClassifier(UserError):
    """Runs without a classifier beside their records; `cells` are theirs, with the folder of results if that is known.

    Who knows the command that keeps it adds it.
    """

    def __init__(self, place: Path, cells: dict[Cell, Path | None]):
        named = list(dict.fromkeys(map(str, cells)))  # cells of several methods are called alike
        super().__init__(f"{place} has no classifier, as none was kept of {first(named, len(named))}")
        self.cells = cells


def head_path(cell: Cell, hyperparameters: Hyperparameters, result_dir: str | Path) -> Path:
    """Where the classifier of a run lies, if it was kept."""
    return record_path(cell, hyperparameters, result_dir).with_name(FILE)


def tensors_of(state: Mapping[str, Tensor], zeroshot: Tensor) -> dict[str, Tensor]:
    """What is kept of the state of a trained `engine.model.Classifier`: all but the part of the text encoder."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("embedding.encoders.1.")}
    kept["zeroshot"] = zeroshot
    # copies, as those of runs that were trained side by side are views of one tensor
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in kept.items()}


def keep(kept: Kept, result_dir: str | Path) -> None:
    """Write the classifier of the run that validation selects, atomically; those of other runs of its cell go."""
    path = head_path(kept.run.cell, kept.run.hyperparameters, result_dir)
    about = asdict(replace(kept, tensors={}))
    del about["tensors"]
    write_tensors(path, kept.tensors, {ABOUT: json.dumps({"format": FORMAT} | about)})
    for other in path.parent.parent.glob(f"*/{FILE}"):
        if other != path:
            other.unlink(missing_ok=True)


def is_kept(record: Record, result_dir: str | Path) -> bool:
    """Whether the classifier of this very run is there, whole, and can be read."""
    path = head_path(record.cell, record.hyperparameters, result_dir)
    try:
        return path.is_file() and _same(read(path, tensors=False).run, record)
    except UserError:
        return False


def find(place: Path) -> Path:
    """The file of the classifier that `place` means: itself, the one beside a record, or the only one in a folder.

    Raises UserError where there is none or several, MissingClassifier where there are runs without.
    """
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder")
    if place.is_file() and place.name != RECORD:
        return place
    folder = place.parent if place.is_file() else place
    if (beside := folder / FILE).is_file():
        return beside
    found = [] if place.is_file() else sorted(folder.rglob(FILE))
    if len(found) > 1:
        some = [f"  {path.parent}" for path in found[:LISTED]] + ["  ..."] * (len(found) > LISTED)
        raise UserError("\n".join([f"{place} holds {len(found)} classifiers; give the folder of one of them:", *some]))
    if found:
        return found[0]
    records = [place] if place.is_file() else sorted(folder.rglob(RECORD))
    if not records:
        raise UserError(f"{place} holds neither a classifier nor a run's record; train.py --save-heads makes them")
    raise MissingClassifier(place, dict(_cell_and_results(path) for path in records))


def read(path: Path, *, tensors: bool = True) -> Kept:
    """Read a classifier; without `tensors` only what its file says of itself, and whether that has its full length.

    Raises UserError for a file that is not one, or a newer version's, and for one of another run than the record
    beside it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {})[ABOUT])
            if about.pop("format") > FORMAT:
                raise UserError(f"{path} was written by a newer version of this project, which this one cannot read")
            kept = _kept(about, {name: file.get_tensor(name) for name in (file.keys() if tensors else ())})
    except (SafetensorError, OSError, *NOT_A_RECORD) as error:
        raise UserError(
            f"{path} is not a trained classifier, or it is damaged ({type(error).__name__}: {error}); where train.py"
            " --save-heads wrote it, remove it, and the same command makes it anew"
        ) from error
    record = path.with_name(RECORD)
    if record.is_file() and not _same(read_record(record), kept.run):
        raise UserError(
            f"{path} is of another run than {record}, which was trained again since; train.py --save-heads keeps its"
            " classifier"
        )
    return kept


def _cell_and_results(path: Path) -> tuple[Cell, Path | None]:
    """The cell of a record, and the folder of results that the record lies in, unless it was moved out of there."""
    record, above = read_record(path), path.absolute().parents
    results = above[5] if len(above) > 5 else above[-1]
    there = record_path(record.cell, record.hyperparameters, results) == path.absolute()
    return record.cell, results if there else None


def _kept(about: dict[str, Any], tensors: dict[str, Tensor]) -> Kept:
    """The classifier that the JSON in its file tells of."""
    recipe = Recipe(**about["recipe"] | {name: tuple(about["recipe"][name]) for name in ("mean", "std")})
    return Kept(recipe, about["classnames"], record_of(about["run"]), tensors, about["wiseft_ratio"])


def _same(one: Record, other: Record) -> bool:
    """Whether two records are of one run, whatever shifted sets it was tested on."""
    return runs_digest([one]) == runs_digest([other])
