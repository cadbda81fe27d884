"""From files to problems: the features of a dataset under one encoder, and the few-shot problems on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from engine import datasets, memory, templates
from engine.datasets.benchmark import BACKGROUND
from engine.datasets.few_shot import FewShotSplit, check_current, load_splits
from engine.errors import UserError
from engine.features.listing import read_listing
from engine.features.mining import Origin, read_mined
from engine.features.numbers import check_finite, check_norms
from engine.features.prompts import Texts, prompts_digest, read_texts, read_texts_provenance, read_wordings
from engine.features.store import Bank, FeaturePaths, MissingFeatures
from engine.features.views import training_views
from engine.methods.build import build
from engine.model import Classifier, Embedding, random_weight, zeroshot_weight
from engine.results.heads import Recipe
from engine.results.runs import WAYS, Cell
from engine.sweep.fitting import check_balance, check_encoder, check_layers, check_list, check_settings
from engine.sweep.shifted import ShiftedSet, ShiftedTest, shifted_test
from engine.training.batches import generator
from engine.training.evaluate import EMBEDDED, FEATURES, Heads, accuracies, accuracies_among
from engine.training.problem import Inputs, Problem, Samples

if TYPE_CHECKING:  # open_clip takes seconds to import, and training on final features does not need it
    from engine.clip.load import Encoder


TEST_SET = 1 << 30
"""The bytes of features of a test set up to which it stays in memory."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of a split: `rows` [n] int64 of those that were read, and a digest of their wordings and classes."""

    rows: Tensor
    digest: str


class DatasetFeatures:
    """What `cells` of one dataset, encoder and choice of inputs need. Checked at once, read when first asked for.

    All cells share one bank of training images, one of validation images and one of prompts, on `device`, and the
    trainable parts that training starts from.
    """

    def __init__(
        self,
        cells: list[Cell],
        feature_dir: str | Path,
        indices_dir: str | Path,
        device: str,
        encoder: Encoder | None = None,
        shifted: Sequence[ShiftedSet] = (),
    ):
        """`encoder`, on `device`, has the layers that the cells train; None when there are none.

        With an encoder `recipe` says how the images' features are made, as it does for those who use a classifier.
        `shifted` are further test sets, of classes of the dataset, on which the runs that are tested are tested too.
        Raises MissingFeatures for what is not in the store, UserError when its parts do not belong together.
        """
        cell = cells[0]
        self.cells, self.device = cells, device
        self.image_part = encoder.image[cell.image_layer] if encoder else None
        self.text_part = encoder.text[cell.text_layer] if encoder else None
        place = FeaturePaths.of(feature_dir, cell.encoder, cell.dataset)
        self.listing = read_listing(place)
        if self.listing is None and datasets.is_own(cell.dataset):
            raise MissingFeatures(
                f"no features of {cell.dataset}: {place.listing}, which lists their images, is not there"
            )
        self.splits = {(split.shots, split.seed): split for split in self._read_splits(indices_dir)}
        self.positions = {"test": None}  # all of them
        for part in ("train", "val"):
            self.positions[part] = sorted({at for split in self.splits.values() for at in getattr(split, part)})
        self.views = training_views(cell.image_augmentation, cell.image_views)
        parts = [*(("train", view) for view in self.views), ("val", "none"), ("test", "none")]
        self._banks = {
            (part, view): Bank(place.bank(part, cell.image_layer, view), self.listing and self.listing.split(part))
            for part, view in parts
        }
        self._text_path = place.texts(cell.text_layer, cell.text_augmentation)
        self._text_source = read_texts_provenance(self._text_path)
        check_layers(self._text_path, self._text_source, cell.text_layer, encoder)
        if self.listing and not templates.are_of(self.listing.classnames, *read_wordings(self._text_path)):
            raise MissingFeatures(f"{self._text_path} has the prompts of other class names than {place.listing}")
        self._check_banks(encoder)
        self.recipe = encoder and self._recipe(encoder)
        self._texts, self._prompts = (
            self._mined(place) if cell.text_augmentation == templates.MINING else self._all_prompts()
        )
        check = check_norms if self.text_part is None else check_finite
        check(self._texts.features, range(len(self._texts.labels)), f"{cell.dataset}, prompts, in {self._text_path}")
        self.classes = int(self._texts.labels.max()) + 1
        self.shifted = [self._shifted_test(own, encoder) for own in shifted]
        self._check_shapes()

    def _read_splits(self, indices_dir: str | Path) -> list[FewShotSplit]:
        """The few-shot splits of all cells, which must be those of the images in the store."""
        cell, asked = self.cells[0], ([c.shots for c in self.cells], [c.seed for c in self.cells])
        keys = self.listing and self.listing.keys()
        splits = load_splits(indices_dir, cell.dataset, *asked, cell.max_val_shot, keys)
        for split in splits if self.listing else ():
            check_current(split, {part: self.listing.split(part).labels for part in keys})
        return splits

    def sizes(self, cell: Cell) -> list[int]:
        """How many samples the sources of a cell's problem hold."""
        images = len(self.splits[cell.shots, cell.seed].train) * len(self.views)
        return [images, len(self._prompts_of(cell).rows)] if cell.modality == "cross_modal" else [images]

    def problem(self, cell: Cell) -> Problem:
        """The problem that the runs of a cell solve."""
        split = self.splits[cell.shots, cell.seed]
        name = f"{cell.dataset}/shot {cell.shots}/seed {cell.seed}/{cell.modality}"
        images = self._pick("train", self.views, split.train)
        check_balance(split, images.labels[: len(split.train)], self.classes)
        sources = (images, self.texts(cell)) if cell.modality == "cross_modal" else (images,)
        return Problem(name, sources, self._pick("val", ["none"], split.val), self._model(cell, name, len(sources)))

    @cached_property
    def unstackable(self) -> str | None:
        """Why the runs of these cells cannot train side by side; None if they can."""
        parts = {"image": self.image_part}
        if self.cells[0].modality == "cross_modal":
            parts["text"] = self.text_part
        trained = {tower: part for tower, part in parts.items() if part is not None}
        if not trained:
            return None
        from engine.clip.split import unstackable  # imports open_clip, which an encoder has been loaded with

        reasons = ((tower, unstackable(part)) for tower, part in trained.items())
        return next((f"of the trainable part of the {tower} encoder: {why}" for tower, why in reasons if why), None)

    def inputs(self, cell: Cell) -> dict[str, str]:
        """Digests of all that a cell's runs are trained on, and how features were made if not as the protocol does."""
        split = self.splits[cell.shots, cell.seed]
        rows = {"train": split.train, "val": split.val, "test": None}
        lists = {part: bank.list_digest(rows[part]) for (part, _), bank in self._banks.items()}
        encoder, text = self._text_source.encoder_digest, self._prompts_of(cell).digest
        ways = zip(
            WAYS, (self._banks["train", "none"].provenance.settings_text, self._text_source.settings_text), strict=True
        )
        return {
            "encoder": encoder,
            "text": text,
            "split": split.digest,
            **lists,
            **{name: how for name, how in ways if how},
        }

    @property
    def classnames(self) -> list[str]:
        """The names of the classes by label, as prompts have them. Raises MissingFeatures where those do not tell."""
        if self._texts.classnames is None:
            raise MissingFeatures(
                f"{self._text_path} is from before prompts knew the names of classes; features.py adds them, and"
                " encodes nothing again"
            )
        return list(map(templates.spelled, self._texts.classnames))

    def test_batches(self, shifted: ShiftedTest | None = None) -> Iterable[tuple[Inputs, Tensor]]:
        """The whole test set, or one of `shifted`: images and their classes.

        Final features of the test set come at once, from memory, unless they are large together; these, what goes into
        a trainable part, and shifted sets come batch by batch from disk each time.
        """
        if shifted is not None:
            return self._stream(shifted.bank, shifted.classes)
        bank = self._banks["test", "none"]
        in_memory = self.image_part is None and bank.length * bank.row_bytes <= TEST_SET
        return [self._test_set] if in_memory else self._stream(bank)

    @property
    def rows_at_a_time(self) -> int:
        """How many images go through a model at a time when it is not trained."""
        return FEATURES if self.image_part is None else EMBEDDED

    def zeroshot(self, cell: Cell) -> Tensor:
        """The zero-shot classifier [C, D] of a cell's prompts, from the text encoder as it is before training."""
        return self._zeroshots[self._prompts_of(cell)]

    def texts(self, cell: Cell) -> Samples:
        """The prompts of a cell as samples."""
        return self._samples_of(self._prompts_of(cell))

    def untrained(self, cell: Cell) -> Heads:
        """The zero-shot classifier on images, as `accuracies` takes it."""
        return self._heads([self.zeroshot(cell)])

    def zeroshot_test(self, cell: Cell) -> float:
        """The zero-shot classifier's accuracy on the test set, 0 to 1."""
        return self._zeroshot_tests[self._prompts_of(cell)]

    def zeroshot_shifted(self, cell: Cell) -> dict[str, float]:
        """The zero-shot classifier's accuracies on `shifted`, 0 to 1, by the names of their choices."""
        own = list(self._zeroshots).index(self._prompts_of(cell))
        return {name: accuracies[own] for name, accuracies in self._shifted_zeroshot_tests.items()}

    @property
    def shifted_digests(self) -> dict[str, str]:
        """Digests of `shifted`, by the names of their choices."""
        return {name: own.digest for own in self.shifted for name in own.choices}

    @cached_property
    def _shifted_zeroshot_tests(self) -> dict[str, list[float]]:
        """Accuracies of all zero-shot classifiers on `shifted`, each of which is gone through once."""
        heads, found = self._heads(list(self._zeroshots.values())), {}
        for own in self.shifted:
            (counted,) = accuracies_among(list(own.choices.values()), [heads], self.test_batches(own))
            found |= dict(zip(own.choices, counted, strict=True))
        return found

    @cached_property
    def _zeroshots(self) -> dict[Prompts, Tensor]:
        """The zero-shot classifier of each choice of prompts."""
        return {own: self._zeroshot(own) for own in dict.fromkeys(self._prompts.values())}

    def _zeroshot(self, own: Prompts) -> Tensor:
        """That of one choice, which does not depend on what others there are, to the last bit."""
        labels = self._texts.labels[own.rows]
        if self.text_part is None:
            features = self._texts.features[own.rows]
        else:
            with torch.no_grad():
                batches = self._samples_of(own).batches(EMBEDDED)
                features = torch.cat([self.text_part(*inputs) for inputs, _ in batches]).cpu()
        return zeroshot_weight(features, labels, self.classes).to(self.device)

    @cached_property
    def _zeroshot_tests(self) -> dict[Prompts, float]:
        """Their accuracies on the test set, which is gone through once for all of them."""
        (found,) = accuracies([self._heads(list(self._zeroshots.values()))], self.test_batches())
        return dict(zip(self._zeroshots, found, strict=True))

    @cached_property
    def _text_samples(self) -> Samples:
        """All prompts that were read."""
        found = self._texts
        inputs = (F.normalize(found.features),) if self.text_part is None else found.inputs
        return self._samples(inputs, found.labels)

    def _samples_of(self, own: Prompts) -> Samples:
        rows = own.rows.to(self.device)
        return replace(self._text_samples, rows=rows, labels=self._text_samples.labels[rows])

    def _heads(self, weights: list[Tensor]) -> Heads:
        """Classifiers on images as the image encoder has them before training."""
        embedding = Embedding([self.image_part])
        return Heads(lambda images: embedding(images), weights)

    def _prompts_of(self, cell: Cell) -> Prompts:
        return self._prompts[cell.shots, cell.seed]

    def _all_prompts(self) -> tuple[Texts, dict[tuple[int, int], Prompts]]:
        """The prompts, and those of each split where all splits have the same: all of them."""
        texts = read_texts(self._text_path)
        shared = Prompts(torch.arange(len(texts.labels)), prompts_digest(texts.prompts, texts.labels.tolist()))
        return texts, dict.fromkeys(self.splits, shared)

    def _mined(self, place: FeaturePaths) -> tuple[Texts, dict[tuple[int, int], Prompts]]:
        """The prompts that were mined on any split, without the rest of the pool, and those of each split."""
        val = self._banks["val", "none"]
        mined = {
            key: read_mined(place.mined(split.name), Origin.of(self._text_source, val, split))
            for key, split in self.splits.items()
        }

        rows: dict[tuple[int, int], Tensor] = {}

        def of_any(labels: Tensor) -> Tensor:
            rows.update({key: own.rows(labels) for key, own in mined.items()})
            return torch.cat(list(rows.values())).unique()  # ascending

        texts = read_texts(self._text_path, of_any)
        kept = torch.cat(list(rows.values())).unique()
        prompts = {}
        for key, own in rows.items():
            found = torch.searchsorted(kept, own)
            wordings = [texts.prompts[row] for row in found.tolist()]
            prompts[key] = Prompts(found, prompts_digest(wordings, texts.labels[found].tolist()))
        return texts, prompts

    def _model(self, cell: Cell, name: str, sources: int) -> Classifier:
        """What the runs of a cell start from."""
        if cell.init == "zeroshot":
            initial = self.zeroshot(cell)
        else:
            initial = random_weight(*self.zeroshot(cell).shape, generator(f"{name}/init"))
        parts = [self.image_part, self.text_part][:sources]
        return build(cell.head, initial, cell.logit, parts, generator(f"{name}/{cell.head}")).to(self.device)

    @cached_property
    def _images(self) -> dict[str, Samples]:
        """All training images in all views, and all validation images."""
        return {"train": self._read("train", self.views), "val": self._read("val", ["none"])}

    @cached_property
    def _test_set(self) -> tuple[Inputs, Tensor]:
        test = self._read("test", ["none"])
        return test.bank, test.labels

    def _stream(self, bank: Bank, classes: Tensor | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """A bank of test images from disk, batch by batch; `classes` [k] are those of its labels, where others."""
        for positions in torch.arange(bank.length).split(self.rows_at_a_time):
            known = self.classes if classes is None else len(classes)
            features, labels = self._read_bank(bank, "test", positions.tolist(), known)
            labels = labels.to(self.device)
            yield (features.to(self.device),), labels if classes is None else classes[labels]

    @property
    def is_custom(self) -> bool:
        """Whether the images are a custom dataset's, which may change."""
        return self.listing is not None

    def _pick(self, part: str, views: list[str], positions: list[int]) -> Samples:
        """The images at `positions` of a part, in each of the views that were read."""
        row = {position: row for row, position in enumerate(self.positions[part])}
        rows = [row[position] + view * len(row) for view in range(len(views)) for position in positions]
        samples = self._images[part]
        index = torch.tensor(rows, device=self.device)
        return replace(samples, rows=index, labels=samples.labels[index])

    def _read(self, part: str, views: list[str]) -> Samples:
        """All images of a part that any cell needs, view after view.

        Where they take more than half of the memory that is free, they lie in a file of their own, which is mapped.
        """
        banks, positions = [self._banks[part, view] for view in views], self.positions[part]
        shape = [len(views), len(positions or range(banks[0].length)), *banks[0].row_shape]
        on_cpu = torch.device(self.device).type == "cpu"
        large = on_cpu and 4 * math.prod(shape) > memory.free("cpu") // 2
        features = memory.scratch(shape, banks[0].folder) if large else torch.empty(shape)
        labels = [
            self._read_bank(bank, part, positions, self.classes, out)[1]
            for bank, out in zip(banks, features, strict=True)
        ]
        return self._samples((features.flatten(0, 1),), torch.cat(labels))

    def _read_bank(
        self, bank: Bank, part: str, positions: list[int] | None, classes: int, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (final features normalised) and labels of a bank of images of so many `classes`, checked.

        The inputs are in `out` if it is given.
        """
        features, labels = bank.read(positions, out)
        where = range(len(labels)) if positions is None else positions
        check = check_norms if self.image_part is None else check_finite
        check(features, where, f"{bank.folder.parents[1].name}, {part} images, in {bank.folder}")
        if int(labels.max()) >= classes:
            raise UserError(f"{bank.folder} has label {int(labels.max())}, but there are prompts of {classes} classes")
        if self.image_part is None:
            F.normalize(features, out=features)
        return features, labels

    def _samples(self, inputs: Inputs, labels: Tensor) -> Samples:
        """All rows of `inputs` as samples."""
        rows = torch.arange(len(labels), device=self.device)
        return Samples(tuple(tensor.to(self.device) for tensor in inputs), rows, labels.to(self.device))

    def _recipe(self, encoder: Encoder) -> Recipe:
        """Return how images were made into features, which must be how the encoder wants them.

        Images without transparency were shown on no background; new ones may have it.
        """
        bank = self._banks["train", "none"]
        made, wanted = bank.provenance, encoder.preprocessing
        if made.preprocessing != wanted.description:
            raise UserError(
                f"{bank.folder} was made of images that were prepared otherwise than {encoder.name} wants them"
                f" ({made.preprocessing}; {wanted.description}); remove it, and make these features anew"
            )
        ways = {"precision": made.precision, "decode": made.decode, "upright": made.upright, "depth": made.depth}
        return Recipe(**vars(wanted), encoder=encoder.name, **ways, background=BACKGROUND)

    def _shifted_test(self, shifted: ShiftedSet, encoder: Encoder | None) -> ShiftedTest:
        """How the runs are tested on a shifted set, whose features must belong to theirs."""
        cell = self.cells[0]
        check_layers(shifted.bank.folder, shifted.bank.provenance, cell.image_layer, encoder)
        check_encoder(shifted.bank, self._text_path, self._text_source)
        check_settings(shifted.bank, self._banks["train", "none"])
        return shifted_test(shifted, cell.dataset, self.classes, self._texts.classnames, self.device)

    def _check_banks(self, encoder: Encoder | None) -> None:
        """Refuse banks that lack rows, or that belong neither to each other nor to the prompts."""
        for (part, _), bank in self._banks.items():
            bank.require(self.positions[part])
            check_layers(bank.folder, bank.provenance, self.cells[0].image_layer, encoder)
            check_encoder(bank, self._text_path, self._text_source)
            check_list(bank, self._banks[part, "none"])
            check_settings(bank, self._banks["train", "none"])

    def _check_shapes(self) -> None:
        """Raise UserError for features of different shapes, as files of some other origin have."""
        first = self._banks["train", "none"]
        banks = [*self._banks.values(), *(own.bank for own in self.shifted)]
        shapes = {bank.folder: bank.row_shape for bank in banks}
        if self.image_part is None and self.text_part is None:
            shapes[self._text_path] = self._texts.features.shape[1:]
        for path, shape in shapes.items():
            if shape != first.row_shape or (self.image_part is None and len(shape) != 1):
                said = f"{path} has features of shape {list(shape)}, and {first.folder} of {list(first.row_shape)}"
                raise UserError(f"{said}; remove those that are wrong, and make them anew")
