"""Template mining (section 7 of the protocol): of a pool of templates, those that classify a few-shot val set best.

A template alone makes a zero-shot classifier: a row per class, the L2-normalised text feature of the template filled
with the class name. The features of the whole pool are prompts like any others; what was mined on a split is a file
that a person can read, and says what it was mined from:

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
from engine.datasets.few_shot import FewShotSplit
from engine.errors import UserError
from engine.features.listing import read_listing
from engine.features.numbers import check_finite, check_norms
from engine.features.prompts import read_texts, read_texts_provenance
from engine.features.store import Bank, FeaturePaths, MissingFeatures, Provenance
from engine.files import parse_json, read_bytes, write_json
from engine.templates import MINED, MINING

if TYPE_CHECKING:  # open_clip takes seconds to import, and reading what was mined does not need it
    from engine.clip.load import Encoder

LOGITS = 1 << 25
"""How many logits are held at a time (128 MiB)."""


@dataclass(frozen=True)
class Origin:
    """What templates were mined from: the sources of the pool's and of the val images' features, the split's digest."""

    text: Provenance
    val: Provenance
    split: str

    @classmethod
    def of(cls, text: Provenance, val: Bank, split: FewShotSplit) -> Origin:
        """Return the origin, whatever layers are yet to come of the features in the store: mining takes final ones."""
        images = replace(
            val.provenance, list_digest=val.list_digest(split.val)
        )  # in a custom dataset with their classes
        return cls(*(replace(provenance, layer=0, dtype="fp32") for provenance in (text, images)), split.digest)


@dataclass(frozen=True)
class MinedTemplates:
    """The templates mined on a split, best first: positions in the pool, wordings and accuracies, 0 to 1."""

    origin: Origin
    positions: list[int]
    templates: list[str]
    accuracies: list[float]

    def rows(self, labels: Tensor) -> Tensor:
        """Which prompts are theirs, class after class, of those of the pool with classes `labels` [n]: int64 [m].

        `labels` are in the order of `engine.templates.prompts`.
        """
        of_class = torch.arange(len(labels)).view(int(labels.max()) + 1, -1)
        return of_class[:, self.positions].flatten()


def count_correct(texts: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """How many images each template alone classifies right, int64 [T], on the images' device.

    `texts` [C, T, D] are features of T templates filled with C classes, on any device; `images` [n, D] have classes
    `labels` [n]. None need be normalised.
    """
    images = F.normalize(images)
    at_a_time = max(1, LOGITS // (len(images) * len(texts)))
    counts = []
    for some in texts.split(at_a_time, dim=1):
        logits = torch.einsum("nd,ctd->nct", images, F.normalize(some.to(images.device), dim=2))
        counts.append((logits.argmax(1) == labels.unsqueeze(1)).sum(0))
    return torch.cat(counts)


def mine(texts: Tensor, images: Tensor, labels: Tensor, origin: Origin) -> MinedTemplates:
    """The `MINED` templates of the pool that classify most images right; of equals those that come first in the pool.

    `texts` [C * T, D] are final features of the pool's prompts in the order of `engine.templates.prompts`, `images`
    [n, D] and `labels` [n] the val images of a split.
    """
    pool = templates.pool()
    counts = count_correct(texts.view(-1, len(pool), texts.shape[1]), images, labels).tolist()
    best = sorted(range(len(pool)), key=lambda position: -counts[position])[:MINED]  # sorting keeps equals in order
    accuracies = [counts[position] / len(labels) for position in best]
    return MinedTemplates(origin, best, [pool[position] for position in best], accuracies)


def unmined_splits(paths: FeaturePaths, splits: list[FewShotSplit]) -> list[FewShotSplit]:
    """Those of `splits` of the dataset at `paths` on which no templates were mined yet."""
    return [split for split in splits if not paths.mined(split.name).exists()]


def mine_splits(
    encoder: Encoder,
    paths: FeaturePaths,
    splits: list[FewShotSplit],
    *,
    batch_size: int,
    progress: Callable[[int], object],
) -> None:
    """Mine on each of `splits` of the dataset at `paths` whose file is not there, from features that are in the store.

    Where these are inputs of the encoder's trainable parts, they go through them, `batch_size` at a time. `progress`
    hears the number of splits after each. Raises UserError for a file that was mined from something else, and for
    features that are not finite or cannot be normalised.
    """
    text_layers, image_layers = (min(layers, key=abs) for layers in (encoder.text, encoder.image))  # 0 spares a pass
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
                todo.append(split)  # images or classes of a custom dataset changed
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
    """Final features [n, D] and labels [n] of the val images of a split, on `device`."""
    features, labels = [], []
    for at in range(0, len(split.val), batch_size):  # as inputs of trainable layers all may be more than memory holds
        positions = split.val[at : at + batch_size]
        read, truth = bank.read(positions)
        check = check_norms if trainable is None else check_finite
        check(read, positions, f"{split.dataset}, val images, in {bank.folder}")
        features.append(_final(trainable, (read,), device))
        labels.append(truth.to(device))
    return torch.cat(features), torch.cat(labels)


@torch.inference_mode()
def _final(trainable: nn.Module | None, inputs: tuple[Tensor, ...], device: str) -> Tensor:
    """Final features [n, D], on `device`, of what the store holds of n samples: `trainable` is yet to come."""
    on_device = [tensor.to(device) for tensor in inputs]
    return on_device[0] if trainable is None else trainable(*on_device)


def write_mined(path: Path, mined: MinedTemplates) -> None:
    """Write what was mined as JSON, atomically."""
    columns = zip(mined.positions, mined.templates, mined.accuracies, strict=True)
    rows = [dict(zip(("position", "template", "accuracy"), row, strict=True)) for row in columns]
    write_json(path, {"templates": rows, "mined_from": asdict(mined.origin)})


def read_mined(path: Path, origin: Origin) -> MinedTemplates:
    """Read what was mined.

    Raises MissingFeatures when the file is not there or damaged, UserError when it has another `origin`.
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
        changed = [said for name, said in words.items() if getattr(mined.origin, name) != getattr(origin, name)]
        raise UserError(f"{path} was mined from {', from '.join(changed)}; remove it to mine anew")
    return mined


def read_any_mined(path: Path) -> MinedTemplates:
    """Read what was mined, whatever from. Raises MissingFeatures for a file that is damaged."""
    try:
        content = parse_json(read_bytes(path))
        found = {
            name: value if name == "split" else Provenance(**value) for name, value in content["mined_from"].items()
        }
        columns = ([row[name] for row in content["templates"]] for name in ("position", "template", "accuracy"))
        mined = MinedTemplates(Origin(**found), *columns)
        pool = dict(enumerate(templates.pool()))
        if not mined.positions or mined.templates != [pool.get(position) for position in mined.positions]:
            raise ValueError("its templates are not those of the pool at these positions")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MissingFeatures(
            f"{path} cannot be read ({error}); remove it, as templates must be mined again"
        ) from error
    return mined
