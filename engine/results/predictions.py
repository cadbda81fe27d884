"""Predictions as lines of text: CSV, or JSON lines."""

from __future__ import annotations

import csv
import io
import json

Predictions = list[tuple[str, float]]
"""The most probable classes of an image with their probabilities, the most probable one first."""

FORMATS = ("csv", "jsonl")
CSV_HEADER = "image,class,probability"


def lines(image: str, found: Predictions, form: str) -> str:
    """What was found on an image, probabilities rounded: as `csv` a line for each class, as `jsonl` one."""
    rounded = [(name, round(probability, 6)) for name, probability in found]
    if form == "csv":
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows((image, name, f"{p:.6f}") for name, p in rounded)
        return written.getvalue().removesuffix("\n")
    classes = [{"class": name, "probability": probability} for name, probability in rounded]
    return json.dumps({"image": image, "predictions": classes}, ensure_ascii=False)
