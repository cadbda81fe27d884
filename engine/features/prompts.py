"""The prompts of a dataset in the feature store: a file for each `--text-augmentation`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.features.store import (
    DTYPES,
    MissingFeatures,
    Provenance,
    check_layout,
    open_feature_file,
    parse_provenance,
    read_list,
    read_provenance,
    require_labels,
    save,
)


@dataclass(frozen=True)
class Texts:
    """The prompts of a dataset as features [n, D] float32, with the class [n] and the wording of each.

    Where layers of the text encoder are yet to come, features are [n, L, width], and `positions` [n] int64 are those
    of the ends of the texts; otherwise it is None. `classnames` are the names of the classes by label, as the dataset
    spells them; None in a file from before there were any.
    """

    features: Tensor
    labels: Tensor
    prompts: list[str]
    provenance: Provenance
    positions: Tensor | None = None
    classnames: list[str] | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the layers that are yet to come take."""
        return (self.features,) if self.positions is None else (self.features, self.positions)


def prompts_digest(prompts: list[str], labels: list[int]) -> str:
    """SHA-256 of prompts with their classes: the `list_digest` of their provenance."""
    return hashlib.sha256(json.dumps([prompts, labels]).encode()).hexdigest()


def write_texts(path: Path, texts: Texts) -> None:
    """Write a file of prompts, atomically, stored as their provenance says."""
    tensors = {"features": texts.features.to(DTYPES[texts.provenance.dtype]), "labels": texts.labels}
    if texts.positions is not None:
        tensors["positions"] = texts.positions
    names = {} if texts.classnames is None else {"classnames": json.dumps(texts.classnames)}
    save(path, tensors, texts.provenance, prompts=json.dumps(texts.prompts), **names)


def read_texts(path: Path, pick: Callable[[Tensor], Tensor] | None = None) -> Texts:
    """Read a file of prompts, or those rows [m] int64 of it that `pick` takes, which is given the classes of all.

    Raises MissingFeatures when it is not there or cannot be read.
    """
    if not path.is_file():
        raise MissingFeatures(f"no text features {path}")
    with open_feature_file(path) as file:
        prompts = check_layout(file)
        labels = file.get_tensor("labels")
        require_labels(labels)
        features = file.get_tensor("features")
        ends = file.get_tensor("positions") if "positions" in file.keys() else None  # noqa: SIM118
        if (fault := fault_of_ends(ends, features)) is not None:
            raise ValueError(fault)
        classnames = _read_classnames(file.metadata())
        if classnames is not None and len(classnames) != int(labels.max()) + 1:
            raise ValueError(f"it holds {len(classnames)} class names of {int(labels.max()) + 1} classes")
        rows = torch.arange(len(labels)) if pick is None else pick(labels)
        return Texts(
            features=features[rows].float(),  # the file is mapped: no more than these rows is read
            labels=labels[rows],
            prompts=[prompts[row] for row in rows.tolist()],
            provenance=parse_provenance(file.metadata()),
            positions=None if ends is None else ends[rows],
            classnames=classnames,
        )


def read_wordings(path: Path) -> tuple[list[str], list[int]]:
    """Return the prompts of a file and the class of each; their features, which may be large, are not read."""
    with open_feature_file(path) as file:
        return check_layout(file), file.get_tensor("labels").tolist()


def fault_of_ends(ends: Tensor | None, features: Tensor) -> str | None:
    """Return what is wrong with the positions [n] of the ends of texts in features [n, L, width]; None for nothing."""
    if ends is None or (ends.shape == features.shape[:1] and ends.min() >= 0 and ends.max() < features.shape[1]):
        return None
    return "has ends of texts outside of the texts"


def read_texts_provenance(path: Path) -> Provenance:
    """What a file of prompts was made from. Raises MissingFeatures when it is not there or cannot be read."""
    if not path.is_file():
        raise MissingFeatures(f"no text features {path}")
    return read_provenance(path)


def read_texts_classnames(path: Path) -> list[str] | None:
    """Return the class names in a file of prompts, None for one from before there were any."""
    with open_feature_file(path) as file:
        return _read_classnames(file.metadata())


def _read_classnames(metadata: dict[str, str]) -> list[str] | None:
    return read_list(metadata, "classnames") if "classnames" in metadata else None
