"""The three formats in which datasets store their lists on disk (PROTOCOL section 2).

A format is a small frozen dataclass. Its fields hold the dataset's entry in the table in `registry`, and
`read(name, root, check_images)` reads an ImageDataset from the dataset's folder `root`. Every error is a UserError that
names the file and the first offenders.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.datasets import checks
from engine.datasets.image_dataset import SPLITS, FileState, ImageDataset, Item
from engine.datasets.image_files import SkippedFiles
from engine.errors import UserError
from engine.files import read_json, read_lines
from engine.preprocessing import DEPTH

IGNORED = {"README.txt"}
"""Files in class folders that are not images (ImageNet-A and -R have one)."""


@dataclass(frozen=True)
class JsonSplit:
    """CoOp's format: an object with `train`, `val` and `test`, each a list of `[impath, label, class name]`.

    For a custom dataset it also has the states of the image files, under `images`, and their `depth`.
    """

    folder: str
    images: str
    split_file: str

    def read(self, name: str, root: Path, check_images: bool) -> ImageDataset:
        """Read the split file in `root`. Raises UserError for a wrong format, wrong labels or missing images."""
        path = checks.require(root / self.split_file, "split file", name)
        rows = _json_rows(path)
        classnames = _classnames(rows, path)
        # items share the name strings: a million copies of a class name take 80 MB
        lists = {
            split: [Item(impath, label, classnames[label]) for impath, label, _ in rows[split]] for split in SPLITS
        }
        dataset = _assemble(name, root / self.images, lists, classnames, check_images)
        return replace(dataset, files=_file_states(rows.get("images", {}), path), depth=_depth(rows, path))


@dataclass(frozen=True)
class VariantLists:
    """FGVC Aircraft's format: class names in `variants.txt`, a list of `<image id> <class name>` lines per split."""

    folder: str
    images: str

    def read(self, name: str, root: Path, check_images: bool) -> ImageDataset:
        """Read the four text files in `root`. Raises UserError for a malformed line or missing files."""
        variants = checks.require(root / "variants.txt", "list of classes", name)
        classnames = read_lines(variants)
        labels = {classname: label for label, classname in enumerate(classnames)}
        if len(labels) < len(classnames):
            twice = [classname for label, classname in enumerate(classnames) if labels[classname] != label]
            raise UserError(f"{variants}: listed more than once: {checks.list_preview(twice)}")
        lists = {split: self._read_list(root / f"images_variant_{split}.txt", name, labels) for split in SPLITS}
        checks.check_labels({item.label for split in SPLITS for item in lists[split]}, len(classnames), variants)
        return _assemble(name, root / self.images, lists, classnames, check_images)

    @staticmethod
    def _read_list(path: Path, name: str, labels: dict[str, int]) -> list[Item]:
        items = []
        for number, line in enumerate(read_lines(checks.require(path, "list of images", name)), start=1):
            image, _, classname = line.partition(" ")
            if classname not in labels or "/" in image:
                raise UserError(f"{path}, line {number}: not `<image id> <class name of variants.txt>`: {line!r}")
            items.append(Item(f"{image}.jpg", labels[classname], classname))
        if not items:
            raise UserError(f"{path}: empty")
        return items


@dataclass(frozen=True)
class ClassFolders:
    """A test set with one folder per class, a shifted variant of the dataset `parent`.

    `classnames.txt` in the dataset's own folder has a line `<id> <class name>` per class of the parent, in the order
    of the parent's labels. Label k is the k-th class folder: the folders are named by these ids and sorted, or, with
    `numbered`, named by the parent's labels. One in `one_in` of the parent's classes has a folder; None: any number.
    """

    folder: str
    images: str
    parent: str
    numbered: bool = False
    one_in: int | None = 1

    def read(self, name: str, root: Path, check_images: bool) -> ImageDataset:
        """List the class folders. Raises UserError if some are unknown, missing or empty."""
        names = _names_by_id(checks.require(root / "classnames.txt", "list of classes", name))
        ids = [str(label) for label in range(len(names))] if self.numbered else list(names)
        image_dir = checks.require(root / self.images, "image folder", name)
        skipped = SkippedFiles()
        folders = [entry.name for entry in skipped.list_folder(image_dir) if entry.is_dir()]
        self._check(folders, ids, name, image_dir)
        folders = sorted(folders, key=int) if self.numbered else sorted(folders)
        label_of = {class_id: label for label, class_id in enumerate(ids)}
        parent_labels = [label_of[folder] for folder in folders]
        parent_names = list(names.values())
        classnames = [parent_names[label] for label in parent_labels]
        test = [
            Item(f"{folder}/{file}", label, classnames[label])
            for label, folder in enumerate(folders)
            for file in _image_files(image_dir / folder, skipped)
        ]
        notes = tuple(skipped.notes(image_dir))
        return ImageDataset(name, image_dir, [], [], test, classnames, parent_labels, notes=notes)

    def _check(self, folders: list[str], ids: list[str], name: str, image_dir: Path) -> None:
        """Raise UserError unless the folders are classes of the parent: all of them, or the share `one_in`."""
        present = set(folders)
        unknown = sorted(present - set(ids))
        if unknown:
            raise UserError(f"{image_dir}: folders that are not classes: {checks.list_preview(unknown)}")
        absent = [class_id for class_id in ids if class_id not in present] if self.one_in == 1 else []
        if absent:
            raise UserError(f"{image_dir}: class folders are missing: {checks.list_preview(absent)}")
        wanted = len(ids) // self.one_in if self.one_in else None
        if not folders or wanted not in (None, len(folders)):
            expected = f"{name} has {wanted} of {self.parent}'s {len(ids)}" if wanted else "it needs at least one"
            raise UserError(f"{image_dir}: {len(folders)} class folders, but {expected}; incomplete installation?")


def _assemble(
    name: str, image_dir: Path, lists: dict[str, list[Item]], classnames: list[str], check_images: bool
) -> ImageDataset:
    """Return the ImageDataset of three lists. With `check_images`, raise UserError if images are missing."""
    if check_images:
        checks.require(image_dir, "image folder", name)
        checks.check_images((item.impath for split in SPLITS for item in lists[split]), image_dir, name)
    return ImageDataset(name, image_dir, **lists, classnames=classnames)


def _json_rows(path: Path) -> dict[str, list[Any]]:
    """Return the rows of a split file by split. Raises UserError unless each is `[impath, label, class name]`."""
    content = read_json(path)
    if not isinstance(content, dict) or any(not isinstance(content.get(split), list) for split in SPLITS):
        raise UserError(f"{path}: not a split file, which is an object with the lists train, val and test")
    for split in SPLITS:
        if not content[split]:
            raise UserError(f"{path}: {split} is empty")
        for number, row in enumerate(content[split]):
            if not _is_row(row):
                raise UserError(
                    f"{path}: {split}[{number}] is not [path relative to the images, label from 0, class name]:"
                    f" {json.dumps(row)[:200]}"
                )
    return content


def _file_states(states: Any, path: Path) -> dict[str, FileState]:
    """Return the states of image files by impath. Raises UserError for anything but [bytes, ns, content digest]."""
    try:
        files = {impath: FileState(*state) for impath, state in states.items()}
        sound = all(
            type(state.size) is type(state.modified) is int and re.fullmatch("[0-9a-f]{32}", state.content)
            for state in files.values()
        )
    except (AttributeError, TypeError):
        sound = False
    if not sound:
        raise UserError(f'{path}: "images" does not have [bytes, modification time, content digest] for each image')
    return files


def _depth(content: dict[str, Any], path: Path) -> int | None:
    """Return the `depth` in a split file, or None. Raises UserError for a depth that no image can have."""
    depth = content.get("depth")
    if depth is not None and (type(depth) is not int or not 8 <= depth <= DEPTH):
        raise UserError(f'{path}: "depth" must be a number of bits from 8 to {DEPTH}, not {json.dumps(depth)[:50]}')
    return depth


def _is_row(row: Any) -> bool:
    """Return whether `row` is an image path inside the image folder, a label and a class name."""
    if not isinstance(row, list) or [type(value) for value in row] != [str, int, str]:
        return False
    impath, label, _ = row
    return label >= 0 and bool(impath) and not impath.startswith("/") and ".." not in impath.split("/")


def _classnames(rows: dict[str, list[Any]], path: Path) -> list[str]:
    """Return class names by label. Raises UserError for a label with two names or without images.

    Two classes of the same name are allowed: ImageNet has them (crane, maillot).
    """
    names: dict[int, str] = {}
    two_names: dict[int, str] = {}
    for split in SPLITS:
        for _, label, classname in rows[split]:
            if names.setdefault(label, classname) != classname:
                two_names.setdefault(label, f"{label} ({names[label]!r}, {classname!r})")
    if two_names:
        raise UserError(f"{path}: labels with two names: {checks.list_preview(two_names.values(), len(two_names))}")
    checks.check_labels(names.keys(), max(names) + 1, path)
    return [names[label] for label in range(len(names))]


def _names_by_id(path: Path) -> dict[str, str]:
    """Return the class names in a `classnames.txt` by class id, in the order of its lines."""
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        class_id, _, classname = line.partition(" ")
        if not classname or class_id in names:
            problem = "the id occurs twice" if classname else "not `<id> <class name>`"
            raise UserError(f"{path}, line {number}: {problem}: {line!r}")
        names[class_id] = classname
    return names


def _image_files(folder: Path, skipped: SkippedFiles) -> list[str]:
    """Return the names of the images in a class folder. Raises UserError if there are none."""
    files = [entry.name for entry in skipped.list_folder(folder) if entry.is_file() and entry.name not in IGNORED]
    if not files:
        raise UserError(f"{folder}: a class folder without images")
    return files
