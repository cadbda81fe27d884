"""Check what lies in the feature store: is every file readable, whole, and still what was written?

It takes neither images nor weights, and no more memory than a shard.
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

from engine.datasets.checks import first
from engine.features.store import (
    MissingFeatures,
    Place,
    Source,
    check_layout,
    differences,
    digests,
    fault_of_ends,
    finite_rows,
    read_source,
    reading,
    shard_path,
)

READ_BYTES = 1 << 24
"""How much of a file is read at a time."""


@dataclass(frozen=True)
class Checked:
    """A file of the store and what is wrong with it, None for nothing.

    `has_digest` is False for one from before digests were stated, whose numbers nothing tells to be the ones that were
    written. A sound shard has `positions`, of which `twice` are in shards before it too: two runs at once may do that,
    and it harms nothing. `source` is None for a file that cannot be read.
    """

    path: Path
    fault: str | None
    has_digest: bool = True
    source: Source | None = None
    positions: tuple[int, ...] = ()
    twice: int = 0


def stored_files(places: Iterable[Place]) -> list[Path]:
    """All files of features under `places`, those of a folder together."""
    paths = (path for place in places for path in place.folder.rglob("*.safetensors"))
    return sorted(paths, key=lambda path: (path.parent, path.name))


def check(paths: list[Path], progress: Callable[[int], object] = lambda count: None) -> Iterator[Checked]:
    """Check the files that `stored_files` lists, folder after folder; `progress` hears of the bytes that were read."""
    for _, group in groupby(paths, key=lambda path: path.parent):
        files = [_check_file(path, progress) for path in group]
        yield from _twice(_mixed(files))


def _check_file(path: Path, progress: Callable[[int], object]) -> Checked:
    try:
        # what a disk cannot read is an error here; read through a mapping, it would end the process
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                progress(len(block))
        with reading(path) as file:
            return _check_content(path, file)
    except (MissingFeatures, OSError) as error:
        return Checked(path, f"cannot be read ({error.__cause__ or error})")


def _check_content(path: Path, file: safe_open) -> Checked:
    metadata = file.metadata()
    check_layout(file)
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    source = read_source(metadata)
    stated, found = digests(metadata, tensors)
    is_text = "prompts" in metadata
    if stated not in (None, found):
        fault = f"is not what was written: its digest is {found[:12]}, and {stated[:12]} was stated"
    elif is_text:
        fault = _fault_of_texts(tensors)
    else:
        fault = _fault_of_shard(tensors, source, path)
    positions = () if is_text or fault else tuple(tensors["positions"].tolist())
    return Checked(path, fault, stated is not None, source, positions)


def _fault_of_shard(tensors: dict[str, Tensor], source: Source, path: Path) -> str | None:
    """What is wrong with features [n, ...], labels [n] and positions [n]."""
    features, labels, positions = (tensors[name] for name in ("features", "labels", "positions"))
    outside = positions[(positions < 0) | (positions >= source.length)].tolist()
    if outside:
        return f"has rows of a list of {source.length} images at positions {first(outside, len(outside))}"
    if len(positions.unique()) < len(positions):
        return "has an image twice"
    if shard_path(path.parent, positions.tolist()).name != path.name:
        return "is not named after the positions that it holds"
    return _fault_of_rows(features, labels, positions)


def _fault_of_texts(tensors: dict[str, Tensor]) -> str | None:
    """What is wrong with features [n, D] and labels [n] of n prompts, or features [n, L, width], labels and ends."""
    features, labels = tensors["features"], tensors["labels"]
    fault = fault_of_ends(tensors.get("positions"), features)
    return fault or _fault_of_rows(features, labels, torch.arange(len(labels)))


def _fault_of_rows(features: Tensor, labels: Tensor, positions: Tensor) -> str | None:
    """What is wrong with the numbers in features [n, ...] and labels [n] of images or prompts at `positions` [n]."""
    finite = finite_rows(features)
    for wrong, what in ((~finite, "features that are not finite numbers"), (labels < 0, "labels below 0")):
        if wrong.any():
            bad = positions[wrong].tolist()
            return f"has {what}, at positions {first(bad, len(bad))}"
    return None


def _mixed(files: list[Checked]) -> list[Checked]:
    """The files of a folder, where a shard of another source than most rows of the bank is at fault."""
    rows: Counter[Source] = Counter()
    for file in files:
        rows[file.source] += len(file.positions)
    ((most, _),) = rows.most_common(1)

    def judge(file: Checked) -> Checked:
        if not file.positions or file.source == most:
            return file
        fields = "; ".join(line.strip() for line in differences(file.source, most).splitlines())
        return replace(file, fault=f"was made from something else than the other shards: {fields}")

    return [judge(file) for file in files]


def _twice(files: list[Checked]) -> list[Checked]:
    """The files of a folder, each with how many of its rows sound shards before it have too."""
    seen: set[int] = set()
    counted = []
    for file in files:
        counted.append(replace(file, twice=len(seen.intersection(file.positions))))
        if file.fault is None:
            seen.update(file.positions)
    return counted
