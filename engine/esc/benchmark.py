"""The definition of ImageNet-ESC; the demo has a benchmark of the same form (`engine.demo.esc`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.features import audio
from engine.files import read_json
from engine.results import esc

CLASSES = Path(__file__).with_name("classes.json")
"""The paper's 27 loose matches between classes of ImageNet and ESC-50, and the 19 accurate ones."""


@dataclass(frozen=True, eq=False)
class EscBenchmark:
    """Images and sounds under two encoders with a common feature space.

    `class_sets`, by number of classes, map labels of the image dataset to categories of the sounds. In a class set, the
    new label is the rank of the dataset's label.
    """

    name: str
    dataset: str
    encoder: str
    sounds: str
    audio_encoder: str
    class_sets: Mapping[int, Mapping[int, str]]

    def __post_init__(self):
        """Raise ValueError for class sets of other sizes than in the tables, or with two labels of one category."""
        sizes = {size: len(classes) for size, classes in self.class_sets.items()}
        if sizes != {size: size for size in esc.CLASSES[self.name]}:
            raise ValueError(f"the class sets of {self.name} have {list(sizes.values())} classes")
        if len(set(self.all_classes.values())) != len(self.all_classes):
            raise ValueError(f"a category of {self.sounds} belongs to several labels of {self.dataset}")

    @property
    def all_classes(self) -> dict[int, str]:
        """The classes of all class sets."""
        return {label: name for classes in self.class_sets.values() for label, name in classes.items()}


def imagenet_esc(encoder: str = "RN50") -> EscBenchmark:
    """Return the paper's benchmark; `encoder` is the folder of image features. AudioCLIP has the space of CLIP RN50."""
    by_size = {len(classes): classes for classes in read_json(CLASSES).values()}
    sets = {size: {int(label): category for label, category in found.items()} for size, found in by_size.items()}
    return EscBenchmark("imagenet_esc", "imagenet", encoder, audio.DATASET, audio.ENCODER, dict(sorted(sets.items())))
