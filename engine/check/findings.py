"""A finding is a line about one thing, or about several that are alike; a section is a title and findings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

from engine.datasets.checks import list_preview, pluralize

OK, NOTE, WRONG = "ok", "note", "WRONG"
"""As it should be; worth knowing, such as what is missing and was not asked for; broken, or asked for and missing."""
COLOURS = {OK: "32", NOTE: "33", WRONG: "31"}
SHOWN = 16
"""How many lines of notes, and how many of wrong things, a section shows; it shows one of each, however long."""
LONGEST = 600
"""How many characters of a finding are shown: the error behind it may list files without end."""


@dataclass(frozen=True)
class Finding:
    """What was found: `state` is OK, NOTE or WRONG."""

    state: str
    text: str


def left_over(paths: list[Path]) -> list[Finding]:
    """Temporary files, which a killed process left behind or one that is at work has just made."""
    if not paths:
        return []
    text = f"{pluralize(len(paths), 'temporary file')}, to be removed when nothing runs: {list_preview(paths)}"
    return [Finding(NOTE, text)]


def format_section(title: str, findings: Iterable[Finding], width: int = 100, colour: bool = False) -> str:
    """A section for a terminal that is `width` characters wide: what is fine first, what is wrong last."""
    lines = [f"\033[1m{title}\033[0m" if colour else title]
    findings = list(findings)
    for state in (OK, NOTE, WRONG):
        own = [finding for finding in findings if finding.state == state]
        paragraphs: list[list[str]] = []
        for finding in own:
            mark = f"\033[{COLOURS[state]}m{state:5}\033[0m" if colour else f"{state:5}"
            text = " ".join(finding.text.split())
            text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
            head, *rest = textwrap.wrap(text, width - 8, break_long_words=False, break_on_hyphens=False) or [""]
            paragraphs.append([f"  {mark} {head}", *(f"        {line}" for line in rest)])
        fitting = sum(lines_so_far <= SHOWN for lines_so_far in accumulate(map(len, paragraphs)))
        kept = len(own) if state == OK else max(1, fitting)
        lines += chain.from_iterable(paragraphs[:kept])
        if len(own) > kept:
            lines.append(f"        ... and {len(own) - kept} more")
    return "\n".join(lines)
