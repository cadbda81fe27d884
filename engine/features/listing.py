"""The images of a custom dataset as features were made of them: `images.json` beside its features.

Whoever trains on cached features finds there which rows the lists mean, whether or not the images are on this machine,
and can compare them with the images as they are now.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from engine import files
from engine.datasets import Benchmark
from engine.datasets.benchmark import PARTS, image_keys
from engine.datasets.checks import counted, first
from engine.errors import UserError
from engine.features.store import FeaturePaths, ImageList, MissingFeatures


@dataclass(frozen=True)
class Listing:
    """The images of a dataset by split, and its class names by label."""

    classnames: list[str]
    train: ImageList
    val: ImageList
    test: ImageList

    def split(self, name: str) -> ImageList:
        """Return the images of a split: train, val or test."""
        return getattr(self, name)

    def keys(self) -> dict[str, list[str]]:
        """Return the keys of training and validation images, by which few-shot splits name them."""
        return {split: image_keys(self.split(split).contents, self.split(split).paths) for split in ("train", "val")}


def listing_of(benchmark: Benchmark) -> Listing | None:
    """Return the lists of a custom dataset as they are now; None for a published dataset."""
    if not benchmark.files:
        return None
    lists = {
        split: ImageList(
            [item.impath for item in benchmark.part(split)], benchmark.labels(split), benchmark.contents(split)
        )
        for split in PARTS
    }
    return Listing(benchmark.classnames, **lists)


def write_listing(paths: FeaturePaths, listing: Listing | None) -> None:
    """Write the lists of a custom dataset beside its features, unless they are there."""
    if listing is not None and stored_listing(paths) != listing:
        files.write_json(paths.listing, asdict(listing))


def read_listing(paths: FeaturePaths) -> Listing | None:
    """Read the lists of a custom dataset; None where there are none. Raises MissingFeatures for a damaged file."""
    if not paths.listing.exists():
        return None
    try:
        content = files.parse_json(files.read_bytes(paths.listing))
        listing = Listing(content["classnames"], **{split: ImageList(**content[split]) for split in PARTS})
        if not all(_is_sound(listing.split(split), len(listing.classnames)) for split in PARTS):
            raise ValueError("it does not list the images of each split")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise MissingFeatures(f"{paths.listing} is damaged ({error}); features.py writes it anew") from error
    return listing


def stored_listing(paths: FeaturePaths) -> Listing | None:
    """Read the lists of a custom dataset as `read_listing` does; None for a damaged file too."""
    try:
        return read_listing(paths)
    except MissingFeatures:
        return None


def _is_sound(listed: ImageList, classes: int) -> bool:
    texts = all(isinstance(text, str) for text in (*listed.paths, *listed.contents))
    labels = all(type(label) is int and 0 <= label < classes for label in listed.labels)
    return texts and labels and len(listed.paths) == len(listed.labels) == len(listed.contents)


def require_same(paths: FeaturePaths, images: str, now: Listing) -> None:
    """Raise UserError if the images in the folder `images`, listed in `now`, share nothing with those at `paths`.

    Two folders of one name would take turns in the same features, splits and results.
    """
    then = stored_listing(paths) or now
    contents = [{content for split in PARTS for content in own.split(split).contents} for own in (then, now)]
    if contents[0].isdisjoint(contents[1]):
        raise UserError(
            f"{paths.folder} has features of other images: not one of them is in {images} now. If this is another"
            " folder of the same name, rename it, or give other --feature_dir, --indices_dir and --result_dir; if all"
            f" images were replaced, remove {paths.folder}"
        )


def changes(then: Listing, now: Listing) -> list[str]:
    """Return in short phrases how the images changed between two listings; nothing if they did not."""
    old, new = (
        {path: (content, label, split) for split in PARTS for path, label, content in _rows(listing.split(split))}
        for listing in (then, now)
    )
    kept = [path for path in new if path in old]
    kinds = {
        "replaced": [path for path in kept if old[path][0] != new[path][0]],
        "added": [path for path in new if path not in old],
        "removed": [path for path in old if path not in new],
        "moved to another class or split": [path for path in kept if old[path][1:] != new[path][1:]],
    }
    said = [f"{counted(len(own), 'image')} {kind} ({first(own, len(own))})" for kind, own in kinds.items() if own]
    return said + ["other class names"] * (then.classnames != now.classnames)


def _rows(listed: ImageList) -> zip:
    return zip(listed.paths, listed.labels, listed.contents, strict=True)
