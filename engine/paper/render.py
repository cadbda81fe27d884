"""Comparisons with the paper as data frame, CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine import datasets
from engine.files import write_text
from engine.paper import layout, printed
from engine.paper.compare import ComparedValue, Comparison, TableRow
from engine.paper.layout import METHODS, TABLES, Coordinates
from engine.paper.printed import AVERAGE, PaperRow
from engine.results.markup import escape_tex, page, pipe_table, rounded, tex_row
from engine.results.runs import runs_digest
from engine.training.schedule import MAX_ITER

PAPER_ONLY = "†"
"""Marks methods of the paper that this project does not have."""


class TableText(NamedTuple):
    """A table as text. A block is (names of the paper's columns, names of their three parts, rows)."""

    title: str
    caption: list[str]
    blocks: list[tuple[list[str], list[str], list[list[str]]]]


def label(column: Coordinates) -> str:
    """Return the name of a column."""
    dataset = re.sub(r"^(?:imagenet|demo)_esc_(\d+)_(?:image|audio)$", r"\1", column.dataset or "")
    if column.shots is None:
        return dataset
    return f"{dataset} classes, {column.shots}-shot" if dataset != AVERAGE else f"{column.shots}-shot"


def frame(made: Comparison) -> pd.DataFrame:
    """Return the whole table: a description of each row, then our number, the paper's and the difference per column.

    Numbers are percent. `complete` is `n/m`: n of m required items are complete. `runs` is the digest of a row's runs.
    """
    rows = []
    for row in made.rows:
        cells = _describe(made, row)
        for column, value in zip(made.columns, row.values, strict=True):
            fields = {
                "ours": rounded(value.ours),
                "std": rounded(value.std),
                "paper": value.paper.mean,
                "paper std": value.paper.std,
                "difference": rounded(value.difference),
                "complete": f"{value.complete}/{value.required}" if value.required else "",
            }
            cells |= {f"{label(column)} {name}": field for name, field in fields.items()}
        runs = [run for value in row.values if value.ours is not None for run in value.runs]
        rows.append(cells | {"runs": runs_digest(runs, shifted=TABLES[made.number].kind == "shift")})
    return pd.DataFrame(rows)


def _describe(made: Comparison, row: TableRow) -> dict[str, str]:
    """Return the description of a row; '' for inputs that the paper does not state for a method of its own."""
    paper, method = row.paper, METHODS[row.paper.method]
    words = {
        "backbone": paper.backbone,
        "method": method.title + ("" if _is_ours(row) else f" {PAPER_ONLY}"),
        "modality": paper.modality,
        "init": paper.init,
        "prompts": paper.text_augmentation,
        "images": f"{paper.image_augmentation} {paper.image_views}".strip(),
        "shots": "" if row.coordinates.shots is None else str(row.coordinates.shots),
    }
    if paper.metric == "accuracy_delta":
        return dict.fromkeys(words, "") | {"backbone": paper.backbone, "method": f"difference: {words['method']}"}
    if method.mode is not None and not layout.is_zeroshot(paper):
        cell = layout.cell(paper, made.scope.datasets[0], made.scope.shots[0], made.scope.seeds[0], made.scope)
        words["init"], words["images"] = cell.init, f"{cell.image_augmentation} {cell.image_views}"
        words["prompts"] = cell.text_augmentation if _depends_on_text(paper) else ""
    return words


def _depends_on_text(row: PaperRow) -> bool:
    """Return whether prompts change the accuracy of a row; uni-modal training from random weights uses none."""
    return row.modality != "uni_modal" or row.init == "zeroshot"


def _is_ours(row: TableRow) -> bool:
    """Return whether this project has the method of a row (for a difference: both of its methods)."""
    return any(value.required for value in row.values)


def as_text(made: Comparison, deviations: bool = True, abreast: int | None = None) -> TableText:
    """Return a table as text, with or without standard deviations, in blocks of `abreast` columns."""
    abreast = abreast or TABLES[made.number].abreast
    words = pd.DataFrame([_describe(made, row) for row in made.rows])
    varying = [name for name in words if name == "method" or words[name].nunique() > 1]
    blocks = []
    for start in range(0, len(made.columns), abreast):
        columns = range(start, min(start + abreast, len(made.columns)))
        heads = [*([""] * len(varying)), *(head for k in columns for head in (label(made.columns[k]), "", ""))]
        below = [*varying, *(["ours", "paper", "diff."] * len(columns))]
        body = [
            [*words.loc[i, varying], *(text for k in columns for text in _format_value(row.values[k], deviations))]
            for i, row in enumerate(made.rows)
        ]
        blocks.append((heads, below, body))
    return TableText(f"Table {made.number}: {TABLES[made.number].title}", _caption(made, deviations), blocks)


def _format_value(value: ComparedValue, deviations: bool) -> tuple[str, str, str]:
    """Return our number, the paper's and the difference as text; `n of m` for an incomplete number of ours."""
    ours = "" if value.ours is None else f"{value.ours:.2f}"
    if value.ours is None and value.complete:
        ours = f"{value.complete} of {value.required}"
    paper = value.paper.mean
    if deviations:
        ours += "" if value.std is None or value.ours is None else f" ± {value.std:.2f}"
        paper += f" ± {value.paper.std}" if value.paper.std else ""
    decimals = len(value.paper.mean.partition(".")[2])
    if value.difference is None:
        return ours, paper, ""
    return ours, paper, f"{round(value.difference, decimals) + 0.0:+.{decimals}f}"  # + 0.0: never -0.0


def _caption(made: Comparison, deviations: bool) -> list[str]:
    """Return sentences that explain the numbers, and how our runs differ from the paper's."""
    scope, kind = made.scope, TABLES[made.number].kind
    mean = "mean ± standard deviation" if deviations else "mean"
    seeds = f"{'seed' if len(scope.seeds) == 1 else 'seeds'} {' '.join(map(str, scope.seeds))}"
    if kind == "esc":
        lines = [f"Test accuracy (%), {mean} over 25 runs (5 splits, 5 draws of the other modality)."]
        if scope.datasets[0].startswith("demo"):
            lines.append("Ours: the demo's images and sounds, with the protocol of ImageNet-ESC.")
    else:
        lines = [f"Test accuracy (%), {mean} over {seeds}."]
        if kind != "shift" and set(scope.datasets) != set(datasets.TARGETS):
            lines.append(f"Ours: {', '.join(scope.datasets)}. The paper's averages over eleven datasets are left out.")
    if scope.max_iter != MAX_ITER:
        lines.append(f"Ours was trained for {scope.max_iter} steps, the paper's for {MAX_ITER}.")
    in_paper = {row.backbone for row in printed.printed_rows(made.number)}
    if others := [name for name in scope.encoders if name not in in_paper]:
        lines.append(f"The paper has no numbers for {', '.join(others)}.")
    partly = [value for row in made.rows for value in row.values if 0 < value.complete < value.required]
    if units := dict.fromkeys(value.unit for value in partly):
        lines.append(f"n of m: n of the m {' or '.join(units)} that a number of ours needs are complete.")
    if not all(_is_ours(row) for row in made.rows) and kind != "esc":
        lines.append(f"{PAPER_ONLY} Only in the paper: this project does not have the method.")
    return lines + [f"{note}." for note in made.notes]


def markdown(text: TableText, below: list[str], language: str = "sh") -> str:
    """Return a table in Markdown, padded to be readable as plain text; `below` are the lines under the table."""
    caption = "\n".join(f"{line}  " for line in text.caption).rstrip()
    return page(text.title, caption, [_pipes(*block) for block in text.blocks], below, language)


def on_screen(made: Comparison, below: list[str], width: int) -> str:
    """Return a table in Markdown without deviations, in blocks of at most `width` characters (0: as in files)."""
    for abreast in range(TABLES[made.number].abreast, 0, -1):
        text = markdown(as_text(made, deviations=False, abreast=abreast), below)
        if not width or max(len(line) for line in text.splitlines() if line.startswith("|")) <= width:
            break
    return text


def _pipes(heads: list[str], below: list[str], body: list[list[str]]) -> str:
    """Return a block in Markdown, with one row of headings: the column's name replaces `ours`."""
    names = [head or name for head, name in zip(heads, below, strict=True)]
    return pipe_table(names, body, below.index("ours"))


def latex(text: TableText, below: list[str]) -> str:
    """Return a table in LaTeX (packages booktabs and graphicx), as wide as the page; `below` becomes comments."""
    tabulars = "\n\n\\medskip\n".join(_tabular(*block) for block in text.blocks)
    caption = _escape(" ".join([f"{text.title.partition(': ')[2].capitalize()}.", *text.caption]))
    lines = ["\\begin{table*}", "\\centering", tabulars, f"\\caption{{{caption}}}", "\\end{table*}"]
    return "\n".join(lines + [f"% {line}" for line in below]) + "\n"


def _tabular(heads: list[str], below: list[str], body: list[list[str]]) -> str:
    words = below.index("ours")
    groups = [f"\\multicolumn{{3}}{{c}}{{{_escape(head)}}}" for head in heads[words::3]]
    rules = "".join(f"\\cmidrule(lr){{{k}-{k + 2}}}" for k in range(words + 1, len(heads) + 1, 3))
    rows = [
        "\\toprule",
        tex_row(heads[:words] + groups),
        rules,
        tex_row(list(map(_escape, below))),
        "\\midrule",
        *(tex_row(list(map(_escape, cells))) for cells in body),
        "\\bottomrule",
    ]
    inside = "\n".join([f"\\begin{{tabular}}{{{'l' * words}{'r' * (len(heads) - words)}}}", *rows, "\\end{tabular}"])
    return f"\\resizebox{{\\textwidth}}{{!}}{{%\n{inside}}}"


def _escape(text: str) -> str:
    """Return text as LaTeX; differences with their signs are in mathematics."""
    text = escape_tex(text)
    return f"${text}$" if text[:1] in ("+", "-") and len(text) > 1 else text


def write(made: Comparison, below: list[str], folder: Path) -> list[Path]:
    """Write table_<n>.csv, .md and .tex into `folder`, atomically, and return their paths."""
    stem, text = folder / f"table_{made.number}", as_text(made)
    contents = {".csv": frame(made).to_csv(index=False), ".md": markdown(text, below), ".tex": latex(text, below)}
    for ending, content in contents.items():
        write_text(stem.with_suffix(ending), content)
    return [stem.with_suffix(ending) for ending in contents]
