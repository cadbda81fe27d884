"""train.py, eval.py and average.py as a user meets them, on a feature store of random features."""

import dataclasses
import functools
import itertools
import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import memory
from engine.datasets.few_shot import load_split
from engine.features.prompts import read_texts, write_texts
from engine.features.store import Bank, write_shard
from engine.preprocessing import OPENAI_PREPROCESSING
from engine.results.runs import read_record, write_record
from engine.tasks import images as image_tasks
from forks import Fork, run_fork
from old_forms import make_records_old
from stores import store_of_random_features, stored_features

ROOT = Path(__file__).parents[1]
INPUTS = "--clip-encoder fake --train-shot 1 2 --seed 1 2 --max-iter 220".split()
SWEEP = ["--dataset", "demo", *INPUTS]
UNI = "--modality uni_modal --classifier_init random".split()
NAME = "all_fake_linear_hand_crafted_flip_1_{}_wiseft_{}_iter_220"
CROSS_TABLE, UNI_TABLE = NAME.format("cross_modal_text", False), NAME.format("uni_modal_random", False)


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    """Runs scripts in forks, with the arguments of `run_script`."""
    return functools.partial(run_fork, folder=tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory):
    """Features of 20 classes, made once."""
    root = tmp_path_factory.mktemp("fresh")
    store_of_random_features(root, classes=20)
    return root


@pytest.fixture(scope="session")
def swept_store(tmp_path_factory, fresh_store, script):
    """The same with the cross-modal sweep trained, once."""
    root = tmp_path_factory.mktemp("swept") / "world"
    shutil.copytree(fresh_store, root)
    done = train(script, open_world(root))
    assert "4 cells, 48 runs, 48 to train on cpu" in done.stdout
    return root


def open_world(root):
    """A store with eval.py's directories as `.eval`."""
    world = stored_features(root)
    world.eval = ["--result_dir", root / "experiments", "--eval_dir", root / "results"]
    return world


@pytest.fixture
def world(tmp_path, fresh_store):
    """Features, and nothing trained."""
    return open_world(shutil.copytree(fresh_store, tmp_path / "world"))


@pytest.fixture
def swept(tmp_path, swept_store):
    """Features with a complete cross-modal sweep."""
    return open_world(shutil.copytree(swept_store, tmp_path / "swept"))


def records(world, folder="experiments"):
    paths = sorted((world.root / folder).rglob("record.json"))
    return {str(path.relative_to(world.root / folder)): read_record(path) for path in paths}


def train(script, world, *words, check=0):
    return script("train.py", *SWEEP, *world.flags, *words, check=check)


def test_a_sweep_leaves_a_record_per_run_and_tests_the_selected_alone(swept):
    found = records(swept)
    assert len(found) == 48
    path = (
        "demo-shot_1-seed_1/fake-image_0-text_0-hand_crafted-flip_1/cross_modal-linear_zeroshot/"
        "logit_4.60517-linear-iter_220/lr_0.001-wd_0.01-bs_8/record.json"
    )
    assert path in found
    for cell in {record.cell for record in found.values()}:
        runs = [record for record in found.values() if record.cell == cell]
        tested = [record for record in runs if record.tested]
        assert len(tested) == 1
        best = max(record.val for record in runs)
        first = next(point for point in runs[0].grid if _run(runs, point).val == best)
        assert tested[0].hyperparameters == first
        assert tested[0].accuracy("wiseft") is not None
        assert tested[0].accuracy("zeroshot") is not None


def _run(runs, point):
    (run,) = [record for record in runs if record.hyperparameters == point]
    return run


def test_a_second_run_trains_nothing(script, swept):
    stamps = {path: path.stat().st_mtime_ns for path in swept.root.rglob("record.json")}
    assert "48 runs, 0 to train" in train(script, swept).stdout
    assert stamps == {path: path.stat().st_mtime_ns for path in swept.root.rglob("record.json")}


def test_executors_leave_the_same_records(script, world):
    train(script, world, *UNI)
    stacked = records(world)
    shutil.rmtree(world.root / "experiments")
    train(script, world, *UNI, "--executor", "sequential")
    assert records(world) == stacked


def test_all_runs_are_tested_when_asked_and_missing_ones_trained_again(script, world):
    train(script, world, "--train-shot", "1", "--seed", "1")
    selected = records(world)
    train(script, world, "--train-shot", "1", "--seed", "1", "--test", "all")
    tested = records(world)
    assert len(tested) == 12
    assert all(record.tested for record in tested.values())
    for path, record in selected.items():
        assert record.val == tested[path].val
        assert record.step == tested[path].step
        if record.tested:
            assert record == tested[path]


def test_features_larger_than_memory_give_the_same_records(world, swept_store):
    """Training and validation images in a mapped file, the test set in pieces from disk."""

    def forget_memory():
        memory.free = lambda device: 1000
        image_tasks.TEST_SET, image_tasks.FEATURES = 0, 30
        mapped = memory.scratch
        memory.scratch = lambda shape, folder: (world.root / f"mapped {list(shape)}").touch() or mapped(shape, folder)

    words = [*SWEEP, *world.flags, "--max-memory", "4G"]
    Fork("train.py", words, world.root, forget_memory).wait(check=0)
    assert records(world) == records(open_world(swept_store))
    images = [
        len({position for split in splits for position in split}) for splits in zip(*positions(world), strict=True)
    ]
    assert {path.name for path in world.root.glob("mapped*")} == {
        f"mapped [{views}, {count}, 32]" for views, count in zip((2, 1), images, strict=True)
    }
    assert not list(world.root.rglob(".scratch*"))


def positions(world):
    """The training and validation images of each of the splits."""
    for shots, seed in itertools.product((1, 2), (1, 2)):
        split = load_split(world.root / "indices", "demo", shots, seed)
        yield split.train, split.val


def evaluate(script, world, *words, check=0):
    return script("eval.py", "--datasets", "demo", *INPUTS, *world.eval, *words, check=check)


def test_tables_follow_from_the_records(script, swept):
    train(script, swept, *UNI)
    for words in ([], UNI, ["--wise_ft", "True"]):
        evaluate(script, swept, *words)
    table = pd.read_csv(swept.root / "results" / f"{CROSS_TABLE}.csv")
    assert table["shots"].tolist() == [1, 2]
    runs = [record for record in records(swept).values() if record.tested and record.cell.modality == "cross_modal"]
    for row in table.itertuples():
        accuracies = [100 * run.accuracy("trained") for run in runs if run.cell.shots == row.shots]
        assert row.mean == pytest.approx(numpy.mean(accuracies), abs=1e-4)
        assert row.std == pytest.approx(numpy.std(accuracies), abs=1e-4)  # of the population
    ensemble = pd.read_csv(swept.root / "results" / f"{NAME.format('cross_modal_text', True)}.csv")
    expected = [100 * run.accuracy("wiseft") for run in runs if run.cell.shots == 1]
    assert ensemble["mean"][0] == pytest.approx(numpy.mean(expected), abs=1e-4)

    tables = ["--eval_dir", swept.root / "results", "--avg_dir", swept.root / "average"]
    plot = swept.root / "plot.png"
    done = script("average.py", "--name", UNI_TABLE, CROSS_TABLE, *tables, "--plot", plot, check=0)
    assert "uni-modal linear" in done.stdout
    assert "zero-shot" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    shots = pd.read_csv(swept.root / "average" / CROSS_TABLE / "shot_1.csv")
    assert shots["dataset"].tolist() == ["demo", "average"]
    assert shots["mean"].tolist() == [table["mean"][0]] * 2
    assert pd.read_csv(swept.root / "average" / CROSS_TABLE / "summary.csv")["datasets"].tolist() == [1, 1]


def test_a_table_of_a_part_says_what_it_replaces(script, swept):
    assert "replaces" not in evaluate(script, swept).stdout
    done = evaluate(script, swept, "--train-shot", "1", "--seed", "2")
    path = swept.root / "results" / f"{CROSS_TABLE}.csv"
    lost = "demo 1-shot seed 1, demo 2-shot seeds 1 2"
    assert done.stdout.splitlines()[0] == f"{path}: replaces a table that also had {lost}"
    assert "replaces" not in evaluate(script, swept).stdout


def test_missing_runs_are_listed_with_the_command_that_makes_them(script, world):
    train(script, world, "--seed", "1")
    done = evaluate(script, world, check=1)
    assert "demo 1-shot seed 2" in done.stderr
    assert "demo 1-shot seed 1" not in done.stderr
    command = next(line for line in done.stderr.splitlines() if "python train.py" in line).split()
    assert command[:2] == ["python", "train.py"]
    script(*command[1:], *world.flags[:4], check=0)  # --result_dir is in the command; the user's other folders are not
    evaluate(script, world)
    assert not list((world.root / "results").glob(".*")), "temporary files were left behind"


def test_missing_features_name_the_command_that_makes_them(script, world):
    shutil.rmtree(world.place.bank("train", 0, "flip"))
    done = train(script, world, check=1)
    assert "train-layer_0/flip" in done.stderr
    assert "python features.py --dataset demo --train-shot 1 2 --seed 1 2 --clip-encoder fake" in done.stderr


@pytest.mark.parametrize("what", ["train-layer_0/none", "text-layer_0"])
def test_damaged_features_name_the_command_that_makes_them_again(script, world, what):
    path = next((world.place.folder / what).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:50])
    said = train(script, world, check=1).stderr
    assert f"{path} cannot be read" in said
    assert "remove it" in said
    assert "python features.py --dataset demo --train-shot 1 2 --seed 1 2 --clip-encoder fake" in said


def floats(tensors):
    tensors["labels"] = tensors["labels"].float()


def wide(tensors):
    tensors["features"] = torch.cat([tensors["features"]] * 2, dim=1)


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        (
            "val-layer_0/none",
            lambda tensors: tensors.update(labels=tensors["labels"].float()),
            "labels are F32, not I64",
        ),
        ("val-layer_0/none", lambda tensors: tensors.update(labels=tensors["labels"] - 9), "labels below 0"),
        ("test-layer_0/none", lambda tensors: tensors.pop("positions"), "positions"),
        ("train-layer_0/none", lambda tensors: tensors.update(features=tensors["features"][:3]), "row per image: feat"),
        ("train-layer_0/flip", wide, "features of two shapes, [64] and [32]"),
        ("test-layer_0/none", wide, "features of "),
        ("text-layer_0", floats, "labels are F32, not I64"),
        ("text-layer_0", lambda tensors: tensors.update(features=tensors["features"][0]), "labels of"),
        ("text-layer_0", wide, "features of shape [64], but "),
    ],
    ids=range(9),
)
def test_well_formed_features_of_a_wrong_kind_are_named(script, world, what, change, message):
    path = next((world.place.folder / what).glob("*.safetensors"))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    said = train(script, world, check=1).stderr
    assert str(path.parent) in said
    assert message in said


def test_json_that_is_nested_without_end_is_named(script, swept):
    """In whatever file train.py reads; and a split without validation images."""
    deep = "[" * 100_000
    bank = next(swept.place.bank("val", 0, "none").glob("*.safetensors"))
    prompts = swept.place.texts(0, "hand_crafted")
    record = next((swept.root / "experiments").rglob("record.json"))
    split = next((swept.root / "indices" / "demo").glob("*.json"))
    counts = split.parents[1] / "class_counts.json"
    for path in (record, bank, prompts, split, counts):
        whole = path.read_bytes() if path.exists() else None
        if path.suffix == ".json":
            path.write_text(deep)
        else:
            save_file(load_file(path), path, metadata={"source": deep, "prompts": deep})
        assert str(path) in train(script, swept, check=1).stderr
        path.unlink() if whole is None else path.write_bytes(whole)
    split.write_text('{"train": [0, 1], "val": []}')
    assert f"{split} is damaged" in train(script, swept, check=1).stderr


@pytest.mark.parametrize("directory", [[], ["--indices_dir", "my indices"]])
def test_a_missing_split_is_said_with_a_command_that_makes_it(script, tmp_path, directory):
    """In another folder than the project's, and without images."""
    words = ["--dataset", "dtd", "--train-shot", "1", "--seed", "9", *directory]
    done = script("train.py", *words, cwd=tmp_path, check=1)
    path, command = done.stderr.splitlines()
    indices = (directory or ["", "indices"])[1]
    assert path == f"error: {indices}/dtd/shot_1-seed_9.json is missing; few_shot_split.py creates it:"
    assert command == "  " + shlex.join(["python", "few_shot_split.py", *words])
    script(*shlex.split(command)[1:], cwd=tmp_path, check=0)
    assert "is missing" not in script("train.py", *words, cwd=tmp_path, check=1).stderr


def test_features_of_two_encoders_are_refused_with_both_names(script, world):
    remake(world.place.bank("test", 0, "none"), encoder="other", encoder_digest="another digest")
    done = train(script, world, check=1)
    assert "other (another dige" in done.stderr
    assert "fake (digest of w" in done.stderr


def remake(bank_folder, to=None, **changes):
    """Make a bank anew as from another source, in its place or in another folder."""
    bank = Bank(bank_folder)
    features, labels = bank.read()
    if to is None:
        shutil.rmtree(bank_folder)
    write_shard(
        to or bank_folder, dataclasses.replace(bank.provenance, **changes), list(range(len(labels))), labels, features
    )


def test_how_features_were_made_is_recorded_and_not_mixed(script, world):
    remake(world.place.bank("test", 0, "none"), preprocessing="squash bicubic")
    said = train(script, world, check=1).stderr
    assert "were extracted differently" in said
    assert "(preprocessing squash bicubic; default settings)" in said
    for part, view in (("train", "none"), ("train", "flip"), ("val", "none"), ("test", "none")):
        remake(world.place.bank(part, 0, view), decode="fast", preprocessing=OPENAI_PREPROCESSING)
    train(script, world, "--train-shot", "1", "--seed", "1")
    assert {record.inputs["features"] for record in records(world).values()} == {"decode fast"}
    for part, view in (("train", "none"), ("train", "flip"), ("val", "none"), ("test", "none")):
        remake(world.place.bank(part, 0, view), decode="pil")
    assert (
        "features: decode fast there, usual here"
        in train(script, world, "--train-shot", "1", "--seed", "1", check=1).stderr
    )


def test_what_is_missing_is_to_be_made_as_the_rest_was(script, world):
    for part, view in (("train", "none"), ("val", "none"), ("test", "none")):
        remake(world.place.bank(part, 0, view), decode="fast", precision="bf16")
    remake(
        world.place.bank("val", 0, "none"), to=world.place.bank("val", 1, "none"), dtype="fp16"
    )  # of other layers, which have no part in it
    (world.place.bank("val", 0, "none") / "damaged.safetensors").write_text("{")
    shutil.rmtree(world.place.bank("train", 0, "flip"))
    words = shlex.split(train(script, world, check=1).stderr.splitlines()[-1])
    given = dict(itertools.pairwise(words))
    assert (given["--decode"], given["--precision"]) == ("fast", "bf16")
    assert "--store-dtype" not in given


def test_how_prompts_were_stored_is_recorded(script, world):
    """Prompts in half precision, as where layers of the text encoder are trained: images have other settings then."""
    path = world.place.texts(0, "hand_crafted")
    texts = read_texts(path)
    write_texts(path, dataclasses.replace(texts, provenance=dataclasses.replace(texts.provenance, dtype="fp16")))
    train(script, world, "--train-shot", "1", "--seed", "1")
    for record in records(world).values():
        assert (record.inputs["prompts"], record.inputs.get("features")) == ("dtype fp16", None)
    write_texts(path, texts)
    done = train(script, world, "--train-shot", "1", "--seed", "1", check=1)
    assert "prompts: dtype fp16 there, usual here" in done.stderr


def test_views_of_different_lists_are_refused(script, world):
    """The flipped images of a list that was corrected after they were made."""
    remake(world.place.bank("train", 0, "flip"), list_digest="the list before")
    assert "extracted from different lists of images" in train(script, world, check=1).stderr


def test_a_split_of_another_dataset_is_refused(script, world):
    """Its positions are in the bank, where they belong to other classes than it thinks."""
    path = world.root / "indices/demo/shot_1-seed_1.json"
    split = json.loads(path.read_text())
    split["train"][0] = next(p for p in range(16) if p not in split["train"]) + 16
    path.write_text(json.dumps(split, separators=(",", ":")))
    done = script("train.py", *SWEEP, *world.flags, check=1)
    assert "rows are missing" in done.stderr or "does not fit the cached features" in done.stderr
    split["train"] = sorted(load_split(world.root / "indices", "demo", 2, 1).train)[:20]
    path.write_text(json.dumps(split, separators=(",", ":")))
    assert "1 shots, seed 1 does not fit the cached features" in train(script, world, check=1).stderr


def test_runs_on_other_weights_are_not_averaged(script, swept):
    """Two seeds of one method, one of them trained on features of other weights under the same name."""
    for path in (swept.root / "experiments").glob("demo-shot_1-seed_2/**/record.json"):
        path.write_text(path.read_text().replace("digest of weights", "other weights"))
    done = evaluate(script, swept, check=1)
    assert "their encoder differs (other weight and digest of we)" in done.stderr


def test_a_run_that_comes_out_otherwise_is_recorded_as_it_was_tested(script, swept):
    """A record from another machine without its test: training it again here may choose another step."""
    path, record = next((path, run) for path, run in records(swept).items() if run.tested)
    write_record(dataclasses.replace(record.untested(), step=record.step + 100), swept.root / "experiments")
    train(script, swept)
    assert records(swept)[path] == record


def test_records_of_earlier_versions_are_read_and_kept(script, swept):
    """By train.py, eval.py and its --explain; of one that lacks its test, the run is trained again."""
    expected, table, explain = records(swept), table_bytes(script, swept), ["--explain", "demo,1,1"]
    shown = evaluate(script, swept, *explain).stdout
    (swept.root / "results" / f"{CROSS_TABLE}.csv").unlink()
    olds = {path: path.read_bytes() for path in make_records_old(swept.root / "experiments")}
    assert all(b'"trained": {' in content for content in olds.values())
    assert records(swept) == expected
    assert "48 runs, 0 to train" in train(script, swept).stdout
    assert table_bytes(script, swept) == table
    assert evaluate(script, swept, *explain).stdout == shown
    assert {path: path.read_bytes() for path in olds} == olds
    path = next(path for path, record in make_records_old(swept.root / "experiments").items() if record.tested)
    said = json.loads(path.read_text())
    path.write_text(
        json.dumps(said | {name: said[name] | {"test": None} for name in ("trained", "wiseft", "zeroshot")})
    )
    assert "48 runs, 1 to train" in train(script, swept).stdout
    assert records(swept) == expected


def test_records_on_other_features_are_not_mixed_in(script, swept):
    (swept.root / "indices/demo/shot_1-seed_1.json").unlink()
    split = swept.root / "indices/demo/shot_1-seed_2.json"
    shutil.copy(split, swept.root / "indices/demo/shot_1-seed_1.json")
    done = train(script, swept, check=1)
    assert "another split" in done.stderr
    assert "split: " in done.stderr


def test_batch_sizes_that_are_too_large_leave_the_grid(script, world):
    """1 shot of 20 classes without flips gives 20 images, which admit 8 and not 32; 2 shots give 40: both."""
    done = script("train.py", *SWEEP, *world.flags, *UNI, "--image-augmentation", "none", check=0)
    assert "36 runs" in done.stdout


def test_no_valid_batch_size_is_an_error(script, tmp_path):
    """Four classes have four prompts, which is not more than the share of texts in the smallest batch."""
    world = store_of_random_features(tmp_path, classes=4)
    done = train(script, world, check=1)
    assert "demo 1-shot seed 1: 8 and 4 training samples are too few" in done.stderr


def test_garbage_in_a_record_is_named(script, swept):
    path = next((swept.root / "experiments").rglob("record.json"))
    path.write_text("{")
    done = evaluate(script, swept, check=1)
    assert str(path) in done.stderr


def test_records_that_cannot_be_are_named(script, swept):
    """By whoever selects among the runs of a cell."""
    small = (path for path, run in records(swept).items() if not run.tested and run.hyperparameters["batch_size"] == 8)
    path, other = (swept.root / "experiments" / place for place in itertools.islice(small, 2))
    whole = json.loads(path.read_text())
    grid, own = whole["grid"], whole["accuracies"]
    faults = [
        ({"accuracies": own | {"trained": {"val": 1.5}}}, "an accuracy is 1.5, which is not from 0 to 1"),
        ({"accuracies": own | {"wiseft": {"val": math.nan}}}, "record.accuracies.wiseft.val is not a finite number"),
        (
            {"accuracies": own | {"trained": {"val": 0.5, "test": 0.5}}},
            "the classifiers trained and wiseft were not tested on the same sets",
        ),
        ({"accuracies": {"wiseft": own["wiseft"]}}, "it has no validation accuracy"),
        ({"step": 100.0}, "record.step is not a whole number"),
        ({"step": -1}, "step is -1"),
        ({"seconds": "long"}, "record.seconds is not a finite number"),
        ({"grid": [whole["hyperparameters"]]}, "its grid is not the grid 'linear' of its method"),
        ({"grid": [point for point in grid if point["batch_size"] == 8]}, "have different grids"),
        ({"hyperparameters": read_record(other).hyperparameters}, ", another run; remove it"),
        ({"hyperparameters": {"lr": 1, "weight_decay": 1, "batch_size": 1}}, "its hyperparameters are not in its grid"),
        ({"hyperparameters": [1, 1]}, "record.hyperparameters is "),
        ({"tuned": {"alpha": "1"}}, "record.tuned.alpha is not a finite number"),
        ({"cell": whole["cell"] | {"log_logit_scale": "4.6"}}, "record.cell.log_logit_scale is not a finite number"),
    ]
    for change, said in faults:
        path.write_text(json.dumps(whole | change))
        done = evaluate(script, swept, check=1)
        assert str(path) in done.stderr, said
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert f"error: {path} is not a run's record" in train(script, swept, check=1).stderr


def test_features_that_cannot_be_normalised_are_not_trained_on(script, world):
    """All zero, or with squares beyond float32 on either side: of images and of prompts."""
    folder = world.place.bank("train", 0, "none")
    bank = Bank(folder)
    features, labels = bank.read()
    split = load_split(world.root / "indices", "demo", 1, 1)
    for row, value in zip(split.train, (0.0, 1e20, 1e-40), strict=False):
        features[row] = value
    shutil.rmtree(folder)
    write_shard(folder, bank.provenance, list(range(len(labels))), labels, features)
    said = train(script, world, check=1).stderr
    assert f"demo, train images, in {folder}: features that are all zero, or too small or too large" in said
    assert f"at positions {', '.join(map(str, sorted(split.train[:3])))};" in said
    path = world.place.texts(0, "hand_crafted")
    texts = read_texts(path)
    texts.features[7] = 1e-30
    write_texts(path, texts)
    said = train(script, world, check=1).stderr
    assert f"demo, prompts, in {path}: features that are all zero" in said
    assert "at positions 7;" in said
    assert not records(world)


def test_an_adapter_of_few_numbers_is_refused(script, tmp_path):
    world = store_of_random_features(tmp_path, classes=20, dimension=3)
    done = train(script, world, "--classifier_head", "adapter", "--hyperparams", "adapter", check=1)
    assert (
        "an adapter needs features of 4 dimensions or more, but these have 3; use --classifier_head linear"
        in done.stderr
    )
    train(script, world, "--train-shot", "1", "--seed", "1", "--max-iter", "3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "dtdd"], "no dataset is called 'dtdd'"),
        (["--image-augmentation", "flip", "--image-views", "2"], "takes --image-views 1"),
        (["--clip-weights", "a.pt", "--clip-encoder", "RN50", "RN101"], "names 2 encoders"),
        (["--device", "cuda:7"], "--device cuda:7 cannot be used"),
        (["--modality", "both"], "'cross_modal', 'uni_modal'"),
        (["--seed", "-1"], "-1 is negative"),
        (["--seed", "x"], "--seed: 'x' is not a whole number"),
        (["--train-shot", "1.5"], "--train-shot: '1.5' is not a whole number"),
        (["--image-views", "one"], "--image-views: 'one' is not a whole number"),
        (["--max-memory", "8X"], "'8X' is not a size such as 8G or 500M"),
        (["--max-memory", "0"], "'0' is not a size"),
        (["--max-memory", "9" * 400 + "G"], "is not a size"),
        (["--max-memory", "inf"], "'inf' is not a size"),
        (["--logit", "nan"], "--logit: 'nan' is not a number from -87 to 87"),
        (["--logit=-inf"], "--logit: '-inf' is not a number from -87 to 87"),
        (["--logit", "710"], "--logit: '710' is not a number from -87 to 87"),
        (["--logit", "x"], "--logit: 'x' is not a number"),
        (["--max-iter", "0"], "--max-iter: 0 is not 1 or more"),
        (["--max-iter", "1e3"], "--max-iter: '1e3' is not a whole number"),
        (["--max-iter", "9" * 30], "is too large; at most 1,000,000,000"),
        (["--max-iter", "9" * 5000], "is not a whole number"),
        (["--seed", "9" * 30], "is too large; at most 9,223,372,036,854,775,807"),
        (["--image-views", "nan"], "--image-views: 'nan' is not a whole number"),
        (["--image-views", "-1"], "takes --image-views 1"),
        (["--image-augmentation", "randomcrop", "--image-views", "1001"], "is too large; at most 1,000"),
        (["--result_dir", "README.md"], "README.md"),
        (["--clip-encoder", "RN51"], "no encoder of OpenAI's or the project's is called 'RN51'; they are RN50, RN101"),
        (["--dataset", "imagenet_a"], "classifiers for it are trained on --dataset imagenet"),
    ],
)
def test_wrong_arguments_say_what_is_right(script, words, said):
    done = script("train.py", *words)
    assert done.returncode != 0
    assert said in done.stderr.replace("(choose from cross_modal, uni_modal)", "'cross_modal', 'uni_modal'")


def start(world, *words, stderr=subprocess.DEVNULL):
    """train.py in the background, with stacks on two threads.

    Ctrl-C reaches it even where the tests were started to ignore it, as a shell starts jobs in the background.
    """
    return subprocess.Popen(
        [sys.executable, "train.py", *SWEEP, *map(str, world.flags), *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def table_bytes(script, world):
    evaluate(script, world)
    return (world.root / "results" / f"{CROSS_TABLE}.csv").read_bytes()


def test_killing_at_any_moment_gives_the_same_table(script, swept):
    """SIGKILL after some of the records are written, several times over, then once to the end."""
    expected, uninterrupted = table_bytes(script, swept), records(swept)
    shutil.rmtree(swept.root / "experiments")
    draw, survived = random.Random(1), 0
    for _ in range(3):
        process, wanted = start(swept), survived + draw.randint(1, 14)
        while process.poll() is None and len(records_written(swept)) < wanted:
            time.sleep(0.001)
        process.kill()
        process.wait()
        survived = len(records_written(swept))
    assert survived < 48, "the sweep was over before it could be killed"
    train(script, swept)
    assert table_bytes(script, swept) == expected
    assert records(swept) == uninterrupted


@pytest.mark.parametrize("steps", [2_000_000, 300])
def test_ctrl_c_ends_a_sweep_at_once(steps, world):
    """While it trains, and while records are written; threads that train must not keep the process alive."""
    process = start(world, "--max-iter", str(steps), stderr=subprocess.PIPE)
    while process.poll() is None and "step" not in (said := process.stderr.readline(80)):
        assert "error" not in said
    while steps == 300 and process.poll() is None and not records_written(world):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert "interrupted: completed work is saved" in said
    assert "Traceback" not in said


def records_written(world):
    return list((world.root / "experiments").rglob("record.json"))


def test_a_sweep_killed_before_its_test_tests_the_selected_run(script, swept):
    """Records of a cell without the selected run's test: what a kill between two records leaves."""
    expected = records(swept)
    for record in expected.values():
        if record.tested:
            write_record(record.untested(), swept.root / "experiments")
    assert "4 to train" in train(script, swept).stdout
    assert records(swept) == expected


def test_two_processes_fill_one_sweep(script, swept):
    expected = records(swept)
    shutil.rmtree(swept.root / "experiments")
    processes = [start(swept), start(swept)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert records(swept) == expected
