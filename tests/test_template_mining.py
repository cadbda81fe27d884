"""Template mining as a user meets it: features.py, train.py and eval.py with --text-augmentation template_mining."""

import json
import os
import shlex
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import engine.clip.load  # noqa: F401  what forks need takes seconds to import
from engine import templates
from engine.datasets import few_shot
from engine.demo import world as demo
from engine.features import mining
from engine.features.prompts import read_texts, write_texts
from engine.features.store import Bank, FeaturePaths
from engine.results.runs import read_record
from forks import Fork, run_fork
from stores import best_by_loops, install_pictures

KINDS = demo.HELD_OUT[:6]
CLASSES, SHOTS, SEEDS = len(KINDS), 4, (1, 2)
SWEEP = ["--dataset", "demo", "--clip-encoder", "demo-RN", "--train-shot", SHOTS, "--image-augmentation", "none"]
MINING = ["--text-augmentation", "template_mining"]
FOLDERS = {"data": "data", "indices": "indices", "feature": "features", "result": "experiments", "eval": "results"}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Six classes of the demo, the pool's features, and what was mined of it on two splits."""
    root = tmp_path_factory.mktemp("mining")
    rng = np.random.default_rng(0)

    def picture(label):
        return demo.draw(demo.random_scene(KINDS[label], rng), demo.STYLES["demo_a"], rng)

    install_pictures(root, [kind.name for kind in KINDS], picture, {"train": 5, "val": 8, "test": 5}, SHOTS, SEEDS)
    done = features(world_of(root)).stdout
    assert f"demo-RN demo: {180 * CLASSES} prompts" in done
    return root


def world_of(root):
    flags = {name: [f"--{name}_dir", root / folder] for name, folder in FOLDERS.items()}
    place = FeaturePaths.of(root / "features", "demo-RN", "demo")
    mined = {seed: place.mined(f"shot_{SHOTS}-seed_{seed}") for seed in SEEDS}
    return SimpleNamespace(root=root, place=place, flags=flags, mined=mined)


@pytest.fixture
def world(tmp_path, fresh):
    """Features with what was mined, and nothing trained."""
    return world_of(shutil.copytree(fresh, tmp_path / "world"))


def run(script, world, directories, *words, check=0):
    places = [word for name in directories for word in world.flags[name]]
    return run_fork(script, *SWEEP, "--seed", *SEEDS, *MINING, *places, *words, folder=world.root, check=check)


def features(world, *words, check=0):
    return run("features.py", world, ("data", "indices", "feature"), *words, check=check)


def train(world, *words, check=0):
    return run("train.py", world, ("indices", "feature", "result"), "--max-iter", 3, *words, check=check)


def records(world):
    return [read_record(path) for path in sorted((world.root / "experiments").rglob("record.json"))]


def contents(world):
    return {seed: path.read_text() for seed, path in world.mined.items()}


def mined_templates(world, seed):
    return json.loads(world.mined[seed].read_text())["templates"]


def test_what_is_mined_on_each_split_is_what_plain_loops_find(world):
    texts = read_texts(world.place.texts(0, "template_mining"))
    assert texts.prompts[:2] == [KINDS[0].name, f"a photo of a {KINDS[0].name}."]
    chosen = {}
    for seed in SEEDS:
        split = few_shot.load_split(world.root / "indices", "demo", SHOTS, seed)
        images = Bank(world.place.bank("val", 0, "none")).read(split.val)
        positions, accuracies = best_by_loops(texts.features.view(CLASSES, 180, -1), *images)
        rows = mined_templates(world, seed)
        assert [row["position"] for row in rows] == positions
        assert [row["accuracy"] for row in rows] == accuracies
        assert [row["template"] for row in rows] == [templates.pool()[position] for position in positions]
        chosen[seed] = positions
    assert chosen[1] != chosen[2]


def test_all_layers_mine_the_same(world):
    before = contents(world)
    for path in world.mined.values():
        path.unlink()
    features(world, "--image-layer-idx", 1, "--text-layer-idx", 1)
    assert contents(world) == before
    layers = ["--image-layer-idx", 1, "--text-layer-idx", 1, "--hyperparams", "partial"]
    train(world, *layers, "--max-iter", 1)
    partial = {record.cell.seed: record for record in records(world) if record.tested}
    train(world)  # on final features
    linear = {record.cell.seed: record for record in records(world) if record.tested and not record.cell.image_layer}
    for seed in SEEDS:
        assert partial[seed].accuracies["zeroshot"] == linear[seed].accuracies["zeroshot"]
        assert partial[seed].inputs["text"] == linear[seed].inputs["text"]


def test_killed_before_or_amid_mining_it_goes_on(world):
    before, pool = contents(world), world.place.texts(0, "template_mining")
    made = pool.stat().st_mtime_ns
    for path in world.mined.values():
        path.unlink()

    def die_at(count):
        writes, write = [], mining.write_mined

        def counted(path, mined):
            if len(writes) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            writes.append(path)
            write(path, mined)

        return lambda: setattr(mining, "write_mined", counted)

    places = [word for name in ("data", "indices", "feature") for word in world.flags[name]]
    for count in (0, 1):
        words = [*SWEEP, "--seed", *SEEDS, *MINING, *places]
        assert Fork("features.py", words, world.root, die_at(count)).wait().code == -signal.SIGKILL
        assert sum(path.exists() for path in world.mined.values()) == count
    assert ", 0 of them to encode" in features(world).stdout
    assert contents(world) == before
    assert pool.stat().st_mtime_ns == made
    again = features(world)
    assert not again.stderr
    assert contents(world) == before


def test_training_and_its_table(world):
    assert "2 cells, 24 runs, 24 to train" in train(world).stdout
    found = records(world)
    texts = read_texts(world.place.texts(0, "template_mining")).features.double().view(CLASSES, 180, -1)
    test, truth = Bank(world.place.bank("test", 0, "none")).read()
    for seed in SEEDS:
        positions = [row["position"] for row in mined_templates(world, seed)]
        classifier = F.normalize(texts[:, positions].mean(1), dim=1)
        accuracy = ((F.normalize(test.double()) @ classifier.T).argmax(1) == truth).double().mean().item()
        (tested,) = [record for record in found if record.cell.seed == seed and record.tested]
        assert tested.accuracy("zeroshot") == pytest.approx(accuracy, abs=1e-12)
        assert "text_0-template_mining-none_0" in str(tested.cell.folder(""))
    assert len({record.inputs["text"] for record in found}) == len(SEEDS)

    words = ["--datasets", "demo", *SWEEP[2:], "--seed", *SEEDS, *MINING, "--max-iter", 3]
    tables = [*world.flags["result"], *world.flags["eval"]]
    done = run_fork("eval.py", *words, *tables, folder=world.root, check=0)
    name = "all_demo-RN_linear_template_mining_none_0_cross_modal_text_wiseft_False_iter_3.csv"
    assert name in done.stdout
    assert (world.root / "results" / name).is_file()

    shutil.rmtree(world.root / "experiments")  # a run is the same whatever other splits there are
    train(world, "--seed", 2)
    assert records(world) == [record for record in found if record.cell.seed == 2]


def test_a_missing_choice_names_the_command_that_makes_it(world):
    before = contents(world)
    world.mined[2].unlink()
    said = train(world, check=1).stderr
    assert f"no mined templates {world.mined[2]}; extract them with" in said
    command = shlex.split(said.splitlines()[-1])
    assert command[:2] == ["python", "features.py"]
    assert "template_mining" in command
    run_fork(*command[1:], *world.flags["data"], folder=world.root, check=0)
    assert contents(world) == before
    train(world)


def test_what_was_mined_on_another_split_is_refused(world):
    shutil.copy(
        world.root / f"indices/demo/shot_{SHOTS}-seed_1.json", world.root / f"indices/demo/shot_{SHOTS}-seed_2.json"
    )
    for script in (features, train):
        assert (
            f"{world.mined[2]} was mined from another split than there is now; remove it"
            in script(world, check=1).stderr
        )


def test_features_that_are_not_finite_are_not_mined(world):
    path = world.place.texts(0, "template_mining")
    texts = read_texts(path)
    texts.features[3] = float("nan")
    write_texts(path, texts)
    world.mined[1].unlink()
    said = features(world, check=1).stderr
    assert f"demo, prompts, in {path}: features that are not finite numbers, at positions 3;" in said
    assert not world.mined[1].exists()


def test_nothing_is_mined_or_encoded_for_a_test_only_dataset(world):
    folder = world.root / "data" / "demo_v2"
    for label in range(CLASSES):
        (folder / "images" / str(label)).mkdir(parents=True)
        shutil.copy(world.root / f"data/demo/images/test/{label}_0.png", folder / "images" / str(label))
    (folder / "classnames.txt").write_text("".join(f"{label} {kind.name}\n" for label, kind in enumerate(KINDS)))
    assert "demo-RN demo_v2: 0 prompts; 6 images" in features(world, "--dataset", "demo_v2").stdout
    assert not list((world.root / "features" / "demo-RN" / "demo_v2").glob("text-*"))


def test_the_pool_is_the_papers():
    assert len(templates.pool()) == 180
    assert templates.pool()[:3] == ["{}", "a photo of a {}.", "a picture of this {}."]
    assert templates.templates("template_mining", "demo") == templates.pool()
    assert torch.tensor([template.count("{}") for template in templates.pool()]).eq(1).all()
