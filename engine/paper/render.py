"""Tables of the paper with ours beside it, as a frame, CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine import datasets
from engine.files import write_text
from engine.optimizer import MAX_ITER
from engine.paper import layout, printed
from engine.paper.compare import Comparison, Entry, Row
from engine.paper.layout import METHODS, TABLES, Place
from engine.paper.printed import AVERAGE
from engine.results.runs import runs_digest

ALONE = "†"
"""Marks methods of the paper that this project does not have."""


class Text(NamedTuple):
    """A table in words. A block has two rows of headings, for columns of the paper and for what of them, then rows."""

    title: str
    caption: list[str]
    blocks: list[tuple[list[str], list[str], list[list[str]]]]


def label(place: Place) -> str:
    """The name of a column."""
    dataset = re.sub(r"^(?:imagenet|demo)_esc_(\d+)_(?:image|audio)$", r"\1", place.dataset or "")
    if place.shots is None:
        return dataset
    return f"{dataset} classes, {place.shots}-shot" if dataset != AVERAGE else f"{place.shots}-shot"


def frame(made: Comparison) -> pd.DataFrame:
    """All of a table: what its rows are, then ours, the paper's and the difference for each column (percent).

    `complete` says how much of what ours is made of is there. The last column is the digest of the runs behind the row.
    """
    rows = []
    for row in made.rows:
        cells = _words(made, row)
        for column, entry in zip(made.columns, row.entries, strict=True):
            fields = {
                "ours": _rounded(entry.ours),
                "std": _rounded(entry.std),
                "paper": entry.paper.mean,
                "paper std": entry.paper.std,
                "difference": _rounded(entry.difference),
                "complete": f"{entry.there}/{entry.asked}" if entry.asked else "",
            }
            cells |= {f"{label(column)} {name}": value for name, value in fields.items()}
        behind = [run for entry in row.entries if entry.ours is not None for run in entry.runs]
        rows.append(cells | {"runs": runs_digest(behind, shifted=TABLES[made.number].kind == "shift")})
    return pd.DataFrame(rows)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def _words(made: Comparison, row: Row) -> dict[str, str]:
    """What a row is; '' for what the paper does not say of a method that is its alone."""
    line, method = row.line, METHODS[row.line.method]
    words = {
        "backbone": line.backbone,
        "method": method.title + ("" if _is_ours(row) else f" {ALONE}"),
        "modality": line.modality,
        "init": line.init,
        "prompts": line.text_augmentation,
        "images": f"{line.image_augmentation} {line.image_views}".strip(),
        "shots": "" if row.place.shots is None else str(row.place.shots),
    }
    if line.metric == "accuracy_delta":
        return dict.fromkeys(words, "") | {"backbone": line.backbone, "method": f"difference: {words['method']}"}
    if method.source is not None and not layout.is_zeroshot(line):
        cell = layout.cell(line, made.scope.datasets[0], made.scope.shots[0], made.scope.seeds[0], made.scope)
        words["init"], words["images"] = cell.init, f"{cell.image_augmentation} {cell.image_views}"
        words["prompts"] = cell.text_augmentation if _reads_text(line) else ""
    return words


def _reads_text(line: layout.Line) -> bool:
    """Whether prompts change the accuracy of a line: not of a uni-modal one from random weights."""
    return line.modality != "uni_modal" or line.init == "zeroshot"


def _is_ours(row: Row) -> bool:
    """Whether this project has the method of a row (for a difference: both of its methods)."""
    return any(entry.asked for entry in row.entries)


def in_words(made: Comparison, deviations: bool = True, abreast: int | None = None) -> Text:
    """A table as text, with standard deviations or without; `abreast` of its columns in a block."""
    abreast = abreast or TABLES[made.number].abreast
    words = pd.DataFrame([_words(made, row) for row in made.rows])
    varying = [name for name in words if name == "method" or words[name].nunique() > 1]
    blocks = []
    for start in range(0, len(made.columns), abreast):
        columns = range(start, min(start + abreast, len(made.columns)))
        heads = [*([""] * len(varying)), *(head for k in columns for head in (label(made.columns[k]), "", ""))]
        below = [*varying, *(["ours", "paper", "diff."] * len(columns))]
        body = [
            [*words.loc[i, varying], *(text for k in columns for text in _three(row.entries[k], deviations))]
            for i, row in enumerate(made.rows)
        ]
        blocks.append((heads, below, body))
    return Text(f"Table {made.number}: {TABLES[made.number].title}", _caption(made, deviations), blocks)


def _three(entry: Entry, deviations: bool) -> tuple[str, str, str]:
    """Ours, the paper's and the difference; for an incomplete entry of ours how much of it is there."""
    ours = "" if entry.ours is None else f"{entry.ours:.2f}"
    if entry.ours is None and entry.there:
        ours = f"{entry.there} of {entry.asked}"
    paper = entry.paper.mean
    if deviations:
        ours += "" if entry.std is None or entry.ours is None else f" ± {entry.std:.2f}"
        paper += f" ± {entry.paper.std}" if entry.paper.std else ""
    decimals = len(entry.paper.mean.partition(".")[2])
    if entry.difference is None:
        return ours, paper, ""
    return ours, paper, f"{round(entry.difference, decimals) + 0.0:+.{decimals}f}"  # + 0.0: never -0.0


def _caption(made: Comparison, deviations: bool) -> list[str]:
    """What a reader must know of the numbers, and how ours differ from the paper's."""
    scope, kind = made.scope, TABLES[made.number].kind
    mean = "mean ± standard deviation" if deviations else "mean"
    seeds = f"{'seed' if len(scope.seeds) == 1 else 'seeds'} {' '.join(map(str, scope.seeds))}"
    if kind == "esc":
        lines = [f"Test accuracy (%), {mean} over 25 runs (5 splits, 5 draws of the other modality)."]
        if scope.datasets[0].startswith("demo"):
            lines.append("Ours is of the demo's images and sounds, put to the protocol of ImageNet-ESC.")
    else:
        lines = [f"Test accuracy (%), {mean} over {seeds}."]
        if kind != "shift" and set(scope.datasets) != set(datasets.TARGETS):
            lines.append(
                f"Ours is of {', '.join(scope.datasets)}; the paper's averages, of its eleven datasets, are left out."
            )
    if scope.max_iter != MAX_ITER:
        lines.append(f"Ours was trained for {scope.max_iter} steps, the paper's for {MAX_ITER}.")
    if others := [
        name for name in scope.encoders if name not in {line.backbone for line in printed.lines(made.number)}
    ]:
        lines.append(f"The paper has no numbers of {', '.join(others)}.")
    partly = [entry for row in made.rows for entry in row.entries if 0 < entry.there < entry.asked]
    if units := dict.fromkeys(entry.unit for entry in partly):
        lines.append(f"n of m: so many of the {' or '.join(units)} behind a number of ours are complete.")
    if not all(_is_ours(row) for row in made.rows) and kind != "esc":
        lines.append(f"{ALONE} The paper's alone: this project does not have it.")
    return lines + [f"{note}." for note in made.notes]


def markdown(text: Text, below: list[str], language: str = "sh") -> str:
    """A table in Markdown, padded so that it reads well as plain text too; `below` are the lines listed under it."""
    parts = [f"# {text.title}", "\n".join(f"{line}  " for line in text.caption).rstrip()]
    parts += [_pipes(*block) for block in text.blocks]
    if below:
        parts += [below[0], "\n".join([f"```{language}", *below[1:], "```"])]
    return "\n\n".join(parts) + "\n"


def on_screen(made: Comparison, below: list[str], width: int) -> str:
    """A table in Markdown without deviations, in as many blocks as `width` characters need (0: as in files)."""
    for abreast in range(TABLES[made.number].abreast, 0, -1):
        text = markdown(in_words(made, deviations=False, abreast=abreast), below)
        if not width or max(len(line) for line in text.splitlines() if line.startswith("|")) <= width:
            break
    return text


def _pipes(heads: list[str], below: list[str], body: list[list[str]]) -> str:
    """A table of cells. Markdown has one row of headings: `ours` goes by the name of the column."""
    names = [head or name for head, name in zip(heads, below, strict=True)]
    widths = [max(map(len, cells)) for cells in zip(names, *body, strict=True)]
    words = below.index("ours")

    def line(cells: list[str]) -> str:
        padded = (c.ljust(w) if k < words else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"{'-' * (w + 2)}" if k < words else f"{'-' * (w + 1)}:" for k, w in enumerate(widths))
    return "\n".join([line(names), f"|{rule}|", *map(line, body)])


def latex(text: Text, below: list[str]) -> str:
    """A table in LaTeX (packages booktabs and graphicx), as wide as the page; `below` goes into comments."""
    tabulars = "\n\n\\medskip\n".join(_tabular(*block) for block in text.blocks)
    caption = _escaped(" ".join([f"{text.title.partition(': ')[2].capitalize()}.", *text.caption]))
    lines = ["\\begin{table*}", "\\centering", tabulars, f"\\caption{{{caption}}}", "\\end{table*}"]
    return "\n".join(lines + [f"% {line}" for line in below]) + "\n"


def _tabular(heads: list[str], below: list[str], body: list[list[str]]) -> str:
    words = below.index("ours")
    groups = [f"\\multicolumn{{3}}{{c}}{{{_escaped(head)}}}" for head in heads[words::3]]
    rules = "".join(f"\\cmidrule(lr){{{k}-{k + 2}}}" for k in range(words + 1, len(heads) + 1, 3))
    rows = [
        "\\toprule",
        " & ".join(heads[:words] + groups) + r" \\",
        rules,
        " & ".join(map(_escaped, below)) + r" \\",
        "\\midrule",
        *(" & ".join(map(_escaped, cells)) + r" \\" for cells in body),
        "\\bottomrule",
    ]
    inside = "\n".join([f"\\begin{{tabular}}{{{'l' * words}{'r' * (len(heads) - words)}}}", *rows, "\\end{tabular}"])
    return f"\\resizebox{{\\textwidth}}{{!}}{{%\n{inside}}}"


def _escaped(text: str) -> str:
    """Text as LaTeX wants it."""
    pairs = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "±": r"$\pm$", ALONE: r"$^\dagger$"}
    for plain, tex in pairs.items():
        text = text.replace(plain, tex)
    return f"${text}$" if text[:1] in ("+", "-") and len(text) > 1 else text


def write(made: Comparison, below: list[str], folder: Path) -> list[Path]:
    """Write table_<n>.csv, .md and .tex into `folder`, atomically; gives their paths."""
    stem, text = folder / f"table_{made.number}", in_words(made)
    contents = {".csv": frame(made).to_csv(index=False), ".md": markdown(text, below), ".tex": latex(text, below)}
    for ending, content in contents.items():
        write_text(stem.with_suffix(ending), content)
    return [stem.with_suffix(ending) for ending in contents]
