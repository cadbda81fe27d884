"""The tasks of a dataset's few-shot splits, from its opened features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.datasets.halves import ALL, NEW, labels_of
from engine.datasets.image_dataset import BACKGROUND
from engine.errors import UserError
from engine.features.belonging import check_balance
from engine.features.opened import OpenedFeatures, Prompts, Wanted
from engine.features.store import Bank
from engine.model import Embedding, LinearClassifier, LinearHead, class_means, random_weight
from engine.preprocessing import Preprocessing
from engine.results.runs import ALL_CLASSES, EXTRACTION_KEYS, TEST, VAL, Cell
from engine.results.saved_classifiers import FeatureExtraction
from engine.training.batches import generator
from engine.training.evaluate import EMBEDDED, FEATURES, accuracies
from engine.training.task import Inputs, Samples, Task, TestSet

if TYPE_CHECKING:  # open_clip takes seconds to import
    from engine.clip.load import Encoder
    from engine.clip.prompting import PromptEncoder

TEST_SET = 1 << 30
"""The maximum bytes of features of a test set that stays in memory."""


def wanted_by(cells: list[Cell]) -> Wanted:
    """Return the features that `cells` need; they share dataset, encoder, layers, prompts and views."""
    shared = {field.name: getattr(cells[0], field.name) for field in fields(Wanted) if field.name != "splits"}
    return Wanted(**shared, splits=[(cell.shots, cell.seed) for cell in cells])


def balance(labels: Tensor) -> Tensor:
    """Return rows int64 of `labels` [n] in which every class is as frequent as the largest; rows of others repeat."""
    counts = labels.bincount()
    if len(counts.unique()) == 1:
        return torch.arange(len(labels), device=labels.device)
    at = torch.arange(int(counts.max()), device=labels.device) % counts.unsqueeze(1)
    return labels.argsort(stable=True)[(counts.cumsum(0) - counts).unsqueeze(1) + at].flatten()


class ImageTasks:
    """The tasks of `cells` that share dataset, encoder, layers, prompts, views, classes and method, on `device`.

    All tasks share one bank each of training images, validation images and prompts, and the initial trainable layers.
    """

    def __init__(
        self,
        cells: list[Cell],
        features: OpenedFeatures,
        device: str,
        encoder: Encoder | None = None,
    ):
        """Take opened features; `encoder` is for saved classifiers and methods that train through its text tower.

        Raises UserError if the features were extracted with another preprocessing than the encoder's, and for cells
        that need texts which imported features lack.
        """
        self.cells, self.features, self.device, self.encoder = cells, features, device, encoder
        if features.texts is None and any(cell.modality == "cross_modal" or cell.init == "zeroshot" for cell in cells):
            raise UserError(
                f"{features.text_path} is missing: these features were imported without texts, which cross-modal"
                " training and zero-shot weights need; use --modality uni_modal --classifier_init random with a method"
                " that starts from random weights, or import texts too"
            )
        self.extraction = encoder and self._extraction(encoder.name, encoder.preprocessing)
        self._trainable_layers = (features.trainable_image_layers, features.trainable_text_layers)
        self._positions: dict[tuple[Cell, str], list[int]] = {}

    @property
    def is_custom(self) -> bool:
        """Whether this is a custom dataset, whose images may change."""
        return self.features.listing is not None

    def classnames(self, classes: str) -> list[str]:
        """Return names of classes by label. Raises MissingFeatures if the store has no class names."""
        return self.features.classnames[self._labels(classes)]

    def _labels(self, classes: str) -> slice:
        """Return the labels in the store of the classes of a task."""
        return labels_of(classes, self.features.classes)

    def sizes(self, cell: Cell) -> list[int]:
        """Return the number of training samples of each modality of a cell's task."""
        if cell.classes == ALL:
            images = len(self.features.splits[cell.shots, cell.seed].train) * len(self.features.views)
        else:
            images = len(self._train(cell))
        return [images, len(self.texts(cell))] if cell.modality == "cross_modal" else [images]

    def task(self, cell: Cell) -> Task:
        """Return the task of a cell."""
        split, classes = self.features.splits[cell.shots, cell.seed], self._labels(cell.classes)
        name = f"{cell.dataset}/shot {cell.shots}/seed {cell.seed}/{cell.modality}"
        name += "" if cell.classes == ALL else f"/{cell.classes}"
        zeroshot = self.zeroshot(cell)
        texts = {"text": self.texts(cell)} if cell.modality == "cross_modal" else {}
        return Task(
            name=name,
            samples={"image": self._train(cell)} | texts,
            val=_among(self._pick("val", ["none"], split.val), classes),
            initial=zeroshot if cell.init == "zeroshot" else self._random_weight(name, cell.classes),
            scale=math.exp(cell.log_logit_scale),
            trainable_layers=self._trainable_layers,
            text=None if zeroshot is None else self._texts_of[self._prompts_of(cell)][classes],
            zeroshot=zeroshot,
            views=len(self.features.views),
            dataset=cell.dataset,
            classnames=(self.features.stored_classnames or ())[classes],
            prompts=self.encoder and partial(self._prompt_encoder, cell.classes),
        )

    def _train(self, cell: Cell) -> Samples:
        """Return the training images of a cell's task. Raises UserError if the split does not fit the features."""
        split = self.features.splits[cell.shots, cell.seed]
        images = self._pick("train", self.features.views, split.train)
        check_balance(split, images.labels[: len(split.train)], self.features.classes)
        return _among(images, self._labels(cell.classes))

    @cached_property
    def _prompt_encoder(self) -> Callable[[str, int], PromptEncoder]:
        """The text tower for classes of the tasks, by the number of context vectors."""
        from engine.clip.prompting import PromptEncoder  # imports open_clip, which the encoder has been loaded with

        return cache(lambda classes, length: PromptEncoder(self.encoder, self.classnames(classes), length))

    def _random_weight(self, name: str, classes: str) -> Tensor:
        count = len(range(self.features.classes)[self._labels(classes)])
        return random_weight(count, self._dimension, generator(f"{name}/init")).to(self.device)

    @cached_property
    def _dimension(self) -> int:
        """The dimension of final features."""
        if self.features.texts is None:  # imported features are final
            return self.features.banks["train", "none"].row_shape[0]
        return next(iter(self._texts_of.values())).shape[1]

    @cached_property
    def unstackable(self) -> str | None:
        """The reason why runs of these cells cannot train in stacks, or None."""
        towers = ("image", "text") if self.cells[0].modality == "cross_modal" else ("image",)
        pairs = zip(towers, self._trainable_layers, strict=False)
        trained = {tower: layers for tower, layers in pairs if layers is not None}
        if not trained:
            return None
        from engine.clip.split import unstackable  # slow import of open_clip, already done to load the encoder

        reasons = ((tower, unstackable(layers)) for tower, layers in trained.items())
        return next((f"of the trainable layers of the {tower} encoder: {why}" for tower, why in reasons if why), None)

    def inputs(self, cell: Cell) -> dict[str, str]:
        """Return digests of the inputs of a cell's runs, and non-default settings of feature extraction."""
        split = self.features.splits[cell.shots, cell.seed]
        sources = (self.features.train_source, self.features.text_source)
        settings = (source.settings_text if source else "" for source in sources)
        non_default = {key: text for key, text in zip(EXTRACTION_KEYS, settings, strict=True) if text}
        text = {"text": self._prompts_of(cell).digest} if self.features.texts else {}
        return text | self.features.digests(split) | non_default

    def tests(self, cell: Cell) -> list[TestSet]:
        """Return the test sets, the same for all cells: the dataset's own, its new classes, then the shifted ones."""
        return self._tests

    @cached_property
    def _tests(self) -> list[TestSet]:
        first, bank = self.cells[0], self.features.banks["test", "none"]
        self._require_images(first)
        tests = [TestSet(partial(self._test_images, first.classes), {TEST: None})]
        if first.tests_new:
            tests.append(TestSet(partial(self._test_images, NEW), {NEW: None}, bank.list_digest(), True))
        for shifted_set, labels in self.features.shifted:
            classes, name = torch.tensor(labels, device=self.device), shifted_set.name
            is_whole = len(labels) == self.features.classes
            subsets = {name: None} if is_whole else {name: classes, name + ALL_CLASSES: None}
            tests.append(TestSet(partial(self._stream, shifted_set.bank, classes), subsets, shifted_set.classes.digest))
        return tests

    def _require_images(self, cell: Cell) -> None:
        """Raise UserError if a half of the classes of a custom dataset has no images to select or to test runs on."""
        wanted = [(VAL, cell.classes), (TEST, cell.classes), *[(TEST, NEW)] * cell.tests_new]
        for split, classes in wanted if self.is_custom and cell.classes != ALL else ():
            labels = range(self.features.classes)[self._labels(classes)]
            if not any(label in labels for label in self.features.listing.split(split).labels):
                raise UserError(
                    f"{cell.dataset} has no {split} images of its {classes} classes, {labels[0]} to {labels[-1]} in the"
                    f" order of labels; add such images, or use --classes {ALL}"
                )

    def _test_images(self, classes: str) -> Iterable[tuple[Inputs, Tensor]]:
        """Return the test images of some classes in batches."""
        bank, labels = self.features.banks["test", "none"], self._labels(classes)
        in_memory = self._trainable_layers[0] is None and bank.length * bank.row_bytes <= TEST_SET
        return _batches_among([self._test_set] if in_memory else self._stream(bank), labels)

    def zeroshot(self, cell: Cell) -> Tensor | None:
        """Return the zero-shot classifier [C, D] of a cell's prompts, from the text encoder before training.

        It is None for features without texts.
        """
        if self.features.texts is None:
            return None
        return self._zeroshots[self._prompts_of(cell)][self._labels(cell.classes)]

    def texts(self, cell: Cell) -> Samples:
        """Return the prompts of a cell as samples, of which every class has equally many: some repeat otherwise.

        A class must not be more probable because a file has more prompts of it.
        """
        samples = _among(self._samples_of(self._prompts_of(cell)), self._labels(cell.classes))
        rows = balance(samples.labels)
        return replace(samples, rows=samples.rows[rows], labels=samples.labels[rows])

    def zeroshot_accuracies(self, cell: Cell) -> dict[str, float]:
        """Return the zero-shot accuracies, 0 to 1, on all test sets by subset name."""
        return self._zeroshot_tests[self._prompts_of(cell)]

    @cached_property
    def _zeroshot_tests(self) -> dict[Prompts, dict[str, float]]:
        """Accuracies of all zero-shot classifiers, in one pass over each test set."""
        embedding = Embedding(self._trainable_layers[:1]).eval()
        found: dict[Prompts, dict[str, float]] = {prompts: {} for prompts in self._zeroshots}
        for test in self._tests:
            classes = self._labels(NEW if test.new_classes else self.cells[0].classes)
            weights = [weight[classes] for weight in self._zeroshots.values()]
            classifiers = [LinearClassifier(embedding, LinearHead(weight, 1.0)) for weight in weights]
            counted = accuracies(classifiers, test.batches(), list(test.subsets.values()))
            for of_prompts, of_subsets in zip(found.values(), counted, strict=True):
                of_prompts.update(zip(test.subsets, of_subsets, strict=True))
        return found

    @cached_property
    def _zeroshots(self) -> dict[Prompts, Tensor]:
        """The zero-shot classifier of all classes of the dataset, for each prompt set."""
        return {prompts: F.normalize(text, dim=1) for prompts, text in self._texts_of.items()}

    @cached_property
    def _texts_of(self) -> dict[Prompts, Tensor]:
        """The mean raw text features of all classes of the dataset, for each prompt set."""
        return {prompts: self._text(prompts) for prompts in dict.fromkeys(self.features.prompts.values())}

    def _text(self, prompts: Prompts) -> Tensor:
        """Return the mean raw text features of one prompt set; bit-identical whichever other sets are loaded."""
        labels = self.features.texts.labels[prompts.rows]
        if self._trainable_layers[1] is None:
            features = self.features.texts.features[prompts.rows]
        else:
            with torch.no_grad():
                batches = self._samples_of(prompts).batches(EMBEDDED)
                features = torch.cat([self._trainable_layers[1](*inputs) for inputs, _ in batches]).cpu()
        return class_means(features, labels, self.features.classes).to(self.device)

    @cached_property
    def _text_samples(self) -> Samples:
        """All prompts read."""
        found = self.features.texts
        inputs = (F.normalize(found.features),) if self._trainable_layers[1] is None else found.inputs
        return self._samples(inputs, found.labels)

    def _samples_of(self, prompts: Prompts) -> Samples:
        rows = prompts.rows.to(self.device)
        return replace(self._text_samples, rows=rows, labels=self._text_samples.labels[rows])

    def _prompts_of(self, cell: Cell) -> Prompts:
        return self.features.prompts[cell.shots, cell.seed]

    @cached_property
    def _images(self) -> dict[str, Samples]:
        """All training images in all views, and all validation images."""
        return {"train": self._read("train", self.features.views), "val": self._read("val", ["none"])}

    @cached_property
    def _test_set(self) -> tuple[Inputs, Tensor]:
        test = self._read("test", ["none"])
        return test.bank, test.labels

    def positions(self, cell: Cell, split: str) -> list[int]:
        """Return the positions of a cell's images of train, val or test in the list of that split."""
        bank, few_shot = self.features.banks[split, "none"], self.features.splits[cell.shots, cell.seed]
        all_classes = list(range(bank.length)) if split == TEST else getattr(few_shot, split)
        if cell.classes == ALL:
            return all_classes
        if (cell, split) not in self._positions:  # a report asks several times, and this reads all features
            labels = torch.cat([of_batch for _, of_batch in self._stream(bank, split=split, at=all_classes)])
            kept = _are_of(labels, self._labels(cell.classes)).tolist()
            self._positions[cell, split] = [at for at, is_kept in zip(all_classes, kept, strict=True) if is_kept]
        return self._positions[cell, split]

    def stream(self, cell: Cell, split: str) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield inputs and labels of a cell's images of train, val or test from disk in batches, in order."""
        batches = self._stream(self.features.banks[split, "none"], split=split, at=self.positions(cell, split))
        return _batches_among(batches, self._labels(cell.classes))

    def _stream(self, bank: Bank, classes: Tensor | None = None, **images: Any) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield images of a bank from disk in batches; `classes` [k] maps its labels to the task's."""
        rows = FEATURES if self._trainable_layers[0] is None else EMBEDDED
        for features, labels in self.features.stream(bank, rows, None if classes is None else len(classes), **images):
            labels = labels.to(self.device)
            yield (features.to(self.device),), labels if classes is None else classes[labels]

    def _pick(self, split: str, views: list[str], positions: list[int]) -> Samples:
        """Return the images at `positions` of train or val, in each of `views`."""
        row = {position: row for row, position in enumerate(self.features.positions[split])}
        rows = [row[position] + view * len(row) for view in range(len(views)) for position in positions]
        samples = self._images[split]
        index = torch.tensor(rows, device=self.device)
        return replace(samples, rows=index, labels=samples.labels[index])

    def _read(self, split: str, views: Iterable[str]) -> Samples:
        """Return all images of train, val or test that any cell needs, view after view."""
        features, labels, norms = self.features.read(split, views, self.device)
        samples = self._samples((features,), labels)
        return samples if norms is None else replace(samples, norms=norms.to(self.device))

    def _samples(self, inputs: Inputs, labels: Tensor) -> Samples:
        """Return all rows of `inputs` as samples."""
        rows = torch.arange(len(labels), device=self.device)
        return Samples(tuple(tensor.to(self.device) for tensor in inputs), rows, labels.to(self.device))

    def _extraction(self, encoder: str, expected: Preprocessing) -> FeatureExtraction:
        """Return how the features were extracted. Raises UserError unless it was with the encoder's preprocessing.

        Without transparent images, the store records no background; new images may need it.
        """
        found = self.features.train_source
        if found.preprocessing != expected.description:
            raise UserError(
                f"{self.features.banks['train', 'none'].folder} was extracted with another preprocessing than"
                f" {encoder} expects ({found.preprocessing}; {expected.description}); remove it and extract these"
                " features again"
            )
        settings = {name: getattr(found, name) for name in ("precision", "decode", "upright", "depth")}
        return FeatureExtraction(**vars(expected), encoder=encoder, **settings, background=BACKGROUND)


def _among(samples: Samples, classes: slice) -> Samples:
    """Return the samples of some classes, with labels from 0."""
    kept = _are_of(samples.labels, classes)
    return replace(samples, rows=samples.rows[kept], labels=samples.labels[kept] - classes.start)


def _batches_among(batches: Iterable[tuple[Inputs, Tensor]], classes: slice) -> Iterator[tuple[Inputs, Tensor]]:
    """Yield the samples of some classes, with labels from 0."""
    for inputs, labels in batches:
        kept = _are_of(labels, classes)
        if kept.all():
            yield inputs, labels - classes.start  # no copy of the inputs
        elif kept.any():
            yield tuple(tensor[kept] for tensor in inputs), labels[kept] - classes.start


def _are_of(labels: Tensor, classes: slice) -> Tensor:
    """Return whether labels are of some classes, bool [n]."""
    return (labels >= classes.start) & (labels < classes.stop)
