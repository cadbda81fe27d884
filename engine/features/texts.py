"""Make features of prompts: one pass of the text tower serves all numbers of trainable layers.

A batch is as long as the longest of its prompts where attention is causal, and so no token sees what comes after it:
prompts of one length go together. Other text encoders see their padding, and get it whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine import templates
from engine.clip import names
from engine.clip.load import Encoder
from engine.errors import UserError
from engine.features.numbers import check_finite
from engine.features.prompts import (
    Texts,
    prompts_digest,
    read_texts,
    read_texts_classnames,
    read_texts_provenance,
    write_texts,
)
from engine.features.store import DTYPES, FeaturePaths, Provenance

BATCH_SIZE = 256


@dataclass(frozen=True)
class TextPlan:
    """Prompts of a dataset with their classes, and by number of trainable layers the files of their features.

    `sizes` has the bytes of those files that are missing, by number of trainable layers, and `unnamed` are the files
    that lack nothing but the `classnames`, as the dataset spells them. Where any are missing, `tokens` are those of the
    prompts [n, L], as many as the longest has, `lengths` [n] say how many matter, `truncated` are the prompts that lose
    their end, and `alike` prompts of two classes that are the same tokens, one pair of two classes.
    """

    augmentation: str
    prompts: list[str]
    labels: list[int]
    files: dict[int, tuple[Path, Provenance]]
    sizes: dict[int, int]
    classnames: list[str]
    unnamed: tuple[Path, ...]
    tokens: Tensor | None = None
    lengths: Tensor | None = None
    truncated: tuple[str, ...] = ()
    alike: tuple[tuple[str, str], ...] = ()

    @property
    def missing(self) -> list[int]:
        """The numbers of trainable layers whose files are missing."""
        return list(self.sizes)


def plan_texts(
    dataset: str,
    augmentation: str,
    chosen: list[str],
    classnames: list[str],
    paths: FeaturePaths,
    encoder: Encoder,
    store_dtype: str = "fp32",
    is_custom: bool = False,
) -> TextPlan:
    """Which files of the prompts that the templates `chosen` make of `classnames` are missing at `paths`.

    There is one for each number of trainable layers. In custom datasets classes come, go and are renamed: there a file
    from the same templates and other class names counts as missing.
    Raises UserError when one there was made by other weights or in another way, or from other prompts.
    """
    prompts, labels = templates.prompts(chosen, classnames)
    wanted, missing, unnamed = {}, [], []
    for layers in encoder.text:
        provenance = Provenance(
            names.folder(encoder.name),
            encoder.digest,
            prompts_digest(prompts, labels),
            len(prompts),
            precision=encoder.precision,
            layer=layers,
            dtype=store_dtype if layers else "fp32",
        )
        path = paths.texts(layers, augmentation)
        wanted[layers] = path, provenance
        if not path.exists():
            missing.append(layers)
        elif (found := read_texts_provenance(path)) == provenance:
            unnamed += [path] * (read_texts_classnames(path) != classnames)
        elif is_custom and _is_outdated(path, found, provenance, chosen):
            missing.append(layers)
        else:
            raise UserError(
                f"{path} was not made from the prompts of {dataset} by {encoder.name}, as they are now:"
                f" {_difference(found, provenance)}.\nremove it to make it anew, or give another --feature_dir"
            )
    plan = TextPlan(augmentation, prompts, labels, wanted, {}, classnames, tuple(unnamed))
    return _tokenized(plan, missing, encoder) if missing else plan


def _tokenized(plan: TextPlan, missing: list[int], encoder: Encoder) -> TextPlan:
    """Return the plan with the tokens of its prompts, and the sizes of the files that are missing."""
    prompts = plan.prompts
    tokens, lengths = encoder.tokens(prompts)
    full = (lengths == tokens.shape[1]).nonzero().flatten().tolist()
    truncated = tuple(encoder.truncated([prompts[row] for row in full]))
    alike = _alike(tokens, prompts, plan.labels)
    tokens = tokens[:, : int(lengths.max())].clone()
    encoded = encoder.encode_texts(tokens[:1, : int(lengths[0])], missing)  # how large is what it makes of a prompt?
    widths = {layers: cached[0].shape[-1] * (tokens.shape[1] if layers else 1) for layers, cached in encoded.items()}
    rows = {
        k: widths[k] * DTYPES[plan.files[k][1].dtype].itemsize + (2 if k else 1) * torch.int64.itemsize for k in missing
    }
    texts = len(json.dumps([prompts, plan.classnames]))
    sizes = {layers: len(prompts) * row + texts for layers, row in rows.items()}
    return replace(plan, sizes=sizes, tokens=tokens, lengths=lengths, truncated=truncated, alike=alike)


def _is_outdated(path: Path, found: Provenance, wanted: Provenance, chosen: list[str]) -> bool:
    """Return whether a file's prompts are from the templates `chosen` and other class names, and else as wanted."""
    before = read_texts_classnames(path)
    is_of_names = before is not None and found.list_digest == prompts_digest(*templates.prompts(chosen, before))
    return is_of_names and replace(found, list_digest=wanted.list_digest, length=wanted.length) == wanted


def _alike(tokens: Tensor, prompts: list[str], labels: list[int]) -> tuple[tuple[str, str], ...]:
    """Return prompts of different classes that are the same tokens [n, L], the first pair for each pair of classes."""
    seen: dict[bytes, int] = {}
    pairs: dict[tuple[int, int], tuple[str, str]] = {}
    for row, own in enumerate(tokens.numpy()):
        first = seen.setdefault(own.tobytes(), row)
        if labels[first] != labels[row]:
            pairs.setdefault((labels[first], labels[row]), (prompts[first], prompts[row]))
    return tuple(pairs.values())


def _difference(found: Provenance, wanted: Provenance) -> str:
    """In what a file of prompts is not what is wanted."""
    if found.encoder_digest != wanted.encoder_digest:
        return (
            f"{found.encoder} has other weights ({found.encoder_digest[:12]} there, {wanted.encoder_digest[:12]} here)"
        )
    if found.layer != wanted.layer:
        return f"{found.layer} trainable layers there, {wanted.layer} here"
    if (found.precision, found.dtype) != (wanted.precision, wanted.dtype):
        return f"{found.precision} stored as {found.dtype} there, {wanted.precision} stored as {wanted.dtype} here"
    return "other prompts or class names"


def extract_texts(plan: TextPlan, encoder: Encoder, progress: Callable[[int], object] = lambda count: None) -> None:
    """Encode the prompts of a plan and write the files that are missing, and class names into those without.

    `progress` hears the number of prompts after each batch. Raises UserError when features are not finite.
    """
    for path in plan.unnamed:
        write_texts(path, replace(read_texts(path), classnames=plan.classnames))
    if not plan.missing:
        return
    tokens, lengths = plan.tokens, plan.lengths
    whole: dict[int, list[Tensor]] = {}  # made once: what a pool of prompts comes to may be a good part of the memory
    for rows in lengths.argsort(stable=True).split(BATCH_SIZE):
        encoded = encoder.encode_texts(tokens[rows, : int(lengths[rows].max())], plan.missing)
        for layers, (features, *ends) in encoded.items():
            if layers not in whole:
                whole[layers] = [_empty(plan, layers, features), *(end.new_empty(len(tokens)).cpu() for end in ends)]
            stored = whole[layers][0]
            (stored[:, : features.shape[1]] if layers else stored)[rows] = features.to(stored)
            for kept, end in zip(whole[layers][1:], ends, strict=True):
                kept[rows] = end.cpu()
        progress(len(rows))
    for layers, (features, *ends) in whole.items():
        path, provenance = plan.files[layers]
        check_finite(
            features, range(len(tokens)), f"{path.name}, prompts, in {provenance.precision} of {provenance.encoder}"
        )
        positions = ends[0] if ends else None
        write_texts(
            path, Texts(features, torch.tensor(plan.labels), plan.prompts, provenance, positions, plan.classnames)
        )


def _empty(plan: TextPlan, layers: int, features: Tensor) -> Tensor:
    """Room for the features of all prompts; behind the end of a text, which nothing looks at, there are zeros."""
    length = [plan.tokens.shape[1]] if layers else []
    shape = [len(plan.prompts), *length, features.shape[-1]]
    return torch.zeros(shape, dtype=DTYPES[plan.files[layers][1].dtype])
