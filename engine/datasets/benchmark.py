"""A dataset in memory: three lists of labelled images and the names of the classes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Item:
    """One image: `impath` is relative to the benchmark's image folder, `classname` as the dataset spells it."""

    impath: str
    label: int
    classname: str


@dataclass(frozen=True)
class Benchmark:
    """The fixed lists of one dataset, in the order that few-shot positions and cached features refer to.

    `classnames[label]` is the raw name: underscores are kept, prompts replace them. A test-only dataset has empty
    `train` and `val`. For a shifted variant of another dataset, `parent_labels[k]` is the label in that dataset of
    label k here; for all others it is None. `files` is a digest of the image files themselves, empty where it is not
    known; `notes` are what a person should know of how it was read. `upright` are images to be turned as their EXIF
    data say, which the published datasets' are not.
    """

    name: str
    image_dir: Path
    train: list[Item]
    val: list[Item]
    test: list[Item]
    classnames: list[str]
    parent_labels: list[int] | None = None
    files: str = ""
    notes: tuple[str, ...] = ()
    upright: bool = False

    def part(self, name: str) -> list[Item]:
        """The list called `name`. Raises ValueError when `name` is not one of train, val and test."""
        if name not in PARTS:
            raise ValueError(f"a dataset has the parts {', '.join(PARTS)}, not '{name}'")
        return getattr(self, name)

    def labels(self, part: str) -> list[int]:
        """The labels of a part, in its order."""
        return [item.label for item in self.part(part)]

    def path(self, item: Item) -> Path:
        """Where the image file of `item` lies."""
        return self.image_dir / item.impath

    def digest(self, part: str) -> str:
        """SHA-256 of a part's rows: what binds cached features to the very list they were made from.

        The rows are hashed as a compact JSON list of `[impath, label, classname]`, the order of CoOp's split files,
        with `files` behind it.
        """
        rows = [(item.impath, item.label, item.classname) for item in self.part(part)]
        return hashlib.sha256((json.dumps(rows, separators=(",", ":")) + self.files).encode()).hexdigest()
