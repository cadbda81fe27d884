"""The page of a report: one HTML file without references, from a template, a style sheet and a script beside this file.

Names of classes and files are text that anybody may have written. The template escapes all text, the page's security
policy refuses every request and every script but its own, and control characters are shown as escapes.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from engine import calibration
from engine.report import figures, pictures
from engine.report.measure import confident_mistakes, doubtful_successes
from engine.report.sections import Section

HERE = Path(__file__).parent
PAIRS = 20
"""The number of confusions that the page lists."""
CELLS = 30
"""The largest number of classes whose confusion matrix is a table of numbers; of more it is a picture."""
PHOTOGRAPHS = 24
"""The number of mistakes, and of doubtful right answers, that the page shows; several classifiers share it."""
HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories that are shown as escapes: control characters, undecodable bytes, line separators."""
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that change the direction of the text after them."""


def visible(text: str) -> str:
    """Return text with control characters, marks of direction and undecodable bytes as Python's escapes."""
    return "".join(
        letter.encode("unicode_escape").decode()
        if letter in DIRECTIONS or unicodedata.category(letter) in HIDDEN
        else letter
        for letter in text
    )


def name(text: str) -> Markup:
    """Return a name for HTML, whose direction does not spread to the text around it."""
    return Markup("<bdi>{}</bdi>").format(escape(visible(str(text))))


def percent(share: float | None) -> str:
    """Return a share, 0 to 1, as per cent; empty for None."""
    return "" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


@cache
def _environment() -> Environment:
    made = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    made.filters.update(visible=visible, name=name, percent=percent)
    return made


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the page on these classifiers."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    photographs = max(4, PHOTOGRAPHS // len(sections))
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            runs=[_content(section, sections[0], photographs) for section in sections],
            style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            shown_pairs=PAIRS,
        )
    )


def _content(section: Section, first: Section, photographs: int) -> dict[str, Any]:
    """Return the values that the template shows of a classifier."""
    test, confusion = section.test, section.test.confusion()
    large = test.classes > CELLS
    order = pictures.by_similarity(confusion) if large else []
    mistakes, doubtful = (
        [_photograph(section, position) for position in choose(test, photographs)]
        for choose in (confident_mistakes, doubtful_successes)
    )
    without = not any(image["picture"] for image in (*mistakes, *doubtful))
    calibrated = section.calibrated.temperature != 1
    confidences = test.confidence if calibrated else test.confidence[:1]
    curve = calibration.accuracy_by_coverage(test.confidence[1], test.correct)
    points = [(1 - row.rejected, row.accuracy) for row in section.thresholds if row.accuracy is not None]
    return {
        "number": section.number,
        "title": section.title,
        "names": section.classnames,
        "summary": section.summary,
        "zeroshot": section.zeroshot,
        "against_first": section.against(first),
        "pairs": section.pairs,
        "rows": section.rows,
        "worst_first": sorted(section.rows, key=lambda row: (row.accuracy is None, row.accuracy)),
        "confusion": confusion.tolist(),
        "picture": pictures.matrix(confusion[order][:, order]) if large else None,
        "order": order,
        "together": pictures.together(test.classes),
        "mistakes": mistakes,
        "doubtful": doubtful,
        "without_pictures": section.without_pictures if without else "",
        "calibrated": calibrated,
        "calibration": section.calibration,
        "reliability": [figures.reliability(calibration.reliability(of, test.correct)) for of in confidences],
        "coverage": figures.coverage(curve, points),
        "thresholds": section.thresholds,
        "made": section.made,
    }


def _photograph(section: Section, position: int) -> dict[str, Any]:
    """Return a test image with its prediction and a thumbnail, if it can be read."""
    test, picture = section.test, None
    if (dataset := section.run.dataset) is not None:
        file = dataset.path(dataset.test[section.positions[position]])
        picture = pictures.thumbnail(file, dataset.upright, dataset.depth)
    return {
        "picture": picture,
        "path": section.images[position],
        "label": int(test.labels[position]),
        "predicted": int(test.predicted[position]),
        "confidence": test.confidence[1, position],
        "of_label": test.of_label[1, position],
    }
