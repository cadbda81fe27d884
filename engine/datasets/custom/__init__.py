"""Custom datasets, read from a path: a folder of class folders, a folder with train/, val/ and test/, or a CSV.

The first `read` draws the splits that the layout leaves open, and writes a split file in CoOp's format:

    <folder>/split.json          <list>.split.json for <list>.csv

From then on that file decides to which split an image belongs. It has the size, modification time and content digest of
each image. Images that are replaced, added, removed or renamed are thus detected, and the file is updated (`tracking`).
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class CustomDataset:
    """The images at a `path`, a folder or a CSV, as typed on the command line."""

    path: str

    @property
    def folder(self) -> str:
        """Return the absolute path, which joined to DATA_DIR stays itself."""
        return os.path.abspath(self.path)

    @property
    def split_file(self) -> Path:
        """Return the path of the split file beside the images."""
        path = Path(self.path)
        return path.with_name(f"{path.stem}.split.json") if path.is_file() else path / "split.json"

    def forget(self, dataset: ImageDataset, impaths: Iterable[str]) -> None:
        """Mark these images in the split file, so that the next `read` reads their content, whatever size and time."""
        unseen = {impath: replace(dataset.files[impath], modified=0) for impath in impaths if impath in dataset.files}
        write_split(replace(dataset, files=dataset.files | unseen), self.split_file)

    def read(self, name: str, root: Path, check_images: bool, write: bool = True) -> ImageDataset:
        """Read the images and the split file beside them. Draw the splits if it is missing; write it if `write`.

        `root` is `folder`; messages show the path as typed. Remarks for the user are in the `notes` of the dataset.
        Raises UserError for images, classes or lists that do not form a dataset, and for a split file that does not
        match them.
        """
        path = Path(self.path)
        is_list = not path.is_dir()
        if is_list and not (path.is_file() and path.suffix.lower() == ".csv"):
            raise UserError(f"{path} is neither a folder of images nor a list of images, a file that ends in .csv")
        folder, split_file = path.parent if is_list else path, self.split_file
        has_split = split_file.exists()
        if has_split and not check_images:
            return replace(_read_split(name, folder, split_file), upright=True)
        images, notes = read_list(path) if is_list else find_in_folders(path)
        names = load_class_names(list(dict.fromkeys(image.label for image in images)), folder)
        notes += check_classes(names, path)
        if has_split:
            before = _read_split(name, folder, split_file)
            dataset, changed = update(before, images, names, split_file)
            if dataset.depth is None:  # the file is from an earlier version
                dataset = replace(dataset, depth=inspect_images(folder, sorted(dataset.files)) or DEPTH)
            if changed:
                notes.append(f"{split_file} is older than the images: {changed}. {UPDATED if write else OUTDATED}")
            if write and dataset != before:
                with suppress(*() if changed else (UserError,)):  # if only times differ, a read-only folder is fine
                    write_split(dataset, split_file)
        else:
            if not is_list:
                reject_ambiguous_classes(path, images)
            dataset = new_split(draw(images, path), names, name, folder)
            dataset = replace(dataset, files=file_states(folder, (image.impath for image in images), {}))
            notes += [write_split(dataset, split_file)] if write else []
        return replace(dataset, notes=(*notes, *note_gaps(dataset), *note_copies(dataset)), upright=True)


def _read_split(name: str, folder: Path, split_file: Path) -> ImageDataset:
    """Read the split file beside the images. Raises UserError with a remedy if it is damaged."""
    try:
        return JsonSplit("", ".", split_file.name).read(name, folder, check_images=False)
    except CannotOpen:
        raise
    except UserError as error:
        raise UserError(f"{error}. Restore this file, or delete it to divide the images again") from error
