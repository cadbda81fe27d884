"""The order in which runs see their samples: the same for every executor, whatever ran before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from engine.training.problem import Problem


def generator(name: str) -> torch.Generator:
    """A random generator on the CPU that is seeded by `name` alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    return torch.Generator().manual_seed(seed)


class IndexStream:
    """Endless batches of indices below `length`: shuffled without replacement, reshuffled each pass.

    The incomplete last batch of a pass is dropped.
    """

    def __init__(self, length: int, batch: int, name: str):
        """Raises ValueError for a batch larger than `length`, of which a pass would have none."""
        if not 0 < batch <= length:
            raise ValueError(f"batches of {batch} cannot be drawn from {length} samples")
        self._length, self._batch = length, batch
        self._generator = generator(name)
        self._left = torch.empty(0, batch, dtype=torch.int64)

    def take(self, steps: int) -> Tensor:
        """The next `steps` batches, int64 [steps, batch]."""
        per_pass = self._length // self._batch
        passes = max(0, -(-(steps - len(self._left)) // per_pass))
        # ranks of random numbers: one randperm a pass takes several times as long where passes are short
        orders = torch.rand(passes, self._length, dtype=torch.float64, generator=self._generator).argsort(1)
        batches = torch.cat([self._left, orders[:, : per_pass * self._batch].reshape(-1, self._batch)])
        self._left = batches[steps:]
        return batches[:steps]


def streams(problem: Problem, batch_size: int) -> list[IndexStream]:
    """One stream per source of a problem. Learning rate and weight decay do not matter: such runs share batches."""
    share = problem.share(batch_size)
    return [
        IndexStream(len(source), share, f"{problem.name}/source {number}/batch {batch_size}")
        for number, source in enumerate(problem.sources)
    ]
