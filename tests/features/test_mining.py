"""Template mining: compared with plain loops in float64; ties follow the order of the pool."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from engine import templates
from engine.errors import UserError
from engine.features import mining
from engine.features.mining import MinedTemplates, Origin, mine, read_mined, write_mined
from engine.features.store import Bank, ImageList, MissingFeatures, Provenance
from stores import best_by_loops

CLASSES, WIDTH, IMAGES = 5, 12, 40
ORIGIN = Origin(
    Provenance("fake", "weights", "prompts", 180 * CLASSES), Provenance("fake", "weights", "val", 90), "split"
)


@pytest.fixture
def world():
    """Features of a pool of prompts [C, T, D] and of correlated images, of all lengths."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    images = centres[labels] + torch.randn(IMAGES, WIDTH, generator=generator)
    texts = centres.unsqueeze(1) + 2 * torch.randn(CLASSES, 180, WIDTH, generator=generator)
    lengths = 0.1 + 5 * torch.rand(CLASSES, 180, 1, generator=generator)
    return texts * lengths, images * lengths.view(-1)[:IMAGES].unsqueeze(1), labels


def test_mined_templates_equal_plain_loops(world, monkeypatch):
    """For any number of templates at a time."""
    texts, images, labels = world
    expected = best_by_loops(*world)
    for logits in (1, 7 * IMAGES * CLASSES, mining.LOGITS):
        monkeypatch.setattr(mining, "LOGITS", logits)
        found = mine(texts.flatten(0, 1), images, labels, ORIGIN)
        assert (found.positions, found.accuracies) == expected
    assert len(set(found.accuracies)) > 3
    assert len(set(found.accuracies)) < 21, "no two are equal, and their order is not tested"
    assert found.templates == [templates.pool()[position] for position in found.positions]


def test_ties_follow_the_order_of_the_pool(world):
    texts, images, labels = world
    same = texts[:, :1].expand(-1, 180, -1)
    assert mine(same.flatten(0, 1), images, labels, ORIGIN).positions == list(range(21))


def test_rows_are_ordered_by_class_like_prompts():
    mined = MinedTemplates(ORIGIN, [2, 0], ["c {}", "a {}"], [0.5, 0.5])
    prompts, labels = templates.prompts(["a {}", "b {}", "c {}"], ["cat", "dog"])
    rows = mined.rows(torch.tensor(labels)).tolist()
    assert [prompts[row] for row in rows] == ["c cat", "a cat", "c dog", "a dog"]


def test_mined_templates_are_read_as_written(world, tmp_path):
    texts, images, labels = world
    mined = mine(texts.flatten(0, 1), images, labels, ORIGIN)
    write_mined(tmp_path / "mined.json", mined)
    assert read_mined(tmp_path / "mined.json", ORIGIN) == mined
    first = json.loads((tmp_path / "mined.json").read_text())["templates"][0]
    best = mined.positions[0], mined.templates[0], mined.accuracies[0]
    assert first == dict(zip(("position", "template", "accuracy"), best, strict=True))


def test_the_origin_does_not_depend_on_trainable_layers():
    text, val = (dataclasses.replace(provenance, layer=2) for provenance in (ORIGIN.text, ORIGIN.val))
    split = SimpleNamespace(val=[1], digest="split")
    bank = SimpleNamespace(provenance=val, list_digest=lambda positions: ORIGIN.val.list_digest)
    assert Origin.of(text, bank, split) == ORIGIN


def test_the_origin_has_the_classes_of_a_custom_datasets_images(tmp_path):
    """The images of a split and their order may stay the same when an image moves to another class."""
    split, origins = SimpleNamespace(val=[0, 1], digest="split"), []
    for labels in ([0, 0, 1], [0, 1, 1]):
        bank = Bank(tmp_path, ImageList(["a", "b", "c"], labels, ["0" * 32, "1" * 32, "2" * 32]))
        bank.provenance = dataclasses.replace(ORIGIN.val, list_digest="by content")
        origins.append(Origin.of(ORIGIN.text, bank, split))
    assert origins[0] != origins[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": dataclasses.replace(ORIGIN.text, list_digest="new")}, "other prompts or weights than there are now"),
        ({"val": dataclasses.replace(ORIGIN.val, list_digest="new")}, "other validation images than there are now"),
        ({"split": "new"}, "another split than there is now"),
    ],
)
def test_another_origin_is_refused(tmp_path, change, message):
    write_mined(tmp_path / "mined.json", MinedTemplates(ORIGIN, [0], ["{}"], [1.0]))
    with pytest.raises(UserError, match=message):
        read_mined(tmp_path / "mined.json", dataclasses.replace(ORIGIN, **change))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", pytest.param("[" * 100_000, id="deep"), '{"templates": [{}], "mined_from": {}}']
)
def test_a_damaged_file_is_reported(tmp_path, content):
    (tmp_path / "mined.json").write_text(content)
    with pytest.raises(MissingFeatures, match=r"mined.json cannot be read .* remove it"):
        read_mined(tmp_path / "mined.json", ORIGIN)


@pytest.mark.parametrize(
    ("positions", "wordings"), [([], []), ([180], ["{}"]), ([2], ["{}"]), ([-1], ["a photo of a {}."]), (["0"], ["{}"])]
)
def test_templates_outside_of_the_pool_are_refused(tmp_path, positions, wordings):
    """They may have been written by hand."""
    write_mined(tmp_path / "mined.json", MinedTemplates(ORIGIN, positions, wordings, [0.5] * len(positions)))
    with pytest.raises(MissingFeatures, match=r"mined.json cannot be read .* remove it"):
        read_mined(tmp_path / "mined.json", ORIGIN)
