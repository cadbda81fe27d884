"""Calibration, against computations without its shortcuts."""

import math

import numpy as np
import pytest

from engine.calibration import (
    accuracy_by_coverage,
    confidences,
    cross_validated,
    expected_calibration_error,
    fit_temperature,
    log_probabilities,
    negative_log_likelihood,
    reject_threshold,
    reliability,
)


def draw(images: int = 400, classes: int = 6, temperature: float = 1.0, seed: int = 0):
    """Logits, and labels that are drawn from their softmax at `temperature`."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=4.0, size=(images, classes))
    chances = np.exp(logits / temperature)
    chances /= chances.sum(axis=1, keepdims=True)
    return logits, np.array([random.choice(classes, p=row) for row in chances])


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_fitted_temperature_is_where_the_slope_of_the_likelihood_is_zero(temperature):
    logits, labels = draw(4000, temperature=temperature)
    found = fit_temperature(logits.astype(np.float32), labels)
    assert found == pytest.approx(temperature, rel=0.1)
    # by 1 / T: expected minus observed logit of the label
    chances = np.exp(logits / found) / np.exp(logits / found).sum(axis=1, keepdims=True)
    slope = (chances * logits).sum(axis=1) - logits[np.arange(len(labels)), labels]
    assert abs(slope.mean()) < 1e-5
    grid = [negative_log_likelihood(logits, labels, found * factor) for factor in (0.98, 1.0, 1.02)]
    assert min(grid) == grid[1]


def test_temperatures_are_bounded_and_large_logits_overflow_nothing():
    logits = np.eye(4, dtype=np.float32) * 3e4
    assert fit_temperature(logits, np.arange(4)) == 1e-3
    assert fit_temperature(logits, (np.arange(4) + 1) % 4) == 1e3
    assert negative_log_likelihood(logits, np.arange(4)) == 0
    assert negative_log_likelihood(logits, (np.arange(4) + 1) % 4) == pytest.approx(3e4)


def test_likelihood_and_confidence_are_of_the_softmax():
    logits, labels = draw(50)
    chances = np.array([[math.exp(one / 2) for one in row] for row in logits])
    chances /= chances.sum(axis=1, keepdims=True)
    assert np.allclose(np.exp(log_probabilities(logits, 2)), chances)
    assert np.allclose(confidences(logits, 2), chances.max(axis=1))
    expected = -sum(math.log(row[label]) for row, label in zip(chances, labels, strict=True)) / 50
    assert negative_log_likelihood(logits, labels, 2) == pytest.approx(expected)


def test_each_fold_is_measured_at_the_temperature_of_the_others():
    logits, labels = draw(53)
    expected = []
    for image in range(53):
        others = [other for other in range(53) if other % 5 != image % 5]
        temperature = fit_temperature(logits[others], labels[others])
        expected.append(negative_log_likelihood(logits[[image]], labels[[image]], temperature))
    assert cross_validated(logits, labels, fit_temperature, 5) == pytest.approx(np.mean(expected))


def test_bins_of_confidence_and_the_expected_calibration_error():
    random = np.random.default_rng(1)
    confidence, correct = random.uniform(0.2, 1, 300), random.random(300) < 0.6
    confidence[:4] = 1.0, 1 / 3, 2 / 15, 1e-9  # the upper edge of a bin belongs to it
    found, error = reliability(confidence, correct), 0.0
    for number in range(15):
        inside = [i for i in range(300) if number / 15 < confidence[i] <= (number + 1) / 15]
        assert found.count[number] == len(inside)
        if not inside:
            assert np.isnan(found.confidence[number])
            assert np.isnan(found.accuracy[number])
            continue
        mean, right = sum(confidence[inside]) / len(inside), sum(correct[inside]) / len(inside)
        assert (found.confidence[number], found.accuracy[number]) == pytest.approx((mean, right))
        error += abs(mean - right) * len(inside) / 300
    assert expected_calibration_error(confidence, correct) == pytest.approx(error)


def test_accuracy_by_coverage_counts_equal_confidences_together():
    confidence, correct = [0.5, 0.9, 0.5, 0.7, 0.9], [True, True, False, False, True]
    threshold, coverage, accuracy = accuracy_by_coverage(confidence, correct)
    assert threshold.tolist() == [0.9, 0.7, 0.5]
    assert coverage.tolist() == [0.4, 0.6, 1.0]
    assert accuracy.tolist() == pytest.approx([1, 2 / 3, 3 / 5])


@pytest.mark.parametrize(("share", "rejected"), [(0, 0), (0.04, 0), (0.06, 1), (0.3, 3), (0.94, 9), (1, 10)])
def test_a_share_of_the_images_is_below_the_threshold(share, rejected):
    confidence = np.random.default_rng(2).permutation(np.arange(1, 11) / 10)
    threshold = reject_threshold(confidence, share)
    assert (confidence < threshold).sum() == rejected
    assert np.abs(confidence - threshold).min() > 0.049  # rounding moves no image


def test_equal_confidences_are_rejected_together_or_not_at_all():
    assert reject_threshold([1.0, 0.5, 1.0, 1.0], 0.5) == 0.75
    assert reject_threshold([1.0, 1.0], 0.5) == 0


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match=r"the share is .*, not from 0 to 1"):
        reject_threshold([0.5, 1.0], share)
