"""The zero-shot accuracy that features.py says, and what is said where it is at chance, through the scripts."""

import math
import random
import re

import numpy as np
import pytest

import engine.clip.load  # noqa: F401  what forks need takes seconds to import
from engine.demo import world
from engine.model.zeroshot import ZeroShot
from engine.results.runs import read_record
from forks import run_fork
from stores import install_pictures

KINDS = world.HELD_OUT[:8]
COUNTS = {"train": 2, "val": 2, "test": 1}
SWEEP = "--dataset demo --clip-encoder demo-RN --train-shot 2 --seed 1 --image-augmentation none".split()
CAUSE = "class names in another order than the labels"


def test_guessing_is_a_binomial():
    """Against the sum itself, in whole numbers."""
    for correct, images, classes in ((0, 10, 5), (3, 10, 5), (10, 10, 5), (7, 40, 20), (40, 40, 2)):
        tail = sum(math.comb(images, k) * (classes - 1) ** (images - k) for k in range(correct, images + 1))
        assert ZeroShot(correct, images, classes).p_value == pytest.approx(tail / classes**images)


def test_chance_is_what_guessing_reaches_and_no_fixed_number():
    rng = random.Random(0)
    guesses = [ZeroShot(sum(rng.randrange(20) == 0 for _ in range(80)), 80, 20) for _ in range(400)]
    assert 0.9 < sum(guess.is_at_chance for guess in guesses) / len(guesses) < 1
    assert ZeroShot(100, 1000, 100).warning("demo") is None
    assert "too few images" in ZeroShot(1, 8, 8).warning("demo")
    assert "too few images" not in ZeroShot(4, 32, 8).warning("demo")
    assert "too few images" in ZeroShot(5, 6, 2).warning("demo")
    assert ZeroShot(4, 4, 2).warning("all right") is None
    assert ZeroShot(4, 4, 1).warning("one class") is None


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The same pictures with the names of their classes, and with each name at the next class, and what features.py
    said of them."""
    names = [kind.name for kind in KINDS]
    made = {}
    for order, own in (("right", names), ("shuffled", [*names[1:], names[0]])):
        root, rng = tmp_path_factory.mktemp(order), np.random.default_rng(0)

        def picture(label, rng=rng):
            return world.draw(world.random_scene(KINDS[label], rng), world.STYLES["demo"], rng)

        install_pictures(root, own, picture, COUNTS, shots=2, seeds=[1])
        prompts = ["--text-augmentation", "hand_crafted", *(["template_mining"] if order == "right" else [])]
        made[order] = root, features(root, "--image-layer-idx", "0", "1", *prompts)
    return made


def features(root, *words):
    return run_fork("features.py", *SWEEP, "--data_dir", root / "data", *places(root), *words, folder=root, check=0)


def train(root, *words):
    results = ["--max-iter", "1", "--result_dir", root / "experiments"]
    return run_fork("train.py", *SWEEP, *places(root), *results, *words, folder=root, check=0)


def places(root):
    return ["--indices_dir", root / "indices", "--feature_dir", root / "features"]


def test_features_say_the_accuracy_of_what_they_made(worlds):
    root, done = worlds["right"]
    said = re.findall(r"demo-RN demo (\w+): zero-shot accuracy ([\d.]+)% on 16 .* 8 classes: 12.5%", done.stdout)
    accuracy = {prompts: float(percent) for prompts, percent in said}
    assert accuracy.keys() == {"hand_crafted", "template_mining"}
    assert accuracy["template_mining"] >= accuracy["hand_crafted"] > 30
    assert "warning" not in done.stdout + done.stderr
    assert "warning" not in train(root).stderr
    (recorded,) = {
        read_record(path).accuracy("zeroshot", "val") for path in (root / "experiments").rglob("record.json")
    }
    assert 100 * recorded == pytest.approx(accuracy["hand_crafted"], abs=0.06)
    assert "zero-shot" not in features(root).stdout, "nothing was made"
    assert "zero-shot" not in features(root, "--image-layer-idx", "2").stdout, "no final features were asked for"


def test_names_of_other_classes_give_a_warning(worlds):
    root, done = worlds["shuffled"]
    assert "demo-RN demo hand_crafted: zero-shot accuracy" in done.stdout
    assert f"Likely causes: {CAUSE}" in done.stderr
    assert "warning" not in train(root, "--modality", "uni_modal", "--classifier_init", "random").stderr
    part = ["--image-layer-idx", "1", "--hyperparams", "partial", "--modality", "uni_modal"]
    for words in ([], part):
        said = train(root, *words).stderr
        assert "warning: demo-RN demo hand_crafted: zero-shot accuracy" in said
        assert CAUSE in said
    assert "warning" not in train(root).stderr, "all is trained, and was warned of"
