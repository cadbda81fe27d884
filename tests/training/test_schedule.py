"""The schedule and the grids of section 5 of the protocol."""

import math

import pytest

from engine.methods import METHODS
from engine.training.grid import Hparams
from engine.training.schedule import MAX_ITER, Steps, cosine, epoch_cosine, warmed_up_cosine


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
def test_the_protocols_learning_rate(step, expected):
    assert warmed_up_cosine(step, 1e-3, Steps(MAX_ITER)) == pytest.approx(expected, rel=1e-12)


def test_the_first_step_is_the_same_for_every_learning_rate():
    assert warmed_up_cosine(0, 1e-4, Steps(MAX_ITER)) == warmed_up_cosine(0, 1e-3, Steps(MAX_ITER)) == 1e-5
    assert epoch_cosine(2, 1e-4, Steps(9, 3)) == epoch_cosine(0, 1e-3, Steps(9, 3)) == 1e-5


def test_a_cosine_over_epochs_begins_after_the_warm_up_epoch_and_does_not_count_it():
    """4 epochs of 3 steps: the rates of the epochs are those of a cosine of 4 epochs that is one epoch late."""
    rates = [epoch_cosine(step, 2.0, Steps(12, 3)) for step in range(12)]
    expected = [1e-5, 2.0, 1 + math.cos(math.pi / 4), 1.0]
    assert rates == pytest.approx([rate for rate in expected for _ in range(3)], rel=1e-12)


def test_a_cosine_over_all_steps():
    assert [cosine(step, 2.0, Steps(4)) for step in range(4)] == pytest.approx(
        [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)]
    )


def test_the_linear_grid_in_the_order_that_breaks_ties():
    points = [tuple(point.values()) for point in METHODS["linear"].grid]
    assert len(points) == 12
    assert points[:3] == [(1e-3, 0.0, 8), (1e-3, 0.0, 32), (1e-3, 0.01, 8)]
    assert points[6] == (1e-4, 0.0, 8)
    assert points[-1] == (1e-4, 0.0001, 32)
    assert METHODS["linear"].grid.order() == "lr, weight decay, batch"


def test_hyper_parameters_name_their_folder_and_themselves():
    point = Hparams(lr=1e-3, weight_decay=0.01, batch_size=8)
    assert (point.folder, str(point)) == ("lr_0.001-wd_0.01-bs_8", "lr 0.001, weight decay 0.01, batch 8")
    assert hash(point) == hash(Hparams(batch_size=8, weight_decay=0.01, lr=1e-3))
    assert Hparams(start="text", a=0.5).folder == "start_text-a_0.5"
    assert Hparams().folder == "default"
