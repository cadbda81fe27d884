"""A dataset in memory: three lists of labelled images and the names of the classes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")
BACKGROUND = "white"
"""The colour that transparent pixels of images of one's own are shown on."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image: `impath` is relative to the benchmark's image folder, `classname` as the dataset spells it."""

    impath: str
    label: int
    classname: str


@dataclass(frozen=True, slots=True)
class FileState:
    """An image file when it was last looked at: bytes, modification time in ns, and the digest of its content."""

    size: int
    modified: int
    content: str


def content_digest(path: Path) -> str:
    """Return the first 32 hex digits of the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def image_keys(contents: list[str], impaths: list[str]) -> list[str]:
    """Return what few-shot splits of custom datasets name images by: content digest and path."""
    return [f"{content} {impath}" for content, impath in zip(contents, impaths, strict=True)]


@dataclass(frozen=True)
class ImageDataset:
    """The fixed lists of one dataset, in the order that few-shot positions and cached features refer to.

    `classnames[label]` is the raw name: underscores are kept, prompts replace them. A test-only dataset has empty
    `train` and `val`. For a shifted variant of another dataset, `parent_labels[k]` is the label in that dataset of
    label k here; for all others it is None. `files` are the image files of a custom dataset, by impath; empty for a
    published one. `notes` are what a person should know of how it was read. `upright` are images of one's own: to be
    turned as their EXIF data say, and with transparent pixels on BACKGROUND, which the published datasets' are not.
    `depth` is the number of bits of images of more than 8; None where no image has been looked at for it.
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

    def items(self, name: str) -> list[Item]:
        """The list called `name`. Raises ValueError when `name` is not one of train, val and test."""
        if name not in SPLITS:
            raise ValueError(f"a dataset has the parts {', '.join(SPLITS)}, not '{name}'")
        return getattr(self, name)

    def labels(self, part: str) -> list[int]:
        """The labels of a part, in its order."""
        return [item.label for item in self.items(part)]

    def path(self, item: Item) -> Path:
        """Where the image file of `item` lies."""
        return self.image_dir / item.impath

    def digest(self, part: str) -> str:
        """SHA-256 of a part's rows: what binds cached features to the very list they were made from.

        The rows are hashed as a compact JSON list of `[impath, label, classname]`, the order of CoOp's split files.
        """
        rows = [(item.impath, item.label, item.classname) for item in self.items(part)]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def keys(self, part: str) -> list[str]:
        """The keys of a part's images in a custom dataset, in its order."""
        return image_keys(self.contents(part) or [], [item.impath for item in self.items(part)])

    def contents(self, part: str) -> list[str] | None:
        """The content digests of a part's images, in its order; None for a published dataset."""
        return [self.files[item.impath].content for item in self.items(part)] if self.files else None
