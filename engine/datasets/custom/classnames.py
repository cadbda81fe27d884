"""The names of classes: those of their folders, or what classnames.txt or classnames.json has for them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from engine.datasets.checks import list_preview
from engine.errors import UserError
from engine.files import read_json, read_lines

NO_NAMES = {"nan", "none", "null", "na", "n/a", "<na>", "nil", "#n/a"}
"""Labels, in small letters, that spreadsheets and programs write where there is none."""


def renamed(labels: list[str], folder: Path) -> dict[str, str]:
    """The class name of each label: what `classnames.txt` or `classnames.json` in `folder` says, or the label."""
    text, table = folder / "classnames.txt", folder / "classnames.json"
    if text.exists() and table.exists():
        raise UserError(f"{text} and {table} both rename classes; remove one")
    forms = {label: composed(label) for label in labels}
    known = list(forms.values())
    names = _names_in_lines(text, known) if text.exists() else _names_in_json(table) if table.exists() else {}
    source = text if text.exists() else table
    if unknown := [label for label in names if label not in known]:
        raise UserError(f"{source}: no class is called {list_preview(unknown)}; there are {list_preview(labels)}")
    return {label: names.get(form, label) for label, form in forms.items()}


def composed(text: str) -> str:
    """The same letters, as most keyboards write them: folders from a Mac may have an accent as a letter of its own."""
    return unicodedata.normalize("NFC", text)


def _names_in_lines(path: Path, labels: list[str]) -> dict[str, str]:
    """Lines `<folder> <class name>`: the folder is the longest that a line begins with, as both may have spaces."""
    names: dict[str, str] = {}
    for number, words in enumerate(map(composed, read_lines(path)), start=1):
        own = [label for label in labels if words.startswith(label) and words[len(label) :][:1].isspace()]
        label = max(own, key=len, default=words.split(maxsplit=1)[0] if words else "")
        name = " ".join(words[len(label) :].split())
        if words and not name:
            raise UserError(f"{path}, line {number}: not `<folder> <class name>`: {words!r}")
        if label in names:
            raise UserError(f"{path}, line {number}: {label} has a name already")
        if words:
            names[label] = name
    return names


def _names_in_json(path: Path) -> dict[str, str]:
    """An object of class names by folder."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = Counter(composed(key) for key, _ in pairs)
        if twice := [key for key, count in keys.items() if count > 1]:
            raise UserError(f"{path}: named more than once: {list_preview(twice)}; leave one name of each")
        return dict(pairs)

    names = read_json(path, once)
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UserError(f"{path}: not an object of class names by folder, {{folder: class name}}")
    return {composed(label): " ".join(name.split()) for label, name in names.items()}


def check_classes(names: dict[str, str], source: Path) -> list[str]:
    """Raise UserError for one class, or for classes that prompts, or a person, cannot tell apart.

    Return notes on names that are numbers, which say nothing in a prompt, or that stand for none.
    """
    if len(names) < 2:
        raise UserError(f"{source} has one class, {next(iter(names))}; a classifier needs two or more")
    same: dict[str, list[str]] = {}
    for label, name in names.items():
        same.setdefault(" ".join(composed(name).replace("_", " ").split()).casefold(), []).append(label)
    twins = [" and ".join(labels) for labels in same.values() if len(labels) > 1]
    if twins:
        raise UserError(
            f"{source}: classes of the same name, but for capitals and underscores: {list_preview(twins)}. Put the"
            " images of one class in one folder, or name them apart in classnames.txt"
        )
    notes = []
    if empty := [name for name in names.values() if name.casefold() in NO_NAMES]:
        notes.append(
            f"{source}: a class is called {list_preview(empty)}, as programs write where a label is missing; if it"
            " is none, remove its images"
        )
    if all(map(_is_number, names.values())):
        called = list_preview(names.values(), len(names))
        notes.append(f"{source}: classes are called {called}; prompts need names: see classnames.txt")
    return notes


def _is_number(name: str) -> bool:
    """Whether a name is a number of any form: `7`, `0.0`, `1e3`; and what stands for a missing one."""
    try:
        float(name)
    except ValueError:
        return name.casefold() in NO_NAMES
    return True
