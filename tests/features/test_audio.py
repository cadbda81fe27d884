"""Features of sounds: their files, and extraction with a small encoder with BatchNorm."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from engine.datasets.esc50 import Clip, Sounds
from engine.errors import UserError
from engine.features import audio
from engine.features.store import MissingFeatures
from engine.sounds import UnreadableSound

SOURCE = audio.AudioProvenance("tiny", "digest", "list", 12, audio_scale=2, mode="train", batch_size=2)
# clips of two folds that alternate in the metadata
DATASET = Sounds(Path("esc"), [Clip(f"audio/{k}.wav", 1 + k % 2, k % 3, "abc"[k % 3]) for k in range(12)])


def read(path):
    return torch.full([1, 8], float(path.stem))


def fresh():
    """A network whose output depends on the other clips of the batch."""
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8)).train()
    return lambda samples: network(samples).detach()


def extract(number, read=read, encode=None, provenance=SOURCE):
    return audio.extract_fold(DATASET, number, provenance, encode or fresh(), read, lambda count: None)


def test_batches_follow_the_metadata_and_end_with_the_fold():
    batches, counts = [], []

    def encode(samples):
        batches.append(samples[:, 0, 0].tolist())
        return samples[:, 0]

    provenance = replace(SOURCE, batch_size=4, mode="eval")
    fold = audio.extract_fold(DATASET, 2, provenance, encode, read, counts.append)
    assert batches == [[2, 6, 10, 14], [18, 22]]  # samples times the scale
    assert counts == [4, 2]
    assert fold.positions.tolist() == [1, 3, 5, 7, 9, 11]
    assert fold.labels.tolist() == [1, 0, 2, 1, 0, 2]
    assert fold.categories == ["b", "a", "c", "b", "a", "c"]


def test_a_fold_is_written_and_read(tmp_path):
    made = extract(1)
    audio.write_fold(tmp_path, 1, made)
    found = audio.read_fold(tmp_path, 1)
    for name in ("features", "labels", "positions"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    assert (found.categories, found.paths, found.provenance) == (made.categories, made.paths, SOURCE)
    assert audio.missing_folds(tmp_path, SOURCE, [1, 2]) == [2]


@pytest.mark.parametrize(
    "change",
    [{"audio_scale": 1}, {"mode": "eval"}, {"batch_size": 3}, {"encoder_digest": "other"}, {"list_digest": "other"}],
)
def test_sources_are_not_mixed(tmp_path, change):
    other = replace(SOURCE, **change)
    audio.write_fold(tmp_path, 1, extract(1))
    with pytest.raises(UserError, match=f"{next(iter(change))}: .* there, {next(iter(change.values()))} here"):
        audio.missing_folds(tmp_path, other, [1, 2])
    audio.write_fold(tmp_path, 2, replace(extract(2), provenance=other))
    with pytest.raises(UserError, match="mixes features that were made differently"):
        audio.read_folds(tmp_path, [1, 2])


def test_folds_with_swapped_names_are_reported(tmp_path):
    for number in (1, 2):
        audio.write_fold(tmp_path, number, extract(number))
    paths = [audio.fold_path(tmp_path, number) for number in (1, 2)]
    paths[0].rename(tmp_path / "other")
    paths[1].rename(paths[0])
    (tmp_path / "other").rename(paths[1])
    for number, other in ((1, 2), (2, 1)):
        with pytest.raises(MissingFeatures, match=rf"fold_{number}.safetensors .* \(it is of fold {other}\)"):
            audio.read_fold(tmp_path, number)


def test_a_missing_or_damaged_fold_is_named(tmp_path):
    with pytest.raises(MissingFeatures, match=r"no features of sounds .*fold_1.safetensors"):
        audio.read_folds(tmp_path)
    audio.write_fold(tmp_path, 1, extract(1))
    path = audio.fold_path(tmp_path, 1)
    whole = path.read_bytes()

    path.write_bytes(whole[:-1])
    with pytest.raises(MissingFeatures, match=r"fold_1.safetensors cannot be read"):
        audio.read_fold(tmp_path, 1)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MissingFeatures, match="digest is not the recorded one"):
        audio.missing_folds(tmp_path, SOURCE, [1])
    path.write_bytes(whole)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    metadata["categories"] = json.dumps(["c"] * 6)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(MissingFeatures, match="digest is not the recorded one"):
        audio.read_fold(tmp_path, 1)


def test_all_unusable_files_of_a_fold_are_reported():
    def picky(path):
        if path.stem in ("2", "10"):
            raise UnreadableSound("it is silent")
        return read(path)

    with pytest.raises(audio.CorruptSounds) as error:
        extract(1, read=picky)
    assert error.value.lines == ["esc/audio/2.wav: it is silent", "esc/audio/10.wav: it is silent"]


def test_nan_features_are_not_stored():
    with pytest.raises(UserError, match="fold 1: features that are not finite numbers, at positions 4"):
        extract(1, encode=lambda samples: torch.where(samples == 8, torch.nan, samples)[:, 0])


@pytest.mark.parametrize(
    ("sizes", "mode", "batch", "force", "message"),
    [
        ({1: 400, 2: 400}, "train", 10, False, None),
        ({1: 400, 2: 399}, "train", 10, False, "fold 2 has 399 clips, no multiple of --batch-size 10.* have 9"),
        ({1: 400, 2: 399}, "train", 10, True, None),
        ({1: 401}, "train", 10, True, "leaves one clip alone"),
        ({1: 400}, "train", 1, True, "leaves one clip alone"),
        ({1: 401}, "eval", 10, False, None),
        ({1: 5}, "eval", 1, False, None),
    ],
)
def test_batch_size_check(sizes, mode, batch, force, message):
    if message is None:
        return audio.check_batches(sizes, mode, batch, force)
    with pytest.raises(UserError, match=message):
        audio.check_batches(sizes, mode, batch, force)
