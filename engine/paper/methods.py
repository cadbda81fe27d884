"""Published averages of few-shot methods over the eleven datasets, from `methods.csv`, and how their authors chose.

Averages that could not be verified at their source (TaskRes, LP++, ZS-LP) are left out.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from engine.results.methods_table import Published

PATH = Path(__file__).with_name("methods.csv")


@cache
def published_methods() -> tuple[Published, ...]:
    """Return the published averages, in the order of the file."""
    with PATH.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        Published(
            method=row["method"],
            title=row["title"],
            encoder=row["encoder"],
            modality=row["modality"],
            means={int(shots): mean for shots, mean in row.items() if shots.isdigit()},
            note=row["note"],
        )
        for row in rows
    )
