"""Tables of saved classifiers: WiSE-FT of any ratio, accuracies by class and predictions, against their weights."""

import csv
import json
import re
import shlex
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from engine.features.store import Bank, FeaturePaths
from engine.results import saved_classifiers
from forks import run_fork
from stores import install_pictures

NAMES = ["=cmd()|'a'!A1", "<b>bold</b>,\r\nname", "\u202etxt.exe", "plain_name", "e\u0301t\u00e9"]
IMAGE = '=1+1,"<i>.png'
RATIOS = ["false", "0.3", "true", "1.0"]
WHO = ["--clip-encoder", "demo-RN", "--image-augmentation", "none"]
CELLS = ["--train-shot", "4", "--seed", "1", "2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Noise of five classes with hostile names, tested on itself and on a shifted set, and the error without heads."""
    root, rng = tmp_path_factory.mktemp("selected"), np.random.default_rng(3)

    def picture(label):
        coarse = rng.integers(0, 256, (4, 4, 3)) // 2 + np.array([label % 2, label // 2, 0]) * 90
        return Image.fromarray(coarse.astype(np.uint8)).resize((64, 64))

    install_pictures(root, NAMES, picture, {"train": 6, "val": 4, "test": 9}, 4, (1, 2))
    data = root / "data"
    (data / "demo" / "images" / "test" / "2_0.png").rename(data / "demo" / "images" / IMAGE)
    split = data / "demo" / "split_demo.json"
    split.write_text(split.read_text().replace('"test/2_0.png"', json.dumps(IMAGE)))
    for label in (0, 1, 2, 3, 4, 4):
        folder = data / "demo_v2" / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        picture(label).save(folder / f"{len(list(folder.iterdir()))}.png")
    names = "".join(f"{label} {' '.join(name.split())}\n" for label, name in enumerate(NAMES))
    (data / "demo_v2" / "classnames.txt").write_text(names)

    def run(script, *words, check=0):
        return run_fork(script, *words, folder=root, cwd=root, check=check)

    run("features.py", "--dataset", "demo", "demo_v2", *CELLS, *WHO, "--num-workers", "0")
    shift = ["--shifted", "demo_v2", "--max-iter", "101"]
    run("domain_shift.py", "--dataset", "demo", *CELLS, *WHO, *shift)
    ask = ["--datasets", "demo", *CELLS, *WHO, "--max-iter", "101"]
    missing = run("eval.py", *ask, "--wise_ft", *RATIOS, check=1).stderr
    _, script, *words = shlex.split(missing.splitlines()[-1])
    run(script, *words)
    for path in (root / "experiments").rglob(saved_classifiers.FILE):
        saved = saved_classifiers.read(path)
        calibrations = saved.calibrations | {"trained": replace(saved.calibrations["trained"], temperature=2.5)}
        saved_classifiers.save(replace(saved, calibrations=calibrations), root / "experiments")
    return SimpleNamespace(root=root, run=run, ask=ask, shift=shift, missing=missing)


def classifiers(world):
    """Seed, scale, weights and zero-shot weights of each saved classifier, as numpy's."""
    for path in sorted((world.root / "experiments").rglob(saved_classifiers.FILE)):
        saved = saved_classifiers.read(path)
        weights = (saved.tensors[name].double().numpy() for name in ("head.weight", "zeroshot"))
        yield saved.run.cell.seed, np.exp(saved.run.cell.log_logit_scale), *weights


def probabilities(world, dataset, ratio):
    """Labels, and probabilities by seed, of the test images of a dataset."""
    features, labels = Bank(FeaturePaths.of(world.root / "features", "demo-RN", dataset).bank("test", 0, "none")).read()
    features = features.double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = {}
    for seed, scale, trained, zeroshot in classifiers(world):
        logits = scale / (1 if ratio else 2.5) * features @ ((1 - ratio) * trained + ratio * zeroshot).T
        found[seed] = np.exp(logits - logits.max(1, keepdims=True))
        found[seed] /= found[seed].sum(1, keepdims=True)
    return labels.numpy(), found


def accuracies(world, dataset, ratio):
    labels, found = probabilities(world, dataset, ratio)
    return np.array([100 * (of_seed.argmax(1) == labels).mean() for of_seed in found.values()])


def numbers(path):
    (row,) = pd.read_csv(path).to_dict("records")
    return row["mean"], row["std"]


def test_ratios_of_wise_ft(world):
    """A table each; those of records equal the records', and the others the weights."""
    assert "2 cells without a saved classifier under experiments" in world.missing
    assert world.missing.rstrip().endswith("--save-heads")
    said = world.run("eval.py", *world.ask, "--wise_ft", *RATIOS, "--plot", "ratios.png", "--title", "all").stdout
    assert (world.root / "ratios.png").read_bytes().startswith(b"\x89PNG")
    name = "results/all_demo-RN_linear_hand_crafted_none_0_cross_modal_text_wiseft_{}_iter_101.csv"
    measured = {}
    for spelled, ratio in (("False", 0.0), ("0.3", 0.3), ("True", 0.5), ("1.0", 1.0)):
        assert name.format(spelled) in said
        measured[ratio] = accuracies(world, "demo", ratio)
        found = numbers(world.root / name.format(spelled))
        assert found == pytest.approx((measured[ratio].mean(), measured[ratio].std()), abs=1e-3)
    assert len({of_ratio.mean() for of_ratio in measured.values()}) > 2
    (line,) = re.findall(r"^4 +([\d. ]+)$", said, re.MULTILINE)
    assert line.split() == [f"{of_ratio.mean():.2f}" for of_ratio in measured.values()]
    once = world.run("eval.py", *world.ask, "--wise_ft", "True").stdout
    assert "linear WiSE-FT, demo-RN" in once


def test_a_ratio_on_shifted_sets(world):
    shift = [*CELLS, *WHO, *world.shift, "--dataset", "demo"]
    path = world.run("eval_domain_shift.py", *shift, "--wise_ft", "0.3").stdout.splitlines()[-1]
    assert path.endswith("_wiseft_0.3_iter_101.csv")
    table = pd.read_csv(world.root / path, index_col="dataset")
    for dataset in ("demo", "demo_v2"):
        assert table["mean"][dataset] == pytest.approx(accuracies(world, dataset, 0.3).mean(), abs=1e-3)
    (world.root / "features" / "demo-RN" / "demo_v2").rename(world.root / "gone")
    refused = world.run("eval_domain_shift.py", *shift, "--wise_ft", "0.3", check=1).stderr
    assert "python features.py --dataset demo demo_v2" in refused
    world.run("eval_domain_shift.py", *shift, "--wise_ft", "true")
    (world.root / "gone").rename(world.root / "features" / "demo-RN" / "demo_v2")


def test_predict_with_a_ratio(world):
    record = next(path for path in (world.root / "experiments").glob("*seed_2/**/classifier.safetensors"))
    words = ["--wise_ft", "0.3", "--top-k", "5", "--format", "jsonl"]
    said = json.loads(world.run("predict.py", "--run", record, "data/demo/images/test/0_0.png", *words).stdout)
    found = {one["class"]: one["probability"] for one in said["predictions"]}
    expected = probabilities(world, "demo", 0.3)[1][2][0]
    spelled = [name.replace("_", " ") for name in NAMES]
    assert [found[name] for name in spelled] == pytest.approx(expected.tolist(), abs=1e-3)


def test_accuracies_by_class_and_predictions(world):
    """Against the weights; hostile names change no row, and start no formula."""
    ask = [*world.ask, "--wise_ft", "0", "0.3", "--per-class", "--top-k", "9"]
    said = world.run("eval.py", *ask, "--predictions", "out/images.csv").stdout.splitlines()
    assert said[-3] == "out/images.csv"
    assert "add --predictions" in world.run("eval.py", *ask, check=1).stderr
    world.run("eval.py", *ask[:-3], "--top-k", "2", "--predictions", "out/images.jsonl")
    spelled = [name.replace("_", " ") for name in NAMES]
    cells = [f"'{name}" if name.startswith("=") else name for name in spelled]
    with open(world.root / "out" / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (world.root / "out" / "images.jsonl").read_text().split("\n")[:-1]]
    assert len(rows) == len(lines) == 2 * 2 * 45
    paths = [f"test/{k}_{i}.png" for k in range(5) for i in range(9)]
    paths[18] = IMAGE
    for number, ratio in enumerate((0.0, 0.3)):
        labels, found = probabilities(world, "demo", ratio)
        with open(world.root / said[number - 2], newline="") as file:
            by_class = list(csv.DictReader(file))
        for seed, chances in found.items():
            key = ["demo-RN", str(ratio), "demo", "4", str(seed)]
            own = [row for row in rows if [*row.values()][:5] == key]
            told = [line for line in lines if (line["wise_ft"], line["seed"]) == (ratio, seed)]
            assert [line["image"] for line in told] == paths
            assert [row["image"] for row in own] == [f"'{path}" if path[0] == "=" else path for path in paths]
            assert [line["label"] for line in told] == [spelled[label] for label in labels]
            assert [row["label"] for row in own] == [cells[label] for label in labels]
            for row, line, of_image in zip(own, told, chances, strict=True):
                order = np.argsort(-of_image, kind="stable")
                assert [row["predicted"], *(row[f"class_{k}"] for k in (2, 3, 4, 5))] == [cells[k] for k in order]
                assert float(row["probability"]) == pytest.approx(of_image[order[0]], abs=1e-4)
                assert line["predicted"] == line["predictions"][0]["class"] == spelled[order[0]]
                assert [one["class"] for one in line["predictions"]] == [spelled[k] for k in order[:2]]
            predicted = chances.argmax(1)
            for label, row in enumerate(row for row in by_class if row["seed"] == str(seed)):
                of_class = predicted[labels == label]
                correct = int((of_class == label).sum())
                assert (row["class"], row["images"], row["correct"]) == (cells[label], "9", str(correct))
                assert float(row["accuracy"]) == pytest.approx(100 * correct / 9, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wise_ft", "1"], "'1' is ambiguous: write true (a ratio of 0.5) or 1.0"),
        (["--wise_ft", "1.5"], "'1.5' is neither true nor false, nor a ratio from 0 to 1"),
        (["--wise_ft", "nan"], "'nan' is neither true nor false"),
        (["--predictions", "a.txt"], "'a.txt' does not end in .csv or .jsonl"),
        (["--plot", "a.png"], "name several ratios"),
        (["--predictions", "a.csv", "--clip-encoder", "demo-RN", "demo-ViT"], "--predictions is one file"),
    ],
)
def test_refused(tmp_path, words, message):
    assert message in run_fork("eval.py", *words, folder=tmp_path, cwd=tmp_path).stderr
