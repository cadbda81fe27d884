"""Custom datasets, read from a path: a folder of class folders, a folder with train/, val/ and test/, or a CSV.

The first `read` draws the splits that the layout leaves open, and writes a split file in CoOp's format:

    <folder>/split.json          <list>.split.json for <list>.csv
    indices/<name>/split.json    if the folder cannot be written

From then on that file decides to which split an image belongs. It has the size, modification time and content digest of
each image. Images that are replaced, added, removed or renamed are thus detected, and the file is updated (`tracking`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from engine.datasets.custom.classnames import check_classes, load_class_names
from engine.datasets.custom.dividing import draw, inspect_images, new_split, note_copies, write_split
from engine.datasets.custom.folders import find_in_folders, reject_ambiguous_classes
from engine.datasets.custom.lists import read_list
from engine.datasets.custom.split_names import note_gaps
from engine.datasets.custom.tracking import file_states, update
from engine.datasets.image_dataset import ImageDataset
from engine.datasets.readers import JsonSplit
from engine.errors import UserError
from engine.files import CannotOpen
from engine.preprocessing import DEPTH

UPDATED = (
    "The file is updated. Few-shot splits keep their other images, features.py makes the missing features, and train.py"
    " trains the affected runs again"
)
OUTDATED = "To update the file, run features.py"


READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors of writing for want of permission."""


@dataclass(frozen=True)
class CustomDataset:
    """The images at a `path`, a folder or a CSV, as typed on the command line."""

    path: str

    @property
    def folder(self) -> str:
        """Return the absolute path, which joined to DATA_DIR stays itself."""
        return os.path.abspath(self.path)

    def split_file(self, name: str, indices_dir: str | Path | None) -> Path:
        """Return the path of the split file: the file in `indices_dir` if it exists, else the file beside the images.

        The file in `indices_dir` is the later one: it is written where the file beside the images cannot be.
        """
        if indices_dir is not None and (elsewhere := _elsewhere(name, indices_dir)).exists():
            return elsewhere
        path = Path(self.path)
        return path.with_name(f"{path.stem}.split.json") if path.is_file() else path / "split.json"

    def forget(self, dataset: ImageDataset, impaths: Iterable[str], indices_dir: str | Path | None) -> None:
        """Mark these images in the split file, so that the next `read` reads their content, whatever size and time."""
        unseen = {impath: replace(dataset.files[impath], modified=0) for impath in impaths if impath in dataset.files}
        split_file = self.split_file(dataset.name, indices_dir)
        _write(replace(dataset, files=dataset.files | unseen), split_file, indices_dir)

    def read(
        self,
        name: str,
        root: Path,
        check_images: bool,
        write: bool = True,
        indices_dir: str | Path | None = None,
    ) -> ImageDataset:
        """Read the images and their split file. Draw the splits if it is missing; write it if `write`.

        `root` is `folder`; messages show the path as typed. Remarks for the user are in the `notes` of the dataset.
        Raises UserError for images, classes or lists that do not form a dataset, and for a split file that does not
        match them.
        """
        path = Path(self.path)
        is_list = not path.is_dir()
        if is_list and not (path.is_file() and path.suffix.lower() == ".csv"):
            raise UserError(f"{path} is neither a folder of images nor a list of images, a file that ends in .csv")
        folder, split_file = path.parent if is_list else path, self.split_file(name, indices_dir)
        has_split = split_file.exists()
        if has_split and not check_images:
            return replace(_read_split(name, folder, split_file), upright=True)
        images, notes = read_list(path) if is_list else find_in_folders(path)
        names = load_class_names(list(dict.fromkeys(image.label for image in images)), folder)
        notes += check_classes(names, path)
        if has_split:
            before = _read_split(name, folder, split_file)
            dataset, changed = update(before, images, names, split_file)
            if split_file.parent != folder:
                _require_common(before, dataset, split_file)
            if dataset.depth is None:  # the file is from an earlier version
                dataset = replace(dataset, depth=inspect_images(folder, sorted(dataset.files)) or DEPTH)
            if changed:
                notes.append(f"{split_file} is older than the images: {changed}. {UPDATED if write else OUTDATED}")
            if write and dataset != before:
                with suppress(*() if changed else (UserError,)):  # the file can stay if only times differ
                    _write(dataset, split_file, indices_dir if changed else None)
                if (updated := self.split_file(name, indices_dir)) != split_file:
                    notes.append(f"{updated} is the updated file: {split_file.parent} cannot be written")
        else:
            if not is_list:
                reject_ambiguous_classes(path, images)
            dataset = new_split(draw(images, path), names, name, folder)
            dataset = replace(dataset, files=file_states(folder, (image.impath for image in images), {}))
            notes += [_write(dataset, split_file, indices_dir)] if write else []
        return replace(dataset, notes=(*notes, *note_gaps(dataset), *note_copies(dataset)), upright=True)


def _elsewhere(name: str, indices_dir: str | Path) -> Path:
    """Return the path of the split file of images in a folder that cannot be written."""
    return Path(indices_dir) / name / "split.json"


def _write(dataset: ImageDataset, split_file: Path, indices_dir: str | Path | None) -> str:
    """Write a split file, in `indices_dir` (unless it is None) if the folder is read-only; return a note on it."""
    try:
        return write_split(dataset, split_file)
    except UserError as error:
        if indices_dir is None or getattr(error.__cause__, "errno", None) not in READ_ONLY:
            raise
    note = write_split(dataset, _elsewhere(dataset.name, indices_dir))
    return f"{note}; {split_file.parent} cannot be written"


def _require_common(before: ImageDataset, now: ImageDataset, split_file: Path) -> None:
    """Raise UserError if a split file that is not beside the images is of other images."""
    then, contents = ({state.content for state in found.files.values()} for found in (before, now))
    if then.isdisjoint(contents):
        raise UserError(
            f"{split_file} has none of the images in {now.image_dir}. If it belongs to another folder of the same name,"
            " rename that folder or pass another --indices_dir; otherwise remove this file"
        )


def _read_split(name: str, folder: Path, split_file: Path) -> ImageDataset:
    """Read a split file. Raises UserError with a remedy if it is damaged."""
    try:
        found = JsonSplit("", ".", split_file.name).read(name, split_file.parent, check_images=False)
    except CannotOpen:
        raise
    except UserError as error:
        raise UserError(f"{error}. Restore this file, or delete it to divide the images again") from error
    return replace(found, image_dir=folder)
