"""Small few-shot problems: noisy copies of class centres as features, or random inputs of random parts of encoders."""

import pytest
import torch
from torch.nn import functional as F

from engine.methods import METHODS
from engine.training.descent import GradientDescent
from engine.training.problem import Problem
from engine.training.schedule import MAX_ITER
from engine.training.task import Samples, Task
from problems import CLASSES, DIMENSION, LAYERS, encoders


@pytest.fixture
def make_task():
    """A function that makes tasks of one world: with shots and modality as asked for, sharing their banks.

    `kind` is what `LAYERS` names if layers of encoders are trained. Images of class k are all alike but for noise, and
    so are its texts. Further settings are fields of the task.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(CLASSES, DIMENSION, generator=generator))

    def noisy(count, noise):
        labels = torch.arange(count) % CLASSES
        return F.normalize(centres[labels] + noise * torch.randn(count, DIMENSION, generator=generator)), labels

    banks = {"images": noisy(CLASSES * 16, 0.3), "val": noisy(CLASSES * 4, 0.3), "texts": noisy(CLASSES, 0.15)}
    made = {}

    def features(name, count):
        bank, labels = banks[name]
        return Samples((bank,), torch.arange(count), labels[:count])

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

    def make(shots=4, cross_modal=True, name=None, kind="linear", scale=100.0, **fields):
        images, texts = features("images", CLASSES * shots), features("texts", CLASSES)
        val, parts, initial = features("val", CLASSES * min(shots, 4)), [None, None], texts.bank[0].clone()
        zeroshot = initial
        if not cross_modal:
            initial = 0.05 * torch.randn(CLASSES, DIMENSION, generator=torch.Generator().manual_seed(shots))
        if kind in LAYERS:
            images, val, texts, parts, initial = parts_of_encoders(kind, images, val)
            zeroshot = initial
        return Task(
            name=name or f"{shots} shots, {'cross' if cross_modal else 'uni'}",
            samples={"image": images} | ({"text": texts} if cross_modal else {}),
            val=val,
            initial=initial,
            scale=scale,
            trainable_layers=parts,
            **{"text": zeroshot, "zeroshot": zeroshot} | fields,
        )

    return make


@pytest.fixture
def make_problem(make_task):
    """A function that makes problems on such tasks.

    `kind` says what is trained: "linear" (a head alone), "adapter" (one before it), or layers of encoders as `LAYERS`
    has them; or it is a description of how to train.
    """

    def make(shots=4, cross_modal=True, name=None, kind="linear", **fields):
        of_task = kind if isinstance(kind, str) else "linear"
        task = make_task(shots, cross_modal, name, of_task, **fields)
        descent = METHODS.get(kind, METHODS["linear"]).fit if isinstance(kind, str) else kind
        assert isinstance(descent, GradientDescent)
        return Problem(task, descent, descent.build(task), MAX_ITER)

    return make
