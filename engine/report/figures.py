"""Figures of a report as inline SVG. Colours are the page's: the figures follow it into dark mode and onto paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from engine.calibration import Coverage, Reliability

WIDTH, HEIGHT = 320, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 42
"""Margins, for ticks and the names of the axes."""
POINTS = 200
"""The maximum number of points of a curve."""


def reliability(found: Reliability) -> Markup:
    """Return a reliability diagram: the accuracy of each bin of confidence, as bars, and the diagonal.

    The opacity of a bar shows its share of the images, as a square root.
    """
    bins, bars = len(found.count), []
    for number in np.flatnonzero(found.count):
        left, right = _x(number / bins), _x((number + 1) / bins)
        top = _y(found.accuracy[number])
        opacity = 0.25 + 0.75 * np.sqrt(found.count[number] / found.count.sum())
        tip = (
            f"confidence {found.confidence[number]:.1%}, accuracy {found.accuracy[number]:.1%},"
            f" {found.count[number]} images"
        )
        bars.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}"'
            f' height="{_y(0) - top:.1f}" opacity="{opacity:.2f}"><title>{tip}</title></rect>'
        )
    diagonal = f'<path class="guide" d="M{_x(0):.1f} {_y(0):.1f}L{_x(1):.1f} {_y(1):.1f}"/>'
    return _figure("".join(bars) + diagonal, "confidence", "accuracy", [0, 0.25, 0.5, 0.75, 1], 0.0)


def coverage(found: Coverage, thresholds: Sequence[tuple[float, float]]) -> Markup:
    """Return the curve of accuracy against coverage, with points at (coverage, accuracy) of some thresholds."""
    places = np.unique(np.linspace(0, len(found.coverage) - 1, POINTS).round().astype(int))
    # an image or two alone say nothing about accuracy: begin at one per cent
    places = places[found.coverage[places] >= min(0.01, found.coverage[-1])]
    lowest = min([*found.accuracy[places], *(accuracy for _, accuracy in thresholds)])
    low = max(0.0, np.floor(10 * lowest - 0.01) / 10)
    line = "L".join(f"{_x(found.coverage[k]):.1f} {_y(found.accuracy[k], low):.1f}" for k in places)
    points = "".join(f'<circle cx="{_x(x):.1f}" cy="{_y(y, low):.1f}" r="3.5"/>' for x, y in thresholds)
    ticks = np.linspace(low, 1, 5 if low < 0.6 else 3)
    return _figure(f'<path class="curve" d="M{line}"/>{points}', "share of images kept", "their accuracy", ticks, low)


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float, low: float = 0.0) -> float:
    return TOP + (1 - share) / (1 - low) * (HEIGHT - TOP - BOTTOM)


def _figure(content: str, x_name: str, y_name: str, y_ticks: Sequence[float], low: float) -> Markup:
    """Return an SVG of `content`, which is numbers alone, with axes in per cent."""
    axes = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        axes.append(f'<text x="{_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{100 * tick:.0f}</text>')
    for tick in y_ticks:
        y = _y(tick, low)
        axes.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        axes.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * tick:.0f}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{y_name} against {x_name}">{"".join(axes)}'
        f'{content}<text x="{_x(0.5):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{x_name} (%)</text>'
        f'<text transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">{y_name} (%)</text></svg>'
    )
