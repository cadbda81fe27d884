"""Bring the split of a folder (or list) up to date with its images: replaced, moved, added and removed ones.

The split file keeps a state of each image: size, modification time, content digest. Content is read again only where
size or time differ. An image that is still there keeps its split; an image that was renamed is recognised by content.
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
from engine.datasets.custom.folders import Found
from engine.datasets.image_dataset import SPLITS, FileState, ImageDataset, Item, content_digest
from engine.errors import UserError

READERS = 8
"""Threads that read files: on a network disk one waits for most of the time."""


def file_states(folder: Path, impaths: Iterable[str], known: Mapping[str, FileState]) -> dict[str, FileState]:
    """Return the states of image files by impath; files whose size and time are as in `known` are not read.

    Raises UserError for a file that cannot be read.
    """

    def look(impath: str) -> FileState:
        try:
            found = os.stat(folder / impath)
            if not stat.S_ISREG(found.st_mode):
                raise OSError("no regular file")
            state = known.get(impath)
            if state is None or (state.size, state.modified) != (found.st_size, found.st_mtime_ns):
                state = FileState(found.st_size, found.st_mtime_ns, content_digest(folder / impath))
        except OSError as error:
            raise UserError(f"{folder / impath} cannot be read ({error.strerror or error})") from error
        return state

    from concurrent.futures import ThreadPoolExecutor  # which takes longer to import than all of this

    impaths = list(impaths)
    with ThreadPoolExecutor(READERS) as readers:
        return dict(zip(impaths, readers.map(look, impaths), strict=True))


@dataclass
class _Changes:
    """What is otherwise than in the split file: impaths, and class names."""

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
        distinct = {kind: list(dict.fromkeys(own)) for kind, own in kinds.items()}
        images = [
            f"{pluralize(len(own), 'image')} {kind} ({list_preview(own)})" for kind, own in distinct.items() if own
        ]
        return "; ".join(images + self.classes)


def update(
    split: ImageDataset, images: list[Found], names: dict[str, str], split_file: Path
) -> tuple[ImageDataset, str]:
    """Return a split with the images and class names that there are now, and what changed, "" for nothing.

    `images` are the found ones, `names` the class names by label of these. Images that were added are divided as the
    first ones were. Raises UserError for a class that has no image to train on any more, and for a part without images.
    """
    _require_distinct(split, split_file)
    found = {image.impath: image for image in images}
    states = file_states(split.image_dir, found, split.files)
    changes = _Changes()
    kept = _follow(split, found, states, changes)
    numbers = _number_classes(split, kept, names, changes)
    lists = _place(kept, images, changes)
    depth = _depth(split, [*changes.added, *changes.replaced], states)
    items = {
        part: sorted(
            (Item(image.impath, numbers[image.label], names[image.label]) for image in own),
            key=lambda item: (item.label, item.impath),
        )
        for part, own in lists.items()
    }
    _require_images(items, numbers, names, split_file)
    classnames = [names[label] for label in sorted(numbers, key=numbers.get)]
    changed = replace(split, **items, classnames=classnames, files=states, depth=depth)
    same = replace(split, files=states)
    return (changed, str(changes)) if str(changes) else (same, "")


def _require_distinct(split: ImageDataset, split_file: Path) -> None:
    """Raise UserError for an image that the split file lists twice."""
    counts = Counter(item.impath for part in SPLITS for item in split.items(part))
    if twice := [impath for impath, count in counts.items() if count > 1]:
        raise UserError(f"{split_file} has images more than once: {list_preview(twice)}; leave one line of each")


def _follow(
    split: ImageDataset, found: Mapping[str, Found], states: Mapping[str, FileState], changes: _Changes
) -> list[tuple[str, Item, Found]]:
    """Return split, old row and image for the images of the split file that are there still, perhaps renamed."""
    rows = [(part, item) for part in SPLITS for item in split.items(part)]
    known = {item.impath for _, item in rows}
    new: dict[str, list[Found]] = {}
    for impath, image in found.items():
        if impath not in known:
            new.setdefault(states[impath].content, []).append(image)
    kept = []
    for part, item in rows:
        before = split.files.get(item.impath)
        if image := found.get(item.impath):
            if before is not None and states[item.impath].content != before.content:
                changes.replaced.append(item.impath)
        elif before is not None and new.get(before.content):
            image = new[before.content].pop(0)
            changes.renamed.append(f"{item.impath} to {image.impath}")
        else:
            changes.removed.append(item.impath)
            continue
        kept.append((part, item, image))
    changes.added += sorted(image.impath for own in new.values() for image in own)
    return kept


def _number_classes(
    split: ImageDataset, kept: list[tuple[str, Item, Found]], names: dict[str, str], changes: _Changes
) -> dict[str, int]:
    """Return the number of each found label: of the class of its name, else of the class that its images were in."""
    known = {name: number for number, name in enumerate(split.classnames)}
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
            changes.classes.append(f"class {split.classnames[before]} is called {name} now")
    gone = [name for number, name in enumerate(split.classnames) if number not in numbers.values()]
    changes.classes += [f"class {name} is gone" for name in gone]
    rank = {number: at for at, number in enumerate(sorted(numbers.values()))}
    changes.moved += [image.impath for _, item, image in kept if numbers[image.label] != item.label]
    return {label: rank[number] for label, number in numbers.items()}


def _place(kept: list[tuple[str, Item, Found]], images: list[Found], changes: _Changes) -> dict[str, list[Found]]:
    """Return the images by split: as the folder has them, else as before, else divided within their class.

    A class that lost all its training images is divided anew, as far as the folder leaves it open.
    """
    val_is_drawn = not any(image.part == "val" for image in images)
    before = {image.impath: part for part, _, image in kept}
    there = {}
    for part, _, image in kept:
        is_free = image.part is None or (part == "val" and _is_drawn(image, val_is_drawn))
        there[image.impath] = part if is_free else image.part
    trained = {image.label for image in images if there.get(image.impath, image.part) in (None, "train")}
    lists: dict[str, list[Found]] = {part: [] for part in SPLITS}
    by_class: dict[str, list[Found]] = {}
    for image in images:
        stays = image.impath in there and (image.label in trained or not _is_drawn(image, val_is_drawn))
        (lists[there[image.impath]] if stays else by_class.setdefault(image.label, [])).append(image)
    counts = Counter((part, image.label) for part in SPLITS for image in lists[part])
    for label, own in by_class.items():
        of_class = {part: counts[part, label] for part in SPLITS}
        for part, of_part in _divide_more(own, of_class, label, val_is_drawn).items():
            lists[part] += of_part
    placed = ((part, image.impath) for part in SPLITS for image in lists[part])
    changes.moved += [impath for part, impath in placed if before.get(impath, part) != part]
    return lists


def _is_drawn(image: Found, val_is_drawn: bool) -> bool:
    """Return whether the folder leaves open which split an image belongs to."""
    return image.part is None or (image.part == "train" and val_is_drawn)


def _divide_more(images: list[Found], there: dict[str, int], label: str, val_is_drawn: bool) -> dict[str, list[Found]]:
    """Divide more images of a class that has `there` of each split: each goes where the class lacks most."""
    lists: dict[str, list[Found]] = {part: [] for part in SPLITS}
    given = {image.part for image in images} - {None}
    parts = ("train", "val") if given and val_is_drawn else SPLITS
    to_divide: list[Found] = []
    for image in images:
        (to_divide if _is_drawn(image, val_is_drawn) else lists[image.part]).append(image)
    if not sum(there[part] for part in parts):  # a new class
        divided = divide(to_divide, parts, label)
        return {part: lists[part] + divided.get(part, []) for part in SPLITS}
    share = sum(SHARES[part] for part in parts)
    for image in random.Random(label).sample(to_divide, len(to_divide)):
        total = sum(there[part] for part in parts) + 1
        part = max(parts, key=lambda part: SHARES[part] / share * total - there[part])
        there[part] += 1
        lists[part].append(image)
    return lists


def _depth(split: ImageDataset, new: list[str], files: Collection[str]) -> int | None:
    """Return the depth of the images with those that are `new`, which must be images; None if it was not known.

    The depth of a dataset without images of more than 8 bits is that of the first ones that come.
    """
    found = inspect_images(split.image_dir, new)
    if None in (found, split.depth) or found == split.depth:
        return split.depth
    others = sorted(set(files).difference(new))
    return found if inspect_images(split.image_dir, others) is None else max(found, split.depth)


def _require_images(
    items: dict[str, list[Item]], numbers: Collection[str], names: dict[str, str], split_file: Path
) -> None:
    """Raise UserError for classes without an image to train on, and for parts without an image."""
    trained = {item.classname for item in items["train"]}
    if short := [names[label] for label in numbers if names[label] not in trained]:
        raise UserError(
            f"{split_file}: no image to train on is left of {list_preview(short)}. Add some, remove the class, or"
            " delete this file: the images are then divided anew"
        )
    if empty := [part for part in SPLITS if not items[part]]:
        raise UserError(
            f"{split_file}: no image is left in {' and '.join(empty)}. Add some, or delete this file: the images are"
            " then divided anew"
        )
