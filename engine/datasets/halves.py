"""The halves of a dataset's classes, in label order: training on the base classes never sees the new ones."""

from __future__ import annotations

from engine.errors import UserError

ALL, BASE, NEW = "all", "base", "new"
HALVES = [ALL, BASE, NEW]


def labels_of(classes: str, total: int) -> slice:
    """Return the labels of `all`, `base` or `new` among `total` classes.

    The base classes are the first half, and one more of an odd number (CoCoOp). Raises UserError for no classes.
    """
    half = -(-total // 2)
    start, stop = {ALL: (0, total), BASE: (0, half), NEW: (half, total)}[classes]
    if start == stop:
        raise UserError(f"{total} class has no {classes} half: --classes {ALL}")
    return slice(start, stop)
