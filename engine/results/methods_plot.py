"""All methods against shots, as a picture: a panel for each dataset and for their average."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from engine.errors import UserError
from engine.files import write_atomically
from engine.methods import METHODS, REGISTRY
from engine.results.methods_scope import CROSS, MODALITIES, MethodRow
from engine.results.methods_table import AVERAGE, MethodsTable
from engine.results.plots import STYLES
from engine.results.runs import spell_modality

MARKERS = "osD^vP<>X*phd8"
"""A marker for each method: colours repeat after six, and a pair of both does not repeat."""
DASHES = {CROSS: "-"}
"""Cross-modal lines are solid; the others are dashed."""
ACROSS = 3
"""The maximum number of panels side by side."""


def methods_against_shots(table: MethodsTable, title: str, path: Path) -> None:
    """Plot mean accuracy (percent) by shots of every method and modality; a PNG. Raises UserError without runs."""
    curves = _curves(table)
    if not curves:
        raise UserError("there is nothing to plot yet: no cell of the table has a complete, tested grid")
    names = [AVERAGE, *table.scope.datasets] if len(table.scope.datasets) > 1 else list(table.scope.datasets)
    names = [name for name in names if any(name == dataset for dataset, _ in curves)]
    across = min(ACROSS, len(names))
    down = -(-len(names) // across)
    size = (4.2 * across, 3.4 * down + 1.2) if len(names) > 1 else (7.5, 6.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel().tolist()
    styles = {name: _style(k) for k, name in enumerate(REGISTRY)}
    for number, (axes, name) in enumerate(zip(panels, names, strict=False)):
        _panel(axes, table, name, {row: curve for (dataset, row), curve in curves.items() if dataset == name}, styles)
        axes.set_xlabel("training images per class" if number + across >= len(names) else "", fontsize=9)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    figure.supylabel("test accuracy (%)", fontsize=10)
    handles = _legend({row.method for _, row in curves}, styles)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4 if across == 1 else 6, fontsize=8, handlelength=3
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _curves(table: MethodsTable) -> dict[tuple[str, MethodRow], dict[int, float]]:
    """Return mean accuracies by dataset (or average) and row, then shots; incomplete ones are left out."""
    curves: dict[tuple[str, MethodRow], dict[int, float]] = {}
    for dataset in (AVERAGE, *table.scope.datasets):
        for row in table.rows:
            found = {shots: table.accuracy(row, dataset, shots).mean for shots in table.scope.shots}
            if complete := {shots: mean for shots, mean in found.items() if mean is not None}:
                curves[dataset, row] = complete
    return curves


def _style(number: int) -> dict:
    """Return the colour and marker of a method; every second six methods have filled markers."""
    colour, marker = STYLES[number % len(STYLES)][0], MARKERS[number % len(MARKERS)]
    fill = "none" if number // len(STYLES) % 2 == 0 else colour
    return {"color": colour, "marker": marker, "markerfacecolor": fill, "markersize": 4.5, "linewidth": 1.1}


def _panel(
    axes: Axes, table: MethodsTable, name: str, curves: dict[MethodRow, dict[int, float]], styles: dict[str, dict]
) -> None:
    """Draw the lines of one dataset, and its zero-shot accuracy."""
    for row, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), linestyle=DASHES.get(row.modality, "--"), **styles[row.method])
    zeroshot = table.zeroshot(next(iter(curves)).encoder, name).mean
    if zeroshot is not None:
        axes.axhline(zeroshot, color="0.35", linestyle=":", linewidth=1.2)
    is_average = name == AVERAGE
    axes.set_title(f"average of {len(table.scope.datasets)}" if is_average else name, fontsize=10)
    axes.title.set_fontweight("bold" if is_average else "normal")
    shots = table.scope.shots
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(s) for s in shots])
    axes.set_xlim(min(shots) / 1.25, max(shots) * 1.25)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _legend(drawn: set[str], styles: dict[str, dict]) -> list[Line2D]:
    """Return a handle for each drawn method, then for the modalities and for zero-shot."""
    handles = [Line2D([], [], label=METHODS[name].title, **styles[name]) for name in REGISTRY if name in drawn]
    for modality in MODALITIES:
        look = {"color": "0.2", "linestyle": DASHES.get(modality, "--")}
        handles.append(Line2D([], [], label=spell_modality(modality), **look))
    return [*handles, Line2D([], [], color="0.35", linestyle=":", label="zero-shot")]
