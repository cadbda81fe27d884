"""Plots of the paper's tables against shots."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from engine.errors import UserError
from engine.files import write_atomically
from engine.paper.compare import ComparedValue, Comparison
from engine.paper.layout import METHODS, is_zeroshot
from engine.paper.printed import AVERAGE, PaperRow
from engine.results.plots import STYLES
from engine.results.runs import spell_modality

DASHES = ["-", (0, (5, 1.5)), "-.", (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]
"""One for each of STYLES, so that crossing lines differ in print too."""


def table_against_shots(made: Comparison, title: str, path: Path) -> None:
    """Plot a table into a PNG file: a panel per dataset, the average first (Figure 6 of the paper).

    Lines, with bands of one standard deviation, are our numbers; hollow markers are the paper's. Raises UserError if
    there are no numbers, or too many methods.
    """
    curves = _curves(made)
    if not curves:
        raise UserError(
            f"Table {made.number} has nothing to plot: no complete runs and no printed numbers; train the runs first"
        )
    datasets = sorted(dict.fromkeys(dataset for dataset, _ in curves), key=lambda dataset: dataset != AVERAGE)
    if len(made.scope.datasets) == 1 and len(datasets) > 1:
        datasets.remove(AVERAGE)  # equals the dataset
    rows = list(dict.fromkeys(row for _, row in curves))
    trained = [row for row in rows if not is_zeroshot(row)]
    if len(trained) > len(STYLES):
        raise UserError(f"a plot can show {len(STYLES)} methods, not {len(trained)}; choose one --clip-encoder")
    styles = {row: (*style, dashes) for row, style, dashes in zip(trained, STYLES, DASHES, strict=False)}
    across = min(4, len(datasets))
    down = -(-len(datasets) // across)
    size = (2.9 * across, 2.5 * down + 0.8) if len(datasets) > 1 else (5.6, 4.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for number, (axes, dataset) in enumerate(zip(panels, datasets, strict=False)):
        for row in rows:
            _draw(axes, curves.get((dataset, row), {}), styles.get(row))
        name = f"average of {len(made.scope.datasets)}" if dataset == AVERAGE else dataset
        axes.set_title(name, fontsize=10, fontweight="bold" if dataset == AVERAGE else "normal")
        _shots_axis(axes, list(made.scope.shots), is_last=number + across >= len(datasets))
    for axes in panels[len(datasets) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    figure.supylabel("test accuracy (%)", fontsize=10)
    handles = _legend(styles, curves)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, across + 1), fontsize=9, handlelength=3.2)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))


def _curves(made: Comparison) -> dict[tuple[str, PaperRow], dict[int, ComparedValue]]:
    """Return the values with a number by (dataset, row), then shots; only methods of this project, no differences."""
    curves: dict[tuple[str, PaperRow], dict[int, ComparedValue]] = {}
    for row in made.rows:
        if METHODS[row.paper.method].mode is None or row.paper.metric != "accuracy":
            continue
        for column, value in zip(made.columns, row.values, strict=True):
            shots = column.shots if row.coordinates.shots is None else row.coordinates.shots
            if value.ours is not None or value.paper.mean:
                curves.setdefault((column.dataset, row.paper), {})[shots] = value
    return curves


def _draw(axes: Axes, values: dict[int, ComparedValue], style: tuple | None) -> None:
    """Draw one method: our numbers and the paper's. No style means zero-shot, a horizontal line."""
    ours = {shots: value for shots, value in values.items() if value.ours is not None}
    printed = {shots: float(value.paper.mean) for shots, value in values.items() if value.paper.mean}
    if style is None:
        for value in ours.values():
            axes.axhline(value.ours, color="0.35", linestyle="--", linewidth=1)
        for number in printed.values():
            axes.plot([0.02], [number], **_hollow("0.35", "*"), transform=axes.get_yaxis_transform())
        return
    colour, marker, dashes = style
    if ours:
        mean, std = [value.ours for value in ours.values()], [value.std or 0 for value in ours.values()]
        axes.plot(list(ours), mean, color=colour, linestyle=dashes, marker=marker, markersize=2.5, linewidth=1.3)
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between(list(ours), low, high, color=colour, alpha=0.15, linewidth=0)
    if printed:  # an empty artist without clipping breaks the layout
        axes.plot(list(printed), list(printed.values()), **_hollow(colour, marker))


def _hollow(colour: str, marker: str) -> dict:
    return {
        "color": colour,
        "marker": marker,
        "markerfacecolor": "none",
        "markersize": 6,
        "linestyle": "none",
        "clip_on": False,
    }


def _shots_axis(axes: Axes, shots: list[int], is_last: bool) -> None:
    """Set up the axis of shots; only the last panel of each column has its label."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(s) for s in shots])
    axes.set_xlim(min(shots) / 1.25, max(shots) * 1.25)
    axes.set_xlabel("training images per class" if is_last else "", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _legend(
    styles: dict[PaperRow, tuple], curves: dict[tuple[str, PaperRow], dict[int, ComparedValue]]
) -> list[Line2D]:
    """Return a handle for each method, then one for lines and one for hollow markers."""
    values = [(row, value) for (_, row), by_shots in curves.items() for value in by_shots.values()]
    several = len({row.backbone for row in styles}) > 1
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, marker=marker, markerfacecolor="none", label=_name(row, several))
        for row, (colour, marker, dashes) in styles.items()
    ]
    if any(is_zeroshot(row) for row, _ in values):
        handles.append(
            Line2D([], [], color="0.35", linestyle="--", marker="*", markerfacecolor="none", label="zero-shot")
        )
    if any(value.ours is not None for _, value in values):
        handles.append(Line2D([], [], color="none", label="lines, bands: ours ± 1 std"))
    if any(value.paper.mean for _, value in values):
        handles.append(Line2D([], [], color="none", label="hollow markers: the paper's"))
    return handles


def _name(row: PaperRow, with_backbone: bool) -> str:
    init = f", {row.init} init" if (row.modality, row.init) == ("cross_modal", "random") else ""
    name = f"{spell_modality(row.modality)} {METHODS[row.method].title}{init}"
    return f"{name}, {row.backbone}" if with_backbone else name
