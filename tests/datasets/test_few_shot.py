"""Few-shot splits: the sampler against the published digests and against a second, plainer one."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import random
from collections import Counter

import pytest

from engine import datasets
from engine.datasets import few_shot
from engine.datasets.image_dataset import ImageDataset, Item
from engine.errors import UserError

with (few_shot.PUBLISHED / "sha256.csv").open() as file:
    ROWS = list(csv.DictReader(file))


def plainly(train, val, shots, seed, max_val_shot=4):
    """PROTOCOL section 1, word by word."""
    rng = random.Random(seed)
    parts = []
    for labels, count in ((train, shots), (val, min(shots, max_val_shot))):
        part = []
        for label in dict.fromkeys(labels):
            places = [place for place, other in enumerate(labels) if other == label]
            if len(places) < count:
                part.extend(places)
            else:
                part.extend(places[index] for index in rng.sample(range(len(places)), count))
        parts.append(part)
    return tuple(parts)


def benchmark_of(train, val, test=(0,), name="demo"):
    """A dataset of these labels."""
    parts = [[Item(f"{label}.jpg", label, str(label)) for label in labels] for labels in (train, val, test)]
    return ImageDataset(name, None, *parts, classnames=[str(label) for label in range(max(train) + 1)])


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_all_published_splits_are_drawn_again():
    assert len(ROWS) == 175
    for row in ROWS:
        dataset, shots, seed = row["dataset"], int(row["shot"]), int(row["seed"])
        train, val = few_shot.draw(*few_shot.positions_by_class(dataset, "no such folder"), shots, seed)
        split = few_shot.FewShotSplit(dataset, shots, seed, train, val)
        assert (len(split.train), len(split.val)) == (int(row["n_train"]), int(row["n_val"]))
        assert split.digest == row["sha256"], row


def test_all_published_splits_are_on_disk():
    expected = {few_shot.split_path(few_shot.PUBLISHED, r["dataset"], int(r["shot"]), int(r["seed"])): r for r in ROWS}
    for path, row in expected.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"], path


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_sampler_against_a_plain_one(shots, seed):
    rng = random.Random(99)
    train = [rng.choice([3, 0, 5, 1]) for _ in range(60)] + [2] * 3  # not contiguous; class 2 has few images
    val = [1, 1, 2, 3, 3, 3, 3, 0, 5, 0, 1, 1, 1, 0]  # another order of classes than in train
    assert few_shot.sample(train, val, shots, seed) == plainly(train, val, shots, seed)
    assert few_shot.sample(train, val, shots, seed, max_val_shot=2) == plainly(train, val, shots, seed, 2)


def test_contiguous_labels_give_what_the_counts_give():
    counts = few_shot.class_counts()["oxford_flowers"]
    train, val = (
        [label for label, count in zip(counts["labels"], counts[part], strict=True) for _ in range(count)]
        for part in ("train", "val")
    )
    assert few_shot.sample(train, val, 16, 3) == few_shot.draw(
        *few_shot.positions_by_class("oxford_flowers", ""), 16, 3
    )


def test_a_class_with_too_few_images_gives_all_in_order():
    train, val = few_shot.sample([0, 1, 0, 0], [0, 1], 8, 1)
    assert train == [0, 2, 3, 1]
    assert val == [0, 1]


def test_all_shots_are_all_images_in_order(tmp_path):
    drawn = few_shot.sample([0, 1, 0, 0], [1] * 5 + [0], few_shot.ALL, 3, max_val_shot=2)
    assert drawn == ([0, 2, 3, 1], [0, 1, 2, 3, 4, 5])
    split = few_shot.FewShotSplit("demo", few_shot.ALL, 3, *drawn)
    few_shot.save(split, tmp_path)
    assert (tmp_path / "demo" / "shot_all-seed_3.json").exists()
    assert few_shot.load_splits(tmp_path, "demo", [("all", 3)]) == [split]
    with pytest.raises(few_shot.MissingSplits) as missing:
        few_shot.load_splits(tmp_path, "demo", [("all", 4), (16, 4), (2, 4)])
    assert missing.value.wanted == {"dataset": ["demo"], "train_shot": [2, 16, "all"], "seed": [4]}
    items = [Item(f"{k}.jpg", k % 2, "ab"[k % 2]) for k in range(4)]
    benchmark = ImageDataset("demo", tmp_path, items, items, items, ["a", "b"])
    few_shot.check(few_shot.FewShotSplit("demo", few_shot.ALL, 1, [0, 2, 1, 3], [0, 2, 1, 3]), benchmark)
    with pytest.raises(
        UserError, match="class 0 has 2 images in val, and the few-shot split has 1 of them instead of 2"
    ):
        few_shot.check(few_shot.FewShotSplit("demo", few_shot.ALL, 1, [0, 2, 1, 3], [0, 1, 3]), benchmark)


@pytest.mark.parametrize(("shots", "seed", "max_val_shot"), [(0, 1, 4), (-1, 1, 4), (1, 1, 0), (1, -1, 4)])
def test_impossible_arguments(shots, seed, max_val_shot):
    with pytest.raises(UserError, match=r"1 image per class|0 or more"):
        few_shot.sample([0], [0], shots, seed, max_val_shot)


def test_other_datasets_are_read(install_split, small_split):
    data_dir = install_split("demo", small_split, images=False)
    train, val = few_shot.positions_by_class("demo", data_dir)
    assert [list(positions) for positions in train] == [[0, 1, 2], [3, 4]]
    assert [list(positions) for positions in val] == [[0], [1]]
    with pytest.raises(UserError, match="imagenet_r has only a test set: models for it are trained on imagenet"):
        few_shot.positions_by_class("imagenet_r", data_dir)


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_a_split_comes_back(tmp_path):
    split = few_shot.FewShotSplit("demo", 2, 7, [5, 1], [0])
    assert few_shot.save(split, tmp_path) is True
    assert few_shot.save(split, tmp_path) is False
    path = tmp_path / "demo" / "shot_2-seed_7.json"
    assert path.read_bytes() == b'{"train":[5,1],"val":[0]}'
    assert split.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert few_shot.load_split(tmp_path, "demo", 2, 7) == split


def test_another_number_of_val_shots_is_another_file(tmp_path):
    split = few_shot.FewShotSplit("demo", 16, 1, [5], [0], max_val_shot=8)
    few_shot.save(split, tmp_path)
    assert (tmp_path / "demo" / "shot_16-seed_1-val_8.json").exists()
    assert few_shot.load_split(tmp_path, "demo", 16, 1, 8) == split
    assert split.val_shots == 8
    with pytest.raises(UserError, match="missing"):
        few_shot.load_split(tmp_path, "demo", 16, 1)


def test_a_different_split_is_never_replaced(tmp_path):
    few_shot.save(few_shot.FewShotSplit("demo", 1, 1, [5], [0]), tmp_path)
    with pytest.raises(UserError, match=r"shot_1-seed_1.json differs from the few-shot split .* delete it"):
        few_shot.save(few_shot.FewShotSplit("demo", 1, 1, [6], [0]), tmp_path)
    assert few_shot.load_split(tmp_path, "demo", 1, 1).train == [5]


def test_missing_splits_are_told_at_once(tmp_path):
    with pytest.raises(few_shot.MissingSplits, match=r"shot_3-seed_9.json is missing; few_shot_split.py creates it$"):
        few_shot.load_split(few_shot.PUBLISHED, "dtd", 3, 9)
    few_shot.save(few_shot.FewShotSplit("dtd", 2, 1, [5], [0]), tmp_path)
    with pytest.raises(few_shot.MissingSplits, match=r"shot_2-seed_3.json and 2 more are missing") as caught:
        few_shot.load_splits(tmp_path, "dtd", itertools.product([2, 1], [3, 1]))
    assert caught.value.wanted == {"dataset": ["dtd"], "train_shot": [1, 2], "seed": [1, 3]}


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"train": [1], "val": [2',
        "[1, 2]",
        '{"train": [1]}',
        '{"train": [1], "val": ["2"]}',
        '{"train": [1, 1], "val": []}',
        '{"train": [-1], "val": []}',
        '{"train": [true], "val": []}',
        '{"train": {}, "val": []}',
        '{"train": [1], "val": []}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_split_is_named(tmp_path, content):
    path = few_shot.split_path(tmp_path, "dtd", 1, 1)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(few_shot.MissingSplits, match=r"shot_1-seed_1.json is damaged.* Delete it") as caught:
        few_shot.load_split(tmp_path, "dtd", 1, 1)
    assert caught.value.wanted == {"dataset": ["dtd"], "train_shot": [1], "seed": [1]}


# --- against the installed dataset -----------------------------------------------------------------------------------

TRAIN, VAL = [0] * 5 + [1] * 2, [0] * 3 + [1] * 3


def split_of(shots=4, **changes):
    """A right split of TRAIN and VAL, with changes."""
    train, val = few_shot.sample(TRAIN, VAL, shots, 1)
    return few_shot.FewShotSplit("demo", shots, 1, **({"train": train, "val": val} | changes))


def test_a_right_split_passes():
    few_shot.check(split_of(), benchmark_of(TRAIN, VAL))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (split_of(train=[0, 1, 2, 3, 5, 60]), "train has 7 images, but the few-shot split has position 60"),
        (
            split_of(train=[0, 1, 2, 3, 5]),
            "class 1 has 2 images in train, and the few-shot split has 1 of them instead of 2",
        ),
        (
            split_of(train=[0, 1, 2, 3, 4, 5, 6]),
            "class 0 has 5 images in train, and the few-shot split has 5 of them instead of 4",
        ),
        (split_of(val=[0, 1, 2]), "class 1 has 3 images in val, and the few-shot split has 0 of them instead of 3"),
        (split_of(val=[6]), "val has 6 images, but the few-shot split has position 6"),
    ],
)
def test_a_split_of_another_dataset(split, message):
    with pytest.raises(UserError, match=f"demo, 4 shots, seed 1: the installed dataset is not the one .*: {message}"):
        few_shot.check(split, benchmark_of(TRAIN, VAL))


def eurosat(change):
    """Labels of the published EuroSAT, changed by `change(labels of train, of val, of test)`."""
    counts = few_shot.class_counts()["eurosat"]
    parts = [
        [label for label, count in zip(counts["labels"], counts[part], strict=True) for _ in range(count)]
        for part in ("train", "val")
    ]
    parts.append([0] * counts["test"])
    change(*parts)
    return benchmark_of(*parts, name="eurosat")


def swap_blocks(train, val, test):
    """Give class 0 the name of class 1 and the other way round."""
    train[:] = [{0: 1, 1: 0}.get(label, label) for label in train]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train, val, test: train.pop(), "train has 13499 images, not 13500"),
        (lambda train, val, test: val.append(9), "val has 5401 images, not 5400"),
        (lambda train, val, test: test.pop(), "test has 8099 images, not 8100"),
        (
            lambda train, val, test: train.__setitem__(1499, 1),
            "train has 1499 images of class 0, not 1500 of class 0",
        ),
        (swap_blocks, "train has 1500 images of class 1, not 1500 of class 0"),
    ],
)
def test_a_published_split_and_another_installation(change, message):
    split = few_shot.load_split(few_shot.PUBLISHED, "eurosat", 1, 1)
    few_shot.check(split, eurosat(lambda *parts: None))
    with pytest.raises(UserError, match=f"eurosat, 1 shots, seed 1: .* {message}"):
        few_shot.check(split, eurosat(change))


def test_a_folder_of_splits_may_have_class_counts_of_its_own(tmp_path):
    """As a small installation under a published name has them, whose splits are drawn from them and checked by them."""
    own = {"labels": [0, 1], "train": [3, 2], "val": [1, 1], "test": 2}
    (tmp_path / "class_counts.json").write_text(json.dumps({"dtd": own}))
    train, val = few_shot.positions_by_class("dtd", "no such folder", tmp_path)
    assert [list(positions) for positions in train + val] == [[0, 1, 2], [3, 4], [0], [1]]
    few_shot.save(few_shot.FewShotSplit("dtd", 1, 1, *few_shot.draw(train, val, 1, 1)), tmp_path)
    split = few_shot.load_split(tmp_path, "dtd", 1, 1)
    few_shot.check(split, benchmark_of([0, 0, 0, 1, 1], [0, 1], test=[0, 1]))
    with pytest.raises(UserError, match="test has 1 images, not 2"):
        few_shot.check(split, benchmark_of([0, 0, 0, 1, 1], [0, 1], test=[0]))
    (tmp_path / "dtd" / "class_counts.json").write_text("{")
    with pytest.raises(UserError, match=r"class_counts\.json: not JSON"):
        few_shot.positions_by_class("dtd", "", tmp_path / "dtd")
    parts = {"labels": [0], "train": [1], "val": [1], "test": 1}
    for number, of in enumerate(
        ([], "x", 1, {}, parts | {"val": "1"}, parts | {"test": [1]}, parts | {"train": [1, 2]})
    ):
        path = tmp_path / str(number) / "class_counts.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"dtd": of}))
        with pytest.raises(UserError, match=rf"{number}/class_counts\.json: not class counts"):
            few_shot.positions_by_class("dtd", "", path.parent)


def test_the_class_counts_add_up():
    for name, counts in few_shot.class_counts().items():
        assert sorted(counts["labels"]) == list(range(len(counts["labels"]))), name
        assert len(counts["train"]) == len(counts["val"]) == len(counts["labels"])
    assert Counter(row["source"] for row in ROWS)["published"] == 170
    assert json.loads((few_shot.PUBLISHED / "class_counts.json").read_text()).keys() == set(datasets.TARGETS)
