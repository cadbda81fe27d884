"""The paper's tables as data: which of its methods are which runs of ours, and what runs along rows and columns.

`METHODS` and `TABLES` are the whole specification: the rows of a table, in order, are those of `printed.csv`, and
the cells of runs follow from a row's method and inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from engine import datasets
from engine.clip import names
from engine.errors import UserError
from engine.methods import METHODS as OURS
from engine.methods import REGISTRY
from engine.paper import printed
from engine.paper.printed import AVERAGE, Line
from engine.results import esc
from engine.results.runs import Cell
from engine.training.schedule import MAX_ITER


class Source(NamedTuple):
    """The runs that a method of the paper is, and which of their three classifiers.

    `mode` is one of `engine.methods`; `image_layer` is the method's unless given. `images` are augmentation and views
    where the paper's table does not say.
    """

    mode: str
    classifier: str = "trained"
    image_layer: int | None = None
    text_layer: int = 0
    images: tuple[str, int] = ("flip", 1)


class Method(NamedTuple):
    """A method's name in words, and its runs; None where only the paper has it."""

    title: str
    source: Source | None = None


# Where Tables 1, 2, 8 and 10 leave the images of WiSE-FT open, they are centre crops: the averages are those that
# Table 14 prints for centre crops (59.09 and 63.76 at 1 shot). Its uni-modal runs start from the zero-shot classifier.
METHODS = {
    "zero_shot": Method("zero-shot", Source("linear", classifier="zeroshot")),
    "linear": Method("linear probing", Source("linear")),
    "wiseft": Method("WiSE-FT", Source("linear", classifier="wiseft", images=("none", 0))),
    "adapter": Method("adapter", Source("adapter")),
    "partial": Method("partial fine-tuning", Source("partial")),
    "partial_image": Method("partial fine-tuning, image", Source("partial")),
    "partial_text": Method("partial fine-tuning, text", Source("partial", image_layer=0, text_layer=1)),
    "partial_both": Method("partial fine-tuning, both", Source("partial", text_layer=1)),
    "coop": Method("CoOp"),
    "coop_m4": Method("CoOp (M = 4)"),
    "coop_m16": Method("CoOp (M = 16)"),
    "cocoop": Method("CoCoOp"),
    "prograd": Method("ProGrad"),
    "tip_adapter": Method("Tip-Adapter"),
    "tip_adapter_original": Method("Tip-Adapter, original"),
    "prompting": Method("prompting"),
    # ImageNet-ESC, whose records are those of `results.esc`
    "linear_prob": Method("linear probing"),
    "audiovisual_linear_prob": Method("linear probing, audio-visual"),
    "plustext_linear_prob": Method("linear probing, with text"),
    "allmodal_linear_prob": Method("linear probing, all modalities"),
    "zero_shot_image": Method("zero-shot from images"),
    "zero_shot_audio": Method("zero-shot from audio"),
    "zero_shot_text": Method("zero-shot from text"),
}


class Table(NamedTuple):
    """A table of the paper: `kind` says what its columns are.

    `shots`: shots, averaged over datasets. `datasets`: datasets and their average; a row per method and shots. `shift`:
    test sets of one dataset's classifiers, likewise. `esc`: the class sets and shots of ImageNet-ESC. In Markdown and
    LaTeX `abreast` of the columns make a block; a wider table is cut into several, one below the other.
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
"""How many methods a plot can hold: more have no colour that all readers can tell from the others."""


@dataclass(frozen=True)
class Scope:
    """What our side of a table is made of; `encoders` are names with their folders.

    Of ImageNet-ESC `datasets` are class sets (`imagenet_esc_19`), and there are no seeds.
    """

    datasets: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    encoders: dict[str, str]
    max_iter: int = MAX_ITER


class Place(NamedTuple):
    """Where a row and a column meet: `dataset` or `shots` is None where the other of the two says it."""

    dataset: str | None = None
    shots: int | None = None


def scope_of_paper(number: int, seeds: Sequence[int]) -> Scope:
    """What a table of the paper is made of, whose seeds it does not say."""
    found = printed.published(number)
    shots = sorted({shots for _, _, shots in found} - {0})
    encoders = {line.backbone: names.folder(line.backbone) for line in printed.lines(number)}
    own = ("imagenet",) if TABLES[number].kind == "shift" else datasets.TARGETS
    return Scope(own, tuple(shots), tuple(seeds), encoders)


def scope_of_esc(number: int, demo: bool, max_iter: int = MAX_ITER) -> Scope:
    """What Table 4, 5, 15 or 16 is made of: the paper's ImageNet-ESC, or the demo's."""
    of_paper = scope_of_paper(number, ())
    name = "demo_esc" if demo else "imagenet_esc"
    encoders = {"demo-RN, demo-audio": ""} if demo else of_paper.encoders
    sets = tuple(f"{name}_{classes}" for classes in esc.CLASSES[name])
    return Scope(sets, esc.SHOTS, (), encoders, max_iter)


def rows(number: int, scope: Scope) -> list[tuple[Line, Place]]:
    """The rows of a table: a line, and shots where columns are datasets."""
    found = _lines(number, scope)
    if TABLES[number].kind in ("shots", "esc"):
        return [(line, Place()) for line in found]
    return [(line, Place(shots=s)) for line in found for s in ((0,) if is_zeroshot(line) else scope.shots)]


def columns(number: int, scope: Scope) -> list[Place]:
    """The columns of a table. Shots are 0 for zero-shot classifiers, which come first."""
    kind = TABLES[number].kind
    if kind == "shots":
        shots = [0] * any(map(is_zeroshot, _lines(number, scope))) + list(scope.shots)
        return [Place(AVERAGE, s) for s in shots]
    if kind == "datasets":
        return [Place(dataset) for dataset in (*scope.datasets, AVERAGE)]
    if kind == "shift":
        return [Place(test) for dataset in scope.datasets for test in (dataset, *datasets.variants(dataset))]
    task = next(iter(printed.published(number)))[1].rpartition("_")[2]
    shots = [0] * any(map(is_zeroshot, _lines(number, scope))) + list(scope.shots)
    return [Place(f"{classes}_{task}", s) for classes in scope.datasets for s in shots]


def _lines(number: int, scope: Scope) -> list[Line]:
    """The lines of a table for its encoders. One that the paper's table lacks has the lines of its first one."""
    of_paper = printed.lines(number)
    backbones = {line.backbone for line in of_paper}
    shown = [(name, name if name in backbones else of_paper[0].backbone) for name in scope.encoders]
    return [replace(line, backbone=name) for name, like in shown for line in of_paper if line.backbone == like]


def is_zeroshot(line: Line) -> bool:
    """Whether nothing is trained for a line."""
    return line.method.startswith("zero_shot")


def cell(line: Line, dataset: str, shots: int, seed: int, scope: Scope) -> Cell:
    """The cell of runs that a line is, with what the paper's table leaves out filled in.

    Prompts are part of a uni-modal run's identity (its WiSE-FT and zero-shot classifiers come from them) even where
    they do not change its training.
    """
    source = METHODS[line.method].source
    method = OURS[source.mode]
    modality = line.modality or "cross_modal"
    augmentation, views = line.image_augmentation, line.image_views
    images = (augmentation, int(views)) if augmentation else source.images
    return Cell(
        dataset=dataset,
        shots=shots,
        seed=seed,
        encoder=scope.encoders[line.backbone],
        image_layer=method.image_layer if source.image_layer is None else source.image_layer,
        text_layer=source.text_layer,
        text_augmentation=line.text_augmentation or "hand_crafted",
        image_augmentation=images[0],
        image_views=images[1],
        modality=modality,
        head=REGISTRY[source.mode],
        init=line.init or ("random" if modality == "uni_modal" else "zeroshot"),
        logit=method.logit,
        hyperparams=source.mode,
        max_iter=scope.max_iter,
    )


def require_shifts(names: Iterable[str]) -> None:
    """Raise UserError for datasets without shifted test sets, which Table 8 is about."""
    if without := [name for name in names if not datasets.variants(name)]:
        having = [name for name in datasets.names() if datasets.variants(name)]
        raise UserError(
            f"Table 8 is of classifiers on shifted test sets, and {', '.join(without)} has none; {' and '.join(having)}"
            " have"
        )


def plotted(number: int) -> list[Line]:
    """The lines of a table that a plot shows: methods of ours, without zero-shot and differences."""
    own = [line for line in printed.lines(number) if METHODS[line.method].source is not None]
    return [line for line in own if not is_zeroshot(line) and line.metric == "accuracy"]


def require_plot(numbers: Sequence[int]) -> None:
    """Raise UserError unless a plot can be drawn of what was asked for: one table by shots, of not too many methods."""
    able = [n for n, table in TABLES.items() if table.kind in ("shots", "datasets") and len(plotted(n)) <= MAX_PLOTTED]
    if len(numbers) != 1 or numbers[0] not in able:
        raise UserError(
            f"--plot draws one table, by shots and of at most {MAX_PLOTTED} methods: --table"
            f" {', '.join(map(str, able[:-1]))} or {able[-1]}"
        )
