"""The table of all methods and the table of their ranks and differences, as frames, CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine import datasets
from engine.files import write_text
from engine.methods import METHODS, REGISTRY
from engine.results.markup import escape_tex, page, pipe_table, rounded, tex_row
from engine.results.methods_scope import MODALITIES, MethodRow
from engine.results.methods_table import AVERAGE, MethodsTable, Number, Published
from engine.results.runs import runs_digest, spell_modality

GAP = "-"
"""The text for a number without any complete run."""
DIFFERENCE = "cross-modal minus uni-modal"


class Line(NamedTuple):
    """A line of a table: words for its first columns, and a number for each dataset and shots.

    `number` is of ours; `printed` are published averages by shots. `row` has the runs behind the numbers.
    """

    encoder: str
    method: str
    label: str
    number: Callable[[str, int], Number] | None = None
    printed: dict[int, str] | None = None
    row: MethodRow | None = None


class MethodsText(NamedTuple):
    """A table in words: rows of `body` have as many cells as `heads`, of which `words` are left-aligned text."""

    title: str
    caption: list[str]
    heads: list[str]
    words: int
    body: list[list[str]]


def accuracy_lines(table: MethodsTable, published: Sequence[Published]) -> list[Line]:
    """Return the lines of the first table: zero-shot, then each method with the published averages of it."""
    lines: list[Line] = []
    marks = footnotes(table, published)
    for encoder in table.scope.encoders:
        lines.append(Line(encoder, "zero-shot", "", lambda dataset, _, e=encoder: table.zeroshot(e, dataset)))
        of_encoder = [one for one in marks if one.encoder == encoder]
        for name in REGISTRY:
            for modality in MODALITIES:
                row, label = MethodRow(encoder, name, modality), spell_modality(modality)
                lines.append(Line(encoder, METHODS[name].title, label, accuracy_of(table, row), row=row))
                own = [one for one in of_encoder if (one.method, one.modality) == (name, modality)]
                lines += [published_line(one, marks[one]) for one in own]
        lines += [published_line(one, marks[one]) for one in of_encoder if one.method not in REGISTRY]
    return lines


def comparison_lines(table: MethodsTable) -> list[Line]:
    """Return the lines of the second table: the ranks of each method's two rows, and their difference."""
    lines: list[Line] = []
    for encoder in table.scope.encoders:
        for name in REGISTRY:
            title, uni, cross = METHODS[name].title, *(MethodRow(encoder, name, m) for m in MODALITIES)
            for row in (uni, cross):
                label = f"rank, {spell_modality(row.modality)}"
                lines.append(Line(encoder, title, label, rank_of(table, row), row=row))
            lines.append(Line(encoder, title, DIFFERENCE, difference_of(table, cross), row=cross))
    return lines


def accuracy_of(table: MethodsTable, row: MethodRow) -> Callable[[str, int], Number]:
    """Return the function from dataset and shots to a row's accuracy."""
    return lambda dataset, shots: table.accuracy(row, dataset, shots)


def rank_of(table: MethodsTable, row: MethodRow) -> Callable[[str, int], Number]:
    """Return the function from dataset and shots to a row's rank."""
    return lambda dataset, shots: table.rank(row, dataset, shots)


def difference_of(table: MethodsTable, row: MethodRow) -> Callable[[str, int], Number]:
    """Return the function from dataset and shots to the difference between a method's modalities."""
    return lambda dataset, shots: table.difference(row, dataset, shots)


def published_line(one: Published, mark: int) -> Line:
    """Return the line of published averages; `mark` is the number of its footnote."""
    return Line(one.encoder, f"{one.title}, published [{mark}]", spell_modality(one.modality), printed=one.means)


def footnotes(table: MethodsTable, published: Sequence[Published]) -> dict[Published, int]:
    """Return the published averages that can stand beside ours, with the numbers of their footnotes.

    They are averages over the eleven datasets: beside ours of other datasets there are none.
    """
    if set(table.scope.datasets) != set(datasets.TARGETS):
        return {}
    order = [*REGISTRY, *(one.method for one in published if one.method not in REGISTRY)]
    shown = [one for one in published if one.encoder in table.scope.encoders]
    return {one: k for k, one in enumerate(sorted(shown, key=lambda one: order.index(one.method)), start=1)}


# --- tables in words -------------------------------------------------------------------------------------------------


def accuracy_text(table: MethodsTable, published: Sequence[Published], deviations: bool = True) -> MethodsText:
    """Return the table of accuracies, averaged over datasets."""
    lines = accuracy_lines(table, published)
    caption = [f"Test accuracy (%), {_mean(deviations)} over {_seeds(table)}, averaged over {_datasets(table)}."]
    caption.append("Every method chooses on the few-shot validation set alone; the inputs are hand_crafted and flip 1.")
    if marks := footnotes(table, published):
        caption += [f"[{k}] {one.title}: {one.note}." for one, k in marks.items()]
    elif published and table.scope.encoders:
        caption.append("Published averages, of the eleven datasets, are left out.")
    return _text(table, "methods: test accuracy", caption + _gaps(table), lines, deviations)


def comparison_text(table: MethodsTable, deviations: bool = True) -> MethodsText:
    """Return the table of ranks and differences, averaged over datasets."""
    caption = [
        f"Ranks among the rows of one encoder that are complete, 1 for the best, averaged over {_datasets(table)}.",
        f"Differences are in points of test accuracy, paired by seed: {_mean(deviations)} over {_seeds(table)}.",
    ]
    lines = comparison_lines(table)
    return _text(table, "methods: ranks and cross-modal gain", caption + _gaps(table), lines, deviations)


def _text(table: MethodsTable, title: str, caption: list[str], lines: list[Line], deviations: bool) -> MethodsText:
    words = (["encoder"] if len(table.scope.encoders) > 1 else []) + ["method", ""]
    shots = table.scope.shots
    body = [
        [line.encoder, line.method, line.label][-len(words) :] + [_cell(line, s, deviations) for s in shots]
        for line in lines
    ]
    return MethodsText(title, caption, words + [f"{s}-shot" for s in shots], len(words), body)


def _cell(line: Line, shots: int, deviations: bool) -> str:
    """Return a number as text: how much of an incomplete one is there, or a gap."""
    if line.number is None:
        return line.printed.get(shots, "")
    mean, std, there, asked = line.number(AVERAGE, shots)
    if mean is None:
        return f"{there} of {asked}" if there else GAP
    text = f"{mean + 0.0:+.2f}" if line.label == DIFFERENCE else f"{mean:.2f}"
    return f"{text} ± {std:.2f}" if deviations and std is not None else text


def _mean(deviations: bool) -> str:
    return "mean ± standard deviation" if deviations else "mean"


def _seeds(table: MethodsTable) -> str:
    seeds = table.scope.seeds
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {' '.join(map(str, seeds))}"


def _datasets(table: MethodsTable) -> str:
    own = table.scope.datasets
    return "the eleven datasets" if set(own) == set(datasets.TARGETS) else ", ".join(own)


def _gaps(table: MethodsTable) -> list[str]:
    if not table.missing:
        return []
    return [
        f"{GAP}: no runs, as they are not trained or the method cannot be fitted to the task, which train.py explains;"
        " n of m: runs of so many datasets or seeds are complete."
    ]


# --- files -----------------------------------------------------------------------------------------------------------


def frame(table: MethodsTable, lines: list[Line]) -> pd.DataFrame:
    """Return all numbers of a table: a row for each line and dataset, and for the average; percentages.

    `complete` is how many of the parts behind a number are there. The last column is the digest of the runs behind it.
    """
    return pd.DataFrame(
        _fields(table, line, dataset)
        for line in lines
        for dataset in (*table.scope.datasets, AVERAGE)
        if line.number is not None or dataset == AVERAGE
    )


def _fields(table: MethodsTable, line: Line, dataset: str) -> dict[str, object]:
    fields: dict[str, object] = {"encoder": line.encoder, "method": line.method, "row": line.label, "dataset": dataset}
    for shots in table.scope.shots:
        if line.number is None:
            fields |= {
                f"{shots}-shot": line.printed.get(shots, ""),
                f"{shots}-shot std": None,
                f"{shots}-shot complete": "",
            }
            continue
        mean, std, there, asked = line.number(dataset, shots)
        found = {"": rounded(mean), " std": rounded(std), " complete": f"{there}/{asked}"}
        fields |= {f"{shots}-shot{name}": value for name, value in found.items()}
    return fields | {"runs": runs_digest(table.behind(line.row, dataset)) if line.row else ""}


def markdown(text: MethodsText, below: list[str]) -> str:
    """Return a table in Markdown, padded to read well as plain text; `below` are a line and commands under it."""
    table = pipe_table(text.heads, text.body, text.words)
    return page(text.title.capitalize(), "  \n".join(text.caption), [table], below)


def on_screen(table: MethodsTable, published: Sequence[Published], below: list[str]) -> str:
    """Return both tables in Markdown without deviations; `below` are a line and commands under them."""
    accuracies, comparison = accuracy_text(table, published, deviations=False), comparison_text(table, deviations=False)
    return f"{markdown(accuracies, [])}\n{markdown(comparison, below)}"


def latex(text: MethodsText, below: list[str]) -> str:
    """Return a table in LaTeX (package booktabs); `below` goes into comments."""
    columns = "l" * text.words + "r" * (len(text.heads) - text.words)
    rows = [tex_row(list(map(_escape, row))) for row in [text.heads, *text.body]]
    caption = _escape(" ".join([f"{text.title.capitalize()}.", *text.caption]))
    lines = ["\\begin{table*}", "\\centering", f"\\begin{{tabular}}{{{columns}}}", "\\toprule", rows[0], "\\midrule"]
    lines += [*rows[1:], "\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table*}"]
    return "\n".join(lines + [f"% {line}" for line in below]) + "\n"


def _escape(text: str) -> str:
    """Return text as LaTeX; negative numbers have a minus sign."""
    text = escape_tex(text)
    text = f"$-${text[1:]}" if re.match(r"-\d", text) else text
    return f"{{{text}}}" if text.startswith("[") else text  # a bracket after \\ would be its argument


def write(table: MethodsTable, published: Sequence[Published], below: list[str], folder: Path) -> list[Path]:
    """Write table_methods and table_methods_ranks as .csv, .md and .tex into `folder`, atomically; return the paths."""
    paths = []
    for stem, lines, text in (
        ("table_methods", accuracy_lines(table, published), accuracy_text(table, published)),
        ("table_methods_ranks", comparison_lines(table), comparison_text(table)),
    ):
        contents = {
            "csv": frame(table, lines).to_csv(index=False),
            "md": markdown(text, below),
            "tex": latex(text, below),
        }
        for ending, content in contents.items():
            paths.append(folder / f"{stem}.{ending}")
            write_text(paths[-1], content)
    return paths
