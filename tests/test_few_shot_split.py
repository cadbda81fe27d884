"""few_shot_split.py as a user types it."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(tmp_path):
    """Run the script in an empty folder; returns the finished process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "few_shot_split.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_a_new_seed_of_a_published_dataset(script, tmp_path):
    arguments = ["--dataset", "imagenet", "--train-shot", "1", "--seed", "6"]
    done = script(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "indices/imagenet/shot_1-seed_6.json: written, 1000 train, 1000 val\n"
    path = tmp_path / "indices" / "imagenet" / "shot_1-seed_6.json"
    before = path.read_bytes()
    assert script(*arguments).stdout == "indices/imagenet/shot_1-seed_6.json: exists, 1000 train, 1000 val\n"
    assert path.read_bytes() == before


def test_several_values_are_all_combinations(script, tmp_path):
    done = script("--dataset", "dtd", "eurosat", "--train-shot", "1", "2", "--seed", "1", "3", "--indices_dir", "here")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 8
    with (ROOT / "indices" / "sha256.csv").open() as file:
        digests = {(row["dataset"], row["shot"], row["seed"]): row["sha256"] for row in csv.DictReader(file)}
    for dataset in ("dtd", "eurosat"):
        for shots in "12":
            for seed in "13":
                content = (tmp_path / "here" / dataset / f"shot_{shots}-seed_{seed}.json").read_bytes()
                assert hashlib.sha256(content).hexdigest() == digests[dataset, shots, seed]


def test_another_dataset_is_read(script, tmp_path):
    rows = [[f"{number}.jpg", number % 2, f"class {number % 2}"] for number in range(40)]
    (tmp_path / "data" / "demo").mkdir(parents=True)
    split = {"train": rows[:20], "val": rows[20:30], "test": rows[30:]}
    (tmp_path / "data" / "demo" / "split_demo.json").write_text(json.dumps(split))
    done = script("--dataset", "demo", "--train-shot", "8", "--seed", "1", "--max-val-shot", "3")
    assert done.stdout == "indices/demo/shot_8-seed_1-val_3.json: written, 16 train, 6 val\n"


def test_mistakes_are_said_in_a_line(script, tmp_path):
    missing = script("--dataset", "demo", "--train-shot", "1", "--seed", "1")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: demo: its folder data/demo does not exist.")
    test_only = script("--dataset", "imagenet_a", "--train-shot", "1", "--seed", "1")
    assert (test_only.returncode, test_only.stderr.count("\n")) == (1, 1)
    unknown = script("--dataset", "cifar")
    assert unknown.returncode == 2
    assert "caltech101" in unknown.stderr
    other = tmp_path / "indices" / "dtd" / "shot_1-seed_1.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"train":[0],"val":[0]}')
    refused = script("--dataset", "dtd", "--train-shot", "1", "--seed", "1")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: indices/dtd/shot_1-seed_1.json differs from the few-shot split")
    assert other.read_text() == '{"train":[0],"val":[0]}'
