"""The commands that users of the paper's repository know, as they stand, on a tiny installation of the datasets.

Words are only appended, to say where things lie and to keep it small; sweeps get settings for the same. The last two
scripts have tests of their own, test_audio_script.py and test_imagenet_esc.py.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from engine import config
from engine.results.runs import read_record
from forks import run_fork
from sweeps import Sweep

ROOT = Path(__file__).parents[1]
COMMANDS = """
pip install -r requirements.txt
python few_shot_split.py --dataset imagenet --train-shot 1 --seed 6
python features.py --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 --text-augmentation hand_crafted --image-augmentation none --image-views 0
bash features.sh
python train.py --modality cross_modal --classifier_head linear --classifier_init zeroshot --logit 4.60517 --hyperparams linear --dataset imagenet --train-shot 16 --seed 1 --clip-encoder RN50 --image-layer-idx 0 --text-augmentation hand_crafted --image-augmentation flip --image-views 1
bash linear_probe.sh
bash partial_finetuning.sh
bash adapter.sh
python eval.py --mode linear --modality cross_modal --classifier_init zeroshot --clip-encoder RN50 --text-augmentation hand_crafted --image-augmentation flip --image-views 1
python average.py --name all_RN50_linear_hand_crafted_flip_1_cross_modal_text_wiseft_False
python domain_shift.py --modality cross_modal --classifier_head linear --classifier_init zeroshot --logit 4.60517 --hyperparams linear --dataset imagenet --train-shot 16 --clip-encoder RN50 --image-layer-idx 0 --text-augmentation hand_crafted --image-augmentation none --seed 1
python eval_domain_shift.py --mode linear --modality cross_modal --classifier_init zeroshot --clip-encoder RN50 --text-augmentation hand_crafted --image-augmentation none
python eval_domain_shift.py --mode linear --modality cross_modal --classifier_init zeroshot --clip-encoder RN50 --text-augmentation hand_crafted --image-augmentation none --wise_ft True
cd audioclip/
python audio_features.py
cd ..
python imagenet_esc.py
""".strip().splitlines()  # noqa: E501
ENCODER = ["--clip-encoder", "demo-RN"]
STEPS = ["--max-iter", "101"]
MODES = {"bash linear_probe.sh": "linear", "bash partial_finetuning.sh": "partial", "bash adapter.sh": "adapter"}
FIXED = "classifier_head image_layer_idx text_layer_idx hyperparams logit text_augmentation image_augmentation".split()


def command(script, number=0):
    """The words after the script's name of its first command, or of a later one."""
    lines = [words for words in map(shlex.split, COMMANDS) if words[1] == script]
    return lines[number][2:]


def test_they_are_the_agreed_ones_and_in_the_pages():
    """Where the page that fixes them lies beside the project."""
    pages = [ROOT / "README.md", ROOT / "DATASETS.md", *(ROOT / "docs").glob("*.md")]
    lines = (line for page in pages for line in page.read_text(encoding="utf-8").splitlines())
    shown = {re.sub(r"\s+#.*", "", line) for line in lines}  # without comments
    assert set(COMMANDS) - {"pip install -r requirements.txt"} <= shown
    page = ROOT.parent / "shared" / "COMMANDS.md"
    if not page.is_file():
        pytest.skip(f"the page is not at {page}")
    (block,) = re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert lines == COMMANDS


def test_pip_install():
    """What is installed already is all that the file asks for; nothing is fetched."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(COMMANDS[0]), "--dry-run", "--no-index", "--disable-pip-version-check"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def test_a_new_split(tmp_path):
    words = command("few_shot_split.py")
    done = run_fork("few_shot_split.py", *words, folder=tmp_path, cwd=tmp_path, check=0)
    assert done.stdout == "indices/imagenet/shot_1-seed_6.json: written, 1000 train, 1000 val\n"


@pytest.fixture(scope="module")
def world(installed, tmp_path_factory):
    """The installation after features.sh for ImageNet, with results of its own."""
    root = tmp_path_factory.mktemp("commands")
    installed.results = {key: [f"--{key}_dir", str(root / key)] for key in ("result", "eval", "avg")}
    installed.said = root
    words, settings = [*installed.data, *installed.indices, *installed.feature], {"SHOTS": "1 16", "IMAGE_LAYERS": "0"}
    Sweep("features.sh", *words, folder=root / "features", DATASETS="imagenet", **settings).wait(check=0)
    return installed


def run(world, script, *words, number=0, check=0):
    """A command in a fork, with `words` appended."""
    return run_fork(script, *command(script, number), *words, folder=world.said, check=check)


def records(world):
    return [read_record(path) for path in Path(world.results["result"][1]).rglob("record.json")]


def test_features(world):
    done = run(world, "features.py", *ENCODER, *world.data, *world.indices, *world.feature)
    assert "demo-RN imagenet: 70 prompts; 70 images" in done.stdout


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("bash") and "features" not in line])
def test_sweeps_ask_for_what_the_scripts_take(tmp_path, line):
    """And for the method that eval.py tabulates; tests/test_sweeps.py does what they ask for."""
    sweep = Sweep(line.split()[1], folder=tmp_path, runs="true", DATASETS="dtd", SHOTS="1").wait(check=0)
    mode = config.parser("", "eval.py").parse_args(["--mode", MODES[line]])
    config.apply_mode(mode)
    for call in sweep.calls:
        args = config.parser("", "train.py").parse_args(call.words[1:])
        assert all(vars(args)[name] == vars(mode)[name] for name in FIXED)


def test_training_and_its_tables(world):
    inputs = [*world.indices, *world.feature, *world.results["result"]]
    done = run(world, "train.py", *ENCODER, *STEPS, *inputs)
    assert "demo-RN imagenet: 1 cell, 12 runs, 12 to train" in done.stdout
    small = ["--datasets", "imagenet", "--train-shot", "16", "--seed", "1", *ENCODER, *STEPS]
    run(world, "eval.py", *small, *world.results["result"], *world.results["eval"])
    (name,) = [path.stem for path in Path(world.results["eval"][1]).glob("all_*.csv")]
    said = command("average.py")
    assert name == said[1].replace("RN50", "demo-RN") + "_iter_101"
    averages = [*world.results["eval"], *world.results["avg"]]
    run_fork("average.py", said[0], name, *averages, folder=world.said, check=0)
    (run_selected,) = [r for r in records(world) if r.tested and r.cell.image_augmentation == "flip"]
    summary = pd.read_csv(Path(world.results["avg"][1]) / name / "summary.csv")
    assert summary["mean"].tolist() == [pytest.approx(100 * run_selected.accuracy("trained"), abs=1e-4)]


def test_domain_shift(world):
    """Literally one after another: of three seeds one is there, which the tables are of, and say."""
    inputs = [*world.indices, *world.feature, *world.results["result"]]
    missing = run(world, "domain_shift.py", *ENCODER, *STEPS, *inputs, check=1).stderr
    (make,) = [shlex.split(line) for line in missing.splitlines() if line.startswith("  python features.py")]
    run_fork(*make[1:], *world.data, folder=world.said, check=0)
    run(world, "domain_shift.py", *ENCODER, *STEPS, *inputs)
    (tested,) = [r for r in records(world) if r.shifted]
    for wise_ft in (False, True):
        places = [*world.results["result"], *world.results["eval"]]
        done = run(world, "eval_domain_shift.py", *ENCODER, *STEPS, *places, number=int(wise_ft))
        assert "imagenet 16-shot seed 2" in done.stdout
        assert "python domain_shift.py --dataset imagenet --train-shot 16 --seed 2 3" in done.stdout
        path = next(line for line in done.stdout.splitlines() if line.endswith(".csv"))
        name = f"domain_shift_imagenet_demo-RN_linear_hand_crafted_none_0_cross_modal_text_wiseft_{wise_ft}_iter_101"
        assert Path(path).stem == name
        table = pd.read_csv(path, index_col="dataset")
        assert table.index.tolist() == ["imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
        own = tested.wiseft if wise_ft else tested.trained
        assert table["mean"]["imagenet"] == pytest.approx(100 * own.test, abs=1e-4)
        for name in table.index[1:]:
            shifted = tested.shifted[name]
            assert table["mean"][name] == pytest.approx(
                100 * (shifted.wiseft if wise_ft else shifted.trained), abs=1e-4
            )


def test_nothing_was_written_in_the_project():
    assert not os.path.exists(ROOT / "indices/imagenet/shot_1-seed_6.json")
