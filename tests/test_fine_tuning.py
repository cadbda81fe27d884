"""Adapters and partial fine-tuning as a user meets them: features.py, train.py and eval.py through the shell."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.clip.load import load_encoder
from engine.features.prompts import read_texts
from engine.features.store import Bank, FeaturePaths, write_shard
from engine.methods import METHODS
from engine.results.runs import read_record, selected
from forks import run_fork
from stores import install_pictures, store_of_random_features

CLASSES, SHOTS = 6, 2
SWEEP = f"--dataset demo --clip-encoder demo-RN --train-shot {SHOTS} --seed 1 --image-augmentation none".split()
PARTIAL = "--image-layer-idx 1 --hyperparams partial --logit 4.0".split()
BRIEF = ["--max-iter", "3"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Six classes of noise, the features of layers 0 and 1 of demo-RN's image tower and 0 and 2 of its text tower."""
    root = tmp_path_factory.mktemp("fine-tuning")
    names, counts = (
        [f"{colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "cross")],
        {"train": 4, "val": 2, "test": 5},
    )
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 256, (CLASSES, 4, 4, 3))

    def noise(label):
        pixels = np.clip(bases[label] + rng.integers(-60, 61, (4, 4, 3)), 0, 255).astype(np.uint8)
        return Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)

    install_pictures(root, names, noise, counts, SHOTS, seeds=[1])
    for layers in ((0, 0), (1, 2)):
        features(world_of(root), *layers)
    return root


def world_of(root):
    """The directories of a world as words of a command line, for each script."""
    flags = {name: [f"--{name}_dir", str(root / folder)] for name, folder in FOLDERS.items()}
    return SimpleNamespace(root=root, place=FeaturePaths.of(root / "features", "demo-RN", "demo"), flags=flags)


FOLDERS = {"data": "data", "indices": "indices", "feature": "features", "result": "experiments", "eval": "results"}


@pytest.fixture
def world(tmp_path, fresh):
    """Features, and nothing trained."""
    return world_of(shutil.copytree(fresh, tmp_path / "world"))


def directories(world, *names):
    return [word for name in names for word in world.flags[name]]


def features(world, image, text, *words, check=0):
    layers = ["--image-layer-idx", image, "--text-layer-idx", text, *directories(world, "data", "indices", "feature")]
    return run_fork("features.py", *SWEEP, *layers, *words, folder=world.root, check=check)


def train(world, *words, check=0):
    places = directories(world, "indices", "feature", "result")
    return run_fork("train.py", *SWEEP, *BRIEF, *places, *words, folder=world.root, check=check)


def records(world):
    return [read_record(path) for path in sorted((world.root / "experiments").rglob("record.json"))]


def test_the_store_holds_what_goes_into_the_trainable_parts(world):
    encoder = load_encoder("demo-RN", image_layers=[1], text_layers=[2])
    maps, labels = Bank(world.place.bank("test", 1, "none")).read()
    final, again = Bank(world.place.bank("test", 0, "none")).read()
    assert torch.equal(labels, again)
    with torch.no_grad():
        assert torch.allclose(encoder.image[1](maps), final, atol=1e-5)
    texts, whole = (read_texts(world.place.texts(layers, "hand_crafted")) for layers in (2, 0))
    assert texts.features.shape[1] == int(texts.positions.max()) + 1 < encoder.model.context_length
    with torch.no_grad():
        assert torch.allclose(encoder.text[2](*texts.inputs), whole.features, atol=1e-5)


@pytest.mark.parametrize("layers", [["--text-layer-idx", "0"], ["--text-layer-idx", "2"]])
def test_partial_fine_tuning(world, layers):
    """The zero-shot classifier beside it is that of an untrained encoder, and both executors leave the same records."""
    train(world, *PARTIAL, *layers)
    stacked = records(world)
    assert len(stacked) == len(list(METHODS["partial"].grid))
    assert sum(record.tested for record in stacked) == 1
    shutil.rmtree(world.root / "experiments")
    train(world, *PARTIAL, *layers, "--executor", "sequential", "--test", "all")
    sequential = records(world)
    assert all(record.tested for record in sequential)
    assert [(r.step, r.val, r.accuracy("wiseft", "val")) for r in stacked] == [
        (r.step, r.val, r.accuracy("wiseft", "val")) for r in sequential
    ]
    run = selected({record.hyperparameters: record for record in stacked})
    assert run == next(r for r in sequential if r.hyperparameters == run.hyperparameters)
    train(world)  # a linear head on final features
    (linear,) = [record for record in records(world) if record.cell.image_layer == 0 and record.tested]
    assert linear.accuracies["zeroshot"] == run.accuracies["zeroshot"]


def test_memory_does_not_change_records_and_too_little_is_said(world):
    train(world, *PARTIAL)
    expected = records(world)
    shutil.rmtree(world.root / "experiments")
    done = train(world, *PARTIAL, "--max-memory", "1M", check=1)
    assert "--max-memory" in done.stderr
    train(world, *PARTIAL, "--max-memory", "0.4G")
    assert records(world) == expected


def test_layers_that_cannot_be_stacked_train_one_after_another(world):
    features(world, 2, 0)
    layers = ["--image-layer-idx", "2", "--hyperparams", "partial", "--logit", "4.0"]
    done = train(world, *layers)
    assert done.stdout.count("note: runs train one after another, because of the trainable layers of the image") == 1
    assert "it has Conv2d layers" in done.stdout
    assert len(records(world)) == 9
    assert "note" not in train(world, *layers, "--executor", "sequential").stdout


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--image-layer-idx", "the image tower (ModifiedResNet) of this encoder supports 0 to 5, and -1 for all of it"),
        ("--text-layer-idx", "the text tower (CLIP) of this encoder supports 0 to 2, and -1 for all of it"),
    ],
)
def test_layers_that_there_are_not_are_said(world, flag, said):
    for run in (train, lambda world, *words, check: features(world, 0, 0, *words, check=check)):
        assert said in run(world, flag, "7", check=1).stderr
    assert "-2 is neither a number of layers nor -1" in train(world, flag, "-2", check=2).stderr


def test_missing_layers_name_the_command_that_makes_them(world):
    done = train(world, "--image-layer-idx", "3", "--text-layer-idx", "1", check=1)
    assert "--image-layer-idx 3 --text-layer-idx 1" in done.stderr


def test_features_of_other_layers_are_refused_with_both(world):
    """Those of a folder that somebody renamed too, which say where they belong."""
    shutil.rmtree(world.place.folder / "test-layer_1")
    bank = Bank(world.place.bank("test", 0, "none"))
    features_of_0, labels = bank.read()
    write_shard(world.place.bank("test", 1, "none"), bank.provenance, list(range(len(labels))), labels, features_of_0)
    done = train(world, *PARTIAL, check=1)
    assert "has the inputs of the last 0 layers of demo-RN, not of the last 1" in done.stderr
    assert "layer: 0 there, 1 here" in features(world, 1, 0, check=1).stderr
    shutil.rmtree(world.place.folder / "test-layer_1")
    shutil.copytree(world.place.folder / "test-layer_0", world.place.folder / "test-layer_1")
    done = train(world, *PARTIAL, check=1)
    assert "belongs to test-layer_0/none, but is in test-layer_1/none; move it back, or remove it" in done.stderr


def test_weights_that_the_features_were_not_made_by_are_refused_with_both_names(world, random_weights):
    """A folder of features that was renamed: they are another encoder's."""
    weights = random_weights(5)
    shutil.move(world.root / "features" / "demo-RN", world.root / "features" / f"demo-RN@{weights.stem}")
    done = train(world, *PARTIAL, "--clip-weights", weights, check=1)
    digest = load_encoder("demo-RN", str(weights)).digest[:12]
    assert f"was extracted with demo-RN ({load_encoder('demo-RN').digest[:12]})" in done.stderr
    assert f"of demo-RN ({digest})" in done.stderr


@pytest.mark.parametrize(("part", "layer"), [("train", 0), ("val", 1), ("test", 0), ("test", 1)])
def test_features_that_are_not_finite_are_named(world, part, layer):
    folder = world.place.bank(part, layer, "none")
    bank = Bank(folder)
    positions = sorted(bank._rows)
    read, labels = bank.read(positions)
    read[1:3] = float("nan")
    read.view(len(read), -1)[3, 0] = float("inf")
    source = bank.provenance
    shutil.rmtree(folder)
    write_shard(folder, source, positions, labels, read)
    done = train(world, *(PARTIAL if layer else []), check=1)
    bad = ", ".join(map(str, positions[1:4]))
    assert f"demo, {part} images, in {folder}: features that are not finite numbers, at positions {bad};" in done.stderr


def test_prompts_that_are_not_finite_are_named(world):
    from engine.features.prompts import write_texts

    path = world.place.texts(0, "hand_crafted")
    texts = read_texts(path)
    texts.features[2] = float("nan")
    write_texts(path, texts)
    for modality in ("cross_modal", "uni_modal"):
        said = train(world, "--modality", modality, check=1).stderr
        assert f"demo, prompts, in {path}: features that are not finite numbers, at positions 2;" in said


def test_adapters_and_their_table(tmp_path):
    """Uni- and cross-modal adapters on random features, and the tables of both modes."""
    store = store_of_random_features(tmp_path, classes=20)
    sweep = "--dataset demo --clip-encoder fake --train-shot 1 2 --seed 1 2 --max-iter 101".split()
    head = "--classifier_head adapter --hyperparams adapter".split()
    for modality in ("uni_modal", "cross_modal"):
        done = run_fork("train.py", *sweep, *head, "--modality", modality, *store.flags, folder=tmp_path, check=0)
        assert "4 cells, 48 runs, 48 to train" in done.stdout
        tables = ["--result_dir", tmp_path / "experiments", "--eval_dir", tmp_path / "results"]
        words = ["--mode", "adapter", "--modality", modality, *sweep[2:], *tables]
        done = run_fork("eval.py", "--datasets", "demo", *words, folder=tmp_path, check=0)
        assert f"all_fake_adapter_hand_crafted_flip_1_{modality}_text_wiseft_False_iter_101.csv" in done.stdout
    missing = run_fork(
        "eval.py", "--datasets", "demo", "--mode", "partial", *sweep[2:], *tables, folder=tmp_path, check=1
    ).stderr
    assert "--image-layer-idx 1" in missing
    assert "--hyperparams partial" in missing
    assert "--logit 4.0" in missing


def test_a_diverged_run_is_recorded_as_such(world, monkeypatch):
    """No grid of the paper has a learning rate that diverges, so one is put in its place."""
    from engine.config import cells, parser
    from engine.features.opened import OpenedFeatures
    from engine.results.runs import RecordFiles
    from engine.sweep.sweep import CellSweep, Options, run
    from engine.tasks.images import ImageTasks, wanted_by
    from engine.training.grid import Grid

    grid = Grid(lr=(1e38, 1e-3), weight_decay=(0.0,), batch_size=(8,))
    monkeypatch.setattr("engine.methods.linear.METHOD", dataclasses.replace(METHODS["linear"], grid=grid))
    made = cells(parser("", "train.py").parse_args([*SWEEP, *BRIEF]))
    opened = OpenedFeatures(wanted_by(made), world.root / "features", world.root / "indices")
    options = Options(world.root / "experiments", "stacked", False, "cpu")
    sweep = CellSweep(made[0], ImageTasks(made, opened, "cpu"), RecordFiles(options.result_dir), options)
    assert list(run([sweep], options, lambda steps: None)) == [sweep]
    by_rate = {point["lr"]: record for point, record in sweep.records.items()}
    assert by_rate[1e38].diverged
    assert by_rate[1e38].step == 0
    assert not by_rate[1e-3].diverged
    assert {record.hyperparameters["lr"]: record.diverged for record in records(world)} == {1e38: True, 1e-3: False}
    assert "1 of 2 runs diverged" in sweep.summary()
