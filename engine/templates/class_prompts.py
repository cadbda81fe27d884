"""Prompts of each class from a JSON file, such as descriptions that a language model wrote, or several names.

    {"tench": ["A tench is a green fish with small scales.", "a photo of a {}, a freshwater fish."], ...}
    {"names": {"tench": ["{}", "doctor fish"], ...}, "templates": ["a photo of a {}."]}

`{}` stands for the class name. In the second form each name goes through every template; without `templates` these are
the hand-crafted ones of the dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.datasets.checks import list_preview
from engine.errors import UserError
from engine.files import read_json

FORMS = (
    'a file of prompts is {"class": ["prompt", ...], ...}, and a file of names {"names": {"class": ["name", ...], ...},'
    ' "templates": ["a photo of a {}.", ...]}'
)


def spell(classname: str) -> str:
    """Return a class name as prompts and classifiers spell it."""
    return classname.replace("_", " ")


@dataclass(frozen=True)
class ClassPrompts:
    """The prompts of each class in the file at `path`, by class name as `spell` spells it; `{}` is the class name.

    `has_names` is whether the file has names, which may replace the class name, in place of prompts.
    """

    path: Path
    by_class: dict[str, list[str]]
    has_names: bool = False

    def of(self, classnames: Sequence[str]) -> list[list[str]]:
        """Return the prompts of each class. Raises UserError that lists the classes without prompts."""
        if missing := [name for name in classnames if spell(name) not in self.by_class]:
            found = f"{len(missing)} of {len(classnames)} classes"
            close = list_preview((f"{name}{self._closest(name)}" for name in missing), len(missing))
            raise UserError(f"{self.path} has no prompts of {found}: {close}")
        return [self.by_class[spell(name)] for name in classnames]

    def _closest(self, name: str) -> str:
        """Return ` (there is ...)` with the most similar class in the file, or nothing."""
        import difflib  # a slow import, needed only for an error

        alike = {known.casefold(): known for known in self.by_class}
        close = difflib.get_close_matches(spell(name).casefold(), alike, n=1)
        return f" (there is {alike[close[0]]})" if close else ""

    def notes(self, classnames: Sequence[str]) -> list[str]:
        """Return notes on classes of the file that the dataset lacks, and on prompts without their class name."""
        notes, names = [], [spell(name) for name in classnames]
        if extra := [name for name in self.by_class if name not in names]:
            notes.append(f"{self.path}: ignored classes that the dataset does not have: {list_preview(extra)}")
        pairs = [(name, prompt) for name, own in zip(names, self.of(classnames), strict=True) for prompt in own]
        bare = [prompt for name, prompt in pairs if "{}" not in prompt and name.casefold() not in prompt.casefold()]
        if not self.has_names and 2 * len(bare) > len(pairs):
            notes.append(
                f"{self.path}: {len(bare)} of {len(pairs)} prompts do not contain the name of their class, for example"
                f" '{bare[0]}'; write {{}} where the name belongs"
            )
        return notes


def read_class_prompts(path: Path, default: list[str]) -> ClassPrompts:
    """Read a file of prompts or names; `default` are the templates of names without any.

    Raises UserError for a file in neither form, and for classes without prompts.
    """
    content = read_json(path, lambda pairs: _require_distinct(pairs, path))
    has_names = isinstance(content, dict) and isinstance(content.get("names"), dict)
    if has_names:
        if unknown := content.keys() - {"names", "templates"}:
            raise UserError(f"{path}: unknown entries beside names: {list_preview(sorted(unknown))}; {FORMS}")
        templates = _texts({"templates": content.get("templates", default)}, path)["templates"]
        if wrong := [template for template in templates if template.count("{}") != 1]:
            raise UserError(f"{path}: a template needs one {{}} for a name, not '{wrong[0]}'")
        names = _texts(content["names"], path)
        by_class = {label: [t.replace("{}", name) for name in own for t in templates] for label, own in names.items()}
    else:
        by_class = _texts(content, path)
    spelled = Counter(map(spell, by_class))
    if twice := [label for label, count in spelled.items() if count > 1]:
        raise UserError(f"{path}: classes that occur twice, with underscores and with spaces: {list_preview(twice)}")
    return ClassPrompts(path, {spell(label): own for label, own in by_class.items()}, has_names)


def _require_distinct(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise UserError(f"{path}: named more than once: {list_preview(twice)}; keep one entry for each")
    return dict(pairs)


def _texts(content: Any, path: Path) -> dict[str, list[str]]:
    """Return an object of lists of texts, with single spaces in the texts."""
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is not an object of lists; {FORMS}")
    for label, own in content.items():
        if not isinstance(own, list) or not own or not all(isinstance(text, str) and text.strip() for text in own):
            raise UserError(f"{path}: '{label}' does not have a list of one or more texts; {FORMS}")
    return {label: [" ".join(text.split()) for text in own] for label, own in content.items()}
