"""AudioCLIP's released checkpoint: where it belongs, and whether a file is it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.errors import UserError

NAME = "AudioCLIP-Partial-Training.pt"
PATH = Path(__file__).parents[1] / "audioclip" / NAME
BYTES = 537_302_068
SHA256 = "1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75"
"""The file whose space is that of CLIP RN50. What is called so must be that very file."""
WHERE = (
    f"Get {NAME} ({BYTES} bytes) from the releases of https://github.com/AndreyGuzhov/AudioCLIP (DATASETS.md, section"
    ' "ESC-50"); --checkpoint names another place'
)


def require(path: Path) -> None:
    """Raise UserError for a checkpoint that is not there."""
    if not path.is_file():
        raise UserError(f"AudioCLIP's checkpoint was looked for at {path}, and is not there.\n{WHERE}")


def check(path: Path) -> None:
    """Raise UserError for a file that is not there, or has the released file's name and is another."""
    require(path)
    if path.name != NAME:
        return
    remedy = f"download it again, or rename it if it is another checkpoint.\n{WHERE}"
    if (size := path.stat().st_size) != BYTES:
        raise UserError(f"{path} is not the released file: it has {size} bytes, not {BYTES}; {remedy}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(f"{path} is not the released file: its SHA-256 is {digest}, not {SHA256}; {remedy}")
