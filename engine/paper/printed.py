"""The numbers that the paper printed, from `printed.csv`: every one of its Tables 1, 2, 8 and 10 to 16.

They are transcribed as printed, and kept as text, so that a table shows as many decimals as the paper does. The paper
contradicts itself in places (partial fine-tuning at 2 shots is 67.2 in Table 1 and 67.68 in Tables 10 and 11).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).with_name("printed.csv")

AVERAGE = "average"
"""What the file calls the average over the eleven datasets."""


@dataclass(frozen=True)
class Line:
    """A method with its inputs, as a row of the paper names it; what the paper leaves out is ''.

    `metric` is `accuracy`, or `accuracy_delta` for the line that subtracts the two lines above it.
    """

    backbone: str
    method: str
    modality: str = ""
    init: str = ""
    text_augmentation: str = ""
    image_augmentation: str = ""
    image_views: str = ""
    metric: str = "accuracy"


class Number(NamedTuple):
    """A number in percent as it is printed; `std` is '' where the paper gives none."""

    mean: str = ""
    std: str = ""


EXCERPTS = {
    4: (15, ("linear_prob", "audiovisual_linear_prob")),
    5: (16, ("linear_prob", "audiovisual_linear_prob")),
}
"""Tables that show some methods of another one, whose numbers the file has."""


@cache
def published(table: int) -> dict[tuple[Line, str, int], Number]:
    """The numbers of a table by line, dataset and shots (0 for zero-shot classifiers), in the order of the paper."""
    if table in EXCERPTS:
        whole, methods = EXCERPTS[table]
        return {key: number for key, number in published(whole).items() if key[0].method in methods}
    with PATH.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == str(table)]
    return {(_line(row), row["dataset"], int(row["shots"])): Number(row["mean"], row["std"]) for row in rows}


def lines(table: int) -> list[Line]:
    """The lines of a table, in the order of the paper."""
    return list(dict.fromkeys(line for line, _, _ in published(table)))


def _line(row: dict[str, str]) -> Line:
    inputs = (row[name] for name in ("text_augmentation", "image_augmentation", "image_views", "metric"))
    return Line(row["backbone"], row["method"], row["modality"], row["classifier_init"], *inputs)
