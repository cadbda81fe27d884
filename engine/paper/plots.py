"""Tables of the paper against shots, as pictures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from engine.errors import UserError
from engine.files import write_atomically
from engine.paper.compare import Comparison, Entry
from engine.paper.layout import METHODS, is_zeroshot
from engine.paper.printed import AVERAGE, Line
from engine.results.plots import STYLES

DASHES = ["-", (0, (5, 1.5)), "-.", (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]
"""One for each of STYLES: lines that cross must be told apart in print, too."""


def table_against_shots(made: Comparison, title: str, path: Path) -> None:
    """Plot a table of the paper: a panel per dataset, the average first (its Figure 6); a PNG.

    Lines and bands of one standard deviation are ours; hollow markers the paper's numbers. Raises UserError where there
    is neither.
    """
    curves = _curves(made)
    if not curves:
        raise UserError("there is nothing to plot yet: neither runs of ours nor numbers of the paper's")
    datasets = sorted(dict.fromkeys(dataset for dataset, _ in curves), key=lambda dataset: dataset != AVERAGE)
    if len(made.scope.datasets) == 1 and len(datasets) > 1:
        datasets.remove(AVERAGE)  # which is the dataset itself
    lines = [line for line in dict.fromkeys(line for _, line in curves) if not is_zeroshot(line)]
    if len(lines) > len(STYLES):
        raise UserError(f"{len(lines)} lines are more than a plot can tell apart; choose one --clip-encoder")
    styles = {line: (*style, dashes) for line, style, dashes in zip(lines, STYLES, DASHES, strict=False)}
    across = min(4, len(datasets))
    down = -(-len(datasets) // across)
    size = (2.9 * across, 2.5 * down + 0.8) if len(datasets) > 1 else (5.6, 4.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for number, (axes, dataset) in enumerate(zip(panels, datasets, strict=False)):
        for line in dict.fromkeys(line for _, line in curves):
            _draw(axes, curves.get((dataset, line), {}), styles.get(line))
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


def _curves(made: Comparison) -> dict[tuple[str, Line], dict[int, Entry]]:
    """Entries with a number, by dataset and line, then shots; of methods of ours alone, without differences."""
    curves: dict[tuple[str, Line], dict[int, Entry]] = {}
    for row in made.rows:
        if METHODS[row.line.method].source is None or row.line.metric != "accuracy":
            continue
        for column, entry in zip(made.columns, row.entries, strict=True):
            shots = column.shots if row.place.shots is None else row.place.shots
            if entry.ours is not None or entry.paper.mean:
                curves.setdefault((column.dataset, row.line), {})[shots] = entry
    return curves


def _draw(axes: Axes, entries: dict[int, Entry], style: tuple | None) -> None:
    """One method: ours where there is some, and the paper's. Without a style it is zero-shot, which has no shots."""
    ours = {shots: entry for shots, entry in entries.items() if entry.ours is not None}
    printed = {shots: float(entry.paper.mean) for shots, entry in entries.items() if entry.paper.mean}
    if style is None:
        for value in (entry.ours for entry in ours.values()):
            axes.axhline(value, color="0.35", linestyle="--", linewidth=1)
        for value in printed.values():
            axes.plot([0.02], [value], **_hollow("0.35", "*"), transform=axes.get_yaxis_transform())
        return
    colour, marker, dashes = style
    if ours:
        mean, std = [entry.ours for entry in ours.values()], [entry.std or 0 for entry in ours.values()]
        axes.plot(list(ours), mean, color=colour, linestyle=dashes, marker=marker, markersize=2.5, linewidth=1.3)
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between(list(ours), low, high, color=colour, alpha=0.15, linewidth=0)
    if printed:  # an empty artist that is not clipped would upset the layout
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
    """Shots from left to right; what they are is said below the last panel of each column."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(s) for s in shots])
    axes.set_xlim(min(shots) / 1.25, max(shots) * 1.25)
    axes.set_xlabel("training images per class" if is_last else "", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _legend(styles: dict[Line, tuple], curves: dict[tuple[str, Line], dict[int, Entry]]) -> list[Line2D]:
    """A handle for each method, then what lines and hollow markers are."""
    entries = [(line, entry) for (_, line), own in curves.items() for entry in own.values()]
    several = len({line.backbone for line in styles}) > 1
    handles = [
        Line2D(
            [], [], color=colour, linestyle=dashes, marker=marker, markerfacecolor="none", label=_name(line, several)
        )
        for line, (colour, marker, dashes) in styles.items()
    ]
    if any(is_zeroshot(line) for line, _ in entries):
        handles.append(
            Line2D([], [], color="0.35", linestyle="--", marker="*", markerfacecolor="none", label="zero-shot")
        )
    if any(entry.ours is not None for _, entry in entries):
        handles.append(Line2D([], [], color="none", label="lines, bands: ours ± 1 std"))
    if any(entry.paper.mean for _, entry in entries):
        handles.append(Line2D([], [], color="none", label="hollow markers: the paper's"))
    return handles


def _name(line: Line, with_backbone: bool) -> str:
    init = f", {line.init} init" if (line.modality, line.init) == ("cross_modal", "random") else ""
    name = f"{line.modality.replace('_', '-')} {METHODS[line.method].title}{init}"
    return f"{name}, {line.backbone}" if with_backbone else name
