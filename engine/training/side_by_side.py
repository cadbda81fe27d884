"""Fits that share nothing, one on each core of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch

from engine.training.task import Fitted, Run

LARGE = 1 << 23
"""How many features and logits of training samples a fit has that takes all cores and the memory for itself."""


@contextmanager
def one_thread_per_kernel() -> Iterator[int]:
    """Let torch run each CPU kernel on one thread, and return how many it used to take.

    The kernels of a step are too short to share: on a busy machine two threads that wait for each other at the end of
    each one were seen to take a hundred times as long. Whole stacks or fits are what the cores share out.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield cores
    finally:
        torch.set_num_threads(cores)


def fit_each(
    runs: Sequence[Run], fit: Callable[[Run], Fitted], *, in_turn: bool = False
) -> Iterator[dict[Run, Fitted]]:
    """Yield the result of `fit` for each of `runs`, with as many at a time as there are cores.

    Fits on other devices, large ones and all with `in_turn` come one after another. What else is fitted changes no
    result: small fits take one thread each even if they are alone.
    """
    small = [run for run in runs if run.task.device.type == "cpu" and _size(run) <= LARGE]
    for run in runs:
        if run not in small:
            yield {run: fit(run)}
    with one_thread_per_kernel() as cores, ThreadPoolExecutor(1 if in_turn else cores) as pool:
        pending = {}
        try:
            for run in small:
                pending[pool.submit(fit, run)] = run
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield {pending.pop(future): future.result()}
        finally:
            pool.shutdown(cancel_futures=True)


def _size(run: Run) -> int:
    """Return how many features and logits the training samples of a run have."""
    classes, dimension = run.task.initial.shape
    return sum(map(len, run.task.samples.values())) * (dimension + classes)
