"""Zero-shot accuracy of stored features on validation images: a check that prompts and images match."""

from __future__ import annotations

from collections.abc import Iterator

from engine.features.mining import Origin, read_mined
from engine.features.planning import DatasetPlan
from engine.features.prompts import read_texts, read_texts_provenance
from engine.features.store import Bank
from engine.model import zeroshot_weight
from engine.model.zeroshot import ZeroShot
from engine.templates import MINING


def measure(plan: DatasetPlan) -> Iterator[tuple[str, ZeroShot]]:
    """Yield each set of prompts of an extracted plan with its zero-shot accuracy on the val images.

    For mined templates, the split with the most val images is used. Yields nothing without val images or without final
    features: inputs of trainable layers would have to pass through them first.
    """
    images = [planned for planned in plan.images if planned.split == "val" and 0 in planned.banks]
    for texts in plan.texts if images else []:
        if 0 in texts.files:
            yield texts.augmentation, _measure(plan, texts.augmentation, sorted(images[0].requested))


def _measure(plan: DatasetPlan, augmentation: str, positions: list[int]) -> ZeroShot:
    bank = Bank(plan.paths.bank("val", 0, "none"), plan.listing and plan.listing.val)
    path, pick = plan.paths.texts(0, augmentation), None
    if augmentation == MINING:
        split = max(plan.mining_splits, key=lambda split: len(split.val))
        origin = Origin.of(read_texts_provenance(path), bank, split)
        positions, pick = split.val, read_mined(plan.paths.mined(split.name), origin).rows
    texts, (features, labels) = read_texts(path, pick), bank.read(positions)
    classes = int(texts.labels.max()) + 1
    weight = zeroshot_weight(texts.features, texts.labels, classes)
    right = (features @ weight.T).argmax(1) == labels  # normalising images would not change the argmax
    return ZeroShot(int(right.sum()), len(labels), classes)
