"""Fits that share nothing: their order, their threads, and what is left of them when one fails."""

import threading
import time

import pytest
import torch

from engine.training import side_by_side
from engine.training.grid import Hparams
from engine.training.side_by_side import fit_each
from engine.training.task import Run, Samples, Task


@pytest.fixture
def runs():
    """Eight runs on tasks of two samples; torch has two threads."""
    torch.set_num_threads(2)
    samples = Samples((torch.eye(2),), torch.arange(2), torch.arange(2))
    tasks = [Task(f"task {number}", {"image": samples}, samples, torch.eye(2), 1.0) for number in range(8)]
    yield [Run(task, Hparams()) for task in tasks]
    torch.set_num_threads(1)


def silent(steps):
    """A progress callback that nobody watches."""


def values(fitted):
    """The results, in the order in which they came."""
    return [result for one in fitted for result in one.values()]


def test_results_come_in_order_with_their_progress(runs):
    told = []
    assert values(fit_each(runs, hash, progress=told.append, steps=3)) == list(map(hash, runs))
    assert told == [3] * 8
    assert torch.get_num_threads() == 2


def test_there_are_as_many_fits_at_a_time_as_cores(runs):
    """They wait for each other in twos; a kernel has one thread."""
    barrier = threading.Barrier(2, timeout=20)

    def fit(run):
        barrier.wait()
        return torch.get_num_threads()

    assert values(fit_each(runs, fit, progress=silent)) == [1] * 8


def test_in_turn_one_fits_at_a_time_with_the_same_threads(runs):
    fitting = threading.Lock()

    def fit(run):
        assert fitting.acquire(blocking=False)
        time.sleep(0.01)
        fitting.release()
        return torch.get_num_threads()

    assert values(fit_each(runs, fit, progress=silent, in_turn=True)) == [1] * 8


def test_large_fits_have_all_cores(runs, monkeypatch):
    monkeypatch.setattr(side_by_side, "LARGE", 7)  # 2 samples of 2 features and 2 logits
    assert values(fit_each(runs, lambda run: torch.get_num_threads(), progress=silent)) == [2] * 8


def test_the_rest_is_given_up_when_one_fails(runs):
    begun = []

    def fit(run):
        begun.append(run)
        time.sleep(0.05)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        values(fit_each(runs, fit, progress=silent))
    assert len(begun) < 8
    assert torch.get_num_threads() == 2


def test_the_rest_is_given_up_when_nobody_asks_for_it(runs):
    begun = []

    def fit(run):
        begun.append(run)
        time.sleep(0.05)

    results = fit_each(runs, fit, progress=silent)
    next(results)
    results.close()
    assert len(begun) < 8
