"""Shifted test sets (section 6 of the protocol): their features, and which of the trained classes theirs are.

A label of such a set counts its class folders. Which class of the parent that is, the store says through prompts: these
are class names in a template. Labels are in the parent's order, so a set with all classes has the parent's labels; that
of one with some classes must be found among the parent's names in order, in one way alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine import datasets, templates
from engine.datasets.checks import first
from engine.errors import UserError
from engine.features.prompts import read_wordings
from engine.features.store import Bank, MissingFeatures, Place
from engine.results.runs import ALL_CLASSES, Cell


@dataclass(frozen=True, eq=False)
class ShiftedSet:
    """The features of a test-only dataset, and the names of its classes by label."""

    name: str
    bank: Bank
    classnames: list[str]


@dataclass(frozen=True, eq=False)
class ShiftedTest:
    """A shifted set as classifiers are tested on it: `classes` [k] int64 are theirs by the set's labels.

    `choices` are what predictions are among, by the name that the accuracies have in a run's record.
    """

    bank: Bank
    classes: Tensor
    choices: dict[str, Tensor | None]


class MissingShifted(MissingFeatures):
    """Features of shifted test sets, by name, that are not in the store or damaged."""

    def __init__(self, reasons: dict[str, str]):
        super().__init__("\n".join(reasons.values()))
        self.names = list(reasons)


def open_sets(names: list[str], feature_dir: str | Path, cell: Cell) -> list[ShiftedSet]:
    """The shifted sets of these names under the encoder of `cell`, as what goes into the layers that it trains.

    Raises MissingShifted, which tells of all that are not there.
    """
    found, missing = [], {}
    for name in names:
        place = Place.of(feature_dir, cell.encoder, name)
        try:
            bank = Bank(place.bank("test", cell.image_layer, "none"))
            bank.require()
            found.append(ShiftedSet(name, bank, _stored_classnames(place, name)))
        except MissingFeatures as error:
            missing[name] = str(error)
    if missing:
        raise MissingShifted(missing)
    return found


def shifted_test(shifted: ShiftedSet, parent: str, parent_names: list[str], device: str) -> ShiftedTest:
    """How classifiers of the dataset `parent`, whose classes have `parent_names`, are tested on a shifted set.

    Raises UserError when its classes are not the parent's, or the names leave open which.
    """
    count, classes = len(shifted.classnames), len(parent_names)
    if datasets.has_all_classes(shifted.name) and count != classes:
        raise UserError(f"{shifted.bank.folder.parents[1]} has {count} classes, and {parent} has {classes}")
    own = torch.arange(count) if count == classes else torch.tensor(_find(shifted, parent, parent_names))
    own = own.to(device)
    among_all = {shifted.name + ALL_CLASSES: None}
    return ShiftedTest(shifted.bank, own, {shifted.name: None} if count == classes else {shifted.name: own} | among_all)


def classnames(path: Path, augmentation: str, dataset: str) -> list[str]:
    """The names of a dataset's classes by label, as a file of its prompts has them: without underscores."""
    return _unfilled(*read_wordings(path), augmentation, dataset)


def _find(shifted: ShiftedSet, parent: str, parent_names: list[str]) -> list[int]:
    """The parent's labels of a set with a part of its classes, which are in the same order there.

    Two classes may share a name (ImageNet's cranes), so the first way to find the names is compared with the last.
    """
    own, last = shifted.classnames, len(parent_names) - 1
    forwards, backwards = _in_order(own, parent_names), _in_order(own[::-1], parent_names[::-1])
    if forwards is None or backwards is None:
        unknown = [name for name in own if name not in set(parent_names)]
        what = f"are no classes of {parent}: {first(unknown, len(unknown))}"
        raise UserError(
            f"{shifted.name}: by its prompts in {shifted.bank.folder.parents[1]}, class names"
            f" {what if unknown else f'are not in the order of {parent}'}; make the features of one of them anew"
        )
    several = [name for name, here, there in zip(own, forwards, backwards[::-1], strict=True) if here + there != last]
    if several:
        raise UserError(
            f"{shifted.name}: several classes of {parent} are called {first(several, len(several))}, and which of them"
            " it has, its prompts leave open; give them names that differ in the lists of both datasets, and make the"
            " features of their prompts anew"
        )
    return forwards


def _in_order(names: list[str], among: list[str]) -> list[int] | None:
    """Ascending positions of `names` in `among`, the first ones there are; None when there are none."""
    found, start = [], 0
    for name in names:
        try:
            start = among.index(name, start) + 1
        except ValueError:
            return None
        found.append(start - 1)
    return found


def _stored_classnames(place: Place, name: str) -> list[str]:
    """The names of a test-only dataset's classes, from whatever prompts of it are in the store."""
    for augmentation in templates.AUGMENTATIONS:
        paths = sorted(place.folder.glob(f"text-layer_*/{augmentation}.safetensors"))
        if paths and augmentation != templates.MINING:
            return classnames(paths[0], augmentation, name)
    raise MissingFeatures(f"no text features in {place.folder}, which say what its classes are")


def _unfilled(prompts: list[str], labels: list[int], augmentation: str, dataset: str) -> list[str]:
    """What the first prompt of each label fills the first template with."""
    try:
        return templates.unfilled(templates.templates(augmentation, dataset)[0], prompts, labels)
    except ValueError as error:
        raise UserError(
            f"the prompts of {dataset} were not made by today's {augmentation} templates: '{error}'"
        ) from error
