"""A dataset's features under one encoder, opened and checked once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from engine import datasets, memory, templates
from engine.datasets.few_shot import FewShotSplit, Shots, check_current, load_splits
from engine.errors import UserError
from engine.features.arrays import read_imported
from engine.features.belonging import check_encoder, check_layers, check_list, check_settings
from engine.features.listing import read_listing
from engine.features.mining import Origin, read_mined
from engine.features.numbers import check_finite, check_norms
from engine.features.prompts import (
    Texts,
    prompts_digest,
    read_texts,
    read_texts_classnames,
    read_texts_provenance,
    read_wordings,
)
from engine.features.shifted import ShiftedSet, classes_of
from engine.features.store import Bank, FeaturePaths, MissingFeatures, Provenance
from engine.features.views import training_views

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on final features does not need it
    from engine.clip.load import Encoder


@dataclass(frozen=True)
class Wanted:
    """A choice of a dataset's features: encoder, layers, prompts, views and few-shot splits.

    `encoder` is a folder name. `splits` are pairs of shots and seed. The other fields have the names of a cell's.
    """

    dataset: str
    encoder: str
    image_layer: int | str
    text_layer: int
    text_augmentation: str
    image_augmentation: str
    image_views: int
    max_val_shot: int
    splits: Sequence[tuple[Shots, int]]


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of a split: `rows` [n] int64 of the prompts read, and a digest of their wordings and classes."""

    rows: Tensor
    digest: str


class OpenedFeatures:
    """Features of a dataset that belong together: checked at construction, read on access.

    `texts` are the prompts of all splits, `prompts` the prompts of each split by shots and seed, and `classes` is the
    number of classes. `texts` is None if features were imported without prompts. `trainable_image_layers` and
    `trainable_text_layers` process the features; None for no layers.
    """

    def __init__(
        self,
        wanted: Wanted,
        feature_dir: str | Path,
        indices_dir: str | Path,
        encoder: Encoder | None = None,
        shifted: Sequence[ShiftedSet] = (),
    ):
        """Open and check features; `encoder` has the trainable layers, None for no layers.

        Raises MissingFeatures for features that are not in the store, UserError if features do not belong together.
        """
        self.wanted = wanted
        self.trainable_image_layers = encoder.image[wanted.image_layer] if encoder else None
        self.trainable_text_layers = encoder.text[wanted.text_layer] if encoder else None
        paths = FeaturePaths.of(feature_dir, wanted.encoder, wanted.dataset)
        self.listing = read_listing(paths)
        if self.listing is None and datasets.is_custom(wanted.dataset):
            raise MissingFeatures(f"no features of {wanted.dataset}: {paths.listing}, the list of images, is missing")
        self.splits = {(split.shots, split.seed): split for split in self._read_splits(indices_dir)}
        self.positions = {"test": None}  # all test images
        for name in ("train", "val"):
            self.positions[name] = sorted({at for split in self.splits.values() for at in getattr(split, name)})
        self.views = training_views(wanted.image_augmentation, wanted.image_views)
        self.banks = {
            (name, view): Bank(paths.bank(name, wanted.image_layer, view), self.listing and self.listing.split(name))
            for name, view in [*(("train", view) for view in self.views), ("val", "none"), ("test", "none")]
        }
        self.imported = read_imported(paths)
        self.text_path = paths.texts(wanted.text_layer, wanted.text_augmentation)
        self.text_source, self.texts, self.prompts = None, None, {}
        if self.imported is None or self.text_path.exists():
            self.text_source = read_texts_provenance(self.text_path)
            check_layers(self.text_path, self.text_source, wanted.text_layer, encoder)
            if self.listing and not self._has_prompts_of(self.listing.classnames):
                raise MissingFeatures(f"{self.text_path} has prompts of class names that differ from {paths.listing}")
        self._check_banks(encoder)
        if self.text_source is not None:
            self._read_prompts(paths)
        self.classes = int(self.texts.labels.max()) + 1 if self.texts else len(self.imported.classnames)
        self.shifted = [(one, self._shifted_classes(one, encoder)) for one in shifted]
        self._check_shapes()

    def _read_prompts(self, paths: FeaturePaths) -> None:
        """Read and check the prompts of all splits."""
        mined = self.wanted.text_augmentation == templates.MINING
        self.texts, self.prompts = self._mined(paths) if mined else self._all_prompts()
        check = check_norms if self.trainable_text_layers is None else check_finite
        name = f"{self.wanted.dataset}, prompts, in {self.text_path}"
        check(self.texts.features, range(len(self.texts.labels)), name)

    @property
    def stored_classnames(self) -> list[str] | None:
        """The class names by label, as the dataset spells them; None in an old store without them."""
        return self.texts.classnames if self.texts else self.imported.classnames

    @property
    def classnames(self) -> list[str]:
        """The class names by label, as in prompts. Raises MissingFeatures if an old store has no class names."""
        if self.stored_classnames is None:
            raise MissingFeatures(
                f"{self.text_path} has no class names: an earlier version wrote it. features.py adds them without"
                " encoding anything again"
            )
        return list(map(templates.spell, self.stored_classnames))

    @property
    def train_source(self):
        """The provenance of the training images' features."""
        return self.banks["train", "none"].provenance

    def digests(self, split: FewShotSplit) -> dict[str, str]:
        """Return digests of the encoder weights, of a few-shot split, and of its train, val and test images."""
        rows = {"train": split.train, "val": split.val, "test": None}
        lists = {name: bank.list_digest(rows[name]) for (name, _), bank in self.banks.items()}
        return {"encoder": self.train_source.encoder_digest, "split": split.digest, **lists}

    def read(self, split: str, views: Iterable[str], device: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return all images of train, val or test that few-shot splits use, view after view: inputs, labels and norms.

        Inputs that need more than half of the CPU's free memory are in a temporary file, which is mapped.
        """
        banks, positions = [self.banks[split, view] for view in views], self.positions[split]
        shape = [len(banks), len(positions or range(banks[0].length)), *banks[0].row_shape]
        large = torch.device(device).type == "cpu" and 4 * math.prod(shape) > memory.free("cpu") // 2
        features = memory.scratch(shape, banks[0].folder) if large else torch.empty(shape)
        pairs = zip(banks, features, strict=True)
        read = [self._read_bank(bank, split, positions, self.classes, out) for bank, out in pairs]
        norms = [of_bank for *_, of_bank in read if of_bank is not None]
        return features.flatten(0, 1), torch.cat([labels for _, labels, _ in read]), torch.cat(norms) if norms else None

    def stream(
        self, bank: Bank, rows: int, classes: int | None = None, *, split: str = "test", at: list[int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels of images in the bank of a `split`, `rows` at a time; labels must be below `classes`.

        The images are at positions `at`; None is all of the split.
        """
        for positions in (torch.arange(bank.length) if at is None else torch.tensor(at)).split(rows):
            features, labels, _ = self._read_bank(bank, split, positions.tolist(), classes or self.classes)
            yield features, labels

    def _read_bank(
        self, bank: Bank, split: str, positions: list[int] | None, classes: int, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return inputs, labels and norms of a bank of images; raise UserError unless labels are below `classes`.

        The inputs are read into `out` unless it is None. Final features are normalised; other inputs have no norms.
        """
        features, labels = bank.read(positions, out)
        where = range(len(labels)) if positions is None else positions
        check = check_norms if self.trainable_image_layers is None else check_finite
        check(features, where, f"{bank.folder.parents[1].name}, {split} images, in {bank.folder}")
        if int(labels.max()) >= classes:
            raise UserError(f"{bank.folder} has label {int(labels.max())}, but prompts of only {classes} classes")
        if self.trainable_image_layers is not None:
            return features, labels, None
        norms = features.norm(dim=1)
        F.normalize(features, out=features)
        return features, labels, norms

    def _has_prompts_of(self, classnames: list[str]) -> bool:
        """Return whether the stored prompts are of these classes; prompts of an old file must show the names."""
        stored = read_texts_classnames(self.text_path)
        if stored is None:
            return templates.are_prompts_of(classnames, *read_wordings(self.text_path))
        return stored == classnames

    def _read_splits(self, indices_dir: str | Path) -> list[FewShotSplit]:
        """Return the few-shot splits, checked against the images in the store."""
        keys = self.listing and self.listing.keys()
        splits = load_splits(indices_dir, self.wanted.dataset, self.wanted.splits, self.wanted.max_val_shot, keys)
        for split in splits if self.listing else ():
            check_current(split, {name: self.listing.split(name).labels for name in keys})
        return splits

    def _all_prompts(self) -> tuple[Texts, dict[tuple[int, int], Prompts]]:
        """Return all prompts, and the prompts of each split: all of them."""
        texts = read_texts(self.text_path)
        shared = Prompts(torch.arange(len(texts.labels)), prompts_digest(texts.prompts, texts.labels.tolist()))
        return texts, dict.fromkeys(self.splits, shared)

    def _mined(self, paths: FeaturePaths) -> tuple[Texts, dict[tuple[int, int], Prompts]]:
        """Return the prompts mined on any split, without the rest of the pool, and the prompts of each split."""
        val = self.banks["val", "none"]
        mined = {
            key: read_mined(paths.mined(split.name), Origin.of(self.text_source, val, split))
            for key, split in self.splits.items()
        }

        rows: dict[tuple[int, int], Tensor] = {}

        def select_rows(labels: Tensor) -> Tensor:
            rows.update({key: prompts.rows(labels) for key, prompts in mined.items()})
            return torch.cat(list(rows.values())).unique()  # ascending

        texts = read_texts(self.text_path, select_rows)
        selected = torch.cat(list(rows.values())).unique()
        prompts = {}
        for key, of_split in rows.items():
            found = torch.searchsorted(selected, of_split)
            wordings = [texts.prompts[row] for row in found.tolist()]
            prompts[key] = Prompts(found, prompts_digest(wordings, texts.labels[found].tolist()))
        return texts, prompts

    def _shifted_classes(self, shifted: ShiftedSet, encoder: Encoder | None) -> list[int]:
        """Return the labels of a shifted set's classes. Raises UserError unless its features belong to this dataset."""
        check_layers(shifted.bank.folder, shifted.bank.provenance, self.wanted.image_layer, encoder)
        check_encoder(shifted.bank, *self._reference)
        check_settings(shifted.bank, self.banks["train", "none"])
        return classes_of(shifted, self.wanted.dataset, self.classes, self.stored_classnames)

    def _check_banks(self, encoder: Encoder | None) -> None:
        """Raise MissingFeatures for missing rows, UserError for banks that do not belong together or to the prompts."""
        for (split, _), bank in self.banks.items():
            bank.require(self.positions[split])
            check_layers(bank.folder, bank.provenance, self.wanted.image_layer, encoder)
            check_encoder(bank, *self._reference)
            check_list(bank, self.banks[split, "none"])
            check_settings(bank, self.banks["train", "none"])

    @property
    def _reference(self) -> tuple[Path, Provenance]:
        """The file of prompts and its provenance, which banks must agree with; without prompts, the training images."""
        train = self.banks["train", "none"].folder
        return (self.text_path, self.text_source) if self.text_source else (train, self.train_source)

    def _check_shapes(self) -> None:
        """Raise UserError for features of different shapes, which files of another origin may have."""
        first = self.banks["train", "none"]
        banks = [*self.banks.values(), *(shifted.bank for shifted, _ in self.shifted)]
        shapes = {bank.folder: bank.row_shape for bank in banks}
        if self.texts and self.trainable_image_layers is None and self.trainable_text_layers is None:
            shapes[self.text_path] = self.texts.features.shape[1:]
        for path, shape in shapes.items():
            if shape != first.row_shape or (self.trainable_image_layers is None and len(shape) != 1):
                found = f"{path} has features of shape {list(shape)}, but {first.folder} of {list(first.row_shape)}"
                raise UserError(f"{found}; remove the wrong features and extract them again")
