"""The logits of a saved classifier on the stored features of its run: no image and, for final features, no encoder.

run = open_run(args, Path("experiments/..."), "cpu")
trained, averaged = run.classifiers([0.0, 0.5])  # the trained classifier and its WiSE-FT
for labels, (logits, of_averaged) in run.batches("test", [trained, averaged]):
    ...
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine import datasets
from engine.clip import names
from engine.config import commands
from engine.datasets import ImageDataset
from engine.errors import UserError
from engine.features.listing import image_paths
from engine.features.opened import OpenedFeatures
from engine.features.shifted import open_sets
from engine.features.store import FeaturePaths, MissingFeatures
from engine.methods import require_wise_ft
from engine.methods.build import restore
from engine.model import LinearClassifier, wise_ft
from engine.results import saved_classifiers
from engine.results.runs import Cell, differences
from engine.results.saved_classifiers import MissingClassifier, SavedClassifier
from engine.sweep.arguments import check_images
from engine.tasks.images import ImageTasks, wanted_by

if TYPE_CHECKING:
    from engine.clip.load import Encoder


@dataclass(frozen=True, eq=False)
class Scores:
    """Outputs of a classifier for the images of a split: `logits` [n, C] float32 and `labels` [n] int64, on the CPU.

    A test set of 50 000 images and 1000 classes takes 200 MB; `StoredRun.batches` yields it piece by piece.
    """

    logits: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A saved classifier, its `path`, and the stored features `data` that it was trained on.

    The splits are `val`, the few-shot validation set of the run, and `test`. Their images have the order of the
    dataset's lists.
    """

    path: Path
    saved: SavedClassifier
    data: ImageTasks
    data_dir: str | Path
    indices_dir: str | Path

    @property
    def cell(self) -> Cell:
        """The settings of the run."""
        return self.saved.run.cell

    def classifiers(self, ratios: Sequence[float] = (0.0,)) -> list[LinearClassifier]:
        """Return the trained classifier averaged with the zero-shot weights, for each ratio (0: as it was trained).

        They share their embedding. Raises UserError for tensors that do not fit the encoder, and for a ratio above 0
        if the method has no WiSE-FT.
        """
        if any(ratios):
            require_wise_ft(self.cell.head)
        tensors = dict(self.saved.tensors)
        zeroshot = tensors.pop("zeroshot", None)
        if zeroshot is None and any(ratios):
            raise UserError(
                f"{self.path} has no zero-shot weights for WiSE-FT: its features were imported without texts"
            )
        layers = self.data.features.trainable_image_layers
        try:
            trained = restore(self.cell.head, self.cell.log_logit_scale, [layers], tensors).to(self.data.device)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"{self.path} does not fit {self.cell.encoder} ({error}); remove it and run train.py --save-heads to"
                " save it again"
            ) from error
        weight = trained.weight
        end = weight if zeroshot is None else zeroshot.to(weight.device)
        return [trained.with_weight(wise_ft(weight, end, ratio)) for ratio in ratios]

    @torch.inference_mode()
    def batches(self, split: str, classifiers: Sequence[LinearClassifier]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield the images of a split in batches: labels [B] int64, and the logits [B, C] of each classifier.

        The features are read once. The classifiers share an embedding, as `classifiers` returns them.
        """
        for inputs, labels in self.data.stream(self.cell, split):
            features = classifiers[0].embedding(inputs)
            yield labels.cpu(), [classifier.head(features).cpu() for classifier in classifiers]

    def scores(self, split: str, classifiers: Sequence[LinearClassifier]) -> list[Scores]:
        """Return the logits of each classifier on all images of a split."""
        labels, logits = zip(*self.batches(split, classifiers), strict=True)
        return [Scores(torch.cat(of_one), torch.cat(labels)) for of_one in zip(*logits, strict=True)]

    @cached_property
    def dataset(self) -> ImageDataset | None:
        """The installed dataset; None if it is not installed, or if the features are of other lists of its images."""
        name = self.cell.dataset
        found = datasets.find(name, self.data_dir, self.indices_dir) if name in datasets.names() else None
        bank = self.data.features.banks["test", "none"]
        same = self.data.is_custom or (found and found.digest("test") == bank.list_digest())
        return found if same else None

    def images(self, split: str) -> list[str]:
        """Return the paths of a split's images; see `image_paths`."""
        paths = image_paths(split, self.data.features.banks[split, "none"], self.dataset)
        return [paths[position] for position in self.data.positions(self.cell, split)]


def open_run(args: argparse.Namespace, path: Path, device: str, shifted: Sequence[str] = ()) -> StoredRun:
    """Return a saved classifier with its stored features; `path` is its file, its record, or a folder with it.

    The test sets of its `data` include the `shifted` ones.
    `args` has the folders of data, splits and features, and the file of the encoder's weights, if any. Raises UserError
    for a missing classifier and for missing features, with the commands that create them, and for features of another
    encoder, split, list of images or prompts than the classifier was trained on.
    """
    try:
        path = saved_classifiers.find(path)
    except MissingClassifier as error:
        raise UserError(commands.missing_classifier(args, error)) from error
    saved = saved_classifiers.read(path)
    cell = saved.run.cell
    if cell.dataset not in datasets.names() and os.path.isdir(cell.dataset):
        datasets.add_custom(cell.dataset)
    try:
        tests = open_sets(list(shifted), args.feature_dir, cell.encoder, cell.image_layer)
        encoder = _encoder(args, saved, device)
        features = OpenedFeatures(wanted_by([cell]), args.feature_dir, args.indices_dir, encoder, tests)
        data = ImageTasks([cell], features, device)
        check_images(data, FeaturePaths.of(args.feature_dir, cell.encoder, cell.dataset), args.indices_dir)
    except MissingFeatures as error:
        if saved.extraction is None:
            raise UserError(f"{error}; they were imported: use features.py --import again") from error
        name, weights = names.parse_folder(cell.encoder)
        known = {"precision": saved.extraction.precision, "decode": saved.extraction.decode}
        known["clip_weights"] = args.clip_weights or (weights and f"FILE-OF-{weights}")
        changed = argparse.Namespace(**vars(args) | known)
        make = commands.extraction_commands(changed, [cell], {name: cell.encoder}, shifted=bool(shifted))
        raise UserError("\n  ".join([f"{error}; extract them with", *make])) from error
    if (found := data.inputs(cell)) != saved.run.inputs:
        again = commands.save_heads_commands(args, {cell: saved_classifiers.result_dir(saved.run, path)})
        raise UserError(
            "\n  ".join(
                [
                    f"{path} was trained on other features, or another split, than are in {args.feature_dir} and"
                    f" {args.indices_dir} ({differences(saved.run.inputs, found)}); name the folders of its training,"
                    " or train it again:",
                    *again,
                ]
            )
        )
    return StoredRun(path, saved, data, args.data_dir, args.indices_dir)


def _encoder(args: argparse.Namespace, saved: SavedClassifier, device: str) -> Encoder | None:
    """Return the encoder, split before the trained layers; None for final features."""
    cell = saved.run.cell
    if cell.image_layer == cell.text_layer == 0:
        return None
    name = saved.extraction.encoder
    if cell.encoder != names.folder(name, args.clip_weights):
        raise UserError(
            f"{cell} was trained on layers of {cell.encoder}, which is {name} with weights from a file; set"
            " --clip-weights to that file"
        )
    from engine.clip.load import load_encoder  # imports open_clip, which takes seconds

    return load_encoder(name, args.clip_weights, device, [cell.image_layer], [cell.text_layer])
