"""From files to problems: the features of a dataset under one encoder, and the few-shot problems on them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.datasets.few_shot import FewShotSplit, load_splits
from engine.errors import UserError
from engine.features.store import Bank, Place, read_texts
from engine.features.views import training_views
from engine.model import random_weight, zeroshot_weight
from engine.results.runs import Cell
from engine.training.batches import generator
from engine.training.problem import Problem, Samples


class DatasetFeatures:
    """What `cells` of one dataset, encoder and choice of inputs need. Checked at once, read when first asked for.

    All cells share one bank of training images and one of validation images, on `device`.
    """

    def __init__(self, cells: list[Cell], feature_dir: str | Path, indices_dir: str | Path, device: str):
        """Raises MissingFeatures for what is not in the store, UserError when its parts do not belong together."""
        cell = cells[0]
        self.cells, self.device = cells, device
        asked = [c.shots for c in cells], [c.seed for c in cells]
        splits = load_splits(indices_dir, cell.dataset, *asked, cell.max_val_shot)
        self.splits = {(split.shots, split.seed): split for split in splits}
        self.positions = {
            "train": sorted({position for split in self.splits.values() for position in split.train}),
            "val": sorted({position for split in self.splits.values() for position in split.val}),
            "test": None,  # all of them
        }
        place = Place.of(feature_dir, cell.encoder, cell.dataset)
        self._texts = read_texts(place.texts(cell.text_layer, cell.text_augmentation))
        self.classes = int(self._texts.labels.max()) + 1
        self.views = training_views(cell.image_augmentation, cell.image_views)
        parts = [*(("train", view) for view in self.views), ("val", "none"), ("test", "none")]
        self._banks = {(part, view): Bank(place.bank(part, cell.image_layer, view)) for part, view in parts}
        for (part, _), bank in self._banks.items():
            bank.require(self.positions[part])
            self._check_source(bank, part)

    def sizes(self, cell: Cell) -> list[int]:
        """How many samples the sources of a cell's problem hold."""
        images = len(self.splits[cell.shots, cell.seed].train) * len(self.views)
        return [images, len(self._texts.labels)] if cell.modality == "cross_modal" else [images]

    def problem(self, cell: Cell) -> Problem:
        """The problem that the runs of a cell solve."""
        split = self.splits[cell.shots, cell.seed]
        name = f"{cell.dataset}/shot {cell.shots}/seed {cell.seed}/{cell.modality}"
        if cell.init == "zeroshot":
            initial = self.zeroshot
        else:
            initial = random_weight(*self.zeroshot.shape, generator(f"{name}/init")).to(self.device)
        images = self._pick("train", self.views, split.train)
        self._check_balance(split, images.labels[: len(split.train)])
        return Problem(
            name=name,
            sources=(images, self.texts) if cell.modality == "cross_modal" else (images,),
            val=self._pick("val", ["none"], split.val),
            initial=initial,
            scale=math.exp(cell.logit),
        )

    def inputs(self, cell: Cell) -> dict[str, str]:
        """Digests of all that a cell's runs are trained on."""
        lists = {part: bank.source.list_digest for (part, _), bank in self._banks.items()}
        text = self._texts.source
        split = self.splits[cell.shots, cell.seed].digest
        return {"encoder": text.encoder_digest, "text": text.list_digest, "split": split, **lists}

    @cached_property
    def zeroshot(self) -> Tensor:
        """The zero-shot classifier [C, D]."""
        return zeroshot_weight(self._texts.features, self._texts.labels, self.classes).to(self.device)

    @cached_property
    def texts(self) -> Samples:
        """The prompts as samples."""
        return self._samples(self._texts.features, self._texts.labels)

    @cached_property
    def test_set(self) -> tuple[Tensor, Tensor]:
        """The whole test set: L2-normalised features [n, D] and labels [n]."""
        test = self._read("test", ["none"])
        return test.bank, test.labels

    @cached_property
    def _images(self) -> dict[str, Samples]:
        """All training images in all views, and all validation images."""
        return {"train": self._read("train", self.views), "val": self._read("val", ["none"])}

    def _pick(self, part: str, views: list[str], positions: list[int]) -> Samples:
        """The images at `positions` of a part, in each of the views that were read."""
        row = {position: row for row, position in enumerate(self.positions[part])}
        rows = [row[position] + view * len(row) for view in range(len(views)) for position in positions]
        samples = self._images[part]
        index = torch.tensor(rows, device=self.device)
        return replace(samples, rows=index, labels=samples.labels[index])

    def _read(self, part: str, views: list[str]) -> Samples:
        """All images of a part that any cell needs, view after view."""
        read = [self._banks[part, view].read(self.positions[part]) for view in views]
        labels = torch.cat([labels for _, labels in read])
        if int(labels.max()) >= self.classes:
            folder = self._banks[part, views[0]].folder
            raise UserError(f"{folder} has label {int(labels.max())}, but there are prompts of {self.classes} classes")
        return self._samples(torch.cat([features for features, _ in read]), labels)

    def _samples(self, features: Tensor, labels: Tensor) -> Samples:
        """All rows of raw `features` as samples, normalised."""
        rows = torch.arange(len(labels), device=self.device)
        return Samples(F.normalize(features).to(self.device), rows, labels.to(self.device))

    def _check_source(self, bank: Bank, part: str) -> None:
        """Refuse a bank of another encoder than the prompts', or of another list than the part's first view."""
        text, image, first = self._texts.source, bank.source, self._banks[part, "none"]
        if (image.encoder_digest, image.precision) != (text.encoder_digest, text.precision):
            raise UserError(
                f"{bank.folder} was made by {image.encoder} ({image.encoder_digest[:12]}, {image.precision}), but the"
                f" prompts beside it by {text.encoder} ({text.encoder_digest[:12]}, {text.precision}); remove the one"
                " you do not want"
            )
        if image != first.source:
            raise UserError(
                f"{bank.folder} and {first.folder} were made from different lists of images; remove the older one"
            )

    def _check_balance(self, split: FewShotSplit, labels: Tensor) -> None:
        """Refuse a split that was not made for the dataset whose features these are."""
        counts = labels.bincount(minlength=self.classes)
        fewest, most = int(counts.min()), int(counts.max())
        if fewest == 0 or most > split.shots:
            raise UserError(
                f"the split of {split.dataset}, {split.shots} shots, seed {split.seed} was not made for the dataset"
                f" whose features are cached: it has {fewest} to {most} training images a class; delete the one"
                " that is wrong"
            )
