"""Plots of accuracy against shots."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from engine.datasets.few_shot import ALL, shots_sort_key
from engine.files import write_atomically
from engine.results.tables import zeroshot_lines

STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P")]
"""Okabe and Ito's colours, distinct for colour-blind readers, each with a marker for print without colour."""


def accuracy_against_shots(summaries: dict[str, pd.DataFrame], title: str, path: Path) -> None:
    """Plot the mean accuracy (percent) of methods by shots, with bands of one standard deviation, into a PNG file."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    shots = sorted({s for summary in summaries.values() for s in summary["shots"]}, key=shots_sort_key)
    position = {s: s for s in shots} | {ALL: 2 * max((s for s in shots if s != ALL), default=1)}
    for (name, line), dashes in zip(zeroshot_lines(summaries).items(), cycle(["--", ":", "-."]), strict=False):
        axes.plot(line.index.map(position), line, dashes, color="0.35", label=name)
    for (name, summary), (colour, marker) in zip(summaries.items(), cycle(STYLES), strict=False):
        x, mean, std = summary["shots"].map(position), summary["mean"], summary["std"]
        axes.plot(x, mean, color=colour, marker=marker, label=name)
        axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks([position[s] for s in shots], [str(s) for s in shots])
    axes.set(xlabel="training images per class", ylabel="test accuracy (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))
