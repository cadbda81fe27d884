"""Images of one's own, by their path: a folder of class folders, one of train/, val/ and test/, or a list in a CSV.

The first reading draws what is not given, and writes a split file in CoOp's format beside the images:

    <folder>/split.json          <list>.split.json for <list>.csv

From then on that file is what counts, whatever is added: what was made from its lists stays true. It has a digest of
the image files too, as other folders have the same names: `shop 1/photos/good/0001.jpg`, `shop 2/photos/good/0001.jpg`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from engine.datasets.benchmark import Benchmark
from engine.datasets.custom.classnames import check_classes, renamed
from engine.datasets.custom.dividing import compare, draw, new_split, write_split
from engine.datasets.custom.finding import doubt_classes, from_folders
from engine.datasets.custom.lists import from_list
from engine.datasets.custom.parts import gaps
from engine.datasets.readers import JsonSplit
from engine.errors import UserError


@dataclass(frozen=True)
class Own:
    """Images at a path that was `given` on a command line: a folder, or a CSV."""

    given: str

    @property
    def folder(self) -> str:
        """The same path, absolute, so that it lies nowhere under DATA_DIR."""
        return os.path.abspath(self.given)

    def read(self, name: str, root: Path, check_images: bool, write: bool = True) -> Benchmark:
        """Read the images, with the split file beside them, which is drawn if there is none, and written if `write`.

        `root` is `folder`; messages have it as it was given. What a person should know of the reading is in the `notes`
        of the benchmark. Raises UserError for images, classes or lists that make no dataset, and for a split file that
        does not belong to them.
        """
        path = Path(self.given)
        is_list = not path.is_dir()
        if is_list and not (path.is_file() and path.suffix.lower() == ".csv"):
            raise UserError(f"{path} is neither a folder of images nor a list of them, which ends in .csv")
        folder = path.parent if is_list else path
        split_file = folder / (f"{path.stem}.split.json" if is_list else "split.json")
        coop, is_there = JsonSplit("", ".", split_file.name), split_file.exists()
        if is_there and not check_images:
            return replace(coop.read(name, folder, check_images=False), upright=True)
        images, notes = from_list(path) if is_list else from_folders(path)
        names = renamed(list(dict.fromkeys(image.label for image in images)), folder)
        notes += check_classes(names, path)
        if is_there:
            split = coop.read(name, folder, check_images=False)
            notes += compare(images, names, split, split_file)
        else:
            if not is_list:
                doubt_classes(path, images)
            split = new_split(draw(images, path), names, name, folder)
            notes += [*split.notes, *([write_split(split, split_file)] if write else [])]
        return replace(split, notes=(*notes, *gaps(split)), upright=True)
