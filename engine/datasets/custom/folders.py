"""Find the images of a folder: class folders, or split folders (train, val, test) with class folders in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from engine.datasets.checks import list_preview, pluralize
from engine.datasets.custom.split_names import parse_split
from engine.datasets.image_dataset import SPLITS
from engine.datasets.image_files import SkippedFiles, is_image
from engine.errors import UserError


@dataclass(frozen=True)
class FoundImage:
    """An image: `label` is its class folder or its label in the CSV; `split` is None if it is still to be drawn."""

    impath: str
    label: str
    split: str | None = None


@dataclass
class FolderSkips(SkippedFiles):
    """Ignored names, and `loose`: images beside class folders."""

    loose: list[str] = field(default_factory=list)

    def notes(self, place: str | os.PathLike[str]) -> list[str]:
        """Return a note for each kind of ignored files."""
        loose = f"{pluralize(len(self.loose), 'image')} ({list_preview(self.loose)})"
        note = f"{place}: ignored because they are in no class folder: {loose}"
        return [*super().notes(place), *[note] * bool(self.loose)]


def find_in_folders(root: Path) -> tuple[list[FoundImage], list[str]]:
    """Return the images under a folder, by class in the order of their folders' names, and notes on ignored files.

    Raises UserError for an unknown or ambiguous layout.
    """
    skips = FolderSkips()
    split_folders: dict[str, list[str]] = {}
    others = []
    for entry in visible(root, FolderSkips()):
        if entry.is_dir() and (split := parse_split(entry.name)):
            split_folders.setdefault(split, []).append(entry.name)
        elif entry.is_dir():
            others.append(entry.name)
    if not split_folders or (others and not (len(split_folders) > 1 and "train" in split_folders)):
        return _find_classes(root, "", skips), skips.notes(root)
    _check_split_folders(root, split_folders, others)
    skips.loose += [entry.name for entry in visible(root, skips) if not entry.is_dir() and is_image(entry.name)]
    images = []
    for split, (folder,) in split_folders.items():
        images += _find_classes(root, f"{folder}/", skips, split)
    images.sort(key=lambda image: (image.label, SPLITS.index(image.split)))
    return images, skips.notes(root)


def _check_split_folders(root: Path, split_folders: dict[str, list[str]], others: list[str]) -> None:
    """Raise UserError unless each split has one folder, train and test exist, and no other folder is beside them."""
    pairs = [(split, folder) for split, folders in split_folders.items() for folder in folders]
    found = ", ".join(folder if folder == split else f"{folder} ({split})" for split, folder in pairs)
    for split, folders in split_folders.items():
        if len(folders) > 1:
            raise UserError(f"{root}: {' and '.join(folders)} all mean {split}; keep one, and move the others away")
    if missing := [split for split in ("train", "test") if split not in split_folders]:
        remedy = "" if "val" not in split_folders else f". If you test on {split_folders['val'][0]}, rename it test"
        raise UserError(
            f"{root} has the folders {found}, but no {' and no '.join(missing)}. It needs train and test, and may have"
            " val, which is otherwise drawn from train; or it needs one folder per class" + remedy
        )
    if others:
        raise UserError(
            f"{root} has the folders {found}, and others beside them: {list_preview(others)}. Move the others away, or"
            " rename them train, val or test"
        )


def reject_ambiguous_classes(root: Path, images: list[FoundImage]) -> None:
    """Raise UserError if all class folders have the same subfolders, which may be the real classes.

    A single shared subfolder is fine (`cat/images/1.jpg`, `dog/images/1.jpg`). So is one class named like a split
    (`train`, beside `car`) with images directly in its folder.
    """
    inside: dict[str, set[str]] = {}
    direct = set()
    for image in images:
        folders = PurePosixPath(image.impath).parts[1 if image.split is None else 2 : -1]
        inside.setdefault(image.label, set()).update(folders[:1])
        direct |= set() if folders else {image.label}
    shared = sorted(set.intersection(*inside.values())) if len(inside) > 1 else []
    labels = list_preview(inside)
    if len(shared) > 1 and all(map(parse_split, shared)):
        raise UserError(
            f"{root}: each class ({labels}) has split folders in it: {list_preview(shared)}. Split folders come first,"
            f" with class folders inside: move images to {root / 'train' / next(iter(inside))} and so on"
        )
    if len(shared) > 1:
        raise UserError(
            f"{root}: {labels} would be the classes, but all have the same folders in them:"
            f" {list_preview(shared)}. If these are the classes, rename the folders above them train, val and"
            " test, or move them up; if not, put the images of a class directly into its folder, or list them in a CSV"
        )
    odd = [
        label for label, folders in inside.items() if parse_split(label) and len(folders) > 1 and label not in direct
    ]
    if odd:
        folders = sorted(inside[odd[0]])
        raise UserError(
            f"{root}: {odd[0]} would be a class, but has the name of a split, and folders in it:"
            f" {list_preview(folders)}. If these are the classes, keep only train and test (and val) in {root};"
            f" if not, put the images of {odd[0]} directly into its folder"
        )


def _find_classes(root: Path, inside: str, skips: FolderSkips, split: str | None = None) -> list[FoundImage]:
    """Return the images of the class folders in `inside` (`train/`) of `root`. Raises UserError if a class has none."""
    images: list[FoundImage] = []
    for entry in visible(root / inside, skips):
        if entry.is_dir():
            before = len(skips.endings)
            found = [FoundImage(path, entry.name, split) for path in _walk(root, f"{inside}{entry.name}", skips)]
            if not found:
                others = sorted(set(skips.endings[before:]))
                endings = f" (only files ending in {list_preview(others)})" if others else ""
                raise UserError(f"{entry.path}: a class folder without images{endings}; remove it, or add images")
            images += found
        elif is_image(entry.name):
            skips.loose.append(f"{inside}{entry.name}")
    if not images:
        raise UserError(f"{root / inside} has no folders; it needs one folder per class, with the images in it")
    return images


def _walk(root: Path, folder: str, skips: FolderSkips, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield paths from `root` of all images in and below `folder`, links followed.

    `above` are the real paths of the folders on the way.
    """
    real = os.path.realpath(root / folder)
    if real in above:
        raise UserError(f"{root / folder} is a link to a folder that contains it; remove it")
    for entry in visible(root / folder, skips):
        path = f"{folder}/{entry.name}"
        if entry.is_dir():
            yield from _walk(root, path, skips, (*above, real))
        elif not entry.is_file():
            raise UserError(f"{entry.path}: a link to a missing file, or not a regular file; remove it")
        elif is_image(entry.name):
            yield path
        else:
            skips.add(entry.name)


def visible(folder: Path, skips: SkippedFiles) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name, without skipped ones. Raises UserError for names not in UTF-8."""
    seen = skips.list_folder(folder)
    if odd := [ascii(entry.name) for entry in seen if not _is_text(entry.name)]:
        raise UserError(f"{folder}: names that are not in UTF-8; rename them: {list_preview(odd)}")
    return seen


def _is_text(name: str) -> bool:
    """Return whether a file's name is text: Python uses lone surrogates for other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
