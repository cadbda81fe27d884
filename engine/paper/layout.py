"""The paper's tables as data: their rows and columns, and the runs behind each row.

`METHODS` and `TABLES` are the whole specification. `printed.csv` has the rows of a table, in order; the method and the
inputs of a row determine the cells of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from engine import datasets
from engine.clip import names
from engine.errors import UserError
from engine.paper import printed
from engine.paper.printed import AVERAGE, PaperRow
from engine.results import esc
from engine.results.runs import Cell
from engine.training.schedule import MAX_ITER


class PaperMethod(NamedTuple):
    """A method of the paper: its title, and the runs of this project that reproduce it.

    `mode` is a name in `engine.methods`; None if the project does not have the method, or has it in `results.esc`.
    `classifier` is one of the three classifiers of a run. `image_layer` None is the default of the mode. `images` are
    augmentation and views where the paper's table does not state them.
    """

    title: str
    mode: str | None = None
    classifier: str = "trained"
    image_layer: int | str | None = None
    text_layer: int = 0
    images: tuple[str, int] = ("flip", 1)


# Tables 1, 2, 8 and 10 do not state the images of WiSE-FT. They are centre crops: the averages equal Table 14's for
# centre crops (59.09 and 63.76 at 1 shot). Uni-modal WiSE-FT runs start from the zero-shot classifier.
METHODS = {
    "zero_shot": PaperMethod("zero-shot", "linear", classifier="zeroshot"),
    "linear": PaperMethod("linear probing", "linear"),
    "wiseft": PaperMethod("WiSE-FT", "linear", classifier="wiseft", images=("none", 0)),
    "adapter": PaperMethod("adapter", "adapter"),
    "partial": PaperMethod("partial fine-tuning", "partial"),
    "partial_image": PaperMethod("partial fine-tuning, image", "partial"),
    "partial_text": PaperMethod("partial fine-tuning, text", "partial", image_layer=0, text_layer=1),
    "partial_both": PaperMethod("partial fine-tuning, both", "partial", text_layer=1),
    "coop": PaperMethod("CoOp"),
    "coop_m4": PaperMethod("CoOp (M = 4)"),
    "coop_m16": PaperMethod("CoOp (M = 16)"),
    "cocoop": PaperMethod("CoCoOp"),
    "prograd": PaperMethod("ProGrad"),
    "tip_adapter": PaperMethod("Tip-Adapter"),
    "tip_adapter_original": PaperMethod("Tip-Adapter, original"),
    "prompting": PaperMethod("prompting", "prompting", images=("randomresizedcrop", 8)),
    # ImageNet-ESC: its records belong to `results.esc`
    "linear_prob": PaperMethod("linear probing"),
    "audiovisual_linear_prob": PaperMethod("linear probing, audio-visual"),
    "plustext_linear_prob": PaperMethod("linear probing, with text"),
    "allmodal_linear_prob": PaperMethod("linear probing, all modalities"),
    "zero_shot_image": PaperMethod("zero-shot from images"),
    "zero_shot_audio": PaperMethod("zero-shot from audio"),
    "zero_shot_text": PaperMethod("zero-shot from text"),
}


class Table(NamedTuple):
    """A table of the paper; `kind` determines its columns.

    `shots`: shots, averaged over datasets. `datasets`: datasets and their average; a row per method and shots. `shift`:
    test sets of one dataset's classifiers; a row per method and shots. `esc`: class sets and shots of ImageNet-ESC.
    Markdown and LaTeX put `abreast` columns into a block; wider tables have several blocks, one below the other.
    """

    title: str
    kind: str = "shots"
    abreast: int = 6


TABLES = {
    1: Table("average over eleven datasets, against published methods"),
    2: Table("uni-modal methods and what cross-modal training adds to them"),
    4: Table("ImageNet-ESC, image classification helped by audio", "esc"),
    5: Table("ImageNet-ESC, audio classification helped by images", "esc"),
    8: Table("robustness to shifts of the test set, trained on ImageNet", "shift"),
    10: Table("accuracy by dataset", "datasets"),
    11: Table("text and image augmentation"),
    12: Table("initialization of the classifier"),
    13: Table("which encoder is fine-tuned"),
    14: Table("two backbones, centre crops"),
    15: Table("ImageNet-ESC, image classification, all probes", "esc", abreast=4),
    16: Table("ImageNet-ESC, audio classification, all probes", "esc", abreast=4),
}


MAX_PLOTTED = 6
"""The maximum number of methods in a plot: all readers can distinguish this many colours."""


@dataclass(frozen=True)
class Scope:
    """The runs that a table covers; `encoders` maps encoder names to their folders.

    For ImageNet-ESC `datasets` are class sets (`imagenet_esc_19`), and `seeds` is empty.
    """

    datasets: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    encoders: dict[str, str]
    max_iter: int = MAX_ITER


class Coordinates(NamedTuple):
    """The dataset and shots of a table cell, or of its row or column; the row has them where the column has None."""

    dataset: str | None = None
    shots: int | None = None


def paper_scope(number: int, seeds: Sequence[int]) -> Scope:
    """Return the scope of a table of the paper. The paper does not state seeds."""
    found = printed.published(number)
    shots = sorted({shots for _, _, shots in found} - {0})
    encoders = {row.backbone: names.folder(row.backbone) for row in printed.printed_rows(number)}
    targets = ("imagenet",) if TABLES[number].kind == "shift" else datasets.TARGETS
    return Scope(targets, tuple(shots), tuple(seeds), encoders)


def esc_scope(number: int, demo: bool, max_iter: int = MAX_ITER) -> Scope:
    """Return the scope of Table 4, 5, 15 or 16, for the paper's ImageNet-ESC or for the demo."""
    paper = paper_scope(number, ())
    name = "demo_esc" if demo else "imagenet_esc"
    encoders = {"demo-RN, demo-audio": ""} if demo else paper.encoders
    sets = tuple(f"{name}_{classes}" for classes in esc.CLASSES[name])
    return Scope(sets, esc.SHOTS, (), encoders, max_iter)


def rows(number: int, scope: Scope) -> list[tuple[PaperRow, Coordinates]]:
    """Return the rows of a table, with their shots if the columns are datasets."""
    found = _rows(number, scope)
    if TABLES[number].kind in ("shots", "esc"):
        return [(row, Coordinates()) for row in found]
    return [(row, Coordinates(shots=s)) for row in found for s in ((0,) if is_zeroshot(row) else scope.shots)]


def columns(number: int, scope: Scope) -> list[Coordinates]:
    """Return the columns of a table. Zero-shot classifiers have 0 shots and come first."""
    kind = TABLES[number].kind
    if kind == "shots":
        shots = [0] * any(map(is_zeroshot, _rows(number, scope))) + list(scope.shots)
        return [Coordinates(AVERAGE, s) for s in shots]
    if kind == "datasets":
        return [Coordinates(dataset) for dataset in (*scope.datasets, AVERAGE)]
    if kind == "shift":
        return [Coordinates(test) for dataset in scope.datasets for test in (dataset, *datasets.variants(dataset))]
    task = next(iter(printed.published(number)))[1].rpartition("_")[2]
    shots = [0] * any(map(is_zeroshot, _rows(number, scope))) + list(scope.shots)
    return [Coordinates(f"{classes}_{task}", s) for classes in scope.datasets for s in shots]


def _rows(number: int, scope: Scope) -> list[PaperRow]:
    """Return the rows of a table for the encoders of `scope`; an encoder not in the paper gets the first one's rows."""
    paper = printed.printed_rows(number)
    backbones = {row.backbone for row in paper}
    shown = [(name, name if name in backbones else paper[0].backbone) for name in scope.encoders]
    return [replace(row, backbone=name) for name, like in shown for row in paper if row.backbone == like]


def is_zeroshot(row: PaperRow) -> bool:
    """Return whether a row needs no training."""
    return row.method.startswith("zero_shot")


def cell(row: PaperRow, dataset: str, shots: int, seed: int, scope: Scope) -> Cell:
    """Return the cell of runs behind a row, with defaults for inputs that the paper's table does not state.

    Prompts identify a uni-modal run even where they do not change its training: its WiSE-FT and zero-shot classifiers
    depend on them.
    """
    paper = METHODS[row.method]
    images = (row.image_augmentation, int(row.image_views)) if row.image_augmentation else paper.images
    layer = {} if paper.image_layer is None else {"image_layer": paper.image_layer}
    return Cell.of_method(
        paper.mode,
        modality=row.modality or "cross_modal",
        init=row.init,
        max_iter=scope.max_iter,
        dataset=dataset,
        shots=shots,
        seed=seed,
        encoder=scope.encoders[row.backbone],
        text_layer=paper.text_layer,
        text_augmentation=row.text_augmentation or "hand_crafted",
        image_augmentation=images[0],
        image_views=images[1],
        **layer,
    )


def require_shifts(names: Iterable[str]) -> None:
    """Raise UserError for datasets without shifted test sets: Table 8 needs them."""
    if without := [name for name in names if not datasets.variants(name)]:
        having = [name for name in datasets.names() if datasets.variants(name)]
        raise UserError(
            f"Table 8 needs shifted test sets, but {', '.join(without)} has none; choose from {', '.join(having)}"
        )


def plotted(number: int) -> list[PaperRow]:
    """Return the rows of a table that a plot shows: methods of this project, without zero-shot and differences."""
    ours = [row for row in printed.printed_rows(number) if METHODS[row.method].mode is not None]
    return [row for row in ours if not is_zeroshot(row) and row.metric == "accuracy"]


def require_plot(numbers: Sequence[int]) -> None:
    """Raise UserError unless these tables can be plotted: one table by shots, with at most `MAX_PLOTTED` methods."""
    able = [n for n, table in TABLES.items() if table.kind in ("shots", "datasets") and len(plotted(n)) <= MAX_PLOTTED]
    if len(numbers) != 1 or numbers[0] not in able:
        raise UserError(
            f"--plot draws one table, with shots and at most {MAX_PLOTTED} methods: --table"
            f" {', '.join(map(str, able[:-1]))} or {able[-1]}"
        )
