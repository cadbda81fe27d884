"""Make features: plan what is missing from the store, encode it, write it shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engine.clip import names
from engine.clip.load import Encoder
from engine.datasets import Benchmark
from engine.errors import UserError
from engine.features.store import (
    Bank,
    Source,
    Texts,
    prompts_digest,
    read_texts,
    shard_path,
    write_shard,
    write_texts,
)
from engine.transforms import open_rgb, render

SHARD_IMAGES = 1024
"""About how many images a shard holds: what a kill can lose, and what memory must hold."""


@dataclass(frozen=True)
class Plan:
    """Images of one part of a dataset that are still to be encoded in one view, and the bank that they go to."""

    benchmark: Benchmark
    part: str
    view: str
    positions: list[int]
    folder: Path
    source: Source


class CorruptImages(UserError):
    """Image files that cannot be read or decoded; the message lists all of them, and `lines` is one for each file."""

    def __init__(self, lines: list[str]):
        self.lines = list(dict.fromkeys(lines))  # another view of an image finds the same fault
        super().__init__(
            f"image files that cannot be read or decoded: {len(self.lines)}."
            " Fetch them again, and the same command goes on:\n" + "\n".join(f"  {line}" for line in self.lines)
        )


def plan(benchmark: Benchmark, part: str, view: str, positions: list[int], folder: Path, encoder: Encoder) -> Plan:
    """What is missing of `positions` in the bank at `folder`.

    Raises UserError when the bank there was made by other weights or layers, or from another list of images.
    """
    listed = benchmark.digest(part), len(benchmark.part(part))
    source = Source(names.folder(encoder.name), encoder.digest, *listed, layer=encoder.image_layers)
    bank = Bank(folder)
    bank.expect(source)
    return Plan(benchmark, part, view, bank.missing(positions), folder, source)


def extract(
    plan: Plan, encoder: Encoder, *, batch_size: int, workers: int, device: str, progress: Callable[[int], object]
) -> None:
    """Encode what `plan` lists and append it to its bank; `progress` hears the number of images after each batch.

    Shards follow each other in ascending order and every batch is filled up to `batch_size`, so a run that goes on
    where another was killed passes the very same batches through the network and gives the very same features.
    Raises CorruptImages once all files were tried; only the shards with corrupt images are left out.
    """
    rows_of_a_shard = max(1, SHARD_IMAGES // batch_size) * batch_size
    shards = [plan.positions[at : at + rows_of_a_shard] for at in range(0, len(plan.positions), rows_of_a_shard)]
    shards = [shard for shard in shards if not shard_path(plan.folder, shard).exists()]
    if not shards:
        return
    loader = DataLoader(
        _Images(plan, encoder, [position for shard in shards for position in shard]),
        batch_sampler=_batches(shards, batch_size),
        num_workers=workers,
        collate_fn=list,
    )
    batches = iter(loader)
    corrupt: list[str] = []
    for shard in shards:
        features: list[Tensor] = []
        faults: list[str] = []
        for _ in range(0, len(shard), batch_size):
            decoded = next(batches)
            faults += [item for item in decoded if isinstance(item, str)]
            if not faults:
                features.append(_encode(decoded, encoder, batch_size, device))
            progress(len(decoded))
        corrupt += faults
        if not faults:
            items = plan.benchmark.part(plan.part)
            labels = torch.tensor([items[position].label for position in shard])
            write_shard(plan.folder, plan.source, shard, labels, torch.cat(features))
    next(batches, None)  # past the last batch the workers end; those that wait for the garbage collector hold it up
    if corrupt:
        raise CorruptImages(corrupt)


def extract_texts(
    encoder: Encoder,
    dataset: str,
    prompts: list[str],
    labels: list[int],
    path: Path,
    device: str,
    batch_size: int = 256,
    progress: Callable[[int], object] = lambda count: None,
) -> bool:
    """Encode prompts into the file `path` unless it holds the features of these very prompts; True when it was made.

    `progress` hears the number of prompts after each batch.

    Raises UserError when the file there was made by other weights or layers, or from other prompts.
    """
    listed = prompts_digest(prompts, labels), len(prompts)
    source = Source(names.folder(encoder.name), encoder.digest, *listed, layer=encoder.text_layers)
    if path.exists():
        found = read_texts(path).source
        if found != source:
            what = "other prompts or class names"
            if found.encoder_digest != encoder.digest:
                what = "other weights"
            elif found.layer != source.layer:
                what = f"{found.layer} trainable layers there, {source.layer} here"
            raise UserError(
                f"{path} was made by encoder {found.encoder} ({found.encoder_digest[:12]}), not by {encoder.name}"
                f" ({encoder.digest[:12]}) from the prompts of {dataset}: {what}.\n"
                "remove it to make it anew, or give another --feature_dir"
            )
        return False
    tokens = encoder.tokens(prompts)
    whole: list[Tensor] = []  # what all prompts come to is made once: a pool's may be a good part of the memory
    for start in range(0, len(prompts), batch_size):
        batch = slice(start, start + batch_size)
        encoded = encoder.encode_texts(tokens[batch].to(device))
        whole = whole or [torch.empty(len(prompts), *part.shape[1:], dtype=part.dtype) for part in encoded]
        for rows, part in zip(whole, encoded, strict=True):
            rows[batch] = part
        progress(len(part))
    features, *positions = whole
    write_texts(path, Texts(features.float(), torch.tensor(labels), prompts, source, *positions))
    return True


class _Images(Dataset):
    """Decoded and rendered images by index; a file that cannot be decoded comes as a line about it."""

    def __init__(self, plan: Plan, encoder: Encoder, positions: list[int]):
        self.benchmark, self.part, self.view, self.positions = plan.benchmark, plan.part, plan.view, positions
        self.looks = (encoder.image_size, encoder.mean, encoder.std)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Tensor | str:
        position = self.positions[index]
        path = self.benchmark.path(self.benchmark.part(self.part)[position])
        try:
            image = open_rgb(path)
        except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError and more on bad bytes
            return f"{path}: {error}"
        return render(image, self.view, *self.looks, seed=f"{self.benchmark.name}/{self.part}/{position}/{self.view}")


def _batches(shards: list[list[int]], batch_size: int) -> list[list[int]]:
    """Indices of each batch, none of which reaches over the end of a shard."""
    batches, start = [], 0
    for shard in shards:
        indices = range(start, start + len(shard))
        batches += [list(indices[at : at + batch_size]) for at in range(0, len(shard), batch_size)]
        start += len(shard)
    return batches


def _encode(decoded: list[Tensor], encoder: Encoder, batch_size: int, device: str) -> Tensor:
    """Features [len(decoded), D] on the CPU. The batch is filled up, as kernels may round otherwise for other sizes."""
    pixels = torch.stack(decoded)
    filled = torch.cat([pixels, pixels[-1:].expand(batch_size - len(pixels), -1, -1, -1)])
    return encoder.encode_images(filled.to(device)).float().cpu()[: len(decoded)]
