"""Features of sounds: make them fold by fold, and read them back.

    features/<encoder>/<dataset>/fold_<k>.safetensors

One file per fold: features, labels and positions in the metadata's list, then the paths and classes of the clips by
name, and what all was made from. As in `engine.features.store`, a file is written to a temporary name and renamed,
states a digest of its content, and features of different provenances are never mixed; nothing is unpickled.

An encoder in train() mode makes features that depend on who shares the batch. So batches follow the metadata's order
and never reach over a fold, and each fold starts from the weights as loaded: its features do not depend on which folds
were made before it in the same process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine import sounds
from engine.datasets.checks import first
from engine.datasets.esc50 import Sounds
from engine.errors import UserError
from engine.features import store
from engine.features.numbers import check_finite
from engine.features.store import MissingFeatures, Provenance
from engine.files import parse_json

ENCODER, DATASET = "AudioCLIP", "ESC-50"


@dataclass(frozen=True, kw_only=True)
class AudioProvenance(Provenance):
    """What features of sounds were made from: `list_digest` and `length` are those of the list of all folds.

    Samples in [-1, 1] were multiplied by `audio_scale`; `mode` (train or eval) is the encoder's, in batches of
    `batch_size`.
    """

    audio_scale: int
    mode: str
    batch_size: int


@dataclass(frozen=True)
class Fold:
    """The clips of a fold in metadata order: L2-normalised features [n, D] float32, labels [n], positions [n] int64.

    `categories` are the names of their classes, and `paths` their files, relative to the dataset's folder.
    """

    features: Tensor
    labels: Tensor
    positions: Tensor
    categories: list[str]
    paths: list[str]
    provenance: AudioProvenance


class CorruptSounds(UserError):
    """Sound files that are of no use; the message lists all of them."""

    def __init__(self, lines: list[str]):
        self.lines = lines
        super().__init__(
            f"sound files that cannot be used: {len(lines)}. Their folds are left out; fetch them again, and the same"
            " command goes on:\n" + "\n".join(f"  {line}" for line in lines)
        )


def folds_dir(feature_dir: str | Path, encoder: str = ENCODER, dataset: str = DATASET) -> Path:
    """The folder of the features of a dataset of sounds."""
    return Path(feature_dir) / encoder / dataset


def fold_path(folder: Path, fold: int) -> Path:
    """The file of a fold."""
    return folder / f"fold_{fold}.safetensors"


def write_fold(folder: Path, number: int, fold: Fold) -> None:
    """Write the file of fold `number`, atomically."""
    tensors = {"features": fold.features.contiguous(), "labels": fold.labels, "positions": fold.positions}
    about = {"categories": json.dumps(fold.categories), "paths": json.dumps(fold.paths)}
    store.save(fold_path(folder, number), tensors, fold.provenance, **about, fold=str(number))


def read_fold(folder: Path, number: int) -> Fold:
    """Read the features of fold `number`.

    Raises MissingFeatures when they are not there, cannot be read or are not as they were written, and when the file
    states another fold: two files that swapped their names would pass all other checks.
    """
    path = fold_path(folder, number)
    if not path.is_file():
        raise MissingFeatures(f"no features of sounds {path}")
    with store.open_feature_file(path) as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if metadata.get("fold", str(number)) != str(number):  # files of earlier versions do not state it
            raise ValueError(f"it is of fold {metadata['fold']:.20}")
        stated, found = store.digests(metadata, tensors)
        if stated != found:
            raise ValueError("its digest is not the one that was stated")
        about = {name: parse_json(metadata[name]) for name in ("categories", "paths")}
        provenance = parse_json(metadata["source"])
        provenance.pop(store.DIGEST)
        return Fold(**tensors, **about, provenance=AudioProvenance(**provenance))


def read_folds(folder: Path, numbers: Iterable[int] = range(1, 6)) -> dict[int, Fold]:
    """The features of several folds (ESC-50's five), all of one provenance.

    Raises MissingFeatures as `read_fold` does, UserError for folds of different provenances.
    """
    folds = {number: read_fold(folder, number) for number in numbers}
    provenances = list(dict.fromkeys(fold.provenance for fold in folds.values()))
    if len(provenances) > 1:
        raise UserError(f"{folder} mixes features of two sources:\n{store.differences(*provenances[:2])}")
    return folds


def missing_folds(folder: Path, provenance: AudioProvenance, numbers: Iterable[int]) -> list[int]:
    """Those of the folds `numbers` that are still to be made.

    Raises UserError when one of the others was made from something else or is damaged.
    """
    absent = []
    for number in numbers:
        if not fold_path(folder, number).exists():
            absent.append(number)
        elif (found := read_fold(folder, number).provenance) != provenance:
            raise UserError(
                f"{fold_path(folder, number)} was made from something else:\n{store.differences(found, provenance)}\n"
                f"remove {folder} to make all folds anew, or give another --feature_dir"
            )
    return absent


def check_batches(sizes: dict[int, int], mode: str, batch_size: int, force: bool = False) -> None:
    """Raise UserError for `sizes` of folds that do not go in batches, in train() mode, where it matters.

    A batch of a single clip has no variance, and even `force` does not admit it.
    """
    if mode != "train":
        return
    for fold, size in sizes.items():
        rest = size % batch_size
        if batch_size == 1 or rest == 1:
            raise UserError(
                f"fold {fold} has {size} clips, and --batch-size {batch_size} leaves one clip alone, which --mode train"
                " cannot encode: BatchNorm needs two. Take another --batch-size"
            )
        if rest and not force:
            raise UserError(
                f"fold {fold} has {size} clips, no multiple of --batch-size {batch_size}: in --mode train features"
                f" depend on who shares the batch, and the last would have {rest}. Is the list whole? --force goes on"
            )


def check_formats(dataset: Sounds, positions: Iterable[int], rate: int, length: int, resample: bool) -> list[str]:
    """Look through the headers of sounds before hours of work; what is to be said of them, a sentence each.

    Raises UserError for clips of another rate or several channels, unless they are to be resampled. Files that cannot
    be read are passed over: `extract` names them.
    """
    others, unequal = [], []
    for position in positions:
        path = dataset.file(position)
        try:
            found = sounds.read_format(path)
        except sounds.UnreadableSound:
            continue
        if found.rate != rate or found.channels != 1:
            others.append(f"{path} ({found.rate} Hz, {found.channels} channels)")
        elif found.length != length:
            unequal.append(f"{path} ({found.length})")
    if others and not resample:
        raise UserError(
            f"{len(others)} clips are not mono of {rate} Hz: {first(others, len(others))}.\n"
            "Fetch them again, or convert them as they are read: --resample"
        )
    notes = [f"{len(others)} clips are converted to mono of {rate} Hz: {first(others, len(others))}"] if others else []
    if unequal:
        notes.append(
            f"{len(unequal)} clips are not {length} samples long, and are cut or zero-padded at the end:"
            f" {first(unequal, len(unequal))}"
        )
    return notes


def extract_fold(
    dataset: Sounds,
    number: int,
    provenance: AudioProvenance,
    encode: Callable[[Tensor], Tensor],
    read: Callable[[Path], Tensor],
    progress: Callable[[int], object],
) -> Fold:
    """The features of fold `number`, which `encode` [B, 1, L] -> [B, D] makes of what `read` [1, L] makes of files.

    `encode` must be fresh, as the module's docstring says; `progress` hears the number of clips after each batch.
    Raises CorruptSounds once all files of the fold were tried.
    """
    positions = dataset.folds[number]
    features: list[Tensor] = []
    faults: list[str] = []
    for start in range(0, len(positions), provenance.batch_size):
        batch = []
        for position in positions[start : start + provenance.batch_size]:
            try:
                batch.append(read(dataset.file(position)))
            except sounds.UnreadableSound as error:
                faults.append(f"{dataset.file(position)}: {error}")
        if not faults:
            features.append(encode(torch.stack(batch) * provenance.audio_scale))
        progress(len(positions[start : start + provenance.batch_size]))
    if faults:
        raise CorruptSounds(faults)
    clips = [dataset.clips[position] for position in positions]
    check_finite(rows := torch.cat(features), positions, f"fold {number}")
    return Fold(
        features=rows,
        labels=torch.tensor([clip.label for clip in clips]),
        positions=torch.tensor(positions),
        categories=[clip.category for clip in clips],
        paths=[clip.path for clip in clips],
        provenance=provenance,
    )
