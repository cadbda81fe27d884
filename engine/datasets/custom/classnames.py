"""Class names: the names of the class folders, or their replacements in classnames.txt or classnames.json."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from engine.datasets.checks import list_preview
from engine.errors import UserError
from engine.files import read_json, read_lines

NO_NAMES = {"nan", "none", "null", "na", "n/a", "<na>", "nil", "#n/a"}
"""Lower-case labels that spreadsheets and programs write for a missing label."""


def load_class_names(labels: list[str], folder: Path) -> dict[str, str]:
    """Return the class name of each label: from `classnames.txt` or `classnames.json` in `folder`, or the label."""
    text, table = folder / "classnames.txt", folder / "classnames.json"
    if text.exists() and table.exists():
        raise UserError(f"{text} and {table} both name the classes; remove one")
    forms = {label: compose(label) for label in labels}
    known = list(forms.values())
    names = _read_lines(text, known) if text.exists() else _read_json(table) if table.exists() else {}
    source = text if text.exists() else table
    if unknown := [label for label in names if label not in known]:
        raise UserError(f"{source}: unknown classes {list_preview(unknown)}; the classes are {list_preview(labels)}")
    return {label: names.get(form, label) for label, form in forms.items()}


def compose(text: str) -> str:
    """Return `text` with composed accents (NFC), as most keyboards type them; folder names from a Mac may differ."""
    return unicodedata.normalize("NFC", text)


def _read_lines(path: Path, labels: list[str]) -> dict[str, str]:
    """Read lines `<folder> <class name>`. Both may have spaces: the folder is the longest that starts the line."""
    names: dict[str, str] = {}
    for number, words in enumerate(map(compose, read_lines(path)), start=1):
        matches = [label for label in labels if words.startswith(label) and words[len(label) :][:1].isspace()]
        label = max(matches, key=len, default=words.split(maxsplit=1)[0] if words else "")
        name = " ".join(words[len(label) :].split())
        if words and not name:
            raise UserError(f"{path}, line {number}: not `<folder> <class name>`: {words!r}")
        if label in names:
            raise UserError(f"{path}, line {number}: {label} already has a name")
        if words:
            names[label] = name
    return names


def _read_json(path: Path) -> dict[str, str]:
    """Read an object of class names by folder."""

    def require_distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = Counter(compose(key) for key, _ in pairs)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise UserError(f"{path}: named more than once: {list_preview(twice)}; keep one name for each")
        return dict(pairs)

    names = read_json(path, require_distinct)
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UserError(f"{path}: not an object of class names by folder, {{folder: class name}}")
    return {compose(label): " ".join(name.split()) for label, name in names.items()}


def check_classes(names: dict[str, str], source: Path) -> list[str]:
    """Raise UserError for a single class, or for class names that look the same in prompts or to a person.

    Return notes on names that are numbers, which mean nothing in a prompt, or that stand for a missing label.
    """
    if len(names) < 2:
        raise UserError(f"{source} has only one class, {next(iter(names))}; a classifier needs two or more")
    same: dict[str, list[str]] = {}
    for label, name in names.items():
        same.setdefault(" ".join(compose(name).replace("_", " ").split()).casefold(), []).append(label)
    twins = [" and ".join(labels) for labels in same.values() if len(labels) > 1]
    if twins:
        raise UserError(
            f"{source}: class names that differ only in capitals and underscores: {list_preview(twins)}. Put the"
            " images of one class in one folder, or give the classes different names in classnames.txt"
        )
    notes = []
    if empty := [name for name in names.values() if name.casefold() in NO_NAMES]:
        notes.append(
            f"{source}: a class is called {list_preview(empty)}, which programs write for a missing label; if its"
            " images have no label, remove them"
        )
    if all(map(_is_number, names.values())):
        called = list_preview(names.values(), len(names))
        notes.append(f"{source}: classes are called {called}, but prompts need names; add a classnames.txt")
    return notes


def _is_number(name: str) -> bool:
    """Return whether a name is a number of any form (`7`, `0.0`, `1e3`) or stands for a missing label."""
    try:
        float(name)
    except ValueError:
        return name.casefold() in NO_NAMES
    return True
