"""Few-shot splits: the images of `train` and of `val` that a run may see (PROTOCOL section 1, CoOp's protocol).

A few-shot split is a list of positions per split. For the eleven published datasets they follow from the number of
images per class alone (`indices/class_counts.json`), so they can be drawn without images. Another folder of few-shot
splits may have its own counts.

In a custom dataset images come and go. The file of a few-shot split then has a key for each image, content digest and
path, in place of its position. When images disappear, it keeps the others (`update_splits`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, product
from pathlib import Path
from typing import Any

from engine.datasets import checks, registry
from engine.datasets.custom.keys import content_of, find_positions, is_tracked
from engine.datasets.image_dataset import ImageDataset, Item
from engine.errors import UserError
from engine.files import parse_json, read_bytes, read_json, write_text

MAX_VAL_SHOT = 4
"""Validation images per class: min(shots, 4) (PROTOCOL section 1)."""

ALL = "all"
"""In place of a number of shots: every training image and every validation image."""

Shots = int | str
"""A number of images per class, or `ALL`."""


def parse_shots(text: str) -> Shots:
    """Return the shots that `text`, from a path or a table, names. Raises ValueError unless it is `all` or a number."""
    return ALL if text == ALL else int(text)


def shots_sort_key(shots: Shots) -> tuple[bool, Shots]:
    """Return the sort key of shots: numbers, then `ALL`."""
    return shots == ALL, shots


def limit_shots(shots: Shots, count: int) -> int:
    """Return the number of images drawn from a class of `count` images."""
    return count if shots == ALL else min(shots, count)


def val_shots(shots: Shots, max_val_shot: int) -> Shots:
    """Return the number of validation images per class."""
    return ALL if shots == ALL else min(shots, max_val_shot)


PUBLISHED = Path(__file__).resolve().parents[2] / "indices"
"""The few-shot splits that come with the project, their digests and the class counts they were drawn from."""

Classes = list[Sequence[int]]
"""The positions of each class's images; classes in the order in which their labels first appear."""


class MissingSplits(UserError):
    """Requested few-shot splits are missing. The caller adds the command that creates them.

    `wanted` holds the arguments of few_shot_split.py, with all combinations of the missing shots and seeds.
    """

    def __init__(self, message: str, dataset: str, pairs: Sequence[tuple[Shots, int]]):
        super().__init__(message)
        shots, seeds = zip(*pairs, strict=True)
        self.wanted = {
            "dataset": [dataset],
            "train_shot": sorted(set(shots), key=shots_sort_key),
            "seed": sorted(set(seeds)),
        }


@dataclass(frozen=True)
class FewShotSplit:
    """Positions in `train` and in `val` of `dataset`, in the order drawn, for these shots and this seed.

    `counts` are the images per class of the dataset, if they are published (`class_counts`). `keys` are the keys of the
    images by split, in a custom dataset.
    """

    dataset: str
    shots: Shots
    seed: int
    train: list[int]
    val: list[int]
    max_val_shot: int = field(default=MAX_VAL_SHOT, kw_only=True)
    counts: dict[str, Any] | None = field(default=None, kw_only=True, compare=False, repr=False)
    keys: dict[str, list[str]] | None = field(default=None, kw_only=True, repr=False)

    @property
    def text(self) -> str:
        """Return the content of its file: compact JSON, without a newline."""
        return json.dumps(self.keys or {"train": self.train, "val": self.val}, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file, as in `indices/sha256.csv`; with keys, of the content digests alone."""
        return _digest(self.text, self.keys)

    @property
    def name(self) -> str:
        """Return the name of its file, without the ending."""
        return split_name(self.shots, self.seed, self.max_val_shot)

    @property
    def val_shots(self) -> Shots:
        """Return the number of validation images per class."""
        return val_shots(self.shots, self.max_val_shot)


# --- drawing ---------------------------------------------------------------------------------------------------------


def sample(
    train_labels: Sequence[int],
    val_labels: Sequence[int],
    shots: Shots,
    seed: int,
    max_val_shot: int = MAX_VAL_SHOT,
) -> tuple[list[int], list[int]]:
    """Draw positions in `train` and in `val` from the labels of these splits.

    Raises UserError unless shots and max_val_shot are at least 1 and the seed is at least 0.
    """
    return draw(group(train_labels), group(val_labels), shots, seed, max_val_shot)


def draw(
    train: Classes, val: Classes, shots: Shots, seed: int, max_val_shot: int = MAX_VAL_SHOT
) -> tuple[list[int], list[int]]:
    """Draw as `sample` does, from positions already grouped by class. One generator serves `train`, then `val`."""
    if shots != ALL and min(shots, max_val_shot) < 1:
        raise UserError(f"a few-shot split needs at least 1 image per class, not {min(shots, max_val_shot)}")
    if seed < 0:  # random.Random(-1) equals random.Random(1): two names for one few-shot split
        raise UserError(f"the seed of a few-shot split must be 0 or more, not {seed}")
    rng = random.Random(seed)
    return _draw_classes(rng, train, shots), _draw_classes(rng, val, val_shots(shots, max_val_shot))


def _draw_classes(rng: random.Random, classes: Classes, shots: Shots) -> list[int]:
    """Draw `shots` positions of each class, or take all of them in order if it has fewer."""
    drawn = []
    for positions in classes:
        count = len(positions)
        chosen = range(count) if shots == ALL or count < shots else rng.sample(range(count), shots)
        drawn += [positions[index] for index in chosen]
    return drawn


def group(labels: Iterable[int]) -> Classes:
    """Return the positions of each label; labels in the order of their first appearance."""
    positions: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        positions.setdefault(label, []).append(position)
    return list(positions.values())


def positions_by_class(
    dataset: str, data_dir: Path | str, indices_dir: Path | str = PUBLISHED
) -> tuple[Classes, Classes]:
    """Return the positions, by class, in `train` and in `val` of a dataset.

    A published dataset need not be installed: the class counts of `indices_dir` are enough. Any other is read from
    `data_dir`. Raises UserError if it is missing or has only a test set.
    """
    if counts := class_counts(indices_dir).get(dataset):
        return _blocks(counts["train"]), _blocks(counts["val"])
    if (parent := registry.parent(dataset)) is not None:
        raise UserError(f"{dataset} has only a test set: models for it are trained on {parent}")
    loaded = registry.load(dataset, data_dir, check_images=False)
    return group(loaded.labels("train")), group(loaded.labels("val"))


def _blocks(counts: list[int]) -> Classes:
    """Return the positions of classes that are contiguous blocks of these sizes."""
    blocks: Classes = []
    start = 0
    for count in counts:
        blocks.append(range(start, start + count))
        start += count
    return blocks


@functools.cache
def class_counts(indices_dir: Path | str = PUBLISHED) -> dict[str, Any]:
    """Return image counts by published dataset: `labels` in block order, `train` and `val` per class, `test` in total.

    A class_counts.json in `indices_dir` takes precedence over the project's. Raises UserError if the file is damaged.
    """
    local = Path(indices_dir) / "class_counts.json"
    path = local if local.exists() else PUBLISHED / "class_counts.json"
    counts = read_json(path)
    if not isinstance(counts, dict) or not all(map(_are_counts, counts.values())):
        raise UserError(
            f"{path}: not class counts, which are an object of datasets, each with the lists `labels`, `train` and"
            " `val`, of one number per class, and the number `test`"
        )
    return counts


def _are_counts(entry: Any) -> bool:
    """Return whether `entry` is a valid entry of class_counts.json."""
    lists = [entry.get(name) for name in ("labels", "train", "val")] if isinstance(entry, dict) else []
    if not lists or not all(isinstance(numbers, list) for numbers in lists):
        return False
    numbers = [entry.get("test"), *chain.from_iterable(lists)]
    return len(set(map(len, lists))) == 1 and all(type(number) is int and number >= 0 for number in numbers)


# --- on disk ---------------------------------------------------------------------------------------------------------


def split_name(shots: Shots, seed: int, max_val_shot: int = MAX_VAL_SHOT) -> str:
    """Return the name of a few-shot split: `shot_<s>-seed_<k>`, with `-val_<m>` unless max_val_shot is 4."""
    return f"shot_{shots}-seed_{seed}" + ("" if max_val_shot == MAX_VAL_SHOT else f"-val_{max_val_shot}")


def split_path(
    indices_dir: Path | str, dataset: str, shots: Shots, seed: int, max_val_shot: int = MAX_VAL_SHOT
) -> Path:
    """Return the file of a few-shot split: `<indices_dir>/<dataset>/<its name>.json`."""
    return Path(indices_dir) / dataset / f"{split_name(shots, seed, max_val_shot)}.json"


def save(few_shot: FewShotSplit, indices_dir: Path | str) -> bool:
    """Write a few-shot split to its file; return False if the file already has it.

    Raises UserError if the file has another few-shot split. It is never replaced: results may depend on it.
    """
    path = split_path(indices_dir, few_shot.dataset, few_shot.shots, few_shot.seed, few_shot.max_val_shot)
    if not path.exists():
        write_text(path, few_shot.text)
        return True
    if path.read_bytes().strip() != few_shot.text.encode():
        raise UserError(
            f"{path} differs from the few-shot split drawn from {few_shot.dataset} now. It is kept, because runs may"
            " have used it. To replace it, delete it and run this command again"
        )
    return False


def load_splits(
    indices_dir: Path | str,
    dataset: str,
    pairs: Iterable[tuple[Shots, int]],
    max_val_shot: int = MAX_VAL_SHOT,
    keys: Mapping[str, Sequence[str]] | None = None,
) -> list[FewShotSplit]:
    """Read the few-shot splits of these pairs of shots and seed.

    `keys` are the keys of a custom dataset's images by split, in which the images of its few-shot splits are found.
    Raises MissingSplits, which lists all of them, if files are missing or one is malformed.
    """
    paths = {pair: split_path(indices_dir, dataset, *pair, max_val_shot) for pair in pairs}
    missing = [pair for pair, path in paths.items() if not path.exists()]
    if missing:
        are_missing = "is missing; few_shot_split.py creates it"
        if len(missing) > 1:
            are_missing = f"and {len(missing) - 1} more are missing; few_shot_split.py creates them"
        raise MissingSplits(f"{paths[missing[0]]} {are_missing}", dataset, missing)
    return [_read_split(path, dataset, *pair, max_val_shot, keys) for pair, path in paths.items()]


def load_split(
    indices_dir: Path | str,
    dataset: str,
    shots: Shots,
    seed: int,
    max_val_shot: int = MAX_VAL_SHOT,
    keys: Mapping[str, Sequence[str]] | None = None,
) -> FewShotSplit:
    """Read a few-shot split. Raises MissingSplits if its file is missing or malformed."""
    return load_splits(indices_dir, dataset, [(shots, seed)], max_val_shot, keys)[0]


def _read_split(
    path: Path,
    dataset: str,
    shots: Shots,
    seed: int,
    max_val_shot: int,
    keys: Mapping[str, Sequence[str]] | None,
) -> FewShotSplit:
    content = read_lists(path)
    if content is None or (keys is None and is_tracked(content)):
        raise MissingSplits(
            f'{path} is damaged: it must have {{"train": [positions], "val": [positions]}}, both not empty.'
            " Delete it; few_shot_split.py creates it again",
            dataset,
            [(shots, seed)],
        )
    counts = class_counts(path.parents[1]).get(dataset)
    about = {"max_val_shot": max_val_shot, "counts": counts}
    if keys is None:
        return FewShotSplit(dataset, shots, seed, content["train"], content["val"], **about)
    found = {split: find_positions(content[split], keys[split]) for split in ("train", "val")}
    if any(None in positions for positions in found.values()):
        raise UserError(
            f"{path} has images that {dataset} no longer has. To replace them, run features.py (or few_shot_split.py)"
            " on this dataset"
        )
    return FewShotSplit(dataset, shots, seed, **found, keys=content, **about)


def _digest(text: str, keys: dict[str, list[str]] | None) -> str:
    if keys is not None:
        contents = {split: [content_of(key) for key in split_keys] for split, split_keys in keys.items()}
        text = json.dumps(contents, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file of a few-shot split, as in runs and `indices/sha256.csv`. Raises CannotOpen."""
    content = read_lists(path)
    keys = content if content is not None and is_tracked(content) else None
    return _digest(read_bytes(path).strip().decode(errors="replace"), keys)


def read_lists(path: Path) -> dict[str, list[int] | list[str]] | None:
    """Return the positions or image keys in a file by split, None for a damaged file. Raises CannotOpen."""
    content = read_bytes(path)
    try:
        content = parse_json(content)
    except ValueError:
        return None
    return content if _is_split(content) else None


def _is_split(content: Any) -> bool:
    """Return whether `content` is an object of two non-empty lists of distinct positions, or of distinct image keys."""
    if not isinstance(content, dict) or set(content) != {"train", "val"}:
        return False
    lists = list(content.values())
    if not all(isinstance(entries, list) and entries for entries in lists):
        return False
    types = set(map(type, chain(*lists)))
    are_valid = types == {str} or (types == {int} and min(map(min, lists)) >= 0)
    return are_valid and all(len(set(entries)) == len(entries) for entries in lists)


def outline(
    dataset: str, indices_dir: Path | str, shots: list[Shots], seeds: list[int], max_val_shot: int = MAX_VAL_SHOT
) -> tuple[ImageDataset, list[FewShotSplit]] | None:
    """Return a published dataset by its counts, without paths and names, and its few-shot splits; None for others."""
    if (counts := class_counts(indices_dir).get(dataset)) is None:
        return None
    test = [Item("", 0, "")] * counts["test"]
    unread = ImageDataset(dataset, Path(), [], [], test, list(map(str, counts["labels"])))
    return unread, load_splits(indices_dir, dataset, product(shots, seeds), max_val_shot)


# --- against the installed dataset -----------------------------------------------------------------------------------


def load_checked_splits(
    dataset: ImageDataset,
    indices_dir: Path | str,
    shots: list[Shots],
    seeds: list[int],
    max_val_shot: int = MAX_VAL_SHOT,
) -> list[FewShotSplit]:
    """Read the few-shot splits of an installed dataset and check that they fit; return none for a test-only dataset.

    Raises MissingSplits as `load_splits` does, UserError as `check` does.
    """
    if not dataset.train:
        return []
    keys = {split: dataset.keys(split) for split in ("train", "val")} if dataset.files else None
    few_shots = load_splits(indices_dir, dataset.name, product(shots, seeds), max_val_shot, keys)
    for few_shot in few_shots:
        check(few_shot, dataset)
    return few_shots


def check(few_shot: FewShotSplit, dataset: ImageDataset) -> None:
    """Raise UserError unless the installed dataset is the one that `few_shot` was drawn for.

    Each class must have its number of shots (or all its images). A published dataset must have the published images per
    class in the published order.
    """
    problem = counts_problem(few_shot.counts, dataset) if few_shot.counts else None
    problem = problem or _find_problem(few_shot, {split: dataset.labels(split) for split in ("train", "val")})
    if problem:
        remedy = f". To remove few-shot splits of older lists, delete the folder {few_shot.dataset} in --indices_dir"
        raise UserError(
            f"{few_shot.dataset}, {few_shot.shots} shots, seed {few_shot.seed}: the installed dataset is not the one"
            f" that the few-shot split was drawn for: {problem}{remedy * registry.is_custom(few_shot.dataset)}"
        )


def counts_problem(published: dict[str, Any], dataset: ImageDataset) -> str | None:
    """Return the difference of a dataset from the published numbers of images per class; None without one."""
    for split in ("train", "val", "test"):
        expected = published[split] if split == "test" else sum(published[split])
        if len(dataset.items(split)) != expected:
            return f"{split} has {len(dataset.items(split))} images, not {expected}"
    for split in ("train", "val"):
        installed = [(label, len(list(run))) for label, run in groupby(dataset.labels(split))]
        for block, expected in zip(installed, zip(published["labels"], published[split], strict=True), strict=False):
            if block != expected:
                return f"{split} has {block[1]} images of class {block[0]}, not {expected[1]} of class {expected[0]}"
    return None


def check_current(few_shot: FewShotSplit, labels: Mapping[str, Sequence[int]]) -> None:
    """Raise UserError if a few-shot split is out of date with the `labels`, by split, of a custom dataset."""
    if problem := _find_problem(few_shot, labels):
        raise UserError(
            f"{few_shot.dataset}, {few_shot.shots} shots, seed {few_shot.seed}: images changed since the few-shot split"
            f" was drawn: {problem}. To update it, run features.py on this dataset with these shots and seeds"
        )


def _find_problem(few_shot: FewShotSplit, labels: Mapping[str, Sequence[int]]) -> str | None:
    """Return a description of how a few-shot split misfits the `labels` by split; None if it fits."""
    problem = _find_problem_in("train", few_shot.train, few_shot.shots, labels["train"])
    return problem or _find_problem_in("val", few_shot.val, few_shot.val_shots, labels["val"])


def _find_problem_in(split: str, positions: list[int], shots: Shots, labels: Sequence[int]) -> str | None:
    """Return a description of how the positions drawn from one split misfit its labels; None if they fit."""
    beyond = [position for position in positions if position >= len(labels)]
    if beyond:
        return f"{split} has {len(labels)} images, but the few-shot split has position {checks.list_preview(beyond)}"
    drawn = Counter(labels[position] for position in positions)
    for label, count in sorted(Counter(labels).items()):
        if drawn[label] != limit_shots(shots, count):
            return (
                f"class {label} has {count} images in {split}, and the few-shot split has {drawn[label]} of them"
                f" instead of {limit_shots(shots, count)}"
            )
    return None
