"""Read pickles without running them: their objects become inert records, of which plain tensors are made afterwards."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

LONGEST = 16 << 20
"""Bytes of the longest pickle that is read: a list of 1,000 tensors takes 0.1 MB, and Python's objects 60 times that.
"""
DTYPES = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
"""The types of numbers by the name of torch's storage class (`torch.FloatStorage`)."""


class Inert:
    """An object of a pickle: the name of its class or function, its arguments and its state. It does nothing."""

    path = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what the pickle hands to the constructor; `args` has it already."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, value: Any) -> None:
        """Drop a value: of containers that are not Python's own, nothing is wanted."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop a value as `append` does."""


class Mapping(dict):
    """An ordered dictionary without attributes; torch sets some on the state dict of a module."""

    def __setstate__(self, state: Any) -> None:
        """Drop the attributes."""


class Unhashable(tuple):
    """A tuple of a pickle. As a key, one that holds another twice, and so on, would be hashed for ever."""

    __hash__ = None


@dataclass(frozen=True)
class Storage:
    """Where the numbers of tensors lie in a file: `key` is its name there."""

    key: str
    dtype: torch.dtype


def _unhashable(load: Callable[[pickle._Unpickler], None]) -> Callable[[pickle._Unpickler], None]:
    """The step of a pickle that makes a tuple, so that it makes one that is no key."""

    def step(reader: pickle._Unpickler) -> None:
        load(reader)
        reader.stack[-1] = Unhashable(reader.stack[-1])

    return step


TUPLES = {code[0] for code in (pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)}


class Reader(pickle._Unpickler):
    """Unpickle inert objects.

    Python's own implementation in Python, because the one in C allocates what an index in the file asks for; for the
    same reason, mutable bytes are no part of the language here.
    """

    dispatch: ClassVar = {
        code: _unhashable(load) if code in TUPLES else load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> type:
        path = f"{module}.{name}"
        return Mapping if path == "collections.OrderedDict" else type(name, (Inert,), {"path": path})

    def persistent_load(self, pid: Any) -> Storage:
        kind, made_by, key, *_ = pid
        name = made_by.path.removeprefix("torch.").removesuffix("Storage")
        if kind != "storage" or name not in DTYPES or (len(pid) > 5 and pid[5] is not None):
            raise ValueError(f"numbers of the unknown kind {made_by.path}")
        return self.storages.setdefault(str(key), Storage(str(key), DTYPES[name]))


def unpickle(content: bytes) -> Any:
    """Return the object of a pickle, inert. Raises ValueError for a pickle that is too long to be weights."""
    if len(content) > LONGEST:
        raise ValueError(f"its list of objects has {len(content):,} bytes, and {LONGEST:,} are read")
    return Reader(io.BytesIO(content)).load()


def is_tensor(value: Any) -> bool:
    """Return whether an inert object stands for a plain tensor, or a parameter that is one."""
    value = _data(value)
    return isinstance(value, Inert) and value.path == "torch._utils._rebuild_tensor_v2"


def tensor(value: Inert, read: Callable[[Storage], Tensor]) -> Tensor:
    """Return the tensor that an inert object stands for; `read` returns the numbers of a storage, one after another.

    Raises RuntimeError, TypeError or ValueError for sizes and strides beyond the storage.
    """
    storage, offset, size, stride, *_ = _data(value).args
    return read(storage).as_strided(size, stride, offset)


def _data(value: Any) -> Any:
    is_parameter = isinstance(value, Inert) and value.path == "torch._utils._rebuild_parameter"
    return value.args[0] if is_parameter else value
