"""A saved classifier as a module: from image files or pixels to class probabilities.

from engine.classifier import load
classifier = load("experiments/...")  # a run that train.py --save-heads trained: its record, or its folder
probabilities = classifier(["a.jpg", "b.jpg"])  # [2, C], in the order of classifier.classnames
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from engine.calibration import reject_threshold
from engine.classifier.images import pixels
from engine.clip import names
from engine.clip.frozen import FrozenImageEncoder
from engine.clip.load import PRECISIONS, Encoder, load_encoder
from engine.errors import UserError
from engine.methods import require_wise_ft
from engine.methods.build import restore
from engine.model import LinearClassifier
from engine.model import wise_ft as weight_ensemble
from engine.results import saved_classifiers
from engine.results.saved_classifiers import SavedClassifier
from engine.transforms import normalise


class ImageClassifier(nn.Module):
    """The frozen layers of the image encoder and the trained classifier after them, in eval mode without gradients.

    `classnames` are in the order of the outputs. `extraction` has the preprocessing of images. Probabilities are
    softmax(logits / temperature); a `raw` classifier has temperature 1. `confidences` [n] are the top probabilities of
    the validation images, None if unknown.
    """

    def __init__(self, saved: SavedClassifier, encoder: Encoder, wise_ft: float = False, raw: bool = False):
        """Combine a saved classifier, or its WiSE-FT, with its `encoder`, split before the trained layers.

        This modifies the encoder: its last layers get the trained weights. Raises RuntimeError, KeyError or ValueError
        if classifier and encoder do not fit together.
        """
        super().__init__()
        ratio = saved.wiseft_ratio if wise_ft is True else float(wise_ft)
        self.temperature = 1.0 if raw else saved.temperature(ratio)
        self.confidences = None if raw else saved.confidences.get(saved.classifier(ratio))
        self.extraction, self.classnames, self.layers = saved.extraction, saved.classnames, saved.run.cell.image_layer
        self.frozen = FrozenImageEncoder(encoder.model, [self.layers])
        self.classifier = _classifier(saved, encoder.image[self.layers], ratio)
        self.eval().requires_grad_(False).to(encoder.device)
        found, expected = self(torch.zeros(1, *self.shape, dtype=torch.uint8)).shape, (1, len(self.classnames))
        if found != expected:
            raise ValueError(f"its output is {list(found)}, not {list(expected)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a preprocessed image."""
        return 3, self.extraction.size, self.extraction.size

    @property
    def device(self) -> torch.device:
        """The device of the classifier."""
        return self.classifier.head.weight.device

    def forward(self, images: Tensor | Sequence[str | Path | Image.Image]) -> Tensor:
        """Return probabilities [n, C] float32 of images, as `logits` takes them."""
        return self.probabilities(self.logits(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities [n, C] of logits."""
        return (logits / self.temperature).softmax(dim=1)

    def threshold(self, share: float) -> float:
        """Return the top probability below which a `share`, 0 to 1, of the validation images lies; infinity for all.

        Raises ValueError if no probabilities of validation images are known: of raw classifiers and old files.
        """
        if self.confidences is None:
            raise ValueError(
                "no probabilities of validation images are saved for this classifier. For WiSE-FT they are saved at a"
                " ratio of 0.5. If an earlier version saved the file, remove it and run the same train.py --save-heads"
                " again"
            )
        return reject_threshold(self.confidences.numpy(), share)

    def logits(self, images: Tensor | Sequence[str | Path | Image.Image]) -> Tensor:
        """Return logits [n, C] float32 of images: files, PIL images, or uint8 [n, 3, size, size] from `pixels`.

        Raises OSError (and errors of PIL) for a file that is not an image, ValueError for other tensors.
        """
        if not isinstance(images, Tensor):
            images = torch.stack([pixels(image, self.extraction) for image in images])
        if images.dtype != torch.uint8 or images.shape[1:] != self.shape:
            expected = f"uint8 [n, {', '.join(map(str, self.shape))}]"
            raise ValueError(f"images are {expected}, not {images.dtype} {list(images.shape)}")
        inputs = normalise(images.to(self.device), self.extraction)
        is_lower = self.extraction.precision != "fp32"
        with torch.autocast(self.device.type, PRECISIONS[self.extraction.precision], enabled=is_lower):
            (features,) = self.frozen(inputs, [self.layers])[self.layers]
        features = features.float() if self.layers else F.normalize(features.float())
        return self.classifier((features,))


def load(
    path: str | Path, *, weights: str | None = None, wise_ft: float = False, raw: bool = False, device: str = "cpu"
) -> ImageClassifier:
    """Return a classifier that train.py --save-heads saved; `path` is its file, its record, or a folder with it.

    `weights` is the file of the encoder's weights, if any; `wise_ft` is True for WiSE-FT, or its ratio; `raw`
    returns a classifier without calibration. Raises UserError for a classifier that cannot be read or does not fit the
    weights, and for several classifiers; MissingClassifier for none.
    """
    path = saved_classifiers.find(Path(path))
    saved = saved_classifiers.read(path)
    if saved.extraction is None:
        raise UserError(
            f"{path} was trained on imported features of {saved.run.cell.encoder}, so images cannot be encoded for it"
        )
    name, cell = saved.extraction.encoder, saved.run.cell
    if wise_ft:
        require_wise_ft(cell.head)
    if weights is None and cell.encoder != names.folder(name):
        raise UserError(
            f"{path} was trained on {cell.encoder}, which is {name} with weights from a file; set --clip-weights to"
            " that file"
        )
    encoder = load_encoder(name, weights, device, [cell.image_layer], precision=saved.extraction.precision)
    if encoder.digest != saved.run.inputs["encoder"]:
        raise UserError(
            f"{path} was trained on {cell.encoder} ({saved.run.inputs['encoder'][:12]}), not on these weights of"
            f" {name} ({encoder.digest[:12]}); set --clip-weights to the weights of the training"
        )
    try:
        if saved.extraction.size != encoder.preprocessing.size:
            raise ValueError(
                f"it needs images of {saved.extraction.size} pixels, but {name} of {encoder.preprocessing.size}"
            )
        return ImageClassifier(saved, encoder, wise_ft, raw)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = "\n  ".join(line[:200] for line in str(error).splitlines()[:6])
        raise UserError(
            f"{path} does not fit {name}; remove it and run train.py --save-heads to save it again:\n  {reason}"
        ) from error


def _classifier(saved: SavedClassifier, layers: nn.Module | None, ratio: float) -> LinearClassifier:
    """Return the trained classifier; the trainable `layers` of the encoder get the trained weights."""
    tensors = dict(saved.tensors)
    zeroshot = tensors.pop("zeroshot")
    classifier = restore(saved.run.cell.head, saved.run.cell.log_logit_scale, [layers], tensors)
    if not ratio:
        return classifier
    return classifier.with_weight(weight_ensemble(tensors["head.weight"], zeroshot, ratio))
