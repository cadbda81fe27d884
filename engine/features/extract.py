"""Make features: plan what is missing from the store, encode it, write it shard by shard."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def _dead_workers() -> Iterator[None]:
    """Raise UserError when a process that decodes images was killed; torch says so with a bare RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise UserError(
            "a process that decodes images ended before its work was done, as happens when memory runs out"
            f" ({str(error).splitlines()[0].strip(' .')}). What is complete is kept, and the same command goes on from"
            " there, with fewer --num-workers if need be"
        ) from error


@_dead_workers()
def extract(
    plan: Plan, encoder: Encoder, *, batch_size: int, workers: int, device: str, progress: Callable[[int], object]
) -> None:
    """Encode what `plan` lists and append it to its bank; `progress` hears the number of images after each batch.

    Shards follow each other in ascending order and every batch is filled up to `batch_size`, so a run that goes on
    where another was killed passes the very same batches through the network and gives the very same features.
    Raises CorruptImages once all files were tried; only the shards with corrupt images are left out. Raises UserError
    when a shard cannot be written, or a worker was killed.
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
        worker_init_fn=_be_quiet,
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

    `progress` hears the number of prompts after each batch. Raises UserError as `has_texts` does.
    """
    if has_texts(encoder, dataset, prompts, labels, path):
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
    source = _texts_source(encoder, prompts, labels)
    write_texts(path, Texts(features.float(), torch.tensor(labels), prompts, source, *positions))
    return True


def has_texts(encoder: Encoder, dataset: str, prompts: list[str], labels: list[int], path: Path) -> bool:
    """Whether the file `path` is there; it must hold the features of these very prompts.

    Raises UserError when it was made by other weights or layers, or from other prompts.
    """
    if not path.exists():
        return False
    source, found = _texts_source(encoder, prompts, labels), read_texts(path).source
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
    return True


def image_row_bytes(encoder: Encoder, device: str) -> int:
    """Bytes that the row of an image takes on disk, with its label and position: measured on a blank image."""
    blank = torch.zeros(3, encoder.image_size, encoder.image_size)
    return _encode([blank], encoder, 1, device).nbytes + 2 * torch.int64.itemsize


def texts_bytes(encoder: Encoder, prompts: list[str], device: str) -> int:
    """Bytes that the features of prompts take on disk, with labels and wording: measured on the first of them."""
    # inputs of a trainable part are as long as the longest prompt; final features spare us the tokens of a large pool
    looked_at = prompts[:1] if encoder.text.trainable is None else prompts
    encoded = encoder.encode_texts(encoder.tokens(looked_at)[:1].to(device))
    row = sum(tensor.nbytes for tensor in encoded) + torch.int64.itemsize
    return len(prompts) * row + len(json.dumps(prompts))


def _texts_source(encoder: Encoder, prompts: list[str], labels: list[int]) -> Source:
    listed = prompts_digest(prompts, labels), len(prompts)
    return Source(names.folder(encoder.name), encoder.digest, *listed, layer=encoder.text_layers)


def _be_quiet(worker: int) -> None:
    """Let a worker not print what its threads raise: they hand over tensors, and complain when nobody takes them.

    What happens to an image comes back through the loader.
    """
    sys.excepthook = lambda *error: None


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
