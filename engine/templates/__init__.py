"""Prompts, as data (sections 3 and 7 of the protocol)."""

from __future__ import annotations

import functools
import json
from pathlib import Path

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
"""What `--text-augmentation` takes."""


def templates(augmentation: str, dataset: str) -> list[str]:
    """The templates of a `--text-augmentation` for a dataset, each with one `{}` for the class name.

    For `template_mining` they are the whole pool: which of them a few-shot split takes, `engine.features.mining` finds.
    """
    if augmentation == MINING:
        return pool()
    if augmentation == "hand_crafted":
        return HAND_CRAFTED.get(dataset, PHOTO)
    return {"classname": ["{}"], "vanilla": PHOTO}[augmentation]


@functools.cache
def pool() -> list[str]:
    """The 180 templates that are mined (Table 18 of the paper), in its order. Three of them are there twice."""
    return json.loads(Path(__file__).with_name("template_pool.json").read_text(encoding="utf-8"))["templates"]


def prompts(templates: list[str], classnames: list[str]) -> tuple[list[str], list[int]]:
    """Every template filled with every class name (`_` becomes a space), class by class, and the label of each."""
    filled = [
        (template.replace("{}", name.replace("_", " ")), label)
        for label, name in enumerate(classnames)
        for template in templates
    ]
    return [prompt for prompt, _ in filled], [label for _, label in filled]
