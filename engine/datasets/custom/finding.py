"""The images of a folder: class folders, or train/, val/ and test/ with class folders in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.datasets.benchmark import PARTS
from engine.datasets.checks import first
from engine.datasets.image_files import is_image
from engine.errors import UserError


@dataclass(frozen=True)
class Found:
    """An image that was found: `label` is its class folder, or what the CSV says; `part` is None where it is drawn."""

    impath: str
    label: str
    part: str | None = None


def from_folders(root: Path) -> tuple[list[Found], list[str]]:
    """The images under a folder, classes in the order of their folders' names, and notes on what was passed over."""
    folders = [entry.name for entry in visible(root) if entry.is_dir()]
    others = [name for name in folders if name not in PARTS]
    passed: list[str] = []
    odd = [name for name in others if name.lower() in PARTS]
    if odd and {"train", "test"} <= {name.lower() for name in folders}:
        raise UserError(f"{root}: {' and '.join(odd)} would be classes; rename them in small letters, as parts are")
    if {"train", "test"} <= set(folders):
        if others:
            raise UserError(
                f"{root} has train and test, and folders beside them: {first(others, len(others))}; move them away"
            )
        images = [image for part in PARTS if part in folders for image in _classes(root, f"{part}/", passed, part)]
        images.sort(key=lambda image: image.label)
    elif folders and not others:
        raise UserError(
            f"{root} has {' and '.join(folders)} alone; it should have train, test and perhaps val (which is drawn from"
            " train if need be), or a folder for each class"
        )
    else:
        images = _classes(root, "", passed)
    kinds = ", ".join(f"{ending} ({count})" for ending, count in Counter(passed).most_common())
    return images, [f"{root}: files whose names do not end as images' do are passed over: {kinds}"] if passed else []


def _classes(root: Path, inside: str, passed: list[str], part: str | None = None) -> list[Found]:
    """The images of the class folders in a folder `inside` (`train/`) of `root`; raises UserError for one without.

    `passed` collects the endings of files that are no images.
    """
    images: list[Found] = []
    for entry in visible(root / inside):
        if entry.is_dir():
            others: list[str] = []
            found = [Found(path, entry.name, part) for path in _walk(root, f"{inside}{entry.name}", others)]
            if not found:
                endings = f" (what is there ends in {first(sorted(set(others)), len(set(others)))})" if others else ""
                raise UserError(f"{entry.path}: a class folder without images{endings}; remove it, or put some there")
            passed += others
            images += found
    if not images:
        raise UserError(f"{root / inside} has no folders: it should have one for each class, with its images in it")
    return images


def _walk(root: Path, folder: str, passed: list[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths from `root` of all images in `folder` and in folders below, links followed.

    `passed` collects the endings of other files; `above` are the real paths of the folders on the way.
    """
    real = os.path.realpath(root / folder)
    if real in above:
        raise UserError(f"{root / folder} is a link to a folder that it lies in; remove it")
    for entry in visible(root / folder):
        path = f"{folder}/{entry.name}"
        if entry.is_dir():
            yield from _walk(root, path, passed, (*above, real))
        elif not entry.is_file():
            raise UserError(f"{entry.path}: a link to a file that is not there, or no file at all; remove it")
        elif is_image(entry.name):
            yield path
        else:
            passed.append(os.path.splitext(entry.name)[1] or entry.name)


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name, without hidden files; raises UserError for names that are no text."""
    with os.scandir(folder) as entries:
        seen = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    if odd := [ascii(entry.name) for entry in seen if not _is_text(entry.name)]:
        raise UserError(f"{folder}: names that are not in UTF-8, rename them: {first(odd, len(odd))}")
    return seen


def _is_text(name: str) -> bool:
    """Whether a file's name is text: Python has lone surrogates for other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
