"""From the tables in `sources` to a dataset as PROTOCOL.md and DATASETS.md lay it out under DATA_DIR."""

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
"""The folder, in the dataset's own, of what is under way: an archive, or what is unpacked of it."""
INSTRUCTIONS = Path(__file__).resolve().parents[2] / "DATASETS.md"


def download(name: str, data_dir: Path | str, progress: Progress) -> list[str]:
    """Fetch what the dataset `name` lacks under `data_dir`; gives what is left for a person to do.

    What is there is never replaced. What was interrupted is taken up again: a download where it stopped, unpacking from
    the beginning. Raises UserError for an archive that is damaged or not the published one, and without room on the
    disk.
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
            folder.rmdir()  # unless something is there
    if not steps or name not in ARCHIVES:
        try:
            datasets.load(name, data_dir)
        except UserError as error:
            kept = " (what is there is never replaced: move it away to have it fetched anew)" * (name in ARCHIVES)
            steps.append(f"{error}{kept}\n{manual_steps(name)}".strip())
    return steps


def manual_steps(name: str) -> str:
    """How a person gets the dataset `name`: its section of DATASETS.md; nothing for images of one's own."""
    found = re.search(
        rf"^### {name}\n+(.*?)(?=^##|\Z)", INSTRUCTIONS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return f"By hand, as DATASETS.md says:\n\n{found[1].strip()}" if found else ""


def _install_archive(archive: Archive, root: Path, progress: Progress) -> None:
    """Put what an archive holds into `root`, unless it is there. The archive goes once all is.

    One process at a time: it would remove what another has just unpacked.
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
    for done_with in work.glob(f"{archive.name}*"):  # which a process that was killed here left
        done_with.unlink(missing_ok=True)
    shutil.rmtree(unpacked, ignore_errors=True)


def _absent(archive: Archive, root: Path) -> list[str]:
    """What an archive holds that is not in `root`."""
    return [name for name in archive.keeps if not (root / name).exists()]


def _install_split(split: SplitFile, path: Path, progress: Progress) -> None:
    """Put a split file at `path`, unless there is one. Raises NotDownloaded where something else arrives."""
    if path.exists():
        return
    arrived = path.parent / WORK / path.name
    http.fetch(split.url, arrived, progress)
    content = arrived.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if split.sha256 not in (None, digest) or not content.lstrip().startswith(b"{"):
        arrived.unlink()  # Google's pages about quotas and viruses come without an error
        wanted = f", not {split.sha256}" if split.sha256 else ""
        raise NotDownloaded(
            f"{split.url} does not give the split file, but {len(content)} bytes that begin with {content[:20]!r}, with"
            f" SHA-256 {digest}{wanted}"
        )
    arrived.replace(path)
