"""The table of datasets. A new one is one entry in `DATASETS`: its folder under DATA_DIR and its format.

Custom images need no entry: `add_custom` registers a path as a dataset for the lifetime of the process.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Protocol

from engine.datasets import checks
from engine.datasets.custom import CustomDataset
from engine.datasets.image_dataset import ImageDataset
from engine.datasets.readers import ClassFolders, JsonSplit, VariantLists
from engine.errors import UserError


class Format(Protocol):
    """A storage format of datasets, see `readers`."""

    @property
    def folder(self) -> str:
        """Return the dataset's folder under DATA_DIR."""

    def read(self, name: str, root: Path, check_images: bool) -> ImageDataset:
        """Read the dataset `name` from its folder `root`."""


TARGETS = (
    "caltech101",
    "imagenet",
    "dtd",
    "eurosat",
    "fgvc_aircraft",
    "food101",
    "oxford_flowers",
    "oxford_pets",
    "stanford_cars",
    "sun397",
    "ucf101",
)
"""The eleven datasets that the paper averages over, in the order of its Table 10."""

_V2 = "imagenetv2-matched-frequency-format-val"

# The fifteen of PROTOCOL section 2, then the demo, which comes with the project (engine/demo) and has the same shapes.
DATASETS: dict[str, Format] = {
    "caltech101": JsonSplit("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "imagenet": JsonSplit("imagenet", "images", "split_ImageNet.json"),
    "dtd": JsonSplit("dtd", "images", "split_zhou_DescribableTextures.json"),
    "eurosat": JsonSplit("eurosat", "2750", "split_zhou_EuroSAT.json"),
    "fgvc_aircraft": VariantLists("fgvc_aircraft", "images"),
    "food101": JsonSplit("food-101", "images", "split_zhou_Food101.json"),
    "oxford_flowers": JsonSplit("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json"),
    "oxford_pets": JsonSplit("oxford_pets", "images", "split_zhou_OxfordPets.json"),
    "stanford_cars": JsonSplit("stanford_cars", ".", "split_zhou_StanfordCars.json"),
    "sun397": JsonSplit("sun397", "SUN397", "split_zhou_SUN397.json"),
    "ucf101": JsonSplit("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json"),
    "imagenetv2": ClassFolders("imagenetv2", _V2, "imagenet", numbered=True),
    "imagenet_sketch": ClassFolders("imagenet-sketch", "images", "imagenet"),
    "imagenet_a": ClassFolders("imagenet-adversarial", "imagenet-a", "imagenet", one_in=5),
    "imagenet_r": ClassFolders("imagenet-rendition", "imagenet-r", "imagenet", one_in=5),
    "demo": JsonSplit("demo", "images", "split_demo.json"),
    "demo_v2": ClassFolders("demo_v2", "images", "demo", numbered=True),
    "demo_sketch": ClassFolders("demo_sketch", "images", "demo"),
    "demo_a": ClassFolders("demo_a", "images", "demo", one_in=None),
    "demo_r": ClassFolders("demo_r", "images", "demo", one_in=None),
}


def names() -> list[str]:
    """Return the names of all datasets."""
    return list(DATASETS)


def add_custom(path: str) -> str:
    """Register the images at `path`, a folder or a CSV, as a dataset; return its name, taken from the folder or file.

    The path need not exist: cached features are found by the name alone. Raises UserError if the path has no usable
    name or another dataset already has it.
    """
    absolute = os.path.abspath(path)
    stem, ending = os.path.splitext(os.path.basename(absolute))
    name = re.sub(r"[^\w.-]+", "-", stem if ending.lower() == ".csv" else stem + ending).strip(".-")
    if re.search("[\ud800-\udfff]", stem):  # surrogates: Python's stand-ins for undecodable bytes
        raise UserError(f"{path}: its name is not UTF-8; rename it, or set PYTHONUTF8=1 if the locale is not UTF-8")
    if not name:
        raise UserError(f"{path} has no name for its features and results; pass a folder that has a name")
    there = DATASETS.setdefault(name, CustomDataset(path))
    if not isinstance(there, CustomDataset):
        raise UserError(
            f"{path}: the name {name} belongs to a dataset of the project; rename the path, or pass --dataset {name}"
        )
    if there.folder != absolute:
        raise UserError(f"{there.path} and {path} have the same name, {name}, for features and results; rename one")
    return name


def is_custom(name: str) -> bool:
    """Return whether the dataset `name` is a custom one; any process may have registered it by `add_custom`."""
    return name not in DATASETS or isinstance(DATASETS[name], CustomDataset)


def cli_name(name: str) -> str:
    """Return the command-line value for the dataset `name`: the path of a custom dataset, or else the name.

    Results on disk may have names whose paths this process does not know; for these, return a placeholder.
    """
    if name not in DATASETS:
        return name if os.path.isdir(name) else f"PATH-OF-{name}"
    layout = DATASETS[name]
    return layout.path if isinstance(layout, CustomDataset) else name


def parent(name: str) -> str | None:
    """Return the dataset of which `name` is a shifted variant and whose classes it has; None if it is not a variant."""
    return getattr(_format(name), "parent", None)


def variants(name: str) -> list[str]:
    """Return the shifted test sets of a dataset: ImageNet-V2, -Sketch, -A and -R for `variants("imagenet")`."""
    return [variant for variant in DATASETS if parent(variant) == name]


def has_all_classes(name: str) -> bool:
    """Return whether the shifted test set `name` has all classes of its parent; ImageNet-A and -R have only some."""
    return getattr(_format(name), "one_in", 1) == 1


def load(
    name: str,
    data_dir: Path | str,
    *,
    check_images: bool = True,
    write: bool = True,
    indices_dir: Path | str | None = None,
) -> ImageDataset:
    """Read the dataset `name` installed under `data_dir`.

    With `check_images=False` the images of a split file need not exist: enough to train on cached features. With
    `write=False` no split file of custom images is written; `indices_dir` has the split files of read-only folders.
    Raises UserError if `name` is unknown, if a file is missing (with the command that draws it, for a demo dataset), or
    if a list is malformed.
    """
    layout = _format(name)
    try:
        root = checks.require(Path(data_dir) / layout.folder, "folder", name)
        if isinstance(layout, CustomDataset):
            return layout.read(name, root, check_images, write, indices_dir)
        return layout.read(name, root, check_images)
    except checks.NotInstalled as error:
        if isinstance(layout, CustomDataset):
            raise checks.NotInstalled(f"{layout.path}: no such folder or list of images") from error
        if not name.startswith("demo"):
            raise
        install = shlex.join(["python", "-m", "engine.demo.install", str(data_dir)])
        raise checks.NotInstalled(f"{error}. To draw it, run:\n  {install}") from error


def find(name: str, data_dir: Path | str, indices_dir: Path | str) -> ImageDataset | None:
    """Return the dataset `name`, None if it is not installed. Images need not exist, and nothing is written."""
    try:
        return load(name, data_dir, check_images=False, write=False, indices_dir=indices_dir)
    except checks.NotInstalled:
        return None


def forget(dataset: ImageDataset, impaths: list[str], indices_dir: Path | str) -> None:
    """Make the next `load` of a custom dataset read the content of these images, whatever their size and time."""
    layout = _format(dataset.name)
    if isinstance(layout, CustomDataset):
        layout.forget(dataset, impaths, indices_dir)


def _format(name: str) -> Format:
    """Return the entry of `name`. Raises UserError, which lists the names, if there is none."""
    if name not in DATASETS:
        raise UserError(f"unknown dataset '{name}'; choose from: {', '.join(DATASETS)}")
    return DATASETS[name]


SOURCES = tuple(name for name in DATASETS if variants(name))
"""The datasets that have shifted test sets."""
