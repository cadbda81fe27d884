"""Few-shot splits of custom datasets: drawn once, and filled up again when images disappear."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from engine import terminal
from engine.datasets import checks, registry
from engine.datasets.custom.keys import find_positions, is_tracked
from engine.datasets.few_shot import (
    ALL,
    MAX_VAL_SHOT,
    Classes,
    FewShotSplit,
    Shots,
    draw,
    group,
    limit_shots,
    load_checked_splits,
    read_lists,
    split_path,
    val_shots,
)
from engine.datasets.image_dataset import ImageDataset
from engine.errors import UserError
from engine.files import write_text


def load_with_splits(
    name: str,
    data_dir: Path | str,
    indices_dir: Path | str,
    shots: list[Shots],
    seeds: list[int],
    max_val_shot: int = MAX_VAL_SHOT,
    *,
    check_images: bool = True,
) -> tuple[ImageDataset, list[FewShotSplit]]:
    """Return an installed dataset and its few-shot splits; missing splits of a custom dataset are drawn.

    With `check_images=False` the images of a published dataset need not exist. Raises UserError if the dataset is
    missing or does not fit its splits, MissingSplits if these are missing.
    """
    dataset = registry.load(name, data_dir, check_images=check_images, indices_dir=indices_dir)
    if registry.is_custom(name):
        print_notes_and_update_splits(dataset, indices_dir, shots, seeds, max_val_shot)
    return dataset, load_checked_splits(dataset, indices_dir, shots, seeds, max_val_shot)


def print_notes(dataset: ImageDataset, shots: list[Shots], max_val_shot: int = MAX_VAL_SHOT) -> None:
    """Print the notes on a custom dataset, and the classes with fewer images than the requested shots."""
    for note in (*dataset.notes, *note_shortages(dataset, shots, max_val_shot)):
        terminal.say(f"note: {note}")


def print_notes_and_update_splits(
    dataset: ImageDataset,
    indices_dir: Path | str,
    shots: list[Shots],
    seeds: list[int],
    max_val_shot: int = MAX_VAL_SHOT,
) -> None:
    """Print the notes on a custom dataset, and the number of few-shot splits that `update_splits` wrote or changed."""
    print_notes(dataset, shots, max_val_shot)
    counts = Counter(done for _, done in update_splits(dataset, indices_dir, shots, seeds, max_val_shot))
    if changed := [f"{counts[done]} {done}" for done in sorted(counts.keys() - {"exists"})]:
        terminal.say(f"few-shot splits in {Path(indices_dir) / dataset.name}: {', '.join(changed)}")


def update_splits(
    dataset: ImageDataset,
    indices_dir: Path | str,
    shots: Iterable[Shots],
    seeds: Iterable[int],
    max_val_shot: int = MAX_VAL_SHOT,
) -> Iterator[tuple[FewShotSplit, str]]:
    """Draw the missing few-shot splits of a custom dataset, and update the others to its current images.

    Yields the few-shot split of each combination of shots and seeds, and "written" for a new one, "exists", or how many
    of its images were drawn again. Images that still exist stay. Raises UserError if none of the images of an existing
    few-shot split are in the dataset: it belongs to another dataset of this name.
    """
    keys = {split: dataset.keys(split) for split in ("train", "val")}
    classes = {split: group(dataset.labels(split)) for split in keys}
    for shot, seed in product(dict.fromkeys(shots), dict.fromkeys(seeds)):
        path = split_path(indices_dir, dataset.name, shot, seed, max_val_shot)
        drawn = dict(zip(keys, draw(*classes.values(), shot, seed, max_val_shot), strict=True))
        before, counts = _find_kept(path, keys), {"train": shot, "val": val_shots(shot, max_val_shot)}
        if before is not None:
            drawn = {split: _fill(before[split], classes[split], counts[split], seed) for split in keys}
        drawn_keys = {split: [keys[split][position] for position in positions] for split, positions in drawn.items()}
        few_shot = FewShotSplit(dataset.name, shot, seed, **drawn, max_val_shot=max_val_shot, keys=drawn_keys)
        if (path.read_bytes().strip() if path.exists() else None) != few_shot.text.encode():
            write_text(path, few_shot.text)
        again = sum(len(set(drawn[split]) - set((before or drawn)[split])) for split in drawn)
        done = f"with {checks.pluralize(again, 'image')} drawn again" if again else "exists"
        yield few_shot, "written" if before is None else done


def _find_kept(path: Path, keys: Mapping[str, Sequence[str]]) -> dict[str, list[int]] | None:
    """Return the positions, by split, of the images of a few-shot split that still exist.

    None if the file is missing or has positions. In that case it dates from before images were tracked; a new draw from
    the same list yields the same images.
    """
    content = read_lists(path) if path.exists() else None
    if content is None or not is_tracked(content):
        return None
    found = {split: find_positions(content[split], keys[split]) for split in keys}
    if all(position is None for positions in found.values() for position in positions):
        raise UserError(
            f"{path} is a few-shot split of other images: none of them exist now. If they belong to another folder of"
            " the same name, rename that folder or pass another --indices_dir; otherwise remove this file"
        )
    return {split: [position for position in positions if position is not None] for split, positions in found.items()}


def _fill(kept: list[int], classes: Classes, shots: Shots, seed: int) -> list[int]:
    """Return the positions of a few-shot split, class after class: the kept ones, and new ones for missing images."""
    filled, at = [], {position: rank for rank, position in enumerate(kept)}
    for positions in classes:
        count = limit_shots(shots, len(positions))
        stay = sorted((position for position in positions if position in at), key=at.get)[:count]
        rest = sorted(set(positions).difference(stay))
        filled += stay + sorted(random.Random(seed).sample(rest, count - len(stay)))
    return filled


def note_shortages(dataset: ImageDataset, shots: Iterable[Shots], max_val_shot: int = MAX_VAL_SHOT) -> list[str]:
    """Return a note for each split in which classes have fewer images than the largest requested number of shots."""
    most = max((shot for shot in shots if shot != ALL), default=0)
    notes = []
    for split, wanted in (("train", most), ("val", min(most, max_val_shot))):
        counts = Counter(dataset.labels(split))
        short = [f"{dataset.classnames[k]} ({count})" for k, count in sorted(counts.items()) if count < wanted]
        if short:
            notes.append(
                f"{dataset.name}: some classes have fewer than {wanted} images in {split}; all of them are used:"
                f" {checks.list_preview(short)}. Every class that has any has at least {min(counts.values())}"
            )
    return notes
