"""Make features of images: plan what the banks of the store lack, decode and encode it, write it shard by shard.

An image is decoded once per view, and one pass of the encoder serves the banks of all numbers of trainable layers.
Processes decode, this one encodes, and a thread writes, so that none waits for another longer than it must.

Kernels round otherwise for other shapes, so features in float32 depend by up to 1e-6, relative, on the batch size, the
number of threads and the machine. They do not depend on the images that share a batch, because batches are filled up:
on the CPU where this was measured they were bit-equal whatever else was asked for (demo-RN, demo-ViT, RN50, ViT-B/32).
Features of prompts, whose batches are cut to the longest, depend by as much on the other prompts of their file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from engine.clip import names
from engine.clip.load import Encoder
from engine.datasets import Benchmark
from engine.datasets.benchmark import BACKGROUND, content_digest
from engine.datasets.checks import first
from engine.datasets.custom.tracking import file_states
from engine.errors import UserError
from engine.features.decoding import Batch, batches, report_dead_workers
from engine.features.listing import Listing
from engine.features.numbers import check_finite
from engine.features.store import BY_CONTENT, DTYPES, Bank, FeaturePaths, Provenance, shard_path, write_shard
from engine.preprocessing import DEPTH, Preprocessing
from engine.transforms import decode_file, normalise, render

FILLED = 32
"""Up to how many images a batch is filled up whatever is asked for: the default of `--test-batch-size`."""
SHARD_IMAGES = 1024
"""About how many images a shard holds at most: what a kill can lose."""
SHARD_BYTES = 1 << 27
"""About how large a shard is at most: twice as much of each kind of features is in memory, and a reader maps it."""


@dataclass(frozen=True)
class Target:
    """A bank that images go to, what its rows are made from, and the positions that it lacks."""

    folder: Path
    provenance: Provenance
    missing: frozenset[int]


@dataclass(frozen=True)
class Plan:
    """The images that are asked for of one part of a dataset, in one view, and by number of trainable layers the banks
    that lack some of them."""

    benchmark: Benchmark
    split: str
    view: str
    asked: frozenset[int]
    banks: dict[int, Target]

    def seed(self, position: int) -> str:
        """The seed of an image's random view. In a custom dataset, where positions move, it follows the content."""
        state = self.benchmark.files.get(self.benchmark.part(self.split)[position].impath)
        image = state.content if state else f"{self.split}/{position}"
        return f"{self.benchmark.name}/{image}/{self.view}"

    @cached_property
    def positions(self) -> list[int]:
        """The images that any of the banks lacks."""
        return sorted(frozenset().union(*(bank.missing for bank in self.banks.values())))

    def path(self, position: int) -> Path:
        """Return the path of an image file."""
        return self.benchmark.path(self.benchmark.part(self.split)[position])


class CorruptImages(UserError):
    """Image files that cannot be read or decoded; the message lists all of them, and `lines` is one for each file.

    `uniform` are the files of the images of one colour among the others.
    """

    def __init__(self, lines: list[str], uniform: Sequence[str] = ()):
        self.uniform = list(uniform)
        self.lines = list(dict.fromkeys(lines))  # another view of an image finds the same fault
        super().__init__(
            f"image files that cannot be read or decoded: {len(self.lines)}."
            " Put sound ones in their paths (fetch them again), and the same command goes on:\n"
            + "\n".join(f"  {line}" for line in self.lines)
        )


def plan(
    benchmark: Benchmark,
    split: str,
    view: str,
    positions: list[int],
    paths: FeaturePaths,
    encoder: Encoder,
    decode: str = "pil",
    store_dtype: str = "fp32",
    listing: Listing | None = None,
) -> Plan:
    """What is missing at `paths` of `positions`, for each number of trainable layers of `encoder`.

    `decode` and `store_dtype` are what `--decode` and `--store-dtype` say; final features are stored in float32.
    `listing` lists the images of a custom dataset, whose rows are found by content. Raises UserError when a bank there
    was made by other weights or in another way, or from another list of images.
    """
    banks = {}
    for layers in encoder.image:
        provenance = Provenance(
            names.folder(encoder.name),
            encoder.digest,
            benchmark.digest(split) if listing is None else BY_CONTENT,
            len(benchmark.part(split)) if listing is None else 0,
            precision=encoder.precision,
            layer=layers,
            decode=decode,
            dtype=store_dtype if layers else "fp32",
            upright=benchmark.upright,
            preprocessing=encoder.preprocessing.description,
            depth=benchmark.depth or DEPTH,
        )
        bank = Bank(paths.bank(split, layers, view), listing and listing.split(split))
        bank.expect(provenance)
        banks[layers] = Target(bank.folder, provenance, frozenset(bank.missing(positions)))
    return Plan(benchmark, split, view, frozenset(positions), banks)


def row_bytes(encoder: Encoder, provenance: Provenance) -> int:
    """Bytes that the row of an image takes on disk, with its label and position."""
    size = encoder.image_shapes[provenance.layer].numel() * DTYPES[provenance.dtype].itemsize
    return size + 2 * torch.int64.itemsize


@report_dead_workers(
    "What is complete is kept, and the same command goes on from there, with fewer --num-workers if need be"
)
def extract(
    plans: list[Plan], encoder: Encoder, *, batch_size: int, workers: int, progress: Callable[[int], object]
) -> list[str]:
    """Encode what `plans` list and append it to its banks; `progress` hears the number of images after each batch.

    Returns the files of the images that are of one colour once they are decoded, each once.

    Shards follow each other in ascending order and every batch of a plan is filled up to one size (`_batch_size`), so
    a run that goes on where another was killed passes the very same batches through the network and gives the very
    same features.
    Raises CorruptImages once all files were tried; only the shards with corrupt images are left out. Raises UserError
    when a shard cannot be written, when features are not finite, or a worker was killed.
    """
    chunks = [chunk for plan in plans for chunk in _chunks(plan, encoder, _batch_size(plan, batch_size))]
    if not chunks:
        return []
    rows = [(chunk.plan, position) for chunk in chunks for position in chunk.positions]
    decoding = batches(
        _Images(rows, encoder.preprocessing),
        batch_sampler=(sampler := _batches(chunks)),
        workers=min(workers, len(sampler)),
        pin_memory=torch.device(encoder.device).type == "cuda",
    )
    corrupt: list[str] = []
    uniform: list[str] = []
    writing: Future | None = None
    with ThreadPoolExecutor(1) as writer:  # which an interrupted run leaves only when the shard is written
        for chunk in chunks:
            encoded: list[dict[int, Tensor]] = []
            faults: list[str] = []
            for at in range(0, len(chunk.positions), chunk.batch_size):
                batch = next(decoding)
                uniform += chunk.uniform(at, batch)
                faults += [fault for fault in batch.faults if fault]
                if not faults:
                    encoded.append(_encode(batch.pixels, encoder, chunk.batch_size, chunk.layers))
                progress(len(batch.faults))
            corrupt += faults
            if writing:
                writing.result()
            writing = None if faults else writer.submit(chunk.write, encoded)
        if writing:
            writing.result()
    next(decoding, None)  # past the last batch the workers end; those that wait for the garbage collector hold it up
    uniform = list(dict.fromkeys(uniform))  # in another view too
    if corrupt:
        raise CorruptImages(corrupt, uniform)
    return uniform


@dataclass(frozen=True)
class _Chunk:
    """Images whose features lie in memory together, and then in a shard of each bank that lacks some of them.

    They go through the encoder `batch_size` at a time.
    """

    plan: Plan
    positions: list[int]
    batch_size: int

    @property
    def layers(self) -> list[int]:
        """The numbers of trainable layers whose banks lack some of the images."""
        return [layers for layers, bank in self.plan.banks.items() if not bank.missing.isdisjoint(self.positions)]

    def rows(self, layers: int) -> list[int]:
        """Which of the images a bank lacks, by their places among `positions`."""
        missing = self.plan.banks[layers].missing
        return [row for row, position in enumerate(self.positions) if position in missing]

    def is_there(self) -> bool:
        """Whether another process has made all shards since this one planned."""
        wanted = ((self.plan.banks[k].folder, [self.positions[row] for row in self.rows(k)]) for k in self.layers)
        return all(shard_path(*shard, self._listed(shard[1])).exists() for shard in wanted)

    def _listed(self, positions: list[int]) -> list[str] | None:
        """The content digests that a custom dataset lists; None for a published dataset."""
        contents = self.plan.benchmark.contents(self.plan.split)
        return contents and [contents[position] for position in positions]

    def _require_unchanged(self, impaths: list[str]) -> None:
        """Raise UserError for images of a custom dataset that changed since they were listed."""
        files = self.plan.benchmark.files
        now = file_states(self.plan.benchmark.image_dir, impaths, files)
        if changed := [impath for impath in impaths if now[impath].content != files[impath].content]:
            raise UserError(
                f"{self.plan.benchmark.image_dir}: images changed while their features were made:"
                f" {first(changed, len(changed))}. The same command makes them anew"
            )

    def uniform(self, start: int, batch: Batch) -> list[str]:
        """The files of the images of one colour in the batch that begins at `start` of the positions."""
        decoded = [start + row for row, fault in enumerate(batch.faults) if fault is None]
        rows = [row for row, is_uniform in zip(decoded, batch.uniform, strict=True) if is_uniform]
        return [str(self.plan.path(self.positions[row])) for row in rows]

    def write(self, encoded: list[dict[int, Tensor]]) -> None:
        """Write what was encoded of the images, batch after batch: features [b, ...] by number of trainable layers."""
        benchmark = self.plan.benchmark
        items = benchmark.part(self.plan.split)
        contents = self._listed(self.positions)
        if contents:
            self._require_unchanged([items[position].impath for position in self.positions])
        contents = contents or [content_digest(benchmark.path(items[position])) for position in self.positions]
        for layers in self.layers:
            bank, rows = self.plan.banks[layers], self.rows(layers)
            positions = [self.positions[row] for row in rows]
            features = torch.cat([batch.pop(layers).to("cpu", DTYPES[bank.provenance.dtype]) for batch in encoded])
            if len(rows) < len(features):
                features = features[rows]
            what = f"{self.plan.benchmark.name}, {self.plan.split} images, in {bank.provenance.precision} of"
            check_finite(features, positions, f"{what} {bank.provenance.encoder}, stored as {bank.provenance.dtype}")
            write_shard(
                bank.folder,
                bank.provenance,
                positions,
                torch.tensor([items[position].label for position in positions]),
                features,
                [contents[row] for row in rows],
            )


def _batch_size(plan: Plan, asked: int) -> int:
    """The size that batches of a plan are filled up to: `asked`, or less where that is more than all of its images.

    It follows from the images that are asked for, not from those that are missing, and up to `FILLED` from `asked`
    alone: a run that goes on where another was killed has the same.
    """
    return min(asked, max(FILLED, len(plan.asked)))


def _chunks(plan: Plan, encoder: Encoder, batch_size: int) -> list[_Chunk]:
    """The images of a plan in as many as the largest of their features allow."""
    if not plan.positions:
        return []
    largest = max(row_bytes(encoder, bank.provenance) for bank in plan.banks.values() if bank.missing)
    count = max(1, min(SHARD_IMAGES, SHARD_BYTES // largest) // batch_size) * batch_size
    chunks = [_Chunk(plan, plan.positions[at : at + count], batch_size) for at in range(0, len(plan.positions), count)]
    return [chunk for chunk in chunks if not chunk.is_there()]


class _Images(Dataset):
    """Rendered images by index, uint8 [3, size, size]; a file that cannot be decoded comes as a line about it."""

    def __init__(self, images: list[tuple[Plan, int]], preprocessing: Preprocessing):
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        plan, position = self.images[index]
        path = plan.path(position)
        provenance = next(iter(plan.banks.values())).provenance
        try:
            background = BACKGROUND if provenance.upright else ""
            image = decode_file(path, provenance.decode, provenance.upright, provenance.depth, background)
            return render(image, plan.view, self.preprocessing, plan.seed(position))
        except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError and more on bad bytes
            return f"{path}: {error}"


def _batches(chunks: list[_Chunk]) -> list[list[int]]:
    """Indices of each batch, none of which reaches over the end of a chunk."""
    batches, start = [], 0
    for chunk in chunks:
        indices, size = range(start, start + len(chunk.positions)), chunk.batch_size
        batches += [list(indices[at : at + size]) for at in range(0, len(indices), size)]
        start += len(indices)
    return batches


def _encode(pixels: Tensor, encoder: Encoder, batch_size: int, layers: list[int]) -> dict[int, Tensor]:
    """What is cached of rendered images, uint8 [b, 3, size, size], by number of trainable layers.

    The batch is filled up, as kernels may round otherwise for other sizes.
    """
    # before they are filled up, as a copy of pinned memory is not pinned
    on_device = pixels.to(encoder.device, non_blocking=True)
    filled = torch.cat([on_device, on_device[-1:].expand(batch_size - len(pixels), -1, -1, -1)])
    encoded = encoder.encode_images(normalise(filled, encoder.preprocessing), layers)
    return {k: features[: len(pixels)] for k, (features,) in encoded.items()}
