"""Read and write the prompts of a dataset in the feature store: one file per `--text-augmentation`."""

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
    """The prompts of a dataset: features [n, D] float32, class labels [n] and wordings.

    With trainable layers, features are [n, L, width] and `positions` [n] int64 are the end-of-text positions; otherwise
    None. `classnames` are the class names by label, as the dataset spells them; None in old files without them.
    """

    features: Tensor
    labels: Tensor
    prompts: list[str]
    provenance: Provenance
    positions: Tensor | None = None
    classnames: list[str] | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs of the trainable layers."""
        return (self.features,) if self.positions is None else (self.features, self.positions)


def prompts_digest(prompts: list[str], labels: list[int]) -> str:
    """Return the SHA-256 of prompts with their classes: the `list_digest` of their provenance."""
    return hashlib.sha256(json.dumps([prompts, labels]).encode()).hexdigest()


def write_texts(path: Path, texts: Texts) -> None:
    """Write a file of prompts atomically, in the dtype of their provenance."""
    tensors = {"features": texts.features.to(DTYPES[texts.provenance.dtype]), "labels": texts.labels}
    if texts.positions is not None:
        tensors["positions"] = texts.positions
    names = {} if texts.classnames is None else {"classnames": json.dumps(texts.classnames)}
    save(path, tensors, texts.provenance, prompts=json.dumps(texts.prompts), **names)


def read_texts(path: Path, pick: Callable[[Tensor], Tensor] | None = None) -> Texts:
    """Read a file of prompts. `pick` maps the labels [n] of all prompts to the rows to read, int64 [m] (default: all).

    Raises MissingFeatures if the file is missing or cannot be read.
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
            features=features[rows].float(),  # the file is memory-mapped: only these rows are read
            labels=labels[rows],
            prompts=[prompts[row] for row in rows.tolist()],
            provenance=parse_provenance(file.metadata()),
            positions=None if ends is None else ends[rows],
            classnames=classnames,
        )


def read_wordings(path: Path) -> tuple[list[str], list[int]]:
    """Read the prompts of a file and their labels, without their features, which may be large."""
    with open_feature_file(path) as file:
        return check_layout(file), file.get_tensor("labels").tolist()


def fault_of_ends(ends: Tensor | None, features: Tensor) -> str | None:
    """Return the fault of end-of-text positions [n] in features [n, L, width]; None if they are valid or absent."""
    if ends is None or (ends.shape == features.shape[:1] and ends.min() >= 0 and ends.max() < features.shape[1]):
        return None
    return "has end-of-text positions outside of the texts"


def read_texts_provenance(path: Path) -> Provenance:
    """Read the provenance of a file of prompts. Raises MissingFeatures if it is missing or cannot be read."""
    if not path.is_file():
        raise MissingFeatures(f"no text features {path}")
    return read_provenance(path)


def read_texts_classnames(path: Path) -> list[str] | None:
    """Read the class names in a file of prompts; None for an old file without them."""
    with open_feature_file(path) as file:
        return _read_classnames(file.metadata())


def _read_classnames(metadata: dict[str, str]) -> list[str] | None:
    return read_list(metadata, "classnames") if "classnames" in metadata else None
