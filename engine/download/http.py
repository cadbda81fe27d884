"""Download a file that may be large, over a network that may break, to a name that only a complete file gets.

What has arrived is kept in `<name>.part`, and the next call goes on from there (HTTP's Range), in this process or
another. A server that knows no ranges starts over, and so does one whose file has changed since: `<name>.part.version`
has what the server calls the version that has arrived in part (HTTP's ETag or Last-Modified).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from engine import files
from engine.errors import UserError

BLOCK = 1 << 20
TIMEOUT = 30
"""Seconds that a server may be silent."""

Progress = Callable[[str, int, int | None], object]
"""Hears of what is being done, how many bytes of it are, and of how many, where that is known."""


class NotDownloaded(UserError):
    """A file could not be fetched. What has arrived of it is kept."""


class _Broken(Exception):
    """The connection, and not this machine, failed."""


def fetch(url: str, path: Path, progress: Progress, *, room: float = 0.0) -> None:
    """Download `url` to `path`, unless that is there. A connection that breaks is made again as long as more arrives.

    Raises NotDownloaded when the host cannot be reached, lacks the file or sends no more of it; UserError when the disk
    has no room for it and, beside it, `room` times its size, and while another process is at it.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with locked(part) as file:
        arrived = 0
        while (reason := _go_on(url, file, part, progress, room)) is not None:
            size = file.seek(0, os.SEEK_END)
            if size <= arrived:
                kept = (
                    f"; {files.format_bytes(size)} of it are in {part}, and the same command goes on from there"
                    * bool(size)
                )
                raise NotDownloaded(f"{url} cannot be downloaded ({reason}){kept}")
            arrived = size
        os.fsync(file.fileno())
        _version_file(part).unlink(missing_ok=True)
        part.replace(path)


def check_md5(path: Path, md5: str, url: str, progress: Progress) -> None:
    """Raise UserError for a file that is not the published one. It stays there, for whoever wants to look at it."""
    digest, size = hashlib.md5(usedforsecurity=False), path.stat().st_size
    with files.opening(path), path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            progress(f"checking {path.name}", file.tell(), size)
    if digest.hexdigest() != md5:
        raise UserError(
            f"{path} is not the published file: its MD5 is {digest.hexdigest()}, not {md5}. It came from {url}."
            " Remove it, and the same command downloads it again"
        )


@contextmanager
def locked(part: Path) -> Iterator[BinaryIO]:
    """The file of what has arrived, or another, for one process at a time. It goes if nothing is in it."""
    with part.open("ab", buffering=0) as file:  # a buffer that a full disk does not take fails once more, on closing
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{part}: another process is downloading this file") from error
        except OSError as error:
            raise UserError(f"{part} cannot be locked ({error.strerror}); try another disk (--data_dir)") from error
        try:
            yield file
        finally:
            if not file.seek(0, os.SEEK_END):
                _version_file(part).unlink(missing_ok=True)
                part.unlink(missing_ok=True)


def _go_on(url: str, file: BinaryIO, part: Path, progress: Progress, room: float) -> str | None:
    """Fetch what is not in `file` yet. None when all is there, else why the connection broke."""
    have, version_file = file.seek(0, os.SEEK_END), _version_file(part)
    version = version_file.read_text(encoding="utf-8") if have and version_file.exists() else None
    try:
        response = _open(url, have, part, version)
        if response is None:
            return None
        with response:
            found = _version(response)
            changed = version and found and found != version  # and the server does not know If-Range
            if have and (changed or response.status != 206):  # or it sends the whole file, whatever was asked for
                file.truncate(0)
                if response.status == 206:
                    return _go_on(url, file, part, progress, room)
                have = 0
            if not have:
                version_file.write_text(found, encoding="utf-8") if found else version_file.unlink(missing_ok=True)
            total = have + response.length if response.length is not None else None
            needs = int((1 + room) * (total or 0)), f"{part.stem}, unpacked too,"
            require_room(part.parent, needs[0] - have, needs[1])
            while block := _read(response):
                _write(file, block, part, *needs)
                have += len(block)
                progress(f"downloading {part.stem}", have, total)
    except _Broken as error:
        return str(error)
    return None if total in (None, have) else f"the connection was closed after {have} of {total} bytes"


def _version_file(part: Path) -> Path:
    """Where the version of the file is kept that has arrived in part."""
    return part.with_name(f"{part.name}.version")


def _version(response: HTTPResponse) -> str | None:
    """Return what a server calls the version of its file: an ETag for these very bytes, or a time; None without."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _open(url: str, have: int, part: Path, version: str | None) -> HTTPResponse | None:
    """The answer to a request for the bytes from `have` on, None if there are none. Raises NotDownloaded if refused.

    A server whose file is no longer of that `version` answers with the whole file.
    """
    headers = {"User-Agent": "check.py"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and version:
        headers["If-Range"] = version
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and size == str(have):
            return None
        reason = f"its server says {error.code} {error.reason}"
        if error.code == 416:
            reason += f"; {part} has {have} bytes, more than the file: remove it"
        raise NotDownloaded(f"{url} cannot be downloaded: {reason}") from error
    except (OSError, HTTPException) as error:  # URLError is an OSError, and so is all that sockets and TLS raise
        raise _Broken(getattr(error, "reason", None) or error) from error
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if response.status == 206 and start != str(have):
        raise NotDownloaded(f"{url}: asked for the bytes from {have} on, its server sent those from {start} on")
    return response


def _read(response: HTTPResponse) -> bytes:
    """What has arrived of an answer, a block at most. Raises _Broken where the network, and not the disk, fails."""
    try:
        return response.read1(BLOCK)
    except (OSError, HTTPException) as error:
        raise _Broken(error) from error


def _write(file: BinaryIO, block: bytes, part: Path, size: int, what: str) -> None:
    """Write a block to `file`, which is `part`. What a full disk takes of it stays there.

    Raises UserError, which states how large `what` is: `size` bytes.
    """
    left = memoryview(block)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        remedy = after(error, part.parent, size, what)
        raise UserError(f"{part} cannot be written ({error.strerror}){remedy}") from error


def require_room(folder: Path, size: int, what: str) -> None:
    """Raise UserError unless `size` bytes can still be written in `folder`."""
    if size > files.free_space(folder):
        raise UserError(_room(folder, size, what))


def after(error: OSError, folder: Path, size: int, what: str) -> str:
    """Return what to do after writing in `folder` failed, to be said behind the reason; `size` is in bytes."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "; once that is mended, the same command goes on"
    return f". {_room(folder, size, what)}"


def _room(folder: Path, size: int, what: str) -> str:
    needs = f"{what} takes about {files.format_bytes(size)}, and " * bool(size)  # some servers do not state a size
    left = files.format_bytes(files.free_space(folder))
    return (
        f"{needs}{folder} has {left} left. Make room there, or replace the dataset's folder by a symbolic link to"
        " another disk. Then run the same command again: it resumes"
    )
