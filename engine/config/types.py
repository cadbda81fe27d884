"""Types of arguments: each function parses a word of the command line, or raises ArgumentTypeError."""

from __future__ import annotations

import argparse
import os
import re

from engine import datasets
from engine import templates as prompts
from engine.clip.names import PROJECTION
from engine.datasets.few_shot import ALL, Shots
from engine.paper.layout import TABLES
from engine.results import methods_scope
from engine.results.predictions import OUTPUT_FORMATS
from engine.results.runs import RATIOS, WISEFT
from engine.shards import Shard
from engine.training.schedule import MAX_LOGIT

MAX_NUMBER, MAX_SEED = 10**9, 2**63 - 1
MAX_WORKERS, MAX_VIEWS = 1024, 1000
"""Each worker is a process, and every view of every training image is encoded."""


def boolean(text: str) -> bool:
    """Read true or false, as in `--wise_ft False`; argparse's `type=bool` takes every word for true."""
    words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return words[text.lower()]


def wise_ft(text: str) -> float:
    """Read the ratio of WiSE-FT: true, false, or a number from 0 to 1. `1` alone could mean either and is refused."""
    words = {"true": RATIOS[WISEFT], "yes": RATIOS[WISEFT], "false": 0.0, "no": 0.0}
    if text == "1":
        raise argparse.ArgumentTypeError(f"'1' is ambiguous: write true (a ratio of {RATIOS[WISEFT]}) or 1.0")
    try:
        ratio = words[text.lower()] if text.lower() in words else float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is neither true nor false, nor a ratio from 0 to 1")
    return ratio


def integer(text: str, maximum: int = MAX_NUMBER) -> int:
    """Read an integer from -`maximum` to `maximum`."""
    try:
        number = int(text)
    except ValueError as error:  # also raised for more digits than Python reads
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a whole number") from error
    if abs(number) > maximum:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is too large; at most {maximum:,}")
    return number


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    number = integer(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def logit(text: str) -> float:
    """Read the logarithm of a scale; the scale must be a normal number in float32."""
    return _number(text, -MAX_LOGIT, MAX_LOGIT)


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    return _number(text, 0, 1)


def _number(text: str, minimum: float, maximum: float) -> float:
    number = _float(text, "number")
    if not minimum <= number <= maximum:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a number from {minimum} to {maximum}")
    return number


def _float(text: str, noun: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a {noun}") from error


def shots(text: str) -> Shots:
    """Read a number of images per class, or `all`."""
    try:
        return ALL if text == ALL else positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; shots are a number or 'all'") from error


def not_negative(text: str, maximum: int = MAX_NUMBER) -> int:
    """Read an integer from 0 to `maximum`."""
    number = integer(text, maximum)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def seed(text: str) -> int:
    """Read a seed of few-shot splits."""
    return not_negative(text, MAX_SEED)


def workers(text: str) -> int:
    """Read a number of processes."""
    return not_negative(text, MAX_WORKERS)


def views(text: str) -> int:
    """Read a number of views of each training image; the augmentation may not allow it."""
    return integer(text, MAX_VIEWS)


def image_layers(text: str) -> int | str:
    """Read a number of layers as `layers` does, or `projection`."""
    return text if text == PROJECTION else layers(text)


def layers(text: str) -> int:
    """Read a number of layers, or -1 for all. The loaded encoder determines the maximum."""
    number = integer(text)
    if number < -1:
        raise argparse.ArgumentTypeError(f"{number} is neither a number of layers nor -1 (all layers)")
    return number


def size(text: str) -> int:
    """Read a number of bytes, as in `8G`, `500M` or `1.5T` (powers of 1024)."""
    units = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    match = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    try:
        number = int(float(match[1]) * 1024 ** units[match[2].upper()])
    except (TypeError, ValueError, OverflowError):
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a size such as 8G or 500M")
    return number


def shard(text: str) -> Shard:
    """Read a part of the work, as in `2/3`."""
    match = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not I/N with I from 1 to N, such as 2/3")
    return Shard(int(match[1]), int(match[2]))


def slurm_size(text: str) -> str:
    """Read an amount of memory as Slurm does: a number of megabytes, or with a unit."""
    if not re.fullmatch(r"[1-9]\d*[KMGT]?", text):
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a size such as 32G or 500M")
    return text


def gpus(text: str) -> str:
    """Read a number of GPUs, also with their type: `4`, `a100:4`."""
    if not re.fullmatch(r"([\w.-]+:)?[1-9]\d{0,2}", text):
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a number of GPUs such as 4 or a100:4")
    return text


def hours(text: str) -> float:
    """Read a positive number of hours, at most a year."""
    number = _float(text, "number of hours")
    if not 0 < number <= 24 * 366:
        raise argparse.ArgumentTypeError(f"'{text:.50}' hours are not a time limit")
    return number


def dataset(text: str) -> str:
    """Read the name of a dataset, or the path of a custom dataset, and return the name."""
    if text in datasets.names():
        return text
    if os.sep in text or text.lower().endswith(".csv") or os.path.isdir(text):
        return datasets.add_custom(text)
    raise argparse.ArgumentTypeError(
        f"no dataset is called '{text}'; there are: {', '.join(datasets.names())}; or the path of a custom dataset (a"
        " folder or a CSV file)"
    )


def templates(text: str) -> str:
    """Read a name of prompts, or the path of a file of templates or prompts, and return the name."""
    if text in prompts.AUGMENTATIONS:
        return text
    if os.sep in text or text.lower().endswith((".txt", ".json")) or os.path.isfile(text):
        return prompts.add_custom(text)
    raise argparse.ArgumentTypeError(
        f"'{text}' is neither one of {', '.join(prompts.AUGMENTATIONS)} nor a template file"
    )


def source_dataset(text: str) -> str:
    """Read the name of a dataset with shifted test sets."""
    if text not in datasets.SOURCES:
        is_shifted = text in datasets.names() and datasets.parent(text)
        reason = "is a shifted test set" if is_shifted else "has no shifted test sets"
        raise argparse.ArgumentTypeError(f"'{text}' {reason}; train on one of: {', '.join(datasets.SOURCES)}")
    return text


def table_name(text: str) -> str:
    """Read the name of a table, with or without .csv."""
    return text.removesuffix(".csv")


def png(text: str) -> str:
    """Read the path of a PNG file."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .png; plots are PNG files")
    return text


def table_number(text: str) -> int | str:
    """Read the number of a table of the paper, or `all`."""
    if text not in ("all", methods_scope.NAME) and text not in map(str, TABLES):
        known = ", ".join(map(str, TABLES))
        raise argparse.ArgumentTypeError(f"'{text}' is not one of {known}, all or {methods_scope.NAME}")
    return int(text) if text.isdecimal() else text


def predictions(text: str) -> str:
    """Read the path of a file of predictions; its ending is its format."""
    if text.rpartition(".")[2].lower() not in OUTPUT_FORMATS:
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .{' or .'.join(OUTPUT_FORMATS)}")
    return text


def named_cell(text: str) -> tuple[str, int, int]:
    """Read a dataset, shots and seed, as in `dtd,16,1`."""
    try:
        name, per_class, number = text.rsplit(",", 2)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not dataset,shots,seed, as in dtd,16,1") from error
    return dataset(name.strip()), shots(per_class), seed(number)
