"""From features on disk to the problems of ImageNet-ESC, all on one bank of normalised features.

The images of split k are those of the few-shot split with seed k. Of sounds fold k is for training: the first s clips
of a class in metadata order train, the next s validate; the other four folds are the test set. The modality that helps
gives one shot, of the split or the fold that the draw names.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.errors import UserError
from engine.esc.benchmark import EscBenchmark
from engine.features import audio
from engine.features.audio import Fold
from engine.features.numbers import check_norms
from engine.methods.method import SCALE_100
from engine.model import Embedding, LinearClassifier, LinearHead, class_means, random_weight
from engine.results.esc import ALL_MODAL, AUDIO_VISUAL, PLUS_TEXT, PROBES, SHOTS, SPLITS, TASKS, UNI_MODAL, EscCell
from engine.results.runs import DEFAULT_EXTRACTION, EXTRACTION_KEYS, TEST, Cell, describe_input
from engine.tasks.images import ImageTasks
from engine.training.batches import generator
from engine.training.evaluate import accuracies
from engine.training.task import Samples, Task, TestSet

OTHER = {"image": "audio", "audio": "image"}
ADDED = {UNI_MODAL: (), AUDIO_VISUAL: ("other",), PLUS_TEXT: ("text",), ALL_MODAL: ("other", "text")}
"""What each probe is trained on beside the task's own modality."""


def kinds_of(task: str, method: str) -> set[str]:
    """Return what helps a probe (the other modality, text), or what a zero-shot classifier is made from."""
    if method in PROBES:
        return {OTHER[task] if kind == "other" else kind for kind in ADDED[method]}
    return {method.removeprefix("zero_shot_")}


@dataclass(frozen=True)
class Subset:
    """`rows` [n] of the bank, and the classes `labels` [n] of what lies there, as the dataset of images counts them."""

    rows: Tensor
    labels: Tensor

    def among(self, classes: Mapping[int, str]) -> Subset:
        """Those of `classes`, with the ranks of their labels among these."""
        wanted = torch.tensor(sorted(classes))
        kept = torch.isin(self.labels, wanted)
        return Subset(self.rows[kept], torch.searchsorted(wanted, self.labels[kept]))

    def first(self, shots: int, skipped: int = 0) -> Subset:
        """The first `shots` of each class after the `skipped` ones, in their order."""
        places = [(self.labels == label).nonzero()[skipped : skipped + shots, 0] for label in self.labels.unique()]
        chosen = torch.cat(places)
        return Subset(self.rows[chosen], self.labels[chosen])


def join(parts: list[Subset]) -> Subset:
    """Several parts as one."""
    return Subset(torch.cat([part.rows for part in parts]), torch.cat([part.labels for part in parts]))


def image_cells(benchmark: EscBenchmark) -> list[Cell]:
    """Which images are used, as cells of train.py's (whose validation images are min(shots, 4), the same number)."""
    fixed = {"image_layer": 0, "text_layer": 0, "text_augmentation": "classname", "image_augmentation": "none"}
    fixed |= {
        "image_views": 0,
        "modality": "cross_modal",
        "head": "linear",
        "init": "zeroshot",
        "log_logit_scale": SCALE_100,
    }
    pairs = [(shots, split) for shots in SHOTS for split in SPLITS]
    named = {"dataset": benchmark.dataset, "encoder": benchmark.encoder, "hyperparams": "audio"}
    return [Cell(shots=shots, seed=seed, **named, **fixed) for shots, seed in pairs]


class EscData:
    """All features of a benchmark in one bank on `device`, and the tasks on them."""

    is_custom, unstackable = False, None

    def __init__(self, benchmark: EscBenchmark, images: ImageTasks, folds: dict[int, Fold], device: str):
        """`images` are those of `image_cells`, on the CPU. Raises UserError when images and sounds do not fit."""
        self.benchmark, self._features = benchmark, []
        self._classes = torch.tensor(sorted(benchmark.all_classes))
        self._cells = {(cell.shots, cell.seed): cell for cell in images.cells}
        self._images = {key: self._read_images(images, cell) for key, cell in self._cells.items()}
        self._test_images = self._read_test(images)
        self._texts = self._add_samples(images.texts(images.cells[0]))
        self._folds = {number: self._read_fold(number, fold) for number, fold in folds.items()}
        inputs = {key: images.inputs(cell) for key, cell in self._cells.items()}
        # stated where they are as usual, too: so a run says by itself whether images and names have a part in it
        self._image_inputs = {
            key: own | {way: describe_input(own, way) for way in EXTRACTION_KEYS} for key, own in inputs.items()
        }
        self._audio_inputs = _source_inputs(next(iter(folds.values())))
        widths = {features.shape[1] for features in self._features}
        if len(widths) > 1:
            raise UserError(
                f"features of images ({benchmark.encoder}) and of sounds ({benchmark.audio_encoder}) are not of one"
                f" space: they have {' and '.join(map(str, sorted(widths)))} numbers"
            )
        self.bank = torch.cat(self._features).to(device)
        self._features.clear()

    @property
    def notes(self) -> list[str]:
        """In what the features were not made as the paper's, a sentence each."""
        ways = dict(zip(EXTRACTION_KEYS, ("images", "names"), strict=True))
        of_images = next(iter(self._image_inputs.values()))
        notes = [
            f"features of {what}: {of_images[way]}"
            for way, what in ways.items()
            if of_images[way] != DEFAULT_EXTRACTION
        ]
        how = self._audio_inputs["audio"]
        if self.benchmark.name == "imagenet_esc" and how != PROTOCOL:
            notes.append(f"features of sounds: {how}; the paper's: {PROTOCOL}")
        return notes

    def train(self, modality: str, split: int, shots: int) -> Subset:
        """The training samples of a split."""
        return self._images[shots, split][0] if modality == "image" else self._folds[split].first(shots)

    def val(self, modality: str, split: int, shots: int) -> Subset:
        """The validation samples of a split."""
        return self._images[shots, split][1] if modality == "image" else self._folds[split].first(shots, shots)

    def test(self, modality: str, split: int) -> Subset:
        """The test samples of a split."""
        if modality == "image":
            return self._test_images
        return join([part for number, part in self._folds.items() if number != split])

    def added(self, cell: EscCell) -> Subset | None:
        """What a probe is trained on beside its own modality."""
        kinds = {"text": lambda: self._texts, "other": lambda: self.train(OTHER[cell.task], cell.draw, 1)}
        parts = [kinds[kind]() for kind in ADDED[cell.probe]]
        return join(parts) if parts else None

    def sizes(self, cell: EscCell) -> list[int]:
        """Return how many training samples of its own modality, and of others, a cell's task has."""
        return [len(part.rows) for part in self._parts(cell)]

    def task(self, cell: EscCell) -> Task:
        """Return the task of a cell. It starts from the class means of what is added, or at random."""
        name = f"{self.benchmark.name}/{cell.task} {cell.classes}/split {cell.split}/draw {cell.draw or 'any'}"
        name += f"/shot {cell.shots}/{cell.probe}"
        own, *added = self._parts(cell)
        if added:
            initial = self.class_means(self.added(cell), cell.classes)
        else:
            initial = random_weight(cell.classes, self.bank.shape[1], generator(f"{name}/init"))
        val = self.val(cell.task, cell.split, cell.shots).among(self.benchmark.class_sets[cell.classes])
        return Task(
            name=name,
            samples=dict(zip((cell.task, "added"), map(self._samples, [own, *added]), strict=False)),
            val=self._samples(val),
            initial=initial.to(self.bank.device),
            scale=math.exp(SCALE_100),
        )

    def _parts(self, cell: EscCell) -> list[Subset]:
        """Return the training samples of a cell: its own modality's, and those that are added if any are."""
        classes, added = self.benchmark.class_sets[cell.classes], self.added(cell)
        parts = [self.train(cell.task, cell.split, cell.shots), *([] if added is None else [added])]
        return [part.among(classes) for part in parts]

    def class_means(self, part: Subset, classes: int) -> Tensor:
        """Return the classifier [C, D] whose rows are the means of the normalised features of each class."""
        own = part.among(self.benchmark.class_sets[classes])
        rows, labels = own.rows.to(self.bank.device), own.labels.to(self.bank.device)
        return class_means(self.bank[rows], labels, classes)

    def zero_shot(self, kind: str, task: str, split: int, draw: int, shots: int) -> Subset:
        """What a zero-shot classifier is the class means of: names, one shot of the draw, or the training samples.

        `kind` is text, image or audio; of the task's own modality it is the training samples.
        """
        if kind == "text":
            return self._texts
        return self.train(kind, split, shots) if kind == task else self.train(kind, draw, 1)

    def tests(self, cell: EscCell) -> list[TestSet]:
        """Return the test set of a cell; cells that have the same one share it."""
        return [self._test_sets[cell.task, cell.classes, cell.split]]

    @cached_property
    def _test_sets(self) -> dict[tuple[str, int, int], TestSet]:
        asked = itertools.product(TASKS, self.benchmark.class_sets, SPLITS)
        return {key: TestSet(partial(self._test_batches, *key), {TEST: None}) for key in asked}

    def _test_batches(self, task: str, classes: int, split: int) -> list[tuple[tuple[Tensor], Tensor]]:
        samples = self._samples(self.test(task, split).among(self.benchmark.class_sets[classes]))
        return [((self.bank[samples.rows],), samples.labels)]

    def zero_shot_tests(self, task: str, classes: int, split: int, parts: list[Subset]) -> list[float]:
        """Return the test accuracies of the zero-shot classifiers made from each of `parts`."""
        embedding = Embedding([None])
        heads = [LinearHead(self.class_means(part, classes), 1.0) for part in parts]
        classifiers = [LinearClassifier(embedding, head) for head in heads]
        return [found for (found,) in accuracies(classifiers, self._test_batches(task, classes, split))]

    def inputs(self, cell: EscCell) -> dict[str, str]:
        """Return digests of all that a cell's runs are trained and tested on."""
        used = kinds_of(cell.task, cell.probe)
        return self.inputs_of(cell.task, cell.classes, cell.split, cell.draw, cell.shots, used)

    def inputs_of(self, task: str, classes: int, split: int, draw: int | None, shots: int, used: set[str]) -> dict:
        """Digests of all that a run is trained and tested on; `used` are the kinds that help it. Shots may be 0."""
        own = self.benchmark.class_sets[classes]
        found = {"classes": hashlib.sha256(json.dumps(sorted(own.items())).encode()).hexdigest()}
        names: set[str] = set()
        if task == "audio" or "audio" in used:
            found |= self._audio_inputs
        if task == "image":
            names |= {"encoder", "features", "test"} | ({"split", "train", "val"} if shots else set())
        elif "image" in used:
            names |= {"encoder", "features", "split", "train"}
        if "text" in used:
            names |= {"encoder", "text", "prompts"}
        of_images = self._image_inputs[(shots or 1, split) if task == "image" else (1, draw or 1)]
        return found | {name: of_images[name] for name in of_images if name in names}

    def _samples(self, part: Subset) -> Samples:
        return Samples((self.bank,), part.rows.to(self.bank.device), part.labels.to(self.bank.device))

    def _read_images(self, images: ImageTasks, cell: Cell) -> tuple[Subset, Subset]:
        task = images.task(cell)
        return self._add_samples(task.own), self._add_samples(task.val)

    def _read_test(self, images: ImageTasks) -> Subset:
        (test,) = images.tests(images.cells[0])
        return join([self._add(features, labels) for (features,), labels in test.batches()])

    def _read_fold(self, number: int, fold: Fold) -> Subset:
        """The clips of a fold, which belong to classes by the names of their categories, in metadata order."""
        by_name = {category: label for label, category in self.benchmark.all_classes.items()}
        labels = torch.tensor([by_name.get(category, -1) for category in fold.categories])
        order = fold.positions.argsort()
        check_norms(fold.features, fold.positions.tolist(), f"fold {number} of {self.benchmark.sounds}")
        part = self._add(F.normalize(fold.features[order]), labels[order])
        needed = 2 * max(SHOTS)
        if few := [name for name, label in by_name.items() if int((part.labels == label).sum()) < needed]:
            raise UserError(
                f"fold {number} of {self.benchmark.sounds} has fewer than {needed} clips of {', '.join(few)}: is its"
                " list whole?"
            )
        return part

    def _add_samples(self, samples: Samples) -> Subset:
        return self._add(samples.bank[0][samples.rows], samples.labels)

    def _add(self, features: Tensor, labels: Tensor) -> Subset:
        """Put features into the bank, those of the benchmark's classes."""
        kept = torch.isin(labels, self._classes)
        start = sum(map(len, self._features))
        self._features.append(features[kept])
        return Subset(torch.arange(start, start + int(kept.sum())), labels[kept])


PROTOCOL = "scale 1, train, batches of 10"
"""How the paper's features of sounds were made."""


def read_folds(benchmark: EscBenchmark, feature_dir: str | Path) -> dict[int, Fold]:
    """The features of the benchmark's sounds. Raises MissingFeatures when one of the five folds is not there."""
    return audio.read_folds(audio.folds_dir(feature_dir, benchmark.audio_encoder, benchmark.sounds), SPLITS)


def _source_inputs(fold: Fold) -> dict[str, str]:
    """What features of sounds were made from and how."""
    source = asdict(fold.provenance)
    how = f"scale {source['audio_scale']}, {source['mode']}, batches of {source['batch_size']}"
    return {"audio encoder": source["encoder_digest"], "sounds": source["list_digest"], "audio": how}
