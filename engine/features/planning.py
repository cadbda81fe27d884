"""What extraction would have to make of a dataset, and how much room that takes, before any of it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine import files
from engine.clip.load import Encoder
from engine.datasets import Benchmark
from engine.errors import UserError
from engine.features.extract import Plan, has_texts, image_row_bytes, plan, texts_bytes
from engine.features.store import Place
from engine.features.views import Rows

Prompts = tuple[Path, list[str], list[int]]
"""The file that the features of prompts go to, the prompts and their labels."""


@dataclass(frozen=True)
class Need:
    """A bank or a file of prompts: `missing` of the `asked` rows are yet to be made, and take about `size` bytes."""

    name: str
    asked: int
    missing: int
    size: int

    def __str__(self) -> str:
        what = f"{self.missing} of {self.asked} missing, {files.shown(self.size)}" if self.missing else "complete"
        return f"{self.name}: {what}"


@dataclass(frozen=True)
class DatasetPlan:
    """The features that one dataset needs under one encoder; `needs` says what is missing, of prompts first."""

    encoder: str
    dataset: str
    texts: Prompts
    parts: list[Plan]
    needs: list[Need]

    @property
    def title(self) -> str:
        """The encoder and the dataset."""
        return f"{self.encoder} {self.dataset}"

    @property
    def size(self) -> int:
        """Bytes that what is missing takes on disk."""
        return sum(need.size for need in self.needs)

    def __str__(self) -> str:
        prompts, *images = self.needs
        asked, new = sum(need.asked for need in images), sum(need.missing for need in images)
        return (
            f"{self.title}: {prompts.asked} prompts; {asked} images, counting views, {new} of them to encode;"
            f" {files.shown(self.size)} to write"
        )


def plan_dataset(
    benchmark: Benchmark, rows: Rows, texts: Prompts, place: Place, encoder: Encoder, device: str
) -> DatasetPlan:
    """What is missing at `place` of the images `rows` and of the prompts `texts`.

    The encoder has a look at a blank image and at a prompt, to know how large is what it makes of them. Raises
    UserError when what is there was made by other weights or layers, or from other lists.
    """
    path, prompts, labels = texts
    new = bool(prompts) and not has_texts(encoder, benchmark.name, prompts, labels, path)
    size = texts_bytes(encoder, prompts, device) if new else 0
    needs = [Need(f"prompts {path.stem}", len(prompts), len(prompts) * new, size)]
    parts = [
        plan(benchmark, part, view, positions, place.bank(part, encoder.image_layers, view), encoder)
        for part, view, positions in rows
    ]
    row = image_row_bytes(encoder, device) if any(part.positions for part in parts) else 0
    for part, (_, _, positions) in zip(parts, rows, strict=True):
        missing = len(part.positions)
        needs.append(Need(f"{part.part}/{part.view}", len(set(positions)), missing, missing * row))
    return DatasetPlan(encoder.name, benchmark.name, texts, parts, needs)


def require_room(plans: list[DatasetPlan], feature_dir: str | Path) -> str:
    """How much `plans` take and how much `feature_dir` has left, as a line.

    Raises UserError when that is not enough.
    """
    size, free = sum(plan.size for plan in plans), files.free_space(Path(feature_dir))
    if size > free:
        raise UserError(
            f"these features take {files.shown(size)}, and {feature_dir} has {files.shown(free)} left."
            " Make room there, or give another --feature_dir"
        )
    return f"in total {files.shown(size)} to write; {feature_dir} has {files.shown(free)} left"
