"""Divide images into train, val and test: drawn once, written beside the images, and compared from then on."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from engine.datasets import checks
from engine.datasets.checks import list_preview
from engine.datasets.custom.folders import FoundImage
from engine.datasets.image_dataset import SPLITS, FileState, ImageDataset, Item
from engine.errors import UserError
from engine.files import CannotOpen, opening, write_text
from engine.preprocessing import DEPTH

SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}
"""The share of each split in a class that is divided at random, as CoOp does for datasets without splits."""


def new_split(lists: dict[str, list[FoundImage]], names: dict[str, str], name: str, folder: Path) -> ImageDataset:
    """Return the images by split as a dataset. Raises UserError for files that are not usable images."""
    depth = inspect_images(folder, sorted(image.impath for images in lists.values() for image in images)) or DEPTH
    labels = {label: number for number, label in enumerate(names)}
    items = {
        split: [Item(image.impath, labels[image.label], names[image.label]) for image in images]
        for split, images in lists.items()
    }
    return ImageDataset(name, folder, **items, classnames=list(names.values()), depth=depth)


def write_split(dataset: ImageDataset, split_file: Path) -> str:
    """Write the split file, with the states of the image files; return a note on its content."""
    lists = {
        split: [json.dumps([i.impath, i.label, i.classname], ensure_ascii=False) for i in dataset.items(split)]
        for split in SPLITS
    }
    text = ",\n".join(f'"{split}": [\n' + ",\n".join(rows) + "\n]" for split, rows in lists.items())
    about = f'"depth": {json.dumps(dataset.depth)},\n"images": {{\n{_format_states(dataset.files)}\n}}'
    write_text(split_file, f"{{\n{text},\n{about}\n}}\n")
    counts = ", ".join(f"{len(lists[split])} {split}" for split in SPLITS)
    return f"{split_file} written: {len(dataset.classnames)} classes, {counts}"


def _format_states(files: Mapping[str, FileState]) -> str:
    """Return the states of image files as JSON, a line each: impath: [bytes, modification time in ns, content]."""
    rows = ((json.dumps(impath, ensure_ascii=False), json.dumps(astuple(state))) for impath, state in files.items())
    return ",\n".join(f"{impath}: {state}" for impath, state in rows)


def note_copies(dataset: ImageDataset) -> list[str]:
    """Return a note on images that occur more than once, or nothing."""
    same: dict[str, list[str]] = {}
    for impath, state in sorted(dataset.files.items()):
        same.setdefault(state.content, []).append(impath)
    copies = [" and ".join(impaths[:2]) for impaths in same.values() if len(impaths) > 1]
    note = (
        f"{dataset.image_dir}: duplicate images, as copies or links: {list_preview(copies)};"
        " training images may be among the test images"
    )
    return [note] if copies else []


def draw(images: list[FoundImage], source: Path) -> dict[str, list[FoundImage]]:
    """Return the images by split, class after class: as found, or drawn from each class, seeded by its label alone.

    A class of few images goes to train, and is then missing in other splits. Raises UserError for classes without
    training images, and for splits without images.
    """
    found = {image.split for image in images}
    drawn = SPLITS if found == {None} else () if "val" in found else ("train", "val")
    classes: dict[str, list[FoundImage]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    lists: dict[str, list[FoundImage]] = {split: [] for split in SPLITS}
    untrained = []
    for label, in_class in classes.items():
        divided = {split: [image for image in in_class if image.split == split] for split in SPLITS}
        if drawn:
            divided |= divide(in_class if found == {None} else divided["train"], drawn, label)
        if not divided["train"]:
            untrained.append(label)
        for split in SPLITS:
            lists[split] += divided[split]
    if untrained:
        raise UserError(f"{source}: no training images of {list_preview(untrained)}. Add some, or remove the class")
    if empty := [split for split in SPLITS if not lists[split]]:
        raise UserError(
            f"{source}: every class has too few images: none are left for {' and '.join(empty)}. A class needs"
            f" {len(drawn)}{' in train' * (found != {None})} to be in each of {', '.join(drawn)}; add images to one"
            " class at least, better to all"
        )
    return lists


def divide(images: list[FoundImage], splits: Sequence[str], seed: str) -> dict[str, list[FoundImage]]:
    """Divide a class's images into splits, in their order: a share for each, at least one, and the rest for train.

    With fewer images than splits, the first goes to train and a second to test, not to val.
    """
    rest, divided = random.Random(seed).sample(images, len(images)), {}
    whole = sum(SHARES[split] for split in splits)
    for split in splits:
        if split != "train":
            count = max(1, round(len(images) * SHARES[split] / whole))
            if len(images) < len(splits):
                count = int(len(images) == 2 and split == "test")
            divided[split], rest = rest[:count], rest[count:]
    divided["train"] = rest
    return {split: sorted(drawn, key=lambda image: image.impath) for split, drawn in divided.items()}


def inspect_images(folder: Path, impaths: list[str]) -> int | None:
    """Return the largest depth in bits among images with more than 8, or None.

    Raises UserError for files that are not images, or too large, before a split includes them.
    """
    from engine.images import inspect  # a dataset with a split file needs no decoder

    faults, depths = [], []
    for impath in impaths:
        try:
            with opening(folder / impath):
                depths.append(inspect(folder / impath))
        except CannotOpen:
            raise
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more on bad bytes
            faults.append(f"  {folder / impath}: {error}")
    if faults:
        lines = "\n".join([*faults[: checks.SHOWN], *["  ..."] * (len(faults) > checks.SHOWN)])
        raise UserError(f"files that are not images, or too large: {len(faults)}. Replace or remove them:\n{lines}")
    return max(filter(None, depths), default=None)
