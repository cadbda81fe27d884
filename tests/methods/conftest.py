"""The few-shot problem that the goldens of the methods are values on, and what the original programs give on it."""

import json
from pathlib import Path

import closed_form_features
import pytest
import torch
from torch.nn import functional as F

from engine.training.task import Samples, Task

CLASSES, SHOTS, SEED = 10, 4, 1


def samples_of(features, labels):
    """All rows of raw `features` as samples, L2-normalised."""
    bank = (F.normalize(features),)
    return Samples(bank, torch.arange(len(labels)), labels, features.norm(dim=1))


@pytest.fixture(scope="session")
def golden_features():
    """Raw features and labels of the ten classes by name: train, flip, val, test, text."""
    found = {}
    for name, (features, labels) in closed_form_features.problem(SHOTS, SEED).items():
        kept = labels < CLASSES
        found[name] = torch.from_numpy(features[kept]), torch.from_numpy(labels[kept])
    return found


@pytest.fixture
def golden_task(golden_features):
    """A function that makes the task of the goldens: two views of four images a class, one prompt a class.

    With `cross_modal` the prompts are training samples too. `shots` takes the first images of each class alone.
    """
    torch.set_num_threads(1)

    def make(cross_modal=False, shots=SHOTS, views=2, **changes):
        first = torch.arange(CLASSES * SHOTS).view(CLASSES, SHOTS)[:, :shots].flatten()
        (train, labels), (flip, _), text = (golden_features[name] for name in ("train", "flip", "text"))
        images = torch.cat([train[first], flip[first]][:views])
        zeroshot = F.normalize(text[0])
        task = {
            "name": f"golden/{shots}/{cross_modal}",
            "samples": {"image": samples_of(images, labels[first].repeat(views))}
            | ({"text": samples_of(*text)} if cross_modal else {}),
            "val": samples_of(*golden_features["val"]),
            "initial": zeroshot,
            "scale": 100.0,
            "text": text[0],
            "zeroshot": zeroshot,
            "views": views,
        }
        return Task(**task | changes)

    return make


@pytest.fixture(scope="session")
def expect_golden():
    """A function that compares what was found with a value of a method's golden, within the file's tolerance."""
    goldens = json.loads((Path(__file__).parent / "goldens.json").read_text())

    def expect(method, name, found):
        golden = goldens[method]["values"][name]
        wanted, margin = (torch.tensor(golden[key], dtype=torch.float64) for key in ("value64", "margin"))
        allowed = torch.maximum(2e-5 * wanted.abs().clamp(min=1), 4 * margin)
        off = (torch.as_tensor(found).double() - wanted).abs()
        assert (off <= allowed).all(), f"{method} {name}: off by {off.max():.2e}, allowed {allowed.min():.2e}"

    expect.goldens = goldens
    return expect
