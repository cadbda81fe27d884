"""The order in which runs see their samples: the same for every executor, whatever ran before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from engine.training.grid import Hparams
from engine.training.problem import Problem


def generator(name: str) -> torch.Generator:
    """A random generator on the CPU that is seeded by `name` alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    return torch.Generator().manual_seed(seed)


class IndexStream:
    """Endless batches of indices below `length`: shuffled without replacement, reshuffled each pass.

    The incomplete last batch of a pass is dropped. With several `views` a pass takes one view of each sample, the next
    pass the next view; the indices of view v lie `length` / `views` * v further on.
    """

    def __init__(self, length: int, batch: int, name: str, views: int = 1):
        """Raises ValueError for a batch larger than a pass."""
        self._length, self._batch, self._views = length // views, batch, views
        if not 0 < batch <= self._length:
            raise ValueError(f"batches of {batch} cannot be drawn from {self._length} samples")
        self._generator = generator(name)
        self._left = torch.empty(0, batch, dtype=torch.int64)
        self._passes = 0

    def take(self, steps: int) -> Tensor:
        """Return the next `steps` batches, int64 [steps, batch]."""
        per_pass = self._length // self._batch
        passes = max(0, -(-(steps - len(self._left)) // per_pass))
        # ranks of random numbers: one randperm a pass takes several times as long where passes are short
        orders = torch.rand(passes, self._length, dtype=torch.float64, generator=self._generator).argsort(1)
        if self._views > 1:
            views = torch.arange(self._passes, self._passes + passes) % self._views
            orders += self._length * views.unsqueeze(1)
        self._passes += passes
        batches = torch.cat([self._left, orders[:, : per_pass * self._batch].reshape(-1, self._batch)])
        self._left = batches[steps:]
        return batches[:steps]


def streams(problem: Problem, hparams: Hparams) -> list[IndexStream]:
    """Return a stream per modality of a problem. Runs that differ in other than the size of batches share batches."""
    shares = problem.shares(hparams)
    views = [problem.task.views if problem.descent.views_in_turn else 1] + [1] * (len(shares) - 1)
    return [
        IndexStream(len(samples), share, f"{problem.task.name}/source {number}/batch {sum(shares)}", of_views)
        for number, (samples, share, of_views) in enumerate(zip(problem.modalities, shares, views, strict=True))
    ]
