"""Whether the demo's weights are the files that came with the project: their SHA-256 is in models/SHA256SUMS."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.errors import UserError
from engine.files import read_lines, write_text

SUMS = "SHA256SUMS"
"""The list of digests beside the files, as `sha256sum` writes it."""


def check(path: Path) -> None:
    """Raise UserError unless a file of weights has the digest that the list beside it states."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if _stated(path).get(path.name) != digest:
        raise UserError(
            f"{path} is not the file that came with the project (its SHA-256 is {digest[:12]}..., and"
            f" {path.with_name(SUMS)} states another or none); get both files anew"
        )


def state(path: Path) -> None:
    """State the digest of a file of weights that was just made in the list beside it."""
    digests = _stated(path) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(path.with_name(SUMS), "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def _stated(path: Path) -> dict[str, str]:
    """The digests in the list beside a file, by the names of files."""
    sums = path.with_name(SUMS)
    pairs = (line.split() for line in read_lines(sums)) if sums.is_file() else ()
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
