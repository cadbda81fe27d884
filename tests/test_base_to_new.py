"""train.py, eval.py and average.py with --classes base, on seven classes of the demo's world: four base, three new."""

import shutil
from argparse import Namespace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from engine.clip.load import load_encoder
from engine.clip.prompting import PromptEncoder
from engine.datasets import halves
from engine.demo import world as drawn
from engine.errors import UserError
from engine.features.prompts import read_texts
from engine.features.store import Bank, FeaturePaths, write_shard
from engine.model import zeroshot_weight
from engine.results.runs import read_record
from engine.results.saved_classifiers import FILE, read
from engine.scores import open_run
from forks import run_fork
from stores import install_pictures

KINDS = drawn.HELD_OUT[:7]
BASE = 4
SEEDS = ["1", "2"]
SWEEP = ["--train-shot", "1", "--seed", *SEEDS, "--clip-encoder", "demo-RN", "--image-augmentation", "none"]
METHODS = ["prompting", "linear_adapter"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Features of all classes."""
    root = tmp_path_factory.mktemp("halves")
    rng = drawn.generator(1, "halves", 0)

    def picture(label):
        return drawn.draw(drawn.random_scene(KINDS[label], rng), drawn.STYLES["demo"], rng)

    names = [kind.name for kind in KINDS]
    install_pictures(root, names, picture, {"train": 2, "val": 2, "test": 8}, 1, seeds=map(int, SEEDS))
    features = [f"--{name}_dir={root / folder}" for name, folder in (("indices", "indices"), ("feature", "features"))]
    run_fork("features.py", "--dataset", "demo", *SWEEP, *features, "--data_dir", root / "data", folder=root, check=0)
    place = FeaturePaths.of(root / "features", "demo-RN", "demo")
    return SimpleNamespace(root=root, names=names, features=features, place=place)


def train(world, method, *words, classes="base", results="runs", features=None):
    words = ["--method", method, "--classes", classes, *words, "--result_dir", world.root / results]
    done = run_fork("train.py", "--dataset", "demo", *SWEEP, *(features or world.features), *words,
                    folder=world.root, check=0)  # fmt: skip
    return done.stdout


def records(world, method, classes="base", results="runs"):
    """The records of a method's tested runs, by folder."""
    paths = (world.root / results).glob(f"demo-shot_1-seed_*-classes_{classes}/*/*-{method}_*/*/*/record.json")
    found = {path.parent: read_record(path) for path in sorted(paths)}
    return {path: record for path, record in found.items() if record.tested}


@pytest.fixture(scope="module")
def trained(world):
    """The same with a sweep on the base classes of both methods that classify new ones."""
    world.said = {method: train(world, method, "--save-heads") for method in METHODS}
    return world


def of_half(features, labels, new):
    kept = (labels >= BASE) if new else (labels < BASE)
    return F.normalize(features[kept]), labels[kept] - BASE * new


def accuracy(features, weight, labels):
    return float(((features @ weight.T).argmax(1) == labels).double().mean())


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_new_classes_are_classified_by_what_was_learnt(trained, method):
    assert "2 cells, 2 runs, 2 to train on cpu; further test sets: new" in trained.said[method]
    images, truth = Bank(trained.place.bank("test", 0, "none")).read()
    texts = read_texts(trained.place.texts(0, "hand_crafted"))
    zeroshot = zeroshot_weight(texts.features, texts.labels, len(KINDS))
    found = records(trained, method)
    assert len(found) == 2
    for folder, record in found.items():
        saved = load_file(folder / FILE)
        weights = {False: saved["head.weight"], True: zeroshot[BASE:]}
        if method == "prompting":
            prompts = PromptEncoder(load_encoder("demo-RN"), trained.names[BASE:], 16)
            weights[True] = F.normalize(prompts(saved["embedding.phi.context"]))
        for name, new in (("test", False), ("new", True)):
            features, labels = of_half(images, truth, new)
            own = zeroshot[BASE:] if new else zeroshot[:BASE]
            assert record.accuracy("zeroshot", name) == accuracy(features, own, labels)
            if method == "prompting":
                averaged = (weights[new] + own) / 2
                assert record.accuracy("wiseft", name) == pytest.approx(accuracy(features, averaged, labels))
            else:
                features = F.normalize(features + features @ saved["embedding.phi.offset"].T)
            assert record.accuracy("trained", name) == pytest.approx(accuracy(features, weights[new], labels))
        assert read(folder / FILE).classnames == trained.names[:BASE]
        folders = {"data_dir": "data", "indices_dir": "indices", "feature_dir": "features"}
        places = {name: trained.root / path for name, path in folders.items()}
        run = open_run(Namespace(**places, clip_weights=None), folder, "cpu")
        (scores,) = run.scores("test", run.classifiers())
        assert scores.logits.shape == (8 * BASE, BASE)
        assert float((scores.logits.argmax(1) == scores.labels).double().mean()) == record.accuracy("trained")
        assert len(run.images("test")) == 8 * BASE


@pytest.mark.parametrize("method", ["clap", "linear_adapter"])
def test_training_sees_nothing_of_the_new_classes(trained, method, tmp_path):
    """Other training and validation images of the new classes change nothing."""
    other = FeaturePaths.of(shutil.copytree(trained.root / "features", tmp_path / "other"), "demo-RN", "demo")
    for split in ("train", "val"):
        folder = other.bank(split, 0, "none")
        (shard,) = folder.iterdir()
        stored = load_file(shard)
        is_base, features = stored["labels"] < BASE, stored["features"]
        mixed = torch.where(is_base.unsqueeze(1), features, features[0])
        write_shard(folder, Bank(folder).provenance, stored["positions"].tolist(), stored["labels"], mixed)
        assert load_file(shard)["features"].equal(mixed)
    changed = [trained.features[0], f"--feature_dir={tmp_path / 'other'}"]
    train(trained, method)
    train(trained, method, results="others", features=changed)
    one, two = (list(records(trained, method, results=results).values()) for results in ("runs", "others"))
    assert one == two != []


def test_base_new_and_harmonic_mean_in_tables(trained):
    words = ["--datasets", "demo", *SWEEP, "--method", "prompting", "--classes", "base"]
    places = ["--result_dir", trained.root / "runs", "--eval_dir", trained.root / "tables"]
    done = run_fork("eval.py", *words, *places, folder=trained.root, check=0)
    path = trained.root / "tables" / done.stdout.splitlines()[-1].rpartition("/")[2]
    assert path.stem.endswith("_wiseft_False_classes_base")
    row = pd.read_csv(path).iloc[0]
    found = records(trained, "prompting").values()
    for classifier, columns in {"trained": ("mean", "new_mean", "harmonic"),
                                "zeroshot": ("zeroshot", "new_zeroshot", "zeroshot_harmonic")}.items():  # fmt: skip
        base, new = (100 * sum(record.accuracy(classifier, of) for record in found) / 2 for of in ("test", "new"))
        assert row[list(columns)].tolist() == pytest.approx([base, new, 2 * base * new / (base + new)], abs=1e-3)
    title, _, shown = done.stdout.splitlines()[:3]
    assert title.startswith("cross-modal prompting, base classes, demo-RN")
    assert f"{row['harmonic']:.2f}" in shown.split()
    explained = run_fork("eval.py", *words, *places, "--explain", "demo,1,1", folder=trained.root, check=0).stdout
    assert f"new classes: {next(iter(found)).describe('new')}" in explained
    words = ["--name", path.stem, "--eval_dir", path.parent, "--avg_dir", trained.root / "average"]
    said = run_fork("average.py", *words, folder=trained.root, check=0).stdout
    assert f"base classes: harmonic mean {row['harmonic']:.2f}" in " ".join(said.split())
    assert pd.read_csv(trained.root / "average" / path.stem / "summary.csv")["new_mean"][0] == row["new_mean"]


def test_other_methods_say_that_they_cannot(trained):
    words = ["--datasets", "demo", *SWEEP, "--method", "gda", "--classes", "base"]
    places = ["--result_dir", trained.root / "gda", "--eval_dir", trained.root / "tables"]
    missing = run_fork("eval.py", *words, *places, folder=trained.root, check=1).stderr
    assert "demo 1-shot seed 1 base classes" in missing
    assert "--classes base" in missing.splitlines()[-1]
    assert "note: GDA cannot classify new classes" in train(trained, "gda", results="gda")
    done = run_fork("eval.py", *words, *places, folder=trained.root, check=0).stdout
    assert "note: GDA cannot classify new classes" in done
    assert "new" not in pd.read_csv(trained.root / "tables" / done.splitlines()[-1].rpartition("/")[2])
    assert all("new" not in record.accuracies["zeroshot"] for record in records(trained, "gda", results="gda").values())


def test_prompts_that_were_selected_on_all_classes_are_refused(world):
    words = ["--dataset", "demo", *SWEEP, "--classes", "base", "--templates", "template_mining"]
    said = run_fork("train.py", *words, folder=world.root, check=1).stderr
    assert said.startswith("error: template_mining selects prompts on all classes")


def test_the_new_classes_can_be_trained_too(world):
    train(world, "gda", "--save-heads", classes="new", results="gda")
    folder, *_ = records(world, "gda", "new", "gda")
    assert read(folder / FILE).classnames == world.names[BASE:]
    assert len(load_file(folder / FILE)["zeroshot"]) == len(KINDS) - BASE


def test_halves():
    assert [halves.labels_of(name, 7) for name in halves.HALVES] == [slice(0, 7), slice(0, 4), slice(4, 7)]
    with pytest.raises(UserError, match="1 class has no new half: --classes all"):
        halves.labels_of("new", 1)
