"""Conversion of records and saved classifiers that earlier versions wrote."""

from __future__ import annotations

from typing import Any

AXES = ("lr", "weight_decay", "batch_size")
"""The hyper-parameters of a run in order; old records list their values without names."""
CLASSIFIERS = ("trained", "wiseft", "zeroshot")
"""The classifiers of a run; in old records each is a field with its accuracies."""


def convert_record(content: Any) -> Any:
    """Return the JSON of a record in the present form; return anything else unchanged.

    Raises ValueError for an incomplete old record.
    """
    if not isinstance(content, dict):
        return content
    if "cell" in content:
        content = content | {"cell": _rename(content["cell"], "logit", "log_logit_scale")}
    if not content.keys() >= set(CLASSIFIERS):
        return content
    try:
        return _convert_fields(content)
    except KeyError as error:
        raise ValueError(f"record has no {error.args[0]}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError("record is neither as this version writes it nor as an earlier one did") from error


def convert_classifier(about: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a saved classifier in the present form. Raises ValueError for an incomplete old record."""
    return _rename(about, "recipe", "extraction") | {"run": convert_record(about.get("run"))}


def name_hparams(values: Any) -> Any:
    """Return a list of three hyper-parameters as an object with names; return anything else unchanged."""
    return dict(zip(AXES, values, strict=True)) if isinstance(values, list) and len(values) == len(AXES) else values


def _rename(content: Any, old: str, new: str) -> Any:
    """Return a JSON object with the key `old` renamed to `new`; return anything else unchanged."""
    if not isinstance(content, dict) or new in content:
        return content
    return {new if key == old else key: value for key, value in content.items()}


def _convert_fields(old: dict[str, Any]) -> dict[str, Any]:
    shifted = old.get("shifted", {})
    accuracies = {
        name: {of: old[name][of] for of in ("val", "test") if old[name].get(of) is not None}
        | {of: found[name] for of, found in shifted.items()}
        for name in CLASSIFIERS
    }
    others = {name: value for name, value in old.items() if name not in CLASSIFIERS}
    hparams = {"hyperparameters": name_hparams(old["hyperparameters"]), "grid": list(map(name_hparams, old["grid"]))}
    digests = {of: found["inputs"] for of, found in shifted.items()}
    return others | hparams | {"accuracies": accuracies, "shifted": digests}
