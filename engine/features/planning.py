"""Plan the extraction of a dataset: the missing features and the disk space they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine import files, templates
from engine.clip.load import Encoder
from engine.datasets import ImageDataset
from engine.datasets.few_shot import FewShotSplit
from engine.errors import UserError
from engine.features.classes import ShiftedClasses, are_stored, classes_of
from engine.features.extract import Plan, plan, row_bytes
from engine.features.listing import Listing, listing_of, require_same, stored_listing
from engine.features.mining import unmined_splits
from engine.features.store import FeaturePaths
from engine.features.texts import TextPlan, plan_texts
from engine.features.views import wanted_rows


@dataclass(frozen=True)
class Need:
    """A bank or a file of prompts: `missing` of the `requested` rows, which take about `size` bytes."""

    name: str
    requested: int
    missing: int
    size: int

    def __str__(self) -> str:
        state = (
            f"{self.missing} of {self.requested} missing, {files.format_bytes(self.size)}"
            if self.missing
            else "complete"
        )
        return f"{self.name}: {state}"


@dataclass(frozen=True)
class Request:
    """The features to extract of each dataset, with any encoder; fields are named like the arguments of features.py.

    Test-only datasets get prompts only with `prompts_for_test_sets`, because no method uses them.
    """

    text_augmentations: list[str]
    views: list[str]
    decode: str = "pil"
    store_dtype: str = "fp32"
    prompts_for_test_sets: bool = False

    def templates(self, benchmark: ImageDataset, splits: list[FewShotSplit]) -> dict[str, templates.Templates]:
        """Return the templates of a dataset's prompts by `--text-augmentation`."""
        wanted = self.text_augmentations if splits or self.prompts_for_test_sets else []
        # no templates are mined on a test-only dataset: do not encode the whole pool
        names = [name for name in wanted if splits or name != templates.MINING]
        return {name: templates.templates(name, benchmark.name) for name in names}


@dataclass
class Part:
    """The part of a dataset's features that a process extracts: positions by split and view, perhaps the prompts.

    Templates are mined, and lists of images and classes written, with the prompts.
    """

    has_prompts: bool = False
    positions: dict[tuple[str, str], frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetPlan:
    """The features to extract of one dataset with one encoder; `needs` lists prompts, then images.

    `mining_splits` are the few-shot splits to mine templates on, `listing` the image lists of a custom dataset, and
    `classes` the classes of a shifted test set.
    """

    encoder: str
    dataset: str
    paths: FeaturePaths
    texts: list[TextPlan]
    images: list[Plan]
    needs: list[Need]
    mining_splits: list[FewShotSplit]
    listing: Listing | None = None
    classes: ShiftedClasses | None = None

    @property
    def title(self) -> str:
        """Encoder and dataset, for messages."""
        return f"{self.encoder} {self.dataset}"

    @property
    def size(self) -> int:
        """Bytes of the missing features on disk."""
        return sum(need.size for need in self.needs)

    @property
    def prompts_to_encode(self) -> int:
        """The number of prompts to encode."""
        return sum(len(texts.prompts) for texts in self.texts if texts.missing)

    @property
    def images_to_encode(self) -> int:
        """The number of images to encode, counting views."""
        return sum(len(images.positions) for images in self.images)

    @property
    def splits_to_mine(self) -> int:
        """The number of splits without mined templates."""
        return len(unmined_splits(self.paths, self.mining_splits))

    @property
    def is_done(self) -> bool:
        """Whether nothing is missing. False with mined templates: their origin must be checked."""
        is_listed = self.listing is None or self.listing == stored_listing(self.paths)
        is_named = not any(texts.unnamed for texts in self.texts) and are_stored(self.paths, self.classes)
        return is_listed and is_named and not (self.prompts_to_encode or self.images_to_encode or self.mining_splits)

    def __str__(self) -> str:
        requested = sum(len(images.requested) for images in self.images)
        prompts = sum(len(texts.prompts) for texts in self.texts)
        return (
            f"{self.title}: {prompts} prompts; {requested} images, counting views, {self.images_to_encode} of them to"
            f" encode; {files.format_bytes(self.size)} to write"
        )


def plan_dataset(
    benchmark: ImageDataset,
    splits: list[FewShotSplit],
    request: Request,
    paths: FeaturePaths,
    encoder: Encoder,
    part: Part | None = None,
) -> DatasetPlan:
    """Plan the features needed to train on `splits` and to test; without splits, the test features alone.

    `part` is the part that this process extracts; None is all. The encoder runs on one blank image and one prompt to
    find the sizes of its outputs. Raises UserError if stored features have other provenance: other weights, settings or
    lists.
    """
    listing = listing_of(benchmark)
    if listing is not None:
        require_same(paths, str(benchmark.image_dir), listing)
    options = paths, encoder, request.store_dtype, listing is not None
    texts = [
        plan_texts(benchmark.name, augmentation, prompt_templates, benchmark.classnames, *options)
        for augmentation, prompt_templates in request.templates(benchmark, splits).items()
        if part is None or part.has_prompts
    ]
    how = paths, encoder, request.decode, request.store_dtype, listing
    images = [
        plan(benchmark, split, view, positions, *how, part and part.positions[split, view])
        for split, view, positions in wanted_rows(benchmark, splits, request.views)
        if part is None or (split, view) in part.positions
    ]
    needs = [need for planned in texts for need in _text_needs(planned)]
    needs += [need for planned in images for need in _image_needs(planned, encoder)]
    about = encoder.name, benchmark.name, paths, texts, images, needs
    if part is not None and not part.has_prompts:
        return DatasetPlan(*about, mining_splits=[])
    mining_splits = splits if templates.MINING in request.text_augmentations else []
    return DatasetPlan(*about, mining_splits, listing, classes_of(benchmark))


def _text_needs(plan: TextPlan) -> list[Need]:
    return [
        Need(
            _label(f"prompts {plan.augmentation}", layers, plan.files),
            len(plan.prompts),
            len(plan.prompts) * (layers in plan.sizes),
            plan.sizes.get(layers, 0),
        )
        for layers in plan.files
    ]


def _image_needs(plan: Plan, encoder: Encoder) -> list[Need]:
    return [
        Need(
            _label(f"{plan.split}/{plan.view}", layers, plan.banks),
            len(plan.requested),
            len(bank.missing),
            len(bank.missing) * row_bytes(encoder, layers, bank.provenance.dtype) if bank.missing else 0,
        )
        for layers, bank in plan.banks.items()
    ]


def _label(name: str, layers: int, by_layers: dict) -> str:
    """Return a name with the number of trainable layers, unless it is 0 for all."""
    return name if list(by_layers) == [0] else f"{name}, layer {layers}"


def require_room(plans: list[DatasetPlan], feature_dir: str | Path) -> str:
    """Return a line about the disk space of `plans` and `feature_dir`. Raises UserError if it is too little."""
    size, free = sum(plan.size for plan in plans), files.free_space(Path(feature_dir))
    if size > free:
        raise UserError(
            f"these features take {files.format_bytes(size)}, and {feature_dir} has {files.format_bytes(free)} left."
            " Make room there, or use another --feature_dir"
        )
    return f"in total {files.format_bytes(size)} to write; {feature_dir} has {files.format_bytes(free)} left"
