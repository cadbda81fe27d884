"""Divide work among processes: `--shard I/N` is the I-th of N parts.

The parts are disjoint and complete whenever each of them starts: units of work and their costs follow from arguments,
few-shot splits and lists of images alone, never from existing results.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise, starmap
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

    Other runs are as equal as their neighbours allow. Neighbours stay together because they share inputs. With fewer
    units than runs, the last runs are empty.
    """
    low, high = max(costs, default=0), sum(costs)
    while low < high:
        limit = (low + high) // 2
        if len(_fill(costs, limit, count)) <= count + 1:
            high = limit
        else:
            low = limit + 1
    bounds = _even(_fill(costs, low, count), [0, *accumulate(costs)])
    return [*starmap(slice, pairwise(bounds)), *[slice(len(costs), len(costs))] * (count + 1 - len(bounds))]


def _fill(costs: Sequence[int], limit: int, count: int) -> list[int]:
    """Return bounds of runs of totals up to `limit`. A run ends early if each later unit can have its own."""
    bounds, total = [0], 0
    for unit, cost in enumerate(costs):
        units_left, runs_left = len(costs) - unit, count - len(bounds)
        if unit > bounds[-1] and (total + cost > limit or units_left <= runs_left):
            bounds.append(unit)
            total = 0
        total += cost
    return [*bounds, len(costs)]


def _even(bounds: list[int], totals: list[int]) -> list[int]:
    """Return the bounds of runs after each was moved to where the larger of its two runs is smallest, until none moves.

    `totals` are the costs of all units before each unit, and of all.
    """
    for _ in bounds:
        before = list(bounds)
        for place in range(1, len(bounds) - 1):
            low, high = bounds[place - 1], bounds[place + 1]
            if high - low > 1:
                half = bisect_left(totals, (totals[low] + totals[high]) / 2, low + 1, high - 1)
                near = range(max(low + 1, half - 1), half + 1)
                bounds[place] = min(near, key=lambda at: max(totals[at] - totals[low], totals[high] - totals[at]))
        if bounds == before:
            break
    return bounds
