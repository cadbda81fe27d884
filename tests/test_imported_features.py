"""Features as arrays: features.py --export and --import, and what is trained on features of another program."""

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from engine import datasets
from engine.datasets import registry
from engine.errors import UserError
from engine.features import arrays
from engine.features.listing import read_listing
from engine.features.store import Bank, FeaturePaths
from engine.results.runs import read_record
from forks import run_fork
from stores import store_of_random_features

CLASSES = 6
PAGE = (Path(__file__).parents[1] / "docs" / "features.md").read_text(encoding="utf-8")
(SAVING,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CELL = "--dataset demo --train-shot 2 --seed 1".split()
UNI = "--modality uni_modal --classifier_init random".split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Random features of an encoder `fake`, and the dataset's lists, which its splits and features fit."""
    root = tmp_path_factory.mktemp("world")
    store_of_random_features(root, CLASSES)
    listed = {
        split: [[f"{split}/{k}", k // count, f"class {k // count}"] for k in range(CLASSES * count)]
        for split, count in (("train", 16), ("val", 4), ("test", 5))
    }
    (root / "data" / "demo" / "images").mkdir(parents=True)
    (root / "data" / "demo" / "split_demo.json").write_text(json.dumps(listed))
    features(root, "fake", "--export", root / "exported")
    features(root, "mine", "--import", root / "exported" / "fake" / "demo")
    return root


def features(root, encoder, *words, check=0):
    places = ["--data_dir", root / "data", "--indices_dir", root / "indices", "--feature_dir", root / "features"]
    return run_fork("features.py", *CELL, "--clip-encoder", encoder, *places, *words, folder=root, check=check)


def train(root, encoder, *words, check=0):
    places = [("indices", "indices"), ("feature", "features"), ("result", "experiments")]
    where = [word for name, folder in places for word in (f"--{name}_dir", root / folder)]
    words = [*CELL, "--clip-encoder", encoder, "--max-iter", 101, *where, *words]
    return run_fork("train.py", *words, folder=root, check=check)


def records(root, encoder, modality):
    """The records of an encoder, by the folder of their hyper-parameters."""
    found = (root / "experiments").glob(f"*/{encoder}-*/{modality}*/*/*/record.json")
    return {path.parent.name: read_record(path) for path in found}


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def copy(world, tmp_path):
    """A copy of the exported files, which may be spoiled."""
    return Path(shutil.copytree(world / "exported" / "fake" / "demo", tmp_path / "copy"))


def bring_in(world, folder, root, encoder="other"):
    """Import files in this process; return the lines."""
    benchmark = datasets.load("demo", world / "data", check_images=False)
    wanted = [("train", "none", [0, 20]), ("train", "flip", [0]), ("val", "none", [3]), ("test", "none", [*range(30)])]
    paths = FeaturePaths.of(root / "features", encoder, "demo")
    return list(arrays._import(folder, benchmark, wanted, encoder, paths))


def test_exported_features_train_as_before(world):
    """Also those that were imported and exported once more, whose files are equal."""
    for encoder in ("fake", "mine"):
        train(world, encoder)
    fake, mine = (records(world, encoder, "cross_modal") for encoder in ("fake", "mine"))
    assert fake.keys() == mine.keys()
    assert len(fake) == 6
    assert all(fake[key].accuracies == mine[key].accuracies for key in fake)
    inputs = next(iter(mine.values())).inputs
    assert inputs["features"] == "preprocessing imported"
    assert inputs["encoder"] != "digest of weights"

    said = features(world, "mine", "--export", world / "again").stdout
    assert f"{world / 'again' / 'mine' / 'demo' / 'train-flip.npz'}: 96 x 32" in said
    names = ["test", "texts-hand_crafted", "train", "train-flip", "val"]
    assert sorted(path.stem for path in (world / "again" / "mine" / "demo").iterdir()) == names
    for name in names:
        one, other = (load(world / folder / "demo" / f"{name}.npz") for folder in ("exported/fake", "again/mine"))
        assert one.keys() == other.keys()
        assert all(one[key].dtype == other[key].dtype and (one[key] == other[key]).all() for key in one)
    assert one["paths"].tolist() == [f"val/{k}" for k in range(24)]
    assert one["classnames"].tolist() == [f"class {k}" for k in range(CLASSES)]
    assert one["features"].dtype == np.float32
    assert "0 of them bad" in features(world, "mine", "--verify").stdout


def test_features_without_texts_train_uni_modal_classifiers(world, copy, tmp_path):
    """With the same accuracies as with texts; what needs texts, or the encoder, is refused."""
    (copy / "texts-hand_crafted.npz").unlink()
    features(world, "dino", "--import", copy)
    train(world, "mine", *UNI)
    said = train(world, "dino", *UNI, "--save-heads").stdout
    assert "WiSE-FT" not in said
    assert "zero-shot" not in said
    with_texts, without = (records(world, encoder, "uni_modal") for encoder in ("mine", "dino"))
    assert len(without) == 6
    assert {key: {"trained": one.accuracies["trained"]} for key, one in with_texts.items()} == {
        key: one.accuracies for key, one in without.items()
    }

    tabulate = ["--datasets", *CELL[1:], *UNI, "--clip-encoder", "dino", "--max-iter", 101]
    places = ["--result_dir", world / "experiments", "--eval_dir", tmp_path, "--indices_dir", world / "indices"]
    tabulate += [*places, "--feature_dir", world / "features", "--data_dir", world / "data"]
    run_fork("eval.py", *tabulate, "--predictions", tmp_path / "images.csv", folder=tmp_path, check=0)
    (table,) = tmp_path.glob("all_*.csv")
    assert pd.read_csv(table)["zeroshot"].isna().all()
    right = pd.read_csv(tmp_path / "images.csv").eval("label == predicted").mean()
    assert right == pytest.approx(pd.read_csv(table)["mean"][0] / 100, abs=1e-4)
    averaged = ["--name", table.stem, "--eval_dir", tmp_path, "--avg_dir", tmp_path / "averages"]
    run_fork("average.py", *averaged, "--plot", tmp_path / "a.png", folder=tmp_path, check=0)
    refused = run_fork("eval.py", *tabulate, "--wise_ft", "true", folder=tmp_path, check=1).stderr
    assert "has no WiSE-FT: the features of dino were imported without texts; use --wise_ft false" in refused

    saved = said.splitlines()[-1].strip()
    report = ["--run", saved, *places[4:], *tabulate[-4:], "--output", tmp_path / "report"]
    run_fork("report.py", *report, folder=tmp_path, check=0)
    assert "dino, imported features" in (tmp_path / "report" / "report.html").read_text()
    (tmp_path / "a.png").touch()
    refused = run_fork("predict.py", "--run", saved, tmp_path / "a.png", folder=tmp_path, check=1).stderr
    assert f"{saved} was trained on imported features of dino, so images cannot be encoded for it" in refused
    assert "imported without texts, which cross-modal training" in train(world, "dino", check=1).stderr
    refused = train(world, "dino", *UNI, "--image-augmentation", "randomcrop", check=1).stderr
    assert "randomcrop_0; add them with features.py --import" in refused


def change(path, **changed):
    np.savez(path, **load(path) | changed)


def first(path, name, value):
    array = load(path)[name].copy()
    array[0] = value
    change(path, **{name: array})


def drop(path, name):
    np.savez(path, **{key: array for key, array in load(path).items() if key != name})


def only(path, rows):
    found = load(path)
    np.savez(path, **{key: array if key == "classnames" else array[rows] for key, array in found.items()})


def hostile(path):
    with path.open("wb") as file:
        pickle.dump({"features": [1.0]}, file)


WRONG = {
    "text": ("val", lambda path: path.write_text("features"), "is not a file of arrays, as numpy.savez writes it"),
    "pickle": ("val", hostile, "is not a file of arrays, as numpy.savez writes it (it has pickled objects"),
    "objects": ("val", lambda path: change(path, labels=np.array([{}] * 24)), "is not a file of arrays"),
    "cut": ("val", lambda path: path.write_bytes(path.read_bytes()[:-300]), "is not a file of arrays"),
    "one array": ("val", lambda path: path.write_bytes(b"\x93NUMPY" + bytes(100)), "is not a file of arrays"),
    "no labels": ("val", lambda path: drop(path, "labels"), "'labels' must be whole numbers [n], and is missing"),
    "three axes": (
        "val",
        lambda path: change(path, features=np.zeros((24, 2, 2), np.float32)),
        "'features' must be numbers [n, D], floating, and is float32 [24, 2, 2]",
    ),
    "rows": ("val", lambda path: change(path, labels=np.arange(3)), "'labels' has 3 rows, and 'features' 24"),
    "NaN": (
        "val",
        lambda path: first(path, "features", np.nan),
        "features that are not finite numbers, at positions 0",
    ),
    "zeros": ("val", lambda path: first(path, "features", 0), "too small or too large to be normalised"),
    "label": (
        "val",
        lambda path: first(path, "labels", 5),
        "'labels' differ from the labels of demo: val/0 (5, not 0)",
    ),
    "names": ("val", lambda path: first(path, "classnames", "dog"), "'classnames' are not the class names of demo"),
    "unknown": ("val", lambda path: first(path, "paths", "val/9"), "'paths' has images twice: val/9"),
    "twice": (
        "val",
        lambda path: first(path, "paths", "x.jpg"),
        "images that are not in val of demo: x.jpg; its paths",
    ),
    "fewer": (
        "test",
        lambda path: only(path, slice(2, None)),
        "test.npz lacks 2 of 30 images that the few-shot splits",
    ),
    "no view": ("train-flip", Path.unlink, "train-flip.npz is missing; --image-augmentation none needs no views"),
    "no test": ("test", Path.unlink, "test.npz is missing"),
    "name": ("val", lambda path: path.rename(path.with_name("valid.npz")), "valid.npz: a file has a name such as"),
    "view none": ("train-flip", lambda path: path.rename(path.with_stem("train-none")), "train-none.npz: a file has"),
    "mined": (
        "texts-hand_crafted",
        lambda path: path.rename(path.with_stem("texts-template_mining")),
        "mined prompts cannot be imported",
    ),
    "no class": ("texts-hand_crafted", lambda path: only(path, slice(5)), "'labels' must have each of the 6 classes"),
    "dimension": (
        "val",
        lambda path: change(path, features=np.ones((24, 7), np.float16)),
        "all features must have the same dimension: test.npz 32, texts-hand_crafted.npz 32",
    ),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_arrays_are_refused_before_anything_is_stored(world, copy, tmp_path, how):
    name, spoil, said = WRONG[how]
    spoil(copy / f"{name}.npz")
    with pytest.raises(UserError) as error:
        bring_in(world, copy, tmp_path)
    assert said in str(error.value)
    assert str(copy) in str(error.value)
    assert not (tmp_path / "features").exists()


def test_an_interrupted_import_goes_on_and_other_features_are_kept(world, copy, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "_store_texts", fail)
        with pytest.raises(KeyboardInterrupt):
            bring_in(world, copy, tmp_path)
    assert len(bring_in(world, copy, tmp_path)) == 5
    assert len(bring_in(world, copy, tmp_path)) == 5
    first(copy / "val.npz", "features", 2)
    with pytest.raises(UserError, match=r"other/demo has other features; remove it to import these"):
        bring_in(world, copy, tmp_path)
    with pytest.raises(UserError, match=r"fake/demo has other features"):
        bring_in(world, copy, world, encoder="fake")
    (tmp_path / "features" / "other" / "demo" / "imported.json").write_text('{"digest": 7}')
    with pytest.raises(UserError, match=r"imported.json is damaged .*; remove its folder to import"):
        bring_in(world, copy, tmp_path)


def test_custom_images_are_found_by_path(tmp_path, monkeypatch):
    """Their features follow the content of the images, as extracted ones do."""
    monkeypatch.setattr(registry, "DATASETS", dict(registry.DATASETS))
    random = np.random.default_rng(0)
    for k in range(3):
        for number in range(6):
            path = tmp_path / "photos" / f"class {k}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    name = datasets.add_custom(str(tmp_path / "photos"))
    benchmark, folder, rows = datasets.load(name, ""), tmp_path / "arrays", {}
    folder.mkdir()
    for split in ("train", "val", "test"):
        labels = np.array(benchmark.labels(split))
        rows[split] = random.normal(size=(len(labels), 16)).astype(np.float32)
        order = random.permutation(len(labels))
        paths = np.array([item.impath for item in benchmark.items(split)])
        shown = {"numpy": np, "features": rows[split][order], "labels": labels[order], "paths": paths[order]}
        exec(SAVING.replace("arrays/train.npz", str(folder / f"{split}.npz")), shown)
    cell = ["--dataset", tmp_path / "photos", "--train-shot", "all", "--seed", 1, "--image-augmentation", "none"]
    places = ["--indices_dir", tmp_path / "indices", "--feature_dir", tmp_path / "features"]
    cell += [*places, "--clip-encoder", "dinov2"]
    run_fork("features.py", *cell, "--import", folder, folder=tmp_path, check=0)
    place = FeaturePaths.of(tmp_path / "features", "dinov2", name)
    for split, wanted in rows.items():
        found, labels = Bank(place.bank(split, 0, "none"), read_listing(place).split(split)).read()
        assert (found.numpy() == wanted).all()
        assert labels.tolist() == benchmark.labels(split)
    cell += [*UNI, "--result_dir", tmp_path / "experiments", "--max-iter", 101]
    assert "photos all-shot seed 1: val" in run_fork("train.py", *cell, folder=tmp_path, check=0).stdout


@pytest.mark.parametrize(
    ("encoder", "words", "said"),
    [
        ("RN50", [], "--import needs another --clip-encoder: RN50 is an encoder that features.py runs itself"),
        ("new", ["--dataset", "demo", "demo"], "--import takes one --dataset and one --clip-encoder"),
        ("new", ["--verify"], "--verify or --repair and --import cannot be used at once"),
        ("new", ["--train-shot", "1", "2", "--seed", "2"], "no files"),
    ],
)
def test_wrong_arguments_of_an_import(world, tmp_path, encoder, words, said):
    done = features(world, encoder, "--import", tmp_path, *words, check=1)
    assert said.replace("no files", f"{tmp_path / 'train.npz'} is missing") in done.stderr
