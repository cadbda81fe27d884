"""Images of one's own: what is read of folders and lists, the split that is written, and what is refused."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import datasets
from engine.datasets import few_shot, registry
from engine.datasets.custom import dividing, splits
from engine.datasets.image_dataset import SPLITS
from engine.errors import UserError


@pytest.fixture(autouse=True)
def _no_names_stay(monkeypatch):
    """What a test takes in is gone after it."""
    monkeypatch.setattr(registry, "DATASETS", dict(registry.DATASETS))


@pytest.fixture
def put_images():
    """`put_images(folder, impaths)`: tiny JPEGs, each of which is a file of its own kind."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(picture, "JPEG")

    def put(folder, impaths):
        for impath in impaths:
            path = folder / impath
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.getvalue() + str(path).encode())

    return put


@pytest.fixture
def photos(tmp_path, put_images):
    """A folder of two classes of ten images, in a path with a space and letters beyond ASCII."""
    root = tmp_path / "meine Bücher 書" / "photos"
    put_images(root, [f"{name}/{number}.jpg" for name in ("cat", "big_dog") for number in range(10)])
    return root


def read(path, **how):
    """The dataset at a path."""
    return datasets.load(datasets.add_custom(str(path)), "no such folder", **how)


def paths(benchmark, part):
    return [item.impath for item in benchmark.items(part)]


def every_path(benchmark):
    return sorted(path for part in SPLITS for path in paths(benchmark, part))


def error(path):
    with pytest.raises(UserError) as raised:
        read(path)
    return str(raised.value)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders_is_divided_by_class(photos):
    found = read(photos)
    assert (found.name, found.classnames) == ("photos", ["big_dog", "cat"])
    assert [len(found.items(part)) for part in SPLITS] == [10, 4, 6]
    for part, count in zip(SPLITS, (5, 2, 3), strict=True):
        assert found.labels(part) == [0] * count + [1] * count
    assert every_path(found) == sorted(str(path.relative_to(photos)) for path in photos.glob("*/*.jpg"))
    assert all(found.path(item).is_file() for item in found.train)
    assert found.notes == (f"{photos}/split.json written: 2 classes, 10 train, 4 val, 6 test",)


def test_the_split_is_written_once_and_then_read(photos):
    first = read(photos)
    split = json.loads((photos / "split.json").read_text(encoding="utf-8"))
    assert split["val"] == [[item.impath, item.label, item.classname] for item in first.val]
    split["val"].append(split["test"].pop())
    (photos / "split.json").write_text(json.dumps(split))
    again = read(photos)
    assert ([len(again.items(part)) for part in SPLITS], again.notes) == ([10, 5, 5], ())


def test_nothing_is_written_unless_it_shall_be(photos):
    """And what is drawn then is what the file would have."""
    drawn = read(photos, write=False)
    assert (drawn.notes, list(photos.glob("*.json"))) == ((), [])
    first = read(photos)
    written = read(photos)
    for part in SPLITS:
        assert drawn.items(part) == written.items(part)
        assert drawn.digest(part) == first.digest(part) == written.digest(part)


def test_parts_must_not_become_empty(tmp_path, put_images):
    root = tmp_path / "photos"
    put_images(root, [f"{part}/{name}/{n}.jpg" for part in SPLITS for name in ("cat", "dog") for n in range(3)])
    read(root)
    shutil.rmtree(root / "val")
    assert "split.json: no image is left in val. Add some, or delete this file to divide the images again" in error(
        root
    )
    put_images(root, ["val/dog/9.jpg"])
    shutil.rmtree(root / "train" / "cat")
    assert "split.json: no training image is left of cat. Add some, remove the class, or delete" in error(root)


def test_the_depth_of_images_that_come_later(photos):
    """A dataset of 8 bits takes theirs; where there are deep ones already, the larger counts."""
    assert read(photos).depth == 16
    for number, depth, found in ((1, 12, 12), (2, 10, 12), (3, 14, 14)):
        grey = np.full((8, 8), 2**depth - 1, dtype=np.uint16)
        Image.fromarray(grey).save(photos / "cat" / f"deep{number}.png")
        assert read(photos, write=False).depth == read(photos).depth == read(photos).depth == found


def test_files_that_changed_are_told_from_files_that_were_touched(photos):
    """By size and time first, and by content where these differ; a copied folder is the same dataset."""
    before = read(photos)
    picture = photos / "cat" / "3.jpg"
    os.utime(picture, ns=(1, 1))
    touched = read(photos)
    assert (touched.notes, touched.files["cat/3.jpg"].modified) == ((), 1)
    assert touched.files["cat/3.jpg"].content == before.files["cat/3.jpg"].content
    shutil.copytree(photos, photos.parent / "moved" / "photos", copy_function=shutil.copyfile)
    picture.write_bytes(picture.read_bytes()[:-1] + b"?")
    (note,) = read(photos, write=False).notes
    assert "1 image replaced (cat/3.jpg). To update the file, run features.py" in note
    (note,) = read(photos).notes
    assert "1 image replaced (cat/3.jpg). The file is updated." in note
    assert read(photos).notes == ()
    changed = [path for path, state in read(photos).files.items() if state.content != before.files[path].content]
    assert changed == ["cat/3.jpg"]
    registry.DATASETS.pop("photos")
    moved = read(photos.parent / "moved" / "photos")
    assert [moved.contents(part) for part in SPLITS] == [before.contents(part) for part in SPLITS]


def test_times_alone_need_no_folder_that_can_be_written_to(photos, monkeypatch):
    before = read(photos)
    os.utime(photos / "cat" / "3.jpg", ns=(1, 1))
    monkeypatch.setattr(dividing, "write_text", _fail)
    after = read(photos)
    assert [after.contents(part) for part in SPLITS] == [before.contents(part) for part in SPLITS]
    picture = photos / "cat" / "3.jpg"
    picture.write_bytes(picture.read_bytes() + b"another")
    assert "cannot be written" in error(photos)
    picture.write_bytes(b"another")
    assert f"files that are not images, or too large: 1. Replace or remove them:\n  {picture}" in error(photos)


def _fail(path, text):
    raise UserError(f"{path} cannot be written")


def test_copies_and_links_are_noted(photos):
    """They may be trained on and tested on."""
    shutil.copy(photos / "cat" / "1.jpg", photos / "cat" / "copy.jpg")
    (photos / "cat" / "again").symlink_to(photos / "big_dog")
    (_, note) = read(photos).notes
    assert "duplicate images, as copies or links: big_dog/0.jpg and cat/again/0.jpg, big_dog/1.jpg and" in note
    assert "and 6 more; training images may be among" in note


def test_a_line_of_the_split_that_was_copied_is_refused(photos):
    """It is meant to be moved, and an image in two parts would be tested on after it was trained on."""
    read(photos)
    split = json.loads((photos / "split.json").read_text(encoding="utf-8"))
    split["test"].append(split["train"][0])
    (photos / "split.json").write_text(json.dumps(split))
    assert f"split.json lists images more than once: {split['train'][0][0]}; keep one line for each" in error(photos)


def test_a_class_is_drawn_from_its_own_images_alone(photos, put_images):
    """The same wherever the folder lies, and whatever other classes there are."""
    before = read(photos)
    (photos / "split.json").unlink()
    put_images(photos, [f"ant/{number}.jpg" for number in range(7)])
    after = read(photos)
    for part in SPLITS:
        assert [path for path in paths(after, part) if not path.startswith("ant/")] == paths(before, part)


@pytest.mark.parametrize(("count", "divided"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (7, [4, 1, 2]), (20, [10, 4, 6])])
def test_each_part_has_an_image_of_each_class(tmp_path, put_images, count, divided):
    put_images(tmp_path / "few", [f"{name}/{number}.png" for name in "ab" for number in range(count)])
    found = read(tmp_path / "few")
    assert [len(found.items(part)) // 2 for part in SPLITS] == divided


def test_images_that_come_later_are_divided_and_the_others_stay(photos, put_images):
    """In the shares of the first ones; a new class as a first reading would divide it."""
    before = read(photos)
    new = [f"cat/new {number}.jpg" for number in range(10)]
    put_images(photos, [*new, "ant/0.jpg", "ant/1.jpg", "ant/2.jpg"])
    after = read(photos)
    (note,) = after.notes
    assert "13 images added (ant/0.jpg, ant/1.jpg, ant/2.jpg, cat/new 0.jpg, cat/new 1.jpg and 8 more)" in note
    assert "new class ant" in note
    assert after.classnames == ["big_dog", "cat", "ant"]
    for part, (of_cats, of_ants) in {"train": (10, 1), "val": (4, 1), "test": (6, 1)}.items():
        assert set(paths(before, part)) < set(paths(after, part))
        labels = after.labels(part)
        assert labels == sorted(labels)
        assert (labels.count(1), labels.count(2)) == (of_cats, of_ants)
    assert read(photos).notes == ()


def test_images_that_went_leave_the_others_where_they_were(photos):
    before = read(photos)
    gone = paths(before, "test")[0]
    (photos / gone).unlink()
    assert gone in paths(read(photos, check_images=False), "test")  # enough to draw few-shot splits
    (note,) = (after := read(photos)).notes
    assert f"photos/split.json is older than the images: 1 image removed ({gone}). The file is updated" in note
    assert [paths(after, part) for part in SPLITS] == [
        [path for path in paths(before, part) if path != gone] for part in SPLITS
    ]
    for path in photos.glob("cat/*"):
        if f"cat/{path.name}" in paths(after, "train"):
            path.unlink()
    (note,) = (again := read(photos)).notes  # what is left of the class is divided anew
    assert "images moved to another class or split (cat/" in note
    assert {item.impath for item in again.train if item.classname == "cat"} <= {
        *paths(after, "val"),
        *paths(after, "test"),
    }
    assert [item for item in again.train if item.classname != "cat"] == [
        item for item in after.train if item.classname != "cat"
    ]
    shutil.rmtree(photos / "cat")
    assert "has only one class" in error(photos)


def test_images_and_classes_with_new_names_are_recognised(photos):
    """By their content; labels stay, and whatever was made of the images stays with them."""
    before = read(photos)
    (photos / "big_dog").rename(photos / "wolf")
    (photos / "cat" / "2.jpg").rename(photos / "cat" / "two.jpg")
    (note,) = (after := read(photos)).notes
    assert "11 images renamed (" in note
    assert "cat/2.jpg to cat/two.jpg" in note or "and 6 more" in note
    assert "class big_dog is now called wolf" in note
    assert after.classnames == ["wolf", "cat"]
    for part in SPLITS:
        assert sorted(after.contents(part)) == sorted(before.contents(part))
    (photos / "wolf" / "5.jpg").rename(photos / "cat" / "from wolf.jpg")
    (note,) = (after := read(photos)).notes
    assert "1 image renamed (wolf/5.jpg to cat/from wolf.jpg); 1 image moved to another class or split (" in note
    assert next(item.label for part in SPLITS for item in after.items(part) if "from wolf" in item.impath) == 1


def test_split_files_of_earlier_versions_are_kept(photos):
    """They knew no single images, and their lists are what counts."""
    before = read(photos)
    split = json.loads((photos / "split.json").read_text(encoding="utf-8"))
    split["files"] = "0" * 64
    del split["images"]
    (photos / "split.json").write_text(json.dumps(split))
    again = read(photos)
    assert again.notes == ()
    assert [again.items(part) for part in SPLITS] == [before.items(part) for part in SPLITS]
    assert again.files == before.files
    assert "images" in json.loads((photos / "split.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("states", [[], {"cat/0.jpg": [1, 2]}, {"cat/0.jpg": [1, 2, "x"]}, {"cat/0.jpg": None}])
def test_states_that_are_none_are_refused(photos, states):
    read(photos)
    split = json.loads((photos / "split.json").read_text(encoding="utf-8"))
    (photos / "split.json").write_text(json.dumps(split | {"images": states}))
    assert 'split.json: "images" does not have [bytes, modification time, content digest]' in error(photos)


def test_parts_in_folders(tmp_path, put_images):
    counts = {"train": 4, "val": 2, "test": 3}
    put_images(tmp_path / "own", [f"{p}/{name}/{i}.jpg" for p, n in counts.items() for name in "ba" for i in range(n)])
    found = read(tmp_path / "own")
    assert found.classnames == ["a", "b"]
    for part, count in counts.items():
        assert paths(found, part) == [f"{part}/{name}/{i}.jpg" for name in "ab" for i in range(count)]


def test_val_is_drawn_from_train_where_there_is_none(tmp_path, put_images):
    counts = {"train": 7, "test": 3}
    put_images(tmp_path / "own", [f"{p}/{name}/{i}.jpg" for p, n in counts.items() for name in "ab" for i in range(n)])
    found = read(tmp_path / "own")
    assert [len(found.items(part)) for part in SPLITS] == [10, 4, 6]
    assert all(path.startswith("train/") for path in paths(found, "val"))
    assert len(every_path(found)) == len(set(every_path(found)))
    assert read(tmp_path / "own").notes == ()
    put_images(tmp_path / "own", ["val/a/0.jpg", "val/b/0.jpg"])
    (note,) = (found := read(tmp_path / "own")).notes
    assert "2 images added (val/a/0.jpg, val/b/0.jpg); 4 images moved to another class or split" in note
    assert [len(found.items(part)) for part in SPLITS] == [14, 2, 6]


def test_folders_are_gone_through_to_the_last(photos, put_images):
    """Nested folders, capital letters, hidden files, links to files and folders elsewhere, and what is no image."""
    elsewhere = photos.parent / "elsewhere"
    put_images(elsewhere, ["one.jpg", "more/two.jpg"])
    put_images(photos, ["cat/deep/er/10.JPG", "cat/.hidden.jpg", "cat/.thumbnails/1.jpg", ".git/1.jpg", "top.jpg"])
    (photos / "cat" / "link.Jpeg").symlink_to(elsewhere / "one.jpg")
    (photos / "cat" / "folder").symlink_to(elsewhere / "more")
    for name in ("cat/notes.txt", "cat/IMG_1.HEIC", "big_dog/README.txt"):
        (photos / name).touch()
    found = read(photos)
    assert len(every_path(found)) == 23
    assert {"cat/deep/er/10.JPG", "cat/link.Jpeg", "cat/folder/two.jpg"} < set(every_path(found))
    said = "\n".join(found.notes)
    assert "ignored files without an image ending: .txt (2), .HEIC (1). To read HEIC files, `pip" in said
    assert f"{photos}: 3 hidden or system names skipped: .git (1), .hidden.jpg (1), .thumbnails (1)" in said
    assert f"{photos}: ignored because they are in no class folder: 1 image (top.jpg)" in said
    (photos / "cat" / "deep" / "loop").symlink_to(photos / "cat")
    assert "cat/deep/loop is a link to a folder that contains it; remove it" in error(photos)


@pytest.mark.parametrize(
    "spelt",
    [
        {"train": "Training", "val": "valid", "test": "TESTING"},
        {"train": "train_set", "val": "Validation", "test": "test-images"},
        {"train": "trainset", "val": "dev", "test": "Test Set"},
    ],
)
def test_parts_are_spelt_in_many_ways(tmp_path, put_images, spelt):
    counts = {"train": 4, "val": 2, "test": 3}
    root = tmp_path / "own"
    put_images(root, [f"{spelt[p]}/{name}/{i}.jpg" for p, n in counts.items() for name in "ba" for i in range(n)])
    put_images(root, ["loose.jpg", f"{spelt['val']}/loose.jpg"])
    found = read(root)
    assert found.classnames == ["a", "b"]
    for part, count in counts.items():
        assert paths(found, part) == [f"{spelt[part]}/{name}/{i}.jpg" for name in "ab" for i in range(count)]
    assert f"in no class folder: 2 images (loose.jpg, {spelt['val']}/loose.jpg)" in found.notes[0]
    assert read(root).digest("train") == found.digest("train")


def test_classes_that_look_like_parts_are_believed(tmp_path, put_images):
    """A train is a vehicle too; one folder of the same name in each class, or a split that is there, are no matter."""
    put_images(tmp_path / "vehicles", [f"{name}/images/{i}.jpg" for name in ("train", "bus") for i in range(3)])
    assert read(tmp_path / "vehicles").classnames == ["bus", "train"]
    root = tmp_path / "years"
    put_images(root, [f"{name}/{year}/{i}.jpg" for name in "ab" for year in (2023, 2024) for i in range(3)])
    assert "a, b would be the classes, but all have the same folders in them: 2023, 2024" in error(root)
    (root / "b" / "2024").rename(tmp_path / "elsewhere")
    read(root)
    (tmp_path / "elsewhere").rename(root / "b" / "2024")
    assert read(root).classnames == ["a", "b"]


def test_what_systems_leave_is_skipped(photos, put_images):
    """And said, however deep it lies."""
    before = read(photos, write=False)
    left = ["cat/@eaDir/0.jpg/thumb.jpg", "#recycle/cat/1.jpg", "$RECYCLE.BIN/1.jpg", "__MACOSX/cat/1.jpg"]
    put_images(photos, [*left, "System Volume Information/1.jpg", "lost+found/1.jpg", ".AppleDouble/1.jpg"])
    put_images(photos, ["cat/Thumbs.db", "cat/deeper/thumbs.db", "cat/0.jpg.part", "cat/0.jpg~", "cat/~$0.jpg"])
    after = read(photos)
    assert [paths(after, part) for part in SPLITS] == [paths(before, part) for part in SPLITS]
    assert f"{photos}: 12 hidden or system names skipped: " in after.notes[0]
    assert len(after.notes) == 2


@pytest.mark.parametrize(("few", "divided"), [(1, [1, 0, 0]), (2, [1, 0, 1])])
def test_classes_of_one_or_two_images_are_trained_on(photos, few, divided):
    _cut(photos, few)
    found = read(photos)
    assert [found.labels(part).count(1) for part in SPLITS] == divided
    said = "\n".join(found.notes)
    assert "photos: 1 of 2 classes has no image in val, so settings are selected without them: cat" in said
    assert (few == 1) == ("no image in test, so test accuracy does not show how well they are recogn" in said)
    train, val = few_shot.sample(found.labels("train"), found.labels("val"), 4, 1)
    few_shot.check(few_shot.FewShotSplit("photos", 4, 1, train, val), found)
    assert len(splits.note_shortages(found, [4])) == 2
    assert read(photos).notes == found.notes[: -3 + (few == 2)] + found.notes[-2 + (few == 2) :]


def test_classes_without_test_images_are_noted_each_time(tmp_path, put_images):
    root = tmp_path / "own"
    put_images(
        root, [f"{part}/{name}/{i}.jpg" for part in ("train", "val", "test") for name in "abc" for i in range(3)]
    )
    shutil.rmtree(root / "test" / "b")
    shutil.rmtree(root / "val" / "c")
    first = read(root)
    assert read(root).notes == first.notes[1:]
    assert [note.split(", so")[0] for note in first.notes[1:]] == [
        "own: 1 of 3 classes has no image in val",
        "own: 1 of 3 classes has no image in test",
    ]


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def csv(tmp_path, put_images):
    """`csv(lines)`: a list beside images/0.jpg ... images/19.jpg."""
    put_images(tmp_path / "lists", [f"images/{number}.jpg" for number in range(20)])

    def write(lines, name="birds.csv", encoding="utf-8"):
        path = tmp_path / "lists" / name
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write


def test_a_list_is_divided_as_folders_are(csv):
    rows = [f"images/{number}.jpg,{'wren' if number % 2 else 'tit/blue'}" for number in range(20)]
    path = csv(["image,label", *rows], encoding="utf-8-sig")
    found = read(path)
    assert (found.name, found.classnames) == ("birds", ["tit/blue", "wren"])
    assert [len(found.items(part)) for part in SPLITS] == [10, 4, 6]
    assert found.notes == (f"{path.parent}/birds.split.json written: 2 classes, 10 train, 4 val, 6 test",)
    assert read(path).notes == ()


def test_a_list_with_a_split(csv):
    parts = [*["train"] * 10, *["val"] * 4, *["test"] * 6]
    rows = [f'"images/{i}.jpg",n {i % 2},{part},"commas, of no matter"' for i, part in enumerate(parts)]
    path = csv(["Image,Label,Split,more", *rows])
    found = read(path)
    assert set(paths(found, "val")) == {f"images/{i}.jpg" for i in range(10, 14)}
    assert found.classnames == ["n 0", "n 1"]
    csv(["image,label,split", *[row.rsplit(",", 2)[0] for row in rows[:-1]], "images/19.jpg,n 1,train"])
    (note,) = (found := read(path)).notes
    assert "1 image moved to another class or split (images/19.jpg)" in note
    assert [len(found.items(part)) for part in SPLITS] == [11, 4, 5]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["picture,label", "images/0.jpg,a"], "the columns image,label or image,label,split, not ['picture', 'label']"),
        (["image|label", "images/0.jpg|a"], "not ['image|label']"),
        (["image,label,Label", "images/0.jpg,a,b"], "columns of the same name: label; rename those to ignore"),
        ([], "not []"),
        (["image,label"], "lists no images"),
        (["image,label", "images/0.jpg,a", "images/1.jpg"], "line 3: more or fewer fields"),
        (["image,label", "images/0.jpg,a, b"], "line 2: more or fewer fields than the first line (put"),
        (["image,label", "images/0.jpg, "], "line 2: no label"),
        (["image,label", "/etc/0.jpg,a"], "line 2: '/etc/0.jpg' is not below the folder of the list"),
        (["image,label", "images/../../0.jpg,a"], "'images/../../0.jpg' is not below"),
        (["image,label", ",a"], "line 2: '' is not below"),
        (["image,label,split", "images/0.jpg,a,eval"], "line 2: split is 'eval', not train, val or test"),
        (["image,label,split", "images/0.jpg,a,train"], "the column split needs train and test, and may have val"),
        (["image,label", "images/0.jpg,a", "./images//0.jpg,b"], "listed more than once: images/0.jpg"),
        (["image,label", "images/0.jpg,a", "images/x.jpg,a", "y/0.jpg,b"], "2 of 3 images do not exist: images/x.jpg"),
        (["image,label", "images/0.jpg,a\0"], "birds.csv"),
        (
            ["image,label", *[f"images/{i}.jpg,a" for i in range(9)]],
            "has only one class, a; a classifier needs two or more",
        ),
        (
            ["image,label", *[f"images/{i}.jpg,{i // 2}" for i in range(20)]],
            "every class has too few images: none are left",
        ),
        (
            ["image,label,split", *[f"images/{i}.jpg,{'ab'[i % 2]},{'train' if i else 'test'}" for i in range(3)]],
            "none are left for val. A class needs 2 in train to be in each of train, val; add images",
        ),
    ],
)
def test_lists_that_are_refused(csv, lines, message):
    assert message in error(csv(lines))
    assert not list(csv([]).parent.glob("*.json"))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_lists_of_other_programs(csv, separator):
    """Their separators, paths and words."""
    parts = [*["Training"] * 10, *["valid"] * 4, *["TEST"] * 6]
    rows = [["images\\" + f"{i}.jpg", f"n {i % 2}", part] for i, part in enumerate(parts)]
    path = csv(separator.join(row) for row in [["IMAGE", " Label", "Split"], *rows])
    rows[3][0] = str(path.parent / "images" / "3.jpg")
    csv(separator.join(row) for row in [["IMAGE", " Label", "Split"], *rows])
    found = read(path)
    assert [len(found.items(part)) for part in SPLITS] == [10, 4, 6]
    assert every_path(found) == sorted(f"images/{i}.jpg" for i in range(20))


def test_lists_name_files_with_accents_as_they_like(csv, put_images):
    """And a backslash in a name of a file stays one."""
    root = csv([]).parent
    put_images(root, ["e\u0301te\u0301/e\u0301.jpg", "\u00fc/\u00fc.jpg", "a\\b.jpg"])
    rows = [f"images/{number}.jpg,{'ab'[number % 2]}" for number in range(20)]
    found = read(csv(["image,label", *rows, "\u00e9t\u00e9/\u00e9.jpg,a", "u\u0308/u\u0308.jpg,a", "a\\b.jpg,a"]))
    assert {"e\u0301te\u0301/e\u0301.jpg", "\u00fc/\u00fc.jpg", "a\\b.jpg"} < set(every_path(found))
    assert "more than once: \u00fc/\u00fc.jpg" in error(
        csv(["image,label", "u\u0308/u\u0308.jpg,a", "\u00fc/\u00fc.jpg,a"])
    )


def test_what_is_missing_is_shown_with_what_is_there(csv):
    said = error(csv(["image,label", "images/19.JPEG,a", "image\\0.jpg,a", "images/12.jpg,b"]))
    assert "2 of 3 images do not exist: images/19.JPEG (there is images/19.jpg), image\\0.jpg (there is images)" in said


@pytest.mark.parametrize(("column", "word"), [("fold", "1"), ("Subset", "a"), ("set", "test"), ("what for", "dev")])
def test_columns_that_look_like_parts_are_noted(csv, column, word):
    path = csv([f"image,label,{column}", *[f"images/{i}.jpg,n{i % 2},{word}" for i in range(20)]])
    assert read(path).notes[0] == (
        f"{path}: ignored columns: {column.lower()}. If a column has train, val or test, name it split"
    )


def test_lists_of_all_files_have_system_files_too(csv, put_images):
    put_images(csv([]).parent, ["images/@eaDir/0.jpg/thumb.jpg", "images/._0.jpg"])
    rows = [f"images/{number}.jpg,n{number % 2}" for number in range(20)]
    found = read(csv(["image,label", *rows, "images/@eaDir/0.jpg/thumb.jpg,n1", "images/._0.jpg,n0"]))
    assert len(every_path(found)) == 20
    assert found.notes[0].endswith("birds.csv: 2 hidden or system names skipped: ._0.jpg (1), @eaDir (1)")


def test_a_list_in_another_encoding_is_refused(csv):
    assert "not a CSV in UTF-8" in error(csv(["image,label", "images/0.jpg,Füchse"], encoding="latin-1"))


# --- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_renamed(photos, put_images):
    """By lines or by JSON; of folders whose names begin alike the longest counts."""
    put_images(photos, [f"big {name}/{number}.jpg" for name in ("cat", "x") for number in range(3)])
    (photos / "classnames.txt").write_text("cat\tdomestic  cat\n\nbig cat lion, tiger\nbig_dog Bernhardiner-Hündin\n")
    found = read(photos)
    names = {Path(item.impath).parts[0]: item.classname for item in found.train}
    assert found.classnames == ["lion, tiger", "big x", "Bernhardiner-Hündin", "domestic cat"]
    assert names == {
        "big cat": "lion, tiger",
        "big x": "big x",
        "big_dog": "Bernhardiner-Hündin",
        "cat": "domestic cat",
    }
    (photos / "classnames.txt").unlink()
    (note,) = read(photos).notes
    assert "class lion, tiger is now called big cat; class Bernhardiner-Hündin is now called big_dog" in note
    assert read(photos).classnames == ["big cat", "big x", "big_dog", "cat"]
    (photos / "split.json").unlink()
    (photos / "classnames.json").write_text('{"cat": "Katze"}')
    assert read(photos).classnames == ["big cat", "big x", "big_dog", "Katze"]


@pytest.mark.parametrize(
    ("name", "text"), [("classnames.txt", "café coffee"), ("classnames.json", '{"café": "coffee"}')]
)
def test_accents_are_the_same_however_they_are_stored(photos, name, text):
    """A Mac's folder has an accent as a letter of its own, a text file has it composed."""
    (photos / "cat").rename(photos / "cafe\u0301")
    (photos / name).write_text(text)
    assert read(photos).classnames == ["big_dog", "coffee"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classnames.txt", "bird robin", "classnames.txt: unknown classes bird; the classes are big_dog, cat"),
        ("classnames.txt", "cat", "line 1: not `<folder> <class name>`: 'cat'"),
        ("classnames.txt", "cat Katze\ncat Kater", "line 2: cat already has a name"),
        ("classnames.json", '["cat"]', "not an object of class names by folder"),
        ("classnames.json", '{"cat": ""}', "not an object of class names by folder"),
        ("classnames.json", '{"cat": 1}', "not an object of class names by folder"),
        ("classnames.json", "{cat}", "not JSON"),
        (
            "classnames.json",
            '{"cat": "Katze", "cat": "Kater"}',
            "classnames.json: named more than once: cat; keep one",
        ),
        ("classnames.txt", "cat BIG Dog", "differ only in capitals and underscores: big_dog and cat"),
    ],
)
def test_names_that_are_refused(photos, name, text, message):
    (photos / name).write_text(text)
    assert message in error(photos)


def test_two_lists_of_names_are_refused(photos):
    for name in ("classnames.txt", "classnames.json"):
        (photos / name).write_text("{}")
    assert "both name the classes; remove one" in error(photos)


def test_labels_that_say_nothing_are_noted(tmp_path, put_images):
    """Numbers of any form, and what programs write for a label that is missing."""
    put_images(tmp_path / "digits", [f"{label}/{number}.jpg" for label in ("0", "-1.0", "1e3") for number in range(3)])
    assert "classes are called -1.0, 0, 1e3, but prompts need names" in read(tmp_path / "digits").notes[0]
    put_images(tmp_path / "named", [f"{label}/{number}.jpg" for label in ("NaN", "7", "cat") for number in range(3)])
    (note, _) = read(tmp_path / "named").notes
    assert "a class is called NaN, which programs write for a missing label; if its images have no label" in note


# --- what makes no dataset -------------------------------------------------------------------------------------------


def _rename(photos, old, new):
    (photos / old).rename(photos / new)


def _cut(photos, number):
    for path in sorted((photos / "cat").iterdir())[number:]:
        path.unlink()


def _flat_test(photos):
    """Test images without folders for their classes."""
    _part(photos, "train", "test")
    for folder in list((photos / "test").iterdir()):
        folder.rename(photos / "test" / f".{folder.name}")


def _part(photos, *parts):
    for part in parts:
        shutil.copytree(photos / "cat", photos / part / "cat")
        shutil.copytree(photos / "big_dog", photos / part / "big_dog")
    for name in ("cat", "big_dog"):
        shutil.rmtree(photos / name)


def put_two(folder):
    """A class of two images in `folder`."""
    for number in (0, 1):
        (folder / "two").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8 + number)).save(folder / "two" / f"{number}.png")


def _parts_in_classes(photos):
    for folder in (photos / "cat", photos / "big_dog"):
        for number, path in enumerate(sorted(folder.iterdir())):
            part = folder / ("train" if number % 2 else "Testing")
            part.mkdir(exist_ok=True)
            path.rename(part / path.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda photos: (photos / "ant").mkdir(), "photos/ant: a class folder without images; remove it, or add"),
        (lambda photos: _cut(photos, 0), "photos/cat: a class folder without images"),
        (lambda photos: [p.rename(p.with_suffix(".txt")) for p in photos.glob("*/*")], "(only files ending in .txt)"),
        (lambda photos: shutil.rmtree(photos / "cat"), "photos has only one class, big_dog"),
        (lambda photos: [shutil.rmtree(path) for path in photos.iterdir()], "photos has no folders"),
        (
            lambda photos: [shutil.rmtree(photos / "big_dog"), _cut(photos, 2), put_two(photos)],
            "every class has too few images: none are left for val. A class needs 3 to be in each of train, val, test",
        ),
        (lambda photos: shutil.copytree(photos / "cat", photos / "Big Dog"), "underscores: Big Dog and big_dog"),
        (lambda photos: [shutil.copytree(photos / "cat", photos / n) for n in ("é", "e\u0301")], "underscores: e"),
        (lambda photos: _part(photos, "train", "val"), "train, val, but no test. It needs train and test, and may"),
        (lambda photos: _part(photos, "Train", "valid"), "has the folders Train (train), valid (val), but no test"),
        (lambda photos: _part(photos, "train", "valid"), "If you test on valid, rename it test"),
        (
            lambda photos: _part(photos, "TRAIN", "training_set", "test"),
            "TRAIN and training_set all mean train; keep one",
        ),
        (
            lambda photos: [_part(photos, "train", "test"), (photos / "x").mkdir()],
            "others beside them: x. Move",
        ),
        (
            lambda photos: [_part(photos, "train", "test"), shutil.rmtree(photos / "train/cat")],
            "photos: no training images of cat. Add some, or remove the class",
        ),
        (
            lambda photos: _part(photos, "learn", "exam"),
            "photos: exam, learn would be the classes, but all have the same folders in them: big_dog, cat. If these",
        ),
        (
            _parts_in_classes,
            "each class (big_dog, cat) has split folders in it: Testing, train. Split folders come first",
        ),
        (
            lambda photos: [_part(photos, "train"), put_two(photos / "unlabelled")],
            "photos: train would be a class, but has the name of a split, and folders in it: big_dog, cat. If",
        ),
        (_flat_test, "photos/test has no folders; it needs one folder per class"),
        (lambda photos: (photos / "cat" / "gone.jpg").symlink_to("nowhere"), "gone.jpg: a link to a missing file"),
        (lambda photos: os.mkfifo(photos / "cat" / "pipe.jpg"), "pipe.jpg: a link to a missing file, or not"),
        (
            lambda photos: (photos / "cat" / os.fsdecode(b"\xff.jpg")).touch(),
            "not in UTF-8; rename them: '\\udcff.jpg'",
        ),
        (
            lambda photos: (photos / "cat" / "text.jpg").write_text("text"),
            "files that are not images, or too large: 1.",
        ),
        (lambda photos: (photos / "cat" / "0.jpg").rename(photos / "split.json"), "split.json: not JSON"),
        (
            lambda photos: (photos / "split.json").touch(),
            "split.json: not JSON (Expecting value: line 1 column 1 (char 0)). Restore this file, or delete it to",
        ),
        (lambda photos: shutil.rmtree(photos), "photos: no such folder or list of images"),
        (lambda photos: [shutil.rmtree(photos), photos.touch()], "neither a folder of images nor a list of images"),
    ],
)
def test_folders_that_are_refused(photos, change, message):
    change(photos)
    assert message in error(photos)
    assert not (photos / "split.json").exists() or "split.json" in message


def test_a_disk_that_is_full(photos):
    """A limit on files does the same."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        said = error(photos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"{photos}/split.json cannot be written (" in said
    assert sorted(path.name for path in photos.iterdir()) == ["big_dog", "cat"]


def test_a_large_picture_is_refused_before_the_split_is_drawn(photos):
    Image.new("1", (20_000, 20_000)).save(photos / "cat" / "large.png")
    assert "photos/cat/large.png: it has more than 178,956,970 pixels, too many to decode" in error(photos)


# --- the name --------------------------------------------------------------------------------------------------------


def test_a_path_gives_the_name(tmp_path, monkeypatch):
    (tmp_path / "Søren's photos, 2024").mkdir()
    monkeypatch.chdir(tmp_path / "Søren's photos, 2024")
    assert datasets.add_custom(".") == "Søren-s-photos-2024"
    assert datasets.add_custom(f"{tmp_path}/Søren's photos, 2024/") == "Søren-s-photos-2024"
    assert (datasets.add_custom("a.b/c.d"), datasets.add_custom("x/list.CSV")) == ("c.d", "list")
    assert datasets.is_custom("list")
    assert not datasets.is_custom("dtd")
    assert (datasets.cli_name("list"), datasets.cli_name("dtd"), datasets.cli_name("unknown")) == (
        "x/list.CSV",
        "dtd",
        "PATH-OF-unknown",
    )
    with pytest.raises(UserError, match=r"/list.CSV and y/list have the same name, list"):
        datasets.add_custom("y/list")
    with pytest.raises(UserError, match=r"data/dtd: the name dtd belongs to a dataset of the project.*--dataset dtd"):
        datasets.add_custom("data/dtd")
    with pytest.raises(UserError, match="has no name"):
        datasets.add_custom("/")


# --- few-shot splits -------------------------------------------------------------------------------------------------


def test_few_shot_splits_are_drawn_and_shortages_named(photos, tmp_path):
    _cut(photos, 4)
    found = read(photos)
    asked = tmp_path / "indices", [1, 8, few_shot.ALL], [1, 2]
    assert [done for _, done in splits.update_splits(found, *asked)] == ["written"] * 6
    assert [done for _, done in splits.update_splits(found, *asked)] == ["exists"] * 6
    drawn = few_shot.load_checked_splits(found, *asked)
    assert [len(split.train) for split in drawn] == [2, 2, 7, 7, 7, 7]
    assert [len(split.val) for split in drawn] == [2, 2, 3, 3, 3, 3]
    train, val = splits.note_shortages(found, asked[1])
    assert "some classes have fewer than 8 images in train; all of them are used: big_dog (5), cat (2). Every" in train
    assert "some classes have fewer than 4 images in val; all of them are used: big_dog (2), cat (1). Every" in val
    assert splits.note_shortages(found, [1, few_shot.ALL]) == []


def test_few_shot_splits_keep_the_images_that_are_there_still(photos, put_images, tmp_path):
    """A split has content digests; an image that is gone, and no other, is drawn again."""
    asked = tmp_path / "indices", [4], [1]
    (split, _), *_ = splits.update_splits(found := read(photos), *asked)
    drawn = [paths(found, "train")[position] for position in split.train]
    (photos / drawn[1]).unlink()
    (photos / drawn[6]).rename(photos / Path(drawn[6]).parent / "renamed.jpg")
    put_images(photos, ["ant/0.jpg", "ant/1.jpg", "ant/2.jpg"])
    found = read(photos)
    with pytest.raises(UserError, match=r"shot_4-seed_1.json has images that photos no longer has"):
        few_shot.load_checked_splits(found, *asked)
    ((split, done),) = splits.update_splits(found, *asked)
    assert done == "with 3 images drawn again"  # one for the one that is gone, two of the new class
    kept = {paths(found, "train")[position] for position in split.train}
    assert kept.issuperset({*drawn[:1], *drawn[2:6], drawn[7]})
    assert f"{Path(drawn[6]).parent}/renamed.jpg" in kept
    assert few_shot.load_checked_splits(found, *asked) == [split]
    other = photos.parent / "other" / "photos"
    put_images(other, [f"{name}/{number}.jpg" for name in ("cat", "big_dog") for number in range(10)])
    registry.DATASETS.pop("photos")
    with pytest.raises(UserError, match="is a few-shot split of other images: none of them exist now"):
        list(splits.update_splits(read(other), *asked))
