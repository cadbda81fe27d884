"""Simulate how the paper's tables scale on a cluster, from the costs of their parts.

    python bench/cluster.py                                  # 1 to 256 GPUs, costs of bench/costs.json
    python bench/cluster.py --device cpu --delay 0           # machines of two cores, whose costs are mostly measured
    python bench/cluster.py --shards 16 --costs my_costs.json

Every sweep of the tables is a submission of submit.py: shards that extract missing features, then shards that train.
The project divides the work here as it does there (`engine.shards`, `engine.sweep.costs`). A shard takes a GPU for
`--delay` seconds, its start and its work; a free GPU takes the next shard in the order of submission. ImageNet-ESC and
shifted test sets, which take minutes, are left out. Costs that nobody measured have a *.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from engine.config import SEEDS  # noqa: E402
from engine.datasets.few_shot import class_counts, load_split  # noqa: E402
from engine.features.extract import SHARD_IMAGES  # noqa: E402
from engine.features.views import training_views  # noqa: E402
from engine.paper import layout  # noqa: E402
from engine.results.runs import Cell  # noqa: E402
from engine.shards import divide  # noqa: E402
from engine.sweep.costs import cost as estimated_cost  # noqa: E402
from engine.sweep.costs import outline  # noqa: E402

INDICES = ROOT / "indices"
GPUS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
IMAGES_PER_FILE = {0: SHARD_IMAGES, 1: 320}
"""Images of a feature file by image layer: a unit of extraction."""


class Costs:
    """Seconds of the parts of the work on a device."""

    def __init__(self, path: Path, device: str):
        self.rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if row["device"] == device]
        if not self.rows:
            raise SystemExit(f"error: {path} has no costs of device {device}")

    def seconds(self, cost: str, of: str | None = None, classes: int = 0) -> float:
        """Return the seconds of a start, an image, or a step of a run; between numbers of classes, linearly."""
        rows = [row for row in self.rows if row["cost"] == cost and row.get("of") == of]
        if not rows:
            raise SystemExit(f"error: no cost of: {cost} {of}")
        return float(np.interp(classes, [row.get("classes", 0) for row in rows], [row["seconds"] for row in rows]))

    def __str__(self) -> str:
        return "\n".join(
            f"{'*' if row['assumed'] else ' '} {row['cost']:6} {row.get('of', ''):22} {row.get('classes', ''):>5}"
            f" {row['seconds']:12.6f} s   {row['source']}"
            for row in self.rows
        )


class Unit(NamedTuple):
    """A part of the work that is not divided: its cost as the project estimates it, and its seconds."""

    estimate: int
    seconds: float


@dataclass
class Stage:
    """The shards of a stage in seconds; `after` are the stages that it waits for."""

    shards: list[float]
    after: list[Stage] = field(default_factory=list)
    end: float = 0.0


def sweeps() -> list[list[Cell]]:
    """Return the cells of the paper's tables, each once, in a list for each command of train.py."""
    found: dict[Cell, dict[Cell, None]] = {}
    for number, table in layout.TABLES.items():
        scope = layout.paper_scope(number, SEEDS)
        for row, coordinates in layout.rows(number, scope) if table.kind != "esc" else ():
            if layout.is_zeroshot(row) or layout.METHODS[row.method].mode is None:
                continue
            for dataset in scope.datasets:
                for shots in [coordinates.shots] if coordinates.shots else scope.shots:
                    for seed in SEEDS:
                        cell = layout.cell(row, dataset, shots, seed, scope)
                        found.setdefault(replace(cell, dataset="", shots=0, seed=0), {})[cell] = None
    order = {name: place for place, name in enumerate(class_counts(INDICES))}
    return [sorted(cells, key=lambda one: (order[one.dataset], one.shots, one.seed)) for cells in found.values()]


@cache
def positions(dataset: str, split: str) -> int:
    """Return the number of images of a split that 1 to 16 shots and three seeds need."""
    if split == "test":
        return class_counts(INDICES)[dataset]["test"]
    splits = (load_split(INDICES, dataset, shots, seed) for shots in (1, 2, 4, 8, 16) for seed in SEEDS)
    return len({position for one in splits for position in getattr(one, split)})


def extraction(cells: list[Cell], costs: Costs, stored: set[tuple]) -> list[Unit]:
    """Return the files of features that `cells` need and `stored` lacks, and add them."""
    first, units = cells[0], []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        views = [("train", view) for view in training_views(first.image_augmentation, first.image_views)]
        for split, view in [*views, ("val", "none"), ("test", "none")]:
            bank = first.encoder, first.image_layer, dataset, split, view
            if bank not in stored:
                stored.add(bank)
                left, size = positions(dataset, split), IMAGES_PER_FILE[first.image_layer]
                counts = [size] * (left // size) + [left % size] * bool(left % size)
                units += [Unit(count, count * costs.seconds("image", first.encoder)) for count in counts]
    return units


@cache
def training(cell: Cell, costs: Costs) -> Unit:
    """Return a cell as a unit: its runs' steps take the time of their method, or of the layers that they train."""
    layers = {"image": cell.image_layer, "text": cell.text_layer}
    kinds = [f"{cell.encoder} {name} layers" for name, trained in layers.items() if trained] or [cell.head]
    task = outline(cell, INDICES)
    step = sum(costs.seconds("step", kind, len(task.initial)) for kind in kinds)
    steps = sum(cell.method.fit.steps(task, hparams, cell.max_iter) for hparams in cell.grid)
    return Unit(estimated_cost(cell, INDICES), steps * step)


def stages(count: int, costs: Costs, overhead: float) -> Iterator[Stage]:
    """Yield the stages of all submissions, of `count` shards each; shards without work only start."""
    stored: set[tuple] = set()
    extractions: dict[str, list[Stage]] = {}
    for cells in sweeps():
        after = extractions.setdefault(cells[0].encoder, [])
        if units := extraction(cells, costs, stored):
            after.append(Stage(shards_of(units, count, overhead)))
            yield after[-1]
        yield Stage(shards_of([training(cell, costs) for cell in cells], count, overhead), list(after))


def shards_of(units: list[Unit], count: int, overhead: float) -> list[float]:
    """Return the seconds of each shard."""
    parts = divide([unit.estimate for unit in units], count)
    return [overhead + sum(unit.seconds for unit in units[part]) for part in parts]


def makespan(todo: list[Stage], gpus: int) -> float:
    """Return when the last shard ends. Shards start in order, each on the GPU that is free first."""
    free = [0.0] * gpus
    for stage in todo:
        ready = max((other.end for other in stage.after), default=0.0)
        for seconds in stage.shards:
            start = max(heapq.heappop(free), ready)
            heapq.heappush(free, start + seconds)
            stage.end = max(stage.end, start + seconds)
    return max(free)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=ROOT / "bench" / "costs.json", help="a file of costs")
    parser.add_argument("--device", default="cuda", help="whose costs: cuda, or cpu (two cores)")
    parser.add_argument("--delay", type=float, default=30, help="seconds from a free GPU to the start of a job")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS, help="numbers of GPUs")
    parser.add_argument("--shards", type=int, help="shards of a submission (default: one for each GPU)")
    args = parser.parse_args()
    costs = Costs(args.costs, args.device)
    print(f"costs on {args.device} (* not measured, but assumed)\n{costs}")
    work = sum(sum(stage.shards) for stage in stages(1, costs, 0))
    cells = [cell for cells in sweeps() for cell in cells]
    print(f"\n{len(sweeps())} sweeps, {len(cells):,} cells: {work / 3600:,.1f} hours of work without overheads")
    hours, title, longest = max((training(cell, costs).seconds / 3600, cell.method.title, str(cell)) for cell in cells)
    print(f"the longest cell, which no shards divide: {title}, {longest}, {hours:,.2f} h")
    print(f"delay {args.delay:g} s, start {costs.seconds('start'):g} s\n\nGPUs  shards  makespan (h)  efficiency")
    for gpus in args.gpus:
        shards = args.shards or gpus
        hours = makespan(list(stages(shards, costs, args.delay + costs.seconds("start"))), gpus) / 3600
        print(f"{gpus:4}  {shards:6}  {hours:12,.2f}  {work / 3600 / hours / gpus:9.1%}")


if __name__ == "__main__":
    main()
