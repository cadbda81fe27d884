"""Extract features of prompts: one pass of the text tower serves all numbers of trainable layers.

Prompts of similar length share a batch. With causal attention a token does not see later tokens, so a batch is cut to
its longest prompt. Other text encoders attend to padding and get the full length.
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
    read_wordings,
    write_texts,
)
from engine.features.store import DTYPES, FeaturePaths, Provenance

BATCH_SIZE = 256


@dataclass(frozen=True)
class TextPlan:
    """Prompts of a dataset with their classes, and the files of their features by number of trainable layers.

    `sizes` has the bytes of the missing files, by number of trainable layers. `unnamed` are files that lack only the
    `classnames`, as the dataset spells them. If any files are missing, `tokens` [n, L] are cut to the longest prompt,
    `lengths` [n] count the tokens that matter, `truncated` are the prompts that are too long, and `alike` are pairs of
    prompts of two classes with the same tokens, one per pair of classes. `notes` are remarks on a file of prompts.
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
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[int]:
        """The numbers of trainable layers whose files are missing."""
        return list(self.sizes)


def plan_texts(
    dataset: str,
    augmentation: str,
    prompt_templates: templates.Templates,
    classnames: list[str],
    paths: FeaturePaths,
    encoder: Encoder,
    store_dtype: str = "fp32",
    is_custom: bool = False,
) -> TextPlan:
    """Plan the prompts of `prompt_templates` and `classnames`: find the missing files by number of trainable layers.

    Classes of custom datasets change: a file with the same templates and other class names counts as missing there.
    Raises UserError if a stored file has other provenance: other weights, settings or prompts.
    """
    prompts, labels = templates.prompts(prompt_templates, classnames)
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
        elif is_custom and _is_outdated(path, found, provenance, prompt_templates, classnames):
            missing.append(layers)
        else:
            raise UserError(
                f"{path} does not match the present prompts of {dataset} and {encoder.name}:"
                f" {_difference(found, provenance)}.\nRemove it to extract them again, or use another --feature_dir"
            )
    notes = [] if isinstance(prompt_templates, list) else prompt_templates.notes(classnames)
    plan = TextPlan(augmentation, prompts, labels, wanted, {}, classnames, tuple(unnamed), notes=tuple(notes))
    return _tokenize(plan, missing, encoder) if missing else plan


def _tokenize(plan: TextPlan, missing: list[int], encoder: Encoder) -> TextPlan:
    """Return the plan with the tokens of its prompts and the sizes of its missing files."""
    prompts = plan.prompts
    tokens, lengths = encoder.tokens(prompts)
    full = (lengths == tokens.shape[1]).nonzero().flatten().tolist()
    truncated = tuple(encoder.truncated([prompts[row] for row in full]))
    alike = _find_alike(tokens, prompts, plan.labels)
    tokens = tokens[:, : int(lengths.max())].clone()
    encoded = encoder.encode_texts(tokens[:1, : int(lengths[0])], missing)  # for the sizes
    widths = {layers: cached[0].shape[-1] * (tokens.shape[1] if layers else 1) for layers, cached in encoded.items()}
    rows = {
        k: widths[k] * DTYPES[plan.files[k][1].dtype].itemsize + (2 if k else 1) * torch.int64.itemsize for k in missing
    }
    texts = len(json.dumps([prompts, plan.classnames]))
    sizes = {layers: len(prompts) * row + texts for layers, row in rows.items()}
    return replace(plan, sizes=sizes, tokens=tokens, lengths=lengths, truncated=truncated, alike=alike)


def _is_outdated(
    path: Path, found: Provenance, wanted: Provenance, prompt_templates: templates.Templates, classnames: list[str]
) -> bool:
    """Return whether a file differs from `wanted` by its class names alone.

    With prompts of each class, it may then differ by the prompts of classes that are new or gone.
    """
    before = read_texts_classnames(path)
    if before is None:
        return False
    if isinstance(prompt_templates, list):
        same = found.list_digest == prompts_digest(*templates.prompts(prompt_templates, before))
    else:
        then = _by_class(*read_wordings(path), before)
        now = _by_class(*templates.prompts(prompt_templates, classnames), classnames)
        kept = then.keys() & now.keys()
        same = bool(kept) and all(then[name] == now[name] for name in kept)
    return same and replace(found, list_digest=wanted.list_digest, length=wanted.length) == wanted


def _by_class(prompts: list[str], labels: list[int], classnames: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for prompt, label in zip(prompts, labels, strict=True):
        found.setdefault(classnames[label], []).append(prompt)
    return found


def _find_alike(tokens: Tensor, prompts: list[str], labels: list[int]) -> tuple[tuple[str, str], ...]:
    """Return prompts of different classes with the same tokens [n, L]: the first pair for each pair of classes."""
    seen: dict[bytes, int] = {}
    pairs: dict[tuple[int, int], tuple[str, str]] = {}
    for row, sequence in enumerate(tokens.numpy()):
        first = seen.setdefault(sequence.tobytes(), row)
        if labels[first] != labels[row]:
            pairs.setdefault((labels[first], labels[row]), (prompts[first], prompts[row]))
    return tuple(pairs.values())


def _difference(found: Provenance, wanted: Provenance) -> str:
    """Return the difference between the provenance of a file of prompts and `wanted`, in words."""
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
    """Encode the prompts of a plan, write its missing files, and add class names to files that lack them.

    Call `progress` with the number of prompts after each batch. Raises UserError if features are not finite.
    """
    for path in plan.unnamed:
        write_texts(path, replace(read_texts(path), classnames=plan.classnames))
    if not plan.missing:
        return
    tokens, lengths = plan.tokens, plan.lengths
    whole: dict[int, list[Tensor]] = {}  # allocated once: the features of a pool may take much of the memory
    for rows in lengths.argsort(stable=True).split(BATCH_SIZE):
        encoded = encoder.encode_texts(tokens[rows, : int(lengths[rows].max())], plan.missing)
        for layers, (features, *ends) in encoded.items():
            if layers not in whole:
                whole[layers] = [_allocate(plan, layers, features), *(end.new_empty(len(tokens)).cpu() for end in ends)]
            stored = whole[layers][0]
            (stored[:, : features.shape[1]] if layers else stored)[rows] = features.to(stored)
            for stored_ends, end in zip(whole[layers][1:], ends, strict=True):
                stored_ends[rows] = end.cpu()
        progress(len(rows))
    for layers, (features, *ends) in whole.items():
        path, provenance = plan.files[layers]
        name = f"{path.name}, prompts, in {provenance.precision} of {provenance.encoder}"
        check_finite(features, range(len(tokens)), name)
        labels, positions = torch.tensor(plan.labels), ends[0] if ends else None
        write_texts(path, Texts(features, labels, plan.prompts, provenance, positions, plan.classnames))


def _allocate(plan: TextPlan, layers: int, features: Tensor) -> Tensor:
    """Return zeros for the features of all prompts. Rows behind the end of a text stay zero; nothing reads them."""
    length = [plan.tokens.shape[1]] if layers else []
    shape = [len(plan.prompts), *length, features.shape[-1]]
    return torch.zeros(shape, dtype=DTYPES[plan.files[layers][1].dtype])
