"""Whether features belong together: banks, prompts, splits, and the layers that are trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from engine.datasets.few_shot import ALL, FewShotSplit
from engine.errors import UserError
from engine.features.store import Bank, Provenance

if TYPE_CHECKING:  # open_clip takes seconds to import
    from engine.clip.load import Encoder


def check_layers(place: Path, found: Provenance, layers: int | str, encoder: Encoder | None) -> None:
    """Refuse features that do not go into the layers that are trained."""
    if found.layer != layers:
        raise UserError(
            f"{place} holds what goes into the last {found.layer} layers of {found.encoder}, not into the last"
            f" {layers}; remove it, and make these features anew"
        )
    if encoder is not None and found.encoder_digest != encoder.digest:
        raise UserError(
            f"{place} was made by {found.encoder} ({found.encoder_digest[:12]}), but the layers to train are of"
            f" {encoder.name} ({encoder.digest[:12]}); give the weights that it was made by with --clip-weights,"
            " or remove it and make the features anew"
        )


def check_encoder(bank: Bank, text_path: Path, text: Provenance) -> None:
    """Refuse a bank of another encoder than the prompts'."""
    image = bank.provenance
    if (image.encoder_digest, image.precision) != (text.encoder_digest, text.precision):
        raise UserError(
            f"{bank.folder} was made by {image.encoder} ({image.encoder_digest[:12]}, {image.precision}), but the"
            f" prompts in {text_path} by {text.encoder} ({text.encoder_digest[:12]}, {text.precision});"
            " remove the one you do not want"
        )


def check_list(bank: Bank, first: Bank) -> None:
    """Refuse a bank of another list than the part's first view."""
    if bank.provenance.list_digest != first.provenance.list_digest:
        raise UserError(
            f"{bank.folder} and {first.folder} were made from different lists of images; remove the older one"
        )


def check_settings(bank: Bank, train: Bank) -> None:
    """Refuse a bank of features that were made in another way than the training images'."""
    if bank.provenance.settings_text != train.provenance.settings_text:
        own, other = (
            source.settings_text or "as the protocol has it" for source in (bank.provenance, train.provenance)
        )
        raise UserError(
            f"{bank.folder} was made in another way than {train.folder} ({own}; {other}); remove the one that you"
            " do not want"
        )


def check_balance(split: FewShotSplit, labels: Tensor, classes: int) -> None:
    """Refuse a split that was not made for the dataset whose features these are."""
    counts = labels.bincount(minlength=classes)
    fewest, most = int(counts.min()), int(counts.max())
    if fewest == 0 or (split.shots != ALL and most > split.shots):
        raise UserError(
            f"the split of {split.dataset}, {split.shots} shots, seed {split.seed} was not made for the dataset"
            f" whose features are cached: it has {fewest} to {most} training images a class; delete the one"
            " that is wrong"
        )
