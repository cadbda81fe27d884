"""The methods: a file each, and a line of `REGISTRY`. Choices, grids and defaults of arguments derive from here.

A method's file is imported when the method is first looked up, as some import torch, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from engine.errors import UserError
from engine.methods.method import Method

REGISTRY = {
    "linear": "linear",
    "adapter": "adapter",
    "partial": "linear",
    "zs_lp": "zs_lp",
    "clap": "clap",
    "taskres": "taskres",
    "tip_adapter": "tip_adapter",
    "tip_adapter_f": "tip_adapter_f",
    "lp_plus_plus": "lp_plus_plus",
    "gda": "gda",
    "prompting": "prompting",
    "prolip": "prolip",
    "linear_adapter": "linear_adapter",
}
"""The name of each method and of its file in this package, and its `--classifier_head`."""


class _Methods(Mapping[str, Method]):
    """The methods by name, each from the `METHOD` of its file."""

    def __getitem__(self, name: str) -> Method:
        REGISTRY[name]  # raises KeyError
        return import_module(f"{__name__}.{name}").METHOD

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTRY)

    def __len__(self) -> int:
        return len(REGISTRY)


METHODS = _Methods()
DEFAULT = METHODS[next(iter(REGISTRY))]
HEADS = list(dict.fromkeys(REGISTRY.values()))
"""The values of `--classifier_head`. Methods of one head build the same classifier, as the method of that name does."""


def require_wise_ft(name: str) -> None:
    """Raise UserError if the weights of a method cannot be averaged with the zero-shot classifier's."""
    if not METHODS[name].wise_ft:
        raise UserError(f"{name} has weights that cannot be averaged with the zero-shot classifier's: --wise_ft false")


__all__ = ["DEFAULT", "HEADS", "METHODS", "REGISTRY", "Method", "require_wise_ft"]
