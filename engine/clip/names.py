"""Encoder names of `--clip-encoder`, and the folders of their features."""

from __future__ import annotations

import re
from pathlib import Path

OPENAI = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
"""OpenAI's encoders, by OpenAI's names."""

PROJECTION = "projection"
"""Value of `--image-layer-idx` beside numbers: the linear map at the end of the image encoder, a part of a layer."""

DEMO = ("demo-RN", "demo-ViT")
"""The two tiny encoders of the project."""


def architecture(name: str) -> tuple[str, str | None]:
    """Split an encoder's name into open_clip's architecture and pretrained tag (None: weights must be a file).

    `ViT-B/16` -> (`ViT-B-16`, `openai`); `ViT-B-16:datacomp_xl_s13b_b90k` -> (`ViT-B-16`, `datacomp_xl_s13b_b90k`).
    """
    model, _, tag = _hyphenate(name).partition(":")
    if tag:
        return model, tag
    return model, "openai" if model in map(_hyphenate, OPENAI) else None


def hint(name: str) -> str:
    """Return the known names as the end of a message; empty if `name` is known or has a pretrained tag."""
    if architecture(name)[1] or name in DEMO:
        return ""
    return f" (no encoder of OpenAI's or the project's is called '{name}'; they are {', '.join(OPENAI + DEMO)})"


def _hyphenate(name: str) -> str:
    """Return a name in open_clip's spelling."""
    return name.replace("/", "-").replace("@336px", "-336")


def folder(name: str, weights: str | None = None) -> str:
    """Return the folder name of an encoder: `ViT-B/16` -> `ViT-B-16`; with local weights `RN50@<file stem>`."""
    folders = [re.sub(r"[^\w.@-]+", "-", part) for part in (name, Path(weights).stem if weights else "") if part]
    return "@".join(folders)


def parse_folder(folder_name: str) -> tuple[str, str | None]:
    """Return the encoder name of a `folder`, and the stem of its local weights (None: no local weights).

    Unknown names (not OpenAI's, the project's or one of open_clip's tags) are returned unchanged.
    """
    known = {folder(name): name for name in OPENAI + DEMO}
    if folder_name in known:
        return known[folder_name], None
    name, _, weights = folder_name.rpartition("@") if "@" in folder_name else (folder_name, "", None)
    if name not in known:
        from open_clip import list_pretrained  # takes seconds

        known = {folder(tagged): tagged for tagged in map(":".join, list_pretrained())}
    return known.get(name, name), weights
