"""Unpack a part of a .zip or .tar.gz, which may have been made by anyone."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from engine.datasets.checks import list_preview
from engine.download.http import BLOCK, Progress, after, require_room
from engine.errors import UserError

UNPACKED = 1.1
"""How large the content of an archive of images is, as a multiple of the archive: images hardly compress."""
LONGEST = 1000
"""How many characters of a path are unpacked; those of the published archives have fewer than 150."""
DAMAGED = zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, KeyError, RuntimeError, OSError
"""What reading an archive raises that is none; RuntimeError where it is encrypted, OSError without a number by gzip."""


def unpack(archive: Path, target: Path, wanted: list[PurePosixPath], inner: str | None, progress: Progress) -> None:
    """Unpack those files and folders of an archive that are `wanted` in the new folder `target`.

    With `inner` they are in that archive within `archive`, which is not written to disk. Streams are read to their
    ends, where their checksums are. Raises UserError for an archive that is damaged, lacks any of them or has names
    that lead out of it, and without room on the disk; nothing is then left in `target`.
    """
    shutil.rmtree(target, ignore_errors=True)  # half of it, from a run that was killed
    target.mkdir(parents=True)
    try:
        _unpack(archive, target, wanted, inner, progress)
        if absent := [path for path in wanted if not (target / path).exists()]:
            raise UserError(f"{archive} is not as expected: it lacks {list_preview(absent)}")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _unpack(archive: Path, target: Path, wanted: list[PurePosixPath], inner: str | None, progress: Progress) -> None:
    needs = int(UNPACKED * archive.stat().st_size), f"{archive.name}, unpacked,"
    try:
        require_room(target, *needs)
        with _opened(archive, inner) as (file, size):
            is_zip = inner is None and zipfile.is_zipfile(archive)
            names = _from_zip(file, target, wanted) if is_zip else _from_tar(file, target, wanted)
            for _ in names:
                progress(f"unpacking {archive.name}", file.tell(), size)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            reason = f"{error.filename or target}: {error.strerror}"
            raise UserError(f"{archive} cannot be unpacked ({reason}){after(error, target, *needs)}") from error
        raise UserError(
            f"{archive} cannot be unpacked ({error}). Remove it, and the same command downloads it again"
        ) from error


def move(unpacked: Path, wanted: list[PurePosixPath], folder: Path) -> None:
    """Move files and folders that `unpack` left in `unpacked` to `folder`, each under its own name.

    Raises UserError for a link that would lead out of them there. Where they were unpacked it may not: there were other
    folders around them.
    """
    staged = Path(tempfile.mkdtemp(dir=unpacked)).resolve()  # a name that no link can know: none leads out and back
    for path in wanted:
        (unpacked / path).rename(staged / path.name)
    for parent, folders, names in os.walk(staged):
        for link in filter(os.path.islink, (os.path.join(parent, name) for name in (*folders, *names))):
            if staged not in Path(os.path.realpath(link)).parents:
                raise UserError(
                    f"{Path(link).relative_to(staged)} is a link to {os.readlink(link)!r}, which leads out of {folder}."
                    " The archive is not the published one, or damaged: remove it"
                )
    for path in wanted:
        (staged / path.name).rename(folder / path.name)


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
    with gzip.GzipFile(fileobj=file) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if _is_wanted(member.name, wanted):
                    archive.extract(member, target, filter="data")  # which refuses links that lead out, devices, ...
                yield member.name
        while stream.read(BLOCK):  # what follows the last file, up to the checksum
            yield ""
    while file.read(BLOCK):  # of a file within an archive, up to its own
        yield ""


def _is_wanted(name: str, wanted: list[PurePosixPath]) -> bool:
    """Whether a file of an archive is to be unpacked. Raises TarError for a name that leads out of the archive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(f"it holds {name!r}, which leads out of it")
    if len(name) > LONGEST:
        raise tarfile.TarError(f"it holds a path of {len(name)} characters, {name[:50]!r}...")
    return any(path.is_relative_to(own) for own in wanted)
