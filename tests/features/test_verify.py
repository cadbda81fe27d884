"""Verification: unchanged files pass; all others are reported with their fault."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.features.classes import ShiftedClasses, read_classes, write_classes
from engine.features.prompts import Texts, write_texts
from engine.features.store import Bank, FeaturePaths, Provenance, shard_path, write_shard
from engine.features.verify import check, stored_files

SOURCE = Provenance("RN50", "a" * 64, "b" * 64, 10)


@pytest.fixture
def feature_paths(tmp_path):
    """The paths of two shards of a bank and two files of prompts, one with end-of-text positions."""
    feature_paths = FeaturePaths.of(tmp_path, "RN50", "dtd")
    for positions in ([0, 3, 4], [9, 1]):
        write(feature_paths, positions)
    labels, prompts = torch.tensor([0, 1]), ["a dog.", 'the "dög"']
    write_texts(feature_paths.texts(0, "classname"), Texts(torch.randn(2, 4), labels, prompts, SOURCE))
    split = Texts(torch.randn(2, 5, 4), labels, prompts, replace(SOURCE, layer=1), torch.tensor([4, 2]))
    write_texts(feature_paths.texts(1, "classname"), split)
    return feature_paths


def write(feature_paths, positions, provenance=SOURCE, features=None):
    """Write a shard; return its path."""
    folder, at = feature_paths.bank("train", 0, "none"), torch.tensor(positions)
    features = at[:, None] + torch.tensor([0.0, 0.25, 0.5]) if features is None else features
    write_shard(folder, provenance, positions, at % 3, features)
    return shard_path(folder, positions)


def faults(feature_paths):
    """Return the faults by file."""
    return {file.path: file.fault for file in check(stored_files([feature_paths])) if file.fault}


def tensors_of(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


def rewrite(path, **changes):
    """Rewrite a file without a digest, as in older versions, with other tensors or `provenance`."""
    tensors, metadata = tensors_of(path)
    provenance = changes.pop("source", SOURCE)
    save_file(tensors | changes, path, metadata=metadata | {"source": json.dumps(asdict(provenance))})


def test_classes_of_shifted_sets_are_checked(feature_paths):
    classes = ShiftedClasses(["dog", "cat"], [7, 3], "digest of a list")
    write_classes(feature_paths, classes)
    assert feature_paths.classes in stored_files([feature_paths])
    assert not faults(feature_paths)
    assert (read_classes(feature_paths), classes.digest != "digest of a list") == (classes, True)
    for spoilt in (
        replace(classes, parent_labels=[7, 7]),
        replace(classes, classnames=[]),
        replace(classes, list_digest=1),
    ):
        write_classes(feature_paths, spoilt)
        assert list(faults(feature_paths)) == [feature_paths.classes]
    write_classes(feature_paths, classes)
    assert not faults(feature_paths)


def test_a_sound_store_passes(feature_paths):
    paths, read = stored_files([feature_paths]), []
    assert len(paths) == 4
    checked = list(check(paths, read.append))
    assert [file.path for file in checked] == paths
    assert all(file.fault is None and file.has_digest and not file.duplicates for file in checked)
    assert sum(read) == sum(path.stat().st_size for path in paths)
    assert stored_files([FeaturePaths(feature_paths.folder / "nowhere")]) == []


@pytest.mark.parametrize("kind", ["shard", "texts"])
def test_any_byte_that_changes_is_found(feature_paths, kind):
    path = (
        shard_path(feature_paths.bank("train", 0, "none"), [9, 1])
        if kind == "shard"
        else feature_paths.texts(1, "classname")
    )
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        (file,) = check([path])
        assert file.fault, f"byte {at} of {len(whole)}, in {whole[max(0, at - 20) : at + 20]}"
    path.write_bytes(whole)
    assert not faults(feature_paths)


@pytest.mark.parametrize("content", [b"", b"x" * 500, "half"])
def test_a_file_that_cannot_be_read(feature_paths, content):
    path = stored_files([feature_paths])[0]
    path.write_bytes(path.read_bytes()[:-7] if content == "half" else content)
    ((bad, fault),) = faults(feature_paths).items()
    assert bad == path
    assert fault.startswith("cannot be read (")


def test_a_folder_in_place_of_a_file(feature_paths):
    path = write(feature_paths, [5])
    path.unlink()
    path.mkdir()
    assert faults(feature_paths) == {path: "cannot be opened (Is a directory)"}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"labels": torch.tensor([1, 1, 1])}, "a row per image: features [2, 3], labels [3], positions [2]"),
        ({"features": torch.zeros(0, 3), "labels": torch.zeros(0)}, "does not hold a row per image"),
        ({"features": torch.zeros(2)}, "does not hold a row per image"),
        ({"positions": torch.tensor([9, 10])}, "rows of a list of 10 images at positions 10"),
        ({"positions": torch.tensor([-1, 9])}, "rows of a list of 10 images at positions -1"),
        ({"positions": torch.tensor([9, 9])}, "has an image twice"),
        ({"positions": torch.tensor([9, 2])}, "not named after the positions"),
        ({"labels": torch.tensor([0, -3])}, "labels below 0, at positions 1"),
        ({"features": torch.tensor([[1.0, torch.nan], [1, 1]])}, "not finite numbers, at positions 9"),
        ({"features": torch.tensor([[1.0, 1], [-torch.inf, 1]])}, "not finite numbers, at positions 1"),
        (
            {"source": replace(SOURCE, encoder_digest="c" * 64)},
            "made differently from the other shards: encoder_digest",
        ),
    ],
)
def test_shards_that_are_wrong(feature_paths, changes, fault):
    path = shard_path(feature_paths.bank("train", 0, "none"), [9, 1])
    rewrite(path, **changes)
    ((bad, found),) = faults(feature_paths).items()
    assert bad == path
    assert fault in found


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"labels": torch.tensor([1, 1, 1])}, "holds 2 features and 3 labels of 2 prompts"),
        ({"features": torch.zeros(3, 5, 4), "labels": torch.zeros(3)}, "holds 3 features and 3 labels of 2 prompts"),
        ({"positions": torch.tensor([4, 5])}, "has end-of-text positions outside of the texts"),
        ({"features": torch.full((2, 5, 4), torch.nan)}, "not finite numbers, at positions 0, 1"),
    ],
)
def test_prompts_that_are_wrong(feature_paths, changes, fault):
    path = feature_paths.texts(1, "classname")
    rewrite(path, **changes)
    ((bad, found),) = faults(feature_paths).items()
    assert bad == path
    assert fault in found


def test_a_bank_has_the_provenance_of_most_rows(feature_paths):
    others = [write(feature_paths, [position], replace(SOURCE, layer=2)) for position in (5, 6, 7)]
    assert sorted(faults(feature_paths)) == sorted(others)
    big = write(feature_paths, [2, 5, 6, 7, 8], replace(SOURCE, layer=2))
    assert not {big, *others} & faults(feature_paths).keys()


def test_old_files_without_digests_pass(feature_paths):
    path = shard_path(feature_paths.bank("train", 0, "none"), [9, 1])
    rewrite(path)
    assert len(Bank(path.parent)) == 5
    checked = list(check(stored_files([feature_paths])))
    assert [(file.fault, file.has_digest) for file in checked if file.path == path] == [(None, False)]
    assert all(file.has_digest for file in checked if file.path != path)


def test_rows_that_two_shards_hold_are_no_fault(feature_paths):
    path = write(feature_paths, [9, 1, 2])
    duplicates = {file.path: file.duplicates for file in check(stored_files([feature_paths])) if file.duplicates}
    assert sum(duplicates.values()) == 2
    assert not faults(feature_paths)
    write(feature_paths, [9, 1, 2], features=torch.full((3, 3), torch.nan))
    assert faults(feature_paths).keys() == {path}
    assert not any(file.duplicates for file in check(stored_files([feature_paths])) if file.fault is None)
