"""Datasets, few-shot splits and sounds: installed, missing, or not what they should be.

Images are looked for as `datasets.load` does it: a listing of each folder, and no look at each file, which takes
minutes for ImageNet's 1.3 million on a network disk.
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
    """A dataset: what was read of it, None if nothing could be, and what is wrong with it, None for nothing.

    `is_there` is False for one whose folder does not exist; `unfinished` is what an interrupted download left, if any.
    """

    name: str
    is_there: bool
    benchmark: ImageDataset | None
    fault: str | None
    unfinished: Path | None = None


def judge(name: str, data_dir: str | Path, indices_dir: str | Path) -> DatasetReport:
    """Read a dataset, all of whose images must be there, in the published numbers and order."""
    benchmark = unfinished = None
    try:
        root = Path(data_dir) / DATASETS[name].folder
        if not root.exists():
            return DatasetReport(name, False, None, f"{name} is not installed: {root} is not there")
        unfinished = root / WORK if (root / WORK).exists() else None
        benchmark = datasets.load(name, data_dir, write=False)
        fault = _fault(benchmark, root, indices_dir)
    except Exception as error:  # whatever a damaged list or a folder that cannot be read leads to
        fault = str(error) or type(error).__name__
    return DatasetReport(name, True, benchmark, fault, unfinished)


def _fault(benchmark: ImageDataset, root: Path, indices_dir: str | Path) -> str | None:
    """How a dataset that can be read is not the published one."""
    name = benchmark.name
    counts = few_shot.class_counts(str(indices_dir)).get(name)
    if counts and (problem := few_shot.counts_problem(counts, benchmark)):
        return f"{name}: not the dataset that the few-shot splits were made for: {problem}"
    published = SPLIT_FILES[name].sha256 if name in SPLIT_FILES else None
    if published and counts == few_shot.class_counts()[name]:  # not an installation with counts of its own
        path = root / DATASETS[name].split_file
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != published:
            return (
                f"{name}: {path} has the published counts but is not the published file (SHA-256 {digest[:12]}..., not"
                f" {published[:12]}...): few-shot splits may name other images. Move it away; then this gets it:"
                f" {_command([name], root.parent)}"
            )
    return None


def report(judged: Iterable[DatasetReport], data_dir: str | Path, asked: bool) -> list[Finding]:
    """What is fine and what is missing in a line each, a line for each that is wrong, or missing and `asked` for."""
    judged = list(judged)
    fine = [own for own in judged if own.fault is None]
    missing = [own.name for own in judged if not own.is_there]
    findings = []
    if fine:
        images = sum(len(own.benchmark.items(part)) for own in fine for part in SPLITS)
        names = ", ".join(own.name for own in fine)
        findings.append(Finding(OK, f"{names}: {images:,} images, all there"))
    findings += [Finding(NOTE, note) for own in fine for note in own.benchmark.notes]
    wrong = [own for own in judged if own.fault is not None and (asked or (own.is_there and not own.unfinished))]
    findings += [Finding(WRONG, own.fault) for own in wrong]
    if missing:
        findings += [Finding(NOTE, remedy) for remedy in _remedies(missing, data_dir)]
    for own in judged:
        if own.unfinished:
            text = f"a download is unfinished in {own.unfinished}: {_command([own.name], data_dir)} goes on with it"
            findings.append(Finding(NOTE, text))
    return findings


def _command(names: Iterable[str], data_dir: str | Path) -> str:
    """What fetches datasets."""
    elsewhere = [] if str(data_dir) == default.DATA_DIR else ["--data_dir", str(data_dir)]
    return f"`{shlex.join(['python', 'check.py', '--download', *names, *elsewhere])}`"


def _remedies(missing: list[str], data_dir: str | Path) -> list[str]:
    """How to get datasets that are missing."""
    fetched = [name for name in missing if name in ARCHIVES]
    others = [name for name in missing if name not in ARCHIVES and not datasets.is_custom(name)]
    remedies = [f"not installed: {_command(fetched, data_dir)} gets these"] if fetched else []
    return remedies + ([f"not installed: DATASETS.md says how to get {', '.join(others)}"] if others else [])


def splits(names: Iterable[str], indices_dir: str | Path) -> list[Finding]:
    """The few-shot splits of these datasets: each can be read, and has its digest in `sha256.csv`, if that has one."""
    folder, names = Path(indices_dir), list(names)
    try:
        published = _published(folder, names)
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
    for paths, what in (damaged, "damaged"), (other, "other than published"):
        if paths:
            text = f"{pluralize(len(paths), 'few-shot split')} {what}: {list_preview(paths)}"
            findings.append(Finding(WRONG, f"{text}. Delete them; few_shot_split.py makes them anew"))
    if absent := sorted(str(path) for path in published if path not in found):
        findings.append(Finding(NOTE, f"{list_preview(absent)} are missing; few_shot_split.py makes them"))
    return findings + faults


def _published(folder: Path, names: list[str]) -> dict[Path, str]:
    """The digests that `sha256.csv` in `folder` has of the splits of these datasets; none without that file."""
    try:
        with (folder / "sha256.csv").open(encoding="utf-8", newline="") as file:
            return {
                few_shot.split_path(folder, row["dataset"], int(row["shot"]), int(row["seed"])): row["sha256"]
                for row in csv.DictReader(file)
                if row["dataset"] in names
            }
    except FileNotFoundError:
        return {}


def temporary_files(judged: Iterable[DatasetReport], data_dir: str | Path, indices_dir: str | Path) -> list[Path]:
    """Return the temporary files below `indices_dir` and in datasets' folders, where split files are written."""
    roots = [Path(data_dir) / DATASETS[own.name].folder for own in judged if own.is_there]
    folders = [root if root.is_dir() else root.parent for root in roots]
    folders += [Path(folder) for folder, _, _ in os.walk(indices_dir)]
    found = []
    for folder in dict.fromkeys(folders):
        with suppress(CannotOpen):  # which is another finding
            found += files.list_matching(folder, ".*.tmp")
    return found


def sounds(folder: Path) -> tuple[list[Finding], str | None]:
    """ESC-50 in `folder` and AudioCLIP's checkpoint, which only ImageNet-ESC needs, and the digest of ESC-50's list."""
    findings, digest = [], None
    if not folder.exists():
        findings.append(Finding(NOTE, f"ESC-50 is not installed: {folder} is not there"))
    else:
        try:
            clips = esc50.load(folder)
            digest = clips.digest()
            findings.append(Finding(OK, f"ESC-50: {len(clips.clips):,} clips, all there"))
        except Exception as error:  # as of a dataset
            findings.append(Finding(WRONG, str(error)))
    checkpoint = released.PATH
    if not checkpoint.exists():
        findings.append(Finding(NOTE, f"AudioCLIP's checkpoint is not there: {checkpoint}"))
    else:
        try:
            released.check_audioclip(checkpoint)
            findings.append(Finding(OK, f"AudioCLIP's checkpoint: {checkpoint}"))
        except (UserError, OSError) as error:
            findings.append(Finding(WRONG, str(error)))
    return findings, digest
