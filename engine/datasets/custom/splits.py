"""Few-shot splits of custom datasets: drawn, and drawn again in part when images go."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from engine import terminal
from engine.datasets import checks
from engine.datasets.custom.keys import find_positions, is_tracked
from engine.datasets.few_shot import (
    ALL,
    MAX_VAL_SHOT,
    Classes,
    FewShotSplit,
    Shots,
    at_most,
    draw,
    group,
    read_lists,
    split_path,
    val_shots,
)
from engine.datasets.image_dataset import ImageDataset
from engine.errors import UserError
from engine.files import write_text


def print_notes(benchmark: ImageDataset, shots: list[Shots], max_val_shot: int = MAX_VAL_SHOT) -> None:
    """Print the notes on a custom dataset, and which classes have fewer images than the shots that are asked for."""
    for note in (*benchmark.notes, *shortages(benchmark, shots, max_val_shot)):
        terminal.say(f"note: {note}")


def print_notes_and_update_splits(
    benchmark: ImageDataset,
    indices_dir: Path | str,
    shots: list[Shots],
    seeds: list[int],
    max_val_shot: int = MAX_VAL_SHOT,
) -> None:
    """Print the notes on a custom dataset, and how many of its splits `update_splits` wrote or changed."""
    print_notes(benchmark, shots, max_val_shot)
    done = Counter(done for _, done in update_splits(benchmark, indices_dir, shots, seeds, max_val_shot))
    if changed := [f"{done[what]} {what}" for what in sorted(done.keys() - {"exists"})]:
        terminal.say(f"few-shot splits in {Path(indices_dir) / benchmark.name}: {', '.join(changed)}")


def update_splits(
    benchmark: ImageDataset,
    indices_dir: Path | str,
    shots: Iterable[Shots],
    seeds: Iterable[int],
    max_val_shot: int = MAX_VAL_SHOT,
) -> Iterator[tuple[FewShotSplit, str]]:
    """Draw the splits of a custom dataset that are not there, and bring the others up to date with its images.

    Yields the split of each combination of shots and seeds, and what was done: "written" for a new one, "exists", or
    how many of its images were drawn again. Images that are still there stay. Raises UserError for the split of
    another dataset of this name, none of whose images are there.
    """
    keys = {part: benchmark.keys(part) for part in ("train", "val")}
    classes = {part: group(benchmark.labels(part)) for part in keys}
    for shot, seed in product(dict.fromkeys(shots), dict.fromkeys(seeds)):
        path = split_path(indices_dir, benchmark.name, shot, seed, max_val_shot)
        drawn = dict(zip(keys, draw(*classes.values(), shot, seed, max_val_shot), strict=True))
        before, wanted = _kept(path, keys), {"train": shot, "val": val_shots(shot, max_val_shot)}
        if before is not None:
            drawn = {part: _fill(before[part], classes[part], wanted[part], seed) for part in keys}
        of_split = {part: [keys[part][position] for position in own] for part, own in drawn.items()}
        split = FewShotSplit(benchmark.name, shot, seed, **drawn, max_val_shot=max_val_shot, keys=of_split)
        there = path.read_bytes().strip() if path.exists() else None
        if there != split.text.encode():
            write_text(path, split.text)
        again = sum(len(set(drawn[part]) - set((before or drawn)[part])) for part in drawn)
        done = (
            "written"
            if before is None
            else f"with {checks.pluralize(again, 'image')} drawn again"
            if again
            else "exists"
        )
        yield split, done


def _kept(path: Path, keys: Mapping[str, Sequence[str]]) -> dict[str, list[int]] | None:
    """The positions by part of those images of a custom dataset's split that are there still.

    None for a split that is not there, or holds positions: it is from before images were tracked, and drawing it again
    from the same list gives the same images.
    """
    content = read_lists(path) if path.exists() else None
    if content is None or not is_tracked(content):
        return None
    found = {part: find_positions(content[part], keys[part]) for part in keys}
    if all(position is None for own in found.values() for position in own):
        raise UserError(
            f"{path} is a split of other images: not one of them is there now. If they are those of another folder of"
            " the same name, rename it, or give another --indices_dir; else remove this file"
        )
    return {part: [position for position in own if position is not None] for part, own in found.items()}


def _fill(kept: list[int], classes: Classes, shots: Shots, seed: int) -> list[int]:
    """The positions that a split has of each class: the kept ones, and others in place of those that are gone."""
    filled, at = [], {position: rank for rank, position in enumerate(kept)}
    for positions in classes:
        count = at_most(shots, len(positions))
        own = sorted((position for position in positions if position in at), key=at.get)[:count]
        rest = sorted(set(positions).difference(own))
        filled += own + sorted(random.Random(seed).sample(rest, count - len(own)))
    return filled


def shortages(benchmark: ImageDataset, shots: Iterable[Shots], max_val_shot: int = MAX_VAL_SHOT) -> list[str]:
    """A note for each part with classes that have fewer images than the most shots that are asked for."""
    most = max((shot for shot in shots if shot != ALL), default=0)
    notes = []
    for part, asked in (("train", most), ("val", min(most, max_val_shot))):
        counts = Counter(benchmark.labels(part))
        short = [f"{benchmark.classnames[k]} ({count})" for k, count in sorted(counts.items()) if count < asked]
        if short:
            notes.append(
                f"{benchmark.name}: of {asked} images a class in {part}, some have fewer, and give all they have:"
                f" {checks.list_preview(short)}. {min(counts.values())} are to be had of every class that has any"
            )
    return notes
