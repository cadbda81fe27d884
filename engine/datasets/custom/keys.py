"""Keys of images, by which few-shot splits of custom datasets refer to them: positions change."""

from __future__ import annotations

from collections.abc import Sequence


def find_positions(wanted: Sequence[str | int], keys: Sequence[str]) -> list[int | None]:
    """Return the positions of images by their keys, None for a missing image.

    A renamed image is found by its content. Each of several images with the same content is used once.
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
    """Return the content digest in an image's key."""
    return key.partition(" ")[0]


def is_tracked(content: dict[str, list[str] | list[int]]) -> bool:
    """Return whether a few-shot split has keys of images instead of positions."""
    return isinstance(content["train"][0], str)  # all entries are of one type: `few_shot.read_lists`
