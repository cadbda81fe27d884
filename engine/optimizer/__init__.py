"""Hyper-parameter grids and the learning-rate schedule (section 5 of the protocol)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

MAX_ITER = 12_800
WARMUP_ITER = 50
WARMUP_LR = 1e-5
"""Steps of a run; linear warm-up over the first 50 of them, the very first at 1e-5 (the paper's appendix)."""
BETAS = (0.9, 0.999)
EPS = 1e-8
"""AdamW's constants."""
EVAL_FREQ = 100
"""Validation after the steps 0, 100, 200, ..."""
MAX_LOGIT = 87
"""How far from 0 the logarithm of the logits' scale may be, for the scale to be a normal number in float32."""


class Hyperparameters(NamedTuple):
    """One point of a grid."""

    lr: float
    weight_decay: float
    batch_size: int


@dataclass(frozen=True)
class Grid:
    """A hyper-parameter grid: the product of its lists, in the order in which ties are broken."""

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    batch_size: tuple[int, ...]

    def __iter__(self):
        return itertools.starmap(Hyperparameters, itertools.product(self.lr, self.weight_decay, self.batch_size))

    @property
    def fewest_prompts(self) -> int:
        """How many prompts a cross-modal run takes at least: more than their half of the smallest batch."""
        return min(self.batch_size) // 2 + 1


GRIDS = {
    "linear": Grid(lr=(1e-3, 1e-4), weight_decay=(0.0, 0.01, 0.0001), batch_size=(8, 32)),
    "adapter": Grid(lr=(1e-4, 1e-5, 1e-6, 1e-7), weight_decay=(0.0, 0.001, 0.00001), batch_size=(8,)),
    "partial": Grid(lr=(1e-5, 1e-6, 1e-7), weight_decay=(0.0, 0.001, 0.00001), batch_size=(8,)),
}
"""What `--hyperparams` names (the authors' grids)."""

AUDIO = Grid(lr=(0.1, 0.01, 0.001, 0.0001), weight_decay=(0.0, 0.01, 0.0001), batch_size=(8,))
"""The grid of ImageNet-ESC, which `--hyperparams` does not name: only imagenet_esc.py has its problems."""


class Mode(NamedTuple):
    """What a row of the paper's tables fixes besides modality and inputs."""

    classifier_head: str
    image_layer_idx: int
    hyperparams: str
    logit: float


MODES = {
    "linear": Mode("linear", image_layer_idx=0, hyperparams="linear", logit=4.60517),
    "adapter": Mode("adapter", image_layer_idx=0, hyperparams="adapter", logit=4.60517),
    "partial": Mode("linear", image_layer_idx=1, hyperparams="partial", logit=4.0),
}
"""What `eval.py --mode` names."""


def learning_rate(step: int, lr: float, max_iter: int = MAX_ITER) -> float:
    """The learning rate of 0-based `step`: 1e-5 first, linear up to `lr` at step 50, then a cosine over `max_iter`."""
    if step == 0:
        return WARMUP_LR
    if step < WARMUP_ITER:
        return lr * step / WARMUP_ITER
    return lr * (1 + math.cos(math.pi * (step - WARMUP_ITER) / max_iter)) / 2
