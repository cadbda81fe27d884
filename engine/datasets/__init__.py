"""Datasets as fixed lists of images: what is installed under DATA_DIR, read and checked (PROTOCOL sections 1 and 2).

    benchmark = datasets.load("dtd", Path("data"))
    benchmark.train[0]  # Item(impath="banded/banded_0133.jpg", label=0, classname="banded")

`registry` has the table of datasets, `readers` their three formats, `custom` reads images at a path, `few_shot` has the
few-shot splits.
"""

from engine.datasets.image_dataset import ImageDataset, Item
from engine.datasets.registry import (
    SOURCES,
    TARGETS,
    add_custom,
    cli_name,
    forget,
    has_all_classes,
    is_custom,
    load,
    names,
    parent,
    variants,
)

__all__ = [
    "SOURCES",
    "TARGETS",
    "ImageDataset",
    "Item",
    "add_custom",
    "cli_name",
    "forget",
    "has_all_classes",
    "is_custom",
    "load",
    "names",
    "parent",
    "variants",
]
