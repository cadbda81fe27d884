"""The three formats on disk, and what is said when a list or an image is wrong."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from engine import datasets
from engine.datasets import few_shot
from engine.datasets.registry import DATASETS
from engine.demo import install as installer
from engine.errors import UserError

REAL = ["caltech101", "dtd", "eurosat", "oxford_flowers", "oxford_pets", "stanford_cars", "ucf101"]


def says(*parts: str) -> str:
    """A pattern for a message that holds these texts in this order."""
    return "(?s)" + ".*".join(re.escape(part) for part in parts)


# --- real split files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_the_published_splits_fit_the_real_split_files(real_splits, tmp_path, name):
    layout = DATASETS[name]
    (tmp_path / layout.folder).mkdir()
    (tmp_path / layout.folder / layout.split_file).symlink_to(real_splits / layout.split_file)
    benchmark = datasets.load(name, tmp_path, check_images=False)
    counts = few_shot.class_counts()[name]
    assert len(benchmark.classnames) == len(counts["labels"])
    assert [len(benchmark.items(part)) for part in ("train", "val", "test")] == [
        sum(counts["train"]),
        sum(counts["val"]),
        counts["test"],
    ]
    for shots in (1, 16):
        split = few_shot.load_split(few_shot.PUBLISHED, name, shots, 1)
        few_shot.check(split, benchmark)
        assert (split.train, split.val) == few_shot.sample(benchmark.labels("train"), benchmark.labels("val"), shots, 1)


@pytest.mark.parametrize("name", REAL)
def test_real_split_files_read_with_their_images(real_splits, install_split, name):
    split = json.loads((real_splits / DATASETS[name].split_file).read_text())
    if name != "oxford_pets":  # that one whole, of the others every 25th image and the first of each class
        split = {part: thin(rows) for part, rows in split.items()}
    data_dir = install_split(name, split)
    benchmark = datasets.load(name, data_dir)
    for part, rows in split.items():
        assert [[item.impath, item.label, item.classname] for item in benchmark.items(part)] == rows
    assert all(benchmark.classnames[label] == classname for rows in split.values() for _, label, classname in rows)
    assert benchmark.path(benchmark.test[0]).is_file()
    assert benchmark.parent_labels is None


def thin(rows: list) -> list:
    """Every 25th row, and the first of every class."""
    seen = set()
    return [row for number, row in enumerate(rows) if not (row[1] in seen or seen.add(row[1])) or number % 25 == 0]


# --- CoOp's JSON -----------------------------------------------------------------------------------------------------


def test_a_split_file_becomes_a_benchmark(install_split, small_split):
    data_dir = install_split("dtd", small_split)
    benchmark = datasets.load("dtd", str(data_dir))
    assert benchmark.name == "dtd"
    assert benchmark.classnames == ["cat", "big_dog"]
    assert benchmark.train[0] == datasets.Item("b/0.jpg", 1, "big_dog")
    assert benchmark.labels("train") == [1, 1, 1, 0, 0]
    assert benchmark.path(benchmark.train[0]) == data_dir / "dtd" / "images" / "b" / "0.jpg"
    with pytest.raises(ValueError, match="train, val, test, not 'tests'"):
        benchmark.items("tests")


def test_two_classes_may_share_a_name(install_split, small_split):
    rows = {part: [[impath, label, "crane"] for impath, label, _ in rows] for part, rows in small_split.items()}
    assert datasets.load("dtd", install_split("dtd", rows)).classnames == ["crane", "crane"]


def test_the_digest_binds_a_part_to_its_rows(install_split, small_split):
    data_dir = install_split("dtd", small_split)
    before = datasets.load("dtd", data_dir)
    assert before.digest("train") == datasets.load("dtd", data_dir).digest("train")
    assert re.fullmatch("[0-9a-f]{64}", before.digest("train"))
    small_split["train"].reverse()
    after = datasets.load("dtd", install_split("dtd", small_split, images=False))
    assert after.digest("train") != before.digest("train")
    assert after.digest("val") == before.digest("val")


def test_a_missing_dataset_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=says("dtd: its folder", str(tmp_path / "dtd"), 'DATASETS.md, section "dtd"')):
        datasets.load("dtd", tmp_path)
    (tmp_path / "dtd").mkdir()
    expected = str(tmp_path / "dtd" / "split_zhou_DescribableTextures.json")
    with pytest.raises(UserError, match=says("dtd: its split file", expected, "DATASETS.md")):
        datasets.load("dtd", tmp_path)


@pytest.mark.parametrize("name", ["demo", "demo_v2"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_missing_demo_is_drawn_where_it_was_looked_for(tmp_path, monkeypatch, name, interrupted):
    """The command that is suggested, read as its module reads it."""
    data_dir = tmp_path / "my data"
    if interrupted:
        (data_dir / name).mkdir(parents=True)
    with pytest.raises(UserError, match=says(name, str(data_dir), "DATASETS.md", "To draw it, run")) as caught:
        datasets.load(name, data_dir)
    python, *words = shlex.split(str(caught.value).splitlines()[-1])
    assert (python, words[:2]) == ("python", ["-m", "engine.demo.install"])
    drawn = []
    monkeypatch.setattr(installer, "install", lambda folder, progress: drawn.append(folder))
    monkeypatch.setattr("sys.argv", words[1:])
    installer.main()
    assert drawn == [data_dir]


def test_a_missing_image_folder_is_no_list_of_images(install_split, small_split):
    data_dir = install_split("dtd", small_split, images=False)
    with pytest.raises(UserError, match=says("dtd: its image folder", str(data_dir / "dtd" / "images"))):
        datasets.load("dtd", data_dir)
    assert len(datasets.load("dtd", data_dir, check_images=False).train) == 5


def test_missing_images_are_counted_and_the_first_five_named(install_split, small_split):
    data_dir = install_split("dtd", small_split)
    (data_dir / "dtd" / "images" / "a" / "3.jpg").unlink()
    with pytest.raises(
        UserError, match=says("dtd: 1 image of its list is not in", ": a/3.jpg. For the folder tree, see DATASETS.md")
    ):
        datasets.load("dtd", data_dir)
    for file in (data_dir / "dtd" / "images" / "b").iterdir():
        file.unlink()
    message = says("dtd: 6 images", ": b/0.jpg, b/1.jpg, b/2.jpg, b/3.jpg, a/3.jpg and 1 more")
    with pytest.raises(UserError, match=message):
        datasets.load("dtd", data_dir)
    (data_dir / "dtd" / "images" / "b").rmdir()
    with pytest.raises(UserError, match=message):
        datasets.load("dtd", data_dir)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", ["not JSON"]),
        ("[]", ["not a split file", "train, val and test"]),
        ('{"train": [], "val": []}', ["not a split file"]),
        ('{"train": [], "val": [], "test": {}}', ["not a split file"]),
        ('{"train": [["a.jpg", 0, "a"]], "val": [], "test": []}', ["val is empty"]),
        (
            '{"train": [["a.jpg", 0, "a"], ["b.jpg", "0", "a"]], "val": [], "test": []}',
            ["train[1]", '["b.jpg", "0", "a"]'],
        ),
    ],
)
def test_an_unknown_format_names_file_and_row(tmp_path, content, message):
    path = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UserError, match=says(str(path), *message)):
        datasets.load("dtd", tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        "a.jpg",
        ["a.jpg", 0],
        ["a.jpg", True, "a"],
        ["a.jpg", 0.0, "a"],
        ["a.jpg", -1, "a"],
        ["", 0, "a"],
        [None, 0, "a"],
        ["/etc/passwd", 0, "a"],
        ["a/../../b.jpg", 0, "a"],
    ],
)
def test_a_malformed_row_is_named(install_split, small_split, row):
    small_split["val"].append(row)
    data_dir = install_split("dtd", small_split, images=False)
    with pytest.raises(UserError, match=says("split_zhou_DescribableTextures.json: val[2]", json.dumps(row))):
        datasets.load("dtd", data_dir)


def test_a_label_with_two_names_is_an_error(install_split, small_split):
    small_split["test"][1][2] = "wolf"
    data_dir = install_split("dtd", small_split)
    message = says("split_zhou_DescribableTextures.json: labels with two names: 1 ('big_dog', 'wolf')")
    with pytest.raises(UserError, match=message):
        datasets.load("dtd", data_dir)


def test_a_label_gap_is_an_error(install_split, small_split):
    for rows in small_split.values():
        for row in rows:
            row[1] *= 8
    with pytest.raises(UserError, match=says("labels go up to 8, but no image has label 1, 2, 3, 4, 5 and 2 more")):
        datasets.load("dtd", install_split("dtd", small_split))


# --- FGVC Aircraft ---------------------------------------------------------------------------------------------------

VARIANTS = ["707-320", "Cessna 172", "F/A-18"]
LINES = {
    "train": ["0034309 F/A-18", "1 Cessna 172", "2 707-320"],
    "val": ["3 707-320", "4 F/A-18"],
    "test": ["5 Cessna 172"],
}


def test_aircraft_lists(install_aircraft):
    benchmark = datasets.load("fgvc_aircraft", install_aircraft(VARIANTS, LINES))
    assert benchmark.classnames == VARIANTS
    assert benchmark.train[0] == datasets.Item("0034309.jpg", 2, "F/A-18")
    assert benchmark.labels("val") == [0, 2]
    assert benchmark.path(benchmark.test[0]).is_file()


@pytest.mark.parametrize(
    ("variants", "lines", "message"),
    [
        (VARIANTS, {"val": ["3 707-320", "4 F-18"]}, ["images_variant_val.txt, line 2", "'4 F-18'"]),
        (VARIANTS, {"val": ["3"]}, ["images_variant_val.txt, line 1"]),
        (VARIANTS, {"val": ["../3 707-320"]}, ["images_variant_val.txt, line 1"]),
        (VARIANTS, {"test": []}, ["images_variant_test.txt: empty"]),
        ([*VARIANTS, "A380"], {}, ["variants.txt: labels go up to 3, but no image has label 3"]),
        ([*VARIANTS, "707-320"], {}, ["variants.txt: listed more than once: 707-320"]),
    ],
)
def test_malformed_aircraft_lists(install_aircraft, variants, lines, message):
    data_dir = install_aircraft(variants, LINES | lines)
    with pytest.raises(UserError, match=says(*message)):
        datasets.load("fgvc_aircraft", data_dir)


@pytest.mark.parametrize("file", ["variants.txt", "images_variant_val.txt"])
def test_a_missing_aircraft_list(install_aircraft, file):
    data_dir = install_aircraft(VARIANTS, LINES)
    (data_dir / "fgvc_aircraft" / file).unlink()
    with pytest.raises(UserError, match=says("fgvc_aircraft: its list of", file, "DATASETS.md")):
        datasets.load("fgvc_aircraft", data_dir)


def test_a_missing_aircraft_image(install_aircraft):
    data_dir = install_aircraft(VARIANTS, LINES)
    (data_dir / "fgvc_aircraft" / "images" / "5.jpg").unlink()
    with pytest.raises(UserError, match=says("fgvc_aircraft: 1 image", "5.jpg")):
        datasets.load("fgvc_aircraft", data_dir)


# --- class folders ---------------------------------------------------------------------------------------------------

CLASSES = [(f"n{number:03d}", f"class {number}") for number in range(12)]
"""Twelve: sorted as text, folder 10 would come before folder 2."""


def test_numbered_folders_are_the_parents_labels(install_folders):
    data_dir = install_folders("demo_v2", [str(label) for label in range(12)], CLASSES)
    benchmark = datasets.load("demo_v2", data_dir)
    assert benchmark.train == benchmark.val == []
    assert benchmark.classnames == [name for _, name in CLASSES]
    assert benchmark.parent_labels == list(range(12))
    assert benchmark.test[:3] == [
        datasets.Item("0/a.jpg", 0, "class 0"),
        datasets.Item("0/b.jpg", 0, "class 0"),
        datasets.Item("1/a.jpg", 1, "class 1"),
    ]
    assert benchmark.test[-1] == datasets.Item("11/b.jpg", 11, "class 11")


def test_a_subset_is_numbered_by_its_sorted_folders(install_folders):
    data_dir = install_folders("demo_a", ["n007", "n002", "n010"], CLASSES)
    benchmark = datasets.load("demo_a", data_dir)
    assert benchmark.classnames == ["class 2", "class 7", "class 10"]
    assert benchmark.parent_labels == [2, 7, 10]
    assert benchmark.labels("test") == [0, 0, 1, 1, 2, 2]
    assert benchmark.test[-1].impath == "n010/b.jpg"


def test_readme_and_hidden_files_are_no_images(install_folders):
    data_dir = install_folders("demo_sketch", [class_id for class_id, _ in CLASSES], CLASSES)
    images = data_dir / "demo_sketch" / "images"
    for file in ("README.txt", ".DS_Store", "n000/README.txt", "n000/._a.jpg", "n001/Thumbs.db", "n001/a.jpg.part"):
        (images / file).write_text("no image")
    for folder in (".cache", "@eaDir", "lost+found"):
        (images / folder).mkdir()
    found = datasets.load("demo_sketch", data_dir)
    assert len(found.test) == 24
    assert found.notes[0].startswith(f"{images}: 7 hidden or system names skipped: ")


@pytest.mark.parametrize(
    ("name", "folders", "message"),
    [
        ("demo_sketch", ["n000", "n001"], ["class folders are missing: n002, n003, n004, n005, n006 and 5 more"]),
        ("demo_v2", ["0", "1"], ["class folders are missing: 2, 3"]),
        ("demo_a", ["n000", "n999"], ["folders that are not classes: n999"]),
        ("demo_v2", [*map(str, range(13))], ["folders that are not classes: 12"]),
        ("demo_a", [], ["demo_a: its image folder"]),
        (
            "imagenet_a",
            ["n000"],
            ["imagenet-a: 1 class folders, but imagenet_a has 2 of imagenet's 12; incomplete installation"],
        ),
        ("imagenet_r", ["n000", "n001", "n002"], ["3 class folders, but imagenet_r has 2 of imagenet's 12"]),
    ],
)
def test_wrong_class_folders(install_folders, name, folders, message):
    data_dir = install_folders(name, folders, CLASSES)
    with pytest.raises(UserError, match=says(*message)):
        datasets.load(name, data_dir)


def test_empty_class_folders(install_folders):
    data_dir = install_folders("demo_a", ["n001"], CLASSES)
    folder = data_dir / "demo_a" / "images" / "n001"
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=says(str(folder), "without images")):
        datasets.load("demo_a", data_dir)
    folder.rmdir()
    with pytest.raises(UserError, match="0 class folders, but it needs at least one"):
        datasets.load("demo_a", data_dir)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("n000 tench\nn001\n", "line 2: not `<id> <class name>`: 'n001'"),
        ("n000 tench\nn000 shark\n", "line 2: the id occurs twice: 'n000 shark'"),
    ],
)
def test_malformed_classnames(install_folders, lines, message):
    data_dir = install_folders("demo_a", ["n000"], CLASSES)
    (data_dir / "demo_a" / "classnames.txt").write_text(lines)
    with pytest.raises(UserError, match=says("classnames.txt", message)):
        datasets.load("demo_a", data_dir)


def test_a_text_file_that_is_none(install_folders):
    data_dir = install_folders("demo_a", ["n000"], CLASSES)
    (data_dir / "demo_a" / "classnames.txt").write_bytes(b"n000 \xff\n")
    with pytest.raises(UserError, match=says("classnames.txt", "UTF-8")):
        datasets.load("demo_a", data_dir)


def test_missing_classnames(install_folders):
    data_dir = install_folders("demo_a", ["n000"], CLASSES)
    (data_dir / "demo_a" / "classnames.txt").unlink()
    with pytest.raises(UserError, match=says("demo_a: its list of classes", "classnames.txt")):
        datasets.load("demo_a", data_dir)


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_has_the_fifteen_and_the_demo():
    assert len(datasets.TARGETS) == 11
    assert set(datasets.TARGETS) == set(few_shot.class_counts())
    assert datasets.variants("imagenet") == ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
    assert datasets.variants("demo") == ["demo_v2", "demo_sketch", "demo_a", "demo_r"]
    assert datasets.variants("dtd") == []
    assert datasets.parent("imagenet_r") == "imagenet"
    assert datasets.parent("imagenet") is None
    everything = [*datasets.TARGETS, *datasets.variants("imagenet"), "demo", *datasets.variants("demo")]
    assert datasets.names() == everything


def test_an_unknown_name_lists_the_names(tmp_path):
    with pytest.raises(UserError, match=says("unknown dataset 'cifar'", "caltech101, imagenet", "demo_r")):
        datasets.load("cifar", tmp_path)


def test_every_dataset_has_its_section_in_datasets_md():
    text = (Path(__file__).resolve().parents[2] / "DATASETS.md").read_text()
    headings = re.findall(r"^### (\w+)$", text, flags=re.M)
    assert headings == datasets.names()
    for name, layout in DATASETS.items():
        section = text.split(f"\n### {name}\n")[1].split("\n### ")[0].split("\n## ")[0]
        assert f"{layout.folder}/" in section, name
        assert getattr(layout, "split_file", "classnames.txt" if datasets.parent(name) else "variants.txt") in section


def test_datasets_md_has_the_right_numbers():
    text = (Path(__file__).resolve().parents[2] / "DATASETS.md").read_text()
    for name, counts in few_shot.class_counts().items():
        numbers = [len(counts["labels"]), sum(counts["train"]), sum(counts["val"]), counts["test"]]
        assert f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |" in text
