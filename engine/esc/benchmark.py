"""What ImageNet-ESC is made of, as data; the demo has a benchmark of the same form (`engine.demo.esc`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.features import audio
from engine.files import read_json
from engine.results import esc

CLASSES = Path(__file__).with_name("classes.json")
"""The paper's loose matches (27) between ImageNet and ESC-50, and the accurate ones of them (19)."""


@dataclass(frozen=True, eq=False)
class EscBenchmark:
    """Images of a dataset under an encoder, and sounds under another one of the same space.

    `class_sets` say, by their number of classes, which label of the dataset is which category of the sounds. In a class
    set the new label is the rank of the dataset's.
    """

    name: str
    dataset: str
    encoder: str
    sounds: str
    audio_encoder: str
    class_sets: Mapping[int, Mapping[int, str]]

    def __post_init__(self):
        """Raises ValueError for class sets that are not those of the tables, or call one class by two names."""
        if {size: len(own) for size, own in self.class_sets.items()} != {size: size for size in esc.CLASSES[self.name]}:
            raise ValueError(f"the class sets of {self.name} are {[len(own) for own in self.class_sets.values()]}")
        if len(set(self.all_classes.values())) != len(self.all_classes):
            raise ValueError(f"a category of {self.sounds} belongs to several labels of {self.dataset}")

    @property
    def all_classes(self) -> dict[int, str]:
        """The classes of all class sets."""
        return {label: name for own in self.class_sets.values() for label, name in own.items()}


def imagenet_esc(encoder: str = "RN50") -> EscBenchmark:
    """The paper's. `encoder` is the folder of the images' features: CLIP RN50 is the one whose space AudioCLIP has."""
    content = read_json(CLASSES)
    sets = {len(own): {int(label): category for label, category in own.items()} for own in content.values()}
    return EscBenchmark("imagenet_esc", "imagenet", encoder, audio.DATASET, audio.ENCODER, dict(sorted(sets.items())))
