"""How images are divided into train, val and test: drawn once, written beside the images, compared from then on."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from engine.datasets import checks
from engine.datasets.checks import list_preview
from engine.datasets.custom.folders import Found
from engine.datasets.image_dataset import SPLITS, FileState, ImageDataset, Item
from engine.errors import UserError
from engine.files import CannotOpen, opening, write_text
from engine.preprocessing import DEPTH

SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}
"""How the images of a class are divided where nothing says it, as CoOp does for datasets without a split."""


def new_split(parts: dict[str, list[Found]], names: dict[str, str], name: str, folder: Path) -> ImageDataset:
    """The images by part as a dataset, after a look at what an image must be."""
    depth = inspect_images(folder, sorted(image.impath for own in parts.values() for image in own)) or DEPTH
    labels = {label: number for number, label in enumerate(names)}
    items = {part: [Item(i.impath, labels[i.label], names[i.label]) for i in own] for part, own in parts.items()}
    return ImageDataset(name, folder, **items, classnames=list(names.values()), depth=depth)


def write_split(split: ImageDataset, split_file: Path) -> str:
    """Write the split file, with the states of the image files; return a note of what it has."""
    lists = {
        part: [json.dumps([i.impath, i.label, i.classname], ensure_ascii=False) for i in split.items(part)]
        for part in SPLITS
    }
    text = ",\n".join(f'"{part}": [\n' + ",\n".join(rows) + "\n]" for part, rows in lists.items())
    try:
        about = f'"depth": {json.dumps(split.depth)},\n"images": {{\n{_states(split.files)}\n}}'
        write_text(split_file, f"{{\n{text},\n{about}\n}}\n")
    except UserError as error:
        raise UserError(
            f"{error}. The split is written beside the images, once; where that cannot be, a folder elsewhere with"
            f" links to all that is in {split.image_dir} will do as well"
        ) from error
    counts = ", ".join(f"{len(lists[part])} {part}" for part in SPLITS)
    return f"{split_file} written: {len(split.classnames)} classes, {counts}"


def _states(files: Mapping[str, FileState]) -> str:
    """Return the states of image files as JSON, a line each: impath: [bytes, modification time in ns, content]."""
    rows = (f"{json.dumps(impath, ensure_ascii=False)}: {json.dumps(astuple(own))}" for impath, own in files.items())
    return ",\n".join(rows)


def copies_note(split: ImageDataset) -> list[str]:
    """Return a note on images that are there more than once, if there are any."""
    same: dict[str, list[str]] = {}
    for impath, state in sorted(split.files.items()):
        same.setdefault(state.content, []).append(impath)
    copies = [" and ".join(own[:2]) for own in same.values() if len(own) > 1]
    note = (
        f"{split.image_dir}: images that are there more than once, as copies or links: {list_preview(copies)};"
        " training images may be among the test images"
    )
    return [note] if copies else []


def draw(images: list[Found], source: Path) -> dict[str, list[Found]]:
    """The images by part, class after class: as given, or drawn from each class, seeded by its label alone.

    A class of few images is trained on, and is then missing in other parts. Raises UserError for classes without an
    image to train on, and for parts without an image of any class.
    """
    given = {image.part for image in images}
    drawn = SPLITS if given == {None} else () if "val" in given else ("train", "val")
    classes: dict[str, list[Found]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    parts: dict[str, list[Found]] = {part: [] for part in SPLITS}
    untrained = []
    for label, own in classes.items():
        of_class = {part: [image for image in own if image.part == part] for part in SPLITS}
        if drawn:
            of_class |= divide(own if given == {None} else of_class["train"], drawn, label)
        if not of_class["train"]:
            untrained.append(label)
        for part in SPLITS:
            parts[part] += of_class[part]
    if untrained:
        raise UserError(f"{source}: no images to train on of {list_preview(untrained)}. Add some, or remove the class")
    if empty := [part for part in SPLITS if not parts[part]]:
        raise UserError(
            f"{source}: too few images of every class: none is left for {' and '.join(empty)}. A class needs"
            f" {len(drawn)}{' in train' * (given != {None})} to be in each of {', '.join(drawn)}; add some to one class"
            " at least, better to all"
        )
    return parts


def divide(images: list[Found], parts: Sequence[str], seed: str) -> dict[str, list[Found]]:
    """A class's images by part, in their order: a share of each, at least one, and to train on what is left.

    Where there are fewer images than parts, one is to train on, and a second one to test on rather than to validate.
    """
    left, divided = random.Random(seed).sample(images, len(images)), {}
    whole = sum(SHARES[part] for part in parts)
    for part in parts:
        if part != "train":
            count = max(1, round(len(images) * SHARES[part] / whole))
            if len(images) < len(parts):
                count = int(len(images) == 2 and part == "test")
            divided[part], left = left[:count], left[count:]
    return {part: sorted(own, key=lambda image: image.impath) for part, own in {**divided, "train": left}.items()}


def inspect_images(folder: Path, impaths: list[str]) -> int | None:
    """Return the depth in bits of those images that have more than 8, None where there are none.

    Raises UserError for files that are no images, or too large, before a split has them.
    """
    from engine.images import inspect  # a split that is there needs no decoder

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
        raise UserError(f"files that are no images, or too large: {len(faults)}. Replace or remove them:\n{lines}")
    return max(filter(None, depths), default=None)
