"""Checks of a dataset before anything is computed from it. Each raises one UserError that names the first offenders."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import UserError

SHOWN = 5
"""How many offenders an error lists."""


def list_preview(items: Iterable[Any], count: int | None = None) -> str:
    """Return the first few items for an error message: `a, b, c, d, e and 12 more`.

    `count` is the number of items; it is needed only for an iterable without a length.
    """
    count = len(items) if count is None else count
    preview = ", ".join(str(item) for item in islice(items, SHOWN))
    return preview if count <= SHOWN else f"{preview} and {count - SHOWN} more"


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: `1 cell`, `1,200 cells`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


class NotInstalled(UserError):
    """A dataset, or one of its files, is missing."""


def require(path: Path, kind: str, name: str) -> Path:
    """Return `path`, or raise NotInstalled if this `kind` ("split file", ...) of dataset `name` does not exist."""
    if not path.exists():
        raise NotInstalled(
            f"{name}: its {kind} {path} does not exist. To get it, see DATASETS.md, section"
            f' "{name}"; to use another folder of datasets, pass --data_dir'
        )
    return path


def check_labels(labels: Collection[int], count: int, source: Path) -> None:
    """Raise UserError unless the distinct `labels`, from 0 to below `count`, include all of 0 ... count - 1."""
    absent = count - len(labels)
    if absent:
        gaps = (label for label in range(count) if label not in labels)
        raise UserError(f"{source}: labels go up to {count - 1}, but no image has label {list_preview(gaps, absent)}")


def check_images(impaths: Iterable[str], image_dir: Path, name: str) -> None:
    """Raise UserError if files among `impaths` (relative to `image_dir`) do not exist."""
    if missing := missing_images(impaths, image_dir):
        images = "1 image of its list is" if len(missing) == 1 else f"{len(missing)} images of its lists are"
        raise UserError(
            f"{name}: {images} not in {image_dir}: {list_preview(missing)}."
            f' For the folder tree, see DATASETS.md, section "{name}"'
        )


def missing_images(impaths: Iterable[str], image_dir: Path) -> list[str]:
    """Return the `impaths` (relative to `image_dir`) that do not exist.

    Every parent folder is listed once: on a network disk, a lookup for each of ImageNet's 1.3 million files takes
    minutes.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for impath in impaths:
        folder, _, file = impath.rpartition("/")
        if folder not in present:
            present[folder] = listing(image_dir / folder)
        if file not in present[folder]:
            missing.append(impath)
    return missing


def listing(folder: Path) -> set[str]:
    """Return the names of the entries of `folder`; an empty set if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()
