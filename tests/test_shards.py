"""`--shard I/N`: three processes at once leave the bytes that one leaves, also when one is killed and run again."""

import argparse
import itertools
import random
import re
import runpy
import sys
import time
from functools import partial

import pytest

from engine import config
from engine.config import types
from engine.features import extract
from engine.methods import METHODS
from engine.shards import Shard, divide
from engine.sweep.costs import cost
from forks import ROOT, Fork, run_fork, written
from stores import store_of_random_features

SECONDS = re.compile(rb'"seconds": ?[0-9.e-]+')
PARTS = ["1/3", "2/3", "3/3"]


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "1/", "a/b", "-1/2", "1/2/3", "1 / 2", "1/9999999"])
def test_invalid_parts(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not I/N with I from 1 to N, such as 2/3"):
        types.shard(text)


def test_parts_are_disjoint_complete_and_as_equal_as_their_order_allows():
    rng = random.Random(1)
    for units, count in itertools.product(range(7), range(1, 6)):
        costs = [rng.randint(0, 5) for _ in range(units)]
        parts = [Shard(index, count).part(range(units), costs) for index in range(1, count + 1)]
        assert [unit for part in parts for unit in part] == list(range(units))
        assert [bool(part) for part in parts] == [index < units for index in range(count)]
        cuts = itertools.combinations_with_replacement(range(units + 1), count - 1)
        ways = ([sum(costs[a:b]) for a, b in itertools.pairwise((0, *cut, units))] for cut in cuts)
        assert max(sum(costs[unit] for unit in part) for part in parts) == min(map(max, ways))
    assert len(divide([1, 2], 10**5)) == 10**5


@pytest.mark.parametrize("method", METHODS)
def test_costs_follow_from_arguments_and_published_counts(method, tmp_path):
    """No split, feature or record exists; larger problems cost more."""
    words = ["--method", method, "--dataset", "eurosat", "imagenet", "--train-shot", "1", "16", "--seed", "1"]
    cells = config.cells(config.parser("", "train.py").parse_args(words))
    few, many, few_large, many_large = (cost(cell, tmp_path) for cell in cells)
    assert 0 < few <= many < many_large
    assert few < few_large <= many_large


def files_in(folder):
    """The contents of all files by relative path; without the time that runs took."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): SECONDS.sub(b"", path.read_bytes()) for path in paths}


def run_parts(script, words, folder, killed=None, prepare=lambda: None):
    """Run three shards at once; if `killed`, kill the second as soon as `killed()` and run it again."""
    start = partial(Fork, script, folder=folder, prepare=prepare)
    shards = [start([*words, "--shard", part]) for part in PARTS]
    if killed:
        while not killed():
            assert not shards[1].ended(), shards[1].err
            time.sleep(0.001)
        shards[1].kill()
        shards[1] = start([*words, "--shard", PARTS[1]])
    return [shard.wait(check=0) for shard in shards]


def test_cells_are_divided(tmp_path):
    """With more parts than cells, some have nothing to do. Suggested commands do the whole work."""
    store = store_of_random_features(tmp_path, classes=20)
    words = ["--dataset", "demo", "--clip-encoder", "fake", "--train-shot", "1", "2", "--seed", "1", "2", *store.flags]
    words += ["--max-iter", "220"]
    run_fork("train.py", *words, folder=tmp_path, check=0)
    one = tmp_path / "one"
    (tmp_path / "experiments").rename(one)
    records = tmp_path / "experiments"
    shards = run_parts("train.py", words, tmp_path, killed=lambda: len(written(records, "record.json")) > 3)
    assert [shard.out.splitlines()[0] for shard in shards] == [
        f"shard {part}: {n} of 4 cells" for part, n in zip(PARTS, (1, 1, 2), strict=True)
    ]
    assert files_in(records) == files_in(one)
    idle = run_fork("train.py", *words, "--shard", "5/5", folder=tmp_path, check=0)
    assert (idle.out, idle.err) == ("shard 5/5: 0 of 4 cells\n", "")
    lacking = run_fork("train.py", *words, "--feature_dir", "none", "--shard", "1/3", folder=tmp_path, check=1)
    assert "python features.py" in lacking.err
    assert "--shard" not in lacking.err


def run_scripts(script, commands):
    """Run a script with several lists of words, one after another in this process."""
    for words in commands:
        sys.argv = [script, *map(str, words)]
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert not end.value.code


def shrink():
    extract.SHARD_IMAGES = 8


def test_all_methods_on_features_of_three_processes(install_images, random_weights, short_grids, monkeypatch):
    """Features by three processes, of which one is killed, and on these all methods, with a shifted test set."""
    monkeypatch.setattr("engine.methods.linear_adapter.STEPS", 20)
    world = install_images()
    one, features, splits = world.root / "one", world.root / "features", ["--train-shot", "1", "2", "4", "--seed", "1"]
    words = [*splits, "--clip-encoder", "demo-RN", "--clip-weights", random_weights(0), *world.flags[2:4]]
    layers = ["--image-layer-idx", *dict.fromkeys(str(method.image_layer) for method in METHODS.values())]
    extraction = ["--dataset", "demo", "demo_v2", *words, *layers, "--test-batch-size", "4", *world.flags[:2]]
    extraction += ["--text-augmentation", "classname", "template_mining"]
    Fork("features.py", [*extraction, "--feature_dir", one], world.root, shrink).wait(check=0)
    extraction += ["--feature_dir", features]
    run_parts("features.py", extraction, world.root, lambda: len(written(features)) > 6, shrink)
    assert files_in(features) == files_in(one)

    words += ["--dataset", "demo", "--shifted", "demo_v2", "--text-augmentation", "template_mining"]
    words += ["--feature_dir", one]
    results = world.root / "whole", world.root / "parts"
    trainings = [
        [*words, "--method", name, *["--max-iter", "3" if method.image_layer else "101"] * method.fit.takes_max_iter]
        for name, method in METHODS.items()
    ]
    alone, *shards = (
        [[*training, "--result_dir", folder, *part] for training in trainings]
        for folder, part in [(results[0], []), *((results[1], ["--shard", part]) for part in PARTS)]
    )
    processes = [
        Fork("domain_shift.py", last, world.root, partial(run_scripts, "domain_shift.py", before))
        for *before, last in (alone, *shards)
    ]
    for process in processes:
        process.wait(check=0)
    assert files_in(results[0]) == files_in(results[1])
    assert len(list(results[0].rglob("record.json"))) >= 3 * len(METHODS)
