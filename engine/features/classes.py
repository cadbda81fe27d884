"""Which classes of its parent a shifted test set has: `classes.json` beside its features."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from engine import files, schema
from engine.datasets import Benchmark
from engine.features.store import FeaturePaths, MissingFeatures


@dataclass(frozen=True)
class ShiftedClasses:
    """Names of classes, and their labels in the parent dataset, by label; `list_digest` is of the set's images."""

    classnames: list[str]
    parent_labels: list[int]
    list_digest: str

    @property
    def digest(self) -> str:
        """Return what identifies the set in a record: the digest of its list, with labels out of order these too.

        Records from before the store knew labels have the digest of the list alone, and labels were in order.
        """
        if self.parent_labels == sorted(self.parent_labels):
            return self.list_digest
        return hashlib.sha256(json.dumps([self.list_digest, self.parent_labels]).encode()).hexdigest()


def classes_of(benchmark: Benchmark) -> ShiftedClasses | None:
    """Return the classes of a shifted test set; None for any other dataset."""
    if benchmark.parent_labels is None:
        return None
    return ShiftedClasses(benchmark.classnames, benchmark.parent_labels, benchmark.digest("test"))


def write_classes(paths: FeaturePaths, classes: ShiftedClasses | None) -> None:
    """Write the classes of a shifted set beside its features, unless they are there."""
    if not are_stored(paths, classes):
        files.write_json(paths.classes, asdict(classes))


def are_stored(paths: FeaturePaths, classes: ShiftedClasses | None) -> bool:
    """Return whether these classes are written at `paths`, or there are none to write."""
    try:
        return classes is None or read_classes(paths) == classes
    except MissingFeatures:
        return False


def read_classes(paths: FeaturePaths) -> ShiftedClasses:
    """Read the classes of a shifted set. Raises MissingFeatures for a file that is not there or damaged."""
    try:
        if not paths.classes.exists():
            raise ValueError("it is not there")
        classes = schema.build(ShiftedClasses, files.parse_json(files.read_bytes(paths.classes)), "its content")
        known = set(classes.parent_labels)
        if not len(known) == len(classes.parent_labels) == len(classes.classnames) > 0 or min(known) < 0:
            raise ValueError("it does not have a name and a label for each class")
    except ValueError as error:
        raise MissingFeatures(
            f"no classes in {paths.classes} ({error}); features.py writes them, and encodes nothing again"
        ) from error
    return classes
