"""What tests of several packages share."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

# Tests run many small kernels, beside whatever else the machine does: threads that wait for each other only slow them.
os.environ["OMP_NUM_THREADS"] = "1"
# What they compare bit by bit holds on a CPU; `--device auto` would take a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A shell starts background commands with Ctrl-C ignored, and their children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


def run_script(name, *words, cwd=ROOT, check=None):
    """Run a script of the project as a user does; gives the finished process, whose exit status must be `check`."""
    command = [sys.executable, str(ROOT / name), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def script():
    """`run_script`, for tests."""
    return run_script


@pytest.fixture
def short_grids(monkeypatch):
    """The grid of `records` for all methods that have these hyper-parameters, also for scripts in forks."""
    import dataclasses

    from engine.methods import METHODS
    from records import Short

    for name, method in METHODS.items():
        if method.grid.axes.keys() == Short().axes.keys():
            monkeypatch.setattr(f"engine.methods.{name}.METHOD", dataclasses.replace(method, grid=Short()))


@pytest.fixture
def install_images(tmp_path):
    """`install_images()`: the dataset `demo` as noise, 3 classes of 10 train, 4 val and 7 test images; its test-only
    variant `demo_v2`; splits of 1, 2, 4 and 8 shots, seeds 1 and 2. Returns `.benchmark`, `.root` and `.flags`."""
    import json

    import numpy as np
    from PIL import Image

    from engine import datasets
    from engine.datasets import few_shot

    names, counts = ["red_star", "blue {} ring", "dot"], {"train": 10, "val": 4, "test": 7}
    sizes = [(64, 64), (80, 64), (64, 90), (40, 50)]
    rng = np.random.default_rng(0)

    def draw(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = sizes[rng.integers(len(sizes))]
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)

    def install():
        root = tmp_path / "data" / "demo"
        split = {
            part: [[f"{part}/{k}_{i}.png", k, name] for k, name in enumerate(names) for i in range(count)]
            for part, count in counts.items()
        }
        for rows in split.values():
            for impath, _, _ in rows:
                draw(root / "images" / impath)
        (root / "split_demo.json").write_text(json.dumps(split))
        for number in (0, 0, 1, 2):
            folder = tmp_path / "data" / "demo_v2" / "images" / str(number)
            draw(folder / f"{len(list(folder.glob('*')))}.png")
        listing = "".join(f"{number} {name}\n" for number, name in enumerate(names))
        (tmp_path / "data" / "demo_v2" / "classnames.txt").write_text(listing)
        benchmark = datasets.load("demo", tmp_path / "data")
        for shots in (1, 2, 4, 8):
            for seed in (1, 2):
                drawn = few_shot.sample(benchmark.labels("train"), benchmark.labels("val"), shots, seed)
                few_shot.save(few_shot.FewShotSplit("demo", shots, seed, *drawn), tmp_path / "indices")
        directories = {"--data_dir": "data", "--indices_dir": "indices", "--feature_dir": "features"}
        return SimpleNamespace(
            root=tmp_path,
            benchmark=benchmark,
            flags=[word for flag, name in directories.items() for word in (flag, str(tmp_path / name))],
        )

    return install


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """`random_weights(seed)`: a file of random weights that fit demo-RN; all are called `tiny.safetensors`."""

    def save(seed):
        import open_clip
        import torch
        from safetensors.torch import save_file

        path = tmp_path_factory.mktemp(f"seed{seed}-") / "tiny.safetensors"
        open_clip.add_model_config(ROOT / "engine" / "demo" / "models" / "demo-RN.json")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save_file(open_clip.create_model("demo-RN", precision="fp32").state_dict(), path)
        return path

    return save


FIRST = ("sweeps", "features_script", "train_script", "predict_script", "commands", "own_images", "imagenet_esc")
LONG = ["tests/training/test_made_up.py", *(f"tests/test_{name}.py" for name in FIRST)]
"""Files that take long, and begin first: each is run by one process."""
LONG_WITH_AUTOGRAD = "tests/training/test_executors.py"


def pytest_collection_modifyitems(items):
    """Long files first, then those with scripts in forks: a process in which autograd has run cannot be forked.

    Of the rest what takes long comes first again, or one process would be at it when the others have ended.
    """

    def rank(item):
        file = item.nodeid.split("::")[0]
        forks = any(getattr(value, "__module__", None) == "forks" for value in vars(item.module).values())
        return LONG.index(file) if file in LONG else len(LONG), not forks, file != LONG_WITH_AUTOGRAD

    items.sort(key=rank)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """An `installation` of the eleven datasets, in a folder with a space."""
    import installation

    return installation.install(tmp_path_factory.mktemp("the eleven"))


@pytest.fixture(scope="session")
def extracted(installed):
    """The same through the commands of features.sh."""
    from sweeps import Sweep, run_calls

    words, settings = [*installed.data, *installed.indices, *installed.feature], {"SHOTS": "1 16", "IMAGE_LAYERS": "0"}
    folder = installed.root / "said"
    run_calls(Sweep("features.sh", *words, folder=folder, runs="true", **settings).wait(check=0).calls, folder)
    return installed
