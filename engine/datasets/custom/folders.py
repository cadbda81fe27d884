"""The images of a folder: class folders, or folders of parts (train, val, test) with class folders in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from engine.datasets.checks import list_preview, pluralize
from engine.datasets.custom.split_names import part_of
from engine.datasets.image_dataset import SPLITS
from engine.datasets.image_files import SkippedFiles, is_image
from engine.errors import UserError


@dataclass(frozen=True)
class Found:
    """An image that was found: `label` is its class folder, or what the CSV says; `part` is None where it is drawn."""

    impath: str
    label: str
    part: str | None = None


@dataclass
class Passed(SkippedFiles):
    """`loose` are images beside class folders."""

    loose: list[str] = field(default_factory=list)

    def notes(self, place: str | os.PathLike[str]) -> list[str]:
        """Return a line for each kind of files that are passed over."""
        count, shown = pluralize(len(self.loose), "image"), list_preview(self.loose)
        loose = f"{place}: beside the class folders, in none, and so left out: {count} ({shown})"
        return [*super().notes(place), *[loose] * bool(self.loose)]


def from_folders(root: Path) -> tuple[list[Found], list[str]]:
    """Return the images under a folder, by class in the order of their folders' names, and notes on what is left out.

    Raises UserError for a layout that is none, or whose parts are not plain.
    """
    passed = Passed()
    parts: dict[str, list[str]] = {}
    others = []
    for entry in visible(root, Passed()):
        if entry.is_dir() and (part := part_of(entry.name)):
            parts.setdefault(part, []).append(entry.name)
        elif entry.is_dir():
            others.append(entry.name)
    if not parts or (others and not (len(parts) > 1 and "train" in parts)):
        return _classes(root, "", passed), passed.notes(root)
    _check_parts(root, parts, others)
    passed.loose += [entry.name for entry in visible(root, passed) if not entry.is_dir() and is_image(entry.name)]
    images = [image for part, (folder,) in parts.items() for image in _classes(root, f"{folder}/", passed, part)]
    images.sort(key=lambda image: (image.label, SPLITS.index(image.part)))
    return images, passed.notes(root)


def _check_parts(root: Path, parts: dict[str, list[str]], others: list[str]) -> None:
    """Raise UserError unless each part has one folder, train and test are there, and nothing is beside them."""
    said = ", ".join(folder if folder == part else f"{folder} ({part})" for part in parts for folder in parts[part])
    for part, folders in parts.items():
        if len(folders) > 1:
            raise UserError(f"{root}: {' and '.join(folders)} all mean {part}; keep one, and move the others away")
    if lacking := [part for part in ("train", "test") if part not in parts]:
        remedy = "" if "val" not in parts else f". If {parts['val'][0]} is what you test on, rename it test"
        raise UserError(
            f"{root} has the folders {said}, and no {' and no '.join(lacking)}. It needs train and test, and may have"
            " val, which is drawn from train otherwise; or else a folder for each class" + remedy
        )
    if others:
        raise UserError(
            f"{root} has the folders {said}, and others beside them: {list_preview(others)}. Move these away, or"
            " rename them train, val or test"
        )


def doubt_classes(root: Path, images: list[Found]) -> None:
    """Raise UserError for "classes" in folders that all have the same folders in them: these may be the classes.

    One such folder alone is no matter (`cat/images/1.jpg`, `dog/images/1.jpg`), and a part as the name of one class
    (`train`, beside `car`) is none if it has images directly in it.
    """
    inside: dict[str, set[str]] = {}
    direct = set()
    for image in images:
        folders = PurePosixPath(image.impath).parts[1 if image.part is None else 2 : -1]
        inside.setdefault(image.label, set()).update(folders[:1])
        direct |= set() if folders else {image.label}
    shared = sorted(set.intersection(*inside.values())) if len(inside) > 1 else []
    labels = list_preview(inside)
    if len(shared) > 1 and all(map(part_of, shared)):
        raise UserError(
            f"{root}: each class ({labels}) has folders of parts in it: {list_preview(shared)}. Parts come first,"
            f" classes inside them: move images to {root / 'train' / next(iter(inside))} and so on"
        )
    if len(shared) > 1:
        raise UserError(
            f"{root}: {labels} would be the classes, but all have the same folders in them:"
            f" {list_preview(shared)}. If these are the classes, rename the folders above them train, val and"
            " test, or move them up; if not, put the images of a class into its folder directly, or list them in a CSV"
        )
    odd = [label for label, folders in inside.items() if part_of(label) and len(folders) > 1 and label not in direct]
    if odd:
        folders = sorted(inside[odd[0]])
        raise UserError(
            f"{root}: {odd[0]} would be a class, but is called as a part is, and has folders in it:"
            f" {list_preview(folders)}. If these are the classes, there should be train and test, and nothing"
            f" beside them; if not, put the images of {odd[0]} into its folder directly"
        )


def _classes(root: Path, inside: str, passed: Passed, part: str | None = None) -> list[Found]:
    """The images of the class folders in a folder `inside` (`train/`) of `root`; raises UserError for one without."""
    images: list[Found] = []
    for entry in visible(root / inside, passed):
        if entry.is_dir():
            before = len(passed.endings)
            found = [Found(path, entry.name, part) for path in _walk(root, f"{inside}{entry.name}", passed)]
            if not found:
                others = sorted(set(passed.endings[before:]))
                endings = f" (what is there ends in {list_preview(others)})" if others else ""
                raise UserError(f"{entry.path}: a class folder without images{endings}; remove it, or put some there")
            images += found
        elif is_image(entry.name):
            passed.loose.append(f"{inside}{entry.name}")
    if not images:
        raise UserError(f"{root / inside} has no folders: it should have one for each class, with its images in it")
    return images


def _walk(root: Path, folder: str, passed: Passed, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths from `root` of all images in `folder` and in folders below, links followed.

    `above` are the real paths of the folders on the way.
    """
    real = os.path.realpath(root / folder)
    if real in above:
        raise UserError(f"{root / folder} is a link to a folder that it lies in; remove it")
    for entry in visible(root / folder, passed):
        path = f"{folder}/{entry.name}"
        if entry.is_dir():
            yield from _walk(root, path, passed, (*above, real))
        elif not entry.is_file():
            raise UserError(f"{entry.path}: a link to a file that is not there, or no file at all; remove it")
        elif is_image(entry.name):
            yield path
        else:
            passed.add(entry.name)


def visible(folder: Path, passed: SkippedFiles) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without what is skipped; raises UserError for names that are no text."""
    seen = passed.list_folder(folder)
    if odd := [ascii(entry.name) for entry in seen if not _is_text(entry.name)]:
        raise UserError(f"{folder}: names that are not in UTF-8, rename them: {list_preview(odd)}")
    return seen


def _is_text(name: str) -> bool:
    """Whether a file's name is text: Python has lone surrogates for other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
