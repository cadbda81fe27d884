"""Small few-shot problems: noisy copies of class centres as features, or random inputs of random parts of encoders."""

import pytest
import torch
from torch.nn import functional as F

from engine.model import Adapter, Classifier, Embedding, LinearHead
from engine.training.problem import Problem, Samples
from problems import CLASSES, DIMENSION, LAYERS, encoders


@pytest.fixture
def make_problem():
    """A function that makes problems of one world: with shots and modality as asked for, sharing their banks.

    `kind` says what is trained: "linear" (a head alone), "adapter" (one before it), or layers of encoders as `LAYERS`
    has them. Images of class k are all alike but for noise, and so are its texts.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(CLASSES, DIMENSION, generator=generator))

    def noisy(count, noise):
        labels = torch.arange(count) % CLASSES
        return F.normalize(centres[labels] + noise * torch.randn(count, DIMENSION, generator=generator)), labels

    banks = {"images": noisy(CLASSES * 16, 0.3), "val": noisy(CLASSES * 4, 0.3), "texts": noisy(CLASSES, 0.15)}

    def features(name, count):
        bank, labels = banks[name]
        return Samples((bank,), torch.arange(count), labels[:count])

    def make(shots=4, cross_modal=True, name=None, kind="linear", scale=100.0):
        images, texts = features("images", CLASSES * shots), features("texts", CLASSES)
        val, parts, initial = features("val", CLASSES * min(shots, 4)), [None, None], texts.bank[0].clone()
        if not cross_modal:
            initial = 0.05 * torch.randn(CLASSES, DIMENSION, generator=torch.Generator().manual_seed(shots))
        if kind in LAYERS:
            images, val, texts, parts, initial = parts_of_encoders(kind, images, val)
        adapter = Adapter(DIMENSION, torch.Generator().manual_seed(shots)) if kind == "adapter" else None
        sources = (images, texts) if cross_modal else (images,)
        model = Classifier(Embedding(parts[: len(sources)], adapter), LinearHead(initial, scale)).eval()
        return Problem(name or f"{shots} shots, {'cross' if cross_modal else 'uni'}", sources, val, model)

    made = {}

    def parts_of_encoders(kind, images, val):
        """Samples as what goes into trainable parts; the banks and the parts are made once."""
        if kind not in made:
            made[kind] = encoders(kind, banks["images"][1], banks["val"][1])
        image_bank, val_bank, text_bank, *parts, initial = made[kind]
        of_texts = Samples(text_bank, torch.arange(CLASSES), torch.arange(CLASSES))
        return (
            Samples(image_bank, images.rows, images.labels),
            Samples(val_bank, val.rows, val.labels),
            of_texts,
            parts,
            initial,
        )

    return make
