"""Checks that banks, prompts, splits and trainable layers belong together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from engine.datasets.few_shot import ALL, FewShotSplit
from engine.errors import UserError
from engine.features.store import Bank, Provenance

if TYPE_CHECKING:  # open_clip takes seconds to import
    from engine.clip.load import Encoder


def check_layers(path: Path, found: Provenance, layers: int | str, encoder: Encoder | None) -> None:
    """Raise UserError for features that are not inputs of the trainable layers."""
    if found.layer != layers:
        raise UserError(
            f"{path} has the inputs of the last {found.layer} layers of {found.encoder}, not of the last {layers};"
            " remove it and extract these features again"
        )
    if encoder is not None and found.encoder_digest != encoder.digest:
        raise UserError(
            f"{path} was extracted with {found.encoder} ({found.encoder_digest[:12]}), but the trainable layers are of"
            f" {encoder.name} ({encoder.digest[:12]}); set --clip-weights to the weights of the extraction, or remove"
            " it and extract the features again"
        )


def check_encoder(bank: Bank, path: Path, other: Provenance) -> None:
    """Raise UserError if a bank and the features at `path`, such as prompts, are of different encoders."""
    image = bank.provenance
    if (image.encoder_digest, image.precision) != (other.encoder_digest, other.precision):
        raise UserError(
            f"{bank.folder} was extracted with {image.encoder} ({image.encoder_digest[:12]}, {image.precision}), but"
            f" {path} with {other.encoder} ({other.encoder_digest[:12]}, {other.precision}); remove the wrong one"
        )


def check_list(bank: Bank, first: Bank) -> None:
    """Raise UserError if a bank has another list of images than the first view of its split."""
    if bank.provenance.list_digest != first.provenance.list_digest:
        raise UserError(
            f"{bank.folder} and {first.folder} were extracted from different lists of images; remove the older one"
        )


def check_settings(bank: Bank, train: Bank) -> None:
    """Raise UserError if a bank and the training images have different extraction settings."""
    if bank.provenance.settings_text != train.provenance.settings_text:
        one, other = (found.provenance.settings_text or "default settings" for found in (bank, train))
        raise UserError(
            f"{bank.folder} and {train.folder} were extracted differently ({one}; {other}); remove the wrong one"
        )


def check_balance(split: FewShotSplit, labels: Tensor, classes: int) -> None:
    """Raise UserError if a few-shot split does not fit the labels of the cached features."""
    counts = labels.bincount(minlength=classes)
    fewest, most = int(counts.min()), int(counts.max())
    if fewest == 0 or (split.shots != ALL and most > split.shots):
        raise UserError(
            f"the split of {split.dataset}, {split.shots} shots, seed {split.seed} does not fit the cached features:"
            f" it has {fewest} to {most} training images a class; delete the wrong one"
        )
