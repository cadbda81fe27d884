"""Prompts: the table of PROTOCOL section 3, and how templates are filled."""

import pytest

from engine import datasets, templates
from engine.errors import UserError

IMAGENET = {
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
}
PROTOCOL = {
    "oxford_pets": {"a photo of a {}, a type of pet."},
    "oxford_flowers": {"a photo of a {}, a type of flower."},
    "fgvc_aircraft": {"a photo of a {}, a type of aircraft."},
    "food101": {"a photo of {}, a type of food."},
    "dtd": {"{} texture."},
    "eurosat": {"a centered satellite photo of {}."},
    "ucf101": {"a photo of a person doing {}."},
    **{name: {"a photo of a {}."} for name in ("stanford_cars", "sun397", "caltech101", "demo", "demo_sketch")},
    **dict.fromkeys(("imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"), IMAGENET),
}


@pytest.mark.parametrize("dataset", PROTOCOL)
def test_hand_crafted_templates_are_the_protocols(dataset):
    found = templates.templates("hand_crafted", dataset)
    assert set(found) == PROTOCOL[dataset]
    assert len(found) == len(PROTOCOL[dataset])


def test_every_dataset_of_the_protocol_is_in_the_table():
    assert set(datasets.names()) - set(templates.HAND_CRAFTED) == {name for name in datasets.names() if "demo" in name}


@pytest.mark.parametrize("dataset", ["imagenet", "dtd", "demo"])
def test_the_other_augmentations_are_the_same_everywhere(dataset):
    assert templates.templates("classname", dataset) == ["{}"]
    assert templates.templates("vanilla", dataset) == ["a photo of a {}."]


def test_every_template_has_one_place_for_the_name():
    for augmentation in templates.AUGMENTATIONS:
        for dataset in datasets.names():
            assert all(template.count("{}") == 1 for template in templates.templates(augmentation, dataset))


def test_prompts_go_class_by_class_with_their_labels():
    found = templates.prompts(["a {}.", "the {}!"], ["big_red_dog", "cat"])
    assert found == (["a big red dog.", "the big red dog!", "a cat.", "the cat!"], [0, 0, 1, 1])


def test_braces_in_class_names_are_only_letters():
    names = ["a{}b", "{0}", "{name}", "100%", "\\1"]
    assert templates.prompts(["a {}."], names)[0] == ["a a{}b.", "a {0}.", "a {name}.", "a 100%.", "a \\1."]


@pytest.fixture
def add(tmp_path, monkeypatch):
    """`add(text)`: the name of a file of templates, which goes after the test."""
    monkeypatch.setattr(templates, "_CUSTOM", {})

    def take(text, name="mine.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        return templates.add_custom(str(tmp_path / name))

    return take


def test_custom_templates(add, tmp_path):
    name = add("a photo of a {}.\n\n  ein Bild: {}, schön \r\n", "my own-templates.txt")
    assert name == "my_own_templates"
    assert templates.templates(name, "dtd") == ["a photo of a {}.", "ein Bild: {}, schön"]
    assert templates.cli_name(name) == str(tmp_path / "my own-templates.txt")
    assert templates.cli_name("vanilla") == "vanilla"
    assert templates.cli_name("another") == "FILE-OF-another", "which this process was not given"
    (tmp_path / "my own-templates.txt").unlink()
    with pytest.raises(UserError, match="no such template file"):
        templates.templates(name, "dtd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {}.\na photo\n", r"mine.txt, line 2: a template needs one {} for the class name, not 'a photo'"),
        ("{} or {}", r"mine.txt, line 1: a template needs one {}"),
        ("\n \n", r"mine.txt has no templates; it needs one per line, such as 'a photo of a {}.'"),
    ],
)
def test_templates_that_are_refused(add, text, message):
    with pytest.raises(UserError, match=message):
        templates.templates(add(text), "dtd")


def test_prompts_are_of_the_class_names_that_fill_some_templates():
    wordings, names = ["a photo of a {}.", "a {}", "{} again"], ["a", "big_dog", "photo"]
    filled = templates.prompts(wordings, names)
    assert templates.are_prompts_of(names, *filled)
    assert not templates.are_prompts_of(["a", "photo", "big_dog"], *filled)
    assert not templates.are_prompts_of(["a", "big_dog", "cat"], *filled)
    assert not templates.are_prompts_of(names[:2], *filled)
    assert not templates.are_prompts_of([*names, "cat"], *filled)
    assert not templates.are_prompts_of(names, filled[0][:-1], filled[1][:-1])
