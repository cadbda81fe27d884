"""Prompt templates, as data (PROTOCOL sections 3 and 7)."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from engine.errors import UserError
from engine.files import read_json, read_lines
from engine.templates.class_prompts import ClassPrompts, read_class_prompts, spell

IMAGENET = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
]
"""The seven of CLIP's eighty ImageNet templates that OpenAI's notebook selects; ImageNet's variants share them."""

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
"""CLIP's hand-crafted templates per dataset; any other dataset uses `PHOTO`."""

MINING = "template_mining"
"""The `--text-augmentation` whose templates depend on the few-shot split: the best of a pool."""
MINED = 21
"""How many templates of the pool are mined (PROTOCOL section 7)."""

AUGMENTATIONS = ["hand_crafted", "classname", "vanilla", MINING]
"""The values of `--text-augmentation`, besides paths of template files."""

Templates = list[str] | ClassPrompts
"""Templates for all classes, each with one `{}` for the class name, or prompts of each class."""

_CUSTOM: dict[str, str] = {}
"""Paths of custom files of templates or prompts, as typed, by name."""


def add_custom(path: str) -> str:
    """Register a template file; return its name, taken from the file, under which features and results are stored.

    The file need not exist: cached features are found by the name alone. Raises UserError if other templates already
    have the name.
    """
    name = re.sub(r"[^\w.]+", "_", Path(path).stem)
    if name in AUGMENTATIONS:
        raise UserError(f"{path}: the name {name} belongs to templates of the project; rename the file")
    there = _CUSTOM.setdefault(name, path)
    if os.path.abspath(there) != os.path.abspath(path):
        raise UserError(f"{there} and {path} have the same name, {name}, for features and results; rename one")
    return name


def cli_name(augmentation: str) -> str:
    """Return the command-line value for templates: the path of a custom file, or the name; a placeholder if unknown."""
    return augmentation if augmentation in AUGMENTATIONS else _CUSTOM.get(augmentation, f"FILE-OF-{augmentation}")


def templates(augmentation: str, dataset: str) -> Templates:
    """Return the templates of a `--text-augmentation` for a dataset, or the prompts of each class in a JSON file.

    For `template_mining`, return the whole pool; `engine.features.mining` selects from it for each few-shot split.
    Raises UserError if a template file does not exist or is malformed.
    """
    if augmentation in _CUSTOM:
        return _read(Path(_CUSTOM[augmentation]), dataset)
    if augmentation == MINING:
        return pool()
    if augmentation == "hand_crafted":
        return HAND_CRAFTED.get(dataset, PHOTO)
    return {"classname": ["{}"], "vanilla": PHOTO}[augmentation]


def _read(path: Path, dataset: str) -> Templates:
    """Read the prompts of each class in a JSON file, or the templates in a text file, one per line."""
    if not path.is_file():
        raise UserError(f"{path}: no such template file")
    if path.suffix.lower() == ".json":
        return read_class_prompts(path, HAND_CRAFTED.get(dataset, PHOTO))
    found = {number: line for number, line in enumerate(read_lines(path), start=1) if line}
    for number, template in found.items():
        if template.count("{}") != 1:
            raise UserError(f"{path}, line {number}: a template needs one {{}} for the class name, not '{template}'")
    if not found:
        raise UserError(f"{path} has no templates; it needs one per line, such as '{PHOTO[0]}'")
    return list(found.values())


@functools.cache
def pool() -> list[str]:
    """Return the 180 templates for mining (Table 18 of the paper), in its order. Three of them occur twice."""
    return read_json(Path(__file__).with_name("template_pool.json"))["templates"]


def are_prompts_of(classnames: list[str], filled: list[str], labels: list[int]) -> bool:
    """Return whether the prompts `filled` are made from these class names and any templates."""
    names = list(map(spell, classnames))
    count = len(filled) // len(names)
    for number, prompt in enumerate(filled[:count]):  # of the first class; its name may occur repeatedly
        places = [at for at in range(len(prompt)) if prompt.startswith(names[0], at)]
        around = [(prompt[:at], prompt[at + len(names[0]) :]) for at in places]
        if not any([before + name + after for name in names] == filled[number::count] for before, after in around):
            return False
    return labels == [label for label in range(len(names)) for _ in range(count)]


def prompts(templates: Templates, classnames: list[str]) -> tuple[list[str], list[int]]:
    """Fill the templates of each class with its name (`_` becomes a space), class by class; return prompts and labels.

    Raises UserError if a file of prompts lacks classes.
    """
    of_classes = templates.of(classnames) if isinstance(templates, ClassPrompts) else [templates] * len(classnames)
    filled = [
        (template.replace("{}", spell(name)), label)
        for label, (name, own) in enumerate(zip(classnames, of_classes, strict=True))
        for template in own
    ]
    return [prompt for prompt, _ in filled], [label for _, label in filled]
