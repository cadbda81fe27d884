"""Check datasets, few-shot splits and sounds: installed, missing, or not the published ones.

Images are checked as in `datasets.load`, which lists folders: looking up each of ImageNet's 1.3 million files takes
minutes on a network disk.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine import datasets, files, released
from engine.check.findings import NOTE, OK, WRONG, Finding
from engine.config import default
from engine.datasets import esc50, few_shot
from engine.datasets.checks import list_preview, pluralize
from engine.datasets.image_dataset import SPLITS, ImageDataset
from engine.datasets.registry import DATASETS
from engine.download.install import WORK
from engine.download.sources import ARCHIVES, SPLIT_FILES
from engine.errors import UserError
from engine.files import CannotOpen


@dataclass(frozen=True)
class DatasetReport:
    """A dataset as read, None if it is unreadable, and its fault, None if it has none.

    `exists` is False if its folder does not exist; `unfinished` is the folder of an interrupted download, if any.
    """

    name: str
    exists: bool
    dataset: ImageDataset | None
    fault: str | None
    unfinished: Path | None = None


def inspect_dataset(name: str, data_dir: str | Path, indices_dir: str | Path) -> DatasetReport:
    """Read a dataset. All of its images must exist, in the published numbers and order."""
    dataset = unfinished = None
    try:
        root = Path(data_dir) / DATASETS[name].folder
        if not root.exists():
            return DatasetReport(name, False, None, f"{name} is not installed: {root} does not exist")
        unfinished = root / WORK if (root / WORK).exists() else None
        dataset = datasets.load(name, data_dir, write=False, indices_dir=indices_dir)
        fault = _find_fault(dataset, root, indices_dir)
    except Exception as error:  # a damaged list or an unreadable folder may raise anything
        fault = str(error) or type(error).__name__
    return DatasetReport(name, True, dataset, fault, unfinished)


def _find_fault(dataset: ImageDataset, root: Path, indices_dir: str | Path) -> str | None:
    """Return the difference between a readable dataset and the published one, if any."""
    name = dataset.name
    counts = few_shot.class_counts(str(indices_dir)).get(name)
    if counts and (problem := few_shot.counts_problem(counts, dataset)):
        return f"{name}: not the dataset that the few-shot splits were drawn for: {problem}"
    published = SPLIT_FILES[name].sha256 if name in SPLIT_FILES else None
    if published and counts == few_shot.class_counts()[name]:  # not for an installation with its own counts
        path = root / DATASETS[name].split_file
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != published:
            return (
                f"{name}: {path} has the published counts but is not the published file (SHA-256 {digest[:12]}..., not"
                f" {published[:12]}...): few-shot splits may refer to other images. Move it away, then run"
                f" {_download_command([name], root.parent)}"
            )
    return None


def summarize(reports: Iterable[DatasetReport], data_dir: str | Path, requested: bool) -> list[Finding]:
    """Return lines on all sound datasets, on all missing ones, and on each faulty (or missing, if `requested`) one."""
    reports = list(reports)
    sound = [report for report in reports if report.fault is None]
    missing = [report.name for report in reports if not report.exists]
    findings = []
    if sound:
        images = sum(len(report.dataset.items(split)) for report in sound for split in SPLITS)
        names = ", ".join(report.name for report in sound)
        findings.append(Finding(OK, f"{names}: {images:,} images, all there"))
    findings += [Finding(NOTE, note) for report in sound for note in report.dataset.notes]
    for report in reports:
        if report.fault is not None and (requested or (report.exists and not report.unfinished)):
            findings.append(Finding(WRONG, report.fault))
    if missing:
        findings += [Finding(NOTE, text) for text in _suggest_commands(missing, data_dir)]
    for report in reports:
        if report.unfinished:
            command = _download_command([report.name], data_dir)
            findings.append(Finding(NOTE, f"unfinished download in {report.unfinished}; to resume it, run {command}"))
    return findings


def _download_command(names: Iterable[str], data_dir: str | Path) -> str:
    """Return the command that downloads datasets."""
    elsewhere = [] if str(data_dir) == default.DATA_DIR else ["--data_dir", str(data_dir)]
    return f"`{shlex.join(['python', 'check.py', '--download', *names, *elsewhere])}`"


def _suggest_commands(missing: list[str], data_dir: str | Path) -> list[str]:
    """Return lines on how to install missing datasets."""
    downloadable = [name for name in missing if name in ARCHIVES]
    others = [name for name in missing if name not in ARCHIVES and not datasets.is_custom(name)]
    lines = [f"not installed: to download, run {_download_command(downloadable, data_dir)}"] if downloadable else []
    return lines + ([f"not installed: {', '.join(others)}; to get them, see DATASETS.md"] if others else [])


def check_splits(names: Iterable[str], indices_dir: str | Path) -> list[Finding]:
    """Check that the few-shot splits of these datasets can be read and match their digests in `sha256.csv`, if any."""
    folder, names = Path(indices_dir), list(names)
    try:
        published = _read_published(folder, names)
    except (OSError, ValueError, KeyError) as error:
        return [Finding(WRONG, f"{folder / 'sha256.csv'} cannot be read ({error})")]
    sound, damaged, other, faults = [], [], [], []
    found: list[Path] = []
    for name in names:
        try:
            found += files.list_matching(folder / name, "shot_*.json")
        except CannotOpen as error:
            faults.append(Finding(WRONG, str(error)))
    for path in found:
        try:
            if few_shot.read_lists(path) is None:
                damaged.append(path)
            elif published.get(path) in (None, few_shot.file_digest(path)):
                sound.append(path)
            else:
                other.append(path)
        except CannotOpen as error:
            faults.append(Finding(WRONG, str(error)))
    findings = [Finding(OK, f"{pluralize(len(sound), 'few-shot split')} in {folder}")] if sound else []
    for paths, fault in (damaged, "damaged"), (other, "other than published"):
        if paths:
            text = f"{pluralize(len(paths), 'few-shot split')} {fault}: {list_preview(paths)}"
            findings.append(Finding(WRONG, f"{text}. Delete them; few_shot_split.py creates them again"))
    if absent := sorted(str(path) for path in published if path not in found):
        findings.append(Finding(NOTE, f"{list_preview(absent)} are missing; few_shot_split.py creates them"))
    return findings + faults


def _read_published(folder: Path, names: list[str]) -> dict[Path, str]:
    """Return the digests in `folder`'s `sha256.csv` of the few-shot splits of these datasets; none without the file."""
    try:
        with (folder / "sha256.csv").open(encoding="utf-8", newline="") as file:
            return {
                few_shot.split_path(folder, row["dataset"], int(row["shot"]), int(row["seed"])): row["sha256"]
                for row in csv.DictReader(file)
                if row["dataset"] in names
            }
    except FileNotFoundError:
        return {}


def temporary_files(reports: Iterable[DatasetReport], data_dir: str | Path, indices_dir: str | Path) -> list[Path]:
    """Return the temporary files below `indices_dir` and in datasets' folders, where split files are written."""
    roots = [Path(data_dir) / DATASETS[report.name].folder for report in reports if report.exists]
    folders = [root if root.is_dir() else root.parent for root in roots]
    folders += [Path(folder) for folder, _, _ in os.walk(indices_dir)]
    found = []
    for folder in dict.fromkeys(folders):
        with suppress(CannotOpen):  # reported by another finding
            found += files.list_matching(folder, ".*.tmp")
    return found


def check_sounds(folder: Path) -> tuple[list[Finding], str | None]:
    """Check ESC-50 in `folder` and AudioCLIP's checkpoint, used only by ImageNet-ESC; also return ESC-50's digest."""
    findings, digest = [], None
    if not folder.exists():
        findings.append(Finding(NOTE, f"ESC-50 is not installed: {folder} does not exist"))
    else:
        try:
            clips = esc50.load(folder)
            digest = clips.digest()
            findings.append(Finding(OK, f"ESC-50: {len(clips.clips):,} clips, all there"))
        except Exception as error:  # as for a dataset
            findings.append(Finding(WRONG, str(error)))
    checkpoint = released.PATH
    if not checkpoint.exists():
        findings.append(Finding(NOTE, f"AudioCLIP's checkpoint is missing: {checkpoint}"))
    else:
        try:
            released.check_audioclip(checkpoint)
            findings.append(Finding(OK, f"AudioCLIP's checkpoint: {checkpoint}"))
        except (UserError, OSError) as error:
            findings.append(Finding(WRONG, str(error)))
    return findings, digest
