"""Whether files of weights are the released ones: AudioCLIP's checkpoint, and the demo's, digests beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.errors import UserError
from engine.files import read_lines, write_text

NAME = "AudioCLIP-Partial-Training.pt"
PATH = Path(__file__).parents[1] / "audioclip" / NAME
BYTES = 537_302_068
SHA256 = "1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75"
"""The file whose space is that of CLIP RN50. What is called so must be that very file."""
WHERE = (
    f"Get {NAME} ({BYTES} bytes) from the releases of https://github.com/AndreyGuzhov/AudioCLIP (DATASETS.md, section"
    ' "ESC-50"); --checkpoint names another place'
)


def require_audioclip(path: Path) -> None:
    """Raise UserError for a checkpoint that is not there."""
    if not path.is_file():
        raise UserError(f"AudioCLIP's checkpoint was looked for at {path}, and is not there.\n{WHERE}")


def check_audioclip(path: Path) -> None:
    """Raise UserError for a file that is not there, or has the released file's name and is another."""
    require_audioclip(path)
    if path.name != NAME:
        return
    remedy = f"download it again, or rename it if it is another checkpoint.\n{WHERE}"
    if (size := path.stat().st_size) != BYTES:
        raise UserError(f"{path} is not the released file: it has {size} bytes, not {BYTES}; {remedy}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(f"{path} is not the released file: its SHA-256 is {digest}, not {SHA256}; {remedy}")


SUMS = "SHA256SUMS"
"""The list of digests beside the files, as `sha256sum` writes it."""


def check_demo(path: Path) -> None:
    """Raise UserError unless a file of weights has the digest that the list beside it states."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if _stated(path).get(path.name) != digest:
        raise UserError(
            f"{path} is not the file that came with the project (its SHA-256 is {digest[:12]}..., and"
            f" {path.with_name(SUMS)} states another or none); get both files anew"
        )


def record_demo_digest(path: Path) -> None:
    """State the digest of a file of weights that was just made in the list beside it."""
    digests = _stated(path) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(path.with_name(SUMS), "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def _stated(path: Path) -> dict[str, str]:
    """The digests in the list beside a file, by the names of files."""
    sums = path.with_name(SUMS)
    pairs = (line.split() for line in read_lines(sums)) if sums.is_file() else ()
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
