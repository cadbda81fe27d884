"""The zero-shot accuracy of features in the store on validation images: do prompts and images belong together?"""

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
    """How the zero-shot classifier of each set of prompts does on the val images of a plan whose features are made.

    Of mined templates it is that of the split with most val images, on these. Nothing comes of a plan without val
    images or without final features: what goes into layers that are yet to be trained must go through them first.
    """
    images = [own for own in plan.images if own.split == "val" and 0 in own.banks]
    for texts in plan.texts if images else []:
        if 0 in texts.files:
            yield texts.augmentation, _measure(plan, texts.augmentation, sorted(images[0].asked))


def _measure(plan: DatasetPlan, augmentation: str, positions: list[int]) -> ZeroShot:
    bank = Bank(plan.paths.bank("val", 0, "none"), plan.listing and plan.listing.val)
    path, pick = plan.paths.texts(0, augmentation), None
    if augmentation == MINING:
        split = max(plan.mined, key=lambda split: len(split.val))
        origin = Origin.of(read_texts_provenance(path), bank, split)
        positions, pick = split.val, read_mined(plan.paths.mined(split.name), origin).rows
    texts, (features, labels) = read_texts(path, pick), bank.read(positions)
    classes = int(texts.labels.max()) + 1
    weight = zeroshot_weight(texts.features, texts.labels, classes)
    right = (features @ weight.T).argmax(1) == labels  # the length of an image's feature changes no argmax
    return ZeroShot(int(right.sum()), len(labels), classes)
