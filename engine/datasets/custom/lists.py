"""The images of a list: a CSV with the columns image, label and perhaps split."""

from __future__ import annotations

import csv
import os
import posixpath
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.datasets import checks
from engine.datasets.checks import list_preview
from engine.datasets.custom.classnames import composed
from engine.datasets.custom.folders import Found
from engine.datasets.custom.split_names import part_of
from engine.datasets.image_files import SkippedFiles, is_system
from engine.errors import UserError

READ = ("image", "label", "split")
"""The columns that are read."""

SEPARATORS = ",;\t"

PART_COLUMNS = {"fold", "folds", "subset", "set", "part", "partition", "phase", "splits", "usage", "mode"}
"""Columns that may mean `split`."""


def from_list(path: Path) -> tuple[list[Found], list[str]]:
    """Return the images of a CSV, by class in the order of the classes' names, and notes on what is left out.

    Raises UserError for what is no list.
    """
    rows, notes = _rows(path)
    passed = SkippedFiles()
    images = []
    for where, row in rows:
        image = _image(row, where, path.parent)
        if system := [name for name in image.impath.split("/") if is_system(name)]:
            passed.skipped.append(system[0])
        else:
            images.append(image)
    if not images:
        raise UserError(f"{path} lists no images")
    images = _find(images, path)
    twice = [impath for impath, count in Counter(image.impath for image in images).items() if count > 1]
    if twice:
        raise UserError(f"{path}: images that are listed more than once: {list_preview(twice)}")
    if images[0].part and not {"train", "test"} <= {image.part for image in images}:
        raise UserError(f"{path}: the column split should have train, test and perhaps val (drawn from train if not)")
    return sorted(images, key=lambda image: (image.label, image.impath)), notes + passed.notes(path)


def _rows(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """The rows of a CSV by the names of its columns, each with its place, and notes on columns that may mean parts."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns, separator = _columns(file.readline(), path)
            if twice := [name for name in READ if columns.count(name) > 1]:
                raise UserError(f"{path}: columns of the same name: {', '.join(twice)}; rename those to be passed over")
            reader = csv.DictReader(file, columns, delimiter=separator)
            rows = [(f"{path}, line {reader.line_num + 1}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error
    for where, row in rows:
        if None in row or None in row.values():
            raise UserError(
                f"{where}: more or fewer fields than the first line has (a separator in one needs quotes around it)"
            )
    return rows, [] if "split" in columns else _unread_parts(rows, columns, path)


def _columns(header: str, path: Path) -> tuple[list[str], str]:
    """The names of columns, in small letters, and what separates them; raises UserError without image and label."""
    read = {}
    for separator in SEPARATORS:
        fields = next(csv.reader([header], delimiter=separator), [])
        read[separator] = [field.strip().lower() for field in fields]
        if {"image", "label"} <= set(read[separator]):
            return read[separator], separator
    columns = max(read.values(), key=len)
    raise UserError(f"{path}: the first line names the columns image,label or image,label,split, not {columns}")


def _unread_parts(rows: list[tuple[str, dict[str, Any]]], columns: list[str], path: Path) -> list[str]:
    """A note on columns that look like parts, or like folds, by their names or by what is in them."""
    odd = [
        name
        for name in columns
        if name not in READ and (name in PART_COLUMNS or (rows and all(part_of(row[name]) for _, row in rows)))
    ]
    said = f"{path}: not read: {', '.join(odd)}. A column that says train, val or test has to be called split"
    return [said] * bool(odd)


def _image(row: dict[str, Any], where: str, folder: Path) -> Found:
    """A row of a list, checked; a path that is absolute is made one from `folder`."""
    impath, label = posixpath.normpath(row["image"].strip() or "."), " ".join(row["label"].split())
    for base in (os.path.abspath(folder), os.path.realpath(folder)):
        impath = impath.removeprefix(base.rstrip("/") + "/")
    if not _is_below(impath):
        raise UserError(f"{where}: '{row['image']}' is no path below the folder of the list, from which paths start")
    if not label:
        raise UserError(f"{where}: no label")
    part = part_of(row["split"]) if "split" in row else None
    if "split" in row and part is None:
        raise UserError(f"{where}: split is '{row['split'].strip()}', not train, val or test")
    return Found(impath, label, part)


def _is_below(impath: str) -> bool:
    return impath not in (".", "..") and not impath.startswith(("/", "../"))


def _find(images: list[Found], path: Path) -> list[Found]:
    """The images with their paths as they are on disk: `/` for backslashes, accents composed as those of the files.

    Raises UserError for images that are not there, which names the ones that are called most alike.
    """
    missing = checks.missing_images((image.impath for image in images), path.parent)
    folders = _Folders(path.parent)
    found = {impath: folders.find(impath) for impath in missing}
    if gone := [impath for impath in missing if found[impath] is None]:
        shown = (f"{impath}{folders.closest(impath)}" for impath in gone)
        raise UserError(f"{path}: {len(gone)} of {len(images)} images are not there: {list_preview(shown, len(gone))}")
    return [replace(image, impath=found.get(image.impath, image.impath)) for image in images] if found else images


class _Folders:
    """What lies in and below `root`: each folder is listed once."""

    def __init__(self, root: Path):
        self.root = root
        self.names: dict[str, dict[str, str]] = {}

    def find(self, impath: str) -> str | None:
        """The path of the same letters that is there, None for none."""
        for spelling in (impath, _slashed(impath)):
            there, absent = self._follow(spelling)
            if not absent:
                return there
        return None

    def closest(self, impath: str) -> str:
        """Which name is most like the first one of a path that is not there, ` (there is ...)`; nothing for none."""
        import difflib  # a slow import, for an error alone

        there, absent = self._follow(_slashed(impath))
        alike = {own.casefold(): own for own in self.names[there].values()}
        close = difflib.get_close_matches(absent.casefold(), alike, n=1)
        return f" (there is {posixpath.join(there, alike[close[0]])})" if close else ""

    def _follow(self, impath: str) -> tuple[str, str]:
        """How much of a path is there, as it is spelt on disk, and the first name behind it that is not."""
        there = ""
        for name in impath.split("/"):
            if there not in self.names:
                own = sorted(checks.listing(self.root / there))
                self.names[there] = {composed(name): name for name in own} | {name: name for name in own}
            names = self.names[there]
            if name not in names and composed(name) not in names:
                return there, name
            there = posixpath.join(there, names.get(name) or names[composed(name)])
        return there, ""


def _slashed(impath: str) -> str:
    """A path that Windows wrote, with `/`."""
    return posixpath.normpath(impath.replace("\\", "/"))
