"""Read files, and write them so that no reader, and no run after a kill, sees an incomplete one."""

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
"""The process's file mode mask, which mkstemp ignores. Setting another one is the only way to read it."""
os.umask(UMASK)
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.\w+\.tmp", re.DOTALL)
"""Names of temporary files, from `temporary_name`; the groups are the machine and the process that made the file."""
ABANDONED = 24 * 3600
"""Seconds without a change after which a temporary file of another machine is abandoned."""


class CannotOpen(UserError):
    """The system does not let this process read a file or folder. It may be sound, so no message suggests removal."""

    def __init__(self, path: Path, error: OSError):
        super().__init__(f"{path} cannot be opened ({error.strerror or error})")


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Raise CannotOpen if the system fails to open or read `path` in this block; errors about its content pass.

    Decoders raise OSErrors too, without a number. safetensors does so for any refusal by the system, and reports a
    forbidden file as missing; such a file is opened once more to find the reason.
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
    """Return the entries of `folder` whose names match the pattern, sorted; none if it does not exist.

    Raises CannotOpen for a folder that may not be listed; `Path.glob` treats it as empty.
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
            return None  # opening a pipe would block
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return error
    return None


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The temporary name starts with a dot and is unique to this call, so several processes may write the same `path`:
    each leaves a whole file and the last rename wins. Folders are created as needed. A failed write leaves nothing, and
    leftovers of killed processes in the folder are removed (`remove_abandoned`). Raises UserError if the disk is full
    or not writable.
    """
    try:
        _write_and_rename(path, write)
    except OSError as error:  # its own message names the temporary file, or none
        raise _write_error(path, error) from error


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
            os.fsync(file.fileno())  # otherwise a power cut could leave the name without content
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_name(name: str) -> str:
    """Return the name of a temporary file or folder for `name`, without random letters and `.tmp`.

    It includes the owner: this machine and process. Long names are cut, as file systems allow 255 bytes.
    """
    return f".{name[:40]}.{_machine()}-{os.getpid()}."


@functools.cache
def _machine() -> str:
    """Return 8 hex digits that identify the boot and the container, within which process numbers are unique.

    If the system does not provide them, every process counts as its own machine.
    """
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        identity = os.urandom(8).hex()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


@functools.cache
def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in `folder` that no live process owns; once per process, ignoring errors.

    A file of this machine is abandoned when its process has ended. A process of another machine, which may share the
    disk, cannot be looked up: its file is abandoned after a day without a change. Files that
    `temporary_name` did not name are kept.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # several processes may do this at once
                if (owner := TEMPORARY.fullmatch(entry.name)) and _is_abandoned(entry, *owner.groups()):
                    (shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink)(entry.path)


def _is_abandoned(entry: os.DirEntry[str], machine: str, process: str) -> bool:
    if machine != _machine():
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED
    return not is_live(int(process))


def is_live(process: int) -> bool:
    """Return whether a process of this machine lives, by its id."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # the process of another user
        return True
    return True


def require_writable(folder: Path) -> None:
    """Create `folder`, and raise UserError unless it is writable: before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _write_error(folder, error) from error


def _write_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror or error}). Complete files are kept. Fix this, then run the same"
        " command again to resume"
    )


def free_space(folder: Path) -> int:
    """Return the bytes that can still be written in `folder`, which need not exist yet."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def format_bytes(size: int) -> str:
    """Return a number of bytes as text: `512 B`, `3.2 GiB`."""
    if size < 1024:
        return f"{size} B"
    power = min(4, (size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name. Raises UserError if the folder cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror or error})") from error


def entries_below(
    folder: Path | str, list_folder: Callable[[str], list[os.DirEntry[str]]] = entries
) -> Iterator[os.DirEntry[str]]:
    """Yield all entries in and below a folder, folders included, in no particular order.

    Links to folders are followed, after all other folders, and no folder is entered twice: links may lead anywhere.
    Temporary folders are not entered: they vanish when their writer, perhaps another process, is done. `list_folder`
    returns the wanted entries of a folder; its exceptions pass.
    """
    folders, links, seen = [os.fspath(folder)], [], set()
    while folders or links:
        path = (folders or links).pop()
        with suppress(OSError):  # listing it raises the reason
            status = os.stat(path)
            identity = status.st_dev, status.st_ino
            if identity in seen:
                continue
            seen.add(identity)
        for entry in list_folder(path):
            if is_folder(entry) and not TEMPORARY.fullmatch(entry.name):
                (links if entry.is_symlink() else folders).append(entry.path)
            yield entry


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a circular link is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, stripped, without empty ones at the end.

    Raises UserError if the file is not UTF-8 text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises CannotOpen, which names the file, if it cannot be read."""
    with opening(path):
        return path.read_bytes()


def parse_json(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of JSON text; `object_pairs_hook` as in `json.loads`.

    Raises ValueError for anything but JSON: other text, bytes that are not UTF-8, too deep nesting. Callers catch it to
    name the file and the remedy.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def read_json(path: Path, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value in a JSON file, as `parse_json` does.

    Raises UserError, which names the file, if it cannot be read or is not JSON.
    """
    content = read_bytes(path)
    try:
        return parse_json(content, object_pairs_hook)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically. Other bytes, of file names in it, stay unchanged."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write `tensors` to `path` as safetensors, atomically."""
    from safetensors import SafetensorError  # imports torch, which not every caller needs
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        try:  # in a folder with an owner: safetensors writes to a file of another name first, which a kill would leave
            with tempfile.TemporaryDirectory(".tmp", temporary_name(path.name), path.parent) as folder:
                save_file(tensors, written := Path(folder, "tensors"), metadata=metadata)
                written.replace(temporary)
        except SafetensorError as error:  # safetensors reports a full disk like this
            raise OSError(error) from error
        _sort_metadata(temporary)

    write_atomically(path, write)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata keys in the header of a safetensors file, which are written in random order.

    Equal content must yield equal bytes, in any process.
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
