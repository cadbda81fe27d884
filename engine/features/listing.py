"""Lists of the images of a custom dataset at extraction: `images.json` beside its features.

Training maps positions to cached rows with these lists, even on a machine without the images, and compares them with
the present images where there are any.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from engine import files
from engine.datasets import ImageDataset
from engine.datasets.checks import list_preview, pluralize
from engine.datasets.image_dataset import SPLITS, image_keys
from engine.errors import UserError
from engine.features.store import Bank, FeaturePaths, ImageList, MissingFeatures


@dataclass(frozen=True)
class Listing:
    """The images of a dataset by split, and its class names by label."""

    classnames: list[str]
    train: ImageList
    val: ImageList
    test: ImageList

    def split(self, name: str) -> ImageList:
        """Return the images of `name`: train, val or test."""
        return getattr(self, name)

    def keys(self) -> dict[str, list[str]]:
        """Return the keys of training and validation images in few-shot splits."""
        return {split: image_keys(self.split(split).contents, self.split(split).paths) for split in ("train", "val")}


def listing_of(benchmark: ImageDataset) -> Listing | None:
    """Return the present image lists of a custom dataset; None for a published dataset."""
    if not benchmark.files:
        return None
    lists = {
        split: ImageList(
            [item.impath for item in benchmark.items(split)], benchmark.labels(split), benchmark.contents(split)
        )
        for split in SPLITS
    }
    return Listing(benchmark.classnames, **lists)


def image_paths(split: str, bank: Bank, benchmark: ImageDataset | None) -> list[str]:
    """Return the paths of a split's images by position, as their dataset lists them.

    A custom dataset's list is in the store. Other paths are of the installed `benchmark`; they are `<split>/<position>`
    if it is None, or has another list than the features in `bank`.
    """
    if bank.image_list is not None:
        return bank.image_list.paths
    if benchmark is not None and benchmark.digest(split) == bank.list_digest():
        return [item.impath for item in benchmark.items(split)]
    return [f"{split}/{position}" for position in range(bank.length)]


def write_listing(paths: FeaturePaths, listing: Listing | None) -> None:
    """Write the image lists of a custom dataset beside its features, unless the file has them already."""
    if listing is not None and stored_listing(paths) != listing:
        files.write_json(paths.listing, asdict(listing))


def read_listing(paths: FeaturePaths) -> Listing | None:
    """Read the image lists of a custom dataset; None if there is no file. Raises MissingFeatures if it is damaged."""
    if not paths.listing.exists():
        return None
    try:
        content = files.parse_json(files.read_bytes(paths.listing))
        listing = Listing(content["classnames"], **{split: ImageList(**content[split]) for split in SPLITS})
        if not all(_is_sound(listing.split(split), len(listing.classnames)) for split in SPLITS):
            raise ValueError("it does not list the images of each split")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise MissingFeatures(f"{paths.listing} is damaged ({error}); run features.py to write it again") from error
    return listing


def stored_listing(paths: FeaturePaths) -> Listing | None:
    """Read the image lists of a custom dataset; None if the file is missing or damaged."""
    try:
        return read_listing(paths)
    except MissingFeatures:
        return None


def _is_sound(listed: ImageList, classes: int) -> bool:
    texts = all(isinstance(text, str) for text in (*listed.paths, *listed.contents))
    labels = all(type(label) is int and 0 <= label < classes for label in listed.labels)
    return texts and labels and len(listed.paths) == len(listed.labels) == len(listed.contents)


def require_same(paths: FeaturePaths, images: str, now: Listing) -> None:
    """Raise UserError if the images in folder `images`, listed in `now`, and the stored list have no image in common.

    Two folders of the same name would overwrite each other's features, splits and results.
    """
    then = stored_listing(paths) or now
    contents = [{content for split in SPLITS for content in listing.split(split).contents} for listing in (then, now)]
    if contents[0].isdisjoint(contents[1]):
        raise UserError(
            f"{paths.folder} has features of other images: not one of them is in {images} now. If this is another"
            " folder of the same name, rename it, or use other --feature_dir, --indices_dir and --result_dir; if all"
            f" images were replaced, remove {paths.folder}"
        )


def changes(then: Listing, now: Listing) -> list[str]:
    """Return short phrases for the changes between two listings; empty if there are none."""
    old, new = (
        {path: (content, label, split) for split in SPLITS for path, label, content in _rows(listing.split(split))}
        for listing in (then, now)
    )
    kept = [path for path in new if path in old]
    kinds = {
        "replaced": [path for path in kept if old[path][0] != new[path][0]],
        "added": [path for path in new if path not in old],
        "removed": [path for path in old if path not in new],
        "moved to another class or split": [path for path in kept if old[path][1:] != new[path][1:]],
    }
    phrases = [
        f"{pluralize(len(found), 'image')} {kind} ({list_preview(found)})" for kind, found in kinds.items() if found
    ]
    return phrases + ["other class names"] * (then.classnames != now.classnames)


def _rows(listed: ImageList) -> zip:
    return zip(listed.paths, listed.labels, listed.contents, strict=True)
