"""Divide the extraction of features among processes (`--shard`).

Units are a dataset's prompts with its validation images, on which they are measured and mined, and the training and
test images of each feature file. So every file has one writer, and is the file that a single process would write. In a
store that has some of the images already, or with copies of an image in a custom dataset, the same rows may be in other
files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.clip.load import Encoder
from engine.datasets import ImageDataset
from engine.datasets.few_shot import FewShotSplit
from engine.features.extract import images_per_file, padded_size, row_bytes, stored_dtype
from engine.features.planning import Part, Request
from engine.features.views import Rows, wanted_rows
from engine.shards import Shard
from engine.templates import ClassPrompts, Templates

PROMPTS_PER_IMAGE = 4
"""Prompts that take as long as an image: a prompt has few tokens, and needs no decoding."""


class _Unit(NamedTuple):
    """Images of a split in a view, or the prompts and all validation images of the dataset with the index `dataset`."""

    dataset: int
    rows: Rows
    cost: int
    has_prompts: bool = False


def divide_extraction(
    shard: Shard,
    wanted: Sequence[tuple[ImageDataset, list[FewShotSplit]]],
    request: Request,
    encoder: Encoder,
    batch_size: int,
) -> tuple[dict[int, Part], str]:
    """Return the part of a shard by index of the dataset, without datasets it has no part of, and a line about it.

    Only names, positions and numbers of images and classes are used: `few_shot.outline` is enough.
    """
    units = [
        unit
        for index, (benchmark, splits) in enumerate(wanted)
        for unit in _units(index, benchmark, splits, request, encoder, batch_size)
    ]
    mine = shard.part(units, [unit.cost for unit in units])
    parts: dict[int, Part] = {}
    for unit in mine:
        part = parts.setdefault(unit.dataset, Part())
        part.has_prompts |= unit.has_prompts
        for split, view, positions in unit.rows:
            part.positions[split, view] = part.positions.get((split, view), frozenset()).union(positions)
    images = sum(len(positions) for unit in mine for *_, positions in unit.rows)
    return parts, f"shard {shard} of {encoder.name}: {len(mine)} of {len(units)} units, {images} images, counting views"


def _units(
    index: int,
    benchmark: ImageDataset,
    splits: list[FewShotSplit],
    request: Request,
    encoder: Encoder,
    batch_size: int,
) -> list[_Unit]:
    """Return the units of a dataset: its prompts and validation images, then one for each feature file."""
    wanted = wanted_rows(benchmark, splits, request.views)
    rows = [(split, view, sorted(set(positions))) for split, view, positions in wanted]
    val = [row for row in rows if row[0] == "val"]
    by_name = request.templates(benchmark, splits)
    prompts = sum(_count_prompts(found, len(benchmark.classnames)) for found in by_name.values())
    units = [_Unit(index, val, sum(len(row[2]) for row in val) + prompts // PROMPTS_PER_IMAGE, has_prompts=True)]
    largest = max(row_bytes(encoder, layers, stored_dtype(layers, request.store_dtype)) for layers in encoder.image)
    for split, view, positions in rows:
        if split != "val":
            count = images_per_file(largest, padded_size(len(positions), batch_size))
            runs = (positions[at : at + count] for at in range(0, len(positions), count))
            units += [_Unit(index, [(split, view, run)], len(run)) for run in runs]
    return units


def _count_prompts(found: Templates, classes: int) -> int:
    """Return the number of prompts; a file may also have prompts of classes that the dataset lacks."""
    return sum(map(len, found.by_class.values())) if isinstance(found, ClassPrompts) else len(found) * classes
