"""A finding is a line about one thing or about several similar ones; a section is a title and findings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

from engine.datasets.checks import list_preview, pluralize

OK, NOTE, WRONG = "ok", "note", "WRONG"
"""Fine; worth knowing, such as missing but not requested; broken, or requested and missing."""
COLOURS = {OK: "32", NOTE: "33", WRONG: "31"}
SHOWN = 16
"""The most lines of notes, and of errors, in a section; it shows at least one of each, however long."""
LONGEST = 600
"""The most characters of a finding that are shown: its error may list very many files."""


@dataclass(frozen=True)
class Finding:
    """A line of a section; `state` is OK, NOTE or WRONG."""

    state: str
    text: str


def note_temporary(paths: list[Path]) -> list[Finding]:
    """Return a note on temporary files, of a killed process or of one that is running."""
    if not paths:
        return []
    text = f"{pluralize(len(paths), 'temporary file')}; safe to remove when nothing is running: {list_preview(paths)}"
    return [Finding(NOTE, text)]


def format_section(title: str, findings: Iterable[Finding], width: int = 100, colour: bool = False) -> str:
    """Return a section as text, `width` characters wide: OK findings first, WRONG ones last."""
    lines = [f"\033[1m{title}\033[0m" if colour else title]
    findings = list(findings)
    for state in (OK, NOTE, WRONG):
        paragraphs: list[list[str]] = []
        for finding in (finding for finding in findings if finding.state == state):
            mark = f"\033[{COLOURS[state]}m{state:5}\033[0m" if colour else f"{state:5}"
            text = " ".join(finding.text.split())
            text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
            head, *rest = textwrap.wrap(text, width - 8, break_long_words=False, break_on_hyphens=False) or [""]
            paragraphs.append([f"  {mark} {head}", *(f"        {line}" for line in rest)])
        fitting = sum(lines_so_far <= SHOWN for lines_so_far in accumulate(map(len, paragraphs)))
        kept = len(paragraphs) if state == OK else max(1, fitting)
        lines += chain.from_iterable(paragraphs[:kept])
        if len(paragraphs) > kept:
            lines.append(f"        ... and {len(paragraphs) - kept} more")
    return "\n".join(lines)
