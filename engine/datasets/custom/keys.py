"""Keys of images: what few-shot splits of custom datasets name them by, whose positions change."""

from __future__ import annotations

from collections.abc import Sequence


def find_positions(wanted: Sequence[str | int], keys: Sequence[str]) -> list[int | None]:
    """The positions of images by their keys, None for one that is not there.

    An image that was renamed is found by its content. Each of several images of one content is taken once.
    """
    places = {key: position for position, key in enumerate(keys)}
    same = [places.get(key) for key in wanted]
    renamed: dict[str, list[int]] = {}
    for position in sorted(set(places.values()) - set(same), reverse=True):
        renamed.setdefault(content_of(keys[position]), []).append(position)
    found = []
    for key, position in zip(wanted, same, strict=True):
        others = renamed.get(content_of(str(key)))
        found.append(others.pop() if position is None and others else position)
    return found


def content_of(key: str) -> str:
    """The content digest of an image's key."""
    return key.partition(" ")[0]


def is_tracked(content: dict[str, list[str] | list[int]]) -> bool:
    """Whether a split has keys of images, and not positions."""
    return any(isinstance(one, str) for one in content["train"])
