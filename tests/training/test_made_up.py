"""The contract of methods, by ones that nobody published: all scripts take them, and executors agree on them."""

import shutil

import pytest

from engine.results.runs import TRAINED, WISEFT, ZEROSHOT, read_record
from forks import Fork
from made_up import CLOSED, MADE_UP, install
from stores import store_of_random_features

CELLS = "--dataset demo --clip-encoder fake --train-shot 1 2 --seed 1 2".split()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Features of 12 classes."""
    return store_of_random_features(tmp_path_factory.mktemp("made up"), classes=12)


def script(store, name, *words, check=0):
    return Fork(name, words, store.root, install).wait(check)


def trained(store, name, *words, check=0):
    """The records that train.py leaves of a method."""
    longer = ["--max-iter", "120"] if (MADE_UP | CLOSED)[name].fit.takes_max_iter else []
    how = ["--method", name, *longer, *store.flags]
    done = script(store, "train.py", *CELLS, *how, *words, check=check)
    paths = sorted((store.root / "experiments").rglob("record.json"))
    found = {str(path.relative_to(store.root)): read_record(path) for path in paths}
    shutil.rmtree(store.root / "experiments")
    return done, found


@pytest.mark.parametrize("modality", ["uni_modal", "cross_modal"])
@pytest.mark.parametrize("name", MADE_UP)
def test_executors_leave_the_same_records(name, modality, store):
    (done, stacked), (_, sequential) = (
        trained(store, name, "--modality", modality, "--test", "all", "--executor", executor)
        for executor in ("stacked", "sequential")
    )
    points = list(MADE_UP[name].grid)
    assert f"4 cells, {4 * len(points)} runs" in done.out
    assert len(stacked) == 4 * len(points)
    assert sequential == stacked
    for path, record in stacked.items():
        assert record.hyperparameters.folder in path
        assert record.accuracies.keys() == {TRAINED, WISEFT, ZEROSHOT}
    of_cells = {}
    for record in stacked.values():
        of_cells.setdefault(record.cell, set()).add(str(record.accuracies))
    assert sum(len(found) > 1 for found in of_cells.values()) > 2, "runs are alike: the test shows little"


def test_the_last_step_counts_its_epochs(store):
    """12 epochs of 24 images for 1 shot with its flipped view, 6 of 48 for 2, in batches of 16, half of them texts."""
    _, uni = trained(store, "adam_in_epochs", "--modality", "uni_modal")
    assert {(record.cell.shots, record.step) for record in uni.values()} == {(1, 12 * 1 - 1), (2, 6 * 3 - 1)}
    _, cross = trained(store, "adam_in_epochs")
    assert {(record.cell.shots, record.step) for record in cross.values()} == {(1, 12 * 3 - 1), (2, 6 * 6 - 1)}


def test_what_is_tuned_inside_a_run_is_recorded_and_shown(store):
    done, records = trained(store, "sgd_with_penalty")
    assert {tuple(record.tuned) for record in records.values()} == {("blend",)}
    assert "blend" in done.out


def test_a_task_that_a_method_refuses_is_skipped_and_the_others_are_complete(store):
    """Of a closed form, whose executors agree too; its weights have a bias, and no WiSE-FT."""
    (done, found), (_, again) = (
        trained(store, "means", "--executor", executor, check=1) for executor in ("stacked", "sequential")
    )
    for seed in (1, 2):
        reason = f"skipped: demo 1-shot seed {seed}: class means needs 2 shots or more; name them with --train-shot"
        assert reason in done.err
    assert done.err.splitlines()[-1].startswith("error: 2 cells cannot be trained, ")
    assert {record.cell.shots for record in found.values()} == {2}
    assert len(found) == 4
    assert found == again
    for record in found.values():
        assert record.accuracies.keys() == {TRAINED, ZEROSHOT}
        assert record.tuned["spread"] > 0
        assert record.step == 0


def test_tables_of_a_method_without_wise_ft(store):
    where = ["--method", "means", "--result_dir", store.root / "experiments", "--eval_dir", store.root / "results"]
    asked = ["--datasets", *CELLS[1:]]
    script(store, "train.py", *CELLS, "--train-shot", 2, "--method", "means", *store.flags)
    assert "means" in script(store, "eval.py", *asked, "--train-shot", 2, *where).out
    refused = script(store, "eval.py", *asked, *where, "--wise_ft", True, check=1).err
    assert "means has weights that cannot be averaged" in refused
    missing = script(store, "eval.py", *asked, *where, check=1).err
    assert "demo 1-shot seed 1" in missing
    assert "--classifier_head means" in missing
    shutil.rmtree(store.root / "experiments")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "adam_in_epochs", "--max-iter", "5"], "adam_in_epochs has a number of steps of its own"),
        (["--method", "means", "--max-iter", "5"], "means has a number of steps of its own"),
        (["--method", "adam_in_epochs", "--classifier_init", "random"], "--classifier_init zeroshot"),
        (["--classifier_head", "means"], "takes no --hyperparams linear"),
        (["--method", "mean"], "invalid choice: 'mean'"),
    ],
)
def test_what_a_method_does_not_take_is_said(words, said, store):
    done = script(store, "train.py", *CELLS, *store.flags, *words, check=None)
    assert done.code != 0
    assert said in done.err
