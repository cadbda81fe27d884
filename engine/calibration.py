"""Calibration of probabilities: one temperature, its effect, and a threshold on the confidence to reject images.

Arrays are numpy's, computed in float64. `logits` are [n, C], `labels` int [n]. The `confidence` [n] of a prediction is
the probability of the predicted class; `correct` [n] is whether that class is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BINS = 15
"""The number of equal-width bins of confidence, as in Guo et al., On Calibration of Modern Neural Networks (2017)."""
MAX_TEMPERATURE = 1000.0
"""Temperatures are from 1 / MAX_TEMPERATURE to MAX_TEMPERATURE."""
MIN_IMAGES, FOLDS = 50, 5
"""The least number of images to fit a temperature on, and the folds of the cross-validation that must confirm it."""


@dataclass(frozen=True)
class Calibration:
    """Probabilities are softmax(logits / temperature).

    `images` is the number of validation images; `reason` is why the temperature stayed 1, '' if it was fitted.
    """

    temperature: float = 1.0
    images: int = 0
    reason: str = ""

    def __post_init__(self):
        if not 1 / MAX_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(f"temperature is {self.temperature}, not from {1 / MAX_TEMPERATURE} to {MAX_TEMPERATURE}")


class Reliability(NamedTuple):
    """Predictions by bin of confidence: mean confidence and accuracy (NaN in empty bins), and count; [bins] each."""

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


class Coverage(NamedTuple):
    """The share of images with a confidence of `threshold` or more, and the accuracy among them; [k] each.

    `threshold` are the distinct confidences in descending order, so that `coverage` ascends to 1.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the log-softmax of logits / temperature, float64 [n, C]."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def confidences(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the highest probability of each image, float64 [n]."""
    return np.exp(log_probabilities(logits, temperature).max(axis=1))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the labels, in nats."""
    return float(-log_probabilities(logits, temperature)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the highest likelihood of the labels, within the bounds of `MAX_TEMPERATURE`.

    The negative log-likelihood is convex in 1 / temperature. Its slope is the mean difference between the expected
    logit and the logit of the label. Where all labels have the highest logit, the result is the lower bound.
    """
    from scipy.optimize import brentq  # slow to import

    logits = np.asarray(logits, dtype=np.float64)
    of_labels = logits[np.arange(len(labels)), labels]

    def slope(log_temperature: float) -> float:
        chances = np.exp(log_probabilities(logits, math.exp(log_temperature)))
        return float((chances * (logits - of_labels[:, None])).sum(axis=1).mean())

    low, high = -math.log(MAX_TEMPERATURE), math.log(MAX_TEMPERATURE)
    if slope(low) <= 0:
        return 1 / MAX_TEMPERATURE
    return MAX_TEMPERATURE if slope(high) >= 0 else math.exp(brentq(slope, low, high))


def cross_validated(
    logits: np.ndarray, labels: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], float], folds: int
) -> float:
    """Return the mean negative log-likelihood of images at the temperature that `fit` returns for the other folds.

    Image i is in fold i modulo `folds`.
    """
    fold, total = np.arange(len(labels)) % folds, 0.0
    for number in range(folds):
        held_out = fold == number
        temperature = fit(logits[~held_out], labels[~held_out])
        total += negative_log_likelihood(logits[held_out], labels[held_out], temperature) * held_out.sum()
    return total / len(labels)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Return the calibration of a classifier from its validation images.

    The temperature stays 1 unless it raises the likelihood of images that it was not fitted on.
    """
    images = len(labels)
    if images < MIN_IMAGES:
        return Calibration(images=images, reason=f"{images} validation images are fewer than {MIN_IMAGES}")
    if (logits.argmax(axis=1) == labels).all():
        return Calibration(
            images=images,
            reason=f"all {images} validation images are classified correctly: no temperature is likeliest",
        )
    before, after = negative_log_likelihood(logits, labels), cross_validated(logits, labels, fit_temperature, FOLDS)
    if after >= before:
        losses = f"{after:.3f} with it, {before:.3f} without"
        return Calibration(
            images=images,
            reason=f"a temperature does not help in {FOLDS}-fold cross-validation on {images} validation images"
            f" (negative log-likelihood {losses})",
        )
    return Calibration(fit_temperature(logits, labels), images)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Return predictions by bin of confidence; bin i is (i / bins, (i + 1) / bins]."""
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(places, minlength=bins)
    sums = (np.bincount(places, weights=values, minlength=bins) for values in (confidence, correct))
    with np.errstate(invalid="ignore"):
        return Reliability(*(of_bin / count for of_bin in sums), count)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the mean over images of the difference between confidence and accuracy of their bin, 0 to 1."""
    found = reliability(confidence, correct, bins)
    return float(np.nansum(np.abs(found.confidence - found.accuracy) * found.count) / found.count.sum())


def accuracy_by_coverage(confidence: np.ndarray, correct: np.ndarray) -> Coverage:
    """Return coverage and accuracy at every threshold on the confidence."""
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    confidence, right = np.asarray(confidence, dtype=np.float64)[order], np.cumsum(np.asarray(correct)[order])
    last = np.append(np.flatnonzero(np.diff(confidence)), len(confidence) - 1)  # of images with equal confidence
    return Coverage(confidence[last], (last + 1) / len(confidence), right[last] / (last + 1))


def reject_threshold(confidence: np.ndarray, share: float) -> float:
    """Return a threshold that a `share`, 0 to 1, of the images is below, to the nearest image; infinity for all.

    It lies half-way to the next lower confidence, because confidences of the same images vary by rounding. Images of
    equal confidence are not separated: fewer are below. It is 0 if no image is below. Raises ValueError for
    other shares.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share is {share}, not from 0 to 1")
    ascending = np.sort(np.asarray(confidence, dtype=np.float64))
    rejected = math.floor(share * len(ascending) + 0.5)
    if rejected == len(ascending):
        return math.inf
    accepted = ascending[rejected]
    below = ascending[ascending < accepted]
    return float((below[-1] + accepted) / 2) if len(below) else 0.0
