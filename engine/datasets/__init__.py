"""Datasets as fixed lists of images: read from DATA_DIR and checked (PROTOCOL sections 1 and 2).

    dataset = datasets.load("dtd", Path("data"))
    dataset.train[0]  # Item(impath="banded/banded_0133.jpg", label=0, classname="banded")

`registry` has the table of datasets, `readers` reads their three formats, `custom` reads the images at a path, and
`few_shot` draws and reads few-shot splits.
"""

from engine.datasets.image_dataset import ImageDataset, Item
from engine.datasets.registry import (
    SOURCES,
    TARGETS,
    add_custom,
    cli_name,
    find,
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
    "find",
    "forget",
    "has_all_classes",
    "is_custom",
    "load",
    "names",
    "parent",
    "variants",
]
