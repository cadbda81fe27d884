"""Images of one's own, by their path: a folder of class folders, one of train/, val/ and test/, or a list in a CSV.

The first reading draws what is not given, and writes a split file in CoOp's format beside the images:

    <folder>/split.json          <list>.split.json for <list>.csv

From then on that file says to which split an image belongs. It has the size, modification time and content digest of
each image, so that images that are replaced, added, removed or renamed are noticed (`tracking`), and the file is
brought up to date.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from engine.datasets.custom.classnames import check_classes, renamed
from engine.datasets.custom.dividing import copies_note, draw, inspect_images, new_split, write_split
from engine.datasets.custom.folders import doubt_classes, from_folders
from engine.datasets.custom.lists import from_list
from engine.datasets.custom.split_names import gaps
from engine.datasets.custom.tracking import file_states, update
from engine.datasets.image_dataset import ImageDataset
from engine.datasets.readers import JsonSplit
from engine.errors import UserError
from engine.files import CannotOpen
from engine.preprocessing import DEPTH

UP_TO_DATE = (
    "The file is up to date now. Few-shot splits keep their other images, features.py makes what is missing, and"
    " train.py trains the runs again that used what changed"
)
OUTDATED = "features.py brings the file up to date"


@dataclass(frozen=True)
class CustomDataset:
    """Images at a path that was `given` on a command line: a folder, or a CSV."""

    path: str

    @property
    def folder(self) -> str:
        """The same path, absolute, so that it lies nowhere under DATA_DIR."""
        return os.path.abspath(self.path)

    @property
    def split_file(self) -> Path:
        """The file that says how the images are divided, beside them."""
        path = Path(self.path)
        return path.with_name(f"{path.stem}.split.json") if path.is_file() else path / "split.json"

    def forget(self, split: ImageDataset, impaths: Iterable[str]) -> None:
        """Note in the split file that these images are to be looked at, whatever their size and time."""
        unseen = {impath: replace(split.files[impath], modified=0) for impath in impaths if impath in split.files}
        write_split(replace(split, files=split.files | unseen), self.split_file)

    def read(self, name: str, root: Path, check_images: bool, write: bool = True) -> ImageDataset:
        """Read the images, with the split file beside them, which is drawn if there is none, and written if `write`.

        `root` is `folder`; messages have it as it was given. What a person should know of the reading is in the `notes`
        of the benchmark. Raises UserError for images, classes or lists that make no dataset, and for a split file that
        does not belong to them.
        """
        path = Path(self.path)
        is_list = not path.is_dir()
        if is_list and not (path.is_file() and path.suffix.lower() == ".csv"):
            raise UserError(f"{path} is neither a folder of images nor a list of them, which ends in .csv")
        folder, split_file = path.parent if is_list else path, self.split_file
        is_there = split_file.exists()
        if is_there and not check_images:
            return replace(_read_split(name, folder, split_file), upright=True)
        images, notes = from_list(path) if is_list else from_folders(path)
        names = renamed(list(dict.fromkeys(image.label for image in images)), folder)
        notes += check_classes(names, path)
        if is_there:
            before = _read_split(name, folder, split_file)
            split, changed = update(before, images, names, split_file)
            if split.depth is None:  # the file is of an earlier version
                split = replace(split, depth=inspect_images(folder, sorted(split.files)) or DEPTH)
            if changed:
                notes.append(f"{split_file} is older than the images: {changed}. {UP_TO_DATE if write else OUTDATED}")
            if write and split != before:
                with suppress(*() if changed else (UserError,)):  # times alone need no folder that can be written to
                    write_split(split, split_file)
        else:
            if not is_list:
                doubt_classes(path, images)
            split = new_split(draw(images, path), names, name, folder)
            split = replace(split, files=file_states(folder, (image.impath for image in images), {}))
            notes += [write_split(split, split_file)] if write else []
        return replace(split, notes=(*notes, *gaps(split), *copies_note(split)), upright=True)


def _read_split(name: str, folder: Path, split_file: Path) -> ImageDataset:
    """Read the split file beside the images. Raises UserError, which says what becomes of a damaged one."""
    try:
        return JsonSplit("", ".", split_file.name).read(name, folder, check_images=False)
    except CannotOpen:
        raise
    except UserError as error:
        raise UserError(f"{error}. Restore this file, or delete it: the images are then divided anew") from error
