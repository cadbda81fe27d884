"""Hyper-parameters of runs as named values, and grids of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

SHORT = {"lr": "lr", "weight_decay": "wd", "batch_size": "bs"}
"""Names of hyper-parameters in paths, where these are shorter."""
SPOKEN = {"weight_decay": "weight decay", "batch_size": "batch"}
"""Names of hyper-parameters in text for people, where these differ."""
NONE = "default"
"""The folder of a run without hyper-parameters."""


class Hparams(dict[str, float | str]):
    """The hyper-parameters of a run by name: one point of a grid. Hashable, so it must not be changed."""

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __str__(self) -> str:
        return ", ".join(f"{SPOKEN.get(name, name)} {shown(value)}" for name, value in self.items())

    @property
    def folder(self) -> str:
        """The name of the run's folder, such as `lr_0.001-wd_0.01-bs_8`."""
        return "-".join(f"{SHORT.get(name, name)}_{shown(value)}" for name, value in self.items()) or NONE


def shown(value: float | str) -> str:
    """Return a hyper-parameter as text: numbers in their shortest form."""
    return value if isinstance(value, str) else f"{value:g}"


class Grid:
    """A grid of hyper-parameters: the product of its axes, in the order in which ties are broken."""

    def __init__(self, **axes: tuple[float | str, ...]):
        self.axes = axes

    def __iter__(self) -> Iterator[Hparams]:
        points = itertools.product(*self.axes.values())
        return (Hparams(zip(self.axes, point, strict=True)) for point in points)

    def order(self) -> str:
        """Return the names of the axes in order, for people."""
        return ", ".join(SPOKEN.get(name, name) for name in self.axes)
