"""Predictions as lines of text: CSV, or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re

Predictions = list[tuple[str, float]]
"""The most probable classes of an image with their probabilities, the most probable one first."""

FORMATS = ("csv", "jsonl")
CSV_HEADER = "image,class,probability"


def lines(image: str, found: Predictions, form: str) -> str:
    """Return the predictions for an image, probabilities rounded: as `csv` a row for each class, as `jsonl` one line.

    Bytes of a file's name that are not UTF-8 are lone surrogates in Python: `jsonl` has them as escapes (`\\udcff`),
    which are valid UTF-8 and which Python's `os.fsencode` turns back into bytes.
    """
    rounded = [(name, round(probability, 6)) for name, probability in found]
    if form == "csv":
        return "\n".join(_row(image, name, f"{probability:.6f}") for name, probability in rounded)
    classes = [{"class": name, "probability": probability} for name, probability in rounded]
    line = json.dumps({"image": image, "predictions": classes}, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", line)


def _row(*cells: str) -> str:
    """A row of a CSV file. The writer quotes the characters of its line ends, and a bare return ends lines too."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerow(cells)
    return written.getvalue().removesuffix("\r\n")
