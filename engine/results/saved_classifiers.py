"""The classifier of the run that validation selects, kept beside the run's record with all that it takes to use it.

    experiments/.../<hyper-parameters>/classifier.safetensors

Tensors have their names in `engine.model.LinearClassifier`: `head.weight` [C, D] and `head.bias` [C]; of the module
before the linear layer, such as an adapter, `embedding.phi.*`; of fine-tuning the trained layers of the image encoder,
`embedding.encoders.0.part.*`. `zeroshot` [C, D] is the classifier that WiSE-FT averages with. The
rest is JSON among the metadata, with the run's record and a digest of the whole content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine import schema
from engine.datasets.checks import list_preview
from engine.digests import tensors_digest
from engine.errors import UserError
from engine.files import CannotOpen, entries_below, opening, parse_json, write_tensors
from engine.model import WISE_FT_RATIO
from engine.preprocessing import Preprocessing
from engine.results.old_records import convert_classifier
from engine.results.runs import (
    NOT_A_RECORD,
    RECORD,
    Cell,
    Record,
    read_record,
    record_path,
    same_run,
)
from engine.training.grid import Hparams

FILE = "classifier.safetensors"
FORMAT = 4
"""Raised when files change so that an earlier version of this project would misread them."""
ADAPTER_FORMAT, ADAPTER = 2, ("embedding.adapter.", "embedding.phi.")
"""Up to which format an adapter's tensors had other names, and how these begin now."""
ABOUT = "classifier"
"""Where the metadata have the JSON."""
DIGEST = "content"
"""Where the JSON states the digest of the tensors and of the rest of it; files of earlier versions have none."""
LISTED = 20
"""How many classifiers an error lists."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(Preprocessing):
    """How the features that a classifier takes are made of an image: prepared for the encoder, and encoded.

    `encoder` is the name that `--clip-encoder` takes; the digest of its weights is the run's input of that name.
    `precision` and `decode` are those of features.py; `upright` if the image is turned first, as its EXIF data say. Of
    images of more than 8 bits the upper 8 of `depth` are taken, and transparent pixels are shown on `background`, or in
    the colours beneath where that is empty, as it is in files of earlier versions.
    """

    encoder: str
    precision: str = "fp32"
    decode: str = "pil"
    upright: bool = False
    depth: int = 16
    background: str = ""


@dataclass(frozen=True, eq=False)
class SavedClassifier:
    """A trained classifier: `tensors` by name, its class names by label, and the run that it is of."""

    extraction: FeatureExtraction
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
        super().__init__(f"{place} has no classifier, as none was kept of {list_preview(named)}")
        self.cells = cells


def classifier_path(cell: Cell, hyperparameters: Hparams, result_dir: str | Path) -> Path:
    """Where the classifier of a run lies, if it was kept."""
    return record_path(cell, hyperparameters, result_dir).with_name(FILE)


def tensors_to_save(state: Mapping[str, Tensor], zeroshot: Tensor) -> dict[str, Tensor]:
    """Return what is kept of the state of a `LinearClassifier`: all but the trained layers of the text encoder."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("embedding.encoders.1.")}
    kept["zeroshot"] = zeroshot
    # copies, as those of runs that were trained side by side are views of one tensor
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in kept.items()}


def save(kept: SavedClassifier, result_dir: str | Path) -> None:
    """Write the classifier of the run that validation selects, atomically; those of other runs of its cell go.

    Raises UserError for weights that are not finite.
    """
    path = classifier_path(kept.run.cell, kept.run.hyperparameters, result_dir)
    try:
        _check_weights(kept)
    except ValueError as error:
        raise UserError(f"{path} is not written: {error}") from error
    about = asdict(replace(kept, tensors={}))
    del about["tensors"]
    about = {"format": FORMAT} | about
    digest = _digest(about, kept.tensors)
    write_tensors(path, kept.tensors, {ABOUT: json.dumps(about | {DIGEST: digest})})
    for other in path.parent.parent.glob(f"*/{FILE}"):
        if other != path:
            other.unlink(missing_ok=True)


def is_saved(record: Record, result_dir: str | Path) -> bool:
    """Whether the classifier of this very run is there, whole, and can be read."""
    path = classifier_path(record.cell, record.hyperparameters, result_dir)
    try:
        return path.is_file() and same_run(read(path).run, record)
    except CannotOpen:  # training anew would replace a file that may be sound
        raise
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
    found = [] if place.is_file() else _named(folder, FILE)
    if len(found) > 1:
        some = [f"  {path.parent}" for path in found[:LISTED]] + ["  ..."] * (len(found) > LISTED)
        raise UserError("\n".join([f"{place} holds {len(found)} classifiers; give the folder of one of them:", *some]))
    if found:
        return found[0]
    records = [place] if place.is_file() else _named(folder, RECORD)
    if not records:
        raise UserError(f"{place} holds neither a classifier nor a run's record; train.py --save-heads makes them")
    raise MissingClassifier(place, dict(_cell_and_results(path) for path in records))


def _named(folder: Path, name: str) -> list[Path]:
    """All files of a name in and below a folder, links followed."""
    return sorted(Path(entry.path) for entry in entries_below(folder) if entry.name == name)


def read(path: Path) -> SavedClassifier:
    """Read a classifier.

    Raises UserError for a file that is not one, that is not as it was written, or a newer version's, and for one of
    another run than the record beside it.
    """
    try:
        with opening(path), safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get(ABOUT, "null"))
            if not isinstance(about, dict):
                raise ValueError(f"it has no metadata '{ABOUT}'")
            written = schema.build(int, about.get("format"), "format")
            if written > FORMAT:
                raise UserError(f"{path} was written by a newer version of this project, which this one cannot read")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = about.pop(DIGEST, None)
        if digest not in (None, _digest(about, tensors)):
            raise ValueError("its content is not what was written")
        if written <= ADAPTER_FORMAT:
            tensors = {name.replace(*ADAPTER): tensor for name, tensor in tensors.items()}
        kept = _kept(about, tensors)
    except (SafetensorError, OSError, RuntimeError, *NOT_A_RECORD) as error:  # torch's for types that it hardly knows
        raise UserError(
            f"{path} is not a trained classifier, or it is damaged ({error}); where train.py"
            " --save-heads wrote it, remove it, and the same command makes it anew"
        ) from error
    record = path.with_name(RECORD)
    if record.is_file() and not same_run(read_record(record), kept.run):
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


def _kept(about: dict[str, Any], tensors: dict[str, Tensor]) -> SavedClassifier:
    """The classifier that the JSON in its file tells of. Raises ValueError where that or the tensors cannot be."""
    about = convert_classifier(about)
    types = {"extraction": FeatureExtraction, "classnames": list[str], "run": Record, "wiseft_ratio": float}
    kept = SavedClassifier(
        **{name: schema.build(kind, about.get(name), name) for name, kind in types.items()}, tensors=tensors
    )
    if not 0 <= kept.wiseft_ratio <= 1:
        raise ValueError(f"wiseft_ratio is {kept.wiseft_ratio}, which is not from 0 to 1")
    if "encoder" not in kept.run.inputs:
        raise ValueError("run.inputs has no encoder")
    weight = tensors.get("head.weight")
    if weight is not None and weight.dim() and len(weight) != len(kept.classnames):
        raise ValueError(f"it has weights of {len(weight)} classes, and {len(kept.classnames)} names of classes")
    _check_weights(kept)
    return kept


def _check_weights(kept: SavedClassifier) -> None:
    """Raise ValueError, naming tensors, for weights that are not finite numbers."""
    bad = [name for name, tensor in kept.tensors.items() if not tensor.float().isfinite().all()]
    if bad:
        raise ValueError(f"weights that are not finite numbers: {list_preview(bad)}")


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """The digest of a classifier's content: `about` is the JSON without it."""
    # as it is read again: JSON makes lists of tuples
    return tensors_digest(tensors, json.dumps(about, sort_keys=True))
