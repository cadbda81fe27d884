"""Saved classifiers: for each cell the selected run's classifier, in a file beside the record.

    experiments/.../<hyper-parameters>/classifier.safetensors

The file contains all that predictions need. Tensors have their names in `engine.model.LinearClassifier`: `head.weight`
[C, D], `head.bias` [C], `embedding.phi.*` (the module before the linear layer, such as an adapter) and
`embedding.encoders.0.part.*` (fine-tuned layers of the image encoder). `zeroshot` [C, D] is the classifier for WiSE-FT.
`confidences.trained` and `confidences.wiseft` [n] are the top probabilities of the validation images in ascending
order. The metadata contain JSON with the run's record, the calibrations and a digest of the whole content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine import schema
from engine.calibration import Calibration
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
    TRAINED,
    WISEFT,
    Cell,
    Record,
    as_json,
    read_record,
    record_path,
    same_run,
)
from engine.training.grid import Hparams

FILE = "classifier.safetensors"
FORMAT = 5
"""The version of the file format; increased when earlier versions of this project would misread new files."""
ADAPTER_FORMAT, ADAPTER = 2, ("embedding.adapter.", "embedding.phi.")
"""The last format with the old names of an adapter's tensors; the old and the new prefix."""
CONFIDENCES = "confidences."
"""The prefix of the names of the validation images' confidences; missing in files of formats below 5."""
ABOUT = "classifier"
"""The metadata key of the JSON."""
DIGEST = "content"
"""The JSON key of the digest of the tensors and the other JSON; missing in files of early versions."""
LISTED = 20
"""The maximum number of classifiers in an error message."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(Preprocessing):
    """How to extract a classifier's features from an image: preprocessing and encoding.

    `encoder` is a value of `--clip-encoder`; the run's inputs contain the digest of its weights. `precision` and
    `decode` are arguments of features.py. `upright` images are rotated by their EXIF orientation. For images of more
    than 8 bits, the upper 8 of `depth` bits are used. Transparent pixels are shown on `background`; if it is empty, as
    in files of earlier versions, alpha is ignored.
    """

    encoder: str
    precision: str = "fp32"
    decode: str = "pil"
    upright: bool = False
    depth: int = 16
    background: str = ""


@dataclass(frozen=True, eq=False)
class SavedClassifier:
    """A trained classifier: `tensors` by name, class names by label, and the record of its run.

    Classifiers on imported features have no `extraction`; without texts, they have no `zeroshot` tensor.
    `calibrations` and `confidences` are by classifier, `trained` and `wiseft`. `confidences` are the calibrated
    probabilities, float32 [n], of the predicted classes of the validation images in ascending order.
    """

    extraction: FeatureExtraction | None
    classnames: list[str]
    run: Record
    tensors: dict[str, Tensor]
    wiseft_ratio: float = WISE_FT_RATIO
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    confidences: dict[str, Tensor] = field(default_factory=dict)

    def calibration(self, classifier: str) -> Calibration:
        """Return the calibration of `trained` or `wiseft`; files of earlier versions have none."""
        return self.calibrations.get(classifier, Calibration(reason="it was saved before classifiers were calibrated"))

    def classifier(self, ratio: float) -> str | None:
        """Return the classifier with this ratio of WiSE-FT: `trained`, `wiseft`, or None for any other."""
        return {0.0: TRAINED, self.wiseft_ratio: WISEFT}.get(ratio)

    def temperature(self, ratio: float) -> float:
        """Return the temperature at a ratio of WiSE-FT: 1 if no classifier of this ratio was calibrated."""
        name = self.classifier(ratio)
        return 1.0 if name is None else self.calibration(name).temperature

    @property
    def content(self) -> dict[str, Tensor]:
        """All tensors of the file by name."""
        return self.tensors | {CONFIDENCES + name: tensor for name, tensor in self.confidences.items()}


class MissingClassifier(UserError):
    """Runs without a saved classifier. `cells` maps their cells to the result folder, or to None if it is unknown.

    The caller adds the command that saves the classifier.
    """

    def __init__(self, path: Path, cells: dict[Cell, Path | None]):
        names = list(dict.fromkeys(map(str, cells)))  # cells of several methods may have the same name
        super().__init__(f"{path} has no classifier: none was saved for {list_preview(names)}")
        self.cells = cells


def classifier_path(cell: Cell, hyperparameters: Hparams, result_dir: str | Path) -> Path:
    """Return the path of the saved classifier of a run."""
    return record_path(cell, hyperparameters, result_dir).with_name(FILE)


def tensors_to_save(state: Mapping[str, Tensor], zeroshot: Tensor | None) -> dict[str, Tensor]:
    """Return CPU copies of the state of a `LinearClassifier`, without trained layers of the text encoder."""
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith("embedding.encoders.1.")}
    tensors |= {} if zeroshot is None else {"zeroshot": zeroshot}
    # copy: tensors of runs in one stack are views of one tensor
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def save(saved: SavedClassifier, result_dir: str | Path) -> None:
    """Write the classifier of the selected run atomically, then remove classifiers of other runs of the cell.

    Raises UserError for weights that are not finite.
    """
    path = classifier_path(saved.run.cell, saved.run.hyperparameters, result_dir)
    try:
        _check_weights(saved)
    except ValueError as error:
        raise UserError(f"{path} was not written: {error}") from error
    about = asdict(replace(saved, tensors={}, confidences={}))
    del about["tensors"], about["confidences"]
    about = {"format": FORMAT} | about | {"run": as_json(saved.run)}
    digest = _digest(about, saved.content)
    write_tensors(path, saved.content, {ABOUT: json.dumps(about | {DIGEST: digest})})
    for other in path.parent.parent.glob(f"*/{FILE}"):
        if other != path:
            other.unlink(missing_ok=True)


def is_saved(record: Record, result_dir: str | Path) -> bool:
    """Return whether the classifier of exactly this run is saved and undamaged."""
    path = classifier_path(record.cell, record.hyperparameters, result_dir)
    try:
        return path.is_file() and same_run(read(path).run, record)
    except CannotOpen:  # retraining would replace a file that may be sound
        raise
    except UserError:
        return False


def find(path: Path) -> Path:
    """Return the classifier file for a path: the file itself, the file beside a record, or the only one in a folder.

    Raises UserError for no or several classifiers, MissingClassifier for runs without a classifier.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; train.py --save-heads prints the path of a classifier")
    if path.is_file() and path.name != RECORD:
        return path
    folder = path.parent if path.is_file() else path
    if (beside := folder / FILE).is_file():
        return beside
    found = [] if path.is_file() else _find_files(folder, FILE)
    if len(found) > 1:
        some = [f"  {file.parent}" for file in found[:LISTED]] + ["  ..."] * (len(found) > LISTED)
        raise UserError("\n".join([f"{path} has {len(found)} classifiers; use the folder of one of them:", *some]))
    if found:
        return found[0]
    records = [path] if path.is_file() else _find_files(folder, RECORD)
    if not records:
        raise UserError(f"{path} has neither a classifier nor a record of a run; train.py --save-heads creates them")
    runs = ((read_record(record), record) for record in records)
    raise MissingClassifier(path, {run.cell: result_dir(run, record) for run, record in runs})


def _find_files(folder: Path, name: str) -> list[Path]:
    """Return all files of a name in and below a folder; links are followed."""
    return sorted(Path(entry.path) for entry in entries_below(folder) if entry.name == name)


def read(path: Path) -> SavedClassifier:
    """Return the classifier in a file.

    Raises UserError for an invalid or damaged file, a newer format, and a run that differs from the record beside it.
    """
    try:
        with opening(path), safe_open(path, framework="pt") as file:
            about = parse_json((file.metadata() or {}).get(ABOUT, "null"))
            if not isinstance(about, dict):
                raise ValueError(f"it has no metadata '{ABOUT}'")
            written = schema.build(int, about.get("format"), "format")
            if written > FORMAT:
                raise UserError(f"{path} was written by a newer version of this project; update the project to read it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = about.pop(DIGEST, None)
        if digest not in (None, _digest(about, tensors)):
            raise ValueError("its digest differs from its content")
        if written <= ADAPTER_FORMAT:
            tensors = {name.replace(*ADAPTER): tensor for name, tensor in tensors.items()}
        saved = _build(about, tensors)
    except (SafetensorError, OSError, RuntimeError, *NOT_A_RECORD) as error:  # RuntimeError: rarely used dtypes
        raise UserError(
            f"{path} is not a saved classifier or is damaged ({error}); if train.py --save-heads wrote it, remove it"
            " and run the same command again"
        ) from error
    record = path.with_name(RECORD)
    if record.is_file() and not same_run(read_record(record), saved.run):
        raise UserError(
            f"{path} does not belong to the run in {record}, which was retrained later; run train.py --save-heads"
            " again to save its classifier"
        )
    return saved


def result_dir(run: Record, path: Path) -> Path | None:
    """Return the result folder of a run's file (record or classifier), or None if it was moved out of one."""
    above = path.absolute().parents
    results = above[5] if len(above) > 5 else above[-1]
    there = record_path(run.cell, run.hyperparameters, results).parent == above[0]
    return results if there else None


def _build(about: dict[str, Any], tensors: dict[str, Tensor]) -> SavedClassifier:
    """Return the classifier for the JSON and tensors of a file. Raises ValueError for impossible values."""
    about = convert_classifier(about)
    types = {"extraction": FeatureExtraction | None, "classnames": list[str], "run": Record, "wiseft_ratio": float}
    fields = {name: schema.build(kind, about.get(name, ""), name) for name, kind in types.items()}
    calibrations = schema.build(dict[str, Calibration], about.get("calibrations", {}), "calibrations")
    names = [name for name in tensors if name.startswith(CONFIDENCES)]
    confidences = {name.removeprefix(CONFIDENCES): tensors.pop(name) for name in names}
    saved = SavedClassifier(**fields, tensors=tensors, calibrations=calibrations, confidences=confidences)
    if not 0 <= saved.wiseft_ratio <= 1:
        raise ValueError(f"wiseft_ratio is {saved.wiseft_ratio}, which is not from 0 to 1")
    if "encoder" not in saved.run.inputs:
        raise ValueError("run.inputs has no encoder")
    weight = tensors.get("head.weight")
    if weight is not None and weight.dim() and len(weight) != len(saved.classnames):
        raise ValueError(f"it has weights of {len(weight)} classes, but {len(saved.classnames)} class names")
    for name, calibration in calibrations.items():
        found = confidences.get(name)
        if found is None or found.shape != (calibration.images,) or ((found < 0) | (found > 1)).any():
            raise ValueError(f"{CONFIDENCES}{name} are not the probabilities of {calibration.images} validation images")
    _check_weights(saved)
    return saved


def _check_weights(saved: SavedClassifier) -> None:
    """Raise ValueError, naming the tensors, for weights that are not finite."""
    bad = [name for name, tensor in saved.content.items() if not tensor.float().isfinite().all()]
    if bad:
        raise ValueError(f"weights that are not finite numbers: {list_preview(bad)}")


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the digest of a classifier's content; `about` is the JSON without the digest."""
    # the JSON text is stable: reading turns tuples to lists, with the same text
    return tensors_digest(tensors, json.dumps(about, sort_keys=True))
