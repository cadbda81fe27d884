"""train.py --save-heads, engine.classifier and predict.py: what was trained, used on images as a user does."""

import csv
import errno
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import open_clip
import pandas as pd
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision import transforms

from engine import images
from engine.classifier import ImageClassifier, load
from engine.classifier.export import export
from engine.classifier.images import pixels
from engine.datasets import image_files
from engine.errors import UserError
from engine.features.prompts import read_texts, write_texts
from engine.features.store import DIGEST, digests
from engine.methods import linear, partial
from engine.results import saved_classifiers
from engine.results.runs import read_record, selected, write_record
from engine.results.saved_classifiers import MissingClassifier
from engine.scores import open_run
from engine.training.grid import Grid
from engine.transforms import normalise
from forks import Fork, limit_sharing, run_fork, unlistable
from hostile import save_hostile
from old_forms import make_classifier_old
from stores import install_pictures

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "engine" / "demo" / "models"
NAMES = [f"{colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "cross")]
SWEEP = "--dataset demo --train-shot 2 --seed 1 --image-augmentation none".split()
BRIEF = ["--max-iter", "101"]
METHODS = {
    "linear": [],
    "adapter": "--classifier_head adapter --hyperparams adapter".split(),
    "partial": "--image-layer-idx 1 --hyperparams partial --logit 4.0".split(),
}
KINDS = list(itertools.product(("demo-RN", "demo-ViT"), METHODS))
FINE_TUNING = replace(partial.METHOD, grid=Grid(lr=(0.001,), weight_decay=(0.0,), batch_size=(8,)))
"""A method for the trained layers of encoders whose grid is short, and moves them far enough to be seen."""


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """Six classes of noise; the classifiers of each method on each encoder, `.heads[encoder, method]`."""
    root = tmp_path_factory.mktemp("kept")
    rng = np.random.default_rng(0)
    bases = rng.integers(0, 256, (len(NAMES), 4, 4, 3))

    def noise(label):
        coarse = np.clip(bases[label] + rng.integers(-60, 61, (4, 4, 3)), 0, 255).astype(np.uint8)
        return Image.fromarray(coarse).resize((80, 70), Image.Resampling.BICUBIC)

    install_pictures(root, NAMES, noise, {"train": 4, "val": 2, "test": 5}, 2, seeds=[1])
    world = world_of(root)
    for encoder in ("demo-RN", "demo-ViT"):
        words = [*SWEEP, "--clip-encoder", encoder, *world.inputs, "--data_dir", root / "data"]
        run_fork("features.py", *words, "--image-layer-idx", 0, 1, folder=root, check=0)
    for encoder, method in KINDS:
        said = train(world, "--clip-encoder", encoder, *METHODS[method], "--save-heads").out
        world.heads[encoder, method] = Path(said.splitlines()[-1].strip())
    return world


def world_of(root):
    places = {"--indices_dir": "indices", "--feature_dir": "features"}
    inputs = [word for flag, name in places.items() for word in (flag, str(root / name))]
    return SimpleNamespace(root=root, inputs=inputs, results=root / "experiments", heads={})


def train(world, *words, check=0):
    places = [*world.inputs, "--result_dir", world.results]
    words = [*SWEEP, *BRIEF, *places, *words]
    return Fork("train.py", words, world.root, lambda: setattr(partial, "METHOD", FINE_TUNING)).wait(check)


@pytest.fixture
def head(kept, tmp_path):
    """A copy of a run's folder alone, which may be spoiled: its `classifier.safetensors`."""
    path = kept.heads["demo-RN", "linear"]
    return Path(shutil.copytree(path.parent, tmp_path / "run")) / path.name


def predict(kept, *words, check=0, **kwargs):
    return run_fork("predict.py", *words, folder=kept.root, check=check, **kwargs)


def rows(done):
    return list(csv.DictReader(io.StringIO(done.stdout)))


def pictures(kept):
    """Files of the test set, and their classes."""
    listed = json.loads((kept.root / "data" / "demo" / "split_demo.json").read_text())["test"]
    images = kept.root / "data" / "demo" / "images"
    return [images / path for path, _, _ in listed], torch.tensor([label for _, label, _ in listed])


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_predictions_are_those_that_training_counted(kept, kind):
    """On the images whose cached features were the test set: exactly the accuracies in the record."""
    run = read_record(kept.heads[kind].with_name("record.json"))
    files, labels = pictures(kept)
    for wise_ft, counted in ((False, run.accuracy("trained")), (True, run.accuracy("wiseft"))):
        classifier = load(kept.heads[kind], wise_ft=wise_ft)
        right = classifier(files).argmax(dim=1) == labels
        assert int(right.sum()) / len(right) == counted
    assert classifier.classnames == NAMES


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_probabilities_are_those_of_open_clip_in_float64(kept, kind):
    files, _ = pictures(kept)
    found = load(kept.heads[kind])(files[::5])
    assert torch.allclose(found.double(), by_hand(*kind, kept.heads[kind], files[::5]), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_stored_features_give_the_probabilities_of_the_images_and_the_recorded_accuracies(kept, kind):
    """WiSE-FT too, in one pass; with the paths of the images in the order of the lists, and of the few-shot split."""
    run = stored_run(kept, kept.heads[kind])
    for split in ("val", "test"):
        both = run.scores(split, run.classifiers([0.0, 0.5]))
        for name, scores in zip(("trained", "wiseft"), both, strict=True):
            right = scores.logits.argmax(dim=1) == scores.labels
            assert int(right.sum()) / len(right) == run.saved.run.accuracy(name, split)
    files, labels = pictures(kept)
    assert torch.equal(scores.labels, labels)
    assert [run.dataset.image_dir / path for path in run.images("test")] == files
    found = both[0].logits.softmax(dim=1)
    assert torch.allclose(found[::7], load(kept.heads[kind])(files[::7]), atol=1e-5)
    split = json.loads((kept.root / "indices/demo/shot_2-seed_1.json").read_text())
    listed = json.loads((kept.root / "data/demo/split_demo.json").read_text())["val"]
    assert run.images("val") == [listed[position][0] for position in split["val"]]


def stored_run(kept, path, **places):
    folders = {f"{name}_dir": kept.root / folder for name, folder in (("data", "data"), ("indices", "indices"))}
    folders |= {"feature_dir": kept.root / "features", "clip_weights": None}
    return open_run(Namespace(**folders | places), path, "cpu")


def test_stored_features_must_be_those_of_the_training(kept, head, tmp_path):
    """Another split, no features, no dataset: an error with the command that makes them, or positions for paths."""
    copied = shutil.copytree(kept.root / "indices", tmp_path / "indices")
    drawn = copied / "demo/shot_2-seed_1.json"
    split = json.loads(drawn.read_text())
    drawn.write_text(json.dumps(split | {"val": split["val"][::-1]}))
    with pytest.raises(UserError, match=r"(?s)another split.*\(split: .*train\.py .*--dataset demo .*--save-heads"):
        stored_run(kept, head, indices_dir=copied)
    with pytest.raises(UserError, match=r"(?s)no text features .*features\.py --dataset demo --train-shot 2"):
        stored_run(kept, head, feature_dir=tmp_path)
    (tmp_path / "none").mkdir()
    shutil.copy(head.with_name("record.json"), tmp_path / "none")
    with pytest.raises(UserError, match=r"(?s)no classifier.*train\.py .*--save-heads"):
        stored_run(kept, tmp_path / "none")
    assert stored_run(kept, head, data_dir=tmp_path).images("test")[:2] == ["test/0", "test/1"]


def by_hand(encoder, method, path, files):
    """What a classifier makes of images, from its tensors by open_clip's model and torchvision's transforms alone."""
    open_clip.add_model_config(MODELS / f"{encoder}.json")
    model = open_clip.create_model(encoder, pretrained=str(MODELS / f"{encoder}.safetensors"))
    tensors, visual = load_file(path), model.visual
    trained = {name.split("part.0.")[1]: t for name, t in tensors.items() if "part.0." in name}
    if method == "partial" and encoder == "demo-RN":
        visual.attnpool.load_state_dict(trained)
    elif method == "partial":
        block = {name[2:]: t for name, t in trained.items() if name.startswith("0.")}
        visual.transformer.resblocks[-1].load_state_dict(block)
        end = {name.removeprefix("1.tower."): t for name, t in trained.items() if name.startswith("1.")}
        assert visual.load_state_dict(end, strict=False).unexpected_keys == []
    size = 64
    prepare = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        ]
    )
    images = torch.stack([prepare(Image.open(file).convert("RGB")) for file in files]).double()
    with torch.no_grad():
        x = F.normalize(model.eval().double().encode_image(images))
    if method == "adapter":
        down, up = (tensors[f"embedding.phi.{name}"].double() for name in ("down", "up"))
        x = 0.2 * torch.relu(torch.relu(x @ down.T) @ up.T) + 0.8 * x
    scale = np.exp(4.0 if method == "partial" else 4.60517)
    return torch.softmax(scale * x @ tensors["head.weight"].double().T, dim=1)


def test_features_made_in_another_way_are_made_so_again(kept, tmp_path):
    """bfloat16, and torchvision's decoder: a classifier says so, and its predictions are the record's."""
    world = world_of(tmp_path)
    shutil.copytree(kept.root / "indices", tmp_path / "indices")
    ways = ["--clip-encoder", "demo-ViT", *world.inputs, "--precision", "bf16", "--decode", "fast"]
    run_fork("features.py", *SWEEP, *ways, "--data_dir", kept.root / "data", folder=tmp_path, check=0)
    said = train(world, "--clip-encoder", "demo-ViT", "--save-heads").out
    path = Path(said.splitlines()[-1].strip())
    classifier = load(path)
    assert (classifier.extraction.precision, classifier.extraction.decode) == ("bf16", "fast")
    files, labels = pictures(kept)
    right = classifier(files).argmax(dim=1) == labels
    assert int(right.sum()) / len(right) == read_record(path.with_name("record.json")).accuracy("trained")


def forget_preparation(features):
    """Leave the shards of a store as they were before any said how images had been prepared."""
    for path in features.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        source = json.loads(metadata["source"])
        del source["preprocessing"]
        tensors = load_file(path)
        _, source[DIGEST] = digests(metadata | {"source": json.dumps(source)}, tensors)
        save_file(tensors, path, metadata | {"source": json.dumps(source)})


def test_an_encoders_own_preparation_is_used_from_features_to_predictions(kept, tmp_path, monkeypatch):
    """Both sides squashed, bilinear, as a tag says; features of images that were prepared otherwise are refused."""
    open_clip.add_model_config(MODELS / "demo-RN.json")
    tag = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "demo-RN", {"squashed": tag})
    world, weights = world_of(tmp_path), MODELS / "demo-RN.safetensors"
    shutil.copytree(kept.root / "indices", tmp_path / "indices")
    encoder = ["--clip-encoder", "demo-RN:squashed", "--clip-weights", weights]
    words = ["features.py", *SWEEP, *encoder, *world.inputs, "--data_dir", kept.root / "data"]
    run_fork(*words, folder=tmp_path, check=0)

    path = Path(train(world, *encoder, "--save-heads").out.splitlines()[-1].strip())
    classifier = load(path, weights=str(weights))
    files, labels = pictures(kept)
    transform = image_transform_v2(PreprocessCfg(64, **tag), is_train=False)
    for file in files[:3]:
        assert torch.equal(
            normalise(pixels(file, classifier.extraction), classifier.extraction), transform(Image.open(file))
        )
    right = classifier(files).argmax(dim=1) == labels
    record = read_record(path.with_name("record.json"))
    assert int(right.sum()) / len(right) == record.accuracy("trained")
    assert record.inputs["features"] == f"preprocessing {classifier.extraction.description}"
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["classifier"])["extraction"]["resize_mode"] == "squash"

    forget_preparation(world.root / "features")
    refused = run_fork(*words, folder=tmp_path, check=1).stderr
    assert "was made differently:\n  preprocessing: shortest bicubic, mean 0.48145466" in refused
    assert "here\nremove that folder to extract it again" in refused
    world.results = tmp_path / "other experiments"
    assert "was extracted with another preprocessing" in train(world, *encoder, "--save-heads", check=1).err


def test_features_and_classifiers_of_before_are_used_as_they_were(kept, head, tmp_path):
    """From when they did not say how images had been prepared: all were as OpenAI's encoders want them."""
    shutil.copytree(kept.root / "features", tmp_path / "features")
    forget_preparation(tmp_path / "features")
    words = [*SWEEP, "--clip-encoder", "demo-RN", *kept.inputs, "--feature_dir", tmp_path / "features"]
    done = run_fork("features.py", *words, "--data_dir", kept.root / "data", folder=tmp_path, check=0)
    assert ", 0 of them to encode" in done.stdout
    before = load(head)
    extraction = asdict(before.extraction)
    del extraction["resize_mode"], extraction["fill_color"]
    respoil(head, lambda tensors: None, format=1, extraction=extraction)
    assert load(head).extraction == before.extraction


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_classifiers_of_format_2_are_used_and_kept(kept, tmp_path, kind):
    """Adapters' tensors had other names, and the run was said in another form."""
    results = Path(shutil.copytree(kept.results, tmp_path / "experiments"))
    path = results / kept.heads[kind].relative_to(kept.results)
    make_classifier_old(path)
    names, old = load_file(path), path.read_bytes()
    assert any(name.startswith("embedding.adapter.") for name in names) == (kind[1] == "adapter")
    files, _ = pictures(kept)
    for wise_ft in (False, True):
        expected = load(kept.heads[kind], wise_ft=wise_ft)(files[:4])
        assert torch.equal(load(path, wise_ft=wise_ft)(files[:4]), expected)
    world = SimpleNamespace(root=tmp_path, inputs=kept.inputs, results=results)
    words = ["--clip-encoder", kind[0], *METHODS[kind[1]], "--save-heads"]
    assert ", 0 to train" in train(world, *words).out
    assert path.read_bytes() == old
    names.popitem()
    save_file(names, path, {"classifier": safe_metadata(path)})
    with pytest.raises(UserError, match="its digest differs from its content"):
        load(path)


def safe_metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()["classifier"]


def test_a_run_without_its_classifier_is_trained_again_alone(kept, tmp_path):
    """Whether it was removed, is another run's, or nobody asked for it before; the run stays the same."""
    path = kept.heads["demo-ViT", "partial"]
    words = ["--clip-encoder", "demo-ViT", *METHODS["partial"]]
    world = SimpleNamespace(root=tmp_path, inputs=kept.inputs, results=tmp_path / "experiments")
    path = Path(shutil.copytree(kept.results, world.results)) / path.relative_to(kept.results)
    record, tensors = read_record(path.with_name("record.json")), load_file(path)
    path.unlink()
    assert "1 run, 0 to train" in train(world, *words).out
    assert not path.exists()
    for spoil in (lambda: None, lambda: path.write_bytes(path.read_bytes()[:1000])):
        spoil()
        assert "1 run, 1 to train" in train(world, *words, "--save-heads").out
        again = load_file(path)
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[name], tensors[name]) for name in tensors)
        assert read_record(path.with_name("record.json")) == record


def test_one_classifier_is_kept_of_a_cell(kept, tmp_path):
    """Also where all runs are tested, and they come one after another."""
    world = SimpleNamespace(root=tmp_path, inputs=kept.inputs, results=tmp_path / "experiments")
    words = ["--clip-encoder", "demo-RN", "--test", "all", "--executor", "sequential", "--save-heads"]
    assert "606/606" in train(world, *words).err.splitlines()[-1]  # no run was trained twice
    (path,) = world.results.rglob("classifier.safetensors")
    own = kept.heads["demo-RN", "linear"]
    assert path.relative_to(world.results) == own.relative_to(kept.results)
    again, tensors = load_file(path), load_file(own)
    assert all(torch.allclose(again[name], tensors[name], atol=1e-5) for name in tensors)
    assert "6 runs, 0 to train" in train(world, *words).out


@pytest.mark.parametrize("words", [[], ["--test", "all"]], ids=["selected", "all"])
def test_whatever_records_say_a_sweep_ends(kept, tmp_path, words):
    """As after records of another machine: each run that is trained again replaces its record."""
    world = SimpleNamespace(root=tmp_path, inputs=kept.inputs, results=tmp_path / "experiments")
    own = kept.heads["demo-RN", "linear"].relative_to(kept.results)
    path = Path(shutil.copytree(kept.results, world.results)) / own
    records = {place: read_record(place) for place in path.parents[1].glob("*/record.json")}
    best, *others = sorted(records, key=lambda place: (not records[place].tested, str(place)))
    assert len(others) == 5
    for place, val in ((best, 0.0), (others[0], 1.0), (others[1], 0.95)):
        found = {name: own | {"test": 0.25} for name, own in records[place].accuracies.items()}
        found["trained"]["val"] = val
        write_record(replace(records[place], accuracies=found), world.results)
    train(world, "--clip-encoder", "demo-RN", *words, "--save-heads")
    found = {place: read_record(place) for place in records}
    (head,) = path.parents[1].glob("*/classifier.safetensors")
    assert load(head).classnames == NAMES
    assert all(found[place].val == records[place].val for place in others[:2])
    chosen = selected({record.hyperparameters: record for record in found.values()})
    assert head.with_name("record.json") == next(place for place in found if found[place] == chosen)
    assert "6 runs, 0 to train" in train(world, "--clip-encoder", "demo-RN", *words, "--save-heads").out


def test_class_names_come_from_the_store(kept, tmp_path):
    """Those of a store from before it had any are added, which encodes nothing."""
    features = ["--feature_dir", Path(shutil.copytree(kept.root / "features", tmp_path / "features"))]
    (path,) = features[1].glob("demo-RN/demo/text-layer_0/*")
    write_texts(path, replace(read_texts(path), classnames=None))
    places = [*features, "--result_dir", tmp_path / "experiments"]
    refused = train(kept, "--clip-encoder", "demo-RN", *METHODS["linear"], *places, "--save-heads", check=1).err
    assert "has no class names: an earlier version wrote it. features.py adds them" in refused
    assert "\n  python features.py --dataset demo --train-shot 2" in refused
    train(kept, "--clip-encoder", "demo-RN", *METHODS["linear"], *places)
    words = [*SWEEP, "--clip-encoder", "demo-RN", *kept.inputs, "--data_dir", kept.root / "data", *features]
    assert "0 of them to encode" in run_fork("features.py", *words, folder=kept.root, check=0).stdout
    said = train(kept, "--clip-encoder", "demo-RN", *METHODS["linear"], *places, "--save-heads").out
    assert load(Path(said.splitlines()[-1].strip())).classnames == NAMES


def test_a_file_says_all_that_it_takes_to_use_it(kept):
    """To whoever reads it without this project."""
    with safe_open(kept.heads["demo-RN", "partial"], framework="np") as file:
        about = json.loads(file.metadata()["classifier"])
    assert about["format"] == 5
    assert about["extraction"]["encoder"] == "demo-RN"
    assert about["extraction"]["size"] == 64
    assert (about["extraction"]["interpolation"], about["extraction"]["resize_mode"]) == ("bicubic", "shortest")
    assert about["classnames"] == NAMES
    assert about["wiseft_ratio"] == 0.5
    assert about["run"]["cell"]["log_logit_scale"] == 4.0
    assert about["run"]["cell"]["image_layer"] == 1
    assert len(about["run"]["inputs"]["encoder"]) == 64


# --- Python and ONNX -------------------------------------------------------------------------------------------------


def test_the_three_lines_of_the_readme(kept, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "predict.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "engine.classifier" in block)
    assert len(list(filter(None, block.splitlines()))) == 3
    (place,) = re.findall(r'load\("(.*?)"\)', block)
    files, _ = pictures(kept)
    monkeypatch.chdir(files[0].parent)
    found = {}
    named = block.replace(place, str(kept.heads["demo-RN", "linear"].parent))
    for photo, file in zip(re.findall(r'"(\w+\.jpg)"', block), files, strict=False):
        named = named.replace(photo, file.name)
    exec(named, found)
    assert isinstance(found["classifier"], ImageClassifier)
    assert torch.allclose(found["probabilities"].sum(dim=1), torch.ones(2))


def test_images_come_as_files_pil_images_or_pixels(kept):
    classifier = load(kept.heads["demo-ViT", "adapter"])
    files, _ = pictures(kept)
    expected = classifier(files[:3])
    images = [Image.open(file) for file in files[:3]]
    assert torch.equal(classifier(images), expected)
    cropped = torch.stack([pixels(image, classifier.extraction) for image in images])
    assert cropped.shape == (3, 3, 64, 64)
    assert torch.equal(classifier(cropped), expected)
    assert torch.equal(torch.nn.Sequential(classifier)(cropped), expected)
    with pytest.raises(ValueError, match=r"uint8 \[n, 3, 64, 64\], not torch.float32"):
        classifier(cropped.float())
    with pytest.raises(ValueError, match=r"not torch.uint8 \[3, 3, 32, 64\]"):
        classifier(cropped[:, :, ::2])


def test_wise_ft_is_refused_where_weights_cannot_be_averaged(head, monkeypatch):
    """Although their shapes would agree."""
    assert load(head, wise_ft=True)
    monkeypatch.setattr(linear, "METHOD", replace(linear.METHOD, wise_ft=False))
    with pytest.raises(UserError, match=r"linear has weights that cannot be averaged .*: --wise_ft false"):
        load(head, wise_ft=True)
    assert load(head)


@pytest.mark.parametrize(
    ("kind", "wise_ft"),
    [(("demo-ViT", "adapter"), False), (("demo-RN", "partial"), False), (("demo-RN", "linear"), True)],
)
def test_onnx_gives_the_same_probabilities(kept, kind, wise_ft, tmp_path, monkeypatch):
    """Also of a classifier that is too large for one file."""
    large = kind == ("demo-RN", "partial")
    if large:
        monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    classifier = load(kept.heads[kind], wise_ft=wise_ft)
    classifier.temperature = 1.0 if wise_ft else 2.5
    files, _ = pictures(kept)
    images = torch.stack([pixels(file, classifier.extraction) for file in files])
    path = tmp_path / "head.onnx"
    if wise_ft:
        done = predict(kept, "--run", kept.heads[kind], "--wise_ft", "true", "--export", path)
        assert done.stdout == f"{path}\n"
        assert not done.stderr
    else:
        export(classifier, path)
    assert sorted(os.listdir(tmp_path)) == ["head.onnx", "head.onnx.data"][: 1 + large]
    session = onnxruntime.InferenceSession(path)
    expected = classifier(images)
    for count in (1, 2, 7, 30):
        (found,) = session.run(["probabilities"], {"images": images[:count].numpy()})
        assert np.allclose(found, expected[:count].numpy(), atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classnames"]) == NAMES
    assert json.loads(about["temperature"]) == classifier.temperature
    assert about["preprocessing"] == json.dumps(asdict(classifier.extraction))


def test_onnx_without_its_packages_says_what_to_install(kept, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    classifier = load(kept.heads["demo-RN", "linear"])
    with pytest.raises(UserError, match="pip install onnx onnxscript"):
        export(classifier, tmp_path / "head.onnx")


# --- predict.py ------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(kept, tmp_path):
    """A folder with a picture twice below it, one of them under a name that is no ASCII, and what is no picture."""
    files, _ = pictures(kept)
    folder = tmp_path / "my photos"
    (folder / "bäume").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("a.png", "bäume/木, 1.PNG", ".hidden/b.png", ".c.png"):
        shutil.copy(files[0], folder / name)
    (folder / "notes.txt").write_text("nothing")
    with Image.open(files[1]) as image:
        image.convert("RGB").save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-300])
    return folder


def test_a_folder_a_list_and_stdin(kept, photos):
    """In their order, as often as they are named; what cannot be read is said on stderr, and in the exit status."""
    run = ["--run", kept.heads["demo-RN", "linear"].parent / "record.json"]
    done = predict(kept, *run, photos, "README.md", photos / "a.png", "no.jpg", "--top-k", 2, check=1)
    found = rows(done)
    a, tree = str(photos / "a.png"), str(photos / "bäume" / "木, 1.PNG")
    assert [row["image"] for row in found] == [a, a, tree, tree, a, a]
    probabilities = [float(row["probability"]) for row in found]
    assert probabilities[0] >= probabilities[1]
    assert probabilities[:2] * 2 == pytest.approx(probabilities[2:], abs=1e-5)
    expected = load(run[1])([a])[0]
    assert found[0]["class"] == NAMES[int(expected.argmax())]
    assert probabilities[0] == pytest.approx(float(expected.max()), abs=1e-5)
    for line in (f"{photos / 'cut.jpg'} cannot be read: image file is truncated", "README.md cannot be read: "):
        assert line in done.stderr
    assert "no.jpg cannot be read: No such file or directory" in done.stderr
    assert done.stderr.endswith("3 of 6 images cannot be read\n")

    listed = photos / "list"
    listed.write_bytes(f"{tree}\r\n\n{a}\n".encode())
    by_list = predict(kept, *run, "--list", listed, "--format", "jsonl", "--test-batch-size", 1, "--num-workers", 2)

    def stdin():
        os.dup2(os.open(listed, os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0)

    words = [*run, "--list", "-", "--format", "jsonl"]
    by_stdin = Fork("predict.py", words, kept.root, stdin).wait(check=0)
    lines = [json.loads(line) for line in by_stdin.out.splitlines()]
    assert [line["image"] for line in lines] == [tree, a]
    assert [line["image"] for line in map(json.loads, by_list.stdout.splitlines())] == [tree, a]
    expected = {"class": found[0]["class"], "probability": pytest.approx(probabilities[0], abs=1e-5)}
    assert lines[0]["predictions"] == [expected]


def test_what_is_passed_over_in_folders_is_said(kept, photos):
    """Links are followed once; what a system left is skipped, and what is no image is named."""
    run = ["--run", kept.heads["demo-RN", "linear"], "--top-k", 1, "--num-workers", 0]
    (photos / "cut.jpg").unlink()
    for name in ("b.heic", "IMG_1", "c.JPG.part"):
        (photos / name).touch()
    shutil.copytree(photos / "bäume", photos / "@eaDir" / "a.png")
    os.mkfifo(photos / "pipe.jpg")
    shutil.copytree(photos / "bäume", photos.parent / "elsewhere")
    (photos / "again").symlink_to(photos)
    (photos / "linked").symlink_to(photos.parent / "elsewhere")
    listed = photos.parent / "list"
    listed.write_text("".join(f"{path}\n" for path in sorted(photos.rglob("木*"))))
    done = predict(kept, *run, photos, "--list", listed, check=1)
    a, tree, linked = (str(photos / name) for name in ("a.png", "bäume/木, 1.PNG", "linked/木, 1.PNG"))
    assert [row["image"] for row in rows(done)] == [a, tree, linked, tree]
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes[0] == (
        f"note: {photos}: ignored files without an image ending: .heic (1), .txt (1), IMG_1 (1)."
        " To read HEIC files, `pip install pillow-heif`, or convert them to JPEG"
    )
    assert notes[1].startswith(f"note: {photos}: 4 hidden or system names skipped: ")
    assert notes[2:] == ["note: the list: 1 hidden or system name skipped: @eaDir (1)"]
    assert f"{photos / 'pipe.jpg'} cannot be read: it is a named pipe, not a regular file" in done.stderr
    refused = Fork("predict.py", [*run, photos], kept.root, unlistable(photos / "bäume")).wait(check=1)
    assert f"error: {photos / 'bäume'} cannot be listed (Permission denied)" in refused.err


def test_heic_needs_its_package(kept, tmp_path):
    """Whose opener is taken in where it can be imported; else its name is said, whatever that of the file is."""
    run = ["--run", kept.heads["demo-RN", "linear"], "--num-workers", 0]
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x1cftypheic and so on")
    shutil.copy(tmp_path / "photo.heic", tmp_path / "photo.jpg")
    done = predict(kept, *run, tmp_path / "photo.jpg", check=1)
    assert "it is HEIC, which Pillow does not read: `pip install pillow-heif`, or convert it to JPEG" in done.stderr
    done = predict(kept, *run, tmp_path, "--top-k", 1, check=1)
    assert ".heic (1). To read HEIC files, `pip install pillow-heif`" in done.stderr
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', lambda *file: Image.new('RGB', (80, 70)), lambda head: b'heic' in head)\n"
    )

    def with_package():
        sys.path.insert(0, str(tmp_path))
        images._register_plugins.cache_clear()  # other tests may have looked for it
        image_files._reads_heic.cache_clear()

    done = Fork("predict.py", [*run, tmp_path, "--top-k", 1], kept.root, with_package).wait(check=0)
    assert [line.split(",")[0] for line in done.out.splitlines()[1:]] == [
        str(tmp_path / name) for name in ("photo.heic", "photo.jpg")
    ]


def test_names_that_are_no_text_come_out_as_they_are(kept, photos):
    name = os.fsencode(photos) + b"/\xff.png"
    shutil.copy(os.fsencode(photos / "a.png"), name)
    (photos / "list").write_bytes(name)
    words = ["--run", kept.heads["demo-RN", "linear"], "--list", photos / "list"]
    done = Fork("predict.py", words, kept.root)
    assert os.waitstatus_to_exitcode(os.waitpid(done.pid, 0)[1]) == 0
    assert done.files[0].read_bytes().splitlines()[1].startswith(name + b",")


def test_odd_names_in_csv_and_json(kept, photos):
    """Line ends are quoted, bytes that are no text are valid JSON, and stderr has no control characters."""
    names = ["a\rb.png", "a\nb\udcff.png", '=1,"2".png']
    for name in names:
        shutil.copy(photos / "a.png", photos / name)
    wanted = [str(photos / name) for name in names]
    (photos / "list").write_bytes(b"\xef\xbb\xbf" + os.fsencode(f"{wanted[0]}\n{wanted[2]}\n"))
    words = ["--run", kept.heads["demo-RN", "linear"], "--list", photos / "list", wanted[1], photos / "\x1b[2J\rno.png"]

    def written(*more):
        done = Fork("predict.py", [*words, *more], kept.root)
        assert os.waitstatus_to_exitcode(os.waitpid(done.pid, 0)[1]) == 1
        assert rb"\x1b[2J\rno.png cannot be read" in done.files[1].read_bytes()
        return done.files[0]

    table = written()
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [wanted[1], wanted[0], wanted[2]]
    assert pd.read_csv(table, encoding_errors="surrogateescape")["image"].tolist() == [wanted[1], wanted[0], wanted[2]]
    found = [json.loads(line)["image"] for line in written("--format", "jsonl").read_text("utf-8").splitlines()]
    assert found == [wanted[1], wanted[0], wanted[2]]


def test_processes_that_cannot_be_started_are_said(kept):
    """As where a container limits them: the second one here."""

    def limit():
        fork, left = os.fork, iter([True])

        def limited():
            if not next(left, False):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return fork()

        os.fork = limited

    words = [*many(kept, 8), "--test-batch-size", 1, "--num-workers", 2]
    said = Fork("predict.py", words, kept.root, limit).wait(check=1).err.splitlines()[-1]
    assert said.startswith("error: the system starts no more processes")
    assert said.endswith("try --num-workers 0")


def many(kept, count):
    """A list that names a picture this often."""
    files, _ = pictures(kept)
    path = kept.root / f"{count} pictures"
    path.write_text(f"{files[0]}\n" * count)
    return ["--run", kept.heads["demo-RN", "linear"], "--list", path]


def test_who_stops_reading_is_not_told_anything(kept):
    """As `| head` does."""
    ours, its = os.pipe()

    def to_pipe():
        os.close(ours)
        sys.stdout = os.fdopen(its, "w")

    fork = Fork("predict.py", many(kept, 20_000), kept.root, to_pipe)
    os.close(its)
    assert os.read(ours, 23) == b"image,class,probability"
    os.close(ours)
    fork.wait(check=128 + signal.SIGPIPE)
    assert "rror" not in fork.err


def test_ctrl_c_leaves_what_was_printed(kept):
    """Also with processes that decode."""
    words = [*many(kept, 100_000), "--test-batch-size", "8", "--num-workers", "2"]
    fork = Fork("predict.py", words, kept.root, lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    while not fork.ended() and (not fork.files[0].exists() or fork.files[0].stat().st_size < 1000):
        time.sleep(0.01)
    os.kill(fork.pid, signal.SIGINT)
    fork.wait(check=130)
    assert fork.err.endswith("interrupted: the printed predictions are complete\n")
    lines = fork.out.splitlines()
    assert 10 <= len(lines) < 100_000
    assert len(set(lines[1:])) == 1


def test_workers_need_no_shared_memory(kept, tmp_path):
    words = [*many(kept, 20), "--test-batch-size", "4", "--num-workers"]
    scarce = Fork("predict.py", [*words, "2"], kept.root, lambda: limit_sharing(tmp_path)).wait(check=0)
    assert scarce.out == predict(kept, *words, "0").stdout


def test_a_worker_that_is_killed_is_said(kept):
    """As happens when memory runs out."""

    def prepare():
        from engine.classifier import images

        images.pixels = lambda image, extraction: os.kill(os.getpid(), signal.SIGKILL)

    words = [*many(kept, 100), "--test-batch-size", "8", "--num-workers", "1"]
    done = Fork("predict.py", words, kept.root, prepare).wait(check=1)
    assert "a process that decodes images ended before its work was done" in done.err
    assert "fewer --num-workers" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: no images: list files or folders"),
        (["tests"], "error: tests has no images: no file in or below it has an ending such as .jpg"),
        (["--list", "no such list"], "no such list: No such file or directory"),
        (["--run", "nothere", "a.jpg"], "error: nothere: no such file or folder"),
        (["--run", "engine/demo/models", "a.jpg"], "has neither a classifier nor a record of a run"),
        (["--run", "README.md", "a.jpg"], "README.md is not a saved classifier"),
        (["--run", MODELS / "demo-RN.safetensors", "a.jpg"], "demo-RN.safetensors is not a saved classifier"),
        (["--clip-weights", "no.pt", "a.jpg"], "weights no.pt: there is no such file"),
        (["--export", "head.onnx", "a.jpg"], "error: --export takes no images"),
        (["--top-k", "0", "a.jpg"], "--top-k: 0 is not 1 or more"),
        (["--top-k", "inf", "a.jpg"], "--top-k: 'inf' is not a whole number"),
        (["--num-workers", "1025", "a.jpg"], "--num-workers: '1025' is too large; at most 1,024"),
        (["--num-workers", "-1", "a.jpg"], "--num-workers: -1 is negative"),
        (["--test-batch-size", "nan", "a.jpg"], "--test-batch-size: 'nan' is not a whole number"),
        (["--format", "xml", "a.jpg"], "--format"),
        (["--device", "cuda:7", "a.jpg"], "--device cuda:7 cannot be used"),
    ],
)
def test_wrong_arguments_say_what_is_right(kept, words, said):
    done = predict(kept, "--run", kept.heads["demo-RN", "linear"], *words, check=None)
    assert done.returncode != 0
    assert said in done.stderr
    assert not done.stdout


# --- classifiers that cannot be used ---------------------------------------------------------------------------------


def test_several_classifiers_are_listed(kept):
    done = predict(kept, "--run", kept.results, "a.jpg", check=1)
    assert f"error: {kept.results} has 6 classifiers; use the folder of one of them:" in done.stderr
    assert all(f"  {head.parent}\n" in done.stderr for head in kept.heads.values())
    cell = kept.heads["demo-ViT", "adapter"].parents[1]
    assert load(cell).classifier.embedding.phi.down.shape[0] > 0


def test_a_run_without_a_classifier_says_what_keeps_it(kept, tmp_path):
    """The command, pasted, makes it so."""
    own = kept.heads["demo-ViT", "adapter"].relative_to(kept.results)
    results = Path(shutil.copytree(kept.results, tmp_path / "experiments"))
    (results / own).unlink()
    for place in (results / own.parent, results / own.with_name("record.json"), results / own.parents[1]):
        with pytest.raises(MissingClassifier, match="has no classifier: none was saved for demo 2-shot seed 1"):
            load(place)
    done = predict(kept, "--run", results / own.parent, "a.jpg", check=1)
    (command,) = (shlex.split(line) for line in done.stderr.splitlines() if line.startswith("  python train.py"))
    run_fork(*command[1:], *kept.inputs, folder=kept.root, check=0)
    assert (results / own).is_file()
    shutil.copy((results / own).with_name("record.json"), tmp_path / "record.json")  # from where none can say its place
    done = predict(kept, "--run", tmp_path / "record.json", "a.jpg", check=1)
    assert "--save-heads" in done.stderr
    assert "--result_dir" not in done.stderr


def respoil(path, change, **about):
    """Change the tensors of a classifier by `change`, which gets them, and what its metadata say, without a digest."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["classifier"])
    said.pop("content", None)
    change(tensors)
    save_file(tensors, path, {"classifier": json.dumps(said | about)})


SPOILT = {
    "another encoder's dimension": (lambda t: t.update({"head.weight": torch.zeros(6, 5)}), "cannot be multiplied"),
    "a vector": (lambda t: t.update({"head.weight": torch.zeros(6)}), "does not fit demo-RN"),
    "no head": (lambda t: t.pop("head.weight"), "head.weight"),
    "no zero-shot head": (lambda t: t.pop("zeroshot"), "zeroshot"),
    "what is no part of it": (lambda t: t.update({"extra": torch.zeros(1)}), "Unexpected key"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_tensors_that_do_not_fit(head, how):
    change, said = SPOILT[how]
    respoil(head, change)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        load(head.parent)
    assert str(error.value).startswith(f"{head} does not fit demo-RN; remove it")


def test_files_that_are_damaged_newer_or_another_runs(head):
    whole, record = head.read_bytes(), head.with_name("record.json")
    for content in (b"", b"not safetensors at all", whole[:200], whole[:-100]):
        head.write_bytes(content)
        with pytest.raises(UserError, match="is not a saved classifier or is damaged"):
            load(head)
    head.write_bytes(whole)
    with safe_open(head, framework="pt") as file:
        (name,) = file.metadata()
    save_file(load_file(head), head, metadata={name: "[" * 100_000})
    with pytest.raises(UserError, match=r"is damaged .*nested too deeply"):
        load(head)
    head.write_bytes(whole)
    respoil(head, lambda tensors: None, format=saved_classifiers.FORMAT + 1)
    with pytest.raises(UserError, match="was written by a newer version of this project"):
        load(head)
    respoil(head, lambda tensors: None, format=1, classnames=NAMES[:3])
    with pytest.raises(UserError, match="it has weights of 6 classes, but 3 class names"):
        load(head)
    head.write_bytes(whole)
    said = json.loads(record.read_text())
    tested = {name: found | {"demo_v2": 0.5} for name, found in said["accuracies"].items()}
    record.write_text(json.dumps(said | {"accuracies": tested, "shifted": {"demo_v2": "digest"}}))
    # by domain_shift.py: the same run
    assert load(record).classnames == NAMES
    record.write_text(record.read_text().replace('"step": ', '"step": 1'))
    with pytest.raises(UserError, match=r"does not belong to the run in .*record.json, which was retrained later"):
        load(record)
    record.unlink()
    assert load(head.parent).classnames == NAMES  # the file says all that it takes


def say(path, change):
    """Change the JSON in a classifier by `change`, which gets it, and leave its digest."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["classifier"])
    save_file(tensors, path, {"classifier": json.dumps(change(said) or said)})


def test_a_classifier_that_is_not_as_it_was_written(kept, tmp_path):
    """predict.py and check.py say so, and train.py --save-heads makes it anew."""
    world = SimpleNamespace(root=tmp_path, inputs=kept.inputs, results=tmp_path / "experiments")
    own = kept.heads["demo-RN", "linear"].relative_to(kept.results)
    path = Path(shutil.copytree(kept.results, world.results)) / own
    whole = path.read_bytes()

    def flip():
        path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])

    for spoil in (flip, lambda: say(path, lambda said: said["classnames"].reverse())):
        spoil()
        expected = f"{path} is not a saved classifier or is damaged (its digest differs from its content)"
        assert expected in predict(kept, "--run", path, "a.jpg", check=1).stderr
    places = [("data_dir", "data"), ("indices_dir", "indices"), ("feature_dir", "features")]
    flags = [word for name, folder in places for word in (f"--{name}", kept.root / folder)]
    done = run_fork("check.py", "--dataset", "demo", *flags, "--result_dir", world.results, folder=tmp_path, check=1)
    assert "its digest differs from its content" in " ".join(done.stdout.split())
    assert "6 runs, 1 to train" in train(world, "--clip-encoder", "demo-RN", "--save-heads").out
    assert load(path).classnames == NAMES
    assert load_file(path)["head.weight"].equal(load_file(kept.heads["demo-RN", "linear"])["head.weight"])
    say(path, lambda said: {key: value for key, value in said.items() if key != "content"})
    assert load(path).classnames == NAMES  # of a version before there were digests


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


SAID = {
    "extraction.size": (lambda said: said["extraction"].update(size="64"), "extraction.size is not a whole number"),
    "extraction.mean": (
        lambda said: said["extraction"].update(mean=[0, None, 1]),
        "extraction.mean[1] is not a finite number",
    ),
    "extraction.upright": (
        lambda said: said["extraction"].update(upright=0),
        "extraction.upright is not true or false",
    ),
    "extraction": (lambda said: said.update(extraction=7), "extraction is not an object"),
    "field": (lambda said: said["extraction"].update(extra=7), "extraction has an unknown field, extra"),
    "names": (lambda said: said.update(classnames=[*NAMES[:5], 6]), "classnames[5] is not text"),
    "fewer": (lambda said: said["classnames"].pop(), "it has weights of 6 classes, but 5 class names"),
    "run": (lambda said: said["run"].pop("grid"), "run has no grid"),
    "cell": (lambda said: said["run"]["cell"].update(log_logit_scale=710), "log_logit_scale is 710, beyond 87"),
    "layers": (lambda said: said["run"]["cell"].update(image_layer=0.0), "cell.image_layer is not a whole number"),
    "accuracy": (
        lambda said: said["run"]["accuracies"]["trained"].update(val=1.5),
        "an accuracy is 1.5, which is not from 0 to 1",
    ),
    "grid": (lambda said: said["run"]["grid"].append([8]), "run.grid[6] is not an object"),
    "point": (lambda said: said["run"]["grid"][0].update(lr=[]), "run.grid[0].lr is "),
    "inputs": (lambda said: said["run"].update(inputs={}), "run.inputs has no encoder"),
    "ratio": (lambda said: said.update(wiseft_ratio=float("nan")), "wiseft_ratio is not a finite number"),
    "huge": (lambda said: said.update(wiseft_ratio=10**400), "wiseft_ratio is not a finite number"),
    "nested": (lambda said: said.update(classnames=nested(500)), "classnames[0] is not text"),
    "format": (lambda said: said.update(format="1"), "format is not a whole number"),
    "list": (lambda said: [said], "it has no metadata 'classifier'"),
}


def test_metadata_that_cannot_be(kept, head):
    """One line each, whatever the field: also of files without a digest."""
    respoil(head, lambda tensors: None)
    whole = head.read_bytes()
    for how, (change, said) in SAID.items():
        head.write_bytes(whole)
        with safe_open(head, framework="pt") as file:
            about = json.loads(file.metadata()["classifier"])
        returned = change(about)
        about = returned if how == "list" else about
        save_file(load_file(head), head, {"classifier": json.dumps(about)})
        with pytest.raises(UserError) as error:
            load(head)
        assert f"{head} is not a saved classifier or is damaged (" in str(error.value), how
        assert said in str(error.value), how
        assert "\n" not in str(error.value)
    save_file(load_file(head), head, {"classifier": "[" * 100_000 + "]" * 100_000})
    done = predict(kept, "--run", head, "a.jpg", check=1)
    assert done.stderr.startswith(f"error: {head} is not a saved classifier")
    assert done.stderr.count("\n") == 1


def test_numbers_that_are_not_finite(kept, head):
    """Neither weights nor probabilities."""
    files, _ = pictures(kept)
    whole = head.read_bytes()
    for value in (float("nan"), float("inf")):
        respoil(head, lambda tensors, value=value: tensors["head.weight"][2].fill_(value))
        done = predict(kept, "--run", head, files[0], check=1)
        assert f"{head} is not a saved classifier" in done.stderr
        assert "weights that are not finite numbers: head.weight" in done.stderr
        head.write_bytes(whole)
    respoil(head, lambda tensors: tensors["head.weight"].fill_(3e38))
    done = predict(kept, "--run", head, files[0], files[1], "--format", "jsonl", check=1)
    assert f"error: {files[0]}: the classifier returns probabilities that are not finite" in done.stderr
    assert "NaN" not in done.stdout
    run = saved_classifiers.read(kept.heads["demo-RN", "linear"])
    run.tensors["zeroshot"][0, 0] = float("nan")
    with pytest.raises(UserError, match="was not written: weights that are not finite numbers: zeroshot"):
        saved_classifiers.save(run, head.parent)


def test_weights_of_another_encoder_are_refused(head, random_weights):
    with pytest.raises(UserError, match=r"was trained on demo-RN \(\w{12}\), not on these weights of demo-RN"):
        load(head, weights=str(random_weights(0)))


def test_the_code_of_weights_is_not_run(kept, tmp_path):
    weights = save_hostile(tmp_path / "w.pt", tmp_path / "sprung")
    done = predict(kept, "--run", kept.heads["demo-RN", "linear"], "--clip-weights", weights, "a.jpg", check=1)
    assert done.stderr.startswith(f"error: {weights} is TorchScript whose ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sprung").exists()


def test_local_weights_are_asked_for(kept, tmp_path, random_weights):
    """A classifier trained on weights from a file, and the command that keeps that of a run without."""
    world, weights = world_of(tmp_path), random_weights(0)
    shutil.copytree(kept.root / "indices", tmp_path / "indices")
    encoder = ["--clip-encoder", "demo-RN", "--clip-weights", weights]
    run_fork("features.py", *SWEEP, *encoder, *world.inputs, "--data_dir", kept.root / "data", folder=tmp_path, check=0)
    said = train(world, *encoder, "--save-heads").out
    path = Path(said.splitlines()[-1].strip())
    with pytest.raises(
        UserError, match="demo-RN@tiny, which is demo-RN with weights from a file; set --clip-weights to"
    ):
        load(path)
    assert load(path, weights=str(weights)).classnames == NAMES
    path.unlink()
    done = predict(kept, "--run", path.parent, "a.jpg", check=1)
    assert "--clip-encoder demo-RN --clip-weights FILE-OF-tiny" in done.stderr
