"""Install datasets from the tables in `sources`, in the layout of PROTOCOL.md and DATASETS.md under DATA_DIR."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath

from engine import datasets
from engine.datasets.registry import DATASETS
from engine.download import archives, http
from engine.download.http import NotDownloaded, Progress
from engine.download.sources import ARCHIVES, SPLIT_FILES, Archive, SplitFile
from engine.errors import UserError

WORK = ".download"
"""The folder, inside the dataset's folder, of unfinished work: an archive and its unpacked files."""
INSTRUCTIONS = Path(__file__).resolve().parents[2] / "DATASETS.md"


def download(name: str, data_dir: Path | str, progress: Progress) -> list[str]:
    """Download the missing files of dataset `name` under `data_dir`; return the remaining manual steps.

    Existing files are never replaced. An interrupted download is resumed; interrupted unpacking starts again. Raises
    UserError if an archive is damaged or not the published one, or if the disk is full.
    """
    root, steps = Path(data_dir) / DATASETS[name].folder, []
    if archive := ARCHIVES.get(name):
        try:
            _install_archive(archive, root, progress)
        except NotDownloaded as error:
            steps.append(f"{error}.\n{manual_steps(name)}")
    if split := SPLIT_FILES.get(name):
        path = root / DATASETS[name].split_file
        try:
            _install_split(split, path, progress)
        except NotDownloaded as error:
            steps.append(f"{error}.\nBy hand: open {split.page} in a browser, and save the file as\n  {path}")
    for folder in (root / WORK, root):
        with suppress(OSError):
            folder.rmdir()  # fails if it is not empty
    if not steps or name not in ARCHIVES:
        try:
            datasets.load(name, data_dir)
        except UserError as error:
            kept = " (existing files are never replaced; to download them again, move them away)" * (name in ARCHIVES)
            steps.append(f"{error}{kept}\n{manual_steps(name)}".strip())
    return steps


def manual_steps(name: str) -> str:
    """Return the manual steps for the dataset `name`, its section of DATASETS.md; nothing for a custom dataset."""
    found = re.search(
        rf"^### {name}\n+(.*?)(?=^##|\Z)", INSTRUCTIONS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return f"By hand (DATASETS.md):\n\n{found[1].strip()}" if found else ""


def _install_archive(archive: Archive, root: Path, progress: Progress) -> None:
    """Install the content of an archive into `root`, unless it exists; then remove the archive.

    The lock admits one process at a time: it would remove the files that another has just unpacked.
    """
    work = root / WORK
    path, unpacked, folder = work / archive.name, work / "unpacked", PurePosixPath(archive.inside)
    if _absent(archive, root):
        work.mkdir(parents=True, exist_ok=True)
        with http.locked(work / f"{archive.name}.lock"):
            absent = _absent(archive, root)
            http.fetch(archive.url, path, progress, room=archives.UNPACKED)
            if archive.md5:
                http.check_md5(path, archive.md5, archive.url, progress)
            wanted = [folder / name for name in absent]
            archives.unpack(path, unpacked, wanted, archive.inner, progress)
            try:
                archives.move(unpacked, wanted, root)
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
    for leftover in work.glob(f"{archive.name}*"):  # also leftovers of a killed process
        leftover.unlink(missing_ok=True)
    shutil.rmtree(unpacked, ignore_errors=True)


def _absent(archive: Archive, root: Path) -> list[str]:
    """Return the entries of an archive that are missing in `root`."""
    return [name for name in archive.keeps if not (root / name).exists()]


def _install_split(split: SplitFile, path: Path, progress: Progress) -> None:
    """Download a split file to `path`, unless it exists. Raises NotDownloaded if something else arrives."""
    if path.exists():
        return
    arrived = path.parent / WORK / path.name
    http.fetch(split.url, arrived, progress)
    content = arrived.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if split.sha256 not in (None, digest) or not content.lstrip().startswith(b"{"):
        arrived.unlink()  # Google's pages about quotas and viruses arrive without an HTTP error
        wanted = f", not {split.sha256}" if split.sha256 else ""
        raise NotDownloaded(
            f"{split.url} sent {len(content)} bytes that begin with {content[:20]!r}, not the split file: their SHA-256"
            f" is {digest}{wanted}"
        )
    arrived.replace(path)
