"""Download a large file over an unreliable network; only a complete file gets its final name.

The received bytes are kept in `<name>.part`, and the next call, in this process or another, resumes from there (HTTP's
Range). A server without ranges starts over, and so does one whose file has changed since: `<name>.part.version` has the
server's version of the received bytes (HTTP's ETag or Last-Modified).
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
"""Seconds without an answer from the server."""

Progress = Callable[[str, int, int | None], object]
"""A callback with a description, the number of bytes done, and the total or None."""


class NotDownloaded(UserError):
    """A file could not be downloaded. The received bytes are kept."""


class _Broken(Exception):
    """The connection failed, not this machine."""


def fetch(url: str, path: Path, progress: Progress, *, room: float = 0.0) -> None:
    """Download `url` to `path`, unless it exists. Reconnect after a break as long as more bytes arrive.

    Raises NotDownloaded if the host cannot be reached, lacks the file or stops sending; UserError if the disk has no
    room for the file plus `room` times its size, or if another process is downloading it.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with locked(part) as file:
        arrived = 0
        while (reason := _resume(url, file, part, progress, room)) is not None:
            size = file.seek(0, os.SEEK_END)
            if size <= arrived:
                kept = (
                    f"; {files.format_bytes(size)} of it are in {part}. To resume, run the same command again"
                    * bool(size)
                )
                raise NotDownloaded(f"{url} cannot be downloaded ({reason}){kept}")
            arrived = size
        os.fsync(file.fileno())
        _version_file(part).unlink(missing_ok=True)
        part.replace(path)


def check_md5(path: Path, md5: str, url: str, progress: Progress) -> None:
    """Raise UserError if a file is not the published one. The file is kept for inspection."""
    digest, size = hashlib.md5(usedforsecurity=False), path.stat().st_size
    with files.opening(path), path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            progress(f"checking {path.name}", file.tell(), size)
    if digest.hexdigest() != md5:
        raise UserError(
            f"{path} is not the published file: its MD5 is {digest.hexdigest()}, not {md5}. It came from {url}."
            " Remove it, then run the same command to download it again"
        )


@contextmanager
def locked(part: Path) -> Iterator[BinaryIO]:
    """Open and lock a file for one process at a time; remove it afterwards if it is empty."""
    with part.open("ab", buffering=0) as file:  # on a full disk, a buffer would fail again on closing
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{part}: another process is downloading this file") from error
        except OSError as error:
            raise UserError(f"{part} cannot be locked ({error.strerror}); use another disk (--data_dir)") from error
        try:
            yield file
        finally:
            if not file.seek(0, os.SEEK_END):
                _version_file(part).unlink(missing_ok=True)
                part.unlink(missing_ok=True)


def _resume(url: str, file: BinaryIO, part: Path, progress: Progress, room: float) -> str | None:
    """Download the rest of `file`. Return None if it is complete, else why the connection broke."""
    have, version_file = file.seek(0, os.SEEK_END), _version_file(part)
    version = version_file.read_text(encoding="utf-8") if have and version_file.exists() else None
    try:
        response = _open(url, have, part, version)
        if response is None:
            return None
        with response:
            found = _version(response)
            changed = version and found and found != version  # the server ignored If-Range
            if have and (changed or response.status != 206):  # or the server sends the whole file
                file.truncate(0)
                if response.status == 206:
                    return _resume(url, file, part, progress, room)
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
    """Return the path of the file that has the version of the received bytes."""
    return part.with_name(f"{part.name}.version")


def _version(response: HTTPResponse) -> str | None:
    """Return the server's version of its file: a strong ETag, or a modification time; None without either."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _open(url: str, have: int, part: Path, version: str | None) -> HTTPResponse | None:
    """Request the bytes from `have` on. Return None if there are none. Raises NotDownloaded if refused.

    A server whose file has another `version` now answers with the whole file.
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
        reason = f"the server answered {error.code} {error.reason}"
        if error.code == 416:
            reason += f"; {part} has {have} bytes, more than the file: remove it"
        raise NotDownloaded(f"{url} cannot be downloaded: {reason}") from error
    except (OSError, HTTPException) as error:  # URLError and all errors of sockets and TLS are OSErrors
        raise _Broken(getattr(error, "reason", None) or error) from error
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if response.status == 206 and start != str(have):
        raise NotDownloaded(f"{url}: the server sent the bytes from {start} on, not from {have} on")
    return response


def _read(response: HTTPResponse) -> bytes:
    """Return the received bytes of an answer, a block at most. Raises _Broken if the network fails, not the disk."""
    try:
        return response.read1(BLOCK)
    except (OSError, HTTPException) as error:
        raise _Broken(error) from error


def _write(file: BinaryIO, block: bytes, part: Path, size: int, content: str) -> None:
    """Write a block to `file`, which is `part`. If the disk is full, the bytes written so far stay.

    Raises UserError, which states the size of `content`: `size` bytes.
    """
    left = memoryview(block)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        remedy = remedy_for(error, part.parent, size, content)
        raise UserError(f"{part} cannot be written ({error.strerror}){remedy}") from error


def require_room(folder: Path, size: int, content: str) -> None:
    """Raise UserError unless `size` bytes can still be written in `folder`."""
    if size > files.free_space(folder):
        raise UserError(_room(folder, size, content))


def remedy_for(error: OSError, folder: Path, size: int, content: str) -> str:
    """Return the remedy after writing in `folder` failed, to follow the reason; `content` takes `size` bytes."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ". Fix this, then run the same command again to resume"
    return f". {_room(folder, size, content)}"


def _room(folder: Path, size: int, content: str) -> str:
    needs = f"{content} takes about {files.format_bytes(size)}, and " * bool(size)  # some servers do not state a size
    left = files.format_bytes(files.free_space(folder))
    return (
        f"{needs}{folder} has {left} left. Make room there, or replace the dataset's folder by a symbolic link to"
        " another disk. Then run the same command again to resume"
    )
