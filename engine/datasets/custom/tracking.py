"""Update the split file of a folder (or list) to its images: replaced, moved, added and removed ones.

The split file keeps a state of each image: size, modification time, content digest. Content is read again only if size
or time differ. An image that still exists keeps its split; a renamed image is recognised by its content.
"""

from __future__ import annotations

import os
import random
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.datasets.checks import list_preview, pluralize
from engine.datasets.custom.dividing import SHARES, divide, inspect_images
from engine.datasets.custom.folders import FoundImage
from engine.datasets.image_dataset import SPLITS, FileState, ImageDataset, Item, content_digest
from engine.errors import UserError

READERS = 8
"""Threads that read files: on a network disk a thread mostly waits."""


def file_states(folder: Path, impaths: Iterable[str], known: Mapping[str, FileState]) -> dict[str, FileState]:
    """Return the states of image files by impath. A file with the same size and time as in `known` is not read.

    Raises UserError for a file that cannot be read.
    """

    def look(impath: str) -> FileState:
        try:
            found = os.stat(folder / impath)
            if not stat.S_ISREG(found.st_mode):
                raise OSError("not a regular file")
            state = known.get(impath)
            if state is None or (state.size, state.modified) != (found.st_size, found.st_mtime_ns):
                state = FileState(found.st_size, found.st_mtime_ns, content_digest(folder / impath))
        except OSError as error:
            raise UserError(f"{folder / impath} cannot be read ({error.strerror or error})") from error
        return state

    from concurrent.futures import ThreadPoolExecutor  # a slow import

    impaths = list(impaths)
    with ThreadPoolExecutor(READERS) as readers:
        return dict(zip(impaths, readers.map(look, impaths), strict=True))


@dataclass
class _Changes:
    """The differences from the split file: impaths, and class names."""

    replaced: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = {
            "replaced": self.replaced,
            "renamed": self.renamed,
            "added": self.added,
            "removed": self.removed,
            "moved to another class or split": self.moved,
        }
        distinct = {kind: list(dict.fromkeys(impaths)) for kind, impaths in kinds.items()}
        images = [
            f"{pluralize(len(impaths), 'image')} {kind} ({list_preview(impaths)})"
            for kind, impaths in distinct.items()
            if impaths
        ]
        return "; ".join(images + self.classes)


def update(
    dataset: ImageDataset, images: list[FoundImage], names: dict[str, str], split_file: Path
) -> tuple[ImageDataset, str]:
    """Return the dataset with the current images and class names, and a description of the changes, "" without any.

    `images` are the found images, `names` their class names by label. Added images are divided like the first ones.
    Raises UserError for a class without training images, and for a split without images.
    """
    _require_distinct(dataset, split_file)
    found = {image.impath: image for image in images}
    states = file_states(dataset.image_dir, found, dataset.files)
    changes = _Changes()
    kept = _follow(dataset, found, states, changes)
    numbers = _number_classes(dataset, kept, names, changes)
    lists = _assign_splits(kept, images, changes)
    depth = _update_depth(dataset, [*changes.added, *changes.replaced], states)
    items = {
        split: sorted(
            (Item(image.impath, numbers[image.label], names[image.label]) for image in in_split),
            key=lambda item: (item.label, item.impath),
        )
        for split, in_split in lists.items()
    }
    _require_images(items, numbers, names, split_file)
    classnames = [names[label] for label in sorted(numbers, key=numbers.get)]
    changed = replace(dataset, **items, classnames=classnames, files=states, depth=depth)
    same = replace(dataset, files=states)
    return (changed, str(changes)) if str(changes) else (same, "")


def _require_distinct(dataset: ImageDataset, split_file: Path) -> None:
    """Raise UserError for an image that the split file lists twice."""
    counts = Counter(item.impath for split in SPLITS for item in dataset.items(split))
    if twice := [impath for impath, count in counts.items() if count > 1]:
        raise UserError(f"{split_file} lists images more than once: {list_preview(twice)}; keep one line for each")


def _follow(
    dataset: ImageDataset, found: Mapping[str, FoundImage], states: Mapping[str, FileState], changes: _Changes
) -> list[tuple[str, Item, FoundImage]]:
    """Return split, old row and image for the images of the split file that still exist, perhaps renamed."""
    rows = [(split, item) for split in SPLITS for item in dataset.items(split)]
    known = {item.impath for _, item in rows}
    new: dict[str, list[FoundImage]] = {}
    for impath, image in found.items():
        if impath not in known:
            new.setdefault(states[impath].content, []).append(image)
    kept = []
    for split, item in rows:
        before = dataset.files.get(item.impath)
        if image := found.get(item.impath):
            if before is not None and states[item.impath].content != before.content:
                changes.replaced.append(item.impath)
        elif before is not None and new.get(before.content):
            image = new[before.content].pop(0)
            changes.renamed.append(f"{item.impath} to {image.impath}")
        else:
            changes.removed.append(item.impath)
            continue
        kept.append((split, item, image))
    changes.added += sorted(image.impath for same in new.values() for image in same)
    return kept


def _number_classes(
    dataset: ImageDataset, kept: list[tuple[str, Item, FoundImage]], names: dict[str, str], changes: _Changes
) -> dict[str, int]:
    """Return the class number of each found label: by class name, else by the former class of its images."""
    known = {name: number for number, name in enumerate(dataset.classnames)}
    numbers = {label: known[name] for label, name in names.items() if name in known}
    votes: dict[str, Counter[int]] = {label: Counter() for label in names}
    for _, item, image in kept:
        votes[image.label][item.label] += 1
    free = len(known)
    for label, name in names.items():
        if label in numbers:
            continue
        before = next((number for number, _ in votes[label].most_common() if number not in numbers.values()), None)
        if before is None:
            numbers[label], free = free, free + 1
            changes.classes.append(f"new class {name}")
        else:
            numbers[label] = before
            changes.classes.append(f"class {dataset.classnames[before]} is now called {name}")
    gone = [name for number, name in enumerate(dataset.classnames) if number not in numbers.values()]
    changes.classes += [f"class {name} is gone" for name in gone]
    rank = {number: at for at, number in enumerate(sorted(numbers.values()))}
    changes.moved += [image.impath for _, item, image in kept if numbers[image.label] != item.label]
    return {label: rank[number] for label, number in numbers.items()}


def _assign_splits(
    kept: list[tuple[str, Item, FoundImage]], images: list[FoundImage], changes: _Changes
) -> dict[str, list[FoundImage]]:
    """Return the images by split: as in the folder, else as before, else divided within their class.

    A class that lost all its training images is divided again, as far as the folder leaves it open.
    """
    val_is_drawn = not any(image.split == "val" for image in images)
    before = {image.impath: split for split, _, image in kept}
    split_of = {}
    for split, _, image in kept:
        is_free = image.split is None or (split == "val" and _is_drawn(image, val_is_drawn))
        split_of[image.impath] = split if is_free else image.split
    trained = {image.label for image in images if split_of.get(image.impath, image.split) in (None, "train")}
    lists: dict[str, list[FoundImage]] = {split: [] for split in SPLITS}
    by_class: dict[str, list[FoundImage]] = {}
    for image in images:
        stays = image.impath in split_of and (image.label in trained or not _is_drawn(image, val_is_drawn))
        (lists[split_of[image.impath]] if stays else by_class.setdefault(image.label, [])).append(image)
    counts = Counter((split, image.label) for split in SPLITS for image in lists[split])
    for label, in_class in by_class.items():
        present = {split: counts[split, label] for split in SPLITS}
        for split, added in _divide_more(in_class, present, label, val_is_drawn).items():
            lists[split] += added
    placed = ((split, image.impath) for split in SPLITS for image in lists[split])
    changes.moved += [impath for split, impath in placed if before.get(impath, split) != split]
    return lists


def _is_drawn(image: FoundImage, val_is_drawn: bool) -> bool:
    """Return whether the folder leaves the split of an image open."""
    return image.split is None or (image.split == "train" and val_is_drawn)


def _divide_more(
    images: list[FoundImage], present: dict[str, int], label: str, val_is_drawn: bool
) -> dict[str, list[FoundImage]]:
    """Divide new images of a class with `present` images by split: each goes to the split that lacks most."""
    lists: dict[str, list[FoundImage]] = {split: [] for split in SPLITS}
    found = {image.split for image in images} - {None}
    splits = ("train", "val") if found and val_is_drawn else SPLITS
    to_divide: list[FoundImage] = []
    for image in images:
        (to_divide if _is_drawn(image, val_is_drawn) else lists[image.split]).append(image)
    if not sum(present[split] for split in splits):  # a new class
        divided = divide(to_divide, splits, label)
        return {split: lists[split] + divided.get(split, []) for split in SPLITS}
    share = sum(SHARES[split] for split in splits)
    for image in random.Random(label).sample(to_divide, len(to_divide)):
        total = sum(present[split] for split in splits) + 1
        split = max(splits, key=lambda split: SHARES[split] / share * total - present[split])
        present[split] += 1
        lists[split].append(image)
    return lists


def _update_depth(dataset: ImageDataset, new: list[str], files: Collection[str]) -> int | None:
    """Return the depth including the `new` images; None if it was unknown. Raises UserError for non-images.

    A dataset without images of more than 8 bits takes the depth of the first such images that are added.
    """
    found = inspect_images(dataset.image_dir, new)
    if None in (found, dataset.depth) or found == dataset.depth:
        return dataset.depth
    others = sorted(set(files).difference(new))
    return found if inspect_images(dataset.image_dir, others) is None else max(found, dataset.depth)


def _require_images(
    items: dict[str, list[Item]], numbers: Collection[str], names: dict[str, str], split_file: Path
) -> None:
    """Raise UserError for classes without training images, and for splits without images."""
    trained = {item.classname for item in items["train"]}
    if short := [names[label] for label in numbers if names[label] not in trained]:
        raise UserError(
            f"{split_file}: no training image is left of {list_preview(short)}. Add some, remove the class, or delete"
            " this file to divide the images again"
        )
    if empty := [split for split in SPLITS if not items[split]]:
        raise UserError(
            f"{split_file}: no image is left in {' and '.join(empty)}. Add some, or delete this file to divide the"
            " images again"
        )
