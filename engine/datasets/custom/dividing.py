"""How images are divided into train, val and test: drawn once, written beside the images, compared from then on."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from engine.datasets import checks
from engine.datasets.benchmark import PARTS, Benchmark, Item
from engine.datasets.checks import counted, first
from engine.datasets.custom.finding import Found
from engine.errors import UserError
from engine.files import write_text

HEAD = 1 << 16
"""How many bytes of a file tell it from others of its size: to read all of many photographs takes minutes."""

SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}
"""How the images of a class are divided where nothing says it, as CoOp does for datasets without a split."""


def compare(images: list[Found], names: dict[str, str], split: Benchmark, split_file: Path) -> list[str]:
    """Notes on what a split file leaves out; raises UserError where it has images or classes that are not there."""
    anew = (
        f"delete {split_file}, and what indices, features and experiments have of {split.name}: it is then drawn anew"
    )
    found = {image.impath: image for image in images}
    listed = [(item.impath, (item.classname, part)) for part in PARTS for item in split.part(part)]
    known = dict(listed)
    if twice := [impath for impath, count in Counter(impath for impath, _ in listed).items() if count > 1]:
        raise UserError(f"{split_file} has images more than once: {first(twice, len(twice))}; leave one line of each")
    if missing := [impath for impath in known if impath not in found]:
        raise UserError(
            f"{split_file} lists {counted(len(missing), 'image')} that the folder lacks:"
            f" {first(missing, len(missing))}. Put back what is gone, or {anew}"
        )
    drawn = not any(image.part == "val" for image in images)
    other = [
        impath
        for impath, (classname, part) in known.items()
        if names[found[impath].label] != classname
        or found[impath].part not in (None, part, "train" if part == "val" and drawn else part)
    ]
    if other:
        raise UserError(
            f"{split_file} says another class name or part of {counted(len(other), 'image')} than there is now:"
            f" {first(other, len(other))}; {anew}"
        )
    added = [image for image in images if image.impath not in known]
    new = dict.fromkeys(names[image.label] for image in added if names[image.label] not in split.classnames)
    classes = f" (of new classes too: {first(new, len(new))})" if new else ""
    what = f"leaves out {counted(len(added), 'image')}{classes}: {first((i.impath for i in added), len(added))}"
    return [f"{split_file} is older, and {what}. For a split that has all, {anew}"] if added else []


def new_split(parts: dict[str, list[Found]], names: dict[str, str], name: str, folder: Path) -> Benchmark:
    """The images by part as a dataset, after a look at what an image must be."""
    files, notes = _look_at(folder, sorted(image.impath for own in parts.values() for image in own))
    labels = {label: number for number, label in enumerate(names)}
    items = {part: [Item(i.impath, labels[i.label], names[i.label]) for i in own] for part, own in parts.items()}
    return Benchmark(name, folder, **items, classnames=list(names.values()), files=files, notes=tuple(notes))


def write_split(split: Benchmark, split_file: Path) -> str:
    """Write the split file; a note of what it has."""
    lists = {
        part: [json.dumps([i.impath, i.label, i.classname], ensure_ascii=False) for i in split.part(part)]
        for part in PARTS
    }
    text = ",\n".join(f'"{part}": [\n' + ",\n".join(rows) + "\n]" for part, rows in lists.items())
    try:
        write_text(split_file, f'{{\n{text},\n"files": "{split.files}"\n}}\n')
    except UserError as error:
        raise UserError(
            f"{error}. The split is written beside the images, once; where that cannot be, a folder elsewhere with"
            f" links to all that is in {split.image_dir} will do as well"
        ) from error
    counts = ", ".join(f"{len(lists[part])} {part}" for part in PARTS)
    return f"{split_file} written: {len(split.classnames)} classes, {counts}"


def draw(images: list[Found], source: Path) -> dict[str, list[Found]]:
    """The images by part, class after class: as given, or drawn from each class, seeded by its label alone.

    A class of few images is trained on, and is then missing in other parts. Raises UserError for classes without an
    image to train on, and for parts without an image of any class.
    """
    given = {image.part for image in images}
    drawn = PARTS if given == {None} else () if "val" in given else ("train", "val")
    classes: dict[str, list[Found]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    parts: dict[str, list[Found]] = {part: [] for part in PARTS}
    untrained = []
    for label, own in classes.items():
        of_class = {part: [image for image in own if image.part == part] for part in PARTS}
        if drawn:
            of_class |= _divide(own if given == {None} else of_class["train"], drawn, label)
        if not of_class["train"]:
            untrained.append(label)
        for part in PARTS:
            parts[part] += of_class[part]
    if untrained:
        raise UserError(
            f"{source}: no images to train on of {first(untrained, len(untrained))}. Add some, or remove the class"
        )
    if empty := [part for part in PARTS if not parts[part]]:
        raise UserError(
            f"{source}: too few images of every class: none is left for {' and '.join(empty)}. A class needs"
            f" {len(drawn)}{' in train' * (given != {None})} to be in each of {', '.join(drawn)}; add some to one class"
            " at least, better to all"
        )
    return parts


def _divide(images: list[Found], parts: Sequence[str], seed: str) -> dict[str, list[Found]]:
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


def _look_at(folder: Path, impaths: list[str]) -> tuple[str, list[str]]:
    """A digest of image files, by their names, sizes and beginnings, and a note on those that are there twice.

    Raises UserError for files that are no images, or too large, before a split is made that has them.
    """
    from engine.images import opened  # a split that is there needs no decoder

    faults, digests = [], {}
    for impath in impaths:
        try:
            with opened(folder / impath):
                digests[impath] = _file_digest(folder / impath)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and more on bad bytes
            faults.append(f"  {folder / impath}: {error}")
    if faults:
        lines = "\n".join([*faults[: checks.SHOWN], *["  ..."] * (len(faults) > checks.SHOWN)])
        raise UserError(f"files that are no images, or too large: {len(faults)}. Replace or remove them:\n{lines}")
    same: dict[str, list[str]] = {}
    for impath, digest in digests.items():
        same.setdefault(digest, []).append(impath)
    copies = [" and ".join(own[:2]) for own in same.values() if len(own) > 1]
    notes = [
        f"{folder}: images that are there more than once, as copies or links: {first(copies, len(copies))}; what is"
        " trained on may be tested on"
    ] * bool(copies)
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest(), notes


def _file_digest(path: Path) -> str:
    """SHA-256 of a file's size and beginning."""
    with path.open("rb") as file:
        return hashlib.sha256(b"%d %b" % (os.fstat(file.fileno()).st_size, file.read(HEAD))).hexdigest()
