"""eval.py --explain, and the digests that eval.py's tables carry."""

import dataclasses
import functools

import pandas as pd
import pytest

from engine.errors import UserError
from engine.results import tables
from engine.results.explain import explain
from engine.results.runs import read_cell, record_path, runs_digest, selected, write_record
from forks import Fork, as_a_user, run_fork
from records import CROSS, LINEAR, POINTS, UNI, cell_of, with_accuracies, write_cell

pytestmark = pytest.mark.usefixtures("short_grids")
FEATURES = "RN50-image_0-text_0-hand_crafted-flip_1"


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    return functools.partial(run_fork, folder=tmp_path_factory.mktemp("said"))


@pytest.fixture
def cell(tmp_path):
    """A cell with a complete grid of two runs, of which the second is selected, beside another seed's."""
    made = [cell_of("dtd", 1, seed, FEATURES, CROSS, LINEAR) for seed in (1, 2)]
    for each in made:
        write_cell(tmp_path / "experiments", each)
    return made[0]


def change(cell, root, point, **changes):
    write_record(dataclasses.replace(read_cell(cell, root)[POINTS[point]], **changes), root)


def lines_of(cell, root):
    """What is said of the two runs, and why one is selected."""
    _, _, first, second, reason, *_ = explain(cell, root).splitlines()
    return first, second, reason


def test_the_grid_of_a_cell_through_the_script(cell, tmp_path, script):
    done = script("eval.py", "--explain", "dtd,1,1", cwd=tmp_path, check=0)
    untested, tested = done.stdout.splitlines()[2:4]
    runs = read_cell(cell, tmp_path / "experiments")
    for line, point in ((untested, POINTS[0]), (tested, POINTS[1])):
        run = runs[point]
        shown = [run.accuracy(name, of) for name in ("trained", "wiseft") for of in ("val", "test")]
        wanted = [f"{value:g}" for value in (*point.values(), run.step)]
        wanted += [f"{100 * accuracy:.2f}" for accuracy in shown if accuracy is not None]
        assert line.split()[: len(wanted)] == wanted
    assert tested.endswith("<- selected")
    assert len(untested.split()) == 6
    assert f"the only run with the highest val, {100 * runs[POINTS[1]].val:.2f}." in done.stdout
    assert not (tmp_path / "results").exists()


def test_runs_in_a_folder_that_may_not_be_listed_are_not_taken_for_none(cell, tmp_path):
    folder = cell.folder(tmp_path / "experiments")
    folder.chmod(0)
    done = Fork("eval.py", ["--explain", "dtd,1,1"], tmp_path, as_a_user, tmp_path).wait(check=1)
    folder.chmod(0o700)
    assert done.err == f"error: {folder.relative_to(tmp_path)} cannot be opened (Permission denied)\n"


def test_a_tie_goes_to_the_first_and_is_said(cell, tmp_path):
    root = tmp_path / "experiments"
    best, first = selected(read_cell(cell, root)).val, read_cell(cell, root)[POINTS[0]]
    write_record(with_accuracies(first, "trained", val=best), root)
    first, second, reason = lines_of(cell, root)
    assert "<- selected" in first
    assert "selected" not in second
    assert f"of the 2 runs with the highest val, {100 * best:.2f}, the first in the order of the grid" in reason


def test_an_incomplete_grid_selects_nothing(cell, tmp_path):
    root = tmp_path / "experiments"
    record_path(cell, POINTS[0], root).unlink()
    first, second, reason = lines_of(cell, root)
    assert first.endswith("not trained")
    assert "selected" not in second
    assert reason == "No run is selected yet: 1 of 2 runs are not trained."


def test_a_run_that_diverged_and_a_test_that_is_missing_are_said(cell, tmp_path):
    root = tmp_path / "experiments"
    change(cell, root, 1, diverged=True, accuracies=read_cell(cell, root)[POINTS[1]].untested().accuracies)
    _, second, reason = lines_of(cell, root)
    assert second.endswith("<- selected, diverged")
    assert reason.endswith("Its test is missing; run train.py to test it.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dtd,3,1"], "cells of this method that have runs: dtd,1,1  dtd,1,2"),
        (["dtd,1,2", "--modality", "uni_modal"], f"methods of this cell that have runs: {FEATURES}/{CROSS}/{LINEAR}"),
        (["dtd,1"], "'dtd,1' is not dataset,shots,seed, as in dtd,16,1"),
        (["dtdd,1,1"], "no dataset is called 'dtdd'; there are: caltech101,"),
        (["dtd,x,1"], "'x' is not a whole number"),
        (["imagenet_a,1,1"], "trained on --dataset imagenet"),
    ],
)
def test_wrong_cells_say_which_are_possible(words, said, cell, tmp_path, script):
    done = script("eval.py", "--explain", *words, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr


def test_no_runs_at_all(tmp_path):
    with pytest.raises(UserError, match="no runs of dtd 1-shot seed 1"):
        explain(cell_of("dtd", 1, 1, FEATURES, UNI, LINEAR), tmp_path)


def test_a_digest_is_of_what_the_runs_are(cell, tmp_path):
    one, other = read_cell(cell, tmp_path / "experiments").values()
    digest = runs_digest([one, other])
    assert runs_digest([other, one]) == digest
    assert runs_digest([dataclasses.replace(one, seconds=9.0, versions={"torch": "9"}), other]) == digest
    shifted = on_shifted_set(one)
    assert runs_digest([shifted, other]) == digest
    assert runs_digest([shifted, other], shifted=True) != runs_digest([one, other], shifted=True)
    changes = {
        "step": 7,
        "inputs": {"encoder": "x"},
        "tuned": {"alpha": 1.0},
        "accuracies": with_accuracies(one, "trained", val=0.1).accuracies,
        "cell": dataclasses.replace(cell, seed=9),
    }
    changed = [runs_digest([dataclasses.replace(one, **{name: value}), other]) for name, value in changes.items()]
    assert len({digest, *changed}) == 6
    assert runs_digest([]) == ""


def on_shifted_set(record):
    """The record as tested on a set more."""
    more = dict(zip(record.accuracies, (0.1, 0.2, 0.3), strict=True))
    accuracies = {name: found | {"imagenet_a": more[name]} for name, found in record.accuracies.items()}
    return dataclasses.replace(record, accuracies=accuracies, shifted={"imagenet_a": "d"})


def test_shifted_accuracies_are_kept_in_records(cell, tmp_path):
    root = tmp_path / "experiments"
    found = on_shifted_set(read_cell(cell, root)[POINTS[1]])
    write_record(found, root)
    assert read_cell(cell, root)[POINTS[1]] == found
    assert found.accuracy("wiseft", "imagenet_a") == 0.2
    assert read_cell(cell, root)[POINTS[0]].shifted == {}


def test_what_a_run_tuned_is_shown(cell, tmp_path):
    change(cell, tmp_path / "experiments", 1, tuned={"alpha": 1.17, "beta": 5.0})
    said = explain(cell, tmp_path / "experiments").splitlines()
    assert said[-1] == "tuned on validation inside the run: alpha 1.17, beta 5"


def test_rows_of_a_method_carry_the_digest_of_their_own_runs(cell, tmp_path, script):
    """Through eval.py and average.py; the digest of a row moves with a run of its own and of no other row."""
    root, path = tmp_path / "experiments", tmp_path / "results" / "all_RN50_linear_hand_crafted_flip_1_cross_modal_text"
    path = path.with_name(f"{path.name}_wiseft_False.csv")
    for seed in (1, 2):
        write_cell(root, cell_of("dtd", 2, seed, FEATURES, CROSS, LINEAR))

    def digests():
        script("eval.py", "--datasets", "dtd", "--train-shot", 1, 2, "--seed", 1, 2, cwd=tmp_path, check=0)
        return pd.read_csv(path, dtype=str)["runs"].tolist()

    before = digests()
    wanted = [
        runs_digest(selected(read_cell(dataclasses.replace(cell, shots=shots, seed=seed), root)) for seed in (1, 2))
        for shots in (1, 2)
    ]
    assert before == wanted
    change(cell, root, 1, step=300)
    after = digests()
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
    script("average.py", "--name", path.stem, cwd=tmp_path, check=0)


def test_a_table_from_before_the_digests_is_to_be_written_again(cell, tmp_path, script):
    old = pd.DataFrame([["dtd", 1, "1 2 3", 50.0, 1.0, 40.0, "m"]], columns=tables.COLUMNS[:-1])
    name = "all_RN50_linear_hand_crafted_flip_1_cross_modal_text_wiseft_False"
    tables.write_csv(old, tmp_path / "results" / f"{name}.csv")
    said = script("average.py", "--name", name, cwd=tmp_path, check=1).stderr
    assert "does not have the columns" in said
    assert "create it again with eval.py" in said
    done = script("eval.py", "--datasets", "dtd", "--train-shot", 1, "--seed", 1, 2, cwd=tmp_path, check=0)
    assert "replaces a table that also had dtd 1-shot seed 3" in done.stdout
