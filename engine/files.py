"""Writing files so that a reader, or a run after a kill, never sees half of one; opening them."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

UMASK = os.umask(0o022)
"""The process's file mode mask, which mkstemp ignores. The system tells it only while another one is set."""
os.umask(UMASK)
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.\w+\.tmp", re.DOTALL)
"""The names that `temporary_name` begins; in groups, the machine and the process that made the file."""
ABANDONED = 24 * 3600
"""Seconds without a change after which a temporary file of another machine has no owner any more."""


class CannotOpen(UserError):
    """A file or folder that the system does not let this process read now. It may be sound: no message says to remove
    it."""

    def __init__(self, path: Path, error: OSError):
        super().__init__(f"{path} cannot be opened ({error.strerror or error})")


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Raise CannotOpen where the system fails to open or read `path` in this block; errors of its content pass.

    Decoders raise OSErrors too, without a number. So does safetensors for all that the system refuses, and a file that
    may not be opened it calls missing: such a file is opened once more for the reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno:
            raise CannotOpen(path, error) from error
        failure = _failure_to_open(path)
        if failure or isinstance(error, FileNotFoundError) or "(os error " in str(error):
            raise CannotOpen(path, failure or error) from error
        raise


def list_matching(folder: Path, pattern: str) -> list[Path]:
    """Return what in `folder` has a name of this pattern, sorted; nothing where there is no such folder.

    Raises CannotOpen for a folder that may not be listed, which `Path.glob` takes for an empty one.
    """
    try:
        return sorted(folder / name for name in fnmatch.filter(os.listdir(folder), pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CannotOpen(folder, error) from error


def _failure_to_open(path: Path) -> OSError | None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None  # a pipe would be waited for
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return error
    return None


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The temporary name starts with a dot and is unique to this call, so several processes may write the same `path`:
    each leaves a whole file and the last rename wins. Folders are made as needed. A failed write leaves nothing, and
    what killed processes left in the folder is removed (`remove_abandoned`). Raises UserError when the disk is full,
    or where nothing may be written.
    """
    try:
        _write_and_rename(path, write)
    except OSError as error:  # which names the temporary file, or none
        raise _not_written(path, error) from error


def _write_and_rename(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=temporary_name(path.name), suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~UMASK)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave the name without the content
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_name(name: str) -> str:
    """Return what a temporary file or folder for `name` is called, up to random letters and `.tmp`.

    It states who owns it: this machine and process. Long names are cut, as a file system takes 255 bytes.
    """
    return f".{name[:40]}.{_machine()}-{os.getpid()}."


@functools.cache
def _machine() -> str:
    """Return 8 hex digits that the processes share whose numbers mean the same: of one boot and one container.

    A system that does not tell is a machine of its own in each process.
    """
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        identity = os.urandom(8).hex()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


@functools.cache
def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in `folder` that no live process can own; once in a process, and without errors.

    A file of this machine is abandoned when its process is gone. A process of another machine, which may share the
    disk, cannot be looked up: its file is abandoned after a day without a change. Names that `temporary_name` did not
    make are left alone.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # several processes may do this at once
                if (owner := TEMPORARY.fullmatch(entry.name)) and _is_abandoned(entry, *owner.groups()):
                    (shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink)(entry.path)


def _is_abandoned(entry: os.DirEntry[str], machine: str, process: str) -> bool:
    if machine != _machine():
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's
        return False
    return False


def require_writable(folder: Path) -> None:
    """Make `folder`, and raise UserError unless files can be written in it: before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror or error}). What is complete is kept; once that is mended, the same"
        " command goes on from there"
    )


def free_space(folder: Path) -> int:
    """Bytes that can still be written in `folder`, which need not be there yet."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def format_bytes(size: int) -> str:
    """A number of bytes for a person to read: `512 B`, `3.2 GiB`."""
    if size < 1024:
        return f"{size} B"
    power = min(4, (size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name. Raises UserError for a folder that cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror or error})") from error


def entries_below(
    folder: Path | str, list_folder: Callable[[str], list[os.DirEntry[str]]] = entries
) -> Iterator[os.DirEntry[str]]:
    """Yield all entries in and below a folder, folders included, in no certain order.

    Links to folders are followed, after all other folders, and no folder is entered twice: links may lead anywhere.
    `list_folder` returns the entries of a folder that are wanted, and raises what is raised here.
    """
    folders, links, seen = [os.fspath(folder)], [], set()
    while folders or links:
        path = (folders or links).pop()
        with suppress(OSError):  # listing it says why
            status = os.stat(path)
            identity = status.st_dev, status.st_ino
            if identity in seen:
                continue
            seen.add(identity)
        for entry in list_folder(path):
            if is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
            yield entry


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one, which a link in a circle is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, without spaces around them, nor the empty ones at its end.

    Raises UserError for a file that is none.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises CannotOpen, which names the file, when it cannot be read."""
    with opening(path):
        return path.read_bytes()


def parse_json(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value that JSON stands for; `object_pairs_hook` as `json.loads` has it.

    Raises ValueError for all that is not JSON: other text, bytes that are not UTF-8, too deep a nesting. Readers
    that name their file and its remedy themselves catch it.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def read_json(path: Path, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value in a JSON file, as `parse_json` does.

    Raises UserError, which names the file, when it cannot be read or is not JSON.
    """
    content = read_bytes(path)
    try:
        return parse_json(content, object_pairs_hook)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically. Names of files in it may be other bytes, which stay as they are."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write `tensors` to `path` as safetensors, atomically."""
    from safetensors import SafetensorError  # which import torch, and not all who write files need that
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # that is how safetensors says that the disk is full
            raise OSError(error) from error
        _sort_metadata(temporary)

    write_atomically(path, write)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata keys in the header of a safetensors file, which are written in another order each time.

    Equal content must give equal bytes, in whichever process.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise AssertionError(f"{path}: the header of {size} bytes would take {len(text)}")
        file.seek(8)
        file.write(text.ljust(size))


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")
