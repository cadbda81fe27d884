"""Writing files so that a reader, or a run after a kill, never sees half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

UMASK = os.umask(0o022)
"""The process's file mode mask, which mkstemp ignores. The system tells it only while another one is set."""
os.umask(UMASK)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The temporary name starts with a dot and is unique to this call, so several processes may write the same `path`:
    each leaves a whole file and the last rename wins. Folders are made as needed. A failed write leaves nothing.
    Raises UserError when the disk is full, or where nothing may be written.
    """
    try:
        _write_and_rename(path, write)
    except OSError as error:  # which names the temporary file, or none
        raise _not_written(path, error) from error


def _write_and_rename(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
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


def shown(size: int) -> str:
    """A number of bytes for a person to read: `512 B`, `3.2 GiB`."""
    if size < 1024:
        return f"{size} B"
    power = min(4, (size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, without spaces around them, nor the empty ones at its end.

    Raises UserError for a file that is none.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises UserError, which names the file, when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error


def parse_json(text: str | bytes, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value that JSON stands for; `object_pairs_hook` as `json.loads` has it.

    Raises ValueError for all that is not JSON: other text, NaN, bytes that are not UTF-8, too deep a nesting. Readers
    that name their file and its remedy themselves catch it.
    """
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


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

    write_atomically(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")
