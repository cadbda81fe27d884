"""The learning-rate schedule and the optimizer's constants (section 5 of the protocol)."""

from __future__ import annotations

import math

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


def learning_rate(step: int, lr: float, max_iter: int = MAX_ITER) -> float:
    """Return the learning rate of 0-based `step`: 1e-5, linear up to `lr` at step 50, then a cosine over `max_iter`."""
    if step == 0:
        return WARMUP_LR
    if step < WARMUP_ITER:
        return lr * step / WARMUP_ITER
    return lr * (1 + math.cos(math.pi * (step - WARMUP_ITER) / max_iter)) / 2
