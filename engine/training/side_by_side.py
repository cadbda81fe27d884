"""Run independent fits side by side, one on each core of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from engine.training.task import Fitted, Run

LARGE = 1 << 23
"""A fit with more features and logits of training samples than this gets all cores and all of the memory."""


@contextmanager
def one_thread_per_kernel() -> Iterator[int]:
    """Let torch run each CPU kernel on one thread; yield the previous number of threads.

    The kernels of a step are too short to share: on a busy machine, two threads that wait for each other after each
    kernel took a hundred times as long. The cores run whole stacks or fits instead.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield cores
    finally:
        torch.set_num_threads(cores)


def fit_each(
    runs: Sequence[Run],
    fit: Callable[[Run], Fitted],
    *,
    progress: Callable[[int], object],
    steps: int = 1,
    in_turn: bool = False,
) -> Iterator[dict[Run, Fitted]]:
    """Yield the result of `fit` for each of `runs`, which run on as many threads as there are cores.

    Large fits, fits on other devices and all fits with `in_turn` run one after another. A result does not depend on
    what else is fitted: a small fit takes one thread even if it is alone. `progress` is called with `steps` after each.
    """
    small = []
    for run in runs:
        if run.task.device.type == "cpu" and _size(run) <= LARGE:
            small.append(run)
            continue
        fitted = fit(run)
        progress(steps)
        yield {run: fitted}
    with one_thread_per_kernel() as cores, ThreadPoolExecutor(1 if in_turn else cores) as pool:
        try:
            pending = [(run, pool.submit(fit, run)) for run in small]
            while pending:
                run, future = pending.pop(0)
                fitted = future.result()
                progress(steps)
                yield {run: fitted}
        finally:
            pool.shutdown(cancel_futures=True)


def _size(run: Run) -> int:
    """Return how many features and logits the training samples of a run have."""
    classes, dimension = run.task.initial.shape
    return sum(map(len, run.task.samples.values())) * (dimension + classes)
