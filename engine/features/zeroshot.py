"""The zero-shot accuracy of features in the store on validation images: do prompts and images belong together?"""

from __future__ import annotations

from engine.datasets.few_shot import FewShotSplit
from engine.features.mining import Origin, read_mined
from engine.features.store import Bank, Place, read_texts, texts_source
from engine.model import zeroshot_weight
from engine.model.zeroshot import ZeroShot
from engine.templates import MINING


def measure(place: Place, augmentation: str, positions: list[int], mined: list[FewShotSplit]) -> ZeroShot | None:
    """The zero-shot classifier of prompts at `place` on the val images at `positions`; None without final features.

    Of mined templates it is that of the split with most val images, of those in `mined`, on these.
    """
    bank, path = Bank(place.bank("val", 0, "none")), place.texts(0, augmentation)
    if bank.source is None or not path.is_file():
        return None
    pick = None
    if augmentation == MINING:
        split = max(mined, key=lambda split: len(split.val))
        origin = Origin.of(texts_source(path), bank.source, split.digest)
        positions, pick = split.val, read_mined(place.mined(split.name), origin).rows
    texts, (images, labels) = read_texts(path, pick), bank.read(positions)
    classes = int(texts.labels.max()) + 1
    weight = zeroshot_weight(texts.features, texts.labels, classes)
    right = (images @ weight.T).argmax(1) == labels  # the length of an image's feature changes no argmax
    return ZeroShot(int(right.sum()), len(labels), classes)
