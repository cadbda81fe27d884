"""Image files by their names alone: none is opened. And the names that are skipped wherever images are looked for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec

from engine.datasets.checks import list_preview, pluralize
from engine.errors import UserError
from engine.files import entries, entries_below, is_folder

ENDINGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm"}
ENDINGS |= {".pgm", ".pbm", ".pnm", ".tga", ".ico"}
HEIC = {".heic", ".heif", ".hif"}
"""The endings of images that need the package pillow-heif."""
REMEDY = ". `pip install pillow-heif` lets HEIC be read; or convert such files to JPEG"

SYSTEM = (
    # file servers and cameras' cards
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "#recycle", "#snapshot", r"\.@__thumb", r"\.zfs",
    # Windows, macOS, Linux
    r"\$recycle\.bin", "system volume information", r"thumbs\.db(:.*)?", r"ehthumbs.*\.db",
    r"desktop\.ini", "__macosx", r"\._.*", r"\.ds_store", r"\.appledouble", r"\.appledb", r"\.appledesktop",
    r"\.trashes", r"\.spotlight-v100", r"\.fseventsd", r"\.temporaryitems", "network trash folder", "temporary items",
    "icon\r", r"lost\+found", r"\.trash-\d+", r"\.directory", r"\.nfs[0-9a-f]+", r"\.fuse_hidden.*",
    # sync tools, and downloads that are not complete
    r".*\.part", r".*\.partial", r".*\.crdownload", r".*\.!sync", r".*\.filepart", r"~syncthing~.*", r"\.syncthing\..*",
    r"\.stfolder", r"\.stversions", r"\.dropbox.*", r".*\.icloud",
    # editors
    r".*~", r"~\$.*", r"#.*#", r".*\.sw[a-p]", r".*\.tmp", r"__pycache__", r"\.ipynb_checkpoints",
)  # fmt: skip
"""Names of files and folders that no person made, in small letters, as regular expressions."""


def is_system(name: str) -> bool:
    """Return whether a file or folder has the name of one that a system, a sync tool or an editor made."""
    return bool(_system().fullmatch(name.lower()))


@cache
def _system() -> re.Pattern[str]:
    """All of SYSTEM, which takes as long to compile as a script to start."""
    return re.compile("|".join(SYSTEM), re.DOTALL)


def is_skipped(name: str) -> bool:
    """Return whether a file or folder in a folder of images is skipped: it is hidden or a system's."""
    return name.startswith(".") or is_system(name)


def is_image(name: str) -> bool:
    """Return whether the name of a file ends as images' do, in small or capital letters."""
    ending = os.path.splitext(name)[1].lower()
    return ending in ENDINGS or (ending in HEIC and _reads_heic())


@cache
def _reads_heic() -> bool:
    return find_spec("pillow_heif") is not None


@dataclass
class SkippedFiles:
    """The names in folders of images that are not used: `endings` of files that are no images, and `skipped` names."""

    endings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def list_folder(self, folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
        """Return what lies in a folder, sorted by name, but for what is skipped, which is kept in mind.

        Raises UserError for a folder that cannot be listed.
        """
        kept = []
        for entry in entries(folder):
            if is_skipped(entry.name):
                self.skipped.append(entry.name)
            else:
                kept.append(entry)
        return kept

    def add(self, name: str) -> None:
        """Keep a file in mind whose name is not an image's."""
        self.endings.append(os.path.splitext(name)[1] or name)

    def notes(self, place: str | os.PathLike[str]) -> list[str]:
        """Return a line for each kind of names in or below `place` that are passed over."""
        notes = []
        if self.endings:
            said = f"{place}: files whose names do not end as images' do are passed over: {_kinds(self.endings)}"
            notes.append(said + REMEDY * any(ending.lower() in HEIC for ending in self.endings))
        if self.skipped:
            count = pluralize(len(self.skipped), "hidden or system name")
            notes.append(f"{place}: {count} skipped: {_kinds(self.skipped)}")
        return notes


def _kinds(names: list[str]) -> str:
    kinds = sorted(Counter(names).items(), key=lambda kind: (-kind[1], kind[0]))
    return list_preview((f"{name} ({count})" for name, count in kinds), len(kinds))


def find_images(named: Iterable[str], listed: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Return the files that `named` and `listed` places mean, and notes on what is passed over.

    In place of a folder come the images in and below it, sorted. Hidden and system files and folders in it are
    skipped, and so are `listed` names of system files: a list of all files in a folder has them too. Raises UserError
    for a folder without an image.
    """
    found, notes, passed = [], [], SkippedFiles()
    for place in named:
        found += images_below(place, notes) if os.path.isdir(place) else [place]
    for place in listed:
        if system := [name for name in place.split(os.sep) if is_system(name)]:
            passed.skipped.append(system[0])
        else:
            found += images_below(place, notes) if os.path.isdir(place) else [place]
    return found, notes + passed.notes("the list")


def images_below(folder: str, notes: list[str]) -> list[str]:
    """Return the images in and below a folder, sorted, links followed; add to `notes` what is passed over.

    Raises UserError for a folder without an image.
    """
    images, passed = [], SkippedFiles()
    for entry in entries_below(folder, passed.list_folder):
        if is_folder(entry):
            continue
        if is_image(entry.name):
            images.append(entry.path)
        else:
            passed.add(entry.name)
    if not images:
        said = "".join(f"\n  {note}" for note in passed.notes(folder))
        raise UserError(f"{folder} has no images: no file in or below it has an ending such as .jpg or .png{said}")
    notes += passed.notes(folder)
    return sorted(images)
