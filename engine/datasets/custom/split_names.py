"""The names of splits as people spell them, and the classes that a split has no images of."""

from __future__ import annotations

import re

from engine.datasets.checks import list_preview
from engine.datasets.image_dataset import SPLITS, ImageDataset

_SPELLINGS = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
_PATTERNS = {split: re.compile(f"(?:{words})[ _-]?(?:set|split|data|images)?") for split, words in _SPELLINGS.items()}


def parse_split(name: str) -> str | None:
    """Return the split that a folder name or a word in a list means: `train` for `Training`, `train_set`; or None."""
    return next((split for split in SPLITS if _PATTERNS[split].fullmatch(name.strip().lower())), None)


def note_gaps(dataset: ImageDataset) -> list[str]:
    """Return a note for val and one for test if classes have no images in it."""
    meanings = {
        "val": "settings are selected without them",
        "test": "test accuracy does not show how well they are recognised",
    }
    notes = []
    for split, meaning in meanings.items():
        present = set(dataset.labels(split))
        absent = [name for label, name in enumerate(dataset.classnames) if label not in present]
        if absent:
            have = "has no image" if len(absent) == 1 else "have no images"
            notes.append(
                f"{dataset.name}: {len(absent)} of {len(dataset.classnames)} classes {have} in {split}, so"
                f" {meaning}: {list_preview(absent)}"
            )
    return notes
