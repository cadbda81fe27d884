"""Whether the numbers of features can be trained on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from engine.datasets import checks
from engine.errors import UserError

SMALLEST_NORM = 1e-12
"""What torch's normalize divides by at least: shorter features would not come out at length 1."""
FINITE_ROWS = 64
"""How many rows are looked through for NaN at a time: they are copied for it, and may be more than memory holds."""


def finite_rows(features: Tensor) -> Tensor:
    """Whether each of the rows of features [n, ...] has finite numbers alone, bool [n]."""
    return torch.cat([rows.flatten(1).isfinite().all(1) for rows in features.split(FINITE_ROWS)])


def check_finite(features: Tensor, positions: Iterable[int], what: str) -> None:
    """Raise UserError for features [n, ...] with NaN or infinite numbers, naming `what` they are and the first rows."""
    finite = finite_rows(features)
    if not finite.all():
        rows = [position for position, right in zip(positions, finite.tolist(), strict=True) if not right]
        raise UserError(
            f"{what}: features that are not finite numbers, at positions {checks.list_preview(rows)}; remove them"
            " there and make them again"
        )


def check_norms(features: Tensor, positions: Iterable[int], what: str) -> None:
    """Raise UserError for final features [n, D] that cannot be normalised in float32, like `check_finite`."""
    check_finite(features, positions, what)
    norms = torch.cat([rows.norm(dim=1) for rows in features.split(FINITE_ROWS)])
    usable = norms.isfinite() & (norms > SMALLEST_NORM)
    if not usable.all():
        rows = [position for position, right in zip(positions, usable.tolist(), strict=True) if not right]
        raise UserError(
            f"{what}: features that are all zero, or too small or too large to be normalised, at positions"
            f" {checks.list_preview(rows)}; remove them there and make them again, with sound weights and images"
        )
