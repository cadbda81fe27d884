"""From a dataset's opened features to the tasks of its few-shot splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.datasets.image_dataset import BACKGROUND
from engine.errors import UserError
from engine.features.belonging import check_balance
from engine.features.opened import OpenedFeatures, Prompts, Wanted
from engine.features.store import Bank
from engine.model import Embedding, LinearClassifier, LinearHead, class_means, random_weight
from engine.preprocessing import Preprocessing
from engine.results.runs import ALL_CLASSES, EXTRACTION_KEYS, TEST, Cell
from engine.results.saved_classifiers import FeatureExtraction
from engine.training.batches import generator
from engine.training.evaluate import EMBEDDED, FEATURES, accuracies
from engine.training.task import Inputs, Samples, Task, TestSet

TEST_SET = 1 << 30
"""The bytes of features of a test set up to which it stays in memory."""


def wanted_by(cells: list[Cell]) -> Wanted:
    """Return which features `cells` of one dataset, encoder and choice of inputs need."""
    cell = cells[0]
    return Wanted(
        dataset=cell.dataset,
        encoder=cell.encoder,
        image_layer=cell.image_layer,
        text_layer=cell.text_layer,
        text_augmentation=cell.text_augmentation,
        image_augmentation=cell.image_augmentation,
        image_views=cell.image_views,
        max_val_shot=cell.max_val_shot,
        splits=[(cell.shots, cell.seed) for cell in cells],
    )


class ImageTasks:
    """The tasks of `cells` of one dataset, encoder and choice of inputs, on `device`.

    All share one bank of training images, one of validation images and one of prompts, and the trainable layers that
    training starts from.
    """

    def __init__(
        self,
        cells: list[Cell],
        features: OpenedFeatures,
        device: str,
        prepared: tuple[str, Preprocessing] | None = None,
    ):
        """`prepared` are the name of the encoder and how it wants images, for classifiers that are to be saved.

        Raises UserError for features of images that were prepared otherwise.
        """
        self.cells, self.features, self.device = cells, features, device
        self.extraction = prepared and self._extraction(*prepared)
        self._trainable_layers = (features.trainable_image_layers, features.trainable_text_layers)

    @property
    def is_custom(self) -> bool:
        """Whether the images are a custom dataset's, which may change."""
        return self.features.listing is not None

    @property
    def classnames(self) -> list[str]:
        """The names of the classes by label. Raises MissingFeatures where the store does not know them."""
        return self.features.classnames

    def sizes(self, cell: Cell) -> list[int]:
        """Return how many training samples of each modality a cell's task has."""
        images = len(self.features.splits[cell.shots, cell.seed].train) * len(self.features.views)
        return [images, len(self._prompts_of(cell).rows)] if cell.modality == "cross_modal" else [images]

    def task(self, cell: Cell) -> Task:
        """Return the task of a cell."""
        split, views = self.features.splits[cell.shots, cell.seed], self.features.views
        name = f"{cell.dataset}/shot {cell.shots}/seed {cell.seed}/{cell.modality}"
        images = self._pick("train", views, split.train)
        check_balance(split, images.labels[: len(split.train)], self.features.classes)
        zeroshot = self.zeroshot(cell)
        return Task(
            name=name,
            samples={"image": images} | ({"text": self.texts(cell)} if cell.modality == "cross_modal" else {}),
            val=self._pick("val", ["none"], split.val),
            initial=zeroshot if cell.init == "zeroshot" else self._random_weight(name, zeroshot),
            scale=math.exp(cell.log_logit_scale),
            trainable_layers=self._trainable_layers,
            text=self._texts_of[self._prompts_of(cell)],
            zeroshot=zeroshot,
            views=len(views),
            dataset=cell.dataset,
            classnames=self.features.texts.classnames or (),
        )

    def _random_weight(self, name: str, like: Tensor) -> Tensor:
        return random_weight(*like.shape, generator(f"{name}/init")).to(self.device)

    @cached_property
    def unstackable(self) -> str | None:
        """Why the runs of these cells cannot train side by side; None if they can."""
        towers = ("image", "text") if self.cells[0].modality == "cross_modal" else ("image",)
        trained = {tower: part for tower, part in zip(towers, self._trainable_layers, strict=False) if part is not None}
        if not trained:
            return None
        from engine.clip.split import unstackable  # imports open_clip, which an encoder has been loaded with

        reasons = ((tower, unstackable(part)) for tower, part in trained.items())
        return next((f"of the trainable part of the {tower} encoder: {why}" for tower, why in reasons if why), None)

    def inputs(self, cell: Cell) -> dict[str, str]:
        """Return digests of all that a cell's runs are trained on, and how features were made where not by default."""
        split = self.features.splits[cell.shots, cell.seed]
        made = (self.features.train_source.settings_text, self.features.text_source.settings_text)
        ways = {name: how for name, how in zip(EXTRACTION_KEYS, made, strict=True) if how}
        return {"text": self._prompts_of(cell).digest} | self.features.digests(split) | ways

    def tests(self, cell: Cell) -> list[TestSet]:
        """Return the test sets of all cells: the dataset's own, then the shifted ones."""
        return self._tests

    @cached_property
    def _tests(self) -> list[TestSet]:
        bank = self.features.banks["test", "none"]
        in_memory = self._trainable_layers[0] is None and bank.length * bank.row_bytes <= TEST_SET
        own = TestSet(lambda: [self._test_set] if in_memory else self._stream(bank), {TEST: None})
        shifted = []
        for of_set, labels in self.features.shifted:
            classes, name = torch.tensor(labels, device=self.device), of_set.name
            is_whole = len(labels) == self.features.classes
            subsets = {name: None} if is_whole else {name: classes, name + ALL_CLASSES: None}
            shifted.append(TestSet(partial(self._stream, of_set.bank, classes), subsets, of_set.classes.digest))
        return [own, *shifted]

    def zeroshot(self, cell: Cell) -> Tensor:
        """Return the zero-shot classifier [C, D] of a cell's prompts, from the text encoder before training."""
        return self._zeroshots[self._prompts_of(cell)]

    def texts(self, cell: Cell) -> Samples:
        """The prompts of a cell as samples."""
        return self._samples_of(self._prompts_of(cell))

    def zeroshot_accuracies(self, cell: Cell) -> dict[str, float]:
        """Return the zero-shot classifier's accuracies, 0 to 1, on all test sets by the names of their subsets."""
        return self._zeroshot_tests[self._prompts_of(cell)]

    @cached_property
    def _zeroshot_tests(self) -> dict[Prompts, dict[str, float]]:
        """Accuracies of all zero-shot classifiers; each test set is gone through once."""
        embedding = Embedding(self._trainable_layers[:1]).eval()
        classifiers = [LinearClassifier(embedding, LinearHead(weight, 1.0)) for weight in self._zeroshots.values()]
        found: dict[Prompts, dict[str, float]] = {prompts: {} for prompts in self._zeroshots}
        for test in self._tests:
            counted = accuracies(classifiers, test.batches(), list(test.subsets.values()))
            for own, of_subsets in zip(found.values(), counted, strict=True):
                own.update(zip(test.subsets, of_subsets, strict=True))
        return found

    @cached_property
    def _zeroshots(self) -> dict[Prompts, Tensor]:
        """The zero-shot classifier [C, D] of each choice of prompts."""
        return {own: F.normalize(text, dim=1) for own, text in self._texts_of.items()}

    @cached_property
    def _texts_of(self) -> dict[Prompts, Tensor]:
        """The mean raw text feature of each class [C, D] for each choice of prompts."""
        return {own: self._text(own) for own in dict.fromkeys(self.features.prompts.values())}

    def _text(self, own: Prompts) -> Tensor:
        """Return the mean raw text features of one choice; bit-identical whichever other choices there are."""
        labels = self.features.texts.labels[own.rows]
        if self._trainable_layers[1] is None:
            features = self.features.texts.features[own.rows]
        else:
            with torch.no_grad():
                batches = self._samples_of(own).batches(EMBEDDED)
                features = torch.cat([self._trainable_layers[1](*inputs) for inputs, _ in batches]).cpu()
        return class_means(features, labels, self.features.classes).to(self.device)

    @cached_property
    def _text_samples(self) -> Samples:
        """All prompts that were read."""
        found = self.features.texts
        inputs = (F.normalize(found.features),) if self._trainable_layers[1] is None else found.inputs
        return self._samples(inputs, found.labels)

    def _samples_of(self, own: Prompts) -> Samples:
        rows = own.rows.to(self.device)
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

    def _stream(self, bank: Bank, classes: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield a bank of test images from disk in batches; `classes` [k] are the classes of its labels, if others."""
        rows = FEATURES if self._trainable_layers[0] is None else EMBEDDED
        for features, labels in self.features.stream(bank, rows, None if classes is None else len(classes)):
            own = labels.to(self.device)
            yield (features.to(self.device),), own if classes is None else classes[own]

    def _pick(self, part: str, views: list[str], positions: list[int]) -> Samples:
        """Return the images at `positions` of a part, in each of the views that were read."""
        row = {position: row for row, position in enumerate(self.features.positions[part])}
        rows = [row[position] + view * len(row) for view in range(len(views)) for position in positions]
        samples = self._images[part]
        index = torch.tensor(rows, device=self.device)
        return replace(samples, rows=index, labels=samples.labels[index])

    def _read(self, part: str, views: Iterable[str]) -> Samples:
        """Return all images of a part that any cell needs, view after view."""
        features, labels, norms = self.features.read(part, views, self.device)
        samples = self._samples((features,), labels)
        return samples if norms is None else replace(samples, norms=norms.to(self.device))

    def _samples(self, inputs: Inputs, labels: Tensor) -> Samples:
        """All rows of `inputs` as samples."""
        rows = torch.arange(len(labels), device=self.device)
        return Samples(tuple(tensor.to(self.device) for tensor in inputs), rows, labels.to(self.device))

    def _extraction(self, encoder: str, wanted: Preprocessing) -> FeatureExtraction:
        """Return how images were made into features, which must be how the encoder wants them.

        Images without transparency were shown on no background; new ones may have it.
        """
        made = self.features.train_source
        if made.preprocessing != wanted.description:
            raise UserError(
                f"{self.features.banks['train', 'none'].folder} was made of images that were prepared otherwise than"
                f" {encoder} wants them ({made.preprocessing}; {wanted.description}); remove it, and make these"
                " features anew"
            )
        ways = {"precision": made.precision, "decode": made.decode, "upright": made.upright, "depth": made.depth}
        return FeatureExtraction(**vars(wanted), encoder=encoder, **ways, background=BACKGROUND)
