"""Plots of accuracy against shots, and against the ratio of WiSE-FT."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.datasets.few_shot import ALL, shots_sort_key
from engine.files import write_atomically
from engine.results.tables import summary, zeroshot_lines

STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P")]
"""Okabe and Ito's colours, distinct for colour-blind readers, each with a marker for print without colour."""


def accuracy_against_shots(summaries: dict[str, pd.DataFrame], title: str, path: Path) -> None:
    """Plot the mean accuracy (percent) of methods by shots, with bands of one standard deviation, into a PNG file."""
    figure, axes = _figure()
    shots = sorted({s for of_method in summaries.values() for s in of_method["shots"]}, key=shots_sort_key)
    position = {s: s for s in shots} | {ALL: 2 * max((s for s in shots if s != ALL), default=1)}
    for (name, line), dashes in zip(zeroshot_lines(summaries).items(), cycle(["--", ":", "-."]), strict=False):
        axes.plot(line.index.map(position), line, dashes, color="0.35", label=name)
    for (name, of_method), style in zip(summaries.items(), cycle(STYLES), strict=False):
        _curve(axes, of_method["shots"].map(position), of_method["mean"], of_method["std"], name, style)
    axes.set_xscale("log", base=2)
    axes.set_xticks([position[s] for s in shots], [str(s) for s in shots])
    _save(figure, axes, "training images per class", title, path)


def accuracy_against_ratios(tables: Mapping[float, pd.DataFrame], title: str, path: Path) -> None:
    """Plot the accuracy of a method's `tables` by ratio of WiSE-FT, averaged over datasets, into a PNG file.

    There is a line for each number of shots, with a band of one standard deviation, and one for zero-shot.
    """
    figure, axes = _figure()
    rows = pd.concat([summary(table).assign(ratio=ratio) for ratio, table in tables.items()]).sort_values("ratio")
    for (shots, of_shots), style in zip(rows.groupby("shots", sort=False), cycle(STYLES), strict=False):
        _curve(axes, of_shots["ratio"], of_shots["mean"], of_shots["std"], f"{shots} shot" + "s" * (shots != 1), style)
    for number, zeroshot in enumerate(rows["zeroshot"].dropna().unique()):
        axes.axhline(zeroshot, color="0.35", linestyle="--", label="" if number else "zero-shot")
    _save(figure, axes, "ratio of WiSE-FT (0: trained, 1: zero-shot weights)", title, path)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    return figure, figure.subplots()


def _curve(axes: Axes, x: pd.Series, mean: pd.Series, std: pd.Series, name: str, style: tuple[str, str]) -> None:
    """Draw a line with a band of one standard deviation."""
    colour, marker = style
    axes.plot(x, mean, color=colour, marker=marker, label=name)
    axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)


def _save(figure: Figure, axes: Axes, x: str, title: str, path: Path) -> None:
    axes.set(xlabel=x, ylabel="test accuracy (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))
