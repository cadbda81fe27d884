"""The files of a report: report.html, and its data as JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.files import write_json, write_text
from engine.report.page import render
from engine.report.sections import Section
from engine.results.predictions import csv_row, guard

PROBABILITIES = "probability probability_of_class uncalibrated_probability"
"""Columns of images.csv: the probability of the prediction, of the label, and of the prediction before calibration."""
Row = Iterable[str | int | float | None]


def write(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write report.html, report.json, classes.csv, confusions.csv and images.csv; return the path of the page.

    Classifiers have their number on the page in the column `run`. Names are exact in JSON; in CSV a name that a
    spreadsheet would run follows an apostrophe.
    """
    write_json(folder / "report.json", {"title": title, "runs": [section.content() for section in sections]})
    tables = {
        "classes": ("run label class train val test right accuracy taken_for times", _classes),
        "confusions": ("run label class predicted_label predicted images", _confusions),
        "images": (f"run image label class predicted_label predicted {PROBABILITIES}", _images),
    }
    for name, (columns, rows_of) in tables.items():
        rows = [columns.split(), *((section.number, *row) for section in sections for row in rows_of(section))]
        write_text(folder / f"{name}.csv", "".join(f"{csv_row(*map(_cell, row))}\n" for row in rows))
    path = folder / "report.html"
    write_text(path, render(title, sections))
    return path


def _cell(value: str | int | float | None) -> str | int:
    if isinstance(value, float):
        return f"{value:.6f}"
    return guard(value) if isinstance(value, str) else "" if value is None else value


def _classes(section: Section) -> Iterator[Row]:
    names = section.classnames
    for row in section.rows:
        confused = None if row.confused is None else names[row.confused]
        yield row.label, names[row.label], *row[1:6], confused, row.times


def _confusions(section: Section) -> Iterator[Row]:
    for label, predicted, count in section.pairs:
        yield label, section.classnames[label], predicted, section.classnames[predicted], count


def _images(section: Section) -> Iterator[Row]:
    test, names = section.test, section.classnames
    arrays = (test.labels, test.predicted, test.confidence[1], test.of_label[1], test.confidence[0])
    for image, label, predicted, *probabilities in zip(section.images, *(one.tolist() for one in arrays), strict=True):
        yield image, label, names[label], predicted, names[predicted], *probabilities
