"""A method is one new file and one line of the registry: the example of docs/extending.md, as it stands in the page."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").partition("## A method")[2]
FILE = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
LINE = re.search(r'```text\n(    "nearest_mean": .*\n)```', PAGE)[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the example's file and its line, and nothing else changed."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "engine", folder / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    (folder / "indices").mkdir()
    shutil.copy(ROOT / "indices" / "class_counts.json", folder / "indices")
    (folder / "engine" / "methods" / "nearest_mean.py").write_text(FILE, encoding="utf-8")
    registry = folder / "engine" / "methods" / "__init__.py"
    text = registry.read_text(encoding="utf-8")
    assert text.count("REGISTRY = {\n") == 1
    first, rest = text.split('    "linear": "linear",\n')
    registry.write_text(f'{first}    "linear": "linear",\n{LINE}{rest}', encoding="utf-8")
    return folder


def test_every_script_knows_a_new_method(project, install_images):
    """train.py, domain_shift.py, eval.py, eval_domain_shift.py, average.py, predict.py and ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    root = install_images().root

    def run(script, *words):
        command = [sys.executable, str(project / script), *map(str, words)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    inputs = ["--clip-encoder", "demo-RN", "--image-augmentation", "flip"]
    asked = ["--dataset", "demo", "--train-shot", 2, "--seed", 1, *inputs]
    method = ["--method", "nearest_mean"]
    run("features.py", *asked, "--dataset", "demo", "demo_v2")
    assert "1 cell, 1 run, 1 to train" in run("train.py", *method, "--modality", "uni_modal", *asked)
    shifted = ["--shifted", "demo_v2"]
    assert "1 cell, 1 run, 1 to train" in run("domain_shift.py", *method, *asked, *shifted, "--save-heads")
    assert "demo_v2" in run("eval_domain_shift.py", *method, *asked, *shifted)
    assert "nearest_mean" in run("eval.py", *method, *asked)
    (table,) = (root / "results").glob("all_*nearest_mean*.csv")
    assert "nearest_mean" in run("average.py", "--name", table.stem)

    (classifier,) = (root / "experiments").rglob("classifier.safetensors")
    photos = sorted((root / "data" / "demo" / "images" / "test").glob("*.png"))
    found = pd.read_csv(io.StringIO(run("predict.py", "--run", classifier.parent, "--top-k", 3, *photos)))
    record = json.loads(classifier.with_name("record.json").read_bytes())
    best = found.groupby("image", sort=False).first()["class"]
    truth = ["red star", "blue {} ring", "dot"]
    correct = [name == truth[int(path.stem.split("_")[0])] for path, name in zip(photos, best, strict=True)]
    assert sum(correct) / len(correct) == pytest.approx(record["accuracies"]["trained"]["test"])

    run("predict.py", "--run", classifier.parent, "--export", "classifier.onnx")
    session = onnxruntime.InferenceSession(root / "classifier.onnx")
    (probabilities,) = session.run(None, {"images": np.zeros((2, 3, 64, 64), np.uint8)})
    assert probabilities.shape == (2, 3)
