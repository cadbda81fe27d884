"""Predictions as text: CSV, or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line imports this module, and torch takes seconds
    from torch import Tensor

Predictions = list[tuple[str, float]]
"""The most probable classes of an image and their probabilities, in descending order."""

OUTPUT_FORMATS = ("csv", "jsonl")
CSV_HEADER, REJECTED = "image,class,probability", "rejected"
"""The columns, and the name of the one more, or of the field of JSON, that a threshold adds."""


def most_probable(logits: Tensor, probabilities: Tensor, top_k: int, classnames: Sequence[str]) -> list[Predictions]:
    """Return the `top_k` classes of each image with the highest logits [n, C]; ties go to the first class.

    Calibration may give logits that differ the same probability [n, C].
    """
    best = logits.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    pairs = zip(probabilities.gather(1, best).tolist(), best.tolist(), strict=True)
    return [[(classnames[k], p) for p, k in zip(*pair, strict=True)] for pair in pairs]


def csv_header(threshold: float | None = None) -> str:
    """Return the first row of a CSV."""
    return CSV_HEADER if threshold is None else f"{CSV_HEADER},{REJECTED}"


def format_predictions(image: str, predictions: Predictions, output_format: str, threshold: float | None = None) -> str:
    """Return the predictions for an image as text: one row per class for `csv`, one line for `jsonl`.

    With a `threshold` the text states whether the image is rejected: its top probability is below. Probabilities have
    6 decimals. Python reads bytes of a file name that are not UTF-8 as lone surrogates. `jsonl` escapes these
    (`\\udcff`), which is valid UTF-8; Python's `os.fsencode` turns them back into bytes.
    """
    rounded = [(name, round(probability, 6)) for name, probability in predictions]
    rejected = {} if threshold is None else {REJECTED: predictions[0][1] < threshold}
    if output_format == "csv":
        words = [json.dumps(one) for one in rejected.values()]
        return "\n".join(csv_row(image, name, f"{probability:.6f}", *words) for name, probability in rounded)
    classes = [{"class": name, "probability": probability} for name, probability in rounded]
    return _json_line({"image": image, **rejected, "predictions": classes})


def tested_header(about: Iterable[str], top_k: int) -> str:
    """Return the header of a CSV of tested images; `about` are the keys in `format_tested`."""
    further = (f"{name}_{k}" for k in range(2, top_k + 1) for name in ("class", "probability"))
    return csv_row(*about, "image", "label", "predicted", "probability", *further)


def format_tested(
    about: Mapping[str, str | int | float], image: str, label: str, predictions: Predictions, output_format: str
) -> str:
    """Return a line on a test image and its `label`, as CSV or JSON; `about` has the classifier of the predictions."""
    rounded = [(name, round(probability, 6)) for name, probability in predictions]
    if output_format == "csv":
        cells = (cell for name, probability in rounded for cell in (guard(name), f"{probability:.6f}"))
        return csv_row(*about.values(), guard(image), guard(label), *cells)
    classes = [{"class": name, "probability": probability} for name, probability in rounded]
    found = {"image": image, "label": label, "predicted": rounded[0][0], "predictions": classes}
    return _json_line({**about, **found})


def _json_line(content: object) -> str:
    line = json.dumps(content, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda lone: f"\\u{ord(lone[0]):04x}", line)


def csv_row(*cells: object) -> str:
    """Return a CSV row without a line end. With `\\r\\n` as line end the writer also quotes a lone carriage return."""
    row = io.StringIO()
    csv.writer(row, lineterminator="\r\n").writerow(cells)
    return row.getvalue().removesuffix("\r\n")


def guard(text: str) -> str:
    """Return text for a CSV cell that no spreadsheet runs as a formula: after an apostrophe, if it would."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
