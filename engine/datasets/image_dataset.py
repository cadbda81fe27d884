"""A dataset in memory: the labelled images of its three splits, and its class names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")
BACKGROUND = "white"
"""The colour behind transparent pixels of custom images."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image: `impath` is relative to the dataset's image folder, `classname` as the dataset spells it."""

    impath: str
    label: int
    classname: str


@dataclass(frozen=True, slots=True)
class FileState:
    """The last known state of an image file: bytes, modification time in ns, and content digest."""

    size: int
    modified: int
    content: str


def content_digest(path: Path) -> str:
    """Return the first 32 hex digits of the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def image_keys(contents: list[str], impaths: list[str]) -> list[str]:
    """Return the keys, content digest and path, by which few-shot splits of custom datasets refer to images."""
    return [f"{content} {impath}" for content, impath in zip(contents, impaths, strict=True)]


@dataclass(frozen=True)
class ImageDataset:
    """The fixed lists of one dataset, in the order that few-shot positions and cached features refer to.

    `classnames[label]` is the raw name, with underscores; prompts replace them. A test-only dataset has empty `train`
    and `val`. For a shifted variant of another dataset, `parent_labels[k]` is the label in that dataset of label k
    here; for all others it is None. `files` holds the states of the image files of a custom dataset, by impath; it is
    empty for a published dataset. `notes` are remarks for the user on how the dataset was read. `upright` is true for
    custom images: they are turned as their EXIF data state, and transparent pixels are put on BACKGROUND; images of
    published datasets are not. `depth` is the number of bits of images with more than 8; None if no image was checked.
    """

    name: str
    image_dir: Path
    train: list[Item]
    val: list[Item]
    test: list[Item]
    classnames: list[str]
    parent_labels: list[int] | None = None
    files: dict[str, FileState] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    upright: bool = False
    depth: int | None = None

    def items(self, split: str) -> list[Item]:
        """Return the list of a split. Raises ValueError unless `split` is train, val or test."""
        if split not in SPLITS:
            raise ValueError(f"a dataset has the splits {', '.join(SPLITS)}, not '{split}'")
        return getattr(self, split)

    def labels(self, split: str) -> list[int]:
        """Return the labels of a split, in its order."""
        return [item.label for item in self.items(split)]

    def path(self, item: Item) -> Path:
        """Return the path of an item's image file."""
        return self.image_dir / item.impath

    def digest(self, split: str) -> str:
        """Return the SHA-256 of a split's rows, which binds cached features to the exact list they were made from.

        The rows are hashed as a compact JSON list of `[impath, label, classname]`, the order of CoOp's split files.
        """
        rows = [(item.impath, item.label, item.classname) for item in self.items(split)]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def keys(self, split: str) -> list[str]:
        """Return the keys of a split's images in a custom dataset, in its order."""
        return image_keys(self.contents(split) or [], [item.impath for item in self.items(split)])

    def contents(self, split: str) -> list[str] | None:
        """Return the content digests of a split's images, in its order; None for a published dataset."""
        return [self.files[item.impath].content for item in self.items(split)] if self.files else None
