"""Read the images of a list: a CSV with the columns image, label and optionally split."""

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
from engine.datasets.custom.classnames import compose
from engine.datasets.custom.folders import FoundImage
from engine.datasets.custom.split_names import parse_split
from engine.datasets.image_files import SkippedFiles, is_system
from engine.errors import UserError

READ = ("image", "label", "split")
"""The columns that are read."""

SEPARATORS = ",;\t"

SPLIT_COLUMNS = {"fold", "folds", "subset", "set", "part", "partition", "phase", "splits", "usage", "mode"}
"""Columns that may mean `split`."""


def read_list(path: Path) -> tuple[list[FoundImage], list[str]]:
    """Return the images of a CSV, by class in the order of the class names, and notes on ignored rows and columns.

    Raises UserError for a malformed list.
    """
    rows, notes = _read_rows(path)
    skipped = SkippedFiles()
    images = []
    for where, row in rows:
        image = _parse_image(row, where, path.parent)
        if system := [name for name in image.impath.split("/") if is_system(name)]:
            skipped.skipped.append(system[0])
        else:
            images.append(image)
    if not images:
        raise UserError(f"{path} lists no images")
    images = _match_paths(images, path)
    twice = [impath for impath, count in Counter(image.impath for image in images).items() if count > 1]
    if twice:
        raise UserError(f"{path}: images listed more than once: {list_preview(twice)}")
    if images[0].split and not {"train", "test"} <= {image.split for image in images}:
        raise UserError(f"{path}: the column split needs train and test, and may have val (otherwise drawn from train)")
    return sorted(images, key=lambda image: (image.label, image.impath)), notes + skipped.notes(path)


def _read_rows(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Return the rows of a CSV, each with its file and line, and notes on columns that may mean splits."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns, separator = _parse_header(file.readline(), path)
            if twice := [name for name in READ if columns.count(name) > 1]:
                raise UserError(f"{path}: columns of the same name: {', '.join(twice)}; rename those to ignore")
            reader = csv.DictReader(file, columns, delimiter=separator)
            rows = [(f"{path}, line {reader.line_num + 1}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error
    for where, row in rows:
        if None in row or None in row.values():
            raise UserError(
                f"{where}: more or fewer fields than the first line (put quotes around a field that has a separator)"
            )
    return rows, [] if "split" in columns else _note_unread_splits(rows, columns, path)


def _parse_header(header: str, path: Path) -> tuple[list[str], str]:
    """Return the lower-case column names and the separator. Raises UserError without the columns image and label."""
    read = {}
    for separator in SEPARATORS:
        fields = next(csv.reader([header], delimiter=separator), [])
        read[separator] = [field.strip().lower() for field in fields]
        if {"image", "label"} <= set(read[separator]):
            return read[separator], separator
    columns = max(read.values(), key=len)
    raise UserError(f"{path}: the first line must name the columns image,label or image,label,split, not {columns}")


def _note_unread_splits(rows: list[tuple[str, dict[str, Any]]], columns: list[str], path: Path) -> list[str]:
    """Return a note on columns that look like splits or folds, by their names or values."""
    odd = [
        name
        for name in columns
        if name not in READ and (name in SPLIT_COLUMNS or (rows and all(parse_split(row[name]) for _, row in rows)))
    ]
    note = f"{path}: ignored columns: {', '.join(odd)}. If a column has train, val or test, name it split"
    return [note] * bool(odd)


def _parse_image(row: dict[str, Any], where: str, folder: Path) -> FoundImage:
    """Return the image of a row, with a path relative to `folder`. Raises UserError for a malformed row."""
    impath, label = posixpath.normpath(row["image"].strip() or "."), " ".join(row["label"].split())
    for base in (os.path.abspath(folder), os.path.realpath(folder)):
        impath = impath.removeprefix(base.rstrip("/") + "/")
    if not _is_below(impath):
        raise UserError(f"{where}: '{row['image']}' is not below the folder of the list; paths are relative to it")
    if not label:
        raise UserError(f"{where}: no label")
    split = parse_split(row["split"]) if "split" in row else None
    if "split" in row and split is None:
        raise UserError(f"{where}: split is '{row['split'].strip()}', not train, val or test")
    return FoundImage(impath, label, split)


def _is_below(impath: str) -> bool:
    return impath not in (".", "..") and not impath.startswith(("/", "../"))


def _match_paths(images: list[FoundImage], path: Path) -> list[FoundImage]:
    """Return the images with their paths as on disk: `/` for backslashes, accents composed as in the file names.

    Raises UserError for missing images; it suggests the most similar names.
    """
    missing = checks.missing_images((image.impath for image in images), path.parent)
    folders = _Folders(path.parent)
    found = {impath: folders.find(impath) for impath in missing}
    if gone := [impath for impath in missing if found[impath] is None]:
        named = (f"{impath}{folders.closest(impath)}" for impath in gone)
        raise UserError(f"{path}: {len(gone)} of {len(images)} images do not exist: {list_preview(named, len(gone))}")
    return [replace(image, impath=found.get(image.impath, image.impath)) for image in images] if found else images


class _Folders:
    """The entries in and below `root`; each folder is listed once."""

    def __init__(self, root: Path):
        self.root = root
        self.names: dict[str, dict[str, str]] = {}

    def find(self, impath: str) -> str | None:
        """Return the path on disk with the same letters, or None."""
        for spelling in (impath, _slashed(impath)):
            existing, missing = self._follow(spelling)
            if not missing:
                return existing
        return None

    def closest(self, impath: str) -> str:
        """Return ` (there is ...)` with the name most like the first missing one of a path, or nothing."""
        import difflib  # a slow import, needed only for an error

        existing, missing = self._follow(_slashed(impath))
        alike = {name.casefold(): name for name in self.names[existing].values()}
        close = difflib.get_close_matches(missing.casefold(), alike, n=1)
        return f" (there is {posixpath.join(existing, alike[close[0]])})" if close else ""

    def _follow(self, impath: str) -> tuple[str, str]:
        """Return the part of a path that exists, as spelt on disk, and the first name after it, which is missing."""
        existing = ""
        for name in impath.split("/"):
            if existing not in self.names:
                listed = sorted(checks.listing(self.root / existing))
                self.names[existing] = {compose(name): name for name in listed} | {name: name for name in listed}
            names = self.names[existing]
            if name not in names and compose(name) not in names:
                return existing, name
            existing = posixpath.join(existing, names.get(name) or names[compose(name)])
        return existing, ""


def _slashed(impath: str) -> str:
    """Return a path written by Windows with `/`."""
    return posixpath.normpath(impath.replace("\\", "/"))
