"""Classes of a shifted test set within its parent dataset: `classes.json` beside its features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from engine import files, schema
from engine.datasets import ImageDataset
from engine.features.store import FeaturePaths, MissingFeatures


@dataclass(frozen=True)
class ShiftedClasses:
    """Class names and labels in the parent dataset, by label; `list_digest` identifies the list of images."""

    classnames: list[str]
    parent_labels: list[int]
    list_digest: str

    @property
    def digest(self) -> str:
        """The digest of the set in records: its list, and its labels too unless they are ascending.

        Old records have the digest of the list alone; labels were always ascending then.
        """
        if self.parent_labels == sorted(self.parent_labels):
            return self.list_digest
        return hashlib.sha256(json.dumps([self.list_digest, self.parent_labels]).encode()).hexdigest()


def classes_of(benchmark: ImageDataset) -> ShiftedClasses | None:
    """Return the classes of a shifted test set; None for other datasets."""
    if benchmark.parent_labels is None:
        return None
    return ShiftedClasses(benchmark.classnames, benchmark.parent_labels, benchmark.digest("test"))


def write_classes(paths: FeaturePaths, classes: ShiftedClasses | None) -> None:
    """Write the classes of a shifted set beside its features, unless they are stored."""
    if not are_stored(paths, classes):
        files.write_json(paths.classes, asdict(classes))


def are_stored(paths: FeaturePaths, classes: ShiftedClasses | None) -> bool:
    """Return whether these classes are stored, or there are none to store."""
    try:
        return classes is None or read_classes(paths) == classes
    except MissingFeatures:
        return False


def read_classes(paths: FeaturePaths) -> ShiftedClasses:
    """Read the classes of a shifted set. Raises MissingFeatures if the file is missing or damaged."""
    try:
        if not paths.classes.exists():
            raise ValueError("it is missing")
        classes = schema.build(ShiftedClasses, files.parse_json(files.read_bytes(paths.classes)), "its content")
        known = set(classes.parent_labels)
        if not len(known) == len(classes.parent_labels) == len(classes.classnames) > 0 or min(known) < 0:
            raise ValueError("it does not have a name and a label for each class")
    except ValueError as error:
        raise MissingFeatures(
            f"no classes in {paths.classes} ({error}); run features.py to write them: it encodes nothing again"
        ) from error
    return classes
