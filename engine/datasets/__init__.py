"""Datasets as fixed lists of images: what is installed under DATA_DIR, read and checked (PROTOCOL sections 1 and 2).

    benchmark = datasets.load("dtd", Path("data"))
    benchmark.train[0]  # Item(impath="banded/banded_0133.jpg", label=0, classname="banded")

`registry` has the table of datasets, `readers` their three formats, `custom` reads images at a path, `few_shot` has the
few-shot splits.
"""

from engine.datasets.benchmark import Benchmark, Item
from engine.datasets.registry import (
    SOURCES,
    TARGETS,
    forget,
    given,
    has_all_classes,
    is_own,
    load,
    names,
    own,
    parent,
    variants,
)

__all__ = [
    "SOURCES",
    "TARGETS",
    "Benchmark",
    "Item",
    "forget",
    "given",
    "has_all_classes",
    "is_own",
    "load",
    "names",
    "own",
    "parent",
    "variants",
]
