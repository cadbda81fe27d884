"""Check the feature store: every file must be readable, complete and unchanged since it was written.

Needs neither images nor weights, and no more memory than one shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from engine.datasets import ImageDataset
from engine.datasets.checks import list_preview
from engine.datasets.custom.tracking import file_states
from engine.datasets.image_dataset import SPLITS
from engine.errors import UserError
from engine.features.classes import read_classes
from engine.features.listing import read_listing, stored_listing
from engine.features.mining import read_any_mined
from engine.features.numbers import finite_rows
from engine.features.prompts import fault_of_ends
from engine.features.store import (
    BY_CONTENT,
    FeaturePaths,
    MissingFeatures,
    Provenance,
    bank_name,
    check_layout,
    contents_of,
    differences,
    digests,
    open_feature_file,
    parse_provenance,
    read_header,
    shard_path,
)
from engine.files import CannotOpen, entries_below, list_matching, opening

READ_BYTES = 1 << 24
"""Bytes of a file that are read at a time."""


@dataclass(frozen=True)
class CheckedFile:
    """A file of the store and its fault; None if it is sound.

    `has_digest` is False for old files without a digest, in which changed values go undetected. A sound shard has
    `rows` (positions or content digests), of which `duplicates` are in earlier shards too: concurrent runs may write
    such rows, which is harmless. `provenance` is None for unreadable files and for mined templates. `can_be_opened` is
    False if the system refuses access to a file, which may be sound.
    """

    path: Path
    fault: str | None
    has_digest: bool = True
    provenance: Provenance | None = None
    rows: tuple[int | str, ...] = ()
    duplicates: int = 0
    can_be_opened: bool = True


def stored_files(stores: Iterable[FeaturePaths]) -> list[Path]:
    """Return all files of features, mined templates, image lists and classes in `stores`, sorted by folder.

    Symbolic links are followed. Raises UserError for a folder that cannot be listed.
    """
    paths = []
    for feature_paths in stores:
        below = entries_below(feature_paths.folder) if feature_paths.folder.exists() else ()
        paths += [Path(entry.path) for entry in below if entry.name.endswith(".safetensors")]
        for name in (feature_paths.mined("*").name, feature_paths.listing.name, feature_paths.classes.name):
            paths += list_matching(feature_paths.folder, name)
    return sorted(paths, key=lambda path: (path.parent, path.name))


def check(paths: list[Path], progress: Callable[[int], object] = lambda count: None) -> Iterator[CheckedFile]:
    """Check the files of `stored_files` folder by folder; call `progress` with the number of bytes read."""
    for _, group in groupby(paths, key=lambda path: path.parent):
        files = [_check_file(path, progress) for path in group]
        yield from _count_duplicates(_mark_mixed(files))


def changed_images(feature_paths: FeaturePaths, benchmark: ImageDataset) -> dict[str, list[Path]]:
    """Return the images that changed since their features were extracted, with the shards of their old features.

    All images with features are read. In a custom dataset rows are found by content, so no shards are returned.
    """
    listing, made_of, shards = stored_listing(feature_paths), {}, {}
    if listing is not None:
        lists = [listing.split(split) for split in SPLITS]
        rows = (zip(images.paths, images.contents, strict=True) for images in lists)
        made_of = {path: content for pairs in rows for path, content in pairs}
    for split in SPLITS if listing is None else ():
        items, digest = benchmark.items(split), benchmark.digest(split)
        for path in sorted(feature_paths.folder.glob(f"{split}-layer_*/*/*.safetensors")):
            try:
                header = read_header(path)
            except UserError:
                continue  # `check` reports it
            if header.provenance.list_digest != digest:
                continue  # positions index another list, or rows are found by content
            for position, content in zip(header.positions, header.contents, strict=False):
                if position < len(items):  # `check` reports the others
                    made_of[items[position].impath] = content
                    shards.setdefault(items[position].impath, []).append(path)
    present = (impath for impath in made_of if (benchmark.image_dir / impath).is_file())
    now = file_states(benchmark.image_dir, present, {})
    return {path: shards.get(path, []) for path, state in now.items() if state.content != made_of[path]}


def _check_file(path: Path, progress: Callable[[int], object]) -> CheckedFile:
    try:
        # a disk error raises here; in a memory-mapped file it would kill the process
        with opening(path), path.open("rb") as file:
            while block := file.read(READ_BYTES):
                progress(len(block))
        if path.suffix == ".json":
            feature_paths = FeaturePaths(path.parent)
            read = {feature_paths.listing: read_listing, feature_paths.classes: read_classes}.get(path)
            read(feature_paths) if read else read_any_mined(path)
            return CheckedFile(path, None)
        with open_feature_file(path) as file:
            return _check_content(path, file)
    except CannotOpen as error:
        return CheckedFile(path, str(error).removeprefix(f"{path} "), can_be_opened=False)
    except MissingFeatures as error:
        return CheckedFile(path, f"cannot be read ({error.__cause__ or error})")


def _check_content(path: Path, file: safe_open) -> CheckedFile:
    metadata = file.metadata()
    check_layout(file)
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    provenance = parse_provenance(metadata)
    stated, found = digests(metadata, tensors)
    is_text = "prompts" in metadata
    bank = metadata.get("bank")
    if stated not in (None, found):
        fault = f"changed since it was written: its digest is {found[:12]}, but {stated[:12]} is recorded"
    elif bank not in (None, bank_name(path.parent)):
        fault = f"belongs to {bank}, but is in {bank_name(path.parent)}"
    elif is_text:
        fault = _fault_of_texts(tensors)
    else:
        fault = _fault_of_shard(tensors, provenance, path)
    rows = () if is_text or fault else tuple(_contents(tensors, provenance) or tensors["positions"].tolist())
    return CheckedFile(path, fault, stated is not None, provenance, rows)


def _contents(tensors: dict[str, Tensor], provenance: Provenance) -> list[str] | None:
    """Return the content digests of a shard whose rows are found by content; None for rows found by position."""
    return contents_of(tensors["contents"]) if provenance.list_digest == BY_CONTENT else None


def _fault_of_shard(tensors: dict[str, Tensor], provenance: Provenance, path: Path) -> str | None:
    """Return the fault of a shard with features [n, ...], labels [n] and positions [n]; None if it is sound."""
    features, labels, positions = (tensors[name] for name in ("features", "labels", "positions"))
    by_content = provenance.list_digest == BY_CONTENT
    outside = positions[(positions < 0) | (positions >= provenance.length)].tolist()
    if outside and not by_content:
        return f"has rows of a list of {provenance.length} images at positions {list_preview(outside)}"
    if len(positions.unique()) < len(positions):
        return "has an image twice"
    if shard_path(path.parent, positions.tolist(), _contents(tensors, provenance)).name != path.name:
        return f"is not named after the {'images' if by_content else 'positions'} that it contains"
    return _fault_of_rows(features, labels, positions)


def _fault_of_texts(tensors: dict[str, Tensor]) -> str | None:
    """Return the fault of prompts: features [n, D] and labels [n], or features [n, L, width], labels and positions."""
    features, labels = tensors["features"], tensors["labels"]
    fault = fault_of_ends(tensors.get("positions"), features)
    return fault or _fault_of_rows(features, labels, torch.arange(len(labels)))


def _fault_of_rows(features: Tensor, labels: Tensor, positions: Tensor) -> str | None:
    """Return the fault of values in features [n, ...] and labels [n] at `positions` [n]; None if they are valid."""
    finite = finite_rows(features)
    for wrong, fault in ((~finite, "features that are not finite numbers"), (labels < 0, "labels below 0")):
        if wrong.any():
            bad = positions[wrong].tolist()
            return f"has {fault}, at positions {list_preview(bad)}"
    return None


def _mark_mixed(files: list[CheckedFile]) -> list[CheckedFile]:
    """Mark the shards of a folder whose provenance differs from most rows of the bank."""
    rows: Counter[Provenance] = Counter()
    for file in files:
        rows[file.provenance] += len(file.rows)
    ((most, _),) = rows.most_common(1)

    def mark(file: CheckedFile) -> CheckedFile:
        if not file.rows or file.provenance == most:
            return file
        fields = "; ".join(line.strip() for line in differences(file.provenance, most).splitlines())
        return replace(file, fault=f"was made differently from the other shards: {fields}")

    return [mark(file) for file in files]


def _count_duplicates(files: list[CheckedFile]) -> list[CheckedFile]:
    """Set `duplicates` of the files of a folder: the number of rows that earlier sound shards have too."""
    seen: set[int | str] = set()
    counted = []
    for file in files:
        counted.append(replace(file, duplicates=len(seen.intersection(file.rows))))
        if file.fault is None:
            seen.update(file.rows)
    return counted
