"""The numbers printed in the paper, from `printed.csv`: all of Tables 1, 2, 8 and 10 to 16.

They are kept as text, with the paper's number of decimals. The paper contradicts itself in places: partial fine-tuning
at 2 shots is 67.2 in Table 1 and 67.68 in Tables 10 and 11.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).with_name("printed.csv")

AVERAGE = "average"
"""The name in the file of the average over the eleven datasets."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper: a method and its inputs; '' where the paper does not state one.

    `metric` is `accuracy`, or `accuracy_delta` for the difference of the two rows above.
    """

    backbone: str
    method: str
    modality: str = ""
    init: str = ""
    text_augmentation: str = ""
    image_augmentation: str = ""
    image_views: str = ""
    metric: str = "accuracy"


class PrintedNumber(NamedTuple):
    """A printed number in percent; `mean` is '' where the paper has none, `std` where it prints none."""

    mean: str = ""
    std: str = ""


EXCERPTS = {
    4: (15, ("linear_prob", "audiovisual_linear_prob")),
    5: (16, ("linear_prob", "audiovisual_linear_prob")),
}
"""Tables that repeat some methods of another table; the file has the numbers of the other table only."""


@cache
def published(table: int) -> dict[tuple[PaperRow, str, int], PrintedNumber]:
    """Return the numbers of a table by row, dataset and shots (0 for zero-shot), in the order of the paper."""
    if table in EXCERPTS:
        whole, methods = EXCERPTS[table]
        return {key: number for key, number in published(whole).items() if key[0].method in methods}
    with PATH.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == str(table)]
    return {(_row(row), row["dataset"], int(row["shots"])): PrintedNumber(row["mean"], row["std"]) for row in rows}


def printed_rows(table: int) -> list[PaperRow]:
    """Return the rows of a table, in the order of the paper."""
    return list(dict.fromkeys(row for row, _, _ in published(table)))


def _row(fields: dict[str, str]) -> PaperRow:
    inputs = (fields[name] for name in ("text_augmentation", "image_augmentation", "image_views", "metric"))
    return PaperRow(fields["backbone"], fields["method"], fields["modality"], fields["classifier_init"], *inputs)
