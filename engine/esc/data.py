"""The tasks of ImageNet-ESC, on one bank of normalised features.

Images of split k come from the few-shot split with seed k. Sounds of split k come from fold k: of each class, in
metadata order, the first s clips are for training and the next s for validation. The other four folds are the test set.
The added modality contributes one shot per class, from the split or fold that the draw selects.
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
from engine.results.runs import DEFAULT_EXTRACTION, EXTRACTION_KEYS, TEST, Cell
from engine.tasks.images import ImageTasks
from engine.training.batches import generator
from engine.training.evaluate import accuracies
from engine.training.task import Samples, Task, TestSet

OTHER = {"image": "audio", "audio": "image"}
ADDED = {UNI_MODAL: (), AUDIO_VISUAL: ("other",), PLUS_TEXT: ("text",), ALL_MODAL: ("other", "text")}
"""The training samples that each probe adds to the task's modality."""


def kinds_of(task: str, method: str) -> set[str]:
    """Return the modalities that a probe adds, or the modality of a zero-shot classifier."""
    if method in PROBES:
        return {OTHER[task] if kind == "other" else kind for kind in ADDED[method]}
    return {method.removeprefix("zero_shot_")}


@dataclass(frozen=True)
class Subset:
    """Samples: `rows` [n] of the bank, and their `labels` [n] in the image dataset."""

    rows: Tensor
    labels: Tensor

    def among(self, classes: Mapping[int, str]) -> Subset:
        """Return the samples of `classes`; each new label is the rank of the old one among them."""
        wanted = torch.tensor(sorted(classes))
        kept = torch.isin(self.labels, wanted)
        return Subset(self.rows[kept], torch.searchsorted(wanted, self.labels[kept]))

    def first(self, shots: int, skipped: int = 0) -> Subset:
        """Return the first `shots` samples of each class after the `skipped` ones, in order."""
        indices = [(self.labels == label).nonzero()[skipped : skipped + shots, 0] for label in self.labels.unique()]
        chosen = torch.cat(indices)
        return Subset(self.rows[chosen], self.labels[chosen])


def join(subsets: list[Subset]) -> Subset:
    """Return several subsets as one."""
    return Subset(torch.cat([one.rows for one in subsets]), torch.cat([one.labels for one in subsets]))


def image_cells(benchmark: EscBenchmark) -> list[Cell]:
    """Return cells of train.py with the benchmark's images; they too have min(shots, 4) validation images per class."""
    fixed = {"image_layer": 0, "text_layer": 0, "text_augmentation": "classname", "image_augmentation": "none"}
    fixed |= {"modality": "cross_modal", "head": "linear", "init": "zeroshot", "log_logit_scale": SCALE_100}
    pairs = [(shots, split) for shots in SHOTS for split in SPLITS]
    named = {"dataset": benchmark.dataset, "encoder": benchmark.encoder, "image_views": 0, "hyperparams": "audio"}
    return [Cell(shots=shots, seed=seed, **named, **fixed) for shots, seed in pairs]


class EscData:
    """All features of a benchmark in one bank on `device`, and the tasks on them."""

    is_custom, unstackable = False, None

    def __init__(self, benchmark: EscBenchmark, images: ImageTasks, folds: dict[int, Fold], device: str):
        """Take the tasks of `image_cells` on the CPU, and folds. Raises UserError for features of different sizes."""
        self.benchmark, self._features = benchmark, []
        self._classes = torch.tensor(sorted(benchmark.all_classes))
        self._cells = {(cell.shots, cell.seed): cell for cell in images.cells}
        self._images = {key: self._read_images(images, cell) for key, cell in self._cells.items()}
        self._test_images = self._read_test(images)
        self._texts = self._add_samples(images.texts(images.cells[0]))
        self._folds = {number: self._read_fold(number, fold) for number, fold in folds.items()}
        inputs = {key: images.inputs(cell) for key, cell in self._cells.items()}
        defaults = dict.fromkeys(
            EXTRACTION_KEYS, DEFAULT_EXTRACTION
        )  # each run records whether it uses images and names
        self._image_inputs = {key: found | defaults | found for key, found in inputs.items()}
        self._audio_inputs = _audio_inputs(next(iter(folds.values())))
        widths = {features.shape[1] for features in self._features}
        if len(widths) > 1:
            raise UserError(
                f"features of images ({benchmark.encoder}) and of sounds ({benchmark.audio_encoder}) have no common"
                f" space: they have {' and '.join(map(str, sorted(widths)))} dimensions"
            )
        self.bank = torch.cat(self._features).to(device)
        self._features.clear()

    @property
    def notes(self) -> list[str]:
        """Notes on extraction settings that differ from the paper's."""
        of_images = next(iter(self._image_inputs.values()))
        settings = zip(("images", "names"), (of_images[key] for key in EXTRACTION_KEYS), strict=True)
        notes = [f"features of {title}: {text}" for title, text in settings if text != DEFAULT_EXTRACTION]
        how = self._audio_inputs["audio"]
        if self.benchmark.name == "imagenet_esc" and how != PROTOCOL:
            notes.append(f"features of sounds: {how}; the paper's: {PROTOCOL}")
        return notes

    def train(self, modality: str, split: int, shots: int) -> Subset:
        """Return the training samples of a split."""
        return self._images[shots, split][0] if modality == "image" else self._folds[split].first(shots)

    def val(self, modality: str, split: int, shots: int) -> Subset:
        """Return the validation samples of a split."""
        return self._images[shots, split][1] if modality == "image" else self._folds[split].first(shots, shots)

    def test(self, modality: str, split: int) -> Subset:
        """Return the test samples of a split."""
        if modality == "image":
            return self._test_images
        return join([fold for number, fold in self._folds.items() if number != split])

    def added(self, cell: EscCell) -> Subset | None:
        """Return the training samples that a probe adds to the task's modality, or None."""
        kinds = {"text": lambda: self._texts, "other": lambda: self.train(OTHER[cell.task], cell.draw, 1)}
        subsets = [kinds[kind]() for kind in ADDED[cell.probe]]
        return join(subsets) if subsets else None

    def sizes(self, cell: EscCell) -> list[int]:
        """Return the numbers of training samples of a cell's task: of its modality and, if any, added ones."""
        return [len(subset.rows) for subset in self._training_subsets(cell)]

    def task(self, cell: EscCell) -> Task:
        """Return the task of a cell; training starts from the class means of the added samples, or at random."""
        name = f"{self.benchmark.name}/{cell.task} {cell.classes}/split {cell.split}/draw {cell.draw or 'any'}"
        name += f"/shot {cell.shots}/{cell.probe}"
        first, *added = self._training_subsets(cell)
        if added:
            initial = self.class_means(self.added(cell), cell.classes)
        else:
            initial = random_weight(cell.classes, self.bank.shape[1], generator(f"{name}/init"))
        val = self.val(cell.task, cell.split, cell.shots).among(self.benchmark.class_sets[cell.classes])
        return Task(
            name=name,
            samples=dict(zip((cell.task, "added"), map(self._samples, [first, *added]), strict=False)),
            val=self._samples(val),
            initial=initial.to(self.bank.device),
            scale=math.exp(SCALE_100),
        )

    def _training_subsets(self, cell: EscCell) -> list[Subset]:
        """Return the training samples of a cell: of its modality and, if any, added ones."""
        classes, added = self.benchmark.class_sets[cell.classes], self.added(cell)
        subsets = [self.train(cell.task, cell.split, cell.shots), *([] if added is None else [added])]
        return [subset.among(classes) for subset in subsets]

    def class_means(self, subset: Subset, classes: int) -> Tensor:
        """Return the classifier [C, D] whose rows are the means of the normalised features of each class."""
        samples = self._samples(subset.among(self.benchmark.class_sets[classes]))
        return class_means(self.bank[samples.rows], samples.labels, classes)

    def zero_shot(self, kind: str, task: str, split: int, draw: int, shots: int) -> Subset:
        """Return the samples whose class means are a zero-shot classifier.

        `kind` is text, image or audio: class names, the training samples of the task's modality, or one shot of the
        draw of the other modality.
        """
        if kind == "text":
            return self._texts
        return self.train(kind, split, shots) if kind == task else self.train(kind, draw, 1)

    def tests(self, cell: EscCell) -> list[TestSet]:
        """Return the test set of a cell; cells with equal test sets share it."""
        return [self._test_sets[cell.task, cell.classes, cell.split]]

    @cached_property
    def _test_sets(self) -> dict[tuple[str, int, int], TestSet]:
        keys = itertools.product(TASKS, self.benchmark.class_sets, SPLITS)
        return {key: TestSet(partial(self._test_batches, *key), {TEST: None}) for key in keys}

    def _test_batches(self, task: str, classes: int, split: int) -> list[tuple[tuple[Tensor], Tensor]]:
        samples = self._samples(self.test(task, split).among(self.benchmark.class_sets[classes]))
        return [((self.bank[samples.rows],), samples.labels)]

    def zero_shot_tests(self, task: str, classes: int, split: int, subsets: list[Subset]) -> list[float]:
        """Return the test accuracies of zero-shot classifiers, one for each of `subsets`."""
        embedding = Embedding([None])
        heads = [LinearHead(self.class_means(subset, classes), 1.0) for subset in subsets]
        classifiers = [LinearClassifier(embedding, head) for head in heads]
        return [found for (found,) in accuracies(classifiers, self._test_batches(task, classes, split))]

    def inputs(self, cell: EscCell) -> dict[str, str]:
        """Return digests of the training and test inputs of a cell's runs."""
        used = kinds_of(cell.task, cell.probe)
        return self.inputs_of(cell.task, cell.classes, cell.split, cell.draw, cell.shots, used)

    def inputs_of(self, task: str, classes: int, split: int, draw: int | None, shots: int, used: set[str]) -> dict:
        """Return digests of the training and test inputs of a run; `used` are the added modalities. Shots may be 0."""
        class_set = sorted(self.benchmark.class_sets[classes].items())
        found = {"classes": hashlib.sha256(json.dumps(class_set).encode()).hexdigest()}
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

    def _samples(self, subset: Subset) -> Samples:
        return Samples((self.bank,), subset.rows.to(self.bank.device), subset.labels.to(self.bank.device))

    def _read_images(self, images: ImageTasks, cell: Cell) -> tuple[Subset, Subset]:
        task = images.task(cell)
        return self._add_samples(task.own), self._add_samples(task.val)

    def _read_test(self, images: ImageTasks) -> Subset:
        (test,) = images.tests(images.cells[0])
        return join([self._add(features, labels) for (features,), labels in test.batches()])

    def _read_fold(self, number: int, fold: Fold) -> Subset:
        """Return the clips of a fold in metadata order, with labels by the names of their categories."""
        by_name = {category: label for label, category in self.benchmark.all_classes.items()}
        labels = torch.tensor([by_name.get(category, -1) for category in fold.categories])
        order = fold.positions.argsort()
        check_norms(fold.features, fold.positions.tolist(), f"fold {number} of {self.benchmark.sounds}")
        clips = self._add(F.normalize(fold.features[order]), labels[order])
        needed = 2 * max(SHOTS)
        if few := [name for name, label in by_name.items() if int((clips.labels == label).sum()) < needed]:
            raise UserError(
                f"fold {number} of {self.benchmark.sounds} has fewer than {needed} clips of {', '.join(few)}; check"
                " that its metadata list is complete"
            )
        return clips

    def _add_samples(self, samples: Samples) -> Subset:
        return self._add(samples.bank[0][samples.rows], samples.labels)

    def _add(self, features: Tensor, labels: Tensor) -> Subset:
        """Add the features of the benchmark's classes to the bank."""
        kept = torch.isin(labels, self._classes)
        start = sum(map(len, self._features))
        self._features.append(features[kept])
        return Subset(torch.arange(start, start + int(kept.sum())), labels[kept])


PROTOCOL = "scale 1, train, batches of 10"
"""The settings of the paper's features of sounds."""


def read_folds(benchmark: EscBenchmark, feature_dir: str | Path) -> dict[int, Fold]:
    """Return the features of the benchmark's sounds. Raises MissingFeatures if one of the five folds is missing."""
    return audio.read_folds(audio.folds_dir(feature_dir, benchmark.audio_encoder, benchmark.sounds), SPLITS)


def _audio_inputs(fold: Fold) -> dict[str, str]:
    """Return digests of the inputs of sound features, and their extraction settings."""
    source = asdict(fold.provenance)
    how = f"scale {source['audio_scale']}, {source['mode']}, batches of {source['batch_size']}"
    return {"audio encoder": source["encoder_digest"], "sounds": source["list_digest"], "audio": how}
