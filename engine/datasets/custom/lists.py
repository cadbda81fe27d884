"""The images of a list: a CSV with the columns image, label and perhaps split."""

from __future__ import annotations

import csv
import posixpath
from collections import Counter
from pathlib import Path
from typing import Any

from engine.datasets import checks
from engine.datasets.benchmark import PARTS
from engine.datasets.checks import first
from engine.datasets.custom.finding import Found
from engine.errors import UserError


def from_list(path: Path) -> tuple[list[Found], list[str]]:
    """The images of a CSV, classes in the order of their names, and no notes. Raises UserError for what is no list."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [(column or "").strip().lower() for column in reader.fieldnames or []]
            if not {"image", "label"} <= set(columns):
                raise UserError(
                    f"{path}: the first line names the columns image,label or image,label,split, not {columns}"
                )
            reader.fieldnames = columns
            images = [_image(row, f"{path}, line {reader.line_num}") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error
    if not images:
        raise UserError(f"{path} lists no images")
    twice = [impath for impath, count in Counter(image.impath for image in images).items() if count > 1]
    if twice:
        raise UserError(f"{path}: images that are listed more than once: {first(twice, len(twice))}")
    if "split" in columns and not {"train", "test"} <= {image.part for image in images}:
        raise UserError(f"{path}: the column split should have train, test and perhaps val (drawn from train if not)")
    if missing := checks.missing_images((image.impath for image in images), path.parent):
        raise UserError(f"{path}: {len(missing)} of {len(images)} images are not there: {first(missing, len(missing))}")
    return sorted(images, key=lambda image: (image.label, image.impath)), []


def _image(row: dict[str, Any], where: str) -> Found:
    """A row of a list, checked."""
    if None in row or None in row.values():
        raise UserError(
            f"{where}: more or fewer fields than the first line has (a comma in one needs quotes around it)"
        )
    impath, label = posixpath.normpath(row["image"].strip() or "."), " ".join(row["label"].split())
    if impath in (".", "..") or impath.startswith(("/", "../")):
        raise UserError(f"{where}: '{row['image']}' is no path below the folder of the list, from which paths start")
    if not label:
        raise UserError(f"{where}: no label")
    part = row["split"].strip() if "split" in row else None
    if part not in (None, *PARTS):
        raise UserError(f"{where}: split is '{part}', not train, val or test")
    return Found(impath, label, part)
