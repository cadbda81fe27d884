"""A classifier's predictions for the images of a split, and the numbers of a report that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine import calibration
from engine.model import LinearClassifier
from engine.scores import StoredRun

TOP = 5
"""Top-5 accuracy: the true class is among the 5 most probable."""
NORMAL = 1.959964
"""The quantile of the normal distribution for intervals of 95 %."""
REJECTED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the validation images that the table of thresholds would reject."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A classifier's predictions for n images of `classes` classes.

    `labels` and `predicted` are int64 [n]. `better` [n] is the number of classes with a higher logit than the label.
    `confidence` and `of_label` [2, n] are the probabilities of the predicted class and of the label, before and after
    calibration; `surprise` [2, n] is the negative logarithm of the latter.
    """

    classes: int
    labels: np.ndarray
    predicted: np.ndarray
    better: np.ndarray
    confidence: np.ndarray
    surprise: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is right, bool [n]."""
        return self.predicted == self.labels

    @property
    def of_label(self) -> np.ndarray:
        """The probability of the label before and after calibration [2, n]."""
        return np.exp(-self.surprise)

    def confusion(self) -> np.ndarray:
        """Return the number of images by label and predicted class, int64 [C, C]."""
        cells = self.labels * self.classes + self.predicted
        return np.bincount(cells, minlength=self.classes**2).reshape(self.classes, self.classes)


def predictions(
    run: StoredRun,
    classifier: LinearClassifier,
    split: str,
    temperature: float,
    progress: Callable[[int], object] = lambda images: None,
) -> Predictions:
    """Return the predictions of a classifier for the images of a split; its logits are held for one batch at a time.

    `progress` is called with the number of images since its last call.
    """
    parts = []
    for labels, (logits,) in run.batches(split, [classifier]):
        labels, logits = labels.numpy(), logits.numpy()
        rows = np.arange(len(labels))
        better = (logits > logits[rows, labels][:, None]).sum(axis=1)
        logs = [calibration.log_probabilities(logits, of) for of in (1.0, temperature)]
        confidence = np.exp([log.max(axis=1) for log in logs])
        surprise = np.array([-log[rows, labels] for log in logs])
        progress(len(labels))
        parts.append((labels, logits.argmax(axis=1), better, confidence, surprise))
    joined = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    return Predictions(len(run.saved.classnames), *joined)


def wilson(right: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, 0 to 1."""
    share, squared = right / total, NORMAL**2
    centre = share + squared / (2 * total)
    half = NORMAL * math.sqrt(share * (1 - share) / total + squared / (4 * total**2))
    return max(0.0, (centre - half) / (1 + squared / total)), min(1.0, (centre + half) / (1 + squared / total))


def summary(found: Predictions) -> dict[str, float | int | list[float]]:
    """Return the numbers of a split: accuracies, 0 to 1, then likelihood and error before and after calibration."""
    right, total = int(found.correct.sum()), len(found.labels)
    confusion = found.confusion()
    images = confusion.sum(axis=1)
    present = images > 0
    return {
        "images": total,
        "right": right,
        "accuracy": right / total,
        "accuracy_95_percent": list(wilson(right, total)),
        "mean_per_class_accuracy": float((confusion.diagonal()[present] / images[present]).mean()),
        "top_5_accuracy": float((found.better < TOP).mean()),
        "negative_log_likelihood": [float(of_one.mean()) for of_one in found.surprise],
        "expected_calibration_error": [
            calibration.expected_calibration_error(of_one, found.correct) for of_one in found.confidence
        ],
    }


class ClassRow(NamedTuple):
    """A class: its images by split, right predictions, accuracy (None without test images), and the class that its
    images are most often taken for, with their number (None, 0 without errors)."""

    label: int
    train: int
    val: int
    test: int
    right: int
    accuracy: float | None
    confused: int | None
    times: int


def class_rows(found: Predictions, train: Sequence[int], val: Sequence[int]) -> list[ClassRow]:
    """Return the rows of all classes; `train` and `val` are the labels of the images of these splits."""
    confusion = found.confusion()
    right, test = confusion.diagonal(), confusion.sum(axis=1)
    wrong = confusion - np.diag(right)
    counts = [np.bincount(labels, minlength=found.classes) for labels in (train, val)]
    rows = []
    for label in range(found.classes):
        times = int(wrong[label].max())
        accuracy = int(right[label]) / int(test[label]) if test[label] else None
        images = [int(of[label]) for of in (*counts, test, right)]
        rows.append(ClassRow(label, *images, accuracy, int(wrong[label].argmax()) if times else None, times))
    return rows


def pairs(found: Predictions) -> list[tuple[int, int, int]]:
    """Return label, predicted class and number of images for all errors, most frequent first."""
    confusion = found.confusion()
    np.fill_diagonal(confusion, 0)
    labels, taken_for = confusion.nonzero()
    counts = confusion[labels, taken_for]
    order = np.argsort(-counts, kind="stable")
    return [(int(labels[k]), int(taken_for[k]), int(counts[k])) for k in order]


class Threshold(NamedTuple):
    """A threshold that rejects a share of the validation images (None: all), and the effect on the test images."""

    asked: float
    threshold: float | None
    rejected: float
    accuracy: float | None


def thresholds(val: Predictions, test: Predictions) -> list[Threshold]:
    """Return the thresholds on the calibrated confidence of validation images for `REJECTED`, measured on the test set.

    `accuracy` is among the test images that are kept; None if none are.
    """
    rows = []
    for share in REJECTED:
        threshold = calibration.reject_threshold(val.confidence[1], share)
        kept = test.confidence[1] >= threshold
        accuracy = float(test.correct[kept].mean()) if kept.any() else None
        rows.append(Threshold(share, None if math.isinf(threshold) else threshold, 1 - float(kept.mean()), accuracy))
    return rows


def confident_mistakes(found: Predictions, count: int) -> list[int]:
    """Return the positions of the mistakes with the highest calibrated confidence, highest first."""
    wrong = np.flatnonzero(~found.correct)
    return wrong[np.argsort(-found.confidence[1][wrong], kind="stable")][:count].tolist()


def doubtful_successes(found: Predictions, count: int) -> list[int]:
    """Return the positions of the right predictions with the lowest calibrated confidence, lowest first."""
    right = np.flatnonzero(found.correct)
    return right[np.argsort(found.confidence[1][right], kind="stable")][:count].tolist()
