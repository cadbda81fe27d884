"""Small few-shot problems made of random features: noisy copies of class centres, on the unit sphere."""

import pytest
import torch
from torch.nn import functional as F

from engine.training.problem import Problem, Samples

CLASSES, DIMENSION = 12, 64


@pytest.fixture
def make_problem():
    """A function that makes problems of one world: with shots and modality as asked for, sharing their banks."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(CLASSES, DIMENSION, generator=generator))

    def noisy(count, noise):
        labels = torch.arange(count) % CLASSES
        return F.normalize(centres[labels] + noise * torch.randn(count, DIMENSION, generator=generator)), labels

    banks = {"images": noisy(CLASSES * 16, 0.3), "val": noisy(CLASSES * 4, 0.3), "texts": noisy(CLASSES, 0.15)}

    def samples(name, count):
        features, labels = banks[name]
        return Samples(features, torch.arange(count), labels[:count])

    def make(shots=4, cross_modal=True, name=None):
        images = samples("images", CLASSES * shots)
        texts = samples("texts", CLASSES)
        return Problem(
            name=name or f"{shots} shots, {'cross' if cross_modal else 'uni'}",
            sources=(images, texts) if cross_modal else (images,),
            val=samples("val", CLASSES * min(shots, 4)),
            initial=texts.bank.clone() if cross_modal else 0.05 * torch.randn(CLASSES, DIMENSION, generator=generator),
            scale=100.0,
        )

    return make
