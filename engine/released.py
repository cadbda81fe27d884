"""Check that weight files are the released ones: AudioCLIP's checkpoint, and the demo's, with digests beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.errors import UserError
from engine.files import read_lines, write_text

NAME = "AudioCLIP-Partial-Training.pt"
PATH = Path(__file__).parents[1] / "audioclip" / NAME
BYTES = 537_302_068
SHA256 = "1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75"
"""The checkpoint whose embedding space is CLIP RN50's. A file of this name must have this digest."""
WHERE = (
    f"Get {NAME} ({BYTES} bytes) from the releases of https://github.com/AndreyGuzhov/AudioCLIP (DATASETS.md, section"
    ' "ESC-50"); for another path, pass --checkpoint'
)


def require_audioclip(path: Path) -> None:
    """Raise UserError if the checkpoint does not exist."""
    if not path.is_file():
        raise UserError(f"AudioCLIP's checkpoint {path} does not exist.\n{WHERE}")


def check_audioclip(path: Path) -> None:
    """Raise UserError if a file does not exist, or differs from the released file although it has its name."""
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
    """Raise UserError unless a weight file has the digest in the list beside it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if _read_digests(path).get(path.name) != digest:
        raise UserError(
            f"{path} is not the file that came with the project (its SHA-256 is {digest[:12]}..., but"
            f" {path.with_name(SUMS)} has another or none); get both files again"
        )


def record_demo_digest(path: Path) -> None:
    """Write the digest of a new weight file to the list beside it."""
    digests = _read_digests(path) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(path.with_name(SUMS), "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def _read_digests(path: Path) -> dict[str, str]:
    """Return the digests in the list beside a file, by file name."""
    sums = path.with_name(SUMS)
    pairs = (line.split() for line in read_lines(sums)) if sums.is_file() else ()
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
