"""Tables of several methods, and their distinct names."""

import dataclasses
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pandas as pd
import pytest

from engine.errors import UserError
from engine.results import tables
from engine.results.runs import Cell
from forks import run_fork

CELL = Cell(
    dataset="dtd",
    shots=1,
    seed=1,
    encoder="RN50",
    image_layer=0,
    text_layer=0,
    text_augmentation="hand_crafted",
    image_augmentation="flip",
    image_views=1,
    modality="cross_modal",
    head="linear",
    init="zeroshot",
    log_logit_scale=4.60517,
    hyperparams="linear",
)


def summary(method, mean, zeroshot):
    return pd.DataFrame(
        {"method": method, "shots": [1, 2], "datasets": 1, "mean": mean, "std": 0.5, "zeroshot": zeroshot}
    )


def test_the_name_of_the_authors():
    expected = "all_RN50_linear_hand_crafted_flip_1_cross_modal_text_wiseft_False"
    assert tables.method_name(CELL, "linear", wise_ft=False) == expected
    uni = dataclasses.replace(CELL, modality="uni_modal", init="random")
    assert tables.method_name(uni, "linear", 0.5) == "all_RN50_linear_hand_crafted_flip_1_uni_modal_random_wiseft_True"


@pytest.mark.parametrize("change", [{"max_iter": 100}, {"max_val_shot": 8}])
def test_other_settings_than_the_protocols_have_a_separate_name_and_folder(change):
    other = dataclasses.replace(CELL, **change)
    assert tables.method_name(other, "linear", False) != tables.method_name(CELL, "linear", False)
    assert other.folder("") != CELL.folder("")


def test_methods_side_by_side_below_one_zeroshot_row():
    summaries = {"a": summary("uni", [50.0, 60.0], 58.0), "b": summary("cross", [60.0, 70.0], 58.0)}
    table = tables.comparison(tables.label_summaries(summaries))
    assert table.index.tolist() == ["zero-shot", "uni", "cross"]
    assert table[2].tolist() == [58.0, 60.0, 70.0]


def test_the_same_method_under_two_encoders_is_told_apart_by_the_tables_names():
    summaries = {"RN50": summary("cross", [50.0, 60.0], 58.0), "ViT": summary("cross", [60.0, 70.0], 68.0)}
    table = tables.comparison(tables.label_summaries(summaries))
    assert table.index.tolist() == ["zero-shot (RN50)", "zero-shot (ViT)", "RN50", "ViT"]


@pytest.mark.parametrize(
    ("augmentation", "differs", "refused"),
    [
        ("hand_crafted", "text", True),
        ("template_mining", "text", False),  # each split has its own prompts
        ("template_mining", "encoder", True),
        ("template_mining", "split", False),
    ],
)
def test_only_shared_inputs_are_compared(augmentation, differs, refused):
    cells = [dataclasses.replace(CELL, text_augmentation=augmentation, seed=seed) for seed in (1, 2)]
    digests = dict.fromkeys(("encoder", "text", "split", "train"), "a" * 64)
    runs = {cell: SimpleNamespace(inputs=digests | {differs: f"of seed {cell.seed}"}) for cell in cells}
    with pytest.raises(UserError, match=f"their {differs} differs") if refused else nullcontext():
        tables.check_inputs(runs)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"seed": 2}, True),
        ({"modality": "uni_modal"}, True),
        ({"image_layer": 1}, False),
        ({"dataset": "eurosat"}, False),
    ],
)
@pytest.mark.parametrize("name", ["features", "prompts"])
def test_features_made_in_different_ways_are_not_averaged(name, change, refused):
    """Records omit the protocol's default settings; these count as settings too, in either order of runs."""
    usual = {"encoder": "a" * 64}
    pair = [(CELL, usual), (dataclasses.replace(CELL, **change), usual | {name: "precision bf16"})]
    said = (f"their {name} differs (precision bf16 and usual)", f"their {name} differs (usual and precision bf16)")
    for runs, words in zip((pair, pair[::-1]), said, strict=True):
        with pytest.raises(UserError, match=re.escape(words)) if refused else nullcontext():
            tables.check_inputs({cell: SimpleNamespace(inputs=inputs) for cell, inputs in runs})


def test_averages_are_of_means_and_of_deviations():
    table = pd.DataFrame(
        {"dataset": ["a", "b"], "shots": 1, "seeds": "1 2", "mean": [40.0, 60.0], "std": [1.0, 3.0], "zeroshot": 50.0}
    )
    last = tables.average(table.assign(method="m"))[1].iloc[-1]
    assert (last["dataset"], last["mean"], last["std"]) == ("average", 50.0, 2.0)


def method_table(shots, seeds, datasets=("demo",)):
    """A method's table, with a row per dataset and shots."""
    rows = [(dataset, s, seeds, 50.0, 1.0, 40.0, "m", "d") for dataset in datasets for s in shots]
    return pd.DataFrame(rows, columns=tables.COLUMNS)


def test_a_folder_of_averages_belongs_to_one_table(script, tmp_path):
    """A second table with fewer shots removes the other shots of the first table."""
    for shots in ([1, 2, 16], [2]):
        tables.write_csv(method_table(shots, "1 2 3"), tmp_path / "all_x.csv")
        script("average.py", "--name", "all_x", "--eval_dir", tmp_path, "--avg_dir", tmp_path / "average", check=0)
        there = {path.name for path in (tmp_path / "average" / "all_x").iterdir()}
        assert there == {"summary.csv", *(f"shot_{s}.csv" for s in shots)}
    assert pd.read_csv(tmp_path / "average" / "all_x" / "summary.csv")["shots"].tolist() == [2]


def test_a_table_may_be_named_as_its_file_is(script, tmp_path):
    tables.write_csv(method_table([1], "1"), tmp_path / "all_x.csv")
    script("average.py", "--name", "all_x.csv", "--eval_dir", tmp_path, "--avg_dir", tmp_path / "average", check=0)
    assert [path.name for path in (tmp_path / "average").iterdir()] == ["all_x"]


def test_a_plot_of_another_format_is_refused_before_any_work(script, tmp_path):
    tables.write_csv(method_table([1], "1"), tmp_path / "all_x.csv")
    words = ["--name", "all_x", "--eval_dir", tmp_path, "--avg_dir", tmp_path / "average", "--plot"]
    assert "'x.pdf' does not end in .png" in script("average.py", *words, "x.pdf", cwd=tmp_path, check=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["all_x.csv"]
    script("average.py", *words, "x.PNG", cwd=tmp_path, check=0)
    assert (tmp_path / "x.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        (method_table([1, 2], "1 2 3", ["demo", "dtd"]), []),
        (method_table([1, 2, 4], "3 2 1 4", ["dtd", "demo", "sun397"]), []),
        (method_table([1, 2], "1 2 3", ["demo"]), ["dtd 1-shot seeds 1 2 3", "dtd 2-shot seeds 1 2 3"]),
        (
            method_table([1, 2], "1 3", ["demo", "dtd"]),
            [f"{d} {s}-shot seed 2" for d in ("demo", "dtd") for s in (1, 2)],
        ),
    ],
)
def test_rows_lost_with_a_new_table(after, lost, tmp_path):
    path = tmp_path / "all_x.csv"
    assert tables.not_covered(path, after) == []
    tables.write_csv(method_table([1, 2], "1 2 3", ["demo", "dtd"]), path)
    assert tables.not_covered(path, after) == lost


def test_a_table_of_one_seed_and_no_table_at_all(tmp_path):
    path = tmp_path / "all_x.csv"
    tables.write_csv(method_table([1], "1"), path)
    assert tables.not_covered(path, method_table([1], "1 2")) == []
    assert tables.not_covered(path, method_table([1], "2")) == ["demo 1-shot seed 1"]
    path.write_text("no table")
    assert tables.not_covered(path, method_table([1], "2")) == []


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "\0\0", ",".join(tables.COLUMNS) + "\na,1,1,x,0,0,m,d\n"])
def test_a_file_that_is_no_table_is_named(content, tmp_path):
    (tmp_path / "all_x.csv").write_text(content)
    with pytest.raises(UserError, match=r"all_x\.csv does not have"):
        tables.read_method("all_x", tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": 100.5}, "numbers that are not percentages: demo 1-shot"),
        ({"mean": -1.0}, "numbers that are not percentages: demo 1-shot"),
        ({"std": float("inf")}, "numbers that are not percentages: demo 1-shot"),
        ({"zeroshot": float("nan")}, "does not have the columns"),
        ({"mean": float("nan")}, "does not have the columns"),
        ({"zeroshot": "high"}, "does not have the columns"),
        ({"seeds": "1 x"}, "seeds that are not whole numbers: demo 1-shot"),
        ({"shots": 2}, "two rows with the same dataset and shots: demo 2-shot"),
        ({"shots": 1.5}, "does not have the columns"),
    ],
)
def test_a_table_that_eval_did_not_write_is_refused(change, said, tmp_path):
    table = method_table([1, 2], "1 2").astype(object)
    for name, value in change.items():
        table.loc[0, name] = value
    table.to_csv(tmp_path / "all_x.csv", index=False, na_rep="nan")
    words = ["--name", "all_x", "--eval_dir", tmp_path, "--avg_dir", tmp_path / "average"]
    done = run_fork("average.py", *words, folder=tmp_path, check=1)
    assert f"error: {tmp_path / 'all_x.csv'} " in done.stderr
    assert said in done.stderr


def test_a_missing_table_lists_those_that_are_there(tmp_path):
    (tmp_path / "all_there.csv").write_text("")
    with pytest.raises(UserError, match="Tables there: all_there"):
        tables.read_method("all_x", tmp_path)
