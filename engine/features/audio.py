"""Extract features of sounds fold by fold, and read them.

    features/<encoder>/<dataset>/fold_<k>.safetensors

One file per fold: features, labels and positions in the metadata list, paths and class names of the clips, and the
provenance. As in `engine.features.store`, a file is written to a temporary name and renamed, and records a digest of
its content. Features of different provenance are never mixed, and nothing is unpickled.

Features of an encoder in train() mode depend on the other clips of the batch. So batches follow the metadata order and
never span folds, and each fold starts from the loaded weights: its features do not depend on the folds before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine import sounds
from engine.datasets.checks import list_preview
from engine.datasets.esc50 import Sounds
from engine.errors import UserError
from engine.features import store
from engine.features.numbers import check_finite
from engine.features.store import MissingFeatures, Provenance
from engine.files import parse_json

ENCODER, DATASET = "AudioCLIP", "ESC-50"


@dataclass(frozen=True, kw_only=True)
class AudioProvenance(Provenance):
    """Record how features of sounds were made: `list_digest` and `length` describe the list of all folds.

    Samples in [-1, 1] are multiplied by `audio_scale`; the encoder runs in `mode` (train or eval) on batches of
    `batch_size` clips.
    """

    audio_scale: int
    mode: str
    batch_size: int


@dataclass(frozen=True)
class Fold:
    """The clips of a fold in metadata order: L2-normalised features [n, D] float32, labels [n], positions [n] int64.

    `categories` are the class names of the clips, and `paths` their files, relative to the dataset folder.
    """

    features: Tensor
    labels: Tensor
    positions: Tensor
    categories: list[str]
    paths: list[str]
    provenance: AudioProvenance


class CorruptSounds(UserError):
    """Sound files that cannot be used; the message lists all of them."""

    def __init__(self, lines: list[str]):
        self.lines = lines
        super().__init__(
            f"sound files that cannot be used: {len(lines)}. Their folds are skipped; fetch the files again, then run"
            " the same command again:\n" + "\n".join(f"  {line}" for line in lines)
        )


def folds_dir(feature_dir: str | Path, encoder: str = ENCODER, dataset: str = DATASET) -> Path:
    """Return the folder of the features of a sound dataset."""
    return Path(feature_dir) / encoder / dataset


def fold_path(folder: Path, fold: int) -> Path:
    """Return the file of a fold."""
    return folder / f"fold_{fold}.safetensors"


def write_fold(folder: Path, number: int, fold: Fold) -> None:
    """Write the file of fold `number` atomically."""
    tensors = {"features": fold.features.contiguous(), "labels": fold.labels, "positions": fold.positions}
    about = {"categories": json.dumps(fold.categories), "paths": json.dumps(fold.paths)}
    store.save(fold_path(folder, number), tensors, fold.provenance, **about, fold=str(number))


def read_fold(folder: Path, number: int) -> Fold:
    """Read the features of fold `number`.

    Raises MissingFeatures if the file is missing, cannot be read, changed since it was written, or records another
    fold: two files with swapped names would pass all other checks.
    """
    path = fold_path(folder, number)
    if not path.is_file():
        raise MissingFeatures(f"no features of sounds {path}")
    with store.open_feature_file(path) as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if metadata.get("fold", str(number)) != str(number):  # not recorded in old files
            raise ValueError(f"it is of fold {metadata['fold']:.20}")
        stated, found = store.digests(metadata, tensors)
        if stated != found:
            raise ValueError("its digest is not the recorded one")
        about = {name: parse_json(metadata[name]) for name in ("categories", "paths")}
        provenance = parse_json(metadata["source"])
        provenance.pop(store.DIGEST)
        return Fold(**tensors, **about, provenance=AudioProvenance(**provenance))


def read_folds(folder: Path, numbers: Iterable[int] = range(1, 6)) -> dict[int, Fold]:
    """Read the features of several folds (default: ESC-50's five).

    Raises MissingFeatures as `read_fold` does, UserError for folds of different provenance.
    """
    folds = {number: read_fold(folder, number) for number in numbers}
    provenances = list(dict.fromkeys(fold.provenance for fold in folds.values()))
    if len(provenances) > 1:
        raise UserError(f"{folder} mixes features that were made differently:\n{store.differences(*provenances[:2])}")
    return folds


def missing_folds(folder: Path, provenance: AudioProvenance, numbers: Iterable[int]) -> list[int]:
    """Return the folds of `numbers` that have no file yet.

    Raises UserError if one of the others has other provenance or is damaged.
    """
    absent = []
    for number in numbers:
        if not fold_path(folder, number).exists():
            absent.append(number)
        elif (found := read_fold(folder, number).provenance) != provenance:
            raise UserError(
                f"{fold_path(folder, number)} was made differently:\n{store.differences(found, provenance)}\n"
                f"remove {folder} to extract all folds again, or use another --feature_dir"
            )
    return absent


def check_batches(sizes: dict[int, int], mode: str, batch_size: int, force: bool = False) -> None:
    """Raise UserError for folds of `sizes` that do not divide into full batches in train() mode.

    `force` allows an incomplete batch, but not a batch of one clip, which has no variance.
    """
    if mode != "train":
        return
    for fold, size in sizes.items():
        rest = size % batch_size
        if batch_size == 1 or rest == 1:
            raise UserError(
                f"fold {fold} has {size} clips, and --batch-size {batch_size} leaves one clip alone, which --mode train"
                " cannot encode: BatchNorm needs two. Use another --batch-size"
            )
        if rest and not force:
            raise UserError(
                f"fold {fold} has {size} clips, no multiple of --batch-size {batch_size}: in --mode train features"
                f" depend on the other clips of the batch, and the last would have {rest}. Check that the list is"
                " complete; --force continues"
            )


def check_formats(dataset: Sounds, positions: Iterable[int], rate: int, length: int, resample: bool) -> list[str]:
    """Check the headers of sound files before hours of work; return notes about them, one sentence each.

    Raises UserError for clips of another rate or with several channels, unless `resample` is set. Unreadable files are
    skipped: `extract_fold` reports them.
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
            f"{len(others)} clips are not mono of {rate} Hz: {list_preview(others)}.\n"
            "Fetch them again, or use --resample to convert them while reading"
        )
    notes = [f"{len(others)} clips are converted to mono of {rate} Hz: {list_preview(others)}"] if others else []
    if unequal:
        notes.append(
            f"{len(unequal)} clips are not {length} samples long, and are cut or zero-padded at the end:"
            f" {list_preview(unequal)}"
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
    """Extract the features of fold `number`: `read` loads a file as [1, L], `encode` maps [B, 1, L] to [B, D].

    `encode` must start from the loaded weights (see the module docstring). Call `progress` with the number of clips
    after each batch. Raises CorruptSounds after trying all files of the fold.
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
