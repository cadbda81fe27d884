"""The table of all methods, its ranks and differences, against numbers that are computed from records by hand."""

import random
import statistics
from dataclasses import replace

import pandas as pd
import pytest

from engine import config, datasets
from engine.config import commands
from engine.errors import UserError
from engine.methods import METHODS, REGISTRY
from engine.paper.methods import published_methods
from engine.results import methods_text
from engine.results.methods_scope import CROSS, MODALITIES, UNI, MethodRow, MethodsScope, method_cell, require_plot
from engine.results.methods_table import AVERAGE, MethodsTable
from engine.results.runs import Record, write_record
from engine.training.schedule import MAX_ITER

SCOPE = MethodsScope(("dtd", "eurosat"), (1, 4), (1, 2, 3), {"RN50": "RN50"})
ROWS = [MethodRow("RN50", name, modality) for name in REGISTRY for modality in MODALITIES]
LACKING = (ROWS[2], "eurosat", 4, 2)
"""A row, dataset, shots and seed without a run."""


def accuracy_of(row, dataset, shots, seed):
    """The accuracy that the records say, 0 to 1, from a few values, so that some rows are equal."""
    return random.Random(f"{row.method} {row.modality} {dataset} {shots} {seed}").randrange(20, 90) / 100


def write_cell(root, cell, accuracy, encoder="digest"):
    """Write records of a complete grid; the last point is selected and tested."""
    points = list(cell.grid)
    for k, point in enumerate(points):
        tested = {"test": accuracy} if point == points[-1] else {}
        zeroshot = {"test": 0.5} if tested else {}
        accuracies = {"trained": {"val": (k + 1) / len(points)} | tested, "zeroshot": {"val": 0.4} | zeroshot}
        fields = {"inputs": {"encoder": encoder}, "step": 0, "seconds": 1.0, "versions": {}}
        write_record(Record(cell=cell, hyperparameters=point, grid=points, accuracies=accuracies, **fields), root)


def write_all(root, scope=SCOPE, without=LACKING):
    for row in ROWS:
        for dataset in scope.datasets:
            for shots in scope.shots:
                for seed in scope.seeds:
                    at = (row, dataset, shots, seed)
                    if at != without:
                        write_cell(root, method_cell(*at, scope), accuracy_of(*at))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    write_all(root)
    return root


@pytest.fixture(scope="module")
def table(recorded):
    return MethodsTable(SCOPE, recorded)


def percentages(row, dataset, shots):
    return [100 * accuracy_of(row, dataset, shots, seed) for seed in SCOPE.seeds]


def test_rows_are_the_registry():
    assert [(row.method, row.modality) for row in MethodsTable(SCOPE, "nowhere").rows] == [
        (name, modality) for name in REGISTRY for modality in ("uni_modal", "cross_modal")
    ]


@pytest.mark.parametrize("row", ROWS)
def test_cells_are_those_of_train_py(row):
    """With the method given after its modality, as methods.sh does. Methods with steps of their own keep them."""
    start = {UNI: "random", CROSS: "zeroshot"}[row.modality]
    words = f"--modality {row.modality} --classifier_init {start} --method {row.method} --dataset dtd --train-shot 4"
    words += " --seed 1 --clip-encoder RN50 --text-augmentation hand_crafted --image-augmentation flip --image-views 1"
    takes = METHODS[row.method].fit.takes_max_iter
    words += " --max-iter 100" * takes
    (cell,) = config.cells(config.parser("", "train.py").parse_args(words.split()))
    assert cell == method_cell(row, "dtd", 4, 1, replace(SCOPE, max_iter=100))
    assert cell.max_iter == (100 if takes else MAX_ITER)


def test_accuracies_are_means_over_seeds_then_datasets(table):
    for row in ROWS:
        for shots in SCOPE.shots:
            found = [percentages(row, dataset, shots) for dataset in SCOPE.datasets]
            complete = (row, "eurosat", shots) != LACKING[:3]
            average = table.accuracy(row, AVERAGE, shots)
            assert (average.there, average.asked) == (1 + complete, 2)
            if complete:
                assert average.mean == pytest.approx(statistics.fmean(map(statistics.fmean, found)))
                assert average.std == pytest.approx(statistics.fmean(map(statistics.pstdev, found)))
            else:
                assert average.mean is average.std is None
    assert table.accuracy(*LACKING[:3])[2:] == (2, 3)
    assert table.zeroshot("RN50", AVERAGE).mean == pytest.approx(50)


def test_differences_are_paired_by_seed(table):
    for name in REGISTRY:
        uni, cross = (MethodRow("RN50", name, modality) for modality in MODALITIES)
        for shots in SCOPE.shots:
            for dataset in SCOPE.datasets:
                pairs = zip(percentages(uni, dataset, shots), percentages(cross, dataset, shots), strict=True)
                gains = [after - before for before, after in pairs]
                found = table.difference(uni, dataset, shots)
                if LACKING in [(row, dataset, shots, 2) for row in (uni, cross)]:
                    assert found == (None, None, 2, 3)
                else:
                    assert found.mean == pytest.approx(statistics.fmean(gains))
                    assert found.std == pytest.approx(statistics.pstdev(gains))


def test_ranks_are_among_complete_rows(table):
    """Against pandas, which gives equal values the mean of their ranks."""
    for dataset in SCOPE.datasets:
        for shots in SCOPE.shots:
            means = {row: statistics.fmean(percentages(row, dataset, shots)) for row in ROWS}
            if (dataset, shots) == LACKING[1:3]:
                del means[LACKING[0]]
                assert table.rank(LACKING[0], dataset, shots).mean is None
            expected = pd.Series(means).round(9).rank(ascending=False)
            assert {row: table.rank(row, dataset, shots).mean for row in means} == pytest.approx(expected.to_dict())
    assert table.rank(LACKING[0], AVERAGE, 4) == (None, None, 1, 2)


def test_equal_rows_share_their_ranks(tmp_path):
    scope = replace(SCOPE, datasets=("dtd",), shots=(1,), seeds=(1,))
    for row, accuracy in zip(ROWS, (0.5, 0.7, 0.5), strict=False):
        write_cell(tmp_path, method_cell(row, "dtd", 1, 1, scope), accuracy)
    table = MethodsTable(scope, tmp_path)
    assert [table.rank(row, AVERAGE, 1).mean for row in ROWS[:4]] == [2.5, 1, 2.5, None]


def test_missing_cells_and_commands_that_train_them(table):
    cell = method_cell(*LACKING, SCOPE)
    assert table.missing == [cell]
    args = config.parser("", "tables.py").parse_args(["--table", "methods"])
    heading, extraction, training = commands.cells_commands(args, table.missing, SCOPE.encoders)
    assert heading.startswith("1 cell (")
    assert config.cells(config.parser("", "train.py").parse_args(training.split()[2:])) == [cell]
    assert config.parser("", "features.py").parse_args(extraction.split()[2:]).dataset == ["eurosat"]
    assert commands.cells_commands(args, [], SCOPE.encoders) == []


def test_gaps_and_parts_are_shown(table):
    body = methods_text.accuracy_text(table, ()).body
    partial = [line for line in body if "1 of 2" in line]
    assert [line[:2] for line in partial] == [[METHODS[LACKING[0].method].title, LACKING[0].modality.replace("_", "-")]]
    empty = MethodsTable(SCOPE, "nowhere")
    assert {cell for line in methods_text.accuracy_text(empty, ()).body for cell in line[2:]} == {"-"}
    assert any("train.py" in line for line in methods_text.accuracy_text(empty, ()).caption)


def test_published_averages_stand_below_their_methods():
    """Of the eleven datasets alone, each with a footnote; methods that the registry lacks come last."""
    eleven = replace(SCOPE, datasets=datasets.TARGETS, shots=(1, 2, 4, 8, 16))
    text = methods_text.accuracy_text(MethodsTable(eleven, "nowhere"), published_methods())
    shown = [line for line in text.body if "published" in line[0]]
    assert len(shown) == len(published_methods()) == 8
    assert sum(line.startswith("[") for line in text.caption) == 8
    for one in published_methods():
        assert [list(one.means.values())] == [line[2:] for line in shown if line[2] == one.means[1]]
        assert any(f"{one.title}: {one.note}." in line for line in text.caption)
    names = [line[0] for line in text.body]
    for one in published_methods():
        line = next(k for k, cells in enumerate(text.body) if cells[2:] == list(one.means.values()))
        if one.method in REGISTRY:
            above = {METHODS[one.method].title, f"{one.title}, published"}
            assert names[line - 1].partition(" [")[0] in above
        else:
            assert line >= len(names) - sum(p.method not in REGISTRY for p in published_methods())
    assert not any("published" in line[0] for line in methods_text.accuracy_text(MethodsTable(SCOPE, ""), shown).body)


def test_files_agree(table, tmp_path):
    """CSV has each dataset and the average; Markdown and LaTeX have the averages."""
    paths = methods_text.write(table, published_methods(), ["These are missing:", "python train.py"], tmp_path)
    assert sorted(path.name for path in paths) == sorted(path.name for path in tmp_path.iterdir())
    frame = pd.read_csv(tmp_path / "table_methods.csv", na_filter=False, dtype=str)
    assert list(frame["dataset"].unique()) == [*SCOPE.datasets, AVERAGE]
    row = frame[(frame["method"] == "linear probing") & (frame["row"] == "cross-modal")].set_index("dataset")
    expected = table.accuracy(ROWS[1], AVERAGE, 1)
    assert float(row.loc[AVERAGE, "1-shot"]) == pytest.approx(expected.mean, abs=1e-4)
    assert row.loc[AVERAGE, "1-shot complete"] == "2/2"
    assert row["runs"].str.fullmatch("[0-9a-f]{12}").all()
    assert row["runs"].nunique() == 3
    cell = f"{expected.mean:.2f} ± {expected.std:.2f}"
    assert cell in (tmp_path / "table_methods.md").read_text()
    assert cell.replace("±", r"$\pm$") in (tmp_path / "table_methods.tex").read_text()
    assert "cross-modal minus uni-modal & " in (tmp_path / "table_methods_ranks.tex").read_text()
    for name in ("table_methods", "table_methods_ranks"):
        assert "```sh\npython train.py\n```" in (tmp_path / f"{name}.md").read_text()
        assert "% python train.py" in (tmp_path / f"{name}.tex").read_text()


def test_records_that_do_not_belong_together_are_refused(tmp_path):
    scope = replace(SCOPE, datasets=("dtd",), shots=(1,), seeds=(1,))
    for row, digest in zip(ROWS, ("one", "other"), strict=False):
        write_cell(tmp_path, method_cell(row, "dtd", 1, 1, scope), 0.5, encoder=digest)
    with pytest.raises(UserError, match="cannot be in one table"):
        MethodsTable(scope, tmp_path)


def test_a_plot_is_of_one_encoder():
    require_plot(SCOPE)
    with pytest.raises(UserError, match="one encoder"):
        require_plot(replace(SCOPE, encoders={"RN50": "RN50", "ViT-B/16": "ViT-B-16"}))


def test_the_plot(table, tmp_path):
    import matplotlib.image

    from engine.results.methods_plot import methods_against_shots

    methods_against_shots(table, "title", tmp_path / "plot.png")
    assert matplotlib.image.imread(tmp_path / "plot.png").shape[1] > 1000
    with pytest.raises(UserError, match="nothing to plot"):
        methods_against_shots(MethodsTable(SCOPE, "nowhere"), "", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
