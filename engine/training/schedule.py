"""Learning-rate schedules and the optimizer's constants (section 5 of the protocol)."""

from __future__ import annotations

import math
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


class Steps(NamedTuple):
    """The number of steps of a run, and of each of its epochs."""

    total: int
    per_epoch: int = 1


def warmed_up_cosine(step: int, lr: float, steps: Steps) -> float:
    """Return the learning rate of 0-based `step`: 1e-5, linear up to `lr` at step 50, then a cosine over all steps."""
    if step == 0:
        return WARMUP_LR
    if step < WARMUP_ITER:
        return lr * step / WARMUP_ITER
    return lr * (1 + math.cos(math.pi * (step - WARMUP_ITER) / steps.total)) / 2


def epoch_cosine(step: int, lr: float, steps: Steps) -> float:
    """Return the learning rate of 0-based `step`: 1e-5 in the first epoch, then a cosine over all epochs.

    The cosine starts after the warm-up epoch and does not count it (Dassl's schedules).
    """
    epoch = step // steps.per_epoch
    if epoch == 0:
        return WARMUP_LR
    return lr * (1 + math.cos(math.pi * (epoch - 1) * steps.per_epoch / steps.total)) / 2


def cosine(step: int, lr: float, steps: Steps) -> float:
    """Return the learning rate of 0-based `step`: a cosine over all steps."""
    return lr * (1 + math.cos(math.pi * step / steps.total)) / 2
