"""The kinds of values that arguments take: each function reads one from its text, or raises ArgumentTypeError."""

from __future__ import annotations

import argparse
import os
import re

from engine import datasets
from engine import templates as prompts
from engine.datasets.few_shot import ALL, Shots
from engine.paper.layout import TABLES
from engine.training.schedule import MAX_LOGIT

MOST, MOST_SEED = 10**9, 2**63 - 1
"""The largest number that arguments take, and the largest seed."""
MOST_WORKERS, MOST_VIEWS = 1024, 1000
"""Each worker is a process, and each view is encoded of every training image."""


def boolean(text: str) -> bool:
    """Read true/false, as in `--wise_ft False`: unlike argparse's `type=bool`, which takes every word for true."""
    words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return words[text.lower()]


def whole(text: str, most: int = MOST) -> int:
    """Read a whole number, from -`most` to `most`."""
    try:
        number = int(text)
    except ValueError as error:  # also for more digits than Python reads
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a whole number") from error
    if abs(number) > most:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is too large; at most {most:,}")
    return number


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def logit(text: str) -> float:
    """Read the logarithm of a scale that is a normal number in float32."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a number") from error
    if not abs(number) <= MAX_LOGIT:
        most = MAX_LOGIT
        raise argparse.ArgumentTypeError(f"'{text:.50}' is not a number from -{most} to {most}")
    return number


def shots(text: str) -> Shots:
    """Read a number of images per class, or `all`."""
    try:
        return ALL if text == ALL else positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; shots are a number or 'all'") from error


def not_negative(text: str, most: int = MOST) -> int:
    """Read a whole number from 0 to `most`."""
    number = whole(text, most)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def seed(text: str) -> int:
    """Read a seed of few-shot splits."""
    return not_negative(text, MOST_SEED)


def workers(text: str) -> int:
    """Read a number of processes."""
    return not_negative(text, MOST_WORKERS)


def views(text: str) -> int:
    """Read a number of views of each training image, which its augmentation may refuse."""
    return whole(text, MOST_VIEWS)


def layers(text: str) -> int:
    """Read a number of layers, or -1 for all; how many there are is known once the encoder is loaded."""
    number = whole(text)
    if number < -1:
        raise argparse.ArgumentTypeError(f"{number} is neither a number of layers nor -1 (all of them)")
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


def dataset(text: str) -> str:
    """Read a dataset's name, or a path of custom images, which gives them a name."""
    if text in datasets.names():
        return text
    if os.sep in text or text.lower().endswith(".csv") or os.path.isdir(text):
        return datasets.add_custom(text)
    raise argparse.ArgumentTypeError(
        f"no dataset is called '{text}'; there are: {', '.join(datasets.names())}; or the path of a folder or CSV of"
        " images of your own"
    )


def templates(text: str) -> str:
    """Read a name of prompts, or the path of a file of templates, which gives them a name."""
    if text in prompts.AUGMENTATIONS:
        return text
    if os.sep in text or text.lower().endswith(".txt") or os.path.isfile(text):
        return prompts.add_custom(text)
    raise argparse.ArgumentTypeError(
        f"'{text}' is none of {', '.join(prompts.AUGMENTATIONS)}, and no file of templates"
    )


def source(text: str) -> str:
    """Read the name of a dataset that has shifted test sets."""
    if text not in datasets.SOURCES:
        has = (
            "is a shifted test set"
            if text in datasets.names() and datasets.parent(text)
            else "has no shifted test sets"
        )
        raise argparse.ArgumentTypeError(f"'{text}' {has}; train on one of: {', '.join(datasets.SOURCES)}")
    return text


def table(text: str) -> str:
    """Read a table's name, which may be given as its file is called."""
    return text.removesuffix(".csv")


def png(text: str) -> str:
    """Read the path of a picture, whose name must end in .png."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .png, and plots are PNG files alone")
    return text


def numbers(text: str) -> int | str:
    """Read the number of one of the paper's tables, or `all`."""
    if text != "all" and text not in map(str, TABLES):
        raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join(map(str, TABLES))} or all")
    return text if text == "all" else int(text)


def named_cell(text: str) -> tuple[str, int, int]:
    """Read a dataset, shots and seed, as in `dtd,16,1`."""
    try:
        name, per_class, number = text.rsplit(",", 2)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not dataset,shots,seed, as in dtd,16,1") from error
    return dataset(name.strip()), shots(per_class), seed(number)
