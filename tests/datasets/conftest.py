"""Datasets as they lie on disk, small: real split files where they are at hand, made-up lists everywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.datasets.registry import DATASETS

REAL_SPLITS = Path(__file__).resolve().parents[3] / "shared" / "splits"

Split = dict[str, list[list[Any]]]


@pytest.fixture(scope="session")
def real_splits() -> Path:
    """The folder with seven of the published split files, which lies beside the repository on some machines."""
    if not REAL_SPLITS.is_dir():
        pytest.skip(f"the published split files are not at {REAL_SPLITS}")
    return REAL_SPLITS


@pytest.fixture
def put_images(tmp_path: Path) -> Callable[[Path, Iterable[str]], None]:
    """`put_images(folder, impaths)`: one tiny JPEG under all these names (hard links: thousands cost a second)."""

    def put(folder: Path, impaths: Iterable[str]) -> None:
        source = tmp_path / f"image{len(list(tmp_path.glob('image*.jpg')))}.jpg"
        Image.new("RGB", (8, 8), "green").save(source)
        for impath in impaths:
            path = folder / impath
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, path)

    return put


@pytest.fixture
def install_split(tmp_path: Path, put_images: Callable) -> Callable[[str, Any], Path]:
    """`install_split(name, split)`: a dataset of CoOp's format with its images; returns DATA_DIR."""

    def install(name: str, split: Any, images: bool = True) -> Path:
        layout = DATASETS[name]
        root = tmp_path / "data" / layout.folder
        root.mkdir(parents=True, exist_ok=True)
        (root / layout.split_file).write_text(json.dumps(split))
        if images:
            put_images(root / layout.images, [row[0] for rows in split.values() for row in rows])
        return tmp_path / "data"

    return install


@pytest.fixture
def install_folders(tmp_path: Path, put_images: Callable) -> Callable[..., Path]:
    """`install_folders(name, folders, classes)`: two images a folder, and `classnames.txt`; returns DATA_DIR."""

    def install(name: str, folders: Iterable[str], classes: Iterable[tuple[str, str]]) -> Path:
        root = tmp_path / "data" / DATASETS[name].folder
        root.mkdir(parents=True)
        (root / "classnames.txt").write_text("".join(f"{class_id} {classname}\n" for class_id, classname in classes))
        put_images(root / DATASETS[name].images, [f"{folder}/{file}.jpg" for folder in folders for file in "ba"])
        return tmp_path / "data"

    return install


@pytest.fixture
def install_aircraft(tmp_path: Path, put_images: Callable) -> Callable[[list[str], dict[str, list[str]]], Path]:
    """`install_aircraft(variants, lines)`: FGVC Aircraft's text files and an image per line; returns DATA_DIR."""

    def install(variants: list[str], lines: dict[str, list[str]]) -> Path:
        root = tmp_path / "data" / "fgvc_aircraft"
        root.mkdir(parents=True)
        (root / "variants.txt").write_text("\n".join(variants) + "\n")
        for part, rows in lines.items():
            (root / f"images_variant_{part}.txt").write_text("\n".join(rows) + "\n")
        images = {row.split(" ")[0] for rows in lines.values() for row in rows}
        put_images(root / "images", [f"{image}.jpg" for image in images])
        return tmp_path / "data"

    return install


@pytest.fixture
def small_split() -> Split:
    """Two classes, out of label order in train, the first with one image less."""
    return {
        "train": [*([f"b/{i}.jpg", 1, "big_dog"] for i in range(3)), ["a/0.jpg", 0, "cat"], ["a/1.jpg", 0, "cat"]],
        "val": [["b/3.jpg", 1, "big_dog"], ["a/2.jpg", 0, "cat"]],
        "test": [["a/3.jpg", 0, "cat"], ["b/4.jpg", 1, "big_dog"]],
    }
