"""Unpack a part of a .zip or .tar.gz, which may have been made by anyone."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from engine.datasets.checks import first
from engine.download.http import Progress, require_room
from engine.errors import UserError

UNPACKED = 1.1
"""How large the content of an archive of images is, as a multiple of the archive: images hardly compress."""


def unpack(archive: Path, target: Path, wanted: list[PurePosixPath], inner: str | None, progress: Progress) -> None:
    """Unpack those files and folders of an archive that are `wanted` in the new folder `target`.

    With `inner` they are in that archive within `archive`, which is not written to disk. Raises UserError for an
    archive that is damaged, lacks any of them or has names that lead out of it, and without room on the disk.
    """
    shutil.rmtree(target, ignore_errors=True)  # half of it, from a run that was killed
    target.mkdir(parents=True)
    try:
        require_room(target, int(UNPACKED * archive.stat().st_size), f"{archive.name}, unpacked,")
        with _opened(archive, inner) as (file, size):
            is_zip = inner is None and zipfile.is_zipfile(archive)
            names = _from_zip(file, target, wanted) if is_zip else _from_tar(file, target, wanted)
            for _ in names:
                progress(f"unpacking {archive.name}", file.tell(), size)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk is full, or the like
        raise UserError(
            f"{archive} cannot be unpacked ({error}). Remove it, and the same command downloads it again"
        ) from error
    if absent := [path for path in wanted if not (target / path).exists()]:
        raise UserError(f"{archive} is not as expected: it lacks {first(absent, len(absent))}")


@contextmanager
def _opened(archive: Path, inner: str | None) -> Iterator[tuple[BinaryIO, int]]:
    """A file to read the archive from, and its size."""
    with archive.open("rb") as file:
        if inner is None:
            yield file, archive.stat().st_size
            return
        with zipfile.ZipFile(file) as outer, outer.open(inner) as within:
            yield within, outer.getinfo(inner).file_size


def _from_zip(file: BinaryIO, target: Path, wanted: list[PurePosixPath]) -> Iterator[str]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if _is_wanted(name, wanted):
                archive.extract(name, target)
            yield name


def _from_tar(file: BinaryIO, target: Path, wanted: list[PurePosixPath]) -> Iterator[str]:
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            if _is_wanted(member.name, wanted):
                archive.extract(member, target, filter="data")  # which refuses links that lead out, devices, ...
            yield member.name


def _is_wanted(name: str, wanted: list[PurePosixPath]) -> bool:
    """Whether a file of an archive is to be unpacked. Raises TarError for a name that leads out of the archive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(f"it holds {name!r}, which leads out of it")
    return any(path.is_relative_to(own) for own in wanted)
