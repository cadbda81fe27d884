"""The schedule and the grids of section 5 of the protocol."""

import math

import pytest

from engine.methods import GRIDS
from engine.training.grid import Hyperparameters
from engine.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1e-5),
        (1, 1e-3 / 50),
        (49, 49e-3 / 50),
        (50, 1e-3),
        (50 + 6400, 0.5e-3),
        (12_799, 1e-3 * (1 + math.cos(math.pi * 12_749 / 12_800)) / 2),
    ],
)
def test_learning_rate(step, expected):
    assert learning_rate(step, 1e-3) == pytest.approx(expected, rel=1e-12)


def test_the_first_step_is_the_same_for_every_learning_rate():
    assert learning_rate(0, 1e-4) == learning_rate(0, 1e-3) == 1e-5


def test_the_linear_grid_in_the_order_that_breaks_ties():
    points = list(GRIDS["linear"])
    assert len(points) == 12
    assert points[0] == Hyperparameters(1e-3, 0.0, 8)
    assert points[1] == Hyperparameters(1e-3, 0.0, 32)
    assert points[2] == Hyperparameters(1e-3, 0.01, 8)
    assert points[6] == Hyperparameters(1e-4, 0.0, 8)
    assert points[-1] == Hyperparameters(1e-4, 0.0001, 32)
