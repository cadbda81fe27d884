"""Read the state dict in a file of weights of any known format and wrapping, or report the kind of file."""

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
    "Weights are a .safetensors file, a state dict written by torch.save, a TorchScript archive such as OpenAI's, or an"
    " .npz file of big_vision"
)
WRAPPERS = ("state_dict", "model")
"""Keys of the state dict in checkpoints with other content."""
NESTING = 4
"""Most levels of wrappers that are unwrapped: a pickle can contain itself."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""Prefixes of all tensor names, added by data parallelism, a training framework and torch.compile."""
_OTHER_FORMATS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`",
    b"<": "is a web page or XML, which a site sent instead of the file; download the file itself",
    b"{": "is JSON, such as a model description; pass the file with the weights",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"\x89HDF": "is an HDF5 file (Keras); convert the model to PyTorch first",
}
"""Kinds of files that are often mistaken for weights, by their first bytes."""


def is_big_vision(path: str) -> bool:
    """Return whether a file is a numpy archive, the format in which big_vision publishes SigLIP.

    Raises UserError if its content is far larger than the file.
    """
    with _report_damage(path):
        with open(path, "rb") as file:
            if file.read(2) != b"PK" or not zipfile.is_zipfile(path):
                return False
        with zipfile.ZipFile(path) as archive:
            archives.require_no_bomb(archive, path)
            return any(name.endswith(".npy") for name in archive.namelist())


def read(path: str) -> dict[str, Tensor]:
    """Return the state dict in a file, without wrappers and name prefixes. No code in the file is run.

    Raises UserError if the file has no weights or is damaged.
    """
    with _report_damage(path):
        reader = _reader(path)
        return _strip_prefixes(reader(path))


@contextmanager
def _report_damage(path: str) -> Iterator[None]:
    """Raise UserError for any error while reading a file."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # any exception of pickle, struct, zipfile and safetensors
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(f"{path} is damaged, or not a file of weights ({reason}); get it again. {FORMATS}") from error


def _reader(path: str) -> Callable[[str], dict[str, Tensor]]:
    """Return the function that reads a file, chosen by its first bytes. Raises UserError for other formats."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        fault = "is empty" if not head else "begins with zeros, as after an interrupted download"
        raise UserError(f"{path} {fault}; get it again. {FORMATS}")
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is truncated: the end of its archive is missing; get it again")
    if head[:2] == b"PK":
        return lambda path: archives.read_zip(path, lambda content: _select(content, path))
    if head[8:9] == b"{" and head[4:8] == b"\0\0\0\0":  # safetensors: the length of the header, then its JSON
        return load_file
    if head[:1] == b"\x80":
        return lambda path: archives.read_legacy(path, lambda content: _select(content, path))
    for start, kind in _OTHER_FORMATS.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start):
            raise UserError(f"{path} {kind}. {FORMATS}")
    raise UserError(f"{path} is of an unknown format. {FORMATS}")


def _select(content: Any, path: str) -> dict[str, Inert]:
    """Return the state dict in the content of a pickle. Raises UserError with the kind of content if there is none."""
    content = _unwrap(content, path)
    if isinstance(content, Inert) and not pickles.is_tensor(content):
        raise UserError(
            f"{path} is a whole pickled object ({content.path}), which only its own code can read. Save its weights"
            " alone where that code is installed: torch.save(model.state_dict(), 'weights.pt')"
        )
    if not isinstance(content, dict):
        kind = "tensor" if isinstance(content, Inert) else type(content).__name__
        raise UserError(f"{path} contains one {kind}, not tensors by name. {FORMATS}")
    named = {key[:100] if isinstance(key, str) else type(key).__name__: value for key, value in content.items()}
    if not any(map(pickles.is_tensor, named.values())):
        held = list_preview(map(repr, named), len(named)) or "nothing"
        raise UserError(f"{path} has no weights, but {held}; a checkpoint must have them as {' or '.join(WRAPPERS)}")
    if others := [name for name, value in named.items() if not pickles.is_tensor(value)]:
        raise UserError(
            f"{path}: {list_preview(others)} among its weights: not plain tensors; save the state dict alone"
        )
    return content


def _unwrap(content: Any, path: str) -> Any:
    """Return the value under the weights key of a checkpoint, and any other content unchanged."""
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


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes that *all* names have: no encoder has such a prefix in all of its own names."""
    while prefix := next(
        (prefix for prefix in PREFIXES if state and all(name.startswith(prefix) for name in state)), ""
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
