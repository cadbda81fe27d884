"""Prompts and names of each class in a JSON file, from features.py to a trained run."""

import json

import pytest
import torch
from torch.nn import functional as F

from engine import templates
from engine.clip.load import load_encoder
from engine.errors import UserError
from engine.features.prompts import read_texts
from engine.features.store import FeaturePaths
from engine.results import saved_classifiers
from engine.tasks.images import balance
from engine.templates.class_prompts import read_class_prompts
from forks import run_fork

WRITTEN = {
    "red star": ["a {} on a sheet.", "a  red star\nwith five points", "red star", "{}, a shape"],
    "blue {} ring": ["a ring that is blue"],
    "dot": ["a dot.", "a photo of a {}, a round {}."],
    "square": ["a square"],
}
FILLED = [
    ["a red star on a sheet.", "a red star with five points", "red star", "red star, a shape"],
    ["a ring that is blue"],
    ["a dot.", "a photo of a dot, a round dot."],
]
NAMED = {"names": {"red_star": ["{}", "asterisk"], "blue {} ring": ["hoop"], "dot": ["point", "dot", "spot"]}}
TRAIN = ["--dataset", "demo", "--train-shot", "4", "--seed", "1", "--clip-encoder", "demo-RN"]
TRAIN += ["--image-augmentation", "none", "--device", "cpu"]


def test_from_the_file_to_runs(install_images, tmp_path):
    """Weights are means of each class; every class is an equal share of the texts; a changed file is noticed."""
    world, path = install_images(), tmp_path / "written.json"
    features = [*TRAIN, *world.flags, "--num-workers", "0", "--templates", path]

    def run(script, *words, check=0):
        return run_fork(script, *words, folder=tmp_path, cwd=tmp_path, check=check)

    path.write_text(json.dumps(WRITTEN | {"Red_Star": WRITTEN["red star"]} | {"red star": []}))
    assert "'red star' does not have a list of one or more texts" in run("features.py", *features, check=1).stderr
    path.write_text(json.dumps({"Red Star!": ["a"]} | {name: WRITTEN[name] for name in ("dot", "blue {} ring")}))
    refused = run("features.py", *features, check=1).stderr
    assert f"{path} has no prompts of 1 of 3 classes: red_star (there is Red Star!)" in refused
    path.write_text(json.dumps(WRITTEN))
    said = run("features.py", *features, "--shard", "1/1").stdout
    assert f"note: {path}: ignored classes that the dataset does not have: square" in said
    texts = read_texts(FeaturePaths.of(tmp_path / "features", "demo-RN", "demo").texts(0, "written"))
    assert texts.prompts == [prompt for own in FILLED for prompt in own]
    assert texts.labels.tolist() == [0, 0, 0, 0, 1, 2, 2]
    encoder = load_encoder("demo-RN")
    with torch.no_grad():
        means = [encoder.model.encode_text(encoder.tokenizer(own)).mean(0) for own in FILLED]
    results = ["--result_dir", tmp_path / "runs"]
    folders = [*world.flags[2:], *results]  # all but the images
    train = [*TRAIN, *folders, "--templates", path]
    for method in ("linear", "gda", "tip_adapter"):
        steps = ["--max-iter", "3", "--save-heads"] if method == "linear" else []
        run("train.py", *train, "--method", method, *steps)
    (saved,) = (tmp_path / "runs").rglob(saved_classifiers.FILE)
    zeroshot = saved_classifiers.read(saved).tensors["zeroshot"]
    assert torch.allclose(zeroshot, F.normalize(torch.stack(means)), atol=1e-5)
    tabulate = ["--datasets", *TRAIN[1:-2], *results, "--max-iter", "3", "--eval_dir", tmp_path / "tables"]
    assert "linear_written_none_0" in run("eval.py", *tabulate, "--templates", path).stdout
    path.write_text(json.dumps(WRITTEN | {"dot": ["a dot"]}))
    assert "other prompts or class names" in run("features.py", *features, check=1).stderr
    assert f"extracted with templates that differ from {path}" in run("train.py", *train, check=1).stderr


def test_names_go_through_every_template(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(NAMED))
    hand_crafted = read_class_prompts(path, ["a photo of a {}."])
    assert hand_crafted.notes(["red_star", "blue {} ring", "dot"]) == []  # names that replace the class name are meant
    filled, labels = templates.prompts(hand_crafted, ["red_star", "blue {} ring", "dot"])
    names = ["red star", "asterisk", "hoop", "point", "dot", "spot"]
    assert filled == [f"a photo of a {name}." for name in names]
    assert labels == [0, 0, 1, 2, 2, 2]
    path.write_text(json.dumps(NAMED | {"templates": ["one {}", "two {}"]}))
    own = templates.prompts(read_class_prompts(path, ["a photo of a {}."]), ["dot"])
    assert own == (["one point", "two point", "one dot", "two dot", "one spot", "two spot"], [0] * 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('["a"]', "is not an object of lists"),
        ("{}", "is not an object of lists"),
        ('{"a": "a photo"}', "'a' does not have a list of one or more texts"),
        ('{"a": []}', "'a' does not have a list of one or more texts"),
        ('{"a": [" "]}', "'a' does not have a list of one or more texts"),
        ('{"a": {"b": ["c"]}}', "'a' does not have a list of one or more texts"),
        ('{"a": ["b"], "a": ["c"]}', "named more than once: a"),
        ('{"a_b": ["b"], "a b": ["c"]}', "classes that occur twice"),
        ('{"names": {"a": ["b"]}, "templates": ["{} {}"]}', "a template needs one {} for a name"),
        ('{"names": {"a": ["b"]}, "c": ["d"]}', "unknown entries beside names: c"),
        ('{"names": {"a": {"b": 1}}}', "'a' does not have a list of one or more texts"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_class_prompts(tmp_path / "mine.json", ["{}"])
    assert "mine.json" in str(caught.value)


def test_descriptions_without_the_class_are_noted(tmp_path):
    path = tmp_path / "described.json"
    path.write_text(json.dumps({"hen": ["two legs", "a red comb", "a hen"], "cat": ["whiskers"]}))
    (note,) = read_class_prompts(path, []).notes(["hen", "cat"])
    assert "3 of 4 prompts do not contain the name of their class, for example 'two legs'" in note


def test_every_class_is_an_equal_share_of_the_texts():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    rows = balance(labels)
    assert rows.tolist() == [0, 1, 2, 3, 3, 3, 4, 5, 4]
    assert balance(labels[rows]).tolist() == list(range(9))
