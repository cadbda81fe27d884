"""ESC-50: a table of sounds in folds, and the wav files beside it. Other sounds in the same layout also work.

ESC-50-master/meta/esc50.csv     filename,fold,target,category,...
ESC-50-master/audio/*.wav
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from engine.datasets.checks import NotInstalled, list_preview
from engine.errors import UserError

TABLE = "meta/esc50.csv"
COLUMNS = ("filename", "fold", "target", "category")
WHERE = (
    "Get `master.zip` of https://github.com/karolpiczak/ESC-50, which unpacks to ESC-50-master (DATASETS.md, section"
    ' "ESC-50"); for another folder, pass --esc-dir'
)


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound: `path` is relative to the dataset's folder, `category` the name of class `label`."""

    path: str
    fold: int
    label: int
    category: str


@dataclass(frozen=True)
class Sounds:
    """The clips of `folder`, in metadata order; positions refer to this order."""

    folder: Path
    clips: list[Clip]

    @property
    def folds(self) -> dict[int, list[int]]:
        """Return the positions of each fold's clips, in metadata order; folds ascending."""
        positions: dict[int, list[int]] = {fold: [] for fold in sorted({clip.fold for clip in self.clips})}
        for position, clip in enumerate(self.clips):
            positions[clip.fold].append(position)
        return positions

    def file(self, position: int) -> Path:
        """Return the path of a clip's wav file."""
        return self.folder / self.clips[position].path

    def digest(self) -> str:
        """Return the SHA-256 of the list, which binds cached features to it."""
        rows = [(clip.path, clip.fold, clip.label, clip.category) for clip in self.clips]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def load(folder: Path) -> Sounds:
    """Read the table of sounds in `folder`.

    Raises NotInstalled if the table or clips are missing, UserError if the table is malformed, lists a clip twice or
    has two names for a class.
    """
    table = folder / TABLE
    if not table.is_file():
        raise NotInstalled(f"ESC-50: its table {table} does not exist.\n{WHERE}")
    clips = _read(table)
    names: dict[int, str] = {}
    paths: set[str] = set()
    for clip in clips:
        if names.setdefault(clip.label, clip.category) != clip.category:
            raise UserError(f"{table}: class {clip.label} has two names, {names[clip.label]} and {clip.category}")
        if clip.path in paths:
            raise UserError(f"{table}: {clip.path} is listed twice")
        paths.add(clip.path)
    audio = folder / "audio"
    present = {entry.name for entry in audio.iterdir()} if audio.is_dir() else set()
    absent = [clip.path for clip in clips if Path(clip.path).name not in present]
    if absent:
        named = list_preview(absent)
        raise NotInstalled(f"ESC-50: {len(absent)} of its {len(clips)} clips are not in {folder}: {named}.\n{WHERE}")
    return Sounds(folder, clips)


def _read(table: Path) -> list[Clip]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table: {error}") from error
    if not rows:
        raise UserError(f"{table} lists no clips")
    if absent := [column for column in COLUMNS if column not in rows[0]]:
        raise UserError(f"{table} has no column {', '.join(absent)}")
    clips = []
    for line, row in enumerate(rows, start=2):
        try:
            clips.append(Clip(f"audio/{row['filename']}", int(row["fold"]), int(row["target"]), row["category"]))
        except (TypeError, ValueError) as error:
            raise UserError(f"{table}, line {line}: fold and target must be whole numbers") from error
        if not row["category"] or not row["filename"] or clips[-1].label < 0:
            raise UserError(f"{table}, line {line}: a clip needs a filename, a target of at least 0 and a category")
    return clips
