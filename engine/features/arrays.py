"""Features as arrays of numpy, for other programs and from them: one .npz file per split and view.

    train.npz, train-flip.npz, val.npz, test.npz    features [n, D], labels [n], paths [n], classnames [C]
    texts-hand_crafted.npz                          features [n, D], labels [n], prompts [n], classnames [C]

Features are final and not normalised; labels index classnames. Paths are as the dataset lists them. Text files are
named after a `--text-augmentation`. Nothing is unpickled. In the feature store, `imported.json` marks the features of a
dataset as imported.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine import datasets, files, schema, templates, terminal
from engine.clip import names
from engine.datasets import ImageDataset
from engine.datasets.checks import list_preview
from engine.datasets.few_shot import FewShotSplit
from engine.datasets.image_dataset import SPLITS
from engine.digests import tensors_digest
from engine.errors import UserError
from engine.features.listing import image_paths, listing_of, read_listing, require_same, write_listing
from engine.features.numbers import check_norms
from engine.features.prompts import Texts, prompts_digest, read_texts, read_texts_classnames, write_texts
from engine.features.store import BY_CONTENT, Bank, FeaturePaths, MissingFeatures, Provenance, write_shard
from engine.features.views import Rows, wanted_rows

TEXTS = "texts-"
"""The beginning of the names of files of texts."""
IMPORTED = "imported.json"
"""The file that marks a dataset's features as imported."""
PREPROCESSING = "imported"
"""The preprocessing of imported features: nothing is known about it."""
ROWS = 1024
"""Images in a shard."""


@dataclass(frozen=True)
class Imported:
    """Facts about imported features: class names by label, and a digest of all files in place of weights."""

    classnames: list[str]
    digest: str


# --- export ----------------------------------------------------------------------------------------------------------


def export_all(stores: dict[str, list[FeaturePaths]], data_dir: str, indices_dir: str, folder: str) -> None:
    """Write the final features at `stores`, by dataset, as arrays to `folder`/<encoder>/<dataset>."""
    for dataset, of_dataset in stores.items():
        benchmark = datasets.find(dataset, data_dir, indices_dir)
        for paths in of_dataset:
            for line in _export(paths, benchmark, Path(folder, *paths.folder.parts[-2:])):
                terminal.say(line)


def _export(paths: FeaturePaths, benchmark: ImageDataset | None, folder: Path) -> Iterator[str]:
    """Write all final features of a dataset to `folder`; yield a line per file.

    Without an installed `benchmark` of the same images, the paths of a published dataset are `<split>/<position>`.
    Mined templates are left out. Raises MissingFeatures if there are no final features.
    """
    listing = read_listing(paths)
    texts = [path for path in _texts(paths) if path.stem != templates.MINING]
    banks = [path for split in SPLITS for path in files.list_matching(paths.bank(split, 0, "none").parent, "*")]
    if not banks:
        raise MissingFeatures(
            f"no final features (--image-layer-idx 0) in {paths.folder}; features.py extracts them without --export"
        )
    classnames = _classnames(paths, benchmark)
    about = {} if classnames is None else {"classnames": np.array(classnames)}
    for place in banks:
        split, view = place.parent.name.removesuffix("-layer_0"), place.name
        bank = Bank(place, listing and listing.split(split))
        positions = sorted(set(range(bank.length)) - set(bank.missing(list(range(bank.length)))))
        (features, labels), listed = bank.read(positions), image_paths(split, bank, benchmark)
        arrays = {"features": features, "labels": labels, "paths": np.array([listed[at] for at in positions])}
        yield _write(folder / f"{split}{'' if view == 'none' else f'-{view}'}.npz", arrays | about)
    for path in texts:
        found = read_texts(path)
        arrays = {"features": found.features, "labels": found.labels, "prompts": np.array(found.prompts)}
        yield _write(folder / f"{TEXTS}{path.stem}.npz", arrays | about)


def _write(path: Path, arrays: dict) -> str:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})

    files.write_atomically(path, write)
    rows, width = arrays["features"].shape
    return f"{path}: {rows} x {width}"


def _texts(paths: FeaturePaths) -> list[Path]:
    return files.list_matching(paths.texts(0, "").parent, "*.safetensors")


def _classnames(paths: FeaturePaths, benchmark: ImageDataset | None) -> list[str] | None:
    """Return the class names of the store, or of the installed dataset if the store has none."""
    if (imported := read_imported(paths)) is not None:
        return imported.classnames
    stored = (read_texts_classnames(path) for path in _texts(paths))
    return next((found for found in stored if found is not None), benchmark and benchmark.classnames)


# --- import ----------------------------------------------------------------------------------------------------------


def import_one(
    encoders: list[str],
    wanted: list[tuple[ImageDataset, list[FewShotSplit]]],
    views: list[str],
    paths_of: Callable[[str, str], FeaturePaths],
    folder: str,
) -> None:
    """Write the arrays in `folder` to the store of one dataset, with its splits, and one made-up encoder."""
    if (len(encoders), len(wanted)) != (1, 1):
        raise UserError("--import takes one --dataset and one --clip-encoder")
    (encoder,), ((benchmark, splits),) = encoders, wanted
    if not names.hint(encoder):
        raise UserError(f"--import needs another --clip-encoder: {encoder} is an encoder that features.py runs itself")
    if not splits:
        raise UserError(f"--import needs a dataset with training images: {benchmark.name} has only a test set")
    paths = paths_of(encoder, benchmark.name)
    rows = wanted_rows(benchmark, splits, views)
    for line in _import(Path(folder), benchmark, rows, names.folder(encoder), paths):
        terminal.say(line)
    terminal.say(f"imported to {paths.folder}")


def is_imported(paths: FeaturePaths) -> bool:
    """Return whether a dataset's features are imported."""
    return (paths.folder / IMPORTED).exists()


def read_imported(paths: FeaturePaths) -> Imported | None:
    """Return the facts about imported features; None for extracted ones. Raises MissingFeatures for a bad file."""
    if not is_imported(paths):
        return None
    path = paths.folder / IMPORTED
    try:
        return schema.build(Imported, files.parse_json(files.read_bytes(path)), "its content")
    except ValueError as error:
        raise MissingFeatures(f"{path} is damaged ({error}); remove its folder to import the features again") from error


def _import(folder: Path, benchmark: ImageDataset, wanted: Rows, encoder: str, paths: FeaturePaths) -> Iterator[str]:
    """Write the arrays in `folder` to the store of a dataset and a made-up encoder; yield a line per file.

    `wanted` are the images that must be there. All files are read and checked first. Raises UserError for wrong arrays,
    for images that are not the dataset's or missing, and if the store has other features.
    """
    found = {path.stem: _read(path, benchmark) for path in files.list_matching(folder, "*.npz")}
    for split, view, positions in wanted:
        _require(folder, split, view, positions, found.get(_stem(split, view)), benchmark)
    widths = {name: arrays.features.shape[1] for name, arrays in found.items()}
    if len(set(widths.values())) > 1:
        sizes = ", ".join(f"{name}.npz {width}" for name, width in widths.items())
        raise UserError(f"{folder}: all features must have the same dimension: {sizes}")
    listing = listing_of(benchmark)
    if listing is not None:
        require_same(paths, str(benchmark.image_dir), listing)
    imported = Imported(benchmark.classnames, _digest(found))
    if paths.folder.exists() and read_imported(paths) != imported:
        raise UserError(f"{paths.folder} has other features; remove it to import these, or use another --clip-encoder")
    files.write_json(paths.folder / IMPORTED, asdict(imported))
    write_listing(paths, listing)
    for name, arrays in found.items():
        write = _store_texts if name.startswith(TEXTS) else _store_images
        write(paths, name, arrays, benchmark, Provenance(encoder, imported.digest, "", 0))
        yield f"{folder / name}.npz: {len(arrays.labels)} x {widths[name]}"


@dataclass(frozen=True)
class _Arrays:
    """Features [n, D] float32 and labels [n] int64, with the positions of images or the wordings of prompts."""

    features: Tensor
    labels: Tensor
    positions: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()


def _stem(split: str, view: str) -> str:
    return split if view == "none" else f"{split}-{view}"


def _read(path: Path, benchmark: ImageDataset) -> _Arrays:
    """Read and check a file of images or texts. Raises UserError for anything else."""
    try:
        with files.opening(path), np.load(path, allow_pickle=False) as file:
            arrays = {
                name: file[name] for name in ("features", "labels", "paths", "prompts", "classnames") if name in file
            }
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        KeyError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # numpy's own words advise to load the objects
        reason = "it has pickled objects, which may run code" if "allow_pickle" in str(error) else error
        raise UserError(f"{path} is not a file of arrays, as numpy.savez writes it ({reason})") from error
    split, _, view = path.stem.partition("-")
    kind = "prompts" if split == TEXTS.rstrip("-") and view else "paths"
    if kind == "paths" and (split not in SPLITS or (view and split != "train") or path.stem.endswith(("-", "-none"))):
        known = ", ".join(f"{name}.npz" for name in (*SPLITS, "train-flip", f"{TEXTS}hand_crafted"))
        raise UserError(f"{path}: a file has a name such as {known}; rename or remove it")
    if view == templates.MINING and kind == "prompts":
        raise UserError(f"{path}: mined prompts cannot be imported; remove it")
    try:
        return _check(arrays, kind, split, benchmark, path)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _check(arrays: dict[str, np.ndarray], kind: str, split: str, benchmark: ImageDataset, path: Path) -> _Arrays:
    """Return the arrays of a file. Raises ValueError for wrong names, types, shapes, labels or images."""
    kinds = {"features": ("f", 2, "numbers [n, D], floating"), "labels": ("iu", 1, "whole numbers [n]")}
    kinds |= {kind: ("U", 1, "texts [n]")}
    for name, (types, dimensions, words) in kinds.items():
        array = arrays.get(name)
        if array is None or array.dtype.kind not in types or array.ndim != dimensions or not len(array):
            held = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"'{name}' must be {words}, and is {held}")
        if len(array) != len(arrays["features"]):
            raise ValueError(f"'{name}' has {len(array)} rows, and 'features' {len(arrays['features'])}")
    if "classnames" in arrays and arrays["classnames"].tolist() != benchmark.classnames:
        raise ValueError(f"'classnames' are not the class names of {benchmark.name} in their order")
    features, labels = torch.from_numpy(arrays["features"].astype(np.float32)), arrays["labels"].astype(np.int64)
    check_norms(features, range(len(features)), str(path))
    texts = arrays[kind].tolist()
    if kind == "prompts":
        if set(labels.tolist()) != set(range(len(benchmark.classnames))):
            raise ValueError(f"'labels' must have each of the {len(benchmark.classnames)} classes, from 0")
        return _Arrays(features, torch.from_numpy(labels), prompts=tuple(texts))
    return _Arrays(features, torch.from_numpy(labels), _positions(texts, labels.tolist(), split, benchmark))


def _positions(paths: list[str], labels: list[int], split: str, benchmark: ImageDataset) -> tuple[int, ...]:
    """Return the positions of images by path. Raises ValueError for unknown images, doubles and other labels."""
    items = benchmark.items(split)
    known = {item.impath: position for position, item in enumerate(items)}
    if unknown := [path for path in paths if path not in known]:
        raise ValueError(
            f"'paths' has images that are not in {split} of {benchmark.name}: {list_preview(unknown)}; its paths are as"
            f" {items[0].impath}"
        )
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise ValueError(f"'paths' has images twice: {list_preview(twice)}")
    positions = tuple(known[path] for path in paths)
    pairs = zip(paths, labels, positions, strict=True)
    if wrong := [f"{path} ({label}, not {items[at].label})" for path, label, at in pairs if label != items[at].label]:
        raise ValueError(f"'labels' differ from the labels of {benchmark.name}: {list_preview(wrong)}")
    return positions


def _require(
    folder: Path, split: str, view: str, positions: list[int], found: _Arrays | None, benchmark: ImageDataset
) -> None:
    """Raise UserError if images of a split are missing."""
    path = folder / f"{_stem(split, view)}.npz"
    if found is None:
        advice = "" if view == "none" else "; --image-augmentation none needs no views of images"
        raise UserError(f"{path} is missing{advice}")
    if absent := sorted(set(positions) - set(found.positions)):
        items = benchmark.items(split)
        raise UserError(
            f"{path} lacks {len(absent)} of {len(set(positions))} images that the few-shot splits or the tests need:"
            f" {list_preview([items[at].impath for at in absent])}"
        )


def _store_images(
    paths: FeaturePaths, name: str, arrays: _Arrays, benchmark: ImageDataset, provenance: Provenance
) -> None:
    split, _, view = name.partition("-")
    contents = benchmark.contents(split)
    listed = (benchmark.digest(split), len(benchmark.items(split))) if contents is None else (BY_CONTENT, 0)
    provenance = replace(provenance, list_digest=listed[0], length=listed[1], preprocessing=PREPROCESSING)
    rows_of = sorted(range(len(arrays.positions)), key=arrays.positions.__getitem__)
    for at in range(0, len(rows_of), ROWS):
        rows = rows_of[at : at + ROWS]
        positions = [arrays.positions[row] for row in rows]
        of_shard = contents and [contents[position] for position in positions]
        folder = paths.bank(split, 0, view or "none")
        write_shard(folder, provenance, positions, arrays.labels[rows], arrays.features[rows], of_shard)


def _store_texts(
    paths: FeaturePaths, name: str, arrays: _Arrays, benchmark: ImageDataset, provenance: Provenance
) -> None:
    prompts = list(arrays.prompts)
    digest = prompts_digest(prompts, arrays.labels.tolist())
    provenance = replace(provenance, list_digest=digest, length=len(prompts))
    texts = Texts(arrays.features, arrays.labels, prompts, provenance, classnames=benchmark.classnames)
    write_texts(paths.texts(0, name.removeprefix(TEXTS)), texts)


def _digest(found: dict[str, _Arrays]) -> str:
    about = {name: [arrays.positions, arrays.prompts] for name, arrays in found.items()}
    tensors = {f"{name}/{kind}": getattr(a, kind) for name, a in found.items() for kind in ("features", "labels")}
    return tensors_digest(tensors, json.dumps(about, sort_keys=True))
