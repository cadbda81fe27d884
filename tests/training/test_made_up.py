"""The contract of methods, by ones that nobody published: all scripts take them, and executors agree on them."""

import shutil

import pytest

from engine.results.runs import TRAINED, WISEFT, ZEROSHOT, read_record
from forks import Fork
from made_up import MADE_UP, install
from stores import store_of_random_features

CELLS = "--dataset demo --clip-encoder fake --train-shot 1 2 --seed 1 2".split()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Features of 12 classes."""
    return store_of_random_features(tmp_path_factory.mktemp("made up"), classes=12)


def script(store, name, *words, check=0):
    return Fork(name, words, store.root, install).wait(check)


def trained(store, name, *words):
    """The records that train.py leaves of a method."""
    longer = ["--max-iter", "120"] if MADE_UP[name].fit.takes_max_iter else []
    how = ["--method", name, *longer, *store.flags]
    done = script(store, "train.py", *CELLS, *how, *words)
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
