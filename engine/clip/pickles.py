"""Read pickles without running them: objects become inert records, which are converted to plain tensors afterwards."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

LONGEST = 16 << 20
"""Bytes of the longest pickle that is read. A list of 1,000 tensors takes 0.1 MB, its Python objects 60 times that."""
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
"""Dtypes by the prefix of torch's storage class (`torch.FloatStorage`)."""


class Inert:
    """An object of a pickle that does nothing: the name of its class or function, its arguments and its state."""

    path = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignore the arguments of the constructor; `args` has them already."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, value: Any) -> None:
        """Ignore a value: containers of other classes are not needed."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore a value as `append` does."""


class Mapping(dict):
    """An ordered dictionary without attributes; torch sets some on the state dict of a module."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the attributes."""


class Unhashable(tuple):
    """A tuple of a pickle, not allowed as a key: hashing nested tuples that contain the next twice takes forever."""

    __hash__ = None


@dataclass(frozen=True)
class Storage:
    """A storage of tensor values in a file, with its name `key`."""

    key: str
    dtype: torch.dtype


def _unhashable(load: Callable[[pickle._Unpickler], None]) -> Callable[[pickle._Unpickler], None]:
    """Wrap a step of the unpickler that makes a tuple to make an `Unhashable`."""

    def step(reader: pickle._Unpickler) -> None:
        load(reader)
        reader.stack[-1] = Unhashable(reader.stack[-1])

    return step


TUPLES = {code[0] for code in (pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)}


class Reader(pickle._Unpickler):
    """Unpickle inert objects.

    Based on the pure-Python unpickler: the one in C allocates as much memory as an index in the file demands. For the
    same reason, mutable bytes are not supported.
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
        kind, storage_class, key, *_ = pid
        name = storage_class.path.removeprefix("torch.").removesuffix("Storage")
        if kind != "storage" or name not in DTYPES or (len(pid) > 5 and pid[5] is not None):
            raise ValueError(f"unknown storage type {storage_class.path}")
        return self.storages.setdefault(str(key), Storage(str(key), DTYPES[name]))


def unpickle(content: bytes) -> Any:
    """Return the object of a pickle, inert. Raises ValueError for a pickle that is too long for weights."""
    if len(content) > LONGEST:
        raise ValueError(f"its list of objects has {len(content):,} bytes, more than {LONGEST:,}")
    return Reader(io.BytesIO(content)).load()


def is_tensor(value: Any) -> bool:
    """Return whether an inert object represents a plain tensor or parameter."""
    value = _data(value)
    return isinstance(value, Inert) and value.path == "torch._utils._rebuild_tensor_v2"


def tensor(value: Inert, read: Callable[[Storage], Tensor]) -> Tensor:
    """Return the tensor that an inert object represents; `read` returns the values of a storage as a tensor [n].

    Raises RuntimeError, TypeError or ValueError for sizes and strides beyond the storage.
    """
    storage, offset, size, stride, *_ = _data(value).args
    return read(storage).as_strided(size, stride, offset)


def _data(value: Any) -> Any:
    is_parameter = isinstance(value, Inert) and value.path == "torch._utils._rebuild_parameter"
    return value.args[0] if is_parameter else value
