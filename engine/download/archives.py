"""Unpack wanted files of a .zip or .tar.gz, which is not trusted."""

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
from engine.download.http import BLOCK, Progress, remedy_for, require_room
from engine.errors import UserError

UNPACKED = 1.1
"""Size of the content of an archive of images, as a multiple of the archive: images hardly compress."""
LONGEST = 1000
"""The longest path, in characters, that is unpacked; paths in the published archives have fewer than 150."""
DAMAGED = zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, KeyError, RuntimeError, OSError
"""Exceptions for an invalid archive; RuntimeError if it is encrypted, OSError without a number from gzip."""


def unpack(archive: Path, target: Path, wanted: list[PurePosixPath], inner: str | None, progress: Progress) -> None:
    """Unpack the `wanted` files and folders of an archive into the new folder `target`.

    With `inner` they are in that archive within `archive`, which is not written to disk. Streams are read to their
    ends, where their checksums are. Raises UserError if the archive is damaged, lacks any of them or has names that
    lead out of it, or if the disk is full; nothing is then left in `target`.
    """
    shutil.rmtree(target, ignore_errors=True)  # an incomplete one, from a killed run
    target.mkdir(parents=True)
    try:
        _unpack(archive, target, wanted, inner, progress)
        if absent := [path for path in wanted if not (target / path).exists()]:
            raise UserError(f"{archive} is not the expected archive: it lacks {list_preview(absent)}")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _unpack(archive: Path, target: Path, wanted: list[PurePosixPath], inner: str | None, progress: Progress) -> None:
    needs = int(UNPACKED * archive.stat().st_size), f"{archive.name}, unpacked,"
    try:
        require_room(target, *needs)
        with _open_archive(archive, inner) as (file, size):
            is_zip = inner is None and zipfile.is_zipfile(archive)
            names = _from_zip(file, target, wanted) if is_zip else _from_tar(file, target, wanted)
            for _ in names:
                progress(f"unpacking {archive.name}", file.tell(), size)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            reason = f"{error.filename or target}: {error.strerror}"
            raise UserError(f"{archive} cannot be unpacked ({reason}){remedy_for(error, target, *needs)}") from error
        raise UserError(
            f"{archive} cannot be unpacked ({error}). Remove it, then run the same command to download it again"
        ) from error


def move(unpacked: Path, wanted: list[PurePosixPath], folder: Path) -> None:
    """Move the `wanted` files and folders from `unpacked` to `folder`, each under its own name.

    Raises UserError for a link that would lead out of them in `folder`. In `unpacked` it need not: other folders may be
    around it.
    """
    staged = Path(tempfile.mkdtemp(dir=unpacked)).resolve()  # an unpredictable name: no link can lead out and back in
    for path in wanted:
        (unpacked / path).rename(staged / path.name)
    for parent, folders, names in os.walk(staged):
        for link in filter(os.path.islink, (os.path.join(parent, name) for name in (*folders, *names))):
            if staged not in Path(os.path.realpath(link)).parents:
                raise UserError(
                    f"{Path(link).relative_to(staged)} is a link to {os.readlink(link)!r}, which leads out of {folder}."
                    " The archive is damaged or not the published one; remove it"
                )
    for path in wanted:
        (staged / path.name).rename(folder / path.name)


@contextmanager
def _open_archive(archive: Path, inner: str | None) -> Iterator[tuple[BinaryIO, int]]:
    """Yield a file to read the archive from, and its size."""
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
                    archive.extract(member, target, filter="data")  # refuses links that lead out, devices, ...
                yield member.name
        while stream.read(BLOCK):  # the rest after the last file, up to the checksum
            yield ""
    while file.read(BLOCK):  # for a file within an archive, up to its own checksum
        yield ""


def _is_wanted(name: str, wanted: list[PurePosixPath]) -> bool:
    """Return whether to unpack a file of an archive. Raises TarError for a name that leads out of the archive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(f"it contains {name!r}, which leads out of it")
    if len(name) > LONGEST:
        raise tarfile.TarError(f"it contains a path of {len(name)} characters, {name[:50]!r}...")
    return any(path.is_relative_to(folder) for folder in wanted)
