"""Check that features are finite and can be normalised."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from engine.datasets import checks
from engine.errors import UserError

SMALLEST_NORM = 1e-12
"""The lower bound of the divisor of torch's normalize: shorter features would not get length 1."""
FINITE_ROWS = 64
"""Rows that are checked at a time: the check copies them, and a whole tensor may not fit in memory twice."""


def finite_rows(features: Tensor) -> Tensor:
    """Return which rows of features [n, ...] are finite, bool [n]."""
    return torch.cat([rows.flatten(1).isfinite().all(1) for rows in features.split(FINITE_ROWS)])


def check_finite(features: Tensor, positions: Iterable[int], name: str) -> None:
    """Raise UserError for NaN or infinite values in features [n, ...]; `name` names the features in the message."""
    finite = finite_rows(features)
    if not finite.all():
        rows = [position for position, right in zip(positions, finite.tolist(), strict=True) if not right]
        raise UserError(
            f"{name}: features that are not finite numbers, at positions {checks.list_preview(rows)}; remove them"
            " there and extract them again"
        )


def check_norms(features: Tensor, positions: Iterable[int], name: str) -> None:
    """Raise UserError for final features [n, D] that are not finite, or cannot be normalised in float32."""
    check_finite(features, positions, name)
    norms = torch.cat([rows.norm(dim=1) for rows in features.split(FINITE_ROWS)])
    usable = norms.isfinite() & (norms > SMALLEST_NORM)
    if not usable.all():
        rows = [position for position, right in zip(positions, usable.tolist(), strict=True) if not right]
        raise UserError(
            f"{name}: features that are all zero, or too small or too large to be normalised, at positions"
            f" {checks.list_preview(rows)}; remove them there and extract them again, with sound weights and images"
        )
