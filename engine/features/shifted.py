"""Shifted test sets (section 6 of the protocol): their features and class subsets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine import datasets
from engine.datasets.checks import list_preview
from engine.errors import UserError
from engine.features.classes import ShiftedClasses, read_classes
from engine.features.store import Bank, FeaturePaths, MissingFeatures
from engine.templates import spell


@dataclass(frozen=True, eq=False)
class ShiftedSet:
    """The features of a test-only dataset, and its classes."""

    name: str
    bank: Bank
    classes: ShiftedClasses


class MissingShifted(MissingFeatures):
    """Missing or damaged features of shifted test sets; `names` are the sets."""

    def __init__(self, reasons: dict[str, str]):
        super().__init__("\n".join(reasons.values()))
        self.names = list(reasons)


def open_sets(names: list[str], feature_dir: str | Path, encoder: str, image_layer: int | str) -> list[ShiftedSet]:
    """Return shifted sets: inputs of the last `image_layer` layers of the encoder in folder `encoder`.

    Raises MissingShifted, which lists all missing sets.
    """
    found, missing = [], {}
    for name in names:
        paths = FeaturePaths.of(feature_dir, encoder, name)
        try:
            bank = Bank(paths.bank("test", image_layer, "none"))
            bank.require()
            classes = read_classes(paths)
            if classes.list_digest != bank.provenance.list_digest:
                raise MissingFeatures(f"{bank.folder} and {paths.classes} are of different lists of images")
            found.append(ShiftedSet(name, bank, classes))
        except MissingFeatures as error:
            missing[name] = str(error)
    if missing:
        raise MissingShifted(missing)
    return found


def classes_of(shifted: ShiftedSet, parent: str, count: int, parent_names: list[str] | None) -> list[int]:
    """Return the labels, in the dataset `parent` with `count` classes, of a shifted set's classes.

    `parent_names` are the parent's class names, or None if they are unknown. Raises UserError if a class of the set is
    not a class of the parent.
    """
    labels, folder = shifted.classes.parent_labels, shifted.bank.folder.parents[1]
    is_whole = len(labels) == count
    if max(labels) >= count or (datasets.has_all_classes(shifted.name) and not is_whole):
        raise UserError(f"{folder} has {len(labels)} classes, up to label {max(labels)}; {parent} has {count}")
    if parent_names is not None and not is_whole:
        pairs = zip(shifted.classes.classnames, (parent_names[label] for label in labels), strict=True)
        if other := [f"{name} ({in_parent})" for name, in_parent in pairs if spell(name) != spell(in_parent)]:
            raise UserError(
                f"{folder}: classes have other names in {parent}: {list_preview(other)}; extract the features of one of"
                " them again, with lists of the same classes"
            )
    return labels
