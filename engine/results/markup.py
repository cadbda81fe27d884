"""Tables in Markdown and LaTeX: the pieces that every table is put together from."""

from __future__ import annotations

from collections.abc import Sequence


def rounded(number: float | None) -> float | None:
    """Return a number with four decimals, for CSV files."""
    return None if number is None else round(number, 4)


def pipe_table(heads: Sequence[str], body: Sequence[Sequence[str]], words: int) -> str:
    """Return a table in Markdown, padded to be readable as plain text; its first `words` columns are left-aligned."""
    widths = [max(map(len, cells)) for cells in zip(heads, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if k < words else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"{'-' * (w + 2)}" if k < words else f"{'-' * (w + 1)}:" for k, w in enumerate(widths))
    return "\n".join([line(heads), f"|{rule}|", *map(line, body)])


def page(title: str, caption: str, tables: Sequence[str], below: Sequence[str], language: str = "sh") -> str:
    """Return a page in Markdown; `below` are a line and the commands under it, if any."""
    parts = [f"# {title}", caption, *tables]
    if below:
        parts += [below[0], "\n".join([f"```{language}", *below[1:], "```"])]
    return "\n\n".join(parts) + "\n"


def tex_row(cells: Sequence[str]) -> str:
    """Return a row of a LaTeX table from cells in LaTeX."""
    return " & ".join(cells) + r" \\"


def escape_tex(text: str) -> str:
    """Return text with LaTeX's special characters escaped."""
    pairs = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "±": r"$\pm$", "†": r"$^\dagger$"}
    for plain, tex in pairs.items():
        text = text.replace(plain, tex)
    return text
