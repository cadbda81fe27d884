"""From image files to predictions: decoding in worker processes, classification in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from engine.errors import UserError
from engine.features.decoding import batches, report_dead_workers
from engine.images import to_rgb
from engine.results.predictions import Predictions, most_probable
from engine.results.saved_classifiers import FeatureExtraction
from engine.transforms import decode_file, render

if TYPE_CHECKING:
    from engine.classifier import ImageClassifier


def pixels(image: str | Path | Image.Image, extraction: FeatureExtraction) -> Tensor:
    """Return a preprocessed image before normalisation: uint8 [3, size, size].

    Raises OSError (and other errors of PIL) for a file that cannot be decoded.
    """
    if isinstance(image, Image.Image):
        image = to_rgb(image, extraction.upright, extraction.depth, extraction.background)
    else:
        image = decode_file(Path(image), extraction.decode, extraction.upright, extraction.depth, extraction.background)
    return render(image, "none", extraction, "")


def classify(
    classifier: ImageClassifier, files: list[str], *, top_k: int, batch_size: int, workers: int
) -> Iterator[tuple[str, Predictions | str]]:
    """Yield each of `files` in order, with its `top_k` most probable classes or the reason why it cannot be decoded.

    Worker processes decode if there is more than one batch. Raises UserError if a worker was killed, and for
    probabilities that are not finite.
    """
    decoding = batches(
        _Files(files, classifier.extraction),
        batch_size=batch_size,
        workers=min(workers, len(files) // batch_size),
    )
    names = iter(files)
    with report_dead_workers("Try again with fewer --num-workers"):
        for batch in decoding:
            predictions = iter(_predictions(classifier, batch.pixels, top_k) if len(batch.pixels) else [])
            for fault in batch.faults:
                name = next(names)
                found = next(predictions) if fault is None else fault
                if fault is None and not all(math.isfinite(probability) for _, probability in found):
                    raise UserError(
                        f"{name}: the classifier returns probabilities that are not finite; check whether values of its"
                        f" encoder overflow in {classifier.extraction.precision} or its weights are damaged"
                    )
                yield name, found


@torch.inference_mode()
def _predictions(classifier: ImageClassifier, images: Tensor, top_k: int) -> list[Predictions]:
    logits = classifier.logits(images)
    return most_probable(logits, classifier.probabilities(logits), top_k, classifier.classnames)


class _Files(Dataset):
    """The pixels of image files by index; for a file that cannot be decoded, the error message."""

    def __init__(self, files: list[str], extraction: FeatureExtraction):
        self.files, self.extraction = files, extraction

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return pixels(self.files[index], self.extraction)
        except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError and more on bad bytes
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
