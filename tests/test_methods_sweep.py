"""methods.sh with a Python that records commands, and the tables that it ends with."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from engine import config
from engine.methods import METHODS, REGISTRY
from engine.results.methods_scope import MODALITIES, MethodRow, MethodsScope, method_cell
from engine.training.schedule import MAX_ITER
from forks import run_fork

ROOT = Path(__file__).parents[1]
PYTHON = f"""#!/bin/bash
if [ "$1" = -c ]; then
    case $2 in *requirements.txt*) exit 0 ;; *) exec {shlex.quote(sys.executable)} "$@" ;; esac
fi
printf '%q ' "$@" >> "$CALLS"
echo >> "$CALLS"
[[ "$*" != $FAILS ]]
"""
"""Runs `-c` alone, and fails for command lines that match a pattern."""


class Swept:
    """What methods.sh ran: command lines as lists of words, and its exit status."""

    def __init__(self, folder, *words, fails="never", **settings):
        python, calls = folder / "python", folder / "calls"
        python.write_text(PYTHON)
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        calls.touch()
        environment = os.environ | {"PYTHON": str(python), "CALLS": str(calls), "FAILS": fails} | settings
        command = ["bash", str(ROOT / "methods.sh"), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        self.code, self.stderr = done.returncode, done.stderr
        self.calls = [shlex.split(line) for line in calls.read_text().splitlines()]

    def of(self, script):
        """Return the words of a script's command lines."""
        return [words[1:] for words in self.calls if words[0] == script]


@pytest.mark.parametrize("steps", [None, 100])
def test_each_method_is_trained_and_tabulated(tmp_path, steps):
    """The cells of all training commands are those of the table at the end."""
    settings = {"MAX_ITER": str(steps)} if steps else {}
    swept = Swept(tmp_path, "--device", "cpu", DATASETS="dtd eurosat", SHOTS="1 4", SEEDS="2", **settings)
    assert (swept.code, swept.stderr) == (0, "")
    trained = []
    for words in swept.of("train.py"):
        args = config.parser("", "train.py").parse_args(words)
        assert args.device == "cpu"
        trained += config.cells(args)
    (words,) = swept.of("tables.py")
    args = config.parser("", "tables.py").parse_args(words)
    scope = config.methods_scope(args)
    assert scope == MethodsScope(("dtd", "eurosat"), (1, 4), (2,), {"RN50": "RN50"}, steps or MAX_ITER)
    wanted = [
        method_cell(MethodRow("RN50", name, modality), dataset, shots, 2, scope)
        for name in REGISTRY
        for modality in MODALITIES
        for dataset in scope.datasets
        for shots in scope.shots
    ]
    assert len(trained) == len(wanted)
    assert set(trained) == set(wanted)
    assert (args.table, args.plot) == (["methods"], "average_results/methods_RN50.png")


def test_features_of_all_layers_come_first(tmp_path):
    """In one pass of the encoder; a demo's images and splits before that."""
    swept = Swept(tmp_path, DATASETS="demo", FEATURES_ARGS="--num-workers 0", TABLES_ARGS="--avg_dir out")
    scripts = [words[0] for words in swept.calls]
    assert scripts[:3] == ["-m", "few_shot_split.py", "features.py"]
    assert scripts[-1] == "tables.py"
    (words,) = swept.of("features.py")
    args = config.parser("", "features.py").parse_args(words)
    quick = [method for method in METHODS.values() if not (method.image_layer and method.fit.takes_max_iter)]
    assert set(args.image_layer_idx) == {method.image_layer for method in quick}
    assert len(swept.of("train.py")) == 2 * len(quick) < 2 * len(REGISTRY)
    assert (args.clip_encoder, args.num_workers) == (["demo-RN"], 0)
    assert swept.of("tables.py")[0][-2:] == ["--avg_dir", "out"]


def test_a_layer_that_cannot_be_split_off_costs_no_other_layer(tmp_path):
    layers = {method.image_layer for method in METHODS.values()}
    swept = Swept(tmp_path, DATASETS="dtd", fails="features.py*--image-layer-idx *1*")
    assert swept.code == 1
    asked = [config.parser("", "features.py").parse_args(words).image_layer_idx for words in swept.of("features.py")]
    assert [len(own) for own in asked] == [len(layers)] + [1] * len(layers)
    assert len(swept.of("train.py")) == 2 * len(REGISTRY)


def test_a_method_that_fails_stops_nothing(tmp_path):
    """Some methods alone; the table is made all the same, and the exit status tells."""
    first, second = list(REGISTRY)[:2]
    swept = Swept(tmp_path, DATASETS="dtd", METHODS=f"{first} {second}", fails=f"*--method {first}*")
    assert swept.code == 1
    assert "failed: dtd" in swept.stderr
    assert [words[words.index("--method") + 1] for words in swept.of("train.py")] == [first, first, second, second]
    assert len(swept.of("tables.py")) == 1


def test_tables_without_runs(tmp_path):
    """Gaps, published averages, and the commands that fill the gaps: as many on the screen as fit, all in the file."""
    done = run_fork("tables.py", "--table", "methods", folder=tmp_path, cwd=tmp_path, check=0)
    text = (tmp_path / "average_results" / "table_methods.md").read_text()
    assert text.count("python train.py") == 2 * len(REGISTRY)
    shown = done.stdout.count("\npython ")
    assert shown == min(text.count("\npython "), 12)
    assert ("more, listed in average_results/table_methods.md" in done.stdout) == (text.count("\npython ") > 12)
    assert text.count(", published [") == 8
    assert len(list((tmp_path / "average_results").iterdir())) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clip-encoder", "RN50", "ViT-B/16", "--plot", "a.png"], "one encoder"),
        (["--clip-encoder", "RN50", "ViT-B/16", "--clip-weights", "a.pt"], "one file"),
        (["--train-shot", "all"], "eval.py"),
        (["--datasets", "imagenet_a"], "only a test set"),
        (["--plot", "a.png"], "nothing to plot"),
    ],
)
def test_what_cannot_be_tabulated(tmp_path, words, message):
    done = run_fork("tables.py", "--table", "methods", *words, folder=tmp_path, cwd=tmp_path, check=1)
    assert message in done.stderr
