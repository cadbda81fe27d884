"""tables.py end to end: each table of the paper on records written by hand, and one on trained runs."""

import csv
import functools
import json
import re
import shlex
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy
import pandas as pd
import pytest

from engine.results.esc import AUDIO, EscRun, add_runs
from engine.results.runs import read_record, write_record
from forks import run_fork
from records import CROSS, LINEAR, PARTIAL, UNI, UNI_ZEROSHOT, cell_of, with_accuracies, write_cell
from stores import store_of_random_features

ROOT = Path(__file__).parents[1]
PAPER = list(csv.DictReader((ROOT / "engine" / "paper" / "printed.csv").open(encoding="utf-8")))
ELEVEN = list(dict.fromkeys(row["dataset"] for row in PAPER if row["table"] == "10" and row["dataset"] != "average"))
TESTS = ["imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
IMAGES = ["none_0", "flip_1", "randomcrop_1", "randomcrop_9"]
FIRST = "RN50"
TEXTS = ["classname", "vanilla", "hand_crafted", "template_mining"]
ADAPTER = ("cross_modal-adapter_zeroshot", "logit_4.60517-adapter")
PROMPTING = ("cross_modal-prompting_zeroshot", "logit_4.60517-prompting")


def runs(
    method, settings, classifier="trained", *, image=0, text=0, prompts="hand_crafted", images="none_0", by="RN50"
):
    """Return the folder of a row's runs, and the name of the classifier that the row reports."""
    return f"{by}-image_{image}-text_{text}-{prompts}-{images}/{method}/{settings}", classifier


def zeroshot(by="RN50"):
    return runs(CROSS, LINEAR, "zeroshot", images="flip_1", by=by)


def wiseft(method, by="RN50"):
    return runs(method, LINEAR, "wiseft", by=by)


LP = functools.partial(runs, settings=LINEAR)
FINE = functools.partial(runs, settings=PARTIAL, image=1)
DELTA, PAPER_ONLY = "delta", None
SHIFTS = [
    [
        *(zeroshot(by), LP(UNI, images="flip_1", by=by), *[PAPER_ONLY] * alone),
        *(wiseft(UNI_ZEROSHOT, by), wiseft(CROSS, by), LP(CROSS, images="flip_1", by=by)),
    ]
    for by, alone in (("RN50", 2), ("ViT-B-16", 3))
]
ROWS = {  # by hand, in the order of the paper
    1: [
        *(zeroshot(), LP(UNI, images="flip_1"), wiseft(UNI_ZEROSHOT), *[PAPER_ONLY] * 4),
        *(LP(CROSS, images="flip_1"), FINE(CROSS, images="flip_1")),
    ],
    2: [
        *(LP(UNI, images="flip_1"), LP(CROSS, images="flip_1"), DELTA, wiseft(UNI_ZEROSHOT), wiseft(CROSS), DELTA),
        *(PAPER_ONLY, runs(*PROMPTING, images="randomresizedcrop_8"), PAPER_ONLY, PAPER_ONLY),
        *(runs(*ADAPTER, images="flip_1"), PAPER_ONLY),
    ],
    8: SHIFTS[0] + SHIFTS[1],
    10: [
        *(zeroshot(), *[PAPER_ONLY] * 3, wiseft(UNI_ZEROSHOT), LP(CROSS, images="flip_1"), wiseft(CROSS)),
        *(runs(*ADAPTER, images="flip_1"), FINE(CROSS, images="flip_1")),
    ],
    11: [
        row
        for train in (LP, FINE)
        for row in [train(UNI, images=images) for images in IMAGES]
        + [train(CROSS, images=images, prompts=prompts) for images in IMAGES for prompts in TEXTS]
    ],
    12: [
        train(method)
        for train in (LP, FINE)
        for method in (UNI, UNI_ZEROSHOT, "cross_modal-linear_random", "cross_modal-linear_zeroshot")
    ],
    13: [LP(CROSS), FINE(CROSS), FINE(CROSS, image=0, text=1), FINE(CROSS, image=1, text=1)],
    14: [wiseft(UNI_ZEROSHOT), wiseft(CROSS), runs(*PROMPTING, images="randomresizedcrop_8"), runs(*ADAPTER)]
    + [LP(UNI), LP(CROSS), FINE(UNI), FINE(CROSS)]
    + [wiseft(UNI_ZEROSHOT, "ViT-B-16"), wiseft(CROSS, "ViT-B-16")]
    + [train(method, by="ViT-B-16") for train in (LP, FINE) for method in (UNI, CROSS)],
}
SEEDS = [1, 2]

pytestmark = pytest.mark.usefixtures("short_grids")


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    return functools.partial(run_fork, folder=tmp_path_factory.mktemp("said"))


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Records of all rows: 2 shots of eleven datasets, and 16 shots of ImageNet on its variants."""
    root = tmp_path_factory.mktemp("recorded") / "experiments"
    for folder in {row[0] for rows in ROWS.values() for row in rows if isinstance(row, tuple)}:
        for seed in SEEDS:
            for dataset in ELEVEN:
                write_cell(root, cell_of(dataset, 2, seed, *folder.split("/")), points=1)
            write_cell(root, cell_of("imagenet", 16, seed, *folder.split("/")), shifts=TESTS[1:])
    return root


def make(script, root, folder, *words, check=0):
    flags = ["--result_dir", root, "--avg_dir", folder / "out", "--esc_result_dir", folder / "esc"]
    return script("tables.py", *flags, "--seed", *SEEDS, *words, cwd=folder, check=check)


def accuracy_of(root, dataset, shots, seed, row, test_set=None):
    """Return the test accuracy (percent) of the selected run, read without the project's code."""
    folder, classifier = row
    records = [json.loads(p.read_text()) for p in (root / f"{dataset}-shot_{shots}-seed_{seed}" / folder).glob("*/*")]
    found = [record["accuracies"] for record in records]
    best = max(own["trained"]["val"] for own in found)
    (own,) = (own for own in found if own["trained"]["val"] == best)
    return 100 * own[classifier][test_set if test_set and test_set != dataset else "test"]


def over_seeds(root, dataset, shots, row, test_set=None):
    """Return mean and deviation over seeds; for zero-shot, from any run."""
    seeds = SEEDS[:1] if row[1] == "zeroshot" else SEEDS
    values = [accuracy_of(root, dataset, shots, seed, row, test_set) for seed in seeds]
    return statistics.fmean(values), statistics.pstdev(values)


def printed(number, row, dataset, shots):
    """Return the paper's number in the `row`-th row of a table, and its deviation."""
    names = "backbone method modality classifier_init text_augmentation image_augmentation image_views metric".split()
    of_table = [r for r in PAPER if r["table"] == str(number)]
    lines = list(dict.fromkeys(tuple(r[name] for name in names) for r in of_table))
    found = [r for r in of_table if tuple(r[name] for name in names) == lines[row]]
    (one,) = [r for r in found if (r["dataset"], r["shots"]) == (dataset, str(shots))] or [{"mean": "", "std": ""}]
    return one["mean"], one["std"]


def read(folder, number):
    return pd.read_csv(folder / "out" / f"table_{number}.csv", dtype=str, na_filter=False)


def is_near(text, number):
    return number is not None and abs(float(text) - number) < 1e-3


@pytest.mark.parametrize("number", [1, 2, 11, 12, 13, 14])
def test_tables_by_shots(number, script, recorded, tmp_path):
    """Averages over eleven datasets of means over seeds, beside the paper's numbers at these shots."""
    done = make(script, recorded, tmp_path, "--table", number, "--train-shot", 2)
    table = read(tmp_path, number)
    assert len(table) == len(ROWS[number])
    means = []
    for k, row in enumerate(ROWS[number]):
        shots = 0 if isinstance(row, tuple) and row[1] == "zeroshot" else 2
        cells = {name: table[f"{shots}-shot {name}"][k] for name in ("ours", "std", "paper", "paper std", "difference")}
        assert (cells["paper"], cells["paper std"]) == printed(number, k, "average", shots)
        assert cells["paper"]
        if row is PAPER_ONLY:
            assert {cells["ours"], cells["std"], table["runs"][k]} == {""}
            assert table["method"][k].endswith(" †")
            means.append(None)
            continue
        if row == DELTA:
            mean, std = means[-1] - means[-2], None
        else:
            found = [over_seeds(recorded, dataset, 2, row) for dataset in ELEVEN]
            mean, std = (statistics.fmean(values) for values in zip(*found, strict=True))
        means.append(mean)
        assert is_near(cells["ours"], mean)
        assert is_near(cells["difference"], mean - float(cells["paper"]))
        assert cells["std"] == "" if row == DELTA or shots == 0 else is_near(cells["std"], std)
        assert re.fullmatch("[0-9a-f]{12}", table["runs"][k])
    assert "To fill them" not in done.stdout
    check_text(tmp_path, number, table)


def check_text(folder, number, table):
    """Markdown and LaTeX have the numbers of the CSV file, in the same rows."""
    markdown = (folder / "out" / f"table_{number}.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("| ") and "paper" not in line]
    latex = (folder / "out" / f"table_{number}.tex").read_text()
    rows = [line for line in latex.splitlines() if line.endswith(r"\\") and "ours" not in line and "multi" not in line]
    assert len(lines) == len(rows)
    assert len(lines) % len(table) == 0
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == len(lines) // len(table)
    assert {line.count("&") for line in rows[: len(table)]} == {rows[0].count("&")}
    for k, method in enumerate(table["method"]):
        assert method in lines[k]
        assert method.replace("†", r"$^\dagger$") in rows[k]
        for name in (name for name in table if name.endswith((" ours", " paper"))):
            if value := table[name][k]:
                shown = f"{float(value):.2f}" if name.endswith("ours") else value
                assert any(shown in line for line in lines[k :: len(table)])
                assert any(shown in row for row in rows[k :: len(table)])


def test_table_by_datasets(script, recorded, tmp_path):
    """Table 10, with its plot: a row for each method and shots, a column for each dataset and their average."""
    plot = tmp_path / "grid.png"
    make(script, recorded, tmp_path, "--table", 10, "--train-shot", 2, "--plot", plot, "--title", "2 shots")
    table = read(tmp_path, 10)
    assert [name.removesuffix(" ours") for name in table if name.endswith(" ours")] == [*ELEVEN, "average"]
    for k, row in enumerate(ROWS[10]):
        shots = 0 if row is not PAPER_ONLY and row[1] == "zeroshot" else 2
        assert table["shots"][k] == str(shots)
        for dataset in [*ELEVEN, "average"]:
            assert (table[f"{dataset} paper"][k], table[f"{dataset} paper std"][k]) == printed(10, k, dataset, shots)
        if row is PAPER_ONLY:
            continue
        found = [over_seeds(recorded, dataset, 2, row)[0] for dataset in ELEVEN]
        for dataset, mean in zip([*ELEVEN, "average"], [*found, statistics.fmean(found)], strict=True):
            assert is_near(table[f"{dataset} ours"][k], mean)
    check_text(tmp_path, 10, table)
    picture = matplotlib.image.imread(plot)
    assert min(picture.shape[:2]) > 900
    panels = numpy.split(picture[: picture.shape[0] // 4 * 4], 4)
    assert all((panel[..., :3].std(axis=(0, 1)) > 0.05).all() for panel in panels), "a part of the plot is blank"


def test_table_of_shifted_test_sets(script, recorded, tmp_path):
    make(script, recorded, tmp_path, "--table", 8)
    table = read(tmp_path, 8)
    assert [name.removesuffix(" ours") for name in table if name.endswith(" ours")] == TESTS
    for k, row in enumerate(ROWS[8]):
        shots = 0 if row is not PAPER_ONLY and row[1] == "zeroshot" else 16
        for test_set in TESTS:
            assert table[f"{test_set} paper"][k] == printed(8, k, test_set, shots)[0]
            if row is not PAPER_ONLY:
                mean, _ = over_seeds(recorded, "imagenet", 16, row, test_set)
                assert is_near(table[f"{test_set} ours"][k], mean)
    check_text(tmp_path, 8, table)


@pytest.mark.parametrize(("number", "task"), [(15, "image"), (16, "audio")])
def test_tables_of_imagenet_esc(number, task, script, recorded, tmp_path):
    """A complete file of 19 classes, 1 shot, and one draw short of it for 2 shots."""
    rng = numpy.random.default_rng(number)
    probes = ["linear_prob", "audiovisual_linear_prob", "plustext_linear_prob", "allmodal_linear_prob"]
    made = []
    for shots, draws in ((1, 25), (2, 24)):
        for method in probes:
            for pair in [(split, draw) for split in range(1, 6) for draw in range(1, 6)][:draws]:
                vals = rng.permutation(12) / 12
                made += [
                    EscRun(task, 19, *pair, shots, method, point, {}, val, rng.random() if val == vals.max() else None)
                    for point, val in zip(AUDIO, vals.tolist(), strict=True)
                ]
    add_runs(made, tmp_path / "esc")
    make(script, recorded, tmp_path, "--table", number)
    table, wanted = read(tmp_path, number), {}
    for k, method in enumerate(probes):
        wanted[method] = {(r.split, r.draw): r.test for r in made if (r.method, r.shots) == (method, 1) and r.test}
        values = [100 * value for value in wanted[method].values()]
        assert len(values) == 25
        assert is_near(table["19 classes, 1-shot ours"][k], statistics.fmean(values))
        assert is_near(table["19 classes, 1-shot std"][k], statistics.pstdev(values))
        assert table["19 classes, 1-shot paper"][k] == printed(number, k, f"imagenet_esc_19_{task}", 1)[0]
        assert (table["19 classes, 2-shot ours"][k], table["19 classes, 2-shot complete"][k]) == ("", "24/25")
        assert table["27 classes, 4-shot ours"][k] == ""
    won = sum(wanted[probes[1]][pair] > wanted[probes[0]][pair] for pair in wanted[probes[0]])
    markdown = (tmp_path / "out" / f"table_{number}.md").read_text()
    assert f"19 classes, 1-shot: audio-visual beats uni-modal probing in {won} of 25 runs." in markdown
    assert "python imagenet_esc.py --esc_result_dir" in markdown
    check_text(tmp_path, number, table)
    other = [replace(run, shots=4, inputs={"encoder": "new", "features": "bf16"}) for run in made if run.shots == 1]
    usual = [replace(run, inputs={"encoder": "new", "features": "usual"}) for run in made]
    add_runs([*usual, *other], tmp_path / "esc")
    mixed = make(script, recorded, tmp_path, "--table", number, check=1)
    one, two = (str(tmp_path / "esc" / f"{task}_19-shot_{shots}.jsonl") for shots in (1, 4))
    assert f"{one} and {two} have runs on different inputs (features)" in mixed.stderr


def test_incomplete_averages_are_blank_and_say_how_much_is_there(script, recorded, tmp_path):
    """One dataset lacks a seed, another was trained and never tested; only these gaps have commands."""
    root = shutil.copytree(recorded, tmp_path / "experiments")
    folder = ROWS[13][0][0]
    shutil.rmtree(root / "dtd-shot_2-seed_2" / folder)
    (path,) = (root / "sun397-shot_2-seed_1" / folder).glob("*/record.json")
    write_record(read_record(path).untested(), root)
    done = make(script, root, tmp_path, "--table", 13, "--train-shot", 2)
    table = read(tmp_path, 13)
    names = ["2-shot ours", "2-shot difference", "2-shot complete", "2-shot paper", "runs"]
    assert table.loc[0, names].tolist() == ["", "", "9/11", "66.67", ""]
    assert (table["2-shot ours"][1:] != "").all()
    assert "| 9 of 11 |" in done.stdout
    assert "n of m: n of the m datasets that a number" in done.stdout
    commands = re.findall(r"^python .*$", (tmp_path / "out" / "table_13.md").read_text(), re.MULTILINE)
    shots = "--train-shot 2 --seed"
    ours = f"--clip-encoder RN50 --image-augmentation none --image-views 0 --result_dir {root}"
    features = "--clip-encoder RN50 --image-augmentation none --image-views 0"
    assert commands == [
        f"python features.py --dataset dtd {shots} 2 {features}",
        f"python features.py --dataset sun397 {shots} 1 {features}",
        f"python train.py --dataset dtd {shots} 2 {ours}",
        f"python train.py --dataset sun397 {shots} 1 {ours}",
    ]


def test_runs_that_were_not_tested_on_the_variants_are_missing(script, recorded, tmp_path):
    root = tmp_path / "experiments"
    folder = ROWS[8][1][0]
    for seed in SEEDS:
        write_cell(root, cell_of("imagenet", 16, seed, *folder.split("/")), shifts=TESTS[1:4])
    done = make(script, root, tmp_path, "--table", 8, "--clip-encoder", "RN50")
    table = read(tmp_path, 8)
    assert table.loc[1, [f"{name} complete" for name in TESTS]].tolist() == ["2/2"] * 4 + ["0/2"]
    assert table["imagenet_r ours"][1] == ""
    variants = "--dataset imagenet imagenetv2 imagenet_sketch imagenet_a imagenet_r --train-shot 16 --seed 1 2"
    assert f"python features.py {variants}" in done.stdout
    assert "python domain_shift.py --modality uni_modal --classifier_init random --dataset imagenet --t" in done.stdout
    assert "python train.py" not in done.stdout


def test_digests_follow_the_runs_and_not_their_timings(script, recorded, tmp_path):
    root = shutil.copytree(recorded, tmp_path / "experiments")

    def digests(number, *words):
        make(script, root, tmp_path, "--table", number, *words)
        return read(tmp_path, number)["runs"].tolist()

    before, shifted = digests(13, "--train-shot", 2), digests(8)
    assert len(set(before)) == 4
    (path,) = (root / "dtd-shot_2-seed_2" / ROWS[13][1][0]).glob("*/record.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"seconds": 1e3, "versions": {"torch": "3"}}))
    assert digests(13, "--train-shot", 2) == before
    path.write_text(json.dumps(record | {"step": record["step"] + 100}))
    after = digests(13, "--train-shot", 2)
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True, True]
    for path in (root / "imagenet-shot_16-seed_1" / ROWS[8][1][0]).glob("*/record.json"):
        record = read_record(path)
        if record.shifted:
            more = record.accuracy("trained", "imagenet_a") / 2
            write_record(with_accuracies(record, "trained", imagenet_a=more), root)
    assert [old == new for old, new in zip(shifted, digests(8), strict=True)].count(False) == 1


def test_runs_on_other_weights_are_not_in_one_table(script, recorded, tmp_path):
    root = shutil.copytree(recorded, tmp_path / "experiments")
    (path,) = (root / "dtd-shot_2-seed_2" / ROWS[13][1][0]).glob("*/record.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": {"encoder": "of others"}}))
    assert "their encoder differs" in make(script, root, tmp_path, "--table", 13, "--train-shot", 2, check=1).stderr


def test_runs_on_other_lists_of_a_variant_are_not_in_one_table(script, recorded, tmp_path):
    """A variant was installed again between two seeds; tables without this variant are unaffected."""
    root = shutil.copytree(recorded, tmp_path / "experiments")
    for path in (root / "imagenet-shot_16-seed_2" / ROWS[8][1][0]).glob("*/record.json"):
        record = read_record(path)
        write_record(replace(record, shifted=dict.fromkeys(record.shifted, "another list")), root)
    said = make(script, root, tmp_path, "--table", 8, check=1).stderr
    assert "imagenetv2 16-shot seed 2 and imagenetv2 16-shot seed 1 cannot be in one table: their test differs" in said
    make(script, root, tmp_path, "--table", 1, "--datasets", "imagenet", "--train-shot", 16)


def test_two_datasets_are_averaged_without_the_papers_eleven(script, recorded, tmp_path):
    words = ["--datasets", "dtd", "eurosat", "--train-shot", 2]
    make(script, recorded, tmp_path, "--table", 1, 10, *words)
    one, ten = read(tmp_path, 1), read(tmp_path, 10)
    found = [over_seeds(recorded, dataset, 2, ROWS[1][1])[0] for dataset in ("dtd", "eurosat")]
    assert is_near(one["2-shot ours"][1], statistics.fmean(found))
    assert set(one["2-shot paper"]) == set(ten["average paper"]) == {""}
    assert not one["method"].str.contains("†").any(), "rows with nothing in them"
    assert ten["dtd paper"].tolist() == [printed(10, k, "dtd", 2 if k else 0)[0] for k in range(len(ten))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--table", "3"], "'3' is not one of 1, 2, 4, 5, 8, 10, 11, 12, 13, 14, 15, 16, all or methods"),
        (["--table", "8", "--datasets", "dtd"], "dtd has none; choose from imagenet, demo"),
        (["--table", "1", "--datasets", "imagenet_a"], "trained on --dataset imagenet"),
        (["--table", "11", "--plot", "x.png"], "--table 1, 2, 10 or 13"),
        (["--table", "1", "2", "--plot", "x.png"], "--plot draws one table"),
        (["--table", "14", "--clip-weights", "a.pt"], "Table 14 has 2 encoders"),
        ([], "the following arguments are required: --table"),
    ],
)
def test_wrong_arguments_say_what_is_right(words, said, script, tmp_path):
    done = script("tables.py", *words, cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_table_of_trained_runs_whose_gaps_the_listed_commands_fill(script, tmp_path):
    """Table 1 on a feature store: first empty, then compared with the records of the suggested commands."""
    world = store_of_random_features(tmp_path, classes=12)
    words = ["--table", 1, "--datasets", "demo", "--clip-encoder", "fake", "--train-shot", 1, 2, "--max-iter", 110]
    root, plot = tmp_path / "experiments", tmp_path / "plot.png"
    done = make(script, root, tmp_path, *words)
    commands = [line for line in done.stdout.splitlines() if line.startswith("python train.py")]
    assert set(read(tmp_path, 1)["1-shot ours"]) == {""}
    fillable = [command for command in commands if "partial" not in command and "augmentation none" not in command]
    assert len(commands) == 4
    assert len(fillable) == 2
    for command in fillable:  # the store has flipped views and final features alone
        script(*shlex.split(command)[1:], *world.flags[:4], check=0)
    done = make(script, root, tmp_path, *words, "--plot", plot)
    left = [line for line in done.stdout.splitlines() if line.startswith("python train.py")]
    assert left == [command for command in commands if command not in fillable]
    table = read(tmp_path, 1)
    assert table["method"].tolist() == [
        *("zero-shot", "linear probing", "WiSE-FT", "linear probing", "partial fine-tuning"),
    ]
    steps = f"{LINEAR}-iter_110"
    for k, method, shots, classifier in [
        *((0, CROSS, 0, "zeroshot"), (1, UNI, 1, "trained"), (1, UNI, 2, "trained")),
        *((3, CROSS, 1, "trained"), (3, CROSS, 2, "trained")),
    ]:
        row = runs(method, steps, classifier, images="flip_1", by="fake")
        means = []
        for seed in SEEDS:
            paths = (root / f"demo-shot_{shots or 1}-seed_{seed}" / row[0]).glob("*/record.json")
            found = [json.loads(path.read_text())["accuracies"] for path in paths]
            (own,) = (own for own in found if "test" in own["trained"])
            assert own["trained"]["val"] == max(other["trained"]["val"] for other in found)
            means.append(100 * own[classifier]["test"])
        assert is_near(table[f"{shots}-shot ours"][k], statistics.fmean(means))
    assert (table["2-shot ours"][[2, 4]] == "").all()
    assert set(table["2-shot paper"]) == {""}
    assert "Ours was trained for 110 steps, the paper's for 12800." in done.stdout
    assert matplotlib.image.imread(plot)[..., :3].std() > 0.05


def test_a_screen_that_is_narrow_gets_narrow_blocks(script, recorded, tmp_path, monkeypatch):
    def widest(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        done = make(script, recorded, tmp_path, "--table", 2, "--train-shot", 1, 2)
        return max(len(line) for line in done.stdout.splitlines() if line.startswith("|"))

    wide = widest(1000)
    assert widest(wide) == wide
    assert widest(wide - 1) < wide
