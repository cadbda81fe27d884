"""Find image files by their names alone, without opening them, and skip the names of system files."""

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
REMEDY = ". To read HEIC files, `pip install pillow-heif`, or convert them to JPEG"

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
"""Lower-case names of files and folders that no person made, as regular expressions."""


def is_system(name: str) -> bool:
    """Return whether a file or folder, by its name, was made by a system, a sync tool or an editor."""
    return bool(_system().fullmatch(name.lower()))


@cache
def _system() -> re.Pattern[str]:
    """Return SYSTEM as one pattern; cached and lazy because compiling it takes as long as starting a script."""
    return re.compile("|".join(SYSTEM), re.DOTALL)


def is_skipped(name: str) -> bool:
    """Return whether a file or folder in a folder of images is skipped because it is hidden or a system's."""
    return name.startswith(".") or is_system(name)


def is_image(name: str) -> bool:
    """Return whether a file name has the ending of an image, in lower or upper case."""
    ending = os.path.splitext(name)[1].lower()
    return ending in ENDINGS or (ending in HEIC and _reads_heic())


@cache
def _reads_heic() -> bool:
    return find_spec("pillow_heif") is not None


@dataclass
class SkippedFiles:
    """Ignored names in folders of images: `endings` of non-image files, and `skipped` hidden or system names."""

    endings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def list_folder(self, folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
        """Return the entries of a folder, sorted by name, and record the skipped ones.

        Raises UserError if the folder cannot be listed.
        """
        kept = []
        for entry in entries(folder):
            if is_skipped(entry.name):
                self.skipped.append(entry.name)
            else:
                kept.append(entry)
        return kept

    def add(self, name: str) -> None:
        """Record a file that is not an image by its name."""
        self.endings.append(os.path.splitext(name)[1] or name)

    def notes(self, place: str | os.PathLike[str]) -> list[str]:
        """Return a note for each kind of ignored names in or below `place`."""
        notes = []
        if self.endings:
            note = f"{place}: ignored files without an image ending: {_kinds(self.endings)}"
            notes.append(note + REMEDY * any(ending.lower() in HEIC for ending in self.endings))
        if self.skipped:
            count = pluralize(len(self.skipped), "hidden or system name")
            notes.append(f"{place}: {count} skipped: {_kinds(self.skipped)}")
        return notes


def _kinds(names: list[str]) -> str:
    kinds = sorted(Counter(names).items(), key=lambda kind: (-kind[1], kind[0]))
    return list_preview((f"{name} ({count})" for name, count in kinds), len(kinds))


def find_images(named: Iterable[str], listed: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Return the image files at the `named` and `listed` paths, and notes on ignored files.

    A folder is replaced by the images in and below it, sorted, without hidden and system files and folders. `listed`
    names of system files are skipped too: a list of all files in a folder includes them. Raises UserError for a folder
    without images.
    """
    found, notes, skipped = [], [], SkippedFiles()
    for place in named:
        found += images_below(place, notes) if os.path.isdir(place) else [place]
    for place in listed:
        if system := [name for name in place.split(os.sep) if is_system(name)]:
            skipped.skipped.append(system[0])
        else:
            found += images_below(place, notes) if os.path.isdir(place) else [place]
    return found, notes + skipped.notes("the list")


def images_below(folder: str, notes: list[str]) -> list[str]:
    """Return the images in and below a folder, sorted, links followed; add notes on ignored files to `notes`.

    Raises UserError for a folder without images.
    """
    images, skipped = [], SkippedFiles()
    for entry in entries_below(folder, skipped.list_folder):
        if is_folder(entry):
            continue
        if is_image(entry.name):
            images.append(entry.path)
        else:
            skipped.add(entry.name)
    if not images:
        ignored = "".join(f"\n  {note}" for note in skipped.notes(folder))
        raise UserError(f"{folder} has no images: no file in or below it has an ending such as .jpg or .png{ignored}")
    notes += skipped.notes(folder)
    return sorted(images)
