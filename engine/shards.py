"""Divide work among processes: `--shard I/N` is the I-th of N parts.

The parts are disjoint and complete whenever each of them starts: units of work and their costs follow from arguments,
few-shot splits and lists of images alone, never from existing results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Shard(NamedTuple):
    """The part `index`, 1 to `count`, of `count` parts."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def part(self, units: Sequence[T], costs: Sequence[int]) -> Sequence[T]:
        """Return the units of this part, which may be none."""
        return units[divide(costs, self.count)[self.index - 1]]


def divide(costs: Sequence[int], count: int) -> list[slice]:
    """Divide units with these costs, in their order, into `count` runs whose largest total is as small as possible.

    Neighbours stay together because they share inputs. With fewer units than runs, the last runs are empty.
    """
    low, high = max(costs, default=0), sum(costs)
    while low < high:
        limit = (low + high) // 2
        if len(_fill(costs, limit, count)) <= count:
            high = limit
        else:
            low = limit + 1
    runs = _fill(costs, low, count)
    return runs + [slice(len(costs), len(costs))] * (count - len(runs))


def _fill(costs: Sequence[int], limit: int, count: int) -> list[slice]:
    """Return runs of totals up to `limit`. A run ends early if each later unit can have one of `count` runs."""
    runs, start, total = [], 0, 0
    for unit, cost in enumerate(costs):
        units_left, runs_left = len(costs) - unit, count - len(runs) - 1
        if unit > start and (total + cost > limit or units_left <= runs_left):
            runs.append(slice(start, unit))
            start, total = unit, 0
        total += cost
    return [*runs, slice(start, len(costs))]
