"""imagenet_esc.py: its tasks against the protocol in plain loops, its records, resuming, its tables, the demo."""

import itertools
import json
import multiprocessing
import re
import shutil
import statistics
import time

import pandas as pd
import pytest
import torch

from engine.config import parser
from engine.errors import UserError
from engine.esc import inputs
from engine.esc.benchmark import imagenet_esc
from engine.esc.data import ADDED
from engine.esc.sweep import all_cells
from engine.results import esc
from engine.results.esc import AUDIO, EscCell, EscRecords, EscRun
from engine.sweep import sweep
from forks import Fork, run_fork
from modalities import Plain, accuracy, install

ITER = 25
STEPS = ["--max-iter", str(ITER)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Features of everything, and the whole benchmark of `ITER` steps, run as a script."""
    world = install(tmp_path_factory.mktemp("esc"))
    world.run = run_fork("imagenet_esc.py", *world.flags, *STEPS, folder=world.root, check=0)
    world.runs = world.results / f"iter_{ITER}"
    return world


def load(world, *words):
    args = parser("", "imagenet_esc.py").parse_args([])
    args.indices_dir, args.feature_dir = str(world.root / "indices"), str(world.root / "features")
    return inputs.load(args, imagenet_esc(), "cpu")


@pytest.fixture(scope="module")
def data(world):
    return load(world)


def lines(folder):
    """All records, as they stand in the files."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def same(samples, expected):
    """Whether samples are the expected ones, in any order."""
    (features,), labels = samples.pick(torch.arange(len(samples)))
    found = sorted(zip(labels.tolist(), (features * 1e4).round().int().tolist(), strict=True))
    return found == sorted((label, (feature * 1e4).round().int().tolist()) for feature, label in expected)


# --- what is trained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [19, 27])
@pytest.mark.parametrize("task", ["image", "audio"])
@pytest.mark.parametrize("method", ADDED)
def test_tasks_are_the_protocols(world, data, task, classes, method):
    split, draw, shots = 2, 4, {19: 4, 27: 2}[classes]
    plain = Plain(world.root, classes)
    train, val, test, other = plain.parts(task, split, draw, shots)
    added = {"other": other, "text": plain.texts()}
    cell = EscCell(task, classes, split, draw if "other" in ADDED[method] else None, shots, method)
    made = data.task(cell)
    assert same(made.own, train)
    assert len(train) == len(val) == shots * classes
    assert same(made.val, val)
    expected = [sample for kind in ADDED[method] for sample in added[kind]]
    if expected:
        _, others = made.samples.values()
        assert same(others, expected)
        torch.testing.assert_close(made.initial, torch.stack(plain.means(expected)))
    else:
        assert len(made.samples) == 1
        bound = 1 / data.bank.shape[1] ** 0.5  # torch's default for a linear layer
        assert bound * 0.95 < made.initial.abs().max() <= bound
    assert made.scale == pytest.approx(100, abs=1e-3)
    assert data.sizes(cell) == list(map(len, made.samples.values()))
    (of_test,) = data.tests(cell)
    ((features,), labels), *others = of_test.batches()
    assert not others
    assert sorted(labels.tolist()) == sorted(label for _, label in test)
    assert torch.allclose(features.sum(0), torch.stack([f for f, _ in test]).sum(0), atol=1e-3)


@pytest.mark.parametrize("task", ["image", "audio"])
def test_zero_shot_classifiers_by_loops(world, task):
    plain, (split, draw, shots) = Plain(world.root, 19), (3, 5, 2)
    train, _, test, other = plain.parts(task, split, draw, shots)
    kinds = {("text", 0): plain.texts(), ("audio" if task == "image" else "image", 0): other, (task, shots): train}
    for (kind, of_shots), samples in kinds.items():
        runs = esc.read_runs(task, 19, of_shots, world.runs)
        assert runs[f"zero_shot_{kind}", split, draw, ()].test == pytest.approx(accuracy(plain.means(samples), test))


def test_every_run_is_recorded_and_one_of_each_grid_tested(world):
    counts = {}
    for line in lines(world.runs):
        key = line["task"], line["classes"], line["shots"], line["split"], line["draw"], line["method"]
        counts.setdefault(key, []).append(line["test"] is not None)
        assert line["max_iter"] == ITER
    probes = {key: tested for key, tested in counts.items() if key[-1] in esc.PROBES}
    assert len(probes) == 2 * 2 * 3 * 25 * 4
    assert {(len(tested), sum(tested)) for tested in probes.values()} == {(12, 1)}
    assert len(counts) - len(probes) == 2 * 2 * 25 * (2 + 3)
    assert "imagenet_esc: 14400 runs, of which 8640 differ" in world.run.out


def test_runs_are_those_of_the_sequential_executor(world, data, tmp_path):
    """Trained again one after another; a probe that the other modality has no part in has one result for all draws."""
    asked = [("image", 27, 1, None, 2, esc.PLUS_TEXT), ("audio", 19, 5, 2, 1, esc.AUDIO_VISUAL)]
    cells = [EscCell(*place, max_iter=ITER) for place in asked]

    def train():
        options, records = sweep.Options(tmp_path, "sequential", False, "cpu"), EscRecords(tmp_path)
        grids = [sweep.CellSweep(cell, data, records, options) for cell in cells]
        assert [grid.cell for grid in sweep.run(grids, options, lambda steps: None)] == cells

    training = multiprocessing.get_context("fork").Process(target=train)  # after autograd here, no fork could train
    training.start()
    training.join()
    assert training.exitcode == 0
    for cell in cells:
        place = cell.task, cell.classes, cell.shots
        again, before = (esc.read_runs(*place, folder) for folder in (tmp_path, world.runs))
        assert len(again) == 12 * len(cell.draws)
        for key, run in again.items():
            assert run.inputs == before[key].inputs
            assert run.val == pytest.approx(before[key].val, abs=1.5 / (cell.shots * cell.classes))
        tests = [list(esc.score(runs, cell.probe).accuracies.items())[: len(cell.draws)] for runs in (again, before)]
        for (pair, one), (_, other) in zip(*tests, strict=False):
            assert cell.draw is not None or pair[0] == cell.split
            assert abs(one - other) < 0.03 or cell.draw is not None


# --- resuming, and what does not fit --------------------------------------------------------------------------------


def test_shards_and_a_killed_one_leave_the_same_records_and_tables(world, tmp_path):
    """Of the complete benchmark each shard lost a file; one of them has a grid without its last run left."""
    folder = tmp_path / f"iter_{ITER}"
    shutil.copytree(world.runs, folder)
    places = ("image", 19, 1), ("image", 27, 2), ("audio", 27, 4)
    first, lost, cut = (esc.runs_path(*place, folder) for place in places)
    first.unlink()
    lost.unlink()
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:11]))
    flags = [*world.flags, *STEPS, "--esc_result_dir", tmp_path, "--avg_dir", tmp_path]
    killed, *others = (Fork("imagenet_esc.py", [*flags, "--shard", f"{i}/3"], tmp_path) for i in (2, 1, 3))
    while not (lost.exists() and esc.UNI_MODAL in lost.read_text()):  # zero-shot classifiers come first
        assert not killed.ended(), killed.err
        time.sleep(0.01)
    killed.kill()
    for other in others:
        assert "no tables yet" in other.wait(check=0).out
    before = len(lines(folder))
    again = run_fork("imagenet_esc.py", *flags, "--shard", "2/3", folder=tmp_path, check=0)
    assert again.out.startswith("shard 2/3: 5 of 16 files of runs\n")
    assert 0 < int(re.search(r"(\d+) to train", again.out)[1]) < 60 * 12
    drop = ("seconds", "versions")
    made, whole = (
        [{key: value for key, value in line.items() if key not in drop} for line in lines(place)]
        for place in (folder, world.runs)
    )
    assert before < len(whole)
    assert made == whole
    for table in world.tables.glob("table_*"):
        assert (tmp_path / table.name).read_bytes() == table.read_bytes()
    done = run_fork("imagenet_esc.py", *flags, folder=tmp_path, check=0)
    assert "; 0 to train" in done.out
    assert not done.err


def test_runs_on_other_features_are_refused(world, tmp_path):
    path = esc.runs_path("audio", 19, 2, world.runs)
    lists, steps = ('"sounds":"list"', '"sounds":"other"'), (f'"max_iter":{ITER}', '"max_iter":7')
    found = {
        lists: "on other features, another split or another grid (sounds: ",
        steps: "of 7 steps, not 25; remove it",
    }
    for number, (change, said) in enumerate(found.items()):
        folder = tmp_path / str(number) / f"iter_{ITER}"
        folder.mkdir(parents=True)
        (folder / path.name).write_text(path.read_text().replace(*change))
        flags = [*world.flags, *STEPS, "--esc_result_dir", folder.parent]
        run = run_fork("imagenet_esc.py", *flags, folder=tmp_path, check=1)
        assert f"{folder / path.name} has runs {said}" in run.err
        assert "another --esc_result_dir" in run.err


def test_features_that_were_made_otherwise_are_told_apart(world, data, tmp_path):
    """All runs on them belong together, those without images too, and none of them with a run on the usual ones."""
    other = load(install(tmp_path, precision="bf16"))
    assert other.notes == ["features of images: precision bf16", "features of names: precision bf16"]
    assert not data.notes

    def runs(data):
        for cell in all_cells(data, ITER):
            place = cell.task, cell.classes, cell.split, cell.draws[0], cell.shots
            yield EscRun(*place, cell.probe, next(iter(AUDIO)), data.inputs(cell), 1.0, 1.0)

    esc.check_inputs(runs(other), tmp_path)
    for usual, unusual in zip(runs(data), runs(other), strict=True):
        if usual.inputs.keys() & {"encoder"}:
            with pytest.raises(UserError, match=r"different inputs \(.*(features|prompts)"):
                esc.check_inputs([usual, unusual], tmp_path)
        else:
            assert usual.inputs == unusual.inputs


def test_all_that_is_missing_is_listed_with_its_commands(tmp_path, world):
    run = run_fork("imagenet_esc.py", folder=tmp_path, cwd=tmp_path, check=1)
    splits = "python few_shot_split.py --dataset imagenet --train-shot 1 2 4 --seed 1 2 3 4 5"
    assert splits in run.err
    assert "python features.py --dataset imagenet --train-shot 1 2 4 --seed 1 2 3 4 5" in run.err
    assert "cd audioclip && python audio_features.py\n" in run.err
    assert "Traceback" not in run.err
    flags = ["--indices_dir", world.root / "indices", "--feature_dir", tmp_path / "none"]
    run = run_fork("imagenet_esc.py", *flags, folder=tmp_path, cwd=tmp_path, check=1)
    (features,) = [line.strip() for line in run.err.splitlines() if "python features.py" in line]
    assert features.startswith(
        "python features.py --dataset imagenet --train-shot 1 2 4 --seed 1 2 3 4 5 --clip-encoder RN50"
        " --text-augmentation classname --image-augmentation none"
    )
    assert f"audio_features.py --feature_dir {tmp_path / 'none'}" in run.err


def test_a_fold_with_too_few_clips_is_named(world, tmp_path):
    shutil.copytree(world.root / "features", tmp_path / "features")
    path = tmp_path / "features" / "AudioCLIP" / "ESC-50"
    from dataclasses import replace

    from engine.features import audio

    fold = audio.read_fold(path, 3)
    keep = [k for k, name in enumerate(fold.categories) if name != "dog"]
    kept = replace(
        fold,
        **{name: getattr(fold, name)[keep].clone() for name in ("features", "labels", "positions")},
        categories=[fold.categories[k] for k in keep],
        paths=[fold.paths[k] for k in keep],
    )
    audio.write_fold(path, 3, kept)
    flags = [*world.flags, "--feature_dir", tmp_path / "features", "--esc_result_dir", tmp_path / "r"]
    run = run_fork("imagenet_esc.py", *flags, folder=tmp_path, check=1)
    assert "fold 3 of ESC-50 has fewer than 8 clips of dog" in run.err


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "task"), [(4, "image"), (5, "audio"), (15, "image"), (16, "audio")])
def test_cells_of_tables_are_those_of_the_records(world, number, task):
    table = pd.read_csv(world.tables / f"table_{number}.csv")
    records = [line for line in lines(world.runs) if line["task"] == task]
    names = dict(zip(esc.PROBES, table["method"], strict=False))
    for (method, name), classes, shots in itertools.product(names.items(), (19, 27), (1, 2, 4)):
        if number < 15 and method not in (esc.UNI_MODAL, esc.AUDIO_VISUAL):
            continue
        chosen = []
        for split, draw in itertools.product(range(1, 6), range(1, 6)):
            wanted = {"classes": classes, "shots": shots, "method": method, "split": split, "draw": draw}
            grid = [line for line in records if wanted.items() <= line.items()]
            grid.sort(key=lambda line: list(AUDIO).index(line["hyperparameters"]))
            best = max(grid, key=lambda line: line["val"])
            chosen.append(100 * best["test"])
        (row,) = table[table["method"] == name].to_dict("records")
        assert row[f"{classes} classes, {shots}-shot ours"] == pytest.approx(statistics.fmean(chosen), abs=1e-3)
        assert row[f"{classes} classes, {shots}-shot std"] == pytest.approx(statistics.pstdev(chosen), abs=1e-3)
        assert row[f"{classes} classes, {shots}-shot paper"] > 0
    assert ("0-shot" in (world.tables / f"table_{number}.md").read_text()) == (number >= 15)
    assert "audio-visual beats uni-modal probing in" in (world.tables / f"table_{number}.md").read_text()


# --- the demo -------------------------------------------------------------------------------------------------------


def test_the_demo_runs_from_nothing(tmp_path):
    """With fewer pictures a class than it has, in as many classes."""

    def prepare():
        from engine.demo import install

        install.SPLITS = {"train": 6, "val": 5, "test": 5}

    places = ["data", "indices", "feature", "esc_result", "avg"]
    flags = [word for name in places for word in (f"--{name}_dir", tmp_path / name)]
    refused = run_fork("imagenet_esc.py", "--demo", "--shard", "2/3", *flags, folder=tmp_path, check=1)
    assert re.search(
        r"shard 1 creates them before it trains:\n  python imagenet_esc.py --demo .* --shard 1/3", refused.err
    )
    run = Fork("imagenet_esc.py", ["--demo", "--max-iter", "5", *flags], tmp_path, prepare).wait(check=0)
    for said in ("14400 runs", "Table 4", "Table 5", "Table 15", "Table 16", "with the protocol of ImageNet-ESC"):
        assert said in run.out
    table = pd.read_csv(tmp_path / "avg" / "demo_esc" / "table_16.csv")
    chance = 100 / max(esc.DEMO_CLASSES)
    assert (table.filter(like="1-shot ours").max() > 2 * chance).all()
    assert len(list((tmp_path / "data" / "demo_sounds" / "audio").iterdir())) == 24 * 5 * 8
    again = Fork("imagenet_esc.py", ["--demo", "--max-iter", "5", *flags], tmp_path, prepare).wait(check=0)
    assert "; 0 to train" in again.out
    assert not again.err
    flags = ["--max-iter", "5", "--esc_result_dir", tmp_path / "esc_result", "--avg_dir", tmp_path / "tables"]
    run_fork("tables.py", "--table", "16", "--datasets", "demo", *flags, folder=tmp_path, check=0)
    assert (tmp_path / "tables" / "table_16.csv").read_text() == (
        tmp_path / "avg" / "demo_esc" / "table_16.csv"
    ).read_text()
