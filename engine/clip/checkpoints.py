"""The state dict in a file of weights, whatever its format and wrapping; what a file is when it has none."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from engine.clip import archives, pickles
from engine.clip.pickles import Inert
from engine.datasets.checks import list_preview
from engine.errors import UserError

FORMATS = (
    "Weights are a .safetensors file, a state dict that torch.save wrote, an archive of TorchScript such as OpenAI's,"
    " or an .npz file of big_vision's"
)
WRAPPERS = ("state_dict", "model")
"""Under what names checkpoints keep the state dict beside other things."""
NESTING = 4
"""How many of them are unwrapped; a pickle can hold itself."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What data parallelism, a training framework and torch.compile put before the names of all tensors."""
_ALIENS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`",
    b"<": "is a web page or XML, such as a site sends instead of a file; download the file itself",
    b"{": "is JSON, such as the description of a model; its weights are in another file",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"\x89HDF": "is a file of HDF5 (Keras); convert the model to PyTorch first",
}
"""What files are that are often taken for weights, by their first bytes."""


def is_big_vision(path: str) -> bool:
    """Return whether a file has the format of numpy's archives, in which big_vision publishes SigLIP.

    Raises UserError for one that would take far more memory than its file has bytes.
    """
    with _damage(path):
        with open(path, "rb") as file:
            if file.read(2) != b"PK" or not zipfile.is_zipfile(path):
                return False
        with zipfile.ZipFile(path) as archive:
            archives.require_no_bomb(archive, path)
            return any(name.endswith(".npy") for name in archive.namelist())


def read(path: str) -> dict[str, Tensor]:
    """Return the state dict in a file, without the wrapping and the prefixes of its names. No code of it is run.

    Raises UserError for a file that is no weights, and for one that is damaged.
    """
    with _damage(path):
        reader = _reader(path)
        return _without_prefixes(reader(path))


@contextmanager
def _damage(path: str) -> Iterator[None]:
    """Raise UserError for all that reading a file can lead to."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can lead to any exception of pickle, struct, zipfile and safetensors
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(f"{path} is damaged, or no file of weights ({reason}); get it again. {FORMATS}") from error


def _reader(path: str) -> Callable[[str], dict[str, Tensor]]:
    """The function that reads a file, chosen by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        what = "is empty" if not head else "begins with zeros, as an interrupted download does"
        raise UserError(f"{path} {what}; get it again. {FORMATS}")
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is truncated: the end of its archive is missing; get it again")
    if head[:2] == b"PK":
        return lambda path: archives.read_zip(path, lambda content: _select(content, path))
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":  # the length of the description, and the description
        return load_file
    if head[:1] == b"\x80":
        return lambda path: archives.read_legacy(path, lambda content: _select(content, path))
    for start, what in _ALIENS.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start):
            raise UserError(f"{path} {what}. {FORMATS}")
    raise UserError(f"{path} is of an unknown format. {FORMATS}")


def _select(content: Any, path: str) -> dict[str, Inert]:
    """The state dict in what a pickle holds; UserError says what that is if there is none."""
    content = _unwrapped(content, path)
    if isinstance(content, Inert) and not pickles.is_tensor(content):
        raise UserError(
            f"{path} is a whole pickled object ({content.path}), which only its own code could read. Save its weights"
            " alone, where that code is: torch.save(model.state_dict(), 'weights.pt')"
        )
    if not isinstance(content, dict):
        what = "tensor" if isinstance(content, Inert) else type(content).__name__
        raise UserError(f"{path} holds one {what}, not tensors by name. {FORMATS}")
    named = {key[:100] if isinstance(key, str) else type(key).__name__: value for key, value in content.items()}
    if not any(map(pickles.is_tensor, named.values())):
        held = list_preview(map(repr, named), len(named)) or "nothing"
        raise UserError(f"{path} has no weights, but {held}; a checkpoint has them as {' or '.join(WRAPPERS)}")
    if others := [name for name, value in named.items() if not pickles.is_tensor(value)]:
        raise UserError(f"{path}: {list_preview(others)} among its weights: no plain tensors")
    return content


def _unwrapped(content: Any, path: str) -> Any:
    """What a checkpoint keeps its weights in; anything else as it is."""
    for _ in range(NESTING):
        if not isinstance(content, dict):
            break
        dicts = [name for name in WRAPPERS if isinstance(content.get(name), dict)]
        if len(dicts) > 1:
            raise UserError(f"{path} has two sets of weights, {' and '.join(dicts)}; save one of them alone")
        objects = [name for name in WRAPPERS if isinstance(content.get(name), Inert)]
        if not dicts + objects:
            break
        content = content[(dicts + objects)[0]]
    return content


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same without what is before *all* names: an encoder has tensors whose names have no such beginning."""
    while prefix := next(
        (prefix for prefix in PREFIXES if state and all(name.startswith(prefix) for name in state)), ""
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
