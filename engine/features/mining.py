"""Template mining (section 7 of the protocol): find the templates of a pool that classify a few-shot val set best.

Each template defines a zero-shot classifier: one row per class, the L2-normalised text feature of the template filled
with the class name. The features of the pool are stored like other prompts. The templates mined on a split are a JSON
file, which records its origin:

    features/<encoder>/<dataset>/template_mining-shot_<s>-seed_<k>.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import templates
from engine.clip.names import PROJECTION
from engine.datasets.few_shot import FewShotSplit
from engine.errors import UserError
from engine.features.listing import read_listing
from engine.features.numbers import check_finite, check_norms
from engine.features.prompts import read_texts, read_texts_provenance
from engine.features.store import Bank, FeaturePaths, MissingFeatures, Provenance
from engine.files import parse_json, read_bytes, write_json
from engine.templates import MINED, MINING

if TYPE_CHECKING:  # importing open_clip takes seconds, and reading mined templates does not need it
    from engine.clip.load import Encoder

LOGITS = 1 << 25
"""Logits in memory at a time (128 MiB)."""


@dataclass(frozen=True)
class Origin:
    """The origin of mined templates: the provenance of the features of pool and val images, the digest of the split."""

    text: Provenance
    val: Provenance
    split: str

    @classmethod
    def of(cls, text: Provenance, val: Bank, split: FewShotSplit) -> Origin:
        """Return the origin. It does not depend on the trainable layers of stored features: mining uses final ones."""
        # in a custom dataset, this digest covers the classes of the images too
        images = replace(val.provenance, list_digest=val.list_digest(split.val))
        return cls(*(replace(provenance, layer=0, dtype="fp32") for provenance in (text, images)), split.digest)


@dataclass(frozen=True)
class MinedTemplates:
    """The templates mined on a split, best first: positions in the pool, wordings and accuracies in [0, 1]."""

    origin: Origin
    positions: list[int]
    templates: list[str]
    accuracies: list[float]

    def rows(self, labels: Tensor) -> Tensor:
        """Return the rows of these templates among the pool's prompts, class by class: int64 [m].

        `labels` [n] are the classes of the pool's prompts, in the order of `engine.templates.prompts`.
        """
        by_class = torch.arange(len(labels)).view(int(labels.max()) + 1, -1)
        return by_class[:, self.positions].flatten()


def count_correct(texts: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Count the images that each template alone classifies correctly: int64 [T], on the device of `images`.

    `texts` [C, T, D] are features of T templates filled with C class names, on any device; `images` [n, D] have classes
    `labels` [n]. Features need not be normalised.
    """
    images = F.normalize(images)
    at_a_time = max(1, LOGITS // (len(images) * len(texts)))
    counts = []
    for chunk in texts.split(at_a_time, dim=1):
        logits = torch.einsum("nd,ctd->nct", images, F.normalize(chunk.to(images.device), dim=2))
        counts.append((logits.argmax(1) == labels.unsqueeze(1)).sum(0))
    return torch.cat(counts)


def mine(texts: Tensor, images: Tensor, labels: Tensor, origin: Origin) -> MinedTemplates:
    """Return the `MINED` templates of the pool with the most correct images; ties go to the first in the pool.

    `texts` [C * T, D] are final features of the pool's prompts in the order of `engine.templates.prompts`; `images`
    [n, D] and `labels` [n] are the val images of a split.
    """
    pool = templates.pool()
    counts = count_correct(texts.view(-1, len(pool), texts.shape[1]), images, labels).tolist()
    best = sorted(range(len(pool)), key=lambda position: -counts[position])[:MINED]  # a stable sort
    accuracies = [counts[position] / len(labels) for position in best]
    return MinedTemplates(origin, best, [pool[position] for position in best], accuracies)


def unmined_splits(paths: FeaturePaths, splits: list[FewShotSplit]) -> list[FewShotSplit]:
    """Return the `splits` without a file of mined templates."""
    return [split for split in splits if not paths.mined(split.name).exists()]


def mine_splits(
    encoder: Encoder,
    paths: FeaturePaths,
    splits: list[FewShotSplit],
    *,
    batch_size: int,
    progress: Callable[[int], object],
) -> None:
    """Mine templates on each of `splits` without a file, from stored features.

    Inputs of trainable layers pass through these, `batch_size` at a time. Call `progress` with 1 after each split.
    Raises UserError for a file of another origin, and for features that are not finite or cannot be normalised.
    """
    # prefer final features (0), which need no pass
    text_layers = min(encoder.text, key=abs)
    image_layers = min(encoder.image, key=lambda layers: 0.5 if layers == PROJECTION else abs(layers))
    listing, text_path = read_listing(paths), paths.texts(text_layers, MINING)
    bank = Bank(paths.bank("val", image_layers, "none"), listing and listing.val)
    provenance, todo = read_texts_provenance(text_path), unmined_splits(paths, splits)
    origins = {split.name: Origin.of(provenance, bank, split) for split in splits}
    for split in splits:
        if split not in todo:
            try:
                read_mined(paths.mined(split.name), origins[split.name])
            except UserError:
                if listing is None:
                    raise
                todo.append(split)  # the images or classes of a custom dataset changed
    if not todo:
        return
    pool = read_texts(text_path)
    texts, trainable = pool.features, encoder.text[text_layers]
    check = check_norms if trainable is None else check_finite
    check(texts, range(len(pool.labels)), f"{splits[0].dataset}, prompts, in {text_path}")
    if trainable is not None:
        batches = zip(*(tensor.split(batch_size) for tensor in pool.inputs), strict=True)
        texts = torch.cat([_final(trainable, batch, encoder.device).cpu() for batch in batches])
    for split in todo:
        images, labels = _val_images(bank, split, encoder.image[image_layers], batch_size, encoder.device)
        write_mined(paths.mined(split.name), mine(texts, images, labels, origins[split.name]))
        progress(1)


def _val_images(
    bank: Bank, split: FewShotSplit, trainable: nn.Module | None, batch_size: int, device: str
) -> tuple[Tensor, Tensor]:
    """Return final features [n, D] and labels [n] of the val images of a split, on `device`."""
    features, labels = [], []
    for at in range(0, len(split.val), batch_size):  # all inputs of trainable layers may not fit in memory
        positions = split.val[at : at + batch_size]
        read, truth = bank.read(positions)
        check = check_norms if trainable is None else check_finite
        check(read, positions, f"{split.dataset}, val images, in {bank.folder}")
        features.append(_final(trainable, (read,), device))
        labels.append(truth.to(device))
    return torch.cat(features), torch.cat(labels)


@torch.inference_mode()
def _final(trainable: nn.Module | None, inputs: tuple[Tensor, ...], device: str) -> Tensor:
    """Return final features [n, D] on `device`: stored features of n samples, passed through the trainable layers."""
    on_device = [tensor.to(device) for tensor in inputs]
    return on_device[0] if trainable is None else trainable(*on_device)


def write_mined(path: Path, mined: MinedTemplates) -> None:
    """Write mined templates as JSON, atomically."""
    columns = zip(mined.positions, mined.templates, mined.accuracies, strict=True)
    rows = [dict(zip(("position", "template", "accuracy"), row, strict=True)) for row in columns]
    write_json(path, {"templates": rows, "mined_from": asdict(mined.origin)})


def read_mined(path: Path, origin: Origin) -> MinedTemplates:
    """Read mined templates.

    Raises MissingFeatures if the file is missing or damaged, UserError if it has another `origin`.
    """
    if not path.is_file():
        raise MissingFeatures(f"no mined templates {path}")
    mined = read_any_mined(path)
    if mined.origin != origin:
        words = {
            "text": "other prompts or weights than there are now",
            "val": "other validation images than there are now",
            "split": "another split than there is now",
        }
        changed = [text for name, text in words.items() if getattr(mined.origin, name) != getattr(origin, name)]
        raise UserError(f"{path} was mined from {', from '.join(changed)}; remove it to mine again")
    return mined


def read_any_mined(path: Path) -> MinedTemplates:
    """Read mined templates of any origin. Raises MissingFeatures if the file is damaged."""
    try:
        content = parse_json(read_bytes(path))
        found = {
            name: value if name == "split" else Provenance(**value) for name, value in content["mined_from"].items()
        }
        columns = ([row[name] for row in content["templates"]] for name in ("position", "template", "accuracy"))
        mined = MinedTemplates(Origin(**found), *columns)
        pool = dict(enumerate(templates.pool()))
        if not mined.positions or mined.templates != [pool.get(position) for position in mined.positions]:
            raise ValueError("its templates are not at these positions of the pool")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MissingFeatures(
            f"{path} cannot be read ({error}); remove it and run features.py to mine again"
        ) from error
    return mined
