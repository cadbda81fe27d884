"""Records as earlier versions wrote them, in the form that they have now."""

from __future__ import annotations

from typing import Any

AXES = ("lr", "weight_decay", "batch_size")
"""The hyper-parameters of a run, which were a list without names."""
CLASSIFIERS = ("trained", "wiseft", "zeroshot")
"""The classifiers of a run, whose accuracies were fields of their own."""


def converted(content: Any) -> Any:
    """Return the JSON of a record in its present form; anything else as it is.

    Raises ValueError for an old record that is not whole.
    """
    if not isinstance(content, dict) or not content.keys() >= set(CLASSIFIERS):
        return content
    try:
        return _converted(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"record lacks {error}") from error


def _converted(old: dict[str, Any]) -> dict[str, Any]:
    shifted = old.get("shifted", {})
    accuracies = {
        name: {of: old[name][of] for of in ("val", "test") if old[name].get(of) is not None}
        | {of: found[name] for of, found in shifted.items()}
        for name in CLASSIFIERS
    }
    kept = {name: value for name, value in old.items() if name not in CLASSIFIERS}
    points = {"hyperparameters": with_names(old["hyperparameters"]), "grid": list(map(with_names, old["grid"]))}
    digests = {of: found["inputs"] for of, found in shifted.items()}
    return kept | points | {"accuracies": accuracies, "shifted": digests}


def with_names(point: Any) -> Any:
    """Return a list of three hyper-parameters as an object with their names; anything else as it is."""
    return dict(zip(AXES, point, strict=True)) if isinstance(point, list) and len(point) == len(AXES) else point
