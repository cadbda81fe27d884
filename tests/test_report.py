"""report.py: numbers, files and the page, in a browser where there is one; names of anybody's making change nothing."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import Page
from PIL import Image
from safetensors.torch import load_file

from engine.features.listing import read_listing
from engine.features.store import Bank, FeaturePaths
from engine.report.measure import wilson
from engine.report.sections import titles
from engine.results.saved_classifiers import read
from forks import run_fork
from stores import save_zeroshot, store_of_random_features

NAMES = {
    "a": "</script><script>document.title='run'</script>",
    "b": "=cmd()|' /C calc'!A0",
    "c": '"><img src=x onerror="document.title=1">',
    "d": "{{ 7 * 7 }} {% raw %}",
    "e": "\u202egnikcab",
    "f": "+1, @SUM(A1)",
    "g": "שלום & <b>",
}
"""Class names by folder."""
FILES = ["=1+1.png", "two\nlines.png", "<img src=q onerror=alert(1)>.png", "\u202egnp.exe.png"]
"""Files of each class in test."""

VAL = 8
"""Validation images of each class: 56, which are enough for a temperature."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A custom dataset of noise with such names, its features, a saved classifier, and the report on it."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    files = {"train": ["1.png", "2.png"], "val": [f"{k}.png" for k in range(VAL)], "test": FILES}
    for folder in NAMES:
        base = rng.integers(0, 256, (4, 4, 3))
        for split, names in files.items():
            (root / "photos" / split / folder).mkdir(parents=True)
            for name in names:
                coarse = np.clip(base + rng.integers(-90, 91, (4, 4, 3)), 0, 255).astype(np.uint8)
                picture = Image.fromarray(coarse).resize((80, 70), Image.Resampling.BICUBIC)
                picture.save(root / "photos" / split / folder / name)
    (root / "photos" / "classnames.json").write_text(json.dumps(NAMES))
    sweep = "--dataset photos --train-shot 8 --max-val-shot 8 --seed 1 --clip-encoder demo-RN".split()
    sweep += ["--image-augmentation", "none"]
    run_fork("features.py", *sweep, folder=root, cwd=root, check=0)
    said = run_fork("train.py", *sweep, "--max-iter", 101, "--save-heads", folder=root, cwd=root, check=0).stdout
    made = SimpleNamespace(root=root, classifier=root / said.splitlines()[-1].strip())
    made.said = report(made, "--output", "said").stdout
    made.folder = root / "said"
    made.data = json.loads((made.folder / "report.json").read_text())
    return made


def report(made, *words, check=0):
    runs = [] if "--run" in words else ["--run", "experiments"]
    return run_fork("report.py", *runs, *words, folder=made.root, cwd=made.root, check=check)


def logits_by_hand(made, split, positions=None):
    """The logits and labels of a split in float64, from stored features and the weights of the classifier."""
    paths = FeaturePaths.of(made.root / "features", "demo-RN", "photos")
    features, labels = Bank(paths.bank(split, 0, "none"), read_listing(paths).split(split)).read(positions)
    weight, x = (tensor.double().numpy() for tensor in (load_file(made.classifier)["head.weight"], features))
    scale = np.exp(made.data["runs"][0]["record"]["cell"]["log_logit_scale"])
    return scale * (x / np.linalg.norm(x, axis=1, keepdims=True)) @ weight.T, labels.numpy()


def probabilities(logits, temperature):
    scaled = np.exp(logits / temperature - (logits / temperature).max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def test_the_numbers_are_those_of_loops_over_images(photos):
    """In float64, from the features and the weights: accuracies, calibration, classes, confusions and thresholds."""
    (run,) = photos.data["runs"]
    assert run["temperature"] != 1
    logits, labels = logits_by_hand(photos, "test")
    val_logits, _ = logits_by_hand(photos, "val")
    n, guesses = len(labels), logits.argmax(axis=1)
    right = guesses == labels
    assert run["test"]["right"] == right.sum()
    assert run["test"]["accuracy"] == right.sum() / n == run["record"]["accuracies"]["trained"]["test"]
    assert 0 < run["test"]["accuracy"] < 1
    by_class = [right[labels == label].mean() for label in range(len(NAMES))]
    assert run["test"]["mean_per_class_accuracy"] == pytest.approx(np.mean(by_class))
    top = [label in np.argsort(-row)[:5] for row, label in zip(logits, labels, strict=True)]
    assert run["test"]["top_5_accuracy"] == pytest.approx(np.mean(top))
    for number, temperature in enumerate((1.0, run["temperature"])):
        found = probabilities(logits, temperature)
        likelihood = -np.mean([np.log(row[label]) for row, label in zip(found, labels, strict=True)])
        assert run["test"]["negative_log_likelihood"][number] == pytest.approx(likelihood, rel=1e-4)
        error = 0.0
        for low in np.arange(15) / 15:
            inside = (found.max(axis=1) > low) & (found.max(axis=1) <= low + 1 / 15)
            error += abs(found.max(axis=1)[inside].sum() - right[inside].sum()) / n
        assert run["test"]["expected_calibration_error"][number] == pytest.approx(error, abs=1e-4)
    for row, label in zip(run["classes"], range(len(NAMES)), strict=True):
        others = [np.sum(guesses[labels == label] == other) * (other != label) for other in range(len(NAMES))]
        assert (row["label"], row["train"], row["val"], row["test"]) == (label, 2, VAL, len(FILES))
        assert (row["right"], row["times"]) == (right[labels == label].sum(), max(others))
    assert sum(count for *_, count in run["confusions"]) == n - right.sum()
    confidence = found.max(axis=1)
    for row in run["thresholds"]:
        ascending = sorted(probabilities(val_logits, temperature).max(axis=1))
        below = int(row["asked"] * len(ascending) + 0.5)
        between = sum(ascending[below - 1 : below + 1]) / 2 if below else 0.0
        assert row["threshold"] == pytest.approx(between, rel=1e-4)
        kept = confidence >= row["threshold"] - 1e-7
        assert row["rejected"] == pytest.approx(1 - kept.mean())
        assert row["accuracy"] == pytest.approx(right[kept].mean())


def test_wise_ft_has_the_accuracy_and_the_temperature_that_training_saved(photos):
    said = report(photos, "--wise_ft", "0.5", "--output", "averaged").stdout
    (run,) = json.loads((photos.root / "averaged" / "report.json").read_text())["runs"]
    assert run["test"]["accuracy"] == run["record"]["accuracies"]["wiseft"]["test"]
    assert run["val"]["accuracy"] == run["record"]["accuracies"]["wiseft"]["val"]
    assert run["temperature"] != photos.data["runs"][0]["temperature"]
    assert said.startswith("photos 8-shot seed 1: linear probing WiSE-FT 0.5, cross-modal, demo-RN: test ")


def test_wilson():
    """The values of Wilson's formula for 8 of 10, and its ends."""
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10) == pytest.approx((0.7224672, 1.0), abs=1e-6)


def test_classifiers_of_one_method_are_told_apart_by_the_settings_that_differ(photos):
    cell = read(photos.classifier).run.cell
    cells = [cell, dataclasses.replace(cell, text_augmentation="mine"), dataclasses.replace(cell, seed=2)]
    plain, mine, other = titles([SimpleNamespace(cell=cell) for cell in cells], 0.0)
    assert plain == f"{cell}: linear probing, cross-modal, demo-RN (demo-RN-image_0-text_0-hand_crafted-none_0)"
    assert mine == plain.replace("hand_crafted", "mine")
    assert other == "photos 8-shot seed 2: linear probing, cross-modal, demo-RN"


def test_the_data_beside_the_page_have_the_names_as_they_are(photos):
    """In JSON exactly; in CSV after an apostrophe where a spreadsheet would run them, and nowhere else."""
    (run,) = photos.data["runs"]
    assert run["classnames"] == list(NAMES.values())
    tables = {name: list(csv.DictReader((photos.folder / f"{name}.csv").open(newline=""))) for name in
              ("classes", "confusions", "images")}  # fmt: skip
    shown = [f"'{name}" if name[0] in "=+" else name for name in NAMES.values()]
    assert [row["class"] for row in tables["classes"]] == shown
    assert {row["class"] for row in tables["images"]} == set(shown)
    assert {Path(row["image"]).name for row in tables["images"]} == set(FILES)
    assert len(tables["images"]) == len(NAMES) * len(FILES)
    right = sum(row["class"] == row["predicted"] for row in tables["images"])
    assert right == run["test"]["right"] == sum(int(row["right"]) for row in tables["classes"])
    assert sum(int(row["images"]) for row in tables["confusions"]) == len(tables["images"]) - right


def test_the_page_has_nothing_to_load_and_no_name_is_code(photos):
    text = (photos.folder / "report.html").read_text(encoding="utf-8")
    assert photos.said.splitlines()[-1] == "said/report.html"
    assert re.findall(r"<(?:script|link|iframe|object|base)\b[^>]*>", text) == ["<script>"]
    assert re.findall(r"\b(?:src|href)=\"(?!data:image/(?:jpeg|png);base64,|#)", text) == []
    assert "two\\nlines.png" in text
    assert "\u202e" not in text
    assert text.count("data:image/jpeg") == len(NAMES) * len(FILES)
    assert len(text.encode()) < 300_000


def test_the_page_in_a_browser(photos, tmp_path):
    """No script error, no request, thumbnails; a click and a key sort; nothing is wider than a phone."""
    with Page(photos.folder / "report.html", tmp_path, width=360, height=740) as page:
        assert page.run("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.run("document.images.length") == len(NAMES) * len(FILES)
        assert page.run("document.title").startswith("photos 8-shot seed 1: linear probing")
        assert page.run("document.querySelectorAll('script').length") == 1
        assert page.run("document.documentElement.scrollWidth") <= 360
        names = "[...document.querySelectorAll('.classes tbody tr')].map(row => row.cells[0].textContent)"
        accuracies = "[...document.querySelectorAll('.classes tbody tr')].map(row => Number(row.cells[1].dataset.v))"
        assert sorted(page.run(names)) == sorted(name.replace("\u202e", "\\u202e") for name in NAMES.values())
        assert page.run(accuracies) == sorted(page.run(accuracies))
        page.run("document.querySelectorAll('.classes thead button')[1].click()")
        assert page.run(accuracies) == sorted(page.run(accuracies), reverse=True)
        page.run("document.querySelectorAll('.classes thead button')[0].focus()")
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", windowsVirtualKeyCode=13)
        assert page.run(f"{names}.every((name, k, all) => !k || all[k - 1].localeCompare(name, 'en') <= 0)")
        assert page.run("document.querySelector('.classes th').getAttribute('aria-sort')") == "ascending"
        assert page.requests == [(photos.folder / "report.html").as_uri()]
        assert page.errors == []


def test_many_classes_are_a_picture_and_several_runs_are_compared(tmp_path):
    """Without images, lists of images or weights: positions for paths, a note, and no thumbnail."""
    store = store_of_random_features(tmp_path, classes=40)
    runs = [save_zeroshot(store, [f"class {k}" for k in range(40)], shots) for shots in (1, 2)]
    runs = sorted(str(path) for path in runs[0].rglob("classifier.safetensors"))
    made = SimpleNamespace(root=tmp_path)
    places = [*store.flags[:4], "--data_dir", tmp_path, "--report_dir", "reports"]
    said = report(made, "--run", *runs, *places).stdout
    assert re.search(r"^reports/comparison-\w{12}/report\.html$", said, re.MULTILINE)
    path = tmp_path / said.splitlines()[-1]
    text = path.read_text(encoding="utf-8")
    assert re.search(r"<bdi>test/\d+</bdi>", text)
    assert "The images are not here; name --data_dir of demo to see them." in text
    assert "data:image/jpeg" not in text
    assert text.count("<figcaption>without calibration: ") == 2
    assert "before calibration" not in text
    with Page(path, tmp_path / "profile") as page:
        assert page.run("[...document.images].map(image => image.naturalWidth)") == [40, 40]
        order = page.run("document.images[0].dataset.order").split()
        assert sorted(map(int, order)) == list(range(40))
        page.run(
            "{const box = document.images[0].getBoundingClientRect(); document.images[0].dispatchEvent(new"
            " PointerEvent('pointermove', {clientX: box.left + 1.5 * box.width / 40, clientY: box.top + 1}))}"
        )
        named = f"class {order[0]}, taken for class {order[1]}"
        assert page.run("document.querySelector('.cell').textContent") == named
        assert page.run("document.querySelectorAll('header tbody tr').length") == 2
        assert page.errors == []


def test_mistakes_of_a_user(photos, tmp_path):
    """A run without a classifier, another dataset's name, and images that changed."""
    record = shutil.copytree(photos.classifier.parent, tmp_path / "run") / "classifier.safetensors"
    record.unlink()
    assert "--save-heads" in report(photos, "--run", tmp_path / "run", check=1).stderr
    assert "--dataset names demo, but --run is of photos" in report(photos, "--dataset", "demo", check=1).stderr
    moved = shutil.copytree(photos.root, tmp_path / "moved", ignore=shutil.ignore_patterns("said", "out-*", "err-*"))
    shutil.copy(moved / "photos/test/a" / FILES[0], moved / "photos/test/b" / FILES[0])
    error = report(SimpleNamespace(root=moved), "--dataset", "photos", check=1).stderr
    assert "images replaced" in error or "1 image replaced" in error
    assert "python features.py --dataset photos" in error
