"""A trained classifier of images, as a module: from files or pixels to the probabilities of the classes.

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

from engine.classifier.images import pixels
from engine.clip import names
from engine.clip.frozen import FrozenImageEncoder
from engine.clip.load import PRECISIONS, Encoder, load_encoder
from engine.errors import UserError
from engine.methods.build import restore
from engine.model import LinearClassifier
from engine.model import wise_ft as weight_ensemble
from engine.results import saved_classifiers
from engine.results.saved_classifiers import SavedClassifier
from engine.transforms import normalise


class ImageClassifier(nn.Module):
    """The image encoder up to the layers that were trained, these, the adapter if there is one, and the linear head.

    In eval mode, without gradients for its parameters. `classnames` are those of its outputs, `extraction` says what
    images are made into first.
    """

    def __init__(self, kept: SavedClassifier, encoder: Encoder, wise_ft: bool = False):
        """The classifier `kept` on its `encoder`, split before the trained layers; with `wise_ft` its WiSE-FT.

        The encoder is used up: its last layers become the trained ones. Raises RuntimeError, KeyError or ValueError
        when they do not fit together.
        """
        super().__init__()
        self.extraction, self.classnames, self.layers = kept.extraction, kept.classnames, kept.run.cell.image_layer
        self.frozen = FrozenImageEncoder(encoder.model, [self.layers])
        self.classifier = _classifier(kept, encoder.image[self.layers], wise_ft)
        self.eval().requires_grad_(False).to(encoder.device)
        found, expected = self(torch.zeros(1, *self.shape, dtype=torch.uint8)).shape, (1, len(self.classnames))
        if found != expected:
            raise ValueError(f"its output is {list(found)}, not {list(expected)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of an image as the encoder takes it."""
        return 3, self.extraction.size, self.extraction.size

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.classifier.head.weight.device

    def forward(self, images: Tensor | Sequence[str | Path | Image.Image]) -> Tensor:
        """Probabilities [n, C] float32 of images: files, PIL's, or uint8 [n, 3, size, size], as `pixels` prepares them.

        Raises OSError (and PIL's own errors) for a file that is no image, ValueError for other tensors.
        """
        if not isinstance(images, Tensor):
            images = torch.stack([pixels(image, self.extraction) for image in images])
        if images.dtype != torch.uint8 or images.shape[1:] != self.shape:
            expected = f"uint8 [n, {', '.join(map(str, self.shape))}]"
            raise ValueError(f"images are {expected}, not {images.dtype} {list(images.shape)}")
        inputs = normalise(images.to(self.device), self.extraction)
        lower = self.extraction.precision != "fp32"
        with torch.autocast(self.device.type, PRECISIONS[self.extraction.precision], enabled=lower):
            (features,) = self.frozen(inputs, [self.layers])[self.layers]
        features = features.float() if self.layers else F.normalize(features.float())
        return self.classifier((features,)).softmax(dim=1)


def load(
    place: str | Path, *, weights: str | None = None, wise_ft: bool = False, device: str = "cpu"
) -> ImageClassifier:
    """The classifier that train.py --save-heads kept of a run: `place` is its record, a folder with it, or its file.

    `weights` are those of the encoder if they came from a file, `wise_ft` asks for WiSE-FT. Raises UserError for a
    classifier that cannot be read or does not fit the weights, and where there is none (MissingClassifier) or several.
    """
    path = saved_classifiers.find(Path(place))
    kept = saved_classifiers.read(path)
    name, cell = kept.extraction.encoder, kept.run.cell
    if weights is None and cell.encoder != names.folder(name):
        raise UserError(
            f"{path} was trained on {cell.encoder}, which is {name} with weights from a file; give that file with"
            " --clip-weights"
        )
    encoder = load_encoder(name, weights, device, [cell.image_layer], precision=kept.extraction.precision)
    if encoder.digest != kept.run.inputs["encoder"]:
        raise UserError(
            f"{path} was trained on {cell.encoder} ({kept.run.inputs['encoder'][:12]}), and these weights of {name} are"
            f" others ({encoder.digest[:12]}); give those that it was trained on with --clip-weights"
        )
    try:
        if kept.extraction.size != encoder.preprocessing.size:
            raise ValueError(
                f"it takes images of {kept.extraction.size} pixels, and {name} of {encoder.preprocessing.size}"
            )
        return ImageClassifier(kept, encoder, wise_ft)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = "\n  ".join(line[:200] for line in str(error).splitlines()[:6])
        raise UserError(
            f"{path} does not fit {name}; remove it, and train.py --save-heads makes it anew:\n  {reason}"
        ) from error


def _classifier(kept: SavedClassifier, part: nn.Module | None, wise_ft: bool) -> LinearClassifier:
    """Return the trained classifier; `part` are layers of the encoder, which get the trained weights."""
    tensors = dict(kept.tensors)
    zeroshot = tensors.pop("zeroshot")
    classifier = restore(kept.run.cell.head, kept.run.cell.log_logit_scale, [part], tensors)
    if not wise_ft:
        return classifier
    return classifier.with_weight(weight_ensemble(tensors["head.weight"], zeroshot, kept.wiseft_ratio))
