"""Prompts, as data (sections 3 and 7 of the protocol)."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from engine.errors import UserError
from engine.files import read_json, read_lines

IMAGENET = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
]
"""The seven of CLIP's eighty ImageNet templates that OpenAI's notebook singles out; ImageNet's variants share them."""

PHOTO = ["a photo of a {}."]

HAND_CRAFTED = {
    "oxford_pets": ["a photo of a {}, a type of pet."],
    "oxford_flowers": ["a photo of a {}, a type of flower."],
    "fgvc_aircraft": ["a photo of a {}, a type of aircraft."],
    "food101": ["a photo of {}, a type of food."],
    "dtd": ["{} texture."],
    "eurosat": ["a centered satellite photo of {}."],
    "ucf101": ["a photo of a person doing {}."],
    "stanford_cars": PHOTO,
    "sun397": PHOTO,
    "caltech101": PHOTO,
    "imagenet": IMAGENET,
    "imagenetv2": IMAGENET,
    "imagenet_sketch": IMAGENET,
    "imagenet_a": IMAGENET,
    "imagenet_r": IMAGENET,
}
"""CLIP's hand-crafted templates per dataset; a dataset that is not here gets `PHOTO`."""

MINING = "template_mining"
"""The `--text-augmentation` whose templates depend on the few-shot split: the best of a pool."""
MINED = 21
"""How many templates of the pool are mined (section 7 of the protocol)."""

AUGMENTATIONS = ["hand_crafted", "classname", "vanilla", MINING]
"""What `--text-augmentation` takes, beside the paths of files of templates."""

_OWN: dict[str, str] = {}
"""Paths of templates of one's own, as they were given, by name."""


def add_custom(path: str) -> str:
    """Take in a file of templates; gives its name, under which their features and results lie: the file's.

    It is not looked for: who works on cached features needs the name alone. Raises UserError where other templates have
    the name already.
    """
    name = re.sub(r"[^\w.]+", "_", Path(path).stem)
    if name in AUGMENTATIONS:
        raise UserError(f"{path} would be called {name}, as templates of the project are; rename it")
    there = _OWN.setdefault(name, path)
    if os.path.abspath(there) != os.path.abspath(path):
        raise UserError(f"{there} and {path} would both be called {name}, in features and results; rename one")
    return name


def cli_name(augmentation: str) -> str:
    """What to type for templates: the path they were given by, or the name; a place to fill in, if nobody gave one."""
    return augmentation if augmentation in AUGMENTATIONS else _OWN.get(augmentation, f"FILE-OF-{augmentation}")


def templates(augmentation: str, dataset: str) -> list[str]:
    """The templates of a `--text-augmentation` for a dataset, each with one `{}` for the class name.

    For `template_mining` they are the whole pool: which of them a few-shot split takes, `engine.features.mining` finds.
    Raises UserError for a file of them that is not there, or holds something else.
    """
    if augmentation in _OWN:
        return _read(Path(_OWN[augmentation]))
    if augmentation == MINING:
        return pool()
    if augmentation == "hand_crafted":
        return HAND_CRAFTED.get(dataset, PHOTO)
    return {"classname": ["{}"], "vanilla": PHOTO}[augmentation]


def _read(path: Path) -> list[str]:
    """The templates in a file, one a line."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of templates")
    found = {number: line for number, line in enumerate(read_lines(path), start=1) if line}
    for number, template in found.items():
        if template.count("{}") != 1:
            raise UserError(f"{path}, line {number}: a template has one {{}}, for the class name: '{template}'")
    if not found:
        raise UserError(f"{path}: no templates; it should have one a line, such as '{PHOTO[0]}'")
    return list(found.values())


@functools.cache
def pool() -> list[str]:
    """The 180 templates that are mined (Table 18 of the paper), in its order. Three of them are there twice."""
    return read_json(Path(__file__).with_name("template_pool.json"))["templates"]


def are_prompts_of(classnames: list[str], filled: list[str], labels: list[int]) -> bool:
    """Return whether the prompts `filled` are those of some templates, whichever, and of these class names."""
    names = list(map(spell, classnames))
    count = len(filled) // len(names)
    for number, prompt in enumerate(filled[:count]):  # of the first class, whose name may be in it more than once
        places = [at for at in range(len(prompt)) if prompt.startswith(names[0], at)]
        around = [(prompt[:at], prompt[at + len(names[0]) :]) for at in places]
        if not any([before + name + after for name in names] == filled[number::count] for before, after in around):
            return False
    return labels == [label for label in range(len(names)) for _ in range(count)]


def spell(classname: str) -> str:
    """Return a class name as prompts and classifiers spell it."""
    return classname.replace("_", " ")


def prompts(templates: list[str], classnames: list[str]) -> tuple[list[str], list[int]]:
    """Every template filled with every class name (`_` becomes a space), class by class, and the label of each."""
    filled = [
        (template.replace("{}", spell(name)), label) for label, name in enumerate(classnames) for template in templates
    ]
    return [prompt for prompt, _ in filled], [label for _, label in filled]
