"""What `--clip-encoder` and `--clip-weights` name, and the folder that features of an encoder live in."""

from __future__ import annotations

import re
from pathlib import Path

OPENAI = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
"""OpenAI's encoders, by the names that OpenAI gave them."""

DEMO = ("demo-RN", "demo-ViT")
"""The two tiny encoders that come with the project."""


def architecture(name: str) -> tuple[str, str | None]:
    """Split an encoder's name in open_clip's architecture and pretrained tag (None: weights from a file alone).

    `ViT-B/16` -> (`ViT-B-16`, `openai`); `ViT-B-16:datacomp_xl_s13b_b90k` -> (`ViT-B-16`, `datacomp_xl_s13b_b90k`).
    """
    model, _, tag = _dashed(name).partition(":")
    if tag:
        return model, tag
    return model, "openai" if model in map(_dashed, OPENAI) else None


def hint(name: str) -> str:
    """Which names there are, as the end of a message, if `name` is none that can be understood without open_clip."""
    if architecture(name)[1] or name in DEMO:
        return ""
    return f" (no encoder of OpenAI's or the project's is called '{name}'; they are {', '.join(OPENAI + DEMO)})"


def _dashed(name: str) -> str:
    """A name as open_clip writes it."""
    return name.replace("/", "-").replace("@336px", "-336")


def folder(name: str, weights: str | None = None) -> str:
    """The name of an encoder as a folder: `ViT-B/16` -> `ViT-B-16`; local weights are marked `RN50@<file stem>`."""
    folders = [re.sub(r"[^\w.@-]+", "-", part) for part in (name, Path(weights).stem if weights else "") if part]
    return "@".join(folders)


def parse_folder(made: str) -> tuple[str, str | None]:
    """The name that `folder` made this of, and the stem of the local weights, if any.

    A name that is neither OpenAI's nor the project's, nor one of open_clip's tags, comes as it stands in the folder.
    """
    known = {folder(name): name for name in OPENAI + DEMO}
    if made in known:
        return known[made], None
    name, _, weights = made.rpartition("@") if "@" in made else (made, "", None)
    if name not in known:
        from open_clip import list_pretrained  # which takes seconds

        known = {folder(tagged): tagged for tagged in map(":".join, list_pretrained())}
    return known.get(name, name), weights
