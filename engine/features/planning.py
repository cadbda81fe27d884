"""What extraction would have to make of a dataset, and how much room that takes, before any of it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine import files, templates
from engine.clip.load import Encoder
from engine.datasets import Benchmark
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
    """A bank or a file of prompts: `missing` of the `asked` rows are yet to be made, and take about `size` bytes."""

    name: str
    asked: int
    missing: int
    size: int

    def __str__(self) -> str:
        what = f"{self.missing} of {self.asked} missing, {files.shown(self.size)}" if self.missing else "complete"
        return f"{self.name}: {what}"


@dataclass(frozen=True)
class Request:
    """What to make of each dataset, whatever the encoder: as features.py's arguments of these names say.

    Test-only datasets get prompts where `prompts_for_test_sets` asks for them: nothing needs those.
    """

    text_augmentations: list[str]
    views: list[str]
    decode: str = "pil"
    store_dtype: str = "fp32"
    prompts_for_test_sets: bool = False


@dataclass(frozen=True)
class DatasetPlan:
    """The features that one dataset needs under one encoder; `needs` says what is missing, of prompts first.

    `mined` are the splits whose templates are mined, `listing` the lists of a custom dataset, `classes` those
    of a shifted test set.
    """

    encoder: str
    dataset: str
    paths: FeaturePaths
    texts: list[TextPlan]
    images: list[Plan]
    needs: list[Need]
    mined: list[FewShotSplit]
    listing: Listing | None = None
    classes: ShiftedClasses | None = None

    @property
    def title(self) -> str:
        """The encoder and the dataset."""
        return f"{self.encoder} {self.dataset}"

    @property
    def size(self) -> int:
        """Bytes that what is missing takes on disk."""
        return sum(need.size for need in self.needs)

    @property
    def prompts(self) -> int:
        """How many prompts are to be encoded."""
        return sum(len(texts.prompts) for texts in self.texts if texts.missing)

    @property
    def images_to_encode(self) -> int:
        """How many images are to be encoded, each in each of its views once."""
        return sum(len(images.positions) for images in self.images)

    @property
    def to_mine(self) -> int:
        """On how many splits templates are still to be mined."""
        return len(unmined_splits(self.paths, self.mined))

    @property
    def is_done(self) -> bool:
        """Whether nothing is missing. What was mined must still be checked against what it was mined from."""
        is_listed = self.listing is None or self.listing == stored_listing(self.paths)
        is_named = not any(texts.unnamed for texts in self.texts) and are_stored(self.paths, self.classes)
        return is_listed and is_named and not (self.prompts or self.images_to_encode or self.mined)

    def __str__(self) -> str:
        asked = sum(len(images.asked) for images in self.images)
        return (
            f"{self.title}: {sum(len(texts.prompts) for texts in self.texts)} prompts; {asked} images, counting views,"
            f" {self.images_to_encode} of them to encode; {files.shown(self.size)} to write"
        )


def plan_dataset(
    benchmark: Benchmark, splits: list[FewShotSplit], request: Request, paths: FeaturePaths, encoder: Encoder
) -> DatasetPlan:
    """What is missing at `paths` of what training on `splits` and testing need; of the test alone without splits.

    The encoder has a look at a blank image and at a prompt, to know how large is what it makes of them. Raises
    UserError when what is there was made by other weights, in another way, or from other lists.
    """
    listing = listing_of(benchmark)
    if listing is not None:
        require_same(paths, str(benchmark.image_dir), listing)
    texts = []
    for augmentation in request.text_augmentations if splits or request.prompts_for_test_sets else []:
        # of a test-only dataset no templates are mined: the whole pool would be encoded for nothing
        if splits or augmentation != templates.MINING:
            made_of = templates.templates(augmentation, benchmark.name), benchmark.classnames
            how = request.store_dtype, listing is not None
            texts.append(plan_texts(benchmark.name, augmentation, *made_of, paths, encoder, *how))
    images = [
        plan(benchmark, *rows, paths, encoder, request.decode, request.store_dtype, listing)
        for rows in wanted_rows(benchmark, splits, request.views)
    ]
    needs = [need for own in texts for need in _text_needs(own)]
    needs += [need for own in images for need in _image_needs(own, encoder)]
    mined = splits if templates.MINING in request.text_augmentations else []
    classes = classes_of(benchmark)
    return DatasetPlan(encoder.name, benchmark.name, paths, texts, images, needs, mined, listing, classes)


def _text_needs(plan: TextPlan) -> list[Need]:
    return [
        Need(
            _named(f"prompts {plan.augmentation}", layers, plan.files),
            len(plan.prompts),
            len(plan.prompts) * (layers in plan.sizes),
            plan.sizes.get(layers, 0),
        )
        for layers in plan.files
    ]


def _image_needs(plan: Plan, encoder: Encoder) -> list[Need]:
    return [
        Need(
            _named(f"{plan.split}/{plan.view}", layers, plan.banks),
            len(plan.asked),
            len(bank.missing),
            len(bank.missing) * row_bytes(encoder, bank.provenance) if bank.missing else 0,
        )
        for layers, bank in plan.banks.items()
    ]


def _named(what: str, layers: int, several: dict) -> str:
    """What is needed, with the number of trainable layers where that is not 0 for all."""
    return what if list(several) == [0] else f"{what}, layer {layers}"


def require_room(plans: list[DatasetPlan], feature_dir: str | Path) -> str:
    """How much `plans` take and how much `feature_dir` has left, as a line.

    Raises UserError when that is not enough.
    """
    size, free = sum(plan.size for plan in plans), files.free_space(Path(feature_dir))
    if size > free:
        raise UserError(
            f"these features take {files.shown(size)}, and {feature_dir} has {files.shown(free)} left."
            " Make room there, or give another --feature_dir"
        )
    return f"in total {files.shown(size)} to write; {feature_dir} has {files.shown(free)} left"
