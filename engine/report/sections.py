"""The part of a report on one classifier: its predictions, the numbers of them, and how it was made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from engine import calibration
from engine.calibration import Calibration
from engine.clip import names
from engine.config import commands
from engine.report import measure
from engine.report.measure import Predictions
from engine.results.runs import (
    EXTRACTION_KEYS,
    TEST,
    TRAINED,
    VAL,
    WISEFT,
    ZEROSHOT,
    as_json,
    describe_input,
    spell_modality,
)
from engine.scores import StoredRun


@dataclass(frozen=True, eq=False)
class Section:
    """A classifier's part of a report: its `number` and `title` on the page, its ratio of WiSE-FT, and its predictions.

    `images` are the paths of the test images. `made` are names and values: how the classifier was made.
    """

    number: int
    title: str
    run: StoredRun
    ratio: float
    calibrated: Calibration
    test: Predictions
    val: Predictions
    train_labels: Sequence[int]
    images: list[str]
    made: list[tuple[str, str]]

    @property
    def classnames(self) -> list[str]:
        """The class names by label."""
        return self.run.saved.classnames

    @cached_property
    def positions(self) -> list[int]:
        """The positions of the test images in the list of the dataset's test split."""
        return self.run.data.positions(self.run.cell, TEST)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The numbers of the test set."""
        return measure.summary(self.test)

    @cached_property
    def rows(self) -> list[measure.ClassRow]:
        """The rows of the classes, by label."""
        return measure.class_rows(self.test, self.train_labels, self.val.labels)

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """Label, predicted class and number of images of all errors, most frequent first."""
        return measure.pairs(self.test)

    @cached_property
    def thresholds(self) -> list[measure.Threshold]:
        """Thresholds of confidence for shares of rejected validation images."""
        return measure.thresholds(self.val, self.test)

    @property
    def zeroshot(self) -> float | None:
        """The zero-shot test accuracy in the run's record, if there is one."""
        return self.run.saved.run.accuracy(ZEROSHOT)

    @property
    def calibration(self) -> str:
        """The temperature, in words."""
        found = self.calibrated
        if found.reason:
            return f"The temperature is 1, and calibration changes nothing: {found.reason}."
        return (
            f"Calibration divides the logits by {found.temperature:.3g}, the temperature of the highest likelihood on"
            f" {found.images} validation images; predictions stay the same."
        )

    @property
    def without_pictures(self) -> str:
        """The remedy if no image can be read."""
        dataset = self.run.cell.dataset
        known = f"--data_dir of {dataset}" if not self.run.data.is_custom else f"--dataset PATH-OF-{dataset}"
        return f"The images are not here; name {known} to see them."

    def against(self, first: Section) -> tuple[int, int] | None:
        """Return how many images this classifier alone gets right, and the first one alone; None for other images."""
        if first is self or self.images != first.images or not np.array_equal(self.test.labels, first.test.labels):
            return None
        one, other = self.test.correct, first.test.correct
        return int((one & ~other).sum()), int((other & ~one).sum())

    def content(self) -> dict[str, Any]:
        """Return the section as JSON: numbers, curves, classes, and the run's record."""
        curves = zip(("before", "after"), self.test.confidence, strict=True)
        return {
            "title": self.title,
            "classifier": str(self.run.path),
            "wise_ft": self.ratio,
            "temperature": self.calibrated.temperature,
            "test": self.summary,
            "val": measure.summary(self.val),
            "zeroshot_accuracy": self.zeroshot,
            "classnames": self.classnames,
            "classes": [row._asdict() for row in self.rows],
            "confusions": self.pairs,
            "reliability": {name: _reliability(of_one, self.test.correct) for name, of_one in curves},
            "thresholds": [row._asdict() for row in self.thresholds],
            "record": as_json(self.run.saved.run),
        }


def _reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float | int | None]]:
    """Return the bins of a reliability diagram; None in empty bins."""
    bins = zip(*(array.tolist() for array in calibration.reliability(confidence, correct)), strict=True)
    return [
        {"confidence": mean if count else None, "accuracy": accuracy if count else None, "images": count}
        for mean, accuracy, count in bins
    ]


def images_of(run: StoredRun) -> int:
    """Return the number of images of a section, whose measurement counts them."""
    return sum(len(run.data.positions(run.cell, split)) for split in (TEST, VAL))


def titles(runs: Sequence[StoredRun], ratio: float) -> list[str]:
    """Return dataset, shots, seed and method of each run; of runs that share these, also the settings that differ."""
    averaged, cells = f" WiSE-FT {ratio:g}" if ratio else "", [run.cell for run in runs]
    plain = [
        f"{cell}: {cell.method.title}{averaged}, {spell_modality(cell.modality)}, {cell.encoder}" for cell in cells
    ]
    places = [cell.folder("").parts for cell in cells]
    found = []
    for title, place in zip(plain, places, strict=True):
        alike = [other for same, other in zip(plain, places, strict=True) if same == title]
        own = [part for part, *others in zip(place, *alike, strict=True) if len(set(others)) > 1]
        found.append(f"{title} ({', '.join(own)})" if own else title)
    return found


def section(
    number: int, title: str, run: StoredRun, args: argparse.Namespace, progress: Callable[[int], object]
) -> Section:
    """Measure a saved classifier on the stored features of its run; `progress` as in `measure.predictions`."""
    (classifier,), name = run.classifiers([args.wise_ft]), run.saved.classifier(args.wise_ft)
    calibrated = run.saved.calibration(name) if name else Calibration(reason="no temperature is saved for this ratio")
    split = partial(measure.predictions, run, classifier, temperature=calibrated.temperature, progress=progress)
    test, val = split(TEST), split(VAL)
    train = [label for _, labels in run.data.stream(run.cell, "train") for label in labels.tolist()]
    count = f"{len(train)} train, {len(val.labels)} val, {len(test.labels)} test"
    how = [("images of the few-shot problem", count), *made(run, args)]
    return Section(number, title, run, args.wise_ft, calibrated, test, val, train, run.images(TEST), how)


def made(run: StoredRun, args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return how a classifier was made, as names and values."""
    record, extraction, weights = run.saved.run, run.saved.extraction, args.clip_weights
    encoder = extraction.encoder if extraction else run.cell.encoder
    if names.folder(encoder, weights) != run.cell.encoder:
        weights = "FILE-OF-WEIGHTS"
    how = argparse.Namespace(clip_weights=weights, save_heads=True)
    accuracies = {
        f"{title} accuracy in the record": ", ".join(f"{of} {value:.1%}" for of, value in found.items())
        for name, title in ((TRAINED, "trained"), (WISEFT, "WiSE-FT"), (ZEROSHOT, "zero-shot"))
        if (found := record.accuracies.get(name))
    }
    pairs = {
        "command": commands.training_commands(how, [run.cell], {encoder: run.cell.encoder})[0],
        "hyper-parameters": f"{record.hyperparameters} (selected on validation among {len(record.grid)})",
        "tuned on validation": ", ".join(f"{name} {value:g}" for name, value in record.tuned.items()),
        "training step": str(record.step),
        **accuracies,
        "encoder": f"{run.cell.encoder}, {extraction.precision if extraction else 'imported features'}",
        "preprocessing": f"{extraction.description}, decoder {extraction.decode}" if extraction else "",
        **{
            f"{'settings' if name in EXTRACTION_KEYS else 'digest'} of {name}": describe_input(record.inputs, name)
            for name in record.inputs
        },
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "classifier": str(run.path),
    }
    return [(name, value) for name, value in pairs.items() if value]
