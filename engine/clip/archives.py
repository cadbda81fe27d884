"""Read the tensors of torch.save files and TorchScript archives without running any code in them."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Any, BinaryIO

import torch
from torch import Tensor

from engine.clip import pickles
from engine.clip.pickles import Inert, Storage
from engine.errors import UserError

INFLATION = 4
"""Most times that the content may be larger than the file. Torch stores tensors uncompressed; zeros would deflate to a
thousandth."""
SLACK = 16 << 20
"""Bytes that the content may always have: small archives are mostly code, which is compressed."""
PIECE = 4 << 20
"""Bytes that are read at a time."""
MODULES = 100_000
"""Most modules of a scripted model that are read: modules in a file may contain each other in a cycle."""
LEGACY = 0x1950A86A20F9469CFC6C
"""The first object in files of torch.save before 2020."""
SCRIPTED = "__torch__."
_CLASS = re.compile(r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n(?:  __buffers__ = \[(.*)\]\n)?", re.M)


Select = Callable[[Any], dict[str, Inert]]
"""Returns the state dict in the content of a file, or raises UserError if there is none."""


def require_no_bomb(archive: zipfile.ZipFile, path: str) -> None:
    """Raise UserError for an archive whose content is far larger than its file."""
    content, size = sum(entry.file_size for entry in archive.infolist()), os.path.getsize(path)
    if content > INFLATION * size + SLACK:
        raise UserError(
            f"{path} has {size:,} bytes and would unpack to {content:,}: it is not a file of weights; get it again"
        )


def read_zip(path: str, select: Select) -> dict[str, Tensor]:
    """Return the tensors of an archive of torch.save or TorchScript.

    Tensors of a TorchScript model are named as in its `state_dict()`; no code is run.
    """
    with zipfile.ZipFile(path) as archive:
        require_no_bomb(archive, path)
        names = archive.namelist()
        root = next((name.removesuffix("data.pkl") for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)), None)
        if root is None:
            raise UserError(f"{path} is a zip archive without weights; pass the file of weights in it")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise UserError(f"{path} was written on a machine of another byte order; save it again on this one")
        entry = archive.getinfo(f"{root}data.pkl")
        if entry.file_size > pickles.LONGEST:
            raise UserError(f"{path} lists {entry.file_size:,} bytes of objects, too many; save the state dict alone")
        content = pickles.unpickle(archive.read(entry))
        if isinstance(content, Inert) and content.path.startswith(SCRIPTED):
            state = dict(_state(content, path, _tensor_names(archive, f"{root}code/"), "", count(1)))
        else:
            state = select(content)

        @cache  # tensors may share a storage
        def values(storage: Storage) -> Tensor:
            entry = archive.getinfo(f"{root}data/{storage.key}")
            with archive.open(entry) as file:
                return _read_values(file, entry.file_size, storage.dtype)

        return {name: pickles.tensor(value, values) for name, value in state.items()}


def read_legacy(path: str, select: Select) -> dict[str, Tensor]:
    """Return the tensors of a torch.save file from before 2020: four pickles, followed by the values of tensors."""
    with open(path, "rb") as file:
        head = io.BytesIO(file.read(pickles.LONGEST))
        first = pickles.Reader(head).load()
        if first != LEGACY:
            select(first)  # raises a message about the content
            raise UserError(f"{path} is a pickle that torch.save did not write; save the weights with torch.save")
        _protocol, _system = pickles.Reader(head).load(), pickles.Reader(head).load()
        reader = pickles.Reader(head)
        state = select(reader.load())
        keys, position, places = pickles.Reader(head).load(), head.tell(), {}
        for key in keys:
            file.seek(position)
            (length,) = struct.unpack("<q", file.read(8))
            size = length * reader.storages[key].dtype.itemsize
            places[key] = position + 8, size
            position += 8 + size
            if size < 0 or position > os.path.getsize(path):
                raise EOFError(f"{size:,} bytes are announced and missing")

        @cache
        def values(storage: Storage) -> Tensor:
            start, size = places[storage.key]
            file.seek(start)
            return _read_values(file, size, storage.dtype)

        return {name: pickles.tensor(value, values) for name, value in state.items()}


def _read_values(file: BinaryIO, size: int, dtype: torch.dtype) -> Tensor:
    """Read the next `size` bytes of a file as a tensor [n], in pieces because a file in an archive copies each read."""
    buffer = bytearray(size)
    rest = memoryview(buffer)
    while count := file.readinto(rest[:PIECE]):
        rest = rest[count:]
    if rest:
        raise EOFError(f"{len(rest):,} bytes are missing")
    return torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)


def _tensor_names(archive: zipfile.ZipFile, folder: str) -> dict[str, set[str]]:
    """Return the names of parameters and buffers by module class, as the code in the archive lists them."""
    listed = {}
    for entry in archive.namelist():
        if entry.startswith(folder) and entry.endswith(".py"):
            module = entry.removeprefix(folder).removesuffix(".py").replace("/", ".")
            for name, *lists in _CLASS.findall(archive.read(entry).decode()):
                listed[f"{module}.{name}"] = set(re.findall(r'"([^"]+)"', " ".join(lists)))
    return listed


def _state(
    module: Inert, path: str, listed: dict[str, set[str]], prefix: str, seen: Iterator[int]
) -> Iterator[tuple[str, Inert]]:
    """Yield the tensors of a scripted module and its submodules, with their names in the state dict."""
    if next(seen) > MODULES:
        raise ValueError(f"more than {MODULES:,} modules")
    if not isinstance(module.state, dict):
        raise UserError(
            f"{path} is TorchScript whose {module.path} is restored by code in the file, which is not run. If you trust"
            " that code, save the weights alone: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
    for name, value in module.state.items():
        if name in listed[module.path] and pickles.is_tensor(value):
            yield prefix + name, value
        elif isinstance(value, Inert) and value.path in listed:
            yield from _state(value, path, listed, f"{prefix}{name}.", seen)
