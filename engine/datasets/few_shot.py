"""Few-shot splits: which images of `train` and of `val` a run may see (PROTOCOL section 1, CoOp's protocol).

A split is a list of positions. For the eleven published datasets they follow from the number of images per class
alone (`indices/class_counts.json`), so no image is needed to make them. Another folder of splits may have counts of
its own.

In a custom dataset images come and go. The file of a split then has a key of each image in place of its position, the
content digest and the path, and keeps its other images when some of them are gone (`update_splits`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from engine.datasets import checks, registry
from engine.datasets.custom.keys import content_of, find_positions, is_tracked
from engine.datasets.image_dataset import ImageDataset
from engine.errors import UserError
from engine.files import parse_json, read_bytes, read_json, write_text

MAX_VAL_SHOT = 4
"""Validation images per class: min(shots, 4) (PROTOCOL section 1)."""

ALL = "all"
"""In place of a number of shots: every training image and every validation image, whatever the largest number is."""

Shots = int | str
"""A number of images per class, or `ALL`."""


def parse_shots(text: str) -> Shots:
    """The shots that `text` names, in a path or a table. Raises ValueError for what is neither `all` nor a number."""
    return ALL if text == ALL else int(text)


def shots_sort_key(shots: Shots) -> tuple[bool, Shots]:
    """What shots are sorted by: numbers, then `ALL`."""
    return shots == ALL, shots


def at_most(shots: Shots, count: int) -> int:
    """How many of `count` images `shots` are."""
    return count if shots == ALL else min(shots, count)


def val_shots(shots: Shots, max_val_shot: int) -> Shots:
    """Validation images per class."""
    return ALL if shots == ALL else min(shots, max_val_shot)


PUBLISHED = Path(__file__).resolve().parents[2] / "indices"
"""The splits that come with the project, their digests and the class counts they were made from."""

Classes = list[Sequence[int]]
"""The positions of each class's images, class after class in the order in which their labels first appear."""


class MissingSplits(UserError):
    """Splits that were asked for are not there. Who knows the command line adds the command that makes them.

    `wanted` are the arguments of few_shot_split.py that say which: splits of these shots and seeds, or more of theirs.
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
    """Positions in `train` and in `val` of `dataset`, in the order drawn; both were made for these arguments.

    `counts` are the images per class of the dataset that it was read for, where these are known (`class_counts`).
    `keys` are those of the images by part, in a custom dataset.
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
        """The split as it stands in its file: compact JSON, without a newline."""
        return json.dumps(self.keys or {"train": self.train, "val": self.val}, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of the file, as in `indices/sha256.csv`; of the content digests alone in a custom dataset."""
        return _digest(self.text, self.keys)

    @property
    def name(self) -> str:
        """What its file is called, without the ending."""
        return split_name(self.shots, self.seed, self.max_val_shot)

    @property
    def val_shots(self) -> Shots:
        """Validation images per class."""
        return val_shots(self.shots, self.max_val_shot)


# --- drawing ---------------------------------------------------------------------------------------------------------


def sample(
    train_labels: Sequence[int],
    val_labels: Sequence[int],
    shots: Shots,
    seed: int,
    max_val_shot: int = MAX_VAL_SHOT,
) -> tuple[list[int], list[int]]:
    """Draw positions in `train` and in `val` from the labels of these lists.

    Raises UserError unless shots and max_val_shot are at least 1 and the seed is at least 0.
    """
    return draw(group(train_labels), group(val_labels), shots, seed, max_val_shot)


def draw(
    train: Classes, val: Classes, shots: Shots, seed: int, max_val_shot: int = MAX_VAL_SHOT
) -> tuple[list[int], list[int]]:
    """`sample`, for positions that are grouped by class already: one generator, for `train` first."""
    if shots != ALL and min(shots, max_val_shot) < 1:
        raise UserError(f"a split needs at least 1 image per class, not {min(shots, max_val_shot)}")
    if seed < 0:  # random.Random(-1) is random.Random(1): two names for one split
        raise UserError(f"the seed of a split is 0 or more, not {seed}")
    rng = random.Random(seed)
    return _draw_part(rng, train, shots), _draw_part(rng, val, val_shots(shots, max_val_shot))


def _draw_part(rng: random.Random, classes: Classes, shots: Shots) -> list[int]:
    """`shots` positions of each class, or all of them in order when it has fewer."""
    drawn = []
    for positions in classes:
        count = len(positions)
        chosen = range(count) if shots == ALL or count < shots else rng.sample(range(count), shots)
        drawn += [positions[index] for index in chosen]
    return drawn


def group(labels: Iterable[int]) -> Classes:
    """The positions of each label, labels in the order of their first appearance."""
    positions: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        positions.setdefault(label, []).append(position)
    return list(positions.values())


def positions_by_class(
    dataset: str, data_dir: Path | str, indices_dir: Path | str = PUBLISHED
) -> tuple[Classes, Classes]:
    """What a dataset's splits are drawn from: `train` and `val` by class.

    A published dataset need not be installed, as the class counts of `indices_dir` are enough; any other is read from
    `data_dir`. Raises UserError when it is not there or has only a test set.
    """
    if counts := class_counts(indices_dir).get(dataset):
        return _blocks(counts["train"]), _blocks(counts["val"])
    if (parent := registry.parent(dataset)) is not None:
        raise UserError(f"{dataset} has only a test set: models for it are trained on {parent}")
    benchmark = registry.load(dataset, data_dir, check_images=False)
    return group(benchmark.labels("train")), group(benchmark.labels("val"))


def _blocks(counts: list[int]) -> Classes:
    """The positions of classes that are contiguous blocks of these sizes."""
    blocks: Classes = []
    start = 0
    for count in counts:
        blocks.append(range(start, start + count))
        start += count
    return blocks


@functools.cache
def class_counts(indices_dir: Path | str = PUBLISHED) -> dict[str, Any]:
    """The published datasets: `labels` in block order, `train` and `val` images per class, `test` in total.

    A folder of splits of other installations has a class_counts.json of its own, which then counts. Raises UserError
    when that is damaged.
    """
    own = Path(indices_dir) / "class_counts.json"
    path = own if own.exists() else PUBLISHED / "class_counts.json"
    counts = read_json(path)
    if not isinstance(counts, dict) or not all(map(_are_counts, counts.values())):
        raise UserError(
            f"{path}: not class counts, an object of datasets, each with lists of numbers `labels`, `train` and `val`,"
            " one of each for a class, and the number `test`"
        )
    return counts


def _are_counts(of: Any) -> bool:
    """Whether `of` is what class_counts.json holds of a dataset."""
    lists = [of.get(name) for name in ("labels", "train", "val")] if isinstance(of, dict) else []
    if not lists or not all(isinstance(own, list) for own in lists):
        return False
    numbers = [of.get("test"), *chain.from_iterable(lists)]
    return len(set(map(len, lists))) == 1 and all(type(number) is int and number >= 0 for number in numbers)


# --- on disk ---------------------------------------------------------------------------------------------------------


def split_name(shots: Shots, seed: int, max_val_shot: int = MAX_VAL_SHOT) -> str:
    """The name of a split among those of its dataset: `shot_<s>-seed_<k>`, with `-val_<m>` for other than 4."""
    return f"shot_{shots}-seed_{seed}" + ("" if max_val_shot == MAX_VAL_SHOT else f"-val_{max_val_shot}")


def split_path(
    indices_dir: Path | str, dataset: str, shots: Shots, seed: int, max_val_shot: int = MAX_VAL_SHOT
) -> Path:
    """The file of a split: `<indices_dir>/<dataset>/<its name>.json`."""
    return Path(indices_dir) / dataset / f"{split_name(shots, seed, max_val_shot)}.json"


def save(split: FewShotSplit, indices_dir: Path | str) -> bool:
    """Write a split to its file; False when that file holds this very split already.

    Raises UserError when it holds another one: results on disk were made with it, so it is never replaced.
    """
    path = split_path(indices_dir, split.dataset, split.shots, split.seed, split.max_val_shot)
    if not path.exists():
        write_text(path, split.text)
        return True
    if path.read_bytes().strip() != split.text.encode():
        raise UserError(
            f"{path} holds another split than {split.dataset} gives today, and stays as it is: runs may have been made"
            f" with it. If it can go, delete it and run this again"
        )
    return False


def load_splits(
    indices_dir: Path | str,
    dataset: str,
    shots: Iterable[Shots],
    seeds: Iterable[int],
    max_val_shot: int = MAX_VAL_SHOT,
    keys: Mapping[str, Sequence[str]] | None = None,
) -> list[FewShotSplit]:
    """Read the splits of all combinations of shots and seeds, shots first.

    `keys` are those of a custom dataset's images by part, among which the images of its splits are looked for.
    Raises MissingSplits, which tells of all of them, when files are missing, and for a file that is malformed.
    """
    asked = [(shot, seed) for shot in dict.fromkeys(shots) for seed in dict.fromkeys(seeds)]
    paths = {pair: split_path(indices_dir, dataset, *pair, max_val_shot) for pair in asked}
    missing = [pair for pair, path in paths.items() if not path.exists()]
    if missing:
        are_missing = "is missing; few_shot_split.py makes it"
        if len(missing) > 1:
            are_missing = f"and {len(missing) - 1} more are missing; few_shot_split.py makes them"
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
    """Read a split. Raises MissingSplits when its file is missing or malformed."""
    (split,) = load_splits(indices_dir, dataset, [shots], [seed], max_val_shot, keys)
    return split


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
            f'{path} is damaged: it should hold {{"train": [positions], "val": [positions]}}, both not empty.'
            " Delete it; few_shot_split.py makes it anew",
            dataset,
            [(shots, seed)],
        )
    counts = class_counts(path.parents[1]).get(dataset)
    about = {"max_val_shot": max_val_shot, "counts": counts}
    if keys is None:
        return FewShotSplit(dataset, shots, seed, content["train"], content["val"], **about)
    found = {part: find_positions(content[part], keys[part]) for part in ("train", "val")}
    if any(None in positions for positions in found.values()):
        raise UserError(
            f"{path} has images that {dataset} does not have now. Run features.py (or few_shot_split.py) on it, which"
            " puts others in their place"
        )
    return FewShotSplit(dataset, shots, seed, **found, keys=content, **about)


def _digest(text: str, keys: dict[str, list[str]] | None) -> str:
    if keys is not None:
        contents = {part: [content_of(key) for key in own] for part, own in keys.items()}
        text = json.dumps(contents, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of the split in a file, as runs and `indices/sha256.csv` state it. Raises CannotOpen."""
    content = read_lists(path)
    keys = content if content is not None and is_tracked(content) else None
    return _digest(read_bytes(path).strip().decode(errors="replace"), keys)


def read_lists(path: Path) -> dict[str, list[int] | list[str]] | None:
    """Return the positions or image keys of a split by part, None for a damaged file. Raises CannotOpen."""
    content = read_bytes(path)
    try:
        content = parse_json(content)
    except ValueError:
        return None
    return content if _is_split(content) else None


def _is_split(content: Any) -> bool:
    """Whether `content` is an object of two lists, not empty, of distinct positions or of keys of images."""
    if not isinstance(content, dict) or set(content) != {"train", "val"}:
        return False
    if not all(isinstance(own, list) and own for own in content.values()):
        return False
    named = [one for own in content.values() for one in own]
    are_positions = all(type(position) is int and position >= 0 for position in named)
    are_keys = all(isinstance(key, str) for key in named)
    return (are_positions or are_keys) and all(len(set(own)) == len(own) for own in content.values())


# --- against the installed dataset -----------------------------------------------------------------------------------


def load_checked_splits(
    benchmark: ImageDataset,
    indices_dir: Path | str,
    shots: list[Shots],
    seeds: list[int],
    max_val_shot: int = MAX_VAL_SHOT,
) -> list[FewShotSplit]:
    """The splits of an installed dataset, which they must fit; none of one that has only a test set.

    Raises MissingSplits as `load_splits` does, UserError as `check` does.
    """
    if not benchmark.train:
        return []
    keys = {part: benchmark.keys(part) for part in ("train", "val")} if benchmark.files else None
    splits = load_splits(indices_dir, benchmark.name, shots, seeds, max_val_shot, keys)
    for split in splits:
        check(split, benchmark)
    return splits


def check(split: FewShotSplit, benchmark: ImageDataset) -> None:
    """Raise UserError when the installed dataset is not the one that `split` was made for.

    Each class must have its number of shots (or all its images), and a published dataset the published images per
    class in the published order.
    """
    problem = counts_problem(split.counts, benchmark) if split.counts else None
    problem = problem or _parts_problem(split, {part: benchmark.labels(part) for part in ("train", "val")})
    if problem:
        remedy = f". Splits of older lists of yours go with the folder {split.dataset} of --indices_dir"
        raise UserError(
            f"{split.dataset}, {split.shots} shots, seed {split.seed}: the installed dataset is not the one that the"
            f" few-shot split was made for: {problem}{remedy * registry.is_custom(split.dataset)}"
        )


def counts_problem(published: dict[str, Any], benchmark: ImageDataset) -> str | None:
    """How the lists differ from the published number of images per class; None when they do not."""
    for part in ("train", "val", "test"):
        made_for = published[part] if part == "test" else sum(published[part])
        if len(benchmark.items(part)) != made_for:
            return f"{part} has {len(benchmark.items(part))} images, the split was made for {made_for}"
    for part in ("train", "val"):
        installed = [(label, len(list(run))) for label, run in groupby(benchmark.labels(part))]
        for block, made_for in zip(installed, zip(published["labels"], published[part], strict=True), strict=False):
            if block != made_for:
                return (
                    f"{part} has {block[1]} images of class {block[0]} where the split was made for {made_for[1]} of"
                    f" class {made_for[0]}"
                )
    return None


def check_current(split: FewShotSplit, labels: Mapping[str, Sequence[int]]) -> None:
    """Raise UserError when a split is not up to date with the `labels` by part of a custom dataset."""
    if problem := _parts_problem(split, labels):
        raise UserError(
            f"{split.dataset}, {split.shots} shots, seed {split.seed}: images changed since the few-shot split was"
            f" made: {problem}. Run features.py on it with these shots and seeds, which brings the split up to date"
        )


def _parts_problem(split: FewShotSplit, labels: Mapping[str, Sequence[int]]) -> str | None:
    """What is wrong with a split of images that have these `labels` by part; None when nothing is."""
    problem = _part_problem("train", split.train, split.shots, labels["train"])
    return problem or _part_problem("val", split.val, split.val_shots, labels["val"])


def _part_problem(part: str, positions: list[int], shots: Shots, labels: Sequence[int]) -> str | None:
    """What is wrong with the positions drawn from one part; None when nothing is."""
    beyond = [position for position in positions if position >= len(labels)]
    if beyond:
        return f"{part} has {len(labels)} images, the split has position {checks.list_preview(beyond)}"
    drawn = Counter(labels[position] for position in positions)
    for label, count in sorted(Counter(labels).items()):
        if drawn[label] != at_most(shots, count):
            return (
                f"class {label} has {count} images in {part}, of which the split has {drawn[label]} instead of"
                f" {at_most(shots, count)}"
            )
    return None
