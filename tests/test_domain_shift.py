"""domain_shift.py and eval_domain_shift.py as a user meets them, on a few classes of ImageNet and its variants."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from torch.nn import functional as F

import installation
from engine import datasets
from engine.errors import UserError
from engine.features.classes import ShiftedClasses
from engine.features.prompts import read_texts
from engine.features.shifted import ShiftedSet, classes_of
from engine.features.store import Bank, FeaturePaths, write_shard
from engine.model import zeroshot_weight
from engine.results.domain_shift import as_tested_on
from engine.results.runs import ALL_CLASSES, read_record, write_record
from forks import run_fork
from old_forms import make_records_old
from records import with_accuracies

VARIANTS = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
SWEEP = "--clip-encoder demo-RN --train-shot 2 --seed 1 --image-augmentation none --max-iter 101".split()
PARTIAL = "--image-layer-idx 1 --hyperparams partial --logit 4.0 --max-iter 3".split()
ADAPTER = "--classifier_head adapter --hyperparams adapter".split()
UNI = "--modality uni_modal --classifier_init random".split()


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """The installation's ImageNet and variants through features.py, layers 0 and 1."""
    there = installation.install(tmp_path_factory.mktemp("shift"))
    for layer in ("0", "1"):
        words = ["--dataset", "imagenet", *VARIANTS, *SWEEP[:8], "--image-layer-idx", layer]
        run_fork("features.py", *words, *there.data, *there.indices, *there.feature, folder=there.root, check=0)
    shutil.rmtree(there.data[1])  # training needs no images
    return there


@pytest.fixture
def world(features, tmp_path):
    """These features, in a place where they can be damaged, and nothing trained."""
    there = installation.folders(tmp_path / "world")
    shutil.copytree(features.root, there.root)
    there.place = FeaturePaths.of(there.feature[1], "demo-RN", "imagenet")
    return there


def shift(world, *words, script="domain_shift.py", check=0):
    places = [*world.indices, *world.feature, *world.result]
    source = ["--dataset", "imagenet"] if script == "train.py" else []
    return run_fork(script, *SWEEP, *source, *places, *words, folder=world.root, check=check)


def tabulate(world, *words, seed=("--seed", "1"), check=0):
    sweep = [word for word in SWEEP if word not in ("--seed", "1")]
    places = [*world.result, *world.eval]
    return run_fork("eval_domain_shift.py", *sweep, *seed, *places, *words, folder=world.root, check=check)


def records(world):
    return {path: read_record(path) for path in sorted(Path(world.result[1]).rglob("record.json"))}


def selected_run(world):
    (run,) = [run for run in records(world).values() if run.tested]
    return run


def test_a_run_is_train_pys_and_more_sets(world):
    """The same records but for the shifted accuracies; and train.py on them changes nothing. No prompts are needed."""
    assert not list(world.place.folder.parent.glob("imagenet[v_]*/text-*"))
    shift(world, script="train.py")
    before = records(world)
    done = shift(world)
    assert "12 runs, 1 to train" in done.stdout
    after = records(world)
    assert {path: not_shifted(run) for path, run in after.items()} == before
    run = selected_run(world)
    parts = [name + end for name in ("imagenet_a", "imagenet_r") for end in ("", ALL_CLASSES)]
    assert list(run.shifted) == ["imagenetv2", "imagenet_sketch", *parts]
    assert sum(bool(run.shifted) for run in after.values()) == 1
    content = {path: path.read_bytes() for path in after}
    assert "0 to train" in shift(world, script="train.py").stdout
    assert "0 to train" in shift(world).stdout
    assert {path: path.read_bytes() for path in after} == content
    shutil.rmtree(world.result[1])
    shift(world)
    assert records(world) == after


def not_shifted(run):
    """The run as if it had been tested on its own test set alone."""
    found = {name: {of: own[of] for of in ("val", "test") if of in own} for name, own in run.accuracies.items()}
    return dataclasses.replace(run, accuracies=found, shifted={})


def test_records_of_earlier_versions_are_added_to(world):
    """Tested on one set by an earlier version, and on another by this one."""
    shift(world, "--shifted", "imagenet_a")
    before, table = selected_run(world), tabulate(world, "--shifted", "imagenet_a").stdout
    make_records_old(Path(world.result[1]))
    assert selected_run(world) == before
    assert "0 to train" in shift(world, "--shifted", "imagenet_a").stdout
    assert tabulate(world, "--shifted", "imagenet_a").stdout.splitlines()[1:] == table.splitlines()[1:]
    assert "1 to train" in shift(world, "--shifted", "imagenetv2").stdout
    after = selected_run(world)
    assert list(after.shifted) == ["imagenet_a", "imagenet_a/all_classes", "imagenetv2"]
    assert after.accuracies["trained"].items() > before.accuracies["trained"].items()


def expected_accuracy(world, name, weight, among_all):
    """By loops: the accuracy on a variant of a classifier [C, D] on final features."""
    images, labels = Bank(FeaturePaths.of(world.feature[1], "demo-RN", name).bank("test", 0, "none")).read()
    classes = installation.PRESENT.get(name, range(len(weight)))
    choice = range(len(weight)) if among_all else classes
    right = 0
    for image, label in zip(F.normalize(images), labels.tolist(), strict=True):
        logits = {row: float(image @ weight[row]) for row in choice}
        right += max(logits, key=logits.get) == classes[label]
    return right / len(labels)


def test_accuracies_on_shifted_sets_are_those_of_loops(world):
    """Of the zero-shot classifier, which needs no training to be had again; twins of one name are told apart."""
    shift(world, "--test", "all")
    texts = read_texts(world.place.texts(0, "hand_crafted"))
    weight = zeroshot_weight(texts.features, texts.labels, installation.IMAGENET_CLASSES)
    runs = records(world).values()
    assert all(run.tested for run in runs)
    for key in selected_run_keys(runs):
        name, among_all = key.removesuffix(ALL_CLASSES), key.endswith(ALL_CLASSES)
        assert {run.accuracy("zeroshot", key) for run in runs} == {expected_accuracy(world, name, weight, among_all)}
        digest = Bank(FeaturePaths.of(world.feature[1], "demo-RN", name).bank("test", 0, "none")).provenance.list_digest
        assert {run.shifted[key] for run in runs} == {digest}
    assert len({(run.accuracy("trained", "imagenetv2"), run.accuracy("wiseft", "imagenet_sketch")) for run in runs}) > 1


def selected_run_keys(runs):
    (keys,) = {tuple(run.shifted) for run in runs}
    assert len(keys) == 6
    return keys


@pytest.mark.parametrize("method", [UNI, ADAPTER, PARTIAL, [*PARTIAL, *UNI]], ids=["uni", "adapter", "partial", "both"])
def test_every_head(world, method):
    """And final features and those that stream through a trained part agree on the zero-shot classifier."""
    shift(world, *method)
    run = selected_run(world)
    mode = {"partial": "partial", "adapter": "adapter"}.get(run.cell.hyperparams, "linear")
    steps = ["--max-iter", str(run.cell.max_iter)]
    words = ["--modality", run.cell.modality, "--classifier_init", run.cell.init, "--mode", mode, *steps]
    for subset in (True, False):
        done = tabulate(world, *words, "--class_subset", subset)
        path = next(line for line in done.stdout.splitlines() if line.endswith(".csv"))
        assert path.endswith("_all_classes.csv") != subset
        table = pd.read_csv(path, index_col="dataset")
        for name in ("imagenetv2", "imagenet_a"):
            key = name if subset or name == "imagenetv2" else name + ALL_CLASSES
            assert table["mean"][name] == pytest.approx(100 * run.accuracy("trained", key), abs=1e-4)
            assert table["zeroshot"][name] == pytest.approx(100 * run.accuracy("zeroshot", key), abs=1e-4)
    shift(world, "--max-iter", "1")
    plain = next(run for run in records(world).values() if run.cell.max_iter == 1 and run.tested)
    assert plain.accuracies["zeroshot"] == run.accuracies["zeroshot"]


def test_sets_are_added_one_by_one_and_none_is_lost(world):
    shift(world, "--shifted", "imagenet_a")
    assert list(selected_run(world).shifted) == ["imagenet_a", "imagenet_a/all_classes"]
    assert "without a complete grid" in tabulate(world, check=1).stderr
    assert "python domain_shift.py --dataset imagenet" in tabulate(world, check=1).stderr
    tabulate(world, "--shifted", "imagenet_a")
    shift(world, "--shifted", "imagenetv2")
    assert list(selected_run(world).shifted) == ["imagenet_a", "imagenet_a/all_classes", "imagenetv2"]
    assert "1 to train" in shift(world).stdout
    assert len(selected_run(world).shifted) == 6


def test_a_run_that_comes_out_otherwise_keeps_nothing_of_before(world):
    """As a record of another machine may say: what it was tested on there, other weights were tested on."""
    shift(world, "--shifted", "imagenetv2")
    run = selected_run(world)
    other = {name: found | {"imagenetv2": 0.0} for name, found in run.accuracies.items()}
    other = dataclasses.replace(run, step=run.step + 100, accuracies=other, shifted={"imagenetv2": "x"})
    write_record(other, world.result[1])
    shift(world, "--shifted", "imagenet_a")
    assert list(selected_run(world).shifted) == ["imagenet_a", "imagenet_a/all_classes"]
    write_record(with_accuracies(not_shifted(run), "trained", val=1.0), world.result[1])
    shift(world, "--shifted", "imagenetv2")  # it is selected for what it does not give here, and must end all the same
    assert selected_run(world) == run


def test_another_list_of_a_shifted_set_is_tested_anew(world):
    shift(world, "--shifted", "imagenetv2")
    run = selected_run(world)
    write_record(dataclasses.replace(run, shifted={"imagenetv2": "an older list"}), world.result[1])
    shift(world, "--shifted", "imagenetv2")
    assert selected_run(world) == run


def test_a_command_for_one_dataset_names_its_variants_alone(world):
    words = ["--dataset", "imagenet", "demo", "--shifted", "demo_a", "imagenetv2"]
    command = tabulate(world, *words, check=1).stderr.splitlines()[-1]
    assert command.strip().startswith("python domain_shift.py --dataset imagenet ")
    assert " --shifted imagenetv2 --" in command


def test_missing_variants_are_told_at_once_with_the_command(world):
    for name in ("imagenetv2", "imagenet_r"):
        shutil.rmtree(FeaturePaths.of(world.feature[1], "demo-RN", name).folder)
    said = shift(world, check=1).stderr
    assert "imagenetv2/test-layer_0" in said
    assert "imagenet_r/test-layer_0" in said
    assert "python features.py --dataset imagenetv2 imagenet_r --clip-encoder demo-RN --feature_dir" in said
    shift(world, "--shifted", "imagenet_a", "imagenet_sketch")


def test_classes_that_the_store_does_not_know_are_told_with_the_command(world):
    """As in a store from before they were kept, in a damaged file, or in that of another list."""
    path = FeaturePaths.of(world.feature[1], "demo-RN", "imagenet_a").classes
    content = json.loads(path.read_text())
    assert content["parent_labels"] == installation.PRESENT["imagenet_a"]
    for spoilt in (None, "[", content | {"parent_labels": [3]}, content | {"list_digest": "of another list"}):
        path.unlink() if spoilt is None else path.write_text(json.dumps(spoilt))
        said = shift(world, "--shifted", "imagenet_a", check=1).stderr
        assert str(path) in said
        assert "python features.py --dataset imagenet_a --clip-encoder demo-RN --feature_dir" in said


def test_missing_variants_are_to_be_made_as_the_training_images_were(world):
    """Else hours of encoding would give features that are refused."""
    for part in ("train", "val", "test"):
        remake(world.place.bank(part, 0, "none"), decode="fast")
    shutil.rmtree(FeaturePaths.of(world.feature[1], "demo-RN", "imagenetv2").folder)
    (command,) = (line for line in shift(world, check=1).stderr.splitlines() if line.startswith("  python"))
    assert "features.py --dataset imagenetv2 --clip-encoder demo-RN --decode fast --feature_dir" in command


def remake(folder, **changes):
    """Make a bank anew as from another source."""
    bank = Bank(folder)
    positions = sorted(set(range(bank.provenance.length)) - set(bank.missing(range(bank.provenance.length))))
    images, labels = bank.read(positions)
    shutil.rmtree(folder)
    write_shard(folder, dataclasses.replace(bank.provenance, **changes), positions, labels, images)


def test_features_of_other_weights_are_refused(world):
    bank = FeaturePaths.of(world.feature[1], "demo-RN", "imagenetv2").bank("test", 0, "none")
    remake(bank, encoder_digest="of other weights")
    assert "(of other wei" in shift(world, check=1).stderr


def test_a_variant_of_features_made_in_another_way_is_refused(world):
    remake(FeaturePaths.of(world.feature[1], "demo-RN", "imagenet_a").bank("test", 0, "none"), decode="fast")
    said = shift(world, check=1).stderr
    assert "imagenet_a/test-layer_0/none and " in said
    assert "(decode fast; default settings)" in said


def named(names, labels, variant="imagenet_a"):
    bank = SimpleNamespace(folder=Path(f"features/{variant}/test-layer_0/none"))
    return ShiftedSet(variant, bank, ShiftedClasses(names, labels, "digest of a list"))


CRANES = ["hen", "crane", "blue jay", "crane"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [(["crane", "blue_jay"], [1, 2]), (["crane"], [1]), (["crane"], [3]), (["blue jay", "hen"], [2, 0])],
)
def test_classes_are_those_that_the_store_knows(names, labels):
    for known in (CRANES, ["hen", "crane", "blue_jay", "crane"], None):
        assert classes_of(named(names, labels), "imagenet", 4, known) == labels
    assert (named(names, labels).classes.digest == "digest of a list") == (labels == sorted(labels))


def test_a_set_with_all_classes_must_have_all():
    whole = named(["x", "y"], [1, 0], "imagenetv2")
    assert classes_of(whole, "imagenet", 2, ["a", "b"]) == [1, 0]
    with pytest.raises(UserError, match=r"imagenetv2 has 1 classes, up to label 0; imagenet has 2"):
        classes_of(named(["a"], [0], "imagenetv2"), "imagenet", 2, ["a", "b"])


def test_classes_that_are_not_the_parents_are_refused():
    with pytest.raises(UserError, match=r"imagenet_a: classes have other names in imagenet: owl \(crane\); extract"):
        classes_of(named(["crane", "owl"], [1, 3]), "imagenet", 4, CRANES)
    with pytest.raises(UserError, match="has 2 classes, up to label 4; imagenet has 4"):
        classes_of(named(["crane", "owl"], [1, 4]), "imagenet", 4, None)


def test_seeds_that_are_named_must_be_there(world):
    shift(world)
    done = tabulate(world, seed=())
    assert "note: 2 cells without a complete grid" in done.stdout
    assert "over seeds (1)" in done.stdout
    done = tabulate(world, seed=("--seed", "1", "2"), check=1)
    assert "imagenet 2-shot seed 2" in done.stderr
    assert "--seed 2 " in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "dtd"], "'dtd' has no shifted test sets; train on one of: imagenet, demo"),
        (["--dataset", "imagenet_a"], "'imagenet_a' is a shifted test set; train on one of: imagenet, demo"),
        (
            ["--dataset", "demo", "--shifted", "imagenet_a"],
            "imagenet_a is not a shifted test set of demo; there are: demo_v2",
        ),
        (["--dataset", "demo", "imagenet", "--shifted", "demo_a"], "--shifted names no shifted test set of imagenet"),
        (["--shifted", "imagenet_b"], "no dataset is called 'imagenet_b'"),
    ],
)
def test_wrong_arguments_say_what_is_right(words, said, tmp_path):
    for script in ("domain_shift.py", "eval_domain_shift.py"):
        done = run_fork(script, *words, folder=tmp_path, cwd=tmp_path)
        assert done.code != 0
        assert said in done.err


def test_the_tables_see_a_variant_as_a_test_set(world):
    shift(world)
    run = selected_run(world)
    view = as_tested_on(run, "imagenet_a", class_subset=False)
    assert view.cell == dataclasses.replace(run.cell, dataset="imagenet_a")
    assert view.accuracy("trained") == run.accuracy("trained", "imagenet_a/all_classes")
    assert view.inputs["test"] == run.shifted["imagenet_a"]
    view = as_tested_on(run, "imagenetv2", class_subset=False)
    assert view.accuracy("wiseft") == run.accuracy("wiseft", "imagenetv2")
    assert view.shifted == {}
    assert datasets.SOURCES == ("imagenet", "demo")
