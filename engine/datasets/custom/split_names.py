"""The parts of a dataset as people spell them, and the classes that some part has no images of."""

from __future__ import annotations

import re

from engine.datasets.checks import list_preview
from engine.datasets.image_dataset import SPLITS, ImageDataset

_SPELLINGS = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
_PARTS = {part: re.compile(f"(?:{words})[ _-]?(?:set|split|data|images)?") for part, words in _SPELLINGS.items()}


def part_of(name: str) -> str | None:
    """Return the part that a folder or a word in a list means: `train` for `Training`, `train_set`; None for none."""
    return next((part for part in SPLITS if _PARTS[part].fullmatch(name.strip().lower())), None)


def gaps(split: ImageDataset) -> list[str]:
    """Return a note for val, and one for test, where classes have no images in it."""
    meanings = {
        "val": "settings are selected without them",
        "test": "test accuracy says nothing of how well they are recognised",
    }
    notes = []
    for part, meaning in meanings.items():
        present = set(split.labels(part))
        absent = [name for label, name in enumerate(split.classnames) if label not in present]
        if absent:
            have = "has no image" if len(absent) == 1 else "have no images"
            notes.append(
                f"{split.name}: {len(absent)} of {len(split.classnames)} classes {have} in {part}, so"
                f" {meaning}: {list_preview(absent)}"
            )
    return notes
