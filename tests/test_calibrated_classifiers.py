"""Calibration from train.py --save-heads to predict.py, Python and ONNX, on pictures that are hard to tell apart."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from engine.classifier import load
from engine.errors import UserError
from engine.results import saved_classifiers
from forks import run_fork
from stores import install_pictures

CLASSES, SHOTS = 13, 4
INPUTS = f"--dataset demo --train-shot {SHOTS} --seed 1 --clip-encoder demo-RN --image-augmentation none".split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Thirteen classes of noise, 52 validation images: a folder with images, features and a trained classifier."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 256, (CLASSES, 4, 4, 3))

    def noise(label):
        coarse = np.clip(bases[label] + rng.integers(-90, 91, (4, 4, 3)), 0, 255).astype(np.uint8)
        return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)

    names = [f"pattern {k}" for k in range(CLASSES)]
    install_pictures(root, names, noise, {"train": SHOTS, "val": SHOTS, "test": 1}, SHOTS, seeds=[1])
    run_fork("features.py", *INPUTS, *places(root), "--data_dir", root / "data", folder=root, check=0)
    return root


def places(root):
    return ["--indices_dir", root / "indices", "--feature_dir", root / "features"]


def train(root, *words):
    """Train with --save-heads; return the line about calibration, and the file."""
    words = [*INPUTS, *places(root), "--result_dir", root / "experiments", "--save-heads", *words]
    said = run_fork("train.py", *words, folder=root, check=0).stdout
    line, path = (line.strip() for line in said.splitlines()[-2:])
    return line, Path(path)


@pytest.fixture(scope="module")
def trained(world):
    return train(world, "--max-iter", 101)


def losses(logits, labels, temperatures):
    """The mean negative log-likelihood at each temperature, by torch."""
    return [float(F.cross_entropy(logits.double() / temperature, labels)) for temperature in temperatures]


def test_the_temperature_is_the_likeliest_of_the_validation_images(world, trained):
    line, path = trained
    saved, temperatures = saved_classifiers.read(path), np.geomspace(0.05, 50, 1000)
    files, labels = validation(world)
    for name, wise_ft in (("trained", False), ("wiseft", True)):
        logits = load(path, wise_ft=wise_ft, raw=True).logits(files)
        found = saved.calibration(name)
        assert (found.images, found.reason) == (52, "")
        assert found.temperature == pytest.approx(temperatures[np.argmin(losses(logits, labels, temperatures))], 0.01)
        top = (logits / found.temperature).softmax(dim=1).amax(dim=1)
        assert torch.allclose(saved.confidences[name], top.sort().values, atol=1e-4)
    own, averaged = (f"temperature {saved.calibration(name).temperature:.3g}" for name in ("trained", "wiseft"))
    assert line == f"probabilities are calibrated on 52 validation images: {own}; WiSE-FT: {averaged}"


def test_probabilities_are_calibrated_and_predictions_stay(world, trained, tmp_path):
    """By predict.py and in Python; test_predict_script.py exports a temperature to ONNX."""
    files, _ = validation(world)
    classifier, raw = load(trained[1]), load(trained[1], raw=True)
    expected = (raw.logits(files) / classifier.temperature).softmax(dim=1)
    assert torch.equal(classifier(files), expected)
    assert torch.equal(raw(files), raw.logits(files).softmax(dim=1))
    assert not torch.allclose(raw(files), expected, atol=0.05)

    words = ["--run", trained[1], *files, "--top-k", 3]
    of_both = []
    for more, probabilities in (([], expected), (["--raw"], raw(files))):
        rows = list(csv.DictReader(io.StringIO(run_fork("predict.py", *words, *more, folder=tmp_path, check=0).stdout)))
        top = probabilities.topk(3).values.flatten().tolist()
        assert np.allclose([float(row["probability"]) for row in rows], top, atol=2e-5)
        of_both.append([(row["image"], row["class"]) for row in rows])
    assert of_both[0] == of_both[1]
    other = run_fork("predict.py", *words, "--wise_ft", 0.3, folder=tmp_path, check=0).stderr
    assert "note: the probabilities of --wise_ft 0.3 are not calibrated" in other


def test_a_share_of_the_validation_images_is_rejected(world, trained, tmp_path):
    """The output is otherwise the one without --reject."""
    files, _ = validation(world)
    plain, least = ["--run", trained[1], *files, "--top-k", 2, "--format"], load(trained[1])(files).amax(dim=1)
    expected = {files[k] for k in least.argsort()[:13]}
    before = run_fork("predict.py", *plain, "csv", folder=tmp_path, check=0).stdout.splitlines()
    done = run_fork("predict.py", *plain, "csv", "--reject", 0.25, folder=tmp_path, check=0)
    assert "as 13 of 52 validation images" in done.stderr
    assert [line.rpartition(",")[0] for line in done.stdout.splitlines()] == before
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["rejected"] for row in rows} == {"true", "false"}
    assert {row["image"] for row in rows if row["rejected"] == "true"} == expected
    done = run_fork("predict.py", *plain, "jsonl", "--reject", 0.25, folder=tmp_path, check=0)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["image"] for line in lines if line["rejected"]} == expected
    assert [one["class"] for line in lines for one in line["predictions"]] == [row["class"] for row in rows]
    for more in ([files[0], "--raw"], ["--export", "a.onnx"]):
        done = run_fork("predict.py", *plain[:2], "--reject", 0.1, *more, folder=tmp_path, check=1)
        assert "error: --reject needs images and calibrated probabilities: use neither" in done.stderr
    refused = run_fork("predict.py", *plain, "csv", "--reject", 1.5, folder=tmp_path, check=2).stderr
    assert "--reject: '1.5' is not a number from 0 to 1" in refused


def test_a_temperature_that_does_not_help_stays_1(world):
    """The run is neither too sure nor too unsure after 601 steps; the line and the file state the reason."""
    line, path = train(world, "--max-iter", 601)
    reason = "a temperature does not help in 5-fold cross-validation on 52 validation images"
    assert line.startswith(f"probabilities are not calibrated: {reason} (negative log-likelihood ")
    found = saved_classifiers.read(path).calibration("trained")
    assert found.reason.startswith(reason)
    assert found.temperature == load(path).temperature == 1


def test_few_images_and_files_of_earlier_versions_are_not_calibrated(world, trained, tmp_path):
    drawing = [*INPUTS[:6], "--max-val-shot", 3, "--data_dir", world / "data", *places(world)[:2]]
    run_fork("few_shot_split.py", *drawing, folder=tmp_path, check=0)
    line, _ = train(world, "--max-iter", 101, "--max-val-shot", 3)
    assert line == "probabilities are not calibrated: 39 validation images are fewer than 50"
    with safe_open(trained[1], framework="pt") as file:
        about = json.loads(file.metadata()["classifier"])
    tensors = {name: t for name, t in load_file(trained[1]).items() if not name.startswith("confidences.")}
    old = tmp_path / "classifier.safetensors"
    kept = {name: value for name, value in about.items() if name not in ("calibrations", "content")}
    save_file(tensors, old, {"classifier": json.dumps(kept | {"format": 4})})
    files, _ = validation(world)
    assert torch.equal(load(old)(files[:2]), load(trained[1], raw=True)(files[:2]))
    done = run_fork("predict.py", "--run", old, files[0], "--reject", 0.1, folder=tmp_path, check=1)
    assert f"error: {old}: --reject cannot be used: no probabilities of validation images are saved" in done.stderr
    about.pop("content")
    for name, value, said in (
        ("temperature", 0.0, "temperature is 0.0, not from 0.001 to 1000.0"),
        ("images", 51, "confidences.trained are not the probabilities of 51 validation images"),
    ):
        wrong = json.loads(json.dumps(about))
        wrong["calibrations"]["trained"][name] = value
        save_file(load_file(trained[1]), old, {"classifier": json.dumps(wrong)})
        with pytest.raises(UserError, match=re.escape(said)):
            load(old)


def validation(root):
    """The validation images of the split, and their classes."""
    split = json.loads((root / "indices" / "demo" / f"shot_{SHOTS}-seed_1.json").read_text())["val"]
    rows = json.loads((root / "data" / "demo" / "split_demo.json").read_text())["val"]
    files = [str(root / "data" / "demo" / "images" / rows[k][0]) for k in split]
    return files, torch.tensor([rows[k][1] for k in split])
